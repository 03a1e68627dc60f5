"""Tables as they come: CSV with commas, semicolons or tabs, TSV, Parquet; packed or not. No RDKit needed."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cellinfer.errors import InputError

TEXTS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
"""Ends of names of tables that are text -> what is usually between their cells."""
PARQUET = (".parquet", ".pq")
FAULTS = (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException, pd.errors.ParserWarning)
"""What reading a broken file may raise."""
_DELIMITERS = (",", "\t", ";")


def ending(path: Path) -> str:
    """Return how a name ends, without `.gz`, in small letters."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def inside(path: str | PathLike[str], name: str) -> Path:
    """Return the file of that name in a folder, or the path itself if it is no folder."""
    return Path(path) / name if Path(path).is_dir() else Path(path)


def unreadable(path: Path, error: object) -> InputError:
    """Say in a sentence that a file cannot be read, and why."""
    said = str(error).strip().splitlines() or [repr(error)]
    return InputError(f"{path} cannot be read: {said[0].rstrip('.')}.")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file that may be packed."""
    if path.name.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def open_parquet(path: Path) -> Any:
    """Open a Parquet file.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        return pq.ParquetFile(path)
    except FAULTS as error:
        raise unreadable(path, error) from error


def header(path: Path) -> tuple[tuple[str, ...], str]:
    """Return the columns of a table that is text, and what is between its cells.

    Raises
    ------
    InputError
        If it cannot be read, or its first line is empty.
    """
    try:
        with open_bytes(path) as handle, io.TextIOWrapper(handle, "utf-8-sig", newline="") as text:
            line = text.readline(10_000_000)
    except FAULTS as error:
        raise unreadable(path, error) from error
    if not line.strip():
        raise InputError(f"{path} has no header: its first line must name the columns.")
    delimiter = max((TEXTS.get(ending(path), ","), *_DELIMITERS), key=line.count)
    return tuple(name.strip() for name in next(csv.reader([line], delimiter=delimiter))), delimiter


def columns_of(path: Path) -> tuple[str, ...]:
    """Return the columns of a table, text or Parquet.

    Raises
    ------
    InputError
        If it cannot be read, or names a column twice.
    """
    columns = tuple(open_parquet(path).schema_arrow.names) if ending(path) in PARQUET else header(path)[0]
    if twins := sorted({name for name in columns if columns.count(name) > 1}):
        raise InputError(f"{path} has more than one column {twins[0]!r}: columns must have different names.")
    return columns


def read_table(path: Path, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table, text or Parquet.

    Parameters
    ----------
    path
        What does not end as Parquet does is text.
    columns
        Those to read, in this order; None: all.
    texts
        Columns with names, which may look like numbers (`007`), of a table that is text.

    Raises
    ------
    InputError
        If it cannot be read, or names a column twice.
    """
    names = columns_of(path)
    try:
        if ending(path) in PARQUET:
            return pd.read_parquet(path, columns=None if columns is None else list(columns))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", pd.errors.ParserWarning
            )  # lines with more cells than columns; only if all are read
            table = pd.read_csv(
                path,
                sep=header(path)[1],
                names=list(names),
                header=0,
                index_col=False,
                dtype=dict.fromkeys(texts, str),
                encoding="utf-8-sig",
                low_memory=False,
            )
    except FAULTS as error:
        raise unreadable(path, error) from error
    return table if columns is None else table[list(columns)]
