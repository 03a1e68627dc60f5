"""Decoders: network output to labels, one module per kind of output; the model card names the kind.

To add a decoder, write its module and list it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer.decoders import distance, flows, mask_rcnn, semantic, starconvex, three_class
from cellinfer.errors import ModelError


@dataclass(frozen=True)
class Decoder:
    """How one kind of network output becomes labels.

    Attributes
    ----------
    decode
        `decode(fields, diameter, shape, **options)`: fields `(K, h, w)` float32, median object diameter in pixels of
        the result, shape `(H, W)` of the result; returns `(H, W)` int32 labels. Where `resized` is true, `h, w` are
        `H, W`; otherwise `decode` also takes `stride`, pixels of the network's input per sample, and `seen`, the
        `(height, width)` of that input, and places its objects by their coordinates. None for a decoder that finds
        its objects itself.
    scalar
        Whether every output is a scalar field, which flips and rotations of the image only move. Only then may the
        outputs of several views be averaged.
    resized
        Whether fields are brought to the image's size before decoding.
    outputs
        Number of fields, or of a network's outputs where it gives objects; None: any.
    find
        For networks that give objects, not fields, and are run by the decoder itself:
        `find(session, planes, diameter, shape, options)` with planes `(C, h, w)` float32, normalised and rescaled;
        returns `(H, W)` int32 labels. None for all others.
    find_options
        Names of the options that `find` takes.
    """

    decode: Callable[..., NDArray[np.int32]] | None
    scalar: bool
    resized: bool
    outputs: int | None
    find: Callable[..., NDArray[np.int32]] | None = None
    find_options: tuple[str, ...] = ()


DECODERS: dict[str, Decoder] = {
    "distance": Decoder(distance.decode, scalar=True, resized=True, outputs=2),
    "star-convex": Decoder(starconvex.decode, scalar=False, resized=False, outputs=None),
    "semantic": Decoder(semantic.decode, scalar=True, resized=True, outputs=1),
    "three-class": Decoder(three_class.decode, scalar=True, resized=True, outputs=3),
    "flows": Decoder(flows.decode, scalar=False, resized=True, outputs=3),
    "mask-rcnn": Decoder(
        None,
        scalar=False,
        resized=False,
        outputs=len(mask_rcnn.OUTPUTS),
        find=mask_rcnn.find_objects,
        find_options=tuple(mask_rcnn.OPTIONS),
    ),
}


def find_decoder(kind: str) -> Decoder:
    """Return the decoder that a card names.

    Raises
    ------
    ModelError
        If there is no decoder of that kind.
    """
    if kind not in DECODERS:
        raise ModelError(f"The model's card asks for the decoder {kind!r}; this version has {', '.join(DECODERS)}.")
    return DECODERS[kind]


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Check a decoder's options, as a card gives them.

    Raises
    ------
    ModelError
        If there is no decoder of that kind, it has no such option, or takes whole numbers only.
    """
    decoder = find_decoder(kind)
    known: dict[str, Any] = dict.fromkeys(decoder.find_options)
    if decoder.decode is not None:  # `stride` and `seen` have no defaults, for they are not the card's to give
        known = {
            parameter.name: parameter.default
            for parameter in signature(decoder.decode).parameters.values()
            if parameter.kind is Parameter.KEYWORD_ONLY and parameter.default is not Parameter.empty
        }
    if unknown := sorted(options.keys() - known.keys()):
        raise ModelError(f"The model's card gives the decoder {kind!r} the options {unknown}; it takes {list(known)}.")
    for name, value in options.items():
        if isinstance(known[name], int) and not isinstance(value, int):
            raise ModelError(
                f"The model's card gives the decoder {kind!r} the option {name} as {value!r}: give a whole number."
            )


def decode(
    kind: str,
    fields: NDArray[np.float32],
    diameter: float,
    options: Mapping[str, Any],
    shape: tuple[int, int] | None = None,
    *,
    stride: int = 1,
    seen: tuple[int, int] | None = None,
) -> NDArray[np.int32]:
    """Turn network output into labels with the decoder that a card names.

    Parameters
    ----------
    kind
        Name of the decoder.
    fields
        `(K, h, w)` float32: the network's output for one field.
    diameter
        Median object diameter in pixels of the result; sets what is too small to be an object.
    options
        The decoder's own options, from the card.
    shape
        `(H, W)` of the result; None takes that of the fields.
    stride
        Pixels of the network's input per sample of the fields, see `ModelCard.stride`. This and `seen` matter only to
        decoders that take fields as the network gives them.
    seen
        `(height, width)` of the image that the network saw; None: that of the result.

    Returns
    -------
    ndarray
        `(H, W)` int32, 0 is background, objects numbered 1..n.

    Raises
    ------
    ModelError
        If there is no decoder of that kind, or it does not take these options (see `check_options`).
    """
    decoder = find_decoder(kind)
    if decoder.decode is None:
        raise ModelError(f"The decoder {kind!r} takes no fields: it runs its network itself (see `Decoder.find`).")
    size = shape or fields.shape[1:]
    grid = {} if decoder.resized else {"stride": stride, "seen": seen or size}
    check_options(kind, options)
    return decoder.decode(fields, diameter, size, **grid, **options)
