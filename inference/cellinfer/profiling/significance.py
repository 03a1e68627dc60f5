"""How likely chance alone does as well: null distributions of average precision, false discoveries, intervals.

Under the null hypothesis every order of a query's candidates is as likely as any other, so the distribution of its
average precision depends only on how many positives and candidates it has. Where there are few such orders, all are
gone through and p-values are exact; otherwise random ones are drawn, and the p-value (1 + number at least as large) /
(1 + draws) comes with its Monte-Carlo standard error. A hundred thousand wells have lists of thousands of lengths that
differ by next to nothing: with several positives, but few of the candidates, those beyond 2,047 are taken for up to
0.1 % shorter, in which chance does a little better, so that they share their null distributions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, NamedTuple

import numpy as np
from cellinfer_kernels.ranking import all_average_precisions, random_average_precisions
from numpy.typing import ArrayLike, NDArray

from cellinfer.errors import InputError

Array = NDArray[np.float64]
Dependence = Literal["shared", "independent"]

EXACT_LISTS = 1 << 20
"""Up to this many orders of positives among candidates, all are gone through."""
_LENGTH_BITS = 11
_ROUNDING = 1e-9  # sums of fractions in another order differ by less
_AT_A_TIME = 1 << 21
_KEPT_BYTES = 256 << 20


class PValues(NamedTuple):
    """p-values and their Monte-Carlo standard errors (0 where exact, NaN where there is no p-value)."""

    p: Array
    standard_error: Array


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class _Null(NamedTuple):
    values: Array  # ascending
    exact: bool


class AveragePrecisionNull:
    """Null distributions of average precision, each made once.

    Parameters
    ----------
    draws
        Random lists where there are too many to go through all.
    seed
        With the numbers of positives and candidates it determines the draws, whatever else was drawn before.

    Raises
    ------
    InputError
        If there are no draws.
    """

    def __init__(self, draws: int = 100_000, seed: int = 0) -> None:
        if draws < 1:
            raise InputError(f"The null distribution needs at least one draw, not {draws}.")
        self.draws, self.seed = int(draws), int(seed)
        self._kept: OrderedDict[tuple[int, int], _Null] = OrderedDict()

    def p_values(self, average_precision: ArrayLike, positives: ArrayLike, candidates: ArrayLike) -> PValues:
        """Return for each query the probability that chance alone does at least as well.

        Parameters
        ----------
        average_precision, positives, candidates
            Per query. Without positives, or with NaN, the p-value is NaN.
        """
        scores, counts = _aligned(average_precision, positives, candidates)
        p, error = np.full((2, len(scores)), np.nan)
        known = np.isfinite(scores) & (counts[:, 0] > 0)
        for one in np.unique(counts[known], axis=0):
            mine = known & (counts == one).all(axis=1)
            null = self._of(*one)
            p[mine], error[mine] = _tail(null.values, scores[mine], null.exact)
        return PValues(p, error)

    def mean_p_value(
        self,
        average_precision: ArrayLike,
        positives: ArrayLike,
        candidates: ArrayLike,
        dependence: Dependence = "shared",
    ) -> tuple[float, float]:
        """Return p-value and standard error of the mean over the queries of one group.

        Parameters
        ----------
        average_precision, positives, candidates
            Per query.
        dependence
            How queries of one group hang together under the null. Replicates find each other, so their average
            precisions are anything but independent. `shared`: queries with as many positives and candidates have the
            same value in each draw, as in copairs; cautious, and exact where all queries are of one kind that can be
            gone through. `independent`: each has a draw of its own; too small p-values if they do hang together.
        """
        scores, counts = _aligned(average_precision, positives, candidates)
        known = np.isfinite(scores) & (counts[:, 0] > 0)
        if not known.any():
            return math.nan, math.nan
        mean = float(scores[known].mean())
        kinds, queries = np.unique(counts[known], axis=0, return_counts=True)
        if len(kinds) == 1 and (dependence == "shared" or queries[0] == 1):
            null = self._of(*kinds[0])
            values, exact = null.values, null.exact
        else:
            values, exact = np.sort(self._mixture(kinds, queries, dependence)), False
        p, error = _tail(values, np.array([mean]), exact)
        return float(p[0]), float(error[0])

    def _mixture(self, kinds: NDArray[np.int64], queries: NDArray[np.int64], dependence: Dependence) -> Array:
        total = np.zeros(self.draws)
        for number, (kind, count) in enumerate(zip(kinds, queries, strict=True)):
            null = self._of(*kind)
            generator = np.random.default_rng([self.seed, *kind, number])
            for _ in range(int(count) if dependence == "independent" else 1):
                drawn = generator.choice(null.values, self.draws) if null.exact else generator.permutation(null.values)
                total += drawn * (1 if dependence == "independent" else count)
        return np.asarray(total / queries.sum(), np.float64)

    def _of(self, positives: int, candidates: int) -> _Null:
        key = (int(positives), int(candidates))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if math.comb(key[1], key[0]) <= EXACT_LISTS:
            null = _Null(all_average_precisions(*key), True)
        else:
            null = _Null(np.sort(self._draw(*key)), False)
        self._kept[key] = null
        while sum(kept.values.nbytes for kept in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return null

    def _draw(self, positives: int, candidates: int) -> Array:
        generator = np.random.default_rng([self.seed, positives, candidates])
        lists = max(1, _AT_A_TIME // positives)
        return np.concatenate(
            [
                random_average_precisions(generator.random((min(lists, self.draws - done), positives)), candidates)
                for done in range(0, self.draws, lists)
            ]
        )


def _aligned(
    average_precision: ArrayLike, positives: ArrayLike, candidates: ArrayLike
) -> tuple[Array, NDArray[np.int64]]:
    scores, found = np.asarray(average_precision, np.float64), np.asarray(positives, np.int64)
    lengths = np.asarray(candidates, np.int64)
    beyond = np.maximum(np.frexp(lengths.astype(np.float64))[1] - _LENGTH_BITS, 0)
    few = (found > 1) & (found <= lengths // 16)  # of one positive all is exact
    return scores, np.stack([found, np.where(few, (lengths >> beyond) << beyond, lengths)], axis=1)


def _tail(null: Array, scores: Array, exact: bool) -> tuple[Array, Array]:
    """Probability of a value at least as large, with the standard error of its estimate."""
    above = len(null) - np.searchsorted(null, scores - _ROUNDING)
    if exact:
        return above / len(null), np.zeros(len(scores))
    p = (1 + above) / (1 + len(null))
    return p, np.sqrt(p * (1 - p) / len(null))


def expected_average_precision(positives: ArrayLike, candidates: ArrayLike) -> Array:
    """Return the mean of average precision over all orders of the candidates.

    With m positives among L candidates and H the L-th harmonic number it is
    ((m - 1) / (L - 1) * (L - H) + H) / L (Bestgen, Prague Bull. Math. Linguist. 103, 2015).

    Parameters
    ----------
    positives, candidates
        Per query.

    Returns
    -------
    ndarray of float64
        NaN without positives.
    """
    m, total = (np.asarray(counts, np.int64) for counts in np.broadcast_arrays(positives, candidates))
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total.max(initial=1) + 1))])[total]
    length = np.maximum(total, 1)
    value = ((m - 1) / np.maximum(total - 1, 1) * (total - harmonic) + harmonic) / length
    return np.where(m > 0, np.where(m == total, 1.0, value), np.nan)


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """Adjust p-values so that those up to q hold a share of at most q false discoveries.

    Parameters
    ----------
    p_values
        From 0 to 1; NaN stays NaN and is not counted as a test.

    Returns
    -------
    ndarray of float64
        min over larger p of p * tests / rank (Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995).

    Raises
    ------
    ValueError
        If a p-value is out of range.
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ValueError("p-values must lie between 0 and 1")
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def bootstrap_interval(
    values: ArrayLike, groups: ArrayLike | None = None, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return a percentile bootstrap interval of a mean.

    Parameters
    ----------
    values
        Per query; NaN does not count.
    groups
        Class or compound of each query: whole groups are drawn with replacement, since queries of one group are not
        independent. Default: each query is a group.
    confidence, draws, seed
        Of the interval.

    Returns
    -------
    Interval
        NaN with fewer than two groups.
    """
    numbers = np.asarray(values, np.float64)
    known = ~np.isnan(numbers)
    names = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    _, codes = np.unique(names[known], return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)
    if len(counts) < 2:
        return Interval(math.nan, math.nan)
    sums = np.bincount(codes, weights=numbers[known])
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    lists = max(1, _AT_A_TIME // len(counts))
    for done in range(0, draws, lists):
        drawn = generator.integers(len(counts), size=(min(lists, draws - done), len(counts)))
        means[done : done + lists] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
