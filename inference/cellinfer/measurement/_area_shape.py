"""AreaShape: size and form, as CellProfiler's MeasureObjectSizeShape."""

from __future__ import annotations

from functools import cache

import numpy as np
from cellinfer_kernels.shape import Moments, outlines, radii
from cellinfer_kernels.zernike import orders, shape_zernikes

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Column, Family, Feature, Features, Objects, Values

_BASIC = (
    Feature("AreaShape_Area", "px²", "Number of pixels."),
    Feature("AreaShape_BoundingBoxArea", "px²", "Area of the upright box around the object."),
    Feature("AreaShape_BoundingBoxMaximum_X", "px", "Column after the last one."),
    Feature("AreaShape_BoundingBoxMaximum_Y", "px", "Row after the last one."),
    Feature("AreaShape_BoundingBoxMinimum_X", "px", "First column, counted from 0."),
    Feature("AreaShape_BoundingBoxMinimum_Y", "px", "First row, counted from 0."),
    Feature("AreaShape_Center_X", "px", "Mean column of the pixels."),
    Feature("AreaShape_Center_Y", "px", "Mean row of the pixels."),
    Feature(
        "AreaShape_Compactness",
        "1",
        "Perimeter² / (4 π Area): near 1 for a disk, larger for long or rough objects; too small below ten pixels.",
    ),
    Feature("AreaShape_ConvexArea", "px²", "Pixels in the convex hull of the pixels' edge midpoints."),
    Feature(
        "AreaShape_Eccentricity", "1", "Of the ellipse with the same second moments, 0 disk .. 1 line; one pixel: 0."
    ),
    Feature("AreaShape_EquivalentDiameter", "px", "Diameter of the disk of the same area."),
    Feature("AreaShape_EulerNumber", "1", "Parts minus holes, with 8-connected parts."),
    Feature("AreaShape_Extent", "1", "Area / BoundingBoxArea."),
    Feature(
        "AreaShape_FilledArea", "px²", "Area with holes filled; a hole is background that cannot be left diagonally."
    ),
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
    Feature(
        "AreaShape_Perimeter", "px", "Length of the line through the outline pixels' centres; 0 for up to two pixels."
    ),
    Feature("AreaShape_PerimeterCrofton", "px", "Length of the outline by Crofton's formula in four directions."),
    Feature("AreaShape_Solidity", "1", "Area / ConvexArea."),
)


_HU = "Hu's moment invariant {number} (Hu 1962), of the normalised moments: unchanged by rotation, place and size."
_SPATIAL = (
    *(
        Feature(f"AreaShape_SpatialMoment_{p}_{q}", f"px^{p + q + 2}", f"Sum of y^{p} x^{q}, from the box's corner.")
        for p in range(3)
        for q in range(4)
    ),
    *(
        Feature(f"AreaShape_CentralMoment_{p}_{q}", f"px^{p + q + 2}", f"Sum of y^{p} x^{q}, from the centroid.")
        for p in range(3)
        for q in range(4)
    ),
    *(
        Feature(
            f"AreaShape_NormalizedMoment_{p}_{q}",
            "1",
            f"CentralMoment_{p}_{q} / Area^{(p + q) / 2 + 1:g}."
            if p + q >= 2
            else "NaN, as in CellProfiler: below order 2 nothing is normalised.",
        )
        for p in range(4)
        for q in range(4)
    ),
    *(Feature(f"AreaShape_HuMoment_{k}", "1", _HU.format(number=k + 1)) for k in range(7)),
    Feature("AreaShape_InertiaTensor_0_0", "px²", "Variance of x over the pixels."),
    Feature("AreaShape_InertiaTensor_0_1", "px²", "Minus the covariance of y and x."),
    Feature("AreaShape_InertiaTensor_1_0", "px²", "Minus the covariance of y and x."),
    Feature("AreaShape_InertiaTensor_1_1", "px²", "Variance of y over the pixels."),
    Feature("AreaShape_InertiaTensorEigenvalues_0", "px²", "Larger eigenvalue of that tensor."),
    Feature("AreaShape_InertiaTensorEigenvalues_1", "px²", "Smaller eigenvalue of that tensor."),
)


@cache
def _features(options: Options) -> Features:
    zernikes = (
        Feature(
            f"AreaShape_Zernike_{n}_{m}",
            "1",
            f"Magnitude of the Zernike moment of degree {n}, order {m}, over the area of the unit disk, the "
            "smallest circle around the object; NaN for one pixel.",
            oracle="cp-measure get_zernike, mahotas",
            # A corner exactly on the circle is in or out by the last bit of its radius.
            tolerance=1e-6,
        )
        for n, m in orders(options.zernike_degree)
    )
    return (*_BASIC, *_SPATIAL, *zernikes)


def _compute(objects: Objects) -> Values:
    area, hulls = objects.area, objects.hulls
    outline = outlines(objects.groups)
    y0, x0, y1, x1 = objects.groups.boxes.T.astype(np.float64)
    box_area = (y1 - y0) * (x1 - x0)
    circle = 4 * np.pi * area
    perimeter = outline.perimeter
    squared = np.where(perimeter > 0, perimeter**2, np.nan)
    mean_radius, max_radius, median_radius = radii(objects.groups.begins, objects.depths)
    zernikes = np.abs(shape_zernikes(objects.groups, hulls.circles, objects.options.zernike_degree))
    with np.errstate(invalid="ignore"):
        zernikes /= np.where(hulls.circles.radius > 0, np.pi * hulls.circles.radius**2, np.nan)[:, None]
    values = {
        "Area": area,
        "BoundingBoxArea": box_area,
        "BoundingBoxMaximum_X": x1,
        "BoundingBoxMaximum_Y": y1,
        "BoundingBoxMinimum_X": x0,
        "BoundingBoxMinimum_Y": y0,
        "Center_X": objects.moments.centre[:, 1],
        "Center_Y": objects.moments.centre[:, 0],
        "Compactness": perimeter**2 / circle,
        "ConvexArea": hulls.convex_area,
        "EquivalentDiameter": np.sqrt(4 * area / np.pi),
        "EulerNumber": outline.euler,
        "Extent": area / box_area,
        "FilledArea": outline.filled_area,
        "FormFactor": circle / squared,
        "MaxFeretDiameter": hulls.max_feret,
        "MaximumRadius": max_radius,
        "MeanRadius": mean_radius,
        "MedianRadius": median_radius,
        "MinFeretDiameter": hulls.min_feret,
        "Perimeter": perimeter,
        "PerimeterCrofton": outline.perimeter_crofton,
        "Solidity": area / hulls.convex_area,
        **_moments(objects.moments, area),
        **_ellipse(objects.moments, area),
        **{f"Zernike_{n}_{m}": zernikes[:, i] for i, (n, m) in enumerate(orders(objects.options.zernike_degree))},
    }
    return {f"AreaShape_{name}": column for name, column in values.items()}


def _moments(raw: Moments, area: Column) -> dict[str, Column]:
    spatial, central = raw.raw, raw.central
    normalised = np.full_like(central, np.nan)
    for p in range(4):
        for q in range(4):
            if p + q >= 2:
                normalised[:, p, q] = central[:, p, q] / area ** ((p + q) / 2 + 1)
    return {
        **{f"SpatialMoment_{p}_{q}": spatial[:, p, q] for p in range(3) for q in range(4)},
        **{f"CentralMoment_{p}_{q}": central[:, p, q] for p in range(3) for q in range(4)},
        **{f"NormalizedMoment_{p}_{q}": normalised[:, p, q] for p in range(4) for q in range(4)},
        **{f"HuMoment_{k}": column for k, column in enumerate(_hu(normalised))},
    }


def _hu(moment: Column) -> list[Column]:
    """Return the seven invariants of (n, 4, 4) normalised moments."""
    m20, m02, m11 = moment[:, 2, 0], moment[:, 0, 2], moment[:, 1, 1]
    a = moment[:, 3, 0] + moment[:, 1, 2]
    b = moment[:, 2, 1] + moment[:, 0, 3]
    c = moment[:, 3, 0] - 3 * moment[:, 1, 2]
    d = 3 * moment[:, 2, 1] - moment[:, 0, 3]
    return [
        m20 + m02,
        (m20 - m02) ** 2 + 4 * m11**2,
        c**2 + d**2,
        a**2 + b**2,
        c * a * (a**2 - 3 * b**2) + d * b * (3 * a**2 - b**2),
        (m20 - m02) * (a**2 - b**2) + 4 * m11 * a * b,
        d * a * (a**2 - 3 * b**2) - c * b * (3 * a**2 - b**2),
    ]


def _ellipse(raw: Moments, area: Column) -> dict[str, Column]:
    """Inertia tensor, and the axes of the ellipse with the objects' second moments."""
    var_y, cov, var_x = (raw.central[:, p, q] / area for p, q in ((2, 0), (1, 1), (0, 2)))
    middle = (var_y + var_x) / 2
    spread = np.hypot((var_y - var_x) / 2, cov)
    major = middle + spread
    minor = np.maximum(middle - spread, 0)  # rounding must not make a line's width negative
    flattening = np.divide(minor, major, out=np.ones_like(major), where=major > 0)
    level = var_y == var_x
    angle = np.where(level, np.where(cov > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * cov, var_y - var_x))
    return {
        "Eccentricity": np.sqrt(1 - flattening),
        "InertiaTensor_0_0": var_x,
        "InertiaTensor_0_1": -cov,
        "InertiaTensor_1_0": -cov,
        "InertiaTensor_1_1": var_y,
        "InertiaTensorEigenvalues_0": major,
        "InertiaTensorEigenvalues_1": minor,
        "MajorAxisLength": 4 * np.sqrt(major),
        "MinorAxisLength": 4 * np.sqrt(minor),
        "Orientation": np.degrees(angle),
    }


FAMILY = Family(
    "AreaShape",
    source="CellProfiler MeasureObjectSizeShape",
    oracle="cp-measure get_sizeshape and get_feret, scikit-image regionprops",
    tolerance=1e-6,
    features=_features,
    compute=_compute,
)
