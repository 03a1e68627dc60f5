"""NumPy twin of `cellinfer_kernels.watershed`: the definitions, with a plain list or dictionary as the queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.reference.distance import nearest

Labels = NDArray[np.int32]
_Pixel = tuple[int, int]

_EDGES = [(-1, 0), (0, -1), (0, 1), (1, 0)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def _around(pixel: _Pixel, allowed: NDArray[np.bool_], steps: list[_Pixel]) -> Iterator[_Pixel]:
    for dy, dx in steps:
        y, x = pixel[0] + dy, pixel[1] + dx
        if 0 <= y < allowed.shape[0] and 0 <= x < allowed.shape[1] and allowed[y, x]:
            yield y, x


def flood(
    priority: NDArray[Any], seeds: NDArray[Any], mask: NDArray[Any] | None = None, connectivity: int = 1
) -> Labels:
    """Expand the lowest, then oldest, pixel of an ordinary list until the list is empty."""
    inside = np.ones(seeds.shape, bool) if mask is None else mask != 0
    level = np.where(np.isnan(priority), np.inf, priority).astype(np.float32)
    result = np.where(inside, seeds, 0).astype(np.int32)
    waiting = [(int(y), int(x)) for y, x in np.argwhere(result > 0)]
    steps = _EDGES + (_CORNERS if connectivity == 2 else [])
    while waiting:
        # The list is in order of age, and `min` takes the first of equals.
        pixel = min(waiting, key=lambda p: float(level[p]))
        waiting.remove(pixel)
        for other in _around(pixel, inside, steps):
            if result[other] == 0:
                result[other] = result[pixel]
                waiting.append(other)
    return result


def propagate(
    seeds: NDArray[Any],
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    max_distance: float = np.inf,
    regularization: float = 0.05,
) -> Labels:
    """Dijkstra's algorithm with one open candidate per pixel; distances to the own seed by brute force."""
    inside = np.ones(seeds.shape, bool) if mask is None else mask != 0
    heights = np.where(np.isfinite(image), image, 0).astype(np.float32)
    span = float(heights.max()) - float(heights.min()) if heights.size else 0.0
    unit = max(regularization / 256, 9 * span / 48_896) or 1.0
    patches: NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(np.pad(heights, 1, mode="edge"), (3, 3))
    reach = {int(i): _within(seeds == i, max_distance) for i in np.unique(seeds[seeds > 0])}
    result = np.array(seeds, dtype=np.int32)
    candidates = {(int(y), int(x)): (0, int(seeds[y, x])) for y, x in np.argwhere((seeds > 0) & inside)}
    while candidates:
        pixel: _Pixel = min(candidates, key=lambda p: candidates[p])
        cost, name = candidates.pop(pixel)
        result[pixel] = name
        for other in _around(pixel, inside & (result == 0) & reach[name], _EDGES + _CORNERS):
            length = abs(other[0] - pixel[0]) + abs(other[1] - pixel[1])  # squared: 1 or 2
            change = _sum(np.abs(patches[pixel] - patches[other])) * np.float32(1 / unit)
            spent = np.sqrt(change * change + np.float32(length * (regularization / unit) ** 2))
            offer = cost + int(np.clip(spent + np.float32(0.5), 1, 48_896)), name
            candidates[other] = min(candidates.get(other, offer), offer)
    return result


def expand(seeds: NDArray[Any], max_distance: float) -> Labels:
    """Compare every pixel with every seed pixel."""
    squared, index = nearest(seeds)
    grown: Labels = np.where(squared <= max_distance**2, seeds.ravel()[index], 0).astype(np.int32)
    return grown


def _sum(differences: NDArray[np.float32]) -> np.float32:
    """Add up a 3 x 3 patch, columns first: the order decides how the sum is rounded."""
    columns = differences[0] + differences[1] + differences[2]
    return np.float32(columns[0] + columns[1] + columns[2])


def _within(region: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    ys, xs = np.nonzero(region)
    rows = np.arange(region.shape[0])[:, None, None]
    columns = np.arange(region.shape[1])[None, :, None]
    squared = (rows - ys) ** 2 + (columns - xs) ** 2
    near: NDArray[np.bool_] = squared.min(axis=-1) <= distance**2
    return near
