"""Models from a user's own folder: layouts, what is wrong with masks, fine-tuning."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer.errors import InputError, ModelError
from cellinfer.sessions import open_session
from cellinfer_training.data import Sample, load_folder, tidy
from cellinfer_training.own import fine_tune, split_own, train_own
from cellinfer_training.recipes import RECIPES

from tests.conftest import draw_cells


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


def drawn(number: int, group: str = "") -> Sample:
    field = draw_cells(number, (90, 160))
    return Sample(f"f{number}", "own", field["DNA"].astype(np.float32) / 2000, field["truth"].astype(np.int32), group)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_something_is_always_held_out(count: int) -> None:
    training, held, remarks = split_own([drawn(number) for number in range(count)], RECIPES["nuclei"])
    assert training
    assert held
    assert remarks
    assert {s.name for s in training}.isdisjoint({s.name for s in held})
    assert sum(s.labels.size for s in training + held) == count * 90 * 160


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_keeps_the_better_model_and_says_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_pair(tmp_path / "mine", number)
    path = fine_tune("nuclei", tmp_path / "mine", tmp_path / "out", steps=3)
    assert path.name == "nuclei-mine.onnx"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "before" in text
    assert "after" in text
    assert "before" in capsys.readouterr().out
    card = open_session(path, "cpu", 1).card
    assert "starting from nuclei" in card.description_file["training_data"]["sets"][0]
    again = fine_tune(str(path), tmp_path / "mine", tmp_path / "again", steps=2)  # its card says how it was made
    assert open_session(again, "cpu", 1).card.outputs == card.outputs


@pytest.mark.filterwarnings("ignore")
def test_training_from_nothing_gives_a_model_with_a_report(tmp_path: Path) -> None:
    for number in range(2):
        write_pair(tmp_path / "mine", number)
    path = train_own(tmp_path / "mine", tmp_path / "out", steps=2)
    assert open_session(path, "cpu", 1).card.name == "mine"
    assert {"report.md", "report.png", "scores.csv", "log.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_model_of_unknown_making_cannot_be_fine_tuned(tmp_path: Path) -> None:
    write_pair(tmp_path / "mine", 0)
    with pytest.raises(ModelError, match="no model"):
        fine_tune("nothing", tmp_path / "mine", tmp_path / "out")
    with pytest.raises(InputError, match="nuclei-accurate"):
        train_own(tmp_path / "mine", tmp_path / "out", like="nothing")
