"""Test-time augmentation views and the mean over their maps: against the NumPy twin, and the invariants of TTA."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import views
from cellinfer_kernels.reference import views as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

kernel_settings = settings(deadline=None)  # the first example may compile a kernel
sides = st.integers(1, 9)
view_sets = st.lists(st.sampled_from(views.D4), min_size=1, max_size=8, unique=True)
probabilities = st.floats(0, 1, width=32)
DTYPES = (np.bool_, np.uint8, np.int16, np.float32, np.float64, np.complex128)


@st.composite
def view_maps(draw, values=probabilities):
    """Maps in view coordinates, with the names of their views."""
    channels, height, width = draw(st.tuples(st.integers(1, 2), sides, sides))
    names = draw(view_sets)
    stack = draw(hnp.arrays(np.float32, (len(names), channels, height, width), elements=values))
    return [reference.augment(one, name) for one, name in zip(stack, names, strict=True)], names


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", views.D4)
@pytest.mark.parametrize("shape", [(5, 7), (3, 65, 34), (2, 3, 4, 1), (0, 4)])
def test_views_equal_the_twin_and_come_back(view, dtype, shape):
    image = np.random.default_rng(1).integers(0, 255, shape).astype(dtype)
    turned = views.augment(image, view)
    np.testing.assert_array_equal(turned, reference.augment(image, view))
    assert turned.dtype == image.dtype
    assert turned.flags.c_contiguous
    assert not np.shares_memory(turned, image)
    np.testing.assert_array_equal(views.restore(turned, view), image)
    np.testing.assert_array_equal(views.restore(image, view), reference.restore(image, view))


@pytest.mark.parametrize("view", views.D4)
def test_strided_input_is_read_as_it_looks(view):
    image = np.arange(48).reshape(6, 8)[::2, ::-1]
    np.testing.assert_array_equal(views.augment(image, view), reference.augment(image.copy(), view))


def test_published_views_are_quarter_turns_and_flips():
    image = np.arange(6).reshape(2, 3)
    expected = [image, image[:, ::-1], image[::-1], *(np.rot90(image, k) for k in (1, 2, 3))]
    for view, want in zip(views.FLIPS6, expected, strict=True):
        np.testing.assert_array_equal(views.augment(image, view), want)
    assert len({views.augment(image, view).tobytes() for view in views.D4}) == 8


@kernel_settings
@given(view_maps())
def test_merge_equals_exact_arithmetic(given_maps):
    maps, names = given_maps
    merged = views.merge_probabilities(maps, names)
    # Values are rounded to 2**-50 first, so that only a mean that lies as close to a tie can round to the neighbour.
    np.testing.assert_allclose(merged, reference.merge_probabilities(maps, names), rtol=1.2e-7, atol=1e-15)
    assert merged.dtype == np.float32
    assert merged.flags.c_contiguous


@kernel_settings
@given(view_maps(values=st.floats(-1, 1, width=32)), st.randoms(use_true_random=False))
def test_order_of_views_does_not_matter(given_maps, random):
    maps, names = given_maps
    order = list(range(len(names)))
    random.shuffle(order)
    shuffled = views.merge_probabilities([maps[i] for i in order], [names[i] for i in order])
    np.testing.assert_array_equal(shuffled, views.merge_probabilities(maps, names))


@kernel_settings
@given(hnp.arrays(np.float32, st.tuples(st.just(1), sides, sides), elements=st.floats(width=32)), view_sets)
def test_equivariant_model_is_unchanged_bit_for_bit(image, names):
    """Also for tiny, huge and infinite values, and for the mean of six, which plain sums get wrong."""
    merged = views.merge_probabilities([reference.augment(image, name) for name in names], names)
    np.testing.assert_array_equal(merged, image)


@kernel_settings
@given(hnp.arrays(np.float32, st.tuples(st.just(1), sides, sides), elements=probabilities))
def test_one_view_is_the_map_itself(image):
    assert views.merge_probabilities([image], ["identity"]).tobytes() == image.tobytes()


def position_dependent(image):
    """Stand in for a network that is far from equivariant, with values over the whole range of a sigmoid."""
    rows, columns = np.indices(image.shape[-2:])
    return (1 / (1 + np.exp(-(40 * image - 25 + rows - 0.5 * columns + image * columns)))).astype(np.float32)


@pytest.mark.parametrize("turn", views.D4)
@pytest.mark.parametrize("shape", [(1, 70, 133), (2, 64, 64), (1, 1, 5)])
def test_output_commutes_with_every_symmetry(turn, shape):
    def predict(image):
        maps = [position_dependent(views.augment(image, view)) for view in views.D4]
        return views.merge_probabilities(maps, views.D4)

    image = np.random.default_rng(3).random(shape, dtype=np.float32)
    np.testing.assert_array_equal(predict(views.augment(image, turn)), views.augment(predict(image), turn))


@pytest.mark.parametrize("names", [views.FLIPS6, views.D4, ("rot90", "transpose"), ("hflip", "vflip")])
def test_blocks_and_borders(names):
    rng = np.random.default_rng(4)
    stack = rng.random((len(names), 2, 131, 257), dtype=np.float32)
    maps = [views.augment(one, name) for one, name in zip(stack, names, strict=True)]
    out = np.full((2, 131, 257), np.nan, np.float32)
    assert views.merge_probabilities(maps, names, out) is out
    np.testing.assert_array_equal(out, stack.astype(np.float64).mean(0).astype(np.float32))


def test_nan_stays_visible():
    maps = [np.zeros((1, 2, 2), np.float32) for _ in range(2)]
    maps[1][0, 0, 1] = np.nan
    merged = views.merge_probabilities(maps, ["identity", "transpose"])
    assert np.isnan(merged).sum() == 1
    assert np.isnan(merged[0, 1, 0])


ONE = np.zeros((1, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("maps", "names", "message"),
    [
        ([], [], "at least one"),
        ([ONE], ["identity", "hflip"], "one map per view"),
        ([ONE, ONE], ["hflip", "hflip"], "twice"),
        ([ONE], ["rot45"], "rot45"),
        ([ONE, ONE], ["identity", "rot90"], "does not restore"),
        ([ONE[0]], ["identity"], r"\(C, h, w\)"),
        ([ONE.astype(np.float64)], ["identity"], "float32"),
    ],
)
def test_bad_maps_are_refused(maps, names, message):
    with pytest.raises(ValueError, match=message):
        views.merge_probabilities(maps, names)


def test_bad_output_and_bad_arrays_are_refused():
    with pytest.raises(ValueError, match="out must be"):
        views.merge_probabilities([ONE], ["identity"], np.zeros((1, 3, 2), np.float32))
    with pytest.raises(ValueError, match="rows and columns"):
        views.augment(np.zeros(3), "hflip")
    with pytest.raises(ValueError, match="unknown view"):
        views.restore(ONE, "upside down")
