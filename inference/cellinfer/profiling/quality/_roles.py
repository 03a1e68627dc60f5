"""Which wells are controls, and which got the same treatment."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from cellinfer.assays.platemap import cells_equal, join_platemap, metadata_column, read_platemap
from cellinfer.errors import InputError
from cellinfer.profiling.rows import existing_rows

ROLE, TREATMENT = "role", "treatment"
NEGATIVE, POSITIVE = "negative", "positive"


@dataclass(frozen=True, slots=True)
class Roles:
    """How to tell controls and treatments; see `cellinfer.profiling.quality.quality_control`."""

    layout: str | os.PathLike[str] | None = None
    control_column: str | None = None
    negative: str | float | None = None
    positive: str | float | None = None
    controls: str | None = None
    treatment_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = (self.negative, self.positive)
        if self.control_column is None and any(value is not None for value in values):
            raise InputError("which column marks the controls? Say --control-column with --negative")
        if self.control_column is not None and self.negative is None:
            raise InputError("what do negative controls have in --control-column? Say --negative")
        if self.control_column is not None and self.controls is not None:
            raise InputError("--controls and --control-column say the same thing: give one of them")
        if self.layout is None and (self.control_column is not None or self.treatment_columns):
            raise InputError("controls and treatments are columns of a plate map: say --layout")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        options = asdict(self)
        options["layout"] = None if self.layout is None else str(self.layout)
        options["treatment_columns"] = list(self.treatment_columns)
        return options


def with_roles(wells: pd.DataFrame, roles: Roles) -> tuple[pd.DataFrame, list[str]]:
    """Mark controls in the column `role`, and wells of one treatment by one text in `treatment`.

    Raises
    ------
    InputError
        If the plate map lacks a column, or no well is a control of the kind asked for.
    """
    notes: list[str] = []
    joined = wells
    if roles.layout is not None:
        joined, more = join_platemap(wells, read_platemap(roles.layout))
        notes.extend(more)
    is_negative, is_positive = (np.zeros(len(wells), bool) for _ in range(2))
    if roles.control_column is not None:
        column = joined[metadata_column(joined, roles.control_column)]
        assert roles.negative is not None
        is_negative = cells_equal(column, roles.negative)
        if roles.positive is not None:
            is_positive = cells_equal(column, roles.positive)
        for value, found in ((roles.negative, is_negative), (roles.positive, is_positive)):
            if value is not None and not found.any():
                raise InputError(f"no well of the run has {value} in {roles.control_column} (a control)")
        if (is_negative & is_positive).any():
            raise InputError(f"negative and positive controls are the same: {roles.negative}")
    elif roles.controls is not None:
        is_negative = existing_rows(joined, roles.controls, what="controls")
    role = np.select([is_negative, is_positive], [NEGATIVE, POSITIVE], "")
    treatment = np.where(is_positive, POSITIVE, "").astype(object)
    if roles.treatment_columns:
        columns = [joined[metadata_column(joined, name)] for name in roles.treatment_columns]
        known = ~pd.concat(columns, axis=1).isna().any(axis=1).to_numpy()
        texts = ["\t".join(map(str, cells)) for cells in zip(*columns, strict=True)]
        treatment = np.where(known, np.array(texts, object), treatment)
    return wells.assign(**{ROLE: role, TREATMENT: treatment}), notes
