"""Granularity against its twin, CellProfiler's definition (cp-measure) and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import components, granularity
from cellinfer_kernels.reference import granularity as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

# Per cent of the mean. Means are sums of hundreds of products in another order than elsewhere.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}

factors = st.sampled_from([0.25, 0.3, 0.5, 0.7, 1.0])
values = st.one_of(st.sampled_from([0, 1, 2, 50]), st.floats(-100, 1000))


@st.composite
def fields(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))
    labels = draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 1, 2, 7])))
    return labels, draw(hnp.arrays(np.float64, shape, elements=values))


def blobs(shape, seed=0):
    """Random smooth objects, many cut by the border, ids with gaps; and an image with structures of many sizes."""
    rng = np.random.default_rng(seed)
    noise = rng.random(shape)
    labels, _ = components.label(ndimage.gaussian_filter(noise, 3) > 0.5, 1)
    image = noise + sum(20 * s * ndimage.gaussian_filter(rng.random(shape) - 0.5, s) for s in (1, 2, 4, 8, 16, 32))
    image += np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / 50
    image -= image.min()
    return labels * 3, image / image.max()


def means(groups, image):
    return ndimage.mean(image, *_same(groups)) if groups.ids.size else np.empty(0)


def _same(groups):
    labels = np.zeros(groups.shape, np.int32)
    labels.flat[groups.pixels] = np.repeat(groups.ids, np.diff(groups.begins))
    return labels, groups.ids


def measured(labels, image, subsample=0.25, length=16, **options):
    groups = components.group(labels)
    weights = granularity.weights(groups, granularity.small_shape(labels.shape, subsample))
    spectrum = granularity.spectrum(image, subsample=subsample, length=length, **options)
    return granularity.granularity(weights, spectrum, means(groups, image.astype(np.float64)))


def oracle(labels, image, **options):
    pytest.importorskip("cp_measure", reason="cp-measure is not installed (extra: test)")
    from cp_measure.core.measuregranularity import get_granularity

    return np.array(list(get_granularity(components.relabel(labels), image.astype(np.float64), **options).values()))


# Kernels against their twins


@UNHURRIED
@given(fields(), factors)
def test_weights_equal_twin(field, subsample):
    groups = components.group(field[0])
    small = granularity.small_shape(groups.shape, subsample)
    assert small == twin.small_shape(groups.shape, subsample)
    result, expected = granularity.weights(groups, small), twin.weights(groups, small)
    for name in result._fields:
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), rtol=0, atol=1e-12, err_msg=name)


@UNHURRIED
@given(fields(), factors, factors, st.integers(1, 4), st.integers(1, 7))
def test_spectra_equal_twin(field, subsample, background_subsample, radius, length):
    options = {"subsample": subsample, "background_subsample": background_subsample, "radius": radius, "length": length}
    result, expected = granularity.spectrum(field[1], **options), twin.spectrum(field[1], **options)
    assert result.shape == expected.shape
    assert result.levels.shape == expected.levels.shape
    np.testing.assert_allclose(result.levels, expected.levels, rtol=1e-9, atol=1e-9)


@UNHURRIED
@given(fields(), factors)
def test_granularity_equals_twin(field, subsample):
    labels, image = field
    groups = components.group(labels)
    weights = granularity.weights(groups, granularity.small_shape(groups.shape, subsample))
    spectrum = granularity.spectrum(image, subsample=subsample, radius=2, length=5)
    mean = np.abs(means(groups, image)) + 1
    result = granularity.granularity(weights, spectrum, mean)
    np.testing.assert_allclose(result, twin.granularity(weights, spectrum, mean), rtol=1e-9, atol=1e-7)


# Other people's measurements


# No shape here has a background of 2 rows or columns, for which SciPy reads foreign memory.
@pytest.mark.parametrize("subsample", [0.25, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(130, 97), (64, 64), (44, 36), (9, 200), (160, 9)])
def test_granularity_is_that_of_cp_measure(shape, subsample):
    labels, image = blobs(shape)
    expected = oracle(labels, image, subsample_size=subsample)
    assert not np.isnan(expected).any()
    np.testing.assert_allclose(measured(labels, image, subsample), expected, **TOLERANCE)


def test_granularity_of_a_large_field_is_that_of_cp_measure():
    labels, image = blobs((1000, 777))
    result, expected = measured(labels, image), oracle(labels, image)
    assert expected.shape[1] > 300
    assert (expected > 1).any(axis=1).sum() > 8  # light is lost at most steps, so that the comparison says something
    np.testing.assert_allclose(result, expected, **TOLERANCE)
    counts = np.round(image * 4095).astype(np.uint16)
    np.testing.assert_allclose(measured(labels, counts), oracle(labels, counts), **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"background_subsample": 0.5},
        {"background_subsample": 0.7},  # some samples of the background lie beyond the last pixel
        {"background_subsample": 1.0, "radius": 3},
        {"radius": 1, "length": 3},
        {"length": 40},
    ],
)
def test_parameters_are_those_of_cp_measure(options):
    labels, image = blobs((93, 118))
    theirs = {"background_subsample": "image_sample_size", "radius": "element_size"}
    translated = {theirs.get(name, "granular_spectrum_length"): value for name, value in options.items()}
    expected = oracle(labels, image, subsample_size=0.5, **translated)
    np.testing.assert_allclose(measured(labels, image, 0.5, **options), expected, **TOLERANCE)


def terrain(kind, side=90):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side].astype(float)
    paths = (y % 4 < 2) | ((x < 3) & (y % 8 < 4)) | ((x > side - 4) & (y % 8 > 3))
    return {
        "noise": rng.random((side, side)),
        "plateaus": rng.integers(0, 4, (side, side)).astype(float),
        "large plateaus": np.kron(rng.integers(0, 9, (side // 5, side // 5)), np.ones((5, 5))),
        "ramp": y + x,
        "dome": side - np.hypot(y - 30, x - 50),
        "waves": 10 + np.sin(np.hypot(y - 30, x - 50)) + x / side,
        "maze": np.where(paths, 5 + (y + x) / side, 1.0),
        "constant": np.full((side, side), 7.0),
        "line": rng.random((2, side * 3)),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["noise", "plateaus", "large plateaus", "ramp", "dome", "waves", "maze", "constant", "line"]
)
def test_reconstructions_are_those_of_skimage_to_the_last_bit(kind):
    morphology = pytest.importorskip("skimage.morphology")
    image = terrain(kind)
    levels = granularity.spectrum(image, subsample=1, background_subsample=1, radius=7).levels
    disk, cross = morphology.disk(7), morphology.disk(1)
    mask = np.maximum(image - morphology.dilation(morphology.erosion(image, disk), disk), 0)
    assert (mask > 0).any() == (kind != "constant")
    eroded = mask
    for step in range(16):
        eroded = morphology.erosion(eroded, cross)
        expected = morphology.reconstruction(eroded, mask, footprint=cross)
        np.testing.assert_array_equal(levels[..., step], expected, err_msg=f"step {step + 1}")


# Meaning


def test_a_diamond_goes_when_the_steps_outgrow_it():
    image = np.zeros((80, 80))
    y, x = np.mgrid[:80, :80]
    for radius, (cy, cx) in enumerate([(10, 10), (10, 40), (40, 10), (40, 40), (65, 65)]):
        image[np.abs(y - cy) + np.abs(x - cx) <= radius] = radius + 1
    labels = np.where(image > 0, image, 0).astype(np.int32)
    losses = measured(labels, image, 1.0, background_subsample=1.0, length=8)
    np.testing.assert_allclose(losses, 100 * np.eye(8, 5), atol=1e-12)


def test_units_do_not_matter():
    labels, image = blobs((120, 120))
    np.testing.assert_allclose(measured(labels, image * 2**12), measured(labels, image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
def test_any_real_image_will_do(dtype):
    labels, image = blobs((60, 70))
    counts = (image * 255).astype(dtype)
    np.testing.assert_array_equal(measured(labels, counts), measured(labels, counts.astype(np.float64)))


# Edge cases


def test_last_pixels_beyond_the_last_sample_count_as_zero():
    labels = np.zeros((160, 160), np.int32)
    labels[159, 20:40] = 1
    labels[100:120, 159] = 2
    labels[50:60, 50:60] = 5
    labels[140:, 60:90] = 6
    small = granularity.small_shape(labels.shape, 0.4)
    assert 159 * ((small[0] - 1) / 159) > small[0] - 1  # the premise: rounding goes up here
    weights = granularity.weights(components.group(labels), small)
    sums = [part.sum() for part in np.split(weights.values, weights.offsets[1:-1])]
    np.testing.assert_allclose(sums, [0, 0, 100, 19 * 30], atol=1e-9)
    image = blobs(labels.shape)[1]
    np.testing.assert_allclose(measured(labels, image, 0.4), oracle(labels, image, subsample_size=0.4), **TOLERANCE)


def test_small_and_scattered_objects():
    image = blobs((80, 90))[1]
    labels = np.zeros(image.shape, np.int32)
    labels[0, 0] = 2
    labels[79, 89] = 3
    labels[41, 17] = 9
    labels[5:9, 80:] = 11
    labels[60:70, 3:9] = 11
    labels[20:40, 20:40] = 12
    labels[30, 30] = 14
    np.testing.assert_allclose(measured(labels, image), oracle(labels, image), **TOLERANCE)


def test_an_object_that_fills_the_image():
    image = blobs((80, 90))[1]
    labels = np.ones(image.shape, np.int32)
    np.testing.assert_allclose(measured(labels, image), oracle(labels, image), **TOLERANCE)


def test_no_objects():
    assert measured(np.zeros((40, 50), np.int32), np.ones((40, 50))).shape == (16, 0)
    assert measured(np.zeros((0, 0), np.int32), np.ones((0, 0))).shape == (16, 0)


def test_constant_and_black_images():
    labels = blobs((80, 90))[0]
    constant = measured(labels, np.full(labels.shape, 9.0))
    np.testing.assert_allclose(constant, oracle(labels, np.full(labels.shape, 9.0)), **TOLERANCE)
    assert (measured(labels, np.zeros(labels.shape)) == 0).all()  # the mean is 0: nothing to lose, not all lost


@pytest.mark.parametrize("shape", [(7, 200), (200, 7), (1, 1), (1, 300)])
def test_too_small_an_image_has_no_spectrum(shape):
    labels = np.ones(shape, np.int32)
    assert granularity.small_shape(shape) == (0, 0)
    result = measured(labels, np.ones(shape))
    assert result.shape == (16, 1)
    assert np.isnan(result).all()
    np.testing.assert_array_equal(oracle(labels, np.ones(shape)), result)


def test_pixels_that_are_not_finite_count_as_zero():
    image = blobs((70, 60))[1]
    image[::9, ::7] = np.nan
    image[4, 8], image[8, 4] = np.inf, -np.inf
    blank = np.where(np.isfinite(image), image, 0)
    for subsample in (0.25, 0.3):
        result = granularity.spectrum(image, subsample=subsample)
        np.testing.assert_array_equal(result.levels, granularity.spectrum(blank, subsample=subsample).levels)


def test_an_unknown_mean_has_no_spectrum():
    labels, image = blobs((70, 60))
    groups = components.group(labels)
    weights = granularity.weights(groups, granularity.small_shape(labels.shape))
    losses = granularity.granularity(weights, granularity.spectrum(image), np.full(groups.ids.size, np.nan))
    assert np.isnan(losses).all()


@pytest.mark.parametrize(
    "options",
    [
        {"subsample": 0},
        {"subsample": 1.5},
        {"subsample": np.nan},
        {"background_subsample": -1},
        {"radius": 0},
        {"length": 0},
        {"length": 256},
    ],
)
def test_parameters_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        granularity.spectrum(np.ones((40, 40)), **options)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="real"):
        granularity.spectrum(np.ones((40, 40), np.complex128))
    with pytest.raises(ValueError, match="2-D"):
        granularity.spectrum(np.ones(40))
    groups = components.group(np.ones((40, 40), np.int32))
    for small in [(41, 10), (1, 10), (0, 5)]:
        with pytest.raises(ValueError, match="does not fit labels"):
            granularity.weights(groups, small)
    weights = granularity.weights(groups, (10, 10))
    for other in [(40, 80), (42, 42)]:
        with pytest.raises(ValueError, match="does not fit weights"):
            granularity.granularity(weights, granularity.spectrum(np.ones(other)), np.ones(1))
    with pytest.raises(ValueError, match="means"):
        granularity.granularity(weights, granularity.spectrum(np.ones((40, 40))), np.ones(2))


def test_inputs_stay_as_they_are():
    image = blobs((64, 64))[1]
    before = image.copy()
    for factor in (0.25, 1.0):
        granularity.spectrum(image, subsample=factor, background_subsample=factor)
    np.testing.assert_array_equal(image, before)
