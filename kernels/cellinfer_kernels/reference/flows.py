"""NumPy twin of `cellinfer_kernels.flows`: whole images, one object after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def heat_flows(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Heat the whole image, keeping everything but the object cold."""
    result = np.zeros((2, *labels.shape), np.float32)
    for name in np.unique(labels[labels > 0]):
        inside = np.pad(labels == name, 1)
        rows, columns = np.nonzero(inside)
        nearest = np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2)
        heat = np.zeros(inside.shape)
        for _ in range(2 * int(np.ptp(rows) + np.ptp(columns))):
            heat[rows[nearest], columns[nearest]] += 1
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(heat, 1), (3, 3))
            heat = np.where(inside, windows.sum(axis=(2, 3)) / 9, 0)
        heat = np.log1p(heat)
        down = heat[rows + 1, columns] - heat[rows - 1, columns]
        right = heat[rows, columns + 1] - heat[rows, columns - 1]
        length = np.maximum(np.hypot(down, right), 1e-20)
        result[:, rows - 1, columns - 1] = down / length, right / length
    return result


def follow(flows: NDArray[Any], mask: NDArray[Any], steps: int = 200) -> NDArray[np.float32]:
    """Move all pixels at once."""
    field = np.where(mask, flows, 0).astype(np.float32)
    limit = np.array(mask.shape)[:, None] - 1
    position = np.array(np.nonzero(mask), np.float32)
    for _ in range(steps):
        y0, x0 = position.astype(int)
        y1, x1 = np.minimum(position.astype(int) + 1, limit)
        v, u = position - position.astype(int).astype(np.float32)
        move = (
            (1 - v) * (1 - u) * field[:, y0, x0]
            + (1 - v) * u * field[:, y0, x1]
            + v * (1 - u) * field[:, y1, x0]
            + v * u * field[:, y1, x1]
        )
        position = np.clip(position + move, 0, limit).astype(np.float32)
    return np.ascontiguousarray(position.T)
