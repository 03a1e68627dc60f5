"""What RDKit says of structures, as bytes and numbers: a process that has read them can hand it to another one.

A structure is parsed once, or twice if it was not written in its standard form: what a model sees follows from the
standard form alone, not from how a structure was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellinfer.activity.chemistry import DEFAULT, Standardisation, standardise_and_read

__all__ = ["Digest", "Wanted", "digest", "joined"]

NOT_DESCRIBED = "not described"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of structures."""

    how: Standardisation | None = DEFAULT
    """Their standard form; None: as they were written."""
    pickles: bool = False
    """Whether what graphs and fingerprints follow from."""


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
        RDKit's molecule of each of these (`Mol.ToBinary`), from which graphs and fingerprints follow; none if unwanted.
    """

    smiles: list[str | None]
    status: list[str]
    detail: list[str]
    rows: NDArray[np.int64]
    pickles: list[bytes]


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
    rows: list[int] = []
    pickles: list[bytes] = []
    for row, text in enumerate(smiles):
        structure, molecule = standardise_and_read(text, wanted.how)
        forms.append(structure.smiles)
        statuses.append(structure.status)
        details.append(structure.detail)
        if structure.status == "ok":
            rows.append(row)
            if wanted.pickles:
                pickles.append(molecule.ToBinary(0))
    return Digest(forms, statuses, details, np.array(rows, np.int64), pickles)


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
    )
