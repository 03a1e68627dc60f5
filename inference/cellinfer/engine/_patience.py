"""Bounded retry with back-off for storage that comes and goes."""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cellinfer.storage import AnyPath

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries."""
_FINAL = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_GIVEN_UP = 3


def within(seconds: float, work: Callable[[], _T], otherwise: _T) -> _T:
    """Return what `work` returns, or `otherwise` if that takes too long: storage may hang for ever."""
    done: queue.SimpleQueue[_T] = queue.SimpleQueue()
    threading.Thread(target=lambda: done.put(work()), daemon=True).start()
    try:
        return done.get(timeout=seconds)
    except queue.Empty:
        return otherwise


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
