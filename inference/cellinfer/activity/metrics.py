"""How well scores rank the hits of assays: ROC and precision-recall areas, enrichment among the first.

Labels are `(n, assays)`: 1 hit, 0 inactive, -1 not tested; what is not tested counts for nothing. Every figure is a row
with a number per assay, NaN where the assay lacks hits or inactives (or scores). Equal scores are no order: the area
under the ROC curve counts a pair of them half, precision is taken after all of them, and where the first part of a list
ends among them their hits count in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cellinfer.errors import InputError

AUROC, AUPRC = "AUROC", "AUPRC"
FRACTIONS = (0.01, 0.05, 0.1)
LIMITS = (0.5, 0.7, 0.9)
"""Areas under the ROC curve above which assays are counted."""

Figures = NDArray[np.float64]


def auroc(labels: ArrayLike, scores: ArrayLike) -> Figures:
    """Return the area under the ROC curve: how often a hit has a higher score than an inactive, ties counted half.

    Parameters
    ----------
    labels, scores
        `(n, assays)`; NaN is no score, which is an error where there is a label.

    Returns
    -------
    ndarray of shape (assays,)

    Raises
    ------
    InputError
        If labels and scores do not fit, or something tested has no score.
    """
    known, hit, values = _checked(labels, scores)
    hits, inactives = hit.sum(0), (known & ~hit).sum(0)
    ranks = np.zeros(values.shape)
    if values.size:
        from scipy import stats  # slow to import, and predicting needs none of it

        ranks = stats.rankdata(np.where(known, values, -np.inf), axis=0) - (~known).sum(0)
    above = np.where(hit, ranks, 0.0).sum(0) - hits * (hits + 1) / 2
    return _where_both(above, hits * inactives, hits, inactives)


def auprc(labels: ArrayLike, scores: ArrayLike) -> Figures:
    """Return the average precision: precision at the score of each hit, mean over hits. See `auroc`."""
    known, hit, values = _checked(labels, scores)
    ranked, sorted_hits = _ranked(known, hit, values)
    last = _last_equals(ranked)
    found, taken = np.cumsum(sorted_hits, axis=0), np.arange(1, len(ranked) + 1)[:, None]
    precision = np.take_along_axis(found / taken, last, axis=0)
    hits = hit.sum(0)
    return _where_both((precision * sorted_hits).sum(0), hits, hits, (known & ~hit).sum(0))


def enrichment(labels: ArrayLike, scores: ArrayLike, fraction: float) -> Figures:
    """Return the enrichment factor: how many times more hits the first part of a list has than lists at random.

    Parameters
    ----------
    labels, scores
        See `auroc`.
    fraction
        Part of what was tested that comes first, rounded up to a whole number of compounds.

    Returns
    -------
    ndarray of shape (assays,)

    Raises
    ------
    InputError
        As `auroc`; if the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"The part of a list that comes first is above 0 and at most 1, not {fraction}.")
    known, hit, values = _checked(labels, scores)
    tested, hits = known.sum(0), hit.sum(0)
    if not len(values):
        return np.full(hits.shape, np.nan)
    ranked, sorted_hits = _ranked(known, hit, values)
    cut: NDArray[np.int64] = np.maximum(1, np.ceil(np.round(tested * fraction, 9))).astype(np.int64)
    found = np.vstack([np.zeros((1, hits.size)), np.cumsum(sorted_hits, axis=0)])
    at = cut[None, :] - 1
    end = np.take_along_axis(_last_equals(ranked), at, axis=0) + 1
    begin: NDArray[np.int64] = len(ranked) - 1 - np.take_along_axis(_last_equals(ranked[::-1])[::-1], at, axis=0)
    sure, all_of_them = np.take_along_axis(found, begin, axis=0), np.take_along_axis(found, end, axis=0)
    share = (cut[None, :] - begin) / (end - begin)
    among = (sure + share * (all_of_them - sure))[0]
    return _where_both(among * tested, cut * hits, hits, tested - hits)


def score_assays(labels: ArrayLike, scores: ArrayLike, assays: Sequence[str]) -> pd.DataFrame:
    """Return every figure of every assay.

    Parameters
    ----------
    labels, scores
        See `auroc`.
    assays
        Their names.

    Returns
    -------
    DataFrame
        Indexed by assay: `AUROC`, `AUPRC`, `EF1`, `EF5`, `EF10` (percent that come first), `hits`, `inactive`.
    """
    known, hit, _ = _checked(labels, scores)
    if known.shape[1] != len(assays):
        raise InputError(f"There are {known.shape[1]} assays, and names of {len(assays)}.")
    columns: dict[str, NDArray[np.generic]] = {AUROC: auroc(labels, scores), AUPRC: auprc(labels, scores)}
    columns |= {f"EF{round(100 * part)}": enrichment(labels, scores, part) for part in FRACTIONS}
    columns |= {"hits": hit.sum(0), "inactive": (known & ~hit).sum(0)}
    return pd.DataFrame(columns, index=pd.Index(assays, name="assay"))


def across_folds(folds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the median of each assay's figures over the folds in which it has them; `folds` says how many these are.

    Parameters
    ----------
    folds
        As `score_assays` gives them, of the same assays.
    """
    stacked = pd.concat(folds, keys=range(len(folds)))
    areas = [name for name in stacked if name not in ("hits", "inactive")]
    by_assay = stacked.groupby(level="assay", sort=False)
    result = by_assay[areas].median()
    result["folds"] = by_assay[AUROC].count()
    return result


def count_above(areas: ArrayLike, limits: Sequence[float] = LIMITS) -> Mapping[float, int]:
    """Return how many assays have a figure above each limit; NaN is above none."""
    values = np.asarray(areas, np.float64)
    return {limit: int((values > limit).sum()) for limit in limits}


def mean_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean area under the ROC curve over assays that have one; NaN if none has."""
    areas = auroc(labels, scores)
    return float(np.mean(areas[np.isfinite(areas)])) if np.isfinite(areas).any() else math.nan


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    given, values = np.asarray(labels), np.asarray(scores, np.float64)
    if given.ndim != 2 or given.shape != values.shape:
        raise InputError(f"Labels of shape {given.shape} and scores of shape {values.shape} do not fit.")
    if not np.isin(given, (-1, 0, 1)).all():
        raise InputError("Labels are 1 (hit), 0 (inactive) or -1 (not tested).")
    known = given >= 0
    if np.isnan(values[known]).any():
        raise InputError(f"{int(np.isnan(values[known]).sum())} labels have no score: predict every compound.")
    return known, given == 1, values


def _ranked(
    known: NDArray[np.bool_], hit: NDArray[np.bool_], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return, from the highest score on, the rank of each (equal ones alike, untested ones last) and what is a hit."""
    if not len(values):
        return np.zeros(values.shape, np.int64), hit
    from scipy import stats  # slow to import, and predicting needs none of it

    ranks = stats.rankdata(-np.where(known, values, -np.inf), method="min", axis=0)
    ranked = np.asarray(np.where(known, ranks, len(values) + 1), np.int64)
    order = np.argsort(ranked, axis=0, kind="stable")
    return np.take_along_axis(ranked, order, axis=0), np.take_along_axis(hit, order, axis=0)


def _last_equals(ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the last one that equals each, in columns where equals lie together."""
    n = len(ranked)
    places = np.broadcast_to(np.arange(n)[:, None], ranked.shape)
    ends = np.ones(ranked.shape, bool)
    ends[:-1] = ranked[1:] != ranked[:-1]
    marked = np.where(ends, places, n)
    return np.asarray(np.minimum.accumulate(marked[::-1], axis=0)[::-1], np.int64)


def _where_both(
    above: NDArray[np.generic], below: NDArray[np.generic], hits: NDArray[np.int64], inactives: NDArray[np.int64]
) -> Figures:
    both = (hits > 0) & (inactives > 0)
    result = np.full(hits.shape, np.nan)
    np.divide(above, below, out=result, where=both)
    return result
