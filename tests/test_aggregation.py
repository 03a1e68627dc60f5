"""Cells to sites, wells and treatments: against pandas and pycytominer, in memory and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.aggregation import CELLS_TO_WELLS, Step, aggregate, aggregate_files, aggregate_in_steps
from hypothesis import given
from hypothesis import strategies as st

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


def block_layouts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    features = [name for name in table if name.startswith("Cells_")]
    rows = pd.DataFrame(np.ascontiguousarray(table[features]), columns=features, copy=False)
    return {
        "a block by feature": table.copy(),
        "a block by cell": pd.concat([table.drop(columns=features), rows], axis=1),
        "a block for each": pd.DataFrame({name: table[name].to_numpy().copy() for name in table}),
        "features in no order": table[[*sorted(table, key=lambda name: name[::-1])]],
        "every other row": pd.concat([table, table]).sort_index(kind="stable").iloc[::2],
        "backwards twice": table.iloc[::-1].iloc[::-1],
    }


@OPERATIONS
def test_the_way_a_table_lies_in_memory_does_not_change_a_bit(operation: str) -> None:
    table = cells(features=70)
    expected = aggregate(table, WELL, operation)
    for name, other in block_layouts(table).items():
        before = other.copy()
        for threads in (1, 3):
            found = aggregate(other, WELL, operation, threads=threads)
            pd.testing.assert_frame_equal(found[list(expected)], expected, check_exact=True, obj=name)
        pd.testing.assert_frame_equal(other, before)


@OPERATIONS
def test_numbers_of_any_type(operation: str) -> None:
    table = cells(features=3).drop(columns="Cells_Texture_02")
    random = np.random.default_rng(1)
    whole = random.integers(-5, 5, len(table))
    for name, dtype in {"i1": np.int8, "u2": np.uint16, "f4": np.float32, "i8": np.int64}.items():
        table[f"Cells_{name}"] = np.abs(whole).astype(dtype)
    table["Cells_big"] = whole + 2**60
    table["Cells_nullable"] = pd.array(np.where(whole > 0, whole, None), dtype="Int64")
    table["Cells_arrow"] = table["Cells_Texture_00"].astype("double[pyarrow]")
    expected = by_pandas(
        table.astype({"Cells_nullable": float, "Cells_arrow": float, "Cells_f4": float}), WELL, operation
    )
    found = aggregate(table, WELL, operation)
    assert set(found.dtypes[[name for name in found if name.startswith("Cells_")]]) == {np.dtype(np.float64)}
    assert_equal(found[list(expected)], expected.astype({"Cells_i8": float}), operation)


@OPERATIONS
def test_values_that_are_not_finite_do_not_count(operation: str) -> None:
    table = pd.DataFrame(
        {"Metadata_Well": ["A01"] * 4 + ["A02"] * 2, "Cells_A": [1.0, np.inf, 3.0, -np.inf, np.nan, np.inf]}
    )
    found = aggregate(table.assign(Cells_None=np.nan, Cells_One=7.0), ["Metadata_Well"], operation)
    assert found["Cells_A"].tolist()[0] == 2.0 and np.isnan(found["Cells_A"][1])
    assert found["Cells_None"].isna().all()
    assert found["Cells_One"].tolist() == [7.0, 7.0]
    assert found["Metadata_Object_Count"].tolist() == [4, 2]


@given(
    st.lists(st.tuples(st.sampled_from("PQ"), st.sampled_from(["A1", "A10", "A2"]), st.integers(0, 3)), max_size=30),
    st.sampled_from(["text", "categories", "own order", "numbers"]),
)
def test_keys_of_any_kind_are_sorted_as_by_pandas(rows: list[tuple[str, str, int]], kind: str) -> None:
    table = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site"])
    if kind == "categories":
        table = table.astype({"Metadata_Well": pd.CategoricalDtype(["A1", "A10", "A2", "Z9"])})
    elif kind == "own order":
        table = table.astype({"Metadata_Well": pd.CategoricalDtype(["Z9", "A2", "A1", "A10"], ordered=True)})
    elif kind == "numbers":
        table["Metadata_Well"] = table["Metadata_Well"].str[1:].astype(float) / 4
    table["Cells_A"] = np.arange(len(table), dtype=float)
    by = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    expected = table.groupby(by, observed=True)["Cells_A"].median().reset_index()
    found = aggregate(table, by)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_exact=True)
    assert found["Metadata_Object_Count"].sum() == len(table)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (cells(), {"by": ["Metadata_Moon"]}, "no column 'Metadata_Moon' to group by: it has Metadata_Plate"),
        (cells(), {"by": "Metadata_Well"}, "list of the columns"),
        (cells(), {"by": []}, "list of the columns"),
        (cells(), {"operation": "mode"}, "'mode': choose median or mean"),
        (cells(), {"features": ["Cells_Nose"]}, "no column 'Cells_Nose'"),
        (cells(), {"features": ["Metadata_Treatment"]}, "holds no numbers"),
        (cells()[WELL], {}, "no features"),
        (cells().replace({"Metadata_Well": {"B01": None}}), {}, "of 600 rows have no Metadata_Well"),
        (pd.concat([cells(), cells()[["Cells_Texture_00"]]], axis=1), {}, "two columns named 'Cells_Texture_00'"),
        (cells().assign(Metadata_Object_Count=np.nan), {}, "Metadata_Object_Count does not have a number"),
    ],
)  # fmt: skip
def test_mistakes_are_named(table: pd.DataFrame, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregate(table, **options)  # type: ignore[arg-type]


def test_mistakes_with_files_are_named(tmp_path: Path) -> None:
    cells().to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(InputError, match="no feature 'Cells_Nose'"):
        aggregate_files(tmp_path / "cells.parquet", features=["Cells_Nose"])
    with pytest.raises(InputError, match="no column 'Metadata_Moon'"):
        aggregate_files(tmp_path / "cells.parquet", ["Metadata_Moon"])
    with pytest.raises(InputError, match="no steps"):
        aggregate_in_steps(cells(), [])


def test_no_rows_give_no_rows() -> None:
    found = aggregate(cells().iloc[:0])
    assert len(found) == 0
    assert list(found)[:3] == [*WELL, "Metadata_Object_Count"]


def test_features_can_be_chosen_and_counts_left_out() -> None:
    found = aggregate(cells(), features=["Cells_Texture_03", "Cells_Texture_01"], count=None)
    assert list(found) == [*WELL, "Metadata_Treatment", "Cells_Texture_03", "Cells_Texture_01"]


def test_a_large_table_is_not_copied() -> None:
    import tracemalloc

    table = cells(20_000, 60)
    aggregate(table)
    tracemalloc.start()
    aggregate(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.3 * table.select_dtypes("number").memory_usage().sum()
