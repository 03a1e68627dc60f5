"""Location: where objects are, and where in them each channel is; pixels from 0, y downwards, as CellProfiler."""

from __future__ import annotations

from cellinfer.measurement._registry import Family, Feature, Objects, Signal, Values

_FEATURES = (
    Feature("Location_Center_X", "px", "Mean column of the pixels."),
    Feature("Location_Center_Y", "px", "Mean row of the pixels."),
)
_CHANNEL_FEATURES = (
    Feature("Location_CenterMassIntensity_X", "px", "Intensity-weighted mean column; NaN where the sum is 0."),
    Feature("Location_CenterMassIntensity_Y", "px", "Intensity-weighted mean row; NaN where the sum is 0."),
    Feature("Location_MaxIntensity_X", "px", "Column of the brightest pixel, the first in raster order of several."),
    Feature("Location_MaxIntensity_Y", "px", "Row of the brightest pixel, the first in raster order of several."),
)


def _compute(objects: Objects) -> Values:
    centre = objects.moments.centre
    return {"Location_Center_X": centre[:, 1], "Location_Center_Y": centre[:, 0]}


def _compute_channel(signal: Signal) -> Values:
    raw = signal.intensities
    return {
        "Location_CenterMassIntensity_X": raw.mass_x,
        "Location_CenterMassIntensity_Y": raw.mass_y,
        "Location_MaxIntensity_X": raw.peak_x,
        "Location_MaxIntensity_Y": raw.peak_y,
    }


FAMILY = Family(
    "Location",
    source="CellProfiler MeasureObjectIntensity and Identify modules",
    oracle="cp-measure get_intensity, scikit-image regionprops",
    tolerance=1e-6,
    features=lambda options: _FEATURES,
    channel_features=lambda options: _CHANNEL_FEATURES,
    compute=_compute,
    compute_channel=_compute_channel,
)
