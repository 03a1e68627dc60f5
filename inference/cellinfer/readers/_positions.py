"""Labels that people and plugins give to stage positions, turned into wells and sites."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.wells import PLATE_FORMATS, normalise_well, well_name

_WELL = re.compile(
    r"(?:(?i:well)[ _-]*)?(?P<well>(?:A[A-F]|[A-P])[ _-]?\d{1,2})"
    r"(?:[ _-]*(?:[ _-]|(?=[A-Za-z]))(?i:site|position|pos|point|field|fov|tile|f|s|p)?[ _-]*"
    r"(?P<site>\d{1,6})(?P<tile>[ _-]+\d{1,6})?)?"
)
"""`A01-Site_0` (HCS plugin), `A1_0000` (useq), `A1`, `Well A01 site 3`; two numbers are a tile: `A01-Pos_000_001`."""
_TILE = re.compile(r"(?P<stem>.*?)[ _-]*Pos[ _-]?\d{3}_\d{3}")
"""`1-Pos_000_001`: tile 0, 1 of the grid around position 1."""


class Spot(NamedTuple):
    """Where a stage position lies."""

    well: str
    site: int


def place(labels: Sequence[str]) -> tuple[list[Spot], tuple[str, ...]]:
    """Find well and site of each stage position of one plate.

    Parameters
    ----------
    labels
        One for each position, in the order of acquisition; empty where a position has none.

    Returns
    -------
    spots : list of Spot
        Sites as the labels number them; from 1 in each well where they do not, or where two would be the same. Where
        the labels name no wells, each position (or grid of tiles) is a well of its own, row by row from A01: what was
        imaged at one place is measured as one sample.
    notes : tuple of str
        Says so.
    """
    matches = [_WELL.fullmatch(label.strip()) for label in labels]
    wells: list[str] = []
    for match in matches:
        try:
            wells.append(normalise_well(match["well"]) if match else "")
        except InputError:
            wells.append("")
    if not all(wells):
        return _without_wells(labels)
    numbers = [int(match["site"]) if match and match["site"] and not match["tile"] else None for match in matches]
    spots = [Spot(well, number) for well, number in zip(wells, numbers, strict=True) if number is not None]
    if len(set(spots)) == len(labels):
        return spots, ()
    return _numbered(wells), ()


def wells_of(labels: Sequence[str]) -> list[Spot]:
    """Return well and site of positions if all are called after wells, else none."""
    spots, notes = place(labels) if labels else ([], ())
    return [] if notes else spots


def _without_wells(labels: Sequence[str]) -> tuple[list[Spot], tuple[str, ...]]:
    """Make each position, or each grid of tiles, a well of its own."""
    tiles = [_TILE.fullmatch(label.strip()) for label in labels]
    stems = [match["stem"] if match else "" for match in tiles]
    stems = stems if all(tiles) else [str(number) for number in range(len(labels))]
    order = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    form = next((form for size, form in PLATE_FORMATS.items() if size >= len(order)), None)
    what = "grid of tiles" if all(tiles) else "position"
    such = f"positions are not called after wells (such as {labels[0]!r})"
    if form is None:
        return _numbered(["A01"] * len(labels)), (f"{such}: they are the sites of one well",)
    wells = [well_name(place // form.columns + 1, place % form.columns + 1) for place in map(order.__getitem__, stems)]
    return _numbered(wells), (f"{such}: each {what} is a well of its own, row by row from A01",)


def _numbered(wells: Sequence[str]) -> list[Spot]:
    """Count the positions of each well from 1."""
    count: Counter[str] = Counter()
    spots = []
    for well in wells:
        count[well] += 1
        spots.append(Spot(well, count[well]))
    return spots
