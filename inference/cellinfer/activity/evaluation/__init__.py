"""How well are hits of assays predicted? Figures by assay and fold, counts, intervals, fusion, Venn diagram, picture.

Predictions of one or several modalities are judged by the labels of the compounds they were made for; figures that
were published by assay (Moshkov et al., Nature Communications 14, 2023) go through the same counts. No RDKit needed.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from cellinfer._version import __version__
from cellinfer.activity.columns import COMPOUND
from cellinfer.activity.evaluation import _figures as figures
from cellinfer.activity.evaluation import _tables as tables
from cellinfer.activity.evaluation._figures import FUSED, GIVEN, ORACLE, OVER_FOLDS, REPORTED
from cellinfer.activity.evaluation._tables import METRICS, Found, Judged, Table, Tables
from cellinfer.activity.metrics import AUROC, LIMITS
from cellinfer.activity.tables import inside
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready, owned, sha256_of
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.profiling.rows import examples
from cellinfer.settings import with_options

__all__ = ["METRICS", "ActivityEvaluation", "ActivityEvaluationSettings", "evaluate"]

WAYS = ("max", "mean", "learned")
Progress = Callable[[str, int, int], None]
_PAIRS = 28
_NAMED = 5
"""Modalities that the name of an oracle lists."""
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib")
_DEFINITIONS = {
    "AUROC": "area under the ROC curve: how often a hit has a higher probability than an inactive, ties counted half",
    "AUPRC": "average precision: precision at the probability of each hit, mean over hits",
    "EF1, EF5, EF10": "enrichment factor: hit rate among the first 1, 5, 10 % of the tested compounds (rounded up), "
    "divided by the hit rate of all; hits among equal probabilities at the cut count in proportion",
    "assay and fold": "an assay has figures in a fold if compounds of both classes are tested there, otherwise none",
    "over_folds": "median or mean of an assay's figures over the folds that have them",
    "statistic": "mean or median over assays; above_X: assays with an AUROC larger than X",
    "low, high": "95 % percentile bootstrap interval over assays: how far the value would go with other assays of the "
    "kind; not what other compounds, folds or trainings would do",
    "difference": "of two modalities on the assays that both have figures of; median is the median of the differences, "
    "share_better the share of assays in which the first is better, equal ones counted half",
    FUSED: "late fusion: the largest, the mean, or a learned weighting of the modalities' probabilities",
    ORACLE: "for each assay the modality that turned out best by AUROC (the retrospective union): it needs the "
    "answers, no prediction can reach it that way, and as the best of several noisy figures it is too high",
    REPORTED: "figures that were given, not worked out here from predictions",
    "venn": "assays above a limit by exactly these modalities",
}


@dataclass(frozen=True, slots=True)
class ActivityEvaluationSettings:
    """How `evaluate` judges; every value is written into `evaluation.json`."""

    join: str = COMPOUND
    """Column with names of compounds, in all tables."""
    fuse: tuple[str, ...] = ()
    """Modalities to fuse late, such as `CS+MO`; `all`: every combination."""
    by: tuple[str, ...] = ("max",)
    """How to fuse, of `WAYS`."""
    shrinkage: float = 1.0
    """Of learned fusion, see `cellinfer.activity.fusion.learn`."""
    common: bool = True
    """Compare modalities on the labels that all of them predict; else judge each on all it predicts."""
    venn: tuple[str, ...] = ()
    """Modalities of the Venn diagram and of the oracle; none: all that were given."""
    above: float = 0.9
    """AUROC above which the Venn diagram and types count in the picture; tables have 0.5, 0.7 and 0.9 besides."""
    over: str = "median"
    """Statistic over folds that the picture shows and the oracle chooses by: median or mean."""
    against: str | None = None
    """Modality that the others are compared with; None: every pair, of more than eight modalities the first."""
    reported_as: str = "median"
    """What reported figures without folds are: the median or the mean over folds."""
    assay_type: str | None = None
    """Column with types of assays; None: found by its name."""
    draws: int = 2_000
    """Resamples of assays."""
    seed: int = 0
    """Of everything random."""


@dataclass(frozen=True, slots=True)
class ActivityEvaluation:
    """What `evaluate` found, and where it wrote it."""

    scores: pd.DataFrame
    """A row per modality, assay and fold: `modality`, `kind`, `assay`, `type`, `fold`, figures, `n_hits`,
    `n_inactive`."""
    by_assay: pd.DataFrame
    """A row per modality and assay: median and mean of every figure over folds."""
    summary: pd.DataFrame
    """Statistics over assays with intervals: `modality`, `kind`, `metric`, `over_folds`, `statistic`, `value`, `low`,
    `high`, `n_assays`."""
    by_type: pd.DataFrame
    """The same for each type of assay."""
    differences: pd.DataFrame
    """The same of differences between modalities on the same assays."""
    venn: pd.DataFrame
    """Assays above limits by exactly which modalities."""
    notes: tuple[str, ...]
    info: dict[str, Any] = field(repr=False)
    """What `evaluation.json` holds."""
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `evaluation.json` holds."""
        return self.info

    def value(self, modality: str, metric: str, statistic: str, over_folds: str = "median") -> float:
        """Return one value of the summary.

        Raises
        ------
        InputError
            If there is none.
        """
        wanted = {"modality": modality, "metric": metric, "statistic": statistic, "over_folds": over_folds}
        rows = self.summary
        for name, one in wanted.items():
            rows = rows[rows[name] == one]
        if rows.empty:
            raise InputError(f"There is no {statistic} {metric} ({over_folds} over folds) of {modality!r}.")
        return float(rows["value"].iloc[0])


def evaluate(
    predictions: Mapping[str, Tables] | None = None,
    matrix: Table | None = None,
    out: str | Path | None = None,
    settings: ActivityEvaluationSettings | None = None,
    *,
    folds: Table | None = None,
    assays: Table | None = None,
    validation: Mapping[str, Tables] | None = None,
    scores: Mapping[str, Tables] | Tables | None = None,
    choose: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ActivityEvaluation:
    """Judge predictions of assay hits, beside each other and fused.

    Parameters
    ----------
    predictions
        Modality -> table or tables with a column of compounds (`join`) and one of probabilities per assay; a folder
        of `python -m cellinfer_training activity` stands for its `predictions.parquet`. The fold of a compound is in
        the table's own column `Fold`, or in `folds`; without both, every table is a fold, in the order given.
    matrix
        Labels as `cellinfer activity prepare` writes them (or its folder): 1, 0, nothing; needed with predictions.
    out
        Folder for the results; None: nothing is written.
    settings
        How to judge; `options` are settings by name, which take precedence.
    folds
        Table with `join` and `Fold`, as `cellinfer activity split` writes it (or its folder).
    assays
        Table of assays with types; None: `assays.csv` beside the matrix, if there is one.
    validation
        Modality -> table or tables of predictions for compounds that each fold's model was stopped by, needed to learn
        a fusion: with a column `Fold` that names the fold left out, or one table per table of predictions.
    scores
        Figures worked out elsewhere: modality -> table or tables with a row per assay and `AUROC` (or `auc`); or
        tables with a column of modalities (`descriptor`), in a mapping under the name ''. Several tables of one
        modality without a column `Fold` are a fold each.
    choose
        New name -> name in `scores`: only these are taken from tables that name modalities themselves.
    progress
        Called with the step's name, how much is done, and of how much.

    Returns
    -------
    ActivityEvaluation

    Raises
    ------
    InputError
        If a table or a setting is not usable, or nothing can be judged.
    OutputError
        If results cannot be written.
    """
    chosen = _settings(settings, options)
    report = progress or (lambda name, done, total: None)
    found = Found()
    if not predictions and (scores is None or (isinstance(scores, Mapping) and not scores)):
        raise InputError("There is nothing to judge: give predictions, or figures that were worked out elsewhere.")
    given = {name: _inside(some, "predictions.parquet") for name, some in (predictions or {}).items()}
    parts = []
    if given:
        if matrix is None:
            raise InputError("Predictions are judged by labels: give the matrix (--matrix).")
        checks = {name: _inside(some, "validation.parquet") for name, some in (validation or {}).items()}
        labels_at = _inside(matrix, "matrix.parquet")[0]
        folds_at = None if folds is None else _inside(folds, "folds.parquet")[0]
        if assays is None and not isinstance(labels_at, pd.DataFrame):
            beside = Path(labels_at).parent / "assays.csv"
            assays = beside if beside.is_file() else None
        parts += _judge(given, labels_at, folds_at, checks, chosen, found, report)
    elif chosen.fuse:
        raise InputError("Late fusion needs predictions: of figures alone there is the oracle (--venn).")
    reported = _reported(scores, choose, found)
    if clash := [name for name in dict.fromkeys(reported.get("modality", ())) if name in given]:
        raise InputError(f"{clash[0]} names predictions and figures: give one of them another name.")
    if len(reported):
        parts.append(reported)
    every = pd.concat(parts, ignore_index=True)
    return _evaluated(every, assays, chosen, found, report, out)


def _settings(settings: ActivityEvaluationSettings | None, options: Mapping[str, Any]) -> ActivityEvaluationSettings:
    chosen = with_options(settings or ActivityEvaluationSettings(), options)
    chosen = replace(chosen, fuse=_several(chosen.fuse), by=_several(chosen.by), venn=_several(chosen.venn))
    for way in chosen.by:
        if way not in WAYS:
            raise InputError(f"There is no fusion by {way!r}: choose {', '.join(WAYS)}.")
    for what, value in (("over", chosen.over), ("reported_as", chosen.reported_as)):
        if value not in OVER_FOLDS:
            raise InputError(f"{what} is {' or '.join(OVER_FOLDS)}, not {value!r}.")
    if not 0 <= chosen.above < 1:
        raise InputError(f"The AUROC above which assays are counted is at least 0 and below 1, not {chosen.above}.")
    if chosen.draws < 100:
        raise InputError(f"Intervals need at least 100 resamples, not {chosen.draws}.")
    return chosen


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _inside(given: Tables, file: str) -> list[Table]:
    """Take the file of a folder where a folder is given."""
    return [one if isinstance(one, pd.DataFrame) else inside(one, file) for one in tables.as_list(given)]


def _judge(
    predictions: Mapping[str, list[Table]],
    matrix: Table,
    folds: Table | None,
    validation: Mapping[str, list[Table]],
    settings: ActivityEvaluationSettings,
    found: Found,
    report: Progress,
) -> list[pd.DataFrame]:
    """Return figures of every modality and of their fusions, by assay and fold."""
    _check_names(predictions)
    sets = _fusions(settings, list(predictions))
    steps = 2 + len(predictions)
    report("reading", 0, steps)
    found.path("labels", matrix)
    labels = tables.read_labels(matrix, settings.join)
    drawn = None
    if folds is not None:
        found.path("folds", folds)
        drawn = tables.read_folds(folds, settings.join)
    report("reading", 1, steps)
    read = {}
    for place, (name, some) in enumerate(predictions.items()):
        read[name] = tables.read_predictions(name, some, settings.join, drawn, found)
        report("reading", 2 + place, steps)
    learned = {
        name: tables.read_validation(name, some, predictions[name], settings.join, drawn, found)
        for name, some in validation.items()
        if _known(name, predictions)
    }
    judged = tables.align(read, labels, found)
    report("reading", steps, steps)
    return _figures_of(judged, sets, learned, labels, settings, found, report)


def _figures_of(
    judged: Judged,
    sets: Sequence[tuple[str, ...]],
    learned: Mapping[str, Mapping[str, pd.DataFrame]],
    labels: pd.DataFrame,
    settings: ActivityEvaluationSettings,
    found: Found,
    report: Progress,
) -> list[pd.DataFrame]:
    masked = figures.common_labels(judged, found, common=settings.common)
    total = len(masked) + len(sets) * len(settings.by)
    parts: list[pd.DataFrame] = []
    for name, values in judged.probabilities.items():
        report("judging", len(parts), total)
        parts.append(figures.score(judged, values, masked[name], name, GIVEN))
    figures.unscorable(pd.concat(parts), found)
    for members in sets:
        for way in settings.by:
            report("judging", len(parts), total)
            fused = figures.fuse(judged, members, way, learned, labels, settings.shrinkage, found)
            known = masked[members[0]] if settings.common else judged.labels
            parts.append(
                figures.score(judged, fused, figures.where_said(known, fused), f"{way} {'+'.join(members)}", FUSED)
            )
    report("judging", total, total)
    return parts


def _check_names(names: Mapping[str, Any]) -> None:
    for name in names:
        if not name or any(sign in name for sign in "&+,="):
            raise InputError(f"A modality cannot be called {name!r}: leave out & + , =.")


def _known(name: str, predictions: Mapping[str, Any]) -> bool:
    if name not in predictions:
        raise InputError(f"There is a validation of {name!r}, but no predictions: there are {', '.join(predictions)}.")
    return True


def _fusions(settings: ActivityEvaluationSettings, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which modalities are fused."""
    sets: list[tuple[str, ...]] = []
    for one in settings.fuse:
        if one == "all":
            if len(names) > 5:
                raise InputError(f"{len(names)} modalities have too many combinations: say which to fuse, as A+B.")
            sets += [some for size in range(2, len(names) + 1) for some in combinations(names, size)]
            continue
        members = tuple(name.strip() for name in one.split("+"))
        if unknown := [name for name in members if name not in names]:
            raise InputError(f"There are no predictions of {unknown[0]!r} to fuse: there are {', '.join(names)}.")
        if len(set(members)) != len(members) or len(members) < 2:
            raise InputError(f"Fusion is of two or more different modalities, as A+B, not {one!r}.")
        sets.append(members)
    return list(dict.fromkeys(sets))


def _reported(
    scores: Mapping[str, Tables] | Tables | None, choose: Mapping[str, str] | None, found: Found
) -> pd.DataFrame:
    """Read figures that were worked out elsewhere."""
    if scores is None:
        if choose:
            raise InputError("Names are chosen from figures that were worked out elsewhere: give them (--scores).")
        return pd.DataFrame()
    every: Mapping[str, Tables] = scores if isinstance(scores, Mapping) else {"": scores}
    parts = []
    for name, given in every.items():
        some = tables.as_list(given)
        for place, one in enumerate(some):
            parts.append(tables.read_scores(one, name or None, place if name and len(some) > 1 else None, found))
            if not name and choose:
                parts[-1] = _renamed(parts[-1], choose, found)
    whole = pd.concat(parts, ignore_index=True)
    if (twice := whole.duplicated(["modality", "assay", "fold"])).any():
        row = whole[twice].iloc[0]
        raise InputError(f"There are two figures of {row['modality']} and {row['assay']}: give each once.")
    if wrong := [name for name in whole["modality"].unique() if "&" in name or not name]:
        raise InputError(f"A modality cannot be called {wrong[0]!r}: give it another name (--choose NEW={wrong[0]}).")
    if missing := int(whole[AUROC].isna().sum()):
        those = examples(whole.loc[whole[AUROC].isna(), "assay"].unique().tolist())
        found.notes.append(f"{missing} reported figures are blank, and count for nothing: of {those}.")
    if whole["fold"].isna().any():
        found.notes.append("Reported figures without folds are taken as one per assay over all folds.")
    whole.insert(1, "kind", REPORTED)
    return whole


def _renamed(table: pd.DataFrame, choose: Mapping[str, str], found: Found) -> pd.DataFrame:
    there = list(dict.fromkeys(table["modality"]))
    if unknown := [name for name in choose.values() if name not in there]:
        raise InputError(f"There are no figures of {unknown[0]!r}: there are {', '.join(there)}.")
    if left := [name for name in there if name not in choose.values()]:
        found.notes.append(f"{len(left)} reported modalities are not looked at: {', '.join(left)}.")
    parts = [table[table["modality"] == old].assign(modality=new) for new, old in choose.items()]
    return pd.concat(parts, ignore_index=True)


def _evaluated(
    scores: pd.DataFrame,
    assays: Table | None,
    settings: ActivityEvaluationSettings,
    found: Found,
    report: Progress,
    out: str | Path | None,
) -> ActivityEvaluation:
    """Go from figures by assay and fold to everything else."""
    given = list(dict.fromkeys(scores.loc[scores["kind"] != FUSED, "modality"]))
    names = list(dict.fromkeys(scores["modality"]))
    if unknown := [name for name in settings.venn if name not in names]:
        raise InputError(f"There is no modality {unknown[0]!r} for the Venn diagram: there are {', '.join(names)}.")
    if settings.against is not None and settings.against not in names:
        raise InputError(f"There is no modality {settings.against!r} to compare with: there are {', '.join(names)}.")
    sets = list(dict.fromkeys(settings.venn or given))
    here = list(dict.fromkeys(scores["assay"]))
    types = {} if assays is None else tables.read_types(assays, here, settings.assay_type, found)
    scores.insert(3, "type", [types.get(one, figures.UNTYPED) for one in scores["assay"]])
    by_assay = figures.over_folds(scores, types, settings.reported_as)
    if by_assay[f"{AUROC}_{settings.over}"].isna().all():
        raise InputError(
            f"There is no {settings.over} over folds to show: figures without folds are taken for the "
            f"{settings.reported_as}; say what they are (--reported-as), or what to show (--over)."
        )
    figures.few_hits(by_assay, settings.over, settings.above, found)
    oracles = [members for members in (*_fusions(settings, given), tuple(sets)) if len(members) > 1]
    best = []
    for members in dict.fromkeys(oracles):
        name = "oracle of all" if members == tuple(given) and len(given) > _NAMED else f"oracle {'+'.join(members)}"
        best.append(figures.oracle(by_assay, members, name, settings.over))
    by_assay = pd.concat([by_assay, *best], ignore_index=True)
    if best:
        found.notes.append(
            f"An oracle takes for each assay the modality that turned out best ({settings.over} over folds): it needs "
            "the answers, and is no prediction."
        )
    judged = by_assay[by_assay["kind"] != ORACLE].groupby("modality", sort=False)
    numbers = judged[[f"{AUROC}_{how}" for how in OVER_FOLDS]].count().max(axis=1)
    if numbers.nunique() > 1:
        found.notes.append(
            "Modalities have figures of different numbers of assays, which counts do not make up for; differences are "
            "of the assays that both have."
        )
    limits = tuple(sorted({*LIMITS, settings.above}))
    bootstrap = figures.Bootstrap(settings.draws, settings.seed)
    report("summing up", 0, 4)
    summary = figures.summarise(by_assay, bootstrap, limits)
    report("summing up", 1, 4)
    by_type = figures.summarise_types(by_assay, bootstrap, limits)
    report("summing up", 2, 4)
    differences = figures.compare(by_assay, _against(by_assay, settings, found), bootstrap, limits)
    report("summing up", 3, 4)
    diagram = figures.venn(by_assay, sets, limits)
    scores["fold"] = _fold_column(scores["fold"])
    result = ActivityEvaluation(scores, by_assay, summary, by_type, differences, diagram, tuple(found.notes), {})
    result = replace(result, info=_info(result, sets, settings, found))
    if out is not None:
        result = _write(result, sets, settings, Path(out))
    report("summing up", 4, 4)
    return result


def _against(by_assay: pd.DataFrame, settings: ActivityEvaluationSettings, found: Found) -> list[str]:
    """Return the modalities that others are compared with."""
    names = list(dict.fromkeys(by_assay["modality"]))
    if settings.against is not None:
        return [settings.against]
    if len(names) * (len(names) - 1) // 2 <= _PAIRS:
        return names
    found.notes.append(f"Of {len(names)} modalities, each is compared with {names[0]} only: choose with --against.")
    return names[:1]


def _fold_column(folds: pd.Series[Any]) -> pd.Series[Any]:
    """Return folds as whole numbers, if that is what they all are."""
    whole = folds.dropna().astype(str).str.isdigit().all()
    return pd.to_numeric(folds).astype("Int64") if whole else folds


def _info(
    result: ActivityEvaluation, sets: Sequence[str], settings: ActivityEvaluationSettings, found: Found
) -> dict[str, Any]:
    shown = result.venn[(result.venn["over_folds"] == settings.over) & (result.venn["above"] == settings.above)]
    info: dict[str, Any] = json_ready(
        {
            "cellinfer": __version__,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "definitions": _DEFINITIONS,
            "settings": asdict(settings),
            "notes": list(found.notes),
            "counts": found.counts,
            "summary": result.summary.to_dict("records"),
            "differences": result.differences.to_dict("records"),
            "venn": {"modalities": list(sets), "combinations": shown.to_dict("records")},
            "inputs": [
                {"role": role, "path": str(path), "sha256": sha256_of(path) if path.is_file() else None}
                for role, path in found.paths
            ],
            "versions": {name: metadata.version(name) for name in _PACKAGES},
        }
    )
    return info


def _write(
    result: ActivityEvaluation, sets: Sequence[str], settings: ActivityEvaluationSettings, folder: Path
) -> ActivityEvaluation:
    """Write tables and picture, and `evaluation.json` after them."""
    from cellinfer.activity.evaluation._picture import draw_evaluation

    inputs = {Path(one["path"]).resolve() for one in result.info["inputs"]}
    written = {
        "scores.csv": result.scores,
        "by_assay.csv": result.by_assay,
        "summary.csv": result.summary,
        "by_type.csv": result.by_type,
        "differences.csv": result.differences,
        "venn.csv": result.venn,
    }
    names = ["scores.parquet", *written, "evaluation.png", "evaluation.json"]
    files = [folder / name for name in names]
    if clash := [path for path in files if path.resolve() in inputs]:
        raise InputError(f"{clash[0]} is read, and would be written over: choose another folder (--out).")
    with owned(folder):
        (folder / names[-1]).unlink(missing_ok=True)  # of an earlier one: while tables change there is no result
        write_parquet(result.scores, files[0])
        for name, table in written.items():
            write_csv(table, folder / name)
        draw_evaluation(
            result.by_assay,
            result.summary,
            result.by_type,
            result.venn,
            sets,
            settings.over,
            settings.above,
            folder / "evaluation.png",
        )
        info = {**result.info, "files": names}
        with durable(files[-1]) as partial:
            partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return replace(result, info=info, files=tuple(files))
