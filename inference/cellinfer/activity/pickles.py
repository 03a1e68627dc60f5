"""Molecules as RDKit pickles them (`Mol.ToBinary(0)`): what processes hand on, and kernels read at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
from cellinfer_kernels.molpickles import Pickled, pickle_version, read_pickles
from cellinfer_kernels.morgan import morgan_fingerprints as fingerprints_by_kernel
from numpy.typing import NDArray

from cellinfer.activity.chemistry import check_bits, morgan_fingerprints, version
from cellinfer.errors import InputError

try:
    from rdkit import Chem
except ImportError as error:
    raise InputError('Chemical structures need RDKit: pip install "cellinfer[chem]".') from error

__all__ = ["CHUNK", "FORMAT", "PROBES", "atomic_mass", "fingerprints_of_pickles", "kernel_agrees", "read_at_once"]

FORMAT = 16
"""Of the pickles that are understood."""
PROBES = (
    "C[N+](C)(C)C[C@H]([13CH3])/C=C/c1ccc[nH]1",
    "[O-]S(=O)(=O)C#CC1CC1.[Na+]",
    "F[P-](F)(F)(F)(F)F",
    "C[CH2]",
    "[2H]O[C@@]1(F)CC2CC1C2",
    "C/C=C\\C(=O)Nc1ccc2ncsc2c1",
)
"""What shows whether pickles are understood: charges, radicals, isotopes, stereochemistry, rings, hydrogens."""
CHUNK = 1_000
_log = logging.getLogger(__name__)


def read_at_once(pickles: Sequence[bytes]) -> Pickled | None:
    """Read pickles with a kernel; None if they are not in the format that is understood."""
    if pickles and pickle_version(pickles[0])[0] != FORMAT:
        return None
    starts = np.concatenate([[0], np.cumsum([len(each) for each in pickles])]).astype(np.int64)
    return read_pickles(np.frombuffer(b"".join(pickles), np.uint8), starts)


def atomic_mass(number: int, isotope: int) -> float:
    """Return the mass of an atom as RDKit has it, in daltons."""
    table = Chem.GetPeriodicTable()
    if not isotope:
        return float(table.GetAtomicWeight(number))
    return float(table.GetMassForIsotope(number, isotope)) or float(isotope)


def fingerprints_of_pickles(pickles: Sequence[bytes], radius: int = 2, bits: int = 2048) -> NDArray[np.uint64]:
    """Return packed Morgan fingerprints, see `cellinfer.activity.chemistry.fingerprints`.

    They are made at once (`cellinfer_kernels.morgan`) where the kernel and this version of RDKit agree, else by RDKit.

    Parameters
    ----------
    pickles
        n molecules.
    radius, bits
        Of the fingerprints; bits in multiples of 64.

    Returns
    -------
    ndarray of shape (n, bits / 64), uint64
    """
    check_bits(bits)
    at_once = kernel_agrees(radius, bits)
    packed = np.empty((len(pickles), bits // 64), np.uint64)
    for start in range(0, len(pickles), CHUNK):
        chunk = pickles[start : start + CHUNK]
        packed[start : start + len(chunk)] = (
            _fingerprints(chunk, radius, bits) if at_once else _asked(chunk, radius, bits)
        )
    return packed


def _fingerprints(pickles: Sequence[bytes], radius: int, bits: int) -> NDArray[np.uint64]:
    """Make fingerprints with the kernel, and ask RDKit for those of what it does not know."""
    found = read_at_once(pickles)
    assert found is not None
    excess = np.zeros(len(found.atoms), np.int64)
    meant = np.repeat(found.known, np.diff(found.atom_starts))
    for row in np.flatnonzero(meant & (found.atoms[:, 1] > 0)).tolist():
        number, isotope = found.atoms[row, :2].tolist()
        excess[row] = int(atomic_mass(number, isotope) - atomic_mass(number, 0))
    packed = fingerprints_by_kernel(found, radius, bits, excess)
    if strange := np.flatnonzero(~found.known).tolist():
        packed[strange] = _asked([pickles[row] for row in strange], radius, bits)
    return packed


def _asked(pickles: Sequence[bytes], radius: int, bits: int) -> NDArray[np.uint64]:
    return morgan_fingerprints([Chem.Mol(pickle) for pickle in pickles], radius, bits, threads=1)


@cache
def kernel_agrees(radius: int = 2, bits: int = 2048) -> bool:
    """Tell whether the kernel makes the fingerprints that this version of RDKit makes, of a few molecules."""
    pickles = [Chem.MolFromSmiles(text).ToBinary(0) for text in PROBES]
    known = read_at_once(pickles)
    same = known is not None and bool(known.known.all())
    if same and np.array_equal(_fingerprints(pickles, radius, bits), _asked(pickles, radius, bits)):
        return True
    _log.warning("RDKit %s makes other Morgan fingerprints than those known: they take longer", version())
    return False
