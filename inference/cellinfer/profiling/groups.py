"""Groups of rows that share their keys: plate and well, treatment, a cell's own name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from cellinfer_kernels import grouped
from cellinfer_kernels.grouped import Groups
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import metadata_columns


def groups_of(table: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, Groups]:
    """Return the groups of rows that share their values in some columns.

    Parameters
    ----------
    table
        Any rows.
    by
        Columns: text, numbers or categories.

    Returns
    -------
    keys : DataFrame
        A row for each group, sorted by the columns `by`, first to last; categories in their own order.
    groups
        For the kernels of `cellinfer_kernels.grouped`.

    Raises
    ------
    InputError
        If a column is not there, or empty in some row.
    """
    if isinstance(by, str) or not by:
        raise InputError(f"Groups need a list of the columns whose values their rows share, not {by!r}.")
    if missing := [name for name in by if name not in table.columns]:
        known = metadata_columns(table)
        having = f"it has {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}" if known else "it has no metadata"
        raise InputError(f"The table has no column {missing[0]!r} to group by: {having}.")
    for name in by:
        if empty := int(table[name].isna().sum()):
            raise InputError(f"{empty:,} of {len(table):,} rows have no {name}: fill them in, or leave these rows out.")
    groups = grouped.arrange(*codes_of(table, by))
    return table[list(by)].iloc[first_rows(groups)].reset_index(drop=True), groups


def codes_of(table: pd.DataFrame, by: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Return the place of each row's key among the sorted keys, and how many keys there are.

    Nothing at all, in some column, is one value more, behind the others.
    """
    codes, count = np.zeros(len(table), np.int64), 1
    for name in by:
        own, size = _codes(table[name])
        # Numbers without gaps: combined, they never outgrow their type.
        joint, found = pd.factorize(codes * size + own, sort=True)
        codes, count = joint.astype(np.int64, copy=False), len(found)
    return codes, count


def first_rows(groups: Groups) -> NDArray[np.int64]:
    """Return the first row of each group; none may be empty."""
    return groups.order[groups.starts[:-1]]


def is_constant(values: pd.Series[Any], groups: Groups) -> bool:
    """Tell whether a column has one value in each group; no value at all is one, too."""
    codes, _ = _codes(values, sort=False)
    return bool((codes[groups.order] == np.repeat(codes[first_rows(groups)], np.diff(groups.starts))).all())


def _codes(values: pd.Series[Any], sort: bool = True) -> tuple[NDArray[np.int64], int]:
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, size = values.cat.codes.to_numpy().astype(np.int64), len(values.cat.categories)
    else:
        numbers, found = pd.factorize(values, sort=sort)
        codes, size = numbers.astype(np.int64, copy=False), len(found)
    codes[codes < 0] = size
    return codes, size + 1
