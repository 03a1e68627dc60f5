"""Colocalisation against its twin, CellProfiler's definitions (cp-measure), and known cases."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from cellinfer_kernels import colocalization as kernels
from cellinfer_kernels import components
from cellinfer_kernels.colocalization import Colocalization
from cellinfer_kernels.reference import colocalization as twin
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
label_images = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 1, 1, 2, 7]))
seeds = st.integers(0, 2**32 - 1)
COSTES = ("costes_first", "costes_second")


def blobs(seed=0, side=160):
    rng = np.random.default_rng(seed)
    labels, _ = components.label(ndimage.gaussian_filter(rng.random((side, side)), 4) > 0.5, 2)
    return components.relabel(components.remove_small(labels, 12))


def textures(seed=0, side=160, noise=60.0):
    """Five 16-bit channels: a texture, one like it, one against it, noise, and one that is mostly 0."""
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.random((side, side)), 1.5) * 9000 - 3500
    like = 0.6 * base + rng.normal(0, noise, base.shape) + 150
    against = 65535 - 12 * base + rng.normal(0, 10 * noise, base.shape)
    alone = rng.normal(900, 100, base.shape)
    dark = 3 * (base - 1200)
    return [np.clip(np.round(plane), 0, 65535) for plane in (base, like, against, alone, dark)]


def measured(module, labels, first, second, **options):
    groups = components.group(labels)
    a, b = (image.ravel()[groups.pixels].astype(np.float64) for image in (first, second))
    both = module.ranks(groups.begins, a), module.ranks(groups.begins, b)
    return module.colocalization(groups.begins, a, b, *both, **options)


def assert_same(result, expected, names=Colocalization._fields, **tolerance):
    for name in names:
        mine, theirs = getattr(result, name), getattr(expected, name)
        np.testing.assert_allclose(mine, theirs, err_msg=name, **{"rtol": 1e-9, "atol": 1e-12, **tolerance})


def cp_measured(labels, first, second, steps):
    """Colocalisation by cp-measure, of images whose values are 0 .. 1."""
    cp = pytest.importorskip("cp_measure.core.measurecolocalization", reason="cp-measure is not installed")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tables = [
            cp.get_correlation_pearson(first, second, labels),
            cp.get_correlation_overlap(first, second, labels),
            cp.get_correlation_manders_fold(first, second, labels),
            cp.get_correlation_rwc(first, second, labels),
            cp.get_correlation_costes(first, second, labels, scale_max=steps),
        ]
    return Colocalization(*(np.array(column) for table in tables for column in table.values()))


# Ranks


@given(hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(width=16)), seeds)
def test_ranks_equal_twin(values, seed):
    inner = np.random.default_rng(seed).integers(0, values.size + 1, 3)
    begins = np.array([0, *sorted(inner), values.size])
    np.testing.assert_array_equal(kernels.ranks(begins, values), twin.ranks(begins, values))


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: rng.normal(size=5000),
        lambda rng: rng.integers(0, 65536, 5000),
        lambda rng: rng.integers(0, 2**62, 5000),
        lambda rng: np.exp(rng.normal(0, 40, 5000)),  # nearly all in one bin of equal width
        lambda rng: np.append(np.round(rng.normal(size=5000), 1), [1e300, -1e300, 1e308, -1e308]),
        lambda rng: np.sort(rng.normal(size=5000))[::-1],
        lambda rng: rng.choice([0.0, 5e-324, -0.0, 0.5], 5000),
        lambda rng: np.full(50, 0.1),
        lambda rng: -(10.0 ** rng.integers(0, 300, 500)),
    ],
)
def test_ranks_of_all_kinds_of_numbers(make):
    values = make(np.random.default_rng(0)).astype(np.float64)
    begins = np.array([0, 3, values.size])
    result = kernels.ranks(begins, values)
    assert result.dtype == np.int32
    for start, stop in itertools.pairwise(begins):
        _, expected = np.unique(values[start:stop], return_inverse=True)
        np.testing.assert_array_equal(result[start:stop], expected)


# Against the twin


@given(label_images, seeds, st.sampled_from([1.0, 0.999, 0.3, -0.9]), st.sampled_from([0.0, 0.4]))
def test_all_columns_equal_twin(labels, seed, likeness, dark):
    """Real numbers, since a correlation of exactly 0 has the sign of its rounding error."""
    rng = np.random.default_rng(seed)
    first = rng.random(labels.shape)
    second = likeness * first + (likeness < 0) + (1 - abs(likeness)) * rng.random(labels.shape)
    second *= 0.9 - 0.1 * first  # never on one line: which side of it a pixel lies on would be rounding too
    first[rng.random(labels.shape) < dark] = 0
    second[rng.random(labels.shape) < dark] = 0
    first[rng.random(labels.shape) < 0.03] = np.nan
    second[rng.random(labels.shape) < 0.03] = np.inf
    options = {"largest": (1.0, 1.3), "steps": int(rng.choice([2, 3, 20, 255, 65535, 2**32 - 1])), "threshold": 30.0}
    result, expected = (measured(module, labels, first, second, **options) for module in (kernels, twin))
    assert_same(result, expected)


few_values = st.sampled_from([-3.0, 0.0, 1.0, 2.0, 50.0, 1000.0, np.nan])


@given(label_images, st.data())
def test_few_values_equal_twin(labels, data):
    first, second = (data.draw(hnp.arrays(np.float64, labels.shape, elements=few_values)) for _ in range(2))
    result, expected = (measured(module, labels, first, second) for module in (kernels, twin))
    assert_same(result, expected, [name for name in Colocalization._fields if name not in COSTES], atol=1e-9)


@pytest.mark.parametrize("largest", [65535.0, 80000.0])
@pytest.mark.parametrize("steps", [255, 4095, 65535, 2**32 - 1])
def test_textures_equal_twin(steps, largest):
    labels, planes = blobs(), textures()
    for first, second in itertools.permutations(planes, 2):
        options = {"steps": steps, "largest": (65535.0, largest)}
        assert_same(*(measured(module, labels, first, second, **options) for module in (kernels, twin)))


def test_candidates_are_those_of_cellprofiler():
    for width in [*range(1, 3000), *range(60_000, 66_000), *range(2**32 - 3000, 2**32)]:
        divisor = 6 / 5 if width > 6 else 2
        assert kernels._between(17, 17 + width) == width // divisor + 17


# Against cp-measure


@pytest.mark.parametrize("seed", range(2))
def test_every_value_is_that_of_cp_measure(seed):
    labels, planes = blobs(seed), textures(seed)
    searches = set()
    for first, second in itertools.combinations(planes, 2):
        for one, other in ((first, second), (second, first)):
            result = measured(kernels, labels, one, other)
            assert_same(result, cp_measured(labels, one / 65535, other / 65535, 65535))
            undefined = np.isnan(result.costes_first)
            searches |= {(sign, bool(nan)) for sign, nan in zip(np.sign(result.correlation), undefined, strict=True)}
    # Both directions of the line, with and without thresholds.
    assert {(1.0, False), (1.0, True), (-1.0, True)} <= searches


def test_falling_lines_are_those_of_cp_measure():
    """They have thresholds only where some pixels are brighter than the first candidate, 5/6 of the scale."""
    labels = np.repeat(np.arange(1, 121, dtype=np.int32)[:, None], 7, axis=1)
    rng = np.random.default_rng(3)
    first, second = rng.random(labels.shape), rng.random(labels.shape)
    result = measured(kernels, labels, first, second, largest=(1.0, 1.0), steps=4095)
    assert_same(result, cp_measured(labels, first, second, 4095))
    assert np.isfinite(result.costes_first[result.correlation < 0]).any()


def test_sparse_channels_are_those_of_cp_measure():
    """Backgrounds that are constant or of fewer than three pixels, at many of the thresholds."""
    labels = blobs(4)
    rng = np.random.default_rng(4)
    first = rng.random(labels.shape) * (rng.random(labels.shape) < 0.1)
    for second in (
        rng.random(labels.shape) * (rng.random(labels.shape) < 0.1),
        0.5 * first + 0.1 * rng.random(labels.shape) * (first > 0),
        np.where(first > 0.5, rng.random(labels.shape), 0.25),
    ):
        for one, other in ((first, second), (second, first)):
            result = measured(kernels, labels, one, other, largest=(1.0, 1.0), steps=65535)
            expected = cp_measured(labels, one, other, 65535)
            known = np.isfinite(expected.correlation)
            assert_same(*(Colocalization(*(column[known] for column in table)) for table in (result, expected)))
            assert np.isnan(result.costes_first).any()


@pytest.mark.realdata
def test_real_cells_are_measured_as_cp_measure_does(data_folder):
    import tifffile

    folder = data_folder / "cell_painting_sites" / "cloome_site"
    names = ("Hoechst", "ERSyto", "Mito")
    dna, er, mito = (tifffile.imread(folder / f"{name}.tif").astype(np.float64) for name in names)
    smooth = ndimage.gaussian_filter(er, 2)
    labels = components.remove_small(components.label(smooth > np.percentile(smooth, 70))[0], 30, renumber=True)
    assert labels.max() > 20
    for first, second in ((er, mito), (dna, er)):
        result = measured(kernels, labels, first, second)
        assert_same(result, cp_measured(labels, first / 65535, second / 65535, 65535))


# Known cases


def test_identical_channels():
    labels, plane = blobs(), textures()[0]
    result = measured(kernels, labels, plane, plane)
    for name in ("correlation", "slope", "overlap", "k_first", "k_second", "manders_first", "rwc_second"):
        np.testing.assert_allclose(getattr(result, name), 1.0, rtol=1e-12, err_msg=name)


def test_a_line_has_its_slope():
    labels, plane = blobs(), textures()[0]
    result = measured(kernels, labels, plane, 5000 - 0.25 * plane)
    np.testing.assert_allclose(result.slope, -0.25, rtol=1e-9)
    np.testing.assert_allclose(result.correlation, -1, rtol=1e-9)
    assert np.isnan(result.costes_first).all()


def test_a_bright_field_keeps_its_precision():
    labels, (first, second, *_) = blobs(), textures()
    expected = measured(kernels, labels, first, second).correlation
    np.testing.assert_allclose(measured(kernels, labels, first + 1e9, second).correlation, expected, rtol=1e-9)


def test_swapping_the_channels_swaps_the_columns():
    labels, (first, second, *_) = blobs(), textures()
    one, other = measured(kernels, labels, first, second), measured(kernels, labels, second, first)
    for mine, theirs in (
        ("correlation", "correlation"),
        ("overlap", "overlap"),
        ("k_first", "k_second"),
        ("manders_first", "manders_second"),
        ("rwc_first", "rwc_second"),
    ):
        np.testing.assert_allclose(getattr(one, mine), getattr(other, theirs), rtol=1e-12, err_msg=mine)


def test_disconnected_objects_are_one():
    labels = np.zeros((12, 12), np.int32)
    labels[1:4, 1:5], labels[6:11, 7:11], labels[0, 11] = 5, 5, 9
    first, second = (plane[:12, :12] for plane in textures()[:2])
    together = measured(kernels, labels, first, second)
    inside = labels == 5
    alone = measured(kernels, np.ones((1, 32), np.int32), first[inside][None], second[inside][None])
    for mine, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-12)


def test_an_object_may_fill_the_image():
    first, second = textures()[:2]
    labels = np.ones(first.shape, np.int32)
    assert_same(*(measured(module, labels, first, second) for module in (kernels, twin)))


def test_no_objects_give_empty_columns():
    empty = np.zeros((4, 5))
    result = measured(kernels, empty.astype(np.int32), empty, empty)
    assert [(column.shape, column.dtype) for column in result] == [((0,), np.float64)] * 11


def test_one_pixel_has_no_correlation_but_overlaps():
    result = measured(kernels, np.ones((1, 1), np.int32), np.full((1, 1), 4.0), np.full((1, 1), 2.0))
    assert [float(column[0]) for column in result[2:9]] == [1, 0.5, 2, 1, 1, 1, 1]
    assert np.isnan([result.correlation, result.slope, result.costes_first, result.costes_second]).all()


def test_constant_channels_have_no_correlation():
    labels = np.ones((3, 4), np.int32)
    constant, ramp = np.full((3, 4), 0.1), np.arange(12.0).reshape(3, 4)
    result = measured(kernels, labels, constant, ramp)
    assert np.isnan([result.correlation, result.slope, result.costes_first]).all()
    result = measured(kernels, labels, ramp, constant)
    assert np.isnan([result.correlation, result.costes_first]).all()
    assert result.slope == 0
    np.testing.assert_allclose(result.manders_second, 10 / 12)  # the ramp's 0 and 1 are below 15 % of 11


def test_channels_that_are_nowhere_bright_together_have_zeros():
    labels = np.ones((1, 6), np.int32)
    first, second = np.array([[9.0, 8, 7, 0, 0, 0]]), np.array([[0.0, 0, 0, 7, 8, 9]])
    result = measured(kernels, labels, first, second)
    assert [float(column[0]) for column in result[2:9]] == [0] * 7


def test_black_channels_are_undefined():
    labels, black = np.ones((2, 3), np.int32), np.zeros((2, 3))
    result = measured(kernels, labels, black, black)
    assert np.isnan(list(result)).all()


def test_non_finite_pixels_do_not_count():
    labels = blobs()
    first, second = textures()[:2]
    holes = np.random.default_rng(0).random(labels.shape) < 0.1
    without = np.where(holes, 0, labels)
    assert components.areas(without)[0].size == labels.max()
    # In both channels, so that ranks leave them out as well.
    result = measured(kernels, labels, np.where(holes, np.nan, first), np.where(holes, np.inf, second))
    assert_same(result, measured(kernels, without, first, second))
    nothing = measured(kernels, labels, np.full(labels.shape, np.nan), second)
    assert np.isnan(list(nothing)).all()


def test_intensities_outside_the_scale_have_no_costes_coefficients():
    labels, (first, second, *_) = blobs(), textures()
    usual = measured(kernels, labels, first, second)
    dark, light = np.flatnonzero(np.isfinite(usual.costes_first))[:2]
    outside = np.array([dark, light])
    first[labels == dark + 1] -= first[labels == dark + 1].min() + 1
    second[labels == light + 1] += 65535
    result = measured(kernels, labels, first, second)
    assert np.isnan(result.costes_first[outside]).all()
    assert np.isfinite(result.correlation[outside]).all()
    np.testing.assert_array_equal(np.delete(result.costes_first, outside), np.delete(usual.costes_first, outside))


def test_misfits_are_refused_by_name():
    begins, values = np.array([0, 3]), np.arange(3.0)
    order = kernels.ranks(begins, values)
    with pytest.raises(ValueError, match=r"values .*\(3,\).*\(2,\)"):
        kernels.ranks(begins, values[:2])
    with pytest.raises(ValueError, match=r"second .*\(3,\).*\(3, 1\)"):
        kernels.colocalization(begins, values, values[:, None], order, order)
    with pytest.raises(ValueError, match="largest"):
        kernels.colocalization(begins, values, values, order, order, largest=(1.0, 0.0))
    for steps in (1, 2**32):
        with pytest.raises(ValueError, match="steps"):
            kernels.colocalization(begins, values, values, order, order, steps=steps)
