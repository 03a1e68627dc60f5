"""Means within objects and medians of many features against their twins, SciPy, NumPy and pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer_kernels import summary
from cellinfer_kernels.reference import summary as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0])


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9), elements=VALUES))
def test_medians_equal_the_twin(values: np.ndarray) -> None:
    before = values.copy()
    np.testing.assert_array_equal(summary.medians(values), twin.medians(values).reshape(len(values)))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("cells", [1, 2, 999, 1000])
def test_medians_are_those_of_numpy_and_pandas(cells: int) -> None:
    values = np.random.default_rng(cells).normal(size=(40, cells))
    np.testing.assert_array_equal(summary.medians(values), np.median(values, axis=1))
    values[::3, ::2] = np.nan
    np.testing.assert_array_equal(summary.medians(values), pd.DataFrame(values.T).median().to_numpy())


def test_large_values_do_not_overflow() -> None:
    huge = np.finfo(np.float64).max
    assert summary.medians(np.array([[huge, huge / 2]]))[0] == huge * 0.75


def test_one_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="2-D"):
        summary.medians(np.zeros(3))


SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)


@given(
    SHAPES.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.int32, shape, elements=st.integers(0, 6)), hnp.arrays(np.float32, shape, elements=VALUES)
        )
    ),
    st.integers(0, 7),
)
def test_means_equal_the_twin(scene: tuple[np.ndarray, np.ndarray], last: int) -> None:
    labels, image = scene
    np.testing.assert_allclose(
        summary.means(labels, image, last), twin.means(labels, image, last), rtol=1e-12, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_means_are_those_of_scipy(dtype: type) -> None:
    random = np.random.default_rng(0)
    labels, image = random.integers(0, 50, (90, 80)), random.integers(0, 255, (90, 80)).astype(dtype)
    expected = ndimage.mean(image.astype(np.float64), labels, np.arange(1, 50))
    np.testing.assert_allclose(summary.means(labels, image, 49)[1:], expected, rtol=1e-13)
    assert np.isnan(summary.means(labels, image, 49)[0])


def test_means_want_an_image_of_the_labels_size() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        summary.means(np.zeros((3, 3), np.int32), np.zeros((3, 4)), 1)
