"""From tables of cells to profiles of treatments, in one go: `profile`, and what it writes.

The steps, in order: cells to sites (median), sites to wells (mean), annotation, wells that failed quality control out,
wells without cells out, controls held out if asked for, normalisation, feature selection, sphering, Harmony if asked
for, consensus. What each did, with which scope, is in `profile.json`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from cellinfer.assays.platemap import cell_text, cells_equal, metadata_column, read_table
from cellinfer.errors import InputError
from cellinfer.files import owned
from cellinfer.profiling import normalisation as _normalisation
from cellinfer.profiling import sphering as _sphering
from cellinfer.profiling.aggregation import aggregate, aggregate_files
from cellinfer.profiling.annotation import AnyPath, Layout, annotate
from cellinfer.profiling.columns import DOSES, PLATE, SITE, TIME, WELL
from cellinfer.profiling.harmony import harmonise
from cellinfer.profiling.held_out import HELD_OUT, hold_out
from cellinfer.profiling.normalisation import normalise
from cellinfer.profiling.regularisation import Choice, choose_regularization
from cellinfer.profiling.replicates import OPERATIONS as CONSENSUS
from cellinfer.profiling.replicates import consensus
from cellinfer.profiling.results import TABLES, origin, write_profiles
from cellinfer.profiling.rows import examples, existing_rows, group_rows, numbers, with_numbers
from cellinfer.profiling.selection import DEFAULT, select_features
from cellinfer.profiling.sources import Source, is_run, open_source
from cellinfer.profiling.sphering import Sphering, sphere
from cellinfer.profiling.wanted import Wanted, fill_gaps, keep_wanted, read_wanted
from cellinfer.settings import with_options
from cellinfer.wells import normalise_well

QC_PASS, QC_REASONS = "Metadata_QC_Pass", "Metadata_QC_Reasons"
_TREATMENTS = ("Treatment", "Compound", "Perturbation", "pert_iname", "broad_sample")
_MOST_MISSING = 0.5
_ENOUGH_FOR_A_SPREAD = 32
"""Controls from which a plate's own standard deviation is known to about an eighth."""
_SCOPES = ("plate", "batch", "all")

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much is done and how much there is."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What `profile` does; every value is written into `profile.json`."""

    layout: Layout | None = None
    """Plate map, or maps; see `annotate`."""
    barcodes: AnyPath | None = None
    """Table that says which map each plate has."""
    compounds: AnyPath | None = None
    """Table with a row per compound."""
    compound_column: str | None = None
    """Column on which `compounds` is joined."""
    controls: str | None = None
    """Query that finds negative controls, such as `Metadata_Compound == 'DMSO'`."""
    control_column: str | None = None
    """Column of the layout that marks controls, instead of a query."""
    negative: str | None = None
    """Its value in negative controls."""
    hold_out: float = 0.0
    """Share of each plate's controls that normalisation and sphering are not learnt from, so that treatments can be
    compared with them; see `cellinfer.profiling.held_out`. 0: none."""
    treatment: tuple[str, ...] | None = None
    """Columns that replicates of a treatment share; None: found by their names."""
    batch: str | None = None
    """Column that says which batch a plate is of."""
    qc: AnyPath | None = None
    """Table with `Metadata_Plate`, `Metadata_Well`, `Metadata_QC_Pass` and perhaps `Metadata_QC_Reasons`; or
    the folder that `cellinfer qc` wrote."""
    features: str = "intersection"
    """If tables differ in features: `intersection`, `union` or `refuse`."""
    tables: str | None = None
    """Of results of `cellinfer run --embed`: `measurements`, `embedding` or `both`; None: measurements, with a note if
    there are embeddings. Other tables have no such choice."""
    site: str = "median"
    """How cells become sites."""
    well: str = "mean"
    """How sites become wells."""
    normalisation: str = "standardise"
    """`standardise`, `robustise`, `robust-mad` or `none`."""
    reference: str = "auto"
    """What wells are normalised against: `controls`, `all`, or `auto`: controls if they are named."""
    scope: str = "plate"
    """Scope of normalisation: `plate`, `batch` or `all`."""
    spread: str = "auto"
    """`own`: each plate is divided by the spread of its own references; `pooled`: all by that of the references about
    the centre of their plate; `auto`: pooled where a plate has fewer than 32 controls."""
    clip: float = 20.0
    """Normalised values are held within so many spreads of the reference, for one value of a thousand spreads would be
    all that sphering and similarities see; 0: not at all."""
    features_of: AnyPath | None = None
    """Model, or folder of an earlier result, whose features are kept, no more and no less, and made the same way; see
    `cellinfer.profiling.wanted`. None: features are selected."""
    selection: tuple[str, ...] = DEFAULT
    """Operations of feature selection; `()` for none."""
    correlation: float = 0.9
    """Threshold of the feature selection `correlation`."""
    na_cutoff: float = 0.05
    """Largest part of missing values of a feature."""
    sphering: str = "ZCA"
    """`ZCA`, `ZCA-cor`, `PCA`, `PCA-cor` or `none`."""
    sphering_scope: str = "all"
    """Whose controls sphering is learnt from: `all` or `batch`."""
    regularization: float | str = _sphering.REGULARIZATION
    """Lambda relative to the mean eigenvalue, or `nested`: chosen inside folds by replicate retrieval."""
    exponent: float = -0.5
    """Exponent of sphering."""
    harmony: str = "none"
    """What Harmony brings together after sphering: `plate`, `batch` or `none`; see `harmonise`."""
    consensus: str = "mean"
    """`mean`, `median`, `modz` or `none`."""
    csv: bool = False
    """Write tables as CSV too."""
    picture: bool = True
    """Draw `profile.png`."""
    memory: int = 2**30
    """Bytes that features of cells may take at a time."""
    threads: int | None = None
    """Threads for aggregation; None: all cores."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did."""

    name: str
    scope: str
    """Which rows the step looked at together."""
    parameters: dict[str, Any]
    rows: tuple[int, int]
    """Before and after."""
    features: tuple[int, int]
    """Before and after."""
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """What `profile` made, and where it wrote it."""

    folder: Path
    tables: dict[str, pd.DataFrame]
    """Profiles by name: `Site`, `Well`, `Well_normalised`, `Well_selected`, `Well_sphered`, `Well_harmonised`,
    `Treatment`; those that the settings ask for."""
    features: pd.DataFrame
    """One row per feature: `feature`, `kept`, `operation`, `reason`."""
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    """Notes of all steps, and of reading."""
    files: tuple[Path, ...]
    info: dict[str, Any] = field(repr=False)
    """What `profile.json` holds."""

    @property
    def wells(self) -> pd.DataFrame:
        """Well profiles after the last step that was asked for."""
        return next(self.tables[name] for name in reversed(TABLES) if name in self.tables and name.startswith("Well"))


def profile(
    sources: AnyPath | Sequence[AnyPath],
    out: AnyPath | None = None,
    settings: ProfileSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> ProfileResult:
    """Make profiles of wells and treatments from tables of cells, sites or wells.

    Parameters
    ----------
    sources
        Result folders of `cellinfer run`, or tables of CellProfiler, DeepProfiler or pycytominer, of one or several
        plates; see `open_source`.
    out
        Folder for the results; None: `profile` inside the only run.
    settings
        What to do; `options` are settings by name, which take precedence.
    progress
        See `Progress`.

    Returns
    -------
    ProfileResult

    Raises
    ------
    InputError
        If the input or a setting is not usable; the sentence says what to do.
    OutputError
        If results cannot be written.
    """
    chosen, wanted = _as_wanted(_combined(settings, options))
    _check(chosen)
    paths = [Path(sources)] if isinstance(sources, (str, os.PathLike)) else [Path(source) for source in sources]
    folder = _folder(paths, out, chosen)
    work = Work(paths, chosen, progress, wanted)
    work.run()
    with owned(folder):
        files, info = write_profiles(work, folder)
    return ProfileResult(folder, work.tables, work.features, tuple(work.steps), tuple(work.notes), files, info)


def _combined(settings: ProfileSettings | None, options: Mapping[str, Any]) -> ProfileSettings:
    lists = {
        name: (options[name],) if isinstance(options[name], str) else tuple(options[name])
        for name in ("treatment", "selection")
        if options.get(name) is not None
    }
    return with_options(settings or ProfileSettings(), {**options, **lists})


def _as_wanted(settings: ProfileSettings) -> tuple[ProfileSettings, Wanted | None]:
    """Take the settings of those profiles whose features are wanted."""
    if settings.features_of is None:
        return settings, None
    wanted, usual = read_wanted(settings.features_of), ProfileSettings()
    if settings.selection not in (usual.selection, ()):
        raise InputError(f"The features are those of {wanted.source}: leave feature selection out.")
    stated = dict(wanted.settings or {})
    for name, value in stated.items():
        asked = getattr(settings, name)
        if asked not in (getattr(usual, name), value):
            raise InputError(f"The profiles of {wanted.source} have {name} {value!r}, not {asked!r}: leave it out.")
    return replace(settings, selection=(), **stated), wanted


def _check(chosen: ProfileSettings) -> None:
    """Refuse settings that make no sense."""
    for name, value, allowed in (
        ("site", chosen.site, ("median", "mean")),
        ("well", chosen.well, ("median", "mean")),
        ("normalisation", chosen.normalisation, (*_normalisation.METHODS, "none")),
        ("reference", chosen.reference, ("auto", "controls", "all")),
        ("scope", chosen.scope, _SCOPES),
        ("spread", chosen.spread, ("auto", "own", "pooled")),
        ("sphering", chosen.sphering, (*_sphering.METHODS, "none")),
        ("sphering_scope", chosen.sphering_scope, ("all", "batch")),
        ("harmony", chosen.harmony, ("none", "plate", "batch")),
        ("consensus", chosen.consensus, (*CONSENSUS, "none")),
        ("features", chosen.features, ("intersection", "union", "refuse")),
    ):
        if value not in allowed:
            raise InputError(f"There is no {name} {value!r}: choose {', '.join(allowed)}.")
    if isinstance(chosen.regularization, str):
        if chosen.regularization != "nested":
            raise InputError(f"The regularisation must be a number or 'nested', not {chosen.regularization!r}.")
    elif not chosen.regularization > 0:
        raise InputError(f"The regularisation must be above 0, and is {chosen.regularization}.")
    if not 0 <= chosen.hold_out < 1:
        raise InputError(f"The share of controls to hold out must be from 0 to below 1, and is {chosen.hold_out}.")
    if chosen.hold_out and chosen.controls is None and chosen.control_column is None:
        raise InputError("Holding out controls needs to know them: name them by a query, or column and value.")
    if not chosen.clip >= 0:
        raise InputError(f"The largest normalised value must not be negative, and is {chosen.clip}.")
    if (chosen.control_column is None) != (chosen.negative is None):
        raise InputError("Controls need both the column that marks them and its value in negative controls.")
    if chosen.controls is not None and chosen.control_column is not None:
        raise InputError("Name controls by a query or by a column and its value, not by both.")
    if chosen.reference == "controls" and chosen.controls is None and chosen.control_column is None:
        raise InputError("Normalising against controls needs to know them: name them by a query, or column and value.")
    if "batch" in (chosen.scope, chosen.sphering_scope, chosen.harmony) and chosen.batch is None:
        raise InputError("The scope 'batch' needs the column that says which batch a plate is of.")
    if chosen.layout is None and (chosen.barcodes is not None or chosen.compounds is not None):
        raise InputError("Tables of plates or compounds need a layout that they can be joined to.")


def _folder(paths: Sequence[Path], out: AnyPath | None, settings: ProfileSettings) -> Path:
    if not paths:
        raise InputError("No tables were given: name result folders or tables.")
    if out is None:
        if len(paths) > 1 or not paths[0].is_dir():
            raise InputError("Say where the results go: several sources, or a table, have no folder of their own.")
        return paths[0] / "profile"
    folder = Path(out)
    read = [*paths, *_files(settings)]
    taken = {path.resolve() for path in read} | {path.resolve().parent for path in read if path.is_file()}
    others = ("run.json", "qc.json", "evaluation.json")
    if any((folder / name).exists() for name in others) or folder.resolve() in taken:
        raise InputError(f"{folder} holds what is read: choose another folder for the profiles.")
    return folder


def _files(settings: ProfileSettings) -> list[Path]:
    """Return the files and folders that settings name."""
    named = (getattr(settings, name) for name in ("layout", "barcodes", "compounds", "qc", "features_of"))
    return [Path(path) for path in named if isinstance(path, (str, os.PathLike))]


class Work:
    """The steps, each on what the earlier ones left; see `profile`."""

    def __init__(
        self,
        paths: Sequence[Path],
        settings: ProfileSettings,
        progress: Progress | None,
        wanted: Wanted | None = None,
    ) -> None:
        self.paths, self.settings, self.wanted = paths, settings, wanted
        self._report = progress or (lambda name, done, total: None)
        self.tables: dict[str, pd.DataFrame] = {}
        self.steps: list[Step] = []
        self.notes: list[str] = []
        self.features = pd.DataFrame()
        self.spherings: dict[str, Sphering] = {}
        self.choice: Choice | None = None
        self.left_out: list[dict[str, str]] = []
        self.treatment: list[str] = []
        self.names: list[str] = []
        self.table = pd.DataFrame()
        self.controls: npt.NDArray[np.bool_] | None = None
        self.held_out: npt.NDArray[np.bool_] | None = None
        """Controls that nothing is learnt from, if any."""

    def run(self) -> None:
        """Do all steps."""
        self.origins = [origin(path) for path in [*self.paths, *_files(self.settings)] if path.exists()]
        self._aggregate()
        self._annotate()
        self._find_controls()
        self._quality()
        self._without_cells()
        self._hold_out()
        self.tables["Well"] = self.table
        self._normalise()
        self._select()
        self._sphere()
        self._harmonise()
        self._consensus()

    def _done(
        self, name: str, scope: str, start: tuple[float, int, int], notes: Sequence[str] = (), **parameters: Any
    ) -> None:
        seconds, rows, features = start
        self.steps.append(
            Step(
                name,
                scope,
                parameters,
                (rows, len(self.table)),
                (features, len(self.names)),
                tuple(notes),
                round(time.perf_counter() - seconds, 3),
            )
        )
        self.notes += [f"{name}: {note}" for note in notes]

    def _start(self) -> tuple[float, int, int]:
        return time.perf_counter(), len(self.table), len(self.names)

    def _aggregate(self) -> None:
        started = time.perf_counter()
        source = open_source(
            [str(path) for path in self.paths],
            features=self.settings.features,  # type: ignore[arg-type]
            tables=self.settings.tables,  # type: ignore[arg-type]
        )
        if not source.rows:
            raise InputError(f"{source.name} has no cells: look at the images, and at how nuclei were found in them.")
        notes = list(source.notes)
        self.names = source.features
        table = _plain_keys(source)
        level = _level(source, table)
        rows = source.rows
        if level == "treatment":
            raise InputError(f"{source.name} has no {WELL}: profiles are made from tables of cells, sites or wells.")
        places = [PLATE, WELL, *([TIME] if TIME in table else [])]
        if PLATE not in table:
            raise InputError(f"{source.name} has no {PLATE}: name the plate in every table.")
        sites = [*places, SITE] if SITE in table else None
        options: dict[str, Any] = {"threads": self.settings.threads}
        if level == "cell":
            by, operation = (sites, self.settings.site) if sites else (places, self.settings.site)
            if sites is None:
                notes.append(f"cells have no {SITE}: wells are the {self.settings.site} of their cells")
            with_files = aggregate_files(
                source,
                by,
                operation,  # type: ignore[arg-type]
                memory=self.settings.memory,
                progress=lambda done, total: self._report("cells", done, total),
                **options,
            )
            if sites is None:
                self.table = with_files
            else:
                self.tables["Site"] = with_files
        elif level == "site":
            self.tables["Site"] = _measured(source, table)
        else:
            self.table = _measured(source, table)
        if "Site" in self.tables:
            self.table = aggregate(
                self.tables["Site"],
                places,
                self.settings.well,  # type: ignore[arg-type]
                features=self.names,
                **options,
            )
        _refuse_twins(self.table, places)
        notes += _empty_wells(source, self.table, places)
        self._done(
            "aggregate",
            "each well of each plate",
            (started, rows, len(self.names)),
            notes,
            level=level,
            tables=self.settings.tables or ("measurements" if any(map(is_run, self.paths)) else None),
            site=self.settings.site if level == "cell" else None,
            well=self.settings.well if "Site" in self.tables else None,
        )

    def _annotate(self) -> None:
        start, settings = self._start(), self.settings
        if settings.layout is None:
            return
        annotated = annotate(
            self.table,
            settings.layout,
            barcodes=settings.barcodes,
            compounds=settings.compounds,
            on=settings.compound_column,
        )
        self.table = annotated.table
        self._done("annotate", "each well of each plate", start, annotated.notes)

    def _find_controls(self) -> None:
        settings = self.settings
        self._find_treatment()
        if settings.batch is not None:
            self._batch = metadata_column(self.table, settings.batch)
        if settings.control_column is not None and settings.negative is not None:
            column = metadata_column(self.table, settings.control_column)
            self.controls = cells_equal(self.table[column], settings.negative)
            if not self.controls.any():
                there = ", ".join(sorted(cell_text(cell) for cell in self.table[column].dropna().unique())[:12])
                raise InputError(
                    f"No well has {settings.negative} in {column.removeprefix('Metadata_')} (negative control): it has "
                    f"{there or 'no value'}."
                )
        elif settings.controls is not None:
            self.controls = existing_rows(self.table, settings.controls, what="controls")
        if self.controls is not None:
            plates = self.table[PLATE].astype(str)
            only = sorted(set(plates) - set(plates[~self.controls]))
            if only:
                self.notes.append(f"plates with nothing but controls: {examples(only)}")

    def _find_treatment(self) -> None:
        settings = self.settings
        if settings.treatment is not None:
            self.treatment = [metadata_column(self.table, name) for name in settings.treatment]
            return
        folded = {str(name).casefold(): str(name) for name in self.table.columns}
        found = [
            folded[f"metadata_{name}".casefold()] for name in _TREATMENTS if f"metadata_{name}".casefold() in folded
        ]
        if found:
            beside = [
                folded[f"metadata_{name}".casefold()] for name in DOSES if f"metadata_{name}".casefold() in folded
            ]
            self.treatment = [found[0], *beside]
            self.notes.append(f"treatments are told apart by {' and '.join(self.treatment)}")

    def _drop(self, gone: npt.NDArray[np.bool_], reasons: Sequence[str]) -> None:
        for row, reason in zip(self.table.loc[gone, [PLATE, WELL]].itertuples(index=False), reasons, strict=True):
            self.left_out.append({"plate": str(row[0]), "well": str(row[1]), "reason": reason})
        self.table = self.table[~gone].reset_index(drop=True)
        if self.controls is not None:
            self.controls = self.controls[~gone]
        if not len(self.table):
            raise InputError("No well is left: all failed quality control or have no cells.")

    def _quality(self) -> None:
        if self.settings.qc is None:
            return
        start = self._start()
        judged = _read_quality(Path(self.settings.qc))
        keys = pd.MultiIndex.from_arrays([self.table[PLATE].astype(str), self.table[WELL].map(str).map(normalise_well)])
        found = judged.index.get_indexer(keys)
        if not (found >= 0).any():
            raise InputError(f"{self.settings.qc} has none of the wells: is it about other plates?")
        failed = (found >= 0) & ~judged[QC_PASS].to_numpy()[found]
        notes = []
        if (found < 0).any():
            notes.append(f"{int((found < 0).sum())} wells were not judged and stay")
        if failed.any():
            notes.append(f"{int(failed.sum())} wells failed: {examples([' '.join(key) for key in keys[failed]])}")
        self._drop(failed, [f"quality control: {judged[QC_REASONS].iloc[row]}" for row in found[failed]])
        self._done("quality control", "each well", start, notes, file=str(self.settings.qc))

    def _without_cells(self) -> None:
        start = self._start()
        missing = np.isnan(numbers(self.table, self.names)).mean(axis=1)
        gone = missing > _MOST_MISSING
        if gone.any():
            wells = [f"{plate} {well}" for plate, well in self.table.loc[gone, [PLATE, WELL]].itertuples(index=False)]
            notes = [f"{len(wells)} wells lack more than half of their features: {examples(wells)}"]
            self._drop(gone, [f"{part:.0%} of the features are missing" for part in missing[gone]])
            self._done("wells without cells", "each well", start, notes, most_missing=_MOST_MISSING)

    def _hold_out(self) -> None:
        """Mark the controls that nothing is learnt from; a mark of an earlier call would be wrong here."""
        start = self._start()
        if HELD_OUT in self.table:
            self.table = self.table.drop(columns=HELD_OUT)
        if not self.settings.hold_out or self.controls is None:
            return
        self.held_out = hold_out(self.table, self.controls, self.settings.hold_out)
        self.table = self.table.assign(**{HELD_OUT: self.held_out})
        plates = self.table[PLATE].astype(str)
        without = sorted(set(plates) - set(plates[self.held_out]))
        notes = [f"no control is held out on plates with fewer than three: {examples(without)}"] if without else []
        self._done(
            "hold out controls",
            "controls of each plate",
            start,
            notes,
            share=self.settings.hold_out,
            held_out=int(self.held_out.sum()),
            learnt_from=int(self._learnt_from.sum()),
        )

    @property
    def _learnt_from(self) -> npt.NDArray[np.bool_]:
        """Controls that normalisation and sphering are learnt from."""
        assert self.controls is not None
        return self.controls if self.held_out is None else self.controls & ~self.held_out

    def _scope(self, name: str) -> list[str]:
        own = {"plate": [PLATE], "batch": [getattr(self, "_batch", "")], "all": []}[name]
        several = TIME in self.table and self.table[TIME].nunique(dropna=False) > 1
        return [*own, TIME] if several else own

    def _normalise(self) -> None:
        settings, start = self.settings, self._start()
        if settings.normalisation == "none":
            return
        self._report("normalisation", 0, 1)
        against_controls = self.controls is not None and settings.reference != "all"
        by = self._scope(settings.scope)
        spread = self._spread(by, against_controls)
        result = normalise(
            self.table,
            settings.normalisation,
            by=by,
            reference=self._learnt_from if against_controls else None,
            features=self.names,
            spread=spread,  # type: ignore[arg-type]
        )
        self.table, clipped = self._clipped(result.table)
        self.tables["Well_normalised"] = self.table
        notes = [*result.notes, *clipped]
        if not against_controls and settings.reference == "auto":
            notes.append("no controls were named: every well counts as reference, so strong or many effects shrink")
        if spread == "pooled" and settings.spread == "auto":
            notes.append(
                f"some plates have fewer than {_ENOUGH_FOR_A_SPREAD} controls: each plate is centred on its own, and "
                "all are divided by one spread, that of controls about the centre of their plate"
            )
        scope = f"each {' and '.join(by).replace('Metadata_', '')}" if by else "all plates together"
        against = "controls" if against_controls else "all wells"
        self._done(
            "normalise",
            scope,
            start,
            notes,
            method=settings.normalisation,
            against=against,
            spread=spread,
            clip=settings.clip,
        )
        self.steps[-1].parameters["groups"] = json.loads(result.groups.to_json(orient="records"))
        self._report("normalisation", 1, 1)

    def _clipped(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """Hold normalised values within bounds; say how many were beyond."""
        limit = self.settings.clip
        values = numbers(table, self.names)
        beyond = np.abs(values) > limit
        if not limit or not beyond.any():
            return table, []
        note = (
            f"{int(beyond.sum())} values ({beyond.mean():.1g} of all) in {int(beyond.any(axis=0).sum())} features lay "
            f"beyond {limit:g} spreads and were set there (--clip)"
        )
        return with_numbers(table, self.names, np.clip(values, -limit, limit)), [note]

    def _spread(self, by: list[str], against_controls: bool) -> str:
        """Settle whether groups are divided by a spread of their own."""
        if self.settings.spread != "auto":
            return self.settings.spread
        if not against_controls or self.controls is None:
            return "own"
        codes = group_rows(self.table, by).codes
        references = np.bincount(codes[self._learnt_from], minlength=codes.max() + 1)
        return "pooled" if len(references) > 1 and references.min() < _ENOUGH_FOR_A_SPREAD else "own"

    def _select(self) -> None:
        settings, start = self.settings, self._start()
        self.features = pd.DataFrame({"feature": self.names, "kept": True, "operation": "", "reason": ""})
        if self.wanted is not None:
            self._keep_wanted(self.wanted, start)
            return
        if not settings.selection:
            return
        self._report("feature selection", 0, 1)
        result = select_features(
            self.table,
            settings.selection,
            features=self.names,
            correlation=settings.correlation,
            na_cutoff=settings.na_cutoff,
            noise_by=self.treatment or None,
        )
        self.table, self.features, self.names = result.table, result.features, result.kept
        self.tables["Well_selected"] = self.table
        notes = list(result.notes)
        if settings.normalisation == "none" and self.table[PLATE].nunique() > 1:
            notes.append("the plates were not normalised: differences between them count as information")
        self._done(
            "select features",
            "all wells of all plates together",
            start,
            notes,
            operations=list(settings.selection),
            correlation=settings.correlation,
            na_cutoff=settings.na_cutoff,
        )
        self._report("feature selection", 1, 1)

    def _keep_wanted(self, wanted: Wanted, start: tuple[float, int, int]) -> None:
        """Keep the features that somebody wants."""
        self.table, self.features = keep_wanted(self.table, self.names, wanted)
        self.names = list(wanted.features)
        notes = []
        if wanted.settings is None:
            notes.append(
                f"how the profiles of {wanted.source} were made is not known: their features are kept, but whether "
                "their values mean the same is for you to see to"
            )
        if self.settings.normalisation != "none":
            self.table, gaps = fill_gaps(self.table, self.names)
            notes += gaps
        self.tables["Well_selected"] = self.table
        settings = None if wanted.settings is None else dict(wanted.settings)
        self._done("select features", "no rows", start, notes, operations=["wanted"], of=wanted.source, as_in=settings)

    def _sphere(self) -> None:
        settings = self.settings
        if settings.sphering == "none":
            return
        if self.controls is None:
            if self.wanted is not None and self.wanted.settings is not None:
                raise InputError(f"The profiles of {self.wanted.source} were sphered: name controls to learn it from.")
            self.notes.append("sphering: left out, for it is learnt from controls and none were named")
            return
        start, notes = self._start(), self._unfit_for_sphering()
        if self.held_out is None:
            notes.append(
                "learnt from all controls, and so shrinks these more than any other well: compare treatments with each "
                "other; to compare them with controls (activity), keep some out (--hold-out 0.25)"
            )
        options: dict[str, Any] = {"method": settings.sphering, "exponent": settings.exponent, "features": self.names}
        value = settings.regularization
        if isinstance(value, str):
            value, more = self._choose_regularization(options)
            notes += more
        self._report("sphering", 0, 1)
        by = self._scope("batch") if settings.sphering_scope == "batch" else []
        self.table, self.spherings = sphere(self.table, self._learnt_from, by=by, regularization=value, **options)
        self.names = next(iter(self.spherings.values())).output_features
        self.tables["Well_sphered"] = self.table
        self._done(
            "sphere",
            f"controls of each {by[0].removeprefix('Metadata_')}" if by else "controls of all plates together",
            start,
            notes,
            method=settings.sphering,
            regularization=value,
            regularization_relative_to="mean eigenvalue",
            exponent=settings.exponent,
            learnt=[
                {
                    "group": name,
                    "controls": one.controls,
                    "rank": one.vectors.shape[1],
                    "mean_eigenvalue": one.mean_eigenvalue,
                    "regularization_added": one.regularization,
                }
                for name, one in self.spherings.items()
            ],
        )
        self._report("sphering", 1, 1)

    def _unfit_for_sphering(self) -> list[str]:
        """Drop features that sphering cannot have."""
        notes = self._without_gaps("sphering", "missing in some wells, and sphering needs every value")
        if self.settings.sphering.endswith("-cor"):
            controls = numbers(self.table, self.names)[self._learnt_from]
            flat = controls.std(axis=0) <= len(controls) * np.finfo(float).eps * np.abs(controls[0])
            notes += self._leave_out(flat, "sphering", "the same in all controls")
        return notes

    def _without_gaps(self, operation: str, reason: str) -> list[str]:
        """Drop features that lack a value in any well."""
        return self._leave_out(_columns_with_gaps(numbers(self.table, self.names)), operation, reason)

    def _leave_out(self, gone: npt.NDArray[np.bool_], operation: str, reason: str) -> list[str]:
        """Drop features and write down why; return a note."""
        if gone.all():
            raise InputError(f"No feature is left for {operation}: each is {reason}.")
        dropped = [name for name, out in zip(self.names, gone, strict=True) if out]
        if not dropped:
            return []
        if self.wanted is not None:
            raise InputError(
                f"{len(dropped)} features of {self.wanted.source} are {reason}, and {operation} cannot have them: "
                f"{examples(dropped)}."
            )
        place = self.features["feature"].isin(dropped)
        for column, value in (("kept", False), ("operation", operation), ("reason", reason)):
            self.features.loc[place, column] = value
        self.table = self.table.drop(columns=dropped)
        self.names = [name for name, out in zip(self.names, gone, strict=True) if not out]
        return [f"{len(dropped)} features are left out, being {reason}: {examples(dropped)}"]

    def _choose_regularization(self, options: dict[str, Any]) -> tuple[float, list[str]]:
        if not self.treatment:
            raise InputError("Choosing the regularisation needs to know treatments: name their columns.")
        joined = self.table[self.treatment].astype(str).agg(" ".join, axis=1)
        joined = joined.where(self.table[self.treatment].notna().all(axis=1))
        if self.held_out is not None:
            joined = joined.where(~self.held_out)  # neither learnt from nor a treatment
        self.choice = choose_regularization(
            pd.concat([self.table[[PLATE, *self.names]], joined.rename("Metadata_Treatment_Replicates")], axis=1),
            self._learnt_from,
            "Metadata_Treatment_Replicates",
            progress=lambda done, total: self._report("regularisation", done, total),
            **options,
        )
        choice = self.choice
        said = (
            f"regularisation {choice.regularization:g} chosen by replicate retrieval, {choice.folds} left out: mean "
            f"average precision {choice.nested_score:.3f} nested, {choice.fixed_score:.3f} with {choice.fixed:g} fixed"
        )
        return choice.regularization, [said, *choice.notes]

    def _harmonise(self) -> None:
        settings, start = self.settings, self._start()
        if settings.harmony == "none":
            return
        self._report("Harmony", 0, 1)
        by = self._scope(settings.harmony)
        notes = self._without_gaps("harmony", "missing in some wells, and Harmony needs every value")
        self.table, more = harmonise(self.table, by=by, features=self.names)
        self.tables["Well_harmonised"] = self.table
        groups = " and ".join(by).replace("Metadata_", "")
        self._done("harmonise", "all wells of all plates together", start, [*notes, *more], brought_together=groups)
        self._report("Harmony", 1, 1)

    def _consensus(self) -> None:
        settings = self.settings
        if settings.consensus == "none":
            return
        if not self.treatment:
            self.notes.append("consensus: left out, for no column tells treatments apart (a layout, or their columns)")
            return
        started = self._start()
        by = [*self.treatment, *(name for name in self._scope("all") if name not in self.treatment)]
        result = consensus(self.table, by, settings.consensus, features=self.names, controls=self.controls)
        self.tables["Treatment"] = result.table
        wells, self.table = self.table, result.table
        self._done(
            "consensus",
            "wells of each treatment, on all plates",
            started,
            result.notes,
            operation=settings.consensus,
            by=by,
        )
        self.table = wells


def _columns_with_gaps(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isnan(values).any(axis=0))


def _plain_keys(source: Source) -> pd.DataFrame:
    """Return the keys, with CellProfiler's `Image_Metadata_...` under the names that everybody else uses."""
    keys = source.keys()
    other = {name: str(name).removeprefix("Image_") for name in keys.columns if str(name).startswith("Image_Metadata_")}
    return keys.rename(columns={old: new for old, new in other.items() if new not in keys.columns})


def _level(source: Source, keys: pd.DataFrame) -> str:
    if source.level != "treatment" or WELL not in keys:
        return source.level
    places = [name for name in (PLATE, WELL, TIME) if name in keys]
    if not keys.duplicated(places).any():
        return "well"
    return "site" if SITE in keys and not keys.duplicated([*places, SITE]).any() else "cell"


def _measured(source: Source, keys: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([keys, pd.DataFrame(source.read(), columns=source.features)], axis=1)


def _refuse_twins(table: pd.DataFrame, places: list[str]) -> None:
    again = table.loc[table[places].assign(**{WELL: table[WELL].map(_place)}).duplicated(), places]
    if len(again):
        raise InputError(
            f"{len(again)} wells are there more than once, such as {' '.join(map(str, again.iloc[0]))}: give each "
            "table once, and different plates different names."
        )


def _place(well: object) -> str:
    """Return the normal name of a well, so that `a1` is `A01`; other names stay."""
    with suppress(InputError):
        return normalise_well(str(well))
    return str(well)


def _empty_wells(source: Source, table: pd.DataFrame, places: list[str]) -> list[str]:
    """Name wells that were imaged and have no cell."""
    images = source.images
    if images is None or any(name not in images for name in places):
        return []
    imaged = pd.MultiIndex.from_frame(images[places].astype(str)).unique()
    there = pd.MultiIndex.from_frame(table[places].astype(str))
    empty = imaged[~imaged.isin(there)]
    if not len(empty):
        return []
    return [f"{len(empty)} wells have no cells and no profile: {examples([' '.join(key) for key in empty])}"]


def _read_quality(path: Path) -> pd.DataFrame:
    """Read which wells passed, by plate and well."""
    path = path / "Well.parquet" if path.is_dir() else path
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            table = pd.read_parquet(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    else:
        table = read_table(path, "table of quality control")
    if absent := [name for name in (PLATE, WELL, QC_PASS) if name not in table]:
        raise InputError(f"{path} has no column {absent[0]!r}: quality control writes one.")
    truth = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    said = table[QC_PASS].map(lambda value: truth.get(cell_text(value).casefold()))
    if said.isna().any():
        raise InputError(
            f"{path}: {QC_PASS} must be true or false, and is {table.loc[said.isna(), QC_PASS].iloc[0]!r}."
        )
    keys = [table[PLATE].map(cell_text), table[WELL].map(lambda well: normalise_well(str(well)))]
    judged = pd.DataFrame(
        {
            QC_PASS: said.astype(bool).to_numpy(),
            QC_REASONS: table[QC_REASONS].fillna("").astype(str).to_numpy() if QC_REASONS in table else "failed",
        },
        index=pd.MultiIndex.from_arrays(keys),
    )
    if judged.index.has_duplicates:  # a well with several rows, such as time points or sites, passes if all do
        first = judged[QC_REASONS].groupby(level=[0, 1]).agg(lambda reasons: "; ".join(sorted({*reasons} - {""})))
        judged = judged[[QC_PASS]].groupby(level=[0, 1]).all().assign(**{QC_REASONS: first})
    return judged
