"""Well names and plate formats, from 6 to 1536 wells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from cellinfer.errors import InputError


class PlateFormat(NamedTuple):
    """Rows and columns of a standard plate."""

    rows: int
    columns: int


PLATE_FORMATS: dict[int, PlateFormat] = {
    6: PlateFormat(2, 3),
    12: PlateFormat(3, 4),
    24: PlateFormat(4, 6),
    48: PlateFormat(6, 8),
    96: PlateFormat(8, 12),
    384: PlateFormat(16, 24),
    1536: PlateFormat(32, 48),
}
"""Number of wells -> its rows and columns, smallest plate first."""

_LARGEST = PLATE_FORMATS[1536]
_LETTERS = re.compile(r"([A-Za-z]{1,2})[ _-]*0*([1-9]\d?)")
_NUMBERS = re.compile(r"[Rr]0*([1-9]\d?)[ _-]*[Cc]0*([1-9]\d?)")


def row_letters(row: int) -> str:
    """Letters of a 1-based row: 1 -> `A`, 26 -> `Z`, 27 -> `AA`."""
    high, low = divmod(row - 1, 26)
    return (chr(ord("A") + high - 1) if high else "") + chr(ord("A") + low)


def row_number(letters: str) -> int:
    """Return the 1-based row of its letters: `A` -> 1, `AA` -> 27."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


@lru_cache(maxsize=4096)
def well_name(row: int, column: int) -> str:
    """Return the normal name of a well.

    Parameters
    ----------
    row, column
        1-based place in the plate.

    Returns
    -------
    str
        Row letters and at least two digits, such as `A01` or `AF48`.

    Raises
    ------
    InputError
        If no plate up to 1536 wells has that place.
    """
    if not (1 <= row <= _LARGEST.rows and 1 <= column <= _LARGEST.columns):
        raise InputError(
            f"row {row}, column {column} is not on any plate: rows go to {_LARGEST.rows}, columns to {_LARGEST.columns}"
        )
    return f"{row_letters(row)}{column:02d}"


@lru_cache(maxsize=4096)
def parse_well(text: str) -> tuple[int, int]:
    """Find row and column in a well's name.

    Parameters
    ----------
    text
        `A01`, `a1`, `A-01`, `AA03`, or rows and columns as numbers: `r01c01`.

    Returns
    -------
    tuple of int
        1-based row and column.

    Raises
    ------
    InputError
        If the text names no well of a plate up to 1536 wells.
    """
    text = text.strip()
    if match := _LETTERS.fullmatch(text):
        row, column = row_number(match[1]), int(match[2])
    elif match := _NUMBERS.fullmatch(text):
        row, column = int(match[1]), int(match[2])
    else:
        raise InputError(f"{text!r} is not a well: write it as A01 or r01c01")
    if row > _LARGEST.rows or column > _LARGEST.columns:
        raise InputError(f"{text!r} is not a well of any plate up to 1536 wells (A01 to AF48)")
    return row, column


def normalise_well(text: str) -> str:
    """Return the normal name (`A01`) of a well written in any way that `parse_well` understands."""
    return well_name(*parse_well(text))


def well_sort_key(well: str) -> tuple[int, int]:
    """Sort key of wells in plate order, row by row: `A02` < `A10` < `B01` < `Z01` < `AA01`."""
    return parse_well(well)


def plate_size(wells: Iterable[str]) -> int:
    """Return the number of wells of the smallest standard plate that holds all of `wells`.

    Raises
    ------
    InputError
        If a name is not a well.
    """
    places = [parse_well(well) for well in wells]
    rows = max((row for row, _ in places), default=1)
    columns = max((column for _, column in places), default=1)
    return next(size for size, plate in PLATE_FORMATS.items() if rows <= plate.rows and columns <= plate.columns)
