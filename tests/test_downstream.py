"""Other people's tools read our tables unmodified."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from cellinfer.engine import run
from cellinfer.simulate import simulate_plate

STRATA = ["Metadata_Plate", "Metadata_Well"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downstream")
    plate = simulate_plate(folder, wells=12, size=(256, 256), seed=1)
    run(plate.images, folder / "out", device="cpu", csv=True)
    return folder / "out"


def test_pandas_reads_parquet_and_csv_alike(results: Path) -> None:
    for name in ("Nuclei", "Cells", "Cytoplasm", "Image", "Well"):
        parquet, csv = pd.read_parquet(results / f"{name}.parquet"), pd.read_csv(results / f"{name}.csv")
        assert list(parquet) == list(csv)
        numbers = parquet.select_dtypes("number").columns
        pd.testing.assert_frame_equal(parquet[numbers], csv[numbers], check_dtype=False, rtol=1e-12)


@pytest.mark.filterwarnings("ignore")  # pycytominer's own
def test_pycytominer_aggregates_and_normalises(results: Path) -> None:
    from pycytominer import aggregate, normalize

    cells = pd.read_parquet(results / "Cells.parquet")
    profiles = aggregate(cells, strata=STRATA)  # features are inferred from their names
    assert len(profiles) == 12
    features = [column for column in profiles if column.startswith("Cells_")]
    assert len(features) > 60
    well = pd.read_parquet(results / "Well.parquet")
    pd.testing.assert_frame_equal(profiles[features], well[features], check_exact=False, rtol=1e-12)

    profiles["Metadata_Control"] = profiles["Metadata_Well"].isin(["A01", "A02"])
    normalised = normalize(profiles, features="infer", meta_features="infer", method="standardize")
    moving = normalised["Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"]
    assert moving.mean() == pytest.approx(0, abs=1e-9)
    assert moving.iloc[-1] > moving.iloc[0]
