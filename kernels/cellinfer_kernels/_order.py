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
def quantile(values: Any, first: Any, last: Any, fraction: Any) -> Any:
    """Quantile of `values[first:last]` (not empty, finite; reordered), NumPy's "linear" convention."""
    position = fraction * (last - first - 1)
    place = first + int(position)
    weight = position - int(position)
    low = select(values, first, last, place)
    if weight == 0.0:
        return low
    high = values[place + 1]
    for i in range(place + 2, last):
        high = min(high, values[i])
    return low + (high - low) * weight
