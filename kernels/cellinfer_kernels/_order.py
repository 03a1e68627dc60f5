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


_FEW = 200  # up to this many values, selecting among all of them is as fast as looking for a bracket first
_SAMPLE = 64


@inlined
def median(values: Any, count: Any, scratch: Any, sample: Any) -> Any:
    """Return the median of `values[:count]` (not empty, finite), which may be reordered.

    A sample tells two bounds that the median most probably lies between; one pass without branches counts what is
    below them and collects what is within, so that selection, which mispredicts every other branch, sees but a few of
    the values. Bounds that miss only cost time.

    `scratch` has room for `count` values, `sample` for 64.
    """
    middle = count // 2
    if count > _FEW:
        step = count // _SAMPLE
        for place in range(_SAMPLE):
            sample[place] = values[place * step]
        reach = 11  # of 64: beyond 2.5 standard deviations of the sample's median
        low_bound = select(sample, 0, _SAMPLE, _SAMPLE // 2 - reach)
        high_bound = select(sample, 0, _SAMPLE, _SAMPLE // 2 + reach)
        below = 0
        within = 0
        for place in range(count):
            value = values[place]
            scratch[within] = value
            within += int((value >= low_bound) & (value <= high_bound))
            below += int(value < low_bound)
        if below < middle < below + within:
            return _median_of(scratch, within, middle - below, count % 2 == 0)
    return _median_of(values, count, middle, count % 2 == 0)


@inlined
def _median_of(values: Any, count: Any, place: Any, even: Any) -> Any:
    """Value at a place of the sorted `values[:count]`, or the mean of it and the one before."""
    high = select(values, 0, count, place)
    if even:
        low = values[0]
        for before in range(1, place):
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
