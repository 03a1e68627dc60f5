"""Plates whose file names say it all: well, site, channel, z, time."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import description, pixel_size
from cellinfer.readers._patterns import PATTERNS, PIECES
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.wells import normalise_well, row_number, well_name

GROUPS = ("well", "row", "col", "site", "channel", "z", "time", "plate")
"""Group names that a pattern may have: `well`, or `row` and `col`, must be among them."""

EXAMPLE = r"(?P<well>[A-P]\d\d)_s(?P<site>\d+)_w(?P<channel>\d+)\.tif"
"""Shown to users whose files no built-in pattern understands."""

_NEARLY = 0.9
"""A more telling pattern wins over one that matches more files if it matches at least this share of them."""
_LEAST = 0.5
"""A built-in pattern that matches fewer of the images than this share has not understood the folder."""


class NameParts(NamedTuple):
    """What a file's name says."""

    well: str
    site: int
    time: int
    channel: str | None
    z: int | None
    plate: str | None
    folder: str
    """Folders above the first thing that the pattern names: one plate each if wells repeat among them."""


class NamePattern:
    """A regular expression whose named groups are parts of a field's name.

    Parameters
    ----------
    name
        What messages call it.
    regex
        Python regular expression with groups from `GROUPS`; it must match the whole path below the plate's folder
        (with `/` between folders) if it contains a `/`, else the whole file name.
    built_in
        Letters match in either case, and `on_path` says what is matched instead of the slash rule.
    on_path
        For a built-in pattern: whether it is matched against the path.

    Raises
    ------
    InputError
        If the expression is broken, does not say where the well is, or has groups of other names.
    """

    def __init__(self, name: str, regex: str, *, built_in: bool = False, on_path: bool = False) -> None:
        try:
            self._regex = re.compile(regex, re.IGNORECASE if built_in else 0)
        except re.error as error:
            raise InputError(f"--pattern {regex!r} is not a regular expression: {error}") from error
        groups = set(self._regex.groupindex)
        if unknown := sorted(groups - set(GROUPS)):
            raise InputError(f"--pattern has unknown groups {', '.join(unknown)}: use {', '.join(GROUPS)}")
        if "well" not in groups and not {"row", "col"} <= groups:
            raise InputError("--pattern must have a group (?P<well>...), or both (?P<row>...) and (?P<col>...)")
        self.name = name
        self._on_path = on_path if built_in else "/" in regex

    def parse(self, path: str) -> NameParts | None:
        """Read a path relative to the plate's folder; None if it does not match or names no possible well.

        Raises
        ------
        InputError
            If a site, z or time group matched something else than digits.
        """
        name_at = path.rfind("/") + 1
        match = self._regex.fullmatch(path if self._on_path else path[name_at:])
        if match is None:
            return None
        parts = match.groupdict()
        try:
            well = _well(parts)
        except InputError:
            return None
        start = min(match.start(group) for group, text in parts.items() if text is not None)
        channel = parts.get("channel")
        return NameParts(
            well=well,
            site=_number(parts, "site", path, default=1),
            time=_number(parts, "time", path, default=1),
            channel=str(int(channel)) if channel and channel.isdecimal() else channel,
            z=_number(parts, "z", path) if parts.get("z") else None,
            plate=parts.get("plate"),
            folder=path[: start if self._on_path else name_at].rpartition("/")[0],
        )


def _well(parts: dict[str, str | None]) -> str:
    if well := parts.get("well"):
        return normalise_well(well)
    row, column = parts.get("row") or "", parts.get("col") or ""
    if not column.isdecimal() or not (row.isdecimal() or row.isalpha()):
        raise InputError(f"row {row!r}, column {column!r} is not a well")
    return well_name(int(row) if row.isdecimal() else row_number(row), int(column))


def _number(parts: dict[str, str | None], group: str, path: str, default: int = 0) -> int:
    text = parts.get(group)
    if text is None:
        return default
    if not text.isdecimal():
        raise InputError(
            f"--pattern reads {text!r} as the {group} of {path!r}: the group {group} must match digits only"
        )
    return int(text)


@lru_cache(maxsize=1)
def built_in_patterns() -> tuple[NamePattern, ...]:
    """Return the built-in patterns, the most telling first."""
    return tuple(
        NamePattern(each.name, each.regex.format_map(PIECES), built_in=True, on_path=each.on_path) for each in PATTERNS
    )


@lru_cache(maxsize=2)  # asked for by each reader while it makes up its mind
def recognise(images: tuple[str, ...]) -> tuple[NamePattern, dict[str, NameParts]] | None:
    """Find the built-in pattern that understands a folder.

    Parameters
    ----------
    images
        Paths relative to the plate's folder.

    Returns
    -------
    tuple or None
        The pattern and what it says of each path that it matches; None if no pattern matches half of the images.
    """
    matched: list[tuple[NamePattern, dict[str, NameParts]]] = []
    for pattern in built_in_patterns():
        matched.append((pattern, _parse_all(pattern, images)))
        if len(matched[-1][1]) == len(images):
            break  # none can be better, and of equals the first is taken
    best = max(len(parsed) for _, parsed in matched)
    if best < max(1, _LEAST * len(images)):
        return None
    return next((pattern, parsed) for pattern, parsed in matched if len(parsed) >= _NEARLY * best)


def _parse_all(pattern: NamePattern, images: tuple[str, ...]) -> dict[str, NameParts]:
    return {path: parts for path in images if (parts := pattern.parse(path))}


def name_parts(listing: Listing, pattern: str | None) -> tuple[NamePattern, dict[str, NameParts]]:
    """Read all file names by the user's pattern, or by the built-in one that fits.

    Raises
    ------
    InputError
        If nothing matches; the message shows what the files are called and how a pattern is given.
    """
    if pattern is None:
        if found := recognise(listing.images):
            return found
        raise InputError(
            f"no known file-name pattern fits the {len(listing.images)} images in {listing.root} "
            f"(such as {_examples(listing)}): say how their names are built, for example --pattern '{EXAMPLE}'; "
            "for images that are not wells of a plate use `cellinfer segment`"
        )
    by_user = NamePattern("--pattern", pattern)
    parsed = _parse_all(by_user, listing.images)
    if not parsed:
        raise InputError(
            f"--pattern {pattern!r} matches none of the {len(listing.images)} images in {listing.root} "
            f"(such as {_examples(listing)}): it must match the whole file name, or the whole path below the folder "
            f"if it contains a slash, for example --pattern '{EXAMPLE}'"
        )
    return by_user, parsed


def _examples(listing: Listing) -> str:
    count = len(listing.images)
    return ", ".join(repr(listing.images[i]) for i in sorted({0, count // 2, max(count - 1, 0)}) if i < count) or "none"


def plate_names(parsed: dict[str, NameParts], default: str) -> dict[str, str]:
    """Say which plate each path belongs to.

    The pattern's own plate name holds, unless the same site and channel occur in several folders and no image lies
    above them: then the folders are the plates. A text that changes with each well is no plate name.

    Parameters
    ----------
    parsed
        Path -> parts of its name.
    default
        Plate name where neither file nor folder says one.
    """
    folders: dict[tuple[str | None, str, int, str | None], set[str]] = defaultdict(set)
    wells: dict[str | None, set[str]] = defaultdict(set)
    for parts in parsed.values():
        folders[parts.plate, parts.well, parts.site, parts.channel].add(parts.folder)
        wells[parts.plate].add(parts.well)
    if any(len(which) > 1 for which in folders.values()):
        all_folders = {parts.folder for parts in parsed.values()}
        if "" not in all_folders:
            return {path: _folder_name(parts.folder, all_folders) for path, parts in parsed.items()}
    all_wells = set().union(*wells.values())
    counter = len(all_wells) == len(wells) > 1 and all(len(of_name) == 1 for of_name in wells.values())
    return {path: default if counter or not parts.plate else parts.plate for path, parts in parsed.items()}


def _folder_name(folder: str, folders: set[str]) -> str:
    """Return the last part of a folder's path, or all of it where that does not tell folders apart."""
    last = folder.rpartition("/")[2]
    return folder if sum(other.rpartition("/")[2] == last for other in folders) > 1 else last


class PatternReader:
    """Reads plates by file names alone.

    Parameters
    ----------
    pattern
        Regular expression for `NamePattern`; None recognises the built-in ones.
    """

    name = "pattern"

    def __init__(self, pattern: str | None = None) -> None:
        self._pattern = pattern

    def can_read(self, listing: Listing) -> float | None:
        """Return 0.5 if a built-in pattern fits the file names."""
        return 0.5 if self._pattern or recognise(listing.images) else None

    def read(self, listing: Listing) -> Found:
        """Return one plane for each file that the pattern matches."""
        pattern, parsed = name_parts(listing, self._pattern)
        plates = plate_names(parsed, listing.name)
        planes = [
            Plane(
                FieldKey(plates[path], parts.well, parts.site, parts.time),
                parts.channel or "1",
                parts.z,
                ImageRef(listing.absolute(path)),
            )
            for path, parts in parsed.items()
        ]
        unmatched = tuple(path for path in listing.images if path not in parsed)
        return Found(
            layout=f"{self.name}:{pattern.name}" if self._pattern is None else "pattern:user",
            planes=planes,
            ignored=unmatched,
            pixel_size=pixel_size(description(planes[0].ref.path)),
            notes=(*_plates_note(plates), *unmatched_note(unmatched)),
        )


def unmatched_note(unmatched: tuple[str, ...]) -> tuple[str, ...]:
    """Say how many images are no part of the plate."""
    if not unmatched:
        return ()
    return (f"{len(unmatched)} images are left out, their names do not fit (such as {unmatched[0]!r})",)


def _plates_note(plates: dict[str, str]) -> tuple[str, ...]:
    names = sorted(set(plates.values()), key=natural_key)
    return (f"{len(names)} plates: {', '.join(names)}",) if len(names) > 1 else ()
