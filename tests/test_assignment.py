"""Groups of given sizes against their twin and SciPy's assignment."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels.assignment import assign
from cellinfer_kernels.reference.assignment import assign as twin
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Costs, some with many ties, and capacities with and without room to spare."""
    n, k = draw(st.integers(1, 25)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    costs = random.normal(size=(n, k)) * 10.0 ** draw(st.integers(-3, 4))
    if draw(st.booleans()):
        costs = random.integers(-2, 3, (n, k)).astype(float)
    capacities = np.bincount(random.integers(0, k, n + draw(st.integers(0, 5))), minlength=k)
    return costs, capacities


def total(costs: np.ndarray, groups: np.ndarray) -> float:
    return float(costs[np.arange(len(groups)), groups].sum())


@given(problems())
def test_the_sum_of_costs_is_the_least(problem: tuple[np.ndarray, np.ndarray]) -> None:
    costs, capacities = problem
    groups = assign(costs, capacities)
    assert (np.bincount(groups, minlength=len(capacities)) <= capacities).all()
    places = np.repeat(np.arange(len(capacities)), capacities)
    rows, chosen = linear_sum_assignment(costs[:, places])
    best = costs[rows, places[chosen]].sum()
    scale = np.abs(costs).max() + 1e-30
    assert total(costs, groups) == pytest.approx(best, abs=1e-9 * scale * len(costs))
    assert total(costs, twin(costs, capacities)) == pytest.approx(best, abs=1e-6 * max(scale, 1))


def test_many_things_in_few_groups() -> None:
    random = np.random.default_rng(0)
    costs = random.normal([0, 0, 1, 2, 4], size=(2000, 5))
    groups = assign(costs, np.full(5, 400))
    assert np.bincount(groups).tolist() == [400] * 5
    rows, chosen = linear_sum_assignment(np.repeat(costs, 400, axis=1))
    assert total(costs, groups) == pytest.approx(costs[rows, chosen // 400].sum(), rel=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into groups"):
        assign(np.zeros((3, 2)), [1, 1])
    with pytest.raises(ValueError, match="finite"):
        assign([[np.nan]], [1])
    with pytest.raises(ValueError, match="do not fit"):
        assign(np.zeros((3, 2)), [3])
    assert assign(np.zeros((0, 2)), [0, 0]).shape == (0,)
