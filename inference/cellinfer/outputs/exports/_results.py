"""A finished result folder, read one field at a time: tables, label images, outlines, and the images behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cellinfer_kernels.components import areas
from cellinfer_kernels.outlines import Outlines, outlines
from numpy.typing import NDArray

from cellinfer.errors import ImageError, InputError
from cellinfer.images import read_channel, read_labels
from cellinfer.journal import field_name
from cellinfer.outputs.tables import NOT_MEASURED
from cellinfer.pipeline import KEY_COLUMNS, OBJECTS
from cellinfer.plate import Field, FieldKey, Plate

KINDS = ("Nuclei", "Cells")
"""Kinds of label images."""
_FILE_NAME = "Image_FileName_"
_BATCH = 2048


class Feature(NamedTuple):
    """A measured column, and the table that holds it."""

    compartment: str
    column: str


@dataclass(frozen=True)
class Analysed:
    """A field that has results: its key, number and size as its row in `Image.parquet` says them."""

    key: FieldKey
    number: int
    cells: int
    files: Mapping[str, str]
    """Channel -> name of its image file; empty where the field lacks the channel."""

    @property
    def name(self) -> str:
        """The field's key as one word that is safe in file names."""
        return field_name(Field(self.key, {}, self.number))


class Results:
    """A finished result folder.

    Parameters
    ----------
    folder
        As `cellinfer.run` left it.

    Raises
    ------
    InputError
        If it is no result folder, the run is not finished, or a table is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = _run_info(folder)
        self._schemas: dict[str, pa.Schema] = {}
        for name in OBJECTS:
            with _parquet(folder / f"{name}.parquet") as table:
                self._schemas[name] = table.schema_arrow
        with _parquet(folder / "Image.parquet") as table:
            self.fields = tuple(_analysed(table.read()))

    @property
    def plate(self) -> str:
        """Name of the plate."""
        return str(self.info["input"]["plate"])

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that were measured."""
        return tuple(self.info["input"]["channels"])

    @property
    def pixel_size(self) -> float | None:
        """Micrometres per pixel, if the images say so."""
        size = self.info["input"]["pixel_size_um"]
        return None if size is None else float(size)

    @property
    def cells(self) -> int:
        """Cells in all fields."""
        return sum(head.cells for head in self.fields)

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the results: for the metadata of every file that is written from them."""
        model = self.info["model"]
        return {
            "cellinfer": self.info["cellinfer"],
            "model": model["name"],
            "model_version": model["version"],
            "model_sha256": model["sha256"],
            "precision": self.info["precision"]["precision"],
            "configuration": self.info["configuration"],
            "plate": self.plate,
            "run_finished": self.info["finished"],
        }

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """All measured columns."""
        return tuple(
            Feature(name, column.name)
            for name, schema in self._schemas.items()
            for column in schema
            if not column.name.startswith(NOT_MEASURED) and _is_number(column.type)
        )

    def kind_of(self, feature: Feature) -> pa.DataType:
        """Return the type of a measured column: `int64` for counts, else `float64`."""
        kind = self._schemas[feature.compartment].field(feature.column).type
        return pa.int64() if pa.types.is_integer(kind) else pa.float64()

    def each(self) -> Iterator[ResultField]:
        """Give the fields in plate order, each with its rows; no more than a few thousand rows are held at a time.

        Raises
        ------
        InputError
            If the tables do not fit each other.
        """
        with ExitStack() as stack:
            files = {name: stack.enter_context(_parquet(self.folder / f"{name}.parquet")) for name in OBJECTS}
            rows = {name: _Rows(file) for name, file in files.items()}
            for head in self.fields:
                tables = {name: table.of(head.number) for name, table in rows.items()}
                numbers = [table["ObjectNumber"].to_pylist() for table in tables.values()]
                if numbers != [numbers[0]] * len(numbers) or len(numbers[0]) != head.cells:
                    raise InputError(
                        f"The tables in {self.folder} do not fit each other at field {head.name}: run the same "
                        "`cellinfer run` command again with --fresh."
                    )
                yield ResultField(self, head, tables)


@dataclass
class ResultField:
    """One field with its rows; label images and outlines are read and traced when first asked for."""

    results: Results
    head: Analysed
    tables: dict[str, pa.Table]
    _labels: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    _outlines: dict[str, Outlines] = field(default_factory=dict)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(n,) ObjectNumber of each cell, one row of every table."""
        return np.asarray(self.tables["Cells"]["ObjectNumber"].to_numpy(), dtype=np.int64)

    def values(self, features: tuple[Feature, ...]) -> NDArray[np.float64]:
        """Return features, (n cells, n features); a missing value is NaN."""
        block = np.empty((self.head.cells, len(features)))
        for place, feature in enumerate(features):
            block[:, place] = self.tables[feature.compartment][feature.column].to_numpy()
        return block

    def labels(self, kind: str) -> NDArray[np.int32]:
        """Return a label image, `(H, W)` int32."""
        if kind not in self._labels:
            path = self.results.folder / "labels" / kind / f"{self.head.name}.ome.tiff"
            try:
                self._labels[kind] = read_labels(path)
            except ImageError as error:
                raise InputError(
                    f"The results in {self.results.folder} are not complete ({error}): run the same `cellinfer run` "
                    "command again, then export."
                ) from error
            if not np.array_equal(areas(self._labels[kind])[0], self.numbers):
                raise InputError(
                    f"{path} shows other objects than the tables: run the same `cellinfer run` command again with "
                    "--fresh, then export."
                )
        return self._labels[kind]

    def outlines(self, kind: str) -> Outlines:
        """Return the outlines of the objects of a label image."""
        if kind not in self._outlines:
            self._outlines[kind] = outlines(self.labels(kind))
        return self._outlines[kind]


class Images:
    """The images that a run analysed, found again.

    Parameters
    ----------
    results
        Of the run.
    plate
        The plate as `cellinfer.read_plate` reads it.

    Raises
    ------
    InputError
        If these are not the images of the run.
    """

    def __init__(self, results: Results, plate: Plate) -> None:
        self._fields = {field_name(f): f for f in plate.fields}
        self._z = results.info["configuration"].get("z", "max")  # runs before there was a choice
        for head in results.fields:
            found = self._fields.get(head.name)
            names = {} if found is None else {name: Path(refs[0].path).name for name, refs in found.images.items()}
            if names != {channel: name for channel, name in head.files.items() if name}:
                raise InputError(
                    f"The images in {plate.root} are not those of the run in {results.folder}, field {head.name} "
                    f"differs: say where they are with --plate, and how they are read with --layout, --pattern and "
                    "--channel as in the run."
                )

    def read(self, head: Analysed, shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
        """Return the channels that a field has, each `(H, W)`, z-stacks projected as they were analysed."""
        planes = {
            channel: read_channel(self._fields[head.name], channel, z=self._z)
            for channel in head.files
            if head.files[channel]
        }
        if any(plane.shape != shape for plane in planes.values()):
            raise InputError(f"The images of field {head.name} changed since the run: run it again, then export.")
        return planes


def found_names(results: Results, plate: Plate) -> dict[str, str] | None:
    """Tell from the names of files which channel was renamed to which in the run.

    Returns
    -------
    dict or None
        New name -> found name; None if file names do not tell.
    """
    if not results.fields:
        return None
    head = results.fields[0]
    images = {field_name(f): f for f in plate.fields}.get(head.name)
    if images is None:
        return None
    by_file = {Path(refs[0].path).name: channel for channel, refs in images.images.items()}
    names = {channel: by_file.get(head.files.get(channel, ""), "") for channel in results.channels}
    unique = len(by_file) == len(images.images) and len(set(names.values())) == len(names)
    return names if unique and all(names.values()) else None


class _Rows:
    """Gives the rows of a table field by field; the rows of a field stand together, in the order of fields."""

    def __init__(self, table: pq.ParquetFile) -> None:
        self._batches = table.iter_batches(_BATCH)
        self._held = table.schema_arrow.empty_table()

    def of(self, number: int) -> pa.Table:
        """Return the rows of a field."""
        pieces = [self._held.slice(0, 0)]
        while True:
            if len(self._held) == 0:
                batch = next(self._batches, None)
                if batch is None:
                    break
                self._held = pa.Table.from_batches([batch])
            own = self._held["ImageNumber"].to_numpy() == number
            count = len(own) if own.all() else int(np.argmin(own))
            pieces.append(self._held.slice(0, count))
            self._held = self._held.slice(count)
            if len(self._held):
                break
        return pa.concat_tables(pieces).combine_chunks()


def _run_info(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the result folder of a finished run.")
    if not (folder / "run.json").is_file():
        if (folder / "journal.jsonl").is_file():
            raise InputError(f"The run in {folder} is not finished: run the same `cellinfer run` command again first.")
        raise InputError(f"{folder} is no result folder (it holds no run.json): give the --out of a finished run.")
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if not {"cellinfer", "model", "configuration", "input", "precision", "finished"} <= set(info):
            raise ValueError("it lacks entries")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / 'run.json'} cannot be read ({error}): run the same command again.") from error
    return dict(info)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({error}): run the same `cellinfer run` command again.") from error


def _analysed(images: pa.Table) -> Iterator[Analysed]:
    """Read the fields that have results from the table of images."""
    images = images.filter(pc.equal(images["Image_Status"], "ok"))
    channels = [name.removeprefix(_FILE_NAME) for name in images.column_names if name.startswith(_FILE_NAME)]
    columns = [*KEY_COLUMNS, "Image_Count_Cells", *(_FILE_NAME + channel for channel in channels)]
    for plate, well, site, time, number, cells, *files in zip(
        *(images[column].to_pylist() for column in columns), strict=True
    ):
        names = {channel: name or "" for channel, name in zip(channels, files, strict=True)}
        yield Analysed(FieldKey(plate, well, int(site), int(time)), int(number), int(cells), names)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
