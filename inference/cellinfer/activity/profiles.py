"""Profiles of compounds, from a table or from what `cellinfer profile` wrote: for training and for prediction alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellinfer.activity.tables import PARQUET, TEXTS, columns_of, ending, read_table
from cellinfer.errors import InputError
from cellinfer.profiling.columns import MEASURED, feature_columns
from cellinfer.profiling.wanted import stated_settings

__all__ = ["Profiles", "read_profiles"]

TREATMENTS = "Treatment.parquet"
_JOINS = ("compound", "treatment", "broad_sample", "pert_iname", "compound_id", "id", "name")
"""Columns, perhaps after `Metadata_`, that name the compounds of profiles."""


@dataclass(frozen=True)
class Profiles:
    """Profiles of compounds.

    Attributes
    ----------
    path, column
        Where they come from, and its column with names.
    compounds
        `(n,)` names, each once, in the order in which they first appear.
    table
        n rows of features, float32, NaN where a value is missing.
    notes
        What a user should know: rows that became one, rows and values that were left out.
    settings
        How `cellinfer profile` made them; None where it did not.
    """

    path: Path
    column: str
    compounds: pd.Index
    table: pd.DataFrame
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = field(default=None, repr=False)


def read_profiles(
    path: str | Path, name: str, features: Mapping[str, str] | None = None, join: str | None = None
) -> Profiles:
    """Read profiles of compounds; several rows of one compound become their mean.

    Parameters
    ----------
    path
        Table (Parquet, CSV, TSV; also `.gz`) or folder that `cellinfer profile` wrote: its profiles of treatments.
    name
        What models call these profiles.
    features
        Those to read -> the model that sees it; None: all that the table has and that have a value somewhere.
    join
        Column with names of compounds; None: found by its name.

    Raises
    ------
    InputError
        If the table cannot be read, has no such column, or lacks features.
    """
    path = _table_of(Path(path))
    columns = _columns(path)
    if missing := [feature for feature in features or () if feature not in columns]:
        raise InputError(
            f"{path} lacks {len(missing)} of the {len(features or ())} features that the model "
            f"{(features or {})[missing[0]]!r} sees as {name!r}, such as {', '.join(map(repr, missing[:3]))}: profiles "
            "must have the features that it was trained on (`cellinfer profile --features-of MODEL` keeps these)."
        )
    column = _join_column(path, columns, join)
    if features is not None and column in features:
        raise InputError(f"{column!r} of {path} is a feature: name the column with names of compounds with --join.")
    table = read_table(path, None if features is None else [column, *features], texts=[column])
    if features is None:
        _refuse_texts(table, path)
    wanted = list(features) if features is not None else [one for one in feature_columns(table) if one != column]
    names = table.pop(column)
    known = names.notna().to_numpy() & (names.astype("string").fillna("").str.strip() != "").to_numpy(bool)
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told of
            values = table.loc[known, wanted].astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has features that are no numbers ({str(error).splitlines()[0]}).") from error
    infinite = np.isinf(values.to_numpy())
    if infinite.any():
        values = values.mask(infinite)
    empty = list(values.columns[values.isna().all()]) if features is None else []
    grouped = values.drop(columns=empty).groupby(_texts(names[known]).to_numpy(), sort=False)
    averaged = int((grouped.size() > 1).sum())
    means = grouped.mean().astype(np.float32)
    if means.empty:
        raise InputError(f"{path} names no compound in {column}, or has no feature: say with --join which column does.")
    lacking = means.isna().to_numpy()
    unknown = int(lacking[~lacking.all(axis=1)].sum())
    notes = (
        (averaged, f"compounds have several profiles of {name!r} ({column}): their mean is taken."),
        (int((~known).sum()), f"rows of {path} name no compound and are left out."),
        (int(infinite.sum()), f"values of {path} are infinite and taken for missing."),
        (
            unknown,
            f"of {means.size:,} values of {path} are missing: the mean of the training compounds stands for them.",
        ),
        (len(empty), f"features of {name!r} have no value in {path} and are left out."),
    )
    said = tuple(f"{count:,} {text}" for count, text in notes if count)
    return Profiles(path, column, pd.Index(means.index.astype(str)), means, said, stated_settings(path))


def _refuse_texts(table: pd.DataFrame, path: Path) -> None:
    numbers = table.select_dtypes("number").columns
    if texts := [name for name in table if str(name).startswith(MEASURED) and name not in numbers]:
        raise InputError(f"{path} has something else than numbers in the feature {texts[0]!r}: mend or drop it.")


def _table_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "profile.json").is_file():
        raise InputError(f"{path} is no finished result of `cellinfer profile`: give that folder, or a table.")
    if not (path / TREATMENTS).is_file():
        raise InputError(f"{path} has no {TREATMENTS}: make profiles of treatments, see `cellinfer profile --help`.")
    return path / TREATMENTS


def _columns(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"There are no profiles {path}: name a table, or a folder that `cellinfer profile` wrote.")
    if ending(path) not in (*TEXTS, *PARQUET):
        raise InputError(f"{path} must end in .csv, .tsv, .txt or .parquet.")
    return columns_of(path)


def _join_column(path: Path, columns: Sequence[str], join: str | None) -> str:
    if join is not None:
        if join not in columns:
            raise InputError(f"{path} has no column {join!r} that names compounds: say which one does with --join.")
        return join
    plain = {name.lower().removeprefix("metadata_"): name for name in reversed(columns)}
    found = next((plain[name] for name in _JOINS if name in plain), None)
    if found is None:
        raise InputError(f"{path} has no column that is called Metadata_Compound: name it with --join.")
    return found


def _texts(names: pd.Series) -> pd.Series:
    """Return names as the list of molecules has them: whole numbers without a point, nothing around."""
    if pd.api.types.is_float_dtype(names.dtype) and (names % 1 == 0).all():
        names = names.astype(np.int64)
    return names.astype(str).str.strip()
