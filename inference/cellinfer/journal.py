"""What a run has done: one checksummed line per field, appended after the field's results are on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellinfer.files import output_errors
from cellinfer.images import files_of
from cellinfer.plate import Field

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

    A torn or altered line is ignored: its field is done again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.header: dict[str, Any] = {}
        for kind, content in self._lines():
            if kind == "run":
                self.header = content
            else:
                entry = Entry(**content)
                self.entries[entry.field] = entry

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
        with output_errors(self.path), self.path.open("a", encoding="utf-8") as handle:
            # The leading newline ends a torn line of a killed run.
            handle.write(f"\n{_checksum(text)} {text}\n")
            handle.flush()
            os.fsync(handle.fileno())

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            checksum, _, text = line.partition(" ")
            if text and checksum == _checksum(text):
                kind, content = json.loads(text)
                yield kind, content


def fingerprint(field: Field, configuration: str) -> str:
    """Return a digest of a field's files and the configuration that analyses them.

    Files count by name, size and their first, middle and last 64 KiB, never by time: clocks lie, and copying a plate
    must not undo its results. A file that cannot be read counts as such.
    """
    digest = hashlib.sha256(configuration.encode())
    digest.update(json.dumps(list(field.key)).encode())
    for channel, refs in sorted(field.images.items()):
        digest.update(channel.encode())
        for ref in refs:
            digest.update(repr((Path(ref.path).name, ref.index)).encode())
            for file in files_of(ref):
                digest.update(_glance(Path(file)))
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


def _glance(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
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
