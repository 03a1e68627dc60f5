"""What a network is asked to predict, computed from instance labels."""

from __future__ import annotations

import cv2
import numpy as np
from cellinfer_kernels.components import boundaries
from cellinfer_kernels.flows import heat_flows
from cellinfer_kernels.starconvex import ray_distances
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
    distance = _edge_distance(labels)
    normalised = _per_object(distance, labels)
    return np.stack([foreground, normalised, _crowding(labels)], axis=-1).astype(np.float32)


def star_fields(labels: NDArray[np.int32], rays: int = 32, stride: int = 2) -> NDArray[np.float32]:
    """Return the fields of the `star-convex` decoder, and the weight of each sample in the loss.

    Fields are sampled at every `stride`-th pixel, from the first. Objects without a sample of their own leave no
    trace; where one id is in two pieces, each piece has its own distances but the larger one the higher probability.

    Parameters
    ----------
    labels
        `(H, W)` int32, 0 is background; gaps between ids are allowed.
    rays
        Number of rays.
    stride
        Pixels between samples.

    Returns
    -------
    ndarray
        `(ceil(H / stride), ceil(W / stride), 2 + rays)` float32: object probability (distance to the object's edge
        divided by the largest among the object's samples; the image border is no edge); distances along rays, in
        pixels of `labels`, in the order of `cellinfer_kernels.starconvex`; weight, as in `distance_fields`.
    """
    samples = labels[::stride, ::stride]
    probability = _per_object(_edge_distance(labels)[::stride, ::stride], samples)
    weight = _crowding(labels)[::stride, ::stride]
    return np.dstack([probability, ray_distances(labels, rays, stride), weight]).astype(np.float32)


def semantic_fields(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return `(H, W, 2)` float32 for the `semantic` decoder: foreground (0 or 1) and the weight 1.

    Parameters
    ----------
    labels
        `(H, W)` int32, 0 is background. Touching objects become one foreground.
    """
    return np.dstack([labels > 0, np.ones(labels.shape)]).astype(np.float32)


def three_class_fields(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the fields of the `three-class` decoder, and the weight of each pixel in the loss.

    Parameters
    ----------
    labels
        `(H, W)` int32, 0 is background.

    Returns
    -------
    ndarray
        `(H, W, 4)` float32: background, interior, boundary (one of them 1, the others 0), weight as in
        `distance_fields`. Boundary are the object pixels with an edge neighbour that is not of their object, around
        holes too; interiors of different objects so never touch. The image border is no boundary.
    """
    boundary = boundaries(labels)
    planes = [labels == 0, (labels > 0) & ~boundary, boundary, _crowding(labels)]
    return np.stack(planes, axis=-1).astype(np.float32)


def flow_fields(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the fields of the `flows` decoder, and the weight of each pixel in the loss.

    Flows are no scalar fields: labels are to be augmented before they are encoded.

    Parameters
    ----------
    labels
        `(H, W)` int32, 0 is background.

    Returns
    -------
    ndarray
        `(H, W, 4)` float32: flows of `cellinfer_kernels.flows.heat_flows` along rows and columns, foreground (0 or 1),
        weight 1.
    """
    down, right = heat_flows(labels)
    return np.dstack([down, right, labels > 0, np.ones(labels.shape)]).astype(np.float32)


def _edge_distance(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Distance of object pixels to the edge between their object and what is beside it, half a pixel at the edge."""
    foreground = labels > 0
    edge = np.zeros(labels.shape, bool)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    inner = (foreground & ~edge).astype(np.uint8)
    return np.where(foreground, cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + 0.5, 0.0)


def _per_object(values: NDArray[np.float64], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Divide by each object's largest value; 0 outside of objects."""
    peak = np.full(int(labels.max(initial=0)) + 1, 1e-6)
    np.maximum.at(peak, labels.ravel(), values.ravel())
    return np.where(labels > 0, values / peak[labels], 0.0)


def _crowding(labels: NDArray[np.int32], radius: int = 3, weight: float = 4.0) -> NDArray[np.float32]:
    """Weight pixels that have two different objects within `radius`."""
    box = np.ones((2 * radius + 1,) * 2, np.uint8)
    values = labels.astype(np.float32)
    highest = cv2.dilate(values, box)
    lowest = cv2.erode(np.where(labels > 0, values, np.float32(np.inf)), box)
    between = (highest > 0) & np.isfinite(lowest) & (highest != lowest)
    return np.where(between, np.float32(weight), np.float32(1.0))
