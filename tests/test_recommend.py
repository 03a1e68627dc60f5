"""Which model for which images: cards decide, views of a sample part equals, and nothing is passed over in silence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cellinfer_models
import cv2
import numpy as np
import onnx
import pytest
from cellinfer import models
from cellinfer.cards import METADATA_KEY, parse_card
from cellinfer.cli import app
from cellinfer.errors import InputError, ModelError
from cellinfer.microscopy import ASPECTS, CHALLENGES, MODALITIES, find_word
from cellinfer.models import draw_trials, rank, recommend
from cellinfer.sessions import open_session
from cellinfer_models import Entry, digest
from cellinfer_training.suited import SUITED
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from tests.conftest import draw_cells


def describe(name: str, suited: dict[str, Any] | None, channels: tuple[str, ...] = ("DNA",)) -> dict[str, Any]:
    """A card like that of the bundled model."""
    card = copy.deepcopy(dict(open_session("nuclei", "cpu", 1).card.description_file))
    card["name"] = name
    card["inputs"][0]["axes"][1]["channel_names"] = list(channels)
    ours = card["config"]["cellinfer"]
    ours.pop("suited", None)
    ours |= {"evaluation": {}} | ({} if suited is None else {"suited": suited})
    ours["decoder"] = {"kind": "distance", "options": {}}
    ours["stride"] = 1
    return card


def save_network(path: Path, card: dict[str, Any], *, gain: float = 1.0, shift: int = 0) -> Path:
    """A network whose fields are the image's mean over channels, made weaker, and moved to the right.

    On bright objects that is a segmentation; one that is moved depends on how the image is turned.
    """
    channels = len(card["inputs"][0]["axes"][1]["channel_names"])
    kernel = np.zeros((2, channels, 1, 2 * shift + 1), np.float32)
    kernel[..., 0] = gain / channels
    node = helper.make_node("Conv", ["image", "kernel"], ["fields"], pads=[0, shift, 0, shift])
    graph = helper.make_graph(
        [node],
        "moved mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("fields", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        initializer=[numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, path)
    return path


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The six shipped cards on small networks, in place of what is bundled."""
    table = {}
    for name, suited in SUITED.items():
        channels = ("red", "green", "blue") if name == "nuclei-tissue" else ("DNA",)
        path = save_network(tmp_path / f"{name}.onnx", describe(name, suited, channels))
        table[name] = Entry(name, path.name, digest(path.read_bytes()), "")
    monkeypatch.setattr(cellinfer_models, "registry", lambda: table)
    monkeypatch.setattr(cellinfer_models, "folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sample() -> NDArray[Any]:
    return draw_cells(3, (180, 220))["DNA"]


# Words and cards


def test_aliases_case_and_blanks_do_not_matter() -> None:
    assert find_word("modality", "H&E") == "he"
    assert find_word("modality", "Phase Contrast") == "phase-contrast"
    assert find_word("modality", "light_sheet") == "light-sheet"
    assert find_word("challenge", "touching") == "dense"
    assert find_word("dimension", "3D") == "3d"


@pytest.mark.parametrize(("aspect", "words"), ASPECTS.items())
def test_no_word_has_two_meanings(aspect: str, words: Any) -> None:
    names = [name for word, entry in words.items() for name in (word, *entry.aliases)]
    assert len(names) == len(set(names))
    assert all(find_word(aspect, name) in words for name in names)


@pytest.mark.parametrize("name", SUITED)
def test_the_shipped_cards_answer_every_question(name: str) -> None:
    suited = parse_card(describe(name, SUITED[name]), name).suited
    assert suited.role
    for aspect, words in ASPECTS.items():
        for word in words:
            answer = suited.of(aspect, word)
            assert answer is not None, (aspect, word)
            assert answer.why


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"modality": {"x-ray": {"fit": "good", "why": "it glows"}}}, "x-ray"),
        ({"modality": {"he": {"fit": "great", "why": "it is"}}}, "good, partly, poor"),
        ({"modality": {"he": {"fit": "good"}}}, "a why"),
        ({"modality": "he"}, "a why"),
        (["he"], "a why"),
        ({"weather": {}}, "weather"),
    ],
)
def test_cards_that_say_it_wrong_are_refused(stated: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        parse_card(describe("mine", stated), "mine")


# What the cards decide


@pytest.mark.parametrize(
    ("question", "model"),
    [
        ({"modality": "fluorescence"}, "nuclei"),
        ({"modality": "confocal", "sample": "tissue"}, "nuclei"),
        ({"modality": "h&e"}, "nuclei-tissue"),
        ({"modality": "stained"}, "nuclei-tissue"),
        ({"modality": "widefield", "challenges": ["dim"]}, "nuclei-accurate"),
        ({"modality": "widefield", "challenges": ["heterogeneous", "concave"]}, "maskrcnn"),
        ({"modality": "widefield", "dimension": "time"}, "nuclei"),
        ({"modality": "phase contrast"}, None),
        ({"modality": "widefield", "dimension": "3d"}, None),
        ({"modality": "widefield", "object": "cells"}, None),
    ],
)
def test_cards_choose(zoo: Path, question: dict[str, Any], model: str | None) -> None:
    answer = recommend(**question)
    assert answer.model == model
    assert set(answer.why_not) == set(SUITED) - {model}
    assert all(answer.why_not.values())
    assert bool(answer.why) == (model is not None)
    assert model is not None or answer.advice


def test_every_question_has_an_answer(zoo: Path) -> None:
    for modality in MODALITIES:
        for challenge in CHALLENGES:
            answer = recommend(modality=modality, challenges=[challenge])
            assert answer.model is not None or answer.advice
            assert answer.path[-1] == modality


def test_the_reasons_are_those_of_the_cards(zoo: Path) -> None:
    answer = recommend(modality="widefield", challenges=["concave", "touching"])
    assert answer.model == "nuclei"
    assert "cannot follow a bay" in answer.why_not["stardist"]
    assert "become one" in answer.why_not["unet"]
    assert "as well suited" in answer.why_not["nuclei-accurate"]
    assert "in colour" in answer.why_not["nuclei-tissue"]
    assert any("valley" in reason for reason in answer.why)
    assert answer.path == ("culture or tissue", "labelled", "widefield")


def test_figures_of_common_validation_images_stand_beside_equals(zoo: Path) -> None:
    table = cellinfer_models.registry()
    for name, figure in (("nuclei", 0.7), ("nuclei-accurate", 0.8)):
        card = describe(name, SUITED[name])
        card["config"]["cellinfer"]["evaluation"] = {"validation": {"bbbc039": {"map_dsb": figure}}}
        path = save_network(zoo / f"{name}.onnx", card)
        table[name] = Entry(name, path.name, digest(path.read_bytes()), "")
    assert "0.800 against 0.700 on bbbc039" in recommend(modality="widefield").why_not["nuclei-accurate"]


def test_where_nothing_fits_it_says_what_to_do(zoo: Path) -> None:
    cells = recommend(modality="phase-contrast", object="cells")
    assert any("fine-tune" in line for line in cells.advice)
    assert any("ONNX" in line and "distance" in line for line in cells.advice)
    volume = recommend(modality="widefield", dimension="3d")
    assert any("projection" in line for line in volume.advice)
    assert not any("fine-tune" in line for line in volume.advice)
    grown = recommend(modality="widefield", object="cells")
    assert any("grows cells" in line for line in grown.advice)
    assert not any("grows cells" in line for line in cells.advice)


def test_what_the_best_model_cannot_do_is_said(zoo: Path) -> None:
    answer = recommend(modality="he", challenges=["overlapping"])
    assert answer.model == "nuclei-tissue"
    assert any("overlapping" in line for line in answer.advice)


def test_a_card_that_does_not_say_is_no_recommendation_but_can_be_tried(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, sample: NDArray[Any]
) -> None:
    own = str(save_network(zoo / "own.onnx", describe("own", None)))
    monkeypatch.setattr(cellinfer_models, "registry", dict)
    answer = recommend(modality="widefield", models=[own])
    assert answer.model is None
    assert "does not say" in answer.why_not[own]
    assert any("sample image" in line for line in answer.advice)
    tried = recommend(modality="widefield", models=[own], image=sample)
    assert tried.model == own
    assert any("does not say" in line for line in tried.advice)


@pytest.mark.parametrize(
    ("question", "known"),
    [
        ({"modality": "x-ray"}, "phase-contrast"),
        ({"modality": "he", "challenges": ["hairy"]}, "elongated"),
        ({"modality": "he", "dimension": "4d"}, "2d"),
        ({"modality": "he", "object": "dogs"}, "nuclei"),
        ({"modality": "he", "sample": "soil"}, "culture"),
        ({"modality": "he", "sample": "culture"}, "tissue"),
        ({}, "widefield"),
    ],
)
def test_unknown_words_are_refused_with_those_that_are_known(question: dict[str, Any], known: str) -> None:
    with pytest.raises(InputError, match=known):
        recommend(**question)


# What a sample decides


def test_the_surer_model_ranks_first_and_the_blind_one_last(tmp_path: Path, sample: NDArray[Any]) -> None:
    steady, shaky, blind = (
        str(save_network(tmp_path / f"{name}.onnx", describe(name, None), **options))
        for name, options in (("steady", {}), ("shaky", {"shift": 3}), ("blind", {"gain": 0.0}))
    )
    trials = rank(sample, [blind, shaky, steady])
    assert [trial.model for trial in trials] == [steady, shaky, blind]
    assert trials[0].agreement == pytest.approx(1.0)
    assert trials[1].agreement is not None
    assert 0.3 < trials[1].agreement < 0.9
    assert trials[0].objects == trials[1].objects == draw_cells(3, (180, 220))["truth"].max()
    assert trials[2].agreement is None
    assert trials[2].objects == 0


def test_objects_that_come_and_go_count_against_a_model(tmp_path: Path) -> None:
    own = save_network(tmp_path / "own.onnx", describe("own", None), shift=5)
    image = np.zeros((128, 128), np.uint8)
    cv2.circle(image, (64, 64), 26, 200, -1)  # large: the moved views of it still overlap
    (alone,) = rank(image, [own])
    cv2.circle(image, (16, 16), 6, 200, -1)  # small: the moved views of it do not
    (both,) = rank(image, [own])
    assert alone.objects == both.objects == 1
    assert alone.agreement is not None
    assert both.agreement is not None
    assert both.agreement < 0.7 * alone.agreement


def test_the_image_parts_equals_and_turns_down_the_blind(zoo: Path, sample: NDArray[Any]) -> None:
    table = cellinfer_models.registry()
    path = save_network(zoo / "nuclei.onnx", describe("nuclei", SUITED["nuclei"]), shift=3)
    table["nuclei"] = Entry("nuclei", path.name, digest(path.read_bytes()), "")
    answer = recommend(modality="widefield", image=sample)
    assert answer.model == "nuclei-accurate"
    assert "agree no better" in answer.why_not["nuclei"]
    path = save_network(zoo / "nuclei-accurate.onnx", describe("nuclei", SUITED["nuclei"]), gain=0.0)
    table["nuclei-accurate"] = Entry("nuclei-accurate", path.name, digest(path.read_bytes()), "")
    answer = recommend(modality="widefield", image=sample, challenges=["dense", "concave"])
    assert answer.model == "nuclei"
    assert answer.why_not["nuclei-accurate"] == "finds nothing in the sample"
    assert any("agreement is not accuracy" in reason for reason in answer.why)
    assert "nuclei-tissue" not in {trial.model for trial in answer.trials}  # its card rules it out


def test_images_that_no_model_takes_or_that_are_empty(zoo: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (64, 80, 3)).astype(np.uint8)
    refused = recommend(modality="widefield", image=colour)
    assert refused.model is None
    assert all(trial.refused for trial in refused.trials)
    empty = recommend(modality="widefield", image=np.zeros((64, 64), np.uint8))
    assert empty.model is None
    assert any("contrast" in line for line in empty.advice)
    with pytest.raises(InputError, match="shape"):
        rank(np.zeros((4, 64, 64, 2)))


def test_colour_samples_are_turned_with_their_colours(zoo: Path) -> None:
    field = draw_cells(4, (150, 190))["DNA"]
    colour = np.stack([field, field // 2, field // 3], axis=-1)
    answer = recommend(modality="he", image=colour)
    assert answer.model == "nuclei-tissue"
    assert answer.trials[0].agreement == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("channels", [1, 4])
def test_samples_with_one_channel_or_transparency_are_tried_and_drawn(
    zoo: Path, sample: NDArray[Any], tmp_path: Path, channels: int
) -> None:
    image = np.stack([sample] * channels, axis=-1)
    image[..., 3:] = 65535
    (trial,) = rank(image, ["nuclei"], device="cpu")
    (plain,) = rank(sample, ["nuclei"], device="cpu")
    assert trial.agreement == plain.agreement is not None
    assert any("transparency" in note for note in trial.notes) == (channels == 4)
    drawn = cv2.imread(str(draw_trials(image, [trial], tmp_path / "drawn.png")))
    colours = sample if channels == 1 else image[..., :3]
    np.testing.assert_array_equal(drawn, cv2.imread(str(draw_trials(colours, [trial], tmp_path / "as.png"))))


# The command


def test_the_command_says_it_all_and_draws(zoo: Path, sample: NDArray[Any], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "sample.png"), (sample / sample.max() * 255).astype(np.uint8))
    command = ["models", "recommend", "--modality", "widefield", "--challenge", "dense", "--challenge", "dim"]
    command += ["--image", str(tmp_path / "sample.png"), "--out", str(tmp_path / "trials.png")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for text in ("nuclei-accurate", "agreement", "not the others", "stardist", "trials.png"):
        assert text in done.stdout
    picture = cv2.imread(str(tmp_path / "trials.png"))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    told = CliRunner().invoke(app, [*command, "--json"])
    plain = json.loads(told.stdout)
    assert plain["model"] == "nuclei-accurate"
    assert plain["trials"][0]["agreement"] == pytest.approx(1.0, abs=0.01)
    assert plain["question"]["challenges"] == ["dense", "dim"]


def test_a_picture_needs_an_image() -> None:
    done = CliRunner().invoke(app, ["models", "recommend", "--modality", "he", "--out", "x.png"])
    assert isinstance(done.exception, InputError)
    assert "--image" in str(done.exception)


def test_the_functions_are_those_of_the_package() -> None:
    assert models.recommend is recommend
    assert models.rank is rank
