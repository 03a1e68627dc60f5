"""What RDKit says of structures, as bytes and numbers: a process that has read them can hand it to another one.

A structure is parsed once, or twice if it was not written in its standard form: what a model sees follows from the
standard form alone, not from how a structure was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellinfer.activity.chemistry import DEFAULT, Standardisation, morgan_fingerprints, standardise_and_read

__all__ = ["Digest", "Wanted", "digest", "joined"]

NOT_DESCRIBED = "not described"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of structures."""

    how: Standardisation = DEFAULT
    """Their standard form."""
    graphs: bool = False
    """Whether what graphs follow from."""
    fingerprints: tuple[tuple[int, int], ...] = ()
    """Radius and bits of each kind of Morgan fingerprints."""


@dataclass(frozen=True)
class Digest:
    """Structures in one standard form.

    Attributes
    ----------
    smiles
        `(n,)` standard form; None where there is none.
    status
        `(n,)` `ok`, or what is wrong; see `cellinfer.activity.chemistry.Structure`.
    detail
        `(n,)` what exactly is wrong, or was taken off.
    rows
        `(m,)` int64: those that are `ok`, ascending.
    pickles
        RDKit's molecule of each of these (`Mol.ToBinary`), what graphs follow from; none if not wanted.
    fingerprints
        Radius and bits -> `(m, bits / 64)` uint64 packed Morgan fingerprints of these.
    """

    smiles: list[str | None]
    status: list[str]
    detail: list[str]
    rows: NDArray[np.int64]
    pickles: list[bytes]
    fingerprints: Mapping[tuple[int, int], NDArray[np.uint64]]


def digest(smiles: Sequence[str], wanted: Wanted) -> Digest:
    """Bring structures into their standard form, and take from them what models need.

    Parameters
    ----------
    smiles
        n structures as they were written.
    wanted
        Which form, and what of it.

    Returns
    -------
    Digest
    """
    forms: list[str | None] = []
    statuses: list[str] = []
    details: list[str] = []
    rows, molecules = [], []
    for row, text in enumerate(smiles):
        structure, molecule = standardise_and_read(text, wanted.how)
        forms.append(structure.smiles)
        statuses.append(structure.status)
        details.append(structure.detail)
        if structure.status == "ok":
            rows.append(row)
            molecules.append(molecule)
    return Digest(
        forms,
        statuses,
        details,
        np.array(rows, np.int64),
        [molecule.ToBinary(0) for molecule in molecules] if wanted.graphs else [],
        {kind: morgan_fingerprints(molecules, *kind, threads=1) for kind in wanted.fingerprints},
    )


def joined(digests: Sequence[Digest], wanted: Wanted) -> Digest:
    """Put digests one after the other."""
    if not digests:
        return digest([], wanted)
    starts = np.cumsum([0, *(len(each.smiles) for each in digests[:-1])])
    return Digest(
        [one for each in digests for one in each.smiles],
        [one for each in digests for one in each.status],
        [one for each in digests for one in each.detail],
        np.concatenate([each.rows + start for each, start in zip(digests, starts, strict=True)]),
        [one for each in digests for one in each.pickles],
        {kind: np.concatenate([each.fingerprints[kind] for each in digests]) for kind in wanted.fingerprints},
    )
