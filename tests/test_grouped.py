"""Statistics by group against their twins, pandas and SciPy, in every layout a table can have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer_kernels import grouped
from cellinfer_kernels.reference import grouped as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0])
STATISTICS = ["means", "medians", "median_absolute_deviations", "standard_deviations", "counts"]
LAYOUTS = {
    "by feature": np.ascontiguousarray,
    "by cell": np.asfortranarray,
    "a part of wider rows": lambda values: np.asfortranarray(np.vstack([values, values]))[: len(values)],
    "every other cell": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "backwards": lambda values: np.ascontiguousarray(values[:, ::-1])[:, ::-1],
}
TABLES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=VALUES),
        hnp.arrays(np.int64, shape[1], elements=st.integers(-1, 4)),
        st.booleans(),
    )
)


@given(TABLES, st.sampled_from(sorted(LAYOUTS)), st.sampled_from(STATISTICS))
def test_equal_the_twins(case: tuple[np.ndarray, np.ndarray, bool], layout: str, statistic: str) -> None:
    values, codes, in_order = case
    codes = np.sort(codes) if in_order else codes
    groups, expected = grouped.arrange(codes, 5), twin.arrange(codes, 5)
    for own, other in zip(groups, expected, strict=True):
        np.testing.assert_array_equal(own, other)
    table = LAYOUTS[layout](values)
    before = table.copy()
    found = getattr(grouped, statistic)(table, groups)
    scale = np.abs(values[np.isfinite(values)]).max(initial=1.0)
    np.testing.assert_allclose(found, getattr(twin, statistic)(values, expected), rtol=1e-12, atol=1e-13 * scale)
    np.testing.assert_array_equal(table, before)


@pytest.mark.parametrize("sorted_cells", [True, False])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_layout_and_company_do_not_change_a_bit(statistic: str, sorted_cells: bool) -> None:
    random = np.random.default_rng(0)
    values = random.lognormal(size=(600, 1500))
    values[:, ::50] = np.nan
    codes = random.integers(0, 4, 1500)
    groups = grouped.arrange(np.sort(codes) if sorted_cells else codes, 4)
    function = getattr(grouped, statistic)
    expected = function(values, groups)
    for layout in LAYOUTS.values():
        np.testing.assert_array_equal(function(layout(values), groups), expected)
    np.testing.assert_array_equal(function(np.asfortranarray(values)[7:9], groups), expected[7:9])
    part = groups._replace(starts=groups.starts[1:4])
    np.testing.assert_array_equal(function(values, part), expected[:, 1:3])
    np.testing.assert_array_equal(function(np.asfortranarray(values), part), expected[:, 1:3])


@pytest.mark.parametrize("draw", ["normal", "lognormal", "few values", "constant", "two peaks", "sorted"])
@pytest.mark.parametrize("cells", [1, 2, 199, 200, 201, 202, 5000, 20_001])
def test_medians_are_those_of_numpy_however_values_are_spread(cells: int, draw: str) -> None:
    random = np.random.default_rng(cells)
    values = {
        "normal": random.normal(size=(9, cells)),
        "lognormal": random.lognormal(0, 3, (9, cells)),
        "few values": random.integers(0, 3, (9, cells)).astype(float),
        "constant": np.full((9, cells), 0.1),
        "two peaks": random.normal(size=(9, cells)) + 1e6 * (random.random((9, cells)) < 0.5),
        "sorted": np.sort(random.normal(size=(9, cells))),
    }[draw]
    groups = grouped.arrange(np.zeros(cells, np.int64), 1)
    np.testing.assert_array_equal(grouped.medians(values, groups)[:, 0], np.median(values, axis=1))
    found = grouped.median_absolute_deviations(values, groups)[:, 0]
    np.testing.assert_array_equal(found, stats.median_abs_deviation(values, axis=1))


def test_are_those_of_pandas() -> None:
    random = np.random.default_rng(3)
    values, codes = random.normal(5, 2, (30, 4000)), random.integers(0, 7, 4000)
    values[random.random(values.shape) < 0.05] = np.nan
    groups, frames = grouped.arrange(codes, 7), pd.DataFrame(values.T).groupby(codes)
    np.testing.assert_array_equal(grouped.medians(values, groups), frames.median().T)
    np.testing.assert_allclose(grouped.means(values, groups), frames.mean().T, rtol=1e-13)
    np.testing.assert_allclose(grouped.standard_deviations(values, groups, ddof=1), frames.std().T, rtol=1e-12)
    np.testing.assert_array_equal(grouped.counts(values, groups), frames.count().T)


def test_sums_do_not_lose_what_is_small() -> None:
    values = np.tile([1e16, 1.0, -1e16, 1.0], 400)[None]
    for layout in (np.ascontiguousarray, np.asfortranarray):
        assert grouped.means(layout(values.repeat(2, axis=0)), grouped.arrange(np.zeros(1600, int), 1))[0, 0] == 0.5


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_large_values_do_not_overflow(layout: object) -> None:
    huge = 0.9 * np.finfo(np.float64).max
    values = layout(np.array([[huge, huge, huge, np.inf], [1.0, 2, 3, 4]]))  # type: ignore[operator]
    groups = grouped.arrange(np.zeros(4, np.int64), 1)
    assert grouped.means(values, groups)[0, 0] == pytest.approx(huge)
    assert grouped.medians(values, groups)[0, 0] == huge


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_])
def test_other_numbers_are_summed_as_float64(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2, (3, 100)).astype(dtype)
    groups = grouped.arrange(np.arange(100) % 3, 3)
    for name in STATISTICS:
        np.testing.assert_array_equal(
            getattr(grouped, name)(values, groups), getattr(grouped, name)(values.astype(float), groups)
        )


def test_misuse_is_refused() -> None:
    groups = grouped.arrange(np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="2-D"):
        grouped.means(np.zeros(2), groups)
    with pytest.raises(ValueError, match="the array has 1"):
        grouped.medians(np.zeros((1, 1)), groups)
    with pytest.raises(ValueError, match="not below"):
        grouped.arrange(np.array([2]), 2)
    with pytest.raises(ValueError, match="integers"):
        grouped.arrange(np.array([0.5]), 1)
