"""NumPy twin of `cellinfer_kernels.normalise`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def percentiles(image: NDArray[Any], q: float | Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """`numpy.percentile` of the finite pixels."""
    values = np.asarray(image, dtype=np.float64)
    values = values[np.isfinite(values)]
    asked = np.atleast_1d(q)
    return np.percentile(values, asked) if values.size else np.full(asked.shape, np.nan)


def rescale(image: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Subtract, divide, and blank what is not finite."""
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        return np.zeros(np.shape(image), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((np.asarray(image, dtype=np.float64) - low) / (high - low)).astype(np.float32)
    return np.where(np.isfinite(scaled), scaled, np.float32(0))
