"""`cellinfer qc` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from cellinfer.cli import app
from typer.testing import CliRunner

from tests.test_quality_control import made_up


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which one well is out of focus and one has few cells."""
    folder = tmp_path / "run"
    folder.mkdir()
    tables = made_up(96)
    assert tables.wells is not None
    tables.fields.loc[5, "Image_ImageQuality_PowerLogLogSlope_DNA"] = -3.0
    tables.fields.loc[7, "Image_Count_Cells"] = 12
    tables.fields.to_parquet(folder / "Image.parquet")
    tables.wells.to_parquet(folder / "Well.parquet")
    return folder


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "layout.csv"
    controls = [-1 if number < 12 else 1 if number >= 84 else 0 for number in range(96)]
    wells = [f"{'ABCDEFGH'[number // 12]}{number % 12 + 1:02d}" for number in range(96)]
    pd.DataFrame({"Well": wells, "Control": controls}).to_csv(path, index=False)
    return path


def test_flags_are_printed_with_their_reasons(run: Path) -> None:
    result = CliRunner().invoke(app, ["qc", str(run)])
    assert result.exit_code == 0, result.output
    assert "fail A06" in result.output
    assert "out of focus" in result.output
    assert "warn A08" in result.output
    assert "few cells" in result.output
    assert "of 96 wells 1 fail, 1 are warned of, 94 are without finding" in result.output
    assert "no controls are known" in result.output
    assert result.output.index("fail A06") < result.output.index("warn A08")
    assert str(run / "qc" / "qc.png") in result.output


def test_controls_of_a_layout(run: Path, layout: Path, tmp_path: Path) -> None:
    options = ["--layout", str(layout), "--control-column", "Control", "--negative", "-1", "--positive", "1"]
    result = CliRunner().invoke(app, ["qc", str(run), *options, "--out", str(tmp_path / "qc")])
    assert result.exit_code == 0, result.output
    assert "2 of 12 negative control wells fail (A06, A08)" in result.output
    assert "all 12 positive control wells pass" in result.output
    wells = pd.read_csv(tmp_path / "qc" / "Well.csv").set_index("Metadata_Well")
    assert list(wells.index[~wells["Metadata_QC_Pass"]]) == ["A06", "A08"]


def test_strict(run: Path) -> None:
    result = CliRunner().invoke(app, ["qc", str(run), "--strict"])
    assert result.exit_code == 0, result.output
    assert pd.read_parquet(run / "qc" / "Well.parquet")["Metadata_QC_Pass"].sum() == 94


def test_json(run: Path) -> None:
    result = CliRunner().invoke(app, ["qc", str(run), "--json", "--deviations", "5"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert [row["Metadata_Well"] for row in said["flagged"]] == ["A06", "A08"]
    assert said["options"]["deviations"] == 5


def test_several_runs_and_a_plate_that_cannot_be_judged(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    made_up(1, name="P2").fields.to_parquet(other / "Image.parquet")
    result = CliRunner().invoke(app, ["qc", str(other)])
    assert result.exit_code == 3, result.output
    assert "could not be judged" in result.output
    both = CliRunner().invoke(app, ["qc", str(run), str(other), "--out", str(tmp_path / "both")])
    assert both.exit_code == 0, both.output
    assert "fail P1 A06" in both.output
    assert "compared with those of all plates" in both.output
