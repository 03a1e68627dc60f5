"""`cellinfer inspect`: what is in a folder, from names and a few headers."""

from __future__ import annotations

import json
import re
from itertools import product

import numpy as np
import pytest
import tifffile
import typer
from cellinfer.cli.inspect import inspect as command
from cellinfer.errors import InputError
from cellinfer.inspection import SPREAD, PixelKind, WellCount, inspect
from cellinfer.wells import well_name
from typer.testing import CliRunner


def save(folder, name, shape=(8, 9), dtype=np.uint16):
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / name, np.ones(shape, dtype), metadata=None)


@pytest.fixture
def plate(tmp_path):
    """Two wells, two sites, two channels of different types; one plane is missing."""
    for well, site in product(("A01", "B12"), (1, 2)):
        save(tmp_path / "p", f"{well}_s{site}_w1.tif")
        if (well, site) != ("B12", 2):
            save(tmp_path / "p", f"{well}_s{site}_w2.tif", (4, 5), np.uint8)
    (tmp_path / "p" / "notes [bold]x.txt").touch()
    return tmp_path / "p"


def run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_kinds_wells_and_gaps(plate):
    found = inspect(plate)
    assert found.kinds == (PixelKind("1", 8, 9, "uint16", 4), PixelKind("2", 4, 5, "uint8", 3))
    assert found.wells() == {"p": {"A01": WellCount(4, 0), "B12": WellCount(3, 1)}}
    assert (found.n_checked, found.n_planes) == (7, 7)
    assert found.unreadable == ()


def test_mixed_sizes_and_broken_headers_are_reported(plate):
    save(plate, "A01_s2_w1.tif", (16, 16), np.float32)
    (plate / "B12_s1_w1.tif").write_bytes(b"II*\0\0\0\0\0")
    found = inspect(plate)
    assert [kind for kind in found.kinds if kind.channel == "1"] == [
        PixelKind("1", 8, 9, "uint16", 2),
        PixelKind("1", 16, 16, "float32", 1),
    ]
    assert len(found.unreadable) == 1 and "B12_s1_w1.tif" in found.unreadable[0]


def test_a_full_384_well_plate_is_inspected_by_a_handful_of_headers(tmp_path):
    places = product(range(1, 17), range(1, 25), range(1, 10), range(1, 6))
    for row, column, site, channel in places:
        (tmp_path / f"P_{well_name(row, column)}_s{site}_w{channel}.tif").touch()
    found = inspect(tmp_path)
    assert found.n_planes == 17_280
    assert found.n_checked <= SPREAD + 5
    assert len(found.unreadable) == found.n_checked  # they are empty: exactly these were opened
    assert len(found.wells()["P"]) == 384


def test_every_channel_is_looked_into(tmp_path):
    for channel in range(1, 31):
        save(tmp_path, f"A01_s1_w{channel}.tif")
    found = inspect(tmp_path)
    assert [kind.channel for kind in found.kinds] == [str(channel) for channel in range(1, 31)]


def test_channels_renamed_and_pattern_given(plate):
    found = inspect(plate, pattern=r"(?P<well>\w\d\d)_s(?P<site>\d)_(?P<channel>w\d)\.tif", channels={"DNA": "w1"})
    assert found.plate.channels == ("DNA",)
    assert found.kinds == (PixelKind("DNA", 8, 9, "uint16", 4),)


def test_the_page_for_people(plate):
    result = run(plate)
    assert result.exit_code == 0
    page = result.output
    assert "Layout      pattern:imagexpress" in page
    assert "2 wells x 2 sites x 2 channels: 7 planes, 1 missing" in page
    assert "Channel     1: 9 x 8 uint16 (4 checked)" in page
    assert "headers of 7 of 7 planes" in page
    assert "1 plane missing:" in page and "p B12 site 2 time 1 channel 2" in page
    assert "notes [bold]x.txt" in page  # names are printed as they are
    assert "\x1b" not in page  # no colour codes into a pipe


def test_the_map_has_the_plates_rows_and_columns(plate):
    lines = run(plate).output.splitlines()
    start = lines.index("Planes per well of p")
    assert lines[start + 1].split() == [str(column) for column in range(1, 13)]
    assert lines[start + 2].split() == ["A", "4", *["·"] * 11]
    assert lines[start + 3].split() == ["B", *["·"] * 11, "3"]
    assert [line.split()[0] for line in lines[start + 4 : start + 10]] == list("CDEFGH")


def test_many_missing_planes_are_cut_short(tmp_path):
    for site in range(1, 41):
        save(tmp_path, f"A01_s{site}_w1.tif")
    save(tmp_path, "A02_s1_w1.tif")
    page = run(tmp_path).output
    assert "39 planes missing:" in page and "and 19 more (--json lists all)" in page
    assert len(re.findall(r"A02 site \d+ time 1 channel 1", page)) == 20


def test_a_missing_plane_of_a_stack_is_shown_with_its_number(tmp_path):
    for well, z in product(("A01", "A02"), (1, 2, 3)):
        save(tmp_path, f"{well}_s1_z{z}_w1.tif")
    (tmp_path / "A02_s1_z2_w1.tif").unlink()
    assert re.search(r"A02 site 1 time 1 channel 1 z 2$", run(tmp_path).stdout, re.MULTILINE)
    (gap,) = json.loads(run(tmp_path, "--json").stdout)["missing"]
    assert (gap["well"], gap["z"]) == ("A02", 2)
    assert inspect(tmp_path).wells()[tmp_path.name]["A02"] == WellCount(1, 1)


def test_json_for_programs(plate):
    result = run(plate, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found == json.loads(json.dumps(inspect(plate).to_dict()))
    assert found["missing"] == [{"plate": "p", "well": "B12", "site": 2, "time": 1, "channel": "2", "z": None}]
    assert found["wells"]["p"]["B12"] == {"present": 3, "missing": 1}
    assert found["pixels"][0] == {"channel": "1", "height": 8, "width": 9, "dtype": "uint16", "images": 4}
    assert found["plate_size"] == 96 and found["sites"] == [1, 2] and found["ignored"] == ["notes [bold]x.txt"]


def test_options_reach_the_reader(plate):
    result = run(plate, "--layout", "ome-tiff")
    assert isinstance(result.exception, InputError) and "no OME-TIFF" in str(result.exception)
    result = run(plate, "--pattern", r"(?P<well>\w\d\d)_s(?P<site>\d)_(?P<channel>w\d)\.tif")
    assert "Layout      pattern:user" in result.output and "Channel     w1: 9 x 8" in result.output


@pytest.mark.realdata
def test_the_real_plate(data_folder):
    found = inspect(data_folder / "bbbc013_plate")
    assert [(kind.channel, kind.height, kind.width, kind.dtype) for kind in found.kinds] == [
        ("1", 640, 640, "uint8"),
        ("2", 640, 640, "uint8"),
    ]
    assert found.n_planes == 96 and found.plate.missing == ()
    assert set(found.wells()["bbbc013_plate"].values()) == {WellCount(2, 0)}
    assert "48 wells x 1 site x 2 channels: 96 planes, 0 missing" in run(data_folder / "bbbc013_plate").output


@pytest.mark.realdata
def test_pixel_size_from_real_instrument_metadata(data_folder):
    found = inspect(data_folder / "vendor_layouts" / "ImageXpress" / "SingleChannel")
    assert found.plate.pixel_size == pytest.approx(1.3668)


def test_label_images_are_told(tmp_path):
    save(tmp_path, "A01_s1_w1.tif")
    assert "label images" not in run(tmp_path).output
    save(tmp_path, "A01_s1_w2.tif", dtype=np.int32)
    answer = run(tmp_path)
    assert "Channel 2 holds whole numbers of 32 bits" in answer.output and ".cellinferignore" in answer.output
