"""How well queries retrieve what belongs to them: ranks of positives, average precision, and its null distribution.

Input is a block of similarities, queries x candidates, never all pairs of a large table at once. Only the positives of
a query are sorted; each of its negatives finds its place among them, which is all that ranks need: a grid of cells over
the positives' similarities says near which of them to look.

Ties: a negative that is as similar as a positive comes before it. So the order of rows never matters, and a table
whose profiles are all alike scores as badly as it deserves. With a tolerance, similarities that differ by no more than
that count as tied: matrix products round the same profile differently at different places of a table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel

__all__ = [
    "Precisions",
    "Ranking",
    "all_average_precisions",
    "average_precisions",
    "found_within",
    "interpolated_precisions",
    "positive_ranks",
    "random_average_precisions",
]


_FEW = 12
"""Up to so many positives, one count of all negatives for each is faster than finding each negative's place."""
_STRETCH = 1024
"""Candidates that stay in the fastest cache while they are counted for each positive."""
_CELLS = 4
"""Cells per positive."""


class Ranking(NamedTuple):
    """Where each query's positives stand in its list, from the most similar candidate (rank 1) on.

    `ranks` (int32) holds the queries one after the other, ascending; those of query `i` are
    `ranks[starts[i]:starts[i + 1]]`. `candidates` (int64) counts positives and negatives. `nearest` (int64) is the
    candidate of rank 1, of equals a negative first, then the lowest column; -1 without a candidate.
    """

    ranks: NDArray[np.int32]
    starts: NDArray[np.int64]
    candidates: NDArray[np.int64]
    nearest: NDArray[np.int64]


class Precisions(NamedTuple):
    """Average precision of each query (float64), plain and interpolated; NaN for a query without positives."""

    average: NDArray[np.float64]
    interpolated: NDArray[np.float64]


def positive_ranks(similarities: NDArray[Any], relevance: NDArray[np.int8], tolerance: float = 0.0) -> Ranking:
    """Rank each query's positives among its positives and negatives.

    Parameters
    ----------
    similarities
        `(queries, n)` float32 or float64; more is more similar. Infinite values are allowed, NaN is not.
    relevance
        `(queries, n)` int8: above 0 a positive, below 0 a negative, 0 left out of the list (the query itself).
    tolerance
        A negative comes before a positive unless it is less similar by more than this.

    Returns
    -------
    Ranking

    Raises
    ------
    ValueError
        If shapes differ, an array is not two-dimensional, the tolerance is negative, or a similarity is NaN.
    """
    values = np.ascontiguousarray(similarities)
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    kinds = np.ascontiguousarray(relevance, np.int8)
    if values.ndim != 2 or values.shape != kinds.shape:
        raise ValueError(f"similarities {values.shape} and relevance {kinds.shape} must be 2-D and of one shape")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance must not be negative: {tolerance}")
    starts = np.zeros(len(kinds) + 1, np.int64)
    np.cumsum(np.count_nonzero(kinds > 0, axis=1), out=starts[1:])
    ranks = np.empty(starts[-1], np.int32)
    candidates, nearest = np.empty((2, len(kinds)), np.int64)
    if _rank_positives(values, kinds, values.dtype.type(tolerance), starts, ranks, candidates, nearest):
        raise ValueError("a similarity is NaN")
    return Ranking(ranks, starts, candidates, nearest)


@kernel
def _rank_positives(
    similarities: Any, relevance: Any, tolerance: Any, starts: Any, ranks: Any, candidates: Any, nearest: Any
) -> Any:
    queries, n = similarities.shape
    most = 0
    for i in range(queries):
        most = max(most, starts[i + 1] - starts[i])
    found = np.empty(most, similarities.dtype)
    before = np.empty(most + 1, np.int64)
    grid = np.empty(_CELLS * most, np.int32)
    for i in range(queries):
        row = similarities[i]
        kinds = relevance[i]
        count = starts[i + 1] - starts[i]
        place = 0
        total = count
        best = -1
        best_value = similarities.dtype.type(0)
        for j in range(n):
            kind = kinds[j]
            if kind == 0:
                continue
            value = row[j]
            if value != value:
                return True
            if kind > 0:
                found[place] = value
                place += 1
            else:
                total += 1
            if best < 0 or value > best_value or (value == best_value and kind < 0 < kinds[best]):
                best = j
                best_value = value
        candidates[i] = total
        nearest[i] = best
        positives = found[:count]
        positives.sort()  # ascending
        before[: count + 1] = 0
        if count <= _FEW:
            for start in range(0, n, _STRETCH):
                stretch = slice(start, min(start + _STRETCH, n))
                for k in range(count):
                    before[k] += _not_below(row[stretch], kinds[stretch], positives[count - 1 - k] - tolerance)
            for k in range(count):
                ranks[starts[i] + k] = before[k] + k + 1
            continue
        for k in range(count):
            positives[k] -= tolerance
        lowest = positives[0]
        highest = positives[count - 1]
        cells = _CELLS * count
        scale = (cells - 1) / (np.float64(highest) - np.float64(lowest))
        gridded = 0 < scale < np.inf  # not with infinite positives, or all alike
        if gridded:
            _fill_grid(grid, positives, cells, scale)
        for j in range(n):
            value = row[j]
            if kinds[j] >= 0 or not value >= lowest:
                continue
            if value >= highest:
                before[count] += 1
            elif gridded:
                place = grid[np.int64((np.float64(value) - lowest) * scale)]
                while value >= positives[place]:  # which ends at `highest`
                    place += 1
                before[place] += 1
            else:
                before[_not_above(positives, value)] += 1
        # before[k]: negatives that come before the k least similar positives, and before no other
        ahead = 0
        for k in range(count, 0, -1):
            ahead += before[k]
            ranks[starts[i] + count - k] = ahead + count - k + 1
    return False


@inlined
def _not_below(row: Any, kinds: Any, least: Any) -> Any:
    """Count the negatives that are as similar as this, without a branch in the loop."""
    count = np.int32(0)
    for j in range(row.size):
        count += np.int32((kinds[j] < 0) & (row[j] >= least))
    return np.int64(count)


@inlined
def _fill_grid(grid: Any, positives: Any, cells: Any, scale: Any) -> None:
    """Note for each cell how many of the (ascending) positives lie in cells before it.

    The cell of a value never falls with the value, so that a value is above all positives in cells before its own.
    """
    k = 0
    for cell in range(cells):
        while k < positives.size and np.int64((np.float64(positives[k]) - positives[0]) * scale) < cell:
            k += 1
        grid[cell] = k


@inlined
def _not_above(positives: Any, value: Any) -> Any:
    """Count the (ascending) positives that a value is not below."""
    low = 0
    high = positives.size
    while low < high:
        middle = (low + high) >> 1
        if value >= positives[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def _checked(ranks: ArrayLike, starts: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    flat, edges = np.ascontiguousarray(ranks, np.int32), np.ascontiguousarray(starts, np.int64)
    if flat.ndim != 1 or edges.ndim != 1 or not edges.size or edges[0] != 0 or edges[-1] != flat.size:
        raise ValueError("starts must lead from 0 to the number of ranks")
    if (np.diff(edges) < 0).any():
        raise ValueError("starts must not decrease")
    return flat, edges


def average_precisions(ranks: ArrayLike, starts: ArrayLike) -> Precisions:
    """Average the precision at each positive of each query.

    The plain one is the mean over positives i = 1 .. m of i / rank_i; the interpolated one replaces each precision by
    the best at that rank or any later one, p(r) = max over r' >= r of p(r'), and so is never smaller.

    Parameters
    ----------
    ranks, starts
        From `positive_ranks`: ascending ranks of the positives, and where each query's begin.

    Returns
    -------
    Precisions
        Two float64 arrays with a value per query.

    Raises
    ------
    ValueError
        If `starts` does not divide `ranks`.
    """
    return Precisions(*_average(*_checked(ranks, starts)))


@kernel
def _average(ranks: Any, starts: Any) -> Any:
    queries = starts.size - 1
    plain = np.full(queries, np.nan)
    interpolated = np.full(queries, np.nan)
    for i in range(queries):
        first = starts[i]
        count = starts[i + 1] - first
        if count == 0:
            continue
        total = 0.0
        for k in range(count):
            total += (k + 1) / ranks[first + k]
        plain[i] = total / count
        best = 0.0
        total = 0.0
        for k in range(count - 1, -1, -1):
            best = max(best, (k + 1) / ranks[first + k])
            total += best
        interpolated[i] = total / count
    return plain, interpolated


def interpolated_precisions(ranks: ArrayLike, starts: ArrayLike, recalls: ArrayLike) -> NDArray[np.float64]:
    """Return p(r) = max over r' >= r of the precision at recall r', at given recalls.

    Parameters
    ----------
    ranks, starts
        From `positive_ranks`.
    recalls
        `(R,)` ascending values from 0 to 1. Recall counts as reached where it is at most 1e-9 short.

    Returns
    -------
    ndarray of shape (queries, R), float64
        NaN for a query without positives.

    Raises
    ------
    ValueError
        If `starts` does not divide `ranks`, or recalls are out of range or not ascending.
    """
    levels = np.ascontiguousarray(recalls, np.float64)
    if levels.ndim != 1 or (np.diff(levels) < 0).any() or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("recalls must ascend from 0 to 1")
    return _interpolate(*_checked(ranks, starts), levels)  # type: ignore[no-any-return]


@kernel
def _interpolate(ranks: Any, starts: Any, recalls: Any) -> Any:
    queries = starts.size - 1
    result = np.full((queries, recalls.size), np.nan)
    for i in range(queries):
        first = starts[i]
        count = starts[i + 1] - first
        if count == 0:
            continue
        best = 0.0
        level = recalls.size - 1
        for k in range(count - 1, -1, -1):
            best = max(best, (k + 1) / ranks[first + k])
            # recalls above k / count need positive k + 1
            while level >= 0 and recalls[level] * count > k + 1e-9 * count:
                result[i, level] = best
                level -= 1
        while level >= 0:  # recall 0
            result[i, level] = best
            level -= 1
    return result


def found_within(ranks: ArrayLike, starts: ArrayLike, limits: ArrayLike) -> NDArray[np.int64]:
    """Count the positives of each query among the first candidates of its list.

    Parameters
    ----------
    ranks, starts
        From `positive_ranks`.
    limits
        `(queries, L)` lengths, ascending along each row.

    Returns
    -------
    ndarray of shape (queries, L), int64

    Raises
    ------
    ValueError
        If `starts` does not divide `ranks`, or limits do not fit or do not ascend.
    """
    flat, edges = _checked(ranks, starts)
    lengths = np.ascontiguousarray(limits, np.int64)
    if lengths.ndim != 2 or len(lengths) != edges.size - 1 or (np.diff(lengths, axis=1) < 0).any():
        raise ValueError("limits must have an ascending row per query")
    return _count_within(flat, edges, lengths)  # type: ignore[no-any-return]


@kernel
def _count_within(ranks: Any, starts: Any, limits: Any) -> Any:
    result = np.zeros(limits.shape, np.int64)
    for i in range(limits.shape[0]):
        place = starts[i]
        for k in range(limits.shape[1]):
            while place < starts[i + 1] and ranks[place] <= limits[i, k]:
                place += 1
            result[i, k] = place - starts[i]
    return result


def random_average_precisions(uniforms: NDArray[np.float64], candidates: int) -> NDArray[np.float64]:
    """Return average precisions of random lists.

    Parameters
    ----------
    uniforms
        `(lists, positives)` independent values, uniform in [0, 1): they choose the positives' ranks, every set of ranks
        alike (Floyd's method: Bentley and Floyd, Communications of the ACM 30, 1987).
    candidates
        Length of each list, at least the number of positives.

    Returns
    -------
    ndarray of shape (lists,), float64

    Raises
    ------
    ValueError
        If there is no positive, or fewer candidates than positives, or a value outside [0, 1).
    """
    chosen = np.ascontiguousarray(uniforms, np.float64)
    if chosen.ndim != 2 or not 1 <= chosen.shape[1] <= candidates:
        raise ValueError(f"{chosen.shape} positives do not fit into lists of {candidates}")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < 1):
        raise ValueError("uniforms must lie in [0, 1)")
    return _average_random(chosen, int(candidates))  # type: ignore[no-any-return]


@kernel
def _average_random(uniforms: Any, candidates: Any) -> Any:
    lists, count = uniforms.shape
    result = np.empty(lists)
    taken = np.zeros(candidates + 1, np.bool_)
    ranks = np.empty(count, np.int64)
    dense = candidates < 12 * count  # then looking at each rank is cheaper than sorting
    for i in range(lists):
        for k in range(count):
            last = candidates - count + k + 1
            rank = int(uniforms[i, k] * last) + 1
            if taken[rank]:
                rank = last
            taken[rank] = True
            ranks[k] = rank
        total = 0.0
        if dense:
            k = 0
            for rank in range(1, candidates + 1):
                if taken[rank]:
                    k += 1
                    total += k / rank
        else:
            ranks.sort()
            for k in range(count):
                total += (k + 1) / ranks[k]
        for k in range(count):
            taken[ranks[k]] = False
        result[i] = total / count
    return result


def all_average_precisions(positives: int, candidates: int) -> NDArray[np.float64]:
    """Return the average precision of every list that there can be: its exact null distribution.

    Parameters
    ----------
    positives, candidates
        At least one positive, and at least as many candidates.

    Returns
    -------
    ndarray of shape (candidates choose positives,), float64
        Ascending.

    Raises
    ------
    ValueError
        If the numbers do not fit, or there are more than 2**24 lists.
    """
    if not 1 <= positives <= candidates:
        raise ValueError(f"{positives} positives do not fit into a list of {candidates}")
    lists = math.comb(int(candidates), int(positives))
    if lists > 1 << 24:
        raise ValueError(f"{lists} lists are too many: draw some with random_average_precisions")
    return _average_all(int(positives), int(candidates), lists)  # type: ignore[no-any-return]


@kernel
def _average_all(positives: Any, candidates: Any, lists: Any) -> Any:
    result = np.empty(lists)
    ranks = np.arange(1, positives + 1)
    for i in range(lists):
        total = 0.0
        for k in range(positives):
            total += (k + 1) / ranks[k]
        result[i] = total / positives
        place = positives - 1
        while place >= 0 and ranks[place] == candidates - positives + place + 1:
            place -= 1
        if place >= 0:
            ranks[place] += 1
            for k in range(place + 1, positives):
                ranks[k] = ranks[k - 1] + 1
    result.sort()
    return result
