"""CellProfiler's LoadData lists: a CSV file that says of each image which well, site and channel it is."""

from __future__ import annotations

import csv
import io
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import description, pixel_size
from cellinfer.readers._protocol import Found, Plane
from cellinfer.readers._scan import Listing
from cellinfer.storage import open_file
from cellinfer.wells import normalise_well

_HEAD = 1 << 16
"""Bytes read of a file to see whether it is a list."""

_IMAGE_COLUMN = re.compile(r"(?:Image_)?(FileName|PathName|URL|Frame|Series)_(.+)", re.IGNORECASE)
_RESULT_COLUMN = re.compile(r"(?:Image_)?(?:ExecutionTime|ModuleError|MD5Digest)_", re.IGNORECASE)
"""Columns of tables that CellProfiler wrote: these name images too, and are no lists."""

_LIST_NAME = re.compile(r"load[_ -]?data", re.IGNORECASE)
_WITH_ILLUMINATION = "_with_illum"

_METADATA = {
    "plate": ("plate", "plate_name", "platename", "plateid", "barcode", "assay_plate_barcode"),
    "well": ("well", "well_position", "wellid", "cpd_well_position"),
    "row": ("row", "well_row", "wellrow"),
    "col": ("col", "column", "well_col", "well_column", "wellcolumn"),
    "site": ("site", "field", "fieldid", "fov"),
    "time": ("time", "timepoint", "timepointid", "t"),
    "z": ("z", "plane", "planeid", "slice"),
}
"""Part of a field's name -> metadata columns (without `Metadata_`, lower case) that say it; the first one counts."""

_NUMBER = re.compile(r"[A-Za-z_ ]*(\d{1,9})(?:\.0+)?[A-Za-z ]*")
"""`3`, `03`, `3.0`, `s3`, `24h`."""
_DRIVE = re.compile(r"[A-Za-z]:")
_SCHEME = re.compile(r"file:|[A-Za-z][A-Za-z0-9+.-]+://")
_SAME_PATH = 1 << 20
"""More than two paths can share without being the same."""


class _Columns(NamedTuple):
    """Where a list says what: numbers of columns."""

    names: list[str]
    images: dict[str, dict[str, int]]
    """Channel -> `filename`, `pathname`, `url`, `frame`, `series` -> column."""
    illumination: tuple[str, ...]
    """Names of columns with illumination functions."""
    metadata: dict[str, int]
    """Key of `_METADATA` -> column."""
    is_result: bool

    @property
    def has_wells(self) -> bool:
        """Whether the wells can be read."""
        return "well" in self.metadata or {"row", "col"} <= self.metadata.keys()

    @property
    def is_list(self) -> bool:
        """Whether this is a list of the images of a plate."""
        return bool(self.images) and self.has_wells and not self.is_result


@dataclass(frozen=True)
class _Claim:
    """One image as a list names it."""

    line: int
    key: FieldKey
    channel: str
    z: int | None
    said: str
    """Path as the list has it."""
    wanted: str
    """The same with `/`, absolute."""
    frame: int | None

    @property
    def place(self) -> tuple[FieldKey, int | None]:
        """Where the image belongs, but for its channel: a row may use one image twice."""
        return self.key, self.z


class LoadDataReader:
    """Reads the images that a CellProfiler LoadData CSV names.

    The list may come from another computer: an image that is not where its path says is looked for by its name below
    the folder, preferring the place that shares most of the path's last folders. Only files below the folder are read.
    """

    name = "load-data"

    def can_read(self, listing: Listing) -> float | None:
        """Return 0.95 if there is a list with image and well columns: what a user wrote down beats names."""
        return 0.95 if _lists(listing) else None

    def read(self, listing: Listing) -> Found:
        """Return the listed images.

        Raises
        ------
        InputError
            If there is no list or more than one, the list is damaged, it names no image below the folder, or two of
            its rows name the same image.
        """
        lists = _lists(listing)
        if not lists:
            raise InputError(
                f"no LoadData list in {listing.root}: it is a CSV file with columns FileName_<channel>, Metadata_Well "
                "(or Metadata_Row and Metadata_Col) and, if there are several, Metadata_Plate and Metadata_Site"
            )
        chosen = _without_twins(lists)
        if len(chosen) > 1:
            raise InputError(
                f"{len(chosen)} LoadData lists in {listing.root}: {', '.join(chosen)}; keep one of them, or choose "
                "another layout with --layout"
            )
        path = chosen[0]
        columns, rows = _open(listing, path)
        claims = list(_claims(listing, path, columns, rows))
        resolved = _resolve(listing, path, claims)
        if not resolved.found:
            example = f" (such as {claims[0].said!r})" if claims else ""
            raise InputError(
                f"none of the {len(claims)} images that {path} lists{example} is for sure in {listing.root}: give a "
                "folder that holds the list and the images, each in a folder called as in the list"
            )
        used = {file for _, file in resolved.found}
        unused = [file for file in listing.images if file not in used]
        first = resolved.found[0][1]
        return Found(
            layout=self.name,
            planes=[
                Plane(claim.key, claim.channel, claim.z, ImageRef(listing.absolute(file), _index(file, claim.frame)))
                for claim, file in resolved.found
            ],
            expected=tuple({(claim.key, claim.channel) for claim in claims}),
            expected_z=tuple({(claim.key, claim.channel, claim.z) for claim in claims if claim.z is not None}),
            channels=tuple(columns.images),
            ignored=tuple(unused),
            pixel_size=pixel_size(description(listing.absolute(first))),
            notes=(
                *_plates_note(claims),
                *_twin_note(chosen, lists),
                *_illumination_note(columns),
                *_places_note(resolved.by_name, f"images are not where {path} says and were found by their names"),
                *_places_note(resolved.unclear, f"images of {path} are left out, names do not say which they are"),
                *_count_note([each.said for each in resolved.absent], f"images that {path} lists are not there"),
                *_count_note(unused, f"images are left out, {path} does not list them"),
            ),
        )


def _lists(listing: Listing) -> list[str]:
    """Find the lists: CSV files in the folder itself, else those further down that are called so."""
    tables = [path for path in listing.ignored if path[-4:].lower() == ".csv"]
    here = [path for path in tables if "/" not in path and _head(listing, path).is_list]
    below = [path for path in tables if "/" in path and _LIST_NAME.search(path.rpartition("/")[2])]
    return here or [path for path in below if _head(listing, path).is_list]


def _without_twins(lists: list[str]) -> list[str]:
    """Leave out lists that repeat another one and add illumination functions: `load_data_with_illum.csv`."""
    stems = {path[:-4].casefold() for path in lists}
    twins = {stem + _WITH_ILLUMINATION for stem in stems}
    return [path for path in lists if path[:-4].casefold() not in twins]


def _head(listing: Listing, path: str) -> _Columns:
    """Read the names of a table's columns."""
    try:
        with open_file(listing.absolute(path)) as file:
            head = file.read(_HEAD)
        encoding = _encoding(head)
        text = head[: len(head) // 2 * 2].decode(encoding, errors="replace")
        return _columns(next(csv.reader(text.splitlines()[:1], delimiter=_delimiter(text)), []))
    except (OSError, csv.Error):
        return _columns([])


def _open(listing: Listing, path: str) -> tuple[_Columns, Iterator[tuple[int, list[str]]]]:
    """Read a list; lines come with their numbers."""
    try:
        with open_file(listing.absolute(path)) as file:
            data = file.read()
        text = data.decode(_encoding(data))
    except OSError as error:
        raise InputError(f"cannot read {listing.absolute(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{listing.absolute(path)} is not UTF-8 text: save it as `CSV UTF-8`") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        columns = _columns(next(reader, []))
    except csv.Error:
        columns = _columns([])
    if not columns.is_list:
        raise InputError(f"{path} is damaged, its first line does not end: write it anew")
    return columns, _rows(reader, len(columns.names), path)


def _rows(reader: Iterator[list[str]], width: int, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that hold something.

    Raises
    ------
    InputError
        If a row has not as many cells as there are columns.
    """
    try:
        for number, row in enumerate(reader, start=2):
            if not any(row):
                continue
            if len(row) < width or any(row[width:]):
                raise InputError(
                    f"{path}: row {number} has {len(row)} cells for {width} columns: the file is cut off or damaged, "
                    "write it anew"
                )
            yield number, row
    except csv.Error as error:
        raise InputError(f"{path} is damaged ({error}): write it anew") from error


def _encoding(data: bytes) -> str:
    return "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _delimiter(text: str) -> str:
    """Return what separates columns: Excel writes semicolons where the comma is a decimal point."""
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _columns(names: list[str]) -> _Columns:
    """Understand the names of columns; upper and lower case do not matter."""
    names = [name.strip() for name in names]
    images: dict[str, dict[str, int]] = defaultdict(dict)
    illumination = []
    metadata: dict[str, int] = {}
    for place, name in enumerate(names):
        if match := _IMAGE_COLUMN.fullmatch(name):
            kind, channel = match[1].lower(), match[2].strip()
            if channel.casefold().startswith("illum"):
                illumination += [name] if kind in ("filename", "url") else []
            else:
                images[channel].setdefault(kind, place)
        elif name.casefold().startswith("metadata_"):
            metadata.setdefault(name[len("metadata_") :].casefold(), place)
    return _Columns(
        names,
        {channel: kinds for channel, kinds in images.items() if kinds.keys() & {"filename", "url"}},
        tuple(illumination),
        {
            part: metadata[next(column for column in choices if column in metadata)]
            for part, choices in _METADATA.items()
            if not metadata.keys().isdisjoint(choices)
        },
        any(map(_RESULT_COLUMN.match, names)),
    )


def _claims(listing: Listing, path: str, columns: _Columns, rows: Iterable[tuple[int, list[str]]]) -> Iterator[_Claim]:
    """Read what each row says about each channel; an empty cell names no image."""
    base = posixpath.join(listing.root.as_posix(), posixpath.dirname(path))
    for line, row in rows:
        try:
            key, z = _place(columns.metadata, row, listing.name)
            for channel, kinds in columns.images.items():
                cells = {kind: row[place].strip() for kind, place in kinds.items()}
                if said := _said(cells):
                    if cells.get("series") and _whole(cells["series"], "series"):
                        raise InputError(f"series {cells['series']} of {said!r}: files with series are not read")
                    frame = _whole(cells["frame"], "frame") if cells.get("frame") else None
                    yield _Claim(line, key, channel, z, said, _wanted(base, said), frame)
        except InputError as error:
            raise InputError(f"{path}, row {line}: {error}") from error


def _place(metadata: Mapping[str, int], row: list[str], plate: str) -> tuple[FieldKey, int | None]:
    """Read plate, well, site, time and z of a row."""
    said = {part: row[column].strip() for part, column in metadata.items()}
    well = said["well"] if "well" in said else _joined(said["row"], said["col"])
    site, time, z = (_whole(said[part], part) if said.get(part) else None for part in ("site", "time", "z"))
    key = FieldKey(said.get("plate") or plate, _well(well), 1 if site is None else site, 1 if time is None else time)
    return key, z


@lru_cache(maxsize=4096)
def _well(text: str) -> str:
    return normalise_well(text)


@lru_cache(maxsize=4096)
def _joined(row: str, column: str) -> str:
    """Join row (letters or a number) and column to a well as people write it."""
    start = row if row.isascii() and row.isalpha() else f"r{_whole(row, 'row')}c"
    return f"{start}{_whole(column, 'column')}"


@lru_cache(maxsize=4096)
def _whole(text: str, what: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(f"the {what} {text!r} is no whole number")
    return int(match[1])


def _said(cells: Mapping[str, str]) -> str:
    """Return the path that a row gives for a channel, as it is written; empty if it gives none."""
    if name := cells.get("filename"):
        folder = cells.get("pathname", "")
        return folder + name if not folder or folder[-1] in "/\\" else f"{folder}/{name}"
    return cells.get("url", "")


def _wanted(base: str, said: str) -> str:
    """Return an absolute path with `/`, for comparison only; `base` is the folder of the list."""
    if scheme := _SCHEME.match(said):
        return "/" + unquote(re.split(r"[?#]", said[scheme.end() :])[0]).lstrip("/")
    path = said.replace("\\", "/")
    return posixpath.normpath(path if _DRIVE.match(path) else posixpath.join(base, path))


@dataclass
class _Resolved:
    """What became of the images of a list."""

    found: list[tuple[_Claim, str]]
    """Claims and their files."""
    by_name: list[tuple[_Claim, str]]
    """Those of `found` that were not where the list says."""
    unclear: list[tuple[_Claim, str]]
    """Claims for which files were found by name, but not one for each."""
    absent: list[_Claim]


def _resolve(listing: Listing, path: str, claims: list[_Claim]) -> _Resolved:
    """Find the files: each claim takes the one whose path is most like its own, each file goes to one place only.

    Raises
    ------
    InputError
        If two rows give one path for two places.
    """
    known: dict[str, list[str]] = defaultdict(list)
    for file in listing.images:
        known[_folded(file[file.rfind("/") + 1 :])].append(file)
    root = listing.root.as_posix()
    taken: dict[tuple[str, int | None], list[tuple[int, _Claim]]] = defaultdict(list)
    undecided: list[tuple[_Claim, list[str]]] = []
    resolved = _Resolved([], [], [], [])
    for claim in claims:
        candidates = known.get(_folded(claim.wanted[claim.wanted.rfind("/") + 1 :]), [])
        scores = [_likeness(claim.wanted, f"{root}/{file}") for file in candidates]
        best = [file for file, score in zip(candidates, scores, strict=True) if score == max(scores)]
        if len(best) == 1:
            taken[best[0], claim.frame].append((max(scores)[0], claim))
        elif best:
            undecided.append((claim, best))
        else:
            resolved.absent.append(claim)
    for (file, _), rivals in taken.items():
        score = max(score for score, _ in rivals)
        winners = [claim for each, claim in rivals if each == score]
        resolved.absent += [claim for each, claim in rivals if each != score]
        _refuse_one_path_for_two_places(path, winners)
        if any(claim.place != winners[0].place for claim in winners):
            resolved.unclear += [(claim, file) for claim in winners]
            continue
        resolved.found += [(claim, file) for claim in winners]
        resolved.by_name += [(claim, file) for claim in winners if score < _SAME_PATH]
    used = {file for _, file in resolved.found}
    for claim, files in undecided:
        if free := [file for file in files if file not in used]:
            resolved.unclear.append((claim, free[0]))
        else:
            resolved.absent.append(claim)
    return resolved


def _refuse_one_path_for_two_places(path: str, claims: list[_Claim]) -> None:
    first: dict[str, _Claim] = {}
    for claim in claims:
        other = first.setdefault(claim.wanted, claim)
        if other.place != claim.place:
            raise InputError(
                f"{path}: rows {other.line} and {claim.line} name the same image {claim.said!r}: correct one of them, "
                "or tell the pages of one file apart with Frame_ columns"
            )


def _likeness(wanted: str, file: str) -> tuple[int, int]:
    """Count the last parts that two paths share, first in any upper or lower case, then exactly."""
    return _shared(_folded(wanted), _folded(file)), _shared(wanted, file)


def _shared(one: str, other: str) -> int:
    if one == other:
        return _SAME_PATH
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return next((count for count, (part, another) in enumerate(pairs) if part != another), 0)


def _folded(text: str) -> str:
    """Return a name as it compares: lower case, letters with accents as one sign (macOS takes them apart)."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _index(file: str, frame: int | None) -> tuple[int, ...]:
    """Return the place of a plane inside its file: only TIFF has pages."""
    return () if frame is None or (frame == 0 and not file.lower().endswith((".tif", ".tiff"))) else (frame,)


def _plates_note(claims: list[_Claim]) -> tuple[str, ...]:
    names = sorted({claim.key.plate for claim in claims}, key=natural_key)
    return (f"{len(names)} plates: {', '.join(names)}",) if len(names) > 1 else ()


def _twin_note(chosen: list[str], lists: list[str]) -> tuple[str, ...]:
    twins = [path for path in lists if path not in chosen]
    return (f"{chosen[0]} is taken, not {', '.join(twins)}",) if twins else ()


def _illumination_note(columns: _Columns) -> tuple[str, ...]:
    if not columns.illumination:
        return ()
    return (f"illumination functions are no images, their columns are left out: {', '.join(columns.illumination)}",)


def _places_note(claims: list[tuple[_Claim, str]], what: str) -> tuple[str, ...]:
    return (f"{len(claims)} {what} (such as {claims[0][0].said!r}: {claims[0][1]})",) if claims else ()


def _count_note(paths: list[str], what: str) -> tuple[str, ...]:
    return (f"{len(paths)} {what} (such as {paths[0]!r})",) if paths else ()
