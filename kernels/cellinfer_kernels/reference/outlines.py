"""NumPy twin of `cellinfer_kernels.outlines`: one part after the other, edge by edge through dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.outlines import Outlines
from cellinfer_kernels.reference.components import label

Corner = tuple[int, int]
"""x, y"""


def outlines(labels: NDArray[Any]) -> Outlines:
    """Trace part by part."""
    ids = np.setdiff1d(labels, [0]).astype(np.int32)
    parts, rings, begins, vertices = [0], [0], [0], []
    for own in ids:
        components, count = label(labels == own)
        for component in range(1, count + 1):
            for ring in _rings(components == component):
                vertices += ring
                begins.append(len(vertices))
            rings.append(len(begins) - 1)
        parts.append(len(rings) - 1)
    return Outlines(
        ids, np.array(parts), np.array(rings), np.array(begins), np.array(vertices, np.int32).reshape(-1, 2)
    )


def filled(found: Outlines, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Paint the outlines: a pixel is inside if an odd number of vertical edges of its object lies left of it."""
    image = np.zeros(shape, np.int32)
    for k, own in enumerate(found.ids):
        crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
        for ring in range(found.rings[found.parts[k]], found.rings[found.parts[k + 1]]):
            corners = found.vertices[found.begins[ring] : found.begins[ring + 1]]
            for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                if x == next_x:
                    crossings[min(y, next_y) : max(y, next_y), x] += 1
        image[np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1] = own
    return image


def _rings(mask: NDArray[np.bool_]) -> list[list[Corner]]:
    """Return the outer ring of one part, then its holes."""
    ways = _edges(mask)
    rings = []
    while ways:
        start = min(ways)
        at = (start, ways[start][0])
        path: list[tuple[Corner, Corner]] = []  # corners, with the way on which they are left
        while True:
            corner, way = at
            ways[corner].remove(way)
            if not ways[corner]:
                del ways[corner]
            passed = [place for place, (earlier, _) in enumerate(path) if earlier == corner]
            if passed:
                rings.append(path[passed[0] :])
                path = path[: passed[0]]
            path.append(at)
            corner = (corner[0] + way[0], corner[1] + way[1])
            if corner not in ways:
                break
            turns = [(-way[1], way[0]), way, (way[1], -way[0])]  # right, which stays with the pixel, straight, left
            at = (corner, next(turn for turn in turns if turn in ways[corner]))
        rings.append(path)
    corners = [_only_turns(ring) for ring in rings]
    return sorted(corners, key=lambda ring: (_area(ring) < 0, ring[0][1], ring[0][0]))


def _edges(mask: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Return from each corner the ways along edges that have the part to their right."""
    ways: dict[Corner, list[Corner]] = {}
    inside = np.pad(mask, 1)
    for row, column in np.argwhere(mask):
        y, x = int(row), int(column)
        for start, way, neighbour in (
            ((x, y), (1, 0), (y - 1, x)),
            ((x + 1, y), (0, 1), (y, x + 1)),
            ((x + 1, y + 1), (-1, 0), (y + 1, x)),
            ((x, y + 1), (0, -1), (y, x - 1)),
        ):
            if not inside[neighbour[0] + 1, neighbour[1] + 1]:
                ways.setdefault(start, []).append(way)
    return ways


def _only_turns(ring: list[tuple[Corner, Corner]]) -> list[Corner]:
    """Leave out corners that are passed straight on, and start with the topmost, then leftmost one."""
    turns = [ring[i][0] for i in range(len(ring)) if ring[i][1] != ring[i - 1][1]]
    lead = min(range(len(turns)), key=lambda i: (turns[i][1], turns[i][0]))
    return turns[lead:] + turns[:lead]


def _area(ring: list[Corner]) -> float:
    x, y = np.array(ring, dtype=float).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2
