"""Exact Euclidean distances: to the nearest marked pixel, and from inside an object to its outside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups, as_mask, group

__all__ = ["depth", "depths", "depths_within_image", "half_widths", "nearest", "within"]

_MOST_ROWS = 65534


def nearest(targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Find the nearest target pixel of every pixel.

    Lower envelopes of parabolas (Felzenszwalb and Huttenlocher 2012), columns first.

    Parameters
    ----------
    targets
        2-D mask of fewer than 2**31 pixels; non-zero pixels are targets.

    Returns
    -------
    squared : ndarray of float64
        Squared distance in pixels between pixel centres; 0 on targets, inf if there is no target.
    index : ndarray of int32
        Flat index of the nearest target; of several the one in the leftmost column, and there the uppermost. -1 if
        there is none.

    Raises
    ------
    ValueError
        If the mask is not 2-D.
    """
    return _nearest(as_mask(targets))  # type: ignore[no-any-return]


@kernel
def nearest_rows(targets: Any) -> Any:
    """Row of the nearest target in the same column (the upper of two), -1 where the column has none."""
    height, width = targets.shape
    rows = np.empty((height, width), np.int32)
    before = np.full(width, -1, np.int32)
    for y in range(height):
        marked = targets[y]
        row = rows[y]
        for x in range(width):
            before[x] = np.int32(y) if marked[x] else before[x]
            row[x] = before[x]
    for y in range(height - 2, -1, -1):
        here = np.int32(y)
        below = rows[y + 1]
        row = rows[y]
        for x in range(width):
            nearer = (below[x] > here) & ((row[x] < 0) | (below[x] - here < here - row[x]))
            row[x] = below[x] if nearer else row[x]
    return rows


@inlined
def add_parabola(sites: Any, heights: Any, begins: Any, count: Any, x: Any, level: Any) -> Any:
    """Put the parabola `level + (. - x)**2` to the right end of a lower envelope; return its new size."""
    begin = -np.inf
    while count > 0:
        site = sites[count - 1]
        begin = (level - heights[count - 1] + (x * x - site * site)) / (2.0 * (x - site))
        if begin > begins[count - 1]:
            break
        count -= 1
    sites[count] = x
    heights[count] = level
    begins[count] = begin if count > 0 else -np.inf
    return count + 1


@kernel
def _nearest(targets: Any) -> Any:
    height, width = targets.shape
    rows = nearest_rows(targets)
    squared = np.full((height, width), np.inf)
    index = np.full((height, width), -1, np.int32)
    sites = np.empty(width, np.int64)
    heights = np.empty(width, np.float64)
    begins = np.empty(width, np.float64)
    for y in range(height):
        count = 0
        for x in range(width):
            row = rows[y, x]
            if row >= 0:
                count = add_parabola(sites, heights, begins, count, x, np.float64((y - row) * (y - row)))
        if count == 0:
            continue
        current = 0
        for x in range(width):
            while current + 1 < count and begins[current + 1] < x:
                current += 1
            site = sites[current]
            squared[y, x] = heights[current] + (x - site) * (x - site)
            index[y, x] = rows[y, site] * width + site
    return squared, index


def within(targets: NDArray[Any], distance: float) -> NDArray[np.bool_]:
    """Mark the pixels that lie within a distance of a target.

    Parameters
    ----------
    targets
        2-D mask; non-zero pixels are targets.
    distance
        Largest distance in pixels between pixel centres, exact; >= 0.

    Returns
    -------
    ndarray of bool
        True on targets, too.

    Raises
    ------
    ValueError
        If the mask is not 2-D, or the distance negative, NaN, or above 65,533 in an image as large as that.
    """
    mask = as_mask(targets)
    halves = half_widths(distance, mask.shape)
    if halves.size > _MOST_ROWS:
        raise ValueError(f"distance must be less than {_MOST_ROWS:,}, got {distance!r}")
    return _within(mask, halves)  # type: ignore[no-any-return]


def half_widths(distance: float, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return how many pixels a disk reaches to each side in the rows 0, 1, ... from its centre.

    Parameters
    ----------
    distance
        Radius of the disk, pixels; >= 0.
    shape
        Height and width of the image: larger disks are cut down to what covers it from anywhere.

    Raises
    ------
    ValueError
        If the distance is negative or NaN.
    """
    if not distance >= 0:
        raise ValueError(f"distance must not be negative, got {distance!r}")
    limit = int(min(distance, sum(shape)) ** 2)
    return np.array([math.isqrt(limit - row * row) for row in range(math.isqrt(limit) + 1)], np.int32)


@kernel
def _within(targets: Any, halves: Any) -> Any:
    height, width = targets.shape
    one = np.uint16(1)
    too_far = np.uint16(halves.size)
    reaches = np.append(halves, np.int32(-1))  # by rows to the nearest target
    above = np.empty((height, width), np.uint16)
    before = np.full(width, too_far, np.uint16)
    for y in range(height):
        marked = targets[y]
        row = above[y]
        for x in range(width):
            before[x] = np.uint16(0) if marked[x] else min(np.uint16(before[x] + one), too_far)
            row[x] = before[x]
    result = np.empty((height, width), np.bool_)
    before[:] = too_far
    for y in range(height - 1, -1, -1):
        row = above[y]
        nearest_one = too_far
        for x in range(width):
            before[x] = min(np.uint16(before[x] + one), row[x])
            nearest_one = min(nearest_one, before[x])
        marks = result[y]
        marks[:] = False
        if nearest_one == too_far:
            continue
        covered = np.int32(-1)  # as far as what lies to the left reaches
        for x in range(width):
            covered = max(covered, np.int32(x) + reaches[before[x]])
            marks[x] = covered >= np.int32(x)
        covered = np.int32(width)
        for x in range(width - 1, -1, -1):
            covered = min(covered, np.int32(x) - reaches[before[x]])
            marks[x] |= covered <= np.int32(x)
    return result


def depth(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Measure how deep inside its object every pixel lies.

    Parameters
    ----------
    labels
        2-D label image.

    Returns
    -------
    ndarray of float64
        Squared distance in pixels from the centre of each object pixel to that of the nearest pixel that does not
        belong to the same object; everything outside the image counts as such. 0 on background.

    Raises
    ------
    ValueError
        As `cellinfer_kernels.components.as_labels`.
    """
    groups = group(labels)
    squared = np.zeros(groups.shape)
    squared.ravel()[groups.pixels] = depths(groups)
    return squared


def depths(groups: Groups) -> NDArray[np.int32]:
    """Measure how deep inside its object every listed pixel lies.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.

    Returns
    -------
    ndarray of int32
        (P,) squared distance in pixels to the nearest pixel outside the object; what is outside the image is outside.
        At most 2**31 - 1, the square of 46,340 px.
    """
    return _measure_depths(groups, np.arange(groups.ids.size), True, np.empty(groups.pixels.size, np.int32))


def depths_within_image(groups: Groups, squared: NDArray[np.int32]) -> NDArray[np.int32]:
    """Measure the same where the image border is no edge: an object cut by it goes on for all we know.

    Parameters
    ----------
    groups
        The objects.
    squared
        (P,) what `depths` says of them.

    Returns
    -------
    ndarray of int32
        (P,) squared distance to the nearest pixel of the image outside the object. An object that fills the image has
        no such pixel and keeps its `squared`. The same array if no object touches the border.
    """
    height, width = groups.shape
    boxes = groups.boxes
    touching = (boxes[:, 0] == 0) | (boxes[:, 1] == 0) | (boxes[:, 2] == height) | (boxes[:, 3] == width)
    touching &= np.diff(groups.begins) < height * width
    if not touching.any():
        return squared
    return _measure_depths(groups, np.flatnonzero(touching), False, squared.copy())


def _measure_depths(
    groups: Groups, chosen: NDArray[np.int64], rim: bool, squared: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Write the depths of the chosen objects into `squared` and return it."""
    height, width = groups.shape
    _depths(
        chosen,
        groups.begins,
        groups.firsts,
        groups.rows,
        groups.starts,
        groups.stops,
        groups.boxes,
        height,
        width,
        rim,
        squared,
    )
    return squared


@kernel
def _depths(
    chosen: Any, begins: Any, firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any, height: Any, width: Any,
    rim: Any, squared: Any,
) -> Any:  # fmt: skip
    """Write the squared depths of the chosen objects; `rim`: whether the image border is an edge."""
    area = 1
    widest = 1
    for k in chosen:
        area = max(area, (boxes[k, 2] - boxes[k, 0] + 2) * (boxes[k, 3] - boxes[k, 1]))
        widest = max(widest, boxes[k, 3] - boxes[k, 1])
    steps = np.empty(area, np.int32)
    sites = np.empty(widest + 2, np.int64)
    heights = np.empty(widest + 2, np.float64)
    begin_at = np.empty(widest + 2, np.float64)
    far = np.int32(height + width)  # farther than any pixel of the image
    for k in chosen:
        top = boxes[k, 0]
        left = boxes[k, 1]
        tall = boxes[k, 2] - top
        wide = boxes[k, 3] - left
        # One row above and below: 0 where that is outside, far where the image ends and its border is no edge.
        steps[: (tall + 2) * wide] = 0
        if not rim and top == 0:
            steps[:wide] = far
        if not rim and top + tall == height:
            steps[(tall + 1) * wide : (tall + 2) * wide] = far
        for run in range(firsts[k], firsts[k + 1]):
            base = (rows[run] - top + 1) * wide - left
            for x in range(base + starts[run], base + stops[run]):
                steps[x] = steps[x - wide] + 1
        for run in range(firsts[k + 1] - 1, firsts[k] - 1, -1):
            base = (rows[run] - top + 1) * wide - left
            for x in range(base + starts[run], base + stops[run]):
                steps[x] = min(steps[x], steps[x + wide] + 1)
        i = begins[k]
        for run in range(firsts[k], firsts[k + 1]):
            start = np.int64(starts[run])
            stop = np.int64(stops[run])
            base = (rows[run] - top + 1) * wide - left
            count = 0
            if rim or start > 0:
                count = add_parabola(sites, heights, begin_at, 0, start - 1, 0.0)
            for x in range(start, stop):
                level = np.float64(steps[base + x])
                count = add_parabola(sites, heights, begin_at, count, x, level * level)
            if rim or stop < width:
                count = add_parabola(sites, heights, begin_at, count, stop, 0.0)
            current = 0
            for x in range(start, stop):
                while current + 1 < count and begin_at[current + 1] < x:
                    current += 1
                away = x - sites[current]
                squared[i] = np.int32(min(heights[current] + away * away, 2147483647.0))
                i += 1
