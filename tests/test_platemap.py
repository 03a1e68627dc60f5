"""Plate maps as people and spreadsheets write them, and their join with a run's wells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.assays.platemap import join_platemap, metadata_column, read_platemap
from cellinfer.errors import InputError


def write(folder: Path, text: str, *, encoding: str = "utf-8", name: str = "map.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def wells(*names: str, plate: str = "P1") -> pd.DataFrame:
    return pd.DataFrame({"Metadata_Plate": plate, "Metadata_Well": names, "Nuclei_X": np.arange(len(names))})


@pytest.mark.parametrize("header", ["Well", "Metadata_Well", "well_position", "WELL NAME", "Well ID"])
def test_well_column_goes_by_many_names(tmp_path: Path, header: str) -> None:
    table = read_platemap(write(tmp_path, f"{header},Dose\na1,0.5\nB12,2\n"))
    assert table["Metadata_Well"].tolist() == ["A01", "B12"]
    assert table["Metadata_Dose"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    "rows", ["Row,Column\nA,01\nH,12", "row,col\n1,1\n8,12", "Metadata_Row,Metadata_Col\nA,1.0\nH,12.0"]
)
def test_rows_and_columns_make_wells(tmp_path: Path, rows: str) -> None:
    assert read_platemap(write(tmp_path, rows))["Metadata_Well"].tolist() == ["A01", "H12"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_spreadsheet_encodings_with_semicolons_and_decimal_comma(tmp_path: Path, encoding: str) -> None:
    text = "Well ; Dose (µM); Compound\r\nA01; 0,5 ;Wortmannin\r\nA02;;\r\n;;\r\n"
    table = read_platemap(write(tmp_path, text, encoding=encoding))
    assert table["Metadata_Well"].tolist() == ["A01", "A02"]
    assert table["Metadata_Dose (µM)"].iloc[0] == 0.5
    assert table["Metadata_Dose (µM)"].isna().tolist() == [False, True]
    assert table["Metadata_Compound"].iloc[0] == "Wortmannin"


def test_tab_and_quoted_separators(tmp_path: Path) -> None:
    assert read_platemap(write(tmp_path, "Well\tName\nA01\ta,b\n"))["Metadata_Name"].tolist() == ["a,b"]
    assert read_platemap(write(tmp_path, 'Well,Name\nA01,"a,b"\n'))["Metadata_Name"].tolist() == ["a,b"]


def test_padded_identifiers_stay_text_and_missing_words_stay_numbers(tmp_path: Path) -> None:
    table = read_platemap(write(tmp_path, "Well,Batch,Dose,Name\nA01,007,1,None\nA02,011,n/a,NA\n"))
    assert table["Metadata_Batch"].tolist() == ["007", "011"]
    assert table["Metadata_Dose"].iloc[0] == 1
    assert np.isnan(table["Metadata_Dose"].iloc[1])
    assert table["Metadata_Name"].tolist() == ["None", "NA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("Well,Dose\n", "no wells"),
        ("Position,Dose\nA01,1\n", "needs a column Well .* it has Position, Dose"),
        ("Row,Dose\nA,1\n", "Row and Column; it has Row, Dose"),
        ("Well,Dose\nA1,1\nA01,2\n", "more than one row for A01"),
        ("Plate,Well\np,A1\nq,A1\nq,A01\n", "more than one row for q A01"),
        ("Well,Dose\nA01,1\n,2\n", "data row 2"),
        ("Well,Dose\nZZ99,1\n", "data row 1"),
        ("Row,Column\nA,x\n", "'x' is no row or column"),
        ("Row,Column\n0,1\n", "data row 1"),
        ("Well,Dose,Dose\nA01,1,2\n", "more than one column named Dose"),
        ("Well,Dose\nA01,1,2\n", "3 cells but the header has 2"),
    ],
)
def test_unusable_maps_say_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_platemap(write(tmp_path, text))


def test_binary_or_absent_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_bytes(b"PK\x03\x04\0\0\0")
    with pytest.raises(InputError, match="save the plate map as CSV"):
        read_platemap(tmp_path / "map.csv")
    with pytest.raises(InputError, match=r"cannot read .*absent\.csv"):
        read_platemap(tmp_path / "absent.csv")


def test_join_keeps_the_runs_wells_and_names_those_the_map_lacks(tmp_path: Path) -> None:
    platemap = read_platemap(write(tmp_path, "Well,Dose\nA01,1\nA02,2\nH12,9\n"))
    joined = join_platemap(wells("A02", "B07", "A01"), platemap)
    assert joined.table["Metadata_Well"].tolist() == ["A02", "B07", "A01"]
    np.testing.assert_array_equal(joined.table["Metadata_Dose"], [2, np.nan, 1])
    assert joined.table["Nuclei_X"].tolist() == [0, 1, 2]
    assert joined.notes == ("1 of 3 wells are not in the plate map: B07",)


def test_join_by_plate_and_by_the_only_plate(tmp_path: Path) -> None:
    platemap = read_platemap(write(tmp_path, "Plate,Well,Dose\nP1,A01,1\nP2,A01,2\n"))
    run = pd.concat([wells("A01", plate="P2"), wells("A01")], ignore_index=True)
    joined = join_platemap(run, platemap)
    assert joined.table["Metadata_Dose"].tolist() == [2, 1]
    assert joined.notes == ()
    single = read_platemap(write(tmp_path, "Plate,Well,Dose\n1049,A01,1\n"))
    joined = join_platemap(wells("A01"), single)
    assert joined.table["Metadata_Dose"].tolist() == [1]
    assert joined.notes == ("the map's plate '1049' was taken for the run's plate 'P1'",)


def test_join_without_a_common_well_shows_both(tmp_path: Path) -> None:
    platemap = read_platemap(write(tmp_path, "Well,Dose\nC01,1\n"))
    with pytest.raises(InputError, match="the run has A01, A02; the map has C01"):
        join_platemap(wells("A01", "A02"), platemap)


def test_columns_are_found_with_and_without_prefix(tmp_path: Path) -> None:
    platemap = read_platemap(write(tmp_path, "Well,Dose,Metadata_Kind\nA01,1,x\n"))
    assert metadata_column(platemap, "Dose") == metadata_column(platemap, "Metadata_Dose") == "Metadata_Dose"
    assert metadata_column(platemap, "dose") == "Metadata_Dose"
    assert metadata_column(platemap, "Kind") == "Metadata_Kind"
    with pytest.raises(InputError, match="no column 'Drug': it has Dose, Kind"):
        metadata_column(platemap, "Drug")


@pytest.mark.realdata
def test_the_map_of_bbbc013(data_folder: Path) -> None:
    table = read_platemap(data_folder / "bbbc013_plate" / "1049_Metadata.csv")
    assert len(table) == 96
    top = table.set_index("Metadata_Well").loc["A12"]
    assert (top["Metadata_SBS_Doses"], top["Metadata_SBS_Controls"]) == (10, 1)
    assert table["Metadata_SBS_Controls"].value_counts().to_dict() == {-1: 16, 1: 8, 0: 72}
