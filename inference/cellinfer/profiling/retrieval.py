"""Do profiles find what belongs together? Each query ranks the others by similarity; its positives should come first.

All figures follow from the ranks of the positives among positives and negatives (`cellinfer_kernels.ranking`, which
also says how ties are ranked). Similarities are made for blocks of queries and dropped, so memory does not grow with
the square of the table.

- `average_precision`, and its mean over queries, `map`: the standard one.
- `average_precision_interpolated`, and `map_interpolated`: with p(r) = max over r' >= r of p(r').
- `folds_of_enrichment`: odds ratio of positives in the top 1 % of a query's list against the rest. The top holds
  ceil(0.01 (candidates - 1)) candidates, at least one: those above the 99th percentile. Where the top
  holds nothing but positives, or the rest none, the ratio is infinite: then 0.5 is added to all four counts (Haldane,
  Anscombe), or, with `zero_cells="infinite"`, it is left so, as in published code.
- `hits_top`: positives in the top 1 %. `precision_at_k`: share of positives among the first k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from cellinfer_kernels.ranking import (
    Ranking,
    average_precisions,
    found_within,
    interpolated_precisions,
    positive_ranks,
)
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import feature_columns
from cellinfer.profiling.pairs import Matching, PairRules
from cellinfer.profiling.significance import (
    AveragePrecisionNull,
    Dependence,
    Interval,
    benjamini_hochberg,
    bootstrap_interval,
    expected_average_precision,
)
from cellinfer.profiling.similarity import Metric, Precision, Similarities
from cellinfer.sessions import available_cores

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
ZeroCells = Literal["correct", "infinite"]

TOP_FRACTION = 0.01
RECALLS = np.linspace(0, 1, 101)
INSPECTED = np.concatenate([np.geomspace(0.001, 0.1, 21), np.linspace(0.15, 1, 18)])
"""Shares of a query's list at which the share of positives found is followed."""
DEFAULT_MEMORY = 256 << 20
_BYTES_BESIDE = 6
"""Per pair and besides its similarity: what is made from it."""
_PAIRS_AT_A_TIME = 1 << 19
"""Pairs of queries and candidates that a thread looks at in one go: relevance is a byte each."""


@dataclass(frozen=True, slots=True)
class QueryScores:
    """How well each query did. Arrays have a value per query, in the order of the queries."""

    queries: NDArray[np.int64]
    """Places in the `Matching`; those left out had too few positives."""
    rows: NDArray[np.int64]
    """Rows of the table."""
    n_positives: NDArray[np.int64]
    n_candidates: NDArray[np.int64]
    average_precision: Array
    average_precision_interpolated: Array
    top: NDArray[np.int64]
    """Length of the top of the list."""
    hits_top: NDArray[np.int64]
    folds_of_enrichment: Array
    precision_at: dict[int, Array]
    nearest: NDArray[np.int64]
    """Row of the most similar candidate."""
    precision_recall: Array
    """Mean interpolated precision at `RECALLS`."""
    recall_inspected: Array
    """Mean share of positives among the first `INSPECTED` of the list."""
    n_corrected: int
    """Queries whose odds ratio has 0.5 added to its counts."""

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self) -> pd.DataFrame:
        """Return a row per query."""
        return pd.DataFrame(
            {
                "row": self.rows,
                "n_positives": self.n_positives,
                "n_candidates": self.n_candidates,
                "average_precision": self.average_precision,
                "average_precision_interpolated": self.average_precision_interpolated,
                "folds_of_enrichment": self.folds_of_enrichment,
                "top": self.top,
                "hits_top": self.hits_top,
                **{f"precision_at_{k}": values for k, values in self.precision_at.items()},
                "nearest": self.nearest,
            }
        )

    def summary(self) -> dict[str, float]:
        """Return means over queries; NaN without any."""
        found = {
            "n_queries": float(len(self)),
            "map": _mean(self.average_precision),
            "map_interpolated": _mean(self.average_precision_interpolated),
            "map_by_chance": _mean(expected_average_precision(self.n_positives, self.n_candidates)),
            "folds_of_enrichment": _mean(self.folds_of_enrichment),
            "n_enrichment_corrected": float(self.n_corrected),
            "hits_top": _mean(self.hits_top),
            "queries_with_hit_in_top": _mean(self.hits_top > 0),
            "precision_in_top": _mean(self.hits_top / np.maximum(self.top, 1)),
        }
        return {**found, **{f"precision_at_{k}": _mean(values) for k, values in self.precision_at.items()}}


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@dataclass(slots=True)
class _Collected:
    """Pieces of `QueryScores`, block by block."""

    arrays: list[tuple[NDArray[np.generic], ...]] = field(default_factory=list)
    curve: Array = field(default_factory=lambda: np.zeros(len(RECALLS)))
    inspected: Array = field(default_factory=lambda: np.zeros(len(INSPECTED)))


def score_queries(
    similarities: Similarities,
    matching: Matching,
    *,
    depths: Sequence[int] = (1, 5, 10),
    min_positives: int = 1,
    zero_cells: ZeroCells = "correct",
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> QueryScores:
    """Rank all candidates of each query, and score the ranks of its positives.

    Parameters
    ----------
    similarities, matching
        Of the same rows.
    depths
        The k of precision at k (of shorter lists the whole counts).
    min_positives
        Queries with fewer are left out; at least 1.
    zero_cells
        What becomes of an infinite odds ratio, see the module.
    memory
        Bytes that a block of queries may take, beside the profiles themselves.
    threads
        For ranking; the matrix product has those of NumPy's BLAS. Default: the cores there are.
    progress
        Called with how many queries are done, and how many there are.

    Returns
    -------
    QueryScores

    Raises
    ------
    InputError
        If rows do not fit, rules contradict each other, or an option is out of range.
    """
    if len(similarities) != matching.size:
        raise InputError(f"{len(similarities)} profiles do not fit a table of {matching.size} rows.")
    if not depths or min(depths) < 1 or min_positives < 1:
        raise InputError("The k of precision at k and the smallest number of positives must be at least 1.")
    if zero_cells not in ("correct", "infinite"):
        raise InputError(f"Zero cells can be corrected or left infinite, not {zero_cells!r}.")
    depths = sorted(set(depths))
    collected = _Collected()
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for part in query_blocks(len(matching), matching.size, similarities.itemsize, memory):
            block = similarities.block(matching.rows[part])
            for queries, ranking in pool.map(
                partial(_rank, block, part.start, matching, similarities.tolerance), _few(block)
            ):
                _collect(collected, queries, ranking, depths, min_positives)
                if progress is not None:
                    progress(int(queries[-1]) + 1, len(matching))
    return _finish(collected, matching, depths, zero_cells)


def _few(block: NDArray[Any]) -> list[slice]:
    """Divide a block into stretches whose pairs fit into a processor's cache."""
    size = max(1, _PAIRS_AT_A_TIME // max(block.shape[1], 1))
    return [slice(start, min(start + size, len(block))) for start in range(0, len(block), size)]


def _rank(
    block: NDArray[Any], first: int, matching: Matching, tolerance: float, part: slice
) -> tuple[NDArray[np.int64], Ranking]:
    """Rank the positives of some queries of a block that begins with query `first`."""
    queries = slice(first + part.start, first + part.stop)
    ranking = positive_ranks(block[part], matching.relevance(queries), tolerance)
    return np.arange(queries.start, queries.stop), ranking


def query_blocks(queries: int, n: int, itemsize: int, memory: int) -> Iterable[slice]:
    """Divide queries into blocks whose similarities to `n` rows, and what is made with them, fit into some bytes."""
    size = int(np.clip(memory // (max(n, 1) * (itemsize + _BYTES_BESIDE)), 1, 4096))
    return (slice(start, min(start + size, queries)) for start in range(0, queries, size))


def _collect(
    collected: _Collected, queries: NDArray[np.int64], ranking: Ranking, depths: Sequence[int], min_positives: int
) -> None:
    """Score a block, and keep what is asked of queries with enough positives."""
    ranks, starts, candidates, nearest = ranking
    counts = np.diff(starts)
    precisions = average_precisions(ranks, starts)
    top = np.maximum(np.ceil(TOP_FRACTION * (candidates - 1) - 1e-9), 1).astype(np.int64)
    inspected = np.maximum(np.floor(INSPECTED * candidates[:, None] + 1e-9), 1).astype(np.int64)
    hits = found_within(ranks, starts, top[:, None])[:, 0]
    first = found_within(ranks, starts, np.tile(np.asarray(depths, np.int64), (len(queries), 1)))
    shares = first / np.minimum(depths, np.maximum(candidates, 1)[:, None])
    enough = counts >= min_positives
    columns = (queries, counts, candidates, *precisions, top, hits, shares, nearest)
    collected.arrays.append(tuple(column[enough] for column in columns))
    found = found_within(ranks, starts, inspected)[enough] / counts[enough, None]
    collected.inspected += found.sum(axis=0)
    collected.curve += interpolated_precisions(ranks, starts, RECALLS)[enough].sum(axis=0)


def _finish(collected: _Collected, matching: Matching, depths: Sequence[int], zero_cells: ZeroCells) -> QueryScores:
    if not collected.arrays:
        empty = np.zeros(0, np.int64)
        collected.arrays.append(
            (empty, empty, empty, *np.zeros((2, 0)), empty, empty, np.zeros((0, len(depths))), empty)
        )
    whole = [np.concatenate(pieces) for pieces in zip(*collected.arrays, strict=True)]
    queries, counts, candidates, plain, interpolated, top, hits, shares, nearest = whole
    odds, corrected = odds_ratios(hits, top, counts, candidates, zero_cells)
    divisor = len(queries) or math.nan
    return QueryScores(
        queries=queries,
        rows=matching.rows[queries],
        n_positives=counts,
        n_candidates=candidates,
        average_precision=plain,
        average_precision_interpolated=interpolated,
        top=top,
        hits_top=hits,
        folds_of_enrichment=odds,
        precision_at={k: shares[:, place] for place, k in enumerate(depths)},
        nearest=nearest,
        precision_recall=collected.curve / divisor,
        recall_inspected=collected.inspected / divisor,
        n_corrected=corrected,
    )


def odds_ratios(
    hits: NDArray[np.int64],
    top: NDArray[np.int64],
    positives: NDArray[np.int64],
    candidates: NDArray[np.int64],
    zero_cells: ZeroCells = "correct",
) -> tuple[Array, int]:
    """Return the odds of being positive in the top of a list, divided by those in the rest.

    Parameters
    ----------
    hits, top, positives, candidates
        Per query: positives in the top, length of the top, positives and candidates in all.
    zero_cells
        `correct`: 0.5 is added to all four counts where the ratio would divide by zero; `infinite`: it is infinite
        then, or NaN where the top holds no positive either.

    Returns
    -------
    ratios : ndarray of float64
    n_corrected : int
        Queries with 0.5 added.
    """
    cells = np.stack([hits, top - hits, positives - hits, candidates - top - (positives - hits)]).astype(np.float64)
    cells = np.maximum(cells, 0)
    undefined = (cells[1] == 0) | (cells[2] == 0)
    if zero_cells == "correct":
        cells[:, undefined] += 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        return cells[0] * cells[3] / (cells[1] * cells[2]), int(undefined.sum()) if zero_cells == "correct" else 0


def average_precision(
    table: pd.DataFrame,
    rules: PairRules,
    *,
    features: Iterable[str] | None = None,
    multilabel: str | None = None,
    metric: Metric = "cosine",
    precision: Precision = "float64",
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
) -> pd.DataFrame:
    """Compute the average precision of every row, as `copairs.map.average_precision` does.

    Parameters
    ----------
    table
        Rows are profiles; columns are features and those that the rules name.
    rules
        Which pairs are positive and which negative.
    features
        Feature columns; found by default.
    multilabel
        Column with several labels (`a|b` or lists): each row then asks once for each of its labels, positives hold that
        label, as in `copairs.map.multilabel.average_precision`.
    metric, precision
        Of the similarity.
    memory, threads
        See `score_queries`.

    Returns
    -------
    DataFrame
        The metadata, then `n_pos_pairs`, `n_total_pairs`, `average_precision` and `normalized_average_precision`, which
        is 0 for chance and 1 for perfection ((AP - expected) / (1 - expected)). With `multilabel` a row per query and
        label that has positives; else a row per row of the table, NaN where it has no positives.

    Raises
    ------
    InputError
        If a column is missing, a value in it, or a feature; or if there is no positive or no negative pair.
    """
    names = feature_columns(table, features)
    if missing := [name for name in rules.columns if name in table.columns and table[name].isna().any()]:
        raise InputError(
            f"{int(table[missing[0]].isna().sum())} rows have nothing in {missing[0]!r}: leave them out or fill it in."
        )
    matching = Matching(table, rules, multilabel=[] if multilabel is None else [multilabel], label_by_label=multilabel)
    similarities = Similarities(table[names].to_numpy(np.float64, na_value=np.nan), metric, precision)
    scores = score_queries(similarities, matching, depths=(1,), memory=memory, threads=threads)
    if not len(scores):
        raise InputError(f"No row has a positive ({rules.describe()}).")
    if not (scores.n_candidates > scores.n_positives).any():
        raise InputError(f"No row has a negative ({rules.describe()}).")
    metadata = table.drop(columns=names).reset_index(drop=True)
    expected = expected_average_precision(scores.n_positives, scores.n_candidates)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalized = np.where(expected < 1, (scores.average_precision - expected) / (1 - expected), 0.0)
    found = pd.DataFrame(
        {
            "n_pos_pairs": scores.n_positives,
            "n_total_pairs": scores.n_candidates,
            "average_precision": scores.average_precision,
            "normalized_average_precision": normalized,
        }
    )
    if multilabel is not None:
        result = metadata.iloc[scores.rows].reset_index(drop=True)
        result[multilabel] = matching.label_names(scores.queries)
        return pd.concat([result, found], axis=1)
    found = found.set_index(scores.rows).reindex(range(len(table)))
    counts = found[["n_pos_pairs", "n_total_pairs"]].fillna(0).astype(np.int64)
    return pd.concat([metadata, counts, found.drop(columns=counts.columns)], axis=1)


def mean_average_precision(
    queries: pd.DataFrame,
    by: str | Sequence[str],
    *,
    draws: int = 100_000,
    seed: int = 0,
    threshold: float = 0.05,
    dependence: Dependence = "shared",
    null: AveragePrecisionNull | None = None,
) -> pd.DataFrame:
    """Average over the queries of each group, with p-values, as `copairs.map.mean_average_precision` does.

    Parameters
    ----------
    queries
        From `average_precision`: `average_precision`, `normalized_average_precision`, `n_pos_pairs`, `n_total_pairs`.
    by
        Columns that make groups; rows without a value there are left out.
    draws, seed
        Of the null distribution where it is not exact.
    threshold
        For `below_p` and `below_corrected_p`.
    dependence
        See `AveragePrecisionNull.mean_p_value`.
    null
        To share null distributions between calls; then `draws` and `seed` are its own.

    Returns
    -------
    DataFrame
        A row per group: `n_queries`, `mean_average_precision`, `mean_normalized_average_precision`, `p_value`,
        `p_value_error` (Monte-Carlo standard error, 0 where exact), `corrected_p_value` (Benjamini-Hochberg),
        `below_p`, `below_corrected_p`. copairs counts only random lists that do better; here those that do as well
        count too, so that the p-value of a perfect score is the chance of one.

    Raises
    ------
    InputError
        If no group has a query with positives.
    """
    names = [by] if isinstance(by, str) else list(by)
    null = null or AveragePrecisionNull(draws, seed)
    scored = queries[queries["average_precision"].notna() & (queries["n_pos_pairs"] > 0)]
    codes = scored.groupby(names, observed=True, sort=True).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")[int((codes < 0).sum()) :]
    members = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    if not len(order):
        raise InputError(f"No group of {', '.join(names)} has a query with positives.")
    ap, normalised, positives, candidates = (
        scored[name].to_numpy()
        for name in ("average_precision", "normalized_average_precision", "n_pos_pairs", "n_total_pairs")
    )
    p = [null.mean_p_value(ap[rows], positives[rows], candidates[rows], dependence=dependence) for rows in members]
    result = scored[names].iloc[[rows[0] for rows in members]].reset_index(drop=True)
    result["n_queries"] = [len(rows) for rows in members]
    result["mean_average_precision"] = [ap[rows].mean() for rows in members]
    result["mean_normalized_average_precision"] = [normalised[rows].mean() for rows in members]
    result["p_value"], result["p_value_error"] = np.array(p).T
    result["corrected_p_value"] = benjamini_hochberg(result["p_value"])
    result["below_p"] = result["p_value"] < threshold
    result["below_corrected_p"] = result["corrected_p_value"] < threshold
    return result


class NearestNeighbours(NamedTuple):
    """Accuracy of the nearest neighbour's class."""

    accuracy: float
    interval: Interval
    """95 % bootstrap interval over compounds."""
    n_queries: int
    n_left_out: int
    """Rows with a class, but without another of it among the candidates: they cannot be right."""
    table: pd.DataFrame
    """Per query: `row`, `nearest` (its nearest neighbour's row), `correct`."""


def nearest_neighbour_accuracy(
    similarities: Similarities,
    table: pd.DataFrame,
    *,
    label: str,
    compound: str | None = None,
    batch: str | None = None,
    multilabel: Iterable[str] = (),
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NearestNeighbours:
    """Give each row the class of its nearest neighbour, and count how often that is right.

    Parameters
    ----------
    similarities, table
        Profiles and what they are; rows without a class neither ask nor answer.
    label
        Column with the class.
    compound
        Neighbours of the same compound do not count: not-same-compound (NSC), leave-one-compound-out.
    batch
        Nor do those of the same batch: with `compound`, not-same-compound-and-batch (NSCB, Ando 2017).
    multilabel
        Columns of which a row may have several values.
    memory, threads, progress
        See `score_queries`.

    Returns
    -------
    NearestNeighbours
        A neighbour of a wrong class that is as near counts first, so ties are errors.

    Raises
    ------
    InputError
        If a column is missing, or no row has another of its class among its candidates.
    """
    different = tuple(name for name in (compound, batch) if name is not None)
    rules = PairRules((label,), different, (), (label, *different))
    known = table[label].notna().to_numpy() if label in table else None
    matching = Matching(table, rules, multilabel=multilabel, queries=known, candidates=known)
    scores = score_queries(similarities, matching, depths=(1,), memory=memory, threads=threads, progress=progress)
    if not len(scores):
        raise InputError(f"No profile has another of its {label!r} to find ({rules.describe()}).")
    correct = scores.precision_at[1]
    groups = table[compound].iloc[scores.rows].astype(str).to_numpy() if compound else None
    details = pd.DataFrame({"row": scores.rows, "nearest": scores.nearest, "correct": correct > 0})
    return NearestNeighbours(
        float(correct.mean()),
        bootstrap_interval(correct, groups),
        len(scores),
        len(matching) - len(scores),
        details,
    )


class ReplicateSimilarity(NamedTuple):
    """Similarity of replicates against that of random rows."""

    table: pd.DataFrame
    """Per treatment: name, `n_replicates`, `median_similarity`, `null_95` (95th percentile of the null distribution of
    its size), `p_value`, `corrected_p_value`, `reproducible` (median above `null_95`)."""
    share_reproducible: float
    """Of treatments with two or more replicates."""
    n_single: int
    """Treatments with one row only."""
    null: Array
    """Null medians of the most frequent number of replicates."""


def replicate_similarity(
    similarities: Similarities,
    treatments: pd.Series,
    *,
    draws: int = 10_000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> ReplicateSimilarity:
    """Compare the median similarity within each treatment with that of as many rows of different treatments.

    Parameters
    ----------
    similarities
        Of all rows.
    treatments
        What each row got; rows with a missing value take no part (such as controls).
    draws, seed
        Random sets of rows, for each number of replicates that there is.
    memory
        Bytes for a block of sets.

    Returns
    -------
    ReplicateSimilarity
        "Percent replicating" of the Cell Painting literature is `share_reproducible`. A treatment of more replicates
        than there are treatments has no null distribution, and NaN.

    Raises
    ------
    InputError
        If no treatment has two rows.
    """
    codes, names = pd.factorize(treatments, sort=True)
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    sizes = np.array([len(rows) for rows in members], np.int64)
    if not (sizes > 1).any():
        raise InputError("No treatment has replicates: name the column that replicates share.")
    medians, null_95, p = np.full((3, len(names)), np.nan)
    usual, kept = int(np.bincount(sizes[sizes > 1]).argmax()), np.zeros(0)
    for size in np.unique(sizes[sizes > 1]):
        mine = np.flatnonzero(sizes == size)
        medians[mine] = _medians(similarities, np.stack([members[code] for code in mine]), memory)
        if size > len(names):
            continue
        generator = np.random.default_rng([seed, int(size)])
        null = np.sort(_medians(similarities, _one_of_each(generator, members, int(size), draws), memory))
        null_95[mine] = np.quantile(null, 0.95)
        p[mine] = (1 + len(null) - np.searchsorted(null, medians[mine])) / (1 + len(null))
        if size == usual:
            kept = null
    table = pd.DataFrame({str(treatments.name): names, "n_replicates": sizes, "median_similarity": medians})
    table["null_95"], table["p_value"] = null_95, p
    table["corrected_p_value"] = benjamini_hochberg(p)
    table = table[sizes > 1].reset_index(drop=True)
    table["reproducible"] = table["median_similarity"] > table["null_95"]
    judged = table["null_95"].notna()
    share = float(table.loc[judged, "reproducible"].mean()) if judged.any() else math.nan
    return ReplicateSimilarity(table, share, int((sizes == 1).sum()), kept)


def _one_of_each(
    generator: np.random.Generator, members: Sequence[NDArray[np.int64]], size: int, draws: int
) -> NDArray[np.int64]:
    """Draw sets of rows, each of a different treatment."""
    sets = np.empty((draws, size), np.int64)
    flat = np.concatenate(members)
    counts = np.array([len(rows) for rows in members])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for one in sets:
        chosen = generator.choice(len(members), size, replace=False, shuffle=False)
        one[:] = flat[starts[chosen] + (generator.random(size) * counts[chosen]).astype(np.int64)]
    return sets


def _medians(similarities: Similarities, sets: NDArray[np.int64], memory: int) -> Array:
    """Median similarity of the pairs of each set."""
    size = sets.shape[1]
    above = np.triu_indices(size, 1)
    features = similarities.n_features
    step = max(1, memory // (8 * size * (features + 2 * size)))
    parts = (sets[start : start + step] for start in range(0, len(sets), step))
    return np.concatenate([np.median(similarities.within(part)[:, above[0], above[1]], axis=1) for part in parts])
