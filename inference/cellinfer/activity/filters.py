"""Steps on labels: duplicates into one, assays that say the same, compounds that hit everything.

Labels are int8 arrays `(compounds, assays)`: 1 hit, 0 inactive, -1 not tested.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist

from cellinfer.errors import InputError
from cellinfer.profiling.significance import benjamini_hochberg

Labels = NDArray[np.int8]
HIT, INACTIVE, BLANK = 1, 0, -1
CONTRADICTIONS = ("blank", "majority")


@dataclass(frozen=True, slots=True)
class Merged:
    """Rows of one compound made one."""

    first: NDArray[np.int64]
    """`(n,)` the first row of each compound, ascending."""
    compound: NDArray[np.int64]
    """`(rows,)` the compound of each row."""
    labels: Labels
    """`(n, assays)`"""
    contradictions: NDArray[np.int64]
    """`(c, 4)` compound, assay, how many rows call it a hit, how many inactive."""


def merge(keys: ArrayLike, labels: Labels, rule: str = "blank") -> Merged:
    """Make one row of all that are the same compound.

    A blank beside a label counts for nothing. Where rows contradict each other, the label becomes blank; by the rule
    `majority` it becomes what most of them say, and blank only if they are even.

    Parameters
    ----------
    keys
        `(rows,)` texts that are equal for the same compound.
    labels
        `(rows, assays)`
    rule
        `blank` or `majority`.

    Returns
    -------
    Merged

    Raises
    ------
    InputError
        If there is no such rule.
    """
    if rule not in CONTRADICTIONS:
        raise InputError(f"There is no rule {rule!r} for contradictions: choose {' or '.join(CONTRADICTIONS)}.")
    names = np.asarray(keys)
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    compound, first = place[inverse.reshape(-1)], first[order]
    merged = labels[first].copy()
    twins = np.flatnonzero(np.bincount(compound, minlength=len(first)) > 1)
    found = []
    for one in twins:
        rows = labels[compound == one]
        hits, inactive = (rows == HIT).sum(axis=0), (rows == INACTIVE).sum(axis=0)
        merged[one] = np.where(hits > 0, HIT, np.where(inactive > 0, INACTIVE, BLANK))
        for assay in np.flatnonzero((hits > 0) & (inactive > 0)):
            found.append((one, assay, hits[assay], inactive[assay]))
            by_vote = np.sign(hits[assay] - inactive[assay])
            merged[one, assay] = BLANK if rule == "blank" or by_vote == 0 else (HIT if by_vote > 0 else INACTIVE)
    return Merged(first, compound, merged, np.array(found, np.int64).reshape(-1, 4))


def overlaps(labels: Labels) -> NDArray[np.float64]:
    """Return the intersection over union of the hits of each two assays, `(assays, assays)`; 0 without any hit."""
    hits = (labels == HIT).astype(np.float32)
    common = (hits.T @ hits).astype(np.float64)
    counts = common.diagonal()
    union = counts[:, None] + counts - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def assay_clusters(overlap: NDArray[np.float64], threshold: float = 0.7) -> NDArray[np.int64]:
    """Cluster assays whose hits are the same, as Moshkov et al. do.

    Each assay is described by which assays it overlaps with by more than the threshold, itself among them; complete
    linkage of cosine distances between these descriptions, cut at 0.95 of the largest distance.

    Parameters
    ----------
    overlap
        `(assays, assays)`, from `overlaps`; every assay has hits.
    threshold
        Intersection over union.

    Returns
    -------
    ndarray of int64
        Cluster of each assay, numbered by their first assays.
    """
    number = len(overlap)
    if number < 2:
        return np.arange(number)
    distances = np.maximum(pdist((overlap > threshold).astype(np.float64), "cosine"), 0.0)
    if distances.max() == 0:
        return np.zeros(number, np.int64)
    flat = hierarchy.fcluster(hierarchy.linkage(distances, "complete"), 0.95 * distances.max(), "distance")
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[inverse.reshape(-1)]


def representatives(
    labels: Labels, overlap: NDArray[np.float64], clusters: NDArray[np.int64], threshold: float = 0.7
) -> NDArray[np.int64]:
    """Choose which assays of a cluster stay, and say for the others which one speaks for them.

    In a cluster the assay with the most hits comes first, among equals that with the most readouts, then the first
    column. An assay goes if it overlaps one that stays, of its cluster, by more than the threshold; so a cluster keeps
    one assay, and more only if it is held together by what goes.

    Returns
    -------
    ndarray of shape (assays,), int64
        -1 for assays that stay; else the assay that stays and overlaps most.
    """
    stands_for = np.full(len(clusters), -1)
    hits, readouts = (labels == HIT).sum(axis=0), (labels != BLANK).sum(axis=0)
    for cluster in range(int(clusters.max(initial=-1)) + 1):
        members = np.flatnonzero(clusters == cluster)
        staying: list[int] = []
        for one in members[np.lexsort((members, -readouts[members], -hits[members]))]:
            best = max(staying, key=lambda other: overlap[one, other], default=None)
            if best is not None and overlap[one, best] > threshold:
                stands_for[one] = best
            else:
                staying.append(int(one))
    return stands_for


def sampled_assays(clusters: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose assays as the published notebook does: all clusters of one, and 30 % of the others, rounded down.

    Of clusters of two or three assays none is left. The notebook sets no seed.

    Returns
    -------
    ndarray of shape (assays,), bool
        Which stay.
    """
    chosen = random.Random(seed)  # noqa: S311 - as published; no secret hangs on it
    stays = np.zeros(len(clusters), bool)
    for cluster in range(int(clusters.max(initial=-1)) + 1):
        members = np.flatnonzero(clusters == cluster).tolist()
        stays[members if len(members) == 1 else chosen.sample(members, int(len(members) * 0.3))] = True
    return stays


@dataclass(frozen=True, slots=True)
class Frequency:
    """How often compounds are hits, beside chance."""

    tested: NDArray[np.int64]
    hits: NDArray[np.int64]
    fraction: NDArray[np.float64]
    """Hits of the assays it was tested in; NaN without any."""
    p_value: NDArray[np.float64]
    """Of at least so many hits, if every compound tested in an assay were a hit of it with the assay's hit rate."""


def hit_frequency(labels: Labels) -> Frequency:
    """Count the hits of each compound, and say how likely so many are by chance.

    With independent assays of different hit rates the number of hits is Poisson-binomial; its upper tail is summed
    exactly. (With one rate for all assays this is the binomial survivor function of Nissink and Blackburn, Future
    Medicinal Chemistry 6, 2014.)

    Parameters
    ----------
    labels
        `(n, assays)`

    Returns
    -------
    Frequency
    """
    is_hit, is_tested = labels == HIT, labels != BLANK
    hits, tested = is_hit.sum(axis=1), is_tested.sum(axis=1)
    counts = is_tested.sum(axis=0)
    rates = np.divide(is_hit.sum(axis=0), counts, out=np.zeros(len(counts)), where=counts > 0)
    p_values = np.ones(len(labels))
    rows = np.flatnonzero(hits > 0)
    block = max(1, 2**24 // (int(hits.max(initial=0)) + 1))
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        # chances[i, h]: that compound i has h hits in the assays so far, for those below its own number of hits
        chances = np.zeros((len(some), int(hits[some].max())))
        chances[:, 0] = 1.0
        for assay in range(labels.shape[1]):
            rate = np.where(is_tested[some, assay], rates[assay], 0.0)[:, None]
            handed_on = chances[:, :-1] * rate
            chances *= 1.0 - rate
            chances[:, 1:] += handed_on
        below = np.cumsum(chances, axis=1)[np.arange(len(some)), hits[some] - 1]
        p_values[some] = np.clip(1.0 - below, 0.0, 1.0)
    fraction = np.divide(hits, tested, out=np.full(len(labels), np.nan), where=tested > 0)
    return Frequency(tested, hits, fraction, p_values)


def frequent_hitters(
    frequency: Frequency, fraction: float = 0.1, false_discovery_rate: float = 0.01
) -> NDArray[np.bool_]:
    """Find compounds that are hits in a tenth of the assays they were tested in, and not by chance.

    A compound that was tested in few assays reaches any fraction with one hit or two; so its hits must also be more
    than the hit rates of those assays explain, at a false discovery rate (Benjamini and Hochberg) over all compounds.

    Returns
    -------
    ndarray of shape (compounds,), bool
    """
    q_values = benjamini_hochberg(frequency.p_value)
    return np.asarray((np.nan_to_num(frequency.fraction) >= fraction) & (q_values <= false_discovery_rate))


def published_frequent_hitters(labels: Labels, fraction: float = 0.1) -> NDArray[np.bool_]:
    """Find compounds that are hits in a tenth of all assays, tested or not, as Moshkov et al. do."""
    return np.asarray((labels == HIT).sum(axis=1) >= max(fraction * labels.shape[1], 1))
