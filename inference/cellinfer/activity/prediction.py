"""Predict assay hits of many compounds with one model or several: `predict`, and the table that it writes.

Compounds come from a list of molecules, piece by piece, so that millions can be predicted; profiles from tables that
are joined to them by name, or that are the compounds where there is no list. Every compound has a row, also one that
cannot be predicted: that row says why.
"""

from __future__ import annotations

import datetime
import gzip
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellinfer._version import __version__
from cellinfer.activity import fusion
from cellinfer.activity.columns import COMPOUND, GIVEN, ROW, SMILES
from cellinfer.activity.models import ActivityModel, open_activity
from cellinfer.activity.profiles import Profiles, read_profiles
from cellinfer.errors import InputError, ModelError
from cellinfer.files import durable, json_ready, sha256_of
from cellinfer.outputs.frames import growing_table
from cellinfer.outputs.runinfo import package_versions
from cellinfer.sessions import Device, available_cores
from cellinfer.settings import with_options

if TYPE_CHECKING:
    from cellinfer.activity.applicability import Domain
    from cellinfer.activity.chemistry import Progress, Standardisation
    from cellinfer.activity.digests import Digest
    from cellinfer.activity.molecules import MoleculeFile
    from cellinfer.activity.processes import Readers
    from cellinfer.activity.structures import Structures

__all__ = ["FUSIONS", "PredictResult", "PredictSettings", "predict"]

FUSIONS = {"max": fusion.largest, "mean": fusion.average}
STANDARDISE = ("card", "default", "none")
STATUS, DETAIL = "Metadata_Status", "Metadata_Detail"
SIMILARITY, NEIGHBOUR = "Metadata_Nearest_Similarity", "Metadata_Nearest_Compound"
DOMAIN, UNKNOWN = "Metadata_Applicability", "Metadata_Unknown_Elements"
SPREAD = "_spread"
INSIDE, OUTSIDE = "inside", "outside"
NO_PROFILE = "no profile"
_PIECE = 4_000
"""Compounds at a time: 270 assays of three models take 100 MB."""
_STRUCTURES = ("graph", "morgan")


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """What `predict` does; every value is written beside the table."""

    fuse: str = "max"
    """How several models become one: `max` or `mean` of their probabilities."""
    smiles: str | None = None
    """Column of the molecules with SMILES; None: found by its name."""
    identifier: str | None = None
    """Column of the molecules with names; None: found by its name, else rows are called by their number."""
    join: str | None = None
    """Column of the profiles with names of compounds; None: found by its name."""
    standardise: str = "card"
    """Structures as each model's training had them (`card`), as `activity prepare` makes them (`default`), or as they
    are written (`none`): for those that are in their standard form already."""
    device: Device = "auto"
    """Of the networks."""
    threads: int | None = None
    """None: all cores."""


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What `predict` found, and where it wrote it."""

    files: tuple[Path, ...]
    """The table, and what is known of it as JSON."""
    notes: tuple[str, ...]
    info: dict[str, Any] = field(repr=False)
    """What the JSON file holds."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return self.info


def predict(
    models: Sequence[str | Path],
    out: str | Path,
    molecules: str | Path | None = None,
    profiles: Mapping[str, str | Path] | None = None,
    settings: PredictSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> PredictResult:
    """Predict hits of assays, and write a row per compound.

    Parameters
    ----------
    models
        Names of bundled models, or paths of ONNX files. Several are fused; an assay that some do not know is predicted
        by the others.
    out
        Table to write (`.parquet` or `.csv`); the same name with `.json` says how it was made.
    molecules
        Table with SMILES, `.smi` or `.sdf`; None: the compounds are those that have profiles.
    profiles
        What the models call them -> table with names of compounds and features, or folder that `cellinfer profile`
        wrote. The name may be "" where the models see profiles of one kind.
    settings
        What to do; `options` are settings by name, which take precedence.
    progress
        Called with `"compounds"`, how many are done, and of how many.

    Returns
    -------
    PredictResult

    Raises
    ------
    InputError
        If a setting, the molecules or the profiles are not usable, or something that a model sees is missing.
    ModelError
        If a model is not usable.
    OutputError
        If the table cannot be written.
    """
    chosen = _settings(settings, options)
    table = Path(out)
    if table.suffix.lower() not in (".parquet", ".csv"):
        raise InputError(f"{table} must end in .parquet or .csv.")
    if not models:
        raise InputError("No model was given: name one or several.")
    opened = {str(model): open_activity(model, chosen.device, chosen.threads or 0) for model in models}
    work = _Work(opened, _profiles(opened, profiles or {}, chosen), molecules, chosen)
    beside = table.with_suffix(".json")
    work.check_not_read(table, beside)
    done, total = 0, work.count()
    with growing_table(table) as append, work:
        for piece, structures in work.pieces():
            append(work.predict(piece, structures))
            done += len(piece)
            if progress is not None:
                progress("compounds", done, max(done, total))
        if not done:
            raise InputError(f"{work.source} has no compounds.")
        beside.unlink(missing_ok=True)  # what it says is of another table from now on
    info = {**work.info(), "files": [table.name, beside.name]}
    with durable(beside) as partial:
        partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return PredictResult((table, beside), tuple(info["notes"]), info)


def _settings(settings: PredictSettings | None, options: Mapping[str, Any]) -> PredictSettings:
    chosen = with_options(settings or PredictSettings(), options)
    for name, allowed in (("fuse", tuple(FUSIONS)), ("standardise", STANDARDISE), ("device", get_args(Device))):
        if getattr(chosen, name) not in allowed:
            raise InputError(f"{name} is {', '.join(allowed)}, not {getattr(chosen, name)!r}.")
    if chosen.threads is not None and chosen.threads < 1:
        raise InputError(f"There must be at least 1 thread, not {chosen.threads}.")
    return chosen


def _profiles(
    models: Mapping[str, ActivityModel], given: Mapping[str, str | Path], settings: PredictSettings
) -> dict[str, Profiles]:
    """Read the profiles that models see, by name."""
    seen: dict[str, dict[str, str]] = {}
    for model in models.values():
        for name, features in model.card.features.items():
            seen.setdefault(name, {}).update(dict.fromkeys(features, model.card.name))
    paths = {name: Path(path) for name, path in given.items()}
    if "" in paths and len(seen) == 1:
        paths = {next(iter(seen)) if name == "" else name: path for name, path in paths.items()}
    if unknown := [name for name in paths if name not in seen]:
        sees = f"they see profiles of {', '.join(seen)}" if seen else "they see structures only"
        what = repr(unknown[0]) if unknown[0] else "a kind that has no name"
        raise InputError(f"No model sees profiles of {what}: {sees}.")
    if missing := [name for name in seen if name not in paths]:
        called = next(iter(seen[missing[0]].values()))
        raise InputError(
            f"The model {called!r} sees profiles of {missing[0]!r}: give them with --profiles {missing[0]}=TABLE."
        )
    return {name: read_profiles(paths[name], name, wanted, settings.join) for name, wanted in seen.items()}


class _Work:
    """Models, what they are given, and what was found so far."""

    def __init__(
        self,
        models: Mapping[str, ActivityModel],
        profiles: Mapping[str, Profiles],
        molecules: str | Path | None,
        settings: PredictSettings,
    ) -> None:
        self.models, self.profiles, self.settings = dict(models), dict(profiles), settings
        self.assays = list(dict.fromkeys(assay for model in models.values() for assay in model.card.assays))
        self._check_columns()
        self.file: MoleculeFile | None = None
        self.readers: Readers | None = None
        self.statuses: Counter[str] = Counter()
        self.domains: Counter[str] = Counter()
        self.unjoined = 0
        if molecules is not None:
            from cellinfer.activity.molecules import open_molecules
            from cellinfer.activity.processes import Readers

            self.readers = Readers(settings.threads or available_cores())
            self.file = open_molecules(molecules, smiles=settings.smiles, identifier=settings.identifier)
        elif structural := [model.card.name for model in models.values() if _sees_structures(model)]:
            raise InputError(
                f"The model {structural[0]!r} sees structures: give molecules (.csv, .smi, .sdf, .parquet)."
            )
        elif not profiles:
            raise InputError("There are neither molecules nor profiles to predict.")
        self.names = pd.Index(
            dict.fromkeys(name for each in self.profiles.values() for name in each.compounds), dtype=object
        )
        self.notes: list[str] = []
        self.how = {} if self.file is None else {name: self._standardisation(one) for name, one in self.models.items()}
        self.known = {} if self.file is None else self._domains()
        self.needs = {} if self.file is None else self._needs()
        self._note()

    def __enter__(self) -> Self:
        """Return itself; processes that read structures end with the block."""
        return self

    def __exit__(self, *failure: Any) -> None:
        """End these processes."""
        if self.readers is not None:
            self.readers.__exit__(*failure)

    @property
    def source(self) -> Path:
        """Where compounds come from."""
        return self.file.path if self.file is not None else next(iter(self.profiles.values())).path

    def check_not_read(self, *written: Path) -> None:
        """Refuse to write over what is read."""
        read = {each.path.resolve() for each in (self.file, *self.profiles.values()) if each is not None}
        if clash := [path for path in written if path.resolve() in read]:
            raise InputError(f"{clash[0]} is read, and would be written over: choose another table (--out).")

    def count(self) -> int:
        """Return about how many compounds there are, for a bar."""
        return len(self.names) if self.file is None else _count_rows(self.file)

    def pieces(self) -> Iterator[tuple[pd.DataFrame, _Forms]]:
        """Yield compounds (`row`, `id`, `SMILES`) and their structures in each standard form that models ask for.

        Structures of the next compounds are read while these are predicted.
        """
        if self.file is None or self.readers is None:
            for start in range(0, len(self.names), _PIECE):
                some = self.names[start : start + _PIECE]
                rows = np.arange(start + 1, start + 1 + len(some))
                yield pd.DataFrame({"row": rows, "id": some.to_numpy(object), "SMILES": None}), {}
            return
        from cellinfer.activity.digests import Wanted

        begun: deque[tuple[pd.DataFrame, dict[Standardisation | None, Callable[[], Digest]]]] = deque()
        for piece in self.file.pieces(rows=_PIECE):
            smiles = piece["SMILES"].tolist()
            begun.append((piece, {how: self.readers.begin(smiles, Wanted(how, pickles=True)) for how in self.needs}))
            if len(begun) > 1:
                yield self._finished(*begun.popleft())
        while begun:
            yield self._finished(*begun.popleft())

    def _finished(
        self, piece: pd.DataFrame, begun: Mapping[Standardisation | None, Callable[[], Digest]]
    ) -> tuple[pd.DataFrame, _Forms]:
        """Wait for the structures of a piece."""
        return piece, {how: _described(digest(), self.needs[how]) for how, digest in begun.items()}

    def predict(self, piece: pd.DataFrame, structures: _Forms) -> pd.DataFrame:
        """Return the rows of the table for some compounds."""
        shape = (len(self.models), len(piece), len(self.assays))
        probability, spread = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        reasons = []
        for place, (name, model) in enumerate(self.models.items()):
            profiles = self._joined(model, piece["id"])
            given = structures.get(self.how[name]) if self.how and _sees_structures(model) else None
            usable, reason = _usable(len(piece), profiles, given)
            reasons.append(reason)
            rows = np.flatnonzero(usable)
            if not len(rows):
                continue
            found = model.predict(
                None if given is None else given.described.take(given.place[rows]),
                {each: table.iloc[rows] for each, table in profiles.items()},
            )
            where = np.array([self.assays.index(assay) for assay in model.card.assays])
            probability[place, rows[:, None], where] = np.clip(found.probability, 0, 1)
            spread[place, rows[:, None], where] = found.spread
        return self._table(piece, structures, probability, spread, reasons)

    def info(self) -> dict[str, Any]:
        """Return what is written beside the table."""
        notes = list(self.notes)
        if failed := sum(self.statuses.values()) - self.statuses["ok"]:
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.statuses.most_common() if name != "ok")
            notes.append(f"{failed:,} of {sum(self.statuses.values()):,} compounds could not be predicted: {reasons}.")
        if self.file is not None and self.profiles and self.unjoined:
            notes.append(f"{self.unjoined:,} compounds have no profile of their name.")
        inputs = [] if self.file is None else [self.file.path]
        inputs += [each.path for each in self.profiles.values()]
        info: dict[str, Any] = json_ready(
            {
                "cellinfer": __version__,
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "settings": {one.name: getattr(self.settings, one.name) for one in fields(self.settings)},
                "models": [self._model_info(name, model) for name, model in self.models.items()],
                "profiles": {name: {"path": one.path, "join": one.column} for name, one in self.profiles.items()},
                "inputs": [{"path": path, "sha256": sha256_of(path)} for path in dict.fromkeys(inputs)],
                "result": {
                    "compounds": sum(self.statuses.values()),
                    "assays": len(self.assays),
                    "status": dict(self.statuses.most_common()),
                    "applicability": {name: self.domains[name] for name in (INSIDE, OUTSIDE)} if self.known else None,
                },
                "notes": notes,
                "versions": self._versions(),
            }
        )
        return info

    def _versions(self) -> dict[str, str]:
        found = package_versions()
        if self.file is not None:
            from cellinfer.activity.chemistry import version

            found["rdkit"] = version()
        return found

    def _model_info(self, name: str, model: ActivityModel) -> dict[str, Any]:
        domain, how = self.known.get(name), self.how.get(name)
        return {
            "model": name,
            "sha256": model.session.sha256,
            "device": model.session.device,
            "similarity_limit": None if domain is None else domain.limit,
            "standardisation": None if how is None else {one.name: getattr(how, one.name) for one in fields(how)},
            "card": model.card.description_file,
        }

    def _check_columns(self) -> None:
        names = [ROW, COMPOUND, GIVEN, SMILES, STATUS, DETAIL, SIMILARITY, NEIGHBOUR, DOMAIN, UNKNOWN]
        names += [f"{assay}{end}" for assay in self.assays for end in ("", SPREAD)]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ModelError(f"Two columns of the table would be called {twice[0]!r}: an assay cannot have that name.")

    def _standardisation(self, model: ActivityModel) -> Standardisation | None:
        from cellinfer.activity.chemistry import DEFAULT, PUBLISHED, Standardisation

        if self.settings.standardise != "card":
            return DEFAULT if self.settings.standardise == "default" else None
        stated = model.card.standardisation
        return PUBLISHED if stated is None else Standardisation(**stated)

    def _domains(self) -> dict[str, Domain]:
        from cellinfer.activity.applicability import domain_of

        found = {name: domain_of(model, self.settings.threads) for name, model in self.models.items()}
        return {name: domain for name, domain in found.items() if domain is not None}

    def _note(self) -> None:
        """Note what a user should know before any compound was predicted."""
        for name, model in self.models.items():
            called = repr(model.card.name)
            if self.file is None:
                continue
            if self.settings.standardise == "card" and model.card.standardisation is None and _sees_structures(model):
                self.notes.append(
                    f"The card of {called} does not say how structures were made standard: they are taken as they are "
                    "(--standardise default does as `activity prepare` does)."
                )
            if name not in self.known:
                self.notes.append(f"The model {called} comes without fingerprints: it does not say what it knows.")
            elif (limit := self.known[name].limit) is None:
                self.notes.append(f"The model {called} was trained on a single compound: nothing is inside or outside.")
            elif not self.known[name].stated:
                self.notes.append(
                    f"The card of {called} states no limit of similarity: {limit:.2f} was computed, the 5th percentile "
                    "of its training compounds' similarities to their nearest neighbours."
                )
        if self.file is None:
            self.notes.append("There are no structures: how similar compounds are to training compounds is not known.")
        for each in self.profiles.values():
            self.notes += each.notes
        sets = [set(model.card.assays) for model in self.models.values()]
        if partly := len(self.assays) - len(set.intersection(*sets)):
            self.notes.append(
                f"{partly:,} of {len(self.assays):,} assays are not known to all models, and predicted by those that "
                "know them."
            )

    def _joined(self, model: ActivityModel, names: pd.Series) -> dict[str, pd.DataFrame]:
        """Return what a model sees of each compound, NaN throughout where there is no profile."""
        tables = {}
        for name, features in model.card.features.items():
            each = self.profiles[name]
            places = each.compounds.get_indexer(pd.Index(names))
            values = each.table[list(features)].to_numpy()[places]
            values[places < 0] = np.nan
            tables[name] = pd.DataFrame(values, columns=list(features))
        return tables

    def _needs(self) -> dict[Standardisation | None, _Needs]:
        """Return what models need of structures in each standard form, so that each is read once."""
        needs: dict[Standardisation | None, _Needs] = {}
        for name, model in self.models.items():
            how, card = self.how[name], model.card
            before = needs.get(how, _Needs())
            morgan = {card.morgan} if "morgan" in card.modalities or name in self.known else set()
            needs[how] = _Needs(before.graphs or "graph" in card.modalities, before.fingerprints | morgan)
        return needs

    def _table(
        self,
        piece: pd.DataFrame,
        structures: _Forms,
        probability: NDArray[np.float32],
        spread: NDArray[np.float32],
        reasons: Sequence[list[str]],
    ) -> pd.DataFrame:
        fused, apart = _fused(probability, spread, self.settings.fuse)
        status = [next((one for one in each if one == "ok"), each[0]) for each in zip(*reasons, strict=True)]
        detail = _details(reasons, [model.card.name for model in self.models.values()], structures)
        self.statuses.update(status)
        if self.profiles:
            self.unjoined += sum(any(one == NO_PROFILE for one in each) for each in zip(*reasons, strict=True))
        first = next(iter(structures.values()), None)
        head = {
            ROW: piece["row"].to_numpy(np.int64),
            COMPOUND: _text(piece["id"]),
            GIVEN: _text(piece["SMILES"]),
            SMILES: _text([None] * len(piece) if first is None else first.smiles),
            STATUS: _text(status),
            DETAIL: _text(detail),
            **self._nearest(structures, len(piece)),
            UNKNOWN: _text(self._unknown(structures, len(piece))),
        }
        values = {}
        for place, assay in enumerate(self.assays):
            values[assay] = fused[:, place].astype(np.float32)
            values[f"{assay}{SPREAD}"] = apart[:, place].astype(np.float32)
        return pd.DataFrame({**head, **values})

    def _nearest(self, structures: _Forms, n: int) -> dict[str, Any]:
        """Return similarity, name and verdict; of several models those of the one that knows a compound least."""
        similarity, margin = np.full(n, np.nan, np.float32), np.full(n, np.inf)
        names, verdict = np.full(n, None, object), np.full(n, None, object)
        for name, domain in self.known.items():
            given = structures[self.how[name]]
            rows = np.flatnonzero(given.place >= 0)
            packed = given.described.fingerprints[self.models[name].card.morgan][given.place[rows]]
            found = domain.nearest(packed, self.settings.threads)
            above = found.similarity - (domain.limit or 0.0)
            less = above < margin[rows]
            some = rows[less]
            margin[some], similarity[some] = above[less], found.similarity[less]
            if domain.compounds is not None:
                names[some] = np.array(domain.compounds, object)[found.row[less]]
            else:
                names[some] = None
            if domain.limit is not None:
                verdict[some] = np.where(above[less] >= 0, INSIDE, OUTSIDE)
        self.domains.update(each for each in verdict.tolist() if each is not None)
        return {SIMILARITY: similarity, NEIGHBOUR: _text(names), DOMAIN: _text(verdict)}

    def _unknown(self, structures: _Forms, n: int) -> list[str | None]:
        found: list[str | None] = [None] * n
        for given in structures.values():
            if given.described.graphs is None:
                continue
            strange = given.described.graphs.unknown
            for row in np.flatnonzero(given.place >= 0):
                if strange[given.place[row]]:
                    found[row] = ", ".join(given.described.graphs.unknown_elements(int(given.place[row])))
        return found


def _sees_structures(model: ActivityModel) -> bool:
    return any(name in _STRUCTURES for name in model.card.modalities)


@dataclass(frozen=True)
class _Needs:
    """What models need of structures in one standard form."""

    graphs: bool = False
    fingerprints: frozenset[tuple[int, int]] = frozenset()
    """Radius and bits of each kind."""


@dataclass(frozen=True)
class _Described:
    """Structures of a piece in one standard form."""

    smiles: list[str | None]
    """`(n,)` standard form; None where there is none."""
    reasons: list[str]
    """`(n,)` `ok`, or what is wrong."""
    details: list[str]
    place: NDArray[np.int64]
    """`(n,)` row among those that are described, -1 where it cannot be."""
    described: Structures


_Forms = Mapping["Standardisation | None", _Described]
"""Structures of a piece by their standard form."""


def _described(digest: Digest, needs: _Needs) -> _Described:
    """Describe those structures, in their standard form, that can be described."""
    from cellinfer.activity.digests import NOT_DESCRIBED
    from cellinfer.activity.structures import of_digest

    described, unfit = of_digest(digest, graphs=needs.graphs, fingerprints=needs.fingerprints)
    reasons, details = list(digest.status), list(digest.detail)
    for row, problem in unfit.items():
        reasons[row], details[row] = NOT_DESCRIBED, problem
    place = np.full(len(reasons), -1, np.int64)
    good = [row for row, reason in enumerate(reasons) if reason == "ok"]
    place[good] = np.arange(len(good))
    return _Described(digest.smiles, reasons, details, place, described)


def _usable(
    n: int, profiles: Mapping[str, pd.DataFrame], structures: _Described | None
) -> tuple[NDArray[np.bool_], list[str]]:
    """Tell which compounds a model can predict, and what is wrong with the others."""
    reasons = ["ok"] * n if structures is None else list(structures.reasons)
    for table in profiles.values():
        without = ~np.isfinite(table.to_numpy()).any(axis=1)
        for row in np.flatnonzero(without):
            if reasons[row] == "ok":
                reasons[row] = NO_PROFILE
    return np.array([reason == "ok" for reason in reasons], bool), reasons


def _fused(
    probability: NDArray[np.float32], spread: NDArray[np.float32], how: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fuse models: probability, and standard deviation over members.

    With `max` it is the spread of the model that gives the largest probability; with `mean` that over the members of
    all models, each model weighing the same: the mean of squared spreads and the variance between models, added.
    """
    fused = FUSIONS[how](list(probability))
    known = ~np.isnan(probability)
    count = known.sum(axis=0)
    if how == "max":
        best = np.where(known, probability, -1).argmax(axis=0)
        return fused, np.where(count > 0, np.take_along_axis(spread, best[None], axis=0)[0], np.nan)
    within = fusion.average(list(np.clip(spread, 0, 1).astype(np.float64) ** 2))
    between = fusion.average(list((probability.astype(np.float64) - fused) ** 2))
    return fused, np.sqrt(within + between)


def _details(reasons: Sequence[list[str]], names: Sequence[str], structures: _Forms) -> list[str | None]:
    """Say what exactly is wrong, or was taken off, and which models could not predict what others could."""
    details: list[str | None] = []
    first = next(iter(structures.values()), None)
    for row, each in enumerate(zip(*reasons, strict=True)):
        parts = [] if first is None or not first.details[row] else [first.details[row]]
        if len(set(each)) > 1:
            parts += [f"{name}: {reason}" for name, reason in zip(names, each, strict=True) if reason != "ok"]
        details.append("; ".join(parts) or None)
    return details


def _text(values: Any) -> Any:
    """Return a column of texts that has one type also where all are missing."""
    return pd.array([None if value is None or value == "" else str(value) for value in values], dtype="string")


def _count_rows(file: MoleculeFile) -> int:
    """Count the molecules of a file, about, without reading what they are."""
    if file.kind == "parquet":
        return int(pq.read_metadata(file.path).num_rows)
    mark = b"$$$$" if file.kind == "sdf" else b"\n"
    reader = gzip.open if file.path.name.lower().endswith(".gz") else open
    count = 0
    try:
        with reader(file.path, "rb") as handle:
            while block := handle.read(1 << 20):
                count += block.count(mark)
    except (OSError, EOFError):
        return 0  # it is read again in a moment, and then complained of
    return max(1, count - (file.kind == "table"))
