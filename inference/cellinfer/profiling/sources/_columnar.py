"""Columns in Parquet files: read a few at a time, and made of files that are only read as a whole."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.files import output_errors

_BLOCK = 16 * 2**20
_BAD_VALUE = re.compile(r"In CSV column #(\d+): .*conversion error to (\w+)(.*)", re.DOTALL)
_INDEX = re.compile(r"(Unnamed: \d+)?$")
"""How pandas names the numbers of rows that it writes in front."""


class Columnar:
    """A Parquet file whose columns are read by themselves.

    Parameters
    ----------
    path
        The file.
    origin
        The file it was made of, which messages name; itself if None.

    Raises
    ------
    InputError
        If it is none, or has two columns of one name.
    """

    def __init__(self, path: Path, origin: Path | str | None = None) -> None:
        self.path, self.origin = path, origin or path
        with self._open() as file:
            self.schema: pa.Schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows
        _refuse_twins(self.schema.names, self.origin)

    @property
    def types(self) -> dict[str, object]:
        """Column -> its type in pandas."""
        return {column.name: _pandas_type(column.type) for column in self.schema}

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """Return columns of numbers, `(n, k)` float64, each column contiguous; NaN where a value is missing."""
        values = np.empty((self.rows, len(columns)), order="F")
        with self._open() as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                table = self._decoded(file, group, list(dict.fromkeys(columns)))
                for place, name in enumerate(columns):
                    values[start:stop, place] = table[name].to_numpy()
                start = stop
        return values

    def metadata(self, columns: Sequence[str]) -> pd.DataFrame:
        """Return columns as they are, text as categories in alphabetical order."""
        texts = [name for name in columns if _is_text(self.schema.field(name).type)]
        with self._open(texts) as file:
            try:
                table = file.read(list(columns))
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{self.origin} is damaged ({error}): write it again.") from error
        frame = pd.DataFrame({name: _as_pandas(table[name]) for name in columns}, index=range(self.rows))
        for name in texts:
            frame[name] = as_categories(frame[name])
        return frame

    def _decoded(self, file: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        try:
            return file.read_row_group(group, columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.origin} is damaged ({error}): write it again.") from error

    def _open(self, texts: list[str] | None = None) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, read_dictionary=texts)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.origin} cannot be read as Parquet ({error}).") from error


def as_categories(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return text as categories in alphabetical order, other values by their text."""
    values = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype("category")
    names = [_text(name) for name in values.cat.categories]
    renamed = values.cat.rename_categories(names)
    return renamed.cat.set_categories(pd.Index(sorted(names), dtype="str"), ordered=False)


def _text(value: Any) -> str:
    """Return a name as text: a whole number without its point, which it has but for a gap in its column."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose categories are text again."""
    return table.astype({name: "str" for name, kind in table.dtypes.items() if isinstance(kind, pd.CategoricalDtype)})


@dataclass
class Panel:
    """Some features of the cells of a source: where they are kept, and in which rows."""

    file: Columnar
    stored: Mapping[str, str]
    """Feature -> column of the file."""
    rows: NDArray[np.int64] | None = None
    """Row of the file for each cell, below 0 for none; None if these are the rows of the file, in order."""

    def read(self, features: Sequence[str]) -> NDArray[np.float64]:
        """Return features of all cells, `(n, k)`."""
        values = self.file.numbers([self.stored[name] for name in features])
        if self.rows is None:
            return values
        result = np.empty((len(self.rows), len(features)), order="F")
        there = self.rows >= 0
        for place in range(len(features)):
            result[:, place] = values[self.rows, place] if len(values) else np.nan
            result[~there, place] = np.nan
        return result


@dataclass
class Part:
    """The rows of one table, run or folder."""

    name: str
    keys: pd.DataFrame
    """What the rows are: metadata and numbers of objects, text as categories."""
    panels: list[Panel]
    images: pd.DataFrame | None = None
    """A row for each field, with and without cells, where the source tells."""
    notes: list[str] = field(default_factory=list)

    @property
    def features(self) -> list[str]:
        """Names of all features, in order."""
        return [name for panel in self.panels for name in panel.stored]

    def read(self, features: Sequence[str]) -> NDArray[np.float64]:
        """Return features of all rows, `(n, k)`, each contiguous; NaN if the part has no such feature."""
        if len(self.panels) == 1 and all(name in self.panels[0].stored for name in features):
            return self.panels[0].read(features)
        values = np.full((len(self.keys), len(features)), np.nan, order="F")
        for panel in self.panels:
            if own := [place for place, name in enumerate(features) if name in panel.stored]:
                values[:, own] = panel.read([features[place] for place in own])
        return values


def made_of(tables: Iterable[pa.Table], schema: pa.Schema, origin: Path | str) -> Columnar:
    """Write tables into a temporary Parquet file, which goes when nobody needs it any more."""
    with output_errors(Path(tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix="cellinfer-columns-"))
    try:
        path = folder / "table.parquet"
        with output_errors(path), pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as file:
            for table in tables:
                file.write_table(table)
        columnar = Columnar(path, origin)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(columnar, shutil.rmtree, folder, ignore_errors=True)
    return columnar


def from_csv(path: Path) -> tuple[Columnar, list[str]]:
    """Read a table of text, with commas or tabs, compressed or not, once from begin to end, whatever its size.

    A column of numbers is one of float64, or of int64 if it is metadata that has but whole numbers. Where the type of
    the first rows does not fit a later one, the file is read again with the type that fits both.

    Returns
    -------
    table, notes
        Notes name columns in which there is text among numbers.

    Raises
    ------
    InputError
        If the file cannot be read, or is no such table.
    """
    types: dict[str, pa.DataType] = {}
    notes: list[str] = []
    while True:
        try:
            with _csv(path, {}) as reader:
                names = reader.schema.names
                _refuse_twins(names, path)
                types = {column.name: _first_type(column.name, column.type) for column in reader.schema} | types
            kept = [name for name in names if not _INDEX.match(name)]
            schema = pa.schema([(name, types[name]) for name in kept])
            with _csv(path, types) as reader:
                batches = (pa.Table.from_batches([batch]).select(kept) for batch in reader)
                return made_of(batches, schema, path), notes
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
            found = _BAD_VALUE.search(str(error))
            if found is None or types.get(name := names[int(found[1])]) in (None, pa.string()):
                raise InputError(f"{path} cannot be read as a table ({str(error).splitlines()[0]}).") from error
            whole = types[name] == pa.int64()
            types[name] = pa.float64() if whole else pa.string()
            if not whole and not name.startswith("Metadata_"):
                bad = re.search(r"invalid value '([^']*)'", found[3])
                notes.append(
                    f"{path}: the column {name} holds text ({bad[1] if bad else 'not a number'!r}) and is no feature."
                )


@contextmanager
def _csv(path: Path, types: Mapping[str, pa.DataType]) -> Iterator[pa.csv.CSVStreamingReader]:
    name = path.name.lower()
    tabs = name.removesuffix(".gz").endswith((".tsv", ".txt"))
    with (
        gzip.open(path) if name.endswith(".gz") else path.open("rb") as stream,
        pyarrow.csv.open_csv(
            stream,
            pyarrow.csv.ReadOptions(block_size=_BLOCK),
            pyarrow.csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict(types), strings_can_be_null=True),
        ) as reader,
    ):
        yield reader


def _first_type(name: str, found: pa.DataType) -> pa.DataType:
    """Return the type to try for a column, from that of its first rows."""
    if pa.types.is_integer(found):
        return (
            pa.int64() if name.startswith(("Metadata_", "Image_Metadata_")) or name.endswith("Number") else pa.float64()
        )
    if pa.types.is_floating(found) or pa.types.is_null(found):
        return pa.float64()
    return pa.bool_() if pa.types.is_boolean(found) else pa.string()


def _refuse_twins(names: Sequence[str], origin: Path | str) -> None:
    if len(set(names)) != len(names):
        twin = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{origin} has two columns named {twin!r}: rename or drop one.")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _pandas_type(kind: pa.DataType) -> object:
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return np.dtype(kind.to_pandas_dtype())
    return np.dtype(object)


def _as_pandas(column: pa.ChunkedArray) -> pd.Series[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    values: pd.Series[Any] = column.to_pandas()
    return values
