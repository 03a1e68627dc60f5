"""Things into groups of given sizes at the least total cost: a transportation problem with few groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel


def assign(costs: ArrayLike, capacities: ArrayLike) -> NDArray[np.int64]:
    """Put each thing into one group so that no group has too many and the sum of costs is the least there is.

    Successive shortest paths (Ford and Fulkerson; Ahuja, Magnanti and Orlin, Network Flows, 1993) on a graph whose
    nodes are groups: everything starts in its cheapest group; then, as long as a group is too full, one thing is handed
    on along the cheapest way from such a group to one with room. Each step needs time in proportion to the number of
    things, and there are as many steps as things too many at the start.

    Parameters
    ----------
    costs
        `(n, k)` finite.
    capacities
        `(k,)` whole numbers, not negative: the most that each group takes; together at least n.

    Returns
    -------
    ndarray of shape (n,), int64
        Group of each thing. Among equally good answers always the same one.

    Raises
    ------
    ValueError
        If a cost is not finite, or capacities do not fit.
    """
    prices = np.ascontiguousarray(costs, np.float64)
    room = np.ascontiguousarray(capacities, np.int64)
    if prices.ndim != 2 or room.shape != prices.shape[1:]:
        raise ValueError(f"costs of shape {prices.shape} and capacities of shape {room.shape} do not fit")
    if not np.isfinite(prices).all():
        raise ValueError("costs must be finite")
    if (room < 0).any() or room.sum() < len(prices):
        raise ValueError(f"{len(prices)} things do not fit into groups of {room.tolist()}")
    if not prices.size:
        return np.zeros(len(prices), np.int64)
    return _assign(prices, room)  # type: ignore[no-any-return]


@inlined
def _cheapest_moves(costs: Any, groups: Any, source: Any, change: Any, mover: Any) -> Any:
    """Find, for a group, what to hand on to each other one, and what that changes in the sum of costs."""
    k = costs.shape[1]
    for target in range(k):
        change[source, target] = np.inf
        mover[source, target] = -1
    for i in range(len(groups)):
        if groups[i] != source:
            continue
        own = costs[i, source]
        for target in range(k):
            difference = costs[i, target] - own
            if target != source and difference < change[source, target]:
                change[source, target] = difference
                mover[source, target] = i


@kernel
def _assign(costs: Any, capacities: Any) -> Any:
    n, k = costs.shape
    groups = np.empty(n, np.int64)
    room = capacities.copy()
    largest = 0.0
    for i in range(n):
        best = 0
        for group in range(k):
            largest = max(largest, abs(costs[i, group]))
            if costs[i, group] < costs[i, best]:
                best = group
        groups[i] = best
        room[best] -= 1
    change = np.empty((k, k))
    mover = np.empty((k, k), np.int64)
    for source in range(k):
        _cheapest_moves(costs, groups, source, change, mover)
    margin = 1e-12 * largest  # below it a detour is as good as none: rounding must not send it in circles
    length = np.empty(k)
    before = np.empty(k, np.int64)
    while True:
        full = False
        for group in range(k):
            length[group] = 0.0 if room[group] < 0 else np.inf
            before[group] = -1
            full |= room[group] < 0
        if not full:
            return groups
        for _ in range(k):  # Bellman and Ford: things that were handed on before make ways of negative length
            changed = False
            for source in range(k):
                for target in range(k):
                    if length[source] + change[source, target] < length[target] - margin:
                        length[target] = length[source] + change[source, target]
                        before[target] = source
                        changed = True
            if not changed:
                break
        last = -1
        for group in range(k):
            if room[group] > 0 and (last < 0 or length[group] < length[last]):
                last = group
        room[last] -= 1
        target = last
        while before[target] >= 0:
            source = before[target]
            groups[mover[source, target]] = target
            target = source
        room[target] += 1
        group = last
        while group >= 0:
            _cheapest_moves(costs, groups, group, change, mover)
            group = before[group]
