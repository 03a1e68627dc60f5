"""Which treatments do something: what a network for profiling is best taught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, feature_columns


def treatment_strength(
    wells: pd.DataFrame,
    treatment: str,
    control: str,
    features: Iterable[str] | None = None,
    over_plates: Literal["sum", "mean"] = "sum",
) -> pd.DataFrame:
    """Say how far each treatment's wells lie from the controls of their plates.

    On each plate, the median profile of the control wells is the origin; Euclidean distances of all wells to it are
    z-scored by mean and standard deviation of the controls' distances. A treatment's wells of one plate count with
    their mean, and plates are summed (as published), or averaged, which is fair to treatments on fewer plates.

    Parameters
    ----------
    wells
        Profiles of wells, one row each, with `Metadata_Plate`. Features should be on one scale, as after
        normalisation: the distance adds their squares.
    treatment
        Column that names the treatment.
    control
        Its value in negative controls.
    features
        See `cellinfer.profiling.columns.feature_columns`.
    over_plates
        `"sum"` or `"mean"`.

    Returns
    -------
    pandas.DataFrame
        One row per treatment, strongest first: `treatment`, `strength`, `plates`, `wells`.

    Raises
    ------
    InputError
        If a column is missing, or a plate has fewer than two control wells or controls that are all alike.
    """
    for column in (PLATE, treatment):
        if column not in wells.columns:
            raise InputError(f"The table has no column {column!r}.")
    if over_plates not in ("sum", "mean"):
        raise InputError(f"Strengths are joined over plates by sum or mean, not by {over_plates!r}.")
    names = feature_columns(wells, features)
    scored = []
    for plate, here in wells.groupby(PLATE, sort=True):
        untreated = (here[treatment].astype(str) == control).to_numpy()
        if untreated.sum() < 2:
            raise InputError(
                f"Plate {plate!r} has {untreated.sum()} wells of {control!r}: strengths need two at least."
            )
        values = here[names].to_numpy(np.float64)
        distances = np.sqrt(np.nansum((values - np.nanmedian(values[untreated], axis=0)) ** 2, axis=1))
        spread = distances[untreated].std(ddof=1)
        if not spread > 0:
            raise InputError(
                f"The wells of {control!r} on plate {plate!r} are all alike: strengths have no scale there."
            )
        z = (distances - distances[untreated].mean()) / spread
        scored.append(pd.DataFrame({"plate": plate, "treatment": here[treatment].astype(str).to_numpy(), "z": z}))
    table = pd.concat(scored, ignore_index=True)
    by_plate = table[table["treatment"] != control].groupby(["treatment", "plate"])["z"].agg(["mean", "size"])
    grouped = by_plate.reset_index().groupby("treatment")
    result = pd.DataFrame(
        {
            "strength": grouped["mean"].agg(over_plates),
            "plates": grouped["plate"].nunique(),
            "wells": grouped["size"].sum(),
        }
    )
    return result.sort_values("strength", ascending=False, kind="stable").reset_index()


def select_strong(strengths: pd.DataFrame, control: str, most: int | None = None, least: float = 0.0) -> list[str]:
    """Return the treatments to learn from, and the control, which is a class too.

    Parameters
    ----------
    strengths
        From `treatment_strength`.
    control
        Name of the negative control.
    most
        How many treatments at most; None: all.
    least
        Smallest strength.

    Raises
    ------
    InputError
        If none is left.
    """
    chosen = strengths.loc[strengths["strength"] >= least, "treatment"].tolist()[:most]
    if not chosen:
        raise InputError(f"No treatment has a strength of {least:g} or more: ask for less.")
    return [control, *chosen]
