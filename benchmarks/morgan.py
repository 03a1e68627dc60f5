"""Morgan fingerprints of molecules that RDKit has read: our kernel on their pickles beside RDKit's own generator.

The kernel's time holds reading the pickles; writing them is not in it, for they are written to hand molecules from one
process to another anyway, and serve for graphs as well. One thread each, and every bit must be the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _peers import alternate, report
from cellinfer.activity.chemistry import morgan_fingerprints
from cellinfer.activity.molecules import read_molecules
from cellinfer.activity.pickles import fingerprints_of_pickles
from rdkit import Chem, rdBase


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="table with SMILES")
    parser.add_argument("--compounds", type=int, default=16_170)
    parser.add_argument("--radius", type=int, default=2)
    parser.add_argument("--bits", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = [one for piece in read_molecules(options.table) for one in piece["SMILES"]][: options.compounds]
    with rdBase.BlockLogs():
        molecules = [molecule for molecule in map(Chem.MolFromSmiles, texts) if molecule is not None]
    pickles = [molecule.ToBinary(0) for molecule in molecules]
    kind = options.radius, options.bits
    seconds, answers = alternate(
        {
            "cellinfer": lambda: fingerprints_of_pickles(pickles, *kind),
            "RDKit MorganGenerator": lambda: morgan_fingerprints(molecules, *kind, threads=1),
        },
        options.rounds,
    )
    np.testing.assert_array_equal(*answers.values())
    report(
        "morgan",
        f"Morgan fingerprints of {len(molecules):,} molecules, radius {options.radius}, {options.bits} bits",
        "cellinfer",
        seconds,
        ["cellinfer", "rdkit", "numpy", "numba"],
        structures=options.table.name,
    )


if __name__ == "__main__":
    main()
