"""Plate maps: tables that say what is in each well (dose, compound, control), and how they join a run's wells.

A map is a CSV or TSV file with one row per well. Its well is a column such as `Well`, `Metadata_Well` or
`well_position`, or a row and a column column (`Row` as letters or numbers, `Column` or `Col`); a plate column is
optional. Every other column becomes `Metadata_<name>`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.wells import normalise_well, row_number, well_name

PLATE, WELL = "Metadata_Plate", "Metadata_Well"

_WELL_NAMES = ("well", "wellposition", "wellname", "wellid")
_ROW_NAMES = ("row", "wellrow")
_COLUMN_NAMES = ("column", "col", "wellcolumn", "wellcol")
_PLATE_NAMES = ("plate", "platename", "plateid", "platebarcode", "barcode")
_SEPARATORS = (",", ";", "\t")
_NO_NUMBER = ("", "na", "n/a", "nan")
_PADDED = re.compile(r"0\d+")
_EXAMPLES = 6


class JoinedWells(NamedTuple):
    """A run's wells with the columns of a plate map, and what the user should know about the join."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def read_platemap(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a plate map.

    Parameters
    ----------
    path
        CSV or TSV file with one header line; separated by comma, semicolon or tab; UTF-8 (with or without a byte order
        mark), UTF-16 with one, or Windows-1252, as spreadsheets write them. With semicolon or tab, a decimal comma is
        understood.

    Returns
    -------
    DataFrame
        `Metadata_Well` (`A01`), `Metadata_Plate` (text) if the map names plates, and each other column as
        `Metadata_<name>`: numbers where every filled cell is one, else text; empty cells are missing. Numbers padded
        with zeros (`007`) are identifiers and stay text.

    Raises
    ------
    InputError
        If the file cannot be read, has no well columns, or names a well twice or not at all.
    """
    path = Path(path)
    header, rows, decimal_comma = _parse(path)
    wells = _wells(path, header, rows)
    plate = _find(header, _PLATE_NAMES)
    table = pd.DataFrame({WELL: wells})
    if plate is not None:
        table.insert(0, PLATE, [row[plate] for row in rows])
    _refuse_duplicates(path, table)
    for index, name in enumerate(header):
        column = name if name.startswith("Metadata_") else f"Metadata_{name}"
        if name and index != plate and column not in table:
            table[column] = _typed([row[index] for row in rows], decimal_comma)
    return table


def read_table(path: str | os.PathLike[str], what: str = "table") -> pd.DataFrame:
    """Read a table that describes plates or compounds, written as `read_platemap` understands it.

    Parameters
    ----------
    path
        CSV or TSV file with one header line.
    what
        How errors call it.

    Returns
    -------
    DataFrame
        The columns under their own names; types as in `read_platemap`, and `NA` is missing in text too.

    Raises
    ------
    InputError
        If the file cannot be read or has no rows.
    """
    path = Path(path)
    header, rows, decimal_comma = _parse(path, what)
    if not rows:
        raise InputError(f"{path} has a header but no rows")
    cells = [["" if cell.casefold() in _NO_NUMBER else cell for cell in row] for row in rows]
    return pd.DataFrame(
        {name: _typed([row[index] for row in cells], decimal_comma) for index, name in enumerate(header) if name}
    )


def join_platemap(wells: pd.DataFrame, platemap: pd.DataFrame) -> JoinedWells:
    """Give each well of a run the columns of its plate map.

    Parameters
    ----------
    wells
        Table with `Metadata_Plate` and `Metadata_Well`, such as a run's `Well.parquet`.
    platemap
        From `read_platemap`. A map without plates holds for every plate. If map and run have one plate each and name
        it differently, they are taken for the same, and a note says so.

    Returns
    -------
    JoinedWells
        All rows of `wells` in their order; wells that the map lacks have missing values and are named in a note. A
        column that both have is the map's.

    Raises
    ------
    InputError
        If the map has none of the wells.
    """
    notes: list[str] = []
    keys = [WELL]
    if PLATE in platemap:
        ours, theirs = _unique(wells[PLATE]), _unique(platemap[PLATE])
        if len(ours) == len(theirs) == 1 and ours != theirs:
            notes.append(f"the map's plate {theirs[0]!r} was taken for the run's plate {ours[0]!r}")
            platemap = platemap.drop(columns=PLATE)
        else:
            keys = [PLATE, WELL]
    left = pd.MultiIndex.from_frame(wells[keys].astype(str))
    right = pd.MultiIndex.from_frame(platemap[keys].astype(str))
    found = right.get_indexer(left)
    if not (found >= 0).any():
        raise InputError(
            f"the plate map has none of the run's wells: the run has {_examples(left)}; the map has {_examples(right)}"
        )
    if (found < 0).any():
        absent = left[found < 0]
        notes.append(f"{len(absent)} of {len(left)} wells are not in the plate map: {_examples(absent)}")
    added = platemap.drop(columns=keys).reindex(found).set_index(wells.index)
    kept = wells.drop(columns=[column for column in added if column in wells])
    return JoinedWells(pd.concat([kept, added], axis=1), tuple(notes))


def metadata_column(table: pd.DataFrame, name: str) -> str:
    """Find a column of a plate map by its name in the file, with or without `Metadata_`.

    Raises
    ------
    InputError
        If there is none; lists those that are there.
    """
    for candidate in (f"Metadata_{name}", name):
        if candidate in table and candidate.startswith("Metadata_"):
            return candidate
    columns = [str(column) for column in table]
    folded = [column for column in columns if column.casefold() == f"metadata_{name}".casefold()]
    if len(folded) == 1:
        return folded[0]
    there = ", ".join(column.removeprefix("Metadata_") for column in columns if column not in (PLATE, WELL))
    raise InputError(f"the plate map has no column {name!r}: it has {there or 'none but the well'}")


def _parse(path: Path, what: str = "plate map") -> tuple[list[str], list[list[str]], bool]:
    """Return header, rows padded to its length (blank ones dropped), and whether numbers may have a decimal comma."""
    text = _decode(path, what)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(_SEPARATORS, key=first.count)
    try:
        lines = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
        ]
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV or TSV table: {error}") from error
    lines = [line for line in lines if any(line)]
    if not lines:
        raise InputError(
            f"{path} is empty: a {what} has a header line and {'one row per well' if what == 'plate map' else 'rows'}"
        )
    header = lines[0]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InputError(f"{path} has more than one column named {', '.join(repeated)}: rename or delete the others")
    for number, line in enumerate(lines[1:], 1):
        if len(line) > len(header) and any(line[len(header) :]):
            raise InputError(f"{path}: data row {number} has {len(line)} cells but the header has {len(header)}")
    rows = [(line + [""] * len(header))[: len(header)] for line in lines[1:]]
    return header, rows, separator != ","


def _decode(path: Path, what: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(f"{path} is not a text table: save the {what} as CSV (UTF-8)")


def _find(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Index of the first of `names` in the header; case, spaces, underscores and `Metadata_` do not count."""
    plain = [re.sub(r"[\W_]", "", name.casefold()).removeprefix("metadata") for name in header]
    return next((plain.index(name) for name in names if name in plain), None)


def _wells(path: Path, header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the normal name of each row's well."""
    well, row, column = (_find(header, names) for names in (_WELL_NAMES, _ROW_NAMES, _COLUMN_NAMES))
    names = []
    for number, cells in enumerate(rows, 1):
        try:
            if well is not None:
                names.append(normalise_well(cells[well]))
            elif row is not None and column is not None:
                names.append(well_name(_row(cells[row]), _whole(cells[column])))
            else:
                raise _no_wells(path, header)
        except InputError as error:
            if well is None and (row is None or column is None):
                raise
            raise InputError(f"{path}: data row {number}: {error}") from error
    if not rows:
        raise InputError(f"{path} has a header but no wells")
    return names


def _no_wells(path: Path, header: list[str]) -> InputError:
    return InputError(
        f"{path} names no wells: it needs a column Well (such as A01), or Row and Column; it has "
        f"{', '.join(name for name in header if name)}"
    )


def _row(text: str) -> int:
    return row_number(text) if re.fullmatch(r"[A-Za-z]{1,2}", text) else _whole(text)


def _whole(text: str) -> int:
    """Read a row or column number; spreadsheets may have made `1.0` of it."""
    match = re.fullmatch(r"(\d{1,4})(?:[.,]0*)?", text)
    if match is None:
        raise InputError(f"{text!r} is no row or column of a plate")
    return int(match[1])


def _refuse_duplicates(path: Path, table: pd.DataFrame) -> None:
    repeated = table[table.duplicated()].drop_duplicates()
    if len(repeated):
        raise InputError(
            f"{path} has more than one row for {_examples(pd.MultiIndex.from_frame(repeated))}: a plate map has one "
            "row per well"
        )


def _typed(cells: list[str], decimal_comma: bool) -> pd.Series:
    """Make numbers of a column if every filled cell is one."""
    filled = [cell for cell in cells if cell.casefold() not in _NO_NUMBER]
    padded = any(_PADDED.fullmatch(cell) for cell in filled)
    numbers = [as_number(cell.replace(",", ".") if decimal_comma else cell) for cell in cells]
    if filled and not padded and int(np.isfinite(numbers).sum()) == len(filled):
        return pd.Series(numbers, dtype="float64")
    return pd.Series([cell or None for cell in cells], dtype="object")


def as_number(value: object) -> float:
    """Return a cell or option as a number, NaN if it is none."""
    try:
        return float(str(value).strip().replace("−", "-"))  # spreadsheets write the minus sign of typesetting
    except ValueError:
        return float("nan")


def cells_equal(column: pd.Series, value: str | float) -> npt.NDArray[np.bool_]:
    """Compare the cells of a column with a value, as text and as number: `-1` equals `-1.0`."""
    number, text = as_number(value), cell_text(value)
    return np.array([pd.notna(cell) and (cell_text(cell) == text or as_number(cell) == number) for cell in column])


def cell_text(value: object) -> str:
    """Return a cell as text, numbers without needless digits."""
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _unique(column: Iterable[object]) -> list[str]:
    return sorted({str(value) for value in column})


def _examples(keys: pd.MultiIndex) -> str:
    """Name the first few wells of an index, as `A01` or `plate A01`."""
    names = [" ".join(key) for key in keys[:_EXAMPLES]]
    return ", ".join(names) + (f" and {len(keys) - _EXAMPLES} more" if len(keys) > _EXAMPLES else "")
