"""Yokogawa CellVoyager: the index, names and pixel size beside it, failures, projections, several measurements."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_channel
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers import read_plate
from cellinfer.readers._assemble import assemble
from cellinfer.readers._scan import scan
from cellinfer.readers.cellvoyager import CellVoyagerReader
from cellinfer.wells import well_name

BTS = "http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"


def read(folder):
    listing = scan(folder)
    reader = CellVoyagerReader()
    assert reader.can_read(listing) == 1.0
    return assemble(listing, reader.read(listing))


def keys(plate):
    return [(field.key.well, field.key.site, field.key.time) for field in plate.fields]


def names(plate, channel, field=0):
    return [Path(ref.path).name for ref in plate.fields[field].images[channel]]


def document(root, body="", space=BTS, prefix="bts:", **attributes):
    declared = f'xmlns:{prefix[:-1]}="{space}"' if prefix else f'xmlns="{space}"'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element(root, body, prefix, **attributes, _more=declared)}'


def element(name, body="", prefix="bts:", _more="", **attributes):
    said = " ".join(f'{prefix}{key}="{escape(str(value))}"' for key, value in attributes.items())
    return f"<{prefix}{name} {said} {_more}>{body}</{prefix}{name}>"


def record(file, prefix="bts:", **attributes):
    given = {"Type": "IMG", "Row": 1, "Column": 1, "TimePoint": 1, "FieldIndex": 1, "ZIndex": 1, "Ch": 1, **attributes}
    said = {key: value for key, value in given.items() if value is not None}
    return element("MeasurementRecord", escape(file), prefix, **said)


def plane(row=1, column=1, site=1, channel=1, z=1, time=1, action=None, plate="P", **attributes):
    """Return the file name of an image and its record."""
    action = action or channel
    name = f"{plate}_{well_name(row, column)}_T{time:04d}F{site:03d}L01A{action:02d}Z{z:02d}C{channel:02d}.tif"
    place = {"Row": row, "Column": column, "FieldIndex": site, "Ch": channel, "ZIndex": z, "TimePoint": time}
    return name, record(name, **place, TimelineIndex=1, ActionIndex=action, **attributes)


def write(folder, planes, *, failures=(), skip=(), more=(), index="MeasurementData.mlf"):
    """Write an index and empty images, all but those to `skip`."""
    folder.mkdir(parents=True, exist_ok=True)
    body = "\n".join([*(text for _, text in planes), *failures])
    (folder / index).write_text(document("MeasurementData", body), encoding="utf-8")
    for name in [*(name for name, _ in planes if name not in skip), *more]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_detail(folder, targets=("DNA", "ER"), sizes=("0.325", "0.325"), plate="Assay 7", protocol="run.mes"):
    """Write the detail and the protocol beside an index."""
    channels = "".join(
        element(
            "MeasurementChannel",
            Ch=number,
            HorizontalPixelDimension=size,
            ShadingCorrectionSource=f"shading {number}.tif",
        )
        for number, size in enumerate(sizes, start=1)
    )
    sample = element("MeasurementSamplePlate", Name=plate)
    detail = document("MeasurementDetail", sample + channels, Title="a title", MeasurementSettingFileName=protocol)
    (folder / "MeasurementDetail.mrf").write_text("\ufeff" + detail, encoding="utf-8")
    protocol_channels = "".join(
        element("Channel", Ch=number, Target=target, Fluorophore="") for number, target in enumerate(targets, start=1)
    )
    text = document("MeasurementSetting", element("ChannelList", protocol_channels))
    (folder / "run.mes").write_text(text, encoding="utf-8")


def small_plate():
    return [
        plane(row, 3, site, channel, z, time)
        for row in (1, 2)
        for site in (1, 2)
        for channel in (1, 2)
        for z in (1, 2, 10)
        for time in (1, 2)
    ]


def test_wells_sites_times_channels_and_planes(tmp_path):
    write(tmp_path, small_plate())
    write_detail(tmp_path)
    plate = read(tmp_path)
    assert (plate.name, plate.layout, plate.channels, plate.pixel_size) == (
        "Assay 7",
        "cellvoyager",
        ("DNA", "ER"),
        0.325,
    )
    assert keys(plate) == [(w, s, t) for w in ("A03", "B03") for s in (1, 2) for t in (1, 2)]
    assert names(plate, "ER", 1) == [f"P_A03_T0002F001L01A02Z{z:02d}C02.tif" for z in (1, 2, 10)]
    assert (plate.missing, plate.notes) == ((), ())
    assert set(plate.ignored) == {"MeasurementData.mlf", "MeasurementDetail.mrf", "run.mes"}


def test_without_detail_and_protocol_channels_are_numbers(tmp_path):
    plate = read(write(tmp_path, small_plate()))
    assert (plate.name, plate.channels, plate.pixel_size) == (tmp_path.name, ("1", "2"), None)


@pytest.mark.parametrize(
    ("targets", "channels"),
    [
        (("DNA", "ER"), ("DNA", "ER")),
        (("DNA", ""), ("DNA", "2")),
        (("DNA", "DNA"), ("1", "2")),
        (("2", ""), ("1", "2")),  # a name that looks like another channel's number
        (("Zellkörper", "<b>&"), ("Zellkörper", "<b>&")),
    ],
)
def test_channel_names_are_taken_if_they_tell_channels_apart(tmp_path, targets, channels):
    write(tmp_path, [plane(channel=1), plane(channel=2)])
    write_detail(tmp_path, targets)
    plate = read(tmp_path)
    assert plate.channels == channels
    assert len(plate.fields[0].images) == 2


def test_names_of_channels_that_were_not_taken_do_not_matter(tmp_path):
    write(tmp_path, [plane(channel=2)])
    write_detail(tmp_path, ("DNA", "DNA"), ("0.65", "0.325"))
    plate = read(tmp_path)
    assert (plate.channels, plate.pixel_size) == (("DNA",), 0.325)


def test_pixel_sizes_that_differ_are_not_taken(tmp_path):
    write(tmp_path, [plane(channel=1), plane(channel=2)])
    write_detail(tmp_path, sizes=("0.65", "0.325"))
    plate = read(tmp_path)
    assert plate.pixel_size is None
    assert plate.notes == ("channels differ in pixel size (0.325, 0.65 µm): none is taken",)


def test_correction_images_and_unknown_images_are_left_out(tmp_path):
    corrections = ["DC_CAM1.tif", "SC_BP445-45_20x_CH01.tif", "Shading 1.TIF", "Plate_IllDNA.tif"]
    write(tmp_path, [plane()], more=[*corrections, "P_A01_T0001F009L01A01Z01C01.tif", "stack.tif"])
    write_detail(tmp_path)
    plate = read(tmp_path)
    assert len(plate.fields) == 1
    assert {*corrections, "stack.tif", "P_A01_T0001F009L01A01Z01C01.tif"} <= set(plate.ignored)
    assert plate.notes == (
        "4 correction images (dark field, shading) are left out",
        "2 images are left out, the index does not list them (such as 'P_A01_T0001F009L01A01Z01C01.tif')",
    )


def test_a_plate_that_starts_with_the_letters_of_a_correction_is_a_plate(tmp_path):
    write(tmp_path, [plane(plate="SC_screen")], more=[plane(plate="SC_screen", site=2)[0]])
    plate = read(tmp_path)
    assert len(plate.fields) == 1
    assert "the index does not list them" in plate.notes[0]


def test_listed_images_that_are_not_there_are_missing(tmp_path):
    planes = [plane(1, column, channel=channel) for column in (1, 2) for channel in (1, 2)]
    plate = read(write(tmp_path, planes, skip=[planes[1][0], planes[2][0], planes[3][0]]))
    assert keys(plate) == [("A01", 1, 1)]
    assert plate.missing == (
        Missing(FieldKey(tmp_path.name, "A01", 1, 1), "2"),
        Missing(FieldKey(tmp_path.name, "A02", 1, 1), "1"),
        Missing(FieldKey(tmp_path.name, "A02", 1, 1), "2"),
    )
    assert plate.notes == (f"3 images that the index lists are not there (such as {planes[1][0]!r})",)


def test_a_missing_plane_of_a_stack_is_said(tmp_path):
    planes = [plane(z=z) for z in (1, 2, 3)]
    plate = read(write(tmp_path, planes, skip=[planes[1][0]]))
    assert len(plate.fields[0].images["1"]) == 2
    assert planes[1][0] in plate.notes[0]


def test_failed_acquisitions_are_no_images(tmp_path):
    failures = [
        record("failed.tif", Type="ERR", FieldIndex=2, Ch=2),
        record("AF Error at C14 No. 0", Type="ERR", Row=3, Column=14, FieldIndex=None, ZIndex=None, Ch=None),
        '<bts:MeasurementRecord bts:Type="ERR" />',
    ]
    planes = [plane(site=site, channel=channel) for site in (1, 2) for channel in (1, 2) if (site, channel) != (2, 2)]
    plate = read(write(tmp_path, planes, failures=failures, more=["failed.tif"]))
    assert keys(plate) == [("A01", 1, 1), ("A01", 2, 1)]
    assert [(gap.key.well, gap.key.site, gap.channel) for gap in plate.missing] == [
        ("A01", 2, "2"),
        *(("C14", site, channel) for site in (1, 2) for channel in "12"),
    ]
    assert plate.notes[0] == (f"3 acquisitions failed on plate {tmp_path.name} (wells A01, C14), such as 'failed.tif'")
    assert "failed.tif" in plate.ignored


def test_a_projection_beside_its_stack_is_left_out(tmp_path):
    planes = [plane(z=1), plane(z=2), plane(channel=2, ZImageProcessing="Maximum")]
    write(tmp_path, planes)
    write_detail(tmp_path, ("DNA", "DNA"))  # the stack and its projection have numbers of their own and one name
    plate = read(tmp_path)
    assert plate.channels == ("DNA",)
    assert names(plate, "DNA") == [planes[0][0], planes[1][0]]
    assert planes[2][0] in plate.ignored
    assert "1 stored projections are left out" in plate.notes[0]


def test_projections_are_the_data_where_no_stack_is_kept(tmp_path):
    planes = [plane(z=1), plane(z=2), plane(action=7, ZImageProcessing="Maximum")]
    plate = read(write(tmp_path, planes, skip=[planes[0][0], planes[1][0]]))
    assert names(plate, "1") == [planes[2][0]]
    assert not plate.missing


def test_of_several_projections_the_maximum_is_taken(tmp_path):
    planes = [plane(action=number, ZImageProcessing=kind) for number, kind in ((1, "focus"), (2, "maximum_projection"))]
    plate = read(write(tmp_path, planes))
    assert names(plate, "1") == [planes[1][0]]
    assert plate.notes == ("1 projections of the kind 'focus' are left out: another kind of the same stacks is taken",)
    assert planes[0][0] in plate.ignored


def test_two_actions_with_one_channel_become_two_channels(tmp_path):
    planes = [plane(z=1, action=1), plane(z=2, action=1), plane(z=1, action=3), plane(channel=2)]
    write(tmp_path, planes)
    write_detail(tmp_path)
    plate = read(tmp_path)
    assert plate.channels == ("DNA-L1A1", "DNA-L1A3", "ER")
    assert [len(plate.fields[0].images[name]) for name in plate.channels] == [2, 1, 1]


def test_two_files_for_one_place_are_refused(tmp_path):
    for kind in ({}, {"ZImageProcessing": "Sum"}):
        (_, first), (_, second) = plane(**kind), plane(**kind)
        write(tmp_path, [("a.tif", first.replace(plane()[0], "a.tif")), ("b.tif", second.replace(plane()[0], "b.tif"))])
        with pytest.raises(InputError, match=r"two images for well A01.*a\.tif and .*b\.tif"):
            read(tmp_path)


def test_a_record_written_twice_is_one_image(tmp_path):
    plate = read(write(tmp_path, [plane(), plane()]))
    assert names(plate, "1") == [plane()[0]]


@pytest.mark.parametrize("prefix", ["bts:", "", "x:"])
@pytest.mark.parametrize("space", [BTS, "http://www.yokogawa.co.jp/BTS/BTSSchema/2.0"])
def test_names_of_namespaces_do_not_matter(tmp_path, space, prefix):
    body = record("a.tif", prefix, Row=2, Column=24, FieldIndex=5)
    (tmp_path / "measurementdata.MLF").write_text(document("MeasurementData", body, space, prefix), encoding="utf-8")
    (tmp_path / "a.tif").touch()
    assert keys(read(tmp_path)) == [("B24", 5, 1)]


@pytest.mark.parametrize(("encoding", "declared"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16")])
def test_other_encodings(tmp_path, encoding, declared):
    text = document("MeasurementData", record("Zähl ung_1.tif")).replace("utf-8", declared)
    (tmp_path / "MeasurementData.mlf").write_text(text, encoding=encoding)
    (tmp_path / "Zähl ung_1.tif").touch()
    assert names(read(tmp_path), "1") == ["Zähl ung_1.tif"]


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("a.tif", "a.png"),
        ("a.tif", "A.TIFF"),
        ("Image\\a.tif", "Image/a.tif"),
        ("Image/a.tif", "image/a.tif"),
        ("a.tif", "TIF/a.tif"),
        ("D:\\data\\plate\\a.tif", "a.tif"),
        ("./x/../a b ü.tif", "a b ü.tif"),
    ],
)
def test_images_are_found_in_folders_and_with_other_endings(tmp_path, listed, there):
    write(tmp_path, [(there, record(listed))])
    plate = read(tmp_path)
    assert Path(plate.fields[0].images["1"][0].path).samefile(tmp_path / there)


def test_the_original_is_preferred_to_a_converted_copy(tmp_path):
    write(tmp_path, [("a.tif", record("a.TIF"))], more=["a.png"])
    plate = read(tmp_path)
    assert names(plate, "1") == ["a.tif"]
    assert "a.png" in plate.ignored


def test_the_index_may_lie_beside_the_images_folder(tmp_path):
    write(tmp_path / "plate" / "META", [("../TIF/a.tif", record("a.tif"))])
    plate = read(tmp_path)
    assert keys(plate) == [("A01", 1, 1)]
    assert plate.notes == (
        "the images of plate/META/MeasurementData.mlf are not where it says and were found by their names",
    )


def test_images_of_one_name_in_folders_of_their_own_are_not_mixed_up(tmp_path):
    planes = [
        (f"{folder}/image.tif", record(f"{folder}\\image.tif", Row=row)) for row, folder in enumerate("AB", start=1)
    ]
    write(tmp_path, planes, skip=["B/image.tif"])
    plate = read(tmp_path)
    assert keys(plate) == [("A01", 1, 1)]
    assert [gap.key.well for gap in plate.missing] == ["B01"]
    (tmp_path / "A").rename(tmp_path / "C")
    with pytest.raises(InputError, match="none of the 2 images"):
        read(tmp_path)


def test_only_files_below_the_folder_are_taken(tmp_path):
    (tmp_path / "secret.tif").touch()
    write(tmp_path / "plate", [("a.tif", record("a.tif")), ("b.tif", record("../secret.tif", FieldIndex=2))])
    plate = read(tmp_path / "plate")
    assert keys(plate) == [("A01", 1, 1)]
    assert [gap.key.site for gap in plate.missing] == [2]


def test_several_measurements_are_several_plates(tmp_path):
    for name, size in (("one", "0.325"), ("two", "0.65")):
        write(tmp_path / name, [plane()])
        write_detail(tmp_path / name, sizes=(size,), plate=f"plate {name}")
    plate = read(tmp_path)
    assert [field.key.plate for field in plate.fields] == ["plate one", "plate two"]
    assert plate.pixel_size is None
    assert plate.notes[0] == "2 plates: plate one, plate two"


def test_one_plate_measured_twice_is_told_apart_by_folder(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / "all" / name, [plane()])
        write_detail(tmp_path / "all" / name)
    assert [field.key.plate for field in read(tmp_path).fields] == ["all/first", "all/second"]


def test_a_measurement_does_not_take_the_images_of_another(tmp_path):
    write(tmp_path / "one", [plane(), plane(site=2)], skip=[plane(site=2)[0]])
    write(tmp_path / "two", [plane(), plane(site=2)])
    plate = read(tmp_path)
    assert [(field.key.plate, field.key.site) for field in plate.fields] == [("one", 1), ("two", 1), ("two", 2)]
    assert plate.missing == (Missing(FieldKey("one", "A01", 2, 1), "1"),)


def test_no_index_no_cellvoyager(tmp_path):
    (tmp_path / plane()[0]).touch()
    listing = scan(tmp_path)
    assert CellVoyagerReader().can_read(listing) is None
    with pytest.raises(InputError, match=r"no MeasurementData\.mlf in .*choose another layout"):
        CellVoyagerReader().read(listing)


BOMB = '<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-5],
        lambda data: b"",
        lambda data: b"\0" * 300,
        lambda data: b"not xml",
        lambda data: data.replace(b"P_A03", b"\xe4_A03", 1),
        lambda data: data.replace(b'encoding="utf-8"', b'encoding="klingon"'),
        lambda data: data.replace(b"?>", b"?>" + BOMB.encode(), 1).replace(b"P_A03", b"&b;", 1),
        lambda data: data.replace(b"?>", b'?><!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>', 1),
    ],
)
def test_a_damaged_index_is_named_with_what_to_do(tmp_path, spoil):
    write(tmp_path, small_plate())
    path = tmp_path / "MeasurementData.mlf"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        InputError, match=r"MeasurementData\.mlf is damaged or not written to its end.*--layout pattern"
    ):
        read(tmp_path)
    assert len(read_plate(tmp_path, layout="pattern").fields) == 8


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("Row", 33, r"MeasurementData\.mlf: 'a\.tif': row 33, column 1 is not on any plate"),
        ("Column", None, r"MeasurementData\.mlf: 'a\.tif': row 1, column 0 is not on any plate"),
        ("FieldIndex", "-1", r"MeasurementData\.mlf: FieldIndex of 'a\.tif' is '-1', which is no number"),
        ("Ch", "=1+1", r"MeasurementData\.mlf: Ch of 'a\.tif' is '=1\+1', which is no number"),
        ("ZIndex", "1.5", r"MeasurementData\.mlf: ZIndex of 'a\.tif' is '1\.5', which is no number"),
    ],
)
def test_impossible_records_are_refused(tmp_path, attribute, value, message):
    write(tmp_path, [("a.tif", record("a.tif", **{attribute: value}))])
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_an_index_that_lists_nothing_of_what_is_there(tmp_path):
    write(tmp_path, [plane()], skip=[plane()[0]], more=["A01_s1_w1.tif"])
    with pytest.raises(InputError, match=r"none of the 1 images that MeasurementData\.mlf lists is in"):
        read(tmp_path)
    write(tmp_path, [])
    with pytest.raises(InputError, match="none of the 0 images"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["MeasurementDetail.mrf", "run.mes"])
def test_a_damaged_detail_costs_names_only_and_is_said(tmp_path, name):
    write(tmp_path, [plane()])
    write_detail(tmp_path)
    (tmp_path / name).write_text("<broken", encoding="utf-8")
    plate = read(tmp_path)
    assert plate.channels == ("1",)
    assert f"{name} is damaged" in plate.notes[0]


def test_the_protocol_is_only_looked_for_beside_the_index(tmp_path):
    write(tmp_path / "plate", [plane()])
    write_detail(tmp_path / "plate", protocol="..\\run.mes")
    assert read(tmp_path / "plate").channels == ("DNA",)
    shutil.move(tmp_path / "plate" / "run.mes", tmp_path / "run.mes")
    assert read(tmp_path / "plate").channels == ("1",)
    assert read(tmp_path).channels == ("1",)


def test_a_full_384_well_plate(tmp_path):
    planes = [
        plane(row, column, site, channel)
        for row in range(1, 17)
        for column in range(1, 25)
        for site in range(1, 10)
        for channel in range(1, 6)
    ]
    plate = read(write(tmp_path, planes))
    assert len(planes) == 17_280
    assert (len(plate.fields), plate.wells, plate.missing, plate.notes) == (3456, 384, (), ())


REAL = "CV8000-Minimal-DataSet-2C-3W-4S-FP2-stack"


@pytest.mark.realdata
def test_a_real_measurement(data_folder):
    folder = data_folder / "vendor_layouts" / "CV8000"
    plate = read(folder)
    assert (plate.name, plate.channels, plate.pixel_size, plate.wells) == (REAL, ("405", "488"), 0.325, 96)
    assert keys(plate) == [(well, site, 1) for well in ("D08", "E03", "F08") for site in (1, 2, 3, 4)]
    assert {len(refs) for field in plate.fields for refs in field.images.values()} == {4}
    assert (plate.missing, plate.notes) == ((), ("6 correction images (dark field, shading) are left out",))
    assert names(plate, "488") == [f"{REAL}_D08_T0001F001L01A02Z{z:02d}C02.tif" for z in (1, 2, 3, 4)]
    below = folder / f"{REAL}_20230918_135839" / REAL
    assert [field.key for field in read(below).fields] == [field.key for field in plate.fields]


@pytest.mark.realdata
def test_a_real_measurement_as_tifffile_and_the_file_names_see_it(data_folder):
    folder = data_folder / "vendor_layouts" / "CV8000"
    plate, by_name = read(folder), read_plate(folder, layout="pattern")
    assert len(plate.fields) == len(by_name.fields) == 12
    for field, other in zip(plate.fields, by_name.fields, strict=True):
        assert (field.key, field.images["405"], field.images["488"]) == (
            other.key,
            other.images["1"],
            other.images["2"],
        )
    field = plate.fields[0]
    stack = np.stack([tifffile.imread(ref.path) for ref in field.images["405"]])
    np.testing.assert_array_equal(read_channel(field, "405"), stack.max(axis=0))
