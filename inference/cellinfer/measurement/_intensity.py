"""Intensity: how bright objects are, as CellProfiler's MeasureObjectIntensity.

In the image's own units: CellProfiler divides by the largest value of the pixel type first, which changes these values
by that factor and no ratio between them. Pixels that are NaN or infinite do not count; an object (or outline) without
any finite pixel has NaN everywhere. Quartiles are those of `numpy.percentile`; `Options.quartiles` gives CellProfiler's
own, which are taken a fraction of a rank higher.
"""

from __future__ import annotations

from functools import cache

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Family, Feature, Features, Signal, Values

_STATISTICS = (
    ("IntegratedIntensity", "total", "Sum over the pixels."),
    ("LowerQuartileIntensity", "lower_quartile", "25th percentile of the pixels."),
    ("MADIntensity", "mad", "Median absolute deviation from the median, not scaled."),
    ("MaxIntensity", "maximum", "Brightest pixel."),
    ("MeanIntensity", "mean", "Mean over the pixels."),
    ("MedianIntensity", "median", "Median of the pixels."),
    ("MinIntensity", "minimum", "Darkest pixel."),
    ("StdIntensity", "std", "Population standard deviation of the pixels; 0 for one pixel."),
    ("UpperQuartileIntensity", "upper_quartile", "75th percentile of the pixels."),
    (
        "IntegratedIntensityEdge",
        "edge_total",
        "Sum over the outline: pixels next to another object or background, which the image border is not.",
    ),
    ("MaxIntensityEdge", "edge_maximum", "Brightest pixel of the outline; NaN without one."),
    ("MeanIntensityEdge", "edge_mean", "Mean over the outline; NaN without one."),
    ("MinIntensityEdge", "edge_minimum", "Darkest pixel of the outline; NaN without one."),
    ("StdIntensityEdge", "edge_std", "Population standard deviation of the outline; NaN without one."),
)
_DISPLACEMENT = Feature(
    "Intensity_MassDisplacement",
    "px",
    "Distance between the centroid and the intensity-weighted centroid; NaN where the sum is 0.",
)


@cache
def _features(options: Options) -> Features:
    return (
        *(Feature(f"Intensity_{name}", "intensity", definition) for name, _, definition in _STATISTICS),
        _DISPLACEMENT,
    )


def _compute(signal: Signal) -> Values:
    raw = signal.intensities
    values = {f"Intensity_{name}": getattr(raw, field) for name, field, _ in _STATISTICS}
    return values | {_DISPLACEMENT.name: raw.displacement}


FAMILY = Family(
    "Intensity",
    source="CellProfiler MeasureObjectIntensity",
    oracle="cp-measure get_intensity, scikit-image regionprops",
    tolerance=1e-6,
    channel_features=_features,
    compute_channel=_compute,
)
