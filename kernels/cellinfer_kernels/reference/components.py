"""NumPy twin of `cellinfer_kernels.components`: whole-array operations repeated until nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels.components import Groups

Labels = NDArray[np.int32]

_EDGE_STEPS = [(0, 1), (0, -1), (1, 0), (-1, 0)]
_CORNER_STEPS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


def shifted(array: NDArray[Any], step: tuple[int, int], fill: Any) -> NDArray[Any]:
    """Return the array whose pixel p is `array[p + step]`, and `fill` where that lies outside."""
    padded = np.pad(array, 1, constant_values=fill)
    height, width = array.shape
    return padded[1 + step[0] : 1 + step[0] + height, 1 + step[1] : 1 + step[1] + width]


def label(mask: NDArray[Any], connectivity: int = 1) -> tuple[Labels, int]:
    """Spread the smallest pixel number of each component over it, then number components by it."""
    foreground = np.asarray(mask) != 0
    nowhere = foreground.size
    names = np.where(foreground, np.arange(foreground.size).reshape(foreground.shape), nowhere)
    steps = _EDGE_STEPS + (_CORNER_STEPS if connectivity == 2 else [])
    while True:
        smallest = np.minimum.reduce([names, *(shifted(names, step, nowhere) for step in steps)])
        updated = np.where(foreground, smallest, nowhere)
        if np.array_equal(updated, names):
            break
        names = updated
    firsts = np.unique(names[foreground])
    return np.where(foreground, np.searchsorted(firsts, names) + 1, 0).astype(np.int32), firsts.size


def compact(labels: NDArray[Any]) -> tuple[Labels, Labels]:
    """Rank every id among the ids present."""
    ids = np.setdiff1d(labels, [0]).astype(np.int32)
    return np.where(labels > 0, np.searchsorted(ids, labels) + 1, 0).astype(np.int32), ids


def relabel(labels: NDArray[Any]) -> Labels:
    """Rank every id among the ids present."""
    return compact(labels)[0]


def areas(labels: NDArray[Any]) -> tuple[Labels, NDArray[np.int64]]:
    """Count by comparison with each id."""
    ids = np.setdiff1d(labels, [0]).astype(np.int32)
    return ids, np.array([np.count_nonzero(labels == i) for i in ids], dtype=np.int64)


def remove_small(labels: NDArray[Any], min_area: int, renumber: bool = False) -> Labels:
    """Blank one id after the other."""
    result = np.array(labels, dtype=np.int32)
    for i, area in zip(*areas(labels), strict=True):
        if area < min_area:
            result[labels == i] = 0
    return relabel(result) if renumber else result


def border_ids(labels: NDArray[Any]) -> Labels:
    """Compare with an image whose border is blanked out."""
    rim = np.array(labels, dtype=np.int32)
    rim[1:-1, 1:-1] = 0
    return np.setdiff1d(rim, [0]).astype(np.int32)


def clear_border(labels: NDArray[Any]) -> Labels:
    """Blank every id of the border."""
    return np.where(np.isin(labels, border_ids(labels)), 0, labels).astype(np.int32)


def fill_holes(labels: NDArray[Any]) -> Labels:
    """Look at the ids around each background patch in turn."""
    result = np.array(labels, dtype=np.int32)
    patches, n = label(labels == 0, 1)
    for patch in range(1, n + 1):
        inside = patches == patch
        if border_ids(inside).size:
            continue
        ring = np.zeros_like(inside)
        for step in _EDGE_STEPS:
            ring |= shifted(inside, step, False)
        around = np.unique(labels[ring & ~inside])
        if around.size == 1:
            result[inside] = around[0]
    return result


def boundaries(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare the image with its four shifts, edges repeated."""
    padded = np.pad(labels, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    differs = np.logical_or.reduce([side != centre for side in around])
    outline: NDArray[np.bool_] = (centre != 0) & differs
    return outline


def group(labels: NDArray[Any]) -> Groups:
    """Look for the pixels of one id after the other."""
    ids = np.setdiff1d(labels, [0]).astype(np.int32)
    members = [np.flatnonzero(labels == i) for i in ids]
    pixels = np.concatenate([np.empty(0, np.int32), *members]).astype(np.int32)
    begins = np.cumsum([0, *(m.size for m in members)])
    runs = [run for name in ids for run in _runs(labels == name)]
    firsts = np.cumsum([0, *(len(_runs(labels == name)) for name in ids)])
    rows, starts, stops = np.array(runs, np.int32).reshape(-1, 3).T
    boxes = [_box(labels == name) for name in ids]
    return Groups(
        ids,
        begins,
        pixels,
        boundaries(labels).ravel()[pixels],
        firsts,
        rows,
        starts,
        stops,
        np.array(boxes, np.int32).reshape(-1, 4),
        (labels.shape[0], labels.shape[1]),
    )


def gather(groups: Groups, image: NDArray[Any]) -> NDArray[np.float64]:
    """Read all at once."""
    return np.asarray(image).ravel()[groups.pixels].astype(np.float64)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8))
    return [
        (y, x, x + int(np.argmax(step[x:] < 0)))
        for y, step in enumerate(steps)
        for x in np.flatnonzero(step > 0).tolist()
    ]


def _box(mask: NDArray[np.bool_]) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1]
