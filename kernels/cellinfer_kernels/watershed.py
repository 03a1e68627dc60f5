"""Growth of seeds into regions: priority-flood watershed and CellProfiler's Propagation.

Both are exact and deterministic: a priority queue ordered by value and then by a stated tie rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._heap import doubled, push, remove_first
from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Labels, as_labels, as_mask, compact, find_components
from cellinfer_kernels.distance import add_parabola, half_widths, nearest_rows

__all__ = ["expand", "flood", "propagate"]

_CLOSED = -1
_CONTESTED = -1

_MOST_SEEDS = (1 << 23) - 1
_UNREACHED = (1 << 63) - 1
_FINEST = 256
# The units of the dearest step: it leads 191 buckets ahead, and so stays within a ring of 256 while one band is as much
# as `_PHASE` buckets ahead of another.
_DEAREST = 191 * 256
_PHASE = 64
_BAND = 64
_CHUNK = 16
_ROOM = 8 * (_CHUNK - 1) * _CHUNK
"""Words that a chunk's pixels may need for their neighbours."""


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
    sqrt(2). Jones, Carpenter and Golland (2005), "Voronoi-based segmentation of cells on image manifolds".

    The cost of a step is rounded to a whole number of units, at least one. A unit is the 256th part of the
    regularization or the 48,896th part of nine times the image's range, whichever is larger: the former for an image
    within 0..1 and a regularization of at least 0.048. Whole numbers add up exactly, whatever the order, so that equal
    costs are equal; the lowest id that reaches a pixel at its least cost has it. CellProfiler adds up rounded real
    numbers, and parts about 5 pixels in 100,000 otherwise.

    Parameters
    ----------
    seeds
        (H, W) label image, usually nuclei, of fewer than 2**31 pixels. All seed pixels keep their id, inside the mask
        or not; growth starts from those inside.
    image
        (H, W) real array, compared as float32; best scaled and clipped to 0..1. Non-finite pixels count as 0.
    mask
        (H, W); only non-zero pixels are reached. None: all.
    max_distance
        Largest Euclidean distance in pixels between the centre of a pixel and the nearest pixel of its own seed.
        Exact, not measured along the path.
    regularization
        Weight of distance against intensity, in the image's units per pixel, finite and >= 0; large values give the
        nearest seed.

    Returns
    -------
    ndarray of int32
        Label image with the seeds' ids. If a seed is 8-connected and inside the mask, so is its region.

    Raises
    ------
    ValueError
        If shapes differ, the seeds are not a label image or more than 8,388,607, a number is negative or NaN, or the
        regularization infinite.
    """
    if not (max_distance >= 0 and 0 <= regularization < np.inf):
        raise ValueError(
            "max_distance and regularization must not be negative, nor regularization infinite, "
            f"got {max_distance!r} and {regularization!r}"
        )
    starts = as_labels(seeds)
    mask = np.ones(starts.shape, np.bool_) if mask is None else as_mask(mask, starts.shape)
    heights = _landscape(image, starts.shape, np.float32)
    top = int(starts.max(initial=0))
    if top == 0:
        return starts.copy()
    if top > _MOST_SEEDS:
        starts, ids = compact(starts)
        if ids.size > _MOST_SEEDS:
            raise ValueError(f"there must be at most {_MOST_SEEDS:,} seeds, got {ids.size:,}")
        return np.concatenate([np.zeros(1, np.int32), ids])[
            propagate(starts, heights, mask, max_distance, regularization)
        ]
    # NumPy, not a kernel, allocates what is large: it asks for huge pages, which are quicker to get and to find.
    padded = np.empty((starts.shape[0] + 2, starts.shape[1] + 2), np.float32)
    lowest, highest = _add_edges(heights, padded)
    unit = max(regularization / _FINEST, 9 * (highest - lowest) / _DEAREST) or 1.0
    across = regularization / unit
    steps = np.empty(padded.shape, np.uint64)
    _find_steps(padded, np.float32(1 / unit), np.float32(across**2), np.float32(2 * across**2), steps)
    fineness = max(1, int(across + 0.5)).bit_length() - 1
    if max_distance < np.hypot(*starts.shape):
        reach = _reach(starts, top, half_widths(max_distance, starts.shape))
    else:
        reach = _EVERYWHERE
    best = np.empty(padded.size, np.int64)
    result = np.empty_like(starts)
    _propagate(starts, mask, steps, reach, top.bit_length(), fineness, best, result)
    return result


def expand(seeds: NDArray[Any], max_distance: float) -> Labels:
    """Grow seeds evenly: every pixel within reach goes to the nearest seed, as `skimage.segmentation.expand_labels`.

    CellProfiler's IdentifySecondaryObjects "Distance - N" does the same.

    Parameters
    ----------
    seeds
        (H, W) label image of fewer than 2**31 pixels.
    max_distance
        Largest Euclidean distance in pixels between the centre of a pixel and the nearest pixel of its seed, exact.

    Returns
    -------
    ndarray of int32
        Label image with the seeds' ids. Of equally near seeds the one with the pixel in the leftmost column has it, and
        there the uppermost.

    Raises
    ------
    ValueError
        If the seeds are not a label image, or the distance is negative or NaN.
    """
    starts = as_labels(seeds)
    halves = half_widths(max_distance, starts.shape)
    limit = min(float(max_distance), float(sum(starts.shape))) ** 2
    return _expand(starts, limit, halves.size - 1)  # type: ignore[no-any-return]


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


# Propagation. The cheapest pixel could be taken from a heap, one at a time. But as no step costs less than the step
# over a flat image, all pixels within so much of the cheapest are final, and can be taken in any order. So costs are
# sorted into buckets no wider than that. Within the same bounds, a bucket may be emptied in one part of the image while
# another part lags behind, see `_propagate`.


@kernel
def _add_edges(image: Any, result: Any) -> Any:
    """Repeat the outermost pixels once around, with 0 for what is not finite; return the least and greatest pixel."""
    height, width = image.shape
    lowest = np.float32(np.inf)
    highest = np.float32(-np.inf)
    for y in range(height):
        source = image[y]
        target = result[y + 1, 1:-1]
        for x in range(width):
            value = source[x] if abs(source[x]) < np.inf else np.float32(0)
            target[x] = value
            lowest = min(lowest, value)
            highest = max(highest, value)
        result[y + 1, 0] = target[0]
        result[y + 1, -1] = target[-1]
    result[0] = result[1]
    result[-1] = result[-2]
    return np.float64(lowest), np.float64(highest)


@inlined
def _cost(difference: Any, scale: Any, span: Any) -> Any:
    """Return the units that a step costs; `span` is its squared length in units."""
    scaled = difference * scale
    rounded = np.sqrt(scaled * scaled + span) + np.float32(0.5)
    return np.uint64(np.int32(max(min(rounded, np.float32(_DEAREST)), np.float32(1))))


@kernel
def _find_steps(image: Any, scale: Any, straight: Any, diagonal: Any, costs: Any) -> Any:
    """Write what steps cost from each pixel right, down left, down, and down right: 16 bits each, the lowest first."""
    height, width = image.shape
    # Sums over three rows of the differences between each pixel and the one right of it, and so on.
    right = np.zeros(width, np.float32)
    down_left = np.zeros(width, np.float32)
    down = np.zeros(width, np.float32)
    down_right = np.zeros(width, np.float32)
    for y in range(1, height - 1):
        a, b, c, d = image[y - 1], image[y], image[y + 1], image[min(y + 2, height - 1)]
        for x in range(width):
            down[x] = abs(a[x] - b[x]) + abs(b[x] - c[x]) + abs(c[x] - d[x])
        a1, b1, c1, d1 = a[1:], b[1:], c[1:], d[1:]
        to_left = down_left[1:]
        for x in range(width - 1):
            right[x] = abs(a[x] - a1[x]) + abs(b[x] - b1[x]) + abs(c[x] - c1[x])
            down_right[x] = abs(a[x] - b1[x]) + abs(b[x] - c1[x]) + abs(c[x] - d1[x])
            to_left[x] = abs(a1[x] - b[x]) + abs(b1[x] - c[x]) + abs(c1[x] - d[x])
        right1, down_left1, down1, down_right1 = right[1:], down_left[1:], down[1:], down_right[1:]
        right2, down_left2, down2, down_right2 = right[2:], down_left[2:], down[2:], down_right[2:]
        row = costs[y, 1:]
        for x in range(width - 2):
            row[x] = (
                _cost(right[x] + right1[x] + right2[x], scale, straight)
                | _cost(down_left[x] + down_left1[x] + down_left2[x], scale, diagonal) << np.uint64(16)
                | _cost(down[x] + down1[x] + down2[x], scale, straight) << np.uint64(32)
                | _cost(down_right[x] + down_right1[x] + down_right2[x], scale, diagonal) << np.uint64(48)
            )


class _Reach(NamedTuple):
    """Where each seed may grow to: the columns of the padded image in each of its rows."""

    begins: NDArray[np.int64]
    """(ids + 1,) what to add to a padded row to find a seed's entry for it; empty if there is no limit."""
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    """(entries,) first and last column near enough; left > right if there is none."""
    gaps: NDArray[np.bool_]
    """(entries,) True if some columns between them may be too far."""
    halves: NDArray[np.int32]
    """(2 * reach + 1,) how far a pixel reaches to each side in the rows from `reach` rows above it to as many below."""


_EVERYWHERE = _Reach(
    np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.bool_), np.zeros(0, np.int32)
)


def _reach(seeds: Labels, top: int, widths: NDArray[np.int32]) -> _Reach:
    """Find the pixels near enough to each seed; `widths` as from `half_widths`."""
    halves = np.concatenate([widths[:0:-1], widths])
    begins, left, right, gaps = _reached_columns(seeds, top, halves)
    return _Reach(begins, left, right, gaps, halves)


@kernel
def _reached_columns(seeds: Any, top: Any, halves: Any) -> Any:
    height, width = seeds.shape
    reach = halves.size // 2
    first = np.full(top + 1, height, np.int64)
    last = np.full(top + 1, -1, np.int64)
    for y in range(height):
        before = 0
        for x in range(width):
            name = seeds[y, x]
            if name != before:
                first[name] = min(first[name], y)
                last[name] = y
                before = name
    # One empty entry above and below: growth that arrives from within looks no farther.
    begins = np.zeros(top + 1, np.int64)
    entries = 0
    for name in range(1, top + 1):
        if last[name] >= 0:
            above = max(0, first[name] - reach)
            begins[name] = entries - above
            entries += min(height - 1, last[name] + reach) - above + 3
    left = np.full(entries, 2147483647, np.int32)
    right = np.full(entries, -1, np.int32)
    gaps = np.zeros(entries, np.bool_)
    for y in range(height):
        row = seeds[y]
        up = min(reach, y)
        down = min(reach, height - 1 - y)
        x = 0
        while x < width:
            name = row[x]
            start = x
            while x < width and row[x] == name:
                x += 1
            if name == 0:
                continue
            entry = begins[name] + y + 1 - up
            _widen(left[entry:], right[entry:], gaps[entry:], halves[reach - up : reach + down + 1], start + 1, x)
    return begins, left, right, gaps


@inlined
def _widen(left: Any, right: Any, gaps: Any, halves: Any, start: Any, last: Any) -> Any:
    """Add what a run of columns start..last reaches in the rows around it."""
    start = np.int32(start)
    last = np.int32(last)
    for i in range(halves.size):
        begin = start - halves[i]
        end = last + halves[i]
        gaps[i] |= (right[i] >= 0) & ((begin > right[i] + 1) | (end < left[i] - 1))
        left[i] = min(left[i], begin)
        right[i] = max(right[i], end)


@inlined
def _near_enough(seeds: Any, name: Any, y: Any, x: Any, halves: Any) -> Any:
    """Tell whether a pixel of seed `name` is in reach, looking in the nearest rows first."""
    height, width = seeds.shape
    reach = halves.size // 2
    for away in range(reach + 1):
        half = halves[reach + away]
        for row in (y - away, y + away):
            if 0 <= row < height:
                for column in range(max(0, x - half), min(width, x + half + 1)):
                    if seeds[row, column] == name:
                        return True
    return False


@inlined
def _openings(seeds: Any, mask: Any, best: Any) -> Any:
    """Write (cost, id) of every pixel before growth, padded and flat; return the seed pixels from which growth starts.

    Ids are in the lowest bits. Pixels that are closed have less than any offer, pixels to be reached more.
    """
    height, width = seeds.shape
    stride = width + 2
    best[:stride] = 0
    best[-stride:] = 0
    for y in range(height):
        row = best[(y + 1) * stride : (y + 2) * stride]
        row[0] = row[-1] = 0
        for x in range(width):
            row[x + 1] = (seeds[y, x] if seeds[y, x] > 0 else _UNREACHED) if mask[y, x] else 0
    offsets = _offsets(stride)
    fronts = np.empty(best.size, np.uint32)
    count = 0
    for pixel in range(stride, best.size - stride):
        if 0 < best[pixel] < _UNREACHED:
            for k in range(8):
                if best[pixel + offsets[k]] == _UNREACHED:
                    fronts[count] = pixel
                    count += 1
                    break
    return fronts[:count]


@kernel
def _propagate(
    seeds: Any, mask: Any, steps: Any, reach: Any, name_bits: Any, fineness: Any, best: Any, result: Any
) -> Any:
    """Empty bucket after bucket of pixels at nearly equal cost, band by band of the image.

    No step costs less than a bucket is wide. So a pixel's cost is final when its bucket comes up: pixels of the same
    bucket are too near in cost to make each other cheaper.

    To keep what is worked on in the processor's cache, `_PHASE` buckets in a row are emptied in one band of rows, then
    in the band below, and so on. The bands move up by one row from bucket to bucket. So a pixel, with its row y and
    bucket k, is in band (y + k) // _BAND, and whatever makes a neighbour of it cheaper has a lower k and no higher
    y + k: it is in the same band or in one above, and has been done. The order of phases, bands and buckets
    has no influence on the result.

    Buckets are chains of chunks of 16 words in one pool: the place of the next older chunk, and 15 pixels. `tails` has
    the place behind the last pixel of each; a multiple of 16 says that the chunk is full, 0 that there is none.
    """
    height, width = seeds.shape
    stride = width + 2
    fronts = _openings(seeds, mask, best)
    costs = steps.ravel().view(np.uint16)
    begins, left, right, gaps, halves = reach
    limited = begins.size > 0
    bits = np.uint64(name_bits)
    shift = np.int64(name_bits + fineness)
    names = (np.int64(1) << name_bits) - 1
    ring = 65536 >> fineness
    bands = (height + _PHASE - 1) // _BAND + 1
    tails = np.zeros(bands * ring, np.uint32)
    awake = np.zeros(tails.size // _PHASE, np.bool_)  # whether a band has pixels in a phase
    pool = np.empty(best.size // 2 + 2 * fronts.size + _ROOM, np.uint32)  # all fronts, and what else usually waits
    used = np.uint32(_CHUNK)  # the first chunk is never used: nothing has 0 for its place
    free = np.uint32(0)
    # Costs of steps that lead right or down lie at the pixel, the others at the pixel they lead to.
    offsets = np.array([1, stride - 1, stride, stride + 1, -1, 1 - stride, -stride, -stride - 1], np.int64)
    hops = offsets.view(np.uint64)
    places = np.array([0, 0, 0, 0, -1, 1 - stride, -stride, -stride - 1], np.int64).view(np.uint64)
    fields = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.uint64)
    rows = np.array([0, 1, 1, 1, 0, -1, -1, -1], np.int64)
    for pixel in fronts:
        band = np.int64(pixel) // stride // _BAND
        awake[band * ring // _PHASE] = True
        used, free = _enter(pool, tails, np.uint64(band * ring), pixel, used, free)
    due = np.empty(_CHUNK, np.uint64)
    waiting = fronts.size
    phase = 0
    while waiting > 0:
        for band in range(bands):
            slot = (band * ring + (phase & (ring - 1))) // _PHASE
            if not awake[slot]:
                continue
            awake[slot] = False
            for bucket in range(phase, phase + _PHASE):
                place = np.uint64(band * ring + (bucket & (ring - 1)))
                end = tails[place]
                tails[place] = 0
                while end > 0:
                    chunk = (end - np.uint32(1)) & ~np.uint32(_CHUNK - 1)
                    if np.int64(used) + _ROOM > pool.size:
                        if pool.size >= 1 << 31:
                            raise OverflowError("more pixels are waiting than can be numbered")
                        pool = doubled(pool)
                    waiting -= np.int64(end - chunk) - 1
                    count = np.uint64(0)
                    for i in range(np.uint64(chunk) + np.uint64(1), np.uint64(end)):
                        due[count] = pool[i]
                        # Else it was reached at less cost, and expanded, since this was noted.
                        count += np.uint64(best[np.uint64(pool[i])] >> shift == bucket)
                    for i in range(count):
                        pixel = due[i]
                        here = best[pixel]
                        name = here & names
                        y = np.int64(np.uint32(pixel) // np.uint32(stride))
                        for k in range(np.uint64(8)):
                            other = pixel + hops[k]
                            cost = np.uint64(costs[((pixel + places[k]) << np.uint64(2)) + fields[k]])
                            offer = here + np.int64(cost << bits)
                            current = best[other]
                            if offer >= current:
                                continue
                            row = y + rows[k]
                            if limited:
                                entry = begins[name] + row
                                column = np.int64(other) - row * stride
                                if column < left[entry] or column > right[entry]:
                                    continue
                                if gaps[entry] and not _near_enough(seeds, name, row - 1, column - 1, halves):
                                    continue
                            best[other] = offer
                            target = offer >> shift
                            if target != current >> shift:  # else it is there already
                                below = (row + (target & (_PHASE - 1))) // _BAND
                                later = below * ring + (target & (ring - 1))
                                awake[later // _PHASE] = True
                                used, free = _enter(pool, tails, np.uint64(later), np.uint32(other), used, free)
                                waiting += 1
                    end = pool[chunk]
                    pool[chunk] = free
                    free = chunk
        phase += _PHASE
    _write_names(seeds, best, names, result)


@inlined
def _write_names(seeds: Any, best: Any, names: Any, result: Any) -> Any:
    height, width = seeds.shape
    for y in range(height):
        reached = best[(y + 1) * (width + 2) + 1 : (y + 2) * (width + 2) - 1]
        for x in range(width):
            found = reached[x] & names if reached[x] != _UNREACHED else 0
            result[y, x] = seeds[y, x] if seeds[y, x] > 0 else found


@inlined
def _enter(pool: Any, tails: Any, bucket: Any, pixel: Any, used: Any, free: Any) -> Any:
    """Put a pixel into a bucket; return where the pool's unused end begins, and the first of the chunks given back."""
    place = tails[bucket]
    if place & np.uint32(_CHUNK - 1) == 0:
        if free > 0:
            chunk = free
            free = pool[chunk]
        else:
            chunk = used
            used += np.uint32(_CHUNK)
        pool[chunk] = place
        place = chunk + np.uint32(1)
    pool[place] = pixel
    tails[bucket] = place + np.uint32(1)
    return used, free


@kernel
def _expand(seeds: Any, limit: Any, reach: Any) -> Any:
    """Find the nearest seed pixel as `cellinfer_kernels.distance.nearest` does, where there is one in reach."""
    height, width = seeds.shape
    rows = nearest_rows(seeds)
    result = seeds.copy()
    sites = np.empty(width, np.int64)
    heights = np.empty(width, np.float64)
    begins = np.empty(width, np.float64)
    for y in range(height):
        row = seeds[y]
        count = 0
        for x in range(width):
            if row[x] > 0 and 0 < x < width - 1 and row[x - 1] > 0 and row[x + 1] > 0:
                continue  # whatever is not a seed itself has a nearer one
            away = np.int64(abs(rows[y, x] - y))
            if rows[y, x] >= 0 and away <= reach:
                count = add_parabola(sites, heights, begins, count, x, np.float64(away * away))
        if count == 0:
            continue
        current = 0
        for x in range(width):
            if row[x] > 0:
                continue
            while current + 1 < count and begins[current + 1] < x:
                current += 1
            site = sites[current]
            if heights[current] + (x - site) * (x - site) <= limit:
                result[y, x] = seeds[rows[y, site], site]
    return result
