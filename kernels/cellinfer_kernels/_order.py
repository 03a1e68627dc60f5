"""Order statistics for kernels, in place on a stretch of an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellinfer_kernels._jit import inlined


@inlined
def select(values: Any, first: Any, last: Any, place: Any) -> Any:
    """Reorder `values[first:last]` so that `values[place]` is what sorting would put there (Hoare's selection)."""
    low = first
    high = last - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i = low
        j = high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            return values[place]
    return values[place]


@inlined
def quantile_at(values: Any, first: Any, last: Any, position: Any) -> Any:
    """Value at a position 0 .. last - first - 1 of the sorted `values[first:last]` (not empty, finite; reordered)."""
    place = first + int(position)
    weight = position - int(position)
    low = select(values, first, last, place)
    if weight == 0.0 or place + 1 >= last:
        return low
    high = values[place + 1]
    for i in range(place + 2, last):
        high = min(high, values[i])
    return low + (high - low) * weight


_FEW = 200  # up to this many values, selecting among all of them is as fast as narrowing them down first
_SAMPLE = 64
_REACH = 10  # places from the middle of the sample: 2.5 standard deviations of where the median is in it


@inlined
def median(values: Any, count: Any, scratch: Any) -> Any:
    """Return the median of `values[:count]` (not empty, finite), which may be reordered.

    Selection mispredicts every other branch. So values are narrowed down twice, in passes without branches, to those
    between two bounds that the median most probably lies between: first the bounds are those of a sample, then what
    is left is taken to be spread evenly. Bounds that miss only cost time.

    `scratch` has room for twice `count` values, and no less than 64.
    """
    middle = count // 2
    even = count % 2 == 0
    if count <= _FEW:
        return _median_at(values, 0, count, middle, even)
    step = count // _SAMPLE
    for place in range(_SAMPLE):
        scratch[place] = values[place * step]
    low = select(scratch, 0, _SAMPLE, _SAMPLE // 2 - _REACH)
    high = select(scratch, 0, _SAMPLE, _SAMPLE // 2 + _REACH)
    below, within = _narrow(values, 0, count, low, high, scratch, 0)
    place = middle - below
    if not 0 < place < within:
        return _median_at(values, 0, count, middle, even)
    if within <= _FEW:
        return _median_at(scratch, 0, within, place, even)
    share = 1.5 / np.sqrt(within) + 0.02
    span = high - low
    start = low + span * (place / within - share)
    stop = low + span * (place / within + share)
    below, left = _narrow(scratch, 0, within, start, stop, scratch, within)
    if 0 < place - below < left:
        return _median_at(scratch, within, within + left, within + place - below, even)
    return _median_at(scratch, 0, within, place, even)


@inlined
def _narrow(values: Any, first: Any, last: Any, low: Any, high: Any, kept: Any, start: Any) -> Any:
    """Write values from low to high into `kept[start:]`; return how many are below, and how many are written."""
    below = 0
    within = 0
    for place in range(first, last):
        value = values[place]
        kept[start + within] = value
        below += int(value < low)
        within += int((value >= low) & (value <= high))
    return below, within


@inlined
def _median_at(values: Any, first: Any, last: Any, place: Any, even: Any) -> Any:
    """Value at a place of the sorted `values[first:last]`, or the mean of it and the one before."""
    high = select(values, first, last, place)
    if even:
        low = values[first]
        for before in range(first + 1, place):
            low = max(low, values[before])
        high = low + (high - low) / 2 if np.isinf(low + high) else (low + high) / 2
    return high


_SHORT = 24  # stretches up to this length are sorted by insertion


@inlined
def sort_pairs(values: Any, partners: Any, first: Any, last: Any, stack: Any) -> Any:
    """Sort `values[first:last]` and move `partners` along (quicksort; `stack`: 128 integers of scratch space)."""
    waiting = 0
    while True:
        while last - first > _SHORT:
            pivot = values[(first + last) >> 1]
            i = first
            j = last - 1
            while i <= j:
                while values[i] < pivot:
                    i += 1
                while values[j] > pivot:
                    j -= 1
                if i <= j:
                    values[i], values[j] = values[j], values[i]
                    partners[i], partners[j] = partners[j], partners[i]
                    i += 1
                    j -= 1
            # The longer part waits, so that at most log2(length) parts ever do.
            if j + 1 - first > last - i:
                stack[waiting] = first
                stack[waiting + 1] = j + 1
                first = i
            else:
                stack[waiting] = i
                stack[waiting + 1] = last
                last = j + 1
            waiting += 2
        for i in range(first + 1, last):
            value = values[i]
            partner = partners[i]
            j = i - 1
            while j >= first and values[j] > value:
                values[j + 1] = values[j]
                partners[j + 1] = partners[j]
                j -= 1
            values[j + 1] = value
            partners[j + 1] = partner
        if waiting == 0:
            return
        waiting -= 2
        first = stack[waiting]
        last = stack[waiting + 1]
