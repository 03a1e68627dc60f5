"""Instance merge of test-time augmentation: which objects of several segmentations of one image to believe.

Objects of different views that overlap well are clustered, at most one object per view; a cluster found by the
majority of views becomes an object, whose pixels are voted on by the views that found it (Moshkov et al. 2020, Sci
Rep 10:5068). Every choice is made by what the objects are, never by where a view stands in the stack, so the result
does not depend on the order of the views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import as_labels, compact, root_of
from cellinfer_kernels.matching import _overlaps, pairs_of, passes

MAX_VIEWS = 64
"""Views of a cluster are the bits of one machine word."""

SAME = 0.5
"""IoU from which an object of a view is the same as one of a given result, see `agreement` and `doubt`."""


class Consensus(NamedTuple):
    """Merged objects, and how far the views agree about each; arrays are in ascending order of the labels."""

    labels: NDArray[np.int32]
    """(H, W) merged objects, 0 = background."""
    votes: NDArray[np.int32]
    """(K,) number of views that have the object."""
    views: int
    """Number of views asked."""
    mean_iou: NDArray[np.float32]
    """(K,) mean IoU over all pairs of the views that have it; NaN where only one has."""
    entropy: NDArray[np.float32]
    """(K,) mean over all pixels that any of these views gives it of the binary entropy (bits) of the pixel's votes."""


class _Objects(NamedTuple):
    """All objects of all views, by view and then by label."""

    view: NDArray[np.int64]
    label: NDArray[np.int32]
    score: NDArray[np.float64]
    box: NDArray[np.int64]  # first row, first column, last row + 1, last column + 1
    digest: NDArray[np.uint64]  # of the set of its pixels
    starts: NDArray[np.int64]  # first object of each view


class _Pairs(NamedTuple):
    """Objects of two views that share a pixel."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    iou: NDArray[np.float64]
    shared: NDArray[np.int64]
    same: NDArray[np.bool_]  # IoU >= min_iou


def merge_instances(
    views: ArrayLike,
    *,
    min_iou: float = 0.5,
    min_votes: int | None = None,
    scores: Sequence[ArrayLike] | None = None,
) -> Consensus:
    """Merge label images of one field into the objects that most of them have.

    1. Two objects of different views are the same if their IoU is at least `min_iou`. Such pairs are joined in order
       of IoU, then of the sum of the two scores, then of the lower and the higher label, then of the number of shared
       pixels (all best first; lowest first for labels), unless that would put two objects of one view together.
    2. A cluster with at least `min_votes` objects is kept. A pixel is its own if more than half of *its* views say so.
    3. A pixel that two clusters claim goes to the larger fraction of votes, then to the cluster with more views, then
       the higher mean IoU, higher best score, lowest label. Clusters that lose all their pixels are dropped.

    Parameters
    ----------
    views
        (N, H, W) integer label images, 0 = background, all restored to image coordinates; 1 <= N <= 64.
    min_iou
        Above 0 and up to 1, taken to the nearest 1/10000.
    min_votes
        Number of views an object needs, 1 to N; by default a strict majority, N // 2 + 1.
    scores
        For each view the scores of its objects in ascending order of their labels; all equal by default.

    Returns
    -------
    Consensus
        Objects are numbered 1..K by their first pixel in raster order. With one view the labels are returned as they
        are.

    Raises
    ------
    ValueError
        If the stack is not (N, H, W), a view is not a label image, an option is out of range, or scores do not fit.

    Notes
    -----
    The result does not depend on the order of the views. If the views are the symmetries of `views.D4`, turning the
    input turns the objects and keeps votes, IoU and entropy; only the numbering follows the raster. Where candidates
    tie in all of the above, a digest of their pixels decides, which keeps the first property and not the second. Merged
    objects may have several parts or holes, as votes go by pixel.
    """
    stack = _label_stack(views)
    n_views = len(stack)
    needed = n_views // 2 + 1 if min_votes is None else min_votes
    if not 0.0 < min_iou <= 1.0:
        raise ValueError(f"min_iou must be above 0 and at most 1, got {min_iou}")
    if not 1 <= needed <= n_views:
        raise ValueError(f"min_votes must be 1 to {n_views}, the number of views, got {needed}")
    objects = _list_objects(stack, scores)
    pairs = _list_pairs(stack, objects, min_iou)
    cluster = _cluster(objects, pairs)
    votes = np.bincount(cluster, minlength=len(cluster)).astype(np.int64)
    mean_iou = _mean_iou(cluster, votes, pairs)
    ranked = _rank(objects, cluster, votes, mean_iou, needed)
    place = np.full(len(cluster), -1, np.int64)
    place[ranked] = np.arange(len(ranked))
    owner, entropy = _vote(stack, objects, place[cluster], len(ranked))
    if n_views == 1:
        labels, numbered = stack[0].copy(), np.argsort(objects.label[ranked])
    else:
        labels, numbered = _number_kernel(owner, len(ranked))
    chosen = ranked[numbered]
    return Consensus(
        labels,
        votes[chosen].astype(np.int32),
        n_views,
        mean_iou[chosen].astype(np.float32),
        entropy[numbered].astype(np.float32),
    )


def agreement(labels: ArrayLike, views: ArrayLike) -> Consensus:
    """Say how far views agree with the objects of a given result.

    An object of a view is the same as an object of the result if their IoU is at least `SAME`; where that leaves a
    choice (at exactly one half) the lower labels are taken. What follows is as in `merge_instances`.

    Parameters
    ----------
    labels
        (H, W) integer label image, 0 = background.
    views
        (N, H, W) integer label images, all restored to image coordinates; 1 <= N <= 64.

    Returns
    -------
    Consensus
        The labels as they are; votes may be 0, and then there is neither mean IoU nor entropy (NaN).

    Raises
    ------
    ValueError
        If the views are not (N, H, W), shapes differ, or an image is not a label image.
    """
    result, stack = _result_and_views(labels, views)
    objects = _list_objects(stack, None)
    ids = _ids(result)
    member_of = np.full(len(objects.label), -1, np.int64)
    for v, (ours, theirs) in enumerate(_matched(result, stack)):
        member_of[_index(objects, v, theirs)] = np.searchsorted(ids, ours)
    votes = np.bincount(member_of[member_of >= 0], minlength=len(ids)).astype(np.int64)
    pairs = _list_pairs(stack, objects, SAME)
    together = (member_of[pairs.first] >= 0) & (member_of[pairs.first] == member_of[pairs.second])
    mean_iou = _mean_iou(member_of, votes, _Pairs(*(column[together] for column in pairs)))
    seen = np.flatnonzero(votes)
    place = np.full(len(ids) + 1, -1, np.int64)  # the last one stands for objects that are no member
    place[seen] = np.arange(len(seen))
    entropy = np.full(len(ids), np.nan)
    _, entropy[seen] = _vote(stack, objects, place[member_of], len(seen))
    return Consensus(
        result.copy(), votes.astype(np.int32), len(stack), mean_iou.astype(np.float32), entropy.astype(np.float32)
    )


def doubt(labels: ArrayLike, views: ArrayLike) -> NDArray[np.float32]:
    """Map where views disagree: the entropy, pixel by pixel, of the views' votes on what the pixel is.

    A view says of a pixel that it is background, or one of the result's objects (matched as in `agreement`), or an
    object that the result does not have. The doubt is the binary entropy of the share of views that hold the most
    frequent opinion, and 1 where that is less than half of them.

    Parameters
    ----------
    labels, views
        As in `agreement`.

    Returns
    -------
    ndarray
        (H, W) float32, 0 (all views say the same) to 1 bit.

    Raises
    ------
    ValueError
        As in `agreement`.
    """
    result, stack = _result_and_views(labels, views)
    opinions = np.empty_like(stack)
    for v, (ours, theirs) in enumerate(_matched(result, stack)):
        compacted, ids = compact(stack[v])
        opinion = np.full(len(ids) + 1, -1, np.int32)
        opinion[0] = 0
        opinion[1 + np.searchsorted(ids, theirs)] = ours
        opinions[v] = opinion[compacted]
    share = np.maximum(np.arange(len(stack) + 1) / len(stack), 0.5)
    inside = share < 1
    p = np.where(inside, share, 0.5)
    bits = np.where(inside, -p * np.log2(p) - (1 - p) * np.log2(1 - p), 0.0)
    found: NDArray[np.float32] = _doubt_kernel(opinions, bits.astype(np.float32))
    return found


def _result_and_views(labels: ArrayLike, views: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Check both and return them as C-contiguous int32."""
    result, stack = as_labels(np.asarray(labels)), _label_stack(views)
    if result.shape != stack.shape[1:]:
        raise ValueError(f"labels of shape {result.shape} and views of shape {stack.shape} differ in size")
    return result, stack


def _ids(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of an image, ascending."""
    return compact(labels)[1]


def _matched(
    result: NDArray[np.int32], stack: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield, for each view, labels of the result and labels of the view that are the same object."""
    for view in stack:
        pairs = pairs_of(_overlaps(result, view))
        same = np.flatnonzero(passes(pairs, SAME, strict=False))
        # Above one half an object has one partner at most; pairs are sorted by label, and the first one is taken.
        same = same[np.lexsort((pairs.pred[same], pairs.truth[same], -pairs.iou[same]))]
        same = same[np.sort(np.unique(pairs.truth[same], return_index=True)[1])]
        same = same[np.sort(np.unique(pairs.pred[same], return_index=True)[1])]
        yield pairs.truth[same], pairs.pred[same]


def _label_stack(views: ArrayLike) -> NDArray[np.int32]:
    """Check the stack and return it as C-contiguous int32."""
    array = np.asarray(views)
    if array.ndim != 3 or not 1 <= len(array) <= MAX_VIEWS:
        raise ValueError(f"views must be (N, H, W) with N from 1 to {MAX_VIEWS}, got shape {array.shape}")
    return as_labels(array.reshape(-1, array.shape[2])).reshape(array.shape)


def _list_objects(stack: NDArray[np.int32], scores: Sequence[ArrayLike] | None) -> _Objects:
    """List every object of every view with its box and a digest of its pixels."""
    sequential = [compact(one) for one in stack]
    ids = [labels for _, labels in sequential]
    found = [_object_kernel(image, len(labels)) for image, labels in sequential]
    counts = [len(labels) for labels in ids]
    return _Objects(
        view=np.repeat(np.arange(len(stack)), counts),
        label=np.concatenate(ids),
        score=_flat_scores(scores, counts),
        box=np.concatenate([boxes for boxes, _ in found]),
        digest=np.concatenate([digests for _, digests in found]),
        starts=np.concatenate(([0], np.cumsum(counts))),
    )


def _flat_scores(scores: Sequence[ArrayLike] | None, counts: list[int]) -> NDArray[np.float64]:
    """Scores of all objects, zeros by default."""
    if scores is None:
        return np.zeros(sum(counts))
    arrays = [np.asarray(one, np.float64) for one in scores]
    if [one.shape for one in arrays] != [(count,) for count in counts]:
        shapes = [one.shape for one in arrays]
        raise ValueError(f"scores must hold one value per object and view: objects {counts}, shapes {shapes}")
    flat = np.concatenate(arrays)
    if np.isnan(flat).any():
        raise ValueError("scores must not be NaN")
    return flat


def _list_pairs(stack: NDArray[np.int32], objects: _Objects, min_iou: float) -> _Pairs:
    """Compare every two views."""
    none = np.empty(0, np.int64)
    parts = [_Pairs(none, none, none.astype(np.float64), none, none.astype(np.bool_))]
    for i, j in combinations(range(len(stack)), 2):
        pairs = pairs_of(_overlaps(stack[i], stack[j]))
        first, second = (_index(objects, v, labels) for v, labels in ((i, pairs.truth), (j, pairs.pred)))
        same = passes(pairs, min_iou, strict=False)
        parts.append(_Pairs(first, second, pairs.iou, pairs.intersection, same))
    return _Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _index(objects: _Objects, view: int, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Places of a view's labels in the list of objects."""
    start, stop = objects.starts[view : view + 2]
    return np.asarray(start + np.searchsorted(objects.label[start:stop], labels), np.int64)


def _cluster(objects: _Objects, pairs: _Pairs) -> NDArray[np.int64]:
    """Give each object the index of one object of its cluster."""
    first, second, iou, shared = (column[pairs.same] for column in pairs[:4])
    # Everything here is the same for (a, b) and (b, a); masks that are equal tie in all but cannot be rivals.
    order = np.lexsort(
        (
            objects.digest[first] + objects.digest[second],
            -shared,
            np.maximum(objects.label[first], objects.label[second]),
            np.minimum(objects.label[first], objects.label[second]),
            -(objects.score[first] + objects.score[second]),
            -iou,
        )
    )
    bits = np.uint64(1) << objects.view.astype(np.uint64)
    return np.asarray(_join_kernel(first[order], second[order], bits), np.int64)


def _mean_iou(cluster: NDArray[np.int64], votes: NDArray[np.int64], pairs: _Pairs) -> NDArray[np.float64]:
    """Mean IoU over all pairs of a cluster, those that share no pixel included."""
    inside = cluster[pairs.first] == cluster[pairs.second]
    owner, iou = cluster[pairs.first[inside]], pairs.iou[inside]
    order = np.lexsort((iou, owner))  # adding in order of size makes the sum independent of the order of the views
    total = np.bincount(owner[order], weights=iou[order], minlength=len(votes))
    n_pairs = votes * (votes - 1) // 2
    return np.where(n_pairs > 0, total / np.maximum(n_pairs, 1), np.nan)


def _rank(
    objects: _Objects, cluster: NDArray[np.int64], votes: NDArray[np.int64], mean_iou: NDArray[np.float64], needed: int
) -> NDArray[np.int64]:
    """List the clusters with enough votes, those that win a tie for a pixel first."""
    best_score = np.full(len(votes), -np.inf)
    lowest = np.full(len(votes), np.iinfo(np.int32).max, np.int32)
    digest = np.zeros(len(votes), np.uint64)
    np.maximum.at(best_score, cluster, objects.score)
    np.minimum.at(lowest, cluster, objects.label)
    np.add.at(digest, cluster, objects.digest)
    kept = np.flatnonzero(votes >= needed)
    order = np.lexsort((digest[kept], lowest[kept], -best_score[kept], -mean_iou[kept], -votes[kept]))
    return kept[order]


def _vote(
    stack: NDArray[np.int32], objects: _Objects, member_of: NDArray[np.int64], n_clusters: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Give each pixel the cluster that wins it (-1: none), and each cluster its entropy.

    `member_of` holds each object's cluster, the clusters that win ties first, or -1.
    """
    members = np.flatnonzero(member_of >= 0)
    members = members[np.argsort(member_of[members], kind="stable")]
    starts = np.searchsorted(member_of[members], np.arange(n_clusters + 1))
    owner, histogram = _vote_kernel(stack, objects.view[members], objects.label[members], objects.box[members], starts)
    votes = np.diff(starts)[:, None].astype(np.float64)
    fraction = np.arange(histogram.shape[1]) / np.maximum(votes, 1)
    inside = (fraction > 0) & (fraction < 1)
    p = np.where(inside, fraction, 0.5)
    bits = np.where(inside, -p * np.log2(p) - (1 - p) * np.log2(1 - p), 0.0)
    return owner, (histogram * bits).sum(1) / histogram.sum(1)


@kernel
def _object_kernel(labels: Any, n: Any) -> Any:
    """Boxes and pixel digests of the objects 1..n of an image."""
    height, width = labels.shape
    boxes = np.empty((n, 4), np.int64)
    digests = np.zeros(n, np.uint64)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = height, width, 0, 0
    for y in range(height):
        for x in range(width):
            at = labels[y, x] - 1
            if at >= 0:
                boxes[at, 0] = min(boxes[at, 0], y)
                boxes[at, 1] = min(boxes[at, 1], x)
                boxes[at, 2] = y + 1
                boxes[at, 3] = max(boxes[at, 3], x + 1)
                digests[at] += _mixed(y * width + x)
    return boxes, digests


@inlined
def _mixed(number: Any) -> Any:
    """Scatter a number over 64 bits (SplitMix64), so that sums tell sets of numbers apart."""
    mixed = np.uint64(number) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@kernel
def _join_kernel(first: Any, second: Any, bits: Any) -> Any:
    """Join pairs in the order given unless the clusters share a view; the root of each object."""
    n_objects = len(bits)
    parents = np.arange(n_objects)
    members = bits.copy()
    for e in range(len(first)):
        a, b = root_of(parents, first[e]), root_of(parents, second[e])
        if a != b and members[a] & members[b] == 0:
            parents[b] = a
            members[a] |= members[b]
    for i in range(n_objects):
        parents[i] = root_of(parents, i)
    return parents


@kernel
def _vote_kernel(stack: Any, member_view: Any, member_label: Any, member_box: Any, starts: Any) -> Any:
    """Vote inside each cluster's box: the winning cluster of each pixel, and pixels by number of votes."""
    n_views, height, width = stack.shape
    owner = np.full((height, width), -1, np.int32)
    owner_votes = np.zeros((height, width), np.uint8)
    n_clusters = len(starts) - 1
    histogram = np.zeros((n_clusters, n_views + 1), np.int64)
    votes = np.zeros(width, np.uint8)
    for c in range(n_clusters):
        first, last = starts[c], starts[c + 1]
        size = last - first
        y0, x0 = member_box[first:last, 0].min(), member_box[first:last, 1].min()
        y1, x1 = member_box[first:last, 2].max(), member_box[first:last, 3].max()
        for y in range(y0, y1):
            votes[x0:x1] = 0
            for m in range(first, last):
                if member_box[m, 0] <= y < member_box[m, 2]:
                    row, label = stack[member_view[m], y], member_label[m]
                    for x in range(member_box[m, 1], member_box[m, 3]):
                        votes[x] += np.uint8(row[x] == label)
            for x in range(x0, x1):
                count = np.int64(votes[x])
                if count == 0:
                    continue
                histogram[c, count] += 1
                if 2 * count > size:
                    rival = owner[y, x]
                    rival_size = starts[rival + 1] - starts[rival] if rival >= 0 else 1
                    # An earlier cluster, which wins ties, keeps the pixel unless its fraction is smaller.
                    if rival < 0 or count * rival_size > owner_votes[y, x] * size:
                        owner[y, x] = c
                        owner_votes[y, x] = count
    return owner, histogram


@kernel
def _number_kernel(owner: Any, n_clusters: Any) -> Any:
    """Paint the clusters that own pixels, numbered in raster order, and list the cluster of each number."""
    height, width = owner.shape
    labels = np.zeros((height, width), np.int32)
    number = np.zeros(n_clusters, np.int32)
    chosen = np.empty(n_clusters, np.int64)
    used = 0
    for y in range(height):
        for x in range(width):
            c = owner[y, x]
            if c >= 0:
                if number[c] == 0:
                    chosen[used] = c
                    used += 1
                    number[c] = used
                labels[y, x] = number[c]
    return labels, chosen[:used].copy()


@kernel
def _doubt_kernel(opinions: Any, bits: Any) -> Any:
    """`bits[n]` of each pixel, n the number of views that hold its most frequent opinion."""
    n_views, height, width = opinions.shape
    found = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            best = 0
            for i in range(n_views):
                if n_views - i <= best:
                    break
                count = 0
                for j in range(i, n_views):
                    count += opinions[j, y, x] == opinions[i, y, x]
                best = max(best, count)
            found[y, x] = bits[best]
    return found
