"""Rings and wedges of objects, and how a channel is spread over them.

Where a pixel lies between the centre and the edge of its object depends on the labels alone, so it is found once
(`rings`) for all channels (`spread`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._heap import doubled, push, remove_first
from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups

__all__ = ["Rings", "Spread", "centres", "rings", "spread"]

Column = NDArray[np.float64]
WEDGES = 8
_ROUNDS = 20  # of sweeps, before an object is finished pixel by pixel
_OFFSET = 0.001  # keeps the outermost pixels inside the last ring, as in CellProfiler


class Rings(NamedTuple):
    """In which ring and wedge of its object every listed pixel lies."""

    codes: NDArray[np.int16]
    """(P,) 8 * ring + wedge; -1 where the object's centre cannot be reached without leaving the object."""
    bins: int
    """Number of rings; ring `bins` holds what lies beyond the last one."""


class Spread(NamedTuple):
    """How a channel is spread over the rings of n objects; all (bins + 1, n) float64, the last row beyond the rings."""

    fraction: Column
    """Share of the object's intensity."""
    mean_fraction: Column
    """That over the share of the object's pixels."""
    variation: Column
    """Coefficient of variation of the mean intensities of the ring's (up to) eight wedges; 0: empty or dark."""


def centres(groups: Groups, squared: NDArray[np.int32]) -> NDArray[np.int32]:
    """Find the pixel farthest from the edge of every object, the first in raster order of several.

    Parameters
    ----------
    groups
        The objects.
    squared
        (P,) squared depths, from `cellinfer_kernels.distance.depths_within_image`.

    Returns
    -------
    ndarray of int32
        (n, 2) y and x.
    """
    return _centres(groups.begins, groups.pixels, squared, groups.shape[1])  # type: ignore[no-any-return]


def rings(
    groups: Groups,
    squared: NDArray[np.int32],
    middles: NDArray[np.int32],
    *,
    bins: int = 4,
    radius: float | None = None,
    cores: NDArray[np.bool_] | None = None,
    straight: bool = False,
) -> Rings:
    """Divide every object into rings around its centre, and each ring into eight wedges.

    Distances from the centre go through the object, in steps to the eight neighbours (1 or the square root of 2), as in
    CellProfiler's MeasureObjectIntensityDistribution.

    Parameters
    ----------
    groups
        The objects.
    squared
        (P,) squared depths, from `cellinfer_kernels.distance.depths_within_image`.
    middles
        (n, 2) centre of every object, y and x; negative: it has none, and no ring. It may lie outside the object.
    bins
        Number of rings.
    radius
        Pixels that the rings reach from the centre; None scales the rings to each pixel's way from centre to edge.
    cores
        (P,) pixels from whose edges the distance counts instead of from the centre, themselves in no ring. The wedges
        stay those of the centre.
    straight
        Pixels that cannot be reached within the object take the straight way from the centre, as in CellProfiler where
        rings begin at other objects; False: they are in no ring.

    Returns
    -------
    Rings
        Codes of all listed pixels.

    Raises
    ------
    ValueError
        If there is not at least one ring, or more than 1,000; or the radius is not positive.
    """
    if not 1 <= bins <= 1000:
        raise ValueError(f"there must be 1 to 1000 rings, got {bins}")
    if radius is not None and not radius > 0:
        raise ValueError(f"the radius must be positive, got {radius}")
    places = (groups.begins, groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes)
    inside = np.zeros(groups.pixels.size if cores is not None else 0, np.bool_) if cores is None else cores
    codes = _rings(*places, squared, middles, inside, bins, 0.0 if radius is None else float(radius), straight)
    return Rings(codes, bins)


def spread(begins: NDArray[np.int64], found: Rings, values: NDArray[np.float64]) -> Spread:
    """Measure how a channel is spread over the rings.

    Parameters
    ----------
    begins
        (n + 1,) places of the objects, as in `Groups`.
    found
        From `rings`.
    values
        (P,) the channel's values in the order of the pixels; those that are not finite do not count.

    Returns
    -------
    Spread
        NaN for an object without a finite value in a ring; shares are NaN where there is no intensity.
    """
    return Spread(*_spread(begins, found.codes, np.ascontiguousarray(values, np.float64), found.bins))


@kernel
def _centres(begins: Any, pixels: Any, squared: Any, width: Any) -> Any:
    n = begins.size - 1
    result = np.empty((n, 2), np.int32)
    for k in range(n):
        best = begins[k]
        for i in range(begins[k], begins[k + 1]):
            if squared[i] > squared[best]:
                best = i
        result[k, 0] = pixels[best] // width
        result[k, 1] = pixels[best] % width
    return result


@inlined
def _sweep(far: Any, firsts: Any, k: Any, rows: Any, starts: Any, stops: Any, top: Any, left: Any, wide: Any) -> Any:
    """Carry distances over an object's pixels in raster order and back; tell whether anything changed."""
    diagonal = np.sqrt(2.0)
    changed = False
    for run in range(firsts[k], firsts[k + 1]):
        base = (rows[run] - top) * wide - left
        before = far[base + starts[run] - 1]
        for i in range(base + starts[run], base + stops[run]):
            straight = min(before, far[i - wide]) + 1.0
            slanted = min(far[i - wide - 1], far[i - wide + 1]) + diagonal
            nearer = min(straight, slanted)
            before = far[i]
            if nearer < before:
                far[i] = before = nearer
                changed = True
    for run in range(firsts[k + 1] - 1, firsts[k] - 1, -1):
        base = (rows[run] - top) * wide - left
        before = far[base + stops[run]]
        for i in range(base + stops[run] - 1, base + starts[run] - 1, -1):
            straight = min(before, far[i + wide]) + 1.0
            slanted = min(far[i + wide - 1], far[i + wide + 1]) + diagonal
            nearer = min(straight, slanted)
            before = far[i]
            if nearer < before:
                far[i] = before = nearer
                changed = True
    return changed


@inlined
def _settle(
    far: Any, inside: Any, firsts: Any, k: Any, rows: Any, starts: Any, stops: Any, top: Any, left: Any, wide: Any,
    tall: Any,
) -> Any:  # fmt: skip
    """Carry distances over an object's pixels from the nearest one on (Dijkstra)."""
    inside[: tall * wide] = False
    keys = np.empty(1024)
    ties = np.empty(1024, np.int64)
    size = 0
    for run in range(firsts[k], firsts[k + 1]):
        base = (rows[run] - top) * wide - left
        for i in range(base + starts[run], base + stops[run]):
            inside[i] = True
            if far[i] > 0:
                far[i] = np.inf
                continue
            if size == keys.size:
                keys, ties = doubled(keys), doubled(ties)
            push(keys, ties, size, 0.0, np.int64(i))
            size += 1
    while size > 0:
        away = keys[0]
        i = ties[0]
        remove_first(keys, ties, size)
        size -= 1
        if away > far[i]:  # a shorter way was found meanwhile
            continue
        for down in range(-1, 2):
            for right in range(-1, 2):
                other = i + down * wide + right
                length = away + (1.0 if down == 0 or right == 0 else np.sqrt(2.0))
                if inside[other] and length < far[other]:
                    far[other] = length
                    if size == keys.size:
                        keys, ties = doubled(keys), doubled(ties)
                    push(keys, ties, size, length, np.int64(other))
                    size += 1


@kernel
def _rings(
    begins: Any, firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any, squared: Any, middles: Any, cores: Any,
    bins: Any, radius: Any, straight: Any,
) -> Any:  # fmt: skip
    n = boxes.shape[0]
    codes = np.full(squared.size, -1, np.int16)
    size = 1
    for k in range(n):
        size = max(size, (boxes[k, 2] - boxes[k, 0] + 2) * (boxes[k, 3] - boxes[k, 1] + 2))
    far = np.empty(size)
    inside = np.empty(size, np.bool_)
    for k in range(n):
        y0 = middles[k, 0]
        x0 = middles[k, 1]
        if y0 < 0:
            continue
        top = boxes[k, 0] - 1
        left = boxes[k, 1] - 1
        wide = boxes[k, 3] - left + 1
        tall = boxes[k, 2] - top + 1
        far[: tall * wide] = np.inf
        if cores.size == 0:
            for run in range(firsts[k], firsts[k + 1]):
                if rows[run] == y0 and starts[run] <= x0 < stops[run]:
                    far[(y0 - top) * wide + x0 - left] = 0.0
        else:
            i = begins[k]
            for run in range(firsts[k], firsts[k + 1]):
                base = (rows[run] - top) * wide - left
                for x in range(starts[run], stops[run]):
                    if cores[i]:
                        far[base + x] = 0.0
                    i += 1
        rounds = 1
        while _sweep(far, firsts, k, rows, starts, stops, top, left, wide):
            rounds += 1
            if rounds > _ROUNDS:  # a labyrinth, which would take as many rounds as it has turns
                _settle(far, inside, firsts, k, rows, starts, stops, top, left, wide, tall)
                break
        i = begins[k]
        for run in range(firsts[k], firsts[k + 1]):
            y = rows[run]
            base = (y - top) * wide - left
            for x in range(starts[run], stops[run]):
                away = far[base + x]
                if straight and away == np.inf:
                    away = np.sqrt(np.float64((y - y0) * (y - y0) + (x - x0) * (x - x0)))
                if away < np.inf and (cores.size == 0 or not cores[i]):
                    reach = radius if radius > 0 else away + np.sqrt(np.float64(squared[i])) + _OFFSET
                    part = away / reach * bins
                    ring = np.int64(part) if part < bins else bins
                    wedge = int(y > y0) + 2 * int(x > x0) + 4 * int(abs(y - y0) > abs(x - x0))
                    codes[i] = WEDGES * ring + wedge
                i += 1
    return codes


@kernel
def _spread(begins: Any, codes: Any, values: Any, bins: Any) -> Any:
    n = begins.size - 1
    fraction = np.empty((bins + 1, n))
    mean_fraction = np.empty((bins + 1, n))
    variation = np.empty((bins + 1, n))
    sums = np.empty(WEDGES * (bins + 1))
    counts = np.empty(WEDGES * (bins + 1), np.int64)
    for k in range(n):
        sums[:] = 0.0
        counts[:] = 0
        for i in range(begins[k], begins[k + 1]):
            code = codes[i]
            if code >= 0 and np.isfinite(values[i]):
                sums[code] += values[i]
                counts[code] += 1
        total = sums.sum()
        pixels = counts.sum()
        for ring in range(bins + 1):
            part = sums[WEDGES * ring : WEDGES * (ring + 1)]
            part_counts = counts[WEDGES * ring : WEDGES * (ring + 1)]
            fraction[ring, k] = part.sum() / total
            share = part_counts.sum() / pixels
            mean_fraction[ring, k] = fraction[ring, k] / (share + np.finfo(np.float64).eps)
            variation[ring, k] = _variation(part, part_counts) if pixels > 0 else np.nan
    return fraction, mean_fraction, variation


@inlined
def _variation(sums: Any, counts: Any) -> Any:
    """Return the population standard deviation over the mean of the wedges that hold pixels."""
    wedges = 0
    mean = 0.0
    for wedge in range(WEDGES):
        if counts[wedge] > 0:
            mean += sums[wedge] / counts[wedge]
            wedges += 1
    mean = mean / wedges if wedges > 0 else 0.0
    if mean == 0:  # as CellProfiler, for want of pixels or of light
        return 0.0
    squares = 0.0
    for wedge in range(WEDGES):
        if counts[wedge] > 0:
            squares += (sums[wedge] / counts[wedge] - mean) ** 2
    return np.sqrt(squares / wedges) / mean
