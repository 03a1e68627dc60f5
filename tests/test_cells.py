"""Cells hold their nuclei, ids are one to one, the edge policy keeps neighbours honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cellinfer.cells import compartments, grow_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage


def disk(shape: tuple[int, int], row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column) <= radius


def test_a_cell_ends_where_its_cytoplasm_ends() -> None:
    shape = (80, 80)
    nuclei = disk(shape, 40, 40, 8).astype(np.int32)
    body = disk(shape, 40, 40, 20)
    image = np.where(body, 800, 100).astype(np.uint16)
    cells = grow_cells(nuclei, image, 40, diameter=16)
    overlap = ((cells == 1) & body).sum() / ((cells == 1) | body).sum()
    assert overlap > 0.9


def test_no_cell_reaches_farther_than_asked() -> None:
    nuclei = disk((90, 90), 45, 45, 6).astype(np.int32)
    cells = grow_cells(nuclei, np.full((90, 90), 500, np.uint16), 10, diameter=12)
    assert not cells[~disk((90, 90), 45, 45, 16.5)].any()
    assert cells[disk((90, 90), 45, 45, 15)].all()


def test_two_cells_part_at_the_dark_line_between_them() -> None:
    nuclei = np.zeros((60, 100), np.int32)
    nuclei[disk(nuclei.shape, 30, 25, 7)], nuclei[disk(nuclei.shape, 30, 70, 7)] = 1, 2
    image = np.full(nuclei.shape, 900.0, np.float32)
    image[:, 58:60] = 500  # nearer to the right nucleus than the middle is
    image[:5] = 100
    cells = grow_cells(nuclei, image, 60, diameter=14)
    assert (cells[10:55, 30:55] == 1).all()
    assert (cells[10:55, 62:90] == 2).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), with_image=st.booleans())
def test_ids_are_one_to_one(seed: int, with_image: bool) -> None:
    random = np.random.default_rng(seed)
    nuclei = np.zeros((70, 90), np.int32)
    for number in range(1, 12):
        spot = disk(nuclei.shape, *random.uniform(0, 90, 2), random.uniform(1, 9)) & (nuclei == 0)
        nuclei[spot] = number
    _, nuclei_flat = np.unique(nuclei, return_inverse=True)
    nuclei = nuclei_flat.reshape(nuclei.shape).astype(np.int32)
    image = random.integers(0, 4000, nuclei.shape).astype(np.uint16) if with_image else None
    parts = compartments(nuclei, image, 12, diameter=12)
    ids = np.arange(1, parts.kept.size + 1)
    for labels in (parts.nuclei, parts.cells):
        assert np.array_equal(np.unique(labels[labels > 0]), ids)
    assert (parts.cells[parts.nuclei > 0] == parts.nuclei[parts.nuclei > 0]).all()
    assert np.array_equal(parts.cytoplasm, np.where(parts.nuclei > 0, 0, parts.cells))
    rim = np.concatenate([parts.nuclei[0], parts.nuclei[-1], parts.nuclei[:, 0], parts.nuclei[:, -1]])
    assert not rim.any()
    for new, old in zip(ids, parts.kept, strict=True):
        assert np.array_equal(parts.nuclei == new, nuclei == old)


def test_nuclei_at_the_edge_keep_their_cytoplasm_from_neighbours() -> None:
    nuclei = np.zeros((40, 60), np.int32)
    nuclei[15:25, 0:8] = 1
    nuclei[15:25, 26:34] = 2
    parts = compartments(nuclei, None, 30, diameter=10, edge="drop")
    assert parts.dropped == 1
    assert parts.kept.tolist() == [2]
    assert not parts.cells[15:25, :15].any()
    kept = compartments(nuclei, None, 30, diameter=10, edge="keep")
    assert kept.dropped == 0
    assert kept.cells.max() == 2


def test_neither_the_layout_of_an_image_nor_its_type_matters_and_it_is_left_alone() -> None:
    random = np.random.default_rng(4)
    nuclei = np.zeros((90, 130), np.int32)
    for number in range(1, 9):
        nuclei[disk(nuclei.shape, *random.uniform(10, 80, 2), 6) & (nuclei == 0)] = number
    image = random.integers(0, 4000, nuclei.shape).astype(np.uint16)
    before, seeds = image.copy(), nuclei.copy()
    expected = compartments(nuclei, image, 12, diameter=12)
    for other in (np.asfortranarray(image), image.astype(np.float32), image.astype(np.float64, order="F")):
        copy = other.copy(order="K")
        assert np.array_equal(compartments(nuclei, other, 12, diameter=12).cells, expected.cells)
        assert np.array_equal(other, copy)
    assert np.array_equal(image, before)
    assert np.array_equal(nuclei, seeds)


def test_without_an_image_a_pixel_belongs_to_the_nearest_nucleus() -> None:
    nuclei = np.zeros((60, 80), np.int32)
    nuclei[disk(nuclei.shape, 20, 20, 7)], nuclei[disk(nuclei.shape, 35, 50, 9)] = 1, 2
    cells = grow_cells(nuclei, None, 12, diameter=15)
    away = [ndimage.distance_transform_edt(nuclei != name) for name in (1, 2)]
    assert np.array_equal(cells > 0, np.minimum(*away) <= 12)
    assert (away[0] <= away[1])[cells == 1].all()
    assert (away[1] <= away[0])[cells == 2].all()


@pytest.mark.parametrize("image", [None, np.zeros((20, 20), np.uint16), np.full((20, 20), np.nan)])
def test_empty_fields_and_planes_are_no_error(image: NDArray[Any] | None) -> None:
    nuclei = np.zeros((20, 20), np.int32)
    assert not compartments(nuclei, image, 5, diameter=8).cells.any()
    nuclei[10, 10] = 1  # one pixel
    parts = compartments(nuclei, image, 5, diameter=8)
    assert parts.nuclei.sum() == 1
    assert parts.cells[10, 10] == 1
