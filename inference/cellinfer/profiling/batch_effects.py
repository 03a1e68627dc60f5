"""How much profiles tell of their plate or batch, and how much of what was done to the cells.

A good correction makes batches hard to tell apart and keeps replicates of different batches alike: either alone is
easy.
Batches are predicted from profiles that the predictor has not seen the treatment of, since a treatment that was only
on one plate would give that plate away:

- `batch_by_neighbours`: the majority among the 5 nearest profiles of other treatments.
- `batch_by_discriminant`: linear discriminant analysis with equal priors and covariance shrunk by 0.1 towards a
  multiple of the identity, on the first (at most 100) principal components of the standardised features; five folds
  of treatments.
- `batch_map`: average precision of finding profiles of the same batch and another treatment among all those of other
  treatments, as share of the way from chance (0) to perfection (1).
- `replicate_map`: the same of finding profiles of the same treatment in other batches among those of other treatments.

Where treatments are doses of compounds, "of other treatments" should be read, and asked for, as "of other compounds".

The first two are balanced accuracies (means over batches), whose chance level and 95 % interval come from permuting the
batches of all rows; intervals of the values are bootstrap intervals over treatments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg

from cellinfer.errors import InputError
from cellinfer.profiling.columns import feature_columns
from cellinfer.profiling.pairs import Matching, PairRules
from cellinfer.profiling.retrieval import DEFAULT_MEMORY, query_blocks, score_queries
from cellinfer.profiling.significance import Interval, bootstrap_interval, expected_average_precision
from cellinfer.profiling.similarity import Metric, Precision, Similarities

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

NEIGHBOURS = 5
FOLDS = 5
COMPONENTS = 100
SHRINKAGE = 0.1
WANTED = {
    "batch_by_neighbours": "low",
    "batch_by_discriminant": "low",
    "batch_map": "low",
    "replicate_map": "high",
}
"""Measures, and which values are good ones."""


@dataclass(frozen=True, slots=True)
class BatchEffects:
    """What `batch_effects` found."""

    figures: pd.DataFrame
    """A row per measure: `measure`, `wanted` (low or high), `value`, `low`, `high` (95 % interval), `chance`,
    `chance_low`, `chance_high`, `n_queries`."""
    n_profiles: int
    n_batches: int
    notes: tuple[str, ...]

    def value(self, measure: str) -> float:
        """Return the value of a measure."""
        return float(self.figures["value"].to_numpy()[self.figures["measure"].tolist().index(measure)])


def batch_effects(
    table: pd.DataFrame,
    *,
    batch: str,
    treatment: str | None = None,
    held_out: str | None = None,
    features: Iterable[str] | None = None,
    metric: Metric = "cosine",
    precision: Precision = "float64",
    permutations: int = 100,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BatchEffects:
    """Measure how well batches can be told apart, and replicates found across them.

    Parameters
    ----------
    table
        Rows are profiles (wells, images).
    batch
        Column with the plate or batch.
    treatment
        Column with what replicates share. Without one, as for control wells only, each row is held out by itself.
    held_out
        Column with what is held out together, and never counts as another treatment: the compound, where treatments
        are its doses. Default: the treatment.
    features
        Feature columns; found by default.
    metric, precision
        Of similarities.
    permutations, seed
        Of batches, for the chance level; `seed` also makes the folds.
    memory, threads
        See `score_queries`.
    progress
        Called with how many predictions and measures are done, and how many there are.

    Returns
    -------
    BatchEffects

    Raises
    ------
    InputError
        If a column is missing or has missing values, there is one batch only, or a feature is not finite.
    """
    names = feature_columns(table, features)
    held_out = held_out or treatment
    for column in (batch, treatment, held_out):
        if column is not None and column not in table:
            raise InputError(f"The table has no column {column!r}.")
        if column is not None and table[column].isna().any():
            raise InputError(f"{int(table[column].isna().sum())} rows have nothing in {column!r}: leave them out.")
    batches, batch_names = pd.factorize(table[batch])
    if len(batch_names) < 2:
        raise InputError(f"All rows are of one {batch!r}: a batch effect needs two.")
    groups = pd.factorize(table[held_out])[0] if held_out is not None else np.arange(len(table))
    if groups.max(initial=0) == 0:
        raise InputError(f"All rows are of one {held_out!r}: leave the column away to hold out row by row.")
    values = table[names].to_numpy(np.float64, na_value=np.nan)
    similarities = Similarities(values, metric, precision)
    replicates = pd.factorize(table[treatment])[0] if treatment is not None else groups
    kinds = pd.DataFrame({"batch": batches, "group": groups, "treatment": replicates})
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(batches) for _ in range(permutations)]
    steps = itertools.count(1)

    def done() -> None:
        if progress is not None:
            progress(next(steps), permutations + 4)

    nearest = nearest_of_others(similarities, groups, NEIGHBOURS, memory)
    done()
    discriminant = _Discriminant(values, _folds(groups, generator))

    def predict(labels: Codes) -> Codes:
        predicted = discriminant(labels, len(batch_names))
        done()
        return predicted

    rows = [
        _accuracy(
            "batch_by_neighbours",
            [_majority(one[nearest], nearest >= 0) for one in (batches, *shuffled)],
            kinds,
            shuffled,
        ),
        _accuracy("batch_by_discriminant", [predict(one) for one in (batches, *shuffled)], kinds, shuffled),
    ]
    notes = []
    for measure, rules in (
        ("batch_map", PairRules(["batch"], ["group"], [], ["batch", "group"])),
        ("replicate_map", PairRules(["treatment"], ["batch"], [], ["group"])),
    ):
        row = _retrieved(measure, similarities, kinds, rules, memory, threads)
        done()
        if not row["n_queries"]:
            notes.append(f"{measure}: no pairs to find ({rules.describe()})")
        rows.append(row)
    return BatchEffects(pd.DataFrame(rows), len(table), len(batch_names), tuple(notes))


def compare(before: BatchEffects, after: BatchEffects) -> pd.DataFrame:
    """Put the measures of two versions of the same profiles side by side.

    Returns
    -------
    DataFrame
        A row per measure: `measure`, `wanted`, `before`, `after`, `change`, and the chance level after.
    """
    both = before.figures[["measure", "wanted", "value"]].merge(
        after.figures[["measure", "value", "chance"]], on="measure", suffixes=("_before", "_after")
    )
    both = both.rename(columns={"value_before": "before", "value_after": "after"})
    both.insert(4, "change", both["after"] - both["before"])
    return both


def nearest_of_others(similarities: Similarities, groups: Codes, count: int, memory: int = DEFAULT_MEMORY) -> Codes:
    """Return each row's nearest rows of other groups.

    Parameters
    ----------
    similarities, groups
        Of the same rows.
    count
        How many.
    memory
        Bytes for a block of rows.

    Returns
    -------
    ndarray of shape (rows, count), int64
        Nearest first; -1 where there are not so many.
    """
    n = len(similarities)
    count = min(count, n)
    result = np.empty((n, count), np.int64)
    for part in query_blocks(n, n, similarities.itemsize, memory):
        block = similarities.block(np.arange(part.start, part.stop))
        block[groups[part][:, None] == groups] = -np.inf
        found = np.argpartition(-block, count - 1, axis=1)[:, :count]
        alike = np.take_along_axis(block, found, axis=1)
        order = np.argsort(-alike, axis=1, kind="stable")
        found, alike = (np.take_along_axis(values, order, axis=1) for values in (found, alike))
        result[part] = np.where(np.isneginf(alike), -1, found)
    return result


def _majority(labels: Codes, known: NDArray[np.bool_]) -> Codes:
    """Most frequent label of each row, of equals the nearest one's; -1 without any."""
    labels = np.where(known, labels, -1)
    votes = ((labels[:, :, None] == labels[:, None, :]) & known[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


def _folds(groups: Codes, generator: np.random.Generator) -> Codes:
    """Fold of each row: whole groups at random, the fullest dealt out first so that folds are of one size."""
    sizes = np.bincount(groups)
    order = generator.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of_group, filled = np.empty(len(sizes), np.int64), np.zeros(min(FOLDS, len(sizes)), np.int64)
    for group in order:
        fold = int(filled.argmin())
        fold_of_group[group] = fold
        filled[fold] += sizes[group]
    return fold_of_group[groups]


class _Discriminant:
    """Linear discriminant analysis of held-out rows; what does not depend on labels is made once."""

    def __init__(self, values: Array, folds: Codes) -> None:
        self._scores = _principal_components(values, COMPONENTS)
        self._folds = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
        self._products = [self._scores[train].T @ self._scores[train] for train, _ in self._folds]

    def __call__(self, labels: Codes, classes: int) -> Codes:
        """Predict the class of every row from the rows of other folds."""
        predicted = np.empty(len(labels), np.int64)
        for (train, test), product in zip(self._folds, self._products, strict=True):
            known = self._scores[train]
            members = np.zeros((len(train), classes))
            members[np.arange(len(train)), labels[train]] = 1.0
            counts = members.sum(axis=0)
            present = np.flatnonzero(counts)
            means = (members.T @ known)[present] / counts[present, None]
            within = (product - (means * counts[present, None]).T @ means) / max(len(train) - len(present), 1)
            ridge = np.trace(within) / len(within) or 1.0
            within = (1 - SHRINKAGE) * within + SHRINKAGE * ridge * np.eye(len(within))
            directions = linalg.solve(within, means.T, assume_a="pos")
            score = self._scores[test] @ directions - np.einsum("kd,dk->k", means, directions) / 2
            predicted[test] = present[score.argmax(axis=1)]
        return predicted


def _principal_components(values: Array, most: int) -> Array:
    """Scores of the standardised features on their first components."""
    spread = values.std(axis=0)
    scaled = (values - values.mean(axis=0))[:, spread > 1e-12 * np.abs(values).max(axis=0, initial=0)]
    if not scaled.shape[1]:
        return np.zeros((len(values), 1))
    scaled /= scaled.std(axis=0)
    _, vectors = linalg.eigh(scaled.T @ scaled, subset_by_index=(max(0, scaled.shape[1] - most), scaled.shape[1] - 1))
    return np.asarray(scaled @ vectors[:, ::-1], np.float64)


def _accuracy(
    measure: str, predictions: list[Codes], kinds: pd.DataFrame, shuffled: list[Codes]
) -> dict[str, str | float]:
    """Balanced accuracy, its interval, and the chance level."""
    truth = kinds["batch"].to_numpy()
    known = predictions[0] >= 0
    values = [_balanced(one, predicted, known) for one, predicted in zip((truth, *shuffled), predictions, strict=True)]
    right = np.where(known, (predictions[0] == truth).astype(np.float64), np.nan)
    counts = np.bincount(truth[known], minlength=truth.max() + 1)
    weighted = right * known.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)[truth])  # its mean is balanced
    chance = np.array(values[1:])
    low, high = np.quantile(chance, [0.025, 0.975]) if len(chance) else (math.nan, math.nan)
    return _row(
        measure,
        values[0],
        bootstrap_interval(weighted, kinds["group"]),
        (float(chance.mean()) if len(chance) else math.nan, float(low), float(high)),
        int(known.sum()),
    )


def _balanced(truth: Codes, predicted: Codes, known: NDArray[np.bool_]) -> float:
    """Mean over classes of the share that is predicted right."""
    counts = np.bincount(truth[known])
    right = np.bincount(truth[known], weights=(predicted == truth)[known])
    return float((right[counts > 0] / counts[counts > 0]).mean())


def _retrieved(
    measure: str,
    similarities: Similarities,
    kinds: pd.DataFrame,
    rules: PairRules,
    memory: int,
    threads: int | None,
) -> dict[str, str | float]:
    """Mean normalised average precision, whose chance level is zero by definition."""
    scores = score_queries(similarities, Matching(kinds, rules), depths=(1,), memory=memory, threads=threads)
    judged = scores.n_candidates > scores.n_positives
    expected = expected_average_precision(scores.n_positives, scores.n_candidates)[judged]
    normalised = (scores.average_precision[judged] - expected) / (1 - expected)
    interval = bootstrap_interval(normalised, kinds["group"].to_numpy()[scores.rows[judged]])
    value = float(normalised.mean()) if len(normalised) else math.nan
    return _row(measure, value, interval, (0.0, math.nan, math.nan), len(normalised))


def _row(
    measure: str, value: float, interval: Interval, chance: tuple[float, float, float], n_queries: int
) -> dict[str, str | float]:
    return {
        "measure": measure,
        "wanted": WANTED[measure],
        "value": value,
        "low": interval.low,
        "high": interval.high,
        "chance": chance[0],
        "chance_low": chance[1],
        "chance_high": chance[2],
        "n_queries": n_queries,
    }
