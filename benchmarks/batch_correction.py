"""What correcting for batches does to real profiles: BBBC021 (55 plates) and JUMP-MOA (5 microscope settings).

    python -m benchmarks.batch_correction DATA          # DATA holds profiles/bbbc021_ljosa and profiles/jump_moa

Every setting is a default of `cellinfer profile`, or chosen inside folds of plates by how well replicates find each
other (`nested`): no mechanism of action is looked at before the end. On JUMP-MOA the same plate map was imaged with
five settings, so that a well has the same neighbours and the same place on each: what a query may find is on another
plate and in another place of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer.profiling.batch_effects import batch_effects
from cellinfer.profiling.columns import PLATE, WELL, feature_columns
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.pairs import PairRules
from cellinfer.profiling.retrieval import average_precision, nearest_neighbour_accuracy
from cellinfer.profiling.significance import bootstrap_interval
from cellinfer.profiling.similarity import Similarities
from cellinfer.profiling.workflow import profile

from benchmarks._peers import machine

RESULTS = Path(__file__).parent / "results"
COMPOUND, MOA, BATCH = "Metadata_Compound", "Metadata_MOA", "Metadata_Batch"
ACROSS = PairRules([COMPOUND], [PLATE, WELL], [], [COMPOUND, PLATE])
MECHANISM_ACROSS = PairRules([MOA], [COMPOUND, PLATE], [], [MOA, PLATE])


def bbbc021(data: Path) -> pd.DataFrame:
    """Return the well means of Ljosa et al. (2013) with compound, concentration, mechanism and week."""
    folder = data / "profiles" / "bbbc021_ljosa"
    wells = pd.read_csv(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    wells.columns = wells.columns.str.removeprefix("Image_")
    images = pd.read_csv(folder / "BBBC021_v1_image.csv.gz")
    content = images[
        [f"Image_Metadata_{name}" for name in ("Plate_DAPI", "Well_DAPI", "Compound", "Concentration")]
    ].drop_duplicates()
    content.columns = [PLATE, WELL, COMPOUND, "Metadata_Concentration"]
    mechanisms = pd.read_csv(folder / "BBBC021_v1_moa.csv")
    mechanisms.columns = [COMPOUND, "Metadata_Concentration", MOA]
    names = content.merge(mechanisms, how="left").assign(**{BATCH: content[PLATE].str.split("_").str[0].to_numpy()})
    return names.merge(wells, on=[PLATE, WELL], validate="1:1")


def jump(data: Path) -> list[pd.DataFrame]:
    """Return the wells of each setting."""
    tables = []
    for path in sorted((data / "profiles" / "jump_moa").glob("*.csv.gz")):
        table = pd.read_csv(path)
        names = {"Metadata_pert_iname": COMPOUND, "Metadata_moa": MOA}
        tables.append(table.rename(columns=names).assign(**{PLATE: path.name.removesuffix(".csv.gz")}))
    return tables


def treatments(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of the wells of each treatment."""
    treated = table[table[MOA].notna() & (table[COMPOUND] != "DMSO")]
    keys = [COMPOUND, "Metadata_Concentration", MOA, BATCH]
    return treated.groupby(keys, as_index=False)[feature_columns(treated)].mean()


def judge_mechanisms(table: pd.DataFrame) -> dict[str, Any]:
    """Nearest neighbour of another compound (NSC), and of another compound and week (NSCB)."""
    means = treatments(table)
    similarities = Similarities(means[feature_columns(means)].to_numpy())
    found: dict[str, Any] = {"features": len(feature_columns(means)), "treatments": len(means)}
    for name, batch in (("NSC", None), ("NSCB", BATCH)):
        result = nearest_neighbour_accuracy(similarities, means, label=MOA, compound=COMPOUND, batch=batch)
        found[name] = {"accuracy": result.accuracy, "interval": list(result.interval), "queries": result.n_queries}
    return found


def study_bbbc021(data: Path) -> dict[str, Any]:
    wells = bbbc021(data)
    controls = f"{COMPOUND} == 'DMSO'"
    options: dict[str, Any] = {"controls": controls, "picture": False, "consensus": "none"}
    plain = normalise(wells, by=[], constant="missing").table.dropna(axis=1, how="all")
    own = normalise(wells, reference=controls).table
    found = {
        "plain cosine (features standardised over all wells)": judge_mechanisms(plain),
        "each plate standardised on its own six controls": judge_mechanisms(_whole(own)),
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wells.parquet"
        wells.to_parquet(source)
        default = profile(source, Path(folder) / "a", **options)
        found["cellinfer profile, before sphering"] = judge_mechanisms(default.tables["Well_selected"])
        found["cellinfer profile (defaults)"] = judge_mechanisms(default.wells)
        treatment = [COMPOUND, "Concentration"]
        nested = profile(source, Path(folder) / "b", regularization="nested", treatment=treatment, **options)
        found["cellinfer profile, lambda nested"] = judge_mechanisms(nested.wells) | _chosen(nested.info)
        together = profile(source, Path(folder) / "c", harmony="plate", **options)
        found["cellinfer profile, Harmony over plates"] = judge_mechanisms(together.wells)
    return {"wells": len(wells), "plates": int(wells[PLATE].nunique()), "results": found}


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the features that lack a value somewhere."""
    names = feature_columns(table)
    return table.drop(columns=[name for name in names if table[name].isna().any()])


def _chosen(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"regularization": info["regularization"]["chosen"], "folds": info["regularization"]["folds"]}


def judge_settings(table: pd.DataFrame) -> tuple[dict[str, Any], dict[str, pd.Series]]:
    """Replicates and mechanisms found on other plates, and plates told apart."""
    treated = _whole(table[table[COMPOUND] != "DMSO"].reset_index(drop=True))
    found: dict[str, Any] = {"features": len(feature_columns(treated))}
    queries: dict[str, pd.Series] = {}
    for name, rules, rows in (
        ("replicate_map_elsewhere", ACROSS, treated),
        ("mechanism_map", MECHANISM_ACROSS, treated[treated[MOA].notna()]),
    ):
        scores = average_precision(rows, rules)
        scores = scores[scores["average_precision"].notna()]
        index = scores[PLATE] + " " + scores[WELL]
        queries[name] = pd.Series(scores["average_precision"].to_numpy(), pd.Index(index))
        by = scores[COMPOUND].to_numpy()
        found[name] = {
            "value": float(scores["average_precision"].mean()),
            "interval": list(bootstrap_interval(scores["average_precision"], by)),
            "queries": len(scores),
        }
    effects = batch_effects(treated, batch=PLATE, treatment=COMPOUND)
    for row in effects.figures.to_dict("records"):
        found[str(row["measure"])] = {
            "value": row["value"],
            "interval": [row["low"], row["high"]],
            "chance": row["chance"],
        }
    return found, queries


def study_jump(data: Path) -> dict[str, Any]:
    tables = jump(data)
    options: dict[str, Any] = {"controls": f"{COMPOUND} == 'DMSO'", "treatment": [COMPOUND], "consensus": "none"}
    results, queries = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(len(tables))]
        for table, path in zip(tables, paths, strict=True):
            table.to_parquet(path)
        asked = {"picture": False, **options}
        default = profile(paths, Path(folder) / "a", **asked)
        nested = profile(paths, Path(folder) / "b", regularization="nested", harmony="plate", **asked)
        together = profile(paths, Path(folder) / "c", harmony="plate", **asked)
        stages = {
            "as delivered (each setting normalised by its makers)": default.tables["Well"],
            "normalised on controls": default.tables["Well_normalised"],
            "sphered (defaults)": default.tables["Well_sphered"],
            "sphered, then Harmony": together.tables["Well_harmonised"],
            "sphered, lambda nested": nested.tables["Well_sphered"],
            "sphered, lambda nested, then Harmony": nested.tables["Well_harmonised"],
        }
        compounds = default.tables["Well"].set_index(default.tables["Well"][PLATE] + " " + default.tables["Well"][WELL])
        for name, table in stages.items():
            results[name], queries[name] = judge_settings(table)
            print(name, {key: round(each["value"], 3) for key, each in results[name].items() if isinstance(each, dict)})
        results["sphered, lambda nested"] |= _chosen(nested.info)
    first = next(iter(stages))
    for name in list(stages)[1:]:
        for measure, before in queries[first].items():
            gain = (queries[name][measure] - before).dropna()
            interval = bootstrap_interval(gain, compounds.loc[gain.index, COMPOUND])
            results[name][measure] |= {"gain": float(gain.mean()), "gain_interval": list(interval)}
    return {"wells": sum(map(len, tables)), "plates": len(tables), "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "batch_correction.json")
    asked = parser.parse_args()
    found = {"bbbc021": study_bbbc021(asked.data), "jump_moa": study_jump(asked.data)}
    asked.out.write_text(
        json.dumps({"versions": _versions(), "machine": machine(), **found}, indent=2, default=_plain) + "\n"
    )
    for name, result in found["bbbc021"]["results"].items():
        print(name, {key: round(result[key]["accuracy"], 3) for key in ("NSC", "NSCB")})


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("cellinfer", "numpy", "scipy", "pandas")}


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    main()
