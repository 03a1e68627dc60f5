"""NumPy twin of `cellinfer_kernels.radial`: distances by relaxing all pixels until nothing changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.radial import Rings, Spread

_STEPS = [(dy, dx, float(np.hypot(dy, dx))) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def centres(groups: Groups, squared: NDArray[np.int32]) -> NDArray[np.int32]:
    """Take the first of the deepest pixels."""
    deepest = [
        groups.pixels[begin + np.argmax(squared[begin:end])]
        for begin, end in zip(groups.begins[:-1], groups.begins[1:], strict=True)
    ]
    found = np.unravel_index(np.array(deepest, np.int64), groups.shape)
    return np.stack(found, axis=1).astype(np.int32).reshape(-1, 2)


def rings(
    groups: Groups,
    squared: NDArray[np.int32],
    middles: NDArray[np.int32],
    *,
    bins: int = 4,
    radius: float | None = None,
    cores: NDArray[np.bool_] | None = None,
    straight: bool = False,
) -> Rings:
    """Divide object after object."""
    codes = np.full(groups.pixels.size, -1, np.int16)
    for k in range(groups.ids.size):
        place = slice(groups.begins[k], groups.begins[k + 1])
        ys, xs = np.unravel_index(groups.pixels[place], groups.shape)
        y0, x0 = middles[k]
        if y0 < 0:
            continue
        starts = (ys == y0) & (xs == x0) if cores is None else cores[place]
        away = _distances(groups.shape, ys, xs, starts)
        if straight:
            away = np.where(np.isfinite(away), away, np.hypot(ys - y0, xs - x0))
        reach = away + np.sqrt(squared[place]) + 0.001 if radius is None else np.full(away.shape, radius)
        counted = np.isfinite(away) & (~starts | (cores is None))
        ring = np.minimum(np.where(counted, away, 0) / np.where(counted, reach, 1) * bins, bins).astype(int)
        wedge = (ys > y0) + 2 * (xs > x0) + 4 * (np.abs(ys - y0) > np.abs(xs - x0))
        codes[place] = np.where(counted, 8 * ring + wedge, -1)
    return Rings(codes, bins)


def _distances(
    shape: tuple[int, int], ys: NDArray[np.intp], xs: NDArray[np.intp], starts: NDArray[np.bool_]
) -> NDArray[np.float64]:
    far = np.full((shape[0] + 2, shape[1] + 2), np.inf)
    away = np.where(starts, 0.0, np.inf)
    for _ in range(len(ys)):
        far[ys + 1, xs + 1] = away
        away = np.min([away, *(far[ys + 1 + dy, xs + 1 + dx] + length for dy, dx, length in _STEPS)], axis=0)
    return np.asarray(away)


def spread(begins: NDArray[np.int64], found: Rings, values: NDArray[np.float64]) -> Spread:
    """Measure object after object, ring after ring."""
    n, bins = len(begins) - 1, found.bins + 1
    fraction, mean_fraction, variation = np.full((3, bins, n), np.nan)
    for k in range(n):
        place = slice(begins[k], begins[k + 1])
        kept = (found.codes[place] >= 0) & np.isfinite(values[place])
        codes, signal = found.codes[place][kept], values[place][kept]
        for ring in range(bins):
            inside = codes // 8 == ring
            with np.errstate(invalid="ignore", divide="ignore"):
                fraction[ring, k] = signal[inside].sum() / signal.sum()
                mean_fraction[ring, k] = fraction[ring, k] / (inside.sum() / np.float64(inside.size) + 2.0**-52)
                wedges = [signal[codes == code].mean() for code in np.unique(codes[inside])]
                variation[ring, k] = np.std(wedges) / np.mean(wedges) if wedges and np.mean(wedges) != 0 else 0.0
        if not kept.any():
            variation[:, k] = np.nan
    return Spread(fraction, mean_fraction, variation)
