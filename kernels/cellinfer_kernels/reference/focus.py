"""NumPy twin of `cellinfer_kernels.focus`: sorting, labels of tiles, the co-occurrence matrix, the whole spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.focus import Tiles, ValueCounts


def value_counts(image: NDArray[np.uint16]) -> ValueCounts:
    """Sort the pixels."""
    values, counts = np.unique(image, return_counts=True)
    return ValueCounts(values, counts.astype(np.int64))


def tiles(image: NDArray[Any], side: int) -> Tiles:
    """Give every pixel the number of its tile, and look at tile after tile."""
    plane = np.asarray(image, dtype=np.float64)
    height, width = plane.shape
    rows, columns = int(np.ceil(height / side)), int(np.ceil(width / side))
    row_of = np.array([y * rows // height for y in range(height)], dtype=np.int64)
    column_of = np.array([x * columns // width for x in range(width)], dtype=np.int64)
    mean, variance = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    for row, column in np.ndindex(rows, columns):
        tile = plane[np.ix_(row_of == row, column_of == column)]
        tile = tile[np.isfinite(tile)]
        if tile.size:
            mean[row, column], variance[row, column] = tile.mean(), tile.var()
    return Tiles(mean, variance)


def level_correlation(image: NDArray[Any], distance: int, levels: int = 8) -> float:
    """Fill the co-occurrence matrix and correlate its rows with its columns."""
    plane = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(plane)
    if not finite.any() or np.ptp(plane[finite]) == 0:
        return float("nan")
    low, high = plane[finite].min(), plane[finite].max()
    level = np.minimum((np.where(finite, plane, low) - low) / (high - low) * levels, levels - 1).astype(np.int64)
    both = finite[:, :-distance] & finite[:, distance:]
    matrix = np.zeros((levels, levels))
    np.add.at(matrix, (level[:, :-distance][both], level[:, distance:][both]), 1)
    if (matrix.any(axis=0).sum() < 2) or (matrix.any(axis=1).sum() < 2):
        return float("nan")
    matrix /= matrix.sum()
    numbers = np.arange(levels)
    left, right = matrix.sum(axis=1), matrix.sum(axis=0)
    mean_left, mean_right = numbers @ left, numbers @ right
    covariance = (numbers - mean_left) @ matrix @ (numbers - mean_right)
    return float(covariance / np.sqrt((numbers - mean_left) ** 2 @ left * ((numbers - mean_right) ** 2 @ right)))


def radial_power(spectrum: NDArray[np.complex128], width: int) -> NDArray[np.float64]:
    """Write out both halves of the spectrum, and add up ring after ring."""
    height = spectrum.shape[0]
    used = min(height, width) // 8
    power = np.zeros((height, width))
    for row, column in np.ndindex(height, used):
        power[row, column] = abs(spectrum[row, column]) ** 2
        power[-row, -column] = power[row, column]
    y, x = np.ogrid[:height, :width]
    ring = np.floor(np.hypot(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))) + 1
    return np.array([power[ring == r].sum() for r in range(2, used)])
