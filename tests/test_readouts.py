"""Which features a verdict and an overview speak of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer.measurement import feature_columns
from cellinfer.outputs.tables import most_telling_feature
from cellinfer.pipeline import OBJECTS
from cellinfer.readouts import is_biology, is_readout


@pytest.mark.parametrize(
    ("column", "biology", "readout"),
    [
        ("Cells_Ratio_NucleusRingMeanIntensity_GFP", True, True),
        ("Nuclei_AreaShape_Area", True, True),
        ("Cells_Intensity_MedianIntensity_DNA", True, True),
        ("Image_Count_Cells", True, True),
        ("Cells_Texture_Entropy_GFP_3_00_256", True, False),
        ("Nuclei_AreaShape_HuMoment_3", True, False),
        ("Cells_Correlation_Costes_DNA_GFP", True, False),
        ("Nuclei_AreaShape_Orientation", False, False),
        ("Nuclei_Neighbors_FirstClosestObjectNumber_Adjacent", False, False),
        ("Cells_RadialDistribution_ZernikePhase_GFP_4_0", False, False),
    ],
)
def test_columns_are_sorted_by_use(column, biology, readout):
    assert (is_biology(column), is_readout(column)) == (biology, readout)


def test_read_outs_are_few():
    columns = feature_columns("Nuclei", ["DNA", "GFP"])
    assert 40 < sum(map(is_readout, columns)) < 0.2 * len(columns)


def write(folder, columns):
    for name in OBJECTS:
        table = pd.DataFrame({"Metadata_Well": np.repeat(["A01", "A02", "A03"], 4)} | columns)
        table = table.rename(columns=lambda column, name=name: column.replace("Cells_", f"{name}_"))
        for key in ("Metadata_Plate", "Metadata_Time"):
            table[key] = "1"
        table.to_parquet(folder / f"{name}.parquet")


def test_the_telling_feature_is_one_that_can_be_explained(tmp_path):
    wells = np.repeat([1.0, 2.0, 3.0], 4)
    noise = np.tile([0.0, 0.3, -0.3, 0.1], 3)
    write(tmp_path, {"Cells_Texture_Entropy_GFP_3_00_256": wells, "Cells_Intensity_MeanIntensity_GFP": wells + noise})
    feature, share = most_telling_feature(tmp_path)
    assert feature.endswith("_Intensity_MeanIntensity_GFP")
    assert 0.5 < share < 1
    write(tmp_path, {"Cells_Texture_Entropy_GFP_3_00_256": wells})
    assert most_telling_feature(tmp_path)[0].endswith("_Texture_Entropy_GFP_3_00_256")


def test_missing_cells_do_not_inflate_the_share(tmp_path):
    values = np.array([1.0, np.nan, np.nan, np.nan, 2.0, 2.5, 1.5, 2.0, 3.0, 3.2, 2.8, 3.0])
    write(tmp_path, {"Cells_Intensity_MeanIntensity_GFP": values})
    _, share = most_telling_feature(tmp_path)
    assert share <= 1
