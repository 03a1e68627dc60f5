"""Controls that are held out: who is chosen, what is learnt without them, and what noise looks like beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import typer
from cellinfer.cli.profile import profile as command
from cellinfer.errors import InputError
from cellinfer.profiling.evaluation import ProfileEvaluation, evaluate_profiles
from cellinfer.profiling.held_out import HELD_OUT, hold_out
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.sphering import Sphering
from cellinfer.profiling.workflow import ProfileResult, profile
from typer.testing import CliRunner

CONTROLS = "Metadata_Compound == 'DMSO'"
TREATMENTS, REPLICATES, FEATURES = 40, 4, 160


def noise(seed: int, plates: int = 4, controls: int = 12) -> pd.DataFrame:
    """Wells of plates whose treatments do nothing, with correlated features; replicates are on different plates."""
    random = np.random.default_rng(seed)
    mixing = np.linalg.qr(random.normal(size=(FEATURES, FEATURES)))[0] * np.arange(1, FEATURES + 1)[:, None] ** -0.5
    rows = [
        (f"P{plate}", f"{name[0].upper()}{number + 1}", name)
        for plate in range(plates)
        for number, name in enumerate(["DMSO"] * controls + [f"t{one}" for one in range(TREATMENTS)])
    ]
    table = pd.DataFrame(rows, columns=["Metadata_Plate", "Metadata_Well", "Metadata_Compound"])
    values = random.normal(size=(len(rows), FEATURES)) @ mixing
    return pd.concat([table, pd.DataFrame(values).add_prefix("Cells_F")], axis=1)


def make(table: pd.DataFrame, folder: Path, **options: object) -> ProfileResult:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "wells.parquet")
    options = {"controls": CONTROLS, "picture": False, "consensus": "none", "selection": [], **options}
    return profile(folder / "wells.parquet", folder / "profile", **options)


def judge(table: pd.DataFrame) -> ProfileEvaluation:
    return evaluate_profiles(
        table, treatment="Metadata_Compound", controls=CONTROLS, draws=2000, permutations=5, threads=1
    )


def active(found: ProfileEvaluation) -> float:
    """Share of treatments with p < 0.05 of being told from controls."""
    table = found.treatments[found.treatments["task"] == "activity_by_well"]
    assert len(table) == TREATMENTS
    return float((table["p_value"] < 0.05).mean())


def numbers_of(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    return table.filter(like="Cells_").to_numpy()


def test_treatments_that_do_nothing_are_active_beside_controls_that_were_learnt_from(tmp_path: Path) -> None:
    """Of 120 null treatments, p < 0.05 for 5 %: 99.9 % of binomial draws are below 15.

    The same controls are found each time, for fewer of them make any figure smaller.
    """
    shares: dict[str, list[float]] = {"untouched": [], "all": [], "cross-fitted": [], "held out": []}
    for seed in range(3):
        table = noise(seed)
        held = make(table, tmp_path / f"{seed}a", hold_out=0.5).wells
        plain = make(table, tmp_path / f"{seed}b")
        for name, each in (
            ("untouched", table),
            ("all", plain.wells),
            ("cross-fitted", _cross_fitted(plain)),
            ("held out", held),
        ):
            found = judge(each.assign(**{HELD_OUT: held[HELD_OUT]}))
            assert any("the 24 of 48 controls" in note for note in found.notes)
            shares[name].append(active(found))
    means = {name: float(np.mean(each)) for name, each in shares.items()}
    assert means["untouched"] < 15 / 120
    assert means["held out"] < 15 / 120
    assert means["all"] > 0.25
    assert means["cross-fitted"] > 0.25  # why controls are held out, and not each transformed by the others


def test_an_evaluation_says_whom_it_compared_with(tmp_path: Path) -> None:
    table = noise(0)
    plain, held = (judge(make(table, tmp_path / str(share), hold_out=share).wells) for share in (0.0, 0.5))
    assert any("mean of 0" in note and "--hold-out" in note for note in plain.notes)
    assert "negatives: controls only" in plain.definitions["activity_by_well"]
    assert not any("mean of 0" in note for note in held.notes)
    assert "negatives: held-out controls only" in held.definitions["activity_by_well"]


def _cross_fitted(result: ProfileResult) -> pd.DataFrame:
    """Each control sphered by the other controls, treated wells by all."""
    normalised, sphered = result.tables["Well_normalised"], result.wells.copy()
    names = [name for name in sphered if name.startswith("Cells_")]
    controls = np.flatnonzero(sphered["Metadata_Compound"] == "DMSO")
    for row in controls:
        others = normalised.iloc[controls[controls != row]]
        sphered.loc[row, names] = Sphering.fit(others).apply(normalised.iloc[[row]])[names].iloc[0]
    return sphered


def test_a_real_effect_is_still_found_beside_held_out_controls(tmp_path: Path) -> None:
    table = noise(3)
    effects = np.random.default_rng(5).normal(size=(TREATMENTS, FEATURES))
    for number in range(TREATMENTS // 2):
        rows = table["Metadata_Compound"] == f"t{number}"
        table.loc[rows, table.columns[3:]] += effects[number]
    found = judge(make(table, tmp_path, hold_out=0.5).wells).treatments
    found = found[found["task"] == "activity_by_well"].set_index("name")["p_value"] < 0.05
    assert found[[f"t{number}" for number in range(TREATMENTS // 2)]].all()
    assert found.sum() < TREATMENTS // 2 + 7


def test_nothing_is_learnt_from_held_out_controls(tmp_path: Path) -> None:
    """By hand; and whatever their values, all other wells stay the same."""
    table = noise(1)
    result = make(table, tmp_path / "a", hold_out=0.25)
    held = result.wells[HELD_OUT].to_numpy()
    assert held.dtype == bool
    assert held.sum() == 12
    np.testing.assert_array_equal(held, hold_out(table, CONTROLS, 0.25))
    rest = (table["Metadata_Compound"] == "DMSO").to_numpy() & ~held
    normalised = normalise(table, reference=rest, spread="pooled").table
    sphering = Sphering.fit(normalised[rest])
    np.testing.assert_allclose(numbers_of(result.wells), numbers_of(sphering.apply(normalised)), atol=1e-9)
    loud = table.copy()
    loud.loc[held, table.columns[3:]] = np.random.default_rng(8).normal(size=(12, FEATURES)) * 3
    other = make(loud, tmp_path / "b", hold_out=0.25).wells
    np.testing.assert_array_equal(numbers_of(other)[~held], numbers_of(result.wells)[~held])
    assert not np.allclose(numbers_of(other)[held], numbers_of(result.wells)[held])


def test_the_choice_of_lambda_sees_nothing_of_them(tmp_path: Path) -> None:
    table = noise(2)
    held = hold_out(table, CONTROLS, 0.25)
    table.loc[~table["Metadata_Compound"].eq("DMSO"), table.columns[3:]] += 0.2
    loud = table.copy()
    loud.loc[held, table.columns[3:]] *= -2
    first, second = (
        make(one, tmp_path / name, hold_out=0.25, regularization="nested").info["regularization"]
        for one, name in ((table, "a"), (loud, "b"))
    )
    assert first == second
    assert sum(row["queries"] for row in first["tried"] if row["regularization"] == 0.1) == 4 * TREATMENTS


def test_what_is_written_about_them(tmp_path: Path) -> None:
    result = make(noise(0), tmp_path, hold_out=0.25, csv=True, picture=True)
    info = json.loads((result.folder / "profile.json").read_text())
    steps = {step["name"]: step for step in info["steps"]}
    assert steps["hold out controls"]["parameters"] == {"share": 0.25, "held_out": 12, "learnt_from": 36}
    assert steps["sphere"]["parameters"]["learnt"][0]["controls"] == 36
    assert [group["references"] for group in steps["normalise"]["parameters"]["groups"]] == [9] * 4
    assert info["settings"]["hold_out"] == 0.25
    assert (info["controls"], info["held_out_controls"]) == (48, 12)
    assert info["nearest_neighbour_of"] == "held-out controls"
    assert info["nearest_neighbour_of_same_plate"]["chance"] == pytest.approx(2 / 11)
    for name in ("Well", "Well_normalised", "Well_sphered"):
        assert pd.read_parquet(result.folder / f"{name}.parquet")[HELD_OUT].sum() == 12
    assert not any("shrinks these" in note for note in result.notes)
    # as CSV, and to an evaluation of a file, it is the same
    found = evaluate_profiles(
        result.folder / "Well_sphered.csv", treatment="Metadata_Compound", controls=CONTROLS, draws=500, permutations=5
    )
    assert any("the 12 of 48 controls" in note for note in found.notes)


def test_without_it_the_record_says_so_and_old_marks_go(tmp_path: Path) -> None:
    first = make(noise(0), tmp_path / "a", hold_out=0.25)
    again = make(first.tables["Well"], tmp_path / "b")
    assert HELD_OUT not in again.wells
    assert again.info["held_out_controls"] == 0
    assert again.info["nearest_neighbour_of"] == "controls"
    assert any("sphere: learnt from all controls" in note for note in again.notes)
    one = make(noise(0, controls=6), tmp_path / "c", hold_out=0.1)  # one of each plate has no neighbour on its plate
    assert one.info["held_out_controls"] == 4
    assert one.info["nearest_neighbour_of"] == "controls"


def test_who_is_held_out_depends_on_names_alone() -> None:
    table = noise(0)
    held = hold_out(table, CONTROLS, 0.25)
    assert table.loc[held, "Metadata_Compound"].eq("DMSO").all()
    assert table[held].groupby("Metadata_Plate").size().tolist() == [3] * 4
    mixed = table.sample(frac=1, random_state=4)
    np.testing.assert_array_equal(hold_out(mixed, CONTROLS, 0.25), held[mixed.index])
    part = table["Metadata_Plate"].isin(["P1", "P3"]) & (table["Metadata_Compound"] != "t3")
    np.testing.assert_array_equal(hold_out(table[part], CONTROLS, 0.25), held[part])
    assert table[held].groupby("Metadata_Plate")["Metadata_Well"].agg(tuple).nunique() > 1  # other places on each plate
    twice = pd.concat([table, table], ignore_index=True)  # sites of a well stay together
    np.testing.assert_array_equal(hold_out(twice, CONTROLS, 0.25), np.tile(held, 2))
    many = noise(0, plates=40)
    counts = many[hold_out(many, CONTROLS, 0.5)]["Metadata_Well"].value_counts()
    assert len(counts) == 12  # no place is always chosen, none never
    assert counts.max() < 33


@pytest.mark.parametrize(
    ("controls", "share", "held"), [(3, 0.9, 1), (3, 0.01, 1), (4, 0.6, 2), (6, 0.25, 2), (6, 0.17, 1), (12, 0.99, 10)]
)
def test_two_stay_to_be_learnt_from(controls: int, share: float, held: int) -> None:
    assert hold_out(noise(0, plates=2, controls=controls), CONTROLS, share).sum() == 2 * held


def test_plates_with_too_few(tmp_path: Path) -> None:
    table = noise(0, controls=4)
    few = table[(table["Metadata_Plate"] != "P2") | ~table["Metadata_Well"].isin(["D1", "D2"])]
    result = make(few, tmp_path, hold_out=0.25)
    assert result.wells[HELD_OUT].sum() == 3
    assert any("fewer than three: P2" in note for note in result.notes)


def test_mistakes(tmp_path: Path) -> None:
    table = noise(0)
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(InputError, match="above 0 and below 1"):
            hold_out(table, CONTROLS, share)
    with pytest.raises(InputError, match="no column 'Metadata_Well'"):
        hold_out(table.drop(columns="Metadata_Well"), CONTROLS, 0.5)
    with pytest.raises(InputError, match="three control wells"):
        hold_out(noise(0, controls=2), CONTROLS, 0.5)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="share of controls to hold out"):
            make(table, tmp_path, hold_out=share)
    with pytest.raises(InputError, match="needs to know them"):
        make(table, tmp_path, hold_out=0.5, controls=None)


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    noise(0).to_parquet(tmp_path / "wells.parquet")
    out = tmp_path / "out"
    said = CliRunner().invoke(
        app,
        [str(tmp_path / "wells.parquet"), "--controls", CONTROLS, "--hold-out", "0.25", "--select", "none",
         "--no-picture", "--out", str(out)],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "a held-out control is of its own plate" in " ".join(said.output.split())
    assert pd.read_parquet(out / "Well_sphered.parquet")[HELD_OUT].sum() == 12
