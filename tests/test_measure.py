"""Measurements against their twins, scikit-image, CellProfiler's definitions (cp-measure) and geometry."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from cellinfer.errors import InputError
from cellinfer.measurement import FAMILIES, compartment_ratios, describe, feature_columns, measure
from cellinfer.measurement._registry import Subject
from cellinfer.measurement.ratios import ring_ratios
from cellinfer_kernels import components, distance, intensity, shape
from cellinfer_kernels.reference import components as components_twin
from cellinfer_kernels.reference import distance as distance_twin
from cellinfer_kernels.reference import intensity as intensity_twin
from cellinfer_kernels.reference import shape as shape_twin
from hypothesis import given, settings
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


# Kernels against their twins


@UNHURRIED
@given(label_images)
def test_grouping_equals_twin(labels):
    result, expected = components.group(labels), components_twin.group(labels)
    for mine, theirs in zip(result, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@UNHURRIED
@given(label_images)
def test_depth_equals_twin(labels):
    np.testing.assert_array_equal(distance.depth(labels), distance_twin.depth(labels))


@UNHURRIED
@given(label_images)
def test_shapes_equal_twin(labels):
    groups = components.group(labels)
    assert_same(shape.shapes(groups), shape_twin.shapes(groups))


@UNHURRIED
@given(fields(ALL_VALUES))
def test_intensities_equal_twin(field):
    labels, image = field
    groups = components.group(labels)
    result, expected = intensity.intensities(groups, image), intensity_twin.intensities(groups, image)
    # A weighted centroid is ill-conditioned where positive and negative values nearly cancel.
    stable = np.abs(expected.total) > 1e-3
    for name in result._fields:
        mine, theirs = getattr(result, name), getattr(expected, name)
        if name in ("mass_y", "mass_x", "displacement"):
            mine, theirs = mine[stable], theirs[stable]
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6, err_msg=name)


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


@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_that_of_cp_measure(seed):
    pytest.importorskip("cp_measure", reason="cp-measure is not installed (extra: test)")
    from cp_measure.core.measureobjectintensity import get_intensity
    from cp_measure.core.measureobjectsizeshape import get_feret, get_sizeshape

    labels, image = blobs(seed)
    sequential = components.relabel(labels)
    pixels = image.astype(np.float64)
    expected = {
        f"Nuclei_AreaShape_{name}": values
        for name, values in {**get_sizeshape(sequential, pixels), **get_feret(sequential, pixels)}.items()
    }
    expected |= {f"Nuclei_{name}_DNA": values for name, values in get_intensity(sequential, pixels).items()}
    table = measure(labels, {"DNA": image})
    compared = [column for column in table if column in expected]
    assert set(table) - set(compared) == {"ObjectNumber", "Nuclei_Location_Center_X", "Nuclei_Location_Center_Y"}
    for column in compared:
        np.testing.assert_allclose(table[column], expected[column], rtol=1e-9, atol=1e-9, err_msg=column)


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
    intensities = [f.name for f in FAMILIES["Intensity"].channel_features]
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
    before = measure(labels, image)
    padding = ((down, 0), (right, 0))
    after = measure(np.pad(labels, padding), np.pad(image, padding))
    for column in before:
        moved = ("Location" in column or "Center" in column or "BoundingBoxM" in column) and column[-2:] in ("_X", "_Y")
        shift = (right if column.endswith("_X") else down) if moved else 0
        np.testing.assert_allclose(after[column], before[column] + shift, atol=1e-7, err_msg=column)


@UNHURRIED
@given(fields(), st.permutations([1, 2, 7]))
def test_ids_are_only_names(field, names):
    labels, image = field
    table = dict(zip([1, 2, 7], names, strict=True))
    renamed = np.select([labels == old for old in table], list(table.values()), 0).astype(np.int32)
    before = measure(labels, image)
    after = measure(renamed, image).set_index("ObjectNumber")
    expected = before.assign(ObjectNumber=before["ObjectNumber"].map(table)).set_index("ObjectNumber").sort_index()
    pd.testing.assert_frame_equal(after, expected.astype(after.dtypes), check_index_type=False)


@UNHURRIED
@given(fields(), st.sampled_from([0.5, 4.0, 1024.0]))
def test_intensities_scale_with_the_image(field, factor):
    labels, image = field
    before, after = measure(labels, image), measure(labels, image * factor)
    for column, feature in describe("Nuclei", [""]).items():
        np.testing.assert_allclose(
            after[column], before[column] * (factor if feature.unit == "intensity" else 1), err_msg=column
        )


# Odd input


@UNHURRIED
@given(st.sampled_from([np.uint8, np.uint16, np.float32, np.float64]), label_images)
def test_pixel_types_make_no_difference(dtype, labels):
    image = (np.arange(labels.size).reshape(labels.shape) % 7 * 30).astype(dtype)
    pd.testing.assert_frame_equal(measure(labels, image), measure(labels, image.astype(np.float64)))


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


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_families_deliver_what_they_declare(family):
    labels, image = blobs()
    subject = Subject(labels, {"DNA": image})
    declared = {f.name for f in family.features}, {f.name for f in family.channel_features}
    assert (set(family.compute(subject)), set(family.compute_channel(subject, "DNA"))) == declared
    assert all(f.definition and f.unit for f in itertools.chain(family.features, family.channel_features))


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
