"""How long a user waits: help, a first and a later start, one field through the loaded pipeline.

Runs each command in a new process, with a kernel cache of its own, and writes `results/latency.json`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cellinfer
from cellinfer.outputs.runinfo import package_versions
from cellinfer.simulate import simulate_plate

REPEATS = 5
PROGRAM = """
import sys, time, cellinfer
from cellinfer.readers import read_plate
field = read_plate(sys.argv[1]).fields[0]
pipeline = cellinfer.load("nuclei", device="cpu", diameter=27)
pipeline.analyse(field)
times = []
for _ in range(10):
    started = time.perf_counter()
    pipeline.analyse(field)
    times.append(time.perf_counter() - started)
print(sorted(times)[len(times) // 2])
"""


def seconds(*arguments: str, environment: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ | (environment or {}))
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plate = simulate_plate(Path(folder) / "plate", wells=1)
        cache = {"CELLINFER_CACHE": str(Path(folder) / "cache")}

        def run(number: int) -> float:
            out = str(Path(folder) / f"out{number}")
            return seconds("-m", "cellinfer", "run", str(plate.images), "--out", out, environment=cache)

        found = {
            "help_s": statistics.median(seconds("-m", "cellinfer", "--help") for _ in range(REPEATS)),
            "run_one_field_compiling_kernels_s": run(0),
            "run_one_field_warm_s": statistics.median(run(number) for number in range(1, REPEATS + 1)),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(plate.images)], check=True, capture_output=True, text=True
        )
        found["analyse_512x512_two_channels_s"] = float(done.stdout)
    found = {name: round(value, 3) for name, value in found.items()}
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    report = {"seconds": found, "cellinfer": cellinfer.__version__, "machine": machine, "versions": package_versions()}
    target = Path(__file__).parent / "results" / "latency.json"
    target.write_text(json.dumps(report, indent=2) + "\n")
    for name, value in found.items():
        print(f"{name:40} {value:8.3f}")


if __name__ == "__main__":
    main()
