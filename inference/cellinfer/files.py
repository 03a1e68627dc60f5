"""Files that are either whole or not there, and a folder that one run owns at a time."""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from cellinfer.errors import OutputError
from cellinfer.storage import AnyPath, RemotePath, read, upload, uploading, write

PARTIAL = ".partial"
"""How the names of files end that are not whole yet, or never will be: those of a process that was killed."""
_LOCKED_BYTE = 1 << 20
"""Where Windows locks: beyond the text that says who holds the lock, which others must be able to read."""


@contextmanager
def durable(path: AnyPath) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Yields a temporary path in the same folder to write to; on leaving without an exception it is flushed to the disk
    and renamed to `path`. For a file in a store, the temporary one is on the disk, and uploaded.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written; names the path.
    """
    if isinstance(path, RemotePath):
        with output_errors(path), uploading(path) as local:
            yield local
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    with output_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def staged(folder: AnyPath, last: str) -> Iterator[Path]:
    """Give a folder on the disk for files of a result folder: itself, or one whose files are uploaded into a store.

    They are uploaded on leaving without an exception.

    Parameters
    ----------
    folder
        Result folder.
    last
        Name of the file that is uploaded after all others: where it is, they all are.

    Raises
    ------
    OutputError
        If a file cannot be uploaded.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with output_errors(folder):
        place = tempfile.TemporaryDirectory(prefix="cellinfer-")
    with place as name:
        yield Path(name)
        with output_errors(folder):
            for path in sorted(Path(name).iterdir(), key=lambda path: (path.name == last, path)):
                upload(path, folder / path.name)


@contextmanager
def output_errors(path: AnyPath) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(_describe(error, path)) from error


def _describe(error: OSError, path: AnyPath) -> str:
    if isinstance(path, RemotePath):
        if error.errno != errno.ENOSPC:
            return f"{path} could not be written: {error.strerror or error}."
        path = Path(tempfile.gettempdir()) / path.name  # what is uploaded is written to the disk first
    if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
        return (
            f"The disk is full: {path} could not be written ({_free(path)} free). Free some space and run the same "
            "command again."
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{path} cannot be written (no permission, or read-only): choose another --out."
    return f"{path} could not be written: {error}."


def _free(path: Path) -> str:
    with suppress(OSError):
        return f"{shutil.disk_usage(path.parent).free:,} bytes"
    return "an unknown number of bytes"


def plain_text(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: such text gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def json_ready(value: Any) -> Any:
    """Make JSON of it: NumPy numbers become Python's, paths text, figures that are not finite None."""
    if isinstance(value, Mapping):
        return {key: json_ready(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open folders
    with suppress(OSError):  # some network file systems do not know this; the file itself is safe
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def owned(folder: AnyPath) -> Iterator[None]:
    """Own a result folder while the block runs.

    The lock is the operating system's, on the file `.lock`, so it ends with the process that holds it, however that
    ends. The file says who holds it, for the error and for hosts that do not see each other's locks. In a store there
    is but the file: one left behind by a process of this host that is gone is taken over, one of another host is not.

    Raises
    ------
    OutputError
        If another run owns the folder (names process and host), or it cannot be written.
    """
    if isinstance(folder, RemotePath):
        with _owned_in_store(folder):
            yield
        return
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, folder)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    free = _lock(handle)
    owner = _owner(handle)
    if not free or (owner is not None and owner["host"] != socket.gethostname()):
        raise _in_use(folder, owner)
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _lock(handle: int) -> bool:
    """Lock an open file for this process; False if somebody else has it. True where locks are not supported."""
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _owner(handle: int) -> dict[str, str] | None:
    os.lseek(handle, 0, os.SEEK_SET)
    return _parse_owner(os.read(handle, 4096))


def _parse_owner(content: bytes) -> dict[str, str] | None:
    try:
        said = json.loads(content)
        return {"pid": str(int(said["pid"])), "host": str(said["host"]), "since": str(said.get("since", ""))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # empty after an orderly end, or torn


def _in_use(folder: AnyPath, owner: dict[str, str] | None) -> OutputError:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another run"
    since = f" since {owner['since']}" if owner and owner["since"] else ""
    return OutputError(
        f"{folder} is in use by {who}{since}: wait for it, choose another --out, or, if that process is gone, delete "
        f"{folder / '.lock'}."
    )


_locked: set[str] = set()
"""Result folders in stores that this process owns."""


@contextmanager
def _owned_in_store(folder: RemotePath) -> Iterator[None]:
    lock = folder / ".lock"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "token": secrets.token_hex(8)}
    content = json.dumps(mine).encode()
    with output_errors(folder):
        before = _content(lock)
        if before is not None and _is_alive(_parse_owner(before), folder):
            raise _in_use(folder, _parse_owner(before))
        with suppress(FileExistsError):  # or it is ours, and the client asked again after an answer that was lost
            write(lock, content, new=before is None)
        found = _content(lock)
        if found != content:  # somebody was faster; of two at once, in a store that cannot tell, the later one has it
            raise _in_use(folder, _parse_owner(found or b""))
    _locked.add(folder.url)
    try:
        yield
    finally:
        _locked.discard(folder.url)
        with suppress(OSError):  # it says whose it was, and is taken over
            lock.unlink(missing_ok=True)


def _content(lock: RemotePath) -> bytes | None:
    try:
        return read(lock.url)
    except FileNotFoundError:
        return None


def _is_alive(owner: dict[str, str] | None, folder: RemotePath) -> bool:
    """Tell whether a lock's owner may still be at work; nobody owns a lock that is torn."""
    if owner is None:
        return False
    if owner["host"] != socket.gethostname():
        return True
    if int(owner["pid"]) == os.getpid():
        return folder.url in _locked  # else one before us had the same number, as in a container that was restarted
    if os.name == "nt":
        return True  # Windows has no harmless way to ask
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
