"""NumPy twin of `cellinfer_kernels.shape`: one object at a time, hulls by testing every pair of points."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.reference.components import label
from cellinfer_kernels.shape import Circles, Hulls, Moments, Outlines

_Points = NDArray[np.float64]


def outlines(groups: Groups) -> Outlines:
    """Measure object after object."""
    rows = [_outline(_crop(groups, k)[0]) for k in range(groups.ids.size)]
    return Outlines(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def hulls(groups: Groups) -> Hulls:
    """Measure object after object."""
    rows = [_hull(*_crop(groups, k)) for k in range(groups.ids.size)]
    area, largest, least, y, x, radius = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    centre = np.column_stack([y, x])
    return Hulls(area, largest, least, Circles(centre, radius, np.empty((0, 3), np.int32)))


def moments(groups: Groups) -> Moments:
    """Sum powers pixel by pixel."""
    raw, central, centre = np.zeros((groups.ids.size, 4, 4)), np.zeros((groups.ids.size, 4, 4)), []
    for k in range(groups.ids.size):
        mask, top, left = _crop(groups, k)
        points = np.argwhere(mask) - 1.0
        middle = points.mean(axis=0)
        centre.append([middle[0] + top, middle[1] + left])
        for p in range(4):
            for q in range(4):
                raw[k, p, q] = (points[:, 0] ** p * points[:, 1] ** q).sum()
                central[k, p, q] = ((points[:, 0] - middle[0]) ** p * (points[:, 1] - middle[1]) ** q).sum()
    return Moments(raw, central, np.array(centre, np.float64).reshape(-1, 2))


def radii(begins: NDArray[np.int64], squared: NDArray[np.int32]) -> tuple[_Points, _Points, _Points]:
    """Summarise object after object."""
    depths = [np.sqrt(squared[begin:end]) for begin, end in pairwise(begins)]
    mean, largest, median = ([float(summary(d)) for d in depths] for summary in (np.mean, np.max, np.median))
    return np.array(mean), np.array(largest), np.array(median)


def _crop(groups: Groups, k: int) -> tuple[NDArray[np.bool_], int, int]:
    """Object in its bounding box with one pixel of background around, and the box's first row and column."""
    ys, xs = np.unravel_index(groups.pixels[groups.begins[k] : groups.begins[k + 1]], groups.shape)
    mask = np.zeros((int(np.ptp(ys)) + 3, int(np.ptp(xs)) + 3), np.bool_)
    mask[ys - ys.min() + 1, xs - xs.min() + 1] = True
    return mask, int(ys.min()), int(xs.min())


def _outline(mask: NDArray[np.bool_]) -> list[float]:
    euler = label(mask, 2)[1] - (label(~mask, 1)[1] - 1)
    background, _ = label(~mask, 2)
    return [_perimeter(mask), _crofton(mask), euler, int((background != background[0, 0]).sum())]


def _hull(mask: NDArray[np.bool_], top: int, left: int) -> list[float]:
    points = np.argwhere(mask).astype(np.float64)
    y, x, radius = _circle(points)
    return [_convex_area(points), *_ferets(points), y + top - 1, x + left - 1, radius]


def _circle(points: _Points) -> tuple[float, float, float]:
    """Try the circles through every two and every three points; the smallest that holds all is it."""
    found = [(*points[0], 0.0)] if len(points) == 1 else []
    for a, b in combinations(points, 2):
        found.append((*((a + b) / 2), float(np.hypot(*(a - b))) / 2))
    for corners in combinations(points, 3):
        a, b, c = corners
        matrix = 2 * np.array([b - a, c - a])
        if abs(np.linalg.det(matrix)) > 1e-9:
            centre = np.linalg.solve(matrix, [b @ b - a @ a, c @ c - a @ a])
            found.append((*centre, float(np.hypot(*(a - centre)))))
    holding = [f for f in found if np.all(np.hypot(points[:, 0] - f[0], points[:, 1] - f[1]) <= f[2] + 1e-9)]
    y, x, radius = min(holding, key=lambda f: f[2])
    return float(y), float(x), float(radius)


def _crofton(mask: NDArray[np.bool_]) -> float:
    """Count where lines down, to the right and along both diagonals enter the object."""
    inside = mask.astype(np.int8)
    steps = [inside[1:] - inside[:-1], inside[:, 1:] - inside[:, :-1]]
    slanted = [inside[1:, 1:] - inside[:-1, :-1], inside[1:, :-1] - inside[:-1, 1:]]
    straight, diagonal = (sum(int((s > 0).sum()) for s in group) for group in (steps, slanted))
    return float(np.pi / 4 * (straight + diagonal / np.sqrt(2)))


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
