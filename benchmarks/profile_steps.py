"""Normalisation, feature selection and sphering of profiles: cellinfer beside pycytominer.

    python benchmarks/profile_steps.py            # 20 plates x 384 wells x 1,700 features, one thread
    python benchmarks/profile_steps.py --quick    # small, and writes nothing

pycytominer normalises one plate at a time, so it is called once for each plate, as its own recipe does. Sphering is
learnt from all wells, and from 64 control wells of each plate (fewer controls than features, the usual case). Answers
are compared: with pycytominer's convention sphering must be the same; with lambda it is another function. Nothing
here is compiled, so there is no warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from _peers import RESULTS, machine
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.selection import select_features
from cellinfer.profiling.sphering import Sphering
from pycytominer import feature_select, normalize
from threadpoolctl import threadpool_limits

CONTROLS = "Metadata_Control == 1"
THEIRS = {"standardise": "standardize", "robustise": "robustize", "robust-mad": "mad_robustize"}
OPERATIONS = ["variance_threshold", "frequency_threshold", "correlation_threshold", "drop_na_columns"]


def make_profiles(plates: int, wells: int, features: int) -> pd.DataFrame:
    """Wells in which plates differ and features are correlated, as they are in Cell Painting."""
    random = np.random.default_rng(0)
    rows = plates * wells
    hidden = random.normal(size=(rows, 60)) * np.geomspace(3, 0.3, 60)
    values = hidden @ random.normal(size=(60, features)) + random.normal(size=(rows, features))
    values = values * random.lognormal(size=features) + random.normal(size=features) * 10
    values += np.repeat(random.normal(size=(plates, features)), wells, axis=0)
    metadata = pd.DataFrame(
        {
            "Metadata_Plate": np.repeat([f"P{number:02d}" for number in range(plates)], wells),
            "Metadata_Control": np.tile((np.arange(wells) % 6 == 0).astype(int), plates),
        }
    )
    return pd.concat([metadata, pd.DataFrame(values, columns=[f"Cells_F{n}" for n in range(features)])], axis=1)


def measured(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    return table.filter(regex="^Cells_").to_numpy()


def their_normalisation(profiles: pd.DataFrame, method: str) -> pd.DataFrame:
    parts = [
        normalize(rows, samples=CONTROLS, method=THEIRS[method])
        for _, rows in profiles.groupby("Metadata_Plate", sort=False)
    ]
    return pd.concat(parts)


def their_sphering(profiles: pd.DataFrame, samples: str) -> pd.DataFrame:
    return normalize(profiles, samples=samples, method="spherize", spherize_method="ZCA", spherize_epsilon=1e-6)


def our_sphering(profiles: pd.DataFrame, samples: str, **options: Any) -> pd.DataFrame:
    controls = profiles if samples == "all" else profiles.query(samples)
    return Sphering.fit(controls, **options).apply(profiles)


def contest(
    task: str,
    contestants: Mapping[str, Callable[[], pd.DataFrame]],
    same: Callable[[pd.DataFrame, pd.DataFrame], float],
    rounds: int,
) -> dict[str, Any]:
    """Time contestants in turn, and compare what the first returns with what the last does."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, pd.DataFrame] = {}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            answers[name] = contestant()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    *ours, theirs = medians
    record = {
        "task": task,
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_faster": {name: round(medians[theirs] / medians[name], 1) for name in ours},
        "runs_seconds": {name: [round(value, 4) for value in times] for name, times in seconds.items()},
        "largest_difference": same(answers[ours[0]], answers[theirs]),
    }
    print(task, record["median_seconds"], record["times_faster"], flush=True)
    return record


def difference(one: pd.DataFrame, other: pd.DataFrame) -> float:
    found = float(np.abs(measured(one) - measured(other)).max() / np.abs(measured(other)).max())
    assert found < 1e-6, found
    return found


def other_features(one: pd.DataFrame, other: pd.DataFrame) -> float:
    different = len(set(one.columns) ^ set(other.columns))
    assert different == 0, different
    return float(different)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    plates, wells, features = (3, 48, 40) if options.quick else (20, 384, 1700)
    profiles = make_profiles(plates, wells, features)
    size = f"{plates} plates x {wells} wells x {features:,} features"
    records = [
        contest(
            f"normalise each plate by its controls ({method}): {size}",
            {
                "cellinfer": lambda method=method: normalise(profiles, method, reference=CONTROLS).table,
                "pycytominer": lambda method=method: their_normalisation(profiles, method),
            },
            difference,
            options.rounds,
        )
        for method in THEIRS
    ]
    # by all wells: by controls these lose a dimension on each plate, and then pycytominer refuses to sphere
    normalised = normalise(profiles).table
    controls = int(profiles["Metadata_Control"].sum())
    for samples, said in ((CONTROLS, f"{controls:,} controls"), ("all", f"all {len(profiles):,} wells")):
        records.append(
            contest(
                f"sphere {size}, learnt from {said}",
                {
                    "cellinfer, pycytominer's convention": lambda samples=samples: our_sphering(
                        normalised, samples, convention="pycytominer"
                    ),
                    "cellinfer, lambda 0.1": lambda samples=samples: our_sphering(normalised, samples),
                    "pycytominer": lambda samples=samples: their_sphering(normalised, samples),
                },
                difference,
                options.rounds,
            )
        )
    one_plate = normalised[normalised["Metadata_Plate"] == "P00"].reset_index(drop=True)
    records.append(
        contest(
            f"select features ({', '.join(OPERATIONS)}): 1 plate x {wells} wells x {features:,} features",
            {
                "cellinfer": lambda: select_features(one_plate, OPERATIONS).table,
                "pycytominer": lambda: feature_select(one_plate, operation=OPERATIONS),
            },
            other_features,
            options.rounds,
        )
    )
    if not options.quick:
        result = {
            "contests": records,
            "threads": 1,
            "versions": {name: version(name) for name in ("cellinfer", "pycytominer", "numpy", "scipy", "pandas")},
            "machine": machine(),
            "note": "the machine was busy with other work; contestants ran in turn",
        }
        (RESULTS / "profile_steps.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
