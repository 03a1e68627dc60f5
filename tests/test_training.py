"""Training: targets, splits, augmentation, resuming, export. Small, but the real thing."""

from __future__ import annotations

import copy
import csv
import warnings
from dataclasses import replace
from pathlib import Path

import cellinfer_models
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer.errors import InputError, ModelError  # noqa: E402
from cellinfer.segmentation import segment_image  # noqa: E402
from cellinfer.sessions import open_session  # noqa: E402
from cellinfer_training import export, own  # noqa: E402
from cellinfer_training import train as finishing  # noqa: E402
from cellinfer_training.__main__ import app  # noqa: E402
from cellinfer_training.assess import assess, summarise  # noqa: E402
from cellinfer_training.augment import Augmentation, CropSampler  # noqa: E402
from cellinfer_training.cards import Provenance, describe  # noqa: E402
from cellinfer_training.data import CLIP, Sample, load_pairs, normalise  # noqa: E402
from cellinfer_training.export import TOLERANCE, export_model  # noqa: E402
from cellinfer_training.loop import Batch, Schedule, Trainer, of_output, resume_step, save_state  # noqa: E402
from cellinfer_training.losses import distance_loss  # noqa: E402
from cellinfer_training.maskrcnn.__main__ import main as maskrcnn_main  # noqa: E402
from cellinfer_training.networks import FieldNet, UNet, load_weights, settle_statistics  # noqa: E402
from cellinfer_training.recipes import RECIPES, load, shortened, split  # noqa: E402
from cellinfer_training.report import write_summary  # noqa: E402
from cellinfer_training.splits import assign_families, split_by_group  # noqa: E402
from cellinfer_training.targets import distance_fields  # noqa: E402
from cellinfer_training.tasks import TASKS  # noqa: E402
from cellinfer_training.train import finish, train  # noqa: E402

from tests.conftest import draw_cells  # noqa: E402

SMALL = Augmentation(crop=96, diameter=22.0)


def sample(seed: int, name: str | None = None) -> Sample:
    field = draw_cells(seed, (150, 170))
    return Sample(name or f"f{seed}", "drawn", normalise(field["DNA"]), field["truth"].astype(np.int32))


def test_targets_peak_in_every_object_and_vanish_outside() -> None:
    labels = draw_cells(0)["truth"].astype(np.int32)
    labels[5:8, 5:8] = labels.max() + 1  # a small one
    foreground, distance, weight = np.moveaxis(distance_fields(labels), -1, 0)
    assert np.array_equal(foreground > 0, labels > 0)
    assert not distance[labels == 0].any()
    for number in range(1, labels.max() + 1):
        assert distance[labels == number].max() == pytest.approx(1)
    assert set(np.unique(weight)) <= {1.0, 4.0}


def test_targets_of_touching_objects_part_them() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:16, 4:15], labels[4:16, 15:26] = 1, 2
    _, distance, weight = np.moveaxis(distance_fields(labels), -1, 0)
    assert distance[10, 14] < 0.2
    assert distance[10, 9] == pytest.approx(1, abs=0.2)
    assert weight[10, 14] > 1
    assert weight[10, 5] == 1


def test_targets_turn_with_the_image() -> None:
    labels = draw_cells(1)["truth"].astype(np.int32)
    np.testing.assert_allclose(
        distance_fields(np.ascontiguousarray(np.rot90(labels))), np.rot90(distance_fields(labels)), atol=1e-6
    )


def test_normalising_a_constant_image_gives_zeros() -> None:
    assert not normalise(np.full((9, 9), 3, np.uint8)).any()


def test_crops_are_reproducible_and_within_bounds() -> None:
    samples = [sample(seed) for seed in range(3)]
    first, second = (CropSampler(samples, SMALL, 5).batch(6) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    images, targets = first
    assert images.shape == (6, 1, 96, 96)
    assert targets.shape == (6, 3, 96, 96)
    assert images.dtype == targets.dtype == np.float32
    assert images.min() >= CLIP[0]
    assert images.max() <= CLIP[1]
    assert targets[:, :2].min() >= 0
    assert targets[:, :2].max() <= 1 + 1e-5


def test_crops_are_scaled_no_further_than_images_are_when_segmented() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[100:300, 100:300] = 1
    one = Sample("large", "drawn", labels.astype(np.float32), labels)
    still = Augmentation(crop=96, diameter=22.0, scale=1.0, anisotropy=0.0, mosaic=0.0, empty=0.0, focused=1.0)
    _, targets = CropSampler([one], still, 0).batch(4)
    assert {round(np.sqrt(target[0].sum())) for target in targets} == {50}  # a quarter, not a tenth


def test_copies_of_an_image_are_one_family_and_families_stay_together() -> None:
    samples = [sample(seed) for seed in range(6)]
    noisy = [
        Sample(f"copy of {s.name}", s.source, s.image + np.float32(0.01) * (s.image > 0.5), s.labels) for s in samples
    ]
    assign_families(samples + noisy, distance=0.0)
    for one, twin in zip(samples, noisy, strict=True):
        assert one.group == twin.group
    train, held = split_by_group(samples + noisy, 0.3, seed=0)
    assert held
    assert {s.group for s in train}.isdisjoint({s.group for s in held})


def test_pairs_are_found_by_stem(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    field = draw_cells(0)
    cv2.imwrite(str(tmp_path / "i" / "a.png"), field["DNA"])
    cv2.imwrite(str(tmp_path / "i" / "b.png"), field["DNA"])
    cv2.imwrite(str(tmp_path / "m" / "a.png"), field["truth"].astype(np.uint16))
    (found,) = load_pairs(tmp_path / "i", tmp_path / "m", "mine")
    assert found.name == "a"
    assert found.labels.max() == field["truth"].max()
    assert found.diameter == pytest.approx(22, rel=0.15)


def test_missing_public_images_are_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index.csv: the folder of public images holds dsb2018/.* bbbc039/"):
        load(tmp_path, RECIPES["nuclei"])
    for name in ("images", "masks"):
        (tmp_path / "dsb2018" / name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"There is no .*bbbc039"):
        load_pairs(tmp_path / "bbbc039" / "images", tmp_path / "bbbc039" / "masks", "bbbc039")


def trainer(folder: Path, steps: int, samples: list[Sample], kind: type[Trainer] = Trainer) -> Trainer:
    torch.manual_seed(0)
    held = [CropSampler(samples, SMALL, 9).batch(2)]
    schedule = Schedule(steps=steps, batch=2, warm_up=2, check_every=5)
    return kind(FieldNet(width=8), of_output(distance_loss), CropSampler(samples, SMALL, 1), held, folder, schedule)


def test_training_lowers_the_loss_and_continues_where_it_stopped(tmp_path: Path) -> None:
    samples = [sample(seed) for seed in range(2)]
    trainer(tmp_path, 30, samples).run(report=lambda line: None)
    continued = trainer(tmp_path, 40, samples)
    assert continued.step == 30
    continued.run(report=lambda line: None)
    rows = logged(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(5, 45, 5))
    assert float(rows[-1]["train"]) < 0.8 * float(rows[0]["train"])
    assert (tmp_path / "best.pt").exists()


def test_an_export_with_a_bad_card_leaves_nothing(tmp_path: Path) -> None:
    card = describe(RECIPES["nuclei"], {})
    del card["license"]
    with pytest.raises(ModelError, match="license"):
        export_model(FieldNet(width=8), card, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_scores_are_those_of_the_deployed_pipeline() -> None:
    scores = assess(open_session("nuclei", "cpu", 1), [sample(0), sample(1)])
    summary = summarise(scores)
    assert summary["all"]["images"] == 2
    assert summary["drawn"]["ap50"] >= 0.9


def test_the_shipped_card_names_its_recipe() -> None:
    card = open_session("nuclei", "cpu", 1).card
    ours = card.description_file["config"]["cellinfer"]
    assert ours["recipe"]["seed"] == RECIPES["nuclei"].seed
    assert ours["evaluation"]["validation"]["all"]["images"] > 50


def coloured(seed: int) -> Sample:
    grey = draw_cells(seed, (150, 170))
    pixels = 1 - np.clip(normalise(grey["DNA"])[..., None] * np.array([0.6, 0.8, 0.4]), 0, 1)
    return Sample(f"c{seed}", "drawn", normalise(pixels), grey["truth"].astype(np.int32))


def test_colour_crops_keep_three_channels() -> None:
    images, targets = CropSampler([coloured(0), coloured(1)], SMALL, 3).batch(4)
    assert images.shape == (4, 3, 96, 96)
    assert targets.shape == (4, 3, 96, 96)
    assert not np.array_equal(images[:, 0], images[:, 1])


def test_targets_that_are_no_scalars_are_computed_from_each_crop() -> None:
    task = TASKS["star-convex"]
    mosaic = Augmentation(crop=96, diameter=22.0, mosaic=1.0)
    images, targets = CropSampler([sample(0), sample(1)], mosaic, 3, task.targets, task.scalar).batch(4)
    assert images.shape == (4, 1, 96, 96)
    assert targets.shape == (4, 34, 48, 48)
    inside = targets[:, 0] > 0.8
    assert 5 < targets[:, 1:33].mean(axis=1)[inside].mean() < 16  # rays of cells that are 22 pixels wide


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.filterwarnings("ignore")
def test_every_recipe_makes_a_model_that_the_pipeline_runs(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = RECIPES[name]
    task = recipe.make_task()
    path = tmp_path / f"{name}.onnx"
    card = describe(recipe, {}, Provenance((), "none"))  # whether or not what it starts from is bundled yet
    assert export_model(recipe.make_network().eval(), card, path, task.activate) <= TOLERANCE
    assert path.stat().st_size < 16e6
    assert path.with_suffix(".yaml").exists()
    assert not list(tmp_path.glob("*.partial*"))
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()
    image = coloured(0).image if recipe.colour else sample(0).image
    session = open_session(path, "cpu", 1)
    assert session.card.decoder == recipe.task
    assert name != "nuclei" or session.card.outputs == ("foreground", "distance")
    assert session.card.golden["input_sha256"]
    found = segment_image(image, session, diameter=22.0)
    assert found.labels.shape == image.shape[:2]


@pytest.mark.parametrize("kind", list(TASKS))
@pytest.mark.filterwarnings("ignore")
def test_every_task_learns_and_is_deployed(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = TASKS[kind]
    recipe = replace(RECIPES["nuclei"], task=kind, width=8)
    samplers = [CropSampler([sample(0), sample(1)], SMALL, seed, task.targets, task.scalar) for seed in (1, 2)]
    network, schedule = recipe.make_network(), Schedule(steps=12, batch=2, warm_up=2, check_every=4)
    held = [samplers[1].batch(2)]
    Trainer(network, of_output(task.loss), samplers[0], held, tmp_path, schedule).run(report=lambda line: None)
    losses = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)["train"]
    assert losses[-1] < losses[0]
    path = tmp_path / "small.onnx"
    export_model(network.eval(), describe(recipe, {}), path, task.activate)
    assert open_session(path, "cpu", 1).card.decoder == kind


def normalised(network: torch.nn.Module) -> torch.nn.Module:
    """The network with statistics of drawn cells, and scales and shifts as training leaves them."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = 0.5
    with torch.no_grad():
        for seed in range(4):
            network.train()(torch.from_numpy(CropSampler([sample(0), sample(1)], SMALL, seed).batch(4)[0]))
    return network.eval()


@pytest.fixture(scope="module", params=[FieldNet, UNet])
def grey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A network for grey images, and the file it was exported to."""
    torch.manual_seed(0)
    network = normalised(request.param(outputs=2, width=8 if request.param is FieldNet else 4))
    path = tmp_path_factory.mktemp("grey") / "grey.onnx"
    with warnings.catch_warnings():  # the exporter's own
        warnings.simplefilter("ignore")
        export_model(network, describe(RECIPES["nuclei"], {}), path)
    return network, path


def test_an_exported_network_can_be_trained_on(grey: tuple[torch.nn.Module, Path]) -> None:
    network, path = grey
    torch.manual_seed(1)
    other = copy.deepcopy(network)
    for value in other.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 2)
    assert load_weights(other, path) == []
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(image), network(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("grey", [FieldNet], indirect=True)
def test_a_warm_start_survives_the_statistics_of_batches(grey: tuple[torch.nn.Module, Path]) -> None:
    path = grey[1]
    network = FieldNet(width=8)
    assert load_weights(network, path) == []
    batches = [CropSampler([sample(0), sample(1)], SMALL, seed).batch(4)[0] for seed in range(4)]
    settle_statistics(network, batches[:3])
    exported = open_session(path, "cpu", 1).run(batches[3])
    with torch.no_grad():
        calm = torch.sigmoid(network.eval()(torch.from_numpy(batches[3]))).numpy()
        trained = torch.sigmoid(network.train()(torch.from_numpy(batches[3]))).numpy()
    np.testing.assert_allclose(calm, exported, atol=1e-3)
    assert np.abs(trained - exported).mean() < 0.25 * exported.std()


def test_a_colour_model_starts_from_a_grey_one(grey: tuple[torch.nn.Module, Path]) -> None:
    network, path = grey
    torch.manual_seed(1)
    colour = type(network)(outputs=2, width=8 if isinstance(network, FieldNet) else 4, channels=3)
    assert load_weights(colour, path) == []
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(colour.eval()(image.repeat(1, 3, 1, 1)), network(image), rtol=1e-3, atol=1e-3)


class Stopped(Trainer):
    """A training that is stopped while it writes its state."""

    def _save(self, name: str, state: dict[str, object]) -> None:
        if name == "last.pt":
            raise KeyboardInterrupt
        super()._save(name, state)


def test_a_run_stopped_at_a_check_has_kept_its_best(tmp_path: Path) -> None:
    samples = [sample(0)]
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, 5, samples, Stopped).run(report=lambda line: None)
    assert (tmp_path / "best.pt").exists()
    assert trainer(tmp_path, 5, samples).step == 0


class Interrupted(Trainer):
    """A training that Ctrl-C reaches in its eighth step."""

    def _advance(self, batch: Batch) -> float:
        if self.step == 7:
            raise KeyboardInterrupt
        return super()._advance(batch)


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    samples = [sample(0)]
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, 10, samples, Interrupted).run(report=lambda line: None)
    continued = trainer(tmp_path, 10, samples)
    assert continued.step == 7
    continued.run(report=lambda line: None)
    assert [int(row["step"]) for row in logged(tmp_path)] == [5, 10]


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("damaged", [b"", b"PK\3\4", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_named_and_can_be_deleted(tmp_path: Path, damaged: bytes | None) -> None:
    samples, last = [sample(0)], tmp_path / "last.pt"
    trainer(tmp_path, 1, samples).run(report=lambda line: None)
    if damaged is None:
        torch.save({"of": "another program"}, last)
    else:
        last.write_bytes(damaged)
    for look in (resume_step, lambda folder: trainer(folder, 1, samples)):
        with pytest.raises(InputError, match=r"last.pt is damaged: delete .*last.pt"):
            look(tmp_path)
    last.unlink()
    trainer(tmp_path, 1, samples).run(report=lambda line: None)
    assert [int(row["step"]) for row in logged(tmp_path)] == [1]


def test_a_start_that_comes_trained_is_logged_once(tmp_path: Path) -> None:
    for _ in range(2):
        stopped = trainer(tmp_path, 5, [sample(0)], Unmoved)
        stopped.frozen_statistics = True
        with pytest.raises(KeyboardInterrupt):
            stopped.run(report=lambda line: None)
    assert [int(row["step"]) for row in logged(tmp_path)] == [0]


class Unmoved(Trainer):
    """A training that Ctrl-C reaches before its first step."""

    def _advance(self, batch: Batch) -> float:
        raise KeyboardInterrupt


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    broken = trainer(tmp_path, 5, [sample(0)])
    broken.validation = [(np.full_like(image, np.nan), target) for image, target in broken.validation]
    with pytest.raises(InputError, match="is nan at step 5: run the same command again"):
        broken.run(report=lambda line: None)
    assert not (tmp_path / "last.pt").exists()


def said(command: typer.Typer, *words: str) -> tuple[int, str]:
    """Exit code and words, on one line however they were wrapped, of a command line."""
    result = CliRunner().invoke(command, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())


def test_errors_and_ctrl_c_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, nowhere, out = (str(tmp_path / name) for name in ("file", "nowhere", "out"))
    Path(there).touch()
    alone = typer.Typer()
    alone.command()(maskrcnn_main)
    for command, words in ((app, ("recipe", "nuclei")), (alone, ())):
        code, text = said(command, *words, nowhere, "--out", out)
        assert (code, "index.csv" in text) == (InputError.exit_code, True)
        assert "choose cpu or cuda" in said(command, *words, nowhere, "--out", out, "--device", "gpu")[1]
        assert "choose another --out" in said(command, *words, nowhere, "--out", there)[1]
    code, text = said(app, "recipe", "nuclei-tissue", nowhere, "--out", out)
    assert ("nuclei-accurate, which is not bundled" in text) == ("nuclei-accurate" not in cellinfer_models.registry())
    assert "index.csv" in said(app, "quantise", "nuclei", nowhere, "--out", out + "/x.onnx")[1]

    def interrupted(*options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "train_own", interrupted)
    assert said(app, "train", nowhere, "--out", out) == (130, "stopped; run the same command again to go on")


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_departs_from_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPES["unet"], width=4)
    save_state(tmp_path / "best.pt", {"step": 1, "network": recipe.make_network().state_dict()})
    monkeypatch.setattr(export, "_parity", lambda *parts: 0.5)
    with pytest.raises(ModelError, match=r"unet.onnx is refused: torch and onnxruntime differ by 0.5 .* run the same"):
        finish(recipe, [sample(0)], tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(finishing, "draw_report", lambda *parts: None)
    monkeypatch.setattr(finishing, "contract", lambda *parts, **options: {"cuda": {"breach": "CPU and GPU disagree"}})
    with pytest.raises(ModelError, match=r"unet.onnx is refused: CPU and GPU disagree"):
        finish(recipe, [sample(0)], tmp_path)


def test_a_folder_holds_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(RECIPES["nuclei"], width=4, augmentation=SMALL, schedule=Schedule(steps=1, batch=1, warm_up=1))
    training, held = [sample(0), sample(1)], [sample(2)]
    train(recipe, training, held, tmp_path)
    finished = (tmp_path / "last.pt").read_bytes()
    train(recipe, training, held, tmp_path)
    assert "nothing to train" in capsys.readouterr().out
    assert (tmp_path / "last.pt").read_bytes() == finished
    erased, dimmed = copy.deepcopy(training), copy.deepcopy(training)
    erased[1].labels[erased[1].labels == 1] = 0
    dimmed[0].image *= np.float32(0.5)
    for other, images in (
        (replace(recipe, seed=8), training),
        (shortened(recipe, 2), training),
        (recipe, training[:1]),
        (recipe, erased),
        (recipe, dimmed),
    ):
        with pytest.raises(InputError, match="holds another run"):
            train(other, images, held, tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["identity"]  # a run from before runs had one
    torch.save(state, tmp_path / "last.pt")
    train(shortened(recipe, 2), training, held, tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 2
    with pytest.raises(InputError, match="holds another run"):
        train(recipe, training, held, tmp_path)


@pytest.mark.parametrize(("name", "scale"), [("nuclei", 1), ("stardist", 2)])
def test_a_card_gives_the_size_of_the_output(name: str, scale: int) -> None:
    (output,) = describe(RECIPES[name], {})["outputs"]
    for axis, found in zip("yx", output["axes"][2:], strict=True):
        assert found["size"] == {"tensor_id": "image", "axis_id": axis, "offset": 0}
        assert found["scale"] == scale


def test_cards_and_reports_say_that_held_out_images_chose_the_step(tmp_path: Path) -> None:
    scored = describe(RECIPES["nuclei"], {"validation": {}})
    assert "chose the step" in scored["training_data"]["selection"]
    assert "selection" not in describe(RECIPES["nuclei"], {})["training_data"]
    write_summary(tmp_path / "report.md", "x", {"all": {"images": 1}}, [])
    assert "chose the step" in (tmp_path / "report.md").read_text()


def test_a_family_of_two_sizes_stays_together() -> None:
    samples = [sample(seed) for seed in range(12)]
    for number, one in enumerate(samples):
        one.group = f"family {number % 6}"
        if number >= 6:
            one.image, one.labels = one.image[:-10], one.labels[:-10]
    recipe = replace(RECIPES["nuclei"], validation=0.3)
    seeds = [split(samples, replace(recipe, seed=seed)) for seed in range(5)]
    assert any(held for _, held in seeds)
    for training, held in seeds:
        assert {s.group for s in training}.isdisjoint({s.group for s in held})
        assert len(training) + len(held) == 12


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "images"), [("nuclei", 98), ("nuclei-tissue", 24)])
def test_no_family_of_the_public_images_is_on_both_sides(data_folder: Path, name: str, images: int) -> None:
    training, held = split(load(data_folder, RECIPES[name]), RECIPES[name])
    assert {s.group for s in training}.isdisjoint({s.group for s in held})
    assert len(held) == images
