"""Predicting activity from SMILES: `cellinfer activity predict` beside `chemprop predict`, with the same weights.

    python benchmarks/activity_throughput.py TABLE --chemprop ~/chemprop/bin/python

The network is chemprop's default (directed messages along bonds, 300 wide, depth 3, mean over atoms, one hidden layer)
with `--assays` outputs and random weights; those of our network are written into a checkpoint of chemprop's. Both get
the same canonical SMILES. cellinfer also says which training compound is most similar, which chemprop does not.

Commands run in turn at two sizes. What start-up costs is in the times of a command, and not in the rate between the
sizes (`steady`). chemprop runs with its own defaults, with `--chemprop-workers` that read structures and a larger
batch, and with its optional featuriser in C++ (cuik-molmaker). CPU seconds stand beside wall time: on a machine that
others use, they say more. The first run of each command at the smaller size is not counted.
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
import torch
from _peers import RESULTS, machine
from cellinfer.activity.chemistry import PUBLISHED
from cellinfer.activity.molecules import read_molecules, standardise
from cellinfer_training.activity.data import make_data
from cellinfer_training.activity.export import Description, export_activity
from cellinfer_training.activity.networks import ActivityNetwork, Architecture

CHECKPOINT = """
import sys, json, torch, chemprop, rdkit
from chemprop import models, nn
from chemprop.models.utils import save_model
weights = torch.load(sys.argv[1])
assays = len(weights["head.4.bias"])
network = models.MPNN(
    nn.BondMessagePassing(), nn.MeanAggregation(), nn.BinaryClassificationFFN(n_tasks=assays), batch_norm=False
)
names = {"message_passing.W_i.": "encoders.0.start.", "message_passing.W_h.": "encoders.0.message.",
         "message_passing.W_o.": "encoders.0.atom.", "predictor.ffn.0.0.": "head.1.", "predictor.ffn.1.2.": "head.4."}
state = network.state_dict()
for theirs, ours in names.items():
    for kind in ("weight", "bias"):
        if theirs + kind in state:
            assert state[theirs + kind].shape == weights[ours + kind].shape
            state[theirs + kind] = weights[ours + kind]
network.load_state_dict(state)
save_model(sys.argv[2], network, [f"assay {number}" for number in range(assays)])
print(json.dumps({"chemprop": chemprop.__version__, "torch": torch.__version__, "rdkit": rdkit.__version__}))
"""
"""Run by chemprop's interpreter: our weights as a model of chemprop's; prints versions."""


def prepare(folder: Path, table: Path, sizes: list[int], assays: int, chemprop: str) -> dict[str, Any]:
    """Write both models and the lists of SMILES; return versions of the peer and what torch and ONNX differ by."""
    given = [one for piece in read_molecules(table) for one in piece["SMILES"]]
    standard = standardise(given[: max(sizes)], PUBLISHED)["smiles"].dropna().tolist()
    for size in sizes:
        repeated = (standard * (size // len(standard) + 1))[:size]
        pd.DataFrame({"smiles": repeated}).to_csv(folder / f"{size}.csv", index=False)
    learnt = standard[:6_000]
    names = [f"assay {number}" for number in range(assays)]
    data = make_data(learnt, np.random.default_rng(0).integers(0, 2, (len(learnt), assays)), names)
    torch.manual_seed(0)
    network = ActivityNetwork(data.widths(["graph"]), assays, Architecture())
    torch.save(network.state_dict(), folder / "weights.pt")
    description = Description("throughput", "Random weights.", "CC0-1.0")
    apart = export_activity([network], data, np.arange(len(learnt)), description, folder / "ours.onnx")
    command = [chemprop, "-c", CHECKPOINT, str(folder / "weights.pt"), str(folder / "theirs.pt")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"chemprop": json.loads(said.splitlines()[-1]), "onnx_beside_torch": apart}


def commands(folder: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the commands that are compared; SIZE stands for the number of compounds."""
    ours = [
        sys.executable,
        "-m",
        "cellinfer",
        "activity",
        "predict",
        str(folder / "ours.onnx"),
        str(folder / "SIZE.csv"),
    ]
    ours += ["--threads", str(options.threads), "--device", "cpu", "--out", str(folder / "ours SIZE.csv")]
    theirs = [str(Path(options.chemprop).parent / "chemprop"), "predict", "-i", str(folder / "SIZE.csv")]
    theirs += [
        "--model-paths",
        str(folder / "theirs.pt"),
        "--accelerator",
        "cpu",
        "-o",
        str(folder / "theirs SIZE.csv"),
    ]
    found = {
        "cellinfer": [*ours, "--standardise", "none"],
        "cellinfer, structures made standard": [*ours, "--standardise", "default"],
        "chemprop": theirs,
        "chemprop, cuik-molmaker": [*theirs, "--use-cuikmolmaker-featurization"],
    }
    if options.chemprop_workers:
        found["chemprop, workers"] = [*theirs, "-n", str(options.chemprop_workers), "-b", "512"]
    return found


def run(command: list[str], size: int, threads: int) -> dict[str, float]:
    """Run a command; return its wall and CPU seconds, those of its own processes included."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [part.replace("SIZE", str(size)) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}


def difference(folder: Path, size: int) -> dict[str, float]:
    """Compare what both commands wrote."""
    ours, theirs = (pd.read_csv(folder / f"{who} {size}.csv") for who in ("ours", "theirs"))
    assays = [name for name in theirs if name.startswith("assay ")]
    apart = np.abs(ours[assays].to_numpy() - theirs[assays].to_numpy()).max(axis=1)
    return {"largest": float(apart.max()), "part_of_compounds_above_1e-5": float((apart > 1e-5).mean())}


def summarise(runs: dict[str, dict[int, list[dict[str, float]]]], what: str) -> dict[str, Any]:
    """Return medians per command, the rate between the sizes, and both as multiples of chemprop's own."""
    found: dict[str, Any] = {}
    for name, sizes in runs.items():
        medians = {size: statistics.median(one[what] for one in each) for size, each in sizes.items()}
        (few, short), (many, long) = sorted(medians.items())
        found[name] = {
            "median_s": {str(size): median for size, median in medians.items()},
            "steady_ms_per_compound": round(1e3 * (long - short) / (many - few), 4),
        }
    for name, each in found.items():
        each["times_chemprops_rate"] = {
            size: round(found["chemprop"]["median_s"][size] / median, 2) for size, median in each["median_s"].items()
        } | {"steady": round(found["chemprop"]["steady_ms_per_compound"] / each["steady_ms_per_compound"], 2)}
        print(f"{what} {name:38} {each}")
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="table with SMILES")
    parser.add_argument("--chemprop", required=True, help="Python interpreter that has chemprop 2")
    parser.add_argument("--sizes", type=int, nargs=2, default=[1_000, 16_000])
    parser.add_argument("--assays", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chemprop-workers", type=int, default=2, help="0: with its defaults only")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = prepare(folder, options.table, options.sizes, options.assays, options.chemprop)
        contestants = commands(folder, options)
        for command in contestants.values():
            run(command, min(options.sizes), options.threads)
        run(contestants["cellinfer"], min(options.sizes), options.threads)
        about["beside_chemprop"] = difference(folder, min(options.sizes))
        print(about)
        runs: dict[str, dict[int, list[dict[str, float]]]] = {who: {} for who in contestants}
        for _ in range(options.rounds):
            for size in options.sizes:
                for who, command in contestants.items():
                    runs[who].setdefault(size, []).append(run(command, size, options.threads))
                    print(who, size, runs[who][size][-1], flush=True)
    record = {
        "task": f"{options.assays} assays of compounds from SMILES, network of chemprop's default size, same weights",
        "structures": options.table.name,
        "cores": options.threads,
        **about,
        "wall": summarise(runs, "wall_s"),
        "cpu": summarise(runs, "cpu_s"),
        "load_average": os.getloadavg(),
        "runs": runs,
        "versions": {name: version(name) for name in ("cellinfer", "rdkit", "onnxruntime", "torch", "numpy", "numba")},
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "activity_throughput.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
