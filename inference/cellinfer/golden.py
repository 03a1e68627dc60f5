"""A made-up field that every installation can compute exactly, and what a model must find in it.

Floating-point output differs in its last bits between processors, so a model's card keeps the number of objects and
the foreground area instead of a digest of the output; the input is compared by digest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellinfer.segmentation import segment_image
from cellinfer.sessions import Session

FOREGROUND_TOLERANCE = 0.01
"""Share by which the foreground area may differ between processors."""


def golden_image() -> NDArray[np.uint16]:
    """Return a 256 x 320 uint16 field of 20 disks of different size and brightness, integers throughout."""
    rows, columns = np.mgrid[0:256, 0:320]
    image = 200 + (rows * 7919 + columns * 104729) % 23  # a fixed pattern in place of noise
    for number in range(20):
        row, column = 32 + 64 * (number // 5), 32 + 64 * (number % 5)
        radius = 10 + number % 5 * 2
        square = (rows - row) ** 2 + (columns - column) ** 2
        image += np.where(square <= radius**2, (600 + 90 * number) * (2 * radius**2 - square) // (2 * radius**2), 0)
    return np.ascontiguousarray(image, dtype=np.uint16)


def golden_labels(session: Session) -> NDArray[np.int32]:
    """Return what a model finds in the golden image."""
    return segment_image(golden_image(), session, diameter=28.0).labels
