"""NumPy twin of `cellinfer_kernels.shape`: one object at a time, hulls by testing every pair of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.reference.components import label
from cellinfer_kernels.reference.distance import nearest
from cellinfer_kernels.shape import Shapes

_Points = NDArray[np.float64]


def shapes(groups: Groups) -> Shapes:
    """Measure object after object."""
    rows = [_shape(*_crop(groups, k)) for k in range(groups.ids.size)]
    widths = [1, 4, 2, 3] + [1] * 8
    columns = (np.array([row[i] for row in rows], dtype=np.float64) for i in range(12))
    return Shapes(*(c.reshape((-1, w) if w > 1 else -1) for c, w in zip(columns, widths, strict=True)))


def _crop(groups: Groups, k: int) -> tuple[NDArray[np.bool_], int, int]:
    """Object in its bounding box with one pixel of background around, and the box's first row and column."""
    ys, xs = np.unravel_index(groups.pixels[groups.begins[k] : groups.begins[k + 1]], groups.shape)
    mask = np.zeros((int(np.ptp(ys)) + 3, int(np.ptp(xs)) + 3), np.bool_)
    mask[ys - ys.min() + 1, xs - xs.min() + 1] = True
    return mask, int(ys.min()), int(xs.min())


def _shape(mask: NDArray[np.bool_], top: int, left: int) -> tuple[Any, ...]:
    points = np.argwhere(mask).astype(np.float64)
    centre = points.mean(axis=0)
    covariance = np.cov(points, rowvar=False, bias=True)
    box = [top, left, top + mask.shape[0] - 2, left + mask.shape[1] - 2]
    radii = np.sqrt(nearest(~mask)[0][mask])
    max_feret, min_feret = _ferets(points)
    return (
        len(points),
        box,
        [centre[0] + top - 1, centre[1] + left - 1],
        [covariance[0, 0], covariance[0, 1], covariance[1, 1]],
        _perimeter(mask),
        label(mask, 2)[1] - (label(~mask, 1)[1] - 1),
        _convex_area(points),
        max_feret,
        min_feret,
        radii.mean(),
        radii.max(),
        np.median(radii),
    )


def _around(mask: NDArray[np.bool_], steps: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Count the neighbours of every pixel; the outermost pixels of `mask` are False."""
    counts: NDArray[np.int64] = np.sum([np.roll(mask, step, axis=(0, 1)) for step in steps], axis=0)
    return counts


def _perimeter(mask: NDArray[np.bool_]) -> float:
    edges = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    outline = mask & (_around(mask, edges) < 4)
    code = 2 * _around(outline, edges) + 10 * _around(outline, [(1, 1), (1, -1), (-1, 1), (-1, -1)])
    weights = {4: 1.0, 6: 1.0, 14: 1.0, 16: 1.0, 24: 1.0, 26: 1.0}
    weights |= {20: 2**0.5, 32: 2**0.5, 12: (1 + 2**0.5) / 2, 22: (1 + 2**0.5) / 2}
    return sum(weights.get(int(c), 0.0) for c in code[outline])


def _half_planes(points: _Points) -> tuple[_Points, _Points]:
    """Return unit normals n and offsets d of all lines through two points with all others on the side n.p <= d."""
    direction = (points[None] - points[:, None]).reshape(-1, 2)
    starts = np.repeat(points, len(points), axis=0)
    keep = np.any(direction != 0, axis=1)
    direction, starts = direction[keep], starts[keep]
    normals = np.column_stack([-direction[:, 1], direction[:, 0]])
    offsets = np.einsum("ij,ij->i", normals, starts)
    outer = np.all(normals @ points.T <= offsets[:, None], axis=1)
    lengths = np.hypot(*normals[outer].T)
    return normals[outer] / lengths[:, None], offsets[outer] / lengths


def _ferets(points: _Points) -> tuple[float, float]:
    largest = np.hypot(*(points[None] - points[:, None]).reshape(-1, 2).T).max()
    normals, offsets = _half_planes(points)
    if not len(normals):
        return float(largest), 0.0
    return float(largest), float((offsets - (normals @ points.T).min(axis=1)).min())


def _convex_area(points: _Points) -> int:
    midpoints = (points[:, None] + np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])).reshape(-1, 2)
    normals, offsets = _half_planes(np.unique(midpoints, axis=0))
    low, high = points.min(axis=0).astype(int), points.max(axis=0).astype(int) + 1
    centres = np.mgrid[low[0] : high[0], low[1] : high[1]].reshape(2, -1)
    return int(np.count_nonzero(np.all(normals @ centres <= offsets[:, None] + 1e-9, axis=0)))
