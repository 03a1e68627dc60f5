"""Summaries: what stands for the pixels of a cell, and for the cells of a well."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels._order import median
from cellinfer_kernels.components import as_labels

__all__ = ["means", "medians"]


def means(labels: NDArray[Any], image: NDArray[Any], last: int) -> NDArray[np.float64]:
    """Return the mean of an image within each object.

    Parameters
    ----------
    labels
        `(H, W)` label image; ids above `last` are left out.
    image
        `(H, W)` real array; pixels that are not finite do not count.
    last
        Largest id to be looked at.

    Returns
    -------
    ndarray of shape (last + 1,), float64
        By id; NaN at 0, the background, and for ids without a pixel.

    Raises
    ------
    ValueError
        If shapes differ, or the labels are no label image.
    """
    ids = as_labels(labels)
    pixels = np.ascontiguousarray(image)
    if pixels.shape != ids.shape:
        raise ValueError(f"image of shape {pixels.shape} does not fit labels of shape {ids.shape}")
    if pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8)
    return _means(ids.ravel(), pixels.ravel(), int(last))  # type: ignore[no-any-return]


@kernel
def _means(ids: Any, pixels: Any, last: Any) -> Any:
    sums = np.zeros(last + 1, np.float64)
    counts = np.zeros(last + 1, np.int64)
    for i in range(ids.size):
        name = ids[i]
        if 0 < name <= last:
            value = np.float64(pixels[i])
            if np.isfinite(value):
                sums[name] += value
                counts[name] += 1
    for name in range(last + 1):
        sums[name] = sums[name] / counts[name] if counts[name] else np.nan
    return sums


def medians(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the median of each row, over its finite values.

    Parameters
    ----------
    values
        `(F, n)` real array: a row per feature, a column per cell.

    Returns
    -------
    ndarray of shape (F,), float64
        Of an even number of values the mean of the middle two; NaN where no value is finite.

    Raises
    ------
    ValueError
        If the array is not 2-D.
    """
    rows = np.asarray(values)
    if rows.ndim != 2:
        raise ValueError(f"medians are taken of the rows of a 2-D array, not of one of shape {rows.shape}")
    return _medians(np.ascontiguousarray(rows, np.float64))  # type: ignore[no-any-return]


@kernel
def _medians(values: Any) -> Any:
    features, cells = values.shape
    result = np.full(features, np.nan)
    finite, scratch = np.empty(cells), np.empty(max(2 * cells, 64))
    for row in range(features):
        count = 0
        for cell in range(cells):
            value = values[row, cell]
            if np.isfinite(value):
                finite[count] = value
                count += 1
        if count:
            result[row] = median(finite, count, scratch)
    return result
