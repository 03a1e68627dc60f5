"""Correlation: how two channels go together within an object, as CellProfiler's MeasureColocalization.

Pixels that are not finite in either channel do not count.
"""

from __future__ import annotations

from functools import cache

from cellinfer_kernels.colocalization import colocalization

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Family, Feature, Features, Signal, Values

_LIT = "lit means at least {threshold:g} % of the object's largest value in that channel"
_COSTES = "as Manders, with the thresholds that Costes' bisection finds instead of lit; NaN where it finds none."
_FEATURES = (
    ("Correlation", "correlation", False, "Pearson's correlation of the two channels; NaN where one is constant."),
    (
        "Slope",
        "slope",
        False,
        "Slope of the least-squares line of the second channel on the first; NaN where the first is constant.",
    ),
    (
        "Overlap",
        "overlap",
        False,
        "Sum of products over the root of both sums of squares' product, where both are lit; " + _LIT + ". NaN where a "
        "channel is 0 throughout.",
    ),
    (
        "K",
        "k_first",
        False,
        "Sum of products over the first channel's sum of squares, where both are lit; NaN as above.",
    ),
    (
        "K",
        "k_second",
        True,
        "Sum of products over the second channel's sum of squares, where both are lit; NaN as above.",
    ),
    ("Manders", "manders_first", False, "Share of the first channel's lit intensity where both are; " + _LIT + "."),
    (
        "Manders",
        "manders_second",
        True,
        "Share of the second channel's lit intensity where both are; " + _LIT + ".",
    ),
    ("RWC", "rwc_first", False, "Manders of the first channel, pixels weighted by how alike their ranks are."),
    ("RWC", "rwc_second", True, "Manders of the second channel, pixels weighted by how alike their ranks are."),
    ("Costes", "costes_first", False, "First channel " + _COSTES),
    ("Costes", "costes_second", True, "Second channel " + _COSTES),
)


@cache
def _features(options: Options) -> Features:
    return tuple(
        Feature(f"Correlation_{name}", "1", definition, swapped=swapped, tolerance=1e-3 if name == "Costes" else 0.0)
        for name, _, swapped, definition in _FEATURES
    )


def _compute(first: Signal, second: Signal) -> Values:
    options = first.objects.options
    scales = (first.plane.full_scale, second.plane.full_scale)
    steps = max(scales) if max(scales) >= 255 else 65535  # Costes' grid: one step per grey value
    found = colocalization(
        first.objects.groups.begins,
        first.values,
        second.values,
        first.ranks,
        second.ranks,
        largest=scales,
        steps=int(min(steps, 2**32 - 1)),
        threshold=options.correlation_threshold,
    )
    columns = (getattr(found, field) for _, field, _, _ in _FEATURES)
    return {feature.key: column for feature, column in zip(_features(options), columns, strict=True)}


FAMILY = Family(
    "Correlation",
    source="CellProfiler MeasureColocalization; Costes et al. 2004, Singan et al. 2011",
    oracle="cp-measure get_correlation_*",
    tolerance=1e-6,
    pair_features=_features,
    compute_pair=_compute,
)
