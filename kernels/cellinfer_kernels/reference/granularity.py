"""NumPy twin of `cellinfer_kernels.granularity`: matrices that interpolate, dilations until nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.granularity import Spectrum, Weights
from cellinfer_kernels.reference.components import shifted

_Image = NDArray[np.float64]

_CROSS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


def small_shape(shape: tuple[int, int], subsample: float = 0.25) -> tuple[int, int]:
    """Round down, and give up where that leaves fewer than two samples."""
    height, width = (int(size * subsample) for size in shape)
    return (height, width) if height > 1 and width > 1 else (0, 0)


def spectrum(
    image: NDArray[Any],
    *,
    subsample: float = 0.25,
    background_subsample: float = 0.25,
    radius: int = 10,
    length: int = 16,
) -> Spectrum:
    """Erode and reconstruct once for every step."""
    shape = (image.shape[0], image.shape[1])
    small = small_shape(shape, subsample)
    if small == (0, 0):
        return Spectrum(np.empty((0, 0, length)), shape)
    plane = np.where(np.isfinite(image), image, 0).astype(np.float64)
    plane = _resampled(plane, *(np.arange(few) / subsample for few in small))
    mask = np.maximum(plane - _background(plane, background_subsample, radius), 0)
    levels = []
    eroded = mask
    for _ in range(length):
        eroded = np.minimum.reduce([shifted(eroded, step, np.inf) for step in _CROSS])
        levels.append(_reconstructed(eroded, mask))
    return Spectrum(np.stack(levels, axis=2), shape)


def _hats(positions: NDArray[np.floating[Any]], size: int) -> _Image:
    """Weights of `size` samples (columns) at positions (rows): triangles, cut off beyond the first and last sample."""
    inside = (positions >= 0) & (positions <= size - 1)
    distances = np.abs(positions[:, None] - np.arange(size))
    return np.where(inside[:, None], np.maximum(1 - distances, 0), 0)


def _resampled(image: _Image, rows: _Image, columns: _Image) -> _Image:
    result: _Image = _hats(rows, image.shape[0]) @ image @ _hats(columns, image.shape[1]).T
    return result


def _background(plane: _Image, factor: float, radius: int) -> _Image:
    steps = np.arange(-radius, radius + 1)
    disk = [(int(y), int(x)) for y in steps for x in steps if y * y + x * x <= radius * radius]
    sizes = [size * factor for size in plane.shape]
    small = _resampled(plane, *(np.arange(np.ceil(size)) / factor for size in sizes)) if factor < 1 else plane
    small = _extreme(_extreme(small, disk, np.minimum, np.inf), disk, np.maximum, -np.inf)
    if factor == 1:
        return small
    grids = (np.arange(full) * ((size - 1) / (full - 1)) for full, size in zip(plane.shape, sizes, strict=True))
    return _resampled(small, *grids)


def _extreme(image: _Image, steps: list[tuple[int, int]], choose: np.ufunc, beyond: float) -> _Image:
    """Smallest or largest pixel under a footprint."""
    radius = max(max(step) for step in steps)
    padded = np.pad(image, radius, constant_values=beyond)
    height, width = image.shape
    views = [padded[radius + y : radius + y + height, radius + x : radius + x + width] for y, x in steps]
    result: _Image = choose.reduce(views)
    return result


def _reconstructed(seed: _Image, mask: _Image) -> _Image:
    """Dilate below the mask until nothing changes."""
    while True:
        grown = np.minimum(np.maximum.reduce([shifted(seed, step, -np.inf) for step in _CROSS]), mask)
        if np.array_equal(grown, seed):
            return seed
        seed = grown


def weights(groups: Groups, small: tuple[int, int]) -> Weights:
    """Multiply every object with the matrices that interpolate."""
    n = groups.ids.size
    counts = np.diff(groups.begins)
    if small == (0, 0):
        return Weights(np.empty(0), np.zeros(n + 1, np.int64), np.zeros((n, 4), np.int32), counts, small, groups.shape)
    grids = [np.arange(full) * ((few - 1) / (full - 1)) for full, few in zip(groups.shape, small, strict=True)]
    rows, columns = (_hats(grid, few) for grid, few in zip(grids, small, strict=True))
    pieces, boxes = [], []
    for k in range(n):
        mask = np.zeros(groups.shape)
        mask.flat[groups.pixels[groups.begins[k] : groups.begins[k + 1]]] = 1
        total = rows.T @ mask @ columns
        first, last = groups.boxes[k, :2], groups.boxes[k, 2:] - 1
        low = [min(int(grid[i]), few - 1) for grid, i, few in zip(grids, first, small, strict=True)]
        high = [min(int(grid[i]) + 2, few) for grid, i, few in zip(grids, last, small, strict=True)]
        boxes.append([*low, *high])
        pieces.append(total[low[0] : high[0], low[1] : high[1]].ravel())
    offsets = np.cumsum([0, *(piece.size for piece in pieces)], dtype=np.int64)
    values = np.concatenate([np.empty(0), *pieces])
    return Weights(values, offsets, np.array(boxes, np.int32).reshape(-1, 4), counts, small, groups.shape)


def granularity(weights: Weights, spectrum: Spectrum, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the means of one object after the other, then differences."""
    length = spectrum.levels.shape[2]
    if weights.small == (0, 0):
        return np.full((length, weights.counts.size), np.nan)
    means = np.empty((length + 1, weights.counts.size))
    means[0] = mean
    for k, (top, left, bottom, right) in enumerate(weights.boxes):
        piece = weights.values[weights.offsets[k] : weights.offsets[k + 1]]
        means[1:, k] = piece @ spectrum.levels[top:bottom, left:right].reshape(-1, length) / weights.counts[k]
    result: NDArray[np.float64] = -100 * np.diff(means, axis=0) / np.maximum(mean, np.finfo(float).eps)
    return result
