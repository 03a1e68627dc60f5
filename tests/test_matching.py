"""Object matching: against the NumPy twin, SciPy, StarDist, and what must hold for any segmentation."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import matching
from cellinfer_kernels.reference import matching as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

kernel_settings = settings(deadline=None)  # the first example may compile a kernel
ALL_THRESHOLDS = (0.0, 0.05, 0.1, 0.25, 1 / 3, 0.4, 0.5, 0.5001, 0.6, 0.75, 0.95)


@st.composite
def label_pairs(draw, side=9):
    """Two small label images that agree in part, with gaps and now and then very large labels."""
    shape = draw(st.tuples(st.integers(1, side), st.integers(1, side)))
    truth = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 5)))
    noise = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 5)))
    pred = np.where(draw(hnp.arrays(np.bool_, shape)), truth, noise)
    names = np.array([0, *draw(st.lists(st.integers(1, 2**31 - 1), min_size=5, max_size=5, unique=True))], np.int32)
    return truth, names[pred] if draw(st.booleans()) else pred


def scipy_scores(truth, pred, threshold, strict):
    """TP and IoU sum by a sparse contingency table and the Hungarian method: an independent oracle."""
    true_ids, rows = np.unique(truth, return_inverse=True)
    pred_ids, columns = np.unique(pred, return_inverse=True)
    ones = np.ones(truth.size, np.int64)
    shape = (len(true_ids), len(pred_ids))
    table = coo_array((ones, (rows.ravel(), columns.ravel())), shape=shape).toarray()
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    keep = np.ix_(true_ids > 0, pred_ids > 0)
    shared, union = table[keep], union[keep]
    steps = round(threshold * 10_000)
    good = (shared > 0) & (shared * 10_000 > union * steps if strict else shared * 10_000 >= union * steps)
    iou = shared / union
    chosen = linear_sum_assignment(np.where(good, 100 + iou, 0), maximize=True)
    return int(good[chosen].sum()), float(iou[chosen][good[chosen]].sum())


@kernel_settings
@given(label_pairs())
def test_overlaps_equal_the_twin(pair):
    for ours, theirs in zip(matching.overlaps(*pair), reference.overlaps(*pair), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(matching.iou_pairs(*pair), reference.iou_pairs(*pair), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@kernel_settings
@given(label_pairs(), st.booleans())
def test_scores_equal_the_twin_and_scipy(pair, strict):
    ours = matching.score_thresholds(*pair, ALL_THRESHOLDS, strict=strict)
    twin = reference.score_thresholds(*pair, ALL_THRESHOLDS, strict=strict)
    for ours_one, twin_one in zip(ours, twin, strict=True):
        assert ours_one.dtype == twin_one.dtype
        np.testing.assert_allclose(ours_one, twin_one, rtol=1e-12)
    np.testing.assert_array_equal(matching.average_precision(ours), reference.average_precision(twin))
    for k, threshold in enumerate(ALL_THRESHOLDS):
        tp, iou_sum = scipy_scores(*pair, threshold, strict)
        assert ours.tp[k] == tp
        assert ours.matched_iou_sum[k] == pytest.approx(iou_sum)


@kernel_settings
@given(label_pairs())
def test_true_positives_equal_stardist(pair):
    from stardist.matching import matching as stardist_matching

    thresholds = [0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.95]
    ours = matching.score_thresholds(*pair, thresholds, strict=False)
    theirs = stardist_matching(*pair, thresh=thresholds)
    # StarDist's float32 IoU decides 0.05 and the like by rounding: leave out pairs that lie on a threshold.
    pairs = matching.iou_pairs(*pair)
    for k, threshold in enumerate(thresholds):
        if threshold not in (0.25, 0.5, 0.75) and np.any(np.abs(pairs.iou - threshold) < 1e-6):
            continue
        assert (ours.tp[k], ours.fp[k], ours.fn[k]) == (theirs[k].tp, theirs[k].fp, theirs[k].fn)


@kernel_settings
@given(label_pairs())
def test_what_holds_for_any_segmentation(pair):
    truth, pred = pair
    scores = matching.score_thresholds(truth, pred, ALL_THRESHOLDS)
    assert np.all(np.diff(scores.tp) <= 0)
    assert np.all(scores.tp + scores.fp == np.count_nonzero(np.unique(pred)))
    assert np.all(scores.tp + scores.fn == np.count_nonzero(np.unique(truth)))
    assert np.all(scores.matched_iou_sum <= scores.tp + 1e-9)
    swapped = matching.score_thresholds(pred, truth, ALL_THRESHOLDS)
    np.testing.assert_array_equal(swapped.tp, scores.tp)
    np.testing.assert_array_equal(swapped.fp, scores.fn)
    precision = matching.average_precision(scores)
    assert np.all((precision >= 0) & (precision <= 1))
    assert np.all(matching.average_precision(matching.score_thresholds(truth, truth, ALL_THRESHOLDS[:-1])) == 1)


@kernel_settings
@given(label_pairs(), st.permutations(range(1, 6)), st.booleans())
def test_labels_are_only_names(pair, order, strict):
    truth, pred = pair
    renamed = np.array([0, *order], np.int32)[truth] * 1000
    before = matching.score_thresholds(truth, pred, ALL_THRESHOLDS, strict=strict)
    after = matching.score_thresholds(renamed, pred, ALL_THRESHOLDS, strict=strict)
    np.testing.assert_array_equal(before.tp, after.tp)
    np.testing.assert_allclose(before.matched_iou_sum, after.matched_iou_sum)


@kernel_settings
@given(label_pairs(), st.sampled_from(ALL_THRESHOLDS), st.booleans())
def test_matches_are_one_to_one_and_those_that_are_scored(pair, threshold, strict):
    matches = matching.match(*pair, threshold, strict=strict)
    scores = matching.score_thresholds(*pair, threshold, strict=strict)
    assert len(set(matches.truth)) == len(set(matches.pred)) == len(matches.iou) == scores.tp[0]
    assert matches.iou.sum() == pytest.approx(scores.matched_iou_sum[0])
    if threshold >= 0.5001:
        twin = reference.match(*pair, threshold, strict=strict)
        for ours, theirs in zip(matches, twin, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@kernel_settings
@given(label_pairs())
def test_errors_equal_the_twin(pair):
    for ours, theirs in zip(matching.errors(*pair), reference.errors(*pair), strict=True):
        assert ours.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)


def test_large_component_is_assigned_as_scipy_does():
    """At a threshold near 0 hundreds of shifted tiles form a single component."""
    rng = np.random.default_rng(5)
    truth = np.kron(rng.permutation(400).reshape(20, 20).astype(np.int32) + 1, np.ones((6, 7), np.int32))
    pred = np.roll(np.kron(rng.permutation(225).reshape(15, 15).astype(np.int32), np.ones((8, 9), np.int32)), 3, (0, 1))
    pred = np.pad(pred, ((0, 0), (0, 5)))
    for threshold in (0.001, 0.1, 0.2, 0.3):
        ours = matching.score_thresholds(truth, pred, threshold)
        tp, iou_sum = scipy_scores(truth, pred, threshold, True)
        assert ours.tp[0] == tp
        assert ours.matched_iou_sum[0] == pytest.approx(iou_sum)


def test_thresholds_are_exact_fractions():
    """IoU 6/10 is not above 0.6, however the threshold was computed; peers answer differently for the second."""
    truth = np.array([[1] * 10], np.int32)
    pred = np.array([[1] * 6 + [0] * 4], np.int32)
    sloppy = np.arange(0.5, 1, 0.05)
    assert sloppy[2] != 0.6
    for threshold in (0.6, sloppy[2]):
        assert matching.score_thresholds(truth, pred, threshold, strict=True).tp[0] == 0
        assert matching.score_thresholds(truth, pred, threshold, strict=False).tp[0] == 1
    assert matching.dsb_thresholds().tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    np.testing.assert_array_equal(reference.dsb_thresholds(), matching.dsb_thresholds())


def test_two_halves_match_one_whole_once():
    truth = np.ones((2, 4), np.int32)
    halves = np.array([[3, 3, 9, 9]] * 2, np.int32)
    scores = matching.score_thresholds(truth, halves, 0.5, strict=False)
    assert (scores.tp[0], scores.fp[0], scores.fn[0]) == (1, 1, 0)
    assert matching.match(truth, halves, strict=False).pred.tolist() == [3]
    assert matching.score_thresholds(truth, halves, 0.5).tp[0] == 0


def test_errors_by_name():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3, 0, 4, 4, 0, 0]], np.int32)
    pred = np.array([[7, 7, 8, 8, 0, 9, 9, 9, 9, 0, 0, 0, 0, 6]], np.int32)
    found = matching.errors(truth, pred)
    assert found.split.tolist() == [1]
    assert found.merged.tolist() == [9]
    assert found.missed.tolist() == [4]
    assert found.spurious.tolist() == [6]


def test_empty_images():
    empty, one = np.zeros((3, 4), np.int32), np.ones((3, 4), np.int32)
    assert matching.average_precision(matching.score_thresholds(empty, empty, [0.5, 0.9])).tolist() == [1, 1]
    assert matching.average_precision(matching.score_thresholds(empty, one, 0.5)).tolist() == [0]
    assert matching.score_thresholds(one, empty, 0.3).fn.tolist() == [1]
    assert matching.score_thresholds(np.zeros((0, 5), np.int32), np.zeros((0, 5), np.int32), 0.5).tp.tolist() == [0]


def test_more_pairs_than_the_first_table_holds():
    truth = np.arange(40_000, dtype=np.int32).reshape(200, 200) * 50_000
    found = matching.overlaps(truth, truth[:, ::-1])
    assert len(found.counts) == 39_999 - 1  # the pixels that meet background are not pairs
    assert found.a_areas.sum() == 39_999


@pytest.mark.parametrize(
    ("truth", "pred", "threshold", "message"),
    [
        (np.zeros((2, 2), np.int32), np.zeros((2, 3), np.int32), 0.5, "differ in shape"),
        (np.zeros(4, np.int32), np.zeros(4, np.int32), 0.5, "2-D"),
        (np.zeros((2, 2)), np.zeros((2, 2)), 0.5, "integers"),
        (np.full((2, 2), -1, np.int32), np.zeros((2, 2), np.int32), 0.5, "negative"),
        (np.full((2, 2), 2**31, np.int64), np.zeros((2, 2), np.int32), 0.5, "int32"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.int32), 1.5, "between 0 and 1"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.int32), float("nan"), "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(truth, pred, threshold, message):
    with pytest.raises(ValueError, match=message):
        matching.score_thresholds(truth, pred, threshold)
