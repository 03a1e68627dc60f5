"""A whole run: search if asked for, learn an ensemble, judge it on the fold that was left out, export it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.activity.columns import COMPOUND
from cellinfer.activity.metrics import AUPRC, AUROC, count_above, score_assays
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready
from cellinfer.profiling.rows import examples
from numpy.typing import NDArray

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.export import Description, export_activity
from cellinfer_training.activity.learner import (
    Parts,
    Settings,
    divide,
    learn_members,
    probabilities_of,
    unseen,
    usual_settings,
)
from cellinfer_training.activity.networks import Architecture
from cellinfer_training.activity.search import search
from cellinfer_training.loop import prepare


def train_activity(
    data: ActivityData,
    modalities: Sequence[str],
    fold: int | None,
    out: Path,
    architecture: Architecture | None = None,
    settings: Settings | None = None,
    members: int = 1,
    trials: int = 0,
    name: str = "activity",
    license: str = "unstated",
    device: str = "cpu",
    report: Callable[[str], None] = print,
    standardisation: Mapping[str, Any] | None = None,
) -> Path:
    """Train and export a model, and judge it on a fold that it has not seen.

    Each member of the ensemble is stopped by another fold than the one before it, and learns from the others, so that
    all compounds but those that are judged on are learnt from by some member once there are enough of these.

    Leaves in `out` the model (`<name>.onnx`, its card and fingerprints), `scores.csv` (a row per assay),
    `predictions.parquet` (probabilities of the fold that is judged on), `validation.parquet` (those of compounds that
    learning was stopped by, each by members only that did not learn from it, for `cellinfer.activity.fusion.learn`),
    `report.json`, and the runs of members. Where no fold is judged on there are no predictions, and the scores are
    those of validation compounds: a little too good, for learning was stopped by them.

    Parameters
    ----------
    data, modalities, fold, device
        See `Learner` and `divide`.
    members
        Of the ensemble.
    out
        Folder; a run that is there is continued.
    architecture, settings
        What learns, and how; taken from the search where there is one.
    trials
        Of the search; 0: none.
    name, license
        Of the model.
    standardisation
        See `Description`.

    Returns
    -------
    Path
        The model.

    Raises
    ------
    InputError
        If there is nothing to learn from, or to judge on.
    """
    prepare(out, device)
    if members < 1:
        raise InputError("An ensemble has at least one member.")
    usable = data.complete(modalities)
    parts = [divide(data, fold, usable, turn) for turn in range(members)]
    if fold is not None and not len(parts[0].test):
        raise InputError(f"Fold {fold} has no compounds with {', '.join(modalities)} to judge on.")
    chosen, how = architecture or Architecture(), settings or usual_settings(modalities)
    if trials:
        found = search(data, modalities, fold, out / "search", trials, 1, how, device=device, report=report)
        chosen, how = found.architecture, replace(found.settings, seed=how.seed)
    notes = _taught_little(data, parts)
    for note in notes:
        report(f"note: {note}")
    networks = learn_members(data, modalities, parts, out, chosen, how, device, report)
    judged, probabilities = unseen(data, networks, parts)
    _write(out / "validation.parquet", data, judged, probabilities)
    if fold is not None:
        judged = parts[0].test
        probabilities = np.mean([probabilities_of(network, data, judged) for network in networks], axis=0)
        _write(out / "predictions.parquet", data, judged, probabilities)
    scores = score_assays(data.labels[judged], probabilities, data.assays)
    with durable(out / "scores.csv") as partial:
        scores.to_csv(partial)
    means = {figure: float(scores[figure].mean()) for figure in (AUROC, AUPRC)}
    evaluation = {
        "fold": fold,
        "judged_on": "validation compounds, which learning was stopped by" if fold is None else f"fold {fold}",
        "compounds": len(judged),
        "assays": int(scores[AUROC].notna().sum()),
        "mean": means,
        "above": {str(limit): count for limit, count in count_above(scores[AUROC]).items()},
    }
    facts = {"architecture": asdict(chosen), "settings": asdict(how)}
    seen = ", ".join(modalities)
    text = f"Hits of {len(data.assays)} assays, predicted from {seen} of compounds."
    path = out / f"{name}.onnx"
    learnt = np.unique(np.concatenate([rows for part in parts for rows in (part.training, part.validation)]))
    description = Description(name, text, license, fold, evaluation, facts, standardisation)
    apart = export_activity(networks, data, learnt, description, path)
    left_out = int((~usable & (data.folds >= 0)).sum())
    summary = {**facts, "evaluation": evaluation, "left_out_without_profile": left_out, "torch_and_onnxruntime": apart}
    summary["notes"] = notes
    with durable(out / "report.json") as partial:
        partial.write_text(json.dumps(json_ready(summary), indent=2) + "\n", encoding="utf-8")
    report(
        f"{evaluation['judged_on']}: mean AUROC {means[AUROC]:.3f}, AUPRC {means[AUPRC]:.3f} over "
        f"{evaluation['assays']} of {len(data.assays)} assays, {len(judged)} compounds"
        + (f"; {left_out} compounds without a profile were left out" if left_out else "")
    )
    return path


def _taught_little(data: ActivityData, parts: Sequence[Parts]) -> list[str]:
    """Say of which assays nothing can be learnt, and which structures are learnt from and judged on as well."""
    labels = data.labels[np.unique(np.concatenate([part.training for part in parts]))]
    hits, inactives = (labels == 1).any(axis=0), (labels == 0).any(axis=0)
    notes = []
    for what, lacking in (
        ("any label", ~hits & ~inactives),
        ("hits", ~hits & inactives),
        ("inactives", hits & ~inactives),
    ):
        if lacking.any():
            those = examples([data.assays[assay] for assay in np.flatnonzero(lacking)])
            notes.append(
                f"{int(lacking.sum())} assays are without {what} among the compounds learnt from ({those}): what the "
                "model says of them is not learnt."
            )
    names = data.smiles or data.compounds
    judged = {names[row] for row in parts[0].test}
    if twice := sorted(judged & {names[row] for part in parts for row in (*part.training, *part.validation)}):
        notes.append(
            f"{len(twice)} structures are judged on and learnt from ({examples(twice)}): the figures are too good; "
            "merge duplicates (`cellinfer activity prepare`)."
        )
    return notes


def _write(path: Path, data: ActivityData, rows: NDArray[np.integer], probabilities: NDArray[np.float64]) -> None:
    table = pd.DataFrame(probabilities, columns=list(data.assays))
    table.insert(0, COMPOUND, [data.compounds[row] for row in rows])
    with durable(path) as partial:
        table.to_parquet(partial)
