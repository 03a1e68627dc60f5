"""Features of DeepProfiler: a file for each site, `plate/well/site.npz` or `plate/well_site.npz`.

Its files also hold metadata as a pickled object. Unpickling runs what a file says, so it is never done: where a site
is, its path says.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.profiling.sources._columnar import Panel, Part, as_categories, made_of

_PREFIX = "DP_"  # as pycytominer calls features whose model it does not know


def can_read(path: Path) -> bool:
    """Tell whether a folder holds features of sites."""
    return path.is_dir() and bool(_files(path))


def read(path: Path) -> Part:
    """Open the features of a folder."""
    sites = [(_place(path, file), file) for file in _files(path)]
    places = [place for place, _ in sites]
    if len(set(places)) < len(places):
        twin = next(place for place in places if places.count(place) > 1)
        raise InputError(f"{path} has more than one file of plate {twin[0]}, well {twin[1]}, site {twin[2]}.")
    counts: list[int] = []
    width = _features(sites[0][1]).shape[1]
    names = [f"{_PREFIX}{number}" for number in range(width)]

    def tables() -> Iterator[pa.Table]:
        for _, file in sites:
            values = _features(file)
            if values.shape[1] != width:
                raise InputError(f"{file} has {values.shape[1]} features, {sites[0][1]} has {width}.")
            counts.append(len(values))
            yield pa.table(dict(zip(names, np.ascontiguousarray(values.T), strict=True)))

    table = made_of(_gathered(tables()), pa.schema([(name, pa.float32()) for name in names]), path)
    keys = pd.DataFrame(
        np.repeat(np.array(places, dtype=object).reshape(-1, 3), counts, axis=0), columns=[PLATE, WELL, SITE]
    )
    for name in (PLATE, WELL):
        keys[name] = as_categories(keys[name].astype("str"))
    numbers = pd.to_numeric(keys[SITE], errors="coerce")
    keys[SITE] = as_categories(keys[SITE].astype("str")) if numbers.isna().any() else numbers.astype(np.int64)
    keys["ObjectNumber"] = np.concatenate([np.arange(1, count + 1) for count in counts])
    images = pd.DataFrame(places, columns=[PLATE, WELL, SITE])
    images["Image_Count_Cells"] = counts
    note = (
        f"{path}: plate, well and site are taken from the paths of the files, ObjectNumber counts rows; the metadata "
        "in the files is pickled, which is not safe to open, and is left alone."
    )
    return Part(str(path), keys, [Panel(table, {name: name for name in names})], images, [note])


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*/*/*.npz"), *folder.glob("*/*_*.npz")])


def _place(folder: Path, file: Path) -> tuple[str, str, str]:
    plate, *others = file.relative_to(folder).with_suffix("").parts
    well, site = others if len(others) == 2 else others[0].rsplit("_", 1)
    return plate, well, site


def _features(file: Path) -> NDArray[np.float32]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            values = arrays["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read as features of DeepProfiler ({error}).") from error
    if values.ndim != 2 or values.dtype.kind != "f":
        raise InputError(
            f"{file} holds features of shape {values.shape} and type {values.dtype}, not a row for each cell."
        )
    return np.asarray(values, np.float32)


def _gathered(tables: Iterator[pa.Table], rows: int = 20_000) -> Iterator[pa.Table]:
    """Put small tables together, so that a column is not in as many pieces as there are sites."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= rows:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()
