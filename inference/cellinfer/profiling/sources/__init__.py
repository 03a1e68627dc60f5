"""Tables of cells or wells as other programs and this one leave them, behind one `Source`.

Each module reads one kind of result into `Part`s: the keys of all rows, and features that are read a few at a time.
Every kind ends as Parquet: what is not, such as CSV or SQLite, goes once through a temporary file of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, SITE, TIME, WELL
from cellinfer.profiling.groups import codes_of
from cellinfer.profiling.sources import _cellprofiler, _deepprofiler, _run, _table
from cellinfer.profiling.sources._columnar import Part, as_categories, as_text

__all__ = ["Features", "Level", "Paths", "Source", "Tables", "is_run", "open_source"]

Paths = str | Path | Sequence[str | Path]
Features = Literal["intersection", "union", "refuse"]
Level = Literal["cell", "site", "well", "treatment"]
Tables = Literal["both", "measurements", "embedding"]
_OBJECT_NUMBERS = ("ObjectNumber", "Metadata_ObjectNumber")
_KINDS = (_deepprofiler, _cellprofiler, _table)
_NAMED = 12  # columns that a note names


def is_run(path: Path) -> bool:
    """Tell whether a folder holds results of `cellinfer run`."""
    return _run.can_read(path)


def open_source(paths: Paths, *, features: Features = "intersection", tables: Tables | None = None) -> Source:
    """Open tables of cells or wells.

    Parameters
    ----------
    paths
        One or several of: result folder of `cellinfer run`; table as Parquet, CSV or TSV (also with .gz), such as
        pycytominer and CytoTable write; CellProfiler's folder of CSV files, or its SQLite file; DeepProfiler's folder
        of features (`plate/well/site.npz`).
    features
        If not all have the same features: keep those that all have, all of them (NaN where they are not), or refuse.
    tables
        Of results of `cellinfer run --embed`: `measurements` of compartments, `embedding`, or `both`; columns of the
        other kind are never read. None: measurements, and a note says if there are embeddings: with several times as
        many columns, these would outweigh what was measured.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        If `tables` asks for an embedding that a run has not, or is named for tables that are no run, there is no such
        path, it is none of these, tables do not fit each other, or a row is there twice.
    """
    chosen = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not chosen:
        raise InputError("No tables were given: name a result folder or a table.")
    if features not in ("intersection", "union", "refuse"):
        raise InputError(
            f"Different features cannot be brought together by {features!r}: choose intersection, union or refuse."
        )
    if tables is not None and tables not in get_args(Tables):
        raise InputError(f"There are no tables {tables!r} of a run: choose {', '.join(get_args(Tables))}.")
    return Source([_part(path, tables) for path in chosen], features)


def _part(path: Path, tables: Tables | None = None) -> Part:
    if not path.exists():
        raise InputError(f"There is no {path}: name a result folder or a table.")
    if _run.can_read(path):
        return _run.read(path, tables)
    for kind in _KINDS:
        if kind.can_read(path):
            if tables is not None:
                raise InputError(
                    f"{path} is no result of `cellinfer run`, which alone keeps measurements and embeddings apart: "
                    f"leave the choice of tables ({tables}) away, and give a table that holds the columns you want."
                )
            part: Part = kind.read(path)
            return part
    what = "folder" if path.is_dir() else "file"
    raise InputError(
        f"The {what} {path} is none of these: results of `cellinfer run`, a table (Parquet, CSV, TSV), CSV files or "
        "the SQLite file of CellProfiler, features of DeepProfiler (plate/well/site.npz)."
    )


class Source:
    """Rows of cells, sites, wells or treatments from one or several tables; see `open_source`."""

    def __init__(self, parts: list[Part], features: Features = "intersection") -> None:
        self._parts = parts
        self.notes: list[str] = [note for part in parts for note in part.notes]
        """What a user should know: what was left out, what could not be told."""
        self.features: list[str] = self._common(features)
        """Names of the features, in order."""
        self._keys = _below_each_other([part.keys for part in parts])
        self.level: Level = self._level()
        """What a row is."""

    @property
    def name(self) -> str:
        """What messages call it."""
        first = self._parts[0].name
        return first if len(self._parts) == 1 else f"{first} and {len(self._parts) - 1} more"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._keys)

    @property
    def images(self) -> pd.DataFrame | None:
        """A row for each field, also for those without a cell; None if some table does not tell."""
        images = [part.images for part in self._parts if part.images is not None]
        return pd.concat(images, ignore_index=True) if len(images) == len(self._parts) else None

    def keys(self, *, categories: bool = False) -> pd.DataFrame:
        """Return metadata and numbers of objects of all rows; text as categories, which take less memory, if asked."""
        if categories:
            return self._keys.copy()
        return as_text(self._keys)

    def read(self, columns: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Return features of all rows, `(n, k)` float64, each contiguous; NaN where there is no value.

        Raises
        ------
        InputError
            If there is no such feature.
        """
        chosen = self.features if columns is None else list(columns)
        known = set(self.features)
        if missing := [name for name in chosen if name not in known]:
            raise InputError(f"{self.name} has no feature {missing[0]!r}.")
        if len(self._parts) == 1:
            return self._parts[0].read(chosen)
        values = np.empty((self.rows, len(chosen)), order="F")
        start = 0
        for part in self._parts:
            values[start : start + len(part.keys)] = part.read(chosen)
            start += len(part.keys)
        return values

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return keys and features of all rows as one table in memory."""
        chosen = self.features if columns is None else list(columns)
        return pd.concat([self.keys(), pd.DataFrame(self.read(chosen), columns=chosen)], axis=1)

    def _common(self, features: Features) -> list[str]:
        own = [part.features for part in self._parts]
        union = list(dict.fromkeys(name for names in own for name in names))
        shared = set(union).intersection(*own)
        different = [name for name in union if name not in shared]
        if not different:
            return union
        named = _some(different)
        if features == "refuse":
            raise InputError(f"{len(different)} of {len(union)} features are not in every table: {named}.")
        if features == "union":
            self.notes.append(
                f"{len(different)} of {len(union)} features are not in every table, empty there: {named}."
            )
            return union
        if not shared:
            raise InputError(f"No feature is in every table: {self._parts[0].name} has {_some(own[0])}.")
        self.notes.append(f"{len(different)} of {len(union)} features are left out, not being in every table: {named}.")
        return [name for name in union if name in shared]

    def _level(self) -> Level:
        keys = self._keys
        places = [name for name in (PLATE, WELL, TIME) if name in keys]
        if numbers := [name for name in _OBJECT_NUMBERS if name in keys]:
            image = [name for name in (SITE, "TableNumber", "ImageNumber", "Metadata_ImageNumber") if name in keys]
            self._refuse_twins([*places, *image, numbers[0]])
            return "cell"
        if WELL not in keys:
            return "treatment"
        if _distinct(keys, places):
            return "well"
        if SITE in keys and _distinct(keys, [*places, SITE]):
            return "site"
        one_row = [*places, *[name for name in (SITE,) if name in keys]]
        if len(self._parts) > 1 and all(_distinct(part.keys, one_row) for part in self._parts):
            row = keys[one_row].astype(str)[keys.duplicated(one_row)].iloc[0]
            raise InputError(
                f"{self.name} have the row {' '.join(row)} more than once: give each table once, and different plates "
                "different names."
            )
        self.notes.append(
            f"{self.name} has several rows of one well and no ObjectNumber: they are taken for cells, and it cannot be "
            "told whether one is there twice."
        )
        return "cell"

    def _refuse_twins(self, columns: list[str]) -> None:
        codes, count = codes_of(self._keys, columns)
        if count == len(codes):
            return
        row = int(np.flatnonzero(np.bincount(codes, minlength=count)[codes] > 1)[0])
        cell = ", ".join(f"{name} {self._keys[name].iloc[row]}" for name in columns)
        more = len(codes) - count
        raise InputError(
            f"{self.name} has the cell {cell} more than once ({more:,} rows too many): give each table once, and "
            "different plates different names."
        )


def _distinct(keys: pd.DataFrame, columns: list[str]) -> bool:
    return codes_of(keys, columns)[1] == len(keys)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else "")


def _below_each_other(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put keys below each other; a column that is text in one table is text in all."""
    if len(tables) == 1:
        return tables[0]
    names = list(dict.fromkeys(name for table in tables for name in table))
    columns = {}
    for name in names:
        pieces = [table[name] if name in table else pd.Series(np.nan, index=table.index) for table in tables]
        if any(isinstance(piece.dtype, pd.CategoricalDtype) for piece in pieces):
            joint = pd.api.types.union_categoricals([as_categories(piece) for piece in pieces], sort_categories=True)
            columns[name] = pd.Series(joint)
        else:
            columns[name] = pd.concat(pieces, ignore_index=True)
    return pd.DataFrame(columns, index=range(sum(map(len, tables))))
