"""Normalisation of profiles: equal to pycytominer, and no number where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.normalisation import METHODS, normalise
from hypothesis import given
from hypothesis import strategies as st
from pycytominer import normalize

THEIRS = {"standardise": "standardize", "robustise": "robustize", "robust-mad": "mad_robustize"}
CONTROLS = "Metadata_Compound == 'DMSO'"


def make_profiles(plates: int = 3, wells: int = 24, features: int = 7, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = plates * wells
    values = (
        random.normal(size=(rows, features)) * random.uniform(0.1, 100, features) + random.normal(size=features) * 50
    )
    values += np.repeat(random.normal(size=(plates, features)) * 20, wells, axis=0)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "Metadata_Plate": np.repeat([f"P{number}" for number in range(plates)], wells),
                    "Metadata_Well": [f"{'ABCD'[n // 6]}{n % 6 + 1:02d}" for n in range(wells)] * plates,
                    "Metadata_Compound": (["DMSO"] * (wells // 3) + ["drug"] * (wells - wells // 3)) * plates,
                }
            ),
            pd.DataFrame(values, columns=[f"Cells_Feature_{number}" for number in range(features)]),
        ],
        axis=1,
    )


def features_of(table: pd.DataFrame) -> np.ndarray:
    return table.filter(regex="^Cells_").to_numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reference", [None, CONTROLS])
def test_every_plate_is_as_pycytominer_normalises_it(method: str, reference: str | None) -> None:
    profiles = make_profiles()
    profiles.loc[[1, 30, 31], "Cells_Feature_2"] = np.nan
    profiles.insert(3, "Cells_Constant", 7.3)
    ours = normalise(profiles, method, reference=reference, constant="pycytominer")
    for plate, rows in profiles.groupby("Metadata_Plate"):
        theirs = normalize(rows.reset_index(drop=True), samples=reference or "all", method=THEIRS[method])
        mine = ours.table[profiles["Metadata_Plate"] == plate]
        np.testing.assert_allclose(features_of(mine), features_of(theirs), rtol=1e-9, atol=1e-9)
    assert list(ours.table.columns) == list(profiles.columns)
    pd.testing.assert_frame_equal(ours.table.iloc[:, :3], profiles.iloc[:, :3])


@pytest.mark.parametrize("method", METHODS)
def test_scope_may_be_a_batch_or_everything(method: str) -> None:
    profiles = make_profiles(plates=4)
    profiles["Metadata_Batch"] = np.where(profiles["Metadata_Plate"].isin(["P0", "P1"]), "a", "b")
    whole = normalise(profiles, method, by=(), reference=CONTROLS)
    theirs = normalize(profiles, samples=CONTROLS, method=THEIRS[method])
    np.testing.assert_allclose(features_of(whole.table), features_of(theirs), rtol=1e-9, atol=1e-9)
    batches = normalise(profiles, method, by="Metadata_Batch", reference=CONTROLS)
    half = normalise(profiles[profiles["Metadata_Batch"] == "a"], method, by=(), reference=CONTROLS)
    np.testing.assert_array_equal(features_of(batches.table)[:48], features_of(half.table))
    assert list(batches.groups["Metadata_Batch"]) == ["a", "b"]
    assert list(batches.groups["references"]) == [16, 16]
    assert list(batches.groups["rows"]) == [48, 48]


@given(seed=st.integers(0, 1000), method=st.sampled_from(METHODS))
def test_order_of_rows_does_not_matter(seed: int, method: str) -> None:
    profiles = make_profiles(seed=seed)
    shuffled = profiles.sample(frac=1, random_state=seed)
    one, other = (normalise(table, method, reference=CONTROLS).table for table in (profiles, shuffled))
    np.testing.assert_allclose(features_of(other.sort_index()), features_of(one), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_where_references_are_all_the_same_a_feature_is_missing_and_it_is_said(method: str) -> None:
    profiles = make_profiles()
    in_p1 = profiles["Metadata_Plate"] == "P1"
    control = profiles["Metadata_Compound"] == "DMSO"
    profiles.loc[in_p1 & control, "Cells_Feature_0"] = 0.1 + 0.2  # nothing that rounds well
    profiles["Cells_Feature_1"] = np.where(control, 1e6 / 3, profiles["Cells_Feature_1"])
    result = normalise(profiles, method, reference=CONTROLS)
    assert result.table.loc[in_p1, "Cells_Feature_0"].isna().all()
    assert result.table.loc[~in_p1, "Cells_Feature_0"].notna().all()
    assert result.table["Cells_Feature_1"].isna().all()
    assert np.isfinite(result.table.filter(regex="Feature_[2-6]").to_numpy()).all()
    assert list(result.groups["missing_features"]) == [1, 2, 1]
    assert "Cells_Feature_1" in result.notes[0]
    assert "Cells_Feature_0" in result.notes[1]
    assert "P1" in result.notes[1]


def test_infinite_values_are_missing_and_never_reach_the_others() -> None:
    profiles = make_profiles()
    broken = profiles.copy()
    broken.loc[3, "Cells_Feature_0"] = np.inf
    lacking = profiles.copy()
    lacking.loc[3, "Cells_Feature_0"] = np.nan
    result = normalise(broken, "standardise")
    np.testing.assert_array_equal(features_of(result.table), features_of(normalise(lacking).table))
    assert result.notes == ("1 infinite values were taken as missing",)


@pytest.mark.parametrize("method", METHODS)
def test_one_reference_value_of_a_feature_is_no_scale(method: str) -> None:
    profiles = make_profiles(plates=1)
    profiles.loc[1:7, "Cells_Feature_4"] = np.nan
    for constant in ("missing", "pycytominer"):
        result = normalise(profiles, method, reference=CONTROLS, constant=constant)
        assert result.table["Cells_Feature_4"].isna().all()
        assert result.groups["missing_features"].tolist() == [1]


def test_without_or_with_one_control_there_is_an_error_that_names_the_plates() -> None:
    profiles = make_profiles()
    with pytest.raises(InputError, match=r"Metadata_Plate P0 \(0\), Metadata_Plate P1 \(0\)"):
        normalise(profiles, reference="Metadata_Compound == 'water'")
    profiles.loc[1:7, "Metadata_Compound"] = "drug"
    with pytest.raises(InputError, match=r"too few are in Metadata_Plate P0 \(1\)"):
        normalise(profiles, reference=CONTROLS)
    with pytest.raises(InputError, match="single row"):
        normalise(profiles, by=("Metadata_Plate", "Metadata_Well"))


def test_masks_queries_and_their_mistakes() -> None:
    profiles = make_profiles()
    mask = (profiles["Metadata_Compound"] == "DMSO").to_numpy()
    by_query = normalise(profiles, reference=CONTROLS).table
    for given_mask in (mask, mask.tolist(), profiles["Metadata_Compound"] == "DMSO"):
        pd.testing.assert_frame_equal(normalise(profiles, reference=given_mask).table, by_query)
    with pytest.raises(InputError, match=r"Metadata_Nothing.*The table has Metadata_Plate, Metadata_Well"):
        normalise(profiles, reference="Metadata_Nothing == 1")
    with pytest.raises(InputError, match="yes or no"):
        normalise(profiles, reference="Cells_Feature_0 + 1")
    with pytest.raises(InputError, match="72 rows"):
        normalise(profiles, reference=mask[:5])
    with pytest.raises(InputError, match="another index"):
        normalise(profiles, reference=pd.Series(mask, index=np.arange(len(mask)) + 1))
    with pytest.raises(InputError, match="not understood"):
        normalise(profiles, reference="@__import__('os').getcwd() == ''")


def test_mistakes() -> None:
    profiles = make_profiles()
    with pytest.raises(InputError, match="choose standardise"):
        normalise(profiles, "z-score")
    with pytest.raises(InputError, match="no column 'Metadata_Batch'"):
        normalise(profiles, by="Metadata_Batch")
    with pytest.raises(InputError, match="negative"):
        normalise(profiles, "robust-mad", epsilon=-1)
    with pytest.raises(InputError, match="neither"):
        normalise(profiles, constant="zero")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no rows"):
        normalise(profiles[:0])


def test_nullable_and_float32_columns_are_numbers_too() -> None:
    profiles = make_profiles()
    odd = profiles.astype({"Cells_Feature_0": "float32", "Cells_Feature_1": "Float64"})
    odd.loc[2, "Cells_Feature_1"] = pd.NA
    result = normalise(odd).table
    assert result["Cells_Feature_1"].isna().sum() == 1
    np.testing.assert_allclose(result["Cells_Feature_0"], normalise(profiles).table["Cells_Feature_0"], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_pooled_spread_is_that_of_controls_about_their_plates_centre(method: str) -> None:
    profiles = make_profiles(plates=4, wells=12)
    controls = (profiles["Metadata_Compound"] == "DMSO").to_numpy()
    plates = profiles["Metadata_Plate"]
    found = features_of(normalise(profiles, method, reference=CONTROLS, spread="pooled").table)
    centre = "mean" if method == "standardise" else "median"
    raw = profiles.filter(regex="^Cells_")
    centres = raw[controls].groupby(plates[controls]).agg(centre).loc[plates].to_numpy()
    apart = raw.to_numpy() - centres
    mine = apart[controls]
    if method == "standardise":
        spread = np.sqrt((mine**2).sum(axis=0) / (len(mine) - plates.nunique()))
    elif method == "robustise":
        spread = np.subtract(*np.percentile(mine, [75, 25], axis=0))
    else:
        spread = 1.4826 * np.median(np.abs(mine - np.median(mine, axis=0)), axis=0)
    np.testing.assert_allclose(found, apart / spread, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_feature_that_controls_lack_on_one_plate_or_never_vary_in(method: str) -> None:
    profiles = make_profiles()
    controls = profiles["Metadata_Compound"] == "DMSO"
    first = profiles["Metadata_Plate"] == "P0"
    profiles.loc[controls & first, "Cells_Feature_0"] = np.nan
    profiles.loc[controls & first, "Cells_Feature_1"] = 1.1  # the same on one plate, not on the others
    profiles.loc[controls, "Cells_Feature_2"] = np.where(first[controls], 0.1, 7.7)  # the same on each plate
    result = normalise(profiles, method, reference=CONTROLS, spread="pooled").table
    assert result.loc[first, "Cells_Feature_0"].isna().all()
    assert result.loc[~first, "Cells_Feature_0"].notna().all()
    assert np.isfinite(result["Cells_Feature_1"]).all()
    assert result["Cells_Feature_2"].isna().all()
    with pytest.raises(InputError, match="spread='both'"):
        normalise(profiles, method, spread="both")  # type: ignore[arg-type]
