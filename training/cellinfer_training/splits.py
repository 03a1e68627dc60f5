"""Splits that keep near-duplicate images together.

Public sets are cut from few experiments: a random split puts neighbouring crops of one field on both sides and
measures memory. Images are clustered by look into families, and a family is never divided.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

from cellinfer_training.data import Sample


def describe(sample: Sample) -> NDArray[np.float64]:
    """Return what tells one experiment from another: size, contrast, noise, texture, object size, crowding, colour."""
    image, inside = _grey(sample), sample.labels > 0
    background = image[~inside] if (~inside).any() else image.ravel()
    objects = image[inside] if inside.any() else image.ravel()
    grain = image - gaussian_filter(image, 1.0)
    diameter = sample.diameter if np.isfinite(sample.diameter) else 1.0
    return np.array(
        [
            4.0 * np.log(image.shape[0]),
            4.0 * np.log(image.shape[1]),
            np.median(background) * 3,
            np.log(background.std() + 0.01),
            np.log(grain[~inside].std() + 0.003) if (~inside).any() else 0.0,
            np.log(grain[inside].std() + 0.003) if inside.any() else 0.0,
            np.median(objects) * 2,
            np.log(objects.std() + 0.01),
            3.0 * np.log(diameter),
            *_tint(sample),
        ]
    )


def _grey(sample: Sample) -> NDArray[np.float64]:
    pixels = sample.image.astype(np.float64)
    return pixels if pixels.ndim == 2 else pixels.mean(axis=-1)


def _tint(sample: Sample) -> list[float]:
    """Return how the channels of a colour image differ in mean and spread: the stain of a slide."""
    if sample.image.ndim == 2:
        return []
    flat = sample.image.reshape(-1, sample.image.shape[-1]).astype(np.float64)
    mean, spread = flat.mean(axis=0), flat.std(axis=0)
    return [*(4.0 * (mean - mean.mean())), *(4.0 * (spread - spread.mean()))]


def assign_families(samples: list[Sample], distance: float = 0.45, likeness: float = 0.9) -> None:
    """Set `group` of each sample to the family of images that it cannot be told from.

    Two images are of one family if their descriptions lie close (average linkage on `describe`), or if they show the
    same place: thumbnails that correlate, as in time lapses and repeated exposures.

    Parameters
    ----------
    samples
        Images of one source.
    distance
        Where the linkage is cut. Larger values join whole experiments.
    likeness
        Correlation above which two thumbnails show the same place.
    """
    features = np.stack([describe(sample) for sample in samples])
    clusters = fcluster(linkage(features, method="average"), t=distance, criterion="distance")
    thumbnails = np.stack([_thumbnail(sample) for sample in samples])
    shapes = np.array([sample.labels.shape for sample in samples])
    joined = (thumbnails @ thumbnails.T > likeness) & (shapes[:, None] == shapes[None]).all(-1)
    joined |= clusters[:, None] == clusters[None]
    _, families = connected_components(joined)
    for sample, family in zip(samples, families, strict=True):
        sample.group = f"{sample.source}-{family:03d}"


def _thumbnail(sample: Sample) -> NDArray[np.float64]:
    """Return a small version of the image as a vector of mean 0 and length 1."""
    small = cv2.resize(np.sqrt(np.clip(_grey(sample), 0, 1)), (24, 24), interpolation=cv2.INTER_AREA).ravel()
    centred = small.astype(np.float64) - small.mean()
    return np.asarray(centred / (np.linalg.norm(centred) + 1e-9))


def split_by_group(
    samples: list[Sample], fraction: float, seed: int, largest: float = 0.3
) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into training and validation, whole groups at a time.

    Groups are drawn at random until validation holds `fraction` of the images; groups that hold more than `largest`
    of all images stay in training, since validating on one of them would be a test of one experiment.

    Returns
    -------
    tuple of list
        Training samples, validation samples.
    """
    names = sorted({sample.group for sample in samples})
    sizes = {name: sum(sample.group == name for sample in samples) for name in names}
    held: set[str] = set()
    for name in np.random.default_rng(seed).permutation(names):
        count = sum(sizes[h] for h in held)
        if count >= fraction * len(samples):
            break
        if sizes[name] <= largest * len(samples):
            held.add(str(name))
    return [s for s in samples if s.group not in held], [s for s in samples if s.group in held]
