"""How alike profiles are, a block of rows at a time.

Rules: profiles hold finite numbers only. A profile without direction (all zero; for correlation: all features equal)
has similarity 0 to every other, so it is neither like nor unlike anything.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellinfer.errors import InputError

Metric = Literal["cosine", "correlation", "euclidean"]
Precision = Literal["float64", "float32"]
_ROUNDING = {"float64": 1e-12, "float32": 1e-6}


class Similarities:
    """Similarities of profiles to each other, made when asked for.

    Parameters
    ----------
    profiles
        `(n, features)` finite values.
    metric
        `cosine`; `correlation`, which is the cosine after subtracting each profile's mean; or `euclidean`, whose
        similarity is minus the squared distance.
    precision
        Type that similarities are computed in. float32 takes half the memory and time; similarities that differ by
        less than 1e-6 (float64: 1e-12) of the largest possible one count as tied.

    Raises
    ------
    InputError
        If there are no profiles or features, a value is not finite, or the metric is unknown.
    """

    def __init__(self, profiles: ArrayLike, metric: Metric = "cosine", precision: Precision = "float64") -> None:
        if metric not in get_args(Metric):
            raise InputError(f"There is no metric {metric!r}: choose one of {', '.join(get_args(Metric))}.")
        if precision not in _ROUNDING:
            raise InputError(f"There is no precision {precision!r}: choose float64 or float32.")
        values = np.array(profiles, np.float64)
        if values.ndim != 2 or not values.size:
            raise InputError(f"Profiles must be a table with rows and features: this one has the shape {values.shape}.")
        if not np.isfinite(values).all():
            raise InputError(
                "Profiles must hold finite numbers: leave out or fill features that are missing or infinite."
            )
        self.metric = metric
        self.without_direction = 0
        """How many profiles have none, and so similarity 0 to all others."""
        if metric == "euclidean":
            values -= values.mean(axis=0)  # distances do not change, their rounding shrinks
            squares = np.einsum("ij,ij->i", values, values)
            self._half_squares = (squares / 2).astype(precision)
            self.tolerance = _ROUNDING[precision] * max(float(squares.max()), np.finfo(np.float64).tiny)
        else:
            if metric == "correlation":
                _centre(values)
            self.without_direction = _normalise(values)
            self.tolerance = _ROUNDING[precision]
        self._values: NDArray[Any] = values.astype(precision, copy=False)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def n_features(self) -> int:
        """Features of each profile."""
        return int(self._values.shape[1])

    @property
    def itemsize(self) -> int:
        """Bytes per similarity."""
        return self._values.itemsize

    def block(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the similarities of some profiles to all others, or to some.

        Parameters
        ----------
        rows, columns
            Numbers of profiles; no columns means all.

        Returns
        -------
        ndarray of shape (rows, columns), float32 or float64
        """
        others = self._values if columns is None else self._values[columns]
        result: NDArray[Any] = self._values[rows] @ others.T
        if self.metric == "euclidean":
            halves = self._half_squares if columns is None else self._half_squares[columns]
            result -= self._half_squares[rows][:, None]
            result -= halves
            result *= 2
            np.minimum(result, 0, out=result)
        return result

    def within(self, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the similarities within groups of one size.

        Parameters
        ----------
        groups
            `(g, k)` numbers of profiles.

        Returns
        -------
        ndarray of shape (g, k, k), float64
            For `euclidean` minus the distance, not its square.
        """
        members = self._values[groups]
        result = np.asarray(members @ members.transpose(0, 2, 1), np.float64)
        if self.metric == "euclidean":
            halves = self._half_squares[groups]
            result = -np.sqrt(np.maximum(2 * (halves[:, :, None] + halves[:, None, :] - result), 0))
        return result


def _centre(values: NDArray[np.float64]) -> None:
    """Subtract each row's mean; a row that is constant but for rounding becomes zero."""
    size = np.abs(values).max(axis=1)
    values -= values.mean(axis=1, keepdims=True)
    values[np.abs(values).max(axis=1) <= 1e-12 * size] = 0.0


def _normalise(values: NDArray[np.float64]) -> int:
    """Give each row length one, in place; rows of zeros stay. Returns how many these are."""
    size = np.abs(values).max(axis=1, keepdims=True)
    zero = size[:, 0] == 0
    size[zero] = 1.0
    values /= size  # squares of very small or large numbers would vanish or overflow
    length = np.sqrt(np.einsum("ij,ij->i", values, values))
    length[zero] = 1.0
    values /= length[:, None]
    return int(zero.sum())
