"""What is done with one field, wherever it is done: read, analyse, write.

The same functions serve the threads of a run, its worker processes and a cluster. A field done twice leaves the same
bytes as a field done once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from numpy.typing import NDArray

from cellinfer._version import __version__
from cellinfer.embedding import Mask, load_embedder
from cellinfer.engine._light import FOLDER as LIGHT
from cellinfer.engine._memory import field_bytes
from cellinfer.errors import CellinferError, DeviceError, EngineError, ImageError, ModelError, OutputError
from cellinfer.illumination import Illumination
from cellinfer.images import files_of
from cellinfer.journal import Entry, field_name, fingerprint
from cellinfer.outputs.labels import write_labels, write_uncertainty
from cellinfer.outputs.shards import write_shard
from cellinfer.patience import Patience
from cellinfer.pipeline import FieldResult, Pipeline, Settings
from cellinfer.plate import Field
from cellinfer.precision import Precision
from cellinfer.segmentation import network_scale
from cellinfer.sessions import Device, open_session
from cellinfer.storage import AnyPath, is_remote

_log = logging.getLogger(__name__)
LABELS = ("Nuclei", "Cells", "Uncertainty")
"""Kinds of label images, each a folder; the last only where several views were asked."""

Stamps = tuple[tuple[int, int], ...]
Again = Literal["", "settle", "alone"]


@dataclass(frozen=True)
class Embedding:
    """What a process must know to describe cells: the model, its digest, and see `cellinfer.embedding.Embedder`."""

    model: str
    sha256: str
    mask: Mask
    box: float | None


@dataclass(frozen=True)
class Job:
    """All that a process must know to analyse fields of one run; it can be pickled.

    Attributes
    ----------
    model, sha256
        Name of a bundled model or absolute path of a file, and the digest that it must have.
    device, precision
        What this run settled on.
    settings
        With channels named and the diameter known.
    root, folder
        The plate's folder and the result folder.
    pixel_size
        Micrometres per pixel, if known.
    version
        Of cellinfer: another one elsewhere would give other results.
    configuration
        Digest of everything but the pixels that decides a field's result.
    embedding
        The model that describes cells, if any.
    illumination
        Digest of the illumination functions in the result folder that images are divided by; empty for none.
    """

    model: str
    sha256: str
    device: Device
    precision: Precision
    settings: Settings
    root: AnyPath
    folder: AnyPath
    pixel_size: float | None
    version: str
    configuration: str
    embedding: Embedding | None = None
    illumination: str = ""

    def shard(self, name: str) -> AnyPath:
        """Where the tables of a field are while the run goes on."""
        return self.folder / "fields" / f"{name}.arrows"

    def labels(self, name: str) -> dict[str, AnyPath]:
        """Where the label images of a field are, and with test-time augmentation its uncertainty image."""
        kinds = LABELS if self.settings.tta != "none" else LABELS[:2]
        return {kind: self.folder / "labels" / kind / f"{name}.ome.tiff" for kind in kinds}


@dataclass(frozen=True)
class Outcome:
    """What became of a field.

    Attributes
    ----------
    entry
        For the journal.
    cells
        How many it holds.
    again
        What may help a field that failed: `"settle"`, trying again once its files have stopped changing; `"alone"`,
        trying again while no other field needs memory; nothing.
    stamps
        Size and time of its files when it failed, to notice a change by.
    """

    entry: Entry
    cells: int = 0
    again: Again = ""
    stamps: Stamps = ()


@dataclass
class Loaded:
    """A field whose pixels are in memory."""

    field: Field
    fingerprint: str
    images: Mapping[str, NDArray[Any]]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    result: FieldResult | None = None


class Worker:
    """Reads, analyses and writes fields of one job; each step may be called from several threads.

    Every step returns what the next one takes, or the `Outcome` that ends the field.

    Parameters
    ----------
    job
        The job.
    pipeline
        The model and the job's settings.
    """

    def __init__(self, job: Job, pipeline: Pipeline) -> None:
        self.job, self.pipeline = job, pipeline
        self._patience = Patience(job.root)

    @classmethod
    def open(cls, job: Job, threads: int, batch: int = 1) -> Worker:
        """Open the job's model in this process.

        Raises
        ------
        ModelError
            If the model or cellinfer itself is not there in the version that the run began with.
        """
        if job.version != __version__:
            raise ModelError(
                f"cellinfer is {__version__} here and {job.version} where the run began: install the same version on "
                "every machine."
            )
        session = open_session(job.model, job.device, threads, job.precision)
        _check_same(job.model, session.sha256, job.sha256)
        embedder = None
        if (of := job.embedding) is not None:
            embedder = load_embedder(of.model, job.device, threads, mask=of.mask, box=of.box)
            _check_same(of.model, embedder.session.sha256, of.sha256)
        light = Illumination.load(job.folder / LIGHT) if job.illumination else None
        if light is not None and light.digest != job.illumination:
            raise OutputError(
                f"{job.folder / LIGHT} holds other illumination functions than those that the run began with: run the "
                "same command again."
            )
        return cls(job, Pipeline(session, job.settings, embedder=embedder, illumination=light).shared(batch))

    def do(self, field: Field) -> Outcome:
        """Read, analyse and write one field."""
        step: Loaded | Outcome = self.read(field)
        if isinstance(step, Loaded):
            step = self.analyse(step)
        return self.write(step) if isinstance(step, Loaded) else step

    def read(self, field: Field) -> Loaded | Outcome:
        """Read the pixels of a field whose files are whole and have stopped changing."""
        started = time.perf_counter()
        before = stamps(field)
        print_ = fingerprint(field, self.job.configuration)
        try:
            images = self._patience.call(lambda: self.pipeline.read(field))
        except Exception as error:
            return self.failed(field, print_, error, before)
        if stamps(field) != before:
            growing = ImageError("its files changed while they were read: they are still being written")
            return self.failed(field, print_, growing, before)
        return Loaded(field, print_, images, {"read": time.perf_counter() - started})

    def analyse(self, loaded: Loaded) -> Loaded | Outcome:
        """Analyse a field in memory."""
        try:
            result = self.pipeline.analyse(loaded.field, loaded.images)
        except Exception as error:
            return self.failed(loaded.field, loaded.fingerprint, error)
        loaded.images = {}  # the memory is wanted for other fields
        return replace(loaded, result=result, seconds=result.seconds | loaded.seconds)

    def write(self, loaded: Loaded) -> Outcome:
        """Put a field's results on disk, its tables last."""
        try:
            return self._written(loaded)
        except Exception as error:
            return self.failed(loaded.field, loaded.fingerprint, error)

    def _written(self, loaded: Loaded) -> Outcome:
        started = time.perf_counter()
        result, name = loaded.result, field_name(loaded.field)
        assert result is not None
        result.image |= {"Image_Status": "ok", "Image_Reason": ""}
        for kind, path in self.job.labels(name).items():
            if kind == "Uncertainty":
                assert result.uncertainty is not None
                write_uncertainty(result.uncertainty, path, pixel_size=self.job.pixel_size)
            else:
                write_labels(result.labels[kind], path, name=kind, pixel_size=self.job.pixel_size)
        written = write_shard(result, self.job.shard(name))
        seconds = loaded.seconds | {"write": time.perf_counter() - started}
        return Outcome(Entry(name, loaded.fingerprint, "ok", "", written, seconds), len(result.cells))

    def failed(self, field: Field, print_: str, error: Exception, before: Stamps = ()) -> Outcome:
        """Return the outcome of a field that cannot be analysed; raise what no field would survive."""
        if isinstance(error, (OutputError, ModelError, DeviceError)):
            raise error
        name = field_name(field)
        short = isinstance(error, (EngineError, MemoryError))
        passing = short or isinstance(error.__cause__, OSError)
        reason = str(error)
        if isinstance(error, MemoryError):
            reason = f"there was not enough memory: {error or 'an array could not be made'}"
        elif not isinstance(error, CellinferError):  # a bug must not cost the rest of the plate
            _log.error("field %s failed unexpectedly", name, exc_info=error)
            reason = f"unexpected {type(error).__name__}: {error}"
        entry = Entry(name, print_, "failed", reason, "", {}, retryable=passing)
        if short:
            return Outcome(entry, again="alone")
        return Outcome(entry, again="settle" if isinstance(error, ImageError) else "", stamps=before)


def _check_same(model: str, found: str, expected: str) -> None:
    if found != expected:
        raise ModelError(
            f"The model {model!r} is another file here ({found[:12]}) than where the run began ({expected[:12]}): "
            "install the same version of cellinfer and its models on every machine."
        )


def peak_bytes(field: Field, pipeline: Pipeline) -> int:
    """Return how many bytes a field takes at its peak."""
    session, settings = pipeline.session, pipeline.settings
    diameter = settings.diameter or session.card.diameter
    scale = network_scale(diameter, session)

    def more(pixels: int, channels: int) -> int:
        embedder, light = pipeline.embedder, pipeline.illumination
        embedded = 0 if embedder is None else embedder.peak_bytes(pixels, channels, diameter)
        # The functions are kept once for all fields; the images that they are made into are one field's own.
        corrected = 0 if light is None else light.bytes_kept + 4 * pixels * channels
        return embedded + corrected

    return field_bytes(field, enlarged=scale, views=settings.tta != "none", more=more)


def stamps(field: Field) -> Stamps:
    """Return size and modification time of each file of a field, -1 for one that is not there.

    They tell whether a file changes while it is looked at, and nothing else: clocks lie. Files in a store have none:
    they appear whole.
    """
    refs = (ref for refs in field.images.values() for ref in refs if not is_remote(ref.path))
    return tuple(_stamp(path) for ref in refs for path in files_of(ref))


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  many files
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1)
def worker_here(job: Job) -> Worker:
    """Return this process's worker for a job, opened once, with one thread for the network."""
    return Worker.open(job, threads=1)
