"""Columns and rows as a user names them: with or without `Metadata_`, several for one treatment, rows by a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.profiling.columns import DOSES, TIME, metadata_columns
from cellinfer.profiling.rows import examples

_OF_TIMES = (
    f"each time is a treatment of its own ({TIME}), and controls of all times are compared with it: what differs is "
    "also what time does (--where chooses one)"
)
_SEPARATORS = (" ", ", ", " / ", " // ")


class Treatments(NamedTuple):
    """A table with one column that says what its rows got."""

    table: pd.DataFrame
    treatment: str | None
    """That column."""
    columns: tuple[str, ...]
    """Those that it was made of."""
    compound: str | None
    notes: tuple[str, ...]


def find_column(table: pd.DataFrame, name: str, what: str) -> str:
    """Return a column by its name, which may lack `Metadata_`.

    Raises
    ------
    InputError
        If there is none; `what` it was to be is said.
    """
    for candidate in (name, f"Metadata_{name}"):
        if candidate in table.columns:
            return candidate
    known = ", ".join(metadata_columns(table)) or "no metadata"
    raise InputError(f"The table has no column {name!r} ({what}): it has {known}.")


def name_treatments(table: pd.DataFrame, treatment: Sequence[str], compound: str | None) -> Treatments:
    """Make one column of those that replicates share, and one of the compound if doses or times are among them.

    Parameters
    ----------
    table
        Profiles.
    treatment
        Columns; none: nothing is told of treatments.
    compound
        Named by the user. None: where treatments are doses or times of something, that.

    Raises
    ------
    InputError
        If a column is not there, or what it holds cannot be told apart when written together.
    """
    columns = tuple(dict.fromkeys(find_column(table, name, "treatment") for name in treatment))
    if compound is not None:
        compound = find_column(table, compound, "compound")
    times = (_OF_TIMES,) if TIME in columns else ()
    if len(columns) < 2:
        return Treatments(table, columns[0] if columns else None, columns, compound, times)
    table, joint = _join(table, columns)
    notes = [*times, f"treatments are told apart by {' and '.join(columns)} ({joint})"]
    whose = [name for name in columns if not _is_dose(name) and name != TIME]
    if compound is None and whose and len(whose) < len(columns):
        table, compound = (table, whose[0]) if len(whose) == 1 else _join(table, whose)
        notes.append(f"doses or times of one {compound} do not count as different compounds (name others: --compound)")
    return Treatments(table, joint, columns, compound, tuple(notes))


def refuse_times(table: pd.DataFrame, places: pd.Series | None, columns: Sequence[str], what: str) -> None:
    """Refuse the same well, or treatment, at several times, unless time is part of what a treatment is.

    Another time of a well is neither its replicate nor another treatment: whichever it was taken for, retrieval would
    find it at once or be told that it should not.

    Parameters
    ----------
    table, columns
        Profiles, and the columns of their treatment.
    places
        The well or treatment of each row, missing for rows that do not matter; None: nothing tells.
    what
        `well` or `treatment`. Wells that nothing tells are not looked at; treatments must be told.

    Raises
    ------
    InputError
        Says which times there are, and how to choose one.
    """
    unknown = places is None and what == "well"
    if unknown or TIME not in table or TIME in columns or table[TIME].nunique(dropna=False) < 2:
        return
    if places is not None:
        counts = table[TIME].groupby(places.to_numpy(), sort=False).nunique(dropna=False)
        if not (counts > 1).any():
            return
        such = f"the {what} {counts.index[counts > 1][0]} is there at several of them"
    else:
        such = "nothing tells which rows are of one treatment"
    times = np.sort(table[TIME].dropna().unique()).tolist()
    raise InputError(
        f"The profiles are of {len(times)} time points ({examples(times)}), and {such}: evaluate one at a time, "
        f'--where "{TIME} == {times[-1]!r}"; or name {TIME} among the columns of the treatment, if each time of a '
        "compound is a treatment of its own."
    )


def _is_dose(name: str) -> bool:
    return name.removeprefix("Metadata_").casefold() in {dose.casefold() for dose in DOSES}


def _join(table: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Add a column of what several say together, such as `taxol 0.3`; nothing where one of them says nothing."""
    name = "Metadata_" + "_".join(column.removeprefix("Metadata_") for column in columns)
    while name in table:
        name += "_"
    texts = pd.DataFrame({column: _texts(table[column]) for column in columns}, index=table.index)
    known = texts.notna().all(axis=1)
    kinds = len(texts[known].drop_duplicates())
    for separator in _SEPARATORS:
        joined = texts.iloc[:, 0]
        for column in columns[1:]:
            joined = joined + separator + texts[column]
        joined = joined.where(known, None)
        if joined.nunique() == kinds:
            return table.assign(**{name: joined}), name
    raise InputError(f"What {' and '.join(columns)} say cannot be told apart when written together: rename some of it.")


def _texts(column: pd.Series) -> pd.Series:
    """Return a column as text, each value written once; empty text is no value."""
    codes, values = pd.factorize(column)
    written = np.array([_text(value) or None for value in np.asarray(values)] + [None], object)
    return pd.Series(written[codes], index=column.index, dtype=object)


def _text(value: Any) -> str:
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value)) if whole else str(value).strip()
