"""Figures of whole planes against their twins, CellProfiler's definitions (centrosome), scikit-image and geometry."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer.quality import IMAGE_FEATURES, SCALE, image_quality
from cellinfer_kernels import focus
from cellinfer_kernels.reference import focus as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import fft, ndimage
from skimage.filters import threshold_otsu

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
planes = hnp.arrays(
    np.float64, shapes, elements=st.one_of(st.floats(-1e3, 1e3), st.sampled_from([np.nan, np.inf, 0.0, 1.0, 7.0]))
)
SHAPES = [(203, 331), (160, 160), (97, 64)]
ORDER = [
    "Image_Intensity_TotalIntensity_DNA",
    "Image_Intensity_MeanIntensity_DNA",
    "Image_Intensity_MedianIntensity_DNA",
    "Image_Intensity_StdIntensity_DNA",
    "Image_Intensity_MADIntensity_DNA",
    "Image_Intensity_MinIntensity_DNA",
    "Image_Intensity_MaxIntensity_DNA",
    "Image_Intensity_LowerQuartileIntensity_DNA",
    "Image_Intensity_UpperQuartileIntensity_DNA",
    "Image_Intensity_Background_DNA",
    "Image_ImageQuality_FocusScore_DNA",
    "Image_ImageQuality_LocalFocusScore_DNA_20",
    "Image_ImageQuality_Correlation_DNA_20",
    "Image_ImageQuality_PowerLogLogSlope_DNA",
    "Image_ImageQuality_PercentMaximal_DNA",
    "Image_ImageQuality_PercentMinimal_DNA",
    "Image_ImageQuality_ThresholdOtsu_DNA",
]


def nuclei(shape, seed=0, dtype=np.uint16):
    """Bright smooth spots on a noisy background, as a camera sees them."""
    rng = np.random.default_rng(seed)
    spots = ndimage.gaussian_filter(rng.random(shape), 5)
    spots = np.clip((spots - np.quantile(spots, 0.8)) / np.ptp(spots), 0, None)
    return (rng.poisson(12 + 400 * spots) * (1 if np.dtype(dtype) == np.uint8 else 37)).astype(dtype)


def measure(image):
    """Values by the name of the feature, and no warning whatever the image."""
    row, _ = image_quality({"DNA": image})
    return {feature.name.split("_")[1]: row[feature.column("DNA")] for feature in IMAGE_FEATURES}


def holed(image, seed=0):
    """Return the image as floats with 3 % of pixels missing, and which ones are there."""
    there = np.random.default_rng(seed).random(image.shape) > 0.03
    return np.where(there, image, np.nan), there


# Kernels against their twins


@UNHURRIED
@given(hnp.arrays(np.uint16, shapes, elements=st.sampled_from([0, 1, 2, 300, 65535])))
def test_value_counts_equal_twin(image):
    for mine, theirs in zip(focus.value_counts(image), twin.value_counts(image), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


@UNHURRIED
@given(planes, st.integers(1, 15))
def test_tiles_equal_twin(plane, side):
    for mine, theirs in zip(focus.tiles(plane, side), twin.tiles(plane, side), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@UNHURRIED
@given(planes, st.integers(1, 13), st.integers(2, 9))
def test_level_correlation_equals_twin(plane, distance, levels):
    mine, theirs = (module.level_correlation(plane, distance, levels) for module in (focus, twin))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@UNHURRIED
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_radial_power_equals_twin(height, width, seed):
    spectrum = fft.rfft2(np.random.default_rng(seed).random((height, width)))
    mine, theirs = focus.radial_power(spectrum, width), twin.radial_power(spectrum, width)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)
    assert mine.size == max(0, min(height, width) // 8 - 2)


def test_kernels_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="uint16"):
        focus.value_counts(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="2-D"):
        focus.tiles(np.zeros(9), 3)
    with pytest.raises(ValueError, match="side"):
        focus.tiles(np.zeros((3, 3)), 0)
    with pytest.raises(ValueError, match="distance"):
        focus.level_correlation(np.zeros((3, 3)), 0)
    with pytest.raises(ValueError, match="levels"):
        focus.level_correlation(np.zeros((3, 3)), 1, 257)
    with pytest.raises(ValueError, match="4 columns"):
        focus.radial_power(np.zeros((32, 3), complex), 32)


# CellProfiler's definitions


def cellprofiler_local_focus(image, there, scale):
    """CellProfiler 4.2.8, MeasureImageQuality.calculate_focus_scores, line by line but for tiles without pixels."""
    shape = image.shape
    i, j = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    m, n = (np.array(shape) + scale - 1) // scale
    i = (i * float(m) / float(shape[0])).astype(int)
    j = (j * float(n) / float(shape[1])).astype(int)
    grid = i * n + j + 1
    grid[~there] = 0
    used = np.unique(grid[grid > 0])
    means = np.zeros(m * n + 1)
    means[used] = ndimage.mean(image, grid, used)
    squared = (image - means[grid]) ** 2
    used = used[means[used] != 0]
    sums = ndimage.sum(squared, grid, used)
    counts = ndimage.sum(np.ones(shape), grid, used)
    normalised = sums / (counts * means[used])
    return np.var(normalised) / np.median(normalised)


def centrosome_slope(image):
    """CellProfiler's line through centrosome.radial_power_spectrum.rps, which numpy 2 does not run (`img.ptp()`)."""
    squares = np.arange(image.shape[0]).reshape(-1, 1) ** 2 + np.arange(image.shape[1]) ** 2
    squares = np.minimum(squares, np.flipud(squares))
    squares = np.minimum(squares, np.fliplr(squares))
    scaled = image / np.median(abs(image - image.mean()))
    power = abs(fft.fft2(scaled - scaled.mean())) ** 2
    rings = np.floor(np.sqrt(squares)).astype(int) + 1
    labels = np.arange(2, np.floor(min(image.shape) / 8.0)).astype(int)
    sums = ndimage.sum(power, rings, labels)
    matrix = np.column_stack([np.log(labels), np.ones(labels.size)])
    return np.linalg.lstsq(matrix, np.log(sums), rcond=None)[0][0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_holes", [False, True], ids=["whole", "holed"])
def test_figures_are_those_of_cellprofiler(shape, with_holes):
    from centrosome.haralick import Haralick

    image, there = nuclei(shape), np.ones(shape, bool)
    given_image = image
    if with_holes:
        given_image, there = holed(image)
    unit = image / 65535  # as CellProfiler reads images of 16 bits
    pixels = unit[there]
    median = np.median(pixels)
    lower, upper = np.percentile(pixels, [25, 75])
    intensities = {
        "TotalIntensity": pixels.sum(),
        "MeanIntensity": pixels.mean(),
        "MedianIntensity": median,
        "StdIntensity": pixels.std(),
        "MADIntensity": np.median(np.abs(pixels - median)),
        "MinIntensity": pixels.min(),
        "MaxIntensity": pixels.max(),
        "LowerQuartileIntensity": lower,
        "UpperQuartileIntensity": upper,
        "FocusScore": np.sum((pixels - pixels.mean()) ** 2) / (pixels.size * pixels.mean()),
        "LocalFocusScore": cellprofiler_local_focus(unit, there, 20),
    }
    same = {
        "Correlation": Haralick(unit, there.astype(int), 0, 20).H3()[0],
        "PowerLogLogSlope": centrosome_slope(np.where(there, unit, median)),
        "PercentMaximal": 100 * np.sum(pixels == pixels.max()) / pixels.size,
        "PercentMinimal": 100 * np.sum(pixels == pixels.min()) / pixels.size,
    }
    found = measure(given_image)
    for name, value in intensities.items():
        np.testing.assert_allclose(found[name], value * 65535, rtol=1e-10, err_msg=name)
    for name, value in same.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
    assert {*intensities, *same} == set(found) - {"Background", "ThresholdOtsu"}
    # They mean what "CellProfiler, times the type's largest value" and "CellProfiler, equal" promise to users.
    for feature in IMAGE_FEATURES:
        name = feature.name.split("_")[1]
        assert ("times the type's largest value" in feature.source) == (name in intensities), name
        assert (", equal" in feature.source) == (name in same), name


# Otsu's threshold


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("seed", range(3))
def test_otsu_of_integers_is_that_of_skimage(dtype, seed):
    image = nuclei((120, 90), seed, np.uint8).astype(dtype)
    if np.dtype(dtype).kind == "i":
        image -= 50
    assert measure(image)["ThresholdOtsu"] == threshold_otsu(image)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_otsu_of_floats_is_that_of_skimage_with_as_many_bins(dtype):
    image = np.sqrt(nuclei((120, 90))).astype(dtype)
    bin_width = np.ptp(image) / 65536
    assert abs(measure(image)["ThresholdOtsu"] - threshold_otsu(image, nbins=65536)) < 0.1 * bin_width


@pytest.mark.parametrize("spread", [60, 200])
def test_otsu_parts_pixels_as_that_of_centrosome_to_two_of_its_bins(spread):
    from centrosome.otsu import otsu

    rng = np.random.default_rng(0)
    level = np.where(rng.random((200, 200)) < 0.3, 1900, 1200)
    image = rng.normal(level, spread).astype(np.uint16)
    bright = (image > measure(image)["ThresholdOtsu"]).mean()
    assert bright == pytest.approx((image > otsu(image.ravel().astype(float))).mean(), abs=2 / 256)


@UNHURRIED
@given(hnp.arrays(np.uint16, shapes, elements=st.sampled_from([0, 1, 2, 3, 40, 1000, 65535])))
def test_otsu_parts_the_classes_best(image):
    threshold = measure(image)["ThresholdOtsu"]
    pixels = image.ravel().astype(np.float64)
    values = np.unique(pixels)[:-1]
    if not values.size:
        assert np.isnan(threshold)
        return

    def within(limit):
        parts = pixels[pixels <= limit], pixels[pixels > limit]
        return sum(part.var() * part.size for part in parts)

    assert threshold in values
    assert within(threshold) <= min(map(within, values)) * (1 + 1e-9) + 1e-9


# What focus is


def test_blur_is_seen():
    sharp = nuclei((256, 256)).astype(np.float64)
    blurred = ndimage.gaussian_filter(sharp, 3)
    before, after = measure(sharp), measure(blurred)
    assert after["FocusScore"] < before["FocusScore"]
    assert after["PowerLogLogSlope"] < before["PowerLogLogSlope"] - 0.5


@pytest.mark.parametrize("exponent", [0, 2, 3])
def test_slope_of_noise_of_known_colour(exponent):
    side = 512
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:side, :side]
    away = np.hypot(np.minimum(y, side - y), np.minimum(x, side - x))
    spectrum = fft.fft2(rng.normal(size=(side, side))) / np.maximum(away, 1) ** (exponent / 2)
    # A ring's power is that at its frequency times its length.
    assert measure(fft.ifft2(spectrum).real)["PowerLogLogSlope"] == pytest.approx(1 - exponent, abs=0.12)


def test_slope_of_a_smooth_plane_is_not_that_of_rounding():
    y, x = np.mgrid[:256, :256].astype(np.float64)
    image = 1000 + 3e4 * np.exp(-((y - 100) ** 2 + (x - 130) ** 2) / (2 * 8.0**2))
    expected = centrosome_slope(image)
    assert measure(image)["PowerLogLogSlope"] == pytest.approx(expected, rel=1e-6)


def test_stripes_correlate_with_their_own_phase():
    columns = np.arange(200)
    assert measure(np.tile(columns % SCALE, (60, 1)))["Correlation"] == pytest.approx(1, abs=1e-12)
    assert measure(np.tile(np.cos(np.pi * columns / SCALE), (60, 1)))["Correlation"] < -0.9


# What makes no difference


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float32, np.float64, ">u2"])
def test_pixel_types_make_no_difference(dtype):
    image = nuclei((97, 64))
    bin_width = np.ptp(image) / 65536
    for (name, expected), value in zip(measure(image).items(), measure(image.astype(dtype)).values(), strict=True):
        tolerance = {"atol": bin_width} if name == "ThresholdOtsu" else {"rtol": 1e-12}
        np.testing.assert_allclose(value, expected, err_msg=name, **tolerance)


@pytest.mark.parametrize("offset", [-40_000, 0, 3_000_000_000])
@pytest.mark.parametrize("factor", [1, 100])
def test_integers_of_any_range_are_told_apart(offset, factor):
    image = nuclei((50, 40), dtype=np.uint8).astype(np.int64) * 20 * factor + offset
    found, expected = measure(image), measure(image.astype(np.float64))
    assert np.ptp(image) * 100 / factor > 65536 > np.ptp(image) / factor  # either side of what is counted exactly
    for name in expected:
        bin_width = np.ptp(image) / 65536
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=bin_width, err_msg=name)


@pytest.mark.parametrize("factor", [0.25, 8.0])
@pytest.mark.parametrize("with_holes", [False, True], ids=["whole", "holed"])
def test_figures_scale_as_their_units_say(factor, with_holes):
    image = nuclei((97, 64)).astype(np.float64)
    if with_holes:
        image, _ = holed(image)
    before, _ = image_quality({"DNA": image})
    after, _ = image_quality({"DNA": image * factor})
    for feature in IMAGE_FEATURES:
        column = feature.column("DNA")
        expected = before[column] * (factor if feature.unit == "intensity" else 1)
        np.testing.assert_allclose(after[column], expected, rtol=1e-9, err_msg=column)


def test_missing_pixels_are_left_out():
    image = nuclei((97, 64)).astype(np.float64)
    missing = image.copy()
    missing[10:20, 5:30] = [[np.nan], [np.inf], [-np.inf], [np.nan], [np.nan]] * 2
    expected = measure(image[np.isfinite(missing)].reshape(1, -1))
    placed = {"Background", "LocalFocusScore", "Correlation", "PowerLogLogSlope"}
    found = measure(missing)
    for name in set(found) - placed:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)
    assert all(np.isfinite(found[name]) for name in placed)


# Odd planes

DEFINED_IF_CONSTANT = {
    "TotalIntensity": 7, "MeanIntensity": 7, "MedianIntensity": 7, "StdIntensity": 0, "MADIntensity": 0,
    "MinIntensity": 7, "MaxIntensity": 7, "LowerQuartileIntensity": 7, "UpperQuartileIntensity": 7, "Background": 7,
    "FocusScore": 0, "PercentMaximal": 100, "PercentMinimal": 100,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (64, 64)])
def test_constant_planes(dtype, shape):
    image = np.full(shape, 7, dtype)
    found = measure(image)
    for name, value in found.items():
        expected = DEFINED_IF_CONSTANT.get(name, np.nan) * (image.size if name == "TotalIntensity" else 1)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)
    assert image_quality({"DNA": image})[1] == (f"DNA: constant at {image.flat[0]}",)


@pytest.mark.parametrize("shape", [(0, 0), (0, 9), (9, 0)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_no_pixel_has_no_figures(shape, dtype):
    assert all(np.isnan(value) for value in measure(np.zeros(shape, dtype)).values())
    assert image_quality({"DNA": np.zeros(shape, dtype)})[1] == ()


def test_no_finite_pixel_has_no_figures():
    row, flags = image_quality({"DNA": np.full((40, 40), np.nan, np.float32)})
    assert all(np.isnan(row[column]) for column in ORDER)
    assert flags == ("DNA: 1600 pixels are not finite",)


@pytest.mark.parametrize(
    ("shape", "undefined"),
    [
        ((1, 2), {"LocalFocusScore", "Correlation", "PowerLogLogSlope"}),
        ((20, 20), {"LocalFocusScore", "Correlation", "PowerLogLogSlope"}),
        ((20, 21), {"PowerLogLogSlope"}),
        ((400, 31), {"PowerLogLogSlope"}),
        ((32, 32), set()),
    ],
)
def test_small_planes_have_what_is_defined(shape, undefined):
    image = np.random.default_rng(0).integers(100, 200, shape).astype(np.uint16)
    assert {name for name, value in measure(image).items() if np.isnan(value)} == undefined


def test_dark_and_negative_planes():
    assert np.isnan(measure(-nuclei((64, 64)).astype(np.float64))["FocusScore"])
    image = np.zeros((64, 64), np.uint16)
    image[:3, :3] = 50  # one tile is not dark: nothing to compare it with
    found = measure(image)
    assert np.isnan(found["LocalFocusScore"])
    assert found["ThresholdOtsu"] == 0
    assert found["PercentMinimal"] == pytest.approx(100 * (1 - 9 / 64**2))


def test_black_tiles_do_not_count():
    image = nuclei((80, 100))
    black = np.hstack([image, np.zeros((80, 60), np.uint16)])
    assert measure(black)["LocalFocusScore"] == pytest.approx(measure(image)["LocalFocusScore"], rel=1e-12)


@pytest.mark.parametrize("with_holes", [False, True], ids=["whole", "holed"])
def test_rounding_gives_a_constant_plane_no_slope(with_holes):
    image = np.full((67, 71), 0.1)  # its mean is not quite 0.1
    if with_holes:
        image, _ = holed(image)
    found = measure(image)
    assert np.isnan([found["PowerLogLogSlope"], found["Correlation"], found["ThresholdOtsu"]]).all()


@pytest.mark.parametrize("top", [65535, 65536, 70_000, 2**31 - 1])
def test_integers_that_span_more_than_16_bits_keep_their_values(top):
    found = measure(np.array([[-1, 5, top - 1, top - 1]], np.int32))
    assert (found["MinIntensity"], found["MaxIntensity"], found["PercentMaximal"]) == (-1, top - 1, 50)
    assert found["TotalIntensity"] == 2 * top + 2


@UNHURRIED
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40),
        elements=st.floats(),
        fill=st.sampled_from([0.0, np.nan, 1e308, -1e308]),
    )
)
def test_any_plane_is_described_without_a_warning(image):
    found = measure(image)
    pixels = image[np.isfinite(image)]
    if pixels.size:
        assert (found["MinIntensity"], found["MaxIntensity"]) == (pixels.min(), pixels.max())


# The table


def test_columns_are_those_declared():
    channels = ["DNA", "GFP"]
    row, _ = image_quality({name: nuclei((64, 64), seed) for seed, name in enumerate(channels)})
    assert list(row) == [column.replace("DNA", name) for name in channels for column in ORDER] + ["Image_QC_Flags"]
    assert [feature.column("DNA") for feature in IMAGE_FEATURES] == ORDER
    assert all(type(value) is float for column, value in row.items() if column != "Image_QC_Flags")
    assert row["Image_Intensity_MeanIntensity_DNA"] != row["Image_Intensity_MeanIntensity_GFP"]


def test_features_are_defined():
    assert all(feature.definition.endswith(".") and feature.source for feature in IMAGE_FEATURES)
    assert {feature.unit for feature in IMAGE_FEATURES} == {"intensity", "1", "%"}
    assert {feature.suffix for feature in IMAGE_FEATURES} == {"", str(SCALE)}


def test_saturation_is_flagged():
    image = np.clip(nuclei((64, 64)), None, 900)
    row, flags = image_quality({"DNA": image, "GFP": nuclei((64, 64))})
    assert flags == (f"DNA: {100 * (image == 900).mean():.1f} % of pixels are saturated",)
    assert row["Image_QC_Flags"] == flags[0]
