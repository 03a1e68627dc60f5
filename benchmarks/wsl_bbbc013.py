"""Weakly supervised learning on a real plate: BBBC013 rows A to D, dose as class, one row left out whole.

Says whether wells of the row that was not learnt lie the further from the untreated ones the higher their dose, for the
network that was taught, for the ImageNet route, and for the measure that the assay was made for (the ratio of FKHR-GFP
between nucleus and the ring around it).

    CELLINFER_DATA=... python -m benchmarks.wsl_bbbc013 FOLDER        # stop and start as you like
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from cellinfer.engine import run
from cellinfer.profiling.aggregation import aggregate
from cellinfer.profiling.columns import PLATE, WELL
from cellinfer.sessions import open_embedder
from cellinfer_training.embedding.crops import TREATMENT, CropSet, open_crops, pack_run, scale, subset
from cellinfer_training.embedding.network import embed
from cellinfer_training.embedding.report import finish
from cellinfer_training.embedding.wsl import Learner, Settings
from scipy.stats import spearmanr

RESULTS = Path(__file__).parent / "results"
ROW, SIDE, SOME = "D", 48, 32
RATIO = "Cells_Ratio_NucleusRingMeanIntensity_GFP"


def prepare(folder: Path, data: Path, epochs: int) -> tuple[Learner, CropSet, pd.DataFrame]:
    """Run the plate, cut its cells out, and learn; whatever is there is taken as it is."""
    plate = data / "bbbc013_plate"
    run(plate, folder / "run", device="cpu", channels={"DNA": "2", "GFP": "1"})
    if not (folder / "crops" / "crops.json").exists():
        pack_run(folder / "crops", [folder / "run"], plate / "1049_Metadata.csv", "SBS_Doses", side=SIDE)
    crops = open_crops(folder / "crops")
    wells = crops.index[[PLATE, WELL]].drop_duplicates()
    held = tuple(f"{p}/{w}" for p, w in wells.itertuples(index=False) if w.startswith(ROW))
    settings = Settings(epochs=epochs, cooling=True, scheme="wells", held=held)
    learner = Learner(crops, settings, folder / "wsl")
    if learner.step < learner.steps:
        learner.run(lambda line: print(line, flush=True))
    return learner, crops, pd.read_parquet(folder / "run" / "Well.parquet").set_index("Metadata_Well")[[RATIO]]


def wells_of(crops: CropSet, features: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Return median profiles of wells, each feature in units of its spread between untreated wells; and the doses."""
    names = [f"Cells_Embedding_{number:04d}" for number in range(features.shape[1])]
    cells = pd.concat([crops.index[[WELL, TREATMENT]], pd.DataFrame(features, columns=names)], axis=1)
    wells = aggregate(cells, [WELL, TREATMENT], "median", count=None, threads=1).set_index(WELL)
    return wells[names], wells[TREATMENT].astype(float).to_numpy()


def follow(profiles: pd.DataFrame, doses: np.ndarray) -> dict[str, Any]:
    """Say how the distance of the left-out row's wells from the untreated wells of the other rows follows the dose."""
    own = profiles.index.str.startswith(ROW)
    origin = profiles[~own & (doses == 0)].median().to_numpy()
    distances = np.linalg.norm(profiles.to_numpy() - origin, axis=1)
    rank = spearmanr(doses[own], distances[own])
    untreated, top = distances[~own & (doses == 0)], distances[own & (doses == doses.max())]
    return {
        "spearman": float(rank.statistic),
        "p": float(rank.pvalue),
        "top_dose_over_untreated": float(top.mean() / np.sort(untreated)[-1]),
        "distances": {f"{dose:g}": float(distances[own][doses[own] == dose].mean()) for dose in np.unique(doses)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    learner, crops, ratio = prepare(given.folder, Path(os.environ["CELLINFER_DATA"]), given.epochs)
    finish(learner, "bbbc013")
    pretext = json.loads((learner.folder / "report.json").read_text())
    some = subset(crops, (crops.index.groupby(WELL).cumcount() < SOME).to_numpy())
    taught, doses = wells_of(crops, _taught(learner, crops))
    found = {
        "wsl": follow(taught, doses),
        f"wsl, {SOME} cells a well": follow(*wells_of(some, _taught(learner, some))),
        f"imagenet, the same {SOME} cells a well": follow(*wells_of(some, _imagenet(some))),
    }
    ratio = ratio.loc[taught.index]
    found["ratio"] = follow(ratio, doses)
    record = {
        "task": f"BBBC013 rows A-D, dose as class, row {ROW} left out whole",
        "epochs": given.epochs,
        "cells": len(crops),
        "box": crops.box,
        "side": crops.side,
        "pretext": pretext,
        "distance_follows_dose": found,
    }
    (RESULTS / "wsl_bbbc013.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def _taught(learner: Learner, crops: CropSet) -> np.ndarray:
    return embed(learner.network, scale(crops.take(np.arange(len(crops)))))


def _imagenet(crops: CropSet) -> np.ndarray:
    session = open_embedder("embed-imagenet", device="cpu", threads=1)
    side, rows = session.card.side, []
    for number in range(len(crops)):
        planes = [cv2.resize(plane, (side, side)) for plane in scale(crops.take(np.array([number]))[0])]
        rows.append(session.run(np.stack(planes)[:, None]).ravel())
    return np.stack(rows)


if __name__ == "__main__":
    main()
