"""Images with instance labels, in memory, from the layouts that training reads.

Every loader returns `Sample`s: the image already normalised as the deployed pipeline normalises it, so that the
network never sees a scale it will not see again.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from cellinfer.errors import InputError
from cellinfer.images import read_image, read_labels
from cellinfer.plate import IMAGE_SUFFIXES
from cellinfer.segmentation import Channel, median_diameter
from cellinfer.segmentation import normalise as normalise_plane
from cellinfer_kernels.components import fill_holes, relabel
from numpy.typing import NDArray
from skimage.measure import label

LOW, HIGH = 1.0, 99.8
"""Percentiles of a field that become 0 and 1."""
CLIP = (-0.5, 4.0)
"""Normalised values are held in this range."""
COLOURS = ("red", "green", "blue")
"""What the channels of a colour image show."""
_SPECK = 0.1
"""Pieces smaller than this share of the largest piece of their number are slips of the pen."""
_TINY = 3.0
"""Median diameter (pixels) below which something is wrong with a mask, or an image cannot be segmented."""


@dataclass
class Sample:
    """One image and its objects.

    Parameters
    ----------
    name
        Name of the image, unique within its source.
    source
        Data set it comes from.
    image
        `(H, W)` or, coloured, `(H, W, 3)` float32, normalised.
    labels
        `(H, W)` int32, 0 is background.
    group
        Images of one group must stay on one side of a split.
    """

    name: str
    source: str
    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    group: str = ""
    diameter: float = field(init=False)

    def __post_init__(self) -> None:
        self.diameter = median_diameter(self.labels)


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Scale percentiles `LOW` and `HIGH` to 0 and 1 and clip to `CLIP`; a constant image becomes zeros."""
    return normalise_plane(image, (LOW, HIGH), CLIP)


def read_pixels(path: Path, colour: bool = False) -> NDArray[Any]:
    """Read an image as `(H, W)`, colour channels averaged, or as `(H, W, 3)`, grey repeated; alpha is dropped."""
    pixels = read_image(path)
    if pixels.ndim == 3:
        pixels = pixels[..., :3]
        return pixels if colour else np.asarray(pixels.mean(axis=-1))
    return np.repeat(pixels[..., None], 3, axis=-1) if colour else pixels


def load_dsb2018(folder: Path, modality: str = "fluorescence", colour: bool = False) -> list[Sample]:
    """Load one modality of the Data Science Bowl 2018 stage 1 images (`images/`, `masks/`, `index.csv`)."""
    _need(folder / "index.csv", folder / "images", folder / "masks")
    with (folder / "index.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["modality"] == modality]
    return [
        Sample(
            row["image_id"],
            "dsb2018" if modality == "fluorescence" else f"dsb2018-{modality}",
            normalise(read_pixels(folder / "images" / f"{row['image_id']}.png", colour)),
            read_labels(folder / "masks" / f"{row['image_id']}.png"),
        )
        for row in rows
    ]


def load_pairs(images: Path, masks: Path, source: str, colour: bool = False) -> list[Sample]:
    """Load every image of a folder that has a label image of the same stem in another folder."""
    _need(images, masks)
    labels = {path.stem: path for path in masks.iterdir()}
    return [
        Sample(path.stem, source, normalise(read_pixels(path, colour)), read_labels(labels[path.stem]))
        for path in _images(images)
        if path.stem in labels
    ]


def _need(*paths: Path) -> None:
    """Refuse a folder of public images that lacks something."""
    for path in paths:
        if not path.exists():
            raise InputError(
                f"There is no {path}: the folder of public images holds dsb2018/ with images/, masks/ and index.csv, "
                "and bbbc039/ with images/ and masks/."
            )


def load_folder(folder: Path, colour: bool = False, channel: Channel | None = None) -> tuple[list[Sample], list[str]]:
    """Load a user's images with their label masks.

    Two layouts are understood: `images/` beside `masks/` (or `labels/`) with equal file stems, or masks beside their
    images, named `<image>_masks` or `<image>_mask` (Cellpose), `<image>_labels` or `<image>_label`.

    Parameters
    ----------
    folder
        Where the images are.
    colour
        Whether the model takes colour.
    channel
        What a model for grey images sees of coloured ones, see `cellinfer.segmentation.segment_image`; None is the
        mean, which is noted.

    Returns
    -------
    samples : list of Sample
        Label masks tidied, see `tidy`. An image whose mask is empty is a sample without objects.
    notes : list of str
        What was found and mended, and images left out for want of a mask; to be shown.

    Raises
    ------
    InputError
        If there is no pair, two files claim to be one image or its mask, a mask is JPEG or in colour, sizes disagree,
        not one mask holds an object, or the channel is unknown or of no use.
    """
    if channel is not None and channel not in get_args(Channel):
        raise InputError(f"Unknown channel {channel!r}: choose {', '.join(get_args(Channel))}.")
    if channel is not None and colour:
        raise InputError(f"A model for colour takes images whole: leave the channel {channel!r} out.")
    pairs, notes = _pairs(folder)
    samples = []
    taken: Counter[str] = Counter()
    for image, mask in pairs:
        pixels, said = _fitted(read_image(image), colour, channel)
        taken.update(said)
        labels = _read_mask(mask)
        if pixels.shape[:2] != labels.shape:
            raise InputError(
                f"{image} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its mask {mask} is "
                f"{labels.shape[1]} x {labels.shape[0]}: save the mask at the image's size."
            )
        labels, mended = tidy(labels)
        notes += [f"{mask.name}: {note}" for note in mended]
        samples.append(Sample(image.stem, folder.name, normalise(pixels), labels))
    notes += [f"{count} of {len(samples)} images {said}" for said, count in taken.items()]
    empty = [s.name for s in samples if not s.labels.any()]
    if len(empty) == len(samples):
        raise InputError(f"Not one of the {len(samples)} masks in {folder} holds an object: nothing can be learnt.")
    if empty:
        notes.append(f"{len(empty)} images without objects, used as background: {', '.join(empty[:5])}")
    usual = float(np.nanmedian([s.diameter for s in samples]))
    if usual < _TINY:
        notes.append(f"objects are {usual:.1f} pixels across: look whether the masks are right, or enlarge the images")
    return samples, notes


def _read_mask(path: Path) -> NDArray[np.int32]:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(f"{path} is a JPEG, which alters label numbers: save masks as PNG or TIFF.")
    if read_image(path).ndim == 3:
        raise InputError(
            f"{path} shows objects in colours: save label numbers, one grey value per object and 0 for background, as "
            "16-bit PNG or TIFF."
        )
    return read_labels(path)


def _fitted(pixels: NDArray[Any], colour: bool, channel: Channel | None) -> tuple[NDArray[Any], list[str]]:
    """Return an image as the model takes it, and what was taken for granted to get there."""
    if pixels.ndim == 2:
        if not colour:
            return pixels, []
        return np.repeat(pixels[..., None], 3, axis=-1), [
            "are grey and the model takes colour: each colour is the same"
        ]
    pixels = pixels[..., :3]
    if colour:
        return pixels, []
    if channel in COLOURS:
        said = f"are in colour: their {channel} channel is learnt from; segment such images with --channel {channel}"
        return np.ascontiguousarray(pixels[..., COLOURS.index(channel)]), [said]
    if channel is None and (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0]), []
    said = "are in colour: the mean of their channels is learnt from; segment such images with --channel mean"
    better = ", or start from a model for colour (nuclei-tissue)" if channel is None else ""
    return np.asarray(pixels.mean(axis=-1)), [said + better]


def tidy(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[str]]:
    """Mend a label image: one number per connected object, no specks, no holes, numbers 1..n.

    Parameters
    ----------
    labels
        `(H, W)` int32; an object may have holes and stray specks, several may share a number, numbers may have gaps.

    Returns
    -------
    labels : ndarray
        `(H, W)` int32.
    notes : list of str
        What was changed, and what looks wrong.
    """
    apart, dropped = _without_specks(labels, separate(labels))
    notes = [f"{dropped} specks dropped"] if dropped else []
    extra = len(np.unique(apart[apart > 0])) - len(np.unique(labels[labels > 0]))
    if extra:
        notes.append(f"{extra} objects shared another's number and were given their own")
    whole = fill_holes(apart)
    filled = int((whole > 0).sum() - (apart > 0).sum())
    if filled:
        notes.append(f"{filled} pixels of holes were filled")
    share = np.bincount(whole.ravel())[1:].max(initial=0) / whole.size
    if share > 0.5:
        notes.append(f"one object covers {share:.0%} of the image: look whether it is background, which must be 0")
    return relabel(whole), notes


def _without_specks(labels: NDArray[np.int32], apart: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Drop pieces (`apart`) that are tiny beside the largest piece of their number (`labels`); say how many."""
    areas = np.bincount(apart.ravel())
    numbers = np.zeros(areas.size, np.int32)
    numbers[apart.ravel()] = labels.ravel()
    _, owners = np.unique(numbers, return_inverse=True)
    largest = np.zeros(owners.max() + 1, areas.dtype)
    np.maximum.at(largest, owners, areas)
    specks = areas < _SPECK * largest[owners]
    return np.where(specks[apart], 0, apart).astype(np.int32), int(specks.sum())


def separate(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give each connected piece (corners connect) of each number its own number, 1..n."""
    return np.asarray(label(labels, background=0, connectivity=2), dtype=np.int32)


def _pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return images with their masks, and what was left out."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the folder that holds images and label masks.")
    images = list(_images(folder / "images" if (folder / "images").is_dir() else folder))
    beside = [folder / name for name in ("masks", "labels") if (folder / name).is_dir()]
    if beside:
        masks = _by_name((path.stem, path) for path in _images(beside[0]))
    else:
        masks = _by_name(
            (path.stem.removesuffix(ending), path)
            for path in images
            for ending in _MASK_ENDINGS
            if path.stem.endswith(ending)
        )
        images = [path for path in images if path not in masks.values()]
    pairs = [(path, masks[name]) for name, path in _by_name((p.stem, p) for p in images).items() if name in masks]
    if not pairs:
        raise InputError(
            f"No image in {folder} has a label mask: put images into {folder / 'images'} and masks of the same name "
            f"into {folder / 'masks'}, or name the masks <image>_masks beside them."
        )
    missing = [path.name for path in images if path.stem not in masks]
    return pairs, [f"{len(missing)} images have no mask and are left out: {', '.join(missing[:5])}"] if missing else []


_MASK_ENDINGS = ("_masks", "_mask", "_labels", "_label")


def _by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return paths by the image that they belong to; refuse two for one."""
    found: dict[str, Path] = {}
    for name, path in named:
        if name in found:
            raise InputError(f"{found[name]} and {path} both go by the name {name}: keep one of them, or rename it.")
        found[name] = path
    return found


def _images(folder: Path) -> Iterator[Path]:
    """Return the images of a folder in order, without hidden files, such as macOS leaves beside each file."""
    return (
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
