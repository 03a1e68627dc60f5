"""Assay hits from morphology: a simulated screen with known ties, and mechanisms of BBBC021 as assays.

    python -m benchmarks.morphology_activity DATA --folder WORK

DATA holds activity/broad6k and profiles/bbbc021_ljosa.

No public source that could be reached joins assays to morphology compound by compound. So the screen is simulated: real
structures, and assays that are tied to a substructure, to a mechanism that shows in profiles, to either of the two, or
to nothing. Wells come from latent mechanisms with side effects, plates, edges and noise; everything after that is the
chain a user has: `activity prepare`, `activity split`, `cellinfer profile`, training, `activity predict`, `activity
evaluate`. One part begins with images. BBBC021 is real, but its assays are mechanisms of action, and compounds are few.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cellinfer.activity.columns import COMPOUND, FOLD
from cellinfer.activity.dividing import split
from cellinfer.activity.evaluation import evaluate
from cellinfer.activity.fusion import learn
from cellinfer.activity.prediction import predict as predict_compounds
from cellinfer.activity.prepare import prepare, standardisation_of
from cellinfer.cli import app as commands
from cellinfer.profiling.columns import PLATE, WELL, feature_columns
from cellinfer.profiling.retrieval import nearest_neighbour_accuracy
from cellinfer.profiling.significance import bootstrap_interval
from cellinfer.profiling.similarity import Similarities
from cellinfer.profiling.workflow import profile
from cellinfer.wells import well_name
from cellinfer_training.activity.data import ActivityData, read_data
from cellinfer_training.activity.learner import Settings, divide, learn_members, predict
from cellinfer_training.activity.networks import Architecture
from cellinfer_training.activity.report import train_activity
from cellinfer_training.simulate import Experiment, make_compounds, write_experiment
from rdkit import Chem
from scipy import stats
from typer.testing import CliRunner

from benchmarks._peers import RESULTS, machine
from benchmarks.batch_correction import MOA, bbbc021

KINDS = ("structure", "morphology", "both", "nothing")
SUBSTRUCTURES = {
    "sulfonamide": "S(=O)(=O)[NX3]",
    "aryl chloride": "c[Cl]",
    "piperidine or piperazine": "[$(C1CCNCC1),$(C1CNCCN1)]",
    "methoxyphenyl": "cO[CH3]",
    "pyridine": "c1ccncc1",
    "aryl fluoride": "cF",
    "urea": "[NX3]C(=O)[NX3]",
    "tertiary amine": "[NX3]([CX4])([CX4])[CX4]",
    "secondary amine": "[NX3H1]([CX4])[CX4]",
    "alkene": "[CX3;!$(C=[!#6])]=[CX3]",
    "triazole": "n1nncc1",
    "benzodioxole": "c1ccc2OCOc2c1",
    "trifluoromethyl": "C(F)(F)F",
}
"""What assays may be tied to; drawn from those that enough compounds have, and not too many."""
USUAL = (0.05, 0.3)
"""Part of the compounds that has a substructure."""
PER_KIND, ACTIVE, MISSED, FALSE, TESTED = 4, 0.12, 0.15, 0.02, 0.8
"""Assays of each kind; part of the compounds with a mechanism; of hits that are missed; of inactives that are called
hits; of labels that are there."""
COMPOUNDS, PER_PLATE, REPLICATES, CONTROLS = 900, 300, 3, 32
FEATURES, SIDE_EFFECTS, NOISES = 120, 8, 12
FOLDS = 4
SEEN = {"CS": ["morgan"], "MO": ["morphology"], "early": ["morgan", "morphology"]}
ARCHITECTURE = Architecture(hidden=64)
RATES = {"rate": 3e-3, "first_rate": 3e-4, "last_rate": 3e-4}
NAMES = {
    "CS": "structure",
    "MO": "morphology",
    "early": "early fusion",
    "max CS+MO": "late fusion, max",
    "mean CS+MO": "late fusion, mean",
    "learned CS+MO": "late fusion, learned",
    "oracle CS+MO": "oracle",
}


def has(smiles: Sequence[str], pattern: str) -> np.ndarray:
    """Tell which structures have a substructure."""
    query = Chem.MolFromSmarts(pattern)
    return np.array([Chem.MolFromSmiles(text).HasSubstructMatch(query) for text in smiles])


def simulate_screen(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Draw compounds, mechanisms and labels.

    Returns
    -------
    assays : DataFrame
        Names, SMILES and labels (1, 0, NaN), assays called by what they are tied to.
    mechanisms : (compounds, 2 * PER_KIND) bool
        Which compounds have which, drawn apart from structures.
    substructures : list of str
        Those that assays of `structure`, then those of `both`, are tied to.
    """
    rng = np.random.default_rng((seed, 1))
    drawn = table.sample(COMPOUNDS, random_state=seed).reset_index(drop=True)
    found = {name: has(drawn["smiles"], pattern) for name, pattern in SUBSTRUCTURES.items()}
    usual = [name for name, rows in found.items() if USUAL[0] <= rows.mean() <= USUAL[1]]
    usual = rng.permutation(usual)[: 2 * PER_KIND].tolist()
    rules = np.column_stack([found[name] for name in usual])
    mechanisms = rng.random((COMPOUNDS, 2 * PER_KIND)) < ACTIVE
    own, shared = slice(0, PER_KIND), slice(PER_KIND, 2 * PER_KIND)
    truth = {
        "structure": rules[:, own],
        "morphology": mechanisms[:, own],
        "both": rules[:, shared] | mechanisms[:, shared],
        "nothing": rng.random((COMPOUNDS, PER_KIND)) < ACTIVE,
    }
    assays = pd.DataFrame({"name": [f"c{row:04d}" for row in drawn["compound_index"]], "SMILES": drawn["smiles"]})
    for kind, hits in truth.items():
        seen = np.where(hits, rng.random(hits.shape) >= MISSED, rng.random(hits.shape) < FALSE).astype(float)
        seen[rng.random(hits.shape) >= TESTED] = np.nan
        for number, column in enumerate(seen.T):
            assays[f"{kind}-{number + 1}"] = column
    return assays, mechanisms, usual


def simulate_wells(names: Sequence[str], mechanisms: np.ndarray, seed: int) -> pd.DataFrame:
    """Draw wells: mechanisms and side effects of compounds, plates, edges, and noise that features share.

    A mechanism moves a fifth of the features by about one standard deviation between wells at full strength. Plates
    have an offset of that size and a gain in every feature, and compounds lie elsewhere on each plate.
    """
    rng = np.random.default_rng((seed, 2))
    moved = rng.random((mechanisms.shape[1], FEATURES)) < 0.2
    directions = rng.normal(0, 1.0, moved.shape) * moved
    strengths = mechanisms * rng.uniform(0.6, 1.2, mechanisms.shape)
    side = rng.normal(0, 0.5, (len(names), SIDE_EFFECTS)) @ rng.normal(0, 0.35, (SIDE_EFFECTS, FEATURES))
    effects = strengths @ directions + side
    shared = rng.normal(0, 0.25, (NOISES, FEATURES))
    units = np.exp(rng.normal(0, 1, FEATURES))
    columns = [f"Cells_Simulated_{number:03d}" for number in range(FEATURES)]
    plates = []
    for start in range(0, len(names), PER_PLATE):
        some = np.arange(start, min(start + PER_PLATE, len(names)))
        for replicate in range(REPLICATES):
            rows = rng.permutation(np.concatenate([some, np.full(CONTROLS, -1)]))
            places = [well_name(place // 24 + 1, place % 24 + 1) for place in range(len(rows))]
            shift = np.where(rows[:, None] >= 0, effects[rows], 0.0)
            edge = np.array([place // 24 in (0, 15) or place % 24 in (0, 23) for place in range(len(rows))])
            noise = rng.normal(0, 1, (len(rows), NOISES)) @ shared + rng.normal(0, 0.6, shift.shape)
            values = shift + noise + 0.5 * edge[:, None] * rng.normal(0, 1, FEATURES)
            values = 10 + units * (rng.normal(0, 1, FEATURES) + np.exp(rng.normal(0, 0.2, FEATURES)) * values)
            head = {
                PLATE: f"map{start // PER_PLATE + 1}-{replicate + 1}",
                WELL: places,
                COMPOUND: [names[row] if row >= 0 else "DMSO" for row in rows],
            }
            plates.append(pd.concat([pd.DataFrame(head), pd.DataFrame(values, columns=columns)], axis=1))
    return pd.concat(plates, ignore_index=True)


def learn_folds(
    data: ActivityData, modalities: Sequence[str], folder: Path, epochs: int, seed: int
) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """Teach a network for every fold; return predictions of the fold left out and of that which learning stopped by."""
    judged, stopped = [], []
    usable = data.complete(modalities)
    for fold in sorted(set(data.folds[data.folds >= 0].tolist())):
        parts = divide(data, fold, usable)
        place, how = folder / f"{'-'.join(modalities)}-{fold}", Settings(epochs=epochs, patience=0, seed=seed, **RATES)
        (network,) = learn_members(data, modalities, [parts], place, ARCHITECTURE, how, report=lambda line: None)
        for rows, tables in ((parts.test, judged), (parts.validation, stopped)):
            chances = 1 / (1 + np.exp(-predict(network, data, rows).astype(np.float64)))
            table = pd.DataFrame(chances, columns=list(data.assays))
            table.insert(0, COMPOUND, [data.compounds[row] for row in rows])
            table.insert(1, FOLD, fold)
            tables.append(table)
    return judged, stopped


def check_chain(
    data: ActivityData, made: Path, prepared: Path, folder: Path, modalities: Sequence[str], epochs: int, seed: int
) -> dict[str, float]:
    """Train and export one fold as the command does, predict from files, and compare with what was learnt."""
    how = Settings(epochs=epochs, patience=0, seed=seed, **RATES)
    train_activity(
        data,
        modalities,
        0,
        folder,
        ARCHITECTURE,
        how,
        report=lambda line: None,
        standardisation=standardisation_of(prepared / "matrix.parquet"),
    )
    structures = prepared / "matrix.parquet" if "morgan" in modalities else None
    profiles = {"morphology": made} if "morphology" in modalities else None
    options: dict[str, Any] = {"device": "cpu", "threads": 1}
    if structures is not None:
        options |= {"smiles": "Metadata_SMILES", "identifier": COMPOUND}
    predict_compounds([folder / "activity.onnx"], folder / "hits.parquet", structures, profiles, **options)
    found = pd.read_parquet(folder / "hits.parquet").set_index(COMPOUND)
    learnt = pd.read_parquet(folder / "predictions.parquet").set_index(COMPOUND)
    apart = (found.loc[learnt.index, learnt.columns] - learnt).abs().to_numpy()
    return {"compounds": len(learnt), "largest_difference": float(apart.max())}


def study_seed(data_folder: Path, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Simulate a screen, put it through the chain, and judge."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(data_folder / "activity" / "broad6k" / "compounds.csv.gz")
    assays, mechanisms, substructures = simulate_screen(table, seed)
    assays.to_csv(folder / "assays.csv", index=False)
    prepare(folder / "assays.csv", folder / "prepared")
    split(folder / "prepared", folder / "split", by="scaffold", folds=FOLDS, seed=seed)
    simulate_wells(assays["name"].tolist(), mechanisms, seed).to_parquet(folder / "wells.parquet")
    controls = f"{COMPOUND} == 'DMSO'"
    profile(folder / "wells.parquet", folder / "profiled", controls=controls, picture=False, threads=1)
    made, matrix = folder / "profiled", folder / "prepared" / "matrix.parquet"
    data = read_data(matrix, folder / "split" / "folds.parquet", {"morphology": made})
    learnt = {name: learn_folds(data, kinds, folder / name, epochs, seed) for name, kinds in SEEN.items()}
    result = _judged(learnt, folder / "prepared", folder / "split", folder / "evaluated")
    found: dict[str, Any] = {"compounds": len(data), "assays": len(data.assays), "substructures": substructures}
    found["auroc"] = _by_kind(result.by_assay)
    found["weights"] = _weights(data, learnt)
    found["notes"] = list(result.notes)
    if seed == 1:
        prepared = folder / "prepared"
        found["chain"] = {
            name: check_chain(data, made, prepared, folder / f"chain-{name}", kinds, epochs, seed)
            for name, kinds in SEEN.items()
        }
    return found


def _judged(learnt: dict[str, Any], prepared: Path, folds: Path | None, out: Path) -> Any:
    return evaluate(
        {name: tables[0] for name, tables in learnt.items()},
        prepared,
        out,
        folds=folds,
        validation={name: tables[1] for name, tables in learnt.items()},
        fuse="CS+MO",
        by=["max", "mean", "learned"],
        venn=["CS", "MO"],
        over="mean",
    )


def _by_kind(by_assay: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the mean AUROC over assays of each kind."""
    kind = by_assay["assay"].str.split("-").str[0]
    means = by_assay.groupby(["modality", kind], sort=False)["AUROC_mean"].mean()
    return {name: {each: float(means[name, each]) for each in KINDS} for name in by_assay["modality"].unique()}


def _weights(data: ActivityData, learnt: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return what learned fusion gives to structure and to morphology, mean over folds and assays of a kind."""
    labels = pd.DataFrame(data.labels, index=list(data.compounds), columns=list(data.assays))
    rows = []
    for structure, morphology in zip(learnt["CS"][1], learnt["MO"][1], strict=True):
        names = structure[COMPOUND][structure[COMPOUND].isin(morphology[COMPOUND])]
        tables = [each.set_index(COMPOUND).loc[names, list(data.assays)] for each in (structure, morphology)]
        rows.append(learn([each.to_numpy() for each in tables], labels.loc[names].to_numpy()).weights)
    mean = np.mean(rows, axis=0)
    kinds = np.array([assay.split("-")[0] for assay in data.assays])
    return {
        name: {kind: float(mean[place, kinds == kind].mean()) for kind in KINDS}
        for place, name in enumerate(("CS", "MO"))
    }


def interval(values: Iterable[float]) -> dict[str, Any]:
    """Return the mean over seeds and its 95 % interval by Student's t."""
    given = np.array(list(values), float)
    half = stats.t.ppf(0.975, len(given) - 1) * given.std(ddof=1) / np.sqrt(len(given)) if len(given) > 1 else np.nan
    return {"mean": float(given.mean()), "half": float(half), "seeds": given.tolist()}


def summarise(seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Join seeds: AUROC of every modality by kind of assay, learned weights, and gains of late fusion, paired."""
    first = next(iter(seeds.values()))
    summary: dict[str, Any] = {"auroc": {}, "weights": {}, "gain_of_late_fusion": {}}
    for name in first["auroc"]:
        summary["auroc"][name] = {kind: interval(s["auroc"][name][kind] for s in seeds.values()) for kind in KINDS}
    for name in first["weights"]:
        summary["weights"][name] = {kind: interval(s["weights"][name][kind] for s in seeds.values()) for kind in KINDS}
    for fused in (name for name in first["auroc"] if name not in ("CS", "MO")):
        summary["gain_of_late_fusion"][fused] = {
            kind: interval(
                s["auroc"][fused][kind] - max(s["auroc"]["CS"][kind], s["auroc"]["MO"][kind]) for s in seeds.values()
            )
            for kind in KINDS
        }
    return summary


def study_images(data_folder: Path, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Do the same from images: two plates of 60 compounds, through `cellinfer run` and `cellinfer profile`.

    Assays are the six mechanisms; structures are real and drawn without regard to them.
    """
    experiment = Experiment(compounds=10, plates=2, replicates=1, strength=1.5, seed=seed)
    if not (folder / "images" / "truth" / "experiment.json").exists():
        write_experiment(folder / "images", experiment)
    runs = [folder / f"{plate}-run" for plate in experiment.plate_names]
    for plate, out in zip(experiment.plate_names, runs, strict=True):
        if not (out / "run.json").exists():
            line = ["run", str(folder / "images" / plate), "--nuclei", "DNA", "--cells", "RNA", "--out", str(out)]
            line += ["--features", "basic,Texture,RadialDistribution", "--workers", "1", "--threads", "1"]
            answer = CliRunner().invoke(commands, line)
            assert answer.exit_code == 0, answer.output
    controls = f"{COMPOUND} == 'DMSO'"
    made = folder / "profiled"
    profile(runs, made, layout=folder / "images", controls=controls, treatment=COMPOUND, picture=False, threads=1)
    compounds = [each for each in make_compounds(experiment) if each.strength > 0]
    table = pd.read_csv(data_folder / "activity" / "broad6k" / "compounds.csv.gz")
    smiles = table.sample(len(compounds), random_state=seed)["smiles"].tolist()
    assays = pd.DataFrame({"name": [each.name for each in compounds], "SMILES": smiles})
    for mechanism in dict.fromkeys(each.mechanism for each in compounds):
        assays[mechanism] = [float(each.mechanism == mechanism) for each in compounds]
    assays.to_csv(folder / "assays.csv", index=False)
    prepare(folder / "assays.csv", folder / "prepared", skip=["pains", "frequent"])
    split(folder / "prepared", folder / "split", by="scaffold", folds=5, seed=seed)
    data = read_data(
        folder / "prepared" / "matrix.parquet", folder / "split" / "folds.parquet", {"morphology": made}, COMPOUND
    )
    found: dict[str, Any] = {
        "wells": 2 * experiment.wells,
        "compounds": len(data),
        "features": data.widths(["morphology"])["morphology"],
    }
    learnt = {name: learn_folds(data, SEEN[name], folder / name, epochs, seed)[0] for name in ("CS", "MO")}
    pooled = {name: pd.concat(tables).drop(columns=FOLD) for name, tables in learnt.items()}
    result = evaluate(pooled, folder / "prepared", folder / "evaluated")
    rows = result.summary.query("metric == 'AUROC' and statistic == 'mean' and over_folds == 'mean'")
    found["auroc"] = {
        row["modality"]: {"mean": row["value"], "low": row["low"], "high": row["high"]} for _, row in rows.iterrows()
    }
    return found


def study_bbbc021(data_folder: Path, folder: Path, seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """Learn mechanisms of treatments from profiles, whole compounds left out; beside neighbours and chance."""
    folder.mkdir(parents=True, exist_ok=True)
    wells = bbbc021(data_folder)
    named = [f"{name} {dose:g}" for name, dose in zip(wells[COMPOUND], wells["Metadata_Concentration"], strict=True)]
    wells.insert(0, "Metadata_Treatment", named)
    wells.to_parquet(folder / "wells.parquet")
    controls = f"{COMPOUND} == 'DMSO'"
    profile(
        folder / "wells.parquet",
        folder / "profiled",
        controls=controls,
        treatment="Metadata_Treatment",
        picture=False,
        threads=1,
    )
    known = wells[wells[MOA].notna() & (wells[COMPOUND] != "DMSO")].drop_duplicates("Metadata_Treatment")
    known = known[["Metadata_Treatment", COMPOUND, MOA]].reset_index(drop=True)
    compounds = known.drop_duplicates(COMPOUND)[[COMPOUND, MOA]].reset_index(drop=True)
    made = pd.read_parquet(folder / "profiled" / "Treatment.parquet")
    made = made[made["Metadata_Treatment"].isin(known["Metadata_Treatment"])].reset_index(drop=True)
    similarities = Similarities(made[feature_columns(made)].to_numpy())
    nearest = nearest_neighbour_accuracy(similarities, made, label=MOA, compound=COMPOUND)
    found: dict[str, Any] = {
        "treatments": len(known),
        "compounds": len(compounds),
        "compounds_by_mechanism": compounds[MOA].value_counts().to_dict(),
        "nearest_neighbour": {"accuracy": nearest.accuracy, "interval": list(nearest.interval)},
        "chance_largest_class": float(known[MOA].value_counts(normalize=True).max()),
    }
    for name in ("learnt", "permuted"):
        right, areas = [], []
        for seed in seeds:
            rng = np.random.default_rng((seed, 9))
            labels = compounds.assign(**{MOA: rng.permutation(compounds[MOA])}) if name == "permuted" else compounds
            accuracy, area = _mechanisms(known.drop(columns=MOA).merge(labels), folder, f"{name}-{seed}", epochs, seed)
            right.append(accuracy)
            areas.append(area)
        each = np.mean(right, axis=0)
        found[name] = {
            "accuracy": float(each.mean()),
            "interval": list(bootstrap_interval(each, known[COMPOUND].to_numpy())),
            "accuracy_by_seed": [float(one.mean()) for one in right],
            "auroc_by_mechanism": pd.concat(areas, axis=1).mean(axis=1).to_dict(),
            "auroc": interval(float(one.mean()) for one in areas),
        }
    return found


def _mechanisms(known: pd.DataFrame, folder: Path, name: str, epochs: int, seed: int) -> tuple[np.ndarray, pd.Series]:
    """Return which treatments get their own mechanism, and the AUROC of each, from networks that never saw a compound.

    Ten folds; compounds of one mechanism are never in neighbouring ones, so that what learning is stopped by is not
    what the fold left out would need.
    """
    rng = np.random.default_rng((seed, 10))
    place = {}
    for _, some in known.drop_duplicates(COMPOUND).groupby(MOA):
        start = rng.integers(10)
        place |= {compound: int(start + 2 * number) % 10 for number, compound in enumerate(some[COMPOUND])}
    matrix = pd.get_dummies(known[MOA]).astype(int)
    matrix.insert(0, COMPOUND, known["Metadata_Treatment"])
    folds = pd.DataFrame({COMPOUND: known["Metadata_Treatment"], FOLD: known[COMPOUND].map(place)})
    matrix.to_parquet(folder / f"{name}.parquet")
    folds.to_parquet(folder / f"{name}-folds.parquet")
    profiles = {"morphology": folder / "profiled"}
    data = read_data(folder / f"{name}.parquet", folder / f"{name}-folds.parquet", profiles, "Metadata_Treatment")
    tables, _ = learn_folds(data, ["morphology"], folder / name, epochs, seed)
    pooled = pd.concat(tables).drop(columns=FOLD)
    result = evaluate({"MO": pooled}, folder / f"{name}.parquet")
    chances = pooled.set_index(COMPOUND).loc[known["Metadata_Treatment"]]
    best = np.array(chances.columns)[chances.to_numpy().argmax(axis=1)]
    return (best == known[MOA].to_numpy()).astype(float), result.by_assay.set_index("assay")["AUROC_mean"]


def draw(summary: dict[str, Any], path: Path) -> None:
    """Draw AUROC by kind of assay and modality, with intervals over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [name for name in NAMES if name in summary["auroc"]]
    colours = dict(
        zip(NAMES, ("#4477aa", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#66ccee", "#bbbbbb"), strict=True)
    )
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [summary["auroc"][name][kind] for kind in KINDS]
        axes.bar(
            np.arange(len(KINDS)) + (number - (len(names) - 1) / 2) * width,
            [each["mean"] - 0.5 for each in values],
            width,
            bottom=0.5,
            yerr=[each["half"] for each in values],
            color=colours[name],
            label=NAMES[name],
            error_kw={"elinewidth": 0.8},
        )
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set(ylim=(0.4, 1.0), ylabel="AUROC, mean over assays", xticks=range(len(KINDS)))
    axes.set_xticklabels([f"tied to {kind}" for kind in KINDS])
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _once(folder: Path, study: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Do a part, or take what was found when it was done before."""
    kept = folder / "found.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(study(folder)))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for everything that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds = {}
    for seed in asked.seeds:
        place = asked.folder / f"screen-{seed}"
        seeds[seed] = _once(place, partial(study_seed, asked.data, seed=seed, epochs=asked.epochs))
        print(seed, json.dumps(seeds[seed]["auroc"]), flush=True)
    found = {
        "versions": {name: version(name) for name in ("cellinfer", "torch", "rdkit", "numpy", "pandas")},
        "machine": machine(),
        "screen": {"seeds": seeds, "summary": summarise(seeds)},
        "bbbc021": _once(
            asked.folder / "bbbc021", lambda at: study_bbbc021(asked.data, at, asked.seeds, 4 * asked.epochs)
        ),
        "images": _once(
            asked.folder / "images", lambda at: study_images(asked.data, at, asked.seeds[0], 4 * asked.epochs)
        ),
    }
    (RESULTS / "morphology_activity.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found["screen"]["summary"], RESULTS / "morphology_activity.png")


if __name__ == "__main__":
    main()
