"""Micro-Manager: image stacks as its writers lay them out, separate image files, labels of positions."""

from __future__ import annotations

import json
import struct
from itertools import product

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_plane
from cellinfer.inspection import inspect
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers import read_plate
from cellinfer.readers._positions import place

SHAPE = (6, 8)


def plane_value(p, t, c, z):
    """Return what each pixel of a plane is, so that a wrong page is noticed."""
    return 1 + p + 10 * t + 100 * c + 1000 * z


def summary(labels=(), channels=("DAPI", "Cy3"), slices=1, frames=1, *, old=False, **more):
    """Make a summary as Micro-Manager 2.0 writes it, or 1.4."""
    listed = [{"Label": label, "GridRow": 0, "GridCol": 0} for label in labels]
    said = {
        "Prefix": "run_1",
        "MicroManagerVersion": "1.4.22" if old else "2.0.1-20220920",
        "ChNames": list(channels),
        "Channels": len(channels),
        "Slices": slices,
        "Frames": frames,
        "Positions": max(len(labels), 1),
        "SlicesFirst": False,
        "TimeFirst": False,
        "InitialPositionList" if old else "StagePositions": listed,
        "PixelSize_um": 0.65,
        "Width": SHAPE[1],
        "Height": SHAPE[0],
        "PixelType": "GRAY16",
    }
    return {**said, **more}


def write_stack(path, planes, said, *, room=0, ome="", order="<", list_length=None, no_end=False):
    """Write what `MultipageTiffWriter.java` writes: header, summary, list of planes, then directory and pixels in turn.

    `planes`: (channel, z, time, position) in the order of writing; None for a blank page that no list names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(said).encode()
    listed = [plane for plane in planes if plane is not None]
    size = len(listed) + room
    first = 40 + len(text) + 8 + 20 * size
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    head = mark + struct.pack(order + "9I", first, 54773648, 40 + len(text), 0, 0, 0, 0, 2355492, len(text))
    body, rows, last_link = bytearray(), [], 0
    for number, plane in enumerate(planes):
        at = first + len(body)
        value = 0 if plane is None else plane_value(plane[3], plane[2], plane[0], plane[1])
        pixels = np.full(SHAPE, value, order + "u2").tobytes()
        about = b'{"PixelSizeUm": 0.108}\0'
        count = 13 + (2 if number == 0 else 0)
        data = at + 2 + 12 * count + 4
        end = data + len(pixels) + 16 + len(about)
        short = {"<": lambda v: v, ">": lambda v: v << 16}[order]
        tags = [(256, 4, 1, SHAPE[1]), (257, 4, 1, SHAPE[0]), (258, 3, 1, short(16)), (259, 3, 1, short(1))]
        tags += [(262, 3, 1, short(1))]
        if number == 0:  # room for the descriptions, which come last
            tags += [(270, 2, len(ome), end) if ome else (270, 2, 0, 0), (270, 2, 0, 0)]
            end += len(ome)
        tags += [(273, 4, 1, data), (277, 3, 1, short(1)), (278, 3, 1, short(SHAPE[0])), (279, 4, 1, len(pixels))]
        tags += [(282, 5, 1, data + len(pixels)), (283, 5, 1, data + len(pixels) + 8), (296, 3, 1, short(3))]
        tags += [(51123, 2, len(about), data + len(pixels) + 16)]
        if plane is not None:
            rows.append((*plane, at))
        body += struct.pack(order + "H", count) + b"".join(struct.pack(order + "HHII", *tag) for tag in tags)
        last_link = len(body)
        body += struct.pack(order + "I", end) + pixels + struct.pack(order + "4I", 1, 1, 1, 1) + about
        body += ome.encode() if number == 0 else b""
    if not no_end:
        body[last_link : last_link + 4] = bytes(4)
    index = struct.pack(order + "2I", 3453623, size if list_length is None else list_length)
    index += b"".join(struct.pack(order + "5I", *row) for row in rows) + bytes(20 * room)
    path.write_bytes(head + text + index + body)


def grid(channels=2, slices=1, frames=1, positions=(0,)):
    return [(c, z, t, p) for p, t, z, c in product(positions, range(frames), range(slices), range(channels))]


def check_pixels(plate, positions, channels):
    """Compare every plane with what was written there."""
    for field in plate.fields:
        for channel, refs in field.images.items():
            for z, ref in enumerate(refs):
                p = positions[field.key.well, field.key.site]
                expected = plane_value(p, field.key.time - 1, channels.index(channel), z)
                assert (read_plane(ref) == expected).all(), (field.key, channel, z)


# stacks


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_for_each_position(tmp_path, old, order):
    labels = ["A01-Site_0", "A01-Site_1", "B12-Site_0", "B12-Site_1"]
    said = summary(labels, slices=3, frames=2, old=old)
    for p, label in enumerate(labels):
        write_stack(tmp_path / f"run_1_MMStack_{label}.ome.tif", grid(2, 3, 2, [p]), said, order=order)
        (tmp_path / f"run_1_MMStack_{label}_metadata.txt").write_text('{"Summary": {}}')
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.name, plate.channels, plate.wells) == ("micro-manager", "run_1", ("DAPI", "Cy3"), 96)
    assert [field.key for field in plate.fields] == [
        FieldKey("run_1", well, site, time)
        for well, site in (("A01", 0), ("A01", 1), ("B12", 0), ("B12", 1))
        for time in (1, 2)
    ]
    assert (plate.missing, plate.notes, plate.pixel_size) == ((), (), 0.65)
    assert all(len(refs) == 3 for field in plate.fields for refs in field.images.values())
    check_pixels(plate, {("A01", 0): 0, ("A01", 1): 1, ("B12", 0): 2, ("B12", 1): 3}, ["DAPI", "Cy3"])
    assert inspect(tmp_path).unreadable == ()


def test_tifffile_reads_the_made_up_stack_as_we_do(tmp_path):
    """The made-up files are as Micro-Manager's in the eyes of another reader, and its pages are ours."""
    labels = ["A1-Site_1", "A1-Site_2"]
    for p, label in enumerate(labels):
        said = summary(labels, slices=2, frames=2)
        write_stack(tmp_path / f"run_1_MMStack_{label}.ome.tif", grid(2, 2, 2, [p]), said, room=3)
    with tifffile.TiffFile(tmp_path / "run_1_MMStack_A1-Site_2.ome.tif") as file:
        assert file.is_micromanager and file.micromanager_metadata["Summary"]["ChNames"] == ["DAPI", "Cy3"]
        pages = {page.offset: number for number, page in enumerate(file.pages)}
        theirs = {tuple(row[:4]): pages[row[4]] for row in file.micromanager_metadata["IndexMap"].tolist() if row[4]}
    ours = {
        (plate_channel, z, field.key.time - 1, 1): ref.index[0]
        for field in read_plate(tmp_path).fields
        if field.key.site == 2
        for plate_channel, refs in enumerate(field.images.values())
        for z, ref in enumerate(refs)
    }
    assert ours == theirs


def test_all_positions_in_one_file_and_files_that_go_on(tmp_path):
    labels = ["A1-Site_0", "H12-Site_0"]
    said = summary(labels, frames=3)
    planes = grid(2, 1, 3, [0, 1])
    write_stack(tmp_path / "run_1_MMStack.ome.tif", planes[:5], said)
    write_stack(tmp_path / "run_1_MMStack_1.ome.tif", planes[5:], said)
    plate = read_plate(tmp_path)
    assert {field.key.well for field in plate.fields} == {"A01", "H12"} and plate.missing == ()
    check_pixels(plate, {("A01", 0): 0, ("H12", 0): 1}, ["DAPI", "Cy3"])


def test_a_plate_still_being_acquired(tmp_path):
    """The list has room for more, the last link leads nowhere; what was planned is listed as missing."""
    labels = ["A01-Site_0", "A02-Site_0", "A03-Site_0"]
    said = summary(labels)
    write_stack(tmp_path / "run_1_MMStack_A01-Site_0.ome.tif", grid(2), said, room=500)
    write_stack(tmp_path / "run_1_MMStack_A02-Site_0.ome.tif", grid(1, positions=[1]), said, room=500, no_end=True)
    plate = read_plate(tmp_path)
    assert plate.missing == (
        Missing(FieldKey("run_1", "A02", 0, 1), "Cy3"),
        Missing(FieldKey("run_1", "A03", 0, 1), "DAPI"),
        Missing(FieldKey("run_1", "A03", 0, 1), "Cy3"),
    )


def test_planes_beyond_the_end_of_a_file_are_missing(tmp_path):
    path = tmp_path / "run_1_MMStack_A01-Site_0.ome.tif"
    write_stack(path, grid(2, 3), summary(["A01-Site_0"], slices=3))
    path.write_bytes(path.read_bytes()[: -2 * 300])
    plate = read_plate(tmp_path)
    assert [len(refs) for refs in plate.fields[0].images.values()] == [2, 2]
    # nothing says for how many channels stacks were planned, so the plan of three planes is not held against them
    assert plate.missing == ()


def test_a_plane_written_twice_counts_as_its_second_version_and_blank_pages_do_not_count(tmp_path):
    planes = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (0, 0, 1, 0), None]
    write_stack(tmp_path / "run_1_MMStack_A01.ome.tif", planes, summary(["A01"], frames=2))
    plate = read_plate(tmp_path)
    assert [ref.index for field in plate.fields for refs in field.images.values() for ref in refs] == [(2,), (1,), (3,)]
    assert plate.missing == (Missing(FieldKey("run_1", "A01", 1, 2), "Cy3"),)


def test_labels_come_from_the_file_names_if_the_summary_has_none(tmp_path):
    for number, name in enumerate(("A01-Site_0", "A01-Site_1")):
        write_stack(
            tmp_path / f"x_MMStack_{name}.ome.tif", grid(2, frames=2, positions=[number])[:2], summary(frames=2)
        )
    rest = grid(2, frames=2, positions=[1])[2:]
    write_stack(tmp_path / "x_MMStack_A01-Site_1_1.ome.tif", rest, summary(frames=2))
    plate = read_plate(tmp_path)
    assert [field.key[1:] for field in plate.fields] == [("A01", 0, 1), ("A01", 1, 1), ("A01", 1, 2)]
    assert plate.missing[0].key == FieldKey("x", "A01", 0, 2)


@pytest.mark.parametrize("listed", [True, False])
def test_files_of_a_script_that_number_each_position_from_0(tmp_path, listed):
    """The name of the file says the position, if the list of positions knows it or if there is no list."""
    labels = ["C1-Site_0", "C2-Site_0", "C3-Site_0", "C4-Site_0"]
    said = summary(labels if listed else ())
    for label in labels[1:]:
        write_stack(tmp_path / f"x_MMStack_{label}.ome.tif", grid(1), said)
        write_stack(tmp_path / f"x_MMStack_{label}_1.ome.tif", [(1, 0, 0, 0)], said)
    plate = read_plate(tmp_path)
    assert [(field.key.well, len(field.images)) for field in plate.fields] == [("C02", 2), ("C03", 2), ("C04", 2)]
    assert {gap.key.well for gap in plate.missing} == ({"C01"} if listed else set())


def test_labels_of_a_beta_and_the_pixel_size_of_an_image(tmp_path):
    said = summary() | {"StagePositions": [{"label": "E5-Site_0", "gridRow": 0}], "PixelSize_um": 0}
    write_stack(tmp_path / "x_MMStack.ome.tif", grid(2), said)
    plate = read_plate(tmp_path)
    assert (plate.fields[0].key.well, plate.pixel_size) == ("E05", 0.108)


def test_positions_without_wells_are_wells_of_their_own(tmp_path):
    for p in range(3):
        write_stack(tmp_path / f"x_MMStack_Pos{p}.ome.tif", grid(2, positions=[p]), summary())
    plate = read_plate(tmp_path)
    assert [field.key[1:3] for field in plate.fields] == [("A01", 1), ("A02", 1), ("A03", 1)]
    assert plate.notes[0].startswith("positions are not called after wells (such as 'Pos0'): each position is a well")


def test_two_acquisitions_are_two_plates(tmp_path):
    for folder in ("day1", "day2"):
        write_stack(tmp_path / folder / "run_1_MMStack_A01.ome.tif", grid(2), summary(["A01"]))
    write_stack(tmp_path / "day2" / "run_2_MMStack_A01.ome.tif", grid(1), summary(["A01"], ["GFP"]))
    plate = read_plate(tmp_path)
    assert [field.key.plate for field in plate.fields] == ["day1", "day2", "run_2"]
    assert plate.missing == () and plate.channels == ("DAPI", "Cy3", "GFP")


def test_channels_without_a_name_of_their_own_have_numbers(tmp_path):
    write_stack(tmp_path / "x_MMStack_A01.ome.tif", grid(4), summary(["A01"], ["DAPI", "DAPI", "", "Cy5"]))
    assert read_plate(tmp_path).channels == ("1", "2", "3", "Cy5")


def test_other_images_beside_a_stack_are_left_out(tmp_path):
    write_stack(tmp_path / "x_MMStack_A01.ome.tif", grid(2), summary(["A01"]))
    tifffile.imwrite(tmp_path / "overview.tif", np.zeros(SHAPE, np.uint16))
    plate = read_plate(tmp_path)
    assert plate.ignored == ("overview.tif",) and "1 images are left out" in plate.notes[0]


def test_a_damaged_stack_is_left_out_or_explained(tmp_path):
    good, bad = tmp_path / "x_MMStack_A01.ome.tif", tmp_path / "x_MMStack_A02.ome.tif"
    said = summary(["A01", "A02"])
    write_stack(bad, grid(2, positions=[1]), said)
    content = bad.read_bytes()
    bad.write_bytes(content[:12] + struct.pack("<I", 3) + content[16:])
    with pytest.raises(InputError, match=r"x_MMStack_A02.ome.tif is damaged.*copy it again"):
        read_plate(tmp_path)
    write_stack(good, grid(2), said)
    plate = read_plate(tmp_path)
    assert {gap.key.well for gap in plate.missing} == {"A02"} and "A02.ome.tif is damaged" in plate.notes[-1]


@pytest.mark.parametrize(
    "text", [b"{", b"[" * 200_000, b'{"ChNames": 5, "StagePositions": [3, {"Label": {}}]}', b"\xff\xfe"]
)
def test_a_summary_that_is_none(tmp_path, text):
    path = tmp_path / "x_MMStack_A01.ome.tif"
    write_stack(path, grid(2), {"pad": "x" * (len(text))})
    content = bytearray(path.read_bytes())
    length = struct.unpack("<I", content[36:40])[0]
    content[40 : 40 + length] = text.ljust(length)
    path.write_bytes(content)
    try:
        plate = read_plate(tmp_path)
    except InputError as error:
        assert "is damaged" in str(error)
    else:
        assert plate.channels == ("1", "2")


def test_a_stack_that_another_program_saved_anew_is_read_as_ome_tiff(tmp_path):
    image = np.zeros((2, *SHAPE), np.uint16)
    tifffile.imwrite(tmp_path / "x_MMStack_A01.ome.tif", image, ome=True, metadata={"axes": "CYX"})
    assert read_plate(tmp_path, pattern=r"x_MMStack_(?P<well>[A-H]\d\d)\.ome\.tif").layout == "ome-tiff"


# separate files


def write_images(root, folders, names, said):
    for folder, name in product(folders, names):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.zeros(SHAPE, np.uint16))
        frame = {"FrameKey-0-0-0": {"FileName": name}}
        (root / folder / "metadata.txt").write_text(json.dumps({"Summary": said, **frame}, indent=2))


NEW = [
    f"img_channel{c:03}_position{{p:03}}_time{t:09}_z{z:03}.tif" for c, t, z in product(range(2), range(2), range(3))
]
OLD = [f"img_{t:09}_{c}_{z:03}.tif" for c, t, z in product(("DAPI", "Alexa-488 nm"), range(2), range(3))]


@pytest.mark.parametrize("old", [False, True])
def test_separate_images(tmp_path, old):
    labels = ["B02-Site_0", "B02-Site_1", "C03-Site_0", "C03-Site_1"]
    said = summary(labels, ["DAPI", "Alexa/488 nm"], 3, 2, old=old)
    for p, label in enumerate(labels):
        write_images(tmp_path / "run_1", [label], OLD if old else [name.format(p=p) for name in NEW], said)
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.name, plate.channels) == ("micro-manager", "run_1", ("DAPI", "Alexa/488 nm"))
    assert [field.key[1:] for field in plate.fields][::2] == [
        ("B02", 0, 1), ("B02", 1, 1), ("C03", 0, 1), ("C03", 1, 1),
    ]  # fmt: skip
    assert all(len(refs) == 3 for field in plate.fields for refs in field.images.values())
    assert (plate.missing, plate.pixel_size) == ((), 0.65)
    ref = plate.fields[1].images["Alexa/488 nm"][2]
    assert ref.path.endswith(OLD[-1] if old else "img_channel001_position000_time000000001_z002.tif")
    assert ref.index == ()


def test_a_missing_plane_of_separate_stacks_is_named(tmp_path):
    labels = ["B02-Site_0", "B02-Site_1"]
    for p, label in enumerate(labels):
        write_images(tmp_path, [label], [name.format(p=p) for name in NEW], summary(labels, slices=3, frames=2))
    (tmp_path / "B02-Site_1" / "img_channel001_position001_time000000000_z001.tif").unlink()
    plate = read_plate(tmp_path)
    assert plate.missing == (Missing(FieldKey(tmp_path.name, "B02", 1, 1), "Cy3", 1),)


def test_one_position_whose_folder_was_given_and_acquisitions_of_one_position(tmp_path):
    names = [name.format(p=0) for name in NEW]
    write_images(tmp_path / "run", ["D04-Site_2"], names, summary(["D04-Site_2", "D05-Site_0"], slices=3, frames=2))
    plate = read_plate(tmp_path / "run" / "D04-Site_2")
    assert {field.key[1:3] for field in plate.fields} == {("D04", 2)}
    write_images(tmp_path / "other", ["exp1", "exp2"], names, summary(["A05"], slices=3, frames=2))
    plate = read_plate(tmp_path / "other")
    assert {field.key[:3] for field in plate.fields} == {("exp1", "A05", 1), ("exp2", "A05", 1)}


def test_metadata_still_being_written_is_enough_and_damaged_metadata_is_explained(tmp_path):
    write_images(tmp_path, ["A01-Site_0"], [NEW[0].format(p=0)], summary(["A01-Site_0"]))
    path = tmp_path / "A01-Site_0" / "metadata.txt"
    text = path.read_text()
    path.write_text(text[: text.index("FrameKey") + 20])
    assert read_plate(tmp_path).channels == ("DAPI", "Cy3")
    path.write_text(text[:60])
    with pytest.raises(InputError, match=r"metadata.txt is damaged.*--pattern"):
        read_plate(tmp_path)


# labels


@pytest.mark.parametrize(
    ("labels", "spots"),
    [
        (["A01-Site_0", "A01-Site_1"], [("A01", 0), ("A01", 1)]),
        (["A1-Site_1", "H12-Site_1"], [("A01", 1), ("H12", 1)]),
        (["A1_0000", "A1_0001", "P24_0000"], [("A01", 0), ("A01", 1), ("P24", 0)]),
        (["A1", "B2", "A1"], [("A01", 1), ("B02", 1), ("A01", 2)]),
        (["Well A01 site 3", "AF48_f7"], [("A01", 3), ("AF48", 7)]),
        (["A01-Pos_000_001", "A01-Pos_000_000", "B01-Pos_000_000"], [("A01", 1), ("A01", 2), ("B01", 1)]),
        (["Pos0", "Pos1"], [("A01", 1), ("A02", 1)]),
        (["1-Pos_000_000", "1-Pos_001_000", "2-Pos_000_000"], [("A01", 1), ("A01", 2), ("A02", 1)]),
        (["A01", "somewhere"], [("A01", 1), ("A02", 1)]),
        (["AQ1"], [("A01", 1)]),
        ([f"Pos{n}" for n in range(1537)], [("A01", n) for n in range(1, 1538)]),
    ],
)
def test_labels_of_positions(labels, spots):
    assert place(labels)[0] == spots
