"""Kernels of feature measurement against their plain NumPy twins and independent libraries."""

from __future__ import annotations

import numpy as np
import pytest
from cellinfer_kernels import components, distance, intensity, radial, shape, texture, zernike
from cellinfer_kernels.reference import components as components_twin
from cellinfer_kernels.reference import distance as distance_twin
from cellinfer_kernels.reference import intensity as intensity_twin
from cellinfer_kernels.reference import radial as radial_twin
from cellinfer_kernels.reference import shape as shape_twin
from cellinfer_kernels.reference import texture as texture_twin
from cellinfer_kernels.reference import zernike as zernike_twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import regionprops_table

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
label_images = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 1, 1, 2, 7]))
VALUES = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([np.nan, np.inf, 0.0, 1.0, 2.0, 5.0, 900.0]))
WHOLE = st.integers(0, 40).map(float)


@st.composite
def signals(draw, elements=VALUES):
    """Draw objects and a value for each of their pixels."""
    groups = components.group(draw(label_images))
    return groups, draw(hnp.arrays(np.float64, groups.pixels.size, elements=elements))


def blobs(seed=0, side=160):
    """Random smooth objects, some with holes, some cut by the border, ids with gaps; and a noisy 16-bit image."""
    rng = np.random.default_rng(seed)
    labels, _ = components.label(ndimage.gaussian_filter(rng.random((side, side)), 4) > 0.5, 2)
    image = ndimage.gaussian_filter(rng.random((side, side)), 2) * 60000
    return components.remove_small(labels, 12) * 3, (image + rng.integers(0, 4000, (side, side))).astype(np.uint16)


def assert_same(result, expected, **tolerance):
    """Compare named tuples of arrays, of named tuples too."""
    for name, mine, theirs in zip(result._fields, result, expected, strict=True):
        if hasattr(mine, "_fields"):
            assert_same(mine, theirs, **tolerance)
        else:
            np.testing.assert_allclose(mine, theirs, err_msg=name, **{"rtol": 1e-9, "atol": 1e-9, **tolerance})


# Twins


@UNHURRIED
@given(label_images)
def test_grouping_equals_twin(labels):
    result, expected = components.group(labels), components_twin.group(labels)
    for mine, theirs in zip(result, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@UNHURRIED
@given(label_images, st.sampled_from(["uint8", ">u2", "uint16", "float32", "float64", "int32", "bool"]))
def test_gathering_equals_twin(labels, dtype):
    image = np.arange(labels.size * 2).astype(dtype).reshape(labels.shape[0], -1)[:, ::2]
    groups = components.group(labels)
    values = components.gather(groups, image)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, components_twin.gather(groups, image))
    with pytest.raises(ValueError, match="does not fit"):
        components.gather(groups, image[:, :0])


@UNHURRIED
@given(label_images)
def test_depths_equal_twin(labels):
    groups = components.group(labels)
    depths = distance.depths(groups)
    np.testing.assert_array_equal(distance.depth(labels), distance_twin.depth(labels))
    np.testing.assert_array_equal(depths, distance_twin.depths(groups))
    np.testing.assert_array_equal(depths, distance.depth(labels).ravel()[groups.pixels])
    within, expected = (module.depths_within_image(groups, depths) for module in (distance, distance_twin))
    np.testing.assert_array_equal(within, expected)


@UNHURRIED
@given(label_images)
def test_shapes_equal_twin(labels):
    groups = components.group(labels)
    assert_same(shape.outlines(groups), shape_twin.outlines(groups))
    result = shape.hulls(groups)
    expected = shape_twin.hulls(groups)
    beyond = result.circles.beyond  # which corners rounding puts outside is nothing that a twin could say
    assert_same(result._replace(circles=result.circles._replace(beyond=expected.circles.beyond)), expected)
    for k, y, x in beyond:
        away = np.hypot(*(np.array([y, x]) - result.circles.centre[k]))
        np.testing.assert_allclose(away, result.circles.radius[k], rtol=1e-12)
        assert labels[y, x] == groups.ids[k]


@UNHURRIED
@given(label_images)
def test_moments_equal_twin(labels):
    groups = components.group(labels)
    assert_same(shape.moments(groups), shape_twin.moments(groups), rtol=1e-9, atol=1e-9)


@UNHURRIED
@given(label_images)
def test_radii_equal_twin(labels):
    groups = components.group(labels)
    depths = distance.depths(groups)
    for mine, theirs in zip(shape.radii(groups.begins, depths), shape_twin.radii(groups.begins, depths), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@UNHURRIED
@given(signals(st.one_of(VALUES, WHOLE)), st.booleans())
def test_intensities_equal_twin(signal, legacy):
    groups, values = signal
    result = intensity.intensities(groups, values, legacy=legacy)
    expected = intensity_twin.intensities(groups, values, legacy=legacy)
    # A weighted centroid is ill-conditioned where positive and negative values nearly cancel.
    stable = np.abs(expected.total) > 1e-3
    for name in result._fields:
        mine, theirs = getattr(result, name), getattr(expected, name)
        if name in ("mass_y", "mass_x", "displacement"):
            mine, theirs = mine[stable], theirs[stable]
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("spread", [3, 500, 60000])
def test_quantiles_of_whole_numbers_do_not_depend_on_the_way(spread, legacy):
    """Counted where they lie close, selected where not: adding a half makes every object's values no whole numbers."""
    groups = components.group(blobs()[0])
    values = np.random.default_rng(0).integers(0, spread, groups.pixels.size).astype(np.float64)
    counted = intensity.intensities(groups, values, legacy=legacy)
    selected = intensity.intensities(groups, values + 0.5, legacy=legacy)
    for name in ("lower_quartile", "median", "upper_quartile"):
        np.testing.assert_allclose(getattr(counted, name), getattr(selected, name) - 0.5, rtol=1e-12)
    np.testing.assert_allclose(counted.mad, selected.mad, rtol=1e-12)


@UNHURRIED
@given(signals(), st.integers(0, 9))
def test_zernikes_equal_twin(signal, degree):
    groups, values = signal
    circles = shape.hulls(groups).circles
    mine, theirs = (module.shape_zernikes(groups, circles, degree) for module in (zernike, zernike_twin))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    mine, theirs = (module.weighted_zernikes(groups, circles, values, degree) for module in (zernike, zernike_twin))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-6)


def ring_inputs(groups):
    depths = distance.depths_within_image(groups, distance.depths(groups))
    return depths, radial.centres(groups, depths)


@UNHURRIED
@given(signals(), st.integers(1, 5), st.sampled_from([None, 1.0, 3.5]), st.booleans(), st.booleans(), st.booleans())
def test_rings_equal_twin(signal, bins, radius, from_edges, straight, moved):
    groups, values = signal
    depths, middles = ring_inputs(groups)
    np.testing.assert_array_equal(middles, radial_twin.centres(groups, depths))
    middles = middles + np.int32(moved)  # the centre may lie outside the object
    cores = depths > 1 if from_edges else None
    mine, theirs = (
        module.rings(groups, depths, middles, bins=bins, radius=radius, cores=cores, straight=straight)
        for module in (radial, radial_twin)
    )
    np.testing.assert_array_equal(mine.codes, theirs.codes)
    totals = np.array([np.abs(part[np.isfinite(part)].sum()) for part in np.split(values, groups.begins[1:-1])])
    mine, theirs = (module.spread(groups.begins, mine, values) for module in (radial, radial_twin))
    stable = totals > 1e-3 if groups.ids.size else np.zeros(0, bool)  # shares of nearly nothing are rounding
    for name in ("fraction", "mean_fraction"):
        np.testing.assert_allclose(getattr(mine, name)[:, stable], getattr(theirs, name)[:, stable], rtol=1e-6)


@UNHURRIED
@given(signals(st.floats(1, 1000)))
def test_variation_over_wedges_equals_twin(signal):
    groups, values = signal
    found = radial.rings(groups, *ring_inputs(groups))
    mine, theirs = (module.spread(groups.begins, found, values) for module in (radial, radial_twin))
    np.testing.assert_allclose(mine.variation, theirs.variation, rtol=1e-9, atol=1e-12)


@UNHURRIED
@given(signals(), st.sampled_from([2, 8, 100, 256]), st.sampled_from([1.0, 255.0, 900.0]))
def test_grey_levels_equal_twin(signal, levels, largest):
    _, values = signal
    mine, theirs = (module.grey_levels(values, largest, levels) for module in (texture, texture_twin))
    np.testing.assert_array_equal(mine, theirs)


@UNHURRIED
@given(
    signals(st.integers(0, 255).map(float) | st.sampled_from([0.0, 1.0, 2.0, 255.0])),
    st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
)
def test_textures_equal_twin(signal, scales):
    groups, values = signal
    greys = values.astype(np.uint8)
    mine, theirs = (module.haralick(groups, greys, scales) for module in (texture, texture_twin))
    np.testing.assert_allclose(mine[:, :, :12], theirs[:, :, :12], rtol=1e-9, atol=1e-9)
    # The root of nearly nothing: rounding of 1e-15 becomes 1e-7.
    np.testing.assert_allclose(mine[:, :, 12], theirs[:, :, 12], rtol=1e-6, atol=1e-6)


# Independent libraries


@pytest.mark.parametrize("seed", range(3))
def test_rings_are_those_of_cp_measure(seed):
    from cp_measure.core.measureobjectintensitydistribution import get_radial_distribution

    labels, image = blobs(seed)
    labels = components.relabel(labels)
    groups = components.group(labels)
    values = image.ravel()[groups.pixels].astype(np.float64)
    for options in ({}, {"bin_count": 6}, {"scaled": False, "bin_count": 3, "maximum_radius": 9}):
        bins = options.get("bin_count", 4)
        radius = None if options.get("scaled", True) else options["maximum_radius"]
        found = radial.rings(groups, *ring_inputs(groups), bins=bins, radius=radius)
        mine = radial.spread(groups.begins, found, values)
        with np.errstate(invalid="ignore"):
            expected = get_radial_distribution(labels, image.astype(np.float64), **options)
        names = [f"{ring + 1}of{bins}" for ring in range(bins)] + ([] if radius is None else ["Overflow"])
        for ring, suffix in enumerate(names):
            for field, name in (("fraction", "FracAtD"), ("mean_fraction", "MeanFrac"), ("variation", "RadialCV")):
                theirs = expected[f"RadialDistribution_{name}_{suffix}"]
                np.testing.assert_allclose(getattr(mine, field)[ring], theirs, rtol=1e-9, err_msg=f"{name} {suffix}")


@pytest.mark.parametrize("levels", [256, 8])
@pytest.mark.parametrize("scale", [1, 3, 10])
def test_textures_are_those_of_mahotas(scale, levels):
    import mahotas

    labels, image = blobs(1)
    groups = components.group(labels)
    greys = texture.grey_levels(image.ravel()[groups.pixels].astype(np.float64), 65535.0, levels)
    mine = texture.haralick(groups, greys, [scale])[0]
    plane = np.zeros(labels.shape, np.uint8)
    plane.ravel()[groups.pixels] = greys
    missing = 0
    for k, (name, (y0, x0, y1, x1)) in enumerate(zip(groups.ids, groups.boxes, strict=True)):
        crop = np.where(labels[y0:y1, x0:x1] == name, plane[y0:y1, x0:x1], 0)
        try:
            theirs = mahotas.features.haralick(crop, distance=scale, ignore_zeros=True)
        except ValueError:  # no pair in some direction
            assert np.isnan(mine[:, :, k]).all()
            missing += 1
            continue
        np.testing.assert_allclose(mine[:, :12, k], theirs[:, :12], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(mine[:, 12, k], theirs[:, 12], rtol=1e-6, atol=1e-6)
    assert missing < groups.ids.size


def test_zernikes_are_those_of_mahotas():
    """Of a disk around a pixel: mahotas wants to be told the circle, and leaves out what lies on it."""
    import mahotas

    y, x = np.mgrid[-20:21, -20:21]
    mask = ((y * 1.3) ** 2 + (x + 0.2 * y) ** 2 < 14**2).astype(np.int32)
    groups = components.group(mask)
    circles = shape.hulls(groups).circles
    centre = (circles.centre[0, 0], circles.centre[0, 1])
    radius = circles.radius[0] * 1.001  # everything inside for both
    grown = circles._replace(radius=np.array([radius]), beyond=np.empty((0, 3), np.int32))
    mine = np.abs(zernike.shape_zernikes(groups, grown, 9))[0]
    theirs = mahotas.features.zernike_moments(mask, radius, degree=9, cm=centre)
    factor = np.array([(n + 1) / np.pi / groups.pixels.size for n, _ in zernike.orders(9)])
    np.testing.assert_allclose(mine * factor, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_are_those_of_skimage(seed):
    labels, _ = blobs(seed)
    outlines = shape.outlines(components.group(labels))
    wanted = ("perimeter", "perimeter_crofton", "euler_number", "area_filled")
    expected = regionprops_table(labels, properties=wanted)
    for mine, name in zip(outlines, wanted, strict=True):
        np.testing.assert_allclose(mine, expected[name], rtol=1e-9, err_msg=name)


def zigzag(side):
    """One corridor with more turns than sweeps are made."""
    mask = np.zeros((side, side), np.int32)
    mask[::2] = 1
    mask[1::4, -1] = mask[3::4, 0] = 1
    return mask


def test_distances_through_a_labyrinth_equal_twin():
    groups = components.group(np.pad(zigzag(61), 1))
    mine, theirs = (module.rings(groups, *ring_inputs(groups)) for module in (radial, radial_twin))
    np.testing.assert_array_equal(mine.codes, theirs.codes)
    assert (mine.codes >= 0).all()


def test_rings_of_next_to_no_radius_hold_the_centre_only():
    groups = components.group(np.ones((9, 9), np.int32))
    codes = radial.rings(groups, *ring_inputs(groups), radius=1e-20).codes
    assert np.count_nonzero(codes < 8) == 1
    assert np.count_nonzero(codes >= 32) == 80


# Odd input


def test_many_corners_on_one_circle_find_a_place():
    """More corners outside their circles by rounding than the first list of them holds."""
    tile = np.zeros((7, 7), np.int32)
    tile[3, 1:6] = tile[1:6, 3] = tile[2:5, 2:5] = 1
    tiles = np.kron(np.arange(1, 1601).reshape(40, 40), tile).astype(np.int32)
    groups = components.group(tiles)
    circles = shape.hulls(groups).circles
    np.testing.assert_allclose(circles.radius, 2.0)
    assert len(circles.beyond) <= 4 * groups.ids.size


def test_an_object_that_fills_the_image_has_depths():
    groups = components.group(np.ones((5, 9), np.int32))
    depths = distance.depths(groups)
    assert depths.max() == 9
    np.testing.assert_array_equal(distance.depths_within_image(groups, depths), depths)


def test_what_the_centre_cannot_reach_is_in_no_ring():
    labels = np.zeros((5, 12), np.int32)
    labels[1:4, 1:4] = labels[1:3, 8:10] = 4  # one id, two places
    groups = components.group(labels)
    found = radial.rings(groups, *ring_inputs(groups))
    apart = groups.pixels % 12 >= 8
    assert (found.codes[apart] == -1).all()
    assert (found.codes[~apart] >= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, v: radial.rings(g, *ring_inputs(g), bins=0), "rings"),
        (lambda g, v: radial.rings(g, *ring_inputs(g), radius=-1.0), "radius"),
        (lambda g, v: texture.haralick(g, v.astype(np.uint8), [0]), "scales"),
        (lambda g, v: texture.grey_levels(v, 0.0), "largest"),
        (lambda g, v: texture.grey_levels(v, 1.0, 257), "grey levels"),
        (lambda g, v: intensity.intensities(g, v[1:]), "values"),
    ],
)
def test_senseless_arguments_are_refused(call, message):
    groups = components.group(np.ones((3, 3), np.int32))
    with pytest.raises(ValueError, match=message):
        call(groups, np.ones(9))
