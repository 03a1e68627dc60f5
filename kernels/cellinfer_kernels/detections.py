"""Objects as boxes with scores and small masks: which of them stay, and where they lie in the image.

Boxes are `(top, left, bottom, right)` in pixels; the pixel in row `r` covers `r` to `r + 1`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel

__all__ = ["nms", "paste"]


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float) -> NDArray[np.int64]:
    """Drop every box that overlaps a better one too much (greedy non-maximum suppression).

    Parameters
    ----------
    boxes
        `(K, 4)`, any real dtype. A box without area overlaps nothing.
    scores
        `(K,)`; the higher, the better. Of equal ones the first is the better.
    overlap
        Largest intersection over union that two boxes that stay may have.

    Returns
    -------
    ndarray of int64
        Indices of the boxes that stay, best first.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: NDArray[np.int64] = order[_greedy(np.asarray(boxes, np.float64)[order], float(overlap))]
    return kept


@kernel
def _greedy(boxes: Any, overlap: Any) -> Any:
    """Say of each box, best first, whether it stays."""
    count = len(boxes)
    stays = np.ones(count, np.bool_)
    for i in range(count):
        if not stays[i]:
            continue
        top, left, bottom, right = boxes[i]
        area = (bottom - top) * (right - left)
        for j in range(i + 1, count):
            height = min(bottom, boxes[j, 2]) - max(top, boxes[j, 0])
            width = min(right, boxes[j, 3]) - max(left, boxes[j, 1])
            if height <= 0 or width <= 0:
                continue
            shared = height * width
            other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            if shared > overlap * (area + other - shared):
                stays[j] = False
    return stays


def paste(
    masks: NDArray[np.floating],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    shape: tuple[int, int],
    threshold: float = 0.5,
) -> NDArray[np.int32]:
    """Draw every object into one label image at the image's own resolution.

    A mask is stretched over its box by bilinear interpolation, as `cv2.resize` does, and cut off at a threshold. A
    pixel claimed by several objects goes to the one with the highest score, of equal ones to the first.

    Parameters
    ----------
    masks
        `(K, h, w)`, probabilities, h and w at least 1.
    boxes
        `(K, 4)`; parts outside the image are left out.
    scores
        `(K,)`.
    shape
        `(H, W)` of the image.
    threshold
        A pixel belongs to an object where its mask exceeds this.

    Returns
    -------
    ndarray of int32
        `(H, W)`, 0 is background, `k + 1` is object `k`. A number is missing where an object covers no pixel.
    """
    labels = np.zeros(shape, np.int32)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    _paste(np.ascontiguousarray(masks, np.float32), np.asarray(boxes, np.float64), order, float(threshold), labels)
    return labels


@kernel
def _paste(masks: Any, boxes: Any, order: Any, threshold: Any, labels: Any) -> Any:
    height, width = labels.shape
    tall, wide = masks.shape[1:]
    for k in order:
        top, left, bottom, right = boxes[k]
        if not (bottom > top and right > left):
            continue
        # Pixels whose centre lies inside the box.
        for row in range(max(0, int(np.ceil(top - 0.5))), min(height, int(np.ceil(bottom - 0.5)))):
            above, down = _between((row + 0.5 - top) / (bottom - top) * tall - 0.5, tall)
            below = min(above + 1, tall - 1)
            for column in range(max(0, int(np.ceil(left - 0.5))), min(width, int(np.ceil(right - 0.5)))):
                if labels[row, column] != 0:
                    continue
                before, across = _between((column + 0.5 - left) / (right - left) * wide - 0.5, wide)
                after = min(before + 1, wide - 1)
                upper = masks[k, above, before] * (1 - across) + masks[k, above, after] * across
                lower = masks[k, below, before] * (1 - across) + masks[k, below, after] * across
                if upper * (1 - down) + lower * down > threshold:
                    labels[row, column] = k + 1


@inlined
def _between(position: Any, count: Any) -> Any:
    """Return the sample at or before a position, held inside, and how far the position is beyond it."""
    held = min(max(position, 0.0), count - 1.0)
    first = int(held)
    return first, held - first
