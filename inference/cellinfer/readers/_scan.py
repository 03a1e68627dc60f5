"""The one walk through a plate's folder that all readers share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cellinfer.errors import InputError
from cellinfer.plate import IMAGE_SUFFIXES, natural_key

MAX_DEPTH = 8
"""Folders below the root that are looked into; no instrument nests deeper."""

_THUMBNAIL = re.compile(r"_thumb|thumbs?\.", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder: paths relative to `root`, with `/` on every system, in natural order."""

    root: Path
    images: tuple[str, ...]
    ignored: tuple[str, ...]
    """Thumbnails, hidden files, other file types and folders that were not entered (these end in `/`)."""

    @property
    def name(self) -> str:
        """Name of a plate that nothing else names: its folder's, or the one above if that just says `images`."""
        generic = self.root.name.casefold() in ("images", "image")
        return (self.root.parent.name if generic else "") or self.root.name

    def absolute(self, relative: str) -> str:
        """Return the absolute path of a listed file."""
        return os.path.join(self.root, relative)  # noqa: PTH118  pathlib is too slow for 20,000 files

    def relative(self, absolute: str) -> str:
        """Undo `absolute`."""
        return Path(absolute).relative_to(self.root).as_posix()


def scan(path: str | os.PathLike[str]) -> Listing:
    """List all image files under a folder, opening none.

    Links to folders are followed, each real folder is entered once, so a loop of links ends. Array stores (`.zarr`),
    hidden folders and folders with results of a run (they hold a `journal.jsonl` from their first second on) are not
    entered.

    Raises
    ------
    InputError
        If the folder does not exist, is a file, cannot be read or holds no image.
    """
    root = Path(os.path.abspath(path))  # noqa: PTH100  keeps links in the name as the user typed them
    if not root.exists():
        raise InputError(f"there is no folder {root}")
    if not root.is_dir():
        raise InputError(f"{root} is a file: give the folder that holds the plate (for one image: `cellinfer segment`)")
    images: list[str] = []
    ignored: list[str] = []
    _walk(root, images, ignored)
    if not images:
        found = f"{len(ignored)} other files, for example {ignored[0]!r}" if ignored else "it is empty"
        raise InputError(f"no image in {root}: {found}; images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return Listing(root, tuple(sorted(images, key=natural_key)), tuple(sorted(ignored, key=natural_key)))


def _walk(root: Path, images: list[str], ignored: list[str]) -> None:
    """Fill both lists; folders are visited breadth first, each real folder once."""
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
                    below += _sort_entries(folder, list(entries), images, ignored)
            except OSError as error:
                if not folder:
                    raise InputError(f"cannot read folder {root}: {error.strerror}") from error
                ignored.append(folder)
        level = below
    ignored += level


def _sort_entries(folder: str, entries: list[os.DirEntry[str]], images: list[str], ignored: list[str]) -> list[str]:
    """Put one folder's entries where they belong; return the folders to enter next."""
    if folder and any(entry.name == "journal.jsonl" for entry in entries):
        ignored.append(folder)
        return []
    enter: list[str] = []
    for entry in entries:
        name = folder + entry.name
        hidden = entry.name.startswith(".")
        if entry.is_dir():
            (ignored if hidden or entry.name.endswith(".zarr") else enter).append(name + "/")
        elif hidden or _suffix(entry.name) not in IMAGE_SUFFIXES or _THUMBNAIL.search(entry.name):
            ignored.append(name)
        elif entry.is_file():
            images.append(name)
        else:  # a link to nothing, a socket
            ignored.append(name)
    return enter


def _suffix(name: str) -> str:
    """Return the ending of a file name in lower case, with its dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""
