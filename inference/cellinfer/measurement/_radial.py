"""RadialDistribution: how a channel is spread over an object, as CellProfiler's MeasureObjectIntensityDistribution.

Pixels that the centre cannot reach within the object are in no ring. Pixels that are not finite do not count. The image
border is no edge: an object cut by it goes on for all we know; one that fills the image has nothing but that border.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from cellinfer_kernels.radial import spread
from cellinfer_kernels.zernike import orders, weighted_zernikes

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Column, Family, Feature, Features, Signal, Values

_STATISTICS = (
    ("FracAtD", "fraction", "Share of the object's intensity in {ring}; NaN where that is 0."),
    ("MeanFrac", "mean_fraction", "That share over the share of pixels in {ring}; NaN where the intensity is 0."),
    (
        "RadialCV",
        "variation",
        "Coefficient of variation of the mean intensity of eight wedges of {ring}; 0: empty or dark.",
    ),
)
_MAGNITUDE = "Magnitude of the channel's Zernike moment of degree {n}, order {m}, over the number of pixels."
_PHASE = (
    "Arctangent of its real over its imaginary part, in this order as in CellProfiler; the azimuth runs from y to x. A "
    "part that is 0 but for rounding is 0."
)


def _rings(options: Options) -> list[tuple[int, str, str]]:
    """Index, suffix and description of the rings that have columns."""
    bins = options.radial_bins
    rings = [(ring, f"{ring + 1}of{bins}", f"ring {ring + 1} of {bins}") for ring in range(bins)]
    return rings if options.radial_radius is None else [*rings, (bins, "Overflow", "what lies beyond the last ring")]


@cache
def _features(options: Options) -> Features:
    rings = (
        Feature(f"RadialDistribution_{name}", "1", definition.format(ring=ring), suffix)
        for _, suffix, ring in _rings(options)
        for name, _, definition in _STATISTICS
    )
    zernikes = (
        Feature(
            f"RadialDistribution_Zernike{name}",
            unit,
            f"{definition.format(n=n, m=m)} The unit disk is the smallest circle around the object; NaN for one pixel.",
            f"{n}_{m}",
            oracle="cp-measure get_radial_zernikes",
        )
        for n, m in orders(options.zernike_degree)
        for name, unit, definition in (("Magnitude", "intensity", _MAGNITUDE), ("Phase", "radians", _PHASE))
    )
    return (*rings, *zernikes)


def _compute(signal: Signal) -> Values:
    options = signal.objects.options
    groups = signal.objects.groups
    found = spread(groups.begins, signal.objects.rings, signal.values)
    values: dict[str, Column] = {
        f"RadialDistribution_{name}_{suffix}": getattr(found, field)[ring]
        for ring, suffix, _ in _rings(options)
        for name, field, _ in _STATISTICS
    }
    moments = weighted_zernikes(groups, signal.objects.hulls.circles, signal.values, options.zernike_degree)
    moments[signal.finite == 0] = np.nan
    magnitude = np.abs(moments) / np.maximum(signal.finite, 1)[:, None]
    phase = np.arctan2(moments.real, moments.imag)
    for index, (n, m) in enumerate(orders(options.zernike_degree)):
        values[f"RadialDistribution_ZernikeMagnitude_{n}_{m}"] = magnitude[:, index]
        values[f"RadialDistribution_ZernikePhase_{n}_{m}"] = phase[:, index]
    return values


FAMILY = Family(
    "RadialDistribution",
    source="CellProfiler MeasureObjectIntensityDistribution",
    oracle="cp-measure get_radial_distribution",
    tolerance=1e-6,
    channel_features=_features,
    compute_channel=_compute,
)
