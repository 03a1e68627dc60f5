"""The recipe, and how it is carried out up to the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellinfer_training.augment import Augmentation
from cellinfer_training.cards import Provenance
from cellinfer_training.data import Sample
from cellinfer_training.loop import Schedule, Trainer
from cellinfer_training.maskrcnn.detection import Detector
from cellinfer_training.maskrcnn.export import describe_mask_rcnn, export_mask_rcnn
from cellinfer_training.maskrcnn.losses import losses
from cellinfer_training.maskrcnn.network import MaskRcnn
from cellinfer_training.recipes import Recipe, load, split
from cellinfer_training.train import begin, crops


@dataclass(frozen=True)
class StagedSchedule(Schedule):
    """The published schedule: all layers, then the last stage and the heads, then the heads; a third of the steps each.

    "Heads" are all layers beyond the backbone, the feature pyramid among them.
    """

    rates: tuple[float, ...] = (1e-3, 5e-4, 1e-4)

    def stage_at(self, step: int) -> int:
        """Return 0, 1 or 2."""
        return min(len(self.rates) - 1, step * len(self.rates) // self.steps)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        return self.rates[self.stage_at(step)] * min(1.0, (step + 1) / self.warm_up)


@dataclass(frozen=True)
class MaskRcnnRecipe(Recipe):
    """What decides a Mask R-CNN, besides the images.

    Parameters
    ----------
    features
        Channels of the feature pyramid.
    share
        Share of the training images that are used.
    """

    task: str = "mask-rcnn"
    network: str = "mask-rcnn"
    features: int = 64
    share: float = 1.0
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=6_000, batch=4, rate=1e-3))

    def make_network(self) -> MaskRcnn:
        """Return the network with random weights."""
        return MaskRcnn(len(self.channels), self.width, self.features)

    def describe(self, evaluation: Mapping[str, Any], provenance: Provenance | None = None) -> dict[str, Any]:
        """Return the card of the model."""
        return describe_mask_rcnn(self, evaluation, provenance)

    def deploy(self, network: nn.Module) -> nn.Module:
        """Return the network in torch with the inputs and outputs of its export."""
        assert isinstance(network, MaskRcnn)
        return Detector(network)

    def export(self, network: nn.Module, card: Mapping[str, Any], path: Path) -> float:
        """Write the network as ONNX, return how far onnxruntime is from torch."""
        assert isinstance(network, MaskRcnn)
        return export_mask_rcnn(network, card, path)


FLUORESCENCE = MaskRcnnRecipe(
    "maskrcnn",
    "nuclei in fluorescence by Mask R-CNN: boxes and masks of single objects",
    "Nuclei in fluorescence microscopy (DNA stain), 8 and 16 bit, 10x to 40x, by a Mask R-CNN.",
)
TISSUE = replace(
    FLUORESCENCE,
    name="maskrcnn-tissue",
    summary="nuclei in stained tissue by Mask R-CNN: boxes and masks of single objects",
    description="Nuclei in stained tissue sections (H&E and similar), colour, by a Mask R-CNN.",
    modalities=("tissue",),
    colour=True,
    augmentation=Augmentation(stain=0.4, mosaic=0.2),
)


def divide(data: Path, recipe: MaskRcnnRecipe) -> tuple[list[Sample], list[Sample]]:
    """Load the images of a recipe; return its share of the training images, and the validation images."""
    training, held = split(load(data, recipe), recipe)
    order = np.random.default_rng(recipe.seed).permutation(len(training))
    return [training[i] for i in order[: max(1, round(recipe.share * len(training)))]], held


def train(
    recipe: MaskRcnnRecipe, training: list[Sample], held: list[Sample], folder: Path, device: str = "cpu"
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

    Raises
    ------
    InputError
        If the folder holds a run of other settings or images.
    """
    torch.manual_seed(recipe.seed)
    begun = begin(recipe, None, training, held, folder)
    if begun is None:
        return
    identity, done = begun
    sampler, validation = crops(recipe, training, held, done, as_plane, scalar=False)
    network = recipe.make_network()
    StagedTrainer(network, objective, sampler, validation, folder, recipe.schedule, device, identity=identity).run()


def as_plane(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return labels `(H, W)` as the one plane `(H, W, 1)` of a target; exact for up to 2**24 objects."""
    return labels.astype(np.float32)[..., None]


def objective(network: nn.Module, image: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the losses of images `(N, C, H, W)` whose object numbers are the target `(N, 1, H, W)`."""
    assert isinstance(network, MaskRcnn)
    with torch.autocast(image.device.type, torch.bfloat16):
        return losses(network, network(image), target[:, 0])


class StagedTrainer(Trainer):
    """Closes layers as a staged schedule says; with any other schedule, trains all of them throughout.

    A closed layer keeps its weights and the statistics of its normalisation.
    """

    def _set_modes(self) -> None:
        super()._set_modes()
        if not isinstance(self.schedule, StagedSchedule):
            return
        stage = self.schedule.stage_at(self.step)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(_stage_of(name) >= stage)
        for name, module in self.network.named_modules():
            if isinstance(module, nn.BatchNorm2d) and _stage_of(name) < stage:
                module.eval()


def _stage_of(name: str) -> int:
    """Return the last stage of a staged schedule in which a parameter or module is still trained."""
    if name.startswith(("stages.3.", "downs.2.")):
        return 1
    return 0 if name.startswith(("stem.", "stages.", "downs.")) else 2
