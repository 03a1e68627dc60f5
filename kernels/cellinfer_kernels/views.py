"""Test-time augmentation views: the eight symmetries of a rectangle's pixel grid, and the mean over their maps.

A view is augmented (image -> view coordinates), goes through the network, and is restored (view -> image coordinates).
`merge_probabilities` restores and averages in one go, block by block, so that a block is still in the cache when the
last view is added to it: that is several times faster than turning whole maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel


class View(NamedTuple):
    """One symmetry of the pixel grid: transpose the last two axes if `transpose`, then flip rows, then columns."""

    transpose: bool
    flip_y: bool
    flip_x: bool


VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "identity": View(False, False, False),
        "hflip": View(False, False, True),
        "vflip": View(False, True, False),
        "rot90": View(True, True, False),  # counter-clockwise, as numpy.rot90
        "rot180": View(False, True, True),
        "rot270": View(True, False, True),
        "transpose": View(True, False, False),
        "antitranspose": View(True, True, True),
    }
)
"""Every view by name; the order of this table is the order in which views are summed."""

FLIPS6: tuple[str, ...] = ("identity", "hflip", "vflip", "rot90", "rot180", "rot270")
"""The six published views (Moshkov et al. 2020, Sci Rep 10:5068)."""

D4: tuple[str, ...] = tuple(VIEWS)
"""All eight views."""

_MAX_VIEWS = len(VIEWS)
_BLOCK = 64  # pixels a side: the accumulators of a block stay in the L2 cache
_PAD = 8  # keeps the rows of a block from falling into the same cache sets
_TILE = 8
_TURN_BLOCK = 32
_GRID = 6.0  # adding and subtracting 6 rounds |x| <= 1 to a multiple of 2**-50, the spacing of float64 in [4, 8)


def _view(name: str) -> View:
    """Look a view up by name."""
    try:
        return VIEWS[name]
    except KeyError:
        raise ValueError(f"unknown view {name!r}; choose from {', '.join(VIEWS)}") from None


def _inverse(view: View) -> View:
    """Give the view that undoes `view`: only the two quarter turns are not their own inverse."""
    return View(True, view.flip_x, view.flip_y) if view.transpose else view


def augment(array: NDArray[Any], view: str) -> NDArray[Any]:
    """Turn an image, or a stack of images, into a view.

    Parameters
    ----------
    array
        (..., H, W) of any dtype.
    view
        A name in `VIEWS`. Quarter turns are counter-clockwise, as in `numpy.rot90(array, k, (-2, -1))`.

    Returns
    -------
    ndarray
        New C-contiguous array of the same dtype, (..., H, W), or (..., W, H) for views that transpose.

    Raises
    ------
    ValueError
        If the view is unknown or `array` has fewer than two axes.
    """
    return _apply(array, _view(view))


def restore(array: NDArray[Any], view: str) -> NDArray[Any]:
    """Undo `augment`: bring an array from view coordinates back into image coordinates.

    Parameters
    ----------
    array
        (..., h, w) of any dtype, in the coordinates of the view.
    view
        The name that was given to `augment`.

    Returns
    -------
    ndarray
        New C-contiguous array; `restore(augment(x, view), view)` equals `x` bit for bit.

    Raises
    ------
    ValueError
        If the view is unknown or `array` has fewer than two axes.
    """
    return _apply(array, _inverse(_view(view)))


def _apply(array: NDArray[Any], view: View) -> NDArray[Any]:
    """Transpose and flip the last two axes into a new C-contiguous array."""
    if array.ndim < 2:
        raise ValueError(f"a view needs an array whose last two axes are rows and columns, got shape {array.shape}")
    if view.transpose and array.dtype.itemsize in (1, 2, 4, 8) and not array.dtype.hasobject and array.size:
        return _turned(array, view)
    turned = array.swapaxes(-1, -2) if view.transpose else array
    return turned[..., :: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1].copy(order="C")


def _turned(array: NDArray[Any], view: View) -> NDArray[Any]:
    """Transpose, then flip, through the blocked kernel; bits are moved as unsigned integers of the same size."""
    height, width = array.shape[-2:]
    bits = np.dtype(f"u{array.dtype.itemsize}")
    source = np.ascontiguousarray(array).view(bits).reshape(-1, height, width)
    target = np.empty((source.shape[0], width, height), bits)
    _turn_kernel(source, view.flip_y, view.flip_x, target)
    return target.view(array.dtype).reshape((*array.shape[:-2], width, height))


@kernel
def _turn_kernel(source: Any, flip_y: Any, flip_x: Any, target: Any) -> Any:
    """`target[p, i, j] = source[p, j, i]`, then flipped, in blocks whose lines all fit in the L1 cache."""
    planes, height, width = source.shape
    for p in range(planes):
        for y0 in range(0, height, _TURN_BLOCK):
            y1 = min(y0 + _TURN_BLOCK, height)
            for x0 in range(0, width, _TURN_BLOCK):
                for x in range(x0, min(x0 + _TURN_BLOCK, width)):
                    row = width - 1 - x if flip_y else x
                    if flip_x:
                        for y in range(y0, y1):
                            target[p, row, height - 1 - y] = source[p, y, x]
                    else:
                        for y in range(y0, y1):
                            target[p, row, y] = source[p, y, x]


def merge_probabilities(
    maps: Sequence[NDArray[np.float32]], views: Sequence[str], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Average probability maps over views, each map restored to image coordinates first.

    Sums run in float64 on values rounded to multiples of 2**-50 (an error below 5e-16). For values in [-1, 1] such
    sums of up to eight are exact, so the result does not depend on the order of the views and commutes, bit for bit,
    with every symmetry that permutes the views. A pixel that has the same value in all views keeps it bit for bit,
    whatever its size. Outside [-1, 1] the mean is that of float64 sums taken in the order of `VIEWS`.

    Parameters
    ----------
    maps
        One (C, h, w) float32 map per view, in the coordinates of that view: (C, H, W), or (C, W, H) where the view
        transposes.
    views
        The views' names, as many as maps and no name twice.
    out
        (C, H, W) float32 C-contiguous array to write to; a new one by default. Must not overlap the maps.

    Returns
    -------
    ndarray
        (C, H, W) float32 mean; with one map, that map restored, bit for bit. NaN where any map is NaN.

    Raises
    ------
    ValueError
        If the numbers of maps and views differ or are 0, a view is unknown or given twice, or shapes do not fit.

    Notes
    -----
    For scalar maps only: components of vector fields change with the view and must be turned back before.
    """
    names, ordered = _ordered_maps(maps, views)
    shape = _image_shape(ordered[0], _view(names[0]))
    for name, one in zip(names, ordered, strict=True):
        if _image_shape(one, _view(name)) != shape:
            raise ValueError(f"the {name} map of shape {one.shape} does not restore to {shape} as {names[0]} does")
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be a C-contiguous float32 array of shape {shape}, got {out.dtype} {out.shape}")
    if len(ordered) == 1:
        out[...] = restore(ordered[0], names[0])
        return out
    # Always eight maps, so that one compiled kernel serves every number of views; the padding is not read.
    padded = tuple(ordered) + (ordered[0],) * (_MAX_VIEWS - len(ordered))
    chosen = np.array([_view(name) for name in names], np.bool_)
    slots = np.full((2, 4), -1, np.int64)
    slots[chosen[:, 0].astype(int), 2 * chosen[:, 1] + chosen[:, 2]] = range(len(names))
    _merge_kernel(padded, chosen, slots, out)
    return out


def _ordered_maps(
    maps: Sequence[NDArray[np.float32]], views: Sequence[str]
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """Check maps and views, and sort both into the order of `VIEWS`."""
    if len(maps) != len(views) or not len(views):
        raise ValueError(f"need one map per view and at least one, got {len(maps)} maps and {len(views)} views")
    if len(set(views)) != len(views):
        raise ValueError(f"a view is given twice: {', '.join(views)}")
    for name, one in zip(views, maps, strict=True):
        _view(name)
        if one.ndim != 3 or one.dtype != np.float32:
            raise ValueError(f"the {name} map must be (C, h, w) float32, got {one.dtype} {one.shape}")
    order = sorted(range(len(views)), key=lambda i: D4.index(views[i]))
    return [views[i] for i in order], [np.ascontiguousarray(maps[i]) for i in order]


def _image_shape(one: NDArray[np.float32], view: View) -> tuple[int, int, int]:
    """Shape of a map once it is restored to image coordinates."""
    channels, height, width = one.shape
    return (channels, width, height) if view.transpose else (channels, height, width)


@inlined
def _add_block(
    maps: Any,
    c: Any,
    flip_y: Any,
    flip_x: Any,
    y0: Any,
    x0: Any,
    rows: Any,
    columns: Any,
    fresh: Any,
    total: Any,
    first: Any,
    differs: Any,
) -> Any:
    """Add a block of one map, un-flipped, to the block's sums, and note pixels that differ from the first view's.

    The block is (y0, x0, rows, columns) in un-flipped coordinates. Its lines are contiguous in `maps`, and unsigned
    indices need no wrap-around check, so every inner loop vectorises. `fresh` starts the block anew.
    """
    height, width = maps.shape[1:]
    for i in range(rows):
        y = height - 1 - (y0 + i) if flip_y else y0 + i
        right = width - 1 - x0
        if fresh:
            for j in range(columns):
                value = maps[c, y, np.uint64(right - j if flip_x else x0 + j)]
                first[i, j] = value
                differs[i, j] = 0
                total[i, j] = (np.float64(value) + _GRID) - _GRID
        elif flip_x:
            for j in range(columns):
                value = maps[c, y, np.uint64(right - j)]
                differs[i, j] |= np.int32(value != first[i, j])
                total[i, j] += (np.float64(value) + _GRID) - _GRID
        else:
            for j in range(columns):
                value = maps[c, y, np.uint64(x0 + j)]
                differs[i, j] |= np.int32(value != first[i, j])
                total[i, j] += (np.float64(value) + _GRID) - _GRID


@inlined
def _unround_common(rows: Any, columns: Any, n_views: Any, total: Any, first: Any, differs: Any) -> Any:
    """Where all views have the same value, put the exact sum in place of the sum of rounded values."""
    for i in range(rows):
        for j in range(columns):
            exact = n_views * np.float64(first[i, j])
            total[i, j] = exact if differs[i, j] == 0 else total[i, j]


@inlined
def _sum_four(
    plain: Any, along: Any, across: Any, both: Any, c: Any, y0: Any, x0: Any, rows: Any, columns: Any, total: Any
) -> Any:
    """Sum a block of all four flips at once: no flip, along x, along y, both.

    Equal to four times `_add_block` and `_unround_common`; every value is read once and every sum written once.
    """
    height, width = plain.shape[1:]
    right = width - 1 - x0
    for i in range(rows):
        y = y0 + i
        mirrored = height - 1 - y
        for j in range(columns):
            left_to_right, right_to_left = np.uint64(x0 + j), np.uint64(right - j)
            p = plain[c, y, left_to_right]
            q = along[c, y, right_to_left]
            r = across[c, mirrored, left_to_right]
            s = both[c, mirrored, right_to_left]
            rounded = (
                ((np.float64(p) + _GRID) - _GRID)
                + ((np.float64(q) + _GRID) - _GRID)
                + ((np.float64(r) + _GRID) - _GRID)
                + ((np.float64(s) + _GRID) - _GRID)
            )
            common = (p == q) & (p == r) & (p == s)
            total[i, j] = 4.0 * np.float64(p) if common else rounded


@kernel
def _merge_kernel(maps: Any, views: Any, slots: Any, out: Any) -> Any:
    """Mean of the restored maps, block by block.

    Views that transpose are summed in a block of their own, which lies as their maps lie; it is transposed once per
    block instead of once per view. A symmetry of the grid maps these two groups of views onto themselves or onto each
    other, so it is enough that each group's sum is independent of order, and that two sums are added. `slots[group]`
    holds the maps of the group's four flips, or -1 for those that are not there.
    """
    channels, height, width = out.shape
    total = np.zeros((2, _BLOCK, _BLOCK + _PAD), np.float64)
    first = np.empty((2, _BLOCK, _BLOCK + _PAD), np.float32)
    differs = np.empty((2, _BLOCK, _BLOCK + _PAD), np.int32)
    for c in range(channels):
        for y0 in range(0, height, _BLOCK):
            rows = min(_BLOCK, height - y0)
            for x0 in range(0, width, _BLOCK):
                columns = min(_BLOCK, width - x0)
                for group in range(2):
                    if group == 0:
                        top, left, tall, wide = y0, x0, rows, columns
                    else:
                        top, left, tall, wide = x0, y0, columns, rows
                    four = slots[group]
                    if four.min() >= 0:
                        _sum_four(
                            maps[four[0]],
                            maps[four[1]],
                            maps[four[2]],
                            maps[four[3]],
                            c,
                            top,
                            left,
                            tall,
                            wide,
                            total[group],
                        )
                        continue
                    count = 0
                    for v in range(len(views)):
                        # augment is transpose, then flip: un-flipping leaves the transposed image
                        if views[v, 0] == group:
                            _add_block(
                                maps[v],
                                c,
                                views[v, 1],
                                views[v, 2],
                                top,
                                left,
                                tall,
                                wide,
                                count == 0,
                                total[group],
                                first[group],
                                differs[group],
                            )
                            count += 1
                    if count:
                        _unround_common(tall, wide, count, total[group], first[group], differs[group])
                _finish_block(total[0], total[1], len(views), out[c, y0 : y0 + rows, x0 : x0 + columns])


@inlined
def _finish_block(straight: Any, turned: Any, n_views: Any, out: Any) -> Any:
    """Mean of the straight sums and the transposed turned sums, in small tiles whose columns fit in the L1 cache."""
    rows, columns = out.shape
    # Dividing by a power of two is multiplying by its inverse, which is faster; by six it must be a division.
    exact = n_views & (n_views - 1) == 0
    inverse, divisor = 1.0 / n_views, np.float64(n_views)
    for i0 in range(0, rows, _TILE):
        for j0 in range(0, columns, _TILE):
            for i in range(i0, min(i0 + _TILE, rows)):
                if exact:
                    for j in range(j0, min(j0 + _TILE, columns)):
                        out[i, j] = np.float32((straight[i, j] + turned[j, i]) * inverse)
                else:
                    for j in range(j0, min(j0 + _TILE, columns)):
                        out[i, j] = np.float32((straight[i, j] + turned[j, i]) / divisor)
