"""What a field's planes are like: level, background, saturation, focus, and what is wrong with them.

The figures are those of CellProfiler 4.2's MeasureImageIntensity and MeasureImageQuality, in the image's own units
(CellProfiler divides by the largest value of the pixel type first; `IMAGE_FEATURES` says what that changes), and NaN
where CellProfiler writes 0 for want of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from cellinfer_kernels.focus import level_correlation, radial_power, tiles, value_counts
from cellinfer_kernels.normalise import percentiles
from numpy.typing import NDArray

from cellinfer.cells import background_level

SATURATED = 0.01
"""Share of pixels at the plane's largest value above which it is called saturated: a detector need not use all bits."""

SCALE = 20
"""Side of the tiles, and distance of the pixels, whose variation tells sharp from blurred; CellProfiler's default."""

_Column = NDArray[np.float64]
_BINS = 65536
_ROWS = 64  # transformed at a time, so that they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class ImageFeature:
    """One column per channel of the table of images.

    Attributes
    ----------
    name
        `<Category>_<Feature>` as CellProfiler spells it, without `Image_` and channel.
    unit
        The image's own intensity unit ("intensity"), % or 1.
    definition
        What the value is, including where it is NaN.
    source
        Where the definition is from, and how the value there differs from ours. "Times the type's largest value":
        ours is 65535 times CellProfiler's for images of 16 bits, 255 times for 8 bits, the same for floats.
    suffix
        What follows the channel in the column's name, if anything does.
    """

    name: str
    unit: str
    definition: str
    source: str
    suffix: str = ""

    def column(self, channel: str) -> str:
        """Return the name of this feature's column for a channel."""
        return "_".join(part for part in ("Image", self.name, channel, self.suffix) if part)


def _intensity(name: str, definition: str) -> ImageFeature:
    source = "CellProfiler MeasureImageIntensity, times the type's largest value"
    return ImageFeature(f"Intensity_{name}", "intensity", definition, source)


IMAGE_FEATURES = (
    _intensity("TotalIntensity", "Sum over the pixels."),
    _intensity("MeanIntensity", "Mean over the pixels."),
    _intensity("MedianIntensity", "Median of the pixels."),
    _intensity("StdIntensity", "Population standard deviation of the pixels."),
    _intensity("MADIntensity", "Median absolute deviation from the median, not scaled."),
    _intensity("MinIntensity", "Darkest pixel."),
    _intensity("MaxIntensity", "Brightest pixel."),
    _intensity("LowerQuartileIntensity", "25th percentile of the pixels."),
    _intensity("UpperQuartileIntensity", "75th percentile of the pixels."),
    ImageFeature(
        "Intensity_Background",
        "intensity",
        "Level where nothing is: the 2nd percentile of the plane after smoothing (Gaussian, 2 px).",
        "cellinfer; CellProfiler has no such column",
    ),
    ImageFeature(
        "ImageQuality_FocusScore",
        "intensity",
        "Variance over mean of the pixels; NaN unless the mean is positive.",
        "CellProfiler MeasureImageQuality, times the type's largest value",
    ),
    ImageFeature(
        "ImageQuality_LocalFocusScore",
        "intensity",
        f"In tiles of at most {SCALE} x {SCALE} px, all about equally large: variance over mean of each tile's pixels; "
        "of these, the variance over the median. Tiles of mean 0 do not count. NaN if fewer than two tiles do, or if "
        "the median is not positive.",
        "CellProfiler MeasureImageQuality, times the type's largest value; 0 there instead of NaN",
        str(SCALE),
    ),
    ImageFeature(
        "ImageQuality_Correlation",
        "1",
        f"Haralick's correlation of pixels with those {SCALE} px to their right, the plane's range parted into eight "
        "equal steps; NaN if there are no such pairs or if the pixels of one side all lie in one step.",
        "CellProfiler MeasureImageQuality, equal; 0 there instead of NaN",
        str(SCALE),
    ),
    ImageFeature(
        "ImageQuality_PowerLogLogSlope",
        "1",
        "Slope of the line through log power against log spatial frequency, power being summed over rings of one "
        "frequency step up to an eighth of the smaller side; the steeper, the more blurred. NaN for constant planes "
        "and those under 32 px wide or high. Pixels that are not finite are replaced by the median.",
        "CellProfiler MeasureImageQuality, equal; 0 there instead of NaN, and the mean where pixels are masked",
    ),
    ImageFeature(
        "ImageQuality_PercentMaximal",
        "%",
        "Share of pixels that have the plane's largest value.",
        "CellProfiler MeasureImageQuality, equal",
    ),
    ImageFeature(
        "ImageQuality_PercentMinimal",
        "%",
        "Share of pixels that have the plane's smallest value.",
        "CellProfiler MeasureImageQuality, equal",
    ),
    ImageFeature(
        "ImageQuality_ThresholdOtsu",
        "intensity",
        "Otsu's threshold of two classes: the largest value of the darker class, so that brighter pixels are above it. "
        "Exact for integers; for floats (and integers that span more than 65536 values) the middle of one of 65536 "
        "equal bins. NaN for constant planes.",
        "Otsu 1979, as skimage.filters.threshold_otsu (with nbins=65536 for floats). CellProfiler's "
        "ThresholdOtsu_<channel>_2W is another value: it thresholds logarithms, binned by rank",
    ),
)
"""Every column that `image_quality` makes for a channel, in order. Pixels that are NaN or infinite do not count, and
without any other pixel every value is NaN."""


def image_quality(images: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Describe the planes of a field.

    Parameters
    ----------
    images
        Channel name -> `(H, W)` plane of any real dtype. Pixels that are not finite are left out of every figure.

    Returns
    -------
    row : dict
        The columns of `IMAGE_FEATURES` for each channel, floats; then `Image_QC_Flags`. What a plane has no value
        for, since it is constant, tiny or empty, is NaN.
    flags : tuple of str
        What is wrong, in words.
    """
    row: dict[str, Any] = {}
    flags: list[str] = []
    for name, image in images.items():
        finite = _finite(image)
        if finite.size < image.size:
            flags.append(f"{name}: {image.size - finite.size} pixels are not finite")
        with np.errstate(all="ignore"):  # floats may be so large that their squares are not
            values = _describe(image, finite)
        row |= {feature.column(name): values[feature.name] for feature in IMAGE_FEATURES}
        if finite.size and values["Intensity_MinIntensity"] == values["Intensity_MaxIntensity"]:
            flags.append(f"{name}: constant at {finite.flat[0]}")
        elif values["ImageQuality_PercentMaximal"] > 100 * SATURATED:
            flags.append(f"{name}: {values['ImageQuality_PercentMaximal']:.1f} % of pixels are saturated")
    row["Image_QC_Flags"] = "; ".join(flags)
    return row, tuple(flags)


def _finite(image: NDArray[Any]) -> NDArray[Any]:
    """Return the finite pixels; the image itself if all are."""
    if image.dtype.kind != "f":
        return image
    finite = np.isfinite(image)
    return image if finite.all() else image[finite]


def _describe(image: NDArray[Any], finite: NDArray[Any]) -> dict[str, float]:
    """Return the value of every feature by its name."""
    if not finite.size:
        return {feature.name: np.nan for feature in IMAGE_FEATURES}
    statistics = _of_many_values(finite) if (levels := _levels(finite)) is None else _of_few_values(*levels)
    plane = np.ascontiguousarray(image, dtype=np.float64)
    return statistics | {
        "Intensity_Background": background_level(image),
        "ImageQuality_LocalFocusScore": _local_focus_score(plane),
        "ImageQuality_Correlation": level_correlation(plane, SCALE),
        "ImageQuality_PowerLogLogSlope": _power_slope(plane, finite.size, statistics["Intensity_MedianIntensity"]),
    }


# Statistics of the pixels, wherever they lie


def _levels(pixels: NDArray[Any]) -> tuple[_Column, _Column] | None:
    """Return the distinct values and how many pixels have each, if integers that span at most 65536 values."""
    if pixels.dtype.kind not in "biu":
        return None
    low = 0
    if pixels.dtype.kind == "i" or pixels.dtype.itemsize > 2:
        low, high = int(pixels.min()), int(pixels.max())
        if high - low >= _BINS:
            return None
        # Differences are right in two's complement, even where int64 cannot hold the values themselves.
        pixels = pixels.astype(np.uint64) - np.uint64(low % 2**64)
    values, counts = value_counts(pixels.astype(np.uint16, copy=False))
    return values.astype(np.float64) + low, counts.astype(np.float64)


def _of_few_values(values: _Column, counts: _Column) -> dict[str, float]:
    quartiles = _counted_percentiles(values, counts, (25, 50, 75))
    deviations = np.abs(values - quartiles[1])
    rising = np.argsort(deviations, kind="stable")  # falls, then rises: two runs that this kind merges
    mad = _counted_percentiles(deviations[rising], counts[rising], (50,))[0]
    size = float(counts.sum())
    total = float(counts @ values)
    mean = total / size
    variance = float(counts @ (values - mean) ** 2) / size
    extremes = (values[0], values[-1], counts[0] / size, counts[-1] / size)
    return _statistics(total, mean, variance, quartiles, mad, extremes, _otsu(values, counts))


def _of_many_values(pixels: NDArray[Any]) -> dict[str, float]:
    pixels = pixels.astype(np.float64).ravel()
    quartiles = percentiles(pixels, (25, 50, 75))
    mad = percentiles(np.abs(pixels - quartiles[1]), 50)[0]
    low, high = pixels.min(), pixels.max()
    extremes = (low, high, (pixels == low).mean(), (pixels == high).mean())
    otsu = np.nan
    if 0 < high - low < np.inf:
        steps = np.minimum((pixels - low) / (high - low) * _BINS, _BINS - 1).astype(np.uint16)
        values, counts = value_counts(steps)
        otsu = low + (_otsu(values.astype(np.float64), counts.astype(np.float64)) + 0.5) * ((high - low) / _BINS)
    return _statistics(pixels.sum(), pixels.mean(), pixels.var(), quartiles, mad, extremes, otsu)


def _statistics(
    total: float,
    mean: float,
    variance: float,
    quartiles: _Column,
    mad: float,
    extremes: tuple[float, float, float, float],
    otsu: float,
) -> dict[str, float]:
    """Name the statistics; `extremes`: the smallest and the largest value, the shares of pixels that have them."""
    low, high, share_low, share_high = extremes
    values = {
        "Intensity_TotalIntensity": total,
        "Intensity_MeanIntensity": mean,
        "Intensity_MedianIntensity": quartiles[1],
        "Intensity_StdIntensity": np.sqrt(variance),
        "Intensity_MADIntensity": mad,
        "Intensity_MinIntensity": low,
        "Intensity_MaxIntensity": high,
        "Intensity_LowerQuartileIntensity": quartiles[0],
        "Intensity_UpperQuartileIntensity": quartiles[2],
        "ImageQuality_FocusScore": variance / mean if mean > 0 else np.nan,
        "ImageQuality_PercentMaximal": 100.0 * share_high,
        "ImageQuality_PercentMinimal": 100.0 * share_low,
        "ImageQuality_ThresholdOtsu": otsu,
    }
    return {name: float(value) for name, value in values.items()}


def _counted_percentiles(values: _Column, counts: _Column, asked: tuple[float, ...]) -> _Column:
    """Percentiles of pixels given by their rising values and how many have each; NumPy's "linear" convention."""
    filled = np.cumsum(counts)
    position = np.array(asked) / 100 * (filled[-1] - 1)
    below = np.floor(position)
    low = values[np.searchsorted(filled, below, side="right")]
    high = values[np.searchsorted(filled, np.minimum(below + 1, filled[-1] - 1), side="right")]
    result: _Column = low + (high - low) * (position - below)
    return result


def _otsu(values: _Column, counts: _Column) -> float:
    """Return the largest value of the darker class when the variance between the two classes is greatest."""
    if values.size < 2:
        return np.nan
    dark, bright = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sums = counts * values
    dark_mean, bright_mean = np.cumsum(sums)[:-1] / dark, np.cumsum(sums[::-1])[::-1][1:] / bright
    return float(values[np.argmax(dark * bright * (bright_mean - dark_mean) ** 2)])


# Focus: what depends on where pixels lie


def _local_focus_score(plane: _Column) -> float:
    mean, variance = tiles(plane, SCALE)
    counted = np.isfinite(mean) & (mean != 0)
    if counted.sum() < 2:
        return np.nan
    normalised = variance[counted] / mean[counted]
    median = float(np.median(normalised))
    return float(np.var(normalised)) / median if median > 0 else np.nan


def _power_slope(plane: _Column, finite: int, median: float) -> float:
    """Slope of log power over log radius; `finite` pixels of the plane are, the others count as `median`."""
    height, width = plane.shape
    used = min(height, width) // 8
    if used < 4:  # one ring is no line
        return np.nan
    if finite < plane.size:
        plane = np.where(np.isfinite(plane), plane, median)
    if plane.min() == plane.max():
        return np.nan
    mean = plane.mean()
    # Double precision: in single, the rounding of bright structures outshines the high frequencies of smooth planes.
    spectrum = np.empty((height, used), np.complex128)
    for start in range(0, height, _ROWS):
        rows = plane[start : start + _ROWS] - mean
        spectrum[start : start + _ROWS] = np.asarray(scipy.fft.rfft(rows, axis=1))[:, :used]
    power = radial_power(np.asarray(scipy.fft.fft(spectrum, axis=0, overwrite_x=True)), width)
    return _slope(np.log(np.arange(2, used)), np.log(power))


def _slope(x: _Column, y: _Column) -> float:
    """Slope of the least-squares line through the points that are finite; NaN for fewer than two."""
    known = np.isfinite(y)
    if known.sum() < 2:
        return np.nan
    x, y = x[known] - x[known].mean(), y[known]
    return float(x @ (y - y.mean()) / (x @ x))
