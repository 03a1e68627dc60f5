"""PerkinElmer / Revvity Harmony exports (Opera Phenix, Operetta, Sonata): the images that `Index.idx.xml` lists."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cellinfer.errors import InputError
from cellinfer.plate import natural_key
from cellinfer.readers._index import (
    Element,
    Elements,
    Index,
    IndexedImage,
    checked,
    found_in,
    read_index,
    unusable,
    whole,
)
from cellinfer.readers._metadata import to_micrometres
from cellinfer.readers._protocol import Found
from cellinfer.readers._scan import Listing
from cellinfer.wells import well_name

_INDEX_NAMES = ("index.idx.xml", "index.xml", "index.ref.xml")
"""In the order of trust, where a folder has several."""
_ROOT = "EvaluationInputData"
_SECTIONS = frozenset({"Plates", "Wells", "Maps", "Images"})
_RECORDS = {"Plate": None, "Entry": "Maps", "Image": "Images"}
"""Elements with fields -> the section that they count in (wells name their images once more)."""
_FIELDS = frozenset(
    {"PlateID", "Name", "URL", "State", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID", "ChannelName",
     "ImageResolutionX", "PlateRows", "PlateColumns"}
)  # fmt: skip
_WANTED = _FIELDS | _SECTIONS | frozenset(_RECORDS)
_SLOW_KINETIC = re.compile(r"sk(\d+)")


class HarmonyReader:
    """Reads the exports of Harmony, the software of the Opera Phenix, Operetta and Sonata.

    Wells, fields, planes, time points and the names of the dyes come from the index; without one, the pattern `opera`
    of `PatternReader` reads the file names.
    """

    name = "harmony"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there is an index of Harmony's, also if it is damaged: `read` then says so."""
        paths = map(listing.absolute, _index_files(listing))
        return 1.0 if any(read_index(path, _WANTED).root == _ROOT for path in paths) else None

    def read(self, listing: Listing) -> Found:
        """Return the planes that the indexes list.

        Raises
        ------
        InputError
            If there is no index, one is damaged, or nothing that they list is there.
        """
        indexes = []
        for path in _index_files(listing):
            elements = read_index(listing.absolute(path), _WANTED)
            if elements.root == _ROOT:
                indexes.append(_index(path, elements))
        if not indexes:
            raise InputError(f"no index of Harmony (Index.idx.xml, Index.xml) in {listing.root}: choose another layout")
        return found_in(listing, self.name, indexes)


def _index_files(listing: Listing) -> list[str]:
    """Return the index files by their names, one for each folder."""
    best: dict[str, tuple[int, str]] = {}
    for path in listing.ignored:
        folder, _, name = path.rpartition("/")
        if (low := name.casefold()) in _INDEX_NAMES:
            entry = (_INDEX_NAMES.index(low), path)
            best[folder] = min(best.get(folder, entry), entry)
    return [path for _, path in best.values()]


class _Record(NamedTuple):
    """One plate, channel or image of an index."""

    kind: str
    attributes: Mapping[str, str]
    fields: dict[str, str]


def _records(elements: list[Element]) -> list[_Record]:
    """Gather the fields of each plate, channel and image."""
    records: list[_Record] = []
    section: str | None = None
    fields: dict[str, str] | None = None
    for name, attributes, text in elements:
        if name in _SECTIONS:
            section, fields = name, None
        elif name in _RECORDS:
            fields = None
            if _RECORDS[name] in (None, section):
                fields = {}
                records.append(_Record(name, attributes, fields))
        elif fields is not None:
            fields.setdefault(name, text)
            if name == "ImageResolutionX":
                fields.setdefault("Unit", attributes.get("Unit", "m"))
    return records


def _index(path: str, elements: Elements) -> Index:
    """Read one index."""
    if elements.damage:
        raise unusable(path, f"is cut off or damaged ({elements.damage})")
    records = _records(elements.found)
    images = [record.fields for record in records if record.kind == "Image"]
    entries = [{**record.attributes, **record.fields} for record in records if record.kind == "Entry"]
    plate = next((record.fields for record in records if record.kind == "Plate"), {})
    if not images:
        raise unusable(path, "lists no images")
    names, notes = _channel_names(images, entries)
    shift = _time_shift(images)
    indexed = checked(path, lambda: tuple(_image(image, names, shift) for image in images))
    resolutions = {(each["ImageResolutionX"], each["Unit"]) for each in [*images, *entries] if "Unit" in each}
    sizes = frozenset(size for value, unit in resolutions if (size := to_micrometres(value, unit)))
    return Index(
        path,
        plate.get("Name") or plate.get("PlateID") or "",
        indexed,
        sizes,
        notes,
        channels=tuple(names[number] for number in sorted(names, key=natural_key)),
        grid=(whole(plate.get("PlateRows")), whole(plate.get("PlateColumns"))),
    )


def _image(image: Mapping[str, str], names: Mapping[str, str], shift: int) -> IndexedImage:
    return IndexedImage(
        file=image.get("URL", ""),
        well=well_name(int(image["Row"]), int(image["Col"])),
        site=int(image.get("FieldID") or 1),
        time=int(image.get("TimepointID") or 1 - shift) + shift,
        channel=names[image.get("ChannelID", "")],
        z=int(image["PlaneID"]) if image.get("PlaneID") else None,
        good=image.get("State", "Ok").casefold() in ("ok", ""),
    )


def _time_shift(images: Iterable[Mapping[str, str]]) -> int:
    """Return what to add to TimepointID so that time points count from 1, as they do in file names (`sk1`).

    The index counts from 0 up to Harmony 5 and from 1 in later versions.
    """
    for image in images:
        match = _SLOW_KINETIC.search(image.get("URL", ""))
        if match and image.get("TimepointID", "").isdecimal():
            return int(match[1]) - int(image["TimepointID"])
    return int(any(image.get("TimepointID") == "0" for image in images))


def _channel_names(
    images: Iterable[Mapping[str, str]], entries: Iterable[Mapping[str, str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Map ChannelID to the dye's name, or to itself where two channels have one name.

    Harmony writes the name into each image up to version 5, and once for each channel from version 6 on.
    """
    dyes: dict[str, str] = {}
    ids = {image.get("ChannelID", ""): None for image in images}
    for each in (*images, *entries):
        number, dye = each.get("ChannelID", ""), each.get("ChannelName")
        if dye and number in ids:
            dyes.setdefault(number, dye)
    count = Counter(dyes.values())
    names = {number: dyes[number] if count[dyes.get(number, "")] == 1 else number or "1" for number in ids}
    if len(set(names.values())) < len(names):  # a dye called by another channel's number
        names = {number: number or "1" for number in ids}
    shared = sorted(dye for dye, times in count.items() if times > 1)
    if not shared:
        return names, ()
    return names, (f"several channels are called {', '.join(map(repr, shared))}: they go by their numbers",)
