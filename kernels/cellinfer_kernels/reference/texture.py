"""NumPy twin of `cellinfer_kernels.texture`: whole co-occurrence matrices, the formulas as Haralick wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.texture import DIRECTIONS


def grey_levels(values: NDArray[np.float64], largest: float, levels: int = 256) -> NDArray[np.uint8]:
    """Round all at once."""
    finite = np.where(np.isfinite(values), values, 0.0)
    full = np.clip(np.rint(finite / largest * 255), 0, 255)
    return (full if levels == 256 else np.floor(full / 255 * (levels - 1))).astype(np.uint8)


def haralick(groups: Groups, greys: NDArray[np.uint8], scales: Sequence[int] = (3,)) -> NDArray[np.float64]:
    """Measure object after object."""
    result = np.full((len(scales), len(DIRECTIONS), 13, groups.ids.size), np.nan)
    for k in range(groups.ids.size):
        place = slice(groups.begins[k], groups.begins[k + 1])
        ys, xs = np.unravel_index(groups.pixels[place], groups.shape)
        levels = {(y, x): int(g) for y, x, g in zip(ys.tolist(), xs.tolist(), greys[place].tolist(), strict=True) if g}
        for s, scale in enumerate(scales):
            for d, (down, right) in enumerate(DIRECTIONS):
                matrix = np.zeros((int(greys[place].max()) + 1,) * 2)
                for (y, x), here in levels.items():
                    there = levels.get((y + scale * down, x + scale * right))
                    if there is not None:
                        matrix[here, there] += 1
                        matrix[there, here] += 1
                result[s, d, :, k] = _features(matrix / matrix.sum()) if matrix.any() else np.nan
            if np.isnan(result[s, :, :, k]).any():
                result[s, :, :, k] = np.nan
    return result


def _entropy(p: NDArray[Any]) -> float:
    kept = p[p > 0]
    return abs(float((kept * np.log2(kept)).sum()))


def _features(p: NDArray[np.float64]) -> list[float]:
    size = len(p)
    i, j = np.indices(p.shape)
    marginal = p.sum(axis=0)
    mean = marginal @ np.arange(size)
    variance = marginal @ (np.arange(size) - mean) ** 2
    sums = np.bincount((i + j).ravel(), p.ravel(), 2 * size)
    differences = np.bincount(np.abs(i - j).ravel(), p.ravel(), size)
    average = sums @ np.arange(2 * size)
    entropy, single = _entropy(p), _entropy(marginal)
    alone = np.count_nonzero(marginal) == 1
    found = [
        (p**2).sum(),
        differences @ np.arange(size) ** 2,
        1.0 if alone else ((i - mean) * (j - mean) * p).sum() / variance,
        variance,
        (p / (1 + (i - j) ** 2)).sum(),
        average,
        sums @ (np.arange(2 * size) - average) ** 2,
        _entropy(sums),
        entropy,
        differences.var(),
        _entropy(differences),
        0.0 if alone else (entropy - 2 * single) / single,
        np.sqrt(max(0.0, 1 - np.exp(-2 * (2 * single - entropy)))),
    ]
    return [float(value) for value in found]
