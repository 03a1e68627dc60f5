"""What quality control reads: the fields, wells, objects and embeddings of runs, or CellProfiler's table of images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cellinfer.errors import InputError
from cellinfer.files import sha256_of
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.wells import normalise_well

TIME = "Metadata_Time"
FIELD_KEY, WELL_KEY = [PLATE, WELL, SITE, TIME], [PLATE, WELL, TIME]
STATUS, REASON = "Image_Status", "Image_Reason"
_OBJECTS = ("AreaShape_Area", "AreaShape_Solidity", "Intensity_MeanIntensity_", "Intensity_IntegratedIntensity_")
_ROWS = 65_536
_SYNONYMS = {
    "Image_Intensity_Background_": ("Image_Intensity_LowerQuartileIntensity_", "Image_ImageQuality_MedianIntensity_"),
    "Image_Intensity_MaxIntensity_": ("Image_ImageQuality_MaxIntensity_",),
    "Image_Intensity_MedianIntensity_": ("Image_ImageQuality_MedianIntensity_",),
}
"""What stands in for a column of ours that CellProfiler's table lacks, best first."""


@dataclass(frozen=True)
class QualityTables:
    """Tables to judge; keys are `Metadata_Plate`, `Metadata_Well`, `Metadata_Site` and `Metadata_Time`.

    Attributes
    ----------
    fields
        One row per field: the columns of a run's `Image.parquet`.
    wells
        One row per well: medians of features, as a run's `Well.parquet`; None if there are none.
    nuclei
        One row per nucleus with area, solidity and mean intensities; None leaves debris among objects out.
    embeddings
        One row per well: means of the cells' embeddings; None if there are none.
    runs
        Where each came from, with what is needed to find its images again.
    notes
        What was taken for granted in reading.
    """

    fields: pd.DataFrame
    wells: pd.DataFrame | None = None
    nuclei: pd.DataFrame | None = None
    embeddings: pd.DataFrame | None = None
    runs: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_quality_tables(runs: Sequence[str | os.PathLike[str]]) -> QualityTables:
    """Read what quality control needs from folders of finished runs, or from CellProfiler's `Image.csv`.

    Parameters
    ----------
    runs
        Folders with `Image.parquet` (and `Well.parquet`, `Nuclei.parquet`, `Embedding.parquet`), folders with
        `Image.csv`, or such a table itself.

    Raises
    ------
    InputError
        If one has no table of images, the table names no wells, or two runs have a field in common.
    """
    read = [_read_run(Path(run)) for run in runs]
    if not read:
        raise InputError("quality control needs the folder of a finished run")
    tables = QualityTables(
        pd.concat([one.fields for one in read], ignore_index=True),
        _below([one.wells for one in read]),
        _below([one.nuclei for one in read]),
        _below([one.embeddings for one in read]),
        tuple(run for one in read for run in one.runs),
        tuple(note for one in read for note in one.notes),
    )
    repeated = tables.fields[tables.fields.duplicated(FIELD_KEY)]
    if len(repeated):
        name = " ".join(str(value) for value in repeated.iloc[0][FIELD_KEY[:3]])
        raise InputError(f"the runs have fields in common, such as {name}: give each plate once, or name them apart")
    return tables


def _below(tables: list[pd.DataFrame | None]) -> pd.DataFrame | None:
    """Put tables below each other; one that is missing somewhere is judged where it is."""
    there = [table for table in tables if table is not None]
    return pd.concat(there, ignore_index=True) if there else None


def _read_run(path: Path) -> QualityTables:
    folder, images = _table_of_images(path)
    fields, notes = _with_keys(_read(images), images), []
    if missing := [name for name, others in _SYNONYMS.items() if _stand_in(fields, name, others)]:
        kinds = ", ".join(name.removeprefix("Image_Intensity_").strip("_") for name in missing)
        notes.append(f"{images} has no {kinds}: the nearest that it has stands in for it")
    wells, nuclei, embeddings = (folder / f"{name}.parquet" for name in ("Well", "Nuclei", "Embedding"))
    found = images.suffix == ".parquet"
    if found and not wells.is_file():
        notes.append(f"{folder} has no Well.parquet: profiles of wells are not judged")
    info = {
        "run": str(path),
        "folder": str(folder),
        "sha256": {p.name: sha256_of(p) for p in (images, *([wells] if found and wells.is_file() else []))},
        **_from_run_info(folder),
    }
    return QualityTables(
        fields,
        _with_keys(_read(wells), wells) if found and wells.is_file() else None,
        _read_nuclei(nuclei) if found and nuclei.is_file() else None,
        _mean_embeddings(embeddings) if found and embeddings.is_file() else None,
        (info,),
        tuple(notes),
    )


def _table_of_images(path: Path) -> tuple[Path, Path]:
    """Return the folder of results and its table of images."""
    if path.is_file():
        return path.parent, path
    for name in ("Image.parquet", "Image.csv"):
        if (path / name).is_file():
            return path, path / name
    if not path.is_dir():
        raise InputError(f"there is no folder {path}: give the folder of a finished `cellinfer run`")
    raise InputError(f"{path} has no Image.parquet or Image.csv: give the folder of a finished `cellinfer run`")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors are ValueErrors
        raise InputError(f"{path} cannot be read: {error}") from error


def _with_keys(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Give a table the key columns in one form, and CellProfiler's image columns our names."""
    names = {name: name.removeprefix("Image_") for name in map(str, table) if name.startswith("Image_Metadata_")}
    table = table.rename(columns=names)
    cell_profiler = {
        name: f"Image_{name}" for name in map(str, table) if name.startswith(("ImageQuality_", "Intensity_", "Count_"))
    }
    table = table.rename(columns=cell_profiler)
    if WELL not in table or len(table) == 0:
        raise InputError(f"{path} holds no wells: it needs a column {WELL}, and rows")
    keys = {
        PLATE: table[PLATE].astype(str) if PLATE in table else path.parent.name,
        WELL: table[WELL].astype(str).map({well: normalise_well(well) for well in table[WELL].astype(str).unique()}),
        TIME: table.get(TIME, 1),
    }
    if SITE not in table and path.stem == "Image":
        keys[SITE] = table.groupby(WELL).cumcount() + 1
    return table.assign(**keys)


def _stand_in(fields: pd.DataFrame, name: str, others: tuple[str, ...]) -> bool:
    """Fill a measurement that the table lacks for every channel from the best other one; tell whether it did."""
    if any(column.startswith(name) for column in map(str, fields)):
        return False
    for other in others:
        found = [column for column in map(str, fields) if column.startswith(other)]
        for column in found:
            fields[name + column.removeprefix(other)] = fields[column]
        if found:
            return True
    return False


def _read_nuclei(path: Path) -> pd.DataFrame:
    """Read what tells a nucleus from debris."""
    there = pq.read_schema(path).names
    asked = [n for n in there if n in WELL_KEY or n == SITE or n.startswith(tuple(f"Nuclei_{o}" for o in _OBJECTS))]
    return _with_keys(pd.read_parquet(path, columns=asked), path) if pq.read_metadata(path).num_rows else _none(asked)


def _none(columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object" if name in (PLATE, WELL) else "float64") for name in columns})


def _mean_embeddings(path: Path) -> pd.DataFrame | None:
    """Return the mean embedding of each well, read a few thousand cells at a time."""
    file = pq.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if "_Embedding_" in name]
    keys = [key for key in WELL_KEY if key in file.schema_arrow.names]
    if not names or not {PLATE, WELL} <= set(keys):
        return None
    totals: dict[tuple[Any, ...], Any] = {}
    for batch in file.iter_batches(_ROWS, columns=[*keys, *names]):
        for key, cells in batch.to_pandas().groupby(keys, sort=False):
            values = cells[names].to_numpy(dtype=np.float64)
            values = values[np.isfinite(values).all(axis=1)]
            before = totals.get(key, (np.zeros(len(names)), 0))
            totals[key] = (before[0] + values.sum(axis=0), before[1] + len(values))
    means = [total / count if count else np.full(len(names), np.nan) for total, count in totals.values()]
    table = pd.DataFrame(np.reshape(means, (-1, len(names))), columns=names)
    table[keys] = pd.DataFrame(list(totals), columns=keys)
    return _with_keys(table, path) if len(table) else None


def _from_run_info(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of images, channels and the run's digest; nothing where there is none."""
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {
            "cellinfer": info.get("cellinfer"),
            "digest": info.get("result", {}).get("digest"),
            "images": info["input"]["folder"],
            "read_with": info["input"].get("read_with"),
            "nuclei": info["configuration"].get("nuclei"),
            "z": info["configuration"].get("z", "max"),
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
