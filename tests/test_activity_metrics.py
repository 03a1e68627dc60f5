"""Figures of assays against scikit-learn and RDKit, and late fusion of predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import fusion, metrics
from cellinfer.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from rdkit.ML.Scoring.Scoring import CalcEnrichment
from sklearn.metrics import average_precision_score, roc_auc_score


def drawn(seed: int, levels: int, n: int = 60, assays: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, assays)) / levels
    return rng.choice([-1, 0, 1], (n, assays), p=[0.3, 0.5, 0.2]).astype(np.int8), scores


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5, 1_000_000]), st.integers(2, 60))
def test_areas_are_those_of_scikit_learn(seed: int, levels: int, n: int) -> None:
    labels, scores = drawn(seed, levels, n)
    for ours, theirs in ((metrics.auroc, roc_auc_score), (metrics.auprc, average_precision_score)):
        for found, truth, score in zip(ours(labels, scores), labels.T, scores.T, strict=True):
            tested = truth >= 0
            if len(set(truth[tested])) < 2:
                assert np.isnan(found)
            else:
                assert found == pytest.approx(theirs(truth[tested], score[tested]))


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.1, 0.5, 0.9]))
def test_enrichment_is_that_of_rdkit(seed: int, fraction: float) -> None:
    labels, _ = drawn(seed, 1)
    scores = np.random.default_rng(seed).permuted(np.tile(np.arange(60.0)[:, None], (1, 4)), axis=0)
    found = metrics.enrichment(labels, scores, fraction)
    for value, truth, score in zip(found, labels.T, scores.T, strict=True):
        tested = np.flatnonzero(truth >= 0)
        order = tested[np.argsort(-score[tested])]
        assert value == pytest.approx(CalcEnrichment([[truth[row]] for row in order], 0, [fraction])[0])


def test_of_equals_at_the_cut_hits_count_in_proportion() -> None:
    labels = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]).T
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]]).T
    assert metrics.enrichment(labels, scores, 0.1)[0] == pytest.approx(5)
    assert metrics.enrichment(labels, scores, 0.3)[0] == pytest.approx((1 + 2 / 4) / 3 / 0.2)
    assert metrics.enrichment(labels, np.zeros_like(scores), 0.2)[0] == pytest.approx(1)


def test_an_assay_of_one_class_has_no_figures() -> None:
    labels = np.array([[1, 1, -1, 0], [1, 0, -1, -1], [-1, 0, -1, 1]], np.int8)
    table = metrics.score_assays(labels, np.arange(12.0).reshape(3, 4), ["a", "b", "c", "d"])
    assert table["AUROC"].isna().tolist() == [True, False, True, False]
    assert table.loc["a", "hits"] == 2
    assert table.loc["c", ["hits", "inactive"]].tolist() == [0, 0]
    assert table[["AUPRC", "EF1", "EF5", "EF10"]].isna().all(axis=1).tolist() == [True, False, True, False]
    assert metrics.count_above(table["AUROC"]) == {0.5: 1, 0.7: 1, 0.9: 1}
    assert metrics.mean_auroc(labels, np.arange(12.0).reshape(3, 4)) == pytest.approx(0.5)
    assert np.isnan(metrics.mean_auroc(labels[:, [0]], np.zeros((3, 1))))
    assert np.isnan(metrics.auroc(np.zeros((0, 2), int), np.zeros((0, 2)))).all()
    assert np.isnan(metrics.enrichment(np.zeros((0, 2), int), np.zeros((0, 2)), 0.1)).all()
    assert np.isnan(metrics.auprc(np.zeros((0, 2), int), np.zeros((0, 2)))).all()


def test_medians_over_folds_pass_over_folds_without_figures() -> None:
    names = pd.Index(["b", "a"], name="assay")
    areas = ([0.5, np.nan], [0.7, 0.8], [0.6, np.nan])
    tables = [pd.DataFrame({"AUROC": values, "hits": 1}, index=names) for values in areas]
    result = metrics.across_folds(tables)
    assert result.index.tolist() == ["b", "a"]
    assert result["AUROC"].tolist() == [0.6, 0.8]
    assert result["folds"].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([[1]], [[0.1, 0.2]], "do not fit"),
        ([[2]], [[0.1]], "Labels are 1"),
        ([[1]], [[np.nan]], "no score"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels: list, scores: list, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metrics.auroc(labels, scores)


def test_a_part_of_a_list_is_a_fraction() -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        metrics.enrichment([[1]], [[0.0]], 5)


def test_largest_and_average() -> None:
    one, other = [[0.2, 0.9], [np.nan, np.nan]], [[0.6, np.nan], [0.4, np.nan]]
    np.testing.assert_allclose(fusion.largest([one, other]), [[0.6, 0.9], [0.4, np.nan]])
    np.testing.assert_allclose(fusion.average([one, other]), [[0.4, 0.9], [0.4, np.nan]])


def informative(seed: int, n: int = 400) -> tuple[list[np.ndarray], np.ndarray]:
    """Two assays: the first modality knows the first one, the second the second; a third assay was never tested."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack([rng.integers(0, 2, (n, 2)), np.full(n, -1)]).astype(np.int8)
    tables = []
    for knows in range(2):
        logits = rng.normal(0, 1, (n, 3))
        logits[:, knows] += 3 * labels[:, knows] - 1.5
        tables.append(1 / (1 + np.exp(-logits)))
    return tables, labels


def test_learned_weights_find_who_knows() -> None:
    tables, labels = informative(0)
    fused = fusion.learn(tables, labels)
    assert fused.learned.tolist() == [True, True, False]
    assert fused.weights[0, 0] > 4 * fused.weights[1, 0]
    assert fused.weights[1, 1] > 4 * fused.weights[0, 1]
    np.testing.assert_allclose(fused.weights[:, 2], 0.5)
    unseen, truth = informative(1)
    learned = metrics.auroc(truth, fused(unseen))[:2]
    assert (learned > metrics.auroc(truth, fusion.largest(unseen))[:2]).all()
    assert (learned > metrics.auroc(truth, fusion.average(unseen))[:2]).all()


def test_with_much_shrinkage_modalities_count_the_same() -> None:
    tables, labels = informative(0)
    np.testing.assert_allclose(fusion.learn(tables, labels, 1e9).weights, 0.5, atol=1e-5)


def test_a_missing_modality_leaves_it_to_the_others() -> None:
    tables, labels = informative(0)
    fused = fusion.learn(tables, labels)
    gone = [tables[0], np.full_like(tables[1], np.nan)]
    alone = fused.weights.sum(0) * np.log(tables[0] / (1 - tables[0])) + fused.offsets
    np.testing.assert_allclose(fused(gone), 1 / (1 + np.exp(-alone)), rtol=1e-6)
    assert np.isnan(fused([gone[1], gone[1]])).all()


def test_the_oracle_takes_the_best() -> None:
    tables = {
        "graph": pd.DataFrame({"AUROC": [0.9, 0.4, np.nan]}, index=["a", "b", "c"]),
        "morphology": pd.DataFrame({"AUROC": [0.5, 0.7, np.nan]}, index=["a", "b", "c"]),
    }
    result = fusion.retrospective(tables)
    assert result["modality"].tolist() == ["graph", "morphology", ""]
    np.testing.assert_array_equal(result["AUROC"], [0.9, 0.7, np.nan])


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        fusion.largest([[[0.1]], [[0.1, 0.2]]])
    with pytest.raises(InputError, match="probabilities"):
        fusion.average([[[1.1]]])
    with pytest.raises(InputError, match="do not fit"):
        fusion.learn([[[0.1]]], [[1, 0]])
    with pytest.raises(InputError, match="shrinkage"):
        fusion.learn([[[0.1]]], [[1]], 0)
    with pytest.raises(InputError, match="2 modalities"):
        fusion.learn([[[0.1]], [[0.2]]], [[1]])([[[0.1]]])
    with pytest.raises(InputError, match="no modality"):
        fusion.retrospective({})
