"""Granularity: how much of an object's signal is in structures of each size, as CellProfiler's MeasureGranularity.

The image, not the object, is opened step by step (background removed, erosion and reconstruction), so neighbours and
background near an object have their say. Pixels that are not finite count as 0.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from cellinfer_kernels.granularity import granularity

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Family, Feature, Features, Signal, Values


@cache
def _features(options: Options) -> Features:
    return tuple(
        Feature(
            f"Granularity_{step}",
            "%",
            f"Share of the mean that goes with the {step}. layer of all bright structures, of the image subsampled to "
            f"{options.granularity_subsample:g}; the first one includes the background. Pixels that are not finite "
            "count as 0. NaN without a positive mean, and in an image of fewer than two such samples along an axis.",
        )
        for step in range(1, options.granularity_steps + 1)
    )


def _compute(signal: Signal) -> Values:
    spectrum = signal.plane.spectrum
    mean = signal.intensities.mean
    found = granularity(signal.objects.weights, spectrum, mean)
    found[:, ~(mean > 0)] = np.nan  # nothing that a share could be of
    return {f"Granularity_{step + 1}": column for step, column in enumerate(found)}


FAMILY = Family(
    "Granularity",
    source="CellProfiler MeasureGranularity; Ravkin and Temov 1988",
    oracle="cp-measure get_granularity",
    tolerance=1e-6,
    channel_features=_features,
    compute_channel=_compute,
)
