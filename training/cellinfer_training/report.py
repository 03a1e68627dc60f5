"""What a training run shows: curves, scores per image, example pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cellinfer.segmentation import segment_image
from cellinfer.sessions import Session
from cellinfer_kernels.components import boundaries
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cellinfer_training.assess import Score
from cellinfer_training.cards import SELECTION
from cellinfer_training.data import Sample

_EXAMPLES = 8
_SIDE = 256


def write_scores(scores: list[Score], path: Path) -> None:
    """Write one row per image."""
    with path.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["source", "group", "name", "diameter", "estimated_diameter", "map_dsb", "ap50", "ap75"])
        for s in scores:
            writer.writerow(
                [s.source, s.group, s.name, f"{s.diameter:.2f}", f"{s.estimated:.2f}"]
                + [f"{value:.4f}" for value in (s.map_dsb, s.precision[0], s.precision[5])]
            )


def write_summary(path: Path, name: str, summary: Mapping[str, Mapping[str, float]], notes: Sequence[str]) -> None:
    """Write the figures by kind of image and what there is to remark, as Markdown."""
    columns = list(next(iter(summary.values())))
    rows = [f"| {source} | " + " | ".join(str(row[c]) for c in columns) + " |" for source, row in summary.items()]
    how = "Held-out images, single view, object size estimated from each image."
    head = [f"# {name}", "", f"{how} {SELECTION[0].upper()}{SELECTION[1:]}.", ""]
    table = [f"| set | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *rows, ""]
    picture = ["![curves and examples](report.png)", "", *(f"- {note}" for note in notes)]
    path.write_text("\n".join([*head, *table, *picture]) + "\n", encoding="utf-8")


def draw_report(folder: Path, scores: list[Score], samples: list[Sample], session: Session) -> Path:
    """Draw `report.png`: loss, precision by threshold, score by object size, and examples from worst to best."""
    figure = Figure(figsize=(16, 13), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 2))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    loss, precision, size = top.subplots(1, 3)
    log = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    loss.plot(log["step"], log["train"], label="training (augmented)")
    loss.plot(log["step"], log["validation"], label="validation, averaged weights")
    loss.set(xlabel="step", ylabel="loss", title="Loss", ylim=(0, None))
    loss.legend()
    for source in sorted({s.source for s in scores}):
        rows = [s for s in scores if s.source == source]
        precision.plot(np.arange(50, 100, 5) / 100, np.mean([s.precision for s in rows], axis=0), "o-", label=source)
        size.plot([s.diameter for s in rows], [s.map_dsb for s in rows], "o", alpha=0.6, label=source)
    precision.set(xlabel="IoU threshold", ylabel="average precision", title="Validation, mean over images", ylim=(0, 1))
    size.set(xlabel="median diameter (px)", ylabel="mAP_DSB", title="Each validation image", ylim=(0, 1))
    diameters = [s.diameter for s in scores if np.isfinite(s.diameter)] or [1.0]
    if max(diameters) > 3 * min(diameters):  # a narrower range has no room for labels on a logarithmic axis
        size.set_xscale("log")
    for axes in (loss, precision, size):
        axes.grid(alpha=0.3)
    precision.legend()
    _draw_examples(bottom, scores, samples, session)
    path = folder / "report.png"
    figure.savefig(path, dpi=90)
    return path


def _draw_examples(figure: Any, scores: list[Score], samples: list[Sample], session: Session) -> None:
    order = np.argsort([s.map_dsb for s in scores])
    picks = order[np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).round().astype(int)]
    axes = figure.subplots(2, 4).ravel()
    for place in axes:
        place.set_axis_off()
    for place, index in zip(axes, picks, strict=False):
        place.imshow(_picture(samples[index], segment_image(samples[index].image, session).labels))
        place.set_title(f"{samples[index].source} {samples[index].group[-4:]}: mAP {scores[index].map_dsb:.2f}")
    figure.suptitle("Validation images from worst to best: truth green, found pink, both white")


def _picture(sample: Sample, found: NDArray[np.int32]) -> NDArray[np.float32]:
    pixels = np.clip(sample.image[:_SIDE, :_SIDE], 0, 1)
    colour = np.stack([np.sqrt(pixels)] * 3, axis=-1) if pixels.ndim == 2 else pixels
    colour = (colour * 0.8).repeat(3, axis=0).repeat(3, axis=1)
    outlines = [
        boundaries(labels[:_SIDE, :_SIDE].repeat(3, axis=0).repeat(3, axis=1)) for labels in (sample.labels, found)
    ]
    colour[outlines[0]] = (0.2, 1.0, 0.3)
    colour[outlines[1]] = (1.0, 0.3, 0.9)
    colour[outlines[0] & outlines[1]] = 1.0
    return np.asarray(colour, dtype=np.float32)
