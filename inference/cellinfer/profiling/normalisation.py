"""Put plates on one scale: each feature's distance from the reference wells of its own group, in their spread.

The formulas are those of pycytominer.normalize (scikit-learn's scalers and its RobustMAD):

- `standardise`: (x - mean) / sd, with the population's sd (division by n)
- `robustise`: (x - median) / (75th - 25th percentile)
- `robust-mad`: (x - median) / (1.4826 MAD), with MAD the median of |x - median|

Where the reference values of a feature are all the same there is no spread to divide by. pycytominer then divides by 1,
or by 1e-18, which gives numbers that look like results; here such a feature is missing in that group and counted.

A spread needs more rows than a centre: from six controls it is off by a third, and a feature that happens to vary
little among them is blown up on that plate alone. `spread="pooled"` centres each group on its own references and
divides by one spread for all groups, that of the references about their own group's centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import Groups, Rows, choose_rows, examples, group_rows, numbers, with_numbers

Array = npt.NDArray[np.float64]
Method = Literal["standardise", "robustise", "robust-mad"]
Constant = Literal["missing", "pycytominer"]
Spread = Literal["own", "pooled"]

METHODS: tuple[str, ...] = ("standardise", "robustise", "robust-mad")
_THEIR_NAMES = {"standardize": "standardise", "robustize": "robustise", "mad_robustize": "robust-mad"}
_THEIR_MAD = 1 / 1.4826  # written so that the last digit is pycytominer's
_EPS = float(np.finfo(np.float64).eps)


class Normalised(NamedTuple):
    """Profiles on one scale, and what was done to them."""

    table: pd.DataFrame
    """The profiles with their features replaced."""
    groups: pd.DataFrame
    """One row per group: the columns of `by`, `rows`, `references`, and `missing_features`, how many features have no
    scale there."""
    notes: tuple[str, ...]
    """What the user should know."""


class _Scale(NamedTuple):
    centre: Array
    spread: Array
    constant: npt.NDArray[np.bool_]


def normalise(
    profiles: pd.DataFrame,
    method: str = "standardise",
    *,
    by: Sequence[str] | str = (PLATE,),
    reference: Rows = None,
    features: Sequence[str] | None = None,
    spread: Spread = "own",
    constant: Constant = "missing",
    epsilon: float = 1e-18,
) -> Normalised:
    """Normalise features group by group against reference rows.

    Parameters
    ----------
    profiles
        One row per cell, site or well.
    method
        `standardise`, `robustise` or `robust-mad`; pycytominer's `standardize`, `robustize` and `mad_robustize` are
        the same.
    by
        Scope: the columns of a group, such as plate (default) or `Metadata_Batch`; `()` takes all rows as one group.
    reference
        Rows that centre and spread are taken from, mostly negative controls: a query or a mask. None: all rows of the
        group.
    features
        Names of the features; None: see `feature_columns`.
    spread
        `own`: of each group's references, as in pycytominer. `pooled`: of the references of all groups about the centre
        of their own group; the sd then divides by the number of references less the number of groups.
    constant
        Where the references of a group are all the same: `missing` makes the feature NaN there, `pycytominer` divides
        by 1 (`standardise`, `robustise`) or by `epsilon` (`robust-mad`).
    epsilon
        Added to 1.4826 MAD, as pycytominer's `mad_robustize_epsilon`.

    Returns
    -------
    Normalised
        Features as float64. Missing and infinite values count as missing: they are left out of centre and spread and
        stay NaN.

    Raises
    ------
    InputError
        If the method is not known, or a group has fewer than two reference rows.
    """
    method = _THEIR_NAMES.get(method, method)
    if method not in METHODS:
        raise InputError(f"There is no normalisation {method!r}: choose {', '.join(METHODS)}.")
    if constant not in ("missing", "pycytominer"):
        raise InputError(f"constant={constant!r} is neither 'missing' nor 'pycytominer'.")
    if spread not in ("own", "pooled"):
        raise InputError(f"spread={spread!r} is neither 'own' nor 'pooled'.")
    if not epsilon >= 0:
        raise InputError(f"epsilon must not be negative, and is {epsilon}.")
    names = feature_columns(profiles, features)
    groups = group_rows(profiles, by)
    chosen = choose_rows(profiles, reference, what="references")
    _refuse_few(groups, chosen, all_rows=reference is None)
    values = numbers(profiles, names)
    infinite = int(np.isinf(profiles[names].to_numpy(dtype=np.float64, na_value=np.nan)).sum())
    gone = np.zeros((len(groups.keys), len(names)), dtype=bool)
    rows_of = groups.rows
    scales = [_SCALES[method](values[rows[chosen[rows]]], constant, epsilon) for rows in rows_of]
    if spread == "pooled":
        shared = _pooled(values, rows_of, chosen, scales, method, constant, epsilon)
        scales = [_Scale(scale.centre, shared.spread, shared.constant) for scale in scales]
    for code, (rows, scale) in enumerate(zip(rows_of, scales, strict=True)):
        gone[code] = (scale.constant if constant == "missing" else np.isnan(scale.spread)) | np.isnan(scale.centre)
        block = values[rows]
        block -= scale.centre
        block /= np.where(gone[code], np.nan, scale.spread)
        values[rows] = block
    counts = groups.keys.assign(
        rows=np.bincount(groups.codes, minlength=len(groups.keys)),
        references=np.bincount(groups.codes[chosen], minlength=len(groups.keys)),
        missing_features=gone.sum(axis=1),
    )
    notes = _notes(groups, names, gone, infinite)
    return Normalised(with_numbers(profiles, names, values), counts, notes)


def _refuse_few(groups: Groups, chosen: npt.NDArray[np.bool_], *, all_rows: bool) -> None:
    counts = np.bincount(groups.codes[chosen], minlength=len(groups.keys))
    few = np.flatnonzero(counts < 2)
    if not len(few):
        return
    listed = examples([f"{groups.name(code)} ({counts[code]})" for code in few.tolist()])
    if all_rows:
        raise InputError(f"A single row cannot be normalised by itself: {listed}. Choose a larger scope.")
    raise InputError(
        f"Normalising takes two or more reference rows in each group; too few are in {listed}. Check the query, "
        "choose a larger scope, or take all rows as reference."
    )


def _pooled(
    values: Array,
    rows_of: Sequence[npt.NDArray[np.intp]],
    chosen: npt.NDArray[np.bool_],
    scales: Sequence[_Scale],
    method: str,
    constant: Constant,
    epsilon: float,
) -> _Scale:
    """Return the scale of all references, each less the centre of its own group."""
    apart = [values[rows[chosen[rows]]] - scale.centre for rows, scale in zip(rows_of, scales, strict=True)]
    together = np.concatenate(apart)
    size = np.max(np.nan_to_num(np.abs([scale.centre for scale in scales])), axis=0)
    found = _SCALES[method](together, constant, epsilon)
    flat = found.spread <= 10 * _EPS * size  # what subtracting centres leaves of a feature that never varies
    if method == "standardise":
        counts = np.isfinite(together).sum(axis=0)
        centres = sum(np.isfinite(each).any(axis=0).astype(np.int64) for each in apart)
        spread = np.sqrt(np.nansum(np.square(together), axis=0) / np.maximum(counts - centres, 1))
        flat |= spread <= counts * _EPS * size
        found = found._replace(spread=np.where(found.constant | flat, 1.0, spread))
    return found._replace(constant=found.constant | flat)


def _standard(values: Array, constant: Constant, epsilon: float) -> _Scale:
    count, mean = _counts_and_means(values)
    squares = np.square(values - mean)
    variance = np.nansum(squares, axis=0) / np.maximum(count, 1)
    # scikit-learn's bound on what rounding alone makes of values that are all the same
    flat = variance <= count * _EPS * variance + (count * np.nan_to_num(mean) * _EPS) ** 2
    spread = np.where(flat, 1.0, np.sqrt(variance))
    return _too_few(_Scale(mean, spread, flat), count)


def _robust(values: Array, constant: Constant, epsilon: float) -> _Scale:
    count = np.isfinite(values).sum(axis=0)
    low, centre, high = (_percentile(values, q) for q in (25.0, 50.0, 75.0))
    spread = high - low
    flat = spread <= 10 * _EPS * (1.0 if constant == "pycytominer" else np.abs(centre))
    return _too_few(_Scale(centre, np.where(flat, 1.0, spread), flat), count)


def _robust_mad(values: Array, constant: Constant, epsilon: float) -> _Scale:
    count = np.isfinite(values).sum(axis=0)
    centre = _percentile(values, 50.0)
    mad = _percentile(np.abs(values - centre), 50.0) / _THEIR_MAD
    flat = mad <= 10 * _EPS * np.abs(centre)
    return _too_few(_Scale(centre, mad + epsilon, flat), count)


_SCALES: dict[str, Callable[[Array, Constant, float], _Scale]] = {
    "standardise": _standard,
    "robustise": _robust,
    "robust-mad": _robust_mad,
}


def _too_few(scale: _Scale, count: npt.NDArray[np.integer]) -> _Scale:
    """Give no scale to features with fewer than two reference values; nor one of zero."""
    none = (count < 2) | ~(scale.spread > 0)
    return _Scale(scale.centre, np.where(none, np.nan, scale.spread), scale.constant | none)


def _counts_and_means(values: Array) -> tuple[npt.NDArray[np.integer], Array]:
    count = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    # once more about the mean itself, which takes away the rounding of a sum of large numbers
    return count, mean + np.nansum(values - mean, axis=0) / np.maximum(count, 1)


def _percentile(values: Array, q: float) -> Array:
    """Percentile of each column, linear between values; NaN are left out, and a column of NaN only gives NaN."""
    columns = np.ascontiguousarray(values.T)
    holes = np.isnan(columns).any(axis=1)
    result = np.full(len(columns), np.nan)
    result[~holes] = np.median(columns[~holes], axis=1) if q == 50.0 else np.percentile(columns[~holes], q, axis=1)
    for index in np.flatnonzero(holes):
        present = columns[index][~np.isnan(columns[index])]
        if len(present):
            result[index] = np.percentile(present, q) if q != 50.0 else np.median(present)
    return result


def _notes(groups: Groups, names: Sequence[str], gone: npt.NDArray[np.bool_], infinite: int) -> tuple[str, ...]:
    notes = []
    if infinite:
        notes.append(f"{infinite} infinite values were taken as missing")
    everywhere = gone.all(axis=0)
    if everywhere.any():
        listed = examples([names[index] for index in np.flatnonzero(everywhere).tolist()])
        notes.append(f"{int(everywhere.sum())} features are the same in all references and have no scale: {listed}")
    partly = gone.any(axis=0) & ~everywhere
    if partly.any():
        worst = int(gone[:, ~everywhere].sum(axis=1).argmax())
        notes.append(
            f"{int(partly.sum())} features have no scale in some groups and are missing there: "
            f"{examples([names[index] for index in np.flatnonzero(partly).tolist()])}; most in {groups.name(worst)}"
        )
    return tuple(notes)
