"""Measurements: labels and images to tables, one module per family, columns named as in CellProfiler.

A column is `<Object>_<Category>_<Feature>[_<Channel>[_<Channel>]][_<Parameter>]`. Intensities are in the image's own
units. Every column has a definition, see `describe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.measurement import (
    _area_shape,
    _correlation,
    _granularity,
    _intensity,
    _location,
    _neighbors,
    _number,
    _radial,
    _texture,
)
from cellinfer.measurement._options import CELL_PAINTING, DEFAULTS, Options
from cellinfer.measurement._registry import Family, Feature, Objects, Plane, Signal, Values
from cellinfer.measurement.ratios import compartment_ratios
from cellinfer.measurement.relations import relate_objects
from cellinfer.plate import natural_key

__all__ = [
    "CELL_PAINTING",
    "DEFAULTS",
    "FAMILIES",
    "PRESETS",
    "Family",
    "Feature",
    "Options",
    "chosen_families",
    "compartment_ratios",
    "describe",
    "feature_columns",
    "full_scales",
    "measure",
    "measure_compartments",
    "parse_features",
    "relate_objects",
]

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (
        _area_shape,
        _intensity,
        _location,
        _number,
        _neighbors,
        _texture,
        _granularity,
        _radial,
        _correlation,
    )
}
"""The families there are, in the order of their columns."""

PRESETS: dict[str, tuple[tuple[str, ...], Options]] = {
    "all": (tuple(FAMILIES), DEFAULTS),
    "basic": (("AreaShape", "Intensity", "Location", "Number"), DEFAULTS),
    "cell-painting": (tuple(FAMILIES), CELL_PAINTING),
}
"""Names for common choices: families and options."""

Labels = NDArray[Any]
Images = Mapping[str, NDArray[Any]]


def measure(
    labels: Labels,
    images: Images | NDArray[Any],
    *,
    name: str = "Nuclei",
    families: Sequence[str] | None = None,
    options: Options | None = None,
) -> pd.DataFrame:
    """Measure every object of a label image.

    Parameters
    ----------
    labels
        (H, W) integers, 0 = background; ids may have gaps.
    images
        Channel name -> (H, W) real image (uint8, uint16, float32, float64 ...). A single array is a channel without a
        name: its columns carry no channel.
    name
        What the objects are called in the columns.
    families
        Keys of `FAMILIES` to compute; None: all.
    options
        Parameters; None: CellProfiler's defaults.

    Returns
    -------
    pandas.DataFrame
        One row per object, ascending: `ObjectNumber` (int64, the id), then the columns of `feature_columns` (float64).
        Without objects: no rows, same columns and types.

    Raises
    ------
    InputError
        If an image does not have the shape of the labels, the labels are no label image, or a family is unknown.
    """
    return measure_compartments({name: labels}, images, families=families, options=options)[name]


def measure_compartments(
    compartments: Mapping[str, Labels],
    images: Images | NDArray[Any],
    *,
    families: Sequence[str] | None = None,
    options: Options | None = None,
    recorded_scales: Mapping[str, float] | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure several kinds of objects of one field; what depends on the images alone is computed once.

    Parameters
    ----------
    compartments
        What objects are called in the columns -> (H, W) label image. One id means the same cell in all of them (which
        only `Options.radial_from` makes use of).
    images, families, options
        As for `measure`.
    recorded_scales
        Channel -> value of a saturated pixel of the image as it was recorded, of images that were computed from
        those; None goes by the images themselves. `Options.full_scale` goes before it.

    Returns
    -------
    dict of pandas.DataFrame
        A table as that of `measure` for each kind of objects.

    Raises
    ------
    InputError
        As `measure`.
    """
    settings = options or DEFAULTS
    if not isinstance(settings, Options):
        raise InputError(f"options must be cellinfer.measurement.Options, not a {type(settings).__name__}")
    chosen = chosen_families(families)
    families = [family.name for family in chosen]  # it may have been a generator
    channels = _checked_images(images)
    scales = dict(recorded_scales or {})
    subjects = _objects(compartments, channels, settings)
    tables = {
        name: _Table(objects.groups.ids, feature_columns(name, tuple(channels), families, settings))
        for name, objects in subjects.items()
    }
    for name, objects in subjects.items():
        for family in chosen:
            tables[name].add(name, family.features(settings), family.compute(objects))
    for channel, image in channels.items():  # the outer loop: a plane's own results are let go before the next
        plane = Plane(np.asarray(image), settings, scales.get(channel))
        for name, objects in subjects.items():
            signal = Signal(objects, plane)
            for family in chosen:
                computed = family.compute_channel(signal)
                tables[name].add(name, family.channel_features(settings), computed, channel)
    planes = {name: Plane(np.asarray(image), settings, scales.get(name)) for name, image in channels.items()}
    _add_pairs(tables, subjects, planes, chosen, settings)
    return {name: table.frame() for name, table in tables.items()}


class _Table:
    """A table in the making: one row of a block per column, so that it is written and kept only once."""

    def __init__(self, ids: NDArray[np.int32], columns: Sequence[str]) -> None:
        self.ids = ids
        self.places = {column: place for place, column in enumerate(columns)}
        self.block = np.empty((len(columns), ids.size))

    def add(self, name: str, features: Iterable[Feature], values: Values, *channels: str) -> None:
        for feature in features:
            self.block[self.places[feature.column(name, *channels)]] = values[feature.key]

    def frame(self) -> pd.DataFrame:
        table = pd.DataFrame(self.block.T, columns=list(self.places), copy=False)
        table.insert(0, "ObjectNumber", self.ids.astype(np.int64))
        return table


def full_scales(images: Images, options: Options | None = None) -> dict[str, float]:
    """Tell what is taken for the value of a saturated pixel of each channel, see `Options.full_scale`."""
    return {channel: Plane(np.asarray(image), options or DEFAULTS).full_scale for channel, image in images.items()}


def _checked_images(images: Images | NDArray[Any]) -> Images:
    channels = dict(images) if isinstance(images, Mapping) else {"": images}
    for channel, image in channels.items():
        if not isinstance(channel, str):
            raise InputError(f"channels are told apart by names; {channel!r} is a {type(channel).__name__}")
        kind = np.asarray(image).dtype
        if kind.kind not in "biuf":
            raise InputError(f"channel {channel!r} holds {kind}, but intensities are real numbers")
    return channels


def _objects(compartments: Mapping[str, Labels], channels: Images, options: Options) -> dict[str, Objects]:
    subjects = {}
    if options.radial_from != "self" and options.radial_objects not in compartments:
        raise InputError(
            f"rings are to begin at {options.radial_objects!r}, but there are only "
            f"{', '.join(map(str, compartments))}: measure them together with measure_compartments, or change the "
            "option radial_objects"
        )
    for name, labels in compartments.items():
        if not isinstance(name, str):
            raise InputError(f"objects are told apart by names; {name!r} is a {type(name).__name__}")
        for channel, image in channels.items():
            if np.shape(image) != np.shape(labels):
                raise InputError(
                    f"channel {channel!r} has shape {np.shape(image)}, but the {name} labels have {np.shape(labels)}"
                )
        origins = compartments.get(options.radial_objects) if name != options.radial_objects else None
        try:
            subjects[name] = Objects(labels, options, origins)
        except ValueError as problem:
            raise InputError(f"{name}: {problem}") from problem
    return subjects


def _add_pairs(
    tables: Mapping[str, _Table],
    subjects: dict[str, Objects],
    planes: Mapping[str, Plane],
    chosen: Sequence[Family],
    options: Options,
) -> None:
    """Add what pairs of channels have; empties `subjects`, since the values of all channels are needed at once."""
    paired = [family for family in chosen if family.pair_features(options)]
    if not paired or len(planes) < 2:
        return
    for name in list(subjects):
        objects = subjects.pop(name)
        signals = {channel: Signal(objects, plane) for channel, plane in planes.items()}
        for first, second in _together(planes, 2):
            for family in paired:
                computed = family.compute_pair(signals[first], signals[second])
                tables[name].add(name, family.pair_features(options), computed, first, second)


def _together(channels: Iterable[str], count: int) -> Iterable[tuple[str, ...]]:
    """Return the channels taken by themselves, or in pairs; pairs in the order of their names."""
    return combinations(sorted(channels, key=natural_key) if count > 1 else channels, count)


def chosen_families(families: Sequence[str] | None) -> list[Family]:
    """Return families by name, in the order of `FAMILIES`; all for None.

    Raises
    ------
    InputError
        If there is no family of a name.
    """
    if families is None:
        return list(FAMILIES.values())
    if isinstance(families, str):
        raise InputError(f"families is a list of names, not the text {families!r}: write families=[{families!r}]")
    wanted = list(families)
    unknown = [f for f in wanted if f not in FAMILIES]
    if unknown:
        raise InputError(f"no measurements called {', '.join(map(str, unknown))}: there are {', '.join(FAMILIES)}")
    return [family for family in FAMILIES.values() if family.name in wanted]


def parse_features(text: str) -> tuple[tuple[str, ...], Options]:
    """Read what to measure from one line.

    Parameters
    ----------
    text
        Names of `FAMILIES` and `PRESETS`, separated by commas; capitals do not matter.

    Returns
    -------
    families : tuple of str
        All that were named, in the order of `FAMILIES`.
    options : Options
        Those of the last preset named.

    Raises
    ------
    InputError
        If a name is neither.
    """
    families: set[str] = set()
    options = DEFAULTS
    known = {name.lower(): name for name in FAMILIES}
    for name in (part.strip().lower() for part in text.split(",")):
        if name in PRESETS:
            families.update(PRESETS[name][0])
            options = PRESETS[name][1]
        elif name in known:
            families.add(known[name])
        else:
            raise InputError(
                f"no measurements called {name!r}: there are the families {', '.join(FAMILIES)} and the presets "
                f"{', '.join(PRESETS)}."
            )
    return tuple(family.name for family in chosen_families(tuple(families))), options


def describe(
    name: str,
    channels: Sequence[str],
    families: Sequence[str] | None = None,
    options: Options | None = None,
) -> dict[str, Feature]:
    """Tell what every column of a table holds.

    Parameters
    ----------
    name
        What the objects are called.
    channels
        Channel names, in order.
    families, options
        As in `measure`.

    Returns
    -------
    dict
        Column name -> `Feature` (unit, definition), in the order of the table: by family, then by channel or pair.

    Raises
    ------
    InputError
        If a family is unknown.
    """
    chosen = tuple(family.name for family in chosen_families(families))
    return dict(_described(name, tuple(channels), chosen, options or DEFAULTS))


@lru_cache(maxsize=64)  # a plate's fields all have the same columns
def _described(
    name: str, channels: tuple[str, ...], families: tuple[str, ...], options: Options
) -> Mapping[str, Feature]:
    columns: dict[str, Feature] = {}
    for family in chosen_families(families):
        for count, declared in enumerate(family.declared(options)):
            for chosen in _together(channels, count):
                made = {feature.column(name, *chosen): feature for feature in declared}
                if len(made) < len(declared) or made.keys() & columns.keys():
                    raise InputError(
                        f"channels {', '.join(map(repr, channels))} give two columns one name: rename one of them"
                    )
                columns |= made
    return columns


def feature_columns(
    name: str,
    channels: Sequence[str],
    families: Sequence[str] | None = None,
    options: Options | None = None,
) -> list[str]:
    """Return the columns that `measure` makes after `ObjectNumber`, in order; parameters as in `describe`."""
    return list(describe(name, channels, families, options))
