"""The one walk through a plate's folder that all readers share."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cellinfer.errors import ImageError, InputError
from cellinfer.plate import IMAGE_SUFFIXES, NO_PLATE, natural_key
from cellinfer.readers._positions import wells_of
from cellinfer.storage import AnyPath, RemotePath, find, join, location, versions
from cellinfer.zarr_metadata import NODE_FILES, plate, series

MAX_DEPTH = 8
"""Folders below the root that are looked into; no instrument nests deeper."""

_CLOSED = ("journal.jsonl", NO_PLATE)
_THUMBNAIL = re.compile(r"_thumb|thumbs?\.", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder: paths relative to `root`, with `/` on every system, in natural order."""

    root: AnyPath
    images: tuple[str, ...]
    ignored: tuple[str, ...]
    """Thumbnails, hidden files, other file types and folders that were not entered (these end in `/`)."""
    stores: tuple[str, ...] = ()
    """Folders that are OME-Zarr plates, `""` for the root itself; nothing inside of them is listed."""

    @property
    def name(self) -> str:
        """Name of a plate that nothing else names: its folder's, or the one above if that just says `images`."""
        generic = self.root.name.casefold() in ("images", "image")
        return (self.root.parent.name if generic else "") or self.root.name

    def absolute(self, relative: str) -> str:
        """Return the absolute path of a listed file."""
        return join(str(self.root), relative)

    def relative(self, absolute: str) -> str:
        """Undo `absolute`."""
        if isinstance(self.root, RemotePath):
            return absolute.removeprefix(self.root.url + "/")
        return Path(absolute).relative_to(self.root).as_posix()


def scan(path: str | os.PathLike[str]) -> Listing:
    """List all image files and OME-Zarr plates under a folder, opening none but the metadata of Zarr stores.

    Links to folders are followed, each real folder is entered once, so a loop of links ends. Array stores (`.zarr`, or
    with metadata of Zarr inside), hidden folders, those with a `.cellinferignore`, and folders with results of a run
    (they hold a `journal.jsonl` from their first second on) are not entered: a plate's store holds many more files than
    images.

    Raises
    ------
    InputError
        If the folder does not exist, is a file, cannot be read or holds neither image nor plate.
    """
    given = location(path)
    if isinstance(given, RemotePath):
        return _scan_remote(given)
    root = Path(os.path.abspath(given))  # noqa: PTH100  keeps links in the name as the user typed them
    if not root.exists():
        raise InputError(f"there is no folder {root}")
    if not root.is_dir():
        raise InputError(f"{root} is a file: give the folder that holds the plate (for one image: `cellinfer segment`)")
    found = _Found([], [], [])
    _walk(root, found)
    return _listing(root, found)


def _listing(root: AnyPath, found: _Found) -> Listing:
    if not found.images and not found.stores:
        raise InputError(f"no image in {root}: {_what_else(root, found.ignored)}")
    return Listing(root, *(tuple(sorted(names, key=natural_key)) for names in found))


def _scan_remote(root: RemotePath) -> Listing:
    """List a folder in a store by one call; the rules are those of local folders."""
    found = _Found([], [], [])
    try:
        if _is_store(root.url):  # without a list of its chunks, which may be very many
            _sort_store(str(root), "", found)
            return _listing(root, found)
        files = find(root.url)
    except OSError as error:
        raise InputError(f"cannot list {root}: {error.strerror}") from error
    if "" in files:
        raise InputError(f"{root} is a file: give the folder that holds the plate")
    if not files:
        raise InputError(f"there is no folder {root}, or nothing is in it")
    below: dict[str, dict[str, _Entry]] = {"": {}}
    for path in files:
        folder = ""
        *parts, name = path.split("/")
        for part in parts:
            below[folder].setdefault(part, _Entry(part, folder=True))
            folder += part + "/"
            below.setdefault(folder, {})
        below[folder][name] = _Entry(name, folder=False)
    level = [""]
    for _ in range(MAX_DEPTH + 1):
        level = [enter for folder in level for enter in _sort_entries(str(root), folder, below[folder].values(), found)]
    found.ignored.extend(level)
    return _listing(root, found)


def _is_store(url: str) -> bool:
    """Return whether a remote folder is a Zarr group or array."""
    found = versions(join(url, name) for name in NODE_FILES).values()
    for answer in found:
        if isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError):
            raise answer
    return not all(isinstance(answer, OSError) for answer in found)


def _what_else(root: AnyPath, ignored: list[str]) -> str:
    """Say what a folder without images holds instead, and what to do."""
    for folder in root.parents[:4]:  # row, well, field, level
        if is_plate(str(folder), if_damaged=False):
            return f"it lies inside of the OME-Zarr plate {folder}, give that folder"
    if store := next((name for name in ignored if name.endswith((".zarr/", "./"))), None):
        where = "it" if store == "./" else repr(store)
        return f"{where} is a Zarr store without the metadata of an OME-Zarr plate"
    found = f"{len(ignored)} other files, for example {ignored[0]!r}" if ignored else "it is empty"
    return f"{found}; images end in {', '.join(sorted(IMAGE_SUFFIXES))}"


class _Entry:
    """A file or folder in a store, with what is needed of `os.DirEntry`."""

    def __init__(self, name: str, *, folder: bool) -> None:
        self.name, self._folder = name, folder

    def is_dir(self) -> bool:
        return self._folder

    def is_file(self) -> bool:
        return not self._folder


class _Found(NamedTuple):
    """The three lists of a `Listing`, while they are filled."""

    images: list[str]
    ignored: list[str]
    stores: list[str]


def _walk(root: Path, found: _Found) -> None:
    """Fill the lists; folders are visited breadth first, each real folder once."""
    seen: set[tuple[int, int]] = set()
    level = [""]
    for _ in range(MAX_DEPTH + 1):
        below: list[str] = []
        for folder in level:
            try:
                status = os.stat(root / folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(root / folder) as entries:
                    below += _sort_entries(str(root), folder, list(entries), found)
            except OSError as error:
                if not folder:
                    raise InputError(f"cannot read folder {root}: {error.strerror}") from error
                found.ignored.append(folder)
        level = below
    found.ignored.extend(level)


def _sort_entries(root: str, folder: str, entries: Collection[os.DirEntry[str] | _Entry], found: _Found) -> list[str]:
    """Put one folder's entries where they belong; return the folders to enter next."""
    images, ignored, _ = found
    if folder and any(entry.name in _CLOSED for entry in entries):
        ignored.append(folder)
        return []
    if any(entry.name in NODE_FILES for entry in entries):
        _sort_store(root, folder, found)
        return []
    enter: list[str] = []
    for entry in entries:
        name = folder + entry.name
        hidden = entry.name.startswith(".")
        if entry.is_dir() and entry.name.endswith(".zarr") and not hidden:
            _sort_store(root, name + "/", found)  # without a look at its files, which may be very many
        elif entry.is_dir():
            (ignored if hidden else enter).append(name + "/")
        elif hidden or _suffix(entry.name) not in IMAGE_SUFFIXES or _THUMBNAIL.search(entry.name):
            ignored.append(name)
        elif entry.is_file():
            images.append(name)
        else:  # a link to nothing, a socket
            ignored.append(name)
    return enter


def _sort_store(root: str, folder: str, found: _Found) -> None:
    """Tell plates from other Zarr stores (an image, labels, measurements)."""
    if is_plate(join(root, folder), if_damaged=True):  # its reader will explain
        found.stores.append(folder.rstrip("/"))
    else:
        found.ignored.append(folder or "./")


def is_plate(folder: str, *, if_damaged: bool) -> bool:
    """Return whether a folder is an OME-Zarr plate, or a collection of images that are called after wells.

    Whether damaged metadata count as one, the caller says.
    """
    try:
        return plate(folder) is not None or bool(wells_of(series(folder)))
    except ImageError:
        return if_damaged


def _suffix(name: str) -> str:
    """Return the ending of a file name in lower case, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
