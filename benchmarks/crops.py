"""Cut 16 cells out of 5 channels of a field, 128 pixels to 224: cellinfer, a loop of NumPy and OpenCV, torch.

Sixteen, since a network takes no more at a time and larger results would measure the system's memory.

All contestants give the same crops: scaled to -1 .. 1 by their own least and greatest pixel.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from _peers import alternate, report
from cellinfer_kernels.crops import crops
from numpy.typing import NDArray

HEIGHT, WIDTH, CHANNELS, CELLS, BOX, SIDE, ROUNDS = 1080, 1080, 5, 16, 128, 224, 51
OURS = "cellinfer"


def with_opencv(planes: list[NDArray[np.uint16]], centres: NDArray[np.float64]) -> NDArray[np.float32]:
    """Slice, scale and resize one square after the other."""
    result = np.empty((len(centres), len(planes), SIDE, SIDE), np.float32)
    for cell, (row, column) in enumerate(np.floor(centres + 0.5).astype(int) - BOX // 2):
        for channel, plane in enumerate(planes):
            square = plane[row : row + BOX, column : column + BOX].astype(np.float32)
            low, high = square.min(), square.max()
            scaled = 2 * (square - low) / (high - low) - 1
            result[cell, channel] = cv2.resize(scaled, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return result


def with_torch(planes: list[NDArray[np.uint16]], centres: NDArray[np.float64]) -> NDArray[np.float32]:
    """One batch of all squares; torch resizes them together."""
    corners = np.floor(centres + 0.5).astype(int) - BOX // 2
    stack = np.stack(planes)
    squares = torch.from_numpy(
        np.stack([stack[:, row : row + BOX, column : column + BOX] for row, column in corners]).astype(np.float32)
    )
    low, high = squares.amin((2, 3), keepdim=True), squares.amax((2, 3), keepdim=True)
    scaled = 2 * (squares - low) / (high - low) - 1
    resized: NDArray[np.float32] = torch.nn.functional.interpolate(scaled, (SIDE, SIDE), mode="bilinear").numpy()
    return resized


def check(answers: dict[str, Any]) -> None:
    """Refuse to compare times of different answers."""
    for answer in answers.values():
        np.testing.assert_allclose(answer, answers[OURS], atol=1e-4)  # torch computes places in float32


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    planes = [random.integers(100, 4000, (HEIGHT, WIDTH)).astype(np.uint16) for _ in range(CHANNELS)]
    centres = random.uniform(BOX // 2, HEIGHT - BOX // 2 - 1, (CELLS, 2))  # a loop must not care for edges
    contestants = {
        OURS: lambda: crops(planes, centres, BOX, SIDE, value_range=(-1, 1)),
        "NumPy and OpenCV, cell by cell": lambda: with_opencv(planes, centres),
        "torch, all at once": lambda: with_torch(planes, centres),
    }
    seconds, answers = alternate(contestants, ROUNDS)
    check(answers)
    report(
        "crops",
        f"{CELLS} cells of {CHANNELS} channels, {BOX} to {SIDE} pixels, one thread",
        OURS,
        seconds,
        ("cellinfer", "numpy", "numba", "opencv-python-headless", "torch"),
    )


if __name__ == "__main__":
    main()
