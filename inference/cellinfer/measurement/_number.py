"""Number: which object of its image a row is, as CellProfiler counts them."""

from __future__ import annotations

import numpy as np

from cellinfer.measurement._registry import Family, Feature

_NUMBER = Feature("Number_Object_Number", "1", "The object's number: its pixels' value in the label image.")

FAMILY = Family(
    "Number",
    source="CellProfiler Identify modules",
    oracle="the label image",
    tolerance=1e-12,
    features=lambda options: (_NUMBER,),
    compute=lambda objects: {_NUMBER.key: objects.groups.ids.astype(np.float64)},
)
