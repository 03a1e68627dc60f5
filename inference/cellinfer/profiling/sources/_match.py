"""Rows of one table that belong to rows of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import is_metadata
from cellinfer.profiling.groups import codes_of

_NUMBERS = ("TableNumber", "ImageNumber", "ObjectNumber")


def key_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that say what a row is: metadata and numbers of tables, images and objects."""
    return [name for name in names if is_metadata(name) or name in _NUMBERS]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return new names of columns: `Image_Metadata_Well` is `Metadata_Well`, unless there is one, too."""
    known = set(names)
    prefix = "Image_Metadata_"
    return {
        name: short for name in known if name.startswith(prefix) and (short := name.removeprefix("Image_")) not in known
    }


def match(wanted: pd.DataFrame, found: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Return the row of `found` that has the key of each row of `wanted`, -1 where there is none.

    Parameters
    ----------
    wanted, found
        Columns of keys, the same in both.
    name
        What messages call the table that was searched.

    Raises
    ------
    InputError
        If a key is in `found` more than once.
    """
    both = pd.concat([wanted.astype(found.dtypes.to_dict()), found], ignore_index=True)
    codes, count = codes_of(both, list(found.columns))
    sought, own = codes[: len(wanted)], codes[len(wanted) :]
    rows = np.full(count, -1)
    rows[own] = np.arange(len(own))
    if count and np.bincount(own, minlength=count).max() > 1:
        twin = found.iloc[int(np.flatnonzero(rows[own] != np.arange(len(own)))[0])]
        key = ", ".join(f"{column} {value}" for column, value in twin.items())
        raise InputError(f"{name} has more than one row of {key}: each cell must be there once.")
    return rows[sought]
