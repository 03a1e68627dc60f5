"""What becomes of a z-stack: greatest value, mean, sharpest plane, one plane."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from cellinfer import images
from cellinfer.errors import ImageError, InputError
from cellinfer.images import parse_z, read_channel, sharpness
from cellinfer.plate import Field, FieldKey, ImageRef
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.conftest import draw_cells


def stack_field(folder: Path, planes: Any, **others: Any) -> Field:
    """Write each plane to a file of its own."""
    refs = {}
    for channel, stack in {"DNA": planes, **others}.items():
        paths = [folder / f"{channel}{number}.tif" for number in range(len(stack))]
        for path, plane in zip(paths, stack, strict=True):
            tifffile.imwrite(path, plane, photometric="minisblack", metadata=None)
        refs[channel] = tuple(ImageRef(str(path)) for path in paths)
    return Field(FieldKey("P", "A01", 2, 1), refs, 1)


def blurred(image: NDArray[Any], sigmas: Any) -> list[NDArray[Any]]:
    """Return the image out of focus by as much as each sigma, with the noise of a camera."""
    rng = np.random.default_rng(5)
    planes = [cv2.GaussianBlur(image.astype(np.float64), (0, 0), s) if s else image.astype(float) for s in sigmas]
    return [np.rint(np.maximum(plane + rng.normal(0, 5, plane.shape), 0)).astype(np.uint16) for plane in planes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max", "max"), ("mean", "mean"), (" Focus ", "focus"), ("1", 1), ("03", 3), ("120", 120)],
)
def test_what_a_user_may_say(text: str, expected: Any) -> None:
    assert parse_z(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "median", "²", "٣", "1 2", "max,mean"])
def test_what_a_user_may_not_say(text: str) -> None:
    with pytest.raises(InputError, match="choose max, mean, focus, or the number of one plane, from 1"):
        parse_z(text)


@pytest.mark.parametrize("z", ["Max", "", 0, -1, 1.0, True, None])
def test_what_a_program_may_not_say(tmp_path: Path, z: Any) -> None:
    field = stack_field(tmp_path, np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InputError, match="choose max, mean, focus"):
        read_channel(field, "DNA", z=z)


@pytest.mark.parametrize("z", ["max", "mean", "focus", 1])
def test_one_plane_is_the_same_for_all(tmp_path: Path, z: Any) -> None:
    image = draw_cells()["DNA"]
    read = read_channel(stack_field(tmp_path, [image]), "DNA", z=z)
    np.testing.assert_array_equal(read, image)
    assert read.dtype == image.dtype


def test_the_planes_are_counted_from_one_and_no_other_is_read(tmp_path: Path) -> None:
    planes = np.arange(3 * 20, dtype=np.uint16).reshape(3, 4, 5)
    field = stack_field(tmp_path, planes, GFP=planes[:1])
    for number in (1, 2, 3):
        np.testing.assert_array_equal(read_channel(field, "DNA", z=number), planes[number - 1])
    with pytest.raises(ImageError, match="well A01 site 2 time 1 has 3 planes of channel DNA: there is no z 4"):
        read_channel(field, "DNA", z=4)
    with pytest.raises(ImageError, match="has one plane of channel GFP: there is no z 2"):
        read_channel(field, "GFP", z=2)
    Path(field.images["DNA"][0].path).unlink()
    np.testing.assert_array_equal(read_channel(field, "DNA", z=2), planes[1])
    with pytest.raises(ImageError, match="cannot open"):
        read_channel(field, "DNA", z="mean")


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.uint32]),
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6),
    )
)
def test_means_of_integers_are_exact(stack: NDArray[Any]) -> None:
    mean = images._mean(iter(stack), len(stack))
    count = len(stack)
    exact = [(2 * int(total) + count) // (2 * count) for total in stack.astype(object).sum(axis=0).ravel()]
    assert mean.ravel().tolist() == exact
    assert mean.dtype == stack.dtype


def test_the_mean_of_the_greatest_values_does_not_overflow() -> None:
    for dtype in (np.uint8, np.uint16, np.uint32):
        plane = np.full((1, 2), np.iinfo(dtype).max, dtype)
        for count in (2, 3, 2**16 - 1, 2**16):
            assert images._mean(iter([plane] * count), count).tolist() == plane.tolist()


def test_nan_is_left_out_of_the_mean(tmp_path: Path) -> None:
    planes = np.array([[[np.nan, 1.0, np.nan]], [[2.5, 3.0, np.nan]], [[4.5, 8.0, np.nan]]], np.float32)
    read = read_channel(stack_field(tmp_path, planes), "DNA", z="mean")
    np.testing.assert_array_equal(read, np.array([[3.5, 4.0, np.nan]], np.float32))
    assert read.dtype == np.float32


def test_planes_of_several_types_have_a_mean(tmp_path: Path) -> None:
    planes = [np.array([[255]], np.uint8), np.array([[2**32 - 1]], np.uint32), np.array([[1]], np.uint16)]
    read = read_channel(stack_field(tmp_path, planes), "DNA", z="mean")
    assert (read.dtype, read.tolist()) == (np.uint32, [[round((255 + 2**32) / 3)]])
    signed = [np.array([[-4, 7]], np.int16), np.array([[5, 8]], np.uint16)]
    for pair in (signed, signed[::-1]):
        read = read_channel(stack_field(tmp_path, pair), "DNA", z="mean")
        assert (read.dtype, read.tolist()) == (np.float32, [[0.5, 7.5]])


def test_focus_is_the_sharpest_plane_of_each_channel(tmp_path: Path) -> None:
    cells = draw_cells()
    dna = blurred(cells["DNA"], (4, 2, 0.7, 0, 1.5))
    gfp = blurred(cells["GFP"], (1, 0, 1, 3, 5))
    field = stack_field(tmp_path, dna, GFP=gfp)
    np.testing.assert_array_equal(read_channel(field, "DNA", z="focus"), dna[3])
    np.testing.assert_array_equal(read_channel(field, "GFP", z="focus"), gfp[1])
    values = [sharpness(plane) for plane in dna]
    assert np.argsort(values).tolist()[2:] == [4, 2, 3]


def test_of_equally_sharp_planes_the_first_is_taken(tmp_path: Path) -> None:
    image = draw_cells()["DNA"]
    planes = [image[:, ::-1], image]
    np.testing.assert_array_equal(read_channel(stack_field(tmp_path, planes), "DNA", z="focus"), planes[0])
    flat = np.stack([np.full((5, 6), value, np.uint8) for value in (3, 9)])
    assert read_channel(stack_field(tmp_path, flat), "DNA", z="focus").max() == 3


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.uint32, np.float32]),
        st.tuples(st.integers(1, 75), st.integers(1, 9)),
    )
)
def test_sharpness_is_the_mean_of_squared_differences(plane: NDArray[Any]) -> None:
    wide = plane.astype(np.float64)
    with np.errstate(all="ignore"):
        pairs = np.concatenate([(wide[2:] - wide[:-2]).ravel(), (wide[:, 2:] - wide[:, :-2]).ravel()])
    pairs = pairs[np.isfinite(pairs)]
    expected = float(np.mean(pairs**2)) if pairs.size else 0.0
    assert sharpness(plane) == pytest.approx(expected, rel=1e-9)


def test_never_more_than_two_planes_are_in_memory(tmp_path: Path) -> None:
    planes = [np.full((512, 512), value, np.uint16) for value in range(12)]
    field = stack_field(tmp_path, planes)
    read_channel(field, "DNA", z="focus")
    tracemalloc.start()
    try:
        read_channel(field, "DNA", z="focus")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * planes[0].nbytes  # two planes, and the bands in which they are looked at


@pytest.mark.parametrize("z", ["max", "mean", "focus"])
def test_planes_of_several_sizes_are_refused(tmp_path: Path, z: Any) -> None:
    field = stack_field(tmp_path, [np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8)])
    with pytest.raises(ImageError, match=r"DNA1\.tif is 6 x 4 but .*DNA0\.tif of the same stack is 5 x 4"):
        read_channel(field, "DNA", z=z)


@pytest.mark.realdata
def test_the_sharpest_plane_of_real_stacks_has_the_finest_detail(data_folder: Path) -> None:
    folder = data_folder / "vendor_layouts" / "CV8000"
    stacks: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*_T0001F00*Z*C*.tif")):
        start, _, end = path.name.partition("Z0")
        stacks.setdefault(start + end[1:], []).append(path)
    stack = max(stacks.values(), key=len)
    assert len(stack) > 2
    planes = [tifffile.imread(path) for path in stack]
    field = Field(FieldKey("P", "A01", 1, 1), {"DNA": tuple(ImageRef(str(path)) for path in stack)}, 1)
    laplacian = [
        cv2.Laplacian(cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 1), cv2.CV_32F).var() for plane in planes
    ]
    np.testing.assert_array_equal(read_channel(field, "DNA", z="focus"), planes[int(np.argmax(laplacian))])
