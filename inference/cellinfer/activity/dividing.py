"""Folds of a prepared matrix, and how much they leak: `split`, and what it writes."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cellinfer_kernels.tanimoto import Nearest
from numpy.typing import NDArray

from cellinfer._version import __version__
from cellinfer.activity import chemistry, leakage, splits
from cellinfer.activity.chemistry import Progress
from cellinfer.activity.columns import COMPOUND, FOLD, KEY, SCAFFOLD, SMILES
from cellinfer.activity.filters import BLANK, HIT, Labels
from cellinfer.activity.picture import draw_similarities
from cellinfer.activity.prepare import assay_columns, labels_of
from cellinfer.activity.tables import PARQUET, inside
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready, owned, sha256_of
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.profiling.rows import examples
from cellinfer.profiling.sources import open_source
from cellinfer.settings import with_options

WAYS = ("scaffold", "kmeans", "random", "assay-type")
SIMILARITY, NEIGHBOUR, FAMILY = "Nearest_Similarity", "Nearest_Compound", "Stereo_Family"
_NEEDED = (COMPOUND, SMILES, KEY, SCAFFOLD)
_CLOSE = (0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """What `split` does; every value is written into `split.json`."""

    by: str = "scaffold"
    """One of `WAYS`."""
    folds: int = 5
    """Of compounds; types of assays have a fold each."""
    seed: int = 0
    """Of everything random."""
    features: Path | None = None
    """Table of profiles that `kmeans` clusters compounds by; None: Morgan fingerprints."""
    join: str = COMPOUND
    """Its column with names of compounds."""
    stratify: bool = True
    """Spread the hits of each assay over random folds evenly."""
    as_published: bool = False
    """Folds of Moshkov et al.: see `scaffold_folds`; random folds are not stratified."""
    threads: int | None = None
    """None: all cores."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What `split` made, and where it wrote it."""

    folds: pd.DataFrame
    """A row per compound with its fold, its most similar training compound and its family of stereoisomers, if that is
    in several folds; by type of assay a row per assay with its fold and the training assay with most hits in common."""
    counts: pd.DataFrame
    """Labels of each assay in each fold, see `counts_by_fold`; by type of assay a row per fold."""
    notes: tuple[str, ...]
    info: dict[str, Any] = field(repr=False)
    """What `split.json` holds."""
    at_random: NDArray[np.float64] | None = field(default=None, repr=False)
    """Similarities of nearest training compounds if folds were random."""
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `split.json` holds."""
        return self.info


def split(
    prepared: str | Path,
    out: str | Path | None = None,
    settings: SplitSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> SplitResult:
    """Divide a prepared matrix into folds, and report what they have in common.

    Parameters
    ----------
    prepared
        Folder that `prepare` wrote, or its `matrix.parquet`.
    out
        Folder for the results; None: nothing is written.
    settings
        What to do; `options` are settings by name, which take precedence.
    progress
        Called with the step's name, how much is done, and of how much.

    Returns
    -------
    SplitResult

    Raises
    ------
    InputError
        If the matrix or a setting is not usable.
    OutputError
        If results cannot be written.
    """
    chosen = _settings(settings, options)
    path = inside(prepared, "matrix.parquet")
    if out is not None and Path(out).resolve() == path.parent.resolve():
        raise InputError(f"{out} holds what is read: choose another folder for the folds.")
    matrix = read_matrix(path)
    result = (
        _of_assays(matrix, path, chosen) if chosen.by == "assay-type" else _of_compounds(matrix, path, chosen, progress)
    )
    return result if out is None else _write(result, chosen, Path(out))


def read_matrix(path: Path) -> pd.DataFrame:
    """Read a matrix that `prepare` wrote.

    Raises
    ------
    InputError
        If there is none, or it is something else.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}: run `cellinfer activity prepare` first.")
    if path.suffix.lower() not in PARQUET:
        raise InputError(f"{path} is not what is divided: give the folder it is in, or its matrix.parquet.")
    try:
        matrix = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: run `cellinfer activity prepare` again ({error}).") from error
    if missing := [name for name in _NEEDED if name not in matrix]:
        raise InputError(f"{path} has no column {missing[0]}: give what `cellinfer activity prepare` wrote.")
    if matrix.empty or matrix[SMILES].isna().any() or (matrix[SMILES] == "").any():
        what = "no compounds" if matrix.empty else "compounds without a structure"
        raise InputError(f"{path} has {what}: give what `cellinfer activity prepare` wrote.")
    if wrong := [name for name in assay_columns(matrix) if not matrix[name].dropna().isin([0, 1]).all()]:
        raise InputError(f"{path} has other values than 1, 0 and nothing in {wrong[0]}: prepare it again.")
    return matrix


def _settings(settings: SplitSettings | None, options: dict[str, Any]) -> SplitSettings:
    chosen = with_options(settings or SplitSettings(), options)
    if chosen.by not in WAYS:
        raise InputError(f"There are no folds by {chosen.by!r}: choose {', '.join(WAYS)}.")
    if chosen.features is not None and chosen.by != "kmeans":
        raise InputError("A table of profiles is for folds by kmeans.")
    if chosen.as_published and chosen.by not in ("scaffold", "random"):
        raise InputError(
            f"Folds by {chosen.by} have no published form that could be repeated: published clusters come from a "
            "heuristic without a seed."
        )
    return chosen


def _of_compounds(matrix: pd.DataFrame, path: Path, settings: SplitSettings, progress: Progress | None) -> SplitResult:
    notes: list[str] = []
    smiles, labels = matrix[SMILES].tolist(), labels_of(matrix)
    packed = chemistry.fingerprints(smiles, threads=settings.threads, progress=progress)
    folds = _folds(matrix, labels, packed, settings, notes)
    found = leakage.nearest_in_training(packed, folds, threads=settings.threads, progress=progress)
    drawn = np.full(len(folds), -1)
    inside = folds >= 0
    drawn[inside] = splits.random_folds(int(inside.sum()), int(folds.max()) + 1, settings.seed)
    at_random = leakage.nearest_in_training(packed, drawn, threads=settings.threads)
    flat = [chemistry.without_stereo(text) for text in smiles]
    families = leakage.stereo_twins(flat, matrix[KEY].tolist(), folds)
    names = matrix[COMPOUND].to_numpy(dtype=object)
    table = matrix[[COMPOUND, SMILES, SCAFFOLD]].copy()
    table[FOLD] = pd.array(np.maximum(folds, 0), dtype="Int64")
    table.loc[~inside, FOLD] = pd.NA
    table[SIMILARITY] = found.similarity
    table[NEIGHBOUR] = pd.Series(names[found.row]).where(found.row >= 0)
    table[FAMILY] = pd.array(np.maximum(families, 0), dtype="Int64")
    table.loc[families < 0, FAMILY] = pd.NA
    counts = leakage.counts_by_fold(labels, folds, assay_columns(matrix)) if labels.shape[1] else pd.DataFrame()
    if (number := int(families.max(initial=-1)) + 1) > 0:
        notes.append(
            f"{number} families of stereoisomers ({int((families >= 0).sum())} compounds) are in several folds."
        )
    notes += _unscorable(counts, int(folds.max()) + 1)
    info = _info(path, settings, notes)
    info |= json_ready(
        {
            "compounds": len(matrix),
            "in_no_fold": int((~inside).sum()),
            "stereo_families_in_several_folds": number,
            "folds": _by_fold(folds, found, counts),
            "nearest_training_similarity": _similarity(found.similarity),
            "nearest_training_similarity_at_random": _similarity(at_random.similarity),
        }
    )
    return SplitResult(table, counts, tuple(notes), info, at_random.similarity)


def _folds(
    matrix: pd.DataFrame, labels: Labels, packed: NDArray[np.uint64], settings: SplitSettings, notes: list[str]
) -> NDArray[np.int64]:
    if settings.by == "scaffold":
        scaffolds = matrix[SCAFFOLD].fillna("").tolist()
        acyclic = scaffolds.count("")
        notes.append(f"{len(set(scaffolds))} scaffolds; {acyclic} molecules without a ring are kept together.")
        found = splits.scaffold_folds(scaffolds, settings.folds, settings.seed, as_published=settings.as_published)
        sizes = np.bincount(found)
        if sizes.max() > 1.1 * len(found) / settings.folds:
            largest = matrix[SCAFFOLD].fillna("").value_counts()
            what = f"the scaffold {largest.index[0]}" if largest.index[0] else "no ring"
            notes.append(f"Folds are not of one size: {largest.iloc[0]} compounds have {what}.")
        return found
    if settings.by == "random":
        stratified = settings.stratify and not settings.as_published
        return splits.random_folds(len(matrix), settings.folds, settings.seed, labels if stratified else None)
    if settings.features is None:
        bits = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")
        return splits.same_size_clusters(bits, settings.folds, settings.seed).labels
    values, inside = _profiles(settings.features, settings.join, matrix[COMPOUND], notes)
    folds = np.full(len(matrix), -1)
    folds[inside] = splits.same_size_clusters(values, settings.folds, settings.seed).labels
    return folds


def _profiles(
    path: Path, join: str, compounds: pd.Series[Any], notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return standardised profiles, and which compounds have them."""
    names = compounds.astype(str)
    if names.duplicated().any():
        raise InputError(f"Profiles cannot be joined: {names[names.duplicated()].iloc[0]!r} names several compounds.")
    source = open_source(path)
    keys = source.keys()
    if join not in keys:
        raise InputError(f"{path} has no column {join} that names compounds: say which with --join.")
    values = source.read()
    known = pd.DataFrame(values, columns=source.features).groupby(keys[join].astype(str).to_numpy()).mean()
    places = known.index.get_indexer(pd.Index(names))
    inside = np.flatnonzero(places >= 0)
    if not len(inside):
        raise InputError(f"{path} has profiles of none of the compounds, such as {examples(names.tolist())}.")
    chosen = known.to_numpy()[places[inside]]
    has_any = np.isfinite(chosen).any(axis=1)
    inside, chosen = inside[has_any], chosen[has_any]
    whole = np.isfinite(chosen).all(axis=0) & (chosen.std(axis=0) > 0) if len(chosen) else np.zeros(0, bool)
    if not whole.any():
        raise InputError(f"{path} has no feature that is known for all compounds and not constant.")
    if dropped := int((~whole).sum()):
        notes.append(f"{dropped} of {len(whole)} features are left out: missing for some compounds, or constant.")
    if lost := len(compounds) - len(inside):
        notes.append(f"{lost} of {len(compounds)} compounds have no profile, and are in no fold.")
    chosen = chosen[:, whole]
    return (chosen - chosen.mean(axis=0)) / chosen.std(axis=0), inside


def _unscorable(counts: pd.DataFrame, folds: int) -> list[str]:
    if counts.empty:
        return []
    scorable = counts.groupby("assay", sort=False)["scorable"].sum()
    notes = []
    if (some := scorable[scorable < folds]).size:
        notes.append(
            f"{some.size} of {scorable.size} assays lack hits or inactives in one fold or more, where they cannot be "
            f"scored: {examples(some.index.tolist())}."
        )
    assays = counts.groupby("assay", sort=False)
    trained = assays["training_hits"].min()
    if (some := trained[(trained == 0) & (assays["hits"].sum() > 0)]).size:
        notes.append(f"{some.size} assays have all their hits in one fold: {examples(some.index.tolist())}.")
    return notes


def _similarity(values: NDArray[np.float64]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    shares = {f"share_at_least_{limit}": float((finite >= limit).mean()) for limit in _CLOSE}
    return {"median": float(np.median(finite)), "mean": float(finite.mean()), **shares}


def _by_fold(folds: NDArray[np.int64], found: Nearest, counts: pd.DataFrame) -> list[dict[str, Any]]:
    described = []
    for fold in range(int(folds.max()) + 1):
        some: dict[str, Any] = {"fold": fold, "compounds": int((folds == fold).sum())}
        some |= _similarity(found.similarity[folds == fold])
        if not counts.empty:
            here = counts[counts["fold"] == fold]
            some |= {"hits": int(here["hits"].sum()), "scorable_assays": int(here["scorable"].sum())}
        described.append(some)
    return described


def _of_assays(matrix: pd.DataFrame, path: Path, settings: SplitSettings) -> SplitResult:
    assays, labels = assay_columns(matrix), labels_of(matrix)
    types = _types(path, assays)
    folds, names = splits.assay_type_folds(types)
    notes = []
    if (folds < 0).any():
        notes.append(f"{int((folds < 0).sum())} assays without a type are in no fold.")
    found = leakage.nearest_training_assays(labels, folds)
    table = pd.DataFrame({"assay": assays, "type": pd.Series(types, dtype=object)})
    table[FOLD] = pd.array(np.maximum(folds, 0), dtype="Int64")
    table.loc[folds < 0, FOLD] = pd.NA
    table["nearest_assay"] = pd.Series(np.array(assays, dtype=object)[found.row]).where(found.row >= 0)
    table["overlap"] = found.similarity
    rows = []
    for fold, name in enumerate(names):
        test, training = labels[:, folds == fold], labels[:, (folds != fold) & (folds >= 0)]
        known = (training != BLANK).any(axis=1)
        readouts = (test != BLANK).sum(axis=1)
        rows.append(
            {
                "fold": fold,
                "type": name,
                "assays": int((folds == fold).sum()),
                "readouts": int(readouts.sum()),
                "hits": int((test == HIT).sum()),
                "readouts_of_training_compounds": float(readouts[known].sum() / max(readouts.sum(), 1)),
            }
        )
    counts = pd.DataFrame(rows)
    notes.append("Training has seen the compounds of the assays that are left out, with other labels: see the counts.")
    info = _info(path, settings, notes) | json_ready({"assays": len(assays), "folds": counts.to_dict("records")})
    return SplitResult(table, counts, tuple(notes), info)


def _types(path: Path, assays: list[str]) -> list[str | None]:
    """Read the types of assays from what `prepare` wrote beside the matrix."""
    file = path.parent / "assays.csv"
    if not file.is_file():
        raise InputError(
            f"There is no {file} with types of assays: give the folder `cellinfer activity prepare` wrote."
        )
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        known = dict(zip(table["assay"].str.removeprefix("'"), table["type"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} cannot be read: run `cellinfer activity prepare` again.") from error
    return [known.get(name.removeprefix("'")) or None for name in assays]


def _info(path: Path, settings: SplitSettings, notes: list[str]) -> dict[str, Any]:
    info: dict[str, Any] = json_ready(
        {
            "cellinfer": __version__,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": asdict(settings),
            "notes": notes,
            "inputs": [
                {"path": str(one), "sha256": sha256_of(one) if one.is_file() else None}
                for one in (path, settings.features)
                if one is not None
            ],
            "versions": chemistry.versions(),
        }
    )
    return info


def _write(result: SplitResult, settings: SplitSettings, folder: Path) -> SplitResult:
    """Write tables and picture, and `split.json` after them."""
    names = ["folds.parquet", "folds.csv"]
    with owned(folder):
        for old in ("split.json", "counts.csv", "leakage.png"):
            (folder / old).unlink(missing_ok=True)  # of an earlier split: while tables change there is no result
        write_parquet(result.folds, folder / "folds.parquet")
        write_csv(result.folds, folder / "folds.csv")
        if len(result.counts):
            write_csv(result.counts, folder / "counts.csv")
            names.append("counts.csv")
        if result.at_random is not None:
            folds = result.folds[FOLD].fillna(-1).to_numpy(np.int64)
            similarity = result.folds[SIMILARITY].to_numpy(np.float64)
            draw_similarities(f"{settings.by} folds", similarity, folds, result.at_random, folder / "leakage.png")
            names.append("leakage.png")
        files = [folder / name for name in [*names, "split.json"]]
        info = {**result.info, "files": [path.name for path in files]}
        with durable(files[-1]) as partial:
            partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return replace(result, info=info, files=tuple(files))
