"""AreaShape: size and form, as CellProfiler's MeasureObjectSizeShape."""

from __future__ import annotations

import numpy as np
from cellinfer_kernels.shape import Shapes
from numpy.typing import NDArray

from cellinfer.measurement._registry import Family, Feature, Subject, Values

_FEATURES = (
    Feature("AreaShape_Area", "px²", "Number of pixels."),
    Feature("AreaShape_BoundingBoxArea", "px²", "Area of the upright box around the object."),
    Feature("AreaShape_BoundingBoxMaximum_X", "px", "Column after the last one."),
    Feature("AreaShape_BoundingBoxMaximum_Y", "px", "Row after the last one."),
    Feature("AreaShape_BoundingBoxMinimum_X", "px", "First column, counted from 0."),
    Feature("AreaShape_BoundingBoxMinimum_Y", "px", "First row, counted from 0."),
    Feature("AreaShape_Center_X", "px", "Mean column of the pixels."),
    Feature("AreaShape_Center_Y", "px", "Mean row of the pixels."),
    Feature("AreaShape_Compactness", "1", "Perimeter² / (4 π Area): 1 for a disk, larger for others; 0 for one pixel."),
    Feature("AreaShape_ConvexArea", "px²", "Pixels in the convex hull of the pixels' edge midpoints."),
    Feature(
        "AreaShape_Eccentricity", "1", "Of the ellipse with the same second moments, 0 disk .. 1 line; one pixel: 0."
    ),
    Feature("AreaShape_EquivalentDiameter", "px", "Diameter of the disk of the same area."),
    Feature("AreaShape_EulerNumber", "1", "Parts minus holes, with 8-connected parts."),
    Feature("AreaShape_Extent", "1", "Area / BoundingBoxArea."),
    Feature("AreaShape_FormFactor", "1", "4 π Area / Perimeter²; NaN (CellProfiler: infinite) if Perimeter is 0."),
    Feature("AreaShape_MajorAxisLength", "px", "Of the ellipse with the same second moments; 0 for one pixel."),
    Feature("AreaShape_MaxFeretDiameter", "px", "Largest distance between two pixel centres; 0 for one pixel."),
    Feature("AreaShape_MaximumRadius", "px", "Largest distance of a pixel to the nearest pixel outside."),
    Feature("AreaShape_MeanRadius", "px", "Mean distance of the pixels to the nearest pixel outside."),
    Feature("AreaShape_MedianRadius", "px", "Median distance of the pixels to the nearest pixel outside."),
    Feature("AreaShape_MinFeretDiameter", "px", "Least width of the convex hull of the pixel centres; 0 for a line."),
    Feature("AreaShape_MinorAxisLength", "px", "Of the ellipse with the same second moments; 0 for a line of pixels."),
    Feature(
        "AreaShape_Orientation",
        "degrees",
        "Angle from the y axis to the major axis of that ellipse, -90..90, positive towards the right below; "
        "-45 where no axis is longer, as in scikit-image.",
    ),
    Feature("AreaShape_Perimeter", "px", "Length of the line through the outline pixels' centres; 0 for one pixel."),
    Feature("AreaShape_Solidity", "1", "Area / ConvexArea."),
)


def _compute(subject: Subject) -> Values:
    raw = subject.shapes
    box_area = (raw.box[:, 2] - raw.box[:, 0]) * (raw.box[:, 3] - raw.box[:, 1])
    circle = 4 * np.pi * raw.area
    squared = np.where(raw.perimeter > 0, raw.perimeter**2, np.nan)
    return {
        "AreaShape_Area": raw.area,
        "AreaShape_BoundingBoxArea": box_area,
        "AreaShape_BoundingBoxMaximum_X": raw.box[:, 3],
        "AreaShape_BoundingBoxMaximum_Y": raw.box[:, 2],
        "AreaShape_BoundingBoxMinimum_X": raw.box[:, 1],
        "AreaShape_BoundingBoxMinimum_Y": raw.box[:, 0],
        "AreaShape_Center_X": raw.centre[:, 1],
        "AreaShape_Center_Y": raw.centre[:, 0],
        "AreaShape_Compactness": raw.perimeter**2 / circle,
        "AreaShape_ConvexArea": raw.convex_area,
        "AreaShape_EquivalentDiameter": np.sqrt(4 * raw.area / np.pi),
        "AreaShape_EulerNumber": raw.euler,
        "AreaShape_Extent": raw.area / box_area,
        "AreaShape_FormFactor": circle / squared,
        "AreaShape_MaxFeretDiameter": raw.max_feret,
        "AreaShape_MaximumRadius": raw.max_radius,
        "AreaShape_MeanRadius": raw.mean_radius,
        "AreaShape_MedianRadius": raw.median_radius,
        "AreaShape_MinFeretDiameter": raw.min_feret,
        "AreaShape_Perimeter": raw.perimeter,
        "AreaShape_Solidity": raw.area / raw.convex_area,
        **_ellipse(raw),
    }


def _ellipse(raw: Shapes) -> dict[str, NDArray[np.float64]]:
    """Axes of the ellipse with the objects' second moments."""
    var_y, cov, var_x = raw.covariance.T
    middle = (var_y + var_x) / 2
    spread = np.hypot((var_y - var_x) / 2, cov)
    major = middle + spread
    minor = np.maximum(middle - spread, 0)  # rounding must not make a line's width negative
    flattening = np.divide(minor, major, out=np.ones_like(major), where=major > 0)
    level = var_y == var_x
    angle = np.where(level, np.where(cov > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * cov, var_y - var_x))
    return {
        "AreaShape_Eccentricity": np.sqrt(1 - flattening),
        "AreaShape_MajorAxisLength": 4 * np.sqrt(major),
        "AreaShape_MinorAxisLength": 4 * np.sqrt(minor),
        "AreaShape_Orientation": np.degrees(angle),
    }


FAMILY = Family("AreaShape", features=_FEATURES, compute=_compute)
