"""Made-up compounds whose activity follows from their structure, for tests of what learns from structures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

CORES = (
    "c1ccc({})cc1",
    "c1cc({})ccn1",
    "C1CCN({})CC1",
    "c1ccc2c(c1)cc({})[nH]2",
    "C1CCC({})CC1",
    "c1csc({})c1",
    "O=C1CCC({})N1",
    "CC(C)CC({})C",
    "c1ccc2ncc({})cc2c1",
    "CCOC(=O)C({})C",
    "C1COCC({})O1",
    "c1nc({})cs1",
    "C#CCC({})CC",
    "Clc1ccc({})c(F)c1",
)
SIDES = (
    "S(=O)(=O)N",
    "S(=O)(=O)NC",
    "C(=O)O",
    "C(=O)NC",
    "CCO",
    "C#N",
    "C(F)(F)F",
    "CN(C)C",
    "/C=C/C",
    "[C@H](C)CC",
    "CCBr",
    "CC(=O)C",
    "CS(=O)(=O)C",
    "CCCl",
    "CCS(=O)(=O)NCC",
)
ODD = (
    "C",
    "[Na+].[Cl-]",
    "O",
    "[2H]C([2H])Cl",
    "C[Si](C)(C)C",
    "FS(F)(F)(F)(F)F",
    "c1ccccc1.CCO",
    "[U]",
    "*CC",
    "[nH]1cccc1",
)
"""One atom, no bonds, isotopes, many neighbours, several fragments, atoms that no description knows."""
SULFONAMIDE = "S(=O)(=O)N"


def compounds() -> list[str]:
    """Return 210 different structures."""
    return [Chem.CanonSmiles(core.format(side)) for core in CORES for side in SIDES]


def has(smiles: list[str], pattern: str) -> NDArray[np.int8]:
    """Return 1 for each structure that has a pattern, else 0."""
    query = Chem.MolFromSmarts(pattern)
    return np.array([Chem.MolFromSmiles(text).HasSubstructMatch(query) for text in smiles], np.int8)


def shuffled(smiles: str, seed: int) -> str:
    """Return the same structure, its atoms in another order."""
    molecule = Chem.MolFromSmiles(smiles)
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms()).tolist()
    return str(Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False))
