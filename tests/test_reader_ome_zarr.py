"""OME-Zarr plates of NGFF 0.4 and 0.5: wells, fields, axes, acquisitions; damaged, hostile and half-written stores."""

from __future__ import annotations

import json
import os
import shutil
import sys
from itertools import combinations, permutations, product
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from cellinfer.errors import ImageError, InputError
from cellinfer.images import Header, files_of, read_channel, read_header, read_image, read_plane
from cellinfer.plate import FieldKey, ImageRef, Missing
from cellinfer.readers._assemble import assemble
from cellinfer.readers._scan import scan
from cellinfer.readers.ome_zarr import OmeZarrReader
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

VERSIONS = ("0.4", "0.5")


def read(folder):
    listing = scan(folder)
    assert OmeZarrReader().can_read(listing) == 1.0
    return assemble(listing, OmeZarrReader().read(listing))


def keys(plate):
    return [field.key for field in plate.fields]


def metadata_file(folder, version):
    return folder / (".zattrs" if version == "0.4" else "zarr.json")


def group(folder, version, content):
    """Write a Zarr group with NGFF attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(content))
    else:
        node = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": version, **content}}}
        (folder / "zarr.json").write_text(json.dumps(node))


TYPES = {"t": "time", "c": "channel"}


def multiscales(axes="czyx", labels=("DNA", "GFP"), unit="micrometer", scale=0.5, level="0", **more):
    described = [
        {"name": a, "type": TYPES.get(a, "space"), **({"unit": unit} if a in "zyx" and unit else {})} for a in axes
    ]
    steps = [{"type": "scale", "scale": [1.0] * (len(axes) - 1) + [scale]}]
    content = {
        "multiscales": [{"axes": described, "datasets": [{"path": level, "coordinateTransformations": steps}], **more}]
    }
    if labels is not None:
        content["omero"] = {"channels": [{"label": label, "color": "FFFFFF"} for label in labels]}
    return content


def array(folder, data, version="0.5", *, chunks=None, **options):
    """Write an array with zarr; chunks of zeros are written too."""
    made = zarr.create_array(
        folder, shape=data.shape, dtype=data.dtype, chunks=chunks or (1,) * (data.ndim - 2) + data.shape[-2:],
        zarr_format=2 if version == "0.4" else 3, config={"write_empty_chunks": True}, overwrite=True, **options,
    )  # fmt: skip
    made[:] = data
    return data


def field(folder, version, shape=(2, 3, 8, 9), seed=0, **options):
    data = np.random.default_rng(seed).integers(0, 999, shape).astype(np.uint16)
    group(folder, version, multiscales(**options))
    return array(folder / options.get("level", "0"), data, version)


def plate_metadata(wells, **more):
    rows = sorted({well.split("/")[0] for well in wells})
    columns = sorted({well.split("/")[1] for well in wells}, key=int)
    return {
        "plate": {
            "rows": [{"name": name} for name in rows],
            "columns": [{"name": name} for name in columns],
            "wells": [
                {"path": w, "rowIndex": rows.index(w.split("/")[0]), "columnIndex": columns.index(w.split("/")[1])}
                for w in wells
            ],
            **more,
        }
    }


def write_plate(folder, version="0.4", wells=("A/1", "B/12"), fields=("0", "1"), more=None, **options):
    """Write a plate; return its pixels by well path and field."""
    group(folder, version, plate_metadata(wells, **(more or {})))
    data = {}
    for well in wells:
        group(folder / well, version, {"well": {"images": [{"path": path} for path in fields]}})
        for path in fields:
            data[well, path] = field(folder / well / path, version, seed=len(data), **options)
    return data


# what is read


def test_the_plate_is_as_large_as_its_rows_and_columns(tmp_path):
    """Four wells of a 384-well plate; a list of only the rows in use tells no more than its wells do."""
    rows, columns = ([{"name": chr(ord("A") + row)} for row in range(16)], [{"name": str(n)} for n in range(1, 25)])
    for name in ("all", "some"):
        write_plate(tmp_path / name, wells=("A/1",))
    described = plate_metadata(("A/1",))
    described["plate"] |= {"rows": rows, "columns": columns}
    group(tmp_path / "all", "0.4", described)
    assert (read(tmp_path / "all").wells, read(tmp_path / "some").wells) == (384, 6)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_collection_of_images_that_are_called_after_wells(tmp_path, version):
    """As pymmcore-plus writes positions that a user called after wells."""
    store = tmp_path / "run.ome.zarr"
    group(store, version, {"bioformats2raw.layout": 3})
    names = ("A1_0000", "A1_0001", "B2_0000", "B2_0001")
    group(store / "OME", version, {"series": names})
    data = [field(store / name, version, seed=number) for number, name in enumerate(names)]
    for folder in (tmp_path, store):
        plate = read(folder)
        assert keys(plate) == [FieldKey("run", well, site, 1) for well in ("A01", "B02") for site in (0, 1)]
        np.testing.assert_array_equal(read_plane(plate.fields[1].images["GFP"][2]), data[1][1, 2])
    group(store / "OME", version, {"series": ["A1_0000", "../../x", "overview"]})
    with pytest.raises(InputError, match="without the metadata of an OME-Zarr plate"):
        read(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_plate_is_read_with_everything_it_says(tmp_path, version, inside):
    data = write_plate(tmp_path / "BR0017.ome.zarr", version)
    plate = read(tmp_path / "BR0017.ome.zarr" if inside else tmp_path)
    assert (plate.name, plate.layout, plate.channels, plate.wells) == ("BR0017", "ome-zarr", ("DNA", "GFP"), 96)
    assert keys(plate) == [FieldKey("BR0017", well, site, 1) for well in ("A01", "B12") for site in (0, 1)]
    assert (plate.missing, plate.ignored, plate.notes, plate.pixel_size) == ((), (), (), 0.5)
    for (well, path), one in zip(product(("A/1", "B/12"), "01"), plate.fields, strict=True):
        for c, name in enumerate(plate.channels):
            refs = one.images[name]
            assert [ref.index for ref in refs] == [(c, z) for z in range(3)]
            np.testing.assert_array_equal([read_plane(ref) for ref in refs], data[well, path][c])
            np.testing.assert_array_equal(read_channel(one, name), data[well, path][c].max(axis=0))
            assert read_header(refs[0]) == Header((8, 9), "uint16")


@pytest.mark.parametrize(
    "leading", ["".join(a) for n in range(4) for pick in combinations("tcz", n) for a in permutations(pick)]
)
def test_axes_in_any_subset_and_order(tmp_path, leading):
    sizes = {"t": 2, "c": 3, "z": 4, "y": 6, "x": 7}
    axes = leading + "yx"
    data = write_plate(
        tmp_path, wells=("A/1",), fields=("0",), axes=axes, shape=tuple(sizes[a] for a in axes), labels=("a", "b", "d")
    )["A/1", "0"]
    full = data.reshape([sizes[a] if a in axes else 1 for a in [*leading, *sorted(set("tcz") - set(leading))]] + [6, 7])
    full = np.moveaxis(full, [[*leading, *sorted(set("tcz") - set(leading))].index(a) for a in "tcz"], [0, 1, 2])
    plate = read(tmp_path)
    assert [key.time for key in keys(plate)] == list(range(1, full.shape[0] + 1))
    assert plate.channels == (("a", "b", "d") if "c" in leading else ("a",))
    for t, one in enumerate(plate.fields):
        for c, name in enumerate(plate.channels):
            np.testing.assert_array_equal([read_plane(ref) for ref in one.images[name]], full[t, c])


def test_axes_of_older_versions(tmp_path):
    write_plate(tmp_path / "names", wells=("A/1",), shape=(1, 2, 3, 6, 7))
    write_plate(tmp_path / "none", wells=("A/1",), shape=(1, 2, 3, 6, 7))
    for path in "01":
        content = multiscales("tczyx")
        content["multiscales"][0]["axes"] = list("tczyx")
        group(tmp_path / "names" / "A" / "1" / path, "0.4", content)
        del content["multiscales"][0]["axes"]
        group(tmp_path / "none" / "A" / "1" / path, "0.4", content)
    for name in ("names", "none"):
        assert len(read(tmp_path / name).fields[0].images["GFP"]) == 3


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("Hoechst 33342", " GFP "), ("Hoechst 33342", "GFP")),
        (("Camera", "Camera"), ("1", "2")),
        (("", "GFP"), ("1", "GFP")),
        (("DNA",), ("DNA", "2")),
        ((None, 7), ("1", "7")),
        (None, ("1", "2")),
    ],
)
def test_channels_have_their_label_or_their_number(tmp_path, labels, expected):
    write_plate(tmp_path, labels=labels)
    assert read(tmp_path).channels == expected


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [
        ("micrometer", 0.325, 0.325),
        ("nanometer", 325, 0.325),
        ("millimeter", 0.00065, 0.65),
        ("µm", 1.3, 1.3),
        (None, 0.325, None),
        ("pixel", 1, None),
        ("micrometer", 0, None),
        ("micrometer", "0.3", None),
        ("micrometer", 1e999, None),
    ],
)
def test_pixel_size_with_its_unit(tmp_path, unit, scale, expected):
    write_plate(tmp_path, unit=unit, scale=scale)
    size = read(tmp_path).pixel_size
    assert size == (None if expected is None else pytest.approx(expected))


def test_scales_of_all_levels_and_of_one_multiply(tmp_path):
    write_plate(tmp_path, scale=2.0, coordinateTransformations=[{"type": "scale", "scale": [1, 1, 0.3, 0.3]}])
    assert read(tmp_path).pixel_size == pytest.approx(0.6)


def test_pixel_sizes_that_differ_are_said(tmp_path):
    write_plate(tmp_path)
    group(tmp_path / "A" / "1" / "1", "0.4", multiscales(scale=0.25))
    assert "pixel sizes differ: 0.25, 0.5 micrometres" in read(tmp_path).notes


@pytest.mark.parametrize(
    ("fields", "sites"),
    [
        (("0", "1", "10"), [0, 1, 10]),
        (("fov3", "fov2"), [2, 3]),
        (("left", "right"), [1, 2]),
        (("a1", "b1"), [1, 2]),
    ],
)
def test_sites_are_numbered_as_their_folders(tmp_path, fields, sites):
    write_plate(tmp_path, wells=("A/1",), fields=fields)
    assert [key.site for key in keys(read(tmp_path))] == sites


@pytest.mark.parametrize(("path", "well"), [("A/01", "A01"), ("a/1", "A01"), ("AA/3", "AA03"), ("3/4", "C04")])
def test_wells_by_their_path(tmp_path, path, well):
    write_plate(tmp_path, wells=(path,))
    assert keys(read(tmp_path))[0].well == well


def test_wells_by_their_index_where_the_path_says_nothing(tmp_path):
    write_plate(tmp_path, wells=("well/7",))
    content = {"rows": [{"name": "C"}], "columns": [{"name": "7"}]}
    content["wells"] = [{"path": "well/7", "rowIndex": 0, "columnIndex": 0}]
    group(tmp_path, "0.4", {"plate": content})
    assert keys(read(tmp_path))[0].well == "C07"
    content["wells"][0]["rowIndex"] = 4
    group(tmp_path, "0.4", {"plate": content})
    with pytest.raises(InputError, match="names a well 'well/7', which is not a row and a column"):
        read(tmp_path)


def test_an_index_that_contradicts_the_path_is_said(tmp_path):
    write_plate(tmp_path)
    content = plate_metadata(("A/1", "B/12"))
    content["plate"]["wells"][0]["rowIndex"] = 1
    group(tmp_path, "0.4", content)
    plate = read(tmp_path)
    assert [key.well for key in keys(plate)] == ["A01", "A01", "B12", "B12"]
    assert "1 wells lie in other rows or columns by their number" in plate.notes[0]


def test_a_well_listed_twice_is_refused(tmp_path):
    write_plate(tmp_path, wells=("A/1", "A/01"))
    with pytest.raises(InputError, match="lists well A01 twice"):
        read(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_acquisitions_are_plates(tmp_path, version):
    folder = tmp_path / "P.zarr"
    write_plate(
        folder, version, wells=("A/1",), fields=("0", "1", "2", "3"), more={"acquisitions": [{"id": 0}, {"id": 5}]}
    )
    well = {"images": [{"path": str(n), "acquisition": 5 * (n // 2)} for n in range(4)]}
    group(folder / "A" / "1", version, {"well": well})
    plate = read(folder)
    assert [(key.plate, key.site) for key in keys(plate)] == [
        ("P_acquisition0", 1), ("P_acquisition0", 2), ("P_acquisition5", 1), ("P_acquisition5", 2),
    ]  # fmt: skip
    assert plate.notes == ("2 plates: P_acquisition0, P_acquisition5",)
    assert plate.missing == ()


def test_one_acquisition_is_the_plate(tmp_path):
    write_plate(tmp_path / "P.zarr", more={"acquisitions": [{"id": 1}]})
    for well in ("A/1", "B/12"):
        group(tmp_path / "P.zarr" / well, "0.4", {"well": {"images": [{"path": "0", "acquisition": 1}]}})
    assert {key.plate for key in keys(read(tmp_path))} == {"P"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((None, None), ["day1", "day2"]),
        (("BR1", "BR2"), ["BR1", "BR2"]),
        (("same", "same"), ["day1", "day2"]),
        (("96-well", "384 Well Plate"), ["day1", "day2"]),
        ((7, ""), ["day1", "day2"]),
    ],
)
def test_several_plates_below_one_folder(tmp_path, names, expected):
    for number, name in enumerate(names, start=1):
        write_plate(tmp_path / f"day{number}.ome.zarr", wells=("A/1",), more={} if name is None else {"name": name})
    plate = read(tmp_path)
    assert sorted({key.plate for key in keys(plate)}) == expected
    assert plate.name == tmp_path.name


def test_plates_of_one_folder_name_keep_their_path(tmp_path):
    for day in ("day1", "day2"):
        write_plate(tmp_path / day / "plate.zarr", wells=("A/1",))
    assert sorted({key.plate for key in keys(read(tmp_path))}) == ["day1/plate", "day2/plate"]


def test_labels_and_other_levels_are_left_alone(tmp_path):
    write_plate(tmp_path, wells=("A/1",), fields=("0",))
    group(tmp_path / "A" / "1" / "0" / "labels", "0.4", {"labels": ["nuclei"]})
    array(tmp_path / "A" / "1" / "0" / "1", np.zeros((2, 3, 4, 4), np.uint16), "0.4")
    plate = read(tmp_path)
    assert len(plate.fields) == 1
    assert read_header(plate.fields[0].images["DNA"][0]).shape == (8, 9)


def test_image_files_beside_the_plate_are_left_out_and_said(tmp_path):
    write_plate(tmp_path / "P.zarr")
    (tmp_path / "A01_s1_w1.tif").touch()
    plate = read(tmp_path)
    assert plate.ignored == ("A01_s1_w1.tif",)
    assert plate.notes == ("1 image files beside the OME-Zarr plate are left out",)


def test_unicode_and_spaces(tmp_path):
    folder = tmp_path / "größe µ ヒト 1.zarr"
    write_plate(folder, labels=("DNS µ", "ДНК"))
    plate = read(folder)
    assert (plate.name, plate.channels) == ("größe µ ヒト 1", ("DNS µ", "ДНК"))
    assert read_channel(plate.fields[0], "ДНК").shape == (8, 9)


# the walk


def test_no_chunk_is_listed_and_no_well_visited(tmp_path, monkeypatch):
    write_plate(tmp_path / "a" / "P.zarr")
    write_plate(tmp_path / "without suffix", version="0.5")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    listing = scan(tmp_path)
    assert listing.stores == ("a/P.zarr", "without suffix")
    assert listing.images == listing.ignored == ()
    assert sorted(listed) == sorted(["a", tmp_path.name, "without suffix"])
    OmeZarrReader().read(listing)
    assert len(listed) == 3


def test_other_stores_are_no_plates(tmp_path):
    (tmp_path / "A01_s1_w1.tif").touch()
    field(tmp_path / "image.zarr", "0.4")
    field(tmp_path / "image without suffix", "0.5")
    array(tmp_path / "array.zarr", np.ones((4, 4), np.uint8))
    (tmp_path / "empty.zarr").mkdir()
    listing = scan(tmp_path)
    assert listing.stores == ()
    assert set(listing.ignored) == {"image.zarr/", "image without suffix/", "array.zarr/", "empty.zarr/"}
    assert OmeZarrReader().can_read(listing) is None
    with pytest.raises(InputError, match="no OME-Zarr plate in"):
        OmeZarrReader().read(listing)


@pytest.mark.parametrize("version", VERSIONS)
def test_folders_that_hold_no_plate_say_what_they_are(tmp_path, version):
    field(tmp_path / "image.zarr", version)
    with pytest.raises(
        InputError, match=r"no image in .*: 'image.zarr/' is a Zarr store without the metadata of an OME"
    ):
        scan(tmp_path)
    with pytest.raises(InputError, match=r"no image in .*image.zarr: it is a Zarr store without"):
        scan(tmp_path / "image.zarr")
    write_plate(tmp_path / "P.zarr", version)
    for inside in ("A", "A/1", "A/1/0"):
        with pytest.raises(InputError, match=r"it lies inside of the OME-Zarr plate .*P.zarr, give that folder"):
            scan(tmp_path / "P.zarr" / inside)


# half-written and damaged metadata


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_plate_promises_and_is_not_there_is_missing(tmp_path, version):
    write_plate(tmp_path, version, wells=("A/1", "A/2", "B/1"))
    shutil.rmtree(tmp_path / "A" / "2")
    shutil.rmtree(tmp_path / "B" / "1" / "1" / "0")
    metadata_file(tmp_path / "B" / "1" / "0", version).write_text("{")
    plate = read(tmp_path)
    assert [key.well for key in keys(plate)] == ["A01", "A01"]
    assert plate.missing == tuple(
        Missing(FieldKey(tmp_path.name, well, site, 1), channel)
        for well in ("A02", "B01") for site in (0, 1) for channel in ("DNA", "GFP")
    )  # fmt: skip
    assert "1 wells of the plate cannot be read" in plate.notes[0]
    assert "2 images of the plate cannot be used" in plate.notes[1]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("damage", [b"", b'{"plate": {"wel', b"[]", b"\xff\xfe\x00", b"[" * 200_000, b"\x89PNG"])
def test_a_damaged_plate_names_its_file(tmp_path, version, damage):
    write_plate(tmp_path / "P.zarr", version)
    file = metadata_file(tmp_path / "P.zarr", version)
    file.write_bytes(damage)
    listing = scan(tmp_path)
    assert OmeZarrReader().can_read(listing) == 0.9
    with pytest.raises(InputError) as error:
        OmeZarrReader().read(listing)
    (tmp_path / "A01_s1_w1.tif").touch()
    assert OmeZarrReader().can_read(scan(tmp_path)) == 0.2
    assert str(file) in str(error.value) and "damaged" in str(error.value)


@pytest.mark.parametrize("path", ["../../secret", "/etc", "", ".", "0/../../..", "C:\\data", None, 5, "a\0b"])
@pytest.mark.parametrize("where", ["well", "image", "level"])
def test_no_path_leads_out_of_the_store(tmp_path, path, where):
    write_plate(tmp_path / "P.zarr")
    if where == "well":
        group(tmp_path / "P.zarr", "0.4", {"plate": {"wells": [{"path": path}]}})
    elif where == "image":
        for well in ("A/1", "B/12"):
            group(tmp_path / "P.zarr" / well, "0.4", {"well": {"images": [{"path": path}]}})
    else:
        for well, name in product(("A/1", "B/12"), "01"):
            group(tmp_path / "P.zarr" / well / name, "0.4", multiscales(level=path))
    with pytest.raises(InputError, match=r"names a path|is not there|which is not a row|without a Zarr array"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"plate": {"x": 1}},
        {"plate": {"wells": 7}},
        {"plate": {"wells": [None, 7]}},
        {"plate": {"wells": [{"path": "Z/99"}]}},
        {"plate": {"wells": [{"path": "A/1"}], "rows": 5, "columns": {"a": 1}}},
        {"plate": {"wells": [{"path": "A/1", "rowIndex": -1, "columnIndex": 1e99}]}},
    ],
)
def test_odd_plate_metadata_are_input_errors_or_read(tmp_path, content):
    write_plate(tmp_path)
    group(tmp_path, "0.4", content)
    listing = scan(tmp_path)
    try:
        assert {key.well for key in keys(read(tmp_path))} == {"A01"}
    except InputError as error:
        assert str(tmp_path) in str(error)
    assert listing.stores == ("",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "describes no multiscale image"),
        ({"multiscales": []}, "describes no multiscale image"),
        ({"multiscales": [{"datasets": [{"path": "0"}]}]}, "axes without names"),
        (multiscales("zyx"), "axes z/y/x"),
        (multiscales("czxy"), "axes c/z/x/y"),
        (multiscales("cfyx"), "an axis 'f' of 3 places"),
        (multiscales(level="7"), "a folder without a Zarr array"),
    ],
)
def test_images_that_are_not_understood_say_why(tmp_path, content, reason):
    write_plate(tmp_path)
    group(tmp_path / "A" / "1" / "0", "0.4", content)
    plate = read(tmp_path)
    assert len(plate.fields) == 3 and reason in plate.notes[0]
    assert {missing.key.well for missing in plate.missing} == {"A01"}
    for well, path in product(("A/1", "B/12"), "01"):
        group(tmp_path / well / path, "0.4", content)
    with pytest.raises(InputError, match="no image of an OME-Zarr plate") as error:
        read(tmp_path)
    assert reason in str(error.value)


def test_millions_of_declared_planes_are_refused(tmp_path):
    write_plate(tmp_path, wells=("A/1",), fields=("0",))
    edit(tmp_path / "A" / "1" / "0" / "0", shape=[10**6, 10**6, 8, 9])
    with pytest.raises(InputError, match="declares more than"):
        read(tmp_path)


# pixels

V2_CODECS = {
    "none": None, "blosc": numcodecs.Blosc(), "blosc-zstd": numcodecs.Blosc("zstd", shuffle=2),
    "zlib": numcodecs.Zlib(), "gzip": numcodecs.GZip(), "zstd": numcodecs.Zstd(), "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(), "lzma": numcodecs.LZMA(),
}  # fmt: skip
V3_CODECS = {"none": None, "blosc": BloscCodec(), "gzip": GzipCodec(), "zstd": ZstdCodec()}
KINDS = {
    **{f"v2 {name}": ("0.4", {"compressors": codec}) for name, codec in V2_CODECS.items()},
    **{f"v2 / {name}": ("0.4", {"compressors": codec, "chunk_key_encoding": {"name": "v2", "separator": "/"}})
       for name, codec in list(V2_CODECS.items())[:2]},
    **{f"v3 {name}": ("0.5", {"compressors": codec}) for name, codec in V3_CODECS.items()},
    **{f"v3 shard {name}": ("0.5", {"compressors": codec, "shards": (1, 40, 60)}) for name, codec in V3_CODECS.items()},
    "v3 v2 keys": ("0.5", {"chunk_key_encoding": {"name": "v2", "separator": "."}}),
}  # fmt: skip


def picture(dtype=np.uint16, shape=(2, 37, 53)):
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def stored(folder, kind, data=None, chunks=(1, 20, 30)):
    version, options = KINDS[kind]
    return array(folder, picture() if data is None else data, version, chunks=chunks, **options)


def edit(folder, **changes):
    """Change an array's metadata."""
    file = next(path for path in (folder / ".zarray", folder / "zarr.json") if path.exists())
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def chunk_files(folder, index):
    return [Path(path) for path in files_of(ImageRef(str(folder), index))][2:]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_gives_its_pixels(tmp_path, kind):
    data = stored(tmp_path / "a", kind)
    for index in (0, 1):
        plane = read_plane(ImageRef(str(tmp_path / "a"), (index,)))
        np.testing.assert_array_equal(plane, data[index])
        assert plane.dtype == np.uint16 and plane.flags.c_contiguous
    files = chunk_files(tmp_path / "a", (1,))
    assert len(files) == (1 if "shard" in kind else 4) and all(file.is_file() for file in files)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_chunk_is_never_an_image(tmp_path, kind):
    stored(tmp_path / "a", kind)
    ref = ImageRef(str(tmp_path / "a"), (1,))
    whole = {file: file.read_bytes() for file in chunk_files(tmp_path / "a", (1,))}
    for file, content in whole.items():
        file.unlink()
        with pytest.raises(ImageError, match=rf"lacks 1 of the {len(whole)} chunks of plane \(1,\)") as error:
            read_plane(ref)
        assert isinstance(error.value.__cause__, FileNotFoundError)  # to be tried again
        file.write_bytes(content)
    for file in whole:
        file.unlink()
    with pytest.raises(ImageError, match=f"lacks {len(whole)} of the {len(whole)} chunks"):
        read_plane(ref)
    assert read_header(ref) == Header((37, 53), "uint16")  # no chunk is looked at
    assert read_plane(ImageRef(str(tmp_path / "a"), (0,))).shape == (37, 53)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, bool])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_chunk_absent_from_its_shard_is_never_an_image(tmp_path, dtype, kept):
    folder = tmp_path / "a"
    made = zarr.create_array(
        folder, shape=(1, 40, 60), dtype=dtype, chunks=(1, 20, 30), shards=(1, 40, 60), fill_value=0
    )
    data = np.zeros((1, 40, 60), dtype)
    parts = [
        (slice(None), rows, columns) for rows in (slice(20), slice(20, 40)) for columns in (slice(30), slice(30, 60))
    ]
    for part in parts[:kept]:
        data[part] = 1
    made[:] = data
    ref = ImageRef(str(folder), (0,))
    with pytest.raises(ImageError, match=r"lacks (1 of the 1 chunks|75%|25%) of plane") as error:
        read_plane(ref)
    assert isinstance(error.value.__cause__, FileNotFoundError)
    data[:] = 1
    made[:] = data
    np.testing.assert_array_equal(read_plane(ref), data[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float64, bool])
def test_pixels_that_look_like_the_fill_value_are_pixels(tmp_path, dtype):
    from cellinfer.zarr_pixels import _fill_values

    fills = _fill_values(np.dtype(dtype).name)
    data = np.array(fills, dtype)[np.random.default_rng(0).integers(0, 2, (40, 60))]
    array(tmp_path / "a", data, chunks=(20, 30), shards=(40, 60))
    np.testing.assert_array_equal(read_image(tmp_path / "a"), data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_chunk_is_never_an_image(tmp_path, kind):
    stored(tmp_path / "a", kind)
    ref = ImageRef(str(tmp_path / "a"), (0,))
    file = chunk_files(tmp_path / "a", (0,))[-1]
    content = file.read_bytes()
    for size in {0, 1, 10, 17, len(content) // 4, len(content) // 2, len(content) - 9, len(content) - 1}:
        file.write_bytes(content[:size])
        try:
            plane = read_plane(ref)
        except ImageError as error:
            assert str(tmp_path) in str(error)
        else:  # the last byte of some codecs carries nothing
            assert size == len(content) - 1
            file.write_bytes(content)
            np.testing.assert_array_equal(plane, read_plane(ref))


def test_a_cut_off_blosc_chunk_within_a_shard_is_never_an_image(tmp_path):
    from zarr.codecs import ShardingCodec

    shards = ShardingCodec(
        chunk_shape=(20, 30), codecs=[zarr.codecs.BytesCodec(), BloscCodec()], index_location="start"
    )
    data = picture(shape=(40, 60))
    array(tmp_path / "a", data, chunks=(40, 60), serializer=shards, compressors=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a"), data)
    (file,) = chunk_files(tmp_path / "a", ())
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ImageError, match="a chunk is cut off"):
        read_image(tmp_path / "a")


@pytest.mark.parametrize("kind", ["v2 blosc", "v2 zstd", "v3 zstd", "v3 shard zstd", "v2 zlib"])
def test_random_damage_gives_the_declared_shape_or_an_image_error(tmp_path, kind):
    stored(tmp_path / "a", kind)
    file = chunk_files(tmp_path / "a", (0,))[0]
    content, rng = file.read_bytes(), np.random.default_rng(5)
    for _ in range(30):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            assert read_plane(ImageRef(str(tmp_path / "a"), (0,))).shape == (37, 53)
        except ImageError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_types_are_refused(tmp_path, version):
    array(tmp_path / "a", picture(), version)
    key = "dtype" if version == "0.4" else "data_type"
    ref = ImageRef(str(tmp_path / "a"), (0,))
    for wrong in (
        "|O",
        "<U8",
        "<M8[s]",
        "|V4",
        "what",
        7,
        None,
        [["a", "<u2"]],
        {"name": "struct"},
        "object",
        "x" * 999,
    ):
        edit(tmp_path / "a", **{key: wrong})
        with pytest.raises(ImageError, match="which is not supported"):
            read_header(ref)
        with pytest.raises(ImageError, match="which is not supported"):
            read_plane(ref)
    edit(tmp_path / "a", **{key: "<f8" if version == "0.4" else "float64"})  # not what the chunks hold
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_plane(ref)


def test_types_are_read_by_the_rules_of_all_images(tmp_path):
    for dtype, expected in ((">u2", np.uint16), ("<i2", np.float32), (bool, np.uint8), (">f8", np.float32)):
        data = np.array([[0, 1], [-1, 0]]).astype(dtype) if "i" in str(dtype) else np.array([[0, 1], [1, 0]], dtype)
        for version in VERSIONS:
            array(tmp_path / "a", data, version)
            read_back = read_image(tmp_path / "a")
            assert read_back.dtype == expected
            np.testing.assert_array_equal(read_back, data.astype(expected))
    array(tmp_path / "a", np.ones((3, 3), np.complex64))
    with pytest.raises(ImageError, match="complex64, which is not supported"):
        read_image(tmp_path / "a")


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_codecs_and_names_are_refused(tmp_path, version):
    array(tmp_path / "a", picture(), version)
    ref = ImageRef(str(tmp_path / "a"), (0,))
    changes = (
        [{"compressor": {"id": "secret"}}, {"filters": [{"id": "secret"}]}, {"dimension_separator": "x"}]
        if version == "0.4"
        else [
            {"codecs": [{"name": "bytes"}, {"name": "secret"}]},
            {"chunk_key_encoding": {"name": "secret"}},
            {"chunk_grid": {"name": "secret"}},
            {"codecs": "secret"},
        ]
    )
    whole = next(path for path in (tmp_path / "a").iterdir() if path.name in (".zarray", "zarr.json"))
    content = whole.read_text()
    for change in changes:
        whole.write_text(content)
        edit(tmp_path / "a", **change)
        with pytest.raises(ImageError, match=r"secret|not known|cannot be decoded"):
            read_plane(ref)


def test_pickle_is_never_run(tmp_path):
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (ran,))

    import pickle

    array(tmp_path / "a", picture(shape=(4, 4)), "0.4", compressors=None)
    chunk_files(tmp_path / "a", ())[0].write_bytes(pickle.dumps(Bomb()))
    for change in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"dtype": "|O"}):
        edit(tmp_path / "a", **{"filters": None, "compressor": None, "dtype": "<u2", **change})
        with pytest.raises(ImageError, match=r"stored as Python pickle|is not supported"):
            read_image(tmp_path / "a")
    assert not ran.exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_giant_declarations_are_refused_by_the_header(tmp_path, version):
    array(tmp_path / "a", picture(shape=(8, 9)), version)
    ref = ImageRef(str(tmp_path / "a"))
    sizes = (lambda *chunks: {"chunks": chunks}) if version == "0.4" else (
        lambda *chunks: {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}
    )  # fmt: skip
    for change, reason in (
        ({"shape": [10**9, 10**9]}, "more than the limit"),
        ({"shape": [0, 9]}, "declares 9 x 0 pixels"),
        ({"shape": [20000, 20000], **sizes(1, 1)}, "declares 400000000 chunks"),
        ({"shape": [8, 9], **sizes(10**6, 10**6)}, "chunks of the shape"),
        ({"shape": [-1, 9]}, "shape or chunks that no image has"),
        ({"shape": [8.5, 9]}, "shape or chunks that no image has"),
        ({"shape": [8], **sizes(8)}, "shape or chunks that no image has"),
        ({"shape": "8"}, "shape or chunks that no image has"),
        ({"shape": [8, 9], **sizes(0, 9)}, "shape or chunks that no image has"),
        ({"shape": [8, 9], **sizes(8)}, "shape or chunks that no image has"),
    ):
        edit(tmp_path / "a", **{**sizes(8, 9), **change})
        with pytest.raises(ImageError, match=reason):
            read_header(ref)
        with pytest.raises(ImageError, match=reason):
            read_plane(ref)
    edit(tmp_path / "a", shape=[8, 9], **sizes(8, 9))
    assert read_plane(ref).shape == (8, 9)
    with pytest.raises(ImageError, match="more than the limit of 71"):
        read_plane(ref, max_pixels=71)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_index_must_name_one_plane(tmp_path, version):
    array(tmp_path / "a", picture(), version)
    for index in ((), (0, 0), (2,), (-1,)):
        for action in (read_plane, read_header):
            with pytest.raises(ImageError, match=r"holds 2 planes|there is no plane"):
                action(ImageRef(str(tmp_path / "a"), index))


def test_folders_that_are_no_array(tmp_path):
    with pytest.raises(ImageError, match="a folder without a Zarr array") as error:
        read_image(tmp_path)
    assert isinstance(error.value.__cause__, FileNotFoundError)
    group(tmp_path, "0.5", {})
    with pytest.raises(ImageError, match="no Zarr array of version 3"):
        read_image(tmp_path)
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3')
    with pytest.raises(ImageError, match=r"zarr.json is damaged or still being written"):
        read_header(ImageRef(str(tmp_path)))


def test_the_files_that_a_plane_depends_on(tmp_path):
    assert files_of(ImageRef("/x/a.tif", (3,))) == ["/x/a.tif"]
    array(tmp_path, picture(), "0.4", chunks=(1, 37, 30))
    own = [str(tmp_path / "zarr.json"), str(tmp_path / ".zarray")]
    assert files_of(ImageRef(str(tmp_path), (1,))) == [*own, str(tmp_path / "1.0.0"), str(tmp_path / "1.0.1")]
    assert files_of(ImageRef(str(tmp_path), (2,))) == own
    (tmp_path / ".zarray").unlink()
    assert files_of(ImageRef(str(tmp_path), (1,))) == own


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all"
)
def test_a_chunk_that_may_not_be_read_can_be_tried_again(tmp_path):
    array(tmp_path / "a", picture(shape=(8, 9)))
    chunk_files(tmp_path / "a", ())[0].chmod(0)
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / "a")
    assert isinstance(error.value.__cause__, OSError)


def test_only_the_chunks_of_the_plane_are_read(tmp_path):
    data = array(tmp_path / "a", picture(shape=(5, 37, 53)), chunks=(1, 20, 30))
    for index in range(5):
        if index != 3:
            for file in chunk_files(tmp_path / "a", (index,)):
                file.write_bytes(b"broken")
    np.testing.assert_array_equal(read_plane(ImageRef(str(tmp_path / "a"), (3,))), data[3])


def test_planes_can_be_read_from_several_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    data = array(tmp_path / "a", picture(shape=(12, 37, 53)), "0.4", chunks=(1, 20, 30), compressors=numcodecs.Blosc())
    with ThreadPoolExecutor(4) as pool:
        planes = list(pool.map(lambda n: read_plane(ImageRef(str(tmp_path / "a"), (n,))), range(12)))
    np.testing.assert_array_equal(planes, data)


def test_zarr_is_not_imported_before_it_is_needed():
    import subprocess

    code = "import sys, cellinfer.readers, cellinfer.images; sys.exit('zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# a full plate


def test_a_full_384_well_plate(tmp_path):
    """Of 17,280 planes; metadata only, as there are no pixels to be looked at."""
    wells = [f"{row}/{column}" for row, column in product("ABCDEFGHIJKLMNOP", range(1, 25))]
    group(tmp_path, "0.4", plate_metadata(wells))
    image, one = json.dumps(multiscales("cyx", "abcde")), field(tmp_path / "one", "0.4", (5, 8, 9), axes="cyx")
    declared = (tmp_path / "one" / "0" / ".zarray").read_text()
    for well in wells:
        group(tmp_path / well, "0.4", {"well": {"images": [{"path": str(n)} for n in range(9)]}})
        for n in range(9):
            (tmp_path / well / str(n) / "0").mkdir(parents=True)
            (tmp_path / well / str(n) / ".zattrs").write_text(image)
            (tmp_path / well / str(n) / "0" / ".zarray").write_text(declared)
    plate = read(tmp_path)
    assert one.shape[0] == len(plate.channels) == 5
    assert (len(plate.fields), plate.wells, plate.missing) == (3456, 384, ())
    assert plate.fields[-1].key == FieldKey(tmp_path.name, "P24", 8, 1)


# a real store


@pytest.mark.realdata
def test_a_real_array(data_folder):
    folder = data_folder / "cell_painting_sites" / "jump_rab30" / "images.zarr" / "images"
    whole = zarr.open_array(folder, mode="r")[:]
    assert whole.shape == (2, 5, 384, 384)
    for index in product(range(2), range(5)):
        np.testing.assert_array_equal(read_plane(ImageRef(str(folder), index)), whole[index])
    with pytest.raises(InputError, match=r"images.zarr/' is a Zarr store without the metadata of an OME-Zarr plate"):
        scan(folder.parents[1])
