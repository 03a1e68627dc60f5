"""Molecules as graphs: what a message passing network sees of them, as flat arrays.

Atoms and bonds are described as in chemprop 2 by default (Heid et al., Chemprop: A Machine Learning Package for
Chemical Property Prediction, Journal of Chemical Information and Modeling 64, 2024), so that networks can be compared:

- an atom by 72 numbers: one of 37 elements (hydrogen to krypton, iodine) or another one; total degree 0 to 5; formal
  charge -1, -2, 1, 2, 0; chiral tag 0 to 3; total hydrogens 0 to 4; hybridisation s, sp, sp2, sp2d, sp3, sp3d, sp3d2
  (each of these as one of so many, with a place more for any other value); whether it is aromatic; a hundredth of its
  mass;
- a bond by 14: whether there is none (always 0); single, double, triple, aromatic; conjugated; in a ring; stereo code
  0 to 5 or any other. Of a bond that is none of the four kinds (a dative one, say) all but the first are 0.

A molecule is kept as one whole number per atom and per bond, from which these follow. Hydrogens are implicit. RDKit's
chiral tags are relative to the order of a centre's neighbours: structures that are to be compared must be canonical.

Message passing as in Yang et al., Analyzing Learned Molecular Representations for Property Prediction (same journal 59,
2019) gives bond v -> w a state that follows from v and the bonds into v except w -> v. `message_tables` says, step by
step, which rows of states are added to which; and what has the same surroundings so far has the same state, so that it
is computed once (`merge`): of a few thousand molecules, a fraction of the bonds is left at the first steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

import numpy as np
from cellinfer_kernels.molgraphs import Distinct, bonds_before, bonds_into, distinct_rows
from cellinfer_kernels.molpickles import Pickled
from numpy.typing import NDArray

from cellinfer.activity.chemistry import read, version
from cellinfer.activity.pickles import CHUNK, PROBES, atomic_mass, read_at_once
from cellinfer.errors import InputError

try:
    from rdkit import Chem
except ImportError as error:
    raise InputError('Chemical structures need RDKit: pip install "cellinfer[chem]".') from error

ATOM_FEATURES, BOND_FEATURES = 72, 14
FEATURISER = "chemprop-v2/1"
"""What atoms and bonds are described by, and the version of how we do it; a model says which it was trained with."""

_ELEMENTS = np.array([*range(1, 37), 53])
_CHARGES = np.array([-1, -2, 1, 2, 0])
_HYBRIDISATIONS = np.array(
    [int(getattr(Chem.HybridizationType, name)) for name in ["S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2"]]
)
# An atom's code, from the highest digits down: atomic number, isotope, total degree, charge + 64, chirality, hydrogens,
# hybridisation, aromatic
_RADICES = (128, 512, 32, 128, 16, 32, 16, 2)
_KINDS = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3, Chem.BondType.AROMATIC: 4}
_STEREOS = 6
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MoleculeGraphs:
    """Molecules, one after the other.

    Attributes
    ----------
    atoms
        `(A,)` int64 code of each atom, see `atom_features`.
    bonds
        `(E,)` int64 code of each bond, see `bond_features`.
    ends
        `(E, 2)` int64 the atoms that a bond holds together, counted from the molecule's first.
    atom_starts, bond_starts
        `(M + 1,)` int64 where the atoms and bonds of each molecule begin; the last is where they end.
    """

    atoms: NDArray[np.int64]
    bonds: NDArray[np.int64]
    ends: NDArray[np.int64]
    atom_starts: NDArray[np.int64]
    bond_starts: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of molecules."""
        return len(self.atom_starts) - 1

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> MoleculeGraphs:
        """Return some of the molecules, in the order asked for; one may come twice."""
        chosen = np.asarray(rows, np.int64)
        atoms, atom_starts = _ranges(self.atom_starts, chosen)
        bonds, bond_starts = _ranges(self.bond_starts, chosen)
        return MoleculeGraphs(self.atoms[atoms], self.bonds[bonds], self.ends[bonds], atom_starts, bond_starts)

    @cached_property
    def molecules(self) -> NDArray[np.int64]:
        """`(A,)` the molecule of each atom, ascending."""
        return np.repeat(np.arange(len(self)), np.diff(self.atom_starts))

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """`(2 E,)` the atom where each directed bond starts.

        Bond e gives the directed bonds 2 e and 2 e + 1, each the reverse of the other.
        """
        offsets = np.repeat(self.atom_starts[:-1], np.diff(self.bond_starts))
        return np.ascontiguousarray(self.ends + offsets[:, None]).reshape(-1)

    @property
    def reverses(self) -> NDArray[np.int64]:
        """`(2 E,)` the reverse of each directed bond."""
        return np.arange(2 * len(self.bonds)) ^ 1

    @property
    def targets(self) -> NDArray[np.int64]:
        """`(2 E,)` the atom where each directed bond ends."""
        return self.sources[self.reverses]

    @cached_property
    def incoming(self) -> NDArray[np.int64]:
        """`(A, W)` the directed bonds into each atom, padded with 2 E."""
        return bonds_into(self.targets, len(self.atoms))

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """`(M,)` whether a molecule has an atom of an element that the description does not tell from others."""
        strange = ~np.isin(_digits(self.atoms)[0], _ELEMENTS)
        return np.bincount(self.molecules, strange, len(self)) > 0

    def unknown_elements(self, row: int) -> tuple[str, ...]:
        """Return the symbols of these elements in a molecule, sorted."""
        numbers = _digits(self.atoms[self.atom_starts[row] : self.atom_starts[row + 1]])[0]
        table = Chem.GetPeriodicTable()
        return tuple(sorted(table.GetElementSymbol(int(each)) for each in set(numbers) - set(_ELEMENTS)))


@dataclass(frozen=True)
class MessageTables:
    """What a directed message passing network of some depth computes, as rows and places of rows.

    S starts of bonds; U_t states after t steps, t = 1 .. depth - 1 (U_0 = S); P atoms; M molecules. Tables of places
    are padded with the number of rows that they point to.

    Attributes
    ----------
    starts
        `(S, 86)` float32: features of the atom where a bond starts, and of the bond.
    own
        Per step `(U_t,)` int64: the start of each state.
    before
        Per step `(U_t, W_t)` int64: the states of the step before that are added up for it.
    atoms
        `(P, 72)` float32
    around
        `(P, W)` int64: the last states of the bonds into each atom.
    members
        `(M, L)` int64: the atoms of each molecule.
    sizes
        `(M, 1)` float32: how many they are.
    """

    starts: NDArray[np.float32]
    own: tuple[NDArray[np.int64], ...]
    before: tuple[NDArray[np.int64], ...]
    atoms: NDArray[np.float32]
    around: NDArray[np.int64]
    members: NDArray[np.int64]
    sizes: NDArray[np.float32]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in the order in which networks take them."""
        steps: dict[str, NDArray[Any]] = {
            f"{name}_{step}": array
            for step, pair in enumerate(zip(self.own, self.before, strict=True), 1)
            for name, array in zip(("own", "before"), pair, strict=True)
        }
        last = ("atoms", "around", "members", "sizes")
        return {"starts": self.starts, **steps, **{name: getattr(self, name) for name in last}}


def read_graphs(smiles: Iterable[str]) -> MoleculeGraphs:
    """Read molecules.

    Parameters
    ----------
    smiles
        M structures; whatever RDKit reads, see `cellinfer.activity.molecules` for bringing them into a standard form.

    Returns
    -------
    MoleculeGraphs

    Raises
    ------
    InputError
        If one is empty or no SMILES.
    """
    texts = list(smiles)
    return _joined([molecule_graphs(read(texts[at : at + CHUNK])) for at in range(0, len(texts), CHUNK)])


def molecule_graphs(molecules: Iterable[Any]) -> MoleculeGraphs:
    """Turn RDKit molecules into graphs.

    Raises
    ------
    InputError
        If one has no atoms, or an atom that cannot be described.
    """
    graphs, unfit = graphs_of_pickles([molecule.ToBinary(0) for molecule in molecules])
    for problem in unfit.values():
        raise InputError(problem)
    return graphs


def graphs_of_pickles(pickles: Sequence[bytes]) -> tuple[MoleculeGraphs, dict[int, str]]:
    """Turn molecules as RDKit pickles them (`Mol.ToBinary(0)`) into graphs.

    They are read at once where the pickles are understood (`cellinfer_kernels.molpickles`), else atom by atom.

    Returns
    -------
    graphs : MoleculeGraphs
        Of those that can be described.
    unfit : dict
        Row of each one that cannot be -> why: it has no atoms, or one that cannot be described.
    """
    pieces: list[MoleculeGraphs] = []
    unfit: dict[int, str] = {}
    for start in range(0, len(pickles), CHUNK):
        graphs, problems = _graphs_of(pickles[start : start + CHUNK])
        pieces.append(graphs)
        unfit |= {start + row: problem for row, problem in problems.items()}
    return _joined(pieces), unfit


def _graphs_of(pickles: Sequence[bytes]) -> tuple[MoleculeGraphs, dict[int, str]]:
    if not pickles_are_known():
        found = [_graph_of(pickle) for pickle in pickles]
        unfit = {row: each for row, each in enumerate(found) if isinstance(each, str)}
        return _joined([each for each in found if not isinstance(each, str)]), unfit
    at_once = read_at_once(pickles)
    assert at_once is not None
    graphs, known = _graphs_by_pickles(at_once)
    unfit = {}
    for row in np.flatnonzero(~known).tolist():
        one = _graph_of(pickles[row])
        if isinstance(one, str):
            unfit[row] = one
            continue
        graphs.atoms[graphs.atom_starts[row] : graphs.atom_starts[row + 1]] = one.atoms
        graphs.bonds[graphs.bond_starts[row] : graphs.bond_starts[row + 1]] = one.bonds
        graphs.ends[graphs.bond_starts[row] : graphs.bond_starts[row + 1]] = one.ends
    return (graphs.take([row for row in range(len(pickles)) if row not in unfit]) if unfit else graphs), unfit


def _graph_of(pickle: bytes) -> MoleculeGraphs | str:
    """Read a molecule atom by atom; where that cannot be, return why."""
    try:
        return graphs_by_atoms([Chem.Mol(pickle)])
    except InputError as error:
        return str(error)


def _graphs_by_pickles(found: Pickled) -> tuple[MoleculeGraphs, NDArray[np.bool_]]:
    """Return graphs, and which molecules the pickles of say all."""
    values = found.atoms.copy()
    values[:, 3] += 64
    strange = ((values < 0) | (values >= _RADICES)).any(axis=1)
    known = found.known & (np.diff(found.atom_starts) > 0)
    known[np.unique(np.searchsorted(found.atom_starts, np.flatnonzero(strange), side="right") - 1)] = False
    weights = np.append(np.cumprod(_RADICES[:0:-1])[::-1], 1)  # of digits from the highest down
    kind = np.select([found.bonds[:, 0] == each for each in (1, 2, 3, 12)], [1, 2, 3, 4], 0)
    codes = (kind * 2 + found.bonds[:, 1]) * 2 + found.bonds[:, 2]
    codes = np.where(kind > 0, codes * (_STEREOS + 1) + np.minimum(found.bonds[:, 3], _STEREOS), 0)
    return MoleculeGraphs(values @ weights, codes, found.ends, found.atom_starts, found.bond_starts), known


@cache
def pickles_are_known() -> bool:
    """Tell whether this RDKit pickles molecules as we read them: the version is known, and a few come out the same."""
    molecules = [Chem.MolFromSmiles(text) for text in PROBES]
    found = read_at_once([molecule.ToBinary(0) for molecule in molecules])
    if found is not None:
        read, known = _graphs_by_pickles(found)
        expected = graphs_by_atoms(molecules)
        if known.all() and all(
            np.array_equal(getattr(read, each.name), getattr(expected, each.name)) for each in fields(expected)
        ):
            return True
    _log.warning("RDKit %s pickles molecules in a way that is not known: they are read atom by atom: slower", version())
    return False


def _joined(pieces: Sequence[MoleculeGraphs]) -> MoleculeGraphs:
    """Put graphs one after the other."""
    if len(pieces) < 2:
        return pieces[0] if pieces else graphs_by_atoms([])

    def starts(each: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(one) for one in each]))]).astype(np.int64)

    return MoleculeGraphs(
        np.concatenate([each.atoms for each in pieces]),
        np.concatenate([each.bonds for each in pieces]),
        np.concatenate([each.ends for each in pieces]),
        starts([each.atom_starts for each in pieces]),
        starts([each.bond_starts for each in pieces]),
    )


def graphs_by_atoms(molecules: Iterable[Any]) -> MoleculeGraphs:
    """Turn RDKit molecules into graphs by asking for every atom and bond; see `molecule_graphs`."""
    atoms: list[int] = []
    bonds: list[int] = []
    ends: list[int] = []
    atom_starts, bond_starts = [0], [0]
    for molecule in molecules:
        atoms += [
            _atom_code(
                atom.GetAtomicNum(),
                atom.GetIsotope(),
                atom.GetTotalDegree(),
                atom.GetFormalCharge(),
                atom.GetChiralTag(),
                atom.GetTotalNumHs(),
                atom.GetHybridization(),
                atom.GetIsAromatic(),
            )
            for atom in molecule.GetAtoms()
        ]
        for bond in molecule.GetBonds():
            ends += (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
            bonds.append(_bond_code(bond.GetBondType(), bond.GetIsConjugated(), bond.IsInRing(), bond.GetStereo()))
        if len(atoms) == atom_starts[-1]:
            raise InputError("A molecule has no atoms: leave it out.")
        atom_starts.append(len(atoms))
        bond_starts.append(len(bonds))
    return MoleculeGraphs(
        np.array(atoms, np.int64),
        np.array(bonds, np.int64),
        np.array(ends, np.int64).reshape(-1, 2),
        np.array(atom_starts, np.int64),
        np.array(bond_starts, np.int64),
    )


_known_atoms: dict[tuple[Any, ...], int] = {}
_known_bonds: dict[tuple[Any, ...], int] = {}


def _atom_code(*values: Any) -> int:
    """Return the code of an atom; there are a few hundred kinds, and RDKit's words are slow to turn into numbers."""
    if (known := _known_atoms.get(values)) is not None:
        return known
    number, isotope, degree, charge, *others = map(int, values)
    code = 0
    for value, radix in zip((number, isotope, degree, charge + 64, *others), _RADICES, strict=True):
        if not 0 <= value < radix:
            raise InputError(
                f"An atom with atomic number {number}, isotope {isotope}, degree {degree} and charge {charge} cannot "
                "be described: leave its molecule out."
            )
        code = code * radix + value
    _known_atoms[values] = code
    return code


def _bond_code(*values: Any) -> int:
    """Return the code of a bond; 0 of a kind that is not described."""
    if (known := _known_bonds.get(values)) is not None:
        return known
    kind, conjugated, ring, stereo = values
    code = ((_KINDS.get(kind, 0) * 2 + int(conjugated)) * 2 + int(ring)) * (_STEREOS + 1) + min(int(stereo), _STEREOS)
    _known_bonds[values] = code if kind in _KINDS else 0
    return _known_bonds[values]


def _digits(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    digits = []
    for radix in reversed(_RADICES):
        codes, digit = np.divmod(codes, radix)
        digits.append(digit)
    return digits[::-1]


def _places(values: NDArray[np.int64], choices: NDArray[np.integer]) -> NDArray[np.float32]:
    """Mark each value's place among the choices, or the place behind them."""
    marks = np.zeros((len(values), len(choices) + 1), np.float32)
    marks[:, :-1] = values[:, None] == choices
    marks[:, -1] = ~marks.any(axis=1)
    return marks


def atom_features(codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the features of atoms, `(n, 72)`, from their codes."""
    number, isotope, degree, charge, chirality, hydrogens, hybridisation, aromatic = _digits(codes)
    return np.column_stack(
        [
            _places(number, _ELEMENTS),
            _places(degree, np.arange(6)),
            _places(charge - 64, _CHARGES),
            _places(chirality, np.arange(4)),
            _places(hydrogens, np.arange(5)),
            _places(hybridisation, _HYBRIDISATIONS),
            aromatic.astype(np.float32),
            np.array([atomic_mass(*pair) for pair in zip(number.tolist(), isotope.tolist(), strict=True)], np.float32)
            / 100,
        ]
    ).astype(np.float32)


def bond_features(codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the features of bonds, `(n, 14)`, from their codes."""
    rest, stereo = np.divmod(codes, _STEREOS + 1)
    rest, ring = np.divmod(rest, 2)
    kind, conjugated = np.divmod(rest, 2)
    none = np.zeros((len(codes), 1), np.float32)
    kinds = (kind[:, None] == np.arange(1, 5)).astype(np.float32)
    stereos = _places(stereo, np.arange(_STEREOS))
    described = (codes > 0).astype(np.float32)[:, None]
    return np.hstack([none, kinds, conjugated[:, None], ring[:, None], stereos * described]).astype(np.float32)


def message_tables(graphs: MoleculeGraphs, depth: int = 3, merge: bool = True) -> MessageTables:
    """Lay out what a directed message passing network computes of molecules.

    Parameters
    ----------
    graphs
        M molecules.
    depth
        Steps of message passing, the first of which is a bond's start; at least 1.
    merge
        Whether what has the same surroundings is one row. The result of a network is the same, but for the order of
        sums; while it learns with dropout each bond needs a row of its own.

    Returns
    -------
    MessageTables

    Raises
    ------
    InputError
        If the depth is below 1.
    """
    if depth < 1:
        raise InputError(f"Messages take at least 1 step, not {depth}.")
    rows = distinct_rows if merge else _all_rows
    sources, incoming = graphs.sources, graphs.incoming
    previous = bonds_before(sources, incoming)
    atom_codes, bond_codes = graphs.atoms[sources], np.repeat(graphs.bonds, 2)
    first, start = rows(np.column_stack([atom_codes, bond_codes]))
    starts = np.hstack([_described(atom_features, atom_codes[first]), _described(bond_features, bond_codes[first])])
    own, before, place, count = [], [], start, len(first)
    for _ in range(depth - 1):
        table = np.column_stack([start, _looked_up(previous, place, count)])
        first, place = rows(table)
        own.append(table[first, 0])
        before.append(np.ascontiguousarray(table[first, 1:]))
        count = len(first)
    kinds = np.column_stack([graphs.atoms, _looked_up(incoming, place, count)])
    first, atom = rows(kinds)
    sizes = np.diff(graphs.atom_starts)
    return MessageTables(
        starts,
        tuple(own),
        tuple(before),
        _described(atom_features, kinds[first, 0]),
        np.ascontiguousarray(kinds[first, 1:]),
        _members(graphs, atom, len(first)),
        sizes.astype(np.float32)[:, None],
    )


def _all_rows(table: NDArray[np.int64]) -> Distinct:
    """Take every row for a different one."""
    every = np.arange(len(table))
    return Distinct(every, every)


def _described(features: Any, codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return features of codes, each different code's looked up once."""
    kinds, place = np.unique(codes, return_inverse=True)
    described: NDArray[np.float32] = features(kinds)[place.reshape(-1)]
    return described


def _looked_up(table: NDArray[np.int64], place: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Follow a table of bonds to their rows; sorted, so that the order of bonds does not tell rows apart."""
    found = np.append(place, count)[table]
    found.sort(axis=1)
    return found


def _members(graphs: MoleculeGraphs, atom: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    sizes = np.diff(graphs.atom_starts)
    table = np.full((len(graphs), max(1, int(sizes.max(initial=0)))), count, np.int64)
    table[graphs.molecules, np.arange(len(graphs.atoms)) - graphs.atom_starts[graphs.molecules]] = atom
    table.sort(axis=1)
    return table


def _ranges(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the ranges of rows, one after the other, and where each begins among them."""
    lengths = starts[rows + 1] - starts[rows]
    begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(begins[-1]) + np.repeat(starts[rows] - begins[:-1], lengths), begins
