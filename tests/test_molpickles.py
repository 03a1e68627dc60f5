"""RDKit's pickles, read at once: the kernel against its twin, and both against RDKit's own words, atom by atom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import graphs, pickles
from cellinfer_kernels import molpickles
from cellinfer_kernels.reference import molpickles as twin
from rdkit import Chem

from tests.compounds import ODD, compounds, shuffled

HARD = (
    *ODD,
    "C" * 300,  # atoms are counted in 32 bits
    "[NH3]->[Cu]",  # a dative bond
    "[CH3:7]O",  # an atom map
    "C[CH2]",
    "[OH2+]C",
    "[Fe+2]",
    "I/C=C\\I",
    "C1CC1C1CC1",
    "C1CC12CC2",
    "c1ccc2c(c1)C1CCC2C1",
    "[C@](F)(Cl)(Br)I",
    "C[S@](=O)c1ccccc1",
    "Cl[Pt@SP1](F)(Br)I",
    "[238U]",
    "C[N+](=O)[O-]",
    "F[P-](F)(F)(F)(F)F",
)


def packed(molecules: Sequence[Chem.Mol]) -> tuple[np.ndarray, np.ndarray]:
    pickles = [molecule.ToBinary(0) for molecule in molecules]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in pickles])])
    return np.frombuffer(b"".join(pickles), np.uint8), starts


def read(smiles: Sequence[str]) -> list[Chem.Mol]:
    return [Chem.MolFromSmiles(text) for text in smiles]


def assert_same(one: graphs.MoleculeGraphs, other: graphs.MoleculeGraphs) -> None:
    for each in fields(one):
        np.testing.assert_array_equal(getattr(one, each.name), getattr(other, each.name), err_msg=each.name)


def test_the_kernel_equals_its_twin() -> None:
    molecules = read([*compounds()[::3], *HARD, *(shuffled(text, 3) for text in compounds()[::10])])
    found, expected = molpickles.read_pickles(*packed(molecules)), twin.read_pickles(*packed(molecules))
    np.testing.assert_array_equal(found.known, expected.known)
    np.testing.assert_array_equal(found.atom_starts, expected.atom_starts)
    np.testing.assert_array_equal(found.bond_starts, expected.bond_starts)
    atoms = np.repeat(found.known, np.diff(found.atom_starts))
    bonds = np.repeat(found.known, np.diff(found.bond_starts))
    np.testing.assert_array_equal(found.atoms[atoms], expected.atoms[atoms])
    np.testing.assert_array_equal(found.bonds[bonds], expected.bonds[bonds])
    np.testing.assert_array_equal(found.ends[bonds], expected.ends[bonds])
    strange = [Chem.MolToSmiles(molecule) for molecule, known in zip(molecules, found.known, strict=True) if not known]
    assert strange == ["*CC", "[NH3]->[Cu]", "O[CH3:7]"]


def test_graphs_are_those_of_rdkits_own_words() -> None:
    assert graphs.pickles_are_known()
    molecules = read([*compounds(), *HARD, *(shuffled(text, 5) for text in compounds())])
    assert_same(graphs.molecule_graphs(molecules), graphs.graphs_by_atoms(molecules))
    assert_same(graphs.molecule_graphs([]), graphs.graphs_by_atoms([]))
    many = molecules[:5] * 500
    assert_same(graphs.molecule_graphs(many), graphs.graphs_by_atoms(many))


def test_another_format_is_read_atom_by_atom_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    molecules = read(compounds()[:5])
    monkeypatch.setattr(pickles, "FORMAT", 99)
    graphs.pickles_are_known.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert_same(graphs.molecule_graphs(molecules), graphs.graphs_by_atoms(molecules))
            graphs.molecule_graphs(molecules)
        assert len(caplog.records) == 1
        assert "atom by atom" in caplog.text
    finally:
        graphs.pickles_are_known.cache_clear()


def test_damaged_pickles_are_not_followed() -> None:
    content, starts = packed(read(compounds()[:20]))
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = content.copy()
        molecule = int(random.integers(len(starts) - 1))
        damaged[random.integers(starts[molecule] + 28, starts[molecule + 1])] = random.integers(256)
        found = molpickles.read_pickles(damaged, starts)
        assert found.known.sum() >= len(starts) - 2
        np.testing.assert_array_equal(found.known, twin.read_pickles(damaged, starts).known)


def test_what_is_no_pickle_is_refused() -> None:
    content, starts = packed(read(["CCO", "C"]))
    with pytest.raises(ValueError, match="do not divide"):
        molpickles.read_pickles(content, starts[:-1])
    with pytest.raises(ValueError, match="do not divide"):
        molpickles.read_pickles(content, [0, 5, len(content)])
    with pytest.raises(ValueError, match="no molecules"):
        molpickles.read_pickles(np.zeros(100, np.uint8), [0, 100])
    with pytest.raises(ValueError, match="no molecule"):
        molpickles.pickle_version(b"nothing")
    assert molpickles.pickle_version(Chem.MolFromSmiles("C").ToBinary())[0] == 16
    assert len(molpickles.read_pickles([], [0]).known) == 0


@pytest.mark.realdata
def test_real_compounds_are_read_as_rdkit_has_them(data_folder: Path) -> None:
    path = data_folder / "activity/moshkov2023/compounds16170.csv.gz"
    molecules = read(pd.read_csv(path)["smiles"].tolist()[::40])
    assert_same(graphs.molecule_graphs(molecules), graphs.graphs_by_atoms(molecules))
    assert molpickles.read_pickles(*packed(molecules)).known.mean() > 0.99
