"""Random views of a sample: geometry, intensity, optics, noise, and tiles of different sources side by side."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cellinfer_training.data import CLIP, Sample
from cellinfer_training.targets import distance_fields

Planes = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How far random views go.

    Parameters
    ----------
    crop
        Side of a training crop, pixels.
    diameter
        Median object diameter (pixels) to which an image is scaled before jitter.
    scale
        Scale jitter: factors are log-uniform in `[1 / scale, scale]`.
    anisotropy
        Largest logarithm by which x is stretched against y.
    mosaic, empty
        Share of crops made of two sources; of crops without objects.
    focused
        Share of crops placed around an object instead of anywhere.
    """

    crop: int = 256
    diameter: float = 28.0
    scale: float = 1.6
    anisotropy: float = 0.1
    mosaic: float = 0.12
    empty: float = 0.03
    focused: float = 0.75


class CropSampler:
    """Draws training crops with their targets.

    Images are drawn by the square root of their family's size, so that one large experiment does not decide what a
    nucleus is.
    """

    def __init__(self, samples: list[Sample], settings: Augmentation, seed: int) -> None:
        self.settings = settings
        self._random = np.random.default_rng(seed)
        self._planes = [np.dstack([s.image, distance_fields(s.labels)]).astype(np.float32) for s in samples]
        self._centres = [_centres(s.labels) for s in samples]
        usual = float(np.nanmedian([s.diameter for s in samples]))
        self._diameters = [s.diameter if np.isfinite(s.diameter) else usual for s in samples]
        groups = [s.group for s in samples]
        weights = np.array(
            [groups.count(g) ** -0.5 * s.labels.size**0.25 for g, s in zip(groups, samples, strict=True)]
        )
        self._probability = weights / weights.sum()

    def batch(self, size: int) -> tuple[Planes, Planes]:
        """Return images `(size, 1, crop, crop)` and targets `(size, 3, crop, crop)`, float32."""
        crops = np.stack([self._crop() for _ in range(size)])
        return np.ascontiguousarray(crops[:, None, ..., 0]), np.ascontiguousarray(crops[..., 1:].transpose(0, 3, 1, 2))

    def _crop(self) -> Planes:
        random, settings = self._random, self.settings
        planes = self._warped()
        if random.random() < settings.mosaic:
            planes = self._beside(planes, self._warped())
        if random.random() < settings.empty:
            planes = self._emptied(planes)
        planes[..., 0] = self._reimaged(planes[..., 0])
        return planes

    def _warped(self) -> Planes:
        """Cut a crop at random position, rotation, reflection and scale."""
        random, settings = self._random, self.settings
        index = int(random.choice(len(self._planes), p=self._probability))
        planes = self._planes[index]
        height, width = planes.shape[:2]
        scale = settings.diameter / self._diameters[index]
        scale *= settings.scale ** random.uniform(-1, 1)
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
        offset = settings.crop / 2 - matrix @ centre
        if scale < 0.7:  # anti-aliasing
            planes = planes.copy()
            planes[..., 0] = cv2.GaussianBlur(planes[..., 0], (0, 0), 0.4 / scale)
        warped = cv2.warpAffine(
            planes,
            np.hstack([matrix, offset[:, None]]),
            (settings.crop, settings.crop),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.ascontiguousarray(warped)

    def _beside(self, first: Planes, second: Planes) -> Planes:
        """Put two sources side by side: one field may hold dim and bright, sharp and soft."""
        cut = int(self._random.integers(self.settings.crop // 4, self.settings.crop * 3 // 4))
        mixed = first.copy()
        second[..., 0] *= self._random.uniform(0.3, 1.2)
        if self._random.random() < 0.5:
            mixed[cut:] = second[cut:]
        else:
            mixed[:, cut:] = second[:, cut:]
        return mixed

    def _emptied(self, planes: Planes) -> Planes:
        """Replace the crop by background that its own percentiles would stretch to full contrast."""
        size, random = self.settings.crop, self._random
        noise = cv2.GaussianBlur(
            random.standard_normal((size, size)).astype(np.float32), (0, 0), random.uniform(0.3, 2)
        )
        noise = (noise - noise.min()) / (np.ptp(noise) + 1e-6) + self._haze() * random.uniform(0, 1)
        low, high = np.percentile(noise, (1, 99.8))
        planes = np.zeros_like(planes)
        planes[..., 0] = (noise - low) / (high - low)
        planes[..., 3] = 1.0
        return planes

    def _haze(self) -> NDArray[np.float32]:
        """Smooth random light, 0 to 1."""
        cells = int(self._random.integers(2, 9))
        coarse = self._random.random((cells, cells)).astype(np.float32)
        smooth = cv2.resize(coarse, (self.settings.crop,) * 2, interpolation=cv2.INTER_CUBIC)
        return np.asarray(smooth, dtype=np.float32)

    def _reimaged(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change gain, offset, gamma, illumination, focus and noise."""
        random = self._random
        image = np.clip(image, *CLIP)
        if random.random() < 0.4:
            image = np.sign(image) * np.abs(image) ** np.float32(np.exp(random.uniform(-0.6, 0.5)))
        if random.random() < 0.25:
            image = image * (0.5 + self._haze())
        if random.random() < 0.25:
            image = image + self._haze() * np.float32(random.uniform(0, 0.35))
        if random.random() < 0.3:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 2.0)), dtype=np.float32)
        if random.random() < 0.15:
            image = image + 0.6 * (image - cv2.GaussianBlur(image, (0, 0), random.uniform(0.8, 2.0)))
        gain, offset = np.exp(random.uniform(-0.45, 0.35)), random.uniform(-0.08, 0.08)
        image = image * np.float32(gain) + np.float32(offset)
        if random.random() < 0.5:
            spread = random.uniform(0, 0.09) * np.sqrt(np.clip(image, 0.02, 1) if random.random() < 0.5 else 0.3)
            image = image + (spread * random.standard_normal(image.shape)).astype(np.float32)
        return np.clip(image, *CLIP).astype(np.float32)


def _centres(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the mean x and y of every object, `(n, 2)`."""
    rows, columns = np.nonzero(labels)
    ids = labels[rows, columns]
    counts = np.bincount(ids)
    present = counts > 0
    sums = np.stack([np.bincount(ids, columns), np.bincount(ids, rows)], axis=1)
    return np.asarray(sums[present] / counts[present, None])
