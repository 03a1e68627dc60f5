"""NumPy twin of `cellinfer_kernels.neighbors`: masks of one object at a time, all pairs of centres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.distance import nearest
from cellinfer_kernels.neighbors import Closest, Method, Neighbors, Touching


def neighbors(groups: Groups, *, method: Method = "Adjacent") -> Neighbors:
    """Put both parts together."""
    return Neighbors(*touching(groups, method=method), *closest(groups))


def closest(groups: Groups) -> Closest:
    """Sort the distances from each centre to all others."""
    points = np.column_stack(np.unravel_index(groups.pixels, groups.shape)).astype(np.float64)
    members = np.split(points, groups.begins[1:-1]) if groups.ids.size else []
    centres = np.array([m.mean(axis=0) for m in members]).reshape(-1, 2)
    rows = [_closest(np.delete(centres, k, 0), np.delete(groups.ids, k), c) for k, c in enumerate(centres)]
    return Closest(*np.array(rows, np.float64).reshape(-1, 5).T)


def _closest(others: NDArray[np.float64], ids: NDArray[np.int32], centre: NDArray[np.float64]) -> list[float]:
    arrows = others - centre
    distances = np.sqrt((arrows**2).sum(axis=1))
    best = np.argsort(distances, kind="stable")[:2]
    values = [value for i in best for value in (float(ids[i]), float(distances[i]))]
    if best.size < 2:
        return [*values, *[0.0] * (5 - len(values))]
    if 0 in distances[best]:
        return [*values, np.nan]
    directions = np.arctan2(*arrows[best].T)
    turn = abs(directions[0] - directions[1])
    return [*values, np.degrees(min(turn, 2 * np.pi - turn))]


def touching(groups: Groups, *, method: Method = "Adjacent") -> Touching:
    """Dilate every object, and all others, and look what is there."""
    n = groups.ids.size
    labels = np.zeros(groups.shape, np.int32)
    labels.ravel()[groups.pixels] = np.repeat(groups.ids, np.diff(groups.begins))
    if method == "Expanded" and n:
        # Which of several equally near objects a pixel joins is for `nearest` to say.
        labels = labels.ravel()[nearest(labels)[1]]
    radius = method if isinstance(method, int) else 1
    count, percent = np.zeros(n), np.zeros(n)
    for k, name in enumerate(groups.ids):
        inside = labels == name
        around = np.unique(labels[_dilated(inside, radius)])
        count[k] = np.count_nonzero((around != 0) & (around != name))
        outline = inside & _dilated(np.pad(~inside, 1, constant_values=True), 1.5)[1:-1, 1:-1]
        touched = outline & _dilated(~inside & (labels != 0), radius + 0.5)
        percent[k] = np.count_nonzero(touched) * 100 / np.count_nonzero(outline)
    return Touching(count, percent)


def _dilated(mask: NDArray[np.bool_], radius: float) -> NDArray[Any]:
    """Mark every pixel that has a pixel of `mask` within `radius`."""
    reach = int(radius)
    height, width = mask.shape
    padded = np.pad(mask, reach)
    result = np.zeros_like(mask)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= radius * radius:
                result |= padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return result
