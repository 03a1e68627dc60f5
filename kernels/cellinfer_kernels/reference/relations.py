"""NumPy twin of `cellinfer_kernels.relations`: one child at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def relate(parents: NDArray[Any], children: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Look at the parents' ids under each child."""
    found = [_parent(parents[children == child]) for child in np.unique(children[children > 0])]
    parent_of_child = np.array(found, np.int64)
    counts = [np.count_nonzero(parent_of_child == parent) for parent in np.unique(parents[parents > 0])]
    return parent_of_child, np.array(counts, np.int64)


def _parent(below: NDArray[Any]) -> int:
    ids, counts = np.unique(below[below > 0], return_counts=True)
    return int(ids[np.argmax(counts)]) if ids.size else 0
