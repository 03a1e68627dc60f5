"""Intensity statistics of all objects in one channel, in the image's own units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels._order import quantile_at
from cellinfer_kernels.components import Groups

__all__ = ["Intensities", "intensities"]

Column = NDArray[np.float64]
_SPAN = 8  # whole numbers within so many times their count are sorted by counting


class Intensities(NamedTuple):
    """Intensity statistics of n objects, all (n,) float64; coordinates in pixels, y downwards."""

    total: Column
    mean: Column
    std: Column
    """Population standard deviation (divided by the number of pixels)."""
    minimum: Column
    maximum: Column
    lower_quartile: Column
    median: Column
    upper_quartile: Column
    """Quartiles and median, interpolated between the values at their rank."""
    mad: Column
    """Median of the absolute deviations from the median, not scaled."""
    edge_total: Column
    """As above, over the pixels of `Groups.outline` only."""
    edge_mean: Column
    edge_std: Column
    edge_minimum: Column
    edge_maximum: Column
    mass_y: Column
    mass_x: Column
    """Mean position weighted with intensity; NaN if the total is 0."""
    displacement: Column
    """Distance between that and the unweighted mean position."""
    peak_y: Column
    peak_x: Column
    """The brightest pixel, the first in raster order of several."""


def intensities(groups: Groups, values: NDArray[np.float64], *, legacy: bool = False) -> Intensities:
    """Measure the intensities of every object.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.
    values
        (P,) the channel's values in the order of `groups.pixels`. NaN and infinite ones are left out, as if they did
        not belong to the object; without any finite pixel (on the outline) all (edge) values are NaN.
    legacy
        Take quartiles, median and median absolute deviation at rank q n of n sorted values, as CellProfiler does,
        instead of q (n - 1).

    Returns
    -------
    Intensities
        One row per id of `groups`.

    Raises
    ------
    ValueError
        If there is not one value per pixel.
    """
    column = np.ascontiguousarray(values, np.float64)
    if column.shape != groups.pixels.shape:
        raise ValueError(f"values of shape {column.shape} do not fit {groups.pixels.size} pixels")
    return Intensities(
        *_measure(
            groups.begins, groups.rows, groups.starts, groups.stops, groups.firsts, groups.outline, column, legacy
        )
    )


@kernel
def _measure(
    begins: Any, rows: Any, starts: Any, stops: Any, firsts: Any, outline: Any, values: Any, legacy: Any
) -> Any:
    n = begins.size - 1
    table = np.full((19, n), np.nan)
    largest = 0
    for k in range(n):
        largest = max(largest, begins[k + 1] - begins[k])
    kept = np.empty(largest)
    rim = np.empty(largest)
    counts = np.zeros(_SPAN * largest + _SPAN, np.int32)
    for k in range(n):
        count = 0
        edges = 0
        top = np.int64(rows[firsts[k]])
        left = np.int64(starts[firsts[k]])
        sum_y = sum_x = 0
        mass_y = mass_x = total = 0.0
        peak = -np.inf
        peak_y: Any = 0
        peak_x: Any = 0
        whole = True
        i = begins[k]
        for run in range(firsts[k], firsts[k + 1]):
            y = rows[run] - top
            row_total = 0.0
            for column in range(starts[run] - left, stops[run] - left):
                value = values[i]
                i += 1
                if not np.isfinite(value):
                    continue
                kept[count] = value
                count += 1
                if outline[i - 1]:
                    rim[edges] = value
                    edges += 1
                sum_y += y
                sum_x += column
                row_total += value
                mass_x += value * column
                whole = whole and value == np.rint(value)
                if value > peak:
                    peak = value
                    peak_y = y
                    peak_x = column
            total += row_total
            mass_y += row_total * y
        if count == 0:
            continue
        _summarise(kept[:count], table[:5, k])
        span = table[4, k] - table[3, k]
        if whole and span < _SPAN * count:
            _sort_whole(kept, count, table[3, k], np.int64(span) + 1, counts)
            _sorted_ranks(kept, count, legacy, table[5:9, k])
        else:
            _selected_ranks(kept, count, legacy, table[5:9, k])
        if edges > 0:
            _summarise(rim[:edges], table[9:14, k])
        if total != 0:
            table[14, k] = top + mass_y / total
            table[15, k] = left + mass_x / total
            table[16, k] = np.hypot(mass_y / total - sum_y / count, mass_x / total - sum_x / count)
        table[17, k] = top + peak_y
        table[18, k] = left + peak_x
    return table


@kernel
def _sort_whole(values: Any, count: Any, low: Any, span: Any, counts: Any) -> Any:
    """Sort whole numbers within `low` .. `low + span - 1` by counting."""
    for i in range(count):
        counts[np.int64(values[i] - low)] += 1
    place = 0
    for step in range(span):
        for _ in range(counts[step]):
            values[place] = low + step
            place += 1
        counts[step] = 0


@inlined
def _rank(count: Any, fraction: Any, legacy: Any) -> Any:
    """Position of a quantile among `count` sorted values."""
    return min(count * fraction if legacy else (count - 1) * fraction, count - 1.0)


@kernel
def _sorted_ranks(values: Any, count: Any, legacy: Any, out: Any) -> Any:
    """Write quartiles, median and median absolute deviation of sorted values."""
    for quarter in range(1, 4):
        position = _rank(count, 0.25 * quarter, legacy)
        place = int(position)
        weight = position - place
        low = values[place]
        out[quarter - 1] = low + (values[min(place + 1, count - 1)] - low) * weight
    # From the median outwards both ways: the deviations in ascending order.
    median = out[1]
    position = _rank(count, 0.5, legacy)
    above = 0
    while above < count and values[above] < median:
        above += 1
    below = above - 1
    low = high = 0.0
    for place in range(min(int(position) + 2, count)):
        low = high
        if above >= count or (below >= 0 and median - values[below] <= values[above] - median):
            high = median - values[below]
            below -= 1
        else:
            high = values[above] - median
            above += 1
        if place == int(position):
            low = high
    out[3] = low + (high - low) * (position - int(position))


@kernel
def _selected_ranks(values: Any, count: Any, legacy: Any, out: Any) -> Any:
    """Write the same of values in any order; reorders them."""
    for quarter in range(1, 4):
        out[quarter - 1] = quantile_at(values, 0, count, _rank(count, 0.25 * quarter, legacy))
    for i in range(count):
        values[i] = abs(values[i] - out[1])
    out[3] = quantile_at(values, 0, count, _rank(count, 0.5, legacy))


@kernel
def _summarise(values: Any, out: Any) -> Any:
    """Write total, mean, standard deviation, minimum and maximum."""
    base = values[0]  # sums relative to it: equal values have exactly their own mean
    excess = 0.0
    low = base
    high = base
    for value in values:
        excess += value - base
        low = min(low, value)
        high = max(high, value)
    mean = base + excess / values.size
    squares = 0.0
    for value in values:
        squares += (value - mean) * (value - mean)
    out[0] = base * values.size + excess
    out[1] = mean
    out[2] = np.sqrt(squares / values.size)
    out[3] = low
    out[4] = high
