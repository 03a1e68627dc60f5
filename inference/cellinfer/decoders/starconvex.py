"""Object probability and distances along rays -> labels (StarDist, Schmidt et al. 2018).

Every sample with a probability above a threshold proposes a polygon; of polygons that overlap only the most probable
stays. A model of StarDist itself can be brought: its two outputs side by side, probability first, as `(1 + rays, h, w)`
with the distances in input pixels and in StarDist's order of rays (see `cellinfer_kernels.starconvex`).

An object is what can be seen of it from one of its points: what lies around a corner or behind a hole is lost. Of an
object in several pieces those that are large beside its largest come back as objects of their own. Labels that are
convex come back with an intersection over union of 0.9 or more, unless so small that few samples fall into them.
"""

from __future__ import annotations

import numpy as np
from cellinfer_kernels.components import relabel, remove_small
from cellinfer_kernels.starconvex import render, suppress
from numpy.typing import NDArray

from cellinfer.errors import ModelError

_FEWEST_RAYS = 3


def decode(
    fields: NDArray[np.float32],
    diameter: float,
    shape: tuple[int, int],
    *,
    stride: int,
    seen: tuple[int, int],
    probability: float = 0.5,
    overlap: float = 0.4,
    smallest: float = 0.05,
) -> NDArray[np.int32]:
    """Decode one field.

    Parameters
    ----------
    fields
        `(1 + rays, h, w)` float32 at the network's resolution: object probability in 0..1, distances in pixels of the
        network's input.
    diameter
        Median object diameter, pixels of the result.
    shape
        `(H, W)` of the result.
    stride
        Pixels of the network's input per sample; sample `i` belongs to the pixel `i * stride`.
    seen
        `(height, width)` of the network's input, which may be the image resized.
    probability
        Least probability of a polygon.
    overlap
        Largest share of the smaller of two objects that the other one may cover.
    smallest
        Least area of an object as a share of a disk of the given diameter. No object is dropped for it when the share
        is below one pixel.

    Returns
    -------
    ndarray
        `(H, W)` int32; objects are numbered 1..n by falling probability; the more probable has the pixels that two
        share.

    Raises
    ------
    ModelError
        If there are too few rays for a polygon.
    """
    if len(fields) < 1 + _FEWEST_RAYS:
        raise ModelError(
            f"The decoder 'star-convex' takes a probability and at least {_FEWEST_RAYS} rays; the model gives "
            f"{len(fields)} fields: choose the decoder in its card that fits them."
        )
    assert fields.shape[1:] == tuple(-(-length // stride) for length in seen)
    scores = fields[0]
    candidates = np.flatnonzero(scores > probability)
    candidates = candidates[np.argsort(-scores.ravel()[candidates], kind="stable")]
    vertical, horizontal = scale = np.divide(shape, seen)
    samples = np.stack(np.unravel_index(candidates, scores.shape), axis=1)
    # Pixel centres of the network's input, then of the result.
    centres = (samples * stride + 0.5) * scale - 0.5
    distances = fields[1:].reshape(len(fields) - 1, -1)[:, candidates].T
    kept = suppress(centres, distances, shape, overlap, (vertical, horizontal))
    labels = render(centres[kept], distances[kept], shape, (vertical, horizontal))
    return relabel(remove_small(labels, max(1, round(smallest * np.pi / 4 * diameter**2))))
