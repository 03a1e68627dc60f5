"""Neighbors: which objects lie beside an object, as CellProfiler's MeasureObjectNeighbors.

Distances are between centroids. Without another object counts, distances and angles are 0, as in CellProfiler.
"""

from __future__ import annotations

from functools import cache

from cellinfer_kernels.neighbors import touching

from cellinfer.measurement._options import Options
from cellinfer.measurement._registry import Family, Feature, Features, Objects, Values

_CLOSEST = (
    ("FirstClosestObjectNumber", "first_number", "1", "Number of the nearest other object; 0: there is none."),
    ("FirstClosestDistance", "first_distance", "px", "Distance to it."),
    ("SecondClosestObjectNumber", "second_number", "1", "Number of the second nearest other object; 0: none."),
    ("SecondClosestDistance", "second_distance", "px", "Distance to it."),
    ("AngleBetweenNeighbors", "angle", "degrees", "Angle between the directions to these two, 0 to 180."),
)


def _near(method: str | int) -> str:
    if method == "Adjacent":
        return "that touch it"
    if method == "Expanded":
        return "that touch it after all have grown until nothing is left between them"
    return f"within {method} px of it"


@cache
def _features(options: Options) -> Features:
    return tuple(
        feature
        for method in options.neighbor_distances
        for feature in (
            Feature("Neighbors_NumberOfNeighbors", "1", f"Number of objects {_near(method)}.", str(method)),
            Feature(
                "Neighbors_PercentTouching",
                "%",
                f"Share of its outline pixels next to objects {_near(method)}.",
                str(method),
            ),
            *(Feature(f"Neighbors_{name}", unit, text, str(method)) for name, _, unit, text in _CLOSEST),
        )
    )


def _compute(objects: Objects) -> Values:
    values = {}
    for method in objects.options.neighbor_distances:
        found = touching(objects.groups, method=method)  # type: ignore[arg-type]
        values[f"Neighbors_NumberOfNeighbors_{method}"] = found.count
        values[f"Neighbors_PercentTouching_{method}"] = found.percent_touching
        for name, field, _, _ in _CLOSEST:
            values[f"Neighbors_{name}_{method}"] = getattr(objects.closest, field)
    return values


FAMILY = Family(
    "Neighbors",
    source="CellProfiler MeasureObjectNeighbors",
    oracle="cp-measure measureobjectneighbors, where it follows CellProfiler",
    tolerance=1e-6,
    features=_features,
    compute=_compute,
)
