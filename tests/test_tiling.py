"""Tiles cover every field exactly once, and a local network cannot tell that there were any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cellinfer.cards import parse_card
from cellinfer.errors import ModelError
from cellinfer.tiling import plan, predict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.test_sessions import description


@given(length=st.integers(1, 3000), halo=st.integers(0, 40), tile=st.sampled_from([128, 256, 640]))
def test_tiles_cover_the_axis_once_and_see_their_surroundings(length: int, halo: int, tile: int) -> None:
    size, spans = plan(length, tile, halo, 16)
    assert size % 16 == 0
    assert size <= tile
    assert [pixel for span in spans for pixel in range(span.first, span.stop)] == list(range(length))
    for span in spans:
        assert span.start % 16 == 0
        assert -16 <= span.start <= span.first
        assert span.stop <= span.start + size
        assert span.start <= max(0, span.first - halo)
        assert span.start + size >= min(length, span.stop + halo)


@pytest.fixture(scope="module")
def bundled() -> dict[str, Any]:
    return description()


@given(
    length=st.integers(1, 500), tiles=st.integers(0, 9), halo=st.integers(-1, 80), multiple=st.sampled_from([1, 5, 16])
)
def test_every_card_that_is_accepted_can_be_tiled(
    bundled: dict[str, Any], length: int, tiles: int, halo: int, multiple: int
) -> None:
    sizes = {"tile": tiles * multiple, "halo": halo, "multiple": multiple, "stride": 1}
    try:
        parse_card({**bundled, "config": {"cellinfer": bundled["config"]["cellinfer"] | sizes}}, "mine")
    except ModelError as error:
        assert "halo" in str(error)
        assert halo < 0 or tiles * multiple - 2 * halo < 3 * multiple
    else:
        assert plan(length, tiles * multiple, halo, multiple)[1][-1].stop == length


def blur(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 'network' that sees 3 pixels far and gives two fields."""
    padded = np.pad(batch[:, 0], ((0, 0), (3, 3), (3, 3)), mode="edge")
    total = sum(padded[:, y : y + batch.shape[2], x : x + batch.shape[3]] for y in range(7) for x in range(7))
    return np.stack([np.asarray(total, np.float32), batch[:, 0]], axis=1)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_tiles_leave_no_seams(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((1, height, width), np.float32)
    tiled = predict(blur, image, tile=96, halo=16, multiple=16)
    whole = predict(blur, image, tile=4096, halo=16, multiple=16)
    assert tiled.shape == (2, height, width)
    np.testing.assert_array_equal(tiled[1], image[0])
    np.testing.assert_allclose(tiled, whole, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_all_tiles_have_one_shape_and_batches_are_bounded(batch: int) -> None:
    shapes = []

    def network(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        shapes.append(tiles.shape)
        return tiles

    predict(network, np.zeros((1, 200, 170), np.float32), tile=96, halo=16, multiple=16, batch=batch)
    assert {shape[1:] for shape in shapes} == {(1, 96, 96)}
    assert max(shape[0] for shape in shapes) <= batch
    assert sum(shape[0] for shape in shapes) == 4 * 3


@pytest.mark.parametrize(
    ("change", "stride", "gives"),
    [
        (lambda tiles: tiles[..., 1:-1, 1:-1], 1, "94x94 for a tile of 96x96; its card's stride 1 promises 96x96"),
        (lambda tiles: tiles.repeat(2, axis=2).repeat(2, axis=3), 1, "192x192 for a tile"),
        (lambda tiles: tiles[..., ::2, ::4], 2, "48x24 for a tile of 96x96; its card's stride 2 promises 48x48"),
        (lambda tiles: tiles, 2, "96x96 for a tile"),
    ],
)
def test_fields_of_another_size_than_promised_are_refused(change: Any, stride: int, gives: str) -> None:
    image = np.zeros((1, 200, 170), np.float32)
    with pytest.raises(ModelError, match=gives):
        predict(change, image, tile=96, halo=16, multiple=16, stride=stride)


def test_a_network_may_give_coarser_fields() -> None:
    image = np.random.default_rng(0).random((1, 201, 170), np.float32)
    coarse = predict(lambda tiles: tiles[..., ::2, ::2], image, tile=96, halo=16, multiple=16, stride=2)
    np.testing.assert_array_equal(coarse, image[:, ::2, ::2])
