"""Raw shape quantities of all objects of a label image, each in one pass over their pixels.

What CellProfiler calls the derived features (eccentricity, form factor ...) is arithmetic on these and lives in
`cellinfer.measure`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels._order import quantile
from cellinfer_kernels.components import Groups
from cellinfer_kernels.distance import depth

__all__ = ["Shapes", "shapes"]

Column = NDArray[np.float64]


class Shapes(NamedTuple):
    """Shape quantities of n objects in pixels; y grows downwards. All float64."""

    area: Column
    """(n,) pixels."""
    box: Column
    """(n, 4) first row, first column, row after the last, column after the last."""
    centre: Column
    """(n, 2) mean y and x of the pixel centres."""
    covariance: Column
    """(n, 3) var(y), cov(y, x), var(x) of the pixel centres, divided by n."""
    perimeter: Column
    """(n,) length of the line through the outline pixels' centres, `skimage.measure.perimeter(neighborhood=4)`."""
    euler: Column
    """(n,) parts minus holes, 8-connected."""
    convex_area: Column
    """(n,) pixels whose centre lies in or on the convex hull of the pixels' edge midpoints."""
    max_feret: Column
    """(n,) largest distance between two pixel centres."""
    min_feret: Column
    """(n,) least width of the convex hull of the pixel centres."""
    mean_radius: Column
    """(n,) mean over pixels of the distance to the nearest pixel outside the object."""
    max_radius: Column
    """(n,) maximum of the same."""
    median_radius: Column
    """(n,) median of the same."""


def shapes(groups: Groups) -> Shapes:
    """Measure the shape of every object.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.

    Returns
    -------
    Shapes
        One row per id of `groups`.
    """
    sequential = _paint(groups.begins, groups.pixels, *groups.shape)
    box, centre, covariance = _moments(groups.begins, groups.pixels, groups.shape[1])
    perimeter, euler = _outlines(np.pad(sequential, 1), groups.ids.size)
    convex_area, max_feret, min_feret = _hulls(groups.begins, groups.pixels, groups.shape[1], box)
    radii = _radii(groups.begins, np.sqrt(depth(sequential).ravel()[groups.pixels]))
    area = np.diff(groups.begins).astype(np.float64)
    return Shapes(
        area, box.astype(np.float64), centre, covariance, perimeter, euler, convex_area, max_feret, min_feret, *radii
    )


@kernel
def _paint(begins: Any, pixels: Any, height: Any, width: Any) -> Any:
    """Label image with object k as k + 1."""
    labels = np.zeros((height, width), np.int32)
    flat = labels.ravel()
    for k in range(begins.size - 1):
        for i in range(begins[k], begins[k + 1]):
            flat[pixels[i]] = k + 1
    return labels


@kernel
def _moments(begins: Any, pixels: Any, width: Any) -> Any:
    n = begins.size - 1
    box = np.empty((n, 4), np.int64)
    centre = np.empty((n, 2))
    covariance = np.empty((n, 3))
    for k in range(n):
        # Relative to the first pixel all sums are exact integers.
        top = np.int64(pixels[begins[k]] // width)
        origin = np.int64(pixels[begins[k]] % width)
        left = right = origin
        sum_y = sum_x = sum_yy = sum_yx = sum_xx = np.int64(0)
        for i in range(begins[k], begins[k + 1]):
            y = pixels[i] // width - top
            x = pixels[i] % width - origin
            left = min(left, x + origin)
            right = max(right, x + origin)
            sum_y += y
            sum_x += x
            sum_yy += y * y
            sum_yx += y * x
            sum_xx += x * x
        area = np.float64(begins[k + 1] - begins[k])
        box[k, 0] = top
        box[k, 1] = left
        box[k, 2] = pixels[begins[k + 1] - 1] // width + 1
        box[k, 3] = right + 1
        centre[k, 0] = top + sum_y / area
        centre[k, 1] = origin + sum_x / area
        # In this form the differences are exact up to 2**53, so a symmetric object is exactly symmetric.
        covariance[k, 0] = (area * sum_yy - np.float64(sum_y) * sum_y) / (area * area)
        covariance[k, 1] = (area * sum_yx - np.float64(sum_y) * sum_x) / (area * area)
        covariance[k, 2] = (area * sum_xx - np.float64(sum_x) * sum_x) / (area * area)
    return box, centre, covariance


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
def _outlines(labels: Any, n: Any) -> Any:
    """Perimeter and Euler number from a label image with a rim of background."""
    height, width = labels.shape
    outline = np.zeros((height, width), np.int32)
    kinds = np.zeros((n + 1, 4), np.int64)
    quads = np.zeros(n + 1, np.int64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            k = labels[y, x]
            if k != 0 and (
                labels[y - 1, x] != k or labels[y + 1, x] != k or labels[y, x - 1] != k or labels[y, x + 1] != k
            ):
                outline[y, x] = k
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            k = outline[y, x]
            if k == 0:
                continue
            edges = int(outline[y - 1, x] == k) + int(outline[y + 1, x] == k)
            edges += int(outline[y, x - 1] == k) + int(outline[y, x + 1] == k)
            corners = int(outline[y - 1, x - 1] == k) + int(outline[y - 1, x + 1] == k)
            corners += int(outline[y + 1, x - 1] == k) + int(outline[y + 1, x + 1] == k)
            kinds[k, _step_kind(edges, corners)] += 1
    for y in range(height - 1):
        for x in range(width - 1):
            _count_quad(quads, labels[y, x], labels[y, x + 1], labels[y + 1, x], labels[y + 1, x + 1])
    perimeter = kinds[1:, 1] + kinds[1:, 2] * np.sqrt(2.0) + kinds[1:, 3] * ((1 + np.sqrt(2.0)) / 2)
    return perimeter, quads[1:] / 4.0


@inlined
def _count_quad(quads: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Add what a 2 x 2 window says about four times the Euler number of the objects in it (Gray 1971)."""
    if a == b and a == c and a == d:
        return
    for corner in range(4):
        k = a if corner == 0 else b if corner == 1 else c if corner == 2 else d
        if k == 0 or (corner > 0 and k == a) or (corner > 1 and k == b) or (corner > 2 and k == c):
            continue
        pixels = int(a == k) + int(b == k) + int(c == k) + int(d == k)
        if pixels == 1:
            quads[k] += 1
        elif pixels == 3:
            quads[k] -= 1
        elif pixels == 2 and ((a == k and d == k) or (b == k and c == k)):
            quads[k] -= 2


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


@kernel
def _hulls(begins: Any, pixels: Any, width: Any, box: Any) -> Any:
    n = begins.size - 1
    convex_area = np.empty(n)
    max_feret = np.empty(n)
    min_feret = np.empty(n)
    tallest = 0
    for k in range(n):
        tallest = max(tallest, box[k, 2] - box[k, 0])
    lows = np.empty(tallest, np.int64)
    highs = np.empty(tallest, np.int64)
    fine_lows = np.empty(2 * tallest + 1, np.int64)
    fine_highs = np.empty(2 * tallest + 1, np.int64)
    ys = np.empty(8 * tallest + 8, np.int64)
    xs = np.empty(8 * tallest + 8, np.int64)
    for k in range(n):
        top = box[k, 0]
        left = box[k, 1]
        rows = box[k, 2] - top
        lows[:rows] = width
        highs[:rows] = -1
        for i in range(begins[k], begins[k + 1]):
            row = pixels[i] // width - top
            column = pixels[i] % width - left
            lows[row] = min(lows[row], column)
            highs[row] = max(highs[row], column)
        max_feret[k], min_feret[k] = _ferets(ys, xs, _hull(lows, highs, rows, ys, xs))
        # The four edge midpoints of a pixel (r, c), in half pixels: (2r, 2c), (2r + 2, 2c), (2r + 1, 2c -+ 1).
        fine_lows[: 2 * rows + 1] = 4 * width
        fine_highs[: 2 * rows + 1] = -4
        for row in range(rows):
            if lows[row] > highs[row]:
                continue
            for offset in range(3):
                reach = offset % 2
                fine = 2 * row + offset
                fine_lows[fine] = min(fine_lows[fine], 2 * lows[row] - reach)
                fine_highs[fine] = max(fine_highs[fine], 2 * highs[row] + reach)
        corners = _hull(fine_lows, fine_highs, 2 * rows + 1, ys, xs)
        convex_area[k] = _covered(ys, xs, corners, lows, highs, rows)
    return convex_area, max_feret, min_feret


@kernel
def _radii(begins: Any, depths: Any) -> Any:
    """Mean, maximum and median per object; reorders `depths`."""
    n = begins.size - 1
    mean = np.empty(n)
    largest = np.empty(n)
    median = np.empty(n)
    for k in range(n):
        total = 0.0
        best = 0.0
        for i in range(begins[k], begins[k + 1]):
            total += depths[i]
            best = max(best, depths[i])
        mean[k] = total / (begins[k + 1] - begins[k])
        largest[k] = best
        median[k] = quantile(depths, begins[k], begins[k + 1], 0.5)
    return mean, largest, median
