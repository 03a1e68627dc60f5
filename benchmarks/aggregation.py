"""Aggregate single cells to wells: cellinfer against pandas and pycytominer, in time and memory; and from a file.

Each contestant runs in a process of its own that makes the table, aggregates it once to warm up on a small part, then
`ROUNDS` times; contestants take turns. Memory is the peak of the process above what it holds with the table made.
With `--file`, 10^7 cells by default are aggregated from Parquet within a budget instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from _peers import RESULTS, machine

WELLS, SITES = 384, 9
BY = ["Metadata_Plate", "Metadata_Well"]
OURS, PEERS = "cellinfer", ("pandas", "pycytominer")
OPERATIONS = ("mean", "median")
ROUNDS = 3


def keys(rows: int) -> pd.DataFrame:
    """Say where cells are: in the order of wells and sites, as programs write them."""
    place = np.arange(rows) * (WELLS * SITES) // max(rows, 1)
    well = place // SITES
    names = np.array([f"{chr(65 + one // 24)}{one % 24 + 1:02}" for one in range(WELLS)])
    return pd.DataFrame(
        {BY[0]: pd.Series(["P"] * rows, dtype="str"), BY[1]: names[well], "Metadata_Site": place % SITES}
    )


def cells(rows: int, features: int, missing: float) -> pd.DataFrame:
    """Draw a table of cells, a block of features that lie one after the other, as from Parquet."""
    random = np.random.default_rng(0)
    values = np.empty((features, rows))
    for row in values:
        random.standard_normal(out=row)
        row += random.normal(0, 5)
        if missing:
            row[random.random(rows) < missing] = np.nan
    block = pd.DataFrame(values.T, columns=[f"Cells_Texture_{one:03}" for one in range(features)], copy=False)
    return pd.concat([keys(rows), block], axis=1)


def contestant(name: str, operation: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return what a user of a package calls."""
    if name == "pandas":
        return lambda table: getattr(table.groupby(BY)[feature_names(table)], operation)()
    if name == "pycytominer":
        import pycytominer

        return lambda table: pycytominer.aggregate(table, strata=BY, features=feature_names(table), operation=operation)
    from cellinfer.profiling.aggregation import aggregate

    return lambda table: aggregate(table, BY, operation)


def feature_names(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name.startswith("Cells_")]


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Measure by how many bytes the process grows at most, every few milliseconds."""
    process, found, done = psutil.Process(), {"peak": 0}, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            found["peak"] = max(found["peak"], process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def compete(name: str, operation: str, rows: int, features: int, missing: float) -> dict[str, Any]:
    """Run one contestant in this process."""
    warnings.simplefilter("ignore")
    run = contestant(name, operation)
    run(cells(2000, 20, missing))
    table = cells(rows, features, missing)
    start, spent = time.perf_counter(), time.process_time()
    with watched() as memory:
        answer = run(table)
    seconds, processor = time.perf_counter() - start, time.process_time() - spent
    values = answer[feature_names(answer)].to_numpy()
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "extra_bytes": memory["peak"],
        "table_bytes": 8 * rows * features,
        "sum": float(values.sum()),
    }


def in_turn(rows: int, features: int, missing: float, rounds: int) -> dict[str, Any]:
    """Run all contestants in processes of their own, in turn."""
    result: dict[str, Any] = {}
    for operation in OPERATIONS:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (OURS, *PEERS)}
        for _ in range(rounds):
            for name, own in runs.items():
                command = [sys.executable, __file__, "--only", name, operation]
                command += ["--rows", str(rows), "--features", str(features), "--missing", str(missing)]
                own.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                print(operation, name, own[-1], flush=True)
        sums = [one["sum"] for own in runs.values() for one in own]
        np.testing.assert_allclose(sums, sums[0], rtol=1e-10)
        table = runs[OURS][0]["table_bytes"]
        summary = {
            name: {
                "median_seconds": round(statistics.median(one["seconds"] for one in own), 3),
                "median_processor_seconds": round(statistics.median(one["processor_seconds"] for one in own), 3),
                "extra_memory_of_table": round(max(one["extra_bytes"] for one in own) / table, 3),
                "runs_seconds": [round(one["seconds"], 3) for one in own],
            }
            for name, own in runs.items()
        }
        for name in PEERS:
            ratio = summary[name]["median_seconds"] / summary[OURS]["median_seconds"]
            summary[name]["times_slower_than_ours"] = round(ratio, 2)
        result[operation] = summary
    return result


def from_file(rows: int, features: int, memory: int) -> dict[str, Any]:
    """Aggregate a file that is made in pieces, within a budget, and compare with one column read by pandas."""
    from cellinfer.profiling.aggregation import aggregate_files

    with tempfile.TemporaryDirectory() as folder:
        path, piece = Path(folder) / "cells.parquet", 250_000
        head, random = keys(rows), np.random.default_rng(0)
        writer = None
        for start in range(0, rows, piece):
            part = head.iloc[start : start + piece].reset_index(drop=True)
            part["ObjectNumber"] = np.arange(start, start + len(part))
            values = random.standard_normal((len(part), features))
            block = pd.DataFrame(values, columns=[f"Cells_Texture_{one:03}" for one in range(features)])
            table = pa.Table.from_pandas(pd.concat([part, block], axis=1), preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
        del head, part, values, block, table
        pa.default_memory_pool().release_unused()
        result: dict[str, Any] = {
            "rows": rows,
            "features": features,
            "memory": memory,
            "file_bytes": path.stat().st_size,
        }
        aggregate_files(path, BY, "median", features=["Cells_Texture_000"], memory=memory)  # compiles
        for operation in OPERATIONS:
            start_time = time.perf_counter()
            with watched() as peak:
                found = aggregate_files(path, BY, operation, memory=memory)
            result[operation] = {
                "seconds": round(time.perf_counter() - start_time, 2),
                "extra_mib": round(peak["peak"] / 2**20),
            }
            print(operation, result[operation], flush=True)
            one = pd.read_parquet(path, columns=[BY[1], "Cells_Texture_007"])
            expected = getattr(one.groupby(BY[1])["Cells_Texture_007"], operation)()
            np.testing.assert_allclose(found["Cells_Texture_007"], expected, rtol=0 if operation == "median" else 1e-9)
            del one
        result["peak_of_process_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--missing", type=float, default=0.0, help="share of values that are NaN")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs=2, metavar=("NAME", "OPERATION"))
    parser.add_argument("--file", action="store_true", help="from a Parquet file, in bounded memory")
    parser.add_argument("--memory", type=int, default=2**29)
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(compete(*chosen.only, chosen.rows, chosen.features, chosen.missing)))
        return
    record: dict[str, Any] = {"machine": machine()}
    if chosen.file:
        name = "aggregation_file"
        record |= from_file(chosen.rows or 10_000_000, chosen.features or 20, chosen.memory)
    else:
        name = "aggregation"
        rows, features = chosen.rows or 200_000, chosen.features or 200
        record |= {"rows": rows, "features": features, "groups": WELLS, "missing": chosen.missing}
        record |= in_turn(rows, features, chosen.missing, chosen.rounds)
    record["versions"] = {one: version(one) for one in ("cellinfer", "numpy", "numba", "pyarrow", *PEERS)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
