"""The main job on a real plate: BBBC013, FKHR-GFP translocation, rows A to D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.assays.verdict import AssayResult, assay
from cellinfer.engine import run

pytestmark = pytest.mark.realdata
RING = "Cells_Ratio_NucleusRingMeanIntensity_GFP"
WHOLE = "Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"


@pytest.fixture(scope="module")
def results(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bbbc013")
    result = run(data_folder / "bbbc013_plate", out, device="cpu", channels={"DNA": "2", "GFP": "1"})
    assert result.complete
    assert result.fields == 48
    return out


@pytest.fixture(scope="module")
def judged(results: Path, data_folder: Path) -> AssayResult:
    return assay(
        results,
        data_folder / "bbbc013_plate" / "1049_Metadata.csv",
        control_column="SBS_Controls",
        negative=-1,
        positive=1,
        dose_column="SBS_Doses",
        features=[RING, WHOLE],
    )


def test_counts_are_plausible(results: Path) -> None:
    counts = pd.read_parquet(results / "Well.parquet")["Image_Count_Cells"]
    assert len(counts) == 48
    assert counts.between(120, 420).all()


def test_the_assay_is_excellent(judged: AssayResult) -> None:
    scores = judged.features.set_index("feature")["z_prime"]
    assert scores[RING] >= 0.5
    assert scores[WHOLE] >= 0.5


def test_the_dose_response_rises(judged: AssayResult) -> None:
    responses = {response.feature: response for response in judged.dose_responses}
    assert responses[RING].monotonicity.spearman > 0.8  # doses beyond saturation come in any order
    assert responses[RING].r_squared > 0.95


def test_controls_do_not_overlap(results: Path, data_folder: Path) -> None:
    wells = pd.read_parquet(results / "Well.parquet").set_index("Metadata_Well")[RING]
    negative = wells[[f"{row}{column}" for row in "ABCD" for column in ("01", "02")]]
    positive = wells[[f"{row}12" for row in "ABCD"]]
    assert negative.max() < 1.5 < 3 < positive.min()
    assert np.isfinite(wells).all()
