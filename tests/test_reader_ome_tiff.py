"""OME-TIFF sets: metadata in companion or master files, plates in the XML, several plates and acquisitions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
from cellinfer.errors import InputError
from cellinfer.images import read_plane
from cellinfer.plate import FieldKey, Missing
from cellinfer.readers import read_plate

SPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def document(body):
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SPACE}" UUID="urn:uuid:1">{body}</OME>'


def binary_only(name):
    return document(f'<BinaryOnly MetadataFile="{name}" UUID="urn:uuid:1"/>')


def image(number, file, first=0, channels=("DAPI", "Cy3"), *, z=1, extra="", more=""):
    """Describe an image whose planes follow each other in a file."""
    names = "".join(f'<Channel ID="C:{number}:{c}" Name="{name}"{more}/>' for c, name in enumerate(channels))
    where = f'<UUID FileName="{file}">urn:uuid:2</UUID>' if file else ""
    data = f'<TiffData IFD="{first}" PlaneCount="{len(channels) * z}">{where}</TiffData>'
    size = f'SizeX="9" SizeY="8" SizeZ="{z}" SizeC="{len(channels)}" SizeT="1"'
    return (
        f'<Image ID="Image:{number}">{extra}<Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint16" {size} '
        f'PhysicalSizeX="0.65">{names}{data}</Pixels></Image>'
    )


def plate_xml(wells, name="Assay", number=0, more='Rows="16" Columns="24"', acquisitions=None):
    """Describe a plate: (row, column) -> numbers of its images; acquisitions: ID -> numbers of images."""
    text = "".join(
        f'<Well ID="Well:{number}:{row}:{column}" Row="{row}" Column="{column}">'
        + "".join(f'<WellSample ID="S:{n}" Index="{n}"><ImageRef ID="Image:{n}"/></WellSample>' for n in images)
        + "</Well>"
        for (row, column), images in wells.items()
    )
    taken = "".join(
        f'<PlateAcquisition ID="PlateAcquisition:{own}">'
        + "".join(f'<WellSampleRef ID="S:{n}"/>' for n in images)
        + "</PlateAcquisition>"
        for own, images in (acquisitions or {}).items()
    )
    return f'<Plate ID="Plate:{number}" Name="{name}" {more}>{text}{taken}</Plate>'


def write(path, values, xml=None):
    """Write pages of one value each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.stack([np.full((8, 9), value, np.uint16) for value in values])
    description = None if xml is None else xml.encode()
    tifffile.imwrite(path, pages, description=description, metadata=None, photometric="minisblack")


def values(plate):
    return {
        (*field.key[:3], channel): [int(read_plane(ref)[0, 0]) for ref in refs]
        for field in plate.fields
        for channel, refs in field.images.items()
    }


@pytest.mark.parametrize("kind", ["companion", "master", "plain"])
def test_a_plate_described_in_one_file_of_a_set(tmp_path, kind):
    """In a companion file, in the first TIFF, or in a companion of TIFFs that say nothing themselves."""
    wells = {(0, 1): [0, 1], (1, 2): [2, 3]}
    files = [f"set_f{n}.ome.tif" for n in range(4)]
    xml = document(plate_xml(wells) + "".join(image(n, file, z=2) for n, file in enumerate(files)))
    for n, file in enumerate(files):
        pointer = binary_only("set_f0.ome.tif" if kind == "master" else "set.companion.ome")
        text = xml if kind == "master" and n == 0 else None if kind == "plain" else pointer
        write(tmp_path / file, range(10 * n, 10 * n + 4), text)
    if kind != "master":
        (tmp_path / "set.companion.ome").write_text(xml, encoding="utf-8")
    plate = read_plate(tmp_path)
    assert (plate.layout, plate.name, plate.channels, plate.wells) == ("ome-tiff", "Assay", ("DAPI", "Cy3"), 384)
    assert (plate.missing, plate.pixel_size) == ((), 0.65)
    expected = {}
    for n, (well, site) in enumerate((("A02", 1), ("A02", 2), ("B03", 1), ("B03", 2))):
        expected["Assay", well, site, "DAPI"] = [10 * n, 10 * n + 1]
        expected["Assay", well, site, "Cy3"] = [10 * n + 2, 10 * n + 3]
    assert values(plate) == expected


def test_the_second_file_of_a_set_listed_first(tmp_path):
    """The file with the document comes last in natural order, and the path to it is of another system."""
    wells = {(0, 0): [0], (0, 1): [1]}
    xml = document(plate_xml(wells) + image(0, "a.ome.tif") + image(1, "z\\b.ome.tif"))
    write(tmp_path / "a.ome.tif", [1, 2], binary_only("z\\master.companion.ome"))
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "master.companion.ome").write_text(xml.replace("a.ome", "../a.ome").replace("z\\b", "b"))
    write(tmp_path / "z" / "b.ome.tif", [3, 4], binary_only("master.companion.ome"))
    assert values(read_plate(tmp_path))["Assay", "A02", 1, "Cy3"] == [4]


def test_pointers_that_lead_nowhere(tmp_path):
    write(tmp_path / "A01.ome.tif", [1], binary_only("A02.ome.tif"))
    with pytest.raises(InputError, match=r"keeps its metadata in 'A02.ome.tif', which is not there or is no OME-XML"):
        read_plate(tmp_path)
    write(tmp_path / "A02.ome.tif", [1], binary_only("A01.ome.tif"))
    with pytest.raises(InputError, match="keeps its metadata in"):
        read_plate(tmp_path)


def test_files_that_the_set_lacks_are_missing(tmp_path):
    wells = {(0, 0): [0], (0, 1): [1]}
    xml = document(plate_xml(wells) + image(0, "a.ome.tif", z=2) + image(1, "b.ome.tif", z=2))
    write(tmp_path / "a.ome.tif", range(4), xml)
    plate = read_plate(tmp_path)
    key = FieldKey("Assay", "A02", 1, 1)
    assert plate.missing == (Missing(key, "DAPI"), Missing(key, "Cy3"))


def test_acquisitions_are_plates_of_their_own(tmp_path):
    """As in OME-Zarr: not time points, not further sites; sites count from 1 in each."""
    wells = {(0, 0): [0, 1, 4, 5], (0, 1): [2, 3, 6, 7]}
    taken = {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}
    body = "".join(image(n, f"f{n}.ome.tif", channels=("DAPI", f"dye{n // 4}")) for n in range(8))
    xml = document(plate_xml(wells, acquisitions=taken) + body)
    for n in range(8):
        write(tmp_path / f"f{n}.ome.tif", [n, 100 + n], xml)
    plate = read_plate(tmp_path)
    found = values(plate)
    assert found["Assay_acquisition0", "A02", 2, "dye0"] == [103]
    assert found["Assay_acquisition1", "A02", 2, "dye1"] == [107]
    assert len(found) == 16 and plate.missing == ()
    assert plate.notes == ("2 plates: Assay_acquisition0, Assay_acquisition1",)


def test_one_acquisition_does_not_change_the_name(tmp_path):
    xml = document(plate_xml({(0, 0): [0]}, acquisitions={3: [0]}) + image(0, "a.ome.tif"))
    write(tmp_path / "a.ome.tif", [1, 2], xml)
    assert read_plate(tmp_path).name == "Assay"


def test_several_plates_in_one_document(tmp_path):
    plates = [plate_xml({(0, 0): [n]}, name, n) for n, name in enumerate(("Assay", "Assay", "Other"))]
    xml = document("".join(plates) + "".join(image(n, "all.ome.tif", 2 * n) for n in range(3)))
    write(tmp_path / "all.ome.tif", range(6), xml)
    assert {key[0]: found for key, found in values(read_plate(tmp_path)).items() if key[3] == "Cy3"} == {
        "Assay_0": [1], "Assay_1": [3], "Other": [5],
    }  # fmt: skip


def test_a_kind_of_plate_is_no_name_and_repeats_are_told_apart(tmp_path):
    """Two runs of one plan: pymmcore-plus calls both plates `96-well`."""
    for run in ("run_1", "run_2"):
        xml = document(plate_xml({(7, 11): [0]}, "96-well", more='Rows="8" Columns="12"') + image(0, "x_p000.ome.tif"))
        write(tmp_path / run / "x_p000.ome.tif", [1, 2], xml)
    plate = read_plate(tmp_path)
    assert [field.key[:2] for field in plate.fields] == [("run_1", "H12"), ("run_2", "H12")]
    assert (plate.wells, read_plate(tmp_path / "run_1").name) == (96, "run_1")


def test_one_name_in_two_folders_is_one_plate_unless_its_wells_clash(tmp_path):
    for n, folder in enumerate(("left", "right")):
        xml = document(plate_xml({(0, n): [0]}) + image(0, "a.ome.tif"))
        write(tmp_path / folder / "a.ome.tif", [1, 2], xml)
    assert read_plate(tmp_path).name == "Assay"
    write(tmp_path / "again" / "a.ome.tif", [1, 2], document(plate_xml({(0, 0): [0]}) + image(0, "a.ome.tif")))
    assert {field.key.plate for field in read_plate(tmp_path).fields} == {"left", "right", "again"}


def test_stage_labels_name_the_wells_where_there_is_no_plate(tmp_path):
    labels = ("B02-Site_0", "B02-Site_1")
    body = "".join(
        image(n, "s.ome.tif", 2 * n, extra=f'<StageLabel Name="{label}"/>') for n, label in enumerate(labels)
    )
    write(tmp_path / "s.ome.tif", range(4), document(body))
    assert values(read_plate(tmp_path))[tmp_path.name, "B02", 1, "DAPI"] == [2]


def test_names_of_images_name_the_wells_where_there_is_no_plate(tmp_path):
    """As pymmcore-plus writes positions that a user called after wells."""
    body = "".join(
        image(n, f"x_p00{n}.ome.tif").replace("<Image ", f'<Image Name="{name}" ')
        for n, name in enumerate(("A1", "A1", "B2"))
    )
    for n in range(3):
        write(tmp_path / "run" / f"x_p00{n}.ome.tif", [n, 10 + n], document(body))
    assert values(read_plate(tmp_path / "run"))["run", "A01", 2, "Cy3"] == [11]


def test_a_set_whose_files_are_called_after_wells(tmp_path):
    """Each file keeps the site that its name says; one that is not there is missing where its name says."""
    files = ["A01_s3.ome.tif", "A02_s3.ome.tif", "B01_s3.ome.tif"]
    xml = document("".join(image(n, file) for n, file in enumerate(files)))
    for n, file in enumerate(files[:2]):
        write(tmp_path / file, [n, 10 + n], xml)
    plate = read_plate(tmp_path)
    assert {key[1:3] for key in values(plate)} == {("A01", 3), ("A02", 3)}
    key = FieldKey(tmp_path.name, "B01", 3, 1)
    assert plate.missing == (Missing(key, "DAPI"), Missing(key, "Cy3"))


def test_planes_that_have_lost_their_wells_are_refused(tmp_path):
    """pymmcore-plus, where channels differ in their planes: eight planes of two wells as times of one image."""
    plan = '{"stage_positions": {"plate": {"rows": 8}, "selected_wells": [[0, 1], [0, 1]]}}'
    note = (
        f'<MapAnnotation ID="A:1" Namespace="pymmcore_plus"><Value><M K="mda_json">{plan}</M></Value></MapAnnotation>'
    )
    xml = document(image(0, "", channels=("",)) + f"<StructuredAnnotations>{note}</StructuredAnnotations>")
    write(tmp_path / "A01.ome.tif", range(8), xml)
    with pytest.raises(InputError, match=r"one row of planes without their wells.*ImageSequenceWriter"):
        read_plate(tmp_path)
    write(tmp_path / "A01.ome.tif", range(8), xml.replace("selected_wells", "unrelated"))
    assert read_plate(tmp_path).fields[0].key.well == "A01"


def test_a_colour_image_is_one_plane(tmp_path):
    """Its samples are no channels of their own: the images after it keep their pages."""
    more = ' SamplesPerPixel="3"'
    body = image(0, "s.ome.tif", channels=("RGB",), more=more).replace('SizeC="1"', 'SizeC="3"')
    xml = document(plate_xml({(0, 0): [0], (0, 1): [1]}) + body + image(1, "s.ome.tif", 1, ("RGB",)))
    write(tmp_path / "s.ome.tif", range(2), xml)
    plate = read_plate(tmp_path)
    assert (plate.channels, plate.missing) == (("RGB",), ())
    assert [field.images["RGB"][0].index for field in plate.fields] == [(0,), (1,)]


def test_a_stray_companion_file_does_not_take_over(tmp_path):
    (tmp_path / "other.companion.ome").write_text(document(image(0, "elsewhere.ome.tif")))
    for channel in (1, 2):
        tifffile.imwrite(tmp_path / f"A01_s1_w{channel}.tif", np.zeros((8, 9), np.uint16))
    assert read_plate(tmp_path).layout == "pattern:imagexpress"


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "channels", "times", "depth", "size"),
    [
        ("c3_z33.companion.ome", ("Conf640", "Conf561", "Conf405"), 1, 33, 0.0649555549),
        ("20241003_experiment_488_7_640_3_1.companion.ome", ("Channel1", "Channel2"), 5, 1, 0.16),
    ],
)
def test_companion_files_of_visiview(data_folder, tmp_path, name, channels, times, depth, size):
    """Only the companion files are there: their images are made here, empty and called after a well."""
    text = (data_folder / "vendor_layouts" / "ome-tiff" / name).read_text(encoding="utf-8")
    for file in sorted(set(re.findall(r'FileName="([^"]*)"', text))):
        new = f"A01_{re.search('w[0-9]', file)[0]}.ome.tif"
        text = text.replace(f'"{file}"', f'"{new}"')
        (tmp_path / new).touch()
    (tmp_path / name).write_text(text, encoding="utf-8")
    plate = read_plate(tmp_path)
    assert (plate.channels, plate.pixel_size, plate.missing) == (channels, size, ())
    assert [field.key.time for field in plate.fields] == list(range(1, times + 1))
    assert all(len(refs) == depth for field in plate.fields for refs in field.images.values())
