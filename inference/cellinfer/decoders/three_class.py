"""Probabilities of background, interior and boundary -> labels.

Connected interiors are the objects; flooding gives them back their boundaries. Labels come back exactly, but for
objects without interior (one or two pixels wide), which are lost, objects whose interior is parted by a waist of that
width or that are in several pieces, which come back as several, and pixels of the boundary where two objects meet, of
which some may change sides.
"""

from __future__ import annotations

import numpy as np
from cellinfer_kernels.components import fill_holes, label, relabel, remove_small
from cellinfer_kernels.watershed import flood
from numpy.typing import NDArray


def decode(
    fields: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    *,
    interior: float = 0.5,
    background: float = 0.5,
    smallest: float = 0.05,
    smallest_interior: float = 0.0,
) -> NDArray[np.int32]:
    """Decode one field.

    Parameters
    ----------
    fields
        `(3, H, W)` float32: probabilities of background, interior and boundary.
    diameter
        Median object diameter, pixels.
    shape
        `(H, W)` of the result, which is that of the fields.
    interior
        Least interior probability of a pixel that an object starts from.
    background
        Least background probability of a pixel that no object has.
    smallest, smallest_interior
        Least area of an object, and of its interior, as a share of a disk of the given diameter. No object is dropped
        for it when the share is below one pixel.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n in raster order of their interiors.
    """
    assert fields.shape[1:] == shape
    disk = np.pi / 4 * diameter**2
    seeds, _ = label(fields[1] > interior)
    seeds = remove_small(seeds, max(1, round(smallest_interior * disk)))
    grown = flood(fields[2] - fields[1], seeds, (fields[0] < background) | (seeds > 0))
    return relabel(remove_small(fill_holes(grown), max(1, round(smallest * disk))))
