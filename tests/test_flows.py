"""Flows: kernels against their twins and SciPy, Cellpose's conventions, and labels that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cellinfer.decoders import decode
from cellinfer_kernels import flows
from cellinfer_kernels.matching import score_thresholds
from cellinfer_kernels.reference import flows as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from tests.conftest import draw_cells
from tests.test_distance_decoder import packed_disks

Labels = NDArray[np.int32]
EVERY_SIZE = {"smallest": 0.0}


def encode(labels: Labels) -> NDArray[np.float32]:
    """Fields as a perfect network of Cellpose's kind would give them."""
    down, right = 5 * flows.heat_flows(labels)
    return np.stack([down, right, np.where(labels > 0, 6, -6)]).astype(np.float32)


def mosaics() -> st.SearchStrategy[Labels]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
    return hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 3, 3, 3, 7]))


def disk(centre: tuple[float, float], radius: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return np.hypot(rows - centre[0], columns - centre[1]) < radius


@given(mosaics())
def test_heat_flows_equal_twin(labels):
    result, expected = flows.heat_flows(labels), twin.heat_flows(labels)
    assert result.dtype == np.float32
    # Where heat is nearly even the direction hangs on rounding: compare what both could tell.
    sure = np.hypot(*(result - expected)) < 1e-3
    assert (sure | (labels > 0)).all()
    assert sure.mean() > 0.7


def test_heat_flows_equal_twin_on_cells():
    labels = draw_cells(0, (90, 120))["truth"].astype(np.int32)
    np.testing.assert_allclose(flows.heat_flows(labels), twin.heat_flows(labels), atol=1e-4)


@given(mosaics())
def test_flows_have_length_one_or_none_and_stay_in_objects(labels):
    length = np.hypot(*flows.heat_flows(labels))
    assert ((length < 1e-6) | (abs(length - 1) < 1e-5)).all()
    assert not length[labels == 0].any()


def test_flows_point_to_the_middle_rows_first_positive_towards_growing_indices():
    labels = disk((20, 20), 12, (41, 41)).astype(np.int32)
    down, right = flows.heat_flows(labels)
    assert down[12, 20] > 0.99
    assert down[28, 20] < -0.99
    assert right[20, 12] > 0.99
    assert right[20, 28] < -0.99


fields = hnp.arrays(np.float32, (2, 6, 7), elements=st.integers(-8, 8).map(lambda eighth: eighth / 8))


@given(fields, hnp.arrays(np.bool_, (6, 7)), st.integers(0, 6))
def test_follow_equals_twin(field, mask, steps):
    result = flows.follow(field, mask, steps)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, twin.follow(field, mask, steps), atol=1e-5)


def test_a_step_is_bilinear_interpolation():
    field = np.random.default_rng(0).uniform(-0.4, 0.4, (2, 12, 15)).astype(np.float32)
    everywhere = np.ones((12, 15), bool)
    once = flows.follow(field, everywhere, 1).T
    moved = [ndimage.map_coordinates(plane, once, order=1, mode="nearest") for plane in field]
    limit = np.array([[11], [14]])
    np.testing.assert_allclose(flows.follow(field, everywhere, 2).T, np.clip(once + moved, 0, limit), atol=1e-5)


def test_cells_come_back():
    labels = draw_cells(1, (241, 323))["truth"].astype(np.int32)
    result = decode("flows", encode(labels), 22.0, EVERY_SIZE)
    scores = score_thresholds(labels, result, [0.95])
    assert (scores.tp[0], scores.fp[0]) == (labels.max(), 0)


@pytest.mark.parametrize("seed", range(2))
def test_touching_cells_come_back_one_for_one(seed):
    labels = packed_disks(seed)
    result = decode("flows", encode(labels), 22.0, EVERY_SIZE)
    scores = score_thresholds(labels, result, [0.95])
    assert (scores.tp[0], scores.fp[0]) == (np.unique(labels[labels > 0]).size, 0)


def test_long_and_bent_objects_come_back():
    labels = np.zeros((70, 70), np.int32)
    labels[5:12, 5:60] = labels[5:60, 53:60] = 4
    labels[20:60, 10:18] = 11
    result = decode("flows", encode(labels), 25.0, {})
    scores = score_thresholds(labels, result, [0.95])
    assert (scores.tp[0], scores.fp[0]) == (2, 0)


def test_holes_are_filled_and_pieces_apart_from_the_middle_are_lost():
    labels = disk((30, 30), 14, (60, 120)).astype(np.int32) * 9
    labels[22:25, 28:31] = 0
    labels[disk((30, 75), 12, labels.shape)] = 500
    labels[50:54, 100:104] = 500  # the same id, apart
    result = decode("flows", encode(labels), 26.0, EVERY_SIZE)
    assert result.max() == 2
    assert result[23, 29] == result[30, 30] > 0
    assert not result[50:54, 100:104].any()
    assert (result == result[30, 75]).sum() == disk((30, 75), 12, labels.shape).sum()


def test_objects_whose_flows_contradict_their_shape_are_dropped():
    labels = draw_cells(2, (120, 160))["truth"].astype(np.int32)
    output = encode(labels)
    wrong = labels == labels.max()
    # Turned by 65 degrees pixels still gather in the middle, but on a spiral.
    angle = np.deg2rad(65)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    output[:2, wrong] = turn @ output[:2, wrong]
    strict, lenient = (
        decode("flows", output, 22.0, {"flow_error": limit, "steps": 400, "gathered": 5}) for limit in (0.4, 0.0)
    )
    assert lenient[wrong].any()
    assert not strict[wrong].any()
    assert strict.max() == labels.max() - 1


def test_noise_gives_defined_labels_and_nothing_gives_none():
    output = np.random.default_rng(0).normal(0, 3, (3, 60, 50)).astype(np.float32)
    labels = decode("flows", output, 12.0, {"flow_error": 0.0})
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert not decode("flows", np.full((3, 20, 30), -1, np.float32), 20.0, {}).any()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 3e38])
def test_flows_that_are_no_numbers_spoil_no_other_object(broken):
    labels = draw_cells(2, (120, 160))["truth"].astype(np.int32)
    output = encode(labels)
    spoilt = labels == 1
    output[:2, spoilt] = np.where(np.random.default_rng(0).random((2, spoilt.sum())) < 0.5, broken, -broken)
    result = decode("flows", output, 22.0, EVERY_SIZE)
    others = np.where(spoilt, 0, labels)
    scores = score_thresholds(others, np.where(spoilt, 0, result), [0.9])
    assert scores.tp[0] == labels.max() - 1
    output[2, spoilt] = np.nan
    assert not decode("flows", output, 22.0, EVERY_SIZE)[spoilt].any()


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="shape"):
        flows.follow(np.zeros((3, 4, 4)), np.ones((4, 4)))
    with pytest.raises(ValueError, match="mask"):
        flows.follow(np.zeros((2, 4, 4)), np.ones((4, 5)))


def test_loss_vanishes_at_the_target_and_targets_are_what_the_decoder_takes():
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from cellinfer_training.losses import flow_loss
    from cellinfer_training.targets import flow_fields

    labels = packed_disks(1)
    target = torch.from_numpy(flow_fields(labels)).permute(2, 0, 1)[None]
    perfect = torch.cat([5 * target[:, :2], 40 * target[:, 2:3] - 20], dim=1)
    np.testing.assert_allclose(perfect[0, :2].numpy(), encode(labels)[:2], atol=1e-6)
    assert flow_loss(perfect, target)["loss"] < 1e-6
    turned = perfect * torch.tensor([-1.0, -1.0, 1.0])[None, :, None, None]
    assert flow_loss(turned, target)["flows"] > 1


@pytest.mark.realdata
def test_real_nuclei_come_back(data_folder: Path):
    from cellinfer.images import read_labels

    masks = sorted((data_folder / "dsb2018" / "masks").glob("*.png"))[::47]
    assert len(masks) >= 10
    total, matched = 0, 0.0
    for path in masks:
        labels = read_labels(path)
        scores = score_thresholds(labels, decode("flows", encode(labels), 20.0, EVERY_SIZE), [0.5])
        total += int(scores.tp[0] + scores.fn[0])
        matched += float(scores.matched_iou_sum[0])
    assert matched / total > 0.93
