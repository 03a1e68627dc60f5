"""What can be set about measurements, beyond which families."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellinfer.errors import InputError

Quartiles = Literal["linear", "cellprofiler"]
RadialFrom = Literal["self", "centres", "edges"]


@dataclass(frozen=True)
class Options:
    """Parameters of the measurements; the defaults are CellProfiler's.

    Parameters
    ----------
    full_scale
        Value of a saturated pixel, which CellProfiler would map to 1. Texture, Costes' thresholds and nothing else
        depend on it. None: 255 and 65535 for 8 and 16 bits without sign; for other types 1 if no pixel is above 16
        (normalised images), else 65535.
        For a 12-bit camera in 16-bit files 4095 gives finer grey levels than CellProfiler's 65535.
    texture_scales
        Distances of pixel pairs, pixels.
    texture_levels
        Grey levels, 2 to 256.
    granularity_steps, granularity_subsample, granularity_background, granularity_radius
        Length of the spectrum; subsampling of the image; further subsampling to find the background; radius of the
        disk, in pixels of that, that removes it.
    radial_bins
        Rings per object.
    radial_radius
        Pixels that the rings reach from the centre; None scales them to each object.
    radial_from, radial_objects
        Where the rings begin: at each object's own centre, or, of the objects that share its id in the label image
        `radial_objects`, at their centroids or edges. Objects of that name themselves always begin at their centre.
        As in CellProfiler, pixels that cannot be reached from there within the object (a cytoplasm without its nucleus)
        take the straight way from the centroid; unlike there, an object's rings begin at the object of its own id, not
        at the nearest one. Without such an object NaN.
    zernike_degree
        Largest degree of the Zernike polynomials.
    neighbor_distances
        Which objects are neighbours: "Adjacent" (they touch), "Expanded" (they touch after all were grown until
        nothing is left between them), or a number of pixels.
    correlation_threshold
        Share of an object's largest value (per cent) below which a pixel does not count for overlap, K, Manders and
        RWC coefficients.
    quartiles
        "linear": NumPy's, at rank q (n - 1) of n sorted values; "cellprofiler": at rank q n, as CellProfiler itself.

    Raises
    ------
    InputError
        If a value makes no sense.
    """

    full_scale: float | None = None
    texture_scales: tuple[int, ...] = (3,)
    texture_levels: int = 256
    granularity_steps: int = 16
    granularity_subsample: float = 0.25
    granularity_background: float = 0.25
    granularity_radius: int = 10
    radial_bins: int = 4
    radial_radius: float | None = None
    radial_from: RadialFrom = "self"
    radial_objects: str = "Nuclei"
    zernike_degree: int = 9
    neighbor_distances: tuple[str | int, ...] = ("Adjacent",)
    correlation_threshold: float = 15.0
    quartiles: Quartiles = "linear"

    def __post_init__(self) -> None:
        for name in ("texture_scales", "neighbor_distances"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for name, (fits, wanted) in _RULES.items():
            value = getattr(self, name)
            if not fits(value):
                raise InputError(f"The measurement option {name} is {value!r}; it must be {wanted}.")


def _real(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _real(value) and 0 < value < math.inf


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(low <= value <= high)


def _scales(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and all(_whole(value, 1, 1000) for value in values)
        and 0 < len(set(values)) == len(values)
    )


def _distances(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and all(value in ("Adjacent", "Expanded") or _whole(value, 1, 1000) for value in values)
        and len(set(values)) == len(values)
    )


_Rule = tuple[Callable[[Any], bool], str]
_SHARE: _Rule = (lambda value: _positive(value) and value <= 1, "above 0 and at most 1")
_COUNT: _Rule = (lambda value: _whole(value, 1, 1000), "a whole number from 1 to 1000")
_LENGTH: _Rule = (lambda value: value is None or _positive(value), "a positive number, or None")
_RULES: dict[str, _Rule] = {
    "full_scale": (
        lambda value: value is None or (_positive(value) and value < 2**32),
        "above 0 and below 2**32, or None",
    ),
    "texture_scales": (_scales, "different whole numbers of pixels from 1, at least one"),
    "texture_levels": (lambda value: _whole(value, 2, 256), "a whole number from 2 to 256"),
    "granularity_steps": (lambda value: _whole(value, 1, 255), "a whole number from 1 to 255"),
    "granularity_subsample": _SHARE,
    "granularity_background": _SHARE,
    "granularity_radius": _COUNT,
    "radial_bins": _COUNT,
    "radial_radius": _LENGTH,
    "radial_from": (lambda value: value in ("self", "centres", "edges"), "self, centres or edges"),
    "radial_objects": (lambda value: isinstance(value, str), "a name"),
    "zernike_degree": (lambda value: _whole(value, 0, 20), "a whole number from 0 to 20"),
    "neighbor_distances": (_distances, "different ones of Adjacent, Expanded and whole numbers of pixels"),
    "correlation_threshold": (lambda value: _real(value) and 0 <= value < 100, "0 to below 100 per cent"),
    "quartiles": (lambda value: value in ("linear", "cellprofiler"), "linear or cellprofiler"),
}

DEFAULTS = Options()
"""CellProfiler's own."""

CELL_PAINTING = Options(texture_scales=(3, 5, 10), neighbor_distances=("Adjacent", "Expanded"))
"""What Cell Painting protocols measure: texture at three scales, neighbours that touch and neighbours that would."""
