"""Boxes and masks of single objects: against the NumPy twin, OpenCV, and what must hold for any detections."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from cellinfer_kernels import detections
from cellinfer_kernels.reference import detections as reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@st.composite
def found_objects(draw: st.DrawFn) -> Found:
    """Boxes in and around a small image, some without area, with equal scores among them, and random masks."""
    count = draw(st.integers(0, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = random.uniform(-8, 24, (count, 2)) if draw(st.booleans()) else random.integers(-8, 24, (count, 2))
    sides = random.choice([0, 0.4, 1, 5, 7.5, 20], (count, 2))
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    masks = random.random((count, *random.integers(1, 9, 2)), np.float32)
    return boxes, random.choice([0.2, 0.5, 0.75], count).astype(np.float32), masks


@given(found_objects(), st.sampled_from([0.0, 0.35, 0.5, 1.0]))
def test_suppression_equals_the_twin(found: Found, overlap: float) -> None:
    boxes, scores, _ = found
    kept = detections.nms(boxes, scores, overlap)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, reference.nms(boxes, scores, overlap))


@pytest.mark.parametrize("overlap", [0.2, 0.35, 0.55])
def test_suppression_equals_opencv(overlap: float) -> None:
    random = np.random.default_rng(3)
    corners, sides = random.uniform(0, 200, (300, 2)), random.uniform(10, 40, (300, 2))
    scores = random.permutation(300) / 300 + 0.001
    theirs = cv2.dnn.NMSBoxes(np.hstack([corners, sides])[:, [1, 0, 3, 2]].tolist(), scores.tolist(), 0.0, overlap)
    kept = detections.nms(np.hstack([corners, corners + sides]), scores, overlap)
    assert 10 < len(kept) < 290
    np.testing.assert_array_equal(kept, np.ravel(theirs))


def test_of_equal_scores_the_first_box_stays() -> None:
    boxes = np.tile(np.float32([0, 0, 5, 5]), (3, 1))
    np.testing.assert_array_equal(detections.nms(boxes, np.float32([0.5, 0.9, 0.9]), 0.35), [1])


@given(found_objects(), st.sampled_from([0.3, 0.5]))
def test_pasting_equals_the_twin(found: Found, threshold: float) -> None:
    boxes, scores, masks = found
    labels = detections.paste(masks, boxes, scores, (13, 19), threshold)
    assert labels.dtype == np.int32
    expected = reference.paste(masks, boxes, scores, (13, 19), threshold)
    # A sample within rounding of the threshold may fall on either side.
    assert (labels != expected).sum() <= 1


@pytest.mark.parametrize("side", [9, 28, 61])
def test_a_mask_is_stretched_as_opencv_does(side: int) -> None:
    mask = cv2.GaussianBlur(np.random.default_rng(0).random((28, 28), np.float32), (0, 0), 2)
    labels = detections.paste(mask[None], np.float32([[5, 3, 5 + side, 3 + side]]), np.ones(1), (80, 90))
    expected = np.zeros((80, 90), np.int32)
    expected[5 : 5 + side, 3 : 3 + side] = cv2.resize(mask, (side, side), interpolation=cv2.INTER_LINEAR) > 0.5
    assert 0 < expected.sum() < side**2
    assert (labels != expected).sum() <= 2  # OpenCV rounds in float32


def test_the_higher_score_wins_and_numbers_follow_the_input() -> None:
    full = np.ones((2, 4, 4), np.float32)
    boxes = np.float32([[0, 0, 4, 4], [2, 2, 6, 6]])
    labels = detections.paste(full, boxes, np.float32([0.6, 0.9]), (6, 6))
    assert labels[0, 0] == 1
    assert (labels[2:, 2:] == 2).all()


def test_nothing_found_is_an_empty_image() -> None:
    none = np.zeros((0, 4), np.float32)
    assert detections.nms(none, none[:, 0], 0.5).shape == (0,)
    assert not detections.paste(np.zeros((0, 28, 28), np.float32), none, none[:, 0], (5, 7)).any()
