"""One row per cell with the names that CytoTable gives to CellProfiler's tables (its preset `cellprofiler_csv`).

Checked against CytoTable 1.2: cytoplasm, cell and nucleus joined by `Metadata_Cytoplasm_Parent_...`, identifying
columns begin with `Metadata_`. Plate, well, site and time are there as well, as pycytominer wants them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cellinfer.files import durable
from cellinfer.outputs.exports._options import Options
from cellinfer.outputs.exports._results import Feature, ResultField, Results
from cellinfer.pipeline import KEY_COLUMNS

_NAME = "cells.cytotable.parquet"
_ORDER = ("Cytoplasm", "Cells", "Nuclei")
_ROWS = 5000
"""Rows to a group, at least: what is held in memory."""
_PARENTS = {
    "Metadata_Cells_Parent_Nuclei": "Cells",
    "Metadata_Cytoplasm_Parent_Cells": "Cytoplasm",
    "Metadata_Cytoplasm_Parent_Nuclei": "Cytoplasm",
}
"""New name -> table whose objects have the parent, which has the same number here."""


def planned(results: Results, options: Options) -> tuple[str, ...]:
    """Return the file that will be written."""
    return (_NAME,)


@contextmanager
def writing(results: Results, folder: Path, options: Options) -> Iterator[Callable[[ResultField], None]]:
    """Give the function that adds one field."""
    measured = [feature for feature in results.features if "_Parent_" not in feature.column]
    features = {f: results.kind_of(f) for f in sorted(measured, key=lambda f: _ORDER.index(f.compartment))}
    channels = tuple(results.fields[0].files) if results.fields else ()
    provenance = {"cellinfer": json.dumps(results.provenance, ensure_ascii=False)}
    schema = _schema(features, channels).with_metadata(provenance)
    waiting: list[pa.Table] = []
    with durable(folder / _NAME) as partial, pq.ParquetWriter(partial, schema) as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
            waiting.clear()

        def add(field: ResultField) -> None:
            waiting.append(_rows(field, tuple(features), schema))
            if sum(map(len, waiting)) >= _ROWS:
                flush()

        yield add
        flush()


def _schema(features: Mapping[Feature, pa.DataType], channels: tuple[str, ...]) -> pa.Schema:
    whole, text = pa.int64(), pa.string()
    numbers = [(f"{name}_Number_Object_Number", whole) for name in _ORDER]
    taken = {name for name, _ in numbers}
    return pa.schema(
        [
            ("Metadata_ImageNumber", whole),
            *((name, whole) for name in _PARENTS),
            ("Metadata_ObjectNumber", whole),
            ("Metadata_Plate", text),
            ("Metadata_Well", text),
            ("Metadata_Site", whole),
            ("Metadata_Time", whole),
            ("Image_Metadata_Plate", text),
            ("Image_Metadata_Well", text),
            *((f"Image_FileName_{channel}", text) for channel in channels),
            *numbers,
            *((feature.column, kind) for feature, kind in features.items() if feature.column not in taken),
        ]
    )


def _rows(field: ResultField, features: tuple[Feature, ...], schema: pa.Schema) -> pa.Table:
    numbers = pa.array(field.numbers)
    count = len(numbers)
    key = dict(zip(KEY_COLUMNS, (*field.head.key, field.head.number), strict=True))
    values: dict[str, pa.Array] = {
        **dict.fromkeys((*_PARENTS, "Metadata_ObjectNumber"), numbers),
        **dict.fromkeys((f"{name}_Number_Object_Number" for name in _ORDER), numbers),
        "Metadata_ImageNumber": pa.repeat(key.pop("ImageNumber"), count),
        **{name: pa.repeat(value, count) for name, value in key.items()},
        **{f"Image_{name}": pa.repeat(key[name], count) for name in ("Metadata_Plate", "Metadata_Well")},
        **{f"Image_FileName_{channel}": pa.repeat(name, count) for channel, name in field.head.files.items()},
    }
    for feature in features:
        values.setdefault(feature.column, field.tables[feature.compartment][feature.column])
    return pa.Table.from_arrays([values[column.name].cast(column.type) for column in schema], schema=schema)
