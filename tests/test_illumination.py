"""Illumination: the published formula, what becomes of bad images, and runs that correct by it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cellinfer
import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.filters
import skimage.morphology
import skimage.transform
import tifffile
from cellinfer.cli import app
from cellinfer.engine import RunResult, run
from cellinfer.errors import ImageError, InputError
from cellinfer.illumination import Illumination, compute_illumination
from cellinfer.images import read_channel
from cellinfer.journal import field_name
from cellinfer.pipeline import Settings, read_images
from cellinfer.plate import Field
from cellinfer.readers import read_plate
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.conftest import draw_cells
from tests.embedders import save_embedder

SHAPE = (130, 150)


def vignette(shape: tuple[int, int] = SHAPE, depth: float = 0.5) -> NDArray[np.float64]:
    """Light that falls off towards one corner, 1 at its brightest."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return 1 - depth * ((rows / shape[0] - 0.4) ** 2 + (columns / shape[1] - 0.4) ** 2)


def write_plate(folder: Path, wells: int = 3, shape: tuple[int, int] = SHAPE, dtype: Any = np.uint16) -> Path:
    folder.mkdir()
    for number in range(wells):
        for site in (1, 2):
            field = draw_cells(10 * number + site, shape)
            for channel in ("DNA", "GFP"):
                image = field[channel] * vignette(shape, 0.5 if channel == "DNA" else 0.8)
                image = image / 65535 if np.dtype(dtype).kind == "f" else image
                tifffile.imwrite(folder / f"A{number + 1:02d}_s{site}_{channel}.tif", image.astype(dtype))
    return folder


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three wells, two sites, two channels, each lit unevenly in its own way."""
    return write_plate(tmp_path_factory.mktemp("plates") / "plate")


def images_of(plate: Path, channel: str) -> NDArray[np.float64]:
    return np.stack([tifffile.imread(path) for path in sorted(plate.glob(f"*_{channel}.tif"))]).astype(np.float64)


def by_the_book(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Plain implementation: block means, scikit-image's median, linear interpolation, 2nd percentile."""
    height, width = images.shape[1:]
    mean = images.mean(axis=0)
    small = np.array([[mean[i : i + 4, j : j + 4].mean() for j in range(0, width, 4)] for i in range(0, height, 4)])
    smooth = skimage.filters.median(small, skimage.morphology.disk(12))
    rows, columns = ((np.arange(n) + 0.5) / 4 - 0.5 for n in (height, width))
    along = np.stack([np.interp(columns, np.arange(smooth.shape[1]), row) for row in smooth])
    large = np.stack([np.interp(rows, np.arange(smooth.shape[0]), column) for column in along.T], axis=1)
    floor = np.percentile(large, 2)
    return np.maximum(large, floor) / floor


def as_deep_profiler(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """DeepProfiler's own steps: blurred reduction, whole numbers of 16 bits, scikit-image's resize."""
    shape = images.shape[1:]
    small = sum(
        skimage.transform.resize(
            image, (shape[0] / 4, shape[1] / 4), mode="reflect", anti_aliasing=True, preserve_range=True
        )
        for image in images
    ) / len(images)
    smooth = skimage.filters.median(small.astype(np.uint16), skimage.morphology.disk(12))
    large = skimage.transform.resize(smooth, shape, mode="reflect", anti_aliasing=True, preserve_range=True)
    floor = np.percentile(large, 2)
    return np.maximum(large, floor) / floor


@pytest.mark.parametrize("shape", [(128, 160), (130, 150), (97, 203)])
def test_functions_are_those_of_the_formula(tmp_path: Path, shape: tuple[int, int]) -> None:
    folder = write_plate(tmp_path / "plate", 2, shape)
    found = compute_illumination(folder)
    for channel in ("DNA", "GFP"):
        function = found.function(channel)
        np.testing.assert_allclose(function, by_the_book(images_of(folder, channel)), rtol=1e-6)
        assert function.shape == shape
        assert function.min() == 1


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields of nothing but noisy ground, as the mean of very many fields of cells would be."""
    folder = tmp_path_factory.mktemp("grounds") / "plate"
    folder.mkdir()
    random = np.random.default_rng(0)
    for site in range(1, 9):
        image = 3000 * vignette((240, 320)) + random.normal(0, 60, (240, 320))
        tifffile.imwrite(folder / f"A01_s{site}_DNA.tif", image.astype(np.uint16))
    return folder


def test_functions_are_close_to_deep_profiler_s_own(grounds: Path) -> None:
    found = compute_illumination(grounds).function("DNA")
    assert found.max() > 1.15
    np.testing.assert_allclose(found, as_deep_profiler(images_of(grounds, "DNA")), rtol=0.005)


def test_corrected_images_are_even(grounds: Path) -> None:
    found = compute_illumination(grounds)
    image = tifffile.imread(grounds / "A01_s3_DNA.tif")
    corrected = found.correct({"DNA": image})["DNA"]
    blocks = [cv2.resize(each, (8, 6), interpolation=cv2.INTER_AREA) for each in (image.astype(np.float32), corrected)]
    uneven = [block.std() / block.mean() for block in blocks]
    assert uneven[0] > 0.04
    assert uneven[1] < 0.2 * uneven[0]
    assert (corrected <= image).all()
    np.testing.assert_allclose(corrected, image / found.function("DNA"), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_number_of_readers_changes_nothing(tmp_path: Path, dtype: Any) -> None:
    folder = write_plate(tmp_path / "plate", dtype=dtype)
    digests = {compute_illumination(folder, threads=threads).digest for threads in (1, 2, 5)}
    assert len(digests) == 1


def test_pixels_that_are_not_finite_do_not_count(tmp_path: Path) -> None:
    folder = write_plate(tmp_path / "plate", dtype=np.float32)
    whole = compute_illumination(folder)
    path = folder / "A01_s1_DNA.tif"
    image = tifffile.imread(path)
    image[::9, ::7] = np.nan
    image[4, 4] = np.inf
    tifffile.imwrite(path, image)
    found = compute_illumination(folder)
    np.testing.assert_allclose(found.function("DNA"), whole.function("DNA"), rtol=0.03)
    assert np.isnan(found.correct_channel(image, "DNA")[0, 0])


def test_fields_that_cannot_be_read_are_left_out_and_named(plate: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "plate"
    spoilt.mkdir()
    for path in plate.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    (spoilt / "A01_s1_DNA.tif").write_bytes(b"")
    tifffile.imwrite(spoilt / "A02_s2_GFP.tif", np.zeros((20, 20), np.uint16))
    (spoilt / "A03_s1_GFP.tif").unlink()  # a channel less is no damage
    found = compute_illumination(spoilt)
    assert set(found.of().left_out) == {"plate_A01_s1_t1", "plate_A02_s2_t1"}
    assert "empty" in found.of().left_out["plate_A01_s1_t1"]
    assert len(found.of().used) == 4
    assert any("2 fields were left out" in note and "plate_A01_s1_t1" in note for note in found.notes)
    kept = [number for number, name in enumerate(("A01_s1", "A01_s2", "A02_s1", "A02_s2", "A03_s1", "A03_s2"))
            if name not in ("A01_s1", "A02_s2")]  # fmt: skip
    np.testing.assert_allclose(found.function("DNA"), by_the_book(images_of(plate, "DNA")[kept]), rtol=1e-6)


def test_what_cannot_be_done_is_refused(plate: Path, tmp_path: Path) -> None:
    mixed = write_plate(tmp_path / "mixed", 1)
    for channel in ("DNA", "GFP"):
        tifffile.imwrite(mixed / f"B01_s1_{channel}.tif", np.zeros((60, 70), np.uint16))
    with pytest.raises(InputError, match=r"mixed_A01_s1_t1 has 130 x 150 pixels, mixed_B01_s1_t1 60 x 70"):
        compute_illumination(mixed)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "A01_s1_DNA.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match="No field of the plate broken could be read"):
        compute_illumination(broken)
    found = compute_illumination(plate)
    with pytest.raises(
        InputError, match="no illumination function of channel 'ER' of the plate 'plate': there are DNA, GFP"
    ):
        found.correct({"ER": np.zeros(SHAPE)})
    with pytest.raises(ImageError, match="20 x 30 pixels, and the illumination functions are for 130 x 150"):
        found.correct({"DNA": np.zeros((20, 30))})


def test_few_fields_and_dark_channels_are_said_so(tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    folder.mkdir()
    tifffile.imwrite(folder / "A01_s1_DNA.tif", draw_cells(1, SHAPE)["DNA"])
    tifffile.imwrite(folder / "A01_s1_GFP.tif", np.zeros(SHAPE, np.uint16))
    found = compute_illumination(folder)
    assert any("come from 1 field:" in note for note in found.notes)
    assert any("GFP is dark" in note for note in found.notes)
    assert (found.function("GFP") == 1).all()


def test_saved_functions_come_back(plate: Path, tmp_path: Path) -> None:
    found = compute_illumination(plate, tmp_path / "light")
    back = Illumination.load(tmp_path / "light")
    assert back.digest == found.digest
    assert list(back.plates) == ["plate"]
    assert (back.of().shape, back.of().used, back.z) == (SHAPE, found.of().used, "max")
    np.testing.assert_array_equal(back.function("GFP"), found.function("GFP"))
    facts = json.loads((tmp_path / "light" / "illumination.json").read_text())
    assert facts["sha256"] == found.digest
    assert [(of["plate"], of["fields"], of["channels"]) for of in facts["plates"]] == [("plate", 6, ["DNA", "GFP"])]
    assert cv2.imread(str(tmp_path / "light" / "illumination.png")).std() > 10
    before = (tmp_path / "light" / "illumination.npz").read_bytes()
    compute_illumination(plate, tmp_path / "light")
    assert (tmp_path / "light" / "illumination.npz").read_bytes() == before


def test_damaged_functions_are_refused(plate: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no illumination functions"):
        Illumination.load(tmp_path / "nowhere")
    light = tmp_path / "light"
    compute_illumination(plate, light)
    facts, arrays = ((light / f"illumination.{kind}").read_bytes() for kind in ("json", "npz"))
    for name, content in (
        ("illumination.npz", arrays[: len(arrays) // 2]),
        ("illumination.npz", b""),
        ("illumination.json", facts[:-20]),
        ("illumination.json", b"[]"),
        ("illumination.json", facts.replace(b"130", b"131")),
        ("illumination.json", facts.replace(b'"floors"', b'"floor"')),
    ):
        (light / "illumination.json").write_bytes(facts)
        (light / "illumination.npz").write_bytes(arrays)
        (light / name).write_bytes(content)
        with pytest.raises(InputError, match="make them anew"):
            Illumination.load(light)


# Several plates in one folder


PLATES = r"(?P<plate>[^_]+)_(?P<well>[A-P]\d\d)_s(?P<site>\d+)(?:_t(?P<time>\d+))?_(?P<channel>\w+)\.tif"
LIGHTS = {"east": 1, "west": -1}


def write_plates(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Path:
    """Plates of the same cells; light falls off to the left in one, to the right in the other."""
    folder.mkdir()
    for name, shape in shapes.items():
        light = vignette(shape, 0.9)[:, :: LIGHTS.get(name, 1)]
        for number in range(4):
            field = draw_cells(number, shape)
            for channel in ("DNA", "GFP"):
                path = folder / f"{name}_A{number // 2 + 1:02d}_s{number % 2 + 1}_{channel}.tif"
                tifffile.imwrite(path, (field[channel] * light).astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plates, their fields of one size, lit unevenly from opposite sides."""
    return write_plates(tmp_path_factory.mktemp("several") / "folder", dict.fromkeys(LIGHTS, SHAPE))


def images_of_one(folder: Path, plate: str, channel: str) -> NDArray[np.float64]:
    return np.stack([tifffile.imread(path) for path in sorted(folder.glob(f"{plate}_*_{channel}.tif"))]).astype(float)


@pytest.mark.parametrize("shapes", [{"east": SHAPE, "west": SHAPE}, {"east": (97, 203), "west": SHAPE}])
def test_each_plate_has_functions_of_its_own(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    folder = write_plates(tmp_path / "folder", shapes)
    found = compute_illumination(folder, pattern=PLATES)
    assert list(found.plates) == ["east", "west"]
    for name, shape in shapes.items():
        for channel in ("DNA", "GFP"):
            images = images_of_one(folder, name, channel)
            np.testing.assert_allclose(found.function(channel, name), by_the_book(images), rtol=1e-6)
            corrected = found.correct({channel: images[0]}, name)[channel]
            np.testing.assert_allclose(corrected, images[0] / by_the_book(images), rtol=1e-5)
        assert found.of(name).shape == shape
        assert len(found.of(name).used) == 4
    halves = {name: np.array_split(found.function("DNA", name), 2, axis=1) for name in shapes}
    assert {name: left.mean() > right.mean() for name, (left, right) in halves.items()} == {"east": True, "west": False}


def test_the_common_mean_of_plates_is_neither_s(plates: Path) -> None:
    found = compute_illumination(plates, pattern=PLATES)
    images = {name: images_of_one(plates, name, "DNA") for name in LIGHTS}
    common = by_the_book(np.concatenate(list(images.values())))
    for name in LIGHTS:
        assert abs(found.function("DNA", name) / common - 1).max() > 0.1


def test_it_does_not_matter_in_which_order_or_company_fields_come(plates: Path, tmp_path: Path) -> None:
    whole = read_plate(plates, pattern=PLATES)
    found = compute_illumination(whole)
    fields = [field for pair in zip(whole.fields[:4], whole.fields[4:], strict=True) for field in pair]
    assert [field.key.plate for field in fields[:3]] == ["east", "west", "east"]
    assert compute_illumination(replace(whole, fields=tuple(fields)), threads=3).digest == found.digest
    alone = compute_illumination(replace(whole, fields=whole.fields[4:]))
    assert alone.digest == found.only("west").digest == found.of("west").digest
    assert len({found.digest, found.of("east").digest, alone.digest}) == 3
    exchanged = Illumination(dict(zip(LIGHTS, (found.of("west"), found.of("east")), strict=True)))
    assert exchanged.digest != found.digest


def test_times_of_a_plate_stay_together(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for time_point in (1, 2):
        tifffile.imwrite(folder / f"east_A01_s1_t{time_point}_DNA.tif", draw_cells(time_point, SHAPE)["DNA"])
    found = compute_illumination(folder, pattern=PLATES)
    assert found.of("east").used == ("east_A01_s1_t1", "east_A01_s1_t2")


def test_functions_at_full_size_are_kept_of_few_plates(tmp_path: Path) -> None:
    names = [f"p{number:02d}" for number in range(5)]
    found = compute_illumination(write_plates(tmp_path / "folder", dict.fromkeys(names, (40, 52))), pattern=PLATES)
    for name in names:
        first = found.function("DNA", name)
        assert found.function("DNA", name) is first
        assert found.function("GFP", name).shape == (40, 52)
    kept = sum(function.nbytes for functions in found._kept.values() for function in functions.values())
    assert kept == found.bytes_kept == 2 * 2 * 4 * 40 * 52
    np.testing.assert_array_equal(found.function("DNA", names[0]), found.of(names[0]).function("DNA"))


def test_which_plate_is_meant_must_be_clear(plates: Path) -> None:
    found = compute_illumination(plates, pattern=PLATES)
    images = {"DNA": np.ones(SHAPE, np.float32)}
    with pytest.raises(InputError, match=r"images alone do not say .* of the plates east, west"):
        found.correct(images)
    with pytest.raises(InputError, match=r"no illumination functions of the plate 'north': .* plates east, west"):
        found.correct(images, "north")
    with pytest.raises(InputError, match="no illumination functions of the plate 'north'"):
        found.only("north")
    east = found.only("east")
    for name in (None, "east", "north"):  # those of one plate are for any
        np.testing.assert_array_equal(east.function("DNA", name), found.function("DNA", "east"))


def test_functions_of_several_plates_come_back(plates: Path, tmp_path: Path) -> None:
    light = tmp_path / "light"
    found = compute_illumination(plates, light, pattern=PLATES)
    back = Illumination.load(light)
    assert list(back.plates) == ["east", "west"]
    assert back.digest == found.digest
    for name in LIGHTS:
        np.testing.assert_array_equal(back.function("GFP", name), found.function("GFP", name))
    facts = (light / "illumination.json").read_text()
    for before, after in (('"plate": "west"', '"plate": "north"'), ('"plate": "west"', '"plate": "east"')):
        assert facts.count(before) == 1
        (light / "illumination.json").write_text(facts.replace(before, after))
        with pytest.raises(InputError, match="altered or damaged: make them anew"):
            Illumination.load(light)


def test_functions_saved_when_a_folder_was_one_plate_are_still_read(plate: Path, tmp_path: Path) -> None:
    light = tmp_path / "light"
    found = compute_illumination(plate, light)
    facts = json.loads((light / "illumination.json").read_text())
    (light / "illumination.json").write_text(json.dumps(facts | facts.pop("plates")[0]))
    assert "plates" not in json.loads((light / "illumination.json").read_text())
    back = Illumination.load(light)
    assert (list(back.plates), back.digest) == (["plate"], found.digest)


def test_the_picture_of_many_plates_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellinfer.illumination._DRAWN", 3)
    sizes = []
    for count in (1, 3, 5):
        names = [f"p{number:02d}" for number in range(count)]
        some = compute_illumination(write_plates(tmp_path / f"{count}", {names[0]: (40, 52)}), pattern=PLATES)
        Illumination({name: replace(some.of(), plate=name) for name in names}).save(tmp_path / f"{count}")
        sizes.append(cv2.imread(str(tmp_path / f"{count}" / "illumination.png")).shape)
    assert sizes[1][0] > 2 * sizes[0][0]
    assert sizes[1] == sizes[2]


def spoil(folder: Path, plates: Path, names: str) -> Path:
    """Copy plates; files of one of them are damaged."""
    folder.mkdir()
    for path in plates.iterdir():
        (folder / path.name).write_bytes(b"" if path.match(names) else path.read_bytes())
    return folder


def test_notes_name_the_plates_briefly(plates: Path, tmp_path: Path) -> None:
    folder = spoil(tmp_path / "folder", plates, "east_A01_*")
    for path in folder.glob("west_*_GFP.tif"):
        tifffile.imwrite(path, np.zeros(SHAPE, np.uint16))
    few, dark, left_out = compute_illumination(folder, pattern=PLATES).notes
    assert few.startswith(
        "the illumination functions of the plates east, west come from 2 to 4 fields each: with fewer"
    )
    assert dark == "the mean image of GFP of the plate west is dark: that channel is left as it is"
    assert left_out.startswith(
        "2 fields of the plate east were left out of the illumination functions, such as east_A01"
    )
    names = [f"p{number:02d}" for number in range(30)]
    many = compute_illumination(write_plates(tmp_path / "many", dict.fromkeys(names, (16, 16))), pattern=PLATES)
    assert "of the plates p00, p01, p02, p03, p04, p05 and 24 more come from 4 fields each" in many.notes[0]
    assert max(map(len, many.notes)) < 250


def test_a_field_whose_reading_never_ends_is_left_out(plates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellinfer.patience.STALL", 1.0)
    monkeypatch.setattr("cellinfer.patience.STALL_PER_PLANE", 0.5)
    go_on = threading.Event()

    def hangs(field: Field, channel: str, **options: Any) -> NDArray[Any]:
        if (field.key.plate, field.key.well) == ("west", "A01"):
            go_on.wait(60)
        return read_channel(field, channel, **options)

    monkeypatch.setattr("cellinfer.illumination.read_channel", hangs)
    found = compute_illumination(plates, pattern=PLATES, threads=2)
    go_on.set()
    assert set(found.of("west").left_out) == {"west_A01_s1_t1", "west_A01_s2_t1"}
    assert "reading did not end within 2 s: is the storage there?" in found.notes[-1]
    assert len(found.of("east").used) == 4
    images = images_of_one(plates, "west", "DNA")[2:]
    np.testing.assert_allclose(found.function("DNA", "west"), by_the_book(images), rtol=1e-6)


def test_storage_that_comes_back_is_waited_for(plates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellinfer.patience.PAUSES", (0.0, 0.0))
    failed: set[str] = set()

    def shaky(field: Field, channel: str, **options: Any) -> NDArray[Any]:
        if channel == "GFP" and (name := field_name(field)) not in failed:
            failed.add(name)
            raise ImageError("cannot open it") from OSError(errno.EIO, "the share is away")
        return read_channel(field, channel, **options)

    monkeypatch.setattr("cellinfer.illumination.read_channel", shaky)
    found = compute_illumination(plates, pattern=PLATES)
    assert len(failed) == 8
    assert not any(functions.left_out for functions in found.plates.values())


# Runs


def analyse(plate: Path, out: Path, illumination: Any = "auto", **options: Any) -> RunResult:
    options = {"settings": Settings(diameter=22), "device": "cpu", "precision": "float32", "threads": 2} | options
    return run(plate, out, illumination=illumination, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


@pytest.fixture(scope="module")
def expected(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    assert analyse(plate, out, threads=1).complete
    return contents(out)


def test_a_run_corrects_before_it_measures(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = analyse(plate, out)
    assert any("come from 6 fields" in note for note in result.notes)
    found = Illumination.load(out / "illumination")
    field = {channel: tifffile.imread(plate / f"A02_s1_{channel}.tif") for channel in ("DNA", "GFP")}
    labels = tifffile.imread(out / "labels" / "Nuclei" / "plate_A02_s1_t1.ome.tiff")
    nuclei = pd.read_parquet(out / "Nuclei.parquet").query("Metadata_Well == 'A02' and Metadata_Site == 1")
    corrected = field["GFP"] / found.function("GFP").astype(np.float64)
    means = [corrected[labels == name].mean() for name in nuclei["ObjectNumber"]]
    np.testing.assert_allclose(nuclei["Nuclei_Intensity_MeanIntensity_GFP"], means, rtol=1e-5)
    pipeline = cellinfer.load(
        "nuclei", device="cpu", threads=1, precision="float32", diameter=22, illumination=out / "illumination"
    )
    np.testing.assert_array_equal(pipeline.analyse(field).labels["Nuclei"], labels)
    info = json.loads((out / "run.json").read_text())
    assert info["illumination"] == {
        "plates": {"plate": {"fields": 6, "left_out": 0, "channels": ["DNA", "GFP"]}}, "sha256": found.digest,
    }  # fmt: skip
    assert "correct" in info["seconds"]["by_stage_summed_over_fields"]


def test_what_a_saturated_pixel_is_and_quality_go_by_images_as_recorded(plate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eight"
    folder.mkdir()
    for path in plate.iterdir():
        image = np.clip(tifffile.imread(path) / 8, 0, 255).astype(np.uint8)
        image[:20] = 255
        tifffile.imwrite(folder / path.name, image)
    tables = {}
    for name, illumination in (("plain", None), ("even", "auto")):
        analyse(folder, tmp_path / name, illumination)
        tables[name] = pd.read_parquet(tmp_path / name / "Image.parquet")
    assert (tables["even"]["Image_Measurement_FullScale_DNA"] == 255).all()
    same = [name for name in tables["even"] if "ImageQuality" in name or "MaxIntensity" in name]
    pd.testing.assert_frame_equal(tables["even"][same], tables["plain"][same])
    assert tables["even"]["Image_QC_Flags"].str.contains("saturated").all()
    background = "Image_Intensity_Background_GFP"
    assert (tables["even"][background] < tables["plain"][background]).all()
    cells = pd.read_parquet(tmp_path / "even" / "Cells.parquet")
    texture = [name for name in cells if "Texture_SumAverage" in name]
    assert cells[texture].max(axis=None) > 30  # of 512: no full scale of 65535 that would leave no grey level


def test_again_it_does_nothing_and_without_it_all(plate: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert analyse(plate, out, None).reused == 0
    plain = contents(out)
    assert analyse(plate, out).reused == 0
    assert contents(out) == expected != plain
    again = analyse(plate, out)
    assert again.reused == 6
    assert not [note for note in again.notes if "new or changed" in note]
    assert analyse(plate, out, None).reused == 0
    assert contents(out) == plain


def test_functions_of_a_folder_give_the_same_as_those_of_the_run(
    plate: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    compute_illumination(plate, tmp_path / "light")
    assert analyse(plate, tmp_path / "out", tmp_path / "light").complete
    assert contents(tmp_path / "out") == expected
    assert analyse(plate, tmp_path / "out").reused == 6  # auto takes what lies in the result folder
    other = write_plate(tmp_path / "other", 1)
    result = analyse(other, tmp_path / "other-out", tmp_path / "light")
    assert any("those of the plate 'plate'" in note for note in result.notes)


@pytest.mark.parametrize("options", [{"threads": 3}, {"workers": 2}])
def test_however_a_run_is_spread_its_tables_are_the_same(
    plate: Path, expected: dict[str, bytes], tmp_path: Path, options: dict[str, Any]
) -> None:
    assert analyse(plate, tmp_path / "out", **options).complete
    assert contents(tmp_path / "out") == expected


def test_a_result_folder_in_a_store_keeps_functions_and_embeddings(plate: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    model = save_embedder(tmp_path / "own.onnx")
    analyse(plate, tmp_path / "out", embed=model)
    store = fsspec.filesystem("memory")
    try:
        for reused in (0, 6):
            assert analyse(plate, "memory://light/out", embed=model).reused == reused  # type: ignore[arg-type]
        for name, content in contents(tmp_path / "out").items():
            assert store.cat_file(f"/light/out/{name}") == content
        assert Illumination.load("memory://light/out/illumination").names == "plate"
        analyse(plate, "memory://light/out", None)  # type: ignore[arg-type]
        assert not store.exists("/light/out/Embedding.parquet")
    finally:
        store.rm("/light", recursive=True)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_run_goes_on_to_the_same_bytes(plate: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys; from cellinfer.engine import run; from cellinfer.pipeline import Settings; "
        "run(*sys.argv[1:], illumination='auto', settings=Settings(diameter=22), device='cpu', precision='float32', "
        "threads=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, plate, out], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((out / "fields").glob("*.arrows"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert analyse(plate, out).reused >= 1
    assert contents(out) == expected


def test_images_that_change_later_do_not_change_the_functions(plate: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "plate", tmp_path / "out"
    copy.mkdir()
    for path in plate.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    analyse(copy, out)
    before = Illumination.load(out / "illumination").digest
    tifffile.imwrite(copy / "A02_s1_GFP.tif", draw_cells(99, SHAPE)["GFP"])
    result = analyse(copy, out)
    assert result.reused == 5
    assert any("1 fields are new or changed since the illumination functions" in note for note in result.notes)
    assert Illumination.load(out / "illumination").digest == before
    assert analyse(copy, out, fresh=True).reused == 0
    assert Illumination.load(out / "illumination").digest != before


def test_functions_that_do_not_fit_are_computed_anew_or_refused(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compute_illumination(plate, out / "illumination", channels={"DNA": "DNA"})
    result = analyse(plate, out)
    assert any("not of all these images: they were computed anew" in note for note in result.notes)
    assert set(Illumination.load(out / "illumination").of().smooth) == {"DNA", "GFP"}
    (out / "illumination" / "illumination.npz").write_bytes(b"")
    result = analyse(plate, out)
    assert any("computed anew" in note for note in result.notes)
    assert result.reused == 6  # they are the same
    compute_illumination(plate, tmp_path / "light", channels={"DNA": "DNA"})
    with pytest.raises(InputError, match="no illumination function of channel 'GFP'"):
        analyse(plate, tmp_path / "none", tmp_path / "light")
    assert not (tmp_path / "none").exists()


def test_damaged_fields_cost_only_themselves(plate: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "plate"
    spoilt.mkdir()
    for path in plate.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    (spoilt / "A01_s1_DNA.tif").write_bytes(b"")
    result = analyse(spoilt, tmp_path / "out")
    assert set(result.failed) == {"plate_A01_s1_t1"}
    assert any("1 fields were left out" in note for note in result.notes)
    (spoilt / "A01_s1_DNA.tif").write_bytes((plate / "A01_s1_DNA.tif").read_bytes())
    assert analyse(spoilt, tmp_path / "out").complete


def test_the_command_line(plate: Path, tmp_path: Path) -> None:
    light = tmp_path / "light"
    done = CliRunner().invoke(app, ["illumination", str(plate), "--out", str(light), "--channel", "Nuc=DNA"])
    assert done.exit_code == 0, done.output
    assert "6 fields of plate" in done.output
    assert "Nuc: brightest place 1." in done.output
    done = CliRunner().invoke(
        app,
        ["run", str(plate), "--out", str(tmp_path / "out"), "--channel", "Nuc=DNA", "--illumination", str(light),
         "--diameter", "22", "--device", "cpu", "--threads", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "illumination functions come from 6 fields" in done.output


def test_a_run_corrects_each_plate_by_its_own(plates: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = analyse(plates, out, pattern=PLATES)
    assert any("of the plates east, west come from 4 fields each" in note for note in result.notes)
    found = Illumination.load(out / "illumination")
    table = pd.read_parquet(out / "Nuclei.parquet").query("Metadata_Well == 'A02' and Metadata_Site == 1")
    for name in LIGHTS:
        labels = tifffile.imread(out / "labels" / "Nuclei" / f"{name}_A02_s1_t1.ome.tiff")
        image = images_of_one(plates, name, "GFP")[2]
        nuclei = table[table["Metadata_Plate"] == name]
        assert len(nuclei) == labels.max() > 3
        for of, own in (("east", name == "east"), ("west", name == "west")):
            corrected = image / found.function("GFP", of).astype(np.float64)
            means = [corrected[labels == number].mean() for number in nuclei["ObjectNumber"]]
            same = np.isclose(nuclei["Nuclei_Intensity_MeanIntensity_GFP"], means, rtol=1e-5)
            assert same.all() if own else not same.any()
    info = json.loads((out / "run.json").read_text())
    assert {name: of["fields"] for name, of in info["illumination"]["plates"].items()} == {"east": 4, "west": 4}
    again = analyse(plates, out, pattern=PLATES)
    assert again.reused == 8
    before = contents(out)
    analyse(plates, out, pattern=PLATES, fresh=True, workers=2)
    assert contents(out) == before


def test_a_callback_of_one_plate_takes_its_functions(plates: Path) -> None:
    found = compute_illumination(plates, pattern=PLATES)
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "precision": "float32", "diameter": 22}
    field = read_plate(plates, pattern=PLATES).fields[5]
    images = read_images(field)
    several = cellinfer.load("nuclei", illumination=found, **options)
    with pytest.raises(InputError, match=r"choose with Illumination.only\(PLATE\), of the plates east, west"):
        several.analyse(images)
    alone = cellinfer.load("nuclei", illumination=found.only("west"), **options).analyse(images)
    own = several.analyse(field)
    assert (own.image["Metadata_Plate"], len(own.nuclei)) == ("west", len(alone.nuclei))
    column = "Nuclei_Intensity_MeanIntensity_GFP"
    assert own.nuclei[column].tolist() == alone.nuclei[column].tolist()


def test_given_functions_must_be_of_every_plate_or_of_one_alone(plates: Path, tmp_path: Path) -> None:
    found = compute_illumination(plates, pattern=PLATES)
    result = analyse(plates, tmp_path / "out", found.only("west"), pattern=PLATES)
    assert result.complete
    assert any("functions are those of the plate 'west'" in note for note in result.notes)
    third = spoil(tmp_path / "third", plates, "nothing")
    for path in plates.glob("west_*"):
        (third / path.name.replace("west", "north")).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="no illumination functions of the plate 'north'"):
        analyse(third, tmp_path / "none", found, pattern=PLATES)
    assert not (tmp_path / "none").exists()


def test_a_plate_that_cannot_be_read_costs_only_itself(plates: Path, tmp_path: Path) -> None:
    folder, out = spoil(tmp_path / "folder", plates, "west_*"), tmp_path / "out"
    result = analyse(folder, out, pattern=PLATES)
    assert set(result.failed) == {f"west_{well}_s{site}_t1" for well in ("A01", "A02") for site in (1, 2)}
    assert any(
        "no illumination functions of the plate west, no field of which could be read" in n for n in result.notes
    )
    assert result.cells > 0
    partly = Illumination.load(out / "illumination")
    with pytest.raises(InputError, match="of the plate 'west': none of its fields could be read"):
        partly.correct({"DNA": np.ones(SHAPE)}, "west")  # and not by those of the other plate
    with pytest.raises(InputError, match="of the plate 'west': none of its fields could be read"):
        partly.only("west")
    given = analyse(plates, tmp_path / "given", partly, pattern=PLATES)
    assert set(given.failed) == set(result.failed)
    assert "none of its fields could be read" in given.failed["west_A01_s1_t1"]
    for path in plates.glob("west_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert analyse(folder, out, pattern=PLATES).complete
    assert Illumination.load(out / "illumination").digest == compute_illumination(plates, pattern=PLATES).digest
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        InputError, match="No field of the plate folder could be read for the illumination; east_A01_s1"
    ):
        compute_illumination(folder, pattern=PLATES)


def test_the_command_line_on_several_plates(plates: Path, tmp_path: Path) -> None:
    light = tmp_path / "light"
    done = CliRunner().invoke(app, ["illumination", str(plates), "--out", str(light), "--pattern", PLATES])
    assert done.exit_code == 0, done.output
    assert "8 fields of the plates east, west ->" in done.output
    assert re.search(r"DNA: brightest place 1\.\d\d to 1\.\d\d times", done.output)


def test_ctrl_c_is_answered_with_one_line(plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellinfer.illumination.median_disk", interrupted)
    done = CliRunner().invoke(app, ["illumination", str(plate), "--out", str(tmp_path / "light")])
    assert done.exit_code == 130
    assert done.output.strip().splitlines()[-1] == "stopped; run the same command again"
    assert "Traceback" not in done.output
    assert not (tmp_path / "light").exists()
