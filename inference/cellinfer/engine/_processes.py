"""Fields in processes of their own, each of which works as this one would alone.

A process is started as `python -m cellinfer.engine._child` and spoken to over its standard streams: nothing is forked,
and the user's own script is not imported again. A process that dies takes nothing along but the fields it had in
work; another is started in its place.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cellinfer.engine._job import Job, Outcome
from cellinfer.engine._plan import Plan
from cellinfer.engine._threads import Lost
from cellinfer.errors import EngineError
from cellinfer.journal import field_name
from cellinfer.plate import Field
from cellinfer.streams import receive, send

_STILLBORN = 3
"""Processes in a row that may die before they take a field."""


class Ready:
    """Sent by a process once its model is open."""


class Stop:
    """Sent to a process that shall finish what it has in work and end."""


@dataclass
class _Child:
    """A process, and the fields it has in work."""

    process: subprocess.Popen[bytes]
    fields: dict[str, Field] = field(default_factory=dict)
    ready: bool = False
    listener: threading.Thread | None = None

    def end(self) -> int:
        """Wait for a process that ends, let its streams go, and return its exit code."""
        code = self.process.wait()
        if self.listener is not None:
            self.listener.join()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # it could not be flushed
                if stream is not None:
                    stream.close()
        return code


class Processes:
    """Fields in several processes; see `cellinfer.engine._threads.Executor`.

    Parameters
    ----------
    job
        What is done.
    plan
        How many processes, and how each does it.
    """

    def __init__(self, job: Job, plan: Plan) -> None:
        self.capacity = plan.workers * plan.in_work
        self._job, self._plan = job, plan
        self._inbox: queue.SimpleQueue[tuple[_Child, Any]] = queue.SimpleQueue()
        self._children: list[_Child] = []
        self._queued: list[Field] = []
        self._stillborn = 0
        for _ in range(plan.workers):
            self._spawn()

    def submit(self, field: Field) -> None:
        """See `Executor`."""
        self._queued.append(field)
        self._hand_out()

    def finished(self, timeout: float) -> Outcome | Lost | None:
        """See `Executor`."""
        try:
            child, message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(message, Ready):
            child.ready, self._stillborn = True, 0
            self._hand_out()
        elif isinstance(message, Outcome):
            child.fields.pop(message.entry.field, None)
            self._hand_out()
            return message
        elif isinstance(message, EOFError):
            return self._died(child)
        elif isinstance(message, BaseException):
            raise message
        return None

    def stop(self) -> Iterator[Outcome]:
        """See `Executor`."""
        self._queued.clear()
        waiting = [child for child in self._children if child.fields]
        for child in self._children:
            self._send(child, Stop())
        while any(child in self._children for child in waiting):
            try:
                child, message = self._inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(message, Outcome):
                yield message
            elif isinstance(message, EOFError) and child in self._children:
                child.end()
                self._children.remove(child)

    def close(self) -> None:
        """See `Executor`."""
        for child in self._children:
            child.process.kill()
            child.end()
        self._children.clear()

    def _spawn(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        process = subprocess.Popen(
            # Without -P modules of the folder that the user happens to be in would come before Python's own.
            [sys.executable, "-P", "-m", "cellinfer.engine._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C goes to this process alone, which tells the others.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        child = _Child(process)
        self._children.append(child)
        self._send(child, (self._job, self._plan))
        child.listener = threading.Thread(target=self._listen, args=(child,), daemon=True, name="listen")
        child.listener.start()

    def _listen(self, child: _Child) -> None:
        assert child.process.stdout is not None
        try:
            while True:
                self._inbox.put((child, receive(child.process.stdout)))
        except Exception:  # the stream has ended, or what came over it makes no sense
            self._inbox.put((child, EOFError()))

    def _send(self, child: _Child, message: Any) -> None:
        assert child.process.stdin is not None
        with suppress(OSError):  # it is gone: its listener says so
            send(child.process.stdin, message)

    def _hand_out(self) -> None:
        """Give queued fields to the processes that have the fewest."""
        while self._queued:
            free = [c for c in self._children if c.ready and len(c.fields) < self._plan.in_work]
            if not free:
                return
            child = min(free, key=lambda c: len(c.fields))
            field = self._queued.pop(0)
            child.fields[field_name(field)] = field
            self._send(child, field)

    def _died(self, child: _Child) -> Lost | None:
        code = child.end()
        self._children.remove(child)
        if not child.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN and self._children:
                return None  # the others go on
            if self._stillborn >= _STILLBORN:
                raise EngineError(
                    f"Worker processes end before their first field (exit code {code}), most often for lack of memory: "
                    "take fewer, --workers 1."
                )
        self._spawn()
        return Lost(tuple(child.fields.values())) if child.fields else None
