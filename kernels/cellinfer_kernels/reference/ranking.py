"""Plain twin of `cellinfer_kernels.ranking`."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.ranking import Precisions, Ranking


def positive_ranks(similarities: NDArray[Any], relevance: NDArray[np.int8], tolerance: float = 0.0) -> Ranking:
    """Count, for each positive, the negatives that are at least as similar and the positives before it."""
    ranks: list[int] = []
    starts, candidates, nearest = [0], [], []
    margin = similarities.dtype.type(tolerance)
    for values, kinds in zip(similarities, relevance, strict=True):
        if np.isnan(values[kinds != 0]).any():
            raise ValueError("a similarity is NaN")
        positives = sorted(values[kinds > 0], reverse=True)
        ranks += [int(np.sum(values[kinds < 0] >= one - margin)) + place for place, one in enumerate(positives, 1)]
        starts.append(len(ranks))
        listed = np.flatnonzero(kinds)
        candidates.append(len(listed))
        nearest.append(min(listed, key=lambda column: (-values[column], np.sign(kinds[column]), column), default=-1))
    return Ranking(np.array(ranks, np.int32), np.array(starts), np.array(candidates), np.array(nearest, np.int64))


def _split(ranks: ArrayLike, starts: ArrayLike) -> list[NDArray[Any]]:
    edges = np.asarray(starts)
    return [np.asarray(ranks)[first:last] for first, last in pairwise(edges)]


def _precisions(ranks: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.arange(1, len(ranks) + 1) / ranks, np.float64)


def average_precisions(ranks: ArrayLike, starts: ArrayLike) -> Precisions:
    """Average the precisions, and the largest of each and all after it."""
    plain, interpolated = [], []
    for one in _split(ranks, starts):
        precision = _precisions(one)
        plain.append(precision.mean() if len(one) else np.nan)
        later = [precision[place:].max() for place in range(len(one))]
        interpolated.append(np.mean(later) if later else np.nan)
    return Precisions(np.array(plain, np.float64), np.array(interpolated, np.float64))


def interpolated_precisions(ranks: ArrayLike, starts: ArrayLike, recalls: ArrayLike) -> NDArray[np.float64]:
    """Look for the best precision at or beyond each recall."""
    levels = np.asarray(recalls, np.float64)
    result = []
    for one in _split(ranks, starts):
        precision = _precisions(one)
        reached = np.arange(1, len(one) + 1) / max(len(one), 1)
        result.append([precision[reached >= level - 1e-9].max() if len(one) else np.nan for level in levels])
    return np.array(result, np.float64).reshape(len(result), len(levels))


def found_within(ranks: ArrayLike, starts: ArrayLike, limits: ArrayLike) -> NDArray[np.int64]:
    """Count ranks up to each limit."""
    lengths = np.asarray(limits)
    counts = [(one[:, None] <= row).sum(0) for one, row in zip(_split(ranks, starts), lengths, strict=True)]
    return np.array(counts, np.int64).reshape(lengths.shape)


def random_average_precisions(uniforms: NDArray[np.float64], candidates: int) -> NDArray[np.float64]:
    """Choose ranks by Floyd's method with sets."""
    result = []
    for row in uniforms:
        chosen: set[int] = set()
        for last, uniform in enumerate(row, candidates - len(row) + 1):
            rank = int(uniform * last) + 1
            chosen.add(last if rank in chosen else rank)
        result.append(_precisions(np.array(sorted(chosen))).mean())
    return np.array(result, np.float64)


def all_average_precisions(positives: int, candidates: int) -> NDArray[np.float64]:
    """Go through all sets of ranks."""
    sets = combinations(range(1, candidates + 1), positives)
    return np.sort([_precisions(np.array(ranks)).mean() for ranks in sets])
