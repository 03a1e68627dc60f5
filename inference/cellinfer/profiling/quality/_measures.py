"""What quality control measures of a field and of a well, and what a value that is out means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cellinfer.profiling.columns import PLATE, SITE
from cellinfer.profiling.quality._outliers import MAD_TO_SD
from cellinfer.profiling.quality._tables import STATUS, WELL_KEY
from cellinfer.readouts import is_biology

SATURATED_PERCENT = 1.0
"""Share of pixels at a plane's largest value (%) below which it is never called saturated."""
GROUP = "group"
"""Column with the plate, or plate and time, whose wells are compared."""
_SLOPE = "Image_ImageQuality_PowerLogLogSlope_"
_MAXIMAL = "Image_ImageQuality_PercentMaximal_"
_BACKGROUND, _MAX = "Image_Intensity_Background_", "Image_Intensity_MaxIntensity_"
_CELLS = ("Image_Count_Cells", "Image_Count_Nuclei")
_FAINT = 0.25
_AREA, _SOLIDITY, _BRIGHTNESS = "Nuclei_AreaShape_Area", "Nuclei_AreaShape_Solidity", "Nuclei_Intensity_MeanIntensity_"
_ODD_FACTOR, _ODD_SOLIDITY, _ODD_DEVIATIONS = 2.5, 0.15, 4.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured, and judged against other wells.

    Attributes
    ----------
    name
        Of its column, without `Metadata_QC_` and channel.
    text
        What it is, in words; `{}` is the channel.
    low, high
        What it means to lie below, or above, the limit; empty if that is no fault.
    floor
        Least distance of a limit from the middle of the reference: on a logarithmic scale if `logarithmic`, else in
        the measure's unit. What differs by less does no harm, however alike the wells of a plate are.
    logarithmic
        Whether distances are ratios.
    technical
        Whether no treatment can cause it.
    """

    name: str
    text: str
    low: str = ""
    high: str = ""
    floor: float = 0.0
    logarithmic: bool = False
    technical: bool = False


MEASURES = (
    Measure("Focus", "focus (slope of log power) of {}", low="out of focus", floor=0.3, technical=True),
    Measure("Saturation", "saturated pixels of {} (%)", high="saturated", floor=SATURATED_PERCENT, technical=True),
    Measure(
        "Background",
        "background of {}",
        low="illumination, exposure or camera differ",
        high="stray light, exposure, or fluorescence of the medium or compound",
    ),
    Measure(
        "Brightest",
        "brightest pixel of {} above the background",
        low="dark: nothing stained, or no light",
        high="bright specks, such as dust or precipitate",
        floor=float(np.log(3)),
        logarithmic=True,
    ),
    Measure(
        "Signal",
        "mean intensity of cells above the background in {}",
        low="dim: stain, exposure or gain differ",
        high="bright: stain, exposure or gain differ",
        floor=float(np.log(1.5)),
        logarithmic=True,
    ),
    Measure("Cells", "cells per field", low="few cells", high="many cells", logarithmic=True),
    Measure(
        "Debris",
        "share of objects far too small, too bright or ragged",
        high="debris or fragments",
        floor=0.1,
    ),
    Measure(
        "Profile",
        "distance of the well's features from those of the others",
        high="unlike the other wells",
        floor=float(np.log(2)),
        logarithmic=True,
    ),
    Measure(
        "Embedding",
        "distance of the well's embedding from those of the others",
        high="unlike the other wells",
        floor=float(np.log(2)),
        logarithmic=True,
    ),
)
"""In the order of columns and reasons. `Background` and `Cells` have floors that depend on the plate, see `floors`."""
BACKGROUND_OF_SIGNAL = 0.2
"""A background is out only if it differs by this share of the cells' signal."""
FEWER_CELLS = 0.35
"""A count is out only if it is lower by this share (or higher as many times), and by three times what chance alone does
to a number of cells."""


def channels_of(fields: pd.DataFrame) -> tuple[str, ...]:
    """Return the channels of a table of images, in its order."""
    names = [
        str(column).removeprefix(prefix)
        for prefix in (_SLOPE, _MAXIMAL, _BACKGROUND)
        for column in fields
        if str(column).startswith(prefix)
    ]
    return tuple(dict.fromkeys(names))


def field_measures(fields: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Return what the table of images says of each field: columns named by measure and channel, NaN if unknown.

    Fields that failed have no values.
    """
    found: dict[str, pd.Series] = {}
    for channel in channels:
        background, brightest = (_column(fields, prefix + channel) for prefix in (_BACKGROUND, _MAX))
        contrast = brightest - background
        usual = contrast.groupby(fields[GROUP]).transform("median")
        slope = _column(fields, _SLOPE + channel)
        found[f"Focus_{channel}"] = slope.mask(slope == 0)  # CellProfiler's way to say that there is none
        # In a plane that is almost black many pixels have the largest value, and none is saturated.
        found[f"Saturation_{channel}"] = _column(fields, _MAXIMAL + channel).mask(contrast < _FAINT * usual)
        found[f"Background_{channel}"] = background
        found[f"Brightest_{channel}"] = contrast.where(contrast > 0)
    for name in _CELLS:
        if name in fields:
            found["Cells"] = fields[name].astype(np.float64)
            break
    table = pd.DataFrame(found, index=fields.index)
    return table.mask(~succeeded(fields))


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    values = table[name] if name in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(values, errors="coerce").astype(np.float64).where(lambda column: np.isfinite(column))


def succeeded(fields: pd.DataFrame) -> pd.Series:
    """Tell which fields were analysed; all, where the table does not say."""
    return fields[STATUS] == "ok" if STATUS in fields else pd.Series(True, index=fields.index)


def well_measures(fields: pd.DataFrame, measured: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Return one row per well: its fields, and the median over them of each measure (of cells, the mean).

    Parameters
    ----------
    fields
        Table of images with `group`.
    measured
        From `field_measures`.
    channels
        The channels, for the order of columns.
    """
    keys = [GROUP, *WELL_KEY]
    both = pd.concat([fields[keys], measured], axis=1)
    wells = both.groupby(keys, sort=False)[list(measured.columns)].median()
    if "Cells" in measured:
        wells["Cells"] = both.groupby(keys, sort=False)["Cells"].mean()
    done = succeeded(fields).groupby([fields[key] for key in keys], sort=False)
    wells.insert(0, "Fields", done.size())
    wells.insert(1, "FailedFields", done.size() - done.sum())
    return wells.reset_index()


def add_signal(wells: pd.DataFrame, profiles: pd.DataFrame | None, channels: Sequence[str]) -> None:
    """Add the intensity of cells above the background, in place."""
    if profiles is None:
        return
    placed = wells[WELL_KEY].merge(profiles, on=WELL_KEY, how="left")
    for channel in channels:
        name = f"Cells_Intensity_MeanIntensity_{channel}"
        if name in placed:
            signal = placed[name].to_numpy(dtype=np.float64) - wells[f"Background_{channel}"].to_numpy()
            wells[f"Signal_{channel}"] = np.where(signal > 0, signal, np.nan)


def count_debris(nuclei: pd.DataFrame, reference: pd.Series, nuclear: str | None) -> pd.Series:
    """Tell which objects are debris or fragments: far smaller, brighter or more ragged than reference nuclei.

    An object is odd if its area is below, its mean intensity above, or its solidity below what lies four robust
    standard deviations from the median of the reference objects of its plate, but at least a factor of 2.5 (of
    solidity: 0.15) away.

    Parameters
    ----------
    nuclei
        Objects with `group`.
    reference
        Which of them are of reference wells.
    nuclear
        Channel of nuclei; None leaves brightness out.
    """
    odd = pd.Series(False, index=nuclei.index)
    brightness = _BRIGHTNESS + str(nuclear)
    for name, sign, floor in (
        (_AREA, -1, np.log(_ODD_FACTOR)),
        (brightness, 1, np.log(_ODD_FACTOR)),
        (_SOLIDITY, -1, _ODD_SOLIDITY),
    ):
        if name not in nuclei:
            continue
        values = nuclei[name].astype(np.float64)
        values = values if name == _SOLIDITY else values.where(values > 0).apply(np.log)
        for _, plate in values.groupby(nuclei[GROUP]):
            typical = plate[reference.loc[plate.index]]
            median = typical.median()
            spread = MAD_TO_SD * (typical - median).abs().median()
            odd.loc[plate.index] |= sign * (plate - median) > max(_ODD_DEVIATIONS * spread, floor)
    return odd


def debris_shares(nuclei: pd.DataFrame, odd: pd.Series, keys: Sequence[str]) -> pd.DataFrame:
    """Return the share of odd objects per field or well, as a table with the keys and `Debris`."""
    return (
        odd.astype(np.float64).groupby([nuclei[key] for key in keys], sort=False).mean().rename("Debris").reset_index()
    )


def profile_features(profiles: pd.DataFrame) -> list[str]:
    """Return the features by which wells are compared: not where cells lie, how they are turned or how many."""
    from cellinfer.profiling.columns import features_among

    names = features_among({str(name): dtype for name, dtype in profiles.dtypes.items()})
    return [name for name in names if is_biology(name) and not name.startswith(("Image_", *(PLATE, SITE)))]


def floors(measure: Measure, channel: str | None, wells: pd.DataFrame, centre: float, per: float = 1.0) -> float:
    """Return the least distance of a limit from its centre.

    Parameters
    ----------
    measure, channel
        What is judged.
    wells
        Wells of the plate.
    centre
        Middle of the reference.
    per
        Fields over which the count is a mean.
    """
    if measure.name == "Background":
        signal = wells[f"Signal_{channel}"] if f"Signal_{channel}" in wells else wells[f"Brightest_{channel}"]
        usual = float(signal.median()) if signal.notna().any() else 0.0
        return BACKGROUND_OF_SIGNAL * usual
    if measure.name == "Cells":
        return max(-float(np.log(1 - FEWER_CELLS)), 3 / float(np.sqrt(max(centre * per, 1.0))))
    return measure.floor
