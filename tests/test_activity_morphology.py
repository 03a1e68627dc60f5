"""Hits from morphology: what `cellinfer profile` writes is trained on, predicted with, and asked of another screen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity.models import open_activity
from cellinfer.activity.profiles import read_profiles
from cellinfer.cli import app
from cellinfer.errors import InputError, ModelError
from cellinfer.profiling.columns import feature_columns
from cellinfer.profiling.wanted import KEPT, read_wanted
from cellinfer.profiling.workflow import profile
from cellinfer.wells import well_name
from cellinfer_training.__main__ import app as training
from cellinfer_training.activity.data import make_data, read_data
from typer.testing import CliRunner

CONTROLS = "Metadata_Compound == 'DMSO'"
NAMES = [f"c{number}" for number in range(24)]


def wells(seed: int, features: int = 9) -> pd.DataFrame:
    """Two plates of 24 compounds and 8 controls; the first feature shows every third compound; the last one is noise
    that follows the first."""
    rng = np.random.default_rng(seed)
    rows = np.tile([*NAMES, *["DMSO"] * 8], 2)
    values = rng.normal(0, 1, (len(rows), features))
    values[:, 0] += 8 * np.array([name != "DMSO" and int(name[1:]) % 3 == 0 for name in rows])
    values[:, -1] = values[:, 0] + rng.normal(0, 0.01, len(rows))
    values += np.repeat(rng.normal(0, 5, (2, features)), 32, axis=0)
    head = {
        "Metadata_Plate": np.repeat(["p1", "p2"], 32),
        "Metadata_Well": [well_name(place // 12 + 1, place % 12 + 1) for place in range(32)] * 2,
        "Metadata_Compound": rows,
    }
    named = pd.DataFrame(values, columns=[f"Cells_F{number}" for number in range(features)])
    return pd.concat([pd.DataFrame(head), named], axis=1)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished result of `cellinfer profile`."""
    folder = tmp_path_factory.mktemp("screen")
    wells(0).to_parquet(folder / "wells.parquet")
    profile(folder / "wells.parquet", folder / "profiled", controls=CONTROLS, clip=15.0, picture=False, threads=1)
    return folder / "profiled"


@pytest.fixture(scope="module")
def taught(profiled: Path) -> Path:
    """A run that was taught by the command, on that folder and a matrix without structures."""
    folder = profiled.parent
    hits = [int(name[1:]) % 3 == 0 for name in NAMES]
    matrix = pd.DataFrame({"Metadata_Compound": NAMES, "third": np.array(hits, int), "noise": np.arange(24) % 2})
    matrix.to_csv(folder / "matrix.csv", index=False)
    folds = pd.DataFrame({"Metadata_Compound": NAMES, "Fold": np.arange(24) // 6})
    folds.to_csv(folder / "folds.csv", index=False)
    line = ["activity", folder / "matrix.csv", "--folds", folder / "folds.csv", "--out", folder / "run"]
    line += ["--profiles", f"morphology={profiled}", "--model", "morphology", "--epochs", "25", "--hidden", "16"]
    result = CliRunner().invoke(training, [str(one) for one in [*line, "--rate", "0.02"]])
    assert result.exit_code == 0, result.output
    assert "note: 1 of 25 profiles of 'morphology' are of no compound" in result.output
    return folder / "run"


def test_the_folder_of_profile_is_trained_on_and_predicted_with(profiled: Path, taught: Path, tmp_path: Path) -> None:
    model = taught / "activity.onnx"
    line = ["activity", "predict", model, "--profiles", profiled, "--out", tmp_path / "hits.parquet", "--threads", "1"]
    result = CliRunner().invoke(app, [str(one) for one in line])
    assert result.exit_code == 0, result.output
    found = pd.read_parquet(tmp_path / "hits.parquet").set_index("Metadata_Compound")
    learnt = pd.read_parquet(taught / "predictions.parquet").set_index("Metadata_Compound")
    np.testing.assert_allclose(found.loc[learnt.index, ["third", "noise"]], learnt, atol=1e-5)
    assert found.loc[["c0", "c3"], "third"].min() > found.loc[["c1", "c2", "c4", "c5"], "third"].max()
    card = open_activity(model, "cpu", 1).card
    treatments = pd.read_parquet(profiled / "Treatment.parquet")
    assert card.features["morphology"] == tuple(feature_columns(treatments))
    assert card.fingerprints is None
    assert not list(taught.glob("*.npz"))
    assert set(card.profiles["morphology"]) == set(KEPT)
    stated = {"clip": 15.0, "reference": "controls", "sphering": "ZCA", "regularization": 0.1}
    assert stated.items() <= dict(card.profiles["morphology"]).items()


@pytest.mark.parametrize("of_a_model", [True, False])
def test_another_screen_gets_the_features_that_are_wanted(
    profiled: Path, taught: Path, tmp_path: Path, of_a_model: bool
) -> None:
    other = wells(1)
    other["Cells_F0"] = other["Cells_F0"].where(other.index != 5)  # selection would go another way here
    other["Cells_F3"] = other["Cells_F2"]
    other.assign(Cells_New=1.0)[other.columns[::-1].insert(0, "Cells_New")].to_parquet(tmp_path / "wells.parquet")
    wanted = taught / "activity.onnx" if of_a_model else profiled
    line = ["profile", tmp_path / "wells.parquet", "--controls", CONTROLS, "--out", tmp_path / "out", "--no-picture"]
    result = CliRunner().invoke(app, [str(one) for one in [*line, "--features-of", wanted]])
    assert result.exit_code == 0, result.output
    made = pd.read_parquet(tmp_path / "out" / "Treatment.parquet")
    features = feature_columns(pd.read_parquet(profiled / "Treatment.parquet"))
    assert feature_columns(made) == features
    assert "Cells_F8" not in features  # follows the first
    info = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert info["settings"]["clip"] == 15.0
    assert "1 values in 1 features are missing and were set to 0" in " ".join(info["notes"])
    why = pd.read_csv(tmp_path / "out" / "features.csv").set_index("feature")
    assert why.loc["Cells_New", "operation"] == "wanted"
    # with the same features selected by hand, each step gives the same
    same = other.assign(Cells_F0=other["Cells_F0"])[[*other.columns[:3], *features]]
    same.to_parquet(tmp_path / "same.parquet")
    options = {"controls": CONTROLS, "clip": 15.0, "picture": False, "threads": 1}
    plain = profile(tmp_path / "same.parquet", tmp_path / "plain", selection=(), sphering="none", **options)
    kept = pd.read_parquet(tmp_path / "out" / "Well_selected.parquet")
    np.testing.assert_allclose(kept[features], plain.wells[features].fillna(0.0), atol=1e-9)


def test_what_cannot_be_wanted_is_refused(profiled: Path, taught: Path, tmp_path: Path) -> None:
    model, out = taught / "activity.onnx", tmp_path / "out"
    wells(1).drop(columns="Cells_F1").to_parquet(tmp_path / "short.parquet")
    wells(1).to_parquet(tmp_path / "wells.parquet")
    given = tmp_path / "wells.parquet"
    with pytest.raises(InputError, match=r"1 of the 8 features of the model 'activity' were not measured here"):
        profile(tmp_path / "short.parquet", out, features_of=model, controls=CONTROLS)
    with pytest.raises(InputError, match=r"have clip 15\.0, not 3\.0"):
        profile(given, out, features_of=model, controls=CONTROLS, clip=3.0)
    with pytest.raises(InputError, match="leave feature selection out"):
        profile(given, out, features_of=model, controls=CONTROLS, selection=["variance"])
    with pytest.raises(InputError, match="needs to know them"):
        profile(given, out, features_of=model)
    with pytest.raises(InputError, match="choose one, as morphology="):
        read_wanted(f"expression={model}")
    with pytest.raises(InputError, match="no finished result"):
        read_wanted(tmp_path)
    with pytest.raises(ModelError):
        read_wanted(tmp_path / "none.onnx")
    shutil.copytree(profiled, tmp_path / "components")
    stated = tmp_path / "components" / "profile.json"
    stated.write_text(stated.read_text().replace('"ZCA"', '"PCA"'))
    with pytest.raises(InputError, match="components are others in every screen"):
        read_wanted(tmp_path / "components")


def test_profiles_are_read_for_training(profiled: Path, tmp_path: Path) -> None:
    table = wells(0)
    table.insert(3, "Metadata_Treatment", table["Metadata_Compound"] + " 1")
    table = table.assign(Cells_Empty=np.nan, Cells_F2=table["Cells_F2"].where(table.index != 1, np.inf))
    table.to_csv(tmp_path / "wells.csv", index=False)
    found = read_profiles(tmp_path / "wells.csv", "morphology", join="Metadata_Treatment")
    assert list(found.compounds[:2]) == ["c0 1", "c1 1"]
    means = table[table["Metadata_Compound"] == "c0"].filter(like="Cells_F").mean()
    np.testing.assert_allclose(found.table.loc["c0 1"], means, rtol=1e-6)
    assert [note.split()[0] for note in found.notes] == ["25", "1", "1"]
    assert found.settings is None
    assert read_profiles(profiled, "morphology").settings is not None
    matrix = pd.DataFrame({"Metadata_Compound": ["c0", "c1"], "a": [0, 1]})
    matrix.to_csv(tmp_path / "matrix.csv", index=False)
    with pytest.raises(InputError, match="no column of SMILES"):
        read_data(tmp_path / "matrix.csv")
    data = read_data(tmp_path / "matrix.csv", profiles={"morphology": profiled})
    with pytest.raises(InputError, match="There is no modality 'graph': there is morphology"):
        data.widths(["graph"])
    with pytest.raises(InputError, match="neither structures nor profiles"):
        make_data(None, [[1]], ["a"], compounds=["x"]).widths(["graph"])
