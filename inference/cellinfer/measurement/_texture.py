"""Texture: Haralick features, as CellProfiler's MeasureTexture.

Intensities become grey levels by one rule for all images, value / full scale x 255 rounded, never by an image's own
range. Pixels of level 0 are in no pair. An object without a pair in one of the four directions has NaN at that scale.
"""

from __future__ import annotations

from functools import cache

from cellinfer_kernels.texture import DIRECTIONS, FEATURES, grey_levels, haralick

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Family, Feature, Features, Signal, Values

_ANGLES = ("right", "down right", "down", "down left")
_DEFINITIONS = {
    "AngularSecondMoment": ("1", "Sum of the squared probabilities of all pairs of grey levels: 1 for even texture"),
    "Contrast": ("1", "Mean squared difference of grey levels"),
    "Correlation": ("1", "Correlation of the grey levels of pairs; 1 where all are equal"),
    "Variance": ("1", "Variance of grey levels over pairs"),
    "InverseDifferenceMoment": ("1", "Mean of 1 / (1 + squared difference of grey levels)"),
    "SumAverage": ("1", "Mean sum of grey levels"),
    "SumVariance": ("1", "Variance of the sum of grey levels"),
    "SumEntropy": ("bits", "Entropy of the sum of grey levels"),
    "Entropy": ("bits", "Entropy of the pairs of grey levels"),
    "DifferenceVariance": (
        "1",
        "Variance of the probabilities of all differences from 0 to the object's largest level",
    ),
    "DifferenceEntropy": ("bits", "Entropy of the difference of grey levels"),
    "InfoMeas1": ("1", "(Entropy - 2 HX) / HX with the entropy HX of one pixel's level; 0 where all are equal"),
    "InfoMeas2": ("1", "Square root of 1 - exp(-2 (2 HX - Entropy)), at least 0"),
}


def _suffix(options: Options, scale: int, direction: int) -> str:
    return f"{scale}_{direction:02d}_{options.texture_levels}"


@cache
def _features(options: Options) -> Features:
    return tuple(
        Feature(
            f"Texture_{name}",
            _DEFINITIONS[name][0],
            f"{_DEFINITIONS[name][1]}; pairs {scale} px apart, {_ANGLES[direction]}, {options.texture_levels} levels.",
            _suffix(options, scale, direction),
        )
        for scale in options.texture_scales
        for direction in range(len(DIRECTIONS))
        for name in FEATURES
    )


def _compute(signal: Signal) -> Values:
    options = signal.objects.options
    greys = grey_levels(signal.values, signal.plane.full_scale, options.texture_levels)
    found = haralick(signal.objects.groups, greys, options.texture_scales)
    return {
        f"Texture_{name}_{_suffix(options, scale, direction)}": found[s, direction, f]
        for s, scale in enumerate(options.texture_scales)
        for direction in range(len(DIRECTIONS))
        for f, name in enumerate(FEATURES)
    }


FAMILY = Family(
    "Texture",
    source="CellProfiler MeasureTexture; Haralick et al. 1973",
    oracle="cp-measure get_texture, mahotas haralick",
    tolerance=1e-6,
    channel_features=_features,
    compute_channel=_compute,
)
