"""Text metadata inside image files, read without decoding a pixel."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from cellinfer.storage import open_file

_IMAGE_DESCRIPTION = 270
_LONGEST = 64 << 20
"""Bytes of description at most: the largest real OME-XML is a few MB."""

MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
}  # fmt: skip
"""Unit -> its length in micrometres (both letters mu)."""

PLATE_TYPE = re.compile(r"[0-9]+[ _-]?wells?([ _-]plate)?", re.IGNORECASE)
"""Some writers put what kind of plate it is where its name belongs."""


def description(path: str, tag: int = _IMAGE_DESCRIPTION) -> str:
    """Return the first ImageDescription of a TIFF file, or another text of its first page.

    Written for thousands of files: reads the header and one directory only, ten times faster than a full parse.

    Returns
    -------
    str
        Empty if the file is no TIFF, is broken, or describes nothing; decoding the pixels will tell which.
    """
    try:
        with open_file(path, parts=True) as file:
            return _description(file, tag).rstrip(b"\0").decode("utf-8", errors="replace")
    except (OSError, struct.error, OverflowError, ValueError):  # the last two: offsets beyond any file
        return ""


def _description(file: BinaryIO, wanted: int) -> bytes:
    """Walk the first directory of a classic or big TIFF to a text."""
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None:
        return b""
    (version,) = struct.unpack_from(order + "H", header, 2)
    if version not in (42, 43):
        return b""
    big = version == 43
    count_format, entry_format, at = (order + "Q", order + "HHQ8s", 8) if big else (order + "H", order + "HHI4s", 4)
    word = order + ("Q" if big else "I")
    file.seek(struct.unpack_from(word, header, at)[0])
    (count,) = struct.unpack(count_format, file.read(struct.calcsize(count_format)))
    size = struct.calcsize(entry_format)
    directory = file.read(min(count, 4096) * size)
    for tag, _, length, value in struct.iter_unpack(entry_format, directory[: len(directory) // size * size]):
        if tag != wanted:
            continue
        if length <= len(value):
            return bytes(value[:length])
        file.seek(struct.unpack(word, value)[0])
        return file.read(min(length, _LONGEST))
    return b""


def parse_xml(text: str) -> Element | None:
    """Parse XML from a file; None if it is not well formed, or holds entities (which can blow up memory)."""
    try:
        root: Element = fromstring(text.encode("utf-8"))
    except (
        ParseError,
        DefusedXmlException,
        ValueError,
        LookupError,
    ):  # the last: an encoding that Python does not have
        return None
    return root


def local_name(element: Element) -> str:
    """Return an element's name without its namespace: namespaces change with each version of a schema."""
    return str(element.tag).rpartition("}")[2]


def children(element: Element, name: str) -> list[Element]:
    """Return the direct children of that name, in any namespace."""
    return [child for child in element if local_name(child) == name]


def to_micrometres(value: str | None, unit: str | None) -> float | None:
    """Read a length; None if it is no positive number or its unit is no length."""
    try:
        length = float(value or "") * MICROMETRES[(unit or "µm").strip()]
    except (ValueError, KeyError):
        return None
    return length if 0 < length < float("inf") else None


def pixel_size(text: str) -> float | None:
    """Find the width of a pixel in micrometres in a description by OME or MetaMorph."""
    if not text.lstrip().startswith("<"):
        return None
    root = parse_xml(text)
    if root is None:
        return None
    if local_name(root) == "OME":
        pixels = next((e for e in root.iter() if local_name(e) == "Pixels"), None)
        return None if pixels is None else to_micrometres(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit"))
    if local_name(root) == "MetaData":
        found = {prop.get("id"): prop.get("value") for prop in root.iter("prop")}
        if found.get("spatial-calibration-state") == "on":
            return to_micrometres(found.get("spatial-calibration-x"), found.get("spatial-calibration-units"))
    return None
