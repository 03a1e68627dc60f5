"""Outlines of label images: kernel and twin agree, outlines give back the pixels, other libraries see the same."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from cellinfer_kernels.outlines import Outlines, outlines
from cellinfer_kernels.reference import outlines as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label, regionprops

small_labels = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 3, 3, 70_000]))
)


def rings_of(found: Outlines, k: int) -> list[list[np.ndarray[Any, Any]]]:
    """Return the parts of object `k` as lists of rings."""
    return [
        [
            found.vertices[found.begins[ring] : found.begins[ring + 1]]
            for ring in range(found.rings[part], found.rings[part + 1])
        ]
        for part in range(found.parts[k], found.parts[k + 1])
    ]


def signed_area(ring: np.ndarray[Any, Any]) -> float:
    x, y = ring.T.astype(float)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def text(*rows: str) -> np.ndarray[Any, Any]:
    return np.array([[int(letter) for letter in row.replace(".", "0")] for row in rows], np.int32)


def assert_same(found: Outlines, expected: Outlines) -> None:
    for name, mine, other in zip(Outlines._fields, found, expected, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)


@given(small_labels)
def test_kernel_and_twin_agree_and_give_back_the_pixels(labels: np.ndarray[Any, Any]) -> None:
    found = outlines(labels)
    assert_same(found, reference.outlines(labels))
    np.testing.assert_array_equal(reference.filled(found, labels.shape), labels)
    for k in range(found.ids.size):
        for part in rings_of(found, k):
            assert signed_area(part[0]) > 0
            assert all(signed_area(hole) < 0 for hole in part[1:])
            for ring in part:
                assert len({tuple(corner) for corner in ring}) == len(ring) >= 4  # no corner twice
                steps = np.roll(ring, -1, axis=0) - ring
                assert np.all((steps == 0).sum(axis=1) == 1)  # along pixel edges
                assert np.all((steps[:, 0] == 0) != np.roll(steps[:, 0] == 0, 1))  # and turning at each


@given(small_labels)
def test_polygons_are_valid_and_have_the_area_of_the_object(labels: np.ndarray[Any, Any]) -> None:
    shapely = pytest.importorskip("shapely")
    found = outlines(labels)
    for k, own in enumerate(found.ids):
        shape = shapely.MultiPolygon([(part[0], part[1:]) for part in rings_of(found, k)])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == np.count_nonzero(labels == own)


@pytest.mark.parametrize(
    ("labels", "parts", "holes"),
    [
        (text("1"), 1, 0),
        (text("11", "11"), 1, 0),
        (text("1.", ".1"), 2, 0),
        (text("111", "1.1", "111"), 1, 1),
        (text("111", "1.1", "11."), 1, 1),  # the hole touches the outside at a corner
        (text("1111", "1..1", "1.11", "11.."), 1, 1),
        (text(".11", "1.1", "111"), 1, 1),
        (text(".1.", "1.1", ".1."), 4, 0),  # four parts around what is a hole of none
        (text("1111", "1.11", "11.1", "1111"), 1, 2),  # two holes that touch at a corner
        (text("11111", "1...1", "1.1.1", "1...1", "11111"), 2, 1),  # an island in a hole
        (text("11111", "1.1.1", "11111", "11111", "1.1.1", "11111"), 1, 4),
    ],
)
def test_parts_and_holes_are_told_apart(labels: np.ndarray[Any, Any], parts: int, holes: int) -> None:
    found = outlines(labels)
    assert_same(found, reference.outlines(labels))
    assert (found.parts[-1], len(found.begins) - 1 - found.parts[-1]) == (parts, holes)
    np.testing.assert_array_equal(reference.filled(found, labels.shape), labels)


def test_a_single_pixel_and_no_object() -> None:
    labels = np.zeros((4, 5), np.int64)
    empty = outlines(labels)
    assert [array.shape for array in empty] == [(0,), (1,), (1,), (1,), (0, 2)]
    labels[2, 3] = 9
    found = outlines(labels)
    assert found.ids.tolist() == [9]
    assert found.vertices.tolist() == [[3, 2], [4, 2], [4, 3], [3, 3]]
    assert outlines(np.zeros((0, 3), np.int32)).ids.size == 0


def test_an_object_may_fill_the_image() -> None:
    assert outlines(np.full((3, 4), 2)).vertices.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]


def test_noise_of_few_ids_takes_no_longer_than_blobs_and_is_right() -> None:
    """Thousands of holes and parts of one object."""
    labels = np.random.default_rng(0).integers(0, 3, (300, 400)).astype(np.int32)
    found = outlines(labels)
    assert found.rings[-1] > 10_000
    np.testing.assert_array_equal(reference.filled(found, labels.shape), labels)
    for k, own in enumerate(found.ids):
        assert found.parts[k + 1] - found.parts[k] == label(labels == own, connectivity=1).max()


def test_opencv_fills_the_outlines_of_blobs_with_their_pixels() -> None:
    random = np.random.default_rng(3)
    labels = np.zeros((256, 300), np.int32)
    for own in range(1, 60):
        y, x = (int(place) for place in random.integers(0, (256, 300)))
        cv2.ellipse(labels, (x, y), (int(random.integers(3, 25)), int(random.integers(3, 25))), 30, 0, 360, own, -1)
        cv2.circle(labels, (x, y), 2, 0, -1)  # a hole
    found = outlines(labels)
    regions = {region.label: region for region in regionprops(labels)}
    assert found.ids.tolist() == sorted(regions)
    for k, own in enumerate(found.ids):
        # Half a pixel towards the top left, corners of pixels are between the pixel centres that OpenCV counts in; at
        # 16 times the size its rounding is far from any centre.
        rings = [ring * 16 - 8 for part in rings_of(found, k) for ring in part]
        canvas = np.zeros((256 * 16, 300 * 16), np.uint8)
        cv2.fillPoly(canvas, rings, 1)
        np.testing.assert_array_equal(canvas[::16, ::16] > 0, labels == own)
        xs, ys = np.concatenate([ring for part in rings_of(found, k) for ring in part]).T
        assert (ys.min(), xs.min(), ys.max(), xs.max()) == regions[own].bbox


def test_other_arrays_are_refused() -> None:
    for wrong in (np.zeros((2, 2, 2), int), np.zeros((2, 2)), np.full((2, 2), -1)):
        with pytest.raises(ValueError, match="labels must"):
            outlines(wrong)
