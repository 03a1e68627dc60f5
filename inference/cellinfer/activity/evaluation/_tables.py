"""What is judged, and by what: predictions, labels, folds, published figures, types of assays; read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer.activity.columns import COMPOUND, FOLDS
from cellinfer.activity.metrics import AUPRC, AUROC, FRACTIONS
from cellinfer.activity.tables import read_table as read_file
from cellinfer.errors import InputError
from cellinfer.files import plain_text
from cellinfer.profiling.columns import is_metadata
from cellinfer.profiling.rows import examples

METRICS = (AUROC, AUPRC, *(f"EF{round(100 * part)}" for part in FRACTIONS))
Table = str | os.PathLike[str] | pd.DataFrame
"""A file (Parquet, CSV, TSV; also `.gz`) or a table."""
Tables = Table | Sequence[Table]

_NO_ASSAYS = ("SMILES", "Smiles", "smiles", *FOLDS)
_SPREAD = "_spread"
_ASSAYS = ("assay", "assay_id", "assays")
_MODALITIES = ("modality", "descriptor", "model")
_SPELLINGS = {
    AUROC: ("auroc", "auc", "roc_auc"),
    AUPRC: ("auprc", "average_precision"),
    **{name: (name.lower(),) for name in METRICS[2:]},
    "n_hits": ("n_hits", "hits"),
    "n_inactive": ("n_inactive", "inactive"),
}


@dataclass(frozen=True)
class Judged:
    """Predictions of several modalities beside the labels they are judged by.

    Attributes
    ----------
    compounds, assays
        Names; the compounds are those that have labels and are in a fold.
    labels
        `(n, assays)` int8: 1 hit, 0 inactive, -1 not tested.
    folds
        `(n,)` names of folds.
    probabilities
        Modality -> `(n, assays)`, NaN where it says nothing.
    """

    compounds: tuple[str, ...]
    assays: tuple[str, ...]
    labels: NDArray[np.int8]
    folds: NDArray[np.object_]
    probabilities: Mapping[str, NDArray[np.float64]]

    @property
    def fold_names(self) -> list[str]:
        """Folds in order: by number, where they are numbers."""
        return sorted(set(self.folds.tolist()), key=by_number)

    def covers(self, modality: str) -> NDArray[np.bool_]:
        """Return which assays a modality says anything about."""
        return np.asarray(np.isfinite(self.probabilities[modality]).any(axis=0))


@dataclass
class Found:
    """What reading gives besides: notes, counts, and where it came from."""

    notes: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    paths: list[tuple[str, Path]] = field(default_factory=list)

    def path(self, role: str, table: Table) -> None:
        """Remember an input that is a file."""
        if not isinstance(table, pd.DataFrame):
            self.paths.append((role, Path(table)))


def by_number(name: str) -> tuple[bool, int, str]:
    """Sort names of folds: numbers first, as numbers."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def as_list(tables: Tables) -> list[Table]:
    """Return one table or several as several."""
    return list(tables) if isinstance(tables, Sequence) and not isinstance(tables, str) else [tables]


def called(table: Table, role: str) -> str:
    """Say which table it is."""
    return f"The table of {role}" if isinstance(table, pd.DataFrame) else str(table)


def read_table(table: Table, role: str, texts: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table.

    Parameters
    ----------
    table
        See `Table`.
    role
        What an error calls it.
    texts
        Columns with names, which may look like numbers.

    Raises
    ------
    InputError
        If there is none, or it cannot be read, or is empty.
    """
    name = called(table, role)
    if isinstance(table, pd.DataFrame):
        read = table.reset_index() if table.index.name in texts else table
    else:
        path = Path(table)
        if not path.is_file():
            raise InputError(f"There is no table of {role} {path}.")
        read = read_file(path, texts=texts)
    if read.empty:
        raise InputError(f"{name} has no rows.")
    names = pd.Index([str(one) for one in read.columns])
    if names.has_duplicates:
        raise InputError(f"{name} has the column {names[names.duplicated()][0]!r} more than once.")
    return read.set_axis(names, axis=1)


def names_of(column: pd.Series[Any]) -> list[str]:
    """Return names as text, without the apostrophe that keeps spreadsheets from taking them for formulas."""
    texts = column.astype(str).tolist()
    return [text[1:] if text.startswith("'") and plain_text(text[1:]) == text else text for text in texts]


def read_labels(matrix: Table, join: str) -> pd.DataFrame:
    """Read the matrix of labels: assays by compound, int8 with -1 where not tested.

    Raises
    ------
    InputError
        If it cannot be read, names a compound twice, or has anything but 1, 0 and nothing.
    """
    table, name = read_table(matrix, "labels", (join,)), called(matrix, "labels")
    compounds = _compounds(table, join, name)
    if compounds.has_duplicates:
        twice = compounds[compounds.duplicated()][0]
        raise InputError(f"{name} has {twice!r} more than once: merge duplicates with `cellinfer activity prepare`.")
    assays = [one for one in map(str, table) if one != join and one not in _NO_ASSAYS and not is_metadata(one)]
    if not assays:
        raise InputError(f"{name} has no assays: every column says what a compound is.")
    labels = np.full((len(table), len(assays)), -1, np.int8)
    for place, assay in enumerate(assays):
        known = table[assay].notna().to_numpy()
        numbers = pd.to_numeric(table[assay], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        if not np.isin(numbers[known], (0, 1)).all():
            raise InputError(f"{name} has other values than 1, 0 and nothing in {assay!r}: is it an assay?")
        labels[known, place] = numbers[known]
    return pd.DataFrame(labels, index=compounds, columns=assays)


def read_folds(folds: Table, join: str) -> pd.Series[Any]:
    """Read the fold of each compound; compounds in no fold are left out.

    Raises
    ------
    InputError
        If it cannot be read, or names a compound twice.
    """
    table, name = read_table(folds, "folds", (join, *FOLDS)), called(folds, "folds")
    column = next((one for one in FOLDS if one in table), None)
    if column is None:
        raise InputError(f"{name} has no column {FOLDS[0]}: give what `cellinfer activity split` wrote.")
    compounds = _compounds(table, join, name)
    if compounds.has_duplicates:
        raise InputError(
            f"{name} has {compounds[compounds.duplicated()][0]!r} more than once: give a row per compound."
        )
    return pd.Series(_fold_names(table[column]), index=compounds, dtype=object).dropna()


def read_predictions(name: str, tables: Tables, join: str, folds: pd.Series[Any] | None, found: Found) -> pd.DataFrame:
    """Read the predictions of one modality: probabilities by compound, with the column `Fold` in front.

    A table's own column of folds counts; else the table of folds; else every table is a fold.

    Raises
    ------
    InputError
        If they cannot be read, are no probabilities, or predict a compound twice.
    """
    parts = []
    unfolded = 0
    every = as_list(tables)
    for place, given in enumerate(every):
        found.path(f"predictions of {name}", given)
        part = _probabilities(given, join, f"predictions of {name}")
        own = part.pop(FOLDS[0])
        if own.isna().all() and folds is None:
            own = pd.Series(str(place), index=part.index, dtype=object)
            unfolded += 1
        elif folds is not None:
            said = folds.reindex(part.index)
            if (wrong := (own.notna() & said.notna() & (own != said))).any():
                raise InputError(
                    f"{called(given, f'predictions of {name}')} has {wrong.index[wrong][0]!r} in another fold than the "
                    "table of folds: give the folds the model was trained by."
                )
            own = own.where(own.notna(), said)
        parts.append(pd.concat([own.rename(FOLDS[0]), part], axis=1))
    if unfolded:
        found.notes.append(
            f"{name}: {unfolded} tables say nothing of folds, and are taken for one each; whether a model had learnt "
            "from what it is judged on cannot be seen."
        )
    whole = pd.concat(parts)
    if (same := whole.reset_index(names=COMPOUND).duplicated().to_numpy()).any():
        found.notes.append(f"{name}: {int(same.sum())} rows that are there twice, word for word, count once.")
        whole = whole[~same]
    if whole.index.has_duplicates:
        twice = whole.index[whole.index.duplicated()].unique()
        raise InputError(
            f"Predictions of {name} have {len(twice)} compounds more than once ({examples(twice.tolist())}): give one "
            "prediction per compound, of the fold it was left out in."
        )
    if lost := int(whole[FOLDS[0]].isna().sum()):
        if lost == len(whole):
            raise InputError(
                f"No compound of the predictions of {name} ({examples(whole.index.tolist())}) is in a fold: do both "
                "tables call compounds by the same names?"
            )
        found.notes.append(f"{name}: {lost} predicted compounds are in no fold, and are not judged.")
    return whole[whole[FOLDS[0]].notna()]


def read_validation(
    name: str, tables: Tables, predictions: Tables, join: str, folds: pd.Series[Any] | None, found: Found
) -> dict[str, pd.DataFrame]:
    """Read, for each fold that is judged, what one modality's model of that fold says of its validation compounds.

    The column `Fold` of a validation table is the fold that the model left out; without one, a table belongs to the
    table of predictions in the same place.

    Raises
    ------
    InputError
        If they cannot be read, or it cannot be told which fold they belong to.
    """
    given, beside = as_list(tables), as_list(predictions)
    result: dict[str, pd.DataFrame] = {}
    for place, one in enumerate(given):
        role = f"validation of {name}"
        found.path(role, one)
        table = _probabilities(one, join, role)
        own = table.pop(FOLDS[0])
        if own.notna().all():
            parts = {str(fold): table[(own == fold).to_numpy()] for fold in own.unique()}
        else:
            if len(given) != len(beside):
                raise InputError(
                    f"{name} has {len(beside)} tables of predictions and {len(given)} of validation: give one for "
                    f"each, in the same order, or a column {FOLDS[0]} with the fold the model left out."
                )
            quiet = Found()
            judged = read_predictions(name, [beside[place]], join, folds, quiet)[FOLDS[0]].unique()
            if folds is None and len(judged) == 1 and len(beside) > 1 and _lacks_folds(beside[place], join):
                judged = np.array([str(place)], dtype=object)
            if len(judged) != 1:
                raise InputError(
                    f"{called(one, role)} belongs to predictions of {len(judged)} folds: give a column {FOLDS[0]} "
                    "with the fold the model left out."
                )
            parts = {str(judged[0]): table}
        for fold, part in parts.items():
            if fold in result:
                raise InputError(f"There are two validations of {name} for fold {fold}: give one.")
            if part.index.has_duplicates:
                twice = part.index[part.index.duplicated()][0]
                raise InputError(f"{called(one, role)} has {twice!r} more than once: give one row per compound.")
            result[fold] = part
    return result


def align(predictions: Mapping[str, pd.DataFrame], labels: pd.DataFrame, found: Found) -> Judged:
    """Bring predictions and labels into one order, and count what is only on one side.

    Raises
    ------
    InputError
        If they have no assay or no compound in common, or modalities disagree about a compound's fold.
    """
    predicted = dict.fromkeys(one for table in predictions.values() for one in table.columns[1:])
    assays = [one for one in labels.columns if one in predicted]
    if not assays:
        raise InputError(
            f"No assay of the predictions ({examples(list(predicted))}) is in the matrix of labels "
            f"({examples(labels.columns.tolist())}): give the matrix the models were trained on."
        )
    if strangers := [one for one in predicted if one not in labels.columns]:
        found.notes.append(f"{len(strangers)} predicted assays are not in the matrix of labels: {examples(strangers)}.")
    if silent := [one for one in labels.columns if one not in predicted]:
        found.notes.append(f"{len(silent)} assays of the matrix are not predicted by anything: {examples(silent)}.")
    folds: dict[str, str] = {}
    for name, table in predictions.items():
        for compound, fold in table[FOLDS[0]].items():
            if folds.setdefault(str(compound), str(fold)) != fold:
                raise InputError(
                    f"{compound!r} is in fold {fold} of {name} and in fold {folds[str(compound)]} of another modality: "
                    "give the folds (--folds)."
                )
    compounds = [one for one in labels.index if one in folds]
    if not compounds:
        raise InputError(
            f"No predicted compound ({examples(list(folds))}) is in the matrix of labels, such as "
            f"{examples(labels.index.tolist())}: do both call compounds by the same names?"
        )
    if without := [one for one in folds if one not in labels.index]:
        found.notes.append(
            f"{len(without)} predicted compounds have no labels, and are not judged: {examples(without)}."
        )
    if lacking := len(labels) - len(compounds):
        found.notes.append(f"{lacking} of {len(labels)} compounds of the matrix are not predicted.")
    for name, table in predictions.items():
        missing = [one for one in assays if one not in table or table[one].isna().all()]
        if missing:
            found.notes.append(f"{name} lacks {len(missing)} of {len(assays)} assays: {examples(missing)}.")
    found.counts |= {
        "compounds": len(compounds),
        "assays": len(assays),
        "predicted_assays_without_labels": strangers,
        "assays_not_predicted": silent,
        "predicted_compounds_without_labels": len(without),
        "compounds_not_predicted": lacking,
    }
    return Judged(
        tuple(compounds),
        tuple(assays),
        labels.loc[compounds, assays].to_numpy(np.int8),
        np.array([folds[one] for one in compounds], dtype=object),
        {
            name: table.reindex(index=compounds, columns=assays).to_numpy(np.float64)
            for name, table in predictions.items()
        },
    )


def read_scores(given: Table, name: str | None, place: int | None, found: Found) -> pd.DataFrame:
    """Read figures that somebody else has worked out: a long table, a row per assay (and modality, and fold).

    Parameters
    ----------
    given
        Table with a column of assays, `AUROC` or `auc` and other figures; of modalities (`descriptor`) and folds,
        if it has them.
    name
        Of the modality, if there is no column of them.
    place
        Fold, if there is no column of folds; None: figures are over all folds.

    Returns
    -------
    DataFrame
        `modality`, `assay`, `fold` and what it has of the figures.

    Raises
    ------
    InputError
        If it cannot be read, or has no figures, or two of one assay.
    """
    role = "figures" if name is None else f"figures of {name}"
    table, title = read_table(given, role, (*_ASSAYS, *_MODALITIES)), called(given, role)
    found.path(role, given)
    lower = {one.lower(): one for one in reversed(table.columns)}
    assay = next((lower[one] for one in _ASSAYS if one in lower), None)
    modality = next((lower[one] for one in _MODALITIES if one in lower), None)
    fold = next((one for one in FOLDS if one in table), None)
    if assay is None:
        raise InputError(f"{title} has no column of assays: call it assay.")
    if name is None and modality is None:
        raise InputError(f"{title} does not say whose figures these are: give it as NAME=PATH.")
    if name is not None and modality is not None and table[modality].nunique() > 1:
        raise InputError(f"{title} has figures of several modalities ({modality}): give it without a name.")
    result = pd.DataFrame({"assay": names_of(table[assay])})
    result.insert(0, "modality", names_of(table[modality]) if name is None and modality is not None else name)
    result.insert(2, "fold", _fold_names(table[fold]) if fold else None if place is None else str(place))
    for figure, spellings in _SPELLINGS.items():
        column = next((lower[one] for one in spellings if one in lower), None)
        if column is not None:
            try:
                result[figure] = pd.to_numeric(table[column]).to_numpy(np.float64, na_value=np.nan)
            except (ValueError, TypeError) as error:
                raise InputError(f"{title} has something else than numbers in {column!r} ({error}).") from error
    if AUROC not in result:
        raise InputError(f"{title} has no column {AUROC} or auc.")
    for figure in (AUROC, AUPRC):
        if figure in result and not result[figure].dropna().between(0, 1).all():
            raise InputError(f"{title} has an {figure} that is not between 0 and 1: is it something else?")
    keys = ["modality", "assay", "fold"]
    if (twice := result.duplicated(keys)).any():
        row = result[twice].iloc[0]
        raise InputError(
            f"{title} has two rows of {row['modality']} and {row['assay']}: give one, or a column of folds."
        )
    return result


def read_types(assays: Table, names: Sequence[str], column: str | None, found: Found) -> dict[str, str]:
    """Read the types of assays; an assay that the table lacks, or has without a type, has none.

    Raises
    ------
    InputError
        If the table names none of the assays, or has no column of types.
    """
    table, title = read_table(assays, "assays"), called(assays, "assays")
    found.path("assays", assays)
    table = pd.DataFrame({one: names_of(table[one].fillna("")) for one in table})
    known = set(names)
    counts = {one: sum(cell in known for cell in table[one]) for one in table}
    key = max(counts, key=lambda one: counts[one])
    if not counts[key]:
        raise InputError(f"No column of {title} names the assays that are judged, such as {examples(list(names))}.")
    if column is not None and column not in table:
        raise InputError(f"{title} has no column {column!r}: it has {examples(list(table))}.")
    choices = [one for one in map(str, table) if one.lower() in ("assay_type", "assay type", "type")]
    choices += [one for one in map(str, table) if "type" in one.lower()]
    if column is None and not choices:
        raise InputError(f"{title} has no column with types: name it with --assay-type.")
    kinds = table[column or choices[0]]
    types = {assay: kind for assay, kind in zip(table[key], kinds, strict=True) if kind and assay in known}
    untyped = [one for one in names if one not in types]
    if types and untyped:
        found.notes.append(f"{len(untyped)} assays have no type: {examples(untyped)}.")
    return types


def _compounds(table: pd.DataFrame, join: str, name: str) -> pd.Index[str]:
    if join not in table:
        raise InputError(f"{name} has no column {join} that names compounds: say which with --join.")
    if table[join].isna().any():
        raise InputError(f"{name} has {int(table[join].isna().sum())} rows without a name in {join}: name them.")
    return pd.Index(names_of(table[join]), dtype=object)


def _probabilities(given: Table, join: str, role: str) -> pd.DataFrame:
    """Read probabilities by compound, with the column of folds in front (missing where the table has none)."""
    table, name = read_table(given, role, (join, *FOLDS)), called(given, role)
    compounds = _compounds(table, join, name)
    column = next((one for one in FOLDS if one in table), None)
    assays = [one for one in map(str, table) if one != join and one not in _NO_ASSAYS and not is_metadata(one)]
    spreads = {f"{assay}{_SPREAD}" for assay in assays}  # of the members of an ensemble
    assays = [assay for assay in assays if assay not in spreads]
    if not assays:
        raise InputError(f"{name} has no assays: give a column of probabilities for each.")
    values = {}
    for assay in assays:
        try:
            numbers = pd.to_numeric(table[assay]).to_numpy(np.float64, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} has something else than numbers in {assay!r}: is it an assay?") from error
        if ((numbers < 0) | (numbers > 1)).any():
            wrong = numbers[(numbers < 0) | (numbers > 1)]
            raise InputError(
                f"{name} has {len(wrong)} values in {assay!r} that are no probabilities (the first is {wrong[0]:g}): "
                "give values between 0 and 1, the logistic function of logits."
            )
        values[assay] = numbers
    result = pd.DataFrame(values, index=compounds)
    folds = [None] * len(table) if column is None else _fold_names(table[column])
    result.insert(0, FOLDS[0], pd.Series(folds, index=compounds, dtype=object))
    return result


def _lacks_folds(given: Table, join: str) -> bool:
    return bool(_probabilities(given, join, "predictions")[FOLDS[0]].isna().all())


def _fold_names(column: pd.Series[Any]) -> list[str | None]:
    """Return folds as text, whole numbers without a point; None where there is none, or a negative one."""
    names: list[str | None] = []
    for value in column:
        if value is None or value is pd.NA or value != value:
            names.append(None)
            continue
        number = pd.to_numeric(value, errors="coerce")
        whole = number == number and float(number).is_integer()
        text = str(int(number)) if whole else str(value)
        names.append(None if whole and number < 0 else text)
    return names
