"""The whole evaluation: levels, controls, before and after, what is written, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from cellinfer.cli import app
from cellinfer.errors import InputError
from cellinfer.profiling.batch_effects import batch_effects
from cellinfer.profiling.evaluation import ProfileEvaluation, evaluate_profiles
from cellinfer.profiling.evaluation import _picture as picture
from cellinfer.profiling.evaluation._asked import name_treatments
from cellinfer.profiling.pairs import PairRules
from cellinfer.profiling.retrieval import average_precision, mean_average_precision
from cellinfer.profiling.workflow import profile
from packaging.requirements import Requirement
from typer.testing import CliRunner

COLUMNS: dict[str, Any] = {
    "label": "Metadata_moa",
    "treatment": "Metadata_t",
    "controls": "Metadata_t == 'DMSO'",
    "draws": 500,
    "permutations": 20,
}


def screen(seed: int = 0, plates: int = 3, shift: float = 1.0, sites: int = 0) -> pd.DataFrame:
    """Plates with 12 treatments of 4 classes (one of them with a single treatment) and 4 control wells."""
    random = np.random.default_rng(seed)
    names = [f"T{number:02d}" for number in range(12)] + ["DMSO"] * 4
    kinds = ["a"] * 4 + ["b"] * 4 + ["a|b"] + ["c"] * 2 + ["alone"] + [None] * 4
    centres = {name: random.normal(size=16) for name in [*names, "a", "b", "c", "alone"]}
    rows, values = [], []
    for plate in range(plates):
        moved = shift * random.normal(size=16)
        for place, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            shared = [] if kind is None else [centres[name], *(2 * centres[one] for one in kind.split("|"))]
            centre = moved + np.sum([np.zeros(16), *shared], axis=0)
            for site in range(max(sites, 1)):
                rows.append((f"P{plate}", f"A{place + 1:02d}", site + 1, name, kind))
                values.append(centre + 0.7 * random.normal(size=16))
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_t", "Metadata_moa"]
    table = pd.DataFrame(rows, columns=columns)
    if not sites:
        table = table.drop(columns="Metadata_Site")
    return pd.concat([table, pd.DataFrame(values).add_prefix("Cells_f")], axis=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProfileEvaluation, Path]:
    """An evaluation before and after plates were centred, on disk."""
    folder = tmp_path_factory.mktemp("evaluation")
    raw = screen(shift=3.0)
    raw.to_csv(folder / "raw.csv.gz", index=False)
    names = [name for name in raw if name.startswith("Cells_")]
    control = raw["Metadata_t"] == "DMSO"
    centres = raw[names].where(control).groupby(raw["Metadata_Plate"]).transform("mean")
    pd.concat([raw.drop(columns=names), raw[names] - centres], axis=1).to_parquet(folder / "centred.parquet")
    result = evaluate_profiles(
        folder / "centred.parquet", before=folder / "raw.csv.gz", **COLUMNS, projection="pca", out=folder / "out"
    )
    return result, folder


def test_a_correction_shows_in_every_figure(written: tuple[ProfileEvaluation, Path]) -> None:
    metrics = written[0].metrics.set_index(["task", "metric"])
    for task in ("class_by_well", "class_by_treatment", "replicates_by_well", "activity_by_well"):
        row = metrics.loc[(task, "map")]
        assert row["low"] <= row["value"] <= row["high"] and row["value"] > row["chance"]
        assert metrics.loc[(task, "map_interpolated"), "value"] >= row["value"]
    assert metrics.loc[("replicates_by_well", "map"), "change"] > 0.2
    for measure in ("batch_by_neighbours", "batch_by_discriminant", "batch_map"):
        assert metrics.loc[("batches_of_treated_wells", measure), "change"] < -0.2
        assert ("batches_of_control_wells", measure) in metrics.index
    assert metrics.loc[("nearest_neighbour_nsc", "accuracy"), "value"] > 0.7


def test_queries_are_what_their_definition_says(written: tuple[ProfileEvaluation, Path]) -> None:
    result = written[0]
    treatments = result.queries[result.queries["task"] == "class_by_treatment"].set_index("Metadata_t")
    assert "T11" not in treatments.index and len(treatments) == 11  # alone in its class
    # a|b finds all eight of either; those of a find three others and it
    assert treatments.loc["T08", "n_positives"] == 8 and treatments.loc["T00", "n_positives"] == 4
    assert (treatments["n_candidates"] == 11).all()
    wells = result.queries[result.queries["task"] == "class_by_well"]
    assert len(wells) == 33 and (wells["n_candidates"] == 36 - 3).all()  # wells of its own treatment are left out
    activity = result.queries[result.queries["task"] == "activity_by_well"]
    assert (activity["n_positives"] == 2).all() and (activity["n_candidates"] == 2 + 12).all()
    classes = result.classes[result.classes["task"] == "class_by_treatment"].set_index("name")
    assert classes["n_queries"].to_dict() == {"a": 5, "b": 5, "c": 2}
    assert any("class_by_treatment: 1 of 12 rows are no queries" in note for note in result.notes)
    assert set(result.definitions) >= set(result.metrics["task"])


def test_figures_are_those_of_the_functions(written: tuple[ProfileEvaluation, Path]) -> None:
    result, folder = written
    table = pd.read_parquet(folder / "centred.parquet")
    treated = table[table["Metadata_t"] != "DMSO"].reset_index(drop=True)
    scored = average_precision(treated, PairRules(["Metadata_t"], [], [], ["Metadata_t"]))
    assert result.value("replicates_by_well", "map") == pytest.approx(scored["average_precision"].mean())
    means = mean_average_precision(scored, "Metadata_t", draws=500)
    ours = result.treatments[result.treatments["task"] == "replicates_by_well"]
    np.testing.assert_allclose(ours["map"], means["mean_average_precision"])
    np.testing.assert_allclose(ours["p_value"], means["p_value"])
    effects = batch_effects(treated, batch="Metadata_Plate", treatment="Metadata_t", permutations=20)
    assert result.value("batches_of_treated_wells", "batch_by_neighbours") == effects.value("batch_by_neighbours")
    with pytest.raises(KeyError, match="was not measured"):
        result.value("class_by_well", "beauty")


def test_what_is_written_can_be_read_again(written: tuple[ProfileEvaluation, Path]) -> None:
    result, folder = written
    out = folder / "out"
    assert {path.name for path in result.files} == {path.name for path in out.iterdir()}
    for name in ("metrics", "queries", "classes", "treatments", "curves"):
        table = getattr(result, name)
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{name}.parquet"), table, check_dtype=False)
        assert len(pd.read_csv(out / f"{name}.csv")) == len(table)
    said = json.loads((out / "evaluation.json").read_text())
    assert set(said["provenance"]["inputs"]) == {"profiles", "before"}
    assert len(said["provenance"]["inputs"]["profiles"]["sha256"]) == 64
    assert said["options"]["label"] == "Metadata_moa" and said["options"]["batch"] == "Metadata_Plate"
    assert "projection: PCA" in said["notes"]
    image = cv2.imread(str(out / "evaluation.png"))
    assert image.shape[0] > 800 and image.shape[1] > 1200 and len(np.unique(image.reshape(-1, 3), axis=0)) > 100


def test_the_same_question_has_the_same_answer(written: tuple[ProfileEvaluation, Path]) -> None:
    again = evaluate_profiles(written[1] / "centred.parquet", **COLUMNS)
    pd.testing.assert_frame_equal(again.metrics, written[0].metrics.drop(columns=["before", "change"]))


def test_the_order_of_rows_and_the_memory_do_not_matter() -> None:
    table = screen()
    shuffled = table.sample(frac=1, random_state=1)
    one, other = (
        evaluate_profiles(each, **COLUMNS, memory=memory).metrics.set_index(["task", "metric"])
        for each, memory in ((table, 1 << 28), (shuffled, 2000))
    )
    same = [key for key in one.index if "batches" not in key[0]]  # folds and permutations are drawn by row
    np.testing.assert_allclose(one.loc[same, "value"], other.loc[same, "value"], rtol=1e-9)


def test_images_do_not_find_those_of_their_well() -> None:
    result = evaluate_profiles(screen(sites=2), **COLUMNS, level="image")
    counts = dict(iter(result.queries.groupby("task")))
    # two images in each of the other two plates
    assert (counts["replicates_by_image"]["n_positives"] == 4).all()
    assert (counts["replicates_by_image"]["n_candidates"] == 4 + 66).all()
    assert (counts["replicates_by_well"]["n_positives"] == 2).all()
    assert set(counts) >= {"class_by_image", "class_by_well", "class_by_treatment", "activity_by_image"}
    assert result.provenance["rows"] == {"image": 96, "well": 48, "treatment": 15}


def test_treatment_profiles_need_no_wells() -> None:
    wells = screen()
    names = [name for name in wells if name.startswith("Cells_")]
    treated = wells[wells["Metadata_t"] != "DMSO"]
    table = treated.groupby(["Metadata_t", "Metadata_moa"])[names].mean().reset_index()
    result = evaluate_profiles(table, label="Metadata_moa", level="treatment", draws=200)
    wells_too = evaluate_profiles(wells, **COLUMNS)
    for metric in ("map", "map_interpolated", "folds_of_enrichment", "precision_at_5"):
        assert result.value("class_by_treatment", metric) == pytest.approx(
            wells_too.value("class_by_treatment", metric)
        )
    assert any("batch effects were not measured" in note for note in result.notes)


def test_doses_of_a_compound_do_not_count_as_others_of_their_class() -> None:
    table = screen()
    table["Metadata_compound"] = table["Metadata_t"].replace({"T01": "T00", "T10": "T09"})
    result = evaluate_profiles(table, **COLUMNS, compound="Metadata_compound")
    found = result.queries[result.queries["task"] == "class_by_treatment"].set_index("Metadata_t")
    assert found.loc["T00", "n_positives"] == 3
    assert not {"T09", "T10"} & set(found.index)  # c is now of one compound
    nearest = result.metrics.set_index("task").loc["nearest_neighbour_nsc"]
    assert nearest["n_queries"] == 9


def test_controls_are_negatives_where_asked() -> None:
    plain, beside = (evaluate_profiles(screen(), **COLUMNS, controls_are_negatives=wanted) for wanted in (False, True))
    for task, more in (("class_by_treatment", 3), ("class_by_well", 12), ("replicates_by_well", 12)):
        one, other = (each.queries.loc[each.queries["task"] == task, "n_candidates"] for each in (plain, beside))
        assert set(other.to_numpy() - one.to_numpy()) == {more}


def test_min_others_narrows_the_queries() -> None:
    result = evaluate_profiles(screen(), **COLUMNS, min_others=2)
    treatments = result.queries[result.queries["task"] == "class_by_treatment"]
    assert not {"T09", "T10"} & set(treatments["Metadata_t"])


def test_features_that_are_not_finite_are_left_out_and_said() -> None:
    table = screen()
    features = [name for name in table if name.startswith("Cells_")]
    table.loc[3, "Cells_f2"] = np.nan
    table.loc[5, "Cells_f7"] = np.inf
    table.loc[7, features] = np.nan  # an empty well
    result = evaluate_profiles(table, **COLUMNS)
    assert result.provenance["n_features"] == 14
    assert "1 profiles were left out" in result.notes[0] and "2 of 16 features were left out" in result.notes[1]


def test_categories_numbers_and_empty_text_are_understood() -> None:
    plain = evaluate_profiles(screen(), **COLUMNS).metrics
    table = screen()
    table["Metadata_moa"] = table["Metadata_moa"].fillna("").astype("category")
    table["Metadata_t"] = pd.factorize(table["Metadata_t"])[0]
    table["Metadata_Plate"] = table["Metadata_Plate"].astype("category")
    found = evaluate_profiles(table, **{**COLUMNS, "controls": "Metadata_t == 12"}).metrics
    names_only = ["low", "high"]  # groups are drawn in the order of their names
    pd.testing.assert_frame_equal(found.drop(columns=names_only), plain.drop(columns=names_only))


def test_copies_of_profiles_are_said() -> None:
    table = screen()
    features = [name for name in table if name.startswith("Cells_")]
    table.loc[1, features] = table.loc[0, features].to_numpy()
    assert any("1 profiles are equal to others" in note for note in evaluate_profiles(table, **COLUMNS).notes)


def test_one_plate_has_no_batch_effect_but_everything_else() -> None:
    table = screen(plates=1)
    result = evaluate_profiles(table, **COLUMNS)
    assert any("there is 1 Metadata_Plate" in note for note in result.notes)
    assert not [task for task in result.metrics["task"] if task.startswith("batches")]
    assert any("No treatment has replicates" in note for note in result.notes)
    assert result.value("class_by_treatment", "map") > 0


def test_before_is_matched_by_well() -> None:
    table = screen()
    raw = table.drop(columns=["Metadata_moa"]).sample(frac=1, random_state=0).iloc[:-1]
    result = evaluate_profiles(table, before=raw, **COLUMNS)
    assert any("1 rows are in one of the tables" in note for note in result.notes)
    changes = result.metrics["change"].dropna()
    same = result.metrics["task"].str.startswith("batches")
    assert changes[~same].abs().max() < 1e-9 and len(changes) == len(result.metrics)


TABLES: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], str]] = [
    (lambda table: table.iloc[:0], {}, "no rows"),
    (lambda table: table.drop(columns="Metadata_moa"), {}, r"no column 'Metadata_moa' \(label\)"),
    (lambda table: table.assign(Metadata_moa=None), {}, "is empty"),
    (lambda table: table.filter(like="Metadata"), {}, "no features"),
    (lambda table: table.assign(Metadata_Well="A01"), {}, "a well that is there before, such as P0 A01"),
    (lambda table: table, {"level": "treatment"}, "level well"),
    (lambda table: table, {"level": "plate"}, "no level"),
    (lambda table: table, {"treatment": None}, "name the column or columns that replicates share"),
    (lambda table: table, {"treatment": None, "label": None}, "Name the column"),
    (lambda table: table, {"controls": "Metadata_t == 'water'"}, "holds for no row: Metadata_t holds text"),
    (lambda table: table, {"controls": "Metadata_t ="}, "not understood"),
    (lambda table: table, {"controls": "Cells_f1 + 1"}, "yes or no"),
    (lambda table: table, {"controls": "@pd.io"}, "not understood"),
    (lambda table: table, {"label": "Metadata_t"}, "is the compound itself"),
    (lambda table: table, {"metric": "manhattan"}, "no metric"),
    (lambda table: table, {"projection": "tsne"}, "no projection"),
    (lambda table: table, {"min_others": 0}, "at least one other"),
    (lambda table: table.assign(Metadata_moa=np.arange(len(table)).astype(str)), {}, "more than one Metadata_moa"),
    (lambda table: table.drop(columns="Metadata_Well"), {"level": "image"}, "needs the column Metadata_Well"),
    (lambda table: table.assign(**dict.fromkeys(table.filter(like="Cells_"), np.nan)), {}, "finite"),
]


@pytest.mark.parametrize(("change", "options", "says"), TABLES)
def test_what_cannot_be_used_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        evaluate_profiles(change(screen()), **{**COLUMNS, **options})


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "profiles.xlsx").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    reasons = {
        "none.csv": "no table",
        "broken.parquet": "cannot be read",
        "profiles.xlsx": "must end in",
        "empty.csv": "cannot be read",
    }
    for name, says in reasons.items():
        with pytest.raises(InputError, match=says):
            evaluate_profiles(tmp_path / name, **COLUMNS)


def test_the_picture_copes_with_many_names_and_strange_ones(tmp_path: Path) -> None:
    table = pd.concat([screen(seed, plates=9) for seed in range(2)], ignore_index=True)
    table["Metadata_Plate"] = np.repeat(["first ", "second "], len(table) // 2) + table["Metadata_Plate"]
    strange = "=$a_{" + table["Metadata_t"] + "}$ " + "long " * 12
    table["Metadata_moa"] = strange.where(table["Metadata_t"] != "DMSO")
    result = evaluate_profiles(table, **COLUMNS, projection="pca", out=tmp_path)
    assert (tmp_path / "evaluation.png").stat().st_size > 10_000
    assert result.queries["Metadata_moa"].str.startswith("=").any()
    assert not pd.read_csv(tmp_path / "queries.csv")["Metadata_moa"].dropna().str.startswith("=").any()


def test_umap_is_taken_where_it_is_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = screen().filter(like="Cells_").to_numpy()
    monkeypatch.setitem(sys.modules, "umap", None)  # not installed
    points, axis_name, said = picture._project(values, "umap", "cosine", 0)
    assert points.shape == (48, 2) and axis_name.startswith("PC|") and "not installed" in said[0]
    assert picture._project(values, "auto", "cosine", 0)[2] == ["projection: PCA"]
    monkeypatch.undo()
    pytest.importorskip("umap")
    points, axis_name, said = picture._project(values, "auto", "cosine", 0)
    assert points.shape == (48, 2) and axis_name == "UMAP" and said == ["projection: UMAP"]


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    screen().to_csv(tmp_path / "wells.csv", index=False)
    command = ["evaluate-profiles", str(tmp_path / "wells.csv"), "--label", "Metadata_moa", "--treatment", "Metadata_t"]
    command += ["--controls", "Metadata_t == 'DMSO'", "--draws", "200", "--projection", "pca"]
    command += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "class_by_treatment" in done.output and "folds_of_enrichment" in done.output
    said = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert {row["task"] for row in said["metrics"]} >= {"class_by_well", "nearest_neighbour_nsc"}


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cellinfer", "evaluate-profiles", str(tmp_path / "none.csv"), "--label", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no table" in done.stderr and "Traceback" not in done.stderr


def test_umap_brings_no_rust() -> None:
    pytest.importorskip("umap")
    waiting, found = ["umap-learn"], set[str]()
    while waiting:
        name = waiting.pop()
        found.add(name)
        for text in metadata.distribution(name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting += [needed.name] if needed.name not in found else []
    assert {"umap-learn", "pynndescent", "scikit-learn"} <= found
    builders = {name: (metadata.distribution(name).read_text("WHEEL") or "").lower() for name in found}
    assert [name for name, builder in builders.items() if "maturin" in builder or "rust" in builder] == []


@pytest.mark.realdata
def test_a_real_plate_map_on_two_microscopes(data_folder: Path) -> None:
    folder = data_folder / "profiles" / "jump_moa"
    tables = [pd.read_csv(folder / f"Yokogawa_{name}.csv.gz") for name in ("Japan_20X", "US_20X_5Ch")]
    shared = [name for name in tables[0] if name in tables[1]]
    both = pd.concat([table[shared] for table in tables], ignore_index=True)
    both["Metadata_broad_sample"] = both["Metadata_broad_sample"].fillna("DMSO")
    result = evaluate_profiles(
        both,
        label="Metadata_moa",
        treatment="Metadata_broad_sample",
        controls="Metadata_broad_sample == 'DMSO'",
        draws=2000,
        permutations=20,
    )
    metrics = result.metrics.set_index(["task", "metric"])
    assert (
        metrics.loc[("replicates_by_well", "map"), "value"] > 3 * metrics.loc[("replicates_by_well", "map"), "chance"]
    )
    assert metrics.loc[("class_by_treatment", "map"), "n_queries"] > 50
    assert metrics.loc[("batches_of_treated_wells", "batch_by_discriminant"), "value"] > 0.6


def test_controls_that_profiles_were_centred_on_are_told() -> None:
    raw = screen()
    assert not any("mean of 0" in note for note in evaluate_profiles(raw, **COLUMNS).notes)
    names = [name for name in raw if name.startswith("Cells_")]
    centred = raw.assign(**{name: raw[name] - raw.loc[raw["Metadata_t"] == "DMSO", name].mean() for name in names})
    assert any(
        "activity_by_well: the controls have a mean of 0" in note
        for note in evaluate_profiles(centred, **COLUMNS).notes
    )


def test_tables_of_an_earlier_evaluation_do_not_stay(tmp_path: Path) -> None:
    raw = screen()
    (tmp_path / "classes.csv").write_text("mine")
    replicates = {name: value for name, value in COLUMNS.items() if name != "label"}
    evaluate_profiles(raw, **replicates, projection="pca", out=tmp_path)
    assert (tmp_path / "classes.csv").read_text() == "mine"
    evaluate_profiles(raw, **COLUMNS, projection="pca", out=tmp_path)
    assert (tmp_path / "classes.parquet").is_file()
    evaluate_profiles(raw, **replicates, projection="pca", out=tmp_path)
    assert not list(tmp_path.glob("classes.*"))


def with_doses(table: pd.DataFrame) -> pd.DataFrame:
    """The same wells, told by compound and dose: T00 and T01 are doses of one compound, and so on; DMSO has none."""
    number = table["Metadata_t"].str.removeprefix("T").where(table["Metadata_t"] != "DMSO").astype(float)
    compound = "drug " + (number // 2).map(lambda one: f"{one:.0f}")
    return table.assign(
        Metadata_Compound=compound.where(number.notna(), "DMSO"),
        Metadata_Dose=(0.3 + 0.7 * (number % 2)).where(number.notna(), 0.0),
    )


def test_treatments_of_several_columns_are_named_readably() -> None:
    table = with_doses(screen())
    columns = {name: value for name, value in COLUMNS.items() if name != "treatment"}
    result = evaluate_profiles(table, treatment=["Metadata_Compound", "Dose"], **columns)
    one = evaluate_profiles(table, **COLUMNS, compound="Metadata_Compound")
    names = set(result.treatments["name"])
    assert {"drug 0 0.3", "drug 0 1", "drug 5 1"} <= names and len(names) == 12
    assert "drug 0 0.3" in set(result.queries["Metadata_Compound_Dose"])
    pd.testing.assert_frame_equal(
        result.metrics.drop(columns=["low", "high"]), one.metrics.drop(columns=["low", "high"]), rtol=1e-6
    )  # doses of one compound are not others of their class; groups are drawn in the order of their names
    assert result.options["treatment_columns"] == ("Metadata_Compound", "Metadata_Dose")
    assert any("told apart by Metadata_Compound and Metadata_Dose" in note for note in result.notes)
    assert any("doses or times of one Metadata_Compound" in note for note in result.notes)
    with pytest.raises(InputError, match=r"no column 'Dosis' \(treatment\): it has Metadata_Plate"):
        evaluate_profiles(table, treatment=["Compound", "Dosis"], **columns)


def test_doses_of_a_single_compound_are_held_out_by_themselves() -> None:
    table = with_doses(screen())
    table = table.assign(Metadata_Compound=table["Metadata_Compound"].where(table["Metadata_t"] == "DMSO", "drug"))
    table["Metadata_Dose"] = table["Metadata_t"].str.removeprefix("T").where(table["Metadata_t"] != "DMSO", "0")
    found = evaluate_profiles(table, treatment=["Compound", "Dose"], controls="Metadata_Compound == 'DMSO'")
    assert "held out by Metadata_Compound_Dose" in found.definitions["batches_of_treated_wells"]
    assert any("all wells are of one Metadata_Compound" in note for note in found.notes)


def test_joint_names_stay_apart() -> None:
    table = pd.DataFrame({"Metadata_a": ["x y", "x", None, ""], "Metadata_b": ["z", "y z", "w", "w"]})
    got = name_treatments(table, ["a", "b"], None)
    assert got.treatment == "Metadata_a_b" and got.compound is None
    assert got.table["Metadata_a_b"].tolist()[:2] == ["x y, z", "x, y z"]
    assert got.table["Metadata_a_b"].isna().tolist() == [False, False, True, True]
    doses = table.assign(Metadata_Dose=np.array([0.3, 1, 1e-7, 2], np.float32), Metadata_a_Dose=0)
    got = name_treatments(doses, ["a", "Dose", "a"], None)
    assert got.table[got.treatment].tolist()[:2] == ["x y 0.3", "x 1"]
    assert got.treatment == "Metadata_a_Dose_" and got.compound == "Metadata_a"


def several_times() -> pd.DataFrame:
    tables = [screen(shift=shift).assign(Metadata_Time=time) for time, shift in ((1, 1.0), (3, 1.2))]
    return pd.concat(tables, ignore_index=True)


def test_times_are_chosen_or_are_treatments() -> None:
    table = several_times()
    says = r'2 time points \(1, 3\), and the well P0 A01 is .*--where "Metadata_Time == 3"'
    with pytest.raises(InputError, match=says):
        evaluate_profiles(table, **COLUMNS)
    alone = evaluate_profiles(table[table["Metadata_Time"] == 3].reset_index(drop=True), **COLUMNS)
    chosen = evaluate_profiles(table, **COLUMNS, where="Metadata_Time == 3")
    pd.testing.assert_frame_equal(chosen.metrics, alone.metrics)
    assert any("where Metadata_Time == 3: 48 of 96 rows" in note for note in chosen.notes)
    assert chosen.options["where"] == "Metadata_Time == 3"
    before = evaluate_profiles(table, **COLUMNS, where="Metadata_Time == 3", before=table.iloc[::-1])
    assert before.metrics["change"].dropna().abs().max() < 1e-9
    with pytest.raises(InputError, match=r"rows to look at holds for no row: Metadata_Time holds numbers \(1, 3\)"):
        evaluate_profiles(table, **COLUMNS, where="Metadata_Time == 2")
    each = evaluate_profiles(table, **{**COLUMNS, "treatment": ["Metadata_t", "Metadata_Time"]})
    assert set(each.treatments["name"]) >= {"T00 1", "T00 3"}
    assert each.provenance["rows"]["well"] == 96
    assert any("each time is a treatment of its own" in note for note in each.notes)
    apart = table[(table["Metadata_Time"] == 1) == (table["Metadata_Plate"] == "P0")]
    assert evaluate_profiles(apart, **COLUMNS).provenance["rows"]["well"] == 48  # each plate at one time


def test_treatments_at_several_times_are_refused() -> None:
    names = [name for name in screen() if name.startswith("Cells_")]
    wells = several_times()
    means = wells.groupby(["Metadata_t", "Metadata_Time", "Metadata_moa"])[names].mean().reset_index()
    for treatment, says in (("Metadata_t", "the treatment T00 is there"), (None, "nothing tells which rows")):
        with pytest.raises(InputError, match=says):
            evaluate_profiles(means, label="Metadata_moa", treatment=treatment, level="treatment")
    found = evaluate_profiles(means, label="moa", level="treatment", where="Metadata_Time == 1", draws=200)
    assert found.provenance["rows"] == {"treatment": 12}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cellinfer profile` made of wells with compounds and doses."""
    folder = tmp_path_factory.mktemp("profiled")
    with_doses(screen(plates=3)).drop(columns="Metadata_t").to_parquet(folder / "wells.parquet")
    profile(folder / "wells.parquet", folder / "out", controls="Metadata_Compound == 'DMSO'", picture=False)
    return folder / "out"


def test_what_profile_made_is_evaluated_as_it_was_made(profiled: Path, tmp_path: Path) -> None:
    table = profiled / "Well_sphered.parquet"
    result = evaluate_profiles(table, label="moa", draws=200, permutations=5)
    assert result.options["treatment_columns"] == ("Metadata_Compound", "Metadata_Dose")
    assert result.options["compound"] == "Metadata_Compound"
    assert result.options["controls"] == "Metadata_Compound == 'DMSO'"
    assert result.provenance["controls"]["well"] == 12
    told = [note for note in result.notes if str(profiled / "profile.json") in note]
    assert any("--treatment" in note for note in told) and any("--controls" in note for note in told)
    named = evaluate_profiles(table, treatment="Compound", draws=200, permutations=5)
    assert named.options["treatment"] == "Metadata_Compound" and named.options["controls"] is None
    own = evaluate_profiles(table, controls="Metadata_Well == 'A13'", draws=200, permutations=5)
    assert own.options["controls"] == "Metadata_Well == 'A13'" and own.provenance["controls"]["well"] == 3
    elsewhere = tmp_path / table.name
    elsewhere.write_bytes(table.read_bytes())
    (tmp_path / "profile.json").write_text('{"finished": "now", "treatment": ["Metadata_Compound"], "files": []}')
    with pytest.raises(InputError, match="name the column or columns that replicates share"):
        evaluate_profiles(elsewhere, label="moa")  # of which that file says nothing


def test_controls_of_a_column_and_a_missing_column(profiled: Path, tmp_path: Path) -> None:
    info = json.loads((profiled / "profile.json").read_text())
    table = pd.read_parquet(profiled / "Well_sphered.parquet").assign(Metadata_Kind=0.0)
    table.loc[table["Metadata_Compound"] == "DMSO", "Metadata_Kind"] = -1.0
    info["settings"] |= {"controls": None, "control_column": "Kind", "negative": "-1"}
    (tmp_path / "profile.json").write_text(json.dumps(info))
    path = tmp_path / "Well_sphered.parquet"
    table.to_parquet(path)
    result = evaluate_profiles(path, draws=200, permutations=5)
    assert result.options["controls"] == "Metadata_Kind == -1.0" and result.provenance["controls"]["well"] == 12
    table[table["Metadata_Kind"] == 0].to_parquet(path)
    result = evaluate_profiles(path, draws=200, permutations=5)
    assert result.options["controls"] is None and any("no controls here" in note for note in result.notes)
    table.drop(columns="Metadata_Dose").to_parquet(path)
    with pytest.raises(InputError, match="name the column or columns"):
        evaluate_profiles(path, label="moa")


def test_progress_is_told_and_ends(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def report(name: str, done: int, total: int) -> None:
        assert seen.get(name, (0, total)) <= (done, total)
        seen[name] = (done, total)

    table = screen()
    evaluate_profiles(table, before=table, **COLUMNS, projection="pca", out=tmp_path, progress=report)
    assert all(done == total for done, total in seen.values())
    assert seen["class_by_well"] == (36, 36)
    assert seen["batches_of_treated_wells"] == (24, 24)
    assert {"activity_by_well, significance", "replicate_similarity", "nearest_neighbour_nsc", "picture"} <= set(seen)
    assert "class_by_well, before" in seen


def test_the_command_chains_and_stops_in_one_line(profiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["evaluate-profiles", str(profiled / "Well_sphered.parquet"), "--label", "moa", "--draws", "200"]
    command += ["--projection", "pca", "--out", str(profiled / "judged")]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "as" in done.output and "profile.json says" in done.output
    several = ["--treatment", "Compound", "--treatment", "Dose", "--where", "Metadata_Plate != 'P0'"]
    said = json.loads(CliRunner().invoke(app, [*command, *several, "--json"]).stdout)
    assert said["options"]["treatment"] == "Metadata_Compound_Dose"
    assert said["provenance"]["rows"]["well"] == 32

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cellinfer.profiling.evaluation.measure", interrupted)
    stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == 130
    assert stopped.stderr.strip() == "stopped; the evaluation is not whole: run the same command again"
