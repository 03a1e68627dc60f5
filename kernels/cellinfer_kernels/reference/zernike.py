"""NumPy twin of `cellinfer_kernels.zernike`: every polynomial at every pixel."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups
from cellinfer_kernels.shape import Circles
from cellinfer_kernels.zernike import orders


def shape_zernikes(groups: Groups, circles: Circles, degree: int = 9) -> NDArray[np.complex128]:
    """Weigh every pixel with 1."""
    return weighted_zernikes(groups, circles, np.ones(groups.pixels.size), degree)


def weighted_zernikes(
    groups: Groups, circles: Circles, values: NDArray[np.float64], degree: int = 9
) -> NDArray[np.complex128]:
    """Measure object after object in polar coordinates."""
    result = np.empty((groups.ids.size, len(orders(degree))), np.complex128)
    for k in range(groups.ids.size):
        place = slice(groups.begins[k], groups.begins[k + 1])
        ys, xs = np.unravel_index(groups.pixels[place], groups.shape)
        with np.errstate(invalid="ignore"):
            y = (ys - circles.centre[k, 0]) / circles.radius[k]
            x = (xs - circles.centre[k, 1]) / circles.radius[k]
        weight = np.where(np.isfinite(values[place]), values[place], 0.0)
        weight[x * x + y * y > 1] = 0.0
        result[k] = [(weight * _polynomial(n, m, y, x)).sum() for n, m in orders(degree)]
    return result


def _polynomial(n: int, m: int, y: NDArray[Any], x: NDArray[Any]) -> NDArray[np.complex128]:
    distance, angle = np.hypot(x, y), np.arctan2(x, y)
    radial = sum(
        (-1) ** k
        * factorial(n - k)
        / (factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k))
        * distance ** (n - 2 * k)
        for k in range((n - m) // 2 + 1)
    )
    return np.asarray(radial * np.exp(1j * m * angle))
