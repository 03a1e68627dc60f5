"""Models from a user's own folder: layouts, what is wrong with masks, fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cellinfer_models
import cv2
import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer.cards import METADATA_KEY
from cellinfer.errors import DeviceError, InputError, ModelError, OutputError
from cellinfer.sessions import open_session
from cellinfer_training import loop, own
from cellinfer_training.assess import Score
from cellinfer_training.data import Sample, load_folder, tidy
from cellinfer_training.maskrcnn.export import describe_mask_rcnn
from cellinfer_training.maskrcnn.training import FLUORESCENCE
from cellinfer_training.own import fine_tune, split_own, train_own
from cellinfer_training.recipes import RECIPES
from onnx import TensorProto, helper

from tests.conftest import draw_cells


@pytest.fixture(autouse=True)
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here does not hang on how many crops a step learns from, or a state is judged by."""
    monkeypatch.setattr("cellinfer_training.train._CHECKED", 2)
    monkeypatch.setattr(own, "_FINE_TUNING", replace(own._FINE_TUNING, batch=1))
    recipe = RECIPES["nuclei"]
    monkeypatch.setitem(RECIPES, recipe.name, replace(recipe, schedule=replace(recipe.schedule, batch=1)))


def write_pair(folder: Path, number: int, beside: bool = False, empty: bool = False) -> None:
    field = draw_cells(number, (140, 150))
    truth = np.zeros_like(field["truth"]) if empty else field["truth"]
    image, mask = (folder, folder) if beside else (folder / "images", folder / "masks")
    for place in (image, mask):
        place.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image / f"f{number}.tif"), field["DNA"])
    cv2.imwrite(str(mask / (f"f{number}_masks.png" if beside else f"f{number}.png")), truth.astype(np.uint16))


@pytest.mark.parametrize("beside", [False, True])
def test_both_layouts_are_read(tmp_path: Path, beside: bool) -> None:
    for number in range(3):
        write_pair(tmp_path, number, beside)
    samples, notes = load_folder(tmp_path)
    assert [s.name for s in samples] == ["f0", "f1", "f2"]
    assert notes == []
    assert all(s.labels.max() > 3 for s in samples)


def test_images_without_mask_and_without_objects_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, 0)
    write_pair(tmp_path, 1, empty=True)
    cv2.imwrite(str(tmp_path / "images" / "lonely.tif"), np.zeros((9, 9), np.uint8))
    samples, notes = load_folder(tmp_path)
    assert len(samples) == 2
    assert any("lonely" in note for note in notes)
    assert any("without objects" in note and "f1" in note for note in notes)


def test_folders_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_folder(tmp_path / "missing")
    with pytest.raises(InputError, match="_masks"):
        load_folder(tmp_path)
    write_pair(tmp_path, 0, empty=True)
    with pytest.raises(InputError, match="holds an object"):
        load_folder(tmp_path)
    cv2.imwrite(str(tmp_path / "masks" / "f0.png"), np.ones((9, 9), np.uint16))
    with pytest.raises(InputError, match="size"):
        load_folder(tmp_path)


def test_masks_with_holes_and_shared_numbers_are_mended() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[2:10, 2:10] = 7
    labels[5, 5] = 0  # a hole
    labels[2:10, 20:28] = 7  # the same number elsewhere
    labels[15:25, 5:12], labels[15:25, 12:20] = 9, 12  # touching, with a gap in numbers
    whole, notes = tidy(labels)
    assert whole.max() == 4
    assert whole[5, 5] == whole[4, 4]
    assert len({whole[4, 4], whole[4, 24], whole[20, 8], whole[20, 15]}) == 4
    assert any("1 objects" in note for note in notes)
    assert any("1 pixels" in note for note in notes)
    assert tidy(whole)[1] == []


def test_stray_specks_make_no_objects() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[2:12, 2:12] = 7
    labels[20, 30], labels[25, 3:5] = 7, 7
    labels[2:12, 20:30] = 2_000_000_000
    whole, notes = tidy(labels)
    assert whole.max() == 2
    assert (whole > 0).sum() == 200
    assert notes == ["2 specks dropped"]


def test_masks_that_look_wrong_are_noted(tmp_path: Path) -> None:
    write_pair(tmp_path, 0)
    mask = np.ones((140, 150), np.uint8)
    mask[:20, :20] = 0
    cv2.imwrite(str(tmp_path / "masks" / "f0.png"), mask)
    assert any("covers 98% of the image" in note for note in load_folder(tmp_path)[1])
    mask[:] = 0
    mask[::9, ::9] = 1
    cv2.imwrite(str(tmp_path / "masks" / "f0.png"), mask)
    assert any("1.1 pixels across" in note for note in load_folder(tmp_path)[1])


def test_masks_that_hold_no_numbers_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, 0)
    mask = tmp_path / "masks" / "f0.png"
    cv2.imwrite(str(mask), np.dstack([cv2.imread(str(mask), -1) * k for k in (9, 5, 1)]).astype(np.uint8))
    with pytest.raises(InputError, match="one grey value per object"):
        load_folder(tmp_path)
    cv2.imwrite(str(mask.with_suffix(".jpg")), np.ones((140, 150), np.uint8))
    mask.unlink()
    with pytest.raises(InputError, match=r"f0.jpg is a JPEG.* PNG or TIFF"):
        load_folder(tmp_path)


@pytest.mark.parametrize("place", ["images", "masks"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, place: str) -> None:
    write_pair(tmp_path, 0)
    cv2.imwrite(str(tmp_path / place / "f0.bmp"), np.ones((140, 150), np.uint8))
    with pytest.raises(InputError, match=r"f0\.bmp and .*f0\.(tif|png) both"):
        load_folder(tmp_path)


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    write_pair(tmp_path, 0)
    for place in ("images", "masks"):
        (tmp_path / place / "._f0.tif").write_bytes(b"\0\5\26\7")
        (tmp_path / place / "more.tif").mkdir()
    samples, notes = load_folder(tmp_path)
    assert [s.name for s in samples] == ["f0"]
    assert notes == []


def drawn(number: int, group: str = "") -> Sample:
    field = draw_cells(number, (90, 160))
    return Sample(f"f{number}", "own", field["DNA"].astype(np.float32) / 2000, field["truth"].astype(np.int32), group)


@pytest.mark.parametrize("empty", [0, 2])
@pytest.mark.parametrize("count", range(1, 11))
def test_something_is_always_held_out(count: int, empty: int) -> None:
    samples = [drawn(number) for number in range(count)]
    for sample in samples[1 : 1 + empty]:
        sample.labels = np.zeros_like(sample.labels)
    training, held, remarks = split_own(samples, RECIPES["nuclei"])
    for side in (training, held):
        assert any(s.labels.any() for s in side)
    assert remarks
    assert {s.name for s in training}.isdisjoint({s.name for s in held})
    assert sum(s.labels.size for s in training + held) == count * 90 * 160
    if count >= 3:
        assert len(training) >= len(held)


def test_only_images_of_one_family_are_called_too_alike() -> None:
    one = [drawn(number, "same") for number in range(4)]
    assert "too alike" in split_own(one, RECIPES["nuclei"])[2][0]
    two = [drawn(number, f"family {number % 2}") for number in range(4)]
    assert "families" in split_own(two, RECIPES["nuclei"])[2][0]
    two[1].labels[:], two[3].labels[:] = 0, 0
    training, held, remarks = split_own(two, RECIPES["nuclei"])
    assert "single images" in remarks[0]
    assert any(s.labels.any() for s in training)
    assert any(s.labels.any() for s in held)


@pytest.mark.parametrize(
    ("sizes", "count"), [((5, 3, 2), 2), ((5, 5), 5), ((1, 4, 5), 1), ((2, 4, 4), 2), ((40, 30, 20, 5, 5), 10)]
)
def test_families_near_the_wished_share_are_held_out(sizes: tuple[int, ...], count: int) -> None:
    groups = [f"family {number}" for number, size in enumerate(sizes) for _ in range(size)]
    empty = np.zeros((4, 4), np.float32)
    samples = [Sample(f"f{n}", "own", empty, np.ones((4, 4), np.int32), group) for n, group in enumerate(groups)]
    for seed in range(5):
        training, held, remarks = split_own(samples, replace(RECIPES["nuclei"], seed=seed))
        assert "families" in remarks[0]
        assert {s.group for s in training}.isdisjoint({s.group for s in held})
        assert len(held) == count


def write_colours(folder: Path, *shares: float) -> None:
    """Write the first image again, in colour."""
    grey = draw_cells(0, (140, 150))["DNA"]
    cv2.imwrite(str(folder / "images" / "f0.tif"), (grey[..., None] * np.array(shares[::-1])).astype(np.uint16))


def test_colour_and_grey_images_are_fitted_to_the_model_and_that_is_said(tmp_path: Path) -> None:
    for number in range(2):
        write_pair(tmp_path, number)
    grey, notes = load_folder(tmp_path, colour=True)
    assert grey[0].image.shape == (140, 150, 3)
    assert any("2 of 2 images are grey" in note for note in notes)
    write_colours(tmp_path, 0.0, 1.0, 0.5)
    (mean, _), notes = load_folder(tmp_path)
    assert mean.image.shape == (140, 150)
    assert any("1 of 2 images are in colour" in n and "--channel mean" in n and "nuclei-tissue" in n for n in notes)
    (red, _), notes = load_folder(tmp_path, channel="red")
    assert not red.image.any()
    assert any("--channel red" in note for note in notes)
    write_colours(tmp_path, 0.5, 0.5, 0.5)
    assert load_folder(tmp_path)[1] == []  # equal colours are grey
    with pytest.raises(InputError, match="leave the channel"):
        load_folder(tmp_path, colour=True, channel="red")
    with pytest.raises(InputError, match="Unknown channel"):
        load_folder(tmp_path, channel="pink")  # type: ignore[arg-type]


def judged(held: list[Sample], value: float) -> list[Score]:
    """Scores as if every image had this one."""
    return [Score(s.name, s.source, s.group, 1.0, 1.0, (value,) * 10) for s in held]


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_keeps_the_better_model_and_says_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_pair(tmp_path / "mine", number)
    path = fine_tune("nuclei", tmp_path / "mine", tmp_path / "out", steps=3)
    assert path.name == "nuclei-mine.onnx"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "before" in text
    assert "after" in text
    assert "may have learnt" not in text
    assert "before" in capsys.readouterr().out
    card = open_session(path, "cpu", 1).card
    stated = card.description_file
    assert stated["training_data"]["start"] == {"name": "nuclei", "sha256": open_session("nuclei", "cpu", 1).sha256}
    assert stated["training_data"]["split"] in text
    assert stated["training_data"]["sets"] == ["3 images of mine, licence unstated"]
    assert (stated["license"], stated["authors"], stated["cite"]) == ("unstated", [], [])
    assert stated["tags"] == ["instance-segmentation", "2d"]
    assert card.channels == ("grey",)
    results = iter([0.5, 0.9])  # before, after
    monkeypatch.setattr(own, "assess", lambda session, held: judged(held, next(results)))
    again = fine_tune(str(path), tmp_path / "mine", tmp_path / "again", steps=2)  # its card says how it was made
    text = (tmp_path / "again" / "report.md").read_text()
    assert "may have learnt some of these images" in text
    assert "mAP_DSB 0.500 before, 0.900 after" in text
    assert "did not help" not in text
    assert open_session(again, "cpu", 1).card.outputs == card.outputs


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_that_does_not_help_leaves_the_weights_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_pair(tmp_path / "mine", number)
    results = iter([0.9, 0.5])
    monkeypatch.setattr(own, "assess", lambda session, held: judged(held, next(results)))
    monkeypatch.setattr(loop.Trainer, "_check", always_best)
    path = fine_tune("nuclei", tmp_path / "mine", tmp_path / "out", steps=2)
    assert "did not help: nuclei-mine.onnx holds the weights it began with" in (tmp_path / "out/report.md").read_text()
    image = np.random.default_rng(0).random((1, 1, 64, 64), np.float32)
    before, after = (open_session(model, "cpu", 1).run(image) for model in ("nuclei", path))
    np.testing.assert_allclose(after, before, atol=1e-4)


def always_best(trainer: loop.Trainer, train: float, check: Callable[..., Any] = loop.Trainer._check) -> Any:
    """Check as ever, but take every state for the best so far."""
    trainer.best = np.inf
    return check(trainer, train)


@pytest.mark.filterwarnings("ignore")
def test_training_from_nothing_gives_a_model_with_a_report(tmp_path: Path) -> None:
    for number in range(2):
        write_pair(tmp_path / "mine", number)
    path = train_own(tmp_path / "mine", tmp_path / "out", steps=2)
    assert open_session(path, "cpu", 1).card.name == "mine"
    assert {"report.md", "report.png", "scores.csv", "log.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}


def recarded(path: Path, **changes: object) -> Path:
    """A copy of the bundled model whose card says otherwise."""
    model = onnx.load(cellinfer_models.folder() / "nuclei.onnx")
    (entry,) = [e for e in model.metadata_props if e.key == METADATA_KEY]
    card = json.loads(entry.value)
    card["config"]["cellinfer"] |= changes
    entry.value = json.dumps(card)
    path.write_bytes(model.SerializeToString())
    return path


def finding_nothing(path: Path) -> Path:
    """A network with the outputs of a Mask R-CNN, none of which holds an object."""
    card = describe_mask_rcnn(FLUORESCENCE, {})
    shapes: dict[str, list[int | str]] = {"boxes": [0, 4], "scores": [0], "masks": [0, 28, 28]}
    graph = helper.make_graph(
        [helper.make_node("Constant", [], [n], value=helper.make_tensor(n, 1, s, [])) for n, s in shapes.items()],
        "nothing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    path.write_bytes(model.SerializeToString())
    return path


def test_what_cannot_be_trained_on_is_refused_at_once(tmp_path: Path) -> None:
    folder, stored = tmp_path / "mine", open_session("nuclei", "cpu", 1).card.description_file
    with pytest.raises(ModelError, match="int8 file"):
        fine_tune(str(cellinfer_models.folder() / "nuclei.int8.onnx"), folder, tmp_path / "out")
    with pytest.raises(ModelError, match="Mask R-CNN"):
        fine_tune(str(finding_nothing(tmp_path / "boxes.onnx")), folder, tmp_path / "out")
    wide = recarded(tmp_path / "wide.onnx", recipe=stored["config"]["cellinfer"]["recipe"] | {"width": 32})
    with pytest.raises(ModelError, match="cannot be fine-tuned"):
        fine_tune(str(wide), folder, tmp_path / "out")


def test_what_cannot_work_is_refused_before_images_are_read(tmp_path: Path) -> None:
    folder, out, file = tmp_path / "missing", tmp_path / "out", tmp_path / "file"
    file.touch()
    for begin in (partial(train_own, folder), partial(fine_tune, "nuclei", folder)):
        with pytest.raises(DeviceError, match="choose cpu or cuda"):
            begin(out, device="gpu")
        with pytest.raises(DeviceError, match="torch sees no device cuda:99"):
            begin(out, device="cuda:99")
        for place in (file, file / "below"):
            with pytest.raises(OutputError, match="choose another --out"):
                begin(place)
        with pytest.raises(InputError, match="choose a --name without"):
            begin(out, name="a/b")
    with pytest.raises(InputError, match="unet cannot predict star-convex"):
        train_own(folder, out, like="unet", task="star-convex")


def test_a_model_of_unknown_making_cannot_be_fine_tuned(tmp_path: Path) -> None:
    write_pair(tmp_path / "mine", 0)
    with pytest.raises(ModelError, match="no model"):
        fine_tune("nothing", tmp_path / "mine", tmp_path / "out")
    with pytest.raises(InputError, match="nuclei-accurate"):
        train_own(tmp_path / "mine", tmp_path / "out", like="nothing")
