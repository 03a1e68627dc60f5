"""Files that are either whole or not there, and a folder that one run owns at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellinfer.errors import OutputError


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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(describe(error, path)) from error
    finally:
        partial.unlink(missing_ok=True)


def describe(error: OSError, path: Path) -> str:
    """Say in one sentence why `path` could not be written and what to do."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full: {path} could not be written. Free some space and run the same command again."
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{path} cannot be written (no permission, or read-only): choose another --out."
    return f"{path} could not be written: {error}."


def plain_text(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: such text gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open folders; the rename is durable there once the journal line is
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a result folder while the block runs.

    Raises
    ------
    OutputError
        If another run owns it (names process and host), or it cannot be written. The lock of a process that is no
        longer there is taken over.
    """
    lock = folder / ".lock"
    mine = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                with lock.open("x") as handle:
                    handle.write(mine)
                break
            except FileExistsError:
                _refuse_if_alive(lock, folder)
                lock.unlink(missing_ok=True)
        else:
            raise OutputError(f"Another run has just taken {folder}: wait for it, or choose another --out.")
    except OSError as error:
        raise OutputError(describe(error, folder)) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _refuse_if_alive(lock: Path, folder: Path) -> None:
    try:
        owner = json.loads(lock.read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # torn while being written: its process is gone
    if host != socket.gethostname() or _alive(pid):
        raise OutputError(
            f"{folder} is in use by process {pid} on {host}: wait for it, choose another --out, or, if that process "
            f"is gone, delete {lock}."
        )


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, SystemError):
        return os.name != "nt"  # it exists but is not ours; on Windows any failure means that it does not exist
    return True
