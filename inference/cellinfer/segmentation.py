"""From one plane of pixels to labels: normalise, rescale, tile, network, views, merge, decode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from cellinfer_kernels.consensus import merge_instances
from cellinfer_kernels.normalise import percentiles, rescale
from cellinfer_kernels.views import D4, FLIPS6, augment, merge_probabilities, restore
from numpy.typing import NDArray

from cellinfer.decoders import decode
from cellinfer.errors import InputError
from cellinfer.sessions import Session
from cellinfer.tiling import predict

Tta = Literal["none", "flips", "d4"]
Merge = Literal["instances", "fields"]
VIEWS: dict[str, tuple[str, ...]] = {"none": ("identity",), "flips": FLIPS6, "d4": D4}
_LARGEST_SCALE = 4.0
_ESTIMATE_SIDE = 768


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
    """

    labels: NDArray[np.int32]
    diameter: float
    scale: float
    votes: NDArray[np.float64] | None = None
    mean_iou: NDArray[np.float64] | None = None
    entropy: NDArray[np.float64] | None = None
    constant: bool = False


def segment_image(
    image: NDArray[np.generic],
    session: Session,
    *,
    diameter: float | None = None,
    tta: Tta = "none",
    merge: Merge = "instances",
) -> Segmentation:
    """Find the objects in one plane.

    Parameters
    ----------
    image
        `(H, W)`, any real dtype. Pixels that are not finite count as background.
    session
        The model.
    diameter
        Median object diameter in pixels; None estimates it from the image.
    tta
        Test-time augmentation: `"none"`, the six published views (`"flips"`) or all eight of the square (`"d4"`).
    merge
        How views are merged: majority vote over matched objects (`"instances"`) or mean of the network's output
        (`"fields"`).

    Returns
    -------
    Segmentation
        Labels and how sure the views were.

    Raises
    ------
    InputError
        If the image is not two-dimensional or has no pixel, or an option is unknown.
    """
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"Segmentation takes one plane (height, width), got an array of shape {image.shape}.")
    check_segmentation_options(diameter, tta, merge)
    card = session.card
    normalised = normalise(image, card.percentiles, card.clip)
    if diameter is None:
        diameter = estimate_diameter(image, session) or card.diameter
    if not normalised.any():
        return Segmentation(np.zeros(image.shape, np.int32), diameter, 1.0, constant=True, **_no_agreement(tta, merge))
    scale = _scale(diameter, session)
    views = VIEWS[tta]
    planes = [augment(normalised, view) for view in views]
    maps = [_fields(plane, session, scale) for plane in planes]
    options = card.decoder_options
    if len(views) == 1 or merge == "fields":
        fields = merge_probabilities(maps, views)
        return Segmentation(decode(card.decoder, fields, diameter, options, image.shape), diameter, scale)
    labelled = [
        restore(decode(card.decoder, fields, diameter, options, plane.shape), view)
        for fields, plane, view in zip(maps, planes, views, strict=True)
    ]
    found = merge_instances(np.stack(labelled))
    return Segmentation(
        found.labels,
        diameter,
        scale,
        found.votes / found.views,
        found.mean_iou.astype(np.float64),
        found.entropy.astype(np.float64),
    )


def check_segmentation_options(diameter: float | None, tta: str, merge: str) -> None:
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


def estimate_diameter(image: NDArray[np.generic], session: Session) -> float | None:
    """Estimate the median object diameter of an image, in pixels.

    The network is run on the middle of the image at the scale where its last estimate puts objects at the size it
    was trained on, until the estimate stands still. Several starting scales are tried while nothing is found.

    Parameters
    ----------
    image
        `(H, W)`, any real dtype.
    session
        The model.

    Returns
    -------
    float or None
        None if no object is found at any scale.
    """
    card = session.card
    normalised = _middle(normalise(image, card.percentiles, card.clip))
    if not normalised.any():
        return None
    best: tuple[float, float] | None = None
    for start in (1.0, 0.5, 2.0):
        found = _settle(normalised, session, start)
        # Of several answers, the one that explains most of the light is taken.
        if found is not None and (best is None or found[1] > 1.25 * best[1]):
            best = found
        if best is not None and start == 1.0 and 0.5 <= best[0] / card.diameter <= 2.0:
            break
    return None if best is None else best[0]


def normalise(
    image: NDArray[np.generic], levels: tuple[float, float], clip: tuple[float, float]
) -> NDArray[np.float32]:
    """Scale two percentiles of a plane to 0 and 1 and hold what lies beyond in a range.

    Parameters
    ----------
    image
        `(H, W)`, any real dtype; pixels that are not finite become 0.
    levels
        The percentiles, see `ModelCard.percentiles`.
    clip
        The range, see `ModelCard.clip`.

    Returns
    -------
    ndarray
        `(H, W)` float32; zeros if the plane is constant.
    """
    low, high = percentiles(image, levels)
    if not high > low:
        return np.zeros(image.shape, np.float32)
    return np.clip(rescale(image, low, high), *clip)


def median_diameter(labels: NDArray[np.int32]) -> float:
    """Median over objects of the diameter (pixels) of the disk of equal area; NaN without objects."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.median(2.0 * np.sqrt(areas / np.pi))) if areas.size else float("nan")


def _settle(normalised: NDArray[np.float32], session: Session, scale: float) -> tuple[float, float] | None:
    """Return the diameter at which prediction and scale agree, and the light inside the objects found there."""
    card = session.card
    diameter: float | None = None
    light = 0.0
    for _ in range(4):
        fields = _fields(normalised, session, scale)
        labels = decode(card.decoder, fields, card.diameter / scale, card.decoder_options, normalised.shape)
        found = median_diameter(labels)
        if math.isnan(found):
            break
        previous, diameter = diameter, found
        light = float(np.clip(normalised, 0, 1)[labels > 0].sum())
        if previous is not None and abs(np.log(diameter / previous)) < 0.08:
            break
        scale = float(np.clip(card.diameter / diameter, 1 / _LARGEST_SCALE, _LARGEST_SCALE))
    return None if diameter is None else (diameter, light)


def _middle(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the middle of a large image, which is enough to see how large objects are."""
    top, left = (max(0, (length - _ESTIMATE_SIDE) // 2) for length in image.shape)
    return np.ascontiguousarray(image[top : top + _ESTIMATE_SIDE, left : left + _ESTIMATE_SIDE])


def _scale(diameter: float, session: Session) -> float:
    """Return the factor that brings objects to the model's diameter; 1 within its tolerance."""
    factor = session.card.diameter / diameter
    if 1 / session.card.diameter_tolerance <= factor <= session.card.diameter_tolerance:
        return 1.0
    return float(np.clip(factor, 1 / _LARGEST_SCALE, _LARGEST_SCALE))


def _fields(normalised: NDArray[np.float32], session: Session, scale: float) -> NDArray[np.float32]:
    """Run the network at a scale and return its output at the image's own size."""
    card = session.card
    resized = normalised if scale == 1.0 else _resize(normalised, scale)
    fields = predict(session.run, resized[None], tile=card.tile, halo=card.halo, multiple=card.multiple)
    if scale == 1.0:
        return fields
    height, width = normalised.shape
    return np.stack([cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) for field in fields])


def _resize(image: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    height, width = (max(1, round(length * scale)) for length in image.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.float32)


def _no_agreement(tta: Tta, merge: Merge) -> dict[str, NDArray[np.float64]]:
    """Empty agreement columns where views are merged by instances, so that tables keep their schema."""
    if tta == "none" or merge == "fields":
        return {}
    return {name: np.empty(0, np.float64) for name in ("votes", "mean_iou", "entropy")}
