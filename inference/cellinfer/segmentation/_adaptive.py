"""Views where they are needed: two of the whole image, the others only around objects that these two dispute.

An object is settled if both first views have it, with an IoU of at least `AGREED` to each other. What else they see is
open: there the other views look at rectangles of the image, and all views vote as in `merge_instances`. An object of a
view that lies mostly on settled ones is theirs and has no vote.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from cellinfer_kernels.components import label, relabel
from cellinfer_kernels.consensus import agreement, doubt, merge_instances
from numpy.typing import NDArray

from cellinfer.segmentation._network import Network
from cellinfer.segmentation._views import Agreed, averaged

FIRST = ("identity", "rot180")
"""Views of the whole image."""
OTHERS = ("rot90", "rot270")
"""Views of what the first ones dispute: on training images the four rotations gained as much as all eight views."""
AGREED = 0.9
"""IoU from which two views have the same object beyond dispute. Chosen with the views on training images."""
_MARGIN = 0.5
"""Diameters around what is open, where other views may see more of it."""
Boxes = NDArray[np.int64]
"""`(n, 4)` or `(4,)` rectangles, in the order of `Window`."""
_IS_END = np.array([False, True, False, True])


class Window(NamedTuple):
    """A rectangle of an image: rows top to bottom, columns left to right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rectangle."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, by: int, shape: tuple[int, ...]) -> Window:
        """Return the rectangle with a margin, cut at the image's edge."""
        return Window(*_grown(np.array(self), by, shape).tolist())


def by_need(network: Network, pixels: NDArray[np.float32]) -> Agreed:
    """Find objects with two views, and ask more views about those in dispute."""
    if network.decoder.scalar:
        whole, first = averaged(network, pixels, FIRST)
    else:
        first = np.stack([network.labels(pixels, view) for view in FIRST])
        whole = first[0]
    settled = _settled(whole, first)
    rivals = np.stack([_without(labels, settled.labels) for labels in first])
    windows = windows_around(np.any(rivals > 0, axis=0), network)
    if not windows:
        return settled
    others = [_looked_at(network, pixels, windows, view, settled.labels) for view in OTHERS]
    stack = np.concatenate([rivals, others])
    found = merge_instances(stack)
    return _joined(settled, Agreed.of(found, doubt(found.labels, stack)), windows)


def windows_around(disputed: NDArray[np.bool_], network: Network) -> list[Window]:
    """Cover what is in dispute with rectangles that do not overlap, few where that costs the network no more.

    Parameters
    ----------
    disputed
        `(H, W)` pixels of open objects.
    network
        Its scale and its card's halo set what a look costs.

    Returns
    -------
    list of Window
        Empty if nothing is in dispute.
    """
    shape = disputed.shape
    margin, halo = math.ceil(_MARGIN * network.diameter), _halo(network)
    windows = np.empty((0, 4), np.int64)
    for box in _grown(_boxes(*label(disputed)), margin, shape):
        while (near := _belong_together(windows, box, halo, shape)).any():
            first = int(near.argmax())
            box = _around(windows[first], box)
            windows = np.delete(windows, first, axis=0)
        windows = np.concatenate([windows, box[None]])
    if _area(_grown(windows, halo, shape)).sum() >= disputed.size:
        return [Window(0, shape[0], 0, shape[1])]
    return [Window(*window) for window in windows.tolist()]


def _belong_together(windows: Boxes, box: Boxes, halo: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell which rectangles overlap another one, or are looked at more cheaply together with it."""
    apart = _area(_grown(windows, halo, shape)) + _area(_grown(box, halo, shape))
    low, high = np.maximum(windows, box), np.minimum(windows, box)
    meet = (low[:, 0] < high[:, 1]) & (low[:, 2] < high[:, 3])
    return np.asarray(meet | (_area(_grown(_around(windows, box), halo, shape)) <= apart))


def _around(one: Boxes, other: Boxes) -> Boxes:
    """Return the least rectangles that hold both."""
    return np.asarray(np.where(_IS_END, np.maximum(one, other), np.minimum(one, other)))


def _grown(boxes: Boxes, by: int, shape: tuple[int, ...]) -> Boxes:
    """Return rectangles with a margin, cut at the image's edge."""
    return np.asarray(np.clip(boxes + by * np.where(_IS_END, 1, -1), 0, np.repeat(shape, 2)))


def _area(boxes: Boxes) -> Boxes:
    """Return the pixels of each rectangle."""
    return np.asarray((boxes[..., 1] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 2]))


def _boxes(parts: NDArray[np.int32], count: int) -> Boxes:
    """Return the bounding boxes of the labels 1..count, `(count, 4)`."""
    rows, columns = np.nonzero(parts)
    number = parts[rows, columns] - 1
    low, high = np.full((2, count), max(parts.shape)), np.zeros((2, count), np.int64)
    for axis, places in enumerate((rows, columns)):
        np.minimum.at(low[axis], number, places)
        np.maximum.at(high[axis], number, places + 1)
    return np.stack([low[0], high[0], low[1], high[1]], axis=1)


def _halo(network: Network) -> int:
    """Return how many pixels of the image around a rectangle the network has to see."""
    return math.ceil(network.session.card.halo / network.scale)


def _settled(whole: NDArray[np.int32], first: NDArray[np.int32]) -> Agreed:
    """Return the objects that the first views have beyond dispute."""
    found = agreement(whole, first)
    beyond = (found.votes == len(first)) & (found.mean_iou >= AGREED)
    labels = relabel(_kept(whole, np.concatenate([[False], beyond])))
    return Agreed.of(found, doubt(labels, first)).chosen(beyond, labels)


def _looked_at(
    network: Network, pixels: NDArray[np.float32], windows: list[Window], view: str, settled: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the objects that a view has inside the rectangles, without those that are settled already."""
    found = np.zeros(settled.shape, np.int32)
    count = 0
    for window in windows:
        seen = window.grown(_halo(network), settled.shape)
        labels = network.labels(np.ascontiguousarray(pixels[:, *seen.slices]), view)
        inside = (slice(window.top - seen.top, window.bottom - seen.top), slice(window.left - seen.left, None))
        inner = np.ascontiguousarray(labels[inside][:, : window.right - window.left])
        open_ones = _without(_uncut(inner, window, settled.shape), settled[window.slices])
        found[window.slices] = np.where(open_ones > 0, open_ones + np.int32(count), 0)
        count += int(open_ones.max(initial=0))
    return found


def _uncut(labels: NDArray[np.int32], window: Window, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Drop objects that touch a side of the rectangle, unless the side is the image's."""
    sides = (
        (window.top > 0, labels[0]),
        (window.bottom < shape[0], labels[-1]),
        (window.left > 0, labels[:, 0]),
        (window.right < shape[1], labels[:, -1]),
    )
    keep = np.ones(int(labels.max()) + 1, np.bool_)
    for inside, side in sides:
        if inside:
            keep[side] = False
    return _kept(labels, keep)


def _without(labels: NDArray[np.int32], settled: NDArray[np.int32]) -> NDArray[np.int32]:
    """Drop objects of which more than half lies on settled ones."""
    area = np.bincount(labels.ravel())
    covered = np.bincount(labels[settled > 0], minlength=len(area))
    return _kept(labels, 2 * covered <= area)


def _kept(labels: NDArray[np.int32], keep: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the objects whose entry, by label, is true."""
    numbers = np.where(keep, np.arange(len(keep)), 0).astype(np.int32)
    numbers[0] = 0
    return np.asarray(numbers[labels], np.int32)


def _joined(settled: Agreed, voted: Agreed, windows: list[Window]) -> Agreed:
    """Put voted objects beside the settled ones, which keep their pixels."""
    count = len(settled.votes)
    free = settled.labels == 0
    labels = np.where(free & (voted.labels > 0), voted.labels + np.int32(count), settled.labels)
    present = np.bincount(labels.ravel(), minlength=count + len(voted.votes) + 1)[1:] > 0
    uncertainty = settled.uncertainty.copy()
    for window in windows:
        here, known = window.slices, free[window.slices]
        uncertainty[here][known] = voted.uncertainty[here][known]
    both = settled.followed_by(voted, labels, uncertainty)
    return both.chosen(present, relabel(labels))
