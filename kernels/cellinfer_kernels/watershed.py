"""Growth of seeds into regions: priority-flood watershed and CellProfiler's Propagation.

Both are exact and deterministic: a priority queue ordered by value and then by a stated tie rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._heap import doubled, push, remove_first
from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Labels, as_labels, as_mask, find_components
from cellinfer_kernels.distance import nearest

__all__ = ["flood", "propagate"]

_CLOSED = -1
_CONTESTED = -1


def flood(
    priority: NDArray[Any], seeds: NDArray[Any], mask: NDArray[Any] | None = None, connectivity: int = 1
) -> Labels:
    """Grow seeds over a landscape, lowest pixels first (seeded watershed without lines).

    The algorithm of Meyer's flooding as in `skimage.segmentation.watershed`: of all pixels that touch a region the
    lowest is expanded first, and of equally low ones the one that was reached first, so plateaus are shared out
    evenly among the regions around them.

    Parameters
    ----------
    priority
        2-D real array of shape (H, W); compared as float32. NaN counts as +inf (flooded last).
    seeds
        (H, W) label image; every id starts from all its pixels inside the mask.
    mask
        (H, W); only non-zero pixels are flooded. None: all.
    connectivity
        1: regions grow over pixel edges; 2: over corners too.

    Returns
    -------
    ndarray of int32
        Label image with the seeds' ids. Every mask pixel connected (inside the mask) to a seed has a label; the rest
        of the mask and everything outside is 0.

    Raises
    ------
    ValueError
        If shapes differ, the seeds are not a label image, or the connectivity is neither 1 nor 2.
    """
    if connectivity not in (1, 2):
        raise ValueError(f"connectivity must be 1 or 2, got {connectivity!r}")
    starts = as_labels(seeds)
    inside = _inside(mask, starts.shape)
    return _flood(_landscape(priority, starts.shape, np.float32), starts, inside, 4 * connectivity)  # type: ignore[no-any-return]


def propagate(
    seeds: NDArray[Any],
    image: NDArray[Any],
    mask: NDArray[Any] | None = None,
    max_distance: float = np.inf,
    regularization: float = 0.05,
) -> Labels:
    """Grow nuclei into cells along the cheapest paths, as CellProfiler's IdentifySecondaryObjects "Propagation".

    Every mask pixel goes to the seed from which it is reached at the least cost over 8-connected paths. A step
    between neighbouring pixels p and q costs ``sqrt(d**2 + regularization**2 * |p - q|**2)``, where d is the sum of
    ``|image(p + o) - image(q + o)|`` over the 3 x 3 offsets o (edge pixels repeated outside) and ``|p - q|`` is 1 or
    sqrt(2). Jones, Carpenter and Golland (2005), "Voronoi-based segmentation of cells on image manifolds". At equal
    cost the lower id goes first, then the lower pixel index, as in CellProfiler.

    Parameters
    ----------
    seeds
        (H, W) label image, usually nuclei. All seed pixels keep their id, inside the mask or not; growth starts from
        those inside.
    image
        (H, W) real array, best scaled to 0..1 as CellProfiler does. Non-finite pixels count as 0.
    mask
        (H, W); only non-zero pixels are reached. None: all.
    max_distance
        Largest Euclidean distance in pixels between the centre of a pixel and the nearest pixel of its own seed.
        Exact, not measured along the path.
    regularization
        Weight of distance against intensity, in the image's units per pixel, >= 0; large values give the nearest seed.

    Returns
    -------
    ndarray of int32
        Label image with the seeds' ids. If a seed is 8-connected and inside the mask, so is its region.

    Raises
    ------
    ValueError
        If shapes differ, the seeds are not a label image, or a number is negative or NaN.
    """
    if not (max_distance >= 0 and regularization >= 0):
        raise ValueError(
            f"max_distance and regularization must not be negative, got {max_distance!r} and {regularization!r}"
        )
    starts = as_labels(seeds)
    inside = _inside(mask, starts.shape)
    heights = _landscape(image, starts.shape, np.float64)
    finite = np.isfinite(heights)
    if not finite.all():
        heights = np.where(finite, heights, 0.0)
    limited = bool(np.isfinite(max_distance))
    if limited:
        squared, index = nearest(starts)
        inside &= squared <= max_distance**2
        owners = np.where(index >= 0, starts.ravel()[index], 0)
    else:
        owners = np.zeros((0, 0), np.int32)
    rims = _rims(starts) if limited else (np.zeros(0, np.int64), np.zeros(0, np.int32))
    padded = np.pad(heights, 1, mode="edge") if heights.size else heights
    return _propagate(starts, padded, inside, owners, rims, float(max_distance) ** 2, float(regularization) ** 2)  # type: ignore[no-any-return]


def _inside(mask: NDArray[Any] | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a new mask that may be written to."""
    return np.ones(shape, np.bool_) if mask is None else as_mask(mask, shape).copy()


def _landscape(image: NDArray[Any], shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    array = np.asarray(image)
    if array.shape != shape:
        raise ValueError(f"image of shape {array.shape} does not fit seeds of shape {shape}")
    return np.ascontiguousarray(array, dtype=dtype)


# The queue: a 4-ary heap (two cache lines a level) of (key, tie) pairs in two arrays; the caller keeps the size.


@inlined
def _offsets(stride: Any) -> Any:
    """List the steps to the neighbours in a flat padded image: the four edges, then the four corners."""
    return np.array([-stride, -1, 1, stride, -stride - 1, -stride + 1, stride - 1, stride + 1], np.int64)


@inlined
def _padded_state(seeds: Any, inside: Any) -> Any:
    """Image with a closed rim: seed ids inside the mask or not, 0 where growth may go, -1 where not."""
    height, width = seeds.shape
    state = np.full((height + 2, width + 2), _CLOSED, np.int32)
    for y in range(height):
        for x in range(width):
            if inside[y, x] or seeds[y, x] > 0:
                state[y + 1, x + 1] = seeds[y, x]
    return state


@inlined
def _has_open(state: Any, pixel: Any, offsets: Any, neighbours: Any) -> Any:
    for k in range(neighbours):
        if state[pixel + offsets[k]] == 0:
            return True
    return False


@inlined
def _unpadded(state: Any) -> Any:
    height, width = state.shape
    result = np.empty((height - 2, width - 2), np.int32)
    for y in range(height - 2):
        for x in range(width - 2):
            result[y, x] = max(state[y + 1, x + 1], 0)
    return result


@kernel
def _flood(priority: Any, seeds: Any, inside: Any, neighbours: Any) -> Any:
    """Give each connected part of the mask to its only seed, and flood the parts that several seeds contend for.

    Parts do not touch, so flooding one after the other gives what flooding all at once would, from a queue that is
    short enough to stay in the processor's nearest cache.
    """
    height, width = seeds.shape
    stride = width + 2
    offsets = _offsets(stride)
    starts, stops, first, names, n = find_components(inside, neighbours // 4 - 1)
    owners = _only_seeds(seeds, starts, stops, first, names, n)
    padded = np.full((height + 2, stride), _CLOSED, np.int32)
    levels = np.empty((height + 2) * stride, np.float32)  # set where it is read: in contested parts
    sizes = np.zeros(n + 1, np.int64)
    for y in range(height):
        for run in range(first[y], first[y + 1]):
            name = names[run]
            if owners[name] != _CONTESTED:
                padded[y + 1, starts[run] + 1 : stops[run] + 1] = owners[name]
                continue
            sizes[name] += stops[run] - starts[run]
            for x in range(starts[run], stops[run]):
                level = priority[y, x]
                padded[y + 1, x + 1] = seeds[y, x]
                levels[(y + 1) * stride + x + 1] = np.float32(np.inf) if np.isnan(level) else level
    state = padded.ravel()
    begins, fronts = _fronts(state, starts, stops, first, names, owners, offsets, neighbours, stride)
    # Each pixel is queued at most once. The tie is (age, pixel) in one number: ages are unique.
    keys = np.empty(max(1, sizes.max()), np.float32)
    ties = np.empty(keys.size, np.int64)
    for name in range(1, n + 1):
        age = np.int64(0)
        for i in range(begins[name], begins[name + 1]):
            push(keys, ties, age, levels[fronts[i]], (age << 32) | fronts[i])
            age += 1
        size = age
        while size > 0:
            pixel = ties[0] & 0xFFFFFFFF
            remove_first(keys, ties, size)
            size -= 1
            for k in range(neighbours):
                other = pixel + offsets[k]
                if state[other] != 0:
                    continue
                state[other] = state[pixel]
                if _has_open(state, other, offsets, neighbours):  # else there is nothing that it could reach
                    push(keys, ties, size, levels[other], (age << 32) | other)
                    size += 1
                    age += 1
    return _unpadded(padded)


@inlined
def _only_seeds(seeds: Any, starts: Any, stops: Any, first: Any, names: Any, n: Any) -> Any:
    """Find the seed of each part of the mask: 0 if it has none, `_CONTESTED` if it has several."""
    owners = np.zeros(n + 1, np.int32)
    for y in range(seeds.shape[0]):
        for run in range(first[y], first[y + 1]):
            owner = owners[names[run]]
            for x in range(starts[run], stops[run]):
                seed = seeds[y, x]
                if seed != 0 and seed != owner:
                    owner = seed if owner == 0 else _CONTESTED
            owners[names[run]] = owner
    return owners


@inlined
def _fronts(
    state: Any,
    starts: Any,
    stops: Any,
    first: Any,
    names: Any,
    owners: Any,
    offsets: Any,
    neighbours: Any,
    stride: Any,
) -> Any:
    """List the seed pixels from which growth starts, part by part, each part's in raster order."""
    begins = np.zeros(len(owners) + 1, np.int64)
    fronts = places = begins
    for filling in (False, True):
        if filling:
            begins = np.cumsum(begins)
            fronts = np.empty(begins[-1], np.int64)
            places = begins.copy()
        for y in range(len(first) - 1):
            for run in range(first[y], first[y + 1]):
                name = names[run]
                if owners[name] != _CONTESTED:
                    continue
                for x in range(starts[run], stops[run]):
                    pixel = (y + 1) * stride + x + 1
                    if state[pixel] > 0 and _has_open(state, pixel, offsets, neighbours):
                        if filling:
                            fronts[places[name]] = pixel
                            places[name] += 1
                        else:
                            begins[name + 1] += 1
    return begins, fronts


@kernel
def _rims(seeds: Any) -> Any:
    """Flat indices of the outline pixels of every id, grouped by id: begins[i]..begins[i + 1]."""
    height, width = seeds.shape
    top = 0
    for value in seeds.ravel():
        top = max(top, value)
    begins = np.zeros(top + 2, np.int64)
    rim = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            here = seeds[y, x]
            if here == 0:
                continue
            edge = y == 0 or x == 0 or y == height - 1 or x == width - 1
            if not edge:
                edge = seeds[y - 1, x] != here or seeds[y + 1, x] != here
                edge = edge or seeds[y, x - 1] != here or seeds[y, x + 1] != here
            if edge:
                rim[y, x] = True
                begins[here + 1] += 1
    begins = np.cumsum(begins)
    fill = begins.copy()
    pixels = np.empty(begins[-1], np.int32)
    for y in range(height):
        for x in range(width):
            if rim[y, x]:
                here = seeds[y, x]
                pixels[fill[here]] = y * width + x
                fill[here] += 1
    return begins, pixels


@inlined
def _near_enough(y: Any, x: Any, width: Any, name: Any, rims: Any, limit: Any) -> Any:
    """Tell whether an outline pixel of seed `name` lies within sqrt(limit)."""
    begins, pixels = rims
    for i in range(begins[name], begins[name + 1]):
        dy = pixels[i] // width - y
        dx = pixels[i] % width - x
        if dy * dy + dx * dx <= limit:
            return True
    return False


@inlined
def _step(image: Any, here: Any, there: Any, stride: Any, span: Any) -> Any:
    """Cost of one step; `span` is its squared length times the squared regularization."""
    difference = 0.0
    for row in (-stride, 0, stride):
        for column in (-1, 0, 1):
            difference += abs(image[here + row + column] - image[there + row + column])
    return np.sqrt(difference * difference + span)


@kernel
def _propagate(seeds: Any, image: Any, inside: Any, owners: Any, rims: Any, limit: Any, weight: Any) -> Any:
    height, width = seeds.shape
    stride = width + 2
    offsets = _offsets(stride)
    padded = _padded_state(seeds, inside)
    state = padded.ravel()
    heights = image.ravel()
    limited = owners.size > 0
    best = np.full(state.size, np.inf)
    keys = np.empty(max(1024, state.size // 4), np.float64)
    ties = np.empty(keys.size, np.int64)
    size = 0
    for y in range(height):
        for x in range(width):
            pixel = (y + 1) * stride + x + 1
            if state[pixel] > 0 and inside[y, x] and _has_open(state, pixel, offsets, 8):
                if size == keys.size:
                    keys, ties = doubled(keys), doubled(ties)
                push(keys, ties, size, 0.0, (np.int64(state[pixel]) << 32) | pixel)
                size += 1
                best[pixel] = 0.0
    while size > 0:
        cost = keys[0]
        tie = ties[0]
        remove_first(keys, ties, size)
        size -= 1
        pixel = tie & 0xFFFFFFFF
        name = np.int32(tie >> 32)
        if cost > best[pixel]:
            continue  # reached at less cost since this was queued
        state[pixel] = name
        for k in range(8):
            other = pixel + offsets[k]
            if state[other] != 0:
                continue
            total = cost + _step(heights, pixel, other, stride, weight if k < 4 else 2.0 * weight)
            if not total < best[other]:
                continue
            if limited:
                y = other // stride - 1
                x = other % stride - 1
                if owners[y, x] != name and not _near_enough(y, x, width, name, rims, limit):
                    continue
            best[other] = total
            if size == keys.size:
                keys, ties = doubled(keys), doubled(ties)
            push(keys, ties, size, total, (np.int64(name) << 32) | other)
            size += 1
    return _unpadded(padded)
