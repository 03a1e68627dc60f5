"""Connected components and what is done to label images: count, clean, fill, outline.

Label images are 2-D int32, 0 is background, gaps between ids are allowed and ids are kept unless a function says that
it renumbers. No function changes its input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel

__all__ = [
    "Groups",
    "areas",
    "as_labels",
    "border_ids",
    "boundaries",
    "clear_border",
    "compact",
    "fill_holes",
    "gather",
    "group",
    "label",
    "relabel",
    "remove_small",
]

Labels = NDArray[np.int32]
_INT32_MAX = np.iinfo(np.int32).max
# A look-up table indexed by id is the fast way until ids are far sparser than pixels.
_TABLE_LIMIT = 1 << 24


class Groups(NamedTuple):
    """The pixels of a label image listed object by object.

    Object `k` is `ids[k]`, has the pixels `pixels[begins[k] : begins[k + 1]]` in raster order, and the same pixels as
    horizontal runs `firsts[k] : firsts[k + 1]`. Values per pixel (n pixels in all objects) are kept in that order.
    """

    ids: NDArray[np.int32]
    """(n,) ids, ascending."""
    begins: NDArray[np.int64]
    """(n + 1,) first place of each object in `pixels`."""
    pixels: NDArray[np.int32]
    """(P,) flat indices into the image."""
    outline: NDArray[np.bool_]
    """(P,) whether the pixel is one of `boundaries`."""
    firsts: NDArray[np.int64]
    """(n + 1,) first run of each object."""
    rows: NDArray[np.int32]
    """(R,) image row of each run."""
    starts: NDArray[np.int32]
    """(R,) first column of each run."""
    stops: NDArray[np.int32]
    """(R,) column after the last of each run."""
    boxes: NDArray[np.int32]
    """(n, 4) first row, first column, row after the last, column after the last of each object."""
    shape: tuple[int, int]
    """Height and width of the image."""


def as_labels(labels: NDArray[Any]) -> Labels:
    """Return `labels` as the C-contiguous int32 image that kernels work on, copying only when needed.

    Parameters
    ----------
    labels
        2-D integer or bool array, 0 = background.

    Returns
    -------
    ndarray of int32
        The same ids.

    Raises
    ------
    ValueError
        If the array is not 2-D, not integer, or holds a negative id or one above 2**31 - 1.
    """
    array = np.asarray(labels)
    if array.ndim != 2:
        raise ValueError(f"labels must be 2-D, got shape {array.shape}")
    if array.dtype.kind not in "biu":
        raise ValueError(f"labels must be integers, got {array.dtype}")
    if array.size and array.dtype.kind != "b":
        if array.dtype.kind == "i" and array.min() < 0:
            raise ValueError(f"labels must not be negative, got {array.min()}")
        if array.dtype.itemsize >= 4 and array.dtype != np.int32 and array.max() > _INT32_MAX:
            raise ValueError(f"labels must fit int32, got {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int32)


def as_mask(mask: NDArray[Any], shape: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
    """Return `mask` as a C-contiguous 2-D bool array (non-zero is True).

    Raises
    ------
    ValueError
        If it is not 2-D, or not of `shape` where that is given.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or (shape is not None and array.shape != shape):
        raise ValueError(f"mask must be 2-D{'' if shape is None else f' of shape {shape}'}, got shape {array.shape}")
    return np.ascontiguousarray(array if array.dtype == np.bool_ else array != 0)


def label(mask: NDArray[Any], connectivity: int = 1) -> tuple[Labels, int]:
    """Give each connected component of a mask a number, in raster order of their first pixels.

    Parameters
    ----------
    mask
        2-D array; non-zero is foreground.
    connectivity
        1: pixels touch along edges; 2: corners count too.

    Returns
    -------
    labels : ndarray of int32
        0 = background, components 1..n; the numbering of `skimage.measure.label`.
    n : int
        Number of components.

    Raises
    ------
    ValueError
        If the mask is not 2-D or the connectivity is neither 1 nor 2.
    """
    if connectivity not in (1, 2):
        raise ValueError(f"connectivity must be 1 or 2, got {connectivity!r}")
    labels, n = _label(as_mask(mask), connectivity - 1)
    return labels, int(n)


@inlined
def root_of(parents: Any, node: Any) -> Any:
    """Return the root of a node of a union-find forest, shortening the way there."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]  # path halving
        node = parents[node]
    return node


@kernel
def _runs(mask: Any) -> Any:
    """List maximal horizontal runs as starts, stops and the number of the first run of each row."""
    height, width = mask.shape
    first = np.zeros(height + 1, np.int64)
    count = 0
    for y in range(height):
        before = False
        for x in range(width):
            here = mask[y, x]
            count += here and not before
            before = here
        first[y + 1] = count
    starts = np.empty(count, np.int32)
    stops = np.empty(count, np.int32)
    for y in range(height):
        run = first[y]
        if run == first[y + 1]:
            continue
        row = mask[y]
        x = 0
        while x < width:
            while x < width and not row[x]:
                x += 1
            if x == width:
                break
            starts[run] = x
            while x < width and row[x]:
                x += 1
            stops[run] = x
            run += 1
    return starts, stops, first


@kernel
def find_components(mask: Any, reach: Any) -> Any:
    """Find the connected components of a mask without painting them.

    Runs of neighbouring rows that overlap (grown by `reach` pixels: 0 for edges, 1 for corners too) are joined.

    Returns
    -------
    starts, stops : ndarray of int32
        Columns of each horizontal run, in raster order.
    first : ndarray of int64
        `first[y] : first[y + 1]` are the runs of row y.
    names : ndarray of int32
        Component of each run, 1..n in raster order of their first pixels.
    n : int
        Number of components.
    """
    height = mask.shape[0]
    starts, stops, first = _runs(mask)
    parents = np.arange(len(starts))
    for y in range(1, height):
        above = first[y - 1]
        for run in range(first[y], first[y + 1]):
            while above < first[y] and stops[above] + reach <= starts[run]:
                above += 1
            other = above
            while other < first[y] and starts[other] < stops[run] + reach:
                a = root_of(parents, other)
                b = root_of(parents, run)
                # The smaller run stays root, so a root is its component's first run in raster order.
                if a < b:
                    parents[b] = a
                else:
                    parents[a] = b
                other += 1
    names = np.empty(len(starts), np.int32)
    n = 0
    for run in range(len(starts)):
        root = root_of(parents, run)
        if root == run:
            n += 1
            names[run] = n
        else:
            names[run] = names[root]
    return starts, stops, first, names, n


@kernel
def _label(mask: Any, reach: Any) -> Any:
    height, width = mask.shape
    starts, stops, first, names, n = find_components(mask, reach)
    labels = np.zeros((height, width), np.int32)
    for y in range(height):
        for run in range(first[y], first[y + 1]):
            labels[y, starts[run] : stops[run]] = names[run]
    return labels, n


@kernel
def _largest(labels: Any) -> Any:
    best = np.int32(0)
    for value in labels.ravel():
        best = max(best, value)
    return best


@kernel
def _count(labels: Any, size: Any) -> Any:
    """Count pixels per id; runs of one id are counted before they are written."""
    counts = np.zeros(size, np.int64)
    flat = labels.ravel()
    i = 0
    while i < flat.size:
        value = flat[i]
        begin = i
        while i < flat.size and flat[i] == value:
            i += 1
        counts[value] += i - begin
    return counts


@kernel
def _translate(labels: Any, table: Any) -> Any:
    result = np.empty_like(labels)
    source = labels.ravel()
    target = result.ravel()
    for i in range(source.size):
        target[i] = table[source[i]]
    return result


def compact(labels: NDArray[Any]) -> tuple[Labels, Labels]:
    """Renumber ids to 1..n in their order and tell what they were.

    Parameters
    ----------
    labels
        2-D label image.

    Returns
    -------
    sequential : ndarray of int32
        Same objects numbered 1..n.
    ids : ndarray of int32
        `ids[k - 1]` is the former id of object `k`; ascending.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    top = int(_largest(image))
    if top > max(_TABLE_LIMIT, image.size):
        present, inverse = np.unique(image, return_inverse=True)
        shift = int(present[0] != 0)
        return (inverse.reshape(image.shape) + shift).astype(np.int32), present[present > 0]
    counts = _count(image, top + 1)
    ids = (np.flatnonzero(counts[1:]) + 1).astype(np.int32)
    if ids.size == top:
        return image.copy(), ids
    table = np.zeros(top + 1, np.int32)
    table[ids] = np.arange(1, ids.size + 1)
    return _translate(image, table), ids


def relabel(labels: NDArray[Any]) -> Labels:
    """Return the same objects numbered 1..n without gaps, in the order of their ids.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    return compact(labels)[0]


def areas(labels: NDArray[Any]) -> tuple[Labels, NDArray[np.int64]]:
    """Count the pixels of every object.

    Parameters
    ----------
    labels
        2-D label image.

    Returns
    -------
    ids : ndarray of int32
        The ids that occur, ascending, without 0.
    areas : ndarray of int64
        Pixels of each.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    top = int(_largest(image))
    if top > max(_TABLE_LIMIT, image.size):
        present, sizes = np.unique(image[image > 0], return_counts=True)
        return present, sizes.astype(np.int64)
    counts = _count(image, top + 1)
    counts[0] = 0
    ids = np.flatnonzero(counts)
    return ids.astype(np.int32), counts[ids]


def _without(labels: NDArray[Any], doomed: NDArray[np.int32]) -> Labels:
    """Copy of a label image in which the `doomed` ids (present in it) are background."""
    sequential, ids = compact(labels)
    table = np.concatenate([np.zeros(1, np.int32), np.where(np.isin(ids, doomed), np.int32(0), ids)])
    return _translate(sequential, table)  # type: ignore[no-any-return]


def remove_small(labels: NDArray[Any], min_area: int, renumber: bool = False) -> Labels:
    """Remove objects of fewer than `min_area` pixels; the others keep their ids.

    Parameters
    ----------
    labels
        2-D label image.
    min_area
        Fewest pixels of an object that stays.
    renumber
        Number what stays 1..n instead, in the order of the ids, as `relabel` does.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    top = int(_largest(image))
    if top > max(_TABLE_LIMIT, image.size):
        ids, sizes = areas(image)
        kept = _without(image, ids[sizes < min_area])
        return relabel(kept) if renumber else kept
    counts = _count(image, top + 1)
    stays = (counts >= min_area) & (counts > 0)
    stays[0] = False
    table = np.cumsum(stays, dtype=np.int32) if renumber else np.arange(top + 1, dtype=np.int32)
    table[~stays] = 0
    return _translate(image, table)  # type: ignore[no-any-return]


def border_ids(labels: NDArray[Any]) -> Labels:
    """Return the ids, ascending, of the objects with a pixel in the first or last row or column.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    if not image.size:
        return np.empty(0, np.int32)
    ids = np.unique(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    return ids[ids > 0]


def clear_border(labels: NDArray[Any]) -> Labels:
    """Remove the objects that `border_ids` names; the others keep their ids.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    return _without(labels, border_ids(labels))


def fill_holes(labels: NDArray[Any]) -> Labels:
    """Give every hole to the object around it.

    A hole is an edge-connected patch of background that does not reach the image border and has one single object
    along all its edges. A gap between two objects, or one with another object inside, is not a hole.

    Parameters
    ----------
    labels
        2-D label image.

    Returns
    -------
    ndarray of int32
        The same objects without holes.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    return _fill(image, image == 0)  # type: ignore[no-any-return]


@inlined
def _claim(owners: Any, patch: Any, neighbour: Any) -> Any:
    """Note that object `neighbour` touches a patch: its only owner so far, or one too many (-1)."""
    if neighbour != 0 and owners[patch] != neighbour:
        owners[patch] = neighbour if owners[patch] == 0 else -1


@kernel
def _fill(labels: Any, background: Any) -> Any:
    height, width = labels.shape
    starts, stops, first, names, n = find_components(background, 0)
    owners = np.zeros(n + 1, np.int32)
    for y in range(height):
        for run in range(first[y], first[y + 1]):
            patch = names[run]
            start, stop = starts[run], stops[run]
            if y == 0 or start == 0 or y == height - 1 or stop == width:
                owners[patch] = -1
            if owners[patch] == -1:
                continue
            _claim(owners, patch, labels[y, start - 1])
            _claim(owners, patch, labels[y, stop])
            for x in range(start, stop):
                _claim(owners, patch, labels[y - 1, x])
                _claim(owners, patch, labels[y + 1, x])
    result = labels.copy()
    for y in range(height):
        for run in range(first[y], first[y + 1]):
            owner = owners[names[run]]
            if owner > 0:
                result[y, starts[run] : stops[run]] = owner
    return result


def boundaries(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the object pixels that have an edge neighbour of another id or of background.

    The image border is no boundary: `skimage.segmentation.find_boundaries(labels, mode="inner")`.

    Parameters
    ----------
    labels
        2-D label image.

    Returns
    -------
    ndarray of bool
        True on the innermost outline of every object.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    return _boundaries(as_labels(labels))  # type: ignore[no-any-return]


@kernel
def _boundaries(labels: Any) -> Any:
    height, width = labels.shape
    result = np.zeros((height, width), np.bool_)
    for y in range(height):
        row = labels[y]
        above = labels[max(y - 1, 0)]
        below = labels[min(y + 1, height - 1)]
        for x in range(width):
            here = row[x]
            left = row[max(x - 1, 0)]
            right = row[min(x + 1, width - 1)]
            differs = (above[x] != here) | (below[x] != here) | (left != here) | (right != here)
            result[y, x] = (here != 0) & differs
    return result


def group(labels: NDArray[Any]) -> Groups:
    """List the pixels of every object, by one counting sort of its horizontal runs.

    Parameters
    ----------
    labels
        2-D label image of fewer than 2**31 pixels.

    Returns
    -------
    Groups
        Ids, places, pixels and runs.

    Raises
    ------
    ValueError
        As `as_labels`.
    """
    image = as_labels(labels)
    names, rows, starts, stops = _label_runs(image)
    ids, places = _ranked(names)
    firsts, rows, starts, stops = _sorted_runs(places, ids.size, rows, starts, stops)
    begins, pixels, outline, boxes = _unfold(image, firsts, rows, starts, stops)
    height, width = image.shape
    return Groups(ids, begins, pixels, outline, firsts, rows, starts, stops, boxes, (height, width))


def _ranked(names: Labels) -> tuple[Labels, Labels]:
    """Return the ids that occur among the runs' names, ascending, and the place of each run's name among them."""
    top = int(names.max(initial=0))
    if top > max(_TABLE_LIMIT, names.size):
        ids, places = np.unique(names, return_inverse=True)
        return ids, places.astype(np.int32)
    present = np.zeros(top + 1, np.bool_)
    present[names] = True
    ids = np.flatnonzero(present).astype(np.int32)
    table = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return ids, table[names]


@kernel
def _label_runs(labels: Any) -> Any:
    """List the horizontal runs of one id in raster order: id, row, first column, column after the last."""
    height, width = labels.shape
    count = 0
    for y in range(height):
        row = labels[y]
        if width > 0:
            count += int(row[0] != 0)
        for x in range(1, width):
            count += int((row[x] != 0) & (row[x] != row[x - 1]))
    names = np.empty(count, np.int32)
    rows = np.empty(count, np.int32)
    starts = np.empty(count, np.int32)
    stops = np.empty(count, np.int32)
    run = 0
    for y in range(height):
        row = labels[y]
        x = 0
        while x < width:
            name = row[x]
            if name == 0:
                x += 1
                continue
            names[run] = name
            rows[run] = y
            starts[run] = x
            while x < width and row[x] == name:
                x += 1
            stops[run] = x
            run += 1
    return names, rows, starts, stops


@kernel
def _sorted_runs(places: Any, n: Any, rows: Any, starts: Any, stops: Any) -> Any:
    """Sort runs by object, keeping their order within each."""
    firsts = np.zeros(n + 1, np.int64)
    for place in places:
        firsts[place + 1] += 1
    firsts = np.cumsum(firsts)
    fill = firsts.copy()
    sorted_rows = np.empty_like(rows)
    sorted_starts = np.empty_like(starts)
    sorted_stops = np.empty_like(stops)
    for run in range(places.size):
        place = fill[places[run]]
        fill[places[run]] += 1
        sorted_rows[place] = rows[run]
        sorted_starts[place] = starts[run]
        sorted_stops[place] = stops[run]
    return firsts, sorted_rows, sorted_starts, sorted_stops


@kernel
def _unfold(labels: Any, firsts: Any, rows: Any, starts: Any, stops: Any) -> Any:
    """List the pixels of the runs, whether they lie on the outline, and the objects' boxes."""
    height, width = labels.shape
    n = firsts.size - 1
    begins = np.zeros(n + 1, np.int64)
    boxes = np.empty((n, 4), np.int32)
    total = 0
    for k in range(n):
        left = np.int32(width)
        right = np.int32(0)
        for run in range(firsts[k], firsts[k + 1]):
            left = min(left, starts[run])
            right = max(right, stops[run])
            total += stops[run] - starts[run]
        begins[k + 1] = total
        boxes[k, 0] = rows[firsts[k]]
        boxes[k, 1] = left
        boxes[k, 2] = rows[firsts[k + 1] - 1] + 1
        boxes[k, 3] = right
    pixels = np.empty(total, np.int32)
    outline = np.empty(total, np.bool_)
    flat = labels.ravel()
    i = np.int64(0)
    for run in range(rows.size):
        start = starts[run]
        stop = stops[run]
        base = np.int64(rows[run]) * width
        above = -width if rows[run] > 0 else 0
        below = width if rows[run] < height - 1 else 0
        name = flat[base + start]
        here = base + start
        length = np.int64(stop - start)
        upper = flat[here + above : here + above + length]  # views: so that the loop is vectorised
        lower = flat[here + below : here + below + length]
        places = pixels[i : i + length]
        rim = outline[i : i + length]
        for x in range(length):
            places[x] = here + x
            rim[x] = (upper[x] != name) | (lower[x] != name)
        if start > 0:
            outline[i] = True
        i += length
        if stop < width:
            outline[i - 1] = True
    return begins, pixels, outline, boxes


_GATHERED = ("uint8", "uint16", "float32", "float64")
# Each pixel type costs a compilation; others are converted first.


def gather(groups: Groups, image: NDArray[Any]) -> NDArray[np.float64]:
    """Read an image at the listed pixels.

    Parameters
    ----------
    groups
        The objects, from `group`.
    image
        2-D real array of the same shape.

    Returns
    -------
    ndarray of float64
        (P,) values in the order of `groups.pixels`.

    Raises
    ------
    ValueError
        If the image has another shape than the label image.
    """
    plane = np.asarray(image)
    if plane.shape != groups.shape:
        raise ValueError(f"image of shape {plane.shape} does not fit labels of shape {groups.shape}")
    kind = plane.dtype.name if plane.dtype.name in _GATHERED else "float64"
    values = np.empty(groups.pixels.size)  # by NumPy, which asks for large pages; Numba does not
    _gather(np.ascontiguousarray(plane, dtype=kind), groups.rows, groups.starts, groups.stops, values)
    return values


@kernel
def _gather(image: Any, rows: Any, starts: Any, stops: Any, values: Any) -> Any:
    flat = image.ravel()
    width = np.int64(image.shape[1])
    i = np.int64(0)
    for run in range(rows.size):
        here = rows[run] * width + starts[run]
        length = np.int64(stops[run] - starts[run])
        source = flat[here : here + length]  # views keep the loop free of index arithmetic, so that it is vectorised
        target = values[i : i + length]
        for x in range(length):
            target[x] = source[x]
        i += length
