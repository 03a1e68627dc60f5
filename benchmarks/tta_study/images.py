"""The study's images: split by family so that the splits are nested, and cut into crops as published."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from cellinfer.errors import InputError
from cellinfer_training.augment import CropSampler, Targets
from cellinfer_training.data import Sample, load_dsb2018
from cellinfer_training.splits import assign_families, split_by_group
from numpy.typing import NDArray

Planes = NDArray[np.float32]
DIAMETER = 28.0
"""Median object diameter (pixels) to which every image is scaled, in training and in scoring."""
_SPLIT_SEED = 7
_LARGEST_SCALE = 4.0


def load(data: Path, modality: str) -> list[Sample]:
    """Load one modality of DSB 2018 from `data/dsb2018`, families assigned."""
    folder = data / "dsb2018"
    if not (folder / "index.csv").is_file():
        raise InputError(f"{folder} has no index.csv: give the folder that holds dsb2018/ (BBBC038, stage 1).")
    samples = [s for s in load_dsb2018(folder, modality, modality == "tissue") if s.labels.any()]
    if len(samples) < 2:
        raise InputError(f"{folder / 'index.csv'} lists {len(samples)} images of {modality} with objects: too few.")
    assign_families(samples)
    return samples


def split(samples: list[Sample], held: float) -> tuple[list[Sample], list[Sample]]:
    """Hold out whole families.

    Families are taken in one fixed order until the share is reached, so what a small split holds out, a large one
    holds out as well.
    """
    return split_by_group(samples, held, _SPLIT_SEED)


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """Choose at most `count` samples from as many families as there are: one of each family, then the next of each."""
    families: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: (s.group, s.name)):
        families.setdefault(sample.group, []).append(sample)
    rounds = zip_longest(*families.values())
    return [sample for one in rounds for sample in one if sample is not None][:count]


class PublishedCrops(CropSampler):
    """Crops varied as in the paper: anywhere in an image, mirrored and turned by quarter turns, nothing else.

    Parameters
    ----------
    samples
        Images with labels; scaled once so that their objects have the diameter `DIAMETER`.
    side
        Of a crop, pixels; smaller images are continued by reflection.
    seed
        Of all that is random.
    targets
        Labels `(H, W)` to planes `(H, W, K)`.
    """

    def __init__(self, samples: list[Sample], side: int, seed: int, targets: Targets) -> None:
        self._side, self._random = side, np.random.default_rng(seed)
        self._scaled = [_scaled(sample, side) for sample in samples]
        self._make = targets

    def batch(self, size: int) -> tuple[Planes, Planes]:
        """Return images `(size, C, side, side)` and targets `(size, K, side, side)`, float32."""
        crops = [self._published() for _ in range(size)]
        images, planes = (np.stack(part).transpose(0, 3, 1, 2) for part in zip(*crops, strict=True))
        return np.ascontiguousarray(images), np.ascontiguousarray(planes)

    def _published(self) -> tuple[Planes, Planes]:
        random, side = self._random, self._side
        image, labels = self._scaled[random.integers(len(self._scaled))]
        top, left = (int(random.integers(length - side + 1)) for length in labels.shape)
        window = np.s_[top : top + side, left : left + side]
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        parts = (image[window], self._make(labels[window]))
        turned = [np.rot90(part, turns) for part in parts]
        first, second = [part[:, ::-1] for part in turned] if mirrored else turned
        return first, second


def _scaled(sample: Sample, side: int) -> tuple[Planes, NDArray[np.int32]]:
    """Scale an image to the common diameter and fill it up to a crop; `(H, W, C)` and labels."""
    factor = float(np.clip(DIAMETER / sample.diameter, 1 / _LARGEST_SCALE, _LARGEST_SCALE))
    size = tuple(max(1, round(length * factor)) for length in reversed(sample.labels.shape))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = np.atleast_3d(cv2.resize(sample.image, size, interpolation=method))
    labels = np.asarray(cv2.resize(sample.labels, size, interpolation=cv2.INTER_NEAREST), np.int32)
    below, right = (max(0, side - length) for length in labels.shape)
    return (
        np.pad(image, ((0, below), (0, right), (0, 0)), mode="symmetric"),
        np.pad(labels, ((0, below), (0, right)), mode="symmetric"),
    )
