"""Data sets of single-cell crops: one packed file that is mapped into memory, and one row of an index for each crop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cellinfer import __version__
from cellinfer.assays.platemap import join_platemap, metadata_column, read_platemap
from cellinfer.errors import InputError
from cellinfer.files import durable, output_errors
from cellinfer.images import read_channel, read_labels
from cellinfer.journal import field_name
from cellinfer.plate import Field, Plate
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.readers import read_plate
from cellinfer_kernels.crops import crops
from numpy.typing import NDArray

from cellinfer_training.simulate import CHANNELS, Experiment, paint

TREATMENT, EXPERIMENT = "Metadata_Treatment", "Metadata_Experiment"
_PIXELS, _INDEX, _ABOUT = "crops.u8", "index.parquet", "crops.json"
_REQUIRED = (PLATE, WELL, SITE, TREATMENT)


class Part(NamedTuple):
    """Crops of one packed file, and which of their channels are used."""

    crops: NDArray[np.uint8]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class CropSet:
    """Crops and what they show.

    Attributes
    ----------
    parts
        Packed files one after another.
    index
        One row per crop: `Metadata_Plate`, `Metadata_Well`, `Metadata_Site`, `Metadata_Treatment` (the class) and what
        else is known.
    channels
        By meaning.
    side
        Height and width of the crops, pixels.
    box
        Side of the square in the image that became a crop, pixels.
    diameter
        Nucleus diameter, pixels, at which that box was meant; None where it was not stated.
    rows
        Place in the packed files of each row of the index; None: one after another.
    """

    parts: tuple[Part, ...]
    index: pd.DataFrame
    channels: tuple[str, ...]
    side: int
    box: int
    diameter: float | None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return crops by row, (n, C, side, side) uint8."""
        if self.rows is not None:
            rows = self.rows[rows]
        taken = np.empty((len(rows), len(self.channels), self.side, self.side), np.uint8)
        first = 0
        for part in self.parts:
            here = np.flatnonzero((rows >= first) & (rows < first + len(part.crops)))
            for place in here:
                taken[place] = part.crops[int(rows[place]) - first][list(part.channels)]
            first += len(part.crops)
        return taken


def scale(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return packed crops as a network takes them, -1 to 1."""
    return crops.astype(np.float32) / np.float32(127.5) - np.float32(1)


def pack(
    folder: Path,
    fields: Iterable[tuple[NDArray[np.uint8], pd.DataFrame]],
    channels: Sequence[str],
    box: int,
    diameter: float | None = None,
    origin: str = "",
) -> CropSet:
    """Write a data set field by field; memory holds one field.

    Parameters
    ----------
    folder
        Gets `crops.u8`, `index.parquet` and `crops.json`.
    fields
        Of each field the crops (n, C, side, side) as from `cut`, and n rows of the index.
    channels, box, diameter
        See `CropSet`.
    origin
        Where the crops are from, in words.

    Raises
    ------
    InputError
        If there is no crop at all, or an index lacks a column.
    OutputError
        If the folder cannot be written.
    """
    rows: list[pd.DataFrame] = []
    side = 0
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with durable(folder / _PIXELS) as partial, partial.open("wb") as file:
        for pictures, table in fields:
            if missing := [name for name in _REQUIRED if name not in table.columns]:
                raise InputError(f"The index of crops lacks the column {missing[0]}.")
            if pictures.shape[:2] != (len(table), len(channels)):
                raise InputError(f"{pictures.shape[:2]} crops and channels do not fit {len(table)} rows of {channels}.")
            if len(pictures):
                side = pictures.shape[-1]
                file.write(np.ascontiguousarray(pictures).tobytes())
                rows.append(table)
    if not rows:
        raise InputError(f"There is no cell to be cut out: {folder} would be empty.")
    index = pd.concat(rows, ignore_index=True)
    with durable(folder / _INDEX) as partial:
        index.to_parquet(partial, index=False)
    about = {
        "channels": list(channels),
        "side": side,
        "box": box,
        "diameter": diameter,
        "crops": len(index),
        "origin": origin,
        "cellinfer": __version__,
    }
    with durable(folder / _ABOUT) as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return open_crops(folder)


def open_crops(folder: Path) -> CropSet:
    """Open a data set that `pack` wrote; its pixels stay on the disk.

    Raises
    ------
    InputError
        If the folder holds none, or a damaged one.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        index = pd.read_parquet(folder / _INDEX)
        shape = (int(about["crops"]), len(about["channels"]), int(about["side"]), int(about["side"]))
        if len(index) != shape[0] or (folder / _PIXELS).stat().st_size != int(np.prod(shape)):
            raise ValueError("sizes do not agree")
        pixels = np.memmap(folder / _PIXELS, np.uint8, "r", shape=shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no whole set of crops ({error}): pack it anew.") from error
    channels = tuple(about["channels"])
    part = Part(pixels, tuple(range(len(channels))))
    return CropSet((part,), index, channels, shape[-1], int(about["box"]), about["diameter"])


def combine(sets: dict[str, CropSet], shared_classes: bool = False) -> CropSet:
    """Join the crops of several experiments into one data set.

    Parameters
    ----------
    sets
        Name of each experiment -> its crops. Channels are matched by name: those that all experiments have are used,
        in the order of the first.
    shared_classes
        Whether a treatment of one name is one class in all experiments; otherwise each experiment has its own classes,
        `<experiment>/<treatment>`. Plates are `<experiment>/<plate>` either way.

    Raises
    ------
    InputError
        If the experiments share no channel, or their crops differ in size.
    """
    first = next(iter(sets.values()))
    channels = tuple(name for name in first.channels if all(name in other.channels for other in sets.values()))
    if not channels:
        raise InputError(f"The experiments {', '.join(sets)} share no channel: name the same stain alike in all.")
    if len({(found.side, found.box, found.diameter) for found in sets.values()}) > 1:
        raise InputError(f"The crops of {', '.join(sets)} differ in size, box or nucleus diameter: pack them alike.")
    parts, tables = [], []
    for name, found in sets.items():
        if found.rows is not None:
            raise InputError(f"{name} is a part of a data set: join whole ones, and choose treatments afterwards.")
        order = [found.channels.index(channel) for channel in channels]
        parts += [Part(part.crops, tuple(part.channels[place] for place in order)) for part in found.parts]
        table = found.index.copy()
        table[EXPERIMENT] = name
        table[PLATE] = name + "/" + table[PLATE].astype(str)
        if not shared_classes:
            table[TREATMENT] = name + "/" + table[TREATMENT].astype(str)
        tables.append(table)
    index = pd.concat(tables, ignore_index=True)
    return CropSet(tuple(parts), index, channels, first.side, first.box, first.diameter)


def choose(data: CropSet, treatments: Sequence[str]) -> CropSet:
    """Leave the crops of all but some treatments out.

    Raises
    ------
    InputError
        If a treatment is not there.
    """
    found = data.index[TREATMENT].astype(str)
    if missing := [name for name in treatments if name not in set(found)]:
        raise InputError(f"There are no crops of the treatment {missing[0]!r}.")
    return subset(data, found.isin(list(treatments)).to_numpy())


def subset(data: CropSet, chosen: NDArray[np.bool_]) -> CropSet:
    """Leave crops out; their pixels stay where they are."""
    rows = np.arange(len(data))[chosen] if data.rows is None else data.rows[chosen]
    return replace(data, index=data.index[chosen].reset_index(drop=True), rows=rows)


def pack_experiment(folder: Path, experiment: Experiment, box: int = 64) -> CropSet:
    """Paint a simulated experiment and pack crops around its true nuclei."""

    def fields() -> Iterable[tuple[NDArray[np.uint8], pd.DataFrame]]:
        for plate, content, site, field in paint(experiment):
            cells, centres = centroids(field.nuclei)
            table = pd.DataFrame(
                {
                    PLATE: plate,
                    WELL: content.well,
                    SITE: site,
                    TREATMENT: content.compound.name,
                    "Metadata_Mechanism": content.compound.mechanism,
                    "ObjectNumber": cells,
                }
            )
            yield cut(list(field.images), centres, box, box), table

    return pack(folder, fields(), CHANNELS, box, 19.0, f"simulated, {experiment}")


def pack_run(
    folder: Path,
    runs: Sequence[Path],
    platemap: Path,
    treatment: str,
    box: int | None = None,
    side: int | None = None,
) -> CropSet:
    """Pack crops around the nuclei that `cellinfer run` found.

    Parameters
    ----------
    folder
        Gets the data set.
    runs
        Result folders with `labels/` and `run.json`, one for each plate; the images are read again from where the run
        read them. Their channels are those of the first.
    platemap
        CSV with a well column, and a plate column if plates differ.
    treatment
        Column of the plate map that is the class. Wells without a value are left out.
    box
        Side of the squares, pixels; None: 4.5 times the median nucleus diameter of the first run, in whole 8 pixels.
    side
        Side of the crops, pixels; None: the box, 128 at most.

    Raises
    ------
    InputError
        If a folder is no result of a run, its plate is gone, or the plate map lacks the column.
    """
    plates = [_Run(run) for run in runs]
    if not plates:
        raise InputError("There is no run to cut cells from: name the folder of one at least.")
    treatments = read_platemap(platemap)
    metadata_column(treatments, treatment)
    diameter = plates[0].nucleus_diameter()
    box = max(8, 8 * round(4.5 * diameter / 8)) if box is None else box
    side = min(box, 128) if side is None else side
    channels = plates[0].channels

    def fields() -> Iterable[tuple[NDArray[np.uint8], pd.DataFrame]]:
        for run in plates:
            if set(channels) - set(run.channels):
                raise InputError(f"{run.folder} has the channels {', '.join(run.channels)}, not {', '.join(channels)}.")
            yield from run.crops(channels, treatments, treatment, box, side)

    return pack(folder, fields(), channels, box, round(diameter, 1), ", ".join(str(run) for run in runs))


class _Run:
    """A finished run, and the plate it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            given = json.loads((folder / "run.json").read_text(encoding="utf-8"))["input"]
            options = dict(given["read_with"] or {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no results of cellinfer run (no valid run.json).") from error
        self.plate: Plate = read_plate(given["folder"], **options)
        self.channels = self.plate.channels

    def nucleus_diameter(self) -> float:
        """Return the median over the nuclei of the first fields."""
        areas = [np.bincount(self._labels(field).ravel())[1:] for field in self.plate.fields[:8]]
        found = np.concatenate(areas)
        if not (found > 0).any():
            raise InputError(f"{self.folder} has no nuclei in its first fields: say the box (--box).")
        return float(np.median(np.sqrt(4 / np.pi * found[found > 0])))

    def crops(
        self, channels: Sequence[str], platemap: pd.DataFrame, treatment: str, box: int, side: int
    ) -> Iterable[tuple[NDArray[np.uint8], pd.DataFrame]]:
        """Yield the crops of each field whose well has a treatment."""
        wells = pd.DataFrame(
            {PLATE: [f.key.plate for f in self.plate.fields], WELL: [f.key.well for f in self.plate.fields]}
        )
        joined = join_platemap(wells, platemap).table
        values = joined[metadata_column(joined, treatment)]
        for field, value in zip(self.plate.fields, values, strict=True):
            if pd.isna(value):
                continue
            ids, centres = centroids(self._labels(field))
            images = [read_channel(field, channel) for channel in channels]
            table = pd.DataFrame(
                {
                    PLATE: field.key.plate,
                    WELL: field.key.well,
                    SITE: field.key.site,
                    TREATMENT: _as_class(value),
                    "ObjectNumber": ids,
                }
            )
            yield cut(images, centres, box, side), table

    def _labels(self, field: Field) -> NDArray[np.int32]:
        return read_labels(self.folder / "labels" / "Nuclei" / f"{field_name(field)}.ome.tiff")


def _as_class(value: object) -> str:
    """Return a treatment as text; a whole number does not gain a decimal point in a column with gaps."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def centroids(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ids of the objects of a label image, ascending, and their centroids (n, 2) as row and column."""
    areas = np.bincount(labels.ravel())
    ids = np.flatnonzero(areas[1:]) + 1
    rows, columns = np.indices(labels.shape, dtype=np.float64)
    sums = [np.bincount(labels.ravel(), place.ravel()) for place in (rows, columns)]
    return ids, np.stack([total[ids] / areas[ids] for total in sums], axis=1)


def cut(images: Sequence[NDArray[Any]], centres: NDArray[np.floating], box: int, side: int) -> NDArray[np.uint8]:
    """Return the squares around some places as 8 bits, by the rule of the deployed model.

    Each crop is stretched by itself, channel by channel, from its darkest to its brightest pixel; one without contrast
    is 0, and so is what lies beyond the border.

    Parameters
    ----------
    images
        Channels, each (H, W).
    centres
        (n, 2) row and column, pixels.
    box, side
        Side of the squares, and of the crops that they are scaled to, pixels.

    Returns
    -------
    numpy.ndarray
        (n, C, side, side).
    """
    planes = [image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32) for image in images]
    stretched = crops(planes, np.asarray(centres, np.float64).reshape(-1, 2), box, side, value_range=(0.0, 255.0))
    return np.asarray(np.rint(stretched), dtype=np.uint8)
