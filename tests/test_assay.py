"""Assay statistics: values by hand, simulated plates whose truth is known, degenerate wells, the command."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from cellinfer.assays.dose_response import fit_dose_response, monotonicity
from cellinfer.assays.verdict import assay, control_statistics
from cellinfer.cli.assay import assay as command
from cellinfer.errors import InputError
from typer.testing import CliRunner

app = typer.Typer()
app.command()(command)

RATIO = "Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"
CONTROLS = {"control_column": "SBS_Controls", "negative": -1, "positive": 1}


def logistic(dose: np.ndarray, bottom: float, top: float, ec50: float, hill: float) -> np.ndarray:
    """The model in plain words, for doses that may be zero."""
    return bottom + (top - bottom) * dose**hill / (dose**hill + ec50**hill)


def plate_of(rows: str, name: str = "P1", seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Wells like BBBC013's: dose 0 in columns 1 and 2, then 1 to 10; EC50 4, Hill 3, from 1 to 3."""
    generator = np.random.default_rng(seed)
    wells = [(row, column) for row in rows for column in range(1, 13)]
    dose = np.array([max(column - 2, 0) for _, column in wells], dtype=float)
    return pd.DataFrame(
        {
            "Metadata_Plate": name,
            "Metadata_Well": [f"{row}{column:02d}" for row, column in wells],
            "Metadata_Time": 0,
            "Image_Count_Fields": 1,
            "Image_Count_Nuclei": generator.poisson(100, len(wells)),
            "Nuclei_Location_Center_X": dose,
            "Nuclei_AreaShape_EulerNumber": 0.1,
            "Nuclei_Intensity_MeanIntensity_DNA": generator.normal(5, 1, len(wells)),
            RATIO: shift + logistic(dose, 1, 3, 4, 3) + generator.normal(0, 0.08, len(wells)),
        }
    )


def write_run(folder: Path, wells: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wells.to_parquet(folder / "Well.parquet")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", plate_of("ABCD"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """All eight rows, as BBBC013's map has them."""
    lines = ["ImageNumber,Column,Row,SBS_Doses,SBS_Controls"]
    for number in range(96):
        row, column = "ABCDEFGH"[number // 12], number % 12 + 1
        control = -1 if column < 3 else 1 if column == 12 else 0
        lines.append(f"{number + 1},{column:02d},{row},{max(column - 2, 0)},{control}")
    path = tmp_path / "map.csv"
    path.write_text("\n".join(lines))
    return path


def test_statistics_by_hand() -> None:
    negative, positive = [1.0, 2.0, 3.0], [10.0, 12.0, 14.0, 16.0]
    found = control_statistics(np.array([negative]).T, np.array([positive]).T)
    sd_n, sd_p = statistics.stdev(negative), statistics.stdev(positive)
    assert found["z_prime"][0] == pytest.approx(1 - 3 * (sd_n + sd_p) / 11)
    # medians 2 and 13; median absolute deviations 1 and 2
    assert found["robust_z_prime"][0] == pytest.approx(1 - 3 * 1.4826 * 3 / 11)
    assert found["ssmd"][0] == pytest.approx(11 / (sd_n**2 + sd_p**2) ** 0.5)
    assert found["robust_ssmd"][0] == pytest.approx(11 / (1.4826 * 5**0.5))
    assert found["signal_window"][0] == pytest.approx((11 - 3 * (sd_n + sd_p)) / sd_p)
    assert found["signal_to_background"][0] == pytest.approx(6.5)
    assert (found["n_negative"][0], found["n_positive"][0]) == (3, 4)


def test_a_falling_signal_has_the_same_z_prime_and_the_opposite_ssmd() -> None:
    a, b = np.array([[1.0, 2.0, 4.0]]).T, np.array([[20.0, 23.0]]).T
    up, down = control_statistics(a, b), control_statistics(b, a)
    assert up["z_prime"][0] == down["z_prime"][0]
    assert up["ssmd"][0] == -down["ssmd"][0]
    assert up["signal_window"][0] == down["signal_window"][0]


def test_degenerate_features_follow_the_stated_rules() -> None:
    nan, inf = np.nan, np.inf
    cases = {  # negative wells, positive wells, expected Z', expected SSMD is finite
        "constant": ([0.1] * 3, [0.1] * 3, nan, False),
        "constant but for rounding": ([0.1 + 0.2, 0.3, 0.3], [0.3] * 3, nan, False),
        "two constants": ([1.0] * 3, [2.0] * 3, 1.0, False),
        "missing": ([nan] * 3, [1.0, 2.0, 3.0], nan, False),
        "a single value": ([1.0, nan, inf], [1.0, 2.0, 3.0], nan, False),
        "one missing": ([0.0, 2.0, nan], [10.0, 12.0, inf], 1 - 3 * 2 * 2**0.5 / 10, True),
    }
    negative, positive = (np.array([case[k] for case in cases.values()]).T for k in (0, 1))
    found = control_statistics(negative, positive)  # warnings are errors here
    np.testing.assert_allclose(found["z_prime"], [case[2] for case in cases.values()], rtol=1e-12)
    assert np.isfinite(found["ssmd"]).tolist() == [case[3] for case in cases.values()]


def test_a_plate_like_bbbc013_is_judged(run: Path, layout: Path) -> None:
    result = assay(run, layout, **CONTROLS, dose_column="SBS_Doses")
    assert result.headline == result.features["feature"].iloc[0] == RATIO
    row = result.features.iloc[0]
    wells = plate_of("ABCD").set_index("Metadata_Well")[RATIO]
    negative = [wells[f"{r}{c:02d}"] for r in "ABCD" for c in (1, 2)]
    positive = [wells[f"{r}12"] for r in "ABCD"]
    difference = statistics.mean(positive) - statistics.mean(negative)
    spread = statistics.stdev(positive) + statistics.stdev(negative)
    assert row["z_prime"] == pytest.approx(1 - 3 * spread / difference)
    assert (row["n_negative"], row["n_positive"], row["plates"]) == (8, 4, 1)
    assert result.headline_interval is not None
    assert result.headline_interval.low < row["z_prime"] < result.headline_interval.high
    assert result.verdict.startswith("Excellent assay")
    # The constant one is no candidate.
    assert "picked as the best of 3 counts, sizes, intensities and ratios" in result.verdict
    names = set(result.features["feature"])
    assert names == {RATIO, "Image_Count_Nuclei", "Nuclei_Intensity_MeanIntensity_DNA", "Nuclei_AreaShape_EulerNumber"}
    assert result.features["feature"].iloc[-1] == "Nuclei_AreaShape_EulerNumber"  # undefined ones come last


def test_ec50_of_a_plate_like_bbbc013(run: Path, layout: Path) -> None:
    result = assay(run, layout, **CONTROLS, dose_column="SBS_Doses")
    response = result.dose_responses[0]
    assert response.feature == RATIO
    assert (response.wells, response.doses) == (48, 11)
    assert response.ec50_low < 4 < response.ec50_high
    assert response.flags == ()
    assert response.monotonicity.monotone
    assert any("look like numbers of dilution steps" in note for note in result.notes)
    assert "4 positive control wells carry a dose and are part of the dose response" in result.notes


def test_files_hold_the_results(run: Path, layout: Path) -> None:
    (run / "run.json").write_text('{"model": {"name": "nuclei", "sha256": "abc"}}')
    result = assay(run, layout, **CONTROLS, dose_column="SBS_Doses")
    assert [path.name for path in result.files] == ["features.csv", "features.parquet", "assay.json", "assay.png"]
    pd.testing.assert_frame_equal(pd.read_parquet(run / "assay" / "features.parquet"), result.features)
    pd.testing.assert_frame_equal(pd.read_csv(run / "assay" / "features.csv"), result.features, check_dtype=False)
    data = json.loads((run / "assay" / "assay.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert data["provenance"]["model"]["sha256"] == "abc"
    assert data["features"][-1]["z_prime"] is None
    assert data["dose_responses"][0]["ec50"] == pytest.approx(result.dose_responses[0].ec50)
    assert (run / "assay" / "assay.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (run / "assay").iterdir()) == sorted(path.name for path in result.files)


def test_a_named_feature_carries_the_verdict(run: Path, layout: Path, tmp_path: Path) -> None:
    count = "Image_Count_Nuclei"
    result = assay(run, layout, **CONTROLS, features=[count], dose_column="SBS_Doses", out=tmp_path / "elsewhere")
    assert result.headline == count
    assert result.verdict.startswith("Unusable assay")
    assert "You named the feature; it ranks" in result.verdict
    assert count in [response.feature for response in result.dose_responses]
    assert (tmp_path / "elsewhere" / "assay.json").is_file()
    assert not (run / "assay").exists()
    with pytest.raises(InputError, match=f"is it {RATIO}"):
        assay(run, layout, **CONTROLS, features=["Cells_Ratio_NucleusCytoplasmIntensity_GFP"])


def test_several_plates_are_judged_apart_and_pooled_by_the_median(layout: Path, tmp_path: Path) -> None:
    plates = [plate_of("ABCD", f"P{k}", seed=k, shift=10.0 * k) for k in range(3)]
    plates.append(plate_of("A", "=lonely", seed=9))
    result = assay(
        write_run(tmp_path / "run", pd.concat(plates)), layout, **CONTROLS, dose_column="SBS_Doses", features=[RATIO]
    )
    each = result.by_plate[result.by_plate["feature"] == RATIO]
    assert each["plate"].tolist() == ["P0", "P1", "P2"]
    row = result.features.set_index("feature").loc[RATIO]
    assert row["z_prime"] == pytest.approx(np.median(each["z_prime"]))
    assert row["plates"] == 3
    assert (row["n_negative"], row["n_positive"]) == (24, 12)
    assert any("plate =lonely has 2 negative and 1 positive control wells" in note for note in result.notes)
    response = result.dose_responses[0]  # plates 10 units apart are put on one level before the fit
    assert response.ec50_low < 4 < response.ec50_high
    assert response.residual_sd < 0.15
    assert (tmp_path / "run" / "assay" / "features_by_plate.csv").is_file()


def test_times_are_judged_apart(layout: Path, tmp_path: Path) -> None:
    times = [plate_of("ABCD", seed=k).assign(Metadata_Time=k) for k in (1, 2)]
    result = assay(write_run(tmp_path / "run", pd.concat(times)), layout, **CONTROLS)
    assert result.by_plate["plate"].unique().tolist() == ["P1 t1", "P1 t2"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"control_column": "Kind"}, "no column 'Kind': it has ImageNumber"),
        ({"positive": 7}, r"no well of the run has 7 in SBS_Controls \(positive control\): it has -1, 0, 1"),
        ({"positive": "-1.0"}, "negative and positive controls are the same"),
        ({"dose_column": "Row"}, "doses must be numbers: Row has 'A'"),
        ({"dose_column": "SBS_Controls"}, "doses cannot be negative"),
    ],
)
def test_unusable_options_say_why(run: Path, layout: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assay(run, layout, **{**CONTROLS, **changed})


def test_unusable_runs_say_why(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no Well\.parquet"):
        assay(tmp_path, layout, **CONTROLS)
    with pytest.raises(InputError, match="P1 has 2 negative and 1 positive control wells; two of each are needed"):
        assay(write_run(tmp_path / "few", plate_of("A")), layout, **CONTROLS)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "Well.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        assay(tmp_path / "torn", layout, **CONTROLS)


def test_a_plate_where_nothing_differs_gets_no_verdict(layout: Path, tmp_path: Path) -> None:
    wells = plate_of("ABCD")[["Metadata_Plate", "Metadata_Well", "Nuclei_AreaShape_EulerNumber"]]
    result = assay(write_run(tmp_path / "run", wells), layout, **CONTROLS, dose_column="SBS_Doses")
    assert result.verdict.startswith("No verdict")
    assert result.headline_interval is None
    assert (tmp_path / "run" / "assay" / "assay.png").is_file()


# Dose response


@pytest.mark.parametrize("hill", [1.0, 2.5])
@pytest.mark.parametrize(("bottom", "top"), [(0.0, 1.0), (500.0, 200.0)])
def test_an_exact_curve_is_recovered(hill: float, bottom: float, top: float) -> None:
    dose = np.repeat([0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10], 2)
    response = fit_dose_response("f", dose, logistic(dose, bottom, top, 0.2, hill))
    assert response is not None
    np.testing.assert_allclose(
        [response.ec50, response.hill, response.bottom, response.top],
        [0.2, hill, bottom, top],
        rtol=1e-3,
        atol=1e-3 * abs(top - bottom),
    )
    assert response.monotonicity.spearman == pytest.approx(np.sign(top - bottom))
    np.testing.assert_allclose(response.predict(dose), logistic(dose, bottom, top, 0.2, hill), rtol=1e-3, atol=1e-3)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    dose = np.repeat([0, 0.1, 0.3, 1, 3, 10, 30], 3)
    covered = 0
    for _ in range(40):
        response = fit_dose_response("f", dose, logistic(dose, 0, 1, 2, 1.2) + generator.normal(0, 0.1, len(dose)))
        assert response is not None
        covered += (response.ec50_low or 0.0) <= 2 <= (response.ec50_high or np.inf)
    assert covered >= 34  # of 40 at 95 %: fewer has a probability below 0.002


def test_noise_is_seldom_taken_for_a_response() -> None:
    generator = np.random.default_rng(4)
    dose = np.repeat([0, 0.1, 0.3, 1, 3, 10], 4)
    responses = [fit_dose_response("f", dose, generator.normal(0, 1, len(dose))) for _ in range(40)]
    assert sum(response.responds for response in responses if response) <= 6  # 5 % of 40 is 2
    silent = next(response for response in responses if response and not response.responds)
    assert silent.ec50 is None
    assert silent.flags == ("no response",)
    assert silent.sentence().startswith("no dose response")
    np.testing.assert_allclose(silent.predict([0, 1]), silent.bottom)


def test_an_ec50_beyond_the_doses_is_flagged_and_open() -> None:
    dose = np.repeat([0, 0.1, 0.3, 1, 3, 10], 4)
    noise = np.random.default_rng(5).normal(0, 0.01, len(dose))
    response = fit_dose_response("f", dose, logistic(dose, 0, 1, 60, 1) + noise)
    assert response is not None
    assert response.ec50 > 10
    assert "EC50 outside tested doses" in response.flags
    assert response.ec50_high is None or response.ec50_high > 60


@pytest.mark.parametrize(
    ("dose", "response"),
    [
        ([0, 1, 2, 3] * 3, np.arange(12.0)),  # three doses above zero
        ([0, 1, 2, 3, 4], np.arange(5.0)),  # five wells
        ([0, 1, 2, 3, 4, 5, 6], [1, 2, np.nan, np.nan, np.inf, 3, 4]),
        ([-1, np.nan] * 6, np.arange(12.0)),
        ([], []),
    ],
)
def test_too_little_data_gives_no_fit(dose: list[float], response: list[float]) -> None:
    assert fit_dose_response("f", dose, response) is None


def test_constant_response_is_none() -> None:
    response = fit_dose_response("f", [0, 1, 2, 3, 4, 5], [0.3, 0.3, 0.1 + 0.2, 0.3, 0.3, 0.3])
    assert response is not None
    assert (response.responds, response.p_value) == (False, 1.0)


def test_monotonicity_sees_a_bell() -> None:
    dose = np.repeat([1.0, 2, 3, 4, 5], 3)
    jitter = np.tile([-0.01, 0, 0.01], 5)
    bell = monotonicity(dose, np.repeat([0.0, 1, 2, 1, 0], 3) + jitter, 0.1)
    assert bell.spearman == pytest.approx(0)
    assert not bell.monotone
    assert bell.deviation == pytest.approx(0.5, abs=0.2)
    steady = monotonicity(dose, np.repeat([4.0, 3, 2, 1, 0], 3) + jitter, 0.1)
    assert steady.spearman == pytest.approx(-1)
    assert steady.monotone
    assert steady.deviation == 0


# Command


def arguments(run: Path, layout: Path) -> list[str]:
    text = f"--layout {layout} --control-column SBS_Controls --negative -1 --positive 1 --dose-column SBS_Doses"
    return [str(run), *text.split()]


def test_command_takes_negative_numbers_and_prints_verdict_and_paths(run: Path, layout: Path) -> None:
    result = CliRunner().invoke(app, arguments(run, layout), env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert RATIO in result.stdout
    assert "Excellent assay" in result.stdout
    assert "EC50" in result.stdout
    assert "assay.png" in result.stdout


def test_command_prints_json_alone(run: Path, layout: Path) -> None:
    result = CliRunner().invoke(app, [*arguments(run, layout), "--json", "--feature", "Image_Count_Nuclei"])
    data = json.loads(result.stdout)
    assert data["headline"] == "Image_Count_Nuclei"
    assert data["features"][0]["feature"] == RATIO
