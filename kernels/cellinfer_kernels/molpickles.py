"""Molecules as RDKit pickles them (`Mol.ToBinary`): atoms and bonds as numbers, without a call for each.

The layout is that of RDKit's `MolPickler` from format 7 on, as far as the bonds; of whatever else there is in a
molecule (queries, atom maps, labels of dummies, monomers, bonds that are neither single, double, triple nor aromatic)
the reader says that it does not know it. Whether a bond is in a ring follows from the graph: it is if it is no bridge
(Tarjan, A note on finding the bridges of a graph, Information Processing Letters 2, 1974).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer_kernels._jit import inlined, kernel

HEADER = 30
"""Bytes before the first atom: mark, tag, version, numbers of atoms and bonds, flag, tag."""
MARK = 0xDEADBEEF


class Pickled(NamedTuple):
    """Atoms and bonds of molecules, one molecule after the other."""

    atoms: NDArray[np.int64]
    """`(A, 8)` atomic number, isotope, total degree, formal charge, chiral tag, total hydrogens, hybridisation (RDKit's
    numbers), whether aromatic."""
    bonds: NDArray[np.int64]
    """`(E, 4)` RDKit's type, whether conjugated, whether in a ring, RDKit's stereo code."""
    ends: NDArray[np.int64]
    """`(E, 2)` first and last atom, counted from the molecule's first."""
    atom_starts: NDArray[np.int64]
    """`(M + 1,)` where the atoms of each molecule begin."""
    bond_starts: NDArray[np.int64]
    """`(M + 1,)` where its bonds begin."""
    known: NDArray[np.bool_]
    """`(M,)` whether all that is in a molecule is known; the rows of one that is not mean nothing."""


def pickle_version(pickle: bytes) -> tuple[int, int, int]:
    """Return the version of the format of a pickle.

    Raises
    ------
    ValueError
        If it is no pickle of a molecule.
    """
    words = np.frombuffer(pickle[:20].ljust(20, b"\0"), "<u4")
    if words[0] != MARK:
        raise ValueError("this is no molecule as RDKit pickles it")
    return int(words[2]), int(words[3]), int(words[4])


def read_pickles(content: ArrayLike, starts: ArrayLike) -> Pickled:
    """Read the pickles of molecules.

    Parameters
    ----------
    content
        Bytes (uint8) of M pickles, one after the other.
    starts
        `(M + 1,)` where each begins; the last is where they end.

    Returns
    -------
    Pickled

    Raises
    ------
    ValueError
        If the starts do not divide the content, or a piece is no pickle of a molecule.
    """
    given, first = np.ascontiguousarray(content, np.uint8), np.ascontiguousarray(starts, np.int64)
    if first.ndim != 1 or not len(first) or first[0] != 0 or first[-1] != given.size or (np.diff(first) < HEADER).any():
        raise ValueError("the starts do not divide the pickles")
    places = first[:-1, None]
    marks, atoms, bonds = (
        given[places + np.arange(at, at + 4)].astype(np.int64) @ (256 ** np.arange(4)) for at in (0, 20, 24)
    )
    if (marks != MARK).any() or (atoms + bonds > np.diff(first)).any():
        raise ValueError("these are no molecules as RDKit pickles them")
    atom_starts, bond_starts = (np.concatenate([[0], np.cumsum(each)]).astype(np.int64) for each in (atoms, bonds))
    read, known, bonded, ends = _read(given, first, atom_starts, bond_starts)
    return Pickled(read, bonded, ends, atom_starts, bond_starts, known)


@inlined
def _read_word(content: Any, at: Any) -> Any:
    """Read a little-endian 32-bit number without a sign."""
    return (
        np.int64(content[at])
        | np.int64(content[at + 1]) << 8
        | np.int64(content[at + 2]) << 16
        | np.int64(content[at + 3]) << 24
    )


@inlined
def _signed(value: Any) -> Any:
    return np.int64(value) - 256 if value > 127 else np.int64(value)


@inlined
def _read_atoms(content: Any, at: Any, end: Any, atoms: Any) -> Any:
    """Fill the rows of a molecule's atoms; return where its bonds begin, or -1."""
    for row in range(len(atoms)):
        if at + 6 > end:
            return np.int64(-1)
        flags = content[at + 1]
        stated = _read_word(content, at + 2)
        if flags & 0x9F or stated & ~0x1FE:  # a query, atom map, label or monomer; or something that is new
            return np.int64(-1)
        atoms[row, 0] = content[at]
        atoms[row, 7] = (flags >> 6) & 1
        at += 6
        values = np.zeros(8, np.int64)
        values[3] = 4  # sp3 where it is not stated
        for bit in range(1, 8):
            if stated >> bit & 1:
                if at >= end:
                    return np.int64(-1)
                values[bit] = content[at]
                at += 1
        if stated >> 8 & 1:
            if at + 4 > end:
                return np.int64(-1)
            atoms[row, 1] = _read_word(content, at)
            at += 4
        if values[4] > 127 or values[6] > 127:  # not computed
            return np.int64(-1)
        hydrogens = values[4] + (0 if flags >> 5 & 1 else values[6])
        atoms[row, 2] = hydrogens  # and its bonds, which come later
        atoms[row, 3] = _signed(values[1])
        atoms[row, 4] = values[2]
        atoms[row, 5] = hydrogens
        atoms[row, 6] = values[3]
    return at


@inlined
def _read_bonds(content: Any, at: Any, end: Any, atoms: Any, bonds: Any, ends: Any) -> Any:
    """Fill the rows of a molecule's bonds; return whether all is known."""
    wide = 4 if len(atoms) > 255 else 1
    if at >= end or content[at] != 0x0B:
        return False
    at += 1
    for row in range(len(bonds)):
        if at + 2 * wide + 1 > end:
            return False
        for side in range(2):
            atom = _read_word(content, at) if wide == 4 else np.int64(content[at])
            if atom >= len(atoms):
                return False
            ends[row, side] = atom
            atoms[atom, 2] += 1
            at += wide
        flags = content[at]
        at += 1
        if flags & 0x91 or at + 3 > end:
            return False
        bonds[row, 0] = 1
        if flags >> 3 & 1:
            bonds[row, 0] = content[at]
            at += 1
        kind = bonds[row, 0]
        if kind not in (1, 2, 3, 12):
            return False
        at += flags >> 2 & 1  # the direction
        bonds[row, 1] = flags >> 5 & 1
        if flags >> 1 & 1:
            if at + 2 > end:
                return False
            bonds[row, 3] = content[at]
            at += 2 + wide * np.int64(content[at + 1])
    return at <= end


@inlined
def bonds_at(ends: Any, count: Any) -> Any:
    """List the bonds at each of `count` atoms: return where each atom's begin (and the last ends), and the bonds."""
    degree = np.zeros(count + 1, np.int64)
    for row in range(len(ends)):
        degree[ends[row, 0] + 1] += 1
        degree[ends[row, 1] + 1] += 1
    begin = np.cumsum(degree)
    filled = begin.copy()
    touching = np.empty(2 * len(ends), np.int64)
    for row in range(len(ends)):
        for side in range(2):
            touching[filled[ends[row, side]]] = row
            filled[ends[row, side]] += 1
    return begin, touching


@inlined
def _mark_rings(ends: Any, bonds: Any, count: Any) -> Any:
    """Mark bonds that are no bridges: depth first, with the earliest atom that each branch reaches back to."""
    begin, touching = bonds_at(ends, count)
    seen = np.full(count, -1, np.int64)
    back = np.zeros(count, np.int64)
    came = np.full(count, -1, np.int64)
    following = begin[:count].copy()
    stack = np.empty(count, np.int64)
    time = 0
    for root in range(count):
        if seen[root] >= 0:
            continue
        depth = 0
        stack[0] = root
        seen[root] = back[root] = time
        time += 1
        while depth >= 0:
            atom = stack[depth]
            if following[atom] < begin[atom + 1]:
                bond = touching[following[atom]]
                following[atom] += 1
                if bond == came[atom]:
                    continue
                other = ends[bond, 0] + ends[bond, 1] - atom
                if seen[other] >= 0:
                    bonds[bond, 2] = 1
                    back[atom] = min(back[atom], seen[other])
                else:
                    came[other] = bond
                    seen[other] = back[other] = time
                    time += 1
                    depth += 1
                    stack[depth] = other
            else:
                depth -= 1
                if depth >= 0:
                    before = stack[depth]
                    back[before] = min(back[before], back[atom])
                    if back[atom] <= seen[before]:
                        bonds[came[atom], 2] = 1


@kernel
def _read(content: Any, starts: Any, atom_starts: Any, bond_starts: Any) -> Any:
    atoms = np.zeros((atom_starts[-1], 8), np.int64)
    bonds = np.zeros((bond_starts[-1], 4), np.int64)
    ends = np.zeros((bond_starts[-1], 2), np.int64)
    known = np.zeros(len(starts) - 1, np.bool_)
    for molecule in range(len(starts) - 1):
        start = starts[molecule]
        end = starts[molecule + 1]
        if content[start + 28] != 0x80 or content[start + 29] != 0x01:
            continue
        own = atoms[atom_starts[molecule] : atom_starts[molecule + 1]]
        between = bonds[bond_starts[molecule] : bond_starts[molecule + 1]]
        pairs = ends[bond_starts[molecule] : bond_starts[molecule + 1]]
        at = _read_atoms(content, start + 30, end, own)
        if at < 0 or not _read_bonds(content, at, end, own, between, pairs):
            continue
        _mark_rings(pairs, between, len(own))
        known[molecule] = True
    return atoms, known, bonds, ends
