"""NDTiff (versions 2 and 3): what pycro-manager, Micro-Magellan and Micro-Manager 2 save with an `NDTiff.index`.

Source: the specification at https://github.com/micro-manager/NDStorage.
"""

from __future__ import annotations

import json
import posixpath
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._positions import Spot, place
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.readers.micro_manager import channel_names, stage_labels, summary_pixel_size
from cellinfer.storage import file_size, open_file
from cellinfer.zarr_metadata import Json, as_dict

_INDEX = "ndtiff.index"
_FULL, _REDUCED = "full resolution", "downsampled"
_MARK, _SUMMARY = 483729, 2355492
_LONGEST = 1 << 30
"""Bytes of an index at most: that of a million images has some 150 MB."""
_LONGEST_TEXT = 64 << 20
_BYTES = {0: 1, 1: 2, 2: 3, 3: 2, 4: 2, 5: 2, 6: 2}
"""Pixel type in the index -> bytes per pixel."""
_NUMBERS = struct.Struct("<8I")
_COUNT = struct.Struct("<I")
_POSITION = ("position", "row", "column", "well", "site")
"""Axes that say where an image was taken."""
_KNOWN = frozenset({*_POSITION, "channel", "z", "time"})

Axes = dict[str, Any]


class _Entry(NamedTuple):
    """One image as the index lists it."""

    axes: Axes
    file: str
    pixels: int
    """Offset in the file."""
    size: int
    """Bytes of pixels."""
    metadata: tuple[int, int]
    """Offset and length."""


class NdTiffReader:
    """Reads data sets in the NDTiff format, one or several.

    Wells and sites come from the labels of the positions, or from axes called so; a data set in several resolutions is
    read in the full one.
    """

    name = "ndtiff"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there is an `NDTiff.index`; no file is opened."""
        return 1.0 if _indexes(listing) else None

    def read(self, listing: Listing) -> Found:
        """Return the planes that the indexes list.

        Raises
        ------
        InputError
            If there is no index, one is damaged at its beginning, or nothing that they list is there.
        """
        indexes = _indexes(listing)
        if not indexes:
            raise InputError(f"no NDTiff.index in {listing.root}: choose another layout")
        listed = frozenset(listing.images)
        datasets = [_DataSet(listing, listed, index) for index in indexes]
        names = _plate_names(listing, indexes)
        planes = [
            plane for name, dataset in zip(names, datasets, strict=True) for plane in dataset.planes(name, there=True)
        ]
        if not planes:
            raise InputError(
                f"none of the images that {indexes[0]} lists is in {listing.root}: give the folder that holds both"
            )
        everything = (
            each for name, data in zip(names, datasets, strict=True) for each in data.planes(name, there=None)
        )
        promised = [(plane.key, plane.channel, plane.z) for plane in everything]
        notes = [f"{len(names)} plates: {', '.join(sorted(names, key=natural_key))}"] if names[1:] else []
        for dataset in datasets:
            notes += dataset.notes()
        unused = listed - {name for dataset in datasets for name in dataset.used}
        reduced = {path for path in unused if f"/{_REDUCED}" in f"/{path.lower()}"}
        if reduced:
            notes.append(f"{len(reduced)} files with images in lower resolution are left out")
        if others := sorted(unused - reduced, key=natural_key):
            notes.append(f"{len(others)} images are left out, no NDTiff.index lists them (such as {others[0]!r})")
        sizes = sorted({size for dataset in datasets if (size := dataset.pixel_size)})
        if len(sizes) > 1:
            notes.append(f"pixel sizes differ, none is taken: {', '.join(f'{size:g}' for size in sizes)} µm")
        return Found(
            layout=self.name,
            planes=planes,
            expected=tuple((key, channel) for key, channel, _ in promised),
            expected_z=tuple((key, channel, z) for key, channel, z in promised if z is not None),
            channels=tuple(dict.fromkeys(channel for data in datasets for channel in data.channel_order)),
            ignored=tuple(unused),
            pixel_size=sizes[0] if len(sizes) == 1 else None,
            notes=tuple(dict.fromkeys(notes)),
        )


def _indexes(listing: Listing) -> list[str]:
    """Return the indexes of full resolution."""
    found = [path for path in listing.ignored if path.rpartition("/")[2].lower() == _INDEX]
    return [path for path in found if not posixpath.basename(posixpath.dirname(path)).lower().startswith(_REDUCED)]


def _plate_names(listing: Listing, indexes: list[str]) -> list[str]:
    """Name data sets after their folders, by whole paths where two have the same name."""
    folders = [posixpath.dirname(index) for index in indexes]
    whole = [posixpath.dirname(path) if path.lower().endswith(_FULL) else path for path in folders]
    here = listing.root.parent.name if listing.root.name.lower() == _FULL else listing.name
    names = [path.rpartition("/")[2] or here for path in whole]
    count = Counter(names)
    return [path or here if count[name] > 1 else name for name, path in zip(names, whole, strict=True)]


@dataclass
class _DataSet:
    """One folder with an index."""

    listing: Listing
    listed: frozenset[str]
    index: str
    used: set[str] = field(default_factory=set)
    """Files that the index lists and that are there."""
    _cut_off: bool = False
    _again: int = 0

    def __post_init__(self) -> None:
        self._folder = posixpath.dirname(self.index)
        entries = list(self._entries())
        self._sizes: dict[str, int] = {}
        for file in {entry.file for entry in entries}:
            path = posixpath.join(self._folder, file)
            if path in self.listed:
                self.used.add(path)
                self._sizes[file] = file_size(self.listing.absolute(path))
        self._pages = _pages(entries)
        latest = {json.dumps(entry.axes, sort_keys=True): entry for entry in entries}
        self._again = len(entries) - len(latest)
        self.entries = list(latest.values())
        self._summary = next((found for file in self._sizes if (found := self._read_summary(file))), {})

    def _entries(self) -> Iterator[_Entry]:
        """Read the index; its end may be half written, or hold a sign that the data set is finished."""
        path = self.listing.absolute(self.index)
        try:
            with open_file(path) as file:
                data = file.read(_LONGEST)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        at, count = 0, 0
        while at < len(data):
            try:
                axes, at_name = _text(data, at)
                if not axes:
                    return
                name, at_numbers = _text(data, at_name)
                offset, width, height, kind, packed, meta, length, _ = _NUMBERS.unpack_from(data, at_numbers)
                place = json.loads(axes)
                plain = isinstance(place, dict) and all(isinstance(each, int | float | str) for each in place.values())
                if not plain or kind not in _BYTES or packed or "/" in name or "\\" in name:
                    raise ValueError("an entry says what no image can be")
            except (struct.error, ValueError, IndexError, RecursionError) as error:
                if not count:
                    raise InputError(f"{path} is damaged ({error}): copy the data set again") from error
                self._cut_off = True
                return
            yield _Entry(place, name, offset, width * height * _BYTES[kind], (meta, length))
            at = at_numbers + _NUMBERS.size
            count += 1

    def planes(self, plate: str, *, there: bool | None) -> Iterator[Plane]:
        """Yield the planes of the index; all of them, or those whose pixels are in the files."""
        depths = {entry.axes.get("z", 0) for entry in self.entries}
        order = {z: number for number, z in enumerate(sorted(depths, key=_sort_key))}
        for entry in self.entries:
            if there and not self._is_there(entry):
                continue
            spot = self._spots[_where(entry.axes)]
            time = entry.axes.get("time", 0)
            key = FieldKey(plate, spot.well, spot.site, self._times[time])
            path = self.listing.absolute(posixpath.join(self._folder, entry.file))
            z = entry.axes.get("z", 0)
            depth = None if len(depths) == 1 else z if isinstance(z, int) else order[z]
            yield Plane(key, self._channel(entry.axes), depth, ImageRef(path, (self._pages[entry.file, entry.pixels],)))

    def _is_there(self, entry: _Entry) -> bool:
        return entry.pixels + entry.size <= self._sizes.get(entry.file, -1)

    def notes(self) -> Iterator[str]:
        """Say what is odd."""
        yield from self._placed[1]
        if self._cut_off:
            yield f"the last entry of {self.index} is not whole: images that it may have listed are not known"
        if self._again:
            yield f"{self._again} images of {self.index} were taken twice: the later one counts"
        if absent := sum(not self._is_there(entry) for entry in self.entries):
            yield f"{absent} of {len(self.entries)} images that {self.index} lists are not in its files"

    # positions, channels, times

    @cached_property
    def _placed(self) -> tuple[dict[tuple[Any, ...], Spot], tuple[str, ...]]:
        first: dict[tuple[Any, ...], _Entry] = {}
        for entry in self.entries:
            first.setdefault(_where(entry.axes), entry)
        planned = stage_labels(self._summary)
        keys = sorted(first, key=lambda key: [_sort_key(part) for part in key])
        spots, notes = place([self._label(key, first[key], planned) for key in keys])
        return dict(zip(keys, spots, strict=True)), notes

    @property
    def _spots(self) -> Mapping[tuple[Any, ...], Spot]:
        return self._placed[0]

    def _label(self, key: tuple[Any, ...], entry: _Entry, planned: list[str]) -> str:
        """Return the label of a position: its axis may be one, or count through the list of positions."""
        position, row, column, well, site = key
        if well is not None:
            return f"{well}-Site_{site}" if isinstance(site, int) else f"{well}-{site}" if site else str(well)
        if isinstance(position, str):
            return position
        if row is not None and column is not None:
            numbers = type(row) is int and type(column) is int
            return f"{position or 0}-Pos_{column % 1000:03d}_{row % 1000:03d}" if numbers else f"{row}{column}"
        if isinstance(position, int) and 0 <= position < len(planned) and planned[position]:
            return planned[position]
        name = self._metadata(entry).get("PositionName")
        return name if isinstance(name, str) and name else f"Pos{position or 0}"

    @cached_property
    def _times(self) -> dict[Any, int]:
        """Time -> its number, from 1."""
        found = {entry.axes.get("time", 0) for entry in self.entries}
        if all(type(time) is int for time in found):
            return {time: time + 1 for time in found}
        return {time: number for number, time in enumerate(sorted(found, key=_sort_key), 1)}

    @cached_property
    def _channel_names(self) -> dict[Any, str]:
        """Value of the axis -> name of the channel, in the order of acquisition."""
        first: dict[Any, _Entry] = {}
        for entry in self.entries:
            first.setdefault(entry.axes.get("channel"), entry)
        planned = channel_names(self._summary)
        names: dict[Any, str] = {}
        for value, entry in first.items():
            number = 0 if value is None else value
            if isinstance(number, str):
                names[value] = number or "1"
            elif type(number) is int and 0 <= number < len(planned):
                names[value] = planned[number]
            else:
                names[value] = str(self._metadata(entry).get("Channel") or int(number) + 1)
        if len(set(names.values())) < len(names):
            names = {value: str(number) for number, value in enumerate(names, start=1)}
        order = {name: number for number, name in enumerate(planned)}
        numbered = all(type(value) is int for value in names)
        return dict(sorted(names.items(), key=lambda item: item[0] if numbered else order.get(item[1], len(order))))

    @cached_property
    def _others(self) -> list[str]:
        """Axes of other names that have several values: they tell channels apart."""
        values: dict[str, set[str]] = defaultdict(set)
        for entry in self.entries:
            for axis in entry.axes.keys() - _KNOWN:
                values[axis].add(str(entry.axes[axis]))
        return sorted(axis for axis, several in values.items() if len(several) > 1)

    def _channel(self, axes: Axes) -> str:
        name = self._channel_names[axes.get("channel")]
        return "-".join([name, *(f"{axis}{axes[axis]}" for axis in self._others if axis in axes)])

    @property
    def channel_order(self) -> list[str]:
        """Channels in the order of acquisition."""
        if not self._others:
            return list(self._channel_names.values())
        return list(dict.fromkeys(self._channel(entry.axes) for entry in self.entries))

    # what the files say beside the index

    @cached_property
    def pixel_size(self) -> float | None:
        """Width of a pixel in micrometres."""
        first = next((entry for entry in self.entries if self._is_there(entry)), None)
        return summary_pixel_size(self._summary) or (summary_pixel_size(self._metadata(first)) if first else None)

    def _metadata(self, entry: _Entry) -> Json:
        offset, length = entry.metadata
        return self._json(entry.file, offset, length) if entry.file in self._sizes else {}

    def _read_summary(self, file: str) -> Json:
        """Read the summary in the header of a file: version 3 has one number more before it."""
        try:
            with open_file(self._path(file), parts=True) as stream:
                start = stream.read(28)
            order = {b"II": "<", b"MM": ">"}.get(start[:2], "<")
            mark, _, *rest = struct.unpack(order + "5I", start[8:28])
        except (OSError, struct.error):
            return {}
        at = rest.index(_SUMMARY) if mark == _MARK and _SUMMARY in rest[:2] else None
        return {} if at is None else self._json(file, 24 + 4 * at, rest[at + 1])

    def _json(self, file: str, offset: int, length: int) -> Json:
        """Read text in a file; none if it is damaged: names alone depend on it."""
        if length > _LONGEST_TEXT:
            return {}
        try:
            with open_file(self._path(file), parts=True) as stream:
                stream.seek(offset)
                return as_dict(json.loads(stream.read(length).rstrip(b"\0 ")))
        except (OSError, ValueError, RecursionError):
            return {}

    def _path(self, file: str) -> str:
        return self.listing.absolute(posixpath.join(self._folder, file))


def _text(data: bytes, at: int) -> tuple[str, int]:
    """Read a text with its length before it; return it and where it ends."""
    (length,) = _COUNT.unpack_from(data, at)
    end = at + _COUNT.size + length
    if end > len(data):
        raise ValueError("it is cut off")
    return data[at + _COUNT.size : end].decode(), end


def _pages(entries: list[_Entry]) -> dict[tuple[str, int], int]:
    """Count the pages of each file: images are written one after the other, each with its directory before it."""
    offsets: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        offsets[entry.file].add(entry.pixels)
    return {(file, at): page for file, each in offsets.items() for page, at in enumerate(sorted(each))}


def _sort_key(value: object) -> tuple[int, int, Any]:
    """Sort numbers as such and before names."""
    return (0, value, ()) if isinstance(value, int) else (1, 0, natural_key(str(value)))


def _where(axes: Axes) -> tuple[Any, ...]:
    return tuple(axes.get(axis) for axis in _POSITION)
