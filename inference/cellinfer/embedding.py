"""Single cells described by a network: a crop around each nucleus in, a row of features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from cellinfer_kernels.components import as_labels
from cellinfer_kernels.crops import Mask, crops
from numpy.typing import NDArray

from cellinfer.errors import InputError
from cellinfer.sessions import Device, EmbeddingSession, open_embedder

__all__ = ["TABLE", "Embedder", "Mask", "embed", "load_embedder"]

TABLE = "Embedding"
"""Name of the table of features."""
_CROPS = 4
"""Crops in one call of the network on the CPU, and for each tile of a batch: more gain no time and take memory."""
_LARGEST_BOX = 4096
_BYTES_PER_PIXEL = 350
"""Bytes that a network takes at its peak for each pixel of a crop: EfficientNet-lite0 was measured to take 280."""
_COPIES = 3
"""Of a field's features: as they are computed, as a table, and as they are written."""


@dataclass(frozen=True)
class Embedder:
    """A model that describes cells, with what is chosen about its crops; safe to use from several threads.

    Parameters
    ----------
    session
        The model.
    mask
        What is blotted out of a crop: `"none"`; `"neighbours"`, the pixels of other cells; `"outside"`, everything but
        the cell itself, as DeepProfiler does. None takes what the model's card says.
    box
        Side of the square around a nucleus, pixels of the image as it is; None takes the card's, scaled with the nuclei
        if the card says for which diameter it was meant.

    Raises
    ------
    InputError
        If an option makes no sense.
    """

    session: EmbeddingSession
    mask: Mask | None = None
    box: float | None = None

    def __post_init__(self) -> None:
        if self.mask is None:
            object.__setattr__(self, "mask", "neighbours" if self.session.card.mask_neighbours else "none")
        if self.mask not in get_args(Mask):
            raise InputError(f"Unknown mask {self.mask!r} of crops: choose {', '.join(get_args(Mask))}.")
        box = self.box
        if box is not None and not (isinstance(box, Real) and 2 <= box <= _LARGEST_BOX):
            raise InputError(f"The box of crops must be a number of pixels from 2 to {_LARGEST_BOX}; it is {box!r}.")

    @property
    def configuration(self) -> dict[str, Any]:
        """All but the pixels that decides the features."""
        return {"sha256": self.session.sha256, "mask": self.mask, "box": None if self.box is None else float(self.box)}

    def shared(self, batch: int) -> Embedder:
        """Return the same for several threads, whose crops go through the network together if `batch` is above 1."""
        return replace(self, session=self.session.shared(_CROPS * batch if batch > 1 else 1))

    def channels(self, available: Sequence[str]) -> tuple[str, ...]:
        """Return the channels that the network sees, in order.

        Raises
        ------
        InputError
            If one is missing.
        """
        card = self.session.card
        if card.each_channel:
            return tuple(available)
        if missing := [name for name in card.channels if name not in available]:
            raise InputError(
                f"The embedding model {card.name!r} takes the channels {', '.join(card.channels)}, and there is no "
                f"{missing[0]!r}: the images have {', '.join(available)}. Rename them (--channel "
                f"{missing[0]}=NAME), or take a model for any channels."
            )
        return card.channels

    def columns(self, channels: Sequence[str]) -> list[str]:
        """Return the names of the features, in order, of images with these channels."""
        card = self.session.card
        digits = max(3, len(str(card.features - 1)))
        names = [f"Cells_Embedding_{number:0{digits}d}" for number in range(card.features)]
        return [f"{name}_{channel}" for channel in channels for name in names] if card.each_channel else names

    def box_pixels(self, diameter: float) -> int:
        """Return the side of the square, whole pixels of the image, where nuclei have this median diameter."""
        if self.box is not None:
            return round(self.box)
        card = self.session.card
        scale = 1.0 if card.diameter is None else diameter / card.diameter
        return int(np.clip(round(card.box * scale), 2, _LARGEST_BOX))

    def features(
        self, images: Mapping[str, NDArray[Any]], nuclei: NDArray[Any], cells: NDArray[Any], diameter: float
    ) -> NDArray[np.float32]:
        """Describe every cell of a field.

        Parameters
        ----------
        images
            Channel name -> `(H, W)`, any real dtype.
        nuclei, cells
            `(H, W)` labels, one id for a cell in both: nuclei say where crops lie, cells what the mask hides.
        diameter
            Median nucleus diameter, pixels.

        Returns
        -------
        ndarray of shape (n, features), float32
            A row for each id of `nuclei` in rising order; columns as `columns` names them.

        Raises
        ------
        InputError
            If a channel is missing, or shapes differ.
        EngineError
            If the network fails.
        """
        card = self.session.card
        names = self.channels(tuple(images))
        planes = [_of_few_types(images[name]) for name in names]
        nuclei, cells = as_labels(nuclei), as_labels(cells)
        if shapes := {array.shape for array in (*planes, cells)} - {nuclei.shape}:
            raise InputError(f"Labels of shape {nuclei.shape} and images of shape {shapes.pop()} must be alike.")
        ids, centres = _centres(nuclei)
        box, planes_per_cell = self.box_pixels(diameter), len(planes) if card.each_channel else 1
        at_once = max(1, max(self.session.batch, _CROPS) // planes_per_cell)
        found = np.empty((ids.size, card.features * planes_per_cell), np.float32)
        for start in range(0, ids.size, at_once):
            some = slice(start, start + at_once)
            cut = crops(
                planes,
                centres[some],
                box,
                card.side,
                value_range=card.value_range,
                mask=self.mask or "none",
                labels=cells,
                owners=ids[some],
            )
            if card.each_channel:
                cut = cut.reshape(-1, 1, card.side, card.side)
            found[some] = self.session.run(cut).reshape(-1, found.shape[1])
        return found

    def table(
        self, images: Mapping[str, NDArray[Any]], nuclei: NDArray[Any], cells: NDArray[Any], diameter: float
    ) -> pd.DataFrame:
        """Return the features as a table of float32 with `ObjectNumber` in front; parameters as for `features`."""
        found = self.features(images, nuclei, cells, diameter)
        table = pd.DataFrame(found, columns=self.columns(self.channels(tuple(images))), copy=False)
        table.insert(0, "ObjectNumber", np.unique(nuclei[nuclei > 0]).astype(np.int64))
        return table

    def peak_bytes(self, pixels: int, channels: int, diameter: float) -> int:
        """Return how many bytes describing a field takes at its peak, if its nuclei lie no denser than side by side."""
        card = self.session.card
        rows = pixels / diameter**2
        columns = card.features * (channels if card.each_channel else 1)
        return _CROPS * card.side**2 * _BYTES_PER_PIXEL + round(_COPIES * 4 * rows * columns)


def embed(
    session: EmbeddingSession,
    images: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    *,
    cells: NDArray[Any] | None = None,
    diameter: float | None = None,
    mask: Mask | None = None,
    box: float | None = None,
) -> NDArray[np.float32]:
    """Describe every nucleus of a label image by a network.

    Parameters
    ----------
    session
        From `cellinfer.sessions.open_embedder`.
    images
        Channel name -> `(H, W)`, any real dtype.
    labels
        `(H, W)` nuclei.
    cells
        `(H, W)` whole cells with the ids of their nuclei, by which the mask goes; None takes the nuclei.
    diameter
        Median nucleus diameter, pixels, by which the box is scaled; None takes the median over `labels`.
    mask, box
        See `Embedder`.

    Returns
    -------
    ndarray of shape (n, features), float32
        A row for each id of `labels` in rising order.

    Raises
    ------
    InputError
        If a channel is missing, shapes differ, or an option makes no sense.
    EngineError
        If the network fails.
    """
    embedder = Embedder(session, mask, box)
    if diameter is None:
        areas = np.bincount(as_labels(labels).ravel())[1:]
        diameter = float(np.median(np.sqrt(4 / np.pi * areas[areas > 0]))) if areas.any() else 1.0
    return embedder.features(images, labels, labels if cells is None else cells, diameter)


def load_embedder(
    model: str | Path,
    device: Device = "auto",
    threads: int = 0,
    *,
    mask: Mask | None = None,
    box: float | None = None,
) -> Embedder:
    """Open a model that describes cells; for the parameters see `cellinfer.sessions.open_embedder` and `Embedder`."""
    return Embedder(open_embedder(model, device, threads), mask, box)


def _of_few_types(plane: NDArray[Any]) -> NDArray[Any]:
    """Turn other types than those that crops are cut from once, and not for each few cells."""
    if plane.dtype in (np.uint8, np.uint16, np.float32, np.bool_):
        return plane
    with np.errstate(over="ignore"):  # beyond float32 they are infinite, and dark
        return plane.astype(np.float32)


def _centres(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the ids in rising order, and the mean row and column of the pixels of each."""
    rows, columns = np.nonzero(labels)
    own = labels[rows, columns]
    areas = np.bincount(own)
    ids = np.flatnonzero(areas)
    sums = np.stack([np.bincount(own, weights=along)[ids] for along in (rows, columns)], axis=1)
    return ids.astype(np.int32), sums / areas[ids, None]
