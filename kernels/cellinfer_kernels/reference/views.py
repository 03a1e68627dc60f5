"""Plain NumPy twin of `cellinfer_kernels.views`: whole maps, exact rational sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TURNS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "identity": (lambda x: x, lambda x: x),
    "hflip": (lambda x: np.flip(x, -1), lambda x: np.flip(x, -1)),
    "vflip": (lambda x: np.flip(x, -2), lambda x: np.flip(x, -2)),
    "rot90": (lambda x: np.rot90(x, 1, (-2, -1)), lambda x: np.rot90(x, -1, (-2, -1))),
    "rot180": (lambda x: np.rot90(x, 2, (-2, -1)), lambda x: np.rot90(x, -2, (-2, -1))),
    "rot270": (lambda x: np.rot90(x, 3, (-2, -1)), lambda x: np.rot90(x, -3, (-2, -1))),
    "transpose": (lambda x: x.swapaxes(-1, -2), lambda x: x.swapaxes(-1, -2)),
    "antitranspose": (
        lambda x: np.rot90(x, 2, (-2, -1)).swapaxes(-1, -2),
        lambda x: np.rot90(x, 2, (-2, -1)).swapaxes(-1, -2),
    ),
}


def augment(array: NDArray[Any], view: str) -> NDArray[Any]:
    """Turn the last two axes into a view."""
    return np.ascontiguousarray(_TURNS[view][0](array))


def restore(array: NDArray[Any], view: str) -> NDArray[Any]:
    """Undo `augment`."""
    return np.ascontiguousarray(_TURNS[view][1](array))


def merge_probabilities(
    maps: Sequence[NDArray[np.float32]], views: Sequence[str], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Mean of the restored maps in exact arithmetic, rounded once to float64 and then to float32."""
    stack = np.stack([restore(one, view) for one, view in zip(maps, views, strict=True)])
    means = [
        float(sum((Fraction(float(value)) for value in pixel), Fraction(0)) / len(views))
        for pixel in stack.reshape(len(views), -1).T
    ]
    result = np.array(means, np.float64).astype(np.float32).reshape(stack.shape[1:])
    if out is None:
        return result
    out[...] = result
    return out
