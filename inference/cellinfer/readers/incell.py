"""GE / Cytiva IN Cell Analyzer: the images that the `.xdce` file of a plate lists.

Source: the elements that the published readers go by (Bio-Formats `InCellReader`, TissueMAPS `metaconfig.incell`); the
maker has no public description. MetaXpress exports for IN Carta have the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

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

_SUFFIX = ".xdce"
_ROOT = "ImageStack"
_WANTED = frozenset(
    {"ImageStack", "ObjectiveCalibration", "Wavelength", "ExcitationFilter", "EmissionFilter", "Images", "Image", "Row",
     "Column", "Identifier", "Plate"}
)  # fmt: skip


class InCellReader:
    """Reads the plates of the IN Cell Analyzer (1000 to 6500) by their `.xdce` files.

    Fields, z and time count from 1 as in the file names; channels are called by their emission filters. Without an
    `.xdce` file, or with one that names no files, the pattern `incell` of `PatternReader` reads the file names.
    """

    name = "incell"

    def can_read(self, listing: Listing) -> float | None:
        """Return 1 if there is an `.xdce` file that names images, also if it is damaged: `read` then says so."""
        for path in _index_files(listing):
            elements = read_index(listing.absolute(path), _WANTED)
            if elements.root == _ROOT and (elements.damage or _names_files(elements)):
                return 1.0
        return None

    def read(self, listing: Listing) -> Found:
        """Return the planes that the `.xdce` files list.

        Raises
        ------
        InputError
            If there is no such file, one is damaged or names no images, or nothing that they list is there.
        """
        indexes = []
        for path in _index_files(listing):
            elements = read_index(listing.absolute(path), _WANTED)
            if elements.root != _ROOT:
                continue
            if elements.damage:
                raise unusable(path, f"is cut off or damaged ({elements.damage})")
            if _names_files(elements):
                indexes.append(_index(path, elements.found))
        if not indexes:
            raise InputError(f"no .xdce file that names images in {listing.root}: choose another layout")
        return found_in(listing, self.name, indexes)


def _index_files(listing: Listing) -> list[str]:
    return [
        path for path in listing.ignored if path.casefold().endswith(_SUFFIX) and PurePosixPath(path).name[0] != "."
    ]


def _names_files(elements: Elements) -> bool:
    """Say whether images are listed by file name; some instruments list none, or none with a name."""
    return any(element.attributes.get("filename") for element in elements.found if element.name == "Image")


def _index(path: str, elements: list[Element]) -> Index:
    """Read one index: the channels come first, then the images with their places."""
    plate = PurePosixPath(path).stem
    grid = (0, 0)
    sizes: set[float] = set()
    waves: dict[str, dict[str, str]] = {}
    images: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for name, attributes, _ in elements:
        if name == "Image":
            current = {"filename": attributes.get("filename", "")}
            images.append(current)
        elif name == "Wavelength":
            current = waves.setdefault(attributes.get("index", str(len(waves))), {})
        elif name == "Identifier":
            current |= attributes
        elif name in ("Row", "Column"):
            current[name] = attributes.get("number", "")
        elif name in ("ExcitationFilter", "EmissionFilter"):
            current[name] = attributes.get("name", "").strip()
        elif name == "Plate":
            grid = (whole(attributes.get("rows")), whole(attributes.get("columns")))
        elif name == "ImageStack":
            plate = attributes.get("PlateID") or plate
        elif name == "ObjectiveCalibration" and (
            size := to_micrometres(attributes.get("pixel_width"), attributes.get("unit"))
        ):
            sizes.add(size)
    channels = _channels(images, waves)
    indexed = checked(path, lambda: tuple(_image(image, channels) for image in images))
    order = tuple(channels[wave] for wave in sorted(channels, key=natural_key))
    return Index(path, plate, indexed, frozenset(sizes), channels=order, grid=grid)


def _image(image: dict[str, str], channels: dict[str, str]) -> IndexedImage:
    """Place one image: rows and columns count from 1 in the index, all else from 0 (and from 1 in file names)."""
    return IndexedImage(
        file=image["filename"],
        well=well_name(int(image["Row"]), int(image["Column"])),
        site=int(image["field_index"]) + 1,
        time=int(image.get("time_index", "0")) + 1,
        channel=channels[image.get("wave_index", "0")],
        z=int(image.get("z_index", "0")) + 1,
    )


def _channels(images: list[dict[str, str]], waves: dict[str, dict[str, str]]) -> dict[str, str]:
    """Map wave_index to a name: the emission filter, both filters, or the number, whichever tells all apart.

    Two channels often share an emission filter: transmitted light is seen through that of a dye.
    """
    filters: dict[str, dict[str, str]] = {}
    for image in images:
        filters.setdefault(image.get("wave_index", "0"), image)
    filters = {wave: {**image, **waves.get(wave, {})} for wave, image in filters.items()}
    ways: tuple[Callable[[dict[str, str]], str], ...] = (
        lambda wave: wave.get("EmissionFilter", ""),
        lambda wave: " - ".join(filter(None, (wave.get("ExcitationFilter"), wave.get("EmissionFilter")))),
    )
    for way in ways:
        names = {wave: way(each) for wave, each in filters.items()}
        if all(names.values()) and len(set(names.values())) == len(names):
            return names
    return {wave: str(int(wave) + 1) if wave.isdecimal() else wave for wave in filters}
