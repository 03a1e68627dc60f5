"""Which precision a network runs in: 8 bit where that was measured to be faster on this processor, else float32.

The finding is kept beside the compiled kernels, so that every later session on this machine takes the same one. Where
nothing can be kept, float32 is taken: two processes that measure for themselves might choose differently.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from cellinfer_kernels import cache_folder, cache_is_kept
from numpy.typing import NDArray

from cellinfer.errors import OutputError
from cellinfer.files import durable

Precision = Literal["auto", "float32", "int8"]
WORTH = 1.15
"""How many times faster 8 bit must be, so that it is worth its (small) loss."""
ALIKE = 0.03
"""Largest mean difference of outputs: processors without 8-bit dot products may overflow, which would be far more."""
_ROUNDS = 5
Run = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class Choice:
    """A precision and why it was taken; `ratio` is how many times faster 8 bit was, None where not measured."""

    precision: Literal["float32", "int8"]
    why: str
    ratio: float | None = None


def choose(key: str, exact: Run, quick: Run) -> Choice:
    """Choose between a network in float32 and in 8 bit by their measured speed, if they give alike results here.

    Parameters
    ----------
    key
        Names what decides the speed: networks, engine, threads. The processor is added.
    exact, quick
        Run each of them once on the same small input and return the output.
    """
    if not cache_is_kept():
        return Choice("float32", "the speed of int8 cannot be remembered: no cache folder can be written")
    path = cache_folder() / "precision.json"
    key = f"{_processor()}|{key}"
    ratio = _remembered(path).get(key)
    if ratio is None:
        ratio = _measure(exact, quick)
        # Another process may add its own finding at the same time: the one that is lost is measured again.
        with suppress(OutputError), durable(path) as partial:
            partial.write_text(json.dumps(_remembered(path) | {key: ratio}, indent=1), encoding="utf-8")
    if ratio == 0:
        return Choice("float32", "int8 departs from float32 on this processor", ratio)
    why = f"int8 was measured to be {ratio:.2f} times as fast as float32 on this processor"
    return Choice("int8" if ratio >= WORTH else "float32", why, ratio)


def _measure(exact: Run, quick: Run) -> float:
    """Return how many times faster `quick` is, 0 if its result is another.

    The best of several turns counts, so that a busy machine does not decide.
    """
    if not float(np.abs(exact() - quick()).mean()) <= ALIKE:
        return 0.0
    best = [float("inf"), float("inf")]
    for _ in range(_ROUNDS):
        for which, run in enumerate((exact, quick)):
            started = time.perf_counter()
            run()
            best[which] = min(best[which], time.perf_counter() - started)
    return round(best[0] / best[1], 3)


def _remembered(path: Path) -> dict[str, float]:
    """Return the findings so far; a damaged file counts as none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(ratio) for key, ratio in table.items() if 0 <= float(ratio) < 1e3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _processor() -> str:
    """Model name of the processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    with suppress(OSError):
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
