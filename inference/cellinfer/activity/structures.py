"""Structures as models see them, described in every way that is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellinfer.activity.chemistry import read
from cellinfer.activity.digests import Digest
from cellinfer.activity.graphs import MoleculeGraphs, graphs_of_pickles, pickles_are_known
from cellinfer.activity.pickles import fingerprints_of_pickles, kernel_agrees
from cellinfer.errors import InputError

__all__ = ["Structures", "describe", "kernels_agree", "of_digest"]


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


def kernels_agree() -> bool:
    """Tell whether kernels read molecules and make fingerprints as this version of RDKit does; it is logged if not."""
    return pickles_are_known() and kernel_agrees()


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
    pickles = [molecule.ToBinary(0) for molecule in read(smiles)]
    found, unfit = _of_pickles(smiles, pickles, graphs, fingerprints)
    for problem in unfit.values():
        raise InputError(problem)
    return found


def of_digest(
    digest: Digest, *, graphs: bool = False, fingerprints: Collection[tuple[int, int]] = ()
) -> tuple[Structures, dict[int, str]]:
    """Describe the structures of a digest that are `ok`; see `describe`.

    Returns
    -------
    structures : Structures
        Those that can be described, in order.
    unfit : dict
        Row of the digest of each other one -> why it cannot be.
    """
    standard = [text for text in digest.smiles if text is not None]
    found, unfit = _of_pickles(standard, digest.pickles, graphs, fingerprints)
    return found, {int(digest.rows[place]): problem for place, problem in unfit.items()}


def _of_pickles(
    smiles: Sequence[str], pickles: Sequence[bytes], graphs: bool, fingerprints: Collection[tuple[int, int]]
) -> tuple[Structures, dict[int, str]]:
    """Describe what can be described of molecules as RDKit pickles them; say why the others, by place, cannot be."""
    described, unfit = graphs_of_pickles(pickles) if graphs else (None, {})
    every = {kind: fingerprints_of_pickles(pickles, *kind) for kind in fingerprints}
    fit = np.array([place for place in range(len(smiles)) if place not in unfit], np.int64)
    return Structures(
        tuple(smiles[place] for place in fit), described, {kind: packed[fit] for kind, packed in every.items()}
    ), unfit
