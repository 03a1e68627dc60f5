"""Cells to sites, wells and treatments: against pandas and pycytominer, in memory and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.profiling.aggregation import CELLS_TO_WELLS, Step, aggregate, aggregate_files, aggregate_in_steps

WELL = ["Metadata_Plate", "Metadata_Well"]
OPERATIONS = pytest.mark.parametrize("operation", ["median", "mean"])


def cells(rows: int = 600, features: int = 40, seed: int = 0) -> pd.DataFrame:
    """A table of cells in no order, some values missing."""
    random = np.random.default_rng(seed)
    values = random.normal(random.normal(0, 5, features), 1, (rows, features))
    values[random.random(values.shape) < 0.02] = np.nan
    table = pd.DataFrame(values, columns=[f"Cells_Texture_{number:02}" for number in range(features)])
    table.insert(0, "Metadata_Plate", random.choice(["P1", "P2"], rows))
    table.insert(1, "Metadata_Well", random.choice(["A01", "A02", "B01"], rows))
    table.insert(2, "Metadata_Site", random.integers(1, 4, rows))
    table.insert(3, "Metadata_Treatment", table["Metadata_Well"].map({"A01": "drug", "A02": "drug", "B01": "DMSO"}))
    table.insert(4, "ObjectNumber", np.arange(1, rows + 1))
    return table


def by_pandas(table: pd.DataFrame, by: list[str], operation: str) -> pd.DataFrame:
    features = [name for name in table if name.startswith("Cells_")]
    return getattr(table.groupby(by)[features], operation)().reset_index()


def assert_equal(found: pd.DataFrame, expected: pd.DataFrame, operation: str) -> None:
    """Medians are selected, and equal; means are sums, and rounded."""
    exact = {"check_exact": True} if operation == "median" else {"rtol": 1e-12, "atol": 1e-15}
    pd.testing.assert_frame_equal(found, expected, **exact)


@OPERATIONS
@pytest.mark.parametrize("by", [WELL, ["Metadata_Treatment"], [*WELL, "Metadata_Site"]])
def test_equals_pandas(by: list[str], operation: str) -> None:
    table = cells()
    expected = by_pandas(table, by, operation)
    assert_equal(aggregate(table, by, operation)[list(expected)], expected, operation)


@OPERATIONS
@pytest.mark.filterwarnings("ignore")  # pycytominer's own
def test_equals_pycytominer(operation: str) -> None:
    import pycytominer

    table = cells()
    features = [name for name in table if name.startswith("Cells_")]
    expected = pycytominer.aggregate(
        table,
        strata=WELL,
        features=features,
        operation=operation,
        compute_object_count=True,
        object_feature="ObjectNumber",
    )
    assert_equal(aggregate(table, WELL, operation)[list(expected)], expected, operation)


def test_keeps_metadata_that_is_constant_and_counts_objects() -> None:
    table = cells().assign(Metadata_Batch=np.nan)
    wells = aggregate(table)
    assert list(wells)[:5] == [*WELL, "Metadata_Object_Count", "Metadata_Treatment", "Metadata_Batch"]
    assert wells["Metadata_Object_Count"].sum() == len(table)
    treatments = aggregate(wells, ["Metadata_Treatment"], "mean")
    assert list(treatments["Metadata_Treatment"]) == ["DMSO", "drug"]
    assert treatments["Metadata_Object_Count"].sum() == len(table)
    assert "Metadata_Plate" not in treatments


def test_steps_follow_each_other() -> None:
    table = cells()
    sites = by_pandas(table, [*WELL, "Metadata_Site"], "median")
    wells = by_pandas(sites, WELL, "mean").merge(table[[*WELL, "Metadata_Treatment"]].drop_duplicates())
    expected = by_pandas(wells, ["Metadata_Treatment"], "mean")
    found = aggregate_in_steps(table, [*CELLS_TO_WELLS, Step(("Metadata_Treatment",), "mean")])
    assert_equal(found[list(expected)], expected, "mean")
    assert found["Metadata_Object_Count"].sum() == len(table)


@OPERATIONS
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".tsv"])
def test_files_give_the_same_whatever_the_memory(tmp_path: Path, suffix: str, operation: str) -> None:
    table, path = cells(), tmp_path / f"cells{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path, row_group_size=77)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    expected = aggregate(table, WELL, operation)
    for memory, threads in ((1, 1), (60_000, 3), (2**30, None)):
        seen: list[tuple[int, int]] = []
        found = aggregate_files(
            path,
            WELL,
            operation,
            memory=memory,
            threads=threads,
            progress=lambda done, of, seen=seen: seen.append((done, of)),
        )
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
        assert seen[-1] == (40, 40)
        assert len(seen) == (40 if memory == 1 else 1 if memory == 2**30 else len(seen))
