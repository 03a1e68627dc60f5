"""What a run has done: one checksummed line per field, appended after the field's results are on disk.

A store cannot append to a file. There the journal is kept in memory and written whole every few seconds and at the end:
a run that is killed between does the last few seconds' fields again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cellinfer.errors import OutputError
from cellinfer.files import output_errors
from cellinfer.images import files_of
from cellinfer.plate import Field
from cellinfer.storage import AnyPath, RemotePath, Version, is_remote, open_file, read, versions, write

UPLOAD_EVERY, UPLOAD_SHARE = 10.0, 0.05
"""Seconds between uploads of a journal in a store; more, if that would be more than this share of the time."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One field that was tried.

    Attributes
    ----------
    field
        The field's key, joined.
    fingerprint
        Of its pixels, the model and the settings.
    status
        `"ok"` or `"failed"`.
    reason
        Why it failed; empty if it did not.
    digest
        SHA-256 of the field's results file; empty if it failed.
    seconds
        Wall time by stage.
    retryable
        True if it failed for a reason that may pass (a share away, memory short): the next run tries it again.
    """

    field: str
    fingerprint: str
    status: str
    reason: str
    digest: str
    seconds: dict[str, float]
    retryable: bool = False


class Journal:
    """The journal of one result folder.

    A torn or altered line is ignored: its field is done again. One in a store is whole there once the block is left
    that it is entered for.

    Parameters
    ----------
    path
        Of the journal; it need not be there.

    Raises
    ------
    OutputError
        If it cannot be read.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._content = b""  # of one in a store
        self._pending, self._due = False, 0.0
        self.entries: dict[str, Entry] = {}
        self.header: dict[str, Any] = {}
        for kind, content in self._lines():
            if kind == "run":
                self.header = content
            else:
                known = {field.name for field in fields(Entry)}  # a later version may note more
                entry = Entry(**{key: value for key, value in content.items() if key in known})
                self.entries[entry.field] = entry

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.settle()
        else:
            with suppress(OutputError):  # what went wrong before matters more
                self.settle()

    def begin(self, header: dict[str, Any]) -> None:
        """Note the configuration that the following entries belong to."""
        self.header = header
        self._append("run", header)

    def add(self, entry: Entry) -> None:
        """Note that a field was tried."""
        self.entries[entry.field] = entry
        self._append("field", asdict(entry))

    def _append(self, kind: str, content: dict[str, Any]) -> None:
        text = json.dumps([kind, content], sort_keys=True)
        line = f"\n{_checksum(text)} {text}\n"  # the leading newline ends a torn line of a killed run
        if isinstance(self.path, RemotePath):
            self._content += line.encode()
            self._pending = True
            if time.monotonic() >= self._due:
                self.settle()
            return
        with output_errors(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(line)
            handle.flush()
            os.fsync(handle.fileno())

    def settle(self) -> None:
        """Have a store hold all that was noted.

        Raises
        ------
        OutputError
            If it does not take it.
        """
        if not self._pending:
            return
        assert isinstance(self.path, RemotePath)
        started = time.monotonic()
        with output_errors(self.path):
            write(self.path, self._content)
        self._pending = False
        self._due = time.monotonic() + max(UPLOAD_EVERY, (time.monotonic() - started) / UPLOAD_SHARE)

    def _stored(self) -> str:
        if isinstance(self.path, RemotePath):
            try:
                self._content = read(self.path.url)
            except FileNotFoundError:
                self._content = b""
            except OSError as error:
                raise OutputError(f"{self.path} could not be read: {error.strerror}.") from error
            return self._content.decode("utf-8", errors="replace")
        return self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for line in self._stored().splitlines():
            checksum, _, text = line.partition(" ")
            if text and checksum == _checksum(text):
                kind, content = json.loads(text)
                yield kind, content


def fingerprint(field: Field, configuration: str, known: Mapping[str, Version] | None = None) -> str:
    """Return a digest of a field's files and the configuration that analyses them.

    Files count by name, size and their first, middle and last 64 KiB, never by time: clocks lie, and copying a plate
    must not undo its results. A file that cannot be read counts as such. In a store that tells a checksum, files count
    by name, size and that.

    Parameters
    ----------
    field, configuration
        What is analysed, and how.
    known
        URL -> size and checksum, of files that need not be asked for.
    """
    files = {ref: files_of(ref) for refs in field.images.values() for ref in refs}
    known = known or {}
    asked = versions(path for paths in files.values() for path in paths if is_remote(path) and path not in known)
    digest = hashlib.sha256(configuration.encode())
    digest.update(json.dumps(list(field.key)).encode())
    for channel, refs in sorted(field.images.items()):
        digest.update(channel.encode())
        for ref in refs:
            digest.update(repr((Path(ref.path).name, ref.index)).encode())
            for file in files[ref]:
                digest.update(_glance(file, known.get(file) or asked.get(file)))
    return digest.hexdigest()


def field_name(field: Field) -> str:
    """Return the field's key as one word that is safe in file names."""
    key = field.key
    return f"{safe_name(key.plate)}_{key.well}_s{key.site}_t{key.time}"


def safe_name(plate: str) -> str:
    """Return a plate's name as one word that is safe in file names."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in plate)
    if safe != plate:  # two plates must not share a name because of what was replaced
        safe += hashlib.sha256(plate.encode()).hexdigest()[:6]
    return safe


def _glance(path: str, found: Version | OSError | None) -> bytes:
    digest = hashlib.sha256()
    try:
        if isinstance(found, OSError):
            raise found
        if found is not None and found.checksum:
            digest.update(f"{found.size} {found.checksum}".encode())
            return digest.digest()
        with open_file(path, parts=True) as handle:
            size = handle.seek(0, os.SEEK_END)
            digest.update(str(size).encode())
            for start in sorted({0, max(0, size // 2 - _CHUNK // 2), max(0, size - _CHUNK)}):
                handle.seek(start)
                digest.update(handle.read(_CHUNK))
    except OSError as error:
        digest.update(type(error).__name__.encode())
    return digest.digest()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
