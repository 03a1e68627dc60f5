"""Readers: one module per plate layout, all behind one protocol; they find files and never decode pixels."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

from cellinfer.errors import InputError
from cellinfer.plate import Plate
from cellinfer.readers._assemble import assemble
from cellinfer.readers._protocol import Found, Plane, Reader
from cellinfer.readers._scan import Listing, scan
from cellinfer.readers.cellvoyager import CellVoyagerReader
from cellinfer.readers.harmony import HarmonyReader
from cellinfer.readers.imagexpress import ImageXpressReader
from cellinfer.readers.incell import InCellReader
from cellinfer.readers.load_data import LoadDataReader
from cellinfer.readers.micro_manager import MicroManagerReader
from cellinfer.readers.ndtiff import NdTiffReader
from cellinfer.readers.ome_tiff import OmeTiffReader
from cellinfer.readers.ome_zarr import OmeZarrReader
from cellinfer.readers.pattern import PatternReader, name_parts
from cellinfer.readers.useq import UseqReader
from cellinfer.storage import forget_ahead

__all__ = ["Found", "Listing", "Plane", "Reader", "layouts", "read_plate"]


def _by_index() -> tuple[Reader, ...]:
    """Return the readers that go by an index file or by metadata alone."""
    return (
        ImageXpressReader(),
        HarmonyReader(),
        CellVoyagerReader(),
        InCellReader(),
        MicroManagerReader(),
        NdTiffReader(),
        UseqReader(),
        OmeZarrReader(),
        LoadDataReader(),
    )


def _by_name(pattern: str | None) -> tuple[Reader, ...]:
    """Return the readers that go by file names, at least where nothing else tells."""
    return (OmeTiffReader(pattern), PatternReader(pattern))


def layouts() -> tuple[str, ...]:
    """Return the names that `read_plate` takes as `layout`, `auto` first."""
    return ("auto", *(reader.name for reader in (*_by_index(), *_by_name(None))))


def read_plate(
    path: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    layout: str = "auto",
    channels: Mapping[str, str] | None = None,
) -> Plate:
    r"""Find the fields of a plate in a folder of images; no pixel is read.

    Parameters
    ----------
    path
        Folder with the images, in folders below it too; or its URL in a store that fsspec knows (`s3://bucket/plate`).
    pattern
        Regular expression with the named groups `well` (or `row` and `col`), `site`, `channel`, `z`, `time`, `plate`.
        It must match the whole file name, or the whole path below `path` (with `/`) if it contains a slash, such as
        ``(?P<well>[A-P]\d\d)_s(?P<site>\d+)_w(?P<channel>\d+)\.tif``. None: the name patterns of common instruments.
    layout
        One of `layouts()`; `auto` takes the reader that is most sure.
    channels
        New name -> found name: keeps these channels only, under the new names and in this order, for example
        `{"DNA": "2", "GFP": "1"}`.

    Returns
    -------
    Plate
        Fields in plate order; `notes` says what else the reader saw.

    Raises
    ------
    InputError
        If the folder is not there or holds no image, no layout fits, two files claim one plane, or a channel asked for
        does not exist.
    """
    if layout not in layouts():
        close = difflib.get_close_matches(layout, layouts(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"unknown layout {layout!r}: choose from {', '.join(layouts())}{hint}")
    try:
        listing = scan(path)
        if layout == "auto":
            # Who gives a pattern wants names to be read by it, whatever index lies beside the images.
            readers = _by_name(pattern) if pattern is not None else (*_by_index(), *_by_name(None))
            reader = _most_sure(readers, listing, pattern)
        else:
            reader = next(reader for reader in (*_by_index(), *_by_name(pattern)) if reader.name == layout)
        return assemble(listing, reader.read(listing), channels)
    finally:
        forget_ahead()


def _most_sure(readers: tuple[Reader, ...], listing: Listing, pattern: str | None) -> Reader:
    """Return the reader that is most sure; where two are equally sure, the earlier one."""
    sure = [(confidence, reader) for reader in readers if (confidence := reader.can_read(listing)) is not None]
    if not sure:
        name_parts(listing, pattern)  # raises: says what the files are called and how to give a pattern
    return max(sure, key=lambda entry: entry[0])[1]
