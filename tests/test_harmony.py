"""Harmony brings batches together and keeps what wells got apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.profiling.harmony import HarmonyOptions, harmonise, harmonise_values

KINDS, BATCHES, EACH, WIDTH = 4, 3, 40, 20


def experiment(seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wells of four kinds on three plates; what a plate adds differs from kind to kind."""
    random = np.random.default_rng(seed)
    kinds = np.tile(np.repeat(np.arange(KINDS), EACH), BATCHES)
    batches = np.repeat(np.arange(BATCHES), KINDS * EACH)
    centres = random.normal(size=(KINDS, WIDTH)) * 3
    shifts = random.normal(size=(BATCHES, 1, WIDTH)) + 0.7 * random.normal(size=(BATCHES, KINDS, WIDTH))
    values = centres[kinds] + shifts[batches, kinds] + noise * random.normal(size=(len(kinds), WIDTH))
    return values, batches, kinds


def spread(values: np.ndarray, groups: np.ndarray, within: np.ndarray) -> float:
    """Share of the variance within each of `within` that lies between `groups`."""
    between = total = 0.0
    for kind in np.unique(within):
        rows, names = values[within == kind], groups[within == kind]
        total += ((rows - rows.mean(axis=0)) ** 2).sum()
        for name in np.unique(names):
            part = rows[names == name]
            between += len(part) * ((part.mean(axis=0) - rows.mean(axis=0)) ** 2).sum()
    return between / total


def test_batches_come_together_and_kinds_stay_apart() -> None:
    values, batches, kinds = experiment()
    corrected = harmonise_values(values, batches).values
    assert spread(values, batches, kinds) > 0.6
    assert spread(corrected, batches, kinds) < 0.15
    everything = np.zeros(len(kinds))
    assert spread(corrected, kinds, everything) > 0.85


def test_effects_that_differ_between_kinds_are_more_than_centring_takes() -> None:
    values, batches, kinds = experiment()
    centred = values.copy()
    for batch in range(BATCHES):
        centred[batches == batch] -= values[batches == batch].mean(axis=0)
    corrected = harmonise_values(values, batches).values
    assert spread(corrected, batches, kinds) < spread(centred, batches, kinds) / 2


def test_one_cluster_is_ridge_regression() -> None:
    values, batches, _ = experiment(1)
    options = HarmonyOptions(clusters=1, rounds=1, ridge=5.0)
    corrected = harmonise_values(values, batches, options).values
    design = np.column_stack([np.ones(len(batches)), np.eye(BATCHES)[batches]])
    penalty = np.diag([0.0] + [5.0] * BATCHES)
    centred = values - values.mean(axis=0)
    fitted = np.linalg.solve(design.T @ design + penalty, design.T @ centred)
    np.testing.assert_allclose(corrected, values - design[:, 1:] @ fitted[1:], atol=1e-9)


def test_as_the_authors_package() -> None:
    """Clusters begin elsewhere there, so the two agree in what they find and not in every digit."""
    harmonypy = pytest.importorskip("harmonypy")
    values, batches, kinds = experiment(2)
    frame = pd.DataFrame({"batch": batches.astype(str)})
    theirs = np.asarray(harmonypy.run_harmony(values, frame, ["batch"], verbose=False).Z_corr)
    theirs = theirs if theirs.shape == values.shape else theirs.T
    ours = harmonise_values(values, batches).values
    apart = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    assert np.corrcoef(apart[0].ravel(), apart[1].ravel())[0, 1] > 0.97
    assert spread(ours, batches, kinds) < 1.5 * spread(theirs, batches, kinds) + 0.02


def test_same_input_same_output_and_one_batch_is_left_alone() -> None:
    values, batches, _ = experiment(3)
    first, second = (harmonise_values(values, batches) for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert all(np.diff(first.objectives) < 1e-3 * abs(first.objectives[0]))
    alone = harmonise_values(values, np.zeros(len(values), int))
    assert np.array_equal(alone.values, values)
    assert "one batch" in alone.notes[0]


def test_order_of_rows_changes_little() -> None:
    values, batches, _ = experiment(4)
    order = np.random.default_rng(0).permutation(len(values))
    one = harmonise_values(values, batches).values
    other = harmonise_values(values[order], batches[order]).values
    assert np.corrcoef(one[order].ravel(), other.ravel())[0, 1] > 0.99


def test_wide_tables_and_equal_rows() -> None:
    random = np.random.default_rng(5)
    wide = random.normal(size=(30, 200))
    batches = np.repeat([0, 1], 15)
    assert np.isfinite(harmonise_values(wide, batches).values).all()
    twice = np.repeat(wide[:15], 2, axis=0)
    assert np.isfinite(harmonise_values(twice, batches, HarmonyOptions(clusters=20)).values).all()
    with pytest.raises(InputError, match="All rows are the same"):
        harmonise_values(np.ones((30, 4)), batches)


def test_tables_keep_names_metadata_and_what_is_no_feature() -> None:
    values, batches, _ = experiment(6)
    names = [f"Cells_Feature_{number}" for number in range(WIDTH)]
    table = pd.DataFrame(values, columns=names)
    table.insert(0, "Metadata_Plate", [f"P{batch}" for batch in batches])
    table["Image_Count_Cells"] = 7
    moved, notes = harmonise(table)
    assert list(moved.columns) == list(table.columns)
    assert "3 batches" in notes[0]
    np.testing.assert_array_equal(moved[names], harmonise_values(values, batches).values)
    assert (moved["Image_Count_Cells"] == 7).all()


def test_bad_input_is_named() -> None:
    table = pd.DataFrame({"Metadata_Plate": ["a", "b", "b"], "Cells_X": [1.0, np.nan, 2.0], "Cells_Y": [1.0, 2.0, 3.0]})
    with pytest.raises(InputError, match="Cells_X"):
        harmonise(table)
    with pytest.raises(InputError, match="Metadata_Batch"):
        harmonise(table.fillna(0), by=["Metadata_Batch"])
    table.loc[0, "Metadata_Plate"] = None
    with pytest.raises(InputError, match="no value in Metadata_Plate"):
        harmonise(table.fillna({"Cells_X": 0}))
    with pytest.raises(InputError, match="softness"):
        HarmonyOptions(softness=0)
