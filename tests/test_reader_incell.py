"""Plates of the IN Cell Analyzer: what the .xdce file lists, of the instrument and of MetaXpress, damaged or not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers import assemble, read_plate, scan
from cellinfer.readers.incell import InCellReader
from cellinfer.wells import row_letters

DYES = (("DAPI", "DAPI"), ("FITC", "FITC"))
LIGHT = (("DAPI", "DAPI"), ("FITC", "FITC"), ("TL-Brightfield", "FITC"))


def file_name(row, column, field, wave, z=0, time=0, filters=DYES):
    """Name a file as the instrument does: numbers from 1, z and time only where there are some."""
    depth = f" z {z + 1}" if z else ""
    moment = f" time {time + 1} - {900 * time} ms" if time else ""
    excitation, emission = filters[wave]
    return f"{row_letters(row)} - {column:02d}(fld {field + 1} wv {excitation} - {emission}{depth}{moment}).tif"


def image_xml(row=1, column=1, field=0, wave=0, z=0, time=0, *, filename=None, filters=DYES):
    filename = file_name(row, column, field, wave, z, time, filters) if filename is None else filename
    excitation, emission = filters[wave]
    return (
        f'<Image acquisition_time_ms="1234" filename="{filename}" thumbnail="{filename}_thumb.png">'
        f'<Well label="{row_letters(row)} - {column}"><Row number="{row}"/><Column number="{column}"/></Well>'
        '<PlatePosition_um x="14380.0" y="11240.0"/><OffsetFromWellCenter x="0.0" y="0.0"/>'
        f'<FocusPosition z="1.5"/><Exposure time="500.0"/><ExcitationFilter name="{excitation}" wavelength="350"/>'
        f'<EmissionFilter name="{emission}" wavelength="455"/>'
        f'<Identifier field_index="{field}" time_index="{time}" wave_index="{wave}" z_index="{z}"/>'
        '<MinMaxMean max="900" mean="300.5" min="200"/></Image>\n'
    )


def index_xml(images, *, filters=DYES, unit="µm", root="<ImageStack>"):
    wavelengths = "".join(
        f'<Wavelength fusion_wave="false" imaging_mode="2-D" index="{number}"><ExcitationFilter name="{excitation}"/>'
        f'<EmissionFilter name="{emission}"/></Wavelength>'
        for number, (excitation, emission) in enumerate(filters)
    )
    return (
        f'<?xml version="1.0" encoding="ISO-8859-1" standalone="no"?>\n{root}<UUID value="7697b7dd"/>'
        '<Application name="IN Cell Analyzer 2000" software_version="3.0.0.5"/>'
        '<AutoLeadAcquisitionProtocol name="20x"><ObjectiveCalibration magnification="20.0" pixel_height="0.3250" '
        f'pixel_width="0.3250" unit="{unit}"/><Plate columns="12" name="Greiner" rows="8"/><PlateMap>'
        '<NamingConvention><NamingRows begin="A"/><NamingColumns begin="1"/></NamingConvention>'
        f"</PlateMap><Wavelengths>{wavelengths}</Wavelengths></AutoLeadAcquisitionProtocol>\n"
        f'<Images number="{len(images)}">{"".join(images)}</Images></ImageStack>'
    )


def write(folder, images, files, name="Plate 3.xdce", **options):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(index_xml(images, **options).encode("iso-8859-1"))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def plate_of(folder, places=None, **options):
    places = list(product((1, 2), (1, 12), (0, 1), (0, 1))) if places is None else places
    images = [image_xml(*place) for place in places]
    return write(folder, images, [file_name(*place) for place in places], **options)


def read(folder):
    listing = scan(folder)
    reader = InCellReader()
    assert reader.can_read(listing) == 1
    return assemble(listing, reader.read(listing))


def test_channels_are_in_the_order_of_the_waves_and_the_plate_is_as_large_as_told(tmp_path):
    filters = [("TL", "Zebra"), ("UV", "Alpha")]
    images = [image_xml(1, 1, 0, wave, filters=filters) for wave in (1, 0)]
    plate = read(
        write(tmp_path, images, [file_name(1, 1, 0, wave, filters=filters) for wave in (0, 1)], filters=filters)
    )
    assert (plate.channels, plate.wells) == (("Zebra", "Alpha"), 96)


def test_wells_fields_and_filters_come_from_the_index(tmp_path):
    plate = read(plate_of(tmp_path))
    assert (plate.layout, plate.name, plate.wells, plate.channels) == ("incell", "Plate 3", 96, ("DAPI", "FITC"))
    assert [field.key for field in plate.fields] == [
        FieldKey("Plate 3", well, site, 1) for well in ("A01", "A12", "B01", "B12") for site in (1, 2)
    ]
    (ref,) = plate.fields[1].images["FITC"]
    assert Path(ref.path).name == "A - 01(fld 2 wv FITC - FITC).tif"
    assert plate.pixel_size == pytest.approx(0.325)
    assert (plate.missing, plate.notes, plate.ignored) == ((), (), ("Plate 3.xdce",))


def test_fields_z_and_time_are_those_of_the_file_names(tmp_path):
    plate_of(tmp_path, [(1, 1, 0, 0, z, time) for z in (0, 1, 2) for time in (0, 1)])
    plate = read(tmp_path)
    assert [field.key.time for field in plate.fields] == [1, 2]
    assert [Path(ref.path).name for ref in plate.fields[1].images["DAPI"]] == [
        f"A - 01(fld 1 wv DAPI - DAPI{z} time 2 - 900 ms).tif" for z in ("", " z 2", " z 3")
    ]
    by_names = read_plate(tmp_path, layout="pattern")
    assert [field.key[1:] for field in by_names.fields] == [field.key[1:] for field in plate.fields]


def test_a_stack_in_one_channel_only(tmp_path):
    plate = read(plate_of(tmp_path, [(1, 1, 0, 0, 0), (1, 1, 0, 0, 1), (1, 1, 0, 1, 0)]))
    assert {name: len(refs) for name, refs in plate.fields[0].images.items()} == {"DAPI": 2, "FITC": 1}


def test_channels_of_one_emission_filter_are_called_by_both(tmp_path):
    images = [image_xml(wave=wave, filters=LIGHT) for wave in range(3)]
    files = [file_name(1, 1, 0, wave, filters=LIGHT) for wave in range(3)]
    plate = read(write(tmp_path, images, files, filters=LIGHT))
    assert set(plate.channels) == {"DAPI - DAPI", "FITC - FITC", "TL-Brightfield - FITC"}


def test_channels_that_no_filter_tells_apart_go_by_their_numbers(tmp_path):
    same = (("DAPI", "DAPI"),) * 2
    images = [image_xml(wave=wave, filename=f"{wave}.tif", filters=same) for wave in (0, 1)]
    assert read(write(tmp_path, images, ["0.tif", "1.tif"], filters=same)).channels == ("1", "2")


def test_names_of_filters_may_stand_with_the_images_alone(tmp_path):
    plate_of(tmp_path, filters=())
    assert read(tmp_path).channels == ("DAPI", "FITC")


def test_the_export_of_metaxpress(tmp_path):
    places = list(product((2,), (3,), (0, 1), (0, 1), (0, 1), (0, 1)))
    names = [f"t{t + 1}_B{c:02d}_s{f + 1}_w{w + 1}_z{z + 1}.tif" for _, c, f, w, z, t in places]
    images = [image_xml(*place, filename=name) for place, name in zip(places, names, strict=True)]
    plate = read(write(tmp_path, images, names, unit="um", root='<ImageStack PlateID="BR0017">'))
    assert [field.key for field in plate.fields] == [
        FieldKey("BR0017", "B03", site, time) for site in (1, 2) for time in (1, 2)
    ]
    assert [Path(ref.path).name for ref in plate.fields[3].images["FITC"]] == [
        "t2_B03_s2_w2_z1.tif", "t2_B03_s2_w2_z2.tif",
    ]  # fmt: skip


def test_the_protocol_names_channels_before_the_images_do(tmp_path):
    others = (("DAPI", "A"), ("Brightfield", "B"))
    images = [image_xml(wave=wave, filename=f"{wave}.tif", filters=others) for wave in (0, 1)]
    assert read(write(tmp_path, images, ["0.tif", "1.tif"])).channels == ("DAPI", "FITC")


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.325), ("um", 0.325), ("nm", 0.000325), ("furlong", None)])
def test_the_size_of_a_pixel_has_its_unit(tmp_path, unit, size):
    assert read(plate_of(tmp_path, unit=unit)).pixel_size == (None if size is None else pytest.approx(size))


@pytest.mark.parametrize("root", ["<ImageStack>", '<ImageStack xmlns="urn:incell:2">'])
@pytest.mark.parametrize("name", ["Plate 3.xdce", "Plate 3.XDCE"])
def test_suffix_and_namespace_do_not_matter(tmp_path, root, name):
    assert len(read(plate_of(tmp_path, name=name, root=root)).fields) == 8


def test_files_in_folders_and_of_other_case(tmp_path):
    images = [image_xml(1, 1, filename="Images\\a.tif"), image_xml(1, 2, filename="Größe µ.tif")]
    plate = read(write(tmp_path, images, ["images/A.TIF", "Größe µ.TIF"]))
    assert plate.missing == ()


def test_a_plate_in_acquisition_lists_what_is_missing(tmp_path):
    plate_of(tmp_path)
    (tmp_path / file_name(2, 12, 1, 1)).unlink()
    plate = read(tmp_path)
    assert plate.missing == (Missing(FieldKey("Plate 3", "B12", 2, 1), "FITC"),)
    assert plate.notes == (
        "1 of 16 images that Plate 3.xdce lists are not there (such as 'B - 12(fld 2 wv FITC - FITC).tif')",
    )


def test_images_that_the_index_does_not_know_are_left_out(tmp_path):
    plate_of(tmp_path)
    (tmp_path / "H - 12(fld 1 wv DAPI - DAPI).tif").touch()
    plate = read(tmp_path)
    assert len(plate.fields) == 8
    assert "1 images are left out, no index lists them" in plate.notes[0]


def test_plates_side_by_side_and_in_one_folder(tmp_path):
    plate_of(tmp_path / "P9", name="P9.xdce")
    plate_of(tmp_path / "P10", name="P10.xdce")
    assert read(tmp_path).notes == ("2 plates: P9, P10",)
    for row in (1, 2):
        folder = tmp_path / "together"
        write(folder, [image_xml(row)], [file_name(row, 1, 0, 0)], name=f"run{row}.xdce")
    assert {field.key.plate for field in read(folder).fields} == {"run1", "run2"}


def test_a_plate_imaged_twice_is_told_apart_by_its_folders(tmp_path):
    for folder in ("mon", "tue"):
        plate_of(tmp_path / folder)
    assert {field.key.plate for field in read(tmp_path).fields} == {"mon", "tue"}


@pytest.mark.parametrize("images", [[], [image_xml(filename="")]])
def test_an_index_without_file_names_leaves_them_to_the_pattern(tmp_path, images):
    listing = scan(write(tmp_path, images, [file_name(1, 1, 0, 0)]))
    assert InCellReader().can_read(listing) is None
    with pytest.raises(InputError, match=r"no \.xdce file that names images"):
        InCellReader().read(listing)
    assert read_plate(tmp_path, layout="pattern").layout == "pattern:incell"


# damaged and hostile indexes


def damaged(folder, content):
    (plate_of(folder) / "Plate 3.xdce").write_bytes(content)
    with pytest.raises(InputError) as error:
        read(folder)
    message = str(error.value)
    assert message.startswith("Plate 3.xdce ") and "--layout pattern" in message and "\n" not in message
    return message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_an_index_that_is_cut_off_is_named(tmp_path, share):
    content = index_xml([image_xml()]).encode("iso-8859-1")
    assert "is cut off or damaged (line" in damaged(tmp_path, content[: int(len(content) * share)])


def test_an_entity_bomb_is_refused(tmp_path):
    bomb = '<!DOCTYPE ImageStack [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ImageStack>&b;</ImageStack>'
    assert "declares a document type" in damaged(tmp_path, bomb.encode())


def test_a_wrong_encoding_is_named(tmp_path):
    text = index_xml([image_xml()]).replace("ISO-8859-1", "utf-8")
    assert "invalid token" in damaged(tmp_path, text.encode("iso-8859-1"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<Row number="1"/>', '<Row number="99"/>', "row 99, column 1 is not on any plate"),
        ('<Row number="1"/>', "", "lists an image without Row"),
        ('field_index="0"', 'field_index="first"', "invalid literal"),
        ('field_index="0"', "", "lists an image without field_index"),
        ('z_index="0"', 'z_index=""', "invalid literal"),
    ],
)
def test_impossible_images_are_named(tmp_path, old, new, message):
    assert message in damaged(tmp_path, index_xml([image_xml()]).replace(old, new).encode("iso-8859-1"))


def test_an_index_cannot_point_outside_the_folder(tmp_path):
    (tmp_path / "secret.tif").touch()
    images = [image_xml(), image_xml(field=1, filename="../secret.tif")]
    write(tmp_path / "plate", images, [file_name(1, 1, 0, 0)])
    assert [gap.key.site for gap in read(tmp_path / "plate").missing] == [2]


@pytest.mark.parametrize("content", [b"", b"no xml", b"<Plate/>", b"\xff\xfe\0"])
def test_other_files_of_that_suffix_are_left_to_other_readers(tmp_path, content):
    (plate_of(tmp_path) / "Plate 3.xdce").write_bytes(content)
    assert InCellReader().can_read(scan(tmp_path)) is None
