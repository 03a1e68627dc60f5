"""What a network is asked to predict, computed from instance labels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def distance_fields(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the two scalar fields of the `distance` decoder, and the weight of each pixel in the loss.

    Scalar fields are unchanged by flips and rotations of the image, so that augmentation and test-time augmentation
    move them as pixels and nothing else.

    Parameters
    ----------
    labels
        `(H, W)` int32, 0 is background.

    Returns
    -------
    ndarray
        `(H, W, 3)` float32: foreground (0 or 1); distance to the object's edge divided by the object's largest such
        distance (0 outside, 1 in the middle); weight (1, raised where two objects nearly touch).
    """
    foreground = labels > 0
    edge = np.zeros(labels.shape, bool)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    inner = (foreground & ~edge).astype(np.uint8)
    distance = np.where(foreground, cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + 0.5, 0.0)
    peak = np.full(int(labels.max(initial=0)) + 1, 1e-6)
    np.maximum.at(peak, labels.ravel(), distance.ravel())
    normalised = np.where(foreground, distance / peak[labels], 0.0)
    return np.stack([foreground, normalised, _crowding(labels)], axis=-1).astype(np.float32)


def _crowding(labels: NDArray[np.int32], radius: int = 3, weight: float = 4.0) -> NDArray[np.float32]:
    """Weight pixels that have two different objects within `radius`."""
    box = np.ones((2 * radius + 1,) * 2, np.uint8)
    values = labels.astype(np.float32)
    highest = cv2.dilate(values, box)
    lowest = cv2.erode(np.where(labels > 0, values, np.float32(np.inf)), box)
    between = (highest > 0) & np.isfinite(lowest) & (highest != lowest)
    return np.where(between, np.float32(weight), np.float32(1.0))
