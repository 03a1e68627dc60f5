"""Plain twin of `cellinfer_kernels.grouped`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Groups(NamedTuple):
    """Which cells belong to which group; those of group `g` are `order[starts[g]:starts[g + 1]]`, ascending."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]


def arrange(codes: NDArray[Any], count: int) -> Groups:
    """Put cells in the order of their groups; those with a code below 0 belong to none."""
    members = [np.flatnonzero(np.asarray(codes) == group) for group in range(count)]
    order = np.concatenate([np.empty(0, np.int64), *members])
    return Groups(order.astype(np.int64), np.cumsum([0, *map(len, members)], dtype=np.int64))


def means(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the mean of each feature's finite values in each group, `(F, G)`; NaN where there is none."""
    return _each(values, groups, lambda finite: math.fsum(finite) / len(finite))


def medians(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the median of each feature's finite values in each group."""
    return _each(values, groups, lambda finite: float(np.median(finite)))


def median_absolute_deviations(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the median distance of each feature's finite values from their median, in each group."""
    return _each(values, groups, lambda finite: float(np.median(np.abs(finite - np.median(finite)))))


def standard_deviations(values: NDArray[Any], groups: Groups, *, ddof: int = 0) -> NDArray[np.float64]:
    """Return the standard deviation of each feature's finite values in each group."""
    return _each(values, groups, lambda finite: float(finite.std(ddof=ddof)) if len(finite) > ddof else math.nan)


def counts(values: NDArray[Any], groups: Groups) -> NDArray[np.int64]:
    """Return how many finite values each feature has in each group."""
    return np.nan_to_num(_each(values, groups, lambda finite: float(len(finite)))).astype(np.int64)


def _each(
    values: NDArray[Any], groups: Groups, statistic: Callable[[NDArray[np.float64]], float]
) -> NDArray[np.float64]:
    rows = np.asarray(values, np.float64)
    result = np.full((len(rows), len(groups.starts) - 1), np.nan)
    for group, (first, last) in enumerate(zip(groups.starts[:-1], groups.starts[1:], strict=True)):
        for feature, row in enumerate(rows[:, groups.order[first:last]]):
            finite = row[np.isfinite(row)]
            if finite.size:
                result[feature, group] = statistic(finite)
    return result
