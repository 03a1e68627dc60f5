"""Morgan fingerprints of molecules that were read from RDKit's pickles, bit by bit those of RDKit.

Rogers and Hahn, Extended-connectivity fingerprints, Journal of Chemical Information and Modeling 50, 2010, as RDKit's
`GetMorganGenerator` makes them by default: an atom begins as a hash of its atomic number, total degree, hydrogens,
charge, what its isotope weighs more, and whether it is in a ring; at each step it is hashed with its neighbours, by
kind of bond. Of environments that hold the same bonds, the first one counts, and its twins grow no further.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.molpickles import Pickled, bonds_at


def morgan_fingerprints(
    molecules: Pickled, radius: int = 2, bits: int = 2048, excess: ArrayLike | None = None
) -> NDArray[np.uint64]:
    """Return Morgan fingerprints, packed as `cellinfer_kernels.tanimoto` takes them.

    Parameters
    ----------
    molecules
        M molecules with A atoms; the row of one that is not known is empty.
    radius
        Steps, from 0 on.
    bits
        Of a fingerprint; a multiple of 64.
    excess
        `(A,)` whole daltons by which the isotope of each atom is heavier than its element on average, towards 0; None:
        no isotopes.

    Returns
    -------
    ndarray of shape (M, bits / 64), uint64

    Raises
    ------
    ValueError
        If the radius is negative, the bits are no multiple of 64, or there is not an excess for each atom.
    """
    if radius < 0 or bits < 64 or bits % 64:
        raise ValueError("the radius must not be negative, and bits must come in multiples of 64")
    heavier = np.zeros(len(molecules.atoms), np.int64) if excess is None else np.ascontiguousarray(excess, np.int64)
    if heavier.shape != (len(molecules.atoms),):
        raise ValueError("there must be an excess of mass for each atom")
    found: NDArray[np.uint64] = _fingerprints(*molecules, heavier, radius, bits)
    return found


@inlined
def _mixed(seed: Any, value: Any) -> Any:
    """Mix a value into a hash of 32 bits (boost's `hash_combine`)."""
    return seed ^ ((value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & 0xFFFFFFFF)


@inlined
def _first_hashes(atoms: Any, bonds: Any, ends: Any, excess: Any) -> Any:
    rings = np.zeros(len(atoms), np.bool_)
    hydrogens = atoms[:, 5].copy()
    for row in range(len(bonds)):
        if bonds[row, 2]:
            rings[ends[row, 0]] = rings[ends[row, 1]] = True
        for side in range(2):
            hydrogens[ends[row, side]] += atoms[ends[row, 1 - side], 0] == 1
    hashes = np.zeros(len(atoms), np.int64)
    for row in range(len(atoms)):
        for value in (atoms[row, 0], atoms[row, 2], hydrogens[row], atoms[row, 3], excess[row]):
            hashes[row] = _mixed(hashes[row], value & 0xFFFFFFFF)
        if rings[row]:
            hashes[row] = _mixed(hashes[row], 1)
    return hashes


@inlined
def _grown_hash(step: Any, own: Any, around: Any) -> Any:
    """Hash an atom with its neighbours: kinds of bonds (upper half) and hashes, which are put in order."""
    for row in range(1, len(around)):
        value, place = around[row], row
        while place and around[place - 1] > value:
            around[place] = around[place - 1]
            place -= 1
        around[place] = value
    found = _mixed(np.int64(step), own)
    for pair in around:
        found = _mixed(found, _mixed(_mixed(np.int64(0), pair >> 32), pair & 0xFFFFFFFF))
    return found


@inlined
def _equal(one: Any, row: Any, other: Any, place: Any) -> Any:
    """Tell whether two rows are the same; most differ in their first word."""
    for word in range(one.shape[1]):
        if one[row, word] != other[place, word]:
            return False
    return True


@inlined
def _grow(atoms: Any, bonds: Any, ends: Any, hashes: Any, radius: Any, bits: Any, packed: Any) -> Any:
    """Grow the environments of a molecule's atoms, and set the bits of those that are new."""
    count, words = len(atoms), (len(bonds) + 63) // 64
    begin, touching = bonds_at(ends, count)
    covered = np.zeros((count, words), np.uint64)  # the bonds of each atom's environment
    seen = np.empty((count * radius, words), np.uint64)
    known = 0
    dead = np.zeros(count, np.bool_)
    around = np.empty(len(touching), np.int64)
    for step in range(radius):
        grown = np.zeros(count, np.int64)
        wider = covered.copy()
        for atom in range(count):
            if begin[atom + 1] == begin[atom]:
                dead[atom] = True
            if dead[atom]:
                continue
            for place in range(begin[atom], begin[atom + 1]):
                bond = touching[place]
                other = ends[bond, 0] + ends[bond, 1] - atom
                wider[atom, bond >> 6] |= np.uint64(1) << np.uint64(bond & 63)
                for word in range(words):
                    wider[atom, word] |= covered[other, word]
                around[place] = (bonds[bond, 0] << 32) | hashes[other]
            grown[atom] = _grown_hash(step, hashes[atom], around[begin[atom] : begin[atom + 1]])
        before = known
        for atom in range(count):
            if dead[atom]:
                continue
            first = True  # among those of this step with the same bonds, by hash and then by atom
            for other in range(count):
                if other == atom or (dead[other] and grown[other] == 0) or not _equal(wider, atom, wider, other):
                    continue
                if grown[other] < grown[atom] or (grown[other] == grown[atom] and other < atom):
                    first = False
                    break
            for row in range(before):
                if not first:
                    break
                first = not _equal(wider, atom, seen, row)
            if first:
                for word in range(words):
                    seen[known, word] = wider[atom, word]
                known += 1
                bit = grown[atom] % bits
                packed[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
            else:
                dead[atom] = True
        hashes[:] = grown
        covered = wider


@kernel
def _fingerprints(
    atoms: Any,
    bonds: Any,
    ends: Any,
    atom_starts: Any,
    bond_starts: Any,
    known: Any,
    excess: Any,
    radius: Any,
    bits: Any,
) -> Any:
    packed = np.zeros((len(known), bits // 64), np.uint64)
    for molecule in range(len(known)):
        if not known[molecule]:
            continue
        one, after = atom_starts[molecule], atom_starts[molecule + 1]
        first, last = bond_starts[molecule], bond_starts[molecule + 1]
        own, between, pairs = atoms[one:after], bonds[first:last], ends[first:last]
        hashes = _first_hashes(own, between, pairs, excess[one:after])
        for row in range(len(own)):
            bit = hashes[row] % bits
            packed[molecule, bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
        _grow(own, between, pairs, hashes, radius, bits, packed[molecule])
    return packed
