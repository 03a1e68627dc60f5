"""Which columns one could read out of an assay and explain, among the many that are measured."""

from __future__ import annotations

_NOT_BIOLOGY = (
    "_Location_",
    "_BoundingBox",
    "_AreaShape_Center_",
    "_Orientation",
    "_ZernikePhase_",
    "_Parent_",
    "_Number_",
    "ObjectNumber_",
    "Image_QC_",
    "Image_Count_Fields",
    "Image_Count_FailedFields",
)
_FOR_PROFILES = (
    "_Texture_",
    "_Granularity_",
    "_RadialDistribution_",
    "_Correlation_",
    "_Neighbors_",
    "Moment_",
    "_Zernike_",
    "_InertiaTensor",
)


def is_biology(column: str) -> bool:
    """Tell whether a column says something of cells: places, directions and identities do not."""
    return not any(part in column for part in _NOT_BIOLOGY)


def is_readout(column: str) -> bool:
    """Tell whether a column is a count, size, intensity or ratio.

    Hundreds of textures and moments are made for profiles: the best of them on a few wells is mostly luck.
    """
    return is_biology(column) and not any(part in column for part in _FOR_PROFILES)
