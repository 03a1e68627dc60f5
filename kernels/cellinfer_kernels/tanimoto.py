"""Tanimoto similarity of binary fingerprints, packed as 64-bit words: all pairs, and nearest neighbours.

The similarity of two fingerprints with a and b bits, c of them common, is c / (a + b - c); that of two without any bit
is 0, as in RDKit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel


class Nearest(NamedTuple):
    """The most similar fingerprint of each query."""

    row: NDArray[np.int64]
    """`(Q,)` where it is in the database; the first one among equals, -1 where none is allowed."""
    similarity: NDArray[np.float64]
    """`(Q,)` from 0 to 1; NaN where none is allowed."""


@intrinsic  # type: ignore[untyped-decorator]
def _count(context: Any, word: Any) -> Any:
    """Count the bits of a word with the processor's own instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def pack(bits: ArrayLike) -> NDArray[np.uint64]:
    """Pack fingerprints into words.

    Parameters
    ----------
    bits
        `(n, B)`; what is not 0 counts as set.

    Returns
    -------
    ndarray of shape (n, ceil(B / 64)), uint64

    Raises
    ------
    ValueError
        If `bits` has not two dimensions.
    """
    given = np.asarray(bits) != 0
    if given.ndim != 2:
        raise ValueError("fingerprints must have a row each")
    whole = -(-given.shape[1] // 64) * 64
    padded = np.zeros((len(given), whole), bool)
    padded[:, : given.shape[1]] = given
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def _checked(queries: ArrayLike, database: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    one, other = np.asarray(queries), np.asarray(database)
    if one.dtype != np.uint64 or other.dtype != np.uint64:
        raise ValueError("fingerprints must be packed: see pack")
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"fingerprints of shape {one.shape} and {other.shape} cannot be compared")
    return np.ascontiguousarray(one), np.ascontiguousarray(other)


def similarities(queries: ArrayLike, database: ArrayLike) -> NDArray[np.float64]:
    """Compare all queries with all of a database.

    Parameters
    ----------
    queries, database
        `(Q, W)` and `(D, W)` uint64, packed fingerprints.

    Returns
    -------
    ndarray of shape (Q, D), float64

    Raises
    ------
    ValueError
        If they are not packed, or not of one length.
    """
    return _all_pairs(*_checked(queries, database))  # type: ignore[no-any-return]


@inlined
def _bits(fingerprints: Any) -> Any:
    counts = np.empty(len(fingerprints), np.int64)
    for i in range(len(fingerprints)):
        total = np.uint64(0)
        for w in range(fingerprints.shape[1]):
            total += _count(fingerprints[i, w])
        counts[i] = np.int64(total)
    return counts


@inlined
def _similarity(one: Any, bits: Any, other: Any, other_bits: Any) -> Any:
    common = np.uint64(0)
    for w in range(one.size):
        common += _count(one[w] & other[w])
    shared = np.int64(common)
    union = bits + other_bits - shared
    return shared / union if union > 0 else 0.0


@kernel
def _all_pairs(queries: Any, database: Any) -> Any:
    result = np.empty((len(queries), len(database)))
    counts = _bits(database)
    own = _bits(queries)
    for i in range(len(queries)):
        for j in range(len(database)):
            result[i, j] = _similarity(queries[i], own[i], database[j], counts[j])
    return result


def nearest(
    queries: ArrayLike,
    database: ArrayLike,
    query_groups: ArrayLike | None = None,
    database_groups: ArrayLike | None = None,
) -> Nearest:
    """Find the most similar fingerprint of a database for each query.

    The similarity of fingerprints with a and b bits is at most min(a, b) / max(a, b) (Swamidass and Baldi, Journal of
    Chemical Information and Modeling 47, 2007): candidates are gone through by their number of bits, from the query's
    own in both directions, until this bound is below the best that was found.

    Parameters
    ----------
    queries, database
        `(Q, W)` and `(D, W)` uint64, packed fingerprints.
    query_groups, database_groups
        `(Q,)` and `(D,)` whole numbers: a query's neighbour must be of another group. None: any neighbour will do.

    Returns
    -------
    Nearest

    Raises
    ------
    ValueError
        If fingerprints are not packed or not of one length, or groups do not fit them.
    """
    asked, known = _checked(queries, database)
    if (query_groups is None) != (database_groups is None):
        raise ValueError("groups must be given for both or for neither")
    if query_groups is None or database_groups is None:
        query_groups, database_groups = np.zeros(len(asked), np.int64), np.ones(len(known), np.int64)
    own, theirs = np.ascontiguousarray(query_groups, np.int64), np.ascontiguousarray(database_groups, np.int64)
    if own.shape != (len(asked),) or theirs.shape != (len(known),):
        raise ValueError("groups must have a number for each fingerprint")
    return Nearest(*_nearest(asked, known, own, theirs))


@kernel
def _nearest(queries: Any, database: Any, query_groups: Any, database_groups: Any) -> Any:
    counts = _bits(database)
    order = np.argsort(counts, kind="mergesort")
    own = _bits(queries)
    n = len(database)
    sorted_counts = np.empty(n, np.int64)
    groups = np.empty(n, np.int64)
    candidates = np.empty_like(database)  # in the order in which they are gone through
    for place in range(n):
        sorted_counts[place] = counts[order[place]]
        groups[place] = database_groups[order[place]]
        candidates[place] = database[order[place]]
    index = np.full(len(queries), -1, np.int64)
    similarity = np.full(len(queries), np.nan)
    for i in range(len(queries)):
        bits = own[i]
        above = np.searchsorted(sorted_counts, bits)
        below = above - 1
        best = -1.0
        found = np.int64(-1)
        while True:
            bound_above = -1.0
            bound_below = -1.0
            if above < n:
                bound_above = bits / sorted_counts[above] if sorted_counts[above] > 0 else 0.0
            if below >= 0:
                bound_below = sorted_counts[below] / bits
            if bound_above >= bound_below:
                place = above
                bound = bound_above
                above += 1
            else:
                place = below
                bound = bound_below
                below -= 1
            if bound < 0.0 or bound < best:
                break
            if groups[place] == query_groups[i]:
                continue
            value = _similarity(queries[i], bits, candidates[place], sorted_counts[place])
            if value > best or (value == best and order[place] < found):
                best = value
                found = order[place]
        index[i] = found
        if found >= 0:
            similarity[i] = best
    return index, similarity
