"""What may be chosen about exports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cellinfer.errors import InputError
from cellinfer.plate import Plate

Ngff = Literal["0.4", "0.5"]
Measurements = Literal["readouts", "all"]


@dataclass(frozen=True)
class Options:
    """Choices that single formats look at.

    Parameters
    ----------
    plate
        The images of the run; None where no format needs them.
    ngff
        Version of OME-Zarr.
    measurements
        Which measurements GeoJSON files hold: those that one could read out of an assay (sizes, intensities, ratios),
        or all.

    Raises
    ------
    InputError
        If a choice is unknown.
    """

    plate: Plate | None = None
    ngff: Ngff = "0.5"
    measurements: Measurements = "readouts"

    def __post_init__(self) -> None:
        if self.ngff not in ("0.4", "0.5"):
            raise InputError(f"Unknown OME-Zarr version {self.ngff!r}: choose 0.4 or 0.5.")
        if self.measurements not in ("readouts", "all"):
            raise InputError(f"Unknown choice of measurements {self.measurements!r}: choose readouts or all.")
