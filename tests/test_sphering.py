"""Sphering: its invariants, pycytominer's numbers, and a regularisation that is chosen without the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.regularisation import VALUES, choose_regularization
from cellinfer.profiling.sphering import METHODS, REGULARIZATION, Sphering, sphere
from hypothesis import given
from hypothesis import strategies as st
from pycytominer.operations import Spherize

CONTROLS = "Metadata_Compound == 'DMSO'"


def make_controls(rows: int, features: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(features, features)) * np.geomspace(3, 0.05, features)
    values = random.normal(size=(rows, features)) @ mixing + 10 * random.normal(size=features)
    return pd.DataFrame(values, columns=[f"Cells_F{number}" for number in range(features)])


def make_screen(plates: int = 4, treatments: int = 8, seed: int = 0) -> pd.DataFrame:
    """Wells in which plates differ, and a few weak directions tell treatments apart."""
    random = np.random.default_rng(seed)
    nuisance = random.normal(size=(3, 20)) * 4
    effects = np.zeros((treatments, 20))
    effects[:, 12:] = random.normal(size=(treatments, 8))
    rows = []
    for plate in range(plates):
        for number in range(treatments + 8):
            compound = f"drug{number}" if number < treatments else "DMSO"
            value = random.normal(size=3) @ nuisance + random.normal(size=20) * 0.5
            value += effects[number] if number < treatments else 0
            rows.append((f"P{plate}", f"A{number + 1:02d}", compound, *value))
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", *(f"Cells_F{number}" for number in range(20))]
    return pd.DataFrame(rows, columns=names)


@given(
    rows=st.integers(3, 40),
    features=st.integers(2, 25),
    regularization=st.sampled_from([1e-1, 1e-2, 1e-5]),
    method=st.sampled_from(["ZCA", "ZCA-cor"]),
    seed=st.integers(0, 100),
)
def test_invariants(rows: int, features: int, regularization: float, method: str, seed: int) -> None:
    controls = make_controls(rows, features, seed)
    sphering = Sphering.fit(controls, method=method, regularization=regularization, relative=False)
    sphered = sphering.apply(controls).to_numpy()
    assert np.isfinite(sphered).all()
    scale = 1 / np.sqrt(regularization)
    np.testing.assert_allclose(sphered.mean(axis=0), 0, atol=1e-9 * scale)
    s = np.zeros(features)
    values = (controls.to_numpy() - controls.to_numpy().mean(axis=0)) / sphering.scale
    found = np.linalg.eigvalsh(values.T @ values / rows)
    s[: len(found)] = np.maximum(found[::-1], 0)
    expected = s / (s + regularization)
    measured = np.linalg.eigvalsh(sphered.T @ sphered / rows)[::-1]
    np.testing.assert_allclose(np.sort(measured), np.sort(expected), atol=1e-6)
    matrix = sphering.matrix()
    np.testing.assert_array_equal(matrix, matrix.T)
    # the formula as it is printed, on the d x d covariance
    values_of, vectors = np.linalg.eigh(values.T @ values / rows)
    printed = vectors @ np.diag((np.maximum(values_of, 0) + regularization) ** -0.5) @ vectors.T
    np.testing.assert_allclose(matrix, printed, atol=1e-6 * scale)
    np.testing.assert_allclose(sphered, values @ matrix, atol=1e-8 * scale)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "features"), [(200, 30), (31, 30), (20, 60)])
def test_pycytominers_numbers(method: str, rows: int, features: int) -> None:
    controls, others = make_controls(rows, features), make_controls(50, features, seed=1)
    theirs = Spherize(method=method, epsilon=1e-3).fit(controls)
    ours = Sphering.fit(controls, method=method, convention="pycytominer", regularization=1e-3)
    expected, found = theirs.transform(others).to_numpy(), ours.apply(others).to_numpy()
    if method.startswith("PCA"):  # the sign of a component means nothing; directions without variation are arbitrary
        expected, found = np.abs(expected[:, : found.shape[1]]), np.abs(found)
        assert found.shape[1] == min(features, rows - 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_many_controls_are_learnt_from_as_exactly_as_few() -> None:
    controls = make_controls(300, 20)
    quick = Sphering.fit(controls, regularization=1e-2)
    slow = Sphering.fit(controls, regularization=1e-9).regularised(1e-2)
    np.testing.assert_allclose(quick.eigenvalues, slow.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(quick.matrix(), slow.matrix(), atol=1e-9 * np.abs(slow.matrix()).max())
    with pytest.raises(ValueError, match="no larger"):
        quick.regularised(1e-4)


@pytest.mark.parametrize("regularization", [1e-1, 1e-3, 1e-6])
def test_few_controls_by_the_definition(regularization: float) -> None:
    """By X X^T or by singular values, as lambda allows: W is (X^T X / n + lambda)^-1/2."""
    controls, others = make_controls(30, 50), make_controls(200, 50, seed=2)
    sphering = Sphering.fit(controls, regularization=regularization)
    assert sphering.vectors.shape == (50, 29)
    np.testing.assert_allclose(sphering.vectors.T @ sphering.vectors, np.eye(29), atol=1e-8)
    centred = (controls - controls.mean()).to_numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred / 30 + sphering.regularization * np.eye(50))
    expected = (others - controls.mean()).to_numpy() @ (vectors / np.sqrt(values)) @ vectors.T
    for rows in (slice(3), slice(200)):
        np.testing.assert_allclose(sphering.apply(others[rows]), expected[rows], rtol=1e-5, atol=1e-5)


def test_the_exponent_minus_one_is_an_option() -> None:
    controls = make_controls(60, 10)
    half, whole = (Sphering.fit(controls, exponent=exponent).matrix() for exponent in (-0.5, -1.0))
    np.testing.assert_allclose(half @ half, whole, atol=1e-9)


def test_regularisation_is_relative_to_the_scale_of_features() -> None:
    controls = make_controls(40, 60)
    small, large = Sphering.fit(controls), Sphering.fit(controls * 1000)
    np.testing.assert_allclose(small.apply(controls), large.apply(controls * 1000), atol=1e-8)
    assert small.regularization == pytest.approx(REGULARIZATION * controls.var(ddof=0).mean())
    assert small.mean_eigenvalue == pytest.approx(controls.var(ddof=0).mean())


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(method: str, tmp_path: Path) -> None:
    controls, others = make_controls(12, 20), make_controls(5, 20, seed=2)
    others.insert(0, "Metadata_Plate", "P")
    sphering = Sphering.fit(controls, method=method, exponent=-0.4)
    sphering.save(tmp_path / "sphering.npz")
    again = Sphering.load(tmp_path / "sphering.npz")
    pd.testing.assert_frame_equal(again.apply(others), sphering.apply(others), check_exact=True)
    assert list(again.apply(others).columns)[1:] == again.output_features
    with np.load(tmp_path / "sphering.npz", allow_pickle=False) as file:
        assert str(file["method"]) == method


def test_files_that_are_no_sphering(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("not a file of numbers")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, format=np.array(1), features=np.array([{"a": 1}], dtype=object))
    other = tmp_path / "other.npz"
    np.savez(other, format=np.array(1), features=np.array(["a", "b"]), mean=np.zeros(3))
    newer = tmp_path / "newer.npz"
    np.savez(newer, format=np.array(99))
    for path in (text, pickled, other):
        with pytest.raises(InputError, match="is not a sphering"):
            Sphering.load(path)
    with pytest.raises(InputError, match="newer"):
        Sphering.load(newer)
    with pytest.raises(InputError, match="cannot be read"):
        Sphering.load(tmp_path / "absent.npz")


def test_a_table_is_sphered_by_its_controls() -> None:
    screen = make_screen()
    table, fitted = sphere(screen, CONTROLS)
    assert list(fitted) == ["all rows"]
    assert fitted["all rows"].controls == 32
    assert list(table.columns) == list(screen.columns)
    batches, by_plate = sphere(screen.sample(frac=1, random_state=3), CONTROLS, by="Metadata_Plate")
    assert sorted(by_plate) == [f"Metadata_Plate P{number}" for number in range(4)]
    first = screen["Metadata_Plate"] == "P0"
    alone, _ = sphere(screen[first], CONTROLS)
    pd.testing.assert_frame_equal(batches.sort_index()[first], alone)
    controls = batches[(batches["Metadata_Compound"] == "DMSO") & (batches["Metadata_Plate"] == "P2")]
    np.testing.assert_allclose(controls.filter(like="Cells_").mean(), 0, atol=1e-9)


def test_mistakes() -> None:
    screen = make_screen()
    with pytest.raises(InputError, match="No row is a control"):
        sphere(screen, "Metadata_Compound == 'water'")
    with pytest.raises(InputError, match="1 control is too few"):
        Sphering.fit(screen[:1])
    with pytest.raises(InputError, match="all the same"):
        Sphering.fit(pd.concat([screen[:1]] * 5))
    holes = screen.copy()
    holes.loc[2, "Cells_F4"] = np.nan
    with pytest.raises(InputError, match=r"1 features of the controls.*Cells_F4.*na_cutoff=0"):
        Sphering.fit(holes)
    with pytest.raises(InputError, match="of the profiles"):
        Sphering.fit(screen).apply(holes)
    with pytest.raises(InputError, match="no column"):
        Sphering.fit(screen).apply(screen.drop(columns="Cells_F4"))
    flat = screen.assign(Cells_F1=0.1)
    with pytest.raises(InputError, match=r"same in all controls.*Cells_F1"):
        Sphering.fit(flat, method="ZCA-cor")
    assert np.isfinite(Sphering.fit(flat).apply(flat).filter(like="Cells_").to_numpy()).all()
    for options in ({"regularization": 0.0}, {"convention": "pycytominer"}):
        few = pd.concat([screen[:5], screen[:5]])
        with pytest.raises(InputError, match=r"must vary in all 20 directions|linear dependencies"):
            Sphering.fit(few, **options)
    with pytest.raises(InputError, match="PCA takes all rows"):
        sphere(screen, CONTROLS, by="Metadata_Plate", method="PCA")
    with pytest.raises(InputError, match="Metadata_Plate P1: "):
        sphere(
            screen[(screen["Metadata_Plate"] != "P1") | (screen["Metadata_Compound"] != "DMSO")],
            CONTROLS,
            by="Metadata_Plate",
        )
    for wrong in ({"method": "MCA"}, {"regularization": -1}, {"exponent": 1.0}, {"convention": "other"}):
        with pytest.raises(InputError):
            Sphering.fit(screen, **wrong)


def test_choosing_the_regularisation_is_nested() -> None:
    screen = make_screen()
    seen: list[tuple[int, int]] = []
    choice = choose_regularization(screen, CONTROLS, "Metadata_Compound", progress=lambda *at: seen.append(at))
    assert choice.folds == "plates"
    assert seen[-1] == (16, 16)
    assert sorted(choice.tried["regularization"].unique()) == sorted(VALUES)
    assert choice.fixed == REGULARIZATION
    assert list(choice.nested["fold"]) == ["P0", "P1", "P2", "P3"]
    table = choice.tried.pivot(index="fold", columns="regularization", values="score")
    assert table.mean()[choice.regularization] == pytest.approx(table.mean().max())
    assert choice.fixed_score == pytest.approx(table[REGULARIZATION].mean())
    for row in choice.nested.itertuples():
        assert row.score == pytest.approx(table.loc[row.fold, row.chosen])
    assert choice.nested_score <= table.mean().max() + 1e-12


def test_the_fold_that_is_judged_had_no_say() -> None:
    """Whatever is in a plate, the lambda that the other plates choose for it stays the same."""
    screen = make_screen(seed=4)
    other = screen.copy()
    mine = other["Metadata_Plate"] == "P3"
    random = np.random.default_rng(9)
    other.loc[mine, other.columns[3:]] = random.normal(size=(int(mine.sum()), 20)) * 100
    before, after = (choose_regularization(table, CONTROLS, "Metadata_Compound").nested for table in (screen, other))
    assert before.set_index("fold").loc["P3", "chosen"] == after.set_index("fold").loc["P3", "chosen"]
    assert before.set_index("fold").loc["P3", "score"] != after.set_index("fold").loc["P3", "score"]


def test_on_one_plate_treatments_are_left_out() -> None:
    screen = make_screen()
    one = screen.assign(Metadata_Plate="P")
    choice = choose_regularization(one, CONTROLS, "Metadata_Compound", fixed=0.5)
    assert choice.folds == "treatments"
    assert choice.fixed == 0.5
    assert "treatments were left out" in choice.notes[0]
    assert sorted(", ".join(choice.nested["fold"]).split(", ")) == sorted(f"drug{number}" for number in range(8))
    with pytest.raises(InputError, match="three plates"):
        choose_regularization(one, CONTROLS, "Metadata_Compound", folds="plates")
    alone = screen[screen["Metadata_Plate"] == "P0"]
    with pytest.raises(InputError, match="No treatment has replicates"):
        choose_regularization(alone, CONTROLS, "Metadata_Compound")
