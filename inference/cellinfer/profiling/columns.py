"""Which columns of a table are features, and which say what a row is.

Understood are the tables of cellinfer, CellProfiler, pycytominer and DeepProfiler. Columns that begin with `Metadata_`
(or `Image_Metadata_`, as CellProfiler writes them into its image table) are metadata. Where a table has measurements
of compartments (`Cells_`, `Nuclei_`, `Cytoplasm_`), these are its features; a table of other names, such as embeddings
numbered by column, has every other column of numbers. Numbers and relatives of objects are names, never features.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from cellinfer.errors import InputError

PLATE, WELL, SITE = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
TIME = "Metadata_Time"
DOSES = ("Dose", "Concentration")
"""Columns, after `Metadata_`, that say how much of something a well got."""
COMPARTMENTS = ("Nuclei", "Cells", "Cytoplasm")
MEASURED = tuple(f"{name}_" for name in COMPARTMENTS)
_METADATA = ("Metadata_", "Image_Metadata_")
_NAMES_OF_OBJECTS = ("_Number_Object_Number", "_Parent_", "_Children_")
_KEYS = frozenset({"ImageNumber", "ObjectNumber", "TableNumber"})


def is_metadata(column: str) -> bool:
    """Tell whether a column says what a row is: where it was, what it got."""
    return column.startswith(_METADATA)


def names_objects(column: str) -> bool:
    """Tell whether a column holds numbers by which objects are called, or how many relatives they have."""
    return column in _KEYS or any(part in column for part in _NAMES_OF_OBJECTS)


def metadata_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that say what a row is, in order."""
    return [name for name in map(str, table.columns) if is_metadata(name)]


def feature_columns(table: pd.DataFrame, features: Iterable[str] | None = None) -> list[str]:
    """Return the columns that are features, in order.

    Parameters
    ----------
    table
        Rows of cells, sites, wells or treatments.
    features
        Names to take instead of finding them; they are checked.

    Raises
    ------
    InputError
        If there is none, or one of those named is missing or holds no numbers.
    """
    if features is not None:
        chosen = list(features)
        if missing := [name for name in chosen if name not in table.columns]:
            raise InputError(f"The table has no column {missing[0]!r} ({len(missing)} of {len(chosen)} are missing).")
        if texts := [name for name in chosen if not _is_number(table[name].dtype)]:
            raise InputError(f"The column {texts[0]!r} holds no numbers: it cannot be a feature.")
    else:
        chosen = features_among({str(name): dtype for name, dtype in table.dtypes.items()})
    if not chosen:
        raise InputError(
            "The table has no features: columns of measurements begin with Cells_, Nuclei_ or Cytoplasm_; in a table "
            "of other names every column of numbers but Metadata_... and Image_... counts."
        )
    return chosen


def features_among(types: dict[str, object]) -> list[str]:
    """Return the features among columns of which only name and pandas dtype are known, in order; perhaps none."""
    numbers = [
        name for name, dtype in types.items() if _is_number(dtype) and not is_metadata(name) and not names_objects(name)
    ]
    measured = [name for name in numbers if name.startswith(MEASURED)]
    return measured or [name for name in numbers if not name.startswith("Image_")]


def _is_number(dtype: object) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)  # type: ignore[arg-type]
