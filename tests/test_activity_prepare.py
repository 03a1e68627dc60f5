"""From a table of assay results to a matrix: what each step takes out, and what it says about it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import chemistry, filters, processes
from cellinfer.activity.columns import COMPOUND, GIVEN, ROW, ROWS, SCAFFOLD, SMILES
from cellinfer.activity.prepare import assay_columns, prepare
from cellinfer.cli import app
from cellinfer.errors import InputError
from typer.testing import CliRunner

from tests.activity_table import DRUGS, drug_table, labels, write

KEEP = ("pains", "redundant", "frequent")


def steps(result: Any) -> dict[str, int]:
    return {step.name: step.removed for step in result.steps}


def test_a_clean_table_stays_as_it_is(tmp_path: Path) -> None:
    table = drug_table()
    result = prepare(write(table, tmp_path), skip=KEEP)
    assert result.matrix[COMPOUND].tolist() == list(DRUGS)
    assert result.matrix[GIVEN].tolist() == list(DRUGS.values())
    assert result.matrix[ROW].tolist() == list(range(1, len(DRUGS) + 1))
    assert assay_columns(result.matrix) == ["a0", "a1", "a2", "a3"]
    np.testing.assert_array_equal(result.labels, np.nan_to_num(table.iloc[:, 2:].to_numpy(float), nan=-1))
    assert str(result.matrix["a0"].dtype) == "Int8"
    assert result.removed.empty
    assert set(steps(result).values()) == {0}


def test_faults_of_structures_are_listed(tmp_path: Path) -> None:
    table = drug_table()
    table.loc[1, "SMILES"], table.loc[3, "SMILES"], table.loc[5, "SMILES"] = "nonsense", "", "C[Hg]C"
    table.loc[7, "SMILES"] = DRUGS["atenolol"] + "." + DRUGS["propranolol"]
    table.loc[8, "SMILES"] += ".Cl"
    result = prepare(write(table, tmp_path), skip=KEEP)
    gone = result.removed.set_index("row")["reason"]
    assert gone.index.tolist() == [2, 4, 6, 8]
    assert gone[2].startswith("invalid SMILES") and gone[4] == "empty" and gone[6] == "metal: Hg"
    assert gone[8].startswith("mixture: also")
    counts = result.steps[0].counts
    assert counts == {
        "invalid SMILES": 1,
        "empty": 1,
        "metal": 1,
        "mixture": 1,
        "counter-ions and solvents taken off": 1,
        "stereoisomers made one": 0,
    }


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(drug_table(), tmp_path)
    alone = prepare(table, skip=KEEP, threads=1)
    monkeypatch.setattr(processes, "WORTHWHILE", 1)
    several = prepare(table, skip=KEEP, threads=2)
    pd.testing.assert_frame_equal(several.matrix, alone.matrix)
    pd.testing.assert_frame_equal(several.removed, alone.removed)


def test_duplicates_are_one_compound_with_the_labels_of_all(tmp_path: Path) -> None:
    table = drug_table()
    twins = table.iloc[[0, 0]].copy()
    twins["name"] = ["aspirin sodium", "acetylsalicylic acid"]
    twins["SMILES"] = ["[Na+].CC(=O)Oc1ccccc1C(=O)[O-]", "O=C(C)Oc1c(C(O)=O)cccc1"]
    table.loc[0, ["a0", "a1", "a2", "a3"]] = [1, 0, 1, np.nan]
    twins[["a0", "a1", "a2", "a3"]] = [[1, np.nan, 0, np.nan], [1, 0, 1, 0]]
    path = write(pd.concat([table, twins]), tmp_path)
    result = prepare(path, skip=KEEP)
    first = result.matrix.iloc[0]
    assert first[ROWS] == 3
    assert first[["a0", "a1", "a3"]].tolist() == [1, 0, 0]
    assert first[["a2"]].isna().all()
    assert result.contradictions.to_dict("records") == [
        {"id": "aspirin", "assay": "a2", "hits": 2, "inactive": 1, "became": ""}
    ]
    assert result.removed["reason"].tolist() == ["the same compound as row 1 (aspirin)"] * 2
    assert prepare(path, skip=KEEP, contradictions="majority").matrix.iloc[0]["a2"] == 1
    assert len(prepare(path, skip=(*KEEP, "duplicates")).matrix) == len(DRUGS) + 2
    assert DRUGS["ibuprofen"] in result.matrix[GIVEN].tolist()  # stereoisomers and isotopes are compounds of their own
    assert DRUGS["S-ibuprofen"] in result.matrix[GIVEN].tolist()
    assert DRUGS["deuterated caffeine"] in result.matrix[GIVEN].tolist()


def test_merging_by_hand() -> None:
    given = np.array([[1, 0, -1], [0, -1, 1], [1, 1, -1], [0, 0, 0]], np.int8)
    merged = filters.merge(["b", "a", "b", "b"], given)
    assert merged.first.tolist() == [0, 1]
    assert merged.compound.tolist() == [0, 1, 0, 0]
    assert merged.labels.tolist() == [[-1, -1, 0], [0, -1, 1]]
    assert merged.contradictions.tolist() == [[0, 0, 2, 1], [0, 1, 1, 2]]
    assert filters.merge(["b", "a", "b", "b"], given, "majority").labels.tolist() == [[1, 0, 0], [0, -1, 1]]
    assert filters.merge(["b", "b"], given[[0, 3]], "majority").labels[0, 0] == -1  # one against one


def test_pains_go_with_the_name_of_the_pattern(tmp_path: Path) -> None:
    table = drug_table()
    table.loc[len(table)] = ["rhodanine", "O=C1NC(=S)SC1=Cc1ccccc1", 1, 0, 1, 0]
    result = prepare(write(table, tmp_path), skip=("redundant", "frequent"))
    assert result.removed[["step", "id"]].values.tolist() == [["pains", "rhodanine"]]
    assert result.removed["reason"].iloc[0].startswith("PAINS_A ene_rhod")


def test_assays_without_hits_or_readouts_go(tmp_path: Path) -> None:
    table = drug_table().assign(never=0, nothing=None)
    result = prepare(write(table, tmp_path), skip=KEEP)
    gone = result.assays[~result.assays["kept"]].set_index("assay")["reason"]
    assert gone.to_dict() == {"never": "no hits", "nothing": "no readouts"}
    assert assay_columns(result.matrix) == ["a0", "a1", "a2", "a3"]


def test_overlaps_are_intersection_over_union() -> None:
    drawn = np.nan_to_num(labels(50, 6), nan=-1).astype(np.int8)
    drawn[:, 5] = 0
    found = filters.overlaps(drawn)
    for one, other in product(range(6), repeat=2):
        a, b = set(np.flatnonzero(drawn[:, one] == 1)), set(np.flatnonzero(drawn[:, other] == 1))
        assert found[one, other] == pytest.approx(len(a & b) / len(a | b) if a | b else 0.0)


def test_of_redundant_assays_that_with_most_hits_stays(tmp_path: Path) -> None:
    table = drug_table(6, seed=3)
    table["copy"] = table["a2"]
    hit = table.index[table["a2"] == 1][0]
    table.loc[hit, "copy"] = 0
    result = prepare(write(table, tmp_path), skip=("pains", "frequent"), overlap=0.6)
    gone = result.assays[~result.assays["kept"]]
    assert gone["assay"].tolist() == ["copy"]
    assert gone["kept_instead"].tolist() == ["a2"]
    hits = (table["a2"] == 1).sum()
    assert gone["overlap"].iloc[0] == pytest.approx((hits - 1) / hits)


def test_no_redundant_assay_goes_without_one_that_stands_for_it() -> None:
    base = np.zeros((100, 12), np.int8)
    for assay in range(12):  # a chain: each overlaps the next
        base[assay * 3 : assay * 3 + 20, assay] = 1
    overlap = filters.overlaps(base)
    clusters = filters.assay_clusters(overlap)
    stands_for = filters.representatives(base, overlap, clusters)
    assert (stands_for >= 0).any()
    for assay in np.flatnonzero(stands_for >= 0):
        assert stands_for[stands_for[assay]] == -1
        assert overlap[assay, stands_for[assay]] > 0.7
        assert clusters[assay] == clusters[stands_for[assay]]
    for cluster in range(clusters.max() + 1):
        staying = np.flatnonzero((clusters == cluster) & (stands_for < 0))
        assert len(staying) >= 1
        assert all(overlap[one, other] <= 0.7 for one, other in combinations(staying, 2))


def test_published_sampling_loses_small_clusters() -> None:
    clusters = np.array([0, 1, 1, 2, 2, 2, *[3] * 10])
    stays = filters.sampled_assays(clusters, 0)
    assert [int(stays[clusters == one].sum()) for one in range(4)] == [1, 0, 0, 3]


def test_chance_of_hits_is_poisson_binomial() -> None:
    drawn = np.nan_to_num(labels(40, 7, 0.4, 5), nan=-1).astype(np.int8)
    found = filters.hit_frequency(drawn)
    rates = [(drawn[:, assay] == 1).sum() / (drawn[:, assay] >= 0).sum() for assay in range(7)]
    for row in range(40):
        tested = np.flatnonzero(drawn[row] >= 0)
        hits = int((drawn[row] == 1).sum())
        chance = sum(
            np.prod([rates[assay] if one else 1 - rates[assay] for assay, one in zip(tested, pattern, strict=True)])
            for pattern in product((0, 1), repeat=len(tested))
            if sum(pattern) >= hits
        )
        assert found.p_value[row] == pytest.approx(chance, abs=1e-12)
        assert found.fraction[row] == pytest.approx(hits / len(tested))


def test_a_frequent_hitter_is_one_by_more_than_chance(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    drawn = np.where(random.random((300, 60)) < 0.02, 1, 0).astype(np.int8)
    drawn[random.random(drawn.shape) < 0.5] = -1
    drawn[7] = np.where(random.random(60) < 0.6, 1, 0)
    drawn[8] = -1
    drawn[8, :3] = 1  # all of three assays: less sure than 36 of 60
    drawn[9], drawn[9, 0] = -1, 1  # the only one it was tested in
    out = filters.frequent_hitters(filters.hit_frequency(drawn))
    assert out[7]
    assert not out[9]
    assert out.sum() <= 3
    published = filters.published_frequent_hitters(drawn)
    assert np.flatnonzero(published).tolist() == np.flatnonzero((drawn == 1).sum(axis=1) >= 6).tolist()


def test_assay_types_and_the_columns_that_are_read(tmp_path: Path) -> None:
    table = drug_table().assign(weight=3.5, Metadata_Plate="P1")
    path = write(table, tmp_path)
    meta = pd.DataFrame({"key": ["a1", "a0", "zz"], "ASSAY_TYPE": ["cell", "yeast", "cell"]})
    meta.to_csv(tmp_path / "meta.csv", index=False)
    result = prepare(path, skip=KEEP, assays=tmp_path / "meta.csv")
    assert result.assays[["assay", "type"]].values.tolist() == [["a0", "yeast"], ["a1", "cell"]]
    assert any("a2, a3, weight" in note for note in result.notes)
    with pytest.raises(InputError, match=r"'3\.5' in row 1 of weight"):
        prepare(path)
    assert assay_columns(prepare(path, skip=KEEP, ignore=("weight",)).matrix) == ["a0", "a1", "a2", "a3"]


def bad(change: Any) -> pd.DataFrame:
    table = drug_table().astype({"a1": object})
    change(table)
    return table


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (lambda table: table.__setitem__("a1", 2), {}, "'2' in row 1 of a1"),
    (lambda table: table.__setitem__("a1", -1), {}, "'-1' in row 1 of a1"),
    (lambda table: table.__setitem__("a1", "yes"), {}, "'yes' in row 1"),
    (lambda table: table.__setitem__("SMILES", "nonsense"), {}, "no usable structure"),
    (lambda table: table.drop(columns="SMILES", inplace=True), {}, "no column that is called SMILES"),
    (lambda table: table.drop(index=table.index, inplace=True), {}, "no rows"),
    (lambda table: table.__setitem__(["a0", "a1", "a2", "a3"], 0), {}, "No assay"),
    (lambda table: None, {"salts": "eat"}, "choose strip, keep, refuse"),
    (lambda table: None, {"skip": ("everything",)}, "choose duplicates, pains"),
    (lambda table: None, {"contradictions": "mean"}, "choose blank, majority"),
    (lambda table: None, {"overlap": 0.0}, "above 0"),
    (lambda table: None, {"frequent": 1.5}, "at most 1"),
    (lambda table: None, {"largest": 0}, "at least one heavy atom"),
    (lambda table: None, {"ignore": ("b",)}, "no column 'b'"),
    (lambda table: None, {"assay_type": "type"}, "needs the table of assays"),
    (lambda table: None, {"assays": Path("none.csv")}, "no table of assays"),
    (lambda table: None, {"colour": "red"}, "no setting 'colour'"),
    (lambda table: None, {"threads": 0}, "at least 1 thread"),
    (lambda table: table.rename(columns={"a1": "row"}, inplace=True), {}, "a column 'row'"),
]


@pytest.mark.parametrize(("change", "options", "says"), REFUSED)
def test_what_cannot_be_used_is_refused(change: Any, options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        prepare(write(bad(change), tmp_path), **{"skip": KEEP, **options})


def test_values_can_be_named_blank(tmp_path: Path) -> None:
    path = write(bad(lambda table: table.__setitem__("a1", ["-1", "1"] + ["0"] * (len(table) - 2))), tmp_path)
    result = prepare(path, skip=KEEP, blank=("-1",))
    assert result.matrix["a1"].isna().tolist() == [True] + [False] * (len(DRUGS) - 1)
    assert prepare(path, skip=KEEP, as_published=True).matrix["a1"].isna().sum() == 1


def test_lists_without_assays_are_prepared_too(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("".join(f"{smiles} {name}\n" for name, smiles in DRUGS.items()))
    result = prepare(tmp_path / "a.smi")
    assert result.matrix[COMPOUND].tolist() == list(DRUGS)
    assert result.matrix[SCAFFOLD].iloc[0] == "c1ccccc1"
    assert "no assays" in result.notes[0]


def test_as_published_structures_are_left_alone(tmp_path: Path) -> None:
    table = drug_table()
    table.loc[0, "SMILES"] = "CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"
    table.loc[1, "SMILES"] = table.loc[0, "SMILES"]
    result = prepare(write(table, tmp_path), as_published=True, skip=KEEP)
    assert result.matrix[SMILES].tolist()[:2] == ["CC(=O)Oc1ccccc1C(=O)[O-].[Na+]"] * 2


def test_the_command_writes_what_it_did(tmp_path: Path) -> None:
    table = drug_table()
    table.loc[2, "name"] = "=cmd()"
    table.loc[3, "SMILES"] = "@nonsense"
    path, out = write(table, tmp_path), tmp_path / "out"
    arguments = ["activity", "prepare", str(path), "--out", str(out), *(x for one in KEEP for x in ("--skip", one))]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    info = json.loads(done.stdout)
    assert info == json.loads((out / "prepare.json").read_text())
    assert info["versions"]["rdkit"] == chemistry.version()
    assert len(info["inputs"][0]["sha256"]) == 64
    assert info["result"]["compounds"] == len(DRUGS) - 1
    assert {path.name for path in out.iterdir()} >= set(info["files"])
    matrix = pd.read_parquet(out / "matrix.parquet")
    assert matrix[SMILES].tolist() == prepare(path, skip=KEEP).matrix[SMILES].tolist()
    assert str(matrix["a0"].dtype) == "Int8"
    assert pd.read_csv(out / "matrix.csv")[COMPOUND].iloc[2] == "'=cmd()"
    assert pd.read_csv(out / "removed.csv")["SMILES"].tolist() == ["'@nonsense"]
    first = (out / "matrix.parquet").read_bytes()
    plain = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "structures" in plain.stdout and "matrix.csv" in plain.stdout
    assert (out / "matrix.parquet").read_bytes() == first


def test_without_rdkit_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rdkit'] = None\n"
        "import cellinfer, cellinfer.cli\n"
        "from cellinfer.profiling import profile\n"
        "sys.argv = ['cellinfer', 'activity', 'prepare', 'x.csv']\n"
        "cellinfer.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: Chemical structures need RDKit: pip install "cellinfer[chem]".'


@pytest.mark.realdata
def test_pains_are_the_published_ones(data_folder: Path) -> None:
    """Of every 25th of 16,978 published structures, PAINS take those that were published as removed, and no other."""
    folder = data_folder / "activity" / "moshkov2023"
    before, after = (pd.read_csv(folder / f"compounds{number}.csv.gz")["smiles"] for number in (16978, 16170))
    some = before[::25]
    found = np.array([bool(names) for names in chemistry.pains(some.tolist())])
    removed = ~some.isin(after).to_numpy()
    assert not (found & ~removed).any()
    assert (removed & ~found).sum() <= 5  # 40 of all are frequent hitters
    assert found.sum() > 15
