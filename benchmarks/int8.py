"""What quantising costs and brings: each plan's mAP_DSB on training and validation images, and its speed.

    python benchmarks/int8.py DATA [--model nuclei] [--images 20]

DATA holds `dsb2018/` and `bbbc039/`. Writes `results/int8.json`. `--images` takes that many validation images only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cellinfer_models
import numpy as np
from _peers import RESULTS, machine
from cellinfer.outputs.runinfo import package_versions
from cellinfer.sessions import Session, open_session
from cellinfer_training.assess import assess, summarise
from cellinfer_training.quantise import PLANS, compare_plans
from cellinfer_training.recipes import RECIPES, load, split

TILE, ROUNDS = 512, 15


def main() -> None:
    """Try every plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--images", type=int)
    options = parser.parse_args()
    recipe = RECIPES[options.model]
    training, held = split(load(options.data, recipe), recipe)
    count = min(options.images or len(held), len(held))
    held = [held[i] for i in np.linspace(0, len(held) - 1, count).round().astype(int)]
    model = cellinfer_models.registry()[options.model].path
    exact = open_session(model, "cpu", 1)
    before = summarise(assess(exact, held))["all"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for trial, path in compare_plans(model, training, Path(folder), PLANS):
            quick = open_session(path, "cpu", 1)
            after = summarise(assess(quick, held))["all"]
            slow, fast = milliseconds(exact, quick)
            rows.append(
                asdict(trial.plan)
                | {"training_loss": trial.loss, "validation_loss": round(before["map_dsb"] - after["map_dsb"], 4)}
                | {"float32_ms": slow, "int8_ms": fast, "times_faster": round(slow / fast, 2)}
                | {"bytes": path.stat().st_size}
            )
            print(rows[-1], flush=True)
    record = {
        "task": f"{options.model}: {len(held)} validation images; a {TILE} x {TILE} tile on one thread, median",
        "float32": before | {"bytes": model.stat().st_size},
        "plans": rows,
        "versions": package_versions(),
        "machine": machine(),
    }
    (RESULTS / "int8.json").write_text(json.dumps(record, indent=2) + "\n")


def milliseconds(*sessions: Session) -> list[float]:
    """Median time of one tile, sessions in turn."""
    tile = np.random.default_rng(0).random((1, len(sessions[0].card.channels), TILE, TILE), np.float32)
    times = np.empty((ROUNDS + 1, len(sessions)))
    for turn in times:
        for place, session in enumerate(sessions):
            started = time.perf_counter()
            session.run(tile)
            turn[place] = 1e3 * (time.perf_counter() - started)
    return [round(float(median), 2) for median in np.median(times[1:], axis=0)]


if __name__ == "__main__":
    main()
