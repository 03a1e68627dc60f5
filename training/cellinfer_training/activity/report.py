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

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.export import Description, export_activity
from cellinfer_training.activity.learner import Settings, divide, learn_members, predict
from cellinfer_training.activity.networks import Architecture
from cellinfer_training.activity.search import search
from cellinfer_training.loop import prepare


def train_activity(
    data: ActivityData,
    modalities: Sequence[str],
    fold: int,
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

    Leaves in `out` the model (`<name>.onnx`, its card and fingerprints), `scores.csv` (a row per assay),
    `predictions.parquet` and `validation.parquet` (probabilities of the fold that is judged on and of the one that
    learning was stopped by, the latter for `cellinfer.activity.fusion.learn`), `report.json`, and the runs of members.

    Parameters
    ----------
    data, modalities, fold, members, device
        See `Learner` and `divide`.
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
    usable = data.complete(modalities)
    parts = divide(data, fold, usable)
    if not len(parts.test):
        raise InputError(f"Fold {fold} has no compounds with {', '.join(modalities)} to judge on.")
    chosen, how = architecture or Architecture(), settings or Settings()
    if trials:
        found = search(data, modalities, fold, out / "search", trials, 1, how, device=device, report=report)
        chosen, how = found.architecture, replace(found.settings, seed=how.seed)
    networks = learn_members(
        data, modalities, parts.training, parts.validation, out, chosen, how, members, device, report
    )
    tables = {}
    for part, rows in (("validation", parts.validation), ("predictions", parts.test)):
        logits = np.stack([predict(network, data, rows).astype(np.float64) for network in networks])
        probabilities = (1 / (1 + np.exp(-logits))).mean(0)
        tables[part] = probabilities
        table = pd.DataFrame(probabilities, columns=list(data.assays))
        table.insert(0, COMPOUND, [data.compounds[row] for row in rows])
        with durable(out / f"{part}.parquet") as partial:
            table.to_parquet(partial)
    scores = score_assays(data.labels[parts.test], tables["predictions"], data.assays)
    with durable(out / "scores.csv") as partial:
        scores.to_csv(partial)
    means = {figure: float(scores[figure].mean()) for figure in (AUROC, AUPRC)}
    evaluation = {
        "fold": fold,
        "compounds": len(parts.test),
        "assays": int(scores[AUROC].notna().sum()),
        "mean": means,
        "above": {str(limit): count for limit, count in count_above(scores[AUROC]).items()},
    }
    facts = {"architecture": asdict(chosen), "settings": asdict(how)}
    seen = ", ".join(modalities)
    text = f"Hits of {len(data.assays)} assays, predicted from {seen} of compounds."
    path = out / f"{name}.onnx"
    learnt = np.sort(np.concatenate([parts.training, parts.validation]))
    description = Description(name, text, license, fold, evaluation, facts, standardisation)
    apart = export_activity(networks, data, learnt, description, path)
    left_out = int((~usable & (data.folds >= 0)).sum())
    summary = {**facts, "evaluation": evaluation, "left_out_without_profile": left_out, "torch_and_onnxruntime": apart}
    with durable(out / "report.json") as partial:
        partial.write_text(json.dumps(json_ready(summary), indent=2) + "\n", encoding="utf-8")
    report(
        f"fold {fold}: mean AUROC {means[AUROC]:.3f}, AUPRC {means[AUPRC]:.3f} over "
        f"{evaluation['assays']} of {len(data.assays)} assays, {len(parts.test)} compounds"
        + (f"; {left_out} compounds without a profile were left out" if left_out else "")
    )
    return path
