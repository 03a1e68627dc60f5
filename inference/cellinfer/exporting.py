"""Results for other programs, made from a finished result folder.

The module is not called `export`, since that is the function's name in `cellinfer`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.files import owned
from cellinfer.outputs.exports._files import Manifest
from cellinfer.outputs.exports._options import Measurements, Ngff, Options
from cellinfer.outputs.exports._results import Results, found_names
from cellinfer.plate import Plate
from cellinfer.readers import read_plate
from cellinfer.storage import is_remote, location

Progress = Callable[[int, int], None]


class _Format(NamedTuple):
    module: str
    """In `cellinfer.outputs.exports`."""
    gives: str
    needs: tuple[str, ...] = ()
    """Packages that the extra `export` installs."""
    images: bool = False


FORMATS = {
    "ome-zarr": _Format("ome_zarr", "OME-Zarr plates with images and labels, for napari and others", images=True),
    "roi": _Format("roi", "ImageJ ROIs, a zip per field", needs=("roifile",)),
    "geojson": _Format("geojson", "GeoJSON of cells with nuclei, for QuPath"),
    "h5ad": _Format("h5ad", "AnnData, for scanpy and squidpy", needs=("h5py",)),
    "cytotable": _Format("cytotable", "one row per cell, named as by CytoTable, for pycytominer"),
}
"""What results can be exported to."""


@dataclass(frozen=True)
class ExportResult:
    """What an export left behind.

    Attributes
    ----------
    folder
        Export folder.
    files
        Format -> its files (folders for OME-Zarr).
    fields, cells
        How many there are in each format.
    left_out
        Fields of the run that failed and so are in none.
    """

    folder: Path
    files: dict[str, tuple[Path, ...]]
    fields: int
    cells: int
    left_out: int


def export(
    results: str | os.PathLike[str],
    formats: str | Iterable[str],
    out: str | os.PathLike[str] | None = None,
    *,
    plate: str | os.PathLike[str] | Plate | None = None,
    ngff: Ngff = "0.5",
    measurements: Measurements = "readouts",
    progress: Progress | None = None,
) -> ExportResult:
    """Write results in the formats of other programs.

    Everything is read and written field by field: memory does not grow with the plate. Files of an earlier export are
    replaced, others never.

    Parameters
    ----------
    results
        Folder of a finished run.
    formats
        One or several of `FORMATS`, in a list or separated by commas.
    out
        Where to; made if it is not there. None: `export` in the result folder.
    plate
        Where the images are, or the plate as `cellinfer.read_plate` reads it; only `ome-zarr` needs them. None: where
        the run found them.
    ngff
        Version of OME-Zarr, `"0.5"` (Zarr 3) or `"0.4"` (Zarr 2).
    measurements
        What GeoJSON files hold of each cell: `"readouts"` (sizes, intensities, ratios) or `"all"`.
    progress
        Called after each field with the number of fields done and of all.

    Returns
    -------
    ExportResult

    Raises
    ------
    InputError
        If there is no such format, the folder is not that of a finished run, a package or the images are missing.
    OutputError
        If a file that no export wrote is in the way, another export is at work, or the disk is full.

    Examples
    --------
    >>> import cellinfer
    >>> cellinfer.export("results", ["ome-zarr", "h5ad"])  # doctest: +SKIP
    """
    names = check_formats(formats)
    for path in (results, out):
        if path is not None and is_remote(path):
            raise InputError(
                f"Results are exported on the disk, and {path} is in a store: copy the results, then export."
            )
    found = Results(Path(results))
    images = any(FORMATS[name].images for name in names)
    options = Options(_images(found, plate) if images else None, ngff, measurements)
    folder = found.folder / "export" if out is None else Path(out)
    writers = {name: import_module(f"cellinfer.outputs.exports.{FORMATS[name].module}") for name in names}
    planned = {name: writer.planned(found, options) for name, writer in writers.items()}
    with owned(folder):
        manifest = Manifest(folder, found.plate)
        manifest.claim(planned, found.provenance)
        with ExitStack() as stack:
            adders = [stack.enter_context(writer.writing(found, folder, options)) for writer in writers.values()]
            for done, field in enumerate(found.each(), start=1):
                for add in adders:
                    add(field)
                if progress is not None:
                    progress(done, len(found.fields))
        manifest.settle(planned)
    return ExportResult(
        folder=folder,
        files={name: tuple(folder / path for path in paths) for name, paths in planned.items()},
        fields=len(found.fields),
        cells=found.cells,
        left_out=len(found.info["result"]["failed"]),
    )


def check_formats(formats: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of formats.

    Raises
    ------
    InputError
        If there is no such format, or a package that it needs is not installed.
    """
    listed = formats.split(",") if isinstance(formats, str) else list(formats)
    names = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        what = f"Unknown format {unknown[0]!r}" if unknown else "No format was named"
        raise InputError(f"{what}: choose from {', '.join(FORMATS)}.")
    for name in names:
        for package in FORMATS[name].needs:
            if importlib.util.find_spec(package) is None:
                raise InputError(f"The format {name} needs the package {package}: pip install 'cellinfer[export]'.")
    return names


def _images(results: Results, plate: str | os.PathLike[str] | Plate | None) -> Plate:
    """Find the images of the run, under the names that it gave to their channels."""
    if isinstance(plate, Plate):
        return plate
    folder = location(results.info["input"]["folder"] if plate is None else plate)
    if isinstance(folder, Path) and not folder.is_dir():
        raise InputError(f"The images of the run are not in {folder}: say where they are with --plate.")
    found = read_plate(str(folder), **(results.info["input"].get("read_with") or {}))
    if set(found.channels) == set(results.channels):
        return found
    renamed = found_names(results, found)
    return found if renamed is None else read_plate(str(folder), channels=renamed)
