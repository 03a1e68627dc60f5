"""Plates from folders: file-name patterns, OME-TIFF, gaps, duplicates, odd folders."""

from __future__ import annotations

import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_channel, read_plane
from cellinfer.plate import FieldKey, ImageRef, Missing
from cellinfer.readers import Found, Listing, Plane, layouts, read_plate
from cellinfer.readers._assemble import assemble
from cellinfer.readers._metadata import description
from cellinfer.readers._patterns import PATTERNS
from cellinfer.wells import well_name

GUID = "EAEEA614-51ED-43B3-A4FF-088730911E4C"
DIGIT_GUID = "0296BEF4-0F48-4EC8-BC24-6C604871398B"


def touch(folder, *names):
    """Make empty files: readers must not care what is in them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def keys(plate):
    return [field.key for field in plate.fields]


# file names


@pytest.mark.parametrize(
    ("name", "layout", "plate", "well", "site", "time", "channel"),
    [
        ("Channel1-01-A-01.tif", "channel-number-row-column", None, "A01", 1, 1, "1"),
        ("Channel2-48-D-12.tif", "channel-number-row-column", None, "D12", 1, 1, "2"),
        ("r01c01f01p01-ch1sk1fk1fl1.tiff", "opera", None, "A01", 1, 1, "1"),
        ("r16c24f09p03-ch12sk4fk1fl1.tiff", "opera", None, "P24", 9, 4, "12"),
        ("r01c02f03p01rc1-ch2sk1fk1fl1.tiff", "opera", None, "A02", 3, 1, "2"),
        ("r03c07f02-ch2.tif", "opera", None, "C07", 2, 1, "2"),
        ("A01_s1_w1.tif", "imagexpress", None, "A01", 1, 1, "1"),
        ("A01_s12_w10.tif", "imagexpress", None, "A01", 12, 1, "10"),
        (f"IXMtest_A12_s7_w1{GUID}.tif", "imagexpress", "IXMtest", "A12", 7, 1, "1"),
        (f"IXMtest_B05_s5_w1{DIGIT_GUID}.tif", "imagexpress", "IXMtest", "B05", 5, 1, "1"),
        (f"Projection-Mix_E08_s2{DIGIT_GUID}.tif", "imagexpress", "Projection-Mix", "E08", 2, 1, "1"),
        ("my plate_A01_w3.TIF", "imagexpress", "my plate", "A01", 1, 1, "3"),
        (f"b02_s1_w1{GUID}.TIF", "imagexpress", None, "B02", 1, 1, "1"),
        ("AA03_s1_w1.tif", "imagexpress", None, "AA03", 1, 1, "1"),
        ("A01_s1_z2_w1_t3.tif", "well-site-channel-z-time", None, "A01", 1, 3, "1"),
        ("Exp_A01_T0002F003L01A01Z04C02.tif", "cellvoyager", "Exp", "A01", 3, 2, "2"),
        ("A01_F001_C01.tif", "well-field-channel", None, "A01", 1, 1, "1"),
        ("plate_A01_f00d0.tif", "cellomics", "plate", "A01", 0, 1, "0"),
        ("AS_09125_050116030001_D03f05d2.TIF", "cellomics", "AS_09125_050116030001", "D03", 5, 1, "2"),
        ("A - 01(fld 01 wv DAPI - DAPI).tif", "incell", None, "A01", 1, 1, "DAPI - DAPI"),
        ("H - 12(fld 03 wv Cy5 - Cy5 z 2 time 4 - 900 ms).tif", "incell", None, "H12", 3, 4, "Cy5 - Cy5"),
        ("A01_site1_DAPI.tif", "well-site-name", None, "A01", 1, 1, "DAPI"),
        ("A01-02-GFP.png", "well-site-name", None, "A01", 2, 1, "GFP"),
        ("A01_f3_ch2.tif", "well-site-name", None, "A01", 3, 1, "2"),
        ("exp7_C05_field2_Cy5.jpg", "well-site-name", "exp7", "C05", 2, 1, "Cy5"),
        ("A01_DAPI.tif", "well-name", None, "A01", 1, 1, "DAPI"),
        ("A01_ch2.tif", "well-name", None, "A01", 1, 1, "2"),
        ("well_A01_DAPI.tif", "well-name", None, "A01", 1, 1, "DAPI"),
        ("P1_well_A01_DAPI.tif", "well-name", "P1", "A01", 1, 1, "DAPI"),
        ("ch2_B07_s3.tif", "name-well-site", None, "B07", 3, 1, "2"),
        ("A01_7.tif", "well-site", None, "A01", 7, 1, "1"),
        ("9987_B02.TIF", "well", "9987", "B02", 1, 1, "1"),
        ("A01.bmp", "well", None, "A01", 1, 1, "1"),
        ("A01/s2_w3.tif", "well-folder-site-channel", None, "A01", 2, 1, "3"),
        ("raw/B11/site4_DAPI.tif", "well-folder-site-name", None, "B11", 4, 1, "DAPI"),
        ("B11/site4/DAPI.tif", "well-site-folders-name", None, "B11", 4, 1, "DAPI"),
        ("B11/DAPI.tif", "well-folder-name", None, "B11", 1, 1, "DAPI"),
        ("TimePoint_2/ZStep_3/9987_B02_s1_w2.TIF", "imagexpress", "9987", "B02", 1, 2, "2"),
        ("2024/1697/TimePoint_2/9987_B02.TIF", "well", "9987", "B02", 1, 2, "1"),
    ],
)
def test_names_of_common_instruments_are_understood(tmp_path, name, layout, plate, well, site, time, channel):
    found = read_plate(touch(tmp_path, name))
    assert found.layout == f"pattern:{layout}"
    assert keys(found) == [FieldKey(plate or tmp_path.name, well, site, time)]
    assert found.channels == (channel,)
    (ref,) = found.fields[0].images[channel]
    assert ref.index == () and Path(ref.path).samefile(tmp_path / name)


@pytest.mark.parametrize("built_in", PATTERNS, ids=lambda built_in: built_in.name)
def test_each_built_in_pattern_is_chosen_for_its_own_example(tmp_path, built_in):
    assert read_plate(touch(tmp_path, built_in.example)).layout == f"pattern:{built_in.name}"


def test_z_planes_become_one_stack_in_order(tmp_path):
    touch(tmp_path, *(f"r01c01f01p{z:02d}-ch1sk1fk1fl1.tiff" for z in (10, 1, 2)))
    (field,) = read_plate(tmp_path).fields
    assert [Path(ref.path).name[9:12] for ref in field.images["1"]] == ["p01", "p02", "p10"]


def test_a_projection_beside_its_stack_is_left_out_and_named(tmp_path):
    touch(tmp_path, "E07_s1.tif", "ZStep_1/E07_s1.tif", "ZStep_2/E07_s1.tif")
    plate = read_plate(tmp_path)
    assert [len(refs) for refs in plate.fields[0].images.values()] == [2]
    assert plate.ignored == ("E07_s1.tif",)
    assert "1 stored projections are left out" in plate.notes[0]


def test_a_stray_file_does_not_change_the_pattern(tmp_path):
    touch(tmp_path, *(f"A{c:02d}_s1_w1.tif" for c in range(1, 13)), "A01_overview.tif")
    plate = read_plate(tmp_path)
    assert plate.layout == "pattern:imagexpress"
    assert plate.ignored == ("A01_overview.tif",)
    assert "1 images are left out" in plate.notes[0]


def test_channels_are_in_natural_order(tmp_path):
    touch(tmp_path, *(f"A01_s1_w{w}.tif" for w in (10, 2, 1)))
    assert read_plate(tmp_path).channels == ("1", "2", "10")


def test_fields_are_numbered_in_plate_order(tmp_path):
    touch(tmp_path, *(f"{well}_s{site}_w1.tif" for well in ("AA01", "Z01", "A10", "A02") for site in (2, 10, 1)))
    plate = read_plate(tmp_path)
    assert [(f.key.well, f.key.site, f.number) for f in plate.fields] == [
        (well, site, 3 * i + j + 1)
        for i, well in enumerate(("A02", "A10", "Z01", "AA01"))
        for j, site in enumerate((1, 2, 10))
    ]
    assert plate.wells == 1536


# the user's own pattern


def test_pattern_of_the_user_against_the_name(tmp_path):
    touch(tmp_path, "scan/xA1y7_red.tif", "scan/xB3y8_blue.tif", "scan/other.tif")
    plate = read_plate(tmp_path, pattern=r"x(?P<well>[A-H]\d+)y(?P<site>\d)_(?P<channel>\w+)\.tif")
    assert plate.layout == "pattern:user"
    assert keys(plate) == [FieldKey(tmp_path.name, "A01", 7, 1), FieldKey(tmp_path.name, "B03", 8, 1)]
    assert plate.channels == ("blue", "red")
    assert plate.ignored == ("scan/other.tif",)


def test_pattern_of_the_user_against_the_path(tmp_path):
    touch(tmp_path, "run9/r2/c11/t4/z0.png", "run9/r2/c11/t4/z1.png")
    pattern = r"(?P<plate>\w+)/r(?P<row>\d)/c(?P<col>\d+)/t(?P<time>\d)/z(?P<z>\d)\.png"
    (field,) = read_plate(tmp_path, pattern=pattern).fields
    assert field.key == FieldKey("run9", "B11", 1, 4)
    assert len(field.images["1"]) == 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<well>", "not a regular expression"),
        (r"(?P<site>\d)\.tif", r"must have a group \(\?P<well>"),
        (r"(?P<row>\w)(?P<site>\d)\.tif", r"must have a group \(\?P<well>"),
        (r"(?P<well>\w+)_(?P<chanel>\w)\.tif", "unknown groups chanel"),
        (r"(?P<well>X\d)\.tif", "matches none of the 1 images.*such as 'A01_s1_w1.tif'"),
        (r"(?P<well>A01)_(?P<site>s1)_w1\.tif", "reads 's1' as the site.*digits only"),
    ],
)
def test_a_wrong_pattern_is_explained(tmp_path, pattern, message):
    touch(tmp_path, "A01_s1_w1.tif")
    with pytest.raises(InputError, match=message):
        read_plate(tmp_path, pattern=pattern)


def test_unknown_names_are_shown_with_an_example_of_a_pattern(tmp_path):
    touch(tmp_path, *(f"picture {n}.tif" for n in range(9)))
    with pytest.raises(InputError) as error:
        read_plate(tmp_path)
    message = str(error.value)
    assert all(name in message for name in ("picture 0.tif", "picture 4.tif", "picture 8.tif"))
    assert "--pattern '(?P<well>" in message and "cellinfer segment" in message


@pytest.mark.parametrize("names", [("c1.tif", "c2.tif"), ("t01.png", "t02.png"), ("s1_raw.tif",), ("img1.tif",)])
def test_numbered_pictures_are_no_wells(tmp_path, names):
    with pytest.raises(InputError, match="no known file-name pattern"):
        read_plate(touch(tmp_path, *names))


def test_a_pattern_that_fits_few_of_the_images_is_not_taken(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "holiday.jpg", "cat.jpg")
    with pytest.raises(InputError, match="no known file-name pattern fits the 3 images"):
        read_plate(tmp_path)


# plates in folders


def test_folders_with_the_same_wells_are_plates(tmp_path):
    touch(tmp_path, *(f"{plate}/A0{c}_s1_w1.tif" for plate in ("day10", "day9") for c in (1, 2)))
    plate = read_plate(tmp_path)
    assert [(f.key.plate, f.key.well) for f in plate.fields] == [
        ("day9", "A01"), ("day9", "A02"), ("day10", "A01"), ("day10", "A02"),
    ]  # fmt: skip
    assert plate.name == tmp_path.name
    assert plate.notes == ("2 plates: day9, day10",)


def test_folders_of_one_name_keep_their_whole_path(tmp_path):
    touch(tmp_path, "P1/images/A01_s1_w1.tif", "P2/images/A01_s1_w1.tif")
    assert [key.plate for key in keys(read_plate(tmp_path))] == ["P1/images", "P2/images"]


def test_a_folder_per_well_is_one_plate(tmp_path):
    touch(tmp_path, "A01/A01_s1_w1.tif", "A02/A02_s1_w1.tif")
    assert {key.plate for key in keys(read_plate(tmp_path))} == {tmp_path.name}


def test_a_plate_name_in_the_file_name_names_the_plate(tmp_path):
    plate = read_plate(touch(tmp_path, "BR0017_A01_s1_w1.tif", "BR0017_A02_s1_w1.tif"))
    assert plate.name == "BR0017" == plate.fields[0].key.plate


def test_a_folder_called_images_is_named_after_the_one_above(tmp_path):
    plate = read_plate(touch(tmp_path / "BR0017" / "Images", "A01_s1_w1.tif"))
    assert plate.name == "BR0017" == plate.fields[0].key.plate


def test_a_counter_before_the_well_is_no_plate(tmp_path):
    plate = read_plate(touch(tmp_path, "001_A01_s1_w1.tif", "002_A02_s1_w1.tif", "003_A03_s1_w1.tif"))
    assert {key.plate for key in keys(plate)} == {tmp_path.name}


def test_gaps_are_found_plate_by_plate(tmp_path):
    touch(tmp_path, "a/A01_s1_w1.tif", "a/A01_s1_w2.tif", "a/A02_s1_w1.tif", "b/A01_s1_w1.tif")
    assert read_plate(tmp_path).missing == (Missing(FieldKey("a", "A02", 1, 1), "2"),)


# gaps, duplicates, channels


def found_by(folder, planes, **more):
    """Assemble planes of channel and z in the wells of a made-up plate; they need not be there."""
    made = [
        Plane(FieldKey("p", well, 1, 1), channel, z, ImageRef(str(folder / f"{well}{channel}{z}.tif")))
        for well, channel, z in planes
    ]
    return assemble(Listing(folder, (), (), more.pop("stores", ())), Found("made up", made, **more))


def test_planes_that_other_stacks_have_are_missing(tmp_path):
    """Channels differ in depth; one field with more planes than all others makes none of these incomplete."""
    wells = ("A01", "A02", "A03")
    planes = [(well, "GFP", z) for well in wells for z in range(4)] + [(well, "DNA", 2) for well in wells]
    planes += [("A01", "GFP", 4)]
    assert found_by(tmp_path, planes).missing == ()
    planes.remove(("A02", "GFP", 1))
    planes.remove(("A03", "GFP", 3))
    assert found_by(tmp_path, planes).missing == (
        Missing(FieldKey("p", "A02", 1, 1), "GFP", 1),
        Missing(FieldKey("p", "A03", 1, 1), "GFP", 3),
    )


def test_planes_that_an_index_promises_are_missing(tmp_path):
    key = FieldKey("p", "A01", 1, 1)
    promised = [(key, "DNA", z) for z in (0, 1, 2)] + [(key, "GFP", 1), (FieldKey("p", "A02", 1, 1), "DNA", 0)]
    planes = [("A01", "DNA", 1), ("A01", "GFP", None)]
    # no plane of A02 is there, which the index has to promise as a whole; a projection stands for all planes
    assert found_by(tmp_path, planes, expected_z=tuple(promised)).missing == (
        Missing(key, "DNA", 0), Missing(key, "DNA", 2),
    )  # fmt: skip
    renamed = assemble(
        Listing(tmp_path, (), ()),
        Found("made up", [Plane(key, "DNA", 1, ImageRef("x"))], expected_z=tuple(promised)),
        {"b": "DNA", "a": "DNA"},
    )
    assert [(gap.channel, gap.z) for gap in renamed.missing] == [("b", 0), ("b", 2), ("a", 0), ("a", 2)]


def test_channels_are_in_the_order_of_the_instrument_as_far_as_it_is_known(tmp_path):
    planes = [("A01", channel, None) for channel in ("a", "b", "c10", "c9")]
    plate = found_by(tmp_path, planes, channels=("c", "b", "a", "b"))
    assert plate.channels == ("b", "a", "c9", "c10")


@pytest.mark.parametrize(
    ("wells", "size"), [(None, 6), ((16, 24), 384), ((8, 12), 96), ((9, 12), 384), ((1, 1), 6), ((33, 48), 6)]
)
def test_the_size_of_the_plate_is_taken_from_the_files(tmp_path, wells, size):
    assert found_by(tmp_path, [("A02", "DNA", None)], wells=wells).wells == size


def test_wells_outside_of_the_plate_make_it_larger(tmp_path):
    assert found_by(tmp_path, [("P24", "DNA", None)], wells=(8, 12)).wells == 384


def test_an_ome_zarr_plate_that_is_not_read_is_listed_as_ignored(tmp_path):
    touch(tmp_path, "A01_DAPI.tif")
    store = tmp_path / "plate.ome.zarr"
    store.mkdir()
    (store / ".zattrs").write_text('{"plate": {"wells": [{"path": "A/1"}]}}')
    assert read_plate(tmp_path, layout="pattern").ignored == ("plate.ome.zarr/",)


def test_missing_planes_are_listed_in_plate_order(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif", "A01_s2_w1.tif", "A01_s2_w2.tif", "A10_s1_w1.tif", "A2_s2_w2.tif")
    plate = read_plate(tmp_path)
    assert [(m.key.well, m.key.site, m.channel) for m in plate.missing] == [
        ("A02", 1, "1"), ("A02", 1, "2"), ("A02", 2, "1"), ("A10", 1, "2"), ("A10", 2, "1"), ("A10", 2, "2"),
    ]  # fmt: skip
    assert len(plate.fields) == 4


@pytest.mark.parametrize("names", [("A01_s1_w1.tif", "A1_s1_w1.tif"), ("A01_s1_w1.tif", "a01_s1_w01.png")])
def test_two_files_for_one_plane_are_refused_with_both_names(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(InputError) as error:
        read_plate(tmp_path)
    assert all(str(tmp_path / name) in str(error.value) for name in names)
    assert "well A01, site 1" in str(error.value)


def test_a_copy_in_a_folder_below_is_refused(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "backup/A01_s1_w1.tif")
    with pytest.raises(InputError, match="two images for well A01"):
        read_plate(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems fold case in paths")
def test_names_that_differ_in_case_are_one_plane(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "A01_S1_W1.TIF")
    with pytest.raises(InputError, match="two images"):
        read_plate(tmp_path)


def test_channels_are_renamed_and_chosen_in_the_order_asked(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif", "A01_s1_w3.tif", "A02_s1_w3.tif")
    plate = read_plate(tmp_path, channels={"DNA": "2", "GFP": "1"})
    assert plate.channels == ("DNA", "GFP")
    assert list(plate.fields[0].images) == ["DNA", "GFP"]
    assert plate.fields[0].images["DNA"][0].path.endswith("A01_s1_w2.tif")
    assert {m.channel for m in plate.missing} == {"DNA", "GFP"}
    assert [field.number for field in plate.fields] == [1, 2]


def test_an_unknown_channel_is_refused_with_those_that_exist(tmp_path):
    touch(tmp_path, "A01_DAPI.tif", "A01_GFP.tif")
    with pytest.raises(InputError, match=r"no channel 'DAPl': it has 'DAPI', 'GFP'; did you mean 'DAPI'\?"):
        read_plate(tmp_path, channels={"DNA": "DAPl"})
    with pytest.raises(InputError, match="no channel chosen"):
        read_plate(tmp_path, channels={})


def test_layouts_are_listed_and_a_wrong_one_refused(tmp_path):
    indexed = (
        "imagexpress",
        "harmony",
        "cellvoyager",
        "incell",
        "micro-manager",
        "ndtiff",
        "useq",
        "ome-zarr",
        "load-data",
    )
    assert layouts() == ("auto", *indexed, "ome-tiff", "pattern")
    touch(tmp_path, "A01_DAPI.tif")
    assert read_plate(tmp_path, layout="pattern").layout == "pattern:well-name"
    with pytest.raises(InputError, match=r"unknown layout 'patern'.*did you mean 'pattern'"):
        read_plate(tmp_path, layout="patern")
    with pytest.raises(InputError, match="no OME-TIFF"):
        read_plate(tmp_path, layout="ome-tiff")


def test_a_pattern_of_one_s_own_beats_an_index(tmp_path):
    (tmp_path / "plate.HTD").write_text(
        '"HTSInfoFile", Version 1.0\n"Waves", TRUE\n"NWavelengths", 1\n"WaveName1", "DAPI"\n'
    )
    touch(tmp_path, "plate_A01_s1_w1.tif")
    plate = read_plate(tmp_path, pattern=r"plate_(?P<well>[A-P]\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.tif")
    assert plate.layout.startswith("pattern")
    assert plate.channels == ("1",)


# folders


def test_folders_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        read_plate(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no image in .*it is empty"):
        read_plate(tmp_path)
    file = tmp_path / "A01_s1_w1.tif"
    file.touch()
    with pytest.raises(InputError, match="is a file: give the folder"):
        read_plate(file)


def test_a_folder_of_other_files_says_so(tmp_path):
    touch(tmp_path, "Index.idx.xml", "notes.txt")
    with pytest.raises(InputError, match=r"no image in .*: 2 other files, for example 'Index.idx.xml'"):
        read_plate(tmp_path)


def test_what_is_no_image_of_the_plate_is_ignored_and_listed(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", f"A01_s1_w1_thumb{GUID}.tif", "plate.HTD", "._A01_s1_w1.tif", ".DS_Store")
    touch(tmp_path, "Thumbs.db", ".cache/A01_s1_w2.tif", "x.zarr/A01_s1_w2.tif")
    touch(tmp_path, "results/journal.jsonl", "results/labels/A01_s1_w2.tif")
    touch(tmp_path, "mine/.cellinferignore", "mine/A01_s1_w2.tif", "mine/below/A02_s1_w2.tif")
    plate = read_plate(tmp_path)
    assert plate.channels == ("1",)
    assert set(plate.ignored) == {
        f"A01_s1_w1_thumb{GUID}.tif", "plate.HTD", "._A01_s1_w1.tif", ".DS_Store", "Thumbs.db", ".cache/", "x.zarr/",
        "results/", "mine/",
    }  # fmt: skip
    assert len(read_plate(tmp_path / "mine").fields) == 2  # who names the folder itself means it


def test_unicode_and_spaces_in_paths(tmp_path):
    folder = touch(tmp_path / "Плата 5 µm – größe", "A01_s1_w1.tif", "ヒト_A02_s1_w1.tif")
    plate = read_plate(folder)
    assert {key.well for key in keys(plate)} == {"A01", "A02"}


@pytest.mark.skipif(sys.platform != "linux", reason="Windows needs a setting for long paths")
def test_paths_longer_than_260_characters(tmp_path):
    folder = tmp_path / ("x" * 150) / ("y" * 150)
    touch(folder, "A01_s1_w1.tif")
    assert len(read_plate(tmp_path).fields[0].images["1"][0].path) > 300


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_loop_of_links_ends_and_a_dead_link_is_ignored(tmp_path):
    touch(tmp_path, "sub/A01_s1_w1.tif")
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "A02_s1_w1.tif").symlink_to(tmp_path / "gone.tif")
    plate = read_plate(tmp_path)
    assert len(plate.fields) == 1
    assert "A02_s1_w1.tif" in plate.ignored


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_linked_folder_is_read(tmp_path):
    touch(tmp_path / "store", "A01_s1_w1.tif")
    (tmp_path / "plate").mkdir()
    (tmp_path / "plate" / "images").symlink_to(tmp_path / "store", target_is_directory=True)
    assert len(read_plate(tmp_path / "plate").fields) == 1


def test_folders_nested_too_deep_are_listed_not_read(tmp_path):
    touch(tmp_path, "A01_s1_w1.tif", "/".join("abcdefghij") + "/A02_s1_w1.tif")
    plate = read_plate(tmp_path)
    assert len(plate.fields) == 1
    assert plate.ignored == ("a/b/c/d/e/f/g/h/i/",)


def test_a_full_384_well_plate(tmp_path):
    places = product(range(1, 17), range(1, 25), range(1, 10), range(1, 6))
    names = [f"P_{well_name(row, column)}_s{site}_w{channel}.tif" for row, column, site, channel in places]
    for name in names:
        (tmp_path / name).touch()
    plate = read_plate(tmp_path)
    assert len(names) == 17_280
    assert (len(plate.fields), plate.wells, plate.missing) == (3456, 384, ())
    assert plate.fields[-1].key == FieldKey("P", "P24", 9, 1) and plate.fields[-1].number == 3456


# OME-TIFF


def ome(path, shape=(2, 8, 9), axes="CYX", names=("DNA", "GFP"), **metadata):
    """Write an OME-TIFF with tifffile; return its array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(abs(hash(path.name)) % 2**32).integers(0, 999, shape).astype(np.uint16)
    channels = {"Channel": {"Name": list(names)}} if names else {}
    tifffile.imwrite(path, image, ome=True, metadata={"axes": axes, **channels, **metadata})
    return image


def test_ome_tiff_per_well(tmp_path):
    images = {
        (well, site): ome(tmp_path / f"{well}_s{site}.ome.tif", PhysicalSizeX=325, PhysicalSizeXUnit="nm")
        for well in ("A01", "B02")
        for site in (1, 2)
    }
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.channels) == ("ome-tiff", ("DNA", "GFP"))
    assert plate.pixel_size == pytest.approx(0.325)
    assert len(plate.fields) == 4 and not plate.missing
    for field in plate.fields:
        expected = images[field.key.well, field.key.site]
        np.testing.assert_array_equal(read_channel(field, "DNA"), expected[0])
        np.testing.assert_array_equal(read_channel(field, "GFP"), expected[1])


@pytest.mark.parametrize("axes", ["".join(order) for order in permutations("TCZ")])
def test_ome_planes_are_where_tifffile_finds_them(tmp_path, axes):
    sizes = {"T": 2, "C": 3, "Z": 4}
    image = ome(tmp_path / "B03.ome.tif", (*(sizes[a] for a in axes), 6, 7), axes + "YX", ("a", "b", "c"))
    image = np.moveaxis(image, [axes.index(a) for a in "TCZ"], [0, 1, 2])
    plate = read_plate(tmp_path)
    assert [key.time for key in keys(plate)] == [1, 2]
    for t, field in enumerate(plate.fields):
        for c, name in enumerate("abc"):
            planes = [read_plane(ref) for ref in field.images[name]]
            np.testing.assert_array_equal(planes, image[t, c])


def test_ome_channels_without_or_with_equal_names(tmp_path):
    ome(tmp_path / "a" / "A01.ome.tif", names=())
    ome(tmp_path / "b" / "A01.ome.tif", names=("Camera", "Camera"))
    assert read_plate(tmp_path / "a").channels == ("1", "2")
    assert read_plate(tmp_path / "b").channels == ("Camera-1", "Camera-2")


def test_single_planes_with_telling_names_are_read_by_name(tmp_path):
    for channel in (1, 2):
        ome(tmp_path / f"A01_s1_w{channel}.ome.tif", (8, 9), "YX", ())
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.channels) == ("pattern:imagexpress", ("1", "2"))
    assert read_plate(tmp_path, layout="ome-tiff").channels == ("1", "2")


def test_a_single_plane_takes_its_channel_from_the_metadata_if_the_name_has_none(tmp_path):
    ome(tmp_path / "A01_s1.ome.tif", (8, 9), "YX", ("DNA",))
    assert read_plate(tmp_path).channels == ("DNA",)


def test_ome_without_well_anywhere_is_refused(tmp_path):
    ome(tmp_path / "scan.ome.tif")
    with pytest.raises(InputError, match="no known file-name pattern"):
        read_plate(tmp_path)


def ome_xml(body, **attributes):
    text = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {text}>{body}</OME>'


def pixels(number, data="<TiffData/>", channels=("DNA", "GFP"), **sizes):
    size = {"SizeC": len(channels), "SizeZ": 1, "SizeT": 1, **sizes}
    attributes = " ".join(f'{name}="{value}"' for name, value in size.items())
    names = "".join(f'<Channel ID="Channel:{number}:{c}" Name="{name}"/>' for c, name in enumerate(channels))
    return (
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" Type="uint16" SizeX="9" '
        f'SizeY="8" {attributes}>{names}{data}</Pixels></Image>'
    )


def write_pages(path, pages, xml):
    tifffile.imwrite(path, pages, description=xml.encode(), metadata=None, photometric="minisblack")


def test_wells_and_sites_from_plate_metadata(tmp_path):
    pages = np.random.default_rng(1).integers(0, 999, (8, 8, 9)).astype(np.uint16)
    images = "".join(pixels(n, f'<TiffData IFD="{2 * n}"/><TiffData IFD="{2 * n + 1}" FirstC="1"/>') for n in range(4))
    wells = "".join(
        f'<Well ID="W{n}" Row="{row}" Column="{column}">'
        f'<WellSample ID="S{n}0" Index="{2 * n}"><ImageRef ID="Image:{2 * n}"/></WellSample>'
        f'<WellSample ID="S{n}1" Index="{2 * n + 1}"><ImageRef ID="Image:{2 * n + 1}"/></WellSample></Well>'
        for n, (row, column) in enumerate([(0, 1), (26, 2)])
    )
    write_pages(
        tmp_path / "whole plate.ome.tif", pages, ome_xml(f'<Plate ID="P" Name="Assay 7">{wells}</Plate>{images}')
    )
    plate = read_plate(tmp_path)
    assert (plate.name, plate.layout, plate.wells) == ("Assay 7", "ome-tiff", 1536)
    assert [(key.well, key.site) for key in keys(plate)] == [("A02", 1), ("A02", 2), ("AA03", 1), ("AA03", 2)]
    for number, field in enumerate(plate.fields):
        np.testing.assert_array_equal(read_channel(field, "GFP"), pages[2 * number + 1])


def block(filename, c, ifd=0):
    return f'<TiffData FirstC="{c}" IFD="{ifd}" PlaneCount="1"><UUID FileName="{filename}">urn:uuid:1</UUID></TiffData>'


def test_an_image_spread_over_files(tmp_path):
    pages = np.random.default_rng(2).integers(0, 999, (2, 8, 9)).astype(np.uint16)
    xml = ome_xml(pixels(0, block("A01_c1.ome.tif", 0) + block("A01_c2.ome.tif", 1)))
    for c in (0, 1):
        write_pages(tmp_path / f"A01_c{c + 1}.ome.tif", pages[c], xml)
    plate = read_plate(tmp_path)
    (field,) = plate.fields
    assert plate.channels == ("DNA", "GFP")
    for c, name in enumerate(plate.channels):
        np.testing.assert_array_equal(read_channel(field, name), pages[c])


def test_a_file_that_the_metadata_promises_is_missing(tmp_path):
    xml = ome_xml(pixels(0, block("A01_c1.ome.tif", 0) + block("A01_c2.ome.tif", 1)))
    write_pages(tmp_path / "A01_c1.ome.tif", np.ones((8, 9), np.uint16), xml)
    plate = read_plate(tmp_path)
    assert plate.missing == (Missing(FieldKey(tmp_path.name, "A01", 1, 1), "GFP"),)


def test_a_renamed_file_is_still_itself(tmp_path):
    xml = ome_xml(pixels(0, block("old name.ome.tif", 0) + block("old name.ome.tif", 1, 1)))
    pages = np.arange(144, dtype=np.uint16).reshape(2, 8, 9)
    write_pages(tmp_path / "C05.ome.tif", pages, xml)
    (field,) = read_plate(tmp_path).fields
    np.testing.assert_array_equal(read_channel(field, "GFP"), pages[1])


def test_metadata_in_a_companion_file(tmp_path):
    binary = ome_xml('<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:2"/>')
    for c in (0, 1):
        write_pages(tmp_path / f"A01_w{c + 1}.ome.tif", np.full((8, 9), c, np.uint16), binary)
    xml = ome_xml(pixels(0, block("A01_w1.ome.tif", 0) + block("A01_w2.ome.tif", 1)))
    (tmp_path / "set.companion.ome").write_text(xml, encoding="utf-8")
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.channels) == ("ome-tiff", ("DNA", "GFP"))
    assert read_channel(plate.fields[0], "GFP").max() == 1
    (tmp_path / "set.companion.ome").unlink()
    with pytest.raises(InputError, match=r"keeps its metadata in 'set.companion.ome', which is not there"):
        read_plate(tmp_path)


def test_metadata_cannot_point_outside_the_folder(tmp_path):
    ome(tmp_path / "secret.ome.tif")
    xml = ome_xml(pixels(0, block("../secret.ome.tif", 0) + block("A01.ome.tif", 1)))
    (tmp_path / "plate").mkdir()
    write_pages(tmp_path / "plate" / "A01.ome.tif", np.ones((8, 9), np.uint16), xml)
    plate = read_plate(tmp_path / "plate")
    assert [missing.channel for missing in plate.missing] == ["DNA"]


def test_an_entity_bomb_is_not_expanded(tmp_path):
    bomb = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><OME>&b;</OME>'
    write_pages(tmp_path / "A01_s1_w1.ome.tif", np.ones((8, 9), np.uint16), bomb)
    assert read_plate(tmp_path).layout == "pattern:imagexpress"
    with pytest.raises(InputError, match="no OME-TIFF"):
        read_plate(tmp_path, layout="ome-tiff")


def test_an_encoding_that_does_not_exist_is_no_crash(tmp_path):
    xml = ome_xml(pixels(0)).replace('version="1.0"', 'version="1.0" encoding="A"')
    write_pages(tmp_path / "A01_s1_w1.ome.tif", np.ones((8, 9), np.uint16), xml)
    assert read_plate(tmp_path).layout == "pattern:imagexpress"


def test_a_billion_declared_planes_are_refused(tmp_path):
    write_pages(tmp_path / "A01.ome.tif", np.ones((8, 9), np.uint16), ome_xml(pixels(0, SizeT=1_000_000_000)))
    with pytest.raises(InputError, match="declares 2000000000 planes"):
        read_plate(tmp_path)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_descriptions_are_found_in_every_kind_of_tiff(tmp_path, big, order):
    for text in ("x", "four", "a longer description", ""):
        path = tmp_path / "a.tif"
        image = np.ones((4, 4), np.uint8)
        tifffile.imwrite(path, image, description=text or None, metadata=None, bigtiff=big, byteorder=order)
        assert description(str(path)) == text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\xff\xff\xff\xff",
        b"\x89PNG",
        b"II*\0" * 9,
        b"II+\0\x08\0\0\0" + b"\xff" * 8,
    ],
)
def test_a_broken_file_has_no_description(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert description(str(path)) == ""


# real folders

IMAGEXPRESS_CHANNELS = ("DAPI", "FITC", "Texas Red", "Cy5")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "layout", "wells", "fields", "channels", "missing", "size"),
    [
        ("bbbc013_plate", "pattern:channel-number-row-column", 48, 48, ("1", "2"), 0, 96),
        ("bbbc039/images", "pattern:imagexpress", 47, 50, ("1",), 373, 384),
        ("vendor_layouts/Operetta", "harmony", 1, 2, ("Fluorescein (FITC)",), 0, 384),
        ("vendor_layouts/CV8000", "cellvoyager", 3, 12, ("405", "488"), 0, 96),
        ("vendor_layouts/ImageXpress/1well-3C-2S-Zmix-T", "pattern:imagexpress", 1, 4, ("1", "2", "3"), 0, 48),
        ("vendor_layouts/ImageXpress/SingleChannel", "pattern:imagexpress", 2, 4, ("1",), 0, 48),
        ("vendor_layouts/ImageXpress_exported/9987_Plate_3420", "imagexpress", 1, 1, ("DAPI",), 0, 96),
        ("vendor_layouts/ImageXpress_exported/9987_Plate_3434", "imagexpress", 2, 4, IMAGEXPRESS_CHANNELS, 16, 96),
        ("vendor_layouts/ImageXpress_exported/9987_Plate_3435", "imagexpress", 2, 8, IMAGEXPRESS_CHANNELS, 80, 96),
    ],
)
def test_real_folders(data_folder, folder, layout, wells, fields, channels, missing, size):
    plate = read_plate(data_folder / folder)
    assert plate.layout == layout
    assert len({key.well for key in keys(plate)}) == wells
    assert (len(plate.fields), plate.channels, len(plate.missing), plate.wells) == (fields, channels, missing, size)
    for field in plate.fields[:2]:
        for channel in field.images:
            assert read_channel(field, channel).ndim == 2


@pytest.mark.realdata
def test_real_plates_side_by_side(data_folder):
    plate = read_plate(data_folder / "vendor_layouts" / "ImageXpress_exported")
    assert {key.plate for key in keys(plate)} == {f"9987_Plate_{n}" for n in (3420, 3434, 3435)}


@pytest.mark.realdata
def test_correction_images_and_thumbnails_are_ignored(data_folder):
    ignored = read_plate(data_folder / "vendor_layouts" / "CV8000").ignored
    assert sum(name.endswith(".tif") for name in ignored) == 6
    ignored = read_plate(data_folder / "vendor_layouts" / "ImageXpress" / "SingleChannel").ignored
    assert sum("_thumb" in name for name in ignored) == 12


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("cell_painting_sites/cloome_site", "no known file-name pattern.*cellinfer segment"),
        ("cell_painting_sites/jump_rab30", "no image in"),
        ("vendor_layouts/ome-tiff", "no image in .*companion.ome"),
        ("wbc", "no known file-name pattern"),
        ("dsb2018/images", "no known file-name pattern"),
    ],
)
def test_real_folders_that_are_no_plate(data_folder, folder, message):
    with pytest.raises(InputError, match=message):
        read_plate(data_folder / folder)
