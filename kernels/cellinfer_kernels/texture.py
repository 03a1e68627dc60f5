"""Haralick's texture features of all objects: which grey levels lie next to which.

For each object, direction and scale the pairs of pixels are counted in a co-occurrence matrix (Haralick et al. 1973),
each unordered pair once, and the 13 features follow from the cells that were hit. With more possible cells than pairs
only the cells that were hit are visited and cleared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels.components import Groups

__all__ = ["DIRECTIONS", "FEATURES", "grey_levels", "haralick"]

FEATURES = (
    "AngularSecondMoment",
    "Contrast",
    "Correlation",
    "Variance",
    "InverseDifferenceMoment",
    "SumAverage",
    "SumVariance",
    "SumEntropy",
    "Entropy",
    "DifferenceVariance",
    "DifferenceEntropy",
    "InfoMeas1",
    "InfoMeas2",
)
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (rows, columns) to the partner, times the scale; CellProfiler's directions 00 to 03."""


def grey_levels(values: NDArray[np.float64], largest: float, levels: int = 256) -> NDArray[np.uint8]:
    """Quantise a channel as CellProfiler does.

    Parameters
    ----------
    values
        (P,) values in the image's own units.
    largest
        Value of a saturated pixel, which becomes 255; all above it too.
    levels
        Number of grey levels, 2 to 256; fewer than 256 are made of the 256 by rounding down.

    Returns
    -------
    ndarray of uint8
        (P,) 0 .. levels - 1; 0 (left out of all pairs) for negative and non-finite values too.

    Raises
    ------
    ValueError
        If there are fewer than 2 or more than 256 levels, or `largest` is not positive.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"there must be 2 to 256 grey levels, got {levels}")
    if not largest > 0:
        raise ValueError(f"the largest value must be positive, got {largest}")
    return _grey_levels(np.ascontiguousarray(values, np.float64), float(largest), levels)  # type: ignore[no-any-return]


def haralick(groups: Groups, greys: NDArray[np.uint8], scales: Sequence[int] = (3,)) -> NDArray[np.float64]:
    """Measure the texture of every object.

    Parameters
    ----------
    groups
        The objects.
    greys
        (P,) grey levels of their pixels, from `grey_levels`.
    scales
        Distances of the pairs, pixels, each at least 1.

    Returns
    -------
    ndarray of float64
        (scales, directions, features, n), in the order of `DIRECTIONS` and `FEATURES`. Entropies in bits. NaN for
        an object that has no pair of non-zero pixels in one of the directions of the scale.

    Raises
    ------
    ValueError
        If a scale is below 1.
    """
    steps = np.asarray(scales, np.int64)
    if steps.ndim != 1 or (steps < 1).any():
        raise ValueError(f"scales must be whole numbers of pixels from 1, got {scales}")
    largest_area = int(np.diff(groups.begins).max(initial=0))
    counts = np.arange(2 * largest_area + 2, dtype=np.float64)
    surprise = counts * np.log2(np.maximum(counts, 1))  # n log2 n: entropies need no logarithm per cell
    return _haralick(  # type: ignore[no-any-return]
        groups.begins, groups.firsts, groups.rows, groups.starts, groups.stops, groups.boxes, greys, steps, surprise
    )


@kernel
def _grey_levels(values: Any, largest: Any, levels: Any) -> Any:
    greys = np.zeros(values.size, np.uint8)
    for i in range(values.size):
        level = np.rint(values[i] / largest * 255.0)
        if 0 < level < np.inf:  # false for NaN
            level = min(level, 255.0)
            greys[i] = np.uint8(level) if levels == 256 else np.uint8(level / 255.0 * (levels - 1))
    return greys


@kernel
def _haralick(
    begins: Any, firsts: Any, rows: Any, starts: Any, stops: Any, boxes: Any, greys: Any, scales: Any, surprise: Any
) -> Any:
    n = boxes.shape[0]
    result = np.full((scales.size, 4, 13, n), np.nan)
    pad = 0
    for scale in scales:
        pad = max(pad, scale)
    size = 1
    for k in range(n):
        size = max(size, (boxes[k, 2] - boxes[k, 0] + pad) * (boxes[k, 3] - boxes[k, 1] + 2 * pad))
    patch = np.zeros(size, np.uint8)
    cells = np.zeros(256 * 256, np.int32)
    touched = np.empty(256 * 256 + 1, np.uint32)
    histograms = np.zeros((3, 512), np.int64)
    features = np.empty(13)
    for k in range(n):
        low = np.int64(256)
        high = np.int64(0)
        for i in range(begins[k], begins[k + 1]):
            if greys[i] > 0:
                low = min(low, np.int64(greys[i]))
                high = max(high, np.int64(greys[i]))
        if high == 0:
            continue
        span = high - low + 1
        # The object's levels from 1 on, with room for the partners of the pixels on its edge: 0 wherever it is not.
        top = boxes[k, 0]
        left = boxes[k, 1] - pad
        wide = boxes[k, 3] - left + pad
        patch[: (boxes[k, 2] - top + pad) * wide] = 0
        i = begins[k]
        for run in range(firsts[k], firsts[k + 1]):
            base = (rows[run] - top) * wide - left
            for x in range(starts[run], stops[run]):
                patch[base + x] = greys[i] - (low - 1) if greys[i] > 0 else 0
                i += 1
        for s in range(scales.size):
            complete = True
            for direction in range(4):
                down = 0 if direction == 0 else scales[s]
                right = 0 if direction == 2 else -scales[s] if direction == 3 else scales[s]
                pairs, hit = _count_pairs(
                    firsts[k], firsts[k + 1], rows, starts, stops, top, left, wide, patch, down * wide + right,
                    np.uint32(span), cells, touched,
                )  # fmt: skip
                if pairs == 0:
                    complete = False
                    break
                _reduce(cells, touched, hit, pairs, low, high, histograms, surprise, features)
                for feature in range(13):
                    result[s, direction, feature, k] = features[feature]
            if not complete:
                result[s, :, :, k] = np.nan
    return result


@inlined
def _count_pairs(
    first: Any, last: Any, rows: Any, starts: Any, stops: Any, top: Any, left: Any, wide: Any, patch: Any, step: Any,
    span: Any, cells: Any, touched: Any,
) -> Any:  # fmt: skip
    """Count the pairs of levels in `cells[lower * span + higher]`; list the cells that were hit, once each."""
    pairs = 0
    hit = np.uint32(0)
    for run in range(first, last):
        begin = (rows[run] - top) * wide - left + starts[run]
        length = np.int64(stops[run] - starts[run])
        firsts = patch[begin : begin + length]  # views keep the loop free of index arithmetic
        seconds = patch[begin + step : begin + step + length]
        for x in range(length):
            here = np.uint32(firsts[x])
            there = np.uint32(seconds[x])
            if here != 0 and there != 0:
                cell = (min(here, there) - np.uint32(1)) * span + max(here, there) - np.uint32(1)
                count = cells[cell]
                touched[hit] = cell
                hit += np.uint32(count == 0)
                cells[cell] = count + np.int32(1)
                pairs += 1
    return pairs, hit


@inlined
def _reduce(
    cells: Any, touched: Any, hit: Any, pairs: Any, low: Any, high: Any, histograms: Any, surprise: Any, features: Any
) -> Any:
    """Turn counts of unordered pairs into the 13 features of the symmetric matrix; clears the cells."""
    span = high - low + 1
    levels = histograms[0]  # how often each level occurs in a pair
    sums = histograms[1]
    differences = histograms[2]
    squares = 0.0  # of the symmetric matrix: a pair of different levels has two cells, one of equal levels counts twice
    cell_surprise = 0.0
    first = second = product = np.int64(0)
    for index in range(hit):
        cell = touched[index]
        count = np.int64(cells[cell])
        cells[cell] = 0
        a = cell // span
        b = cell - a * span
        if a == b:
            squares += 4.0 * count * count
            cell_surprise += surprise[2 * count]
        else:
            squares += 2.0 * count * count
            cell_surprise += 2.0 * surprise[count]
        levels[a] += count
        levels[b] += count
        sums[a + b] += count
        differences[b - a] += count
        first += count * (a + b)
        second += count * (a * a + b * b)
        product += 2 * count * a * b
    total = 2.0 * pairs
    variance = (total * second - np.float64(first) * first) / (total * total)
    covariance = (total * product - np.float64(first) * first) / (total * total)
    level_surprise = 0.0
    occupied = 0
    inverse = 0.0
    spread = 0.0
    difference_surprise = 0.0
    flat = 1.0 / (high + 1)
    for d in range(span):
        count = levels[d]
        level_surprise += surprise[count]
        occupied += int(count > 0)
        levels[d] = 0
        count = differences[d]
        share = count / np.float64(pairs)
        inverse += share / (d * d + 1.0)
        spread += (share - flat) ** 2
        difference_surprise += surprise[count]
        differences[d] = 0
    sum_surprise = 0.0
    for s in range(2 * span - 1):
        sum_surprise += surprise[sums[s]]
        sums[s] = 0
    if occupied == 1:  # then nothing is left to rounding
        entropy = marginal = sum_entropy = difference_entropy = 0.0
    else:
        bits = np.log2(np.float64(pairs))
        entropy = bits + 1.0 - cell_surprise / total
        marginal = bits + 1.0 - level_surprise / total
        sum_entropy = bits - sum_surprise / pairs
        difference_entropy = bits - difference_surprise / pairs
    features[0] = squares / (total * total)
    features[1] = 2.0 * (second - product) / total
    features[2] = covariance / variance if occupied > 1 else 1.0
    features[3] = variance
    features[4] = inverse
    features[5] = 2.0 * (first / total + low)
    features[6] = 2.0 * (variance + covariance)
    features[7] = sum_entropy
    features[8] = entropy
    # As in mahotas the variance of the probabilities of all differences 0 .. high, not of the differences.
    features[9] = (spread + (high + 1 - span) * flat * flat) * flat
    features[10] = difference_entropy
    features[11] = (entropy - 2.0 * marginal) / marginal if occupied > 1 else 0.0
    features[12] = np.sqrt(max(0.0, 1.0 - np.exp(-2.0 * (2.0 * marginal - entropy))))
