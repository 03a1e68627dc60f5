"""Measurements against their twins, scikit-image, CellProfiler's definitions (cp-measure) and geometry."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.measurement import (
    CELL_PAINTING,
    FAMILIES,
    PRESETS,
    Options,
    compartment_ratios,
    describe,
    feature_columns,
    measure,
    measure_compartments,
    relate_objects,
)
from cellinfer.measurement._registry import Objects, Plane, Signal
from cellinfer.measurement.ratios import ring_ratios
from cellinfer_kernels import components
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.measure import regionprops_table

UNHURRIED = settings(deadline=None)  # the first call of a kernel may compile it

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
label_images = hnp.arrays(np.int32, shapes, elements=st.sampled_from([0, 0, 1, 1, 2, 7]))


FEW_VALUES = st.sampled_from([0, 1, 2, 50, 1000])
ALL_VALUES = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([np.nan, np.inf, 0.0, 1.0]))


@st.composite
def fields(draw, elements=FEW_VALUES):
    labels = draw(label_images)
    return labels, draw(hnp.arrays(np.float64, labels.shape, elements=elements))


def blobs(seed=0, side=160):
    """Random smooth objects, some with holes, some cut by the border, ids with gaps; and a noisy image."""
    rng = np.random.default_rng(seed)
    labels, _ = components.label(ndimage.gaussian_filter(rng.random((side, side)), 4) > 0.5, 2)
    # cp-measure draws no perimeter through a point
    return components.remove_small(labels, 12) * 3, rng.integers(100, 4000, (side, side)).astype(np.uint16)


def assert_same(result, expected, **tolerance):
    for name in result._fields:
        np.testing.assert_allclose(
            getattr(result, name), getattr(expected, name), err_msg=name, **{"rtol": 1e-9, "atol": 1e-9, **tolerance}
        )


# Other people's measurements

SKIMAGE = {
    "area": "Area",
    "area_bbox": "BoundingBoxArea",
    "area_convex": "ConvexArea",
    "axis_major_length": "MajorAxisLength",
    "axis_minor_length": "MinorAxisLength",
    "bbox-0": "BoundingBoxMinimum_Y",
    "bbox-3": "BoundingBoxMaximum_X",
    "centroid-0": "Center_Y",
    "centroid-1": "Center_X",
    "eccentricity": "Eccentricity",
    "equivalent_diameter_area": "EquivalentDiameter",
    "euler_number": "EulerNumber",
    "extent": "Extent",
    "perimeter": "Perimeter",
    "solidity": "Solidity",
}


@pytest.mark.parametrize("seed", range(3))
def test_shapes_are_those_of_skimage(seed):
    labels, image = blobs(seed)
    table = measure(labels, {"DNA": image}, families=["AreaShape"])
    properties = {name.split("-")[0] for name in SKIMAGE} | {"label", "orientation"}
    expected = regionprops_table(labels, properties=list(properties))
    np.testing.assert_array_equal(table["ObjectNumber"], expected["label"])
    for theirs, mine in SKIMAGE.items():
        np.testing.assert_allclose(table[f"Nuclei_AreaShape_{mine}"], expected[theirs], rtol=1e-9, err_msg=mine)
    degrees = np.degrees(expected["orientation"])
    np.testing.assert_allclose(table["Nuclei_AreaShape_Orientation"], degrees, rtol=1e-7)


def cp_measure_says(labels, image, name="Nuclei", channel="DNA", legacy=False):
    """What cp-measure's default set says of one channel, under our column names, in the image's own units."""
    from cp_measure.bulk import get_core_measurements

    full = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0
    pixels = image / full
    expected = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for family, function in get_core_measurements(legacy=legacy).items():
            for key, values in function(labels, pixels).items():
                if family in ("sizeshape", "feret", "zernike"):
                    expected[f"{name}_AreaShape_{key}"] = values
                elif family == "texture":
                    feature, _, rest = key.partition("_")
                    expected[f"{name}_Texture_{feature}_{channel}_{rest}"] = values
                elif family.startswith("radial"):
                    category, feature, rest = key.split("_", 2)
                    unit = full if "Magnitude" in feature else 1.0
                    expected[f"{name}_{category}_{feature}_{channel}_{rest}"] = values * unit
                elif not key.endswith("_Z"):
                    unit = full if family == "intensity" and "Intensity_" in key[:10] and "Mass" not in key else 1.0
                    expected[f"{name}_{key}_{channel}"] = values * unit
    renamed = {"AreaFilled": "FilledArea"}
    return {column.replace(*next(iter(renamed.items()))): values for column, values in expected.items()}


OURS_ALONE = ("Location_Center_", "Number_Object_Number", "Neighbors_")
# Where rounding decides: corners on the unit circle are in or out by the last bit.
ROUNDING = ("Zernike",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_every_value_is_that_of_cp_measure(seed, legacy):
    labels, image = blobs(seed)
    options = Options(quartiles="cellprofiler" if legacy else "linear")
    table = measure(labels, {"DNA": image}, options=options)
    expected = cp_measure_says(components.relabel(labels), image, legacy=legacy)
    assert not set(expected) - set(table)
    alone = [column for column in list(table)[1:] if column not in expected]
    assert all(any(part in column for part in OURS_ALONE) for column in alone)
    for column, theirs in expected.items():
        mine = table[column].to_numpy()
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs), err_msg=column)
        close = np.isclose(mine, theirs, rtol=1e-6, atol=1e-9, equal_nan=True)
        if any(part in column for part in ROUNDING):
            assert close.mean() > 0.9, column
        elif "InfoMeas2" in column:
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6, err_msg=column)
        else:
            assert close.all(), (column, mine[~close], np.asarray(theirs)[~close])


@pytest.mark.realdata
def test_real_nuclei_are_measured_as_skimage_does(data_folder):
    import cv2
    import tifffile

    files = sorted((data_folder / "bbbc039" / "images").glob("*.tif"))[:3]
    assert files
    for file in files:
        image = tifffile.imread(file)
        labels = cv2.imread(str(data_folder / "bbbc039" / "masks" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
        table = measure(labels, {"DNA": image})
        wanted = (
            "label",
            "perimeter",
            "area_convex",
            "eccentricity",
            "euler_number",
            "intensity_mean",
            "intensity_std",
        )
        expected = regionprops_table(labels, image, properties=wanted)
        np.testing.assert_array_equal(table["ObjectNumber"], expected["label"])
        for column, theirs in {
            "AreaShape_Perimeter": "perimeter",
            "AreaShape_ConvexArea": "area_convex",
            "AreaShape_Eccentricity": "eccentricity",
            "AreaShape_EulerNumber": "euler_number",
            "Intensity_MeanIntensity_DNA": "intensity_mean",
            "Intensity_StdIntensity_DNA": "intensity_std",
        }.items():
            np.testing.assert_allclose(table[f"Nuclei_{column}"], expected[theirs], atol=1e-7, err_msg=column)


# Geometry

INVARIANT_UNDER_ROTATION = [
    "Area",
    "Compactness",
    "ConvexArea",
    "Eccentricity",
    "EulerNumber",
    "Extent",
    "FormFactor",
    "MajorAxisLength",
    "MaxFeretDiameter",
    "MeanRadius",
    "MinFeretDiameter",
    "MinorAxisLength",
    "Perimeter",
    "Solidity",
]


@UNHURRIED
@given(fields())
def test_turning_the_field_turns_only_places_and_angles(field):
    labels, image = field
    before = measure(labels, image)
    after = measure(np.rot90(labels), np.rot90(image))
    intensities = [f.name for f in FAMILIES["Intensity"].channel_features(Options())]
    for name in [f"AreaShape_{n}" for n in INVARIANT_UNDER_ROTATION] + intensities:
        np.testing.assert_allclose(after[f"Nuclei_{name}"], before[f"Nuclei_{name}"], atol=1e-7, err_msg=name)
    # Counter-clockwise by 90 degrees: (y, x) goes to (width - 1 - x, y).
    np.testing.assert_allclose(after["Nuclei_Location_Center_X"], before["Nuclei_Location_Center_Y"])
    np.testing.assert_allclose(
        after["Nuclei_Location_Center_Y"], labels.shape[1] - 1 - before["Nuclei_Location_Center_X"], atol=1e-9
    )


@UNHURRIED
@given(fields(), st.integers(0, 5), st.integers(0, 5))
def test_moving_the_field_moves_only_places(field, down, right):
    labels, image = field
    # A rim first: the image border is no outline, so objects that touch it do change when moved inwards.
    labels, image = np.pad(labels, 1), np.pad(image, 1)
    families = [name for name in FAMILIES if name != "Granularity"]  # which samples every fourth pixel
    before = measure(labels, image, families=families)
    padding = ((down, 0), (right, 0))
    after = measure(np.pad(labels, padding), np.pad(image, padding), families=families)
    for column in before:
        if any(part in column for part in ROUNDING):
            continue
        moved = ("Location" in column or "Center" in column or "BoundingBoxM" in column) and column[-2:] in ("_X", "_Y")
        shift = (right if column.endswith("_X") else down) if moved else 0
        np.testing.assert_allclose(after[column], before[column] + shift, atol=1e-7, err_msg=column)


@UNHURRIED
@example(  # a symmetric object, whose phases were those of rounding
    (
        np.array([[2, 7, 1, 1], [1, 1, 1, 7], [7, 1, 1, 1]], np.int32),
        1000.0 * np.array([[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]),
    ),
    [1, 7, 2],
)
@given(fields(), st.permutations([1, 2, 7]))
def test_ids_are_only_names(field, names):
    labels, image = field
    table = dict(zip([0, 1, 2, 7], [0, *names], strict=True))
    renamed = np.select([labels == old for old in table], list(table.values()), 0).astype(np.int32)
    families = [name for name in FAMILIES if name != "Neighbors"]  # which of two equally near comes first: the name
    before = measure(labels, image, families=families)
    after = measure(renamed, image, families=families).set_index("ObjectNumber")
    for column in ("ObjectNumber", "Nuclei_Number_Object_Number"):
        before[column] = before[column].map(table)
    expected = before.set_index("ObjectNumber").sort_index()
    assert list(after.columns) == list(expected.columns)
    assert list(after.index) == list(expected.index)
    np.testing.assert_allclose(after.to_numpy(np.float64), expected.to_numpy(np.float64), rtol=1e-5, atol=1e-8)


@UNHURRIED
@given(fields(), st.sampled_from([0.5, 4.0, 1024.0]))
def test_intensities_scale_with_the_image(field, factor):
    labels, image = field
    before = measure(labels, image, options=Options(full_scale=1000.0))
    after = measure(labels, image * factor, options=Options(full_scale=1000.0 * factor))
    described = describe("Nuclei", [""])
    factors = [factor if feature.unit == "intensity" else 1.0 for feature in described.values()]
    columns = list(described)
    np.testing.assert_allclose(after[columns].to_numpy(float), before[columns].to_numpy(float) * factors, atol=1e-9)


TURNED = {  # what a quarter turn makes of names; directions of texture turn back to front, which a pair does not notice
    **{f"_{d:02d}_256": f"_{e:02d}_256" for d, e in zip(range(4), (2, 3, 0, 1), strict=True)},
    "InertiaTensor_0_0": "InertiaTensor_1_1",
    "InertiaTensor_1_1": "InertiaTensor_0_0",
}
INVARIANT = ("Texture", "HuMoment", "FracAtD", "MeanFrac", "InertiaTensor", "Neighbors_N", "Percent", "ClosestDist")


@pytest.mark.parametrize("seed", range(2))
def test_a_quarter_turn_leaves_texture_rings_and_neighbours(seed):
    labels, image = blobs(seed)
    before = measure(labels, image).set_index("ObjectNumber")
    after = measure(np.rot90(labels), np.rot90(image)).set_index("ObjectNumber")
    compared = 0
    for column in before:
        if not any(part in column for part in INVARIANT) or "InertiaTensor_0_1" in column or "Tensor_1_0" in column:
            continue
        other = next((column.replace(old, new) for old, new in TURNED.items() if old in column), column)
        mine, theirs = after[other].to_numpy(), before[column].to_numpy()
        close = np.isclose(mine, theirs, rtol=1e-6, atol=1e-7, equal_nan=True)
        # Of several deepest pixels the first is the centre of the rings; which one that is turns with the field.
        assert close.mean() > (0.6 if "RadialDistribution" in column else 0.9999), column
        compared += 1
    assert compared > 70


def magnitudes(table):
    columns = [c for c in table if "Zernike" in c and "Phase" not in c]
    return table[columns]


def test_zernike_magnitudes_do_not_turn():
    """Of smooth shapes, apart from the corners that rounding puts on the other side of the unit circle."""
    y, x = np.mgrid[:61, :61]
    labels = ((y - 30) ** 2 + (1.4 * (x - 31)) ** 2 + 9 * np.sin(x / 4) < 24**2).astype(np.int32)
    image = (1000 + 30 * x + 7 * y).astype(np.uint16)
    before, after = (magnitudes(measure(turn(labels), turn(image))) for turn in (np.asarray, np.rot90))
    np.testing.assert_allclose(after, before, rtol=0, atol=5 / labels.sum() * before.max().max())


# Odd input


@UNHURRIED
@given(st.sampled_from([np.uint8, np.uint16, np.float32, np.float64]), label_images)
def test_pixel_types_make_no_difference(dtype, labels):
    image = (np.arange(labels.size).reshape(labels.shape) % 7 * 30).astype(dtype)
    options = Options(full_scale=255.0)
    measured = (measure(labels, pixels, options=options) for pixels in (image, image.astype(np.float64)))
    pd.testing.assert_frame_equal(*measured)


def test_no_objects_give_no_rows_of_the_same_table():
    labels, image = blobs()
    full = measure(labels, {"DNA": image, "GFP": image})
    empty = measure(np.zeros_like(labels), {"DNA": image, "GFP": image})
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert list(full) == ["ObjectNumber", *feature_columns("Nuclei", ["DNA", "GFP"])]
    assert full["ObjectNumber"].dtype == np.int64
    assert set(full.dtypes.iloc[1:]) == {np.dtype(np.float64)}
    assert measure(np.zeros((0, 5), np.int32), np.zeros((0, 5))).empty


def test_one_pixel_has_defined_values():
    labels = np.zeros((3, 4), np.int32)
    labels[1, 2] = 5
    row = measure(labels, {"DNA": np.full((3, 4), 9, np.uint8)}).iloc[0]
    assert row["ObjectNumber"] == 5
    expected = {
        "Area": 1, "BoundingBoxArea": 1, "Center_X": 2, "Center_Y": 1, "Compactness": 0, "ConvexArea": 1,
        "Eccentricity": 0, "EulerNumber": 1, "Extent": 1, "FormFactor": np.nan, "MajorAxisLength": 0,
        "MinorAxisLength": 0, "MaxFeretDiameter": 0, "MinFeretDiameter": 0, "MeanRadius": 1, "MedianRadius": 1,
        "MaximumRadius": 1, "Orientation": -45, "Perimeter": 0, "Solidity": 1,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_equal(row[f"Nuclei_AreaShape_{name}"], value, err_msg=name)
    assert row["Nuclei_Intensity_StdIntensity_DNA"] == row["Nuclei_Intensity_MADIntensity_DNA"] == 0
    assert row["Nuclei_Intensity_MeanIntensity_DNA"] == row["Nuclei_Intensity_IntegratedIntensityEdge_DNA"] == 9
    assert row["Nuclei_Intensity_MassDisplacement_DNA"] == 0


def test_non_finite_pixels_do_not_count():
    labels = np.array([[1, 1, 1, 2]], np.int32)
    image = np.array([[4, np.nan, 8, np.inf]], np.float32)
    table = measure(labels, image)
    assert table["Nuclei_Intensity_MeanIntensity"][0] == 6
    assert table["Nuclei_Intensity_IntegratedIntensity"][0] == 12
    assert table["Nuclei_AreaShape_Area"][0] == 3
    intensities = [c for c in table if "Intensity" in c]
    assert table.loc[1, intensities].isna().all()
    assert table.loc[1, "Nuclei_AreaShape_Area"] == 1


def test_a_black_object_has_no_centre_of_mass():
    table = measure(np.ones((3, 3), np.int32), np.zeros((3, 3), np.uint16))
    assert table["Nuclei_Intensity_MeanIntensity"][0] == 0
    assert np.isnan(table["Nuclei_Location_CenterMassIntensity_X"][0])
    assert np.isnan(table["Nuclei_Intensity_MassDisplacement"][0])
    # It fills the image, so it has no outline.
    assert np.isnan(table["Nuclei_Intensity_MeanIntensityEdge"][0])


def test_a_huge_object_keeps_its_precision():
    rows, columns = 700, 3000
    table = measure(np.ones((rows, columns), np.int32), np.ones((rows, columns), np.float32), families=["AreaShape"])
    np.testing.assert_allclose(table["Nuclei_AreaShape_MajorAxisLength"], 4 * np.sqrt((columns**2 - 1) / 12))
    np.testing.assert_allclose(table["Nuclei_AreaShape_MinorAxisLength"], 4 * np.sqrt((rows**2 - 1) / 12))
    assert table["Nuclei_AreaShape_ConvexArea"][0] == rows * columns


def test_families_can_be_chosen_and_unknown_ones_are_refused():
    labels, image = blobs()
    table = measure(labels, {"DNA": image}, name="Cells", families=["Location"])
    assert list(table) == ["ObjectNumber", *feature_columns("Cells", ["DNA"], ["Location"])]
    assert all(c.startswith("Cells_Location_") for c in list(table)[1:])
    with pytest.raises(InputError, match=r"Zernike.*AreaShape"):
        measure(labels, image, families=["Zernike"])


def test_misfits_are_refused_by_name():
    with pytest.raises(InputError, match=r"'GFP'.*\(2, 3\).*\(3, 3\)"):
        measure(np.zeros((3, 3), np.int32), {"DNA": np.zeros((3, 3)), "GFP": np.zeros((2, 3))})
    with pytest.raises(InputError, match=r"Nuclei.*integers"):
        measure(np.zeros((3, 3)), np.zeros((3, 3)))


@pytest.mark.parametrize("options", [Options(), CELL_PAINTING, Options(radial_bins=2, radial_radius=5.0)], ids=str)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_families_deliver_what_they_declare(family, options):
    labels, image = blobs(side=60)
    objects = Objects(labels, options)
    signal = Signal(objects, Plane(image, options))
    made = (family.compute(objects), family.compute_channel(signal), family.compute_pair(signal, signal))
    declared = (family.features(options), family.channel_features(options), family.pair_features(options))
    for values, features in zip(made, declared, strict=True):
        assert set(values) == {feature.key for feature in features}
        assert all(column.shape == objects.groups.ids.shape for column in values.values())
        assert all(feature.definition.endswith(".") and feature.unit for feature in features)
    assert family.source
    assert family.oracle
    assert 0 < family.tolerance <= 1e-3


def test_compartments_share_what_depends_on_the_image_alone():
    labels, image = blobs()
    images = {"DNA": image, "GFP": np.roll(image, 5, 0)}
    smaller = np.where(np.arange(labels.size).reshape(labels.shape) % 7 == 0, 0, labels)
    tables = measure_compartments({"Nuclei": labels, "Cells": smaller}, images)
    for name, part in (("Nuclei", labels), ("Cells", smaller)):
        pd.testing.assert_frame_equal(tables[name], measure(part, images, name=name))


def test_rings_can_begin_at_the_nucleus():
    cells = np.zeros((21, 31), np.int32)
    cells[3:18, 2:29] = 7
    nuclei = np.zeros_like(cells)
    nuclei[3:8, 2:7] = 7
    parts = {"Nuclei": nuclei, "Cells": cells, "Cytoplasm": cells - nuclei}
    image = np.where(nuclei > 0, 1000, 0).astype(np.uint16)
    ring = "RadialDistribution_FracAtD_1of4"
    found = {}
    for start in ("self", "centres", "edges"):
        options = Options(radial_from=start)
        tables = measure_compartments(parts, image, families=["RadialDistribution"], options=options)
        found[start] = tables["Cells"][f"Cells_{ring}"][0]
        assert tables["Nuclei"][f"Nuclei_{ring}"][0] > 0
    assert found["self"] == 0  # the nucleus is in a corner of the cell
    assert found["centres"] > 0
    assert np.isnan(found["edges"])  # the nucleus is in no ring, and nothing else is bright


@pytest.mark.parametrize("start", ["centres", "edges"])
def test_a_cytoplasm_has_rings_around_its_nucleus(start):
    """Its pixels cannot be reached from the nucleus within it: they take the straight way from its centroid."""
    y, x = np.mgrid[:41, :41]
    away = np.hypot(y - 20, x - 20)
    cells, nuclei = (away < 18).astype(np.int32), (away < 6).astype(np.int32)
    parts = {"Nuclei": nuclei, "Cytoplasm": cells - nuclei}
    options = Options(radial_from=start, radial_radius=20.0)
    ramp = np.where(away < 12, 100, 10).astype(np.uint16)
    table = measure_compartments(parts, ramp, families=["RadialDistribution"], options=options)["Cytoplasm"]
    inner, outer = ((away >= low) & (away < high) for low, high in ((5, 10), (15, 20)))
    for place, ring in (("2of4", inner), ("4of4", outer)):
        share = ramp[ring & (parts["Cytoplasm"] > 0)].sum() / ramp[parts["Cytoplasm"] > 0].sum()
        assert table[f"Cytoplasm_RadialDistribution_FracAtD_{place}"][0] == pytest.approx(share)


def test_a_cell_without_its_nucleus_has_no_rings():
    cells = np.ones((9, 9), np.int32)
    tables = measure_compartments(
        {"Nuclei": np.zeros_like(cells), "Cells": cells},
        cells.astype(np.uint16),
        families=["RadialDistribution"],
        options=Options(radial_from="centres"),
    )
    assert np.isnan(tables["Cells"]["Cells_RadialDistribution_FracAtD_1of4"][0])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("texture_scales", ()),
        ("texture_scales", (3, 3)),
        ("texture_scales", 3),
        ("texture_levels", 1),
        ("granularity_subsample", 0),
        ("radial_bins", True),
        ("radial_from", "edge"),
        ("full_scale", -1),
        ("neighbor_distances", ("adjacent",)),
        ("correlation_threshold", 100),
        ("zernike_degree", 2.5),
        ("quartiles", "old"),
    ],
)
def test_senseless_options_are_refused_by_name(option, value):
    with pytest.raises(InputError, match=f"{option} is .*must be"):
        Options(**{option: value})


def test_presets_are_families_and_options():
    labels, image = blobs(side=60)
    for families, options in PRESETS.values():
        table = measure(labels, {"DNA": image, "ER": image[::-1]}, families=families, options=options)
        assert list(table)[1:] == feature_columns("Nuclei", ["DNA", "ER"], families, options)


def test_five_channels_have_about_as_many_columns_as_cell_painting():
    families, options = PRESETS["cell-painting"]
    columns = feature_columns("Cells", ["DNA", "ER", "RNA", "AGP", "Mito"], families, options)
    assert 1500 < len(columns) < 1900
    assert len(set(columns)) == len(columns)
    wanted = ["AreaShape_Zernike_9_9", "Texture_Entropy_ER_10_03_256", "Granularity_16_Mito"]
    wanted += ["RadialDistribution_FracAtD_RNA_1of4", "RadialDistribution_ZernikePhase_AGP_9_1"]
    wanted += ["Correlation_Correlation_DNA_ER", "Correlation_K_ER_DNA", "Correlation_RWC_AGP_Mito"]
    wanted += ["Neighbors_PercentTouching_Adjacent", "Intensity_MassDisplacement_DNA", "Location_Center_X"]
    assert {f"Cells_{name}" for name in wanted} <= set(columns)


def test_the_scale_of_floats_is_guessed_by_their_range_only():
    labels, image = blobs(side=60)
    for scaled in (image.astype(np.float32), image / 65535.0):
        mine, theirs = (measure(labels, pixels, families=["Texture"]) for pixels in (scaled, image))
        pd.testing.assert_frame_equal(mine, theirs)
    finer = measure(labels, image // 16, families=["Texture"], options=Options(full_scale=4095))
    coarser = measure(labels, image // 16, families=["Texture"])
    column = "Nuclei_Texture_Entropy_3_00_256"
    assert (finer[column].dropna() > coarser[column].dropna()).all()


def test_children_find_their_parents():
    cells = np.zeros((8, 12), np.int32)
    cells[:, :5], cells[:, 6:] = 30, 4
    spots = np.zeros_like(cells)
    spots[1, 1:3], spots[4, 3:9], spots[6, 5] = 2, 9, 11  # 9 lies in both, more in cell 4
    spots[0, 11] = 1000
    parents, children = relate_objects(cells, spots, parent="Cells", child="Spots")
    assert parents.to_dict("list") == {"ObjectNumber": [4, 30], "Cells_Children_Spots_Count": [2, 1]}
    assert children.to_dict("list") == {"ObjectNumber": [2, 9, 11, 1000], "Spots_Parent_Cells": [30, 4, 0, 4]}
    with pytest.raises(InputError, match="Cells and Spots"):
        relate_objects(cells, spots[1:], child="Spots")


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64, np.uint64, np.float32, ">u2", ">f8"])
def test_counts_of_any_type_have_the_grey_levels_of_16_bits(dtype):
    labels, image = blobs(side=60)
    image = image // 4 + 100
    images = {"DNA": image.astype(dtype), "GFP": image[::-1].astype(dtype)}
    families = ["Texture", "Correlation"]
    mine, theirs = (
        measure(labels, planes, families=families)
        for planes in (images, {name: plane.astype(np.uint16) for name, plane in images.items()})
    )
    pd.testing.assert_frame_equal(mine, theirs)


@pytest.mark.parametrize("full_scale", [0.5, 1.5, 4095.0, 2.0**32 - 1])
def test_any_full_scale_can_be_measured_with(full_scale):
    labels, image = blobs(side=60)
    scaled = image / 65535 * full_scale
    table = measure(labels, {"a": scaled, "b": scaled[::-1]}, options=Options(full_scale=full_scale))
    expected = measure(labels, {"a": image, "b": image[::-1]})
    column = "Nuclei_Texture_Contrast_a_3_00_256"
    np.testing.assert_allclose(table[column], expected[column])


def test_a_channel_without_values_has_none():
    labels, image = blobs(side=60)
    table = measure(labels, {"DNA": np.full(image.shape, np.nan)})
    values = table[[column for column in table if "_DNA" in column]]
    assert values.isna().all().all()


def test_missing_pixels_do_not_dim_the_others():
    labels = np.ones((20, 20), np.int32)
    image = np.full(labels.shape, 100.0)
    image[::2] = np.nan
    table = measure(labels, image, families=["RadialDistribution", "Intensity"])
    full = measure(labels, np.full(labels.shape, 100.0), families=["RadialDistribution"])
    column = "Nuclei_RadialDistribution_ZernikeMagnitude_0_0"
    assert table[column][0] == pytest.approx(full[column][0], rel=0.1)


def test_equal_pixels_have_their_own_mean():
    table = measure(np.ones((50, 31), np.int32), np.full((50, 31), 0.1), families=["Intensity"])
    assert table["Nuclei_Intensity_MeanIntensity"][0] == table["Nuclei_Intensity_MaxIntensity"][0] == 0.1
    assert table["Nuclei_Intensity_StdIntensity"][0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": {"A": 0, "A_B": 0, "B_C": 0, "C": 0}}, "rename"),
        ({"images": {1: 0}}, "1 is a int"),
        ({"images": {"A": 0j}}, "complex128"),
        ({"images": {"A": "x"}}, "real numbers"),
        ({"images": {"A": 0}, "options": {"texture_scales": (3,)}}, "Options"),
        ({"images": {"A": 0}, "families": [None]}, "None"),
        ({"images": {"A": 0}, "families": "Texture"}, "list of names"),
        ({"images": {"A": 0}, "name": "Cells", "options": Options(radial_from="edges")}, "'Nuclei'.*Cells"),
        ({"images": {"A": 0}, "name": 3}, "3 is a int"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(arguments, message):
    arguments["images"] = {name: np.full((4, 4), value) for name, value in arguments["images"].items()}
    with pytest.raises(InputError, match=message):
        measure(np.ones((4, 4), np.int32), **arguments)


def test_families_may_come_one_by_one():
    labels, image = blobs(side=60)
    names = ["AreaShape", "Texture"]
    expected = measure(labels, image, families=names)
    pd.testing.assert_frame_equal(measure(labels, image, families=(name for name in names)), expected)


# Ratios


def compartments():
    """Cell 1 has nucleus 30 and cytoplasm 10; cell 2 no cytoplasm; cell 3 no nucleus."""
    nuclei = np.zeros((4, 12), np.int32)
    nuclei[:2, :4], nuclei[:2, 4:8] = 1, 2
    cells = np.zeros((4, 12), np.int32)
    cells[:, :4], cells[:2, 4:8], cells[:, 8:] = 1, 2, 3
    cytoplasm = np.where(nuclei > 0, 0, cells)
    image = np.where(nuclei == 1, 30, 10).astype(np.uint16)
    return [
        measure(labels, {"GFP": image}, name=name)
        for name, labels in (("Nuclei", nuclei), ("Cells", cells), ("Cytoplasm", cytoplasm))
    ]


def test_ratios_pair_compartments_by_object_number():
    ratios = compartment_ratios(*compartments(), ["GFP"])
    np.testing.assert_array_equal(ratios["Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(ratios["Cells_Ratio_NucleusCytoplasmMedianIntensity_GFP"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(ratios["Cells_Ratio_NucleusCytoplasmIntegratedIntensity_GFP"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(ratios["Cells_Ratio_NucleusCellArea"], [0.5, 1, np.nan])


def test_background_is_taken_from_every_pixel():
    ratios = compartment_ratios(*compartments(), ["GFP"], background={"GFP": 5})
    for statistic in ("MeanIntensity", "MedianIntensity", "IntegratedIntensity"):
        assert ratios[f"Cells_Ratio_NucleusCytoplasm{statistic}_GFP"][0] == 5
    too_much = compartment_ratios(*compartments(), ["GFP"], background={"GFP": 10})
    assert too_much["Cells_Ratio_NucleusCytoplasmMeanIntensity_GFP"].isna().all()


def test_ratios_of_no_cells_are_an_empty_table():
    empty = np.zeros((4, 4), np.int32)
    tables = [measure(empty, {"GFP": empty}, name=name) for name in ("Nuclei", "Cells", "Cytoplasm")]
    ratios = compartment_ratios(*tables, ["GFP"])
    assert len(ratios) == 0
    assert list(ratios) == list(compartment_ratios(*compartments(), ["GFP"]))
    assert set(ratios.dtypes) == {np.dtype(np.float64)}


def test_the_ring_s_ratio_is_nucleus_over_ring():
    nuclei, ring = np.zeros((2, 6, 8), np.int32)
    nuclei[1:3, 1:3], ring[1:3, 3:5] = 1, 1
    nuclei[4, 6] = 2  # no ring
    image = np.full((6, 8), 10.0)
    image[nuclei > 0], image[ring > 0] = 70, 30
    image[1, 3] = np.nan  # left out
    found = ring_ratios(nuclei, ring, {"GFP": image}, np.array([1, 2]), background={"GFP": 10})
    np.testing.assert_allclose(found["Cells_Ratio_NucleusRingMeanIntensity_GFP"], [60 / 20, np.nan])
    empty = ring_ratios(nuclei * 0, ring * 0, {"GFP": image}, np.empty(0, np.int64))
    assert empty.shape == (0, 1)
    assert empty.dtypes.tolist() == [np.dtype(np.float64)]


def test_ratios_name_the_column_they_miss():
    with pytest.raises(InputError, match="Nuclei_Intensity_MeanIntensity_DNA"):
        compartment_ratios(*compartments(), ["DNA"])


def test_pairs_are_named_alike_whatever_the_order_of_channels() -> None:
    labels, image = blobs()
    other = image[::-1].copy()
    one = measure(labels, {"GFP": image, "DNA": other}, families=["Correlation"])
    two = measure(labels, {"DNA": other, "GFP": image}, families=["Correlation"])
    assert "Correlation_DNA_GFP" in " ".join(one.columns)
    pd.testing.assert_frame_equal(one[two.columns], two)
