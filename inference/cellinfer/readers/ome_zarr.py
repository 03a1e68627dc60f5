"""OME-Zarr plates: NGFF 0.4 (Zarr 2, `.zattrs`) and 0.5 (Zarr 3, `ome` in `zarr.json`).

Source: the specification at https://ngff.openmicroscopy.org/0.5/, sections "plate", "well", "multiscales", "omero".

An acquisition is one run of the microscope over the plate: a staining cycle, or a repeat under other settings, with
channels of its own. Several acquisitions of one plate become plates `<plate>_acquisition<id>`: taken for time points
they would be tracked and compared as if nothing but time lay between them, and taken for sites they would count each
cell twice.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from cellinfer.errors import ImageError, InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import MICROMETRES, PLATE_TYPE
from cellinfer.readers._positions import wells_of
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing, is_plate
from cellinfer.storage import is_remote
from cellinfer.wells import normalise_well, row_number, well_name
from cellinfer.zarr_metadata import (
    V2_ARRAY,
    V2_ATTRIBUTES,
    Json,
    as_dict,
    as_list,
    attributes,
    fetch_metadata,
    plate,
    read_array,
    series,
)

_UNITS = {
    **MICROMETRES, "meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3,
    "picometer": 1e-6, "angstrom": 1e-4, "metre": 1e6, "millimetre": 1e3, "micrometre": 1.0, "nanometre": 1e-3,
}  # fmt: skip
"""NGFF writes units in full."""
_ALL_AXES = ("t", "c", "z", "y", "x")
"""What an image has that names no axes (NGFF up to 0.2)."""
_BY_TYPE = {"time": "t", "channel": "c"}
_MAX_PLANES = 2_000_000
"""Planes that a plate may declare; more is a broken or hostile file."""
_NUMBER_AT_END = re.compile(r"[0-9]{1,9}$")


class OmeZarrReader:
    """Reads folders that are OME-Zarr plates, or hold some.

    A collection of images (`bioformats2raw.layout`) counts as a plate if all of them are called after wells.
    """

    name = "ome-zarr"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there is a plate; one whose metadata is damaged counts little if there are image files too."""
        if not listing.stores:
            return None
        if any(is_plate(listing.absolute(store), if_damaged=False) for store in listing.stores):
            return 1.0
        return 0.2 if listing.images else 0.9

    def read(self, listing: Listing) -> Found:
        """Return the planes of all plates; label images inside of them are not looked at."""
        if not listing.stores:
            raise InputError(f"no OME-Zarr plate in {listing.root}: choose another layout")
        stores = [_Store(listing.absolute(path), name) for path, name in _plate_names(listing).items()]
        for store in stores:
            store.collect()
        planes = [plane for store in stores for plane in store.planes]
        notes = [note for store in stores for note in store.notes()]
        if not planes:
            lost = (reason for store in stores for _, reason in [*store.lost, *store.lost_wells])
            reason = next(lost, "it lists no wells")
            raise InputError(f"no image of an OME-Zarr plate in {listing.root} can be used: {reason}")
        names = sorted({plane.key.plate for plane in planes}, key=natural_key)
        if len(names) > 1:
            notes.append(f"{len(names)} plates: {', '.join(names)}")
        if listing.images:
            notes.append(f"{len(listing.images)} image files beside the OME-Zarr plate are left out")
        sizes = sorted({size for store in stores for size in store.pixel_sizes})
        if len(sizes) > 1:
            notes.append(f"pixel sizes differ: {', '.join(f'{size:g}' for size in sizes)} micrometres")
        return Found(
            layout=self.name,
            planes=planes,
            expected=tuple(pair for store in stores for pair in store.expected()),
            channels=tuple(dict.fromkeys(channel for store in stores for channel in store.channels)),
            wells=largest(store.grid for store in stores),
            ignored=listing.images,
            pixel_size=next((size for store in stores for size in store.pixel_sizes), None),
            notes=tuple(notes),
        )


def _plate_names(listing: Listing) -> dict[str, str]:
    """Name each store: as its metadata does; after its folder where that says nothing, or the same of several."""
    folders = {store: _stem(posixpath.basename(store) or listing.root.name) for store in listing.stores}
    if len(set(folders.values())) < len(folders):
        folders = {store: _stem(store) for store in listing.stores}
    own = {store: _own_name(listing.absolute(store)) or folders[store] for store in listing.stores}
    return own if len(set(own.values())) == len(own) else folders


def _own_name(folder: str) -> str:
    try:
        name = (plate(folder) or {}).get("name")
    except ImageError as error:
        raise InputError(str(error)) from error
    name = _stem(name.strip()) if isinstance(name, str) else ""
    return "" if PLATE_TYPE.fullmatch(name) else name


def _stem(name: str) -> str:
    return name.removesuffix(".zarr").removesuffix(".ome") or name


class _Spot(NamedTuple):
    """One image that the plate promises."""

    plate: str
    well: str
    site: int
    folder: str


class _Layout(NamedTuple):
    """What the metadata of an image says of its pixels."""

    level: str
    """Path of the array in full resolution, relative to the image."""
    axes: tuple[str, ...]
    labels: tuple[str, ...]
    """Of its channels; empty where there is none."""
    pixel_size: float | None


@dataclass
class _Store:
    """Gathers the planes of one plate."""

    root: str
    name: str
    planes: list[Plane] = field(default_factory=list)
    lost: list[tuple[_Spot, str]] = field(default_factory=list)
    """Images that cannot be used, and why."""
    lost_wells: list[tuple[str, str]] = field(default_factory=list)
    pixel_sizes: dict[float, None] = field(default_factory=dict)
    channels: dict[str, None] = field(default_factory=dict)
    """In the order of the arrays."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the plate."""
    _moved: list[str] = field(default_factory=list)

    def collect(self) -> None:
        """Read the metadata of all wells and images."""
        try:
            described, positions = plate(self.root), series(self.root)
        except ImageError as error:
            raise InputError(str(error)) from error
        spots = self._spots(described) if described is not None else self._collected(positions)
        if is_remote(self.root):
            _fetch_ahead([spot.folder for spot in spots])
        for spot in spots:
            try:
                self._add_image(spot)
            except ImageError as error:
                self.lost.append((spot, str(error)))

    def expected(self) -> Iterator[tuple[FieldKey, str]]:
        """Say what the images that cannot be used would hold if they were like the others of their plate."""
        channels: dict[str, dict[tuple[int, str], None]] = defaultdict(dict)
        sites: dict[str, dict[int, None]] = defaultdict(dict)
        for key, channel, *_ in self.planes:
            channels[key.plate][key.time, channel] = None
            sites[key.plate][key.site] = None
        for spot, _ in self.lost:
            for time, channel in channels[spot.plate]:
                yield FieldKey(spot.plate, spot.well, spot.site, time), channel
        for well, _ in self.lost_wells:
            for name in tuple(sites):
                for site, (time, channel) in product(sites[name], channels[name]):
                    yield FieldKey(name, well, site, time), channel

    def notes(self) -> Iterator[str]:
        """Say what was left out or is odd."""
        for what, reasons in (
            ("wells of the plate cannot be read", [reason for _, reason in self.lost_wells]),
            ("images of the plate cannot be used", [reason for _, reason in self.lost]),
        ):
            if reasons:
                yield f"{len(reasons)} {what} (such as: {reasons[0]})"
        if self._moved:
            yield (
                f"{len(self._moved)} wells lie in other rows or columns by their number than by their path, which was "
                f"taken (such as {self._moved[0]!r})"
            )

    # wells and sites

    def _spots(self, described: Json) -> list[_Spot]:
        """List the images of all wells, with sites and acquisitions."""
        images: list[tuple[str, str, str, int | None]] = []
        wells = self._wells(described)
        fetch_metadata(wells.values(), V2_ATTRIBUTES)
        for well, folder in wells.items():
            try:
                listed = self._well_images(folder)
            except ImageError as error:
                self.lost_wells.append((well, str(error)))
                continue
            images += [(well, folder, path, acquisition) for path, acquisition in listed]
        several = len({acquisition for *_, acquisition in images}) > 1
        numbers = _site_numbers([(well, acquisition, path) for well, _, path, acquisition in images])
        spots = []
        for (well, folder, path, acquisition), site in zip(images, numbers, strict=True):
            suffix = f"_acquisition{acquisition}" if several and acquisition is not None else ""
            spots.append(_Spot(self.name + suffix, well, site, f"{folder}/{path}"))
        return spots

    def _collected(self, positions: list[str]) -> list[_Spot]:
        """List the images of a collection without a plate, which are called after wells."""
        folders = [f"{self.root.rstrip('/')}/{_path(path, self.root)}" for path in positions]
        return [
            _Spot(self.name, spot.well, spot.site, folder)
            for spot, folder in zip(wells_of(positions), folders, strict=True)
        ]

    def _wells(self, described: Json) -> dict[str, str]:
        """Map well names to their folders."""
        rows, columns = as_list(described.get("rows")), as_list(described.get("columns"))
        self.grid = (_extent(rows, letters=True), _extent(columns, letters=False))
        wells: dict[str, str] = {}
        for entry in map(as_dict, as_list(described.get("wells"))):
            path = _path(entry.get("path"), self.root)
            row = _place(rows, entry.get("rowIndex"), letters=True)
            column = _place(columns, entry.get("columnIndex"), letters=False)
            by_index = well_name(row, column) if row and column else None
            name = _well_of_path(path) or by_index
            if name is None:
                raise InputError(f"{self.root} names a well {path!r}, which is not a row and a column such as A/1")
            if by_index not in (None, name):
                self._moved.append(path)
            if name in wells:
                raise InputError(f"{self.root} lists well {name} twice, as {wells[name]} and {path}: remove one")
            wells[name] = f"{self.root.rstrip('/')}/{path}"
        return wells

    def _well_images(self, folder: str) -> list[tuple[str, int | None]]:
        """Return path and acquisition of each field of a well."""
        found = attributes(folder)
        if found is None:
            raise ImageError(f"{folder} is not there or still being written")
        images = [as_dict(image) for image in as_list(as_dict(found.get("well")).get("images"))]
        if not images:
            raise ImageError(f"{folder} lists no images")
        return [(_path(image.get("path"), folder), _whole(image.get("acquisition"))) for image in images]

    # images

    def _add_image(self, spot: _Spot) -> None:
        """Add all planes of one field."""
        found = attributes(spot.folder)
        if found is None:
            raise ImageError(f"{spot.folder} is not there or still being written")
        layout = _layout(found, spot.folder)
        array = read_array(f"{spot.folder}/{layout.level}")
        axes = layout.axes or (_ALL_AXES if len(array.shape) == len(_ALL_AXES) else ())
        size = dict(zip(axes, array.shape, strict=False))
        if len(axes) != len(array.shape) or axes[-2:] != ("y", "x"):
            raise ImageError(f"{spot.folder} has axes {'/'.join(axes) or 'without names'}: t/c/z/y/x are understood")
        if odd := [axis for axis in axes[:-2] if axis not in _ALL_AXES and size[axis] > 1]:
            raise ImageError(f"{spot.folder} has an axis {odd[0]!r} of {size[odd[0]]} places: t/c/z/y/x are understood")
        times, depth, count = size.get("t", 1), size.get("z", 1), size.get("c", 1)
        if len(self.planes) + times * depth * count > _MAX_PLANES:
            raise InputError(f"{self.root} declares more than {_MAX_PLANES} planes, which is not possible")
        names = _channel_names(layout.labels, count)
        self.channels |= dict.fromkeys(names)
        for t in range(times):
            key = FieldKey(spot.plate, spot.well, spot.site, t + 1)
            for (c, name), z in product(enumerate(names), range(depth)):
                place = {"t": t, "c": c, "z": z}
                index = tuple([place.get(axis, 0) for axis in axes[:-2]])
                self.planes.append(Plane(key, name, z if depth > 1 else None, ImageRef(array.folder, index)))
        if layout.pixel_size:
            self.pixel_sizes[layout.pixel_size] = None


def _fetch_ahead(images: list[str]) -> None:
    """Fetch the metadata of all images and of their arrays, many at a time."""
    fetch_metadata(images, V2_ATTRIBUTES)
    arrays = []
    for folder in images:
        with suppress(ImageError):  # it will be said when the image's turn comes
            arrays.append(f"{folder}/{_layout(attributes(folder) or {}, folder).level}")
    fetch_metadata(arrays, V2_ARRAY)


def _path(value: object, folder: str) -> str:
    """Return a relative path from metadata; it must not lead out of the store."""
    parts = value.strip("/").split("/") if isinstance(value, str) else [""]
    if any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        raise ImageError(f"{folder} names a path {str(value)[:80]!r}, which is no folder inside of it")
    return "/".join(parts)


def _whole(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _place(listed: list[Any], index: object, *, letters: bool) -> int | None:
    """Return the row or column (from 1) that an entry of the plate's list names."""
    number = _whole(index)
    if number is None or number >= len(listed):
        return None
    name = str(as_dict(listed[number]).get("name", "")).strip()
    if letters and re.fullmatch("[A-Za-z]{1,2}", name):
        return row_number(name)
    return int(name) if re.fullmatch("[0-9]{1,2}", name) else None


def _extent(listed: list[Any], *, letters: bool) -> int:
    """Return the last row or column that a plate's list names: some writers list only those that they use."""
    return max((_place(listed, number, letters=letters) or 0 for number in range(len(listed))), default=0)


def _well_of_path(path: str) -> str | None:
    """Read `A/1`; None if the path is built in another way."""
    row, _, column = path.partition("/")
    try:
        if row.isdecimal() and column.isdecimal():
            return well_name(int(row), int(column))
        return normalise_well(row + column)
    except (InputError, ValueError):
        return None


def _site_numbers(images: list[tuple[str, int | None, str]]) -> list[int]:
    """Return field numbers as the folders have them; from 1 in the order listed if these are not numbered.

    The folders of several acquisitions share one count, so these are numbered as listed, each from 1: a place that was
    imaged in every acquisition has one number in all of them.
    """
    found = [_NUMBER_AT_END.search(path) for _, _, path in images]
    numbers = [int(match[0]) for match in found if match]
    places = {(well, acquisition, number) for (well, acquisition, _), number in zip(images, numbers, strict=False)}
    one_acquisition = len({acquisition for _, acquisition, _ in images}) == 1
    if one_acquisition and len(places) == len(numbers) == len(images):
        return numbers
    count: Counter[tuple[str, int | None]] = Counter()
    in_order = []
    for well, acquisition, _ in images:
        count[well, acquisition] += 1
        in_order.append(count[well, acquisition])
    return in_order


def _layout(found: Json, folder: str) -> _Layout:
    """Read the first multiscale image of a group: its level in full resolution comes first."""
    image = as_dict(next(iter(as_list(found.get("multiscales"))), None))
    level = as_dict(next(iter(as_list(image.get("datasets"))), None))
    if not level:
        raise ImageError(f"{folder} describes no multiscale image")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in as_list(image.get("axes"))]
    channels = as_list(as_dict(found.get("omero")).get("channels"))
    return _Layout(
        _path(level.get("path"), folder),
        tuple(_axis_name(axis) for axis in axes),
        tuple(str(as_dict(channel).get("label") or "").strip() for channel in channels),
        _pixel_size(axes, level, image),
    )


def _axis_name(axis: Json) -> str:
    name = str(axis.get("name")).lower()
    return name if name in _ALL_AXES else _BY_TYPE.get(str(axis.get("type")), name)


def _pixel_size(axes: list[Json], *described: Json) -> float | None:
    """Return the width of a pixel in micrometres: the product of all scales; without a unit it says nothing."""
    unit = _UNITS.get(str(axes[-1].get("unit"))) if axes else None
    steps = [as_dict(step) for holder in described for step in as_list(holder.get("coordinateTransformations"))]
    scales = [as_list(step.get("scale")) for step in steps if step.get("type") == "scale"]
    if unit is None or not scales:
        return None
    size = unit
    for scale in scales:
        width = scale[-1] if len(scale) == len(axes) else None
        if not isinstance(width, int | float):
            return None
        size *= float(width)
    return size if 0 < size < float("inf") else None


def _channel_names(labels: tuple[str, ...], count: int) -> list[str]:
    """Name each channel by its label, by its number (from 1) where that is missing or not unique."""
    given = [*labels[:count], *[""] * (count - len(labels))]
    return [name if name and given.count(name) == 1 else str(number) for number, name in enumerate(given, start=1)]
