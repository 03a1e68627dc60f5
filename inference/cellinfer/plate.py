"""What a plate is: fields, their image planes, and the grid of wells they come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cellinfer.wells import well_sort_key

if TYPE_CHECKING:
    from cellinfer.storage import AnyPath

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
"""Endings (lower case) of files that are taken for images."""

NO_PLATE = ".cellinferignore"
"""A file of this name, whatever is in it, says that its folder and those below it are no part of the plate above, such
as label images of the same names as the images."""

_DIGITS = re.compile(r"(\d+)")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads digits as numbers: `w2` before `w10`; letters compare without case first."""
    parts = _DIGITS.split(text)
    key = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts if part)
    return (*key, (2, 0, text))


class FieldKey(NamedTuple):
    """Names one field of view; together with an object number it names one cell.

    Compare and sort keys by `order`, never by the tuple itself: as text `AA01` comes before `Z01`.
    """

    plate: str
    well: str
    """Normal well name such as `A01`."""
    site: int
    """As the files count them (most count from 1, some from 0); 1 where the files name no site."""
    time: int
    """As the files count them; 1 where the files name no time point."""

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key for plate order: plate, well by row and column (`A02` < `A10` < `Z01` < `AA01`), site, time."""
        return (natural_key(self.plate), well_sort_key(self.well), self.site, self.time)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one plane of pixels lies: a file, and the place inside it.

    Parameters
    ----------
    path
        Absolute path (or URL) of the file (or array store) that holds the plane.
    index
        `()` when the file is the plane; `(n,)` for page n (from 0) of a TIFF with many pages; for an array store the
        index along its leading (non-YX) axes.
    """

    path: str
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of view at one time: channel name -> planes in z order (more than one plane: a z-stack)."""

    key: FieldKey
    images: Mapping[str, tuple[ImageRef, ...]]
    number: int = 0
    """ImageNumber: 1-based place of the field in its plate, fixed by the reader."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A plane that the plate's own regularity (or its index) says should exist and does not."""

    key: FieldKey
    channel: str
    z: int | None = None
    """Plane of a z-stack whose other planes are there; None: the field has nothing of that channel."""


@dataclass(frozen=True)
class Plate:
    """All fields of a folder of images, in plate order, and what the reader learned about them."""

    name: str
    root: AnyPath
    layout: str
    """Name of the reader (and pattern) that understood the folder."""
    channels: tuple[str, ...]
    """Every channel found, in the instrument's order if it is known, else by name; a field may lack some."""
    fields: tuple[Field, ...]
    wells: int
    """Size of the plate: 6, 12, 24, 48, 96, 384 or 1536, the smallest that holds every well where no file says it."""
    missing: tuple[Missing, ...] = ()
    ignored: tuple[str, ...] = ()
    """Files seen and left out (thumbnails, other file types), relative to `root`."""
    pixel_size: float | None = None
    """Micrometres per pixel, if the files say so."""
    notes: tuple[str, ...] = field(default=())
    """What the reader wants the user to know (for example: two layouts matched, which one was taken)."""
