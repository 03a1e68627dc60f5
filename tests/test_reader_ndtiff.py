"""NDTiff: data sets of its own writer, and damaged or odd ones made here."""

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

SHAPE = (24, 32)


def write(folder, name, places, monkeypatch, summary=None, metadata=None, largest=20_000_000):
    """Write a data set with the writer of the format; the pixels of image n are n + 1."""
    from ndstorage import NDTiffDataset, ndtiff_file

    monkeypatch.setattr(ndtiff_file, "MAX_FILE_SIZE", largest)  # 4 GB are made room for otherwise
    folder.mkdir(parents=True, exist_ok=True)
    dataset = NDTiffDataset(str(folder), name=name, summary_metadata=summary or {}, writable=True)
    dataset.initialize(summary or {})
    readers = {}
    for number, axes in enumerate(places):
        about = metadata(axes) if metadata else {}
        dataset.put_image(axes, np.full(SHAPE, number + 1, np.uint16), about)
        readers[id(dataset.current_writer)] = dataset.current_writer.reader
    dataset.finish()
    for reader in [*readers.values(), *dataset._readers_by_filename.values()]:  # it leaves them open
        reader.close()
    return folder / f"{name}_1"


def axes_of(**several):
    return [dict(zip(several, values, strict=True)) for values in product(*several.values())]


def values(plate):
    """Return the pixel value of each plane, by its place."""
    return {
        (*field.key[1:], channel, z): int(read_plane(ref)[0, 0])
        for field in plate.fields
        for channel, refs in field.images.items()
        for z, ref in enumerate(refs)
    }


def test_a_plate_of_labelled_positions(tmp_path, monkeypatch):
    labels = ["A01-Site_0", "A01-Site_1", "H12-Site_0", "H12-Site_1"]
    places = axes_of(time=[0, 1], position=labels, channel=["FITC", "DAPI"], z=[0, 1, 2])
    about = {"PixelSizeUm": 0.65}
    folder = write(tmp_path, "scan", places, monkeypatch, metadata=lambda axes: about)
    plate = read_plate(folder)
    assert (plate.layout, plate.name, plate.channels, plate.wells) == ("ndtiff", "scan_1", ("FITC", "DAPI"), 96)
    assert (plate.missing, plate.notes, plate.pixel_size) == ((), (), 0.65)
    well = {label: (label[:3], int(label[-1])) for label in labels}
    assert values(plate) == {
        (*well[axes["position"]], axes["time"] + 1, axes["channel"], axes["z"]): number + 1
        for number, axes in enumerate(places)
    }
    assert inspect(folder).unreadable == ()


def test_pages_are_those_of_the_files(tmp_path, monkeypatch):
    """By construction: each page's pixels begin where the index says, in every file of a data set that was split."""
    places = axes_of(position=["A1", "A2", "A3"], channel=["DAPI", "FITC"])
    size = 5_000_000 + 3 * (SHAPE[0] * SHAPE[1] * 2 + 400)  # the writer keeps 5 MB free
    folder = write(tmp_path, "split", places, monkeypatch, largest=size)
    files = sorted(folder.glob("*.tif"))
    assert len(files) > 1
    offsets = {}
    for path in files:
        with tifffile.TiffFile(path) as file:
            assert file.is_ndtiff
            offsets |= {(str(path), page): each.dataoffsets[0] for page, each in enumerate(file.pages)}
    listed = {
        (str(folder / name), offset)
        for _, name, offset, *_ in tifffile.tifffile.read_ndtiff_index(folder / "NDTiff.index")
    }
    plate = read_plate(folder)
    refs = [ref for field in plate.fields for planes in field.images.values() for ref in planes]
    assert {(ref.path, offsets[ref.path, ref.index[0]]) for ref in refs} == listed
    assert sorted(values(plate).values()) == [1, 2, 3, 4, 5, 6]


def test_numbered_positions_take_their_labels_and_channels_their_names_from_the_summary(tmp_path, monkeypatch):
    said = {
        "ChNames": ["Zed", "Alpha"],
        "StagePositions": [{"Label": "C3-Site_1"}, {"Label": "C3-Site_2"}],
        "PixelSize_um": 0.325,
    }
    folder = write(tmp_path, "x", axes_of(position=[0, 1], channel=[1, 0]), monkeypatch, said)
    plate = read_plate(folder)
    assert (plate.channels, plate.pixel_size) == (("Zed", "Alpha"), 0.325)
    assert values(plate)["C03", 1, 1, "Alpha", 0] == 1
    assert [field.key[1:3] for field in plate.fields] == [("C03", 1), ("C03", 2)]


def test_labels_and_names_from_the_images(tmp_path, monkeypatch):
    about = {0: {"PositionName": "B2-Site_0", "Channel": "GFP"}, 1: {"PositionName": "B3-Site_0", "Channel": "GFP"}}
    places = axes_of(position=[0, 1], channel=[0])
    folder = write(tmp_path, "x", places, monkeypatch, metadata=lambda axes: about[axes["position"]])
    plate = read_plate(folder)
    assert plate.channels == ("GFP",)
    assert [field.key[1] for field in plate.fields] == ["B02", "B03"]


# made here, as the specification says: version 2 has one number less in its header


def entry(axes, name, offset, shape=SHAPE, kind=1):
    text, file = json.dumps(axes).encode(), name.encode()
    numbers = struct.pack("<8I", offset, shape[1], shape[0], kind, 0, 0, 0, 0)
    return struct.pack("<I", len(text)) + text + struct.pack("<I", len(file)) + file + numbers


def make(folder, places, name="x_NDTiffStack.tif", summary=None, version=(3, 3), end=b""):
    """Write a data set; image n has its pixels at 1000 + 2000 n."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary or {}).encode()
    head = b"II*\0" + struct.pack("<I", 900) + struct.pack(f"<{len(version) + 1}I", 483729, *version)
    head += struct.pack("<2I", 2355492, len(text)) + text
    size = 1000 + 2000 * len(places)
    (folder / name).write_bytes(head.ljust(size, b"\0"))
    index = b"".join(entry(axes, name, 1000 + 2000 * number) for number, axes in enumerate(places))
    (folder / "NDTiff.index").write_bytes(index + end)
    return folder


def test_version_2_and_a_pyramid(tmp_path):
    said = {"StagePositions": [{"Label": "D4"}], "ChNames": ["DNA"], "PixelSize_um": 0.5}
    make(tmp_path / "scan" / "Full resolution", axes_of(position=[0], channel=[0]), summary=said, version=(2,))
    make(tmp_path / "scan" / "Downsampled_x2", axes_of(position=[0], channel=[0]), summary=said)
    plate = read_plate(tmp_path)
    assert (plate.name, plate.channels, plate.pixel_size) == ("scan", ("DNA",), 0.5)
    assert [field.key for field in plate.fields] == [FieldKey("scan", "D04", 1, 1)]
    assert plate.notes == ("1 files with images in lower resolution are left out",)
    assert read_plate(tmp_path / "scan" / "Full resolution").name == "scan"


def test_tiles_of_magellan_are_sites_of_one_well(tmp_path):
    make(tmp_path, axes_of(row=[-1, 0], column=[0, 1], channel=["DAPI"]))
    plate = read_plate(tmp_path)
    assert [field.key[1:3] for field in plate.fields] == [("A01", 1), ("A01", 2), ("A01", 3), ("A01", 4)]


def test_axes_called_well_and_site_and_others(tmp_path):
    make(tmp_path, axes_of(well=["A1", "B2"], site=[1, 2], channel=["DAPI"], camera=["left", "right"]))
    plate = read_plate(tmp_path)
    assert plate.channels == ("DAPI-cameraleft", "DAPI-cameraright")
    assert [field.key[1:3] for field in plate.fields] == [("A01", 1), ("A01", 2), ("B02", 1), ("B02", 2)]


def test_images_that_were_never_written_are_missing(tmp_path):
    folder = make(tmp_path, axes_of(position=["A1", "A2"], channel=["DAPI", "FITC"], z=[0, 1]))
    path = folder / "x_NDTiffStack.tif"
    path.write_bytes(path.read_bytes()[: 1000 + 2000 * 6])
    plate = read_plate(tmp_path)
    key = FieldKey(tmp_path.name, "A02", 1, 1)
    assert plate.missing == (Missing(key, "FITC"),)
    assert "2 of 8 images that NDTiff.index lists are not in its files" in plate.notes[0]
    path.write_bytes(path.read_bytes()[: 1000 + 2000 * 5])
    assert read_plate(tmp_path).missing == (Missing(key, "DAPI", 1), Missing(key, "FITC"))


def test_an_image_taken_twice_counts_as_its_later_version(tmp_path):
    make(tmp_path, [*axes_of(position=["A1"], channel=["DAPI", "FITC"]), {"channel": "DAPI", "position": "A1"}])
    plate = read_plate(tmp_path)
    assert [refs[0].index for refs in plate.fields[0].images.values()] == [(2,), (1,)]
    assert "1 images of NDTiff.index were taken twice" in plate.notes[0]


@pytest.mark.parametrize(
    ("end", "note"), [(bytes(4), ""), (bytes(40), ""), (b"\x20\0\0\0{", "is not whole"), (b"\xff" * 8, "is not whole")]
)
def test_the_end_of_the_index(tmp_path, end, note):
    make(tmp_path, axes_of(position=["A1"], channel=["DAPI"]), end=end)
    plate = read_plate(tmp_path)
    assert len(plate.fields) == 1
    assert note in " ".join(plate.notes) and bool(plate.notes) == bool(note)


@pytest.mark.parametrize(
    "index",
    [
        b"\x05\0\0\0hello",
        b"\xff\xff\xff\x7f{}",
        entry([1], "x.tif", 0),
        entry({"position": [1]}, "x.tif", 0),
        entry({}, "../x.tif", 0),
        entry({"z": 0}, "x.tif", 0, kind=9),
    ],
)
def test_a_damaged_index_is_explained(tmp_path, index):
    make(tmp_path, axes_of(position=["A1"]))
    (tmp_path / "NDTiff.index").write_bytes(index)
    with pytest.raises(InputError, match=r"NDTiff.index is damaged.*copy the data set again"):
        read_plate(tmp_path)


def test_an_index_without_its_files(tmp_path):
    make(tmp_path, axes_of(position=["A1"]))
    (tmp_path / "x_NDTiffStack.tif").rename(tmp_path / "renamed.tif")
    with pytest.raises(InputError, match=r"none of the images that NDTiff.index lists is in"):
        read_plate(tmp_path)


def test_two_data_sets(tmp_path):
    for name in ("one", "two"):
        make(tmp_path / name, axes_of(position=["A1"], channel=["DAPI"]))
    tifffile.imwrite(tmp_path / "overview.tif", np.zeros(SHAPE, np.uint16))
    plate = read_plate(tmp_path)
    assert [field.key.plate for field in plate.fields] == ["one", "two"]
    assert plate.notes[0] == "2 plates: one, two" and "such as 'overview.tif'" in plate.notes[1]
