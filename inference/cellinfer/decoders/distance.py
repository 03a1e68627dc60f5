"""Foreground probability and normalised distance to the object's edge -> labels.

The distance is divided by the object's largest, so every object, small or large, has a core where it is near 1, and
cores of touching objects are parted by a valley. Cores are the seeds; flooding down the distance gives each foreground
pixel to one of them. Both fields are scalars: flips and rotations of the image only move them.
"""

from __future__ import annotations

import numpy as np
from cellinfer_kernels.components import fill_holes, label, remove_small
from cellinfer_kernels.watershed import flood
from numpy.typing import NDArray


def decode(
    fields: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    *,
    foreground: float = 0.5,
    core: float = 0.35,
    smallest: float = 0.05,
    smallest_core: float = 0.06,
) -> NDArray[np.int32]:
    """Decode one field.

    Parameters
    ----------
    fields
        `(2, H, W)` float32 in 0..1: foreground probability, normalised distance.
    diameter
        Median object diameter, pixels.
    shape
        `(H, W)` of the result, which is that of the fields.
    foreground
        Least probability of a foreground pixel.
    core
        Least normalised distance of an object's core.
    smallest, smallest_core
        Least area of an object, and of its core, as a share of a disk of the given diameter. No object is dropped
        for having fewer than its share when the share is below one pixel.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n in raster order of their cores.
    """
    assert fields.shape[1:] == shape
    probability, distance = fields
    inside = probability > foreground
    disk = np.pi / 4 * diameter**2
    cores, _ = label(inside & (distance > core))
    cores = remove_small(cores, max(1, round(smallest_core * disk)))
    grown = flood(-distance, cores, inside)
    return remove_small(fill_holes(grown), max(1, round(smallest * disk)), renumber=True)
