"""Percentiles and rescaling against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import normalise
from cellinfer_kernels.reference import normalise as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12)
images = st.sampled_from([np.uint8, np.uint16, np.uint32, np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes)
)
quantiles = st.lists(st.floats(0, 100), min_size=1, max_size=5)


def moderate(image):
    """Whether differences of finite pixels can be computed without overflow."""
    finite = image[np.isfinite(image)].astype(np.float64)
    return not np.any(np.abs(finite) > 1e300)


@UNHURRIED
@given(images.filter(moderate), quantiles)
def test_percentiles_are_those_of_numpy(image, q):
    result = normalise.percentiles(image, q)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, twin.percentiles(image, q), rtol=1e-13)


@UNHURRIED
@given(hnp.arrays(np.uint16, (5, 7)), quantiles)
def test_integer_percentiles_are_exact(image, q):
    np.testing.assert_array_equal(normalise.percentiles(image, q), np.percentile(image, q))


@UNHURRIED
@given(images, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_rescale_equals_twin(image, low, high):
    result = normalise.rescale(image, low, high)
    assert result.dtype == np.float32
    assert result.shape == image.shape
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(result, twin.rescale(image, low, high))


def test_ends_map_to_zero_and_one():
    image = np.array([[100, 200], [300, 500]], np.uint16)
    np.testing.assert_array_equal(normalise.rescale(image, 100, 300), np.float32([[0, 0.5], [1, 2]]))


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (np.nan, 1), (0, np.inf)])
def test_no_contrast_gives_zeros(low, high):
    assert not normalise.rescale(np.full((2, 2), 3, np.uint8), low, high).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_pixels_do_not_count(dtype):
    image = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 3]], dtype)
    np.testing.assert_array_equal(normalise.percentiles(image, [0, 50, 100]), [1, 2, 3])
    np.testing.assert_array_equal(normalise.rescale(image, 1, 3), np.float32([[0, 0, 0.5], [0, 0, 1]]))
    assert np.isnan(normalise.percentiles(np.full((2, 2), np.nan, dtype), [1, 99])).all()


def test_bool_and_strided_images_are_taken():
    image = np.eye(6, dtype=bool)[::2, ::2]
    np.testing.assert_array_equal(normalise.percentiles(image, 100), [1])
    np.testing.assert_array_equal(normalise.rescale(image, 0, 1), image.astype(np.float32))


@pytest.mark.parametrize("q", [-1, 100.5, float("nan")])
def test_impossible_percentiles_are_refused(q):
    with pytest.raises(ValueError, match=r"0\.\.100"):
        normalise.percentiles(np.zeros((2, 2)), q)


@UNHURRIED
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 1e-30, 1e30]),
    st.lists(st.floats(0, 100), min_size=1, max_size=6),
)
def test_percentiles_of_many_floats_are_those_of_numpy(seed, factor, q):
    random = np.random.default_rng(seed)
    image = (random.normal(random.choice([0, 3, 1000]), 1, (260, 300)) * factor).astype(np.float32)
    image[random.random(image.shape) < 0.3] = random.choice([0.0, -0.0, factor])
    image[random.random(image.shape) < 0.05] = random.choice([np.nan, np.inf, -np.inf])
    np.testing.assert_allclose(normalise.percentiles(image, q), twin.percentiles(image, q), rtol=1e-13)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -3e38, 1e-45])
def test_percentiles_of_a_constant_image_are_its_value(value):
    image = np.full((300, 300), value, np.float32)
    np.testing.assert_array_equal(normalise.percentiles(image, (0, 2, 99.5, 100)), np.float64(np.float32(value)))


def test_many_pixels_none_of_them_finite():
    assert np.isnan(normalise.percentiles(np.full((300, 300), np.inf, np.float32), 50)).all()
