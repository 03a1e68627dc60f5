"""Granularity of all objects in one channel: how much light bright structures of each size hold.

The measurement is MeasureGranularity of CellProfiler: the image is subsampled, its background (a further subsampled
copy, opened with a disk) is subtracted, and then, for step 1, 2, ..., everything too thin for a diamond of that radius
is taken away by an erosion and a reconstruction by dilation. An object's spectrum is the light it loses at each step.

Neither the erosion nor the reconstruction is carried out step after step on grey values. Both only compare values, so
they may as well work on ranks, of which no two pixels share one, and then everything follows from one pass over the
pixels from bright to dark (`_reconstruct`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups, root_of

__all__ = ["Spectrum", "Weights", "granularity", "small_shape", "spectrum", "weights"]

_LONGEST = 255  # steps are counted in bytes
_DIGIT_BITS = 11
_DIGITS = 6


class Spectrum(NamedTuple):
    """What is left of one channel after each step; the same for all objects."""

    levels: NDArray[np.float64]
    """(h, w, length) subsampled image after 1, 2, ... length steps, own units; (0, 0, length) if it is too small."""
    shape: tuple[int, int]
    """Height and width of the image before subsampling."""


class Weights(NamedTuple):
    """Linear map from a subsampled image, enlarged bilinearly, to the objects' means; the same for all channels."""

    values: NDArray[np.float64]
    """Weights of subsampled pixels, object after object, each a rectangle row after row."""
    offsets: NDArray[np.int64]
    """(n + 1,) first place of each object in `values`."""
    boxes: NDArray[np.int32]
    """(n, 4) rectangles: first row, first column, row after the last, column after the last."""
    counts: NDArray[np.int64]
    """(n,) pixels of each object in the image that is not subsampled."""
    small: tuple[int, int]
    """Height and width of the subsampled image."""
    shape: tuple[int, int]
    """Height and width of the label image."""


class _Axis(NamedTuple):
    """Bilinear interpolation along one axis: position `i` is `low_weights[i]` of sample `lows[i]` and so on."""

    lows: NDArray[np.int64]
    highs: NDArray[np.int64]
    low_weights: NDArray[np.float64]
    high_weights: NDArray[np.float64]


def small_shape(shape: tuple[int, int], subsample: float = 0.25) -> tuple[int, int]:
    """Return the shape of the subsampled image.

    Parameters
    ----------
    shape
        Height and width of the image.
    subsample
        Its factor, above 0 and at most 1.

    Returns
    -------
    height, width : int
        (0, 0) where fewer than 2 samples are left along an axis, which is too few to interpolate between.

    Raises
    ------
    ValueError
        If the factor is out of range.
    """
    _check_factor("subsample", subsample)
    height, width = int(shape[0] * subsample), int(shape[1] * subsample)
    return (height, width) if min(height, width) >= 2 else (0, 0)


def spectrum(
    image: NDArray[Any],
    *,
    subsample: float = 0.25,
    background_subsample: float = 0.25,
    radius: int = 10,
    length: int = 16,
) -> Spectrum:
    """Take structures of growing size out of one channel.

    Parameters
    ----------
    image
        2-D real array of fewer than 2**31 pixels. Pixels that are NaN or infinite count as 0.
    subsample
        Factor by which the image is made smaller first, above 0 and at most 1.
    background_subsample
        Further factor for the estimate of the background.
    radius
        Radius in pixels, after both factors, of the disk above which structures count as background.
    length
        Number of steps, 1 to 255.

    Returns
    -------
    Spectrum
        One subsampled image per step.

    Raises
    ------
    ValueError
        If the image is not 2-D or not real, or a parameter is out of range.
    """
    plane = np.asarray(image)
    if plane.ndim != 2 or plane.dtype.kind not in "biuf":
        raise ValueError(f"image must be 2-D and real, got {plane.dtype} of shape {plane.shape}")
    _check_factor("background_subsample", background_subsample)
    if radius < 1:
        raise ValueError(f"radius must be at least 1, got {radius}")
    if not 1 <= length <= _LONGEST:
        raise ValueError(f"length must be 1 to {_LONGEST}, got {length}")
    small = small_shape((plane.shape[0], plane.shape[1]), subsample)
    levels = np.empty((*small, length))  # by NumPy, which asks for large pages; Numba does not
    if small != (0, 0):
        start = _top_hat(_subsampled(plane, small, subsample), background_subsample, radius)
        places, values = _ranked(_padded_order(*small), start.ravel())
        _reconstruct(start, places, values, levels)
    return Spectrum(levels, (plane.shape[0], plane.shape[1]))


def weights(groups: Groups, small: tuple[int, int]) -> Weights:
    """Prepare the means of all objects over an image that is enlarged bilinearly to the size of the labels.

    Enlargement puts the first and last samples on the first and last pixels. Where rounding pushes the last pixels
    just beyond the last sample they count as 0, as in SciPy's interpolation and so in CellProfiler.

    Parameters
    ----------
    groups
        The objects, from `cellinfer_kernels.components.group`.
    small
        Height and width of the subsampled image, from `small_shape`.

    Returns
    -------
    Weights
        For `granularity`.

    Raises
    ------
    ValueError
        If no label image of this shape can be subsampled to that.
    """
    if small != (0, 0) and not all(2 <= few <= full for few, full in zip(small, groups.shape, strict=True)):
        raise ValueError(f"a subsampled image of shape {small} does not fit labels of shape {groups.shape}")
    n = groups.ids.size
    counts = np.diff(groups.begins)
    if small == (0, 0):
        return Weights(np.empty(0), np.zeros(n + 1, np.int64), np.zeros((n, 4), np.int32), counts, small, groups.shape)
    rows, columns = (
        _axis(np.arange(full) * ((few - 1) / (full - 1)), few) for full, few in zip(groups.shape, small, strict=True)
    )
    tops, lefts, bottoms, rights = groups.boxes.T
    corners = (rows.lows[tops], columns.lows[lefts], rows.highs[bottoms - 1] + 1, columns.highs[rights - 1] + 1)
    boxes = np.stack(corners, axis=1).astype(np.int32)
    sizes = np.prod(boxes[:, 2:].astype(np.int64) - boxes[:, :2], axis=1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    values = _spread(groups.firsts, groups.rows, groups.starts, groups.stops, boxes, offsets, *rows, *columns)
    return Weights(values, offsets, boxes, counts, small, groups.shape)


def granularity(weights: Weights, spectrum: Spectrum, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Say how much light each object loses at each step.

    Parameters
    ----------
    weights
        The objects, from `weights`.
    spectrum
        The channel, from `spectrum`.
    mean
        (n,) mean of each object over the image itself, neither subsampled nor without background. What is lost is
        divided by it, or by the smallest float64 step at 1 where it is below that.

    Returns
    -------
    ndarray of float64
        (length, n) per cent; NaN where subsampling leaves too little of the image.

    Raises
    ------
    ValueError
        If labels, image and means do not belong together.
    """
    means = np.ascontiguousarray(mean, dtype=np.float64)
    small = spectrum.levels.shape[:2]
    if weights.small != small or weights.shape != spectrum.shape:
        raise ValueError(
            f"an image of shape {spectrum.shape}, subsampled {small}, does not fit weights for shape "
            f"{weights.shape}, subsampled {weights.small}"
        )
    if means.shape != weights.counts.shape:
        raise ValueError(f"{means.shape} means do not fit {weights.counts.size} objects")
    if small == (0, 0):
        return np.full((spectrum.levels.shape[2], means.size), np.nan)
    return _losses(  # type: ignore[no-any-return]
        weights.values, weights.offsets, weights.boxes, weights.counts, spectrum.levels, means
    )


def _check_factor(name: str, factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {factor}")


# Resampling and background


def _axis(positions: NDArray[np.floating[Any]], size: int) -> _Axis:
    """Interpolate linearly at positions along `size` samples; beyond the first and last one everything is 0."""
    inside = (positions >= 0) & (positions <= size - 1)
    lows = np.clip(np.floor(positions), 0, size - 1).astype(np.int64)
    low_weights = np.where(inside, 1 - (positions - lows), 0.0)
    high_weights = np.where(inside, 1 - low_weights, 0.0)
    return _Axis(lows, np.minimum(lows + 1, size - 1), low_weights, high_weights)


def _subsampled(plane: NDArray[Any], small: tuple[int, int], factor: float) -> NDArray[np.float64]:
    """Interpolate at every 1/factor-th pixel; of a large image only the pixels that count are looked at."""
    if factor == 1:
        return _finite(plane)
    kept = []
    axes = []
    for few, full in zip(small, plane.shape, strict=True):
        axis = _axis(np.arange(few) / factor, full)
        needed = np.unique(np.concatenate([axis.lows, axis.highs[axis.high_weights > 0]]))
        places = np.zeros(full, np.int64)
        places[needed] = np.arange(needed.size)
        kept.append(needed)
        axes.append(axis._replace(lows=places[axis.lows], highs=places[axis.highs]))
    values = _finite(plane[np.ix_(*kept)])
    if values.shape == small:
        return values
    return _interpolate(values, *axes[0], *axes[1])  # type: ignore[no-any-return]


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    result = np.ascontiguousarray(values, dtype=np.float64)
    if values.dtype.kind == "f":
        return np.where(np.isfinite(result), result, 0.0)
    return result


def _top_hat(plane: NDArray[np.float64], factor: float, radius: int) -> NDArray[np.float64]:
    """Subtract the background: a subsampled copy, opened with a disk, enlarged again."""
    height, width = plane.shape
    if factor == 1:
        return np.maximum(plane - _opened(plane, radius), 0.0)
    # A size that is no whole number is meant: CellProfiler enlarges by it, but there are ceil(size) samples.
    sizes = (height * factor, width * factor)
    down = [_axis(np.arange(np.ceil(size)) / factor, full) for size, full in zip(sizes, plane.shape, strict=True)]
    background = _opened(_interpolate(plane, *down[0], *down[1]), radius)
    up = [
        _axis(np.arange(full) * ((size - 1) / (full - 1)), few)
        for size, full, few in zip(sizes, plane.shape, background.shape, strict=True)
    ]
    enlarged: NDArray[np.float64] = _interpolate(background, *up[0], *up[1])
    return np.maximum(plane - enlarged, 0.0)


@kernel
def _interpolate(
    image: Any,
    tops: Any,
    bottoms: Any,
    top_weights: Any,
    bottom_weights: Any,
    lefts: Any,
    rights: Any,
    left_weights: Any,
    right_weights: Any,
) -> Any:
    """Interpolate on a grid, adding up in SciPy's order so that every bit agrees with `map_coordinates`."""
    result = np.empty((tops.size, lefts.size))
    for y in range(tops.size):
        above = image[tops[y]]
        below = image[bottoms[y]]
        top = top_weights[y]
        bottom = bottom_weights[y]
        line = result[y]
        for x in range(lefts.size):
            left = lefts[x]
            right = rights[x]
            first = above[left] * top * left_weights[x] + above[right] * top * right_weights[x]
            line[x] = first + below[left] * bottom * left_weights[x] + below[right] * bottom * right_weights[x]
    return result


def _opened(image: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Erode, then dilate with a disk; beyond the border there is nothing."""
    # CellProfiler mirrors the image at its border. The mirror image of a pixel under the disk is itself under the disk.
    # (Where an axis has 2 to radius / 4 pixels, SciPy reads foreign memory instead. That is not imitated.)
    return -_disk_minima(-_disk_minima(image, radius), radius)  # type: ignore[no-any-return]


@kernel
def _disk_minima(image: Any, radius: Any) -> Any:
    """Erode by rows: a chord of the disk is two windows of 2**j pixels that overlap."""
    height, width = image.shape
    padded = width + 2 * radius
    depth = 1
    while 2 << (depth - 1) <= 2 * radius + 1:
        depth += 1
    windows = np.full((depth, padded), np.inf)
    halves = np.empty(radius + 1, np.int64)
    sizes = np.empty(radius + 1, np.int64)
    half = radius
    for step in range(radius + 1):
        while half * half + step * step > radius * radius:
            half -= 1
        halves[step] = half
        sizes[step] = 0
        while 2 << sizes[step] <= 2 * half + 1:
            sizes[step] += 1
    result = np.full((height, width), np.inf)
    for y in range(height):
        windows[0, radius : radius + width] = image[y]
        for j in range(1, depth):
            shift = 1 << (j - 1)
            _minimum(windows[j, : padded - shift], windows[j - 1, : padded - shift], windows[j - 1, shift:])
        for step in range(radius + 1):
            half = halves[step]
            window = windows[sizes[step]]
            left = window[radius - half : radius - half + width]
            start = radius + half + 1 - (1 << sizes[step])
            right = window[start : start + width]
            if y - step >= 0:
                _lower(result[y - step], left, right)
            if step > 0 and y + step < height:
                _lower(result[y + step], left, right)
    return result


@inlined
def _minimum(out: Any, first: Any, second: Any) -> Any:
    for x in range(out.size):
        out[x] = first[x] if first[x] < second[x] else second[x]


@inlined
def _lower(out: Any, first: Any, second: Any) -> Any:
    for x in range(out.size):
        low = first[x] if first[x] < second[x] else second[x]
        out[x] = low if low < out[x] else out[x]


# Reconstruction


@kernel
def _padded_order(height: Any, width: Any) -> Any:
    """Return the places of an image's pixels in the same image with a rim of one pixel."""
    places = np.empty(height * width, np.int32)
    for y in range(height):
        for x in range(width):
            places[y * width + x] = (y + 1) * (width + 2) + x + 1
    return places


@kernel
def _ranked(places: Any, values: Any) -> Any:
    """Sort values that are not negative from high to low, and their places along (radix sort of the bits)."""
    n = values.size
    # The bits of floats that are not negative sort as integers do.
    keys = values.view(np.uint64).copy()
    places = places.copy()
    digits = np.uint64((1 << _DIGIT_BITS) - 1)
    counts = np.zeros((_DIGITS, 1 << _DIGIT_BITS), np.int64)
    for i in range(n):
        for j in range(_DIGITS):
            counts[j, (keys[i] >> np.uint64(_DIGIT_BITS * j)) & digits] += 1
    other_keys = np.empty_like(keys)
    other_places = np.empty_like(places)
    for j in range(_DIGITS):
        fill = counts[j]
        if fill.max() == n:
            continue
        total = 0
        for digit in range(fill.size - 1, -1, -1):
            count = fill[digit]
            fill[digit] = total
            total += count
        shift = np.uint64(_DIGIT_BITS * j)
        for i in range(n):
            key = keys[i]
            digit = (key >> shift) & digits
            place = fill[digit]
            fill[digit] = place + 1
            other_keys[place] = key
            other_places[place] = places[i]
        keys, other_keys = other_keys, keys
        places, other_places = other_places, places
    return places, keys.view(np.float64)


@kernel
def _survivals(places: Any, height: Any, width: Any, length: Any) -> Any:
    """Return the last step after which each rank is still found in the image eroded with the cross.

    Rank 0 is the brightest, so that eroding is taking the maximum.
    """
    ranks = np.full((height + 2, width + 2), np.int32(-1))
    flat = ranks.reshape(-1)
    for i in range(places.size):
        flat[places[i]] = i
    eroded = ranks.copy()
    steps = np.zeros(places.size, np.uint8)
    for step in range(1, length + 1):
        for y in range(1, height + 1):
            _erode_row(ranks[y - 1], ranks[y], ranks[y + 1], eroded[y])
            line = eroded[y]
            for x in range(1, width + 1):
                steps[line[x]] = step
        ranks, eroded = eroded, ranks
    return steps


@inlined
def _erode_row(above: Any, here: Any, below: Any, out: Any) -> Any:
    for x in range(1, here.size - 1):
        out[x] = max(max(max(above[x], below[x]), max(here[x - 1], here[x + 1])), here[x])


@kernel
def _reconstruct(start: Any, places: Any, values: Any, levels: Any) -> Any:
    """Reconstruct `start` by dilation from each of its erosions with the cross, without any of the dilations.

    After step k a pixel p has the highest level at which the connected part around p of all pixels at least that bright
    still holds a pixel of the eroded image at that level, that is, a whole diamond of radius k. So add the pixels from
    bright to dark and keep the connected parts with the largest diamond that each holds. When pixel q is added, a
    diamond whose darkest pixel is q belongs to the part around q, and there is one of radius k if and only if the rank
    of q is found in the erosion k (`_survivals`). When the diamond of a part grows from j to k, all its pixels get
    the level of q for the steps j + 1 to k. This is written down for one pixel per part, its root, and read from there
    by the pixels that joined before (an opening tree, Vincent, Fundamenta Informaticae 41, 2000, of reconstructions).
    """
    height, width, length = levels.shape
    survivals = _survivals(places, height, width, length)
    stride = width + 2
    roots = np.full((height + 2) * stride, np.int32(-1))  # -1: not yet added, or the rim
    parents = np.empty(roots.size, np.int32)  # as `roots` without the short cuts
    sizes = np.zeros(roots.size, np.int32)  # pixels of a part; 0 for a pixel that never was a root
    known = np.zeros(roots.size, np.int32)  # steps for which the pixel's level is known
    losers = np.empty(places.size, np.int32)  # roots that became members of another part, in this order
    rows = levels.reshape((height * width, length))
    lost = 0
    parts = np.empty(4, np.int32)
    for i in range(places.size):
        place = places[i]
        step = np.int32(survivals[i])
        found = 0
        winner = place
        for side in (place - stride, place - 1, place + 1, place + stride):
            if roots[side] < 0:
                continue
            part = root_of(roots, side)
            repeated = False
            for j in range(found):
                repeated |= parts[j] == part
            if not repeated:
                parts[found] = part
                found += 1
                step = max(step, known[part])
                if sizes[part] > sizes[winner]:
                    winner = part
        roots[place] = winner
        parents[place] = winner
        sizes[winner] += 1
        known[place] = step
        if found == 0:
            _write(rows[_unpadded(place, stride)], 0, step, values[i])
        for j in range(found):
            part = parts[j]
            if known[part] < step:
                _write(rows[_unpadded(part, stride)], known[part], step, values[i])
                known[part] = step
            if part != winner:
                roots[part] = winner
                parents[part] = winner
                sizes[winner] += sizes[part]
                losers[lost] = part
                lost += 1
    # The last part is the image; its last pixel, the darkest, is the darkest of diamonds of all sizes: all is known.
    for j in range(lost - 1, -1, -1):
        place = losers[j]
        _copy(rows[_unpadded(place, stride)], rows[_unpadded(parents[place], stride)], known[place])
    for y in range(height):
        for x in range(width):
            place = (y + 1) * stride + x + 1
            if sizes[place] == 0:
                row = rows[y * width + x]
                _write(row, 0, known[place], start[y, x])
                _copy(row, rows[_unpadded(parents[place], stride)], known[place])


@inlined
def _unpadded(place: Any, stride: Any) -> Any:
    """Return the place of a pixel in the image without the rim."""
    y = place // stride
    return place - stride + 1 - 2 * y


@inlined
def _write(row: Any, first: Any, last: Any, value: Any) -> Any:
    for i in range(first, last):
        row[i] = value


@inlined
def _copy(row: Any, source: Any, first: Any) -> Any:
    for i in range(first, row.size):
        row[i] = source[i]


# Means of objects


@kernel
def _spread(
    firsts: Any,
    rows: Any,
    starts: Any,
    stops: Any,
    boxes: Any,
    offsets: Any,
    tops: Any,
    bottoms: Any,
    top_weights: Any,
    bottom_weights: Any,
    lefts: Any,
    rights: Any,
    left_weights: Any,
    right_weights: Any,
) -> Any:
    """Add up the weights of all pixels of each object: of a run along its row first, then onto two subsampled rows."""
    values = np.zeros(offsets[-1])
    line = np.zeros(0 if rights.size == 0 else rights[-1] + 2)
    for k in range(firsts.size - 1):
        left = boxes[k, 1]
        width = boxes[k, 3] - left
        for run in range(firsts[k], firsts[k + 1]):
            first = lefts[starts[run]]
            last = rights[stops[run] - 1] + 1
            for x in range(starts[run], stops[run]):
                line[lefts[x]] += left_weights[x]
                line[rights[x]] += right_weights[x]
            y = rows[run]
            upper = offsets[k] + (tops[y] - boxes[k, 0]) * width - left
            lower = offsets[k] + (bottoms[y] - boxes[k, 0]) * width - left
            for x in range(first, last):
                values[upper + x] += line[x] * top_weights[y]
                values[lower + x] += line[x] * bottom_weights[y]
                line[x] = 0.0
    return values


@kernel
def _losses(values: Any, offsets: Any, boxes: Any, counts: Any, levels: Any, means: Any) -> Any:
    length = levels.shape[2]
    n = counts.size
    losses = np.empty((length, n))
    totals = np.empty(length)
    least = np.finfo(np.float64).eps
    for k in range(n):
        totals[:] = 0.0
        i = offsets[k]
        for y in range(boxes[k, 0], boxes[k, 2]):
            for x in range(boxes[k, 1], boxes[k, 3]):
                weight = values[i]
                i += 1
                if weight != 0.0:
                    row = levels[y, x]
                    for step in range(length):
                        totals[step] += weight * row[step]
        before = means[k]
        scale = 100.0 / (least if before < least else before)  # in this order, NaN stays NaN
        for step in range(length):
            mean = totals[step] / counts[k]
            losses[step, k] = (before - mean) * scale
            before = mean
    return losses
