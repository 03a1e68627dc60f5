"""Reading lists of molecules, and what becomes of structures."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import chemistry
from cellinfer.activity.chemistry import PUBLISHED, Standardisation, standardise_one
from cellinfer.activity.molecules import COLUMNS, open_molecules, read_molecules, standardise
from cellinfer.errors import InputError
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize

from tests.activity_table import DRUGS, drug_table, write
from tests.compounds import ODD, compounds

FAULTS = [
    ("", "empty", ""),
    ("   ", "empty", ""),
    ("aspirin", "invalid SMILES", "not SMILES"),
    ("c1ccccc", "invalid SMILES", "not SMILES"),
    ("CN(C)(C)C", "invalid SMILES", "valence"),
    ("c1cccc1", "invalid SMILES", "kekulize"),
    ("CC*", "invalid SMILES", "wildcard"),
    ("C" * 6000, "too large", "6,000 characters"),
    ("C" * 200, "too large", "200 heavy atoms"),
    ("[Na+].[Cl-]", "no carbon", ""),
    ("O", "no carbon", "O"),
    ("N[Pt](N)(Cl)Cl", "metal", "Pt"),
    ("C[Hg]C", "metal", "Hg"),
    ("CC(=O)Oc1ccccc1C(=O)O.CC(C)NCC(O)COc1cccc2ccccc12", "mixture", "also"),
    ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "not standardised", "c1cccc1, which is no structure"),  # a metallocene
    ("CCOC(=O)[N-]c1c[n+](N2CCOCC2)no1", "not standardised", "no structure"),  # molsidomine, a sydnonimine
]


@pytest.mark.parametrize(("smiles", "status", "says"), FAULTS)
def test_what_cannot_be_used_has_a_reason(
    smiles: str, status: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = standardise_one(smiles)
    assert found.smiles is None
    assert found.status == status
    assert says in found.detail
    assert capfd.readouterr() == ("", "")  # RDKit's own messages are in the table


STANDARD = [
    ("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]", "CC(=O)Oc1ccccc1C(=O)O"),  # salt
    ("CC(=O)Oc1ccccc1C(=O)O[Na]", "CC(=O)Oc1ccccc1C(=O)O"),  # salt written as a bond
    ("CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1.Cl", "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1"),
    ("CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1.OC(=O)C=CC(O)=O", "CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1"),
    ("CN(C)C(=O)C.CN(C)C(=O)C", "CC(=O)N(C)C"),  # two of one kind
    ("C[N+](C)(C)CC([O-])=O", "C[N+](C)(C)CC(=O)[O-]"),  # no proton can balance it
    ("CN(=O)=O", "C[N+](=O)[O-]"),
    ("[2H]C([2H])([2H])O", "[2H]C([2H])([2H])O"),
    ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O"),
    ("C/C=C/C", "C/C=C/C"),
    ("[13CH3]O", "[13CH3]O"),
    (r"C/C=C/[C@H](N)C(=O)O.C/C=C\[C@H](N)C(=O)O", "CC=C[C@H](N)C(=O)O"),  # E and Z of one centre
    (r"C/C=C/[C@H](N)C(=O)O.C/C=C/[C@@H](N)C(=O)O", "C/C=C/C(N)C(=O)O"),  # a racemate
    (r"C/C=C/[C@H](N)C(=O)O.C/C=C\[C@@H](N)C(=O)O.Cl", "CC=CC(N)C(=O)O"),
]


@pytest.mark.parametrize(("smiles", "expected"), STANDARD)
def test_structures_become_standard(smiles: str, expected: str) -> None:
    found = standardise_one(smiles)
    assert found.status == "ok"
    assert found.smiles == Chem.CanonSmiles(expected)


@pytest.mark.parametrize("smiles", DRUGS.values())
def test_a_standard_structure_stays_as_it_is(smiles: str) -> None:
    once = standardise_one(smiles).smiles
    assert once is not None
    assert standardise_one(once).smiles == once


def test_salts_are_handled_as_asked() -> None:
    salt = "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"
    assert standardise_one(salt).detail == "[Na+]"
    assert standardise_one(salt, Standardisation(uncharge=False)).smiles == "CC(=O)Oc1ccccc1C(=O)[O-]"
    assert standardise_one(salt, Standardisation(salts="refuse")).status == "mixture"
    assert standardise_one(salt, PUBLISHED).smiles == Chem.CanonSmiles(salt)
    assert standardise_one("N[Pt](N)(Cl)Cl", PUBLISHED).status == "ok"


def test_a_table_of_structures() -> None:
    found = standardise([DRUGS["aspirin"], "nonsense"])
    assert found["status"].tolist() == ["ok", "invalid SMILES"]
    assert found["smiles"].isna().tolist() == [False, True]


def everything(path: Path, **options: str) -> pd.DataFrame:
    return pd.concat(read_molecules(path, rows=3, **options), ignore_index=True)


def test_all_kinds_of_files_say_the_same(tmp_path: Path) -> None:
    table = drug_table()
    names, smiles = table["name"].tolist(), table["SMILES"].tolist()
    write(table, tmp_path, "a.csv")
    table.to_csv(tmp_path / "b.tsv", sep="\t", index=False)
    table.to_csv(tmp_path / "c.csv", sep=";", index=False, encoding="utf-8-sig")
    table.to_csv(tmp_path / "d.csv.gz", index=False)
    table.to_parquet(tmp_path / "e.parquet")
    listed = "".join(f"{one} {name}\n" for one, name in zip(smiles, names, strict=True))
    (tmp_path / "f.smi").write_text(listed)
    (tmp_path / "g.smi.gz").write_bytes(gzip.compress(listed.encode()))
    for file in sorted(tmp_path.iterdir()):
        found = everything(file)
        assert list(found.columns) == list(COLUMNS)
        assert found["row"].tolist() == list(range(1, len(names) + 1)), file
        assert found["id"].tolist() == names, file
        assert found["SMILES"].tolist() == smiles, file


def test_sd_files_with_a_broken_record(tmp_path: Path) -> None:
    records = []
    for name in ("aspirin", "caffeine"):
        molecule = Chem.MolFromSmiles(DRUGS[name])
        records.append(f"{name}{Chem.MolToMolBlock(molecule)}$$$$\n")
    broken = "broken\n\n\n  no counts\nM  END\n$$$$\n"
    (tmp_path / "a.sdf").write_text(records[0] + broken + records[1])
    (tmp_path / "b.sdf.gz").write_bytes(gzip.compress((records[0] + broken + records[1]).encode()))
    for file in ("a.sdf", "b.sdf.gz"):
        found = everything(tmp_path / file)
        assert found["row"].tolist() == [1, 2, 3]
        assert found["SMILES"].tolist() == [Chem.CanonSmiles(DRUGS["aspirin"]), "", Chem.CanonSmiles(DRUGS["caffeine"])]
        assert found["id"].tolist()[::2] == ["aspirin", "caffeine"]


def test_columns_are_found_by_name_or_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": ["CCO"], "canonical_smiles": ["CC"], "my key": ["q"]})
    path = write(table, tmp_path)
    assert everything(path).iloc[0].tolist() == [1, "1", "CC"]
    assert everything(path, smiles="x", identifier="my key").iloc[0].tolist() == [1, "q", "CCO"]
    assert open_molecules(path).others == ["x", "my key"]


REFUSED = [
    ("smiles,a,a\nCC,1,0\n", {}, "more than one column 'a'"),
    ("name,a\nCC,1\n", {}, "no column that is called SMILES"),
    ("smiles_a,smiles_b\nCC,CC\n", {}, "several columns of SMILES"),
    ("SMILES,Smiles\nCC,CC\n", {}, "several columns of SMILES"),
    ("smiles,a\nCC,1\n", {"smiles": "b"}, "no column 'b' with SMILES"),
    ("smiles,a\nCC,1\n", {"identifier": "b"}, "no column 'b' with names"),
    ("smiles,a\nCC,1\nCC\n", {}, "1 cells in line 3, and 2 columns"),
    ("", {}, "no header"),
    (b"smiles\n\xff\xfe\xff\n", {}, "cannot be read"),
    (b"\x00\x01\x02", {}, "no column"),
]


@pytest.mark.parametrize(("content", "options", "says"), REFUSED)
def test_files_that_cannot_be_used_are_refused(
    content: str | bytes, options: dict[str, str], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=says):
        everything(path, **options)


@pytest.mark.parametrize(("content", "name"), [("smiles,row\nCC,1\n", "row"), ("smiles,name,id\nCC,x,1\n", "id")])
def test_names_that_are_taken_are_refused(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(content)
    options = {"identifier": "name"} if name == "id" else {}
    with pytest.raises(InputError, match=f"a column '{name}', which is no name for an assay"):
        list(open_molecules(tmp_path / "table.csv", **options).pieces([name]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"smiles\n" + b"CC\n" * 1000)[:-20])
    (tmp_path / "a.smi").write_text("CC a\n")
    for name, says in (
        ("none.csv", "no file"),
        ("a.xlsx", "must end in"),
        ("a.parquet", "cannot be read"),
        ("a.csv.gz", "cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            everything(tmp_path / name)
    with pytest.raises(InputError, match="no columns that could be named"):
        everything(tmp_path / "a.smi", smiles="x")


def test_fingerprints_are_those_of_rdkit() -> None:
    packed = chemistry.fingerprints(list(DRUGS.values()), threads=1)
    bits = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for row, smiles in zip(bits, DRUGS.values(), strict=True):
        expected = np.zeros(2048, np.int8)
        DataStructs.ConvertToNumpyArray(generator.GetFingerprint(Chem.MolFromSmiles(smiles)), expected)
        np.testing.assert_array_equal(row, expected)
    with pytest.raises(InputError, match="not a structure that RDKit can read"):
        chemistry.fingerprints(["nonsense"])
    with pytest.raises(InputError, match="multiples of 64"):
        chemistry.fingerprints([], bits=100)


def test_pains_are_named() -> None:
    rhodanine, quinone = "O=C1NC(=S)SC1=Cc1ccccc1", "O=C1C=CC(=O)C=C1"
    found = chemistry.pains([rhodanine, quinone, DRUGS["aspirin"]], threads=1)
    assert [bool(names) for names in found] == [True, True, False]
    assert found[0][0].startswith("PAINS_A ene_rhod")


def test_scaffolds_have_no_stereochemistry_and_chains_have_none() -> None:
    assert chemistry.scaffold(DRUGS["nicotine"]) == "c1cncc(C2CCCN2)c1"
    assert chemistry.scaffold(DRUGS["metformin"]) == ""
    assert chemistry.without_stereo(DRUGS["S-ibuprofen"]) == chemistry.without_stereo(DRUGS["ibuprofen"])


def test_cleaning_up_by_steps_is_rdkits_cleanup() -> None:
    assert chemistry._steps_are_known()
    salts = [f"{text}.{salt}" for text in compounds()[::20] for salt in ("[Na+].[O-]C=O", "CC(=O)O[K]", "[Mg]", "Cl")]
    for text in (*chemistry._PROBES, *ODD, *DRUGS.values(), *salts):
        molecule = Chem.MolFromSmiles(text)
        expected = rdMolStandardize.Cleanup(molecule)
        assert chemistry._cleaned_by_steps(molecule).ToBinary() == expected.ToBinary(), text
    changed = [
        Chem.MolToSmiles(chemistry._cleaned_by_steps(one)) != Chem.MolToSmiles(one)
        for one in map(Chem.MolFromSmiles, chemistry._PROBES)
    ]
    assert sum(changed) >= 5  # probes that nothing happens to would show nothing


def test_other_steps_of_cleanup_are_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    expected = standardise_one("CC(=O)O[Na].C[S](=O)C")
    monkeypatch.setattr(chemistry, "_cleaned_by_steps", lambda molecule: molecule)
    chemistry._steps_are_known.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert standardise_one("CC(=O)O[Na].C[S](=O)C") == expected
        assert "other steps than those known" in caplog.text
    finally:
        chemistry._steps_are_known.cache_clear()


@pytest.mark.realdata
def test_real_compounds_are_cleaned_up_as_rdkit_does(data_folder: Path) -> None:
    table = pd.read_csv(data_folder / "activity/moshkov2023/compounds16170.csv.gz")
    for text in table["smiles"][::40]:
        molecule = Chem.MolFromSmiles(text)
        assert chemistry._cleaned_by_steps(molecule).ToBinary() == rdMolStandardize.Cleanup(molecule).ToBinary()
