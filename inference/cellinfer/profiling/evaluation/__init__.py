"""Are these profiles any good? Retrieval of classes and replicates, significance, batch effects: tables and a picture.

Every figure comes with what was asked (queries, positives, negatives) in words, with the number of queries, and, where
it is a mean, with a 95 % bootstrap interval over classes or treatments. Two versions of the same profiles, such as
before and after a correction, can be put side by side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from cellinfer._version import __version__
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready, output_errors
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.profiling.columns import PLATE, SITE, TIME, WELL, feature_columns, metadata_columns
from cellinfer.profiling.evaluation._asked import name_treatments
from cellinfer.profiling.evaluation._beside import read_beside
from cellinfer.profiling.evaluation._input import (
    EvaluationOptions,
    Level,
    Prepared,
    prepare,
    read_profiles,
)
from cellinfer.profiling.evaluation._tasks import Figures, Progress, measure
from cellinfer.profiling.retrieval import DEFAULT_MEMORY, INSPECTED, RECALLS, TOP_FRACTION
from cellinfer.profiling.rows import existing_rows
from cellinfer.profiling.similarity import Metric, Precision

__all__ = ["EvaluationOptions", "ProfileEvaluation", "evaluate_profiles"]

_KEY_COLUMNS = ["task", "metric"]
_TIES = "a negative that is as similar as a positive comes before it"
_PACKAGES = ("numpy", "pandas", "scipy", "numba", "pyarrow", "matplotlib")


@dataclass(frozen=True, slots=True)
class ProfileEvaluation:
    """What `evaluate_profiles` found, and where it wrote it."""

    metrics: pd.DataFrame
    """A row per task and metric: `value`, `low`, `high` (95 % interval), `chance` where it is known, `n_queries`, and
    `before` and `change` where there are profiles before a correction."""
    definitions: dict[str, str]
    """What each task asks, in words."""
    queries: pd.DataFrame
    """A row per task and query."""
    classes: pd.DataFrame
    """A row per task and class: mean average precision, p-values, significance."""
    treatments: pd.DataFrame
    """A row per task and treatment: the same, and similarity of replicates."""
    curves: pd.DataFrame
    """Mean interpolated precision by recall, and mean share of positives found by share of the list, per task."""
    notes: tuple[str, ...]
    """What was left out or could not be measured, and why."""
    options: dict[str, Any]
    provenance: dict[str, Any]
    figures: Figures
    prepared: Prepared
    figures_before: Figures | None = None
    files: tuple[Path, ...] = ()

    def value(self, task: str, metric: str) -> float:
        """Return one figure.

        Raises
        ------
        KeyError
            If it was not measured.
        """
        found = self.metrics[(self.metrics["task"] == task) & (self.metrics["metric"] == metric)]
        if not len(found):
            raise KeyError(f"{task} {metric} was not measured")
        return float(found["value"].iloc[0])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the large tables as plain data for JSON; what is not finite becomes None."""
        data: dict[str, Any] = json_ready(
            {
                "metrics": self.metrics.to_dict("records"),
                "definitions": self.definitions,
                "notes": list(self.notes),
                "options": self.options,
                "provenance": self.provenance,
                "files": [path.name for path in self.files],
            }
        )
        return data


def evaluate_profiles(
    profiles: pd.DataFrame | str | os.PathLike[str],
    *,
    label: str | None = None,
    treatment: str | Sequence[str] | None = None,
    compound: str | None = None,
    batch: str | None = None,
    controls: str | None = None,
    where: str | None = None,
    before: pd.DataFrame | str | os.PathLike[str] | None = None,
    level: Level = "well",
    features: Iterable[str] | None = None,
    controls_are_negatives: bool = False,
    min_others: int = 1,
    metric: Metric = "cosine",
    precision: Precision = "float64",
    draws: int = 100_000,
    permutations: int = 100,
    seed: int = 0,
    projection: str = "auto",
    out: str | os.PathLike[str] | None = None,
    memory: int = DEFAULT_MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ProfileEvaluation:
    """Judge profiles by what they find, and by what they give away.

    Parameters
    ----------
    profiles
        Table, or file (Parquet, CSV, CSV.gz), of cellinfer, pycytominer or of any profiles: metadata and features as
        `cellinfer.profiling.columns` tells them apart.
    label
        Column with classes, such as mechanisms of action; `a|b` is of both, and matches either. This and the other
        columns may be named without `Metadata_`.
    treatment
        Column that replicates share, or columns that they share all of, such as compound and dose. Must be named unless
        rows are treatments, or `profiles` is a file beside the `profile.json` of `cellinfer profile`: its columns, and
        its controls if none are named, are then taken, and a note says so.
    compound
        Column with what must differ for two treatments to count as different, where treatments are doses of compounds.
        Default: the treatment, of several columns those that are neither dose nor time.
    batch
        Column with plates or batches. Default: the plate, where there is one.
    controls
        pandas query that names negative controls, such as `Metadata_Compound == 'DMSO'`. They are never queries.
    where
        pandas query that names the rows to look at, such as `Metadata_Time == 3`, before and after alike. Default: all.
        A well that is there at several times is refused, unless `Metadata_Time` is among the columns of `treatment`.
    before
        The same profiles before a correction: measured alike, to be put side by side. Only rows that both have are
        looked at; what names them is taken from `profiles` where the other table lacks it.
    level
        What rows are: `well`, `treatment` or `image`. Images are averaged to wells, wells to treatments (mean).
    features
        Feature columns; found by default.
    controls_are_negatives
        Let controls be found as negatives of every task, not only where treatments are told from controls.
    min_others
        A query needs so many others of its class.
    metric, precision
        Of similarity, see `Similarities`.
    draws, permutations, seed
        Of null distributions that are not exact, and of the chance level of batches.
    projection
        For the picture: `pca`, `umap` (needs umap-learn), or `auto`: UMAP if it is installed.
    out
        Folder for `metrics`, `queries`, `classes`, `treatments` and `curves` (CSV and Parquet), `evaluation.json` and
        `evaluation.png`. Default: nothing is written.
    memory, threads
        Bytes for blocks of similarities beside the profiles themselves; threads for ranking.
    progress
        Called with what is being done, how much of it is done and how much there is.

    Returns
    -------
    ProfileEvaluation

    Raises
    ------
    InputError
        If the table or an option cannot be used, or nothing can be measured.
    OutputError
        If the results cannot be written.
    """
    if projection not in ("auto", "pca", "umap"):
        raise InputError(f"There is no projection {projection!r}: choose auto, pca or umap.")
    report = progress or (lambda name, done, total: None)
    table, source = read_profiles(profiles)
    sources, raw = {"profiles": source}, None
    notes: list[str] = []
    if before is not None:
        raw, sources["before"] = read_profiles(before)
        table, raw, notes = _aligned(table, raw)
    if where is not None:
        rows = existing_rows(table, where, what="rows to look at")
        table = table[rows].reset_index(drop=True)
        raw = None if raw is None else raw[rows].reset_index(drop=True)
        notes.append(f"where {where}: {int(rows.sum())} of {len(rows)} rows")
    columns = (treatment,) if isinstance(treatment, str) else tuple(treatment or ())
    if not columns:
        beside = read_beside(profiles, table, controls)
        columns, controls = beside.treatment, controls or beside.controls
        notes += beside.notes
    got = name_treatments(table, columns, compound)
    notes += got.notes
    options = EvaluationOptions(
        label=label,
        treatment=got.treatment,
        treatment_columns=got.columns,
        compound=got.compound,
        batch=batch,
        controls=controls,
        where=where,
        level=level,
        controls_are_negatives=controls_are_negatives,
        min_others=min_others,
        metric=metric,
        precision=precision,
        draws=draws,
        permutations=permutations,
        seed=seed,
        memory=memory,
        threads=threads,
    )
    prepared = prepare(got.table, options, features)
    figures = measure(prepared, report)
    figures_before = None
    if raw is not None:
        earlier = prepare(name_treatments(raw, columns, compound).table, options)
        figures_before = measure(earlier, lambda name, done, total: report(f"{name}, before", done, total))
        notes += [f"before: {note}" for note in figures_before.notes if note not in figures.notes]
    result = ProfileEvaluation(
        metrics=_metrics(figures, figures_before),
        definitions=figures.definitions,
        queries=pd.concat(figures.queries, ignore_index=True) if figures.queries else pd.DataFrame(),
        classes=figures.classes,
        treatments=figures.treatments,
        curves=_curves(figures),
        notes=(*figures.notes, *notes),
        options={**asdict(prepared.options), "projection": projection, "ties": _TIES, "top_fraction": TOP_FRACTION},
        provenance=_provenance(sources, prepared),
        figures=figures,
        prepared=prepared,
        figures_before=figures_before,
    )
    if out is None:
        return result
    report("picture", 0, 1)
    result = _write(result, Path(out), projection)
    report("picture", 1, 1)
    return result


def _aligned(table: pd.DataFrame, raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Bring two versions of the same rows into one order, and lend the first one's metadata to the other."""
    keys = [name for name in (PLATE, WELL, TIME, SITE) if name in table.columns and name in raw.columns]
    if not keys:
        if len(table) != len(raw):
            raise InputError(
                f"The profiles before have {len(raw)} rows, those after {len(table)}, and no common {PLATE} and {WELL} "
                "says which belong together."
            )
        keys_after = keys_before = pd.Index(list(map(str, range(len(table)))))
    else:
        keys_after, keys_before = (_row_names(one, keys) for one in (table, raw))
        for name, index in (("after", keys_after), ("before", keys_before)):
            if index.has_duplicates:
                raise InputError(
                    f"Rows of the profiles {name} cannot be told apart by {', '.join(keys)}: "
                    f"{index[index.duplicated()][0]} is there twice."
                )
    place = keys_before.get_indexer(keys_after)
    found = place >= 0
    if not found.any():
        raise InputError(f"The profiles before and after have no row in common (by {', '.join(keys)}).")
    notes = []
    if lost := len(table) + len(raw) - 2 * int(found.sum()):
        notes.append(f"{lost} rows are in one of the tables before and after only, and were left out")
    table, raw = table[found].reset_index(drop=True), raw.iloc[place[found]].reset_index(drop=True)
    measured = set(feature_columns(raw)) | set(feature_columns(table))
    lent = [name for name in table.columns if name not in raw.columns and name not in measured]
    return table, pd.concat([table[lent], raw], axis=1), notes


def _row_names(table: pd.DataFrame, keys: list[str]) -> pd.Index[str]:
    names = table[keys[0]].astype(str)
    for key in keys[1:]:
        names = names + " " + table[key].astype(str)
    return pd.Index(names)


def _metrics(figures: Figures, before: Figures | None) -> pd.DataFrame:
    table = pd.DataFrame(figures.metrics)
    if before is None:
        return table
    earlier = pd.DataFrame(before.metrics)[[*_KEY_COLUMNS, "value"]].rename(columns={"value": "before"})
    table = table.merge(earlier, on=_KEY_COLUMNS, how="left")
    table["change"] = table["value"] - table["before"]
    return table


def _curves(figures: Figures) -> pd.DataFrame:
    pieces = [pd.DataFrame({"task": [], "curve": [], "x": [], "y": []})]
    for task, scores in figures.scores.items():
        for curve, x, y in (
            ("precision_by_recall", RECALLS, scores.precision_recall),
            ("recall_by_share_of_list", INSPECTED, scores.recall_inspected),
        ):
            pieces.append(pd.DataFrame({"task": task, "curve": curve, "x": x, "y": y}))
    return pd.concat(pieces[1:] or pieces, ignore_index=True)


def _provenance(sources: dict[str, dict[str, Any]], prepared: Prepared) -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "cellinfer": __version__,
        "versions": versions,
        "inputs": sources,
        "n_features": len(prepared.features),
        "rows": {name: len(level.table) for name, level in prepared.levels.items()},
        "controls": {name: int(level.control.sum()) for name, level in prepared.levels.items()},
        "metadata": metadata_columns(next(iter(prepared.levels.values())).table),
    }


def _write(result: ProfileEvaluation, folder: Path, projection: str) -> ProfileEvaluation:
    """Write tables, picture and `evaluation.json`, the last of them."""
    from cellinfer.profiling.evaluation._picture import draw_evaluation

    written: list[Path] = []
    for name in ("metrics", "queries", "classes", "treatments", "curves"):
        table: pd.DataFrame = getattr(result, name)
        if not len(table.columns):
            if (folder / "evaluation.json").is_file():  # of an earlier evaluation, whose tables must not stay
                with output_errors(folder):
                    for ending in (".parquet", ".csv"):
                        (folder / f"{name}{ending}").unlink(missing_ok=True)
            continue
        write_parquet(table, folder / f"{name}.parquet")
        write_csv(table, folder / f"{name}.csv")
        written += [folder / f"{name}.csv", folder / f"{name}.parquet"]
    with durable(folder / "evaluation.png") as partial:
        said = draw_evaluation(result, partial, projection)
    files = (*written, folder / "evaluation.png", folder / "evaluation.json")
    result = replace(result, files=files, notes=(*result.notes, *said))
    with durable(folder / "evaluation.json") as partial:
        partial.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result
