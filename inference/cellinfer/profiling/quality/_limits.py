"""Limits beyond which a value is out: from reference wells by median and MAD, never tighter than a floor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer.profiling.quality._measures import Measure
from cellinfer.profiling.quality._outliers import FEWEST, MAD_TO_SD

Array = NDArray[np.float64]


class Limit(NamedTuple):
    """Where the values of a reference lie, and where those begin that are out."""

    reference: str
    n: int
    centre: float
    spread: float
    """Robust standard deviation; of a logarithmic measure that of the logarithm."""
    low: float
    high: float


def limit(values: Array, reference: str, measure: Measure, floor: float, deviations: float) -> Limit | None:
    """Find the limits that reference values give.

    Parameters
    ----------
    values
        `(n,)` values of the reference; NaN is missing, and so is 0 on a logarithmic scale: an empty well is none.
    reference
        What they are, in words.
    measure
        Which sides are judged, and on which scale.
    floor
        Least distance of a limit from the median.
    deviations
        Distance in robust standard deviations: 1.4826 MAD, corrected for few values by n / (n - 0.8) (Croux and
        Rousseeuw 1992).

    Returns
    -------
    Limit or None
        None for fewer than six values.
    """
    values = values[np.isfinite(values) & ((values > 0) | (not measure.logarithmic))]
    if values.size < FEWEST:
        return None
    scaled = np.log(values) if measure.logarithmic else values
    centre = float(np.median(scaled))
    spread = float(MAD_TO_SD * np.median(np.abs(scaled - centre))) * values.size / (values.size - 0.8)
    distance = max(deviations * spread, floor)
    low, high = (
        centre + sign * distance if meaning else sign * np.inf
        for sign, meaning in ((-1, measure.low), (1, measure.high))
    )
    if measure.logarithmic:
        centre, low, high = (float(np.exp(value)) for value in (centre, low, high))
    return Limit(reference, int(values.size), centre, spread, float(low), float(high))


def wider(one: Limit | None, other: Limit | None) -> tuple[Limit | None, Limit | None]:
    """Return the limits to judge the low and the high side by: the more lenient of two references."""
    there = [found for found in (one, other) if found is not None]
    if not there:
        return None, None
    return min(there, key=lambda found: found.low), max(there, key=lambda found: found.high)
