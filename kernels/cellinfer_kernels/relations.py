"""Which object of one label image each object of another belongs to: parents and children."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.matching import overlaps

__all__ = ["relate"]


def relate(parents: NDArray[Any], children: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the parent of every child: the object that shares most pixels with it.

    CellProfiler's RelateObjects (`Objects.relate_children`). Background is no candidate: a child of which a single
    pixel lies on a parent has that parent.

    Parameters
    ----------
    parents, children
        (H, W) integer label images of one shape, 0 = background; ids may have gaps.

    Returns
    -------
    parent_of_child : ndarray of int64
        (n_children,) id of the parent of each child, children in ascending order of their ids; 0 if it has none. Of
        several parents that share equally many pixels the one of the lowest id.
    children_per_parent : ndarray of int64
        (n_parents,) number of children of each parent, parents in ascending order of their ids.

    Raises
    ------
    ValueError
        If shapes differ, an image is not a 2-D integer image, or an id is negative or above 2**31 - 1.
    """
    shared = overlaps(children, parents)
    # Best pair of every child first; the pairs come sorted by parent, and a stable sort keeps that among equals.
    order = np.lexsort((-shared.counts, shared.a_labels))
    related, first = np.unique(shared.a_labels[order], return_index=True)
    best = shared.b_labels[order][first]
    parent_of_child = np.zeros(shared.a_ids.size, np.int64)
    parent_of_child[np.searchsorted(shared.a_ids, related)] = best
    places = np.searchsorted(shared.b_ids, best)
    return parent_of_child, np.bincount(places, minlength=shared.b_ids.size).astype(np.int64)
