"""Compounds, or assays, into folds: by scaffold, by clusters of equal size, at random, by type of assay.

Folds are int64 arrays with a number from 0 on for each compound or assay, -1 for what is in no fold.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cellinfer_kernels.assignment import assign
from numpy.typing import ArrayLike, NDArray

from cellinfer.activity.filters import HIT, Labels
from cellinfer.errors import InputError

Folds = NDArray[np.int64]


def _check(number: int, folds: int, what: str = "compounds") -> None:
    if folds < 2:
        raise InputError(f"There must be at least 2 folds, not {folds}.")
    if number < folds:
        raise InputError(f"{number} {what} cannot be divided into {folds} folds.")


def scaffold_folds(scaffolds: Sequence[str], folds: int = 5, seed: int = 0, *, as_published: bool = False) -> Folds:
    """Divide compounds so that those of one scaffold are in one fold.

    The largest set of compounds with a common scaffold comes first, and each goes into the fold that is smallest so
    far. Molecules without a ring have no scaffold and are one set. Sets of equal size come in an order drawn by the
    seed, whatever the order of compounds. As published (Moshkov et al., with chemprop's sets), they come in the order
    in which they first appear, and folds are then shuffled by Python's own generator: with seed 0 these are the
    published folds.

    Parameters
    ----------
    scaffolds
        `(n,)` of each compound; "" without one.
    folds
        Their number.
    seed, as_published
        See above.

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    InputError
        If there are fewer scaffolds than folds.
    """
    sets: dict[str, list[int]] = {}
    for place, name in enumerate(scaffolds):
        sets.setdefault(name, []).append(place)
    _check(len(sets), folds, "scaffolds")
    names = list(sets)
    if not as_published:
        names.sort()
        names = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    names.sort(key=lambda name: -len(sets[name]))
    filled: list[list[int]] = [[] for _ in range(folds)]
    for name in names:
        min(filled, key=len).extend(sets[name])
    if as_published:
        random.Random(seed).shuffle(filled)  # noqa: S311 - as published; no secret hangs on it
    result = np.empty(len(scaffolds), np.int64)
    for number, places in enumerate(filled):
        result[places] = number
    return result


def random_folds(number: int, folds: int = 5, seed: int = 0, labels: Labels | None = None) -> Folds:
    """Divide compounds at random.

    With labels, hits of each assay are spread evenly (iterative stratification: Sechidis, Tsoumakas and Vlahavas, ECML
    PKDD 2011): the assay with the fewest hits that are not in a fold yet comes first, and each of its hits goes into
    the fold that lacks most hits of it, among equals into the one that lacks most compounds.

    Parameters
    ----------
    number
        n compounds.
    folds, seed
        Number of folds; of everything random.
    labels
        `(n, assays)` int8; None: hits are not looked at.

    Returns
    -------
    ndarray of shape (n,), int64
        Without labels, sizes differ by one at most.
    """
    _check(number, folds)
    generator = np.random.default_rng(seed)
    order = generator.permutation(number)
    result = np.full(number, -1, np.int64)
    if labels is None or not labels.shape[1]:
        result[order] = np.arange(number) * folds // number
        return result
    hits = labels[order] == HIT
    left = hits.sum(axis=0)
    lacking = np.tile(left / folds, (folds, 1))
    places = np.full(folds, number / folds)
    free = np.ones(number, bool)
    while (left > 0).any():
        assay = int(np.where(left > 0, left, np.iinfo(left.dtype).max).argmin())
        for one in np.flatnonzero(free & hits[:, assay]):
            fold = int(np.lexsort((generator.permutation(folds), -places, -lacking[:, assay]))[0])
            result[order[one]] = fold
            free[one] = False
            lacking[fold] -= hits[one]
            left -= hits[one]
            places[fold] -= 1
    for one in np.flatnonzero(free):
        fold = int(places.argmax())
        result[order[one]] = fold
        places[fold] -= 1
    return result


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of equal size."""

    labels: Folds
    centres: NDArray[np.float64]
    """`(clusters, features)` means."""
    inertia: float
    """Sum of squared distances from the centres."""
    iterations: int


def same_size_clusters(
    features: ArrayLike, clusters: int = 5, seed: int = 0, *, restarts: int = 4, iterations: int = 100
) -> Clusters:
    """Cluster by k-means with clusters of equal size (their sizes differ by one at most).

    Lloyd's algorithm, in which the assignment of all rows is the best there is for the given sizes
    (`cellinfer_kernels.assignment`), so that the sum of squared distances falls with each iteration until nothing
    changes. Starts are drawn as in k-means++ (Arthur and Vassilvitskii, 2007); the best of all starts is returned.

    Parameters
    ----------
    features
        `(n, d)` finite.
    clusters
        Their number.
    seed
        Of the starts.
    restarts
        Starts.
    iterations
        At most, for each start.

    Returns
    -------
    Clusters

    Raises
    ------
    InputError
        If a value is not finite, or there are too few rows.
    """
    values = np.ascontiguousarray(features, np.float32)
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"Clusters need a row of features for each compound, not an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("Clusters need finite features.")
    _check(len(values), clusters)
    values = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)  # so that float32 is enough
    generator = np.random.default_rng(seed)
    sizes = np.full(clusters, len(values) // clusters)
    sizes[: len(values) % clusters] += 1
    best: Clusters | None = None
    for _ in range(restarts):
        found = _lloyd(values, _starts(values, clusters, generator), sizes, iterations)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def _distances(values: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return squared distances but for the rows' own squares, which do not matter to an assignment."""
    squares = (centres.astype(np.float64) ** 2).sum(axis=1)
    return np.asarray(squares - 2.0 * (values @ centres.T), np.float64)


def _starts(values: NDArray[np.float32], clusters: int, generator: np.random.Generator) -> NDArray[np.float32]:
    squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    chosen = [int(generator.integers(len(values)))]
    nearest = np.full(len(values), np.inf)
    while len(chosen) < clusters:
        nearest = np.minimum(nearest, np.maximum(squares + _distances(values, values[chosen[-1:]])[:, 0], 0.0))
        total = nearest.sum()
        draw = generator.random() * total
        place = int(np.searchsorted(np.cumsum(nearest), draw)) if total > 0 else int(generator.integers(len(values)))
        chosen.append(min(place, len(values) - 1))
    return values[chosen]


def _lloyd(
    values: NDArray[np.float32], centres: NDArray[np.float32], sizes: NDArray[np.int64], iterations: int
) -> Clusters:
    labels = np.full(len(values), -1, np.int64)
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007 - it is returned
        new = assign(_distances(values, centres), sizes)
        if (new == labels).all():
            break
        labels = new
        centres = np.stack([values[labels == one].mean(axis=0, dtype=np.float64) for one in range(len(sizes))]).astype(
            np.float32
        )
    inertia = sum(
        float(((values[labels == one] - centre).astype(np.float64) ** 2).sum()) for one, centre in enumerate(centres)
    )
    return Clusters(labels, centres.astype(np.float64), inertia, done)


def assay_type_folds(types: Sequence[str | None]) -> tuple[Folds, tuple[str, ...]]:
    """Divide assays by their type: a fold for each, the most frequent type first; -1 without a type.

    Returns
    -------
    folds : ndarray of shape (assays,), int64
    names : tuple of str
        The type of each fold.

    Raises
    ------
    InputError
        If there are not two types.
    """
    known = [name for name in types if name]
    names = tuple(sorted(set(known), key=lambda name: (-known.count(name), name)))
    if len(names) < 2:
        raise InputError(
            "Leaving out types of assays needs assays of two types or more: give `cellinfer activity prepare` a table "
            "of assays with --assays."
        )
    return np.array([names.index(name) if name else -1 for name in types], np.int64), names
