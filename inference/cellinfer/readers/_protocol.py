"""What a reader is, and what it hands over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cellinfer.plate import FieldKey, ImageRef
from cellinfer.readers._scan import Listing


class Plane(NamedTuple):
    """One plane of pixels and its place in the experiment."""

    key: FieldKey
    channel: str
    z: int | None
    """Place in the z-stack; None for the only plane, or for a stored projection beside the planes of a stack."""
    ref: ImageRef


def largest(grids: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the largest of some plates, given by rows and columns; None if there is none."""
    return max((grid for grid in grids if min(grid) > 0), key=lambda grid: grid[0] * grid[1], default=None)


@dataclass(frozen=True)
class Found:
    """What a reader made of a listing: planes in any order; `assemble` sorts, checks and numbers them."""

    layout: str
    planes: list[Plane]
    expected: tuple[tuple[FieldKey, str], ...] = ()
    """(field, channel) pairs that an index file promises, whether their files exist or not."""
    expected_z: tuple[tuple[FieldKey, str, int], ...] = ()
    """Planes of z-stacks that an index file promises; those that the other fields' stacks have need not be named."""
    channels: tuple[str, ...] = ()
    """Channels in the instrument's own order, as far as it is known; the others follow by name."""
    wells: tuple[int, int] | None = None
    """Rows and columns of the plate (the largest of several), if the files say so: few of its wells may be imaged."""
    ignored: tuple[str, ...] = ()
    """Images left out, relative to the root (the files that the listing ignores are added by `assemble`)."""
    pixel_size: float | None = None
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """One plate layout. Readers find files and metadata, and never decode pixels."""

    @property
    def name(self) -> str:
        """Name of the layout as given to `--layout`."""

    def can_read(self, listing: Listing) -> float | None:
        """Return how sure the reader is that the folder has its layout: None for no, up to 1.

        An index file of the instrument's own gives 1, metadata inside the images 0.9, file names alone 0.5.
        """

    def read(self, listing: Listing) -> Found:
        """Return all planes of the folder.

        Raises
        ------
        InputError
            If the folder does not have this layout.
        """
