"""How far each row of a table lies from all the others, when there may be more columns than rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 6
"""Rows below which nothing can be said of a distribution."""
MAD_TO_SD = 1.4826
_FOLDS = 10
_SHARE = 0.9
_MOST_COMPONENTS = 20
_MISSING = 0.1
_MOST_DEVIATIONS = 10.0


def outlyingness(values: Array) -> Array:
    """Measure how far each row lies from the others.

    Columns are put on one scale by median and MAD, and cut at ten of these, since a column that is constant but for a
    few rows would outshout all others. A row is judged by directions found without it, so that none draws
    the directions towards itself, with more columns than rows too: the rows are parted into at most ten folds, and
    those of a fold are judged by the rest. Directions are spherical principal components (Locantore et al. 1999, Test
    8: 1-73): of the rows projected onto the unit sphere, where every row weighs the same. Along these, the rows are
    sphered by the MAD of the rest; the distance is made of that in the components and of what they leave over, as in
    ROBPCA's outlier map (Hubert et al. 2005, Technometrics 47: 64-79).

    Parameters
    ----------
    values
        `(n, d)`. Columns that do not vary, or that more than a tenth of the rows lack, do not count; otherwise a
        missing value is taken for the column's median.

    Returns
    -------
    ndarray
        `(n,)` distances, about 1 for an ordinary row. All NaN with fewer than `FEWEST` rows that have values, or
        without a column that varies; NaN for rows without any value.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    distances = np.full(len(values), np.nan)
    values = values[:, _usable(values)]
    known = np.isfinite(values).any(axis=1)
    if known.sum() < FEWEST:
        return distances
    scaled = _scaled(values[known])
    within, beyond = np.zeros(len(scaled)), np.zeros(len(scaled))
    fold = np.arange(len(scaled)) % min(_FOLDS, len(scaled))
    for number in range(fold.max() + 1):
        mine = fold == number
        within[mine], beyond[mine] = _judged(scaled[mine], scaled[~mine])
    parts = [part / median for part in (within, beyond) if (median := float(np.median(part))) > 0]
    distances[known] = np.sqrt(np.mean(np.square(parts), axis=0)) if parts else 1.0
    return distances


def _usable(values: Array) -> NDArray[np.bool_]:
    """Tell which columns vary, and are known of nearly all rows that have any value."""
    known = np.isfinite(values)
    counted = known.any(axis=1)
    filled = known[counted].mean(axis=0) >= 1 - _MISSING if counted.any() else np.zeros(values.shape[1], bool)
    median, mad = _middle(values[np.ix_(counted, filled)])
    filled[filled] = mad > 1e-9 * np.maximum(np.abs(median), np.finfo(np.float64).tiny)
    return filled


def _middle(values: Array) -> tuple[Array, Array]:
    """Return median and robust standard deviation of columns that all have values."""
    if not values.size:
        return np.zeros(values.shape[1]), np.zeros(values.shape[1])
    median = np.nanmedian(values, axis=0)
    return median, MAD_TO_SD * np.nanmedian(np.abs(values - median), axis=0)


def _scaled(values: Array) -> Array:
    """Return columns in units of their MAD around their median, cut; what is missing is in the middle."""
    median, mad = _middle(values)
    scaled = (values - median) / mad
    return np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -_MOST_DEVIATIONS, _MOST_DEVIATIONS)


def _judged(rows: Array, others: Array) -> tuple[Array, Array]:
    """Return the distances of rows within the components of the others, and beyond these."""
    centre = np.median(others, axis=0)
    rows, others = rows - centre, others - centre
    length = np.linalg.norm(others, axis=1, keepdims=True)
    sphere = np.divide(others, length, out=np.zeros_like(others), where=length > 0)
    _, strength, directions = np.linalg.svd(sphere, full_matrices=False)
    share = np.cumsum(strength**2) / max(float(np.sum(strength**2)), np.finfo(np.float64).tiny)
    most = max(1, min(_MOST_COMPONENTS, len(others) // 3))
    directions = directions[: min(int(np.searchsorted(share, _SHARE)) + 1, most)]
    scores = rows @ directions.T
    spread = MAD_TO_SD * np.median(np.abs(others @ directions.T), axis=0)
    usable = spread > 0
    within = np.sqrt(np.mean((scores[:, usable] / spread[usable]) ** 2, axis=1)) if usable.any() else 0.0
    beyond = np.linalg.norm(rows - scores @ directions, axis=1)
    return np.broadcast_to(within, len(rows)).astype(np.float64), np.where(
        beyond > 1e-9 * np.linalg.norm(rows), beyond, 0
    )
