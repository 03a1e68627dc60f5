"""Accuracy of every bundled model, and of what people use otherwise, on validation images of unseen families.

    python -m benchmarks.accuracy DATA PREDICTIONS [--stardist FOLDER]

Label images are kept in PREDICTIONS, so that a stopped run goes on, and another program's predictions can be judged
beside ours: a folder of label images named like the images. Figures are means over images and, as in the StarDist
paper, ratios of counts over all objects; matches have IoU > t.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from cellinfer.evaluation import ObjectAreas, PairScore, evaluate_pair, mean_scores, object_areas, size_strata
from cellinfer.files import durable
from cellinfer.images import read_labels
from cellinfer.segmentation import segment_image
from cellinfer.sessions import SEGMENTATION, bundled_names, open_session
from cellinfer_kernels.matching import dsb_thresholds, score_thresholds
from cellinfer_training.data import Sample
from cellinfer_training.recipes import RECIPES, load, split
from numpy.typing import NDArray

from benchmarks import otsu
from benchmarks._peers import RESULTS, machine

VIEWS = ("none", "flips", "d4", "adaptive")
_NAMES = {
    "dsb2018": "fluorescence",
    "dsb2018-tissue": "tissue",
    "dsb2018-brightfield": "bright-field",
    "bbbc039": "BBBC039",
}
_SHOWN = {"map_dsb": "mAP_DSB", "ap50": "AP50", "ap75": "AP75", "f1_70": "F1@0.7", "panoptic_quality": "PQ"}
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Method:
    """Something that finds objects.

    Parameters
    ----------
    name, views
        As in the table.
    key
        Folder of its predictions; changes with the model.
    colour
        Whether it takes colour images, grey ones, or (None) both.
    segment
        From an image to labels; None where predictions are given.
    """

    name: str
    views: str
    key: str
    colour: bool | None
    segment: Callable[[NDArray[np.float32]], Labels] | None


@dataclass(frozen=True)
class Judged:
    """One image by one method."""

    score: PairScore
    areas: ObjectAreas
    counts: NDArray[np.int64]
    """`(3, 10)`: true and false positives, false negatives at 0.50, 0.55 ... 0.95."""


def validation_images(data: Path) -> dict[str, list[Sample]]:
    """Return the images that the recipes hold out, by set."""
    sets: dict[str, list[Sample]] = {}
    for recipe in (RECIPES["nuclei"], RECIPES["nuclei-tissue"]):
        for sample in split(load(data, recipe), recipe)[1]:
            sets.setdefault(set_of(sample), []).append(sample)
    return sets


def set_of(sample: Sample) -> str:
    """Return the set that a sample is counted in."""
    return _NAMES[sample.source]


def bundled_methods(views: Sequence[str] = VIEWS, models: Sequence[str] = ()) -> Iterator[Method]:
    """Yield the bundled models with each kind of views, one session per model."""
    for name in models or bundled_names(SEGMENTATION):
        session = open_session(name)
        for kind in views:

            def segment(image: NDArray[np.float32], session: Any = session, kind: Any = kind) -> Labels:
                return segment_image(image, session, tta=kind).labels

            yield Method(name, kind, f"{name}-{session.sha256[:8]}-{kind}", len(session.card.channels) == 3, segment)


def predict(method: Method, name: str, samples: Sequence[Sample], folder: Path) -> tuple[list[Labels], float]:
    """Return a method's labels of a set, from the folder where they are there already.

    Returns
    -------
    labels : list of ndarray
        One per sample.
    seconds : float
        Mean per image of those that were segmented now or before; NaN for given predictions.
    """
    found, seconds = [], []
    for sample in samples:
        path = folder / method.key / name / f"{sample.name}.png"
        note = path.with_suffix(".json")
        if method.segment is not None and not note.exists():
            if not seconds:  # what is compiled or loaded for the first image is not its time
                method.segment(sample.image)
            start = time.perf_counter()
            labels = method.segment(sample.image)
            spent = time.perf_counter() - start
            path.parent.mkdir(parents=True, exist_ok=True)
            if labels.max(initial=0) >= 2**16 or not cv2.imwrite(str(path), labels.astype(np.uint16)):
                raise RuntimeError(f"{path} could not be written")
            note.write_text(json.dumps({"seconds": spent}))
        if note.exists():
            seconds.append(float(json.loads(note.read_text())["seconds"]))
        found.append(read_labels(path))
    return found, float(np.mean(seconds)) if seconds else float("nan")


def judge(truth: Labels, pred: Labels) -> Judged:
    """Score one image."""
    counts = score_thresholds(truth, pred, dsb_thresholds())
    return Judged(evaluate_pair(truth, pred), object_areas(truth, pred), np.stack([counts.tp, counts.fp, counts.fn]))


def summarise(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return means over images, ratios over all objects, and strata of size."""
    tp, fp, fn = np.sum([one.counts for one in judged], axis=0)
    pooled = tp / np.maximum(tp + fp + fn, 1)
    return {
        "images": len(judged),
        "objects": int(tp[0] + fn[0]),
        "mean": mean_scores(one.score for one in judged),
        "pooled": {
            "map_dsb": float(pooled.mean()),
            **{f"ap{50 + 5 * place}": float(value) for place, value in enumerate(pooled)},
        },
        "sizes": [asdict(stratum) for stratum in size_strata([one.areas for one in judged])],
    }


def compare(
    sets: dict[str, list[Sample]], methods: Sequence[Method], folder: Path, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Judge every method on every set that it takes; one row each."""
    rows = []
    for name, samples in sets.items():
        coloured = samples[0].image.ndim == 3
        for method in methods:
            if method.colour is not None and method.colour != coloured:
                continue
            labels, seconds = predict(method, name, samples, folder)
            judged = [judge(sample.labels, found) for sample, found in zip(samples, labels, strict=True)]
            row = {"set": name, "method": method.name, "views": method.views, "key": Path(method.key).name}
            rows.append(row | summarise(judged) | {"seconds": None if np.isnan(seconds) else seconds})
            say(f"{name:13} {method.name:16} {method.views:9} mAP_DSB {rows[-1]['mean']['map_dsb']:.4f}")
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables: means over images, pooled, by size."""
    lines = ["# Accuracy on validation images of unseen families", "", "Matches have IoU > t.", ""]
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row for row in rows if row["set"] == name]
        lines += [
            f"## {name}: {here[0]['images']} images, {here[0]['objects']} objects",
            "",
            f"| method | views | {' | '.join(_SHOWN.values())} | pooled mAP | pooled AP50 | pooled AP70 | "
            "pooled AP80 | small AP50 | medium | large | s/image |",
            "|---" * (len(_SHOWN) + 10) + "|",
        ]
        for row in here:
            figures = [row["mean"][key] for key in _SHOWN]
            figures += [row["pooled"][key] for key in ("map_dsb", "ap50", "ap70", "ap80")]
            sizes = {stratum["name"]: stratum["ap50"] for stratum in row["sizes"]}
            figures += [sizes.get(size) for size in ("small", "medium", "large")]
            cells = ["" if value is None else f"{value:.3f}" for value in (*figures, row["seconds"])]
            lines.append(f"| {row['method']} | {row['views']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds dsb2018/ and bbbc039/.")],
    predictions: Annotated[Path, typer.Argument(help="Folder for label images; what is there is not made again.")],
    model: Annotated[list[str] | None, typer.Option(help="Only these, may be repeated.")] = None,
    views: Annotated[str, typer.Option(help="Kinds of views.")] = ",".join(VIEWS),
    stardist: Annotated[Path | None, typer.Option(help="Label images by StarDist's package, by set.")] = None,
    into: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS,
) -> None:
    """Score every bundled model, Otsu with watershed, and, if given, StarDist's own predictions."""
    methods = [Method("Otsu + watershed", "none", "otsu", None, otsu.segment)]
    sets = validation_images(data)
    if stardist is not None:  # PREDICTIONS' layout: <folder>/<set>/<image>.png
        methods.append(Method("StarDist (package)", "none", str(stardist.resolve()), False, None))
    methods += bundled_methods(views.split(","), model or ())
    rows = compare(sets, methods, predictions, typer.echo)
    into.mkdir(parents=True, exist_ok=True)
    content = {
        "task": "instance segmentation of nuclei, validation images of unseen families",
        "rows": rows,
        "images": {name: [sample.name for sample in samples] for name, samples in sets.items()},
        "versions": {package: version(package) for package in ("cellinfer", "onnxruntime", "scikit-image", "numpy")},
        "machine": machine(),
    }
    for name, text in (("accuracy.json", json.dumps(content, indent=1) + "\n"), ("accuracy.md", markdown(rows))):
        with durable(into / name) as partial:
            partial.write_text(text, encoding="utf-8")
    typer.echo(f"written to {into / 'accuracy.md'}")


if __name__ == "__main__":
    typer.run(main)
