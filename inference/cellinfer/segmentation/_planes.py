"""From an image as it comes to the planes that a model takes: colour, contrast, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cellinfer_kernels.normalise import percentiles, rescale
from numpy.typing import NDArray

from cellinfer.cards import ModelCard
from cellinfer.errors import InputError
from cellinfer.images import native

Channel = Literal["red", "green", "blue", "mean"]
COLOURS = ("red", "green", "blue")
CHANNELS = (*COLOURS, "mean")
_FLUORESCENCE = {"fluorescence-light-microscopy"}
_TRANSMISSION = {"bright-field-microscopy", "histology"}
_LONGER_TAIL = 2.0


@dataclass(frozen=True)
class Planes:
    """An image as a model takes it.

    Attributes
    ----------
    pixels
        `(C, H, W)` float32, normalised; C as many as the model has channels.
    notes
        What was taken for granted to get there.
    """

    pixels: NDArray[np.float32]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.pixels.shape[1:]
        return height, width


def prepare(image: NDArray[Any], card: ModelCard, channel: Channel | None = None, invert: bool = False) -> Planes:
    """Bring an image to the channels and the range of intensities that a model was trained on.

    Parameters
    ----------
    image
        `(H, W)`, `(H, W, 3)` or `(H, W, 4)`, see `cellinfer.segmentation.segment_image`.
    card
        The model's card.
    channel, invert
        See `cellinfer.segmentation.segment_image`.

    Raises
    ------
    InputError
        If the image has no such shape or no pixel, its numbers are not real, or the model does not take its colours.
    """
    matched, notes = _match(_checked(image), card, channel)
    if invert:
        matched = ~matched if matched.dtype.kind in "biu" else -matched
    elif (looks := _looks_inverted(matched, card)) is not None:
        notes.append(looks)
    pixels = normalise(matched, card.percentiles, card.clip)
    if matched.dtype.kind == "f" and _has(card, _TRANSMISSION):  # not finite is ground, and here the ground is bright
        pixels[~np.isfinite(matched)] = 1.0
    channels_first = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None].repeat(len(card.channels), axis=0)
    return Planes(np.ascontiguousarray(channels_first), tuple(notes))


def normalise(image: NDArray[Any], levels: tuple[float, float], clip: tuple[float, float]) -> NDArray[np.float32]:
    """Scale two percentiles of an image to 0 and 1 and hold what lies beyond in a range.

    Parameters
    ----------
    image
        `(H, W)` or `(H, W, 3)`, any real dtype; values that are not finite become 0. Percentiles are those of all
        channels together, so that colours keep their hue.
    levels
        The percentiles, see `ModelCard.percentiles`. Where both are equal, as with a few objects on a flat ground, the
        least and the largest value take their place.
    clip
        The range, see `ModelCard.clip`.

    Returns
    -------
    ndarray
        Same shape, float32; zeros if the image is constant.
    """
    image = native(image)
    low, high = percentiles(image, levels)
    if not high > low:
        low, high = percentiles(image, (0.0, 100.0))
    if not high > low:
        return np.zeros(image.shape, np.float32)
    return np.clip(rescale(image, low, high), *clip)


def _checked(image: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(image, np.ndarray):
        raise InputError(f"Segmentation takes an image as an array, not a {type(image).__name__}.")
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not shaped or image.size == 0:
        raise InputError(
            f"Segmentation takes one image, (height, width) or (height, width, 3), not an array of shape {image.shape}."
        )
    if image.dtype.kind not in "biuf":
        raise InputError(f"Segmentation takes pixels that are real numbers, not {image.dtype}.")
    return image


def _match(image: NDArray[Any], card: ModelCard, channel: Channel | None) -> tuple[NDArray[Any], list[str]]:
    """Return grey for a model of one channel and colour, or grey to be repeated, for a model of three."""
    notes: list[str] = []
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
        notes.append("the image's transparency was left out")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if len(card.channels) == 1:
        return _grey(image, card, channel, notes), notes
    if card.channels != COLOURS:
        raise InputError(
            f"The model {card.name!r} takes the channels {', '.join(card.channels)}: one image is not enough for it."
        )
    if channel is not None:
        raise InputError(f"The model {card.name!r} takes colour images whole: leave the channel {channel!r} out.")
    if image.ndim == 2:
        notes.append(f"the image is grey and the model {card.name!r} takes colour: each colour is the grey image")
    return image, notes


def _grey(image: NDArray[Any], card: ModelCard, channel: Channel | None, notes: list[str]) -> NDArray[Any]:
    if image.ndim == 2:
        if channel is not None:
            notes.append(f"the image is grey: the channel {channel!r} is the image itself")
        return image
    if channel == "mean":
        return np.asarray(image.mean(axis=2, dtype=np.float64))
    if channel is not None:
        return np.ascontiguousarray(image[..., COLOURS.index(channel)])
    if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
        notes.append("the image's three colours are equal: one was taken")
        return np.ascontiguousarray(image[..., 0])
    raise InputError(
        f"The image is in colour and the model {card.name!r} takes one channel ({card.channels[0]}): choose a colour "
        f"model (`cellinfer models list`), or a channel, --channel {', '.join(CHANNELS[:-1])} or {CHANNELS[-1]}."
    )


def _has(card: ModelCard, tags: set[str]) -> bool:
    """Tell whether a model's card has one of the tags."""
    return not tags.isdisjoint(card.description_file.get("tags", ()))


def _looks_inverted(image: NDArray[Any], card: ModelCard) -> str | None:
    """Say if an image looks like bright objects where a model looks for dark ones, or the other way round.

    Most pixels are ground, so the median lies near it, and objects make one tail of the intensities the longer one. The
    image looks inverted if the wrong tail (percentile 1 to 50, or 50 to 99) is more than twice as long as the other.
    """
    bright, dark = _has(card, _FLUORESCENCE), _has(card, _TRANSMISSION)
    if not (dark or (bright and len(card.channels) == 1)):
        return None
    low, middle, high = percentiles(image, (1.0, 50.0, 99.0))
    if bright:
        if len(card.channels) == 1 and middle - low > _LONGER_TAIL * (high - middle):
            return (
                f"the image looks like dark objects on a bright ground, and the model {card.name!r} looks for bright "
                "ones: say --invert (invert=True), or choose a model for bright-field images"
            )
    elif dark and high - middle > _LONGER_TAIL * (middle - low):
        return (
            f"the image looks like bright objects on a dark ground, and the model {card.name!r} looks for dark ones: "
            "choose a model for fluorescence, or say --invert (invert=True)"
        )
    return None
