"""A field in tiles of one shape, and back.

Tiles overlap by twice the halo and only a tile's middle is used: the halo is what a network sees around a pixel before
its influence fades. Beyond the field's own edge the image is continued by reflection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer.errors import ModelError

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Span(NamedTuple):
    """One tile along one axis, in pixels of the field."""

    start: int
    """First pixel of the tile; negative where it begins beyond the field."""
    first: int
    stop: int
    """The pixels for which this tile is used."""

    @property
    def inside(self) -> slice:
        """The same pixels, counted from the tile's first."""
        return slice(self.first - self.start, self.stop - self.start)

    @property
    def outside(self) -> slice:
        """The same pixels, counted from the field's first."""
        return slice(self.first, self.stop)


def plan(length: int, tile: int, halo: int, multiple: int) -> tuple[int, tuple[Span, ...]]:
    """Lay tiles along an axis.

    Tiles begin at multiples of the network's multiple, so that pooling sees one grid, and reach no farther beyond the
    field than one multiple.

    Parameters
    ----------
    length
        Pixels of the field along the axis.
    tile, halo, multiple
        Largest tile, how far from its rim it is used, and what its length must be a multiple of.

    Returns
    -------
    size : int
        Length of every tile, at most `tile`.
    spans : tuple of Span
        One if the field fits into it, otherwise as few as cover the field.
    """

    def up(value: int) -> int:
        return -(-value // multiple) * multiple

    if up(length + 2 * multiple) <= tile:
        return up(length + 2 * multiple), (Span(-multiple, 0, length),)
    count = -(-length // ((tile - 2 * up(halo)) // multiple * multiple))
    used = up(-(-length // count))
    size = used + 2 * up(halo)
    last = up(length + multiple) - size
    return size, tuple(
        Span(max(-multiple, min(first - up(halo), last)), first, min(first + used, length))
        for first in range(0, length, used)
    )


def predict(
    network: Network,
    image: NDArray[np.float32],
    *,
    tile: int,
    halo: int,
    multiple: int,
    stride: int = 1,
    batch: int = 1,
) -> NDArray[np.float32]:
    """Run a network over a field of any size.

    Parameters
    ----------
    network
        Takes `(N, C, h, w)` float32 and returns `(N, K, h / stride, w / stride)` float32.
    image
        `(C, H, W)` float32, H and W at least 1.
    tile, halo, multiple, stride
        From the model card, pixels.
    batch
        Most tiles per call of the network.

    Returns
    -------
    ndarray
        `(K, ceil(H / stride), ceil(W / stride))` float32.

    Raises
    ------
    ModelError
        If the network gives fields of another size.
    """
    height, width = image.shape[1:]
    (tall, rows), (wide, columns) = (plan(length, tile, halo, multiple) for length in (height, width))
    below, right = (
        spans[-1].start + size - length for size, spans, length in ((tall, rows, height), (wide, columns, width))
    )
    padded = np.pad(image, ((0, 0), (multiple, max(0, below)), (multiple, max(0, right))), mode="symmetric")
    places = [(row, column) for row in rows for column in columns]
    result: NDArray[np.float32] | None = None
    for number in range(0, len(places), batch):
        chunk = places[number : number + batch]
        corners = [(row.start + multiple, column.start + multiple) for row, column in chunk]
        cuts = [padded[:, y : y + tall, x : x + wide] for y, x in corners]
        outputs = network(np.stack(cuts) if len(cuts) > 1 else np.ascontiguousarray(cuts[0])[None])
        _check_size(outputs.shape[2:], (tall, wide), stride)
        if len(places) == 1:  # nothing to put together
            whole = outputs[0][:, _coarse(rows[0].inside, stride), _coarse(columns[0].inside, stride)]
            return np.asarray(whole, np.float32)
        for (row, column), fields in zip(chunk, outputs, strict=True):
            if result is None:
                result = np.empty((fields.shape[0], -(-height // stride), -(-width // stride)), np.float32)
            used = fields[:, _coarse(row.inside, stride), _coarse(column.inside, stride)]
            result[:, _coarse(row.outside, stride), _coarse(column.outside, stride)] = used
    assert result is not None
    return result


def _check_size(given: tuple[int, ...], tile: tuple[int, int], stride: int) -> None:
    """Refuse fields that would be cut at the wrong places: every object would be shifted."""
    promised = tuple(length // stride for length in tile)
    if given != promised:
        fields, pixels, right = ("x".join(map(str, size)) for size in (given, tile, promised))
        raise ModelError(
            f"The network gives {fields} for a tile of {pixels}; its card's stride {stride} promises {right}: pad its "
            "convolutions, or correct the stride in its card."
        )


def _coarse(pixels: slice, stride: int) -> slice:
    """Return the output pixels of these input pixels, which begin at a multiple of the stride."""
    return slice(pixels.start // stride, -(-pixels.stop // stride))
