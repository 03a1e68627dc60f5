"""Plain twin of `cellinfer_kernels.summary`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def medians(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the median of each row, over its finite values; NaN where there is none."""
    rows = np.asarray(values, np.float64)
    return np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in rows])
