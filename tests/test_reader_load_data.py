"""CellProfiler LoadData lists: columns, paths from other computers, several lists, damage."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_channel, read_plane
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers._assemble import assemble
from cellinfer.readers._scan import scan
from cellinfer.readers.load_data import LoadDataReader
from cellinfer.wells import well_name


def read(folder):
    listing = scan(folder)
    reader = LoadDataReader()
    assert reader.can_read(listing) == 0.95
    return assemble(listing, reader.read(listing))


def keys(plate):
    return [(field.key.plate, field.key.well, field.key.site, field.key.time) for field in plate.fields]


def files(plate, channel):
    return [plate_path(plate, field.images[channel][0].path) for field in plate.fields if channel in field.images]


def plate_path(plate, path):
    return Path(path).relative_to(plate.root).as_posix()


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path, header, *rows, encoding="utf-8", delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([header.split(","), *rows])


HEADER = "FileName_DNA,PathName_DNA,FileName_ER,PathName_ER,Metadata_Plate,Metadata_Well,Metadata_Site"


def rows(path, wells=("A01", "B02"), sites=(1, 2), plate="P1"):
    return [
        [f"{well}_{site}_d.tif", path, f"{well}_{site}_e.tif", path, plate, well, site]
        for well in wells
        for site in sites
    ]


def images(wells=("A01", "B02"), sites=(1, 2)):
    return [f"{well}_{site}_{channel}.tif" for well in wells for site in sites for channel in "de"]


def test_wells_sites_channels_and_plate(tmp_path):
    touch(tmp_path / "images", *images())
    write(tmp_path / "load_data.csv", HEADER, *rows(str(tmp_path / "images")))
    plate = read(tmp_path)
    assert (plate.name, plate.layout, plate.channels) == ("P1", "load-data", ("DNA", "ER"))
    assert keys(plate) == [("P1", well, site, 1) for well in ("A01", "B02") for site in (1, 2)]
    assert files(plate, "ER") == [f"images/{name}" for name in images() if name.endswith("e.tif")]
    assert (plate.missing, plate.notes, plate.ignored) == ((), (), ("load_data.csv",))


@pytest.mark.parametrize(
    "path",
    [
        "images",
        "images/",
        "./images",
        "../{name}/images",
        ".\\images\\",
        "{root}/images/",
    ],
)
def test_paths_below_the_folder(tmp_path, path):
    touch(tmp_path, *(f"images/{name}" for name in images()), *(f"old/{name}" for name in images()))
    given = path.format(root=tmp_path, name=tmp_path.name)
    write(tmp_path / "list.csv", HEADER, *rows(given))
    plate = read(tmp_path)
    assert files(plate, "DNA")[0] == "images/A01_1_d.tif"
    assert plate.notes == ("8 images are left out, list.csv does not list them (such as 'old/A01_1_d.tif')",)


@pytest.mark.parametrize(
    "path",
    [
        "D:\\screen one\\P1\\images\\",
        "d:/screen/images",
        "\\\\server\\share\\images",
        "/home/ubuntu/bucket/projects/P1/images/",
        "s3://bucket/P1/images",
        "file:///D:/screen/P1/images/",
        "/nowhere",
        "../../../../etc",
        "",
    ],
)
def test_paths_of_other_computers(tmp_path, path):
    touch(tmp_path / "images", *images())
    write(tmp_path / "load_data.csv", HEADER, *rows(path))
    plate = read(tmp_path)
    assert files(plate, "DNA")[:2] == ["images/A01_1_d.tif", "images/A01_2_d.tif"]
    assert "8 images are not where load_data.csv says and were found by their names" in plate.notes[0]


def test_folders_of_the_path_tell_files_of_one_name_apart(tmp_path):
    touch(tmp_path, *(f"{plate}/Images/{name}" for plate in ("P1", "P2") for name in images()))
    listed = [row for plate in ("P1", "P2") for row in rows(f"E:\\data\\{plate}\\Images\\", plate=plate)]
    write(tmp_path / "load_data.csv", HEADER, *listed)
    plate = read(tmp_path)
    assert plate.notes[0] == "2 plates: P1, P2"
    for field in plate.fields:
        assert plate_path(plate, field.images["DNA"][0].path).startswith(f"{field.key.plate}/Images/")
        assert plate_path(plate, field.images["DNA"][0].path).endswith(f"{field.key.well}_{field.key.site}_d.tif")


def test_images_of_one_plate_are_not_taken_for_those_of_another(tmp_path):
    touch(tmp_path / "P1" / "Images", *images())
    listed = [row for plate in ("P1", "P2") for row in rows(f"E:\\data\\{plate}\\Images\\", plate=plate)]
    write(tmp_path / "P1" / "load_data.csv", HEADER, *listed)
    plate = read(tmp_path / "P1")
    assert {key[0] for key in keys(plate)} == {"P1"}
    assert {gap.key.plate for gap in plate.missing} == {"P2"} and len(plate.missing) == 8
    assert any(note.startswith("8 images that load_data.csv lists are not there") for note in plate.notes)


def test_where_names_do_not_decide_nothing_is_taken(tmp_path):
    touch(tmp_path / "here", *images())
    listed = [row for plate in ("P1", "P2") for row in rows(f"E:\\data\\{plate}\\", plate=plate)]
    write(tmp_path / "load_data.csv", HEADER, *listed)
    listing = scan(tmp_path)
    with pytest.raises(InputError, match=r"none of the 16 images that load_data\.csv lists .*folder called as"):
        LoadDataReader().read(listing)


def test_one_of_two_files_of_one_name_is_not_guessed(tmp_path):
    touch(tmp_path, "a/A01_1_d.tif", "b/A01_1_d.tif", "b/A01_1_e.tif")
    write(tmp_path / "load_data.csv", HEADER, *rows("/lost", ("A01",), (1,)))
    plate = read(tmp_path)
    assert files(plate, "ER") == ["b/A01_1_e.tif"]
    assert plate.missing == (Missing(FieldKey("P1", "A01", 1, 1), "DNA"),)
    assert "1 images of load_data.csv are left out, names do not say which they are" in plate.notes[1]
    assert {"a/A01_1_d.tif", "b/A01_1_d.tif"} <= set(plate.ignored)


def test_wells_as_folders_while_the_plate_is_acquired(tmp_path):
    touch(tmp_path, "A01/d.tif", "A02/d.tif")
    listed = [["d.tif", f"C:\\run\\{well}", well] for well in ("A01", "A02", "A03", "A04")]
    write(tmp_path / "load_data.csv", "FileName_DNA,PathName_DNA,Metadata_Well", *listed)
    plate = read(tmp_path)
    assert files(plate, "DNA") == ["A01/d.tif", "A02/d.tif"]
    assert [gap.key.well for gap in plate.missing] == ["A03", "A04"]


def test_listed_images_that_are_not_there_are_missing(tmp_path):
    touch(tmp_path, *images()[:-1])
    write(tmp_path / "load_data.csv", HEADER, *rows("."))
    plate = read(tmp_path)
    assert plate.missing == (Missing(FieldKey("P1", "B02", 2, 1), "ER"),)
    assert plate.notes == ("1 images that load_data.csv lists are not there (such as './B02_2_e.tif')",)


def test_upper_and_lower_case_and_accents_do_not_matter(tmp_path):
    name = "Zähl ung_é.TIF"
    touch(tmp_path / "Bilder", unicodedata.normalize("NFD", name))
    write(tmp_path / "LoadData.CSV", "filename_DNA,PATHNAME_DNA,metadata_well", [name.lower(), "BILDER", "a1"])
    plate = read(tmp_path)
    assert keys(plate) == [(tmp_path.name, "A01", 1, 1)]
    assert plate.notes == ()


def test_files_that_differ_in_case_only_are_told_apart(tmp_path):
    touch(tmp_path, "a.tif", "b.tif")
    touch(tmp_path, "A.tif")
    if len(scan(tmp_path).images) == 2:
        pytest.skip("this file system takes a.tif and A.tif for one")
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"], ["A.tif", "A02"], ["B.tif", "A03"])
    assert files(read(tmp_path), "DNA") == ["a.tif", "A.tif", "b.tif"]


@pytest.mark.parametrize(
    ("header", "cells", "key"),
    [
        ("Metadata_Well", ["c7"], ("", "C07", 1, 1)),
        ("Metadata_Well", ["r03c07"], ("", "C07", 1, 1)),
        ("Metadata_Row,Metadata_Col", ["3", "7"], ("", "C07", 1, 1)),
        ("Metadata_Row,Metadata_Column", ["AA", "07"], ("", "AA07", 1, 1)),
        ("Metadata_Row,Metadata_Col", ["3.0", "7.0"], ("", "C07", 1, 1)),
        ("Metadata_Barcode,Metadata_Well,Metadata_FieldID,Metadata_T", ["001", "A01", "05", "3"], ("001", "A01", 5, 3)),
        ("Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_Time", ["", "A01", "s2", "24h"], ("", "A01", 2, 24)),
        ("Metadata_Site,Metadata_Well,Metadata_Field", ["0", "A01", "9"], ("", "A01", 0, 1)),
        ("Metadata_Well,Metadata_Site", ["A01", ""], ("", "A01", 1, 1)),
        ("Metadata_Plate,Metadata_Well", ['=HYPERLINK("http://x")', "A01"], ('=HYPERLINK("http://x")', "A01", 1, 1)),
    ],
)
def test_metadata_columns(tmp_path, header, cells, key):
    touch(tmp_path, "x.tif")
    write(tmp_path / "l.csv", f"FileName_DNA,{header}", ["x.tif", *cells])
    assert keys(read(tmp_path)) == [(key[0] or tmp_path.name, *key[1:])]


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("Metadata_Well", ["Z99"], r"l\.csv, row 3: 'Z99' is not a well"),
        ("Metadata_Well", [""], r"l\.csv, row 3: '' is not a well"),
        ("Metadata_Row,Metadata_Col", ["", "3"], r"l\.csv, row 3: the row '' is no whole number"),
        ("Metadata_Row,Metadata_Col", ["A" * 9999, "3"], r"row 3: 'AAAA.* is not a well"),
        ("Metadata_Well,Metadata_Site", ["A01", "=1+1"], r"row 3: the site '=1\+1' is no whole number"),
        ("Metadata_Well,Metadata_Site", ["A01", "-1"], r"row 3: the site '-1' is no whole number"),
        ("Metadata_Well,Metadata_Time", ["A01", "9" * 5000], r"row 3: the time '999.* is no whole number"),
        ("Metadata_Well,Series_DNA", ["A01", "2"], r"row 3: series 2 of 'y\.tif': files with series are not read"),
    ],
)
def test_impossible_cells_are_named(tmp_path, header, cells, message):
    touch(tmp_path, "x.tif", "y.tif")
    good = {"Metadata_Well": "A01", "Metadata_Row": "1", "Metadata_Col": "1"}
    first = [good.get(name, "") for name in header.split(",")]
    write(tmp_path / "l.csv", f"FileName_DNA,{header}", ["x.tif", *first], ["y.tif", *cells])
    with pytest.raises(InputError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "file:///D:/data/a%20b%231.tif",
        "file:/home/me/a%20b%231.tif",
        "https://idr.org/plate/a%20b%231.tif?version=2#top",
        "s3://bucket/plate/a%20b%231.tif",
        "a b#1.tif",
    ],
)
def test_urls_are_looked_for_on_disk(tmp_path, url):
    touch(tmp_path / "images", "a b#1.tif")
    write(tmp_path / "l.csv", "URL_DNA,Metadata_Well", [url, "A01"])
    assert files(read(tmp_path), "DNA") == ["images/a b#1.tif"]


def test_frames_are_pages(tmp_path):
    pages = np.random.default_rng(1).integers(0, 999, (3, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    header = "FileName_DNA,Frame_DNA,FileName_ER,Frame_ER,Series_ER,Metadata_Well"
    write(tmp_path / "l.csv", header, ["stack.tif", "2", "stack.tif", "0", "0", "A01"])
    (field,) = read(tmp_path).fields
    np.testing.assert_array_equal(read_channel(field, "DNA"), pages[2])
    np.testing.assert_array_equal(read_channel(field, "ER"), pages[0])


def test_frames_with_z_are_stacks(tmp_path):
    pages = np.random.default_rng(2).integers(0, 999, (3, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    listed = [["stack.tif", frame, z, "A01"] for frame, z in ((1, 10), (2, 9), (0, 11))]
    write(tmp_path / "l.csv", "FileName_DNA,Frame_DNA,Metadata_Z,Metadata_Well", *listed)
    (field,) = read(tmp_path).fields
    np.testing.assert_array_equal([read_plane(ref) for ref in field.images["DNA"]], pages[[2, 1, 0]])


def test_frame_0_of_a_file_without_pages_is_the_file(tmp_path):
    touch(tmp_path, "a.png")
    write(tmp_path / "l.csv", "FileName_DNA,Frame_DNA,Metadata_Well", ["a.png", "0", "A01"])
    assert read(tmp_path).fields[0].images["DNA"][0].index == ()


def test_pixel_size_comes_from_the_first_image(tmp_path):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.uint16), ome=True, metadata=metadata)
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"])
    assert read(tmp_path).pixel_size == pytest.approx(0.65)


def test_illumination_functions_are_no_images(tmp_path):
    touch(tmp_path, "a.tif", "P1_IllumDNA.npy", "illum.tif")
    header = "FileName_DNA,FileName_IllumDNA,PathName_IllumDNA,URL_illumER,Metadata_Well"
    write(tmp_path / "load_data_with_illum.csv", header, ["a.tif", "P1_IllumDNA.npy", ".", "illum.tif", "A01"])
    plate = read(tmp_path)
    assert plate.channels == ("DNA",)
    assert plate.notes[0] == (
        "illumination functions are no images, their columns are left out: FileName_IllumDNA, URL_illumER"
    )
    assert {"P1_IllumDNA.npy", "illum.tif"} <= set(plate.ignored)


def test_of_a_list_and_its_copy_with_illumination_the_plain_one_is_taken(tmp_path):
    touch(tmp_path, "a.tif")
    write(tmp_path / "load_data.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"])
    write(
        tmp_path / "load_data_with_illum.csv", "FileName_DNA,FileName_IllumDNA,Metadata_Well", ["a.tif", "i.npy", "A01"]
    )
    assert read(tmp_path).notes == ("load_data.csv is taken, not load_data_with_illum.csv",)


def test_several_lists_are_refused_by_name(tmp_path):
    touch(tmp_path, "a.tif")
    for name in ("one.csv", "two.csv"):
        write(tmp_path / name, "FileName_DNA,Metadata_Well", ["a.tif", "A01"])
    with pytest.raises(InputError, match=r"2 LoadData lists in .*: one\.csv, two\.csv; keep one"):
        read(tmp_path)


def test_a_list_in_a_folder_is_found_by_its_name(tmp_path):
    touch(tmp_path, "images/a.tif")
    write(tmp_path / "load_data_csv" / "P1" / "load_data.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"])
    write(tmp_path / "other" / "table.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"])
    assert files(read(tmp_path), "DNA") == ["images/a.tif"]
    write(tmp_path / "mine.csv", "FileName_GFP,Metadata_Well", ["a.tif", "A01"])
    assert read(tmp_path).channels == ("GFP",)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Well,Dose", ["A01", "3"]),
        ("FileName_DNA,PathName_DNA", ["a.tif", "."]),  # no wells: names have to tell
        ("FileName_DNA,Metadata_Row", ["a.tif", "A"]),
        ("PathName_DNA,Metadata_Well", [".", "A01"]),
        ("FileName_IllumDNA,Metadata_Well", ["a.tif", "A01"]),
        ("FileName_DNA,Metadata_Well,ExecutionTime_01Images,ModuleError_01Images", ["a.tif", "A01", "1", "0"]),
        ("ImageNumber,FileName_DNA,MD5Digest_DNA,Metadata_Well", ["1", "a.tif", "x", "A01"]),
        ("", []),
    ],
)
def test_other_tables_are_no_lists(tmp_path, header, row):
    touch(tmp_path, "a.tif")
    write(tmp_path / "load_data.csv", header, row)
    listing = scan(tmp_path)
    assert LoadDataReader().can_read(listing) is None
    with pytest.raises(InputError, match=r"no LoadData list in .*FileName_<channel>, Metadata_Well"):
        LoadDataReader().read(listing)


@pytest.mark.parametrize("data", [b"", b"\0" * 99, b"\xff\xfe", b'"', b"\x89PNG\r\n"])
def test_files_that_are_no_text_are_no_lists(tmp_path, data):
    touch(tmp_path, "a.tif")
    (tmp_path / "load_data.csv").write_bytes(data)
    assert LoadDataReader().can_read(scan(tmp_path)) is None


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [("utf-8-sig", ",", "\r\n"), ("utf-16", "\t", "\n"), ("utf-8", ";", "\n"), ("utf-8", ",", "\n\n,\n\n")],
)
def test_as_other_programs_write_csv(tmp_path, encoding, delimiter, end):
    touch(tmp_path, "ä, b.tif")
    cells = [["FileName_DNA", "Metadata_Well"], ["ä, b.tif", "A01"]]
    text = "".join(delimiter.join(f'"{cell}"' for cell in line) + end for line in cells)
    (tmp_path / "l.csv").write_text(text, encoding=encoding, newline="")
    assert files(read(tmp_path), "DNA") == ["ä, b.tif"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-4], r"l\.csv: row 5 has 6 cells for 7 columns: the file is cut off or damaged"),
        (lambda data: data.replace(b"A01_2_d", b'"A01_2_d'), r"l\.csv: row 3 has 1 cells for 7 columns"),
        (lambda data: data.replace(b"B02_1_d", b"B\xe4_1_d"), r"l\.csv is not UTF-8 text: save it as `CSV UTF-8`"),
        (lambda data: data.replace(b"A01_2_d", b'"' + b"x" * 200_000), r"l\.csv is damaged \(field larger than"),
        (lambda data: data.replace(b"1\r\n", b"1,more\r\n", 1), r"l\.csv: row 2 has 8 cells for 7 columns"),
    ],
)
def test_a_damaged_list_is_named_with_what_to_do(tmp_path, spoil, message):
    touch(tmp_path, *images())
    write(tmp_path / "l.csv", HEADER, *rows("."))
    (tmp_path / "l.csv").write_bytes(spoil((tmp_path / "l.csv").read_bytes()))
    with pytest.raises(InputError, match=message):
        LoadDataReader().read(scan(tmp_path))


def test_a_first_line_that_does_not_end(tmp_path):
    touch(tmp_path, "a.tif")
    (tmp_path / "l.csv").write_text('FileName_DNA,Metadata_Well,"x\n' + "a" * 200_000, encoding="utf-8")
    with pytest.raises(InputError, match=r"l\.csv is damaged, its first line does not end"):
        read(tmp_path)


def test_one_path_for_two_places_is_refused(tmp_path):
    touch(tmp_path, "a.tif")
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"], ["a.tif", "A02"])
    with pytest.raises(InputError, match=r"rows 2 and 3 name the same image 'a\.tif'.*Frame_ columns"):
        read(tmp_path)


def test_two_paths_for_one_place_are_refused(tmp_path):
    touch(tmp_path, "a.tif", "b.tif")
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well", ["a.tif", "A01"], ["b.tif", "A01"])
    with pytest.raises(InputError, match=r"two images for well A01.*a\.tif and .*b\.tif"):
        read(tmp_path)


def test_a_row_written_twice_and_an_image_used_twice_are_fine(tmp_path):
    touch(tmp_path, "a.tif")
    row = ["a.tif", "a.tif", "A01"]
    write(tmp_path / "l.csv", "FileName_DNA,FileName_Copy,Metadata_Well", row, row)
    (field,) = read(tmp_path).fields
    assert field.images["DNA"] == field.images["Copy"] and len(field.images["DNA"]) == 1


def test_an_empty_cell_is_no_image(tmp_path):
    touch(tmp_path, "a.tif", "b.tif", "c.tif")
    listed = [["a.tif", "b.tif", "A01"], ["c.tif", "", "A02"]]
    write(tmp_path / "l.csv", "FileName_DNA,FileName_ER,Metadata_Well", *listed)
    plate = read(tmp_path)
    assert [gap.channel for gap in plate.missing] == ["ER"]
    assert plate.notes == ()


def test_files_outside_the_folder_are_not_opened(tmp_path):
    touch(tmp_path, "secret.tif", "plate/a.tif")
    listed = [["a.tif", ".", "A01"], ["secret.tif", str(tmp_path), "A02"], ["secret.tif", "..", "A03"]]
    write(tmp_path / "plate" / "l.csv", "FileName_DNA,PathName_DNA,Metadata_Well", *listed)
    plate = read(tmp_path / "plate")
    assert files(plate, "DNA") == ["a.tif"]
    assert [gap.key.well for gap in plate.missing] == ["A02", "A03"]


def test_a_list_of_nothing_that_is_there(tmp_path):
    touch(tmp_path, "x.tif")
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well", ["=cmd|' /C calc'!A0", "A01"])
    with pytest.raises(InputError, match=r"none of the 1 images that l\.csv lists \(such as .*calc.*\) is for sure in"):
        read(tmp_path)
    write(tmp_path / "l.csv", "FileName_DNA,Metadata_Well")
    with pytest.raises(InputError, match="none of the 0 images"):
        read(tmp_path)


def test_a_full_384_well_plate(tmp_path):
    wells = [well_name(row, column) for row in range(1, 17) for column in range(1, 25)]
    channels = range(1, 6)
    header = ",".join(f"FileName_C{channel},PathName_C{channel}" for channel in channels)
    listed = [
        [cell for channel in channels for cell in (f"{well}_{site}_{channel}.tif", "D:\\a\\")] + [well, site]
        for well in wells
        for site in range(1, 10)
    ]
    touch(tmp_path, *(cell for row in listed for cell in row[:10:2]))
    write(tmp_path / "load_data.csv", f"{header},Metadata_Well,Metadata_Site", *listed)
    plate = read(tmp_path)
    assert (len(plate.fields), plate.wells, plate.missing) == (3456, 384, ())
    assert len(plate.notes) == 1 and plate.notes[0].startswith("17280 images are not where")


@pytest.mark.realdata
def test_a_list_of_real_images_made_on_another_computer(data_folder, tmp_path):
    real = data_folder / "bbbc013_plate"
    names = sorted(path.name for path in real.glob("Channel1-*.tif"))
    for name in names:
        for channel in "12":
            (tmp_path / f"Channel{channel}{name[8:]}").symlink_to(real / f"Channel{channel}{name[8:]}")
    listed = [[name, f"Channel2{name[8:]}", "C:\\BBBC013", "C:\\BBBC013", *name[:-4].split("-")[2:]] for name in names]
    header = "FileName_GFP,FileName_DNA,PathName_GFP,PathName_DNA,Metadata_Row,Metadata_Col"
    write(tmp_path / "load_data.csv", header, *listed)
    plate = read(tmp_path)
    assert (len(plate.fields), plate.wells, plate.channels, plate.missing) == (48, 96, ("GFP", "DNA"), ())
    expected = tifffile.imread(real / "Channel2-14-B-02.tif")
    field = next(field for field in plate.fields if field.key.well == "B02")
    np.testing.assert_array_equal(read_channel(field, "DNA"), expected)
