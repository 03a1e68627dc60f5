"""NumPy twin of `cellinfer_kernels.starconvex`: walk every ray, ask every pixel whether it lies in a polygon."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


def ray_directions(rays: int) -> NDArray[np.float64]:
    """Turn the unit vector along the columns by equal angles."""
    angles = [2 * np.pi * k / rays for k in range(rays)]
    return np.array([[np.sin(angle) for angle in angles], [np.cos(angle) for angle in angles]]).round(12)


def ray_distances(labels: NDArray[Any], rays: int = 32, step: int = 1) -> NDArray[np.float32]:
    """Step along each ray until the id changes, then go back to where it did."""
    height, width = labels.shape
    result = np.zeros((-(-height // step), -(-width // step), rays), np.float32)
    for (i, j), k in product(np.ndindex(*result.shape[:2]), range(rays)):
        name = labels[i * step, j * step]
        direction = ray_directions(rays)[:, k]
        steps = 0
        while name:
            y, x = np.rint(steps * direction).astype(int) + np.array([i, j]) * step
            if not (0 <= y < height and 0 <= x < width) or labels[y, x] != name:
                result[i, j, k] = steps - 1 + 0.5 / np.abs(direction).max()
                break
            steps += 1
    return result


def suppress(
    centres: NDArray[Any],
    distances: NDArray[Any],
    shape: tuple[int, int],
    overlap: float,
    scale: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.int64]:
    """Compare each polygon with all that were kept before, pixel by pixel."""
    kept: list[int] = []
    masks = _masks(centres, distances, shape, scale)
    for i, mask in enumerate(masks):
        rivals = [masks[k] for k in kept]
        if mask.any() and all((mask & r).sum() <= overlap * min(mask.sum(), r.sum()) for r in rivals):
            kept.append(i)
    return np.array(kept, np.int64)


def render(
    centres: NDArray[Any], distances: NDArray[Any], shape: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)
) -> Labels:
    """Paint from last to first."""
    labels = np.zeros(shape, np.int32)
    for i, mask in reversed(list(enumerate(_masks(centres, distances, shape, scale)))):
        labels[mask] = i + 1
    return labels


def _masks(
    centres: NDArray[Any], distances: NDArray[Any], shape: tuple[int, int], scale: tuple[float, float]
) -> list[NDArray[np.bool_]]:
    reaches = np.where(np.asarray(distances) > 0, distances, 0).astype(np.float32).astype(np.float64)
    steps = ray_directions(reaches.shape[1]) * np.array(scale)[:, None]
    return [_mask(c[:, None] + r * steps, shape) for c, r in zip(np.asarray(centres, float), reaches, strict=True)]


def _mask(vertices: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Even-odd rule: a pixel is inside if an odd number of edges crosses its row at its column or before."""
    rows, columns = np.indices(shape)
    inside = np.zeros(shape, bool)
    for (y0, x0), (y1, x1) in zip(np.roll(vertices, 1, axis=1).T, vertices.T, strict=True):
        if y0 != y1:
            crossing = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
            inside ^= (min(y0, y1) <= rows) & (rows < max(y0, y1)) & (crossing <= columns)
    return inside
