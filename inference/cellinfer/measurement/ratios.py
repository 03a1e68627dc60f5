"""Ratios between the compartments of a cell: the read-out of translocation assays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from cellinfer_kernels.summary import means
from numpy.typing import NDArray

from cellinfer.errors import InputError

Column = NDArray[np.float64]

_STATISTICS = ("MeanIntensity", "MedianIntensity", "IntegratedIntensity")


def compartment_ratios(
    nuclei: pd.DataFrame,
    cells: pd.DataFrame,
    cytoplasm: pd.DataFrame,
    channels: Sequence[str],
    *,
    background: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Divide nucleus by cytoplasm, cell by cell.

    Parameters
    ----------
    nuclei, cells, cytoplasm
        Tables of `cellinfer.measurement.measure` with the names Nuclei, Cells and Cytoplasm, families AreaShape and
        Intensity. One `ObjectNumber` means one cell in all three; it may lack a nucleus or a cytoplasm.
    channels
        Channels to compare.
    background
        Channel -> intensity of an empty pixel, in the image's units, subtracted from every pixel before dividing
        (default 0). A camera offset left in pulls every ratio towards 1.

    Returns
    -------
    pandas.DataFrame
        The index of `cells`, all columns float64: `Cells_Ratio_NucleusCellArea`, and per channel
        `Cells_Ratio_NucleusCytoplasm{MeanIntensity,MedianIntensity,IntegratedIntensity}_<Channel>`. NaN where a
        compartment is missing or the denominator is not positive.

    Raises
    ------
    InputError
        If a table lacks a column that is needed.
    """
    numbers = cells["ObjectNumber"]
    tables = {"Nuclei": nuclei, "Cells": cells, "Cytoplasm": cytoplasm}
    wanted = {f"{name}_AreaShape_Area" for name in tables} | {
        f"{name}_Intensity_{statistic}_{channel}"
        for name in tables
        for statistic in _STATISTICS
        for channel in channels
    }
    aligned = {
        name: table[["ObjectNumber", *wanted.intersection(table)]].set_index("ObjectNumber").reindex(numbers)
        for name, table in tables.items()
    }
    areas = {name: _values(table, f"{name}_AreaShape_Area") for name, table in aligned.items()}
    columns = {"Cells_Ratio_NucleusCellArea": _divide(areas["Nuclei"], areas["Cells"])}
    for channel in channels:
        offset = (background or {}).get(channel, 0.0)
        for statistic in _STATISTICS:
            sums = statistic == "IntegratedIntensity"
            upper, lower = (
                _values(aligned[name], f"{name}_Intensity_{statistic}_{channel}")
                - offset * (areas[name] if sums else 1.0)
                for name in ("Nuclei", "Cytoplasm")
            )
            columns[f"Cells_Ratio_NucleusCytoplasm{statistic}_{channel}"] = _divide(upper, lower)
    return pd.DataFrame(columns, index=cells.index)


def ring_ratios(
    nuclei: NDArray[np.int32],
    ring: NDArray[np.int32],
    images: Mapping[str, NDArray[Any]],
    numbers: NDArray[np.integer[Any]],
    *,
    background: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Divide the nucleus by the cytoplasm next to it, cell by cell.

    The ring next to the nucleus does not depend on where the cell is thought to end, which makes this ratio the
    steadier read-out of translocation.

    Parameters
    ----------
    nuclei, ring
        `(H, W)` labels with the same ids.
    images
        Channel -> `(H, W)` plane; pixels that are not finite are left out.
    numbers
        `(n,)` ids, one per row of the result.
    background
        As for `compartment_ratios`.

    Returns
    -------
    pandas.DataFrame
        n rows, float64: `Cells_Ratio_NucleusRingMeanIntensity_<Channel>`; NaN where a cell has no ring or the
        denominator is not positive.
    """
    last = int(max(nuclei.max(initial=0), ring.max(initial=0), *numbers, 0))
    columns = {}
    for channel, image in images.items():
        offset = (background or {}).get(channel, 0.0)
        upper, lower = (means(labels, image, last)[numbers] - offset for labels in (nuclei, ring))
        columns[f"Cells_Ratio_NucleusRingMeanIntensity_{channel}"] = _divide(upper, lower)
    return pd.DataFrame(columns, index=range(len(numbers)))


def _values(table: pd.DataFrame, column: str) -> Column:
    if column not in table:
        raise InputError(f"ratios need the column {column}: measure families AreaShape and Intensity of that channel")
    values: Column = table[column].to_numpy(np.float64)
    return values


def _divide(upper: Column, lower: Column) -> Column:
    result: Column = np.divide(upper, lower, out=np.full(len(lower), np.nan), where=lower > 0)
    return result
