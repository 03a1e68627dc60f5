"""The classical baseline, untuned: Otsu's threshold and a watershed of the distance to the background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import watershed

_SMALLEST, _APART = 16, 5


def segment(image: NDArray[Any]) -> NDArray[np.int32]:
    """Find bright objects in a grey image, dark ones in a colour image.

    Parameters
    ----------
    image
        `(H, W)`, or `(H, W, 3)` whose mean over channels is inverted.

    Returns
    -------
    ndarray
        `(H, W)` int32, 0 is background.
    """
    grey = np.asarray(image, np.float64)
    if grey.ndim == 3:
        grey = -grey.mean(axis=-1)
    if np.ptp(grey) == 0:
        return np.zeros(grey.shape, np.int32)
    smooth = gaussian_filter(grey, 1.0)
    parts = label(smooth > threshold_otsu(smooth))
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    inside = areas[parts] >= _SMALLEST
    distance = gaussian_filter(distance_transform_edt(inside), 1.0)
    peaks = peak_local_max(distance, min_distance=_APART, labels=parts * inside, exclude_border=False)
    seeds = np.zeros(grey.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, seeds, mask=inside), np.int32)
