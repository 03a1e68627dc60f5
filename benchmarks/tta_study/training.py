"""Training as published, resumable, with the network kept at several steps and exported as users would run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cellinfer.errors import InputError
from cellinfer.files import durable
from cellinfer_training.augment import Augmentation
from cellinfer_training.loop import Batch, Schedule, Trainer, of_output, resume_step
from cellinfer_training.losses import semantic_loss
from cellinfer_training.maskrcnn import training as maskrcnn
from cellinfer_training.maskrcnn.training import StagedSchedule, StagedTrainer, as_plane
from cellinfer_training.recipes import Recipe
from cellinfer_training.targets import semantic_fields

from benchmarks.tta_study.images import DIAMETER, PublishedCrops, load, split
from benchmarks.tta_study.plan import Run

_RATE = 3e-4
_CHECK_EVERY = 50


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """One learning rate from first to last step."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        return self.rate


class _Keeping(Trainer):
    """Keeps the weights, as they are and not averaged, at some steps."""

    kept: tuple[int, ...] = ()

    def _advance(self, batch: Batch) -> float:
        loss = super()._advance(batch)
        if self.step in self.kept:
            self._save(_weights(self.folder, self.step).name, self.network.state_dict())
        return loss


class _KeepingStaged(_Keeping, StagedTrainer):
    """The same in the published stages."""


def train(run: Run, data: Path, out: Path, device: str = "cpu", say: Callable[[str], None] = print) -> list[Path]:
    """Train, or go on training, one run in its folder.

    Parameters
    ----------
    run
        What to train.
    data
        Folder that holds `dsb2018/`.
    out
        Folder of the study; the run has its own in it.
    device
        A torch device.
    say
        Told about progress.

    Returns
    -------
    list of Path
        The exported networks, one per checkpoint.

    Raises
    ------
    InputError
        If the images are not there, or the folder holds another run of that name.
    """
    folder = out / run.name
    if all(model_path(folder, step).exists() for step in run.checkpoints) and _known(folder) == _settings(run):
        return [model_path(folder, step) for step in run.checkpoints]
    training, held = split(load(data, run.modality), run.held)
    if not training or not held:
        raise InputError(f"{run.name}: a share of {run.held} of the families leaves one side without images.")
    _describe_run(run, folder, [s.name for s in training], [s.name for s in held])
    if resume_step(folder) < run.steps or not all(_weights(folder, step).exists() for step in run.checkpoints):
        say(f"{run.name}: {len(training)} training images, {len(held)} held out")
        _optimise(run, training, held, folder, device, say)
    for step in run.checkpoints:
        if not model_path(folder, step).exists():
            _export(run, folder, step)
    return [model_path(folder, step) for step in run.checkpoints]


def model_path(folder: Path, step: int) -> Path:
    """Return where the network of a step is exported to."""
    return folder / f"step-{step:06d}.onnx"


def read_run(folder: Path) -> dict[str, Any]:
    """Return what is known of a run: `settings`, and the names of images in `training` and `held`."""
    return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))


def make_recipe(run: Run) -> Recipe:
    """Return the recipe whose network and card a run has."""
    description = f"A {run.network} of the study of test-time augmentation, on {run.modality}; not for work."
    if run.network == "maskrcnn":
        base: Recipe = maskrcnn.TISSUE if run.colour else maskrcnn.FLUORESCENCE
    else:
        base = Recipe(run.name, description, description, task="semantic", network=run.network)
    return replace(
        base,
        name=run.name,
        summary=description,
        description=description,
        modalities=(run.modality,),
        width=run.width,
        colour=run.colour,
        start=None,
        seed=run.seed,
        validation=run.held,
        augmentation=Augmentation(crop=run.crop, diameter=DIAMETER),
        schedule=_schedule(run),
    )


def _schedule(run: Run) -> Schedule:
    common = {"steps": run.steps, "batch": run.batch, "decay": 0.0, "check_every": min(_CHECK_EVERY, run.steps)}
    if run.network == "maskrcnn":
        return StagedSchedule(warm_up=min(50, run.steps), **common)  # type: ignore[arg-type]
    return ConstantSchedule(rate=_RATE, warm_up=1, **common)  # type: ignore[arg-type]


def _optimise(
    run: Run, training: list[Any], held: list[Any], folder: Path, device: str, say: Callable[[str], None]
) -> None:
    torch.manual_seed(run.seed)
    detection = run.network == "maskrcnn"
    targets = as_plane if detection else semantic_fields
    # A continued run must not see the same crops again.
    sampler = PublishedCrops(training, run.crop, run.seed + 1 + resume_step(folder), targets)
    fixed = PublishedCrops(held, run.crop, run.seed, targets)
    validation = [fixed.batch(run.batch) for _ in range(4)]
    kind = _KeepingStaged if detection else _Keeping
    objective = maskrcnn.objective if detection else of_output(semantic_loss)
    network = make_recipe(run).make_network()
    trainer = kind(network, objective, sampler, validation, folder, _schedule(run), device)
    trainer.kept = run.checkpoints
    trainer.run(say)


def _export(run: Run, folder: Path, step: int) -> None:
    recipe = make_recipe(run)
    network = recipe.make_network()
    network.load_state_dict(torch.load(_weights(folder, step), map_location="cpu", weights_only=True))
    path = model_path(folder, step)
    card = recipe.describe({"step": step})
    if recipe.task == "semantic":  # as published: a threshold, and what is connected is one object
        card["config"]["cellinfer"]["decoder"]["options"] = {"foreground": 0.5}
    recipe.export(network, card, path)


def _weights(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.pt"


def _settings(run: Run) -> dict[str, Any]:
    return dict(json.loads(json.dumps(asdict(run))))


def _known(folder: Path) -> dict[str, Any] | None:
    return read_run(folder)["settings"] if (folder / "run.json").exists() else None


def _describe_run(run: Run, folder: Path, training: list[str], held: list[str]) -> None:
    known = _known(folder)
    if known is not None and known != _settings(run):
        raise InputError(f"{folder} holds a run with other settings: choose another folder for the study.")
    content = {"settings": _settings(run), "training": training, "held": held}
    with durable(folder / "run.json") as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
