"""Plain NumPy twin of `cellinfer_kernels.matching`: dense masks, exact fractions and exhaustive search."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.matching import Errors, IouPairs, Matches, Overlaps, Scores


def dsb_thresholds() -> NDArray[np.float64]:
    """Return 0.50, 0.55, ..., 0.95."""
    return np.array([float(f"0.{percent}") for percent in range(50, 100, 5)])


def _ids(labels: NDArray[np.int32]) -> list[int]:
    return [int(value) for value in np.unique(labels) if value > 0]


def overlaps(a: ArrayLike, b: ArrayLike) -> Overlaps:
    """Count shared pixels by comparing every mask of `a` with every mask of `b`."""
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape:
        raise ValueError(f"label images differ in shape: {first.shape} and {second.shape}")
    found = [
        (i, j, int(np.sum((first == i) & (second == j))))
        for i in _ids(first)
        for j in _ids(second)
        if np.any((first == i) & (second == j))
    ]
    table = np.array(found, np.int64).reshape(-1, 3)
    return Overlaps(
        table[:, 0].astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2],
        np.array(_ids(first), np.int32),
        np.array([np.sum(first == i) for i in _ids(first)], np.int64),
        np.array(_ids(second), np.int32),
        np.array([np.sum(second == j) for j in _ids(second)], np.int64),
    )


def iou_pairs(truth: ArrayLike, pred: ArrayLike) -> IouPairs:
    """List intersection and union of the masks that meet."""
    true_image, pred_image = np.asarray(truth), np.asarray(pred)
    found = overlaps(true_image, pred_image)
    unions = [
        int(np.sum((true_image == i) | (pred_image == j))) for i, j in zip(found.a_labels, found.b_labels, strict=True)
    ]
    return IouPairs(found.a_labels, found.b_labels, found.counts, np.array(unions, np.int64))


def match(truth: ArrayLike, pred: ArrayLike, threshold: float = 0.5, *, strict: bool = True) -> Matches:
    """Match at one threshold by trying every one-to-one assignment."""
    pairs = iou_pairs(truth, pred)
    limit = Fraction(round(threshold * 10_000), 10_000)
    options: dict[int, list[tuple[int, Fraction]]] = {}
    for i, j, shared, union in zip(*(array.tolist() for array in pairs), strict=True):
        iou = Fraction(shared, union)
        if iou > limit or (iou == limit and not strict):
            options.setdefault(i, []).append((j, iou))
    _, _, chosen = _best(options)
    return Matches(
        np.array([i for i, _, _ in chosen], np.int32),
        np.array([j for _, j, _ in chosen], np.int32),
        np.array([float(iou) for _, _, iou in chosen], np.float64),
    )


_Chosen = tuple[tuple[int, int, Fraction], ...]


def _best(options: dict[int, list[tuple[int, Fraction]]]) -> tuple[int, Fraction, _Chosen]:
    """Largest number of matches, then the largest IoU sum, over all assignments."""
    rows = sorted(options)

    @cache
    def search(row: int, used: frozenset[int]) -> tuple[int, Fraction, _Chosen]:
        if row == len(rows):
            return 0, Fraction(0), ()
        best = search(row + 1, used)
        for column, iou in options[rows[row]]:
            if column not in used:
                count, total, rest = search(row + 1, used | {column})
                candidate = (count + 1, total + iou, ((rows[row], column, iou), *rest))
                best = max(best, candidate, key=lambda found: found[:2])
        return best

    return search(0, frozenset())


def score_thresholds(truth: ArrayLike, pred: ArrayLike, thresholds: ArrayLike, *, strict: bool = True) -> Scores:
    """Score each threshold on its own."""
    limits = np.atleast_1d(np.asarray(thresholds, np.float64))
    matches = [match(truth, pred, float(limit), strict=strict) for limit in limits]
    tp = np.array([len(found.iou) for found in matches], np.int64)
    n_true, n_pred = len(_ids(np.asarray(truth))), len(_ids(np.asarray(pred)))
    iou_sum = np.array([found.iou.sum() for found in matches], np.float64)
    return Scores(np.round(limits, 4), tp, n_pred - tp, n_true - tp, iou_sum)


def average_precision(scores: Scores) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN), 1 for nothing at all."""
    rows = zip(scores.tp.tolist(), scores.fp.tolist(), scores.fn.tolist(), strict=True)
    return np.array([tp / (tp + fp + fn) if tp + fp + fn else 1.0 for tp, fp, fn in rows])


def errors(truth: ArrayLike, pred: ArrayLike) -> Errors:
    """Look at every object's pixels in the other image."""
    true_image, pred_image = np.asarray(truth), np.asarray(pred)
    holder_of_pred = {j: _holder(true_image[pred_image == j]) for j in _ids(pred_image)}
    holder_of_true = {i: _holder(pred_image[true_image == i]) for i in _ids(true_image)}

    def pick(ids: list[int], inside: dict[int, int], holders: dict[int, int], least: int) -> NDArray[np.int32]:
        """Objects holding at least `least`; for 0, those that neither hold anything nor are held."""
        held = {i: sum(holder == i for holder in inside.values()) for i in ids}
        chosen = [i for i in ids if (held[i] >= least if least else not held[i] and not holders[i])]
        return np.array(chosen, np.int32)

    true_ids, pred_ids = _ids(true_image), _ids(pred_image)
    return Errors(
        missed=pick(true_ids, holder_of_pred, holder_of_true, 0),
        spurious=pick(pred_ids, holder_of_true, holder_of_pred, 0),
        split=pick(true_ids, holder_of_pred, holder_of_true, 2),
        merged=pick(pred_ids, holder_of_true, holder_of_pred, 2),
    )


def _holder(values: NDArray[np.int32]) -> int:
    """Label that more than half of the values have, 0 for none or background."""
    found, counts = np.unique(values, return_counts=True)
    most = int(np.argmax(counts))
    return int(found[most]) if 2 * counts[most] > len(values) else 0
