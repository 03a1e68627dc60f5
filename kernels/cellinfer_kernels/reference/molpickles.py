"""Plain twin of `cellinfer_kernels.molpickles`: byte by byte, and rings by taking each bond away."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from cellinfer_kernels.molpickles import Pickled

_SINGLE, _SP3 = 1, 4


def read_pickles(content: ArrayLike, starts: ArrayLike) -> Pickled:
    """See `cellinfer_kernels.molpickles.read_pickles`."""
    whole = np.asarray(content, np.uint8).tobytes()
    first = [int(place) for place in np.asarray(starts)]
    atoms: list[list[int]] = []
    bonds: list[list[int]] = []
    ends: list[list[int]] = []
    atom_starts, bond_starts, known = [0], [0], []
    for begin, end in pairwise(first):
        piece = whole[begin:end]
        count, bonded = struct.unpack_from("<ii", piece, 20)
        try:
            found = _molecule(piece, count, bonded)
        except (struct.error, IndexError, ValueError):
            found = None
        known.append(found is not None)
        own, between, pairs = found or ([[0] * 8] * count, [[0] * 4] * bonded, [[0] * 2] * bonded)
        atoms, bonds, ends = atoms + own, bonds + between, ends + pairs
        atom_starts.append(len(atoms))
        bond_starts.append(len(bonds))
    return Pickled(
        np.array(atoms, np.int64).reshape(-1, 8),
        np.array(bonds, np.int64).reshape(-1, 4),
        np.array(ends, np.int64).reshape(-1, 2),
        np.array(atom_starts, np.int64),
        np.array(bond_starts, np.int64),
        np.array(known, bool),
    )


def _molecule(piece: bytes, count: int, bonded: int) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    at = 28

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", piece, at)
        at += struct.calcsize(kind)
        return int(value)

    if (take("B"), take("B")) != (0x80, 1):
        raise ValueError
    atoms = []
    for _ in range(count):
        number, flags, stated = take("B"), take("B"), take("I")
        if flags & ~0b1100000 or stated & ~0b111111110:
            raise ValueError
        kinds = {1: "b", 2: "B", 3: "B", 4: "b", 5: "b", 6: "b", 7: "B", 8: "I"}
        value = {bit: take(kind) if stated >> bit & 1 else 0 for bit, kind in kinds.items()}
        if value[4] < 0 or value[6] < 0:
            raise ValueError
        hybridisation = value[3] if stated >> 3 & 1 else _SP3
        hydrogens = value[4] + (0 if flags & 32 else value[6])
        atoms.append([number, value[8], hydrogens, value[1], value[2], hydrogens, hybridisation, flags >> 6 & 1])
    if take("B") != 0x0B:
        raise ValueError
    bonds, ends = [], []
    wide = "I" if count > 255 else "B"
    for _ in range(bonded):
        pair = [take(wide), take(wide)]
        flags = take("B")
        if flags & 0b10010001 or max(pair) >= count:
            raise ValueError
        kind = take("B") if flags & 8 else _SINGLE
        if kind not in (1, 2, 3, 12):
            raise ValueError
        if flags & 4:
            take("B")
        stereo = take("B") if flags & 2 else 0
        for _ in range(take("B") if flags & 2 else 0):
            take(wide)
        for atom in pair:
            atoms[atom][2] += 1
        bonds.append([kind, flags >> 5 & 1, 0, stereo])
        ends.append(pair)
    for row, (one, other) in enumerate(ends):
        bonds[row][2] = int(_joined(one, other, ends[:row] + ends[row + 1 :]))
    return atoms, bonds, ends


def _joined(one: int, other: int, ends: list[list[int]]) -> bool:
    """Tell whether there is a way from one atom to another."""
    reached = {one}
    while True:
        more = {b for a, b in ends if a in reached} | {a for a, b in ends if b in reached}
        if more <= reached:
            return other in reached
        reached |= more
