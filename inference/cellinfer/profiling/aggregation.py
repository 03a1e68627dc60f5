"""From rows of cells to rows of sites, wells and treatments.

What stands for a group is the median or the mean of each feature over its finite values. A table in memory is read
where it lies; a table in files is read a few features at a time, as memory allows. Neither of them, nor the number of
threads, changes a bit of the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from cellinfer_kernels import grouped
from cellinfer_kernels.grouped import Groups
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, SITE, WELL, feature_columns, metadata_columns
from cellinfer.profiling.groups import first_rows, groups_of, is_constant
from cellinfer.profiling.sources import Paths, Source, open_source
from cellinfer.profiling.sources._columnar import as_text
from cellinfer.sessions import available_cores

OBJECT_COUNT = "Metadata_Object_Count"
Operation = Literal["median", "mean"]
Progress = Callable[[int, int], None]
_STATISTICS: Mapping[str, Callable[[NDArray[Any], Groups], NDArray[np.float64]]] = {
    "median": grouped.medians,
    "mean": grouped.means,
}
_PIECES = 4  # of work for each thread, so that none waits long for another


class Step(NamedTuple):
    """One step from many rows to few."""

    by: tuple[str, ...]
    operation: Operation


CELLS_TO_WELLS = (Step((PLATE, WELL, SITE), "median"), Step((PLATE, WELL), "mean"))
"""Cells to sites by the median, which cells gone wrong do not move; sites to wells by the mean."""


def aggregate(
    table: pd.DataFrame,
    by: Sequence[str] = (PLATE, WELL),
    operation: Operation = "median",
    *,
    features: Iterable[str] | None = None,
    count: str | None = OBJECT_COUNT,
    threads: int | None = None,
) -> pd.DataFrame:
    """Summarise the rows of each group by one row.

    Values that are not finite do not count; where a group has no finite value of a feature, the result is NaN.

    Parameters
    ----------
    table
        Rows of cells, sites or wells. It is not copied.
    by
        Columns that rows of one group share: text, numbers or categories.
    operation
        What stands for a group.
    features
        Columns to summarise; those that `feature_columns` finds if None.
    count
        Name of the column for the number of objects in each group: its sum if the table has it, else the number of
        rows. None for no such column.
    threads
        How many threads to use; all cores if None.

    Returns
    -------
    DataFrame
        A row for each group in the order of its keys, those of `by` first to last (categories in their own order).
        Columns: `by`, `count`, each other metadata column that is constant within every group, and the features as
        float64.

    Raises
    ------
    InputError
        If a column is missing, twice there or no feature, a key is missing in some row, or the operation is unknown.
    """
    _check(operation)
    _refuse_twins(table.columns)
    names = feature_columns(table, features)
    keys, groups = _grouped(table, by, count, names)
    result = _statistics(_stretches(table, names), groups, operation, threads)
    return _with_features(keys, names, result)


def aggregate_files(
    source: Paths | Source,
    by: Sequence[str] = (PLATE, WELL),
    operation: Operation = "median",
    *,
    features: Iterable[str] | None = None,
    count: str | None = OBJECT_COUNT,
    memory: int = 2**30,
    threads: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Summarise the rows of tables that need not fit into memory; the result is that of `aggregate`.

    Held are the keys of all rows and as many features as there is memory for, at least one: its values, 8 bytes a row.

    Parameters
    ----------
    source
        What `cellinfer.profiling.sources.open_source` opens, or has opened.
    by, operation, features, count, threads
        As for `aggregate`.
    memory
        Bytes that the features held at a time may take.
    progress
        Called as `progress(done, total)` with numbers of features.

    Returns
    -------
    DataFrame
        As from `aggregate`.

    Raises
    ------
    InputError
        As from `aggregate`, or if the source cannot be read.
    """
    _check(operation)
    opened = source if isinstance(source, Source) else open_source(source)
    names = opened.features if features is None else list(features)
    if missing := [name for name in names if name not in set(opened.features)]:
        raise InputError(f"{opened.name} has no feature {missing[0]!r} ({len(missing)} of {len(names)} are missing).")
    table = opened.keys(categories=True)
    keys, groups = _grouped(table, by, count, names)
    # Besides its values a feature takes as much again while it is decoded.
    at_once = max(1, min(len(names), memory // max(1, 2 * 8 * len(table))))
    result = np.empty((len(names), len(keys)))
    for first in range(0, len(names), at_once):
        chosen = names[first : first + at_once]
        values = opened.read(chosen).T
        result[first : first + len(chosen)] = _statistics([values], groups, operation, threads)
        if progress is not None:
            progress(first + len(chosen), len(names))
    return _with_features(as_text(keys), names, result)


def aggregate_in_steps(
    cells: pd.DataFrame | Paths | Source, steps: Sequence[Step] = CELLS_TO_WELLS, **options: Any
) -> pd.DataFrame:
    """Summarise in several steps, such as cells to sites, sites to wells and wells to treatments.

    Parameters
    ----------
    cells
        A table, or what `aggregate_files` reads.
    steps
        From the smallest groups to the largest; for treatments add `Step(("Metadata_Treatment",), "mean")`.
    options
        For the first step, see `aggregate` and `aggregate_files`.

    Returns
    -------
    DataFrame
        As from `aggregate`; `Metadata_Object_Count` is that of cells after every step.

    Raises
    ------
    InputError
        As from `aggregate`; also if there is no step.
    """
    if not steps:
        raise InputError("Aggregation has no steps: name the columns to group by.")
    first, *others = steps
    if isinstance(cells, pd.DataFrame):
        table = aggregate(cells, first.by, first.operation, **options)
    else:
        table = aggregate_files(cells, first.by, first.operation, **options)
    features = options.get("features")
    names = list(features) if features is not None else None
    count, threads = options.get("count", OBJECT_COUNT), options.get("threads")
    for by, operation in others:
        table = aggregate(table, by, operation, features=names, count=count, threads=threads)
    return table


def _check(operation: str) -> None:
    if operation not in _STATISTICS:
        raise InputError(f"Cells cannot be aggregated by {operation!r}: choose {' or '.join(_STATISTICS)}.")


def _refuse_twins(columns: pd.Index) -> None:
    if not columns.is_unique:
        raise InputError(f"The table has two columns named {columns[columns.duplicated()][0]!r}: rename or drop one.")


def _grouped(
    table: pd.DataFrame, by: Sequence[str], count: str | None, features: Sequence[str]
) -> tuple[pd.DataFrame, Groups]:
    """Return groups and what stands before their features: keys, numbers of objects, and what is constant."""
    keys, groups = groups_of(table, by)
    if count is not None:
        if count in table.columns:
            numbers = _whole_numbers(table[count])
            keys[count] = np.add.reduceat(numbers[groups.order], groups.starts[:-1]) if len(keys) else numbers
        else:
            keys[count] = np.diff(groups.starts)
    taken = {*keys.columns, *features}
    for name in metadata_columns(table):
        if name not in taken and is_constant(table[name], groups):
            keys[name] = table[name].iloc[first_rows(groups)].reset_index(drop=True)
    return keys, groups


def _whole_numbers(values: pd.Series[Any]) -> NDArray[np.int64]:
    try:
        return np.asarray(values.astype(np.int64), np.int64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The column {values.name} does not have a number of objects in every row.") from error


def _with_features(keys: pd.DataFrame, names: Sequence[str], result: NDArray[np.float64]) -> pd.DataFrame:
    return pd.concat([keys, pd.DataFrame(result.T, columns=list(names))], axis=1)


def _stretches(table: pd.DataFrame, names: Sequence[str]) -> Iterator[NDArray[Any]]:
    """Give features as `(k, n)` arrays without copying them: as many at a time as lie evenly in memory.

    Columns of other types than float64 and float32 are converted, one at a time.
    """
    held: list[NDArray[Any]] = []
    for name in names:
        column = table[name]
        plain = column.dtype in (np.float64, np.float32)
        values = column.to_numpy() if plain else column.to_numpy(np.float64, na_value=np.nan)
        if held and not (plain and _continues(held, values)):
            yield _together(held)
            held = []
        if plain:
            held.append(values)
        else:
            yield values[None]
    if held:
        yield _together(held)


def _continues(held: list[NDArray[Any]], values: NDArray[Any]) -> bool:
    last = held[-1]
    if values.dtype != last.dtype or values.strides != last.strides:
        return False
    step = _address(values) - _address(last)
    if len(held) > 1:
        return step == _address(last) - _address(held[-2])
    (by_cell,) = values.strides
    return step == values.itemsize or (by_cell == values.itemsize and step >= values.nbytes)


def _address(values: NDArray[Any]) -> int:
    return int(values.__array_interface__["data"][0])


def _together(held: list[NDArray[Any]]) -> NDArray[Any]:
    first = held[0]
    if len(held) == 1:
        return first[None]
    step = _address(held[1]) - _address(first)
    shape, strides = (len(held), len(first)), (step, *first.strides)
    return np.lib.stride_tricks.as_strided(first, shape, strides, writeable=False)


def _statistics(
    stretches: Iterable[NDArray[Any]], groups: Groups, operation: str, threads: int | None
) -> NDArray[np.float64]:
    """Return a statistic of each feature in each group, `(F, G)`."""
    statistic = _STATISTICS[operation]
    workers = available_cores() if threads is None else max(1, threads)
    rows = []
    with ThreadPoolExecutor(workers) as pool:
        for values in stretches:
            number = workers * _PIECES
            if values.strides[0] < values.strides[1] and len(groups.starts) > 2 * workers:
                # Rows of cells are read fastest as a whole.
                parts = _parted(groups, number)
                rows.append(np.concatenate(list(pool.map(statistic, [values] * len(parts), parts)), axis=1))
            else:
                pieces = np.array_split(values, min(len(values), number))
                rows.append(np.concatenate(list(pool.map(statistic, pieces, [groups] * len(pieces)))))
    return np.concatenate(rows)


def _parted(groups: Groups, number: int) -> list[Groups]:
    """Part groups into stretches of about as many rows each."""
    wanted = np.linspace(0, len(groups.order), number + 1)
    bounds = np.unique([0, *np.searchsorted(groups.starts, wanted[1:-1]), len(groups.starts) - 1])
    return [groups._replace(starts=groups.starts[first : last + 1]) for first, last in itertools.pairwise(bounds)]
