"""Hits predicted from structures, on scaffold folds: our networks, chemprop, plain classifiers, published figures.

    python -m benchmarks.activity_accuracy broad6k DATA WORK --chemprop COMMAND    # continues what is in WORK
    python -m benchmarks.activity_accuracy tox21 DATA WORK --chemprop COMMAND

DATA is the folder with `activity`; COMMAND the `chemprop` of an environment of its own. All learn from the same
compounds and are judged on the same ones by `cellinfer activity evaluate`. Rates were chosen by what validation folds
say, never by those that are judged on. Our ensembles have four members, each stopped by another fold; beside chemprop
stands one network, taught for as long and at the same rates, and stopped by the same compounds.

`broad6k`: 6,567 compounds, 24 assays, the five scaffold folds of Moshkov et al. 2023, whose networks learnt from 16,170
compounds. `tox21`: 12 assays; five balanced scaffold folds, and the division of DeepChem (80, 10, 10 %; the largest
scaffolds first), by which most of the literature is judged.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.activity.chemistry import scaffold
from cellinfer.activity.columns import COMPOUND, FOLD, SMILES
from cellinfer.activity.evaluation import evaluate
from cellinfer.activity.splits import scaffold_folds
from cellinfer_training.activity.baselines import Kind, fit_baseline
from cellinfer_training.activity.data import ActivityData, read_data
from cellinfer_training.activity.learner import Settings, divide, learn_members, probabilities_of
from cellinfer_training.activity.networks import Architecture
from cellinfer_training.activity.report import train_activity
from numpy.typing import NDArray

from benchmarks._peers import RESULTS, machine

MEMBERS = 4
NETWORKS: Mapping[str, tuple[Architecture, Settings]] = {
    "graph": (Architecture(), Settings(epochs=40, rate=4e-3, first_rate=4e-4, last_rate=2e-4)),
    "morgan": (Architecture(), Settings(epochs=20, decay=3e-4)),
}
ALONE = replace(NETWORKS["graph"][1], epochs=20)
"""Of chemprop and of the one network beside it."""
PUBLISHED = {"published graph": "cp_es_op", "published Morgan": "cpcl_es_op"}
ONE, FUSED = "graph-of-one", "graph+morgan"
_DESCRIBED = ("compound_index", "smiles", "inchikey_first_block", "scaffold_fold", "morphology_fold", "expression_fold")


def write_broad6k(data: Path, work: Path) -> None:
    """Write the matrix and the published folds as our commands have them."""
    table = pd.read_csv(data / "activity/broad6k/compounds.csv.gz")
    names = table["compound_index"].map("broad-{}".format).rename(COMPOUND)
    assays = table.drop(columns=list(_DESCRIBED)).astype("Int8")
    pd.concat([names, table["smiles"].rename(SMILES), assays], axis=1).to_parquet(work / "matrix.parquet")
    pd.DataFrame({COMPOUND: names, FOLD: table["scaffold_fold"]}).to_parquet(work / "folds.parquet")


def write_tox21(data: Path, work: Path, deepchem: bool) -> None:
    """Write one row per SMILES (labels that contradict each other are blank), in balanced folds or DeepChem's parts."""
    table = pd.read_csv(data / "activity/tox21.csv.gz").drop(columns="mol_id")
    by_structure = table.groupby("smiles", sort=False)
    low, high = by_structure.min(), by_structure.max()
    labels = high.where(low == high).astype("Int8")
    names = pd.Series([f"tox-{place}" for place in range(len(labels))], name=COMPOUND)
    smiles = pd.Series(labels.index, name=SMILES)
    pd.concat([names, smiles, labels.reset_index(drop=True)], axis=1).to_parquet(work / "matrix.parquet")
    scaffolds = [scaffold(text) for text in smiles]
    folds = deepchem_parts(scaffolds) if deepchem else scaffold_folds(scaffolds)
    pd.DataFrame({COMPOUND: names, FOLD: folds}).to_parquet(work / "folds.parquet")


def deepchem_parts(scaffolds: Sequence[str]) -> NDArray[np.int64]:
    """Divide as DeepChem's ScaffoldSplitter: 80 % (2) to learn from, 10 % (1) to validate, 10 % (0) to be judged on."""
    sets: dict[str, list[int]] = {}
    for place, name in enumerate(scaffolds):
        sets.setdefault(name, []).append(place)
    training, validation, test = [], [], []
    for rows in sorted(sets.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(training) + len(rows) <= 0.8 * len(scaffolds):
            training += rows
        elif len(training) + len(validation) + len(rows) <= 0.9 * len(scaffolds):
            validation += rows
        else:
            test += rows
    result = np.full(len(scaffolds), 2)
    result[validation], result[test] = 1, 0
    return result


def learn_ours(data: ActivityData, fold: int, work: Path, rotating: bool, report: Callable[[str], None]) -> None:
    """Teach an ensemble of each kind, and one graph network alone, as chemprop is.

    Members are stopped by different folds, or all by the same validation part.
    """
    every = {name: (name, MEMBERS) for name in NETWORKS} | {ONE: ("graph", 1)}
    for name, (sees, members) in every.items():
        out, (architecture, settings) = work / name / str(fold), NETWORKS[sees]
        settings = ALONE if name == ONE else settings
        if (out / "predictions.parquet").exists():
            continue
        if rotating:
            train_activity(data, [sees], fold, out, architecture, settings, members, report=report)
            continue
        parts = [divide(data, fold)] * members
        networks = learn_members(data, [sees], parts, out, architecture, settings, report=report)
        for kind, rows in (("validation", parts[0].validation), ("predictions", parts[0].test)):
            found = np.mean([probabilities_of(network, data, rows) for network in networks], axis=0)
            _write(out / f"{kind}.parquet", data, rows, found)


def learn_chemprop(data: ActivityData, fold: int, work: Path, command: str) -> None:
    """Teach chemprop for as long and at the rates as our one network, which learns from and is stopped by the same."""
    out = work / "chemprop" / str(fold)
    if (out / "predictions.parquet").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    targets, parts = [f"assay{place}" for place in range(len(data.assays))], divide(data, fold)
    labels = pd.DataFrame(data.labels, columns=targets).astype("Int8").replace(-1, pd.NA)
    table = pd.concat([pd.Series(data.smiles, name="smiles"), labels], axis=1)
    table["split"] = ""
    for name, rows in (("train", parts.training), ("val", parts.validation), ("test", parts.test)):
        table.loc[rows, "split"] = name
    table[table["split"] != ""].to_csv(out / "learn.csv", index=False)
    table.loc[parts.test, ["smiles"]].to_csv(out / "test.csv", index=False)
    run = [command, "train", "--data-path", "learn.csv", "--splits-column", "split", "--output-dir", "model"]
    run += ["--smiles-columns", "smiles", "--target-columns", *targets, "--task-type", "classification"]
    run += ["--epochs", str(ALONE.epochs), "--patience", str(ALONE.patience), "--tracking-metric", "roc", *_PLAIN]
    run += ["--batch-size", str(ALONE.batch), "--warmup-epochs", str(int(ALONE.warm_up))]
    run += ["--init-lr", str(ALONE.first_rate), "--max-lr", str(ALONE.rate), "--final-lr", str(ALONE.last_rate)]
    _call(run, out)
    run = [command, "predict", "--test-path", "test.csv", "--model-path", "model/model_0/best.pt"]
    _call([*run, "--smiles-columns", "smiles", "--preds-path", "found.csv", *_PLAIN], out)
    _write(out / "predictions.parquet", data, parts.test, pd.read_csv(out / "found.csv")[targets].to_numpy())


_PLAIN = ("--num-workers", "0", "--accelerator", "cpu")


def _call(command: Sequence[str], folder: Path) -> None:
    with (folder / "chemprop.log").open("a") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=True)


def learn_baseline(kind: Kind, data: ActivityData, fold: int, work: Path) -> None:
    """Fit a classifier per assay on all compounds but those that are judged on."""
    path = work / kind / str(fold) / "predictions.parquet"
    if not path.exists():
        parts = divide(data, fold)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(
            path, data, parts.test, fit_baseline(kind, data, parts.training, parts.validation).predict(data, parts.test)
        )


def _write(path: Path, data: ActivityData, rows: NDArray[np.integer], probabilities: NDArray[np.floating]) -> None:
    table = pd.DataFrame(np.asarray(probabilities), columns=list(data.assays))
    table.insert(0, COMPOUND, [data.compounds[row] for row in rows])
    table.to_parquet(path)


def study(
    work: Path, folds: Sequence[int], rotating: bool, command: str | None, published: Path | None
) -> dict[str, Any]:
    """Teach everything, in turn by fold, and judge it."""
    data = read_data(work / "matrix.parquet", work / "folds.parquet")
    names = [*NETWORKS, ONE, "logistic", "boosting", *(["chemprop"] if command else [])]
    for fold in folds:
        print(f"{work.name}, fold {fold}", flush=True)
        learn_ours(data, fold, work, rotating, lambda line: None)
        if command:
            learn_chemprop(data, fold, work, command)
        learn_baseline("logistic", data, fold, work)
        learn_baseline("boosting", data, fold, work)
    found = evaluate(
        {name: [work / name / str(fold) for fold in folds] for name in names},
        work / "matrix.parquet",
        work / "evaluation",
        folds=work / "folds.parquet",
        validation={name: [work / name / str(fold) for fold in folds] for name in NETWORKS},
        scores=None if published is None else {"": published},
        choose=None if published is None else PUBLISHED,
        fuse=[FUSED],
        by=["max", "mean", "learned"],
    )
    over = found.summary["over_folds"] == "median"
    means = found.summary[over & (found.summary["statistic"] == "mean")]
    apart = found.differences[
        (found.differences["over_folds"] == "median") & (found.differences["statistic"] == "mean")
    ]
    assays = found.by_assay[found.by_assay["metric"] == "AUROC"] if "metric" in found.by_assay else found.by_assay
    return {
        "compounds": len(data),
        "assays": len(data.assays),
        "mean_over_assays": json.loads(means.to_json(orient="records")),
        "differences": json.loads(apart.to_json(orient="records")),
        "by_assay": json.loads(assays.to_json(orient="records")),
        "notes": list(found.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["broad6k", "tox21"])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--chemprop", help="its command")
    asked = parser.parse_args()
    places = {
        part: asked.work / part for part in (["broad6k"] if asked.what == "broad6k" else ["balanced", "deepchem"])
    }
    results = {}
    for part, work in places.items():
        work.mkdir(parents=True, exist_ok=True)
        deepchem = part == "deepchem"
        if asked.what == "broad6k":
            write_broad6k(asked.data, work)
        else:
            write_tox21(asked.data, work, deepchem)
        published = asked.data / "activity/moshkov2023/scaffold_median_auc.csv" if asked.what == "broad6k" else None
        results[part] = study(work, [0] if deepchem else range(5), not deepchem, asked.chemprop, published)
        for row in results[part]["mean_over_assays"]:
            if row["metric"] == "AUROC":
                print(f"{part}  {row['modality']:<32} {row['value']:.4f}  [{row['low']:.3f}, {row['high']:.3f}]")
    versions = {name: version(name) for name in ("cellinfer", "torch", "rdkit", "scikit-learn", "numpy")}
    if asked.chemprop:
        told = subprocess.run([asked.chemprop, "--version"], capture_output=True, text=True, check=False)
        versions["chemprop"] = told.stdout.strip() or "unknown"
    settings = {name: {**asdict(one), **asdict(how)} for name, (one, how) in NETWORKS.items()}
    facts = {"members": MEMBERS, "networks": settings, "versions": versions, "machine": machine()}
    (RESULTS / f"activity_{asked.what}.json").write_text(json.dumps({**facts, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
