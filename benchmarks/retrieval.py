"""Average precision of replicates and its p-values on 384 to 9,216 wells: cellinfer beside copairs, seconds and memory.

Each run is a process of its own, so that the peak of its memory is its own, and copairs may fail where memory ends; the
two run in turn. Wells are normal noise around a profile for each treatment. Positives are replicates of a treatment,
negatives the wells of all others: the case for which earlier versions of copairs are reported to need 14 GB at 9,216
wells. Answers are compared before times are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _peers import RESULTS, machine

SIZES = (384, 1536, 4608, 9216)
FEATURES, REPLICATES, DRAWS = 500, 4, 10_000
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def wells(count: int) -> pd.DataFrame:
    """Make profiles with a little in common within treatments."""
    random = np.random.default_rng(count)
    treatment = np.arange(count) % (count // REPLICATES)
    values = random.normal(size=(count, FEATURES)) + 0.12 * random.normal(size=(count, FEATURES))[treatment]
    return pd.concat([pd.Series(treatment, name="t"), pd.DataFrame(values).add_prefix("Cells_")], axis=1)


def ours(table: pd.DataFrame, threads: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score with cellinfer."""
    from cellinfer.profiling.pairs import PairRules
    from cellinfer.profiling.retrieval import average_precision, mean_average_precision

    scored = average_precision(table, PairRules(["t"], [], [], ["t"]), threads=threads)
    return scored, mean_average_precision(scored, "t", draws=DRAWS)


def theirs(table: pd.DataFrame, cache: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score with copairs; null distributions are not taken from an earlier run."""
    from copairs import map as copairs_map

    meta, values = table[["t"]], table.drop(columns="t").to_numpy()
    scored = copairs_map.average_precision(meta, values, ["t"], [], [], ["t"], progress_bar=False)
    options = {"null_size": DRAWS, "threshold": 0.05, "seed": 0, "progress_bar": False, "cache_dir": cache}
    return scored, copairs_map.mean_average_precision(scored, ["t"], **options)


def child(who: str, count: int, threads: int, out: str) -> None:
    """Score once to warm up small things, then with the clock running; write figures and answers."""
    table = wells(count)
    with tempfile.TemporaryDirectory() as cache:
        _ = ours(wells(384), threads) if who == "cellinfer" else theirs(wells(64), cache + "/small")
        start, started = time.perf_counter(), time.process_time()
        scored, groups = ours(table, threads) if who == "cellinfer" else theirs(table, cache + "/large")
        seconds, busy = time.perf_counter() - start, time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(out, ap=scored["average_precision"], p=groups["p_value"])
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy, "peak_mb": memory}))


def run(who: str, count: int, threads: int, folder: Path, limit_gb: float) -> dict[str, Any]:
    """Start a child with a limit on its memory."""

    def confine() -> None:
        size = int(limit_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    out = folder / f"{who}.npz"
    command = [
        sys.executable,
        __file__,
        "--child",
        who,
        "--size",
        str(count),
        "--threads",
        str(threads),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD, preexec_fn=confine)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"killed ({done.returncode})"])[-1]
        return {"failed": last[:200]}
    return {**json.loads(done.stdout), "answers": dict(np.load(out))}


def compare(count: int, threads: int, rounds: int, limit_gb: float, peer_limit: int) -> dict[str, Any]:
    """Run both in turn and compare answers, times and memory; copairs up to a number of wells only."""
    runs: dict[str, list[dict[str, Any]]] = {who: [] for who in ("cellinfer", "copairs")[: 1 + (count <= peer_limit)]}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for who, found in runs.items():
                if not found or "failed" not in found[-1]:
                    found.append(run(who, count, threads, Path(folder), limit_gb))
    record: dict[str, Any] = {"wells": count, "pairs": count * (count - 1) // 2}
    good = [found[-1] for found in runs.values() if "failed" not in found[-1]]
    if len(good) == 2:
        ap, p = (np.abs(good[0]["answers"][key] - good[1]["answers"][key]).max() for key in ("ap", "p"))
        assert ap < 1e-4 and p < 0.05, (ap, p)  # copairs rounds similarities to float32, which swaps near neighbours
        record |= {"largest_difference_ap": float(ap), "largest_difference_p": float(p)}
    for who, found in runs.items():
        if "failed" in found[-1]:
            record[who] = found[-1]
            continue
        record[who] = {
            "median_s": round(statistics.median(one["seconds"] for one in found), 3),
            "median_cpu_s": round(statistics.median(one["cpu_seconds"] for one in found), 3),
            "runs_s": [round(one["seconds"], 3) for one in found],
            "peak_mb": round(max(one["peak_mb"] for one in found)),
        }
    if len(good) == 2:
        record["times_slower_than_ours"] = round(record["copairs"]["median_s"] / record["cellinfer"]["median_s"], 2)
        record["times_our_cpu"] = round(record["copairs"]["median_cpu_s"] / record["cellinfer"]["median_cpu_s"], 2)
        record["times_our_memory"] = round(record["copairs"]["peak_mb"] / record["cellinfer"]["peak_mb"], 2)
    print(json.dumps(record))
    return record


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gb", type=float, default=20.0, help="memory that a process may take")
    parser.add_argument("--peer-limit", type=int, default=9216, help="largest number of wells that copairs is given")
    parser.add_argument("--child", choices=["cellinfer", "copairs"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.size, options.threads, options.out)
        return
    record = {
        "task": f"average precision of {REPLICATES} replicates among all wells, {FEATURES} features, p-values from "
        f"{DRAWS} draws; {options.threads} thread",
        "sizes": [
            compare(count, options.threads, options.rounds, options.limit_gb, options.peer_limit)
            for count in options.sizes
        ],
        "limit_gb": options.limit_gb,
        "versions": {name: version(name) for name in ("cellinfer", "copairs", "numpy", "numba", "pandas")},
        "machine": machine(),
    }
    path = RESULTS / "retrieval.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
