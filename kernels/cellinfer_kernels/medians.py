"""The median of each pixel's surroundings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel

__all__ = ["median_disk"]

_COARSE = 9
"""Bits of a rank that are counted together, so that a median is found in few steps."""


def median_disk(image: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """Return the median of the pixels within a radius of each pixel; beyond the edge the image's rim goes on.

    Exact for any numbers: a window slides along the rows and counts the ranks of the pixels that it holds (Huang, Yang
    and Tang 1979, IEEE Trans. ASSP 27, 13). The same as `skimage.filters.median` over `skimage.morphology.disk`.

    Parameters
    ----------
    image
        `(H, W)`, real and finite.
    radius
        Pixels.

    Returns
    -------
    ndarray of shape (H, W), float64

    Raises
    ------
    ValueError
        If the image is empty, not 2-D or not finite, or the radius is negative.
    """
    values = np.asarray(image, np.float64)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an image of finite numbers (H, W) is needed, got shape {values.shape}")
    if radius < 0:
        raise ValueError(f"the radius must not be negative, got {radius}")
    levels, ranks = np.unique(np.pad(values, radius, mode="edge"), return_inverse=True)
    rows = np.arange(-radius, radius + 1)
    reach = np.sqrt(radius**2 - rows**2 + 0.5).astype(np.int64)
    shape = (values.shape[0] + 2 * radius, values.shape[1] + 2 * radius)
    found = _median_ranks(ranks.reshape(shape).astype(np.int32), reach, levels.size)
    result: NDArray[np.float64] = levels[found]
    return result


@kernel
def _median_ranks(ranks: Any, reach: Any, levels: Any) -> Any:
    radius = reach.size // 2
    height, width = ranks.shape[0] - 2 * radius, ranks.shape[1] - 2 * radius
    result = np.empty((height, width), np.int32)
    fine = np.zeros(((levels >> _COARSE) + 1) << _COARSE, np.int32)
    coarse = np.zeros((levels >> _COARSE) + 1, np.int32)
    middle = np.int64(0)
    for row in range(reach.size):
        middle += 2 * reach[row] + 1
    middle //= 2  # so many pixels are below the median
    for i in range(height):
        fine[:] = 0
        coarse[:] = 0
        for row in range(reach.size):
            for column in range(radius - reach[row], radius + reach[row] + 1):
                rank = ranks[i + row, column]
                fine[rank] += 1
                coarse[rank >> _COARSE] += 1
        for j in range(width):
            if j > 0:
                for row in range(reach.size):
                    old = ranks[i + row, j - 1 + radius - reach[row]]
                    new = ranks[i + row, j + radius + reach[row]]
                    fine[old] -= 1
                    coarse[old >> _COARSE] -= 1
                    fine[new] += 1
                    coarse[new >> _COARSE] += 1
            below = np.int64(0)
            block = 0
            while below + coarse[block] <= middle:
                below += coarse[block]
                block += 1
            rank = block << _COARSE
            while below + fine[rank] <= middle:
                below += fine[rank]
                rank += 1
            result[i, j] = rank
    return result
