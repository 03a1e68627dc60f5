"""The command line as users meet it: a fast help, one-line errors, exit codes, the README's commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import tifffile
from cellinfer.cli import main
from cellinfer.simulate import simulate_plate

from tests.conftest import draw_cells
from tests.test_sessions import description, save_identity

HEAVY = {"numpy", "numba", "pandas", "pyarrow", "onnxruntime", "matplotlib", "cv2", "scipy"}
"""What takes too long to import for an answer in no time."""
README = Path(__file__).resolve().parents[1] / "README.md"
Completed = subprocess.CompletedProcess[str]


def cellinfer(*arguments: object, cwd: Path | None = None) -> Completed:
    """Run the command line as users do: in a process of its own."""
    command = [sys.executable, "-m", "cellinfer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Completed]:
    """As `cellinfer`, but the function that the script calls is called in this process, which starts no other."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Completed:
        monkeypatch.setattr(sys, "argv", ["cellinfer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Completed(sys.argv, ended.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated plate of twelve wells."""
    folder = tmp_path_factory.mktemp("plate with spaces and ü")
    simulate_plate(folder, wells=24, size=(256, 256), seed=4)
    return folder


@pytest.fixture(scope="module")
def results(plate: Path) -> Path:
    """What a run of the plate leaves."""
    done = cellinfer("run", plate / "images", "--out", plate / "results")
    assert done.returncode == 0, done.stderr
    return plate / "results"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cellinfer', '--help']\n"
        "from cellinfer.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"heavy = {HEAVY}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert "assay" in done.stdout


def test_the_package_imports_nothing_heavy_and_offers_what_it_names() -> None:
    code = (
        "import sys, cellinfer\n"
        f"heavy = {HEAVY}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert all(hasattr(cellinfer, name) for name in cellinfer.__all__)\n"
        "from cellinfer.sessions import open_session\n"
        "assert cellinfer.open_session is open_session\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["run", "inspect", "segment", "evaluate", "assay", "simulate", "doctor", "models", "models verify"]
)
def test_every_command_has_help(command: str) -> None:
    done = cellinfer(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_a_run_says_where_everything_is(results: Path) -> None:
    again = cellinfer("run", results.parent / "images", "--out", results)
    assert again.returncode == 0
    assert "24 of them from before" in again.stdout
    assert "overview.png" in again.stdout
    assert (results / "overview.png").is_file()


def test_the_assay_of_the_simulated_plate_is_excellent(
    results: Path, plate: Path, here: Callable[..., Completed]
) -> None:
    feature = "Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"
    controls = ("--control-column", "Control", "--negative", "-1", "--positive", "1", "--dose-column", "Dose")
    done = here("assay", results, "--layout", plate / "layout.csv", *controls, "--feature", feature, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["headline"] == feature


def test_inspect_shows_the_plate(plate: Path, here: Callable[..., Completed]) -> None:
    done = here("inspect", plate / "images", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["channels"] == ["DNA", "GFP"]


def test_segment_and_evaluate_close_the_circle(plate: Path, tmp_path: Path, here: Callable[..., Completed]) -> None:
    dna = sorted(str(path) for path in (plate / "images").glob("*_DNA.tif"))[:4]
    done = cellinfer("segment", *dna, "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(3):
        field = draw_cells(number)
        tifffile.imwrite(tmp_path / f"f{number}.tif", field["DNA"])
        tifffile.imwrite(truth / f"f{number}.tif", field["truth"].astype(np.uint16))
    images = [tmp_path / f"f{number}.tif" for number in range(3)]
    assert here("segment", *images, "--out", tmp_path / "pred").returncode == 0
    (tmp_path / "pred" / "f0.tif").write_bytes(images[0].read_bytes())
    into_itself = here("segment", tmp_path / "pred", "--out", tmp_path / "pred")
    assert "in 1 images" in into_itself.stdout  # label images of an earlier call are not images
    (tmp_path / "pred" / "f0.tif").unlink()
    note = json.loads((tmp_path / "pred" / "f0_labels.json").read_text())
    assert len(note["model"]["sha256"]) == 64
    scored = here("evaluate", tmp_path / "pred", truth, "--json")
    assert scored.returncode == 0, scored.stderr
    assert '"images"' in scored.stdout


def test_an_image_on_which_the_network_fails_does_not_cost_the_others(
    tmp_path: Path, here: Callable[..., Completed]
) -> None:
    model = onnx.load(save_identity(tmp_path / "narrow.onnx", description()))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(64, np.float32), "row"))
    model.graph.node[0].output[0] = "copies"
    model.graph.node.append(onnx.helper.make_node("Add", ["copies", "row"], ["fields"]))
    onnx.save(model, tmp_path / "narrow.onnx")  # of tiles 64 pixels wide, whatever it says
    for name, width in (("a", 32), ("b", 200), ("c", 32)):
        tifffile.imwrite(tmp_path / f"{name}.tif", draw_cells(1, (60, width), 5.0)["DNA"])
    images = [tmp_path / f"{name}.tif" for name in "abc"]
    options = ("--model", tmp_path / "narrow.onnx", "--device", "cpu", "--diameter", "28")
    done = here("segment", *images, "--out", tmp_path / "found", *options)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "b.tif" in done.stderr
    assert "failed on cpu" in done.stderr
    assert sorted(path.stem for path in (tmp_path / "found").glob("*.tif")) == ["a_labels", "c_labels"]


def test_models_are_listed_shown_and_verified(here: Callable[..., Completed]) -> None:
    assert "nuclei" in here("models", "list").stdout
    shown = json.loads(here("models", "show", "nuclei", "--json").stdout)
    assert shown["config"]["cellinfer"]["decoder"]["kind"] == "distance"
    assert "golden objects" in here("models", "verify").stdout


def test_doctor_finds_this_installation_fit() -> None:
    done = cellinfer("doctor")
    assert done.returncode == 0, done.stdout
    assert "onnxruntime" in done.stdout
    assert "RDKit" in done.stdout
    assert "not known to our kernels" not in done.stdout


def test_bad_input_is_one_sentence(tmp_path: Path, plate: Path, here: Callable[..., Completed]) -> None:
    def error_of(*arguments: object, run: Callable[..., Completed] = here) -> str:
        done = run(*arguments)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    empty = tmp_path / "empty"
    empty.mkdir()
    out = ("--out", tmp_path / "out")
    assert error_of("run", empty, *out) == error_of("run", empty, *out, run=cellinfer)
    assert "no image" in error_of("run", empty, *out)
    assert "nowhere" in error_of("run", tmp_path / "nowhere", *out)
    assert "RFP" in error_of("run", plate / "images", *out, "--cells", "RFP")
    renamed = ("--channel", "a=DNA", "--channel", "b=GFP")
    assert "--nuclei" in error_of("run", plate / "images", *out, *renamed)
    assert "DNA=2" in error_of("run", plate / "images", *out, "--channel", "DNA")
    assert "no model 'cats'" in error_of("run", plate / "images", *out, "--model", "cats")
    assert "onnxruntime" in error_of("run", plate / "images", *out, "--device", "cuda")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "holiday.tif").write_bytes(b"II*\x00")
    assert "holiday.tif" in error_of("run", strange, *out)
    assert "holiday.tif" in error_of("run", strange, *out, "--pattern", r"(?P<well>[A-P]\d+)_(?P<channel>\w+)\.tif")
    assert not (tmp_path / "out").exists()


def test_failed_fields_show_in_the_exit_code(plate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plate"
    folder.mkdir()
    for path in sorted((plate / "images").iterdir())[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:1000])
    done = cellinfer("run", folder, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert first.name in done.stdout
    assert pd.read_parquet(tmp_path / "out" / "Image.parquet")["Image_Status"].tolist() == ["failed", "ok"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_with_one_line_and_the_next_run_goes_on(plate: Path, tmp_path: Path) -> None:
    # A busy machine may let the run end before the signal is sent, though eight views take long.
    for attempt in range(5):
        out = tmp_path / f"out{attempt}"
        arguments = ("run", plate / "images", "--out", out, "--diameter", "27", "--tta", "d4")
        command = [sys.executable, "-m", "cellinfer", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            journal = out / "journal.jsonl"
            while not (journal.exists() and '"ok"' in journal.read_text()) and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    again = cellinfer(*arguments)
    assert again.returncode == 0
    assert re.search(r"\d+ of them from before", again.stdout)


def test_the_readme_s_python_runs(tmp_path: Path, plate: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    demo = tmp_path / "demo"
    demo.mkdir()
    simulate_plate(demo / "plate", size=(200, 200))
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cells" in done.stdout
