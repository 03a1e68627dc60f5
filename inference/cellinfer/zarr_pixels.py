"""Pixels of one plane of a Zarr array; imported only where needed, as the zarr package takes a while to load.

zarr fills what is not there with a constant and says nothing, and Blosc reads on beyond the end of a truncated chunk.
Either would be analysed as if it were an image, so the metadata that zarr gets to see is ours: with a fill value that
we know, and with a Blosc that checks.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.blosc import Blosc
from numcodecs.compat import ensure_bytes
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.registry import register_codec
from zarr.storage import LocalStore, MemoryStore

from cellinfer.errors import ImageError
from cellinfer.zarr_metadata import NODE_FILES, V2_ARRAY, V3, ArrayInfo

_BLOSC_HEADER = 16
_CHECKED_V2, _CHECKED_V3 = "cellinfer_blosc", "cellinfer.blosc"


def read(
    array: ArrayInfo, index: tuple[int, ...], chunks: Mapping[str, bytes | OSError] | None = None
) -> npt.NDArray[Any]:
    """Decode the chunks that hold one plane, and no others.

    Parameters
    ----------
    array
        From `read_array`.
    index
        Place along the leading (non-YX) axes.
    chunks
        Path -> content of the files that hold the plane, or why one could not be read; None reads them from the disk.

    Returns
    -------
    ndarray of shape (height, width)

    Raises
    ------
    OSError
        If a file could not be read.
    ImageError
        If a shard lacks a chunk of the plane (a FileNotFoundError is the cause). What damaged chunks raise is as
        manifold as codecs are, and passes through.
    """
    first, second = _fill_values(array.dtype)
    files = {}
    for path, content in (chunks or {}).items():
        if isinstance(content, OSError):
            raise content
        files[path.removeprefix(array.folder + "/")] = content
    plane = _read(array, index, first, files)
    if array.sharded and (suspect := plane == first).any():
        plane = _read(array, index, second, files)  # a real pixel has its value again, an absent one the other fill
        share = np.mean(suspect & (plane == second))
        if share > 0:
            raise ImageError(
                f"{array.folder} lacks {share:.0%} of plane {index}: it is still being written, or chunks are lost"
            ) from FileNotFoundError(array.folder)
    return plane


def _fill_values(dtype: str) -> tuple[bool | int | float, bool | int | float]:
    """Return two values that are rare in images; one that is not rare costs time, not truth."""
    if dtype == "bool":
        return False, True
    if dtype.startswith("float"):
        return -1984.0, -2984.0  # exact in 16 bits
    largest = int(np.iinfo(dtype).max)
    return largest - 4, largest - 5


def _read(array: ArrayInfo, index: tuple[int, ...], fill: float, files: dict[str, bytes]) -> npt.NDArray[Any]:
    metadata = {**_with_checked_blosc(array.metadata), "fill_value": fill, "attributes": {}}
    name = V3 if array.version == 3 else V2_ARRAY
    if array.version == 2:
        del metadata["attributes"]
    described = {name: json.dumps(metadata).encode()}
    store = _in_memory(files | described) if files else _Store(array.folder, described)
    opened = zarr.open_array(store, mode="r", zarr_format=3 if array.version == 3 else 2)
    if opened.fill_value != fill:  # a store that is read in another way would undo the checks
        raise ImageError(f"{array.folder} cannot be read safely with zarr {zarr.__version__}")
    return np.asarray(opened[index])


def _in_memory(files: dict[str, bytes]) -> MemoryStore:
    buffer = default_buffer_prototype().buffer
    return MemoryStore({name: buffer.from_bytes(content) for name, content in files.items()}, read_only=True)


class _Store(LocalStore):
    """A folder whose metadata files are replaced by others.

    Parameters
    ----------
    root
        Folder of an array.
    files
        Name -> content of metadata files; others are not there.
    """

    def __init__(self, root: Path | str, files: dict[str, bytes]) -> None:
        super().__init__(root, read_only=True)
        self._files = files

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in NODE_FILES:
            return self._file(key, prototype)
        return await super().get(key, prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in NODE_FILES:
            return self._file(key, prototype)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    def _file(self, key: str, prototype: BufferPrototype | None) -> Buffer | None:
        content = self._files.get(key)
        return None if content is None else (prototype or default_buffer_prototype()).buffer.from_bytes(content)


# Blosc


def _with_checked_blosc(node: Any) -> Any:
    """Return metadata with each Blosc, also that inside of shards, replaced by the checked one."""
    if isinstance(node, list):
        return [_with_checked_blosc(value) for value in node]
    if not isinstance(node, dict):
        return node
    if node.get("id") == "blosc":
        return {"id": _CHECKED_V2}
    if node.get("name") in ("blosc", "numcodecs.blosc"):
        return {"name": _CHECKED_V3}
    return {key: value if key == "attributes" else _with_checked_blosc(value) for key, value in node.items()}


def _decode_blosc(chunk: Any) -> Any:
    """Decode a chunk of whose compressed size, as its header says it, all bytes are there."""
    data = ensure_bytes(chunk)
    if len(data) < _BLOSC_HEADER or struct.unpack_from("<I", data, 12)[0] > len(data):
        raise ValueError(f"a chunk is cut off after {len(data)} bytes, or still being written")
    return numcodecs.blosc.decompress(data)


class _CheckedBloscV2(Blosc):  # type: ignore[misc]  # numcodecs has no types
    """For Zarr 2."""

    codec_id = _CHECKED_V2

    def decode(self, buf: Any, out: Any = None) -> Any:
        return numcodecs.compat.ndarray_copy(_decode_blosc(buf), out)


@dataclass(frozen=True)
class _CheckedBloscV3(BytesBytesCodec):
    """For Zarr 3; how a chunk was compressed says its own header."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Any) -> _CheckedBloscV3:
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"name": _CHECKED_V3}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return chunk_spec.prototype.buffer.from_bytes(_decode_blosc(chunk_data.as_numpy_array()))


numcodecs.register_codec(_CheckedBloscV2)
register_codec(_CHECKED_V3, _CheckedBloscV3)
