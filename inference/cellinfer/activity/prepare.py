"""From a table of assay results to a matrix that models can be trained on: `prepare`, and what it writes.

The steps, in order: structures that cannot be used out, duplicates into one, PAINS out, assays without hits out,
redundant assays out, frequent hitters out, and once more assays without hits. What each took out, and why, is in
`removed.csv` and `assays.csv`; settings, counts and versions are in `prepare.json`.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellinfer._version import __version__
from cellinfer.activity import chemistry, filters
from cellinfer.activity.chemistry import PUBLISHED, Progress, Salts, Standardisation
from cellinfer.activity.columns import COMPOUND, GIVEN, KEY, ROW, ROWS, SCAFFOLD, SMILES
from cellinfer.activity.digests import Wanted, joined
from cellinfer.activity.filters import BLANK, HIT, INACTIVE, Labels
from cellinfer.activity.molecules import MoleculeFile, open_molecules
from cellinfer.activity.processes import Readers
from cellinfer.activity.tables import columns_of, read_table
from cellinfer.errors import InputError
from cellinfer.files import durable, json_ready, owned, sha256_of
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.profiling.columns import is_metadata
from cellinfer.profiling.rows import examples
from cellinfer.sessions import available_cores
from cellinfer.settings import with_options

STEPS = ("duplicates", "pains", "no-hits", "redundant", "frequent")
"""Steps that can be left out, in order."""
_LABELS = {"1": HIT, "0": INACTIVE, "": BLANK, "na": BLANK, "nan": BLANK, "1.0": HIT, "0.0": INACTIVE}
_PIECE = 2_000


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """What `prepare` does; every value is written into `prepare.json`."""

    smiles: str | None = None
    """Column with SMILES; None: found by its name."""
    identifier: str | None = None
    """Column with names of compounds; None: found by its name, else rows are called by their number."""
    ignore: tuple[str, ...] = ()
    """Columns that are no assays."""
    blank: tuple[str, ...] = ()
    """Values that mean not tested, besides empty cells, NA and NaN."""
    assays: Path | None = None
    """Table of assays: then only those it names are read."""
    assay_type: str | None = None
    """Its column with types; None: found by its name."""
    salts: Salts = "strip"
    """See `Standardisation`."""
    uncharge: bool = True
    """See `Standardisation`."""
    largest: int = 150
    """See `Standardisation`."""
    contradictions: str = "blank"
    """What a label becomes that duplicates contradict each other in; see `merge`."""
    overlap: float = 0.7
    """Intersection over union of hits above which assays are redundant."""
    frequent: float = 0.1
    """Part of the assays in which frequent hitters are hits."""
    skip: tuple[str, ...] = ()
    """Steps to be left out, of `STEPS`."""
    as_published: bool = False
    """Do as Moshkov et al.: structures as they are, no duplicates merged, 30 % of redundant assays kept at random,
    frequent hitters by all assays, -1 is blank."""
    seed: int = 0
    """Of what is random in `as_published`."""
    threads: int | None = None
    """Processes that make structures standard, and threads of RDKit; None: all cores."""

    @property
    def standardisation(self) -> Standardisation:
        """What is done to structures."""
        if self.as_published:
            return PUBLISHED
        return Standardisation(salts=self.salts, uncharge=self.uncharge, largest=self.largest)


@dataclass(frozen=True, slots=True)
class PrepareStep:
    """What one step did."""

    name: str
    removed: int
    """Compounds, or assays."""
    compounds: int
    """Left."""
    assays: int
    """Left."""
    rule: str
    counts: dict[str, int] = field(default_factory=dict)
    """By reason, where there are several."""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What `prepare` made, and where it wrote it."""

    matrix: pd.DataFrame
    """A row per compound: `Metadata_...`, then assays as nullable whole numbers: 1, 0, missing."""
    removed: pd.DataFrame
    """A row per input row that is not in the matrix under its own number: `step`, `row`, `id`, `SMILES`, `reason`."""
    contradictions: pd.DataFrame
    """A row per label that duplicates contradict each other in."""
    assays: pd.DataFrame
    """A row per assay: type, counts before and after, whether it was kept, and why not."""
    steps: tuple[PrepareStep, ...]
    notes: tuple[str, ...]
    info: dict[str, Any] = field(repr=False)
    """What `prepare.json` holds."""
    files: tuple[Path, ...] = ()

    @property
    def labels(self) -> Labels:
        """`(compounds, assays)` int8, -1 where not tested."""
        return labels_of(self.matrix)

    def to_dict(self) -> dict[str, Any]:
        """Return what `prepare.json` holds."""
        return self.info


def prepare(
    table: str | Path,
    out: str | Path | None = None,
    settings: PrepareSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> PrepareResult:
    """Make a matrix of compounds and assays that models can be trained on.

    Parameters
    ----------
    table
        Table (CSV, TSV, Parquet) with a column of SMILES, perhaps one of names, and one per assay with 1, 0 or nothing;
        or a list of molecules without assays, see `open_molecules`.
    out
        Folder for the results; None: nothing is written.
    settings
        What to do; `options` are settings by name, which take precedence.
    progress
        Called with the step's name, how much is done, and of how much.

    Returns
    -------
    PrepareResult

    Raises
    ------
    InputError
        If the table or a setting is not usable, or nothing is left.
    OutputError
        If results cannot be written.
    """
    chosen = _settings(settings, options)
    work = _Work(Path(table), chosen, progress or (lambda name, done, total: None))
    result = work.run()
    return result if out is None else _write(result, Path(out))


def labels_of(matrix: pd.DataFrame) -> Labels:
    """Return the labels of a matrix: `(compounds, assays)` int8, -1 where not tested."""
    columns = [matrix[name].fillna(BLANK).to_numpy(np.int8) for name in assay_columns(matrix)]
    return np.stack(columns, axis=1) if columns else np.empty((len(matrix), 0), np.int8)


def assay_columns(matrix: pd.DataFrame) -> list[str]:
    """Return the columns of a matrix that are assays."""
    return [name for name in map(str, matrix.columns) if not is_metadata(name)]


def _settings(settings: PrepareSettings | None, options: dict[str, Any]) -> PrepareSettings:
    chosen = with_options(settings or PrepareSettings(), options)
    for name, value, allowed in (
        ("handling of salts", chosen.salts, ("strip", "keep", "refuse")),
        ("rule for contradictions", chosen.contradictions, filters.CONTRADICTIONS),
        *(("step", step, STEPS) for step in chosen.skip),
    ):
        if value not in allowed:
            raise InputError(f"There is no {name} {value!r}: choose {', '.join(allowed)}.")
    for name, part in (("overlap", chosen.overlap), ("part of frequent hits", chosen.frequent)):
        if not 0 < part <= 1:
            raise InputError(f"The {name} must be above 0 and at most 1, and is {part}.")
    if chosen.largest < 1:
        raise InputError(f"The largest molecule must have at least one heavy atom, not {chosen.largest}.")
    if chosen.threads is not None and chosen.threads < 1:
        raise InputError(f"There must be at least 1 thread, not {chosen.threads}.")
    if chosen.assay_type is not None and chosen.assays is None:
        raise InputError("A column with types of assays needs the table of assays that has it.")
    return chosen


class _Work:
    """The steps, each on what the earlier ones left; see `prepare`."""

    def __init__(self, path: Path, settings: PrepareSettings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress
        self.file = open_molecules(path, smiles=settings.smiles, identifier=settings.identifier)
        self.notes: list[str] = []
        self.steps: list[PrepareStep] = []
        self._removed: list[pd.DataFrame] = []
        self.names, self.types = _chosen_assays(self.file, settings, self.notes)

    def run(self) -> PrepareResult:
        """Do all steps."""
        self._read()
        self.fate = pd.DataFrame(
            {
                "assay": self.names,
                "type": self.types,
                "kept": True,
                "reason": "",
                "hits_before": (self.labels == HIT).sum(axis=0),
                "inactive_before": (self.labels == INACTIVE).sum(axis=0),
            }
        ).astype({"reason": object, "type": object})
        self.fate["kept_instead"], self.fate["overlap"] = None, np.nan
        self.left = np.arange(len(self.names))
        self._structures()
        self._duplicates()
        self._pains()
        self._without_hits("no-hits")
        self._redundant()
        self._frequent()
        self._without_hits("no-hits")
        return self._result()

    def _done(self, name: str, removed: int, rule: str, counts: dict[str, int] | None = None) -> None:
        self.steps.append(PrepareStep(name, removed, len(self.table), len(self.left), rule, counts or {}))

    def _wanted(self, step: str) -> bool:
        if step in self.settings.skip:
            return False
        return step == "duplicates" or step == "pains" or len(self.names) > 0

    def _read(self) -> None:
        """Read the table; labels become numbers piece by piece."""
        tables, labels = [], []
        blanks = {**_LABELS, **{value.strip().lower(): BLANK for value in self.settings.blank}}
        if self.settings.as_published:
            blanks |= {"-1": BLANK, "-1.0": BLANK}
        for piece in self.file.pieces(self.names):
            labels.append(_numbers(piece, self.names, blanks, self.file.path))
            tables.append(piece[["row", "id", "SMILES"]])
        if not tables:
            raise InputError(f"{self.file.path} has no rows.")
        self.table = pd.concat(tables, ignore_index=True)
        self.labels: Labels = np.concatenate(labels)
        self.read = len(self.table)

    def _drop(self, out: np.ndarray, step: str, reasons: Sequence[str]) -> None:
        """Take out rows, and keep a record of them."""
        gone = self.table.loc[out, ["row", "id", "SMILES"]]
        gone.insert(0, "step", step)
        gone["reason"] = list(reasons)
        self._removed.append(gone)
        self.table, self.labels = self.table[~out].reset_index(drop=True), self.labels[~out]

    def _structures(self) -> None:
        how = self.settings.standardisation
        digests = []
        smiles, wanted = self.table["SMILES"].tolist(), Wanted(how)
        self.progress("structures", 0, len(smiles))
        with Readers(self.settings.threads or available_cores()) as readers:
            for start in range(0, len(smiles), _PIECE):
                digests.append(readers.begin(smiles[start : start + _PIECE], wanted)())
                self.progress("structures", min(start + _PIECE, len(smiles)), len(smiles))
        read = joined(digests, wanted)
        found = pd.DataFrame({"smiles": read.smiles, "status": read.status, "detail": read.detail}, dtype=object)
        wrong = (found["status"] != "ok").to_numpy()
        isomers = int(found["detail"].str.startswith(chemistry.STEREOISOMERS).sum())
        stripped = int(((found["detail"] != "") & ~wrong).sum()) - isomers
        reasons = (found["status"] + (": " + found["detail"]).where(found["detail"] != "", ""))[wrong]
        self.table["smiles"] = found["smiles"]
        counts = dict(Counter(found["status"][wrong]))
        self._drop(wrong, "structures", reasons.tolist())
        rule = "as RDKit reads them" if self.settings.as_published else json.dumps(asdict(how))
        changed = {"counter-ions and solvents taken off": stripped, "stereoisomers made one": isomers}
        self._done("structures", int(wrong.sum()), rule, {**counts, **changed})
        if not len(self.table):
            raise InputError(f"{self.file.path} has no usable structure: the first one is {reasons.iloc[0]}.")

    def _duplicates(self) -> None:
        smiles = self.table["smiles"].tolist()
        keys = []
        for start in range(0, len(smiles), _PIECE):
            keys += [chemistry.inchi_key(text) for text in smiles[start : start + _PIECE]]
            self.progress("keys", len(keys), len(smiles))
        self.table["key"] = pd.Series(keys, dtype=object)
        self.contradictions = pd.DataFrame(columns=["id", "assay", "hits", "inactive", "became"])
        self.table["rows"] = 1
        if not self._wanted("duplicates") or self.settings.as_published:
            return
        same = self.table["key"].where(self.table["key"].notna(), self.table["smiles"]).astype(str)
        merged = filters.merge(same.to_numpy(dtype=str), self.labels, self.settings.contradictions)
        first = merged.first[merged.compound]
        out = first != np.arange(len(self.table))
        ids, rows = self.table["id"].to_numpy(), self.table["row"].to_numpy()
        self.contradictions = pd.DataFrame(
            {
                "id": ids[merged.first[merged.contradictions[:, 0]]],
                "assay": np.array(self.names, dtype=object)[merged.contradictions[:, 1]],
                "hits": merged.contradictions[:, 2],
                "inactive": merged.contradictions[:, 3],
                "became": [
                    {HIT: "1", INACTIVE: "0", BLANK: ""}[int(merged.labels[one, assay])]
                    for one, assay in merged.contradictions[:, :2]
                ],
            }
        )
        reasons = [f"the same compound as row {rows[first[one]]} ({ids[first[one]]})" for one in np.flatnonzero(out)]
        self.table["rows"] = np.bincount(merged.compound)[merged.compound]
        self._drop(out, "duplicates", reasons)
        self.labels = merged.labels
        rule = f"same InChIKey; a label that rows contradict each other in: {self.settings.contradictions}"
        self._done("duplicates", int(out.sum()), rule, {"contradictions": len(self.contradictions)})

    def _pains(self) -> None:
        if not self._wanted("pains"):
            return
        found = chemistry.pains(self.table["smiles"].tolist(), threads=self.settings.threads, progress=self.progress)
        out = np.array([bool(names) for names in found], bool)
        families = Counter(name.split()[0] for names in found for name in {each.split()[0]: 0 for each in names})
        self._drop(out, "pains", ["; ".join(names) for names in found if names])
        self._done("pains", int(out.sum()), "has a PAINS pattern of family A, B or C", dict(sorted(families.items())))

    def _leave(self, out: np.ndarray, reasons: Sequence[str]) -> None:
        """Take out assays (of those that are left), and keep a record of them."""
        gone = self.left[out]
        self.fate.loc[gone, "kept"] = False
        self.fate.loc[gone, "reason"] = list(reasons)
        self.left, self.labels = self.left[~out], self.labels[:, ~out]

    def _without_hits(self, step: str) -> None:
        if not self._wanted(step):
            return
        hits, readouts = (self.labels == HIT).sum(axis=0), (self.labels != BLANK).sum(axis=0)
        out = hits == 0
        self._leave(out, ["no hits" if count else "no readouts" for count in readouts[out]])
        self._done(step, int(out.sum()), "assays without hits among the compounds that are left")

    def _redundant(self) -> None:
        if not self._wanted("redundant"):
            return
        limit = self.settings.overlap
        overlap = filters.overlaps(self.labels)
        clusters = filters.assay_clusters(overlap, limit)
        names = self.fate["assay"].to_numpy()[self.left]
        if self.settings.as_published:
            out = ~filters.sampled_assays(clusters, self.settings.seed)
            reasons = ["redundant: not among the 30 % drawn from its cluster"] * int(out.sum())
            rule = f"clusters of assays with an overlap of hits above {limit}: 30 % of each, rounded down, at random"
        else:
            stands_for = filters.representatives(self.labels, overlap, clusters, limit)
            out = stands_for >= 0
            gone = np.flatnonzero(out)
            self.fate.loc[self.left[gone], "kept_instead"] = names[stands_for[gone]]
            self.fate.loc[self.left[gone], "overlap"] = overlap[gone, stands_for[gone]]
            reasons = [f"redundant: its hits overlap those of {names[stands_for[one]]}" for one in gone]
            rule = f"clusters of assays with an overlap of hits above {limit}: the one with most hits stays"
        staying = overlap[~out][:, ~out]
        np.fill_diagonal(staying, 0.0)
        counts = {"clusters": int(clusters.max(initial=-1)) + 1}
        self._leave(out, reasons)
        self._done("redundant", int(out.sum()), rule, counts)
        if (staying > limit).any():
            pairs = int((staying > limit).sum() // 2)
            self.notes.append(f"{pairs} pairs of assays in different clusters still overlap by more than {limit}.")

    def _frequent(self) -> None:
        if not self._wanted("frequent") or not len(self.left):
            return
        part = self.settings.frequent
        frequency = filters.hit_frequency(self.labels)
        if self.settings.as_published:
            out = filters.published_frequent_hitters(self.labels, part)
            rule = f"hits in at least {part:.0%} of all assays"
        else:
            out = filters.frequent_hitters(frequency, part)
            rule = f"hits in at least {part:.0%} of the assays where tested, and more than by chance (q <= 0.01)"
        reasons = [
            f"{frequency.hits[one]} hits in {frequency.tested[one]} of {len(self.left)} assays "
            f"(p = {frequency.p_value[one]:.2g})"
            for one in np.flatnonzero(out)
        ]
        self._drop(out, "frequent", reasons)
        self._done("frequent", int(out.sum()), rule)

    def _result(self) -> PrepareResult:
        if not len(self.table):
            raise InputError(f"No compound of {self.file.path} is left: look at the counts, and use --skip.")
        if self.names and not len(self.left):
            raise InputError(f"No assay of {self.file.path} is left: none has a hit, or --ignore names too many.")
        scaffolds = []
        for start in range(0, len(self.table), _PIECE):
            scaffolds += [chemistry.scaffold(text) for text in self.table["smiles"].iloc[start : start + _PIECE]]
            self.progress("scaffolds", len(scaffolds), len(self.table))
        head = pd.DataFrame(
            {
                COMPOUND: self.table["id"],
                SMILES: self.table["smiles"],
                GIVEN: self.table["SMILES"],
                KEY: self.table["key"],
                SCAFFOLD: scaffolds,
                ROW: self.table["row"],
                ROWS: self.table["rows"],
            }
        )
        columns = {
            self.names[assay]: pd.array(np.where(values == BLANK, 0, values), dtype="Int8")
            for assay, values in zip(self.left, self.labels.T, strict=True)
        }
        for assay, values in zip(self.left, self.labels.T, strict=True):
            columns[self.names[assay]][values == BLANK] = pd.NA
        matrix = pd.concat([head, pd.DataFrame(columns, index=head.index)], axis=1)
        self.fate["hits"], self.fate["inactive"] = 0, 0
        self.fate.loc[self.left, "hits"] = (self.labels == HIT).sum(axis=0)
        self.fate.loc[self.left, "inactive"] = (self.labels == INACTIVE).sum(axis=0)
        removed = pd.concat(self._removed, ignore_index=True)
        self._remark(head)
        return PrepareResult(
            matrix, removed, self.contradictions, self.fate, tuple(self.steps), tuple(self.notes), self._info(matrix)
        )

    def _remark(self, head: pd.DataFrame) -> None:
        """Note what a user should know of the result."""
        twins = head[COMPOUND][head[COMPOUND].duplicated()].unique()
        if len(twins):
            self.notes.append(f"{len(twins)} names are of more than one structure, such as {twins[0]}.")
        if head[KEY].isna().any():
            self.notes.append(f"{int(head[KEY].isna().sum())} structures have no InChIKey: they are told by SMILES.")
        if not self.names:
            self.notes.append("The table has no assays: only structures were looked at.")
            return
        kept = self.fate[self.fate["kept"]]
        if (kept["inactive"] == 0).any():
            some = kept["assay"][kept["inactive"] == 0].tolist()
            self.notes.append(f"{len(some)} assays have hits only, and cannot be scored: {examples(some)}.")
        untested = int((self.labels == BLANK).all(axis=1).sum())
        if untested:
            self.notes.append(f"{untested} compounds are left without any readout.")

    def _info(self, matrix: pd.DataFrame) -> dict[str, Any]:
        settings = {one.name: getattr(self.settings, one.name) for one in fields(self.settings)}
        inputs = [path for path in (self.file.path, self.settings.assays) if path is not None]
        tested = self.labels != BLANK
        info: dict[str, Any] = json_ready(
            {
                "cellinfer": __version__,
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "settings": settings,
                "input": {
                    "rows": self.read,
                    "assays": len(self.names),
                    "smiles": self.file.smiles,
                    "identifier": self.file.identifier,
                },
                "steps": [asdict(step) for step in self.steps],
                "result": {
                    "compounds": len(matrix),
                    "assays": len(self.left),
                    "scaffolds": int(matrix[SCAFFOLD].nunique()),
                    "readouts": int(tested.sum()),
                    "hits": int((self.labels == HIT).sum()),
                    "blank": 1.0 - float(tested.mean()) if tested.size else None,
                },
                "notes": self.notes,
                "inputs": [{"path": str(path), "sha256": sha256_of(path)} for path in inputs],
                "versions": chemistry.versions(),
            }
        )
        return info


def standardisation_of(matrix: Path) -> dict[str, Any] | None:
    """Return what `prepare` did to the structures of a matrix that it wrote, by the names of `Standardisation`.

    Returns
    -------
    dict or None
        None for a table that `prepare` did not write.

    Raises
    ------
    InputError
        If the `prepare.json` beside it cannot be read.
    """
    path = matrix.with_name("prepare.json")
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if matrix.name not in info["files"]:
            return None
        stated = info["settings"]
        names = ("salts", "uncharge", "largest", "as_published")
        return asdict(PrepareSettings(**{name: stated[name] for name in names}).standardisation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): prepare the table anew.") from error


def _numbers(piece: pd.DataFrame, names: Sequence[str], known: dict[str, int], path: Path) -> Labels:
    """Turn cells into labels."""
    labels = np.full((len(piece), len(names)), BLANK, np.int8)
    for place, name in enumerate(names):
        found = piece[name].str.lower().map(known)
        if found.isna().any():
            where = int(np.flatnonzero(found.isna())[0])
            raise InputError(
                f"{path} has {piece[name].iloc[where]!r} in row {piece['row'].iloc[where]} of {name}: an assay has 1 "
                "(hit), 0 or nothing (not tested). Name columns that are no assays with --ignore, values that mean "
                "not tested with --blank."
            )
        labels[:, place] = found
    return labels


def _chosen_assays(
    file: MoleculeFile, settings: PrepareSettings, notes: list[str]
) -> tuple[list[str], list[str | None]]:
    """Return the names and types of the assays that are to be read."""
    if missing := [name for name in settings.ignore if name not in file.columns]:
        raise InputError(f"{file.path} has no column {missing[0]!r} that could be ignored.")
    names = [name for name in file.others if name not in settings.ignore and not is_metadata(name)]
    if "" in names:
        raise InputError(f"{file.path} has a column without a name: name it in the header.")
    if settings.assays is None:
        return names, [None] * len(names)
    table = _assay_table(Path(settings.assays))
    counts = {column: int(table[column].isin(names).sum()) for column in table}
    key = max(counts, key=lambda column: counts[column])
    if counts[key] == 0:
        raise InputError(f"No column of {settings.assays} names assays of {file.path}, such as {examples(names)}.")
    rows = table[table[key].isin(names)]
    if rows[key].duplicated().any():
        raise InputError(f"{settings.assays} names the assay {rows[key][rows[key].duplicated()].iloc[0]} twice.")
    types = dict(zip(rows[key], rows[_type_column(table, settings)], strict=True))
    if others := [name for name in names if name not in types]:
        notes.append(f"{len(others)} columns are not read, not being in the table of assays: {examples(others)}.")
    if strangers := int((~table[key].isin(names)).sum()):
        notes.append(f"{strangers} assays of the table of assays are not in {file.path.name}.")
    chosen = [name for name in names if name in types]
    return chosen, [types[name] or None for name in chosen]


def _assay_table(path: Path) -> pd.DataFrame:
    """Read a table of assays as text."""
    if not path.is_file():
        raise InputError(f"There is no table of assays {path}.")
    table = read_table(path, texts=columns_of(path))
    if table.empty:
        raise InputError(f"{path} has no assays.")
    return table.fillna("").astype(str)


def _type_column(table: pd.DataFrame, settings: PrepareSettings) -> str:
    if settings.assay_type is not None:
        if settings.assay_type not in table:
            columns = examples(list(table))
            raise InputError(f"{settings.assays} has no column {settings.assay_type!r}: it has {columns}.")
        return settings.assay_type
    for matches in (
        [name for name in map(str, table.columns) if name.lower() in ("assay_type", "assay type", "type")],
        [name for name in map(str, table.columns) if "type" in name.lower()],
    ):
        if matches:
            return matches[0]
    raise InputError(f"{settings.assays} has no column with types: name it with --assay-type.")


def _write(result: PrepareResult, folder: Path) -> PrepareResult:
    """Write the tables, and `prepare.json` after them."""
    tables = {"matrix": result.matrix, "removed": result.removed, "assays": result.assays}
    if len(result.contradictions):
        tables["contradictions"] = result.contradictions
    with owned(folder):
        (folder / "prepare.json").unlink(missing_ok=True)  # while tables change there is no result
        (folder / "contradictions.csv").unlink(missing_ok=True)
        files = [folder / "matrix.parquet", *(folder / f"{name}.csv" for name in tables), folder / "prepare.json"]
        write_parquet(result.matrix, files[0])
        for name, table in tables.items():
            write_csv(table, folder / f"{name}.csv")
        info = {**result.info, "files": [path.name for path in files]}
        with durable(files[-1]) as partial:
            partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return replace(result, info=info, files=tuple(files))
