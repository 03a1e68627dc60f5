"""What is asked of profiles: tasks of retrieval at each level, replicates, nearest neighbours, batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.profiling.batch_effects import BatchEffects, batch_effects
from cellinfer.profiling.evaluation._input import CONTROL, WELL_KEY, EvaluationOptions, Mask, Prepared, Profiles
from cellinfer.profiling.held_out import HELD_OUT
from cellinfer.profiling.pairs import Matching, PairRules, split_labels
from cellinfer.profiling.retrieval import (
    QueryScores,
    nearest_neighbour_accuracy,
    replicate_similarity,
    score_queries,
)
from cellinfer.profiling.significance import (
    AveragePrecisionNull,
    Interval,
    benjamini_hochberg,
    bootstrap_interval,
    expected_average_precision,
)
from cellinfer.profiling.similarity import Similarities

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is."""

THRESHOLD = 0.05
_CENTRED = 1e-3
"""Mean over standard deviation of controls that were centred; that of others is about 1 / sqrt(controls)."""
_ROW = "_row"
_NO_INTERVAL = Interval(math.nan, math.nan)
_SHOWN_METRICS = {
    "map": "average_precision",
    "map_interpolated": "average_precision_interpolated",
    "folds_of_enrichment": "folds_of_enrichment",
}


class _Task(NamedTuple):
    """One question: who asks, who can be found, what counts."""

    name: str
    level: Profiles
    rules: PairRules
    queries: Mask
    candidates: Mask
    groups: str
    """Column whose values stand together in intervals and p-values."""
    multilabel: tuple[str, ...]
    min_positives: int
    definition: str


@dataclass(slots=True)
class Figures:
    """Everything found about one version of the profiles."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    queries: list[pd.DataFrame] = field(default_factory=list)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    treatments: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: dict[str, QueryScores] = field(default_factory=dict)
    batches: dict[str, BatchEffects] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self, task: str, metric: str, value: float, n: int, interval: Interval = _NO_INTERVAL, chance: float = math.nan
    ) -> None:
        """Add a figure."""
        self.metrics.append(
            {
                "task": task,
                "metric": metric,
                "value": value,
                "low": interval.low,
                "high": interval.high,
                "chance": chance,
                "n_queries": n,
            }
        )


def measure(prepared: Prepared, progress: Progress) -> Figures:
    """Ask everything that the columns named allow.

    Parameters
    ----------
    prepared
        Profiles.
    progress
        See `Progress`.

    Raises
    ------
    InputError
        If nothing can be asked at all.
    """
    options = prepared.options
    figures, null = Figures(notes=list(prepared.notes)), AveragePrecisionNull(options.draws, options.seed)
    alike = {
        name: Similarities(level.values, options.metric, options.precision) for name, level in prepared.levels.items()
    }
    for name, one in alike.items():
        if one.without_direction:
            figures.notes.append(
                f"{one.without_direction} profiles of level {name} have no direction: their similarity to all is 0"
            )
    for task in _tasks(prepared):
        _retrieve(task, alike[task.level.name], options, figures, null, progress)
        if task.name.startswith("activity") and task.name in figures.scores:
            figures.notes += _about_controls(task)
    if options.label is not None:
        _nearest(prepared, alike["treatment"], figures, progress)
    if options.treatment is not None and "well" in prepared.levels:
        _replicates(prepared, alike["well"], figures, progress)
    _batches(prepared, figures, progress)
    if not figures.metrics:
        raise InputError("Nothing could be measured: " + "; ".join(figures.notes) + ".")
    return figures


def _tasks(prepared: Prepared) -> Iterator[_Task]:
    options = prepared.options
    for level in prepared.levels.values():
        control, table = level.control, level.table
        negatives = control if options.controls_are_negatives else np.zeros(len(table), np.bool_)
        also = " and controls" if options.controls_are_negatives and control.any() else ""
        if options.label is not None:
            known = table[options.label].notna().to_numpy() & ~control
            apart = _identity(level, options)
            same = tuple(name for name in (apart,) if name is not None)
            yield _Task(
                f"class_by_{level.name}",
                _unlabelled(level, options.label),
                PairRules((options.label,), same, (), (options.label,)),
                known,
                known | negatives,
                options.label,
                (options.label,),
                options.min_others,
                f"queries: {level.name} profiles with a {options.label}; positives: those that share it"
                f"{f' and are of another {apart}' if apart else ''}; negatives: those of other classes{also}",
            )
        if options.treatment is None or level.name == "treatment":
            continue
        treated = table[options.treatment].notna().to_numpy() & ~control
        different = (WELL_KEY,) if WELL_KEY in table and level.name == "image" else ()
        elsewhere = " in another well" if different else ""
        rules = PairRules((options.treatment,), different, (), (options.treatment,))
        yield _Task(
            f"replicates_by_{level.name}",
            level,
            rules,
            treated,
            treated | negatives,
            options.treatment,
            (),
            1,
            f"queries: treated {level.name}s; positives: the same {options.treatment}{elsewhere}; negatives: other "
            f"treatments{also}",
        )
        if control.any():
            yield _Task(
                f"activity_by_{level.name}",
                level,
                PairRules((options.treatment, CONTROL), different, (), (CONTROL,)),
                treated,
                treated | level.comparable,
                options.treatment,
                (),
                1,
                f"queries: treated {level.name}s; positives: the same {options.treatment}{elsewhere}; negatives: "
                f"{'controls' if level.comparable.sum() == control.sum() else 'held-out controls'} only",
            )


def _about_controls(task: _Task) -> list[str]:
    """Say which controls treated rows were compared with, and whether they can be."""
    control, comparable = int(task.level.control.sum()), int(task.level.comparable.sum())
    notes = []
    if comparable < control:
        notes.append(
            f"{task.name}: compared with the {comparable} of {control} controls that {HELD_OUT} marks, which nothing "
            "was learnt from"
        )
    if _are_centred(task.level):
        notes.append(
            f"{task.name}: the controls have a mean of 0, so these profiles were centred or sphered on these very "
            "controls; wells without any effect then differ from them too, and p-values and share_significant say "
            "too much: make profiles with cellinfer profile --hold-out 0.25, or keep some controls out of what they "
            "are made with and name only those here"
        )
    return notes


def _are_centred(level: Profiles) -> bool:
    """Tell whether the mean of the controls is 0 in most features, which no untouched profiles have."""
    values = level.values[level.comparable]
    return bool(np.mean(np.abs(values.mean(axis=0)) <= _CENTRED * values.std(axis=0)) > 0.5)


def _identity(level: Profiles, options: EvaluationOptions) -> str | None:
    """Column by which a positive must differ from its query: compound, else treatment, else well."""
    if options.compound is not None:
        return options.compound
    if level.name != "treatment":
        return options.treatment
    return None


def _unlabelled(level: Profiles, label: str) -> Profiles:
    """Take the class off controls, whatever their row says: they are unlike all."""
    if not level.control.any():
        return level
    return Profiles(level.name, level.table.assign(**{label: level.table[label].where(~level.control)}), level.values)


def _retrieve(
    task: _Task,
    alike: Similarities,
    options: EvaluationOptions,
    figures: Figures,
    null: AveragePrecisionNull,
    progress: Progress,
) -> None:
    table = task.level.table
    matching = Matching(table, task.rules, multilabel=task.multilabel, queries=task.queries, candidates=task.candidates)
    scores = score_queries(
        alike,
        matching,
        min_positives=task.min_positives,
        memory=options.memory,
        threads=options.threads,
        progress=partial(progress, task.name),
    )
    figures.definitions[task.name] = task.definition
    left_out = len(matching) - len(scores)
    if left_out:
        figures.notes.append(
            f"{task.name}: {left_out} of {len(matching)} rows are no queries: "
            + ("nothing for them to find" if task.min_positives == 1 else f"fewer than {task.min_positives} to find")
        )
    if task.name.startswith("class"):
        without = int((table[task.groups].isna() & ~task.level.control).sum())
        if without:
            figures.notes.append(f"{task.name}: {without} rows without {task.groups} take no part")
    if not len(scores):
        return
    figures.scores[task.name] = scores
    groups = table[task.groups].iloc[scores.rows].map(_text).to_numpy()
    summary = scores.summary()
    for name, value in summary.items():
        if name.startswith("n_") or name == "map_by_chance":
            continue
        column = _SHOWN_METRICS.get(name)
        interval = bootstrap_interval(getattr(scores, column), groups) if column else _NO_INTERVAL
        chance = {"map": summary["map_by_chance"], "folds_of_enrichment": 1.0}.get(name, math.nan)
        figures.add(task.name, name, value, len(scores), interval, chance)
    if scores.n_corrected:
        figures.notes.append(
            f"{task.name}: in {scores.n_corrected} of {len(scores)} queries the odds ratio had a zero cell; 0.5 was "
            "added to the four counts"
        )
    frame = _with_names(scores, task, options)
    p, error = null.p_values(scores.average_precision, scores.n_positives, scores.n_candidates)
    frame["p_value"], frame["p_value_error"], frame["corrected_p_value"] = p, error, benjamini_hochberg(p)
    figures.queries.append(frame)
    _by_group(task, scores, figures, null, progress)


def _text(cell: Any) -> str:
    return "|".join(sorted(cell)) if isinstance(cell, frozenset) else str(cell)


def _with_names(scores: QueryScores, task: _Task, options: EvaluationOptions) -> pd.DataFrame:
    """Return the queries with what they are, and what their nearest candidate is."""
    wanted = (options.label, options.treatment, options.compound, options.batch, "Metadata_Well", "Metadata_Site")
    table = task.level.table
    shown = list(dict.fromkeys(name for name in wanted if name is not None and name in table))
    names = table[shown].iloc[scores.rows].reset_index(drop=True)
    found = table[shown].iloc[np.maximum(scores.nearest, 0)].reset_index(drop=True).add_prefix("nearest_")
    both = pd.concat([names, scores.frame().drop(columns=["nearest"]), found], axis=1)
    if options.batch is not None:
        for name in (options.batch, f"nearest_{options.batch}"):
            both[name] = both[name].map(_text)  # a treatment's batches are several
    both.insert(0, "task", task.name)
    return both


def _by_group(
    task: _Task, scores: QueryScores, figures: Figures, null: AveragePrecisionNull, progress: Progress
) -> None:
    """Mean average precision of each class or treatment, with p-values; a query of two classes counts in both."""
    cells = task.level.table[task.groups].iloc[scores.rows]
    several = task.groups in task.multilabel
    memberships = pd.DataFrame(
        [
            (name, place)
            for place, cell in enumerate(cells)
            for name in (split_labels(cell) if several else (_text(cell),))
        ],
        columns=["name", "place"],
    )
    expected = expected_average_precision(scores.n_positives, scores.n_candidates)
    rows: list[dict[str, Any]] = []
    groups = memberships.groupby("name", sort=True)["place"]
    for name, members in groups:
        places = members.to_numpy()
        counts = scores.n_positives[places], scores.n_candidates[places]
        p, error = null.mean_p_value(scores.average_precision[places], *counts)
        rows.append(
            {
                "task": task.name,
                "name": name,
                "n_queries": len(places),
                "map": scores.average_precision[places].mean(),
                "map_interpolated": scores.average_precision_interpolated[places].mean(),
                "map_by_chance": expected[places].mean(),
                "folds_of_enrichment": scores.folds_of_enrichment[places].mean(),
                "p_value": p,
                "p_value_error": error,
            }
        )
        progress(f"{task.name}, significance", len(rows), groups.ngroups)
    table = pd.DataFrame(rows)
    table["corrected_p_value"] = benjamini_hochberg(table["p_value"])
    table["significant"] = (table["corrected_p_value"] < THRESHOLD).astype("boolean")  # missing for other tasks
    figures.add(task.name, "share_significant", float(table["significant"].mean()), len(table))
    if task.groups in task.multilabel:
        figures.classes = pd.concat([figures.classes, table], ignore_index=True)
    else:
        figures.treatments = pd.concat([figures.treatments, table], ignore_index=True)


def _nearest(prepared: Prepared, alike: Similarities, figures: Figures, progress: Progress) -> None:
    """Accuracy of the nearest neighbour's class: of another compound, and of another batch too."""
    options, level = prepared.options, prepared.levels["treatment"]
    table = _unlabelled(level, str(options.label)).table
    compound = options.compound or options.treatment
    if compound is None:
        compound, table = _ROW, table.assign(**{_ROW: range(len(table))})
    asked: list[tuple[str, str | None, str]] = [("nearest_neighbour_nsc", None, "of another compound")]
    if options.batch is not None:
        asked.append(
            ("nearest_neighbour_nscb", options.batch, f"of another compound and without a common {options.batch}")
        )
    for name, batch, meaning in asked:
        several = [column for column in (options.label, batch) if column is not None]
        try:
            found = nearest_neighbour_accuracy(
                alike,
                table,
                label=str(options.label),
                compound=compound,
                batch=batch,
                multilabel=several,
                memory=options.memory,
                threads=options.threads,
                progress=partial(progress, name),
            )
        except InputError as error:
            figures.notes.append(f"{name}: {error}")
            continue
        figures.definitions[name] = (
            f"queries: treatment profiles with a {options.label} that some profile {meaning} shares; right if the most "
            f"similar labelled profile {meaning} shares it (compound: {'row' if compound == _ROW else compound})"
        )
        figures.add(name, "accuracy", found.accuracy, found.n_queries, found.interval)
        if found.n_left_out:
            figures.notes.append(
                f"{name}: {found.n_left_out} treatments are no queries: no other of their class to find"
            )


def _replicates(prepared: Prepared, alike: Similarities, figures: Figures, progress: Progress) -> None:
    """Median similarity of replicates against random wells of other treatments."""
    progress("replicate_similarity", 0, 1)
    options, wells = prepared.options, prepared.levels["well"]
    treatments = wells.table[options.treatment].where(~wells.control)
    try:
        found = replicate_similarity(
            alike, treatments, draws=min(options.draws, 10_000), seed=options.seed, memory=options.memory
        )
    except InputError as error:
        figures.notes.append(f"replicate_similarity: {error}")
        return
    finally:
        progress("replicate_similarity", 1, 1)
    name = "replicate_similarity"
    figures.definitions[name] = (
        f"median {options.metric} similarity of the wells of a {options.treatment} against as many random wells of "
        "different treatments; reproducible: above the null's 95th percentile"
    )
    judged = found.table["reproducible"].where(found.table["null_95"].notna()).astype(float)
    figures.add(
        name, "share_reproducible", found.share_reproducible, int(judged.count()), bootstrap_interval(judged), 0.05
    )
    figures.add(name, "median_similarity", float(found.table["median_similarity"].median()), len(found.table))
    if found.n_single:
        figures.notes.append(f"{name}: {found.n_single} treatments have a single well")
    table = found.table.rename(columns={str(treatments.name): "name", "n_replicates": "n_queries"})
    table.insert(0, "task", name)
    table["name"] = table["name"].map(_text)
    table["reproducible"] = table["reproducible"].astype("boolean")
    figures.treatments = pd.concat([figures.treatments, table], ignore_index=True)


def _batches(prepared: Prepared, figures: Figures, progress: Progress) -> None:
    """How well batches can be told apart: by treated wells, held out by treatment, and by controls."""
    options = prepared.options
    level = prepared.levels.get("well", prepared.levels[options.level])
    if options.batch is None or level.name == "treatment":
        figures.notes.append("batch effects were not measured: they need wells and a column with their plate or batch")
        return
    identities = [name for name in (options.treatment, options.compound) if name is not None]
    treated = level.table[identities].notna().all(axis=1).to_numpy() & ~level.control
    for name, rows, treatment in (
        ("batches_of_treated_wells", treated, options.treatment),
        ("batches_of_control_wells", level.control, None),
    ):
        part = level.where(rows & level.table[options.batch].notna().to_numpy())
        batches = part.table[options.batch].nunique()
        if batches < 2 or len(part.table) < 2 * batches:
            if rows.any():
                figures.notes.append(
                    f"{name}: not measured, there {'is' if batches == 1 else 'are'} {batches} {options.batch} for "
                    f"{len(part.table)} wells"
                )
            continue
        figures.batches[name] = _one_batch_effect(name, part, treatment, prepared, figures, progress)


def _one_batch_effect(
    name: str, part: Profiles, treatment: str | None, prepared: Prepared, figures: Figures, progress: Progress
) -> BatchEffects:
    options = prepared.options
    asked = [] if treatment is None else [options.compound or treatment, treatment]
    held_out = next((column for column in asked if part.table[column].nunique() > 1), None)
    if asked and held_out != asked[0]:
        figures.notes.append(f"{name}: all wells are of one {asked[0]}, which is not held out therefore")
    columns = list(dict.fromkeys(one for one in (str(options.batch), treatment, held_out) if one is not None))
    values = pd.DataFrame(part.values, columns=list(prepared.features))
    found = batch_effects(
        pd.concat([part.table[columns], values], axis=1),
        batch=str(options.batch),
        treatment=treatment,
        held_out=held_out,
        features=prepared.features,
        metric=options.metric,
        precision=options.precision,
        permutations=options.permutations,
        seed=options.seed,
        memory=options.memory,
        threads=options.threads,
        progress=partial(progress, name),
    )
    how = f"held out by {held_out}" if held_out else "held out one by one"
    figures.definitions[name] = f"{found.n_profiles} wells of {found.n_batches} {options.batch}, {how}"
    for row in found.figures.to_dict("records"):
        if row["n_queries"]:
            interval = Interval(row["low"], row["high"])
            figures.add(name, str(row["measure"]), row["value"], int(row["n_queries"]), interval, row["chance"])
    if treatment is not None:
        figures.notes += [f"{name}: {note}" for note in found.notes]
    return found
