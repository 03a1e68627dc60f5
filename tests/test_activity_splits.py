"""Folds and what they have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import leakage
from cellinfer.activity.chemistry import fingerprints, without_stereo
from cellinfer.activity.columns import COMPOUND, SMILES
from cellinfer.activity.dividing import FAMILY, FOLD, NEIGHBOUR, SIMILARITY, split
from cellinfer.activity.prepare import prepare
from cellinfer.activity.splits import assay_type_folds, random_folds, same_size_clusters, scaffold_folds
from cellinfer.cli import app
from cellinfer.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from typer.testing import CliRunner

from tests.activity_table import DRUGS, drug_table, labels, write

KEEP = ("pains", "redundant", "frequent")
SCAFFOLDS = st.lists(st.sampled_from("abcdefghij") | st.just(""), min_size=30, max_size=80)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    meta = pd.DataFrame({"assay": ["a0", "a1", "a2", "a3"], "type": ["cell", "cell", "yeast", ""]})
    meta.to_csv(tmp_path / "meta.csv", index=False)
    prepare(write(drug_table(), tmp_path), tmp_path / "prepared", skip=KEEP, assays=tmp_path / "meta.csv")
    return tmp_path / "prepared"


@given(SCAFFOLDS, st.integers(0, 50), st.booleans())
def test_a_scaffold_is_in_one_fold(scaffolds: list[str], seed: int, as_published: bool) -> None:
    if len(set(scaffolds)) < 3:
        return
    folds = scaffold_folds(scaffolds, 3, seed, as_published=as_published)
    table = pd.DataFrame({"scaffold": scaffolds, "fold": folds})
    assert (table.groupby("scaffold")["fold"].nunique() == 1).all()
    sizes = np.bincount(folds, minlength=3)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= table["scaffold"].value_counts().iloc[0]


@given(SCAFFOLDS, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_compounds(scaffolds: list[str], random: Any) -> None:
    if len(set(scaffolds)) < 3:
        return
    order = list(range(len(scaffolds)))
    random.shuffle(order)
    shuffled = scaffold_folds([scaffolds[place] for place in order], 3, 7)
    np.testing.assert_array_equal(shuffled, scaffold_folds(scaffolds, 3, 7)[order])


@given(st.integers(3, 60), st.integers(2, 3), st.integers(0, 5))
def test_plain_random_folds_are_of_one_size(number: int, folds: int, seed: int) -> None:
    sizes = np.bincount(random_folds(number, folds, seed), minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(random_folds(number, folds, seed), random_folds(number, folds, seed))


def test_stratified_folds_spread_hits() -> None:
    drawn = np.nan_to_num(labels(400, 12, 0.03, 2), nan=-1).astype(np.int8)
    hits = drawn == 1
    apart = {}
    for name, given_labels in (("stratified", drawn), ("plain", None)):
        folds = random_folds(400, 5, 1, given_labels)
        per_fold = np.array([hits[folds == fold].sum(axis=0) for fold in range(5)])
        apart[name] = (per_fold.max(axis=0) - per_fold.min(axis=0)).max()
        sizes = np.bincount(folds)
        assert sizes.max() - sizes.min() <= 10
    assert apart["stratified"] <= 2 < apart["plain"]


def test_clusters_of_one_size_find_groups_of_one_size() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 30)) * 6
    truth = np.repeat(np.arange(4), 25)
    values = centres[truth] + random.normal(size=(100, 30))
    found = same_size_clusters(values, 4, 3)
    assert pd.crosstab(found.labels, truth).to_numpy().max(axis=0).tolist() == [25] * 4
    np.testing.assert_array_equal(found.labels, same_size_clusters(values, 4, 3).labels)
    expected = sum(((values[truth == one] - values[truth == one].mean(0)) ** 2).sum() for one in range(4))
    assert found.inertia == pytest.approx(expected, rel=1e-4)


def test_clusters_are_of_one_size_where_groups_are_not() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(size=(90, 5)), random.normal(size=(13, 5)) + 30])
    assert sorted(np.bincount(same_size_clusters(values, 4, 0).labels)) == [25, 26, 26, 26]
    assert sorted(np.bincount(same_size_clusters(np.zeros((10, 3)), 3, 0).labels)) == [3, 3, 4]


REFUSED_CLUSTERS = [
    (np.array([[np.nan], [1.0], [2.0]]), "finite"),
    (np.zeros((1, 3)), "cannot be divided"),
    (np.zeros((5, 0)), "row of features"),
]


@pytest.mark.parametrize(("values", "says"), REFUSED_CLUSTERS)
def test_features_that_cannot_be_clustered_are_refused(values: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        same_size_clusters(values, 2)


def test_types_of_assays_have_a_fold_each() -> None:
    folds, names = assay_type_folds(["yeast", "cell", None, "cell", ""])
    assert names == ("cell", "yeast")
    assert folds.tolist() == [1, 0, -1, 0, -1]
    with pytest.raises(InputError, match="two types"):
        assay_type_folds(["cell", None])


def test_nearest_training_compounds_are_those_of_rdkit() -> None:
    smiles = list(DRUGS.values())
    folds = np.arange(len(smiles)) % 3
    folds[4] = -1
    found = leakage.nearest_in_training(fingerprints(smiles), folds, threads=2)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    vectors = [generator.GetFingerprint(Chem.MolFromSmiles(one)) for one in smiles]
    for place, fold in enumerate(folds):
        others = np.flatnonzero((folds != fold) & (folds >= 0))
        if fold < 0:
            assert np.isnan(found.similarity[place]) and found.row[place] == -1
            continue
        values = DataStructs.BulkTanimotoSimilarity(vectors[place], [vectors[other] for other in others])
        assert found.similarity[place] == max(values)
        assert found.row[place] == others[int(np.argmax(values))]


def test_stereo_twins_are_found_by_smiles_or_key() -> None:
    smiles = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O", "CCO", "CCO", "CCN"]
    flat = [without_stereo(one) for one in smiles]
    keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(one)) for one in smiles]
    folds = np.array([0, 1, 1, 0, 0, 1])
    assert leakage.stereo_twins(flat, keys, folds).tolist() == [0, 0, 0, -1, -1, -1]
    assert leakage.stereo_twins(flat, [None] * 6, folds).tolist() == [0, 0, 0, -1, -1, -1]
    assert leakage.stereo_twins([str(one) for one in range(6)], keys, folds).tolist() == [0, 0, 0, -1, -1, -1]
    assert (leakage.stereo_twins(flat, keys, np.where(folds == 1, -1, 0)) == -1).all()


def test_counts_say_what_cannot_be_scored() -> None:
    drawn = np.array([[1, 0], [0, 0], [1, 1], [-1, 0]], np.int8)
    counts = leakage.counts_by_fold(drawn, np.array([0, 0, 1, 1]), ["a", "b"])
    assert counts["scorable"].tolist() == [True, False, False, True]
    assert counts["hits"].tolist() == [1, 0, 1, 1]
    assert counts["training_hits"].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("by", ["scaffold", "kmeans", "random"])
def test_folds_of_compounds_are_written(by: str, prepared: Path) -> None:
    done = CliRunner().invoke(
        app, ["activity", "split", str(prepared), "--by", by, "--folds", "3", "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    info = json.loads(done.stdout)
    folder = prepared / f"split-{by}"
    assert info == json.loads((folder / "split.json").read_text())
    assert set(info["files"]) == {"folds.parquet", "folds.csv", "counts.csv", "leakage.png", "split.json"}
    assert sum(fold["compounds"] for fold in info["folds"]) == len(DRUGS)
    assert "rdkit" in info["versions"]
    table = pd.read_parquet(folder / "folds.parquet")
    assert table[COMPOUND].tolist() == list(DRUGS)
    assert sorted(table[FOLD].unique()) == [0, 1, 2]
    assert table[SIMILARITY].between(0, 1).all()
    fold_of = dict(zip(table[COMPOUND], table[FOLD], strict=True))
    assert all(fold_of[name] != fold_of[other] for name, other in zip(table[COMPOUND], table[NEIGHBOUR], strict=True))
    pair = table[table[COMPOUND].isin(["ibuprofen", "S-ibuprofen"])]
    apart = pair[FOLD].nunique() == 2
    assert pair[FAMILY].notna().all() == apart
    assert (folder / "leakage.png").read_bytes().startswith(b"\x89PNG")
    plain = CliRunner().invoke(app, ["activity", "split", str(prepared), "--by", by, "--folds", "3"])
    assert plain.exit_code == 0
    assert "nearest training compound" in plain.stdout


def test_folds_by_type_of_assay(prepared: Path) -> None:
    result = split(prepared, prepared / "types", by="assay-type")
    assert result.folds[FOLD].tolist()[:3] == [0, 0, 1]
    assert result.folds[FOLD].isna().tolist() == [False, False, False, True]
    assert result.folds["overlap"].iloc[:3].between(0, 1).all()
    assert set(result.folds["nearest_assay"].iloc[:2]) == {"a2"}
    assert result.counts["type"].tolist() == ["cell", "yeast"]
    assert any("without a type" in note for note in result.notes)
    assert not (prepared / "types" / "leakage.png").exists()


def test_folds_by_profiles(prepared: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = list(DRUGS)[:-2]
    rows = pd.DataFrame(random.normal(size=(2 * len(names), 6))).add_prefix("Cells_")
    rows["Cells_0"] *= 1e6  # scales do not matter
    rows["Cells_constant"] = 1.0
    rows.insert(0, COMPOUND, names * 2)
    rows.insert(0, "Metadata_Well", [f"{'ABCDEFGH'[one // 12]}{one % 12 + 1:02d}" for one in range(len(rows))])
    rows.insert(0, "Metadata_Plate", "P")
    rows.to_csv(tmp_path / "profiles.csv", index=False)
    result = split(prepared, by="kmeans", folds=3, features=tmp_path / "profiles.csv")
    assert result.folds[FOLD].isna().sum() == 2
    assert result.folds[FOLD].value_counts().tolist() == [5, 5, 5]
    assert any("2 of 17 compounds have no profile" in note for note in result.notes)
    assert any("1 of 7 features are left out" in note for note in result.notes)
    with pytest.raises(InputError, match="say which with --join"):
        split(prepared, by="kmeans", features=tmp_path / "profiles.csv", join="Metadata_Drug")
    rows.assign(**{COMPOUND: "x"}).to_csv(tmp_path / "others.csv", index=False)
    with pytest.raises(InputError, match="profiles of none"):
        split(prepared, by="kmeans", features=tmp_path / "others.csv")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"by": "colour"}, "choose scaffold, kmeans"),
    ({"folds": 1}, "at least 2 folds"),
    ({"folds": 100}, "cannot be divided into 100 folds"),
    ({"by": "random", "folds": 100}, "cannot be divided"),
    ({"by": "scaffold", "features": Path("x.csv")}, "is for folds by kmeans"),
    ({"by": "kmeans", "features": Path("none.csv")}, "There is no none.csv"),
    ({"by": "kmeans", "as_published": True}, "no published form"),
    ({"colour": 1}, "no setting 'colour'"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_what_cannot_be_divided_is_refused(options: dict[str, Any], says: str, prepared: Path) -> None:
    with pytest.raises(InputError, match=says):
        split(prepared, **options)


def test_other_input_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="activity prepare` first"):
        split(tmp_path)
    with pytest.raises(InputError, match="holds what is read"):
        split(prepared, prepared)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        split(tmp_path / "broken.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no column Metadata_Compound"):
        split(tmp_path / "other.parquet")
    matrix = pd.read_parquet(prepared / "matrix.parquet")
    matrix.assign(a0=7).to_parquet(tmp_path / "seven.parquet")
    with pytest.raises(InputError, match="other values than 1, 0 and nothing in a0"):
        split(tmp_path / "seven.parquet")
    matrix.assign(Metadata_SMILES=None).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="compounds without a structure"):
        split(tmp_path / "none.parquet")
    matrix.iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no compounds"):
        split(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"or its matrix\.parquet"):
        split(prepared / "matrix.csv")
    (prepared / "assays.csv").unlink()
    with pytest.raises(InputError, match="with types of assays"):
        split(prepared, by="assay-type")


@pytest.mark.realdata
def test_published_scaffold_folds_are_repeated(data_folder: Path) -> None:
    """All 16,170 published compounds are in their published fold."""
    from cellinfer.activity.chemistry import scaffold

    table = pd.read_csv(data_folder / "activity" / "moshkov2023" / "compounds16170.csv.gz")
    folds = scaffold_folds([scaffold(one) for one in table["smiles"]], 5, 0, as_published=True)
    np.testing.assert_array_equal(folds, table["scaffold_fold"])
    assert np.bincount(folds).tolist() == [3234] * 5
    ours = scaffold_folds([scaffold(one) for one in table["smiles"]], 5, 0)
    assert np.bincount(ours).tolist() == [3234] * 5


@pytest.mark.realdata
def test_a_real_matrix_from_start_to_end(data_folder: Path, tmp_path: Path) -> None:
    """Published labels of 6,567 compounds in 24 assays (a tenth of them): no PAINS, and stereoisomers apart."""
    activity = data_folder / "activity"
    table = pd.read_csv(activity / "broad6k" / "compounds.csv.gz", dtype=str)[::10]
    table.to_csv(tmp_path / "some.csv", index=False)
    result = prepare(tmp_path / "some.csv", tmp_path / "out", assays=activity / "moshkov2023" / "assay_metadata.csv")
    counts = {step.name: step.removed for step in result.steps}
    assert counts["pains"] == 0
    assert len(result.matrix) >= 0.98 * len(table)
    assert result.assays["type"].notna().all()
    divided = split(tmp_path / "out", by="scaffold")
    assert divided.info["stereo_families_in_several_folds"] == 0
    at_random = divided.info["nearest_training_similarity_at_random"]["median"]
    assert divided.info["nearest_training_similarity"]["median"] < at_random
    assert SMILES in divided.folds
