"""NumPy twin of `cellinfer_kernels.crops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def crops(
    planes: Sequence[NDArray[Any]],
    centres: NDArray[np.float64],
    box: int,
    side: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    mask: str = "none",
    labels: NDArray[Any] | None = None,
    owners: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Pad with NaN, slice, hide, scale, and multiply by a matrix from both sides."""
    low, high = value_range
    matrix = _matrix(box, side)
    result = np.empty((len(centres), len(planes), side, side), np.float32)
    for cell, (row, column) in enumerate(centres):
        top, left = int(np.floor(row + 0.5)) - box // 2, int(np.floor(column + 0.5)) - box // 2
        for number, plane in enumerate(planes):
            with np.errstate(over="ignore"):
                values = plane if plane.dtype.kind in "ub" and plane.itemsize < 4 else plane.astype(np.float32)
            square = _window(values.astype(np.float64), top, left, box)
            square[~np.isfinite(square)] = np.nan
            if mask != "none":
                assert labels is not None
                assert owners is not None
                names = _window(labels.astype(np.float64), top, left, box)
                hidden = (names != owners[cell]) if mask == "outside" else (names != owners[cell]) & (names != 0)
                square[hidden] = np.nan
            result[cell, number] = matrix @ _scaled(square, low, high) @ matrix.T
    return result


def _window(plane: NDArray[np.float64], top: int, left: int, box: int) -> NDArray[np.float64]:
    window = np.full((box, box), np.nan)
    rows, columns = np.arange(top, top + box), np.arange(left, left + box)
    inside = np.ix_((rows >= 0) & (rows < plane.shape[0]), (columns >= 0) & (columns < plane.shape[1]))
    window[inside] = plane[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
    return window


def _scaled(square: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    seen = square[~np.isnan(square)]
    if seen.size == 0 or seen.min() == seen.max():
        return np.full(square.shape, float(low))
    scaled: NDArray[np.float64] = low + (high - low) * (square - seen.min()) / (seen.max() - seen.min())
    return np.where(np.isnan(scaled), low, scaled)


def _matrix(box: int, side: int) -> NDArray[np.float64]:
    """Weights of the pixels of a row of the square in each pixel of a row of the result."""
    places = (np.arange(side) + 0.5) / side * box
    distances = np.abs((np.arange(box) + 0.5)[None] - places[:, None])
    triangle = np.maximum(0, 1 - distances / max(1, box / side))
    weights: NDArray[np.float64] = triangle / triangle.sum(axis=1, keepdims=True)
    return weights
