"""Finished data frames as files: Parquet, and CSV that no spreadsheet runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cellinfer.files import durable, plain_text


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, without its index; whole or not at all."""
    with durable(path) as partial:
        table.to_parquet(partial, index=False)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, without its index, texts guarded against spreadsheets that take them for formulas."""
    texts = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name].dtype)]
    safe = table.copy(deep=False)
    for name in texts:
        safe[name] = table[name].map(lambda cell: plain_text(cell) if isinstance(cell, str) else cell)
    with durable(path) as partial:
        safe.to_csv(partial, index=False)
