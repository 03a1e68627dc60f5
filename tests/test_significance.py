"""Null distributions, adjusted p-values and intervals against enumeration, copairs and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling import significance
from cellinfer.profiling.significance import (
    AveragePrecisionNull,
    benjamini_hochberg,
    bootstrap_interval,
    expected_average_precision,
)
from cellinfer_kernels.ranking import all_average_precisions
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats


def test_long_lists_share_null_distributions_and_are_judged_cautiously() -> None:
    null = AveragePrecisionNull(20_000)
    lengths = np.arange(20_000, 20_064)
    scores = np.full(64, 0.004)
    together = null.p_values(scores, np.full(64, 40), lengths)
    assert len(null._kept) == 4
    for place in (0, 15, 63):
        shorter = int(lengths[place]) // 16 * 16
        alone = null.p_values([0.004], [40], [shorter])
        assert together.p[place] == alone.p[0]
        true = AveragePrecisionNull(200_000, seed=9)
        values = true._draw(40, int(lengths[place]))
        assert together.p[place] == pytest.approx((values >= 0.004).mean(), rel=0.08)
    exact = null.p_values([1 / 3, 1 / 3], [1, 1], [20_001, 20_002])
    np.testing.assert_allclose(exact.p, [3 / 20_001, 3 / 20_002], rtol=1e-12)
    np.testing.assert_array_equal(exact.standard_error, 0)
    dense = null.p_values([1.0, 1.0], [3000, 3000], [3000, 3001])
    np.testing.assert_allclose(dense.p, [1, 1 / 3001])


def test_p_values_by_hand() -> None:
    # One positive among four: AP 1, 1/2, 1/3, 1/4, all as likely.
    found = AveragePrecisionNull().p_values([1, 1 / 2, 1 / 3, 1 / 4, np.nan], [1] * 4 + [0], [4] * 5)
    np.testing.assert_allclose(found.p[:4], [0.25, 0.5, 0.75, 1])
    assert np.isnan(found.p[4])
    assert (found.standard_error[:4] == 0).all()


@pytest.mark.parametrize(("positives", "candidates"), [(2, 30), (4, 22)])
def test_drawn_p_values_agree_with_exact_ones(positives: int, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.quantile(all_average_precisions(positives, candidates), [0.1, 0.5, 0.9, 0.99])
    counts = [positives] * 4, [candidates] * 4
    exact = AveragePrecisionNull().p_values(scores, *counts)
    monkeypatch.setattr(significance, "EXACT_LISTS", 0)
    drawn = AveragePrecisionNull(50_000, seed=1).p_values(scores, *counts)
    assert (exact.standard_error == 0).all() and (drawn.standard_error > 0).all()
    assert (np.abs(drawn.p - exact.p) < 4 * drawn.standard_error).all()


def test_p_values_agree_with_those_of_copairs(tmp_path: object) -> None:
    compute = pytest.importorskip("copairs.compute")
    positives, candidates, draws = 12, 300, 20_000
    scores = np.array([0.05, 0.08, 0.12, 0.2])
    theirs = np.sort(compute.random_ap(draws, positives, candidates, seed=0))
    expected = 1 - np.searchsorted(theirs, scores) / draws
    ours = AveragePrecisionNull(200_000).p_values(scores, [positives] * 4, [candidates] * 4).p
    assert np.abs(ours - expected).max() < 4 * 0.5 / math.sqrt(draws)


def test_p_values_of_random_lists_are_uniform() -> None:
    generator = np.random.default_rng(5)
    lists = np.array([sorted(generator.choice(200, 8, replace=False) + 1) for _ in range(3000)])
    scores = (np.arange(1, 9) / lists).mean(axis=1)
    p = AveragePrecisionNull(20_000).p_values(scores, np.full(3000, 8), np.full(3000, 200)).p
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_what_is_drawn_does_not_depend_on_what_was_drawn_before() -> None:
    one, other = AveragePrecisionNull(500, seed=3), AveragePrecisionNull(500, seed=3)
    other.p_values([0.1], [9], [400])
    assert one.p_values([0.1], [10], [500]).p == other.p_values([0.1], [10], [500]).p
    assert one.p_values([0.06], [10], [500]).p != AveragePrecisionNull(500, seed=4).p_values([0.06], [10], [500]).p


def test_mean_of_alike_queries_has_the_exact_null() -> None:
    null = AveragePrecisionNull()
    p, error = null.mean_p_value([1.0, 1.0, 1.0], [3] * 3, [20] * 3)
    assert (p, error) == (pytest.approx(1 / math.comb(20, 3)), 0)


def test_independent_queries_make_the_null_narrower() -> None:
    null = AveragePrecisionNull(20_000)
    scores, counts = [0.4] * 4, ([3] * 4, [60] * 4)
    shared, independent = (null.mean_p_value(scores, *counts, dependence=how)[0] for how in ("shared", "independent"))
    assert independent < shared / 5


def test_a_group_of_unlike_queries_mixes_their_nulls() -> None:
    null = AveragePrecisionNull(40_000)
    p, error = null.mean_p_value([0.5, 0.5, np.nan], [1, 2, 0], [4, 5, 9])
    draws = np.random.default_rng(0)
    one, two = (draws.choice(all_average_precisions(*kind), 200_000) for kind in ((1, 4), (2, 5)))
    assert p == pytest.approx(np.mean((one + two) / 2 >= 0.5 - 1e-9), abs=4 * error + 0.005)
    assert all(math.isnan(value) for value in null.mean_p_value([np.nan], [0], [9]))


@pytest.mark.parametrize(("positives", "candidates"), [(1, 1), (1, 9), (2, 2), (3, 12)])
def test_expected_average_precision_is_the_mean_of_all_lists(positives: int, candidates: int) -> None:
    exact = all_average_precisions(positives, candidates).mean()
    assert expected_average_precision(positives, candidates) == pytest.approx(exact, rel=1e-12)
    assert np.isnan(expected_average_precision(0, candidates))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)


def test_missing_p_values_are_no_tests() -> None:
    np.testing.assert_allclose(benjamini_hochberg([0.02, np.nan, 0.04]), [0.04, np.nan, 0.04])
    assert len(benjamini_hochberg([])) == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg([1.2])


def test_bootstrap_intervals() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(values)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
    wide = bootstrap_interval(np.repeat(values[:20], 10), np.repeat(np.arange(20), 10))
    narrow = bootstrap_interval(np.repeat(values[:20], 10))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert all(math.isnan(end) for end in bootstrap_interval([1.0, 2.0], ["a", "a"]))


def test_no_draws_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        AveragePrecisionNull(0)
