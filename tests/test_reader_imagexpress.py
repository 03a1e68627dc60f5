"""ImageXpress plates: the HTD index, folders of time and z, projections, names with and without index."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_plane
from cellinfer.plate import FieldKey
from cellinfer.readers import Listing
from cellinfer.readers._assemble import assemble
from cellinfer.readers._scan import scan
from cellinfer.readers.imagexpress import ImageXpressReader
from cellinfer.wells import parse_well

GUID = "EAEEA614-51ED-43B3-A4FF-088730911E4C"
DIGIT_GUID = "0296BEF4-0F48-4EC8-BC24-6C604871398B"


def htd(
    wells=("A01",),
    waves=("DAPI",),
    *,
    size=(8, 12),
    times=1,
    steps=0,
    sites="1",
    description="seeded on Monday",
    end='"EndFile"\r\n',
    **changes,
):
    """Write an index; `sites` is the grid, a row for each line, with 1 for a selected site."""
    rows, columns = size
    places = {parse_well(well) for well in wells}
    grid = sites.split()
    values = {
        "HTSInfoFile": "Version 1.0",
        "Description": f'"{description}"',
        "TimePoints": times,
        "ZSeries": str(steps > 0).upper(),
        "ZSteps": steps,
        "ZProjection": "TRUE",
        "XWells": columns,
        "YWells": rows,
        **{f"WellsSelection{r}": flags((r, c) in places for c in range(1, columns + 1)) for r in range(1, rows + 1)},
        "Sites": str(sites != "1").upper(),
        "XSites": len(grid[0]),
        "YSites": len(grid),
        **(
            {f"SiteSelection{r}": flags(site == "1" for site in row) for r, row in enumerate(grid, 1)}
            if grid[1:]
            else {}
        ),
        "Waves": str(len(waves) > 1).upper(),
        "NWavelengths": len(waves),
        **{f"WaveName{n}": f'"{wave}"' for n, wave in enumerate(waves, 1)},
        **{f"WaveCollect{n}": 1 for n in range(1, len(waves) + 1)},
        **changes,
    }
    return "".join(f'"{key}", {value}\r\n' for key, value in values.items() if value is not None) + end


def flags(chosen):
    return ", ".join(str(bool(flag)).upper() for flag in chosen)


def make(folder, *names, **indexes):
    """Make empty images, and index files from text or bytes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, content in indexes.items():
        index(folder / f"{name}.HTD", content)
    return folder


def index(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(folder):
    listing = scan(folder)
    return assemble(listing, ImageXpressReader().read(listing))


def can_read(folder):
    return ImageXpressReader().can_read(scan(folder))


def places(plate):
    return [(field.key.well, field.key.site, field.key.time) for field in plate.fields]


def gaps(plate):
    return {(gap.key.well, gap.key.site, gap.key.time, gap.channel) for gap in plate.missing}


# a whole plate


def test_a_plate_with_all_its_axes(tmp_path):
    make(
        tmp_path,
        *(
            f"TimePoint_{t}/ZStep_{z}/P_{well}_s{s}_w{w}{GUID}.TIF"
            for t in (1, 2)
            for z in (0, 1, 2, 3)
            for well in ("B02", "C11")
            for s in (1, 2)
            for w in (1, 2)
        ),
        P=htd(("B02", "C11"), ("DAPI", "Texas Red"), times=2, steps=3, sites="11"),
    )
    assert can_read(tmp_path) == 1.0
    plate = read(tmp_path)
    assert (plate.layout, plate.name, plate.channels) == ("imagexpress", "P", ("DAPI", "Texas Red"))
    assert places(plate) == [(well, s, t) for well in ("B02", "C11") for s in (1, 2) for t in (1, 2)]
    assert plate.missing == () and plate.pixel_size is None
    assert plate.notes == ("16 stored projections are left out: the planes of their z-stacks are there",)
    for field in plate.fields:
        for wave, channel in enumerate(plate.channels, 1):
            key = field.key
            assert [Path(ref.path).relative_to(tmp_path).as_posix() for ref in field.images[channel]] == [
                f"TimePoint_{key.time}/ZStep_{z}/P_{key.well}_s{key.site}_w{wave}{GUID}.TIF" for z in (1, 2, 3)
            ]
    assert {name for name in plate.ignored if "ZStep_0" not in name} == {"P.HTD"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("P_A01.TIF", ("A01", 1, 1)),
        ("P_A01_s3.tif", ("A01", 3, 1)),
        ("P_A01_w1.tiff", ("A01", 1, 1)),
        ("P_A01_s2_w1.TIF", ("A01", 2, 1)),
        (f"P_A01_s2_w1{DIGIT_GUID}.tif", ("A01", 2, 1)),
        (f"P_A01_s1{DIGIT_GUID}.tif", ("A01", 1, 1)),
        (f"P_A01{DIGIT_GUID}.tif", ("A01", 1, 1)),
        (f"P_A01_s3_w1_[{GUID}].tif", ("A01", 3, 1)),
        ("p_a1_S2_W1.TIF", ("A01", 2, 1)),
        ("timepoint_1/ZSTEP_1/P_A01_s2_w1.TIF", ("A01", 2, 1)),
        ("TimePoint_0001/P_A01_s2.TIF", ("A01", 2, 1)),
    ],
)
def test_names_with_and_without_site_wave_and_guid(tmp_path, name, key):
    make(tmp_path, name, P=htd(sites="111"))
    plate = read(tmp_path)
    assert places(plate) == [key] and plate.channels == ("DAPI",)


def test_projections_alone_are_the_images(tmp_path):
    make(tmp_path, "TimePoint_1/ZStep_0/P_A01_w1.TIF", "TimePoint_1/P_A01_w2.TIF", P=htd(waves=("a", "b"), steps=5))
    plate = read(tmp_path)
    assert [len(refs) for refs in plate.fields[0].images.values()] == [1, 1]
    assert plate.notes == () and plate.missing == ()


def test_a_projection_beside_the_z_folders_is_left_out(tmp_path):
    make(tmp_path, "P_A01.TIF", "ZStep_1/P_A01.TIF", "ZStep_2/P_A01.TIF", P=htd(steps=2))
    plate = read(tmp_path)
    assert [Path(ref.path).parent.name for ref in plate.fields[0].images["DAPI"]] == ["ZStep_1", "ZStep_2"]
    assert "P_A01.TIF" in plate.ignored


def test_thumbnails_are_left_out(tmp_path):
    make(tmp_path, "P_A01.TIF", f"P_A01_thumb{GUID}.TIF", P=htd())
    assert f"P_A01_thumb{GUID}.TIF" in read(tmp_path).ignored


def test_a_large_plate_with_two_letters(tmp_path):
    make(tmp_path, "P_AF48_s1_w1.TIF", P=htd(("AF48",), size=(32, 48)))
    plate = read(tmp_path)
    assert places(plate) == [("AF48", 1, 1)] and plate.wells == 1536


# what the index promises


def test_promised_images_that_are_not_there_are_missing(tmp_path):
    make(tmp_path, "TimePoint_1/P_A01_s1_w1.TIF", P=htd(("A01", "B01"), ("DAPI", "GFP"), times=2, sites="11"))
    plate = read(tmp_path)
    everything = {(w, s, t, c) for w in ("A01", "B01") for s in (1, 2) for t in (1, 2) for c in ("DAPI", "GFP")}
    assert gaps(plate) == everything - {("A01", 1, 1, "DAPI")}
    assert plate.channels == ("DAPI", "GFP") and places(plate) == [("A01", 1, 1)]


def test_a_wavelength_that_is_not_collected_is_not_promised(tmp_path):
    make(tmp_path, "P_A01_w1.TIF", P=htd(waves=("DAPI", "GFP"), WaveCollect2=0))
    plate = read(tmp_path)
    assert plate.missing == () and plate.channels == ("DAPI",)


@pytest.mark.parametrize(
    "name", ["P_A02_s1_w1.TIF", "P_A01_s3_w1.TIF", "P_A01_s1_w2.TIF", "TimePoint_2/P_A01.TIF", "ZStep_2/P_A01_s1.TIF"]
)
def test_images_that_the_index_does_not_promise_are_left_out(tmp_path, name):
    make(tmp_path, "P_A01_s2_w1.TIF", name, P=htd(sites="11", steps=1))
    plate = read(tmp_path)
    assert places(plate) == [("A01", 2, 1)] and name in plate.ignored
    assert plate.notes == (f"1 images are left out, the index P.HTD does not promise them (such as {name!r})",)


def test_an_index_that_promises_no_image_is_refused(tmp_path):
    make(tmp_path, "P_A02.TIF", P=htd())
    with pytest.raises(InputError, match=r"index P\.HTD promises none of the 1 images .*'P_A02\.TIF'.*layout pattern"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("sites", "on_disk", "missing"),
    [
        ("010 111 010", (1, 2, 3, 4), {5}),
        ("010 111 010", (2, 4, 5, 6), {8}),
        ("11 11", (1, 2, 3), {4}),
    ],
)
def test_sites_are_counted_as_the_files_do(tmp_path, sites, on_disk, missing):
    make(tmp_path, *(f"P_A01_s{site}.TIF" for site in on_disk), P=htd(sites=sites))
    plate = read(tmp_path)
    assert [site for _, site, _ in places(plate)] == list(on_disk)
    assert {site for _, site, _, _ in gaps(plate)} == missing


def test_without_rows_of_sites_all_are_taken(tmp_path):
    make(tmp_path, "P_A01_s1.TIF", P=htd(sites="111"))  # one row only: `htd` leaves it out
    assert {site for _, site, _, _ in gaps(read(tmp_path))} == {2, 3}


def test_stacks_that_lack_planes_are_told(tmp_path):
    make(
        tmp_path,
        *(f"ZStep_{z}/P_{w}.TIF" for z, w in [(1, "A01"), (2, "A01"), (1, "A02")]),
        P=htd(("A01", "A02"), steps=2),
    )
    plate = read(tmp_path)
    assert plate.notes == ("1 of 2 z-stacks have fewer planes than the 2 that the index P.HTD promises",)


def test_far_too_many_promises_are_not_listed(tmp_path):
    make(tmp_path, "P_A01_s1_w1.TIF", P=htd(times=999_999_999))
    plate = read(tmp_path)
    assert plate.missing == () and places(plate) == [("A01", 1, 1)]
    assert plate.notes == ("the index P.HTD promises 999999999 images, too many to list those that are missing",)


# channels


@pytest.mark.parametrize(
    ("waves", "channels"),
    [
        (("DAPI", "Texas Red", "Cy5"), {"DAPI": 1, "Texas Red": 2, "Cy5": 3}),
        (("DAPI", "FITC", "fitc"), {"DAPI": 1, "2": 2, "3": 3}),
        (("", "FITC"), {"1": 1, "FITC": 2}),
        (("", "1"), {"1": 1, "2": 2}),
        (("α-Tubulin, 488", " TL  20 "), {"α-Tubulin, 488": 1, "TL 20": 2}),
    ],
)
def test_channels_are_named_where_names_are_there_and_differ(tmp_path, waves, channels):
    make(tmp_path, *(f"P_A01_w{n}.TIF" for n in range(1, len(waves) + 1)), P=htd(waves=waves))
    (field,) = read(tmp_path).fields
    assert {name: int(Path(ref.path).stem[-1]) for name, (ref,) in field.images.items()} == channels


def test_channels_without_name_lines_have_numbers(tmp_path):
    make(tmp_path, "P_A01_w1.TIF", "P_A01_w2.TIF", P=htd(waves=("a", "b"), WaveName1=None, WaveName2=None))
    assert read(tmp_path).channels == ("1", "2")


# the text of the index


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings(tmp_path, encoding):
    # Without the two lines before it, TimePoints stands right behind the byte order mark.
    text = htd(waves=("α" if "utf" in encoding else "µ",), HTSInfoFile=None, Description=None)
    make(tmp_path, "P_A01.TIF", P=text.encode(encoding))
    assert read(tmp_path).channels == ("α" if "utf" in encoding else "µ",)


def test_bytes_of_no_encoding_in_the_description(tmp_path):
    make(tmp_path, "P_A01.TIF", P=htd(description="line@line").encode().replace(b"@", b"\x82\x81\x85"))
    assert read(tmp_path).channels == ("DAPI",)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\r\n", "\n"),
        lambda text: text.replace("\r\n", "\r"),
        lambda text: text.replace(", ", ","),
        lambda text: text.replace("TRUE", "true").replace("XWells", "xwells"),
        lambda text: text.replace('"XWells", 12', '"XWells", "12"'),
        lambda text: text.replace('"EndFile"\r\n', ""),
        lambda text: text.replace("seeded on Monday", 'a 5" screen, "TimePoints", 7'),
        lambda text: text.replace('"HTSInfoFile"', '\r\n  "HTSInfoFile"'),
    ],
)
def test_spellings(tmp_path, change):
    make(tmp_path, "P_A01_w1.TIF", "P_A01_w2.TIF", P=change(htd(waves=("DAPI", "GFP"))))
    plate = read(tmp_path)
    assert (plate.channels, plate.missing, plate.notes) == (("DAPI", "GFP"), (), ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not say XWells"),
        (b"\0" * 5000, "does not say XWells"),
        (b"\xff\xfe\0", "does not say XWells"),
        (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "does not say XWells"),
        (htd(XWells=49), "its XWells is '49'"),
        (htd(YWells=0), "its YWells is '0'"),
        (htd(XWells="9" * 5000), "its XWells is '99999999999999999999'"),
        (htd(XWells="-3"), "its XWells is '-3'"),
        (htd(TimePoints="many"), "its TimePoints is 'many'"),
        (htd(TimePoints=None), "does not say TimePoints"),
        (htd(wells=()), "selects no well"),
        (htd(WellsSelection8=None), "does not say WellsSelection8"),
        (htd(WellsSelection8="TRUE, FALSE"), "its WellsSelection8 does not hold 12 times"),
        (htd(WellsSelection8=", ".join(["MAYBE"] * 12)), "its WellsSelection8 does not hold 12 times"),
        (htd(sites="11 11", SiteSelection2=None), "does not say SiteSelection2"),
        (htd(sites="11", XSites=9999, YSites=9999), "9999 x 9999 sites"),
        (htd(waves="ab", NWavelengths=999_999), "its NWavelengths is '999999'"),
        (htd(waves=("DAPI", "GFP"), WaveName2='"GF'), "does not say WaveName2"),
        (htd(waves=("DAPI", "GFP"), WaveName2=None, end=""), "does not say WaveName2"),
        (htd() + "x" * (1 << 20), "larger than any index"),
    ],
)
def test_a_damaged_index_leaves_the_names(tmp_path, content, reason):
    make(tmp_path, "P_A01_s1_w1.TIF", "P_A01_s1_w2.TIF", P=content)
    assert can_read(tmp_path) == 0.6
    plate = read(tmp_path)
    assert (plate.name, plate.channels, places(plate)) == ("P", ("1", "2"), [("A01", 1, 1)])
    (note,) = plate.notes
    assert note.startswith("the index P.HTD is damaged and not used (it") and reason in note


def test_no_cut_makes_other_names(tmp_path):
    """Cut off anywhere, an index is used as a whole or not at all."""
    text = htd(("A01", "H12"), ("DAPI", "Texas Red"), sites="11 10", times=3, steps=4)
    make(tmp_path, "ZStep_1/P_A01_s1_w1.TIF")
    whole = None
    for end in range(len(text), -1, -1):
        index(tmp_path / "P.HTD", text[:end])
        plate = read(tmp_path)
        whole = whole or plate
        if "damaged" not in plate.notes[0]:
            assert (plate.channels, plate.missing) == (whole.channels, whole.missing)
            assert end > text.index('"WaveName2", "Texas Red')
    assert whole.channels == ("DAPI", "Texas Red")


def test_a_good_copy_stands_in_for_a_damaged_index(tmp_path):
    make(tmp_path, "TimePoint_1/P_A01.TIF", P="")
    index(tmp_path / "TimePoint_1" / "P.HTD", htd())
    plate = read(tmp_path)
    assert can_read(tmp_path) == 1.0
    assert (plate.channels, plate.notes) == (("DAPI",), ())


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    make(tmp_path, "P_A01.TIF")
    os.mkfifo(tmp_path / "P.HTD")
    assert "it is no file" in read(tmp_path).notes[0]


# where the index and the images lie


@pytest.mark.parametrize("where", ["P.HTD", "TimePoint_1/P.HTD", "TimePoint_1/ZStep_1/p.htd"])
@pytest.mark.parametrize("above", ["", "2024-04-22/1697"])
def test_the_index_lies_in_any_folder_of_the_plate(tmp_path, where, above):
    make(tmp_path / above, "TimePoint_1/ZStep_1/P_A01.TIF", "TimePoint_1/ZStep_2/P_A01.TIF")
    index(tmp_path / above / where, htd(steps=2))
    plate = read(tmp_path)
    assert (plate.name.casefold(), plate.channels, plate.missing, plate.notes) == ("p", ("DAPI",), (), ())


def test_the_index_lies_in_a_folder_above(tmp_path):
    make(tmp_path, "images/TimePoint_1/P_A01.TIF", P=htd())
    assert read(tmp_path).channels == ("DAPI",)


@pytest.mark.parametrize("where", ["", "TimePoint_2", "TimePoint_2/ZStep_1"])
def test_the_folder_of_a_time_or_of_a_plane_can_be_given(tmp_path, where):
    make(tmp_path, *(f"TimePoint_{t}/ZStep_{z}/P_A01.TIF" for t in (1, 2) for z in (1, 2)))
    index(tmp_path / where / "P.HTD", htd(times=2, steps=2))
    for folder, planes in (("TimePoint_2", 2), ("TimePoint_2/ZStep_1", 1)):
        if (tmp_path / where).is_relative_to(tmp_path / folder) or not where or where == "TimePoint_2":
            plate = read(tmp_path / folder)
            assert can_read(tmp_path / folder) == 1.0
            assert (plate.name, places(plate), plate.missing) == ("P", [("A01", 1, 2)], ())
            assert len(plate.fields[0].images["DAPI"]) == planes and plate.notes == ()


def test_an_index_of_another_name_that_is_alone_takes_all(tmp_path):
    make(tmp_path, "P_A01.TIF", "P_A02.TIF", renamed=htd(("A01", "A02")))
    plate = read(tmp_path)
    assert (plate.name, plate.channels, len(plate.fields)) == ("renamed", ("DAPI",), 2)


def test_images_of_another_name_beside_those_of_the_index_are_left_out(tmp_path):
    make(tmp_path, "P_A01.TIF", "masks_A01.TIF", P=htd())
    plate = read(tmp_path)
    assert plate.fields[0].images["DAPI"][0].path == str(tmp_path / "P_A01.TIF")
    assert plate.notes == ("1 images are left out, their names do not fit (such as 'masks_A01.TIF')",)


def test_two_plates_in_one_folder(tmp_path):
    make(tmp_path, "P1_A01.TIF", "p2_A01.TIF", "P3_A01.TIF", P1=htd(waves=("DAPI",)), P2=htd(waves=("GFP",)))
    plate = read(tmp_path)
    assert [(field.key.plate, list(field.images)) for field in plate.fields] == [("P1", ["DAPI"]), ("P2", ["GFP"])]
    assert plate.notes == (
        "2 plates: P1, P2",
        "1 images are left out, their names do not fit (such as 'P3_A01.TIF')",
    )
    assert "P3_A01.TIF" in plate.ignored and plate.missing == ()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("a/P.HTD", "b/Q.HTD"), ["P", "Q"]),
        (("day 9/P.HTD", "day 10/P.HTD"), ["day 9", "day 10"]),
        (("x/run/P.HTD", "y/run/P.HTD"), ["x/run", "y/run"]),
        (("P.HTD", "b/P.HTD"), ["{}", "b"]),
        (("run/P.HTD", "run/Q.HTD", "y/run/P.HTD"), ["run/P", "run/Q", "y/run/P"]),
    ],
)
def test_plates_have_names_that_differ(tmp_path, folders, names):
    for path in folders:
        index(tmp_path / path, htd())
        stem = path.rpartition("/")[2][:-4]
        make((tmp_path / path).parent, f"TimePoint_1/{stem}_A01.TIF")
    plate = read(tmp_path)
    assert {field.key.plate for field in plate.fields} == {name.format(tmp_path.name) for name in names}
    assert plate.missing == ()


def test_a_plate_without_any_image_yet_is_missing_as_a_whole(tmp_path):
    make(tmp_path, "a/P_A01.TIF")
    index(tmp_path / "a" / "P.HTD", htd())
    index(tmp_path / "b" / "Q.HTD", htd(("C03",)))
    assert [gap.key for gap in read(tmp_path).missing] == [FieldKey("Q", "C03", 1, 1)]


def test_a_plate_without_index_beside_one_that_has_it(tmp_path):
    make(tmp_path, "a/P_A01_w1.TIF", "b/Q_A01_w1.TIF")
    index(tmp_path / "a" / "P.HTD", htd())
    plate = read(tmp_path)
    assert [(field.key.plate, list(field.images)) for field in plate.fields] == [("P", ["DAPI"]), ("Q", ["1"])]
    assert "there is no HTD index for all images: channels have numbers" in plate.notes[1]


def test_results_of_an_analysis_below_are_left_out(tmp_path):
    make(tmp_path, "TimePoint_1/P_A01.TIF", "TimePoint_1/masks/P_A01.TIF", "overview.png", P=htd())
    plate = read(tmp_path)
    assert places(plate) == [("A01", 1, 1)]
    assert set(plate.ignored) == {"TimePoint_1/masks/P_A01.TIF", "overview.png", "P.HTD"}
    assert "2 images are left out, their names do not fit" in plate.notes[0]


def test_two_files_for_one_plane_are_refused(tmp_path):
    make(tmp_path, f"P_A01_w1{GUID}.TIF", f"P_A01_w1{DIGIT_GUID}.TIF", P=htd())
    with pytest.raises(InputError, match=f"two images for well A01.*{GUID}.*{DIGIT_GUID}"):
        read(tmp_path)


def test_unicode_and_spaces(tmp_path):
    folder = tmp_path / "Плата 5 µm – größe" / "TimePoint_1"
    make(folder, "Плата 5_A01_s1.TIF")
    index(folder.parent / "Плата 5.HTD", htd())
    plate = read(tmp_path)
    assert (plate.name, plate.channels, len(plate.fields)) == ("Плата 5", ("DAPI",), 1)


# without an index


def test_folders_without_index_are_left_to_the_pattern_reader(tmp_path):
    assert can_read(make(tmp_path, "P_A01_s1_w1.TIF", "ZStep_1/P_A01_s1_w1.TIF")) is None


def test_projections_without_index_are_no_planes_of_their_stacks(tmp_path):
    make(tmp_path, *(f"TimePoint_1/ZStep_{z}/P_A01_s1_w1.TIF" for z in (0, 1, 2)))
    assert can_read(tmp_path) == 0.6
    plate = read(tmp_path)
    assert [len(refs) for refs in plate.fields[0].images.values()] == [2] and plate.channels == ("1",)
    assert plate.notes[0].startswith("there is no HTD index")


def test_a_counter_before_the_well_is_no_plate(tmp_path):
    plate = read(make(tmp_path, "001_A01_w1.TIF", "002_A02_w1.TIF"))
    assert {field.key.plate for field in plate.fields} == {tmp_path.name}


def test_other_folders_are_not_read(tmp_path):
    make(tmp_path, "r01c01f01p01-ch1sk1fk1fl1.tiff", "P_Z99_s1.tif")
    assert can_read(tmp_path) is None
    with pytest.raises(InputError, match=r"no image in .* is named by MetaXpress"):
        read(tmp_path)
    index(tmp_path / "P.HTD", htd())
    with pytest.raises(InputError, match=r"no image in .* is named by MetaXpress"):
        read(tmp_path)


def test_an_index_without_images_of_its_own_kind_is_not_taken(tmp_path):
    make(tmp_path, "picture 1.tif", P=htd())
    assert can_read(tmp_path) is None
    make(tmp_path, "picture 2.tif", "P_A01.tif", P="")
    assert can_read(tmp_path) is None


# pixel size, and how much is opened


def calibrated(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "spatial-calibration-state": "on",
        "spatial-calibration-x": size,
        "spatial-calibration-units": "um",
    }
    text = "".join(f'<prop id="{key}" type="x" value="{value}"/>' for key, value in values.items())
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    tifffile.imwrite(path, image, description=f"<MetaData><PlaneInfo>{text}</PlaneInfo></MetaData>", metadata=None)


def test_pixel_size_from_the_images(tmp_path):
    calibrated(tmp_path / "a" / "P_A01.TIF", 0.65)
    index(tmp_path / "a" / "P.HTD", htd())
    assert read(tmp_path).pixel_size == pytest.approx(0.65)
    calibrated(tmp_path / "b" / "Q_A01.TIF", 1.3)
    index(tmp_path / "b" / "Q.HTD", htd())
    plate = read(tmp_path)
    assert plate.pixel_size is None
    assert plate.notes[-1] == "pixel sizes differ, none is taken: a/P_A01.TIF 0.65 um, b/Q_A01.TIF 1.3 um"


def test_few_files_are_opened(tmp_path, monkeypatch):
    names = [f"TimePoint_{t}/P_A{c:02d}_s1_w1.TIF" for t in range(1, 21) for c in range(1, 13)]
    make(tmp_path, *names, P=htd([f"A{c:02d}" for c in range(1, 13)], times=20))
    for t in range(1, 21):
        index(tmp_path / f"TimePoint_{t}" / "P.HTD", htd())
    listing = scan(tmp_path)
    opened = Counter()
    monkeypatch.setattr("pathlib.Path.open", counting(opened, Path.open))
    monkeypatch.setattr("builtins.open", counting(opened, open))
    reader = ImageXpressReader()
    assert reader.can_read(listing) == 1.0
    assert opened == {str(tmp_path / "P.HTD"): 1}
    reader.read(listing)
    assert len(opened) == 2 and sum(opened.values()) == 3


def counting(opened, function):
    def count(path, *args, **kwargs):
        opened[str(path)] += 1
        return function(path, *args, **kwargs)

    return count


def test_a_listing_is_all_that_is_read(tmp_path):
    """Files that are gone since the walk are not looked for: the run will tell."""
    make(tmp_path, "P_A01.TIF", P=htd())
    listing = scan(tmp_path)
    (tmp_path / "P_A01.TIF").unlink()
    assert isinstance(listing, Listing) and len(ImageXpressReader().read(listing).planes) == 1


# real plates


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "fields", "planes", "missing"),
    [
        ("3420", [("B02", 1, 1)], {"DAPI": 1}, {}),
        # The folder of the third plane and the images of Cy5 are not in the shortened example.
        (
            "3434",
            [(well, site, 1) for well in ("B02", "B03") for site in (1, 2)],
            {"DAPI": 2, "FITC": 2, "Texas Red": 2},
            {"DAPI": 4, "FITC": 4, "Texas Red": 4, "Cy5": 4},
        ),
        # Nor are times 3 to 6, nor the images of Texas Red and Cy5 at times 1 and 2.
        (
            "3435",
            [(well, site, time) for well in ("B02", "B03") for site in (1, 2) for time in (1, 2)],
            {"DAPI": 1, "FITC": 1},
            {"DAPI": 16, "FITC": 16, "Texas Red": 24, "Cy5": 24},
        ),
    ],
)
def test_real_exports(data_folder, name, fields, planes, missing):
    folder = data_folder / "vendor_layouts" / "ImageXpress_exported" / f"9987_Plate_{name}"
    assert can_read(folder) == 1.0
    plate = read(folder)
    assert (plate.name, plate.layout, places(plate)) == ("9987", "imagexpress", fields)
    assert all({channel: len(refs) for channel, refs in f.images.items()} == planes for f in plate.fields)
    assert Counter(gap.channel for gap in plate.missing) == missing
    there = {field.key for field in plate.fields}
    assert {gap.z for gap in plate.missing if gap.channel in planes and gap.key in there} <= {3}
    assert plate.pixel_size == pytest.approx(1.3672)


@pytest.mark.realdata
def test_real_images_say_the_same_as_index_and_names(data_folder):
    """The files' own metadata hold the well, the site, the channel and the plane."""
    plate = read(data_folder / "vendor_layouts" / "ImageXpress_exported" / "9987_Plate_3434")
    for field in plate.fields:
        for channel, refs in field.images.items():
            for step, ref in enumerate(refs, start=1):
                with tifffile.TiffFile(ref.path) as file:
                    metadata = file.metaseries_metadata["PlaneInfo"]
                assert metadata["stage-label"] == f"{field.key.well} : Site {field.key.site}"
                assert metadata["_IllumSetting_"] == channel
                assert channel != "DAPI" or metadata["Z Step"] == step
                assert read_plane(ref).shape == (256, 256)


@pytest.mark.realdata
def test_real_projections_are_left_out(data_folder):
    folder = data_folder / "vendor_layouts" / "ImageXpress_exported" / "9987_Plate_3434"
    plate = read(folder)
    assert sum("ZStep_0/" in name and name.endswith(".TIF") for name in plate.ignored) == 12
    assert plate.notes == (
        "12 of 12 z-stacks have fewer planes than the 3 that the index 9987.HTD promises",
        "12 stored projections are left out: the planes of their z-stacks are there",
    )
    alone = read(folder / "TimePoint_1" / "ZStep_0")
    assert len(alone.fields) == 4 and alone.notes == ()


@pytest.mark.realdata
def test_real_exports_side_by_side(data_folder):
    plate = read(data_folder / "vendor_layouts" / "ImageXpress_exported")
    assert Counter(field.key.plate for field in plate.fields) == {
        "9987_Plate_3420": 1, "9987_Plate_3434": 4, "9987_Plate_3435": 8,
    }  # fmt: skip
    assert (plate.channels, plate.wells) == (("DAPI", "FITC", "Texas Red", "Cy5"), 96)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "fields", "channels", "planes", "size"),
    [("1well-3C-2S-Zmix-T", 4, ("1", "2", "3"), 1, 13.5504), ("SingleChannel", 4, ("1",), 2, 1.3668)],
)
def test_real_folders_without_index(data_folder, name, fields, channels, planes, size):
    folder = data_folder / "vendor_layouts" / "ImageXpress" / name
    assert can_read(folder) is None
    plate = read(folder)
    assert (len(plate.fields), plate.channels, plate.missing) == (fields, channels, ())
    assert all(len(refs) == planes for field in plate.fields for refs in field.images.values())
    assert plate.pixel_size == pytest.approx(size)
