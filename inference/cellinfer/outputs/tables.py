"""Tables: one Parquet file per kind of object, from the shards of all fields."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from cellinfer_kernels.summary import medians
from numpy.typing import NDArray

from cellinfer.files import durable, plain_text
from cellinfer.outputs.shards import Block, Shard
from cellinfer.pipeline import OBJECTS
from cellinfer.readouts import is_biology, is_readout

_BYTES_PER_GROUP = 16 * 2**20
_WELL_KEY = ["Metadata_Plate", "Metadata_Well", "Metadata_Time"]
NOT_MEASURED = ("Metadata_", "ImageNumber", "ObjectNumber")
"""How the columns begin that say which object a row is of, and not what was measured."""


def write_tables(fields: Iterable[Shard], folder: Path, *, template: Shard, csv: bool = False) -> pd.DataFrame:
    """Write `Nuclei`, `Cells`, `Cytoplasm`, `Image` and `Well` tables, and `Embedding` if there is one.

    Fields come in plate order. They are read once and never held together: memory is that of the largest well, a few
    tens of megabytes for each table, about 1 kB for each field and 8 bytes for each number of the well table.

    Parameters
    ----------
    fields
        Tables of each field; of a failed field only its own row.
    folder
        Where the files go.
    template
        Tables of a field that lacks nothing: the columns that each file has, in this order.
    csv
        Also write each table as CSV.

    Returns
    -------
    DataFrame
        The well table, see `well_profile`.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    with ExitStack() as open_files:
        writers = {
            name: open_files.enter_context(_writing(folder / f"{name}.parquet", block))
            for name, block in template.objects.items()
        }
        schema = _image_schema(template)
        images, wells = [schema.empty_table()], _Wells(template)
        for well in _by_well(fields):
            images.append(_image_table([field.image for field in well], schema))
            for field in well:
                for name, block in field.objects.items():
                    writers[name].add(block)
            for group in _by_time(well):
                wells.add(well_profile(group, template))
    with durable(folder / "Image.parquet") as partial:
        pq.write_table(pa.concat_tables(images), partial)
    profiles = wells.table()
    with durable(folder / "Well.parquet") as partial:
        pq.write_table(pa.Table.from_pandas(profiles, preserve_index=False), partial)
    if csv:
        for name in (*template.objects, "Image", "Well"):
            _write_csv(folder / f"{name}.parquet")
    return profiles


def _image_schema(template: Shard) -> pa.Schema:
    """Return columns and types of the fields' own rows."""
    return pa.Table.from_pandas(pd.DataFrame([template.image]), preserve_index=False).schema.remove_metadata()


def _image_table(images: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return the fields' own rows below each other."""
    columns = [pa.array([row.get(field.name) for row in images], field.type, from_pandas=True) for field in schema]
    return pa.table(columns, schema=schema)


def well_profile(fields: list[Shard], template: Shard) -> dict[str, Any]:
    """Return the row of one well at one time: sums of counts, medians over cells of every measurement.

    Columns: the well's key, `Image_Count_Fields`, `Image_Count_FailedFields`, the sum of each `Image_Count_`, then each
    feature's median under its own name.
    """
    rows = [field.image for field in fields]
    row: dict[str, Any] = {key: rows[0][key] for key in _WELL_KEY}
    row["Image_Count_Fields"] = len(rows)
    row["Image_Count_FailedFields"] = sum(image["Image_Status"] != "ok" for image in rows)
    for column in template.image:
        if column.startswith("Image_Count_"):
            row[column] = sum(int(image.get(column, 0)) for image in rows)
    for name in OBJECTS:
        block = template.objects[name]
        row |= _medians([field.objects[name] for field in fields if name in field.objects] or [block], block)
    return row


def _medians(blocks: list[Block], template: Block) -> dict[str, float]:
    """Return the median over all cells of every feature of one kind of object."""
    values = np.concatenate([aligned(block, template.names) for block in blocks], axis=1)
    found = dict(zip(template.names, medians(values).tolist(), strict=True))
    others = pa.concat_tables([block.others for block in blocks], promote_options="permissive")
    return {
        column: found[column] if column in found else _median(others[column].to_numpy())
        for column in template.columns
        if not column.startswith(NOT_MEASURED)
    }


def aligned(block: Block, names: tuple[str, ...]) -> NDArray[Any]:
    """Return a block's numbers as rows of these names, NaN where it has no such column."""
    own = block.names
    if own == names:
        return block.numbers
    places = {name: place for place, name in enumerate(own)}
    values = np.full((len(names), block.rows), np.nan, block.numbers.dtype)
    for row, name in enumerate(names):
        if (place := places.get(name)) is not None:
            values[row] = block.numbers[place]
    return values


def most_telling_feature(folder: Path) -> tuple[str, float] | None:
    """Return the size, intensity or ratio in which wells differ most, and the share of its variance between wells.

    Without these any feature but places and directions. Cells without a value do not count. None if there are fewer
    than two wells with cells, or no feature varies.
    """
    best: tuple[str, float] | None = None
    for name in OBJECTS:
        table = pq.ParquetFile(folder / f"{name}.parquet")
        measured = [name for name in table.schema_arrow.names if not name.startswith(NOT_MEASURED)]
        features = [*filter(is_readout, measured)] or [*filter(is_biology, measured)]
        if table.metadata.num_rows == 0:
            continue
        wells = table.read(_WELL_KEY).to_pandas().groupby(_WELL_KEY).ngroup()
        wells = wells.where(wells >= 0)  # of no well: of no group either
        for start in range(0, len(features), 16):  # a few columns at a time: the table may not fit into memory
            values = table.read(features[start : start + 16]).to_pandas().astype(np.float64)
            means = values.groupby(wells).transform("mean").where(values.notna())
            total = values.var(ddof=0)
            share = (means.var(ddof=0) / total.where(total > 0)).dropna()
            if len(share) and (best is None or share.max() > best[1]):
                best = (str(share.idxmax()), float(share.max()))
    return best


class _Wells:
    """The rows of the well table, as numbers."""

    def __init__(self, template: Shard) -> None:
        self._columns = list(well_profile([template], template))
        self._texts: list[tuple[str, str]] = []
        self._numbers: list[NDArray[np.float64]] = []

    def add(self, row: dict[str, Any]) -> None:
        plate, well = _WELL_KEY[:2]
        self._texts.append((row[plate], row[well]))
        self._numbers.append(np.array([row[name] for name in self._columns if name not in (plate, well)], np.float64))

    def table(self) -> pd.DataFrame:
        numbers = iter(np.stack(self._numbers, axis=1))
        columns: dict[str, Any] = {}
        for name in self._columns:
            if name in _WELL_KEY[:2]:
                columns[name] = pd.Series([text[_WELL_KEY.index(name)] for text in self._texts], dtype="str")
            else:
                whole = name.startswith("Image_Count_") or name == "Metadata_Time"
                columns[name] = next(numbers).astype(np.int64 if whole else np.float64)
        return pd.DataFrame(columns)


def _median(values: np.ndarray[Any, Any]) -> float:
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.median(numbers)) if numbers.size else float("nan")


def _by_well(fields: Iterable[Shard]) -> Iterator[list[Shard]]:
    """Group consecutive fields of one well; plate order keeps a well together."""
    for _, well in itertools.groupby(fields, key=lambda field: [field.image[column] for column in _WELL_KEY[:2]]):
        yield list(well)


def _by_time(well: list[Shard]) -> list[list[Shard]]:
    """Part a well's fields by time point, in order."""
    times: dict[int, list[Shard]] = {}
    for field in well:
        times.setdefault(field.image["Metadata_Time"], []).append(field)
    return [times[time] for time in sorted(times)]


@contextmanager
def _writing(path: Path, template: Block) -> Iterator[_GrowingTable]:
    """Write a Parquet file in pieces; it appears whole at the end, or not at all."""
    types = {field.name: field.type for field in template.others.schema}
    number = pa.from_numpy_dtype(template.numbers.dtype)
    schema = pa.schema([(name, types.get(name, number)) for name in template.columns])
    with (
        durable(path) as partial,
        pq.ParquetWriter(partial, schema, use_dictionary=[n for n, kind in types.items() if _is_text(kind)]) as file,
    ):
        table = _GrowingTable(file, schema, template)
        yield table
        table.flush()


class _GrowingTable:
    """Blocks that wait until they are worth a group of rows in a Parquet file."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, template: Block) -> None:
        self._file, self._schema = file, schema
        self._names, self._others = template.names, template.others.schema
        self._most = max(1, _BYTES_PER_GROUP // (template.numbers.itemsize * max(1, len(template.columns))))
        self._blocks: list[Block] = []
        self._rows = 0

    def add(self, block: Block) -> None:
        self._blocks.append(block)
        self._rows += block.rows
        if self._rows >= self._most:
            self.flush()

    def flush(self) -> None:
        if not self._blocks:
            return
        numbers = np.concatenate([aligned(block, self._names) for block in self._blocks], axis=1)
        others = pa.concat_tables(
            [self._others.empty_table(), *(block.others for block in self._blocks)], promote_options="permissive"
        )
        columns = {name: pa.array(row, from_pandas=True) for name, row in zip(self._names, numbers, strict=True)}
        columns |= {field.name: others[field.name].cast(field.type) for field in self._others}
        self._file.write_table(pa.table([columns[field.name] for field in self._schema], schema=self._schema))
        self._blocks, self._rows = [], 0


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _write_csv(path: Path) -> None:
    source = pq.ParquetFile(path)
    with durable(path.with_suffix(".csv")) as partial, pa.csv.CSVWriter(partial, source.schema_arrow) as writer:
        for group in range(source.num_row_groups):
            writer.write_table(_without_formulas(source.read_row_group(group)))


def _without_formulas(table: pa.Table) -> pa.Table:
    """Guard text cells against spreadsheets that would run them."""
    for index, field in enumerate(table.schema):
        if _is_text(field.type):
            cells = [None if cell is None else plain_text(cell) for cell in table.column(index).to_pylist()]
            table = table.set_column(index, field, pa.array(cells, field.type))
    return table
