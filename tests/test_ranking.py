"""Ranks of positives and average precision against their twins, scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cellinfer_kernels import ranking
from cellinfer_kernels.reference import ranking as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.metrics import average_precision_score, precision_recall_curve

SHAPES = st.tuples(st.integers(0, 6), st.integers(0, 60))  # few positives and many are counted in two ways


@st.composite
def blocks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Similarities with many ties, and which candidates are positive, negative or left out."""
    shape = draw(SHAPES)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    few = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, np.inf, -np.inf])
    values = draw(hnp.arrays(dtype, shape, elements=few | st.floats(-1, 1, width=32)))
    return values, draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 1)))


@given(blocks(), st.sampled_from([0.0, 0.25, 1e-6]))
def test_ranks_equal_the_twin(block: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    ours, expected = ranking.positive_ranks(*block, tolerance), twin.positive_ranks(*block, tolerance)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", ["even", "skewed", "ties", "infinite", "one value"])
def test_ranks_among_many_equal_the_twin(spread: str, dtype: type) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(6, 3000))
    if spread == "skewed":  # nearly all in one cell of the grid
        values = np.exp(12 * values)
    elif spread == "ties":
        values = values.round(1)
    elif spread == "infinite":
        values[:, ::50] = np.where(random.random((6, 60)) < 0.5, np.inf, -np.inf)
    elif spread == "one value":
        values[:] = 0.5
    kinds = random.choice([-1, 0, 1], (6, 3000), p=[0.8, 0.05, 0.15]).astype(np.int8)
    for tolerance in (0.0, 1e-12, 0.1):
        ours, expected = (module.positive_ranks(values.astype(dtype), kinds, tolerance) for module in (ranking, twin))
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@given(blocks(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(block: tuple[np.ndarray, np.ndarray], random: object) -> None:
    order = list(range(block[0].shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain, shuffled = ranking.positive_ranks(*block), ranking.positive_ranks(block[0][:, order], block[1][:, order])
    np.testing.assert_array_equal(plain.ranks, shuffled.ranks)
    for row, (one, other) in enumerate(zip(plain.nearest, shuffled.nearest, strict=True)):
        if one >= 0:
            assert block[1][row, one] == block[1][row, order[other]]


RANKS = st.lists(st.sets(st.integers(1, 40), max_size=12).map(sorted), max_size=6)


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of several queries one after the other."""
    starts = np.cumsum([0, *map(len, lists)])
    return np.array([rank for one in lists for rank in one], np.int32), starts


@given(RANKS)
def test_precisions_equal_the_twin(lists: list[list[int]]) -> None:
    ranks, starts = flat(lists)
    for one, other in zip(
        ranking.average_precisions(ranks, starts), twin.average_precisions(ranks, starts), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    recalls = np.linspace(0, 1, 11)
    np.testing.assert_allclose(
        ranking.interpolated_precisions(ranks, starts, recalls), twin.interpolated_precisions(ranks, starts, recalls)
    )
    limits = np.tile([0, 1, 5, 39, 40], (len(lists), 1))
    np.testing.assert_array_equal(ranking.found_within(ranks, starts, limits), twin.found_within(ranks, starts, limits))


@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(0, 1, exclude_max=True)), st.integers(4, 90))
def test_random_lists_equal_the_twin(uniforms: np.ndarray, candidates: int) -> None:
    ours = ranking.random_average_precisions(uniforms, candidates)
    np.testing.assert_allclose(ours, twin.random_average_precisions(uniforms, candidates), rtol=1e-12)


@pytest.mark.parametrize(("positives", "candidates"), [(1, 1), (1, 7), (3, 3), (3, 9), (5, 12)])
def test_all_lists_equal_the_twin(positives: int, candidates: int) -> None:
    ours = ranking.all_average_precisions(positives, candidates)
    assert len(ours) == math.comb(candidates, positives)
    np.testing.assert_allclose(ours, twin.all_average_precisions(positives, candidates), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_precision_is_that_of_scikit_learn(dtype: type) -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=(30, 200)).astype(dtype)
    relevance = np.where(random.random(values.shape) < 0.1, 1, -1).astype(np.int8)
    found = ranking.positive_ranks(values, relevance)
    ours = ranking.average_precisions(found.ranks, found.starts)
    expected = [average_precision_score(kinds > 0, row) for kinds, row in zip(relevance, values, strict=True)]
    np.testing.assert_allclose(ours.average, expected, rtol=1e-12)
    recalls = np.linspace(0, 1, 21)
    curves = ranking.interpolated_precisions(found.ranks, found.starts, recalls)
    for kinds, row, curve in zip(relevance, values, curves, strict=True):
        precision, recall, _ = precision_recall_curve(kinds > 0, row)
        precision = precision[:-1]  # the last one is made up, at recall 0
        np.testing.assert_allclose(curve, [precision[recall[:-1] >= level - 1e-9].max() for level in recalls])


def test_what_is_tied_counts_against_the_query() -> None:
    relevance = np.array([[1, -1, -1, 1]], np.int8)
    assert ranking.positive_ranks(np.zeros((1, 4)), relevance).ranks.tolist() == [3, 4]
    nearly = np.array([[0.5, 0.5 - 1e-9, 0.1, 0.9]])
    assert ranking.positive_ranks(nearly, relevance).ranks.tolist() == [1, 2]
    assert ranking.positive_ranks(nearly, relevance, 1e-6).ranks.tolist() == [1, 3]


def test_interpolated_precision_by_hand() -> None:
    ranks, starts = np.array([2, 3, 10]), np.array([0, 3])
    ours = ranking.average_precisions(ranks, starts)
    assert ours.average[0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 10) / 3)
    assert ours.interpolated[0] == pytest.approx((2 / 3 + 2 / 3 + 3 / 10) / 3)
    np.testing.assert_allclose(
        ranking.interpolated_precisions(ranks, starts, [0, 1 / 3, 2 / 3, 0.67, 1])[0], [2 / 3, 2 / 3, 2 / 3, 0.3, 0.3]
    )


def test_random_lists_follow_the_exact_distribution() -> None:
    exact = ranking.all_average_precisions(3, 20)
    for candidates, positives in ((20, 3), (60, 3)):  # looked at rank by rank, and sorted
        exact = ranking.all_average_precisions(positives, candidates)
        drawn = ranking.random_average_precisions(np.random.default_rng(0).random((20_000, positives)), candidates)
        assert stats.ks_2samp(drawn, exact).statistic < 0.02
        assert drawn.mean() == pytest.approx(exact.mean(), abs=0.005)


def test_a_query_without_positives_or_candidates_has_no_precision() -> None:
    found = ranking.positive_ranks(np.ones((2, 2)), np.array([[-1, 0], [0, 0]], np.int8))
    assert np.isnan(ranking.average_precisions(found.ranks, found.starts).average).all()
    assert found.candidates.tolist() == [1, 0] and found.nearest.tolist() == [0, -1]
    assert np.isnan(ranking.interpolated_precisions(found.ranks, found.starts, [0.5])).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ranking.positive_ranks(np.ones((1, 2)), np.ones((2, 1), np.int8)), "one shape"),
        (lambda: ranking.positive_ranks(np.full((1, 2), np.nan), np.ones((1, 2), np.int8)), "NaN"),
        (lambda: ranking.positive_ranks(np.ones((1, 2)), np.ones((1, 2), np.int8), -1.0), "negative"),
        (lambda: ranking.average_precisions([1, 2], [0, 1]), "lead from 0"),
        (lambda: ranking.average_precisions([1, 2], [0, 2, 1, 2]), "decrease"),
        (lambda: ranking.interpolated_precisions([1], [0, 1], [0.5, 0.1]), "ascend"),
        (lambda: ranking.found_within([1], [0, 1], [[2, 1]]), "ascending"),
        (lambda: ranking.random_average_precisions(np.zeros((2, 3)), 2), "do not fit"),
        (lambda: ranking.random_average_precisions(np.ones((2, 3)), 5), r"\[0, 1\)"),
        (lambda: ranking.all_average_precisions(0, 5), "do not fit"),
        (lambda: ranking.all_average_precisions(20, 60), "too many"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]


def test_nan_of_a_candidate_left_out_is_harmless() -> None:
    values = np.array([[np.nan, 0.3, 0.2]])
    assert ranking.positive_ranks(values, np.array([[0, 1, -1]], np.int8)).ranks.tolist() == [1]
