"""From predictions and labels to figures: by assay and fold, over folds, over assays, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.activity import fusion
from cellinfer.activity.evaluation._tables import METRICS, Found, Judged, by_number
from cellinfer.activity.metrics import AUROC, LIMITS, score_assays
from cellinfer.errors import InputError
from cellinfer.profiling.rows import examples

OVER_FOLDS = ("median", "mean")
GIVEN, FUSED, ORACLE, REPORTED = "predictions", "late fusion", "oracle", "reported"
FEW = 5
"""Hits below which an assay's figures are little more than chance."""
NONE, UNTYPED = "none of them", "unknown"
_COUNTS = ["n_hits", "n_inactive"]
_LEVEL = 0.95

Counts = NDArray[np.int64]


def common_labels(judged: Judged, found: Found, *, common: bool) -> dict[str, NDArray[np.int8]]:
    """Return the labels each modality is judged by: -1 where it, or (`common`) another one, says nothing.

    A modality that does not know an assay at all takes no labels of it from the others.
    """
    names = list(judged.probabilities)
    says = {name: np.isfinite(judged.probabilities[name]) for name in names}
    knows = {name: judged.covers(name) for name in names}
    every = np.logical_and.reduce([says[name] | ~knows[name] for name in names])
    labels = {}
    lost: dict[str, int] = {}
    for name in names:
        tested = (judged.labels >= 0) & knows[name]
        kept = says[name] & (every if common else True)
        if silent := int((tested & ~says[name]).sum()):
            found.notes.append(
                f"{name} gives no probability for {silent:,} of {int(tested.sum()):,} labels of its assays."
            )
        if common and (other := int((tested & says[name] & ~every).sum())):
            lost[name] = other
        labels[name] = np.where(kept, judged.labels, np.int8(-1)).astype(np.int8)
    if lost:
        said = ", ".join(f"{name} {count:,}" for name, count in lost.items())
        found.notes.append(
            "Modalities predict different compounds, and are compared on the ones they have in common; labels that go "
            f"because another modality says nothing: {said}. (--all-compounds judges each on all it predicts.)"
        )
    found.counts["labels_lost_to_others"] = lost
    return labels


def fuse(
    judged: Judged,
    members: Sequence[str],
    way: str,
    learned: Mapping[str, Mapping[str, pd.DataFrame]],
    labels: pd.DataFrame,
    shrinkage: float,
    found: Found,
) -> NDArray[np.float64]:
    """Return late fusion of some modalities, `(n, assays)`: NaN for assays that one of them does not know.

    Parameters
    ----------
    judged
        What is judged.
    members
        Modalities.
    way
        `max`, `mean` or `learned`.
    learned
        Modality -> fold -> predictions of validation compounds.
    labels
        The whole matrix.
    shrinkage
        See `fusion.learn`.
    """
    stacked = [judged.probabilities[name] for name in members]
    known = np.logical_and.reduce([judged.covers(name) for name in members])
    if way == "learned":
        fused = _learned(judged, members, learned, labels, shrinkage, found)
    else:
        fused = (fusion.largest if way == "max" else fusion.average)(stacked)
    return np.where(known, fused, np.nan)


def _learned(
    judged: Judged,
    members: Sequence[str],
    learned: Mapping[str, Mapping[str, pd.DataFrame]],
    labels: pd.DataFrame,
    shrinkage: float,
    found: Found,
) -> NDArray[np.float64]:
    result = np.full(judged.labels.shape, np.nan)
    equal = 0
    for fold in judged.fold_names:
        rows = np.flatnonzero(judged.folds == fold)
        tables = []
        for name in members:
            if fold not in learned.get(name, {}):
                raise InputError(
                    f"Learned fusion needs validation predictions of {name} for fold {fold}: give them (--validation)."
                )
            tables.append(learned[name][fold])
        both = tables[0].index
        for table in tables[1:]:
            both = both.intersection(table.index, sort=False)
        both = both[both.isin(labels.index)]
        tested = {judged.compounds[row] for row in rows}
        if seen := [one for one in both if one in tested]:
            raise InputError(
                f"{len(seen)} validation compounds of fold {fold} are judged in that fold ({examples(seen)}): weights "
                "would be learned from the answers; give the predictions learning was stopped by."
            )
        if not len(both):
            raise InputError(
                f"{', '.join(members)} have no labelled validation compound in common for fold {fold}: give "
                "validation predictions of the same compounds."
            )
        truth = labels.loc[both, list(judged.assays)].to_numpy(np.int8)
        values = [table.reindex(index=both, columns=list(judged.assays)).to_numpy(np.float64) for table in tables]
        model = fusion.learn(values, truth, shrinkage)
        equal += int((~model.learned).sum())
        result[rows] = model([judged.probabilities[name][rows] for name in members])
    if equal:
        found.notes.append(
            f"Learned fusion of {', '.join(members)}: in {equal} of {len(judged.fold_names) * len(judged.assays)} "
            "assays and folds the validation compounds lack hits or inactives, and modalities count the same."
        )
    return result


def where_said(labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return labels, -1 where there is no probability."""
    return np.where(np.isfinite(probabilities), labels, np.int8(-1)).astype(np.int8)


def score(
    judged: Judged, probabilities: NDArray[np.float64], labels: NDArray[np.int8], name: str, kind: str
) -> pd.DataFrame:
    """Return the figures of one modality: a row per assay it knows and fold."""
    known = np.asarray(np.isfinite(probabilities).any(axis=0))
    assays = [assay for assay, one in zip(judged.assays, known, strict=True) if one]
    parts = []
    for fold in judged.fold_names:
        rows = judged.folds == fold
        part = score_assays(labels[rows][:, known], probabilities[rows][:, known], assays).reset_index()
        part.insert(1, "fold", fold)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True).rename(columns={"hits": "n_hits", "inactive": "n_inactive"})
    table.insert(0, "modality", name)
    table.insert(1, "kind", kind)
    return table


def unscorable(scores: pd.DataFrame, found: Found) -> None:
    """Say where assays lack one of the classes; a fold without anything to judge is named.

    Raises
    ------
    InputError
        If a modality has no figure at all.
    """
    notes: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for name, part in scores.groupby("modality", sort=False):
        lacking = part[AUROC].isna()
        counts[str(name)] = int(lacking.sum())
        if lacking.all():
            raise InputError(f"{name} cannot be judged: no assay has hits and inactives in any fold.")
        empty = lacking.groupby(part["fold"], sort=False).all()
        said = [f"no assay can be judged in fold {fold}" for fold in sorted(empty.index[empty], key=by_number)]
        if never := sorted(set(part["assay"]) - set(part.loc[~lacking, "assay"])):
            said.append(f"{len(never)} assays have no figure in any fold ({examples(never)})")
        if lacking.any():
            said.append(
                f"{int(lacking.sum())} of {len(part)} assays and folds lack hits or inactives, and count for nothing"
            )
        for one in said:
            notes.setdefault(one, []).append(str(name))
    found.notes += [f"{', '.join(names)}: {said}." for said, names in notes.items()]
    found.counts["assays_and_folds_without_both_classes"] = counts


def over_folds(scores: pd.DataFrame, types: Mapping[str, str], reported_as: str) -> pd.DataFrame:
    """Return the median and the mean of each assay's figures over the folds that have them, and what they rest on.

    `n_folds`, `n_hits` and `n_inactive` are of folds with figures.
    Figures that were reported over all folds stand where `reported_as` says, and nowhere else.
    """
    keys = ["modality", "kind", "assay"]
    metrics = [name for name in METRICS if name in scores]
    grouped = scores.groupby(keys, sort=False)[metrics]
    parts = [(grouped.median() if how == "median" else grouped.mean()).add_suffix(f"_{how}") for how in OVER_FOLDS]
    table = pd.concat(parts, axis=1)
    table = table[[f"{name}_{how}" for name in metrics for how in OVER_FOLDS]]
    folded = scores["fold"].notna().groupby([scores[key] for key in keys], sort=False).any()
    counts = scores[AUROC].notna().groupby([scores[key] for key in keys], sort=False).sum()
    table.insert(0, "n_folds", counts.where(folded).astype("Int64"))
    for place, name in enumerate(_COUNTS):
        if name in scores:
            inside = scores[name].where(scores[AUROC].notna())
            total = inside.groupby([scores[key] for key in keys], sort=False).sum(min_count=1)
            table.insert(1 + place, name, total.astype("Int64"))
    other = OVER_FOLDS[1 - OVER_FOLDS.index(reported_as)]
    table.loc[~folded.to_numpy(), [f"{name}_{other}" for name in metrics]] = np.nan
    table = table.reset_index()
    table.insert(3, "type", [types.get(assay, UNTYPED) for assay in table["assay"]])
    return table


def few_hits(by_assay: pd.DataFrame, how: str, limit: float, found: Found) -> None:
    """Say how many assays, and how many of the best ones, rest on so few hits that chance can make them the best."""
    if "n_hits" not in by_assay:
        return
    few = by_assay[(by_assay["n_hits"] < FEW).fillna(False).astype(bool)]
    if few.empty:
        return
    column = f"{AUROC}_{how}"
    above = few[few[column] > limit].groupby("modality", sort=False).size()
    every = by_assay[by_assay[column] > limit].groupby("modality", sort=False).size()
    said = ", ".join(f"{name} {above.get(name, 0)} of {count}" for name, count in every.items())
    found.notes.append(
        f"{few['assay'].nunique()} assays are judged by fewer than {FEW} hits, where chance alone makes high and low "
        f"figures; above {limit:g} these are: {said or 'none'}."
    )


def oracle(by_assay: pd.DataFrame, members: Sequence[str], name: str, how: str) -> pd.DataFrame:
    """Return, for each assay, the figures of the member with the best AUROC: what only the answers can choose."""
    column = f"{AUROC}_{how}"
    tables = {one: by_assay[by_assay["modality"] == one].set_index("assay") for one in members}
    assays = list(dict.fromkeys(assay for table in tables.values() for assay in table.index))
    best = fusion.retrospective({one: table.reindex(assays) for one, table in tables.items()}, column)["modality"]
    rows = [tables[one].loc[[assay]] for assay, one in best.items() if one]
    if not rows:
        return by_assay.iloc[:0]
    chosen = pd.concat(rows).reset_index()[by_assay.columns]
    return chosen.assign(modality=name, kind=ORACLE)


class Bootstrap:
    """Statistics of assays with percentile intervals; the same assays are drawn for everything of the same number."""

    def __init__(self, draws: int, seed: int) -> None:
        self._draws, self._seed = draws, seed
        self._weights: dict[int, Counts] = {}

    def interval(self, values: NDArray[np.float64], how: str) -> tuple[float, float]:
        """Return the 95 % interval of the mean, the sum or the median of some values; NaN of fewer than two."""
        n = len(values)
        if n < 2:
            return np.nan, np.nan
        if n not in self._weights:
            drawn = np.random.default_rng([self._seed, n]).multinomial(n, np.full(n, 1 / n), self._draws)
            self._weights[n] = drawn
        weights = self._weights[n]
        if how == "median":
            found = _weighted_medians(values, weights)
        else:
            found = weights @ values / (n if how == "mean" else 1)
        low, high = np.quantile(found, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return float(low), float(high)


def _weighted_medians(values: NDArray[np.float64], weights: Counts) -> NDArray[np.float64]:
    """Return the median of each resample, given how often it has each value."""
    order = np.argsort(values, kind="stable")
    taken, n = np.cumsum(weights[:, order], axis=1), len(values)
    low, high = ((taken <= place).sum(axis=1) for place in ((n - 1) // 2, n // 2))
    return np.asarray((values[order][low] + values[order][high]) / 2, np.float64)


def summarise(by_assay: pd.DataFrame, bootstrap: Bootstrap, limits: Sequence[float] = LIMITS) -> pd.DataFrame:
    """Return statistics over assays, of each modality and figure, with intervals.

    Returns
    -------
    DataFrame
        `modality`, `kind`, `metric`, `over_folds`, `statistic`, `value`, `low`, `high`, `n_assays`.
    """
    rows = []
    for (modality, kind), part in by_assay.groupby(["modality", "kind"], sort=False):
        for metric, how, values in _columns(part):
            for statistic, value, interval in _statistics(values, metric, bootstrap, limits):
                rows.append((modality, kind, metric, how, statistic, value, *interval, len(values)))
    names = ["modality", "kind", "metric", "over_folds", "statistic", "value", "low", "high", "n_assays"]
    return pd.DataFrame(rows, columns=names)


def summarise_types(by_assay: pd.DataFrame, bootstrap: Bootstrap, limits: Sequence[float]) -> pd.DataFrame:
    """Return `summarise` for each type of assay, which is the first column; types with most assays first."""
    sizes = by_assay.groupby("type", sort=False)["assay"].nunique().sort_values(ascending=False, kind="stable")
    parts = []
    for kind in sizes.index:
        part = summarise(by_assay[by_assay["type"] == kind], bootstrap, limits)
        part.insert(0, "type", kind)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def compare(
    by_assay: pd.DataFrame, against: Sequence[str], bootstrap: Bootstrap, limits: Sequence[float]
) -> pd.DataFrame:
    """Return differences between modalities on the assays that both have figures of.

    Parameters
    ----------
    by_assay
        See `over_folds`.
    against
        What the others are compared with; a pair is there once.

    Returns
    -------
    DataFrame
        `modality`, `other`, `metric`, `over_folds`, `statistic`, `difference`, `low`, `high`, `n_assays`.
    """
    names = list(dict.fromkeys(by_assay["modality"]))
    tables = {name: by_assay[by_assay["modality"] == name].set_index("assay") for name in names}
    pairs = [(one, other) for other in against for one in names if one != other]
    pairs = [pair for place, pair in enumerate(pairs) if (pair[1], pair[0]) not in pairs[:place]]
    rows = []
    for one, other in pairs:
        both = tables[one].index.intersection(tables[other].index, sort=False)
        for metric, how, column in _metrics(by_assay):
            first, second = (tables[name].loc[both, column].to_numpy(np.float64) for name in (one, other))
            known = np.isfinite(first) & np.isfinite(second)
            if not known.any():
                continue
            first, second = first[known], second[known]
            for statistic, value, interval in _differences(first, second, metric, bootstrap, limits):
                rows.append((one, other, metric, how, statistic, value, *interval, int(known.sum())))
    columns = ["modality", "other", "metric", "over_folds", "statistic", "difference", "low", "high", "n_assays"]
    return pd.DataFrame(rows, columns=columns)


def venn(by_assay: pd.DataFrame, names: Sequence[str], limits: Sequence[float]) -> pd.DataFrame:
    """Return how many assays are above each limit by exactly which modalities.

    Returns
    -------
    DataFrame
        `over_folds`, `above`, `combination`, `n_modalities`, `count`, `assays` (separated by `; `). Up to three
        modalities every combination is there, of more those that there are; `none of them` counts assays that have a
        figure and are above by none.
    """
    rows = []
    for how in OVER_FOLDS:
        areas = by_assay.pivot(index="assay", columns="modality", values=f"{AUROC}_{how}").reindex(columns=list(names))
        areas = areas.reindex(list(dict.fromkeys(by_assay["assay"]))).dropna(how="all")
        if areas.empty:
            continue
        for limit in limits:
            members: dict[tuple[str, ...], list[str]] = {}
            if len(names) <= 3:
                members = {one: [] for size in range(len(names) + 1) for one in combinations(names, size)}
            for assay, above in zip(areas.index, (areas > limit).to_numpy(), strict=True):
                key = tuple(name for name, one in zip(names, above, strict=True) if one)
                members.setdefault(key, []).append(assay)
            for key in sorted(members, key=lambda one: (not one, len(one), [list(names).index(name) for name in one])):
                those = members[key]
                rows.append((how, limit, " & ".join(key) or NONE, len(key), len(those), "; ".join(those)))
    return pd.DataFrame(rows, columns=["over_folds", "above", "combination", "n_modalities", "count", "assays"])


def _metrics(by_assay: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for metric in METRICS:
        for how in OVER_FOLDS:
            if (column := f"{metric}_{how}") in by_assay:
                yield metric, how, column


def _columns(part: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Yield the figures of assays that have them."""
    for metric, how, column in _metrics(part):
        values = part[column].dropna().to_numpy(np.float64)
        if len(values):
            yield metric, how, values


Statistic = tuple[str, float, tuple[float, float]]


def _statistics(
    values: NDArray[np.float64], metric: str, bootstrap: Bootstrap, limits: Sequence[float]
) -> Iterator[Statistic]:
    yield "mean", float(values.mean()), bootstrap.interval(values, "mean")
    yield "median", float(np.median(values)), bootstrap.interval(values, "median")
    if metric == AUROC:
        for limit in limits:
            above = (values > limit).astype(np.float64)
            yield f"above_{limit:g}", float(above.sum()), bootstrap.interval(above, "sum")


def _differences(
    first: NDArray[np.float64], second: NDArray[np.float64], metric: str, bootstrap: Bootstrap, limits: Sequence[float]
) -> Iterator[Statistic]:
    apart = first - second
    yield from _statistics(apart, "", bootstrap, ())
    better = np.where(apart == 0, 0.5, apart > 0)
    yield "share_better", float(better.mean()), bootstrap.interval(better, "mean")
    if metric == AUROC:
        for limit in limits:
            more = (first > limit).astype(np.float64) - (second > limit)
            yield f"above_{limit:g}", float(more.sum()), bootstrap.interval(more, "sum")
