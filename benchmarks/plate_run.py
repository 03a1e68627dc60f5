"""A whole plate: how busy the cores are with what matters, and whether it survives what happens at night.

`python benchmarks/plate_run.py WHAT [--fields N]`, where WHAT is one of

efficiency
    Share of the cores' time that is used, and share of it that is neither network nor measuring.
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
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
    """Time the network on the very tiles of the distinct fields, and measuring, each alone on one thread."""
    session = open_session("nuclei", "cpu", 1, info["precision"]["precision"])
    settings = Settings(
        nuclei="DNA",
        cells="GFP",
        diameter=info["configuration"]["diameter"],  # as the run had them
    )
    tiles: list[np.ndarray[Any, Any]] = []
    original = Session.run

    def kept(self: Session, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        tiles.append(batch)
        return original(self, batch)

    pipeline, seconds = Pipeline(session, settings), {"measure": [], "cells": []}
    distinct = read_plate(plate).fields[:DISTINCT]
    Session.run = kept  # type: ignore[method-assign]
    try:
        for field in (distinct[0], *distinct):
            result = pipeline.analyse(field)
            for stage, times in seconds.items():
                times.append(result.seconds[stage])
    finally:
        Session.run = original  # type: ignore[method-assign]
    tiles = tiles[len(tiles) // (DISTINCT + 1) :]  # without those of the first, which was for warming up
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for batch in tiles:
            session.run(batch)
        rounds.append((time.process_time() - started) / len(distinct))
    return {
        "network_s": statistics.median(rounds),
        "measure_s": statistics.mean(seconds["measure"][1:]),
        "cells_s": statistics.mean(seconds["cells"][1:]),
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
    for count in (100, fields):
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
        found[f"{count} fields"] = {"peak_mb": usage.ru_maxrss / 1024, "exit_code": process.returncode}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("efficiency", "faults", "kills", "memory"))
    parser.add_argument("--fields", type=int)
    parser.add_argument("--side", type=int, default=1080, help="pixels (efficiency)")
    parser.add_argument("--compression", help="of the images: lzw, zlib ... (efficiency)")
    parser.add_argument("--run", default="", help="options for cellinfer run (efficiency)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.what == "efficiency":
            found = efficiency(folder, asked.fields or 300, asked.side, asked.compression, asked.run.split())
        else:
            usual = {"faults": 1000, "kills": 120, "memory": 5000}[asked.what]
            found = globals()[asked.what](folder, asked.fields or usual)
    found = {"result": found, "machine": machine(), "versions": package_versions()}
    print(json.dumps(found["result"], indent=2))
    (RESULTS / f"plate_run_{asked.what}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
