"""Profiles as an evaluation takes them: read, checked, with finite features, at each level that there is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from cellinfer_kernels import grouped
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.files import sha256_of
from cellinfer.profiling.columns import PLATE, SITE, TIME, WELL, feature_columns, is_metadata, metadata_columns
from cellinfer.profiling.evaluation._asked import find_column, refuse_times
from cellinfer.profiling.held_out import is_held_out
from cellinfer.profiling.rows import existing_rows
from cellinfer.profiling.similarity import Metric, Precision

Mask = NDArray[np.bool_]
Level = Literal["treatment", "well", "image"]

CONTROL = "_control"
_HELD_OUT = "_held_out"
WELL_KEY = "_well"
_OTHER_NAMES = {PLATE: "Image_Metadata_Plate", WELL: "Image_Metadata_Well", SITE: "Image_Metadata_Site"}


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is asked of profiles, see `cellinfer.profiling.evaluation.evaluate_profiles`."""

    label: str | None
    treatment: str | None
    treatment_columns: tuple[str, ...]
    """What `treatment` was made of."""
    compound: str | None
    batch: str | None
    controls: str | None
    where: str | None
    level: Level
    controls_are_negatives: bool
    min_others: int
    metric: Metric
    precision: Precision
    draws: int
    permutations: int
    seed: int
    memory: int
    threads: int | None

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise InputError(f"There is no level {self.level!r}: choose one of {', '.join(get_args(Level))}.")
        if self.metric not in get_args(Metric):
            raise InputError(f"There is no metric {self.metric!r}: choose one of {', '.join(get_args(Metric))}.")
        if self.label is None and self.treatment is None:
            raise InputError(
                "Name the column with classes (label), the one that replicates share (treatment), or both."
            )
        if self.level != "treatment" and self.treatment is None:
            raise InputError(
                f"Rows are of level {self.level}: name the column or columns that replicates share (treatment), or say "
                "that rows are treatments (level treatment)."
            )
        if self.min_others < 1:
            raise InputError(f"A query needs at least one other of its class to find, not {self.min_others}.")


@dataclass(frozen=True, slots=True)
class Profiles:
    """Profiles of one level."""

    name: Level
    table: pd.DataFrame
    """Metadata, with `_control`, `_held_out` and, where wells are known, `_well`."""
    values: NDArray[np.float64]
    """`(rows, features)`, finite."""

    @property
    def control(self) -> Mask:
        """Which rows are controls."""
        return self.table[CONTROL].to_numpy(bool)

    @property
    def comparable(self) -> Mask:
        """Which controls treated rows can be compared with: those that nothing was learnt from, if any are marked."""
        held_out = self.control & self.table[_HELD_OUT].to_numpy(bool)
        return held_out if held_out.any() else self.control

    def where(self, rows: Mask) -> Profiles:
        """Return some rows."""
        return replace(self, table=self.table[rows].reset_index(drop=True), values=self.values[rows])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A table of profiles, ready to be evaluated."""

    levels: dict[Level, Profiles]
    """From that of the table up to treatments."""
    features: tuple[str, ...]
    options: EvaluationOptions
    """With the columns that were found."""
    notes: tuple[str, ...]


def read_profiles(source: pd.DataFrame | str | os.PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table, and say what it was: path and sha256 of a file, or just its shape.

    Raises
    ------
    InputError
        If the file is missing, of another kind, or cannot be read.
    """
    if isinstance(source, pd.DataFrame):
        return source, {"path": None, "sha256": None, "rows": len(source)}
    path = Path(source)
    if not path.is_file():
        raise InputError(f"There is no table {path}.")
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            table = pd.read_parquet(path)
        elif name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            table = pd.read_csv(path, sep="\t" if ".tsv" in name else ",", low_memory=False)
        else:
            raise InputError(
                f"{path} is no table of profiles: it must end in .parquet, .csv, .csv.gz, .tsv or .tsv.gz."
            )
    except (OSError, ValueError, EOFError) as error:  # those of pyarrow and pandas are ValueErrors
        raise InputError(f"{path} cannot be read: {error}") from error
    return table, {"path": str(path), "sha256": sha256_of(path), "rows": len(table)}


def prepare(table: pd.DataFrame, options: EvaluationOptions, features: Iterable[str] | None = None) -> Prepared:
    """Check a table and make its levels.

    Profiles of which more than half of the features are not finite are left out, then features that are not finite in
    any other. Rows of a well, or of an image, must be there once.

    Raises
    ------
    InputError
        If columns are missing or rows are there twice, a treatment has two classes, or nothing is left.
    """
    if not len(table):
        raise InputError("The table of profiles has no rows.")
    options = _with_columns(table, options)
    names = feature_columns(table, features)
    names = [name for name in names if name not in {*_named(options), *options.treatment_columns}]
    values, usable, kept, notes = _finite(table, names)
    metadata = table[metadata_columns(table) + [name for name in _named(options) if not is_metadata(name)]].reset_index(
        drop=True
    )
    asked = set(_named(options))
    metadata = metadata.assign(**{name: _without_empty(metadata[name]) for name in sorted(asked)})
    none = np.zeros(len(table), np.bool_)
    control = none if options.controls is None else existing_rows(table, options.controls, what="controls")
    columns: dict[str, NDArray[Any]] = {CONTROL: control, _HELD_OUT: is_held_out(table)}
    site, wells = _first(table, SITE), _wells(metadata)
    if options.level != "treatment":
        refuse_times(metadata, wells, options.treatment_columns, "well")
    else:
        treatments = None if options.treatment is None else metadata[options.treatment].where(~control)
        refuse_times(metadata, treatments, options.treatment_columns, "treatment")
    if wells is not None:
        if TIME in metadata and metadata[TIME].nunique(dropna=False) > 1:  # each a treatment of its own
            wells = wells + " " + metadata[TIME].astype(str)
        columns[WELL_KEY] = wells.to_numpy()
    metadata = metadata.assign(**columns)[usable].reset_index(drop=True)
    base = Profiles(options.level, metadata, values)
    _refuse_twice(base, options, site)
    if twice := len(values) - len({hash(row.tobytes()) for row in values}):
        notes.append(f"{twice} profiles are equal to others: retrieval finds copies at once")
    levels: dict[Level, Profiles] = {options.level: base}
    if options.level == "image":
        if wells is None:
            raise InputError(f"Images of one well must not find each other: the table needs the column {WELL}.")
        levels["well"] = _mean(base, "well", metadata[WELL_KEY])
    if options.level != "treatment":
        levels["treatment"] = _treatments(levels["well"], options)
    return Prepared(levels, tuple(kept), options, tuple(notes))


def _named(options: EvaluationOptions) -> list[str]:
    """Return the columns that were named, each once."""
    asked = (options.label, options.treatment, options.compound, options.batch)
    return list(dict.fromkeys(name for name in asked if name is not None))


def _wells(table: pd.DataFrame) -> pd.Series | None:
    """Return plate and well of each row as text; None if no column says the well."""
    plate, well = _first(table, PLATE), _first(table, WELL)
    if well is None:
        return None
    wells = table[well].astype(str)
    return wells if plate is None else table[plate].astype(str) + " " + wells


def _first(table: pd.DataFrame, name: str) -> str | None:
    return next((one for one in (name, _OTHER_NAMES[name]) if one in table.columns), None)


def _with_columns(table: pd.DataFrame, options: EvaluationOptions) -> EvaluationOptions:
    """Check the columns named; the batch is the plate, where there is one, unless said otherwise."""
    label, treatment, compound, batch = (
        name if (name := getattr(options, what)) is None else find_column(table, name, what)
        for what in ("label", "treatment", "compound", "batch")
    )
    options = replace(options, label=label, treatment=treatment, compound=compound, batch=batch)
    if options.label is not None and table[options.label].isna().all():
        raise InputError(f"The column {options.label!r} (label) is empty.")
    if options.label is not None and options.label == (options.compound or options.treatment):
        raise InputError(
            f"Classes bring different compounds together, and {options.label!r} (label) is the compound itself: name a "
            "column such as the mechanism, or no label, to look at replicates alone."
        )
    return replace(options, batch=options.batch or _first(table, PLATE))


def _without_empty(column: pd.Series) -> pd.Series:
    """Empty text says as little as a missing value; categories become what they name."""
    values = column.astype(object)
    return values.where(values.notna() & (values.astype(str).str.strip() != ""), None)


def _finite(table: pd.DataFrame, names: Sequence[str]) -> tuple[NDArray[np.float64], Mask, list[str], list[str]]:
    values = table[list(names)].to_numpy(np.float64, na_value=np.nan)
    finite = np.isfinite(values)
    usable = finite.mean(axis=1) >= 0.5
    kept = finite[usable].all(axis=0)
    notes = []
    if not usable.all():
        notes.append(f"{int((~usable).sum())} profiles were left out: most of their features are missing or infinite")
    if not kept.all():
        notes.append(
            f"{int((~kept).sum())} of {len(names)} features were left out: missing or infinite in some profiles"
        )
    if not usable.any() or not kept.any():
        raise InputError("No feature is finite in all profiles: impute or leave out what is missing first.")
    values = values[usable] if kept.all() else values[np.ix_(usable, kept)]
    return values, usable, [name for name, good in zip(names, kept, strict=True) if good], notes


def _refuse_twice(base: Profiles, options: EvaluationOptions, site: str | None) -> None:
    table = base.table
    keys = {
        "treatment": [options.treatment] if options.treatment else [],
        "well": [WELL_KEY] if WELL_KEY in table else [],
        "image": [WELL_KEY, site] if site and WELL_KEY in table else [],
    }[base.name]
    if not keys:
        return
    rows = ~base.control if base.name == "treatment" else np.ones(len(table), bool)
    twice = table[rows & table.duplicated(keys).to_numpy()]
    if len(twice):
        one = " ".join(str(twice[key].iloc[0]) for key in keys)
        remedy = {"treatment": "well", "well": "image", "image": "image"}[base.name]
        raise InputError(
            f"{len(twice)} rows are of a {base.name} that is there before, such as {one}: aggregate them first"
            + (f", or say that rows are of level {remedy}." if remedy != base.name else ".")
        )


def _mean(level: Profiles, name: Level, keys: pd.Series) -> Profiles:
    """Mean of the rows of each key, with the metadata of the first; in order of appearance."""
    codes, found = pd.factorize(keys)
    firsts = np.unique(codes[codes >= 0], return_index=True)[1]
    means = grouped.means(level.values.T, grouped.arrange(codes, len(found))).T
    rows = np.flatnonzero(codes >= 0)[firsts]
    return Profiles(name, level.table.iloc[rows].reset_index(drop=True), np.ascontiguousarray(means))


def _treatments(wells: Profiles, options: EvaluationOptions) -> Profiles:
    """Mean profile of each treatment, and of the controls of each batch."""
    table, treatment = wells.table, str(options.treatment)
    for name in (options.label, options.compound):
        if name is None or name == treatment:
            continue
        treated = table[~wells.control & table[treatment].notna().to_numpy()]
        kinds = treated.groupby(treatment)[name].nunique(dropna=False)
        if (kinds > 1).any():
            one = kinds.index[kinds > 1][0]
            values = ", ".join(map(str, treated.loc[treated[treatment] == one, name].unique()[:3]))
            raise InputError(f"The treatment {one} has more than one {name}: {values}.")
    keys = table[treatment].astype(object).where(~wells.control)
    if options.batch is not None:
        keys = keys.where(~wells.control, [("control", batch) for batch in table[options.batch]])
    else:
        keys = keys.where(~wells.control, "control")
    means = _mean(wells, "treatment", keys)
    if options.batch is None:
        return means
    codes, found = pd.factorize(keys)
    batches: list[set[str]] = [set() for _ in found]
    for code, batch in zip(codes, table[options.batch], strict=True):
        if code >= 0 and pd.notna(batch):
            batches[code].add(str(batch))
    several = pd.Series([frozenset(one) for one in batches], dtype=object)
    return replace(means, table=means.table.assign(**{options.batch: several}))
