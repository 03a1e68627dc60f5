"""Plain twin of `cellinfer_kernels.assignment`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def assign(costs: ArrayLike, capacities: ArrayLike) -> NDArray[np.int64]:
    """Fill groups in order, with free things to fill them up; then pass things round in circles while that saves."""
    prices, room = np.asarray(costs, np.float64), np.asarray(capacities)
    n, k = prices.shape
    padded = np.vstack([prices, np.zeros((int(room.sum()) - n, k))])
    groups = np.repeat(np.arange(k), room)
    while (circle := _saving_circle(padded, groups)) is not None:
        for thing, group in circle:
            groups[thing] = group
    return groups[:n]


def _saving_circle(costs: NDArray[np.float64], groups: NDArray[np.int64]) -> list[tuple[int, int]] | None:
    """Find moves round a circle of groups that make the sum smaller (Bellman and Ford), or none."""
    k = costs.shape[1]
    change, mover = np.full((k, k), np.inf), np.full((k, k), -1)
    for source in range(k):
        members = np.flatnonzero(groups == source)
        for target in range(k):
            if len(members) and target != source:
                differences = costs[members, target] - costs[members, source]
                change[source, target] = differences.min()
                mover[source, target] = members[differences.argmin()]
    length, before = np.zeros(k), np.full(k, -1)
    relaxed = -1
    for _ in range(k):
        relaxed = -1
        for source in range(k):
            for target in range(k):
                if length[source] + change[source, target] < length[target] - 1e-9:
                    length[target] = length[source] + change[source, target]
                    before[target] = source
                    relaxed = target
    if relaxed < 0:
        return None
    for _ in range(k):
        relaxed = int(before[relaxed])  # far enough back to be on the circle
    moves, target = [], relaxed
    while True:
        source = int(before[target])
        moves.append((int(mover[source, target]), target))
        target = source
        if target == relaxed:
            return moves
