"""Plain NumPy twins of `cellinfer_kernels.molgraphs`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.molgraphs import Distinct


def bonds_into(targets: ArrayLike, atoms: int) -> NDArray[np.int64]:
    """See `cellinfer_kernels.molgraphs.bonds_into`."""
    given = np.asarray(targets, np.int64)
    lists = [np.flatnonzero(given == atom) for atom in range(atoms)]
    return _padded(lists, len(given), 1)


def bonds_before(sources: ArrayLike, into: ArrayLike) -> NDArray[np.int64]:
    """See `cellinfer_kernels.molgraphs.bonds_before`."""
    starts, table = np.asarray(sources, np.int64), np.asarray(into, np.int64)
    bonds = len(starts)
    lists = [
        np.array([other for other in table[atom] if other not in (bonds, bond ^ 1)], np.int64)
        for bond, atom in enumerate(starts)
    ]
    return _padded(lists, bonds, max(1, table.shape[1] - 1))


def distinct_rows(table: ArrayLike) -> Distinct:
    """See `cellinfer_kernels.molgraphs.distinct_rows`."""
    rows = np.asarray(table, np.int64)
    if len(rows) == 0 or rows.shape[1] == 0:
        return Distinct(np.arange(min(1, len(rows))), np.zeros(len(rows), np.int64))
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return Distinct(np.sort(first), rank[inverse.reshape(-1)])


def _padded(lists: list[NDArray[np.int64]], padding: int, least: int) -> NDArray[np.int64]:
    width = max([least, *(len(each) for each in lists)])
    table = np.full((len(lists), width), padding, np.int64)
    for row, each in zip(table, lists, strict=True):
        row[: len(each)] = each
    return table
