"""The study of test-time augmentation, from drawn images to its report: few small steps, but the real thing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer.errors import InputError  # noqa: E402
from cellinfer_training.data import Sample, normalise  # noqa: E402
from cellinfer_training.maskrcnn.training import as_plane  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from benchmarks.tta_study import images, plan, report, scoring, summary, training  # noqa: E402
from benchmarks.tta_study.__main__ import app  # noqa: E402
from benchmarks.tta_study.plan import Run  # noqa: E402
from benchmarks.tta_study.scoring import Score  # noqa: E402
from tests.conftest import draw_cells  # noqa: E402

UNET = Run("unet", "fluorescence", 0.30, (2, 6), batch=2, crop=64, width=4)
MASKRCNN = Run("maskrcnn", "tissue", 0.30, (4,), batch=2, crop=64, width=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in the layout of DSB 2018: nine fluorescence images and six of tissue, of different sizes."""
    root = tmp_path_factory.mktemp("data")
    for kind in ("images", "masks"):
        (root / "dsb2018" / kind).mkdir(parents=True)
    rows = []
    for number in range(15):
        modality = "fluorescence" if number < 9 else "tissue"
        field = draw_cells(number, (64 + 4 * number, 96), 9.0 + number % 3)
        pixels = (255.0 * field["DNA"] / field["DNA"].max()).astype(np.uint8)
        if modality == "tissue":
            pixels = 255 - np.stack([pixels // 3, pixels, pixels // 2], axis=-1)
        cv2.imwrite(str(root / "dsb2018" / "images" / f"n{number:02d}.png"), pixels)
        cv2.imwrite(str(root / "dsb2018" / "masks" / f"n{number:02d}.png"), field["truth"].astype(np.uint16))
        rows.append({"image_id": f"n{number:02d}", "modality": modality})
    with (root / "dsb2018" / "index.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["image_id", "modality"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each network, trained and scored."""
    out = tmp_path_factory.mktemp("study")
    for run in (UNET, MASKRCNN):
        training.train(run, data, out)
    scoring.score(data, out, images=2)
    return out


def score(image: str, views: str, map_dsb: float, *, family: str = "", step: int = 2, sha256: str = "a") -> Score:
    return Score(sha256, step, views, image, family or image, 5, map_dsb, map_dsb, 0.5 if views == "none" else 1.0)


# Plan and images


def test_the_plan_covers_what_the_paper_compares() -> None:
    fluorescence = {(run.network, run.held) for run in plan.PLAN if run.modality == "fluorescence"}
    assert fluorescence == {(network, held) for network in plan.NETWORKS for held in plan.SPLITS}
    assert {run.network for run in plan.PLAN if run.modality == "tissue"} == set(plan.NETWORKS)
    assert len({run.name for run in plan.EVERY}) == len(plan.EVERY) == 12
    assert plan.choose() == list(plan.PLAN)
    assert {run.held for run in plan.choose("unet", "tissue")} == set(plan.SPLITS)
    assert all(run.steps <= 60 for run in plan.choose(quick=True))


def test_splits_divide_no_family_and_are_nested() -> None:
    blank, cell = np.zeros((8, 8), np.float32), np.ones((8, 8), np.int32)
    samples = [Sample(f"s{n}", "drawn", blank, cell, group=f"g{n % 25}") for n in range(100)]
    before: set[str] = set()
    for held in plan.SPLITS:
        training_part, held_part = images.split(samples, held)
        names = {sample.name for sample in held_part}
        assert before <= names
        assert held <= len(names) / 100 < held + 0.05
        assert not {s.group for s in training_part} & {s.group for s in held_part}
        before = names


def test_images_are_spread_over_families() -> None:
    blank, cell = np.zeros((8, 8), np.float32), np.ones((8, 8), np.int32)
    samples = [Sample(f"s{n}", "drawn", blank, cell, group="big" if n < 6 else f"g{n}") for n in range(9)]
    assert {s.group for s in images.spread(samples, 4)} == {"big", "g6", "g7", "g8"}
    assert len(images.spread(samples, 100)) == 9


def test_crops_are_mirrored_and_turned_and_nothing_else() -> None:
    labels = np.zeros((64, 64), np.int32)
    cv2.circle(labels, (20, 24), 14, 1, -1)
    image = labels + 0.1 * np.arange(64, dtype=np.float32)
    sample = Sample("one", "drawn", image.astype(np.float32), labels)
    sample.diameter = images.DIAMETER  # so that nothing is scaled
    crops, planes = images.PublishedCrops([sample], 64, 3, as_plane).batch(64)
    assert crops.shape == planes.shape == (64, 1, 64, 64)
    turned = {np.rot90(flipped, k).tobytes() for flipped in (sample.image, sample.image[:, ::-1]) for k in range(4)}
    assert {crop[0].tobytes() for crop in crops} == turned
    np.testing.assert_array_equal(crops[:, 0] - planes[:, 0] >= 0, True)


def test_small_images_fill_a_crop_and_objects_get_one_size() -> None:
    field = draw_cells(0, (100, 120), 7.0)
    sample = Sample("small", "drawn", normalise(field["DNA"]), field["truth"].astype(np.int32))
    _, planes = images.PublishedCrops([sample], 256, 0, as_plane).batch(1)
    ids, areas = np.unique(planes[planes > 0], return_counts=True)
    assert len(ids)
    assert 2 * np.sqrt(np.median(areas) / np.pi) == pytest.approx(images.DIAMETER, rel=0.25)


# Training and scoring


def test_a_run_keeps_networks_and_says_what_it_learnt_from(study: Path, data: Path) -> None:
    for run in (UNET, MASKRCNN):
        found = training.read_run(study / run.name)
        assert not set(found["training"]) & set(found["held"])
        assert found["settings"]["network"] == run.network
        digests = {training.model_path(study / run.name, step).read_bytes() for step in run.checkpoints}
        assert len(digests) == len(run.checkpoints)


def test_a_trained_run_is_not_trained_again(study: Path, data: Path) -> None:
    paths = [training.model_path(study / UNET.name, step) for step in UNET.checkpoints]
    before = [path.stat().st_mtime_ns for path in paths]
    assert training.train(UNET, data, study) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
    with pytest.raises(InputError, match="other settings"):
        training.train(replace(UNET, batch=3), data, study)


def test_every_image_is_scored_with_every_kind_of_views_once(study: Path, data: Path) -> None:
    for run in (UNET, MASKRCNN):
        scores = scoring.read_scores(study / run.name)
        held = {s.image for s in scores}
        assert held <= set(training.read_run(study / run.name)["held"])
        assert len(scores) == len(held) * len(run.checkpoints) * len(plan.VIEWS)
        assert all(0 <= s.map_dsb <= s.ap50 <= 1 for s in scores)


def test_scoring_goes_on_after_a_torn_row(study: Path, data: Path) -> None:
    folder = study / UNET.name
    before = {(s.step, s.views, s.image): s.map_dsb for s in scoring.read_scores(folder)}
    table = folder / "scores.csv"
    table.write_text(table.read_text()[:-20])  # stopped in the middle of the last row
    assert len(scoring.read_scores(folder)) == len(before) - 1
    scoring.score(data, study, images=2)
    assert {(s.step, s.views, s.image): s.map_dsb for s in scoring.read_scores(folder)} == before


def test_the_report_holds_everything(study: Path, tmp_path: Path) -> None:
    path = report.report(study, tmp_path)
    text = path.read_text()
    for said in (*plan.PUBLISHED.values(), "| unet | fluorescence | 30% |", "| maskrcnn | tissue | 30% |"):
        assert said in text
    content = json.loads((tmp_path / "tta_study.json").read_text())
    assert {gain["views"] for gain in content["gains"]} == {"flips", "d4", "adaptive"}
    run = content["runs"][UNET.name]
    assert set(run["models"]) == {"2", "6"}
    assert run["held"]
    assert content["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    for picture in ("tta_study_images.png", "tta_study_epochs.png"):
        assert len(np.unique(cv2.imread(str(tmp_path / picture)).reshape(-1, 3), axis=0)) > 10


# What the numbers say


def test_gains_are_differences_over_the_same_images() -> None:
    scores = [
        *(score(name, "none", value) for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.7), ("alone", 0.1))),
        *(score(name, "flips", value) for name, value in (("a", 0.6), ("b", 0.6), ("c", 0.5))),
    ]
    (gain,) = summary.summarise(UNET, 8, scores)
    assert gain.images == 3
    assert gain.mean == pytest.approx((0.1 + 0.0 - 0.2) / 3)
    assert gain.single == pytest.approx(0.6)
    assert (gain.better, gain.worse) == pytest.approx((1 / 3, 1 / 3))
    assert gain.epochs == pytest.approx(2 * UNET.batch / 8)
    assert gain.cost == pytest.approx(2.0)


def test_only_the_network_that_was_scored_last_counts() -> None:
    old = [score("a", "none", 0.1), score("a", "d4", 0.9)]
    new = [score("a", "none", 0.5, sha256="b"), score("a", "d4", 0.6, sha256="b")]
    (gain,) = summary.summarise(UNET, 8, old + new)
    assert gain.mean == pytest.approx(0.1)


def test_families_are_drawn_not_images() -> None:
    random = np.random.default_rng(0)
    level = np.repeat(random.normal(0, 1, 12), 10)  # images of a family are copies
    families = [f"f{n // 10}" for n in range(120)]
    by_family = summary.bootstrap(level, families)
    by_image = summary.bootstrap(level, [str(n) for n in range(120)])
    assert by_family is not None
    assert by_image is not None
    assert by_family.high - by_family.low > 2 * (by_image.high - by_image.low)
    assert by_family.low < level.mean() < by_family.high
    assert summary.bootstrap(level, ["one"] * 120) is None


def test_an_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.02, 0.05, 400)
    found = summary.bootstrap(values, [str(n) for n in range(400)])
    assert found is not None
    wide = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - wide, abs=0.1 * wide)
    assert found.high == pytest.approx(values.mean() + wide, abs=0.1 * wide)


# The command


def test_the_command_refuses_what_it_does_not_know(data: Path, tmp_path: Path) -> None:
    for command, known in (
        (["train", str(data), str(tmp_path), "--network", "sam"], "maskrcnn"),
        (["train", str(data), str(tmp_path), "--checkpoints", "few"], "whole numbers"),
        (["score", str(data), str(tmp_path), "--views", "many"], "adaptive"),
        (["score", str(data), str(tmp_path)], "train one first"),
        (["train", str(tmp_path), str(tmp_path)], "index.csv"),
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, InputError)
        assert known in str(done.exception)


def test_steps_and_checkpoints_can_be_chosen(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Run] = []
    monkeypatch.setattr(training, "train", lambda run, *_: asked.append(run))
    options = ["--network", "unet", "--split", "0.3", "--modality", "tissue", "--steps", "40", "--checkpoints", "10,20"]
    assert CliRunner().invoke(app, ["train", str(data), str(tmp_path), *options]).exit_code == 0
    assert [run.checkpoints for run in asked] == [(10, 20, 40)]
