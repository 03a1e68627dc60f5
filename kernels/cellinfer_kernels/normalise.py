"""Intensity statistics and scaling of one image plane, in one pass over its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel

__all__ = ["percentiles", "rescale"]

_MANY = 1 << 16
"""Pixels from which counting bits is faster than partitioning."""


def percentiles(image: NDArray[Any], q: float | Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return percentiles of the finite pixels, as `numpy.percentile` defines them by default ("linear").

    Parameters
    ----------
    image
        Array of any shape and real dtype; exact for all, by a histogram for uint8 and uint16. NaN and infinite pixels
        do not count.
    q
        Percentiles asked for, 0..100.

    Returns
    -------
    ndarray of float64
        One value per `q`, always 1-D; NaN if there is no finite pixel.

    Raises
    ------
    ValueError
        If a percentile lies outside 0..100 or is NaN.
    """
    asked = np.atleast_1d(np.asarray(q, dtype=np.float64))
    if not np.all((asked >= 0) & (asked <= 100)):
        raise ValueError(f"percentiles must lie in 0..100, got {asked.tolist()}")
    values = np.asarray(image).ravel()
    if values.dtype == np.float32 and values.size >= _MANY:
        return _of_many(np.ascontiguousarray(values), asked)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        values = values if finite.all() else values[finite]
    if not values.size:
        return np.full(asked.shape, np.nan)
    below, above, weight = _places(asked, values.size)
    low, high = _ranked(values, below, above)
    return _between(low, high, weight)


def _places(asked: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the places among `count` sorted pixels between which percentiles lie, and how far from the first."""
    position = asked / 100 * (count - 1)
    below = np.floor(position).astype(np.int64)
    return below, np.minimum(below + 1, count - 1), position - below


def _of_many(values: NDArray[np.float32], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return percentiles of many 32-bit floats in two passes that count their bits, made to rise with the value.

    The upper half of the bits tells in which of 65,536 bins a place lies; of the bins that matter the lower half is
    counted too.
    """
    bits = values.view(np.uint32)
    upper = _count_upper(bits)
    count = int(upper.sum())
    if count == 0:
        return np.full(asked.shape, np.nan)
    below, above, weight = _places(asked, count)
    places = np.unique(np.concatenate([below, above]))
    filled = np.cumsum(upper)
    bins = np.searchsorted(filled, places, side="right")
    matter, slot = np.unique(bins, return_inverse=True)
    lower = np.cumsum(_count_lower(bits, matter), axis=1)
    within = places - (filled[bins] - upper[bins])
    keys = [
        (int(b) << 16) | int(np.searchsorted(lower[s], w, side="right"))
        for b, s, w in zip(bins, slot, within, strict=True)
    ]
    found = _value(np.array(keys, np.uint32))
    return _between(found[np.searchsorted(places, below)], found[np.searchsorted(places, above)], weight)


def _value(keys: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Undo `_key`."""
    negative = keys < 1 << 31
    bits = np.where(negative, ~keys, keys & np.uint32(0x7FFFFFFF)).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)


@inlined
def _key(bits: Any) -> Any:
    """Bits of a float that rise with its value, as a whole number; -1 for NaN and infinity."""
    if bits & 0x7F800000 == 0x7F800000:
        return np.int64(-1)
    if bits & 0x80000000:
        return np.int64(0xFFFFFFFF) - np.int64(bits)
    return np.int64(bits) + np.int64(0x80000000)


@kernel
def _count_upper(bits: Any) -> Any:
    # Two tables: neighbours are often alike, and an addition to the same place would wait for the one before.
    counts = np.zeros((2, 65536), np.int64)
    for i in range(bits.size):
        key = _key(bits[i])
        if key >= 0:
            counts[i & 1, key >> 16] += 1
    return counts[0] + counts[1]


@kernel
def _count_lower(bits: Any, bins: Any) -> Any:
    counts = np.zeros((bins.size, 65536), np.int64)
    slots = np.full(65536, -1, np.int64)
    for slot in range(bins.size):
        slots[bins[slot]] = slot
    for i in range(bits.size):
        key = _key(bits[i])
        if key >= 0:
            slot = slots[key >> 16]
            if slot >= 0:
                counts[slot, key & 0xFFFF] += 1
    return counts


def _ranked(
    values: NDArray[Any], below: NDArray[np.int64], above: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values at the given places of the sorted pixels, without sorting them."""
    if values.dtype in (np.uint8, np.uint16):
        filled = np.cumsum(_histogram(np.ascontiguousarray(values), int(np.iinfo(values.dtype).max) + 1))
        ranks = [np.searchsorted(filled, places, side="right") for places in (below, above)]
        return ranks[0].astype(np.float64), ranks[1].astype(np.float64)
    ordered = np.partition(values, np.unique(np.concatenate([below, above])))
    return ordered[below].astype(np.float64), ordered[above].astype(np.float64)


def _between(low: NDArray[np.float64], high: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    # From the nearer end, as NumPy does: monotone, and exact at both ends.
    span = high - low
    return np.where(weight < 0.5, low + span * weight, high - span * (1 - weight))


@kernel
def _histogram(values: Any, bins: Any) -> Any:
    counts = np.zeros(bins, np.int64)
    for value in values:
        counts[value] += 1
    return counts


def rescale(image: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map `low` to 0 and `high` to 1: (image - low) / (high - low), not clipped.

    Parameters
    ----------
    image
        Array of any shape and real dtype.
    low, high
        Intensities in the image's units.

    Returns
    -------
    ndarray of float32
        Same shape. Pixels that are, or would become, NaN or infinite are 0; everything is 0 unless `low < high`
        are both finite (a constant image has no contrast to show).
    """
    values = np.ascontiguousarray(image)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        return np.zeros(values.shape, np.float32)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    result: NDArray[np.float32] = _rescale(values.ravel(), float(low), float(high)).reshape(values.shape)
    return result


@kernel
def _rescale(values: Any, low: Any, high: Any) -> Any:
    result = np.empty(values.size, np.float32)
    span = high - low
    for i in range(values.size):
        scaled = np.float32((np.float64(values[i]) - low) / span)
        result[i] = scaled if np.isfinite(scaled) else np.float32(0)
    return result
