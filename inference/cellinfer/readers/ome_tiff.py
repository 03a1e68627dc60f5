"""OME-TIFF: channels, z, time and (if there) plate, well and field from the OME-XML inside the files."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree.ElementTree import Element

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import (
    PLATE_TYPE,
    children,
    description,
    local_name,
    parse_xml,
    to_micrometres,
)
from cellinfer.readers._positions import wells_of
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing
from cellinfer.readers.pattern import NameParts, NamePattern, name_parts, plate_names, recognise, unmatched_note
from cellinfer.storage import AT_ONCE, ahead, is_remote, open_text
from cellinfer.wells import well_name

_TIFF = (".tif", ".tiff")
_COMPANION = (".companion.ome", ".ome.xml")
_WELLS = '"selected_wells"'
"""What the plan of an acquisition calls its wells."""
_FILE_NAME = re.compile(r'FileName="([^"]*)"')
_LONGEST = 256 << 20
"""Bytes of a companion file at most."""
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
        """Return 0.9 if the first image has OME-XML that says more than its name does, 0.4 if it says no more.

        Also 0.9 if OME-XML lies in a companion file: the images need not have any then.
        """
        if _companions(listing) and _companions_name_images(listing):
            return 0.9
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
        for path in _companions(listing):
            collected.add_companion(path)
        tiffs = [path for path in listing.images if path.lower().endswith(_TIFF)]
        texts = ahead(
            lambda path: "" if path in collected.used else description(listing.absolute(path)),
            tiffs,
            AT_ONCE if is_remote(listing.root) else 0,
        )
        for path, text in zip(tiffs, texts, strict=True):
            if path not in collected.used:
                collected.add_file(path, text)
        if not collected.planes:
            raise InputError(f"no OME-TIFF with planes in {listing.root}: choose another layout")
        unused = tuple(path for path in listing.images if path not in collected.used)
        planes, expected = collected.told_apart()
        plates = sorted({plane.key.plate for plane in planes}, key=natural_key)
        return Found(
            layout=self.name,
            planes=planes,
            expected=tuple((key, channel) for key, channel, _ in expected),
            expected_z=tuple((key, channel, z) for key, channel, z in expected if z is not None),
            channels=tuple(collected.channels),
            wells=largest(collected.grids),
            ignored=unused,
            pixel_size=collected.pixel_size,
            notes=(
                *((f"{len(plates)} plates: {', '.join(plates)}",) if len(plates) > 1 else ()),
                *unmatched_note(unused),
            ),
        )


def _companions(listing: Listing) -> list[str]:
    return [path for path in listing.ignored if path.lower().endswith(_COMPANION)]


def _companions_name_images(listing: Listing) -> bool:
    """Say whether any image is named in a companion file."""
    names = {path.rpartition("/")[2] for path in listing.images}
    texts = (_text(listing.absolute(path)) for path in _companions(listing))
    return any(not names.isdisjoint(_FILE_NAME.findall(text)) for text in texts)


def _text(path: str) -> str:
    """Read a companion file, empty if it cannot be read."""
    try:
        with open_text(path) as file:
            return file.read(_LONGEST)
    except OSError:
        return ""


@dataclass
class _Collector:
    """Gathers planes document by document; a document may describe many files, and many files may repeat it."""

    listing: Listing
    pattern: str | None
    planes: list[Plane] = field(default_factory=list)
    expected: list[tuple[FieldKey, str, int | None]] = field(default_factory=list)
    channels: dict[str, None] = field(default_factory=dict)
    grids: set[tuple[int, int]] = field(default_factory=set)
    """Rows and columns of the plates."""
    used: set[str] = field(default_factory=set)
    pixel_size: float | None = None
    _listed: frozenset[str] = frozenset()
    _companions: set[str] = field(default_factory=set)
    _folders: list[tuple[int, int, str]] = field(default_factory=list)
    """Numbers of planes and of expected planes after each document, and the document's folder."""
    _by: NamePattern | None = None
    _names: dict[str, NameParts] | None = None
    _plates: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listed = frozenset(self.listing.images)

    def add_file(self, path: str, text: str) -> None:
        """Add all planes that the OME-XML in a file, or in the companion that it names, describes."""
        root = _ome_root(text)
        if root is None:
            return
        source = path
        if binary_only := children(root, "BinaryOnly"):
            source = _join(path, binary_only[0].get("MetadataFile") or "")
            if source in self._companions:
                return
            root = self._companion(path, source)
        self._add_document(root, source)

    def add_companion(self, path: str) -> None:
        """Add all planes that a file without pixels describes."""
        if path not in self._companions and (root := self._document(path)) is not None:
            self._add_document(root, path)

    def _companion(self, path: str, source: str) -> Element:
        """Parse the file that another one keeps its metadata in: OME-XML, or the first OME-TIFF of a set."""
        root = self._document(source)
        if root is None or children(root, "BinaryOnly"):
            raise InputError(f"{path} keeps its metadata in {source!r}, which is not there or is no OME-XML")
        return root

    def _document(self, source: str) -> Element | None:
        """Parse OME-XML; only files inside the plate's folder are opened."""
        if source in self._listed:
            return _ome_root(description(self.listing.absolute(source)))
        return _ome_root(_text(self.listing.absolute(source))) if source in self.listing.ignored else None

    def _add_document(self, root: Element, source: str) -> None:
        """Add all planes that a document describes."""
        self._companions.add(source)
        _refuse_lost_places(root, source)
        images = children(root, "Image")
        folder = posixpath.dirname(source).rpartition("/")[2] or self.listing.name
        spots = _spots(root, folder, self.grids) or _stage_spots(images, folder)
        if not spots and not self._is_named(source):
            spots = _called_spots(images, [image.get("Name") or "" for image in images], folder)
        # A file that holds all that its document describes may have been renamed since.
        one_file = len({uuid.get("FileName") for uuid in root.iter() if local_name(uuid) == "UUID"}) <= 1
        files = [_first_file(image) for image in images]
        several, place = Counter(files), Counter[str | None]()
        for image, file in zip(images, files, strict=True):
            place[file] += 1
            number = place[file] if several[file] > 1 else None
            for pixels in children(image, "Pixels"):
                self._add_image(pixels, source, spots.get(image.get("ID", "")), number, one_file=one_file)
        self._folders.append((len(self.planes), len(self.expected), posixpath.dirname(source)))

    def told_apart(self) -> tuple[list[Plane], list[tuple[FieldKey, str, int | None]]]:
        """Return planes and expected planes, plates of one name in several folders called after these if they clash."""
        claimed: dict[tuple[FieldKey, str, int | None], str] = {}
        folders: dict[str, set[str]] = defaultdict(set)
        clashes: set[str] = set()
        start = 0
        for end, _, folder in self._folders:
            for key, channel, z, _ in self.planes[start:end]:
                folders[key.plate].add(folder)
                if claimed.setdefault((key, channel, z), folder) != folder:
                    clashes.add(key.plate)
            start = end
        if not clashes:
            return self.planes, self.expected
        several = set().union(*(folders[plate] for plate in clashes))
        last = {folder: folder.rpartition("/")[2] or self.listing.name for folder in several}
        names = last if len(set(last.values())) == len(last) else {each: each or self.listing.name for each in last}

        def renamed(key: FieldKey, folder: str) -> FieldKey:
            return key._replace(plate=names[folder]) if key.plate in clashes else key

        planes: list[Plane] = []
        expected: list[tuple[FieldKey, str, int | None]] = []
        for end, promised, folder in self._folders:
            planes += [plane._replace(key=renamed(plane.key, folder)) for plane in self.planes[len(planes) : end]]
            expected += [
                (renamed(key, folder), channel, z) for key, channel, z in self.expected[len(expected) : promised]
            ]
        return planes, expected

    def _add_image(
        self, pixels: Element, source: str, spot: _Spot | None, number: int | None, *, one_file: bool
    ) -> None:
        """Add the planes of one image; `number` counts the images of a file that has several."""
        if self.pixel_size is None:
            self.pixel_size = to_micrometres(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit"))
        names = _channel_names(pixels)
        for c, z, t, filename, page in _blocks(pixels, source):
            path = self._file(source, filename, one_file=one_file)
            if path is None and spot is None and source not in self._listed:
                continue  # nothing says where an image was taken that is not there
            at = spot or self._spot_by_name(path or (_join(source, filename) if filename else source), source, number)
            key = FieldKey(at.plate, at.well, at.site, t + 1 if _size(pixels, "T") > 1 else at.time)
            channel = at.channel if at.channel and len(names) == 1 else names[c]
            depth = z + 1 if _size(pixels, "Z") > 1 else at.z
            self.expected.append((key, channel, depth))
            self.channels[channel] = None
            if path is not None:
                self.used.add(path)
                self.planes.append(Plane(key, channel, depth, ImageRef(self.listing.absolute(path), (page,))))

    def _file(self, source: str, filename: str | None, *, one_file: bool) -> str | None:
        """Find the listed file that holds a plane; None if it is not there.

        With `one_file`, the document's own file is meant whatever it is called now.
        """
        path = source if filename is None else _join(source, filename)
        if path in self._listed:
            return path
        return source if one_file and source in self._listed else None

    def _is_named(self, path: str) -> bool:
        """Say whether the name of a file tells a well."""
        return self.pattern is not None or ((known := recognise(self.listing.images)) is not None and path in known[1])

    def _spot_by_name(self, path: str, source: str, number: int | None) -> _Spot:
        """Read a file's name, for documents without Plate elements; it need not be there if its document is."""
        if self._names is None:
            self._by, self._names = name_parts(self.listing, self.pattern)
            self._plates = plate_names(self._names, self.listing.name)
        parts = self._names.get(path)
        if parts is None and path not in self._listed and self._by is not None:
            parts = self._by.parse(path) or self._names.get(source)
        if parts is None:
            raise InputError(f"{path}: neither its OME-XML nor its name says the well; name the wells with --pattern")
        plate = self._plates.get(path) or self._plates.get(source) or self.listing.name
        return _Spot(plate, parts.well, number or parts.site, parts.channel, parts.z, parts.time)


def _refuse_lost_places(root: Element, source: str) -> None:
    """Refuse a row of planes that were taken in many wells but say no more which is which.

    pymmcore-plus writes all planes of a plate as times of one image if channels differ in their planes (`do_stack`).
    """
    if children(root, "Plate") or len(children(root, "Image")) != 1:
        return
    notes = (each for each in root.iter() if local_name(each) == "MapAnnotation")
    if any(each.get("Namespace") == "pymmcore_plus" and _WELLS in "".join(each.itertext()) for each in notes):
        raise InputError(
            f"{source} holds a plate as one row of planes without their wells, as pymmcore-plus writes it if channels "
            "differ in their planes: take the same planes of all channels, or write the images as a sequence of files "
            "(ImageSequenceWriter)"
        )


def _first_file(image: Element) -> str | None:
    """Return the name of the file with the first plane of an image, None if it is that of the document."""
    data = (each for pixels in children(image, "Pixels") for each in children(pixels, "TiffData"))
    return next((uuid.get("FileName") for each in data for uuid in children(each, "UUID")), None)


def _join(beside: str, name: str) -> str:
    """Return the path of a file that is named in a file beside it, by whatever system."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(beside), name.replace("\\", "/")))


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


def _channel_count(pixels: Element) -> int:
    """Return the number of channels that lie in planes of their own: a colour image is one."""
    size, channels = _size(pixels, "C"), children(pixels, "Channel")
    samples = _count(channels[0], "SamplesPerPixel") if channels else None
    return size // samples if samples and samples * len(channels) == size else size


def _count(element: Element, name: str) -> int | None:
    text = element.get(name)
    return int(text) if text is not None and text.isdecimal() else None


def _channel_names(pixels: Element) -> list[str]:
    """Name each channel: as the file does, by number where it does not, by both where two have one name."""
    names = [channel.get("Name") or "" for channel in children(pixels, "Channel")]
    names += [""] * (_channel_count(pixels) - len(names))
    numbered = [name or str(number) for number, name in enumerate(names, start=1)]
    return [f"{name}-{number}" if numbered.count(name) > 1 else name for number, name in enumerate(numbered, start=1)]


def _blocks(pixels: Element, source: str) -> list[_Block]:
    """List the planes of one image in the way of the OME data model: each TiffData is a run of planes.

    Source: the OME-TIFF specification 6.0, section "The TiffData element".
    """
    order = pixels.get("DimensionOrder", "XYZCT")[2:]
    sizes = {axis: _size(pixels, axis) for axis in "ZT"} | {"C": _channel_count(pixels)}
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


def _spots(root: Element, default_plate: str, grids: set[tuple[int, int]]) -> dict[str, _Spot]:
    """Map the ID of each image to its place, from the Plate elements; sites count from 1 within their well.

    Several acquisitions of a plate become plates of their own, as those of OME-Zarr do: `ome_zarr` says why. In each of
    them sites count from 1, so that a place that was imaged in all has one number.

    Parameters
    ----------
    root
        Document.
    default_plate
        Name of a plate that has none.
    grids
        Gets rows and columns of each plate that says them.
    """
    spots: dict[str, _Spot] = {}
    plates = children(root, "Plate")
    for plate, plate_called in zip(plates, _plate_names(plates, default_plate), strict=True):
        grid = (_count(plate, "Rows") or 0, _count(plate, "Columns") or 0)
        if min(grid) > 0:
            grids.add(grid)
        acquisitions = {
            sample.get("ID", ""): acquisition.get("ID", "").rpartition(":")[2]
            for acquisition in children(plate, "PlateAcquisition")
            for sample in children(acquisition, "WellSampleRef")
        }
        wells = [(well, children(well, "WellSample")) for well in children(plate, "Well")]
        used = {acquisitions.get(sample.get("ID", "")) for _, samples in wells for sample in samples}
        for well, samples in wells:
            spot_well = well_name((_count(well, "Row") or 0) + 1, (_count(well, "Column") or 0) + 1)
            sites: Counter[str | None] = Counter()
            for sample in samples:
                acquisition = acquisitions.get(sample.get("ID", ""))
                sites[acquisition] += 1
                suffix = f"_acquisition{acquisition}" if len(used) > 1 and acquisition is not None else ""
                for image in children(sample, "ImageRef"):
                    spots[image.get("ID", "")] = _Spot(plate_called + suffix, spot_well, sites[acquisition])
    return spots


def _plate_names(plates: list[Element], default: str) -> list[str]:
    """Name each plate of a document: two of one name by their IDs too."""
    names = [plate.get("Name") or "" for plate in plates]
    names = [
        (plate.get("ExternalIdentifier") or default) if not name or PLATE_TYPE.fullmatch(name.strip()) else name
        for plate, name in zip(plates, names, strict=True)
    ]
    ids = [plate.get("ID", "").rpartition(":")[2] or str(number) for number, plate in enumerate(plates)]
    return [f"{name}_{own}" if names.count(name) > 1 else name for name, own in zip(names, ids, strict=True)]


def _stage_spots(images: list[Element], plate: str) -> dict[str, _Spot]:
    """Map the ID of each image to its place if all images of a document have stage labels called after wells."""
    return _called_spots(
        images, [label.get("Name") or "" for image in images for label in children(image, "StageLabel")], plate
    )


def _called_spots(images: list[Element], labels: list[str], plate: str) -> dict[str, _Spot]:
    """Map the ID of each image to the place that its label names, if all do."""
    spots = wells_of(labels) if len(labels) == len(images) else []
    ids = [image.get("ID", "") for image in images]
    return {own: _Spot(plate, *spot) for own, spot in zip(ids, spots, strict=False)}
