"""Structures read in processes: as in this one, in order; and none is left behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cellinfer.activity import processes
from cellinfer.activity.chemistry import PUBLISHED, Standardisation, fingerprints
from cellinfer.activity.digests import Digest, Wanted, digest, joined
from cellinfer.activity.graphs import read_graphs
from cellinfer.activity.molecules import standardise
from cellinfer.activity.processes import Readers
from cellinfer.activity.structures import of_digest
from cellinfer.errors import EngineError

from tests.activity_table import DRUGS
from tests.compounds import ODD, compounds, shuffled

SMILES = [*DRUGS.values(), "c1ccccc", "", "µ", "[Na+].[Cl-]", *compounds()]
EVERYTHING = Wanted(pickles=True)
KINDS = ((2, 2048), (3, 512))


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTHWHILE", 50)
    monkeypatch.setattr(processes, "_CHUNK", 7)


def assert_same(one: Digest, other: Digest) -> None:
    assert (one.smiles, one.status, one.detail) == (other.smiles, other.status, other.detail)
    np.testing.assert_array_equal(one.rows, other.rows)
    assert one.pickles == other.pickles


def test_processes_give_what_this_one_does() -> None:
    with Readers(2) as readers:
        for how in (Standardisation(), PUBLISHED, None, Standardisation(salts="refuse", largest=12)):
            wanted = replace(EVERYTHING, how=how)
            assert_same(readers.begin(SMILES, wanted)(), digest(SMILES, wanted))
        assert_same(readers.begin(SMILES, Wanted())(), digest(SMILES, Wanted()))
        both = [readers.begin(some, EVERYTHING) for some in (SMILES[:60], SMILES[50:])]  # one while the other is asked
        assert_same(both[1](), digest(SMILES[50:], EVERYTHING))
        assert_same(both[0](), digest(SMILES[:60], EVERYTHING))
        assert_same(readers.begin(SMILES[:3], EVERYTHING)(), digest(SMILES[:3], EVERYTHING))
        assert_same(readers.begin([], EVERYTHING)(), digest([], EVERYTHING))
        children = list(readers._children)
        assert len(children) == 2
    assert [child.returncode for child in children] == [0, 0]


def test_a_digest_holds_the_standard_form() -> None:
    """However a structure was written: what models see is what they see of the standard form."""
    written = [*(shuffled(text, 1) for text in compounds()[::4]), *SMILES, *ODD, "[513C]"]
    for how in (Standardisation(), PUBLISHED):
        found = digest(written, replace(EVERYTHING, how=how))
        expected = standardise(written, how)
        assert found.smiles == expected["smiles"].tolist()
        assert found.detail == expected["detail"].tolist()
        assert found.status == expected["status"].tolist()
        assert found.rows.tolist() == np.flatnonzero(expected["status"] == "ok").tolist()
        structures, unfit = of_digest(found, graphs=True, fingerprints=KINDS)
        beyond = written.index("[513C]")
        assert list(unfit) == [beyond]
        assert "cannot be described" in unfit[beyond]
        standard = [found.smiles[row] for row in found.rows if row != beyond]
        assert list(structures.smiles) == standard
        for name in ("atoms", "bonds", "ends", "atom_starts", "bond_starts"):
            assert structures.graphs is not None
            np.testing.assert_array_equal(getattr(structures.graphs, name), getattr(read_graphs(standard), name))
        for (radius, bits), packed in structures.fingerprints.items():
            np.testing.assert_array_equal(packed, fingerprints(standard, radius=radius, bits=bits))


def test_without_a_standard_form_structures_are_those_that_were_written() -> None:
    written = ["OCC", " C(C)O", "N[C@H](C)C(=O)O", "N[C@@H](C(=O)O)C", "C1CC", ""]
    found = digest(written, Wanted(None, pickles=True))
    assert found.smiles == ["OCC", "C(C)O", *written[2:4], None, None]
    assert found.status == ["ok"] * 4 + ["invalid SMILES", "empty"]
    structures, _ = of_digest(found, graphs=True)
    assert structures.graphs is not None
    np.testing.assert_array_equal(structures.graphs.atoms, read_graphs(written[:4]).atoms)


def test_a_standard_form_that_cannot_be_read_is_told_of() -> None:
    found = digest(["CCO", "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "CN"], EVERYTHING)
    assert found.status == ["ok", "not standardised", "ok"]
    assert "c1cccc1" in found.detail[1]
    assert found.rows.tolist() == [0, 2]


def test_nothing_joined_is_nothing() -> None:
    assert_same(joined([], EVERYTHING), digest([], EVERYTHING))


def test_few_structures_need_no_process() -> None:
    with Readers(2) as readers:
        readers.begin(SMILES[:20], EVERYTHING)()
        assert not readers._children
    with Readers(1) as readers:
        readers.begin(SMILES, EVERYTHING)()
        assert not readers._children


def test_a_process_that_ends_is_told_of() -> None:
    with pytest.raises(EngineError, match="ended with code"), Readers(2) as readers:
        readers.begin(SMILES, EVERYTHING)()
        for child in readers._children:
            child.kill()
            child.wait()
        readers.begin(SMILES, EVERYTHING)()
    assert not readers._children


def test_an_interruption_ends_processes() -> None:
    with pytest.raises(KeyboardInterrupt), Readers(2) as readers:
        readers.begin(SMILES, EVERYTHING)()
        children = list(readers._children)
        readers.begin(SMILES * 20, EVERYTHING)  # which nobody waits for
        raise KeyboardInterrupt
    assert all(child.returncode is not None for child in children)
