"""Exact Euclidean distance to the nearest marked pixel, and which pixel that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels.components import as_mask

__all__ = ["nearest"]


def nearest(targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Find the nearest target pixel of every pixel.

    Lower envelopes of parabolas (Felzenszwalb and Huttenlocher 2012), columns first.

    Parameters
    ----------
    targets
        2-D mask of fewer than 2**31 pixels; non-zero pixels are targets.

    Returns
    -------
    squared : ndarray of float64
        Squared distance in pixels between pixel centres; 0 on targets, inf if there is no target.
    index : ndarray of int32
        Flat index of one nearest target; -1 if there is none.

    Raises
    ------
    ValueError
        If the mask is not 2-D.
    """
    return _nearest(as_mask(targets))  # type: ignore[no-any-return]


@kernel
def _nearest_rows(targets: Any) -> Any:
    """Row of the nearest target in the same column, -1 where the column has none."""
    height, width = targets.shape
    rows = np.full((height, width), -1, np.int32)
    for y in range(height):
        for x in range(width):
            if targets[y, x]:
                rows[y, x] = y
            elif y > 0:
                rows[y, x] = rows[y - 1, x]
    for y in range(height - 2, -1, -1):
        for x in range(width):
            above = rows[y, x]
            below = rows[y + 1, x]
            if below > y and (above < 0 or below - y < y - above):
                rows[y, x] = below
    return rows


@kernel
def _nearest(targets: Any) -> Any:
    height, width = targets.shape
    rows = _nearest_rows(targets)
    squared = np.full((height, width), np.inf)
    index = np.full((height, width), -1, np.int32)
    sites = np.empty(width, np.int64)
    heights = np.empty(width, np.float64)
    begins = np.empty(width, np.float64)
    for y in range(height):
        count = 0
        for x in range(width):
            row = rows[y, x]
            if row < 0:
                continue
            level = np.float64((y - row) * (y - row))
            begin = -np.inf
            while count > 0:
                site = sites[count - 1]
                begin = (level - heights[count - 1] + (x * x - site * site)) / (2.0 * (x - site))
                if begin > begins[count - 1]:
                    break
                count -= 1
            sites[count] = x
            heights[count] = level
            begins[count] = begin if count > 0 else -np.inf
            count += 1
        if count == 0:
            continue
        current = 0
        for x in range(width):
            while current + 1 < count and begins[current + 1] < x:
                current += 1
            site = sites[current]
            squared[y, x] = heights[current] + (x - site) * (x - site)
            index[y, x] = rows[y, site] * width + site
    return squared, index
