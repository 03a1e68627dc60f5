"""Tables of this and of other programs, as one source of rows and features."""

from __future__ import annotations

import gzip
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.engine import run
from cellinfer.errors import InputError
from cellinfer.profiling.aggregation import aggregate, aggregate_files
from cellinfer.profiling.sources import open_source
from cellinfer.profiling.workflow import profile
from cellinfer.simulate import simulate_plate

CELL = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "ObjectNumber"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    run(simulate_plate(folder, wells=3, size=(200, 200), seed=1).images, folder / "out", device="cpu")
    return folder / "out"


def copied(results: Path, folder: Path, change: Callable[[str, pd.DataFrame], pd.DataFrame] | None = None) -> Path:
    folder.mkdir()
    for name in ("Nuclei", "Cells", "Cytoplasm", "Image"):
        table = pd.read_parquet(results / f"{name}.parquet")
        (table if change is None else change(name, table)).to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def test_a_run_is_one_table_of_three_compartments(results: Path) -> None:
    source = open_source(results)
    parts = [pd.read_parquet(results / f"{name}.parquet") for name in ("Nuclei", "Cells", "Cytoplasm")]
    assert (source.level, source.notes, source.rows) == ("cell", [], len(parts[1]))
    table = source.table()
    for part in parts:
        measured = [name for name in part if name in source.features]
        assert len(measured) > 50
        pd.testing.assert_frame_equal(table[measured], part[measured].astype(float), check_exact=True)
        pd.testing.assert_frame_equal(table[CELL], part[CELL])
    images = pd.read_parquet(results / "Image.parquet")
    pd.testing.assert_frame_equal(source.images, images, check_dtype=False)
    assert images["Image_Count_Cells"].sum() == source.rows


def test_wells_of_a_run_are_those_of_its_well_table(results: Path) -> None:
    wells = pd.read_parquet(results / "Well.parquet")
    found = aggregate_files(results, memory=1)
    names = [name for name in found if name in wells and name not in CELL]
    assert len(names) > 200
    pd.testing.assert_frame_equal(found[names], wells[names], check_exact=True)
    assert list(found["Metadata_Object_Count"]) == list(wells["Image_Count_Cells"])
    assert list(found["Metadata_Time"]) == list(wells["Metadata_Time"])


def test_embeddings_are_joined_by_the_key_of_the_cell(results: Path, tmp_path: Path) -> None:
    folder = copied(results, tmp_path / "out")
    cells = pd.read_parquet(folder / "Cells.parquet")[CELL]
    values = np.arange(2.0 * len(cells)).reshape(-1, 2)
    embedding = cells.assign(Cells_Embedding_000=values[:, 0], Cells_Embedding_000_DNA=values[:, 1])
    order = np.random.default_rng(0).permutation(len(cells))
    embedding.iloc[order].to_parquet(folder / "Embedding.parquet", index=False)
    source = open_source(folder, tables="both")
    np.testing.assert_array_equal(source.read(["Cells_Embedding_000", "Cells_Embedding_000_DNA"]), values)
    assert source.notes == []

    embedding.iloc[order[1:]].to_parquet(folder / "Embedding.parquet", index=False)
    source = open_source(folder, tables="embedding")
    assert np.flatnonzero(np.isnan(source.read(["Cells_Embedding_000"]))).tolist() == [order[0]]
    assert "1 of" in source.notes[0]

    pd.concat([embedding, embedding.tail(1)]).to_parquet(folder / "Embedding.parquet", index=False)
    with pytest.raises(InputError, match="more than one row"):
        open_source(folder, tables="both")
    embedding.assign(Metadata_Site=99).to_parquet(folder / "Embedding.parquet", index=False)
    with pytest.raises(InputError, match="cells that Cells"):
        open_source(folder, tables="both")


def test_measurements_embedding_or_both(results: Path, tmp_path: Path) -> None:
    folder = copied(results, tmp_path / "out")
    measured = open_source(folder).features
    with pytest.raises(InputError, match=r"has no Embedding\.parquet: run it again with --embed"):
        open_source(folder, tables="both")
    cells = pd.read_parquet(folder / "Cells.parquet")[CELL]
    (folder / "Embedding.parquet").write_bytes(b"not read")
    assert open_source(folder, tables="measurements").features == measured
    source = open_source(folder)
    assert source.features == measured
    assert "has embeddings, too" in source.notes[0] and "--tables" in source.notes[0]
    cells.assign(Cells_Embedding_000=1.5).to_parquet(folder / "Embedding.parquet", index=False)
    source = open_source(folder, tables="embedding")
    assert source.features == ["Cells_Embedding_000"] and source.notes == [] and source.rows == len(cells)
    assert set(source.read()[:, 0]) == {1.5}
    assert open_source(folder, tables="both").features == [*measured, "Cells_Embedding_000"]
    with pytest.raises(InputError, match="no tables 'all' of a run: choose both"):
        open_source(folder, tables="all")  # type: ignore[arg-type]
    profiles().to_parquet(tmp_path / "wells.parquet")
    with pytest.raises(InputError, match="no result of `cellinfer run`, which alone"):
        open_source([folder, tmp_path / "wells.parquet"], tables="embedding")


def test_profile_says_which_tables_it_took(results: Path, tmp_path: Path) -> None:
    folder = copied(results, tmp_path / "out")
    cells = pd.read_parquet(folder / "Cells.parquet")[CELL]
    values = np.random.default_rng(0).normal(size=(len(cells), 4))
    embedding = pd.concat([cells, pd.DataFrame(values).add_prefix("Cells_Embedding_00")], axis=1)
    embedding.to_parquet(folder / "Embedding.parquet", index=False)
    options = {"sphering": "none", "consensus": "none", "picture": False, "selection": ()}
    found = profile(folder, tmp_path / "embedding", tables="embedding", **options)
    assert found.wells.filter(like="Cells_").columns.tolist() == embedding.columns[5:].tolist()
    assert found.info["settings"]["tables"] == found.info["steps"][0]["parameters"]["tables"] == "embedding"
    plain = profile(folder, tmp_path / "plain", **options)
    assert not plain.wells.filter(like="Embedding").columns.size
    assert plain.info["steps"][0]["parameters"]["tables"] == "measurements"
    assert any("has embeddings, too" in note for note in plain.notes)


def test_a_run_whose_tables_do_not_fit_is_refused(results: Path, tmp_path: Path) -> None:
    lost = copied(results, tmp_path / "lost", lambda name, table: table[1:] if name == "Nuclei" else table)
    with pytest.raises(InputError, match=r"Nuclei\.parquet.*not of the same cells"):
        open_source(lost)
    (lost / "Image.parquet").unlink()
    with pytest.raises(InputError, match="not finished"):
        open_source(lost)


def test_runs_together_and_features_that_not_all_have(results: Path, tmp_path: Path) -> None:
    def other(name: str, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(Metadata_Plate="other").drop(columns=["Cells_AreaShape_Area"], errors="ignore")

    second = copied(results, tmp_path / "other", other)
    with pytest.raises(InputError, match=r"1 of .* features are not in every table: Cells_AreaShape_Area"):
        open_source([results, second], features="refuse")
    source = open_source([results, second])
    assert "Cells_AreaShape_Area" not in source.features
    assert source.notes == [
        f"1 of {len(source.features) + 1} features are left out, not being in every table: Cells_AreaShape_Area."
    ]
    both = open_source([results, second], features="union")
    area = both.read(["Cells_AreaShape_Area"])[:, 0]
    half = both.rows // 2
    assert np.isnan(area[half:]).all() and np.isfinite(area[:half]).all()
    assert both.keys()["Metadata_Plate"].nunique() == 2
    assert source.images is not None and len(source.images) == 2 * len(pd.read_parquet(results / "Image.parquet"))
    pd.testing.assert_frame_equal(aggregate(source.table()), aggregate_files(source), check_exact=True)
    with pytest.raises(InputError, match="more than once"):
        open_source([results, results])


def profiles(plates: tuple[str, ...] = ("P1", "P2")) -> pd.DataFrame:
    random = np.random.default_rng(0)
    wells = [(plate, well) for plate in plates for well in ("A01", "A02", "B01")]
    table = pd.DataFrame(wells, columns=["Metadata_Plate", "Metadata_Well"])
    return table.assign(Cells_A=random.normal(size=len(table)), Nuclei_B=random.normal(size=len(table)))


@pytest.mark.parametrize(
    ("table", "level"),
    [
        (profiles(), "well"),
        (pd.concat([profiles().assign(Metadata_Site=site) for site in (1, 2)]), "site"),
        (profiles().drop(columns=["Metadata_Plate", "Metadata_Well"]).assign(Metadata_Compound="x"), "treatment"),
        (profiles().assign(ObjectNumber=1), "cell"),
        (pd.concat([profiles(), profiles()]), "cell"),
    ],
    ids=["well", "site", "treatment", "cell", "nameless cells"],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".tsv"])
def test_a_table_says_what_its_rows_are(tmp_path: Path, table: pd.DataFrame, level: str, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    source = open_source(str(path))
    assert source.level == level
    pd.testing.assert_frame_equal(source.table()[list(table)], table.reset_index(drop=True), check_exact=True)
    assert any("cannot be told" in note for note in source.notes) == (len(table) == 12 and level == "cell")


def test_csv_columns_that_change_their_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellinfer.profiling.sources._columnar._BLOCK", 1000)
    rows = 2000
    table = pd.DataFrame({"Metadata_Plate": ["007"] * rows, "Metadata_Well": "A01", "ObjectNumber": range(rows)})
    table["Metadata_Dose"] = [1] * (rows - 1) + ["high"]
    table["Cells_Whole"] = [1] * (rows - 1) + [0.5]
    table["Cells_Late"] = [""] * (rows - 1) + ["2.5"]
    table["Cells_Bad"] = ["1"] * (rows - 1) + ["#DIV/0!"]
    table["Cells_Odd"] = ["inf", "-inf", "nan", "NaN"] * (rows // 4)
    table.to_csv(tmp_path / "cells.csv")
    source = open_source(tmp_path / "cells.csv")
    assert source.features == ["Cells_Whole", "Cells_Late", "Cells_Odd"]
    assert len(source.notes) == 1 and "Cells_Bad" in source.notes[0] and "#DIV/0!" in source.notes[0]
    assert source.keys()["Metadata_Dose"].iloc[[0, -1]].tolist() == ["1", "high"]
    values = source.read()
    assert values[-1, 0] == 0.5 and values[-1, 1] == 2.5 and np.isnan(values[:-1, 1]).all()
    np.testing.assert_array_equal(values[:4, 2], [np.inf, -np.inf, np.nan, np.nan])


def test_plates_named_by_numbers_and_by_text_come_together(tmp_path: Path) -> None:
    profiles(("1049",)).astype({"Metadata_Plate": int}).to_parquet(tmp_path / "a.parquet")
    profiles(("1049b",)).assign(Metadata_Batch="x").to_parquet(tmp_path / "b.parquet")
    source = open_source([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    keys = source.keys()
    assert keys["Metadata_Plate"].tolist() == ["1049"] * 3 + ["1049b"] * 3
    assert keys["Metadata_Batch"].isna().tolist() == [True] * 3 + [False] * 3
    assert source.level == "well"


def cellprofiler() -> dict[str, pd.DataFrame]:
    """Tables of two images: five nuclei, the second without a cell; numbers of objects differ between tables."""
    random = np.random.default_rng(0)
    image = pd.DataFrame(
        {"ImageNumber": [1, 2], "Count_Nuclei": [3, 2], "Metadata_Plate": ["P", "P"], "Metadata_Well": ["A01", "A02"],
         "Metadata_Site": [1, 1], "Width_DNA": [9, 9]}
    )  # fmt: skip
    nuclei = pd.DataFrame({"ImageNumber": [1, 1, 1, 2, 2], "ObjectNumber": [1, 2, 3, 1, 2]})
    cells = pd.DataFrame({"ImageNumber": [1, 1, 2, 2], "ObjectNumber": [1, 2, 1, 2], "Parent_Nuclei": [3, 1, 2, 1]})
    cytoplasm = pd.DataFrame(
        {"ImageNumber": [2, 2, 1, 1], "ObjectNumber": [1, 2, 1, 2], "Parent_Cells": [1, 2, 1, 2],
         "Parent_Nuclei": [2, 1, 3, 1]}
    )  # fmt: skip
    tables = {"Image": image, "Nuclei": nuclei, "Cells": cells, "Cytoplasm": cytoplasm}
    for name in ("Nuclei", "Cells", "Cytoplasm"):
        tables[name]["Number_Object_Number"] = tables[name]["ObjectNumber"]
        tables[name]["AreaShape_Area"] = random.integers(10, 99, len(tables[name]))
        tables[name]["Intensity_Mean"] = random.random(len(tables[name]))
    return tables


def expected_cells() -> pd.DataFrame:
    tables = {name: table for name, table in cellprofiler().items() if name != "Image"}
    named = {name: table.add_prefix(f"{name}_") for name, table in tables.items()}
    joined = named["Cytoplasm"].merge(
        named["Cells"], left_on=["Cytoplasm_ImageNumber", "Cytoplasm_Parent_Cells"],
        right_on=["Cells_ImageNumber", "Cells_ObjectNumber"],
    ).merge(
        named["Nuclei"], left_on=["Cytoplasm_ImageNumber", "Cytoplasm_Parent_Nuclei"],
        right_on=["Nuclei_ImageNumber", "Nuclei_ObjectNumber"],
    )  # fmt: skip
    return joined.assign(Metadata_Well=joined["Cytoplasm_ImageNumber"].map({1: "A01", 2: "A02"}))


def write_sqlite(path: Path, *, prefix: str = "Per_", tables: dict[str, pd.DataFrame]) -> Path:
    with closing(sqlite3.connect(path)) as database:
        for name, table in tables.items():
            own = table.rename(columns={n: f"{name}_{n}" for n in table if n not in ("ImageNumber", "ObjectNumber")})
            if prefix:
                own = own.rename(columns={"ObjectNumber": f"{name}_Number_Object_Number"})
                own = own.loc[:, ~own.columns.duplicated()]
            own.to_sql(f"{prefix}{name}", database, index=False)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv with a prefix", "sqlite", "sqlite of cytominer"])
def test_cellprofiler_objects_are_joined_by_their_parents(tmp_path: Path, kind: str) -> None:
    if kind.startswith("csv"):
        path = tmp_path
        for name, table in cellprofiler().items():
            table.to_csv(tmp_path / ("MyExpt_" * ("prefix" in kind) + f"{name}.csv"), index=False)
        pd.DataFrame({"Key": ["Pipeline"], "Value": ["..."]}).to_csv(tmp_path / "Experiment.csv", index=False)
    else:
        prefix = "Per_" if kind == "sqlite" else ""
        path = write_sqlite(tmp_path / "plate.sqlite", prefix=prefix, tables=cellprofiler())
    source, expected = open_source(path), expected_cells()
    assert (source.level, source.rows) == ("cell", 4)
    features = ("AreaShape_Area", "Intensity_Mean")
    assert sorted(source.features) == [f"{name}_{one}" for name in ("Cells", "Cytoplasm", "Nuclei") for one in features]
    table = source.table()
    for name in [*source.features, "Metadata_Well"]:
        assert table[name].tolist() == expected[name].tolist()
    assert set(table["Metadata_Plate"]) == {"P"}
    assert source.images is not None and source.images["Metadata_Well"].tolist() == ["A01", "A02"]


def test_cellprofiler_objects_without_parents_are_named(tmp_path: Path) -> None:
    tables = cellprofiler()
    tables["Nuclei"] = tables["Nuclei"].iloc[1:]
    tables["Specks"] = pd.DataFrame({"ImageNumber": [1], "ObjectNumber": [1], "Parent_Cells": [1]})
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    source = open_source(tmp_path)
    assert source.rows == 3
    assert any("Specks are left out" in note for note in source.notes)
    assert any("1 of 4 Cytoplasm are left out" in note for note in source.notes)
    expected = expected_cells().iloc[:3]
    assert source.table()["Nuclei_Intensity_Mean"].tolist() == expected["Nuclei_Intensity_Mean"].tolist()


def test_cellprofiler_objects_of_unknown_images_are_refused(tmp_path: Path) -> None:
    for name, table in cellprofiler().items():
        (table.iloc[:1] if name == "Image" else table).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(InputError, match=r"2 objects .* are of images"):
        open_source(tmp_path)


def test_sqlite_values_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path)) as database:
        columns = "ImageNumber INTEGER, Cells_Number_Object_Number INTEGER, Cells_A FLOAT"
        database.execute(f"CREATE TABLE Per_Cells ({columns})")
        database.executemany("INSERT INTO Per_Cells VALUES (1, ?, ?)", [(1, 0.5), (2, "nan"), (3, None), (4, 7)])
        database.commit()
        np.testing.assert_array_equal(open_source(path).read()[:, 0], [0.5, np.nan, np.nan, 7])
        database.execute("INSERT INTO Per_Cells VALUES (1, 5, 'much')")
        database.commit()
    with pytest.raises(InputError, match="'much' among its numbers"):
        open_source(path)


class _Trap:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("flat", [False, True])
def test_deepprofiler_features_without_unpickling(tmp_path: Path, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    blocks = []
    for well, site, cells in (("A01", 1, 3), ("A01", 2, 0), ("B02", 10, 2)):
        file = tmp_path / "features" / "P1" / (f"{well}_{site}.npz" if flat else f"{well}/{site}.npz")
        file.parent.mkdir(parents=True, exist_ok=True)
        blocks.append(random.random((cells, 5)).astype(np.float32))
        metadata = np.array({"Metadata_Plate": _Trap()}, dtype=object)
        np.savez_compressed(file, features=blocks[-1], metadata=metadata, locations=np.zeros((cells, 2)))
    source = open_source(tmp_path / "features")
    assert not (tmp_path / "unpickled").exists()
    assert source.level == "cell" and source.features == [f"DP_{number}" for number in range(5)]
    np.testing.assert_array_equal(source.read(), np.concatenate(blocks))
    keys = source.keys()
    assert keys["Metadata_Well"].tolist() == ["A01"] * 3 + ["B02"] * 2
    assert keys["Metadata_Site"].tolist() == [1, 1, 1, 10, 10]
    assert source.images is not None and sorted(source.images["Image_Count_Cells"]) == [0, 2, 3]
    assert "pickled" in source.notes[0]
    np.savez(file, features=np.array([_Trap()], dtype=object))
    with pytest.raises(InputError, match="cannot be read as features"):
        open_source(tmp_path / "features")
    assert not (tmp_path / "unpickled").exists()


def test_what_is_no_source_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"The folder .* is none of these"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="No tables were given"):
        open_source([])
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(InputError, match=r"The file .*notes\.docx is none of these"):
        open_source(tmp_path / "notes.docx")
    for name, content in {"a.parquet": b"x", "b.csv": b"", "c.csv.gz": b"x", "d.sqlite": b"x" * 99}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            open_source(tmp_path / name)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"Metadata_Well,Cells_A\n" + b"A01,1.5\n" * 999)[:-20])
    with pytest.raises(InputError, match=r"cut\.csv\.gz"):
        open_source(tmp_path / "cut.csv.gz")
    (tmp_path / "twins.csv").write_text("Metadata_Well,Cells_A,Cells_A\nA01,1,2\n")
    with pytest.raises(InputError, match="two columns named 'Cells_A'"):
        open_source(tmp_path / "twins.csv")
    (tmp_path / "words.csv").write_text("Metadata_Well,Remark\nA01,good\n")
    with pytest.raises(InputError, match="no features"):
        open_source(tmp_path / "words.csv")
    profiles().to_parquet(tmp_path / "good.parquet")
    with pytest.raises(InputError, match="no feature 'Cells_Z'"):
        open_source(tmp_path / "good.parquet").read(["Cells_Z"])
    with pytest.raises(InputError, match="choose intersection"):
        open_source(tmp_path / "good.parquet", features="some")  # type: ignore[arg-type]


def test_a_table_without_rows_is_one(tmp_path: Path) -> None:
    profiles().iloc[:0].to_parquet(tmp_path / "none.parquet", index=False)
    source = open_source(tmp_path / "none.parquet")
    assert (source.rows, source.read().shape) == (0, (0, 2))
    assert len(aggregate_files(source)) == 0
    cells = profiles().assign(ObjectNumber=1)
    cells.to_parquet(tmp_path / "some.parquet", index=False)
    both = open_source([tmp_path / "none.parquet", tmp_path / "some.parquet"])
    np.testing.assert_array_equal(both.read(), cells[["Cells_A", "Nuclei_B"]])


def test_temporary_files_go_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    profiles().to_csv(tmp_path / "wells.csv", index=False)
    source = open_source(tmp_path / "wells.csv")
    assert len(list(tmp_path.glob("cellinfer-columns-*/table.parquet"))) == 1
    del source
    assert not list(tmp_path.glob("cellinfer-columns-*"))


@pytest.mark.realdata
def test_real_profiles(data_folder: Path) -> None:
    source = open_source(next((data_folder / "profiles" / "bbbc021_ljosa").glob("ljosa*.csv.gz")))
    assert (source.rows, source.level) == (632, "well")
    assert {"Metadata_Plate", "Metadata_Well"} <= set(source.keys())
