"""From one image to labels: normalise, rescale, tile, network, views, merge, decode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np
from cellinfer_kernels.views import D4, FLIPS6
from numpy.typing import NDArray

from cellinfer.decoders import find_decoder
from cellinfer.errors import InputError
from cellinfer.segmentation._adaptive import by_need
from cellinfer.segmentation._network import LARGEST_SCALE, Network
from cellinfer.segmentation._planes import CHANNELS, Channel, normalise, prepare
from cellinfer.segmentation._size import diameter_of, estimate_diameter, median_diameter
from cellinfer.segmentation._views import Agreed, by_fields, by_instances
from cellinfer.sessions import Session

__all__ = [
    "LARGEST_SCALE",
    "Channel",
    "Merge",
    "Segmentation",
    "Tta",
    "check_merge",
    "check_segmentation_options",
    "estimate_diameter",
    "median_diameter",
    "network_scale",
    "normalise",
    "segment_image",
]

Tta = Literal["none", "flips", "d4", "adaptive"]
Merge = Literal["instances", "fields"]
VIEWS: dict[str, tuple[str, ...]] = {"flips": FLIPS6, "d4": D4}


@dataclass(frozen=True)
class Segmentation:
    """Objects of one image.

    Attributes
    ----------
    labels
        `(H, W)` int32, 0 is background, objects 1..n.
    diameter
        Median object diameter (pixels) that was assumed.
    scale
        Factor by which the image was resized before the network.
    votes
        `(n,)` float64, share of the views asked that have the object; this and what follows is None without
        test-time augmentation.
    views
        `(n,)` int32, number of views asked about the object.
    mean_iou
        `(n,)` float64, mean IoU over all pairs of views that have it; NaN where fewer than two have.
    entropy
        `(n,)` float64, mean over the pixels that any of these views gives it of the binary entropy (bits) of their
        votes; NaN where no view has it.
    uncertainty
        `(H, W)` float32, entropy (0 to 1 bit) of the views' votes on each pixel, see
        `cellinfer_kernels.consensus.doubt`. Objects that were outvoted show here too.
    constant
        True if the image had no contrast, so that no object could be looked for.
    notes
        What was taken for granted about the image, in words.
    """

    labels: NDArray[np.int32]
    diameter: float
    scale: float
    votes: NDArray[np.float64] | None = None
    views: NDArray[np.int32] | None = None
    mean_iou: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None
    uncertainty: NDArray[np.float32] | None = None
    constant: bool = False
    notes: tuple[str, ...] = ()


def segment_image(
    image: NDArray[np.generic],
    session: Session,
    *,
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
    channel: Channel | None = None,
    invert: bool = False,
) -> Segmentation:
    """Find the objects in one image.

    Parameters
    ----------
    image
        Grey `(H, W)` or colour `(H, W, 3)` in the order red, green, blue, any real dtype. Values that are not finite
        count as background. A fourth channel (transparency) is left out. A grey image is repeated for a colour model.
    session
        The model.
    diameter
        Median object diameter in pixels; None estimates it from the image.
    tta
        Test-time augmentation: `"none"`, the six published views (`"flips"`), all eight of the square (`"d4"`), or
        two views everywhere and two more where these disagree (`"adaptive"`).
    merge
        How views are merged: majority vote over matched objects (`"instances"`) or mean of the network's output
        (`"fields"`, for models whose output is scalar fields, and not with `"adaptive"`).
    channel
        What a grey model sees of a colour image: `"red"`, `"green"`, `"blue"` or their `"mean"`. Not needed where the
        three are equal.
    invert
        Turn dark into bright first, for dark objects on a bright ground in a model that looks for bright ones.

    Returns
    -------
    Segmentation
        Labels, how sure the views were, and notes on what was taken for granted.

    Raises
    ------
    InputError
        If the image has no such shape or no pixel, the model does not take its colours, an option is unknown, or the
        model's output cannot be averaged.
    """
    check_segmentation_options(diameter, tta, merge, channel)
    if not isinstance(session, Session):
        raise InputError(f"The model must be open: give open_session('nuclei'), not {session!r}.")
    check_merge(session, merge)
    planes = prepare(image, session.card, channel, invert)
    constant = not planes.pixels.any()
    estimated = diameter or diameter_of(planes, session)
    diameter = estimated or session.card.diameter
    network = Network.for_objects(diameter, session)
    notes = (*planes.notes, *_fallbacks(network, constant, assumed=estimated is None))
    if tta == "none":
        labels = np.zeros(planes.shape, np.int32) if constant else network.labels(planes.pixels)
        return Segmentation(labels, diameter, network.scale, constant=constant, notes=notes)
    found = Agreed.nothing(planes.shape) if constant else _agreed(network, planes.pixels, tta, merge)
    return Segmentation(
        found.labels,
        diameter,
        network.scale,
        found.votes,
        found.views,
        found.mean_iou,
        found.entropy,
        found.uncertainty,
        constant=constant,
        notes=notes,
    )


def network_scale(diameter: float, session: Session) -> float:
    """Return the factor by which an image with objects of this diameter (pixels) is resized for a model."""
    return Network.for_objects(diameter, session).scale


def _agreed(network: Network, pixels: NDArray[np.float32], tta: Tta, merge: Merge) -> Agreed:
    if tta == "adaptive":
        return by_need(network, pixels)
    return (by_fields if merge == "fields" else by_instances)(network, pixels, VIEWS[tta])


def _fallbacks(network: Network, constant: bool, *, assumed: bool) -> Iterator[str]:
    """Say where the image or its objects were not as the model needs them, and what was done."""
    card, wanted = network.session.card, network.session.card.diameter / network.diameter
    if constant:
        yield "the image has no contrast: no object was looked for"
    elif assumed:
        yield f"no object was found to estimate the diameter from: the model's own, {card.diameter:g} px, was taken"
    if network.scale not in (1.0, wanted):
        yield (
            f"objects of {network.diameter:g} px would have to be resized {wanted:.2g} times for the model "
            f"{card.name!r}: {network.scale:g} times is the farthest it goes"
        )


def check_merge(session: Session, merge: Merge) -> None:
    """Refuse to average the output of a model over views where it is not made of scalar fields.

    Raises
    ------
    InputError
        If the model's output cannot be averaged.
    """
    if merge == "fields" and not find_decoder(session.card.decoder).scalar:
        raise InputError(
            f"The output of the model {session.card.name!r} ({session.card.decoder}) cannot be averaged over views: "
            "merge them by instances (--tta-merge instances)."
        )


def check_segmentation_options(diameter: float | None, tta: str, merge: str, channel: str | None = None) -> None:
    """Refuse options that make no sense.

    Raises
    ------
    InputError
        If the diameter is not a positive number, a name is unknown, or the views asked for cannot be merged so.
    """
    if diameter is not None and not (isinstance(diameter, Real) and 0 < diameter < math.inf):
        raise InputError(f"The diameter must be a positive number of pixels; it is {diameter!r}.")
    if tta not in get_args(Tta):
        raise InputError(f"Unknown test-time augmentation {tta!r}: choose {', '.join(get_args(Tta))}.")
    if merge not in get_args(Merge):
        raise InputError(f"Unknown way to merge views {merge!r}: choose {' or '.join(get_args(Merge))}.")
    if tta == "none" and merge != "instances":
        raise InputError("One view alone has nothing to merge: say --tta flips or d4 with --tta-merge fields.")
    if tta == "adaptive" and merge == "fields":
        raise InputError("Adaptive views are merged by instances: leave the merge of fields to flips or d4.")
    if channel is not None and channel not in CHANNELS:
        raise InputError(f"Unknown channel {channel!r}: choose {', '.join(CHANNELS)}.")
