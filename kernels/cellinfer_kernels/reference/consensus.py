"""Plain NumPy twin of `cellinfer_kernels.consensus`: whole masks, exact fractions, sets of objects."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.consensus import Consensus

_WORD = (1 << 64) - 1


class _Object(NamedTuple):
    view: int
    label: int
    score: float
    pixels: frozenset[int]


def merge_instances(
    views: ArrayLike,
    *,
    min_iou: float = 0.5,
    min_votes: int | None = None,
    scores: Sequence[ArrayLike] | None = None,
) -> Consensus:
    """Merge objects as the kernel's docstring says, by sets of pixels."""
    stack = np.asarray(views)
    n_views = len(stack)
    needed = n_views // 2 + 1 if min_votes is None else min_votes
    objects = _objects(stack, scores)
    clusters = [
        group for group in _clusters(objects, Fraction(round(min_iou * 10_000), 10_000)) if len(group) >= needed
    ]
    clusters.sort(key=_rank)
    winner: dict[int, tuple[Fraction, int]] = {}
    for place, group in enumerate(clusters):
        for pixel, count in _votes(group).items():
            fraction = Fraction(count, len(group))
            if fraction > Fraction(1, 2) and (pixel not in winner or fraction > winner[pixel][0]):
                winner[pixel] = (fraction, place)
    numbers: dict[int, int] = {}
    labels = np.zeros(stack.shape[1:], np.int32)
    for pixel in sorted(winner):
        place = winner[pixel][1]
        name = clusters[place][0].label if n_views == 1 else len(numbers) + 1
        labels.flat[pixel] = numbers.setdefault(place, name)
    kept = [clusters[place] for place in sorted(numbers, key=lambda place: numbers[place])]
    return Consensus(
        labels,
        np.array([len(group) for group in kept], np.int32),
        n_views,
        np.array([_mean_iou(group) for group in kept], np.float32),
        np.array([_entropy(group) for group in kept], np.float32),
    )


def agreement(labels: ArrayLike, views: ArrayLike) -> Consensus:
    """Compare each object of the result with the objects that match it, by sets of pixels."""
    result, stack = np.asarray(labels), np.asarray(views)
    matched = [_matched(result, view) for view in stack]
    ids = [int(value) for value in np.unique(result) if value]
    groups = [
        [_Object(v, theirs, 0.0, _pixels(stack[v], theirs)) for v, m in enumerate(matched) if (theirs := m.get(i))]
        for i in ids
    ]
    return Consensus(
        result.astype(np.int32),
        np.array([len(group) for group in groups], np.int32),
        len(stack),
        np.array([_mean_iou(group) for group in groups], np.float32),
        np.array([_entropy(group) if group else np.nan for group in groups], np.float32),
    )


def doubt(labels: ArrayLike, views: ArrayLike) -> NDArray[np.float32]:
    """Count the views' opinions pixel by pixel."""
    result, stack = np.asarray(labels), np.asarray(views)
    opinions = []
    for view in stack:
        ours = {theirs: i for i, theirs in _matched(result, view).items()}
        opinions.append([0 if label == 0 else ours.get(int(label), -1) for label in view.ravel()])
    found = []
    for pixel in zip(*opinions, strict=True):
        p = max(0.5, max(pixel.count(opinion) for opinion in pixel) / len(stack))
        found.append(0.0 if p == 1 else -p * np.log2(p) - (1 - p) * np.log2(1 - p))
    return np.array(found, np.float32).reshape(result.shape)


def _pixels(image: NDArray[np.int32], label: int) -> frozenset[int]:
    return frozenset(np.flatnonzero(image == label).tolist())


def _matched(result: NDArray[np.int32], view: NDArray[np.int32]) -> dict[int, int]:
    """Map labels of the result to labels of the view with an IoU of at least one half, each used once."""
    ids = [[int(value) for value in np.unique(image) if value] for image in (result, view)]
    matched: dict[int, int] = {}
    candidates = []
    for ours in ids[0]:
        for theirs in ids[1]:
            a, b = _pixels(result, ours), _pixels(view, theirs)
            if 2 * len(a & b) >= len(a | b):
                candidates.append((-Fraction(len(a & b), len(a | b)), ours, theirs))
    first_of_ours = {ours: (iou, ours, theirs) for iou, ours, theirs in sorted(candidates, reverse=True)}
    for _, ours, theirs in sorted(first_of_ours.values()):
        if theirs not in matched.values():
            matched[ours] = theirs
    return matched


def _objects(stack: NDArray[np.int32], scores: Sequence[ArrayLike] | None) -> list[_Object]:
    found = []
    for view, image in enumerate(stack):
        ids = [int(value) for value in np.unique(image) if value]
        values = np.zeros(len(ids)) if scores is None else np.asarray(scores[view], np.float64)
        for label, score in zip(ids, values.tolist(), strict=True):
            found.append(_Object(view, label, score, frozenset(np.flatnonzero(image == label).tolist())))
    return found


def _iou(a: _Object, b: _Object) -> Fraction:
    return Fraction(len(a.pixels & b.pixels), len(a.pixels | b.pixels))


def _digest(a: _Object) -> int:
    """Sum of the pixels' SplitMix64 hashes."""
    total = 0
    for pixel in a.pixels:
        mixed = (pixel + 0x9E3779B97F4A7C15) & _WORD
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
        total += mixed ^ (mixed >> 31)
    return total & _WORD


def _clusters(objects: list[_Object], min_iou: Fraction) -> list[list[_Object]]:
    """Join pairs, best first, into sets with one object per view."""

    def priority(pair: tuple[_Object, _Object]) -> tuple[Fraction, float, list[int], int, int]:
        a, b = pair
        return (
            -_iou(a, b),
            -(a.score + b.score),
            sorted((a.label, b.label)),
            -len(a.pixels & b.pixels),
            (_digest(a) + _digest(b)) & _WORD,
        )

    group_of = {(one.view, one.label): [one] for one in objects}
    pairs = [(a, b) for a, b in combinations(objects, 2) if a.view != b.view and _iou(a, b) >= min_iou]
    for a, b in sorted(pairs, key=priority):
        left, right = group_of[a.view, a.label], group_of[b.view, b.label]
        if left is not right and not {one.view for one in left} & {one.view for one in right}:
            left.extend(right)
            for one in right:
                group_of[one.view, one.label] = left
    return list({id(group): group for group in group_of.values()}.values())


def _mean_iou(group: list[_Object]) -> float:
    values = sorted(float(_iou(a, b)) for a, b in combinations(group, 2))
    return sum(values) / len(values) if values else float("nan")


def _rank(group: list[_Object]) -> tuple[int, float, float, int, int]:
    mean_iou = _mean_iou(group) if len(group) > 1 else 0.0
    digest = sum(_digest(one) for one in group) & _WORD
    return -len(group), -mean_iou, -max(one.score for one in group), min(one.label for one in group), digest


def _votes(group: list[_Object]) -> dict[int, int]:
    """Count the members that have each pixel."""
    pixels, counts = np.unique([pixel for one in group for pixel in one.pixels], return_counts=True)
    return dict(zip(pixels.tolist(), counts.tolist(), strict=True))


def _entropy(group: list[_Object]) -> float:
    p = np.array(list(_votes(group).values())) / len(group)
    p = p[p < 1]
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum() / len(_votes(group)))
