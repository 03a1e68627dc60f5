"""What a family of measurements is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cellinfer_kernels.components import Groups, group
from cellinfer_kernels.intensity import Intensities, intensities
from cellinfer_kernels.shape import Shapes, shapes
from numpy.typing import NDArray

Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column, or one column per channel.

    Attributes
    ----------
    name
        `<Category>_<Feature>` as CellProfiler spells it, without object and channel.
    unit
        px, px², degrees, the image's own intensity unit ("intensity"), or 1 for ratios and counts.
    definition
        What the value is, including where it is NaN.
    """

    name: str
    unit: str
    definition: str


@dataclass(frozen=True, slots=True)
class Family:
    """Measurements that belong together.

    To add one, write a module with a `FAMILY` and list it in `cellinfer.measurement.FAMILIES`.

    Attributes
    ----------
    name
        What users ask for in `measure(families=...)`.
    features
        Columns that need no image.
    channel_features
        Columns made for every channel.
    compute
        Returns (n,) float64 arrays for exactly `features`, by name.
    compute_channel
        The same for `channel_features` of one channel.
    """

    name: str
    features: tuple[Feature, ...] = ()
    channel_features: tuple[Feature, ...] = ()
    compute: Callable[[Subject], Values] = lambda subject: {}
    compute_channel: Callable[[Subject, str], Values] = lambda subject, channel: {}


class Subject:
    """Objects and channels of one field; what several families need is computed once.

    Parameters
    ----------
    labels
        2-D label image, 0 = background.
    images
        Channel name -> 2-D image of the same shape.
    """

    def __init__(self, labels: NDArray[Any], images: Mapping[str, NDArray[Any]]) -> None:
        self.groups: Groups = group(labels)
        self.images = images
        self._intensities: dict[str, Intensities] = {}

    @cached_property
    def shapes(self) -> Shapes:
        """Raw shape quantities of all objects."""
        return shapes(self.groups)

    def intensities(self, channel: str) -> Intensities:
        """Return the intensity statistics of all objects in a channel."""
        if channel not in self._intensities:
            self._intensities[channel] = intensities(self.groups, self.images[channel])
        return self._intensities[channel]
