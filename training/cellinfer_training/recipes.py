"""Recipes: what each bundled model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from cellinfer_training.augment import Augmentation
from cellinfer_training.cards import Provenance, describe
from cellinfer_training.data import COLOURS, Sample, load_dsb2018, load_pairs
from cellinfer_training.export import Deployed, export_model
from cellinfer_training.loop import Schedule
from cellinfer_training.networks import FieldNet, UNet
from cellinfer_training.splits import assign_families, split_by_group
from cellinfer_training.tasks import TASKS, Task


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a model, besides the images.

    Parameters
    ----------
    name, summary, description
        Of the model; the summary is the line in `cellinfer models list`.
    modalities
        Kinds of DSB 2018 images it learns from; fluorescence brings BBBC039 along. None for a user's own images.
    task, network, width
        What is predicted (see `tasks`), and by which network.
    colour
        Whether it takes red, green and blue.
    start
        Bundled model whose weights training begins with; None begins from random ones.
    seed, validation
        Of the split and all that is random; share of images held out.
    augmentation, schedule
        How images are varied, and how long and how fast to train.
    half
        Whether the exported file keeps weights in 16 bits: half the size, same speed.
    """

    name: str
    summary: str
    description: str
    modalities: tuple[str, ...] = ("fluorescence",)
    task: str = "distance"
    network: str = "field"
    width: int = 16
    colour: bool = False
    start: str | None = None
    seed: int = 7
    validation: float = 0.15
    augmentation: Augmentation = field(default_factory=Augmentation)
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=14_000))
    half: bool = False

    @property
    def channels(self) -> tuple[str, ...]:
        """Input channels by meaning."""
        if self.colour:
            return COLOURS
        return ("DNA",) if "fluorescence" in self.modalities else ("grey",)

    def make_task(self) -> Task:
        """Return what the network predicts."""
        return TASKS[self.task]

    def make_network(self) -> nn.Module:
        """Return the network with random weights."""
        task = self.make_task()
        if self.network == "unet":
            return UNet(len(task.outputs), self.width, len(self.channels))
        return FieldNet(len(task.outputs), self.width, len(self.channels), task.stride)

    def describe(self, evaluation: Mapping[str, Any], provenance: Provenance | None = None) -> dict[str, Any]:
        """Return the card of the model, see `cards.describe`."""
        return describe(self, evaluation, provenance)

    def deploy(self, network: nn.Module) -> nn.Module:
        """Return the network in torch with the inputs and outputs of its export."""
        return Deployed(network, self.make_task().activate)

    def export(self, network: nn.Module, card: Mapping[str, Any], path: Path) -> float:
        """Write the network as ONNX, return how far it is from torch; see `export.export_model`."""
        return export_model(network, card, path, self.make_task().activate, self.half)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "nuclei",
            "nuclei in fluorescence (DNA stain), 8 and 16 bit, 10x to 40x; fast",
            "Nuclei in fluorescence microscopy (DNA stain), 8 and 16 bit, 10x to 40x.",
        ),
        Recipe(
            "nuclei-accurate",
            "nuclei in fluorescence (DNA stain); larger and slower than nuclei, best with --tta",
            "Nuclei in fluorescence microscopy (DNA stain), 8 and 16 bit, 10x to 40x; the larger network.",
            width=32,
            schedule=Schedule(steps=10_000),
            half=True,
        ),
        Recipe(
            "nuclei-tissue",
            "nuclei in stained tissue (H&E and similar) and bright-field images, colour or grey",
            "Nuclei in stained tissue sections (H&E and similar) and in bright-field images, colour or grey.",
            modalities=("tissue", "brightfield"),
            width=32,
            colour=True,
            start="nuclei-accurate",
            augmentation=Augmentation(stain=0.4, mosaic=0.2),
            schedule=Schedule(steps=3_200, rate=1.5e-3),
            half=True,
        ),
        Recipe(
            "unet",
            "plain U-Net, foreground only: the baseline of the test-time-augmentation study",
            "Foreground of nuclei in fluorescence microscopy by a plain U-Net; nuclei that touch come out as one.",
            task="semantic",
            network="unet",
            schedule=Schedule(steps=800, batch=4),
        ),
        Recipe(
            "stardist",
            "nuclei in fluorescence as star-convex polygons: 32 rays per object",
            "Nuclei in fluorescence microscopy as star-convex polygons (StarDist), on the fast network.",
            task="star-convex",
            start="nuclei",
            schedule=Schedule(steps=5_000),
        ),
    )
}


def load(data: Path, recipe: Recipe) -> list[Sample]:
    """Load a recipe's images from `data/dsb2018` and `data/bbbc039`, families assigned."""
    samples: list[Sample] = []
    for modality in recipe.modalities:
        found = load_dsb2018(data / "dsb2018", modality, recipe.colour)
        assign_families(found)
        samples += found
    if "fluorescence" in recipe.modalities:
        others = load_pairs(data / "bbbc039" / "images", data / "bbbc039" / "masks", "bbbc039", recipe.colour)
        for sample in others:  # one experiment: kept apart by well
            sample.group = f"bbbc039-{sample.name.split('_')[1]}"
        samples += others
    return samples


def split(samples: list[Sample], recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Divide each kind of image (source and size) by group into training and validation.

    A group of several sizes that comes to lie on both sides is learnt from as a whole.
    """
    train: list[Sample] = []
    held: list[Sample] = []
    for kind in sorted({(sample.source, sample.labels.shape) for sample in samples}):
        alike = [s for s in samples if (s.source, s.labels.shape) == kind]
        parts = split_by_group(alike, recipe.validation, recipe.seed)
        train += parts[0]
        held += parts[1]
    learnt = {sample.group for sample in train}
    train += [sample for sample in held if sample.group in learnt]
    return train, [sample for sample in held if sample.group not in learnt]


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    """Return the recipe with another number of steps; None leaves it."""
    return recipe if steps is None else replace(recipe, schedule=replace(recipe.schedule, steps=steps))
