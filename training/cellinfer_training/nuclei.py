"""Recipe: the `nuclei` model, from public fluorescence images to a verified ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cellinfer_models
import torch
from cellinfer.sessions import open_session

from cellinfer_training.assess import assess, summarise
from cellinfer_training.augment import Augmentation, CropSampler
from cellinfer_training.data import CLIP, HIGH, LOW, Sample, load_dsb2018, load_pairs
from cellinfer_training.export import export_model, register
from cellinfer_training.loop import Schedule, Trainer, of_output, resume_step
from cellinfer_training.losses import distance_loss
from cellinfer_training.networks import FieldNet
from cellinfer_training.report import draw_report, write_scores
from cellinfer_training.splits import assign_families, split_by_group


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the model, besides the images."""

    seed: int = 7
    width: int = 16
    validation: float = 0.15
    augmentation: Augmentation = field(default_factory=Augmentation)
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=14_000))


RECIPE = Recipe()
SUMMARY = "nuclei in fluorescence (DNA stain), 8 and 16 bit, 10x to 40x; fast"
DECODER = {"foreground": 0.5, "core": 0.35, "smallest": 0.05, "smallest_core": 0.06}
"""Chosen on training images: no validation image decided them."""


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
    Trainer(network, of_output(distance_loss), sampler, validation, folder, recipe.schedule, device).run()


def finish(data: Path, folder: Path, recipe: Recipe) -> Path:
    """Export the best model of a training run, score it on the validation images and write the report.

    Returns
    -------
    Path
        The ONNX file; `scores.csv` and `report.png` lie beside it.
    """
    network = FieldNet(outputs=2, width=recipe.width)
    best = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(best["network"])
    path = folder / "nuclei.onnx"
    export_model(network, describe({}, recipe), path)
    _, held = split(load(data), recipe)
    session = open_session(path, device="cpu")
    scores = assess(session, held)
    write_scores(scores, folder / "scores.csv")
    draw_report(folder, scores, held, session)
    summary = summarise(scores)
    evaluation = {"validation": summary, "step": int(best["step"])}
    difference = export_model(network, describe(evaluation, recipe), path)
    print(f"largest difference between torch and onnxruntime: {difference:.1e}")
    for name, row in summary.items():
        print(f"{name:8}  {row}")
    return path


def release(path: Path) -> Path:
    """Copy a finished model and its card into `cellinfer_models` and enter it in the registry."""
    target = cellinfer_models.folder() / path.name
    for suffix in (".onnx", ".yaml"):
        shutil.copyfile(path.with_suffix(suffix), target.with_suffix(suffix))
    register(target, SUMMARY)
    return target


def describe(evaluation: Mapping[str, Any], recipe: Recipe = RECIPE) -> dict[str, Any]:
    """Return the model's card (BioImage.IO 0.5 layout) without file digest and golden result.

    Parameters
    ----------
    evaluation
        Figures on the validation images, by set.
    recipe
        The recipe that made the model.
    """
    space = [{"type": "space", "id": axis, "size": {"min": 16, "step": 16}} for axis in "yx"]
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "nuclei",
        "version": "0.1.0",
        "description": "Nuclei in fluorescence microscopy (DNA stain), 8 and 16 bit, 10x to 40x.",
        "license": "BSD-3-Clause",
        "authors": [{"name": "The cellinfer developers"}],
        "cite": [
            {
                "text": "Caicedo et al. (2019), Nucleus segmentation across imaging experiments: the 2018 Data Science "
                "Bowl, Nature Methods 16:1247",
                "doi": "10.1038/s41592-019-0612-7",
            },
        ],
        "tags": ["nuclei", "fluorescence-light-microscopy", "instance-segmentation", "2d"],
        "inputs": [
            {
                "id": "image",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["DNA"]},
                    *space,
                ],
                "data": {"type": "float32"},
                "preprocessing": [
                    {
                        "id": "scale_range",
                        "kwargs": {"axes": ["y", "x"], "min_percentile": LOW, "max_percentile": HIGH},
                    },
                    {"id": "clip", "kwargs": {"min": CLIP[0], "max": CLIP[1]}},
                ],
            }
        ],
        "outputs": [
            {
                "id": "fields",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["foreground", "distance"]},
                    *space,
                ],
                "data": {"type": "float32"},
            }
        ],
        "training_data": {
            "sets": ["BBBC038 (Data Science Bowl 2018 stage 1, fluorescence), CC0", "BBBC039, CC0"],
            "split": "families of look-alike images, never divided between training and validation",
        },
        "config": {
            "cellinfer": {
                "task": "instance-segmentation",
                "decoder": {"kind": "distance", "options": dict(DECODER)},
                "diameter": recipe.augmentation.diameter,
                "diameter_tolerance": 1.25,
                "multiple": FieldNet.multiple,
                "tile": 1152,
                "halo": 64,
                "evaluation": dict(evaluation),
                "recipe": asdict(recipe),
            }
        },
    }
