"""Prediction of batches against scikit-learn, chance where there is no batch effect, and what corrections change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling import batch_effects as module
from cellinfer.profiling.batch_effects import batch_effects, compare, nearest_of_others
from cellinfer.profiling.similarity import Similarities
from scipy.spatial.distance import cdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score


def plates(shift: float, signal: float = 1.5, seed: int = 0, batches: int = 4, treatments: int = 24) -> pd.DataFrame:
    """Wells of plates that hold every treatment once."""
    random = np.random.default_rng(seed)
    batch, treatment = np.repeat(np.arange(batches), treatments), np.tile(np.arange(treatments), batches)
    values = random.normal(size=(batches * treatments, 15))
    values += (
        shift * random.normal(size=(batches, 15))[batch] + signal * random.normal(size=(treatments, 15))[treatment]
    )
    names = pd.DataFrame({"Metadata_Plate": [f"P{one}" for one in batch], "t": [f"T{one}" for one in treatment]})
    return pd.concat([names, pd.DataFrame(values).add_prefix("Cells_")], axis=1)


def test_without_a_batch_effect_batches_are_predicted_as_by_chance() -> None:
    found = batch_effects(plates(0.0), batch="Metadata_Plate", treatment="t").figures.set_index("measure")
    for measure in ("batch_by_neighbours", "batch_by_discriminant"):
        row = found.loc[measure]
        assert row["chance"] == pytest.approx(0.25, abs=0.03)
        assert row["chance_low"] - 0.06 < row["value"] < row["chance_high"] + 0.06
    assert abs(found.loc["batch_map", "value"]) < 0.05
    assert found.loc["replicate_map", "value"] > 0.5


def test_a_batch_effect_is_seen_and_a_correction_removes_it() -> None:
    table = plates(2.0)
    before = batch_effects(table, batch="Metadata_Plate", treatment="t")
    corrected = table.copy()
    values = table.filter(like="Cells_")
    corrected[values.columns] = values - values.groupby(table["Metadata_Plate"]).transform("mean")
    after = batch_effects(corrected, batch="Metadata_Plate", treatment="t")
    both = compare(before, after).set_index("measure")
    assert both["wanted"].to_dict() == module.WANTED
    assert both.loc["batch_by_neighbours", "before"] > 0.9 > 0.4 > both.loc["batch_by_neighbours", "after"]
    assert both.loc["batch_by_discriminant", "before"] > 0.9 > 0.4 > both.loc["batch_by_discriminant", "after"]
    assert both.loc["batch_map", "change"] < -0.3 and both.loc["replicate_map", "change"] > 0.1
    row = before.figures.iloc[0]
    assert row["low"] <= row["value"] <= row["high"]


def test_what_was_on_one_plate_only_does_not_give_it_away() -> None:
    """Treatments that differ, but plates that do not, with every treatment on one plate."""
    random = np.random.default_rng(0)
    treatment = np.repeat(np.arange(30), 4)
    values = random.normal(size=(120, 10)) * 0.1 + random.normal(size=(30, 10))[treatment]
    table = pd.DataFrame(values).add_prefix("Cells_").assign(t=treatment, Metadata_Plate=treatment % 3)
    held_out = batch_effects(table, batch="Metadata_Plate", treatment="t")
    leaking = batch_effects(table, batch="Metadata_Plate")
    assert leaking.value("batch_by_neighbours") > 0.95
    assert held_out.value("batch_by_neighbours") < 0.6
    assert np.isnan(held_out.value("replicate_map")) and "replicate_map" in held_out.notes[0]


def test_neighbours_are_those_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    values, groups = random.normal(size=(60, 5)), random.integers(0, 12, 60)
    found = nearest_of_others(Similarities(values), groups, 4, memory=9000)
    distance = cdist(values, values, "cosine")
    distance[groups[:, None] == groups] = np.inf
    np.testing.assert_array_equal(found, np.argsort(distance, axis=1)[:, :4])
    few = nearest_of_others(Similarities(values[:3]), np.array([0, 0, 1]), 5)
    assert few[0].tolist() == [2, -1, -1] and set(few[2]) == {0, 1, -1}


def test_the_majority_of_neighbours_wins_and_the_nearest_among_equals() -> None:
    labels = np.array([[1, 2, 2, 3, 0], [4, 5, 5, 4, 1], [7, 7, 7, 7, 7], [1, 1, 1, 1, 1]])
    known = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert module._majority(labels, known).tolist() == [2, 4, 7, -1]


def test_discriminant_analysis_is_that_of_scikit_learn() -> None:
    table = plates(0.6, batches=5)
    values, batches = table.filter(like="Cells_").to_numpy(), pd.factorize(table["Metadata_Plate"])[0]
    folds = np.arange(len(table)) % 5
    ours = module._Discriminant(values, folds)(batches, 5)
    scores = module._principal_components(values, 100)
    np.testing.assert_allclose(np.corrcoef(scores.T), np.eye(scores.shape[1]), atol=1e-9)
    expected = np.empty_like(batches)
    for fold in range(5):
        train = folds != fold
        within = np.concatenate(
            [scores[train & (batches == b)] - scores[train & (batches == b)].mean(0) for b in range(5)]
        )
        model = LinearDiscriminantAnalysis(
            solver="lsqr", priors=[0.2] * 5, covariance_estimator=_Fixed(within, train.sum() - 5)
        )
        expected[~train] = model.fit(scores[train], batches[train]).predict(scores[~train])
    assert (ours == expected).mean() > 0.99
    row = batch_effects(table, batch="Metadata_Plate", treatment="t", permutations=0).figures.iloc[1]
    assert np.isnan(row["chance"])
    assert row["value"] == pytest.approx(balanced_accuracy_score(batches, ours), abs=0.12)


class _Fixed:
    """A covariance estimator that knows the shrunk covariance within classes."""

    def __init__(self, within: np.ndarray, freedom: int) -> None:
        covariance = within.T @ within / freedom
        size = len(covariance)
        self.covariance_ = 0.9 * covariance + 0.1 * np.trace(covariance) / size * np.eye(size)

    def fit(self, data: np.ndarray) -> _Fixed:
        return self


def test_folds_keep_treatments_together_and_are_of_one_size() -> None:
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    folds = module._folds(groups, np.random.default_rng(0))
    assert all(len(set(folds[groups == group])) == 1 for group in range(20))
    sizes = np.bincount(folds)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 6


def test_a_row_is_balanced_over_batches() -> None:
    truth, predicted = np.array([0] * 8 + [1] * 2), np.array([0] * 10)
    assert module._balanced(truth, predicted, np.ones(10, bool)) == balanced_accuracy_score(truth, predicted) == 0.5


def test_constant_features_do_no_harm() -> None:
    table = plates(1.0).assign(Cells_constant=3.0)
    assert np.isfinite(batch_effects(table, batch="Metadata_Plate", treatment="t").value("batch_by_discriminant"))


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda table: table.assign(Metadata_Plate="P0"), {}, "needs two"),
        (lambda table: table.drop(columns="t"), {}, "no column 't'"),
        (lambda table: table.assign(t=None), {}, "nothing in 't'"),
        (lambda table: table.assign(t="DMSO"), {}, "row by row"),
        (lambda table: table.assign(Cells_1=np.inf), {}, "finite"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(change: object, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        batch_effects(change(plates(1.0)), batch="Metadata_Plate", treatment="t", **options)  # type: ignore[operator,arg-type]


@pytest.mark.realdata
def test_microscopes_of_jump_moa_can_be_told_apart(data_folder: Path) -> None:
    folder = data_folder / "profiles" / "jump_moa"
    tables = [pd.read_csv(folder / f"Yokogawa_{name}.csv.gz") for name in ("Japan_20X", "US_20X_5Ch")]
    shared = [name for name in tables[0] if name in tables[1]]
    both = pd.concat([table[shared] for table in tables], ignore_index=True)
    both["Metadata_broad_sample"] = both["Metadata_broad_sample"].fillna("DMSO")
    names = [
        name
        for name in shared
        if name.startswith(("Cells_", "Nuclei_", "Cytoplasm_")) and np.isfinite(both[name]).all()
    ]
    found = batch_effects(both, batch="Metadata_Plate", treatment="Metadata_broad_sample", features=names)
    assert found.n_batches == 2
    assert found.value("batch_by_discriminant") > found.figures["chance_high"][1] + 0.2
    assert found.figures["chance"][0] == pytest.approx(0.5, abs=0.05)
