"""What `profile` writes: tables, `features.csv`, `sphering.npz`, `profile.json` and `profile.png`."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cellinfer._version import __version__
from cellinfer.files import durable, output_errors, plain_text
from cellinfer.outputs.runinfo import package_versions
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import numbers, scaled

if TYPE_CHECKING:
    from cellinfer.profiling.workflow import Work

TABLES = ("Site", "Well", "Well_normalised", "Well_selected", "Well_sphered", "Well_harmonised", "Treatment")
"""Tables that there may be, in the order of the steps."""
_MOST_NEIGHBOURS = 2000
_OTHERS = ("features.csv", "profile.json", "profile.png")


def write_profiles(work: Work, folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Write all files of a result; return them, and what `profile.json` holds."""
    files: list[Path] = []
    spherings = {
        f"sphering{'' if len(work.spherings) == 1 else f'_{number}'}.npz": one
        for number, one in enumerate(work.spherings.values(), 1)
    }
    wanted = {f"{name}.parquet" for name in work.tables} | set(spherings) | {"features.csv", "profile.json"}
    _remove_stale(folder, wanted)
    for name, table in work.tables.items():
        files += _write_table(table, folder / name, csv=work.settings.csv)
    for name, one in spherings.items():
        one.save(folder / name)
        files.append(folder / name)
    with durable(folder / "features.csv") as partial:
        safe = work.features.assign(
            feature=work.features["feature"].map(plain_text), reason=work.features["reason"].map(plain_text)
        )
        safe.to_csv(partial, index=False)
    files.append(folder / "features.csv")
    neighbours = _neighbours_of_plates(work)
    info = _info(work, neighbours, [path.name for path in files])
    if work.settings.picture:
        from cellinfer.profiling.picture import draw_profiles

        draw_profiles(work.tables["Well"], work.table, work.controls, work.names, neighbours, folder / "profile.png")
        files.append(folder / "profile.png")
    with durable(folder / "profile.json") as partial:
        partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files.append(folder / "profile.json")
    return tuple(files), info


def _remove_stale(folder: Path, wanted: set[str]) -> None:
    """Remove what an earlier call with other settings left: the folder holds one result."""
    with output_errors(folder):
        ours = [*(f"{name}{ending}" for name in TABLES for ending in (".parquet", ".csv")), *_OTHERS]
        for path in [*(folder / name for name in ours), *folder.glob("sphering*.npz")]:
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _write_table(table: pd.DataFrame, path: Path, *, csv: bool) -> list[Path]:
    written = [path.with_suffix(".parquet")]
    with durable(written[0]) as partial:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), partial)
    if csv:
        written.append(path.with_suffix(".csv"))
        safe = table.copy(deep=False)
        for name in table.columns:
            if not pd.api.types.is_numeric_dtype(table[name].dtype):
                safe[name] = table[name].map(lambda cell: plain_text(cell) if isinstance(cell, str) else cell)
        with durable(written[1]) as partial:
            safe.to_csv(partial, index=False)
    return written


def _neighbours_of_plates(work: Work) -> dict[str, float] | None:
    """Return how often the nearest neighbour is of the same plate: before, after and by chance.

    Of controls, which are alike but for their plate, or of all wells where no controls are known. Nearest by cosine
    similarity, of features on one scale.
    """
    before, after = work.tables["Well"], work.table
    rows = work.controls if work.controls is not None else np.ones(len(before), dtype=bool)
    chosen = np.flatnonzero(rows)
    if len(chosen) > _MOST_NEIGHBOURS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MOST_NEIGHBOURS, replace=False))
    plates = pd.factorize(before[PLATE].astype(str))[0][chosen]
    counts = np.bincount(plates)
    if (counts > 0).sum() < 2:
        return None
    first = scaled(numbers(before, feature_columns(before)))[chosen]
    last = numbers(after, work.names)[chosen]
    return {
        "before": _same_plate(first, plates),
        "after": _same_plate(last[:, np.isfinite(last).all(axis=0)], plates),
        "chance": float((counts * (counts - 1)).sum() / (len(plates) * (len(plates) - 1))),
    }


def _same_plate(values: npt.NDArray[np.float64], plates: npt.NDArray[np.intp]) -> float:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.where(length > 0, length, 1.0)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return float((plates[similarity.argmax(axis=1)] == plates).mean())


def _info(work: Work, neighbours: dict[str, float] | None, files: list[str]) -> dict[str, Any]:
    settings = (
        {name: _plain(value) for name, value in asdict(work.settings).items()}
        if not isinstance(work.settings.layout, (pd.DataFrame, Mapping))
        else {one.name: _plain(getattr(work.settings, one.name)) for one in fields(work.settings)}
    )
    choice = work.choice
    return {
        "cellinfer": __version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "treatment": work.treatment,
        "controls": None if work.controls is None else int(work.controls.sum()),
        "steps": [asdict(step) for step in work.steps],
        "left_out_wells": work.left_out,
        "regularization": None
        if choice is None
        else {
            "chosen": choice.regularization,
            "fixed": choice.fixed,
            "folds": choice.folds,
            "score": "mean average precision of replicates, cosine similarity",
            "nested_score": choice.nested_score,
            "fixed_score": choice.fixed_score,
            "nested": choice.nested.to_dict("records"),
            "tried": choice.tried.astype(object).where(choice.tried.notna(), None).to_dict("records"),
        },
        "nearest_neighbour_of_same_plate": neighbours,
        "notes": work.notes,
        "inputs": work.origins,
        "files": files,
        "versions": {"python": platform.python_version(), **package_versions()},
        "machine": {"system": platform.platform(), "processor": platform.processor() or platform.machine()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return f"table of {len(value)} rows"
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, os.PathLike) else value


def origin(path: Path) -> dict[str, Any]:
    """Say what was read: the hash of a file, the digest and model of a run, the listing of another folder."""
    if path.is_file():
        with path.open("rb") as handle:
            return {"path": str(path), "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        return {
            "path": str(path),
            "cellinfer": run.get("cellinfer"),
            "model": run.get("model"),
            "digest": run.get("result", {}).get("digest"),
        }
    except (OSError, ValueError, AttributeError):
        listing = sorted(
            (str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file()
        )
        return {"path": str(path), "listing_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest()}
