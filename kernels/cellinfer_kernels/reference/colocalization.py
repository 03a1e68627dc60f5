"""NumPy twin of `cellinfer_kernels.colocalization`: one object at a time, every threshold tried on all its pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.colocalization import Colocalization

Column = NDArray[np.float64]


def ranks(begins: NDArray[np.int64], values: Column) -> NDArray[np.int32]:
    """Look every value up among the object's distinct values."""
    result = np.full(values.size, -1, np.int32)
    for start, stop in pairwise(begins):
        finite = np.flatnonzero(np.isfinite(values[start:stop])) + start
        result[finite] = np.searchsorted(np.unique(values[finite]), values[finite])
    return result


def colocalization(
    begins: NDArray[np.int64],
    first: Column,
    second: Column,
    first_ranks: NDArray[np.int32],
    second_ranks: NDArray[np.int32],
    *,
    largest: tuple[float, float] = (65535.0, 65535.0),
    steps: int = 65535,
    threshold: float = 15.0,
) -> Colocalization:
    """Measure object after object."""
    rows = []
    for start, stop in pairwise(begins):
        place = np.flatnonzero(np.isfinite(first[start:stop]) & np.isfinite(second[start:stop])) + start
        a, b = first[place], second[place]
        if not place.size:
            rows.append([np.nan] * 11)
            continue
        rows.append(
            [
                *_pearson(a, b),
                *_overlap(a, b, threshold),
                *_manders(a, b, np.ones(a.size), threshold),
                *_manders(a, b, _nearness(first_ranks[place], second_ranks[place]), threshold),
                *_costes(a / largest[0], b / largest[1], steps),
            ]
        )
    return Colocalization(*np.array(rows, dtype=np.float64).reshape(-1, 11).T)


def _pearson(a: Column, b: Column) -> tuple[Any, Any]:
    if np.ptp(a) == 0:
        return np.nan, np.nan
    if np.ptp(b) == 0:
        return np.nan, 0.0
    return np.corrcoef(a, b)[0, 1], np.polynomial.Polynomial.fit(a, b, 1).convert().coef[1]


def _overlap(a: Column, b: Column, threshold: float) -> tuple[Any, Any, Any]:
    both = (a >= threshold / 100 * a.max()) & (b >= threshold / 100 * b.max())
    if not both.any():
        return 0.0, 0.0, 0.0
    a, b = a[both], b[both]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a @ b) / np.sqrt((a @ a) * (b @ b)), (a @ b) / (a @ a), (a @ b) / (b @ b)


def _manders(a: Column, b: Column, weight: Column, threshold: float) -> tuple[Any, Any]:
    bright_a = a >= threshold / 100 * a.max()
    bright_b = b >= threshold / 100 * b.max()
    both = bright_a & bright_b
    if not both.any():
        return 0.0, 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * weight)[both].sum() / a[bright_a].sum(), (b * weight)[both].sum() / b[bright_b].sum()


def _nearness(one: NDArray[np.int32], other: NDArray[np.int32]) -> Column:
    levels = float(max(one.max(), other.max()) + 1)
    result: Column = (levels - np.abs(one - other)) / levels
    return result


def _costes(a: Column, b: Column, steps: int) -> tuple[Any, Any]:
    """Manders' coefficients above the thresholds that bisection finds."""
    lit = (a > 0) | (b > 0)
    undefined = np.nan, np.nan
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1 or np.count_nonzero(lit) < 3:
        return undefined
    if np.ptp(a[lit]) == 0 or np.ptp(b[lit]) == 0:
        return undefined
    (a_variance, covariance), (_, b_variance) = np.cov(a[lit], b[lit])
    if abs(covariance) <= 8 * np.finfo(float).eps * max(a_variance, b_variance):
        return undefined
    difference = b_variance - a_variance
    slope = (difference + np.sqrt(difference**2 + 4 * covariance**2)) / (2 * covariance)
    offset = b[lit].mean() - slope * a[lit].mean()
    found = _bisect(a, b, slope, offset, steps)
    reach, height = found / steps, slope * (found / steps) + offset
    if np.isnan(found) or np.isnan(_correlation(a, b, (a < reach) | (b < height))):
        return undefined
    total_a, total_b = a[a >= reach].sum(), b[b >= height].sum()
    if total_a <= 0 or total_b <= 0:
        return undefined
    both = (a > reach) & (b > height)
    return a[both].sum() / total_a, b[both].sum() / total_b


def _correlation(a: Column, b: Column, chosen: NDArray[np.bool_]) -> float:
    if np.count_nonzero(chosen) < 3 or np.ptp(a[chosen]) == 0 or np.ptp(b[chosen]) == 0:
        return np.nan
    return float(np.corrcoef(a[chosen], b[chosen])[0, 1])


def _bisect(a: Column, b: Column, slope: float, offset: float, steps: int) -> float:
    left, right, last, found = 1.0, float(steps), 0.0, np.nan
    for _ in range(257):
        candidate = left + (right - left) // (6 / 5 if right - left > 6 else 2)
        if candidate == last:
            return found
        reach = candidate / steps
        if _correlation(a, b, (a < reach) | (b < slope * reach + offset)) >= -1e-12:  # 0 to within rounding
            right, found = candidate + 1, candidate - 1
        else:
            left = candidate - 1
        last = candidate
    return np.nan
