"""A model at one scale: planes in, output fields or labels of the same size out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from cellinfer_kernels.views import augment, restore
from numpy.typing import NDArray

from cellinfer.decoders import Decoder, decode, find_decoder
from cellinfer.errors import EngineError
from cellinfer.sessions import Session
from cellinfer.tiling import predict

_log = logging.getLogger(__name__)
_FEWEST_HALOS = 6
"""Length of the smallest tile in halos; less, and nearly all of it would be overlap."""
LARGEST_SCALE = 4.0
"""Farthest that an image is enlarged or reduced."""


@dataclass(frozen=True)
class Network:
    """A model that looks for objects of one diameter (pixels of the image) in images resized by one factor."""

    session: Session
    diameter: float
    scale: float

    @classmethod
    def for_objects(cls, diameter: float, session: Session) -> Network:
        """Resize so that objects have the size that the model expects; not at all within its tolerance."""
        card = session.card
        factor = card.diameter / diameter
        if 1 / card.diameter_tolerance <= factor <= card.diameter_tolerance:
            factor = 1.0
        return cls(session, diameter, float(np.clip(factor, 1 / LARGEST_SCALE, LARGEST_SCALE)))

    @property
    def decoder(self) -> Decoder:
        """The model's decoder."""
        return find_decoder(self.session.card.decoder)

    def labels(self, pixels: NDArray[np.float32], view: str = "identity") -> NDArray[np.int32]:
        """Return `(H, W)` labels of `(C, H, W)` planes, seen in one view and turned back."""
        turned = augment(pixels, view)
        height, width = turned.shape[1:]
        if self.decoder.find is None:
            found = self.decode(self._fields(turned), (height, width))
        else:
            options = self.session.card.decoder_options
            found = self.decoder.find(self.session, self._resized(turned), self.diameter, (height, width), options)
        return restore(found, view)

    def fields(self, pixels: NDArray[np.float32], view: str = "identity") -> NDArray[np.float32]:
        """Return the output for `(C, H, W)` planes in the coordinates of a view, as `decode` takes it."""
        return self._fields(augment(pixels, view))

    def decode(self, fields: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.int32]:
        """Turn output fields into labels of a shape."""
        card = self.session.card
        return decode(
            card.decoder,
            fields,
            self.diameter,
            card.decoder_options,
            shape,
            stride=card.stride,
            seen=self._size(shape),
        )

    def _fields(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output at the image's size, unless its decoder wants it as the network gives it."""
        fields = self._predict(self._resized(pixels))
        height, width = pixels.shape[1:]
        if not self.decoder.resized or fields.shape[1:] == (height, width):
            return fields
        return np.stack([cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) for field in fields])

    def _predict(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network in tiles; where the engine fails, which is most often for lack of memory, in smaller ones.

        These overlap so far that the network sees all that it looks at around every pixel: the result is the same.
        """
        card = self.session.card
        tile, halo = card.tile, card.halo
        while True:
            try:
                return predict(
                    self.session.run,
                    pixels,
                    tile=tile,
                    halo=halo,
                    multiple=card.multiple,
                    stride=card.stride,
                    batch=self.session.batch,
                )
            except EngineError as error:
                smaller = tile // 2 // card.multiple * card.multiple
                engine_failed = error.__cause__ is not None
                if not engine_failed or smaller < _FEWEST_HALOS * card.halo:
                    raise
                _log.warning("%s: trying tiles of %d instead of %d pixels", error, smaller, tile)
                tile, halo = smaller, 2 * card.halo

    def _size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which the network sees an image of a shape."""
        height, width = (max(1, round(length * self.scale)) for length in shape)
        return height, width

    def _resized(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scale == 1.0:
            return pixels
        height, width = self._size((pixels.shape[1], pixels.shape[2]))
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        return np.stack([cv2.resize(plane, (width, height), interpolation=method) for plane in pixels])
