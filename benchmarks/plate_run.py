"""A whole plate: how busy the cores are with what matters, and whether it survives what happens at night.

`python benchmarks/plate_run.py WHAT [--fields N]`, where WHAT is one of

efficiency
    Share of the cores' time that is used, and share of it that is neither network nor measuring.
profile
    Where the cores' time goes, by thread clocks inside one run.
faults
    A plate with damaged files of every kind: what is analysed, what is set aside, and with which reason.
kills
    A run killed 25 times at random moments beside one that was let be.
memory
    The most memory that a run of 100 and one of 5,000 fields hold.

Results go to `results/plate_run_WHAT.json`. There are no peers: none of them runs a plate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from cellinfer import engine, pipeline
from cellinfer.outputs.runinfo import package_versions
from cellinfer.pipeline import Pipeline, Settings
from cellinfer.readers import read_plate
from cellinfer.sessions import Session, available_cores, open_session

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks._damage import DISTINCT, make_plate, spoil_plate
from benchmarks._peers import RESULTS, machine

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well")
DIAMETER = 27.0


def command(plate: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(out), *options]


def timed(arguments: list[str]) -> dict[str, Any]:
    """Run a command and return what it used."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"exit_code": done.returncode, "wall_s": wall, "cpu_s": cpu, "load": os.getloadavg()[0], "said": done.stderr}


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}


def efficiency(folder: Path, fields: int, side: int, compression: str | None, options: list[str]) -> dict[str, Any]:
    plate = make_plate(folder / "plate", fields, side, compression)
    subprocess.run(command(plate, folder / "warm", "--memory", "8G"), check=True, capture_output=True)
    shutil.rmtree(folder / "warm")
    run = timed(command(plate, folder / "out", *options))
    info = json.loads((folder / "out" / "run.json").read_text())
    alone = _alone(plate, info)
    network, measuring = (alone[part] * fields for part in ("network_s", "measure_s"))
    growing = alone["cells_s"] * fields
    cores = available_cores()
    return {
        "fields": fields,
        "side": side,
        "compression": compression,
        "cells": info["result"]["cells"],
        "precision": info["precision"]["precision"],
        "plan": info["plan"],
        "wall_s": run["wall_s"],
        "cpu_s": run["cpu_s"],
        "load_at_the_end": run["load"],
        "cpu_use": run["cpu_s"] / (run["wall_s"] * cores),
        "alone_per_field_s": alone,
        "share_network": network / run["cpu_s"],
        "share_measuring": measuring / run["cpu_s"],
        "share_growing_cells": growing / run["cpu_s"],
        "share_neither_network_nor_measuring": 1 - (network + measuring) / run["cpu_s"],
        "share_without_growing_cells_too": 1 - (network + measuring + growing) / run["cpu_s"],
        "stages_s": info["seconds"]["by_stage_summed_over_fields"],
    }


def _alone(plate: Path, info: dict[str, Any]) -> dict[str, float]:
    """Time the network on the very tiles of the distinct fields, and measuring them, by themselves.

    On every core at once, as in the run: cores that share caches and execution units are slower together.
    """
    session = open_session("nuclei", "cpu", 1, info["precision"]["precision"])
    settings = Settings(nuclei="DNA", cells="GFP", diameter=info["configuration"]["diameter"])
    analyst, clocks = Pipeline(session, settings), Clocks()
    distinct = read_plate(plate).fields[:DISTINCT]
    images = [analyst.read(field) for field in distinct]
    tiles: list[np.ndarray[Any, Any]] = []
    original = Session.run

    def kept(self: Session, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        tiles.append(batch)
        return original(self, batch)

    with patch.object(Session, "run", kept):
        for field, planes in zip(distinct, images, strict=True):
            analyst.analyse(field, planes)

    def network() -> None:
        for batch in tiles:
            session.run(batch)

    def analyse() -> None:
        for field, planes in zip(distinct, images, strict=True):
            analyst.analyse(field, planes)

    rounds = [_on_every_core(network) for _ in range(3)]
    with clocks.inside():
        turns = _on_every_core(analyse) and available_cores() * len(distinct)
    return {
        "network_s": statistics.median(rounds) / len(distinct),
        "measure_s": clocks.seconds["measure"] / turns,
        "cells_s": clocks.seconds["cells"] / turns,
    }


def _on_every_core(work: Callable[[], None]) -> float:
    """Do the same on as many threads as there are cores; return the CPU time of one."""
    cores, started = available_cores(), time.process_time()
    with ThreadPoolExecutor(cores) as pool:
        for done in [pool.submit(work) for _ in range(cores)]:
            done.result()
    return (time.process_time() - started) / cores


class Clocks:
    """CPU time of each thread by what it does, each stretch of time counted once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._local = threading.local()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count what is inside, but for what is counted apart within."""
        outer = getattr(self._local, "inner", None)
        self._local.inner, started = 0.0, time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - started
            with self._lock:
                self.seconds[what] += spent - self._local.inner
            self._local.inner = None if outer is None else outer + spent

    def around(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts its own time."""

        def clocked(*arguments: Any, **options: Any) -> Any:
            with self(what):
                return function(*arguments, **options)

        return clocked

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Clock the stages of the pipeline and the engine."""

        @contextmanager
        def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
            with self(stage):
                yield

        places: list[tuple[Any, str, str]] = [
            (engine, "read_plate", "start"),
            (engine, "_open", "start"),
            (engine._ledger, "plate_diameter", "start (size of nuclei, main thread)"),
            (pipeline, "_field_diameter", "start (size of nuclei)"),
            (engine.Worker, "read", "read"),
            (engine.Worker, "analyse", "between stages"),
            (engine.Worker, "write", "write"),
            (Session, "run", "network"),
            (engine.Ledger, "note", "journal"),
            (engine.Ledger, "template", "tables"),
            (engine, "write_tables", "tables"),
            (engine, "draw_overview", "overview"),
        ]
        with ExitStack() as stack:
            stack.enter_context(patch.object(pipeline, "_timed", timed))
            for owner, name, what in places:
                stack.enter_context(patch.object(owner, name, self.around(what, getattr(owner, name))))
            yield


def profile(folder: Path, fields: int, side: int, compression: str | None) -> dict[str, Any]:
    plate = make_plate(folder / "plate", fields, side, compression)
    warm = make_plate(folder / "warm", 1, side)
    engine.run(warm, folder / "warm_out", settings=Settings(diameter=DIAMETER))
    clocks, started, wall = Clocks(), time.process_time(), time.perf_counter()
    with clocks.inside():
        result = engine.run(plate, folder / "out")
    total, wall = time.process_time() - started, time.perf_counter() - wall
    seconds = dict(sorted(clocks.seconds.items(), key=lambda item: -item[1]))
    seconds["threads, queues, interpreter"] = total - sum(seconds.values())
    return {
        "fields": fields,
        "side": side,
        "compression": compression,
        "cells": result.cells,
        "precision": result.precision,
        "cpu_s": total,
        "cpu_use": total / wall / available_cores(),
        "seconds": seconds,
        "share": {what: spent / total for what, spent in seconds.items()},
        "ms_per_field": {what: 1000 * spent / fields for what, spent in seconds.items()},
    }


def faults(folder: Path, fields: int) -> dict[str, Any]:
    plate = make_plate(folder / "plate", fields, 200)
    spoilt = spoil_plate(plate, 0.05)
    run = timed(command(plate, folder / "out", "--diameter", str(DIAMETER)))
    rows = pd.read_parquet(folder / "out" / "Image.parquet")
    names = rows["Metadata_Well"] + "_s" + rows["Metadata_Site"].astype(str)
    reasons = dict(zip(names, rows["Image_Reason"].where(rows["Image_Status"] == "failed", ""), strict=True))
    wrong = {}
    for name, reason in reasons.items():
        expected = spoilt[name].reason if name in spoilt else ""
        if (expected == "") != (reason == "") or expected not in reason:
            wrong[name] = {"damage": spoilt[name].name if name in spoilt else None, "reason": reason}
    kinds = sorted({damage.name for damage in spoilt.values()})
    return {
        "fields": fields,
        "spoilt": len(spoilt),
        "kinds_of_damage": kinds,
        "exit_code": run["exit_code"],
        "wall_s": run["wall_s"],
        "analysed": int((rows["Image_Status"] == "ok").sum()),
        "quarantined": int((rows["Image_Status"] == "failed").sum()),
        "not_as_expected": wrong,
        "fields_without_a_row": sorted(set(spoilt) - set(reasons)),
    }


def kills(folder: Path, fields: int, count: int = 25) -> dict[str, Any]:
    plate = make_plate(folder / "plate", fields, 200)
    options = ("--diameter", str(DIAMETER))
    started = time.monotonic()
    subprocess.run(command(plate, folder / "untouched", *options), check=True, capture_output=True)
    whole = time.monotonic() - started
    chance, moments = random.Random(0), []
    while len(moments) < count:
        with subprocess.Popen(
            command(plate, folder / "killed", *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            # Anywhere between the first import and the last table.
            moment = chance.uniform(0, 0.35 * whole)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                moments.append(round(moment, 2))
                continue
        # It had the time to end: let the rest of the kills hit its last quarter again.
        journal = folder / "killed" / "journal.jsonl"
        lines = journal.read_text().splitlines()
        journal.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    done = subprocess.run(command(plate, folder / "killed", *options), check=True, capture_output=True, text=True)
    same = digests(folder / "killed") == digests(folder / "untouched")
    left = [str(p.relative_to(folder)) for p in (folder / "killed").rglob("*.partial")]
    return {
        "fields": fields,
        "kills": count,
        "seconds_after_the_start": moments,
        "tables_identical": same,
        "half_written_files_left": left,
        "last_run_said": done.stdout.splitlines()[0],
    }


def memory(folder: Path, fields: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    plate = make_plate(folder / "plate", fields, 200)
    for count in (1, 100, fields):  # the first compiles kernels, which takes memory too
        part = folder / f"plate{count}"
        part.mkdir()
        for path in sorted(plate.iterdir())[: 2 * count]:
            (part / path.name).hardlink_to(path)
        with subprocess.Popen(
            command(part, folder / f"out{count}", "--diameter", str(DIAMETER)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if count == 1:
            continue
        found[f"{count} fields"] = {"peak_mb": usage.ru_maxrss / 1024, "exit_code": process.returncode}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("efficiency", "profile", "faults", "kills", "memory"))
    parser.add_argument("--fields", type=int)
    parser.add_argument("--side", type=int, default=1080, help="pixels (efficiency)")
    parser.add_argument("--compression", help="of the images: lzw, zlib ... (efficiency)")
    parser.add_argument("--run", default="", help="options for cellinfer run (efficiency)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.what == "efficiency":
            found = efficiency(folder, asked.fields or 300, asked.side, asked.compression, asked.run.split())
        elif asked.what == "profile":
            found = profile(folder, asked.fields or 100, asked.side, asked.compression)
        else:
            usual = {"faults": 1000, "kills": 120, "memory": 5000}[asked.what]
            found = globals()[asked.what](folder, asked.fields or usual)
    found = {"result": found, "machine": machine(), "versions": package_versions()}
    print(json.dumps(found["result"], indent=2))
    (RESULTS / f"plate_run_{asked.what}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
