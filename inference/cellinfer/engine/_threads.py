"""Fields on the threads of this process: some read, some analyse, some write."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cellinfer.engine._job import Loaded, Outcome, Worker, peak_bytes
from cellinfer.engine._memory import Room
from cellinfer.engine._plan import Plan
from cellinfer.errors import CellinferError
from cellinfer.journal import Entry, field_name
from cellinfer.patience import longest_read, stalled
from cellinfer.plate import Field


@dataclass(frozen=True)
class Lost:
    """Fields that were in work in a process that is no more; any of them may have ended it.

    `kills` is how many processes have ended so, in all likelihood, since the fields were submitted.
    """

    fields: tuple[Field, ...]
    kills: int = 1


class Executor(Protocol):
    """Where fields are done."""

    @property
    def capacity(self) -> int:
        """How many fields it should have at a time."""

    def submit(self, field: Field) -> None:
        """Take a field; does not wait for it."""

    def finished(self, timeout: float) -> Outcome | Lost | None:
        """Return what became of some field, None if nothing does within `timeout` seconds.

        Raises
        ------
        CellinferError
            If nothing can be done any more: results cannot be written, the model does not run.
        """

    def stop(self) -> Iterator[Outcome]:
        """Drop the fields that wait, finish those in work, and give what became of these, one by one."""

    def close(self) -> None:
        """Let everything go without waiting."""


@dataclass
class _Task:
    """A field on its way."""

    field: Field
    need: int = 0
    since: float = 0.0
    dropped: bool = False
    loaded: Loaded | None = None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Threads:
    """Fields on the threads of this process.

    Parameters
    ----------
    worker
        What is done.
    plan
        How many threads do it, and in how much memory.
    """

    def __init__(self, worker: Worker, plan: Plan) -> None:
        self.capacity = plan.in_work
        self._worker = worker
        self._room = Room(plan.memory)
        self._stopping = threading.Event()
        self._to_read: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._to_analyse: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[_Task, Outcome | BaseException | None]] = queue.SimpleQueue()
        self._in_work: dict[int, _Task] = {}
        self._crew = ((plan.readers, self._reading), (plan.analysts, self._analysing), (plan.writers, self._writing))
        for count, stage in self._crew:
            for _ in range(count):
                self._start(stage)

    def _start(self, stage: Callable[[], None]) -> None:
        # Not kept alive by a read that never returns.
        threading.Thread(target=stage, daemon=True, name=stage.__name__.strip("_")).start()

    def submit(self, field: Field) -> None:
        """See `Executor`."""
        task = _Task(field)
        self._in_work[id(task)] = task
        self._to_read.put(task)

    def finished(self, timeout: float) -> Outcome | Lost | None:
        """See `Executor`."""
        self._give_up_stalled()
        try:
            task, what = self._finished.get(timeout=timeout)
        except queue.Empty:
            return None
        if self._in_work.pop(id(task), None) is None:
            return None  # given up before
        if isinstance(what, BaseException):
            raise what
        return what

    def stop(self) -> Iterator[Outcome]:
        """See `Executor`."""
        self._stopping.set()
        while self._in_work:
            try:
                outcome = self.finished(timeout=0.5)
            except CellinferError:
                continue  # the error that stopped the run is the one to be told
            if isinstance(outcome, Outcome):
                yield outcome

    def close(self) -> None:
        """See `Executor`."""
        self._stopping.set()
        for (count, _), inbox in zip(self._crew, (self._to_read, self._to_analyse, self._to_write), strict=True):
            for _ in range(count):
                inbox.put(None)

    def _give_up_stalled(self) -> None:
        """Note fields whose reading does not end; the thread that reads is left behind and another takes its place."""
        now = time.monotonic()
        for task in list(self._in_work.values()):
            with task.lock:
                if not task.since or now - task.since <= longest_read(task.field):
                    continue
                task.dropped, task.since = True, 0.0
            self._room.give_back(task.need)
            self._start(self._reading)
            entry = Entry(field_name(task.field), "", "failed", stalled(task.field), "", {}, retryable=True)
            self._finished.put((task, Outcome(entry)))

    def _reading(self) -> None:
        while (task := self._to_read.get()) is not None:
            if self._stopping.is_set():
                self._end(task, None)
                continue
            what: Loaded | Outcome | BaseException | None
            try:
                what = self._read(task)
            except BaseException as error:
                what = error
            if task.dropped:
                return  # another thread has this one's place
            if isinstance(what, Loaded):
                task.loaded = what
                self._to_analyse.put(task)
            else:
                self._end(task, what)

    def _read(self, task: _Task) -> Loaded | Outcome | None:
        """Wait for room, then read; from when on, is noted. None if it was given up meanwhile."""
        task.since = time.monotonic()
        need = peak_bytes(task.field, self._worker.pipeline)
        with task.lock:
            task.since = 0.0
        if need > self._room.size:
            return self._worker.failed(task.field, "", self._room.refusal(need))
        if task.dropped:
            return None
        self._room.take(need)
        with task.lock:
            task.need, task.since = need, time.monotonic()
        what = self._worker.read(task.field)
        with task.lock:
            task.since = 0.0
        return what

    def _analysing(self) -> None:
        while (task := self._to_analyse.get()) is not None:
            if self._stopping.is_set():
                self._end(task, None)
                continue
            try:
                assert task.loaded is not None
                what = self._worker.analyse(task.loaded)
            except BaseException as error:
                self._end(task, error)
                continue
            if isinstance(what, Loaded):
                task.loaded = what
                self._to_write.put(task)
            else:
                self._end(task, what)

    def _writing(self) -> None:
        while (task := self._to_write.get()) is not None:
            try:
                assert task.loaded is not None
                what: Outcome | BaseException = self._worker.write(task.loaded)
            except BaseException as error:
                what = error
            self._end(task, what)

    def _end(self, task: _Task, what: Outcome | BaseException | None) -> None:
        """Hand over what became of a field and let its memory go."""
        task.loaded = None
        with task.lock:
            if task.dropped:
                return
        self._room.give_back(task.need)
        self._finished.put((task, what))
