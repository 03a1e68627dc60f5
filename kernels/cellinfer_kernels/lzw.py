"""LZW as TIFF has it, and the differences between neighbours that it is often used with.

TIFF 6.0, sections 13 and 14: codes of 9 to 12 bits, most significant bit first, which grow one code early; 256 clears
the table, 257 ends the strip. An encoder may go on with a full table instead of clearing it. What a strip says is
trusted in nothing: no byte is read or written outside of what was handed over, and every strip comes to an end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel

__all__ = ["LzwError", "decode_strips", "is_old_style", "undo_differences"]

_SPARE = 8
"""Bytes are moved eight at a time: so many behind the last one may be touched."""

_U = np.uint64
_ONE, _THREE, _SEVEN, _EIGHT = _U(1), _U(3), _U(7), _U(8)
_CLEAR, _END, _FIRST_FREE, _FULL = _U(256), _U(257), _U(258), _U(4096)
_NARROWEST, _WIDEST = _U(9), _U(12)
_PADDING = _U(16)
"""Fewer bits than this behind the last byte are padding, also where the end code was left out."""

# What a string is, in one word. Up to 7 bytes: these, the first one lowest, and 8 times their number in the top byte.
# More: 64 in the top byte, their number in 16 bits, and where in the output they lie in 40 bits. 0: no string.
_TAG = _U(56)
_LENGTH = _U(40)
_LENGTH_MASK = _U((1 << 16) - 1)
_PLACE_MASK = _U((1 << 40) - 1)
_FULL_WORD = _U(56 << 56)
_BYTE_MORE = _U(8 << 56)
_LONG = _U(64)
_LONG_WORD = _U(64 << 56)
_BYTE_MASK = _U(255)

_WHOLE, _CUT_OFF, _UNKNOWN_CODE, _TOO_LONG = 0, 1, 2, 3


class LzwError(ValueError):
    """A strip is damaged; the message names it and says how."""


def is_old_style(strip: NDArray[np.uint8]) -> bool:
    """Say whether a strip begins with a clear code of the least significant bit first, as before TIFF 5.0.

    Parameters
    ----------
    strip
        Encoded bytes of any number.
    """
    return strip.size > 1 and int(strip[0]) == 0 and int(strip[1]) & 1 == 1


def decode_strips(
    data: NDArray[np.uint8], starts: NDArray[np.int64], counts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Decode strips (or tiles) and put them one behind the other.

    Parameters
    ----------
    data
        Bytes of a file, or a part of them. Eight bytes behind the last strip save a copy of them all.
    starts, counts
        Where in `data` each strip begins, and its number of bytes.
    sizes
        Bytes that each strip holds when decoded.

    Returns
    -------
    ndarray of shape (sum of sizes,), uint8

    Raises
    ------
    LzwError
        If a strip is cut off, holds a code that means nothing there, or holds less or more than its size. Bytes behind
        the end code are ignored. Strips with the least significant bit first (see `is_old_style`) count as damaged.
    ValueError
        If a strip does not lie inside `data`, or the arrays do not fit together.
    """
    data = np.ascontiguousarray(data)
    starts, counts, sizes = (np.ascontiguousarray(column, np.int64) for column in (starts, counts, sizes))
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(f"bytes are needed, got an array of {data.dtype} and shape {data.shape}")
    if not starts.shape == counts.shape == sizes.shape or starts.ndim != 1:
        raise ValueError(f"{starts.shape} starts, {counts.shape} counts and {sizes.shape} sizes are not equally many")
    if starts.size == 0:
        return np.empty(0, np.uint8)
    if min(starts.min(), counts.min(), sizes.min()) < 0 or np.any(counts > data.size - starts):
        raise ValueError(f"strips lie outside of their {data.size} bytes")
    if np.max(starts + counts) + _SPARE > data.size:
        data = np.concatenate([data, np.zeros(_SPARE, np.uint8)])
    total = int(sizes.sum())
    out = np.empty(total + _SPARE, np.uint8)
    strip, status, held = _decode_strips(data, starts, counts, sizes, out)
    if status != _WHOLE:
        reason = {
            _CUT_OFF: f"ends after {held} of its {sizes[strip]} bytes",
            _UNKNOWN_CODE: f"holds a code that means nothing, after {held} of its {sizes[strip]} bytes",
            _TOO_LONG: f"holds more than its {sizes[strip]} bytes",
        }[status]
        raise LzwError(f"LZW strip {strip + 1} of {starts.size} {reason}")
    return out[:total]


@kernel
def _decode_strips(data: Any, starts: Any, counts: Any, sizes: Any, out: Any) -> Any:
    table = np.zeros(4097, np.uint64)  # the last entry takes what is not kept
    for value in range(256):
        table[value] = _BYTE_MORE | _U(value)
    begin = _U(0)
    for strip in range(starts.size):
        end = begin + _U(sizes[strip])
        first_bit = _U(starts[strip]) * _EIGHT
        status, at = _decode(data, first_bit, first_bit + _U(counts[strip]) * _EIGHT, out, begin, end, table)
        if status == _WHOLE and at < end:
            status = _CUT_OFF
        if status != _WHOLE:
            return strip, status, np.int64(at - begin)
        begin = end
    return starts.size, _WHOLE, np.int64(0)


@kernel
def _decode(data: Any, bit: Any, last: Any, out: Any, begin: Any, end: Any, table: Any) -> Any:
    """Decode one strip, `data[bit / 8 : last / 8]` to `out[begin:end]`; return what happened and where it stopped."""
    at = begin
    while True:  # once per clear code
        if bit + _NARROWEST > last:
            return _CUT_OFF if at < end else _WHOLE, at
        code = (_word(data, bit >> _THREE) << (bit & _SEVEN)) >> (_U(64) - _NARROWEST)
        bit += _NARROWEST
        if code == _CLEAR:
            continue
        if code == _END:
            return _WHOLE, at
        if code > _END:
            return _UNKNOWN_CODE, at
        if at == end:
            return _WHOLE if last - bit + _NARROWEST < _PADDING else _TOO_LONG, at
        out[at] = np.uint8(code)
        previous = table[code]
        previous_at = at
        at += _ONE
        free = _FIRST_FREE
        width = _NARROWEST
        cleared = False
        while not cleared:  # once per width of codes
            limit = (_ONE << width) - _ONE if width < _WIDEST else _FULL
            growth = _ONE if free < _FULL else _U(0)
            codes = (last - bit) // width
            if growth:
                codes = min(codes, limit - free)
            if codes == _U(0):
                return _CUT_OFF if at < end else _WHOLE, at
            word = _U(0)
            for turn in range(codes):
                if turn & _THREE == _U(0):  # 57 bits at least, which is four codes of the widest
                    word = _word(data, bit >> _THREE) << (bit & _SEVEN)
                code = word >> (_U(64) - width)
                word <<= width
                bit += width
                if code >= free:
                    if code > free:
                        return _UNKNOWN_CODE, at
                    # The string that this very code makes known: the previous one and its first byte.
                    table[free] = _longer(previous, previous_at, at, _U(out[previous_at]))
                entry = table[code]
                tag = entry >> _TAG
                if tag - _EIGHT < _FULL_WORD >> _TAG:
                    _put(out, at, entry)  # up to 7 bytes of what was put are overwritten by the next string
                    table[free] = _longer(previous, previous_at, at, entry & _BYTE_MASK)
                    length = tag >> _THREE
                elif tag == _LONG:
                    length = (entry >> _LENGTH) & _LENGTH_MASK
                    source = entry & _PLACE_MASK
                    if at + length <= end:
                        for step in range(_U(0), length, _EIGHT):
                            _put(out, at + step, _string(out, source + step))
                        out[at + length - _ONE] = out[at] if code == free else out[source + length - _ONE]
                        table[free] = _longer(previous, previous_at, at, _U(out[at]))
                elif code == _CLEAR:
                    cleared = True
                    break
                else:
                    return _WHOLE, at
                if at + length > end:
                    padding = at == end and last - bit + width < _PADDING
                    return _WHOLE if padding else _TOO_LONG, at
                previous = entry
                previous_at = at
                at += length
                free += growth
            if not cleared and width < _WIDEST and free == limit:
                width += _ONE


@inlined
def _longer(string: Any, place: Any, stop: Any, byte: Any) -> Any:
    """Return a string, which lies at `place` to `stop` of the output, with one byte more."""
    if string < _FULL_WORD:
        return (string + _BYTE_MORE) | (byte << (string >> _TAG))
    return _LONG_WORD | ((stop - place + _ONE) << _LENGTH) | place


# Eight bytes as one word. The compiler makes one instruction of each of these, on any processor.


@inlined
def _word(data: Any, at: Any) -> Any:
    """Read eight bytes, the first one highest."""
    return (
        (_U(data[at]) << _U(56))
        | (_U(data[at + _U(1)]) << _U(48))
        | (_U(data[at + _U(2)]) << _U(40))
        | (_U(data[at + _U(3)]) << _U(32))
        | (_U(data[at + _U(4)]) << _U(24))
        | (_U(data[at + _U(5)]) << _U(16))
        | (_U(data[at + _U(6)]) << _U(8))
        | _U(data[at + _U(7)])
    )


@inlined
def _string(out: Any, at: Any) -> Any:
    """Read eight bytes, the first one lowest."""
    return (
        _U(out[at])
        | (_U(out[at + _U(1)]) << _U(8))
        | (_U(out[at + _U(2)]) << _U(16))
        | (_U(out[at + _U(3)]) << _U(24))
        | (_U(out[at + _U(4)]) << _U(32))
        | (_U(out[at + _U(5)]) << _U(40))
        | (_U(out[at + _U(6)]) << _U(48))
        | (_U(out[at + _U(7)]) << _U(56))
    )


@inlined
def _put(out: Any, at: Any, word: Any) -> Any:
    """Write eight bytes, the lowest one first."""
    out[at] = np.uint8(word)
    out[at + _U(1)] = np.uint8(word >> _U(8))
    out[at + _U(2)] = np.uint8(word >> _U(16))
    out[at + _U(3)] = np.uint8(word >> _U(24))
    out[at + _U(4)] = np.uint8(word >> _U(32))
    out[at + _U(5)] = np.uint8(word >> _U(40))
    out[at + _U(6)] = np.uint8(word >> _U(48))
    out[at + _U(7)] = np.uint8(word >> _U(56))


def undo_differences(rows: NDArray[Any]) -> None:
    """Make values of the differences to the left neighbour (TIFF predictor 2), in place.

    Parameters
    ----------
    rows
        `(R, W)`, contiguous and native, of an unsigned integer type; sums wrap as the type does.

    Raises
    ------
    ValueError
        If the array is of another kind.
    """
    if rows.ndim != 2 or rows.dtype.kind != "u" or not rows.dtype.isnative or not rows.flags.c_contiguous:
        raise ValueError(f"contiguous rows of unsigned integers are needed, got {rows.dtype} of shape {rows.shape}")
    _undo_differences(rows)


@kernel
def _undo_differences(rows: Any) -> None:
    for row in range(rows.shape[0]):
        value = rows.dtype.type(0)
        for column in range(rows.shape[1]):
            value += rows[row, column]
            rows[row, column] = value
