"""What a result folder holds already, what is still to do, and the tables made of it all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cellinfer_models

from cellinfer import embedding
from cellinfer._version import __version__
from cellinfer.engine._job import LABELS, Embedding, Job, Outcome, peak_bytes
from cellinfer.errors import OutputError
from cellinfer.files import PARTIAL, output_errors, sha256_of
from cellinfer.journal import Entry, Journal, field_name, fingerprint
from cellinfer.outputs.shards import Shard, read_shard, shard_of
from cellinfer.patience import within
from cellinfer.pipeline import KEY_COLUMNS, Pipeline, empty_result, plate_diameter
from cellinfer.plate import Field, Plate
from cellinfer.storage import AnyPath, RemotePath, Version, ahead, find, is_remote, join, open_file, remove

_GLANCES = 8
"""Threads that look at files which may have changed: that is waiting, most of all."""
_LONGEST_LOOK = 10.0
"""Seconds that looking at the header of one field may take."""
_AHEAD = 4
"""Fields whose tables are fetched from a store while those before are written."""


@dataclass
class State:
    """How far a run is; handed to the progress callback after each field."""

    total: int
    done: int = 0
    reused: int = 0
    failed: int = 0
    cells: int = 0
    message: str = ""


Progress = Callable[[State], None]


class Ledger:
    """The fields of one run in their result folder: which are done, which are to do, and what became of them."""

    def __init__(
        self,
        plate: Plate,
        folder: AnyPath,
        journal: Journal,
        pipeline: Pipeline,
        model: str | Path,
        *,
        embed: str | Path | None = None,
        fresh: bool,
        retry_failed: bool,
        report: Progress,
    ) -> None:
        self.plate, self.folder, self.report = plate, _absolute(folder), report
        self.journal = journal
        self._written: set[str] = set()  # in a store: what the result folder holds
        self._images: dict[str, Version] = {}  # in a store: the plate's files
        self.state = State(total=len(plate.fields))
        self.notes: list[str] = []
        self.flagged: list[str] = []
        self.remarked: Counter[str] = Counter()
        self._retry_failed = retry_failed
        self._device_before = self.journal.header.get("device")
        earlier = self.journal.header.get("plate", [plate.name])[0]
        if earlier != plate.name and not fresh:
            raise OutputError(
                f"{folder} holds the results of another plate, {earlier!r}: choose another --out for {plate.name!r}, "
                "or --fresh to replace them."
            )
        self.diameter, self.assumed = self._settle_diameter(pipeline, fresh)
        self.pipeline = pipeline.resolved(diameter=self.diameter)
        self.job = self._job(model, embed)
        self._fresh = fresh

    def _job(self, model: str | Path, embed: str | Path | None) -> Job:
        session, embedder = self.pipeline.session, self.pipeline.embedder
        bundled = _is_bundled(model)
        described = None
        if embed is not None and embedder is not None:
            described = Embedding(_as_elsewhere(embed), **embedder.configuration)
        return Job(
            model=_as_elsewhere(model),
            sha256=session.sha256,
            device="cpu" if session.device == "cpu" else "cuda",
            precision=session.choice.precision if bundled else "auto",
            settings=self.pipeline.settings,
            root=_absolute(self.plate.root),
            folder=self.folder,
            pixel_size=self.plate.pixel_size,
            version=__version__,
            configuration=_configuration(self.pipeline, self.plate),
            embedding=described,
            illumination="" if self.pipeline.illumination is None else self.pipeline.illumination.digest,
        )

    def _settle_diameter(self, pipeline: Pipeline, fresh: bool) -> tuple[float, bool]:
        """Return the plate's nucleus diameter, and whether it is the model's own for want of a better one.

        An estimate holds for later runs of the same plate with the same settings; the lack of one does not.
        """
        header = {
            "configuration": _configuration(pipeline, self.plate),
            "plate": [self.plate.name, str(self.plate.root)],
        }
        known = self.journal.header
        if not fresh and known and known.get("configuration") != header["configuration"]:
            self.notes.append("settings or model differ from the last run's: all fields are done again")
        if not fresh and known.get("diameter") and all(known.get(key) == value for key, value in header.items()):
            return float(known["diameter"]), False
        diameter = pipeline.settings.diameter
        if diameter is None:
            self.report(replace(self.state, message="estimating the size of nuclei"))
            diameter = plate_diameter(pipeline, list(self.plate.fields))
        self.journal.begin(
            header
            | {
                "diameter": diameter,
                "version": __version__,
                "model_sha256": pipeline.session.sha256,
                "device": pipeline.session.device,
            }
        )
        return (pipeline.session.card.diameter, True) if diameter is None else (diameter, False)

    def todo(self) -> list[Field]:
        """Return the fields that have no results, or not those of today's pixels, model and settings."""
        fields = [f for f in self.plate.fields if self._fresh or field_name(f) not in self.journal.entries]
        if len(fields) < len(self.plate.fields):
            self.report(replace(self.state, message="looking for what has changed"))
            self._list_stores()
            with ThreadPoolExecutor(_GLANCES) as pool:
                done = list(pool.map(self._is_done, self.plate.fields))
            fields = [f for f, is_done in zip(self.plate.fields, done, strict=True) if not is_done]
        self.state.reused = self.state.done = self.state.total - len(fields)
        now = self.pipeline.session.device
        if self.state.reused and (before := self._device_before) not in (None, now):
            self.notes.append(
                f"{self.state.reused} fields were done on {before} before, the others are done on {now}: the last "
                "digits of their numbers may differ; --fresh does all on one device"
            )
        self.state.failed = len(set(self.failures()) - {field_name(f) for f in fields})
        self.report(self.state)
        return fields

    def _list_stores(self) -> None:
        """List what lies in stores by one call each, instead of asking for each file."""
        if isinstance(self.folder, RemotePath):
            with output_errors(self.folder):
                self._written = {join(self.folder.url, name) for name in find(self.folder.url)}
        if isinstance(self.plate.root, RemotePath):
            root = self.plate.root.url
            with suppress(OSError):  # then each file is asked for
                self._images = {join(root, name): version for name, version in find(root).items()}

    def need(self, fields: list[Field]) -> int:
        """Return how many bytes the first of some fields takes at its peak, 0 if that cannot be told."""
        return within(_LONGEST_LOOK, lambda: peak_bytes(fields[0], self.pipeline), 0) if fields else 0

    def settled(self) -> bool:
        """Tell whether the tables there are hold these fields and no others, all as they are now."""
        if not (self.folder / "run.json").exists():
            return False
        try:
            with open_file(str(self.folder / "run.json")) as file:
                info = json.load(file)
            return bool(info["result"]["digest"] == self.digest())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def digest(self) -> str:
        """Return a digest of what the tables are made of."""
        entries = [self.journal.entries.get(field_name(f)) for f in self.plate.fields]
        content = [[e.field, e.fingerprint, e.status, e.reason, e.digest] for e in entries if e is not None]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def begin(self) -> None:
        """Until the tables are written anew, leave nothing that says that they are complete."""
        with output_errors(self.folder):
            (self.folder / "run.json").unlink(missing_ok=True)
            if self.pipeline.embedder is None:  # features of an earlier run with other settings
                (self.folder / f"{embedding.TABLE}.parquet").unlink(missing_ok=True)
                (self.folder / f"{embedding.TABLE}.csv").unlink(missing_ok=True)
        if not isinstance(self.folder, Path):
            return
        if (self.folder / "assay" / "assay.json").is_file():
            shutil.rmtree(self.folder / "assay", ignore_errors=True)
            self.notes.append("the assay results of the earlier tables were removed: run `cellinfer assay` again")
        if (self.folder / "export").is_dir():
            self.notes.append("export/ holds the earlier tables: run `cellinfer export` again")

    def note(self, outcome: Outcome) -> None:
        """Write down what became of a field."""
        self.journal.add(outcome.entry)
        self.state.done += 1
        self.state.cells += outcome.cells
        self.state.failed += outcome.entry.status == "failed"
        self.report(self.state)

    def tidy(self) -> None:
        """Remove results that this run would not have written: of other fields or of views no longer asked."""
        self.journal.settle()
        good = [field_name(f) for f in self.analysed()]
        kept = {path for name in good for path in (self.job.shard(name), *self.job.labels(name).values())}
        if isinstance(self.folder, RemotePath):
            with output_errors(self.folder):
                held = [name for name in find(self.folder.url) if name.startswith(("fields/", "labels/"))]
                remove({self.folder / name for name in held} - kept)
            return
        written = (path for kind in LABELS for path in (self.folder / "labels" / kind).glob("*.ome.tiff"))
        own = (self.folder, self.folder / "fields", *(self.folder / "labels" / kind for kind in LABELS))
        half_written = (path for each in own for path in each.glob(f".*{PARTIAL}"))  # by runs that were killed
        for path in {*(self.folder / "fields").glob("*.arrows"), *written, *half_written} - kept:
            path.unlink(missing_ok=True)
        for kind in LABELS:
            with suppress(OSError):  # not empty, or never made
                (self.folder / "labels" / kind).rmdir()

    def analysed(self) -> list[Field]:
        """Fields that have results."""
        return [f for f in self.plate.fields if self.journal.entries[field_name(f)].status == "ok"]

    def template(self) -> Shard:
        """Tables of a field that lacks nothing, which set the columns of the plate's tables."""
        empty = empty_result(self.pipeline, self.plate.fields[0], self.plate.channels)
        empty.image |= {"Image_Status": "ok", "Image_Reason": ""}
        return shard_of(empty)

    def tables(self) -> Iterator[Shard]:
        """Tables of every field in plate order; a failed field has its own row alone."""
        entries = [self.journal.entries[field_name(f)] for f in self.plate.fields]
        shards = self._shards([entry for entry in entries if entry.status == "ok"])
        for f, entry in zip(self.plate.fields, entries, strict=True):
            if entry.status == "ok":
                # The number is the field's place among those there are now, not when it was analysed.
                shard = next(shards)
                if flags := shard.image["Image_QC_Flags"]:
                    self.flagged.append(flags)
                if remarks := shard.image["Image_Segmentation_Notes"]:
                    self.remarked[remarks] += 1
                numbered = {name: block.replaced("ImageNumber", f.number) for name, block in shard.objects.items()}
                yield Shard(numbered, shard.image | {"ImageNumber": f.number})
            else:
                row = dict(zip(KEY_COLUMNS, (*f.key, f.number), strict=True))
                yield Shard({}, row | {"Image_Status": "failed", "Image_Reason": entry.reason})

    def _shards(self, entries: list[Entry]) -> Iterator[Shard]:
        """Read shards in order; a few ahead where that is waiting for a store."""

        def read(entry: Entry) -> Shard:
            return read_shard(self.job.shard(entry.field), entry.digest)

        return ahead(read, entries, _AHEAD if is_remote(self.folder) else 0)

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

    def label_paths(self, field: Field) -> dict[str, AnyPath]:
        """Where the label images of a field are, and with test-time augmentation its uncertainty image."""
        return self.job.labels(field_name(field))

    def _is_done(self, field: Field) -> bool:
        name = field_name(field)
        entry = self.journal.entries.get(name)
        if entry is None or self._fresh:
            return False
        if entry.status != "ok" and (entry.retryable or self._retry_failed):
            return False
        if entry.fingerprint != fingerprint(field, self.job.configuration, self._images):
            return False
        if entry.status != "ok":
            return True
        shard = self.job.shard(name)
        labels = self.job.labels(name).values()
        if not isinstance(shard, Path):  # its content is checked when it is read for the tables
            return {str(path) for path in (shard, *labels)} <= self._written
        return shard.is_file() and sha256_of(shard) == entry.digest and all(path.is_file() for path in labels)


def _absolute(folder: AnyPath) -> AnyPath:
    """Return a folder as other processes must call it, wherever they are."""
    return folder.absolute() if isinstance(folder, Path) else folder


def _is_bundled(model: str | Path) -> bool:
    return isinstance(model, str) and model in cellinfer_models.registry()


def _as_elsewhere(model: str | Path) -> str:
    """Return a bundled model's name, or a file's path, as other processes must call it."""
    return str(model) if _is_bundled(model) else str(Path(model).absolute())


def _configuration(pipeline: Pipeline, plate: Plate) -> str:
    """Return a digest of everything but the pixels that decides a field's result."""
    content: list[object] = [__version__, pipeline.session.sha256, asdict(pipeline.settings), plate.pixel_size]
    if pipeline.embedder is not None:
        content.append({"embedding": pipeline.embedder.configuration})
    if pipeline.illumination is not None:
        content.append({"illumination": pipeline.illumination.digest})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
