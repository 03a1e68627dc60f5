"""What a family of measurements is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cellinfer_kernels import colocalization, distance, granularity, intensity, neighbors, radial, shape
from cellinfer_kernels.components import Groups, gather, group
from numpy.typing import NDArray

from cellinfer.measurement._options import Options

Column = NDArray[np.float64]
Values = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column, one column per channel, or one per pair of channels.

    Attributes
    ----------
    name
        `<Category>_<Feature>` as CellProfiler spells it, without object and channel.
    unit
        px, px², degrees, radians, %, bits, the image's own intensity unit ("intensity"), or 1 for ratios and counts.
    definition
        What the value is, including where it is NaN.
    suffix
        What CellProfiler writes behind the channel: scale, ring, direction ...
    swapped
        Of a pair of channels: the second one is written first.
    oracle
        What independent implementation it is compared with; empty: that of its family.
    tolerance
        Largest median relative difference to the oracle; 0: that of its family.
    """

    name: str
    unit: str
    definition: str
    suffix: str = ""
    swapped: bool = False
    oracle: str = ""
    tolerance: float = 0.0

    @property
    def key(self) -> str:
        """Name of the value within its family."""
        return "_".join(filter(None, (self.name, self.suffix, "swapped" if self.swapped else "")))

    def column(self, objects: str, *channels: str) -> str:
        """Return the column's name in the table of some objects."""
        named = channels[::-1] if self.swapped else channels
        return "_".join(filter(None, (objects, self.name, *named, self.suffix)))


Features = tuple[Feature, ...]

_FULL_SCALES = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
_NORMALISED = 16  # values scaled to 0..1 may go somewhat beyond; counts of a camera go far beyond


@dataclass(frozen=True, slots=True)
class Family:
    """Measurements that belong together.

    To add one, write a module with a `FAMILY` and list it in `cellinfer.measurement.FAMILIES`.

    Attributes
    ----------
    name
        What users ask for in `measure(families=...)`; the category of its columns.
    source
        Whose definition this is.
    oracle
        What independent implementation its columns are compared with.
    tolerance
        Largest median relative difference to that.
    features, channel_features, pair_features
        Columns that need no image, that every channel has, and that every pair of channels has.
    compute, compute_channel, compute_pair
        Return (n,) float64 arrays for exactly these, by `Feature.key`.
    """

    name: str
    source: str
    oracle: str
    tolerance: float
    features: Callable[[Options], Features] = lambda options: ()
    channel_features: Callable[[Options], Features] = lambda options: ()
    pair_features: Callable[[Options], Features] = lambda options: ()
    compute: Callable[[Objects], Values] = lambda objects: {}
    compute_channel: Callable[[Signal], Values] = lambda signal: {}
    compute_pair: Callable[[Signal, Signal], Values] = lambda first, second: {}

    def declared(self, options: Options) -> tuple[Features, Features, Features]:
        """Return the columns by how many channels (0, 1, 2) they belong to."""
        return self.features(options), self.channel_features(options), self.pair_features(options)


class Plane:
    """One channel of a field; what does not depend on objects is computed once for all of them.

    Parameters
    ----------
    image
        2-D, real numbers.
    options
        Parameters of the measurements.
    recorded_scale
        Full scale of the image as it was recorded, where its own type does not tell; the option goes before it.
    """

    def __init__(self, image: NDArray[Any], options: Options, recorded_scale: float | None = None) -> None:
        self.image = image
        self.options = options
        self._recorded_scale = recorded_scale

    @cached_property
    def full_scale(self) -> float:
        """Value of a saturated pixel, see `Options.full_scale`."""
        if self.options.full_scale is not None:
            return float(self.options.full_scale)
        if self._recorded_scale is not None:
            return self._recorded_scale
        if self.image.dtype.name in _FULL_SCALES:
            return _FULL_SCALES[self.image.dtype.name]
        largest = self.image.max(initial=0, where=np.isfinite(self.image))
        return 65535.0 if largest > _NORMALISED else 1.0

    @cached_property
    def spectrum(self) -> granularity.Spectrum:
        """The image after each step of the granular spectrum."""
        options = self.options
        return granularity.spectrum(
            self.image,
            subsample=options.granularity_subsample,
            background_subsample=options.granularity_background,
            radius=options.granularity_radius,
            length=options.granularity_steps,
        )


class Objects:
    """The objects of a label image; what several families or channels need is computed once.

    Parameters
    ----------
    labels
        2-D label image, 0 = background.
    options
        Parameters of the measurements.
    origins
        Label image of the objects with the same ids at which `Options.radial_from` lets rings begin; None: their own
        centres.

    Raises
    ------
    ValueError
        If the labels are no label image.
    """

    def __init__(self, labels: NDArray[Any], options: Options, origins: NDArray[Any] | None = None) -> None:
        self.labels = labels
        self.options = options
        self.origins = origins
        self.groups: Groups = group(labels)

    @cached_property
    def area(self) -> Column:
        """(n,) pixels of all objects."""
        return np.diff(self.groups.begins).astype(np.float64)

    @cached_property
    def hulls(self) -> shape.Hulls:
        """Convex hulls and enclosing circles of all objects."""
        return shape.hulls(self.groups)

    @cached_property
    def moments(self) -> shape.Moments:
        """Spatial moments of all objects."""
        return shape.moments(self.groups)

    @cached_property
    def depths(self) -> NDArray[np.int32]:
        """(P,) squared distance of every pixel to the outside of its object."""
        return distance.depths(self.groups)

    @cached_property
    def closest(self) -> neighbors.Closest:
        """The two nearest other objects of every object."""
        return neighbors.closest(self.groups)

    @cached_property
    def rings(self) -> radial.Rings:
        """Ring and wedge of every pixel."""
        options = self.options
        within = distance.depths_within_image(self.groups, self.depths)
        if options.radial_from == "self" or self.origins is None:
            middles, cores, elsewhere = radial.centres(self.groups, within), None, False
        else:
            others = group(self.origins)
            middles = np.floor(shape.moments(others).centre + 0.5).astype(np.int32)
            middles, cores, elsewhere = _aligned(middles, others.ids, self.groups.ids), None, True
            if options.radial_from == "edges":
                cores = np.asarray(self.origins).ravel()[self.groups.pixels] != 0
        return radial.rings(
            self.groups,
            within,
            middles,
            bins=options.radial_bins,
            radius=options.radial_radius,
            cores=cores,
            straight=elsewhere,
        )

    @cached_property
    def weights(self) -> granularity.Weights:
        """What each pixel of the subsampled image counts for every object."""
        small = granularity.small_shape(self.groups.shape, self.options.granularity_subsample)
        return granularity.weights(self.groups, small)


def _aligned(middles: NDArray[np.int32], ids: NDArray[np.int32], own: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the centre of the object with the same id for every one of our `own` ids, -1 where there is none."""
    aligned = np.full((own.size, 2), -1, np.int32)
    same = np.isin(own, ids)
    aligned[same] = middles[np.searchsorted(ids, own[same])]
    return aligned


class Signal:
    """A channel within objects.

    Parameters
    ----------
    objects
        The objects.
    plane
        The channel, of the same size.
    """

    def __init__(self, objects: Objects, plane: Plane) -> None:
        self.objects = objects
        self.plane = plane

    @cached_property
    def values(self) -> Column:
        """(P,) the channel's values in the order of the objects' pixels."""
        return gather(self.objects.groups, self.plane.image)

    @cached_property
    def finite(self) -> Column:
        """(n,) pixels of every object with a finite value."""
        missing = np.flatnonzero(~np.isfinite(self.values))
        places = np.searchsorted(self.objects.groups.begins, missing, side="right") - 1
        return self.objects.area - np.bincount(places, minlength=self.objects.area.size)

    @cached_property
    def intensities(self) -> intensity.Intensities:
        """Intensity statistics of all objects."""
        return intensity.intensities(
            self.objects.groups, self.values, legacy=self.objects.options.quartiles == "cellprofiler"
        )

    @cached_property
    def ranks(self) -> NDArray[np.int32]:
        """(P,) dense rank of every value within its object."""
        return colocalization.ranks(self.objects.groups.begins, self.values)
