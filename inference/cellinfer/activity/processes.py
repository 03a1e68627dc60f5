"""Structures standardised in processes of their own: RDKit does it in Python's turn, so that threads would not help.

A process is started as `python -m cellinfer.activity._child` and spoken to over its standard streams: nothing is
forked, and the user's own script is not imported again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd

import cellinfer
from cellinfer.activity.chemistry import DEFAULT, Standardisation
from cellinfer.activity.molecules import standardise
from cellinfer.errors import EngineError

__all__ = ["WORTHWHILE", "Standardiser"]

WORTHWHILE = 1_000
"""Structures from which on processes are started: each needs a second to be ready."""
_CHUNK = 100


class Standardiser:
    """Standardises structures, in as many processes as it is told; they start when there is enough to do.

    Parameters
    ----------
    processes
        1: in this one.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._children: list[subprocess.Popen[str]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Return itself; processes end with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        for child in self._children:
            if kind is not None:
                child.kill()
            with suppress(OSError):  # what it did not take
                if child.stdin is not None:
                    child.stdin.close()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self._children.clear()

    def standardise(self, smiles: Sequence[str], how: Standardisation = DEFAULT) -> pd.DataFrame:
        """Standardise structures; see `cellinfer.activity.molecules.standardise`.

        Raises
        ------
        EngineError
            If a process ends before its time.
        """
        if self.processes < 2 or (len(smiles) < WORTHWHILE and not self._children):
            return standardise(smiles, how)
        self._start()
        chunks = [list(smiles[start : start + _CHUNK]) for start in range(0, len(smiles), _CHUNK)]
        with ThreadPoolExecutor(self.processes) as pool:
            found = [row for answer in pool.map(lambda chunk: self._ask(chunk, how), chunks) for row in answer]
        return pd.DataFrame(
            {name: pd.Series([row[at] for row in found], dtype=object) for at, name in enumerate(_COLUMNS)}
        )

    def _start(self) -> None:
        if self._children:
            return
        source = str(Path(cellinfer.__file__).parents[1])
        path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        for _ in range(self.processes):
            child = subprocess.Popen(
                [sys.executable, "-m", "cellinfer.activity._child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the process that asks, which ends the others
            )
            self._children.append(child)
            self._free.put(child)

    def _ask(self, smiles: list[str], how: Standardisation) -> list[list[str | None]]:
        child = self._free.get()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(OSError):  # a process that is gone does not answer
                child.stdin.write(json.dumps([asdict(how), smiles]) + "\n")
                child.stdin.flush()
            answer = child.stdout.readline()
        finally:
            self._free.put(child)
        if not answer:
            raise EngineError(
                f"A process that standardises structures ended with code {child.wait()}: is there enough memory? "
                "--threads 1 does without such processes."
            )
        found: list[list[str | None]] = json.loads(answer)
        return found


_COLUMNS = ("smiles", "status", "detail")
