"""A run's results in the formats of other programs, as those programs read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
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
from cellinfer.images import read_channel
from cellinfer.plate import FieldKey
from cellinfer.simulate import simulate_plate

NAMES = ("demo_A01_s1_t1", "demo_A01_s2_t1", "demo_A02_s1_t1", "demo_A02_s2_t1")
"""Fields that have results; the last one shows no cell, and A03 failed."""
FAMILIES = ("AreaShape", "Intensity", "Location", "Neighbors")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plate with an empty field, a damaged one, and a channel that only one field has."""
    folder = tmp_path_factory.mktemp("export") / "demo"
    plate = simulate_plate(folder, wells=3, sites=2, size=(320, 301), seed=1)
    for channel in ("DNA", "GFP"):
        tifffile.imwrite(plate.images / f"A02_s2_{channel}.tif", np.full((320, 301), 100, np.uint16))
    (plate.images / "A03_s2_DNA.tif").unlink()
    (plate.images / "A03_s2_GFP.tif").unlink()
    (plate.images / "A03_s1_DNA.tif").write_bytes(b"II*\0\x08\0\0\0")
    shutil.copy(plate.images / "A01_s1_GFP.tif", plate.images / "A01_s1_RFP.tif")
    settings = cellinfer.Settings(nuclei="DNA", cells="GFP", families=FAMILIES)
    done = cellinfer.run(plate.images, folder / "out", device="cpu", settings=settings)
    assert len(done.failed) == 1
    assert done.cells > 40
    return folder / "out"


@pytest.fixture(scope="module")
def exported(results: Path) -> Path:
    """Everything."""
    return cellinfer.export(results, FORMATS).folder


def table(results: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(results / f"{name}.parquet")


def labels(results: Path, kind: str, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(tifffile.imread(results / "labels" / kind / f"{name}.ome.tiff"))


def filled(rings: list[np.ndarray[Any, Any]], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the pixels that have an odd number of vertical edges of rings to their left."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        corners = np.asarray(ring).astype(int)
        for (x, y), (_, next_y) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            crossings[min(y, next_y) : max(y, next_y), x] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


# ImageJ


def test_roifile_reads_regions_that_cover_the_pixels_of_each_object(results: Path, exported: Path) -> None:
    from roifile import ROI_TYPE, roiread

    for kind in ("Nuclei", "Cells"):
        for name in NAMES[:3]:
            image = labels(results, kind, name)
            regions = roiread(exported / "roi" / kind / f"{name}.zip")
            assert [region.name for region in regions] == [str(number) for number in np.unique(image)[1:]]
            for region in regions:
                mask = image == int(region.name)
                np.testing.assert_array_equal(filled(region.coordinates(multi=True), image.shape), mask)
                if not region.composite:
                    assert region.roitype == ROI_TYPE.TRACED
                rows, columns = np.nonzero(mask)
                assert (region.left, region.top) == (columns.min(), rows.min())
                assert (region.right, region.bottom) == (columns.max() + 1, rows.max() + 1)


def test_zips_hold_plain_names_and_say_where_they_come_from(results: Path, exported: Path) -> None:
    with zipfile.ZipFile(exported / "roi" / "Cells" / f"{NAMES[0]}.zip") as archive:
        numbers = [int(name.removesuffix(".roi")) for name in archive.namelist()]
        assert numbers == sorted(numbers)
        said = json.loads(archive.comment)
    model = json.loads((results / "run.json").read_text())["model"]
    assert said["model_sha256"] == model["sha256"]
    assert said["configuration"]["cells"] == "GFP"
    with zipfile.ZipFile(exported / "roi" / "Cells" / f"{NAMES[3]}.zip") as archive:
        assert archive.namelist() == []


# QuPath


def test_geojson_holds_cells_with_nuclei_and_measurements(results: Path, exported: Path) -> None:
    shapely = pytest.importorskip("shapely")
    tables = {name: table(results, name) for name in ("Nuclei", "Cells", "Cytoplasm")}
    identities = set()
    for number, name in enumerate(NAMES, start=1):
        content = json.loads((exported / "geojson" / f"{name}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        assert content["cellinfer"]["model"] == "nuclei"
        rows = {key: frame[frame["ImageNumber"] == number].set_index("ObjectNumber") for key, frame in tables.items()}
        assert [int(cell["properties"]["name"]) for cell in content["features"]] == list(rows["Cells"].index)
        for cell in content["features"]:
            identities.add(cell["id"])
            properties = cell["properties"]
            assert (cell["type"], properties["objectType"]) == ("Feature", "cell")
            row = rows["Cells"].loc[int(properties["name"])]
            shape, nucleus = shapely.geometry.shape(cell["geometry"]), shapely.geometry.shape(cell["nucleusGeometry"])
            assert shape.is_valid
            assert shape.area == row["Cells_AreaShape_Area"]
            assert nucleus.area == rows["Nuclei"].loc[int(properties["name"]), "Nuclei_AreaShape_Area"]
            assert shape.contains(nucleus)
            assert shape.centroid.x == pytest.approx(row["Cells_Location_Center_X"] + 0.5)  # corners, not centres
            measured = properties["measurements"]
            mean = "Cells_Intensity_MeanIntensity_GFP"
            assert measured[mean] == row[mean]
            assert "Cytoplasm_Intensity_MeanIntensity_DNA" in measured
            assert ("Cells_Intensity_MeanIntensity_RFP" in measured) == (number == 1)  # missing ones are left out
            assert "Cells_AreaShape_Zernike_0_0" not in measured
    assert len(identities) == len(tables["Cells"])


def test_geojson_may_hold_all_measurements(results: Path, tmp_path: Path) -> None:
    cellinfer.export(results, "geojson", tmp_path, measurements="all")
    cell = json.loads((tmp_path / "geojson" / f"{NAMES[1]}.geojson").read_text())["features"][0]
    row = table(results, "Cells").query("ImageNumber == 2 and ObjectNumber == 1").iloc[0]
    features = row.filter(like="Cells_").astype(float)
    expected = features[np.isfinite(features)].to_dict()
    got = cell["properties"]["measurements"]
    assert {name: value for name, value in got.items() if name.startswith("Cells_")} == expected
    assert "Cells_AreaShape_Zernike_0_0" in expected


# AnnData


@pytest.mark.filterwarnings("ignore")  # anndata's own
@pytest.mark.parametrize("backed", [None, "r"])
def test_anndata_reads_all_cells(results: Path, exported: Path, backed: Any) -> None:
    anndata = pytest.importorskip("anndata")
    data = anndata.read_h5ad(exported / "cells.h5ad", backed=backed)
    cells, nuclei = table(results, "Cells"), table(results, "Nuclei")
    assert data.n_obs == len(cells)
    assert data.obs_names.is_unique
    assert data.obs_names[0] == f"{NAMES[0]}_1"
    for name in ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "ImageNumber", "ObjectNumber"):
        assert list(data.obs[name]) == list(cells[name])
    assert isinstance(data.obs["Metadata_Well"].dtype, pd.CategoricalDtype)
    assert set(data.obs["Metadata_Field"]) == set(NAMES[:3])
    assert data.var["compartment"].tolist() == [name.split("_")[0] for name in data.var_names]
    assert {"Nuclei", "Cells", "Cytoplasm"} == set(data.var["compartment"])
    values = pd.DataFrame(np.asarray(data.X[:]), columns=data.var_names)
    assert values.to_numpy().dtype == np.float32
    for frame, compartment in ((cells, "Cells"), (nuclei, "Nuclei")):
        columns = [name for name in values if name.startswith(f"{compartment}_")]
        assert len(columns) > 100
        pd.testing.assert_frame_equal(values[columns], frame[columns].astype(np.float32), check_exact=True)
    centres = cells[["Cells_Location_Center_X", "Cells_Location_Center_Y"]]
    np.testing.assert_allclose(data.obsm["spatial"], centres, rtol=1e-12)
    assert data.uns["cellinfer"]["model"] == "nuclei"
    assert json.loads(data.uns["cellinfer"]["configuration"])["nuclei"] == "DNA"
    if backed:
        data.file.close()


# CytoTable and pycytominer


def test_the_single_cell_table_joins_the_compartments(results: Path, exported: Path) -> None:
    joined = pd.read_parquet(exported / "cells.cytotable.parquet")
    for name in ("Nuclei", "Cells", "Cytoplasm"):
        frame = table(results, name)
        columns = [column for column in frame if column.startswith(name) and "_Parent_" not in column]
        pd.testing.assert_frame_equal(joined[columns], frame[columns])
        for column in ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time"):
            assert joined[column].tolist() == frame[column].tolist()
        assert joined["Metadata_ImageNumber"].tolist() == frame["ImageNumber"].tolist()
        assert joined["Metadata_ObjectNumber"].tolist() == frame["ObjectNumber"].tolist()
    for column in ("Cells_Parent_Nuclei", "Cytoplasm_Parent_Nuclei", "Cytoplasm_Parent_Cells"):
        assert joined[f"Metadata_{column}"].tolist() == joined["Metadata_ObjectNumber"].tolist()
    assert joined["Image_FileName_GFP"].unique().tolist() == ["A01_s1_GFP.tif", "A01_s2_GFP.tif", "A02_s1_GFP.tif"]


@pytest.mark.filterwarnings("ignore")  # pycytominer's own
def test_pycytominer_aggregates_the_single_cell_table(exported: Path) -> None:
    from pycytominer import aggregate, normalize

    joined = pd.read_parquet(exported / "cells.cytotable.parquet")
    profiles = aggregate(joined, strata=["Metadata_Plate", "Metadata_Well"], features="infer")
    assert profiles["Metadata_Well"].tolist() == ["A01", "A02"]
    assert {name.split("_")[0] for name in profiles} == {"Metadata", "Cells", "Cytoplasm", "Nuclei"}
    area = joined.groupby("Metadata_Well")["Cells_AreaShape_Area"].median()
    assert profiles["Cells_AreaShape_Area"].tolist() == area.tolist()
    normalised = normalize(joined, features=["Cells_AreaShape_Area"], meta_features="infer")
    assert normalised["Cells_AreaShape_Area"].mean() == pytest.approx(0, abs=1e-9)


def test_cytotable_gives_the_same_columns_and_values(results: Path, exported: Path, tmp_path: Path) -> None:
    """CellProfiler's own tables, as it would write ours, through CytoTable."""
    cytotable = pytest.importorskip("cytotable")
    (tmp_path / "in").mkdir()
    for name in ("Nuclei", "Cells", "Cytoplasm"):
        frame = table(results, name)
        columns = [c for c in frame if not c.startswith("Metadata_") and not c.endswith("_RFP")]
        frame = frame[sorted(columns, key=lambda c: c not in ("ImageNumber", "ObjectNumber"))]
        frame = frame.rename(columns=lambda column, name=name: column.removeprefix(f"{name}_"))
        frame["Number_Object_Number"] = frame["ObjectNumber"]
        frame.to_csv(tmp_path / "in" / f"{name}.csv", index=False)
    images = table(results, "Image").rename(columns=lambda column: column.removeprefix("Image_"))
    images.drop(columns="FileName_RFP").to_csv(tmp_path / "in" / "Image.csv", index=False)
    parsl = pytest.importorskip("parsl")
    threads = parsl.config.Config(executors=[parsl.ThreadPoolExecutor(max_threads=1)], run_dir=str(tmp_path / "parsl"))
    cytotable.convert(
        source_path=str(tmp_path / "in"),
        dest_path=str(tmp_path / "out.parquet"),
        dest_datatype="parquet",
        source_datatype="csv",
        preset="cellprofiler_csv",
        parsl_config=threads,
    )
    key = ["Metadata_ImageNumber", "Metadata_ObjectNumber"]
    theirs = pd.read_parquet(tmp_path / "out.parquet").sort_values(key, ignore_index=True)
    ours = pd.read_parquet(exported / "cells.cytotable.parquet").sort_values(key, ignore_index=True)
    assert set(theirs) <= set(ours)
    assert not {name for name in set(ours) - set(theirs) if name.startswith(("Cells_", "Nuclei_", "Cytoplasm_"))} - {
        name for name in ours if name.endswith("_RFP")
    }
    for column in theirs:
        if column.startswith("Image_"):
            assert theirs[column].tolist() == ours[column].tolist()
        else:
            np.testing.assert_allclose(theirs[column].astype(float), ours[column].astype(float), rtol=1e-9)


# OME-Zarr


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def store(request: pytest.FixtureRequest, results: Path, exported: Path) -> Path:
    if request.param == "0.5":
        return exported / "demo.ome.zarr"
    folder = exported.with_name("export04")
    return cellinfer.export(results, "ome-zarr", folder, ngff="0.4").files["ome-zarr"][0]


def ome(group: zarr.Group) -> dict[str, Any]:
    """Return the OME attributes, which both versions have in other places."""
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes)  # type: ignore[return-value]


def test_cellinfer_reads_its_own_plate_back(results: Path, store: Path) -> None:
    original, copy = cellinfer.read_plate(results.parent / "images"), cellinfer.read_plate(store)
    assert copy.name == "demo"
    assert copy.channels == ("DNA", "GFP", "RFP")
    fields = {field.key: field for field in original.fields}
    assert [field.key for field in copy.fields] == [
        FieldKey("demo", well, site, 1) for well in ("A01", "A02") for site in (1, 2)
    ]
    for field in copy.fields:
        for channel in fields[field.key].images:
            np.testing.assert_array_equal(read_channel(field, channel), read_channel(fields[field.key], channel))


def test_labels_lie_beside_images_in_a_pyramid(results: Path, store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    assert root.metadata.zarr_format == (2 if "04" in str(store) else 3)
    assert dict(root.attrs)["cellinfer"]["model"] == "nuclei"
    plate = ome(root)["plate"]
    assert plate["field_count"] == 2
    assert [well["path"] for well in plate["wells"]] == ["A/1", "A/2"]
    assert [image["path"] for image in ome(root["A/2"])["well"]["images"]] == ["1", "2"]
    image = root["A/1/1"]
    described = ome(image)["multiscales"][0]
    assert [axis["name"] for axis in described["axes"]] == ["c", "y", "x"]
    assert [level["path"] for level in described["datasets"]] == ["0", "1"]
    assert image["1"].shape == (3, 160, 151)
    assert [channel["label"] for channel in ome(image)["omero"]["channels"]] == ["DNA", "GFP", "RFP"]
    full = np.asarray(image["0"][0]).astype(float)
    assert image["1"][0, 3, 5] == pytest.approx(full[6:8, 10:12].mean(), abs=0.51)
    assert ome(root["A/1/1/labels"])["labels"] == ["Nuclei", "Cells"]
    for kind in ("Nuclei", "Cells"):
        for number, name in enumerate(NAMES):
            group = root[f"A/{number // 2 + 1}/{number % 2 + 1}/labels/{kind}"]
            assert ome(group)["image-label"]["source"] == {"image": "../../"}
            expected = labels(results, kind, name)
            assert group["0"].dtype == np.uint32
            np.testing.assert_array_equal(group["0"][:], expected)
            np.testing.assert_array_equal(group["1"][:], expected[::2, ::2])
            assert [
                len(axis["scale"]) for axis in ome(group)["multiscales"][0]["datasets"][1]["coordinateTransformations"]
            ] == [2]


def test_a_channel_that_a_field_lacks_is_known_to_be_missing(store: Path) -> None:
    root = zarr.open_group(store, mode="r")
    assert dict(root["A/1/2"].attrs)["cellinfer"]["missing_channels"] == ["RFP"]
    assert not np.any(root["A/1/2/0"][2])
    copy = cellinfer.read_plate(store)
    with pytest.raises(InputError):  # not black pixels
        read_channel(copy.fields[1], "RFP")


@pytest.mark.filterwarnings("ignore")
def test_ome_zarr_models_find_nothing_wrong(store: Path) -> None:
    models = pytest.importorskip("ome_zarr_models")
    version = models.v04 if "04" in str(store) else models.v05
    root = zarr.open_group(store, mode="r")
    version.HCS.from_zarr(root)
    version.Image.from_zarr(root["A/1/1"])


@pytest.mark.filterwarnings("ignore")
def test_napari_shows_images_and_labels(store: Path) -> None:
    reader = pytest.importorskip("napari_ome_zarr")
    components = pytest.importorskip("napari.components")
    viewer = components.ViewerModel()
    for path in (store, store / "A" / "1" / "1"):
        for data in reader.napari_get_reader(str(path))(str(path)):
            viewer._add_layer_from_data(*data)
        kinds = [type(layer).__name__ for layer in viewer.layers]
        assert kinds == ["Image"] * 3 + ["Labels"] * 2
        viewer.layers.clear()


# the folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_export_again_gives_the_same_bytes(results: Path, exported: Path) -> None:
    before = snapshot(exported)
    seen: list[tuple[int, int]] = []
    result = cellinfer.export(results, FORMATS, progress=lambda done, total: seen.append((done, total)))
    assert snapshot(exported) == before
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (result.fields, result.left_out) == (4, 1)
    assert result.cells == len(table(results, "Cells"))
    assert all(path.exists() for paths in result.files.values() for path in paths)
    assert not [name for name in before if "partial" in name]


def test_files_of_others_are_never_replaced(results: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_text("mine")
    (tmp_path / "geojson").mkdir()
    with pytest.raises(OutputError, match="was not written by an export"):
        cellinfer.export(results, "geojson,h5ad", tmp_path)
    assert (tmp_path / "cells.h5ad").read_text() == "mine"
    assert list((tmp_path / "geojson").iterdir()) == []
    cellinfer.export(results, "geojson", tmp_path)  # which is in nobody's way
    (tmp_path / "geojson" / "other.geojson").write_text("mine")
    cellinfer.export(results, "geojson", tmp_path)
    assert (tmp_path / "geojson" / "other.geojson").read_text() == "mine"
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(OutputError, match="was not written by an export"):
        cellinfer.export(results, "geojson", tmp_path)


def test_what_an_earlier_export_wrote_and_this_one_would_not_is_removed(results: Path, tmp_path: Path) -> None:
    cellinfer.export(results, ["roi"], tmp_path)
    old = "roi/Cells/demo_H12_s1_t1.zip"
    manifest = json.loads((tmp_path / "export.json").read_text())
    manifest["formats"]["roi"]["files"].append(old)
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    (tmp_path / old).write_bytes(b"")
    (tmp_path / "roi" / "Cells" / f".{NAMES[0]}.zip.123.partial").write_bytes(b"torn")  # of a killed export
    cellinfer.export(results, ["roi"], tmp_path)
    assert {path.name for path in (tmp_path / "roi" / "Cells").iterdir()} == {f"{name}.zip" for name in NAMES}
    assert (tmp_path / "roi" / "Nuclei" / f"{NAMES[0]}.zip").exists()


def test_a_failure_leaves_the_earlier_files(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("export*"))
    out = cellinfer.export(copy, "ome-zarr,h5ad,cytotable", tmp_path / "out").folder
    before = snapshot(out)
    (copy / "labels" / "Cells" / f"{NAMES[2]}.ome.tiff").unlink()
    with pytest.raises(InputError, match="run the same"):
        cellinfer.export(copy, "ome-zarr,h5ad,cytotable", tmp_path / "out")
    assert snapshot(out) == before


# what is refused


def test_folders_that_are_not_of_a_finished_run_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        cellinfer.export(tmp_path / "nowhere", "roi")
    with pytest.raises(InputError, match="no result folder"):
        cellinfer.export(tmp_path, "roi")
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("export*"))
    (copy / "run.json").rename(copy / "old.json")
    with pytest.raises(InputError, match="not finished"):
        cellinfer.export(copy, "roi")
    (copy / "old.json").rename(copy / "run.json")
    (copy / "Cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"Cells\.parquet"):
        cellinfer.export(copy, "roi")
    assert not (copy / "export").exists()


@pytest.mark.parametrize("formats", ["ome-tiff", "", [], "roi,what"])
def test_unknown_formats_are_refused(results: Path, formats: Any) -> None:
    with pytest.raises(InputError, match="choose from ome-zarr, roi, geojson, h5ad, cytotable"):
        cellinfer.export(results, formats)


def test_a_missing_package_is_named_with_the_extra(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "h5py" else found(name))
    with pytest.raises(InputError, match=r"h5ad needs the package h5py: pip install 'cellinfer\[export\]'"):
        cellinfer.export(results, "cytotable,h5ad")


def test_images_that_moved_or_changed_are_noticed(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results", ignore=shutil.ignore_patterns("export*"))
    info = json.loads((copy / "run.json").read_text())
    images = shutil.copytree(info["input"]["folder"], tmp_path / "demo" / "images")
    info["input"]["folder"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="--plate"):
        cellinfer.export(copy, "ome-zarr")
    assert cellinfer.export(copy, "ome-zarr", plate=images).fields == 4
    (images / "A01_s1_RFP.tif").unlink()
    with pytest.raises(InputError, match="are not those of the run"):
        cellinfer.export(copy, "ome-zarr", plate=images)
    with pytest.raises(InputError, match=r"Unknown OME-Zarr version '0\.3'"):
        cellinfer.export(copy, "ome-zarr", plate=images, ngff="0.3")  # type: ignore[arg-type]


# the command


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cellinfer", "export", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_command_exports(results: Path, tmp_path: Path) -> None:
    done = command(results, "--to", "roi,cytotable", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert " cells in 4 fields; 1 that failed left out" in done.stdout
    assert (tmp_path / "out" / "cells.cytotable.parquet").is_file()
    refused = command(results, "--to", "xlsx")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Unknown format 'xlsx'")
    assert "Traceback" not in refused.stderr


def test_the_command_answers_an_interrupt_with_one_line(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellinfer.cli import app
    from typer.testing import CliRunner

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellinfer.exporting.export", interrupted)
    done = CliRunner().invoke(app, ["export", str(results), "--to", "roi"])
    assert done.exit_code == 130
    assert done.stderr == "stopped; run the same command again\n"


def test_help_comes_at_once() -> None:
    started = time.perf_counter()
    done = command("--help")
    assert done.returncode == 0
    assert "cytotable" in done.stdout
    assert time.perf_counter() - started < 2  # 0.2 s on an idle machine
