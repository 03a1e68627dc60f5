"""Neighbours of objects: how many, how much of the outline they touch, and which two are closest.

What CellProfiler 4.2's MeasureObjectNeighbors measures of one set of objects and itself. Two parts do not depend on
each other: `closest` looks at centres only, `touching` at horizontal runs of pixels. Both are linear in the runs of the
objects; a distance of d pixels visits 2 d + 1 rows per run and never the pixels of a disk.

Where this departs from CellProfiler:

- Ids are the objects' own and may have gaps. All objects are in the label image: none was discarded before.
- Of equally close objects the one of the lower id comes first. An object is never its own neighbour: CellProfiler
  names an object itself where another one of a lower id has exactly the same centre.
- The angle comes from cross and dot product, which is exact where CellProfiler's arccosine loses half of the digits
  (near 0 and 180 degrees) or is NaN because rounding has made the cosine 1 + 2e-16.

Where it departs from the port of cp-measure 0.3, in which CellProfiler is right: the closest object is another one (the
port's first is the object itself, its second the closest), in "Expanded" mode centres are those of the objects as they
were (not of the expanded ones) and neighbours are looked for among the expanded objects (not the original ones), and
fewer than two objects are no error.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups
from cellinfer_kernels.distance import nearest

__all__ = ["Closest", "Method", "Neighbors", "Touching", "closest", "neighbors", "touching"]

Column = NDArray[np.float64]
Method: TypeAlias = Literal["Adjacent", "Expanded"] | int
"""What makes objects neighbours: "Adjacent", "Expanded", or a distance in pixels."""
_NEARBY = 2  # runs around a guess that are searched first


class Closest(NamedTuple):
    """The two closest other objects of each of n objects by the distance of centres, all (n,) float64."""

    first_number: Column
    """Id of the closest object; 0 if there is no other."""
    first_distance: Column
    """Its distance in pixels, 0 if there is none."""
    second_number: Column
    """Id of the second closest object; 0 if there are fewer than three objects."""
    second_distance: Column
    """Its distance in pixels, 0 if there is none."""
    angle: Column
    """Angle between the directions to both, 0..180 degrees; 0 if there are fewer than three objects, NaN if one of the
    two has the same centre as the object."""


class Touching(NamedTuple):
    """How n objects touch each other, both (n,) float64."""

    count: Column  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    """Number of neighbours."""
    percent_touching: Column
    """Percentage of the object's outline pixels that are near another object."""


class Neighbors(NamedTuple):
    """What MeasureObjectNeighbors tells about n objects, all (n,) float64; see `Touching` and `Closest`."""

    count: Column  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    percent_touching: Column
    first_number: Column
    first_distance: Column
    second_number: Column
    second_distance: Column
    angle: Column


class _Rows(NamedTuple):
    """Horizontal runs of objects 0..n - 1 in raster order."""

    begins: NDArray[np.int64]
    """(height + 1,) first run of each row."""
    starts: NDArray[np.int32]
    """(R,) first column of each run."""
    stops: NDArray[np.int32]
    """(R,) column after the last of each run."""
    places: NDArray[np.int32]
    """(R,) object of each run."""


def neighbors(groups: Groups, *, method: Method = "Adjacent") -> Neighbors:
    """Measure the neighbours of every object.

    For several methods call `closest` once and `touching` for each of them.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.
    method
        As for `touching`.

    Returns
    -------
    Neighbors
        One row per id of `groups`.

    Raises
    ------
    ValueError
        As `touching`.
    """
    return Neighbors(*touching(groups, method=method), *closest(groups))


def closest(groups: Groups) -> Closest:
    """Find the two closest other objects of every object.

    Centres are sorted into a grid of buckets of one centre on average; buckets are searched in rings.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.

    Returns
    -------
    Closest
        One row per id of `groups`.
    """
    n = groups.ids.size
    centres = _centres(groups.firsts, groups.rows, groups.starts, groups.stops)
    height, width = groups.shape
    side = max(1.0, float(np.sqrt(height * width / max(n, 1))))
    grid_height, grid_width = int(height / side) + 1, int(width / side) + 1
    cells = (centres / side).astype(np.int32)
    flat = cells[:, 0] * np.int32(grid_width) + cells[:, 1]
    begins, members = _ordered(flat, np.arange(n, dtype=np.int32), grid_height * grid_width)
    places, distances, angle = _closest(centres, cells, begins, members, grid_height, grid_width, side)
    numbers = np.append(groups.ids, 0).astype(np.float64)[places]  # place -1 is nobody, 0
    return Closest(numbers[0], distances[0], numbers[1], distances[1], angle)


def touching(groups: Groups, *, method: Method = "Adjacent") -> Touching:
    """Count the neighbours of every object and the outline pixels near them.

    Two objects are neighbours if centres of pixels of theirs are at most d pixels apart. A pixel of an object is on its
    outline if it lies on the image's edge or one of its eight neighbours is not of the object. An outline pixel touches
    if the centre of a pixel of another object is at most d + 1/2 pixels away. (CellProfiler's manual speaks of objects
    that meet after both have grown by d; its code, and so this, grows one of them.)

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.
    method
        A distance d in whole pixels, at least 1; "Adjacent": 1; "Expanded": 1, after every background pixel has joined
        its nearest object.

    Returns
    -------
    Touching
        One row per id of `groups`; zeros if there are fewer than two objects.

    Raises
    ------
    ValueError
        If the method is none of these.
    """
    distance = _distance(method)
    n, width = groups.ids.size, groups.shape[1]
    if n < 2:
        return Touching(np.zeros(n), np.zeros(n))
    rows = _expanded(groups) if method == "Expanded" else _by_row(groups)
    # Nothing is farther away than both sides of the image together.
    return Touching(*_touch(*rows, n, width, min(distance, sum(groups.shape))))


def _distance(method: Method) -> int:
    if isinstance(method, str) and method in ("Adjacent", "Expanded"):
        return 1
    if isinstance(method, int | np.integer) and not isinstance(method, bool) and method >= 1:
        return int(method)
    raise ValueError(f'method must be "Adjacent", "Expanded" or a distance of 1, 2, ... pixels, got {method!r}')


def _by_row(groups: Groups) -> _Rows:
    """Sort runs by row and column: two counting sorts that keep the order of equals."""
    height, width = groups.shape
    by_object = np.arange(groups.rows.size, dtype=np.int32)
    _, by_column = _ordered(groups.starts, by_object, width)
    begins, order = _ordered(groups.rows, by_column, height)
    places = np.repeat(np.arange(groups.ids.size, dtype=np.int32), np.diff(groups.firsts))
    return _Rows(begins, groups.starts[order], groups.stops[order], places[order])


def _expanded(groups: Groups) -> _Rows:
    """List the runs after every background pixel has joined its nearest object."""
    painted = _paint(groups.firsts, groups.rows, groups.starts, groups.stops, *groups.shape)
    _, index = nearest(painted)
    return _Rows(*_runs_of_nearest(painted.ravel(), index))


@kernel
def _ordered(keys: Any, items: Any, size: Any) -> Any:
    """Sort `items` by `keys[item]` (0..size - 1), equals in the order given; also the first place of every key."""
    begins = np.zeros(size + 1, np.int64)
    for item in items:
        begins[keys[item] + 1] += 1
    begins = np.cumsum(begins)
    fill = begins.copy()
    result = np.empty_like(items)
    for item in items:
        result[fill[keys[item]]] = item
        fill[keys[item]] += 1
    return begins, result


@kernel
def _paint(firsts: Any, rows: Any, starts: Any, stops: Any, height: Any, width: Any) -> Any:
    """Label image with object k as k + 1."""
    labels = np.zeros((height, width), np.int32)
    for k in range(firsts.size - 1):
        for run in range(firsts[k], firsts[k + 1]):
            labels[rows[run], starts[run] : stops[run]] = k + 1
    return labels


@kernel
def _runs_of_nearest(painted: Any, index: Any) -> Any:
    """List the runs of the image that has `painted[index] - 1` everywhere, in raster order."""
    height, width = index.shape
    expanded = np.empty((height, width), np.int32)
    begins = np.zeros(height + 1, np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            expanded[y, x] = painted[index[y, x]] - 1
        for x in range(width):
            count += int(x == 0 or expanded[y, x] != expanded[y, x - 1])
        begins[y + 1] = count
    starts = np.empty(count, np.int32)
    stops = np.empty(count, np.int32)
    places = np.empty(count, np.int32)
    run = 0
    for y in range(height):
        row = expanded[y]
        x = 0
        while x < width:
            starts[run] = x
            places[run] = row[x]
            while x < width and row[x] == places[run]:
                x += 1
            stops[run] = x
            run += 1
    return begins, starts, stops, places


@kernel
def _centres(firsts: Any, rows: Any, starts: Any, stops: Any) -> Any:
    """Mean y and x of each object's pixels; the sums are exact."""
    n = firsts.size - 1
    centres = np.empty((n, 2))
    for k in range(n):
        area = sum_y = sum_x = np.int64(0)
        for run in range(firsts[k], firsts[k + 1]):
            start = np.int64(starts[run])
            stop = np.int64(stops[run])
            area += stop - start
            sum_y += rows[run] * (stop - start)
            sum_x += (start + stop - 1) * (stop - start) // 2
        centres[k, 0] = sum_y / area
        centres[k, 1] = sum_x / area
    return centres


@inlined
def _is_closer(distance: Any, place: Any, best_distance: Any, best_place: Any) -> Any:
    return distance < best_distance or (distance == best_distance and place < best_place)


@kernel
def _closest(centres: Any, cells: Any, begins: Any, members: Any, grid_height: Any, grid_width: Any, side: Any) -> Any:
    """Find places (-1: nobody) and distances of the two closest other centres, (2, n) each, and the angle (n,)."""
    n = cells.shape[0]
    places = np.full((2, n), -1, np.int64)
    distances = np.zeros((2, n))
    angles = np.zeros(n)
    largest_ring = max(grid_height, grid_width)
    for k in range(n):
        first = second = np.int64(-1)
        first_distance = second_distance = np.inf
        for ring in range(largest_ring):
            # What no ring so far has shown is at least ring - 1 buckets away; a tie may still be of a lower id.
            if second_distance < (ring - 1) * side * (1 - 1e-9):
                break
            top = cells[k, 0] - ring
            left = cells[k, 1] - ring
            for row in range(max(top, 0), min(top + 2 * ring + 1, grid_height)):
                inside = row != top and row != top + 2 * ring
                for column in range(left, left + 2 * ring + 1, 2 * ring if inside else 1):
                    if column < 0 or column >= grid_width:
                        continue
                    cell = row * grid_width + column
                    for i in range(begins[cell], begins[cell + 1]):
                        other = np.int64(members[i])
                        if other == k:
                            continue
                        dy = centres[other, 0] - centres[k, 0]
                        dx = centres[other, 1] - centres[k, 1]
                        distance = np.sqrt(dy * dy + dx * dx)
                        if _is_closer(distance, other, first_distance, first):
                            second, second_distance = first, first_distance
                            first, first_distance = other, distance
                        elif _is_closer(distance, other, second_distance, second):
                            second, second_distance = other, distance
        if first >= 0:
            places[0, k] = first
            distances[0, k] = first_distance
        if second >= 0:
            places[1, k] = second
            distances[1, k] = second_distance
            angles[k] = _angle(centres, k, first, second)
    return places, distances, angles


@inlined
def _angle(centres: Any, vertex: Any, first: Any, second: Any) -> Any:
    """Angle in degrees at `vertex` between two other centres, NaN if one of them is at the same point."""
    y1 = centres[first, 0] - centres[vertex, 0]
    x1 = centres[first, 1] - centres[vertex, 1]
    y2 = centres[second, 0] - centres[vertex, 0]
    x2 = centres[second, 1] - centres[vertex, 1]
    if (y1 == 0 and x1 == 0) or (y2 == 0 and x2 == 0):
        return np.nan
    return np.degrees(np.arctan2(abs(y1 * x2 - x1 * y2), y1 * y2 + x1 * x2))


@inlined
def _first_reaching(stops: Any, low: Any, high: Any, column: Any, guess: Any) -> Any:
    """First of the runs low..high - 1 of one row that ends after `column`; `high` if none. A `guess` saves time."""
    before = guess - _NEARBY
    after = guess + _NEARBY
    if before > low and stops[before - 1] <= column:
        low = before
    if after < high and stops[after] > column:
        high = after
    while low < high:
        middle = (low + high) >> 1
        if stops[middle] > column:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def _mark(changes: Any, length: Any, begin: Any, end: Any) -> Any:
    """Add 1 to begin..end - 1, as far as that lies in 0..length - 1, of an array given by its differences."""
    begin = max(begin, 0)
    end = min(end, length)
    if begin < end:
        changes[begin] += 1
        changes[end] -= 1


@kernel
def _touch(begins: Any, starts: Any, stops: Any, places: Any, n: Any, width: Any, distance: Any) -> Any:
    """Count neighbours, and outline pixels near them in percent, object by object over all runs within reach."""
    height = begins.size - 1
    # The runs of one object as a chain, in raster order.
    rows = np.empty(places.size, np.int32)
    following = np.empty(places.size, np.int32)
    heads = np.full(n, -1, np.int32)
    for y in range(height - 1, -1, -1):
        for run in range(begins[y + 1] - 1, begins[y] - 1, -1):
            rows[run] = y
            following[run] = heads[places[run]]
            heads[places[run]] = run
    # How far disks of radius d and d + 1/2 reach sideways some rows away: x**2 + y**2 <= d**2 + d + 1/4 in integers.
    narrow = np.empty(distance + 1, np.int64)
    wide = np.empty(distance + 1, np.int64)
    for away in range(distance + 1):
        square = np.float64(distance * distance - away * away)
        narrow[away] = np.int64(np.sqrt(square))
        wide[away] = np.int64(np.sqrt(square + distance))
    seen = np.full(n, -1, np.int64)
    latest = begins.copy()  # what the last search in each row found: an object's next run is usually close by
    near = np.zeros(width + 1, np.int32)
    core = np.zeros(width + 1, np.int32)
    counts = np.zeros(n)
    percent = np.zeros(n)
    for k in range(n):
        outline = touched = np.int64(0)
        run = heads[k]
        while run >= 0:
            start = np.int64(starts[run])
            stop = np.int64(stops[run])
            for y in range(max(rows[run] - distance, 0), min(rows[run] + distance + 1, height)):
                away = abs(y - rows[run])
                reach = wide[away]
                other = _first_reaching(stops, begins[y], begins[y + 1], start - reach, latest[y])
                latest[y] = other
                while other < begins[y + 1] and starts[other] < stop + reach:
                    neighbor = places[other]
                    if neighbor != k:
                        _mark(near, stop - start, starts[other] - reach - start, stops[other] + reach - start)
                        met = starts[other] < stop + narrow[away] and stops[other] > start - narrow[away]
                        if met and seen[neighbor] != k:
                            seen[neighbor] = k
                            counts[k] += 1
                    elif away == 1:
                        _mark(core, stop - start, starts[other] + 1 - start, stops[other] - 1 - start)
                    other += 1
            here, there = _take_outline(near, core, stop - start)
            outline += here
            touched += there
            run = following[run]
        percent[k] = touched * 100 / outline
    return counts, percent


@inlined
def _take_outline(near: Any, core: Any, length: Any) -> Any:
    """Count a run's outline pixels and those of them that touch; leaves `near` and `core` zero.

    A pixel is inside if it has its object on both sides, and all three pixels above and below are of it (core = 2).
    """
    outline = np.int64(0)
    touched = np.int64(0)
    nearby = np.int64(0)
    covered = np.int64(0)
    for x in range(length):
        nearby += near[x]
        covered += core[x]
        near[x] = 0
        core[x] = 0
        if x == 0 or x == length - 1 or covered < 2:
            outline += 1
            touched += int(nearby > 0)
    near[length] = 0
    core[length] = 0
    return outline, touched
