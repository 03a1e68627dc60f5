"""Segmentation scores: values worked out by hand, and folders as users have them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from cellinfer.cli.evaluate import evaluate as command
from cellinfer.errors import ImageError, InputError
from cellinfer.evaluation import evaluate, evaluate_pair
from typer.testing import CliRunner

app = typer.Typer()
app.command()(command)


def blocks(*areas: tuple[int, int, int]) -> np.ndarray:
    """Label image 20 x 100 with rows of pixels: (label, first column, number of columns), all ten rows high."""
    image = np.zeros((20, 100), np.int32)
    for label, start, width in areas:
        image[5:15, start : start + width] = label
    return image


TRUTH = blocks((1, 0, 10), (2, 20, 10), (3, 40, 20), (4, 70, 5), (5, 75, 5))
# label 1: IoU 8/10; label 2: missed; label 3: split into halves; labels 4 and 5: merged; one prediction in the void
PRED = blocks((7, 0, 8), (9, 40, 10), (11, 50, 10), (20, 70, 10), (30, 90, 4))


def save(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / name), image.astype(np.uint16))


def test_scores_by_hand() -> None:
    score = evaluate_pair(TRUTH, PRED)
    # one match of IoU 0.8: found at 0.50 ... 0.75; strictly, not at 0.80. TP + FP + FN = 1 + 4 + 4.
    assert score.map_dsb == pytest.approx(6 / 10 / 9)
    assert score.ap50 == score.ap75 == pytest.approx(1 / 9)
    assert score.f1_50 == score.f1_70 == pytest.approx(2 / 10)
    assert score.panoptic_quality == pytest.approx(0.8 / 5)
    assert score.jaccard == pytest.approx((8 + 20 + 10) / (10 + 10 + 20 + 10 + 4))
    assert (score.true_positives, score.false_positives, score.false_negatives) == (1, 4, 4)
    assert (score.true_objects, score.predicted_objects) == (5, 5)
    assert (score.missed, score.spurious, score.split, score.merged) == (1, 1, 1, 1)


def test_inclusive_matching_counts_an_iou_that_equals_the_threshold() -> None:
    # At 0.8 the object of IoU 8/10 now counts; at 0.5 one half of object 3 (IoU 10/20) and one of 4 and 5 do.
    score = evaluate_pair(TRUTH, PRED, strict=False)
    assert score.true_positives == 3
    assert score.map_dsb == pytest.approx((3 / 7 + 6 / 9) / 10)


def test_perfect_and_empty_images() -> None:
    empty = np.zeros_like(TRUTH)
    ratios = ("map_dsb", "ap50", "ap75", "f1_50", "f1_70", "panoptic_quality", "jaccard")
    assert all(getattr(evaluate_pair(TRUTH, TRUTH), name) == 1 for name in ratios)
    assert all(getattr(evaluate_pair(empty, empty), name) == 1 for name in ratios)
    assert all(getattr(evaluate_pair(TRUTH, empty), name) == 0 for name in ratios)
    assert all(getattr(evaluate_pair(empty, PRED), name) == 0 for name in ratios)
    assert evaluate_pair(TRUTH, empty).missed == 5
    assert evaluate_pair(empty, PRED).spurious == 5


def test_importing_it_needs_neither_pandas_nor_image_decoders() -> None:
    code = "import sys, cellinfer.evaluation; print([m for m in ('pandas', 'cv2', 'tifffile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    pred, truth = tmp_path / "pred", tmp_path / "truth"
    save(truth, "a.png", TRUTH)
    save(truth, "b.png", TRUTH)
    save(pred, "a_labels.tif", TRUTH)
    save(pred, "b_labels.tif", PRED)
    return pred, truth


def test_a_folder_pairs_by_stem(folders: tuple[Path, Path]) -> None:
    save(folders[0], "extra.png", PRED)
    result = evaluate(*folders)
    assert list(result.images) == ["a", "b"]
    assert result.images["b"] == evaluate_pair(TRUTH, PRED)
    assert result.mean["ap50"] == pytest.approx((1 + 1 / 9) / 2)
    assert result.total["true_objects"] == 10
    assert result.total["split"] == 1
    assert result.ignored == ("extra.png",)


def test_size_strata_are_thirds_of_the_true_objects(folders: tuple[Path, Path]) -> None:
    small, medium, large = evaluate(*folders).sizes
    # areas 50 50 50 50 | 100 100 100 100 | 200 200; unmatched predictions: 100, 100, 100, 40
    assert (small.true_objects, medium.true_objects, large.true_objects) == (0, 4, 6)
    assert (small.largest, medium.smallest, medium.largest, large.smallest, large.largest) == (49, 50, 99, 100, None)
    assert small.recall is None
    assert (small.false_positives, medium.false_positives, large.false_positives) == (1, 0, 3)
    assert (small.ap50, medium.ap50, large.ap50) == (0, 2 / 4, 4 / 9)
    assert large.recall == pytest.approx(4 / 6)


def test_missing_predictions_are_refused_unless_allowed(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b_labels.tif").unlink()
    with pytest.raises(InputError, match=r"1 of 2 truth images have no prediction in .*: b \(--allow-missing"):
        evaluate(*folders)
    result = evaluate(*folders, allow_missing=True)
    assert result.missing == ("b",)
    assert result.mean["map_dsb"] == 0.5
    assert list(evaluate(*folders, pattern="a*").images) == ["a"]


def test_unusable_folders_say_why(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    with pytest.raises(InputError, match="not a folder"):
        evaluate(tmp_path / "nowhere", truth)
    with pytest.raises(InputError, match=r"no label image .* that fits 'z"):
        evaluate(pred, truth, pattern="z*")
    other = tmp_path / "other"
    save(other, "x.png", PRED)
    with pytest.raises(InputError, match="predictions are x; truth is a, b"):
        evaluate(other, truth)
    save(pred, "a.png", PRED)
    with pytest.raises(InputError, match="are both a"):
        evaluate(pred, truth)


def test_sizes_that_differ_and_damaged_files_are_named(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    save(pred, "b_labels.tif", PRED[:, :50])
    with pytest.raises(InputError, match=r"b_labels\.tif is 50 x 20 but its truth .*b\.png is 100 x 20"):
        evaluate(pred, truth)
    (pred / "b_labels.tif").write_bytes(b"II*\0")
    with pytest.raises(ImageError, match="b_labels"):
        evaluate(pred, truth)


def test_command_prints_a_table_and_writes_csv(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(folders[0], "=1+1_labels.png", TRUTH)
    save(folders[1], "=1+1.png", TRUTH)
    table = tmp_path / "scores.csv"
    result = CliRunner().invoke(app, [*map(str, folders), "--csv", str(table)])
    assert result.exit_code == 0, result.output
    assert "mean of 3" in result.stdout
    assert "split 1" in result.stdout
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["image"] for row in rows] == ["'=1+1", "a", "b"]
    assert float(rows[2]["map_dsb"]) == pytest.approx(6 / 90)


def test_command_prints_json_alone(folders: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, [*map(str, folders), "--json", "--inclusive"])
    data = json.loads(result.stdout)
    assert data["strict"] is False
    assert data["images"]["b"]["true_positives"] == 3
    assert data["sizes"][0]["recall"] is None
