"""AnnData (`.h5ad`): all features of all cells in one matrix, for scanpy, squidpy and their kin.

Written with h5py alone by AnnData's file format 0.1.0 (https://anndata.readthedocs.io, "On-disk format"): the anndata
package holds pandas back, and would want the whole matrix in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cellinfer_kernels.components import compact
from numpy.typing import NDArray

from cellinfer.files import durable
from cellinfer.outputs.exports._options import Options
from cellinfer.outputs.exports._results import ResultField, Results
from cellinfer.pipeline import KEY_COLUMNS

if TYPE_CHECKING:
    import h5py

_NAME = "cells.h5ad"
_VALUES_PER_CHUNK = 1 << 18
_CACHE = 32 << 20
"""Bytes of chunks held until they are full: each is compressed once."""
_TEXT_KEYS = ("Metadata_Plate", "Metadata_Well")
_IDENTITIES = ("_Parent_", "_Number_Object_Number")
"""Columns that say which cell it is, no features."""
_FIELD = "Metadata_Field"
"""Column with the field's name: tells which picture the places of `obsm["spatial"]` are in."""


def planned(results: Results, options: Options) -> tuple[str, ...]:
    """Return the file that will be written."""
    return (_NAME,)


@contextmanager
def writing(results: Results, folder: Path, options: Options) -> Iterator[Callable[[ResultField], None]]:
    """Give the function that adds one field."""
    import h5py

    with durable(folder / _NAME) as partial, h5py.File(partial, "w", rdcc_nbytes=_CACHE) as file:
        matrix = _Matrix(file, results)
        yield matrix.add


class _Matrix:
    """The file while it grows."""

    def __init__(self, file: h5py.File, results: Results) -> None:
        self._features = tuple(
            feature for feature in results.features if not any(part in feature.column for part in _IDENTITIES)
        )
        self._used = 0
        _mark(file, "anndata", "0.1.0")
        cells, width = results.cells, len(self._features)
        self._x = _array(file, "X", (cells, width), np.float32)
        self._obs = _Frame(file, "obs", cells)
        for name in KEY_COLUMNS:
            if name in _TEXT_KEYS:
                place = KEY_COLUMNS.index(name)
                self._obs.categories(name, list(dict.fromkeys(str(head.key[place]) for head in results.fields)))
            else:
                self._obs.numbers(name)
        self._obs.categories(_FIELD, [head.name for head in results.fields])
        self._obs.numbers("ObjectNumber")
        self._obs.close()
        self._spatial = _array(_dictionary(file, "obsm"), "spatial", (cells, 2), np.float64)
        var = _Frame(file, "var", width)
        parts = [feature.column.split("_", 2) for feature in self._features]
        var.categories("compartment", list(dict.fromkeys(part[0] for part in parts)))
        var.categories("category", list(dict.fromkeys(part[1] for part in parts)))
        var.close()
        every = slice(0, width)
        var.put("_index", every, [feature.column for feature in self._features])
        var.put("compartment", every, [part[0] for part in parts])
        var.put("category", every, [part[1] for part in parts])
        for name in ("layers", "obsp", "varm", "varp"):
            _dictionary(file, name)
        _provenance(_dictionary(file, "uns"), results)

    def add(self, field: ResultField) -> None:
        """Add the cells of a field."""
        head, numbers = field.head, field.numbers
        rows = slice(self._used, self._used + len(numbers))
        self._used = rows.stop
        if len(numbers) == 0:
            return
        self._x[rows] = field.values(self._features).astype(np.float32)
        self._spatial[rows] = _centres(field.labels("Cells"))
        self._obs.put("_index", rows, [f"{head.name}_{number}" for number in numbers.tolist()])
        self._obs.put("ObjectNumber", rows, numbers)
        for name, value in zip(KEY_COLUMNS, (*head.key, head.number), strict=True):
            self._obs.put(name, rows, [value] * len(numbers))
        self._obs.put(_FIELD, rows, [head.name] * len(numbers))


class _Frame:
    """A data frame of fixed length: names of rows, then columns."""

    def __init__(self, parent: h5py.Group, name: str, length: int) -> None:
        import h5py

        self._group, self._length = parent.create_group(name), length
        self._columns: dict[str, h5py.Dataset] = {}
        self._codes: dict[str, dict[str, int]] = {}
        self._names: list[str] = []
        _mark(self._group, "dataframe", "0.2.0")
        self._group.attrs["_index"] = "_index"
        self._columns["_index"] = self._group.create_dataset("_index", (length,), h5py.string_dtype())
        _mark(self._columns["_index"], "string-array", "0.2.0")

    def numbers(self, name: str) -> None:
        """Begin a column of whole numbers."""
        self._names.append(name)
        self._columns[name] = _array(self._group, name, (self._length,), np.int64)

    def categories(self, name: str, values: Sequence[str]) -> None:
        """Begin a column of texts out of a few."""
        self._names.append(name)
        group = self._group.create_group(name)
        _mark(group, "categorical", "0.2.0")
        group.attrs["ordered"] = False
        _texts(group, "categories", values)
        self._columns[name] = _array(group, "codes", (self._length,), np.int32)
        self._codes[name] = {value: code for code, value in enumerate(values)}

    def close(self) -> None:
        """Say which columns there are, and in which order."""
        import h5py

        self._group.attrs.create("column-order", self._names, dtype=h5py.string_dtype())

    def put(self, name: str, rows: slice, values: Any) -> None:
        """Fill a part of a column."""
        codes = self._codes.get(name)
        self._columns[name][rows] = values if codes is None else [codes[value] for value in values]


def _array(parent: h5py.Group, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> h5py.Dataset:
    """Make a compressed array that is filled later."""
    width = int(np.prod(shape[1:], dtype=np.int64))
    chunks = None
    if shape[0] and width:
        chunks = (min(shape[0], max(1, _VALUES_PER_CHUNK // width)), *shape[1:])
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if chunks else {}
    made = parent.create_dataset(name, shape, dtype, chunks=chunks, **packed)
    _mark(made, "array", "0.2.0")
    return made


def _texts(parent: h5py.Group, name: str, values: Sequence[str]) -> None:
    import h5py

    _mark(
        parent.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype()), "string-array", "0.2.0"
    )


def _dictionary(parent: h5py.Group, name: str) -> h5py.Group:
    group = parent.create_group(name)
    _mark(group, "dict", "0.1.0")
    return group


def _provenance(uns: h5py.Group, results: Results) -> None:
    """Say what made the matrix; the configuration as JSON, which has no place for empty values here."""
    group = _dictionary(uns, "cellinfer")
    pixel_size = {} if results.pixel_size is None else {"pixel_size_um": str(results.pixel_size)}
    for name, value in (results.provenance | pixel_size | {"spatial": "x, y of the cell's centre, pixels"}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        _mark(group.create_dataset(name, data=text), "string", "0.2.0")


def _mark(node: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = kind, version


def _centres(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return x and y of the centre of each object, pixel centres being whole numbers as in CellProfiler."""
    rows, columns = np.nonzero(labels)
    ranks = compact(labels)[0][rows, columns] - 1
    areas = np.bincount(ranks)
    return np.stack([np.bincount(ranks, weights=places) / areas for places in (columns, rows)], axis=1)
