"""How large objects are: the diameter of those found, and the scale at which a model sees them as it was taught."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.segmentation._network import LARGEST_SCALE, Network
from cellinfer.segmentation._planes import Channel, Planes, prepare
from cellinfer.sessions import Session

_ESTIMATE_SIDE = 768
_STILL = 0.08
"""Logarithm of the change of scale below which an estimate stands still."""


def estimate_diameter(
    image: NDArray[Any], session: Session, *, channel: Channel | None = None, invert: bool = False
) -> float | None:
    """Estimate the median object diameter of an image, in pixels.

    The network is run on the middle of the image, or where there is most contrast if that shows nothing, at the scale
    where its last estimate puts objects at the size it was trained on, until the estimate stands still. Several
    starting scales are tried while nothing is found.

    Parameters
    ----------
    image, channel, invert
        See `cellinfer.segmentation.segment_image`.
    session
        The model.

    Returns
    -------
    float or None
        None if no object is found at any scale.

    Raises
    ------
    InputError
        As `cellinfer.segmentation.segment_image`.
    """
    return diameter_of(prepare(image, session.card, channel, invert), session)


def diameter_of(planes: Planes, session: Session) -> float | None:
    """Estimate the median object diameter as `estimate_diameter` does, of planes that are normalised already."""
    found = _diameter_in(_middle(planes.pixels), session)
    if found is None and max(planes.shape) > _ESTIMATE_SIDE:
        found = _diameter_in(_fullest(planes.pixels), session)
    return found


def _diameter_in(pixels: NDArray[np.float32], session: Session) -> float | None:
    """Estimate the median object diameter of a part of an image; None if it shows no object."""
    if not pixels.any():
        return None
    best: tuple[float, float] | None = None
    for start in (1.0, 0.5, 2.0):
        found = _settle(pixels, session, start)
        # Of several answers, the one that explains most of the signal is taken.
        if found is not None and (best is None or found[1] > 1.25 * best[1]):
            best = found
        if best is not None and start == 1.0 and 0.5 <= best[0] / session.card.diameter <= 2.0:
            break
    return None if best is None else best[0]


def median_diameter(labels: NDArray[np.int32]) -> float:
    """Median over objects of the diameter (pixels) of the disk of equal area; NaN without objects."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.median(2.0 * np.sqrt(areas / np.pi))) if areas.size else float("nan")


def _settle(pixels: NDArray[np.float32], session: Session, scale: float) -> tuple[float, float] | None:
    """Return the diameter at which prediction and scale agree, and how much signal the objects found there hold."""
    expected = session.card.diameter
    signal = _signal(pixels)
    diameter: float | None = None
    explained = 0.0
    for _ in range(4):
        labels = Network(session, expected / scale, scale).labels(pixels)
        found = median_diameter(labels)
        if math.isnan(found):
            break
        diameter = found
        explained = float(signal[labels > 0].sum())
        wanted = float(np.clip(expected / diameter, 1 / LARGEST_SCALE, LARGEST_SCALE))
        if abs(math.log(wanted / scale)) < _STILL:
            break
        scale = wanted
    return None if diameter is None else (diameter, explained)


def _signal(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much of an object each pixel may show, `(H, W)`, 0 to 1."""
    light = np.clip(pixels, 0, 1).mean(axis=0)
    return np.asarray(light if len(pixels) == 1 else 1 - light)  # stains in colour images take light away


def _fullest(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut where a large image has most contrast."""
    side = _ESTIMATE_SIDE
    corners = [
        (top, left)
        for top in range(0, max(1, pixels.shape[1] - side // 2), side // 2)
        for left in range(0, max(1, pixels.shape[2] - side // 2), side // 2)
    ]
    parts = [pixels[:, top : top + side, left : left + side] for top, left in corners]
    return np.ascontiguousarray(max(parts, key=lambda part: float(part.std(axis=(1, 2)).mean())))


def _middle(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the middle of a large image, which is enough to see how large objects are."""
    top, left = (max(0, (length - _ESTIMATE_SIDE) // 2) for length in pixels.shape[1:])
    return np.ascontiguousarray(pixels[:, top : top + _ESTIMATE_SIDE, left : left + _ESTIMATE_SIDE])
