"""Decoders of per-pixel classes, semantic and three-class: labels come back, up to what their fields can say."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from cellinfer.decoders import DECODERS, decode
from cellinfer.decoders.mask_rcnn import find_objects
from cellinfer.errors import ModelError
from cellinfer_kernels.components import boundaries
from cellinfer_kernels.matching import score_thresholds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from tests.conftest import draw_cells
from tests.test_distance_decoder import packed_disks

Labels = NDArray[np.int32]
EVERY_SIZE = {"smallest": 0.0}


def semantic(labels: Labels) -> NDArray[np.float32]:
    return (labels > 0)[None].astype(np.float32)


def three_class(labels: Labels) -> NDArray[np.float32]:
    edge = boundaries(labels)
    return np.stack([labels == 0, (labels > 0) & ~edge, edge]).astype(np.float32)


def mosaics() -> st.SearchStrategy[Labels]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
    return hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 3, 3, 3, 3, 7]))


def one_for_one(labels: Labels, result: Labels, threshold: float) -> bool:
    """Whether every object was found and none invented."""
    scores = score_thresholds(labels, result, [threshold])
    return scores.tp[0] == np.unique(labels[labels > 0]).size and scores.fp[0] == 0


def test_parts_of_the_training_package_agree():
    targets = pytest.importorskip("cellinfer_training.targets", reason="needs the [train] extra")
    labels = packed_disks(0)
    np.testing.assert_array_equal(np.moveaxis(targets.semantic_fields(labels), -1, 0)[:1], semantic(labels))
    fields = np.moveaxis(targets.three_class_fields(labels), -1, 0)
    np.testing.assert_array_equal(fields[:3], three_class(labels))
    assert set(np.unique(fields[3])) == {1.0, 4.0}


def test_losses_vanish_at_the_target_only():
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from cellinfer_training.losses import semantic_loss, three_class_loss
    from cellinfer_training.targets import semantic_fields, three_class_fields

    labels = packed_disks(1, 64)
    for loss, fields in ((semantic_loss, semantic_fields), (three_class_loss, three_class_fields)):
        target = torch.from_numpy(fields(labels)).permute(2, 0, 1)[None]
        logits = 40 * target[:, :-1] - 20
        assert loss(logits, target)["loss"] < 1e-6
        assert loss(-logits, target)["loss"] > 10


@given(mosaics())
def test_semantic_gives_the_connected_components(labels):
    result = decode("semantic", semantic(labels), 4.0, EVERY_SIZE)
    expected, _ = ndimage.label(labels > 0)
    np.testing.assert_array_equal(result, expected)


@given(mosaics(), st.sampled_from([0.3, 0.6, 1.5]))
def test_splitting_loses_no_pixel_and_joins_nothing(labels, split):
    whole = decode("semantic", semantic(labels), 6.0, EVERY_SIZE)
    parts = decode("semantic", semantic(labels), 6.0, {"split": split, **EVERY_SIZE})
    np.testing.assert_array_equal(parts > 0, whole > 0)
    for part in range(1, parts.max() + 1):
        assert np.unique(whole[parts == part]).size == 1


def test_semantic_joins_what_touches_and_split_parts_it():
    labels = packed_disks(0)
    count = np.unique(labels[labels > 0]).size
    joined = decode("semantic", semantic(labels), 22.0, EVERY_SIZE)
    assert joined.max() < 0.7 * count
    parted = decode("semantic", semantic(labels), 22.0, {"split": 0.4, **EVERY_SIZE})
    scores = score_thresholds(labels, parted, [0.8])
    assert scores.tp[0] >= 0.93 * count
    assert scores.fp[0] <= 0.05 * count


def test_a_diameter_beyond_the_image_costs_no_more_than_the_image(monkeypatch):
    sides = []

    def element(shape, size, make=cv2.getStructuringElement):
        sides.append(size[0])
        return make(shape, size)

    monkeypatch.setattr(cv2, "getStructuringElement", element)
    labels = packed_disks(0, 60)
    joined = decode("semantic", semantic(labels), 3000.0, EVERY_SIZE)
    parted = decode("semantic", semantic(labels), 3000.0, {"split": 0.5, **EVERY_SIZE})
    np.testing.assert_array_equal(parted > 0, joined > 0)
    assert parted.max() == joined.max()
    assert sides
    assert max(sides) <= 2 * np.hypot(60, 60) + 2


@pytest.mark.parametrize("options", [{}, {"split": 0.4}])
def test_separate_cells_come_back_from_the_foreground(options):
    labels = draw_cells(3, (200, 230))["truth"].astype(np.int32)
    assert one_for_one(labels, decode("semantic", semantic(labels), 22.0, options), 0.999)


@pytest.mark.parametrize("seed", range(3))
def test_three_class_gives_touching_cells_back(seed):
    labels = packed_disks(seed)
    assert one_for_one(labels, decode("three-class", three_class(labels), 22.0, EVERY_SIZE), 0.95)


@given(mosaics())
def test_three_class_gives_one_object_per_interior_within_the_foreground(labels):
    fields = three_class(labels)
    result = decode("three-class", fields, 4.0, EVERY_SIZE)
    _, interiors = ndimage.label(fields[1])
    assert result.max() == interiors
    # A hole that one object surrounds is filled; nothing else outside becomes object.
    assert not (result > 0)[(labels == 0) & ~ndimage.binary_fill_holes(labels > 0)].any()
    for number in range(1, interiors + 1):
        assert np.unique(labels[(result == number) & (fields[1] > 0)]).size == 1


def test_three_class_loses_objects_without_interior_and_parts_those_with_a_waist():
    labels = np.zeros((20, 40), np.int32)
    labels[3:5, 3:15] = 1  # two pixels wide
    labels[8:15, 3:10] = labels[8:15, 14:21] = labels[11:13, 9:15] = 2
    labels[8:15, 25:35] = 5
    labels[11, 29] = 0  # a hole
    result = decode("three-class", three_class(labels), 8.0, EVERY_SIZE)
    assert not result[labels == 1].any()
    assert result[11, 5] != result[11, 17]
    assert result.max() == 3
    assert (result[8:15, 25:35] == result[9, 27]).all()


@pytest.mark.parametrize(("kind", "planes"), [("semantic", 1), ("three-class", 3)])
def test_scalar_fields_turn_with_the_image(kind, planes):
    assert DECODERS[kind].scalar
    labels = packed_disks(4, 120)
    fields = semantic(labels) if planes == 1 else three_class(labels)
    straight = decode(kind, fields, 22.0, EVERY_SIZE)
    turned = decode(kind, np.ascontiguousarray(np.rot90(fields, axes=(1, 2))), 22.0, EVERY_SIZE)
    assert one_for_one(np.ascontiguousarray(np.rot90(straight)), turned, 0.9)


@pytest.mark.parametrize(("kind", "planes"), [("semantic", 1), ("three-class", 3)])
def test_noise_gives_sequential_labels_and_nothing_gives_none(kind, planes):
    random = np.random.default_rng(0).random((planes, 70, 50), np.float32)
    labels = decode(kind, random, 4.0, {})
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    background = np.zeros((planes, 30, 20), np.float32)
    background[0] = planes == 3
    assert not decode(kind, background, 4.0, {}).any()


def test_the_options_named_for_the_mask_rcnn_are_those_it_takes():
    named = DECODERS["mask-rcnn"].find_options
    with pytest.raises(ModelError, match=re.escape(f"it takes {list(named)}")):
        find_objects(None, np.zeros((1, 8, 8), np.float32), 28.0, (8, 8), {"certainty": 0.5})


@pytest.mark.realdata
def test_real_nuclei_come_back(data_folder: Path):
    from cellinfer.images import read_labels

    masks = sorted((data_folder / "dsb2018" / "masks").glob("*.png"))[::47]
    assert len(masks) >= 10
    total, matched = 0, {"semantic": 0.0, "three-class": 0.0}
    for path in masks:
        labels = read_labels(path)
        total += np.unique(labels[labels > 0]).size
        for kind, fields in (("semantic", semantic(labels)), ("three-class", three_class(labels))):
            scores = score_thresholds(labels, decode(kind, fields, 20.0, EVERY_SIZE), [0.5])
            matched[kind] += float(scores.matched_iou_sum[0])
    assert matched["three-class"] / total > 0.9
    assert 0.6 < matched["semantic"] / total < matched["three-class"] / total
