"""Quality control: planted faults are found with their reason, plates without faults are left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from cellinfer.engine import run
from cellinfer.errors import InputError
from cellinfer.profiling.quality import QualityControl, judge_quality, quality_control
from cellinfer.profiling.quality._outliers import outlyingness
from cellinfer.profiling.quality._roles import Roles
from cellinfer.profiling.quality._tables import QualityTables
from cellinfer.simulate import SimulatedPlate, simulate_plate
from numpy.typing import NDArray

Plane = NDArray[np.uint16]
CONTROLS = {"control_column": "Control", "negative": -1, "positive": 1}
SEVERITY, REASONS = "Metadata_QC_Severity", "Metadata_QC_Reasons"


def noisy(plane: NDArray[np.float64], seed: int = 0) -> Plane:
    """Photograph what would be there without noise."""
    noise = np.random.default_rng(seed).normal(0, 1, plane.shape) * np.sqrt(np.maximum(plane - 100, 9))
    return np.clip(np.rint(plane + noise), 0, 65535).astype(np.uint16)


def defocused(plane: Plane) -> Plane:
    return noisy(cv2.GaussianBlur(plane.astype(np.float64), (0, 0), 3))


def clipped(plane: Plane) -> Plane:
    return np.minimum(plane, np.percentile(plane, 96).astype(np.uint16))


def black(plane: Plane) -> Plane:
    return np.zeros_like(plane)


def nothing(plane: Plane) -> Plane:
    return noisy(np.full(plane.shape, 125.0))


def half_empty(plane: Plane) -> Plane:
    """Half the cells: where they were there is background."""
    plane = plane.copy()
    plane[:, plane.shape[1] // 2 :] = noisy(np.full(plane[:, plane.shape[1] // 2 :].shape, 125.0))
    return plane


def doubled(plane: Plane) -> Plane:
    return noisy(100 + 2.0 * (plane.astype(np.float64) - 100))


def specked(plane: Plane) -> Plane:
    """Precipitate: specks ten times as bright as the brightest nucleus, and crumbs of the size of small nuclei."""
    plane = plane.astype(np.float64)
    random = np.random.default_rng(1)
    for size, brightness, count in ((2, 16000, 12), (5, 2500, 60)):
        for y, x in random.integers(10, min(plane.shape) - 10, (count, 2)):
            cv2.circle(plane, (int(x), int(y)), size, float(brightness), -1)
    return noisy(cv2.GaussianBlur(plane, (0, 0), 1))


FAULTS: dict[str, tuple[Callable[[Plane], Plane], tuple[str, ...]]] = {
    "B04": (defocused, ("DNA", "GFP")),
    "C05": (clipped, ("GFP",)),
    "A06": (black, ("DNA", "GFP")),
    "B07": (nothing, ("DNA", "GFP")),
    "C08": (specked, ("DNA",)),
    "B02": (half_empty, ("DNA", "GFP")),
    "C03": (half_empty, ("DNA", "GFP")),
    "B09": (doubled, ("DNA",)),
}
BROKEN = "A10"


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlate:
    return simulate_plate(tmp_path_factory.mktemp("qc") / "plate", wells=36, size=(512, 512), seed=11)


@pytest.fixture(scope="module")
def clean(plate: SimulatedPlate) -> Path:
    """The run of the plate as it is."""
    folder = plate.folder / "run"
    assert run(plate.images, folder, device="cpu", workers=1).complete
    return folder


@pytest.fixture(scope="module")
def faulty(plate: SimulatedPlate, clean: Path) -> Path:
    """The run of the plate after some of its images were spoilt; fields that are as they were are not done again."""
    folder = plate.folder / "faulty"
    shutil.copytree(clean, folder)
    for well, (spoil, channels) in FAULTS.items():
        for channel in channels:
            path = plate.images / f"{well}_s1_{channel}.tif"
            tifffile.imwrite(path, spoil(tifffile.imread(path)))
    (plate.images / f"{BROKEN}_s1_GFP.tif").write_bytes(b"II*\0broken")
    result = run(plate.images, folder, device="cpu", workers=1)
    assert result.reused == 36 - len(FAULTS) - 1
    assert len(result.failed) == 1
    return folder


@pytest.fixture(scope="module")
def judged(faulty: Path, plate: SimulatedPlate) -> QualityControl:
    return quality_control(faulty, layout=plate.layout, **CONTROLS)


def flagged(result: QualityControl) -> dict[str, tuple[str, str]]:
    table = result.wells[result.wells[SEVERITY] != "ok"]
    return dict(zip(table["Metadata_Well"], zip(table[SEVERITY], table[REASONS], strict=True), strict=True))


def test_a_plate_without_faults_is_left_alone(clean: Path, plate: SimulatedPlate, tmp_path: Path) -> None:
    """Its strongest doses are no faults."""
    for options in ({}, {"layout": plate.layout, **CONTROLS}):
        result = quality_control(clean, out=tmp_path / str(len(options)), **options)
        assert flagged(result) == {}
        assert result.fields["Metadata_QC_Pass"].all()
        assert result.unjudged == ()


@pytest.mark.parametrize(
    ("well", "severity", "reason"),
    [
        ("B04", "fail", "out of focus"),
        ("C05", "fail", "saturated pixels of GFP"),
        ("A06", "fail", "image of DNA is constant at 0"),
        ("B07", "fail", "no cells"),
        ("C08", "warn", "bright specks"),
        ("C03", "warn", "few cells"),
        ("B09", "warn", "mean intensity of cells above the background in DNA"),
        ("B02", "fail", "few cells (in a negative control)"),
        (BROKEN, "fail", "analysis failed"),
    ],
)
def test_planted_faults_are_found(judged: QualityControl, well: str, severity: str, reason: str) -> None:
    found = flagged(judged)
    assert found[well][0] == severity, found[well]
    assert reason in found[well][1], found[well]


def test_nothing_else_is_flagged(judged: QualityControl) -> None:
    assert set(flagged(judged)) == {*FAULTS, BROKEN}


def test_reasons_give_value_reference_and_limit(judged: QualityControl) -> None:
    reason = flagged(judged)["B04"][1].split("; ")[0]
    words = r"focus \(slope of log power\) of DNA -2\.\d+, .* -1\.\d+ ± 0\.0\d+, limit -2\.\d+: out of focus"
    pd.testing.assert_series_equal(pd.Series([reason]).str.fullmatch(words), pd.Series([True]), check_dtype=False)


def test_what_is_warned_of_passes_unless_strict(judged: QualityControl, faulty: Path, tmp_path: Path) -> None:
    by_severity = judged.wells.groupby(SEVERITY)["Metadata_QC_Pass"].agg(["all", "any"])
    assert by_severity.loc[["ok", "warn"]].all(axis=None)
    assert not by_severity.loc["fail"].any()
    strict = quality_control(faulty, strict=True, out=tmp_path)
    assert (strict.wells["Metadata_QC_Pass"] == (strict.wells[SEVERITY] == "ok")).all()


def test_wells_of_one_treatment_tell_a_fault_from_an_effect(
    faulty: Path, plate: SimulatedPlate, tmp_path: Path
) -> None:
    """Half the cells in one well of three, and a gain that is doubled in one of three."""
    treatment = ["Compound", "Dose"]
    result = quality_control(faulty, layout=plate.layout, **CONTROLS, treatment_columns=treatment, out=tmp_path)
    for well in ("C03", "B09", "C08"):
        severity, reason = flagged(result)[well]
        assert severity == "fail"
        assert "but not in 2 of 2 other wells of its treatment" in reason


def test_a_failed_control_is_named(judged: QualityControl) -> None:
    assert any("1 of 6 negative control wells fail (B02)" in line for line in judged.summary)
    assert any("all 6 positive control wells pass" in line for line in judged.summary)


def test_files(judged: QualityControl, faulty: Path) -> None:
    folder = faulty / "qc"
    assert {path.name for path in folder.iterdir()} == {path.name for path in judged.files}
    for name, keys in (("Well", ["Plate", "Well", "Time"]), ("Field", ["Plate", "Well", "Site", "Time"])):
        table, csv = pd.read_parquet(folder / f"{name}.parquet"), pd.read_csv(folder / f"{name}.csv")
        assert list(table) == list(csv)
        assert list(table)[: len(keys) + 4] == [
            *(f"Metadata_{key}" for key in keys),
            *(f"Metadata_QC_{column}" for column in ("Pass", "Severity", "Reasons", "Control")),
        ]
        assert all(column.startswith("Metadata_") for column in table)
        assert len(table) == 36
        assert list(table["Metadata_Well"]) == sorted(table["Metadata_Well"])
        assert table["Metadata_QC_Pass"].dtype == bool
        np.testing.assert_array_equal(csv["Metadata_QC_Pass"], table["Metadata_QC_Pass"])
        np.testing.assert_array_equal(csv[REASONS].fillna(""), table[REASONS])
    said = json.loads((folder / "qc.json").read_text())
    assert said["options"]["deviations"] == 4.0
    assert set(said["provenance"]["runs"][0]["sha256"]) == {"Image.parquet", "Well.parquet"}
    assert {row["Metadata_Well"] for row in said["flagged"]} == {*FAULTS, BROKEN}
    picture = cv2.imread(str(folder / "qc.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 800


def test_images_that_are_gone_cost_the_thumbnails_only(faulty: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(faulty, folder, ignore=shutil.ignore_patterns("labels", "qc"))
    info = json.loads((folder / "run.json").read_text())
    info["input"]["folder"] = str(tmp_path / "nowhere")
    (folder / "run.json").write_text(json.dumps(info))
    result = quality_control(folder)
    assert any("the picture shows no fields" in note for note in result.notes)
    assert (folder / "qc" / "qc.png").is_file()


# Tables made up, for what no pipeline is needed to show


def made_up(
    wells: int = 96, sites: int = 1, seed: int = 0, name: str = "P1", columns: int = 12, features: int = 40
) -> QualityTables:
    """Tables of a plate without faults: figures scatter as on real plates, profiles have five factors."""
    random = np.random.default_rng(seed)
    names = [f"{'ABCDEFGHIJKLMNOP'[number // columns]}{number % columns + 1:02d}" for number in range(wells)]
    keys = pd.DataFrame({"Metadata_Plate": name, "Metadata_Well": names, "Metadata_Time": 1})
    fields = keys.loc[keys.index.repeat(sites)].reset_index(drop=True)
    fields["Metadata_Site"] = np.tile(np.arange(sites) + 1, wells)
    n = len(fields)
    background = random.normal(120, 2, n)
    fields["Image_Count_Cells"] = random.poisson(random.gamma(40, 60 / 40, wells).repeat(sites))
    fields["Image_ImageQuality_PowerLogLogSlope_DNA"] = random.normal(-2, 0.05, n)
    fields["Image_ImageQuality_PercentMaximal_DNA"] = random.exponential(0.01, n)
    fields["Image_Intensity_Background_DNA"] = background
    fields["Image_Intensity_MaxIntensity_DNA"] = background + random.lognormal(7, 0.2, n)
    fields["Image_Status"], fields["Image_Reason"], fields["Image_QC_Flags"] = "ok", "", ""
    loadings = random.normal(size=(5, features))
    factors = random.standard_t(6, size=(wells, 5))
    profile = factors @ loadings + random.normal(size=(wells, features))
    profiles = keys.assign(Cells_Intensity_MeanIntensity_DNA=120 + random.lognormal(5, 0.08, wells))
    profiles = profiles.join(pd.DataFrame(profile, columns=[f"Cells_AreaShape_F{i}" for i in range(features)]))
    return QualityTables(fields, profiles)


@pytest.mark.parametrize(("wells", "sites", "columns"), [(6, 1, 3), (6, 9, 3), (24, 4, 6), (96, 1, 12), (384, 1, 24)])
def test_few_wells_of_plates_without_faults_are_flagged(wells: int, sites: int, columns: int) -> None:
    plates = max(3, 150 // wells)
    results = [judge_quality(made_up(wells, sites, seed, columns=columns)) for seed in range(plates)]
    failed = np.mean([(result.wells[SEVERITY] == "fail").mean() for result in results])
    warned = np.mean([(result.wells[SEVERITY] == "warn").mean() for result in results])
    fields = np.mean([(result.fields[SEVERITY] == "fail").mean() for result in results])
    assert failed <= 0.002
    assert fields <= 0.002
    assert warned <= (0.03 if wells < 8 else 0.01)


@pytest.mark.parametrize("features", [5, 40, 400])
@pytest.mark.parametrize("wells", [8, 24, 96])
def test_an_outlying_row_is_told_among_few_rows_and_many_columns(wells: int, features: int) -> None:
    """It is far off in directions that the others do not vary in; alone it does not make itself ordinary."""
    tables = made_up(wells, features=features, seed=5)
    assert tables.wells is not None
    values = tables.wells.filter(like="AreaShape").to_numpy(copy=True)
    before = outlyingness(values)
    values[2] += 15 * np.random.default_rng(0).normal(size=features)
    distances = outlyingness(values)
    assert distances.argmax() == 2
    assert distances[2] > 2 * np.median(distances)
    assert before[2] < 2 * np.median(before)


def test_outlyingness_does_not_depend_on_units_and_places() -> None:
    tables = made_up(30, seed=3)
    assert tables.wells is not None
    values = tables.wells.filter(like="AreaShape").to_numpy()
    scaled = values * np.geomspace(1e-6, 1e6, values.shape[1]) + 7
    np.testing.assert_allclose(outlyingness(scaled), outlyingness(values), rtol=1e-6)


def test_outlyingness_of_degenerate_tables() -> None:
    assert np.isnan(outlyingness(np.zeros((5, 3)))).all()
    assert np.isnan(outlyingness(np.ones((20, 3)))).all()
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[:, 1] = 2.0
    values[4, [0, 2]] = np.nan
    distances = outlyingness(values)
    assert np.isnan(distances[4])
    assert np.isfinite(np.delete(distances, 4)).all()


def test_a_toxic_treatment_is_warned_of_and_not_failed() -> None:
    """All wells of one compound have few cells: that is what it does."""
    tables = made_up(96)
    tables.fields.loc[24:27, "Image_Count_Cells"] = [9, 12, 8, 10]
    result = judge_quality(tables)
    found = flagged(result)
    assert set(found) == {"C01", "C02", "C03", "C04"}
    assert {severity for severity, _ in found.values()} == {"warn"}


def test_replicates_that_share_a_count_do_not_fail(tmp_path: Path) -> None:
    tables = made_up(96)
    tables.fields.loc[24:27, "Image_Count_Cells"] = [9, 12, 8, 10]
    tables.fields.loc[40, "Image_Count_Cells"] = 11
    wells = tables.fields["Metadata_Well"]
    compound = ["DMSO" if n < 12 else "toxin" if 24 <= n < 28 else f"c{n // 4}" for n in range(96)]
    layout = tmp_path / "layout.csv"
    pd.DataFrame({"Well": wells, "Compound": compound}).to_csv(layout, index=False)
    roles = Roles(layout, controls="Metadata_Compound == 'DMSO'", treatment_columns=("Compound",))
    result = judge_quality(tables, roles)
    found = flagged(result)
    assert {well: severity for well, (severity, _) in found.items()} == {
        **dict.fromkeys(("C01", "C02", "C03", "C04"), "warn"),
        "D05": "fail",
    }
    assert "as in 3 of 3 other wells of its treatment" in found["C01"][1]
    assert (result.wells["Metadata_QC_Control"] == "negative").sum() == 12


def test_blank_wells_are_no_reference() -> None:
    """A third of the plate was never seeded: the rest is as it would be alone."""
    tables = made_up(96)
    tables.fields.loc[:31, "Image_Count_Cells"] = 0
    found = flagged(judge_quality(tables))
    assert len(found) == 32
    assert all("no cells in any field" in reason for _, reason in found.values())


def test_a_plate_of_one_well_says_that_nothing_can_be_compared() -> None:
    tables = made_up(1)
    result = judge_quality(tables)
    assert result.unjudged == ("P1",)
    assert any("could not be judged" in note for note in result.notes)
    assert result.wells["Metadata_QC_Pass"].all()
    tables.fields.loc[0, "Image_QC_Flags"] = "DNA: constant at 0"
    assert "image of DNA is constant at 0" in flagged(judge_quality(tables))["A01"][1]


def test_small_plates_are_compared_with_each_other() -> None:
    parts = [made_up(4, seed=seed, name=f"P{seed}", columns=2) for seed in range(4)]
    fields = pd.concat([part.fields for part in parts], ignore_index=True)
    fields.loc[9, "Image_ImageQuality_PowerLogLogSlope_DNA"] = -3.0
    result = judge_quality(QualityTables(fields))
    assert result.unjudged == ()
    assert next(iter(flagged(result).values()))[0] == "fail"
    assert result.wells.loc[result.wells[SEVERITY] == "fail", "Metadata_Plate"].tolist() == ["P2"]
    assert any("compared with those of all plates" in note for note in result.notes)


def test_one_field_of_a_well_does_not_fail_it() -> None:
    tables = made_up(24, sites=4, columns=6)
    slope = "Image_ImageQuality_PowerLogLogSlope_DNA"
    tables.fields.loc[0, slope] = -3.0
    tables.fields.loc[4:6, slope] = -3.0
    found = flagged(judge_quality(tables))
    assert found["A01"] == ("warn", found["A01"][1])
    assert "1 of 4 fields fail (site 1," in found["A01"][1]
    assert found["A02"][0] == "fail"
    assert "3 of 4 fields fail (site 1, 2, 3," in found["A02"][1]


def test_a_focus_that_only_the_reporter_shows_may_be_its_treatment() -> None:
    tables = made_up(24, columns=6)
    for channel in ("GFP", "ER"):
        for measure in ("ImageQuality_PowerLogLogSlope", "Intensity_Background", "Intensity_MaxIntensity"):
            tables.fields[f"Image_{measure}_{channel}"] = tables.fields[f"Image_{measure}_DNA"].to_numpy()
    slope = "Image_ImageQuality_PowerLogLogSlope_{}".format
    tables.fields.loc[0, slope("GFP")] = -3.0
    tables.fields.loc[1, slope("DNA")] = -3.0
    tables.fields.loc[2, [slope("GFP"), slope("ER")]] = -3.0
    known = replace(tables, runs=({"nuclei": "DNA"},))
    found = flagged(judge_quality(known))
    assert found["A01"][0] == "warn"
    assert "out of focus, or what it shows has moved" in found["A01"][1]
    assert found["A02"][0] == found["A03"][0] == "fail"
    assert flagged(judge_quality(tables))["A02"][0] == "warn"  # nobody says which channel shows nuclei


def test_a_trend_to_the_edge_is_told_and_flags_no_well() -> None:
    tables = made_up(96)
    row, column = np.divmod(np.arange(96), 12)
    edge = (row == 0) | (row == 7) | (column == 0) | (column == 11)
    counts = tables.fields["Image_Count_Cells"].to_numpy()
    tables.fields["Image_Count_Cells"] = np.where(edge, counts * 0.75, counts).astype(int)
    result = judge_quality(tables)
    assert flagged(result) == {}
    assert any("edge: cells per field of wells" in note for note in result.notes)
    trend = result.edges.set_index("measure").loc["Cells"]
    assert 0.65 < trend["edge"] / trend["inner"] < 0.85
    assert not any("edge: focus" in note for note in result.notes)


def test_a_plate_that_is_saturated_as_a_whole_is_told() -> None:
    tables = made_up(96)
    tables.fields["Image_ImageQuality_PercentMaximal_DNA"] += 3
    result = judge_quality(tables)
    assert flagged(result) == {}
    assert any("the exposure is too long for all" in note for note in result.notes)


def test_a_plate_that_differs_from_the_others_as_a_whole_is_told() -> None:
    parts = [made_up(24, seed=seed, name=f"P{seed}") for seed in range(3)]
    parts[1].fields["Image_ImageQuality_PowerLogLogSlope_DNA"] -= 0.8
    result = judge_quality(QualityTables(pd.concat([part.fields for part in parts], ignore_index=True)))
    assert flagged(result) == {}
    told = [note for note in result.notes if "as a whole" in note]
    assert len(told) == 1
    assert told[0].startswith("plate P1 differs as a whole: focus (slope of log power) of DNA -2.8")
    assert "median of the plates -2.0" in told[0]


def test_a_run_in_which_every_field_failed(tmp_path: Path) -> None:
    tables = made_up(12)
    tables.fields["Image_Status"], tables.fields["Image_Reason"] = "failed", "the disk is gone; or full"
    measured = [name for name in tables.fields if name.startswith(("Image_Count", "Image_ImageQ", "Image_Intens"))]
    tables.fields[measured] = np.nan
    tables.fields.to_parquet(tmp_path / "Image.parquet")
    result = quality_control(tmp_path)
    assert not result.wells["Metadata_QC_Pass"].any()
    assert set(result.wells[REASONS]) == {"analysis failed: the disk is gone, or full"}
    assert result.unjudged == ("P1",)


def test_embeddings_of_cells_are_judged(tmp_path: Path) -> None:
    tables = made_up(24)
    random = np.random.default_rng(0)
    cells = tables.fields[["Metadata_Plate", "Metadata_Well", "Metadata_Time"]].loc[np.repeat(np.arange(24), 10)]
    values = random.normal(size=(240, 32))
    values[50:60] += 4 * random.normal(size=32)
    names = [f"Cells_Embedding_{number:04d}" for number in range(32)]
    cells = cells.reset_index(drop=True).join(pd.DataFrame(values.astype(np.float32), columns=names))
    tables.fields.to_parquet(tmp_path / "Image.parquet")
    cells.to_parquet(tmp_path / "Embedding.parquet", row_group_size=64)
    result = quality_control(tmp_path)
    assert list(flagged(result)) == ["A06"]
    assert "distance of the well's embedding" in flagged(result)["A06"][1]
    assert any("no Well.parquet" in note for note in result.notes)


def test_the_table_of_cellprofiler_is_understood(tmp_path: Path) -> None:
    fields = made_up(96).fields
    table = pd.DataFrame(
        {
            "ImageNumber": np.arange(96),
            "Image_Metadata_Plate": fields["Metadata_Plate"],
            "Image_Metadata_Well": fields["Metadata_Well"],
            "Count_Cells": fields["Image_Count_Cells"],
            "ImageQuality_PowerLogLogSlope_DNA": fields["Image_ImageQuality_PowerLogLogSlope_DNA"],
            "ImageQuality_PercentMaximal_DNA": fields["Image_ImageQuality_PercentMaximal_DNA"],
            "ImageQuality_MaxIntensity_DNA": fields["Image_Intensity_MaxIntensity_DNA"] / 65535,
            "ImageQuality_MedianIntensity_DNA": fields["Image_Intensity_Background_DNA"] / 65535,
        }
    )
    table.loc[[3, 14], "ImageQuality_PowerLogLogSlope_DNA"] = [-3.2, 0.0]
    table.loc[30, "ImageQuality_PercentMaximal_DNA"] = 7.0
    table.to_csv(tmp_path / "Image.csv", index=False)
    for path in (tmp_path, tmp_path / "Image.csv"):
        result = quality_control(path)
        assert {well: severity for well, (severity, _) in flagged(result).items()} == {"A04": "fail", "C07": "fail"}
    assert any("stands in" in note for note in result.notes)


def test_time_points_are_judged_apart() -> None:
    early, late = made_up(24, seed=1), made_up(24, seed=2)
    late.fields["Metadata_Time"] = 2
    late.fields["Image_ImageQuality_PowerLogLogSlope_DNA"] -= 1
    result = judge_quality(QualityTables(pd.concat([early.fields, late.fields], ignore_index=True)))
    assert flagged(result) == {}
    assert set(result.limits["plate"]) == {"P1 t1", "P1 t2"}


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        quality_control(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no Image\.parquet"):
        quality_control(tmp_path)
    made_up(12).fields.to_parquet(tmp_path / "Image.parquet")
    with pytest.raises(InputError, match="needs --out"):
        quality_control([tmp_path, tmp_path])
    with pytest.raises(InputError, match="fields in common"):
        quality_control([tmp_path, tmp_path], out=tmp_path / "qc")
    with pytest.raises(InputError, match="say --layout"):
        quality_control(tmp_path, control_column="Control", negative=-1)
    with pytest.raises(InputError, match="Say --negative"):
        quality_control(tmp_path, control_column="Control", positive=1)
    with pytest.raises(InputError, match="Say --control-column"):
        quality_control(tmp_path, negative=-1)
    with pytest.raises(InputError, match="is not understood"):
        quality_control(tmp_path, controls="Compound ==")
    with pytest.raises(InputError, match="holds for no row: Metadata_Well holds text"):
        quality_control(tmp_path, controls="Metadata_Well == 'Z01'")
    with pytest.raises(InputError, match="at least 1"):
        quality_control(tmp_path, deviations=0.5)
    (tmp_path / "Image.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot be read"):
        quality_control(tmp_path)
