"""Models that describe cells: cards are strict, files are verified, and neither kind passes for the other."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cellinfer import models
from cellinfer.cards import METADATA_KEY, EmbeddingCard, ModelCard, card_from_metadata, parse_embedding_card
from cellinfer.cli import app
from cellinfer.errors import ModelError
from cellinfer.golden import golden_result
from cellinfer.sessions import EmbeddingSession, Session, open_embedder, open_model, open_session
from onnx import TensorProto
from typer.testing import CliRunner

from tests.embedders import FEATURES, SIDE, describe, features_of, save_embedder

OURS = ("config", "cellinfer", "embedding")
MISSING = object()


def crops(count: int, channels: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).uniform(-1, 1, (count, channels, SIDE, SIDE)).astype(np.float32)


def test_a_card_is_read_as_it_stands() -> None:
    card = parse_embedding_card(describe(("DNA", "ER"), each_channel=False, diameter=30, range=[0, 1]), "mine")
    assert (card.channels, card.diameter, card.value_range) == (("DNA", "ER"), 30.0, (0.0, 1.0))
    assert (card.side, card.box, card.features, card.each_channel) == (SIDE, 40, FEATURES, False)
    assert parse_embedding_card(describe(), "mine").diameter is None


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        *((((*OURS, name), MISSING, rf"lacks the field config\.cellinfer\.embedding\.{name}")) for name in (
            "side", "range", "box", "diameter", "features", "each_channel", "mask_neighbours",
        )),
        (OURS, MISSING, "lacks the field config.cellinfer.embedding"),
        (("license",), MISSING, "lacks the field license"),
        ((*OURS, "side"), 32.5, "side as 32.5: it must be a whole number"),
        ((*OURS, "side"), 4, "side 4 is not in 8..4096"),
        ((*OURS, "box"), 1, "box 1 is not in 2..4096"),
        ((*OURS, "box"), 2**40, "box 1099511627776"),
        ((*OURS, "diameter"), 0, "diameter 0.0 is not positive"),
        ((*OURS, "diameter"), "wide", "diameter as 'wide'"),
        ((*OURS, "features"), 0, "features 0"),
        ((*OURS, "features"), 10**9, "features 1000000000"),
        ((*OURS, "range"), [0, 255], r"range as \[0.0, 255.0\]: it must be \[-1, 1\] or \[0, 1\]"),
        ((*OURS, "range"), [0], r"range as \[0.0\]"),
        ((*OURS, "range"), "0..1", "range as '0..1': it must be a list"),
        ((*OURS, "each_channel"), 1, "each_channel as 1: it must be true or false"),
        ((*OURS, "mask_neighbours"), "no", "mask_neighbours as 'no'"),
        ((*OURS, "crop"), 7, "embedding.crop, which this version does not know"),
        (("inputs", 0, "axes", 1, "channel_names"), [], "no input channel"),
        (("inputs", 0, "axes", 1, "channel_names"), ["DNA", "ER"], "alone, and it names 2"),
        (("inputs", 0, "preprocessing"), [{"id": "zero_mean_unit_variance", "kwargs": {}}], "zero_mean_unit_variance"),
        (("inputs", 0, "preprocessing"), [{"id": "scale_range"}], "lacks the field inputs.0.preprocessing.0.kwargs"),
        (
            ("inputs", 0, "preprocessing"),
            [{"id": "scale_range", "kwargs": {"min_percentile": 0, "max_percentile": 100}}],
            "not what its range",
        ),
        (("config", "cellinfer", "golden"), None, "golden as None"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_card_is_said_in_one_sentence(path: tuple[Any, ...], value: Any, reason: str) -> None:
    card = inner = describe()
    for step in path[:-1]:
        inner = inner[step]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(ModelError, match=reason) as refused:
        card_from_metadata({METADATA_KEY: json.dumps(card)}, "mine")
    assert "\n" not in str(refused.value)


def test_channels_that_repeat_are_refused() -> None:
    with pytest.raises(ModelError, match="repeat"):
        parse_embedding_card(describe(("DNA", "DNA"), each_channel=False), "mine")


def test_a_preprocessing_that_says_the_same_as_the_range_is_accepted() -> None:
    scale = {"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": 0.0, "max_percentile": 100.0}}
    card = describe()
    card["inputs"][0]["preprocessing"] = [scale, {"id": "scale_linear", "kwargs": {"gain": 2, "offset": -1}}]
    assert parse_embedding_card(card, "mine").value_range == (-1.0, 1.0)
    card = describe(range=[0, 1])
    card["inputs"][0]["preprocessing"] = [scale]
    assert parse_embedding_card(card, "mine").value_range == (0.0, 1.0)


def test_the_network_gives_what_it_should(tmp_path: Path) -> None:
    session = open_embedder(save_embedder(tmp_path / "own.onnx"), "cpu", 1)
    assert isinstance(session.card, EmbeddingCard)
    np.testing.assert_allclose(session.run(crops(7)), features_of(crops(7)), rtol=1e-4, atol=1e-6)


def test_crops_of_several_threads_go_together_and_come_back_the_same(tmp_path: Path) -> None:
    alone = open_embedder(save_embedder(tmp_path / "own.onnx"), "cpu", 1)
    together, given = alone.shared(4), crops(24)
    found: dict[int, Any] = {}

    def work(start: int) -> None:
        found[start] = together.run(given[start : start + 6])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 24, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together.batch == 4
    np.testing.assert_array_equal(np.concatenate([found[start] for start in range(0, 24, 6)]), alone.run(given))


@pytest.mark.parametrize("shape", [(2, 1, 31, 32), (2, 2, 32, 32), (1, 32, 32)])
def test_crops_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    session = open_embedder(save_embedder(tmp_path / "own.onnx"), "cpu", 1)
    with pytest.raises(ModelError, match=r"crops of shape \(N, 1, 32, 32\)"):
        session.run(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"crops": [1, 1, SIDE, SIDE]},
        {"crops": ["n", 1, "h", "w"]},
        {"crops": ["n", 1, SIDE + 4, SIDE + 4]},
        {"names": ("image", "features")},
        {"names": ("crops", "fields")},
        {"kind": TensorProto.DOUBLE},
    ],
)
def test_a_network_that_contradicts_its_card_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"one (input|output) '(crops|features)' of 32-bit floats, shape \(N, "):
        open_embedder(save_embedder(tmp_path / "own.onnx", **options), "cpu", 1)


def test_features_that_are_not_as_many_as_the_card_says_are_refused(tmp_path: Path) -> None:
    card = describe()
    path = save_embedder(tmp_path / "own.onnx", card)
    other = copy.deepcopy(card)
    other["config"]["cellinfer"]["embedding"]["features"] = FEATURES + 1
    content = path.read_bytes().replace(json.dumps(card).encode(), json.dumps(other).encode())
    (tmp_path / "other.onnx").write_bytes(content)  # 6 and 7 are equally long
    with pytest.raises(ModelError, match=r"'features' of 32-bit floats, shape \(N, 7\)"):
        open_embedder(tmp_path / "other.onnx", "cpu", 1)


def test_neither_kind_passes_for_the_other(tmp_path: Path) -> None:
    path = save_embedder(tmp_path / "own.onnx")
    with pytest.raises(ModelError, match="describes cells and finds none: give it as --embed"):
        open_session(path, "cpu", 1)
    with pytest.raises(ModelError, match="'nuclei' finds objects and does not describe cells"):
        open_embedder("nuclei", "cpu", 1)
    assert isinstance(open_model(path, "cpu", 1), EmbeddingSession)
    assert isinstance(open_model("nuclei", "cpu", 1), Session)
    assert isinstance(models.card("nuclei"), ModelCard)


@pytest.mark.parametrize("command", ["segment", "run"])
def test_commands_that_find_objects_refuse_it(tmp_path: Path, command: str) -> None:
    path = save_embedder(tmp_path / "own.onnx")
    (tmp_path / "images").mkdir()
    import cv2

    cv2.imwrite(str(tmp_path / "images" / "A01_s1_w1.png"), np.zeros((64, 64), np.uint16))
    result = CliRunner().invoke(
        app, [command, str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--model", str(path)]
    )
    assert isinstance(result.exception, ModelError)
    assert "--embed" in str(result.exception)


def with_golden(path: Path) -> tuple[Path, dict[str, Any]]:
    card = describe()
    card["config"]["cellinfer"]["golden"] = golden_result(open_model(save_embedder(path), "cpu", 1))
    return save_embedder(path, card), card


def test_a_golden_result_is_verified(tmp_path: Path) -> None:
    path, card = with_golden(tmp_path / "own.onnx")
    assert "4 golden crops as in its card" in models.verify(path)
    with pytest.raises(ModelError, match="differ by up to"):
        models.verify(save_embedder(path, card, seed=4))
    golden = card["config"]["cellinfer"]["golden"]
    golden["features"].pop()
    with pytest.raises(ModelError, match="of shape"):
        models.verify(save_embedder(path, card))
    golden["input_sha256"] = "0" * 64
    with pytest.raises(ModelError, match="golden input"):
        models.verify(save_embedder(path, card))
    with pytest.raises(ModelError, match="no golden result"):
        models.verify(save_embedder(path))


def test_the_command_line_shows_and_verifies_it(tmp_path: Path) -> None:
    path, card = with_golden(tmp_path / "own.onnx")
    shown = CliRunner().invoke(app, ["models", "show", str(path), "--json"])
    assert json.loads(shown.output) == card
    assert "golden crops" in CliRunner().invoke(app, ["models", "verify", str(path)]).output
