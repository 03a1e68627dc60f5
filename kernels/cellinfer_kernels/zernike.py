"""Zernike moments of all objects, of their shape and of a channel within it.

The Zernike polynomials up to degree d are polynomials in y and x of degree d. So the moments are linear in the sums of
y**i x**j over the pixels, i + j <= d, which cost one multiplication per power and pixel (shape: per run) instead of an
evaluation of every polynomial at every pixel.
"""

from __future__ import annotations

from functools import cache
from math import comb, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel
from cellinfer_kernels.components import Groups
from cellinfer_kernels.shape import Circles

__all__ = ["orders", "shape_zernikes", "weighted_zernikes"]

Column = NDArray[np.float64]

_ROUNDING = 32 * np.finfo(np.float64).eps
"""Of a sum of powers, relative to the sum of their sizes."""


def orders(degree: int) -> list[tuple[int, int]]:
    """Return the degrees n and azimuthal orders m >= 0 of the Zernike polynomials up to a degree, n first.

    Parameters
    ----------
    degree
        Largest n, at least 0.
    """
    return [(n, m) for n in range(degree + 1) for m in range(n % 2, n + 1, 2)]


def shape_zernikes(groups: Groups, circles: Circles, degree: int = 9) -> NDArray[np.complex128]:
    """Sum the Zernike polynomials over the pixels of every object.

    Parameters
    ----------
    groups
        The objects.
    circles
        The unit disks, from `cellinfer_kernels.shape.hulls`.
    degree
        Largest degree n.

    Returns
    -------
    ndarray of complex128
        (n, len(orders(degree))); NaN for one pixel, whose circle has no radius. Azimuth is counted from y towards x.
        Pixels that floating point puts outside the circle do not count, as in centrosome. A part that is no larger
        than the rounding of its sum is 0, so that a symmetric object has no phase made of noise.
    """
    sums = _shape_powers(groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes, *circles, degree + 1)
    return _combined(sums, circles, degree)


def weighted_zernikes(
    groups: Groups, circles: Circles, values: NDArray[np.float64], degree: int = 9
) -> NDArray[np.complex128]:
    """Sum the Zernike polynomials, weighted with a channel, over the pixels of every object.

    Parameters
    ----------
    groups, circles, degree
        As for `shape_zernikes`.
    values
        (P,) the channel's values in the order of `groups.pixels`; those that are not finite do not count.

    Returns
    -------
    ndarray of complex128
        (n, len(orders(degree))), in the units of the channel.
    """
    sums = _weighted_powers(
        groups.begins,
        groups.firsts,
        groups.rows,
        groups.starts,
        groups.stops,
        groups.boxes,
        *circles,
        np.ascontiguousarray(values, np.float64),
        degree + 1,
    )
    return _combined(sums, circles, degree)


def _combined(sums: Column, circles: Circles, degree: int) -> NDArray[np.complex128]:
    factors = _coefficients(degree)
    shape = sums.shape[0], (degree + 1) ** 2
    even = np.arange(degree + 1) // 2 * 2  # |y|**i <= y**even[i] in the unit disk, where no sign cancels
    with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest float
        parts = sums.reshape(shape) @ factors
        rounding = _ROUNDING * np.abs(sums[:, even[:, None], even]).reshape(shape) @ np.abs(factors)
        parts[(np.abs(parts) <= rounding) & np.isfinite(rounding)] = 0.0
    parts[circles.radius == 0] = np.nan
    return parts.view(np.complex128)


@cache
def _coefficients(degree: int) -> NDArray[np.float64]:
    """((degree + 1)**2, 2 K) factors of y**i x**j in R_nm(r) (y + i x)**m, real and imaginary part of each."""
    size = degree + 1
    columns = []
    for n, m in orders(degree):
        factors = np.zeros((size, size), np.complex128)
        for k in range((n - m) // 2 + 1):
            radial = (-1) ** k * factorial(n - k)
            radial //= factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
            half = (n - m) // 2 - k  # (y**2 + x**2)**half times (y + i x)**m
            for a in range(half + 1):
                for b in range(m + 1):
                    factors[2 * a + b, 2 * (half - a) + m - b] += radial * comb(half, a) * comb(m, b) * 1j ** (m - b)
        columns.append(factors.ravel())
    return np.array(columns).T.copy().view(np.float64)


@kernel
def _shape_powers(
    firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any, centre: Any, radius: Any, beyond: Any, size: Any
) -> Any:
    """Sum y**i x**j, i + j < size, over the pixels of every object, in units of its circle's radius."""
    n = boxes.shape[0]
    sums = np.zeros((n, size, size))
    widest = 0
    for k in range(n):
        widest = max(widest, boxes[k, 3] - boxes[k, 1])
    upto = np.zeros((widest + 1, size))  # sums of the powers of all columns before each
    row_sums = np.empty(size)
    for k in range(n):
        left = boxes[k, 1]
        for column in range(boxes[k, 3] - left):
            x = (left + column - centre[k, 1]) / radius[k]
            power = 1.0
            for j in range(size):
                upto[column + 1, j] = upto[column, j] + power
                power *= x
        for run in range(firsts[k], firsts[k + 1]):
            y = (rows[run] - centre[k, 0]) / radius[k]
            for j in range(size):
                row_sums[j] = upto[stops[run] - left, j] - upto[starts[run] - left, j]
            power = 1.0
            for i in range(size):
                for j in range(size - i):
                    sums[k, i, j] += power * row_sums[j]
                power *= y
    for index in range(beyond.shape[0]):
        k = beyond[index, 0]
        _take_away(sums[k], beyond[index], centre[k], radius[k], 1.0, size)
    return sums


@kernel
def _take_away(sums: Any, pixel: Any, centre: Any, radius: Any, weight: Any, size: Any) -> Any:
    y = (pixel[1] - centre[0]) / radius
    x = (pixel[2] - centre[1]) / radius
    row_power = weight
    for i in range(size):
        power = row_power
        for j in range(size - i):
            sums[i, j] -= power
            power *= x
        row_power *= y


@kernel
def _weighted_powers(
    begins: Any, firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any, centre: Any, radius: Any, beyond: Any,
    values: Any, size: Any,
) -> Any:  # fmt: skip
    """Sum values times y**i x**j, i + j < size, over the pixels of every object, in units of its circle's radius."""
    n = boxes.shape[0]
    sums = np.zeros((n, size, size))
    widest = 0
    for k in range(n):
        widest = max(widest, boxes[k, 3] - boxes[k, 1])
    powers = np.empty((widest, size))
    row_sums = np.empty(size)
    index = 0
    for k in range(n):
        left = boxes[k, 1]
        for column in range(boxes[k, 3] - left):
            x = (left + column - centre[k, 1]) / radius[k]
            power = 1.0
            for j in range(size):
                powers[column, j] = power
                power *= x
        i = begins[k]
        for run in range(firsts[k], firsts[k + 1]):
            row_sums[:] = 0.0
            for column in range(starts[run] - left, stops[run] - left):
                value = values[i]
                i += 1
                if np.isfinite(value):
                    for j in range(size):
                        row_sums[j] += value * powers[column, j]
            y = (rows[run] - centre[k, 0]) / radius[k]
            power = 1.0
            for a in range(size):
                for j in range(size - a):
                    sums[k, a, j] += power * row_sums[j]
                power *= y
        while index < beyond.shape[0] and beyond[index, 0] == k:
            i = begins[k]
            for run in range(firsts[k], firsts[k + 1]):
                column = beyond[index, 2] - starts[run]
                if rows[run] == beyond[index, 1] and 0 <= column and beyond[index, 2] < stops[run]:
                    value = values[i + column]
                    if np.isfinite(value):
                        _take_away(sums[k], beyond[index], centre[k], radius[k], value, size)
                    break
                i += stops[run] - starts[run]
            index += 1
    return sums
