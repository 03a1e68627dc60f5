"""Statistics of many features by group: of the cells of a site, a well or a treatment.

A table is read where it lies, by cell or by feature, a few features at a time, and nothing as large as it is made.
Means are summed cell by cell in their order, side by side for the features of a row. For medians the values of a group
are gathered into a stretch of memory that stays in the processor's cache, and selected from there. Either way a result
depends on the values of its group and on their order alone: not on which features are asked for together, nor on how
the table lies in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels._order import median

__all__ = ["Groups", "arrange", "counts", "means", "median_absolute_deviations", "medians", "standard_deviations"]

_WIDE = 512  # features summed side by side: long enough that a sum is ready again when its next value comes
_CHUNK = 128  # cells that are turned at a time if they lie by feature
_AT_ONCE = 16  # features whose groups are gathered together if they lie by cell: two cache lines of a row


class Groups(NamedTuple):
    """Which cells belong to which group; those of group `g` are `order[starts[g]:starts[g + 1]]`, ascending."""

    codes: NDArray[np.int64]
    """`(n,)` group of each cell, below 0 for none."""
    order: NDArray[np.int64]
    starts: NDArray[np.int64]


def arrange(codes: NDArray[Any], count: int) -> Groups:
    """Put cells in the order of their groups.

    Parameters
    ----------
    codes
        `(n,)` integers: the group of each cell, 0 .. count - 1; cells below 0 belong to none.
    count
        How many groups there are; some may be empty.

    Returns
    -------
    Groups
        Cells by group.

    Raises
    ------
    ValueError
        If codes are no row of integers, or one is not below `count`.
    """
    numbers = np.asarray(codes)
    if numbers.ndim != 1 or not (numbers.dtype.kind in "iu" or numbers.size == 0):
        raise ValueError(f"groups are given by a row of integers, not by {numbers.dtype} of shape {numbers.shape}")
    if count < 0 or (numbers.size and numbers.max() >= count):
        raise ValueError(f"a group's number is not below the number of groups, {count}")
    numbers = np.ascontiguousarray(numbers, np.int64)
    return Groups(numbers, *_arrange(numbers, int(count)))


@kernel
def _arrange(codes: Any, count: Any) -> Any:
    starts = np.zeros(count + 1, np.int64)
    for code in codes:
        if code >= 0:
            starts[code + 1] += 1
    for group in range(count):
        starts[group + 1] += starts[group]
    order = np.empty(starts[count], np.int64)
    place = starts.copy()
    for cell in range(codes.size):
        code = codes[cell]
        if code >= 0:
            order[place[code]] = cell
            place[code] += 1
    return order, starts


def means(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the mean of each feature in each group, over its finite values.

    Sums are compensated (Kahan 1965), cell by cell, as those of pandas are.

    Parameters
    ----------
    values
        `(F, n)` real array: a row per feature, a column per cell; any strides.
    groups
        Of the n cells, see `arrange`.

    Returns
    -------
    ndarray of shape (F, G), float64
        NaN where a group has no finite value.

    Raises
    ------
    ValueError
        If the array is not 2-D, or groups are of more cells than it has.
    """
    flat, by_feature, by_cell = _layout(values, groups)
    return _means(flat, by_feature, by_cell, len(values), groups.codes, groups.starts.size - 1)[0]  # type: ignore[no-any-return]


def medians(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the median of each feature in each group, over its finite values; otherwise like `means`.

    Of an even number of values it is the mean of the middle two.
    """
    flat, by_feature, by_cell = _layout(values, groups)
    return _medians(flat, by_feature, by_cell, len(values), groups.order, groups.starts, False)  # type: ignore[no-any-return]


def median_absolute_deviations(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return the median distance from the median, not scaled, of each feature in each group; otherwise like `means`."""
    flat, by_feature, by_cell = _layout(values, groups)
    return _medians(flat, by_feature, by_cell, len(values), groups.order, groups.starts, True)  # type: ignore[no-any-return]


def standard_deviations(values: NDArray[Any], groups: Groups, *, ddof: int = 0) -> NDArray[np.float64]:
    """Return the standard deviation of each feature in each group, over its finite values; otherwise like `means`.

    Parameters
    ----------
    values, groups
        As for `means`.
    ddof
        What is taken from the number of values to divide by; NaN where nothing is left.
    """
    flat, by_feature, by_cell = _layout(values, groups)
    number = groups.starts.size - 1
    mean, count = _means(flat, by_feature, by_cell, len(values), groups.codes, number)
    squares = _squares(flat, by_feature, by_cell, groups.codes, mean)
    variance = np.full(mean.shape, np.nan)
    np.divide(squares, count - ddof, out=variance, where=count > ddof)
    return np.sqrt(variance)


def counts(values: NDArray[Any], groups: Groups) -> NDArray[np.int64]:
    """Return how many finite values each feature has in each group, `(F, G)`; otherwise like `means`."""
    flat, by_feature, by_cell = _layout(values, groups)
    _, count = _means(flat, by_feature, by_cell, len(values), groups.codes, groups.starts.size - 1)
    return count.astype(np.int64)  # type: ignore[no-any-return]


def _layout(values: NDArray[Any], groups: Groups) -> tuple[NDArray[Any], int, int]:
    """Return the stretch of memory that holds a table, and the steps in it from feature to feature, cell to cell.

    So kernels are compiled once for each type of number, not for each way in which a table can lie.
    """
    rows = np.asarray(values)
    if rows.ndim != 2:
        raise ValueError(f"statistics are taken of the rows of a 2-D array, not of one of shape {rows.shape}")
    if rows.shape[1] != groups.codes.size:
        raise ValueError(f"groups are of {groups.codes.size} cells, the array has {rows.shape[1]}")
    if rows.dtype != np.float32:
        rows = rows.astype(np.float64, copy=False)
    size = rows.itemsize
    if size not in rows.strides or any(step <= 0 or step % size for step in rows.strides):
        rows = np.ascontiguousarray(rows)
    by_feature, by_cell = (step // size for step in rows.strides)
    extent = 1 + (rows.shape[0] - 1) * by_feature + (rows.shape[1] - 1) * by_cell if rows.size else 0
    return np.lib.stride_tricks.as_strided(rows, (extent,), (size,), writeable=False), by_feature, by_cell


@kernel
def _means(flat: Any, by_feature: Any, by_cell: Any, features: Any, codes: Any, groups: Any) -> Any:
    result = np.empty((features, groups), np.float64)
    counted = np.empty((features, groups), np.float64)
    sums, lost, count = np.empty((groups, _WIDE)), np.empty((groups, _WIDE)), np.empty((groups, _WIDE))
    turned = np.empty(_CHUNK * _WIDE, np.float64)
    for first in range(0, features, _WIDE):
        width = min(_WIDE, features - first)
        sums[:], lost[:], count[:] = 0.0, 0.0, 0.0
        if by_feature == 1:
            _add(flat, first, by_cell, codes, 0, codes.size, width, sums, lost, count)
        else:
            for start in range(0, codes.size, _CHUNK):
                stop = min(start + _CHUNK, codes.size)
                _turn(flat, first, by_feature, by_cell, start, stop, width, turned)
                _add(turned, 0, _WIDE, codes, start, stop, width, sums, lost, count)
        for group in range(groups):
            for column in range(width):
                number = count[group, column]
                counted[first + column, group] = number
                result[first + column, group] = sums[group, column] / number if number else np.nan
    return result, counted


@inlined
def _turn(flat: Any, first: Any, by_feature: Any, by_cell: Any, start: Any, stop: Any, width: Any, turned: Any) -> Any:
    """Write cells that lie by feature below each other."""
    for column in range(width):
        origin = (first + column) * by_feature
        for cell in range(start, stop):
            turned[(cell - start) * _WIDE + column] = flat[origin + cell * by_cell]


@inlined
def _add(
    flat: Any,
    origin: Any,
    by_cell: Any,
    codes: Any,
    start: Any,
    stop: Any,
    width: Any,
    sums: Any,
    lost: Any,
    count: Any,
) -> Any:
    """Add cells to the sums of their groups; what rounding lost of a sum is taken from its next value."""
    for cell in range(start, stop):
        group = codes[cell]
        if group < 0:
            continue
        row = origin + (cell - start) * by_cell
        values = flat[row : row + width]
        total, slip, number = sums[group], lost[group], count[group]
        for column in range(width):
            value = np.float64(values[column])
            finite = value - value == 0.0
            number[column] += np.float64(finite)
            added = (value if finite else 0.0) - slip[column]
            new = total[column] + added
            slip[column] = new - total[column] - added
            total[column] = new


@kernel
def _squares(flat: Any, by_feature: Any, by_cell: Any, codes: Any, mean: Any) -> Any:
    """Sum the squared distances from the means of the groups."""
    features, groups = mean.shape
    result = np.zeros((features, groups), np.float64)
    for feature in range(features):
        lost = np.zeros(groups, np.float64)
        for cell in range(codes.size):
            group = codes[cell]
            value = np.float64(flat[feature * by_feature + cell * by_cell])
            if group >= 0 and np.isfinite(value):
                distance = value - mean[feature, group]
                added = distance * distance - lost[group]
                total = result[feature, group] + added
                lost[group] = total - result[feature, group] - added
                result[feature, group] = total
    return result


@kernel
def _medians(flat: Any, by_feature: Any, by_cell: Any, features: Any, order: Any, starts: Any, deviations: Any) -> Any:
    groups = starts.size - 1
    most = 0
    for group in range(groups):
        most = max(most, starts[group + 1] - starts[group])
    step = _AT_ONCE if by_feature == 1 else 1
    result = np.full((features, groups), np.nan)
    gathered = np.empty((step, most), np.float64)
    scratch, sample = np.empty(most, np.float64), np.empty(64, np.float64)
    for first in range(0, features, step):
        width = min(step, features - first)
        for group in range(groups):
            start = starts[group]
            number = starts[group + 1] - start
            if by_feature == 1:
                for place in range(number):
                    row = first + order[start + place] * by_cell
                    for column in range(width):
                        gathered[column, place] = flat[row + column]
            else:
                for place in range(number):
                    gathered[0, place] = flat[first * by_feature + order[start + place] * by_cell]
            for column in range(width):
                values = gathered[column]
                count = _keep_finite(values, number)
                if count:
                    middle = median(values, count, scratch, sample)
                    if deviations:
                        for place in range(count):
                            values[place] = abs(values[place] - middle)
                        middle = median(values, count, scratch, sample)
                    result[first + column, group] = middle
    return result


@inlined
def _keep_finite(values: Any, number: Any) -> Any:
    """Move the finite values to the front; return how many there are."""
    odd = 0
    for place in range(number):
        odd += int(values[place] - values[place] != 0.0)
    if odd == 0:
        return number
    count = 0
    for place in range(number):
        value = values[place]
        values[count] = value
        count += int(value - value == 0.0)
    return count
