"""OME-TIFF: channels, z, time and (if there) plate, well and field from the OME-XML inside the files."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree.ElementTree import Element

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef
from cellinfer.readers._metadata import children, description, local_name, parse_xml, to_micrometres
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.readers.pattern import NameParts, name_parts, plate_names, recognise, unmatched_note
from cellinfer.wells import well_name

_TIFF = (".tif", ".tiff")
_MAX_PLANES = 1_000_000
"""Planes that one image may declare; more is a broken or hostile file."""


class _Spot(NamedTuple):
    """Where a plane was taken; channel, z and time only as far as the file's name says them."""

    plate: str
    well: str
    site: int
    channel: str | None = None
    z: int | None = None
    time: int = 1


class _Block(NamedTuple):
    """One plane of an image: its indices, and where its pixels are."""

    c: int
    z: int
    t: int
    filename: str | None
    page: int


class OmeTiffReader:
    """Reads folders of OME-TIFF files.

    Wells come from the Plate elements of the OME-XML, or from the file names where there are none.

    Parameters
    ----------
    pattern
        Regular expression for file names, as in `NamePattern`; None recognises the built-in ones.
    """

    name = "ome-tiff"

    def __init__(self, pattern: str | None = None) -> None:
        self._pattern = pattern

    def can_read(self, listing: Listing) -> float | None:
        """Return 0.9 if the first image has OME-XML that says more than its name does, 0.4 if it says no more."""
        first = next((path for path in listing.images if path.lower().endswith(_TIFF)), None)
        root = None if first is None else _ome_root(description(listing.absolute(first)))
        if first is None or root is None:
            return None
        images = children(root, "Image")
        planes = sum(_size(pixels, axis) for image in images for pixels in children(image, "Pixels") for axis in "CZT")
        plain = len(images) == 1 and planes == len("CZT") and not children(root, "Plate")
        named = self._pattern is not None or (
            (known := recognise(listing.images)) is not None
            and first in known[1]
            and known[1][first].channel is not None
        )
        return 0.4 if plain and named else 0.9

    def read(self, listing: Listing) -> Found:
        """Return the planes of every OME-TIFF below the folder."""
        collected = _Collector(listing, self._pattern)
        for path in listing.images:
            if path.lower().endswith(_TIFF) and path not in collected.used:
                collected.add_file(path)
        if not collected.planes:
            raise InputError(f"no OME-TIFF with planes in {listing.root}: choose another layout")
        unused = tuple(path for path in listing.images if path not in collected.used)
        return Found(
            layout=self.name,
            planes=collected.planes,
            expected=tuple(collected.expected),
            ignored=unused,
            pixel_size=collected.pixel_size,
            notes=unmatched_note(unused),
        )


@dataclass
class _Collector:
    """Gathers planes document by document; a document may describe many files, and many files may repeat it."""

    listing: Listing
    pattern: str | None
    planes: list[Plane] = field(default_factory=list)
    expected: list[tuple[FieldKey, str]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    pixel_size: float | None = None
    _listed: frozenset[str] = frozenset()
    _companions: set[str] = field(default_factory=set)
    _names: dict[str, NameParts] | None = None
    _plates: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listed = frozenset(self.listing.images)

    def add_file(self, path: str) -> None:
        """Add all planes that the OME-XML in a file, or in the companion that it names, describes."""
        root = _ome_root(description(self.listing.absolute(path)))
        if root is None:
            return
        source = path
        if binary_only := children(root, "BinaryOnly"):
            source = posixpath.join(posixpath.dirname(path), binary_only[0].get("MetadataFile") or "")
            if source in self._companions:
                return
            self._companions.add(source)
            root = self._companion(path, source)
        spots = _spots(root, self.listing.name)
        images = children(root, "Image")
        for number, image in enumerate(images, start=1):
            for pixels in children(image, "Pixels"):
                self._add_image(pixels, source, spots.get(image.get("ID", "")), number if len(images) > 1 else None)

    def _companion(self, path: str, source: str) -> Element:
        """Parse a companion file; only files inside the plate's folder are opened."""
        root = None
        if source in self.listing.ignored:
            with open(self.listing.absolute(source), encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                root = _ome_root(file.read())
        if root is None:
            raise InputError(f"{path} keeps its metadata in {source!r}, which is not there or is no OME-XML")
        return root

    def _add_image(self, pixels: Element, source: str, spot: _Spot | None, number: int | None) -> None:
        """Add the planes of one image; `number` counts the images of a document that has several."""
        if self.pixel_size is None:
            self.pixel_size = to_micrometres(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit"))
        names = _channel_names(pixels)
        blocks = _blocks(pixels, source)
        one_file = len({block.filename for block in blocks}) == 1
        for c, z, t, filename, page in blocks:
            path = self._file(source, filename, one_file=one_file)
            place = spot or self._spot_by_name(path or source, number)
            key = FieldKey(place.plate, place.well, place.site, t + 1 if _size(pixels, "T") > 1 else place.time)
            channel = place.channel if place.channel and len(names) == 1 else names[c]
            self.expected.append((key, channel))
            if path is not None:
                self.used.add(path)
                depth = z + 1 if _size(pixels, "Z") > 1 else place.z
                self.planes.append(Plane(key, channel, depth, ImageRef(self.listing.absolute(path), (page,))))

    def _file(self, source: str, filename: str | None, *, one_file: bool) -> str | None:
        """Find the listed file that holds a plane; None if it is not there.

        A file that holds its whole image may have been renamed since: its document still names the old file.
        """
        path = source if filename is None else posixpath.join(posixpath.dirname(source), filename)
        if path in self._listed:
            return path
        return source if one_file and source in self._listed else None

    def _spot_by_name(self, path: str, number: int | None) -> _Spot:
        """Read a file's name, for documents without Plate elements."""
        if self._names is None:
            _, self._names = name_parts(self.listing, self.pattern)
            self._plates = plate_names(self._names, self.listing.name)
        parts = self._names.get(path)
        if parts is None:
            raise InputError(f"{path}: neither its OME-XML nor its name says the well; name the wells with --pattern")
        return _Spot(self._plates[path], parts.well, number or parts.site, parts.channel, parts.z, parts.time)


def _ome_root(text: str) -> Element | None:
    """Parse OME-XML; None if the text is something else."""
    if "<OME" not in text[:4096] and ":OME" not in text[:4096]:
        return None
    root = parse_xml(text)
    return root if root is not None and local_name(root) == "OME" else None


def _size(pixels: Element, axis: str) -> int:
    """Return the declared size along C, Z or T."""
    text = pixels.get(f"Size{axis}", "1")
    return int(text) if text.isdecimal() and text != "0" else 1


def _count(element: Element, name: str) -> int | None:
    text = element.get(name)
    return int(text) if text is not None and text.isdecimal() else None


def _channel_names(pixels: Element) -> list[str]:
    """Name each channel: as the file does, by number where it does not, by both where two have one name."""
    names = [channel.get("Name") or "" for channel in children(pixels, "Channel")]
    names += [""] * (_size(pixels, "C") - len(names))
    numbered = [name or str(number) for number, name in enumerate(names, start=1)]
    return [f"{name}-{number}" if numbered.count(name) > 1 else name for number, name in enumerate(numbered, start=1)]


def _blocks(pixels: Element, source: str) -> list[_Block]:
    """List the planes of one image in the way of the OME data model: each TiffData is a run of planes.

    Source: the OME-TIFF specification 6.0, section "The TiffData element".
    """
    order = pixels.get("DimensionOrder", "XYZCT")[2:]
    sizes = {axis: _size(pixels, axis) for axis in "CZT"}
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    if sorted(order) != sorted("CZT") or total > _MAX_PLANES:
        raise InputError(f"{source}: its OME-XML declares {total} planes in the order {order!r}, which is not possible")
    blocks: list[_Block] = []
    for data in children(pixels, "TiffData"):
        page, count = _count(data, "IFD"), _count(data, "PlaneCount")
        if count is None:
            count = total if page is None else 1
        start = _flat({axis: _count(data, f"First{axis}") or 0 for axis in "CZT"}, order, sizes)
        names = [uuid.get("FileName") for uuid in children(data, "UUID")]
        for step in range(min(count, total - start)):
            place = _unflat(start + step, order, sizes)
            blocks.append(_Block(place["C"], place["Z"], place["T"], names[0] if names else None, (page or 0) + step))
    return blocks


def _flat(place: dict[str, int], order: str, sizes: dict[str, int]) -> int:
    """Return the number of a plane in an image, the first axis of `order` running fastest."""
    a, b, c = tuple(order)
    return place[a] + sizes[a] * (place[b] + sizes[b] * place[c])


def _unflat(number: int, order: str, sizes: dict[str, int]) -> dict[str, int]:
    """Undo `_flat`."""
    a, b, c = tuple(order)
    rest, first = divmod(number, sizes[a])
    third, second = divmod(rest, sizes[b])
    return {a: first, b: second, c: third}


def _spots(root: Element, default_plate: str) -> dict[str, _Spot]:
    """Map the ID of each image to its place, from the Plate elements; sites count from 1 within their well."""
    spots: dict[str, _Spot] = {}
    for plate in children(root, "Plate"):
        name = plate.get("Name") or plate.get("ExternalIdentifier") or default_plate
        for well in children(plate, "Well"):
            place = well_name((_count(well, "Row") or 0) + 1, (_count(well, "Column") or 0) + 1)
            for site, sample in enumerate(children(well, "WellSample"), start=1):
                for image in children(sample, "ImageRef"):
                    spots[image.get("ID", "")] = _Spot(name, place, site)
    return spots
