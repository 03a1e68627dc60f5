"""LZW of TIFF, code by code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.lzw import LzwError


def is_old_style(strip: NDArray[np.uint8]) -> bool:
    """Say whether the first nine bits, least significant first, are a clear code."""
    return bytes(strip[:1]) == b"\0" and np.unpackbits(strip[1:2], bitorder="little")[:1].tolist() == [1]


def decode_strips(
    data: NDArray[np.uint8], starts: NDArray[np.int64], counts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Decode each strip with a dictionary of byte strings."""
    strips = [
        _decode(bytes(data[start : start + count]), int(size))
        for start, count, size in zip(starts, counts, sizes, strict=True)
    ]
    return np.frombuffer(b"".join(strips), np.uint8)


def _decode(strip: bytes, size: int) -> bytes:
    bits = "".join(f"{byte:08b}" for byte in strip)
    place, width = 0, 9
    strings: list[bytes] = []
    out, previous = b"", b""
    while place + width <= len(bits):
        code = int(bits[place : place + width], 2)
        place += width
        if code == 257:
            break
        if code == 256:
            strings = [bytes([value]) for value in range(256)] + [b"", b""]
            previous, width = b"", 9
            continue
        strings = strings or [bytes([value]) for value in range(256)] + [b"", b""]
        known = code < len(strings)
        if not known and (code > len(strings) or not previous or len(strings) == 4096):
            raise LzwError("a code that means nothing")
        string = strings[code] if known else previous + previous[:1]
        if len(out) + len(string) > size:
            if len(out) == size and len(bits) - place + width < 16:
                break  # padding, with no end code before it
            raise LzwError("more than its bytes")
        if previous and len(strings) < 4096:
            strings.append(previous + string[:1])
        out, previous = out + string, string
        width = min(12, (len(strings) + 1).bit_length())
    if len(out) < size:
        raise LzwError("less than its bytes")
    return out


def undo_differences(rows: NDArray[Any]) -> None:
    """Sum up each row, wrapping as the type does."""
    np.cumsum(rows, axis=1, dtype=rows.dtype, out=rows)
