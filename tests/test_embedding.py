"""Embeddings of cells: right features for right cells, in every kind of run, however it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cellinfer
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
from cellinfer.cli import app
from cellinfer.embedding import Embedder, embed
from cellinfer.engine import RunResult, run
from cellinfer.errors import InputError, ModelError
from cellinfer.pipeline import Settings
from cellinfer.profiling.columns import feature_columns
from cellinfer.sessions import EmbeddingSession, open_embedder
from cellinfer_kernels.reference.crops import crops
from typer.testing import CliRunner

from tests.conftest import dask_cluster, draw_cells
from tests.embedders import FEATURES, SIDE, describe, features_of, save_embedder

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well", "Embedding")
KEYS = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "ImageNumber", "ObjectNumber"]
TOGETHER = describe(("GFP", "DNA"), each_channel=False, range=[0, 1], diameter=20, mask_neighbours=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "each": save_embedder(folder / "each.onnx"),
        "together": save_embedder(folder / "together.onnx", TOGETHER),
    }


@pytest.fixture(scope="module")
def each(models: dict[str, Path]) -> EmbeddingSession:
    return open_embedder(models["each"], "cpu", 1)


@pytest.fixture(scope="module")
def together(models: dict[str, Path]) -> EmbeddingSession:
    return open_embedder(models["together"], "cpu", 1)


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four wells, two sites, two channels; B01 is black."""
    folder = tmp_path_factory.mktemp("plates") / "plate"
    folder.mkdir()
    for number, well in enumerate(("A01", "A02", "B01", "B02")):
        for site in (1, 2):
            field = draw_cells(10 * number + site, (130, 150))
            for channel in ("DNA", "GFP"):
                image = field[channel] if well != "B01" else np.zeros((130, 150), np.uint16)
                tifffile.imwrite(folder / f"{well}_s{site}_{channel}.tif", image)
    return folder


def analyse(plate: Path, out: Path, model: Path | None, **options: Any) -> RunResult:
    options = {"settings": Settings(diameter=22), "device": "cpu", "precision": "float32", "threads": 2} | options
    return run(plate, out, embed=model, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


@pytest.fixture(scope="module")
def expected(plate: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of a run on one thread."""
    out = tmp_path_factory.mktemp("expected")
    assert analyse(plate, out, models["each"], threads=1).complete
    return contents(out)


def test_features_are_those_of_each_cell_and_channel(each: EmbeddingSession, cells_field: dict[str, Any]) -> None:
    images = {name: cells_field[name] for name in ("DNA", "GFP")}
    labels = np.where(cells_field["truth"] == 3, 0, cells_field["truth"])  # ids need not follow one another
    ids = np.unique(labels)[1:]
    centres = np.array([np.argwhere(labels == name).mean(axis=0) for name in ids])
    found = embed(each, images, labels)
    cut = crops(list(images.values()), centres, 40, SIDE, value_range=(-1, 1))
    assert found.dtype == np.float32
    for number in range(2):
        expected = features_of(cut[:, number : number + 1])
        np.testing.assert_allclose(
            found[:, number * FEATURES : (number + 1) * FEATURES], expected, rtol=1e-3, atol=1e-5
        )


def test_channels_that_go_together_go_in_the_model_s_order(
    together: EmbeddingSession, cells_field: dict[str, Any]
) -> None:
    labels = cells_field["truth"]
    ids = np.unique(labels)[1:]
    centres = np.array([np.argwhere(labels == name).mean(axis=0) for name in ids])
    images = {"other": cells_field["GFP"] * 0, "DNA": cells_field["DNA"], "GFP": cells_field["GFP"]}
    cut = crops([images["GFP"], images["DNA"]], centres, 60, SIDE, mask="neighbours", labels=labels, owners=ids)
    found = embed(together, images, labels, diameter=30.0)  # the box of 40 is for 20
    np.testing.assert_allclose(found, features_of(cut), rtol=1e-3, atol=1e-5)


def test_options_go_before_the_card(together: EmbeddingSession, cells_field: dict[str, Any]) -> None:
    images, labels = {name: cells_field[name] for name in ("DNA", "GFP")}, cells_field["truth"]
    as_card = embed(together, images, labels, diameter=20)
    assert np.abs(embed(together, images, labels, diameter=20, mask="outside") - as_card).max() > 1e-3
    assert np.abs(embed(together, images, labels, diameter=20, box=50) - as_card).max() > 1e-3
    np.testing.assert_array_equal(embed(together, images, labels, diameter=99, box=40), as_card)
    np.testing.assert_array_equal(embed(together, images, labels, diameter=20, mask="neighbours"), as_card)


def test_what_a_neighbour_does_is_hidden(together: EmbeddingSession, cells_field: dict[str, Any]) -> None:
    labels = cells_field["truth"]
    images = {name: cells_field[name] for name in ("DNA", "GFP")}
    loud = {name: np.where(labels == 2, 60_000, image).astype(np.uint16) for name, image in images.items()}
    others = np.unique(labels)[1:] != 2
    quiet_features, loud_features = (embed(together, i, labels, diameter=30) for i in (images, loud))
    np.testing.assert_array_equal(quiet_features[others], loud_features[others])
    unmasked = [embed(together, i, labels, diameter=30, mask="none")[others] for i in (images, loud)]
    assert np.abs(unmasked[0] - unmasked[1]).max() > 1e-3


def test_the_box_is_that_of_the_nuclei_unless_it_is_given(together: EmbeddingSession, each: EmbeddingSession) -> None:
    assert Embedder(together).box_pixels(20) == 40
    assert Embedder(together).box_pixels(31) == 62
    assert Embedder(together).box_pixels(1e9) == 4096
    assert Embedder(together, box=50).box_pixels(31) == 50
    assert Embedder(each).box_pixels(31) == 40


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"mask": "all"}, "mask 'all'"), ({"box": 1}, "box"), ({"box": np.nan}, "box"), ({"box": 5000}, "box")],
)
def test_options_that_make_no_sense_are_refused(each: EmbeddingSession, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Embedder(each, **options)


def test_missing_channels_and_other_shapes_are_refused(together: EmbeddingSession) -> None:
    image = np.zeros((40, 50), np.uint8)
    with pytest.raises(InputError, match="takes the channels GFP, DNA, and there is no 'GFP': the images have DNA"):
        embed(together, {"DNA": image, "ER": image}, image)
    with pytest.raises(InputError, match="must be alike"):
        embed(together, {"DNA": image, "GFP": image}, image.T)


def test_pixels_of_any_type_give_numbers(each: EmbeddingSession, cells_field: dict[str, Any]) -> None:
    image, labels = cells_field["DNA"], cells_field["truth"]
    expected = embed(each, {"DNA": image}, labels)
    for dtype in (np.uint32, np.float32, np.float64):
        np.testing.assert_array_equal(embed(each, {"DNA": image.astype(dtype)}, labels), expected)
    broken = image.astype(np.float64)
    broken[::7, ::5], broken[3], broken[:, 9] = np.nan, np.inf, 1e300
    assert np.isfinite(embed(each, {"DNA": broken}, labels)).all()


def test_no_cells_give_no_rows(each: EmbeddingSession) -> None:
    image = np.zeros((40, 50), np.uint8)
    assert embed(each, {"DNA": image, "ER": image}, image).shape == (0, 2 * FEATURES)


def test_a_pipeline_embeds_what_it_finds(models: dict[str, Path], cells_field: dict[str, Any]) -> None:
    images = {name: cells_field[name] for name in ("DNA", "GFP")}
    pipeline = cellinfer.load("nuclei", device="cpu", threads=1, precision="float32", embed=models["each"])
    result = pipeline.analyse(images)
    assert list(result.embedding.columns[:2]) == ["ObjectNumber", "Cells_Embedding_000_DNA"]
    assert result.embedding.columns[-1] == f"Cells_Embedding_{FEATURES - 1:03d}_GFP"
    assert result.embedding["ObjectNumber"].tolist() == result.cells["ObjectNumber"].tolist()
    assert (result.embedding.dtypes[1:] == np.float32).all()
    assert len(feature_columns(result.embedding)) == 2 * FEATURES
    found = embed(
        pipeline.embedder.session,  # type: ignore[union-attr]
        images,
        result.labels["Nuclei"],
        cells=result.labels["Cells"],
    )
    np.testing.assert_array_equal(result.embedding.iloc[:, 1:].to_numpy(), found)
    with pytest.raises(InputError, match="name one with embed="):
        cellinfer.load("nuclei", device="cpu", embed_mask="none")
    assert "Embedding" not in cellinfer.load("nuclei", device="cpu", threads=1).analyse(images).tables


def test_pycytominer_takes_the_columns_for_features(models: dict[str, Path], cells_field: dict[str, Any]) -> None:
    util = pytest.importorskip("pycytominer.cyto_utils")
    images = {name: cells_field[name] for name in ("DNA", "GFP")}
    for kind, count in (("each", 2 * FEATURES), ("together", FEATURES)):
        table = cellinfer.load("nuclei", device="cpu", threads=1, embed=models[kind]).analyse(images).embedding
        assert len(util.infer_cp_features(table)) == count


def test_a_run_writes_the_table(plate: Path, models: dict[str, Path], tmp_path: Path) -> None:
    result = analyse(plate, tmp_path / "out", models["each"], csv=True)
    assert result.complete
    assert result.embedding == "small"
    table = pd.read_parquet(tmp_path / "out" / "Embedding.parquet")
    cells = pd.read_parquet(tmp_path / "out" / "Cells.parquet")
    pd.testing.assert_frame_equal(table[KEYS], cells[KEYS])
    assert [name for name in table.columns if name not in KEYS] == feature_columns(table)
    kinds = pq.ParquetFile(tmp_path / "out" / "Embedding.parquet").schema_arrow
    assert {str(kinds.field(name).type) for name in feature_columns(table)} == {"float"}
    assert table[feature_columns(table)].notna().all(axis=None)
    assert len(pd.read_csv(tmp_path / "out" / "Embedding.csv")) == len(table) > 20
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    sha256 = open_embedder(models["each"], "cpu", 1).sha256
    assert info["embedding"] == {
        "name": "small", "version": "1.0.0", "license": "CC0-1.0", "sha256": sha256, "mask": "none", "box": None,
    }  # fmt: skip
    assert "embed" in info["seconds"]["by_stage_summed_over_fields"]
    well = pd.read_parquet(tmp_path / "out" / "Well.parquet")
    assert not [name for name in well.columns if "Embedding" in name]


def test_without_it_nothing_else_changes(
    plate: Path, expected: dict[str, bytes], models: dict[str, Path], tmp_path: Path
) -> None:
    analyse(plate, tmp_path / "out", None)
    plain = contents(tmp_path / "out")
    assert {"Embedding.parquet": expected["Embedding.parquet"], **plain} == expected
    assert "embedding" not in json.loads((tmp_path / "out" / "run.json").read_text())
    assert analyse(plate, tmp_path / "out", models["each"]).reused == 0
    assert contents(tmp_path / "out") == expected
    assert analyse(plate, tmp_path / "out", models["each"]).reused == 8
    assert analyse(plate, tmp_path / "out", models["each"], embed_mask="none").reused == 8  # it is the card's
    assert analyse(plate, tmp_path / "out", models["each"], embed_mask="outside").reused == 0
    assert contents(tmp_path / "out") != expected
    assert analyse(plate, tmp_path / "out", None).reused == 0
    assert contents(tmp_path / "out") == plain


@pytest.mark.parametrize("options", [{"threads": 3}, {"workers": 2}, {"batch": 4, "threads": 3}])
def test_however_a_run_is_spread_its_tables_are_the_same(
    plate: Path, models: dict[str, Path], expected: dict[str, bytes], tmp_path: Path, options: dict[str, Any]
) -> None:
    assert analyse(plate, tmp_path / "out", models["each"], **options).complete
    assert contents(tmp_path / "out") == expected


def test_a_cluster_gives_the_same_tables(
    plate: Path, models: dict[str, Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    with dask_cluster(1) as cluster:
        address = cluster.scheduler_address
        assert analyse(plate, tmp_path / "out", models["each"], scheduler=address).complete
    assert contents(tmp_path / "out") == expected


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_run_goes_on_to_the_same_bytes(
    plate: Path, models: dict[str, Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = (
        "import sys; from cellinfer.engine import run; from cellinfer.pipeline import Settings; "
        "run(*sys.argv[1:3], embed=sys.argv[3], settings=Settings(diameter=22), device='cpu', precision='float32', "
        "threads=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, plate, out, models["each"]], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((out / "fields").glob("*.arrows"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "Embedding.parquet").exists()
    assert analyse(plate, out, models["each"]).reused >= 1
    assert contents(out) == expected


def test_a_plate_without_cells_has_the_same_columns(
    models: dict[str, Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "plate"
    folder.mkdir()
    for channel in ("DNA", "GFP"):
        tifffile.imwrite(folder / f"A01_s1_{channel}.tif", np.zeros((64, 64), np.uint16))
    analyse(folder, tmp_path / "out", models["each"])
    table = pq.ParquetFile(tmp_path / "out" / "Embedding.parquet")
    (tmp_path / "expected.parquet").write_bytes(expected["Embedding.parquet"])
    assert table.metadata.num_rows == 0
    assert table.schema_arrow == pq.ParquetFile(tmp_path / "expected.parquet").schema_arrow


def test_damaged_fields_and_missing_channels_cost_only_themselves(
    plate: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    spoilt = tmp_path / "plate"
    spoilt.mkdir()
    for path in plate.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    (spoilt / "A01_s1_DNA.tif").write_bytes(b"")
    for site in (1, 2):
        tifffile.imwrite(spoilt / f"A01_s{site}_ER.tif", draw_cells(5, (130, 150))["GFP"])
    result = analyse(spoilt, tmp_path / "each", models["each"], settings=Settings(diameter=22, cells="GFP"))
    assert set(result.failed) == {"plate_A01_s1_t1"}
    table = pd.read_parquet(tmp_path / "each" / "Embedding.parquet")
    named = [name for name in table.columns if name.endswith("_ER")]
    assert len(named) == FEATURES
    has_it = (table["Metadata_Well"] == "A01").to_numpy()
    assert table.loc[has_it, named].notna().all(axis=None)
    assert table.loc[~has_it, named].isna().all(axis=None)
    (spoilt / "B02_s2_GFP.tif").unlink()
    result = analyse(
        spoilt, tmp_path / "together", models["together"], settings=Settings(nuclei="DNA", cells="DNA", diameter=22)
    )
    assert set(result.failed) == {"plate_A01_s1_t1", "plate_B02_s2_t1"}
    assert "GFP" in result.failed["plate_B02_s2_t1"]


def test_wrong_models_options_and_channels_are_refused_before_work(
    plate: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="finds objects and does not describe cells"):
        run(plate, out, embed="nuclei", device="cpu")
    with pytest.raises(InputError, match="name one with --embed"):
        analyse(plate, out, None, embed_mask="none")
    with pytest.raises(InputError, match="mask"):
        analyse(plate, out, models["each"], embed_mask="all")
    with pytest.raises(InputError, match="takes the channels GFP, DNA, and there is no 'GFP'"):
        analyse(plate, out, models["together"], channels={"DNA": "DNA"})
    assert not out.exists()


def test_the_command_line_says_where_the_table_is(plate: Path, models: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["run", str(plate), "--out", str(tmp_path / "out"), "--embed", str(models["each"]), "--embed-box", "50",
         "--embed-mask", "outside", "--diameter", "22", "--device", "cpu", "--threads", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Well, Embedding" in done.output
    info = json.loads((tmp_path / "out" / "run.json").read_text())["embedding"]
    assert (info["mask"], info["box"]) == ("outside", 50)


def test_fields_count_with_their_crops(each: EmbeddingSession) -> None:
    small = Embedder(each).peak_bytes(10**6, 2, 30)
    assert Embedder(each).peak_bytes(4 * 10**6, 2, 30) > small
    assert Embedder(each).peak_bytes(10**6, 5, 30) > small
