"""Star-convex polygons: kernels against their twins and StarDist's own code, and labels that come back."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from cellinfer.cards import METADATA_KEY
from cellinfer.decoders import decode
from cellinfer.errors import ModelError
from cellinfer.segmentation._network import Network
from cellinfer.sessions import Session, open_session
from cellinfer_kernels import starconvex
from cellinfer_kernels.matching import score_thresholds
from cellinfer_kernels.reference import starconvex as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skimage import draw

from tests.conftest import draw_cells
from tests.test_distance_decoder import packed_disks
from tests.test_sessions import description

Labels = NDArray[np.int32]


def encode(labels: Labels, rays: int = 32, stride: int = 2) -> NDArray[np.float32]:
    targets = pytest.importorskip("cellinfer_training.targets", reason="needs the [train] extra")
    return np.ascontiguousarray(np.moveaxis(targets.star_fields(labels, rays, stride)[..., :-1], -1, 0))


def found_again(labels: Labels, threshold: float, stride: int = 2, **options: float) -> tuple[int, int, int]:
    """Objects found, invented and missed after encoding and decoding."""
    result = decode("star-convex", encode(labels, stride=stride), 22.0, options, labels.shape, stride=stride)
    scores = score_thresholds(labels, result, [threshold])
    return int(scores.tp[0]), int(scores.fp[0]), int(scores.fn[0])


def mosaics() -> st.SearchStrategy[Labels]:
    """Label images of any content: gaps in ids, holes, scattered pieces."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
    return hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 3, 3, 3, 7]))


@given(mosaics(), st.integers(3, 9), st.integers(1, 3))
def test_ray_distances_equal_twin(labels, rays, step):
    result = starconvex.ray_distances(labels, rays, step)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, twin.ray_distances(labels, rays, step), rtol=1e-6)


@pytest.mark.parametrize(("rays", "step"), [(32, 1), (32, 2), (8, 4), (17, 1)])
def test_ray_distances_equal_stardist(rays, step):
    geometry = pytest.importorskip("stardist.geometry.geom2d", reason="StarDist's own code is not installed")
    labels = packed_disks(3)
    np.testing.assert_allclose(
        starconvex.ray_distances(labels, rays, step), geometry.star_dist(labels, rays, (step, step)), atol=1e-4
    )


def test_rays_go_from_growing_columns_to_growing_rows():
    np.testing.assert_allclose(starconvex.ray_directions(4), [[0, 1, 0, -1], [1, 0, -1, 0]], atol=1e-12)
    labels = np.zeros((9, 20), np.int32)
    labels[2:8, 3:15] = 5
    np.testing.assert_allclose(starconvex.ray_distances(labels, 4)[4, 5], [9.5, 3.5, 2.5, 2.5])


@st.composite
def polygons(draw, most=6):
    n, rays = draw(st.integers(0, most)), draw(st.integers(3, 7))
    # Halves and quarters: many vertices and edges fall exactly on pixel centres.
    places = hnp.arrays(np.float64, (n, 2), elements=st.integers(-8, 48).map(lambda quarter: quarter / 4))
    lengths = st.one_of(st.integers(-1, 30).map(lambda quarter: quarter / 4), st.just(np.nan))
    return draw(places), draw(hnp.arrays(np.float32, (n, rays), elements=lengths))


scales = st.sampled_from([(1.0, 1.0), (2.0, 0.5)])


@given(polygons(), scales)
def test_render_equals_twin(drawn, scale):
    result = starconvex.render(*drawn, (11, 10), scale)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, twin.render(*drawn, (11, 10), scale))


@given(polygons(), scales, st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_suppress_equals_twin(drawn, scale, overlap):
    np.testing.assert_array_equal(
        starconvex.suppress(*drawn, (11, 10), overlap, scale), twin.suppress(*drawn, (11, 10), overlap, scale)
    )


def random_polygons(count: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Overlapping polygons of very unequal size in a field of 90 x 110."""
    random = np.random.default_rng(1)
    sizes = np.exp(random.uniform(0.5, 3.2, (count, 1)))
    return random.uniform((0, 0), (90, 110), (count, 2)), np.float32(sizes * random.uniform(0.7, 1.3, (count, 11)))


def test_suppress_equals_twin_on_a_crowd():
    drawn = random_polygons(150)
    kept = starconvex.suppress(*drawn, (90, 110), 0.3)
    assert 20 < len(kept) < 100
    np.testing.assert_array_equal(kept, twin.suppress(*drawn, (90, 110), 0.3))


def test_suppress_agrees_with_stardist():
    nms = pytest.importorskip("stardist.nms", reason="StarDist's own code is not installed")
    fields = encode(packed_disks(2))
    random = np.random.default_rng(0)
    distances = np.ascontiguousarray(np.moveaxis(fields[1:], 0, -1)) * random.uniform(0.9, 1.1, (100, 100, 1))
    scores = fields[0] + random.uniform(0, 1e-3, (100, 100)).astype(np.float32)  # no ties
    theirs, _, _ = nms.non_maximum_suppression(distances, scores, grid=(2, 2), b=0, nms_thresh=0.4, prob_thresh=0.4)
    samples = np.argwhere(scores > 0.4)
    samples = samples[np.argsort(-scores[tuple(samples.T)])]
    ours = samples[starconvex.suppress(2 * samples, distances[tuple(samples.T)], (200, 200), 0.4)] * 2
    # They clip polygons exactly and beyond the image, we count pixels inside: borderline pairs may differ.
    common = {tuple(p) for p in ours} & {tuple(p) for p in theirs}
    assert len(common) >= 0.9 * max(len(ours), len(theirs))


def test_render_equals_skimage():
    centres, distances = random_polygons(30)
    steps = starconvex.ray_directions(distances.shape[1])
    for centre, lengths in zip(centres, distances.astype(float), strict=True):
        painted = starconvex.render(centre[None], lengths[None], (90, 110)) > 0
        expected = draw.polygon2mask((90, 110), (centre[:, None] + lengths * steps).T)
        np.testing.assert_array_equal(painted, expected)


@given(polygons(most=12), st.sampled_from([0.0, 0.3, 0.7]))
def test_kept_polygons_share_no_more_than_asked_and_lost_ones_have_a_reason(drawn, overlap):
    kept = starconvex.suppress(*drawn, (11, 10), overlap)
    masks = [starconvex.render(c[None], d[None], (11, 10)) > 0 for c, d in zip(*drawn, strict=True)]

    def clash(i: int, k: int) -> bool:
        return bool((masks[i] & masks[k]).sum() > overlap * min(masks[i].sum(), masks[k].sum()))

    assert not any(clash(i, k) for i in kept for k in kept if k < i)
    for i in set(range(len(masks))) - set(kept.tolist()):
        assert not masks[i].any() or any(clash(i, k) for k in kept if k < i)


def test_wild_distances_are_held_within_the_image():
    distances = np.array([[np.inf] * 8, [1e30] * 8, [-5.0] * 8, [np.nan] * 8], np.float32)
    centres = np.full((4, 2), 10.0)
    np.testing.assert_array_equal(starconvex.suppress(centres, distances, (20, 30), 0.5), [0])
    assert (starconvex.render(centres, distances, (20, 30)) == 1).all()


def test_nothing_gives_no_objects():
    assert not decode("star-convex", np.zeros((9, 20, 30), np.float32), 20.0, {}, (40, 60), stride=2).any()
    assert starconvex.ray_distances(np.zeros((0, 5), np.int32)).shape == (0, 5, 32)


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="rays"):
        starconvex.ray_distances(np.zeros((4, 4), np.int32), 2)
    with pytest.raises(ValueError, match="step"):
        starconvex.ray_distances(np.zeros((4, 4), np.int32), 8, 0)
    with pytest.raises(ValueError, match="fit"):
        starconvex.render(np.zeros((2, 2)), np.zeros((3, 8)), (4, 4))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_convex_objects_come_back(stride):
    labels = draw_cells(1, (241, 323))["truth"].astype(np.int32)  # no multiple of the stride
    assert found_again(labels, 0.9, stride) == (labels.max(), 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_touching_objects_come_back_apart(seed):
    labels = packed_disks(seed)
    tp, fp, fn = found_again(labels, 0.8)
    # Slivers that the field's edge leaves of a disk may have no sample or too few pixels.
    assert fn <= 0.06 * np.unique(labels[labels > 0]).size
    assert tp > 60
    assert fp <= 0.02 * tp


def test_fields_of_a_resized_image_give_labels_of_the_image():
    labels = draw_cells(2, (240, 320))["truth"].astype(np.int32)
    half = cv2.resize(labels.astype(np.float32), (160, 120), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int32)
    result = decode("star-convex", encode(half), 22.0, {}, labels.shape, stride=2, seen=half.shape)
    scores = score_thresholds(labels, result, [0.8])
    assert (scores.tp[0], scores.fp[0]) == (labels.max(), 0)


def test_objects_of_a_resized_image_lie_where_they_are_though_its_last_samples_reach_beyond_it():
    small = packed_disks(0)[:31, :41]  # no multiple of the stride
    labels = np.kron(small, np.ones((4, 4), np.int32))
    result = decode("star-convex", encode(small), 40.0, {}, labels.shape, stride=2, seen=small.shape)
    bottom, right = (np.argwhere(image > 0).max(axis=0) for image in (labels, result))
    np.testing.assert_allclose(bottom, right, atol=2)
    for name in np.unique(labels[labels > 0]):
        place = np.argwhere(labels == name).mean(axis=0)
        partner = result[tuple(place.astype(int))]
        if partner and not {0, 123, 163} & set(np.argwhere(labels == name).ravel().tolist()):
            np.testing.assert_allclose(np.argwhere(result == partner).mean(axis=0), place, atol=1.5)


def sampler(path: Path, stride: int) -> Session:
    """A network whose probability is the image at every `stride`-th pixel, and whose rays are five times as long."""
    card = description()
    axes = card["outputs"][0]["axes"]
    axes[1]["channel_names"] = ["probability", *(f"ray {ray}" for ray in range(8))]
    card["config"]["cellinfer"] |= {"decoder": {"kind": "star-convex", "options": {}}, "stride": stride}
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["image", "starts", "ends", "axes", "steps"], ["samples"]),
            helper.make_node("Mul", ["samples", "gains"], ["fields"]),
        ],
        "every few pixels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("fields", TensorProto.FLOAT, ["n", 9, "i", "j"])],
        [
            *(
                helper.make_tensor(name, TensorProto.INT64, [2], [value, value])
                for name, value in {"starts": 0, "ends": 2**31, "steps": stride}.items()
            ),
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("gains", TensorProto.FLOAT, [1, 9, 1, 1], [1.0, *[5.0] * 8]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, path)
    return open_session(path, "cpu", 1)


@pytest.mark.parametrize("stride", [1, 4])
def test_the_stride_of_the_card_places_the_objects(stride, tmp_path):
    session = sampler(tmp_path / "model.onnx", stride)
    pixels = np.zeros((1, 101, 131), np.float32)
    pixels[0, 40, 60] = pixels[0, 80, 100] = 1
    labels = Network(session, 10.0, 1.0).labels(pixels)
    assert labels.max() == 2
    for row, column in ((40, 60), (80, 100)):
        object_pixels = np.argwhere(labels == labels[row, column])
        np.testing.assert_allclose(object_pixels.mean(axis=0), (row, column), atol=0.6)
        assert 40 < len(object_pixels) < np.pi * 25
    for scale in (0.37, 1.9):  # sizes that are no multiples of the stride
        assert Network(session, 10.0 / scale, scale).labels(pixels + 1).any()


def test_the_stride_is_no_option_of_the_decoder():
    with pytest.raises(ModelError, match="stride"):
        decode("star-convex", np.zeros((9, 20, 30), np.float32), 20.0, {"stride": 2}, (40, 60), stride=2)


def test_fields_that_make_no_polygon_are_refused():
    with pytest.raises(ModelError, match="3 rays"):
        decode("star-convex", np.ones((3, 20, 30), np.float32), 20.0, {})


def test_of_a_bent_object_only_what_one_point_sees_comes_back():
    labels = np.zeros((80, 80), np.int32)
    labels[10:70, 10:24] = labels[56:70, 10:70] = 1
    result = decode("star-convex", encode(labels), 40.0, {}, labels.shape, stride=2)
    assert 0.4 < (result == 1)[labels == 1].mean() < 0.9


def test_holes_end_rays_pieces_come_back_apart_and_gaps_in_ids_are_closed():
    rows, columns = np.mgrid[:80, :160]
    labels = np.zeros((80, 160), np.int32)
    labels[np.hypot(rows - 40, columns - 30) < 14] = 9
    labels[38:43, 25:30] = 0  # a hole beside the middle
    labels[np.hypot(rows - 40, columns - 80) < 14] = 500
    labels[np.hypot(rows - 40, columns - 130) < 14] = 500  # one id in two pieces
    result = decode("star-convex", encode(labels), 28.0, {}, labels.shape, stride=2)
    assert sorted(result[40, column] for column in (36, 80, 130)) == [1, 2, 3]
    holed = result == result[40, 36]
    assert 0.5 < holed[labels == 9].mean() < 1
    assert not holed[labels == 500].any()


@pytest.mark.parametrize("rays", [8, 32])
def test_loss_is_least_at_the_target_and_falls(rays):
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    from cellinfer_training.losses import STAR_SCALE, activate_star, star_loss
    from cellinfer_training.targets import star_fields

    target = torch.from_numpy(star_fields(packed_disks(0), rays)).permute(2, 0, 1)[None]
    distances = (target[:, 1:-1] / STAR_SCALE).clamp(min=1e-6)
    logits = torch.cat([target[:, :1].clamp(1e-6, 1 - 1e-6).logit(), distances.expm1().log()], dim=1)
    torch.testing.assert_close(activate_star(logits), target[:, :-1], atol=1e-4, rtol=1e-4)
    best = star_loss(logits, target)
    assert best["distances"] < 1e-4
    start = torch.zeros_like(logits, requires_grad=True)
    star_loss(start, target)["loss"].backward()
    assert star_loss(start - 10 * start.grad, target)["loss"] < star_loss(start, target)["loss"]
    assert star_loss(start, target)["loss"] > best["loss"]


@pytest.mark.realdata
def test_real_nuclei_come_back(data_folder: Path):
    from cellinfer.images import read_labels

    masks = sorted((data_folder / "dsb2018" / "masks").glob("*.png"))[::47]
    assert len(masks) >= 10
    ious, total = [], 0
    for path in masks:
        labels = read_labels(path)
        result = decode("star-convex", encode(labels), 20.0, {"smallest": 0.0}, labels.shape, stride=2)
        scores = score_thresholds(labels, result, [0.5])
        total += int(scores.tp[0] + scores.fn[0])
        ious.append(float(scores.matched_iou_sum[0]))
    assert sum(ious) / total > 0.85
