"""Hand out fields, note what became of them, and try again those whose failure may pass."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cellinfer.engine._job import Outcome, stamps
from cellinfer.engine._threads import Executor, Lost
from cellinfer.journal import Entry, field_name, fingerprint
from cellinfer.plate import Field

_log = logging.getLogger(__name__)
SETTLE = 2.0
"""Seconds in which a file that is still being written is expected to change."""
_LONGEST_PAUSE = 30.0
_TRIES = 8
_KILLS = 3
"""Worker processes that one field may end."""
Note = Callable[[Outcome], None]


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Note the first Ctrl-C instead of breaking off wherever the main thread happens to be; the second one does."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody else's business
        yield interrupted
        return

    def note(number: int, frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Unready:
    """A field whose files could not be read and may change yet."""

    field: Field
    outcome: Outcome
    tries: int
    due: float


class Dispatcher:
    """Runs fields on an executor until each has been noted once.

    A field whose files cannot be read waits until the others are done: if its files have changed by then it is tried
    again, so that images still being written are not judged. A field for which memory was short, or with which a
    worker process ended, is tried again while no other is in work: so it is known whether it was to blame.

    Parameters
    ----------
    executor
        Where fields are done.
    configuration
        See `Job.configuration`.
    note
        Called once for each field with what became of it, in the order in which they end.
    """

    def __init__(self, executor: Executor, configuration: str, note: Note) -> None:
        self._executor, self._configuration, self._note = executor, configuration, note
        self._running: dict[str, Field] = {}
        self._unready: list[_Unready] = []
        self._tries: Counter[str] = Counter()
        self._kills: Counter[str] = Counter()
        self._alone: deque[Field] = deque()
        self._was_alone: set[str] = set()

    def run(self, fields: Iterable[Field]) -> None:
        """Do all fields.

        Raises
        ------
        KeyboardInterrupt
            After the fields in work have been finished and noted; a second interrupt leaves at once.
        CellinferError
            If nothing can be done any more.
        """
        waiting = iter(fields)
        try:
            with _interrupts() as interrupted:
                while self._feed(waiting):
                    what = self._executor.finished(timeout=0.5)
                    if isinstance(what, Lost):
                        self._lost(what)
                    elif what is not None:
                        self._ended(what)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
        except BaseException:
            for outcome in self._executor.stop():
                self._note(outcome)
            raise
        finally:
            self._executor.close()

    def _feed(self, waiting: Iterator[Field]) -> bool:
        """Hand out what may be handed out; False when nothing is left to wait for."""
        while len(self._running) < self._executor.capacity and (field := next(waiting, None)) is not None:
            self._submit(field)
        if self._running:
            return True
        if self._alone:
            self._submit(self._alone.popleft())
            return True
        return self._look_again()

    def _submit(self, field: Field) -> None:
        self._running[field_name(field)] = field
        self._executor.submit(field)

    def _look_again(self) -> bool:
        """Try again the fields whose files have changed; note the others as failed. False if there are none."""
        if not self._unready:
            return False
        time.sleep(max(0.0, min(min(entry.due for entry in self._unready) - time.monotonic(), 0.5)))
        now = time.monotonic()
        due = [entry for entry in self._unready if entry.due <= now][: self._executor.capacity]
        self._unready = [entry for entry in self._unready if entry not in due]
        for entry in due:
            if stamps(entry.field) == entry.outcome.stamps:
                self._note(entry.outcome)
            elif entry.tries >= _TRIES:
                reason = f"not ready, its files keep changing: {entry.outcome.entry.reason}"
                self._note(replace(entry.outcome, entry=replace(entry.outcome.entry, reason=reason, retryable=True)))
            else:
                self._submit(entry.field)
        return True

    def _ended(self, outcome: Outcome) -> None:
        name = outcome.entry.field
        field = self._running.pop(name)
        if outcome.again == "alone" and name not in self._was_alone and (self._running or self._alone):
            _log.warning("field %s: %s; trying again while no other field is in work", name, outcome.entry.reason)
            self._was_alone.add(name)
            self._alone.append(field)
        elif outcome.again == "settle":
            self._tries[name] += 1
            pause = min(SETTLE * 2 ** (self._tries[name] - 1), _LONGEST_PAUSE)
            self._unready.append(_Unready(field, outcome, self._tries[name], time.monotonic() + pause))
        else:
            self._note(outcome)

    def _lost(self, lost: Lost) -> None:
        """Try fields of a lost process again, alone, up to a number of times."""
        for field in lost.fields:
            name = field_name(field)
            self._running.pop(name, None)
            self._kills[name] += lost.kills
            if self._kills[name] < _KILLS:
                _log.warning("a worker process ended with field %s in work: trying again", name)
                self._alone.append(field)
                continue
            reason = f"{_KILLS} worker processes ended while they analysed it (most often memory: see --memory)"
            print_ = fingerprint(field, self._configuration)
            self._note(Outcome(Entry(name, print_, "failed", reason, "", {}, retryable=False)))
