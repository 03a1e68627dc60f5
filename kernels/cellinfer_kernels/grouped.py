"""Statistics of many features by group: of the cells of a site, a well or a treatment.

A table is read where it lies, and nothing as large as it is made. Where a cell's features lie side by side, whole rows
are read; where each feature lies by itself, it is read from end to end, and first put in the order of the groups if
its cells are not. A result depends on the values of its group and on their order alone: not on which features are
asked for together, nor on how the table lies in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels._order import median

__all__ = ["Groups", "arrange", "counts", "means", "median_absolute_deviations", "medians", "standard_deviations"]

_WIDE = 512  # features summed together where they lie side by side: whole rows come fastest from memory
_LANES = 16  # sums that take turns, so that none waits for its last value to be added
_ROOM = 2**18  # values gathered for medians at a time
_SQUARE = 16  # cells and features that are turned at a time: two cache lines by as many


class Groups(NamedTuple):
    """Which cells belong to which group; those of group `g` are `order[starts[g]:starts[g + 1]]`, ascending."""

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
    return Groups(*_arrange(np.ascontiguousarray(numbers, np.int64), int(count)))


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

    Sums are compensated (Kahan 1965): as good as those of twice the precision.

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
    return _means(flat, by_feature, by_cell, groups.order, groups.starts, _none(values, groups))[0]  # type: ignore[no-any-return]


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
    mean, count = _means(flat, by_feature, by_cell, groups.order, groups.starts, _none(values, groups))
    squares, _ = _means(flat, by_feature, by_cell, groups.order, groups.starts, mean)
    share = np.full(mean.shape, np.nan)
    np.divide(count, count - ddof, out=share, where=count > ddof)
    return np.asarray(np.sqrt(squares * share))


def counts(values: NDArray[Any], groups: Groups) -> NDArray[np.int64]:
    """Return how many finite values each feature has in each group, `(F, G)`; otherwise like `means`."""
    flat, by_feature, by_cell = _layout(values, groups)
    _, count = _means(flat, by_feature, by_cell, groups.order, groups.starts, _none(values, groups))
    return count.astype(np.int64)  # type: ignore[no-any-return]


def _none(values: NDArray[Any], groups: Groups) -> NDArray[np.float64]:
    """Return a centre for each feature and group that is none."""
    return np.full((len(values), groups.starts.size - 1), np.nan)


def _layout(values: NDArray[Any], groups: Groups) -> tuple[NDArray[Any], int, int]:
    """Return the stretch of memory that holds a table, and the steps in it from feature to feature, cell to cell.

    So kernels are compiled once for each type of number, not for each way in which a table can lie.
    """
    rows = np.asarray(values)
    if rows.ndim != 2:
        raise ValueError(f"statistics are taken of the rows of a 2-D array, not of one of shape {rows.shape}")
    if groups.order.size and not 0 <= groups.order.min() <= groups.order.max() < rows.shape[1]:
        raise ValueError(f"groups are of {groups.order.max() + 1} cells, the array has {rows.shape[1]}")
    if rows.dtype != np.float32:
        rows = rows.astype(np.float64, copy=False)
    size = rows.itemsize
    # A feature's cells follow each other, or a cell's features do.
    if size not in rows.strides or any(step <= 0 or step % size for step in rows.strides):
        rows = np.ascontiguousarray(rows)
    by_feature, by_cell = (step // size for step in rows.strides)
    extent = 1 + (rows.shape[0] - 1) * by_feature + (rows.shape[1] - 1) * by_cell if rows.size else 0
    return np.lib.stride_tricks.as_strided(rows, (extent,), (size,), writeable=False), by_feature, by_cell


@kernel
def _means(flat: Any, by_feature: Any, by_cell: Any, order: Any, starts: Any, centre: Any) -> Any:
    """Average each feature, or its squared distances from a centre; return also how many values there were."""
    features, groups = centre.shape
    result, counted = np.empty((features, groups)), np.empty((features, groups))
    if by_feature == 1:
        wide = min(features, _WIDE)
        total, lost = np.empty((_LANES, wide)), np.empty((_LANES, wide))
        for first in range(0, features, max(1, wide)):
            width = min(wide, features - first)
            middle, count = np.empty(width), np.empty(width)
            for group in range(groups):
                total[:], lost[:], count[:] = 0.0, 0.0, 0.0
                for column in range(width):
                    middle[column] = centre[first + column, group]
                for place in range(starts[group], starts[group + 1]):
                    row = first + order[place] * by_cell
                    lane = (place - starts[group]) % _LANES
                    _add_row(flat[row : row + width], middle, total[lane], lost[lane], count)
                for column in range(width):
                    counted[first + column, group] = count[column]
                    result[first + column, group] = _joint(total[:, column], lost[:, column]) / count[column]
    else:
        sums, losses, numbers = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
        offset, ordered, source = _places(order, starts)
        for feature in range(features):
            origin = feature * by_feature
            if offset < 0:
                _put_in_order(flat, origin, by_cell, source, ordered)
            for group in range(groups):
                sums[:], losses[:], numbers[:] = 0.0, 0.0, 0.0
                start, size = starts[group] - starts[0], starts[group + 1] - starts[group]
                middle = centre[feature, group]
                if offset < 0:
                    _add_stretch(ordered[start : start + size], middle, sums, losses, numbers)
                else:
                    begin = origin + offset + start
                    _add_stretch(flat[begin : begin + size], middle, sums, losses, numbers)
                counted[feature, group] = numbers.sum()
                result[feature, group] = _joint(sums, losses) / counted[feature, group]
    for feature in range(features):
        for group in range(groups):
            if counted[feature, group] and not np.isfinite(result[feature, group]):
                members = order[starts[group] : starts[group + 1]]
                middle = centre[feature, group]
                number = counted[feature, group]
                result[feature, group] = _mean_of_large(flat, feature * by_feature, by_cell, members, middle, number)
    return result, counted


@inlined
def _places(order: Any, starts: Any) -> Any:
    """Say how cells stand in groups.

    Returns the first cell if they follow each other, else -1; a stretch to put values in order; and the place there of
    each cell, below 0 for those of no group.
    """
    members = order[starts[0] : starts[-1]]
    follow = members.size == 0 or members[-1] - members[0] == members.size - 1
    for place in range(1, members.size):
        if members[place] != members[place - 1] + 1:
            follow = False
            break
    if follow:
        return (members[0] if members.size else 0), np.empty(0), np.empty(0, np.int64)
    source = np.full(members.max() + 1, -1)
    for place in range(members.size):
        source[members[place]] = place
    return -1, np.empty(members.size), source


@inlined
def _put_in_order(flat: Any, origin: Any, by_cell: Any, source: Any, ordered: Any) -> Any:
    """Write a feature in the order of groups: cells are read one after the other, each group is written so."""
    for cell in range(source.size):
        place = source[cell]
        if place >= 0:
            ordered[place] = flat[origin + cell * by_cell]


@inlined
def _add_row(values: Any, middle: Any, total: Any, lost: Any, count: Any) -> Any:
    """Add the features of a cell to a sum each."""
    for column in range(values.size):
        total[column], lost[column], counts = _add(
            np.float64(values[column]), middle[column], total[column], lost[column]
        )
        count[column] += counts


@inlined
def _add_stretch(values: Any, middle: Any, total: Any, lost: Any, count: Any) -> Any:
    """Add a feature of many cells to sums that take turns."""
    whole = values.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            total[lane], lost[lane], counts = _add(np.float64(values[start + lane]), middle, total[lane], lost[lane])
            count[lane] += counts
    for place in range(whole, values.size):
        lane = place - whole
        total[lane], lost[lane], counts = _add(np.float64(values[place]), middle, total[lane], lost[lane])
        count[lane] += counts


@inlined
def _add(value: Any, middle: Any, total: Any, lost: Any) -> Any:
    """Add a value, or its squared distance, to a sum; what rounding lost of the sum is taken from the next value."""
    finite = value - value == 0.0
    distance = value - middle
    value = distance * distance if distance == distance else value
    added = (value if finite else 0.0) - lost
    new = total + added
    return new, new - total - added, np.float64(finite)


@inlined
def _joint(total: Any, lost: Any) -> Any:
    """Sum of the sums that took turns (Neumaier 1974)."""
    whole = 0.0
    rest = 0.0
    for lane in range(_LANES):
        new = whole + total[lane]
        larger, smaller = (whole, total[lane]) if abs(whole) >= abs(total[lane]) else (total[lane], whole)
        rest += (larger - new) + smaller - lost[lane]
        whole = new
    return whole + rest


@inlined
def _mean_of_large(flat: Any, origin: Any, by_cell: Any, members: Any, middle: Any, number: Any) -> Any:
    """Average values whose sum is too large for a float64."""
    mean = 0.0
    for cell in members:
        value = np.float64(flat[origin + cell * by_cell])
        if np.isfinite(value):
            distance = value - middle
            mean += value / number if np.isnan(middle) else distance * (distance / number)
    return mean


@kernel
def _medians(flat: Any, by_feature: Any, by_cell: Any, features: Any, order: Any, starts: Any, deviations: Any) -> Any:
    groups = starts.size - 1
    most = 1
    for group in range(groups):
        most = max(most, starts[group + 1] - starts[group])
    result = np.full((features, groups), np.nan)
    scratch = np.empty(2 * most + 64)
    if by_feature == 1:
        wide = min(features, max(_SQUARE, _ROOM // most))
        # An odd number of cache lines from feature to feature: else those of a cell would compete for the same places.
        gathered = np.empty((wide, (most // 16 * 2 + 3) * 8))
        for first in range(0, features, max(1, wide)):
            width = min(wide, features - first)
            for group in range(groups):
                members = order[starts[group] : starts[group + 1]]
                _turn(flat, first, width, by_cell, members, gathered)
                for column in range(width):
                    result[first + column, group] = _middle(gathered[column], members.size, scratch, deviations)
    else:
        values = np.empty(most)
        offset, ordered, source = _places(order, starts)
        for feature in range(features):
            origin = feature * by_feature
            if offset < 0:
                _put_in_order(flat, origin, by_cell, source, ordered)
            for group in range(groups):
                start, size = starts[group] - starts[0], starts[group + 1] - starts[group]
                if offset < 0:
                    values[:size] = ordered[start : start + size]
                else:
                    begin = origin + offset + start
                    values[:size] = flat[begin : begin + size]
                result[feature, group] = _middle(values, size, scratch, deviations)
    return result


@inlined
def _turn(flat: Any, first: Any, width: Any, by_cell: Any, members: Any, gathered: Any) -> Any:
    """Write cells, whose features lie side by side, so that those of each feature do."""
    for start in range(0, members.size, _SQUARE):
        stop = min(start + _SQUARE, members.size)
        for left in range(0, width, _SQUARE):
            right = min(left + _SQUARE, width)
            for place in range(start, stop):
                row = first + members[place] * by_cell
                for column in range(left, right):
                    gathered[column, place] = flat[row + column]


@inlined
def _middle(values: Any, number: Any, scratch: Any, deviations: Any) -> Any:
    """Median of the finite ones among `values[:number]`, or of their distances from it; values are reordered."""
    count = _keep_finite(values, number)
    if count == 0:
        return np.nan
    middle = median(values, count, scratch)
    if deviations:
        for place in range(count):
            values[place] = abs(values[place] - middle)
        middle = median(values, count, scratch)
    return middle


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
