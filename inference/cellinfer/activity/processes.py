"""Structures read in processes of their own: RDKit does it in Python's turn, so that threads would not help.

A process is started as `python -m cellinfer.activity._child` and spoken to over its standard streams
(`cellinfer.streams`): nothing is forked, and the user's own script is not imported again. It is sent some SMILES with
what is `Wanted` of them, and answers with their `Digest`, until its input ends.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import cellinfer
from cellinfer.activity.digests import Digest, Wanted, digest, joined
from cellinfer.errors import EngineError
from cellinfer.streams import receive, send

__all__ = ["WORTHWHILE", "Readers"]

WORTHWHILE = 1_000
"""Structures from which on processes are started: each takes a quarter of a second to be ready."""
_CHUNK = 100


class Readers:
    """Processes that make structures standard and read them; they start when there is enough to do.

    Parameters
    ----------
    processes
        1: none but this one.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._children: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Return itself; processes end with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes; what they have not begun is left."""
        if kind is not None:
            for child in self._children:
                child.kill()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        for child in self._children:
            with suppress(OSError):  # what it did not take
                if child.stdin is not None:
                    child.stdin.close()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self._children.clear()

    def begin(self, smiles: Sequence[str], wanted: Wanted) -> Callable[[], Digest]:
        """Begin to read structures; see `cellinfer.activity.digests.digest`.

        Returns
        -------
        callable
            Waits for the digest. It raises `EngineError` if a process ended before its time. Where there is no
            process, it is the call that reads.
        """
        if self.processes < 2 or (len(smiles) < WORTHWHILE and self._pool is None):
            return lambda: digest(smiles, wanted)
        pool = self._started()
        chunks = [smiles[start : start + _CHUNK] for start in range(0, len(smiles), _CHUNK)]
        answers = [pool.submit(self._ask, chunk, wanted) for chunk in chunks]
        return lambda: joined([answer.result() for answer in answers], wanted)

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            for _ in range(self.processes):
                child = _started_child()
                self._children.append(child)
                self._free.put(child)
            self._pool = ThreadPoolExecutor(self.processes)
        return self._pool

    def _ask(self, smiles: Sequence[str], wanted: Wanted) -> Digest:
        child = self._free.get()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(OSError):  # a process that is gone does not answer
                send(child.stdin, (smiles, wanted))
            found: Digest = receive(child.stdout)
        except EOFError:
            raise EngineError(
                f"A process that reads structures ended with code {child.wait()}: is there enough memory? "
                "--threads 1 does without such processes."
            ) from None
        finally:
            self._free.put(child)
        return found


def _started_child() -> subprocess.Popen[bytes]:
    source = str(Path(cellinfer.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "cellinfer.activity._child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the process that asks, which ends the others
    )
