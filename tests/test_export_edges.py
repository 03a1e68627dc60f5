"""Exports of results that are rare: very many objects, parts and holes, time points, odd names, renamed channels."""

from __future__ import annotations

import json
import weakref
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cellinfer
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from cellinfer.errors import InputError, OutputError
from cellinfer.exporting import FORMATS
from cellinfer.files import owned
from cellinfer.images import read_channel
from cellinfer.journal import field_name
from cellinfer.outputs.exports._results import ResultField
from cellinfer.outputs.labels import write_labels
from cellinfer.plate import Field, FieldKey

from tests.test_export import filled

Labels = np.ndarray[Any, Any]


def make_results(
    folder: Path,
    fields: Mapping[FieldKey, Labels],
    *,
    channels: Mapping[str, str] | None = None,
    pixel_size: float | None = None,
    features: int = 1,
) -> Path:
    """Make a plate of images in `folder/images` and what a run of it leaves; nuclei and cells are the same pixels.

    Images are called by the names of `channels` (new name -> name in files), their pixels are the labels.
    """
    channels = channels or {"DNA": "DNA"}
    out, images = folder / "out", folder / "images"
    images.mkdir(parents=True)
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in ("Nuclei", "Cells", "Cytoplasm", "Image")}
    for number, (key, labels) in enumerate(fields.items(), start=1):
        columns = dict(zip(("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time"), key, strict=True))
        ids, areas = np.unique(labels[labels > 0], return_counts=True)
        names = {}
        for new, found in channels.items():
            names[new] = f"{key.plate}_{key.well}_s{key.site}_t{key.time}_{found}.tif"
            tifffile.imwrite(images / names[new], labels.astype(np.uint16))
        for kind in ("Nuclei", "Cells"):
            path = out / "labels" / kind / f"{field_name(Field(key, {}, number))}.ome.tiff"
            write_labels(labels.astype(np.int32), path, name=kind)
        for name in ("Nuclei", "Cells", "Cytoplasm"):
            values = {f"{name}_AreaShape_Area{i or ''}": areas.astype(float) for i in range(features)}
            rows[name].append(pd.DataFrame(columns | {"ImageNumber": number, "ObjectNumber": ids} | values))
        files = {f"Image_FileName_{new}": name for new, name in names.items()}
        more = {"ImageNumber": number, "Image_Count_Cells": len(ids), "Image_Status": "ok", **files}
        rows["Image"].append(pd.DataFrame([columns | more]))
    for name, tables in rows.items():
        pd.concat(tables).to_parquet(out / f"{name}.parquet", index=False)
    info = {
        "cellinfer": "0", "model": {"name": "nuclei", "version": "1", "sha256": "abc"}, "finished": "2026-01-01",
        "precision": {"precision": "float32"}, "configuration": {"nuclei": next(iter(channels))},
        "input": {
            "plate": next(iter(fields)).plate, "folder": str(images), "channels": list(channels),
            "pixel_size_um": pixel_size,
        },
        "result": {"failed": {}},
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(info))
    return out


def grid(count: int, side: int = 300) -> Labels:
    """Return single pixels with a gap between any two."""
    labels = np.zeros((2 * side, 2 * side), np.int32)
    numbers = np.arange(1, side * side + 1).reshape(side, side)
    labels[::2, ::2] = np.where(numbers <= count, numbers, 0)
    return labels


PATTERN = r"(?P<plate>.+?)_(?P<well>[A-P]\d\d)_s(?P<site>\d+)_t(?P<time>\d+)_(?P<channel>\w+)\.tif"
KEY = FieldKey("demo", "A01", 1, 1)
ODD = np.array(
    [
        [1, 1, 1, 0, 2, 0, 2, 2],
        [1, 0, 1, 0, 0, 2, 0, 0],
        [1, 1, 1, 3, 3, 3, 3, 3],
        [0, 0, 0, 3, 0, 0, 0, 3],
        [4, 0, 0, 3, 0, 3, 0, 3],
        [0, 4, 0, 3, 0, 0, 0, 3],
        [0, 0, 0, 3, 3, 3, 3, 3],
    ],
    np.int32,
)
"""A hole, three parts, an island in a hole, parts that touch at a corner."""


def test_more_objects_than_sixteen_bits_hold(tmp_path: Path) -> None:
    labels = grid(66_000)
    out = make_results(tmp_path, {KEY: labels})
    plate = cellinfer.read_plate(tmp_path / "images", pattern=PATTERN)
    done = cellinfer.export(out, "ome-zarr,geojson,h5ad,cytotable", tmp_path / "export", plate=plate)
    assert done.cells == 66_000
    image = zarr.open_group(done.folder / "demo.ome.zarr", mode="r")["A/1/1/labels/Cells/0"]
    np.testing.assert_array_equal(image[:], labels)
    cells = json.loads((done.folder / "geojson" / "demo_A01_s1_t1.geojson").read_text())["features"]
    y, x = np.argwhere(labels == 65_999)[0].tolist()
    assert cells[65_998]["geometry"]["coordinates"][0] == [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1], [x, y]]
    assert pd.read_parquet(done.folder / "cells.cytotable.parquet")["Metadata_ObjectNumber"].iloc[-1] == 66_000


def test_numbers_beyond_sixteen_bits_are_names_of_regions(tmp_path: Path) -> None:
    numbers = [1, 65_535, 65_536, 65_537, 2**31 - 1]
    labels = np.array([[*numbers, 0]], np.int32)
    out = make_results(tmp_path, {KEY: labels})
    path = cellinfer.export(out, "roi").folder / "roi" / "Nuclei" / "demo_A01_s1_t1.zip"
    assert zipfile.ZipFile(path).namelist() == [f"{number}.roi" for number in numbers]


def test_parts_and_holes_stay_what_they_are(tmp_path: Path) -> None:
    shapely = pytest.importorskip("shapely")
    from roifile import roiread

    out = make_results(tmp_path, {KEY: ODD})
    folder = cellinfer.export(out, "roi,geojson").folder
    regions = roiread(folder / "roi" / "Cells" / "demo_A01_s1_t1.zip")
    assert [region.composite for region in regions] == [True, True, True, True]
    for region in regions:
        rings = region.coordinates(multi=True)
        np.testing.assert_array_equal(filled(rings, ODD.shape), int(region.name) == ODD)
    cells = json.loads((folder / "geojson" / "demo_A01_s1_t1.geojson").read_text())["features"]
    kinds = [cell["geometry"]["type"] for cell in cells]
    assert kinds == ["Polygon", "MultiPolygon", "MultiPolygon", "MultiPolygon"]
    for cell in cells:
        shape = shapely.geometry.shape(cell["geometry"])
        assert shape.is_valid
        inside = np.array([[shape.contains(shapely.Point(x + 0.5, y + 0.5)) for x in range(8)] for y in range(7)])
        np.testing.assert_array_equal(inside, int(cell["properties"]["name"]) == ODD)


def test_fields_beyond_what_imagej_can_place_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((2, 60_500), np.int32)
    labels[1, 60_450:] = 1
    with pytest.raises(OutputError, match="too large for ImageJ"):
        cellinfer.export(make_results(tmp_path, {KEY: labels}), "roi")


def test_far_regions_are_where_they_are(tmp_path: Path) -> None:
    """The format's numbers have 16 bits and a sign."""
    from roifile import roiread

    labels = np.zeros((3, 59_000), np.int32)
    labels[1:, 40_000:58_000] = 1
    out = make_results(tmp_path, {KEY: labels})
    path = cellinfer.export(out, "roi").folder / "roi" / "Cells" / "demo_A01_s1_t1.zip"
    (region,) = roiread(path)
    assert region.coordinates().tolist() == [[40_000, 1], [58_000, 1], [58_000, 3], [40_000, 3]]


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_time_points_are_an_axis(tmp_path: Path, ngff: Any) -> None:
    fields = {FieldKey("demo", "B03", 2, time): np.roll(ODD, time, axis=1) for time in (1, 2, 3)}
    out = make_results(tmp_path, fields, pixel_size=0.325)
    plate = cellinfer.read_plate(tmp_path / "images", pattern=PATTERN)
    done = cellinfer.export(out, "ome-zarr", plate=plate, ngff=ngff)
    image = zarr.open_group(done.files["ome-zarr"][0], mode="r")["B/3/2"]
    described = dict(image.attrs).get("ome", dict(image.attrs))["multiscales"][0]
    assert [axis["name"] for axis in described["axes"]] == ["t", "c", "y", "x"]
    assert described["axes"][3] == {"name": "x", "type": "space", "unit": "micrometer"}
    assert described["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 0.325, 0.325]
    np.testing.assert_array_equal(image["labels/Nuclei/0"][:], np.stack(list(fields.values())))
    copy = cellinfer.read_plate(done.files["ome-zarr"][0])
    assert [field.key.time for field in copy.fields] == [1, 2, 3]
    assert copy.pixel_size == 0.325
    np.testing.assert_array_equal(read_channel(copy.fields[2], "DNA"), np.roll(ODD, 3, axis=1))


def test_a_time_point_that_failed_leaves_the_others_in_step(tmp_path: Path) -> None:
    times = {1: (1, 2, 3), 2: (1, 3)}
    fields = {FieldKey("demo", "A01", site, time): ODD for site, found in times.items() for time in found}
    out = make_results(tmp_path, fields)
    plate = cellinfer.read_plate(tmp_path / "images", pattern=PATTERN)
    store = cellinfer.export(out, "ome-zarr", plate=plate).files["ome-zarr"][0]
    labels = zarr.open_group(store, mode="r")["A/1/2/labels/Cells/0"]
    assert [np.array_equal(labels[time], ODD) for time in range(3)] == [True, False, True]
    copy = {field.key: field for field in cellinfer.read_plate(store).fields}
    np.testing.assert_array_equal(read_channel(copy[FieldKey("demo", "A01", 2, 3)], "DNA"), ODD)
    with pytest.raises(InputError):  # not black pixels
        read_channel(copy[FieldKey("demo", "A01", 2, 2)], "DNA")


@pytest.mark.filterwarnings("ignore")  # anndata's own
def test_a_plate_without_a_cell(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    out = make_results(tmp_path, {KEY: np.zeros((20, 30), np.int32)})
    plate = cellinfer.read_plate(tmp_path / "images", pattern=PATTERN)
    done = cellinfer.export(out, FORMATS, plate=plate)
    assert (done.fields, done.cells) == (1, 0)
    assert anndata.read_h5ad(done.folder / "cells.h5ad").shape == (0, 3)
    assert len(pd.read_parquet(done.folder / "cells.cytotable.parquet")) == 0
    assert json.loads((done.folder / "geojson" / "demo_A01_s1_t1.geojson").read_text())["features"] == []


def test_a_list_of_files_cannot_make_an_export_remove_folders(tmp_path: Path) -> None:
    out = make_results(tmp_path, {KEY: ODD})
    folder = cellinfer.export(out, "roi").folder
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    for name in ("../out/Cells.parquet", "", str(out / "Cells.parquet"), "mine"):
        manifest = json.loads((folder / "export.json").read_text())
        manifest["formats"]["roi"]["files"].append(name)
        (tmp_path / "kept.json").write_bytes((folder / "export.json").read_bytes())
        (folder / "export.json").write_text(json.dumps(manifest))
        if name == "mine":
            cellinfer.export(out, "roi")
        else:
            with pytest.raises(OutputError, match="was not written by an export"):
                cellinfer.export(out, "roi")
        (folder / "export.json").write_bytes((tmp_path / "kept.json").read_bytes())
        assert (folder / "mine" / "notes.txt").read_text() == "mine"
    assert (out / "Cells.parquet").is_file()


def test_several_plates_with_odd_names(tmp_path: Path) -> None:
    fields = {FieldKey(plate, "A01", 1, 1): ODD for plate in ("weiß & blau", "x")}
    out = make_results(tmp_path, fields)
    plate = cellinfer.read_plate(tmp_path / "images", pattern=PATTERN)
    done = cellinfer.export(out, "ome-zarr,geojson,roi", plate=plate)
    names = [path.name for path in done.files["ome-zarr"]]
    assert names[0].startswith("weiß___blau")
    assert names[1] == "x.ome.zarr"
    assert all(path.exists() for paths in done.files.values() for path in paths)
    with pytest.raises(OutputError, match="exports of another plate"):
        cellinfer.export(make_results(tmp_path / "other", {KEY: ODD}), "roi", done.folder)


def test_renamed_channels_are_known_by_their_files(tmp_path: Path) -> None:
    out = make_results(tmp_path / "demo", {KEY: ODD, KEY._replace(site=2): ODD}, channels={"DNA": "w1", "GFP": "w2"})
    images = tmp_path / "demo" / "images"
    table = pd.read_parquet(out / "Image.parquet")
    for path in images.iterdir():  # a name that needs no pattern: the plate is called as the folder
        path.rename(images / path.name.removeprefix("demo_").replace("_t1", ""))
    for channel in ("DNA", "GFP"):
        column = f"Image_FileName_{channel}"
        table[column] = [name.removeprefix("demo_").replace("_t1", "") for name in table[column]]
    table.to_parquet(out / "Image.parquet")
    assert not set(cellinfer.read_plate(images).channels) & {"DNA", "GFP"}
    store = cellinfer.export(out, "ome-zarr").files["ome-zarr"][0]
    assert cellinfer.read_plate(store).channels == ("DNA", "GFP")


def test_tables_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    out = make_results(tmp_path, {KEY: ODD})
    cells = pd.read_parquet(out / "Cells.parquet")
    cells.iloc[1:].to_parquet(out / "Cells.parquet", index=False)
    with pytest.raises(InputError, match="do not fit each other"):
        cellinfer.export(out, "cytotable")


def test_labels_that_do_not_fit_the_tables_are_refused(tmp_path: Path) -> None:
    out = make_results(tmp_path, {KEY: ODD})
    write_labels(
        np.where(ODD == 2, 9, ODD).astype(np.int32), out / "labels/Cells/demo_A01_s1_t1.ome.tiff", name="Cells"
    )
    with pytest.raises(InputError, match="other objects than the tables"):
        cellinfer.export(out, "roi")


def test_one_export_at_a_time(tmp_path: Path) -> None:
    out = make_results(tmp_path, {KEY: ODD})
    with owned(tmp_path / "export"), pytest.raises(OutputError, match="in use by process"):
        cellinfer.export(out, "roi", tmp_path / "export")


def test_no_field_is_held_longer_than_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the plate."""
    made: list[weakref.ref[ResultField]] = []
    alive: list[int] = []

    class Watched(ResultField):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))
            alive.append(sum(field() is not None for field in made))

    monkeypatch.setattr("cellinfer.outputs.exports._results.ResultField", Watched)
    out = make_results(tmp_path, {FieldKey("demo", "A01", site, 1): grid(50, 12) for site in range(1, 41)})
    cellinfer.export(out, "roi,geojson,h5ad,cytotable")
    assert len(made) == 40
    assert max(alive) <= 2
