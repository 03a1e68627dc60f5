"""One small file per field while a run goes on: its tables, their numbers as one block.

A field has hundreds of columns and few rows. As separate columns they would cost more time to write and read than to
measure; as one matrix they cost next to nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from cellinfer.embedding import TABLE
from cellinfer.errors import OutputError
from cellinfer.files import durable
from cellinfer.pipeline import TABLES, FieldResult
from cellinfer.storage import AnyPath, read

_COLUMNS = b"columns"


@dataclass(frozen=True)
class Block:
    """The table of one kind of object of one field.

    Attributes
    ----------
    columns
        Names of all columns, in order.
    numbers
        `(F, n)` float64, of embeddings float32: the columns of floating-point numbers, a row each, in order.
    others
        The columns of other types.
    """

    columns: tuple[str, ...]
    numbers: NDArray[Any]
    others: pa.Table

    @property
    def rows(self) -> int:
        """Number of objects."""
        return int(self.numbers.shape[1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of numbers."""
        others = set(self.others.column_names)
        return tuple(name for name in self.columns if name not in others)

    def replaced(self, column: str, value: int) -> Block:
        """Return the block with one value in all rows of a column of whole numbers."""
        index = self.others.schema.get_field_index(column)
        field = self.others.schema.field(index)
        values = pa.array(np.full(self.rows, value), field.type)
        return Block(self.columns, self.numbers, self.others.set_column(index, field, values))


@dataclass(frozen=True)
class Shard:
    """All tables of one field.

    Attributes
    ----------
    objects
        `"Nuclei"`, `"Cells"`, `"Cytoplasm"`, and where cells were embedded `"Embedding"` -> their table; nothing for a
        field that failed.
    image
        The field's own row.
    """

    objects: dict[str, Block]
    image: dict[str, Any]


def shard_of(result: FieldResult) -> Shard:
    """Return what is kept of a field's result."""
    return Shard({name: _block(table, name) for name, table in result.tables.items()}, result.image)


def _block(table: pd.DataFrame, name: str) -> Block:
    floats = (table.dtypes == (np.float32 if name == TABLE else np.float64)).to_numpy()
    others = table.loc[:, ~floats]
    return Block(
        tuple(map(str, table.columns)),
        np.ascontiguousarray(table.loc[:, floats].to_numpy().T),
        pa.table({str(name): pa.array(others[name], from_pandas=True) for name in others.columns}),
    )


def write_shard(result: FieldResult, path: AnyPath) -> str:
    """Write one field's tables and its own row into one file of Arrow messages; return the file's SHA-256."""
    shard = shard_of(result)
    with durable(path) as partial:
        _write(shard, partial)
        return hashlib.sha256(partial.read_bytes()).hexdigest()


def _write(shard: Shard, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink:
        for block in shard.objects.values():
            schema = block.others.schema.with_metadata({_COLUMNS: json.dumps(block.columns)})
            with pa.ipc.new_stream(sink, schema) as writer:
                writer.write_table(block.others)
            sink.write(bytes(-sink.tell() % 64))
            pa.ipc.write_tensor(pa.Tensor.from_numpy(block.numbers), sink)
        image = pa.table({"image": [json.dumps(shard.image, default=_plain)]})
        with pa.ipc.new_stream(sink, image.schema) as writer:
            writer.write_table(image)


def read_shard(path: AnyPath, digest: str) -> Shard:
    """Read what `write_shard` wrote.

    Parameters
    ----------
    path
        Of the file.
    digest
        Its SHA-256; of a local file it was checked when the run began.

    Raises
    ------
    OutputError
        If a file in a store is not there, or another one.
    """
    objects = {}
    with _source(path, digest) as source:
        for name in TABLES:
            others = pa.ipc.open_stream(source).read_all()
            if _COLUMNS not in (others.schema.metadata or {}):
                break  # no embeddings: it is the field's own row
            columns = tuple(json.loads(others.schema.metadata[_COLUMNS]))
            source.seek(source.tell() + -source.tell() % 64)
            numbers = pa.ipc.read_tensor(source).to_numpy()
            objects[name] = Block(columns, numbers, others.replace_schema_metadata(None))
        else:
            others = pa.ipc.open_stream(source).read_all()
        (image,) = others["image"].to_pylist()
    return Shard(objects, json.loads(image))


def _source(path: AnyPath, digest: str) -> pa.NativeFile:
    if isinstance(path, Path):
        return pa.OSFile(str(path), "rb")
    try:
        content = read(path.url)
    except OSError as error:
        raise OutputError(f"{path} could not be read: {error.strerror}. Run the same command again.") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise OutputError(f"{path} is not what this run wrote: delete it and run the same command again.")
    return pa.BufferReader(content)


def _plain(value: object) -> object:
    """Return a NumPy scalar as the Python number that JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a field's own row holds {type(value).__name__}")
