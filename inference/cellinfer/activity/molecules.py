"""Lists of molecules as they come: tables with a column of SMILES, `.smi`, `.sdf`; read and standardised in pieces.

A piece at a time is in memory, so that libraries of millions can be gone through.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cellinfer.activity.chemistry import DEFAULT, Standardisation, Structure, sdf_records, standardise_one
from cellinfer.activity.tables import (
    FAULTS,
    PARQUET,
    TEXTS,
    columns_of,
    ending,
    header,
    open_bytes,
    open_parquet,
    unreadable,
)
from cellinfer.errors import InputError

__all__ = ["COLUMNS", "MoleculeFile", "Standardisation", "Structure", "open_molecules", "read_molecules", "standardise"]

COLUMNS = ("row", "id", "SMILES")
"""What every piece has: number of the row or record from 1 on (a header is none), name, SMILES as written."""
ROWS = 20_000
_LISTS = (".smi", ".smiles", ".ism")
_RECORDS = (".sdf", ".sd")
_IDENTIFIERS = (
    "metadata_compound",
    "id",
    "compound",
    "compound_id",
    "compoundid",
    "mol_id",
    "molecule_id",
    "cid",
    "name",
    "compound_name",
    "broad_id",
    "broad_sample",
    "chembl_id",
    "molecule_chembl_id",
    "compound_index",
)


@dataclass(frozen=True, slots=True)
class MoleculeFile:
    """A file with molecules, of which it is known where SMILES and names are."""

    path: Path
    kind: str
    """`table`, `parquet`, `smi` or `sdf`."""
    columns: tuple[str, ...]
    """All columns of a table; none for a list."""
    smiles: str | None
    """The column with SMILES."""
    identifier: str | None
    """The column with names; None: rows are called by their number, or the list itself has names."""
    delimiter: str = ","

    @property
    def others(self) -> list[str]:
        """Columns that hold neither SMILES nor names."""
        return [name for name in self.columns if name not in (self.smiles, self.identifier)]

    def pieces(self, columns: Sequence[str] = (), rows: int = ROWS) -> Iterator[pd.DataFrame]:
        """Read the file piece by piece.

        Parameters
        ----------
        columns
            Others to read as well, as text; what is missing is "".
        rows
            Of a piece, at most.

        Yields
        ------
        DataFrame
            `COLUMNS`, then those asked for under their own names.

        Raises
        ------
        InputError
            If the file cannot be read, or has a column to read that is called as one of `COLUMNS`.
        """
        if taken := [name for name in columns if name in COLUMNS]:
            raise InputError(
                f"{self.path} has a column {taken[0]!r}, which is no name for an assay: rename or ignore it."
            )
        start = 1
        for table in _pieces(self, columns, rows):
            numbers = pd.Series(range(start, start + len(table)))
            names = table.pop("id") if "id" in table else pd.Series("", index=table.index)
            named = names.where(names != "", numbers.astype(str))
            start += len(table)
            head = pd.DataFrame({"row": numbers, "id": named, "SMILES": table.pop("SMILES")})
            yield pd.concat([head, table], axis=1)


def open_molecules(path: str | Path, *, smiles: str | None = None, identifier: str | None = None) -> MoleculeFile:
    """Find out what a file of molecules holds, and where.

    Parameters
    ----------
    path
        Table (`.csv`, `.tsv`, `.txt`, `.parquet`), list (`.smi`: SMILES, blank, name) or SD file (`.sdf`); all but
        Parquet also with `.gz`.
    smiles, identifier
        Columns of a table that hold SMILES and names; found by their names if not given.

    Returns
    -------
    MoleculeFile

    Raises
    ------
    InputError
        If there is no such file, it is of none of these kinds, has no column of SMILES or more than one, or names a
        column twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}: name a table with SMILES, a .smi or an .sdf file.")
    kind, delimiter = ending(path), ","
    if kind in _LISTS or kind in _RECORDS:
        if smiles is not None or identifier is not None:
            raise InputError(f"{path} has no columns that could be named: its kind says where SMILES and names are.")
        return MoleculeFile(path, "smi" if kind in _LISTS else "sdf", (), None, None)
    if kind not in (*TEXTS, *PARQUET):
        raise InputError(f"{path} must end in .csv, .tsv, .txt, .parquet, .smi or .sdf.")
    columns = columns_of(path)
    if kind in TEXTS:
        delimiter = header(path)[1]
    found = _smiles_column(path, columns, smiles)
    named = _identifier_column(path, columns, found, identifier)
    return MoleculeFile(path, "table" if kind in TEXTS else "parquet", columns, found, named, delimiter)


def read_molecules(
    path: str | Path, *, smiles: str | None = None, identifier: str | None = None, rows: int = ROWS
) -> Iterator[pd.DataFrame]:
    """Read molecules piece by piece; see `open_molecules` and `MoleculeFile.pieces`."""
    return open_molecules(path, smiles=smiles, identifier=identifier).pieces(rows=rows)


def standardise(molecules: Iterable[str], how: Standardisation = DEFAULT) -> pd.DataFrame:
    """Standardise structures.

    Parameters
    ----------
    molecules
        SMILES.
    how
        Steps, see `Standardisation`.

    Returns
    -------
    DataFrame
        A row each: `smiles` (canonical, or None), `status` (`ok` or what is wrong) and `detail`; see `Structure`.
    """
    found = [standardise_one(text, how) for text in molecules]
    return pd.DataFrame(
        {
            "smiles": pd.Series([each.smiles for each in found], dtype=object),
            "status": pd.Series([each.status for each in found], dtype=object),
            "detail": pd.Series([each.detail for each in found], dtype=object),
        }
    )


def _smiles_column(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise InputError(f"{path} has no column {wanted!r} with SMILES: it has {_some(columns)}.")
        return wanted
    for matches in (
        [name for name in columns if name.lower() in ("smiles", "metadata_smiles")],
        [name for name in columns if "smiles" in name.lower()],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"{path} has several columns of SMILES ({_some(matches)}): say which with --smiles.")
    raise InputError(
        f"{path} has no column that is called SMILES: say which one holds them with --smiles; it has {_some(columns)}."
    )


def _identifier_column(path: Path, columns: Sequence[str], smiles: str, wanted: str | None) -> str | None:
    if wanted is not None:
        if wanted not in columns or wanted == smiles:
            raise InputError(f"{path} has no column {wanted!r} with names: it has {_some(columns)}.")
        return wanted
    known = {name.lower(): name for name in columns}
    return next((known[name] for name in _IDENTIFIERS if name in known), None)


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _pieces(file: MoleculeFile, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
    read = {"table": _table_pieces, "parquet": _parquet_pieces, "smi": _list_pieces, "sdf": _record_pieces}[file.kind]
    try:
        yield from read(file, columns, rows)
    except FAULTS as error:
        raise unreadable(file.path, error) from error


def _renamed(file: MoleculeFile, table: pd.DataFrame) -> pd.DataFrame:
    special = {file.smiles: "SMILES", file.identifier: "id"}
    return table.rename(columns={name: new for name, new in special.items() if name is not None})


def _table_pieces(file: MoleculeFile, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
    wanted = [name for name in (file.smiles, file.identifier, *columns) if name is not None]
    places = [file.columns.index(name) for name in wanted]
    with open_bytes(file.path) as handle, io.TextIOWrapper(handle, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=file.delimiter)
        next(reader)
        width = len(file.columns)
        held: list[list[str]] = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != width:
                raise InputError(
                    f"{file.path} has {len(cells)} cells in line {reader.line_num}, and {width} columns: every line "
                    "must have a cell for each column."
                )
            held.append([cells[place].strip() for place in places])
            if len(held) == rows:
                yield _renamed(file, pd.DataFrame(held, columns=wanted, dtype=object))
                held = []
        if held:
            yield _renamed(file, pd.DataFrame(held, columns=wanted, dtype=object))


def _parquet_pieces(file: MoleculeFile, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
    wanted = [name for name in (file.smiles, file.identifier, *columns) if name is not None]
    for batch in open_parquet(file.path).iter_batches(batch_size=rows, columns=wanted):
        table = pa.Table.from_batches([batch]).select(wanted)
        yield _renamed(file, pd.DataFrame({name: _as_text(table[name]) for name in wanted}, dtype=object))


def _as_text(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 else str(value).strip()


def _list_pieces(file: MoleculeFile, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
    with open_bytes(file.path) as handle, io.TextIOWrapper(handle, "utf-8-sig") as text:
        held: list[tuple[str, str]] = []
        for number, line in enumerate(text):
            smiles, _, name = line.strip().replace("\t", " ").partition(" ")
            if not smiles or (number == 0 and smiles.lower() == "smiles"):
                continue
            held.append((smiles, name.strip()))
            if len(held) == rows:
                yield pd.DataFrame(held, columns=["SMILES", "id"], dtype=object)
                held = []
        if held:
            yield pd.DataFrame(held, columns=["SMILES", "id"], dtype=object)


def _record_pieces(file: MoleculeFile, columns: Sequence[str], rows: int) -> Iterator[pd.DataFrame]:
    with open_bytes(file.path) as handle:
        held: list[tuple[str, str]] = []
        for record in sdf_records(handle):
            held.append(record)
            if len(held) == rows:
                yield pd.DataFrame(held, columns=["SMILES", "id"], dtype=object)
                held = []
        if held:
            yield pd.DataFrame(held, columns=["SMILES", "id"], dtype=object)
