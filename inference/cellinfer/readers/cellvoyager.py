"""Yokogawa CellVoyager (CV7000, CV8000, CQ1, CQ3K): plates by the instrument's index, `MeasurementData.mlf`."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import iterparse, parse

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import local_name, to_micrometres
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing
from cellinfer.storage import open_file
from cellinfer.wells import well_name, well_sort_key

_INDEX = "measurementdata.mlf"
_DETAIL = "measurementdetail.mrf"
_PLATE = ".wpi"
_BROKEN_XML = (ParseError, ValueError, LookupError, OSError)
"""What a damaged XML file raises; ValueError also stands for entities, LookupError for an unknown encoding."""
_CORRECTION = re.compile(r"[DS]C_(?!.*_T\d+F\d+L)|.*_Ill", re.IGNORECASE)
"""File names of dark-field, shading and illumination images, as far as no index names them."""


class _Record(NamedTuple):
    """One record of the index: an image, or an acquisition that failed."""

    file: str
    """Path of the image relative to the index; what went wrong if it failed."""
    failed: bool
    well: str
    """Empty if a failure names none."""
    time: int
    site: int | None
    channel: str | None
    """Number; failures often name neither site nor channel."""
    z: int | None
    projection: str
    """How a z-stack was projected (`Maximum`, ...), empty for a plane of its own."""
    action: str
    """Timeline and action, as in the file names (`L1A2`): with the channel they tell acquisitions apart."""


@dataclass
class _Measurement:
    """One folder that the instrument wrote: one plate, imaged once."""

    index: str
    """Path of the index, relative to the root."""
    plate: str
    records: list[_Record]
    targets: Mapping[str, str]
    """Channel number -> name given in the protocol."""
    sizes: Mapping[str, float]
    """Channel number -> micrometres per pixel."""
    corrections: frozenset[str]
    """Names (lower case) of the correction images."""
    notes: tuple[str, ...]
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the plate; 0 if nothing says."""

    @property
    def folder(self) -> str:
        """Folder of the index relative to the root, without slash at its end."""
        return posixpath.dirname(self.index)

    @cached_property
    def images(self) -> list[_Record]:
        """The records of images."""
        return [record for record in self.records if not record.failed]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Channel number -> its name, or the number where the name is empty or another channel's too.

        A stack and its projection have numbers of their own and one name: each kind of projection counts for itself.
        """
        used = {(each.projection, each.channel or "1") for each in self.records if each.channel or not each.failed}
        shared = Counter((kind, self.targets.get(number)) for kind, number in used)
        names = {
            number: number if shared[kind, self.targets.get(number)] > 1 else self.targets.get(number, number)
            for kind, number in sorted(used)
        }
        distinct = len({(kind, names[number]) for kind, number in used}) == len(used)
        return names if distinct else {number: number for number in names}

    @cached_property
    def _repeated(self) -> set[str]:
        """Names of channels that several actions or timelines took at one place of one field."""
        seen: dict[tuple[object, ...], _Record] = {}
        repeated = set()
        for record in self.images:
            name = self._names[record.channel or "1"]
            place = (record.well, record.time, record.site, name, record.z, record.projection)
            if seen.setdefault(place, record).action != record.action:
                repeated.add(name)
        return repeated

    def channel(self, record: _Record) -> str:
        """Name the channel of a record."""
        name = self._names[record.channel or "1"]
        return f"{name}-{record.action}" if name in self._repeated else name

    def channels(self) -> list[str]:
        """Return the names of the channels, in the order of their numbers and actions."""
        kinds = {(each.channel or "1", each.action): each for each in self.images}
        return [self.channel(kinds[kind]) for kind in sorted(kinds, key=lambda kind: natural_key(" ".join(kind)))]

    def expected_z(self) -> Iterator[tuple[FieldKey, str, int]]:
        """Yield the planes that stacks should have."""
        for record in self.images:
            if record.z is not None and not record.projection:
                yield self.key(record), self.channel(record), record.z

    def key(self, record: _Record) -> FieldKey:
        """Name the field of a record."""
        return FieldKey(self.plate, record.well, 1 if record.site is None else record.site, record.time)

    def expected(self) -> Iterator[tuple[FieldKey, str]]:
        """Yield what should exist: all images, and what the failed acquisitions would have given.

        A failure that names no field (the autofocus found nothing) stands for the whole well if that has no image.
        """
        planned = list(self.images)
        planned += [each for each in self.records if each.failed and each.well and each.site and each.channel]
        yield from ((self.key(record), self.channel(record)) for record in planned)
        imaged = {record.well for record in planned}
        places = {(self.key(record).site, self.channel(record)) for record in planned}
        for record in self.records:
            if record.failed and record.well and record.well not in imaged:
                for site, channel in places:
                    yield FieldKey(self.plate, record.well, site, record.time), channel


class CellVoyagerReader:
    """Reads what a Yokogawa CellVoyager wrote, one or several measurements.

    Each `MeasurementData.mlf` is the index of one plate. Plate name and pixel size come from `MeasurementDetail.mrf`
    beside it, channel names from the protocol (`.mes`) that it names.
    """

    name = "cellvoyager"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if the instrument's index is there; no file is opened."""
        return 1.0 if _indices(listing) else None

    def read(self, listing: Listing) -> Found:
        """Return the images that the indices list.

        Raises
        ------
        InputError
            If there is no index, one is damaged, or none of the listed images is there.
        """
        indices = _indices(listing)
        if not indices:
            raise InputError(f"no MeasurementData.mlf in {listing.root}: choose another layout")
        measurements = _distinct(_measurement(listing, index) for index in indices)
        files = _Files(listing, [measurement.folder for measurement in measurements])
        placed = _Placed()
        for measurement in measurements:
            placed.add(listing, measurement, files)
        planes = placed.all_planes()
        if not planes:
            raise InputError(
                f"none of the {len(placed.absent)} images that {indices[0]} lists is in {listing.root}: give the "
                "folder that holds both, or read renamed images with --layout pattern"
            )
        used = {plane.ref.path for plane in planes}
        unused = [path for path in listing.images if listing.absolute(path) not in used]
        size, size_notes = _pixel_size(measurements)
        return Found(
            layout=self.name,
            planes=planes,
            expected=tuple({pair for measurement in measurements for pair in measurement.expected()}),
            expected_z=tuple({each for measurement in measurements for each in measurement.expected_z()}),
            channels=tuple(dict.fromkeys(name for measurement in measurements for name in measurement.channels())),
            wells=largest(measurement.grid for measurement in measurements),
            ignored=tuple(unused),
            pixel_size=size,
            notes=(
                *_plates_note(measurements),
                *(note for measurement in measurements for note in measurement.notes),
                *size_notes,
                *_failed_notes(measurements),
                *placed.notes(),
                *_unused_notes(unused, measurements, placed.projection_files(listing)),
            ),
        )


@dataclass
class _Placed:
    """The images of all measurements that are there, and which are not."""

    planes: list[Plane] = field(default_factory=list)
    projections: dict[tuple[FieldKey, str], dict[str, Plane]] = field(default_factory=dict)
    """For each channel of a field its projections, by their kind."""
    absent: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Indices whose images do not lie where they say."""

    def add(self, listing: Listing, measurement: _Measurement, files: _Files) -> None:
        """Find the images of one measurement."""
        found, at_place = files.find(measurement.folder, {record.file for record in measurement.images})
        if found and not at_place:
            self.elsewhere.append(measurement.index)
        for record in measurement.images:
            path = found.get(record.file)
            if path is None:
                self.absent.append(record.file)
                continue
            key, channel = measurement.key(record), measurement.channel(record)
            plane = Plane(key, channel, None if record.projection else record.z, ImageRef(listing.absolute(path)))
            kinds = self.projections.setdefault((key, channel), {}) if record.projection else {}
            if not record.projection or kinds.setdefault(record.projection, plane) != plane:
                self.planes.append(plane)

    def all_planes(self) -> list[Plane]:
        """Return the planes and, of each stack's projections, one."""
        return [*(kinds[_best(kinds)] for kinds in self.projections.values()), *self.planes]

    def projection_files(self, listing: Listing) -> set[str]:
        """Return all projections, taken or not, relative to the root."""
        return {listing.relative(plane.ref.path) for kinds in self.projections.values() for plane in kinds.values()}

    def notes(self) -> Iterator[str]:
        """Say what is not there or not where it should be, and which projections are left out."""
        for index in self.elsewhere:
            yield f"the images of {index} are not where it says and were found by their names"
        if self.absent:
            yield f"{len(self.absent)} images that the index lists are not there (such as {self.absent[0]!r})"
        others = Counter(kind for kinds in self.projections.values() for kind in kinds if kind != _best(kinds))
        for kind, count in sorted(others.items()):
            yield f"{count} projections of the kind {kind!r} are left out: another kind of the same stacks is taken"


def _indices(listing: Listing) -> list[str]:
    return [path for path in listing.ignored if path.rpartition("/")[2].casefold() == _INDEX]


def _measurement(listing: Listing, index: str) -> _Measurement:
    """Read an index, and what lies beside it as far as it is there."""
    folder = posixpath.dirname(index)
    beside = {path.casefold(): path for path in listing.ignored if posixpath.dirname(path) == folder}
    broken: list[str] = []

    def document(name: str) -> Element | None:
        """Parse a file of the index's folder; it may be absent."""
        path = beside.get(posixpath.join(folder, name.replace("\\", "/").rpartition("/")[2]).casefold())
        if path is None:
            return None
        try:
            with open_file(listing.absolute(path)) as file:
                return parse(file).getroot()
        except _BROKEN_XML:
            broken.append(f"{path} is damaged: the names, channels or pixel sizes that it gives are not known")
            return None

    detail = document(_DETAIL)
    protocol = None if detail is None else document(_attribute(detail, "MeasurementSettingFileName") or "")
    channels = {_plain(_attribute(each, "Ch")): each for each in _elements(detail, "MeasurementChannel")}
    sizes = {
        number: to_micrometres(_attribute(each, "HorizontalPixelDimension"), "µm") for number, each in channels.items()
    }
    targets = {
        _plain(_attribute(each, "Ch")): _attribute(each, "Target") or _attribute(each, "Fluorophore")
        for each in _elements(protocol, "Channel")
    }
    names = [_attribute(sample, "Name") for sample in _elements(detail, "MeasurementSamplePlate")]
    names += ["" if detail is None else _attribute(detail, "Title"), posixpath.basename(folder), listing.name]
    return _Measurement(
        index=index,
        plate=next(filter(None, names)),
        records=list(_records(listing, index)),
        targets={number: name for number, name in targets.items() if name},
        sizes={number: size for number, size in sizes.items() if size},
        corrections=frozenset(_attribute(each, "ShadingCorrectionSource").casefold() for each in channels.values()),
        notes=tuple(broken),
        grid=_grid(document(next((name for name in beside.values() if name.lower().endswith(_PLATE)), ""))),
    )


def _grid(plate: Element | None) -> tuple[int, int]:
    """Return rows and columns that the description of a plate says."""
    said = ["", ""] if plate is None else [_attribute(plate, name) for name in ("Rows", "Columns")]
    rows, columns = (int(text) if text.isdecimal() and len(text) < 10 else 0 for text in said)
    return rows, columns


def _elements(root: Element | None, name: str) -> list[Element]:
    return [] if root is None else [element for element in root.iter() if local_name(element) == name]


def _attribute(element: Element, name: str) -> str:
    """Return an attribute, which stands in its element's namespace or in none; empty if it is not there."""
    space = str(element.tag).rpartition("}")
    return (element.get(f"{space[0]}{space[1]}{name}") or element.get(name) or "").strip()


def _plain(number: str) -> str:
    """Write a number without leading zeros."""
    return str(int(number)) if number.isdecimal() and len(number) < 10 else number


def _records(listing: Listing, index: str) -> Iterator[_Record]:
    """Read the index record by record: the tree of a long time series would fill the memory."""
    try:
        with open_file(listing.absolute(index)) as file:
            events = iterparse(file, events=("start", "end"))
            _, root = next(events)
            for event, element in events:
                if event == "end" and local_name(element) == "MeasurementRecord":
                    yield _record(element, index)
                    root.clear()
    except InputError:
        raise
    except (*_BROKEN_XML, StopIteration) as error:
        raise InputError(
            f"{listing.absolute(index)} is damaged or not written to its end ({error}): wait until the instrument has "
            "finished, copy it again, or go by the file names with --layout pattern"
        ) from error


def _record(element: Element, index: str) -> _Record:
    """Read one record.

    Raises
    ------
    InputError
        If its numbers are none, or an image has no possible well.
    """

    def number(name: str) -> int | None:
        text = _attribute(element, name)
        if text and not text.isdecimal():
            raise InputError(f"{index}: {name} of {element.text!r} is {text!r}, which is no number")
        return int(text) if text else None

    failed = _attribute(element, "Type").upper() != "IMG"
    channel, row, column = number("Ch"), number("Row"), number("Column")
    try:
        well = "" if failed and not (row and column) else well_name(row or 0, column or 0)
    except InputError as error:
        raise InputError(f"{index}: {element.text!r}: {error}") from error
    return _Record(
        file=(element.text or "").strip().replace("\\", "/"),
        failed=failed,
        well=well,
        time=number("TimePoint") or 1,
        site=number("FieldIndex"),
        channel=None if channel is None else str(channel),
        z=number("ZIndex"),
        projection=_attribute(element, "ZImageProcessing"),
        action=f"L{number('TimelineIndex') or 1}A{number('ActionIndex') or 1}",
    )


def _distinct(measurements: Iterable[_Measurement]) -> list[_Measurement]:
    """Tell plates of one name apart by their folders."""
    found = list(measurements)
    names = Counter(measurement.plate for measurement in found)
    for measurement in found:
        if names[measurement.plate] > 1:
            measurement.plate = measurement.folder or measurement.plate
    return found


class _Files:
    """Finds listed images by what an index calls them.

    Parameters
    ----------
    listing
        The folder.
    folders
        Folders with an index.
    """

    def __init__(self, listing: Listing, folders: list[str]) -> None:
        self._listed = frozenset(listing.images)
        self._folders = frozenset(folders)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in listing.images:
            self._by_name[_stem(path)].append(path)

    def find(self, folder: str, files: Collection[str]) -> tuple[dict[str, str], bool]:
        """Find what the index in `folder` calls `files`.

        If none of them is where the index says (it was moved, or the images were), they are looked for by name below
        the folder and beside it, but not with another index.

        Returns
        -------
        dict
            Name in the index -> listed path, for those that are there.
        bool
            Whether they are where the index says.
        """
        at_place = {file: path for file in files if (path := self._at_place(folder, file))}
        if at_place:
            return at_place, True
        ambiguous = Counter(map(_stem, files))
        alone = [file for file in files if ambiguous[_stem(file)] == 1]
        return {file: path for file in alone if (path := self._near(folder, file))}, False

    def _at_place(self, folder: str, file: str) -> str | None:
        """Return the image at its place; its ending (converted to PNG) and upper and lower case may differ."""
        wanted = posixpath.normpath(posixpath.join(folder, file))
        if wanted in self._listed:
            return wanted
        named = self._by_name.get(_stem(wanted), [])
        place = posixpath.dirname(wanted).casefold()
        there = [path for path in named if posixpath.dirname(path).casefold() == place]
        return min(there, key=lambda path: (path.casefold() != wanted.casefold(), path), default=None)

    def _near(self, folder: str, file: str) -> str | None:
        """Return the only image of that name at or beside the folder."""
        above = posixpath.join(posixpath.dirname(folder), "")
        named = self._by_name.get(_stem(file), [])
        near = [path for path in named if path.startswith(above) and self._owner(path) in (None, folder)]
        return near[0] if len(near) == 1 else None

    def _owner(self, path: str) -> str | None:
        """Return the nearest folder above an image that has an index."""
        while path:
            path = posixpath.dirname(path)
            if path in self._folders:
                return path
        return None


def _stem(path: str) -> str:
    """Return the lower-case name of a file without folders and ending."""
    name = path[path.rfind("/") + 1 :]
    return name.rpartition(".")[0].casefold() or name.casefold()


def _best(kinds: Iterable[str]) -> str:
    """Choose among projections of one stack: the maximum if there is one."""
    return min(kinds, key=lambda kind: (not kind.casefold().startswith("max"), kind))


def _pixel_size(measurements: list[_Measurement]) -> tuple[float | None, tuple[str, ...]]:
    """Return the size that all channels in use share, or a note."""
    sizes = sorted(
        {
            measurement.sizes[channel]
            for measurement in measurements
            for channel in {record.channel or "1" for record in measurement.images}
            if channel in measurement.sizes
        }
    )
    if len(sizes) > 1:
        return None, (f"channels differ in pixel size ({', '.join(f'{size:g}' for size in sizes)} µm): none is taken",)
    return (sizes[0] if sizes else None), ()


def _plates_note(measurements: list[_Measurement]) -> tuple[str, ...]:
    names = sorted((measurement.plate for measurement in measurements), key=natural_key)
    return (f"{len(names)} plates: {', '.join(names)}",) if len(names) > 1 else ()


def _failed_notes(measurements: list[_Measurement]) -> Iterator[str]:
    for measurement in measurements:
        failed = [record for record in measurement.records if record.failed]
        if failed:
            wells = sorted({record.well for record in failed if record.well}, key=well_sort_key)
            some = ", ".join(wells[:10]) + (", ..." if len(wells) > 10 else "")
            yield (
                f"{len(failed)} acquisitions failed on plate {measurement.plate}"
                f"{f' (wells {some})' if wells else ''}, such as {failed[0].file!r}"
            )


def _unused_notes(unused: list[str], measurements: list[_Measurement], projections: set[str]) -> Iterator[str]:
    """Say what the left-out images are."""
    known = frozenset[str]().union(*(measurement.corrections for measurement in measurements))
    others = [path for path in unused if path not in projections]
    unknown = [path for path in others if not _is_correction(path.rpartition("/")[2], known)]
    if len(unknown) < len(others):
        yield f"{len(others) - len(unknown)} correction images (dark field, shading) are left out"
    if unknown:
        yield f"{len(unknown)} images are left out, the index does not list them (such as {unknown[0]!r})"


def _is_correction(name: str, known: frozenset[str]) -> bool:
    return name.casefold() in known or _CORRECTION.match(name) is not None
