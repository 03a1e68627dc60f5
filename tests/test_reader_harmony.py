"""Plates exported by Harmony: what Index.idx.xml and Index.xml list, of every version, damaged or not."""

from __future__ import annotations

import os
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_channel
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers import assemble, scan
from cellinfer.readers.harmony import HarmonyReader

V5 = "http://www.perkinelmer.com/PEHH/HarmonyV5"
V6 = "http://www.perkinelmer.com/PEHH/HarmonyV6"
V7 = "43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7"
DYES = {1: "HOECHST 33342", 2: "Alexa 488"}


def file_name(row, col, field, plane, time, channel):
    return f"r{row:02d}c{col:02d}f{field:02d}p{plane:02d}-ch{channel}sk{time}fk1fl1.tiff"


def image_xml(row=1, col=1, field=1, plane=1, time=1, channel=1, *, url=None, state="Ok", first_time=0, fields=""):
    """One image; `time` counts from 1 as in file names, and from `first_time` in the index."""
    url = file_name(row, col, field, plane, time, channel) if url is None else url
    return (
        f'<Image Version="1"><id>{row:02d}{col:02d}K{time}F{field}P{plane}R{channel}</id><State>{state}</State>'
        f"<URL>{url}</URL>\n <Row>{row}</Row><Col>{col}</Col><FieldID>{field}</FieldID><PlaneID>{plane}</PlaneID>"
        f"<TimepointID>{time - 1 + first_time}</TimepointID><ChannelID>{channel}</ChannelID><FlimID>1</FlimID>{fields}"
        '<PositionX Unit="m">0.0006</PositionX></Image>\n'
    )


def described(dye, resolution="2.98E-07", unit="m"):
    """What version 5 writes into each image, and later versions once for each channel."""
    return (
        f"<ChannelName>{dye}</ChannelName><ImageType>Signal</ImageType>"
        f'<ImageResolutionX Unit="{unit}">{resolution}</ImageResolutionX><ImageSizeX>1080</ImageSizeX>'
    )


def index_xml(images, *, namespace=V5, plate="Plate 7", entries=""):
    """An index as Harmony writes it: wells name their images once more, flat-field profiles come with the channels."""
    wells = '<Well><id>0101</id><Row>1</Row><Col>1</Col><Image id="0101K1F1P1R1" /></Well>'
    profile = "<FlatfieldProfile>{Background: {Character: NonFlat, Mean: 373.6}, ChannelName: none}</FlatfieldProfile>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<EvaluationInputData xmlns:xsd="http://www.w3.org/2001/XMLSchema" Version="1" xmlns="{namespace}">\n'
        "<User>me</User><InstrumentType>Phenix</InstrumentType>"
        f"<Plates><Plate><PlateID>BR0017</PlateID><Name>{plate}</Name><PlateTypeName>384 µClear</PlateTypeName>"
        f'<PlateRows>16</PlateRows><PlateColumns>24</PlateColumns><Well id="0101" /></Plate></Plates>\n'
        f'<Wells>{wells}</Wells><Maps><Map><Entry ChannelID="1">{profile}</Entry></Map><Map>{entries}</Map></Maps>\n'
        f"<Images>{''.join(images)}</Images></EvaluationInputData>"
    )


def write(folder, images, files=None, name="Index.idx.xml", **options):
    """Write an index and empty images: those that it lists, or `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = index_xml(images, **options)
    (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    for file in re.findall("<URL>(.+?)</URL>", text) if files is None else files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def version_5(places):
    return [image_xml(*place, fields=described(DYES[place[-1]])) for place in places]


def places(wells=((1, 1), (2, 12)), fields=(1, 2), planes=(1,), times=(1,), channels=(1, 2)):
    return [(row, col, *rest) for (row, col), rest in product(wells, product(fields, planes, times, channels))]


def read(folder):
    listing = scan(folder)
    reader = HarmonyReader()
    assert reader.can_read(listing) == 1
    return assemble(listing, reader.read(listing))


def names(field, channel):
    return [Path(ref.path).name for ref in field.images[channel]]


def test_wells_fields_and_dyes_come_from_the_index(tmp_path):
    plate = read(write(tmp_path / "export" / "Images", version_5(places())))
    assert (plate.layout, plate.name, plate.wells) == ("harmony", "Plate 7", 384)
    assert [field.key for field in plate.fields] == [
        FieldKey("Plate 7", well, site, 1) for well in ("A01", "B12") for site in (1, 2)
    ]
    assert set(plate.channels) == set(DYES.values())
    assert names(plate.fields[2], "Alexa 488") == ["r02c12f01p01-ch2sk1fk1fl1.tiff"]
    assert plate.pixel_size == pytest.approx(0.298)
    assert (plate.missing, plate.notes, plate.ignored) == ((), (), ("Index.idx.xml",))


@pytest.mark.parametrize("opened", ["", "export", "export/Images"])
def test_the_folder_may_be_the_images_or_any_above(tmp_path, opened):
    write(tmp_path / "export" / "Images", version_5(places()))
    assert len(read(tmp_path / opened).fields) == 4


@pytest.mark.parametrize("namespace", [V6, V7, "http://www.perkinelmer.com/PEHH/HarmonyV99"])
def test_later_versions_describe_each_channel_once_and_count_time_from_1(tmp_path, namespace):
    entries = "".join(f'<Entry ChannelID="{number}">{described(dye)}</Entry>' for number, dye in DYES.items())
    images = [image_xml(*place, first_time=1) for place in places(times=(1, 2))]
    plate = read(write(tmp_path, images, name="Index.xml", namespace=namespace, entries=entries))
    assert set(plate.channels) == set(DYES.values())
    assert {field.key.time for field in plate.fields} == {1, 2}
    assert plate.pixel_size == pytest.approx(0.298)


def test_prefixes_and_utf_16_are_xml_too(tmp_path):
    write(tmp_path, version_5(places()))
    text = index_xml(version_5(places())).replace('xmlns="', 'xmlns:h="').replace("utf-8", "utf-16")
    text = re.sub(r"<(/?)(\w)", r"<\1h:\2", text)
    (tmp_path / "Index.idx.xml").write_text(text, encoding="utf-16")
    assert set(read(tmp_path).channels) == set(DYES.values())


@pytest.mark.parametrize("first_time", [0, 1])
def test_time_points_count_from_1_as_in_the_file_names(tmp_path, first_time):
    images = [image_xml(*place, first_time=first_time) for place in places(times=(3, 4))]
    assert {field.key.time for field in read(write(tmp_path, images)).fields} == {3, 4}


def test_time_points_without_file_names_that_say_so(tmp_path):
    images = [image_xml(time=time, url=f"{time}.tiff") for time in (1, 2)]
    assert [field.key.time for field in read(write(tmp_path, images)).fields] == [1, 2]


def test_planes_become_one_stack_in_order(tmp_path):
    (field,) = read(write(tmp_path, version_5(places(((1, 1),), (1,), (10, 2, 1))))).fields
    assert [name[6:12] for name in names(field, "Alexa 488")] == ["f01p01", "f01p02", "f01p10"]


def test_two_channels_of_one_dye_go_by_their_numbers(tmp_path):
    dyes = {1: "DAPI", 2: "Brightfield", 3: "Brightfield"}
    plate = read(write(tmp_path, [image_xml(channel=n, fields=described(dye)) for n, dye in dyes.items()]))
    assert set(plate.channels) == {"DAPI", "2", "3"}
    assert plate.notes == ("several channels are called 'Brightfield': they go by their numbers",)


def test_a_dye_called_like_the_number_of_a_nameless_channel(tmp_path):
    images = [image_xml(channel=1, fields=described("2")), image_xml(channel=2)]
    plate = read(write(tmp_path, images))
    assert names(plate.fields[0], "1") == ["r01c01f01p01-ch1sk1fk1fl1.tiff"]


def test_a_plate_in_acquisition_lists_what_is_missing(tmp_path):
    images = version_5(places())
    there = [file_name(*place) for place in places() if place != (2, 12, 2, 1, 1, 2)]
    plate = read(write(tmp_path, images, there))
    assert plate.missing == (Missing(FieldKey("Plate 7", "B12", 2, 1), "Alexa 488"),)
    assert len(plate.fields) == 4
    assert plate.notes == (
        "1 of 8 images that Index.idx.xml lists are not there (such as 'r02c12f02p01-ch2sk1fk1fl1.tiff')",
    )


def test_a_well_without_any_image_is_missing(tmp_path):
    there = [file_name(*place) for place in places(((1, 1),))]
    plate = read(write(tmp_path, version_5(places()), there))
    assert {(gap.key.well, gap.key.site, gap.channel) for gap in plate.missing} == {
        ("B12", site, dye) for site in (1, 2) for dye in DYES.values()
    }


def test_a_plane_that_lacks_in_a_stack_is_said(tmp_path):
    stack = places(((1, 1),), (1,), (1, 2, 3), channels=(1,))
    plate = read(write(tmp_path, version_5(stack), [file_name(*place) for place in stack[:2]]))
    assert plate.notes[0].startswith("1 of 3 images that Index.idx.xml lists are not there")


def test_images_that_failed_or_were_not_recorded(tmp_path):
    images = [image_xml(field=1), image_xml(field=2, state="Failed"), image_xml(field=3, url="")]
    plate = read(write(tmp_path, images))
    assert [field.key.site for field in plate.fields] == [1]
    assert [gap.key.site for gap in plate.missing] == [2, 3]
    assert "r01c01f02p01-ch1sk1fk1fl1.tiff" in plate.ignored
    assert "1 of 3 images that Index.idx.xml lists are not there" in plate.notes
    assert "1 images are left out, the instrument says that they failed" in plate.notes[1]


def test_images_that_no_index_knows_are_left_out(tmp_path):
    folder = write(tmp_path, version_5(places()))
    (folder / "Assaylayout").mkdir()
    (folder / "Assaylayout" / "map.png").touch()
    (folder / "r09c09f01p01-ch1sk1fk1fl1.tiff").touch()
    plate = read(folder)
    assert len(plate.fields) == 4
    assert {"Assaylayout/map.png", "r09c09f01p01-ch1sk1fk1fl1.tiff"} < set(plate.ignored)
    assert plate.notes == ("2 images are left out, no index lists them (such as 'Assaylayout/map.png')",)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("Images\\a.tiff", "Images/a.tiff"),
        ("sub/./a.tiff", "sub/a.tiff"),
        ("C:\\Data\\Images\\a.tiff", "a.tiff"),
        ("\\\\server\\share\\a.tiff", "Images/a.tiff"),
        ("a.tiff", "A.TIFF"),
        ("a.tiff", "Images/a.tiff"),
        ("größe 5 µm.tiff", "gro\u0308ße 5 µm.tiff"),
        ("a &amp; b.tiff", "a & b.tiff"),
    ],
)
def test_files_are_found_wherever_the_index_was_written(tmp_path, url, file):
    plate = read(write(tmp_path, [image_xml(url=url)], [file]))
    assert [Path(ref.path) for ref in plate.fields[0].images["1"]] == [tmp_path / file]
    assert plate.notes == ()


def test_the_folders_of_a_path_count_before_its_name(tmp_path):
    images = [image_xml(field=1, url="x\\..\\b\\a.tiff"), image_xml(field=2, url="C:\\elsewhere\\a.tiff")]
    plate = read(write(tmp_path, images, ["a/a.tiff", "b/a.tiff"]))
    assert [Path(ref.path) for ref in plate.fields[0].images["1"]] == [tmp_path / "b" / "a.tiff"]
    assert [gap.key.site for gap in plate.missing] == [2]


def test_images_of_a_plate_without_index_are_not_taken_for_those_of_another(tmp_path):
    write(tmp_path / "P1", version_5(places()), [file_name(*place) for place in places()[1:]])
    (tmp_path / "P2").mkdir()
    (tmp_path / "P2" / file_name(*places()[0])).touch()
    plate = read(tmp_path)
    assert len(plate.missing) == 1
    assert f"P2/{file_name(*places()[0])}" in plate.ignored


@pytest.mark.skipif(sys.platform != "linux", reason="other systems fold case in paths")
def test_the_file_of_the_same_case_is_meant(tmp_path):
    plate = read(write(tmp_path, [image_xml(url="a.tiff")], ["a.tiff", "A.TIFF"]))
    assert names(plate.fields[0], "1") == ["a.tiff"]
    assert "A.TIFF" in plate.ignored


def test_an_index_cannot_point_outside_the_folder(tmp_path):
    (tmp_path / "secret.tiff").touch()
    images = [image_xml(field=1), image_xml(field=2, url="../secret.tiff"), image_xml(field=3, url="/etc/passwd")]
    write(tmp_path / "plate", images, [file_name(1, 1, 1, 1, 1, 1)])
    assert [gap.key.site for gap in read(tmp_path / "plate").missing] == [2, 3]


def test_plates_side_by_side_have_their_names(tmp_path):
    for plate in ("P10", "P9"):
        write(tmp_path / f"{plate}__2024-05-01-Measurement 1" / "Images", version_5(places()), plate=plate)
    plate = read(tmp_path)
    assert plate.notes == ("2 plates: P9, P10",)
    assert len(plate.fields) == 8 and plate.name == tmp_path.name


def test_a_plate_measured_twice_is_told_apart_by_its_folders(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"P1-Measurement {number}" / "Images", version_5(places()), plate="P1")
    assert {field.key.plate for field in read(tmp_path).fields} == {"P1-Measurement 1", "P1-Measurement 2"}


def test_folders_of_one_name_keep_their_whole_path(tmp_path):
    for day in ("mon", "tue"):
        write(tmp_path / day / "P1" / "Images", version_5(places()), plate="P1")
    assert {field.key.plate for field in read(tmp_path).fields} == {"mon/P1", "tue/P1"}


def test_a_second_copy_of_the_index_changes_nothing(tmp_path):
    write(tmp_path / "Images", version_5(places()))
    write(tmp_path, version_5(places()), [])
    write(tmp_path / "Images", version_5(places()), [], name="Index.ref.xml")
    plate = read(tmp_path)
    assert (plate.name, len(plate.fields), plate.missing, plate.notes) == ("Plate 7", 4, (), ())


def test_a_plate_without_a_name_is_called_by_its_id_or_its_folder(tmp_path):
    assert read(write(tmp_path / "a", version_5(places()), plate="")).name == "BR0017"
    text = index_xml(version_5(places()), plate="").replace("BR0017", "")
    (tmp_path / "a" / "Index.idx.xml").write_text(text, encoding="utf-8")
    assert read(tmp_path / "a").name == "a"


def test_channels_of_different_pixel_size_are_said(tmp_path):
    images = [image_xml(channel=n, fields=described(f"dye {n}", f"{n}E-07")) for n in (1, 2)]
    plate = read(write(tmp_path, images))
    assert plate.pixel_size is None
    assert plate.notes == ("the size of a pixel differs between images: 0.1, 0.2 µm",)


@pytest.mark.parametrize(("value", "unit"), [("nan", "m"), ("0", "m"), ("wide", "m"), ("1", "parsec")])
def test_an_impossible_pixel_size_is_none(tmp_path, value, unit):
    assert read(write(tmp_path, [image_xml(fields=described("DAPI", value, unit))])).pixel_size is None


def test_two_files_for_one_plane_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"two images for well A01.*a\.tiff.*b\.tiff"):
        read(write(tmp_path, [image_xml(url="a.tiff"), image_xml(url="b.tiff")]))


# damaged and hostile indexes


def damaged(folder, content):
    write(folder, version_5(places()))
    (folder / "Index.idx.xml").write_bytes(content)
    with pytest.raises(InputError) as error:
        read(folder)
    message = str(error.value)
    assert message.startswith("Index.idx.xml ") and "--layout pattern" in message and "\n" not in message
    return message


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_an_index_that_is_cut_off_is_named(tmp_path, share):
    content = index_xml(version_5(places())).encode()
    assert "is cut off or damaged (line" in damaged(tmp_path, content[: int(len(content) * share)])


def test_an_entity_bomb_is_refused(tmp_path):
    bomb = (
        '<?xml version="1.0"?><!DOCTYPE EvaluationInputData [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "]><EvaluationInputData>&i;</EvaluationInputData>"
    )
    assert "declares a document type" in damaged(tmp_path, bomb.encode())
    outside = '<!DOCTYPE EvaluationInputData SYSTEM "file:///etc/passwd"><EvaluationInputData/>'
    assert "declares a document type" in damaged(tmp_path, outside.encode())


def test_wrong_encodings_are_named(tmp_path):
    text = index_xml(version_5(places()))
    assert "invalid token" in damaged(tmp_path, text.encode("latin-1"))


def test_binary_rubbish_in_the_middle(tmp_path):
    content = index_xml(version_5(places())).encode()
    assert "is cut off or damaged" in damaged(tmp_path, content[:2000] + b"\0\xff\0" + content[2000:])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<Row>2</Row>", "<Row>99</Row>", "row 99, column 12 is not on any plate"),
        ("<Row>2</Row>", "<Row>two</Row>", "invalid literal"),
        ("<Row>2</Row>", "", "lists an image without Row"),
        ("<FieldID>2</FieldID>", f"<FieldID>{'9' * 9999}</FieldID>", "lists an image that cannot be"),
        ("<Images>", "<Thumbnails>", "lists no images"),
    ],
)
def test_impossible_images_are_named(tmp_path, old, new, message):
    text = index_xml(version_5(places())).replace(old, new).replace(old.replace("<", "</"), new.replace("<", "</"))
    assert message in damaged(tmp_path, text.encode())


def test_nothing_of_what_is_listed_is_there(tmp_path):
    write(tmp_path, version_5(places()), ["other.tiff"])
    with pytest.raises(InputError, match=r"none of the 8 images that Index\.idx\.xml lists.*--layout pattern"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"no xml", b"<Index><a/></Index>", b"<html>", b"<!DOCTYPE a>"])
def test_other_files_of_that_name_are_left_to_other_readers(tmp_path, content):
    (tmp_path / "index.xml").write_bytes(content)
    (tmp_path / "A01_s1_w1.tif").touch()
    listing = scan(tmp_path)
    assert HarmonyReader().can_read(listing) is None
    with pytest.raises(InputError, match="no index of Harmony"):
        HarmonyReader().read(listing)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_an_index_that_leads_nowhere_is_none(tmp_path):
    (tmp_path / "A01_s1_w1.tif").touch()
    (tmp_path / "Index.xml").symlink_to(tmp_path / "gone.xml")
    assert HarmonyReader().can_read(scan(tmp_path)) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_called_index_is_not_waited_for(tmp_path):
    (tmp_path / "A01_s1_w1.tif").touch()
    os.mkfifo(tmp_path / "Index.xml")
    assert HarmonyReader().can_read(scan(tmp_path)) is None


def test_a_changed_index_is_read_again(tmp_path):
    folder = write(tmp_path, version_5(places(((1, 1),))))
    assert len(read(folder).fields) == 2
    write(folder, version_5(places()))
    assert len(read(folder).fields) == 4


# the real export


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["Operetta", "Operetta/Images"])
def test_the_real_export(data_folder, folder):
    plate = read(data_folder / "vendor_layouts" / folder)
    assert [field.key for field in plate.fields] == [FieldKey("Test_Sample_BALL", "C03", site, 1) for site in (1, 2)]
    assert (plate.channels, plate.missing, plate.notes) == (("Fluorescein (FITC)",), (), ())
    assert plate.pixel_size == pytest.approx(1.19595, abs=1e-5)
    for field in plate.fields:
        (ref,) = field.images["Fluorescein (FITC)"]
        assert Path(ref.path).name == f"r03c03f0{field.key.site}p01-ch1sk1fk1fl1.tiff"
        image = read_channel(field, "Fluorescein (FITC)")
        assert image.shape == (1080, 1080)
        np.testing.assert_array_equal(image, tifffile.imread(ref.path))
