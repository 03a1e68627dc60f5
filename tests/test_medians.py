"""The median within a disk against its NumPy twin and scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.filters
import skimage.morphology
from cellinfer_kernels.medians import median_disk
from cellinfer_kernels.reference import medians as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)
images = st.one_of(
    hnp.arrays(np.float64, shapes, elements=st.floats(-1e300, 1e300)),
    hnp.arrays(np.uint8, shapes, elements=st.integers(0, 3)),  # ties
)


@given(images, st.integers(0, 5))
def test_kernel_is_its_twin(image: Any, radius: int) -> None:
    np.testing.assert_array_equal(median_disk(image, radius), twin.median_disk(image, radius))


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 12])
def test_it_is_that_of_scikit_image(radius: int) -> None:
    image = np.random.default_rng(0).normal(300, 40, (40, 57))
    expected = skimage.filters.median(image, skimage.morphology.disk(radius))
    np.testing.assert_array_equal(median_disk(image, radius), expected)


def test_more_ranks_than_are_counted_together() -> None:
    image = np.random.default_rng(1).permutation(90 * 110).reshape(90, 110)
    expected = skimage.filters.median(image.astype(np.float64), skimage.morphology.disk(12))
    np.testing.assert_array_equal(median_disk(image, 12), expected)


@pytest.mark.parametrize(
    ("image", "radius"),
    [(np.zeros((0, 3)), 1), (np.zeros(3), 1), (np.array([[np.nan]]), 1), (np.zeros((3, 3)), -1)],
)
def test_what_makes_no_sense_is_refused(image: Any, radius: int) -> None:
    with pytest.raises(ValueError, match=r"needed|negative"):
        median_disk(image, radius)
