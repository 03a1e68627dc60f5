"""Consensus profiles: equal to pycytominer, with honest rules for missing values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.replicates import OPERATIONS, REPLICATES, consensus, modz
from hypothesis import given
from hypothesis import strategies as st
from pycytominer import consensus as their_consensus

BY = ["Metadata_Compound", "Metadata_Dose"]


def make_profiles(seed: int = 0, rows: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    table = pd.DataFrame(random.normal(size=(rows, 12)).round(2), columns=[f"Cells_F{number}" for number in range(12)])
    table.insert(0, "Metadata_Well", [f"A{number % 24 + 1:02d}" for number in range(rows)])
    table.insert(1, "Metadata_Compound", random.choice(["a", "b", "c", "DMSO"], rows))
    table.insert(2, "Metadata_Dose", random.choice([0.5, 5.0], rows))
    table.insert(3, "Metadata_MoA", table["Metadata_Compound"].map({"a": "x", "b": "y", "c": None, "DMSO": "z"}))
    table.insert(4, "Metadata_Object_Count", random.integers(1, 100, rows))
    return table


@given(seed=st.integers(0, 500), operation=st.sampled_from(OPERATIONS), rows=st.integers(1, 60))
def test_pycytominers_numbers(seed: int, operation: str, rows: int) -> None:
    profiles = make_profiles(seed, rows)
    ours = consensus(profiles, BY, operation).table
    theirs = their_consensus(profiles, replicate_columns=BY, operation=operation)
    features = [name for name in ours if name.startswith("Cells_")]
    pd.testing.assert_frame_equal(ours[BY], theirs[BY])
    np.testing.assert_allclose(ours[features], theirs[features], rtol=0, atol=1e-9)


def test_metadata_that_replicates_share_stays() -> None:
    profiles = make_profiles()
    table = consensus(profiles, BY).table
    assert list(table.columns[:5]) == [*BY, REPLICATES, "Metadata_MoA", "Metadata_Object_Count"]
    assert table[REPLICATES].sum() == len(profiles)
    assert table["Metadata_Object_Count"].sum() == profiles["Metadata_Object_Count"].sum()
    assert set(table["Metadata_MoA"].dropna()) == {"x", "y", "z"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_missing_values_are_left_out_and_not_taken_for_zero(operation: str) -> None:
    profiles = pd.DataFrame({"Metadata_Compound": ["a", "a", "a"]})
    random = np.random.default_rng(0)
    base = 5 + random.normal(size=9)
    for number in range(9):
        profiles[f"Cells_F{number}"] = base[number] + 0.01 * random.normal(size=3)
    profiles.loc[0, "Cells_F0"] = np.nan
    profiles.loc[1, "Cells_F0"] = np.inf
    profiles["Cells_F1"] = np.nan
    row = consensus(profiles, "Metadata_Compound", operation).table.iloc[0]
    assert row["Cells_F0"] == pytest.approx(profiles["Cells_F0"][2], rel=1e-3)
    assert np.isnan(row["Cells_F1"])
    assert row["Cells_F2"] == pytest.approx(base[2], abs=0.05)


def test_a_constant_replicate_weighs_least() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=200)
    values = np.stack([base, base + 0.01 * random.normal(size=200), np.full(200, 50.0)])
    np.testing.assert_allclose(modz(values), base, atol=1.5)
    assert np.isfinite(modz(np.full((3, 5), 2.0))).all()


def test_wells_without_a_treatment_are_no_treatment() -> None:
    profiles = make_profiles()
    profiles.loc[:4, "Metadata_Compound"] = None
    result = consensus(profiles, BY, "mean")
    assert result.table[REPLICATES].sum() == len(profiles) - 5
    assert result.notes[0] == "5 rows have no Metadata_Compound and Metadata_Dose and are in no consensus"


def test_single_replicates_are_named() -> None:
    profiles = make_profiles(rows=3).assign(Metadata_Compound=["a", "a", "lonely"])
    result = consensus(profiles, "Metadata_Compound", "modz")
    np.testing.assert_array_equal(result.table.iloc[1][profiles.columns[5:]], profiles.iloc[2, 5:])
    assert result.notes == ("1 treatments have one replicate, which stands for them: Metadata_Compound lonely",)


def test_mistakes() -> None:
    profiles = make_profiles()
    with pytest.raises(InputError, match="choose mean, median, modz"):
        consensus(profiles, BY, "mode")
    with pytest.raises(InputError, match="Metadata_Nothing"):
        consensus(profiles, "Metadata_Nothing")
    with pytest.raises(InputError, match="needs the columns"):
        consensus(profiles, [])
    with pytest.raises(InputError, match="No row has a value"):
        consensus(profiles.assign(Metadata_Compound=None), BY)


def test_controls_on_all_plates_do_not_cost_the_others_their_batch() -> None:
    profiles = make_profiles(rows=60)
    is_control = profiles["Metadata_Compound"] == "DMSO"
    profiles["Metadata_Batch"] = profiles["Metadata_Compound"].map({"a": "1", "b": "2", "c": "1"})
    profiles.loc[is_control, "Metadata_Batch"] = np.where(np.arange(is_control.sum()) % 2, "1", "2")
    assert "Metadata_Batch" not in consensus(profiles, BY).table
    table = consensus(profiles, BY, controls="Metadata_Compound == 'DMSO'").table
    treated = table["Metadata_Compound"] != "DMSO"
    assert (
        table.loc[treated, "Metadata_Batch"]
        == table.loc[treated, "Metadata_Compound"].map({"a": "1", "b": "2", "c": "1"})
    ).all()
    assert table.loc[~treated, "Metadata_Batch"].isna().all()
    assert "Metadata_Well" not in table
