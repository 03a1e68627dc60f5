"""What a field's planes are like: level, background, saturation, focus, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.cells import background_level

SATURATED = 0.01
"""Share of pixels at the plane's largest value above which it is called saturated: a detector need not use all bits."""


def image_quality(images: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Describe the planes of a field.

    Parameters
    ----------
    images
        Channel name -> `(H, W)` plane. Pixels that are not finite are left out of every figure.

    Returns
    -------
    row : dict
        Columns per channel, in the units of the image: `Image_Intensity_MeanIntensity_`, `..._MedianIntensity_`,
        `..._Background_` (see `cells.background_level`),
        `Image_ImageQuality_PercentMaximal_` (share of pixels at the plane's largest value, %) and
        `Image_ImageQuality_FocusScore_` (variance over mean, as in CellProfiler); then `Image_QC_Flags`.
    flags : tuple of str
        What is wrong, in words.
    """
    row: dict[str, Any] = {}
    flags: list[str] = []
    for name, image in images.items():
        finite = image if image.dtype.kind != "f" else image[np.isfinite(image)]
        if finite.size < image.size:
            flags.append(f"{name}: {image.size - finite.size} pixels are not finite")
        row |= _describe(name, finite, background_level(image))
        if finite.size and finite.min() == finite.max():
            flags.append(f"{name}: constant at {finite.flat[0]}")
        elif row[f"Image_ImageQuality_PercentMaximal_{name}"] > 100 * SATURATED:
            flags.append(f"{name}: {row[f'Image_ImageQuality_PercentMaximal_{name}']:.1f} % of pixels are saturated")
    row["Image_QC_Flags"] = "; ".join(flags)
    return row, tuple(flags)


def _describe(name: str, finite: NDArray[Any], background: float) -> dict[str, float]:
    values = {"mean": np.nan, "median": np.nan, "maximal": np.nan, "focus": np.nan}
    if finite.size:
        mean = float(finite.mean(dtype=np.float64))
        values["mean"], values["median"] = mean, float(np.median(finite))
        values["maximal"] = 100.0 * float((finite == finite.max()).mean())
        if mean > 0:
            values["focus"] = float(finite.var(dtype=np.float64)) / mean
    return {
        f"Image_Intensity_MeanIntensity_{name}": values["mean"],
        f"Image_Intensity_MedianIntensity_{name}": values["median"],
        f"Image_Intensity_Background_{name}": float(background),
        f"Image_ImageQuality_PercentMaximal_{name}": values["maximal"],
        f"Image_ImageQuality_FocusScore_{name}": values["focus"],
    }
