"""One table: cells of CytoTable or pycytominer, or profiles of any level."""

from __future__ import annotations

from pathlib import Path

from cellinfer.errors import InputError
from cellinfer.profiling.columns import features_among
from cellinfer.profiling.sources._columnar import Columnar, Panel, Part, from_csv
from cellinfer.profiling.sources._match import key_columns, short_names

_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".tsv", ".txt")


def can_read(path: Path) -> bool:
    """Tell whether a path is a table, by its name."""
    name = path.name.lower().removesuffix(".gz")
    return path.is_file() and (path.name.lower().endswith(_PARQUET) or name.endswith(_TEXT))


def read(path: Path) -> Part:
    """Open a table."""
    table, notes = (Columnar(path), []) if path.name.lower().endswith(_PARQUET) else from_csv(path)
    features = features_among(table.types)
    if not features:
        raise InputError(f"{path} has no features: no column of numbers but those that say what a row is.")
    keys = table.metadata(key_columns(table.schema.names)).rename(columns=short_names(table.schema.names))
    return Part(str(path), keys, [Panel(table, {name: name for name in features})], notes=notes)
