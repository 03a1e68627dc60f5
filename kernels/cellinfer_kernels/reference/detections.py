"""NumPy twin of `cellinfer_kernels.detections`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], overlap: float) -> NDArray[np.int64]:
    """Take the best box, drop what overlaps it, and so on."""
    boxes = np.asarray(boxes, np.float64)
    left = list(np.argsort(-np.asarray(scores, np.float64), kind="stable"))
    kept = []
    while left:
        best, *others = left
        kept.append(best)
        left = [k for k in others if not _overlaps(boxes[best], boxes[k], overlap)]
    return np.array(kept, np.int64)


def paste(
    masks: NDArray[np.floating],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    shape: tuple[int, int],
    threshold: float = 0.5,
) -> NDArray[np.int32]:
    """Sample every mask at the pixel centres inside its box; worst first, so that better ones cover it."""
    labels = np.zeros(shape, np.int32)
    masks, boxes = np.asarray(masks, np.float64), np.asarray(boxes, np.float64)
    for k in np.argsort(-np.asarray(scores, np.float64), kind="stable")[::-1]:
        top, left, bottom, right = boxes[k]
        rows, columns = (np.arange(length) + 0.5 for length in shape)
        rows, columns = rows[(rows >= top) & (rows < bottom)], columns[(columns >= left) & (columns < right)]
        if not rows.size or not columns.size:
            continue
        down = _weights((rows - top) / (bottom - top), masks.shape[1])
        across = _weights((columns - left) / (right - left), masks.shape[2])
        inside = down @ masks[k] @ across.T > threshold
        place = np.ix_((rows - 0.5).astype(int), (columns - 0.5).astype(int))
        labels[place] = np.where(inside, k + 1, labels[place])
    return labels


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64], overlap: float) -> bool:
    height, width = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if height <= 0 or width <= 0:
        return False
    shared = height * width
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return bool(shared > overlap * (areas - shared))


def _weights(share: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the `(points, count)` weights of linear interpolation between samples, constant beyond the outer ones."""
    away = np.abs(np.clip(share * count - 0.5, 0, count - 1)[:, None] - np.arange(count))
    return np.asarray(np.maximum(0, 1 - away))
