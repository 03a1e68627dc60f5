"""NumPy twin of `cellinfer_kernels.intensity`: one object at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.intensity import Intensities


def intensities(groups: Groups, image: NDArray[Any]) -> Intensities:
    """Measure object after object."""
    rows = [_measure(groups, np.asarray(image, dtype=np.float64), k) for k in range(groups.ids.size)]
    return Intensities(*np.array(rows, dtype=np.float64).reshape(-1, 19).T)


def _summary(values: NDArray[np.float64]) -> list[float]:
    if not values.size:
        return [np.nan] * 5
    return [values.sum(), values.mean(), values.std(), values.min(), values.max()]


def _measure(groups: Groups, image: NDArray[np.float64], k: int) -> list[float]:
    place = slice(groups.begins[k], groups.begins[k + 1])
    pixels = groups.pixels[place]
    values = image.ravel()[pixels]
    finite = np.isfinite(values)
    outline = groups.outline[place][finite]
    points = np.column_stack(np.unravel_index(pixels, groups.shape))[finite].astype(np.float64)
    values = values[finite]
    if not values.size:
        return [np.nan] * 19
    ranks = np.percentile(values, [25, 50, 75])
    mad = np.median(np.abs(values - ranks[1]))
    mass = np.full(2, np.nan) if values.sum() == 0 else values @ points / values.sum()
    displacement = np.hypot(*(mass - points.mean(axis=0)))
    peak = points[np.argmax(values)]
    return [*_summary(values), *ranks, mad, *_summary(values[outline]), *mass, displacement, *peak]
