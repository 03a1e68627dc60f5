"""Cells around nuclei, cytoplasm between them, and what happens at the edge of the field."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from cellinfer_kernels.components import as_labels, border_ids, fill_holes
from cellinfer_kernels.distance import within
from cellinfer_kernels.normalise import percentiles
from cellinfer_kernels.watershed import expand, propagate
from numpy.typing import NDArray

Labels = NDArray[np.int32]
EdgePolicy = Literal["drop", "keep"]
_REGULARIZATION = 0.05
RING = 0.25
"""Width of the ring of cytoplasm beside a nucleus, in nucleus diameters."""
_BACKGROUND = 2.0


class Compartments(NamedTuple):
    """Nuclei, cells and cytoplasm with the same ids: cell 7 holds nucleus 7 and cytoplasm 7."""

    nuclei: Labels
    cells: Labels
    cytoplasm: Labels
    kept: NDArray[np.int32]
    """Id that each nucleus (in order of its new id) had before objects at the edge were dropped."""
    dropped: int
    """Objects dropped because their nucleus touches the edge of the field."""


def compartments(
    nuclei: Labels, image: NDArray[np.generic] | None, distance: float, *, diameter: float, edge: EdgePolicy = "drop"
) -> Compartments:
    """Grow cells from nuclei and part them into compartments.

    Parameters
    ----------
    nuclei
        `(H, W)` int32, ids 1..n.
    image
        `(H, W)` plane in which the cytoplasm shines; None grows every nucleus evenly.
    distance
        Farthest that a cell reaches beyond its nucleus, pixels.
    diameter
        Median nucleus diameter, pixels.
    edge
        `"drop"` removes every cell whose nucleus touches the edge of the field. Nuclei at the edge still claim their
        cytoplasm first, so that it does not fall to a neighbour.
    """
    nuclei = as_labels(nuclei)
    cells = grow_cells(nuclei, image, distance, diameter=diameter)
    total = int(nuclei.max(initial=0))
    keep = np.ones(total + 1, bool)
    if edge == "drop":
        keep[border_ids(nuclei)] = False
    keep[0] = False
    kept = np.flatnonzero(keep).astype(np.int32)
    if kept.size < total:
        renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
        nuclei, cells = _renumbered(nuclei, renumber), _renumbered(cells, renumber)
    # A cell holds its nucleus, so that the difference is 0 there.
    return Compartments(nuclei, cells, cells - nuclei, kept, total - kept.size)


def _renumbered(labels: Labels, ids: NDArray[np.int32]) -> Labels:
    """Look ids up in a table, some rows at a time: NumPy makes a copy twice as large of what it looks up."""
    result = np.empty_like(labels)
    for top in range(0, len(labels), 64):
        rows = slice(top, top + 64)
        np.take(ids, labels[rows], out=result[rows], mode="clip")  # any other mode copies the result once more
    return result


def perinuclear_ring(parts: Compartments, width: float) -> Labels:
    """Return the part of each cytoplasm that lies within `width` pixels of a nucleus, `(H, W)` int32."""
    return np.where(within(parts.nuclei, width), parts.cytoplasm, np.int32(0))


def grow_cells(nuclei: Labels, image: NDArray[np.generic] | None, distance: float, *, diameter: float) -> Labels:
    """Grow each nucleus into its cell along the image's own contours (Jones, Carpenter and Golland 2005).

    The cell's outer limit is a threshold a quarter of the way from the background to the dimmer cytoplasm that
    surrounds nuclei, and above the background's noise. It needs no empty area and no second population, so that
    confluent and sparse fields are treated alike (Otsu's threshold would part bright cells from dim ones in the
    former).

    Parameters
    ----------
    nuclei, image, distance, diameter
        As for `compartments`.

    Returns
    -------
    ndarray
        `(H, W)` int32 with the ids of `nuclei`; each cell holds its nucleus.
    """
    if image is None or not nuclei.any():
        return expand(nuclei, distance)
    smooth = image.astype(np.float32, order="C")  # in which all is done in place: large arrays take long to get
    if image.dtype.kind == "f":
        np.nan_to_num(smooth, copy=False, posinf=0, neginf=0)
    cv2.GaussianBlur(smooth, (0, 0), 1.0, dst=smooth)
    threshold, background, bright = _levels(smooth, nuclei, diameter)
    if bright - background <= 1e-4 * abs(bright):  # no contrast to follow
        return expand(nuclei, distance)
    mask = smooth > threshold
    smooth -= background
    smooth /= bright - background
    np.clip(smooth, 0, 1, out=smooth)
    return fill_holes(propagate(nuclei, smooth, mask, distance, _REGULARIZATION))


def background_level(image: NDArray[np.generic]) -> float:
    """Return the level of a plane where nothing is: a low percentile of the plane, smoothed against its noise.

    Pixels outside cells would be the obvious choice, but where cells reach farther than they are allowed to grow,
    those hold cytoplasm. NaN if no pixel is finite.
    """
    pixels = image.astype(np.float32)
    smooth = cv2.GaussianBlur(np.where(np.isfinite(pixels), pixels, np.float32(np.nan)), (0, 0), 2.0)
    return float(percentiles(np.asarray(smooth, dtype=np.float32), (_BACKGROUND,))[0])


def _levels(smooth: NDArray[np.float32], nuclei: Labels, diameter: float) -> tuple[float, float, float]:
    """Return the threshold of cytoplasm, the level of the background, and that of the brightest cells."""
    inside = nuclei > 0
    ring = smooth[within(inside, max(1.5, RING * diameter)) & ~inside]
    darkest, background, bright = map(float, percentiles(smooth, (0.1, _BACKGROUND, 99.5)))
    if not ring.size:
        return background, background, bright
    # How far the darkest pixels lie below it is the background's noise, whatever lies above.
    noise = background - darkest
    dim = float(percentiles(ring, (25.0,))[0])
    return background + max(0.25 * (dim - background), noise), background, bright
