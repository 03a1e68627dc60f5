"""The evaluation of activity predictions: figures, folds, fusion, intervals, Venn diagram, published counts, faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import fusion
from cellinfer.activity.evaluation import ActivityEvaluation, evaluate
from cellinfer.activity.evaluation import _figures as figures
from cellinfer.cli import app
from cellinfer.errors import InputError
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

NAMES, ASSAYS, FOLDS = [f"C{row:03d}" for row in range(180)], [f"a{place}" for place in range(6)], 3
QUICK: dict[str, Any] = {"draws": 200}


def matrix(seed: int = 0) -> pd.DataFrame:
    """Labels of 180 compounds in 6 assays, of which the last has hits in the first fold only."""
    random = np.random.default_rng(seed)
    values = random.choice([1.0, 0.0, np.nan], (len(NAMES), len(ASSAYS)), p=[0.25, 0.5, 0.25])
    values[np.array(folds()) != 0, -1] = np.where(random.random(120) < 0.5, 0.0, np.nan)
    table = pd.DataFrame(values, columns=ASSAYS).astype("Int8")
    table.insert(0, "Metadata_SMILES", "C")
    table.insert(0, "Metadata_Compound", NAMES)
    return table


def folds() -> list[int]:
    return [row % FOLDS for row in range(len(NAMES))]


def predicted(seed: int, strength: float, *, fold: bool = True) -> pd.DataFrame:
    """Probabilities that know something of the labels; ties are among them."""
    random = np.random.default_rng(seed)
    labels = np.nan_to_num(matrix().iloc[:, 2:].to_numpy(np.float64, na_value=np.nan), nan=0.5)
    logits = strength * (labels - 0.5) + random.normal(size=labels.shape)
    table = pd.DataFrame(np.round(1 / (1 + np.exp(-logits)), 2), columns=ASSAYS)
    if fold:
        table.insert(0, "Fold", folds())
    table.insert(0, "Metadata_Compound", NAMES)
    return table.sample(frac=1, random_state=seed)  # the order of rows is nobody's business


@pytest.fixture(scope="module")
def two() -> ActivityEvaluation:
    """Two modalities and their fusions."""
    return evaluate(
        {"CS": predicted(1, 1.0), "MO": predicted(2, 2.0)}, matrix(), fuse="all", by=("max", "mean"), **QUICK
    )


def test_figures_are_those_of_scikit_learn(two: ActivityEvaluation) -> None:
    probabilities = {
        "CS": predicted(1, 1.0).set_index("Metadata_Compound").loc[NAMES, ASSAYS],
        "MO": predicted(2, 2.0).set_index("Metadata_Compound").loc[NAMES, ASSAYS],
    }
    probabilities["max CS+MO"] = np.maximum(probabilities["CS"], probabilities["MO"])
    probabilities["mean CS+MO"] = (probabilities["CS"] + probabilities["MO"]) / 2
    scores = two.scores.set_index(["modality", "assay", "fold"])
    assert len(scores) == 4 * len(ASSAYS) * FOLDS
    labels = matrix().set_index("Metadata_Compound")
    for (modality, assay, fold), row in scores.iterrows():
        tested = labels[assay].notna().to_numpy() & (np.array(folds()) == fold)
        truth = labels.loc[tested, assay].to_numpy(int)
        score = probabilities[modality].loc[tested, assay].to_numpy()
        assert (row["n_hits"], row["n_inactive"]) == (truth.sum(), (truth == 0).sum())
        if len(set(truth)) < 2:
            assert assay == "a5" and fold > 0
            assert row[["AUROC", "AUPRC", "EF1", "EF5", "EF10"]].isna().all()
            continue
        assert row["AUROC"] == pytest.approx(roc_auc_score(truth, score))
        assert row["AUPRC"] == pytest.approx(average_precision_score(truth, score))
        best = score >= np.sort(score)[-int(np.ceil(len(score) * 0.05))]
        if best.sum() == np.ceil(len(score) * 0.05):  # no ties at the cut
            assert row["EF5"] == pytest.approx(truth[best].mean() / truth.mean())


def test_assays_are_summed_up_over_folds_and_counted(two: ActivityEvaluation) -> None:
    for how in ("median", "mean"):
        areas = two.scores[two.scores["modality"] == "MO"].groupby("assay")["AUROC"].agg(how)
        found = two.by_assay[two.by_assay["modality"] == "MO"].set_index("assay")
        assert found[f"AUROC_{how}"].to_dict() == pytest.approx(areas.to_dict())
        assert found["n_folds"].to_dict() == {name: 1 if name == "a5" else FOLDS for name in ASSAYS}
        assert two.value("MO", "AUROC", "mean", how) == pytest.approx(areas.mean())
        assert two.value("MO", "AUROC", "median", how) == pytest.approx(areas.median())
        for limit in (0.5, 0.7, 0.9):
            assert two.value("MO", "AUROC", f"above_{limit}", how) == (areas > limit).sum()
    assert two.value("MO", "AUROC", "above_0.7") > two.value("CS", "AUROC", "above_0.7")
    assert two.info["counts"]["assays_and_folds_without_both_classes"] == {"CS": 2, "MO": 2}
    assert "CS, MO: 2 of 18 assays and folds lack hits or inactives" in " ".join(two.notes)
    with pytest.raises(InputError, match="There is no above_0"):
        two.value("MO", "AUROC", "above_0.4")


def test_the_oracle_takes_the_best_of_each_assay_and_says_that_it_is_one(two: ActivityEvaluation) -> None:
    table = two.by_assay.pivot(index="assay", columns="modality", values="AUROC_median")
    np.testing.assert_allclose(table["oracle CS+MO"], table[["CS", "MO"]].max(axis=1))
    assert set(two.by_assay.loc[two.by_assay["modality"] == "oracle CS+MO", "kind"]) == {"oracle"}
    assert any("needs the answers" in note for note in two.notes)
    assert "oracle CS+MO" not in set(two.scores["modality"])


def test_differences_are_paired(two: ActivityEvaluation) -> None:
    rows = two.differences.set_index(["modality", "other", "metric", "over_folds", "statistic"]).sort_index()
    found = rows.loc[("MO", "CS", "AUROC", "median")]
    table = two.by_assay.pivot(index="assay", columns="modality", values="AUROC_median")
    apart = table["MO"] - table["CS"]
    assert found.loc["mean", "difference"] == pytest.approx(apart.mean())
    assert found.loc["median", "difference"] == pytest.approx(apart.median())
    assert found.loc["share_better", "difference"] == pytest.approx((apart > 0).mean())
    more = (table["MO"] > 0.7).sum() - (table["CS"] > 0.7).sum()
    assert found.loc["above_0.7", "difference"] == more
    assert found.loc["mean", "low"] < apart.mean() < found.loc["mean", "high"]
    assert set(rows.loc["MO"].index.get_level_values("other")) == {"CS"}  # a pair is there once


def test_intervals_are_those_of_resampled_assays() -> None:
    values = np.random.default_rng(0).normal(size=40)
    bootstrap = figures.Bootstrap(4_000, 0)
    for how, statistic in (("mean", np.mean), ("median", np.median), ("sum", np.sum)):
        theirs = stats.bootstrap(
            (values,), statistic, n_resamples=4_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        tolerance = 0.05 * (theirs.high - theirs.low) * (1 + (how == "median"))
        np.testing.assert_allclose(bootstrap.interval(values, how), theirs, atol=tolerance)
    even = np.array([3.0, 1.0, 2.0, 2.0])
    weights = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [2, 2, 0, 0], [0, 3, 1, 0]])
    expected = [np.median(np.repeat(even, row)) for row in weights]
    assert figures._weighted_medians(even, weights).tolist() == expected
    assert np.isnan(bootstrap.interval(values[:1], "mean")).all()


def reported(areas: dict[str, list[float]]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame({"assay_id": [f"x{place}" for place in range(len(some))], "auc": some, "descriptor": name})
            for name, some in areas.items()
        ]
    )


def test_the_venn_diagram_counts_what_is_above_by_exactly_whom() -> None:
    table = reported(
        {
            "A": [0.95, 0.95, 0.95, 0.8, np.nan, 0.9, 0.2],
            "B": [0.95, 0.95, 0.1, 0.95, 0.91, 0.9, 0.2],
            "C": [0.95, 0.1, 0.1, 0.1, 0.1, 0.9, np.nan],
        }
    )
    result = evaluate(scores=table, **QUICK)
    counts = result.venn[result.venn["above"] == 0.9].set_index("combination")
    assert counts["count"].to_dict() == {
        "A": 1, "B": 2, "C": 0, "A & B": 1, "A & C": 0, "B & C": 0, "A & B & C": 1, "none of them": 2,
    }  # fmt: skip
    assert counts.loc["B", "assays"] == "x3; x4"
    assert result.value("oracle A+B+C", "AUROC", "above_0.9") == 5
    assert set(result.summary["over_folds"]) == {"median"}  # nobody said what the mean over folds is
    some = evaluate(scores=table, venn=("A", "C"), reported_as="mean", over="mean", **QUICK).venn
    some = some[some["above"] == 0.9].set_index("combination")["count"]
    assert some.to_dict() == {"A": 2, "C": 0, "A & C": 1, "none of them": 4}


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_every_number_of_modalities_is_drawn(number: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = [f"M{place}" for place in range(number - 1)] + ["a name that no panel has place for, " * 5]
    names[0] = "M0"
    table = reported({name: random.random(30).tolist() for name in names})
    result = evaluate(scores=table, out=tmp_path, above=0.7, **QUICK)
    image = cv2.imread(str(tmp_path / "evaluation.png"))
    assert image is not None and image.std() > 10
    chosen = result.venn[(result.venn["above"] == 0.7) & (result.venn["over_folds"] == "median")]
    assert chosen["count"].sum() == 30
    above = sum(row["count"] for row in chosen.to_dict("records") if "M0" in row["combination"].split(" & "))
    assert above == result.value("M0", "AUROC", "above_0.7")
    assert ("compared with M0 only" in " ".join(result.notes)) == (number == 9)


def test_learned_fusion_learns_from_the_validation_of_each_fold() -> None:
    whole = {"CS": predicted(1, 1.0, fold=False), "MO": predicted(2, 3.0, fold=False)}
    drawn = np.array(folds())
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in whole}
    checks: dict[str, list[pd.DataFrame]] = {name: [] for name in whole}
    for name, table in whole.items():
        of = table["Metadata_Compound"].map(dict(zip(NAMES, drawn, strict=True)))
        for fold in range(FOLDS):
            parts[name].append(table[of == fold])
            checks[name].append(table[of == (fold + 1) % FOLDS])
    given = pd.DataFrame({"Metadata_Compound": NAMES, "Fold": drawn})
    result = evaluate(parts, matrix(), folds=given, validation=checks, fuse="CS+MO", by="learned", **QUICK)
    assert result.scores["fold"].unique().tolist() == [0, 1, 2]
    labels = matrix().set_index("Metadata_Compound")[ASSAYS].fillna(-1).astype(int)
    tables = [whole[name].set_index("Metadata_Compound") for name in ("CS", "MO")]
    test, check = ([name for name, one in zip(NAMES, drawn, strict=True) if one == fold] for fold in (1, 2))
    model = fusion.learn([table.loc[check] for table in tables], labels.loc[check])
    fused = pd.DataFrame(model([table.loc[test] for table in tables]), test, ASSAYS)
    tested = labels.loc[test, "a0"] >= 0
    area = roc_auc_score(labels.loc[test, "a0"][tested], fused["a0"][tested])
    scores = result.scores.set_index(["modality", "assay", "fold"])
    assert scores.loc[("learned CS+MO", "a0", 1), "AUROC"] == pytest.approx(area)
    alike = evaluate(parts, matrix(), validation=checks, fuse="CS+MO", by="learned", **QUICK)  # tables are folds
    pd.testing.assert_frame_equal(alike.summary, result.summary)
    marked = {name: pd.concat([one.assign(Fold=k) for k, one in enumerate(some)]) for name, some in checks.items()}
    columns = {name: pd.concat([one.assign(Fold=k) for k, one in enumerate(some)]) for name, some in parts.items()}
    alike = evaluate(columns, matrix(), validation=marked, fuse="CS+MO", by="learned", **QUICK)
    pd.testing.assert_frame_equal(alike.summary, result.summary)
    with pytest.raises(InputError, match="are judged in that fold"):
        evaluate(parts, matrix(), validation=parts, fuse="CS+MO", by="learned", **QUICK)
    with pytest.raises(InputError, match="needs validation predictions of MO for fold 0"):
        evaluate(parts, matrix(), validation={"CS": checks["CS"]}, fuse="CS+MO", by="learned", **QUICK)
    with pytest.raises(InputError, match="3 tables of predictions and 2 of validation"):
        evaluate(parts, matrix(), validation={"CS": checks["CS"][:2]}, **QUICK)


def test_modalities_are_compared_on_what_all_predict() -> None:
    fewer = predicted(2, 2.0)
    gone = fewer["Metadata_Compound"].isin(NAMES[:40])
    half = fewer[~gone].drop(columns="a3")
    half.loc[half["Metadata_Compound"].isin(NAMES[40:50]), "a1"] = np.nan
    given = {"CS": predicted(1, 1.0), "MO": half}
    result = evaluate(given, matrix(), fuse="CS+MO", **QUICK)
    said = " ".join(result.notes)
    assert "compared on the ones they have in common" in said
    assert "MO lacks 1 of 6 assays: a3" in said
    assert "MO gives no probability for" in said
    hits = result.scores.pivot(index=["assay", "fold"], columns="modality", values="n_hits")
    np.testing.assert_array_equal(hits.loc[["a0", "a1"], "CS"], hits.loc[["a0", "a1"], "MO"])
    assert hits.loc["a3", "MO"].isna().all() and hits.loc["a3", "max CS+MO"].isna().all()
    labels = matrix()
    assert hits.loc["a3", "CS"].sum() == labels["a3"].sum()  # an assay the other does not know loses nothing
    kept = ~labels["Metadata_Compound"].isin(NAMES[:50])
    assert hits.loc["a1", "CS"].sum() == labels.loc[kept, "a1"].sum()
    own = evaluate(given, matrix(), fuse="CS+MO", common=False, **QUICK)
    hits = own.scores.pivot(index=["assay", "fold"], columns="modality", values="n_hits")
    assert hits.loc["a1", "CS"].sum() == hits.loc["a1", "max CS+MO"].sum() == labels["a1"].sum()
    assert hits.loc["a1", "MO"].sum() == labels.loc[kept, "a1"].sum()


def test_what_is_on_one_side_only_is_counted_and_named() -> None:
    table = predicted(1, 1.0).rename(columns={"a2": "elsewhere"})
    table.loc[table["Metadata_Compound"] == NAMES[0], "Metadata_Compound"] = "stranger"
    table = table.assign(a0_spread=7.0, Metadata_Status="ok")  # as `cellinfer activity predict` writes them
    twice = pd.concat([table, table.iloc[:3]])
    result = evaluate({"CS": twice}, matrix(), **QUICK)
    said = " ".join(result.notes)
    for words in (
        "1 predicted assays are not in the matrix of labels: elsewhere",
        "1 assays of the matrix are not predicted by anything: a2",
        "1 predicted compounds have no labels, and are not judged: stranger",
        "1 of 180 compounds of the matrix are not predicted",
        "3 rows that are there twice",
    ):
        assert words in said
    assert result.info["counts"]["predicted_assays_without_labels"] == ["elsewhere"]


def test_assays_with_few_hits_are_said_to_be_chance() -> None:
    labels = matrix()
    labels["a4"] = labels["a4"].where(labels["a4"] != 1)
    labels.loc[[0, 3, 6], "a4"] = 1
    result = evaluate({"CS": predicted(1, 1.0)}, labels, **QUICK)
    assert "1 assays are judged by fewer than 5 hits" in " ".join(result.notes)
    row = result.by_assay.set_index("assay").loc["a4"]
    assert (row["n_folds"], row["n_hits"]) == (1, 3)


def test_a_fold_that_cannot_be_judged_is_named() -> None:
    labels = matrix()
    for assay in ASSAYS:
        labels[assay] = labels[assay].mask((labels[assay] == 1) & (np.array(folds()) == 2))
    result = evaluate({"CS": predicted(1, 1.0)}, labels, **QUICK)
    assert "CS: no assay can be judged in fold 2." in result.notes
    labels[ASSAYS] = labels[ASSAYS].mask(labels[ASSAYS] == 1)
    with pytest.raises(InputError, match="no assay has hits and inactives in any fold"):
        evaluate({"CS": predicted(1, 1.0)}, labels, **QUICK)


def spoilt(change: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    table = predicted(1, 1.0)
    found = change(table)
    return table if found is None else found


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (spoilt(lambda t: t.__setitem__("a1", t["a1"] * 4 - 2)), "'a1' that are no probabilities"),
        (spoilt(lambda t: t.__setitem__("a1", "much")), "something else than numbers in 'a1'"),
        (spoilt(lambda t: t.rename(columns={"Metadata_Compound": "Compound"})), "no column Metadata_Compound"),
        (spoilt(lambda t: t.replace({"Metadata_Compound": {NAMES[0]: None}})), "1 rows without a name"),
        (spoilt(lambda t: pd.concat([t, t.iloc[:2].assign(a0=0.5)])), r"2 compounds more than once \(C"),
        (spoilt(lambda t: t[["Metadata_Compound", "Fold"]]), "no assays"),
        (spoilt(lambda t: t.iloc[:0]), "no rows"),
        (spoilt(lambda t: t.rename(columns=lambda name: name.replace("a", "b", 1) if len(name) == 2 else name)),
         "No assay of the predictions"),
        (spoilt(lambda t: t.assign(Metadata_Compound=[f"other {row}" for row in range(len(t))])),
         "No predicted compound"),
    ],
)  # fmt: skip
def test_predictions_that_are_not_usable_are_refused(table: pd.DataFrame, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate({"CS": table}, matrix(), **QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "nothing to judge"),
        ({"predictions": {"CS": predicted(1, 1.0)}}, "give the matrix"),
        ({"predictions": {"C+S": predicted(1, 1.0)}, "matrix": matrix()}, "cannot be called 'C\\+S'"),
        ({"predictions": {"CS": "nowhere.parquet"}, "matrix": matrix()}, "no table of predictions of CS"),
        ({"scores": reported({"A": [0.5, 1.5]})}, "not between 0 and 1"),
        ({"scores": pd.concat([reported({"A": [0.5]})] * 2)}, "two rows of A and x0"),
        ({"scores": reported({"A": [0.5]}).drop(columns="descriptor")}, "whose figures these are"),
        ({"scores": reported({"A": [0.5]}).drop(columns="auc")}, "no column AUROC or auc"),
        ({"scores": reported({"A": [0.5]}).drop(columns="assay_id")}, "no column of assays"),
        ({"scores": reported({"A & B": [0.5]})}, "cannot be called 'A & B'"),
        ({"scores": reported({"A": [0.5]}), "choose": {"X": "B"}}, "no figures of 'B'"),
        ({"choose": {"X": "B"}, "predictions": {"CS": predicted(1, 1.0)}, "matrix": matrix()}, "give them"),
        ({"scores": reported({"A": [0.5]}), "fuse": "A+B"}, "needs predictions"),
        ({"scores": reported({"A": [0.5]}), "venn": "B"}, "no modality 'B' for the Venn"),
        ({"scores": reported({"A": [0.5]}), "against": "B"}, "no modality 'B' to compare"),
        ({"scores": reported({"A": [0.5]}), "above": 1.0}, "below 1"),
        ({"scores": reported({"A": [0.5]}), "over": "max"}, "over is median or mean"),
        ({"scores": reported({"A": [0.5]}), "over": "mean"}, "no mean over folds to show"),
        ({"scores": reported({"A": [0.5]}), "by": "vote"}, "no fusion by 'vote'"),
        ({"scores": reported({"A": [0.5]}), "draws": 1}, "at least 100"),
        ({"scores": reported({"A": [0.5]}), "nonsense": 1}, "no setting 'nonsense'"),
        ({"scores": reported({"A": [0.5]}), "assays": pd.DataFrame({"assay": ["y"], "type": "z"})}, "names the assays"),
        ({"scores": reported({"A": [0.5]}), "assays": pd.DataFrame({"assay": ["x0"]})}, "no column with types"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(**{**QUICK, **arguments})


def test_what_is_said_of_no_assay_or_no_fold_is_told_of() -> None:
    table = predicted(1, 1.0, fold=False).assign(a1=np.nan)
    notes = " ".join(evaluate({"CS": table}, matrix(), **QUICK).notes)
    assert "CS lacks 1 of 6 assays: a1" in notes
    assert "CS: 1 tables say nothing of folds" in notes
    strange = pd.DataFrame({"Metadata_Compound": ["x", "y"], "Fold": [0, 1]})
    with pytest.raises(InputError, match=r"No compound of the predictions of CS \(C.*is in a fold"):
        evaluate({"CS": table}, matrix(), folds=strange, **QUICK)


def test_folds_that_contradict_each_other_are_refused() -> None:
    other = predicted(2, 1.0).assign(Fold=lambda table: (table["Fold"] + 1) % FOLDS)
    with pytest.raises(InputError, match="of another modality"):
        evaluate({"CS": predicted(1, 1.0), "MO": other}, matrix(), **QUICK)
    given = pd.DataFrame({"Metadata_Compound": NAMES, "Fold": folds()})
    with pytest.raises(InputError, match="in another fold than the table of folds"):
        evaluate({"MO": other}, matrix(), folds=given, **QUICK)
    given["Fold"] = pd.array([None, -1, *folds()[2:]], dtype="Int64")
    result = evaluate({"CS": predicted(1, 1.0, fold=False)}, matrix(), folds=given, **QUICK)
    assert "CS: 2 predicted compounds are in no fold, and are not judged." in result.notes
    with pytest.raises(InputError, match="'C000' more than once"):
        evaluate({"CS": predicted(1, 1.0)}, pd.concat([matrix(), matrix().iloc[:1]]), **QUICK)
    with pytest.raises(InputError, match="other values than 1, 0 and nothing in 'a1'"):
        evaluate({"CS": predicted(1, 1.0)}, matrix().assign(a1=2), **QUICK)


def test_the_command_writes_everything(tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    matrix().to_parquet(prepared / "matrix.parquet", index=False)
    pd.DataFrame({"assay": ASSAYS, "type": ["cell", "cell", "cell", "biochem", "biochem", None]}).to_csv(
        prepared / "assays.csv", index=False
    )
    run = tmp_path / "run"
    run.mkdir()
    predicted(1, 1.0).to_parquet(run / "predictions.parquet", index=False)
    predicted(2, 2.0).to_csv(tmp_path / "mo.csv.gz", index=False)
    reported({"GE": [0.4, 0.9]}).assign(assay_id=["a0", "a1"]).to_csv(tmp_path / "ge.csv", index=False)
    out = tmp_path / "out"
    arguments = ["activity", "evaluate", "--predictions", f"CS={run}", "--predictions", f"MO={tmp_path / 'mo.csv.gz'}"]
    arguments += ["--matrix", str(prepared), "--scores", str(tmp_path / "ge.csv"), "--fuse", "CS+MO", "--draws", "200"]
    found = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert found.exit_code == 0, found.output
    words = " ".join(found.output.split())
    for word in ("max CS+MO", "oracle CS+MO+GE", "by exactly", "note:", "evaluation.json"):
        assert word in words
    names = {
        "scores.parquet",
        "scores.csv",
        "by_assay.csv",
        "summary.csv",
        "by_type.csv",
        "differences.csv",
        "venn.csv",
    }
    assert {path.name for path in out.iterdir()} == {*names, "evaluation.png", "evaluation.json", ".lock"}
    scores = pd.read_parquet(out / "scores.parquet")
    assert list(scores)[:7] == ["modality", "kind", "assay", "type", "fold", "AUROC", "AUPRC"]
    assert scores["kind"].unique().tolist() == ["predictions", "late fusion", "reported"]
    assert scores["type"].unique().tolist() == ["cell", "biochem", "unknown"]
    kinds = pd.read_csv(out / "by_type.csv")
    chosen = kinds[
        (kinds["statistic"] == "above_0.7") & (kinds["over_folds"] == "median") & (kinds["modality"] == "MO")
    ]
    assert chosen.set_index("type")["n_assays"].to_dict() == {"cell": 3, "biochem": 2, "unknown": 1}
    info = json.loads((out / "evaluation.json").read_text())
    assert {one["role"] for one in info["inputs"]} == {
        "labels", "assays", "predictions of CS", "predictions of MO", "figures",
    }  # fmt: skip
    assert all(len(one["sha256"]) == 64 for one in info["inputs"])
    assert info["settings"]["fuse"] == ["CS+MO"] and "AUROC" in info["definitions"] and info["versions"]["numpy"]
    as_json = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json"])
    assert json.loads(as_json.stdout)["summary"] == info["summary"]
    for wrong, said in ((["--predictions", "nameless"], "must be NAME=VALUE"), (["--by", "vote"], "no fusion")):
        refused = CliRunner().invoke(app, [*arguments, *wrong, "--out", str(tmp_path / "no")])
        assert isinstance(refused.exception, InputError) and said in str(refused.exception)
    assert not (tmp_path / "no").exists()
    again = evaluate(scores=out / "scores.csv", venn=("CS", "MO", "GE"), **QUICK)  # figures are enough for the counts
    for name in ("CS", "MO", "max CS+MO", "oracle CS+MO+GE"):
        value = again.value(name, "AUROC", "above_0.7")
        assert value == next(
            row["value"]
            for row in info["summary"]
            if (row["modality"], row["metric"], row["over_folds"], row["statistic"])
            == (name, "AUROC", "median", "above_0.7")
        )
    with pytest.raises(InputError, match="would be written over"):
        evaluate(scores=out / "scores.csv", out=out, **QUICK)
    with pytest.raises(InputError, match="figures of several modalities"):
        evaluate(scores={"MO": out / "scores.csv"}, **QUICK)


def test_ctrl_c_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "venn", interrupted)
    reported({"A": [0.5, 0.7]}).to_csv(tmp_path / "a.csv", index=False)
    arguments = ["activity", "evaluate", "--scores", str(tmp_path / "a.csv"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 130
    assert "stopped; the evaluation is not whole" in found.stderr
    assert not (tmp_path / "out").exists()


def test_scores_of_training_runs_are_folds(tmp_path: Path) -> None:
    for place in range(2):
        table = pd.DataFrame({"assay": ["a", "b"], "AUROC": [0.6 + 0.2 * place, np.nan], "hits": 3, "inactive": 4})
        table.to_csv(tmp_path / f"{place}.csv", index=False)
    result = evaluate(scores={"CS": [tmp_path / "0.csv", tmp_path / "1.csv"]}, **QUICK)
    assert result.by_assay["AUROC_mean"].tolist() == pytest.approx([0.7, np.nan], nan_ok=True)
    assert result.by_assay["n_folds"].tolist() == [2, 0]
    assert result.scores["fold"].tolist() == [0, 0, 1, 1]
    assert result.scores["n_hits"].tolist() == [3] * 4


def test_the_evaluation_needs_no_rdkit() -> None:
    code = "import sys; sys.modules['rdkit'] = None; import cellinfer.activity.evaluation"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.realdata
def test_published_counts_are_found_again(data_folder: Path) -> None:
    """Moshkov et al. 2023: assays with a median AUROC above 0.9. Means over folds and AUPRC are not in the table."""
    folder = data_folder / "activity" / "moshkov2023"
    names = {"CS": "cp_es_op", "MO": "mobc_es_op", "GE": "ge_es_op", "late CS+MO": "late_fusion_cs_mobc"}
    table, types = folder / "scaffold_median_auc.csv", folder / "assay_metadata.csv"
    result = evaluate(scores=table, assays=types, choose=names, venn=("CS", "MO", "GE"), **QUICK)
    counts = {name: result.value(name, "AUROC", "above_0.9") for name in names}
    assert counts == {"MO": 28, "GE": 19, "CS": 16, "late CS+MO": 31}
    given = pd.read_csv(table)
    for name, descriptor in names.items():
        own = given[given["descriptor"] == descriptor]
        for limit in (0.5, 0.7, 0.9):
            assert result.value(name, "AUROC", f"above_{limit}") == own[f"auc_{round(100 * limit)}"].sum()
    venn = result.venn[result.venn["above"] == 0.9].set_index("combination")["count"].to_dict()
    assert venn == {
        "CS": 11, "MO": 19, "GE": 11, "CS & MO": 3, "CS & GE": 2, "MO & GE": 6, "CS & MO & GE": 0, "none of them": 209,
    }  # fmt: skip
    assert set(result.summary["n_assays"]) == {261}
    assert set(result.summary["metric"]) == {"AUROC"}
    assert set(result.summary["over_folds"]) == {"median"}
