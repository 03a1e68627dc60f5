"""What is learnt from: compounds with their labels, folds, and what networks see of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.activity.chemistry import fingerprints
from cellinfer.activity.columns import COMPOUND, FOLD, FOLDS, SMILES
from cellinfer.activity.graphs import MoleculeGraphs, message_tables, read_graphs
from cellinfer.activity.profiles import read_profiles
from cellinfer.activity.tables import read_table
from cellinfer.errors import InputError
from cellinfer.profiling.columns import is_metadata
from numpy.typing import ArrayLike, NDArray

from cellinfer_training.activity.networks import GRAPH, MORGAN

RADIUS, BITS = 2, 2048
_SMILES = (SMILES, "SMILES", "Smiles", "smiles")


@dataclass(frozen=True)
class ActivityData:
    """Compounds and what is known of them.

    Attributes
    ----------
    compounds, smiles
        `(n,)` names and structures; no structures at all where none are known, and only profiles can be learnt from.
    assays
        Names of assays.
    labels
        `(n, assays)` int8: 1 hit, 0 inactive, -1 not tested.
    folds
        `(n,)` fold of each compound, -1: in none.
    profiles
        Modality -> `(n, features)` float32; a compound without profile has NaN throughout.
    features
        Modality -> names of its features.
    made
        Modality -> how `cellinfer profile` made its profiles, where it did.
    notes
        What a user should know of what was read.
    """

    compounds: tuple[str, ...]
    smiles: tuple[str, ...]
    assays: tuple[str, ...]
    labels: NDArray[np.int8]
    folds: NDArray[np.int64]
    profiles: Mapping[str, NDArray[np.float32]]
    features: Mapping[str, tuple[str, ...]]
    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of compounds."""
        return len(self.compounds)

    @cached_property
    def graphs(self) -> MoleculeGraphs:
        """Graphs of all structures, read once."""
        return read_graphs(self.smiles)

    @cached_property
    def packed(self) -> NDArray[np.uint64]:
        """`(n, 32)` Morgan fingerprints of all structures, packed."""
        return fingerprints(self.smiles, radius=RADIUS, bits=BITS)

    @cached_property
    def sha256(self) -> str:
        """Digest of names, structures, labels and profiles."""
        digest = hashlib.sha256("\n".join([*self.compounds, *self.smiles, *self.assays]).encode())
        for array in (self.labels, *self.profiles.values()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def widths(self, modalities: Sequence[str]) -> dict[str, int]:
        """Return modalities with how many numbers they have, as `ActivityNetwork` takes them.

        Raises
        ------
        InputError
            If there is no such modality.
        """
        known = ({GRAPH: 0, MORGAN: BITS} if self.smiles else {}) | {
            name: values.shape[1] for name, values in self.profiles.items()
        }
        if unknown := [name for name in modalities if name not in known]:
            there = f"there is {', '.join(known)}" if known else "there are neither structures nor profiles"
            raise InputError(f"There is no modality {unknown[0]!r}: {there}.")
        return {name: known[name] for name in modalities}

    def complete(self, modalities: Sequence[str]) -> NDArray[np.bool_]:
        """Return which compounds have all of these modalities."""
        found = np.ones(len(self), bool)
        for name in modalities:
            if name in self.profiles:
                found &= np.isfinite(self.profiles[name]).any(axis=1)
        return found

    def inputs(
        self, rows: NDArray[np.integer], modalities: Sequence[str], depth: int, merge: bool = True
    ) -> dict[str, NDArray[np.generic]]:
        """Return what a network of these modalities takes, for some compounds; see `message_tables` for `merge`."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name in modalities:
            if name == GRAPH:
                arrays |= message_tables(self.graphs.take(rows), depth, merge).arrays()
            elif name == MORGAN:
                arrays[name] = np.unpackbits(self.packed[rows].view(np.uint8), axis=1, bitorder="little")
            else:
                arrays[name] = self.profiles[name][rows]
        return arrays

    def tested(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the labels of some compounds as a loss takes them: NaN where not tested."""
        known = self.labels[rows]
        labels: NDArray[np.float32] = known.astype(np.float32)
        labels[known < 0] = np.nan
        return labels


def make_data(
    smiles: Sequence[str] | None,
    labels: ArrayLike,
    assays: Sequence[str],
    folds: ArrayLike | None = None,
    compounds: Sequence[str] | None = None,
    profiles: Mapping[str, pd.DataFrame] | None = None,
) -> ActivityData:
    """Bring compounds, labels, folds and profiles together.

    Parameters
    ----------
    smiles, labels, assays, folds, compounds
        See `ActivityData`; compounds are called by their structure, and are in no fold, if not said otherwise. Without
        structures they need names.
    profiles
        Modality -> features (columns) by compound (index).

    Raises
    ------
    InputError
        If they do not fit, nothing is labelled, or a modality has two profiles of one compound.
    """
    given = np.asarray(labels, np.int8)
    names = tuple(compounds if compounds is not None else smiles or ())
    drawn = np.full(len(names), -1, np.int64) if folds is None else np.asarray(folds, np.int64)
    if given.shape != (len(names), len(assays)) or drawn.shape != (len(names),) or len(smiles or names) != len(names):
        raise InputError(f"{len(names)} compounds and {len(assays)} assays have labels of shape {given.shape}.")
    if not np.isin(given, (-1, 0, 1)).all():
        raise InputError("Labels are 1 (hit), 0 (inactive) or -1 (not tested).")
    if not (given >= 0).any():
        raise InputError("No compound is labelled in any assay: there is nothing to learn.")
    values, features = {}, {}
    for name, table in (profiles or {}).items():
        if name in (GRAPH, MORGAN) or not name.isidentifier() or name.startswith(_RESERVED):
            raise InputError(f"Profiles cannot be called {name!r}: choose a plain word, such as morphology.")
        if table.index.has_duplicates:
            twice = table.index[table.index.duplicated()][0]
            raise InputError(
                f"The profiles {name!r} have {twice!r} more than once: aggregate them to one per compound."
            )
        values[name] = table.reindex(list(names)).to_numpy(np.float32, copy=True)
        features[name] = tuple(map(str, table.columns))
        if not np.isfinite(values[name]).any():
            raise InputError(f"No compound has a profile of {name!r}: do both tables call compounds by the same names?")
    return ActivityData(names, tuple(smiles or ()), tuple(assays), given, drawn, values, features)


_RESERVED = ("own_", "before_", "starts", "atoms", "around", "members", "sizes", "probability", "spread")


def read_data(
    matrix: Path,
    folds: Path | None = None,
    profiles: Mapping[str, Path] | None = None,
    join: str | None = None,
) -> ActivityData:
    """Read what is learnt from.

    Parameters
    ----------
    matrix
        Table (Parquet or CSV) with a column of SMILES, and one per assay (1, 0, or nothing); columns that begin with
        `Metadata_` are no assays. `cellinfer activity prepare` writes one. Without SMILES it must have
        `Metadata_Compound`, and only profiles can be learnt from.
    folds
        Table with `Metadata_Compound` and `Fold`, as `cellinfer activity split` writes it.
    profiles
        Modality -> table with names of compounds and features, or folder that `cellinfer profile` wrote; see
        `cellinfer.activity.profiles.read_profiles`. Several rows of one compound become their mean.
    join
        Column of the profiles with names of compounds; None: found by its name.

    Raises
    ------
    InputError
        If a table cannot be read or does not have what it must.
    """
    table = _read(matrix)
    smiles = next((name for name in _SMILES if name in table), None)
    if smiles is None and not (profiles and COMPOUND in table):
        raise InputError(
            f"{matrix} has no column of SMILES, such as {SMILES}: without structures, compounds need {COMPOUND} and "
            "profiles."
        )
    names = [str(name) for name in table if name not in (smiles, COMPOUND) and not is_metadata(str(name))]
    if not names:
        raise InputError(f"{matrix} has no assays: every column says what a compound is.")
    labels = _labels(table, names, matrix)
    compounds = (table[COMPOUND] if COMPOUND in table else table[smiles]).astype(str).tolist()
    drawn = None if folds is None else _folds(_read(folds), compounds, folds)
    read = {name: read_profiles(path, name, join=join) for name, path in (profiles or {}).items()}
    tables = {name: each.table.set_axis(each.compounds) for name, each in read.items()}
    structures = None if smiles is None else table[smiles].astype(str).tolist()
    data = make_data(structures, labels, names, drawn, compounds, tables)
    made = {name: each.settings for name, each in read.items() if each.settings is not None}
    notes = [note for each in read.values() for note in each.notes]
    for name, each in read.items():
        if extra := int((~each.compounds.isin(compounds)).sum()):
            notes.append(f"{extra:,} of {len(each.compounds):,} profiles of {name!r} are of no compound of {matrix}.")
    return replace(data, made=made, notes=tuple(notes))


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"There is no table {path}.")
    table = read_table(path, texts=(COMPOUND,))
    if table.empty:
        raise InputError(f"{path} has no rows.")
    return table


def _labels(table: pd.DataFrame, names: Sequence[str], path: Path) -> NDArray[np.int8]:
    labels = np.full((len(table), len(names)), -1, np.int8)
    for place, name in enumerate(names):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        known = table[name].notna().to_numpy()
        if not np.isin(numbers[known], (0, 1)).all():
            raise InputError(f"{path} has other values than 1, 0 and nothing in {name!r}: is it an assay?")
        labels[known, place] = numbers[known]
    return labels


def _folds(table: pd.DataFrame, compounds: Sequence[str], path: Path) -> NDArray[np.int64]:
    column = next((name for name in FOLDS if name in table), None)
    if column is None or COMPOUND not in table:
        raise InputError(f"{path} must have the columns {COMPOUND} and {FOLD}.")
    names = table[COMPOUND].astype(str)
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if (np.isnan(numbers) & table[column].notna()).any() or (numbers % 1 > 0).any():
        raise InputError(f"{path} has folds that are no whole numbers in {column}: number them from 0 on.")
    values: NDArray[np.int64] = np.nan_to_num(numbers, nan=-1.0).astype(np.int64)
    if names.tolist() == list(compounds):
        return values
    if names.duplicated().any():
        raise InputError(f"{path} has {names[names.duplicated()].iloc[0]!r} more than once: give a row per compound.")
    found = pd.Series(values, index=names).reindex(list(compounds))
    if found.isna().any():
        raise InputError(f"{path} has no fold of {found.index[found.isna()][0]!r}: divide the same matrix.")
    return found.to_numpy(np.int64)
