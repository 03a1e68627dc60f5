"""What a model of activity knows: how similar compounds are to those that it was trained on."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from cellinfer_kernels.tanimoto import Nearest, nearest
from numpy.typing import NDArray

from cellinfer.activity.models import ActivityModel

__all__ = ["PERCENTILE", "Domain", "domain_of", "similarity_limit"]

PERCENTILE = 5.0
"""Of the training compounds' similarities to their own nearest neighbours: what is below it is outside."""
_PIECE = 512


@dataclass(frozen=True)
class Domain:
    """The compounds that a model was trained on.

    Attributes
    ----------
    fingerprints
        `(n, words)` uint64, packed.
    compounds
        Their names; None where they are not known.
    limit
        Similarity below which a compound is outside; None where there is none.
    stated
        Whether the model's card says it; it was computed here otherwise.
    """

    fingerprints: NDArray[np.uint64]
    compounds: tuple[str, ...] | None
    limit: float | None
    stated: bool

    def nearest(self, fingerprints: NDArray[np.uint64], threads: int | None = None) -> Nearest:
        """Find the most similar training compound of each compound.

        Parameters
        ----------
        fingerprints
            `(q, words)` uint64, packed, of the same radius and bits.
        threads
            None: all cores.

        Returns
        -------
        Nearest
        """
        return _searched(fingerprints, self.fingerprints, None, threads)


def domain_of(model: ActivityModel, threads: int | None = None) -> Domain | None:
    """Return what a model was trained on; None where its fingerprints do not come with it."""
    if model.fingerprints is None:
        return None
    limit = model.card.similarity_limit
    if limit is not None:
        return Domain(model.fingerprints, model.compounds, limit, True)
    return Domain(model.fingerprints, model.compounds, similarity_limit(model.fingerprints, threads), False)


def similarity_limit(fingerprints: NDArray[np.uint64], threads: int | None = None) -> float | None:
    """Return the similarity below which compounds are outside of what was learnt from.

    It is the 5th percentile of the Tanimoto similarity of each training compound to the nearest other one: of 20
    training compounds, one is as far from the others.

    Parameters
    ----------
    fingerprints
        `(n, words)` uint64, packed, of all training compounds.
    threads
        None: all cores.

    Returns
    -------
    float or None
        None of a single compound, which has no neighbour.
    """
    if len(fingerprints) < 2:
        return None
    found = _searched(fingerprints, fingerprints, np.arange(len(fingerprints)), threads)
    return float(np.percentile(found.similarity, PERCENTILE))


def _searched(
    queries: NDArray[np.uint64], known: NDArray[np.uint64], groups: NDArray[np.int64] | None, threads: int | None
) -> Nearest:
    """Search in pieces, one thread each; with groups, a compound is not its own neighbour."""

    def search(start: int) -> Nearest:
        some = slice(start, start + _PIECE)
        if groups is None:
            return nearest(queries[some], known)
        return nearest(queries[some], known, groups[some], groups)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = list(pool.map(search, range(0, len(queries), _PIECE)))
    row = [each.row for each in found] or [np.zeros(0, np.int64)]
    similarity = [each.similarity for each in found] or [np.zeros(0)]
    return Nearest(np.concatenate(row), np.concatenate(similarity))
