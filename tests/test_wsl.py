"""Weakly supervised learning: what is left out, what is drawn, how it varies, how a run goes on, what comes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cellinfer.engine import run
from cellinfer.errors import InputError
from cellinfer.pipeline import Settings as PipelineSettings
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.sessions import open_embedder
from cellinfer_kernels.crops import crops as cut_deployed
from cellinfer_training.__main__ import app
from cellinfer_training.embedding.crops import (
    TREATMENT,
    CropSet,
    centroids,
    choose,
    combine,
    cut,
    open_crops,
    pack,
    pack_experiment,
    pack_run,
    scale,
)
from cellinfer_training.embedding.network import embed
from cellinfer_training.embedding.report import Claims, finish
from cellinfer_training.embedding.strong import select_strong, treatment_strength
from cellinfer_training.embedding.wsl import CELLS, HELD, TRAINING, Learner, Settings, balanced, divide, vary
from cellinfer_training.simulate import Experiment, paint_field, write_experiment
from scipy import ndimage
from typer.testing import CliRunner

SIDE = 32
QUICK = Settings("lite0", epochs=6, batch=8, pretrained=False, share=0.4, cells=0.15, save_every=3, seed=1)


def index_of(plates: int = 3, wells: int = 4, cells: int = 12) -> pd.DataFrame:
    rows = [
        (f"p{plate}", f"A{well + 1:02d}", 1, "ab"[well % 2])
        for plate in range(plates)
        for well in range(wells)
        for _ in range(cells)
    ]
    return pd.DataFrame(rows, columns=[PLATE, WELL, SITE, TREATMENT])


def striped(index: pd.DataFrame, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Crops whose treatment is written on them: one has stripes in any direction, the other noise alone."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    made = 128 + rng.normal(0, 20, (len(index), channels, SIDE, SIDE))
    for number in np.flatnonzero(index[TREATMENT] == "a"):
        angle = rng.uniform(0, np.pi)
        made[number] += 80 * np.sin(
            2 * np.pi * (rows * np.cos(angle) + columns * np.sin(angle)) / 6 + rng.uniform(0, 6)
        )
    return made.clip(0, 255).astype(np.uint8)


def packed(folder: Path, channels: tuple[str, ...] = ("DNA", "ER"), seed: int = 0) -> CropSet:
    index = index_of()
    pictures = striped(index, len(channels), seed)
    halves = [(pictures[part], index[part]) for part in (slice(0, 50), slice(50, None))]
    return pack(folder, halves, channels, box=40, diameter=19.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    return packed(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def learnt(data: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Learner:
    learner = Learner(data, QUICK, tmp_path_factory.mktemp("run"))
    learner.run(lambda line: None)
    return learner


def test_packed_crops_come_back(data: CropSet) -> None:
    pictures = striped(index_of())
    rows = np.array([100, 3, 70, 3])
    np.testing.assert_array_equal(data.take(rows), pictures[rows])
    assert (data.channels, data.side, data.box, data.diameter) == (("DNA", "ER"), SIDE, 40, 19.0)
    pd.testing.assert_frame_equal(data.index, index_of())
    scaled = scale(np.array([[0, 255]], np.uint8))
    np.testing.assert_allclose(scaled, [[-1, 1]])


def test_a_damaged_set_is_refused(tmp_path: Path) -> None:
    packed(tmp_path / "x")
    with (tmp_path / "x" / "crops.u8").open("ab") as file:
        file.write(b"1")
    with pytest.raises(InputError, match="holds no whole set of crops"):
        open_crops(tmp_path / "x")
    with pytest.raises(InputError, match="no cell"):
        pack(tmp_path / "y", [], ["DNA"], 40)
    with pytest.raises(InputError, match="Metadata_Treatment"):
        pack(tmp_path / "y", [(np.zeros((1, 1, 8, 8), np.uint8), index_of()[:1].drop(columns=TREATMENT))], ["DNA"], 8)


def test_crops_are_those_of_the_deployed_model() -> None:
    field = paint_field(Experiment(seed=2), 0, 0, 0)
    ids, centres = centroids(field.nuclei)
    np.testing.assert_allclose(centres, ndimage.center_of_mass(field.nuclei > 0, field.nuclei, ids))
    found = scale(cut(list(field.images), centres, 48, 64))
    deployed = cut_deployed(list(field.images), centres, 48, 64, value_range=(-1.0, 1.0))
    np.testing.assert_allclose(found, deployed, atol=0.5 / 127.5 + 1e-6)  # 8 bits
    assert cut(list(field.images), centres[:0], 48, 64).shape == (0, 5, 64, 64)


def test_experiments_are_joined_by_channel_name(tmp_path: Path) -> None:
    one, two = packed(tmp_path / "one"), packed(tmp_path / "two", ("AGP", "ER", "DNA"), seed=1)
    both = combine({"one": one, "two": two})
    assert both.channels == ("DNA", "ER")
    assert sorted(set(both.index[TREATMENT])) == ["one/a", "one/b", "two/a", "two/b"]
    assert set(both.index[PLATE]) == {f"{name}/p{plate}" for name in ("one", "two") for plate in range(3)}
    rows = np.array([len(one) + 5, 7])
    np.testing.assert_array_equal(both.take(rows)[0], two.take(rows[:1] - len(one))[0][[2, 1]])
    np.testing.assert_array_equal(both.take(rows)[1], one.take(rows[1:])[0])
    assert sorted(set(combine({"one": one, "two": two}, shared_classes=True).index[TREATMENT])) == ["a", "b"]
    with pytest.raises(InputError, match="share no channel"):
        combine({"one": one, "x": packed(tmp_path / "x", ("RNA",))})


def test_treatments_can_be_chosen(data: CropSet) -> None:
    only = choose(data, ["b"])
    rows = np.flatnonzero(data.index[TREATMENT] == "b")
    np.testing.assert_array_equal(only.take(np.array([0, 11])), data.take(rows[[0, 11]]))
    assert len(only) == len(rows)
    with pytest.raises(InputError, match="no crops of the treatment 'c'"):
        choose(data, ["c"])


@pytest.mark.parametrize("scheme", ["plates", "wells", "cells"])
def test_what_is_left_out_is_left_out(scheme: str) -> None:
    index = index_of(4, 6)
    roles = divide(index, Settings(scheme=scheme, share=0.3, seed=5))  # type: ignore[arg-type]
    group = index[PLATE] if scheme == "plates" else index[PLATE] + index[WELL]
    held, others = set(group[roles == HELD]), set(group[roles != HELD])
    assert bool(held) == (scheme != "cells")
    assert not held & others
    assert set(index[TREATMENT][roles == TRAINING]) == {"a", "b"}
    if scheme == "wells":  # some of every class
        assert set(index[TREATMENT][roles == HELD]) == {"a", "b"}
    left = (roles == CELLS).sum() / (roles != HELD).sum()
    assert left == pytest.approx(0.3 if scheme == "cells" else 0.1, abs=0.07)


def test_what_is_left_out_can_be_named() -> None:
    index = index_of()
    roles = divide(index, Settings(held=("p1",)))
    assert set(index[PLATE][roles == HELD]) == {"p1"}
    roles = divide(index, Settings(scheme="wells", held=("p1/A02",)))
    assert set(index[WELL][roles == HELD]) == {"A02"}
    with pytest.raises(InputError, match="no plate 'p9'"):
        divide(index, Settings(held=("p9",)))
    with pytest.raises(InputError, match="too few plates"):
        divide(index_of(plates=1), Settings())
    with pytest.raises(InputError, match="Nothing is left"):
        divide(index, Settings(held=("p0", "p1", "p2")))


def test_every_class_counts_as_the_median_class() -> None:
    labels = np.repeat([0, 1, 2], [10, 25, 300])
    drawn = balanced(labels, np.random.default_rng(1))
    assert np.bincount(labels[drawn]).tolist() == [25, 25, 25]
    times = np.bincount(drawn, minlength=len(labels))
    assert set(times[:10]) == {2, 3}
    assert set(times[10:35]) == {1}
    assert times[35:].max() == 1
    assert not np.array_equal(drawn, balanced(labels, np.random.default_rng(2)))
    assert not (np.diff(labels[drawn]) == 0).all()


def test_variation_keeps_to_its_bounds() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((200, 2, SIDE, SIDE), 128, np.uint8)
    brightness = vary(flat, rng)[:, :, 0, 0] - (128 / 127.5 - 1)
    assert np.abs(brightness).max() <= 0.2 + 1e-6
    assert np.abs(brightness).max() > 0.18
    assert np.corrcoef(brightness.T)[0, 1] < 0.3  # by channel
    ramp = np.tile(np.linspace(90, 165, SIDE).astype(np.uint8), (300, 1, SIDE, 1))
    varied = vary(ramp, rng)
    widths = np.ptp(varied, axis=(1, 2, 3)) / np.ptp(scale(ramp)[0])
    assert widths.max() <= 1.2 + 1e-5
    assert widths.min() >= 0.8 * 0.75  # contrast, and the cut
    assert (widths < 0.79).any()
    corners = varied[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert len({tuple(row == row.max()) for row in corners.round(2)}) == 4  # brightest left, right, above or below
    assert varied.min() >= -1
    assert varied.max() <= 1


def test_a_network_learns_what_is_written_on_crops(learnt: Learner) -> None:
    held = learnt.judge(HELD)
    assert held is not None
    assert held.accuracy > 0.8
    assert held.confusion.sum() == held.crops == (learnt.roles == HELD).sum()
    assert [row["epoch"] for row in learnt.log] == [1, 2, 3, 4, 5, 6]
    assert pd.read_csv(learnt.folder / "log.csv")["held"].tolist() == pytest.approx([row["held"] for row in learnt.log])


def test_a_run_that_was_stopped_ends_as_it_would_have(data: CropSet, tmp_path: Path) -> None:
    short = replace(QUICK, epochs=1)
    whole = Learner(data, short, tmp_path / "whole")
    whole.run(lambda line: None)
    Learner(data, short, tmp_path / "parts").run(lambda line: None, until=4)
    again = Learner(data, short, tmp_path / "parts")
    assert again.step == 4
    again.run(lambda line: None)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value, rtol=0, atol=0)
    assert [row[HELD] for row in again.log] == [row[HELD] for row in whole.log]


def test_ctrl_c_loses_nothing(data: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, advance = Learner(data, QUICK, tmp_path), Learner._advance

    def stop(self: Learner, *batch: np.ndarray) -> float:
        if self.step == 5:
            raise KeyboardInterrupt
        return advance(self, *batch)

    monkeypatch.setattr(Learner, "_advance", stop)
    with pytest.raises(KeyboardInterrupt):
        learner.run(lambda line: None)
    assert Learner(data, QUICK, tmp_path).step == 5


def test_another_run_is_not_continued(data: CropSet, learnt: Learner) -> None:
    with pytest.raises(InputError, match="holds another run"):
        Learner(data, Settings(epochs=2, pretrained=False), learnt.folder)


def test_one_class_is_too_few(data: CropSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only one treatment"):
        Learner(choose(data, ["a"]), QUICK, tmp_path)
    for wrong in ({"scheme": "rows"}, {"epochs": 0}, {"share": 1.0}):
        with pytest.raises(InputError):
            Settings(**wrong)  # type: ignore[arg-type]


def test_the_report_and_the_model(learnt: Learner, data: CropSet) -> None:
    path = finish(learnt, "striped", Claims("CC0-1.0", evaluation={"stripes": 1.0}))
    figures = json.loads((path.parent / "report.json").read_text())
    cells, held = figures["left_out_cells"]["accuracy"], figures["left_out_plates"]["accuracy"]
    assert figures["gap"] == pytest.approx(cells - held, abs=1e-4)
    assert f"{held:.3f}" in (path.parent / "report.md").read_text()
    assert (path.parent / "report.png").stat().st_size > 10_000
    session = open_embedder(path, device="cpu", threads=1)
    card = session.card
    assert (card.channels, card.side, card.box, card.diameter) == (("DNA", "ER"), SIDE, 40, 19.0)
    crops = scale(data.take(np.arange(6)))
    np.testing.assert_allclose(session.run(crops), embed(learnt.network, crops), atol=1e-4, rtol=1e-3)
    ours = card.description_file["config"]["cellinfer"]
    assert ours["pretext"] == figures
    assert ours["evaluation"] == {"stripes": 1.0}
    assert (card.license, ours["classes"]) == ("CC0-1.0", ["a", "b"])


def test_batches_are_drawn_the_same_wherever_a_run_goes_on(learnt: Learner) -> None:
    first = [next(batches) for batches in [learnt._batches(0)] for _ in range(learnt.epoch_steps + 2)]
    later = next(learnt._batches(learnt.epoch_steps + 1))
    np.testing.assert_array_equal(first[-1][0], later[0])
    np.testing.assert_array_equal(first[-1][1], later[1])
    training = set(np.flatnonzero(learnt.roles == TRAINING))
    assert set(learnt._epoch(1)) <= training


def test_cells_of_a_finished_run(tmp_path: Path) -> None:
    """From pictures on the disk to a model, as a user would."""
    experiment = Experiment(1, 1, 1, 1, 1, size=(160, 160), seed=8)
    write_experiment(tmp_path / "made", experiment)
    settings = PipelineSettings(nuclei="DNA", cells="RNA", families=("AreaShape",))
    result = run(tmp_path / "made" / "plate1", tmp_path / "results", device="cpu", settings=settings)
    assert result.complete
    packed_run = pack_run(tmp_path / "crops", [tmp_path / "results"], tmp_path / "made" / "plate1.csv", "Compound")
    assert set(packed_run.index[TREATMENT]) == {"DMSO", "tubulin-1"}
    assert packed_run.box == packed_run.side == pytest.approx(84, abs=12)
    assert packed_run.diameter == pytest.approx(19, abs=3)
    counts = pd.read_parquet(tmp_path / "results" / "Well.parquet")["Image_Count_Nuclei"]
    assert len(packed_run) == counts.sum()
    with pytest.raises(InputError, match="Dose"):
        pack_run(tmp_path / "other", [tmp_path / "results"], tmp_path / "made" / "plate1.csv", "Dose")
    with pytest.raises(InputError, match=r"no valid run\.json"):
        pack_run(tmp_path / "other", [tmp_path], tmp_path / "made" / "plate1.csv", "Compound")


def test_the_command_teaches(tmp_path: Path) -> None:
    pack_experiment(tmp_path / "crops", Experiment(1, 1, 2, 1, 1, size=(128, 128), seed=8), box=32)
    line = ["wsl", str(tmp_path / "crops"), "--out", str(tmp_path / "run"), "--epochs", "1", "--no-pretrained"]
    line += ["--network", "lite0"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "embed-wsl.onnx" in result.output
    assert open_embedder(tmp_path / "run" / "embed-wsl.onnx", device="cpu", threads=1).card.license == "unstated"
    refused = CliRunner().invoke(app, [*line, "--epochs", "2"])
    assert refused.exit_code != 0
    assert "holds another run" in refused.output


def strengths_by_hand(wells: pd.DataFrame) -> dict[str, float]:
    total: dict[str, float] = {}
    for _, here in wells.groupby(PLATE):
        values = here[["Cells_a", "Cells_b"]].to_numpy()
        controls = values[here["t"] == "DMSO"]
        distance = np.linalg.norm(values - np.median(controls, axis=0), axis=1)
        own = distance[here["t"] == "DMSO"]
        for name in {"x", "y"}:
            z = (distance[here["t"] == name] - own.mean()) / own.std(ddof=1)
            total[name] = total.get(name, 0) + float(z.mean())
    return total


def test_strength_is_distance_from_the_controls_of_the_plate() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (plate, name, *(rng.normal({"p": 0, "q": 5}[plate], 1, 2) + {"DMSO": 0, "x": 1, "y": 6}[name]))
        for plate in "pq"
        for name in ["DMSO"] * 6 + ["x", "y"] * 2
    ]
    wells = pd.DataFrame(rows, columns=[PLATE, "t", "Cells_a", "Cells_b"])
    found = treatment_strength(wells, "t", "DMSO")
    assert found["treatment"].tolist() == ["y", "x"]
    assert dict(zip(found["treatment"], found["strength"], strict=True)) == pytest.approx(strengths_by_hand(wells))
    assert found["plates"].tolist() == [2, 2]
    assert found["wells"].tolist() == [4, 4]
    mean = treatment_strength(wells, "t", "DMSO", over_plates="mean")
    np.testing.assert_allclose(mean["strength"], found["strength"] / 2)
    assert select_strong(found, "DMSO", most=1) == ["DMSO", "y"]
    with pytest.raises(InputError, match="ask for less"):
        select_strong(found, "DMSO", least=1e6)
    with pytest.raises(InputError, match="0 wells of 'none'"):
        treatment_strength(wells, "t", "none")
    with pytest.raises(InputError, match="all alike"):
        treatment_strength(wells.assign(Cells_a=1.0, Cells_b=1.0), "t", "DMSO")
