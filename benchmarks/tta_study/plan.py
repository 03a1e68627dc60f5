"""Which networks are trained on what, and for how long; and what the paper found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Views = Literal["none", "flips", "d4", "adaptive"]
VIEWS: tuple[Views, ...] = ("none", "flips", "d4", "adaptive")
"""One view; the six published ones; all eight; more views only where they are needed."""
NETWORKS = ("unet", "maskrcnn")
MODALITIES = ("fluorescence", "tissue")
SPLITS = (0.05, 0.15, 0.30)
"""Shares of images held out."""

PUBLISHED = {
    "mask r-cnn": "mean mAP_DSB rises by 0.01 to 0.02 on every split",
    "u-net": "for an underfit network the gain is negative",
    "images": "some images get worse",
}


@dataclass(frozen=True)
class Run:
    """One training run.

    Parameters
    ----------
    network, modality, held
        What is trained, on which images, and the share of them held out.
    checkpoints
        Steps at which the network is kept; training ends at the last.
    batch, crop, width
        Crops per step, their side in pixels, channels of the network's first level.
    seed
        Of weights and crops; the split has its own.
    """

    network: str
    modality: str
    held: float
    checkpoints: tuple[int, ...]
    batch: int
    crop: int = 256
    width: int = 8
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.network}-{self.modality}-{round(100 * self.held):02d}"

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.checkpoints[-1]

    @property
    def colour(self) -> bool:
        """Whether the images are coloured."""
        return self.modality == "tissue"

    @property
    def merge(self) -> Literal["fields", "instances"]:
        """How the paper merges views: probabilities are averaged, instances are voted on."""
        return "fields" if self.network == "unet" else "instances"


_UNET = Run("unet", "fluorescence", 0.15, (50, 150, 300, 600), batch=4)
_MASKRCNN = Run("maskrcnn", "fluorescence", 0.15, (200, 400, 800, 1200), batch=2, width=16)
EVERY: tuple[Run, ...] = tuple(
    replace(run, modality=modality, held=held)
    for run in (_UNET, _MASKRCNN)
    for modality in MODALITIES
    for held in SPLITS
)
PLAN: tuple[Run, ...] = tuple(run for run in EVERY if run.modality == "fluorescence" or run.held == 0.15)
"""About an hour of training on two cores: every split in fluorescence, the middle one in tissue."""


def choose(
    network: str | None = None,
    modality: str | None = None,
    held: float | None = None,
    checkpoints: tuple[int, ...] | None = None,
    quick: bool = False,
) -> list[Run]:
    """Choose runs; without any wish the default plan.

    Parameters
    ----------
    network, modality, held
        Only these; every combination that was not excluded.
    checkpoints
        In place of the plan's, rising.
    quick
        A few steps of small crops on the middle split of fluorescence, to prove the chain.
    """
    wishes: dict[str, object] = {"network": network, "modality": modality, "held": held}
    given: dict[str, object] = {name: value for name, value in wishes.items() if value is not None}
    if quick:
        given = {"modality": "fluorescence", "held": 0.15, **given}
    runs = [run for run in (EVERY if given else PLAN) if all(getattr(run, n) == v for n, v in given.items())]
    if quick:
        runs = [replace(run, checkpoints=(20, 60), batch=2, crop=128) for run in runs]
    if checkpoints:
        runs = [replace(run, checkpoints=checkpoints) for run in runs]
    return runs
