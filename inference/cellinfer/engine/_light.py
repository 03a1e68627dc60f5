"""Which illumination functions a run uses: those given, those it computed before, or new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.files import output_errors
from cellinfer.illumination import Illumination, compute_illumination
from cellinfer.images import ZChoice
from cellinfer.plate import Field, Plate
from cellinfer.storage import AnyPath

FOLDER = "illumination"
"""Of the result folder, where the functions are kept that its fields were corrected with."""


class Light(NamedTuple):
    """The functions of a run."""

    functions: Illumination
    notes: list[str]
    reused: bool
    """Whether an earlier run into the same folder computed them."""

    def note_changes(self, todo: list[Field]) -> list[str]:
        """Say how many fields have come or changed since; only if others stay as they are."""
        if not self.reused or not todo:
            return []
        return [
            f"{len(todo)} fields are new or changed since the illumination functions were computed; these were kept, "
            "so that the other fields stay as they are: --fresh computes them anew and does all fields again"
        ]


def settle_light(
    plate: Plate,
    folder: AnyPath,
    given: Illumination | None,
    *,
    z: ZChoice,
    threads: int,
    fresh: bool,
    progress: Callable[[int, int], None],
) -> Light:
    """Return the functions for a plate, and put them into its result folder if they are not there.

    Parameters
    ----------
    plate, folder
        The plate and the result folder.
    given
        Functions that the user named; None computes them, unless an earlier run has.
    z, threads, progress
        See `cellinfer.illumination.compute_illumination`.
    fresh
        Compute them again.
    """
    place, notes = folder / FOLDER, []
    if given is not None:
        only = next(iter(given.plates)) if len(given.plates) == 1 else None
        if only is not None and not given.covers(plate):
            notes.append(f"the illumination functions are those of the plate {only!r}")
        before = _kept(place, [])
        if before is None or before.digest != given.digest:
            given.save(place)
        return Light(given, [*notes, *given.notes], False)
    before = None if fresh else _kept(place, notes)
    if before is not None:
        if before.z == z and before.covers(plate):
            return Light(before, [*notes, *before.notes], True)
        notes.append(
            "the illumination functions in the result folder are not of all these images: they were computed anew"
        )
    found = compute_illumination(plate, z=z, threads=threads, progress=progress)
    found.save(place)
    return Light(found, [*notes, *found.notes], False)


def _kept(place: AnyPath, notes: list[str]) -> Illumination | None:
    """Return the functions in a folder; None if there are none, or none that can be read, which is noted."""
    with output_errors(place):
        there = (place / "illumination.json").exists()
    if not there:
        return None
    try:
        return Illumination.load(place)
    except InputError as error:
        notes.append(f"{error} They were computed anew.")
        return None
