"""What `cellinfer profile` says of the tables that it wrote: how treatments and controls are told there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cellinfer.assays.platemap import cells_equal, metadata_column
from cellinfer.errors import InputError
from cellinfer.profiling.results import TABLES
from cellinfer.profiling.rows import choose_rows

RECORD = "profile.json"


class Beside(NamedTuple):
    """What an evaluation takes over where nothing else is named."""

    treatment: tuple[str, ...]
    controls: str | None
    notes: tuple[str, ...]
    """What was taken over, or why not."""


def read_beside(source: pd.DataFrame | str | os.PathLike[str], table: pd.DataFrame, controls: str | None) -> Beside:
    """Read which columns tell treatments apart, and which wells are controls, from the `profile.json` beside a table.

    Parameters
    ----------
    source, table
        The profiles, and what was read of them; a table in memory lies beside nothing.
    controls
        Named by the user, and then not taken from there.
    """
    if isinstance(source, pd.DataFrame):
        return Beside((), None, ())
    path = Path(source)
    info = _record(path)
    treatment = tuple(str(name) for name in info.get("treatment") or ())
    if not treatment:
        return Beside((), None, ())
    where = f"{path.parent / RECORD}"
    if missing := [name for name in treatment if name not in table.columns]:
        said = f"{where} tells treatments apart by {', '.join(treatment)}, and {path.name} has no {missing[0]}"
        return Beside((), None, (said,))
    found = None if controls is not None else _controls(info.get("settings") or {}, table)
    notes = [f"treatments are told apart by {' and '.join(treatment)}, as {where} says (name others: --treatment)"]
    if found is not None:
        notes.append(f"controls are {found}, as {where} says (name others: --controls)")
    elif controls is None and info.get("controls"):
        notes.append(f"{where} knows controls, and none of the rows of {path.name} is one: there are no controls here")
    return Beside(treatment, found, tuple(notes))


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a finished call of `profile` that wrote this very table; empty if there is none."""
    try:
        info = json.loads((path.parent / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(info, dict) and info.get("finished") and path.name.split(".")[0] in TABLES
    return info if ours and path.name in info.get("files", ()) else {}


def _controls(settings: dict[str, Any], table: pd.DataFrame) -> str | None:
    """Return a query that finds the controls; None if nothing does."""
    query = settings.get("controls")
    try:
        if query is None and settings.get("control_column") is not None:
            column = metadata_column(table, str(settings["control_column"]))
            values = table.loc[cells_equal(table[column], settings["negative"]), column].unique().tolist()
            name = column if column.isidentifier() else f"`{column}`"
            query = f"{name} == {values[0]!r}" if len(values) == 1 else f"{name} in {values!r}"
        return str(query) if query is not None and choose_rows(table, str(query)).any() else None
    except (InputError, KeyError):
        return None
