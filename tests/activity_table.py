"""A small table of assay results with known faults: drugs, their salts and stereoisomers, and made-up labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "S-ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "fluoxetine": "CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1",
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
    "atenolol": "CC(C)NCC(O)COc1ccc(CC(N)=O)cc1",
    "warfarin": "CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "naproxen": "C[C@H](C(=O)O)c1ccc2cc(OC)ccc2c1",
    "sulfamethoxazole": "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
    "isoniazid": "NNC(=O)c1ccncc1",
    "deuterated caffeine": "[2H]C([2H])([2H])n1cnc2c1c(=O)n(C)c(=O)n2C",
}


def labels(number: int, assays: int, rate: float = 0.3, seed: int = 0) -> np.ndarray:
    """Draw labels: 1, 0 and NaN."""
    random = np.random.default_rng(seed)
    drawn = (random.random((number, assays)) < rate).astype(float)
    drawn[random.random(drawn.shape) < 0.2] = np.nan
    return drawn


def drug_table(assays: int = 4, seed: int = 0) -> pd.DataFrame:
    """All drugs with labels, each assay with hits and inactives."""
    table = pd.DataFrame(labels(len(DRUGS), assays, seed=seed), columns=[f"a{one}" for one in range(assays)])
    for place in range(assays):  # no assay has the hits of another
        table.loc[place, f"a{place}"] = 1
        table.loc[place + assays, f"a{place}"] = 0
    table.insert(0, "SMILES", list(DRUGS.values()))
    table.insert(0, "name", list(DRUGS))
    return table


def write(table: pd.DataFrame, folder: Path, name: str = "table.csv") -> Path:
    """Write a table as CSV."""
    path = folder / name
    table.to_csv(path, index=False)
    return path
