"""NumPy twin of `cellinfer_kernels.medians`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def median_disk(image: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """Take `numpy.median` of every window, its corners cut off."""
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = rows**2 + columns**2 <= radius**2
    padded = np.pad(np.asarray(image, np.float64), radius, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, disk.shape)
    result: NDArray[np.float64] = np.median(windows[:, :, disk], axis=2)
    return result
