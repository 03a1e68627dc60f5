"""One field in, one result out: keys, schemas, channels, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from cellinfer.cells import background_level
from cellinfer.errors import ImageError, InputError
from cellinfer.pipeline import OBJECTS, Pipeline, Settings, load, plate_diameter, resolve_channels
from cellinfer.plate import Field, FieldKey, ImageRef
from cellinfer.sessions import Session
from numpy.typing import NDArray

Images = dict[str, NDArray[Any]]
RATIO = "Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"


@pytest.fixture
def images(cells_field: Images) -> Images:
    return {name: cells_field[name] for name in ("DNA", "GFP")}


@pytest.fixture
def pipeline(session: Session) -> Pipeline:
    return Pipeline(session, Settings(diameter=22))


def saved(images: Images, folder: Path, well: str = "B03") -> Field:
    refs = {}
    for name, image in images.items():
        tifffile.imwrite(folder / f"{well}_{name}.tif", image)
        refs[name] = (ImageRef(str(folder / f"{well}_{name}.tif")),)
    return Field(FieldKey("P1", well, 2, 1), refs, number=7)


def test_the_three_tables_speak_of_the_same_cells(pipeline: Pipeline, images: Images) -> None:
    result = pipeline.analyse(images)
    count = len(result.cells)
    assert count > 20
    for name in OBJECTS:
        assert result.tables[name]["ObjectNumber"].tolist() == list(range(1, count + 1))
        assert result.labels[name].max() == count
        assert result.tables[name].filter(regex="_GFP$").shape[1] > 0
    assert (result.cells["Cells_AreaShape_Area"] >= result.nuclei["Nuclei_AreaShape_Area"]).all()
    sums = result.nuclei["Nuclei_AreaShape_Area"] + result.cytoplasm["Cytoplasm_AreaShape_Area"]
    np.testing.assert_allclose(sums, result.cells["Cells_AreaShape_Area"])
    assert result.image["Image_Count_Cells"] == count
    assert result.cells[RATIO].median() == pytest.approx(1.0, abs=0.25)
    assert set(result.seconds) == {"read", "segment", "cells", "measure"}
    assert result.flags == ()


def test_a_plate_field_carries_its_key(pipeline: Pipeline, images: Images, tmp_path: Path) -> None:
    result = pipeline.analyse(saved(images, tmp_path))
    for table in result.tables.values():
        assert table["Metadata_Plate"].unique().tolist() == ["P1"]
        assert table["Metadata_Well"].unique().tolist() == ["B03"]
        assert table["Metadata_Site"].unique().tolist() == [2]
        assert table["ImageNumber"].unique().tolist() == [7]
    assert result.image["Image_FileName_DNA"] == "B03_DNA.tif"
    plain = pipeline.analyse(images)
    pd.testing.assert_frame_equal(
        result.cells.drop(columns=[c for c in result.cells if c not in plain.cells]), plain.cells
    )


def test_analysing_twice_gives_the_same_bits(pipeline: Pipeline, images: Images) -> None:
    first, second = pipeline.analyse(images), pipeline.analyse(images)
    for name in OBJECTS:
        pd.testing.assert_frame_equal(first.tables[name], second.tables[name], check_exact=True)


@pytest.mark.parametrize("plane", [np.zeros((64, 80), np.uint16), np.full((64, 80), 255, np.uint8)])
def test_an_empty_field_has_the_same_columns(
    pipeline: Pipeline, images: Images, plane: NDArray[Any], tmp_path: Path
) -> None:
    full = pipeline.analyse(saved(images, tmp_path))
    empty = pipeline.analyse(saved({"DNA": plane, "GFP": plane}, tmp_path, "C04"))
    for name in OBJECTS:
        assert len(empty.tables[name]) == 0
        assert empty.tables[name].dtypes.to_dict() == full.tables[name].dtypes.to_dict()
    assert list(empty.image) == list(full.image)
    assert empty.image["Image_Count_Nuclei"] == 0
    assert any("constant" in flag for flag in empty.flags)


def test_one_pixel_nuclei_are_measured(session: Session, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(images["DNA"].shape, np.int32)
    labels[50, 60], labels[100, 200:202] = 1, 2
    from cellinfer import pipeline as module
    from cellinfer.segmentation import Segmentation

    monkeypatch.setattr(module, "segment_image", lambda *_, **__: Segmentation(labels, 2.0, 1.0))
    result = Pipeline(session, Settings(cell_distance=0)).analyse(images)
    assert result.nuclei["Nuclei_AreaShape_Area"].tolist() == [1, 2]
    # Cells that are all nucleus keep their row in the cytoplasm table.
    assert result.cytoplasm["ObjectNumber"].tolist() == [1, 2]
    assert result.cells[RATIO].isna().all()


def test_one_channel_is_enough(session: Session, images: Images) -> None:
    result = Pipeline(session).analyse(images["DNA"])
    assert len(result.cells) > 20
    reach = np.sqrt(result.cells["Cells_AreaShape_Area"] / np.pi) - np.sqrt(
        result.nuclei["Nuclei_AreaShape_Area"] / np.pi
    )
    assert reach.median() == pytest.approx(0.25 * 22, rel=0.3)


def test_votes_stand_in_the_table(session: Session, images: Images) -> None:
    result = Pipeline(session, Settings(diameter=22, tta="flips")).analyse(images)
    assert result.nuclei["Nuclei_TTA_VoteFraction"].between(0.5, 1, inclusive="right").all()
    assert result.nuclei["Nuclei_TTA_MeanIoU"].between(0.5, 1).all()


def test_the_settings_name_their_families(session: Session, images: Images) -> None:
    settings = Settings(diameter=22, families=("AreaShape", "Intensity"))
    cells = Pipeline(session, settings).analyse(images).cells
    assert not [column for column in cells if "_Location_" in column]


@pytest.mark.parametrize(
    ("channels", "nuclei", "cells"),
    [
        (("w1",), "w1", None),
        (("GFP", "DAPI"), "DAPI", "GFP"),
        (("Hoechst 33342", "FITC"), "Hoechst 33342", "FITC"),
    ],
)
def test_channels_are_known_by_name(channels: tuple[str, ...], nuclei: str, cells: str | None) -> None:
    settings = resolve_channels(Settings(), channels)
    assert (settings.nuclei, settings.cells) == (nuclei, cells)


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        (Settings(), ("1", "2"), "--nuclei"),
        (Settings(nuclei="DAPI"), ("1", "2"), "'DAPI'.*'1', '2'"),
        (Settings(cells="RFP"), ("DNA", "GFP"), "'RFP'.*'DNA', 'GFP'"),
        (Settings(), ("DNA", "GFP", "RFP"), "--cells"),
    ],
)
def test_channels_that_cannot_be_told_are_asked_for(
    settings: Settings, channels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_channels(settings, channels)


def test_planes_of_different_size_are_refused(pipeline: Pipeline, images: Images) -> None:
    with pytest.raises(InputError, match="differ in size"):
        pipeline.analyse({"DNA": images["DNA"], "GFP": images["GFP"][:-1]})


@pytest.mark.parametrize(
    "bad", [{}, {"DNA": np.zeros((4, 4, 3))}, {"DNA": np.zeros((0, 4))}, {"DNA": [[1]]}, {0: np.eye(9)}, "a.tif", None]
)
def test_input_that_is_no_field_is_refused(pipeline: Pipeline, bad: Any) -> None:
    with pytest.raises(InputError):
        pipeline.analyse(bad)


def test_a_file_that_is_gone_names_itself(pipeline: Pipeline, images: Images, tmp_path: Path) -> None:
    field = saved(images, tmp_path)
    (tmp_path / "B03_DNA.tif").unlink()
    with pytest.raises(ImageError, match="B03_DNA"):
        pipeline.analyse(field)


def test_saturation_and_broken_pixels_are_flagged(pipeline: Pipeline, images: Images) -> None:
    gfp = images["GFP"].astype(np.float32)
    gfp[0, 0] = np.nan
    dna = images["DNA"].copy()
    dna[:20] = 65535
    flags = pipeline.analyse({"DNA": dna, "GFP": gfp}).flags
    assert any("DNA" in flag and "saturated" in flag for flag in flags)
    assert any("GFP" in flag and "not finite" in flag for flag in flags)


def test_a_plate_has_one_diameter(session: Session, images: Images, tmp_path: Path) -> None:
    fields = [saved(images, tmp_path, well) for well in ("A01", "A02", "A03")]
    (tmp_path / "A02_DNA.tif").write_bytes(b"")
    pipeline = Pipeline(session, Settings(nuclei="DNA"))
    assert plate_diameter(pipeline, fields) == pytest.approx(22, rel=0.2)
    assert plate_diameter(pipeline, []) is None
    assert plate_diameter(pipeline, fields[1:2]) is None


@pytest.mark.parametrize(
    "options",
    [
        {"diameter": 0},
        {"diameter": float("nan")},
        {"tta": "foo"},
        {"merge": "foo"},
        {"merge": "fields"},
        {"edge": "foo"},
        {"cell_distance": -1},
        {"cell_distance": "3"},
        {"diameter": "30"},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(InputError, match=r"foo|number|--tta"):
        Settings(**options)


def test_a_setting_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'diamter'.*diameter"):
        load("nuclei", diamter=3)


def test_a_bare_array_is_the_nuclear_channel(session: Session, images: Images) -> None:
    found = Pipeline(session, Settings(nuclei="DAPI")).analyse(images["DNA"])
    assert "Nuclei_Intensity_MeanIntensity_DAPI" in found.nuclei


def test_the_background_is_that_of_the_dark_part() -> None:
    plane = np.random.default_rng(0).normal(200, 20, (300, 300))
    plane[100:200, 100:250] += 800
    assert background_level(plane) == pytest.approx(200, abs=10)
    plane[:40] = np.nan
    assert background_level(plane) == pytest.approx(200, abs=10)
    assert np.isnan(background_level(np.full((9, 9), np.nan)))


def test_a_merge_that_the_model_does_not_allow_is_refused_at_once(session: Session) -> None:
    polygons = replace(session, card=replace(session.card, decoder="star-convex"))
    with pytest.raises(InputError, match="cannot be averaged"):
        Pipeline(polygons, Settings(tta="flips", merge="fields"))


@pytest.mark.parametrize("z", ["max", "mean", "focus", 2])
def test_a_stack_is_analysed_as_one_plane(session: Session, images: Images, tmp_path: Path, z: Any) -> None:
    refs = {}
    for name, image in images.items():
        blurred = cv2.GaussianBlur(image, (0, 0), 4)
        for number, plane in enumerate((blurred, image, blurred)):
            tifffile.imwrite(tmp_path / f"{name}_{number}.tif", plane)
        refs[name] = tuple(ImageRef(str(tmp_path / f"{name}_{number}.tif")) for number in range(3))
    field = Field(FieldKey("P1", "A01", 1, 1), refs, 1)
    found = Pipeline(session, Settings(diameter=22, z=z)).analyse(field)
    sharp = Pipeline(session, Settings(diameter=22)).analyse(images)
    column = "Nuclei_Intensity_StdIntensity_DNA"
    if z in ("focus", 2):
        assert found.nuclei[column].tolist() == sharp.nuclei[column].tolist()
    else:
        assert len(found.nuclei) == len(sharp.nuclei)
        assert found.nuclei[column].median() != sharp.nuclei[column].median()


def test_a_choice_of_planes_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="max"):
        Settings(z="sum")  # type: ignore[arg-type]
