"""Foreground probability -> labels: connected components, if asked for parted where their outline is narrow.

The field does not know objects: those that touch along an edge come back as one, and one id in two pieces as two.
`split` parts round objects at their necks, by flooding down the distance to the background; then a long object may
come back in several parts.
"""

from __future__ import annotations

import cv2
import numpy as np
from cellinfer_kernels.components import label, relabel, remove_small
from cellinfer_kernels.distance import depth
from cellinfer_kernels.watershed import flood
from numpy.typing import NDArray


def decode(
    fields: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    *,
    foreground: float = 0.5,
    split: float = 0.0,
    smallest: float = 0.05,
) -> NDArray[np.int32]:
    """Decode one field.

    Parameters
    ----------
    fields
        `(1, H, W)` float32: foreground probability.
    diameter
        Median object diameter, pixels.
    shape
        `(H, W)` of the result, which is that of the fields.
    foreground
        Least probability of a foreground pixel.
    split
        Part objects at their necks: least distance between the middles of two objects, as a share of the diameter.
        0: what is connected is one object.
    smallest
        Least area of an object as a share of a disk of the given diameter. No object is dropped for it when the share
        is below one pixel.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n in raster order of their first pixels, or of their middles.
    """
    assert fields.shape[1:] == shape
    labels, _ = label(fields[0] > foreground)
    if split > 0:
        labels = _parted(labels, split * diameter)
    return relabel(remove_small(labels, max(1, round(smallest * np.pi / 4 * diameter**2))))


def _parted(labels: NDArray[np.int32], apart: float) -> NDArray[np.int32]:
    """Flood each object from the places that lie deepest within the distance `apart`."""
    apart = min(apart, float(np.hypot(*labels.shape)))  # farther than that, nothing lies in the image
    # Smoothed, for the ragged outline of a round object gives its distance many small peaks.
    deep = cv2.GaussianBlur(np.sqrt(depth(labels)).astype(np.float32), (0, 0), max(apart / 8, 0.3))
    deep[labels == 0] = 0
    side = 2 * max(1, round(apart)) + 1
    highest = cv2.dilate(deep, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    middles, _ = label((labels > 0) & (deep == highest), 2)
    peaks = np.nonzero(middles)  # those of objects that touch at a corner may have become one
    pairs = np.stack([middles[peaks], labels[peaks]])
    middles[peaks] = 1 + np.unique(pairs, axis=1, return_inverse=True)[1].ravel()
    # A small object beside a large one has no peak of its own; it stays what it was.
    shadowed = ~np.isin(labels, labels[middles > 0]) & (labels > 0)
    rest = np.where(shadowed, labels + middles.max(initial=0), 0)
    return flood(-deep, middles, (labels > 0) & ~shadowed) + rest
