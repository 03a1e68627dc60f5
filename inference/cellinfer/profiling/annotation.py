"""Say what each well got: plate maps, tables of plates and tables of compounds, joined to profiles.

Rules: wells are compared by place (`A1` is `A01`), plates as text. All rows of the profiles stay, in their order; what
the layout lacks is missing and noted, and so are places of the layout without a profile. A column that both have is
the layout's. Columns that are added are called `Metadata_...`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cellinfer.assays.platemap import join_platemap, read_platemap, read_table
from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, WELL
from cellinfer.profiling.rows import examples
from cellinfer.wells import normalise_well

AnyPath = str | os.PathLike[str]
Layout = AnyPath | pd.DataFrame | Mapping[str, AnyPath | pd.DataFrame]
"""A plate map (file, or table from `read_platemap`), or one for each plate; a folder has maps named after plates."""

_MAPS = (".csv", ".tsv", ".txt")
_BARCODE = ("assay_plate_barcode", "plate_barcode", "barcode", "plate", "plate_id")
_MAP_NAME = ("plate_map_name", "platemap", "plate_map", "map")
_EMPTY = ("", "na", "n/a", "nan", "none", "null")


class Annotated(NamedTuple):
    """Profiles that say what each well got, and what the user should know about the joins."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def annotate(
    profiles: pd.DataFrame,
    layout: Layout,
    *,
    barcodes: AnyPath | pd.DataFrame | None = None,
    compounds: AnyPath | pd.DataFrame | None = None,
    on: str | None = None,
) -> Annotated:
    """Join layouts to profiles.

    Parameters
    ----------
    profiles
        Cells, sites or wells with `Metadata_Well`, and `Metadata_Plate` where layouts tell plates apart.
    layout
        A plate map for all plates or with a plate column of its own; one for each plate by its name; or a folder of
        maps whose files are named after plates (or, with `barcodes`, after plate maps).
    barcodes
        Table (file) that says which map each plate has, as in JUMP: `Assay_Plate_Barcode`, `Plate_Map_Name`.
    compounds, on
        Table (file) with one row per compound, joined on its column `on`, which the layout has too. Wells with an empty
        cell there get the row with an empty cell, if there is one: in JUMP that is DMSO.

    Returns
    -------
    Annotated

    Raises
    ------
    InputError
        If no well is in the layout, a plate has no map, a table names something twice, or a name is no well.
    """
    if WELL not in profiles:
        raise InputError(f"The profiles have no column {WELL!r}: a layout cannot be joined to them.")
    table = profiles.assign(**{WELL: _wells(profiles[WELL])})
    if PLATE in table:
        table[PLATE] = _texts(table[PLATE])
    maps = _maps(layout, barcodes)
    notes: list[str] = []
    if isinstance(maps, pd.DataFrame):
        table, notes = _join(table, maps)
    else:
        table, notes = _join_by_plate(table, maps)
    if compounds is not None:
        table, more = _join_compounds(table, compounds, on)
        notes += more
    return Annotated(table, tuple(notes))


def _join(table: pd.DataFrame, platemap: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    joined = join_platemap(table, platemap)
    notes = list(joined.notes)
    by_plate = PLATE in platemap and not any("was taken for" in note for note in notes)
    keys = [PLATE, WELL] if by_plate else [WELL]
    if by_plate and len(absent := sorted(set(table[PLATE]) - set(platemap[PLATE].astype(str)))):
        notes.append(f"the layout has nothing about {len(absent)} plates: {examples(absent)}")
    theirs = pd.MultiIndex.from_frame(platemap[keys].astype(str))
    unused = theirs[~theirs.isin(pd.MultiIndex.from_frame(table[keys].astype(str)))]
    if len(unused):
        named = [" ".join(key) for key in unused]
        notes.append(f"{len(unused)} wells of the layout have no profile: {examples(named)}")
    return joined.table, notes


def _join_by_plate(table: pd.DataFrame, maps: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    if PLATE not in table:
        raise InputError(f"The profiles have no column {PLATE!r}: maps for each plate cannot be joined to them.")
    plates = list(dict.fromkeys(table[PLATE]))
    if absent := [plate for plate in plates if plate not in maps]:
        raise InputError(
            f"There is no plate map for {examples(absent)}: there are maps for {examples(sorted(maps)) or 'no plate'}."
        )
    pieces = []
    for plate in plates:
        mine = maps[plate].drop(columns=PLATE, errors="ignore").assign(**{PLATE: plate})
        pieces.append(mine)
    return _join(table, pd.concat(pieces, ignore_index=True))


def _maps(layout: Layout, barcodes: AnyPath | pd.DataFrame | None) -> pd.DataFrame | dict[str, pd.DataFrame]:
    """Return one map, or one for each plate."""
    if isinstance(layout, Mapping):
        maps = {str(plate): _map(one) for plate, one in layout.items()}
    elif isinstance(layout, pd.DataFrame) or not Path(layout).is_dir():
        one = _map(layout)
        if barcodes is None:
            return one
        name = "" if isinstance(layout, pd.DataFrame) else Path(layout).stem
        return {plate: one for plate, wanted in _plate_maps(barcodes).items() if not name or wanted == name}
    else:
        maps = _folder(Path(layout))
    if barcodes is None:
        return maps
    wanted = _plate_maps(barcodes)
    if absent := sorted({name for name in wanted.values() if name not in maps}):
        raise InputError(f"The table of plates names maps that are not there: {examples(absent)}.")
    return {plate: maps[name] for plate, name in wanted.items()}


def _map(one: AnyPath | pd.DataFrame) -> pd.DataFrame:
    """Read a plate map, or bring a table into its form."""
    if not isinstance(one, pd.DataFrame):
        return read_platemap(one)
    if WELL not in one:
        raise InputError(f"The layout has no column {WELL!r}: read plate maps with read_platemap.")
    table = one.rename(columns=lambda name: name if str(name).startswith("Metadata_") else f"Metadata_{name}")
    table[WELL] = _wells(table[WELL])
    if PLATE in table:
        table[PLATE] = _texts(table[PLATE])
    keys = [column for column in (PLATE, WELL) if column in table]
    if len(again := table.loc[table.duplicated(keys), keys]):
        raise InputError(f"The layout has {' '.join(map(str, again.iloc[0]))} more than once: one row per well.")
    return table


def _folder(folder: Path) -> dict[str, pd.DataFrame]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _MAPS and not path.name.startswith("."))
    if not files:
        raise InputError(f"{folder} has no plate maps (CSV, TSV or TXT files named after plates or maps).")
    if twice := [path.stem for path in files if sum(other.stem == path.stem for other in files) > 1]:
        raise InputError(f"{folder} has more than one map named {twice[0]}: keep one.")
    return {path.stem: read_platemap(path) for path in files}


def _plate_maps(barcodes: AnyPath | pd.DataFrame) -> dict[str, str]:
    """Return which map each plate has."""
    table = barcodes if isinstance(barcodes, pd.DataFrame) else read_table(barcodes, "table of plates")
    plate, name = _column(table, _BARCODE), _column(table, _MAP_NAME)
    if plate is None or name is None:
        raise InputError(
            "The table of plates needs columns Assay_Plate_Barcode and Plate_Map_Name; it has "
            f"{', '.join(map(str, table.columns))}."
        )
    plates = _texts(table[plate])
    if plates.duplicated().any():
        raise InputError(f"The table of plates has {plates[plates.duplicated()].iloc[0]} more than once.")
    return dict(zip(plates, _texts(table[name]), strict=True))


def _join_compounds(
    table: pd.DataFrame, compounds: AnyPath | pd.DataFrame, on: str | None
) -> tuple[pd.DataFrame, list[str]]:
    facts = compounds if isinstance(compounds, pd.DataFrame) else read_table(compounds, "table of compounds")
    if on is None:
        raise InputError("Say on which column the table of compounds is joined.")
    plain = on.removeprefix("Metadata_")
    theirs = next((name for name in (on, plain, f"Metadata_{plain}") if name in facts), None)
    ours = f"Metadata_{plain}"
    if theirs is None or ours not in table:
        where = "table of compounds" if theirs is None else "layout"
        there = facts.columns if theirs is None else [name for name in table if str(name).startswith("Metadata_")]
        raise InputError(f"The {where} has no column {plain!r}: it has {', '.join(map(str, there))}.")
    keys = _keys(facts[theirs])
    if keys.duplicated().any():
        again = keys[keys.duplicated()].iloc[0]
        raise InputError(f"The table of compounds has {again or 'an empty cell'} more than once.")
    wanted = _keys(table[ours])
    found = pd.Index(keys).get_indexer(pd.Index(wanted))
    added = facts.drop(columns=theirs).iloc[np.maximum(found, 0)].set_index(table.index)
    added = added.rename(columns=lambda name: name if str(name).startswith("Metadata_") else f"Metadata_{name}")
    added = added.mask(pd.Series(found < 0, index=table.index), None)
    notes = []
    if (found < 0).any():
        unknown = sorted({key or "(empty)" for key in wanted[found < 0]})
        notes.append(f"the table of compounds lacks {len(unknown)} that are on plates: {examples(unknown)}")
    if len(unused := sorted(set(keys) - set(wanted))):
        notes.append(f"{len(unused)} compounds of the table are on no plate: {examples(unused)}")
    kept = table.drop(columns=[name for name in added if name in table])
    return pd.concat([kept, added], axis=1), notes


def _keys(column: pd.Series) -> pd.Series:
    """Return a column as text by which it is joined; whatever means empty is the empty text."""
    texts = _texts(column).str.strip()
    return texts.mask(texts.str.casefold().isin(_EMPTY), "")


def _texts(column: pd.Series) -> pd.Series:
    """Return text; whole numbers that a missing value has turned into decimals lose their `.0` again."""
    if pd.api.types.is_float_dtype(column.dtype):
        whole = column.dropna()
        if (whole == np.floor(whole)).all():
            return column.map(lambda value: "" if pd.isna(value) else str(int(value))).astype(str)
    return column.map(lambda value: "" if pd.isna(value) else str(value)).astype(str)


def _wells(column: pd.Series) -> pd.Series:
    names = {}
    for text in column.unique():
        try:
            names[text] = normalise_well(str(text))
        except InputError as error:
            raise InputError(f"Column {WELL}: {error}") from error
    return column.map(names).astype(str)


def _column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    plain = {str(name).casefold().removeprefix("metadata_").replace(" ", "_"): str(name) for name in table.columns}
    return next((plain[name] for name in names if name in plain), None)
