"""A field in tiles of one shape, and back.

Tiles overlap by twice the halo and only a tile's middle is used: the halo is what a network sees around a pixel before
its influence fades. Beyond the field's own edge the image is continued by reflection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Layout(NamedTuple):
    """Where tiles lie along one axis."""

    size: int
    """Length of a tile."""
    starts: tuple[int, ...]
    """First used pixel of each tile. All are multiples of the network's multiple, so that pooling sees one grid."""


def plan(length: int, tile: int, halo: int, multiple: int) -> Layout:
    """Lay tiles along an axis.

    Parameters
    ----------
    length
        Pixels of the field along the axis.
    tile, halo, multiple
        Largest tile, its unused rim, and what its length must be a multiple of.

    Returns
    -------
    Layout
        As few tiles as cover the field, all of the same length, no longer than needed.
    """
    count = -(-length // ((tile - 2 * halo) // multiple * multiple))
    used = -(-length // (count * multiple)) * multiple
    rim = -(-2 * halo // multiple) * multiple
    return Layout(used + rim, tuple(range(0, length, used)))


def predict(
    network: Network, image: NDArray[np.float32], *, tile: int, halo: int, multiple: int, batch: int = 4
) -> NDArray[np.float32]:
    """Run a network over a field of any size.

    Parameters
    ----------
    network
        Takes `(N, C, h, w)` float32 and returns `(N, K, h, w)` float32.
    image
        `(C, H, W)` float32, H and W at least 1.
    tile, halo, multiple
        From the model card, pixels.
    batch
        Most tiles per call of the network.

    Returns
    -------
    ndarray
        `(K, H, W)` float32.
    """
    height, width = image.shape[1:]
    rows, columns = (plan(length, tile, halo, multiple) for length in (height, width))
    after = (
        max(0, rows.starts[-1] + rows.size - height - halo),
        max(0, columns.starts[-1] + columns.size - width - halo),
    )
    padded = np.pad(image, ((0, 0), (halo, after[0]), (halo, after[1])), mode="symmetric")
    places = [(y, x) for y in rows.starts for x in columns.starts]
    result: NDArray[np.float32] | None = None
    for first in range(0, len(places), batch):
        chunk = places[first : first + batch]
        tiles = np.stack([padded[:, y : y + rows.size, x : x + columns.size] for y, x in chunk])
        for (y, x), fields in zip(chunk, network(tiles), strict=True):
            if result is None:
                result = np.empty((fields.shape[0], height, width), np.float32)
            bottom, right = min(height, y + rows.size - 2 * halo), min(width, x + columns.size - 2 * halo)
            result[:, y:bottom, x:right] = fields[:, halo : halo + bottom - y, halo : halo + right - x]
    assert result is not None
    return result
