"""Neighbours and parents of objects against their twins, CellProfiler's definitions (cp-measure) and geometry."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cellinfer_kernels import components, neighbors, relations
from cellinfer_kernels.reference import neighbors as neighbors_twin
from cellinfer_kernels.reference import relations as relations_twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it
WITHIN = "Within a specified distance"  # cp-measure's name of the method that takes a distance

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=11)
label_images = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 0, 1, 1, 2, 7, 9, 300]))
methods = st.sampled_from(["Adjacent", "Expanded", 1, 2, 3, 6, 40])


def expanded(labels):
    """Give every background pixel to its nearest object, as CellProfiler does."""
    places = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return labels[tuple(places)]


def cells(seed, side=150):
    """Crowded cells, many in touch, some apart, some cut by the border; numbered 1..n."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((side, side), np.int32)
    seeds[tuple(rng.integers(0, side, (2, 40)))] = np.arange(1, 41)
    outside = ndimage.gaussian_filter(rng.random((side, side)), 4) > 0.505
    return components.relabel(components.remove_small(np.where(outside, 0, expanded(seeds)), 12))


def renamed(labels, names):
    return np.concatenate([[0], names]).astype(np.int32)[labels]


def measured(labels, method="Adjacent"):
    return neighbors.neighbors(components.group(np.asarray(labels, np.int32)), method=method)


def assert_same(result, expected, **tolerance):
    for name in result._fields:
        np.testing.assert_allclose(
            getattr(result, name), getattr(expected, name), err_msg=name, **{"rtol": 1e-12, "atol": 1e-9, **tolerance}
        )


# Kernels against their twins


@UNHURRIED
@given(label_images, methods)
def test_neighbors_equal_twin(labels, method):
    groups = components.group(labels)
    assert_same(neighbors.neighbors(groups, method=method), neighbors_twin.neighbors(groups, method=method))


@UNHURRIED
@given(label_images, st.randoms(use_true_random=False))
def test_relations_equal_twin(parents, random):
    children = parents.ravel().copy()
    random.shuffle(children)
    children = children.reshape(parents.shape)
    for mine, theirs in zip(relations.relate(parents, children), relations_twin.relate(parents, children), strict=True):
        assert mine.dtype == np.int64
        np.testing.assert_array_equal(mine, theirs)


def scattered(rng):
    return (120, 90), rng.integers(0, (120, 90), (400, 2))


def clustered(rng):
    return (500, 500), np.concatenate([rng.integers(0, 30, (300, 2)), rng.integers(480, 500, (5, 2)), [[10, 499]]])


def lined_up(rng):
    return (1, 3000), np.column_stack([np.zeros(150, int), rng.integers(0, 3000, 150)])


def gridded(_):
    return (100, 100), 7 * np.argwhere(np.ones((14, 14)))  # nothing but ties


@pytest.mark.parametrize("places", [scattered, clustered, lined_up, gridded])
def test_buckets_lose_no_centre(places):
    rng = np.random.default_rng(0)
    shape, points = places(rng)
    labels = np.zeros(shape, np.int32)
    labels[tuple(points.T)] = 2 * rng.permutation(len(points)) + 1
    groups = components.group(labels)
    assert_same(neighbors.closest(groups), neighbors_twin.closest(groups))


# CellProfiler's measurements


@pytest.fixture
def port():
    pytest.importorskip("cp_measure", reason="cp-measure is not installed (extra: test)")
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    def measure(labels, method="Adjacent", distance=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # arccos of 1 + rounding
            result = measureobjectneighbors(labels, labels, method, distance)
        return {name.split("_")[1]: np.asarray(values) for name, values in result.items()}

    return measure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["Adjacent", 1, 2, 5, 6, 13])  # beyond 5 theirs is a Fourier transform
def test_neighbors_are_those_of_cp_measure(port, seed, method):
    labels = cells(seed)
    expected = port(labels) if method == "Adjacent" else port(labels, WITHIN, method)
    result = measured(labels, method)
    assert result.percent_touching.any() and result.count.max() > 1
    np.testing.assert_array_equal(result.count, expected["NumberOfNeighbors"])
    np.testing.assert_array_equal(result.percent_touching, expected["PercentTouching"])
    # Its first closest object is the object itself.
    np.testing.assert_array_equal(result.first_number, expected["SecondClosestObjectNumber"])
    np.testing.assert_allclose(result.first_distance, expected["FirstClosestDistance"], rtol=1e-12)
    np.testing.assert_allclose(result.second_distance, expected["SecondClosestDistance"], rtol=1e-12)
    np.testing.assert_allclose(result.angle, expected["AngleBetweenNeighbors"], atol=1e-5)  # arccos near 180 degrees


@pytest.mark.parametrize("seed", range(3))
def test_expanded_neighbors_are_the_adjacent_ones_of_expanded_objects(port, seed):
    labels = cells(seed)
    result = measured(labels, "Expanded")
    expected = port(expanded(labels))
    np.testing.assert_array_equal(result.count, expected["NumberOfNeighbors"])
    np.testing.assert_array_equal(result.percent_touching, expected["PercentTouching"])
    assert np.all(result.count >= measured(labels).count) and np.all(result.count > 0)
    for name in neighbors.Closest._fields:  # centres are those of the objects as they were
        np.testing.assert_array_equal(getattr(result, name), getattr(measured(labels), name))


@pytest.mark.parametrize("seed", range(3))
def test_relations_are_those_of_cp_measure(seed):
    pytest.importorskip("cp_measure", reason="cp-measure is not installed (extra: test)")
    from cp_measure.multimask.measureobjectneighbors import relate_labels

    parents, children = cells(seed), components.relabel(cells(seed + 10) * (cells(seed + 20) > 0))
    counts, owners = relate_labels(parents, children)
    mine = relations.relate(parents, children)
    assert (owners == 0).any() or counts.max() > 1
    np.testing.assert_array_equal(mine[0], owners)
    np.testing.assert_array_equal(mine[1], counts)


# Geometry


@pytest.mark.parametrize("method", ["Adjacent", 2, 7])
def test_rotation_changes_nothing(method):
    labels = cells(3)
    result = measured(labels, method)
    for turns in (1, 2, 3):
        turned = measured(np.rot90(labels, turns), method)
        for name in ("count", "percent_touching"):
            np.testing.assert_array_equal(getattr(turned, name), getattr(result, name))
        for name in ("first_distance", "second_distance", "angle"):
            np.testing.assert_allclose(getattr(turned, name), getattr(result, name), rtol=1e-9)


@pytest.mark.parametrize("method", ["Adjacent", "Expanded", 4])
def test_new_ids_only_rename(method):
    labels = cells(4)
    n = int(labels.max())
    names = np.random.default_rng(0).permutation(100 * n)[:n] + 1
    names[0] = 2**31 - 1
    result, other = measured(labels, method), measured(renamed(labels, names), method)
    order = np.argsort(names)
    for name in result._fields:
        values = getattr(result, name)
        if name.endswith("number"):
            values = renamed(values.astype(int), names)
        np.testing.assert_array_equal(getattr(other, name), values[order], err_msg=name)


def test_distance_counts_between_pixel_centres():
    labels = np.zeros((9, 12), np.int32)
    labels[4, 2] = 4
    labels[7, 6] = 8  # 3 down, 4 right: 5 away
    assert measured(labels, 4).count.tolist() == [0, 0]
    assert measured(labels, 4).percent_touching.tolist() == [0, 0]  # 25 > 4.5 * 4.5
    assert measured(labels, 5).count.tolist() == [1, 1]
    labels[7, 6], labels[6, 6] = 0, 8  # 20 <= 4.5 * 4.5: touched, but farther than 4 away
    assert measured(labels, 4).count.tolist() == [0, 0]
    assert measured(labels, 4).percent_touching.tolist() == [100, 100]


def test_corners_touch_but_make_no_neighbors():
    labels = np.kron(np.array([[1, 0], [0, 2]], np.int32), np.ones((3, 3), np.int32))
    result = measured(labels)
    assert result.count.tolist() == [0, 0]
    np.testing.assert_allclose(result.percent_touching, 100 / 8)  # one of the eight pixels around the inner one
    assert measured(labels, "Expanded").count.tolist() == [1, 1]


def test_side_by_side():
    labels = np.repeat([[3, 3, 3, 3, 5, 5, 5, 5, 5, 7]], 6, axis=0)
    result = measured(labels)
    assert result.count.tolist() == [1, 2, 1]
    # The image's edge is outline: 16 of the first object, 18 of the second, all 6 pixels of the third.
    np.testing.assert_allclose(result.percent_touching, [600 / 16, 1200 / 18, 100])
    assert result.first_number.tolist() == [5, 7, 5]
    assert result.first_distance.tolist() == [4.5, 3, 3]
    assert result.second_number.tolist() == [7, 3, 3]
    assert result.second_distance.tolist() == [7.5, 4.5, 7.5]
    assert result.angle.tolist() == [0, 180, 0]


def test_angle_at_a_right_corner():
    labels = np.zeros((12, 9), np.int32)
    labels[1, 1], labels[1, 7], labels[10, 1] = 1, 2, 3
    result = measured(labels)
    assert result.angle[0] == 90
    assert result.angle.sum() == pytest.approx(180)


def test_ties_go_to_the_lower_id():
    labels = np.zeros((7, 7), np.int32)
    labels[3, 3] = 9
    labels[1, 3], labels[3, 5], labels[5, 3], labels[3, 1] = 8, 30, 2, 31
    result = measured(labels)
    assert (result.first_number[2], result.second_number[2], result.angle[2]) == (2, 8, 180)


def test_an_object_around_another_is_closest_at_distance_zero():
    labels = np.full((5, 5), 1, np.int32)
    labels[2, 2] = 2
    labels[0, 0] = labels[4, 4] = 3  # symmetric as well
    result = measured(labels)
    assert result.first_number.tolist() == [2, 1, 1]
    assert result.second_number.tolist() == [3, 3, 2]
    assert result.first_distance.tolist() == result.second_distance.tolist() == [0, 0, 0]
    assert np.isnan(result.angle).all()
    assert result.count.tolist() == [2, 1, 1]


@pytest.mark.parametrize("method", ["Adjacent", "Expanded", 3])
@pytest.mark.parametrize(
    "labels", [np.zeros((4, 5)), np.zeros((0, 3)), np.full((1, 1), 6), np.full((6, 7), 2), np.diag([5, 0, 5])]
)
def test_fewer_than_two_objects_have_no_neighbors(labels, method):
    result = measured(labels, method)
    n = np.unique(labels[labels > 0]).size
    for column in result:
        assert column.dtype == np.float64
        assert column.tolist() == [0.0] * n


def test_two_objects_have_no_second_neighbor():
    result = measured([[5, 0, 0, 9]])
    assert result.first_number.tolist() == [9, 5]
    assert result.first_distance.tolist() == [3, 3]
    assert result.second_number.tolist() == result.second_distance.tolist() == result.angle.tolist() == [0, 0]


def test_parts_of_one_object_are_not_its_neighbors():
    result = measured([[4, 4, 0, 4, 7, 0, 7]], 2)
    assert result.count.tolist() == [1, 1]
    np.testing.assert_allclose(result.percent_touching, [100 * 1 / 3, 100 * 1 / 2])


@pytest.mark.parametrize("distance", [60, 10**30, np.int64(2**62)])
def test_a_distance_beyond_the_image_reaches_all(distance):
    labels = cells(5, side=40)
    result = measured(labels, distance)
    assert np.all(result.count == labels.max() - 1) and np.all(result.percent_touching == 100)


@pytest.mark.parametrize("method", ["adjacent", "5", 0, -1, 2.5, True, None])
def test_unknown_methods_are_refused(method):
    with pytest.raises(ValueError, match=r"method must be .* got"):
        measured([[1, 2]], method)


# Parents and children


def test_a_child_belongs_to_the_parent_under_most_of_it():
    parents = [[4, 4, 0, 9, 9, 9, 0, 0, 0, 9, 4, 0]]
    children = [[2, 0, 5, 5, 5, 5, 7, 8, 8, 8, 6, 6]]
    owners, counts = relations.relate(np.array(parents), np.array(children))
    assert owners.tolist() == [4, 9, 4, 0, 9]  # children 2, 5, 6, 7, 8: mostly background is no hindrance
    assert counts.tolist() == [2, 2]


def test_equal_shares_go_to_the_lower_id():
    owners, counts = relations.relate(np.array([[9, 3, 5, 5, 3, 9]]), np.array([[1, 1, 1, 1, 1, 1]]))
    assert owners.tolist() == [3]
    assert counts.tolist() == [1, 0, 0]


def test_no_parents_or_no_children():
    nothing, something = np.zeros((2, 3), np.int32), np.array([[0, 2, 2], [8, 0, 0]], np.int32)
    assert [values.tolist() for values in relations.relate(nothing, something)] == [[0, 0], []]
    assert [values.tolist() for values in relations.relate(something, nothing)] == [[], [0, 0]]
    assert [values.tolist() for values in relations.relate(nothing, nothing)] == [[], []]
    assert [values.tolist() for values in relations.relate(something, something)] == [[2, 8], [1, 1]]


def test_images_must_be_of_one_shape():
    with pytest.raises(ValueError, match="shape"):
        relations.relate(np.zeros((2, 3), int), np.zeros((3, 2), int))
