"""Colocalisation of two channels within objects: Pearson, overlap, Manders, rank-weighted and Costes coefficients.

CellProfiler's MeasureColocalization with its defaults ("Faster" Costes). The sums are over the pixels of an object that
are finite in both channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellinfer_kernels._jit import inlined, kernel
from cellinfer_kernels._order import sort_pairs

__all__ = ["Colocalization", "colocalization", "ranks"]

Column = NDArray[np.float64]

_WORDS = 1 << 15  # longest table of seen values, 32 values a word
_TABLE = 1 << 16  # cells of the table that turns an intensity into a first guess at its place among the thresholds
_NUDGE = 1e-6  # of a cell, so that rounding puts no intensity that is a whole number into the cell before its own
_TESTS = 256  # as many thresholds as CellProfiler tries
_ROUNDING = 1e-12  # a covariance that cancels to less than this part of its terms is 0
_UNDEFINED = -2  # what is no threshold; these are -1 or more, in steps


class Colocalization(NamedTuple):
    """Colocalisation of a first and a second channel in n objects, all (n,) float64.

    "Bright" pixels have at least `threshold` percent of the object's maximum in the channel named.
    """

    correlation: Column
    """Pearson's r; NaN where a channel is constant."""
    slope: Column
    """Of the least-squares line of the second channel on the first; NaN where the first is constant."""
    overlap: Column
    """sum(a b) / sqrt(sum(a²) sum(b²)) over the pixels bright in both channels; 0 without any."""
    k_first: Column
    """sum(a b) / sum(a²) over the same pixels."""
    k_second: Column
    """sum(a b) / sum(b²) over the same pixels."""
    manders_first: Column
    """The first channel's sum over the pixels bright in both, divided by its sum over those bright in the first."""
    manders_second: Column
    """The same of the second channel."""
    rwc_first: Column
    """`manders_first` with each pixel of the numerator weighted by how near its ranks in the two channels are."""
    rwc_second: Column
    """The same of the second channel."""
    costes_first: Column
    """Manders' coefficient above Costes' thresholds, of the first channel; NaN where these are undefined."""
    costes_second: Column
    """The same of the second channel."""


def ranks(begins: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Rank each pixel's value among the distinct values of its object.

    Parameters
    ----------
    begins
        (n + 1,) first place of each object in `values`, `Groups.begins`.
    values
        (P,) intensities, object by object.

    Returns
    -------
    ndarray of int32
        (P,) 0 for the object's smallest value, counting distinct values; -1 where the value is NaN or infinite.

    Raises
    ------
    ValueError
        If `values` is not (P,).
    """
    return _ranks(_places(begins), _pixels(begins, values, "values"))  # type: ignore[no-any-return]


def colocalization(
    begins: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    first_ranks: NDArray[np.int32],
    second_ranks: NDArray[np.int32],
    *,
    largest: tuple[float, float] = (65535.0, 65535.0),
    steps: int = 65535,
    threshold: float = 15.0,
) -> Colocalization:
    """Measure how alike two channels are within each object.

    Parameters
    ----------
    begins
        (n + 1,) first place of each object in the pixel lists, `Groups.begins`.
    first, second
        (P,) intensities of the two channels in the image's own units. Pixels that are NaN or infinite in either
        channel are left out; an object without any other pixel is NaN throughout.
    first_ranks, second_ranks
        (P,) `ranks` of the same values. They count all finite pixels of their channel, also those left out here
        because of the other channel.
    largest
        The intensity that is 1 on Costes' scale, for each channel: what CellProfiler divides the image by. Objects
        with pixels outside 0 .. `largest` have no Costes coefficients.
    steps
        Costes' thresholds are whole multiples of 1 / `steps`; 2 .. 2**32 - 1.
    threshold
        Percent of the object's maximum above which a pixel counts for overlap, Manders and rank-weighted coefficients.

    Returns
    -------
    Colocalization
        One row per object.

    Raises
    ------
    ValueError
        If a list is not (P,), `largest` is not positive, or `steps` is out of range.

    Notes
    -----
    CellProfiler's `MeasureColocalization`. Rank weighting: Singan et al. 2011, BMC Bioinformatics 12:407. Thresholds:
    Costes et al. 2004, Biophysical Journal 86:3993; found with CellProfiler's bisection, candidate by candidate, so
    they are its thresholds except where the correlation at a candidate is 0 to within rounding: such a one counts as 0
    here, and as negative or not by the accident of its last digits there. The same holds for pixels exactly on the
    line.
    """
    if not all(np.isfinite(top) and top > 0 for top in largest):
        raise ValueError(f"largest must be two positive numbers, got {largest}")
    if not 2 <= steps <= 2**32 - 1:
        raise ValueError(f"steps must be between 2 and 2**32 - 1, got {steps}")
    table = _measure(
        _places(begins),
        _pixels(begins, first, "first"),
        _pixels(begins, second, "second"),
        _pixels(begins, first_ranks, "first_ranks", np.int32),
        _pixels(begins, second_ranks, "second_ranks", np.int32),
        float(largest[0]),
        float(largest[1]),
        float(threshold),
        int(steps),
    )
    return Colocalization(*table)


def _places(begins: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(begins, dtype=np.int64)


def _pixels(begins: NDArray[np.int64], values: NDArray[Any], name: str, dtype: Any = np.float64) -> NDArray[Any]:
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.shape != (begins[-1],):
        raise ValueError(f"{name} must have shape ({begins[-1]},) as begins says, got {array.shape}")
    return array


@inlined
def _descend(candidates: Any, left: Any, right: Any) -> Any:
    """List the thresholds that bisection tries while no correlation is negative, descending; return their number."""
    m = 0
    candidate = _between(left, right)
    while m == 0 or candidate != candidates[m - 1]:
        candidates[m] = candidate
        m += 1
        candidate = _between(left, candidate + 1)
    return m


@inlined
def _tabulate(table: Any, candidates: Any, m: Any, left: Any, right: Any) -> Any:
    """Write how many candidates lie above each place of the window `left` .. `right`; return the table's length."""
    width = right - left
    cells = min(width, table.size - 1)
    stop = cells + 1
    for j in range(m):
        start = ((np.int64(candidates[j]) - left) * cells + width - 1) // width
        table[start:stop] = j
        stop = start
    table[:stop] = m
    return cells


@inlined
def _between(left: Any, right: Any) -> Any:
    """Next threshold to try, in steps: CellProfiler's, a sixth below the top of the window, or the middle of few."""
    width = right - left
    return left + (5 * width // 6 if width > 6 else width // 2)


@inlined
def _widest(begins: Any) -> Any:
    largest = 0
    for k in range(begins.size - 1):
        largest = max(largest, begins[k + 1] - begins[k])
    return largest


# Ranks


@kernel
def _ranks(begins: Any, values: Any) -> Any:
    result = np.empty(values.size, np.int32)
    largest = _widest(begins)
    words = np.empty(min(4 * largest + 64, _WORDS), np.int64)
    before = np.empty(words.size, np.int32)
    ordered = np.empty(largest)
    order = np.empty(largest, np.int32)
    ends = np.empty(largest + 1, np.int32)
    stack = np.empty(128, np.int64)
    for k in range(begins.size - 1):
        mine = values[begins[k] : begins[k + 1]]
        out = result[begins[k] : begins[k + 1]]
        low = np.inf
        high = -np.inf
        whole = True
        count = 0
        for value in mine:
            if np.isfinite(value):
                low = min(low, value)
                high = max(high, value)
                whole &= value == np.floor(value)
                count += 1
        # A table is the faster way unless it has far more words than the object has pixels.
        if whole and count > 0 and (high - low) < 32 * min(4 * count + 64, words.size):
            _rank_whole(mine, out, low, high, words, before)
        elif count > 0:
            _rank_real(mine, out, low, high, count, ordered, order, ends, stack)
        else:
            out[:] = -1
    return result


@inlined
def _ones(word: Any) -> Any:
    """Count the bits set in a word of 32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) & 0xFFFFFFFF) >> 24


@inlined
def _rank_whole(values: Any, out: Any, low: Any, high: Any, words: Any, before: Any) -> Any:
    """Rank whole numbers with one bit per possible value."""
    used = (np.int64(high - low) >> 5) + 1
    words[:used] = 0
    for value in values:
        if np.isfinite(value):
            place = np.int64(value - low)
            words[place >> 5] |= 1 << (place & 31)
    total = 0
    for word in range(used):
        before[word] = total
        total += _ones(words[word])
    for i in range(values.size):
        out[i] = -1
        if np.isfinite(values[i]):
            place = np.int64(values[i] - low)
            below = words[place >> 5] & ((1 << (place & 31)) - 1)
            out[i] = before[place >> 5] + _ones(below)


@inlined
def _rank_real(
    values: Any, out: Any, low: Any, high: Any, count: Any, ordered: Any, order: Any, ends: Any, stack: Any
) -> Any:
    """Rank any numbers: spread them evenly over as many bins as there are pixels, then sort within bins."""
    scale = (count - 1) / (high - low)
    if not (np.isfinite(scale) and np.isfinite(high - low)):
        scale = 0.0
    ends[: count + 1] = 0
    for i in range(values.size):
        out[i] = -1
        if np.isfinite(values[i]):
            place = min(np.int64((values[i] - low) * scale), count - 1) if scale > 0.0 else 0
            out[i] = place
            ends[place + 1] += 1
    for place in range(count):
        ends[place + 1] += ends[place]
    for i in range(values.size):
        if out[i] >= 0:
            slot = ends[out[i]]
            ends[out[i]] += 1
            ordered[slot] = values[i]
            order[slot] = i
    start = 0
    for place in range(count):
        if ends[place] - start > 1:
            sort_pairs(ordered, order, start, int(ends[place]), stack)
        start = int(ends[place])
    rank = 0
    out[order[0]] = 0
    for slot in range(1, count):
        rank += int(ordered[slot] != ordered[slot - 1])
        out[order[slot]] = rank


# Coefficients


@kernel
def _measure(
    begins: Any,
    first: Any,
    second: Any,
    first_ranks: Any,
    second_ranks: Any,
    first_largest: Any,
    second_largest: Any,
    threshold: Any,
    steps: Any,
) -> Any:
    n = begins.size - 1
    table = np.full((11, n), np.nan)
    largest = _widest(begins)
    x = np.empty(largest)
    y = np.empty(largest)
    apart = np.empty(largest, np.int32)
    scratch = np.empty((2, largest))
    levels = np.empty(largest, np.uint8)
    buckets = np.empty((_TESTS, 7))
    first_guesses = np.empty(_TABLE + 1, np.uint8)
    guesses = np.empty(_TABLE + 1, np.uint8)
    _tabulate(first_guesses, buckets[:, 4], _descend(buckets[:, 4], 1, steps), 1, steps)
    for k in range(n):
        count = 0
        top = np.int32(0)
        sum_x = sum_y = 0.0
        low_x = low_y = np.inf
        high_x = high_y = -np.inf
        for i in range(begins[k], begins[k + 1]):
            a = first[i]
            b = second[i]
            if not (np.isfinite(a) and np.isfinite(b)):
                continue
            x[count] = a
            y[count] = b
            apart[count] = abs(first_ranks[i] - second_ranks[i])
            count += 1
            top = max(top, max(first_ranks[i], second_ranks[i]))
            sum_x += a
            sum_y += b
            low_x = min(low_x, a)
            high_x = max(high_x, a)
            low_y = min(low_y, b)
            high_y = max(high_y, b)
        if count == 0:
            continue
        mean_x = sum_x / count
        mean_y = sum_y / count
        constant = count < 2 or low_x == high_x, count < 2 or low_y == high_y
        moments = _coefficients(
            x, y, apart, count, mean_x, mean_y, high_x, high_y, threshold, top + 1.0, constant, table[:9, k]
        )
        low_x /= first_largest
        low_y /= second_largest
        in_range = low_x >= 0 and low_y >= 0 and high_x <= first_largest and high_y <= second_largest
        if count < 3 or not in_range or constant[0] or constant[1]:
            continue
        for i in range(count):
            x[i] /= first_largest
            y[i] /= second_largest
        mean_x /= first_largest
        mean_y /= second_largest
        if low_x > 0 or low_y > 0:
            ok, slope, offset = _orthogonal(
                count,
                mean_x,
                mean_y,
                moments[0] / first_largest / first_largest,
                moments[1] / second_largest / second_largest,
                moments[2] / first_largest / second_largest,
            )
        else:
            ok, slope, offset = _orthogonal_of_lit(x, y, count)
        if ok:
            line = slope, offset, steps, mean_x, mean_y
            table[9, k], table[10, k] = _costes(x, y, count, line, first_guesses, guesses, levels, buckets, scratch)
    return table


@inlined
def _coefficients(
    x: Any,
    y: Any,
    apart: Any,
    count: Any,
    mean_x: Any,
    mean_y: Any,
    high_x: Any,
    high_y: Any,
    threshold: Any,
    levels: Any,
    constant: Any,
    out: Any,
) -> Any:
    """Write all coefficients but Costes'; return the sums of squares and products about the means."""
    bright_x = threshold / 100 * high_x
    bright_y = threshold / 100 * high_y
    xx = yy = xy = 0.0
    total_x = total_y = 0.0
    both = 0
    both_x = both_y = both_xx = both_yy = both_xy = 0.0
    near_x = near_y = 0.0
    for i in range(count):
        a = x[i]
        b = y[i]
        xx += (a - mean_x) * (a - mean_x)
        yy += (b - mean_y) * (b - mean_y)
        xy += (a - mean_x) * (b - mean_y)
        total_x += a if a >= bright_x else 0.0
        total_y += b if b >= bright_y else 0.0
        if (a >= bright_x) & (b >= bright_y):
            both += 1
            both_x += a
            both_y += b
            both_xx += a * a
            both_yy += b * b
            both_xy += a * b
            near = levels - apart[i]
            near_x += a * near
            near_y += b * near
    if not constant[0]:
        out[1] = 0.0 if constant[1] else xy / xx
        if not constant[1]:
            out[0] = max(-1.0, min(1.0, xy / np.sqrt(xx) / np.sqrt(yy)))
    if both == 0:
        out[2:9] = 0.0
    else:
        out[2] = both_xy / np.sqrt(both_xx * both_yy)
        out[3] = both_xy / both_xx
        out[4] = both_xy / both_yy
        out[5] = both_x / total_x
        out[6] = both_y / total_y
        out[7] = near_x / levels / total_x
        out[8] = near_y / levels / total_y
    return xx, yy, xy


# Costes' thresholds


@inlined
def _orthogonal(count: Any, mean_x: Any, mean_y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    """Fit the line that the thresholds walk along; say whether there is one, its slope and its offset."""
    xx /= count - 1
    yy /= count - 1
    xy /= count - 1
    if abs(xy) <= 8 * 2.220446049250313e-16 * max(xx, yy):
        return False, 0.0, 0.0
    slope = (yy - xx + np.sqrt((yy - xx) * (yy - xx) + 4 * (xy * xy))) / (2 * xy)
    offset = mean_y - slope * mean_x
    return np.isfinite(slope) and np.isfinite(offset), slope, offset


@inlined
def _orthogonal_of_lit(x: Any, y: Any, count: Any) -> Any:
    """Fit the line to the pixels that are not 0 in both channels."""
    lit = 0
    sum_x = sum_y = 0.0
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for i in range(count):
        if x[i] > 0 or y[i] > 0:
            lit += 1
            sum_x += x[i]
            sum_y += y[i]
            low_x = min(low_x, x[i])
            high_x = max(high_x, x[i])
            low_y = min(low_y, y[i])
            high_y = max(high_y, y[i])
    if lit < 3 or low_x == high_x or low_y == high_y:
        return False, 0.0, 0.0
    mean_x = sum_x / lit
    mean_y = sum_y / lit
    xx = yy = xy = 0.0
    for i in range(count):
        if x[i] > 0 or y[i] > 0:
            xx += (x[i] - mean_x) * (x[i] - mean_x)
            yy += (y[i] - mean_y) * (y[i] - mean_y)
            xy += (x[i] - mean_x) * (y[i] - mean_y)
    return _orthogonal(lit, mean_x, mean_y, xx, yy, xy)


@inlined
def _costes(
    x: Any, y: Any, count: Any, line: Any, first_guesses: Any, guesses: Any, levels: Any, buckets: Any, scratch: Any
) -> Any:
    """Manders' coefficients of the two channels above Costes' thresholds, NaN where these are undefined."""
    slope = line[0]
    scratch[0, :count] = x[:count]
    scratch[1, :count] = y[:count]
    if slope > 1e-9:
        found = _search_rising(scratch, count, line, first_guesses, guesses, levels, buckets)
        if found != _UNDEFINED:
            defined, first, second = _above(x, y, count, line, found)
            if defined:
                return first, second
        if found == _UNDEFINED or _above(x, y, count, line, found + 1)[0]:
            return np.nan, np.nan
        # Some correlation taken for 0 or more was NaN, because the background was constant. These must be told apart.
        scratch[0, :count] = x[:count]
        scratch[1, :count] = y[:count]
    found = _search(scratch, count, line)
    if found == _UNDEFINED:
        return np.nan, np.nan
    defined, first, second = _above(x, y, count, line, found)
    return (first, second) if defined else (np.nan, np.nan)


@inlined
def _above(x: Any, y: Any, count: Any, line: Any, threshold: Any) -> Any:
    """Say whether the background of a threshold has a correlation; Manders' coefficients of what is above it."""
    slope, offset, steps, _, _ = line
    reach = threshold / steps
    height = slope * reach + offset
    total_x = total_y = both_x = both_y = 0.0
    inside = 0
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for i in range(count):
        a = x[i]
        b = y[i]
        total_x += a if a >= reach else 0.0
        total_y += b if b >= height else 0.0
        both = min(a - reach, b - height) > 0
        both_x += a if both else 0.0
        both_y += b if both else 0.0
        below = _below(a, b, reach, height)
        inside += int(below)
        low_x = min(low_x, a if below else np.inf)
        high_x = max(high_x, a if below else -np.inf)
        low_y = min(low_y, b if below else np.inf)
        high_y = max(high_y, b if below else -np.inf)
    defined = inside >= 3 and low_x < high_x and low_y < high_y
    if total_x <= 0 or total_y <= 0:
        return defined, np.nan, np.nan
    return defined, both_x / total_x, both_y / total_y


@inlined
def _below(a: Any, b: Any, reach: Any, height: Any) -> Any:
    """Say whether `a < reach or b < height`; in this form no processor has to guess which."""
    return max(reach - a, height - b) > 0


@inlined
def _nothing() -> Any:
    """Return sums over no pixels: count, x, y, x y, and least and greatest x and y."""
    return 0.0, 0.0, 0.0, 0.0, np.inf, -np.inf, np.inf, -np.inf


@inlined
def _joined(one: Any, other: Any) -> Any:
    return (
        one[0] + other[0],
        one[1] + other[1],
        one[2] + other[2],
        one[3] + other[3],
        min(one[4], other[4]),
        max(one[5], other[5]),
        min(one[6], other[6]),
        max(one[7], other[7]),
    )


@inlined
def _defined(sums: Any) -> Any:
    """Say whether the pixels summed up have a correlation: at least three, and neither channel constant."""
    return sums[0] >= 3 and sums[4] < sums[5] and sums[6] < sums[7]


@inlined
def _not_negative(count: Any, sum_x: Any, sum_y: Any, sum_xy: Any) -> Any:
    """Say whether pixels with these sums are correlated positively or, to within rounding, not at all."""
    expected = sum_x * sum_y / count
    return sum_xy - expected >= -_ROUNDING * (abs(sum_xy) + abs(expected))


@inlined
def _sum_background(pairs: Any, count: Any, reach: Any, height: Any, line: Any) -> Any:
    """Sum up the pairs below a threshold in either channel, x and y counted from the line's centre."""
    _, _, _, centre_x, centre_y = line
    inside = 0
    sum_x = sum_y = sum_xy = 0.0
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for i in range(count):
        a = pairs[0, i]
        b = pairs[1, i]
        if _below(a, b, reach, height):
            inside += 1
            sum_x += a - centre_x
            sum_y += b - centre_y
            sum_xy += (a - centre_x) * (b - centre_y)
            low_x = min(low_x, a)
            high_x = max(high_x, a)
            low_y = min(low_y, b)
            high_y = max(high_y, b)
    return float(inside), sum_x, sum_y, sum_xy, low_x, high_x, low_y, high_y


@inlined
def _settle(pairs: Any, count: Any, line: Any, left: Any, right: Any) -> Any:
    """Keep the pairs that some thresholds from `left` to `right` leave in the background and others do not.

    Returns
    -------
    Number of pairs kept, at the front, and sums over those that all thresholds leave in the background.
    """
    slope, offset, steps, centre_x, centre_y = line
    reach_left = left / steps
    reach_right = right / steps
    height_left = slope * reach_left + offset
    height_right = slope * reach_right + offset
    height_low = min(height_left, height_right)
    height_high = max(height_left, height_right)
    kept = 0
    inside = 0
    sum_x = sum_y = sum_xy = 0.0
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for i in range(count):
        a = pairs[0, i]
        b = pairs[1, i]
        if _below(a, b, reach_left, height_low):
            inside += 1
            sum_x += a - centre_x
            sum_y += b - centre_y
            sum_xy += (a - centre_x) * (b - centre_y)
            low_x = min(low_x, a)
            high_x = max(high_x, a)
            low_y = min(low_y, b)
            high_y = max(high_y, b)
        else:
            pairs[0, kept] = a
            pairs[1, kept] = b
            kept += int(_below(a, b, reach_right, height_high))
    return kept, (float(inside), sum_x, sum_y, sum_xy, low_x, high_x, low_y, high_y)


@inlined
def _search(pairs: Any, count: Any, line: Any) -> Any:
    """Bisect as CellProfiler does: a sixth below the top of the window, up where the correlation is negative or NaN.

    Parameters
    ----------
    pairs, count
        The pixels (changed).
    line
        Slope, offset, steps, and the centre that sums are counted from.

    Returns
    -------
    The threshold in steps, or `_UNDEFINED`.
    """
    slope, offset, steps, _, _ = line
    left = 1
    right = steps
    last = 0
    valid = _UNDEFINED + 1
    tests = 0
    settled = _nothing()
    candidate = _between(left, right)
    while last != candidate:
        tests += 1
        if tests > _TESTS:
            return _UNDEFINED
        reach = candidate / steps
        sums = _joined(settled, _sum_background(pairs, count, reach, slope * reach + offset, line))
        if _defined(sums) and _not_negative(sums[0], sums[1], sums[2], sums[3]):
            right = candidate + 1
            valid = candidate
        else:
            left = candidate - 1
        last = candidate
        candidate = _between(left, right)
        if count > 0:
            count, more = _settle(pairs, count, line, left, right)
            settled = _joined(settled, more)
    return valid - 1


@inlined
def _search_rising(
    pairs: Any, count: Any, line: Any, first_guesses: Any, guesses: Any, levels: Any, buckets: Any
) -> Any:
    """Do what `_search` does where both thresholds rise together and no correlation is NaN, in fewer passes.

    A pixel is then background from one threshold on, all the way up. Until the next negative correlation the
    thresholds to be tried are known beforehand, so one pass that sorts the pixels by them replaces a pass for each.

    Returns
    -------
    As `_search`. If the background of this threshold has a correlation, so have all those above it, and it is right.
    """
    slope, offset, steps, centre_x, centre_y = line
    left = 1
    right = steps
    valid = _UNDEFINED + 1
    tests = 0
    settled = settled_x = settled_y = settled_xy = 0.0
    candidates = buckets[:, 4]
    reaches = buckets[:, 5]
    heights = buckets[:, 6]
    m = _descend(candidates, left, right)
    table = first_guesses
    cells = min(right - left, table.size - 1)
    while True:
        for j in range(m):
            reaches[j] = candidates[j] / steps
            heights[j] = slope * reaches[j] + offset
        buckets[: m + 1, :4] = 0.0
        low = left / steps
        to_table = steps / (right - left) * cells
        inverse = 1.0 / slope
        for i in range(count):
            a = pairs[0, i]
            b = pairs[1, i]
            place = (min(a, (b - offset) * inverse) - low) * to_table
            level = np.int64(table[np.int64(max(0.0, min(place + _NUDGE, 1.0 * cells)))])
            while level < m and _below(a, b, reaches[level], heights[level]):
                level += 1
            while level > 0 and not _below(a, b, reaches[level - 1], heights[level - 1]):
                level -= 1
            levels[i] = level
            buckets[level, 0] += 1.0
            buckets[level, 1] += a - centre_x
            buckets[level, 2] += b - centre_y
            buckets[level, 3] += (a - centre_x) * (b - centre_y)
        buckets[m, 0] += settled
        buckets[m, 1] += settled_x
        buckets[m, 2] += settled_y
        buckets[m, 3] += settled_xy
        for j in range(m - 1, 0, -1):
            for s in range(4):
                buckets[j, s] += buckets[j + 1, s]
        fails = 0  # the first candidate to be refused; pixels of level j + 1 and above are background at candidate j
        while fails < m and _accepted(buckets[fails + 1]):
            fails += 1
        tests += min(fails + 1, m)
        if tests > _TESTS:
            return _UNDEFINED
        if fails > 0:
            valid = int(candidates[fails - 1])
            right = valid + 1
        if fails == m:
            return valid - 1
        last = int(candidates[fails])
        left = last - 1
        if _between(left, right) == last:
            return valid - 1
        # Pixels that are background at neither, or at both ends of the window need not be looked at again.
        if fails + 2 <= m:
            settled = buckets[fails + 2, 0]
            settled_x = buckets[fails + 2, 1]
            settled_y = buckets[fails + 2, 2]
            settled_xy = buckets[fails + 2, 3]
        reach = left / steps
        height = slope * reach + offset
        kept = 0
        for i in range(count):
            a = pairs[0, i]
            b = pairs[1, i]
            near = (levels[i] == fails) | (levels[i] == fails + 1)
            always = near & _below(a, b, reach, height)
            settled += 1.0 if always else 0.0
            settled_x += a - centre_x if always else 0.0
            settled_y += b - centre_y if always else 0.0
            settled_xy += (a - centre_x) * (b - centre_y) if always else 0.0
            pairs[0, kept] = a
            pairs[1, kept] = b
            kept += int(near & (not always))
        count = kept
        m = _descend(candidates, left, right)
        table = guesses
        cells = _tabulate(table, candidates, m, left, right)


@inlined
def _accepted(sums: Any) -> Any:
    return sums[0] >= 3 and _not_negative(sums[0], sums[1], sums[2], sums[3])
