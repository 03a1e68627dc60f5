"""Location: where objects are, and where in them each channel is; pixels from 0, y downwards, as CellProfiler."""

from __future__ import annotations

from cellinfer.measurement._registry import Family, Feature, Subject, Values

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


def _compute(subject: Subject) -> Values:
    centre = subject.shapes.centre
    return {"Location_Center_X": centre[:, 1], "Location_Center_Y": centre[:, 0]}


def _compute_channel(subject: Subject, channel: str) -> Values:
    raw = subject.intensities(channel)
    return {
        "Location_CenterMassIntensity_X": raw.mass_x,
        "Location_CenterMassIntensity_Y": raw.mass_y,
        "Location_MaxIntensity_X": raw.peak_x,
        "Location_MaxIntensity_Y": raw.peak_y,
    }


FAMILY = Family("Location", _FEATURES, _CHANNEL_FEATURES, _compute, _compute_channel)
