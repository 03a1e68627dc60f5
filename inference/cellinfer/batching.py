"""Tiles of several fields in one call of the network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.float32]


class _Place:
    """One tile on its way through the network."""

    def __init__(self, tile: Tiles) -> None:
        self.tile = tile
        self.output: NDArray[Any] | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.output is not None or self.error is not None


class Batcher:
    """Collects tiles from several threads into batches.

    No tile waits for others to come: a thread that finds the network idle runs what is there, and what comes meanwhile
    makes up the next batch. One thread at a time runs the network.

    Parameters
    ----------
    network
        Takes `(N, C, H, W)` float32 and returns `(N, outputs, ...)`; each output depends on its own tile alone.
    size
        Most tiles in a batch.
    fill
        Fill up each batch to its size with empty tiles, so that the network only ever sees one shape for tiles of one
        shape: a GPU then plans once.
    """

    def __init__(self, network: Callable[[Tiles], Tiles], size: int, *, fill: bool = False) -> None:
        self.size = size
        self._network, self._fill = network, fill
        self._changed = threading.Condition()
        self._waiting: list[_Place] = []
        self._busy = False

    def run(self, tiles: Tiles) -> Tiles:
        """Run the network on tiles of one thread; several may call at once.

        Parameters
        ----------
        tiles
            `(N, C, H, W)` float32.

        Returns
        -------
        ndarray
            `(N, outputs, ...)`, in the order of the tiles.
        """
        places = [_Place(tile) for tile in tiles]
        with self._changed:
            self._waiting += places
        while True:
            with self._changed:
                self._changed.wait_for(lambda: all(place.done for place in places) or not self._busy)
                if all(place.done for place in places):
                    break
                batch = self._take()
                self._busy = True
            try:
                self._do(batch)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        for place in places:
            if place.error is not None:
                raise place.error
        return np.stack([place.output for place in places if place.output is not None])

    def _take(self) -> list[_Place]:
        """Take the tiles that have waited longest, all of one shape."""
        shape = self._waiting[0].tile.shape
        batch = [place for place in self._waiting if place.tile.shape == shape][: self.size]
        taken = set(map(id, batch))
        self._waiting = [place for place in self._waiting if id(place) not in taken]
        return batch

    def _do(self, batch: list[_Place]) -> None:
        try:
            tiles = np.stack([place.tile for place in batch])
            if self._fill and len(batch) < self.size:
                empty = np.zeros((self.size - len(batch), *tiles.shape[1:]), tiles.dtype)
                tiles = np.concatenate([tiles, empty])
            for place, output in zip(batch, self._network(tiles)[: len(batch)], strict=True):
                place.output = output
        except BaseException as error:  # nobody may wait for a tile that nobody has
            for place in batch:
                place.error = error
