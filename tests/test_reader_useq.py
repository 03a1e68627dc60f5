"""Image sequences of pymmcore-plus: names that count, wells and dyes in JSON beside them."""

from __future__ import annotations

import json
from itertools import product

import pytest
from cellinfer.errors import InputError
from cellinfer.plate import FieldKey
from cellinfer.readers import read_plate

WELLS = [[0, 1, 15], [0, 2, 23]]  # rows, columns
POINTS = {"fov_width": 10.0, "rows": 1, "columns": 2}


def plan(points=POINTS, **more):
    """Return the plan of a sequence as `useq.MDASequence` is written."""
    positions = {"plate": {"rows": 16, "columns": 24, "name": "384-well"}, "selected_wells": WELLS}
    channels = [{"config": "FITC", "exposure": 1.0}, {"config": "DAPI", "exposure": 1.0}]
    said = {"axis_order": ["t", "p", "c", "z"], "stage_positions": positions, "channels": channels}
    if points:
        positions["well_points_plan"] = points
    return {**said, **more}


def write(folder, axes=(("t", 2), ("p", 6), ("c", 2), ("z", 3)), said=None, labels=(), prefix="", end=".tif"):
    """Write what the image sequence writer does, with empty images."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = {"t": 4, "c": 2}
    frames = {}
    for number, place in enumerate(product(*(range(size) for _, size in axes))):
        named = dict(zip((axis for axis, _ in axes), place, strict=True))
        counted = "_".join(f"{axis}{value:0{digits.get(axis, 3)}}" for axis, value in named.items())
        name = f"{prefix}{number:05}_{counted}{end}"
        (folder / name).touch()
        label = labels[named.get("p", 0)] if labels else ""
        frames[name] = {"pixel_size_um": 0.65, "mda_event": {"index": named, "pos_name": label}}
    (folder / "_useq_MDASequence.json").write_text(json.dumps(said or plan(), indent=2))
    (folder / "_frame_metadata.json").write_text(json.dumps(frames, indent=2))
    return folder


LABELS = [f"{well}_{point:04}" for well in ("A1", "B3", "P24") for point in range(2)]


def test_a_plate_plan(tmp_path):
    plate = read_plate(write(tmp_path / "run", labels=LABELS))
    assert (plate.layout, plate.name, plate.channels, plate.wells) == ("useq", "run", ("FITC", "DAPI"), 384)
    assert [field.key for field in plate.fields] == [
        FieldKey("run", well, site, time) for well, site, time in product(("A01", "B03", "P24"), (0, 1), (1, 2))
    ]
    assert (plate.missing, plate.notes, plate.pixel_size) == ((), (), 0.65)
    (refs,) = {tuple(ref.path[-29:] for ref in plate.fields[3].images["DAPI"])}
    assert refs == tuple(f"000{45 + z}_t0001_p001_c01_z00{z}.tif" for z in range(3))


@pytest.mark.parametrize("text", [None, "", '{"00000_t0000_p000_c00_z000.tif": {"mda_event": {"pos_na'])
def test_the_plan_is_enough_where_frames_are_not_known(tmp_path, text):
    write(tmp_path)
    path = tmp_path / "_frame_metadata.json"
    path.unlink() if text is None else path.write_text(text)
    plate = read_plate(tmp_path)
    assert [field.key[1:3] for field in plate.fields][::2] == [
        (well, site) for well in ("A01", "B03", "P24") for site in (0, 1)
    ]


def test_a_plate_without_points_and_other_names(tmp_path):
    write(tmp_path, (("p", 3), ("c", 2)), plan(points=None), prefix="my scan-", end=".png")
    plate = read_plate(tmp_path)
    assert [field.key[1:3] for field in plate.fields] == [("A01", 1), ("B03", 1), ("P24", 1)]
    assert all(len(refs) == 1 for field in plate.fields for refs in field.images.values())


def test_grids_around_named_positions(tmp_path):
    said = plan(stage_positions=[{"x": 0, "y": 0, "name": "C4"}, {"x": 1, "y": 0, "name": "C5"}])
    write(tmp_path, (("p", 2), ("g", 4), ("c", 2)), said)
    plate = read_plate(tmp_path)
    assert [field.key[1:3] for field in plate.fields] == [
        (well, site) for well in ("C04", "C05") for site in range(1, 5)
    ]


def test_positions_without_names_and_channels_without_either(tmp_path):
    write(tmp_path, (("p", 2), ("c", 2)), {"channels": ["DAPI", "DAPI"], "stage_positions": [[0, 1], {"x": 1}]})
    plate = read_plate(tmp_path)
    assert plate.channels == ("1", "2") and "positions are not called after wells" in plate.notes[0]
    assert [field.key[1] for field in plate.fields] == ["A01", "A02"]


def test_two_sequences_and_a_stray_image(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, labels=LABELS)
    (tmp_path / "overview.png").touch()
    plate = read_plate(tmp_path)
    assert {field.key.plate for field in plate.fields} == {"one", "two"}
    assert plate.notes[0] == "2 plates: one, two" and "overview.png" in plate.ignored


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_a_damaged_plan_is_explained(tmp_path, text):
    write(tmp_path)
    (tmp_path / "_useq_MDASequence.json").write_text(text)
    with pytest.raises(InputError, match=r"_useq_MDASequence.json is damaged.*--pattern"):
        read_plate(tmp_path)
