"""Graphs of molecules as tables of places: which bonds run into which, and which rows of a table are the same.

Bonds are directed and come in pairs: bond i and bond i ^ 1 are the same bond, run through in opposite directions.
Tables are padded to one width with the number of bonds, which is the place of a row of zeros behind the last one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel


class Distinct(NamedTuple):
    """The different rows of a table, in the order in which they first appear."""

    first: NDArray[np.int64]
    """`(D,)` where each appears first."""
    place: NDArray[np.int64]
    """`(n,)` which of them each row of the table is."""


def bonds_into(targets: ArrayLike, atoms: int) -> NDArray[np.int64]:
    """List the bonds that run into each atom.

    Parameters
    ----------
    targets
        `(B,)` the atom that each directed bond runs into.
    atoms
        How many atoms there are.

    Returns
    -------
    ndarray of shape (atoms, W), int64
        Bonds in ascending order, padded with B; W is what the atom with most of them has, at least 1.

    Raises
    ------
    ValueError
        If a bond runs into an atom that is not there.
    """
    given = np.ascontiguousarray(targets, np.int64)
    if given.ndim != 1 or atoms < 0 or (given.size and (given.min() < 0 or given.max() >= atoms)):
        raise ValueError(f"bonds must run into atoms 0 to {atoms - 1}")
    width = max(1, int(np.bincount(given).max(initial=0)))
    return _bonds_into(given, atoms, width)  # type: ignore[no-any-return]


@kernel
def _bonds_into(targets: Any, atoms: Any, width: Any) -> Any:
    table = np.full((atoms, width), len(targets), np.int64)
    count = np.zeros(atoms, np.int64)
    for bond in range(len(targets)):
        atom = targets[bond]
        table[atom, count[atom]] = bond
        count[atom] += 1
    return table


def bonds_before(sources: ArrayLike, into: ArrayLike) -> NDArray[np.int64]:
    """List the bonds that run into the atom where each bond starts, except for its own reverse.

    Parameters
    ----------
    sources
        `(B,)` the atom where each directed bond starts.
    into
        `(atoms, W)` as `bonds_into` gives it.

    Returns
    -------
    ndarray of shape (B, max(1, W - 1)), int64
        In ascending order, padded with B.

    Raises
    ------
    ValueError
        If the bonds do not come in pairs, or start at an atom that is not there.
    """
    starts, table = np.ascontiguousarray(sources, np.int64), np.ascontiguousarray(into, np.int64)
    if starts.ndim != 1 or table.ndim != 2 or len(starts) % 2:
        raise ValueError("directed bonds come in pairs, and atoms have a row each")
    if starts.size and (starts.min() < 0 or starts.max() >= len(table)):
        raise ValueError(f"bonds must start at atoms 0 to {len(table) - 1}")
    return _bonds_before(starts, table)  # type: ignore[no-any-return]


@kernel
def _bonds_before(sources: Any, into: Any) -> Any:
    bonds = len(sources)
    width = into.shape[1]
    table = np.full((bonds, max(1, width - 1)), bonds, np.int64)
    for bond in range(bonds):
        count = 0
        for column in range(width):
            other = into[sources[bond], column]
            if other != bonds and other != bond ^ 1:
                table[bond, count] = other
                count += 1
    return table


def distinct_rows(table: ArrayLike) -> Distinct:
    """Find the rows of a table that are the same.

    Parameters
    ----------
    table
        `(n, W)` whole numbers.

    Returns
    -------
    Distinct

    Raises
    ------
    ValueError
        If the table has not two dimensions.
    """
    rows = np.ascontiguousarray(table, np.int64)
    if rows.ndim != 2:
        raise ValueError("a table has two dimensions")
    return Distinct(*_distinct_rows(rows))


@inlined
def _hash(row: Any) -> Any:
    """Mix the numbers of a row (the finaliser of SplitMix64)."""
    mixed = np.uint64(0x9E3779B97F4A7C15)
    for value in row:
        mixed ^= np.uint64(value)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


@inlined
def _same(one: Any, other: Any) -> Any:
    for column in range(len(one)):
        if one[column] != other[column]:
            return False
    return True


@kernel
def _distinct_rows(rows: Any) -> Any:
    n = len(rows)
    slots = 16
    while slots < 2 * n:
        slots *= 2
    mask = np.uint64(slots - 1)
    held = np.full(slots, -1, np.int64)  # which distinct row sits in a slot
    first = np.empty(n, np.int64)
    place = np.empty(n, np.int64)
    count = 0
    for i in range(n):
        slot = np.int64(_hash(rows[i]) & mask)
        while held[slot] >= 0 and not _same(rows[first[held[slot]]], rows[i]):
            slot = (slot + 1) & (slots - 1)
        if held[slot] < 0:
            held[slot] = count
            first[count] = i
            count += 1
        place[i] = held[slot]
    return first[:count].copy(), place
