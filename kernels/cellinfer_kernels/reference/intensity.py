"""NumPy twin of `cellinfer_kernels.intensity`: one object at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.intensity import Intensities


def intensities(groups: Groups, values: NDArray[Any], *, legacy: bool = False) -> Intensities:
    """Measure object after object."""
    rows = [_measure(groups, np.asarray(values, dtype=np.float64), k, legacy) for k in range(groups.ids.size)]
    return Intensities(*np.array(rows, dtype=np.float64).reshape(-1, 19).T)


def _summary(values: NDArray[np.float64]) -> list[float]:
    if not values.size:
        return [np.nan] * 5
    return [values.sum(), values.mean(), values.std(), values.min(), values.max()]


def _quantile(values: NDArray[np.float64], fraction: float, legacy: bool) -> float:
    if not legacy:
        return float(np.percentile(values, 100 * fraction))
    return float(np.interp(fraction * values.size, np.arange(values.size), np.sort(values)))


def _measure(groups: Groups, column: NDArray[np.float64], k: int, legacy: bool) -> list[float]:
    place = slice(groups.begins[k], groups.begins[k + 1])
    values = column[place]
    finite = np.isfinite(values)
    outline = groups.outline[place][finite]
    points = np.column_stack(np.unravel_index(groups.pixels[place], groups.shape))[finite].astype(np.float64)
    values = values[finite]
    if not values.size:
        return [np.nan] * 19
    ranks = [_quantile(values, fraction, legacy) for fraction in (0.25, 0.5, 0.75)]
    mad = _quantile(np.abs(values - ranks[1]), 0.5, legacy)
    mass = np.full(2, np.nan) if values.sum() == 0 else values @ points / values.sum()
    displacement = np.hypot(*(mass - points.mean(axis=0)))
    peak = points[np.argmax(values)]
    return [*_summary(values), *ranks, mad, *_summary(values[outline]), *mass, displacement, *peak]
