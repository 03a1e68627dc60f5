"""Plates of simulated fields, and every way in which files are bad that a plate should survive."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from cellinfer.simulate import simulate_field

DISTINCT = 12
"""Fields that are really different; the others are copies, since simulating costs more than analysing."""
_ROWS = "ABCDEFGHIJKLMNOP"
_WELLS = 384


def make_plate(folder: Path, fields: int, side: int, compression: str | None = None) -> Path:
    """Write a 384-well plate of square fields in two channels, as many sites to a well as are needed."""
    folder.mkdir(parents=True)
    sources: list[dict[str, Path]] = []
    for number, name in enumerate(_names(fields)):
        paths = {channel: folder / f"{name}_{channel}.tif" for channel in ("DNA", "GFP")}
        if number < DISTINCT:
            field = simulate_field((side, side), effect=number / DISTINCT, seed=number)
            for path, image in zip(paths.values(), (field.dna, field.reporter), strict=True):
                tifffile.imwrite(path, image, compression=compression)
            sources.append(paths)
        else:
            for channel, path in paths.items():
                shutil.copyfile(sources[number % DISTINCT][channel], path)
    return folder


def _names(fields: int) -> Iterator[str]:
    sites = -(-fields // _WELLS)
    for number in range(fields):
        well, site = divmod(number, sites)
        yield f"{_ROWS[well // 24]}{well % 24 + 1:02d}_s{site + 1}"


class Damage(NamedTuple):
    """One way to spoil a field."""

    name: str
    spoil: Callable[[Path], None]
    """Takes the file of one channel of the field."""
    reason: str
    """What the reason for its failure must say; empty: it must be analysed all the same."""


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8])


def _missing(path: Path) -> None:
    path.unlink()


def _truncated(compression: str | None) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tifffile.imwrite(path, tifffile.imread(path), compression=compression)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])

    return spoil


def _garbled(compression: str) -> Callable[[Path], None]:
    """Overwrite the middle of the compressed data, so that its length stays what the header says."""

    def spoil(path: Path) -> None:
        tifffile.imwrite(path, tifffile.imread(path), compression=compression, rowsperstrip=10**6)
        with tifffile.TiffFile(path) as file:
            (start,), (length,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
        content = bytearray(path.read_bytes())
        noise = np.random.default_rng(0).integers(0, 256, length // 2, dtype=np.uint8).tobytes()
        content[start + length // 4 : start + length // 4 + len(noise)] = noise
        path.write_bytes(content)

    return spoil


def _text(path: Path) -> None:
    path.write_text("the scan was stopped\n")


def _other_size(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((33, 44), np.uint16))


def _colour(path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    tifffile.imwrite(path, colours, photometric="rgb")


def _stack(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint16), photometric="minisblack")


def _huge(path: Path) -> None:
    """Declare a million by a million pixels."""
    content = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", content, 4)
    for entry in range(struct.unpack_from("<H", content, directory)[0]):
        at = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from("<HH", content, at)
        if tag in (256, 257):
            struct.pack_into("<H", content, at + 2, 4)  # a 32-bit number, whatever it was
            struct.pack_into("<I", content, at + 8, 10**6)
        assert kind
    path.write_bytes(content)


def _complex(path: Path) -> None:
    tifffile.imwrite(path, np.zeros(tifffile.imread(path).shape, np.complex64))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere.tif"))


def _as(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tifffile.imwrite(path, change(tifffile.imread(path)))

    return spoil


def _with_nan(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    image = image.astype(np.float32)
    image[10:20, 10:20] = np.nan
    image[30, 30] = np.inf
    return image


DAMAGES = (
    Damage("0 bytes", _empty, "is empty (0 bytes)"),
    Damage("8 bytes of header", _header_only, "no image"),
    Damage("missing", _missing, "has no image of channel"),
    Damage("truncated, uncompressed", _truncated(None), "cut off"),
    Damage("truncated, LZW", _truncated("lzw"), "cut off"),
    Damage("truncated, deflate", _truncated("zlib"), "cut off"),
    Damage("truncated, zstd", _truncated("zstd"), "cut off"),
    Damage("garbled deflate", _garbled("zlib"), "cannot be decoded"),
    Damage("garbled zstd", _garbled("zstd"), "cannot be decoded"),
    Damage("garbled PNG in TIFF", _garbled("png"), "cannot be decoded"),
    Damage("text", _text, "is no image"),
    Damage("another size", _other_size, "differ in size"),
    Damage("colour", _colour, "colour image"),
    Damage("a stack in one file", _stack, "3 planes"),
    Damage("a million by a million pixels", _huge, "more than the limit"),
    Damage("complex numbers", _complex, "complex"),
    Damage("a folder", _folder, "has no image of channel"),
    Damage("a link to nothing", _dangling, "has no image of channel"),
    Damage("NaN and infinity", _as(_with_nan), ""),
    Damage("constant", _as(lambda image: np.full_like(image, 700)), ""),
    Damage("saturated", _as(lambda image: np.full_like(image, 65535)), ""),
    Damage("8 bit", _as(lambda image: (image >> 8).astype(np.uint8)), ""),
    Damage("big-endian", _as(lambda image: image.astype(">u2")), ""),
    Damage("negative numbers", _as(lambda image: image.astype(np.int32) - 1000), ""),
)


def spoil_plate(folder: Path, share: float, seed: int = 0) -> dict[str, Damage]:
    """Spoil a share of a plate's fields, each kind of damage in turn; return what was done to which.

    Returns
    -------
    dict
        Name of a field, such as `A01_s1` -> its damage.
    """
    random = np.random.default_rng(seed)
    names = sorted({path.name.rpartition("_")[0] for path in folder.iterdir()})
    count = max(len(DAMAGES), round(share * len(names)))
    spoilt = {}
    for number, place in enumerate(random.permutation(len(names))[:count]):
        damage = DAMAGES[number % len(DAMAGES)]
        damage.spoil(folder / f"{names[place]}_{random.choice(['DNA', 'GFP'])}.tif")
        spoilt[names[place]] = damage
    return spoilt


if os.name == "nt":  # links need rights that users seldom have
    DAMAGES = tuple(damage for damage in DAMAGES if damage.spoil is not _dangling)
