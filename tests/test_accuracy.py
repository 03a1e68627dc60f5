"""The accuracy table: the same judge for every method, predictions kept, counts pooled as well as averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer_training.data import Sample, normalise

from benchmarks import accuracy, otsu, stardist_peer
from benchmarks.accuracy import Method, compare, judge, markdown, summarise
from tests.conftest import draw_cells


def sample(seed: int) -> Sample:
    field = draw_cells(seed, (150, 170))
    return Sample(f"f{seed}", "drawn", normalise(field["DNA"]), field["truth"].astype(np.int32))


def test_the_baseline_finds_clear_cells_and_parts_two_that_touch() -> None:
    one = sample(0)
    assert judge(one.labels, otsu.segment(one.image)).score.ap50 == 1.0
    coloured = 1 - np.stack([one.image] * 3, axis=-1)
    assert judge(one.labels, otsu.segment(coloured)).score.ap50 == 1.0
    pair = np.zeros((60, 90), np.uint8)
    cv2.circle(pair, (30, 30), 14, 200, -1)
    cv2.circle(pair, (55, 30), 14, 200, -1)
    assert otsu.segment(pair).max() == 2
    assert not otsu.segment(np.zeros((20, 20))).any()


def test_pooled_ratios_weigh_objects_and_means_weigh_images() -> None:
    many, few = np.zeros((2, 40, 400), np.int32)
    for number in range(9):
        many[10:30, 40 * number + 5 : 40 * number + 25] = number + 1
    few[10:30, 10:30] = 1
    row = summarise([judge(many, many), judge(few, np.zeros_like(few))])
    assert row["mean"]["ap50"] == pytest.approx(0.5)
    assert row["pooled"]["ap50"] == pytest.approx(0.9)
    assert row["pooled"]["map_dsb"] == pytest.approx(0.9)
    assert row["objects"] == 10


def test_predictions_are_made_once_and_others_are_judged_alike(tmp_path: Path) -> None:
    samples = [sample(1), sample(2)]
    calls = []

    def perfect(image: np.ndarray) -> np.ndarray:
        calls.append(1)
        return next(s.labels for s in samples if s.image is image)

    given = tmp_path / "given" / "drawn"
    given.mkdir(parents=True)
    for one in samples:
        cv2.imwrite(str(given / f"{one.name}.png"), np.where(one.labels == 1, 0, one.labels).astype(np.uint16))
    methods = [
        Method("perfect", "none", "perfect", False, perfect),
        Method("given", "none", str(tmp_path / "given"), False, None),
        Method("for colour", "none", "colour", True, perfect),
    ]
    for _ in range(2):
        rows = compare({"drawn": samples}, methods, tmp_path / "kept", lambda _: None)
    assert len(calls) == 3  # the first image once more, untimed
    assert [row["method"] for row in rows] == ["perfect", "given"]
    assert rows[0]["mean"]["map_dsb"] == 1.0
    assert rows[1]["mean"]["map_dsb"] < 1.0
    assert rows[1]["seconds"] is None
    table = markdown(rows)
    assert "| perfect | none | 1.000" in table
    header, rule, first = (line.count("|") for line in table.splitlines()[6:9])
    assert header == rule == first


def test_predictions_of_the_peer_lie_where_they_are_read(tmp_path: Path) -> None:
    samples = [replace(sample(4), source="bbbc039"), replace(sample(5), source="dsb2018")]
    stardist_peer.write_samples(samples, tmp_path / "held")
    stardist_peer.write_predictions(tmp_path, otsu.segment)
    sets = {accuracy.set_of(one): [one] for one in samples}
    given = Method("peer", "none", str(tmp_path / "predictions"), False, None)
    rows = compare(sets, [given], tmp_path / "kept", lambda _: None)
    assert [row["set"] for row in rows] == ["BBBC039", "fluorescence"]
    assert all(row["mean"]["ap50"] == 1.0 for row in rows)


def test_a_bundled_model_takes_its_place_in_the_table(tmp_path: Path) -> None:
    methods = list(accuracy.bundled_methods(["none", "d4"], ["nuclei"]))
    rows = compare({"drawn": [sample(3)]}, methods, tmp_path, lambda _: None)
    assert [row["views"] for row in rows] == ["none", "d4"]
    assert all(row["mean"]["ap50"] > 0.9 for row in rows)
    assert all(row["seconds"] > 0 for row in rows)
