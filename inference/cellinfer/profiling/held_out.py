"""Keep some controls out of what profiles learn from controls, so that treatments can be compared with them.

Centres, spreads and sphering that are learnt from controls fit the noise of these controls, which come out smaller, and
all other wells far from them: also those whose treatment does nothing. To learn anew for each control from the others
(cross-fitting) mends the length of a control's profile, and not what it is similar to: all treated wells went through
what was learnt with that control too, so that next to nothing is left of them in the directions that controls span, and
a control has nothing outside of these. On pure noise (4 plates of 6 controls, 400 features) 95 % of treatments come out
significant with cross-fitting and without. So treated wells and the controls that they are compared with must go
through one transformation that knew none of them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, WELL
from cellinfer.profiling.rows import Rows, choose_rows

HELD_OUT = "Metadata_Held_Out"
"""Column of `cellinfer profile` that is true for controls which nothing was learnt from."""
_LEAST = 2
"""Controls of a plate that stay to be learnt from: a spread takes two."""

Mask = npt.NDArray[np.bool_]


def hold_out(profiles: pd.DataFrame, controls: Rows, share: float) -> Mask:
    """Choose the controls of each plate that nothing is to be learnt from.

    Parameters
    ----------
    profiles
        Table with `Metadata_Plate` and `Metadata_Well`; several rows of a well (sites, times) stay together.
    controls
        Which rows are controls: a query or a mask.
    share
        Part of the control wells of each plate, above 0 and below 1, rounded, but at least one well; two stay, so that
        plates with fewer than three have none held out.

    Returns
    -------
    (rows,) bool
        True for rows of control wells that are held out. Which ones is decided by a hash of the names of plate and
        well: neither the order of rows nor other plates or wells matter, and no place on plates is preferred.

    Raises
    ------
    InputError
        If the share is not between 0 and 1, a column is missing, or no plate has three control wells.
    """
    if not 0 < share < 1:
        raise InputError(f"The share of controls to hold out must be above 0 and below 1, and is {share}.")
    if missing := [name for name in (PLATE, WELL) if name not in profiles]:
        raise InputError(f"The table has no column {missing[0]!r}: controls are held out by plate and well.")
    mask = choose_rows(profiles, controls, what="controls")
    names = pd.DataFrame({name: profiles[name].astype(str) for name in (PLATE, WELL)}).reset_index(drop=True)
    wells = names[mask].drop_duplicates()
    wells = wells.assign(place=[_place(*well) for well in wells.itertuples(index=False)]).sort_values("place")
    plates = wells.groupby(PLATE)
    count = plates[WELL].transform("size").to_numpy()
    wanted = np.minimum(np.maximum(np.floor(share * count + 0.5), 1), count - _LEAST)
    chosen = wells[plates.cumcount().to_numpy() < wanted]
    if not len(chosen):
        raise InputError("No plate has three control wells, of which one could be held out: name more controls.")
    keys = pd.MultiIndex.from_frame(names)
    return np.asarray(mask & keys.isin(pd.MultiIndex.from_frame(chosen[[PLATE, WELL]])))


def is_held_out(profiles: pd.DataFrame) -> Mask:
    """Read which rows a table marks as controls that nothing was learnt from; none if it has no such column."""
    if HELD_OUT not in profiles:
        return np.zeros(len(profiles), dtype=bool)
    return np.asarray(profiles[HELD_OUT].astype(str).str.casefold().isin(("true", "1", "1.0")), dtype=bool)


def _place(plate: str, well: str) -> bytes:
    return hashlib.blake2b(f"{plate}\t{well}".encode(), digest_size=16).digest()
