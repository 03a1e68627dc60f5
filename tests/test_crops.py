"""Crops of cells against their NumPy twin, OpenCV and torch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from cellinfer_kernels.crops import crops
from cellinfer_kernels.reference import crops as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

RANDOM = np.random.default_rng(0)
TYPES = [np.uint8, np.uint16, np.uint32, np.float32, np.float64, np.bool_]


def squares(dtype: Any, shape: tuple[int, int]) -> st.SearchStrategy[Any]:
    if np.dtype(dtype).kind != "f":
        return hnp.arrays(dtype, shape)
    some = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
    return hnp.arrays(dtype, shape, elements=some)


@st.composite
def cases(draw: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    dtype = draw(st.sampled_from(TYPES))
    planes = draw(st.lists(squares(dtype, shape), min_size=1, max_size=2))
    count = draw(st.integers(0, 3))
    centres = draw(hnp.arrays(np.float64, (count, 2), elements=st.floats(-8, 22)))
    box, side = draw(st.integers(1, 17)), draw(st.integers(1, 17))
    options = {
        "value_range": draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0)])),
        "mask": draw(st.sampled_from(["none", "neighbours", "outside"])),
        "labels": draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 3))),
        "owners": draw(hnp.arrays(np.int32, count, elements=st.integers(1, 3))),
    }
    return (planes, centres, box, side), options


@given(cases())
def test_kernel_is_its_twin(case: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    given_, options = case
    found = crops(*given_, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, twin.crops(*given_, **options), atol=2e-5)
    low, high = options["value_range"]
    assert found.min(initial=low) >= low - 1e-5
    assert found.max(initial=high) <= high + 1e-5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("box", "side"), [(40, 64), (37, 64), (128, 224), (32, 32), (31, 31)])
def test_enlarging_is_that_of_opencv(dtype: Any, box: int, side: int) -> None:
    image = RANDOM.integers(0, 255, (box, box)).astype(dtype)
    (found,) = crops([image], np.array([[box // 2, box // 2]]), box, side)
    scaled = (image - image.min().astype(np.float32)) / np.float32(image.max() - image.min())
    expected = cv2.resize(scaled.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize(("box", "side"), [(64, 40), (129, 32), (224, 128), (50, 49), (8, 1)])
def test_reducing_is_that_of_torch_with_antialiasing(box: int, side: int) -> None:
    torch = pytest.importorskip("torch")
    image = RANDOM.random((box, box), np.float32)
    (found,) = crops([image], np.array([[box // 2, box // 2]]), box, side)
    scaled = (image - image.min()) / (image.max() - image.min())
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(scaled)[None, None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_allclose(found[0], expected[0, 0].numpy(), atol=1e-5)


def test_a_square_lies_where_it_should() -> None:
    image = np.arange(100, dtype=np.uint16).reshape(10, 10)
    for centre, first in (((4.0, 4.0), (2, 2)), ((4.49, 4.5), (2, 3)), ((3.5, 5.5), (2, 4))):
        (found,) = crops([image], np.array([centre]), 4, 4)
        window = image[first[0] : first[0] + 4, first[1] : first[1] + 4].astype(np.float64)
        np.testing.assert_allclose(found[0], (window - window.min()) / (window.max() - window.min()), atol=1e-6)
    (odd,) = crops([image], np.array([[4.0, 4.0]]), 3, 3)
    assert odd[0, 1, 1] == pytest.approx(0.5)  # 44 between 33 and 55


def test_beyond_the_edge_is_dark_and_does_not_change_the_contrast() -> None:
    image = RANDOM.integers(1000, 3000, (30, 30)).astype(np.uint16)
    (found,) = crops([image], np.array([[0.0, 0.0]]), 20, 20, value_range=(-1, 1))
    assert (found[0, :10] == -1).all()
    assert (found[0, :, :10] == -1).all()
    seen = image[:10, :10].astype(np.float64)
    np.testing.assert_allclose(found[0, 10:, 10:], 2 * (seen - seen.min()) / np.ptp(seen) - 1, atol=1e-6)


@pytest.mark.parametrize("mask", ["neighbours", "outside"])
def test_hidden_pixels_change_nothing_that_is_seen(mask: Any) -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[:, 12:], labels[8:12, 8:12] = 7, 3
    image = RANDOM.integers(100, 200, (20, 20)).astype(np.uint16)
    bright = np.where(labels == 7, 60_000, image).astype(np.uint16)
    point, own = np.array([[10.0, 10.0]]), np.array([3])
    options: dict[str, Any] = {"mask": mask, "labels": labels, "owners": own}
    found = crops([bright], point, 16, 16, **options)
    np.testing.assert_array_equal(found, crops([image], point, 16, 16, **options))
    assert (found[0, 0][labels[2:18, 2:18] == 7] == 0).all()
    ground = found[0, 0][labels[2:18, 2:18] == 0]
    assert (ground.max() > 0) == (mask == "neighbours")
    assert found[0, 0][labels[2:18, 2:18] == 3].max() > 0


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_what_has_no_contrast_is_dark(low: float) -> None:
    flat = np.full((20, 20), 7, np.uint8)
    nothing = np.full((20, 20), np.nan, np.float32)
    step = np.zeros((20, 20), np.uint8)
    step[:10] = 255
    found = crops([flat, step], np.array([[10.0, 10.0], [500.0, -300.0]]), 8, 12, value_range=(low, 1))
    assert (found[0, 0] == low).all()
    assert found[0, 1].max() == 1
    assert (found[1] == low).all()
    assert (crops([nothing], np.array([[10.0, 10.0]]), 8, 8, value_range=(low, 1)) == low).all()


def test_pixels_that_are_not_finite_are_dark() -> None:
    image = RANDOM.random((16, 16), np.float32)
    broken = image.copy()
    broken[3, 4], broken[9, 9], broken[2, 2] = np.nan, np.inf, -np.inf
    (found,) = crops([broken], np.array([[8.0, 8.0]]), 16, 16)
    bad = ~np.isfinite(broken)
    assert (found[0][bad] == 0).all()
    seen = image[~bad]
    np.testing.assert_allclose(found[0][~bad], (seen - seen.min()) / np.ptp(seen), atol=1e-6)


def test_no_cells_give_no_crops() -> None:
    assert crops([np.zeros((9, 9), np.uint8)] * 3, np.empty((0, 2)), 8, 16).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"planes": []}, "one shape"),
        ({"planes": [np.zeros((4, 4)), np.zeros((4, 5))]}, "one shape"),
        ({"planes": [np.zeros(4)]}, "one shape"),
        ({"box": 0}, "at least 1"),
        ({"side": 0}, "at least 1"),
        ({"centres": np.array([[np.nan, 0]])}, "finite"),
        ({"centres": np.zeros(2)}, "finite"),
        ({"mask": "all"}, "unknown mask"),
        ({"mask": "outside"}, "needs labels"),
        ({"mask": "outside", "labels": np.zeros((3, 3), np.int32), "owners": np.ones(1)}, "do not fit"),
        ({"mask": "outside", "labels": np.zeros((4, 4), np.int32), "owners": np.ones(2)}, "do not fit"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    arguments = {"planes": [np.zeros((4, 4))], "centres": np.zeros((1, 2)), "box": 4, "side": 4} | change
    with pytest.raises(ValueError, match=reason):
        crops(**arguments)
