"""NumPy twin of `cellinfer_kernels.distance`: every pixel against every target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups


def nearest(targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Take the smallest of all distances; the leftmost, then uppermost, of equally near targets."""
    marked = np.asarray(targets) != 0
    if not marked.any():
        return np.full(marked.shape, np.inf), np.full(marked.shape, -1, np.int32)
    xs, ys = np.nonzero(marked.T)
    grid_y, grid_x = np.indices(marked.shape)
    squared = (grid_y[..., None] - ys) ** 2 + (grid_x[..., None] - xs) ** 2
    index = (ys * marked.shape[1] + xs)[np.argmin(squared, axis=-1)]
    return squared.min(axis=-1).astype(np.float64), index.astype(np.int32)


def within(targets: NDArray[Any], distance: float) -> NDArray[np.bool_]:
    """Compare all distances with the given one."""
    near: NDArray[np.bool_] = nearest(targets)[0] <= distance**2
    return near


def depth(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Ask for the nearest pixel outside, object by object, in an image with a rim of background."""
    padded = np.pad(labels, 1)
    result = np.zeros(padded.shape)
    for i in np.unique(labels[labels > 0]):
        inside = padded == i
        result[inside] = nearest(~inside)[0][inside]
    return result[1:-1, 1:-1]


def depths(groups: Groups) -> NDArray[np.int32]:
    """Ask for the nearest pixel outside, object by object, in an image with a rim of background."""
    return _depths(groups, np.pad(np.zeros(groups.shape, np.bool_), 1, constant_values=True))


def depths_within_image(groups: Groups, squared: NDArray[np.int32]) -> NDArray[np.int32]:
    """Ask the same without the rim; an object without any pixel outside keeps what it has."""
    found = _depths(groups, np.zeros((groups.shape[0] + 2, groups.shape[1] + 2), np.bool_))
    return np.where(found >= 0, found, squared).astype(np.int32)


def _depths(groups: Groups, always: NDArray[np.bool_]) -> NDArray[np.int32]:
    """-1 where there is no pixel outside; `always`: what of the image with a rim is outside for every object."""
    result = np.full(groups.pixels.size, -1, np.int32)
    for k in range(groups.ids.size):
        place = slice(groups.begins[k], groups.begins[k + 1])
        ys, xs = np.unravel_index(groups.pixels[place], groups.shape)
        outside = np.pad(np.ones(groups.shape, np.bool_), 1, constant_values=False)
        outside[ys + 1, xs + 1] = False
        outside |= always
        if outside.any():
            result[place] = nearest(outside)[0][ys + 1, xs + 1]
    return result
