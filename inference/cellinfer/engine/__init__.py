"""A whole plate: how many fields at a time, where, in what order, what is already done, and what is left behind.

`run` is all that others need. Behind it: `_plan` (how a run spreads over a machine), `_ledger` (what is done, what is
to do), `_job` (what is done with one field), `_dispatch` (handing out and trying again), and the places where fields
are done: `_threads` of this process, `_processes` of their own, a `_cluster`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from cellinfer.embedding import Mask, load_embedder
from cellinfer.engine._dispatch import Dispatcher
from cellinfer.engine._job import Worker
from cellinfer.engine._ledger import Ledger, Progress, State
from cellinfer.engine._light import settle_light
from cellinfer.engine._memory import reuse_freed_memory
from cellinfer.engine._plan import Plan, make_plan
from cellinfer.engine._threads import Executor, Threads
from cellinfer.errors import InputError, OutputError
from cellinfer.exporting import check_formats, export
from cellinfer.files import owned, staged
from cellinfer.illumination import Illumination
from cellinfer.journal import Journal
from cellinfer.outputs.runinfo import write_run_info
from cellinfer.outputs.tables import write_tables
from cellinfer.pipeline import Pipeline, Settings, resolve_channels
from cellinfer.plate import Plate
from cellinfer.precision import Precision
from cellinfer.readers import read_plate
from cellinfer.sessions import Device, Session, open_session, precisions
from cellinfer.storage import AnyPath, RemotePath, is_of_this_process, location, resolved

__all__ = ["Progress", "RunResult", "State", "reuse_freed_memory", "run"]


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
    embedding
        Name of the model that described the cells; empty if none did.
    """

    folder: AnyPath
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
    overview: AnyPath = field(repr=False)
    embedding: str = ""

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
    embed: str | Path | None = None,
    embed_mask: Mask | None = None,
    embed_box: float | None = None,
    illumination: str | Path | Illumination | None = None,
    pattern: str | None = None,
    layout: str = "auto",
    channels: Mapping[str, str] | None = None,
    workers: int = 0,
    threads: int = 0,
    readers: int = 0,
    batch: int = 0,
    memory: str | int | None = None,
    scheduler: str | None = None,
    csv: bool = False,
    exports: str | Iterable[str] = (),
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Analyse every field of a plate; run again, do only what is missing.

    Parameters
    ----------
    plate
        Folder of images, its URL in a store that fsspec knows (`s3://bucket/plate`), or a `Plate` already read. It is
        never written to.
    out
        Result folder, or its URL; made if needed.
    model, device, precision
        See `cellinfer.sessions.open_session`. With `"auto"`, a folder goes on in the precision it was
        begun in, unless the device asked for has it not.
    settings
        What to do with each field.
    embed
        Model that describes each cell, on the same device: the table `Embedding`. None does without.
    embed_mask, embed_box
        See `cellinfer.embedding.Embedder`.
    illumination
        Divide images by illumination functions before all else, each plate in the folder by its own: `"auto"` computes
        them, into the result folder, and takes those that an earlier run computed there; or functions of
        `cellinfer.compute_illumination`, or their folder. None takes images as they are.
    pattern, layout, channels
        See `cellinfer.readers.read_plate`.
    workers
        Processes that analyse fields; 0 chooses by the machine and the plate (1: this one alone).
    threads
        Cores that all of them use together, each for one field at a time; 0 takes every core there is.
    readers
        Threads that read, in each process; 0 chooses.
    batch
        Tiles of several fields that the network takes at once; 0 chooses: 1 on the CPU, 8 on a GPU.
    memory
        Bytes that the whole run may take, such as `"4G"`; None takes most of what is free. Fields that do not fit
        beside others wait; one that does not fit alone is refused. The number of fields plays no part.
    scheduler
        Address (or scheduler file) of a dask cluster that does the fields instead of this machine.
    csv
        Also write the tables as CSV.
    exports
        Formats of other programs to write into `out/export`, see `cellinfer.export`.
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
    formats = check_formats(exports) if exports else ()
    if embed is None and (embed_mask is not None or embed_box is not None):
        raise InputError("--embed-mask and --embed-box are about an embedding model: name one with --embed.")
    read_with = None
    if not isinstance(plate, Plate):
        read_with = {"pattern": pattern, "layout": layout, "channels": dict(channels) if channels else None}
        plate = read_plate(plate, pattern=pattern, layout=layout, channels=channels)
    settings = resolve_channels(settings or Settings(), plate.channels)
    folder = location(out)
    if formats and isinstance(folder, RemotePath):
        raise InputError(
            f"Exports are made from results on the disk: leave out --export, copy {folder} there after the run, and "
            "use `cellinfer export`."
        )
    if is_of_this_process(folder) or is_of_this_process(plate.root):
        if workers > 1 or scheduler:
            raise InputError("No other process sees memory://: say --workers 1, and no --scheduler.")
        workers = 1
    _refuse_output_in_input(plate.root, folder)
    report = progress or (lambda state: None)
    begun = _begun_in(folder, model) if precision == "auto" and not fresh else None
    session, notes = _open(model, device, 1, precision, begun)
    embedder = None
    if embed is not None:
        where: Device = "cpu" if session.device == "cpu" else "cuda"
        embedder = load_embedder(embed, where, 1, mask=embed_mask, box=embed_box)
        embedder.channels(plate.channels)  # says what is missing
    given = None
    if illumination is not None and illumination != "auto":
        given = illumination if isinstance(illumination, Illumination) else Illumination.load(illumination)
        given.check(plate)
    with owned(folder), Journal(folder / "journal.jsonl") as journal, staged(folder, last="run.json") as here:
        light = None
        if illumination is not None:
            light = settle_light(
                plate,
                folder,
                given,
                z=settings.z,
                threads=threads,
                fresh=fresh,
                progress=lambda done, total: report(State(total, done, done, message="illumination")),
            )
        functions = None if light is None else light.functions
        pipeline = Pipeline(session, settings, embedder=embedder, illumination=functions)
        ledger = Ledger(
            plate,
            folder,
            journal,
            pipeline,
            model,
            embed=embed,
            fresh=fresh,
            retry_failed=retry_failed,
            report=report,
        )
        ledger.notes += notes
        todo = ledger.todo()
        if light is not None:
            ledger.notes += [*light.notes, *(light.note_changes(todo) if ledger.state.reused else [])]
        plan = make_plan(
            session.device,
            len(todo),
            need=ledger.need(todo),
            workers=workers,
            threads=threads,
            readers=readers,
            batch=batch,
            memory=memory,
        )
        if todo or not ledger.settled():
            ledger.begin()
        if todo:
            Dispatcher(_executor(ledger, plan, scheduler), ledger.job.configuration, ledger.note).run(todo)
        ledger.tidy()
        report(replace(ledger.state, message="writing tables"))
        profiles = write_tables(ledger.tables(), here, template=ledger.template(), csv=csv)
        from cellinfer.outputs.overview import draw_overview  # half a second that worker processes need not wait

        overview = draw_overview(plate, ledger.analysed(), here, profiles, ledger.pipeline.settings, ledger.label_paths)
        seconds = time.perf_counter() - started
        result = RunResult(
            folder=folder,
            fields=ledger.state.total - len(ledger.failures()),
            cells=int(profiles["Image_Count_Cells"].sum()),
            reused=ledger.state.reused,
            failed=ledger.failures(),
            device=session.device,
            precision=session.precision,
            diameter=ledger.diameter,
            diameter_assumed=ledger.assumed,
            notes=(*plate.notes, *ledger.notes, *_remarks(ledger, profiles)),
            seconds=seconds,
            overview=folder / overview.name,
            embedding="" if embedder is None else embedder.session.card.name,
        )
        write_run_info(
            here, plate, ledger.pipeline, result, ledger.stage_seconds(), plan, scheduler, read_with, ledger.digest()
        )
        if formats:
            export(here, formats, plate=plate, progress=lambda done, total: report(_exporting(done, total)))
    return result


def _exporting(done: int, total: int) -> State:
    return State(total=total, done=done, reused=done, message="exporting")


def _executor(ledger: Ledger, plan: Plan, scheduler: str | None) -> Executor:
    """Open the place where fields are done."""
    if scheduler is not None:
        from cellinfer.engine._cluster import Cluster

        return Cluster(ledger.job, scheduler)
    if plan.workers > 1:
        from cellinfer.engine._processes import Processes

        return Processes(ledger.job, plan)
    session = ledger.pipeline.session
    if plan.network_threads != session.threads:
        return Threads(Worker.open(ledger.job, plan.network_threads, plan.batch), plan)
    return Threads(Worker(ledger.job, ledger.pipeline.shared(plan.batch)), plan)


def _remarks(ledger: Ledger, profiles: pd.DataFrame) -> list[str]:
    """Say what was taken for granted."""
    settings, fields = ledger.pipeline.settings, len(ledger.plate.fields)
    remarks = [f"nuclei are looked for in {settings.nuclei!r}"]
    if settings.cells is None:
        remarks.append("no channel shows cytoplasm: cells and cytoplasm are even rings around nuclei")
    elif settings.cells == settings.nuclei:
        remarks.append("cells are looked for in the nuclear channel")
    else:
        remarks[0] += f", cells in {settings.cells!r}"
    if edge := int(profiles["Image_Count_EdgeNuclei"].sum()):
        remarks.append(f"{edge:,} cells were left out because their nucleus touches the edge of the field")
    remarks += [f"{count} of {fields} fields: {remark}" for remark, count in ledger.remarked.items()]
    if flagged := ledger.flagged:
        remarks.append(f"{len(flagged)} of {fields} fields are flagged (Image_QC_Flags), such as: {flagged[0]}")
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


def _begun_in(folder: AnyPath, model: str | Path) -> Precision | None:
    """Return the precision in which a folder's earlier run used this very model, so that none is mixed or undone."""
    before = Journal(folder / "journal.jsonl").header.get("model_sha256")
    return next((name for name, sha256 in precisions(model).items() if sha256 == before), None)


def _refuse_output_in_input(root: AnyPath, folder: AnyPath) -> None:
    if resolved(folder) == resolved(root):
        raise InputError(
            f"The result folder {folder} is the plate itself: choose another --out, input is never touched."
        )
    if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
        raise OutputError(f"The result folder {folder} is a file: choose another --out.")
