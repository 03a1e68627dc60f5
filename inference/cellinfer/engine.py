"""A whole plate: how many fields at a time, in what order, what is already done, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cellinfer._version import __version__
from cellinfer.errors import CellinferError, DeviceError, EngineError, InputError, ModelError, OutputError
from cellinfer.files import owned
from cellinfer.journal import Entry, Journal, field_name, fingerprint
from cellinfer.outputs.labels import write_labels, write_uncertainty
from cellinfer.outputs.overview import draw_overview
from cellinfer.outputs.runinfo import write_run_info
from cellinfer.outputs.tables import image_row, read_shard, tables_of, write_shard, write_tables
from cellinfer.pipeline import KEY_COLUMNS, Pipeline, Settings, empty_result, plate_diameter, resolve_channels
from cellinfer.plate import Field, Plate
from cellinfer.precision import Precision
from cellinfer.readers import read_plate
from cellinfer.sessions import Device, Session, available_cores, open_session, precisions

_log = logging.getLogger(__name__)
Progress = Callable[["State"], None]
LABELS = ("Nuclei", "Cells", "Uncertainty")
"""Kinds of label images, each a folder; the last only where several views were asked."""


@dataclass
class State:
    """How far a run is; handed to the progress callback after each field."""

    total: int
    done: int = 0
    reused: int = 0
    failed: int = 0
    cells: int = 0
    message: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    folder
        Result folder.
    fields, cells
        How many fields were analysed (now or before) and how many cells they hold.
    reused
        Fields whose results were there already.
    failed
        Field name -> reason, for fields that could not be analysed.
    device, precision, diameter
        What the network ran on, in which precision, and the nucleus diameter (pixels) that was used.
    diameter_assumed
        True if no nucleus was seen to estimate the diameter from: then it is the model's own.
    notes
        What the user should know about how the plate was understood and what was left out.
    seconds
        Wall time of this run.
    overview
        The overview picture.
    """

    folder: Path
    fields: int
    cells: int
    reused: int
    failed: Mapping[str, str]
    device: str
    precision: str
    diameter: float
    diameter_assumed: bool
    notes: tuple[str, ...]
    seconds: float
    overview: Path = field(repr=False)

    @property
    def complete(self) -> bool:
        """True if no field failed."""
        return not self.failed


def run(
    plate: str | Path | Plate,
    out: str | Path,
    *,
    model: str | Path = "nuclei",
    device: Device = "auto",
    precision: Precision = "auto",
    settings: Settings | None = None,
    pattern: str | None = None,
    layout: str = "auto",
    channels: Mapping[str, str] | None = None,
    workers: int = 0,
    csv: bool = False,
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Analyse every field of a plate; run again, do only what is missing.

    Parameters
    ----------
    plate
        Folder of images, or a `Plate` already read. It is never written to.
    out
        Result folder; made if needed.
    model, device, precision
        See `cellinfer.sessions.open_session`. With `"auto"`, a folder goes on in the precision it was
        begun in, unless the device asked for has it not.
    settings
        What to do with each field.
    pattern, layout, channels
        See `cellinfer.readers.read_plate`.
    workers
        Fields analysed at the same time; 0 takes one per core.
    csv
        Also write the tables as CSV.
    fresh
        Do every field again.
    retry_failed
        Try every field again that failed before. Without it, those are tried again that changed, or whose failure
        may pass (a share that was away, memory that was short).
    progress
        Called after every field, from this thread.

    Returns
    -------
    RunResult
        Where the results are, and how it went.

    Raises
    ------
    InputError
        If the folder is not a plate, or a channel is missing: before any work.
    OutputError
        If results cannot be written, or another run owns the folder.
    """
    started = time.perf_counter()
    plate = plate if isinstance(plate, Plate) else read_plate(plate, pattern=pattern, layout=layout, channels=channels)
    settings = resolve_channels(settings or Settings(), plate.channels)
    folder = Path(out)
    _refuse_output_in_input(plate.root, folder)
    workers = workers or available_cores()
    report = progress or (lambda state: None)
    threads = max(1, available_cores() // workers)
    begun = _begun_in(folder, model) if precision == "auto" and not fresh else None
    session, notes = _open(model, device, threads, precision, begun)
    pipeline = Pipeline(session, settings)
    with owned(folder):
        work = _Work(plate, folder, pipeline, fresh, retry_failed, report)
        work.notes += notes
        work.do(workers)
        report(replace(work.state, message="writing tables"))
        profiles = write_tables(work.tables(), folder, template=work.template(), csv=csv)
        overview = draw_overview(plate, work.analysed(), folder, profiles, work.pipeline.settings, work.label_paths)
        seconds = time.perf_counter() - started
        result = RunResult(
            folder=folder,
            fields=work.state.total - len(work.failures()),
            cells=int(profiles["Image_Count_Cells"].sum()),
            reused=work.state.reused,
            failed=work.failures(),
            device=session.device,
            precision=session.precision,
            diameter=work.diameter,
            diameter_assumed=work.assumed,
            notes=(*plate.notes, *work.notes, *_remarks(plate, work.pipeline, profiles, work.flagged, work.remarked)),
            seconds=seconds,
            overview=overview,
        )
        write_run_info(folder, plate, work.pipeline, result, work.stage_seconds(), workers)
    return result


class _Work:
    """The fields of one run: which are done, which are to do, and the doing."""

    def __init__(
        self, plate: Plate, folder: Path, pipeline: Pipeline, fresh: bool, retry_failed: bool, report: Progress
    ) -> None:
        self.plate, self.folder, self.report = plate, folder, report
        self.shards = folder / "fields"
        self.journal = Journal(folder / "journal.jsonl")
        self.state = State(total=len(plate.fields))
        self.notes: list[str] = []
        self.flagged: list[str] = []
        self.remarked: Counter[str] = Counter()
        self._retry_failed = retry_failed
        earlier = self.journal.header.get("plate", [plate.name])[0]
        if earlier != plate.name and not fresh:
            raise OutputError(
                f"{folder} holds the results of another plate, {earlier!r}: choose another --out for {plate.name!r}, "
                "or --fresh to replace them."
            )
        self.diameter, self.assumed = self._settle_diameter(pipeline, fresh)
        self.pipeline = pipeline.resolved(diameter=self.diameter)
        resolved = _configuration(self.pipeline)
        self._prints = {field_name(f): fingerprint(f, resolved) for f in plate.fields}
        self._fresh = fresh
        self._interrupted = threading.Event()

    def _settle_diameter(self, pipeline: Pipeline, fresh: bool) -> tuple[float, bool]:
        """Return the plate's nucleus diameter, and whether it is the model's own for want of a better one.

        An estimate holds for later runs of the same plate with the same settings; the lack of one does not.
        """
        header = {"configuration": _configuration(pipeline), "plate": [self.plate.name, str(self.plate.root)]}
        known = self.journal.header
        if not fresh and known and known.get("configuration") != header["configuration"]:
            self.notes.append("settings or model differ from the last run's: all fields were done again")
        if not fresh and known.get("diameter") and all(known.get(key) == value for key, value in header.items()):
            return float(known["diameter"]), False
        diameter = pipeline.settings.diameter
        if diameter is None:
            self.report(replace(self.state, message="estimating the size of nuclei"))
            diameter = plate_diameter(pipeline, list(self.plate.fields))
        self.journal.begin(
            header | {"diameter": diameter, "version": __version__, "model_sha256": pipeline.session.sha256}
        )
        return (pipeline.session.card.diameter, True) if diameter is None else (diameter, False)

    def do(self, workers: int) -> None:
        """Analyse what is missing."""
        todo = [f for f in self.plate.fields if self._fresh or not self._is_done(field_name(f))]
        self.state.reused = self.state.done = self.state.total - len(todo)
        self.state.failed = len(set(self.failures()) - {field_name(f) for f in todo})
        self.report(self.state)
        if todo:  # until the tables are written anew, nothing says that they are complete
            (self.folder / "run.json").unlink(missing_ok=True)
            if (self.folder / "assay" / "assay.json").is_file():
                shutil.rmtree(self.folder / "assay", ignore_errors=True)
                self.notes.append("the assay results of the earlier tables were removed: run `cellinfer assay` again")
        self._do(todo, workers)
        self._tidy()

    def _do(self, todo: list[Field], workers: int) -> None:
        waiting = iter(todo)
        running: set[Future[tuple[Entry, int]]] = set()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="field")
        try:
            # No more fields are handed out than are worked on: memory does not grow with the plate.
            while True:
                while len(running) < workers + 1 and (field := next(waiting, None)) is not None:
                    running.add(pool.submit(self._analyse, field))
                if not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._note(*future.result())
        except BaseException:
            # The fields in work are finished and noted; a second interrupt leaves at once, without them.
            self._interrupted.set()
            for future in running:
                future.cancel()
            for future in wait(running).done:
                if not future.cancelled() and future.exception() is None:
                    self.journal.add(future.result()[0])
            raise
        finally:
            pool.shutdown(wait=False)

    def _tidy(self) -> None:
        """Remove results that this run would not have written: of other fields or of views no longer asked."""
        good = [field_name(f) for f in self.analysed()]
        kept = {path for name in good for path in (self._shard(name), *self._labels(name).values())}
        written = (path for kind in LABELS for path in (self.folder / "labels" / kind).glob("*.ome.tiff"))
        for path in {*self.shards.glob("*.arrows"), *written} - kept:
            path.unlink(missing_ok=True)
        for kind in LABELS:
            with suppress(OSError):  # not empty, or never made
                (self.folder / "labels" / kind).rmdir()

    def analysed(self) -> list[Field]:
        """Fields that have results."""
        return [f for f in self.plate.fields if self.journal.entries[field_name(f)].status == "ok"]

    def template(self) -> dict[str, pa.Table]:
        """Tables of a field that lacks nothing, which set the columns of the plate's tables."""
        empty = empty_result(self.pipeline, self.plate.fields[0], self.plate.channels)
        empty.image |= {"Image_Status": "ok", "Image_Reason": ""}
        return tables_of(empty)

    def tables(self) -> Iterator[dict[str, pa.Table]]:
        """Tables of every field in plate order; a failed field has its own row alone."""
        for f in self.plate.fields:
            entry = self.journal.entries[field_name(f)]
            if entry.status == "ok":
                # The number is the field's place among those there are now, not when it was analysed.
                shard = read_shard(self._shard(entry.field))
                if flags := shard["Image"]["Image_QC_Flags"][0].as_py():
                    self.flagged.append(flags)
                if remarks := shard["Image"]["Image_Segmentation_Notes"][0].as_py():
                    self.remarked[remarks] += 1
                yield {name: _with_number(table, f.number) for name, table in shard.items()}
            else:
                row = dict(zip(KEY_COLUMNS, (*f.key, f.number), strict=True))
                yield {"Image": image_row(row | {"Image_Status": "failed", "Image_Reason": entry.reason})}

    def failures(self) -> dict[str, str]:
        """Field name -> reason, of this plate's fields that failed."""
        entries = (self.journal.entries.get(field_name(f)) for f in self.plate.fields)
        return {e.field: e.reason for e in entries if e and e.status == "failed"}

    def stage_seconds(self) -> dict[str, float]:
        """Wall time by stage, summed over the fields whose results are in use."""
        total: dict[str, float] = {}
        for f in self.plate.fields:
            for stage, seconds in self.journal.entries[field_name(f)].seconds.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return {stage: round(seconds, 3) for stage, seconds in total.items()}

    def label_paths(self, field: Field) -> dict[str, Path]:
        """Where the label images of a field are, and with test-time augmentation its uncertainty image."""
        return self._labels(field_name(field))

    def _labels(self, name: str) -> dict[str, Path]:
        kinds = LABELS if self.pipeline.settings.tta != "none" else LABELS[:2]
        return {kind: self.folder / "labels" / kind / f"{name}.ome.tiff" for kind in kinds}

    def _is_done(self, name: str) -> bool:
        entry = self.journal.entries.get(name)
        if entry is None or entry.fingerprint != self._prints[name]:
            return False
        if entry.status != "ok":
            return not (entry.retryable or self._retry_failed)
        shard = self._shard(name)
        labels = self._labels(name).values()
        return shard.is_file() and _digest(shard) == entry.digest and all(path.is_file() for path in labels)

    def _analyse(self, field: Field) -> tuple[Entry, int]:
        """Analyse one field and put its results on disk; a field that cannot be analysed is noted, not raised."""
        name = field_name(field)
        print_ = self._prints[name]
        if self._interrupted.is_set():
            raise InterruptedError
        try:
            result = self.pipeline.analyse(field)
        except (OutputError, ModelError, DeviceError):
            raise  # no field would fare better
        except CellinferError as error:
            passing = isinstance(error, EngineError) or isinstance(error.__cause__, OSError)
            return Entry(name, print_, "failed", str(error), "", {}, retryable=passing), 0
        except Exception as error:  # a bug must not cost the rest of the plate
            _log.exception("field %s failed unexpectedly", name)
            reason = f"unexpected {type(error).__name__}: {error}"
            return Entry(name, print_, "failed", reason, "", {}, retryable=isinstance(error, MemoryError)), 0
        started = time.perf_counter()
        result.image |= {"Image_Status": "ok", "Image_Reason": ""}
        for kind, path in self.label_paths(field).items():
            if kind == "Uncertainty":
                assert result.uncertainty is not None
                write_uncertainty(result.uncertainty, path, pixel_size=self.plate.pixel_size)
            else:
                write_labels(result.labels[kind], path, name=kind, pixel_size=self.plate.pixel_size)
        shard = self._shard(name)
        write_shard(result, shard)
        result.seconds["write"] = time.perf_counter() - started
        return Entry(name, print_, "ok", "", _digest(shard), result.seconds), len(result.cells)

    def _note(self, entry: Entry, cells: int) -> None:
        self.journal.add(entry)
        self.state.done += 1
        self.state.cells += cells
        self.state.failed += entry.status == "failed"
        self.report(self.state)

    def _shard(self, name: str) -> Path:
        return self.shards / f"{name}.arrows"


def _remarks(
    plate: Plate, pipeline: Pipeline, profiles: pd.DataFrame, flagged: list[str], remarked: Counter[str]
) -> list[str]:
    """Say what was taken for granted."""
    settings = pipeline.settings
    remarks = [f"nuclei are looked for in {settings.nuclei!r}"]
    if settings.cells is None:
        remarks.append("no channel shows cytoplasm: cells and cytoplasm are even rings around nuclei")
    elif settings.cells == settings.nuclei:
        remarks.append("cells are looked for in the nuclear channel")
    else:
        remarks[0] += f", cells in {settings.cells!r}"
    if edge := int(profiles["Image_Count_EdgeNuclei"].sum()):
        remarks.append(f"{edge:,} cells were left out because their nucleus touches the edge of the field")
    remarks += [f"{count} of {len(plate.fields)} fields: {remark}" for remark, count in remarked.items()]
    if flagged:
        remarks.append(
            f"{len(flagged)} of {len(plate.fields)} fields are flagged (Image_QC_Flags), such as: {flagged[0]}"
        )
    return remarks


def _open(
    model: str | Path, device: Device, threads: int, precision: Precision, begun: Precision | None
) -> tuple[Session, list[str]]:
    """Open the model, in the precision that the folder was begun in if the device has it; say where it has not."""
    if begun == "int8" and device == "cuda":
        note = "the folder was begun in int8, which is for the CPU: on cuda its fields were done again in float32"
        return open_session(model, device, threads, precision), [note]
    if begun is None:
        return open_session(model, device, threads, precision), []
    session = open_session(model, device, threads, begun)
    return replace(session, choice=replace(session.choice, why="the folder was begun in it")), []


def _begun_in(folder: Path, model: str | Path) -> Precision | None:
    """Return the precision in which a folder's earlier run used this very model, so that none is mixed or undone."""
    before = Journal(folder / "journal.jsonl").header.get("model_sha256")
    return next((name for name, sha256 in precisions(model).items() if sha256 == before), None)


def _configuration(pipeline: Pipeline) -> str:
    """Return a digest of everything but the pixels that decides a field's result."""
    content = [__version__, pipeline.session.sha256, asdict(pipeline.settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_number(table: pa.Table, number: int) -> pa.Table:
    index = table.schema.get_field_index("ImageNumber")
    field = table.schema.field(index)
    return table.set_column(index, field, pa.array([number] * len(table), field.type))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_output_in_input(root: Path, folder: Path) -> None:
    if folder.resolve() == root.resolve():
        raise InputError(
            f"The result folder {folder} is the plate itself: choose another --out, input is never touched."
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The result folder {folder} is a file: choose another --out.")
