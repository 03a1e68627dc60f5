"""Random views of a sample: geometry, intensity, optics, noise, and tiles of different sources side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from cellinfer.segmentation import LARGEST_SCALE
from numpy.typing import NDArray

from cellinfer_training.data import CLIP, Sample, separate
from cellinfer_training.targets import distance_fields

Planes = NDArray[np.float32]
Targets = Callable[[NDArray[np.int32]], Planes]
"""From `(H, W)` int32 labels to `(h, w, K)` float32: what the loss takes."""


@dataclass(frozen=True)
class Augmentation:
    """How far random views go.

    Parameters
    ----------
    crop
        Side of a training crop, pixels.
    diameter
        Median object diameter (pixels) to which an image is scaled before jitter, as far as the deployed pipeline
        scales.
    scale
        Scale jitter: factors lie in `[1 / scale, scale]`, logarithms triangular around 0, since the deployed pipeline
        mostly estimates an image's diameter well and sometimes badly.
    anisotropy
        Largest logarithm by which x is stretched against y.
    mosaic, empty
        Share of crops made of two sources; of crops without objects.
    focused
        Share of crops placed around an object instead of anywhere.
    stain
        Colour images: how far single channels may change, as the largest logarithm of their exponent.
    """

    crop: int = 256
    diameter: float = 28.0
    scale: float = 1.6
    anisotropy: float = 0.1
    mosaic: float = 0.12
    empty: float = 0.03
    focused: float = 0.75
    stain: float = 0.3


class CropSampler:
    """Draws training crops with their targets.

    Images are drawn by the square root of their family's size, so that one large experiment does not decide what a
    nucleus is.

    Parameters
    ----------
    samples
        Images with labels, all grey or all coloured.
    settings, seed
        How far views go, and the seed of all that is random.
    targets
        Makes what the loss takes, the weight of each pixel in its last plane.
    scalar
        Whether targets are scalar fields: these are computed once per image and moved like its pixels. Otherwise the
        labels are moved and the targets computed from each crop.
    """

    def __init__(
        self,
        samples: list[Sample],
        settings: Augmentation,
        seed: int,
        targets: Targets = distance_fields,
        scalar: bool = True,
    ) -> None:
        self.settings = settings
        self._random = np.random.default_rng(seed)
        self._targets, self._scalar = targets, scalar
        self._images = [np.atleast_3d(s.image).astype(np.float32) for s in samples]
        self._planes = [targets(s.labels) if scalar else s.labels.astype(np.float32)[..., None] for s in samples]
        self._centres = [_centres(s.labels) for s in samples]
        usual = float(np.nanmedian([s.diameter for s in samples] or [np.nan]))
        self._diameters = [s.diameter if np.isfinite(s.diameter) else usual for s in samples]
        groups = [s.group for s in samples]
        weights = np.array(
            [groups.count(g) ** -0.5 * s.labels.size**0.25 for g, s in zip(groups, samples, strict=True)]
        )
        self._probability = weights / weights.sum()

    def batch(self, size: int) -> tuple[Planes, Planes]:
        """Return images `(size, C, crop, crop)` and targets `(size, K, h, w)`, float32."""
        crops = [self._crop() for _ in range(size)]
        return tuple(np.ascontiguousarray(np.stack(part).transpose(0, 3, 1, 2)) for part in zip(*crops, strict=True))  # type: ignore[return-value]

    def _crop(self) -> tuple[Planes, Planes]:
        random, settings = self._random, self.settings
        image, planes = self._warped()
        if random.random() < settings.mosaic:
            image, planes = self._beside((image, planes), self._warped())
        if random.random() < settings.empty:
            image, planes = self._emptied(image, planes)
        image = self._reimaged(image)
        return image, planes if self._scalar else self._targets(separate(planes[..., 0].astype(np.int32)))

    def _warped(self) -> tuple[Planes, Planes]:
        """Cut a crop at random position, rotation, reflection and scale."""
        random, settings = self._random, self.settings
        index = int(random.choice(len(self._images), p=self._probability))
        image = self._images[index]
        height, width = image.shape[:2]
        scale = np.clip(settings.diameter / self._diameters[index], 1 / LARGEST_SCALE, LARGEST_SCALE)
        scale *= settings.scale ** random.triangular(-1, 0, 1)
        stretch = np.exp(random.uniform(-settings.anisotropy, settings.anisotropy))
        angle = random.uniform(0, 2 * np.pi) if random.random() < 0.5 else random.integers(4) * np.pi / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.diag([scale * stretch * (-1) ** random.integers(2), scale / stretch])
        # A window in the middle of the reach keeps the crop inside the image where the image is large enough.
        reach = np.minimum(settings.crop / scale / 2, np.array([width, height]) / 2)
        centre = np.array([random.uniform(0, width), random.uniform(0, height)])
        if len(self._centres[index]) and random.random() < settings.focused:
            centre = random.choice(self._centres[index]) + random.uniform(-0.4, 0.4, 2) * settings.crop / scale
        centre = np.clip(centre, reach, np.array([width, height]) - reach)
        motion = np.hstack([matrix, (settings.crop / 2 - matrix @ centre)[:, None]])
        if scale < 0.7:  # anti-aliasing
            image = _blurred(image, 0.4 / scale)

        def move(planes: Planes, flags: int) -> Planes:
            side = (settings.crop,) * 2
            moved = cv2.warpAffine(planes, motion, side, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
            return np.asarray(moved, np.float32).reshape(*side, -1)

        return move(image, cv2.INTER_LINEAR), move(
            self._planes[index], cv2.INTER_LINEAR if self._scalar else cv2.INTER_NEAREST
        )

    def _beside(self, first: tuple[Planes, Planes], second: tuple[Planes, Planes]) -> tuple[Planes, Planes]:
        """Put two sources side by side: one field may hold dim and bright, sharp and soft."""
        cut = int(self._random.integers(self.settings.crop // 4, self.settings.crop * 3 // 4))
        place = np.s_[cut:] if self._random.random() < 0.5 else np.s_[:, cut:]
        image, planes = first[0].copy(), first[1].copy()
        image[place] = second[0][place] * np.float32(self._random.uniform(0.3, 1.2))
        planes[place] = second[1][place]
        if not self._scalar:  # labels of two images must not meet in one number
            planes[place] += (second[1][place] > 0) * first[1].max()
        return image, planes

    def _emptied(self, image: Planes, planes: Planes) -> tuple[Planes, Planes]:
        """Replace the crop by background that its own percentiles would stretch to full contrast."""
        random = self._random
        noise = cv2.GaussianBlur(
            random.standard_normal(image.shape[:2]).astype(np.float32), (0, 0), random.uniform(0.3, 2)
        )
        noise = (noise - noise.min()) / (np.ptp(noise) + 1e-6) + self._haze() * random.uniform(0, 1)
        low, high = np.percentile(noise, (1, 99.8))
        grey = ((noise - low) / (high - low)).astype(np.float32)
        planes = np.zeros_like(planes)
        if self._scalar:
            planes[..., -1] = 1.0
        return np.repeat(grey[..., None], image.shape[2], axis=2), planes

    def _haze(self) -> NDArray[np.float32]:
        """Smooth random light, 0 to 1."""
        cells = int(self._random.integers(2, 9))
        coarse = self._random.random((cells, cells)).astype(np.float32)
        smooth = cv2.resize(coarse, (self.settings.crop,) * 2, interpolation=cv2.INTER_CUBIC)
        return np.asarray(smooth, dtype=np.float32)

    def _reimaged(self, image: Planes) -> Planes:
        """Change stain, gain, offset, gamma, illumination, focus and noise."""
        random, settings = self._random, self.settings
        image = np.clip(image, *CLIP)
        if image.shape[2] > 1:
            powers = np.exp(random.uniform(-settings.stain, settings.stain, image.shape[2])).astype(np.float32)
            image = np.sign(image) * np.abs(image) ** powers
        if random.random() < 0.4:
            image = np.sign(image) * np.abs(image) ** np.float32(np.exp(random.uniform(-0.6, 0.5)))
        if random.random() < 0.25:
            image = image * (0.5 + self._haze()[..., None])
        if random.random() < 0.25:
            image = image + self._haze()[..., None] * np.float32(random.uniform(0, 0.35))
        if random.random() < 0.3:
            image = _blurred(image, random.uniform(0.3, 2.0))
        if random.random() < 0.15:
            image = image + 0.6 * (image - _blurred(image, random.uniform(0.8, 2.0)))
        gain, offset = np.exp(random.uniform(-0.45, 0.35)), random.uniform(-0.08, 0.08)
        image = image * np.float32(gain) + np.float32(offset)
        if random.random() < 0.5:
            spread = random.uniform(0, 0.09) * np.sqrt(np.clip(image, 0.02, 1) if random.random() < 0.5 else 0.3)
            image = image + (spread * random.standard_normal(image.shape)).astype(np.float32)
        return np.clip(image, *CLIP).astype(np.float32)


def _blurred(image: Planes, sigma: float) -> Planes:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32).reshape(image.shape)


def _centres(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the mean x and y of every object, `(n, 2)`."""
    rows, columns = np.nonzero(labels)
    ids = labels[rows, columns]
    counts = np.bincount(ids)
    present = counts > 0
    sums = np.stack([np.bincount(ids, columns), np.bincount(ids, rows)], axis=1)
    return np.asarray(sums[present] / counts[present, None])
