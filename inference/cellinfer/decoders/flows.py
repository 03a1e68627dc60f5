"""Flows to the middle of each object, and a cell probability -> labels (Cellpose, Stringer et al. 2021).

Pixels drift with the flow; those that gather in one place are one object. A Cellpose network can be brought as it is:
its output is, in this order, the flow along rows, the flow along columns (both times 5, positive towards growing
indices) and the logit of the cell probability. Fields may be resized to the image, for flows are directions: their
magnitude is never rescaled. Flips and rotations turn them, so views are merged by objects.

Labels come back but for objects of fewer pixels than must gather in one place, pieces of an object apart from its
middle, which have no flow, and holes, which are filled.
"""

from __future__ import annotations

import cv2
import numpy as np
from cellinfer_kernels.components import fill_holes, label, relabel, remove_small
from cellinfer_kernels.flows import follow, heat_flows
from cellinfer_kernels.watershed import flood
from numpy.typing import NDArray

FACTOR = 5.0
"""What a network's flows are multiplied by, so that their loss weighs as much as that of the probability."""
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)
"""Of two gatherings this near only the larger is an object."""
_STRAYS = 2
"""Where no more pixels than this end, they belong to nothing."""


def decode(
    fields: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    *,
    cell: float = 0.0,
    steps: int = 200,
    gathered: int = 10,
    flow_error: float = 0.4,
    smallest: float = 0.05,
) -> NDArray[np.int32]:
    """Decode one field.

    Parameters
    ----------
    fields
        `(3, H, W)` float32: flow along rows and along columns (5 is one pixel per step), logit of the cell probability.
        A flow that is not a number leads nowhere, and a pixel whose logit is none belongs to no object.
    diameter
        Median object diameter, pixels.
    shape
        `(H, W)` of the result, which is that of the fields.
    cell
        Least logit of a pixel that belongs to an object.
    steps
        How often pixels move.
    gathered
        Least number of pixels that must end on the pixel where most of their object's end.
    flow_error
        Largest mean squared difference between an object's flows and those that its shape should have; 0: any.
    smallest
        Least area of an object as a share of a disk of the given diameter. No object is dropped for it when the share
        is below one pixel.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n in raster order of the places where their pixels gather.
    """
    assert fields.shape[1:] == shape
    inside = fields[2] > cell
    # Following needs finite flows; a step longer than the image leads to its rim in any case.
    flows = np.clip(np.nan_to_num(fields[:2] / np.float32(FACTOR)), -max(shape), max(shape))
    rows, columns = np.rint(follow(flows, inside, steps)).astype(np.int64).T
    counts = np.bincount(rows * shape[1] + columns, minlength=inside.size).reshape(shape).astype(np.float32)
    peaks, _ = label((counts >= gathered) & (counts == cv2.dilate(counts, _NEIGHBOURHOOD)), 2)
    basins = flood(-counts, peaks, counts > _STRAYS, 2)
    labels = np.zeros(shape, np.int32)
    labels[inside] = basins[rows, columns]
    if flow_error > 0:
        labels = _plausible(labels, flows, flow_error)
    return relabel(remove_small(fill_holes(labels), max(1, round(smallest * np.pi / 4 * diameter**2))))


def _plausible(labels: NDArray[np.int32], flows: NDArray[np.float32], limit: float) -> NDArray[np.int32]:
    """Keep the objects whose flows are those of their shape."""
    squares = ((heat_flows(labels) - flows) ** 2).sum(axis=0)
    names = labels.ravel()
    total = np.bincount(names, weights=squares.ravel())
    keep = total <= limit * np.bincount(names)
    return np.where(keep[labels], labels, 0)
