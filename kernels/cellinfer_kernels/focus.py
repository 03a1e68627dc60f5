"""How sharp a plane is: variation within tiles, correlation over a distance, power by spatial frequency; and counts.

These are the loops behind CellProfiler's MeasureImageQuality. Pixels that are NaN or infinite are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import kernel

__all__ = ["Tiles", "ValueCounts", "level_correlation", "radial_power", "tiles", "value_counts"]

Column = NDArray[np.float64]


class ValueCounts(NamedTuple):
    """The distinct values of an image, rising, and how many pixels have each."""

    values: NDArray[np.uint16]
    counts: NDArray[np.int64]


class Tiles(NamedTuple):
    """Mean and variance of each tile, (rows of tiles, columns of tiles) float64; NaN without any finite pixel."""

    mean: Column
    variance: Column
    """Population variance (divided by the number of pixels)."""


def value_counts(image: NDArray[np.uint16]) -> ValueCounts:
    """Count how often each value occurs.

    Parameters
    ----------
    image
        uint16 array of any shape.

    Returns
    -------
    ValueCounts
        Only values that do occur.

    Raises
    ------
    ValueError
        If the image is of another type.
    """
    if image.dtype != np.uint16:
        raise ValueError(f"values are counted in uint16 images, not in {image.dtype}")
    counts = _count(np.ascontiguousarray(image).ravel())
    values = np.flatnonzero(counts)
    return ValueCounts(values.astype(np.uint16), counts[values])


@kernel
def _count(values: Any) -> Any:
    # Two tables: neighbours are often equal, and an addition to the same place would wait for the one before.
    counts = np.zeros((2, 65536), np.int64)
    for i in range(0, values.size - 1, 2):
        counts[0, values[i]] += 1
        counts[1, values[i + 1]] += 1
    if values.size % 2:
        counts[0, values[-1]] += 1
    return counts[0] + counts[1]


def tiles(image: NDArray[Any], side: int) -> Tiles:
    """Return mean and variance within the tiles of a grid.

    Parameters
    ----------
    image
        `(H, W)` of any real dtype.
    side
        Greatest height and width of a tile, pixels. There are ceil(H / side) rows of tiles, all as equally high as
        whole pixels allow, and so for columns: as CellProfiler lays its grid, no tile is a narrow rest.

    Returns
    -------
    Tiles
        In raster order of the grid.

    Raises
    ------
    ValueError
        If the image is not 2-D or `side` is not positive.
    """
    plane = _plane(image)
    if side < 1:
        raise ValueError(f"tiles need a positive side, got {side}")
    rows, columns = (-(-length // side) for length in plane.shape)
    mean, variance = _tiles(plane, rows, columns)
    return Tiles(mean, variance)


@kernel
def _tiles(plane: Any, rows: Any, columns: Any) -> Any:
    height, width = plane.shape
    mean = np.full((rows, columns), np.nan)
    variance = np.full((rows, columns), np.nan)
    for row in range(rows):
        # The first line y for which y * rows // height is `row`.
        top = -(-row * height // rows)
        bottom = -(-(row + 1) * height // rows)
        for column in range(columns):
            left = -(-column * width // columns)
            right = -(-(column + 1) * width // columns)
            count = 0
            total = 0.0
            for y in range(top, bottom):
                for x in range(left, right):
                    if np.isfinite(plane[y, x]):
                        count += 1
                        total += plane[y, x]
            if count == 0:
                continue
            middle = total / count
            squares = 0.0
            for y in range(top, bottom):
                for x in range(left, right):
                    if np.isfinite(plane[y, x]):
                        squares += (plane[y, x] - middle) * (plane[y, x] - middle)
            mean[row, column] = middle
            variance[row, column] = squares / count
    return mean, variance


def level_correlation(image: NDArray[Any], distance: int, levels: int = 8) -> float:
    """Return Haralick's correlation between pixels and those `distance` columns to their right.

    The range of the image is parted into `levels` equal steps and the correlation is that of the steps' numbers, as
    `centrosome.haralick` has it (Haralick, Shanmugam and Dinstein 1973). That is Pearson's correlation, so that six
    sums of integers replace the co-occurrence matrix.

    Parameters
    ----------
    image
        `(H, W)` of any real dtype. A pair counts if both its pixels are finite.
    distance
        Columns between the pixels of a pair.
    levels
        Number of steps, 2..256.

    Returns
    -------
    float
        -1..1; NaN if there are no pairs, or if the left or the right pixels of all pairs lie in one step.

    Raises
    ------
    ValueError
        If the image is not 2-D, `distance` is not positive, or `levels` is out of range.
    """
    plane = _plane(image)
    if distance < 1 or not 2 <= levels <= 256:
        raise ValueError(f"a positive distance and 2..256 levels are needed, got {distance} and {levels}")
    n, left, right, left_squares, right_squares, products = _pair_sums(plane, distance, levels)
    spread = (n * left_squares - left * left) * (n * right_squares - right * right)
    return (n * products - left * right) / float(spread) ** 0.5 if spread > 0 else float("nan")


@kernel
def _pair_sums(plane: Any, distance: Any, levels: Any) -> Any:
    height, width = plane.shape
    low = np.inf
    high = -np.inf
    for y in range(height):
        for x in range(width):
            value = plane[y, x]
            if np.isfinite(value):
                low = min(low, value)
                high = max(high, value)
    n = left = right = left_squares = right_squares = products = np.int64(0)
    span = high - low
    if not (low < high and span < np.inf):
        return n, left, right, left_squares, right_squares, products
    level = np.empty(width, np.int32)
    present = np.empty(width, np.int32)
    for y in range(height):
        for x in range(width):
            value = plane[y, x]
            present[x] = np.isfinite(value)
            level[x] = min(np.int32((value - low) / span * levels), levels - 1) if present[x] else 0
        for x in range(width - distance):
            both = present[x] * present[x + distance]
            a = level[x] * both
            b = level[x + distance] * both
            n += both
            left += a
            right += b
            left_squares += a * a
            right_squares += b * b
            products += a * b
    return n, left, right, left_squares, right_squares, products


def radial_power(spectrum: NDArray[np.complex128], width: int) -> Column:
    """Sum the power of an image's low frequencies over rings, as `centrosome.radial_power_spectrum.rps` does.

    Ring r holds what lies at least r - 1 and less than r from the zero frequency. As in centrosome, the negative
    frequency -k counts as k - 1 from zero, in either direction: its places are numbered from the last column and row.

    Parameters
    ----------
    spectrum
        `(H, K)` complex128: at least the first K = min(H, width) // 8 columns of the image's half spectrum, as
        `scipy.fft.rfft2` returns it. No others are looked at.
    width
        Columns of the image.

    Returns
    -------
    ndarray of float64
        Sums of squared magnitudes in rings 2, 3, ... K - 1, the ones whose frequencies are below an eighth per pixel;
        empty if there are none.

    Raises
    ------
    ValueError
        If there are too few columns.
    """
    used = min(spectrum.shape[0], width) // 8
    if spectrum.ndim != 2 or spectrum.shape[1] < used:
        raise ValueError(f"{used} columns of the spectrum are needed, got an array of shape {spectrum.shape}")
    sums: Column = _radial_power(np.asarray(spectrum[:, :used], dtype=np.complex128, order="C"), used)
    return sums[2:]


@kernel
def _radial_power(spectrum: Any, used: Any) -> Any:
    height = spectrum.shape[0]
    sums = np.zeros(max(used, 2))
    for row in range(height):
        near = min(row, height - 1 - row)
        opposite = (height - row) % height
        near_opposite = min(opposite, height - 1 - opposite)
        if min(near, near_opposite) >= used:
            continue
        for column in range(used):
            value = spectrum[row, column]
            power = value.real * value.real + value.imag * value.imag
            ring = int(np.sqrt(near * near + column * column)) + 1
            if 2 <= ring < used:
                sums[ring] += power
            if column == 0:  # its own other half: the rows hold both signs
                continue
            beyond = column - 1
            ring = int(np.sqrt(near_opposite * near_opposite + beyond * beyond)) + 1
            if 2 <= ring < used:
                sums[ring] += power
    return sums


def _plane(image: NDArray[Any]) -> Column:
    plane = np.ascontiguousarray(image, dtype=np.float64)
    if np.ndim(image) != 2:
        raise ValueError(f"a 2-D image is needed, got one of shape {np.shape(image)}")
    return plane
