"""Images with instance labels, in memory, from the layouts that training reads.

Every loader returns `Sample`s: the image already normalised as the deployed pipeline normalises it, so that the
network never sees a scale it will not see again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cellinfer.images import read_image, read_labels
from cellinfer.plate import IMAGE_SUFFIXES
from cellinfer.segmentation import median_diameter
from cellinfer.segmentation import normalise as normalise_plane
from numpy.typing import NDArray

LOW, HIGH = 1.0, 99.8
"""Percentiles of a field that become 0 and 1."""
CLIP = (-0.5, 4.0)
"""Normalised values are held in this range."""


@dataclass
class Sample:
    """One image and its objects.

    Parameters
    ----------
    name
        Name of the image, unique within its source.
    source
        Data set it comes from.
    image
        `(H, W)` float32, normalised.
    labels
        `(H, W)` int32, 0 is background.
    group
        Images of one group must stay on one side of a split.
    """

    name: str
    source: str
    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    group: str = ""
    diameter: float = field(init=False)

    def __post_init__(self) -> None:
        self.diameter = median_diameter(self.labels)


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Scale percentiles `LOW` and `HIGH` to 0 and 1 and clip to `CLIP`; a constant image becomes zeros."""
    return normalise_plane(image, (LOW, HIGH), CLIP)


def read_grey(path: Path) -> NDArray[Any]:
    """Read an image as one channel; unequal colour channels are averaged."""
    pixels = read_image(path)
    return pixels if pixels.ndim == 2 else np.asarray(pixels.mean(axis=-1))


def load_dsb2018(folder: Path, modality: str = "fluorescence") -> list[Sample]:
    """Load one modality of the Data Science Bowl 2018 stage 1 images (`images/`, `masks/`, `index.csv`)."""
    with (folder / "index.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["modality"] == modality]
    return [
        Sample(
            row["image_id"],
            "dsb2018",
            normalise(read_grey(folder / "images" / f"{row['image_id']}.png")),
            read_labels(folder / "masks" / f"{row['image_id']}.png"),
        )
        for row in rows
    ]


def load_pairs(images: Path, masks: Path, source: str) -> list[Sample]:
    """Load every image of a folder that has a label image of the same stem in another folder."""
    labels = {path.stem: path for path in masks.iterdir()}
    return [
        Sample(path.stem, source, normalise(read_grey(path)), read_labels(labels[path.stem]))
        for path in _images(images)
        if path.stem in labels
    ]


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
