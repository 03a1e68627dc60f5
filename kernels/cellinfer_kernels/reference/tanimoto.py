"""Plain twin of `cellinfer_kernels.tanimoto`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.tanimoto import Nearest


def _sets(fingerprints: ArrayLike) -> NDArray[np.float64]:
    words = np.ascontiguousarray(fingerprints)
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.float64)


def pack(bits: ArrayLike) -> NDArray[np.uint64]:
    """Add powers of two."""
    given = (np.asarray(bits) != 0).astype(np.uint64)
    words = -(-given.shape[1] // 64)
    packed = np.zeros((len(given), words), np.uint64)
    for place in range(given.shape[1]):
        packed[:, place // 64] |= given[:, place] << np.uint64(place % 64)
    return packed


def similarities(queries: ArrayLike, database: ArrayLike) -> NDArray[np.float64]:
    """Multiply matrices of bits."""
    one, other = _sets(queries), _sets(database)
    common = one @ other.T
    union = one.sum(1)[:, None] + other.sum(1) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def nearest(
    queries: ArrayLike,
    database: ArrayLike,
    query_groups: ArrayLike | None = None,
    database_groups: ArrayLike | None = None,
) -> Nearest:
    """Look for the largest in each row."""
    values = similarities(queries, database)
    if query_groups is not None and database_groups is not None:
        values[np.asarray(query_groups)[:, None] == np.asarray(database_groups)] = -1.0
    if not values.shape[1]:
        return Nearest(np.full(len(values), -1), np.full(len(values), np.nan))
    index = values.argmax(axis=1)
    best = values.max(axis=1)
    return Nearest(np.where(best < 0, -1, index), np.where(best < 0, np.nan, best))
