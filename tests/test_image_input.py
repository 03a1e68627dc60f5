"""What a user's image may be like: colour, depth, contrast, size; defined, and said where something is assumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import tifffile
from cellinfer.cards import METADATA_KEY
from cellinfer.cli import app
from cellinfer.errors import InputError
from cellinfer.pipeline import Pipeline, Settings
from cellinfer.segment_files import segment
from cellinfer.segmentation import estimate_diameter, normalise, segment_image
from cellinfer.segmentation._planes import prepare
from cellinfer.sessions import Session, open_session
from numpy.typing import NDArray
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tests.conftest import draw_cells
from tests.test_segmentation import found_share
from tests.test_sessions import description, save_identity

Field = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A network of three colours that gives red as foreground and green as distance."""
    card = description()
    card["name"] = "coloured"
    card["inputs"][0]["axes"][1]["channel_names"] = ["red", "green", "blue"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["image", "places"], ["fields"], axis=1)],
        "red and green",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("fields", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [helper.make_tensor("places", TensorProto.INT64, [2], [0, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    path = tmp_path_factory.mktemp("model") / "coloured.onnx"
    onnx.save(model, path)
    return open_session(path, "cpu", 1)


def coloured(image: NDArray[Any], *weights: float) -> NDArray[Any]:
    return np.stack([(image * weight).astype(image.dtype) for weight in weights], axis=-1)


def test_percentiles_are_those_of_all_colours_together() -> None:
    image = np.random.default_rng(0).integers(0, 1000, (40, 50, 3)).astype(np.uint16)
    low, high = np.percentile(image, (1, 99.8))
    expected = np.clip((image - low) / (high - low), -0.5, 4)
    np.testing.assert_allclose(normalise(image, (1, 99.8), (-0.5, 4)), expected, rtol=1e-5, atol=1e-6)
    assert normalise(image, (1, 99.8), (-0.5, 4)).dtype == np.float32


def test_equal_colours_are_grey_and_that_is_said(session: Session, cells_field: Field) -> None:
    grey = segment_image(cells_field["DNA"], session, diameter=22)
    same = segment_image(coloured(cells_field["DNA"], 1, 1, 1), session, diameter=22)
    np.testing.assert_array_equal(same.labels, grey.labels)
    assert grey.notes == ()
    assert same.notes == ("the image's three colours are equal: one was taken",)


def test_colour_in_a_grey_model_needs_a_channel(session: Session, cells_field: Field) -> None:
    image = np.stack([cells_field["GFP"], cells_field["DNA"], cells_field["GFP"] * 0], axis=-1)
    with pytest.raises(InputError, match=r"colour model.*--channel red, green, blue or mean"):
        segment_image(image, session)
    green = segment_image(image, session, diameter=22, channel="green")
    np.testing.assert_array_equal(green.labels, segment_image(cells_field["DNA"], session, diameter=22).labels)
    mean = segment_image(image, session, diameter=22, channel="mean")
    np.testing.assert_array_equal(mean.labels, segment_image(image.mean(axis=-1), session, diameter=22).labels)
    assert "grey" in segment_image(cells_field["DNA"], session, diameter=22, channel="red").notes[0]
    with pytest.raises(InputError, match="choose red, green, blue, mean"):
        segment_image(image, session, channel="cyan")  # type: ignore[arg-type]


def test_a_colour_model_sees_colour_and_grey_three_times(colour_model: Session, cells_field: Field) -> None:
    bright = np.minimum(cells_field["DNA"], 1200)
    image = coloured(bright, 1, 0.8, 0.25)
    planes = prepare(image, colour_model.card)
    assert planes.notes == ()
    card = colour_model.card
    np.testing.assert_array_equal(planes.pixels, np.moveaxis(normalise(image, card.percentiles, card.clip), -1, 0))
    found = segment_image(image, colour_model, diameter=28, tta="adaptive")
    assert found_share(cells_field["truth"], found.labels, 0.5) >= 0.9
    grey = segment_image(bright, colour_model, diameter=28)
    assert "each colour is the grey image" in grey.notes[0]
    assert found_share(cells_field["truth"], grey.labels, 0.5) >= 0.9
    with pytest.raises(InputError, match="leave the channel"):
        segment_image(image, colour_model, channel="red")


def test_transparency_is_left_out_and_that_is_said(colour_model: Session, session: Session, cells_field: Field) -> None:
    opaque = coloured(cells_field["DNA"], 1, 0.5, 0.25)
    image = np.concatenate([opaque, np.full((*opaque.shape[:2], 1), 65535, np.uint16)], axis=-1)
    found = segment_image(image, colour_model, diameter=28)
    np.testing.assert_array_equal(found.labels, segment_image(opaque, colour_model, diameter=28).labels)
    assert found.notes == ("the image's transparency was left out",)
    grey = np.concatenate([coloured(cells_field["DNA"], 1, 1, 1), image[..., 3:]], axis=-1)
    assert len(segment_image(grey, session, diameter=22).notes) == 2


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30, 2), (20,), (0, 5), (4, 4, 0), (2, 2, 3, 3)])
def test_other_shapes_are_refused(session: Session, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="not an array of shape"):
        segment_image(np.zeros(shape, np.uint8), session)


def test_pixels_that_are_no_real_numbers_are_refused(session: Session) -> None:
    with pytest.raises(InputError, match="complex64"):
        segment_image(np.zeros((5, 5), np.complex64), session)


def test_the_same_picture_at_any_depth_gives_the_same_objects(session: Session, cells_field: Field) -> None:
    twelve = (cells_field["DNA"] / cells_field["DNA"].max() * 4095).astype(np.uint16)
    exact = [twelve, twelve << 4, twelve.astype(np.float32), twelve / 4095, twelve.astype(np.int32)]
    first = segment_image(twelve, session, diameter=22).labels
    assert found_share(cells_field["truth"], first) >= 0.95
    for other in exact[1:]:
        labels = segment_image(other, session, diameter=22).labels
        assert found_share(first, labels, 0.98) == 1.0
    eight = (twelve >> 4).astype(np.uint8)
    assert found_share(first, segment_image(eight, session, diameter=22).labels, 0.9) == 1.0


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8", "f2", ">f2", np.longdouble])
def test_numbers_that_kernels_do_not_know_are_the_same_picture(session: Session, dtype: Any) -> None:
    field = draw_cells(4, (120, 150))
    grey = (field["DNA"] // 4 * 2).astype(np.uint16)  # even and below 2048: exact in half precision
    assert grey.max() < 2048
    images = {"DNA": grey, "GFP": field["GFP"] // 4 * 2}
    odd = {name: image.astype(dtype) for name, image in images.items()}
    pipeline = Pipeline(session, Settings(diameter=22.0))
    plain, found = pipeline.analyse(images), pipeline.analyse(odd)
    np.testing.assert_array_equal(found.labels["Cells"], plain.labels["Cells"])
    for name, table in plain.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table, check_dtype=False, rtol=1e-5)
    dark = segment_image((2048 - grey).astype(dtype), session, diameter=22, invert=True)
    assert found_share(segment_image(grey, session, diameter=22).labels, dark.labels, 0.98) == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_dark_nuclei_are_noticed_and_found_when_inverted(session: Session, cells_field: Field, dtype: type) -> None:
    image = (cells_field["DNA"] / cells_field["DNA"].max() * 250).astype(dtype)
    dark = (255 - image).astype(dtype)
    as_is = segment_image(dark, session, diameter=22)
    assert "--invert" in as_is.notes[0]
    turned = segment_image(dark, session, diameter=22, invert=True)
    assert turned.notes == ()
    assert found_share(segment_image(image, session, diameter=22).labels, turned.labels, 0.98) == 1.0
    assert estimate_diameter(dark, session, invert=True) == pytest.approx(estimate_diameter(image, session), rel=0.02)


def test_not_finite_pixels_of_an_inverted_image_are_background(session: Session, cells_field: Field) -> None:
    dark = 5000 - cells_field["DNA"].astype(np.float32)
    dark[:30] = np.nan
    assert not segment_image(dark, session, diameter=22, invert=True).labels[:28].any()


@pytest.mark.realdata
def test_fluorescence_is_hardly_ever_called_inverted_and_stained_tissue_mostly(
    session: Session, data_folder: Path
) -> None:
    import csv

    with (data_folder / "dsb2018" / "index.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))

    def share(modality: str) -> float:
        names = [row["image_id"] for row in rows if row["modality"] == modality][:60]
        images = [cv2.imread(str(data_folder / "dsb2018" / "images" / f"{name}.png"), 0) for name in names]
        return float(np.mean([bool(prepare(image, session.card).notes) for image in images]))

    assert share("fluorescence") <= 0.05
    assert share("tissue") >= 0.6


def test_bright_nuclei_in_a_model_for_stained_tissue_are_noticed(cells_field: Field) -> None:
    card = open_session("nuclei-tissue", "cpu", 1).card
    (_, looks) = prepare(cells_field["DNA"], card).notes  # the first says that grey is repeated
    assert "choose a model for fluorescence" in looks
    assert len(prepare(cells_field["DNA"], card, invert=True).notes) == 1


def test_not_finite_pixels_are_bright_ground_in_a_model_for_stained_tissue(cells_field: Field) -> None:
    image = coloured(cells_field["DNA"].max() - cells_field["DNA"].astype(np.float32), 1.0, 1.0, 1.0)
    image[20:40, 20:40] = np.nan
    pixels = prepare(image, open_session("nuclei-tissue", "cpu", 1).card).pixels
    assert (pixels[:, 20:40, 20:40] == 1).all()
    assert np.isfinite(pixels).all()


def test_files_in_colour_their_notes_and_their_uncertainty(cells_field: Field, tmp_path: Path) -> None:
    image = np.stack([cells_field["GFP"], cells_field["DNA"], cells_field["GFP"]], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", 5000 - cells_field["DNA"])
    result = segment([tmp_path / "a.tif"], tmp_path / "out", device="cpu")
    assert "colour" in result.failed[str(tmp_path / "a.tif")]
    options = ["--device", "cpu", "--diameter", "22", "--channel", "green", "--tta", "adaptive", "--uncertainty"]
    files = [str(tmp_path / name) for name in ("a.tif", "b.tif")]
    ended = CliRunner().invoke(app, ["segment", *files, "--out", str(tmp_path / "out"), *options])
    assert ended.exit_code == 0
    assert "--invert" in ended.output
    doubt = tifffile.imread(tmp_path / "out" / "a_uncertainty.tif")
    assert doubt.dtype == np.float32
    assert doubt.shape == cells_field["DNA"].shape
    assert 0 <= doubt.min() <= doubt.max() <= 1
    note = json.loads((tmp_path / "out" / "a_labels.json").read_text(encoding="utf-8"))
    assert note["configuration"]["channel"] == "green"
    assert len(json.loads((tmp_path / "out" / "b_labels.json").read_text(encoding="utf-8"))["notes"]) == 2


def test_uncertainty_of_an_earlier_call_does_not_stay_beside_other_labels(cells_field: Field, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", cells_field["DNA"])
    out = tmp_path / "out"
    segment([tmp_path / "a.tif"], out, device="cpu", diameter=22, tta="flips", uncertainty=True)
    assert (out / "a_uncertainty.tif").is_file()
    (out / "b_uncertainty.tif").write_bytes(b"not ours: there are no labels beside it")
    segment([tmp_path / "a.tif", tmp_path / "b.tif"], out, device="cpu", diameter=22)
    assert not (out / "a_uncertainty.tif").exists()
    assert (out / "b_uncertainty.tif").is_file()


def test_uncertainty_of_one_view_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tta"):
        segment([tmp_path], tmp_path / "out", uncertainty=True)


def test_options_that_no_image_could_be_segmented_with_are_refused_before_any(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="positive number"):
        segment([tmp_path / "not even looked at.tif"], tmp_path / "out", diameter=-1)
    polygons = description()
    polygons["config"]["cellinfer"]["decoder"] = {"kind": "star-convex", "options": {}}
    model = save_identity(tmp_path / "polygons.onnx", polygons)
    (tmp_path / "broken.tif").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be averaged"):  # not one failure per image
        segment([tmp_path / "broken.tif"], tmp_path / "out", model=model, device="cpu", tta="flips", merge="fields")
    assert not (tmp_path / "out").exists()


def test_models_of_several_channels_are_refused(session: Session) -> None:
    several = replace(session, card=replace(session.card, channels=("DNA", "Actin")))
    with pytest.raises(InputError, match="DNA, Actin"):
        segment_image(draw_cells(1, (40, 40))["DNA"], several)
