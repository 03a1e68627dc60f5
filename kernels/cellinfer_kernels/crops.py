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
    places, weights = _taps(box, side)
    result = np.empty((len(corners), len(planes), side, side), np.float32)
    for number, plane in enumerate(planes):
        pixels = _in_kernel_type(plane)
        _cut(pixels, corners, box, low, high, get_args(Mask).index(mask), ids, own, places, weights, result, number)
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


def _taps(box: int, side: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return which pixels of a row of the square each pixel of the result is made of, and their weights.

    A triangle around the place of the pixel, as wide as a pixel of the coarser of both grids on each side. Places are
    unsigned, since Numba counts signed ones from the end if need be, which takes time.
    """
    scale = box / side
    reach = max(1.0, scale)
    place = (np.arange(side) + 0.5) * scale - 0.5
    first = np.floor(place - reach).astype(np.int64) + 1
    taps = np.arange(int((np.ceil(place + reach).astype(np.int64) - first).max()))[:, None] + first
    weights = np.maximum(0.0, 1 - np.abs(taps - place) / reach) * ((taps >= 0) & (taps < box))
    used = weights.any(axis=1)
    return taps.clip(0, box - 1)[used].astype(np.uint32), (weights / weights.sum(axis=0))[used].astype(np.float32)


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
    places: Any,
    weights: Any,
    result: Any,
    number: Any,
) -> None:
    square = np.empty((box, box), np.float32)
    wide = np.empty((box, places.shape[1]), np.float32)
    for cell in range(corners.shape[0]):
        _copy(pixels, corners[cell, 0], corners[cell, 1], square)
        if mask:
            _hide(ids, corners[cell, 0], corners[cell, 1], own[cell], mask, square)
        if _scale(square, low, high):
            _resize(square, places, weights, wide, result[cell, number])
        else:
            result[cell, number, :, :] = np.float32(low)


@inlined
def _copy(pixels: Any, top: Any, left: Any, square: Any) -> None:
    """Copy a square of pixels; what lies beyond the edge is NaN."""
    height, width = pixels.shape
    box = square.shape[0]
    begin, end = min(max(0, -left), box), max(0, min(box, width - left))
    for i in range(box):
        if 0 <= top + i < height and begin < end:
            square[i, :begin] = np.float32(np.nan)
            square[i, begin:end] = pixels[top + i, left + begin : left + end]
            square[i, end:] = np.float32(np.nan)
        else:
            square[i, :] = np.float32(np.nan)


@inlined
def _hide(ids: Any, top: Any, left: Any, own: Any, mask: Any, square: Any) -> None:
    """Make NaN of pixels that are not of the object itself; `mask` 1 leaves the ground."""
    height, width = ids.shape
    box = square.shape[0]
    for i in range(max(0, -top), min(box, height - top)):
        for j in range(max(0, -left), min(box, width - left)):
            name = ids[top + i, left + j]
            if name != own and (mask == 2 or name != 0):
                square[i, j] = np.float32(np.nan)


@inlined
def _scale(square: Any, low: Any, high: Any) -> bool:
    """Scale a square by its least and greatest finite value; say whether there is any contrast in it."""
    box = square.shape[0]
    # Extremes by column first: elements of two rows are compared at once, those of one row could only be in turn.
    least, most = np.full(box, np.inf, np.float32), np.full(box, -np.inf, np.float32)
    for i in range(box):
        for j in range(box):
            value = square[i, j]
            finite = abs(value) < np.float32(np.inf)
            least[j] = value if finite and value < least[j] else least[j]
            most[j] = value if finite and value > most[j] else most[j]
    darkest, brightest = np.float64(least.min()), np.float64(most.max())
    if not darkest < brightest:
        return False
    factor = (high - low) / (brightest - darkest)
    for i in range(box):
        for j in range(box):
            value = square[i, j]
            scaled = np.float32(low + (np.float64(value) - darkest) * factor)
            square[i, j] = scaled if abs(value) < np.float32(np.inf) else np.float32(low)
    return True


@inlined
def _resize(square: Any, places: Any, weights: Any, wide: Any, result: Any) -> None:
    """Resize rows, then columns."""
    taps, side = places.shape
    for i in range(square.shape[0]):
        source, target = square[i], wide[i]
        for j in range(side):
            target[j] = weights[0, j] * source[places[0, j]]
        for tap in range(1, taps):
            for j in range(side):
                target[j] += weights[tap, j] * source[places[tap, j]]
    for i in range(side):
        target = result[i]
        # Views of rows: the compiler sees that what is written is not what is read, and takes several at once.
        source, weight = wide[places[0, i]], weights[0, i]
        for j in range(side):
            target[j] = weight * source[j]
        for tap in range(1, taps):
            source, weight = wide[places[tap, i]], weights[tap, i]
            for j in range(side):
                target[j] += weight * source[j]
