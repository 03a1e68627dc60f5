"""A whole plate: complete, resumable, honest about what failed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tifffile
from cellinfer.engine import RunResult, State, run
from cellinfer.errors import InputError, OutputError
from cellinfer.pipeline import Settings

from tests.conftest import draw_cells

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well")
SETTINGS = Settings(diameter=22)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six wells, two sites, two channels; B02 is black. To be left as it is."""
    folder = tmp_path_factory.mktemp("plates") / "plate"
    folder.mkdir()
    for number, well in enumerate(("A01", "A02", "A03", "B01", "B02", "B03")):
        for site in (1, 2):
            field = draw_cells(10 * number + site, (130, 150))
            for channel in ("DNA", "GFP"):
                image = field[channel] if well != "B02" else np.zeros((130, 150), np.uint16)
                tifffile.imwrite(folder / f"{well}_s{site}_{channel}.tif", image)
    return folder


@pytest.fixture
def plate(drawn: Path, tmp_path: Path) -> Path:
    """The plate, to be changed at will."""
    return Path(shutil.copytree(drawn, tmp_path / "plate"))


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """A run of the plate, to be left as it is, and what was said of it."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, analyse(drawn, out)


@pytest.fixture
def out(finished: tuple[Path, RunResult], tmp_path: Path) -> Path:
    """The results of a run of the plate, to be changed at will; nothing in them depends on where they are."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def analyse(plate: Path, out: Path, **options: Any) -> RunResult:
    return run(plate, out, settings=options.pop("settings", SETTINGS), device="cpu", threads=2, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}


def test_a_plate_becomes_tables(plate: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = analyse(plate, out, csv=True)
    assert result.complete
    assert result.fields == 12
    cells = pd.read_parquet(out / "Cells.parquet")
    assert len(cells) == result.cells > 50
    key = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "ObjectNumber"]
    assert not cells.duplicated(key).any()
    assert cells["ImageNumber"].is_monotonic_increasing
    image = pd.read_parquet(out / "Image.parquet")
    assert image["ImageNumber"].tolist() == list(range(1, 13))
    assert image.loc[image["Metadata_Well"] == "B02", "Image_Count_Cells"].tolist() == [0, 0]
    well = pd.read_parquet(out / "Well.parquet").set_index("Metadata_Well")
    assert well.index.tolist() == ["A01", "A02", "A03", "B01", "B02", "B03"]
    feature = "Nuclei_Intensity_MeanIntensity_DNA"
    nuclei = pd.read_parquet(out / "Nuclei.parquet")
    expected = nuclei.groupby("Metadata_Well")[feature].median()
    pd.testing.assert_series_equal(well[feature].drop("B02"), expected, check_names=False)
    assert np.isnan(well.loc["B02", feature])
    assert well.loc["A01", "Image_Count_Cells"] == (cells["Metadata_Well"] == "A01").sum()
    for name in TABLES:
        assert len(pd.read_csv(out / f"{name}.csv")) == pq.ParquetFile(out / f"{name}.parquet").metadata.num_rows


def test_label_images_match_the_tables(finished: tuple[Path, RunResult]) -> None:
    out, _ = finished
    nuclei = pd.read_parquet(out / "Nuclei.parquet")
    site = nuclei.query("Metadata_Well == 'A03' and Metadata_Site == 2")
    labels = tifffile.imread(out / "labels" / "Nuclei" / "plate_A03_s2_t1.ome.tiff")
    assert labels.dtype == np.uint16
    assert np.bincount(labels.ravel())[1:].tolist() == site["Nuclei_AreaShape_Area"].tolist()


def test_run_json_says_what_made_the_tables(plate: Path, tmp_path: Path) -> None:
    analyse(plate, tmp_path / "out", settings=Settings())
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(info["model"]["sha256"]) == 64
    assert info["configuration"]["nuclei"] == "DNA"
    assert info["configuration"]["diameter"] == pytest.approx(22, rel=0.2)
    assert info["device"]["name"] == "cpu"
    assert set(info["seconds"]["by_stage_summed_over_fields"]) == {"read", "segment", "cells", "measure", "write"}
    assert info["input"]["channels"] == ["DNA", "GFP"]
    assert {"numpy", "onnxruntime", "python"} <= set(info["versions"])


def test_the_overview_is_a_picture(finished: tuple[Path, RunResult]) -> None:
    import cv2

    picture = cv2.imread(str(finished[1].overview))
    assert picture.shape[0] > 800
    assert picture.std() > 20


def test_the_same_command_again_does_nothing(plate: Path, out: Path, finished: tuple[Path, RunResult]) -> None:
    first = finished[1]
    before = contents(out)
    second = analyse(plate, out)
    assert (first.reused, second.reused) == (0, 12)
    assert contents(out) == before
    assert analyse(plate, out, fresh=True).reused == 0
    assert contents(out) == before


def test_only_what_changed_is_done_again(plate: Path, out: Path, tmp_path: Path) -> None:
    field = draw_cells(99, (130, 150))
    tifffile.imwrite(plate / "A02_s1_GFP.tif", field["GFP"])
    os.utime(plate / "A03_s1_GFP.tif", (0, 2**31))  # time alone means nothing
    shard = out / "fields" / "plate_B01_s1_t1.arrows"
    shard.write_bytes(shard.read_bytes()[:-10])
    again = analyse(plate, out)
    assert again.reused == 10
    analyse(plate, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_other_settings_do_everything_again(plate: Path, out: Path) -> None:
    assert analyse(plate, out, settings=Settings(diameter=22, edge="keep")).reused == 0


def test_bad_files_are_quarantined_and_the_rest_runs(plate: Path, tmp_path: Path) -> None:
    (plate / "A01_s1_DNA.tif").write_bytes(b"")
    content = (plate / "A02_s2_GFP.tif").read_bytes()
    (plate / "A02_s2_GFP.tif").write_bytes(content[: len(content) // 2])
    tifffile.imwrite(plate / "B03_s1_GFP.tif", np.zeros((20, 20), np.uint16))
    (plate / "B01_s2_DNA.tif").unlink()
    result = analyse(plate, tmp_path / "out")
    assert not result.complete
    assert set(result.failed) == {f"plate_{field}_t1" for field in ("A01_s1", "A02_s2", "B01_s2", "B03_s1")}
    assert "A01_s1_DNA.tif" in result.failed["plate_A01_s1_t1"]
    assert "differ in size" in result.failed["plate_B03_s1_t1"]
    image = pd.read_parquet(tmp_path / "out" / "Image.parquet").set_index("ImageNumber")
    assert len(image) == 12
    assert (image["Image_Status"] == "failed").sum() == 4
    assert image.loc[1, "Image_Reason"] == result.failed["plate_A01_s1_t1"]
    well = pd.read_parquet(tmp_path / "out" / "Well.parquet").set_index("Metadata_Well")
    assert well.loc["A01", "Image_Count_FailedFields"] == 1


def test_failed_fields_are_tried_again_when_mended_or_asked(plate: Path, tmp_path: Path) -> None:
    good = (plate / "A01_s1_DNA.tif").read_bytes()
    (plate / "A01_s1_DNA.tif").write_bytes(b"")
    analyse(plate, tmp_path / "out")
    assert analyse(plate, tmp_path / "out").reused == 12
    assert analyse(plate, tmp_path / "out", retry_failed=True).reused == 11
    (plate / "A01_s1_DNA.tif").write_bytes(good)
    mended = analyse(plate, tmp_path / "out")
    assert mended.complete
    assert mended.reused == 11


def test_a_plate_without_any_cell_gives_the_same_tables(tmp_path: Path) -> None:
    folder = tmp_path / "black"
    folder.mkdir()
    for well in ("A01", "A02"):
        for channel in ("DNA", "GFP"):
            tifffile.imwrite(folder / f"{well}_s1_{channel}.tif", np.zeros((60, 60), np.uint8))
    result = run(folder, tmp_path / "out", device="cpu")
    assert (result.fields, result.cells) == (2, 0)
    cells = pd.read_parquet(tmp_path / "out" / "Cells.parquet")
    assert "Cells_AreaShape_Area" in cells
    assert cells.empty


def test_a_plate_where_everything_fails_still_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "A01_s1_DNA.tif").write_bytes(b"II*\x00\x08\x00\x00\x00")
    result = run(folder, tmp_path / "out", device="cpu")
    assert list(result.failed) == ["broken_A01_s1_t1"]
    assert pd.read_parquet(tmp_path / "out" / "Image.parquet")["Image_Status"].tolist() == ["failed"]


def test_a_plate_where_everything_fails_has_every_column(
    plate: Path, tmp_path: Path, finished: tuple[Path, RunResult]
) -> None:
    for path in plate.glob("*.tif"):
        path.write_bytes(b"")
    assert analyse(plate, tmp_path / "bad").fields == 0
    for name in TABLES:
        good, bad = (pq.read_schema(folder / f"{name}.parquet") for folder in (finished[0], tmp_path / "bad"))
        assert good.equals(bad), name
    assert pd.read_parquet(tmp_path / "bad" / "Well.parquet")["Image_Count_Cells"].tolist() == [0] * 6


def test_a_field_without_the_cytoplasm_channel_does_not_stop_the_others(plate: Path, tmp_path: Path) -> None:
    (plate / "A01_s1_GFP.tif").unlink()
    result = analyse(plate, tmp_path / "out", settings=Settings())
    assert list(result.failed) == ["plate_A01_s1_t1"]
    assert result.fields == 11


def test_another_plate_in_the_same_folder_is_refused_or_starts_afresh(plate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    large = draw_cells(1, (200, 220), radius=22)
    for channel in ("DNA", "GFP"):
        tifffile.imwrite(other / f"C01_s1_{channel}.tif", large[channel])
    first = analyse(plate, tmp_path / "out", settings=Settings())
    with pytest.raises(OutputError, match="another plate, 'plate'"):
        analyse(other, tmp_path / "out", settings=Settings())
    second = analyse(other, tmp_path / "out", settings=Settings(), fresh=True)
    assert first.diameter == pytest.approx(22, rel=0.2)
    assert second.diameter == pytest.approx(44, rel=0.2)
    assert [path.name for path in (tmp_path / "out" / "fields").iterdir()] == ["other_C01_s1_t1.arrows"]
    assert len(list((tmp_path / "out" / "labels" / "Cells").iterdir())) == 1


def test_a_run_says_what_it_took_for_granted(
    plate: Path, out: Path, finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    said = finished[1].notes
    assert "nuclei are looked for in 'DNA', cells in 'GFP'" in said
    notes = " | ".join(said)
    assert "2 of 12 fields are flagged" in notes  # the black well
    assert "constant" in notes
    (out / "assay").mkdir()
    (out / "assay" / "assay.json").write_text("{}")
    again = " | ".join(analyse(plate, out, settings=Settings(diameter=22, edge="keep")).notes)
    assert "settings or model differ" in again
    assert "assay results of the earlier tables were removed" in again
    assert not (out / "assay").exists()
    for path in plate.glob("*_GFP.tif"):
        path.unlink()
    alone = " | ".join(analyse(plate, tmp_path / "one").notes)
    assert "even rings" in alone
    assert json.loads((tmp_path / "one" / "run.json").read_text())["result"]["notes"]


def test_a_diameter_that_nothing_showed_is_not_kept(plate: Path, tmp_path: Path) -> None:
    good = {path: path.read_bytes() for path in plate.glob("*.tif")}
    for path in good:
        path.write_bytes(b"")
    blind = analyse(plate, tmp_path / "out", settings=Settings())
    assert blind.diameter_assumed
    for path, content in good.items():
        path.write_bytes(content)
    seeing = analyse(plate, tmp_path / "out", settings=Settings())
    assert not seeing.diameter_assumed
    assert seeing.diameter == pytest.approx(22, rel=0.2)


def test_a_field_that_fails_later_takes_its_results_along(plate: Path, out: Path) -> None:
    assert (out / "labels" / "Nuclei" / "plate_A01_s1_t1.ome.tiff").exists()
    (plate / "A01_s1_DNA.tif").unlink()
    result = analyse(plate, out)
    assert list(result.failed) == ["plate_A01_s1_t1"]
    assert not (out / "labels" / "Nuclei" / "plate_A01_s1_t1.ome.tiff").exists()
    assert result.overview.is_file()


def test_a_new_well_leaves_the_others_alone(plate: Path, tmp_path: Path, finished: tuple[Path, RunResult]) -> None:
    late = {path: path.read_bytes() for path in plate.glob("A01_*.tif")}
    for path in late:
        path.unlink()
    analyse(plate, tmp_path / "out")
    for path, content in late.items():
        path.write_bytes(content)
    assert analyse(plate, tmp_path / "out").reused == 10
    assert contents(tmp_path / "out") == contents(finished[0])


def test_lost_label_images_are_made_again(plate: Path, out: Path) -> None:
    (out / "labels" / "Cells" / "plate_B03_s2_t1.ome.tiff").unlink()
    assert analyse(plate, out).reused == 11


def test_a_bug_in_one_field_does_not_cost_the_plate(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cellinfer.pipeline import Pipeline

    real = Pipeline.analyse

    def analyse_or_break(self: Pipeline, field: Any, *images: Any) -> Any:
        if getattr(field, "key", None) and field.key.well == "A02":
            raise ZeroDivisionError("oops")
        return real(self, field, *images)

    monkeypatch.setattr(Pipeline, "analyse", analyse_or_break)
    result = analyse(plate, tmp_path / "out")
    assert set(result.failed) == {"plate_A02_s1_t1", "plate_A02_s2_t1"}
    assert "ZeroDivisionError: oops" in result.failed["plate_A02_s1_t1"]
    assert "Traceback" in caplog.text


def test_failures_that_may_pass_are_tried_again(plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellinfer import pipeline
    from cellinfer.errors import ImageError

    real = pipeline.read_channel

    def read_or_lose(field: Any, channel: str, **options: Any) -> Any:
        if field.key.well == "A03":
            raise ImageError("the share is away") from OSError("gone")
        return real(field, channel, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "read_channel", read_or_lose)
        assert len(analyse(plate, tmp_path / "out").failed) == 2
    again = analyse(plate, tmp_path / "out")
    assert again.complete
    assert again.reused == 10


def test_the_plate_itself_is_no_result_folder(plate: Path) -> None:
    before = sorted(plate.iterdir())
    with pytest.raises(InputError, match="never touched"):
        run(plate, plate)
    assert sorted(plate.iterdir()) == before


def test_a_wrong_channel_is_refused_before_work(plate: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'RFP'.*'DNA', 'GFP'"):
        run(plate, tmp_path / "out", settings=Settings(cells="RFP"))
    assert not (tmp_path / "out").exists()


def test_a_second_run_into_one_folder_is_refused(plate: Path, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(state: State) -> None:
        reached.set()
        go_on.wait(60)

    thread = threading.Thread(target=lambda: analyse(plate, tmp_path / "out", progress=hold))
    thread.start()
    assert reached.wait(60)
    try:
        with pytest.raises(OutputError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            analyse(plate, tmp_path / "out")
    finally:
        go_on.set()
        thread.join()
    assert analyse(plate, tmp_path / "out").reused == 12


@pytest.mark.parametrize("lock", [json.dumps({"pid": 999999999, "host": socket.gethostname()}), '{"pid": 1'])
def test_the_lock_of_a_dead_run_is_taken_over(plate: Path, tmp_path: Path, lock: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text(lock)
    assert analyse(plate, tmp_path / "out").complete


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unwritable_folder_is_an_early_error(plate: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="--out"):
        analyse(plate, tmp_path / "closed" / "out")


PROGRAM = """
import sys
from cellinfer.engine import run
from cellinfer.pipeline import Settings
run(sys.argv[1], sys.argv[2], settings=Settings(diameter=22), device="cpu", threads=2,
    progress=lambda state: print(state.done, flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_goes_on_to_the_same_bytes(plate: Path, tmp_path: Path, finished: tuple[Path, RunResult]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(plate), str(tmp_path / "out")]
    for kill_after in (2, 5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < kill_after:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
    with (tmp_path / "out" / "journal.jsonl").open("a") as journal:
        journal.write('0123456789abcdef ["field", {"field": "plate_A0')  # a torn line
    last = analyse(plate, tmp_path / "out")
    assert last.complete
    assert last.reused >= 5
    assert contents(tmp_path / "out") == contents(finished[0])


def test_results_are_exported_at_the_end(plate: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown format 'xls'"):
        analyse(plate, tmp_path / "out", exports="xls")
    assert not (tmp_path / "out").exists()
    analyse(plate, tmp_path / "out", exports="cytotable,ome-zarr", channels={"DAPI": "DNA", "Reporter": "GFP"})
    table = next((tmp_path / "out" / "export").glob("*.parquet"))
    assert len(pd.read_parquet(table)) == pq.read_metadata(tmp_path / "out" / "Cells.parquet").num_rows
    read_with = json.loads((tmp_path / "out" / "run.json").read_text())["input"]["read_with"]
    assert read_with["channels"] == {"DAPI": "DNA", "Reporter": "GFP"}
    again = analyse(
        plate, tmp_path / "out", settings=Settings(diameter=22, edge="keep"), channels=read_with["channels"]
    )
    assert any("export/ holds the earlier tables" in note for note in again.notes)


def test_a_well_that_is_gone_takes_what_was_made_of_it_along(plate: Path, out: Path) -> None:
    (out / "assay").mkdir()
    (out / "assay" / "assay.json").write_text("{}")
    assert not any("assay" in note for note in analyse(plate, out).notes)
    assert (out / "assay").exists()
    for path in plate.glob("A01_*"):
        path.unlink()
    again = analyse(plate, out)
    assert again.reused == 10
    assert any("assay results of the earlier tables were removed" in note for note in again.notes)
    assert not (out / "assay").exists()


def test_a_result_that_cannot_be_written_for_lack_of_memory_is_one_field_s_failure(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellinfer.engine import _job

    real, broken = _job.write_shard, []

    def write_or_run_out(result: Any, path: Path) -> str:
        if "A02_s1" in path.name and not broken:
            broken.append(path)
            raise MemoryError("Unable to allocate 1 GiB")
        return real(result, path)

    monkeypatch.setattr(_job, "write_shard", write_or_run_out)
    result = analyse(plate, tmp_path / "out")
    assert broken
    assert result.complete  # tried again while no other field was in work


def test_half_written_files_of_a_killed_run_are_cleared_away(plate: Path, out: Path) -> None:
    left = out / "labels" / "Cells" / ".plate_A01_s1_t1.ome.tiff.99-abc.partial"
    left.write_bytes(b"II")
    analyse(plate, out)
    assert not left.exists()
