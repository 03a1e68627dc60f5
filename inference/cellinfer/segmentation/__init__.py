"""From one image to labels: normalise, rescale, tile, network, views, merge, decode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cellinfer_kernels.consensus import merge_instances
from cellinfer_kernels.views import D4, FLIPS6, augment, merge_probabilities, restore
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.segmentation._network import Network
from cellinfer.segmentation._planes import CHANNELS, Channel, normalise, prepare
from cellinfer.segmentation._size import diameter_of, estimate_diameter, median_diameter
from cellinfer.sessions import Session

__all__ = [
    "Channel",
    "Merge",
    "Segmentation",
    "Tta",
    "check_segmentation_options",
    "estimate_diameter",
    "median_diameter",
    "normalise",
    "segment_image",
]

Tta = Literal["none", "flips", "d4"]
Merge = Literal["instances", "fields"]
VIEWS: dict[str, tuple[str, ...]] = {"none": ("identity",), "flips": FLIPS6, "d4": D4}


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
        `(n,)` float64 vote fraction of each object; None unless views were merged by instances.
    mean_iou, entropy
        `(n,)` float64 agreement of the views on each object; None as above.
    constant
        True if the image had no contrast, so that no object could be looked for.
    notes
        What was taken for granted about the image, in words.
    """

    labels: NDArray[np.int32]
    diameter: float
    scale: float
    votes: NDArray[np.float64] | None = None
    mean_iou: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None
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
        Test-time augmentation: `"none"`, the six published views (`"flips"`) or all eight of the square (`"d4"`).
    merge
        How views are merged: majority vote over matched objects (`"instances"`) or mean of the network's output
        (`"fields"`).
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
        If the image has no such shape or no pixel, the model does not take its colours, or an option is unknown.
    """
    check_segmentation_options(diameter, tta, merge, channel)
    planes = prepare(image, session.card, channel, invert)
    if diameter is None:
        diameter = diameter_of(planes, session) or session.card.diameter
    network = Network.for_objects(diameter, session)
    if not planes.pixels.any():
        labels = np.zeros(planes.shape, np.int32)
        return Segmentation(labels, diameter, 1.0, constant=True, notes=planes.notes, **_no_agreement(tta, merge))
    views = VIEWS[tta]
    turned = [augment(planes.pixels, view) for view in views]
    maps = [network.fields(pixels) for pixels in turned]
    if len(views) == 1 or merge == "fields":
        labels = network.decode(merge_probabilities(maps, views), planes.shape)
        return Segmentation(labels, diameter, network.scale, notes=planes.notes)
    labelled = [
        restore(network.decode(fields, (pixels.shape[1], pixels.shape[2])), view)
        for fields, pixels, view in zip(maps, turned, views, strict=True)
    ]
    found = merge_instances(np.stack(labelled))
    return Segmentation(
        found.labels,
        diameter,
        network.scale,
        found.votes / found.views,
        found.mean_iou.astype(np.float64),
        found.entropy.astype(np.float64),
        notes=planes.notes,
    )


def check_segmentation_options(diameter: float | None, tta: str, merge: str, channel: str | None = None) -> None:
    """Refuse options that make no sense.

    Raises
    ------
    InputError
        If the diameter is not a positive number, or a name is unknown.
    """
    if diameter is not None and not 0 < diameter < math.inf:
        raise InputError(f"The diameter must be a positive number of pixels; it is {diameter}.")
    if tta not in VIEWS:
        raise InputError(f"Unknown test-time augmentation {tta!r}: choose {', '.join(VIEWS)}.")
    if merge not in ("instances", "fields"):
        raise InputError(f"Unknown way to merge views {merge!r}: choose instances or fields.")
    if channel is not None and channel not in CHANNELS:
        raise InputError(f"Unknown channel {channel!r}: choose {', '.join(CHANNELS)}.")


def _no_agreement(tta: Tta, merge: Merge) -> dict[str, NDArray[np.float64]]:
    """Empty agreement columns where views are merged by instances, so that tables keep their schema."""
    if tta == "none" or merge == "fields":
        return {}
    return {name: np.empty(0, np.float64) for name in ("votes", "mean_iou", "entropy")}
