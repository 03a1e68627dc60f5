"""A whole plate: how many fields at a time, in what order, what is already done, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from cellinfer._version import __version__
from cellinfer.errors import CellinferError, InputError, OutputError
from cellinfer.files import owned
from cellinfer.journal import Entry, Journal, field_name, fingerprint
from cellinfer.outputs.labels import write_labels
from cellinfer.outputs.overview import draw_overview
from cellinfer.outputs.runinfo import write_run_info
from cellinfer.outputs.tables import image_row, read_shard, write_shard, write_tables
from cellinfer.pipeline import KEY_COLUMNS, Pipeline, Settings, plate_diameter, resolve_channels
from cellinfer.plate import Field, Plate
from cellinfer.readers import read_plate
from cellinfer.sessions import Device, available_cores, open_session

Progress = Callable[["State"], None]


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
    device, diameter
        What the network ran on, and the nucleus diameter (pixels) that was assumed.
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
    diameter: float
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
    model, device
        See `cellinfer.sessions.open_session`.
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
        Try fields again that failed before although nothing about them has changed.
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
    session = open_session(model, device, max(1, available_cores() // workers))
    pipeline = Pipeline(session, settings)
    with owned(folder):
        work = _Work(plate, folder, pipeline, fresh, retry_failed, report)
        work.do(workers)
        report(replace(work.state, message="writing tables"))
        profiles = write_tables(work.tables(), folder, csv=csv)
        overview = draw_overview(plate, folder, profiles, work.pipeline.settings, work.label_paths)
        seconds = time.perf_counter() - started
        result = RunResult(
            folder=folder,
            fields=work.state.total - len(work.failures()),
            cells=int(profiles.get("Image_Count_Cells", pd.Series(dtype=int)).sum()),
            reused=work.state.reused,
            failed=work.failures(),
            device=session.device,
            diameter=work.diameter,
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
        self._retry_failed = retry_failed
        configuration = _configuration(pipeline)
        if fresh or self.journal.header.get("configuration") != configuration:
            diameter = pipeline.settings.diameter
            if diameter is None:
                report(replace(self.state, message="estimating the size of nuclei"))
                diameter = plate_diameter(pipeline, list(plate.fields))
            self.journal.begin({"configuration": configuration, "diameter": diameter, "version": __version__})
        self.diameter = float(self.journal.header["diameter"])
        self.pipeline = pipeline.resolved(diameter=self.diameter)
        resolved = _configuration(self.pipeline)
        self._prints = {field_name(f): fingerprint(f, resolved) for f in plate.fields}
        self._fresh = fresh
        self._interrupted = threading.Event()

    def do(self, workers: int) -> None:
        """Analyse what is missing."""
        todo = [f for f in self.plate.fields if self._fresh or not self._is_done(field_name(f))]
        self.state.reused = self.state.done = self.state.total - len(todo)
        self.state.failed = len(self.failures())
        self.report(self.state)
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

    def tables(self) -> Iterator[dict[str, pa.Table]]:
        """Tables of every field in plate order; a failed field has its own row alone."""
        for f in self.plate.fields:
            entry = self.journal.entries[field_name(f)]
            if entry.status == "ok":
                yield read_shard(self._shard(entry.field))
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
        """Where the label images of a field are."""
        return {name: self.folder / "labels" / name / f"{field_name(field)}.ome.tiff" for name in ("Nuclei", "Cells")}

    def _is_done(self, name: str) -> bool:
        entry = self.journal.entries.get(name)
        if entry is None or entry.fingerprint != self._prints[name]:
            return False
        if entry.status != "ok":
            return not self._retry_failed
        shard = self._shard(name)
        return shard.is_file() and _digest(shard) == entry.digest

    def _analyse(self, field: Field) -> tuple[Entry, int]:
        """Analyse one field and put its results on disk; a field that cannot be analysed is noted, not raised."""
        name = field_name(field)
        print_ = self._prints[name]
        if self._interrupted.is_set():
            raise InterruptedError
        try:
            result = self.pipeline.analyse(field)
        except OutputError:
            raise
        except (CellinferError, MemoryError) as error:
            return Entry(name, print_, "failed", str(error) or type(error).__name__, "", {}), 0
        started = time.perf_counter()
        result.image |= {"Image_Status": "ok", "Image_Reason": ""}
        for kind, path in self.label_paths(field).items():
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


def _configuration(pipeline: Pipeline) -> str:
    """Return a digest of everything but the pixels that decides a field's result."""
    content = [__version__, pipeline.session.sha256, asdict(pipeline.settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_output_in_input(root: Path, folder: Path) -> None:
    if folder.resolve() == root.resolve():
        raise InputError(
            f"The result folder {folder} is the plate itself: choose another --out, input is never touched."
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The result folder {folder} is a file: choose another --out.")
