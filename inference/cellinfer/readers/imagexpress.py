"""ImageXpress (Molecular Devices): images with the `.HTD` index that MetaXpress writes beside them."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, ImageRef, natural_key
from cellinfer.readers._metadata import description, pixel_size
from cellinfer.readers._protocol import Found, Plane, largest
from cellinfer.readers._scan import Listing
from cellinfer.readers.pattern import unmatched_note
from cellinfer.storage import is_file, open_file
from cellinfer.wells import normalise_well, well_name

_LONGEST_INDEX = 1 << 20
"""Bytes: the index of a 1536-well plate has some 15,000."""
_MAX_EXPECTED = 1_000_000
"""Images that an index may promise and still have each of them looked for."""
_MAX_SITES = 10_000
_MAX_WAVES = 100
_MOST_STEPS = 1000
"""Planes of a stack that are listed one by one if they are not there."""
_TRIED = 20
"""Plates whose indexes are tried until one is good, to tell whether the layout is this one."""
_COPIES = 3
"""Copies of an index (an export puts one into each folder) that are tried if the ones before are damaged."""

_NAME = re.compile(
    r"(?:(?P<prefix>.+)_)?(?P<well>(?:[A-P]|A[A-F])\d{1,2})(?:_s(?P<site>\d+?))?(?:_w(?P<wave>\d+?))?"
    # It follows the number without anything between: wave 1 and `0296BEF4-...` are `_w10296BEF4-...`.
    r"(?:_?\[?[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}\]?)?\.tiff?",
    re.IGNORECASE | re.ASCII,
)
_TIME_FOLDER = re.compile(r"TimePoint_(\d+)", re.IGNORECASE | re.ASCII)
_Z_FOLDER = re.compile(r"ZStep_(\d+)", re.IGNORECASE | re.ASCII)
_KEY = re.compile(r'\s*"(\w+)"\s*,?')


class _Place(NamedTuple):
    """What the folders of a file say."""

    base: str
    """Folder of the plate, above its time and z folders, relative to the root."""
    time: int | None
    z: int | None
    """Number of the z folder; 0 for projections."""


class _File(NamedTuple):
    """What the path of an image says."""

    path: str
    base: str
    prefix: str
    """What stands before the well: usually the name of the index."""
    well: str
    site: int
    wave: int
    time: int
    z: int | None
    """None for projections, and for the only plane."""


@dataclass(frozen=True)
class _Index:
    """What an HTD file promises."""

    grid: tuple[int, int]
    """Rows and columns of the plate."""
    wells: tuple[str, ...]
    sites: tuple[int, ...]
    """Numbers of the selected sites if these alone are counted, as MetaXpress and Bio-Formats do."""
    grid_sites: tuple[int, ...]
    """Numbers of the selected sites if all sites of the grid are counted, row by row."""
    channels: Mapping[int, str]
    """Wavelength -> name of its channel, in the order of acquisition."""
    collected: tuple[int, ...]
    """Wavelengths of which images are taken."""
    times: int
    steps: int
    """Planes of a z-stack; 1 where there are no stacks."""


@dataclass(frozen=True)
class _PlateFiles:
    """The images of one plate, and its index."""

    base: str
    stem: str
    """File name of the index without its ending; without index, what stands before the wells."""
    source: str
    """Path of the index; empty if there is none, or none that can be used."""
    index: _Index | None
    files: list[_File]

    @cached_property
    def sites(self) -> tuple[int, ...]:
        """Numbers of the sites: those of the grid only if the files need them."""
        assert self.index is not None
        used = {file.site for file in self.files}
        in_grid = used <= {*self.index.grid_sites} and not used <= {*self.index.sites}
        return self.index.grid_sites if in_grid else self.index.sites

    @cached_property
    def known(self) -> list[_File]:
        """Images that the index promises; all of them without index."""
        if self.index is None:
            return self.files
        wells, sites, channels = {*self.index.wells}, {*self.sites}, self.index.channels
        times, steps = self.index.times, self.index.steps
        return [
            file
            for file in self.files
            if file.well in wells
            and file.site in sites
            and file.wave in channels
            and 1 <= file.time <= times
            and (file.z is None or file.z <= steps)
        ]


class ImageXpressReader:
    """Reads plates of ImageXpress instruments with the `.HTD` index of MetaXpress.

    Channels have the names that the index gives them as far as these are there and differ, otherwise their number.
    Images in `ZStep_0`, or beside the folders `ZStep_1`, `ZStep_2` and so on, are projections of these. Where the index
    is missing or damaged, folders and file names say what they can, and channels have numbers.
    """

    name = "imagexpress"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there is an index that parses, and images named by MetaXpress.

        0.6 if the index is damaged, or if there is none but projections lie in `ZStep_0`, where other readers would
        take them for planes: both only if most names fit.
        """
        indexes = _Indexes(listing)
        if not indexes.copies and not any("zstep_0/" in path.lower() for path in listing.images):
            return None
        fitting = sum(_NAME.fullmatch(path[path.rfind("/") + 1 :]) is not None for path in listing.images)
        first = islice(((base, stem) for base, stems in indexes.copies.items() for stem in stems), _TRIED)
        if fitting and any(indexes.load(base, stem)[1] for base, stem in first):
            return 1.0
        return 0.6 if 2 * fitting > len(listing.images) else None

    def read(self, listing: Listing) -> Found:
        """Return one plane for each image that the index promises and that is there, and all that it promises.

        Raises
        ------
        InputError
            If no image is named by MetaXpress, or the index promises none of them.
        """
        root = _root_place(listing)
        indexes = _Indexes(listing)
        files = _files(listing, root)
        plates = _plates(indexes, files)
        if not files:
            raise InputError(
                f"no image in {listing.root} is named by MetaXpress (such as 'Plate_A01_s1_w1.TIF'): "
                "choose another layout"
            )
        if not any(plate.known for plate in plates):
            raise InputError(
                f"the index {indexes.first} promises none of the {len(files)} images in {listing.root} (such as "
                f"{files[0].path!r}): give the folder the index of its own plate, or choose the layout pattern"
            )
        names = _plate_names(plates, listing.name)
        used = {file.path for plate in plates for file in plate.known}
        in_plates = {file.path for plate in plates for file in plate.files}
        size, size_notes = _size(listing, plates)
        indexed = [plate.index for plate in plates if plate.index]
        return Found(
            layout=self.name,
            planes=[
                plane for name, plate in zip(names, plates, strict=True) for plane in _planes(listing, name, plate)
            ],
            expected=tuple(
                pair for name, plate in zip(names, plates, strict=True) for pair in _expected(name, plate, root.time)
            ),
            expected_z=tuple(
                each for name, plate in zip(names, plates, strict=True) for each in _expected_z(name, plate, root)
            ),
            channels=tuple(dict.fromkeys(name for plate in indexed for name in plate.channels.values())),
            wells=largest(index.grid for index in indexed),
            ignored=tuple(path for path in listing.images if path not in used),
            pixel_size=size,
            notes=(
                *((f"{len(plates)} plates: {', '.join(names)}",) if len(plates) > 1 else ()),
                *indexes.notes(plates),
                *(note for plate in plates for note in _plate_notes(plate, root)),
                *unmatched_note(tuple(path for path in listing.images if path not in in_plates)),
                *size_notes,
            ),
        )


# folders and names


def _root_place(listing: Listing) -> _Place:
    """Say which time and z folder the root itself is, if a user gave the folder of the images."""
    root = listing.root
    z = _number(_Z_FOLDER, root.name)
    return _Place("", _number(_TIME_FOLDER, root.name if z is None else root.parent.name), z)


def _number(pattern: re.Pattern[str], folder: str) -> int | None:
    match = pattern.fullmatch(folder)
    return int(match[1]) if match else None


def _place(folder: str, root: _Place) -> _Place | None:
    """Read a folder's path; None if other folders lie below those of time and z (results of an analysis, perhaps)."""
    base, time, z = root
    for part in folder.split("/") if folder else ():
        if (number := _number(_TIME_FOLDER, part)) is not None:
            time = number
        elif (number := _number(_Z_FOLDER, part)) is not None:
            z = number
        elif time is None and z is None:
            base = posixpath.join(base, part)
        else:
            return None
    return _Place(base, time, z)


def _files(listing: Listing, root: _Place) -> list[_File]:
    """Read the paths of all images that are named by MetaXpress."""
    places: dict[str, _Place | None] = {}
    files: list[_File] = []
    for path in listing.images:
        folder, _, name = path.rpartition("/")
        if folder not in places:
            places[folder] = _place(folder, root)
        place, match = places[folder], _NAME.fullmatch(name)
        if place is None or match is None:
            continue
        prefix, well, site, wave = match.groups()
        try:
            well = normalise_well(well)
        except InputError:
            continue
        time = 1 if place.time is None else place.time
        files.append(_File(path, place.base, prefix or "", well, int(site or 1), int(wave or 1), time, place.z or None))
    return files


# the index


class _Indexes:
    """The HTD files of a folder: which there are, and what they say; each is opened once, when it is asked for."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._parsed: dict[str, _Index | str] = {}
        """Path -> what the file promises, or what is wrong with it."""
        self.copies: dict[str, dict[str, list[str]]] = defaultdict(dict)
        """Folder of a plate -> name of the index in lower case -> its copies, the one nearest to the root first."""
        root = _root_place(listing)
        paths = [path for path in listing.ignored if path.lower().endswith(".htd")]
        for path in sorted(paths or _above(listing, root), key=lambda path: path.count("/")):
            folder, _, name = path.rpartition("/")
            place = _place("" if folder.startswith("..") else folder, root)
            if place is not None and not name.startswith("."):
                self.copies[place.base].setdefault(name[: -len(".htd")].casefold(), []).append(path)

    @property
    def first(self) -> str:
        """Path of one index, for messages."""
        return next((copies[0] for stems in self.copies.values() for copies in stems.values()), "")

    def load(self, base: str, stem: str) -> tuple[str, _Index | None]:
        """Return the first copy of an index that is not damaged, and what it promises."""
        copies = self.copies[base][stem][:_COPIES]
        for path in copies:
            if path not in self._parsed:
                try:
                    self._parsed[path] = _parse(_read(self._listing.absolute(path)))
                except InputError as error:
                    self._parsed[path] = str(error)
            index = self._parsed[path]
            if isinstance(index, _Index):
                return path, index
        return copies[0], None

    def home(self, base: str) -> str | None:
        """Return the nearest folder with an index, at a folder or above it."""
        while base not in self.copies:
            if not base:
                return None
            base = posixpath.dirname(base)
        return base

    def notes(self, plates: Iterable[_PlateFiles]) -> list[str]:
        """Say which plates have no index that can be used."""
        without = "channels have numbers, and images that all wells lack are not listed as missing"
        notes = [
            f"the index {path} is damaged and not used ({self._parsed[path]}): {without}"
            for base, stems in self.copies.items()
            for stem in stems
            for path, index in [self.load(base, stem)]
            if index is None
        ]
        if not notes and any(plate.index is None for plate in plates):
            notes.append(f"there is no HTD index for all images: {without}")
        return notes


def _above(listing: Listing, root: _Place) -> list[str]:
    """Look for the index above the root if that is a time or z folder; its name is in those of the images."""
    ups = (root.time is not None) + (root.z is not None)
    match = _NAME.fullmatch(listing.images[0].rpartition("/")[2]) if ups else None
    if match is None or not match["prefix"]:
        return []
    paths = ["../" * up + match["prefix"] + ending for up in range(1, ups + 1) for ending in (".HTD", ".htd")]
    return [path for path in paths if is_file(listing.absolute(path))]


def _read(path: str) -> str:
    """Return the text of an index: old ones are in the code page of the instrument's computer, new ones in Unicode."""
    if not is_file(path):
        raise InputError("it is no file")  # a pipe would be waited for
    try:
        with open_file(path) as file:
            content = file.read(_LONGEST_INDEX + 1)
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}") from error
    if len(content) > _LONGEST_INDEX:
        raise InputError("it is larger than any index")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _parse(text: str) -> _Index:
    """Read an index: lines of a quoted key and its values, with commas between.

    Raises
    ------
    InputError
        If it is cut off or says what no plate can be; the message is the reason alone.
    """
    lines = re.split(r"[\r\n]+", text)
    values = {key[1].casefold(): line[key.end() :].strip() for line in lines if (key := _KEY.match(line))}
    columns, rows = _count(values, "XWells", 48), _count(values, "YWells", 32)
    wells = tuple(
        well_name(row, column)
        for row in range(1, rows + 1)
        for column, chosen in enumerate(_flags(values, f"WellsSelection{row}", columns), start=1)
        if chosen
    )
    if not wells:
        raise InputError("it selects no well")
    grid = _sites(values)
    waves = _count(values, "NWavelengths", _MAX_WAVES) if _flag(values, "Waves", default=True) else 1
    return _Index(
        grid=(rows, columns),
        wells=wells,
        sites=tuple(range(1, len(grid) + 1)),
        grid_sites=grid,
        channels=_channel_names([_wave_name(values, wave) for wave in range(1, waves + 1)]),
        collected=tuple(wave for wave in range(1, waves + 1) if values.get(f"wavecollect{wave}") != "0"),
        times=max(1, _count(values, "TimePoints", None, least=0)),
        steps=max(1, _count(values, "ZSteps", None, least=0)) if _flag(values, "ZSeries", default=False) else 1,
    )


def _value(values: Mapping[str, str], key: str) -> str:
    if key.casefold() not in values:
        raise InputError(f"it does not say {key}, perhaps it is cut off")
    return values[key.casefold()].strip('" ')


def _count(values: Mapping[str, str], key: str, most: int | None, *, least: int = 1) -> int:
    text = _value(values, key)
    if not (text.isdecimal() and len(text) < 10 and least <= int(text) <= (most or 10**9)):
        raise InputError(f"its {key} is {text[:20]!r}")
    return int(text)


def _flag(values: Mapping[str, str], key: str, *, default: bool) -> bool:
    return _flags(values, key, 1)[0] if key.casefold() in values else default


def _flags(values: Mapping[str, str], key: str, count: int) -> list[bool]:
    words = [word.strip('" ').upper() for word in _value(values, key).split(",")][:count]
    if len(words) < count or not {"TRUE", "FALSE"}.issuperset(words):
        raise InputError(f"its {key} does not hold {count} times TRUE or FALSE, perhaps it is cut off")
    return [word == "TRUE" for word in words]


def _sites(values: Mapping[str, str]) -> tuple[int, ...]:
    """Return the selected sites by their place in the grid; its rows need not be there if all sites are taken."""
    if not _flag(values, "Sites", default=True):
        return (1,)
    columns, rows = _count(values, "XSites", _MAX_SITES), _count(values, "YSites", _MAX_SITES)
    if columns * rows > _MAX_SITES:
        raise InputError(f"it has {columns} x {rows} sites")
    if "siteselection1" not in values:
        return tuple(range(1, columns * rows + 1))
    chosen = [flag for row in range(1, rows + 1) for flag in _flags(values, f"SiteSelection{row}", columns)]
    return tuple(site for site, flag in enumerate(chosen, start=1) if flag) or (1,)


def _wave_name(values: Mapping[str, str], wave: int) -> str:
    """Return a wavelength's name, empty if it has none; a file that is cut off does not get a name from half a line."""
    text = values.get(f"wavename{wave}", "")
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    if not quoted and ("endfile" not in values or text.startswith('"')):
        raise InputError(f"it does not say WaveName{wave}, perhaps it is cut off")
    return " ".join(text.strip('"').split())


def _channel_names(names: list[str]) -> dict[int, str]:
    """Name channels by their own names where these are there and differ, the others by number."""
    used = Counter(name.casefold() for name in names)
    named = {wave: name if name and used[name.casefold()] == 1 else str(wave) for wave, name in enumerate(names, 1)}
    return named if len({*named.values()}) == len(named) else {wave: str(wave) for wave in named}


# plates


def _plates(indexes: _Indexes, files: Iterable[_File]) -> list[_PlateFiles]:
    """Share the images out: to the index in the nearest folder above them that their names start with.

    An index that fits no name (it was renamed) takes them all if it is alone in its folder.
    """
    groups: dict[tuple[str, bool], dict[str, list[_File]]] = defaultdict(lambda: defaultdict(list))
    homes: dict[str, str | None] = {}
    for file in files:
        if file.base not in homes:
            homes[file.base] = indexes.home(file.base)
        home = homes[file.base]
        groups[file.base if home is None else home, home is not None][file.prefix].append(file)
    plates = [
        plate
        for (base, indexed), by_prefix in groups.items()
        if not indexed
        for plate in _plates_by_name(base, by_prefix)
    ]
    for home, stems in indexes.copies.items():
        by_prefix = groups[home, True]
        fits = {prefix.casefold() for prefix in by_prefix} & stems.keys()
        for stem in stems:
            path, index = indexes.load(home, stem)
            taken = [prefix for prefix in by_prefix if prefix.casefold() == stem or (not fits and len(stems) == 1)]
            own = [file for prefix in taken for file in by_prefix[prefix]]
            if index is not None or own:
                name = path.rpartition("/")[2][: -len(".htd")]
                plates.append(_PlateFiles(home, name, path if index else "", index, own))
    return sorted(plates, key=lambda plate: (natural_key(plate.base), natural_key(plate.stem)))


def _plates_by_name(base: str, by_prefix: Mapping[str, list[_File]]) -> Iterable[_PlateFiles]:
    """Take what stands before the wells for plates, unless it changes with each well: then it is a counter."""
    wells = [{file.well for file in files} for files in by_prefix.values()]
    if len(wells) > 1 and len(set().union(*wells)) == len(wells) == sum(map(len, wells)):
        files = [file for files in by_prefix.values() for file in files]
        return [_PlateFiles(base, "", "", None, files)]
    return [_PlateFiles(base, prefix, "", None, files) for prefix, files in by_prefix.items()]


def _plate_names(plates: list[_PlateFiles], default: str) -> list[str]:
    """Name plates by their index; where that is the same for several, by their folders."""
    ways: tuple[Callable[[_PlateFiles], str], ...] = (
        lambda plate: plate.stem or plate.base.rpartition("/")[2] or default,
        lambda plate: plate.base.rpartition("/")[2] or default,
        lambda plate: plate.base or default,
        lambda plate: posixpath.join(plate.base or default, plate.stem),
    )
    for way in ways:
        names = [way(plate) for plate in plates]
        if len({name.casefold() for name in names}) == len(names):
            break
    return names


def _planes(listing: Listing, name: str, plate: _PlateFiles) -> Iterable[Plane]:
    channels = plate.index.channels if plate.index else {}
    return (
        Plane(
            FieldKey(name, file.well, file.site, file.time),
            channels.get(file.wave) or str(file.wave),
            file.z,
            ImageRef(listing.absolute(file.path)),
        )
        for file in plate.known
    )


def _expected(name: str, plate: _PlateFiles, time: int | None) -> Iterable[tuple[FieldKey, str]]:
    """Return what the index promises, for the given time alone if the root is the folder of one."""
    index = plate.index
    if index is None or _too_many(plate, time):
        return ()
    times = range(1, index.times + 1) if time is None else (time,)
    channels = [index.channels[wave] for wave in index.collected]
    keys = (FieldKey(name, *place) for place in product(index.wells, plate.sites, times))
    return ((key, channel) for key in keys for channel in channels)


def _expected_z(name: str, plate: _PlateFiles, root: _Place) -> Iterable[tuple[FieldKey, str, int]]:
    """Return the planes that the index promises for the stacks that are not whole."""
    if plate.index is None or root.z is not None:
        return
    stacks = Counter((file.well, file.site, file.time, file.wave) for file in plate.known if file.z is not None)
    for (well, site, time, wave), count in stacks.items():
        if count < plate.index.steps <= _MOST_STEPS:
            key = FieldKey(name, well, site, time)
            yield from ((key, plate.index.channels[wave], z) for z in range(1, plate.index.steps + 1))


def _too_many(plate: _PlateFiles, time: int | None) -> int:
    """Return how many images an index promises if it is not possible to look for each, else 0."""
    if plate.index is None:
        return 0
    times = plate.index.times if time is None else 1
    count = len(plate.index.wells) * len(plate.sites) * len(plate.index.collected) * times
    return count if count > _MAX_EXPECTED else 0


def _plate_notes(plate: _PlateFiles, root: _Place) -> Iterable[str]:
    """Say what an index and the files do not agree on."""
    if plate.index is None:
        return
    if len(plate.known) < len(plate.files):
        known = {file.path for file in plate.known}
        unknown = [file.path for file in plate.files if file.path not in known]
        left_out = f"{len(unknown)} images are left out"
        yield f"{left_out}, the index {plate.source} does not promise them (such as {unknown[0]!r})"
    if promised := _too_many(plate, root.time):
        yield f"the index {plate.source} promises {promised} images, too many to list those that are missing"
    stacks = Counter((file.well, file.site, file.time, file.wave) for file in plate.known if file.z is not None)
    steps = plate.index.steps
    if root.z is None and (short := sum(count < steps for count in stacks.values())):
        fewer = f"{short} of {len(stacks)} z-stacks have fewer planes"
        yield f"{fewer} than the {steps} that the index {plate.source} promises"


def _size(listing: Listing, plates: Iterable[_PlateFiles]) -> tuple[float | None, tuple[str, ...]]:
    """Return the pixel size in the first image of each plate if they agree."""
    firsts = [plate.known[0].path for plate in plates if plate.known]
    sizes = {pixel_size(description(listing.absolute(path))): path for path in firsts}
    if len(sizes) == 1:
        return next(iter(sizes)), ()
    return None, (
        f"pixel sizes differ, none is taken: {', '.join(f'{path} {size} um' for size, path in sizes.items())}",
    )
