"""What a Zarr store says of itself (versions 2 and 3): attributes, arrays, and the files that hold a plane.

Plain JSON, read without the zarr package: thousands of images are described in a fraction of a second, and nothing
that a file declares reaches a decoder before it is checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from cellinfer.errors import ImageError
from cellinfer.storage import fetch_ahead, join, open_file

Json = dict[str, Any]

V3 = "zarr.json"
V2_ATTRIBUTES, V2_ARRAY = ".zattrs", ".zarray"
NODE_FILES = frozenset({V3, ".zgroup", V2_ATTRIBUTES, V2_ARRAY})
"""Any of these makes a folder a Zarr group or array."""

_COLLECTION = 3
"""Version of the layout of collections."""
_LONGEST = 32 << 20
"""Bytes of metadata at most: that of a 1536-well plate is a tenth of a megabyte."""
_WORTH_KEEPING = 64 << 10
"""Longer ones are parsed anew each time."""
_MAX_FILES = 100_000
"""Chunks of one plane at most."""
_TYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip


class ArrayInfo(NamedTuple):
    """A Zarr array as its metadata declares it."""

    folder: str
    version: int
    """Zarr format, 2 or 3."""
    shape: tuple[int, ...]
    dtype: str
    """Name of the pixel type, such as `uint16`."""
    chunks: tuple[int, ...]
    """Size of what one file holds: a chunk, or a shard of chunks."""
    metadata: Json
    """As in the file; not to be changed."""

    @property
    def sharded(self) -> bool:
        """Whether a file may be there and yet lack some of its chunks."""
        return any(_name(codec) == "sharding_indexed" for codec in as_list(self.metadata.get("codecs")))


def as_dict(value: object) -> Json:
    """Return a JSON object as it is, and anything else as an empty one: files hold what they like."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return a JSON array as it is, and anything else as an empty one."""
    return value if isinstance(value, list) else []


def load(path: str) -> Json | None:
    """Read a metadata file.

    Returns
    -------
    dict or None
        Shared between callers, not to be changed; None if there is no such file.

    Raises
    ------
    ImageError
        If the file cannot be read, or is no JSON object.
    """
    try:
        with open_file(path) as file:
            raw = file.read(_WORTH_KEEPING + 1)
            if len(raw) > _WORTH_KEEPING:  # asking for more than most have would make room for it each time
                raw += file.read(_LONGEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(f"cannot open {path}: {error.strerror or error}") from error
    try:
        if len(raw) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} bytes")
        content = _parse(raw) if len(raw) <= _WORTH_KEEPING else json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(
            f"{path} is damaged or still being written ({error or type(error).__name__}): copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ImageError(f"{path} is damaged: it holds no JSON object")
    return content


@lru_cache(maxsize=256)  # the images of a plate mostly say the same, byte for byte
def _parse(raw: bytes) -> Any:
    return json.loads(raw)


def fetch_metadata(folders: Iterable[str], old_name: str) -> None:
    """Fetch the metadata of many groups or arrays in a store at once, see `cellinfer.storage.fetch_ahead`.

    Parameters
    ----------
    folders
        Of groups or arrays; local ones are left alone.
    old_name
        The file that is wanted where they are of Zarr 2: `V2_ATTRIBUTES` or `V2_ARRAY`.
    """
    absent = fetch_ahead(join(folder, V3) for folder in folders)
    fetch_ahead(join(path.removesuffix(V3), old_name) for path in absent)


def attributes(folder: str) -> Json | None:
    """Return the OME-NGFF attributes of a Zarr group.

    Returns
    -------
    dict or None
        The content of `.zattrs` (NGFF up to 0.4), or of `ome` in the attributes of `zarr.json` (0.5 on); None if the
        folder is no Zarr group with attributes.

    Raises
    ------
    ImageError
        As `load`.
    """
    node = load(join(folder, V3))
    found = load(join(folder, V2_ATTRIBUTES)) if node is None else as_dict(node.get("attributes"))
    return None if found is None else as_dict(found.get("ome")) or found


def plate(folder: str) -> Json | None:
    """Return the plate that a Zarr group describes, None if it describes none.

    Raises
    ------
    ImageError
        As `load`.
    """
    return as_dict((attributes(folder) or {}).get("plate")) or None


def series(folder: str) -> list[str]:
    """Return the folders of the images in a collection (`bioformats2raw.layout`), in order; none if it is no such.

    Raises
    ------
    ImageError
        As `load`.
    """
    if (attributes(folder) or {}).get("bioformats2raw.layout") != _COLLECTION:
        return []
    listed = as_list((attributes(join(folder, "OME")) or {}).get("series"))
    return [path for path in listed if isinstance(path, str)]


def read_array(folder: str) -> ArrayInfo:
    """Read and check what an array declares.

    Raises
    ------
    ImageError
        If there is no array (a FileNotFoundError is the cause: it may come yet), or its metadata is damaged or not
        supported.
    """
    metadata = load(join(folder, V3))
    version = 3
    if metadata is None:
        metadata, version = load(join(folder, V2_ARRAY)), 2
    if metadata is None:
        raise ImageError(f"cannot open {folder}: it is a folder without a Zarr array") from FileNotFoundError(folder)
    if metadata.get("zarr_format") != version or metadata.get("node_type", "array") != "array":
        raise ImageError(f"cannot open {folder}: it is no Zarr array of version {version}")
    _refuse_pickle(metadata, folder)
    shape = _sizes(metadata.get("shape"), 0)
    chunks = _sizes(metadata.get("chunks") if version == 2 else _chunk_shape(metadata, folder), 1)
    if shape is None or chunks is None or len(shape) != len(chunks) or len(shape) < 2:
        raise ImageError(f"{folder} declares a shape or chunks that no image has")
    return ArrayInfo(folder, version, shape, _dtype(metadata, version, folder), chunks, metadata)


def plane_files(array: ArrayInfo, index: tuple[int, ...]) -> list[str]:
    """Return the paths of the chunks that hold one plane, whether they are there or not.

    Parameters
    ----------
    array
        From `read_array`.
    index
        Place along the leading (non-YX) axes.

    Raises
    ------
    ImageError
        If there is no such plane, or the chunks are named by rules that are not known.
    """
    leading = array.shape[:-2]
    if len(index) != len(leading):
        raise ImageError(f"{array.folder} holds {math.prod(leading)} planes: say which, by {len(leading)} numbers")
    if not all(0 <= place < size for place, size in zip(index, leading, strict=True)):
        raise ImageError(f"{array.folder} has the shape {array.shape}, there is no plane {index}")
    grid = [range(-(-size // chunk)) for size, chunk in zip(array.shape[-2:], array.chunks[-2:], strict=True)]
    if len(grid[0]) * len(grid[1]) > _MAX_FILES:
        raise ImageError(f"{array.folder} declares {len(grid[0]) * len(grid[1])} chunks for one plane")
    start = [str(place // chunk) for place, chunk in zip(index, array.chunks, strict=False)]
    prefix, separator = _key_rule(array)
    keys = (separator.join([*prefix, *start, str(row), str(column)]) for row, column in product(*grid))
    return [join(array.folder, key) for key in keys]


def _key_rule(array: ArrayInfo) -> tuple[list[str], str]:
    """Return what chunk names start with, and what stands between their parts."""
    if array.version == 2:
        prefix, separator = [], array.metadata.get("dimension_separator", ".")
    else:
        encoding = array.metadata.get("chunk_key_encoding")
        rule = _name(encoding)
        separator = as_dict(as_dict(encoding).get("configuration")).get("separator", "." if rule == "v2" else "/")
        if rule not in ("default", "v2"):
            raise ImageError(f"{array.folder} names its chunks by the rule {rule!r}, which is not known")
        prefix = ["c"] if rule == "default" else []
    if separator not in (".", "/"):
        raise ImageError(f"{array.folder} separates the names of its chunks by {separator!r}, which is not known")
    return prefix, separator


def _name(extension: object) -> object:
    """Return the name of a codec or rule, which may be written short."""
    return extension.get("name") if isinstance(extension, dict) else extension


def _chunk_shape(metadata: Json, folder: str) -> object:
    grid = as_dict(metadata.get("chunk_grid"))
    if grid.get("name") != "regular":
        raise ImageError(f"{folder} has chunks in a grid of kind {grid.get('name')!r}, which is not known")
    return as_dict(grid.get("configuration")).get("chunk_shape")


def _sizes(value: object, least: int) -> tuple[int, ...] | None:
    """Return a list of whole numbers; None if it is something else."""
    sizes = tuple(as_list(value))
    return sizes if all(type(size) is int and size >= least for size in sizes) else None


def _dtype(metadata: Json, version: int, folder: str) -> str:
    """Return the name of the pixel type; objects, texts, dates and records are no pixels."""
    text = metadata.get("dtype" if version == 2 else "data_type")
    if version == 3 and isinstance(text, str) and text in _TYPES:
        return text
    if version == 2 and isinstance(text, str):
        try:
            dtype = np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            dtype = np.dtype("O")
        if dtype.name in _TYPES:
            return dtype.name
    raise ImageError(f"{folder} has pixels of type {str(text)[:80]!r}, which is not supported")


def _refuse_pickle(node: object, folder: str) -> None:
    """Refuse codecs that run code from the file."""
    if isinstance(node, dict):
        if any("pickle" in str(node.get(key)).lower() for key in ("id", "name")):
            raise ImageError(f"{folder} is stored as Python pickle, which could run anything and is refused")
        node = [value for key, value in node.items() if key != "attributes"]
    if isinstance(node, list):
        for value in node:
            _refuse_pickle(value, folder)
