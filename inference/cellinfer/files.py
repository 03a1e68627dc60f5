"""Files that are either whole or not there, and a folder that one run owns at a time."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cellinfer.errors import OutputError

PARTIAL = ".partial"
"""How the names of files end that are not whole yet, or never will be: those of a process that was killed."""
_LOCKED_BYTE = 1 << 20
"""Where Windows locks: beyond the text that says who holds the lock, which others must be able to read."""


@contextmanager
def durable(path: Path) -> Iterator[Path]:
    """Write a file so that it appears whole or not at all.

    Yields a temporary path in the same folder to write to; on leaving without an exception it is flushed to the disk
    and renamed to `path`.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written; names the path.
    """
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
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(_describe(error, path)) from error


def _describe(error: OSError, path: Path) -> str:
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
def owned(folder: Path) -> Iterator[None]:
    """Own a result folder while the block runs.

    The lock is the operating system's, on the file `.lock`, so it ends with the process that holds it, however that
    ends. The file says who holds it, for the error and for hosts that do not see each other's locks.

    Raises
    ------
    OutputError
        If another run owns the folder (names process and host), or it cannot be written.
    """
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
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another run"
        raise OutputError(
            f"{folder} is in use by {who}: wait for it, choose another --out, or, if that process is gone, delete "
            f"{folder / '.lock'}."
        )
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
    try:
        content = json.loads(os.read(handle, 4096))
        return {"pid": str(int(content["pid"])), "host": str(content["host"])}
    except (ValueError, KeyError, TypeError):
        return None  # empty after an orderly end, or torn
