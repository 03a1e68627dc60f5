"""A recipe carried out: train, export, score, report, release."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cellinfer_models
import numpy as np
import onnx
import torch
from cellinfer.errors import ModelError
from cellinfer.sessions import open_session
from torch import nn

from cellinfer_training.assess import assess, summarise
from cellinfer_training.augment import CropSampler, Targets
from cellinfer_training.cards import Provenance
from cellinfer_training.data import Sample
from cellinfer_training.export import register, write_model
from cellinfer_training.loop import Batch, Trainer, load_state, of_output, resume_step
from cellinfer_training.networks import load_weights, settle_statistics
from cellinfer_training.parity import contract
from cellinfer_training.recipes import Recipe
from cellinfer_training.report import draw_report, write_scores, write_summary

_CHECKED = 24
"""Validation batches on which the averaged model is compared while training."""

_SETTLING = 8
"""Training batches that give the statistics of batch normalisation to a network that starts from exported weights."""

_COMPARED = 40
"""Most validation images on which back-ends are compared."""


def train(
    recipe: Recipe,
    training: list[Sample],
    held: list[Sample],
    folder: Path,
    device: str = "cpu",
    start: Path | None = None,
    frozen_statistics: bool = False,
) -> None:
    """Train, or go on training, in `folder`. A finished run is left as it is.

    Parameters
    ----------
    recipe
        What to train.
    training, held
        Samples to learn from; samples on which the best state is chosen.
    folder
        Gets `last.pt`, `best.pt` and `log.csv`.
    device
        A torch device.
    start
        ONNX file whose weights training begins with, instead of the recipe's own.
    frozen_statistics
        See `Trainer`.

    Raises
    ------
    InputError
        If the folder holds a run of other settings, images, masks or starting weights.
    """
    torch.manual_seed(recipe.seed)
    task, batch = recipe.make_task(), recipe.schedule.batch
    if start is None and recipe.start is not None:
        start = cellinfer_models.folder() / f"{recipe.start}.onnx"
    begun = begin(recipe, start, training, held, folder)
    if begun is None:
        return
    identity, done = begun
    sampler, validation = crops(recipe, training, held, done, task.targets, task.scalar)
    network = recipe.make_network()
    if start is not None and not done:
        left = load_weights(network, start)
        print(f"weights from {start.name}" + (f"; new: {', '.join(left)}" if left else ""))
        if not frozen_statistics:
            settle_statistics(network, [sampler.batch(batch)[0] for _ in range(_SETTLING)])
    objective = of_output(task.loss)
    Trainer(network, objective, sampler, validation, folder, recipe.schedule, device, frozen_statistics, identity).run()


def begin(
    recipe: Recipe, start: Path | None, training: list[Sample], held: list[Sample], folder: Path
) -> tuple[str, int] | None:
    """Say how a run begins: return its identity and the steps already taken; None if it is finished.

    Parameters
    ----------
    recipe, start, training, held, folder
        As in `train`.

    Raises
    ------
    InputError
        If the folder holds a run of other settings, images, masks or starting weights, or a damaged one.
    """
    identity = identify(recipe, start, training, held)
    done = resume_step(folder, identity)
    if done >= recipe.schedule.steps:
        print(f"{folder} holds this run, finished at step {done}: nothing to train")
        return None
    print(f"{len(training)} training images, {len(held)} validation images")
    return identity, done


def crops(
    recipe: Recipe, training: list[Sample], held: list[Sample], done: int, targets: Targets, scalar: bool
) -> tuple[CropSampler, list[Batch]]:
    """Return what draws training crops, and the fixed validation batches, which are hardly varied.

    Parameters
    ----------
    recipe, training, held
        As in `train`.
    done
        Steps already taken: a continued run must not see the same crops again.
    targets, scalar
        See `CropSampler`.
    """
    plain = replace(recipe.augmentation, scale=1.15, anisotropy=0.02, mosaic=0.0, empty=0.0, stain=0.0)
    fixed = CropSampler(held, plain, recipe.seed, targets, scalar)
    sampler = CropSampler(training, recipe.augmentation, recipe.seed + 1 + done, targets, scalar)
    return sampler, [fixed.batch(recipe.schedule.batch) for _ in range(_CHECKED)]


def identify(recipe: Recipe, start: Path | None, training: list[Sample], held: list[Sample]) -> str:
    """Return a digest of all that decides a run: settings, starting weights, images with their labels.

    Parameters
    ----------
    recipe, start, training, held
        As in `train`.
    """
    of_file = ("name", "summary", "description", "half")
    settings = {k: v for k, v in asdict(recipe).items() if k not in of_file}
    weights = None if start is None else hashlib.sha256(start.read_bytes()).hexdigest()
    images = [sorted((s.source, s.name, _digest(s)) for s in side) for side in (training, held)]
    return hashlib.sha256(json.dumps([settings, weights, images], sort_keys=True).encode()).hexdigest()


def _digest(sample: Sample) -> str:
    """Return a digest of what is learnt: pixels as the network sees them, and labels."""
    content = hashlib.sha256(repr(sample.image.shape).encode())
    for part in (sample.image, sample.labels):
        content.update(np.ascontiguousarray(part))
    return content.hexdigest()


def finish(
    recipe: Recipe, held: list[Sample], folder: Path, provenance: Provenance | None = None, notes: Sequence[str] = ()
) -> Path:
    """Export the best model of a training run, score it on the validation images and write the report.

    Parameters
    ----------
    recipe, held, folder
        As in `train`.
    provenance
        What it was learnt from, for the card; None is a bundled model, made from the recipe's public sets.
    notes
        Remarks for the report.

    Returns
    -------
    Path
        The ONNX file; `scores.csv`, `report.md` and `report.png` lie beside it.

    Raises
    ------
    ModelError
        If the export departs from the network in torch, or a bundled model from itself on another back-end.
    """
    network = recipe.make_network()
    best = load_state(folder / "best.pt")
    network.load_state_dict(best["network"])
    path = folder / f"{recipe.name}.onnx"
    difference = _export(recipe, network, recipe.describe({}, provenance), path)
    session = open_session(path, device="cpu")
    scores = assess(session, held)
    write_scores(scores, folder / "scores.csv")
    draw_report(folder, scores, held, session)
    summary = summarise(scores)
    evaluation: dict[str, Any] = {"validation": summary, "step": int(best["step"])}
    card = recipe.describe(evaluation, provenance)
    parity = contract(recipe.deploy(network), path, held[:_COMPARED], strict=False)
    card["config"]["cellinfer"]["parity"] = parity
    breaches = [figures["breach"] for figures in parity.values() if "breach" in figures]
    if breaches and provenance is None:
        raise _refusal(path, breaches[0])
    write_model(onnx.load(path), card, path)  # the same network; its card now says how good it is
    notes = [*notes, *breaches, f"torch and onnxruntime differ by {difference:.1e}"]
    write_summary(folder / "report.md", recipe.name, summary, notes)
    for breach in breaches:
        print(breach)
    for name, row in summary.items():
        print(f"{name:20}  {row}")
    return path


def _export(recipe: Recipe, network: nn.Module, card: Mapping[str, Any], path: Path) -> float:
    try:
        return recipe.export(network, card, path)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # the exporter itself failed
            raise
        raise _refusal(path, str(error)) from error


def _refusal(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is refused: {why}; its weights are kept, so run the same command again with other versions of torch "
        "and onnxruntime."
    )


def release(path: Path, summary: str) -> Path:
    """Copy a finished model and its card into `cellinfer_models` and enter it in the registry."""
    target = cellinfer_models.folder() / path.name
    for suffix in (".onnx", ".yaml"):
        shutil.copyfile(path.with_suffix(suffix), target.with_suffix(suffix))
    if (beside := path.with_name(f"{path.stem}.fingerprints.npz")).is_file():  # of what an activity model has seen
        shutil.copyfile(beside, target.with_name(beside.name))
    register(target, summary)
    return target
