"""Morgan fingerprints from RDKit's pickles: the kernel against its twin, and both against RDKit, bit by bit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cellinfer.activity import pickles
from cellinfer.activity.chemistry import morgan_fingerprints
from cellinfer.activity.pickles import fingerprints_of_pickles
from cellinfer.errors import InputError
from cellinfer_kernels import morgan
from cellinfer_kernels.molpickles import Pickled, read_pickles
from cellinfer_kernels.reference import morgan as twin
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from tests.compounds import ODD, compounds, shuffled
from tests.test_molpickles import HARD, packed, read

ISOTOPES = (
    "[2H]C",
    "[3H]C",
    "[11CH4]",
    "[13CH3]C",
    "[18OH2]",
    "[37Cl]C",
    "[123I]C",
    "[300CH4]",
    "[1H]C",
    "[14cH]1ccccc1",
)
SYMMETRIC = (
    "C12C3C4C1C5C2C3C45",  # cubane: every environment has seven twins
    "C1CCCCCCCCCCCCCCCCCCCCCCC1",
    "CC(C)(C)C(C)(C)C",
    "C1CC2CCC1CC2",
    "[O-][Cl+3]([O-])([O-])[O-].[K+]",
    "c1ccc2c(c1)ccc1ccccc12",
    "CC",
)
KINDS = [(0, 1024), (1, 64), (2, 2048), (3, 512), (6, 4096)]


def on_real_molecules() -> list[Chem.Mol]:
    texts = [*compounds(), *HARD, *ODD, *ISOTOPES, *SYMMETRIC, *(shuffled(text, 2) for text in compounds()[::3])]
    return read(texts)


@pytest.mark.parametrize(("radius", "bits"), KINDS)
def test_fingerprints_are_rdkits(radius: int, bits: int) -> None:
    assert pickles.kernel_agrees(radius, bits)
    molecules = on_real_molecules()
    found = fingerprints_of_pickles([molecule.ToBinary(0) for molecule in molecules], radius, bits)
    np.testing.assert_array_equal(found, morgan_fingerprints(molecules, radius, bits))


@given(
    atoms=st.lists(
        st.tuples(st.integers(1, 53), st.integers(0, 4), st.integers(-2, 2), st.integers(-9, 9)), max_size=9
    ),
    pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from([1, 2, 3, 12]), st.booleans())),
    radius=st.integers(0, 4),
)
def test_the_kernel_equals_its_twin(
    atoms: list[tuple[int, ...]], pairs: list[tuple[int, int, int, bool]], radius: int
) -> None:
    """Graphs as no chemist draws them, in which most environments hold the same bonds; the last is not known."""
    unique = {frozenset(pair[:2]): pair for pair in pairs if pair[0] != pair[1] and max(pair[:2]) < len(atoms)}
    rows = np.zeros((len(atoms), 8), np.int64)
    for row, (number, hydrogens, charge, _) in enumerate(atoms):
        rows[row, [0, 2, 3, 5]] = number, hydrogens + sum(row in pair for pair in unique), charge, hydrogens
    bonds = np.array([(kind, 0, ring, 0) for *_, kind, ring in unique.values()], np.int64).reshape(-1, 4)
    ends = np.array([pair[:2] for pair in unique.values()], np.int64).reshape(-1, 2)
    twice = Pickled(
        np.vstack([rows, rows]),
        np.vstack([bonds, bonds]),
        np.vstack([ends, ends]),
        np.array([0, len(rows), 2 * len(rows)]),
        np.array([0, len(bonds), 2 * len(bonds)]),
        np.array([True, False]),
    )
    excess = np.array([each[-1] for each in atoms] * 2, np.int64)
    found = morgan.morgan_fingerprints(twice, radius, 256, excess)
    np.testing.assert_array_equal(found, twin.morgan_fingerprints(twice, radius, 256, excess))
    assert not found[1].any()
    assert found[0].any() == bool(atoms)


def test_the_order_of_atoms_does_not_matter() -> None:
    texts = compounds()[::5]
    one, other = (
        fingerprints_of_pickles([molecule.ToBinary(0) for molecule in read([shuffled(text, seed) for text in texts])])
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(one, other)


def test_another_version_of_rdkit_is_asked_itself_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    molecules = read(compounds()[:5])
    binaries = [molecule.ToBinary(0) for molecule in molecules]
    expected = morgan_fingerprints(molecules)
    for name, value in (("FORMAT", 99), ("fingerprints_by_kernel", lambda *_: np.zeros((len(pickles.PROBES), 32)))):
        pickles.kernel_agrees.cache_clear()
        caplog.clear()
        with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
            patched.setattr(pickles, name, value)
            for _ in range(2):
                np.testing.assert_array_equal(fingerprints_of_pickles(binaries), expected)
        assert len(caplog.records) == 1
        assert "other Morgan fingerprints" in caplog.text
    pickles.kernel_agrees.cache_clear()


def test_what_cannot_be_is_refused() -> None:
    molecules = read_pickles(*packed(read(["CCO"])))
    for wrong in ({"radius": -1}, {"bits": 100}, {"bits": 0}, {"excess": [0, 0]}):
        with pytest.raises(ValueError, match=r"must"):
            morgan.morgan_fingerprints(molecules, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="multiples of 64"):
        fingerprints_of_pickles([], bits=100)
    assert fingerprints_of_pickles([]).shape == (0, 32)


@pytest.mark.realdata
def test_fingerprints_of_drugs_are_rdkits(data_folder: Path) -> None:
    texts = pd.read_csv(data_folder / "activity/moshkov2023/compounds16170.csv.gz")["smiles"][::4]
    with rdBase.BlockLogs():
        molecules = [molecule for molecule in map(Chem.MolFromSmiles, texts) if molecule is not None]
    found = fingerprints_of_pickles([molecule.ToBinary(0) for molecule in molecules])
    np.testing.assert_array_equal(found, morgan_fingerprints(molecules))
