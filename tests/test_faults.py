"""What bad input and failures give, on whole plates: the promises that no other file here keeps watch over."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cellinfer_kernels
import numpy as np
import pandas as pd
import pytest
import tifffile
from cellinfer.engine import RunResult, run
from cellinfer.errors import InputError
from cellinfer.images import read_labels
from cellinfer.outputs.labels import write_labels
from cellinfer.pipeline import Settings

from benchmarks._damage import DAMAGES, make_plate, spoil_plate
from tests.conftest import draw_cells

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well")
PRECISION = ("--precision", "float32")


def analyse(plate: Path, out: Path, **options: Any) -> RunResult:
    return run(plate, out, settings=Settings(diameter=22), device="cpu", precision="float32", threads=2, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}


def draw_plate(folder: Path, wells: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, wells + 1):
        field = draw_cells(number, (130, 150))
        for channel in ("DNA", "GFP"):
            tifffile.imwrite(folder / f"A{number:02d}_s1_{channel}.tif", field[channel])
    return folder


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three wells, one site, two channels."""
    return draw_plate(tmp_path_factory.mktemp("plates") / "plate")


@pytest.fixture(scope="module")
def expected(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    analyse(plate, out)
    return contents(out)


def test_every_kind_of_bad_file_costs_its_own_field_alone(tmp_path: Path) -> None:
    plate = make_plate(tmp_path / "plate", len(DAMAGES) + 6, 160)
    spoilt = spoil_plate(plate, 0)
    assert len(spoilt) == len(DAMAGES)
    before = {path: path.lstat() for path in plate.iterdir()}
    result = run(plate, tmp_path / "out", settings=Settings(diameter=27), device="cpu")
    rows = pd.read_parquet(tmp_path / "out" / "Image.parquet")
    rows.index = pd.Index(rows["Metadata_Well"] + "_s" + rows["Metadata_Site"].astype(str))
    assert len(rows) == len(DAMAGES) + 6
    for name, row in rows.iterrows():
        damage = spoilt.get(str(name))
        if damage is None or not damage.reason:
            assert row["Image_Status"] == "ok", (damage, row["Image_Reason"])
        else:
            assert row["Image_Status"] == "failed", damage
            assert damage.reason in row["Image_Reason"], damage
    flags = {damage.name: rows.loc[name, "Image_QC_Flags"] for name, damage in spoilt.items() if not damage.reason}
    assert "constant" in flags["constant"]
    assert flags["saturated"]
    assert flags["NaN and infinity"]
    assert len(result.failed) == sum(bool(damage.reason) for damage in DAMAGES)
    cells = pd.read_parquet(tmp_path / "out" / "Cells.parquet")
    assert not np.isinf(cells.select_dtypes("number")).to_numpy().any()
    after = {path: path.lstat() for path in plate.iterdir()}
    assert {path: (s.st_size, s.st_mtime_ns, s.st_mode) for path, s in before.items()} == {
        path: (s.st_size, s.st_mtime_ns, s.st_mode) for path, s in after.items()
    }


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from cellinfer.cli import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def cellinfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cellinfer", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("most", [3_000, 60_000, 500_000])  # the journal, a shard, a table
def test_a_file_that_cannot_be_written_whole_stops_the_run_with_its_name(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], most: int
) -> None:
    run_it = ("run", plate, "--out", tmp_path / "out", "--diameter", "22", *PRECISION)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(most), *map(str, run_it)],
        capture_output=True,
        text=True,
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path / "mpl")},
    )
    if done.returncode == 0:
        pytest.skip(f"no file is larger than {most} bytes")
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "out") in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()
    assert cellinfer(*run_it).returncode == 0
    assert contents(tmp_path / "out") == expected


FULL = """
mount -t tmpfs -o size=300k tmpfs "$1" && shift && exec "$@"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_a_full_disk_is_said_so(plate: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", str(tmp_path / "disk")]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system of its own")
    command = [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(tmp_path / "disk" / "out")]
    done = subprocess.run([*alone, *command, "--diameter", "22"], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "The disk is full" in done.stderr
    assert str(tmp_path / "disk" / "out") in done.stderr
    assert re.search(r"\(\d[\d,]* bytes free\)", done.stderr)


def test_paths_of_any_kind_give_the_same_tables(plate: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    deep = tmp_path
    for number in range(5):
        deep = deep / f"Größe µm ヒト – 'quoted' & [x] {number} {'x' * 40}"
    assert len(str(deep)) > 260
    (deep / "plate").parent.mkdir(parents=True)
    shutil.copytree(plate, deep / "plate")
    assert analyse(deep / "plate", deep / "out").complete
    assert contents(deep / "out") == expected


def test_files_that_differ_in_case_alone_are_refused(plate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    shutil.copytree(plate, folder)
    shutil.copy(folder / "A01_s1_DNA.tif", folder / "a01_S1_DNA.TIF")
    if len(list(folder.iterdir())) == 6:
        pytest.skip("this file system knows no case")
    with pytest.raises(InputError, match=r"two images for well A01.*DNA\.tif.*DNA\.TIF|DNA\.TIF.*DNA\.tif"):
        analyse(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixel_types_and_sizes_may_differ_between_fields(plate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    shutil.copytree(plate, folder)
    for channel in ("DNA", "GFP"):
        small = tifffile.imread(folder / f"A02_s1_{channel}.tif")[:100, :120]
        tifffile.imwrite(folder / f"A02_s1_{channel}.tif", small.astype(np.float32) / 65535)
    assert analyse(folder, tmp_path / "out").complete
    rows = pd.read_parquet(tmp_path / "out" / "Nuclei.parquet").groupby("Metadata_Well")
    brightness = rows["Nuclei_Intensity_MaxIntensity_DNA"].max()
    assert brightness["A02"] < 1 < brightness["A01"]
    assert set(rows.groups) == {"A01", "A02", "A03"}


@pytest.mark.parametrize(("objects", "kind"), [(65_535, np.uint16), (65_536, np.int32), (70_000, np.int32)])
def test_label_images_never_wrap(tmp_path: Path, objects: int, kind: type) -> None:
    labels = np.zeros((300, 300), np.int32)
    labels.ravel()[:objects] = np.arange(1, objects + 1)
    write_labels(labels, tmp_path / "many.ome.tiff", name="Nuclei")
    assert tifffile.imread(tmp_path / "many.ome.tiff").dtype == kind
    np.testing.assert_array_equal(read_labels(tmp_path / "many.ome.tiff"), labels)


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_of_runs_that_race_for_one_folder_one_wins(plate: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    command = [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(tmp_path / "out")]
    racers = [
        subprocess.Popen(
            [*command, "--diameter", "22", *PRECISION], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ends = [(racer.communicate(timeout=120), racer.returncode) for racer in racers]
    codes = sorted(code for _, code in ends)
    assert codes[0] == 0
    for (_, errors), code in ends:
        assert code == 0 or (code == 2 and "is in use by process" in errors), errors
    assert contents(tmp_path / "out") == expected


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_interrupt_stops_at_once(tmp_path: Path, workers: int) -> None:
    plate = make_plate(tmp_path / "plate", 60, 400)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(out), "--diameter", "27"]
    with subprocess.Popen(
        [*command, "--workers", str(workers), "--memory", "4G"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A process in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        journal = out / "journal.jsonl"
        while not (journal.exists() and '"ok"' in journal.read_text()):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    assert "run the same command again" in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_under_several_processes_is_one_sentence(plate: Path, tmp_path: Path) -> None:
    many = make_plate(tmp_path / "plate", 40, 160)
    run_it = ("run", many, "--out", tmp_path / "out", "--diameter", "27", "--workers", "3", "--memory", "6G")
    done = subprocess.run([sys.executable, "-c", LIMITED, "40000", *map(str, run_it)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_one_interrupt_at_any_moment_ends_a_run(plate: Path, tmp_path: Path) -> None:
    for number, delay in enumerate(np.linspace(0.0, 0.4, 6)):
        out = tmp_path / f"out{number}"
        command = [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(out), "--diameter", "22"]
        with subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            while not (out / "journal.jsonl").exists():
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode in (0, 130), errors
        assert "Traceback" not in errors


def test_no_kernel_starts_threads_of_its_own() -> None:
    sources = list(Path(cellinfer_kernels.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        assert not re.search(r"parallel\s*=\s*True|\bprange\b", source.read_text(encoding="utf-8")), source
