"""LZW: what was encoded comes back, what is damaged does not, and nothing outside is read or written."""

from __future__ import annotations

import io
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from cellinfer_kernels import lzw
from cellinfer_kernels.lzw import LzwError
from cellinfer_kernels.reference import lzw as plain
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

CLEAR, END = 256, 257
Bytes = NDArray[np.uint8]


def pack(codes: list[int], *, grow: bool = True) -> bytes:
    """Write codes as TIFF does, with widths that grow as a decoder's table grows."""
    bits, width, free = "", 9, 258
    for place, code in enumerate(codes):
        bits += f"{code:0{width}b}"
        if code == CLEAR:
            width, free = 9, 258
        elif grow and place and codes[place - 1] != CLEAR and free < 4096:
            free += 1
            width = min(12, (free + 1).bit_length())
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def encode(data: bytes, *, clear_at: int = 4094, end: bool = True) -> bytes:
    """Encode; `clear_at` is the table's size at which it is cleared, 5000 for never."""
    codes = [CLEAR]
    strings = {bytes([value]): value for value in range(256)}
    free, word = 258, b""
    for value in data:
        longer = word + bytes([value])
        if longer in strings:
            word = longer
            continue
        codes.append(strings[word])
        if free < 4096:
            strings[longer] = free
            free += 1
        if free == clear_at:
            codes.append(CLEAR)
            strings = {bytes([value]): value for value in range(256)}
            free = 258
        word = bytes([value])
    return pack([*codes, *([strings[word]] if word else []), *([END] if end else [])])


def decode(strip: bytes, size: int, module: Any = lzw) -> bytes:
    return bytes(module.decode_strips(np.frombuffer(strip, np.uint8), *columns([0], [len(strip)], [size])))


def columns(*lists: list[int]) -> list[NDArray[np.int64]]:
    return [np.array(values, np.int64) for values in lists]


def outcome(strip: bytes, size: int, module: Any) -> bytes | None:
    try:
        return decode(strip, size, module)
    except LzwError:
        return None


def samples(kind: str, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return pictures of many kinds of bytes."""
    noise = rng.random((70, 90))
    return {
        "noise": rng.integers(0, 2**16, (70, 90)),
        "camera": 300 + rng.poisson(400, (70, 90)),
        "smooth": cv2.GaussianBlur(noise, (0, 0), 5) * 60_000,
        "flat": np.full((70, 90), 1000),
        "labels": np.kron(rng.integers(0, 9, (7, 9)), np.ones((10, 10))),
        "few values": rng.integers(0, 2, (70, 90)) * 257,
    }[kind].astype(np.uint16)


KINDS = ("noise", "camera", "smooth", "flat", "labels", "few values")


# what comes out


@given(st.binary(max_size=3000), st.sampled_from([4093, 4094, 4095, 4096, 5000, 300, 511, 512]), st.booleans())
@settings(deadline=None)
def test_what_was_encoded_comes_back(data: bytes, clear_at: int, end: bool) -> None:
    strip = encode(data, clear_at=clear_at, end=end)
    assert decode(strip, len(data)) == data
    if data:
        assert decode(imagecodecs.lzw_encode(data), len(data)) == data


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 400)), max_size=40))
@settings(deadline=None)
def test_long_runs_come_back(runs: list[tuple[int, int]]) -> None:
    data = b"".join(bytes([value]) * length for value, length in runs)
    for encoded in (encode(data), imagecodecs.lzw_encode(data) if data else encode(data)):
        assert decode(encoded, len(data)) == data
    assert decode(encode(data), len(data), plain) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clear_at", [4094, 4096, 5000, 700])
def test_every_kind_of_picture_comes_back(kind: str, clear_at: int) -> None:
    data = samples(kind, np.random.default_rng(2)).tobytes()
    strip = encode(data, clear_at=clear_at)
    assert decode(strip, len(data)) == data
    if clear_at < 5000:  # imagecodecs wants its clear code
        assert imagecodecs.lzw_decode(strip, out=len(data)) == data
    if kind != "noise":
        assert decode(strip, len(data), plain) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", ["tifffile", "libtiff"])
@pytest.mark.parametrize("rows", [1, 9, 70])
def test_strips_of_other_writers(kind: str, writer: str, rows: int) -> None:
    image = samples(kind, np.random.default_rng(3))
    if writer == "tifffile":
        stream = io.BytesIO()
        tifffile.imwrite(stream, image, compression="lzw", rowsperstrip=rows, metadata=None)
        file = stream.getvalue()
    else:
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 1, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows]
        file = cv2.imencode(".tif", image, options)[1].tobytes()
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        page = tiff.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
        sizes = [min(page.rowsperstrip, 70 - top) * 180 for top in range(0, 70, page.rowsperstrip)]
    where = columns(list(offsets), list(counts), sizes)
    decoded = lzw.decode_strips(np.frombuffer(file, np.uint8), *where)
    np.testing.assert_array_equal(decoded.view(np.uint16).reshape(image.shape), image)


def test_strings_that_the_code_itself_makes_known() -> None:
    for data in (
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 40,
        b"abababababababab" * 30,
        b"abcdefgabcdefgabcdefgabcdefg" * 30,
    ):
        assert decode(encode(data), len(data)) == data


def test_nothing_is_something() -> None:
    assert decode(pack([CLEAR, END]), 0) == b""
    assert decode(b"", 0) == b""
    assert lzw.decode_strips(np.empty(0, np.uint8), *columns([], [], [])).size == 0
    assert decode(pack([CLEAR, CLEAR, CLEAR, 65, CLEAR, 66, END]), 2) == b"AB"
    assert decode(pack([65, 66, END]), 2) == b"AB"  # some begin with no clear code


def test_bytes_behind_the_end_and_padding_are_no_damage() -> None:
    data = bytes(range(200)) * 3
    assert decode(encode(data) + b"\0\xff garbage", len(data)) == data
    for padding in (b"", b"\0"):
        assert decode(encode(data, end=False) + padding, len(data)) == data


def test_the_old_style_is_known_by_its_first_code() -> None:
    old = np.frombuffer((256).to_bytes(2, "little"), np.uint8)
    for module in (lzw, plain):
        assert module.is_old_style(old)
        assert not module.is_old_style(np.frombuffer(encode(b"abc"), np.uint8))
        assert not module.is_old_style(old[:1])


# damage


def test_how_a_strip_is_damaged_is_said() -> None:
    data = bytes(range(250)) * 20
    strip = encode(data)
    with pytest.raises(LzwError, match=r"LZW strip 1 of 1 ends after \d+ of its 5000 bytes"):
        decode(strip[:-40], len(data))
    with pytest.raises(LzwError, match="ends after 5000 of its 5001 bytes"):
        decode(strip, len(data) + 1)
    with pytest.raises(LzwError, match="holds more than its 4999 bytes"):
        decode(strip, len(data) - 1)
    with pytest.raises(LzwError, match="holds a code that means nothing, after 2 of its 9 bytes"):
        decode(pack([CLEAR, 65, 66, 300, END]), 9)
    with pytest.raises(LzwError, match="holds a code that means nothing, after 0 of its 9 bytes"):
        decode(pack([CLEAR, 258, END]), 9)
    two = np.frombuffer(strip + strip[:50], np.uint8)
    with pytest.raises(LzwError, match="LZW strip 2 of 2 ends"):
        lzw.decode_strips(two, *columns([0, len(strip)], [len(strip), 50], [5000, 5000]))


def test_every_cut_is_noticed() -> None:
    data = samples("camera", np.random.default_rng(4)).tobytes()[:3000]
    strip = encode(data)
    for length in range(len(strip) - 3):
        with pytest.raises(LzwError, match="ends after"):
            decode(strip[:length], len(data))


def test_many_flipped_bits_are_noticed_and_none_changes_the_length() -> None:
    rng = np.random.default_rng(5)
    data = samples("camera", rng).tobytes()
    strip = imagecodecs.lzw_encode(data)
    noticed = 0
    for place in rng.integers(0, 8 * len(strip), 400):
        damaged = bytearray(strip)
        damaged[place // 8] ^= 1 << (place % 8)
        found = outcome(bytes(damaged), len(data), lzw)
        assert found is None or len(found) == len(data)
        noticed += found is None
    assert noticed > 150  # not noticed: a code that stands for another string of the same length


@given(st.binary(max_size=400), st.integers(0, 900))
@settings(deadline=None, max_examples=300)
def test_random_bytes_mean_the_same_to_kernel_and_twin(strip: bytes, size: int) -> None:
    for garbage in (strip, b"\x80" + strip):  # with a clear code, or at least the first bits of one
        assert outcome(garbage, size, lzw) == outcome(garbage, size, plain)


@given(st.integers(0, 2**32), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=60)
def test_damaged_strips_mean_the_same_to_kernel_and_twin(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    data = samples(kind, rng).tobytes()[:2500]
    strip = bytearray(encode(data, clear_at=int(rng.choice([400, 4094, 5000]))))
    for place in rng.integers(0, len(strip), rng.integers(1, 4)):
        strip[place] = rng.integers(256)
    assert outcome(bytes(strip), len(data), lzw) == outcome(bytes(strip), len(data), plain)


def test_nothing_outside_of_a_strip_is_written() -> None:
    rng = np.random.default_rng(6)
    table = np.zeros(4097, np.uint64)
    table[:256] = (8 << 56) | np.arange(256, dtype=np.uint64)
    begin, size, spare = 100, 500, lzw._SPARE
    for _ in range(300):
        data = rng.integers(0, 256, 700).astype(np.uint8)
        data[0] = 128
        out = np.full(begin + size + 200, 170, np.uint8)
        bounds = [np.uint64(value) for value in (0, 8 * (data.size - spare))]
        _, at = lzw._decode(data, *bounds, out, np.uint64(begin), np.uint64(begin + size), table.copy())
        assert begin <= at <= begin + size
        assert np.all(out[:begin] == 170) and np.all(out[begin + size + spare :] == 170)


@pytest.mark.parametrize(
    ("starts", "counts", "sizes"),
    [([-1], [2], [2]), ([0], [-1], [2]), ([0], [2], [-2]), ([9], [2], [1]), ([0], [11], [1]), ([2**62], [2**62], [1])],
)
def test_strips_outside_of_the_data_are_refused(starts: Any, counts: Any, sizes: Any) -> None:
    with pytest.raises(ValueError, match="outside"):
        lzw.decode_strips(np.zeros(10, np.uint8), *columns(starts, counts, sizes))


def test_arrays_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="bytes are needed"):
        lzw.decode_strips(np.zeros(10, np.uint16), *columns([0], [1], [1]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not equally many"):
        lzw.decode_strips(np.zeros(10, np.uint8), *columns([0, 1], [1], [1]))
    for rows in (
        np.zeros(5, np.uint8),
        np.zeros((2, 2), np.int16),
        np.zeros((2, 2), ">u2"),
        np.zeros((4, 4), "u1").T[:2],
    ):
        with pytest.raises(ValueError, match="contiguous rows"):
            lzw.undo_differences(rows)


# differences


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1), (7, 9), (64, 130)])
def test_differences_are_undone(dtype: Any, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    stored = np.diff(image, axis=1, prepend=np.zeros((shape[0], 1), dtype)) if shape[1] else image
    rows, twin = stored.copy(), stored.copy()
    lzw.undo_differences(rows)
    plain.undo_differences(twin)
    np.testing.assert_array_equal(rows, image)
    np.testing.assert_array_equal(twin, image)
    if image.size and dtype != np.uint64:
        np.testing.assert_array_equal(imagecodecs.delta_decode(stored, axis=-1), image)
