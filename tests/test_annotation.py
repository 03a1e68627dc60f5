"""Layouts joined to profiles: plate maps, tables of plates and of compounds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.annotation import annotate


def make_profiles(
    plates: tuple[str, ...] = ("P1", "P2"), wells: tuple[str, ...] = ("A1", "a02", "B-01")
) -> pd.DataFrame:
    rows = [(plate, well, float(number)) for plate in plates for number, well in enumerate(wells)]
    return pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Cells_F0"])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "layout.csv"
    path.write_text("Well,Compound,Dose\nA01,DMSO,0\nA02,taxol,1.5\nB01,taxol,3\n")
    return path


def test_spellings_of_wells_do_not_matter_and_no_row_is_lost(layout: Path) -> None:
    result = annotate(make_profiles(), layout)
    assert list(result.table["Metadata_Well"]) == ["A01", "A02", "B01"] * 2
    assert list(result.table["Metadata_Compound"]) == ["DMSO", "taxol", "taxol"] * 2
    assert list(result.table["Metadata_Dose"]) == [0, 1.5, 3] * 2
    assert list(result.table["Cells_F0"]) == [0, 1, 2] * 2
    assert result.notes == ()


def test_wells_without_a_treatment_and_treatments_without_a_well_are_named(layout: Path) -> None:
    result = annotate(make_profiles(("P1",), ("A01", "A02", "H12")), layout)
    assert result.table["Metadata_Compound"].isna().tolist() == [False, False, True]
    assert result.notes == (
        "1 of 3 wells are not in the plate map: H12",
        "1 wells of the layout have no profile: B01",
    )


def test_a_map_with_plates_joins_plate_by_plate(tmp_path: Path) -> None:
    path = tmp_path / "all.tsv"
    path.write_text("Plate\tWell\tCompound\n1\tA01\tx\n1\tA02\ty\n1\tB01\tz\n2\tA01\tu\n2\tA02\tv\n2\tB01\tw\n")
    profiles = make_profiles(("2", "1"))
    profiles["Metadata_Plate"] = profiles["Metadata_Plate"].astype(float)  # as pandas reads numbers beside a gap
    result = annotate(profiles, path)
    assert list(result.table["Metadata_Compound"]) == ["u", "v", "w", "x", "y", "z"]
    assert list(result.table["Metadata_Plate"]) == ["2"] * 3 + ["1"] * 3
    more = annotate(make_profiles(("1", "2", "3")), path)
    assert "the layout has nothing about 1 plates: 3" in more.notes


def test_a_map_for_each_plate(tmp_path: Path, layout: Path) -> None:
    other = pd.DataFrame({"Metadata_Well": ["A1", "A2", "B1"], "Compound": ["a", "b", "c"]})
    result = annotate(make_profiles(), {"P1": layout, "P2": other})
    assert list(result.table["Metadata_Compound"]) == ["DMSO", "taxol", "taxol", "a", "b", "c"]
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "P1.csv").write_text(layout.read_text())
    (maps / "P2.txt").write_text("well_position\tCompound\nA01\ta\nA02\tb\nB01\tc\n")
    again = annotate(make_profiles(), maps).table
    pd.testing.assert_frame_equal(again[result.table.columns], result.table)
    with pytest.raises(InputError, match="no plate map for P3: there are maps for P1, P2"):
        annotate(make_profiles(("P1", "P3")), maps)


def test_barcodes_and_plate_maps_as_in_jump(tmp_path: Path) -> None:
    (tmp_path / "platemap").mkdir()
    (tmp_path / "platemap" / "one.txt").write_text("well_position\tbroad_sample\nA01\tBRD-1\nA02\t\nB01\tBRD-2\n")
    (tmp_path / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nP1,one\nP2,one\n")
    (tmp_path / "compounds.tsv").write_text("broad_sample\tpert_iname\tmoa\nBRD-1\tx\tm1\nBRD-3\ty\tm2\nNA\tDMSO\t\n")
    result = annotate(
        make_profiles(),
        tmp_path / "platemap",
        barcodes=tmp_path / "barcode_platemap.csv",
        compounds=tmp_path / "compounds.tsv",
        on="broad_sample",
    )
    names = result.table["Metadata_pert_iname"]
    assert names.fillna("-").tolist() == ["x", "DMSO", "-"] * 2
    assert result.table["Metadata_moa"].fillna("-").tolist() == ["m1", "-", "-"] * 2
    assert result.notes == (
        "the table of compounds lacks 1 that are on plates: BRD-2",
        "1 compounds of the table are on no plate: BRD-3",
    )


def test_a_column_that_both_have_is_the_layouts(layout: Path) -> None:
    profiles = make_profiles().assign(Metadata_Compound="old")
    assert "old" not in set(annotate(profiles, layout).table["Metadata_Compound"])


def test_the_real_jump_tables(data_folder: Path) -> None:
    folder = data_folder / "profiles" / "jump_moa"
    if not folder.is_dir():
        pytest.skip("no JUMP-MOA tables")
    theirs = pd.read_csv(folder / "Yokogawa_US_10X.csv.gz")
    bare = theirs[["Metadata_Plate", "Metadata_Well", *[name for name in theirs if name.startswith("Cells_")]]]
    result = annotate(
        bare,
        folder / "JUMP-MOA_compound_platemap.tsv",
        compounds=folder / "JUMP-MOA_compound_metadata.tsv",
        on="broad_sample",
    )
    for column in ("broad_sample", "pert_iname", "moa", "pert_type", "control_type"):
        ours, expected = result.table[f"Metadata_{column}"], theirs[f"Metadata_{column}"]
        assert ours.fillna("").tolist() == expected.fillna("").tolist(), column


def test_mistakes(tmp_path: Path, layout: Path) -> None:
    profiles = make_profiles()
    with pytest.raises(InputError, match="has none of the run's wells"):
        annotate(make_profiles(wells=("H11", "H12")), layout)
    with pytest.raises(InputError, match="Metadata_Well: 'nowhere' is not a well"):
        annotate(make_profiles(wells=("nowhere",)), layout)
    with pytest.raises(InputError, match="no column 'Metadata_Well'"):
        annotate(profiles.drop(columns="Metadata_Well"), layout)
    twice = pd.DataFrame({"Metadata_Well": ["A01", "A1"], "Compound": ["a", "b"]})
    with pytest.raises(InputError, match="A01 more than once"):
        annotate(profiles, twice)
    compounds = pd.DataFrame({"Compound": ["taxol", "taxol"], "moa": ["x", "y"]})
    with pytest.raises(InputError, match="has taxol more than once"):
        annotate(profiles, layout, compounds=compounds, on="Compound")
    with pytest.raises(InputError, match="table of compounds has no column 'Name'"):
        annotate(profiles, layout, compounds=compounds, on="Name")
    with pytest.raises(InputError, match="on which column"):
        annotate(profiles, layout, compounds=compounds)
    with pytest.raises(InputError, match="cannot read the table of compounds"):
        annotate(profiles, layout, compounds=tmp_path / "none.csv", on="Compound")
    barcodes = pd.DataFrame({"Assay_Plate_Barcode": ["P1", "P1"], "Plate_Map_Name": ["a", "b"]})
    (tmp_path / "maps").mkdir()
    with pytest.raises(InputError, match="has no plate maps"):
        annotate(profiles, tmp_path / "maps")
    (tmp_path / "maps" / "a.csv").write_text(layout.read_text())
    with pytest.raises(InputError, match="P1 more than once"):
        annotate(profiles, tmp_path / "maps", barcodes=barcodes)
    with pytest.raises(InputError, match="maps that are not there: b"):
        annotate(profiles, tmp_path / "maps", barcodes=barcodes.assign(Assay_Plate_Barcode=["P1", "P2"]))
    with pytest.raises(InputError, match="needs columns Assay_Plate_Barcode"):
        annotate(profiles, tmp_path / "maps", barcodes=compounds)
