"""Plain twin of `cellinfer_kernels.morgan`: environments as sets of bonds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels.molpickles import Pickled


def _hash(values: Iterable[int], seed: int = 0) -> int:
    for value in values:
        seed ^= ((value % 2**32) + 0x9E3779B9 + (seed << 6) + (seed >> 2)) % 2**32
    return seed


def morgan_fingerprints(
    molecules: Pickled, radius: int = 2, bits: int = 2048, excess: ArrayLike | None = None
) -> NDArray[np.uint64]:
    """See `cellinfer_kernels.morgan.morgan_fingerprints`."""
    heavier = [0] * len(molecules.atoms) if excess is None else np.asarray(excess).tolist()
    rows = np.zeros((len(molecules.known), bits), bool)
    for molecule, known in enumerate(molecules.known):
        if known:
            atoms = slice(*molecules.atom_starts[molecule : molecule + 2])
            bonds = slice(*molecules.bond_starts[molecule : molecule + 2])
            found = _environments(
                molecules.atoms[atoms].tolist(),
                molecules.bonds[bonds].tolist(),
                molecules.ends[bonds].tolist(),
                heavier[atoms],
                radius,
            )
            rows[molecule, [each % bits for each in found]] = True
    return np.packbits(rows, axis=1, bitorder="little").view(np.uint64)


def _environments(
    atoms: list[list[int]], bonds: list[list[int]], ends: list[list[int]], excess: list[int], radius: int
) -> list[int]:
    """Return the hash of each environment that counts."""
    around: list[list[tuple[int, int]]] = [[] for _ in atoms]  # of each atom: the bond, and whom it leads to
    for bond, (one, other) in enumerate(ends):
        around[one].append((bond, other))
        around[other].append((bond, one))
    hashes = []
    for atom, (number, _, degree, charge, _, hydrogens, _, _) in enumerate(atoms):
        hydrogens += sum(atoms[other][0] == 1 for _, other in around[atom])
        ring = [1] if any(bonds[bond][2] for bond, _ in around[atom]) else []
        hashes.append(_hash([number, degree, hydrogens, charge, excess[atom], *ring]))
    found = list(hashes)
    held: list[frozenset[int]] = [frozenset()] * len(atoms)
    seen: set[frozenset[int]] = set()
    alive = {atom for atom in range(len(atoms)) if around[atom]}
    for step in range(radius):
        grown, wider = [0] * len(atoms), list(held)
        for atom in alive:
            neighbours = sorted((bonds[bond][0], hashes[other]) for bond, other in around[atom])
            grown[atom] = _hash([hashes[atom], *(_hash(pair) for pair in neighbours)], step)
            wider[atom] = held[atom].union(*({bond} | held[other] for bond, other in around[atom]))
        for value, atom in sorted((grown[atom], atom) for atom in alive):
            if wider[atom] in seen:
                alive.remove(atom)
            else:
                seen.add(wider[atom])
                found.append(value)
        hashes, held = grown, wider
    return found
