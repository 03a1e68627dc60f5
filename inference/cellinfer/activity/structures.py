"""Structures as models see them, described in every way that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellinfer.activity.chemistry import morgan_fingerprints, read
from cellinfer.activity.digests import Digest
from cellinfer.activity.graphs import MoleculeGraphs, graphs_of_pickles, molecule_graphs

__all__ = ["Structures", "describe", "of_digest"]


@dataclass(frozen=True)
class Structures:
    """Structures, described.

    Attributes
    ----------
    smiles
        `(n,)`
    graphs
        As message passing networks see them; None if not asked for.
    fingerprints
        Radius and bits -> `(n, bits / 64)` uint64 packed Morgan fingerprints.
    """

    smiles: tuple[str, ...]
    graphs: MoleculeGraphs | None
    fingerprints: Mapping[tuple[int, int], NDArray[np.uint64]]

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.smiles)

    def take(self, rows: NDArray[np.integer]) -> Structures:
        """Return some of the structures, in the order asked for."""
        return Structures(
            tuple(self.smiles[row] for row in rows),
            None if self.graphs is None else self.graphs.take(rows),
            {kind: packed[rows] for kind, packed in self.fingerprints.items()},
        )


def describe(
    smiles: Sequence[str], *, graphs: bool = False, fingerprints: Collection[tuple[int, int]] = ()
) -> Structures:
    """Describe structures.

    Parameters
    ----------
    smiles
        n structures in their standard form.
    graphs
        Whether as graphs.
    fingerprints
        Radius and bits of each kind of Morgan fingerprints.

    Returns
    -------
    Structures

    Raises
    ------
    InputError
        If a structure cannot be read or described.
    """
    molecules = read(smiles)
    return Structures(
        tuple(smiles),
        molecule_graphs(molecules) if graphs else None,
        {kind: morgan_fingerprints(molecules, *kind) for kind in fingerprints},
    )


def of_digest(digest: Digest) -> tuple[Structures, dict[int, str]]:
    """Describe the structures of a digest that are `ok`.

    Returns
    -------
    structures : Structures
        Those that can be described, in order.
    unfit : dict
        Row of the digest of each other one -> why it cannot be.
    """
    graphs, problems = graphs_of_pickles(digest.pickles) if digest.pickles else (None, {})
    fit = np.array([place for place in range(len(digest.rows)) if place not in problems], np.int64)
    standard = [digest.smiles[row] for row in digest.rows[fit]]
    assert all(text is not None for text in standard)
    return Structures(
        tuple(text for text in standard if text is not None),
        graphs,
        {kind: packed[fit] for kind, packed in digest.fingerprints.items()},
    ), {int(digest.rows[place]): problem for place, problem in problems.items()}
