"""Storage that comes and goes, or hangs: bounded retry with back-off, and reading that is given up."""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

from cellinfer.plate import Field
from cellinfer.storage import AnyPath

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries."""
_FINAL = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_GIVEN_UP = 3
STALL = 180.0
STALL_PER_PLANE = 10.0
"""Seconds after which reading one field is given up, and more for each of its planes: a share may hang for ever."""
_PARTING = 1.0
"""Seconds in which reading that is no longer wanted may end."""


def longest_read(field: Field) -> float:
    """Return the seconds after which reading a field is given up."""
    return STALL + STALL_PER_PLANE * sum(map(len, field.images.values()))


def stalled(field: Field) -> str:
    """Return why a field is given up whose reading does not end."""
    return f"reading did not end within {longest_read(field):g} s: is the storage there?"


def within(seconds: float, work: Callable[[], _T], otherwise: _T) -> _T:
    """Return what `work` returns, or `otherwise` if that takes too long: storage may hang for ever."""
    done: queue.SimpleQueue[_T] = queue.SimpleQueue()
    threading.Thread(target=lambda: done.put(work()), daemon=True).start()
    try:
        return done.get(timeout=seconds)
    except queue.Empty:
        return otherwise


def read_ahead(
    read: Callable[[Field], _T], fields: Iterable[Field], count: int, given_up: Callable[[Field], _T]
) -> Generator[_T, None, None]:
    """Yield what `read` returns for each field, in order, while up to `count` are being read.

    Parameters
    ----------
    read
        Called from threads. What it raises is raised here.
    fields, count
        The fields, and how many are read at a time.
    given_up
        Returns what is yielded for a field whose reading does not end; the thread that reads it is left behind.
    """
    reading: deque[tuple[Field, float, Future[_T]]] = deque()

    def oldest() -> _T:
        field, since, future = reading[0]
        wait([future], max(0.0, since + longest_read(field) - time.monotonic()))
        reading.popleft()
        return future.result() if future.done() else given_up(field)

    try:
        for field in fields:
            ready = [oldest()] if len(reading) >= count else []
            reading.append((field, time.monotonic(), _begun(read, field)))
            yield from ready
        while reading:
            yield oldest()
    finally:  # interrupted: threads that decode while the interpreter ends may crash it
        wait([future for _, _, future in reading], _PARTING)


def _begun(read: Callable[[Field], _T], field: Field) -> Future[_T]:
    """Start reading on a thread that a read that never returns does not keep alive."""
    future: Future[_T] = Future()

    def work() -> None:
        try:
            future.set_result(read(field))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class Patience:
    """Tries again what failed for a reason of the system's that may pass, such as a network share that went away.

    Once a few calls in a row have used up all their tries, later ones get one only, until one succeeds: a share that
    is gone for good must not cost a plate of 10,000 fields the same wait each.

    Parameters
    ----------
    root
        Folder without which no file is missed: while it is away, so are they all.
    """

    def __init__(self, root: AnyPath) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._given_up = 0

    def call(self, work: Callable[[], _T], sleep: Callable[[float], None] = time.sleep) -> _T:
        """Return what `work` returns.

        Raises
        ------
        Exception
            What `work` raises: at once if it is not caused by an `OSError` that may pass.
        """
        for pause in PAUSES if self._given_up < _GIVEN_UP else ():
            try:
                return self._succeeded(work())
            except Exception as error:
                if not self._may_pass(error):
                    raise
                _log.warning("%s: trying again in %g s", error, pause)
            sleep(pause)
        try:
            return self._succeeded(work())
        except Exception as error:
            if self._may_pass(error):
                with self._lock:
                    self._given_up += 1
            raise

    def _succeeded(self, value: _T) -> _T:
        if self._given_up:
            with self._lock:
                self._given_up = 0
        return value

    def _may_pass(self, error: BaseException) -> bool:
        """Tell whether an error comes from the system and may be gone at the next try."""
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno is None:
            return False
        return cause.errno not in _FINAL or (cause.errno == errno.ENOENT and not self._root.exists())
