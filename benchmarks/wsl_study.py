"""A network taught on treatments, against one that has only seen photographs, and against classical features.

Simulated Cell Painting experiments (`cellinfer_training.simulate`), one per seed. Each has 24 compounds of 6 mechanisms
on 6 plates. The network learns on plates 1 to 3, and only three compounds of each mechanism; all methods are then
judged on plates 4 to 6, with all compounds. Strength and learning rate were chosen on seed 101, which is not part of
the study. A seed takes about an hour of one processor core.

    python -m benchmarks.wsl_study FOLDER --seeds 1 2 3      # stop and start as you like
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from cellinfer.measurement import measure_compartments
from cellinfer.profiling.aggregation import aggregate, aggregate_in_steps
from cellinfer.profiling.columns import PLATE, SITE, WELL, feature_columns
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.pairs import PairRules
from cellinfer.profiling.retrieval import average_precision
from cellinfer.profiling.significance import expected_average_precision
from cellinfer.profiling.sphering import REGULARIZATION, sphere
from cellinfer.profiling.workflow import profile
from cellinfer.sessions import open_embedder
from cellinfer_training.embedding.crops import (
    TREATMENT,
    CropSet,
    choose,
    open_crops,
    pack_experiment,
    scale,
    subset,
)
from cellinfer_training.embedding.network import EfficientNet, embed, load_imagenet_weights, start_from_imagenet
from cellinfer_training.embedding.report import Claims, finish
from cellinfer_training.embedding.wsl import CELLS, HELD, TRAINING, Learner, Settings
from cellinfer_training.simulate import CHANNELS, CONTROL, Experiment, make_compounds, paint
from cellinfer_training.train import release
from scipy import stats

from benchmarks._peers import machine

RESULTS = Path(__file__).parent / "results"
MECHANISM = "Metadata_Mechanism"
LEARNT, JUDGED = ("plate1", "plate2", "plate3"), ("plate4", "plate5", "plate6")
SUMMARY = "features of cells in 5 Cell Painting channels; taught on simulated cells only, shows how it is done"
BOX, STRENGTH = 48, 1.5
UNSEEN = "-2"
"""Compounds of this number, the second strongest of each mechanism, are never learnt."""
FAMILIES = ("AreaShape", "Intensity", "Texture", "Granularity", "RadialDistribution", "Correlation")
METHODS = {
    "wsl": "WSL (EfficientNet-B0 taught on treatments)",
    "start": "the same network before it was taught",
    "imagenet": "ImageNet (embed-imagenet, each channel)",
    "classical": "classical features (cellinfer.measure)",
    "plain": "mean intensities and sizes only",
}
CORRECTIONS = {
    "none": "none",
    "plates": "standardised by each plate's controls",
    "sphered": "sphered on controls",
    "profile": "`cellinfer profile`: plates, selection, sphering",
    "nested": "the same, lambda chosen by replicates",
}
REGULARIZATIONS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


def design(seed: int, replicates: int, controls: int) -> Experiment:
    return Experiment(replicates=replicates, controls=controls, strength=STRENGTH, seed=seed)


def settings(seed: int, epochs: int) -> Settings:
    return Settings(epochs=epochs, cooling=True, scheme="plates", held=JUDGED, seed=seed)


def prepare(folder: Path, seed: int, given: argparse.Namespace) -> None:
    """Make whatever of a seed's tables is missing."""
    experiment, device = design(seed, given.replicates, given.controls), given.device
    crops = _crops(folder, experiment)
    judged, tables = subset(crops, _judged_cells(crops.index, seed, given.cells)), _tables(folder, given)
    tables.mkdir(exist_ok=True)
    _table(tables / "classical.parquet", lambda: _classical(experiment, judged.index))
    learner = Learner(_taught(folder, crops, seed, given), settings(seed, given.epochs), folder / "wsl", device)
    if learner.step < learner.steps:
        learner.run(lambda line: print(f"seed {seed}  {line}", flush=True))
    if not (folder / "pretext.json").exists():
        found = {role: learner.judge(role) for role in (TRAINING, CELLS, HELD)}
        figures = {role: [pretext.accuracy, pretext.crops] for role, pretext in found.items() if pretext is not None}
        (folder / "pretext.json").write_text(json.dumps({"classes": len(learner.classes), **figures}))
    _table(tables / "wsl.parquet", lambda: _embedded(judged, lambda c: embed(learner.network, scale(c), device=device)))
    untaught = EfficientNet("b0", len(CHANNELS), 2)
    start_from_imagenet(untaught, load_imagenet_weights())
    _table(tables / "start.parquet", lambda: _embedded(judged, lambda c: embed(untaught, scale(c), device=device)))
    _table(tables / "imagenet.parquet", lambda: _embedded(judged, _imagenet()))


def _tables(folder: Path, given: argparse.Namespace) -> Path:
    return folder / f"{given.cells}_cells"


def _crops(folder: Path, experiment: Experiment) -> CropSet:
    if not (folder / "crops" / "crops.json").exists():
        pack_experiment(folder / "crops", experiment, BOX)
    return open_crops(folder / "crops")


def _taught(folder: Path, crops: CropSet, seed: int, given: argparse.Namespace) -> CropSet:
    """Return what the network is taught on: the experiment itself, or one with more wells of the same compounds."""
    more = design(seed, given.taught_replicates or given.replicates, given.controls)
    taught = _crops(folder / "taught", more) if given.taught_replicates else crops
    return choose(taught, _learnt(more))


def _judged_cells(index: pd.DataFrame, seed: int, cells: int) -> np.ndarray:
    """Draw the same number of cells, where there are as many, from every well of the judged plates."""
    order = np.random.default_rng((seed, 31)).permutation(len(index))
    place = index.iloc[order].groupby([PLATE, WELL]).cumcount().sort_index()
    return (index[PLATE].isin(JUDGED) & (place < cells)).to_numpy()


def _learnt(experiment: Experiment) -> list[str]:
    return [compound.name for compound in make_compounds(experiment) if not compound.name.endswith(UNSEEN)]


def _table(path: Path, make: Callable[[], pd.DataFrame]) -> None:
    if not path.exists():
        made = make()
        made.to_parquet(path.with_suffix(".partial"), index=False)
        path.with_suffix(".partial").replace(path)


def _embedded(crops: CropSet, network: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Describe crops and return wells, since cells are many."""
    parts = [network(crops.take(np.arange(first, min(first + 256, len(crops))))) for first in range(0, len(crops), 256)]
    features = np.concatenate(parts)
    names = [f"Cells_Embedding_{number:04d}" for number in range(features.shape[1])]
    cells = pd.concat([crops.index.drop(columns="ObjectNumber"), pd.DataFrame(features, columns=names)], axis=1)
    return _wells(cells)


def _imagenet() -> Callable[[np.ndarray], np.ndarray]:
    session = open_embedder("embed-imagenet", device="cpu", threads=1)
    side = session.card.side

    def describe(crops: np.ndarray) -> np.ndarray:
        rows = []
        for crop in crops:
            planes = [cv2.resize(plane, (side, side), interpolation=cv2.INTER_LINEAR) for plane in scale(crop)]
            rows.append(session.run(np.stack(planes)[:, None]).ravel())
        return np.stack(rows)

    return describe


def _classical(experiment: Experiment, judged: pd.DataFrame) -> pd.DataFrame:
    """Measure the judged cells by their true outlines."""
    sites = []
    wanted = {key: set(rows["ObjectNumber"]) for key, rows in judged.groupby([PLATE, WELL, SITE])}
    for plate, content, site, field in paint(experiment):
        if plate not in JUDGED:
            continue
        parts = {
            "Nuclei": field.nuclei,
            "Cells": field.cells,
            "Cytoplasm": np.where(field.nuclei > 0, 0, field.cells),
        }
        tables = measure_compartments(parts, dict(zip(CHANNELS, field.images, strict=True)), families=FAMILIES)
        cells = pd.concat([table.set_index("ObjectNumber") for table in tables.values()], axis=1)
        cells = cells[cells.index.isin(list(wanted[plate, content.well, site]))]
        where = {
            PLATE: plate,
            WELL: content.well,
            SITE: site,
            TREATMENT: content.compound.name,
            MECHANISM: content.compound.mechanism,
        }
        sites.append(pd.concat([pd.DataFrame(where, index=cells.index), cells], axis=1))
    return _wells(pd.concat(sites, ignore_index=True))


def _wells(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells to sites by the median, sites to wells by the mean."""
    return aggregate_in_steps(cells, threads=1)


def profiles(wells: pd.DataFrame, correction: str, regularization: float | None = None) -> pd.DataFrame:
    """Correct profiles of wells; every method's features are standardised by controls, of all plates or of each."""
    if correction in ("profile", "nested"):
        return _as_profile_does(wells, "nested" if correction == "nested" else REGULARIZATION)
    names = feature_columns(wells)
    values = wells[names].to_numpy(np.float64)
    whole = [name for name, good in zip(names, np.isfinite(values).all(0), strict=True) if good]
    wells = pd.concat([wells.drop(columns=names), wells[whole]], axis=1)
    controls = (wells[TREATMENT] == CONTROL).to_numpy()
    scope = (PLATE,) if correction == "plates" else ()
    made = normalise(wells, by=scope, reference=controls).table
    made = made.dropna(axis=1)  # features that are the same in all controls
    if correction == "sphered":
        made, _ = sphere(made, controls, regularization=regularization)
    return made


def _as_profile_does(wells: pd.DataFrame, regularization: float | str) -> pd.DataFrame:
    """Run `cellinfer profile` as it is: each plate on its controls, selection of features, sphering."""
    with TemporaryDirectory() as folder:
        wells.to_parquet(Path(folder) / "Well.parquet")
        controls = f"{TREATMENT} == {CONTROL!r}"
        made = profile(
            Path(folder) / "Well.parquet",
            Path(folder) / "profile",
            controls=controls,
            treatment=TREATMENT,
            regularization=regularization,
            consensus="none",
            picture=False,
            threads=1,
        )
    return made.wells


def judge(wells: pd.DataFrame) -> dict[str, float]:
    """Mean average precision of replicates on other plates, and of compounds of one mechanism."""
    treated = wells[wells[TREATMENT] != CONTROL].reset_index(drop=True)
    replicates = average_precision(treated, PairRules([TREATMENT], [PLATE], [], [TREATMENT, PLATE]), threads=1)
    compounds = aggregate(treated, [TREATMENT, MECHANISM], "mean", count=None, threads=1)
    mechanisms = average_precision(compounds, PairRules([MECHANISM], [], [], [MECHANISM]), threads=1)
    unseen = mechanisms[TREATMENT].str.endswith(UNSEEN).to_numpy()
    score, chance = "average_precision", _chance
    return {
        "replicates": float(replicates[score].mean()),
        "mechanisms": float(mechanisms[score].mean()),
        "mechanisms_unseen": float(mechanisms.loc[unseen, score].mean()),
        "replicates_chance": chance(replicates),
        "mechanisms_chance": chance(mechanisms),
    }


def _chance(queries: pd.DataFrame) -> float:
    return float(np.mean(expected_average_precision(queries["n_pos_pairs"], queries["n_total_pairs"])))


def evaluate(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Score every method of a seed."""
    tables = _tables(folder, given)
    scores: dict[str, Any] = {"pretext": json.loads((folder / "pretext.json").read_text())}
    for method in METHODS:
        source = "classical" if method == "plain" else method
        wells = pd.read_parquet(tables / f"{source}.parquet")
        if method == "plain":
            names = feature_columns(wells)
            kept = [name for name in names if name in _plain()]
            wells = pd.concat([wells.drop(columns=names), wells[kept]], axis=1)
        scores[method] = {correction: judge(profiles(wells, correction)) for correction in CORRECTIONS}
        scores[method]["features"] = len(feature_columns(profiles(wells, "none")))
        scores[method]["regularization"] = {
            f"{value:g}": judge(profiles(wells, "sphered", value)) for value in REGULARIZATIONS
        }
    return scores


def _plain() -> set[str]:
    means = {f"Cells_Intensity_MeanIntensity_{channel}" for channel in CHANNELS}
    return means | {"Nuclei_AreaShape_Area", "Cells_AreaShape_Area"}


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half width of the 95 % interval by Student's t."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)), half


def summarise(by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Join seeds: means, intervals, and paired differences from WSL."""
    summary: dict[str, Any] = {}
    for metric in ("replicates", "mechanisms", "mechanisms_unseen"):
        summary[metric] = {}
        for correction in CORRECTIONS:
            rows = {}
            for method in METHODS:
                values = [scores[method][correction][metric] for scores in by_seed.values()]
                mean, half = interval(values)
                rows[method] = {"mean": mean, "half": half, "seeds": values}
                apart = [
                    scores["wsl"][correction][metric] - v for scores, v in zip(by_seed.values(), values, strict=True)
                ]
                if method != "wsl":
                    rows[method]["wsl_minus"] = dict(zip(("mean", "half"), interval(apart), strict=True))
                if correction != "none":
                    before = summary[metric]["none"][method]["seeds"]
                    gains = [after - without for after, without in zip(values, before, strict=True)]
                    rows[method]["gain"] = dict(zip(("mean", "half"), interval(gains), strict=True))
            summary[metric][correction] = rows
    for chance in ("replicates_chance", "mechanisms_chance"):
        summary[chance] = float(np.mean([scores["wsl"]["none"][chance] for scores in by_seed.values()]))
    for role in (TRAINING, CELLS, HELD):
        summary.setdefault("pretext", {})[role] = interval([s["pretext"][role][0] for s in by_seed.values()])
    gaps = [s["pretext"][CELLS][0] - s["pretext"][HELD][0] for s in by_seed.values()]
    summary["pretext"]["gap"] = interval(gaps)
    return summary


def write(by_seed: dict[int, dict[str, Any]], given: argparse.Namespace) -> None:
    """Write `results/NAME.json`, `.md` and `.png`."""
    summary, epochs, name = summarise(by_seed), given.epochs, given.name
    experiment = {
        key: value for key, value in asdict(design(0, given.replicates, given.controls)).items() if key != "seed"
    }
    record = {
        "task": "embeddings of cells of simulated Cell Painting experiments, judged by retrieval on unseen plates",
        "experiment": experiment,
        "learnt_on": LEARNT,
        "judged_on": JUDGED,
        "box": BOX,
        "judged_cells_per_well": given.cells,
        "never_learnt": f"compounds whose name ends in {UNSEEN}",
        "settings": asdict(settings(0, epochs)),
        "regularization": REGULARIZATION,
        "summary": summary,
        "seeds": by_seed,
        "versions": {package: version(package) for package in ("torch", "numpy", "onnxruntime")},
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text("\n".join([*_lines(summary, by_seed, epochs), "", f"![]({name}.png)"]) + "\n")
    _draw(summary, len(by_seed), RESULTS / f"{name}.png")


def _lines(summary: dict[str, Any], by_seed: dict[int, dict[str, Any]], epochs: int) -> Iterator[str]:
    yield "# Embeddings taught on treatments, against ImageNet and classical features"
    yield ""
    yield (
        f"Simulated Cell Painting, seeds {', '.join(map(str, by_seed))}; mean and 95 % interval over seeds (Student's "
        f"t). Learnt on plates 1-3 ({epochs} epochs), judged on plates 4-6. Difference: WSL minus the method, by seed."
    )
    titles = {
        "replicates": f"Replicates on other plates: mAP (chance {summary['replicates_chance']:.3f})",
        "mechanisms": f"Compounds of one mechanism: mAP (chance {summary['mechanisms_chance']:.3f})",
        "mechanisms_unseen": "The same, asked by the 6 compounds that were never learnt",
    }
    for metric, title in titles.items():
        yield from ("", f"## {title}", "")
        yield from _by_correction(summary[metric], CORRECTIONS, "")
        yield from ("", "WSL minus the method:", "")
        yield from _by_correction(summary[metric], CORRECTIONS, "wsl_minus")
        yield from ("", "Gain by correcting:", "")
        yield from _by_correction(summary[metric], [name for name in CORRECTIONS if name != "none"], "gain")
    pretext = summary["pretext"]
    classes = next(iter(by_seed.values()))["pretext"]["classes"]
    yield from ("", f"## The pretext: which of {classes} treatments? (chance {1 / classes:.3f})", "")
    yield "| judged on | accuracy, mean over classes |"
    yield "|---|---|"
    for role, words in ((TRAINING, "crops that were learnt"), (CELLS, "left-out cells"), (HELD, "left-out plates")):
        yield f"| {words} | {pretext[role][0]:.3f} ± {pretext[role][1]:.3f} |"
    yield f"| gap: left-out cells minus left-out plates | {pretext['gap'][0]:.3f} ± {pretext['gap'][1]:.3f} |"
    yield from ("", "## Regularisation of sphering, mechanisms (mean over seeds)", "")
    yield "| method | " + " | ".join(f"{value:g}" for value in REGULARIZATIONS) + " |"
    yield "|---|" + "---|" * len(REGULARIZATIONS)
    for method, words in METHODS.items():
        means = [
            np.mean([s[method]["regularization"][f"{value:g}"]["mechanisms"] for s in by_seed.values()])
            for value in REGULARIZATIONS
        ]
        yield f"| {words} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"


def _by_correction(summary: dict[str, Any], corrections: Iterable[str], figure: str) -> Iterator[str]:
    """Yield a table of methods by corrections: of the scores themselves, or of a figure beside them."""
    shown = list(corrections)
    yield "| method | " + " | ".join(CORRECTIONS[name] for name in shown) + " |"
    yield "|---|" + "---|" * len(shown)
    for method, words in METHODS.items():
        cells = [summary[name][method] for name in shown]
        found = [cell[figure] if figure else cell for cell in cells if not figure or figure in cell]
        if found:
            row = [f"{one['mean']:{'+' if figure else ''}.3f} ± {one['half']:.3f}" for one in found]
            yield f"| {words} | " + " | ".join(row) + " |"


def _draw(summary: dict[str, Any], seeds: int, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    width = 0.8 / len(CORRECTIONS)
    left, right, pretext = figure.subplots(1, 3, width_ratios=(1.3, 1.3, 0.7))
    for axes, metric, title in (
        (left, "replicates", "Replicates on other plates"),
        (right, "mechanisms", "Compounds of one mechanism"),
    ):
        for place, correction in enumerate(CORRECTIONS):
            rows = [summary[metric][correction][method] for method in METHODS]
            x = np.arange(len(METHODS)) + width * (place - (len(CORRECTIONS) - 1) / 2)
            axes.bar(
                x,
                [row["mean"] for row in rows],
                0.92 * width,
                label=CORRECTIONS[correction],
                color=f"C{place}",
                alpha=0.75,
            )
            for at, row in zip(x, rows, strict=True):
                axes.plot([at] * len(row["seeds"]), row["seeds"], ".", color="0.2", ms=4)
        axes.axhline(summary[f"{metric}_chance"], color="0.5", ls=":", label="chance")
        axes.set_xticks(range(len(METHODS)), list(METHODS))
        axes.set(title=title, ylabel="mean average precision")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    roles = (TRAINING, CELLS, HELD)
    pretext.bar(
        ["learnt", "left-out\ncells", "left-out\nplates"],
        [summary["pretext"][role][0] for role in roles],
        yerr=[summary["pretext"][role][1] for role in roles],
        color="0.6",
        capsize=4,
    )
    pretext.set(title="Pretext of WSL", ylabel="accuracy, mean over treatments")
    figure.suptitle(f"Simulated Cell Painting, {seeds} seeds (dots); judged on plates that were not learnt from")
    figure.savefig(path, dpi=110)


def bundle(folder: Path, seed: int, given: argparse.Namespace) -> Path:
    """Put the network of one seed into `cellinfer_models` as embed-wsl, with what the study found in its card."""
    crops = _taught(folder, _crops(folder, design(seed, given.replicates, given.controls)), seed, given)
    learner = Learner(crops, settings(seed, given.epochs), folder / "wsl")
    record = json.loads((RESULTS / f"{given.name}.json").read_text())
    found = {
        metric: {method: round(row["mean"], 3) for method, row in record["summary"][metric]["nested"].items()}
        for metric in ("replicates", "mechanisms", "mechanisms_unseen")
    }
    claims = Claims(
        license="Apache-2.0",
        text="Features of single cells in five Cell Painting channels by EfficientNet-B0, taught to tell treatments "
        "of a simulated experiment apart (weakly supervised learning). It has seen no real cell: it shows how such a "
        "model is made and used, and describes simulated cells. For real plates use embed-imagenet, or teach a network "
        "on your own (python -m cellinfer_training wsl).",
        sets=(f"simulated Cell Painting (cellinfer_training.simulate, seed {seed}), plates 1 to 3",),
        evaluation={
            "on": "simulated plates that were not learnt from, mean average precision after `cellinfer profile "
            "--regularization nested`, mean over "
            f"{len(record['seeds'])} seeds (benchmarks/results/{given.name}.md)",
            **found,
        },
        authors=("The cellinfer developers",),
    )
    return release(finish(learner, "embed-wsl", claims), SUMMARY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--replicates", type=int, default=2, help="wells per compound and plate")
    parser.add_argument("--controls", type=int, default=48, help="untreated wells per plate")
    parser.add_argument(
        "--taught-replicates", type=int, default=12, help="other wells, of the same compounds and plates, to learn"
    )
    parser.add_argument("--cells", type=int, default=24, help="judged of each well; ImageNet takes longest")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="wsl_study", help="of the results")
    parser.add_argument("--prepare-only", action="store_true")
    parser.add_argument("--bundle", action="store_true", help="release the first seed's network as embed-wsl")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for seed in given.seeds:
        prepare(given.folder / f"seed{seed}", seed, given)
    if not given.prepare_only:
        write({seed: evaluate(given.folder / f"seed{seed}", given) for seed in given.seeds}, given)
    if given.bundle:
        print(bundle(given.folder / f"seed{given.seeds[0]}", given.seeds[0], given))


if __name__ == "__main__":
    main()
