"""Outlines of objects as polygons along pixel edges: filled, they give back the very pixels.

Coordinates are corners of pixels: the pixel in row r and column c covers x from c to c + 1 and y from r to r + 1, as in
GeoJSON files of QuPath and integer outlines of ImageJ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import as_labels, root_of

__all__ = ["Outlines", "outlines"]

_EAST, _SOUTH, _WEST, _NORTH = 0, 1, 2, 3
"""Ways to go, and the sides of a pixel that one passes going so with the pixel to the right: top, right, ..."""


class Outlines(NamedTuple):
    """The outlines of the objects of a label image: objects have parts, parts have rings, rings have vertices.

    A part is a set of pixels of one object that touch along edges. Its first ring is its outer outline, the others are
    holes. Seen on the screen (y down) outer rings run clockwise and holes counter-clockwise, so that the signed area
    in (x, y) is positive for outer rings, as GeoJSON asks. A ring passes no corner twice: parts and holes that touch at
    a corner have rings of their own, so that each part is a valid polygon and each object a valid multi-polygon.
    """

    ids: NDArray[np.int32]
    """(n,) ids, ascending."""
    parts: NDArray[np.int64]
    """(n + 1,) object `k` has the parts `parts[k] : parts[k + 1]`, in raster order of their first pixels."""
    rings: NDArray[np.int64]
    """(m + 1,) part `j` has the rings `rings[j] : rings[j + 1]`; holes in raster order of their first vertices."""
    begins: NDArray[np.int64]
    """(r + 1,) ring `i` has the vertices `begins[i] : begins[i + 1]`."""
    vertices: NDArray[np.int32]
    """(V, 2) x and y of corners at which rings turn; a ring starts with its topmost, of these its leftmost, vertex,
    which is not repeated at its end."""


def outlines(labels: NDArray[Any]) -> Outlines:
    """Trace the outlines of all objects in one pass.

    Parameters
    ----------
    labels
        `(H, W)` integers, 0 = background; gaps between ids and disconnected objects are allowed.

    Returns
    -------
    Outlines

    Raises
    ------
    ValueError
        If the array is not a label image, see `cellinfer_kernels.components.as_labels`.

    Notes
    -----
    Edges between pixels are followed with the object to the right; where two of its pixels touch at a corner only, the
    way stays with the pixel that it came along (parts touch along edges, background around corners too). A way that
    comes to such a corner a second time has closed a ring, which is cut off.
    """
    image = as_labels(labels)
    starts, first, parents = _runs(image)
    vertices, begins, ids, parts, holes = _traced(image, starts, first, parents)
    tops = vertices[begins[:-1]]
    order = np.lexsort((tops[:, 0], tops[:, 1], holes, parts, ids))
    ids, parts = ids[order], parts[order]
    new_object = np.diff(ids, prepend=0) != 0  # no id is 0
    new_part = new_object | (np.diff(parts, prepend=-1) != 0)
    ring_begins, vertices = _reordered(vertices, begins, order)
    return Outlines(
        ids=ids[new_object],
        parts=np.append(np.flatnonzero(new_object[new_part]), np.count_nonzero(new_part)),
        rings=np.append(np.flatnonzero(new_part), ids.size),
        begins=ring_begins,
        vertices=vertices,
    )


@kernel
def _runs(labels: Any) -> Any:
    """List horizontal runs of one id, and join runs of an id that touch along an edge.

    Returns
    -------
    starts : ndarray of int32
        First column of each run, in raster order.
    first : ndarray of int64
        `first[y] : first[y + 1]` are the runs of row y.
    parents : ndarray of int32
        Union-find forest of the runs, whose roots are the first runs of parts.
    """
    height, width = labels.shape
    first = np.zeros(height + 1, np.int64)
    count = 0
    for y in range(height):
        before = 0
        for x in range(width):
            here = labels[y, x]
            count += here != before and here != 0
            before = here
        first[y + 1] = count
    starts = np.empty(count, np.int32)
    parents = np.arange(count).astype(np.int32)
    for y in range(height):
        run = first[y] - 1
        above = -1 if y == 0 else first[y - 1] - 1
        before, before_above = 0, 0
        for x in range(width):
            here = labels[y, x]
            begins = here != before
            if begins and here != 0:
                run += 1
                starts[run] = x
            before = here
            if y == 0:
                continue
            there = labels[y - 1, x]
            if there != before_above:
                begins = True
                above += there != 0
            before_above = there
            if begins and here != 0 and here == there:
                mine, other = root_of(parents, run), root_of(parents, above)
                parents[max(mine, other)] = min(mine, other)
    return starts, first, parents


@inlined
def _part_at(starts: Any, first: Any, parents: Any, y: Any, x: Any) -> Any:
    """Return the first run of the part that a pixel belongs to."""
    low, high = first[y], first[y + 1]
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= x:
            low = middle
        else:
            high = middle
    return root_of(parents, low)


@inlined
def _is(labels: Any, y: Any, x: Any, own: Any) -> Any:
    """Say whether there is a pixel of this id."""
    return 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == own


@kernel
def _traced(labels: Any, starts: Any, first: Any, parents: Any) -> Any:
    """Follow all edges of objects once.

    Returns
    -------
    vertices : ndarray of int32, shape (V, 2)
    begins : ndarray of int64, shape (r + 1,)
    ids, parts : ndarray of int32, shape (r,)
        Object and first run of the part of each ring.
    holes : ndarray of bool, shape (r,)
    """
    height, width = labels.shape
    corners, tops = 0, 0
    for y in range(height):  # room for all: every second turn of a ring ends a way along top or bottom sides
        for x in range(width):
            own = labels[y, x]
            if own != 0:
                top = y == 0 or labels[y - 1, x] != own
                bottom = y == height - 1 or labels[y + 1, x] != own
                left = x > 0 and labels[y, x - 1] == own
                corners += 2 * (top and not (left and (y == 0 or labels[y - 1, x - 1] != own)))
                corners += 2 * (bottom and not (left and (y == height - 1 or labels[y + 1, x - 1] != own)))
                tops += top and not (left and (y == 0 or labels[y - 1, x - 1] != own))
    vertices = np.empty((corners, 2), np.int32)
    begins = np.zeros(tops + 1, np.int64)
    ids = np.empty(tops, np.int32)
    parts = np.empty(tops, np.int32)
    holes = np.empty(tops, np.bool_)
    path = np.empty((corners, 2), np.int32)
    places = np.zeros((height + 1, width + 1), np.int32)  # where in the path a corner is that can be passed twice
    done = np.zeros((height, width), np.bool_)  # top sides
    rings, used = 0, 0
    for top in range(height):
        for left in range(width):
            own = labels[top, left]
            if own == 0 or done[top, left] or (top > 0 and labels[top - 1, left] == own):
                continue
            part = _part_at(starts, first, parents, top, left)
            y, x, way, length = top, left, _EAST, 0
            while True:
                if way == _EAST:
                    done[y, x] = True
                    corner_y, corner_x, ahead_y, ahead_x, side_y, side_x = y, x + 1, y, x + 1, y - 1, x + 1
                elif way == _SOUTH:
                    corner_y, corner_x, ahead_y, ahead_x, side_y, side_x = y + 1, x + 1, y + 1, x, y + 1, x + 1
                elif way == _WEST:
                    corner_y, corner_x, ahead_y, ahead_x, side_y, side_x = y + 1, x, y, x - 1, y + 1, x - 1
                else:
                    corner_y, corner_x, ahead_y, ahead_x, side_y, side_x = y, x, y - 1, x, y - 1, x - 1
                ahead = _is(labels, ahead_y, ahead_x, own)
                side = _is(labels, side_y, side_x, own)
                turns = not (ahead and not side)
                if ahead:
                    y, x = (side_y, side_x) if side else (ahead_y, ahead_x)
                    way = (way + 3) % 4 if side else way
                else:
                    way = (way + 1) % 4
                if turns:
                    twice = side and not ahead
                    place = places[corner_y, corner_x] - 1 if twice else -1
                    if place >= 0:  # the path since then is a ring
                        for i in range(place + 1, length):
                            places[path[i, 1], path[i, 0]] = 0
                        holes[rings] = _put(vertices, used, path, place, length)
                        used += length - place
                        ids[rings], parts[rings] = own, part
                        rings += 1
                        begins[rings] = used
                        length = place + 1
                    else:
                        path[length, 0], path[length, 1] = corner_x, corner_y
                        length += 1
                        if twice:
                            places[corner_y, corner_x] = length
                if y == top and x == left and way == _EAST:
                    break
            for i in range(length):
                places[path[i, 1], path[i, 0]] = 0
            if length > 1:  # not if the last ring cut off was all that was left
                holes[rings] = _put(vertices, used, path, 0, length)
                used += length
                ids[rings], parts[rings] = own, part
                rings += 1
                begins[rings] = used
    return vertices[:used], begins[: rings + 1], ids[:rings], parts[:rings], holes[:rings]


@inlined
def _put(vertices: Any, used: Any, path: Any, start: Any, stop: Any) -> Any:
    """Copy `path[start:stop]`, its topmost leftmost vertex first, and say whether it runs around a hole."""
    lead = start
    twice_area = 0
    for i in range(start, stop):
        after = i + 1 if i + 1 < stop else start
        twice_area += np.int64(path[i, 0]) * path[after, 1] - np.int64(path[after, 0]) * path[i, 1]
        if path[i, 1] < path[lead, 1] or (path[i, 1] == path[lead, 1] and path[i, 0] < path[lead, 0]):
            lead = i
    for i in range(stop - start):
        source = lead + i
        if source >= stop:
            source -= stop - start
        vertices[used + i, 0] = path[source, 0]
        vertices[used + i, 1] = path[source, 1]
    return twice_area < 0


@kernel
def _reordered(vertices: Any, begins: Any, order: Any) -> Any:
    """Put rings into another order."""
    new = np.empty_like(vertices)
    firsts = np.zeros(order.size + 1, np.int64)
    used = 0
    for i in range(order.size):
        for j in range(begins[order[i]], begins[order[i] + 1]):
            new[used] = vertices[j]
            used += 1
        firsts[i + 1] = used
    return firsts, new
