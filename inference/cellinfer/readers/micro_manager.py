"""Micro-Manager (1.4 and 2.0): image stacks `*_MMStack_*.ome.tif`, and one file for each image beside `metadata.txt`.

A stack says in a header of its own which plane lies where, while it is still being written and whatever becomes of
its OME-XML (written last, and only into one of the files).

Source: https://micro-manager.org/Micro-Manager_File_Formats and the published source of its writers.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import BinaryIO, NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import description, pixel_size, to_micrometres
from cellinfer.readers._positions import Spot, place
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.storage import open_file, open_text
from cellinfer.zarr_metadata import Json, as_dict, as_list

_TIFF = (".tif", ".tiff")
_INDEX_OFFSET, _INDEX, _SUMMARY, _NDTIFF = 54773648, 3453623, 2355492, 483729
"""Numbers that Micro-Manager writes before what they name."""
_HEADER = 40
_LONGEST = 64 << 20
"""Bytes of a summary at most: that of a thousand positions is below one MB."""
_PART = 1 << 16
_MAX_EXPECTED = 1_000_000
"""Planes that a plan may promise and still have each of them looked for."""
_MAX_SIZE = 10_000_000

_STACK_NAME = re.compile(r"(?P<prefix>.*?)_?MMStack(?:_(?P<label>.*?))?(?:\.ome)?\.tiff?", re.IGNORECASE)
_CONTINUED = re.compile(r"(.*)_\d+")
_OLD_NAME = re.compile(r"img_(?P<time>\d{9,})_(?P<channel>.*)_(?P<z>\d{3,})\.tiff?", re.IGNORECASE)
_NEW_NAME = re.compile(r"img((?:_[a-z]+\d{3,})+)\.tiff?", re.IGNORECASE)
_AXIS = re.compile(r"_([a-z]+)(\d+)", re.IGNORECASE)
_METADATA = "metadata.txt"
_METADATA_TAG = 51123


class _Image(NamedTuple):
    """One plane, as file names or headers number it."""

    position: int | str
    """Index in the list of positions, or the name of the position's folder."""
    channel: int | str
    z: int
    time: int
    path: str
    page: int | None
    """None where the file is the plane."""


class MicroManagerReader:
    """Reads what Micro-Manager saves as image stack files or as separate image files.

    Wells and sites come from the labels of the positions, channel names and all planes that were planned from the
    summary. Data in the third format, NDTiff, is read by `NdTiffReader`.
    """

    name = "micro-manager"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there are stacks with Micro-Manager's header, or its names of images beside `metadata.txt`."""
        tiffs = [path for path in listing.images if path.lower().endswith(_TIFF)]
        named = [path for path in tiffs if "mmstack" in path.lower()]
        if any(_is_stack(listing.absolute(path)) for path in (named[:3] or tiffs[:1])):
            return 1.0
        return 1.0 if _image_folders(listing) else None

    def read(self, listing: Listing) -> Found:
        """Return the planes of all acquisitions below the folder.

        Raises
        ------
        InputError
            If there is none, or the header of the only one is damaged.
        """
        damaged: list[str] = []
        datasets = [*_stacks(listing, damaged), *_separate(listing)]
        if not any(dataset.images for dataset in datasets):
            if damaged:
                raise InputError(damaged[0])
            raise InputError(f"no images of Micro-Manager in {listing.root}: choose another layout")
        names = _plate_names(listing, datasets)
        planes: list[Plane] = []
        expected: list[tuple[FieldKey, str]] = []
        notes: list[str] = [f"{len(names)} plates: {', '.join(sorted(names, key=natural_key))}"] if names[1:] else []
        for name, dataset in zip(names, datasets, strict=True):
            planes += dataset.planes(listing, name)
            expected += dataset.expected(name)
            notes += dataset.notes
        used = {image.path for dataset in datasets for image in dataset.images}
        unused = tuple(path for path in listing.images if path not in used)
        sizes = sorted({size for dataset in datasets if (size := dataset.pixel_size(listing))})
        if len(sizes) > 1:
            notes.append(f"pixel sizes differ, none is taken: {', '.join(f'{size:g}' for size in sizes)} µm")
        if unused:
            notes.append(f"{len(unused)} images are left out, Micro-Manager did not write them (such as {unused[0]!r})")
        return Found(
            layout=self.name,
            planes=planes,
            expected=tuple(expected),
            channels=tuple(dict.fromkeys(name for dataset in datasets for name in dataset.channels.values())),
            ignored=unused,
            pixel_size=sizes[0] if len(sizes) == 1 else None,
            notes=(*dict.fromkeys(notes), *damaged),
        )


# what both formats have in common


@dataclass
class _Dataset:
    """One acquisition."""

    folder: str
    name: str
    """As Micro-Manager called it; empty if it does not say."""
    summary: Json
    images: list[_Image] = field(default_factory=list)
    labels: dict[int | str, str] = field(default_factory=dict)
    """Positions whose labels the list of positions does not say."""

    @cached_property
    def positions(self) -> dict[int | str, Spot]:
        """Well and site of each position, imaged or planned."""
        return self._placed[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd."""
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[dict[int | str, Spot], tuple[str, ...]]:
        planned = stage_labels(self.summary)
        seen = {image.position for image in self.images}
        labels: dict[int | str, str]
        if all(isinstance(position, int) for position in seen):
            numbers = sorted({*range(len(planned)), *(int(each) for each in seen)})
            labels = {each: planned[each] if each < len(planned) else "" for each in numbers}
            labels = {each: label or self.labels.get(each, f"Pos{each}") for each, label in labels.items()}
        else:
            known = {label: None for label in planned if label} if seen <= {*planned} else {}
            labels = {each: str(each) for each in known or sorted(seen, key=lambda each: natural_key(str(each)))}
            labels |= self.labels
        spots, notes = place(list(labels.values()))
        return dict(zip(labels, spots, strict=True)), notes

    @cached_property
    def channels(self) -> dict[int | str, str]:
        """Number, or name in a file's name, -> name of the channel."""
        names = channel_names(self.summary)
        used = {image.channel for image in self.images}
        if all(isinstance(channel, int) for channel in used):
            numbers = sorted({*range(max(len(names), 1)), *used}, key=int)
            return {n: names[int(n)] if int(n) < len(names) else str(int(n) + 1) for n in numbers}
        plain = {_plain(name): name for name in names}
        found = {channel: plain.get(_plain(str(channel)), str(channel)) for channel in used}
        return dict(sorted(found.items(), key=lambda item: (_place_in(names, item[1]), natural_key(item[1]))))

    def planes(self, listing: Listing, plate: str) -> Iterator[Plane]:
        """Yield all planes."""
        depths = max((image.z for image in self.images), default=0)
        is_stack = depths > 0 or planned_size(self.summary, "Slices", "z") > 1
        for image in self.images:
            spot = self.positions[image.position]
            ref = ImageRef(listing.absolute(image.path), () if image.page is None else (image.page,))
            key = FieldKey(plate, spot.well, spot.site, image.time + 1)
            yield Plane(key, self.channels[image.channel], image.z if is_stack else None, ref)

    def expected(self, plate: str) -> Iterator[tuple[FieldKey, str]]:
        """Yield what was planned: all positions and channels at all times."""
        times = planned_size(self.summary, "Frames", "time")
        if times * len(self.positions) * len(self.channels) > _MAX_EXPECTED:
            return
        for spot, time, channel in product(self.positions.values(), range(times), self.channels.values()):
            yield FieldKey(plate, spot.well, spot.site, time + 1), channel

    def pixel_size(self, listing: Listing) -> float | None:
        """Return the width of a pixel in micrometres."""
        if size := summary_pixel_size(self.summary):
            return size
        if not self.images:
            return None
        path = listing.absolute(self.images[0].path)
        return summary_pixel_size(_of_page(path)) or pixel_size(description(path))


def _of_page(path: str) -> Json:
    """Read what a stack says of its first image."""
    try:
        return as_dict(json.loads(description(path, _METADATA_TAG) or "{}"))
    except (ValueError, RecursionError):
        return {}


def scalar(value: object) -> object:
    """Return a value that a version of Micro-Manager may wrap with its type."""
    return value["scalar"] if isinstance(value, dict) and "scalar" in value else value


def stage_labels(summary: Json) -> list[str]:
    """Return the labels of the list of positions; empty where a position has none."""
    listed = as_list(summary.get("StagePositions")) or as_list(summary.get("InitialPositionList"))
    # 2.0 beta writes small letters
    return [str(scalar(each.get("Label", each.get("label"))) or "") for each in map(as_dict, listed)]


def channel_names(summary: Json) -> list[str]:
    """Return the names of the channels, by number where one has no name or the same as another."""
    listed = as_list(scalar(summary.get("ChNames")))
    names = [" ".join(str(name or "").split()) for name in listed]
    given = [name if name and names.count(name) == 1 else str(number) for number, name in enumerate(names, start=1)]
    return given if len(set(given)) == len(given) else [str(number) for number in range(1, len(given) + 1)]


def planned_size(summary: Json, old: str, new: str) -> int:
    """Return how many times, planes or the like were planned, 1 if it is not said."""
    value = scalar(as_dict(scalar(summary.get("IntendedDimensions"))).get(new)) or scalar(summary.get(old))
    return value if type(value) is int and 1 <= value <= _MAX_SIZE else 1


def summary_pixel_size(summary: Json) -> float | None:
    """Return the width of a pixel in micrometres; Micro-Manager writes 0 if it does not know."""
    value = scalar(summary.get("PixelSize_um", summary.get("PixelSizeUm")))
    return to_micrometres(str(value), "µm") if isinstance(value, int | float) else None


def _plain(name: str) -> str:
    """Return what is left of a channel's name in file names."""
    return re.sub(r"\W|_", "", name).casefold()


def _place_in(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _plate_names(listing: Listing, datasets: Sequence[_Dataset]) -> list[str]:
    """Name acquisitions as Micro-Manager did, after their folders where it gave one name twice."""
    folders = [dataset.folder.rpartition("/")[2] or listing.name for dataset in datasets]
    names = [dataset.name or folder for dataset, folder in zip(datasets, folders, strict=True)]
    for others in (folders, [dataset.folder or listing.name for dataset in datasets]):
        count = Counter(names)
        names = [other if count[name] > 1 else name for name, other in zip(names, others, strict=True)]
    count = Counter(names)
    both = [f"{name}/{dataset.name}" for name, dataset in zip(names, datasets, strict=True)]
    return [other if count[name] > 1 else name for name, other in zip(names, both, strict=True)]


# stacks


class _Header(NamedTuple):
    """What the first bytes of a stack say."""

    order: str
    first: int
    """Offset of the first image's directory."""
    planes: int
    """Offset of the list of planes."""
    summary: int
    """Length of the summary, which follows the header."""


def _header(file: BinaryIO) -> _Header | None:
    """Read the header; None if Micro-Manager did not write the file as a stack."""
    start = file.read(_HEADER)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < _HEADER:
        return None
    first, index_mark, index, _, _, comments, _, summary_mark, summary = struct.unpack(order + "9I", start[4:])
    if index_mark != _INDEX_OFFSET or summary_mark != _SUMMARY or comments == _NDTIFF:
        return None
    return _Header(order, first, index, summary)


def _is_stack(path: str) -> bool:
    try:
        with open_file(path, parts=True) as file:
            return _header(file) is not None
    except OSError:
        return False


def _stacks(listing: Listing, damaged: list[str]) -> list[_Dataset]:
    """Read the headers of all stacks; the summary, the same in all files of an acquisition, once."""
    datasets: dict[tuple[str, str], _Dataset] = {}
    files: dict[tuple[str, str], list[tuple[str, list[_Image]]]] = defaultdict(list)
    for path in listing.images:
        if not path.lower().endswith(_TIFF):
            continue
        folder, _, name = path.rpartition("/")
        match = _STACK_NAME.fullmatch(name)
        key = (folder, match["prefix"] if match else "")
        try:
            with open_file(listing.absolute(path), parts=True) as file:
                header = _header(file)
                if header is None:
                    continue
                if key not in datasets:
                    datasets[key] = _Dataset(folder, key[1], _summary(file, header))
                entries = list(_entries(file, header))
        except (OSError, ValueError, RecursionError, struct.error) as error:
            damaged.append(f"{listing.absolute(path)} is damaged and left out ({error}): copy it again")
            continue
        images = [_Image(p, c, z, t, path, page) for (c, z, t, p), page in entries]
        files[key].append((match["label"] or "" if match else "", images))
    for key, of_dataset in files.items():
        _number_positions(datasets[key], of_dataset)
    return list(datasets.values())


def _summary(file: BinaryIO, header: _Header) -> Json:
    """Read the summary of an acquisition."""
    if header.summary > _LONGEST:
        raise ValueError(f"its summary has {header.summary} bytes")
    file.seek(_HEADER)
    raw = file.read(header.summary).rstrip(b"\0 ")
    return as_dict(json.loads(raw.decode("utf-8", errors="replace")))


def _entries(file: BinaryIO, header: _Header) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """Yield channel, z, time and position of each plane, and its page.

    Directories are written one after the other, so pages are numbered as the offsets are; a plane that was written
    twice counts as its second version. While the file is being written the list has room for more and ends with 0.
    """
    length = file.seek(0, 2)
    file.seek(header.planes)
    mark, count = struct.unpack(header.order + "2I", file.read(8))
    if mark != _INDEX:
        raise ValueError("the list of its planes is not where its header says")
    rows: list[tuple[int, ...]] = []
    while len(rows) < count:
        part = file.read(min(20 * (count - len(rows)), _PART // 20 * 20))
        new = [row for row in struct.iter_unpack(header.order + "5I", part[: len(part) // 20 * 20]) if row[4]]
        rows += new
        if len(new) < len(part) // 20 or len(part) < 20:
            break
    rows = [row for row in rows if row[4] < length]
    offsets = sorted({row[4] for row in rows})
    if offsets and offsets[0] != header.first:
        raise ValueError("the list of its planes does not begin with its first page")
    pages = {offset: page for page, offset in enumerate(offsets)}
    latest = {row[:4]: row[4] for row in sorted(rows, key=lambda row: row[4])}
    for (c, z, t, p), offset in latest.items():
        yield (c, z, t, p), pages[offset]


def _number_positions(dataset: _Dataset, files: list[tuple[str, list[_Image]]]) -> None:
    """Add the images of all files to their acquisition, each under the number of its position.

    A file that holds one position is called after it, which tells more than the number in its list: that one starts
    from 0 in each file where a script acquired the positions one by one. `Pos0_1` goes on with `Pos0`.
    """
    planned = stage_labels(dataset.summary)
    called = {label for label, _ in files}
    taken: dict[int, str] = {}
    free = max([len(planned) - 1, *(int(image.position) for _, images in files for image in images)], default=0) + 1
    for label, images in files:
        match = _CONTINUED.fullmatch(label)
        label = match[1] if match and match[1] in called else label
        numbers = {int(image.position) for image in images}
        if not label or len(numbers) != 1:
            dataset.images += images
            continue
        (number,) = numbers
        if label in planned and (number >= len(planned) or planned[number] != label):
            number = planned.index(label)
        elif taken.setdefault(number, label) != label:
            number = next((each for each, name in taken.items() if name == label), free)
            free += number == free
        taken[number] = label
        dataset.labels[number] = label
        dataset.images += [image._replace(position=number) for image in images]


# separate files


def _image_folders(listing: Listing) -> dict[str, str]:
    """Return the folders that hold `metadata.txt` and images named as Micro-Manager does -> path of the former."""
    texts = {path.rpartition("/")[0]: path for path in listing.ignored if path.rpartition("/")[2].lower() == _METADATA}
    found: dict[str, str] = {}
    if not texts:
        return found
    for path in listing.images:
        folder, _, name = path.rpartition("/")
        if folder in texts and folder not in found and (_OLD_NAME.fullmatch(name) or _NEW_NAME.fullmatch(name)):
            found[folder] = texts[folder]
    return found


def _separate(listing: Listing) -> list[_Dataset]:
    """Gather folders of images: each is one position, or an acquisition that had no more than one."""
    folders = _image_folders(listing)
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in listing.images:
        folder, _, name = path.rpartition("/")
        if folder in folders:
            by_folder[folder].append((path, name))
    datasets: dict[str, _Dataset] = {}
    several: dict[str, Json] = {}
    for folder, metadata in folders.items():
        parent, _, last = folder.rpartition("/")
        summary = several.get(parent) or _text_summary(listing.absolute(metadata))
        is_position = bool(folder) and planned_size(summary, "Positions", "position") > 1
        last = last or listing.root.name  # a user gave the folder of one position
        if is_position:
            several[parent] = summary
        home = parent if is_position else folder
        dataset = datasets.setdefault(home, _Dataset(home, "", summary))
        dataset.images += _named_images(by_folder[folder], last)
        dataset.labels.setdefault(last, last)
    for dataset in datasets.values():
        if len(dataset.labels) == 1 and (labels := stage_labels(dataset.summary)[:2]) and len(labels) == 1:
            dataset.labels = dict.fromkeys(dataset.labels, labels[0])
    return list(datasets.values())


def _text_summary(path: str) -> Json:
    """Read the summary at the start of `metadata.txt`, which may still be written: only that part of it is read.

    Raises
    ------
    InputError
        If there is none: without it, the names of positions and channels are not known.
    """
    text, size = "", _PART
    try:
        with open_text(path) as file:
            while part := file.read(size):
                text += part
                start = text.find('"Summary"')
                start = text.find("{", start) if start >= 0 else -1
                if start >= 0:
                    try:
                        return as_dict(json.JSONDecoder().raw_decode(text, start)[0])
                    except ValueError:
                        pass
                if len(text) > _LONGEST:
                    break
                size *= 2
    except (OSError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or type(error).__name__}") from error
    raise InputError(
        f"{path} is damaged, the summary that it begins with is not there or not whole: copy it again, "
        "or say how the files are named with --pattern"
    )


def _named_images(files: Iterable[tuple[str, str]], position: str) -> Iterator[_Image]:
    """Read file names: `img_000000000_DAPI_000.tif` or `img_channel000_position000_time000000000_z000.tif`."""
    for path, name in files:
        if match := _NEW_NAME.fullmatch(name):
            axes = {axis.lower(): int(number) for axis, number in _AXIS.findall(match[1])}
            yield _Image(position, axes.get("channel", 0), axes.get("z", 0), axes.get("time", 0), path, None)
        elif match := _OLD_NAME.fullmatch(name):
            yield _Image(position, match["channel"], int(match["z"]), int(match["time"]), path, None)
