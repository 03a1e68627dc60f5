"""Molecules as graphs: kernels against their twins, descriptions against RDKit, tables against loops over bonds."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer.activity import graphs
from cellinfer.errors import InputError
from cellinfer_kernels import molgraphs
from cellinfer_kernels.reference import molgraphs as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rdkit import Chem

from tests.compounds import ODD, compounds, shuffled

SOME = [*compounds()[::9], *ODD]
ENDS = st.integers(1, 9).flatmap(
    lambda atoms: st.tuples(
        st.just(atoms),
        hnp.arrays(np.int64, st.integers(0, 12).map(lambda e: (e, 2)), elements=st.integers(0, atoms - 1)),
    )
)


@given(ENDS)
def test_bonds_equal_the_twins(case: tuple[int, np.ndarray]) -> None:
    atoms, ends = case
    targets, sources = ends[:, ::-1].reshape(-1), ends.reshape(-1)
    into = molgraphs.bonds_into(targets, atoms)
    np.testing.assert_array_equal(into, twin.bonds_into(targets, atoms))
    np.testing.assert_array_equal(molgraphs.bonds_before(sources, into), twin.bonds_before(sources, into))


@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=30), elements=st.integers(-2, 2))
)
def test_distinct_rows_equal_the_twin(table: np.ndarray) -> None:
    found, expected = molgraphs.distinct_rows(table), twin.distinct_rows(table)
    np.testing.assert_array_equal(found.first, expected.first)
    np.testing.assert_array_equal(found.place, expected.place)
    np.testing.assert_array_equal(table[found.first][found.place], table)


def test_kernels_refuse_what_is_no_graph() -> None:
    with pytest.raises(ValueError, match="atoms 0 to 1"):
        molgraphs.bonds_into([0, 2], 2)
    with pytest.raises(ValueError, match="come in pairs"):
        molgraphs.bonds_before([0], np.zeros((1, 1), int))
    with pytest.raises(ValueError, match="atoms 0 to 0"):
        molgraphs.bonds_before([0, 1], np.zeros((1, 1), int))
    with pytest.raises(ValueError, match="two dimensions"):
        molgraphs.distinct_rows([1, 2])


def one_of(value: int, choices: list[int]) -> list[float]:
    row = [0.0] * (len(choices) + 1)
    row[choices.index(value) if value in choices else -1] = 1.0
    return row


def atom_by_hand(atom: Chem.Atom) -> list[float]:
    """As chemprop 2 describes it: `MultiHotAtomFeaturizer.v2`."""
    names = Chem.HybridizationType
    kinds = [names.S, names.SP, names.SP2, names.SP2D, names.SP3, names.SP3D, names.SP3D2]
    return [
        *one_of(atom.GetAtomicNum(), [*range(1, 37), 53]),
        *one_of(atom.GetTotalDegree(), list(range(6))),
        *one_of(atom.GetFormalCharge(), [-1, -2, 1, 2, 0]),
        *one_of(int(atom.GetChiralTag()), list(range(4))),
        *one_of(int(atom.GetTotalNumHs()), list(range(5))),
        *one_of(int(atom.GetHybridization()), [int(kind) for kind in kinds]),
        float(atom.GetIsAromatic()),
        0.01 * atom.GetMass(),
    ]


def bond_by_hand(bond: Chem.Bond) -> list[float]:
    """As chemprop 2 describes it: `MultiHotBondFeaturizer`."""
    names = Chem.BondType
    kinds = [names.SINGLE, names.DOUBLE, names.TRIPLE, names.AROMATIC]
    if bond.GetBondType() not in kinds:
        return [0.0] * 14
    return [
        0.0,
        *one_of(kinds.index(bond.GetBondType()), [0, 1, 2, 3])[:4],
        float(bond.GetIsConjugated()),
        float(bond.IsInRing()),
        *one_of(int(bond.GetStereo()), list(range(6))),
    ]


def test_descriptions_are_those_of_chemprop() -> None:
    molecules = [
        Chem.MolFromSmiles(text)
        for text in [*compounds(), *ODD, "[NH3]->[Cu]", "C[N+](C)(C)C", "[13CH4]", "[2H][2H]", "I/C=C\\I"]
    ]
    made = graphs.molecule_graphs(molecules)
    atoms = np.array([atom_by_hand(atom) for molecule in molecules for atom in molecule.GetAtoms()], np.float32)
    bonds = np.array([bond_by_hand(bond) for molecule in molecules for bond in molecule.GetBonds()], np.float32)
    assert atoms.shape[1] == graphs.ATOM_FEATURES
    assert bonds.shape[1] == graphs.BOND_FEATURES
    np.testing.assert_allclose(graphs.atom_features(made.atoms), atoms, rtol=1e-6)
    np.testing.assert_array_equal(graphs.bond_features(made.bonds), bonds)


def test_flat_graphs_are_those_of_rdkit() -> None:
    made = graphs.read_graphs(SOME)
    assert len(made) == len(SOME)
    np.testing.assert_array_equal(made.targets, made.sources[made.reverses])
    for number, text in enumerate(SOME):
        molecule = Chem.MolFromSmiles(text)
        first, end = made.atom_starts[number : number + 2]
        assert end - first == molecule.GetNumAtoms()
        assert (made.molecules[first:end] == number).all()
        for atom in molecule.GetAtoms():
            row = made.incoming[first + atom.GetIdx()]
            incoming = row[row < 2 * len(made.bonds)]
            neighbours = sorted(first + other.GetIdx() for other in atom.GetNeighbors())
            assert sorted(made.sources[incoming]) == neighbours
            assert (made.targets[incoming] == first + atom.GetIdx()).all()


def test_some_molecules_of_many() -> None:
    rows = [3, 0, 3, len(SOME) - 1]
    taken = graphs.read_graphs(SOME).take(rows)
    alone = graphs.read_graphs([SOME[row] for row in rows])
    for name in ("atoms", "bonds", "ends", "atom_starts", "bond_starts"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(alone, name))


def test_none_and_one_atom() -> None:
    none = graphs.message_tables(graphs.read_graphs([]))
    assert none.members.shape[0] == none.starts.shape[0] == none.atoms.shape[0] == 0
    one = graphs.message_tables(graphs.read_graphs(["C"]))
    assert one.starts.shape == (0, 86)
    assert one.atoms.shape == (1, 72)
    np.testing.assert_array_equal(one.members, [[0]])
    np.testing.assert_array_equal(one.around, [[0]])


def test_unknown_elements_are_named() -> None:
    np.testing.assert_array_equal(graphs.read_graphs(["CCO", "[U]C", "*C", "CI"]).unknown, [False, True, True, False])


@pytest.mark.parametrize("text", ["", "not SMILES", "c1ccc"])
def test_what_is_no_structure_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a structure"):
        graphs.read_graphs(["CC", text])


def test_steps_of_messages_need_one() -> None:
    with pytest.raises(InputError, match="at least 1 step"):
        graphs.message_tables(graphs.read_graphs(["CC"]), 0)


def follow(tables: graphs.MessageTables, weights: np.ndarray) -> np.ndarray:
    """Pass messages with a state of one number per bond, and no learnt weights but those of starts."""
    first = tables.starts @ weights
    state = first
    for own, before in zip(tables.own, tables.before, strict=True):
        state = np.tanh(first[own] + np.append(state, 0)[before].sum(1))
    atoms = tables.atoms @ weights[:72] + np.append(state, 0)[tables.around].sum(1)
    return np.append(atoms, 0)[tables.members].sum(1)


def by_loops(text: str, depth: int, weights: np.ndarray) -> float:
    """Do the same bond by bond."""
    molecule = Chem.MolFromSmiles(text)
    atoms = [np.array(atom_by_hand(atom)) for atom in molecule.GetAtoms()]
    first = {}
    for bond in molecule.GetBonds():
        for one, other in (
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()),
            (bond.GetEndAtomIdx(), bond.GetBeginAtomIdx()),
        ):
            first[one, other] = float(np.concatenate([atoms[one], bond_by_hand(bond)]) @ weights)
    state = dict(first)
    for _ in range(depth - 1):
        state = {
            (one, other): np.tanh(
                first[one, other] + sum(value for (start, end), value in state.items() if end == one and start != other)
            )
            for one, other in state
        }
    return sum(
        float(atom @ weights[:72]) + sum(value for (_, end), value in state.items() if end == place)
        for place, atom in enumerate(atoms)
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("merge", [True, False])
def test_tables_pass_messages_as_loops_do(depth: int, merge: bool) -> None:
    weights = np.random.default_rng(0).normal(0, 0.3, 86)
    tables = graphs.message_tables(graphs.read_graphs(SOME), depth, merge)
    expected = [by_loops(text, depth, weights) for text in SOME]
    np.testing.assert_allclose(follow(tables, weights), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([text for text in compounds() if "@" not in text]))
def test_the_order_of_atoms_does_not_matter(seed: int, text: str) -> None:
    """Chiral tags are left out: RDKit's are relative to the order of neighbours, so chemprop's are, and ours."""
    weights = np.random.default_rng(1).normal(0, 0.3, 86)
    own, other = (
        follow(graphs.message_tables(graphs.read_graphs([each]), 4), weights) for each in (text, shuffled(text, seed))
    )
    np.testing.assert_allclose(own, other, rtol=1e-5)


def test_canonical_structures_have_one_order() -> None:
    chiral = [text for text in compounds() if "@" in text]
    own = graphs.read_graphs(chiral)
    other = graphs.read_graphs([Chem.CanonSmiles(shuffled(text, seed)) for seed, text in enumerate(chiral)])
    np.testing.assert_array_equal(own.atoms, other.atoms)


def test_merging_leaves_less() -> None:
    made = graphs.read_graphs(compounds())
    merged, plain = graphs.message_tables(made, 3), graphs.message_tables(made, 3, merge=False)
    assert len(plain.own[-1]) == 2 * len(made.bonds)
    assert len(merged.own[-1]) < 0.4 * len(plain.own[-1])
    assert len(merged.atoms) < 0.6 * len(plain.atoms)
