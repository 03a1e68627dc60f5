"""From the best weights of a run to a scored ONNX file with its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from cellinfer.sessions import open_session

from cellinfer_training.assess import assess, summarise
from cellinfer_training.data import Sample
from cellinfer_training.maskrcnn.export import describe_mask_rcnn, export_mask_rcnn
from cellinfer_training.maskrcnn.training import MaskRcnnRecipe
from cellinfer_training.report import draw_report, write_scores, write_summary


def finish(recipe: MaskRcnnRecipe, held: list[Sample], folder: Path) -> Path:
    """Export the best model of a training run, score it on the validation images and write the report.

    Parameters
    ----------
    recipe, held, folder
        As in `training.train`.

    Returns
    -------
    Path
        The ONNX file; `scores.csv`, `report.md` and `report.png` lie beside it.
    """
    network = recipe.make_network()
    best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(best["network"])
    path = folder / f"{recipe.name}.onnx"
    export_mask_rcnn(network, describe_mask_rcnn(recipe, {}), path)
    session = open_session(path, device="cpu")
    scores = assess(session, held)
    write_scores(scores, folder / "scores.csv")
    draw_report(folder, scores, held, session)
    summary = summarise(scores)
    evaluation: dict[str, Any] = {"validation": summary, "step": int(best["step"])}
    difference = export_mask_rcnn(network, describe_mask_rcnn(recipe, evaluation), path)
    note = f"{difference:.2%} of the objects differ between torch and onnxruntime"
    write_summary(folder / "report.md", recipe.name, summary, [note])
    for name, row in summary.items():
        print(f"{name:20}  {row}")
    return path
