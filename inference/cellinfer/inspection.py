"""Say what is in a plate's folder before anything is computed: layout, wells, channels, pixel types, gaps."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cellinfer.errors import ImageError
from cellinfer.images import read_header
from cellinfer.plate import ImageRef, Plate
from cellinfer.readers import read_plate
from cellinfer.wells import well_sort_key

SPREAD = 16
"""Headers read beside the first image of each channel, spread over the whole plate."""


class PixelKind(NamedTuple):
    """One size and pixel type found in a channel."""

    channel: str
    height: int
    width: int
    dtype: str
    images: int
    """How many of the images looked into are of this kind."""


class WellCount(NamedTuple):
    """How full a well is."""

    present: int
    """Planes that are there; a z-stack counts as one."""
    missing: int
    """Planes that are not, those of a z-stack one by one."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found out."""

    plate: Plate
    kinds: tuple[PixelKind, ...]
    """Sizes and pixel types, by channel; two for one channel mean a plate of mixed images."""
    unreadable: tuple[str, ...]
    """One sentence for each image looked into whose header is broken."""
    n_checked: int
    """Image headers that were read."""
    n_planes: int
    """Planes of the plate, z-stacks counted plane by plane."""

    def wells(self) -> dict[str, dict[str, WellCount]]:
        """Count planes per plate and well, in plate order."""
        present: dict[str, Counter[str]] = defaultdict(Counter)
        missing: dict[str, Counter[str]] = defaultdict(Counter)
        for field in self.plate.fields:
            present[field.key.plate][field.key.well] += len(field.images)
        for gap in self.plate.missing:
            missing[gap.key.plate][gap.key.well] += 1
        return {
            plate: {
                well: WellCount(wells[well], missing[plate][well])
                for well in sorted({*wells, *missing[plate]}, key=well_sort_key)
            }
            for plate, wells in present.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; missing planes and ignored files in full."""
        plate = self.plate
        return {
            "name": plate.name,
            "root": str(plate.root),
            "layout": plate.layout,
            "plate_size": plate.wells,
            "channels": list(plate.channels),
            "sites": sorted({field.key.site for field in plate.fields}),
            "times": sorted({field.key.time for field in plate.fields}),
            "fields": len(plate.fields),
            "planes": self.n_planes,
            "pixel_size_um": plate.pixel_size,
            "wells": {
                name: {well: count._asdict() for well, count in wells.items()} for name, wells in self.wells().items()
            },
            "pixels": [kind._asdict() for kind in self.kinds],
            "headers_checked": self.n_checked,
            "unreadable": list(self.unreadable),
            "missing": [{**gap.key._asdict(), "channel": gap.channel, "z": gap.z} for gap in plate.missing],
            "ignored": list(plate.ignored),
            "notes": list(plate.notes),
        }


def inspect(
    path: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    layout: str = "auto",
    channels: Mapping[str, str] | None = None,
) -> Inspection:
    """Look into a plate's folder: all file names, and the headers of a few images.

    Parameters
    ----------
    path, pattern, layout, channels
        As for `cellinfer.readers.read_plate`.

    Returns
    -------
    Inspection
        No pixel is decoded; `n_checked` headers are read: the first image of each channel and `SPREAD` others spread
        over the plate.

    Raises
    ------
    InputError
        As `read_plate`. A broken image is no error here, it is listed in `unreadable`.
    """
    plate = read_plate(path, pattern=pattern, layout=layout, channels=channels)
    planes = [(name, ref) for field in plate.fields for name, refs in field.images.items() for ref in refs]
    counts: Counter[tuple[str, int, int, str]] = Counter()
    unreadable: list[str] = []
    sample = _sample(planes)
    for name, ref in sample:
        try:
            header = read_header(ref)
        except ImageError as error:
            unreadable.append(str(error))
        else:
            counts[name, header.shape[0], header.shape[1], header.dtype] += 1
    kinds = [PixelKind(*kind, images) for kind, images in counts.items()]
    return Inspection(
        plate=plate,
        kinds=tuple(sorted(kinds, key=lambda kind: (plate.channels.index(kind.channel), -kind.images))),
        unreadable=tuple(unreadable),
        n_checked=len(sample),
        n_planes=len(planes),
    )


def _sample(planes: list[tuple[str, ImageRef]]) -> list[tuple[str, ImageRef]]:
    """Choose the first image of each channel and others at even steps, in plate order."""
    first: dict[str, int] = {}
    for place, (name, _) in enumerate(planes):
        first.setdefault(name, place)
    count = min(SPREAD, len(planes))
    spread = {place * (len(planes) - 1) // max(count - 1, 1) for place in range(count)}
    return [planes[place] for place in sorted({*first.values(), *spread})]
