"""The nucleus model through its pipeline: objects, sizes, views, and images that hold nothing."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from cellinfer.errors import InputError
from cellinfer.segmentation import estimate_diameter, segment_image
from cellinfer.sessions import Session
from cellinfer_kernels.matching import score_thresholds
from cellinfer_kernels.views import D4, augment
from numpy.typing import NDArray

from tests.conftest import draw_cells

Field = dict[str, NDArray[Any]]


def found_share(truth: NDArray[Any], labels: NDArray[Any], threshold: float = 0.7) -> float:
    scores = score_thresholds(truth, labels, [threshold])
    return float(scores.tp[0] / (scores.tp[0] + scores.fp[0] + scores.fn[0]))


def test_round_nuclei_are_found(session: Session, cells_field: Field) -> None:
    found = segment_image(cells_field["DNA"], session)
    assert found.labels.dtype == np.int32
    assert found_share(cells_field["truth"], found.labels) >= 0.95
    assert found.diameter == pytest.approx(22, rel=0.2)


@pytest.mark.parametrize("zoom", [0.4, 0.7, 1.5, 2.5])
def test_objects_of_any_size_are_found(session: Session, cells_field: Field, zoom: float) -> None:
    size = tuple(round(length * zoom) for length in reversed(cells_field["DNA"].shape))
    image = cv2.resize(cells_field["DNA"], size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    truth = cv2.resize(cells_field["truth"], size, interpolation=cv2.INTER_NEAREST)
    found = segment_image(image, session)
    assert found.diameter == pytest.approx(22 * zoom, rel=0.25)
    assert found_share(truth, found.labels, 0.6) >= 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_depth_of_the_image_does_not_matter(session: Session, cells_field: Field, dtype: type) -> None:
    image = cells_field["DNA"].astype(np.float64)
    scaled = (image / image.max() * 250).astype(dtype)
    assert found_share(cells_field["truth"], segment_image(scaled, session, diameter=22).labels) >= 0.95


def test_gain_and_offset_change_nothing(session: Session, cells_field: Field) -> None:
    image = cells_field["DNA"].astype(np.float64)
    first, second = (segment_image(plane, session, diameter=22).labels for plane in (image, 7.5 * image + 1000))
    assert found_share(first, second, 0.95) == 1.0


@pytest.mark.parametrize("tta", ["flips", "d4"])
@pytest.mark.parametrize("merge", ["instances", "fields"])
def test_views_agree_on_clear_nuclei(session: Session, cells_field: Field, tta: Any, merge: Any) -> None:
    found = segment_image(cells_field["DNA"], session, diameter=22, tta=tta, merge=merge)
    assert found_share(cells_field["truth"], found.labels) >= 0.95
    assert found.votes is not None
    assert found.votes.shape == (found.labels.max(),)
    assert (found.votes > (0.5 if merge == "instances" else 0.0)).all()
    assert (found.votes <= 1).all()
    assert np.median(found.votes) == 1.0


@pytest.mark.parametrize("merge", ["instances", "fields"])
def test_with_all_eight_views_turning_the_image_turns_the_result(session: Session, merge: Any) -> None:
    image = draw_cells(3, (150, 190))["DNA"]
    upright = segment_image(image, session, diameter=22, tta="d4", merge=merge).labels
    for view in D4:
        turned = segment_image(augment(image, view), session, diameter=22, tta="d4", merge=merge).labels
        assert found_share(augment(upright, view), turned, 0.95) == 1.0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.full((50, 70), 65535, np.uint16),
        np.full((40, 40), np.nan, np.float32),
        np.full((1, 1), 7, np.uint16),
    ],
)
def test_images_without_contrast_hold_nothing(session: Session, image: NDArray[Any]) -> None:
    found = segment_image(image, session, tta="d4")
    assert found.constant
    assert found.notes == ("the image has no contrast: no object was looked for",)
    assert not found.labels.any()
    assert found.labels.shape == image.shape
    assert found.votes is not None
    assert found.votes.size == 0


def test_camera_noise_alone_holds_next_to_nothing(session: Session) -> None:
    noise = np.random.default_rng(0).normal(500, 20, (400, 400)).astype(np.uint16)
    assert (segment_image(noise, session).labels > 0).mean() < 0.01


def test_pixels_that_are_not_finite_are_background(session: Session, cells_field: Field) -> None:
    image = cells_field["DNA"].astype(np.float32)
    image[:30] = np.nan
    image[-3:, -3:] = np.inf
    labels = segment_image(image, session, diameter=22).labels
    assert not labels[:28].any()
    assert found_share(cells_field["truth"][60:], labels[60:]) >= 0.8


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (15, 17), (3, 3)])
def test_tiny_and_thin_images_are_no_error(session: Session, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 1000, shape).astype(np.uint16)
    assert segment_image(image, session).labels.shape == shape


def test_large_fields_are_tiled_without_seams(session: Session) -> None:
    field = draw_cells(5, (700, 1500))
    assert found_share(field["truth"], segment_image(field["DNA"], session, diameter=22).labels) >= 0.97


def test_a_few_objects_on_a_flat_ground_are_found(session: Session) -> None:
    image = np.zeros((300, 300), np.uint8)  # so few bright pixels that both percentiles are the ground
    y, x = np.ogrid[:300, :300]
    image[(y - 150) ** 2 + (x - 140) ** 2 < 36] = 200
    assert np.percentile(image, 99.8) == 0
    found = segment_image(image, session)
    assert found.labels.max() == 1
    assert not found.constant


def test_the_size_is_estimated_where_the_objects_are(session: Session, cells_field: Field) -> None:
    image = np.full((900, 1700), cells_field["DNA"].min(), cells_field["DNA"].dtype)
    height, width = cells_field["DNA"].shape
    image[:height, :width] = cells_field["DNA"]
    alone, found = (estimate_diameter(i, session) for i in (cells_field["DNA"], image))
    assert alone is not None
    assert found == pytest.approx(alone, rel=0.05)


def test_arguments_of_another_kind_are_refused(session: Session, cells_field: Field) -> None:
    with pytest.raises(InputError, match="open_session"):
        segment_image(cells_field["DNA"], "nuclei")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a list"):
        segment_image([[1, 2]], session)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'30'"):
        segment_image(cells_field["DNA"], session, diameter="30")  # type: ignore[arg-type]


def test_an_empty_field_has_no_diameter(session: Session) -> None:
    assert estimate_diameter(np.zeros((64, 64), np.uint16), session) is None


def test_colour_images_and_unknown_options_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="--channel red, green, blue or mean"):
        segment_image(np.arange(300, dtype=np.uint8).reshape(10, 10, 3), session)
    with pytest.raises(InputError, match="flips"):
        segment_image(np.zeros((10, 10), np.uint8), session, tta="many")  # type: ignore[arg-type]


def test_what_is_assumed_of_the_size_is_said(session: Session, cells_field: Field) -> None:
    assert segment_image(cells_field["DNA"], session).notes == ()
    assert segment_image(cells_field["DNA"], session, diameter=22).notes == ()
    ramp = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    (nothing,) = segment_image(ramp, session).notes
    assert (
        f"no object was found to estimate the diameter from: the model's own, {session.card.diameter:g} px" in nothing
    )
    (tiny,) = segment_image(cells_field["DNA"][:40, :40], session, diameter=2, tta="flips").notes
    assert "4 times is the farthest" in tiny
    (huge,) = segment_image(cells_field["DNA"], session, diameter=500).notes
    assert "0.25 times is the farthest" in huge


def test_one_view_has_nothing_to_merge(session: Session) -> None:
    with pytest.raises(InputError, match="--tta flips or d4"):
        segment_image(np.zeros((9, 9), np.uint8), session, merge="fields")
