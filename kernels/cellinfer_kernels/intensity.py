"""Intensity statistics of all objects in one channel, in the image's own units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels._order import quantile
from cellinfer_kernels.components import Groups

__all__ = ["Intensities", "intensities"]

Column = NDArray[np.float64]


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
    """Quartiles and median in NumPy's "linear" convention."""
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


def intensities(groups: Groups, image: NDArray[Any]) -> Intensities:
    """Measure one channel of every object.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.
    image
        2-D real array of the same shape. Pixels that are NaN or infinite are left out, as if they did not belong to
        the object; without any finite pixel (on the outline) all (edge) values are NaN.

    Returns
    -------
    Intensities
        One row per id of `groups`.

    Raises
    ------
    ValueError
        If the image has another shape than the label image.
    """
    plane = np.asarray(image)
    if plane.shape != groups.shape:
        raise ValueError(f"image of shape {plane.shape} does not fit labels of shape {groups.shape}")
    values = plane.ravel()[groups.pixels].astype(np.float64)
    table = _measure(groups.begins, groups.pixels, groups.outline, values, groups.shape[1])
    return Intensities(*table)


@kernel
def _measure(begins: Any, pixels: Any, outline: Any, values: Any, width: Any) -> Any:
    n = begins.size - 1
    table = np.full((19, n), np.nan)
    largest = 0
    for k in range(n):
        largest = max(largest, begins[k + 1] - begins[k])
    kept = np.empty(largest)
    rim = np.empty(largest)
    for k in range(n):
        count = 0
        edges = 0
        top = np.int64(pixels[begins[k]] // width)
        left = np.int64(pixels[begins[k]] % width)
        sum_y = sum_x = np.int64(0)
        mass_y = mass_x = total = 0.0
        peak = -np.inf
        peak_pixel = np.int64(0)
        for i in range(begins[k], begins[k + 1]):
            value = values[i]
            if not np.isfinite(value):
                continue
            kept[count] = value
            count += 1
            if outline[i]:
                rim[edges] = value
                edges += 1
            y = pixels[i] // width - top
            x = pixels[i] % width - left
            sum_y += y
            sum_x += x
            mass_y += value * y
            mass_x += value * x
            total += value
            if value > peak:
                peak = value
                peak_pixel = np.int64(pixels[i])
        if count == 0:
            continue
        _summarise(kept[:count], table[:5, k])
        table[5, k] = quantile(kept, 0, count, 0.25)
        table[6, k] = quantile(kept, 0, count, 0.5)
        table[7, k] = quantile(kept, 0, count, 0.75)
        for i in range(count):
            kept[i] = abs(kept[i] - table[6, k])
        table[8, k] = quantile(kept, 0, count, 0.5)
        if edges > 0:
            _summarise(rim[:edges], table[9:14, k])
        if total != 0:
            table[14, k] = top + mass_y / total
            table[15, k] = left + mass_x / total
            table[16, k] = np.hypot(mass_y / total - sum_y / count, mass_x / total - sum_x / count)
        table[17, k] = peak_pixel // width
        table[18, k] = peak_pixel % width
    return table


@kernel
def _summarise(values: Any, out: Any) -> Any:
    """Write total, mean, standard deviation, minimum and maximum."""
    total = 0.0
    low = values[0]
    high = values[0]
    for value in values:
        total += value
        low = min(low, value)
        high = max(high, value)
    mean = total / values.size
    squares = 0.0
    for value in values:
        squares += (value - mean) * (value - mean)
    out[0] = total
    out[1] = mean
    out[2] = np.sqrt(squares / values.size)
    out[3] = low
    out[4] = high
