"""Plain twin of `cellinfer_kernels.summary`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def means(labels: NDArray[Any], image: NDArray[Any], last: int) -> NDArray[np.float64]:
    """Return the mean of an image's finite pixels within each object, by id; NaN where there is none."""
    result = np.full(last + 1, np.nan)
    for name in range(1, last + 1):
        pixels = np.asarray(image, np.float64)[np.asarray(labels) == name]
        pixels = pixels[np.isfinite(pixels)]
        if pixels.size:
            result[name] = pixels.mean()
    return result


def medians(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the median of each row, over its finite values; NaN where there is none."""
    rows = np.asarray(values, np.float64)
    return np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in rows])
