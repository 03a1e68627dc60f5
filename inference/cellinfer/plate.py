"""What a plate is: fields, their image planes, and the grid of wells they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class FieldKey(NamedTuple):
    """Names one field of view; together with an object number it names one cell.

    Sorts in plate order: plate, then well by row and column (`A02` before `A10`, `Z01` before `AA01`), site, time.
    """

    plate: str
    well: str
    site: int
    time: int


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one plane of pixels lies: a file, and the place inside it.

    Parameters
    ----------
    path
        Absolute path of the file (or array store) that holds the plane.
    index
        Index along the leading (non-YX) axes of the file's array, in file order; `()` when the file is the plane.
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


@dataclass(frozen=True)
class Plate:
    """All fields of a folder of images, in plate order, and what the reader learned about them."""

    name: str
    root: Path
    layout: str
    """Name of the reader (and pattern) that understood the folder."""
    channels: tuple[str, ...]
    """Every channel found, in natural order; a field may lack some."""
    fields: tuple[Field, ...]
    wells: int
    """Size of the smallest standard plate that holds every well: 6, 12, 24, 48, 96, 384 or 1536."""
    missing: tuple[Missing, ...] = ()
    ignored: tuple[str, ...] = ()
    """Files seen and left out (thumbnails, other file types), relative to `root`."""
    pixel_size: float | None = None
    """Micrometres per pixel, if the files say so."""
    notes: tuple[str, ...] = field(default=())
    """What the reader wants the user to know (for example: two layouts matched, which one was taken)."""
