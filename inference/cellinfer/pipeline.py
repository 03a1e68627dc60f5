"""One field in, one `FieldResult` out.

The same function serves the command line, acquisition callbacks and workers elsewhere. It is a pure function of the
pixels, the model and the settings; how many fields run where is the engine's business.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellinfer import embedding
from cellinfer.cells import RING, Compartments, EdgePolicy, background_level, compartments, perinuclear_ring
from cellinfer.embedding import Embedder, Mask, load_embedder
from cellinfer.errors import InputError
from cellinfer.illumination import Illumination
from cellinfer.images import ZChoice, check_z, native, read_channel
from cellinfer.measurement import DEFAULTS, Options, chosen_families, full_scales, measure_compartments
from cellinfer.measurement.ratios import compartment_ratios, ring_ratios
from cellinfer.plate import Field
from cellinfer.precision import Precision
from cellinfer.quality import image_quality
from cellinfer.segmentation import (
    Merge,
    Segmentation,
    Tta,
    check_merge,
    check_segmentation_options,
    estimate_diameter,
    segment_image,
)
from cellinfer.sessions import Device, Session, available_cores, open_session

Images = Mapping[str, NDArray[Any]]
OBJECTS = ("Nuclei", "Cells", "Cytoplasm")
TABLES = (*OBJECTS, embedding.TABLE)
"""The tables of single cells that a field can have; the last where an embedding model was given."""
KEY_COLUMNS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "ImageNumber")
_PATIENCE = 300.0
"""Seconds in which the fields looked at for the size of nuclei must be there: storage may hang."""
_NUCLEAR = re.compile(r"dna|dapi|hoechst|draq|nucle|sytox|h2b", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """What decides a field's result, besides its pixels and the model.

    Parameters
    ----------
    nuclei
        Channel that shows nuclei; None finds it by its name, or takes the only one.
    cells
        Channel that shows cytoplasm; None takes the only other channel, and without one grows cells evenly.
    diameter
        Median nucleus diameter in pixels; None estimates it (a plate run estimates it once, from several fields).
    tta, merge, invert
        Test-time augmentation, and dark nuclei on a bright ground: see `cellinfer.segmentation.segment_image`.
    cell_distance
        Farthest that a cell reaches beyond its nucleus, pixels; None takes one and a half nucleus diameters, or a
        quarter of one where no channel shows cytoplasm.
    edge
        What happens to cells whose nucleus touches the edge of the field.
    z
        What becomes of a z-stack, see `cellinfer.images.read_channel`: `"max"`, `"mean"`, `"focus"`, or the number of a
        plane from 1. Arrays given to `Pipeline.analyse` are planes already.
    families
        Families of measurements, see `cellinfer.measurement.FAMILIES`; None takes all.
    measurements
        Their parameters.

    Raises
    ------
    InputError
        If an option makes no sense.
    """

    nuclei: str | None = None
    cells: str | None = None
    diameter: float | None = None
    tta: Tta = "none"
    merge: Merge = "instances"
    invert: bool = False
    cell_distance: float | None = None
    edge: EdgePolicy = "drop"
    z: ZChoice = "max"
    families: tuple[str, ...] | None = None
    measurements: Options = DEFAULTS

    def __post_init__(self) -> None:
        if self.families is not None:  # in whatever order they were named
            object.__setattr__(self, "families", tuple(family.name for family in chosen_families(self.families)))
        if not isinstance(self.measurements, Options):
            raise InputError(f"measurements must be cellinfer.measurement.Options, not {_kind(self.measurements)}.")
        check_segmentation_options(self.diameter, self.tta, self.merge)
        distance = self.cell_distance
        if distance is not None and not (isinstance(distance, Real) and 0 <= distance < math.inf):
            raise InputError(f"The cell distance must be a number of pixels, at least 0; it is {distance!r}.")
        check_z(self.z)
        if self.edge not in ("drop", "keep"):
            raise InputError(f"Unknown edge policy {self.edge!r}: choose drop or keep.")
        for name in ("diameter", "cell_distance"):  # 22 and 22.0 are one configuration
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))


@dataclass
class FieldResult:
    """All that one field gives.

    Attributes
    ----------
    labels
        `"Nuclei"`, `"Cells"`, `"Cytoplasm"` -> `(H, W)` int32; one id names one cell in all three.
    tables
        The same names, and `"Embedding"` where an embedding model was given -> one row per cell, the same columns for
        an empty field.
    image
        The field's own row: counts, intensities, quality.
    flags
        What is wrong with the field, in words; empty if nothing.
    notes
        What was taken for granted about its nuclear image, in words.
    uncertainty
        `(H, W)` float32, 0 to 1: how far views disagree on each pixel; None without test-time augmentation.
    seconds
        Wall time by stage.
    """

    labels: dict[str, NDArray[np.int32]]
    tables: dict[str, pd.DataFrame]
    image: dict[str, Any]
    flags: tuple[str, ...]
    notes: tuple[str, ...] = ()
    uncertainty: NDArray[np.float32] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nuclei(self) -> pd.DataFrame:
        """One row per nucleus."""
        return self.tables["Nuclei"]

    @property
    def cells(self) -> pd.DataFrame:
        """One row per cell."""
        return self.tables["Cells"]

    @property
    def cytoplasm(self) -> pd.DataFrame:
        """One row per cytoplasm."""
        return self.tables["Cytoplasm"]

    @property
    def embedding(self) -> pd.DataFrame:
        """One row of a network's features per cell; a KeyError without an embedding model."""
        return self.tables[embedding.TABLE]


class Pipeline:
    """A model with settings, ready to analyse fields; safe to call from several threads.

    Parameters
    ----------
    session
        The model.
    settings
        What to do with it.
    embedder
        A second model, which describes each cell that was found; None does without.
    illumination
        Functions by which images are divided before all else, those of its plate for a plate's `Field`; arrays know no
        plate, and need functions of one alone (`Illumination.only`). None takes images as they were recorded.

    Raises
    ------
    InputError
        If views are to be merged by fields and the model's output cannot be averaged.

    Examples
    --------
    >>> import cellinfer
    >>> pipeline = cellinfer.load("nuclei")
    >>> result = pipeline.analyse({"DNA": dna, "GFP": gfp})  # doctest: +SKIP
    >>> result.cells["Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"].median()  # doctest: +SKIP
    """

    def __init__(
        self,
        session: Session,
        settings: Settings | None = None,
        *,
        embedder: Embedder | None = None,
        illumination: Illumination | None = None,
    ) -> None:
        self.session = session
        self.settings = settings or Settings()
        self.embedder = embedder
        self.illumination = illumination
        check_merge(session, self.settings.merge)

    def read(self, field: Field) -> dict[str, NDArray[Any]]:
        """Read every channel of a plate's field.

        Returns
        -------
        dict
            Channel -> `(H, W)`, see `cellinfer.images.read_channel`.

        Raises
        ------
        ImageError
            If a plane cannot be read, or a channel that is needed for nuclei, cells or the embedding is not there.
        InputError
            If planes differ in size.
        """
        for channel in (self.settings.nuclei, self.settings.cells, *self._embedded()):
            if channel is not None and not field.images.get(channel):
                read_channel(field, channel)  # says which is missing where
        return read_images(field, self.settings.z)

    def analyse(self, field: Field | Images | NDArray[Any], images: Images | None = None) -> FieldResult:
        """Analyse one field.

        Parameters
        ----------
        field
            A plate's `Field`, a mapping of channel names to `(H, W)` arrays, or one `(H, W)` array of nuclei.
        images
            What `read` gave for a plate's field, if it has been read already.

        Returns
        -------
        FieldResult
            Labels, tables, the field's own row.

        Raises
        ------
        ImageError
            If a plane cannot be read.
        InputError
            If a channel is missing, planes differ in size, or there are illumination functions of several plates and
            the field is of none of these.
        """
        seconds: dict[str, float] = {}
        with _timed(seconds, "read"):
            if not isinstance(field, Field):
                images = _as_images(field, self.settings)
            elif images is None:
                images = self.read(field)
        settings = resolve_channels(self.settings, tuple(images))
        assert settings.nuclei is not None
        recorded, scales = images, full_scales(images, settings.measurements)
        if self.illumination is not None:
            with _timed(seconds, "correct"):
                images = self.illumination.correct(recorded, field.key.plate if isinstance(field, Field) else None)
        with _timed(seconds, "segment"):
            found = segment_image(
                images[settings.nuclei],
                self.session,
                diameter=settings.diameter,
                tta=settings.tta,
                merge=settings.merge,
                invert=settings.invert,
            )
        with _timed(seconds, "cells"):
            parts = compartments(
                found.labels,
                None if settings.cells is None else images[settings.cells],
                _cell_distance(settings, found.diameter),
                diameter=found.diameter,
                edge=settings.edge,
            )
        with _timed(seconds, "measure"):
            row, flags = image_quality(recorded)
            if self.illumination is not None:  # it is what cells are compared with
                row |= {f"Image_Intensity_Background_{name}": background_level(im) for name, im in images.items()}
            tables = _measured(parts, images, found, settings, row, scales)
        if self.embedder is not None:
            with _timed(seconds, "embed"):
                tables[embedding.TABLE] = self.embedder.table(images, parts.nuclei, parts.cells, found.diameter)
        row |= _counts(parts, found)
        row |= {f"Image_Measurement_FullScale_{name}": scale for name, scale in scales.items()}
        labels = {"Nuclei": parts.nuclei, "Cells": parts.cells, "Cytoplasm": parts.cytoplasm}
        result = FieldResult(labels, tables, row, flags, found.notes, found.uncertainty, seconds)
        return _keyed(result, field) if isinstance(field, Field) else result

    def _embedded(self) -> tuple[str, ...]:
        """Return the channels that a field must have for the embedding model."""
        card = None if self.embedder is None else self.embedder.session.card
        return () if card is None or card.each_channel else card.channels

    def resolved(self, **changes: Any) -> Pipeline:
        """Return the same pipeline with other settings."""
        return self._with(settings=replace(self.settings, **changes))

    def shared(self, batch: int) -> Pipeline:
        """Return the same pipeline with models that run tiles of several threads together, `batch` at a time."""
        embedder = None if self.embedder is None else self.embedder.shared(batch)
        return self._with(session=self.session.shared(batch), embedder=embedder)

    def uncorrected(self) -> Pipeline:
        """Return the same pipeline without illumination functions, for images of any size."""
        return self._with(illumination=None)

    def _with(self, **changes: Any) -> Pipeline:
        parts: dict[str, Any] = {
            "session": self.session,
            "settings": self.settings,
            "embedder": self.embedder,
            "illumination": self.illumination,
        }
        return Pipeline(**(parts | changes))


def load(
    model: str | Path = "nuclei",
    *,
    device: Device = "auto",
    threads: int = 0,
    precision: Precision = "auto",
    embed: str | Path | None = None,
    embed_mask: Mask | None = None,
    embed_box: float | None = None,
    illumination: str | Path | Illumination | None = None,
    **settings: Any,
) -> Pipeline:
    """Load a model and return a pipeline that analyses fields with it.

    Parameters
    ----------
    model
        Name of a bundled model, or path of an ONNX file with a card.
    device, threads, precision
        See `cellinfer.sessions.open_session`.
    embed
        Model that describes each cell; None does without.
    embed_mask, embed_box
        See `cellinfer.embedding.Embedder`.
    illumination
        Functions of `cellinfer.compute_illumination`, or the folder that they are in; None takes images as they are.
    **settings
        Fields of `Settings`.

    Raises
    ------
    InputError
        If there is no such setting, or it makes no sense.
    ModelError
        If there is no such model, or its file cannot be used.
    """
    known = [field.name for field in fields(Settings)]
    if unknown := sorted(set(settings) - set(known)):
        raise InputError(f"There is no setting {unknown[0]!r}: the settings are {', '.join(known)}.")
    if embed is None and (embed_mask is not None or embed_box is not None):
        raise InputError("The mask and the box of crops are for an embedding model: name one with embed=.")
    embedder = None if embed is None else load_embedder(embed, device, threads, mask=embed_mask, box=embed_box)
    if illumination is not None and not isinstance(illumination, Illumination):
        illumination = Illumination.load(illumination)
    session = open_session(model, device, threads, precision)
    return Pipeline(session, Settings(**settings), embedder=embedder, illumination=illumination)


def resolve_channels(settings: Settings, channels: tuple[str, ...]) -> Settings:
    """Name the channels that settings leave open.

    Parameters
    ----------
    settings
        Settings, perhaps with `nuclei` or `cells` None.
    channels
        The channels there are.

    Raises
    ------
    InputError
        If a named channel does not exist, or no name tells which channel shows nuclei.
    """
    for role in ("nuclei", "cells"):
        name = getattr(settings, role)
        if name is not None and name not in channels:
            raise InputError(f"There is no channel {name!r} for {role}: the images have {_listed(channels)}.")
    nuclei = settings.nuclei or _nuclear_channel(channels, settings.cells)
    others = [name for name in channels if name != nuclei]
    cells = settings.cells or (others[0] if len(others) == 1 else None)
    if cells is None and len(others) > 1:
        raise InputError(
            f"Which channel shows the cytoplasm? Say --cells NAME: the images have {_listed(channels)}, "
            f"of which {nuclei!r} shows nuclei."
        )
    return replace(settings, nuclei=nuclei, cells=cells)


def plate_diameter(pipeline: Pipeline, fields: list[Field], at_most: int = 6) -> float | None:
    """Estimate one nucleus diameter (pixels) for a plate: the median over fields spread evenly over it.

    Parameters
    ----------
    pipeline
        With its nuclear channel named.
    fields
        The plate's fields. Those that cannot be read or that hold nothing are passed over.
    at_most
        How many fields are looked at.

    Returns
    -------
    float or None
        None if no field looked at shows a nucleus.
    """
    picks = np.unique(np.linspace(0, len(fields) - 1, min(at_most, len(fields))).round().astype(int))
    waiting: SimpleQueue[Field] = SimpleQueue()
    found: SimpleQueue[float | None] = SimpleQueue()
    for index in picks:
        waiting.put(fields[index])

    def work() -> None:
        with suppress(Empty):
            while True:
                found.put(_field_diameter(pipeline, waiting.get_nowait()))

    for _ in range(min(available_cores(), len(picks))):
        Thread(target=work, daemon=True).start()  # not kept alive by a read that never returns
    diameters: list[float | None] = []
    end = time.monotonic() + _PATIENCE
    with suppress(Empty):
        diameters.extend(found.get(timeout=max(0.0, end - time.monotonic())) for _ in picks)
    seen = [diameter for diameter in diameters if diameter is not None]
    return round(float(np.median(seen)), 2) if seen else None


def _field_diameter(pipeline: Pipeline, field: Field) -> float | None:
    """Return the median diameter in one field; None if it shows no nucleus, or cannot be looked at."""
    assert pipeline.settings.nuclei is not None
    try:
        image = read_channel(field, pipeline.settings.nuclei, z=pipeline.settings.z)
        if pipeline.illumination is not None:
            image = pipeline.illumination.correct_channel(image, pipeline.settings.nuclei, field.key.plate)
        return estimate_diameter(image, pipeline.session, invert=pipeline.settings.invert)
    except Exception:  # the field will say why when it is analysed
        return None


def read_images(field: Field, z: ZChoice = "max") -> dict[str, NDArray[Any]]:
    """Read every channel of a field and check that all are of one size."""
    return _same_size({channel: read_channel(field, channel, z=z) for channel in field.images})


def _as_images(field: Images | NDArray[Any], settings: Settings) -> dict[str, NDArray[Any]]:
    if not isinstance(field, (np.ndarray, Mapping)):
        raise InputError(
            f"A field is one array (height, width), or a mapping of channel names to such arrays, not {_kind(field)}: "
            "images in files are for cellinfer.run and cellinfer.segment."
        )
    images = {settings.nuclei or "DNA": field} if isinstance(field, np.ndarray) else dict(field)
    if not images:
        raise InputError("The field has no channel.")
    for name, image in images.items():
        if not isinstance(name, str):
            raise InputError(f"Channels are told apart by names; {name!r} is {_kind(name)}.")
        if not isinstance(image, np.ndarray) or image.ndim != 2 or image.size == 0 or image.dtype.kind not in "biuf":
            given = f"{image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else _kind(image)
            raise InputError(
                f"Channel {name!r} must be an array (height, width) of real numbers, not {given}: give each channel "
                "by its name; colour images of tissue are for cellinfer.segment_image."
            )
    return _same_size({name: native(image) for name, image in images.items()})


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _same_size(images: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    sizes = {name: image.shape for name, image in images.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"The channels of one field differ in size: {sizes}.")
    return images


def _nuclear_channel(channels: tuple[str, ...], cells: str | None) -> str:
    candidates = [name for name in channels if name != cells]
    if len(candidates) == 1:
        return candidates[0]
    named = [name for name in candidates if _NUCLEAR.search(name)]
    if len(named) != 1:
        raise InputError(
            f"Which channel shows nuclei? The images have {_listed(channels)}. Say --nuclei NAME, or rename every "
            "channel to keep: --channel DNA=NAME --channel GFP=NAME."
        )
    return named[0]


def _listed(channels: tuple[str, ...]) -> str:
    return f"the channels {', '.join(map(repr, channels))}" if len(channels) > 1 else f"one channel, {channels[0]!r}"


def _cell_distance(settings: Settings, diameter: float) -> float:
    if settings.cell_distance is not None:
        return settings.cell_distance
    return (1.5 if settings.cells is not None else 0.25) * diameter


def _measured(
    parts: Compartments,
    images: Images,
    found: Segmentation,
    settings: Settings,
    row: dict[str, Any],
    scales: Mapping[str, float],
) -> dict[str, pd.DataFrame]:
    """Measure all compartments; every table has one row per cell, in the same order."""
    labels = dict(zip(OBJECTS, (parts.nuclei, parts.cells, parts.cytoplasm), strict=True))
    measured = measure_compartments(
        labels, images, families=settings.families, options=settings.measurements, recorded_scales=scales
    )
    ids = pd.Index(np.arange(1, parts.kept.size + 1), name="ObjectNumber")
    # A cell that is all nucleus has no cytoplasm pixel: its row is there, without values.
    tables = {name: table.set_index("ObjectNumber").reindex(ids).reset_index() for name, table in measured.items()}
    for name, more in _relatives(measured, ids).items():
        tables[name] = pd.concat([tables[name], more], axis=1)
    tables["Cells"] = pd.concat([tables["Cells"], *_ratios(tables, parts, images, found, settings, row)], axis=1)
    tables["Nuclei"] = pd.concat([tables["Nuclei"], _agreement(found, parts)], axis=1)
    for parent in ("Cells", "Nuclei"):
        tables["Cytoplasm"].insert(1, f"Metadata_Cytoplasm_Parent_{parent}", tables["Cytoplasm"]["ObjectNumber"])
    return tables


def _relatives(measured: Mapping[str, pd.DataFrame], ids: pd.Index[Any]) -> dict[str, pd.DataFrame]:
    """Return whose parts the objects are, as CellProfiler writes it; a cell has one id in all compartments."""
    counts = {name: ids.isin(table["ObjectNumber"]).astype(np.int64) for name, table in measured.items()}
    numbers = ids.to_numpy(np.int64)
    columns = {
        "Nuclei": {f"Children_{child}_Count": counts[child] for child in ("Cells", "Cytoplasm")},
        "Cells": {"Parent_Nuclei": numbers, "Children_Cytoplasm_Count": counts["Cytoplasm"]},
        "Cytoplasm": {"Parent_Nuclei": numbers, "Parent_Cells": numbers},
    }
    return {
        name: pd.DataFrame({f"{name}_{column}": values for column, values in more.items()})
        for name, more in columns.items()
    }


def _ratios(
    tables: dict[str, pd.DataFrame],
    parts: Compartments,
    images: Images,
    found: Segmentation,
    settings: Settings,
    row: dict[str, Any],
) -> list[pd.DataFrame]:
    """Return the ratios of compartments, unless the families they are made of were not asked for."""
    if settings.families is not None and not {"AreaShape", "Intensity"} <= set(settings.families):
        return []
    background = {channel: row[f"Image_Intensity_Background_{channel}"] for channel in images}
    compared = compartment_ratios(
        tables["Nuclei"], tables["Cells"], tables["Cytoplasm"], tuple(images), background=background
    )
    ring = perinuclear_ring(parts, max(2.0, RING * found.diameter))
    numbers = tables["Cells"]["ObjectNumber"].to_numpy()
    return [compared, ring_ratios(parts.nuclei, ring, images, numbers, background=background)]


def _agreement(found: Segmentation, parts: Compartments) -> pd.DataFrame:
    """Return what the views say of each nucleus; no column without test-time augmentation."""
    columns = {
        "Nuclei_TTA_VoteFraction": found.votes,
        "Nuclei_TTA_MeanIoU": found.mean_iou,
        "Nuclei_TTA_Entropy": found.entropy,
        "Nuclei_TTA_Views": found.views,
    }
    kept = {name: column[parts.kept - 1] for name, column in columns.items() if column is not None}
    return pd.DataFrame(kept, index=range(parts.kept.size))


def _counts(parts: Compartments, found: Segmentation) -> dict[str, Any]:
    cells = int(parts.kept.size)
    return {
        "Image_Count_Nuclei": cells,
        "Image_Count_Cells": cells,
        "Image_Count_EdgeNuclei": parts.dropped,
        "Image_Segmentation_Diameter": found.diameter,
        "Image_Segmentation_Scale": found.scale,
        "Image_Segmentation_Notes": "; ".join(found.notes),
    }


def empty_result(pipeline: Pipeline, field: Field, channels: tuple[str, ...]) -> FieldResult:
    """Return what an empty field with these channels would give: tables without rows, all columns in order."""
    black = np.zeros((32, 32), np.uint16)
    result = pipeline.uncorrected().analyse(dict.fromkeys(channels, black))
    return _keyed(result, replace(field, images=dict.fromkeys(channels, ())))


def _keyed(result: FieldResult, field: Field) -> FieldResult:
    """Put the field's key in front of every table and of the field's own row."""
    key = dict(zip(KEY_COLUMNS, (*field.key, field.number), strict=True))
    for name, table in result.tables.items():
        front = pd.DataFrame({column: [value] * len(table) for column, value in key.items()})
        front = front.astype({column: type(value) for column, value in key.items()})
        result.tables[name] = pd.concat([front, table], axis=1)
    paths = {
        f"Image_FileName_{channel}": Path(refs[0].path).name if refs else "" for channel, refs in field.images.items()
    }
    result.image = key | paths | result.image
    return result


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
