"""Hits predicted from structures, on scaffold folds: our networks, chemprop, plain classifiers, published figures.

    python -m benchmarks.activity_accuracy broad6k DATA WORK --chemprop COMMAND    # continues what is in WORK
    python -m benchmarks.activity_accuracy tox21 DATA WORK --chemprop COMMAND

DATA is the folder with `activity`; COMMAND the `chemprop` of an environment of its own. All learn from the same
compounds and are judged on the same ones by `cellinfer activity evaluate`. Rates were chosen by what validation folds
say, never by those that are judged on. Our ensembles have four members, each stopped by another fold; beside chemprop
(its own sizes and rates, as many epochs as ours at most) stands one network that is taught and stopped by the same
compounds; on a processor chemprop takes a quarter of an hour per fold, so `--slow-folds` says how many.

`broad6k`: 6,567 compounds, 24 assays, the five scaffold folds of Moshkov et al. 2023, whose networks learnt from 16,170
compounds. `tox21`: 12 assays, the scaffold split of DeepChem (80, 10, 10 %; the largest scaffolds first), by which most
of the literature is judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.activity.chemistry import scaffold
from cellinfer.activity.columns import COMPOUND, FOLD, SMILES
from cellinfer.activity.evaluation import evaluate
from cellinfer_training.activity.baselines import Kind, fit_baseline
from cellinfer_training.activity.data import ActivityData, read_data
from cellinfer_training.activity.learner import Settings, divide, learn_members, probabilities_of, usual_settings
from cellinfer_training.activity.networks import Architecture
from cellinfer_training.activity.report import train_activity
from numpy.typing import NDArray

from benchmarks._peers import RESULTS, machine

MEMBERS = 4
NETWORKS: Mapping[str, tuple[Architecture, Settings]] = {
    name: (Architecture(), usual_settings([name])) for name in ("graph", "morgan")
}
PUBLISHED = {"published graph": "cp_es_op", "published Morgan": "cpcl_es_op"}
ONE, FUSED = "graph-of-one", "graph+morgan"
_DESCRIBED = ("compound_index", "smiles", "inchikey_first_block", "scaffold_fold", "morphology_fold", "expression_fold")


@dataclass(frozen=True)
class Slow:
    """What takes minutes per fold: boosting, and chemprop by its command; on how many folds they are taught."""

    chemprop: str | None
    folds: int


def write_broad6k(data: Path, work: Path) -> None:
    """Write the matrix and the published folds as our commands have them."""
    table = pd.read_csv(data / "activity/broad6k/compounds.csv.gz")
    names = table["compound_index"].map("broad-{}".format).rename(COMPOUND)
    assays = table.drop(columns=list(_DESCRIBED)).astype("Int8")
    pd.concat([names, table["smiles"].rename(SMILES), assays], axis=1).to_parquet(work / "matrix.parquet")
    pd.DataFrame({COMPOUND: names, FOLD: table["scaffold_fold"]}).to_parquet(work / "folds.parquet")


def pick_published(data: Path, work: Path) -> Path:
    """Write the published figures of the assays that are here."""
    table = pd.read_csv(data / "activity/moshkov2023/scaffold_median_auc.csv")
    assays = pd.read_parquet(work / "matrix.parquet").columns
    path = work / "published.csv"
    table[table["assay_id"].isin(assays) & table["descriptor"].isin(PUBLISHED.values())].to_csv(path, index=False)
    return path


def write_tox21(data: Path, work: Path) -> None:
    """Write one row per SMILES that RDKit reads (labels that contradict each other are blank), in DeepChem's parts."""
    from rdkit import Chem

    table = pd.read_csv(data / "activity/tox21.csv.gz").drop(columns="mol_id")
    table = table[[Chem.MolFromSmiles(text) is not None for text in table["smiles"]]]
    by_structure = table.groupby("smiles", sort=False)
    low, high = by_structure.min(), by_structure.max()
    labels = high.where(low == high).astype("Int8")
    names = pd.Series([f"tox-{place}" for place in range(len(labels))], name=COMPOUND)
    smiles = pd.Series(labels.index, name=SMILES)
    pd.concat([names, smiles, labels.reset_index(drop=True)], axis=1).to_parquet(work / "matrix.parquet")
    scaffolds = [scaffold(text) for text in smiles]
    pd.DataFrame({COMPOUND: names, FOLD: deepchem_parts(scaffolds)}).to_parquet(work / "folds.parquet")


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
        if (out / "predictions.parquet").exists():
            continue
        if name == ONE:  # the ensemble's first member is the same network
            shutil.copytree(work / sees / str(fold) / "member-0", out / "member-0", dirs_exist_ok=True)
        if rotating:
            train_activity(data, [sees], fold, out, architecture, settings, members, report=report)
            continue
        parts = [divide(data, fold)] * members
        networks = learn_members(data, [sees], parts, out, architecture, settings, report=report)
        for kind, rows in (("validation", parts[0].validation), ("predictions", parts[0].test)):
            found = np.mean([probabilities_of(network, data, rows) for network in networks], axis=0)
            _write(out / f"{kind}.parquet", data, rows, found)


def learn_chemprop(data: ActivityData, fold: int, work: Path, command: str) -> None:
    """Teach chemprop at its own sizes and rates; our one network learns from and is stopped by the same compounds."""
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
    epochs, batch = NETWORKS["graph"][1].epochs, NETWORKS["graph"][1].batch
    run += ["--epochs", str(epochs), "--batch-size", str(batch), "--tracking-metric", "roc", *_PLAIN]
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


def study(work: Path, folds: Sequence[int], rotating: bool, slow: Slow, published: Path | None) -> dict[str, Any]:
    """Teach everything, in turn by fold, and judge it; slow peers by themselves, on the folds they are taught on."""
    data = read_data(work / "matrix.parquet", work / "folds.parquet")
    few = list(folds)[: slow.folds]
    for fold in folds:
        print(f"{work.name}, fold {fold}", flush=True)
        learn_ours(data, fold, work, rotating, lambda line: None)
        learn_baseline("logistic", data, fold, work)
        if fold in few:
            learn_baseline("boosting", data, fold, work)
            if slow.chemprop:
                learn_chemprop(data, fold, work, slow.chemprop)
    peers = ["boosting", *(["chemprop"] if slow.chemprop else [])]
    return {
        "compounds": len(data),
        "assays": len(data.assays),
        **judge(work, folds, [*NETWORKS, ONE, "logistic"], published),
        "beside_slow_peers": {"folds": few, **judge(work, few, [*NETWORKS, ONE, *peers], None)},
    }


def judge(work: Path, folds: Sequence[int], names: Sequence[str], published: Path | None) -> dict[str, Any]:
    """Compare all, and graph and Morgan fused, on the same compounds."""
    found = evaluate(
        {name: [work / name / str(fold) for fold in folds] for name in names},
        work / "matrix.parquet",
        work / ("evaluation-slow" if "boosting" in names else "evaluation"),
        folds=work / "folds.parquet",
        validation={name: [work / name / str(fold) for fold in folds] for name in NETWORKS},
        scores=None if published is None else {"": published},
        choose=None if published is None else PUBLISHED,
        fuse=[FUSED],
        by=["max", "mean", "learned"],
        venn=list(NETWORKS),
        against="chemprop" if "chemprop" in names else f"mean {FUSED}",
    )
    tables = {"mean_over_assays": found.summary, "differences": found.differences}
    means = {
        name: table[(table["over_folds"] == "median") & (table["statistic"] == "mean")].drop(columns="statistic")
        for name, table in tables.items()
    }
    assays = found.by_assay.pivot(index="assay", columns="modality", values="AUROC_median").round(4)
    return {
        **{name: json.loads(table.round(4).to_json(orient="records")) for name, table in means.items()},
        "median_auroc_by_assay": json.loads(assays.to_json(orient="index")),
        "notes": list(found.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["broad6k", "tox21"])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--chemprop", help="its command")
    parser.add_argument("--slow-folds", type=int, default=5, help="folds for chemprop and boosting")
    asked = parser.parse_args()
    work, published = asked.work / asked.what, None
    work.mkdir(parents=True, exist_ok=True)
    if asked.what == "broad6k":
        write_broad6k(asked.data, work)
        published = pick_published(asked.data, work)
    else:
        write_tox21(asked.data, work)
    folds = range(5) if asked.what == "broad6k" else [0]
    result = study(work, folds, asked.what == "broad6k", Slow(asked.chemprop, asked.slow_folds), published)
    for row in result["mean_over_assays"]:
        if row["metric"] == "AUROC":
            print(f"{row['modality']:<32} {row['value']:.4f}  [{row['low']:.3f}, {row['high']:.3f}]")
    versions = {name: version(name) for name in ("cellinfer", "torch", "rdkit", "scikit-learn", "numpy")}
    if asked.chemprop:
        told = subprocess.run([asked.chemprop, "--version"], capture_output=True, text=True, check=False)
        versions["chemprop"] = told.stdout.strip() or "unknown"
    settings = {name: {**asdict(one), **asdict(how)} for name, (one, how) in NETWORKS.items()}
    facts = {"members": MEMBERS, "networks": settings, "versions": versions, "machine": machine()}
    (RESULTS / f"activity_{asked.what}.json").write_text(json.dumps({**facts, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
