"""Which rows a step is about: named by a query, a mask or a column; grouped by plate, batch or not at all."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer.assays.platemap import as_number, cell_text
from cellinfer.errors import InputError
from cellinfer.profiling.groups import codes_of

Mask = npt.NDArray[np.bool_]
Rows = str | pd.Series | Sequence[bool] | npt.NDArray[np.bool_] | None
"""A pandas query such as `Metadata_Compound == 'DMSO'`, or one truth value for each row; None: every row."""

_EXAMPLES = 6


class Groups(NamedTuple):
    """Rows put together: by plate, by batch, or all as one."""

    codes: npt.NDArray[np.intp]
    """Number of each row's group, from 0."""
    keys: pd.DataFrame
    """One row per group, in sorted order, with the columns that tell them apart."""

    @property
    def rows(self) -> list[npt.NDArray[np.intp]]:
        """Places of each group's rows, in their order."""
        ends = np.cumsum(np.bincount(self.codes, minlength=len(self.keys)))
        return np.split(np.argsort(self.codes, kind="stable"), ends[:-1])

    def name(self, code: int) -> str:
        """Say which group it is, such as `Metadata_Plate P1`."""
        if not len(self.keys.columns):
            return "all rows"
        return ", ".join(f"{column} {self.keys[column].iloc[code]}" for column in self.keys)


def choose_rows(table: pd.DataFrame, which: Rows, *, what: str = "rows") -> Mask:
    """Find the rows that a query or a mask names.

    Parameters
    ----------
    table
        Any table.
    which
        See `Rows`.
    what
        How an error calls them, such as `controls`.

    Returns
    -------
    (rows,) bool
        True for those that are meant; may be none.

    Raises
    ------
    InputError
        If the query is not understood, or the mask has another length or holds anything but truth values.
    """
    if which is None:
        return np.ones(len(table), dtype=bool)
    if isinstance(which, str):
        return _query(table, which, what)
    if isinstance(which, pd.Series) and not which.index.equals(table.index):
        raise InputError(f"The mask of {what} has another index than the table: make it from the same table.")
    mask = np.asarray(which)
    if mask.dtype == object and not any(value is None or value != value for value in mask):
        mask = mask.astype(bool)
    if mask.shape != (len(table),) or mask.dtype != bool:
        raise InputError(
            f"The mask of {what} must hold one truth value for each of the {len(table)} rows, not {mask.dtype} of "
            f"shape {mask.shape}."
        )
    return mask


def existing_rows(table: pd.DataFrame, query: str, *, what: str = "rows") -> Mask:
    """Find the rows that a query names, of which there must be some.

    Parameters
    ----------
    table
        Any table.
    query
        See `Rows`.
    what
        How an error calls them.

    Returns
    -------
    (rows,) bool

    Raises
    ------
    InputError
        If the query is not understood, or holds for no row: the sentence says what the columns hold that it asks for,
        whether that is text or numbers, and how to write it.
    """
    found = choose_rows(table, query, what=what)
    if found.any():
        return found
    asked = [one for one in _comparisons(query) if one[0].id in table.columns]
    held = "; ".join(dict.fromkeys(f"{name.id} {_contents(table[name.id])}" for name, _ in asked))
    better = _as_written_there(table, query)
    raise InputError(
        f"The query {query!r} for {what} holds for no row"
        + (f": {held}" if held else "")
        + (f"; write {better}" if better else "")
        + "."
    )


def group_rows(table: pd.DataFrame, by: Sequence[str] | str) -> Groups:
    """Put rows together that have the same values in some columns.

    Parameters
    ----------
    table
        Any table.
    by
        Columns; none: all rows are one group. A missing value is a value of its own.

    Raises
    ------
    InputError
        If a column is missing or there are no rows.
    """
    columns = [by] if isinstance(by, str) else list(by)
    for column in columns:
        if column not in table.columns:
            there = ", ".join(str(name) for name in table.columns if str(name).startswith("Metadata_"))
            raise InputError(
                f"The table has no column {column!r} to group by: it has {there or 'no Metadata_ columns'}."
            )
    if not len(table):
        raise InputError("The table has no rows.")
    if not columns:
        return Groups(np.zeros(len(table), dtype=np.intp), pd.DataFrame(index=range(1)))
    codes = codes_of(table, columns)[0]
    firsts = np.unique(codes, return_index=True)[1]
    return Groups(codes, table[columns].iloc[firsts].reset_index(drop=True))


def examples(names: Sequence[Any]) -> str:
    """Name the first few of many things."""
    shown = ", ".join(str(name) for name in names[:_EXAMPLES])
    return shown + (f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else "")


def numbers(table: pd.DataFrame, features: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return features as a new matrix of float64, in which what is not finite is NaN."""
    matrix = np.array(table[list(features)].to_numpy(dtype=np.float64, na_value=np.nan), order="C")
    matrix[~np.isfinite(matrix)] = np.nan
    return matrix


def with_numbers(
    table: pd.DataFrame, features: Sequence[str], matrix: npt.NDArray[np.float64], names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return a table with its features replaced; other columns, index and the order of columns stay.

    With `names`, new features of these names stand at the end instead.
    """
    values = pd.DataFrame(matrix, index=table.index, columns=list(features if names is None else names))
    others = table.drop(columns=list(features))
    joined = pd.concat([others, values], axis=1)
    if names is not None or list(joined.columns) == list(table.columns):
        return joined
    return joined[list(table.columns)]


def scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standardise over all rows the features that have every value and vary; the others are left out."""
    whole = values[:, np.isfinite(values).all(axis=0)]
    spread = whole.std(axis=0)
    varied = spread > 1e-12 * np.abs(whole).max(axis=0, initial=0.0)
    return np.asarray((whole[:, varied] - whole[:, varied].mean(axis=0)) / spread[varied])


def _query(table: pd.DataFrame, query: str, what: str) -> Mask:
    try:
        found = table.eval(query, engine="python", local_dict={}, global_dict={})
    except Exception as error:
        there = ", ".join(str(name) for name in table.columns if str(name).startswith("Metadata_"))
        raise InputError(
            f"The query {query!r} for {what} is not understood ({error}): write it as Metadata_Compound == 'DMSO'. "
            f"The table has {there or 'no Metadata_ columns'}."
        ) from error
    if isinstance(found, pd.Series) and len(found) == len(table):
        found = found.fillna(False)
        if pd.api.types.is_bool_dtype(found.dtype):
            return found.to_numpy(dtype=bool)
    raise InputError(f"The query {query!r} for {what} does not say yes or no for each row.")


def _comparisons(query: str | ast.AST) -> Iterator[tuple[ast.Name, list[ast.Constant]]]:
    """Yield what a query compares: a column, and what with; nothing where it is no plain Python (`backticks`)."""
    try:
        tree = ast.parse(query, mode="eval") if isinstance(query, str) else query
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            names = [one for one in (node.left, *node.comparators) if isinstance(one, ast.Name)]
            if len(names) == 1:
                yield names[0], [one for one in ast.walk(node) if isinstance(one, ast.Constant)]


def _contents(column: pd.Series) -> str:
    """Say what a column holds: its kind and the first of its values."""
    values = _values(column)
    if not values:
        return "is empty"
    texts = sum(isinstance(value, str) for value in values)
    kind = "text and numbers" if 0 < texts < len(values) else "text" if texts else "numbers"
    if all(isinstance(value, bool) for value in values):
        kind = "truth values"
    return f"holds {kind} ({examples([repr(value) for value in values])})"


def _values(column: pd.Series) -> list[Any]:
    """Return the values of a column as plain Python, each once, in order; whole numbers without a point."""
    values = [one.item() if isinstance(one, np.generic) else one for one in column.dropna().unique()]
    plain = [int(one) if isinstance(one, float) and one.is_integer() else one for one in values]
    return sorted(plain, key=lambda one: (isinstance(one, str), one if isinstance(one, (int, float)) else 0, str(one)))


def _as_written_there(table: pd.DataFrame, query: str) -> str | None:
    """Return a query with its values as its columns hold them (`1` for `'1'`), if that one finds rows."""
    try:
        tree = ast.parse(query, mode="eval")
    except SyntaxError:
        return None
    for name, constants in _comparisons(tree):
        values = _values(table[name.id]) if name.id in table.columns else []
        for constant in constants:
            same = [value for value in values if _say_the_same(value, constant.value)]
            if len(same) == 1:
                constant.value = same[0]
    better = ast.unparse(tree)
    try:
        return better if choose_rows(table, better).any() else None
    except InputError:
        return None


def _say_the_same(one: Any, other: Any) -> bool:
    texts = [cell_text(value).casefold() for value in (one, other)]
    return texts[0] == texts[1] or as_number(one) == as_number(other)
