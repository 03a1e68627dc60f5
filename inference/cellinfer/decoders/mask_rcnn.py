"""Boxes, scores and small masks of single objects (Mask R-CNN) -> labels.

The network finds objects, not fields: it is run on tiles, what it finds is gathered in the coordinates of the whole
field, and the masks are drawn at the image's own resolution. An object belongs to the tile in whose used part the
middle of its box lies; doubles at the seams are dropped by one more round of non-maximum suppression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from cellinfer_kernels.components import fill_holes, relabel, remove_small
from cellinfer_kernels.detections import nms, paste
from numpy.typing import NDArray

from cellinfer.errors import ModelError
from cellinfer.tiling import Span, plan

if TYPE_CHECKING:
    from cellinfer.sessions import Session

OUTPUTS = ("boxes", "scores", "masks")
"""What the network gives: `(K, 4)` top, left, bottom, right in pixels; `(K,)`; `(K, h, w)` probabilities."""
OPTIONS = {"confidence": 0.5, "overlap": 0.35, "proposals": 512, "proposal_overlap": 0.55, "smallest": 0.05}
"""What a card may set, see `find_objects`, and what holds where it does not."""
_SEAM = 8.0
"""Pixels beyond a tile's used part in which it may claim an object: the same object seen from two tiles has two boxes,
and neither tile may believe it to be the other's."""
_THINNEST = 1.0
"""Least height and width, in pixels, of what a box shows inside the field."""


class Detections(NamedTuple):
    """Objects found, see `OUTPUTS`."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32]

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """Return some of the objects."""
        return Detections(*(part[which] for part in self))


def find_objects(
    session: Session,
    planes: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    options: Mapping[str, float],
) -> NDArray[np.int32]:
    """Find the objects of one field.

    Parameters
    ----------
    session
        A model whose outputs are `OUTPUTS`.
    planes
        `(C, h, w)` float32, normalised, rescaled so that objects have about the model's diameter.
    diameter
        Median object diameter, pixels of the result.
    shape
        `(H, W)` of the result.
    options
        `confidence`: least score of an object. `overlap`: largest intersection over union of two objects' boxes.
        `proposals`, `proposal_overlap`: most candidates per tile, and their largest overlap. `smallest`: least area as
        a share of a disk of the given diameter. All have defaults.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n, best score first.

    Raises
    ------
    ModelError
        If an option is unknown.
    """
    if unknown := options.keys() - OPTIONS.keys():
        raise ModelError(
            f"The model's card gives the decoder 'mask-rcnn' the options {sorted(unknown)}; it takes {list(OPTIONS)}."
        )
    settings = {**OPTIONS, **options}
    smallest = settings.pop("smallest") * np.pi / 4 * diameter**2
    found = detect(session, planes, **settings)
    scale = np.tile(np.divide(shape, planes.shape[1:]), 2)
    labels = paste(found.masks, found.boxes * scale, found.scores, shape)
    return relabel(remove_small(fill_holes(labels), max(1, round(smallest))))


def detect(session: Session, planes: NDArray[np.float32], **settings: float) -> Detections:
    """Find objects in a field of any size.

    Parameters
    ----------
    session
        A model whose outputs are `OUTPUTS`.
    planes
        `(C, H, W)` float32, normalised.
    **settings
        Passed to the network: `confidence`, `overlap`, `proposals`, `proposal_overlap`.

    Returns
    -------
    Detections
        In pixels of the field, best first. Boxes may reach beyond the field.
    """
    found = []
    for tile, row, column in _tiles(session, planes):
        local = Detections(*session.run_outputs(tile[None], settings))
        corner = np.array([row.start, column.start, row.start, column.start], np.float32)
        moved = local._replace(boxes=local.boxes + corner)
        found.append(moved.take(_owned(moved.boxes, row, column, planes.shape[1:])))
    together = Detections(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    return together.take(nms(together.boxes, together.scores, settings["overlap"]))


def _tiles(session: Session, planes: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], Span, Span]]:
    """Cut a field into tiles of one size; beyond its edge it is continued by reflection."""
    card = session.card
    (tall, rows), (wide, columns) = (plan(length, card.tile, card.halo, card.multiple) for length in planes.shape[1:])
    pads = [
        (card.multiple, max(0, spans[-1].start + size - length))
        for size, spans, length in ((tall, rows, planes.shape[1]), (wide, columns, planes.shape[2]))
    ]
    padded = np.pad(planes, ((0, 0), *pads), mode="symmetric")
    for row in rows:
        for column in columns:
            top, left = row.start + card.multiple, column.start + card.multiple
            yield np.ascontiguousarray(padded[:, top : top + tall, left : left + wide]), row, column


def _owned(boxes: NDArray[np.float32], row: Span, column: Span, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Say which boxes, cut to the field, have their middle in or near a tile's used part."""
    inside = np.clip(boxes, 0, np.tile(shape, 2))
    sides = inside[:, 2:] - inside[:, :2]
    middle = inside[:, :2] + sides / 2
    first = np.array([row.first, column.first]) - _SEAM
    stop = np.array([row.stop, column.stop]) + _SEAM
    return np.asarray(((sides > _THINNEST) & (middle >= first) & (middle < stop)).all(axis=1))
