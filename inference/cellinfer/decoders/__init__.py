"""Decoders: network output to labels, one module per kind of output; the model card names the kind.

A decoder is a function `(fields, diameter, **options) -> labels`. To add one, write its module and list it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.decoders import distance
from cellinfer.errors import ModelError

Decoder = Callable[..., NDArray[np.int32]]

DECODERS: dict[str, Decoder] = {"distance": distance.decode}


def decode(kind: str, fields: NDArray[np.float32], diameter: float, options: Mapping[str, Any]) -> NDArray[np.int32]:
    """Turn network output into labels with the decoder that a card names.

    Parameters
    ----------
    kind
        Name of the decoder.
    fields
        `(C, H, W)` float32: the network's output for one field.
    diameter
        Median object diameter in pixels of `fields`; sets what is too small to be an object.
    options
        The decoder's own options, from the card.

    Returns
    -------
    ndarray
        `(H, W)` int32, 0 is background, objects numbered 1..n.

    Raises
    ------
    ModelError
        If there is no decoder of that kind, or it does not take these options.
    """
    if kind not in DECODERS:
        raise ModelError(f"The model's card asks for the decoder {kind!r}; this version has {', '.join(DECODERS)}.")
    try:
        return DECODERS[kind](fields, diameter, **options)
    except TypeError as error:
        raise ModelError(f"The model's card gives the decoder {kind!r} options it does not take: {error}") from error
