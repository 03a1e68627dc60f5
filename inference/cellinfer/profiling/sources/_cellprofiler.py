"""CellProfiler's tables of objects and images, as CSV files or in an SQLite file, joined by its numbers.

Objects name their image by `ImageNumber`, and other objects by `Parent_<object>`. A row is one of the object that names
most of the others as parents (the cytoplasm, as a rule), with the features of its parents.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cellinfer.errors import InputError
from cellinfer.profiling.columns import features_among, is_metadata
from cellinfer.profiling.sources._columnar import Columnar, Panel, Part, as_text, from_csv, made_of
from cellinfer.profiling.sources._match import match, short_names

_SQLITE = (".sqlite", ".sqlite3", ".db")
_OBJECT = ("Cells", "Cytoplasm", "Nuclei")
_ROWS = 20_000


@dataclass
class _Object:
    """One kind of object: where its columns are, by their names with the object's in front."""

    name: str
    file: Columnar
    columns: dict[str, str]
    image: list[str]
    """Columns that name the image: ImageNumber, perhaps with TableNumber."""
    number: str
    parents: dict[str, str] = field(default_factory=dict)
    """Other object -> the column that holds its number."""


def can_read(path: Path) -> bool:
    """Tell whether a path is an SQLite file, or a folder that holds CSV files of objects."""
    if path.is_file():
        return path.name.lower().endswith(_SQLITE)
    return any(_is_of_images(file) for file in path.glob("*.csv"))


def read(path: Path) -> Part:
    """Open tables of objects, joined to one row a cell."""
    notes: list[str] = []
    tables = _from_sqlite(path) if path.is_file() else _from_folder(path, notes)
    images = tables.pop("Image", None)
    objects = [one for name, table in tables.items() if (one := _object(name, table)) is not None]
    if not objects:
        raise InputError(f"{path} holds no objects: a table of them has the columns ImageNumber and ObjectNumber.")
    names = {one.name for one in objects}
    for one in objects:
        one.parents = {
            name: column
            for name in sorted(names - {one.name})
            if (column := f"{one.name}_Parent_{name}") in one.columns
        }
    base = max(objects, key=lambda one: (len(one.parents), one.name in _OBJECT, one.name == "Cells"))
    keys, image_table = _keys(path, base, images)
    panels = [_panel(base, None)]
    whole = np.ones(base.file.rows, bool)
    for one in objects:
        if one is base:
            continue
        if one.name not in base.parents:
            notes.append(f"{path}: {one.name} are left out, since {base.name} do not name them as parents.")
            continue
        found = one.file.metadata([*one.image, one.number])
        sought = base.file.metadata([*base.image, base.columns[base.parents[one.name]]])
        rows = match(
            sought.set_axis(found.columns, axis=1).astype(np.int64), found.astype(np.int64), str(one.file.origin)
        )
        whole &= rows >= 0
        panels.append(_panel(one, rows))
    if not whole.all():
        notes.append(
            f"{path}: {int((~whole).sum()):,} of {len(whole):,} {base.name} are left out, having lost a parent."
        )
        kept = np.flatnonzero(whole)
        keys = keys.iloc[kept].reset_index(drop=True)
        for panel in panels:
            panel.rows = kept if panel.rows is None else panel.rows[kept]
    if not any(panel.stored for panel in panels):
        raise InputError(f"{path} has no features: its objects have no column of numbers but their own.")
    return Part(str(path), keys, panels, image_table, notes)


def _object(name: str, table: Columnar) -> _Object | None:
    names = table.schema.names
    number = next(
        (n for n in ("ObjectNumber", f"{name}_Number_Object_Number", f"{name}_ObjectNumber") if n in names), None
    )
    image = [n for n in ("TableNumber", "ImageNumber") if n in names]
    if number is None or "ImageNumber" not in image:
        return None
    own = f"{name}_"
    columns = {n if n.startswith(own) or name == "Object" else own + n: n for n in names if n not in (*image, number)}
    return _Object(name, table, columns, image, number)


def _panel(one: _Object, rows: Any) -> Panel:
    types = one.file.types
    stored = {name: column for name, column in one.columns.items() if not is_metadata(column)}
    features = features_among({name: types[column] for name, column in stored.items()})
    return Panel(one.file, {name: stored[name] for name in features}, rows)


def _keys(path: Path, base: _Object, images: Columnar | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return what each object is: metadata of its image, or its own if there is no table of images."""
    keys = base.file.metadata([*base.image, base.number]).astype(np.int64)
    keys = keys.rename(columns={base.number: "ObjectNumber"})
    if images is None:
        own = base.file.metadata([name for name in base.columns.values() if is_metadata(name)])
        return pd.concat([own, keys], axis=1), None
    if missing := [name for name in base.image if name not in images.schema.names]:
        raise InputError(f"{images.origin} has no column {missing[0]}: objects cannot be told where they are.")
    fields = images.metadata(images.schema.names).rename(columns=short_names(images.schema.names))
    rows = match(keys[base.image], fields[base.image].astype(np.int64), str(images.origin))
    if lost := int((rows < 0).sum()):
        raise InputError(f"{lost:,} objects in {path} are of images that {images.origin} does not list.")
    own = fields[[name for name in fields if is_metadata(str(name))]]
    return pd.concat([own.iloc[rows].reset_index(drop=True), keys], axis=1), as_text(fields)


def _is_of_images(file: Path) -> bool:
    """Tell from its first line whether a CSV file is one of CellProfiler's."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return "ImageNumber" in re.split(r'[,"\r\n]+', lines.readline(1_000_000))
    except OSError:
        return False


def _from_folder(folder: Path, notes: list[str]) -> dict[str, Columnar]:
    """Return the tables of a folder by their objects, which end their names: `Cells.csv`, `MyExpt_Cells.csv`."""
    files = {file.stem: file for file in sorted(folder.glob("*.csv")) if _is_of_images(file)}
    tables: dict[str, Columnar] = {}
    for stem, file in files.items():
        name = stem.rsplit("_", 1)[-1]
        if name in tables:
            raise InputError(f"{folder} has more than one table of {name}: keep the files of one analysis in a folder.")
        tables[name], own = from_csv(file)
        notes += own if name != "Image" else []
    return tables


def _from_sqlite(path: Path) -> dict[str, Columnar]:
    """Return the tables of an SQLite file by their objects: `Per_Cells`, perhaps behind a prefix, or `Cells`."""
    tables: dict[str, Columnar] = {}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            for (table,) in found:
                types = {
                    str(row[1]): _sqlite_type(str(row[1]), str(row[2]))
                    for row in database.execute(f"PRAGMA table_info({_quoted(table)})")
                }
                name = re.sub(r"^(.*_)?Per_", "", table)
                if "ImageNumber" not in types:
                    continue
                if name in tables:
                    raise InputError(f"{path} has more than one table of {name}: it holds more than one analysis.")
                tables[name] = made_of(
                    _sqlite_rows(database, path, table, types), pa.schema(types), f"{path} ({table})"
                )
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be read as SQLite ({error}).") from error
    return tables


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sqlite_type(name: str, declared: str) -> pa.DataType:
    kind = declared.upper()
    if any(word in kind for word in ("CHAR", "TEXT", "CLOB", "BLOB", "DATE")):
        return pa.string()
    whole = "INT" in kind and (is_metadata(name) or name.endswith("Number"))
    return pa.int64() if whole else pa.float64()


def _sqlite_rows(
    database: sqlite3.Connection, path: Path, table: str, types: Mapping[str, pa.DataType]
) -> Iterator[pa.Table]:
    rows = database.execute(f"SELECT {', '.join(map(_quoted, types))} FROM {_quoted(table)}")  # noqa: S608 # quoted
    while batch := rows.fetchmany(_ROWS):
        columns = {}
        for (name, kind), values in zip(types.items(), zip(*batch, strict=True), strict=True):
            try:
                columns[name] = pa.array(values, kind)
            except (pa.ArrowException, TypeError, OverflowError):  # SQLite takes any value in any column
                columns[name] = pa.array(
                    [_converted(value, kind, f"{path} ({table}), column {name}") for value in values], kind
                )
        yield pa.table(columns)


def _converted(value: Any, kind: pa.DataType, where: str) -> Any:
    if value is None:
        return None
    if kind == pa.string():
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    try:
        return int(value) if kind == pa.int64() else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}, holds {value!r} among its numbers.") from error
