"""Leave out features that say nothing, or nothing new: the operations of pycytominer.feature_select with its defaults.

All rows given are judged together: with several plates they should be on one scale first (`normalise`). The operations
are applied in turn, each to what the earlier ones left. The default order first takes out what should not decide about
others: a correlation with a feature that is dropped itself costs no feature.

`correlation` (Pearson, or Spearman): of two features with r above the threshold the one goes whose absolute
correlations with all features sum to more. Sums that differ by rounding only count as equal, and of such features the
later column goes; so the order of rows does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from cellinfer.errors import InputError
from cellinfer.profiling.columns import feature_columns
from cellinfer.profiling.rows import Rows, choose_rows, group_rows, numbers

Array = npt.NDArray[np.float64]

OPERATIONS = ("missing", "blocklist", "variance", "frequency", "outliers", "noise", "correlation")
"""What there is, in the order in which it is best applied."""
DEFAULT = ("missing", "blocklist", "variance", "frequency", "correlation")

THEIR_NAMES: Mapping[str, str] = {
    "drop_na_columns": "missing",
    "blocklist": "blocklist",
    "variance_threshold": "variance",
    "frequency_threshold": "frequency",
    "drop_outliers": "outliers",
    "noise_removal": "noise",
    "correlation_threshold": "correlation",
}
"""Name in pycytominer -> name here; both are understood."""

_CHANNELS = ("AGP", "DNA", "ER", "Mito", "RNA")
BLOCKLIST = frozenset(
    [
        f"Nuclei_Correlation_{kind}_{first}_{second}"
        for kind in ("Manders", "RWC")
        for first in _CHANNELS
        for second in _CHANNELS
        if first != second
    ]
    + [f"Nuclei_Granularity_{scale}_{channel}" for scale in (14, 15, 16) for channel in _CHANNELS]
)
"""Noisy features of CellProfiler in Cell Painting assays: Way (2019), doi.org/10.6084/m9.figshare.10255811."""

_TIE = 1e-9
_ROUNDING = 1e-12


class Selection(NamedTuple):
    """Profiles without the features that were dropped, and why each was."""

    table: pd.DataFrame
    features: pd.DataFrame
    """One row per feature in the table's order: `feature`, `kept`, `operation` that dropped it (empty if kept) and
    `reason`."""
    notes: tuple[str, ...]

    @property
    def kept(self) -> list[str]:
        """Names of the features that stayed."""
        return list(self.features.loc[self.features["kept"], "feature"])

    @property
    def dropped(self) -> list[str]:
        """Names of the features that went."""
        return list(self.features.loc[~self.features["kept"], "feature"])


class _Options(NamedTuple):
    na_cutoff: float
    min_variance: float
    freq_cut: float
    unique_cut: float
    outlier_cutoff: float
    noise_groups: npt.NDArray[np.intp] | None
    noise_cutoff: float
    correlation: float
    method: str
    absolute: bool
    blocklist: frozenset[str]


_Reasons = dict[int, str]
"""Column -> why it goes."""


def select_features(
    profiles: pd.DataFrame,
    operations: Sequence[str] | str = DEFAULT,
    *,
    features: Sequence[str] | None = None,
    samples: Rows = None,
    na_cutoff: float = 0.05,
    min_variance: float = 1e-6,
    freq_cut: float = 0.05,
    unique_cut: float = 0.01,
    correlation: float = 0.9,
    correlation_method: Literal["pearson", "spearman"] = "pearson",
    absolute: bool = False,
    outlier_cutoff: float = 500.0,
    noise_by: Sequence[str] | str | None = None,
    noise_cutoff: float = 0.8,
    blocklist: Sequence[str] | None = None,
) -> Selection:
    """Select features.

    Parameters
    ----------
    profiles
        One row per well, say.
    operations
        From `OPERATIONS`, applied in the order given; pycytominer's names are understood too.
    features
        Names of the features; None: see `feature_columns`.
    samples
        Rows that are judged: a query or a mask; None: all.
    na_cutoff
        `missing`: largest part of missing values that a feature may have. Infinite values count as missing.
    min_variance
        `variance`: features whose variance (division by n) is no larger go.
    freq_cut, unique_cut
        `frequency`: features go whose second most common value is less than `freq_cut` times as frequent as the most
        common one, or that have fewer than `unique_cut` different values per row.
    correlation, correlation_method, absolute
        `correlation`: largest r of two features; with `absolute` largest |r|: else features that are each other's
        mirror image both stay, as in pycytominer.
    outlier_cutoff
        `outliers`: largest absolute value of normalised features.
    noise_by, noise_cutoff
        `noise`: columns that replicates share, and the largest mean over them of a feature's sd (division by n).
    blocklist
        `blocklist`: names that go; None: `BLOCKLIST`.

    Returns
    -------
    Selection
        Other columns stay as they are.

    Raises
    ------
    InputError
        If an operation or a threshold makes no sense, or no feature is left.
    """
    names = feature_columns(profiles, features)
    wanted = [THEIR_NAMES.get(one, one) for one in ([operations] if isinstance(operations, str) else operations)]
    for one in wanted:
        if one not in OPERATIONS:
            raise InputError(f"There is no feature selection {one!r}: choose from {', '.join(OPERATIONS)}.")
    for name, value in (("na_cutoff", na_cutoff), ("freq_cut", freq_cut), ("unique_cut", unique_cut)):
        _refuse_outside(name, value)
    _refuse_outside("correlation", correlation)
    if correlation_method not in ("pearson", "spearman"):
        raise InputError(f"There is no correlation {correlation_method!r}: choose pearson or spearman.")
    if min_variance < 0:
        raise InputError(f"min_variance must not be negative, and is {min_variance}.")
    if "noise" in wanted and noise_by is None:
        raise InputError("The feature selection 'noise' needs noise_by: the columns that replicates share.")
    mask = choose_rows(profiles, samples, what="samples")
    if not mask.any():
        raise InputError("No row is among the samples that features are selected on: check the query.")
    options = _Options(
        na_cutoff,
        min_variance,
        freq_cut,
        unique_cut,
        outlier_cutoff,
        group_rows(profiles[mask], noise_by).codes if noise_by is not None else None,
        noise_cutoff,
        correlation,
        correlation_method,
        absolute,
        BLOCKLIST if blocklist is None else frozenset(blocklist),
    )
    return _apply(profiles, names, numbers(profiles[mask] if not mask.all() else profiles, names), wanted, options)


def _refuse_outside(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be between 0 and 1, and is {value}.")


def _apply(
    profiles: pd.DataFrame, names: list[str], values: Array, wanted: Sequence[str], options: _Options
) -> Selection:
    left = np.arange(len(names))
    by, why = np.full(len(names), "", dtype=object), np.full(len(names), "", dtype=object)
    notes = []
    for operation in wanted:
        block = values if len(left) == len(names) else values[:, left]
        reasons = _STEPS[operation](block, [names[index] for index in left], options)
        for place, reason in reasons.items():
            by[left[place]], why[left[place]] = operation, reason
        if len(reasons) > len(left) / 2 and operation in ("outliers", "missing", "noise"):
            notes.append(f"{operation} dropped {len(reasons)} of {len(left)} features: are the profiles normalised?")
        left = np.delete(left, list(reasons))
        if not len(left):
            raise InputError(
                f"Feature selection leaves no feature: {operation!r} dropped the last {len(reasons)}, such as "
                f"{names[int(np.flatnonzero(by == operation)[0])]} ({why[by == operation][0]})."
            )
    kept = by == ""
    table = pd.DataFrame({"feature": names, "kept": kept, "operation": by, "reason": why})
    dropped = [name for name, keep in zip(names, kept, strict=True) if not keep]
    return Selection(profiles.drop(columns=dropped), table, tuple(notes))


def _missing(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    part = np.isnan(values).sum(axis=0) / len(values)
    return {
        index: f"{part[index]:.3g} of the values are missing (> {options.na_cutoff:g})"
        for index in np.flatnonzero(part > options.na_cutoff).tolist()
    }


def _blocklist(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    return {index: "is in the blocklist" for index, name in enumerate(names) if name in options.blocklist}


def _variance(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    count = np.isfinite(values).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.maximum(count, 1)
    variance = np.nansum(np.square(values - mean), axis=0) / np.maximum(count, 1)
    if options.min_variance == 0:  # as scikit-learn: then rounding must not count
        lowest, highest = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        variance = np.where(highest > lowest, variance, 0.0)
    return {
        index: f"variance {variance[index]:.3g} (<= {options.min_variance:g})"
        for index in np.flatnonzero(variance <= options.min_variance).tolist()
    }


def _frequency(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    reasons: _Reasons = {}
    for index, column in enumerate(np.ascontiguousarray(values.T)):
        counts = _counts_of_values(column)
        ratio = counts[1] / counts[0] if len(counts) > 1 else 0.0
        unique = len(counts) / len(values)
        if ratio < options.freq_cut:
            reasons[index] = f"second to first most common value {ratio:.3g} (< {options.freq_cut:g})"
        elif unique < options.unique_cut:
            reasons[index] = f"{len(counts)} different values in {len(values)} rows (< {options.unique_cut:g})"
    return reasons


def _counts_of_values(column: Array) -> npt.NDArray[np.intp]:
    """Return how often each value occurs, the two most frequent ones first; NaN do not count."""
    ordered = np.sort(column)
    ordered = ordered[: len(ordered) - int(np.isnan(ordered).sum())]
    starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    counts = np.diff(starts, append=len(ordered))
    if len(counts) > 2:
        counts = -np.partition(-counts, 1)
    elif len(counts) == 2:
        counts = np.sort(counts)[::-1]
    return counts


def _outliers(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    largest = np.nan_to_num(np.fmax.reduce(np.abs(values), axis=0))
    return {
        index: f"largest absolute value {largest[index]:.4g} (> {options.outlier_cutoff:g})"
        for index in np.flatnonzero(largest > options.outlier_cutoff).tolist()
    }


def _noise(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    groups = options.noise_groups
    assert groups is not None
    count = int(groups.max()) + 1
    onto = np.zeros((count, len(values)))
    onto[groups, np.arange(len(values))] = 1.0
    present = np.isfinite(values)
    number = onto @ present
    filled = np.where(present, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = onto @ filled / number
        deviation = np.where(present, values - mean[groups], 0.0)
        spread = np.sqrt(onto @ np.square(deviation) / number)
    have = number > 0
    noise = np.where(have, spread, 0.0).sum(axis=0) / np.maximum(have.sum(axis=0), 1)
    return {
        index: f"mean sd within replicates {noise[index]:.3g} (> {options.noise_cutoff:g})"
        for index in np.flatnonzero(noise > options.noise_cutoff).tolist()
    }


def _correlated(values: Array, names: Sequence[str], options: _Options) -> _Reasons:
    if len(values) < 2 or len(names) < 2:
        return {}
    r = correlations(values, options.method)
    sums = np.nansum(np.abs(r), axis=0)
    compared = np.abs(r) if options.absolute else r
    later, earlier = np.nonzero(np.tril(compared > options.correlation + _ROUNDING, k=-1))
    later_goes = sums[later] >= sums[earlier] * (1 - _TIE)
    goes, stays = np.where(later_goes, later, earlier), np.where(later_goes, earlier, later)
    reasons: _Reasons = {}
    for index, partner in zip(goes.tolist(), stays.tolist(), strict=True):
        if index not in reasons:
            reasons[index] = f"correlation {r[index, partner]:.4f} with {names[partner]} (> {options.correlation:g})"
    return reasons


def correlations(values: Array, method: str = "pearson") -> Array:
    """Correlate all columns.

    Parameters
    ----------
    values
        (rows, columns); rows in which one of two columns is missing are left out for these two.
    method
        `pearson` or `spearman`.

    Returns
    -------
    (columns, columns) float64
        NaN where a column is constant.
    """
    holes = np.isnan(values).any(axis=0)
    if method == "spearman":
        if holes.any():  # ranks are made anew for each pair
            return np.array(pd.DataFrame(values).corr(method="spearman"))
        values = rankdata(values, axis=0)
    whole = np.flatnonzero(~holes)
    r = np.full((values.shape[1], values.shape[1]), np.nan)
    if len(whole):
        units = _unit_columns(values[:, whole] if holes.any() else values)
        r[np.ix_(whole, whole)] = units.T @ units
    for index in np.flatnonzero(holes).tolist():
        present = ~np.isnan(values[:, index])
        if present.sum() > 1:
            r[index] = r[:, index] = _against_all(values[present], index)
    return np.asarray(np.clip(r, -1.0, 1.0))


def _unit_columns(values: Array) -> Array:
    """Centre columns and give them length 1; NaN if constant."""
    mean = values.mean(axis=0)
    centred = values - mean
    length = np.sqrt(np.square(centred).sum(axis=0))
    noise = len(values) * np.finfo(np.float64).eps * np.abs(mean)
    length[length <= noise] = np.nan
    centred /= length
    return np.asarray(centred)


def _against_all(values: Array, index: int) -> Array:
    """Correlate one column without holes with all columns, which may have some."""
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    own = values[:, index]
    with np.errstate(invalid="ignore", divide="ignore"):
        means, own_means = filled.sum(axis=0) / count, (own @ present) / count
        deviation = np.where(present, values - means, 0.0)
        mine = np.where(present, own[:, None] - own_means, 0.0)
        lengths = [np.sqrt(np.square(one).sum(axis=0)) for one in (deviation, mine)]
        for length, mean in zip(lengths, (means, own_means), strict=True):
            length[length <= count * np.finfo(np.float64).eps * np.abs(mean)] = np.nan
        size = lengths[0] * lengths[1]
        result = np.asarray((deviation * mine).sum(axis=0) / size)
    result[count < 2] = np.nan
    return result


_STEPS: dict[str, Callable[[Array, Sequence[str], _Options], _Reasons]] = {
    "missing": _missing,
    "blocklist": _blocklist,
    "variance": _variance,
    "frequency": _frequency,
    "outliers": _outliers,
    "noise": _noise,
    "correlation": _correlated,
}
