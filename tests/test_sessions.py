"""Models are verified before they run: file, card, shapes, device."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import cellinfer_models
import numpy as np
import onnx
import pytest
import yaml
from cellinfer import models
from cellinfer.cards import ACTIVITY, EMBEDDING, METADATA_KEY, card_from_metadata, parse_card
from cellinfer.errors import DeviceError, EngineError, ModelError
from cellinfer.onnxfile import has_external_data
from cellinfer.sessions import SEGMENTATION, open_session
from onnx import TensorProto, helper


def description() -> dict[str, Any]:
    return copy.deepcopy(dict(open_session("nuclei", "cpu", 1).card.description_file))


def save_identity(path: Path, card: dict[str, Any] | None, outputs: int = 2, inputs: int = 1) -> Path:
    """A network that repeats its input channel `outputs` times."""
    shape = ["n", inputs, "h", "w"]
    repeat = helper.make_node("Concat", ["image"] * outputs, ["fields"], axis=1)
    graph = helper.make_graph(
        [repeat],
        "repeat",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("fields", TensorProto.FLOAT, ["n", outputs * inputs, "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, path)
    return path


def test_the_bundled_models_are_what_their_cards_say() -> None:
    for name, entry in cellinfer_models.registry().items():
        assert "golden" in models.verify(name)
        beside = yaml.safe_load(entry.card_path.read_text(encoding="utf-8"))
        inside = dict(models.card(name).description_file)
        task = inside["config"]["cellinfer"]["task"]
        assert entry.task == (task if task in (EMBEDDING, ACTIVITY) else SEGMENTATION)
        assert beside.pop("weights")["onnx"]["sha256"] == entry.sha256
        assert beside == inside


def test_bundled_models_are_small() -> None:
    assert all(entry.path.stat().st_size < 10e6 for entry in cellinfer_models.registry().values())


def test_a_model_file_of_ones_own_runs(tmp_path: Path) -> None:
    session = open_session(save_identity(tmp_path / "own.onnx", description()), "cpu", 1)
    batch = np.random.default_rng(0).random((3, 1, 32, 16), np.float32)
    np.testing.assert_array_equal(session.run(batch), np.repeat(batch, 2, axis=1))
    assert session.device == "cpu"


def test_a_batch_with_other_channels_is_refused(tmp_path: Path) -> None:
    session = open_session(save_identity(tmp_path / "own.onnx", description()), "cpu", 1)
    with pytest.raises(ModelError, match="DNA"):
        session.run(np.zeros((1, 3, 16, 16), np.float32))


def test_an_altered_bundled_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("nuclei.onnx", "registry.json"):
        (tmp_path / file).write_bytes((cellinfer_models.folder() / file).read_bytes())
    content = bytearray((tmp_path / "nuclei.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "nuclei.onnx").write_bytes(content)
    monkeypatch.setattr(cellinfer_models, "folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="altered"):
        open_session("nuclei", "cpu")


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(ModelError, match="nuclei"):
        open_session("cats", "cpu")


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"not a network at all"])
def test_files_that_are_no_networks_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        open_session(tmp_path / "bad.onnx", "cpu")


def test_a_truncated_network_is_refused(tmp_path: Path) -> None:
    content = cellinfer_models.read("nuclei")
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError):
        open_session(tmp_path / "cut.onnx", "cpu")


@pytest.mark.parametrize("place", ["graph", "attribute", "subgraph"])
def test_a_network_with_weights_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(value="weights.bin", key="location")
    model = onnx.load(save_identity(tmp_path / "own.onnx", description()))
    if place == "graph":
        model.graph.initializer.append(weight)
    elif place == "attribute":
        model.graph.node[0].attribute.add(name="value", t=weight)
    else:
        inner = helper.make_graph([], "inner", [], [], initializer=[weight])
        model.graph.node[0].attribute.add(name="body", g=inner)
    (tmp_path / "outside.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="single-file"):
        open_session(tmp_path / "outside.onnx", "cpu")


def test_the_order_in_which_external_data_is_written_does_not_hide_it() -> None:
    entry = b"\x12\x0asecret.bin" + b"\x0a\x08location"  # value before key: valid protobuf
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert has_external_data(b"\x3a" + bytes([len(graph)]) + graph)
    assert not has_external_data(cellinfer_models.read("nuclei"))


def test_a_network_that_runs_out_of_memory_is_tried_with_fewer_tiles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_session(save_identity(tmp_path / "own.onnx", description()), "cpu", 1)

    class Cramped:
        """The real engine on a device where more than a few tiles are too many."""

        def __init__(self, engine: Any, most: int) -> None:
            self.engine, self.most = engine, most

        def get_inputs(self) -> Any:
            return self.engine.get_inputs()

        def run(self, names: Any, feed: dict[str, Any]) -> Any:
            if len(feed["image"]) > self.most:
                raise RuntimeError("Failed to allocate memory")
            return self.engine.run(names, feed)

    batch = np.random.default_rng(0).random((5, 1, 16, 16), np.float32)
    cramped = dataclasses.replace(session, _engine=Cramped(session._engine, 2))
    np.testing.assert_array_equal(cramped.run(batch), session.run(batch))
    assert "trying half" in caplog.text
    with pytest.raises(EngineError, match="allocate"):
        dataclasses.replace(session, _engine=Cramped(session._engine, 0)).run(batch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error_and_no_empty_field(tmp_path: Path, value: float) -> None:
    session = open_session(save_identity(tmp_path / "own.onnx", description()), "cpu", 1)
    batch = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    batch[1, 0, 5, 7] = value
    with pytest.raises(EngineError, match="not finite"):
        session.run(batch)


def test_a_network_without_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no card"):
        open_session(save_identity(tmp_path / "own.onnx", None), "cpu")


def test_channels_that_contradict_the_card_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="3 input channels"):
        open_session(save_identity(tmp_path / "rgb.onnx", description(), inputs=3), "cpu")
    with pytest.raises(ModelError, match="5 output channels"):
        open_session(save_identity(tmp_path / "five.onnx", description(), outputs=5), "cpu")


def save_input(path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Path:
    """A network that takes nothing but this, with the card of a bundled model."""
    model = onnx.load(save_identity(path, description()))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("fields", kind, [shape[0], 2, *shape[2:]]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "reason"),
    [
        ([1, 1, 256, 256], TensorProto.FLOAT, "256 x 256 only: export it with dynamic height and width"),
        (["n", 1, "h", 64], TensorProto.FLOAT, "h x 64 only"),
        ([8, 1, "h", "w"], TensorProto.FLOAT, "8 tiles at once"),
        (["n", 1, "h", "w"], TensorProto.FLOAT16, "float16.*32-bit"),
        (["n", 1, "h", "w"], TensorProto.DOUBLE, "double.*32-bit"),
        (["n", 1, "h", "w"], TensorProto.UINT8, "uint8.*32-bit"),
    ],
)
def test_a_network_that_would_fail_on_every_tile_is_refused(
    tmp_path: Path, shape: list[int | str], kind: int, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        open_session(save_input(tmp_path / "own.onnx", shape, kind), "cpu", 1)


def test_a_network_of_one_tile_at_a_time_is_accepted(tmp_path: Path) -> None:
    session = open_session(save_input(tmp_path / "own.onnx", [1, 1, "h", "w"]), "cpu", 1)
    assert session.run(np.zeros((1, 1, 48, 32), np.float32)).shape == (1, 2, 48, 32)


def save_outputs(path: Path, kind: str, outputs: dict[str, int]) -> Path:
    """A network of several outputs, each of which repeats the input channel, with a card that names them."""
    card = description()
    card["config"]["cellinfer"]["decoder"] = {"kind": kind, "options": {}}
    space = card["outputs"][0]["axes"][2:]
    card["outputs"] = [
        {
            "id": name,
            "axes": [{"type": "channel", "channel_names": [f"{name} {number}" for number in range(count)]}, *space],
        }
        for name, count in outputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Concat", ["image"] * count, [name], axis=1) for name, count in outputs.items()],
        "repeat",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count, "h", "w"])
            for name, count in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "outputs", "reason"),
    [
        ("mask-rcnn", {"fields": 3}, "takes 3 outputs.* has 1:"),
        ("mask-rcnn", {"boxes": 1, "scores": 1}, "takes 3 outputs.* names 2"),
        ("distance", {"foreground": 1, "distance": 1}, "takes one output.* has 2:"),
        ("star-convex", {"probability": 1, "rays": 32}, "takes one output.* has 2:"),
        ("distance", {"fields": 3}, "takes 2 outputs.* names 3"),
        ("semantic", {"fields": 2}, "takes 1 outputs.* names 2"),
        ("three-class", {"fields": 2}, "takes 3 outputs.* names 2"),
        ("flows", {"fields": 4}, "takes 3 outputs.* names 4"),
        ("polar", {"fields": 2}, "polar"),
    ],
)
def test_a_decoder_that_does_not_suit_the_network_is_refused(
    tmp_path: Path, kind: str, outputs: dict[str, int], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        open_session(save_outputs(tmp_path / "own.onnx", kind, outputs), "cpu", 1)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("mask-rcnn", {"boxes": 1, "scores": 1, "masks": 1}),
        ("distance", {"fields": 2}),
        ("star-convex", {"fields": 9}),
        ("star-convex", {"fields": 33}),
        ("semantic", {"fields": 1}),
        ("three-class", {"fields": 3}),
        ("flows", {"fields": 3}),
    ],
)
def test_a_decoder_that_suits_the_network_is_accepted(tmp_path: Path, kind: str, outputs: dict[str, int]) -> None:
    assert open_session(save_outputs(tmp_path / "own.onnx", kind, outputs), "cpu", 1).card.decoder == kind


@pytest.mark.parametrize(
    ("kind", "outputs", "options", "reason"),
    [
        ("distance", {"fields": 2}, {"colour": 1.0}, r"'distance' the options \['colour'\]; it takes \['foreground'"),
        ("star-convex", {"fields": 9}, {"stride": 2}, "stride"),
        ("mask-rcnn", {"boxes": 1, "scores": 1, "masks": 1}, {"certainty": 0.5}, "certainty.*confidence"),
        ("flows", {"fields": 3}, {"steps": 20.5}, "steps as 20.5: give a whole number"),
    ],
)
def test_options_that_the_decoder_does_not_take_are_refused_before_any_image(
    tmp_path: Path, kind: str, outputs: dict[str, int], options: dict[str, float], reason: str
) -> None:
    model = onnx.load(save_outputs(tmp_path / "own.onnx", kind, outputs))
    card = json.loads(model.metadata_props[0].value)
    card["config"]["cellinfer"]["decoder"]["options"] = options
    model.metadata_props[0].value = json.dumps(card)
    onnx.save(model, tmp_path / "own.onnx")
    with pytest.raises(ModelError, match=reason):
        open_session(tmp_path / "own.onnx", "cpu", 1)


@pytest.mark.parametrize("field", ["name", "license", "inputs", "outputs", "config"])
def test_a_card_without_a_field_names_it(field: str) -> None:
    card = description()
    del card[field]
    with pytest.raises(ModelError, match=field):
        parse_card(card, "mine")


@pytest.mark.parametrize(
    ("field", "value"),
    [("diameter", 0), ("diameter_tolerance", 0.5), ("tile", 641), ("halo", 320), ("halo", 305), ("multiple", 0)],
)
def test_cards_that_make_no_sense_are_refused(field: str, value: float) -> None:
    card = description()
    card["config"]["cellinfer"] |= {"tile": 640, "multiple": 16, field: value}
    with pytest.raises(ModelError, match=field):
        parse_card(card, "mine")


OURS = ("config", "cellinfer")
STEPS = ("inputs", 0, "preprocessing")
ZERO_MEAN = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
MISSING = object()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("inputs", 0, "axes"), "bcyx", "inputs.0.axes as 'bcyx': it must be a list"),
        (("inputs", 0, "axes"), ["b", "c", "y", "x"], "inputs.0.axes.0 as 'b'"),
        (("inputs", 0, "axes", 1, "channel_names"), MISSING, "lacks the field inputs.0.axes.1.channel_names"),
        (("inputs", 0, "axes", 1, "channel_names"), "DNA", "channel_names as 'DNA': it must be a list"),
        (("inputs", 0, "axes", 1, "type"), "space", "names no channels: inputs.0.axes"),
        ((*STEPS, 0, "kwargs", "min_percentile"), MISSING, "lacks the field inputs.0.preprocessing.0.kwargs.min_perc"),
        ((*STEPS, 0, "kwargs"), None, "lacks the field inputs.0.preprocessing.0.kwargs.min_perc"),
        ((*STEPS, 0), ZERO_MEAN, r"preprocessing \['zero_mean_unit_variance', 'clip'\]"),
        ((*STEPS, 1), MISSING, r"preprocessing \['scale_range'\]"),
        ((*STEPS, 1, "kwargs", "max"), MISSING, "lacks the field inputs.0.preprocessing.1.kwargs.max"),
        (STEPS, None, "inputs.0.preprocessing as None"),
        (("outputs",), None, "outputs as None"),
        (("outputs",), [], "lacks the field outputs.0"),
        (OURS, [], r"config.cellinfer as \[\]"),
        ((*OURS, "diameter"), "big", "config.cellinfer.diameter as 'big': it must be a finite number"),
        ((*OURS, "diameter"), None, "diameter as None"),
        ((*OURS, "diameter"), np.inf, "diameter as inf"),
        ((*OURS, "diameter"), True, "diameter as True"),
        pytest.param((*OURS, "diameter_tolerance"), 10**400, "diameter_tolerance as 1000", id="no float holds it"),
        ((*OURS, "tile"), "a", "config.cellinfer.tile as 'a'"),
        ((*OURS, "tile"), np.inf, "tile as inf"),
        ((*OURS, "multiple"), 16.7, "multiple as 16.7: it must be a whole number"),
        ((*OURS, "multiple"), 2**40, "multiple 1099511627776 is not in 1..4096"),
        ((*OURS, "decoder"), "distance", "lacks the field config.cellinfer.decoder.kind"),
        ((*OURS, "decoder", "options"), [], r"config.cellinfer.decoder.options as \[\]"),
        ((*OURS, "decoder", "options"), None, "options as None"),
        ((*OURS, "decoder", "options"), {"core": np.nan}, "options.core as nan: it must be a finite number"),
        ((*OURS, "golden"), None, "config.cellinfer.golden as None"),
    ],
)
def test_what_is_wrong_with_a_card_is_said_in_one_sentence(path: tuple[Any, ...], value: Any, reason: str) -> None:
    card = inner = description()
    for step in path[:-1]:
        inner = inner[step]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(ModelError, match=reason) as refused:
        card_from_metadata({METADATA_KEY: json.dumps(card)}, "mine")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


def test_swapped_preprocessing_is_refused() -> None:
    card = description()
    card["inputs"][0]["preprocessing"].reverse()
    with pytest.raises(ModelError, match=r"\['clip', 'scale_range'\]"):
        parse_card(card, "mine")


@pytest.mark.parametrize(
    "text", ["null", "[]", "7", '"card"', "[" * 100_000, '{"a":' * 100_000, "{", json.dumps({"config": {}})]
)
def test_what_is_no_card_at_all_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="mine"):
        card_from_metadata({METADATA_KEY: text}, "mine")


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA support")
    with pytest.raises(DeviceError, match="gpu"):
        open_session("nuclei", "cuda")
    assert open_session("nuclei", "auto", 1).device == "cpu"


@pytest.mark.parametrize("precision", ["auto", "float32", "int8"])
def test_an_unknown_device_is_refused_in_every_precision(precision: Any) -> None:
    with pytest.raises(DeviceError, match="auto, cpu or cuda"):
        open_session("nuclei", "tpu", 1, precision)  # type: ignore[arg-type]
