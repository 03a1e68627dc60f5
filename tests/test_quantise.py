"""Quantised models: as good within the limit, faster kernels in use, chosen where they pay, never mixed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cellinfer_models
import numpy as np
import pytest
import yaml
from cellinfer import models, precision, sessions
from cellinfer.cli import app
from cellinfer.doctor import examine
from cellinfer.errors import DeviceError, ModelError
from cellinfer.precision import Choice, choose
from cellinfer.segmentation import segment_image
from cellinfer.sessions import Session, open_session
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.conftest import draw_cells

pytest.importorskip("torch", reason="needs the [train] extra")

import onnx
from cellinfer_training import quantise as recipe
from cellinfer_training.data import Sample, normalise
from cellinfer_training.export import register_variant
from cellinfer_training.graphs import halve, multiply_adds, rewrite, widen
from cellinfer_training.networks import load_weights
from cellinfer_training.quantise import PLANS, calibration_crops, quantise
from cellinfer_training.recipes import RECIPES


def samples(first: int, number: int) -> list[Sample]:
    """Small fields of round cells of several sizes."""
    fields = [draw_cells(seed, (160, 192), radius=9.0 + seed % 3) for seed in range(first, first + number)]
    return [Sample(f"field{k}", "drawn", normalise(f["DNA"]), np.int32(f["truth"])) for k, f in enumerate(fields)]


@pytest.fixture(scope="module")
def bundled() -> onnx.ModelProto:
    return onnx.load_from_string(cellinfer_models.read("nuclei"))


@pytest.fixture(scope="module")
def eight_bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled nucleus model, quantised on drawn cells."""
    model = cellinfer_models.registry()["nuclei"].path
    return quantise(model, samples(0, 6), samples(50, 4), tmp_path_factory.mktemp("int8") / "nuclei.int8.onnx")


@pytest.fixture
def with_variant(eight_bit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry in which `nuclei` has an int8 variant, and a kernel cache of its own."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "nuclei.onnx").write_bytes((cellinfer_models.folder() / "nuclei.onnx").read_bytes())
    registered = json.loads((cellinfer_models.folder() / "registry.json").read_text(encoding="utf-8"))
    (folder / "registry.json").write_text(json.dumps({"nuclei": registered["nuclei"]}), encoding="utf-8")
    (folder / eight_bit.name).write_bytes(eight_bit.read_bytes())
    register_variant(folder / eight_bit.name, "nuclei", "int8")
    cellinfer_models.registry.cache_clear()
    monkeypatch.setattr(cellinfer_models, "folder", lambda: folder)
    kept = tmp_path / "cache"
    kept.mkdir()
    monkeypatch.setattr(precision, "cache_folder", lambda: kept)
    yield kept / "precision.json"
    cellinfer_models.registry.cache_clear()


def test_bundled_variants_are_made_from_the_model_beside_them() -> None:
    for name, entry in cellinfer_models.registry().items():
        for made in entry.variants:
            assert "golden objects" in models.verify(name, made)  # type: ignore[arg-type]
            card = dict(open_session(name, "cpu", 1, made).card.description_file)  # type: ignore[arg-type]
            assert card["config"]["cellinfer"]["quantisation"]["of_sha256"] == entry.sha256
            beside = yaml.safe_load(entry.variants[made].card_path.read_text(encoding="utf-8"))
            assert beside.pop("weights")["onnx"]["sha256"] == entry.variants[made].sha256
            assert beside == card


def test_rewriting_changes_the_graph_but_not_the_network(bundled: onnx.ModelProto) -> None:
    rewritten = rewrite(bundled)  # raises if the outputs differ
    kinds = [node.op_type for node in rewritten.graph.node]
    assert kinds[kinds.index("Conv") + 2] == "Conv"  # the anchor, behind the first layer's ReLU
    weights = {tensor.name: tensor.dims for tensor in rewritten.graph.initializer}
    last = [node for node in rewritten.graph.node if node.op_type == "Conv"][-1]
    assert weights[last.input[1]][0] == 16  # the widened head
    assert kinds.count("Conv") == 1 + [node.op_type for node in bundled.graph.node].count("Conv")


def test_weights_in_16_bits_halve_the_file_and_hardly_change_the_network(
    bundled: onnx.ModelProto, session: Session, tmp_path: Path
) -> None:
    small = halve(bundled)
    onnx.checker.check_model(small)
    assert small.ByteSize() < 0.56 * bundled.ByteSize()
    image = np.random.default_rng(0).random((1, 1, 64, 96), np.float32)
    path = tmp_path / "half.onnx"
    path.write_bytes(small.SerializeToString())
    np.testing.assert_allclose(open_session(path, "cpu", 1).run(image), session.run(image), atol=0.01)
    network = RECIPES["nuclei"].make_network()
    assert load_weights(network, path) == []
    (first,) = (t for t in bundled.graph.initializer if t.name == "network.stem.0.weight")
    rounded = onnx.numpy_helper.to_array(first).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(next(network.parameters()).detach().numpy(), rounded)


def test_widening_undoes_halving_and_leaves_others_alone(bundled: onnx.ModelProto) -> None:
    assert widen(bundled) == bundled
    rounded = widen(halve(bundled))
    assert [n.SerializeToString() for n in rounded.graph.node] == [n.SerializeToString() for n in bundled.graph.node]
    names = [t.name for t in bundled.graph.initializer]
    assert [t.name for t in rounded.graph.initializer] == names
    assert multiply_adds(halve(bundled)) == multiply_adds(bundled)
    assert widen(halve(rounded)) == rounded


def test_multiply_adds_of_one_convolution() -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((5, 2, 3, 3), np.float32), "w")
    node = onnx.helper.make_node("Conv", ["image", "w"], ["fields"], strides=[2, 2], pads=[1, 1, 1, 1])
    tensors = [onnx.helper.make_tensor_value_info(n, 1, [1, c, "h", "w"]) for n, c in (("image", 2), ("fields", 5))]
    graph = onnx.helper.make_graph([node], "one", tensors[:1], tensors[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    assert multiply_adds(model, side=64) == 5 * 2 * 9 / 4


def test_calibration_sees_objects_at_the_size_the_model_expects(session: Session) -> None:
    crops = list(calibration_crops(samples(0, 3), session, number=3, side=96))
    assert [crop.shape for crop in crops] == [(1, 1, 96, 96)] * 3
    assert all(crop.dtype == np.float32 and crop.max() > 0.5 for crop in crops)


def test_the_quantised_model_runs_on_integers_and_says_what_it_is(eight_bit: Path, session: Session) -> None:
    model = onnx.load(eight_bit)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scaled = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    assert sum(weights[node.input[0]].data_type == onnx.TensorProto.INT8 for node in scaled) >= 20
    card = open_session(eight_bit, "cpu", 1).card.description_file["config"]["cellinfer"]
    assert card["precision"] == "int8"
    assert card["quantisation"]["of_sha256"] == session.sha256
    assert card["quantisation"]["validation_images"]["map_dsb_loss"] <= recipe.LIMIT
    assert card["parity"]["int8"]["matched_50"] >= 0.99
    assert eight_bit.with_suffix(".yaml").is_file()


def test_the_quantised_model_finds_the_same_cells(eight_bit: Path, session: Session) -> None:
    field = draw_cells(99)
    exact, quick = (segment_image(field["DNA"], s).labels for s in (session, open_session(eight_bit, "cpu", 1)))
    assert exact.max() == quick.max() == field["truth"].max()
    assert np.mean((exact > 0) != (quick > 0)) < 0.01


def test_a_loss_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "TRAINING_LIMIT", -1.0)
    model = cellinfer_models.registry()["nuclei"].path
    out = tmp_path / "new" / "bad.onnx"
    with pytest.raises(ModelError, match=r"cannot be quantised: every plan loses .* use it in floating point"):
        quantise(model, samples(0, 2), samples(50, 1), out, PLANS[:1])
    assert not list(out.parent.iterdir())


def test_auto_measures_once_and_remembers(with_variant: Path) -> None:
    chosen = open_session("nuclei", "cpu", 1, "auto")
    (ratio,) = json.loads(with_variant.read_text()).values()
    assert chosen.choice.ratio == ratio
    assert chosen.precision == ("int8" if ratio >= precision.WORTH else "float32")
    kept = dict.fromkeys(json.loads(with_variant.read_text()), 0.5)
    with_variant.write_text(json.dumps(kept))
    again = open_session("nuclei", "cpu", 1, "auto")
    assert (again.precision, again.choice.ratio) == ("float32", 0.5)
    assert "0.50 times" in again.choice.why


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": "b"}', '{"a": NaN}', "\x00\xff"])
def test_a_damaged_memory_is_measured_anew(with_variant: Path, content: str) -> None:
    with_variant.write_text(content, encoding="latin-1")
    assert open_session("nuclei", "cpu", 1, "auto").choice.ratio is not None
    assert len(json.loads(with_variant.read_text())) == 1


def test_without_a_memory_float32_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cache_is_kept", lambda: False)
    zeros = np.zeros(1, np.float32)
    assert choose("key", lambda: zeros, lambda: zeros).precision == "float32"


def test_a_processor_that_overflows_keeps_float32(with_variant: Path) -> None:
    answers: list[NDArray[np.float32]] = [np.zeros(9, np.float32), np.full(9, 0.2, np.float32)]
    choice = choose("overflow", lambda: answers[0], lambda: answers[1])
    assert choice == Choice("float32", "int8 departs from float32 on this processor", 0.0)
    assert choose("overflow", lambda: answers[0], lambda: answers[0]) == choice


def test_precisions_asked_for(with_variant: Path, eight_bit: Path, session: Session) -> None:
    assert open_session("nuclei", "cpu", 1).sha256 == session.sha256
    quick = open_session("nuclei", "cpu", 1, "int8")
    assert (quick.precision, quick.sha256) == ("int8", cellinfer_models.digest(eight_bit.read_bytes()))
    with pytest.raises(DeviceError, match="int8 is for the CPU"):
        open_session("nuclei", "cuda", 1, "int8")
    with pytest.raises(ModelError, match="auto, float32, int8"):
        open_session("nuclei", "cpu", 1, "half")  # type: ignore[arg-type]


def test_a_model_without_variant_has_no_int8(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(cellinfer_models.read("nuclei"))
    with pytest.raises(ModelError, match="no int8 variant"):
        open_session(own, "cpu", 1, "int8")
    assert open_session(own, "cpu", 1, "auto").precision == "float32"


def test_a_folder_goes_on_in_the_precision_it_was_begun_in(with_variant: Path, tmp_path: Path) -> None:
    from cellinfer import engine, simulate

    plate = simulate.simulate_plate(tmp_path / "plate", wells=1).images
    out = tmp_path / "out"
    begun = engine.run(plate, out, precision="int8", device="cpu", threads=1)
    info: dict[str, Any] = json.loads((out / "run.json").read_text())
    assert (begun.precision, info["precision"]["precision"]) == ("int8", "int8")
    with_variant.write_text(json.dumps({}))  # auto would have to measure, and might choose otherwise
    again = engine.run(plate, out, device="cpu", threads=1)
    assert (again.precision, again.reused) == ("int8", again.fields)
    info = json.loads((out / "run.json").read_text())
    assert info["precision"] == {"precision": "int8", "why": "the folder was begun in it", "ratio": None}
    other = engine.run(plate, out, precision="float32", device="cpu", threads=1)
    assert (other.precision, other.reused) == ("float32", 0)


def test_a_folder_begun_in_int8_is_done_again_on_a_gpu(
    with_variant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellinfer import engine, simulate

    def elsewhere(model: Any, device: Any, *options: Any) -> Session:
        """Open what would run on a GPU on the CPU; what an int8 session says of a GPU is still said."""
        return open_session(model, "cuda" if "int8" in options else "cpu", options[0], "float32")

    plate = simulate.simulate_plate(tmp_path / "plate", wells=1).images
    out = tmp_path / "out"
    engine.run(plate, out, precision="int8", device="cpu", threads=1)
    monkeypatch.setattr(engine, "open_session", elsewhere)
    result = engine.run(plate, out, device="cuda", threads=1)
    assert (result.precision, result.reused) == ("float32", 0)
    assert any("begun in int8" in note and "done again in float32" in note for note in result.notes)


def test_every_precision_is_verified_and_listed(with_variant: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["models", "list"], env={"COLUMNS": "200"})
    assert re.search(r"nuclei .*\n.* \d\.\d MB, int8 \d\.\d MB", listed.stdout)
    verified = CliRunner().invoke(app, ["models", "verify"])
    assert [line.split(",")[0] for line in verified.stdout.splitlines()] == ["nuclei: float32", "nuclei: int8"]
    own = tmp_path / "own.onnx"
    own.write_bytes(cellinfer_models.read("nuclei", "int8"))
    assert CliRunner().invoke(app, ["models", "verify", str(own)]).stdout.startswith(f"{own}: int8, sha256")
    (cellinfer_models.folder() / "nuclei.int8.onnx").write_bytes(b"")
    broken = CliRunner().invoke(app, ["models", "verify"])
    assert broken.stdout.startswith("nuclei: float32")
    assert "nuclei.int8.onnx was altered" in str(broken.exception)


def test_doctor_measures_what_a_run_would_take(with_variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "available_cores", lambda: 4)
    bundled = cellinfer_models.registry()
    gone = cellinfer_models.Entry("gone", "gone.onnx", "0" * 64, "")
    with monkeypatch.context() as patched:
        patched.setattr(cellinfer_models, "registry", lambda: {"gone": gone, **bundled})
        found = {finding.topic: finding for finding in examine()}
    assert not found["model gone"].good
    assert "one thread, as in a run" in found["precision of nuclei"].text  # a broken model does not hide it
    (key,) = json.loads(with_variant.read_text())
    assert "|1 threads|" in key
