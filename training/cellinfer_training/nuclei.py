"""Recipe: the `nuclei` model, from public fluorescence images to a verified ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cellinfer_training.augment import Augmentation, CropSampler
from cellinfer_training.data import Sample, load_dsb2018, load_pairs
from cellinfer_training.loop import Schedule, Trainer, resume_step
from cellinfer_training.losses import distance_loss
from cellinfer_training.networks import FieldNet
from cellinfer_training.splits import assign_families, split_by_group


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model, besides the images."""

    seed: int = 7
    width: int = 16
    validation: float = 0.15
    augmentation: Augmentation = Augmentation()
    schedule: Schedule = Schedule()


def load(data: Path) -> list[Sample]:
    """Load the fluorescence images of DSB 2018 and BBBC039 from `data/dsb2018` and `data/bbbc039`."""
    samples = load_dsb2018(data / "dsb2018")
    assign_families(samples)
    others = load_pairs(data / "bbbc039" / "images", data / "bbbc039" / "masks", "bbbc039")
    for sample in others:  # one experiment: kept apart by well
        sample.group = f"bbbc039-{sample.name.split('_')[1]}"
    return samples + others


def split(samples: list[Sample], recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """Divide each kind of image (source and size) by group into training and validation."""
    train: list[Sample] = []
    held: list[Sample] = []
    for kind in sorted({(sample.source, sample.labels.shape) for sample in samples}):
        alike = [s for s in samples if (s.source, s.labels.shape) == kind]
        parts = split_by_group(alike, recipe.validation, recipe.seed)
        train += parts[0]
        held += parts[1]
    return train, held


def train(data: Path, folder: Path, recipe: Recipe, device: str = "cpu") -> None:
    """Train, or go on training, in `folder`."""
    torch.manual_seed(recipe.seed)
    training, held = split(load(data), recipe)
    print(f"{len(training)} training images, {len(held)} validation images")
    plain = CropSampler(held, Augmentation(scale=1.15, anisotropy=0.02, mosaic=0.0, empty=0.0), recipe.seed)
    validation = [plain.batch(8) for _ in range(24)]
    # A continued run must not see the same crops again.
    sampler = CropSampler(training, recipe.augmentation, recipe.seed + 1 + resume_step(folder))
    network = FieldNet(outputs=2, width=recipe.width)
    Trainer(network, distance_loss, sampler, validation, folder, recipe.schedule, device).run()
