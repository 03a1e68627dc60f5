"""What RDKit does for us: standard structures, keys, scaffolds, fingerprints, PAINS."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellinfer.errors import InputError

try:
    from rdkit import Chem, DataStructs, rdBase
    from rdkit.Chem import rdfiltercatalog, rdFingerprintGenerator
    from rdkit.Chem.MolStandardize import rdMolStandardize
    from rdkit.Chem.Scaffolds import MurckoScaffold
except ImportError as error:
    raise InputError('Chemical structures need RDKit: pip install "cellinfer[chem]".') from error

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much."""
Salts = Literal["strip", "keep", "refuse"]

# What is written as an element and is no metal; metalloids that are in drugs (B, Si, As, Se, Te) are none either
_NO_METALS = frozenset({0, 1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54, 85, 86})
_OF_SALTS = frozenset({3, 11, 19, 37, 55, 12, 20, 38, 56})
"""Alkali and alkaline earth metals: a bond to them is how some write a salt."""
_LONGEST = 5_000
"""Characters of SMILES beyond which no attempt is made: parsing deep nesting may exhaust the stack."""
STEREOISOMERS = "stereoisomers made one:"
"""How the detail begins of a structure that was written as a mixture of its stereoisomers."""
_SECOND = 0.5
"""Part of the largest fragment's heavy atoms from which on another, different fragment is no mere counter-ion."""
_CHUNK = 1_000
_PROBES = (
    "[H]C([H])(F)[C@@H](Cl)/C=C/[2H]",
    "CC(=O)O[Na]",
    "[Na]C#N.O[Mg]C",
    "CN(=O)=O",
    "C[S](=O)C(N)=[NH2+]",
    "CC[N-][N+]#N",
    "c1ccn(=O)cc1",
    "[O-]c1ccccc1C(=O)O",
    "[Na].OC(=O)CC[S+2]([O-])([O-])C",
    "C[N+](C)(C)CC([O-])=O.[Cl-].[NH4+]",
)
"""What shows whether the steps of `Cleanup` are known: hydrogens, bonds to metals, groups, charges, stereochemistry."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standardisation:
    """What is done to each structure."""

    cleanup: bool = True
    """RDKit's `Cleanup`: explicit hydrogens off, metals disconnected, functional groups and charges normalised."""
    salts: Salts = "strip"
    """Of several fragments `strip` keeps the largest, `keep` all of them, `refuse` takes none."""
    uncharge: bool = True
    """Charges that protons can balance are balanced."""
    refuse: bool = True
    """Structures without carbon, with metals, wildcards, or too large are refused."""
    largest: int = 150
    """The most heavy atoms."""


DEFAULT = Standardisation()
PUBLISHED = Standardisation(cleanup=False, salts="keep", uncharge=False, refuse=False)
"""As Moshkov et al.: whatever RDKit can read, as it is, in canonical SMILES."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A standardised structure, or why there is none."""

    smiles: str | None
    """Canonical, with stereochemistry and isotopes."""
    status: str
    """`ok`, or one of `empty`, `invalid SMILES`, `mixture`, `metal`, `no carbon`, `too large`, `not standardised`."""
    detail: str = ""
    """What exactly is wrong; of a structure that is `ok`, what was taken off."""


def version() -> str:
    """Return RDKit's version."""
    return str(rdBase.rdkitVersion)


def versions() -> dict[str, str]:
    """Return the versions of the packages that molecules and tables depend on."""
    packages = ("numpy", "scipy", "numba", "pandas", "pyarrow", "matplotlib")
    return {"rdkit": version(), **{name: metadata.version(name) for name in packages}}


def standardise_one(smiles: str, how: Standardisation = DEFAULT) -> Structure:
    """Bring a structure into its standard form.

    Parameters
    ----------
    smiles
        As it was written.
    how
        Steps, see `Standardisation`.

    Returns
    -------
    Structure
    """
    return standardise_and_read(smiles, how)[0]


def standardise_and_read(smiles: str, how: Standardisation | None = DEFAULT) -> tuple[Structure, Any]:
    """Bring a structure into its standard form, and hand on what RDKit reads from it.

    Parameters
    ----------
    smiles
        As it was written.
    how
        Steps, see `Standardisation`; None: what was written is the standard form, if RDKit can read it.

    Returns
    -------
    structure : Structure
    molecule
        What RDKit reads from the standard form; None where there is none.
    """
    text = smiles.strip()
    if not text:
        return Structure(None, "empty"), None
    if len(text) > _LONGEST:
        return Structure(None, "too large", f"{len(text):,} characters"), None
    with rdBase.BlockLogs():
        try:
            molecule = Chem.MolFromSmiles(text)
            if molecule is None:
                return Structure(None, "invalid SMILES", _problem(text)), None
            if how is None:
                return Structure(text, "ok"), molecule
            structure = _standard(molecule, how)
            if structure.smiles is None or structure.smiles == text:
                return structure, None if structure.smiles is None else molecule
            return _readable(structure)
        except (ValueError, RuntimeError) as error:  # sanitisation of a changed structure: RDKit's own classes
            return Structure(None, "not standardised", str(error).strip().splitlines()[0][:200]), None


def _readable(structure: Structure) -> tuple[Structure, Any]:
    """Read a standard form, and refuse it if RDKit cannot, as what becomes of metallocenes and sydnonimines."""
    molecule = Chem.MolFromSmiles(structure.smiles)
    if molecule is None:
        structure = Structure(None, "not standardised", f"would become {structure.smiles}, which is no structure"[:200])
    return structure, molecule


def _problem(smiles: str) -> str:
    """Say what RDKit has against a SMILES."""
    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "not SMILES"
    problems = Chem.DetectChemistryProblems(molecule)
    return str(problems[0].Message()) if problems else "not SMILES"


def _standard(molecule: Any, how: Standardisation) -> Structure:
    if how.refuse and (wrong := _unfit(molecule, how)) is not None:
        return wrong
    if how.cleanup:
        molecule = _cleaned(molecule)
    taken_off = ""
    if how.salts != "keep" and len(Chem.GetMolFrags(molecule)) > 1:
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        names = [Chem.MolToSmiles(fragment) for fragment in fragments]
        if how.salts == "refuse":
            return Structure(None, "mixture", ".".join(sorted(set(names)))[:200])
        molecule = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(molecule)
        flat = Chem.MolToSmiles(molecule, isomericSmiles=False)
        isomers = [one for one in fragments if Chem.MolToSmiles(one, isomericSmiles=False) == flat]
        if (second := _second(fragments, isomers, molecule)) is not None:
            return Structure(None, "mixture", f"also {second}"[:200])
        left = Counter(names)
        left.subtract([Chem.MolToSmiles(molecule)])
        taken_off = ".".join(sorted(left.elements()))
        if len({Chem.MolToSmiles(one) for one in isomers}) > 1:
            molecule, taken_off = _as_one(isomers), f"{STEREOISOMERS} {'.'.join(sorted(names))}"
    if how.uncharge:
        molecule = _uncharger().uncharge(molecule)
    if how.refuse:
        if metals := _bonded_metals(molecule):
            return Structure(None, "metal", metals)
        if not _has(molecule, "[#6]"):
            return Structure(None, "no carbon", Chem.MolToSmiles(molecule)[:200])
    return Structure(Chem.MolToSmiles(molecule), "ok", taken_off)


def _has(molecule: Any, pattern: str) -> bool:
    """Tell whether a molecule has an atom of a pattern; asking atom by atom takes ten times as long."""
    return bool(molecule.HasSubstructMatch(_pattern(pattern)))


@cache
def _pattern(smarts: str) -> Any:
    return Chem.MolFromSmarts(smarts)


def _cleaned(molecule: Any) -> Any:
    """Do what RDKit's `Cleanup` does, which makes its rules anew for every molecule: half of its time."""
    if not _steps_are_known():
        return rdMolStandardize.Cleanup(molecule)
    return _cleaned_by_steps(molecule)


def _cleaned_by_steps(molecule: Any) -> Any:
    """Take the steps of `Cleanup` (`cleanupInPlace` in RDKit's MolStandardize.cpp) with rules that were made once."""
    disconnector, normalizer, reionizer = _rules()
    cleaned = Chem.RemoveHs(molecule)
    disconnector.DisconnectInPlace(cleaned)
    normalizer.normalizeInPlace(cleaned)
    reionizer.reionizeInPlace(cleaned)
    Chem.AssignStereochemistry(cleaned, cleanIt=True, force=True)
    return cleaned


@cache
def _rules() -> tuple[Any, Any, Any]:
    return rdMolStandardize.MetalDisconnector(), rdMolStandardize.Normalizer(), rdMolStandardize.Reionizer()


@cache
def _steps_are_known() -> bool:
    """Tell whether the steps give what `Cleanup` of this version of RDKit gives, with molecules that need each step."""
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text) for text in _PROBES]
        same = all(_cleaned_by_steps(one).ToBinary() == rdMolStandardize.Cleanup(one).ToBinary() for one in molecules)
    if not same:
        _log.warning("RDKit %s cleans molecules up in other steps than those known: it takes longer", version())
    return same


@cache
def _uncharger() -> Any:
    """Return what balances charges; it is slow to make."""
    return rdMolStandardize.Uncharger(canonicalOrder=True)


def _unfit(molecule: Any, how: Standardisation) -> Structure | None:
    if (atoms := molecule.GetNumHeavyAtoms()) > how.largest:
        return Structure(None, "too large", f"{atoms:,} heavy atoms, {how.largest:,} allowed")
    if _has(molecule, "[#0]"):
        return Structure(None, "invalid SMILES", "it has a wildcard (*)")
    if metals := _bonded_metals(molecule, _OF_SALTS):
        return Structure(None, "metal", metals)
    return None


def _bonded_metals(molecule: Any, but: frozenset[int] = frozenset()) -> str:
    """Name the metals that are bonded to something; single ions are counter-ions."""
    others = _NO_METALS | but
    if not _has(molecule, f"[{'&'.join(f'!#{number}' for number in sorted(others))}&!D0]"):
        return ""
    atoms = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() not in others and atom.GetDegree()]
    return ", ".join(sorted({str(atom.GetSymbol()) for atom in atoms}))


def _second(fragments: Sequence[Any], isomers: Sequence[Any], largest: Any) -> str | None:
    """Return a fragment, of those that are no isomers, that may be the compound as well as the largest one may."""
    remover = rdMolStandardize.FragmentRemover()  # knows counter-ions and solvents; leaves one fragment in any case
    chosen = Chem.MolToSmiles(largest)
    for fragment in fragments:
        if any(fragment is one for one in isomers) or all(atom.GetAtomicNum() != 6 for atom in fragment.GetAtoms()):
            continue
        if fragment.GetNumHeavyAtoms() < _SECOND * largest.GetNumHeavyAtoms():
            continue
        name = Chem.MolToSmiles(fragment)
        if Chem.MolToSmiles(remover.remove(Chem.MolFromSmiles(f"{chosen}.{name}"))) not in (chosen, name):
            return str(name)
    return None


def _as_one(isomers: Sequence[Any]) -> Any:
    """Make stereoisomers one, without that stereochemistry in which they differ: of double bonds, centres or both."""
    for bonds, centres in ((True, False), (False, True)):
        plain = [_without(isomer, bonds=bonds, centres=centres) for isomer in isomers]
        if len({Chem.MolToSmiles(one) for one in plain}) == 1:
            return plain[0]
    return _without(isomers[0], bonds=True, centres=True)


def _without(molecule: Any, *, bonds: bool, centres: bool) -> Any:
    changed = Chem.Mol(molecule)
    if bonds:
        for bond in changed.GetBonds():
            bond.SetStereo(Chem.BondStereo.STEREONONE)
            bond.SetBondDir(Chem.BondDir.NONE)
    if centres:
        for atom in changed.GetAtoms():
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    return Chem.MolFromSmiles(Chem.MolToSmiles(changed))


def inchi_key(smiles: str) -> str | None:
    """Return the standard InChIKey; None where InChI does not know the structure."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
        key = Chem.MolToInchiKey(molecule) if molecule is not None else ""
    return str(key) or None


def scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold (rings and what links them) without stereochemistry; "" of acyclic molecules.

    Bemis and Murcko, Journal of Medicinal Chemistry 39, 1996, as RDKit draws them: with atoms bonded doubly to rings
    and links.
    """
    with rdBase.BlockLogs():
        return str(MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(smiles), includeChirality=False))


def without_stereo(smiles: str) -> str:
    """Return the canonical SMILES without stereochemistry."""
    with rdBase.BlockLogs():
        return str(Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False))


def fingerprints(
    smiles: Sequence[str],
    *,
    radius: int = 2,
    bits: int = 2048,
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint64]:
    """Return Morgan fingerprints, packed as `cellinfer_kernels.tanimoto` takes them.

    Rogers and Hahn, Extended-connectivity fingerprints, Journal of Chemical Information and Modeling 50, 2010.

    Parameters
    ----------
    smiles
        n standardised structures.
    radius, bits
        Of the fingerprints; bits in multiples of 64.
    threads
        For RDKit; None: all cores.
    progress
        See `Progress`.

    Returns
    -------
    ndarray of shape (n, bits / 64), uint64

    Raises
    ------
    InputError
        If a structure cannot be read.
    """
    check_bits(bits)
    packed = np.empty((len(smiles), bits // 64), np.uint64)
    for start in range(0, len(smiles), _CHUNK):
        chunk = smiles[start : start + _CHUNK]
        packed[start : start + len(chunk)] = morgan_fingerprints(read(chunk), radius, bits, threads=threads)
        if progress is not None:
            progress("fingerprints", start + len(chunk), len(smiles))
    return packed


def read(smiles: Sequence[str]) -> list[Any]:
    """Read standard structures into RDKit's molecules.

    Raises
    ------
    InputError
        If one is empty or no SMILES.
    """
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text) for text in smiles]
    for text, molecule in zip(smiles, molecules, strict=True):
        if molecule is None or not molecule.GetNumAtoms():
            raise InputError(f"{text!r} is not a structure that RDKit can read: prepare the table first.")
    return molecules


def check_bits(bits: int) -> None:
    """Refuse fingerprints that do not fill words."""
    if bits % 64 or bits < 64:
        raise InputError(f"Fingerprints have bits in multiples of 64, not {bits}.")


def morgan_fingerprints(
    molecules: Sequence[Any], radius: int = 2, bits: int = 2048, *, threads: int | None = None
) -> NDArray[np.uint64]:
    """Return packed Morgan fingerprints of RDKit's molecules; see `fingerprints`."""
    check_bits(bits)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    with rdBase.BlockLogs():
        vectors = generator.GetFingerprints(molecules, numThreads=threads or os.cpu_count() or 1)
    binary = b"".join(DataStructs.BitVectToBinaryText(vector) for vector in vectors)
    return np.frombuffer(binary, "<u8").reshape(len(molecules), bits // 64).astype(np.uint64)


def pains(
    smiles: Sequence[str], *, threads: int | None = None, progress: Progress | None = None
) -> list[tuple[str, ...]]:
    """Name the PAINS patterns (families A, B and C) that each structure has.

    Baell and Holloway, Journal of Medicinal Chemistry 53, 2010, as RDKit's filter catalogue has them.

    Parameters
    ----------
    smiles
        n structures.
    threads
        For RDKit; None: all cores.
    progress
        See `Progress`.

    Returns
    -------
    list of tuples of str
        Such as `("PAINS_A indol_3yl_alk(461)",)`; empty for most.
    """
    parameters = rdfiltercatalog.FilterCatalogParams()
    for family in ("PAINS_A", "PAINS_B", "PAINS_C"):
        parameters.AddCatalog(getattr(rdfiltercatalog.FilterCatalogParams.FilterCatalogs, family))
    catalogue = rdfiltercatalog.FilterCatalog(parameters)
    found: list[tuple[str, ...]] = []
    for start in range(0, len(smiles), _CHUNK):
        chunk = list(smiles[start : start + _CHUNK])
        with rdBase.BlockLogs():
            rows = rdfiltercatalog.RunFilterCatalog(catalogue, chunk, numThreads=threads or os.cpu_count() or 1)
        found += [tuple(f"{entry.GetProp('FilterSet')} {entry.GetDescription()}" for entry in row) for row in rows]
        if progress is not None:
            progress("PAINS", start + len(chunk), len(smiles))
    return found


def sdf_records(handle: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Read the SMILES and title of each record of an SD file; "" for a record that RDKit cannot read."""
    with rdBase.BlockLogs():
        for molecule in Chem.ForwardSDMolSupplier(handle):
            title = molecule.GetProp("_Name") if molecule is not None and molecule.HasProp("_Name") else ""
            yield ("" if molecule is None else Chem.MolToSmiles(molecule)), title
