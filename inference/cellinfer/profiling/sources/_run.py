"""Results of `cellinfer run`: a table for each compartment, embeddings beside them, joined by the key of the cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cellinfer.errors import InputError
from cellinfer.pipeline import KEY_COLUMNS, OBJECTS
from cellinfer.profiling.columns import features_among
from cellinfer.profiling.sources._columnar import Columnar, Panel, Part, as_text
from cellinfer.profiling.sources._match import match

EMBEDDING = "Embedding.parquet"
_CELL = (*KEY_COLUMNS[:4], "ObjectNumber")


def can_read(path: Path) -> bool:
    """Tell whether a folder holds results of a run, finished or not."""
    return path.is_dir() and ((path / "Cells.parquet").is_file() or (path / "journal.jsonl").is_file())


def read(path: Path, wanted: str | None = None) -> Part:
    """Open the tables of a run: its `measurements`, its `embedding`, or `both`; None: measurements, with a note."""
    if missing := [name for name in (*OBJECTS, "Image") if not (path / f"{name}.parquet").is_file()]:
        raise InputError(
            f"The run in {path} is not finished (it has no {missing[0]}.parquet): run the same `cellinfer run` again."
        )
    tables = {name: Columnar(path / f"{name}.parquet") for name in OBJECTS}
    keys = tables["Cells"].metadata([*KEY_COLUMNS, "ObjectNumber"])
    panels, notes = [], []
    for name, table in tables.items():
        panel, missing_cells, strangers = _joined(table, keys)
        if missing_cells or strangers:
            raise InputError(
                f"{name}.parquet and Cells.parquet in {path} are not of the same cells: run the same `cellinfer run` "
                "again with --fresh."
            )
        if wanted != "embedding":
            panels.append(panel)
    embedded = (path / EMBEDDING).is_file()
    if wanted in ("embedding", "both") and not embedded:
        raise InputError(f"The run in {path} has no {EMBEDDING}: run it again with --embed, or take its measurements.")
    if wanted is None and embedded:
        notes.append(f"{path} has embeddings, too, which are left out: choose them by --tables embedding, or both.")
    if wanted in ("embedding", "both"):
        panel, missing_cells, strangers = _joined(Columnar(path / EMBEDDING), keys)
        if strangers:
            raise InputError(
                f"Embedding.parquet in {path} has {strangers:,} cells that Cells.parquet has not: embed the cells of "
                "this run again."
            )
        if missing_cells:
            notes.append(
                f"{missing_cells:,} of {len(keys):,} cells in {path} have no embedding: its columns are empty."
            )
        panels.append(panel)
    images = Columnar(path / "Image.parquet")
    return Part(str(path), keys, panels, as_text(images.metadata(images.schema.names)), notes)


def _joined(table: Columnar, keys: pd.DataFrame) -> tuple[Panel, int, int]:
    """Return the features of a table for these cells, how many of these it lacks, and how many others it has."""
    if missing := [name for name in _CELL if name not in table.schema.names]:
        raise InputError(f"{table.origin} has no column {missing[0]}: it cannot be told which cells its rows are.")
    own = table.metadata(_CELL)
    stored = {name: name for name in features_among(table.types)}
    if own.equals(keys[list(_CELL)]):
        return Panel(table, stored), 0, 0
    rows = match(as_text(keys[list(_CELL)]), as_text(own), str(table.origin))
    found = rows[rows >= 0]
    return Panel(table, stored, rows), int((rows < 0).sum()), table.rows - len(np.unique(found))
