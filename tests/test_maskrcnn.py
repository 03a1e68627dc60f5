"""Mask R-CNN: its parts against independent ones, training on drawn cells, and the exported file in the pipeline."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cellinfer.decoders import decode
from cellinfer.decoders.mask_rcnn import detect, find_objects
from cellinfer.errors import InputError, ModelError
from cellinfer.sessions import Session, open_session
from cellinfer_kernels.matching import average_precision, score_thresholds
from cellinfer_training.augment import Augmentation, CropSampler
from cellinfer_training.data import Sample, normalise
from cellinfer_training.loop import Schedule, resume_step
from cellinfer_training.maskrcnn import boxes as box_module
from cellinfer_training.maskrcnn.comparison import TOLERANCE, difference, misfit
from cellinfer_training.maskrcnn.detection import Settings
from cellinfer_training.maskrcnn.detection import detect as detect_in_torch
from cellinfer_training.maskrcnn.export import describe_mask_rcnn, export_mask_rcnn
from cellinfer_training.maskrcnn.losses import find_boxes, losses
from cellinfer_training.maskrcnn.network import MaskRcnn
from cellinfer_training.maskrcnn.pooling import cut_masks, roi_align
from cellinfer_training.maskrcnn.training import (
    FLUORESCENCE,
    MaskRcnnRecipe,
    StagedSchedule,
    StagedTrainer,
    as_plane,
    objective,
    train,
)
from cellinfer_training.parity import LIMITS, torch_session
from cellinfer_training.parity import agreement as parity
from onnx import TensorProto, helper

from tests.conftest import draw_cells

SMALL = replace(FLUORESCENCE, width=8, features=16, augmentation=Augmentation(crop=128, mosaic=0.0, empty=0.0))


def sample(seed: int, radius: float = 14.0) -> Sample:
    field = draw_cells(seed, (192, 256), radius)
    return Sample(str(seed), "drawn", normalise(field["DNA"]), field["truth"].astype(np.int32), group=str(seed))


@pytest.fixture(scope="module")
def trained() -> tuple[MaskRcnn, list[float]]:
    """A small network after a short training on drawn cells, and its losses."""
    torch.manual_seed(0)
    network = SMALL.make_network().train()
    sampler = CropSampler([sample(0), sample(1)], replace(SMALL.augmentation, scale=1.1), 0, as_plane, scalar=False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
    steps = 160
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    course = []
    for _ in range(steps):
        image, labels = (torch.from_numpy(part) for part in sampler.batch(2))
        loss = losses(network, network(image), labels[:, 0])["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        course.append(float(loss.detach()))
    return network.eval(), course


@pytest.fixture(scope="module")
def exported_file(trained: tuple[MaskRcnn, list[float]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "maskrcnn.onnx"
    assert export_mask_rcnn(trained[0], describe_mask_rcnn(SMALL, {}), path) <= TOLERANCE
    return path


@pytest.fixture(scope="module")
def exported(exported_file: Path) -> Session:
    return open_session(exported_file, "cpu", 1)


def onnx_roi_align(maps: np.ndarray, boxes: np.ndarray, owners: np.ndarray, bins: int, stride: int) -> np.ndarray:
    node = helper.make_node(
        "RoiAlign",
        ["maps", "boxes", "owners"],
        ["cut"],
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=bins,
        output_width=bins,
        sampling_ratio=2,
        spatial_scale=1 / stride,
    )
    kinds = {"maps": (TensorProto.FLOAT, 4), "boxes": (TensorProto.FLOAT, 2), "owners": (TensorProto.INT64, 1)}
    inputs = [helper.make_tensor_value_info(name, kind, [None] * rank) for name, (kind, rank) in kinds.items()]
    output = helper.make_tensor_value_info("cut", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "cut", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"maps": maps, "boxes": boxes[:, [1, 0, 3, 2]], "owners": owners})[0]


@pytest.mark.parametrize(("bins", "stride"), [(7, 4), (14, 2)])
def test_cutting_equals_onnx(bins: int, stride: int) -> None:
    random = np.random.default_rng(0)
    maps = random.standard_normal((3, 5, 12, 17)).astype(np.float32)
    corners = random.uniform(-20, 60, (40, 2))  # inside, across and outside the map
    boxes = np.hstack([corners, corners + random.uniform(0.5, 50, (40, 2))]).astype(np.float32)
    owners = np.sort(random.integers(0, 3, 40))
    ours = roi_align(*(torch.from_numpy(part) for part in (maps, boxes, owners)), bins, stride)
    np.testing.assert_allclose(ours.numpy(), onnx_roi_align(maps, boxes, owners, bins, stride), atol=1e-5)


def test_a_mask_is_cut_from_its_own_object() -> None:
    labels = torch.zeros(1, 40, 40)
    labels[0, 10:20, 10:30] = 7
    labels[0, 20:30, 10:30] = 9
    cut = cut_masks(labels, torch.tensor([7.0]), torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0]), 20)
    assert cut[0, :9].min() > 0.5  # half a pixel of the rim lies between object and background
    assert cut[0, 11:].max() == 0


def test_boxes_are_described_and_restored() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, generator=random) * 100
    boxes = torch.cat([corners, corners + 1 + torch.rand(50, 2, generator=random) * 60], 1)
    restored = box_module.decode(box_module.encode(boxes, boxes.roll(1, 0)), boxes.roll(1, 0))
    torch.testing.assert_close(restored, boxes, rtol=0, atol=1e-4)  # pixels; a small box is described by a large one
    assert box_module.overlaps(boxes, boxes).diag().allclose(torch.ones(50))


def test_every_anchor_has_its_answer() -> None:
    features = SMALL.make_network()(torch.zeros(2, 1, 48, 80))
    places = box_module.anchors(48, 80)
    assert features.objectness.shape == (2, len(places))
    assert features.numbers.shape == (2, len(places), 4)
    # The first anchors lie in the corner, three at each place of the finest level.
    torch.testing.assert_close((places[:3, :2] + places[:3, 2:]) / 2, torch.full((3, 2), 2.0))
    torch.testing.assert_close(places[1], torch.tensor([-6.0, -6.0, 10.0, 10.0]))


def test_boxes_of_objects_are_tight_and_slivers_are_left_out() -> None:
    labels = torch.zeros(30, 40)
    labels[4:10, 5:25] = 3
    labels[20:22, 8:30] = 5
    found = find_boxes(labels)
    assert found.ids.tolist() == [3]
    assert found.boxes.tolist() == [[4, 5, 10, 25]]
    assert len(find_boxes(torch.zeros(8, 8)).ids) == 0


def test_the_loss_falls(trained: tuple[MaskRcnn, list[float]]) -> None:
    course = trained[1]
    assert np.mean(course[-5:]) < 0.5 * np.mean(course[:5])


def test_images_without_objects_can_be_learnt_from() -> None:
    network = SMALL.make_network()
    found = losses(network, network(torch.rand(2, 1, 64, 64)), torch.zeros(2, 64, 64))
    found["loss"].backward()
    assert torch.isfinite(found["loss"])
    assert found["anchor"] == found["box"] == found["mask"] == 0


def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(steps=4, batch=2, warm_up=2, check_every=2)
    tiny: MaskRcnnRecipe = replace(SMALL, augmentation=Augmentation(crop=64), schedule=schedule)
    advance = StagedTrainer._advance

    def interrupted(self: StagedTrainer, batch: Any) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return advance(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StagedTrainer, "_advance", interrupted)
        train(tiny, [sample(0)], [sample(1)], tmp_path)
    assert resume_step(tmp_path) == 3
    train(tiny, [sample(0)], [sample(1)], tmp_path)
    with (tmp_path / "log.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert {"objectness", "anchor", "object", "box", "mask"} < rows[0].keys()
    with pytest.raises(InputError, match="another run"):
        train(tiny, [sample(2)], [sample(1)], tmp_path)


def test_the_published_schedule_closes_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    schedule = StagedSchedule(steps=6, batch=1, warm_up=1, check_every=100)
    assert [schedule.rate_at(step) for step in (0, 2, 4)] == [1e-3, 5e-4, 1e-4]
    sampler = CropSampler([sample(0)], Augmentation(crop=64), 0, as_plane, scalar=False)
    trainer = StagedTrainer(SMALL.make_network(), objective, sampler, [], tmp_path, schedule)
    watched = ("stem.0.weight", "stages.3.0.first.0.weight", "box_head.1.weight")
    statistics = ("stem.1.running_mean", "stages.3.0.first.1.running_mean", "proposer.1.running_mean")
    moved = []
    for _ in range(6):
        before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
        trainer._advance(sampler.batch(1))
        after = trainer.network.state_dict()
        found = [[not torch.equal(before[name], after[name]) for name in names] for names in (watched, statistics)]
        assert found[0] == found[1]
        moved.append(found[0])
    assert moved[0] == [True, True, True]
    assert moved[2:4] == [[False, True, True]] * 2
    assert moved[4:] == [[False, False, True]] * 2


def test_the_exported_file_finds_what_torch_finds(trained: tuple[MaskRcnn, list[float]], exported: Session) -> None:
    image = sample(2).image[None, None]
    settings = Settings()
    expected = detect_in_torch(trained[0], torch.from_numpy(image), settings)
    found = exported.run_outputs(image, settings._asdict())
    assert len(expected.boxes) > 10
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    for ours, theirs in zip(exported.run_outputs(image), found, strict=True):  # the same thresholds, by default
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("part", ["smooth", "objectness", "box_head", "mask_head"])
def test_another_network_than_the_exported_is_noticed(
    part: str, trained: tuple[MaskRcnn, list[float]], exported_file: Path
) -> None:
    other = copy.deepcopy(trained[0])
    changed = [name for name, _ in other.named_parameters() if part in name]
    with torch.no_grad():
        other.get_parameter(changed[-1]).mul_(1.01)
    assert difference(trained[0], exported_file) <= TOLERANCE < difference(other, exported_file)


def suppressed(boxes: torch.Tensor, scores: torch.Tensor, count: int, overlap: float) -> torch.Tensor:
    """Select as the definition says: the best that no selected box overlaps too much, again and again."""
    kept: list[int] = []
    for candidate in scores.argsort(descending=True, stable=True).tolist():
        over = box_module.overlaps(boxes[candidate][None], boxes[kept]) if kept else torch.zeros(1, 1)
        if len(kept) < count and float(over.max()) <= overlap:
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.mark.parametrize("count", [1, 8, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_selections_are_judged_by_their_rule(seed: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    low = 60 * torch.rand((200, 2), generator=random)
    boxes = torch.cat([low, low + 5 + 30 * torch.rand((200, 2), generator=random)], dim=1)
    scores = (20 * torch.rand(200, generator=random)).round() / 20  # many alike
    kept = suppressed(boxes, scores, count, 0.35)
    assert misfit(boxes, scores, kept, count, 0.35) <= 1e-6
    assert misfit(boxes, scores, kept, len(kept) - 1, 0.35) == np.inf  # more than asked for
    worst_first = kept.flip(0)
    if scores[kept[-1]] < scores[kept[0]]:
        assert misfit(boxes, scores, worst_first, count, 0.35) == np.inf
    twice = torch.cat([kept, kept[-1:]])
    assert misfit(boxes, scores, twice, count + 1, 0.35) == np.inf
    sure = kept[scores[kept] > 0.5]
    assert misfit(boxes, scores, sure, count, 0.35, 0.5) <= 1e-6
    assert len(sure) == len(kept) or misfit(boxes, scores, kept, count, 0.35, 0.5) == np.inf
    if 1 < len(kept) < count:
        assert misfit(boxes, scores, kept[1:], count, 0.35) > 0.01  # the best left out
        assert misfit(boxes, scores, scores.argsort(descending=True), count, 0.35) > 0.1  # nothing left out


def test_the_card_names_the_outputs(exported: Session) -> None:
    assert exported.card.outputs == ("boxes", "scores", "masks")
    assert exported.card.decoder == "mask-rcnn"
    assert exported.card.golden["input_sha256"]
    recipe = exported.card.description_file["config"]["cellinfer"]["recipe"]
    assert (recipe["task"], recipe["network"]) == ("mask-rcnn", "mask-rcnn")


def test_torch_in_place_of_the_export_finds_the_same_objects(
    trained: tuple[MaskRcnn, list[float]], exported: Session
) -> None:
    original = torch_session(SMALL.deploy(trained[0]), exported)
    found = parity(exported, original, [sample(2)])
    assert found.objects > 5
    found.check(LIMITS["torch"], "torch and onnxruntime")


def labels_of(session: Session, image: np.ndarray, **options: float) -> np.ndarray:
    return find_objects(session, image[None], 28.0, image.shape, options)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    return float(average_precision(score_thresholds(first, second, [0.5]))[0])


def test_drawn_cells_are_found(exported: Session) -> None:
    unseen = sample(3)
    assert agreement(unseen.labels, labels_of(exported, unseen.image)) > 0.8


def test_tiles_find_what_the_whole_image_shows(exported: Session) -> None:
    field = draw_cells(4, (300, 420), 14.0)
    image = normalise(field["DNA"])
    tiled = replace(exported, card=replace(exported.card, tile=160, halo=48))
    whole, parts = labels_of(exported, image), labels_of(tiled, image)
    assert whole.max() > 20
    assert parts.max() == whole.max()
    assert agreement(whole, parts) == 1.0


def test_objects_are_placed_at_the_size_of_the_image(exported: Session) -> None:
    image = sample(5).image
    small = labels_of(exported, image)
    large = find_objects(exported, image[None], 56.0, (384, 512), {})
    assert agreement(small.repeat(2, axis=0).repeat(2, axis=1), large) == 1.0


@pytest.mark.parametrize("shape", [(128, 128), (16, 16), (1, 1), (7, 300)])
def test_an_empty_image_has_no_objects(exported: Session, shape: tuple[int, int]) -> None:
    labels = labels_of(exported, np.zeros(shape, np.float32), confidence=0.99)
    assert labels.shape == shape
    assert labels.dtype == np.int32
    assert not labels.any()


def test_thresholds_of_the_card_reach_the_network(exported: Session) -> None:
    image = sample(2).image[None]
    defaults = Settings()._asdict()
    some = detect(exported, image, **defaults)
    assert len(detect(exported, image, **{**defaults, "confidence": 0.05}).scores) > len(some.scores)
    assert len(detect(exported, image, **{**defaults, "proposals": 3}).scores) <= 3
    assert some.scores.min() > 0.5


def test_unknown_options_are_refused(exported: Session) -> None:
    image = sample(2).image
    with pytest.raises(ModelError, match="certainty"):
        labels_of(exported, image, certainty=0.5)
    with pytest.raises(ModelError, match="runs its network itself"):
        decode("mask-rcnn", np.zeros((2, 8, 8), np.float32), 28.0, {})
    with pytest.raises(ModelError, match="no setting"):
        exported.run_outputs(np.zeros((1, 1, 32, 32), np.float32), {"core": 0.3})
