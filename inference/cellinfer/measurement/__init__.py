"""Measurements: labels and images to tables, one module per family, columns named as in CellProfiler.

A column is `<Object>_<Category>_<Feature>[_<Channel>]`. Intensities are in the image's own units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.measurement import _area_shape, _intensity, _location
from cellinfer.measurement._registry import Family, Feature, Subject
from cellinfer.measurement.ratios import compartment_ratios

__all__ = ["FAMILIES", "Family", "Feature", "compartment_ratios", "describe", "feature_columns", "measure"]

FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in (_area_shape, _intensity, _location)}
"""The families there are, in the order of their columns."""


def measure(
    labels: NDArray[Any],
    images: Mapping[str, NDArray[Any]] | NDArray[Any],
    *,
    name: str = "Nuclei",
    families: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure every object of a label image.

    Parameters
    ----------
    labels
        (H, W) integers, 0 = background; ids may have gaps.
    images
        Channel name -> (H, W) real image (uint8, uint16, float32, float64 ...). A single array is a channel without a
        name: its columns carry no suffix.
    name
        What the objects are called in the columns.
    families
        Keys of `FAMILIES` to compute; None: all.

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
    channels = images if isinstance(images, Mapping) else {"": images}
    chosen = _chosen(families)
    for channel, image in channels.items():
        if np.shape(image) != np.shape(labels):
            raise InputError(
                f"channel {channel!r} has shape {np.shape(image)}, but the {name} labels have {np.shape(labels)}"
            )
    try:
        subject = Subject(labels, channels)
    except ValueError as problem:
        raise InputError(f"{name}: {problem}") from problem
    columns: dict[str, NDArray[Any]] = {"ObjectNumber": subject.groups.ids.astype(np.int64)}
    for family in chosen:
        _add(columns, family.features, family.compute(subject), name, "")
        for channel in channels:
            _add(columns, family.channel_features, family.compute_channel(subject, channel), name, channel)
    return pd.DataFrame(columns)


def _chosen(families: Sequence[str] | None) -> list[Family]:
    if families is None:
        return list(FAMILIES.values())
    unknown = [f for f in families if f not in FAMILIES]
    if unknown:
        raise InputError(f"no measurements called {', '.join(unknown)}: there are {', '.join(FAMILIES)}")
    return [family for family in FAMILIES.values() if family.name in families]


def _column(name: str, feature: Feature, channel: str) -> str:
    return f"{name}_{feature.name}_{channel}" if channel else f"{name}_{feature.name}"


def _add(
    columns: dict[str, NDArray[Any]],
    features: Sequence[Feature],
    values: Mapping[str, NDArray[np.float64]],
    name: str,
    channel: str,
) -> None:
    for feature in features:
        columns[_column(name, feature, channel)] = values[feature.name]


def describe(name: str, channels: Sequence[str], families: Sequence[str] | None = None) -> dict[str, Feature]:
    """Tell what every column of a table holds.

    Parameters
    ----------
    name
        What the objects are called.
    channels
        Channel names, in order.
    families
        As in `measure`.

    Returns
    -------
    dict
        Column name -> `Feature` (unit, definition), in the order of the table.

    Raises
    ------
    InputError
        If a family is unknown.
    """
    columns: dict[str, Feature] = {}
    for family in _chosen(families):
        columns |= {_column(name, feature, ""): feature for feature in family.features}
        for channel in channels:
            columns |= {_column(name, feature, channel): feature for feature in family.channel_features}
    return columns


def feature_columns(name: str, channels: Sequence[str], families: Sequence[str] | None = None) -> list[str]:
    """Return the columns that `measure` makes after `ObjectNumber`, in order; parameters as in `describe`."""
    return list(describe(name, channels, families))
