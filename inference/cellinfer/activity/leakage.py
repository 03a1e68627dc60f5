"""What folds have in common: similar compounds, stereoisomers, assays with the same hits; and what cannot be scored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from cellinfer_kernels.tanimoto import Nearest, nearest
from numpy.typing import NDArray

from cellinfer.activity.chemistry import Progress
from cellinfer.activity.filters import HIT, INACTIVE, Labels, overlaps

_PIECE = 512


def nearest_in_training(
    fingerprints: NDArray[np.uint64],
    folds: NDArray[np.int64],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Nearest:
    """Find, for each compound, the most similar one of all other folds: what training has seen when it is tested.

    Parameters
    ----------
    fingerprints
        `(n, W)` packed.
    folds
        `(n,)`; compounds in none (-1) are not looked at.
    threads
        None: all cores.
    progress
        See `Progress`.

    Returns
    -------
    Nearest
        Rows of the most similar compounds and their Tanimoto similarities; -1 and NaN for compounds in no fold.
    """
    inside = np.flatnonzero(folds >= 0)
    known, groups = fingerprints[inside], folds[inside]
    row, similarity = np.full(len(folds), -1), np.full(len(folds), np.nan)

    def search(start: int) -> tuple[int, Nearest]:
        some = slice(start, start + _PIECE)
        return start, nearest(known[some], known, groups[some], groups)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for start, found in pool.map(search, range(0, len(inside), _PIECE)):
            places = inside[start : start + _PIECE]
            row[places] = np.where(found.row >= 0, inside[found.row], -1)
            similarity[places] = found.similarity
            if progress is not None:
                progress("nearest neighbours", start + len(places), len(inside))
    return Nearest(row, similarity)


def stereo_twins(flat: Sequence[str], keys: Sequence[str | None], folds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find compounds that differ in stereochemistry only (or not at all) and are in different folds.

    Compounds belong together if their SMILES without stereochemistry is the same, or the first block of their InChIKey,
    which is the same for tautomers too.

    Parameters
    ----------
    flat
        `(n,)` SMILES without stereochemistry.
    keys
        `(n,)` InChIKeys; None where there is none.
    folds
        `(n,)`

    Returns
    -------
    ndarray of shape (n,), int64
        Number of the family that is in several folds, -1 for all others.
    """
    parent = list(range(len(folds)))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    first: dict[str, int] = {}
    for place, (smiles, key) in enumerate(zip(flat, keys, strict=True)):
        if folds[place] < 0:
            continue
        for name in (f"smiles {smiles}", f"key {key.split('-')[0]}" if isinstance(key, str) and key else None):
            if name is not None:
                parent[root(place)] = root(first.setdefault(name, place))
    families = np.array([root(place) for place in range(len(folds))], np.int64)
    table = pd.DataFrame({"family": families, "fold": folds})[folds >= 0]
    spread = table.groupby("family")["fold"].nunique()
    numbers = {family: number for number, family in enumerate(spread.index[spread > 1])}
    return np.array([numbers.get(family, -1) for family in families], np.int64)


def counts_by_fold(labels: Labels, folds: NDArray[np.int64], names: Sequence[str]) -> pd.DataFrame:
    """Count the labels of each assay in each fold, when it is tested and when the others train.

    Returns
    -------
    DataFrame
        `assay`, `fold`, `hits`, `inactive`, `training_hits`, `training_inactive`, and `scorable`: whether the fold has
        both classes, without which no AUROC is defined.
    """
    inside = folds >= 0
    total_hits, total_inactive = (labels[inside] == HIT).sum(axis=0), (labels[inside] == INACTIVE).sum(axis=0)
    tables = []
    for fold in range(int(folds.max(initial=-1)) + 1):
        some = labels[folds == fold]
        hits, inactive = (some == HIT).sum(axis=0), (some == INACTIVE).sum(axis=0)
        tables.append(
            pd.DataFrame(
                {
                    "assay": list(names),
                    "fold": fold,
                    "hits": hits,
                    "inactive": inactive,
                    "training_hits": total_hits - hits,
                    "training_inactive": total_inactive - inactive,
                    "scorable": (hits > 0) & (inactive > 0),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def nearest_training_assays(labels: Labels, folds: NDArray[np.int64]) -> Nearest:
    """Find, for each assay, the one of all other folds whose hits overlap its own most (intersection over union)."""
    overlap = overlaps(labels)
    overlap[(folds[:, None] == folds) | (folds < 0) | (folds[:, None] < 0)] = -1.0
    row = overlap.argmax(axis=1)
    best = overlap[np.arange(len(row)), row]
    return Nearest(np.where(best < 0, -1, row), np.where(best < 0, np.nan, best))
