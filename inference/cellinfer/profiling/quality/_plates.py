"""What holds for a plate as a whole: trends to its edge, differences from other plates, saturation everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from cellinfer.profiling.columns import WELL
from cellinfer.profiling.quality._measures import GROUP, MEASURES, SATURATED_PERCENT, Measure, floors
from cellinfer.profiling.quality._outliers import FEWEST, MAD_TO_SD
from cellinfer.profiling.quality._roles import NEGATIVE, POSITIVE, ROLE
from cellinfer.wells import PLATE_FORMATS, parse_well, plate_size

_P = 0.001
_PLATE_DEVIATIONS = 6.0
_TOLD = ("Cells", "Focus", "Background", "Signal")
_COLUMNS = ("plate", "measure", "wells", "n_edge", "n_inner", "edge", "inner", "deviations", "p")


def edge_trends(wells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Compare wells at the border of each plate with those inside it.

    Negative controls are compared among themselves where six lie on either side, else all wells but positive controls.

    Parameters
    ----------
    wells
        Wells with measures, `group` and `role`.

    Returns
    -------
    DataFrame
        A row per plate and measure: medians, their difference in robust standard deviations of the inner wells, and
        p of Mann and Whitney's two-sided test.
    list of str
        A note for each that differs by more than one deviation with p < 0.001.
    """
    rows, notes = [], []
    for group, plate in wells.groupby(GROUP, sort=False):
        edge = pd.Series(_on_edge(plate[WELL]), index=plate.index)
        controls = plate[ROLE] == NEGATIVE
        alone = all((controls & side).sum() >= FEWEST for side in (edge, ~edge))
        chosen = controls if alone else plate[ROLE] != POSITIVE
        kind = "negative controls" if alone else "wells"
        for measure in MEASURES:
            columns = [c for c in map(str, plate) if c == measure.name or c.startswith(f"{measure.name}_")]
            for column in columns if measure.name in _TOLD else ():
                outer, inner = (plate.loc[chosen & side, column].dropna().to_numpy() for side in (edge, ~edge))
                if min(len(outer), len(inner)) < FEWEST:
                    continue
                median, other = float(np.median(inner)), float(np.median(outer))
                spread = MAD_TO_SD * float(np.median(np.abs(inner - median)))
                p = float(mannwhitneyu(outer, inner).pvalue) if np.ptp([*outer, *inner]) > 0 else 1.0
                shift = (other - median) / spread if spread > 0 else np.nan
                rows.append((str(group), column, kind, len(outer), len(inner), other, median, shift, p))
                if p < _P and abs(shift) > 1:
                    channel = column[len(measure.name) + 1 :]
                    notes.append(
                        f"plate {group}, edge: {measure.text.format(channel)} of {kind} is {other:.3g} at the border "
                        f"and {median:.3g} inside ({shift:+.1f} deviations, p = {p:.1g}); no well is flagged for it"
                        + ("" if alone else ", and treatments may lie behind it")
                    )
    return pd.DataFrame(rows, columns=_COLUMNS), notes


def _on_edge(wells: pd.Series) -> list[bool]:
    form = PLATE_FORMATS[plate_size(wells)]
    places = [parse_well(well) for well in wells]
    return [row in (1, form.rows) or column in (1, form.columns) for row, column in places]


def plate_shifts(wells: pd.DataFrame) -> list[str]:
    """Say which plates differ as a whole from the other plates in focus, background, signal or count.

    A plate differs if its median lies farther from the median of the plates (of two, from the first) than six robust
    standard deviations of its own wells, and at least as far as a well would have to. No well is flagged for it: wells
    are compared within their plate.
    """
    notes = []
    groups = dict(iter(wells.groupby(GROUP, sort=False)))
    for measure in MEASURES if len(groups) > 1 else ():
        columns = [c for c in map(str, wells) if c == measure.name or c.startswith(f"{measure.name}_")]
        for column in columns if measure.name in _TOLD else ():
            values = {str(group): _scaled(plate[column], measure) for group, plate in groups.items()}
            medians = {group: float(own.median()) for group, own in values.items() if len(own) >= FEWEST}
            middle = float(np.median(list(medians.values()))) if len(medians) > 2 else next(iter(medians.values()), 0.0)
            for group, median in medians.items():
                spread = MAD_TO_SD * float((values[group] - median).abs().median())
                own, theirs = (float(np.exp(each)) if measure.logarithmic else each for each in (median, middle))
                channel = column[len(measure.name) + 1 :]
                if abs(median - middle) > max(
                    _PLATE_DEVIATIONS * spread, floors(measure, channel, groups[group], theirs)
                ):
                    notes.append(
                        f"plate {group} differs as a whole: {measure.text.format(channel)} {own:.3g}, "
                        f"{'the other plate' if len(medians) < 3 else 'median of the plates'} {theirs:.3g}; wells are "
                        "compared within their plate, so none is flagged for it"
                    )
    return notes


def _scaled(values: pd.Series, measure: Measure) -> pd.Series:
    known = values.dropna().astype(np.float64)
    return known[known > 0].apply(np.log) if measure.logarithmic else known


def saturated_plates(limits: pd.DataFrame) -> list[str]:
    """Say of which plates the images are saturated as a rule: there no well stands out."""
    found = limits[limits["measure"].str.startswith("Saturation_") & (limits["level"] == "field")]
    found = found[found["centre"] > SATURATED_PERCENT].drop_duplicates(["plate", "measure"])
    return [
        f"plate {plate}: {share:.3g} % of the pixels of {str(measure).removeprefix('Saturation_')} are saturated in "
        "half of the fields, so the exposure is too long for all; no well is flagged for what all have"
        for plate, measure, share in zip(found["plate"], found["measure"], found["centre"], strict=True)
    ]
