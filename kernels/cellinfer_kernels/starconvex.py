"""Star-convex polygons: from labels to distances along rays, and from many polygons to the few that are objects.

Rays follow StarDist (Schmidt et al. 2018): ray k of n has the angle ``2 pi k / n``, counted from the direction of
growing columns towards growing rows; its end point lies at row ``y + d sin``, column ``x + d cos``.

A polygon covers the pixels whose centres lie in it; all areas are counts of such pixels, those of the rendered labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Labels, as_labels

__all__ = ["ray_directions", "ray_distances", "render", "suppress"]


def ray_directions(rays: int) -> NDArray[np.float64]:
    """Return the unit vectors (row, column) of equally spaced rays.

    Parameters
    ----------
    rays
        How many, at least 3.

    Returns
    -------
    ndarray of float64
        (2, rays).

    Raises
    ------
    ValueError
        If there are fewer than 3 rays.
    """
    if rays < 3:
        raise ValueError(f"a polygon needs at least 3 rays, got {rays}")
    angles = 2 * np.pi / rays * np.arange(rays)
    # Rounded, so that opposite rays are exactly opposite and halves exactly halves: rays then end alike.
    return np.stack([np.sin(angles), np.cos(angles)]).round(12)


def ray_distances(labels: NDArray[Any], rays: int = 32, step: int = 1) -> NDArray[np.float32]:
    """Measure how far every object pixel is from its object's border, along every ray.

    A ray goes in steps of one pixel and ends at the first pixel of another id or outside the image; half a pixel
    along the ray's larger component is taken back, as StarDist does. So holes and gaps within an object end a ray.

    Parameters
    ----------
    labels
        (H, W) label image.
    rays
        Number of rays, at least 3.
    step
        Pixels between samples; the first sample is the first pixel.

    Returns
    -------
    ndarray of float32
        (ceil(H / step), ceil(W / step), rays) pixels; 0 on background.

    Raises
    ------
    ValueError
        If there are fewer than 3 rays, the step is below 1, or as `cellinfer_kernels.components.as_labels`.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    directions = ray_directions(rays)
    image = np.pad(as_labels(labels), 1)
    # Pixels visited by each ray, as offsets into the padded image: the origin lies on the grid, so they never change.
    reach = np.arange(1, max(image.shape) * 3 // 2 + 2)
    rows, columns = np.rint(directions[:, :, None] * reach).astype(np.int64)
    overshoot = (1 - 0.5 / np.abs(directions).max(axis=0)).astype(np.float32)
    return _ray_distances(image, rows * image.shape[1] + columns, overshoot, step)  # type: ignore[no-any-return]


@kernel
def _ray_distances(image: Any, offsets: Any, overshoot: Any, step: Any) -> Any:
    height, width = image.shape
    rays = len(offsets)
    flat = image.ravel()
    result = np.zeros(((height - 3) // step + 1, (width - 3) // step + 1, rays), np.float32)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            origin = (i * step + 1) * width + j * step + 1
            name = flat[origin]
            if name == 0:
                continue
            for k in range(rays):
                steps = 0
                while flat[origin + offsets[k, steps]] == name:
                    steps += 1
                result[i, j, k] = steps + 1 - overshoot[k]
    return result


def suppress(
    centres: NDArray[Any],
    distances: NDArray[Any],
    shape: tuple[int, int],
    overlap: float,
    scale: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.int64]:
    """Keep the polygons that share too little with every better one that is kept.

    Parameters
    ----------
    centres
        (n, 2) rows and columns in pixels of the image, best polygon first.
    distances
        (n, rays) ray lengths; what is negative or no number counts as 0.
    shape
        Height and width of the image; only pixels inside it count.
    overlap
        Largest share, 0 to 1, of the smaller of two kept polygons that the other one may cover.
    scale
        Pixels per unit of distance, along rows' and columns' axes.

    Returns
    -------
    ndarray of int64
        (m,) indices of those kept, ascending. Polygons without a pixel are never kept.

    Raises
    ------
    ValueError
        If shapes do not fit, or there are fewer than 3 rays.
    """
    if not len(centres):
        return np.empty(0, np.int64)
    points, reaches, steps = _polygons(centres, distances, shape, scale)
    # Cells about as large as a polygon: each lies in few cells, and each cell holds few.
    usual = int(np.ceil(2 * np.abs(reaches).mean() * np.abs(steps).max()))
    return _suppress(points, reaches, steps, shape[0], shape[1], float(overlap), max(usual, 8))  # type: ignore[no-any-return]


def render(
    centres: NDArray[Any], distances: NDArray[Any], shape: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)
) -> Labels:
    """Paint polygons; where two overlap, the first one has the pixel.

    Parameters
    ----------
    centres, distances, shape, scale
        As `suppress`.

    Returns
    -------
    ndarray of int32
        (H, W); polygon k has the id k + 1. A polygon that others cover leaves a gap in the ids.

    Raises
    ------
    ValueError
        As `suppress`.
    """
    if not len(centres):
        return np.zeros(shape, np.int32)
    points, reaches, steps = _polygons(centres, distances, shape, scale)
    return _render(points, reaches, steps, shape[0], shape[1])  # type: ignore[no-any-return]


def _polygons(
    centres: NDArray[Any], distances: NDArray[Any], shape: tuple[int, int], scale: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """Return centres, lengths held in a range that cannot overflow, and ray vectors in pixels."""
    points = np.ascontiguousarray(centres, dtype=np.float64)
    reaches = np.asarray(distances, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or reaches.ndim != 2 or len(points) != len(reaches):
        raise ValueError(f"centres of shape {points.shape} do not fit distances of shape {reaches.shape}")
    steps = ray_directions(reaches.shape[1]) * np.array(scale, np.float64)[:, None]
    longest = 4.0 * sum(shape) / min(scale)
    reaches = np.clip(np.nan_to_num(reaches, nan=0.0, posinf=longest, neginf=0.0), 0.0, longest)
    return points, np.ascontiguousarray(reaches, np.float32), steps


@inlined
def _up(value: Any, limit: Any) -> Any:
    """First integer not below `value`, held in 0..limit."""
    return np.int64(np.ceil(min(max(value, 0.0), np.float64(limit))))


@inlined
def _cross(point: Any, reaches: Any, steps: Any, height: Any, width: Any, counts: Any, crossings: Any) -> Any:
    """List where each row enters and leaves a polygon, as ascending columns; return its first row and the row after.

    Row `y` has `counts[y]` entries in `crossings[y]`: inside are the columns from an even one up to the next.
    """
    rays = len(reaches)
    top = np.inf
    bottom = -np.inf
    for k in range(rays):
        y = point[0] + reaches[k] * steps[0, k]
        top = min(top, y)
        bottom = max(bottom, y)
    first = _up(top, height)
    stop = _up(bottom, height)
    counts[first:stop] = 0
    y0 = point[0] + reaches[rays - 1] * steps[0, rays - 1]
    x0 = point[1] + reaches[rays - 1] * steps[1, rays - 1]
    for k in range(rays):
        y1 = point[0] + reaches[k] * steps[0, k]
        x1 = point[1] + reaches[k] * steps[1, k]
        begin = _up(min(y0, y1), height)
        end = _up(max(y0, y1), height)
        if begin < end:
            slope = (x1 - x0) / (y1 - y0)
            for y in range(begin, end):
                column = _up(x0 + (y - y0) * slope, width)
                place = counts[y]
                while place > 0 and crossings[y, place - 1] > column:
                    crossings[y, place] = crossings[y, place - 1]
                    place -= 1
                crossings[y, place] = column
                counts[y] += 1
        y0 = y1
        x0 = x1
    return first, stop


@inlined
def _shared(columns: Any, begin: Any, end: Any, others: Any, count: Any) -> Any:
    """Pixels of one row that two polygons share; the first has `columns[begin:end]`, the second `others[:count]`."""
    total = 0
    i = begin
    j = 0
    while i < end and j < count:
        total += max(0, min(columns[i + 1], others[j + 1]) - max(columns[i], others[j]))
        if columns[i + 1] < others[j + 1]:
            i += 2
        else:
            j += 2
    return total


@inlined
def _grown(array: Any, size: Any) -> Any:
    """Array with room for `size` entries at least."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@kernel
def _suppress(points: Any, reaches: Any, steps: Any, height: Any, width: Any, overlap: Any, cell: Any) -> Any:
    n, rays = reaches.shape
    counts = np.zeros(height, np.int64)
    crossings = np.empty((height, rays + 1), np.int32)
    kept = np.empty(n, np.int64)
    m = 0
    # Of each kept polygon: bounding box, area, and its crossings row by row in one long list.
    boxes = np.empty((n, 4), np.int64)
    areas = np.empty(n, np.int64)
    rows = np.zeros(n + 1, np.int64)
    begins = np.zeros(1024, np.int64)
    columns = np.empty(4096, np.int32)
    # Cells hold linked lists of the kept polygons whose boxes reach into them.
    down = height // cell + 1
    across = width // cell + 1
    heads = np.full((down, across), -1, np.int64)
    owners = np.empty(1024, np.int64)
    nexts = np.empty(1024, np.int64)
    links = 0
    seen = np.full(n, -1, np.int64)
    for i in range(n):
        first, stop = _cross(points[i], reaches[i], steps, height, width, counts, crossings)
        area = 0
        left = width
        right = 0
        for y in range(first, stop):
            for c in range(0, counts[y], 2):
                area += crossings[y, c + 1] - crossings[y, c]
            if counts[y] > 0:
                left = min(left, crossings[y, 0])
                right = max(right, crossings[y, counts[y] - 1])
        if area == 0:
            continue
        free = True
        for cy in range(first // cell, (stop - 1) // cell + 1):
            for cx in range(left // cell, (right - 1) // cell + 1):
                link = heads[cy, cx]
                while link >= 0 and free:
                    other = owners[link]
                    link = nexts[link]
                    if seen[other] == i:
                        continue
                    seen[other] = i
                    box = boxes[other]
                    limit = overlap * min(area, areas[other])
                    tall = min(stop, box[1]) - max(first, box[0])
                    wide = min(right, box[3]) - max(left, box[2])
                    if tall <= 0 or wide <= 0 or tall * wide <= limit:
                        continue
                    shared = 0
                    for y in range(max(first, box[0]), min(stop, box[1])):
                        row = rows[other] + y - box[0]
                        shared += _shared(columns, begins[row], begins[row + 1], crossings[y], counts[y])
                    free = shared <= limit
        if not free:
            continue
        boxes[m, 0] = first
        boxes[m, 1] = stop
        boxes[m, 2] = left
        boxes[m, 3] = right
        areas[m] = area
        rows[m + 1] = rows[m] + stop - first
        begins = _grown(begins, rows[m + 1] + 1)
        for y in range(first, stop):
            row = rows[m] + y - first
            begins[row + 1] = begins[row] + counts[y]
            columns = _grown(columns, begins[row + 1])
            for c in range(counts[y]):
                columns[begins[row] + c] = crossings[y, c]
        for cy in range(first // cell, (stop - 1) // cell + 1):
            for cx in range(left // cell, (right - 1) // cell + 1):
                owners = _grown(owners, links + 1)
                nexts = _grown(nexts, links + 1)
                owners[links] = m
                nexts[links] = heads[cy, cx]
                heads[cy, cx] = links
                links += 1
        kept[m] = i
        m += 1
    return kept[:m].copy()


@kernel
def _render(points: Any, reaches: Any, steps: Any, height: Any, width: Any) -> Any:
    labels = np.zeros((height, width), np.int32)
    counts = np.zeros(height, np.int64)
    crossings = np.empty((height, reaches.shape[1] + 1), np.int32)
    for i in range(len(reaches)):
        first, stop = _cross(points[i], reaches[i], steps, height, width, counts, crossings)
        for y in range(first, stop):
            for c in range(0, counts[y], 2):
                for x in range(crossings[y, c], crossings[y, c + 1]):
                    if labels[y, x] == 0:
                        labels[y, x] = i + 1
    return labels
