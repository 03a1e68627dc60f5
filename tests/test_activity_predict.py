"""Predictions of many compounds: every row answered for, equal to the model's own, fused as stated, bundled."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cellinfer_models
import numpy as np
import pandas as pd
import pytest
import torch
from cellinfer.activity import prediction, processes
from cellinfer.activity.applicability import domain_of, similarity_limit
from cellinfer.activity.chemistry import DEFAULT, PUBLISHED, fingerprints
from cellinfer.activity.models import open_activity
from cellinfer.activity.molecules import standardise
from cellinfer.activity.prediction import predict
from cellinfer.activity.prepare import prepare, standardisation_of
from cellinfer.cli import app
from cellinfer.errors import InputError, ModelError
from cellinfer.models import bundled, card, verify
from cellinfer_kernels.reference.tanimoto import similarities
from cellinfer_training.activity.data import ActivityData, make_data
from cellinfer_training.activity.export import Description, export_activity
from cellinfer_training.activity.networks import ActivityNetwork, Architecture
from cellinfer_training.export import register
from rdkit import Chem
from typer.testing import CliRunner

from tests.activity_table import drug_table, write
from tests.compounds import compounds

SMALL = Architecture(hidden=16, depth=2)
HEAD = [
    "Metadata_Row",
    "Metadata_Compound",
    "Metadata_SMILES_Original",
    "Metadata_SMILES",
    "Metadata_Status",
    "Metadata_Detail",
    "Metadata_Nearest_Similarity",
    "Metadata_Nearest_Compound",
    "Metadata_Applicability",
    "Metadata_Unknown_Elements",
]
GIVEN = {
    "salt": "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]",
    "seen": compounds()[3],
    "broken": "c1ccccc",
    "nothing": "",
    "mixture": "Cn1cnc2c1c(=O)n(C)c(=O)n2C.CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12",
    "=1+1": "C[Si](C)(C)CC[Te]C",
    "steroid": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
}


def made(assays: Sequence[str]) -> ActivityData:
    """Compounds with labels that mean nothing."""
    smiles = compounds()[:60]
    rng = np.random.default_rng(0)
    names = [f"c{number}" for number in range(len(smiles))]
    features = [f"Cells_{k}" for k in range(6)]
    table = pd.DataFrame(rng.normal(5, 3, (len(smiles), 6)), index=names, columns=features)
    labels = rng.integers(0, 2, (len(smiles), len(assays)))
    return make_data(smiles, labels, assays, None, names, {"morphology": table})


def exported(folder: Path, name: str, modalities: Sequence[str], assays: Sequence[str], members: int = 2) -> Path:
    """A model that learnt nothing but has everything else, of the first 40 compounds."""
    data = made(assays)
    networks = []
    for seed in range(members):
        torch.manual_seed(seed + 10 * len(modalities) + len(assays))
        network = ActivityNetwork(data.widths(modalities), len(assays), SMALL)
        network.fit_profiles(data.profiles)
        networks.append(network)
    path = folder / f"{name}.onnx"
    description = Description(name, "A test.", "CC0-1.0", standardisation=asdict(DEFAULT))
    export_activity(networks, data, np.arange(40), description, path)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees graphs."""
    return exported(tmp_path_factory.mktemp("graph"), "structure", ["graph"], ["a", "b"])


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees profiles, and knows another assay."""
    return exported(tmp_path_factory.mktemp("painted"), "painting", ["morphology"], ["b", "c", "d"])


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    """Molecules with every fault."""
    path = tmp_path / "molecules.csv"
    pd.DataFrame({"name": list(GIVEN), "SMILES": list(GIVEN.values())}).to_csv(path, index=False)
    return path


def profiles_of(names: Sequence[str], seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(5, 3, (len(names), 6)), columns=[f"Cells_{k}" for k in range(6)])
    return table.assign(Metadata_Compound=list(names), Metadata_Plate="p", Cells_Extra=1.0).iloc[:, ::-1]


def test_every_row_is_answered_for(graph: Path, molecules: Path, tmp_path: Path) -> None:
    result = predict([graph], tmp_path / "out.parquet", molecules, threads=1, device="cpu")
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("Metadata_Compound")
    assert list(table.reset_index())[:1] == ["Metadata_Compound"]
    assert list(pd.read_parquet(tmp_path / "out.parquet")) == [*HEAD, "a", "a_spread", "b", "b_spread"]
    assert list(table.index) == list(GIVEN)
    assert table["Metadata_Status"].tolist() == ["ok", "ok", "invalid SMILES", "empty", "mixture", "ok", "ok"]
    assert table["Metadata_SMILES_Original"]["salt"] == GIVEN["salt"]
    assert table["Metadata_SMILES"]["salt"] == "CC(=O)Oc1ccccc1C(=O)O"
    assert table["Metadata_Detail"]["salt"] == "[Na+]"
    good = table["Metadata_Status"] == "ok"
    assert table.loc[~good, ["a", "b_spread", "Metadata_Nearest_Similarity", "Metadata_Applicability"]].isna().all(None)
    standard = standardise(list(GIVEN.values()))["smiles"][good.to_numpy()].tolist()
    expected = open_activity(graph, "cpu", 1).predict(standard)
    np.testing.assert_allclose(table.loc[good, ["a", "b"]], expected.probability, atol=1e-6)
    np.testing.assert_allclose(table.loc[good, ["a_spread", "b_spread"]], expected.spread, atol=1e-6)
    assert table["Metadata_Unknown_Elements"].dropna().to_dict() == {"=1+1": "Te"}
    assert result.info["result"]["status"] == {"ok": 4, "invalid SMILES": 1, "empty": 1, "mixture": 1}
    assert "3 of 7 compounds could not be predicted" in " ".join(result.notes)


def test_applicability_is_the_nearest_training_compound(graph: Path, molecules: Path, tmp_path: Path) -> None:
    predict([graph], tmp_path / "out.parquet", molecules, threads=2, device="cpu")
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("Metadata_Compound")
    table = table[table["Metadata_Status"] == "ok"]
    trained = fingerprints(made(["a"]).smiles[:40])
    expected = similarities(fingerprints(table["Metadata_SMILES"].tolist()), trained)
    np.testing.assert_allclose(table["Metadata_Nearest_Similarity"], expected.max(1), rtol=1e-6)
    assert table["Metadata_Nearest_Compound"].tolist() == [f"c{row}" for row in expected.argmax(1)]
    own = similarities(trained, trained)
    np.fill_diagonal(own, -1)
    limit = np.percentile(own.max(1), 5)
    assert open_activity(graph, "cpu", 1).card.similarity_limit == pytest.approx(limit, abs=1e-4)
    assert table["Metadata_Applicability"].tolist() == ["inside" if s >= limit else "outside" for s in expected.max(1)]
    assert set(table["Metadata_Applicability"]) == {"inside", "outside"}
    assert table["Metadata_Nearest_Compound"]["seen"] == "c3"
    assert similarity_limit(trained[:1]) is None


def test_every_kind_of_file_gives_the_same(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = compounds()[:25]
    names = [f"n{number}" for number in range(25)]
    table = pd.DataFrame({"id": names, "SMILES": smiles})
    table.to_csv(tmp_path / "m.csv", index=False)
    table.to_csv(tmp_path / "m.tsv", index=False, sep="\t")
    table.to_parquet(tmp_path / "m.parquet")
    (tmp_path / "m.smi").write_text("".join(f"{s} {n}\n" for s, n in zip(smiles, names, strict=True)))
    with Chem.SDWriter(str(tmp_path / "m.sdf")) as writer:
        for text, name in zip(smiles, names, strict=True):
            molecule = Chem.MolFromSmiles(text)
            molecule.SetProp("_Name", name)
            writer.write(molecule)
    monkeypatch.setattr(prediction, "_PIECE", 10)
    found = {}
    for kind in ("csv", "tsv", "parquet", "smi", "sdf"):
        seen: list[tuple[str, int, int]] = []
        out = tmp_path / f"out_{kind}.parquet"
        predict([graph], out, tmp_path / f"m.{kind}", device="cpu", progress=lambda *each, s=seen: s.append(each))
        assert seen == [("compounds", done, 25) for done in (10, 20, 25)]
        found[kind] = pd.read_parquet(out)
    for each in found.values():
        own = each.drop(columns="Metadata_SMILES_Original")
        pd.testing.assert_frame_equal(own, found["csv"].drop(columns="Metadata_SMILES_Original"), atol=1e-6)


@pytest.mark.parametrize("how", ["default", "none"])
def test_processes_change_nothing(
    graph: Path, molecules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    both = exported(tmp_path, "both", ["graph", "morgan"], ["a"], 1)
    monkeypatch.setattr(processes, "WORTHWHILE", 3)
    monkeypatch.setattr(processes, "_CHUNK", 2)
    monkeypatch.setattr(prediction, "_PIECE", 4)
    for threads in (1, 2):
        out = tmp_path / f"{threads}.parquet"
        predict([graph, both], out, molecules, device="cpu", threads=threads, standardise=how)
    one, other = (pd.read_parquet(tmp_path / f"{threads}.parquet") for threads in (1, 2))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    monkeypatch.setattr(prediction, "_PIECE", 1)  # also one in which nothing can be predicted
    predict([graph, both], tmp_path / "single.parquet", molecules, device="cpu", standardise=how)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "single.parquet"), one, atol=1e-6)


def test_what_cannot_be_described_is_told_of(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("CCO fine\n[513CH4] heavy\nCCN fine too\n")
    predict([graph], tmp_path / "out.parquet", tmp_path / "m.smi", device="cpu")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["Metadata_Status"].tolist() == ["ok", "not described", "ok"]
    assert "isotope 513" in table["Metadata_Detail"][1]
    assert table["a"].notna().tolist() == [True, False, True]


def test_spreadsheets_run_nothing(graph: Path, molecules: Path, tmp_path: Path) -> None:
    predict([graph], tmp_path / "out.csv", molecules, device="cpu")
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table)[: len(HEAD)] == HEAD
    assert "'=1+1" in table["Metadata_Compound"].tolist()
    assert len(table) == len(GIVEN)


def test_profiles_alone_are_predicted(painted: Path, tmp_path: Path) -> None:
    table = profiles_of(["x", "y", "x", "z"])
    table.loc[3, table.columns.str.startswith("Cells_")] = np.nan
    folder = tmp_path / "profiled"
    folder.mkdir()
    table.to_parquet(folder / "Treatment.parquet")
    with pytest.raises(InputError, match="no finished result"):
        predict([painted], tmp_path / "out.parquet", profiles={"": folder})
    (folder / "profile.json").write_text("{}")
    result = predict([painted], tmp_path / "out.parquet", profiles={"": folder}, device="cpu")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["Metadata_Compound"].tolist() == ["x", "y", "z"]
    assert found["Metadata_Status"].tolist() == ["ok", "ok", "no profile"]
    means = table.groupby("Metadata_Compound")[[f"Cells_{k}" for k in range(6)]].mean()
    expected = open_activity(painted, "cpu", 1).predict(None, {"morphology": means.loc[["x", "y"]]})
    np.testing.assert_allclose(found[["b", "c", "d"]][:2], expected.probability, atol=1e-6)
    assert found.loc[2, ["b", "c", "d"]].isna().all()
    assert "1 compounds have several profiles" in " ".join(result.notes)
    assert found["Metadata_Applicability"].isna().all()


@pytest.mark.parametrize("fuse", ["max", "mean"])
def test_models_are_fused_where_they_know_something(
    graph: Path, painted: Path, molecules: Path, tmp_path: Path, fuse: str
) -> None:
    profiles_of(["salt", "steroid", "broken"]).to_csv(tmp_path / "wells.csv", index=False)
    result = predict(
        [graph, painted],
        tmp_path / "out.parquet",
        molecules,
        {"morphology": tmp_path / "wells.csv"},
        fuse=fuse,
        device="cpu",
    )
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("Metadata_Compound")
    assert [name for name in table if name in "abcd"] == ["a", "b", "c", "d"]
    one = open_activity(graph, "cpu", 1).predict([table["Metadata_SMILES"]["salt"]])
    wells = pd.read_csv(tmp_path / "wells.csv")
    other = open_activity(painted, "cpu", 1).predict(None, {"morphology": wells[:1]})
    both = np.array([one.probability[0, 1], other.probability[0, 0]], np.float64)
    apart = np.array([one.spread[0, 1], other.spread[0, 0]], np.float64)
    assert table["b"]["salt"] == pytest.approx(both.max() if fuse == "max" else both.mean(), abs=1e-6)
    mixture = np.sqrt((apart**2 + both**2).mean() - both.mean() ** 2)
    spread = apart[both.argmax()] if fuse == "max" else mixture
    assert table["b_spread"]["salt"] == pytest.approx(spread, abs=1e-6)
    assert table["a"]["salt"] == pytest.approx(one.probability[0, 0], abs=1e-6)
    assert table["d"]["salt"] == pytest.approx(other.probability[0, 2], abs=1e-6)
    assert table["c"].notna().tolist() == [True, False, True, False, False, False, True]
    assert table["Metadata_Status"].tolist() == ["ok", "ok", "ok", "empty", "mixture", "ok", "ok"]
    assert "painting: no profile" in table["Metadata_Detail"]["seen"]
    assert "structure: invalid SMILES" in table["Metadata_Detail"]["broken"]
    assert "3 of 4 assays are not known to all models" in " ".join(result.notes)


def test_what_was_done_is_written_down(graph: Path, molecules: Path, tmp_path: Path) -> None:
    result = predict([graph], tmp_path / "out.parquet", molecules, device="cpu")
    info = json.loads((tmp_path / "out.json").read_text())
    assert info == result.to_dict()
    (model,) = info["models"]
    assert model["sha256"] == cellinfer_models.digest(graph.read_bytes())
    assert model["standardisation"] == asdict(DEFAULT)
    assert model["card"]["name"] == "structure"
    assert {"rdkit", "numpy", "onnxruntime"} <= info["versions"].keys()
    assert info["inputs"][0]["sha256"] == cellinfer_models.digest(molecules.read_bytes())
    assert info["settings"]["fuse"] == "max"


def test_cards_without_the_new_fields_are_answered_for(graph: Path, molecules: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(graph)
    entry = model.metadata_props[0]
    description = json.loads(entry.value)
    trained = description["config"]["cellinfer"]["activity"]["training"]
    limit = trained.pop("similarity_limit")
    trained.pop("standardisation")
    entry.value = json.dumps(description)
    onnx.save(model, tmp_path / "old.onnx")
    shutil.copy(graph.with_name("structure.fingerprints.npz"), tmp_path)
    result = predict([tmp_path / "old.onnx"], tmp_path / "out.parquet", molecules, device="cpu")
    notes = " ".join(result.notes)
    assert "does not say how structures were made standard" in notes
    assert "was computed" in notes
    assert result.info["models"][0]["similarity_limit"] == pytest.approx(limit, abs=1e-4)
    table = pd.read_parquet(tmp_path / "out.parquet").set_index("Metadata_Compound")
    assert "." in table["Metadata_SMILES"]["salt"]
    domain = domain_of(open_activity(graph, "cpu", 1))
    assert domain is not None
    assert domain.stated
    trained["standardisation"] = {"salts": "strip"}
    entry.value = json.dumps(description)
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="standardisation must have cleanup"):
        open_activity(tmp_path / "old.onnx", "cpu", 1)


def test_training_learns_how_structures_were_made_standard(tmp_path: Path) -> None:
    prepare(write(drug_table(), tmp_path), tmp_path / "prepared", salts="keep", uncharge=False, largest=99)
    stated = standardisation_of(tmp_path / "prepared/matrix.parquet")
    assert stated == {"cleanup": True, "salts": "keep", "uncharge": False, "refuse": True, "largest": 99}
    prepare(write(drug_table(), tmp_path), tmp_path / "published", as_published=True, skip=("frequent", "redundant"))
    assert standardisation_of(tmp_path / "published/matrix.parquet") == asdict(PUBLISHED)
    assert standardisation_of(tmp_path / "prepared/other.parquet") is None
    assert standardisation_of(tmp_path / "matrix.parquet") is None
    (tmp_path / "prepared/prepare.json").write_text("{")
    with pytest.raises(InputError, match="prepare the table anew"):
        standardisation_of(tmp_path / "prepared/matrix.parquet")


def test_what_cannot_be_predicted_is_refused(graph: Path, painted: Path, molecules: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    wells = tmp_path / "wells.csv"
    profiles_of(["x"]).drop(columns=["Cells_1", "Cells_4"]).to_csv(wells, index=False)
    with pytest.raises(InputError, match=r"lacks 2 of the 6 features .* such as 'Cells_1', 'Cells_4'"):
        predict([painted], out, profiles={"": wells})
    profiles_of(["x"]).rename(columns={"Metadata_Compound": "who"}).to_csv(wells, index=False)
    with pytest.raises(InputError, match="name it with --join"):
        predict([painted], out, profiles={"": wells})
    predict([painted], out, profiles={"": wells}, join="who", device="cpu")
    with pytest.raises(InputError, match="give them with --profiles morphology=TABLE"):
        predict([painted], out, molecules)
    with pytest.raises(InputError, match="give molecules"):
        predict([graph], out)
    with pytest.raises(InputError, match="they see structures only"):
        predict([graph], out, molecules, {"": wells})
    with pytest.raises(InputError, match="must end in"):
        predict([graph], tmp_path / "out.xlsx", molecules)
    with pytest.raises(InputError, match="fuse is max, mean"):
        predict([graph], out, molecules, fuse="median")
    with pytest.raises(InputError, match="no setting 'speed'"):
        predict([graph], out, molecules, speed=9)
    (tmp_path / "none.smi").write_text("")
    before = out.read_bytes()
    with pytest.raises(InputError, match="has no compounds"):
        predict([graph], out, tmp_path / "none.smi")
    assert out.read_bytes() == before


def test_profiles_come_as_they_come(painted: Path, tmp_path: Path) -> None:
    table, out = profiles_of(["007", "7", "x"]), tmp_path / "out.csv"
    table.loc[1, "Cells_0"] = np.nan
    table["Cells_3"] = [1.0, 2.0, 1e300]
    wells = tmp_path / "wells.csv"
    found = []
    for separator, end in ((",", "\n"), (";", "\r\n"), ("\t", "\n")):
        wells.write_bytes(b"\xef\xbb\xbf" + table.to_csv(index=False, sep=separator, lineterminator=end).encode())
        result = predict([painted], out, profiles={"": wells}, device="cpu", threads=1)
        found.append(out.read_bytes())
        said = " ".join(result.notes)
        assert "1 values of" in said and "are infinite" in said and "2 of 18 values of" in said
    assert len(set(found)) == 1
    assert pd.read_csv(out, dtype=str)["Metadata_Compound"].tolist() == ["007", "7", "x"]
    with pytest.raises(InputError, match="would be written over"):
        predict([painted], wells, profiles={"": wells})
    broken = bytearray(gzip.compress(wells.read_bytes() * 9))
    broken[len(broken) // 2 : len(broken) // 2 + 20] = b"\xff" * 20
    (tmp_path / "broken.csv.gz").write_bytes(broken)
    wells.write_text(wells.read_text() + "1,2,3,4,5,6,7,8,9,10,11,12\n".replace(",", "\t"))
    for name in ("broken.csv.gz", "wells.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            predict([painted], out, profiles={"": tmp_path / name})


def test_the_command_predicts(graph: Path, painted: Path, molecules: Path, tmp_path: Path) -> None:
    wells = tmp_path / "wells.parquet"
    profiles_of(["salt"]).to_parquet(wells)
    line = ["activity", "predict", str(graph), str(painted), str(molecules), "--out", str(tmp_path / "out.csv")]
    line += ["--profiles", f"morphology={wells}", "--fuse", "mean", "--device", "cpu"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "4 of 7 compounds predicted in 4 assays" in result.output
    assert (tmp_path / "out.json").is_file()
    result = CliRunner().invoke(app, [*line, "--json"])
    assert json.loads(result.stdout)["settings"]["fuse"] == "mean"
    alone = ["activity", "predict", str(painted), "--profiles", str(wells), "--out", str(tmp_path / "p.parquet")]
    assert CliRunner().invoke(app, alone).exit_code == 0
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == 1


def test_ctrl_c_leaves_nothing(graph: Path, molecules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: object, piece: pd.DataFrame, structures: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction._Work, "predict", stop)
    out = tmp_path / "result" / "out.parquet"
    result = CliRunner().invoke(app, ["activity", "predict", str(graph), str(molecules), "--out", str(out)])
    assert result.exit_code == 130
    assert "stopped; nothing was written" in result.output
    assert not list(out.parent.iterdir())


def test_a_bundled_model_is_listed_shown_and_verified(
    graph: Path, molecules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in graph.parent.iterdir():
        shutil.copy(path, tmp_path)
    register(tmp_path / "structure.onnx", "hits of two assays")
    assert json.loads((tmp_path / "registry.json").read_text())["structure"]["task"] == "activity"
    monkeypatch.setattr(cellinfer_models, "folder", lambda: tmp_path)
    cellinfer_models.registry.cache_clear()
    try:
        (only,) = bundled()
        assert only.card.assays == card("structure").assays == ("a", "b")
        assert "5 golden compounds as in its card" in verify("structure")
        for command, words in (("list", "hits of 2 assays of 40 compounds"), ("verify", "5 golden compounds")):
            result = CliRunner().invoke(app, ["models", command])
            assert words in " ".join(result.output.split()), result.output
        assert "similarity_limit" in CliRunner().invoke(app, ["models", "show", "structure"]).output
        predict(["structure"], tmp_path / "out.parquet", molecules, device="cpu")
        (tmp_path / "structure.fingerprints.npz").unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            verify("structure")
    finally:
        monkeypatch.undo()
        cellinfer_models.registry.cache_clear()
