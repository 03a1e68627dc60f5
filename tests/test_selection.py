"""Feature selection: equal to pycytominer, with a reason for each feature that goes."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.selection import BLOCKLIST, DEFAULT, OPERATIONS, correlations, select_features
from hypothesis import given
from hypothesis import strategies as st
from pycytominer import feature_select
from pycytominer.cyto_utils.blocklist import Blocklist

ALL_OF_THEIRS = ["drop_na_columns", "blocklist", "variance_threshold", "frequency_threshold", "drop_outliers"]


def make_profiles(seed: int = 0, rows: int = 120, features: int = 40) -> pd.DataFrame:
    """Features that are correlated in blocks, with holes, constants, outliers and repeated values."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(rows, features // 4))
    values = np.repeat(base, 4, axis=1) + random.normal(size=(rows, features)) * random.uniform(0.05, 1.0, features)
    table = pd.DataFrame(values, columns=[f"Cells_F{number}" for number in range(features)])
    table["Cells_F3"] = 2.5
    table["Cells_F7"] = np.where(np.arange(rows) < 2, 1.0, 0.0)
    table["Cells_F9"] *= 1e-4
    table["Nuclei_Granularity_14_DNA"] = random.normal(size=rows)
    table.loc[random.choice(rows, rows // 3, replace=False), "Cells_F12"] = np.nan
    table.loc[random.choice(rows, 3, replace=False), "Cells_F16"] = np.nan
    table.loc[5, "Cells_F20"] = -700.0
    table.insert(0, "Metadata_Plate", "P")
    table.insert(1, "Metadata_Compound", [f"c{number % 30}" for number in range(rows)])
    return table


def theirs(profiles: pd.DataFrame, operation: str | list[str], **options: object) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return set(feature_select(profiles.copy(), operation=operation, **options).columns)


@given(seed=st.integers(0, 300))
def test_each_operation_keeps_what_pycytominer_keeps(seed: int) -> None:
    profiles = make_profiles(seed)
    for operation in [*ALL_OF_THEIRS, "correlation_threshold"]:
        assert set(select_features(profiles, operation).table.columns) == theirs(profiles, operation), operation
    both = [*ALL_OF_THEIRS, "correlation_threshold"]
    assert set(select_features(profiles, both).table.columns) == theirs(profiles, both)


def test_thresholds_and_samples_are_pycytominers() -> None:
    profiles = make_profiles(5)
    some = "Metadata_Compound in ['c1', 'c2', 'c3', 'c4', 'c5', 'c6']"
    cases: list[tuple[str, dict[str, object], dict[str, object]]] = [
        ("drop_na_columns", {"na_cutoff": 0.01}, {}),
        ("variance_threshold", {"min_variance": 0.9}, {}),
        ("frequency_threshold", {"freq_cut": 0.0, "unique_cut": 0.02}, {}),
        ("drop_outliers", {"outlier_cutoff": 3.0}, {}),
        ("correlation_threshold", {"correlation": 0.5}, {"corr_threshold": 0.5}),
        ("correlation_threshold", {"correlation_method": "spearman"}, {"corr_method": "spearman"}),
    ]
    for operation, ours, other in cases:
        expected = theirs(profiles, operation, samples=some, **(other or ours))
        assert set(select_features(profiles, operation, samples=some, **ours).table.columns) == expected, operation
    noise = select_features(profiles, "noise_removal", noise_by="Metadata_Compound", noise_cutoff=0.9)
    expected = theirs(
        profiles,
        "noise_removal",
        noise_removal_perturb_groups="Metadata_Compound",
        noise_removal_stdev_cutoff=0.9,
    )
    assert 0 < len(noise.dropped) < 40
    assert set(noise.table.columns) == expected


def test_the_blocklist_is_the_published_one() -> None:
    assert set(Blocklist("default").to_list()) == BLOCKLIST
    result = select_features(make_profiles(), "blocklist", blocklist=["Cells_F1", "not there"])
    assert result.dropped == ["Cells_F1"]


@given(seed=st.integers(0, 1000), absolute=st.booleans())
def test_no_two_features_that_stay_are_correlated_and_each_that_goes_names_its_partner(
    seed: int, absolute: bool
) -> None:
    profiles = make_profiles(seed)
    profiles["Cells_F30"] = -profiles["Cells_F31"]
    result = select_features(profiles, DEFAULT, absolute=absolute)
    r = result.table[result.kept].corr().to_numpy() - np.eye(len(result.kept))
    assert np.nanmax(np.abs(r) if absolute else r) <= 0.9 + 1e-9
    assert set(result.features["feature"]) == set(result.kept) | set(result.dropped)
    assert (result.features.loc[~result.features["kept"], "reason"] != "").all()
    assert (result.features.loc[result.features["kept"], "reason"] == "").all()
    assert set(result.features["operation"]) <= {"", *OPERATIONS}


@given(seed=st.integers(0, 1000))
def test_order_of_rows_does_not_matter_even_for_copies(seed: int) -> None:
    profiles = make_profiles(seed)
    for copy in range(3):
        profiles[f"Nuclei_Copy_{copy}"] = profiles["Cells_F0"] * (copy + 1) / 3
    expected = select_features(profiles).kept
    assert select_features(profiles.sample(frac=1, random_state=seed)).kept == expected
    assert sum(name in expected for name in ("Cells_F0", "Nuclei_Copy_0", "Nuclei_Copy_1", "Nuclei_Copy_2")) <= 1


def test_of_copies_the_first_stays() -> None:
    random = np.random.default_rng(1)
    table = pd.DataFrame({"Metadata_Plate": "P", "Cells_b": random.normal(size=50), "Cells_c": random.normal(size=50)})
    table["Cells_a"] = table["Cells_b"]
    result = select_features(table, "correlation")
    assert result.dropped == ["Cells_a"]
    assert result.features.set_index("feature").loc["Cells_a", "reason"] == "correlation 1.0000 with Cells_b (> 0.9)"


def test_a_blocklisted_feature_costs_no_other_one() -> None:
    random = np.random.default_rng(1)
    table = pd.DataFrame({"Metadata_Plate": "P", "Nuclei_Granularity_16_DNA": random.normal(size=50)})
    table["Cells_good"] = table["Nuclei_Granularity_16_DNA"] + 0.01 * random.normal(size=50)
    table["Cells_other"] = random.normal(size=50)
    assert select_features(table).kept == ["Cells_good", "Cells_other"]


@given(seed=st.integers(0, 1000), holes=st.integers(0, 60))
def test_correlations_are_those_of_pandas(seed: int, holes: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(30, 8)) + 100 * random.normal(size=8)
    values[random.integers(0, 30, holes), random.integers(0, 4, holes)] = np.nan
    values[:, 7] = 0.1
    for method in ("pearson", "spearman"):
        expected = pd.DataFrame(values).corr(method=method).to_numpy(copy=True)
        expected[7] = expected[:, 7] = np.nan
        np.testing.assert_allclose(correlations(values, method), expected, atol=1e-9)


def test_infinite_values_count_as_missing() -> None:
    profiles = make_profiles()
    profiles.loc[:20, "Cells_F33"] = np.inf
    reasons = select_features(profiles).features.set_index("feature")
    assert reasons.loc["Cells_F33", "operation"] == "missing"


def test_profiles_that_are_not_normalised_are_noticed() -> None:
    profiles = make_profiles()
    numeric = [name for name in profiles if not name.startswith("Metadata_")]
    profiles[numeric] = profiles[numeric] * 1e5
    profiles["Cells_small"] = np.random.default_rng(0).normal(size=len(profiles))
    assert "are the profiles normalised?" in select_features(profiles, "outliers").notes[0]


def test_mistakes() -> None:
    profiles = make_profiles()
    with pytest.raises(InputError, match="choose from missing"):
        select_features(profiles, "magic")
    with pytest.raises(InputError, match="between 0 and 1"):
        select_features(profiles, correlation=1.5)
    with pytest.raises(InputError, match="needs noise_by"):
        select_features(profiles, "noise")
    with pytest.raises(InputError, match="leaves no feature"):
        select_features(profiles, "outliers", outlier_cutoff=0)
    with pytest.raises(InputError, match="No row"):
        select_features(profiles, samples="Metadata_Plate == 'Q'")
    with pytest.raises(InputError, match="pearson or spearman"):
        select_features(profiles, correlation_method="kendall")  # type: ignore[arg-type]
