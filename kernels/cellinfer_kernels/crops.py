"""Crops of single cells: squares around points, scaled to one range and one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import as_labels

__all__ = ["Mask", "crops"]

Mask = Literal["none", "neighbours", "outside"]
_KERNEL_TYPES = (np.uint8, np.uint16, np.float32)


def crops(
    planes: Sequence[NDArray[Any]],
    centres: NDArray[np.float64],
    box: int,
    side: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    mask: Mask = "none",
    labels: NDArray[Any] | None = None,
    owners: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Cut a square around each point out of every plane, scale it to a range, and resize it.

    The square covers the rows `floor(row + 0.5) - box // 2` and the `box - 1` after it, and columns alike. Pixels
    beyond the plane's edge, those that the mask hides and those that are not finite are *unseen*. The darkest seen
    pixel of the square becomes the lower end of the range and the brightest the upper one (min-max, per square and
    plane), unseen pixels the lower end, and so does all of a square whose seen pixels are equal, or that has none.

    Sizes are changed by linear interpolation with pixel centres at half: as `cv2.resize` with INTER_LINEAR when a
    square is enlarged; when it is reduced, the triangle is widened by the factor, so that no pixel is passed over
    (as Pillow's BILINEAR, and torch's with `antialias=True`).

    Parameters
    ----------
    planes
        `(H, W)` each, of real numbers; other types than uint8 and uint16 are computed with as float32.
    centres
        `(n, 2)` row and column, pixels; a pixel's centre is at whole numbers. They may lie beyond the plane.
    box
        Side of the square, pixels.
    side
        Side of the result, pixels.
    value_range
        Lower and upper end.
    mask
        `"neighbours"` hides pixels of other objects than the square's own and leaves the ground; `"outside"` hides the
        ground too.
    labels
        `(H, W)` label image, for the mask.
    owners
        `(n,)` ids of the squares' own objects, for the mask.

    Returns
    -------
    ndarray of shape (n, planes, side, side), float32
        Never NaN.

    Raises
    ------
    ValueError
        If shapes do not fit, a size is below 1, a centre is not finite, or labels or owners lack for the mask.
    """
    shape = _checked_shape(planes)
    corners = _corners(centres, box, side)
    if mask not in get_args(Mask):
        raise ValueError(f"unknown mask {mask!r}: one of {', '.join(get_args(Mask))}")
    ids, own = np.zeros((1, 1), np.int32), np.zeros(len(corners), np.int32)
    if mask != "none":
        if labels is None or owners is None:
            raise ValueError(f"the mask {mask!r} needs labels and owners")
        ids, own = as_labels(labels), np.ascontiguousarray(owners, np.int32)
        if ids.shape != shape or own.shape != (len(corners),):
            raise ValueError(
                f"labels {ids.shape} and owners {own.shape} do not fit planes {shape}, {len(corners)} points"
            )
    low, high = map(float, value_range)
    first, weights = _taps(box, side)
    result = np.empty((len(corners), len(planes), side, side), np.float32)
    for number, plane in enumerate(planes):
        pixels = _in_kernel_type(plane)
        limits = np.array(_limits(pixels.dtype), pixels.dtype)
        kind = get_args(Mask).index(mask)
        _cut(pixels, corners, box, low, high, kind, ids, own, first, weights, limits, result, number)
    return result


def _checked_shape(planes: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    shapes = {plane.shape for plane in planes}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"planes must have one shape (H, W), got {sorted(shapes)}")
    return next(iter(shapes))


def _corners(centres: NDArray[np.float64], box: int, side: int) -> NDArray[np.int64]:
    """Return the first row and column of each square."""
    if box < 1 or side < 1:
        raise ValueError(f"box and side must be at least 1, got {box} and {side}")
    points = np.asarray(centres, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"centres must be (n, 2) finite numbers, got shape {points.shape}")
    return np.floor(points + 0.5).astype(np.int64) - box // 2


def _in_kernel_type(plane: NDArray[Any]) -> NDArray[Any]:
    if plane.dtype == np.bool_:
        plane = plane.view(np.uint8)
    if plane.dtype not in _KERNEL_TYPES:
        with np.errstate(over="ignore"):  # beyond float32 they are infinite, and unseen
            plane = plane.astype(np.float32)
    return np.ascontiguousarray(plane)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return what no pixel is above, and what none is below."""
    return (np.inf, -np.inf) if dtype.kind == "f" else (np.iinfo(dtype).max, np.iinfo(dtype).min)


def _taps(box: int, side: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the first pixel of a row of the square that each pixel of the result is made of, and all their weights.

    A triangle around the place of the pixel, as wide as a pixel of the coarser of both grids on each side. Places are
    unsigned, since Numba counts signed ones from the end if need be, which takes time.
    """
    scale = box / side
    reach = max(1.0, scale)
    place = (np.arange(side) + 0.5) * scale - 0.5
    first = np.floor(place - reach).astype(np.int64) + 1
    number = min(box, int((np.ceil(place + reach).astype(np.int64) - first).max()))
    first = first.clip(0, box - number)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(number)[:, None] + first - place) / reach)
    return first.astype(np.uint64), (weights / weights.sum(axis=0)).astype(np.float32)


@kernel
def _cut(
    pixels: Any,
    corners: Any,
    box: Any,
    low: Any,
    high: Any,
    mask: Any,
    ids: Any,
    own: Any,
    first: Any,
    weights: Any,
    limits: Any,
    result: Any,
    number: Any,
) -> None:
    height, width = pixels.shape
    side = first.size
    seen, square = np.empty((box, box), np.float32), np.empty((box, box), np.float32)
    enlarged, reduced = np.empty((box, side), np.float32), np.empty((side, box), np.float32)
    infinite = np.array([np.inf, -np.inf], np.float32)
    for cell in range(corners.shape[0]):
        top, left = corners[cell, 0], corners[cell, 1]
        target = result[cell, number]
        scaled = target if box == side else square
        if not mask and top >= 0 and left >= 0 and top + box <= height and left + box <= width:
            contrast = _scale(pixels, top, left, limits, low, high, scaled)
        else:
            _copy(pixels, top, left, seen)
            if mask:
                _hide(ids, top, left, own[cell], mask, seen)
            contrast = _scale(seen, 0, 0, infinite, low, high, scaled)
        # The direction first that leaves less to do in the other one.
        if not contrast:
            target[:, :] = np.float32(low)
        elif side > box:
            _resize_rows(square, first, weights, enlarged)
            _resize_columns(enlarged, first, weights, target)
        elif side < box:
            _resize_columns(square, first, weights, reduced)
            _resize_rows(reduced, first, weights, target)


@inlined
def _copy(pixels: Any, top: Any, left: Any, square: Any) -> None:
    """Copy a square of pixels; what lies beyond the edge is NaN."""
    height, width = pixels.shape
    box = square.shape[0]
    begin, end = min(max(0, -left), box), max(0, min(box, width - left))
    for i in range(box):
        square[i, :] = np.float32(np.nan)
        if 0 <= top + i < height and begin < end:
            _copy_row(pixels[top + i, left + begin : left + end], square[i, begin:end])


# What follows takes rows: views of them tell the compiler that what is written is not what is read, and it computes
# several elements at once.


@inlined
def _copy_row(source: Any, target: Any) -> None:
    for j in range(target.size):
        target[j] = np.float32(source[j])


@inlined
def _hide(ids: Any, top: Any, left: Any, own: Any, mask: Any, square: Any) -> None:
    """Make NaN of pixels that are not of the object itself; `mask` 1 leaves the ground."""
    height, width = ids.shape
    box = square.shape[0]
    begin, end = min(max(0, -left), box), max(0, min(box, width - left))
    ground = own if mask == 2 else np.int32(0)
    for i in range(max(0, -top), min(box, height - top)):
        if begin < end:
            _hide_row(ids[top + i, left + begin : left + end], own, ground, square[i, begin:end])


@inlined
def _hide_row(names: Any, own: Any, ground: Any, line: Any) -> None:
    for j in range(line.size):
        line[j] = line[j] if (names[j] == own) | (names[j] == ground) else np.float32(np.nan)


@inlined
def _scale(pixels: Any, top: Any, left: Any, limits: Any, low: Any, high: Any, target: Any) -> bool:
    """Scale a square by its least and greatest finite value; say whether there is any contrast in it."""
    box = target.shape[0]
    # Extremes by column first: elements of two rows are compared at once, those of one row could only be in turn.
    least, most = np.full(box, limits[0]), np.full(box, limits[1])
    for i in range(box):
        _widen_extremes(pixels[top + i, left : left + box], least, most)
    darkest, brightest = np.float64(least.min()), np.float64(most.max())
    if not darkest < brightest:
        return False
    factor = (high - low) / (brightest - darkest)
    for i in range(box):
        _scale_row(pixels[top + i, left : left + box], darkest, factor, low, target[i])
    return True


@inlined
def _widen_extremes(line: Any, least: Any, most: Any) -> None:
    for j in range(least.size):
        value = line[j]
        finite = value - value == np.float32(0)
        least[j] = value if finite and value < least[j] else least[j]
        most[j] = value if finite and value > most[j] else most[j]


@inlined
def _scale_row(line: Any, darkest: Any, factor: Any, low: Any, target: Any) -> None:
    for j in range(target.size):
        value = line[j]
        scaled = np.float32(low + (np.float64(value) - darkest) * factor)
        target[j] = scaled if value - value == np.float32(0) else np.float32(low)


@inlined
def _resize_rows(source: Any, first: Any, weights: Any, target: Any) -> None:
    """Resize rows, four at a time: places and weights are read once for them."""
    rows = source.shape[0]
    for i in range(0, rows - 3, 4):
        a, b, c, d = source[i], source[i + 1], source[i + 2], source[i + 3]
        e, f, g, h = target[i], target[i + 1], target[i + 2], target[i + 3]
        _set_pixels(a, b, c, d, first, weights[0], weights[1], e, f, g, h)
    for i in range(rows // 4 * 4, rows):
        _set_pixels_of_row(source[i], first, weights[0], weights[1], target[i])
    if weights.shape[0] > 2:
        _add_further_pixels(source, first, weights, target)


@inlined
def _add_further_pixels(source: Any, first: Any, weights: Any, target: Any) -> None:
    for i in range(source.shape[0]):
        for tap in range(2, weights.shape[0]):
            _add_pixels(source[i, tap:], first, weights[tap], target[i])


@inlined
def _set_pixels(
    a: Any, b: Any, c: Any, d: Any, first: Any, weight: Any, next_weight: Any, e: Any, f: Any, g: Any, h: Any
) -> None:
    for j in range(e.size):
        one, u, v = first[j], weight[j], next_weight[j]
        two = one + np.uint64(1)
        e[j] = u * a[one] + v * a[two]
        f[j] = u * b[one] + v * b[two]
        g[j] = u * c[one] + v * c[two]
        h[j] = u * d[one] + v * d[two]


@inlined
def _set_pixels_of_row(source: Any, first: Any, weight: Any, next_weight: Any, target: Any) -> None:
    for j in range(target.size):
        target[j] = weight[j] * source[first[j]] + next_weight[j] * source[first[j] + np.uint64(1)]


@inlined
def _add_pixels(source: Any, first: Any, weight: Any, target: Any) -> None:
    for j in range(target.size):
        target[j] += weight[j] * source[first[j]]


@inlined
def _resize_columns(source: Any, first: Any, weights: Any, target: Any) -> None:
    for i in range(target.shape[0]):
        _mix(source[first[i]], source[first[i] + 1], weights[0, i], weights[1, i], target[i])
        for tap in range(2, weights.shape[0]):
            _add_row(source[first[i] + tap], weights[tap, i], target[i])


@inlined
def _mix(one: Any, other: Any, weight: Any, next_weight: Any, target: Any) -> None:
    for j in range(target.size):
        target[j] = weight * one[j] + next_weight * other[j]


@inlined
def _add_row(source: Any, weight: Any, target: Any) -> None:
    for j in range(target.size):
        target[j] += weight * source[j]
