"""Large XML indexes: read fast, their file names matched to the files that are there, and turned into planes."""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from xml.parsers import expat

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing
from cellinfer.storage import is_remote, open_file, version

_CHUNK = 1 << 20
_BY_NAMES = "or go by the file names alone with --layout pattern"

# Reading an index


class Element(NamedTuple):
    """One XML element: its name without namespace, its attributes, the text up to the next element."""

    name: str
    attributes: dict[str, str]
    text: str


@dataclass
class Elements:
    """What `read_elements` found."""

    root: str = ""
    """Name of the outermost element, without its namespace; empty if the file is no XML at all."""
    found: list[Element] = field(default_factory=list)
    damage: str = ""
    """Why the rest of the file could not be read; empty if all of it was."""


class _DoctypeError(ValueError):
    """The file has a document type, where entities are declared that blow up memory or point to other files."""


def read_index(path: str, names: frozenset[str]) -> Elements:
    """Read an index as `read_elements` does, but once for all who ask before `found_in` is done."""
    try:
        if is_remote(path):
            size, checksum = version(path)
            return _read_version(path, names, checksum, size)
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return Elements(damage=error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode):  # a pipe would never end
        return Elements(damage="it is no file")
    return _read_version(path, names, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # the first index of a folder is asked for by can_read and by read; all of them would be large
def _read_version(path: str, names: frozenset[str], _modified: int | str, _size: int) -> Elements:
    return read_elements(path, names)


def unusable(path: str, reason: object) -> InputError:
    """Return the error that says what is wrong with an index, and what to do."""
    return InputError(f"{path} {reason}: copy or export the plate again, {_BY_NAMES}")


def checked(path: str, build: Callable[[], tuple[IndexedImage, ...]]) -> tuple[IndexedImage, ...]:
    """Return the images of an index; whatever is missing or no number in it becomes an `InputError` that names it."""
    try:
        return build()
    except KeyError as error:
        raise unusable(path, f"lists an image without {error.args[0]}") from error
    except (ValueError, InputError) as error:
        raise unusable(path, f"lists an image that cannot be ({error})") from error


def read_elements(path: str, names: frozenset[str]) -> Elements:
    """Read the elements of some names from an XML file, in their order.

    An index describes each image in some 35 elements, of which 10 are wanted: a tree of them all takes four times as
    long and hundreds of MB. Documents with a document type are refused, so that no entity can be declared.

    Parameters
    ----------
    path
        File in any encoding that its first line declares.
    names
        Wanted elements, without namespace: namespaces change with each version of a schema.

    Returns
    -------
    Elements
        Up to the place where the file is damaged.
    """
    result = Elements()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    wanted: dict[str, str] = {}
    pieces: list[str] = []
    opened: list[tuple[str, dict[str, str]]] = []

    def finish() -> None:
        name, attributes = opened.pop()
        result.found.append(Element(name, attributes, "".join(pieces).strip()))
        pieces.clear()
        parser.CharacterDataHandler = None

    def start(qualified: str, attributes: dict[str, str]) -> None:
        name = wanted.get(qualified)
        if opened:
            finish()
        if name is None:
            name = qualified.rpartition("}")[2]
            result.root = result.root or name
            name = wanted[qualified] = name if name in names else ""
        if name:
            opened.append((name, attributes))
            parser.CharacterDataHandler = pieces.append

    def refuse(root: str, *_: object) -> None:
        result.root = root
        raise _DoctypeError("it declares a document type, which no instrument does")

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        with open_file(path) as file:
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        result.damage = f"line {error.lineno}: {expat.ErrorString(error.code)}"
    except (OSError, ValueError, LookupError) as error:  # the last two: encodings that Python does not have
        result.damage = getattr(error, "strerror", None) or str(error)
    if opened:
        finish()
    return result


def whole(text: str | None) -> int:
    """Return a whole number; 0 where there is none."""
    return int(text) if text and text.isdecimal() and len(text) < 10 else 0


class IndexedImage(NamedTuple):
    """One plane as an index lists it."""

    file: str
    """As the index writes it; empty if the instrument recorded nothing."""
    well: str
    site: int
    time: int
    channel: str
    z: int | None
    good: bool = True
    """Whether the instrument says that the image is usable."""


@dataclass(frozen=True)
class Index:
    """What one index file says about its plate."""

    path: str
    """Relative to the root, with `/`."""
    plate: str
    """Empty if the index has no name for it."""
    images: tuple[IndexedImage, ...]
    pixel_sizes: frozenset[float] = frozenset()
    """In micrometres."""
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    """In the instrument's order."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the plate; 0 if the index does not say."""


class _Files:
    """Finds the listed file that an index means, whatever system wrote the index or copied the files."""

    def __init__(self, images: tuple[str, ...]) -> None:
        self._folded = {_fold(path): path for path in images}
        self._exact = frozenset(images)
        self._named: dict[str, list[str]] = defaultdict(list)
        for folded in self._folded:
            self._named[folded.rpartition("/")[2]].append(folded)

    def find(self, folder: str, file: str) -> str | None:
        """Return the path of a file named by an index in `folder`.

        Where the file is not at the place named, the one file of that name below the folder is meant: absolute paths
        come from the instrument's computer, and images are moved into folders of their own.
        """
        file = file.replace("\\", "/")
        path = f"{folder}/{file}" if folder else file
        if path in self._exact:
            return path
        if "/" in file:
            path = posixpath.normpath(path)
        if found := self._folded.get(_fold(path)):
            return found
        inside = _fold(f"{folder}/") if folder else ""
        same = [path for path in self._named.get(_fold(file.rpartition("/")[2]), ()) if path.startswith(inside)]
        return self._folded[same[0]] if len(same) == 1 else None


def _fold(path: str) -> str:
    """Make paths equal that differ in case, or in the way a file system writes accents."""
    return path.casefold() if path.isascii() else unicodedata.normalize("NFC", path).casefold()


class _Placed(NamedTuple):
    """An index, and for each of its images the listed file, None if it is not there."""

    listed: Index
    paths: list[str | None]


def found_in(listing: Listing, layout: str, indexes: Iterable[Index]) -> Found:
    """Return the planes that index files list.

    Parameters
    ----------
    listing
        The folder.
    layout
        Name of the reader.
    indexes
        One for each plate; where several name the same file, the innermost has it.

    Returns
    -------
    Found
        With everything the indexes promise as `expected`, and a note on whatever does not fit them.

    Raises
    ------
    InputError
        If none of the images listed is there.
    """
    _read_version.cache_clear()
    placed = _place(listing, indexes)
    names = _plate_names(listing, [index for index, _ in placed])
    planes: list[Plane] = []
    expected: list[tuple[FieldKey, str]] = []
    expected_z: list[tuple[FieldKey, str, int]] = []
    failed: list[str] = []
    notes: list[str] = []
    for index, paths in placed:
        keys: dict[tuple[str, int, int], FieldKey] = {}
        for image, path in zip(index.images, paths, strict=True):
            place = (image.well, image.site, image.time)
            key = keys.get(place) or keys.setdefault(place, FieldKey(names[index.path], *place))
            expected.append((key, image.channel))
            if image.z is not None:
                expected_z.append((key, image.channel, image.z))
            if path is not None and image.good:
                planes.append(Plane(key, image.channel, image.z, ImageRef(listing.absolute(path))))
            elif path is not None:
                failed.append(path)
        notes += (*index.notes, *_absent_note(index, paths))
    if not planes:
        total = sum(len(index.images) for index, _ in placed)
        raise InputError(
            f"none of the {total} images that {placed[0].listed.path} lists can be read below {listing.root}: "
            f"give the folder that holds them too, {_BY_NAMES}"
        )
    known = {path for _, paths in placed for path in paths}
    unknown = [path for path in listing.images if path not in known]
    size, size_note = _one_pixel_size([index for index, _ in placed])
    return Found(
        layout=layout,
        planes=planes,
        expected=tuple(expected),
        expected_z=tuple(expected_z),
        channels=tuple(dict.fromkeys(channel for index, _ in placed for channel in index.channels)),
        wells=largest(index.grid for index, _ in placed),
        ignored=(*unknown, *failed),
        pixel_size=size,
        notes=(
            *_plates_note({plane.key.plate for plane in planes}),
            *notes,
            *_left_out_note(failed, "the instrument says that they failed"),
            *_left_out_note(unknown, "no index lists them"),
            *size_note,
        ),
    )


def _place(listing: Listing, indexes: Iterable[Index]) -> list[_Placed]:
    """Find the files of each index; one whose files all belong to others is a second copy and is dropped."""
    files = _Files(listing.images)
    used: set[str] = set()
    placed: list[_Placed] = []
    for index in sorted(indexes, key=lambda index: (-index.path.count("/"), natural_key(index.path))):
        folder = posixpath.dirname(index.path)
        paths = [files.find(folder, image.file) if image.file else None for image in index.images]
        found = {path for path in paths if path}
        if not found or found - used:
            placed.append(_Placed(index, [None if path in used else path for path in paths]))
            used |= found
    return placed


def _absent_note(index: Index, paths: list[str | None]) -> tuple[str, ...]:
    """Say how many images are not there: a plane that lacks in a z-stack is seen nowhere else."""
    absent = [image.file for image, path in zip(index.images, paths, strict=True) if path is None]
    if not absent:
        return ()
    such = next((f" (such as {file!r})" for file in absent if file), "")
    return (f"{len(absent)} of {len(paths)} images that {index.path} lists are not there{such}",)


def _left_out_note(paths: list[str], reason: str) -> tuple[str, ...]:
    return (f"{len(paths)} images are left out, {reason} (such as {paths[0]!r})",) if paths else ()


def _plates_note(plates: set[str]) -> tuple[str, ...]:
    return (f"{len(plates)} plates: {', '.join(sorted(plates, key=natural_key))}",) if len(plates) > 1 else ()


def _one_pixel_size(indexes: Iterable[Index]) -> tuple[float | None, tuple[str, ...]]:
    """Return the size of a pixel, None where images differ, and what to say about that."""
    sizes = sorted({size for index in indexes for size in index.pixel_sizes})
    if not sizes or sizes[-1] - sizes[0] < 1e-3 * sizes[0]:
        return (sizes[0] if sizes else None), ()
    return None, (f"the size of a pixel differs between images: {', '.join(f'{size:.4g}' for size in sizes)} µm",)


def _plate_names(listing: Listing, indexes: list[Index]) -> dict[str, str]:
    """Name each index's plate: as it says, or after its folder where two say the same (a plate measured twice)."""
    folders = {index.path: _folder_above(index.path) or listing.name for index in indexes}
    ways: tuple[Callable[[Index], str], ...] = (
        lambda index: index.plate,
        lambda index: folders[index.path].rpartition("/")[2] or index.plate,
        lambda index: folders[index.path],
        lambda index: index.path,
    )
    names = {index.path: "" for index in indexes}
    for way in ways:
        clashes = Counter(names.values())
        for index in indexes:
            if not names[index.path] or clashes[names[index.path]] > 1:
                names[index.path] = way(index)
    return {path: name or listing.name for path, name in names.items()}


def _folder_above(path: str) -> str:
    """Return the folder of an index, or the one above if that just says `Images`."""
    folder = posixpath.dirname(path)
    above, _, last = folder.rpartition("/")
    return above if last.casefold() in ("images", "image") else folder
