"""Models from a user's own images: trained like a recipe, or from a finished model on."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cellinfer_models
import numpy as np
from cellinfer.errors import InputError, ModelError
from cellinfer.segmentation import Channel
from cellinfer.sessions import open_session

from cellinfer_training.assess import assess, summarise
from cellinfer_training.augment import Augmentation
from cellinfer_training.cards import Provenance
from cellinfer_training.data import Sample, load_folder
from cellinfer_training.loop import Schedule, load_state, prepare, save_state
from cellinfer_training.networks import load_weights
from cellinfer_training.recipes import RECIPES, Recipe, shortened
from cellinfer_training.splits import assign_families
from cellinfer_training.tasks import TASKS
from cellinfer_training.train import finish, train

_FINE_TUNING = Schedule(steps=400, batch=4, rate=4e-4, warm_up=40, averaging=0.99, check_every=50)


def train_own(
    folder: Path,
    out: Path,
    like: str = "nuclei",
    task: str | None = None,
    name: str | None = None,
    steps: int | None = None,
    device: str = "cpu",
    channel: Channel | None = None,
) -> Path:
    """Train a model from random weights on a folder of images and label masks.

    Parameters
    ----------
    folder
        See `data.load_folder`.
    out
        For checkpoints, report and model; a run found there is continued.
    like
        Recipe whose network, task and schedule are used.
    task
        Another task for that network, see `tasks.TASKS`.
    name
        Of the model; None takes the folder's.
    steps
        Optimiser steps in all; None leaves the recipe's.
    device
        A torch device.
    channel
        What a model for grey images sees of coloured ones, see `data.load_folder`.

    Returns
    -------
    Path
        The ONNX file.
    """
    if like not in RECIPES:
        raise InputError(f"There is no recipe {like!r}: choose {', '.join(RECIPES)}.")
    if task is not None and task not in TASKS:
        raise InputError(f"There is no task {task!r}: choose {', '.join(TASKS)}.")
    recipe = shortened(RECIPES[like], steps)
    recipe = replace(recipe, task=task or recipe.task)
    if recipe.network == "unet" and recipe.make_task().stride != 1:
        raise InputError(
            f"The network of {like} cannot predict {recipe.task}: choose --like nuclei, or another --task."
        )
    recipe = _named(replace(recipe, start=None), name or folder.resolve().name, folder)
    prepare(out, device)
    samples, notes = load_folder(folder, recipe.colour, channel)
    training, held, remarks = split_own(samples, recipe)
    _say(notes + remarks)
    train(recipe, training, held, out, device)
    return finish(recipe, held, out, Provenance(_sets(samples, folder), remarks[0]), notes + remarks)


def fine_tune(
    model: str,
    folder: Path,
    out: Path,
    name: str | None = None,
    steps: int | None = None,
    device: str = "cpu",
    channel: Channel | None = None,
) -> Path:
    """Train a finished model on, on a few images of one's own, and say whether that helped.

    Batch-normalisation statistics stay as they are, the rate is low, and the model as it came competes with every
    state after it: if nothing beats it on the held-out images, its weights are what comes out.

    Parameters
    ----------
    model
        Name of a bundled model, or an ONNX file that `cellinfer_training` made.
    folder, out, name, steps, device, channel
        As in `train_own`.

    Returns
    -------
    Path
        The ONNX file.

    Raises
    ------
    ModelError
        If the model cannot be trained on: a Mask R-CNN, an 8-bit file, one of unknown making.
    """
    path = cellinfer_models.folder() / f"{model}.onnx" if model in cellinfer_models.registry() else Path(model)
    before = open_session(path, device="cpu")
    recipe = _recipe_of(path)
    schedule = replace(_FINE_TUNING, steps=steps or _FINE_TUNING.steps)
    name = name or f"{recipe.name}-{folder.resolve().name}"
    augmentation = replace(recipe.augmentation, scale=1.3)
    recipe = _named(replace(recipe, schedule=schedule, augmentation=augmentation), name, folder)
    prepare(out, device)
    samples, notes = load_folder(folder, recipe.colour, channel)
    if model not in cellinfer_models.registry():
        notes.append(
            f"{path} may have learnt some of these images before: held-out ones among them flatter both models"
        )
    training, held, remarks = split_own(samples, recipe)
    _say(notes + remarks)
    train(recipe, training, held, out, device, start=path, frozen_statistics=True)
    start = {"name": before.card.name, "sha256": before.sha256}
    provenance = Provenance(_sets(samples, folder), remarks[0], start)
    finished = finish(recipe, held, out, provenance, notes + remarks)
    old, new = (summarise(assess(s, held))["all"] for s in (before, open_session(finished, device="cpu")))
    verdict = (
        f"held-out images: mAP_DSB {old['map_dsb']:.3f} before, {new['map_dsb']:.3f} after; "
        f"AP50 {old['ap50']:.3f} before, {new['ap50']:.3f} after"
    )
    if new["map_dsb"] <= old["map_dsb"]:
        if load_state(out / "best.pt")["step"] > 0:
            unchanged = recipe.make_network()
            load_weights(unchanged, path)
            save_state(out / "best.pt", {"step": 0, "network": unchanged.state_dict()})
            finish(recipe, held, out, provenance, notes + remarks)
        verdict += (
            f" - fine-tuning did not help: {finished.name} holds the weights it began with; add images it gets wrong"
        )
    _say([verdict])
    with (out / "report.md").open("a", encoding="utf-8") as report:
        report.write(f"\n{verdict}\n")
    return finished


def split_own(samples: list[Sample], recipe: Recipe) -> tuple[list[Sample], list[Sample], list[str]]:
    """Hold out families of look-alike images; where there are too few, whole images; of a single image, its right half.

    Returns
    -------
    training, held : list of Sample
        No sample is in both.
    remarks : list of str
        How the held-out images were kept apart, and how far they can be trusted; which they are.
    """
    filled = [sample for sample in samples if sample.labels.any()]
    if len(filled) == 1:
        left, right = _halves(filled[0])
        empty = [sample for sample in samples if not sample.labels.any()]
        how = "one image only holds objects: its left half is learnt from, its right half held out"
        return [left, *empty], [right], [how, f"held out: {right.name}"]
    if all(not sample.group for sample in samples):
        assign_families(samples)
    share = max(recipe.validation, 1 / len(samples))
    families = _choose_families(samples, share, recipe.seed)
    training, held = ([s for s in samples if (s.group in families) == side] for side in (False, True))
    how = "families of look-alike images, never divided between training and held-out images"
    if not held:
        training, held = _single_images(samples, share, recipe.seed)
        how = "single images, since no whole families could be held out: look-alikes may be on both sides"
        if len({sample.group for sample in samples}) < 2:
            how = "the images are too alike to hold out a whole family: figures flatter the model"
    named = ", ".join(sample.name for sample in held[:8])
    return training, held, [how, f"held out: {named}" + (" ..." if len(held) > 8 else "")]


def _choose_families(samples: list[Sample], share: float, seed: int) -> frozenset[str]:
    """Choose families with objects that come nearest to a share of all images, and to no more than a third if possible.

    At least one family with objects is left to learn from; where there is but one, none is chosen.
    """
    sizes = Counter(sample.group for sample in samples)
    filled = sorted({sample.group for sample in samples if sample.labels.any()})
    chosen: dict[int, frozenset[str]] = {0: frozenset()}  # by number of images, families that have it together
    for index in np.random.default_rng(seed).permutation(len(filled)):
        name = filled[index]
        for count in sorted(chosen):
            if count + sizes[name] not in chosen:
                chosen[count + sizes[name]] = chosen[count] | {name}
    possible = chosen.keys() - {0, sum(sizes[name] for name in filled)}
    best = min(possible, key=lambda n: (n > len(samples) / 3, abs(n - share * len(samples)), n), default=0)
    return chosen[best]


def _single_images(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out images at random, of those with objects, and leave at least one with objects to learn from."""
    filled = sum(bool(sample.labels.any()) for sample in samples)
    count = min(max(1, round(share * len(samples))), filled - 1)
    order = np.random.default_rng(seed).permutation(len(samples))
    ranked = sorted(order, key=lambda index: not samples[index].labels.any())
    return [samples[index] for index in ranked[count:]], [samples[index] for index in ranked[:count]]


def _halves(sample: Sample) -> tuple[Sample, Sample]:
    middle = sample.labels.shape[1] // 2
    parts = [
        Sample(
            f"{sample.name} {side}", sample.source, sample.image[:, place].copy(), sample.labels[:, place].copy(), side
        )
        for side, place in (("left", slice(None, middle)), ("right", slice(middle, None)))
    ]
    if not all(part.labels.any() for part in parts):
        raise InputError(f"One half of the only image, {sample.name}, holds no object: annotate a second image.")
    return parts[0], parts[1]


def _recipe_of(path: Path) -> Recipe:
    """Read from a model's card how it was made; refuse a model that cannot be trained on."""
    card = open_session(path, device="cpu").card
    ours: dict[str, Any] = card.description_file["config"]["cellinfer"]
    if card.decoder == "mask-rcnn":
        raise ModelError(
            f"{path} is a Mask R-CNN, which cannot be fine-tuned: fine-tune one of {', '.join(RECIPES)} instead."
        )
    if ours.get("precision", "float32") != "float32":
        raise ModelError(
            f"{path} is an {ours['precision']} file, which cannot be trained on: fine-tune the floating-point model "
            "that it was made from, and quantise the result."
        )
    stored: dict[str, Any] = ours.get("recipe") or {}
    if "augmentation" not in stored or "schedule" not in stored:
        raise ModelError(
            f"The card of {path} does not say how the model was made: only models of cellinfer_training can be "
            "fine-tuned. Train one with `python -m cellinfer_training train`."
        )
    known = {f.name for f in fields(Recipe)}
    plain = {key: value for key, value in stored.items() if key in known}
    plain |= {"name": card.name, "summary": card.description, "description": card.description}
    plain["modalities"] = tuple(stored.get("modalities", ("fluorescence",)))
    kept = {f.name for f in fields(Augmentation)}
    plain["augmentation"] = Augmentation(**{k: v for k, v in stored["augmentation"].items() if k in kept})
    plain["schedule"] = Schedule(**stored["schedule"])
    recipe = Recipe(**plain)
    missing = load_weights(recipe.make_network(), path)
    if missing:
        raise ModelError(
            f"{path} cannot be fine-tuned: {len(missing)} of its layers, {missing[0]} first, are not those of its "
            "card's recipe. Take a model as cellinfer_training exported it."
        )
    return recipe


def _named(recipe: Recipe, name: str, folder: Path) -> Recipe:
    if not name or set(name) & set("/\\"):
        raise InputError(f"A model cannot go by the name {name!r}: choose a --name without / and \\.")
    source = folder.resolve().name
    return replace(
        recipe,
        name=name,
        summary=f"trained on images of {source}",
        description=f"Objects like those in {source}.",
        modalities=(),
    )


def _sets(samples: list[Sample], folder: Path) -> tuple[str, ...]:
    return (f"{len(samples)} images of {folder.resolve().name}, licence unstated",)


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line)
