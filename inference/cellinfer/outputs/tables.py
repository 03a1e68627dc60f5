"""Tables: one small file per field while the run goes on, then one Parquet file per kind of object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from cellinfer.files import durable, output_errors, plain_text
from cellinfer.pipeline import OBJECTS, FieldResult
from cellinfer.readouts import is_biology, is_readout

_ROWS_PER_GROUP = 50_000
_WELL_KEY = ["Metadata_Plate", "Metadata_Well", "Metadata_Time"]
_NOT_MEASURED = ("Metadata_", "ImageNumber", "ObjectNumber")


def write_shard(result: FieldResult, path: Path) -> None:
    """Write one field's tables and its own row into one Arrow file."""
    with durable(path) as partial, pa.OSFile(str(partial), "wb") as sink:
        for table in tables_of(result).values():
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)


def read_shard(path: Path) -> dict[str, pa.Table]:
    """Read what `write_shard` wrote: the object tables by name, and `"Image"`."""
    with pa.OSFile(str(path), "rb") as source:
        return {name: pa.ipc.open_stream(source).read_all() for name in (*OBJECTS, "Image")}


def image_row(row: dict[str, Any]) -> pa.Table:
    """Return a field's own row as a table of one row."""
    return pa.Table.from_pandas(pd.DataFrame([row]), preserve_index=False)


def tables_of(result: FieldResult) -> dict[str, pa.Table]:
    """Return one field's tables and its own row by name, as Arrow tables."""
    return {name: _arrow(result.tables[name]) for name in OBJECTS} | {"Image": image_row(result.image)}


def _arrow(table: pd.DataFrame) -> pa.Table:
    """Convert as `pyarrow.Table.from_pandas` does, missing values to nulls, in a tenth of its time for many columns."""
    floats = (table.dtypes == np.float64).to_numpy()
    block = iter(np.ascontiguousarray(table.loc[:, floats].to_numpy().T))
    arrays = [
        pa.array(next(block) if is_float else table.iloc[:, place], from_pandas=True)
        for place, is_float in enumerate(floats)
    ]
    return pa.Table.from_arrays(arrays, names=[str(name) for name in table.columns])


def write_tables(
    fields: Iterable[dict[str, pa.Table]], folder: Path, *, template: dict[str, pa.Table], csv: bool = False
) -> pd.DataFrame:
    """Write `Nuclei`, `Cells`, `Cytoplasm`, `Image` and `Well` tables from fields in plate order.

    Fields are read once and never held together: memory is that of the largest well.

    Parameters
    ----------
    fields
        Tables of each field, as `read_shard` gives them; a failed field has only `"Image"`.
    folder
        Where the files go.
    template
        Tables of a field with every channel: the columns that each file has at least, in this order.
    csv
        Also write each table as CSV.

    Returns
    -------
    DataFrame
        The well table, see `well_profile`.
    """
    for left in folder.glob(".*.spill"):  # of a run that was killed
        left.unlink(missing_ok=True)
    writers = {name: _GrowingParquet(folder / f"{name}.parquet") for name in template}
    for name, table in template.items():
        writers[name].add(table.slice(0, 0))
    wells = [well_profile([template]).iloc[:0]]
    for well in _by_well(fields):
        for field in well:
            for name, table in field.items():
                writers[name].add(table)
        wells += [well_profile(group) for group in _by_time(well)]
    for writer in writers.values():
        writer.close()
    profiles = _stacked(wells)
    with durable(folder / "Well.parquet") as partial:
        pq.write_table(pa.Table.from_pandas(profiles, preserve_index=False), partial)
    if csv:
        for name in (*OBJECTS, "Image", "Well"):
            _write_csv(folder / f"{name}.parquet")
    return profiles


def well_profile(fields: list[dict[str, pa.Table]]) -> pd.DataFrame:
    """Return one row for one well at one time: sums of counts, medians over cells of every feature.

    Columns: the well's key, `Image_Count_Fields`, `Image_Count_FailedFields`, the sum of each `Image_Count_`, then
    each feature's median under its own name.
    """
    images = pd.concat([field["Image"].to_pandas() for field in fields], ignore_index=True)
    row: dict[str, Any] = {key: images[key].iloc[0] for key in _WELL_KEY}
    row["Image_Count_Fields"] = len(images)
    row["Image_Count_FailedFields"] = int((images["Image_Status"] != "ok").sum())
    for column in images.columns:
        if column.startswith("Image_Count_"):
            row[column] = int(images[column].fillna(0).sum())
    for name in OBJECTS:
        tables = [field[name] for field in fields if name in field]
        if tables:
            cells = pa.concat_tables(tables, promote_options="permissive")
            for column in cells.column_names:
                if not column.startswith(_NOT_MEASURED):
                    row[column] = _median(cells[column].to_numpy())
    return pd.DataFrame([row])


def most_telling_feature(folder: Path) -> tuple[str, float] | None:
    """Return the size, intensity or ratio in which wells differ most, and the share of its variance between wells.

    Without these any feature but places and directions. Cells without a value do not count. None if there are fewer
    than two wells with cells, or no feature varies.
    """
    best: tuple[str, float] | None = None
    for name in OBJECTS:
        table = pq.ParquetFile(folder / f"{name}.parquet")
        measured = [name for name in table.schema_arrow.names if not name.startswith(_NOT_MEASURED)]
        features = [*filter(is_readout, measured)] or [*filter(is_biology, measured)]
        for start in range(0, len(features), 16):  # a few columns at a time: the table may not fit into memory
            chosen = features[start : start + 16]
            cells = table.read([*_WELL_KEY, *chosen]).to_pandas()
            if len(cells) == 0:
                continue
            values = cells[chosen].astype(np.float64)
            means = values.groupby([cells[key] for key in _WELL_KEY]).transform("mean").where(values.notna())
            total = values.var(ddof=0)
            share = (means.var(ddof=0) / total.where(total > 0)).dropna()
            if len(share) and (best is None or share.max() > best[1]):
                best = (str(share.idxmax()), float(share.max()))
    return best


def _stacked(wells: list[pd.DataFrame]) -> pd.DataFrame:
    """Put well rows below each other; a count that a well lacks, since all its fields failed, is zero."""
    table = pd.concat([well.astype(object) for well in wells], ignore_index=True)
    for column in table.columns:
        if column.startswith("Image_Count_"):
            table[column] = table[column].fillna(0).astype(np.int64)
        elif column in ("Metadata_Plate", "Metadata_Well"):
            table[column] = table[column].astype(str)
        else:
            table[column] = table[column].astype(np.int64 if column == "Metadata_Time" else np.float64)
    return table


def _median(values: np.ndarray[Any, Any]) -> float:
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.median(numbers)) if numbers.size else float("nan")


def _by_well(fields: Iterable[dict[str, pa.Table]]) -> Iterator[list[dict[str, pa.Table]]]:
    """Group consecutive fields of one well; plate order keeps a well together."""
    current: list[dict[str, pa.Table]] = []
    key = None
    for field in fields:
        found = tuple(field["Image"][column][0].as_py() for column in _WELL_KEY[:2])
        if current and found != key:
            yield current
            current = []
        key = found
        current.append(field)
    if current:
        yield current


def _by_time(well: list[dict[str, pa.Table]]) -> list[list[dict[str, pa.Table]]]:
    """Part a well's fields by time point, in order."""
    times: dict[int, list[dict[str, pa.Table]]] = {}
    for field in well:
        times.setdefault(field["Image"]["Metadata_Time"][0].as_py(), []).append(field)
    return [times[time] for time in sorted(times)]


class _GrowingParquet:
    """A Parquet file written in pieces, whose schema is settled by all of them before the first is written.

    Fields may lack a channel, so their tables may lack columns. Full groups wait in uncompressed files beside the
    result until every column is known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces: list[pa.Table] = []
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._spills: list[Path] = []

    def add(self, table: pa.Table) -> None:
        table = table.replace_schema_metadata(None)
        wider = (
            table.schema
            if self._schema is None
            else pa.unify_schemas([self._schema, table.schema], promote_options="permissive")
        )
        self._schema = wider
        self._pieces.append(table)
        self._rows += len(table)
        if self._rows >= _ROWS_PER_GROUP:
            self._spill()

    def _spill(self) -> None:
        spill = self._path.with_name(f".{self._path.name}.{len(self._spills)}.spill")
        with output_errors(spill), pa.OSFile(str(spill), "wb") as sink:
            table = pa.concat_tables(self._pieces, promote_options="permissive")
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        self._spills.append(spill)
        self._pieces, self._rows = [], 0

    def close(self) -> None:
        schema = pa.schema([]) if self._schema is None else self._schema
        with durable(self._path) as partial, pq.ParquetWriter(partial, schema) as writer:
            for spill in self._spills:
                with pa.memory_map(str(spill)) as source:
                    writer.write_table(_conform(pa.ipc.open_file(source).read_all(), schema))
                spill.unlink()
            if self._pieces:
                writer.write_table(_conform(pa.concat_tables(self._pieces, promote_options="permissive"), schema))


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _write_csv(path: Path) -> None:
    source = pq.ParquetFile(path)
    with durable(path.with_suffix(".csv")) as partial, pa.csv.CSVWriter(partial, source.schema_arrow) as writer:
        for group in range(source.num_row_groups):
            writer.write_table(_without_formulas(source.read_row_group(group)))


def _without_formulas(table: pa.Table) -> pa.Table:
    """Guard text cells against spreadsheets that would run them."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            cells = [None if cell is None else plain_text(cell) for cell in table.column(index).to_pylist()]
            table = table.set_column(index, field, pa.array(cells, field.type))
    return table
