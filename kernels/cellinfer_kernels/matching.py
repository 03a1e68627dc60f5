"""Which objects of two label images are the same, and how well a segmentation agrees with the truth.

One pass over both images counts the pixels of every pair of labels that meet: runs of equal pairs along a row go into
a hash table, so that neither gaps in the labels nor their size matter and no dense table is made. All scores follow
from those few pairs. IoU is compared with thresholds in whole numbers: a threshold is a multiple of 1/10000, so 0.6
is 6/10 and not the 0.6000000000000001 of `numpy.arange(0.5, 1, 0.05)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import as_labels

THRESHOLD_STEPS = 10_000
"""Thresholds are multiples of 1 / THRESHOLD_STEPS."""

_EMPTY = np.int64(-1)
_START_SLOTS = 1 << 12
_TINY = 1e-12  # gains below this are rounding: IoUs that differ do so by more


class Overlaps(NamedTuple):
    """Pixels that pairs of non-zero labels of two images share, and the areas of all labels.

    `a_labels`, `b_labels` (int32) and `counts` (int64) list the pairs that share a pixel, sorted by (a, b);
    `a_ids`, `b_ids` (int32, ascending) and `a_areas`, `b_areas` (int64) list every label of either image.
    """

    a_labels: NDArray[np.int32]
    b_labels: NDArray[np.int32]
    counts: NDArray[np.int64]
    a_ids: NDArray[np.int32]
    a_areas: NDArray[np.int64]
    b_ids: NDArray[np.int32]
    b_areas: NDArray[np.int64]


class IouPairs(NamedTuple):
    """Pairs of objects that share a pixel, sorted by (truth, pred), with pixels of intersection and union (int64)."""

    truth: NDArray[np.int32]
    pred: NDArray[np.int32]
    intersection: NDArray[np.int64]
    union: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union; equal fractions give equal floats."""
        return self.intersection / self.union


class Matches(NamedTuple):
    """One-to-one matches sorted by truth label: labels (int32) and IoU (float64)."""

    truth: NDArray[np.int32]
    pred: NDArray[np.int32]
    iou: NDArray[np.float64]


class Scores(NamedTuple):
    """Per threshold (float64): true and false positives, false negatives (int64), IoU sum of the matches (float64)."""

    thresholds: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    matched_iou_sum: NDArray[np.float64]


class Errors(NamedTuple):
    """Labels (int32, ascending) of the objects that went wrong; their numbers are the arrays' sizes."""

    missed: NDArray[np.int32]
    spurious: NDArray[np.int32]
    split: NDArray[np.int32]
    merged: NDArray[np.int32]


def threshold_steps(threshold: float) -> int:
    """Return `threshold` as the nearest whole number of 1 / THRESHOLD_STEPS.

    Raises
    ------
    ValueError
        If it is not a number from 0 to 1.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"an IoU threshold lies between 0 and 1, got {threshold}")
    return round(float(threshold) * THRESHOLD_STEPS)


def dsb_thresholds() -> NDArray[np.float64]:
    """Return the ten thresholds 0.50, 0.55, ..., 0.95 of the Data Science Bowl 2018."""
    return np.arange(50, 100, 5) / 100


def overlaps(a: ArrayLike, b: ArrayLike) -> Overlaps:
    """Count the pixels shared by each pair of labels of two images.

    Parameters
    ----------
    a, b
        (H, W) integer label images of one shape, 0 = background; labels may have gaps and be large.

    Returns
    -------
    Overlaps
        Sparse pairs and areas; background is left out.

    Raises
    ------
    ValueError
        If shapes differ, an image is not a 2-D integer image, or a label is negative or above 2**31 - 1.
    """
    first, second = as_labels(np.asarray(a)), as_labels(np.asarray(b))
    if first.shape != second.shape:
        raise ValueError(f"label images differ in shape: {first.shape} and {second.shape}")
    return _overlaps(first, second)


def _overlaps(first: NDArray[np.int32], second: NDArray[np.int32]) -> Overlaps:
    """Count shared pixels of images that are known to be label images of one shape."""
    keys, counts = _pair_kernel(first, second)
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    a_labels, b_labels = (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)
    both = (a_labels > 0) & (b_labels > 0)
    by_b = np.argsort(b_labels, kind="stable")
    return Overlaps(
        a_labels[both],
        b_labels[both],
        counts[both],
        *_areas(a_labels, counts),
        *_areas(b_labels[by_b], counts[by_b]),
    )


def _areas(labels: NDArray[np.int32], counts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Sum counts over equal, sorted labels; background is dropped."""
    labels, counts = labels[labels > 0], counts[labels > 0]
    if not len(labels):
        return labels, counts
    starts = np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))
    return labels[starts], np.add.reduceat(counts, starts)


@inlined
def _slot(keys: Any, key: Any) -> Any:
    """Slot of `key` in an open-addressing table of 2**k slots, or the free slot where it belongs."""
    mask = np.uint64(len(keys) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while keys[slot] != _EMPTY and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@inlined
def _find_run_ends(a: Any, b: Any, ends: Any, words: Any, stops: Any) -> Any:
    """Write where runs of equal pairs end into `stops`; the number of runs.

    The comparison has no branches and so vectorises; eight columns without an end are then skipped at once.
    """
    width = len(a)
    for x in range(width - 1):
        ends[x] = (a[x] != a[x + 1]) | (b[x] != b[x + 1])
    n_runs = 0
    for w in range(len(words)):
        if words[w] != 0:
            for x in range(8 * w, min(8 * w + 8, width - 1)):
                stops[n_runs] = x + 1  # overwritten by the next one unless it is an end
                n_runs += ends[x]
    if width:
        stops[n_runs] = width
        n_runs += 1
    return n_runs


@kernel
def _pair_kernel(a: Any, b: Any) -> Any:
    """Keys `a << 32 | b` and pixel counts of all pairs but (0, 0), unsorted."""
    height, width = a.shape
    keys = np.full(_START_SLOTS, _EMPTY, np.int64)
    counts = np.zeros(_START_SLOTS, np.int64)
    used = 0
    ends = np.zeros(-(-width // 8) * 8, np.uint8)
    words = ends.view(np.uint64)
    stops = np.empty(width, np.int64)
    for y in range(height):
        start = 0
        for r in range(_find_run_ends(a[y], b[y], ends, words, stops)):
            stop = stops[r]
            label_a, label_b = a[y, start], b[y, start]
            length = stop - start
            start = stop
            if label_a == 0 and label_b == 0:
                continue
            key = (np.int64(label_a) << np.int64(32)) | np.int64(label_b)
            slot = _slot(keys, key)
            if keys[slot] == _EMPTY:
                keys[slot] = key
                used += 1
            counts[slot] += length
            if 2 * used > len(keys):
                old_keys, old_counts = keys, counts
                keys = np.full(4 * len(old_keys), _EMPTY, np.int64)
                counts = np.zeros(4 * len(old_keys), np.int64)
                for i in range(len(old_keys)):
                    if old_keys[i] != _EMPTY:
                        slot = _slot(keys, old_keys[i])
                        keys[slot] = old_keys[i]
                        counts[slot] = old_counts[i]
    taken = keys != _EMPTY
    return keys[taken], counts[taken]


def iou_pairs(truth: ArrayLike, pred: ArrayLike) -> IouPairs:
    """List all pairs of objects that share a pixel, with intersection and union.

    Parameters
    ----------
    truth, pred
        (H, W) integer label images of one shape, 0 = background.

    Returns
    -------
    IouPairs
        Sorted by (truth, pred).

    Raises
    ------
    ValueError
        As `overlaps`.
    """
    return pairs_of(overlaps(truth, pred))


def pairs_of(found: Overlaps) -> IouPairs:
    """Turn overlaps into pairs with intersection and union."""
    area_a = found.a_areas[np.searchsorted(found.a_ids, found.a_labels)]
    area_b = found.b_areas[np.searchsorted(found.b_ids, found.b_labels)]
    return IouPairs(found.a_labels, found.b_labels, found.counts, area_a + area_b - found.counts)


def passes(pairs: IouPairs, threshold: float, *, strict: bool) -> NDArray[np.bool_]:
    """Compare IoU with a threshold in whole numbers: > if `strict`, else >=."""
    steps = threshold_steps(threshold)
    left, right = pairs.intersection * THRESHOLD_STEPS, pairs.union * steps
    return left > right if strict else left >= right


def match(truth: ArrayLike, pred: ArrayLike, threshold: float = 0.5, *, strict: bool = True) -> Matches:
    """Match objects one to one at a threshold of IoU.

    As many objects as possible are matched, and of all ways to do so one with the largest sum of IoU is taken. Above
    an IoU of 0.5 there is only one way, since objects of an image are disjoint; below, ties go to low labels.

    Parameters
    ----------
    truth, pred
        (H, W) integer label images of one shape, 0 = background.
    threshold
        From 0 to 1, taken to the nearest 1/10000. Objects that share no pixel never match, even at 0.
    strict
        Match at IoU > threshold, as the Data Science Bowl does; else at IoU >= threshold.

    Returns
    -------
    Matches
        Sorted by truth label.

    Raises
    ------
    ValueError
        As `overlaps`, or if the threshold is not from 0 to 1.
    """
    pairs = iou_pairs(truth, pred)
    chosen = _assign(pairs, threshold, strict=strict)
    return Matches(pairs.truth[chosen], pairs.pred[chosen], pairs.iou[chosen])


def score_thresholds(truth: ArrayLike, pred: ArrayLike, thresholds: ArrayLike, *, strict: bool = True) -> Scores:
    """Count matches, spurious and missed objects at each threshold of IoU.

    Parameters
    ----------
    truth, pred
        (H, W) integer label images of one shape, 0 = background.
    thresholds
        From 0 to 1, each taken to the nearest 1/10000; `dsb_thresholds()` for mAP_DSB.
    strict
        Match at IoU > threshold, as the Data Science Bowl does; else at IoU >= threshold, as `stardist.matching` does.

    Returns
    -------
    Scores
        One entry per threshold; matches are those of `match`.

    Raises
    ------
    ValueError
        As `match`.
    """
    found = overlaps(truth, pred)
    pairs = pairs_of(found)
    exact = np.array([threshold_steps(t) / THRESHOLD_STEPS for t in np.atleast_1d(thresholds)], np.float64)
    iou = pairs.iou
    chosen = [_assign(pairs, threshold, strict=strict) for threshold in exact]
    tp = np.array([len(matched) for matched in chosen], np.int64)
    iou_sum = np.array([iou[matched].sum() for matched in chosen], np.float64)
    return Scores(exact, tp, len(found.b_ids) - tp, len(found.a_ids) - tp, iou_sum)


def average_precision(scores: Scores) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) per threshold, 1 where truth and prediction are both empty.

    The mean over `dsb_thresholds()` is the mAP_DSB of an image (Caicedo et al. 2019, Nat Methods 16:1247).
    """
    total = scores.tp + scores.fp + scores.fn
    return np.where(total == 0, 1.0, scores.tp / np.maximum(total, 1))


def errors(truth: ArrayLike, pred: ArrayLike) -> Errors:
    """Name the objects that were missed, invented, split or merged.

    An object lies inside another if more than half of its pixels do. A true object is *split* if two or more
    predictions lie inside it; a prediction is *merged* if two or more true objects lie inside it. A true object is
    *missed* if it lies inside no prediction and no prediction lies inside it; a prediction for which the same holds
    is *spurious*.

    Parameters
    ----------
    truth, pred
        (H, W) integer label images of one shape, 0 = background.

    Returns
    -------
    Errors
        Labels of `truth` (missed, split) and of `pred` (spurious, merged).

    Raises
    ------
    ValueError
        As `overlaps`.
    """
    found = overlaps(truth, pred)
    truth_inside = 2 * found.counts > found.a_areas[np.searchsorted(found.a_ids, found.a_labels)]
    pred_inside = 2 * found.counts > found.b_areas[np.searchsorted(found.b_ids, found.b_labels)]
    linked = truth_inside | pred_inside
    return Errors(
        missed=np.setdiff1d(found.a_ids, found.a_labels[linked]),
        spurious=np.setdiff1d(found.b_ids, found.b_labels[linked]),
        split=_repeated(found.a_labels[pred_inside]),
        merged=_repeated(found.b_labels[truth_inside]),
    )


def _repeated(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels that occur more than once, ascending."""
    values, counts = np.unique(labels, return_counts=True)
    return values[counts > 1]


def _assign(pairs: IouPairs, threshold: float, *, strict: bool) -> NDArray[np.int64]:
    """Ascending indices of the pairs that are matched at a threshold."""
    eligible = np.flatnonzero(passes(pairs, threshold, strict=strict))
    steps = threshold_steps(threshold)
    if 2 * steps > THRESHOLD_STEPS or (strict and 2 * steps == THRESHOLD_STEPS):
        return eligible  # disjoint objects with IoU > 1/2 match uniquely
    truth, truth_index = np.unique(pairs.truth[eligible], return_inverse=True)
    pred, pred_index = np.unique(pairs.pred[eligible], return_inverse=True)
    chosen = _assign_kernel(truth_index, pred_index, pairs.iou[eligible], len(truth), len(pred))
    return eligible[np.asarray(chosen, np.bool_)]


@kernel
def _assign_kernel(truth: Any, pred: Any, weight: Any, n_truth: Any, n_pred: Any) -> Any:
    """Largest matching of a sparse bipartite graph, and of those one of largest weight: a mask over its edges.

    Edges are sorted by truth. Truth nodes join one by one; the best matching with the new node differs from the one
    before by a single alternating path that starts there (as in the Hungarian method). The path ends at a free
    prediction if one can be reached, else it may leave a lighter truth node free. Best paths come from Bellman-Ford
    with a queue; an optimal matching has no gaining cycle, so it ends.
    """
    starts = np.zeros(n_truth + 1, np.int64)
    for e in range(len(truth)):
        starts[truth[e] + 1] += 1
    for t in range(n_truth):
        starts[t + 1] += starts[t]
    edge_of_truth = np.full(n_truth, -1, np.int64)
    edge_of_pred = np.full(n_pred, -1, np.int64)
    gain = np.full(n_truth, -np.inf)  # best change of weight on an alternating path that ends with this node free
    via = np.full(n_truth, -1, np.int64)  # edge by which the path enters the node's match
    queue = np.empty(n_truth + 1, np.int64)
    queued = np.zeros(n_truth, np.bool_)
    reached = np.empty(n_truth, np.int64)
    for root in range(n_truth):
        gain[root] = 0.0
        head, tail, n_reached = 0, 1, 1
        queue[0] = root
        queued[root] = True
        reached[0] = root
        best_gain, best_edge = -np.inf, -1
        while head != tail:
            t = queue[head]
            head = (head + 1) % len(queue)
            queued[t] = False
            for e in range(starts[t], starts[t + 1]):
                if e == edge_of_truth[t]:
                    continue
                owner = edge_of_pred[pred[e]]
                if owner < 0:
                    continue
                other = truth[owner]
                new = gain[t] + weight[e] - weight[owner]
                if other != root and new > gain[other] + _TINY:
                    if gain[other] == -np.inf:
                        reached[n_reached] = other
                        n_reached += 1
                    gain[other] = new
                    via[other] = e
                    if not queued[other]:
                        queue[tail] = other
                        tail = (tail + 1) % len(queue)
                        queued[other] = True
        for i in range(n_reached):
            t = reached[i]
            for e in range(starts[t], starts[t + 1]):
                if edge_of_pred[pred[e]] < 0 and gain[t] + weight[e] > best_gain + _TINY:
                    best_gain, best_edge = gain[t] + weight[e], e
        best_end = -1
        if best_edge < 0:  # no larger matching: perhaps a heavier one that leaves another truth node free
            best_gain = 0.0  # as the present one, which leaves the new node free
            for i in range(1, n_reached):
                if gain[reached[i]] > best_gain + _TINY:
                    best_gain, best_end = gain[reached[i]], reached[i]
        _flip_path(root, best_edge, best_end, truth, pred, via, edge_of_truth, edge_of_pred)
        for i in range(n_reached):
            gain[reached[i]] = -np.inf
            via[reached[i]] = -1
    chosen = np.zeros(len(truth), np.bool_)
    for t in range(n_truth):
        if edge_of_truth[t] >= 0:
            chosen[edge_of_truth[t]] = True
    return chosen


@inlined
def _flip_path(
    root: Any, last_edge: Any, last_truth: Any, truth: Any, pred: Any, via: Any, edge_of_truth: Any, edge_of_pred: Any
) -> Any:
    """Match along the path from `root` that ends with an edge to a free prediction, or by freeing `last_truth`."""
    edge = last_edge
    if edge < 0 and last_truth >= 0:
        edge_of_truth[last_truth] = -1
        edge = via[last_truth]
    while edge >= 0:
        t = truth[edge]
        edge_of_truth[t] = edge
        edge_of_pred[pred[edge]] = edge
        edge = -1 if t == root else via[t]
