"""A real plate at every stage, made by pycytominer in 2020: each stage from the one before it.

The stages were made with `annotate`; `normalize(method="standardize", samples="Metadata_treatment == '0.1% DMSO'")`;
`feature_select` with variance, frequency and correlation thresholds, missing values and the blocklist; and
`consensus(operation="modz", replicate_columns=["Metadata_clone_number", "Metadata_treatment"])`.

The one thing that nobody reproduces are ties of the correlation threshold: of two features that are copies of each
other either may go, and which one did was decided by rounding. pycytominer itself now decides four such pairs another
way than in 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.profiling.annotation import annotate
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.replicates import consensus
from cellinfer.profiling.selection import correlations, select_features

pytestmark = pytest.mark.realdata

CONTROLS = "Metadata_treatment == '0.1% DMSO'"
OPERATIONS = ["variance_threshold", "frequency_threshold", "correlation_threshold", "drop_na_columns", "blocklist"]
TREATMENT = ["Metadata_clone_number", "Metadata_treatment"]


@pytest.fixture(scope="module")
def stages(data_folder: Path) -> dict[str, pd.DataFrame]:
    folder = data_folder / "profiles" / "plate_218360"
    if not folder.is_dir():
        pytest.skip("no plate 218360")
    names = ("", "_augmented", "_normalized", "_normalized_feature_select", "_consensus")
    return {name.lstrip("_"): pd.read_csv(folder / f"218360{name}.csv.gz") for name in names}


def measured(table: pd.DataFrame) -> list[str]:
    """pycytominer takes numbers of objects and of relatives for features too."""
    return [name for name in table if name.startswith(("Cells_", "Cytoplasm_", "Nuclei_"))]


def difference(one: pd.DataFrame, other: pd.DataFrame, features: list[str]) -> float:
    return float(np.abs(one[features].to_numpy() - other[features].to_numpy()).max())


def test_annotation(stages: dict[str, pd.DataFrame], data_folder: Path) -> None:
    expected = stages["augmented"]
    facts = pd.read_csv(data_folder / "profiles" / "plate_218360" / "cell_counts.tsv", sep="\t")
    layout = facts.rename(columns={"Metadata_Well": "well"}).drop(columns=["Metadata_Plate", "cell_count"])
    result = annotate(stages[""], layout.rename(columns={"well": "Metadata_Well"}))
    assert result.notes == ()
    assert difference(result.table, expected, measured(expected)) <= 1e-9  # 9e-13: digits of the CSV files
    for column in ("plate_map_name", "clone_number", "plate_ID", "treatment", "treatment_time", "cell_density"):
        assert list(result.table[f"Metadata_{column}"]) == list(expected[f"Metadata_{column}"])


def test_normalisation(stages: dict[str, pd.DataFrame]) -> None:
    expected = stages["normalized"]
    features = measured(expected)
    result = normalise(stages["augmented"], reference=CONTROLS, features=features, constant="pycytominer")
    assert len(features) == 3526
    assert difference(result.table, expected, features) <= 1e-9
    assert result.groups["references"].tolist() == [15]
    honest = normalise(stages["augmented"], reference=CONTROLS, features=features)
    whole = [name for name in features if honest.table[name].notna().all()]
    controls = stages["augmented"].query(CONTROLS)[features]
    assert set(features) - set(whole) == set(controls.columns[controls.nunique() == 1])
    assert difference(honest.table, expected, whole) <= 1e-9


def test_feature_selection(stages: dict[str, pd.DataFrame]) -> None:
    table, expected = stages["normalized"], measured(stages["normalized_feature_select"])
    result = select_features(table, OPERATIONS, features=measured(table))
    kept = [name for name in result.kept if name in measured(table)]
    assert len(kept) == len(expected) == 390
    instead = sorted(set(kept) - set(expected))
    theirs = sorted(set(expected) - set(kept))
    assert len(instead) == len(theirs) <= 4
    r = correlations(table[[*instead, *theirs]].to_numpy())[: len(instead), len(instead) :]
    assert (np.sort(r, axis=1)[:, -1] > 1 - 1e-12).all()  # each stands for a copy of itself
    assert (np.sort(r, axis=0)[-1] > 1 - 1e-12).all()
    common = [name for name in expected if name in kept]
    assert difference(result.table, stages["normalized_feature_select"], common) <= 1e-9


def test_consensus(stages: dict[str, pd.DataFrame]) -> None:
    table, expected = stages["normalized_feature_select"], stages["consensus"]
    features = measured(expected)
    result = consensus(table, TREATMENT, "modz", features=features)
    pd.testing.assert_frame_equal(result.table[TREATMENT], expected[TREATMENT], check_dtype=False)
    assert difference(result.table, expected, features) <= 1e-9


def test_all_stages_in_one_go(stages: dict[str, pd.DataFrame]) -> None:
    features = measured(stages["normalized"])
    normalised = normalise(stages["augmented"], reference=CONTROLS, features=features, constant="pycytominer").table
    selected = select_features(normalised, OPERATIONS, features=features).table
    expected = stages["consensus"]
    common = [name for name in measured(expected) if name in selected]
    assert len(common) >= 386
    # weights see the copies that stayed in place of others, which are equal to 1e-12, and are rounded to four digits
    result = consensus(selected, TREATMENT, "modz", features=measured(selected)).table
    assert difference(result, expected, common) <= 1e-9
