"""What every comparison with other packages needs: one clock, alternating runs, and a record of where it ran."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def alternate(
    contestants: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run the contestants in turn, `rounds` times after a warm-up, so that a busy machine is busy for all of them.

    Returns
    -------
    seconds : dict
        Wall time of each run.
    answers : dict
        What each contestant returned in the warm-up, to be compared.
    """
    answers = {name: run() for name, run in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def machine() -> dict[str, Any]:
    """Describe the machine and the interpreter."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    """Model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def report(
    name: str, task: str, ours: str, seconds: Mapping[str, Sequence[float]], packages: Sequence[str], **facts: Any
) -> None:
    """Print medians and how many times slower than `ours` each peer is, and write `results/<name>.json`."""
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    print(task)
    for who, median in sorted(medians.items(), key=lambda item: item[1]):
        print(f"  {who:<32} {1e3 * median:10.2f} ms  x{median / medians[ours]:.1f}")
    record = {
        "task": task,
        **facts,
        "median_ms": {who: round(1e3 * median, 3) for who, median in medians.items()},
        "times_slower_than_ours": {
            who: round(median / medians[ours], 2) for who, median in medians.items() if who != ours
        },
        "runs_ms": {who: [round(1e3 * one, 3) for one in times] for who, times in seconds.items()},
        "versions": {package: version(package) for package in packages},
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")
