"""Order statistics for kernels, in place on a stretch of an array."""

from __future__ import annotations

from typing import Any

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
