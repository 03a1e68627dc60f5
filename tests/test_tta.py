"""Test-time augmentation of any model: agreement, uncertainty, and views only where they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from cellinfer.engine import run
from cellinfer.errors import InputError
from cellinfer.pipeline import Settings
from cellinfer.segmentation import segment_image
from cellinfer.segmentation._adaptive import FIRST, OTHERS, windows_around
from cellinfer.segmentation._network import Network
from cellinfer.sessions import Session, open_session
from numpy.typing import NDArray

from tests.conftest import draw_cells
from tests.test_segmentation import found_share

Field = dict[str, NDArray[Any]]
ALL = [("flips", "instances"), ("flips", "fields"), ("d4", "instances"), ("d4", "fields"), ("adaptive", "instances")]


@pytest.fixture(scope="module")
def dubious() -> Field:
    """Clear nuclei on the left; on the right crowded, faint and noisy ones that views dispute."""
    field = draw_cells(4, (256, 420))
    random = np.random.default_rng(1)
    image = field["DNA"].astype(np.float64)
    rows, columns = np.mgrid[:256, :420]
    for _ in range(90):
        y, x = random.uniform(20, 236), random.uniform(320, 405)
        image += random.uniform(100, 900) * np.exp(-(((rows - y) / 9) ** 2 + ((columns - x) / 6) ** 2))
    image[:, 300:] += random.normal(0, 250, (256, 120))
    return field | {"DNA": np.clip(image, 0, 65535).astype(np.uint16)}


@pytest.mark.parametrize(("tta", "merge"), ALL)
def test_every_object_says_how_far_views_agree(session: Session, dubious: Field, tta: Any, merge: Any) -> None:
    found = segment_image(dubious["DNA"], session, diameter=22, tta=tta, merge=merge)
    assert found.votes is not None
    assert found.views is not None
    assert found.mean_iou is not None
    assert found.entropy is not None
    count = found.labels.max()
    np.testing.assert_array_equal(np.unique(found.labels[found.labels > 0]), np.arange(1, count + 1))
    for column in (found.votes, found.views, found.mean_iou, found.entropy):
        assert column.shape == (count,)
    asked = {"flips": {6}, "d4": {8}, "adaptive": {len(FIRST), len(FIRST) + len(OTHERS)}}[tta]
    assert set(found.views.tolist()) == asked
    if merge == "instances":
        assert (found.votes > 0.5).all()
    assert (found.votes <= 1).all()
    sure = found.votes[np.unique(found.labels[:, :260])[1:] - 1]
    assert np.median(sure) == 1.0


@pytest.mark.parametrize(("tta", "merge"), ALL)
def test_uncertainty_lies_where_the_picture_is_dubious(session: Session, dubious: Field, tta: Any, merge: Any) -> None:
    found = segment_image(dubious["DNA"], session, diameter=22, tta=tta, merge=merge)
    assert found.uncertainty is not None
    assert found.uncertainty.shape == found.labels.shape
    assert found.uncertainty.dtype == np.float32
    assert found.uncertainty.min() == 0
    assert 0.5 < found.uncertainty.max() <= 1
    assert found.uncertainty[:, 310:].mean() > 3 * found.uncertainty[:, :260].mean()


def test_without_views_there_is_no_agreement(session: Session, cells_field: Field) -> None:
    found = segment_image(cells_field["DNA"], session, diameter=22)
    assert (found.votes, found.views, found.mean_iou, found.entropy, found.uncertainty) == (None,) * 5


def test_adaptive_views_look_only_where_the_first_two_differ(
    session: Session, dubious: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[int, ...]] = []
    fields = Network._fields

    def counted(self: Network, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        looks.append(pixels.shape[1:])
        return fields(self, pixels)

    monkeypatch.setattr(Network, "_fields", counted)
    image = np.concatenate([draw_cells(8, (256, 600))["DNA"], dubious["DNA"]], axis=1)
    found = segment_image(image, session, diameter=22, tta="adaptive")
    assert found.views is not None
    assert looks[: len(FIRST)] == [image.shape] * len(FIRST)
    assert 0 < sum(height * width for height, width in looks[len(FIRST) :]) < 0.6 * len(OTHERS) * image.size
    asked_more = np.isin(found.labels, 1 + np.flatnonzero(found.views > len(FIRST)))
    assert asked_more[:, 860:].any()


def test_a_model_that_does_not_care_how_the_image_lies_is_asked_twice_and_believed(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold commutes with every view: the network's own answer must come out, object for object."""

    def symmetric(self: Network, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat((pixels > 0.4).astype(np.float32), 2, axis=0)

    monkeypatch.setattr(Network, "_fields", symmetric)
    image = draw_cells(6, (200, 260))["DNA"]
    plain = segment_image(image, session, diameter=22)
    for tta, merge in ALL:
        found = segment_image(image, session, diameter=22, tta=tta, merge=merge)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.labels > 0, plain.labels > 0)
        assert found_share(plain.labels, found.labels, 0.99) == 1.0
        assert found.votes is not None
        assert (found.votes == 1).all()
        assert found.uncertainty is not None
        assert not found.uncertainty.any()


@pytest.mark.parametrize(("tta", "merge"), ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (5, 7)])
def test_tiny_images_are_no_error(session: Session, shape: tuple[int, int], tta: Any, merge: Any) -> None:
    image = np.random.default_rng(1).integers(0, 1000, shape).astype(np.uint16)
    found = segment_image(image, session, diameter=22, tta=tta, merge=merge)
    assert found.labels.shape == shape
    assert found.uncertainty is not None
    assert found.uncertainty.shape == shape


def test_an_empty_image_has_the_same_columns(session: Session) -> None:
    for tta, merge in ALL:
        found = segment_image(np.zeros((40, 50), np.uint8), session, tta=tta, merge=merge)  # type: ignore[arg-type]
        assert found.votes is not None
        assert found.views is not None
        assert found.votes.shape == found.views.shape == (0,)
        assert found.uncertainty is not None
        assert not found.uncertainty.any()


def test_windows_cover_what_is_in_dispute_and_do_not_overlap(session: Session) -> None:
    disputed = np.zeros((900, 1100), np.bool_)
    random = np.random.default_rng(2)
    for y, x in random.integers(0, (860, 1060), (9, 2)):
        disputed[y : y + 12, x : x + 15] = True
    windows = windows_around(disputed, Network.for_objects(28.0, session))
    times = np.zeros(disputed.shape, int)
    for window in windows:
        times[window.slices] += 1
    assert (times[disputed] == 1).all()
    assert times.max() == 1
    mirrored = windows_around(disputed[::-1].copy(), Network.for_objects(28.0, session))
    assert {(900 - w.bottom, 900 - w.top, w.left, w.right) for w in mirrored} == set(windows)
    assert windows_around(np.zeros((50, 60), np.bool_), Network.for_objects(28.0, session)) == []


def test_a_run_writes_agreement_uncertainty_and_what_it_took_for_granted(dubious: Field, tmp_path: Path) -> None:
    plate = tmp_path / "plate"
    plate.mkdir()
    for well, image in (
        ("A01", dubious["DNA"]),
        ("A02", np.zeros_like(dubious["DNA"])),
        ("A03", 9000 - dubious["DNA"]),
    ):
        tifffile.imwrite(plate / f"{well}_s1_DNA.tif", image)
    settings = Settings(diameter=22, tta="adaptive")
    result = run(plate, tmp_path / "out", settings=settings, device="cpu", precision="float32", threads=1)
    assert result.complete
    assert any("1 of 3 fields" in note and "--invert" in note for note in result.notes)
    nuclei = pd.read_parquet(tmp_path / "out" / "Nuclei.parquet")
    assert nuclei["Nuclei_TTA_VoteFraction"].between(0.5, 1, inclusive="right").all()
    assert set(nuclei["Nuclei_TTA_Views"]) == {2, 4}
    doubt = [tifffile.imread(path) for path in (tmp_path / "out" / "labels" / "Uncertainty").iterdir()]
    assert len(doubt) == 3
    assert not all(image.any() for image in doubt)
    expected = segment_image(dubious["DNA"], open_session("nuclei", "cpu", 1), diameter=22, tta="adaptive").uncertainty
    assert any(np.array_equal(image, expected) for image in doubt)
    again = run(plate, tmp_path / "out", settings=settings, device="cpu", threads=1)
    assert again.reused == 3
    assert again.notes == result.notes
    mine = tmp_path / "out" / "labels" / "Corrected" / "plate_A01_s1_t1.ome.tiff"
    mine.parent.mkdir()
    mine.write_bytes(b"by hand")
    run(plate, tmp_path / "out", settings=Settings(diameter=22), device="cpu", precision="float32", threads=1)
    assert {path.name for path in (tmp_path / "out" / "labels").iterdir()} == {"Nuclei", "Cells", "Corrected"}
    assert mine.is_file()


def test_adaptive_views_are_merged_by_instances_only(session: Session) -> None:
    with pytest.raises(InputError, match="by instances"):
        segment_image(np.zeros((9, 9), np.uint8), session, tta="adaptive", merge="fields")
