"""Instance merge of test-time augmentation: against the NumPy twin, and the invariants of TTA."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import consensus, views
from cellinfer_kernels.reference import consensus as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

kernel_settings = settings(deadline=None)  # the first example may compile a kernel
options = st.fixed_dictionaries({"min_iou": st.sampled_from([0.2, 0.3, 0.5, 0.5001, 0.75, 1.0])})


@st.composite
def stacks(draw, max_views=5):
    """Views that agree in part, with objects so small that ties of every kind occur."""
    n, height, width = draw(st.tuples(st.integers(1, max_views), st.integers(1, 6), st.integers(1, 6)))
    base = draw(hnp.arrays(np.int32, (height, width), elements=st.integers(0, 4)))
    noise = draw(hnp.arrays(np.int32, (n, height, width), elements=st.integers(0, 4)))
    stack = np.where(draw(hnp.arrays(np.bool_, noise.shape)), base, noise)
    names = [np.array([0, *draw(st.permutations([1, 2, 5, 900]))], np.int32) for _ in range(n)]
    return np.stack([name[one] for name, one in zip(names, stack, strict=True)]) if draw(st.booleans()) else stack


@st.composite
def stacks_with_scores(draw):
    """A stack, and for each view a score per object (few values, so that they tie)."""
    stack = draw(stacks())
    counts = [int(np.count_nonzero(np.unique(one))) for one in stack]
    scores = [draw(hnp.arrays(np.float64, count, elements=st.sampled_from([0.25, 0.5, 1.0]))) for count in counts]
    return stack, draw(st.sampled_from([None, scores]))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.votes, theirs.votes)
    assert ours.views == theirs.views
    np.testing.assert_allclose(ours.mean_iou, theirs.mean_iou, rtol=1e-6)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, rtol=1e-5, atol=1e-7)


def partition(labels):
    """Objects as sets of pixels, whatever their numbers."""
    return {tuple(np.flatnonzero(labels == i)) for i in np.unique(labels) if i}


@kernel_settings
@given(stacks_with_scores(), options, st.data())
def test_equals_the_twin(given_stack, given_options, data):
    stack, scores = given_stack
    min_votes = data.draw(st.none() | st.integers(1, len(stack)))
    ours = consensus.merge_instances(stack, scores=scores, min_votes=min_votes, **given_options)
    assert_same(ours, reference.merge_instances(stack, scores=scores, min_votes=min_votes, **given_options))
    assert [array.dtype for array in (ours.labels, ours.votes, ours.mean_iou, ours.entropy)] == [
        np.int32, np.int32, np.float32, np.float32,
    ]  # fmt: skip


@kernel_settings
@given(stacks_with_scores(), options, st.randoms(use_true_random=False))
def test_order_of_views_does_not_matter(given_stack, given_options, random):
    stack, scores = given_stack
    order = list(range(len(stack)))
    random.shuffle(order)
    shuffled_scores = None if scores is None else [scores[i] for i in order]
    before = consensus.merge_instances(stack, scores=scores, **given_options)
    after = consensus.merge_instances(stack[order], scores=shuffled_scores, **given_options)
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@kernel_settings
@given(stacks(), options)
def test_what_holds_for_every_result(stack, given_options):
    result = consensus.merge_instances(stack, **given_options)
    ids = np.unique(result.labels)[np.unique(result.labels) > 0]
    assert len(ids) == len(result.votes) == len(result.mean_iou) == len(result.entropy)
    assert np.all(2 * result.votes > len(stack))
    assert np.all(result.votes <= result.views)
    assert np.all((result.entropy >= 0) & (result.entropy <= 1))
    assert np.all(np.isnan(result.mean_iou) | ((result.mean_iou > 0) & (result.mean_iou <= 1)))
    # No pixel is an object's that fewer than half of the fewest possible voters gave to any object.
    assert np.all((stack > 0).sum(0)[result.labels > 0] * 4 > len(stack))


@kernel_settings
@given(stacks(max_views=1))
def test_one_view_is_returned_as_it_is(stack):
    result = consensus.merge_instances(stack)
    assert result.labels.tobytes() == stack[0].tobytes()
    assert result.votes.tolist() == [1] * np.count_nonzero(np.unique(stack))
    assert np.isnan(result.mean_iou).all()
    assert not result.entropy.any()


@kernel_settings
@given(stacks(max_views=1), st.integers(2, 8))
def test_equivariant_model_is_unchanged(stack, n):
    result = consensus.merge_instances(np.repeat(stack, n, axis=0))
    assert partition(result.labels) == partition(stack[0])
    assert np.all(result.votes == n)
    assert np.all(result.mean_iou == 1)
    assert not result.entropy.any()


@kernel_settings
@given(stacks(), st.data())
def test_agreement_and_doubt_equal_their_twins(stack, data):
    labels = data.draw(st.sampled_from(list(stack)) | hnp.arrays(np.int32, stack.shape[1:], elements=st.integers(0, 3)))
    ours = consensus.agreement(labels, stack)
    assert_same(ours, reference.agreement(labels, stack))
    np.testing.assert_array_equal(ours.labels, labels)
    np.testing.assert_allclose(consensus.doubt(labels, stack), reference.doubt(labels, stack), rtol=1e-6, atol=1e-7)


@kernel_settings
@given(stacks(), st.randoms(use_true_random=False))
def test_agreement_and_doubt_do_not_depend_on_the_order_of_views(stack, random):
    order = list(range(len(stack)))
    random.shuffle(order)
    for before, after in zip(
        consensus.agreement(stack[0], stack), consensus.agreement(stack[0], stack[order]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(consensus.doubt(stack[0], stack), consensus.doubt(stack[0], stack[order]))


def test_views_that_are_the_result_leave_no_doubt():
    labels = np.array([[1, 1, 0, 7], [1, 1, 0, 7]], np.int32)
    same = consensus.agreement(labels, np.stack([labels] * 4))
    assert same.votes.tolist() == [4, 4]
    assert same.mean_iou.tolist() == [1, 1]
    assert same.entropy.tolist() == [0, 0]
    assert not consensus.doubt(labels, np.stack([labels] * 4)).any()


def test_what_no_view_has_gets_no_vote_and_what_half_of_them_have_is_in_full_doubt():
    labels = np.array([[1, 1, 0, 2, 0]], np.int32)
    views_ = np.array([[[5, 5, 0, 0, 3]], [[9, 9, 0, 0, 0]]], np.int32)
    found = consensus.agreement(labels, views_)
    assert found.votes.tolist() == [2, 0]
    assert found.mean_iou[0] == 1
    assert np.isnan(found.mean_iou[1])
    assert np.isnan(found.entropy[1])
    assert consensus.doubt(labels, views_).tolist() == [[0, 0, 0, 0, 1]]


def segment(image):
    """Stand in for an instance model whose answer depends on how the image lies: an uneven threshold and smoothing."""
    rows, columns = np.indices(image.shape)
    smooth = ndimage.uniform_filter(image, (3, 2), mode="nearest", origin=(1, 0))
    labels, _ = ndimage.label(smooth > 0.6 + 0.04 * np.sin(rows / 3) + 0.03 * np.cos(columns / 2))
    return labels.astype(np.int32)


def merged(image, names):
    stack = [views.restore(segment(views.augment(image, name)), name) for name in names]
    return consensus.merge_instances(np.stack(stack))


@pytest.mark.parametrize("turn", views.D4)
@pytest.mark.parametrize("seed", range(3))
def test_output_commutes_with_every_symmetry(turn, seed):
    image = ndimage.gaussian_filter(np.random.default_rng(seed).random((101, 150)), 2)
    image = (image - image.min()) / np.ptp(image)
    plain, turned = merged(image, views.D4), merged(views.augment(image, turn), views.D4)
    assert len(plain.votes) > 10
    assert len(np.unique(plain.votes)) > 1
    back = views.restore(turned.labels, turn)
    assert partition(back) == partition(plain.labels)
    same = [turned.labels[views.augment(plain.labels, turn) == i][0] - 1 for i in range(1, len(plain.votes) + 1)]
    np.testing.assert_array_equal(turned.votes[same], plain.votes)
    np.testing.assert_array_equal(turned.mean_iou[same], plain.mean_iou)
    np.testing.assert_array_equal(turned.entropy[same], plain.entropy)


def test_majority_of_objects_and_of_pixels():
    stack = np.zeros((3, 2, 8), np.int32)
    stack[0, :, 0:4], stack[1, :, 0:4], stack[2, :, 1:4] = 1, 1, 1  # found by all, three views disagree on a column
    stack[0, :, 6:] = 2  # found by one
    result = consensus.merge_instances(stack)
    np.testing.assert_array_equal(result.labels, np.array([[1, 1, 1, 1, 0, 0, 0, 0]] * 2))
    assert result.votes.tolist() == [3]
    assert result.mean_iou[0] == pytest.approx((1 + 0.75 + 0.75) / 3)
    binary_entropy = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    assert result.entropy[0] == pytest.approx(binary_entropy / 4)
    everything = consensus.merge_instances(stack, min_votes=1)
    assert everything.votes.tolist() == [3, 1]
    assert np.isnan(everything.mean_iou[1])


def test_half_of_the_views_is_no_majority():
    stack = np.zeros((4, 3, 3), np.int32)
    stack[:2] = 1
    assert not consensus.merge_instances(stack).labels.any()
    assert consensus.merge_instances(stack, min_votes=2).votes.tolist() == [2]


def test_iou_of_exactly_the_threshold_joins():
    stack = np.array([[[1, 1, 0]], [[1, 0, 0]]], np.int32)
    assert consensus.merge_instances(stack).votes.tolist() == [2]
    assert consensus.merge_instances(stack, min_iou=0.5001).votes.tolist() == []


def test_tie_goes_to_the_higher_score_then_the_lower_label():
    """One whole, two halves: either half has IoU 0.5, and only one can join."""
    stack = np.array([[[7, 7, 7, 7]], [[3, 3, 9, 9]]], np.int32)
    assert consensus.merge_instances(stack).labels.tolist() == [[1, 1, 0, 0]]
    scores = [[0.9], [0.2, 0.8]]
    assert consensus.merge_instances(stack, scores=scores).labels.tolist() == [[0, 0, 1, 1]]


def test_pixel_of_two_objects_goes_to_the_larger_fraction():
    stack = np.zeros((5, 1, 9), np.int32)
    stack[:3, 0, 0:5], stack[3:, 0, 0:4] = 1, 1  # pixel 4: 3 of 5
    stack[3:, 0, 4:9], stack[:3, 0, 5:9] = 2, 2  # pixel 4: 2 of 5
    assert consensus.merge_instances(stack).labels.tolist() == [[1] * 5 + [2] * 4]
    two_of_three = np.zeros((5, 1, 7), np.int32)
    two_of_three[:3, 0, :4] = 1  # pixel 3: 3 of 3
    two_of_three[3:, 0, 3:] = 2  # pixel 3: 2 of 3
    two_of_three[0, 0, 4:] = 2
    assert consensus.merge_instances(two_of_three).labels.tolist() == [[1] * 4 + [2] * 3]


def test_empty_views_and_many_objects():
    empty = consensus.merge_instances(np.zeros((8, 5, 4), np.int32))
    assert not empty.labels.any()
    assert [len(array) for array in (empty.votes, empty.mean_iou, empty.entropy)] == [0, 0, 0]
    crowded = np.arange(1, 70_001, dtype=np.int32).reshape(250, 280)
    np.testing.assert_array_equal(consensus.merge_instances(np.stack([crowded] * 3)).labels, crowded)


@pytest.mark.parametrize(
    ("stack", "given_options", "message"),
    [
        (np.zeros((3, 3), np.int32), {}, r"\(N, H, W\)"),
        (np.zeros((0, 3, 3), np.int32), {}, r"\(N, H, W\)"),
        (np.full((2, 3, 3), -1, np.int32), {}, "negative"),
        (np.zeros((2, 3, 3)), {}, "integers"),
        (np.zeros((2, 3, 3), np.int32), {"min_iou": 0.0}, "min_iou"),
        (np.zeros((2, 3, 3), np.int32), {"min_votes": 3}, "min_votes"),
        (np.ones((2, 3, 3), np.int32), {"scores": [[1.0], [1.0, 2.0]]}, "one value per object"),
        (np.ones((2, 3, 3), np.int32), {"scores": [[1.0], [np.nan]]}, "NaN"),
    ],
)
def test_bad_input_is_refused(stack, given_options, message):
    with pytest.raises(ValueError, match=message):
        consensus.merge_instances(stack, **given_options)
