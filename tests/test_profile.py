"""`cellinfer profile`: a real run, tables of several plates, the files, and what people get wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from cellinfer.cli.profile import profile as command
from cellinfer.engine import run
from cellinfer.errors import InputError
from cellinfer.profiling.aggregation import aggregate
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.selection import DEFAULT, select_features
from cellinfer.profiling.sphering import Sphering
from cellinfer.profiling.workflow import ProfileResult, ProfileSettings, profile
from cellinfer.simulate import simulate_plate
from typer.testing import CliRunner

app = typer.Typer()
app.command()(command)

CONTROLS = "Metadata_Compound == 'DMSO'"
WELLS = [f"{row}{column:02d}" for row in "AB" for column in range(1, 13)]
COMPOUNDS = ["DMSO"] * 8 + [f"drug{number // 2}" for number in range(16)]
LAYOUT = "Well,Compound,Dose\n" + "".join(
    f"{well},{compound},{0 if compound == 'DMSO' else 1 + number % 2}\n"
    for number, (well, compound) in enumerate(zip(WELLS, COMPOUNDS, strict=True))
)


def make_cells(plate: str, seed: int) -> pd.DataFrame:
    """Cells of one plate: features that plates shift, effects of treatments, copies, a constant and a missing value."""
    random = np.random.default_rng(seed)
    effects = np.random.default_rng(99).normal(size=(8, 10)) * 2
    shift = random.normal(size=10) * 5
    rows = []
    for well, compound in zip(WELLS, COMPOUNDS, strict=True):
        effect = np.zeros(10) if compound == "DMSO" else effects[int(compound.removeprefix("drug"))]
        for site in (1, 2):
            values = random.normal(size=(6, 10)) + effect + shift
            rows += [(plate, well, site, number, *value) for number, value in enumerate(values.tolist(), 1)]
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "ObjectNumber"]
    table = pd.DataFrame(rows, columns=[*names, *(f"Cells_F{number}" for number in range(10))])
    table["Cells_Copy"] = table["Cells_F0"] * 2 + 1
    table["Cells_Constant"] = 3.25
    table["Nuclei_Granularity_16_DNA"] = random.normal(size=len(table))
    return table


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of cells of three plates, as CSV and Parquet, and their layout."""
    folder = tmp_path_factory.mktemp("screen")
    make_cells("P1", 1).to_csv(folder / "one.csv", index=False)
    make_cells("P2", 2).to_parquet(folder / "two.parquet")
    make_cells("P3", 3).to_csv(folder / "three.csv.gz", index=False)
    (folder / "layout.csv").write_text(LAYOUT)
    return folder


def sources(screen: Path) -> list[Path]:
    return [screen / "one.csv", screen / "two.parquet", screen / "three.csv.gz"]


@pytest.fixture(scope="module")
def result(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> ProfileResult:
    out = tmp_path_factory.mktemp("profiles")
    return profile(sources(screen), out, layout=screen / "layout.csv", controls=CONTROLS, csv=True)


def test_every_level_is_the_step_by_hand(screen: Path, result: ProfileResult) -> None:
    cells = pd.concat([make_cells(f"P{number}", number) for number in (1, 2, 3)], ignore_index=True)
    sites = aggregate(cells, ("Metadata_Plate", "Metadata_Well", "Metadata_Site"), "median")
    by_pandas = (
        cells.drop(columns="ObjectNumber").groupby(["Metadata_Plate", "Metadata_Well", "Metadata_Site"]).median()
    )
    features = [name for name in cells if name.startswith(("Cells_", "Nuclei_"))]
    np.testing.assert_allclose(result.tables["Site"][features], by_pandas[features], rtol=1e-12)
    wells = aggregate(sites, ("Metadata_Plate", "Metadata_Well"), "mean")
    wells["Metadata_Compound"] = COMPOUNDS * 3
    np.testing.assert_allclose(result.tables["Well"][features], wells[features], rtol=1e-12)
    assert list(result.tables["Well"]["Metadata_Compound"]) == COMPOUNDS * 3
    normalised = normalise(wells, reference=CONTROLS, spread="pooled").table
    np.testing.assert_allclose(result.tables["Well_normalised"][features], normalised[features], rtol=1e-9)
    selected = select_features(normalised)
    kept = [name for name in features if name in selected.table]
    np.testing.assert_allclose(result.tables["Well_selected"][kept], selected.table[kept], rtol=1e-9)
    controls = selected.table[(selected.table["Metadata_Compound"] == "DMSO")]
    sphered = Sphering.fit(controls).apply(selected.table)
    np.testing.assert_allclose(result.wells[kept], sphered[kept], atol=1e-9)
    treatments = result.tables["Treatment"]
    assert len(treatments) == 17  # DMSO, and eight drugs of two doses
    one = sphered[(sphered["Metadata_Compound"] == "drug3")].iloc[::2][kept].mean()
    row = treatments[(treatments["Metadata_Compound"] == "drug3") & (treatments["Metadata_Dose"] == 1)]
    np.testing.assert_allclose(row[kept].iloc[0].astype(float), one, atol=1e-9)
    assert row["Metadata_Replicate_Count"].item() == 3
    assert row["Metadata_Object_Count"].item() == 36


def test_features_say_why_they_went(result: ProfileResult) -> None:
    reasons = pd.read_csv(result.folder / "features.csv", keep_default_na=False).set_index("feature")
    assert reasons.loc["Cells_Constant", "operation"] == "missing"
    assert reasons.loc["Nuclei_Granularity_16_DNA", "reason"] == "is in the blocklist"
    assert reasons.loc["Cells_Copy", "reason"].startswith("correlation 1.0000 with Cells_F0")
    assert list(reasons.index[reasons["kept"]]) == [f"Cells_F{number}" for number in range(10)]
    assert any("Cells_Constant" in note for note in result.notes)


def test_the_record_says_scope_parameters_inputs_and_versions(screen: Path, result: ProfileResult) -> None:
    info = json.loads((result.folder / "profile.json").read_text())
    assert [step["name"] for step in info["steps"]] == [
        "aggregate", "annotate", "normalise", "select features", "sphere", "consensus",
    ]  # fmt: skip
    scopes = {step["name"]: step["scope"] for step in info["steps"]}
    assert scopes["normalise"] == "each Plate"
    assert scopes["sphere"] == "controls of all plates together"
    assert scopes["select features"] == "all wells of all plates together"
    steps = {step["name"]: step for step in info["steps"]}
    assert steps["aggregate"]["rows"] == [864, 72]
    assert steps["select features"]["features"] == [13, 10]
    assert steps["consensus"]["rows"] == [72, 17]
    assert [group["references"] for group in steps["normalise"]["parameters"]["groups"]] == [8, 8, 8]
    assert steps["sphere"]["parameters"]["learnt"][0]["controls"] == 24
    assert steps["sphere"]["parameters"]["regularization"] == 0.1
    hashes = {Path(one["path"]).name: one["sha256"] for one in info["inputs"]}
    assert hashes["layout.csv"] == hashlib.sha256((screen / "layout.csv").read_bytes()).hexdigest()
    assert set(hashes) == {"one.csv", "two.parquet", "three.csv.gz", "layout.csv"}
    assert {"numpy", "pandas", "python"} <= set(info["versions"])
    assert info["settings"]["controls"] == CONTROLS
    assert info["nearest_neighbour_of_same_plate"]["before"] == 1.0
    assert info["nearest_neighbour_of_same_plate"]["after"] < 0.7
    assert {path.name for path in result.files} == {path.name for path in result.folder.iterdir()} - {".lock"}


def test_the_saved_sphering_is_the_one_that_was_used(result: ProfileResult) -> None:
    again = Sphering.load(result.folder / "sphering.npz").apply(result.tables["Well_selected"])
    pd.testing.assert_frame_equal(again, result.wells)


@pytest.mark.filterwarnings("ignore")  # pycytominer's own
def test_pandas_and_pycytominer_read_the_files(result: ProfileResult) -> None:
    from pycytominer import consensus, feature_select, normalize

    for name, table in result.tables.items():
        parquet = pd.read_parquet(result.folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
        csv = pd.read_csv(result.folder / f"{name}.csv")
        numbers = parquet.select_dtypes("number").columns
        pd.testing.assert_frame_equal(parquet[numbers], csv[numbers], check_dtype=False, rtol=1e-12)
    theirs = consensus(
        str(result.folder / "Well_sphered.parquet"),
        replicate_columns=["Metadata_Compound", "Metadata_Dose"],
        operation="mean",
    )
    features = [name for name in theirs if name.startswith("Cells_")]
    np.testing.assert_allclose(theirs[features], result.tables["Treatment"][features], atol=1e-9)
    wells = str(result.folder / "Well.parquet")
    assert len(normalize(wells, method="standardize")) == 72
    assert len(feature_select(wells, operation="correlation_threshold").columns) < len(result.tables["Well"].columns)


def test_threads_and_memory_do_not_change_a_bit(screen: Path, result: ProfileResult, tmp_path: Path) -> None:
    for threads, memory in ((1, 1), (4, 2**30)):
        other = profile(
            sources(screen)[::-1],
            tmp_path / str(threads),
            layout=screen / "layout.csv",
            controls=CONTROLS,
            threads=threads,
            memory=memory,
            picture=False,
        )
        for name, table in result.tables.items():
            pd.testing.assert_frame_equal(other.tables[name], table, check_exact=True)
        assert not (tmp_path / str(threads) / "profile.png").exists()


def test_a_real_run(tmp_path: Path) -> None:
    plate = simulate_plate(tmp_path, wells=12, size=(256, 256), seed=1)
    run(plate.images, tmp_path / "out", device="cpu")
    asked = ["--layout", str(plate.layout), "--control-column", "Control", "--negative", "-1", "--csv"]
    answer = CliRunner().invoke(app, [str(tmp_path / "out"), *asked], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    folder = tmp_path / "out" / "profile"
    info = json.loads((folder / "profile.json").read_text())
    assert info["controls"] == int((pd.read_csv(plate.layout)["Control"] == -1).sum())
    assert info["inputs"][0]["model"]["name"] == "nuclei"
    assert info["inputs"][0]["digest"]
    assert "standardise, controls" in answer.output
    assert str(folder / "Treatment.parquet") in answer.output
    wells = pd.read_parquet(folder / "Well_normalised.parquet")
    moving = wells["Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"]
    assert moving[wells["Metadata_Control"] == -1].mean() == pytest.approx(0, abs=1e-9)
    assert moving.max() > 3
    assert (folder / "profile.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="holds what is read"):
        profile(tmp_path / "out", tmp_path / "out")


def test_without_controls_all_wells_are_the_reference_and_nothing_is_sphered(screen: Path, tmp_path: Path) -> None:
    result = profile(sources(screen), tmp_path, picture=False)
    assert set(result.tables) == {"Site", "Well", "Well_normalised", "Well_selected"}
    assert any("no controls were named" in note for note in result.notes)
    assert any("sphering: left out" in note for note in result.notes)
    assert any("consensus: left out" in note for note in result.notes)
    means = result.tables["Well_normalised"].groupby("Metadata_Plate")["Cells_F0"].mean()
    np.testing.assert_allclose(means, 0, atol=1e-12)


def test_files_of_an_earlier_call_do_not_stay(screen: Path, tmp_path: Path) -> None:
    options = {"layout": screen / "layout.csv", "controls": CONTROLS}
    profile(sources(screen), tmp_path, csv=True, **options)
    (tmp_path / "mine.txt").write_text("not of cellinfer")
    profile(sources(screen), tmp_path, picture=False, sphering="none", consensus="none", **options)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {
        "Site.parquet", "Well.parquet", "Well_normalised.parquet", "Well_selected.parquet", "features.csv",
        "profile.json", "mine.txt",
    }  # fmt: skip


def test_wells_that_failed_quality_control_are_left_out(screen: Path, tmp_path: Path) -> None:
    judged = pd.DataFrame({"Metadata_Plate": "P1", "Metadata_Well": WELLS, "Metadata_QC_Pass": True})
    judged["Metadata_QC_Reasons"] = ""
    judged.loc[[0, 20], ["Metadata_QC_Pass", "Metadata_QC_Reasons"]] = [False, "out of focus"]
    for name in ("qc.csv", "qc.parquet"):
        path = tmp_path / name
        judged.to_csv(path, index=False) if name.endswith("csv") else judged.to_parquet(path)
        result = profile(
            sources(screen), tmp_path / "out", layout=screen / "layout.csv", controls=CONTROLS, qc=path, picture=False
        )
        assert len(result.wells) == 70
        assert result.info["controls"] == 23
        assert result.info["left_out_wells"][0] == {
            "plate": "P1", "well": "A01", "reason": "quality control: out of focus",
        }  # fmt: skip
        assert any("48 wells were not judged" in note for note in result.notes)
        assert any("2 wells failed: P1 A01, P1 B09" in note for note in result.notes)
    (tmp_path / "qc").mkdir()
    judged.to_parquet(tmp_path / "qc" / "Well.parquet")
    assert len(profile(sources(screen), tmp_path / "out", qc=tmp_path / "qc", picture=False).wells) == 70
    with pytest.raises(InputError, match="no column 'Metadata_QC_Pass'"):
        profile(sources(screen), tmp_path / "out", qc=screen / "one.csv")
    judged.assign(Metadata_Plate="other").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="has none of the wells"):
        profile(sources(screen), tmp_path / "out", qc=tmp_path / "other.csv")
    judged.assign(Metadata_QC_Pass="maybe").to_csv(tmp_path / "maybe.csv", index=False)
    with pytest.raises(InputError, match="true or false, and is 'maybe'"):
        profile(sources(screen), tmp_path / "out", qc=tmp_path / "maybe.csv")


def test_wells_without_values_and_features_with_gaps(screen: Path, tmp_path: Path) -> None:
    table = pd.concat([make_cells(f"P{number}", number) for number in (1, 2, 3)], ignore_index=True)
    features = [name for name in table if name.startswith(("Cells_", "Nuclei_"))]
    in_b12 = (table["Metadata_Plate"] == "P2") & (table["Metadata_Well"] == "B12")
    table.loc[in_b12, features] = np.nan
    in_b11 = (table["Metadata_Plate"] == "P2") & (table["Metadata_Well"] == "B11")
    table.loc[in_b11, "Cells_F4"] = np.nan
    table.to_parquet(tmp_path / "cells.parquet")
    result = profile(
        tmp_path / "cells.parquet", tmp_path / "out", layout=screen / "layout.csv", controls=CONTROLS, picture=False
    )
    assert len(result.wells) == 71
    assert result.info["left_out_wells"] == [
        {"plate": "P2", "well": "B12", "reason": "100% of the features are missing"}
    ]
    row = result.features.set_index("feature").loc["Cells_F4"]
    assert (row["operation"], row["kept"]) == ("sphering", False)
    assert "Cells_F4" in result.tables["Well_selected"]
    assert np.isfinite(result.wells.filter(like="Cells_F").to_numpy()).all()


def test_every_step_is_there_by_name() -> None:
    import cellinfer.profiling as steps

    assert all(callable(getattr(steps, name)) for name in steps.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        steps.nothing  # noqa: B018


def test_batches(screen: Path, tmp_path: Path) -> None:
    layout = pd.concat(
        [
            pd.read_csv(screen / "layout.csv").assign(Plate=plate, Batch="first" if plate == "P1" else "second")
            for plate in ("P1", "P2", "P3")
        ]
    )
    layout.to_csv(tmp_path / "layout.csv", index=False)
    result = profile(
        sources(screen),
        tmp_path / "out",
        layout=tmp_path / "layout.csv",
        controls=CONTROLS,
        batch="Batch",
        scope="batch",
        sphering_scope="batch",
        picture=False,
    )
    scopes = {step.name: step.scope for step in result.steps}
    assert scopes["normalise"] == "each Batch"
    assert scopes["sphere"] == "controls of each Batch"
    assert (tmp_path / "out" / "sphering_1.npz").exists()
    assert (tmp_path / "out" / "sphering_2.npz").exists()
    for _, rows in result.wells[result.wells["Metadata_Compound"] == "DMSO"].groupby("Metadata_Batch"):
        np.testing.assert_allclose(rows.filter(like="Cells_F").mean(), 0, atol=1e-9)


def test_few_controls_share_one_spread_and_harmony_comes_after_sphering(screen: Path, tmp_path: Path) -> None:
    options = {"layout": screen / "layout.csv", "controls": CONTROLS, "picture": False}
    result = profile(sources(screen), tmp_path, harmony="plate", **options)
    steps = {step.name: step for step in result.steps}
    assert steps["normalise"].parameters["spread"] == "pooled"
    assert any("fewer than 32 controls" in note for note in steps["normalise"].notes)
    assert list(steps)[-2:] == ["harmonise", "consensus"]
    assert "3 batches" in steps["harmonise"].notes[0]
    moved, still = result.tables["Well_harmonised"], result.tables["Well_sphered"]
    assert list(moved.columns) == list(still.columns)
    assert not np.allclose(moved.filter(like="Cells_"), still.filter(like="Cells_"))
    assert result.wells is moved
    assert (tmp_path / "Well_harmonised.parquet").exists()
    own = profile(sources(screen), tmp_path, spread="own", **options)
    assert own.steps[2].parameters["spread"] == "own"
    assert not (tmp_path / "Well_harmonised.parquet").exists()


def test_values_far_out_are_held_and_counted(screen: Path, tmp_path: Path) -> None:
    tables = pd.concat([make_cells(plate, seed) for plate, seed in (("P1", 1), ("P2", 2))])
    wild = (tables["Metadata_Plate"] == "P1") & (tables["Metadata_Well"] == "B07")
    tables.loc[wild, "Cells_F3"] += 1e4
    tables.to_parquet(tmp_path / "cells.parquet")
    options = {"layout": screen / "layout.csv", "controls": CONTROLS, "picture": False}
    result = profile(tmp_path / "cells.parquet", tmp_path / "out", **options)
    held = result.tables["Well_normalised"].set_index(["Metadata_Plate", "Metadata_Well"])["Cells_F3"]
    assert held["P1", "B07"] == 20
    assert (held.drop(("P1", "B07")).abs() < 20).all()
    assert any("1 values" in note and "--clip" in note for note in result.steps[2].notes)
    free = profile(tmp_path / "cells.parquet", tmp_path / "out", clip=0, **options).tables["Well_normalised"]
    assert free["Cells_F3"].max() > 1000


def test_nested_regularisation_is_reported_beside_the_fixed_one(screen: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    result = profile(
        sources(screen),
        tmp_path,
        layout=screen / "layout.csv",
        controls=CONTROLS,
        treatment="Compound",
        regularization="nested",
        picture=False,
        progress=lambda name, done, total: seen.add(name),
    )
    found = result.info["regularization"]
    assert found["fixed"] == 0.1
    assert found["folds"] == "plates"
    assert len(found["tried"]) == 3 * 7
    assert result.info["steps"][4]["parameters"]["regularization"] == found["chosen"]
    assert any("nested" in note and "fixed" in note for note in result.notes)
    assert {"cells", "regularisation", "sphering", "normalisation", "feature selection"} <= seen


def test_other_methods(screen: Path, tmp_path: Path) -> None:
    base = ProfileSettings(layout=screen / "layout.csv", controls=CONTROLS, picture=False)
    for options in (
        {"normalisation": "robust-mad", "sphering": "ZCA-cor", "consensus": "modz"},
        {"normalisation": "none", "sphering": "PCA", "consensus": "median", "selection": (*DEFAULT[:-1], "outliers")},
        {"selection": ("missing", "noise"), "reference": "all", "scope": "all", "sphering": "PCA-cor"},
    ):
        result = profile(sources(screen), tmp_path, base, **options)
        assert np.isfinite(result.tables["Treatment"].filter(regex="^(Cells_F|PC)").to_numpy()).all()
        assert len(result.tables["Treatment"]) == 17


def test_mistakes(screen: Path, tmp_path: Path) -> None:
    files, layout, out = sources(screen), screen / "layout.csv", tmp_path / "out"
    with pytest.raises(InputError, match="for controls holds for no row: Metadata_Compound holds text"):
        profile(files, out, layout=layout, controls="Metadata_Compound == 'water'")
    with pytest.raises(InputError, match=r"No well has water in Compound .*it has DMSO, drug0"):
        profile(files, out, layout=layout, control_column="Compound", negative="water")
    with pytest.raises(InputError, match=r"two or more reference rows.*Metadata_Plate P1 \(1\)"):
        profile(files, out, layout=layout, controls="Metadata_Well == 'A01'")
    one_plate = f"{CONTROLS} and Metadata_Plate == 'P1'"
    with pytest.raises(InputError, match=r"Metadata_Plate P2 \(0\), Metadata_Plate P3 \(0\)"):
        profile(files, out, layout=layout, controls=one_plate)
    with pytest.raises(InputError, match="column 'Nothing'"):
        profile(files, out, layout=layout, treatment="Nothing")
    with pytest.raises(InputError, match="both the column"):
        profile(files, out, layout=layout, negative="-1")
    with pytest.raises(InputError, match="not by both"):
        profile(files, out, layout=layout, controls=CONTROLS, control_column="Compound", negative="DMSO")
    with pytest.raises(InputError, match="needs to know them"):
        profile(files, out, reference="controls")
    with pytest.raises(InputError, match="says which batch"):
        profile(files, out, scope="batch")
    with pytest.raises(InputError, match="no setting 'lambda'"):
        profile(files, out, **{"lambda": 1})
    with pytest.raises(InputError, match="no sphering 'MCA'"):
        profile(files, out, sphering="MCA")
    with pytest.raises(InputError, match="a number or 'nested'"):
        profile(files, out, regularization="best")
    with pytest.raises(InputError, match="Say where the results go"):
        profile(files)
    with pytest.raises(InputError, match="more than once"):
        profile([files[0], files[0]], out)
    with pytest.raises(InputError, match="holds what is read"):
        profile(files, screen)
    wells = make_cells("P1", 1).groupby(["Metadata_Plate", "Metadata_Well"], as_index=False).mean(numeric_only=True)
    wells.drop(columns=["Metadata_Well", "ObjectNumber", "Metadata_Site"]).to_csv(
        tmp_path / "no_wells.csv", index=False
    )
    with pytest.raises(InputError, match="has no Metadata_Well"):
        profile(tmp_path / "no_wells.csv", out)
    assert not out.exists()


def test_plates_with_other_features_and_plates_without_treatments(screen: Path, tmp_path: Path) -> None:
    make_cells("P4", 4).drop(columns="Cells_F7").assign(Cells_New=1.0).to_csv(tmp_path / "four.csv", index=False)
    layout = pd.concat(
        [
            pd.read_csv(screen / "layout.csv").assign(Plate="P1"),
            pd.DataFrame({"Well": WELLS, "Compound": "DMSO", "Dose": 0, "Plate": "P4"}),
        ]
    )
    layout.to_csv(tmp_path / "layout.csv", index=False)
    both = [screen / "one.csv", tmp_path / "four.csv"]
    options = {"layout": tmp_path / "layout.csv", "controls": CONTROLS, "picture": False}
    result = profile(both, tmp_path / "out", **options)
    assert "Cells_F7" not in result.tables["Well"]
    assert any("2 of 14 features are left out" in note for note in result.notes)
    assert "plates with nothing but controls: P4" in result.notes
    with pytest.raises(InputError, match="not in every table"):
        profile(both, tmp_path / "out", features="refuse", **options)


def test_the_command_reports_as_json_and_refuses_in_one_sentence(screen: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sources(screen)]
    asked = ["--layout", str(screen / "layout.csv"), "--controls", CONTROLS, "-o", str(tmp_path), "--no-picture"]
    answer = CliRunner().invoke(app, [*files, *asked, "--json", "--normalisation", "mad_robustize", "--select", "none"])
    assert answer.exit_code == 0, answer.output
    info = json.loads(answer.stdout[answer.stdout.index("{") :])
    assert info["settings"]["normalisation"] == "robust-mad"
    assert info["settings"]["selection"] == []
    refused = CliRunner().invoke(app, [*files, *asked, "--regularization", "much"])
    assert isinstance(refused.exception, InputError)


def test_what_is_read_is_never_written_over(screen: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    layout = maps / "Treatment.csv"
    layout.write_text(LAYOUT)
    with pytest.raises(InputError, match="holds what is read"):
        profile(sources(screen), maps, layout=layout, controls=CONTROLS, picture=False)
    quality = tmp_path / "quality"
    quality.mkdir()
    (quality / "qc.json").write_text("{}")
    with pytest.raises(InputError, match="holds what is read"):
        profile(sources(screen), quality, layout=layout, controls=CONTROLS, picture=False)
    assert layout.read_text() == LAYOUT


def test_only_files_of_an_earlier_profile_go(screen: Path, tmp_path: Path) -> None:
    mine = {"Site.csv", "Well_sphered.csv", "sphering_mine.npz"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    options = {"layout": screen / "layout.csv", "controls": CONTROLS, "picture": False}
    profile(sources(screen), tmp_path, **options)
    profile(sources(screen), tmp_path, **options, sphering="none")
    assert mine == {name for name in mine if (tmp_path / name).read_text() == "mine"}
    assert not (tmp_path / "Well_sphered.parquet").exists()
    assert not (tmp_path / "sphering.npz").exists()


def test_a_result_that_is_not_whole_does_not_look_done(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"layout": screen / "layout.csv", "controls": CONTROLS, "picture": False}
    profile(sources(screen), tmp_path, **options)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sphering, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        profile(sources(screen), tmp_path, **options, consensus="none")
    assert json.loads((tmp_path / "profile.json").read_text())["finished"] is None
    monkeypatch.undo()
    profile(sources(screen), tmp_path, **options, consensus="none")
    assert json.loads((tmp_path / "profile.json").read_text())["finished"]
    assert not (tmp_path / "Treatment.parquet").exists()


def noise(plates: int = 4, controls: int = 8, features: int = 200) -> pd.DataFrame:
    """Wells on which nothing has an effect; the replicates of a treatment are on one plate."""
    random = np.random.default_rng(0)
    rows = [
        (
            f"P{plate}",
            f"{'ABCD'[place // 12]}{place % 12 + 1:02d}",
            "DMSO" if place < controls else f"t{plate}{place % 8}",
        )
        for plate in range(plates)
        for place in range(controls + 32)
    ]
    values = pd.DataFrame(random.normal(size=(len(rows), features))).add_prefix("Cells_F")
    return pd.concat(
        [pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Compound"]), values], axis=1
    )


def test_controls_that_sphering_was_learnt_from_are_not_all_that_is_told_of_plates(tmp_path: Path) -> None:
    """On noise sphering makes controls look free of their plate, and treated wells of it more alike than before."""
    noise().to_parquet(tmp_path / "wells.parquet")
    made = profile(tmp_path / "wells.parquet", tmp_path / "out", controls=CONTROLS, picture=False)
    same = made.info["nearest_neighbour_of_same_plate"]
    assert same["after"] < same["chance"]
    assert same["treated_after"] > 2 * same["treated_chance"]
    assert same["treated_chance"] == pytest.approx(28 / 124)
    (said,) = [note for note in made.info["notes"] if note.startswith("plates:")]
    assert "centred on its controls, 8 at the fewest" in said
    assert "--reference all" in said
    mended = profile(
        tmp_path / "wells.parquet", tmp_path / "out", controls=CONTROLS, reference="all", picture=False
    ).info
    assert mended["nearest_neighbour_of_same_plate"]["treated_after"] < 1.5 * same["treated_chance"]
    assert not [note for note in mended["notes"] if note.startswith("plates:")]


def test_a_well_under_two_names_and_a_table_given_twice_are_refused(tmp_path: Path) -> None:
    table = noise(plates=1)
    table.to_csv(tmp_path / "one.csv", index=False)
    table.to_csv(tmp_path / "again.csv", index=False)
    with pytest.raises(InputError, match="P0 A01 more than once"):
        profile([tmp_path / "one.csv", tmp_path / "again.csv"], tmp_path / "out", controls=CONTROLS)
    table.loc[1, "Metadata_Well"] = "a1"
    table.to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(InputError, match="more than once"):
        profile(tmp_path / "two.csv", tmp_path / "out", controls=CONTROLS)


def test_plates_named_in_any_script_are_drawn_without_a_warning(tmp_path: Path) -> None:
    noise(plates=2, features=12).replace({"P0": "\u65e5\u672c"}).to_parquet(tmp_path / "wells.parquet")
    assert (profile(tmp_path / "wells.parquet", tmp_path / "out", controls=CONTROLS).folder / "profile.png").is_file()


def test_tables_without_cells_are_refused(tmp_path: Path) -> None:
    make_cells("P1", 1).iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="has no cells"):
        profile(tmp_path / "none.parquet", tmp_path / "out")
