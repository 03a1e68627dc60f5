"""Folders of images with the plan of a useq sequence beside them, as the image sequence writer of pymmcore-plus saves.

Names such as `00012_t0000_p003_c01_z002.tif` count positions and channels; wells and dyes are in the plan
(`_useq_MDASequence.json`) and in what is known of each frame (`_frame_metadata.json`).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import to_micrometres
from cellinfer.readers._positions import place
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing
from cellinfer.storage import open_file, open_text
from cellinfer.wells import well_name
from cellinfer.zarr_metadata import Json, as_dict, as_list

_PLAN, _FRAMES = "_useq_MDASequence.json", "_frame_metadata.json"
_NAME = re.compile(r"(?:.*?[-_])??(?:\d+_)?(?P<axes>[a-z]\d+(?:_[a-z]\d+)*)\.[a-z]+", re.IGNORECASE)
_LONGEST = 1 << 30


class _Frame(NamedTuple):
    """One image by its name."""

    path: str
    axes: dict[str, int]


class UseqReader:
    """Reads what the image sequence writer of pymmcore-plus saves, one or several acquisitions."""

    name = "useq"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if the plan of a sequence lies beside images that count its axes; no file is opened."""
        return 1.0 if _folders(listing) else None

    def read(self, listing: Listing) -> Found:
        """Return the images beside the plans.

        Raises
        ------
        InputError
            If there is no plan, or one is damaged.
        """
        folders = _folders(listing)
        if not folders:
            raise InputError(f"no {_PLAN} beside images in {listing.root}: choose another layout")
        names = {folder: folder.rpartition("/")[2] or listing.name for folder in folders}
        if len(set(names.values())) < len(names):
            names = {folder: folder or listing.name for folder in folders}
        planes: list[Plane] = []
        channels: dict[str, None] = {}
        sizes: set[float] = set()
        grids: list[tuple[int, int]] = []
        plates = sorted(names.values(), key=natural_key)
        notes = [f"{len(plates)} plates: {', '.join(plates)}"] if len(plates) > 1 else []
        for folder, frames in folders.items():
            acquisition = _Acquisition(listing, folder, frames)
            planes += acquisition.planes(names[folder])
            channels |= dict.fromkeys(acquisition.channels.values())
            notes += acquisition.notes
            sizes |= acquisition.pixel_sizes
            grids += acquisition.grid
        used = {frame.path for frames in folders.values() for frame in frames}
        unused = tuple(path for path in listing.images if path not in used)
        if unused:
            notes.append(f"{len(unused)} images are left out, they belong to no sequence (such as {unused[0]!r})")
        return Found(
            layout=self.name,
            planes=planes,
            channels=tuple(channels),
            wells=largest(grids),
            ignored=unused,
            pixel_size=next(iter(sizes)) if len(sizes) == 1 else None,
            notes=tuple(dict.fromkeys(notes)),
        )


def _folders(listing: Listing) -> dict[str, list[_Frame]]:
    """Return the images of each folder that holds a plan."""
    plans = {path.rpartition("/")[0] for path in listing.ignored if path.rpartition("/")[2] == _PLAN}
    found: dict[str, list[_Frame]] = defaultdict(list)
    for path in listing.images if plans else ():
        folder, _, name = path.rpartition("/")
        if folder in plans and (match := _NAME.fullmatch(name)):
            axes = {part[0].lower(): int(part[1:]) for part in match["axes"].split("_")}
            found[folder].append(_Frame(path, axes))
    return dict(found)


class _Acquisition:
    """One folder with a plan."""

    def __init__(self, listing: Listing, folder: str, frames: list[_Frame]) -> None:
        self._listing = listing
        self._frames = frames
        self._plan = _plan(listing.absolute(posixpath.join(folder, _PLAN)))
        self._text = _text(listing, posixpath.join(folder, _FRAMES))
        self._found_to = 0
        firsts: dict[tuple[int, int], _Frame] = {}
        for frame in frames:
            firsts.setdefault(_place(frame.axes), frame)
        about = {key: self._about(frame) for key, frame in firsts.items()}
        sizes = (to_micrometres(str(each.get("pixel_size_um")), "µm") for each in about.values())
        self.pixel_sizes = {size for size in sizes if size}
        planned = self._planned_labels()
        keys = sorted(firsts)
        labels = []
        for key in keys:
            name = as_dict(about[key].get("mda_event")).get("pos_name")
            labels.append(name if isinstance(name, str) and name else planned.get(key[0], f"Pos{key[0]}"))
        spots, self.notes = place(labels)
        self._spots = dict(zip(keys, spots, strict=True))
        self.channels = self._channel_names(sorted({frame.axes.get("c", 0) for frame in frames}))

    @property
    def grid(self) -> list[tuple[int, int]]:
        """Rows and columns of the plate, if one was planned."""
        plate = as_dict(as_dict(self._plan.get("stage_positions")).get("plate"))
        rows, columns = plate.get("rows"), plate.get("columns")
        return [(rows, columns)] if type(rows) is int and type(columns) is int and rows > 0 < columns else []

    def planes(self, plate: str) -> list[Plane]:
        """Return one plane for each image."""
        planes = []
        for path, axes in self._frames:
            spot = self._spots[_place(axes)]
            key = FieldKey(plate, spot.well, spot.site, axes.get("t", 0) + 1)
            ref = ImageRef(self._listing.absolute(path))
            planes.append(Plane(key, self.channels[axes.get("c", 0)], axes.get("z"), ref))
        return planes

    def _about(self, frame: _Frame) -> Json:
        """Find what is known of an image; the file of a long sequence has 100 MB, so only this part of it is read."""
        name = json.dumps(frame.path.rpartition("/")[2])
        at = self._text.find(name, self._found_to)
        at = self._text.find(name) if at < 0 else at
        if at < 0:
            return {}
        self._found_to = at
        try:
            start = self._text.index("{", at + len(name))
            return as_dict(json.JSONDecoder().raw_decode(self._text, start)[0])
        except (ValueError, RecursionError):  # cut off: it is written anew with every tenth image
            return {}

    def _planned_labels(self) -> dict[int, str]:
        """Return the labels of the positions in the plan: points in the wells of a plate, or a list."""
        positions = self._plan.get("stage_positions")
        if isinstance(positions, list):
            names = [as_dict(position).get("name") for position in positions]
            return {number: name for number, name in enumerate(names) if isinstance(name, str) and name}
        plan = as_dict(positions)
        wells = [as_list(part) for part in as_list(plan.get("selected_wells"))]
        points = _points(as_dict(plan.get("well_points_plan")))
        if len(wells) != 2 or points is None:
            return {}
        try:
            called = [well_name(row + 1, column + 1) for row, column in zip(*wells, strict=True)]
        except (InputError, TypeError, ValueError):
            return {}
        labels = [f"{well}_{point:04d}" if points > 1 else well for well in called for point in range(points)]
        return dict(enumerate(labels))

    def _channel_names(self, numbers: list[int]) -> dict[int, str]:
        """Map the number of a channel to its name in the plan, or to its number from 1."""
        listed = [each if isinstance(each, dict) else {"config": each} for each in as_list(self._plan.get("channels"))]
        names = [str(each.get("config") or "") for each in listed]
        known = {number: name for number, name in enumerate(names) if name and names.count(name) == 1}
        called = {number: known.get(number, str(number + 1)) for number in numbers}
        return called if len({*called.values()}) == len(called) else {number: str(number + 1) for number in numbers}


def _place(axes: dict[str, int]) -> tuple[int, int]:
    return axes.get("p", 0), axes.get("g", 0)


def _points(plan: Json) -> int | None:
    """Return how many points a plan has in each well, None if it is of a kind that is not known."""
    if not plan:
        return 1
    rows, columns, number = plan.get("rows"), plan.get("columns"), plan.get("num_points")
    if type(rows) is int and type(columns) is int:
        return rows * columns
    if type(number) is int:
        return number
    return 1 if {"x", "y"} & plan.keys() else None


def _plan(path: str) -> Json:
    try:
        with open_file(path) as file:
            return as_dict(json.loads(file.read(_LONGEST)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}): copy it again, or say how the files are named with --pattern"
        ) from error


def _text(listing: Listing, path: str) -> str:
    """Read what is known of the frames; nothing if there is no such file."""
    if path not in listing.ignored:
        return ""
    try:
        with open_text(listing.absolute(path)) as file:
            return file.read(_LONGEST)
    except OSError:
        return ""
