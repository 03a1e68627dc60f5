"""Nearest neighbour by Tanimoto similarity: cellinfer beside RDKit's BulkTanimotoSimilarity.

The question is that of a leakage report: for some compounds, the most similar one of all others of another fold. Both
get the same Morgan fingerprints, and must give the same similarities. One thread each; `--threads` is for ours on all
compounds. Structures are those of a table with a SMILES column (`--table`), in folds by scaffold, else random
fingerprints of a drug's density. (RDKit returns all similarities, ours the largest one, which lets it skip some.)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from _peers import alternate, report
from cellinfer.activity.chemistry import fingerprints, scaffold
from cellinfer.activity.leakage import nearest_in_training
from cellinfer.activity.molecules import read_molecules
from cellinfer.activity.splits import scaffold_folds
from cellinfer_kernels.tanimoto import nearest, pack
from numpy.typing import NDArray
from rdkit import DataStructs


def compounds(table: Path | None, number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return fingerprints and folds of a table's compounds, or random ones."""
    if table is None:
        random = np.random.default_rng(0)
        return pack(random.random((number, 2048)) < 0.025), random.integers(0, 5, number)
    smiles = [one for piece in read_molecules(table) for one in piece["SMILES"]][:number]
    return fingerprints(smiles), scaffold_folds([scaffold(one) for one in smiles], 5)


def vectors(words: NDArray[np.uint64]) -> list[DataStructs.ExplicitBitVect]:
    """Return the same fingerprints as RDKit's."""
    found = []
    for row in np.unpackbits(words.view(np.uint8), axis=1, bitorder="little"):
        vector = DataStructs.ExplicitBitVect(len(row))
        vector.SetBitsFromList(np.flatnonzero(row).tolist())
        found.append(vector)
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="table with SMILES")
    parser.add_argument("--compounds", type=int, default=16_170)
    parser.add_argument("--queries", type=int, default=300, help="that the peer is asked as well")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of ours in the search of all compounds")
    options = parser.parse_args()
    words, folds = compounds(options.table, options.compounds)
    known = vectors(words)
    others = {fold: [known[place] for place in np.flatnonzero(folds != fold)] for fold in range(5)}
    asked = np.random.default_rng(2).permutation(len(words))[: options.queries]

    def ours() -> NDArray[np.float64]:
        return nearest(words[asked], words, folds[asked], folds).similarity

    def theirs() -> NDArray[np.float64]:
        return np.array([max(DataStructs.BulkTanimotoSimilarity(known[one], others[folds[one]])) for one in asked])

    seconds, answers = alternate({"cellinfer": ours, "RDKit BulkTanimotoSimilarity": theirs}, options.rounds)
    np.testing.assert_array_equal(*answers.values())
    start = time.perf_counter()
    nearest_in_training(words, folds, threads=options.threads)
    everything = time.perf_counter() - start
    print(f"all {len(words):,} against all other folds: {everything:.2f} s on {options.threads} threads")
    report(
        "tanimoto",
        f"nearest neighbour of {len(asked)} compounds among {len(words):,} of other folds, Morgan 2, 2048 bits",
        "cellinfer",
        seconds,
        ["cellinfer", "rdkit", "numpy", "numba"],
        structures=options.table.name if options.table else "random fingerprints, 2.5 % of bits",
        all_against_all_s=round(everything, 3),
        all_against_all_threads=options.threads,
    )


if __name__ == "__main__":
    main()
