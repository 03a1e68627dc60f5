"""What a run of weakly supervised learning shows, and the model that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.files import durable
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cellinfer_training.embedding.export import Description, export_embedding
from cellinfer_training.embedding.network import imagenet_weights_path, sha256
from cellinfer_training.embedding.wsl import CELLS, HELD, TRAINING, Learner, Pretext

_SHOWN_CLASSES = 60


@dataclass(frozen=True)
class Claims:
    """What the card of a taught model says beside what the run itself tells.

    Parameters
    ----------
    license
        Of the model.
    text
        Its description; empty: what it was taught.
    sets
        What it was trained on, with licences.
    evaluation
        Figures on data apart from the pretext.
    authors, version
        As in the BioImage.IO description.
    """

    license: str = "unstated"
    text: str = ""
    sets: tuple[str, ...] = ("the user's own crops",)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    authors: tuple[str, ...] = ()
    version: str = "0.1.0"


def finish(learner: Learner, name: str, claims: Claims | None = None) -> Path:
    """Judge a finished run, write its report and export its model.

    Parameters
    ----------
    learner
        After `run`.
    name
        Of the model and its file.
    claims
        What its card says; None claims nothing.

    Returns
    -------
    pathlib.Path
        The `.onnx` file; beside it lie its card, `report.md`, `report.png` and `report.json`.

    Raises
    ------
    RuntimeError
        If onnxruntime departs from torch.
    """
    found = {role: learner.judge(role) for role in (TRAINING, CELLS, HELD)}
    figures = _figures(learner, found)
    folder, path = learner.folder, learner.folder / f"{name}.onnx"
    with durable(folder / "report.json") as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _draw(learner, found, folder / "report.png")
    difference = export_embedding(learner.network, _describe(learner, name, claims or Claims(), figures), path)
    with durable(folder / "report.md") as partial:
        partial.write_text(_text(learner, name, figures, difference), encoding="utf-8")
    return path


def _figures(learner: Learner, found: dict[str, Pretext | None]) -> dict[str, Any]:
    """Return the pretext's accuracies and what they rest on, as the card states them."""
    scheme = learner.settings.scheme
    figures: dict[str, Any] = {
        "classes": len(learner.classes),
        "chance": round(1 / len(learner.classes), 4),
        "learnt_from": int((learner.roles == TRAINING).sum()),
    }
    for role, label in ((TRAINING, "training"), (CELLS, "left_out_cells"), (HELD, f"left_out_{scheme}")):
        pretext = found[role]
        if pretext is not None:
            figures[label] = {"crops": pretext.crops, "accuracy": round(pretext.accuracy, 4)}
    cells, held = found[CELLS], found[HELD]
    if cells is not None and held is not None:
        figures["gap"] = round(cells.accuracy - held.accuracy, 4)
    return figures


def _describe(learner: Learner, name: str, claims: Claims, figures: dict[str, Any]) -> Description:
    data, settings = learner.data, learner.settings
    start: dict[str, Any] = {}
    if settings.pretrained:
        weights = imagenet_weights_path()
        start = {
            "start": {
                "file": weights.name,
                "sha256": sha256(weights),
                "license": "Apache-2.0, see embed-imagenet",
                "taken": "all layers that EfficientNet-lite0 has too; the first convolution averaged over colours and "
                "repeated over channels; squeeze and excitation begin open, the classifier begins anew",
            }
        }
    else:
        start = {"start": "random weights"}
    return Description(
        name=name,
        text=claims.text
        or f"Features of single cells by EfficientNet-{settings.variant}, taught to tell {len(learner.classes)} "
        f"treatments apart (weakly supervised learning); block6a's activation averaged over pixels.",
        license=claims.license,
        authors=claims.authors,
        version=claims.version,
        channels=data.channels,
        side=data.side,
        box=data.box,
        diameter=data.diameter,
        each_channel=False,
        training={
            "sets": list(claims.sets),
            "split": f"{settings.scheme} left out, and {settings.cells:.0%} of the cells of what was learnt from"
            if settings.scheme != "cells"
            else f"{settings.share:.0%} of the cells left out",
            **start,
        },
        facts={
            "network": {
                "name": f"efficientnet-{settings.variant}",
                "layer": "block6a, activation after the depthwise convolution, mean over pixels",
            },
            "pretext": figures,
            **({"evaluation": dict(claims.evaluation)} if claims.evaluation else {}),
            "settings": {
                key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()
            },
            "classes": learner.classes,
        },
    )


def _text(learner: Learner, name: str, figures: dict[str, Any], difference: float) -> str:
    scheme = learner.settings.scheme
    lines = [
        f"# {name}",
        "",
        f"EfficientNet-{learner.settings.variant}, {len(learner.data.channels)} channels "
        f"({', '.join(learner.data.channels)}), taught {figures['classes']} treatments on {figures['learnt_from']:,} "
        f"crops for {learner.settings.epochs} epochs. The last state is kept: nothing was chosen on what was left out.",
        "",
        "| judged on | crops | accuracy (mean over classes) |",
        "|---|---|---|",
    ]
    rows = (
        ("training", "crops that were learnt"),
        ("left_out_cells", "other cells of the same wells and plates"),
        (f"left_out_{scheme}", f"{scheme} never seen"),
    )
    for key, words in rows:
        if key in figures:
            lines.append(f"| {words} | {figures[key]['crops']:,} | {figures[key]['accuracy']:.3f} |")
    lines += [f"| chance | | {figures['chance']:.3f} |", ""]
    if "gap" in figures:
        lines += [
            f"The gap of {figures['gap']:.3f} between the two kinds of left-out crops is what the network reads from "
            f"the look of the {scheme} rather than from the treatment. Correct profiles for it (sphering) before "
            "comparing them.",
            "",
        ]
    lines += ["![curves and confusion](report.png)", "", f"- torch and onnxruntime differ by {difference:.1e}"]
    return "\n".join(lines) + "\n"


def _draw(learner: Learner, found: dict[str, Pretext | None], path: Path) -> None:
    """Draw the curves, and the confusion on what was left out."""
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    curves, loss, matrix = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    log = pd.DataFrame(learner.log)
    if len(log):
        loss.plot(log["epoch"], log["loss"], marker=".")
        for role, label in ((CELLS, "left-out cells"), (HELD, f"left-out {learner.settings.scheme}")):
            if log[role].notna().any():
                curves.plot(log["epoch"], log[role], marker=".", label=label)
    curves.axhline(1 / len(learner.classes), color="0.6", ls=":", label="chance")
    curves.set(xlabel="epoch", ylabel="accuracy, mean over classes", title="Pretext: which treatment?", ylim=(0, None))
    curves.legend()
    loss.set(xlabel="epoch", ylabel="cross-entropy", title="Loss in training (augmented)", ylim=(0, None))
    judged = HELD if found[HELD] is not None else CELLS
    pretext = found[judged]
    if pretext is not None:
        shares = pretext.confusion / np.maximum(pretext.confusion.sum(1, keepdims=True), 1)
        picture = matrix.imshow(shares, cmap="magma", vmin=0)
        figure.colorbar(picture, ax=matrix, label="share of the treatment's crops")
        if len(learner.classes) <= _SHOWN_CLASSES:
            matrix.set_xticks(range(len(learner.classes)), learner.classes, rotation=90, fontsize=6)
            matrix.set_yticks(range(len(learner.classes)), learner.classes, fontsize=6)
        where = "left-out cells" if judged == CELLS else f"left-out {learner.settings.scheme}"
        matrix.set(xlabel="answer", ylabel="truth", title=f"Confusion on {where}")
    with durable(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
