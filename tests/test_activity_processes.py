"""Structures standardised in processes: as in this one, in order; and none is left behind."""

from __future__ import annotations

import pandas as pd
import pytest
from cellinfer.activity import processes
from cellinfer.activity.chemistry import PUBLISHED, Standardisation
from cellinfer.activity.molecules import standardise
from cellinfer.activity.processes import Standardiser
from cellinfer.errors import EngineError

from tests.activity_table import DRUGS
from tests.compounds import compounds

SMILES = [*DRUGS.values(), "c1ccccc", "", "µ", "[Na+].[Cl-]", *compounds()]


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTHWHILE", 50)
    monkeypatch.setattr(processes, "_CHUNK", 7)


def test_processes_give_what_this_one_does() -> None:
    with Standardiser(2) as standardiser:
        for how in (Standardisation(), PUBLISHED, Standardisation(salts="refuse", largest=12)):
            pd.testing.assert_frame_equal(standardiser.standardise(SMILES, how), standardise(SMILES, how))
        pd.testing.assert_frame_equal(standardiser.standardise(SMILES[:3]), standardise(SMILES[:3]))
        children = list(standardiser._children)
        assert len(children) == 2
    assert [child.returncode for child in children] == [0, 0]


def test_few_structures_need_no_process() -> None:
    with Standardiser(2) as standardiser:
        standardiser.standardise(SMILES[:20])
        assert not standardiser._children
    with Standardiser(1) as standardiser:
        standardiser.standardise(SMILES)
        assert not standardiser._children


def test_a_process_that_ends_is_told_of() -> None:
    with pytest.raises(EngineError, match="ended with code"), Standardiser(2) as standardiser:
        standardiser.standardise(SMILES)
        for child in standardiser._children:
            child.kill()
            child.wait()
        standardiser.standardise(SMILES)
    assert not standardiser._children


def test_an_interruption_ends_processes() -> None:
    with pytest.raises(KeyboardInterrupt), Standardiser(2) as standardiser:
        standardiser.standardise(SMILES)
        children = list(standardiser._children)
        raise KeyboardInterrupt
    assert all(child.returncode is not None for child in children)
