"""How well label images agree with the truth: mAP_DSB and its relatives, per image and over a folder.

Objects match at IoU > t by default, as in the Data Science Bowl 2018; `strict=False` matches at IoU >= t. Importing
this module is light (NumPy and the kernels), so training loops can use `evaluate_pair`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cellinfer_kernels.matching import (
    average_precision,
    dsb_thresholds,
    errors,
    match,
    overlaps,
    score_thresholds,
)

from cellinfer.errors import InputError

Array = npt.NDArray[Any]

_SUFFIXES = (".tif", ".tiff", ".png")
_NAMED = 8


@dataclass(frozen=True, slots=True)
class PairScore:
    """Scores of one image; every ratio is 1 where truth and prediction are both empty, and within 0 to 1."""

    map_dsb: float
    """Mean of TP / (TP + FP + FN) over the IoU thresholds 0.50, 0.55, ..., 0.95."""
    ap50: float
    ap75: float
    f1_50: float
    """2 TP / (2 TP + FP + FN) at IoU 0.5."""
    f1_70: float
    panoptic_quality: float
    """Sum of the matches' IoU over TP + FP / 2 + FN / 2, at IoU 0.5 (Kirillov et al. 2019)."""
    jaccard: float
    """Intersection over union of all foreground pixels."""
    true_objects: int
    predicted_objects: int
    true_positives: int
    """At IoU 0.5, like the two below."""
    false_positives: int
    false_negatives: int
    missed: int
    """True objects that lie in no prediction and hold none (an object lies in another with over half its area)."""
    spurious: int
    """Predictions that lie in no true object and hold none."""
    split: int
    """True objects that hold two or more predictions."""
    merged: int
    """Predictions that hold two or more true objects."""


class ObjectAreas(NamedTuple):
    """Areas in pixels of all true objects, and of predictions without a match, at IoU 0.5."""

    truth: npt.NDArray[np.int64]
    found: npt.NDArray[np.bool_]
    """Which of `truth` are matched."""
    unmatched: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stratum:
    """Objects of one size over all images, at IoU 0.5; an unmatched prediction counts by its own size."""

    name: str
    smallest: int
    """Smallest area in pixels."""
    largest: int | None
    """Largest area in pixels; None: no limit."""
    true_objects: int
    true_positives: int
    false_positives: int
    recall: float | None
    """None where there are no such objects."""
    ap50: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a folder of label images."""

    images: dict[str, PairScore]
    """By file stem, sorted."""
    mean: dict[str, float]
    """Mean over images of each ratio."""
    total: dict[str, int]
    """Sum over images of each count."""
    sizes: tuple[Stratum, ...]
    """Thirds of the true objects by area: small, medium, large."""
    strict: bool
    missing: tuple[str, ...]
    """Truth without a prediction, counted as empty predictions."""
    ignored: tuple[str, ...]
    """Predictions without truth."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per image, for a table."""
        return [{"image": name, **asdict(score)} for name, score in self.images.items()]


def evaluate_pair(truth: Array, pred: Array, *, strict: bool = True) -> PairScore:
    """Score one label image.

    Parameters
    ----------
    truth, pred
        (H, W) integer label images of one shape, 0 = background; labels may have gaps.
    strict
        Match at IoU > t, as the Data Science Bowl does; else at IoU >= t.

    Returns
    -------
    PairScore

    Raises
    ------
    ValueError
        If shapes differ, an image is not a 2-D integer image, or a label is negative.
    """
    dsb = dsb_thresholds()
    scores = score_thresholds(truth, pred, np.append(dsb, [0.5, 0.75, 0.7]), strict=strict)
    precision = average_precision(scores)
    at50, at75, at70 = range(len(dsb), len(dsb) + 3)
    tp, fp, fn = (int(counts[at50]) for counts in (scores.tp, scores.fp, scores.fn))
    wrong = errors(truth, pred)
    both = int(np.count_nonzero((truth != 0) & (pred != 0)))
    either = int(np.count_nonzero((truth != 0) | (pred != 0)))
    return PairScore(
        map_dsb=float(precision[: len(dsb)].mean()),
        ap50=float(precision[at50]),
        ap75=float(precision[at75]),
        f1_50=_dice(scores.tp[at50], scores.fp[at50], scores.fn[at50]),
        f1_70=_dice(scores.tp[at70], scores.fp[at70], scores.fn[at70]),
        panoptic_quality=_ratio(float(scores.matched_iou_sum[at50]), tp + (fp + fn) / 2),
        jaccard=_ratio(both, either),
        true_objects=tp + fn,
        predicted_objects=tp + fp,
        true_positives=tp,
        false_positives=fp,
        false_negatives=fn,
        missed=len(wrong.missed),
        spurious=len(wrong.spurious),
        split=len(wrong.split),
        merged=len(wrong.merged),
    )


def object_areas(truth: Array, pred: Array, *, strict: bool = True) -> ObjectAreas:
    """Return the areas that size strata need, from label images as in `evaluate_pair`."""
    found = overlaps(truth, pred)
    matches = match(truth, pred, 0.5, strict=strict)
    unmatched = found.b_areas[~np.isin(found.b_ids, matches.pred)]
    return ObjectAreas(found.a_areas, np.isin(found.a_ids, matches.truth), unmatched)


def mean_scores(scores: Iterable[PairScore]) -> dict[str, float]:
    """Return the mean over images of every ratio in `PairScore` (not of the counts)."""
    rows = [asdict(score) for score in scores]
    return {
        key: float(np.mean([row[key] for row in rows])) for key, value in rows[0].items() if isinstance(value, float)
    }


def size_strata(images: Sequence[ObjectAreas]) -> tuple[Stratum, ...]:
    """Score small, medium and large objects: thirds of the true objects of all images by area.

    Parameters
    ----------
    images
        One per image.

    Returns
    -------
    tuple of Stratum
        Small, medium, large; empty if there are no true objects. Equal areas stay together, so thirds may be uneven.
    """
    truth = np.concatenate([image.truth for image in images]) if images else np.empty(0, np.int64)
    if not len(truth):
        return ()
    found = np.concatenate([image.found for image in images])
    unmatched = np.concatenate([image.unmatched for image in images])
    first, second = (int(np.ceil(np.quantile(truth, q))) for q in (1 / 3, 2 / 3))
    limits: list[tuple[str, int, int | None]] = [
        ("small", 1, first - 1),
        ("medium", first, second - 1),
        ("large", second, None),
    ]
    return tuple(_stratum(name, low, high, truth, found, unmatched) for name, low, high in limits)


def evaluate(
    pred_dir: str | os.PathLike[str],
    truth_dir: str | os.PathLike[str],
    *,
    strict: bool = True,
    pattern: str = "*",
    allow_missing: bool = False,
) -> Evaluation:
    """Score a folder of label images against a folder of true ones.

    Files (`.tif`, `.tiff`, `.png`) pair by stem; `_labels` at the end of a stem does not count.

    Parameters
    ----------
    pred_dir, truth_dir
        Folders of label images, 0 = background.
    strict
        As in `evaluate_pair`.
    pattern
        Only truth whose file name fits this shell pattern counts.
    allow_missing
        Count truth without a prediction as an empty prediction instead of refusing.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a folder is not there or has no images, two files of a folder have one stem, predictions are missing, or a
        pair differs in size.
    ImageError
        If a file is no label image.
    """
    files = pair_files(pred_dir, truth_dir, pattern=pattern, allow_missing=allow_missing)
    return summarise(files, score_files(files, strict=strict), strict=strict)


class Files(NamedTuple):
    """Truth and its predictions by stem, sorted."""

    pairs: dict[str, tuple[Path, Path | None]]
    """Stem -> truth, prediction (None: missing)."""
    ignored: tuple[str, ...]


def pair_files(
    pred_dir: str | os.PathLike[str],
    truth_dir: str | os.PathLike[str],
    *,
    pattern: str = "*",
    allow_missing: bool = False,
) -> Files:
    """Find each truth's prediction; parameters and errors as in `evaluate`."""
    truth, preds = _by_stem(Path(truth_dir), pattern), _by_stem(Path(pred_dir), "*")
    missing = [stem for stem in truth if stem not in preds]
    if len(missing) == len(truth):
        raise InputError(
            f"no file of {pred_dir} has the name of a truth: predictions are {_some(preds)}; truth is {_some(truth)}"
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(truth)} truth images have no prediction in {pred_dir}: {_some(missing)} "
            "(--allow-missing counts them as empty predictions)"
        )
    ignored = tuple(preds[stem].name for stem in preds if stem not in truth)
    return Files({stem: (path, preds.get(stem)) for stem, path in truth.items()}, ignored)


def score_files(files: Files, *, strict: bool = True) -> Iterator[tuple[str, PairScore, ObjectAreas]]:
    """Read and score pair by pair; errors as in `evaluate`."""
    from cellinfer.images import read_labels  # here: evaluate_pair needs no image decoders

    for stem, (truth_path, pred_path) in files.pairs.items():
        truth = read_labels(truth_path)
        pred = np.zeros_like(truth) if pred_path is None else read_labels(pred_path)
        if truth.shape != pred.shape:
            raise InputError(
                f"{pred_path} is {_size(pred)} but its truth {truth_path} is {_size(truth)}: they must be of one size"
            )
        yield stem, evaluate_pair(truth, pred, strict=strict), object_areas(truth, pred, strict=strict)


def summarise(files: Files, scored: Iterable[tuple[str, PairScore, ObjectAreas]], *, strict: bool) -> Evaluation:
    """Gather what `score_files` yields."""
    images: dict[str, PairScore] = {}
    areas: list[ObjectAreas] = []
    for stem, score, sizes in scored:
        images[stem] = score
        areas.append(sizes)
    rows = [asdict(score) for score in images.values()]
    return Evaluation(
        images=images,
        mean=mean_scores(images.values()),
        total={key: sum(row[key] for row in rows) for key, value in rows[0].items() if isinstance(value, int)},
        sizes=size_strata(areas),
        strict=strict,
        missing=tuple(stem for stem, (_, pred) in files.pairs.items() if pred is None),
        ignored=files.ignored,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _dice(tp: np.int64, fp: np.int64, fn: np.int64) -> float:
    return _ratio(2 * int(tp), 2 * int(tp) + int(fp) + int(fn))


def _stratum(
    name: str, low: int, high: int | None, truth: Array, found: npt.NDArray[np.bool_], unmatched: Array
) -> Stratum:
    top = np.inf if high is None else high
    inside = (truth >= low) & (truth <= top)
    objects, tp = int(inside.sum()), int((inside & found).sum())
    fp = int(((unmatched >= low) & (unmatched <= top)).sum())
    return Stratum(
        name,
        low,
        high,
        objects,
        tp,
        fp,
        recall=tp / objects if objects else None,
        ap50=tp / (objects + fp) if objects + fp else None,
    )


def _by_stem(folder: Path, pattern: str) -> dict[str, Path]:
    """Return a folder's label images by stem, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        stem = path.stem.removesuffix(".ome").removesuffix("_labels")
        if stem in found:
            raise InputError(f"{found[stem]} and {path} are both {stem}: keep one of them")
        found[stem] = path
    if not found:
        fit = "" if pattern == "*" else f" that fits {pattern!r}"
        raise InputError(f"{folder} has no label image (.tif, .tiff or .png){fit}")
    return dict(sorted(found.items()))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _size(image: Array) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
