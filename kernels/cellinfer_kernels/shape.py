"""Raw shape quantities of all objects of a label image, each in one pass over their runs or pixels.

What CellProfiler calls the derived features (eccentricity, form factor ...) is arithmetic on these and lives in
`cellinfer.measurement`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups, find_components

__all__ = ["Circles", "Hulls", "Moments", "Outlines", "hulls", "moments", "outlines", "radii"]

Column = NDArray[np.float64]


class Moments(NamedTuple):
    """Spatial moments of n objects up to order 3; first index y (rows), second x (columns)."""

    raw: Column
    """(n, 4, 4) sums of y**p x**q over the pixels, counted from the first row and column of the object's box."""
    central: Column
    """(n, 4, 4) the same, counted from the centroid."""
    centre: Column
    """(n, 2) mean y and x of the pixel centres in the image."""


class Outlines(NamedTuple):
    """What the outlines of n objects tell; all (n,) float64, pixels."""

    perimeter: Column
    """Length of the line through the outline pixels' centres, `skimage.measure.perimeter(neighborhood=4)`."""
    perimeter_crofton: Column
    """Length by Crofton's formula in four directions, `skimage.measure.perimeter_crofton`."""
    euler: Column
    """Parts minus holes, 8-connected."""
    filled_area: Column
    """Pixels of the object and of its holes (a hole is 8-connected background that the object encloses)."""


class Circles(NamedTuple):
    """Smallest circles around the pixel centres of n objects."""

    centre: Column
    """(n, 2) y and x in the image."""
    radius: Column
    """(n,) 0 for one pixel."""
    beyond: NDArray[np.int32]
    """(m, 3) object, y and x of the pixels that floating point puts just outside their object's circle."""


class Hulls(NamedTuple):
    """What the convex hulls of n objects tell."""

    convex_area: Column
    """(n,) pixels whose centre lies in or on the convex hull of the pixels' edge midpoints."""
    max_feret: Column
    """(n,) largest distance between two pixel centres, pixels."""
    min_feret: Column
    """(n,) least width of the convex hull of the pixel centres, pixels."""
    circles: Circles


def outlines(groups: Groups) -> Outlines:
    """Measure the outline of every object.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.

    Returns
    -------
    Outlines
        One row per id of `groups`.
    """
    return Outlines(*_outlines(groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes))


def hulls(groups: Groups) -> Hulls:
    """Measure the convex hull and the enclosing circle of every object.

    Parameters
    ----------
    groups
        The objects.

    Returns
    -------
    Hulls
        One row per id of `groups`.
    """
    convex_area, max_feret, min_feret, centre, radius, beyond = _hulls(
        groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes
    )
    return Hulls(convex_area, max_feret, min_feret, Circles(centre, radius, beyond))


def moments(groups: Groups) -> Moments:
    """Sum the powers of the pixels' coordinates, run by run.

    Parameters
    ----------
    groups
        The objects.

    Returns
    -------
    Moments
        One row per id of `groups`.
    """
    return Moments(*_moments(groups.begins, groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes))


def radii(begins: NDArray[np.int64], squared: NDArray[np.int32]) -> tuple[Column, Column, Column]:
    """Summarise the depths of the pixels of every object.

    Parameters
    ----------
    begins
        (n + 1,) places of the objects, as in `Groups`.
    squared
        (P,) squared depths, from `cellinfer_kernels.distance.depths`.

    Returns
    -------
    mean, largest, median : ndarray of float64
        (n,) of the distance of the pixels to the nearest pixel outside, pixels.
    """
    return _radii(begins, squared)  # type: ignore[no-any-return]


@inlined
def _add_run(sums: Any, y: Any, middle: Any, length: Any) -> Any:
    """Add y**p x**q, p and q in 0..3, summed over a run of pixels around `middle`, to a 4 x 4 table."""
    # Sums over x = middle + t with t symmetric around 0: no large numbers cancel.
    spread = length * (length * length - 1.0) / 12.0
    first = length * middle
    second = length * middle * middle + spread
    third = length * middle * middle * middle + 3.0 * middle * spread
    power = 1.0
    for p in range(4):
        sums[p, 0] += power * length
        sums[p, 1] += power * first
        sums[p, 2] += power * second
        sums[p, 3] += power * third
        power *= y


@kernel
def _moments(begins: Any, firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any) -> Any:
    n = boxes.shape[0]
    raw = np.zeros((n, 4, 4))
    central = np.zeros((n, 4, 4))
    centre = np.empty((n, 2))
    for k in range(n):
        top = boxes[k, 0]
        left = boxes[k, 1]
        twice_x = np.int64(0)  # twice the sum of the columns, a whole number
        sum_y = np.int64(0)
        for run in range(firsts[k], firsts[k + 1]):
            length = np.int64(stops[run] - starts[run])
            twice_x += length * (starts[run] + stops[run] - 1 - 2 * left)
            sum_y += length * (rows[run] - top)
            _add_run(
                raw[k], np.float64(rows[run] - top), 0.5 * (starts[run] + stops[run] - 1 - 2 * left), np.float64(length)
            )
        area = np.float64(begins[k + 1] - begins[k])
        middle_y = sum_y / area
        middle_x = 0.5 * twice_x / area
        for run in range(firsts[k], firsts[k + 1]):
            _add_run(
                central[k],
                rows[run] - top - middle_y,
                0.5 * (starts[run] + stops[run] - 1 - 2 * left) - middle_x,
                np.float64(stops[run] - starts[run]),
            )
        # Exactly zero by definition; and with whole numbers a symmetric object is exactly symmetric.
        central[k, 0, 1] = central[k, 1, 0] = 0.0
        central[k, 1, 1] = (area * raw[k, 1, 1] - np.float64(sum_y) * (0.5 * twice_x)) / area
        central[k, 2, 0] = (area * raw[k, 2, 0] - np.float64(sum_y) * sum_y) / area
        central[k, 0, 2] = (area * raw[k, 0, 2] - (0.5 * twice_x) * (0.5 * twice_x)) / area
        centre[k, 0] = top + middle_y
        centre[k, 1] = left + middle_x
    return raw, central, centre


@inlined
def _step_kind(edges: Any, corners: Any) -> Any:
    """Class of an outline pixel by its outline neighbours: 0 none, 1 straight, 2 diagonal, 3 half and half.

    Benkrid and Crookes' estimator with the classes of scikit-image, whose code is 1 + 2 edges + 10 corners.
    """
    code = 1 + 2 * edges + 10 * corners
    if code == 5 or code == 7 or code == 15 or code == 17 or code == 25 or code == 27:
        return 1
    if code == 21 or code == 33:
        return 2
    if code == 13 or code == 23:
        return 3
    return 0


@kernel
def _outlines(firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any) -> Any:
    """Perimeters, Euler number and filled area, object by object on a scratch copy with a rim of background."""
    n = boxes.shape[0]
    perimeter = np.empty(n)
    crofton = np.empty(n)
    euler = np.empty(n)
    filled = np.empty(n)
    size = 1
    for k in range(n):
        size = max(size, (boxes[k, 2] - boxes[k, 0] + 2) * (boxes[k, 3] - boxes[k, 1] + 2))
    mask = np.zeros(size, np.uint8)
    outline = np.zeros(size, np.uint8)
    codes = np.empty(16, np.int64)
    kinds = np.empty(4, np.int64)
    for k in range(n):
        top = boxes[k, 0] - 1
        left = boxes[k, 1] - 1
        tall = boxes[k, 2] - top + 1
        wide = boxes[k, 3] - left + 1
        mask[: tall * wide] = 0
        outline[: tall * wide] = 0
        area = np.int64(0)
        for run in range(firsts[k], firsts[k + 1]):
            base = (rows[run] - top) * wide - left
            mask[base + starts[run] : base + stops[run]] = 1
            area += stops[run] - starts[run]
        for run in range(firsts[k], firsts[k + 1]):
            base = (rows[run] - top) * wide - left
            for i in range(base + starts[run], base + stops[run]):
                outline[i] = 1 - (mask[i - 1] & mask[i + 1] & mask[i - wide] & mask[i + wide])
        kinds[:] = 0
        for run in range(firsts[k], firsts[k + 1]):
            base = (rows[run] - top) * wide - left
            for i in range(base + starts[run], base + stops[run]):
                if outline[i]:
                    edges = outline[i - 1] + outline[i + 1] + outline[i - wide] + outline[i + wide]
                    corners = outline[i - wide - 1] + outline[i - wide + 1]
                    corners += outline[i + wide - 1] + outline[i + wide + 1]
                    kinds[_step_kind(edges, corners)] += 1
        _count_quads(mask, tall, wide, codes)
        perimeter[k] = kinds[1] + kinds[2] * np.sqrt(2.0) + kinds[3] * ((1 + np.sqrt(2.0)) / 2)
        crofton[k] = _crofton(codes)
        euler[k] = _euler(codes)
        filled[k] = area
        if _has_gaps(firsts[k], firsts[k + 1], rows):
            filled[k] += _holes(mask, tall, wide)
    return perimeter, crofton, euler, filled


@inlined
def _count_quads(mask: Any, tall: Any, wide: Any, codes: Any) -> Any:
    """Count the 2 x 2 windows by what is set in them: 1 upper left, 2 upper right, 4 lower left, 8 lower right."""
    codes[:] = 0
    for y in range(tall - 1):
        above = y * wide
        below = above + wide
        code: Any = 0
        for x in range(1, wide):
            code = (code & 10) >> 1 | np.int64(mask[above + x]) << 1 | np.int64(mask[below + x]) << 3
            codes[code] += 1


@inlined
def _euler(codes: Any) -> Any:
    """Euler number with 8-connected parts (Gray 1971)."""
    ones = codes[1] + codes[2] + codes[4] + codes[8]
    threes = codes[7] + codes[11] + codes[13] + codes[14]
    return (ones - threes - 2 * (codes[6] + codes[9])) / 4.0


@inlined
def _crofton(codes: Any) -> Any:
    """Perimeter from the intersections with lines in four directions (Legland et al. 2007, as in scikit-image)."""
    axes = diagonals = np.int64(0)
    for code in range(16):
        upper_left, upper_right, lower_left, lower_right = code & 1, code >> 1 & 1, code >> 2 & 1, code >> 3 & 1
        axes += codes[code] * ((1 - upper_right) * (lower_right + upper_left))
        diagonals += codes[code] * (lower_right * (1 - upper_left) + upper_right * (1 - lower_left))
    return np.pi / 4 * (axes + diagonals / np.sqrt(2.0))


@inlined
def _has_gaps(first: Any, last: Any, rows: Any) -> Any:
    """Tell whether a row holds more than one run: without that there can be no hole."""
    for run in range(first + 1, last):
        if rows[run] == rows[run - 1]:
            return True
    return False


@inlined
def _holes(mask: Any, tall: Any, wide: Any) -> Any:
    """Count the background pixels that are not 8-connected to the corner."""
    background = mask[: tall * wide].reshape((tall, wide)) == 0
    starts, stops, _, names, _ = find_components(background, 1)
    total = 0
    for run in range(names.size):
        if names[run] != 1:  # the corner's component comes first
            total += stops[run] - starts[run]
    return total


@inlined
def _hull(lows: Any, highs: Any, rows: Any, ys: Any, xs: Any) -> Any:
    """Find the convex hull of the points (y, lows[y]) and (y, highs[y]), y in 0..rows - 1; low > high: no point.

    Andrew's two chains, down and up again. Writes the corners in order to `ys`, `xs` and returns their number.
    """
    count = 0
    for chain in range(2):
        fixed = count + 1 - chain  # corners that belong to the other chain, or start this one
        for step in range(rows):
            y = step if chain == 0 else rows - 1 - step
            if lows[y] > highs[y]:
                continue
            for side in range(2):
                x = lows[y] if side == chain else highs[y]
                if count > 0 and ys[count - 1] == y and xs[count - 1] == x:
                    continue
                while count > fixed and _useless(ys, xs, count, y, x):
                    count -= 1
                ys[count] = y
                xs[count] = x
                count += 1
    return count - 1 if count > 1 else count  # the way up ended where the way down began


@inlined
def _useless(ys: Any, xs: Any, count: Any, y: Any, x: Any) -> Any:
    """Tell whether the last corner lies on or inside the line from the one before it to (y, x)."""
    y0 = ys[count - 2]
    x0 = xs[count - 2]
    return (ys[count - 1] - y0) * (x - x0) - (xs[count - 1] - x0) * (y - y0) <= 0


@inlined
def _ferets(ys: Any, xs: Any, corners: Any) -> Any:
    """Largest and least width of a convex polygon."""
    largest = np.int64(0)
    for i in range(corners):
        for j in range(i):
            largest = max(largest, (ys[i] - ys[j]) ** 2 + (xs[i] - xs[j]) ** 2)
    if corners < 3:
        return np.sqrt(np.float64(largest)), 0.0
    least = np.inf
    for i in range(corners):
        j = (i + 1) % corners
        dy = ys[j] - ys[i]
        dx = xs[j] - xs[i]
        reach = np.int64(0)
        for k in range(corners):
            reach = max(reach, abs(dy * (xs[k] - xs[i]) - dx * (ys[k] - ys[i])))
        least = min(least, reach / np.sqrt(np.float64(dy * dy + dx * dx)))
    return np.sqrt(np.float64(largest)), least


@inlined
def _covered(ys: Any, xs: Any, corners: Any, lows: Any, highs: Any, rows: Any) -> Any:
    """Count the pixels whose centre is in or on a polygon given in half pixels, where pixel row r is y = 2 r + 1."""
    for row in range(rows):
        lows[row] = np.int64(1) << 40
        highs[row] = -(np.int64(1) << 40)
    for i in range(corners):
        j = (i + 1) % corners
        y0, x0, y1, x1 = ys[i], xs[i], ys[j], xs[j]
        if y0 > y1:
            y0, x0, y1, x1 = y1, x1, y0, x0
        for row in range(y0 // 2, (y1 - 1) // 2 + 1):
            # x = x0 + (y - y0) (x1 - x0) / (y1 - y0), halved and rounded inwards without leaving the integers
            scale = y1 - y0
            if scale == 0:
                lows[row] = min(lows[row], -(-min(x0, x1) // 2))
                highs[row] = max(highs[row], max(x0, x1) // 2)
                continue
            numerator = x0 * scale + (2 * row + 1 - y0) * (x1 - x0)
            lows[row] = min(lows[row], -(-numerator // (2 * scale)))
            highs[row] = max(highs[row], numerator // (2 * scale))
    total = 0
    for row in range(rows):
        total += highs[row] - lows[row] + 1
    return total


@inlined
def _circle(ys: Any, xs: Any, corners: Any) -> Any:
    """Find the smallest circle around a convex polygon (Chrystal 1885): centre y, x and radius.

    Follows centrosome's formulas and order of corners (`ys`, `xs` in image coordinates, clockwise from the first one
    of the leftmost column), because which corners floating point puts outside the unit disk of the Zernike
    polynomials depends on the last bit.
    """
    if corners == 1:
        return np.float64(ys[0]), np.float64(xs[0]), 0.0
    first = 0
    second = 1
    if corners == 2:
        y = (ys[0] + ys[1]) / 2
        x = (xs[0] + xs[1]) / 2
        return y, x, np.sqrt((y - ys[0]) ** 2 + (x - xs[0]) ** 2)
    for _ in range(4 * corners * corners):  # each step enlarges the circle; the bound is never reached
        base_y = np.float64(ys[first] - ys[second])
        base_x = np.float64(xs[first] - xs[second])
        base = base_y * base_y + base_x * base_x
        apex = -1
        least = np.inf
        apex_at_second = apex_at_first = 0.0
        for v in range(corners):
            if v == first or v == second:
                continue
            y0 = np.float64(ys[v] - ys[first])
            x0 = np.float64(xs[v] - xs[first])
            y1 = np.float64(ys[v] - ys[second])
            x1 = np.float64(xs[v] - xs[second])
            at_second = abs(np.arccos((base_y * y1 + base_x * x1) / np.sqrt(base * (y1 * y1 + x1 * x1))))
            at_first = abs(np.arccos((-base_y * y0 - base_x * x0) / np.sqrt(base * (y0 * y0 + x0 * x0))))
            angle = np.pi - at_second - at_first
            if angle < least:
                least = angle
                apex = v
                apex_at_second = at_second
                apex_at_first = at_first
        if least >= np.pi / 2:
            y = (np.float64(ys[first]) + ys[second]) / 2
            x = (np.float64(xs[first]) + xs[second]) / 2
            return y, x, np.sqrt(base) / 2
        if apex_at_second <= np.pi / 2 and apex_at_first <= np.pi / 2:
            break
        if apex_at_first > np.pi / 2:
            first = apex
        else:
            second = apex
    ay, ax = np.float64(ys[first]), np.float64(xs[first])
    by, bx = np.float64(ys[second]), np.float64(xs[second])
    cy, cx = np.float64(ys[apex]), np.float64(xs[apex])
    scale = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    aa, bb, cc = ay * ay + ax * ax, by * by + bx * bx, cy * cy + cx * cx
    x = (aa * (by - cy) + bb * (cy - ay) + cc * (ay - by)) / scale
    y = (aa * (cx - bx) + bb * (ax - cx) + cc * (bx - ax)) / scale
    return y, x, np.sqrt((ay - y) * (ay - y) + (ax - x) * (ax - x))


@inlined
def _from_leftmost(ys: Any, xs: Any, corners: Any, top: Any, left: Any, turned_ys: Any, turned_xs: Any) -> Any:
    """Copy a polygon, moved by (top, left), clockwise from the first corner of the leftmost column."""
    start = 0
    twice_area = np.int64(0)
    for i in range(corners):
        if xs[i] < xs[start] or (xs[i] == xs[start] and ys[i] < ys[start]):
            start = i
        j = (i + 1) % corners
        twice_area += xs[i] * ys[j] - xs[j] * ys[i]
    for i in range(corners):
        j = (start + i if twice_area >= 0 else start - i) % corners
        turned_ys[i] = ys[j] + top
        turned_xs[i] = xs[j] + left


@kernel
def _hulls(firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any) -> Any:
    n = boxes.shape[0]
    convex_area = np.empty(n)
    max_feret = np.empty(n)
    min_feret = np.empty(n)
    centre = np.empty((n, 2))
    radius = np.empty(n)
    beyond = np.empty((16 + n, 3), np.int32)
    outside = 0
    tallest = 0
    for k in range(n):
        tallest = max(tallest, boxes[k, 2] - boxes[k, 0])
    lows = np.empty(tallest, np.int64)
    highs = np.empty(tallest, np.int64)
    fine_lows = np.empty(2 * tallest + 1, np.int64)
    fine_highs = np.empty(2 * tallest + 1, np.int64)
    ys = np.empty(8 * tallest + 8, np.int64)
    xs = np.empty(8 * tallest + 8, np.int64)
    turned_ys = np.empty(8 * tallest + 8, np.int64)
    turned_xs = np.empty(8 * tallest + 8, np.int64)
    none = np.int64(1) << 40
    for k in range(n):
        top = np.int64(boxes[k, 0])
        left = np.int64(boxes[k, 1])
        tall = np.int64(boxes[k, 2]) - top
        lows[:tall] = none
        highs[:tall] = -none
        for run in range(firsts[k], firsts[k + 1]):
            row = rows[run] - top
            lows[row] = min(lows[row], starts[run] - left)
            highs[row] = max(highs[row], stops[run] - 1 - left)
        corners = _hull(lows, highs, tall, ys, xs)
        max_feret[k], min_feret[k] = _ferets(ys, xs, corners)
        _from_leftmost(ys, xs, corners, top, left, turned_ys, turned_xs)
        centre[k, 0], centre[k, 1], radius[k] = _circle(turned_ys, turned_xs, corners)
        for i in range(corners):
            y = (turned_ys[i] - centre[k, 0]) / radius[k]
            x = (turned_xs[i] - centre[k, 1]) / radius[k]
            if x * x + y * y > 1:
                if outside == beyond.shape[0]:
                    longer = np.empty((2 * outside, 3), np.int32)
                    longer[:outside] = beyond
                    beyond = longer
                beyond[outside, 0] = k
                beyond[outside, 1] = turned_ys[i]
                beyond[outside, 2] = turned_xs[i]
                outside += 1
        # The four edge midpoints of a pixel (r, c), in half pixels: (2r, 2c), (2r + 2, 2c), (2r + 1, 2c -+ 1).
        fine_lows[: 2 * tall + 1] = none
        fine_highs[: 2 * tall + 1] = -none
        for row in range(tall):
            if lows[row] > highs[row]:
                continue
            for offset in range(3):
                reach = offset % 2
                fine = 2 * row + offset
                fine_lows[fine] = min(fine_lows[fine], 2 * lows[row] - reach)
                fine_highs[fine] = max(fine_highs[fine], 2 * highs[row] + reach)
        corners = _hull(fine_lows, fine_highs, 2 * tall + 1, ys, xs)
        convex_area[k] = _covered(ys, xs, corners, lows, highs, tall)
    return convex_area, max_feret, min_feret, centre, radius, beyond[:outside]


@kernel
def _radii(begins: Any, squared: Any) -> Any:
    """Mean, maximum and median by counting: a squared depth never exceeds the number of the object's pixels."""
    n = begins.size - 1
    mean = np.empty(n)
    largest = np.empty(n)
    median = np.empty(n)
    widest = 0
    for k in range(n):
        widest = max(widest, begins[k + 1] - begins[k])
    counts = np.zeros(widest + 1, np.int64)
    for k in range(n):
        best = 0
        for i in range(begins[k], begins[k + 1]):
            counts[squared[i]] += 1
            best = max(best, squared[i])
        area = begins[k + 1] - begins[k]
        total = 0.0
        below = 0
        low = high = -1.0
        for depth in range(1, best + 1):
            if counts[depth] == 0:
                continue
            root = np.sqrt(np.float64(depth))
            total += counts[depth] * root
            below += counts[depth]
            if low < 0 and 2 * below >= area:
                low = root
            if high < 0 and 2 * below > area:
                high = root
            counts[depth] = 0
        mean[k] = total / area
        largest[k] = np.sqrt(np.float64(best))
        median[k] = (low + high) / 2
    return mean, largest, median
