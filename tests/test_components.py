"""Label-image kernels against their NumPy twins, scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import components, distance
from cellinfer_kernels.reference import components as twin
from cellinfer_kernels.reference import distance as distance_twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import measure, segmentation

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)
masks = hnp.arrays(np.bool_, shapes)
# Gaps, an id above the number of pixels, and enough zeros for background.
label_images = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 1, 2, 5, 4000]))
LABEL_FUNCTIONS = ["relabel", "border_ids", "clear_border", "fill_holes", "boundaries"]


@UNHURRIED
@given(masks, st.sampled_from([1, 2]))
def test_components_are_numbered_as_in_twin_and_skimage(mask, connectivity):
    labels, n = components.label(mask, connectivity)
    expected, expected_n = twin.label(mask, connectivity)
    assert labels.dtype == np.int32
    assert n == expected_n
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(labels, measure.label(mask, connectivity=connectivity))


@UNHURRIED
@given(label_images)
def test_label_functions_agree_with_their_twins(image):
    before = image.copy()
    for name in LABEL_FUNCTIONS:
        result = getattr(components, name)(image)
        expected = getattr(twin, name)(image)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected, err_msg=name)
    for name in ("areas", "compact"):
        for result, expected in zip(getattr(components, name)(image), getattr(twin, name)(image), strict=True):
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected, err_msg=name)
    np.testing.assert_array_equal(image, before)


@UNHURRIED
@given(label_images, st.integers(0, 8))
def test_small_objects_go_and_the_others_keep_their_ids(image, min_area):
    result = components.remove_small(image, min_area)
    np.testing.assert_array_equal(result, twin.remove_small(image, min_area))
    assert np.all(components.areas(result)[1] >= min_area)
    np.testing.assert_array_equal(components.remove_small(image, min_area, renumber=True), components.relabel(result))
    np.testing.assert_array_equal(twin.remove_small(image, min_area, renumber=True), components.relabel(result))


@UNHURRIED
@given(label_images)
def test_independent_libraries_agree(image):
    np.testing.assert_array_equal(
        components.boundaries(image), segmentation.find_boundaries(image, connectivity=1, mode="inner")
    )
    single = image > 0
    # skimage clears whole components, so one object per component makes the two comparable.
    objects, _ = components.label(single, 2)
    np.testing.assert_array_equal(components.clear_border(objects), segmentation.clear_border(objects))
    np.testing.assert_array_equal(components.fill_holes(single) > 0, ndimage.binary_fill_holes(single))


@UNHURRIED
@given(masks)
def test_nearest_target_is_exact(targets):
    squared, index = distance.nearest(targets)
    for ours, expected in zip((squared, index), distance_twin.nearest(targets), strict=True):
        np.testing.assert_array_equal(ours, expected)
    if targets.any():
        np.testing.assert_allclose(np.sqrt(squared), ndimage.distance_transform_edt(~targets))
        y, x = np.divmod(index, targets.shape[1])
        grid_y, grid_x = np.indices(targets.shape)
        assert targets.ravel()[index].all()
        np.testing.assert_array_equal((grid_y - y) ** 2 + (grid_x - x) ** 2, squared)
    else:
        assert np.all(index == -1)


@UNHURRIED
@given(masks, st.sampled_from([0, 1, 1.4, 1.5, 2, 3, 4.3, 100, np.inf]))
def test_what_is_within_a_distance_is_exact(targets, distance_asked):
    near = distance.within(targets, distance_asked)
    if targets.any():
        np.testing.assert_array_equal(near, ndimage.distance_transform_edt(~targets) <= distance_asked)
        np.testing.assert_array_equal(near, distance_twin.within(targets, distance_asked))
    else:
        assert not near.any()


def test_a_distance_is_not_negative():
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="negative"):
            distance.within(np.ones((2, 2)), wrong)
    assert distance.within(np.zeros((0, 3)), 2.0).shape == (0, 3)


def test_a_gap_between_two_objects_is_no_hole():
    ring = np.zeros((5, 5), np.int32)
    ring[1:4, 1:4] = 3
    ring[2, 2] = 0
    assert components.fill_holes(ring)[2, 2] == 3
    shared = ring.copy()
    shared[1:4, 3] = 7
    np.testing.assert_array_equal(components.fill_holes(shared), shared)


@pytest.mark.parametrize("top", [2**24 + 100, 2**31 - 1])
def test_very_sparse_ids_need_no_table(top):
    image = np.array([[0, top], [7, top]], np.int64)
    sequential, ids = components.compact(image)
    np.testing.assert_array_equal(sequential, [[0, 2], [1, 2]])
    np.testing.assert_array_equal(ids, [7, top])
    np.testing.assert_array_equal(components.areas(image)[1], [1, 2])
    np.testing.assert_array_equal(components.remove_small(image, 2), [[0, top], [0, top]])
    np.testing.assert_array_equal(components.remove_small(image, 2, renumber=True), [[0, 1], [0, 1]])


def test_more_objects_than_sixteen_bits_can_number():
    dots = np.zeros((600, 600), np.bool_)
    dots[::2, ::2] = True
    labels, n = components.label(dots)
    assert n == labels.max() == 90_000


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_images_stay_empty(shape):
    empty = np.zeros(shape, np.int32)
    assert components.label(empty)[1] == 0
    assert components.areas(empty)[0].size == 0
    for name in LABEL_FUNCTIONS:
        assert getattr(components, name)(empty).size == 0


def test_views_and_other_integer_types_are_taken():
    image = np.arange(24, dtype=np.uint16).reshape(4, 6)[::2, ::-2]
    np.testing.assert_array_equal(components.relabel(image), twin.relabel(image))
    assert components.relabel(image.astype(bool)).max() == 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.zeros((2, 2, 2), np.int32), "2-D"),
        (np.zeros((2, 2)), "integers"),
        (np.full((2, 2), -1, np.int32), "negative"),
        (np.full((2, 2), 2**31, np.int64), "int32"),
    ],
)
def test_what_is_no_label_image_is_refused(labels, reason):
    with pytest.raises(ValueError, match=reason):
        components.areas(labels)


def test_unknown_connectivity_is_refused():
    with pytest.raises(ValueError, match="connectivity"):
        components.label(np.ones((2, 2)), 4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_winding_components_are_joined(seed):
    # Near the percolation threshold: long, winding components that merge late.
    mask = np.random.default_rng(seed).random((64, 67)) < 0.59
    for connectivity in (1, 2):
        np.testing.assert_array_equal(
            components.label(mask, connectivity)[0], measure.label(mask, connectivity=connectivity)
        )
