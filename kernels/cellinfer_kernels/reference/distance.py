"""NumPy twin of `cellinfer_kernels.distance`: every pixel against every target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest(targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Take the smallest of all distances; the first of equally near targets."""
    marked = np.asarray(targets) != 0
    if not marked.any():
        return np.full(marked.shape, np.inf), np.full(marked.shape, -1, np.int32)
    ys, xs = np.nonzero(marked)
    grid_y, grid_x = np.indices(marked.shape)
    squared = (grid_y[..., None] - ys) ** 2 + (grid_x[..., None] - xs) ** 2
    index = np.flatnonzero(marked)[np.argmin(squared, axis=-1)]
    return squared.min(axis=-1).astype(np.float64), index.astype(np.int32)


def depth(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Ask for the nearest pixel outside, object by object, in an image with a rim of background."""
    padded = np.pad(labels, 1)
    result = np.zeros(padded.shape)
    for i in np.unique(labels[labels > 0]):
        inside = padded == i
        result[inside] = nearest(~inside)[0][inside]
    return result[1:-1, 1:-1]
