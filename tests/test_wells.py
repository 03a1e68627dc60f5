"""Well names and plate formats."""

from __future__ import annotations

import pytest
from cellinfer.errors import InputError
from cellinfer.plate import FieldKey, natural_key
from cellinfer.wells import (
    PLATE_FORMATS,
    normalise_well,
    parse_well,
    plate_size,
    row_letters,
    row_number,
    well_name,
    well_sort_key,
)
from hypothesis import given
from hypothesis import strategies as st


def test_formats_multiply_to_their_number_of_wells():
    assert list(PLATE_FORMATS) == [6, 12, 24, 48, 96, 384, 1536]
    assert all(rows * columns == size for size, (rows, columns) in PLATE_FORMATS.items())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a1", "A01"),
        ("A01", "A01"),
        ("A001", "A01"),
        (" h12 ", "H12"),
        ("B-07", "B07"),
        ("P_24", "P24"),
        ("AA03", "AA03"),
        ("af48", "AF48"),
        ("r01c01", "A01"),
        ("R16C24", "P24"),
        ("r32c48", "AF48"),
    ],
)
def test_every_way_to_write_a_well_gives_its_normal_name(text, name):
    assert normalise_well(text) == name


@pytest.mark.parametrize(
    "text", ["", "A", "A0", "A00", "01", "A49", "AG01", "ZZ9", "A1B", "AAA1", "r0c1", "r33c1", "A٣"]
)
def test_what_is_no_well_is_refused_by_name(text):
    with pytest.raises(InputError, match="not a well"):
        parse_well(text)


@given(st.integers(1, 32), st.integers(1, 48))
def test_name_and_place_are_inverse(row, column):
    name = well_name(row, column)
    assert parse_well(name) == (row, column) == well_sort_key(name)
    assert row_number(row_letters(row)) == row
    assert normalise_well(f"r{row}c{column}") == name == normalise_well(name.lower())


@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0), (33, 1), (1, 49), (-1, 5)])
def test_places_on_no_plate_are_refused(row, column):
    with pytest.raises(InputError, match="not on any plate"):
        well_name(row, column)


def test_wells_sort_in_plate_order():
    wells = ["AA01", "B01", "A10", "Z01", "A02"]
    assert sorted(wells, key=well_sort_key) == ["A02", "A10", "B01", "Z01", "AA01"]


@pytest.mark.parametrize(
    ("wells", "size"),
    [
        ([], 6),
        (["A01"], 6),
        (["B03"], 6),
        (["C01"], 12),
        (["A04", "D06"], 24),
        (["F08"], 48),
        (["A09"], 96),
        (["H12"], 96),
        (["A13"], 384),
        (["I01"], 384),
        (["P24"], 384),
        (["AF48"], 1536),
        (["A25"], 1536),
    ],
)
def test_smallest_plate_that_holds_all(wells, size):
    assert plate_size(wells) == size


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(1, 48)), min_size=1))
def test_smallest_plate_holds_all_and_no_smaller_one_does(places):
    def holds(size):
        return all(r <= PLATE_FORMATS[size].rows and c <= PLATE_FORMATS[size].columns for r, c in places)

    size = plate_size(well_name(*place) for place in places)
    assert holds(size)
    assert not any(holds(smaller) for smaller in PLATE_FORMATS if smaller < size)


def test_field_keys_sort_in_plate_order():
    keys = [
        FieldKey("P10", "A01", 1, 1),
        FieldKey("P2", "AA01", 1, 1),
        FieldKey("P2", "Z01", 2, 1),
        FieldKey("P2", "Z01", 10, 1),
        FieldKey("P2", "Z01", 2, 0),
    ]
    ordered = sorted(keys, key=lambda key: key.order)
    assert ordered == [keys[4], keys[2], keys[3], keys[1], keys[0]]


def test_natural_order():
    assert sorted(["w10", "w2", "DAPI", "W1", "2", "10"], key=natural_key) == ["2", "10", "DAPI", "W1", "w2", "w10"]
