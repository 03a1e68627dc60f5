"""The distance decoder: what training encodes comes back, and odd output gives defined labels."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer.decoders import decode
from cellinfer.errors import ModelError
from cellinfer_kernels.matching import score_thresholds
from numpy.typing import NDArray

OPTIONS = {"foreground": 0.5, "core": 0.5, "smallest": 0.05, "smallest_core": 0.005}


def packed_disks(seed: int, side: int = 200) -> NDArray[np.int32]:
    """Disks of radius 6 to 16, some touching, none swallowing another."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    placed: list[tuple[float, float, float]] = []
    for _ in range(400):
        row, column, radius = *random.uniform(0, side, 2), random.uniform(6, 16)
        if all(np.hypot(row - r, column - c) > 0.9 * (radius + q) for r, c, q in placed):
            placed.append((row, column, radius))
            inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
            labels[inside & (labels == 0)] = len(placed)
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_decoding_encoded_labels_gives_them_back(seed: int) -> None:
    targets = pytest.importorskip("cellinfer_training.targets", reason="needs the [train] extra")
    labels = packed_disks(seed)
    fields = np.moveaxis(targets.distance_fields(labels), -1, 0)[:2]
    found = decode("distance", np.ascontiguousarray(fields), 22.0, OPTIONS)
    scores = score_thresholds(labels, found, [0.8])
    truth = np.unique(labels[labels > 0]).size
    # Slivers that the field's edge leaves of a disk may fall below the smallest area.
    assert scores.tp[0] >= 0.95 * truth
    assert scores.fp[0] <= 0.02 * truth


def test_nothing_gives_no_objects() -> None:
    assert not decode("distance", np.zeros((2, 50, 60), np.float32), 20.0, OPTIONS).any()


def test_ids_are_sequential_and_inside_the_foreground() -> None:
    fields = np.random.default_rng(0).random((2, 120, 90), np.float32)
    labels = decode("distance", fields, 4.0, OPTIONS)
    assert labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_two_touching_disks_are_parted_at_the_valley() -> None:
    rows, columns = np.mgrid[:40, :70]
    left, right = np.hypot(rows - 20, columns - 22), np.hypot(rows - 20, columns - 46)
    distance = np.maximum(1 - left / 13, 1 - right / 13).astype(np.float32)
    fields = np.stack([(distance > 0).astype(np.float32), distance])
    labels = decode("distance", fields, 26.0, OPTIONS)
    assert labels.max() == 2
    assert labels[20, 22] != labels[20, 46]
    assert set(np.unique(labels[:, :34])) <= {0, labels[20, 22]}


def test_unknown_decoders_and_options_are_refused() -> None:
    fields = np.zeros((2, 8, 8), np.float32)
    with pytest.raises(ModelError, match="distance"):
        decode("polar", fields, 20.0, {})
    with pytest.raises(ModelError, match="options"):
        decode("distance", fields, 20.0, {"colour": 1.0})
