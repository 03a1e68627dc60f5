"""One profile for each treatment from its replicates: mean, median, or the weighted mean MODZ.

MODZ weighs a replicate by its mean Spearman correlation with the others (negative ones count as 0, the weight is at
least 0.01), normalises the weights to 1 and rounds them to 4 digits, as pycytominer and cmapPy do. Sources: Subramanian
et al. (2017), Cell 171, 1437; pycytominer.consensus.

pycytominer takes a missing value for 0; here the weights of the other replicates are scaled up, and a feature that all
replicates lack is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from cellinfer.errors import InputError
from cellinfer.profiling.columns import feature_columns, is_metadata
from cellinfer.profiling.rows import Rows, choose_rows, examples, group_rows, numbers

Array = npt.NDArray[np.float64]

OPERATIONS = ("mean", "median", "modz")
REPLICATES = "Metadata_Replicate_Count"
"""Column with the number of rows that a consensus was made of."""
_COUNT = "Metadata_Object_Count"


class Consensus(NamedTuple):
    """One row for each treatment, and what the user should know."""

    table: pd.DataFrame
    """The columns of `by`, `Metadata_Replicate_Count`, the sum of `Metadata_Object_Count` if there is one, metadata
    that all replicates of each treatment share (missing for controls that do not), and the features."""
    notes: tuple[str, ...]


def consensus(
    profiles: pd.DataFrame,
    by: Sequence[str] | str,
    operation: str = "median",
    *,
    features: Sequence[str] | None = None,
    controls: Rows = None,
    min_weight: float = 0.01,
    precision: int = 4,
) -> Consensus:
    """Summarise replicates.

    Parameters
    ----------
    profiles
        Wells, mostly normalised.
    by
        Columns that the replicates of a treatment share. Rows without a value in one of them are left out and counted
        in a note.
    operation
        `mean`, `median` or `modz`; missing and infinite values are left out.
    features
        Names; None: see `feature_columns`.
    controls
        Rows, by a query or a mask, that stand in many batches: what the replicates of every other treatment share, such
        as their batch, is kept. None: there are no such rows.
    min_weight, precision
        Of MODZ: smallest weight before weights are normalised, and digits that they are rounded to.

    Raises
    ------
    InputError
        If the operation is not known, a column is missing, or no row has a treatment.
    """
    if operation not in OPERATIONS:
        raise InputError(f"There is no consensus {operation!r}: choose {', '.join(OPERATIONS)}.")
    columns = [by] if isinstance(by, str) else list(by)
    if not columns:
        raise InputError("A consensus needs the columns that replicates share, such as Metadata_Compound.")
    names = feature_columns(profiles, features)
    if absent := [column for column in columns if column not in profiles]:
        raise InputError(f"The profiles have no column {absent[0]!r} that replicates could share.")
    known = profiles[columns].notna().all(axis=1).to_numpy()
    notes = []
    if not known.all():
        notes.append(f"{int((~known).sum())} rows have no {' and '.join(columns)} and are in no consensus")
    if not known.any():
        raise InputError(f"No row has a value of {' and '.join(columns)}.")
    rows = profiles[known] if not known.all() else profiles
    groups = group_rows(rows, columns)
    everywhere = np.zeros(len(groups.keys), dtype=bool)
    if controls is not None:
        everywhere[groups.codes[choose_rows(profiles, controls, what="controls")[known]]] = True
    values = numbers(rows, names)
    blocks = groups.rows
    counts = np.bincount(groups.codes)
    if operation == "modz":
        summarised = np.stack([modz(values[block], min_weight=min_weight, precision=precision) for block in blocks])
        if (counts == 1).any():
            alone = [groups.name(code) for code in np.flatnonzero(counts == 1).tolist()]
            notes.append(f"{len(alone)} treatments have one replicate, which stands for them: {examples(alone)}")
    else:
        summarised = np.stack([_SUMMARIES[operation](values[block]) for block in blocks])
    table = groups.keys.assign(**{REPLICATES: counts})
    for column in map(str, rows.columns):
        if column == _COUNT and column not in columns:
            table[column] = np.bincount(groups.codes, weights=rows[column].to_numpy(dtype=np.float64)).astype(np.int64)
        elif is_metadata(column) and column not in table:
            alike = _is_shared(rows[column], groups.codes)
            if (alike | everywhere).all() and not everywhere.all():
                firsts = rows[column].iloc[[block[0] for block in blocks]].reset_index(drop=True)
                table[column] = firsts if alike.all() else firsts.where(alike)
    return Consensus(pd.concat([table, pd.DataFrame(summarised, columns=names)], axis=1), tuple(notes))


def modz(values: Array, *, min_weight: float = 0.01, precision: int = 4) -> Array:
    """Return the MODZ of replicates.

    Parameters
    ----------
    values
        (replicates, features); NaN where missing.
    min_weight, precision
        See `consensus`.

    Returns
    -------
    (features,) float64
    """
    if len(values) == 1:
        return np.array(values[0])
    r = _spearman(values)
    alike = np.maximum(np.nan_to_num(r), 0.0)  # a constant replicate is like no other
    np.fill_diagonal(alike, 0.0)
    raw = np.maximum(alike.sum(axis=1) / (len(r) - 1), min_weight)
    total = raw.sum()
    weights = np.round(raw / total if total > 0 else np.full(len(raw), 1 / len(raw)), precision)
    present = np.isfinite(values)
    whole = present.all(axis=0)
    weighted = weights @ np.where(present, values, 0.0)
    weight = weights @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(weight > 0, weighted * (weights.sum() / weight), np.nan)
    return np.asarray(np.where(whole, weighted, scaled))


def _spearman(values: Array) -> Array:
    """Correlate rows by ranks, for each two rows over the features that both have; NaN if a row is constant."""
    if not np.isfinite(values).all():
        return np.array(pd.DataFrame(values.T).corr(method="spearman"))
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(ranks).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ranks @ ranks.T / np.outer(length, length))


def _mean(values: Array) -> Array:
    count = np.isfinite(values).sum(axis=0)
    return np.asarray(np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan))


def _median(values: Array) -> Array:
    result = np.full(values.shape[1], np.nan)
    whole = np.isfinite(values).all(axis=0)
    result[whole] = np.median(values[:, whole], axis=0)
    some = ~whole & np.isfinite(values).any(axis=0)
    result[some] = np.nanmedian(values[:, some], axis=0)
    return result


_SUMMARIES = {"mean": _mean, "median": _median}


def _is_shared(column: pd.Series, codes: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Tell within which groups a column is the same; missing values are the same as each other."""
    values = pd.factorize(column, use_na_sentinel=True)[0]
    first = np.zeros(int(codes.max()) + 1, dtype=np.intp)
    first[codes[::-1]] = values[::-1]
    return np.asarray(np.bincount(codes, weights=values != first[codes]) == 0)
