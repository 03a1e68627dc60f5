"""A priority queue for kernels: a heap of (key, tie) in two arrays, smallest first, each node with four children."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellinfer_kernels._jit import inlined


@inlined
def push(keys: Any, ties: Any, size: Any, key: Any, tie: Any) -> Any:
    """Add an entry to the `size` there are; the arrays have room for it."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 2
        if keys[parent] < key or (keys[parent] == key and ties[parent] <= tie):
            break
        keys[hole] = keys[parent]
        ties[hole] = ties[parent]
        hole = parent
    keys[hole] = key
    ties[hole] = tie


@inlined
def remove_first(keys: Any, ties: Any, size: Any) -> Any:
    """Drop the least of `size` entries by letting the last one sink from the top."""
    last = size - 1
    key = keys[last]
    tie = ties[last]
    hole = 0
    while True:
        child = 4 * hole + 1
        if child >= last:
            break
        least = child
        for other in range(child + 1, min(child + 4, last)):
            if keys[other] < keys[least] or (keys[other] == keys[least] and ties[other] < ties[least]):
                least = other
        if key < keys[least] or (key == keys[least] and tie <= ties[least]):
            break
        keys[hole] = keys[least]
        ties[hole] = ties[least]
        hole = least
    keys[hole] = key
    ties[hole] = tie


@inlined
def doubled(array: Any) -> Any:
    """Return an array of twice the length that begins with the same entries."""
    return np.concatenate((array, np.empty_like(array)))
