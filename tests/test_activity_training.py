"""Networks of activity: what they compute, how they learn, and that what is exported is what was learnt."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cellinfer.activity.graphs import message_tables, read_graphs
from cellinfer.activity.metrics import auroc
from cellinfer.activity.models import encode, open_activity
from cellinfer.cards import parse_activity_card
from cellinfer.errors import InputError, ModelError
from cellinfer.golden import golden_difference, golden_result
from cellinfer.sessions import open_activity_model, open_model
from cellinfer_training.__main__ import app
from cellinfer_training.activity.baselines import fit_baseline
from cellinfer_training.activity.data import ActivityData, make_data, read_data
from cellinfer_training.activity.export import Description, export_activity
from cellinfer_training.activity.learner import (
    Learner,
    Settings,
    divide,
    learn_members,
    logits_of,
    predict,
    probabilities_of,
    unseen,
)
from cellinfer_training.activity.losses import hit_weights, masked_logistic_loss
from cellinfer_training.activity.networks import ActivityNetwork, Architecture, Ensemble
from cellinfer_training.activity.report import _taught_little, train_activity
from cellinfer_training.activity.search import search
from rdkit import Chem
from torch.nn import functional
from typer.testing import CliRunner

from tests.compounds import ODD, SULFONAMIDE, compounds, has, shuffled
from tests.test_molgraphs import atom_by_hand, bond_by_hand

SMALL = Architecture(hidden=32, depth=3)
QUICK = Settings(epochs=40, batch=20, rate=5e-3, first_rate=1e-3, last_rate=5e-4, patience=0)


@pytest.fixture(scope="module")
def data() -> ActivityData:
    """Assays: sulfonamides hit, carboxylic acids hit (half of it untested), nothing hits."""
    smiles = compounds()
    rng = np.random.default_rng(0)
    acid = np.where(rng.random(len(smiles)) < 0.5, has(smiles, "C(=O)[OH]"), -1)
    labels = np.column_stack([has(smiles, SULFONAMIDE), acid, np.zeros(len(smiles))]).astype(np.int8)
    names = [f"c{number}" for number in range(len(smiles))]
    table = pd.DataFrame(rng.normal(5, 3, (len(smiles), 6)), index=names, columns=[f"Cells_{k}" for k in range(6)])
    table.iloc[:, 0] += 20 * labels[:, 0]
    table.iloc[:, 1] = 7.0
    table.iloc[3] = np.nan
    table.iloc[5, 2] = np.nan
    return make_data(
        smiles,
        labels,
        ["sulfonamide", "acid", "nothing"],
        rng.permutation(len(names)) % 5,
        names,
        {"morphology": table},
    )


def by_loops(network: ActivityNetwork, text: str) -> np.ndarray:
    """A directed message passing network bond by bond, as the paper states it."""
    encoder = network.encoders[0]
    start, message, atom = (
        layer.weight.detach().double().numpy() for layer in (encoder.start, encoder.message, encoder.atom)
    )
    bias = encoder.atom.bias.detach().double().numpy()
    molecule = Chem.MolFromSmiles(text)
    features = [np.array(atom_by_hand(each)) for each in molecule.GetAtoms()]
    first = {}
    for bond in molecule.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for one, other in (ends, ends[::-1]):
            first[one, other] = start @ np.concatenate([features[one], bond_by_hand(bond)])
    state = {pair: np.maximum(value, 0) for pair, value in first.items()}
    none = np.zeros(len(start))

    def into(v: int, but: int = -1) -> np.ndarray:
        return sum((each for (u, x), each in state.items() if x == v and u != but), none)

    for _ in range(network.architecture.depth - 1):
        state = {
            (v, w): np.maximum(
                first[v, w] + message @ sum((state[u, x] for u, x in state if x == v and u != w), none), 0
            )
            for v, w in state
        }
    atoms = [np.maximum(atom @ np.concatenate([seen, into(v)]) + bias, 0) for v, seen in enumerate(features)]
    pooled = np.sum(atoms, axis=0) / {"mean": len(atoms), "sum": 1, "norm": 100}[network.architecture.readout]
    return network.head.double()(torch.from_numpy(pooled)).detach().numpy()


@pytest.mark.parametrize(("readout", "depth"), [("mean", 3), ("sum", 1), ("norm", 4)])
def test_the_graph_network_is_the_published_one(readout: str, depth: int) -> None:
    torch.manual_seed(1)
    network = ActivityNetwork({"graph": 0}, 4, Architecture(hidden=16, depth=depth, readout=readout)).eval()
    smiles = [*compounds()[::20], *ODD]
    for merge in (True, False):
        arrays = message_tables(read_graphs(smiles), depth, merge).arrays()
        found = network(*(torch.from_numpy(arrays[name]) for name in network.inputs)).detach().numpy()
        expected = np.array([by_loops(network, text) for text in smiles])
        network.float()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_neither_the_batch_nor_the_order_of_atoms_matters() -> None:
    torch.manual_seed(2)
    network = ActivityNetwork({"graph": 0}, 2, SMALL).eval()

    def logits(smiles: list[str]) -> np.ndarray:
        arrays = message_tables(read_graphs(smiles), 3).arrays()
        return network(*(torch.from_numpy(arrays[name]) for name in network.inputs)).detach().numpy()

    smiles = [text for text in compounds() if "@" not in text]
    together = logits(smiles)
    np.testing.assert_allclose(np.vstack([logits([text]) for text in smiles[::15]]), together[::15], atol=1e-5)
    np.testing.assert_allclose(logits(smiles[::-1]), together[::-1], atol=1e-5)
    np.testing.assert_allclose(logits([shuffled(text, seed) for seed, text in enumerate(smiles)]), together, atol=1e-5)


def test_blanks_count_for_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(30, 4))).requires_grad_()
    labels = torch.from_numpy(rng.choice([0.0, 1.0, np.nan], (30, 4)))
    known = ~torch.isnan(labels)
    loss = masked_logistic_loss(logits, labels)
    expected = functional.binary_cross_entropy_with_logits(logits[known], labels[known])
    assert loss.item() == pytest.approx(expected.item())
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[~known] == 0).all()
    assert (slope[known] != 0).all()
    weights = torch.tensor([2.0, 1.0, 3.0, 0.5], dtype=torch.float64)
    weighted = functional.binary_cross_entropy_with_logits(
        logits[known], labels[known], pos_weight=weights.expand(30, 4)[known]
    )
    assert masked_logistic_loss(logits, labels, weights).item() == pytest.approx(weighted.item())
    assert masked_logistic_loss(logits, torch.full_like(labels, torch.nan)).item() == 0


def test_hits_weigh_what_makes_them_even() -> None:
    labels = np.array([[1, 1, 0, -1], [0, -1, 0, -1], [0, 1, 0, -1]], np.int8)
    np.testing.assert_allclose(hit_weights(labels), [2, 1, 1, 1])
    rare = np.zeros((200, 1), np.int8)
    rare[0] = 1
    np.testing.assert_allclose(hit_weights(rare, 50), [50])


def test_profiles_are_standardised_inside(data: ActivityData) -> None:
    network = ActivityNetwork(data.widths(["morphology"]), 3, SMALL)
    raw = data.profiles["morphology"]
    network.fit_profiles(data.profiles)
    seen = network.encoders[0](torch.from_numpy(raw)).numpy()
    assert (seen[3] == 0).all()
    assert seen[5, 2] == 0
    assert (seen[:, 1] == 0).all()
    others = np.delete(np.arange(len(raw)), 3)
    expected = (raw[others, 0] - np.nanmean(raw[:, 0])) / np.nanstd(raw[:, 0])
    np.testing.assert_allclose(seen[others, 0], expected, atol=1e-4)


@pytest.fixture(scope="module")
def learnt(data: ActivityData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, ActivityNetwork]:
    parts = divide(data, 0)
    learner = Learner(data, ["graph"], parts.training, parts.validation, tmp_path_factory.mktemp("run"), SMALL, QUICK)
    return learner, learner.run(lambda line: None)


def test_a_graph_network_learns_a_substructure(data: ActivityData, learnt: tuple[Learner, ActivityNetwork]) -> None:
    test = divide(data, 0).test
    areas = auroc(data.labels[test], predict(learnt[1], data, test))
    assert areas[0] > 0.9
    assert np.isnan(areas[2])
    assert learnt[0].log[-1]["loss"] < 0.3 * learnt[0].log[0]["loss"]


@pytest.mark.parametrize("modalities", [["morgan"], ["morphology"], ["graph", "morgan", "morphology"]])
def test_other_modalities_learn_too(data: ActivityData, tmp_path: Path, modalities: list[str]) -> None:
    parts = divide(data, 1, data.complete(modalities))
    settings = replace(QUICK, epochs=12)
    network = Learner(data, modalities, parts.training, parts.validation, tmp_path, SMALL, settings).run(
        lambda line: None
    )
    assert auroc(data.labels[parts.test], predict(network, data, parts.test))[0] > 0.9


def test_a_stopped_run_ends_as_it_would_have(data: ActivityData, tmp_path: Path) -> None:
    parts = divide(data, 2)
    architecture, settings = Architecture(hidden=8, depth=2, dropout=0.2), replace(QUICK, epochs=4, balance=True)

    def learner(name: str, seed: int = 0) -> Learner:
        own = replace(settings, seed=seed)
        return Learner(data, ["graph"], parts.training, parts.validation, tmp_path / name, architecture, own)

    whole = learner("whole").run(lambda line: None)
    learner("parts").run(lambda line: None, until=2)
    again = learner("parts")
    assert again.epoch == 2
    continued = again.run(lambda line: None)
    assert again.finished
    for own, other in zip(whole.state_dict().values(), continued.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    assert (tmp_path / "whole/log.csv").read_bytes() == (tmp_path / "parts/log.csv").read_bytes()
    with pytest.raises(InputError, match="another run"):
        Learner(
            data,
            ["graph"],
            parts.training,
            parts.validation,
            tmp_path / "parts",
            architecture,
            replace(settings, seed=1),
        )


def test_learning_stops_when_it_does_not_help(data: ActivityData, tmp_path: Path) -> None:
    parts = divide(data, 0)
    settings = replace(QUICK, epochs=50, rate=1e-9, first_rate=1e-9, last_rate=1e-9, patience=2)
    learner = Learner(data, ["morgan"], parts.training, parts.validation, tmp_path, SMALL, settings)
    learner.run(lambda line: None)
    assert learner.epoch == learner.best_epoch + 2 < 50


def test_learning_refuses_what_teaches_nothing(data: ActivityData, tmp_path: Path) -> None:
    rows = np.arange(len(data))
    with pytest.raises(InputError, match="both learnt from and validated on"):
        Learner(data, ["graph"], rows, rows[:5], tmp_path)
    dead = replace(data, labels=np.zeros_like(data.labels))
    with pytest.raises(InputError, match="both hits and inactives"):
        Learner(dead, ["graph"], rows[:100], rows[100:], tmp_path)
    with pytest.raises(InputError, match="no labelled compounds to validate"):
        Learner(data, ["graph"], rows, rows[:0], tmp_path)
    with pytest.raises(InputError, match="lack a profile"):
        Learner(data, ["morphology"], rows[:100], rows[100:], tmp_path)
    with pytest.raises(InputError, match="no modality 'sound'"):
        data.widths(["sound"])
    with pytest.raises(InputError, match="no fold 7"):
        divide(data, 7)


@pytest.fixture(scope="module")
def exported(data: ActivityData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of three that sees everything."""
    path = tmp_path_factory.mktemp("model") / "three.onnx"
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = ActivityNetwork(data.widths(["graph", "morgan", "morphology"]), 3, SMALL)
        network.fit_profiles(data.profiles)
        members.append(network)
    description = Description("three", "A test.", "CC0-1.0", fold=0, evaluation={"AUROC": 0.5})
    difference = export_activity(members, data, divide(data, 0).training, description, path)
    assert difference < 1e-5
    torch.save(Ensemble(members).state_dict(), path.with_suffix(".pt"))
    return path


def test_what_is_deployed_is_what_was_learnt(data: ActivityData, exported: Path) -> None:
    model = open_activity(exported, device="cpu", threads=1)
    ensemble = Ensemble([ActivityNetwork(data.widths(["graph", "morgan", "morphology"]), 3, SMALL) for _ in range(3)])
    ensemble.load_state_dict(torch.load(exported.with_suffix(".pt"), weights_only=True))
    table = pd.DataFrame(data.profiles["morphology"], columns=data.features["morphology"]).iloc[:, ::-1]
    found = model.predict(data.smiles, {"morphology": table.assign(other=1.0)}, batch=64)
    with torch.no_grad():
        every = [
            torch.sigmoid(logits_of(member.eval(), data, np.arange(len(data)))).numpy() for member in ensemble.members
        ]
    np.testing.assert_allclose(found.probability, np.mean(every, axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread, np.std(every, axis=0), atol=1e-5)
    assert not found.unknown.any()
    whole = model.predict(data.smiles, {"morphology": table})
    np.testing.assert_allclose(found.probability, whole.probability, atol=1e-5)
    odd = model.predict(ODD, {"morphology": table.iloc[: len(ODD)]})
    assert np.isfinite(odd.probability).all()
    assert [text for text, strange in zip(ODD, odd.unknown, strict=True) if strange] == ["[U]", "*CC"]
    assert model.predict([], {"morphology": table.iloc[:0]}).probability.shape == (0, 3)


def test_the_card_says_what_the_model_is(data: ActivityData, exported: Path) -> None:
    model = open_activity(exported, device="cpu", threads=1)
    card = model.card
    assert card.modalities == ("graph", "morgan", "morphology")
    assert card.assays == data.assays
    assert (card.members, card.depth, card.fold, card.compounds) == (3, 3, 0, len(divide(data, 0).training))
    assert card.evaluation == {"AUROC": 0.5}
    np.testing.assert_array_equal(model.fingerprints, data.packed[divide(data, 0).training])
    assert golden_difference(golden_result(model.session), card.golden) is None


def test_faulty_models_are_refused(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="does not look at images"):
        open_model(exported, "cpu", 1)
    with pytest.raises(ModelError, match="does not predict hits"):
        open_activity_model("nuclei", "cpu", 1)
    copy = tmp_path / "three.onnx"
    copy.write_bytes(exported.read_bytes())
    with pytest.raises(ModelError, match="cannot be read"):
        open_activity(copy, "cpu", 1)
    (tmp_path / "three.fingerprints.npz").write_bytes(b"other")
    with pytest.raises(ModelError, match="are not those"):
        open_activity(copy, "cpu", 1)
    with monkeypatch.context() as patch:
        patch.setattr("cellinfer.activity.graphs.FEATURISER", "later/2")
        with pytest.raises(ModelError, match="as 'chemprop-v2/1', this version as 'later/2'"):
            open_activity(exported, "cpu", 1)
    model = open_activity(exported, "cpu", 1)
    with pytest.raises(InputError, match="sees profiles of 'morphology'"):
        model.predict(["CC"])
    with pytest.raises(InputError, match="lack 6 of the 6"):
        model.predict(["CC"], {"morphology": pd.DataFrame({"x": [1]})})
    table = pd.DataFrame(np.zeros((1, 6)), columns=list(model.card.features["morphology"]))
    with pytest.raises(InputError, match="give SMILES"):
        model.predict(None, {"morphology": table})
    with pytest.raises(InputError, match="same compounds"):
        model.predict(["CC", "C"], {"morphology": table})
    with pytest.raises(ModelError, match="'sizes' is missing"):
        arrays = encode(model.card, ["CC"], {"morphology": table.to_numpy()})
        model.session.run({name: array for name, array in arrays.items() if name != "sizes"})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("assays", [], "no assay"),
        ("assays", ["a", "a"], "equal names"),
        ("depth", 0, "depth 0"),
        ("members", 0, "0 members"),
        ("modalities", [{"name": "graph"}, {"name": "graph"}], "repeat one"),
        ("modalities", [{"name": "morphology"}], "for profiles of"),
        ("fingerprints", {"file": "../x.npz", "sha256": ""}, "beside the model"),
        ("extra", 1, "does not know"),
    ],
)
def test_cards_that_make_no_sense_are_refused(exported: Path, field: str, value: object, words: str) -> None:
    description = json.loads(json.dumps(open_activity_model(exported, "cpu", 1).card.description_file))
    description["config"]["cellinfer"]["activity"][field] = value
    with pytest.raises(ModelError, match=words):
        parse_activity_card(description, "three")


def test_members_are_stopped_by_different_folds(data: ActivityData, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    parts = [divide(data, 3, turn=turn) for turn in range(5)]
    assert [set(data.folds[part.validation]) for part in parts] == [{4}, {0}, {1}, {2}, {4}]
    for part in parts:
        assert set(data.folds[part.test]) == {3}
        assert len(part.training) + len(part.validation) + len(part.test) == len(data)
        assert not np.isin(data.folds[part.training], [3, *data.folds[part.validation]]).any()
    networks = learn_members(data, ["morgan"], parts, tmp_path, SMALL, settings, report=lambda line: None)
    first, *_, last = networks
    assert not torch.equal(first.head[1].weight, last.head[1].weight)
    rows, probabilities = unseen(data, networks, parts)
    assert (rows == np.flatnonzero(data.folds != 3)).all()
    one = rows[data.folds[rows] == 1]  # by one member
    np.testing.assert_allclose(probabilities[data.folds[rows] == 1], probabilities_of(networks[2], data, one))
    two = rows[data.folds[rows] == 4]  # by two
    expected = (probabilities_of(first, data, two) + probabilities_of(last, data, two)) / 2
    np.testing.assert_allclose(probabilities[data.folds[rows] == 4], expected)


def test_a_model_of_everything_is_judged_on_no_fold(data: ActivityData, tmp_path: Path) -> None:
    assert divide(data, None, turn=6).test.size == 0
    assert set(data.folds[divide(data, None, turn=6).validation]) == {1}
    settings = replace(QUICK, epochs=1)
    path = train_activity(data, ["morgan"], None, tmp_path, SMALL, settings, 5, report=lambda line: None)
    model = open_activity(path, "cpu", 1)
    assert model.card.fold is None
    assert model.card.compounds == len(data)
    assert not (tmp_path / "predictions.parquet").exists()
    assert len(pd.read_parquet(tmp_path / "validation.parquet")) == len(data)
    assert "which learning was stopped by" in model.card.evaluation["judged_on"]
    with pytest.raises(InputError, match="at least one member"):
        train_activity(data, ["morgan"], 0, tmp_path, members=0)


def test_tables_are_read(data: ActivityData, tmp_path: Path) -> None:
    labels = pd.DataFrame(data.labels, columns=list(data.assays)).astype("Int8").replace(-1, pd.NA)
    head = pd.DataFrame({"Metadata_Compound": data.compounds, "Metadata_SMILES": data.smiles, "Metadata_Row": 1})
    matrix = pd.concat([head, labels], axis=1)
    matrix.to_parquet(tmp_path / "matrix.parquet")
    matrix.to_csv(tmp_path / "matrix.csv", index=False)
    folds = pd.DataFrame({"Metadata_Compound": data.compounds, "Fold": pd.array(data.folds, "Int64")})
    folds.iloc[::-1].to_csv(tmp_path / "folds.csv", index=False)
    profiles = pd.DataFrame(data.profiles["morphology"], columns=list(data.features["morphology"]))
    profiles.insert(0, "Metadata_Compound", data.compounds)
    profiles.to_parquet(tmp_path / "profiles.parquet")
    for name in ("matrix.parquet", "matrix.csv"):
        found = read_data(tmp_path / name, tmp_path / "folds.csv", {"morphology": tmp_path / "profiles.parquet"})
        assert found.sha256 == data.sha256
        np.testing.assert_array_equal(found.folds, data.folds)
    matrix.assign(acid=3).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(InputError, match="other values than 1, 0 and nothing in 'acid'"):
        read_data(tmp_path / "wrong.csv")
    folds.iloc[1:].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match="no fold of 'c0'"):
        read_data(tmp_path / "matrix.csv", tmp_path / "short.csv")
    for wrong in ("a", 0.5):
        folds.assign(Fold=wrong).to_csv(tmp_path / "odd.csv", index=False)
        with pytest.raises(InputError, match="no whole numbers in Fold"):
            read_data(tmp_path / "matrix.csv", tmp_path / "odd.csv")
    profiles.assign(Cells_2="x").to_parquet(tmp_path / "texts.parquet")
    with pytest.raises(InputError, match="something else than numbers in the feature 'Cells_2'"):
        read_data(tmp_path / "matrix.csv", None, {"morphology": tmp_path / "texts.parquet"})
    (tmp_path / "zeros.csv").write_text("Metadata_Compound;SMILES;a\r\n007;C;1\r\n7;CC;0\r\n")
    assert read_data(tmp_path / "zeros.csv").compounds == ("007", "7")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"SMILES,a\n" + b"C,1\n" * 99)[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        read_data(tmp_path / "torn.csv.gz")
    with pytest.raises(InputError, match="nothing to learn"):
        make_data(["C"], [[-1]], ["a"])
    with pytest.raises(InputError, match="more than once"):
        make_data(["C"], [[1]], ["a"], profiles={"m": pd.DataFrame({"x": [1, 2]}, index=["C", "C"])})
    with pytest.raises(InputError, match="same names"):
        make_data(["C"], [[1]], ["a"], profiles={"m": pd.DataFrame({"x": [1]}, index=["D"])})


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_baselines_learn_what_was_tested(data: ActivityData, kind: str) -> None:
    parts = divide(data, 0)
    baseline = fit_baseline(kind, data, parts.training)
    found = baseline.predict(data, parts.test)
    assert auroc(data.labels[parts.test], found)[0] > 0.9
    assert (found[:, 2] == 0).all()
    blanked = replace(data, labels=np.where(np.arange(3) == 1, -1, data.labels).astype(np.int8))
    without = fit_baseline(kind, blanked, parts.training).predict(blanked, parts.test)
    np.testing.assert_array_equal(without[:, 0], found[:, 0])
    assert np.isnan(without[:, 1]).all()
    chosen = fit_baseline(kind, data, parts.training[:40], parts.validation).predict(data, parts.test)
    assert auroc(data.labels[parts.test], chosen)[0] > 0.9
    with pytest.raises(InputError, match="no baseline"):
        fit_baseline("guess", data, parts.training)  # type: ignore[arg-type]


def test_a_search_never_sees_the_fold_that_is_judged_on(data: ActivityData, tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1)
    found = search(data, ["morgan"], 0, tmp_path / "a", 3, 1, settings, widths=(8, 16), report=lambda line: None)
    assert found.trials["score"].is_monotonic_decreasing
    assert found.architecture.hidden == found.trials["hidden"].iloc[0]
    assert len({found.trials["rate"].iloc[place] for place in range(3)}) == 3
    other = data.labels.copy()
    other[data.folds == 0] = 1 - np.abs(other[data.folds == 0])
    changed = replace(data, labels=other)
    again = search(changed, ["morgan"], 0, tmp_path / "b", 3, 1, settings, widths=(8, 16), report=lambda line: None)
    pd.testing.assert_frame_equal(found.trials, again.trials)
    with pytest.raises(InputError, match="search needs"):
        search(data, ["morgan"], 9, tmp_path / "c")


def test_what_cannot_be_learnt_is_told_of(data: ActivityData) -> None:
    parts = divide(data, 0)
    labels = data.labels.copy()
    labels[parts.training, 1] = -1
    smiles = list(data.smiles)
    smiles[parts.training[0]] = smiles[parts.test[0]]
    notes = _taught_little(replace(data, labels=labels, smiles=tuple(smiles)), [parts])
    assert [note.split("(")[0] for note in notes] == [
        "1 assays are without any label among the compounds learnt from ",
        "1 assays are without hits among the compounds learnt from ",
        "1 structures are judged on and learnt from ",
    ]
    unknown = replace(data, labels=labels, smiles=())  # of compounds without structures, names are compared
    assert _taught_little(unknown, [parts]) == notes[:2]
    assert "(acid)" in notes[0]
    assert "(nothing)" in notes[1]


def test_the_command_teaches(data: ActivityData, tmp_path: Path) -> None:
    labels = pd.DataFrame(data.labels, columns=list(data.assays)).astype("Int8").replace(-1, pd.NA)
    head = pd.DataFrame({"Metadata_Compound": data.compounds, "Metadata_SMILES": data.smiles})
    pd.concat([head, labels], axis=1).to_parquet(tmp_path / "matrix.parquet")
    folds = tmp_path / "split" / "folds.parquet"
    folds.parent.mkdir()
    pd.DataFrame({"Metadata_Compound": data.compounds, "Fold": data.folds}).to_parquet(folds)
    line = ["activity", str(tmp_path), "--folds", str(folds.parent), "--out", str(tmp_path / "run")]
    line += ["--model", "morgan", "--epochs", "2", "--hidden", "16", "--members", "2", "--fold", "3"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "over 2 of 3 assays" in result.output or "over 1 of 3 assays" in result.output
    model = open_activity(tmp_path / "run/activity.onnx", "cpu", 1)
    predicted = pd.read_parquet(tmp_path / "run/predictions.parquet")
    rows = [data.compounds.index(name) for name in predicted["Metadata_Compound"]]
    assert (data.folds[rows] == 3).all()
    found = model.predict([data.smiles[row] for row in rows]).probability
    np.testing.assert_allclose(found, predicted[list(data.assays)], atol=1e-5)
    report = json.loads((tmp_path / "run/report.json").read_text())
    stated, how = report["evaluation"], report["settings"]
    assert (how["epochs"], how["rate"], how["decay"]) == (2, 1e-3, 3e-4)  # what is given, else what suits fingerprints
    assert model.card.evaluation == stated
    scores = pd.read_csv(tmp_path / "run/scores.csv", index_col="assay")
    assert scores["AUROC"].mean() == pytest.approx(stated["mean"]["AUROC"])
    refused = CliRunner().invoke(app, [*line[:2], "--folds", str(tmp_path / "none.csv"), *line[4:]])
    assert refused.exit_code == 2
    assert "no table" in refused.output
