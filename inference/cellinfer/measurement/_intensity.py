"""Intensity: how bright objects are, as CellProfiler's MeasureObjectIntensity.

In the image's own units: CellProfiler divides by the largest value of the pixel type first, which changes these values
by that factor and no ratio between them. Pixels that are NaN or infinite do not count; an object (or outline) without
any finite pixel has NaN everywhere. Quartiles are those of `numpy.percentile`; CellProfiler's own are half a rank
higher, which cp-measure corrects too.
"""

from __future__ import annotations

from cellinfer.measurement._registry import Family, Feature, Subject, Values

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
    ("IntegratedIntensityEdge", "edge_total", "Sum over the outline: pixels next to another object or background."),
    ("MaxIntensityEdge", "edge_maximum", "Brightest pixel of the outline."),
    ("MeanIntensityEdge", "edge_mean", "Mean over the outline."),
    ("MinIntensityEdge", "edge_minimum", "Darkest pixel of the outline."),
    ("StdIntensityEdge", "edge_std", "Population standard deviation of the outline."),
)
_DISPLACEMENT = Feature(
    "Intensity_MassDisplacement",
    "px",
    "Distance between the centroid and the intensity-weighted centroid; NaN where the sum is 0.",
)


def _compute(subject: Subject, channel: str) -> Values:
    raw = subject.intensities(channel)
    values = {f"Intensity_{name}": getattr(raw, field) for name, field, _ in _STATISTICS}
    return values | {_DISPLACEMENT.name: raw.displacement}


FAMILY = Family(
    "Intensity",
    channel_features=(
        *(Feature(f"Intensity_{name}", "intensity", definition) for name, _, definition in _STATISTICS),
        _DISPLACEMENT,
    ),
    compute_channel=_compute,
)
