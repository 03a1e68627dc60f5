"""Watershed and Propagation against their twins, scikit-image, centrosome and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import components, watershed
from cellinfer_kernels.reference import watershed as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import segmentation

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

EVERYWHERE = np.ones((3, 3))


@st.composite
def scenes(draw, max_side=12):
    """Draw seeds, an image of few levels (many ties; sums are exact) and a mask."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=max_side))
    seeds = draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([0] * 12 + [1, 2, 9])))
    image = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 1])))
    mask = draw(hnp.arrays(np.bool_, shape, elements=st.sampled_from([True, True, True, False])))
    return seeds, image, mask


def blobs(seed=0, side=96, count=20):
    """Smooth image with `count` numbered seed disks."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random((side, side)), 3).astype(np.float32)
    points = np.zeros((side, side), bool)
    points.ravel()[rng.choice(side * side, count, replace=False)] = True
    seeds, _ = components.label(ndimage.binary_dilation(points, iterations=2))
    return seeds, image, ndimage.gaussian_filter(rng.random((side, side)), 2) > 0.47


@UNHURRIED
@given(scenes(), st.sampled_from([1, 2]))
def test_flood_equals_twin(scene, connectivity):
    seeds, image, mask = scene
    result = watershed.flood(image, seeds, mask, connectivity)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, twin.flood(image, seeds, mask, connectivity))


@UNHURRIED
@given(scenes())
def test_flood_reaches_every_pixel_connected_to_a_seed_and_nothing_else(scene):
    seeds, image, mask = scene
    result = watershed.flood(image, seeds, mask)
    parts, _ = ndimage.label(mask)
    seeded = np.unique(parts[mask & (seeds > 0)])
    np.testing.assert_array_equal(result > 0, mask & np.isin(parts, seeded))
    np.testing.assert_array_equal(result[mask & (seeds > 0)], seeds[mask & (seeds > 0)])


@pytest.mark.parametrize("connectivity", [1, 2])
def test_flood_equals_skimage_on_a_landscape_without_ties(connectivity):
    seeds, image, mask = blobs()
    image = np.argsort(np.argsort(image, axis=None)).reshape(image.shape).astype(np.float32)  # ranks: all different
    expected = segmentation.watershed(image, seeds, mask=mask, connectivity=connectivity)
    np.testing.assert_array_equal(watershed.flood(image, seeds, mask, connectivity), expected)


def test_a_plateau_is_shared_out_fairly():
    seeds = np.zeros((21, 41), np.int32)
    seeds[10, 5] = 2
    seeds[10, 35] = 1
    _, sizes = components.areas(watershed.flood(np.zeros(seeds.shape), seeds))
    assert abs(int(sizes[0]) - int(sizes[1])) <= 21  # at most the middle column goes to one side


def test_nan_is_flooded_last():
    heights = np.array([[0, np.nan, 0.0, 5.0, 0.0]])
    seeds = np.array([[1, 0, 0, 0, 2]])
    np.testing.assert_array_equal(watershed.flood(heights, seeds), [[1, 1, 2, 2, 2]])


distances = st.sampled_from([0.0, 1.0, 2.0, 2.5, 4.0, np.inf])
weights = st.sampled_from([0.0, 0.05, 1.0, 100.0])


@UNHURRIED
@given(scenes(max_side=8), distances, weights)
def test_propagate_equals_plain_dijkstra(scene, max_distance, regularization):
    seeds, image, mask = scene
    result = watershed.propagate(seeds, image, mask, max_distance, regularization)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, twin.propagate(seeds, image, mask, max_distance, regularization))


@pytest.mark.parametrize("max_distance", [3.0, 40.0])
def test_propagate_equals_plain_dijkstra_where_the_image_is_worked_on_in_parts(max_distance):
    random = np.random.default_rng(5)
    seeds = np.where(random.random((300, 7)) < 0.01, np.arange(1, 2101).reshape(300, 7), 0)
    image = random.random(seeds.shape)
    mask = random.random(seeds.shape) < 0.8
    expected = twin.propagate(seeds, image, mask, max_distance, 0.5)
    np.testing.assert_array_equal(watershed.propagate(seeds, image, mask, max_distance, 0.5), expected)


@pytest.mark.parametrize("regularization", [0.0, 0.001, 0.05])
@pytest.mark.parametrize("max_distance", [9.0, np.inf])
def test_propagate_is_the_same_upside_down_and_sideways(regularization, max_distance):
    seeds, image, mask = blobs(3, side=256, count=90)
    levels = (image * 64).astype(np.uint8)  # sums are exact in any order
    result = watershed.propagate(seeds, levels / 64, mask, max_distance, regularization)
    for turned in (np.flipud, np.fliplr, np.transpose):
        other = watershed.propagate(turned(seeds), turned(levels) / 64, turned(mask), max_distance, regularization)
        np.testing.assert_array_equal(turned(result), other)


@pytest.mark.parametrize(
    ("regularization", "levels"),  # without regularization a plateau goes to the lowest id there, to the nearest here
    [(0.0, None), (0.01, None), (0.01, 255), (0.05, None), (0.05, 255), (0.2, None), (1.0, None), (1.0, 255)],
)
def test_propagate_agrees_with_cellprofiler(regularization, levels):
    """Costs are whole numbers here, so pixels as good as equally far from two seeds may differ."""
    centrosome = pytest.importorskip("centrosome.propagate", reason="CellProfiler's own code is not installed")
    differing = reached = 0
    for seed in range(20):
        seeds, image, mask = blobs(seed)
        image = image.astype(np.float64) if levels is None else (image * levels).astype(np.uint8) / (levels + 1)
        expected, _ = centrosome.propagate(image, seeds, mask, regularization)
        result = watershed.propagate(seeds, image, mask, regularization=regularization)
        np.testing.assert_array_equal(result > 0, expected > 0)
        differing += (result != expected).sum()
        reached += (expected > 0).sum()
    assert differing < 0.001 * reached


@pytest.mark.parametrize("max_distance", [3.0, 7.5, np.inf])
def test_propagated_regions_are_connected_and_near_their_seed(max_distance):
    seeds, image, mask = blobs(side=128, count=30)
    mask |= seeds > 0
    result = watershed.propagate(seeds, image, mask, max_distance, 0.02)
    np.testing.assert_array_equal(result[seeds > 0], seeds[seeds > 0])
    assert not result[~mask].any()
    for i in np.unique(seeds[seeds > 0]):
        region = result == i
        assert ndimage.label(region, EVERYWHERE)[1] == 1
        assert ndimage.distance_transform_edt(seeds != i)[region].max() <= max_distance


def test_one_seed_grows_to_exactly_the_disk_around_it():
    seeds = np.zeros((41, 41), np.int32)
    seeds[20, 20] = 4
    result = watershed.propagate(seeds, np.zeros((41, 41)), None, 12.0, 1.0)
    np.testing.assert_array_equal(result == 4, ndimage.distance_transform_edt(seeds == 0) <= 12)


def test_an_intensity_edge_stops_a_cell_where_distance_alone_would_not():
    image = np.zeros((9, 30), np.float32)
    image[:, 20:] = 1
    seeds = np.zeros((9, 30), np.int32)
    seeds[4, 2] = 1
    seeds[4, 25] = 2
    guided = watershed.propagate(seeds, image, None, np.inf, 0.01)
    assert guided[4, 17] == 1
    assert watershed.propagate(seeds, image, None, np.inf, 100.0)[4, 17] == 2


@UNHURRIED
@given(scenes(), distances)
def test_expand_equals_twin_and_skimage(scene, max_distance):
    seeds = scene[0]
    result = watershed.expand(seeds, max_distance)
    assert result.dtype == np.int32
    if seeds.any():
        np.testing.assert_array_equal(result, twin.expand(seeds, max_distance))
        apart = segmentation.expand_labels(seeds, min(max_distance, 99.0))
        np.testing.assert_array_equal(result > 0, apart > 0)
        for name in np.unique(seeds[seeds > 0]):  # ties aside: never farther than from another seed
            away = ndimage.distance_transform_edt(seeds != name)
            np.testing.assert_array_equal(
                away[result == name], ndimage.distance_transform_edt(seeds == 0)[result == name]
            )
    else:
        assert not result.any()


@UNHURRIED
@given(scenes(max_side=8))
def test_growth_leaves_its_input_alone(scene):
    before = [array.copy() for array in scene]
    seeds, image, mask = scene
    watershed.flood(image, seeds, mask)
    watershed.propagate(seeds, image, mask, 2.0)
    watershed.expand(seeds, 2.0)
    for array, old in zip(scene, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 1)])
def test_nothing_grows_from_nothing(shape):
    empty = np.zeros(shape, np.int32)
    assert watershed.flood(np.zeros(shape), empty).shape == shape
    assert watershed.propagate(empty, np.zeros(shape), None, 3.0).shape == shape
    assert watershed.expand(empty, 3.0).shape == shape


def test_high_ids_cost_nothing():
    seeds, image, mask = blobs()
    high = np.where(seeds > 0, seeds + (2**31 - 1 - seeds.max()), 0)
    expected = watershed.propagate(seeds, image, mask, 9.0)
    result = watershed.propagate(high, image, mask, 9.0)
    np.testing.assert_array_equal(np.where(result > 0, result - (2**31 - 1 - seeds.max()), 0), expected)


@pytest.mark.parametrize("gap", [2, 3])
def test_growth_may_start_from_nearly_all_pixels_at_once(gap):
    seeds = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    seeds[::gap, ::gap] = 0
    result = watershed.propagate(seeds, np.zeros(seeds.shape), None, 4.0, 1.0)
    np.testing.assert_array_equal(result[seeds > 0], seeds[seeds > 0])
    inner = seeds[gap::gap, gap::gap]
    np.testing.assert_array_equal(result[gap::gap, gap::gap], seeds[gap - 1 :: gap, gap::gap][: len(inner)])


def test_many_pixels_wait_at_once():
    random = np.random.default_rng(2)
    seeds = np.zeros((400, 400), np.int32)
    seeds[::4, ::4] = np.arange(1, 10001).reshape(100, 100)
    image = random.integers(0, 64, seeds.shape) / 64  # sums are exact in any order
    result = watershed.propagate(seeds, image, None, np.inf, 0.0)
    assert (result > 0).all()
    np.testing.assert_array_equal(result.T, watershed.propagate(seeds.T, image.T, None, np.inf, 0.0))


def test_the_lowest_id_has_what_is_equally_far():
    row = np.array([[7, 0, 0, 0, 3]])
    np.testing.assert_array_equal(watershed.propagate(row, np.zeros(row.shape)), [[7, 7, 3, 3, 3]])
    np.testing.assert_array_equal(watershed.propagate(row[:, ::-1], np.zeros(row.shape)), [[3, 3, 3, 7, 7]])


def test_a_seed_in_pieces_reaches_around_each_of_them_alone():
    seeds = np.zeros((60, 60), np.int32)
    seeds[5, 5] = seeds[5, 50] = seeds[50, 30] = 2
    result = watershed.propagate(seeds, np.zeros(seeds.shape), None, 9.5, 1.0)
    np.testing.assert_array_equal(result == 2, ndimage.distance_transform_edt(seeds == 0) <= 9.5)


def test_seeds_outside_the_mask_are_kept_by_propagate_and_dropped_by_flood():
    seeds = np.array([[5, 0, 0]])
    mask = np.array([[False, True, True]])
    np.testing.assert_array_equal(watershed.propagate(seeds, np.zeros((1, 3)), mask), [[5, 0, 0]])
    np.testing.assert_array_equal(watershed.flood(np.zeros((1, 3)), seeds, mask), [[0, 0, 0]])


def test_non_finite_pixels_count_as_zero():
    seeds, image, mask = blobs(side=32, count=4)
    holed = image.copy()
    holed[::3, ::3] = np.nan
    zeroed = np.nan_to_num(holed)
    np.testing.assert_array_equal(
        watershed.propagate(seeds, holed, mask, 9.0), watershed.propagate(seeds, zeroed, mask, 9.0)
    )


def test_misfits_are_refused():
    seeds = np.zeros((3, 3), np.int32)
    with pytest.raises(ValueError, match="shape"):
        watershed.flood(np.zeros((2, 3)), seeds)
    with pytest.raises(ValueError, match="mask"):
        watershed.propagate(seeds, np.zeros((3, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="negative"):
        watershed.propagate(seeds, np.zeros((3, 3)), None, -1.0)
    with pytest.raises(ValueError, match="negative"):
        watershed.propagate(seeds, np.zeros((3, 3)), None, 1.0, float("nan"))
    with pytest.raises(ValueError, match="infinite"):
        watershed.propagate(seeds, np.zeros((3, 3)), None, 1.0, float("inf"))
    with pytest.raises(ValueError, match="connectivity"):
        watershed.flood(np.zeros((3, 3)), seeds, None, 8)
