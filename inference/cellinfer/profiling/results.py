"""What `profile` writes: tables, `features.csv`, `sphering.npz`, `profile.json` and `profile.png`."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellinfer._version import __version__
from cellinfer.files import durable, output_errors, sha256_of
from cellinfer.outputs.frames import write_csv, write_parquet
from cellinfer.outputs.runinfo import package_versions
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import group_rows, numbers, scaled

if TYPE_CHECKING:
    from cellinfer.profiling.workflow import Work

TABLES = ("Site", "Well", "Well_normalised", "Well_selected", "Well_sphered", "Well_harmonised", "Treatment")
"""Tables that there may be, in the order of the steps."""
_MOST_NEIGHBOURS = 2000
_APART = 0.1
"""Rise of the share of wells beside their own plate that is worth a note."""


def write_profiles(work: Work, folder: Path) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Write all files of a result; return them, and what `profile.json` holds."""
    files: list[Path] = []
    spherings = {
        f"sphering{'' if len(work.spherings) == 1 else f'_{number}'}.npz": one
        for number, one in enumerate(work.spherings.values(), 1)
    }
    endings = (".parquet", ".csv") if work.settings.csv else (".parquet",)
    wanted = {f"{name}{ending}" for name in work.tables for ending in endings} | set(spherings) | {"features.csv"}
    _begin(folder, wanted)
    for name, table in work.tables.items():
        for ending in endings:
            (write_parquet if ending == ".parquet" else write_csv)(table, folder / f"{name}{ending}")
            files.append(folder / f"{name}{ending}")
    for name, one in spherings.items():
        one.save(folder / name)
        files.append(folder / name)
    write_csv(work.features, folder / "features.csv")
    files.append(folder / "features.csv")
    neighbours = _neighbours_of_plates(work)
    work.notes += _plates_apart(work, neighbours)
    info = _info(work, neighbours, [path.name for path in files])
    if work.settings.picture:
        from cellinfer.profiling.picture import draw_profiles

        whose = _whose_neighbours(work)
        draw_profiles(
            work.tables["Well"], work.table, work.controls, work.names, neighbours, whose, folder / "profile.png"
        )
        files.append(folder / "profile.png")
    with durable(folder / "profile.json") as partial:
        partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files.append(folder / "profile.json")
    return tuple(files), info


def _begin(folder: Path, wanted: set[str]) -> None:
    """Remove what an earlier call left, for a folder holds one result; `profile.json` says that this one is not whole.

    Only files that an earlier `profile.json` names are removed: others of such a name are somebody else's.
    """
    place = folder / "profile.json"
    try:
        named = {str(name) for name in json.loads(place.read_text(encoding="utf-8"))["files"]} | {"profile.png"}
    except (OSError, ValueError, KeyError, TypeError):
        named = set()
    ours = {f"{name}{ending}" for name in TABLES for ending in (".parquet", ".csv")} | {"features.csv", "profile.png"}
    with durable(place) as partial:
        partial.write_text(json.dumps({"finished": None, "files": sorted(wanted | (named & ours))}), encoding="utf-8")
    with output_errors(folder):
        for name in named - wanted:
            if name in ours or re.fullmatch(r"sphering(_\d+)?\.npz", name):
                (folder / name).unlink(missing_ok=True)


def _neighbours_of_plates(work: Work) -> dict[str, float] | None:
    """Return how often the nearest neighbour is of the same plate: before, after and by chance.

    Of controls, which are alike but for their plate, or of all wells where no controls are known; and, with `treated_`,
    of treated wells among those of other treatments. Steps that are learnt from controls fit these, so that of controls
    alone the figure after them is too good; where plates have two
    that were held out, it is of these. Nearest by cosine similarity, of features on one scale.
    """
    wells = work.tables["Well"]
    if work.controls is None:
        return _same_plate(work, np.ones(len(wells), dtype=bool), None)
    controls = work.controls if _whose_neighbours(work) == "controls" else work.held_out
    assert controls is not None
    found = _same_plate(work, controls, None)
    if found is None or not work.treatment:
        return found
    known = wells[work.treatment].notna().all(axis=1).to_numpy() & ~work.controls
    treated = _same_plate(work, known, group_rows(wells, work.treatment).codes)
    return found if treated is None else {**found, **{f"treated_{name}": value for name, value in treated.items()}}


def _plates_apart(work: Work, neighbours: Mapping[str, float] | None) -> list[str]:
    """Say so if plates are told more easily by their treated wells than before, and what may be done."""
    if neighbours is None or "treated_after" not in neighbours:
        return []
    before, after, chance = (neighbours[f"treated_{name}"] for name in ("before", "after", "chance"))
    if after < max(before, chance) + _APART:
        return []
    said = f"plates: treated wells resemble those of their own plate more than before ({before:.0%} to {after:.0%})"
    centred = [
        group["references"]
        for step in work.steps
        if step.name == "normalise" and step.parameters["against"] == "controls" and work.settings.scope == "plate"
        for group in step.parameters["groups"]
    ]
    if not centred:
        return [said]
    return [
        f"{said}: each is centred on its controls, {min(centred)} at the fewest. If plates hold much the same "
        "treatments, normalise against all wells (--reference all)"
    ]


def _whose_neighbours(work: Work) -> str:
    """Name the rows that stand for all in `_neighbours_of_plates`; held-out controls if any plate has two of them."""
    if work.controls is None:
        return "wells"
    if work.held_out is None or not work.tables["Well"].loc[work.held_out, PLATE].astype(str).duplicated().any():
        return "controls"
    return "held-out controls"


def _same_plate(
    work: Work, rows: npt.NDArray[np.bool_], treatments: npt.NDArray[np.intp] | None
) -> dict[str, float] | None:
    """Return the figures of some wells, whose neighbours are of another treatment; None if they are of one plate."""
    before, after = work.tables["Well"], work.table
    chosen = np.flatnonzero(rows)
    if len(chosen) > _MOST_NEIGHBOURS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MOST_NEIGHBOURS, replace=False))
    plates = pd.factorize(before[PLATE].astype(str))[0][chosen]
    names = np.arange(len(chosen)) if treatments is None else treatments[chosen]
    others = names[:, None] != names
    asked = others.any(axis=1)
    if len(np.unique(plates)) < 2 or not asked.any():
        return None
    alike = plates[:, None] == plates
    last = numbers(after, work.names)[chosen]
    last = last[:, np.isfinite(last).all(axis=0)]
    found = {}
    for name, values in (("before", scaled(numbers(before, feature_columns(before)))[chosen]), ("after", last)):
        length = np.linalg.norm(values, axis=1, keepdims=True)
        unit = values / np.where(length > 0, length, 1.0)
        nearest = np.where(others, unit @ unit.T, -np.inf).argmax(axis=1)
        found[name] = float((plates[nearest] == plates)[asked].mean())
    found["chance"] = float(((alike & others).sum(axis=1)[asked] / others.sum(axis=1)[asked]).mean())
    return found


def _info(work: Work, neighbours: dict[str, float] | None, files: list[str]) -> dict[str, Any]:
    settings = {one.name: _plain(getattr(work.settings, one.name)) for one in fields(work.settings)}
    choice = work.choice
    return {
        "cellinfer": __version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "treatment": work.treatment,
        "controls": None if work.controls is None else int(work.controls.sum()),
        "held_out_controls": 0 if work.held_out is None else int(work.held_out.sum()),
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
        "nearest_neighbour_of": _whose_neighbours(work),
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
        return {"path": str(path), "sha256": sha256_of(path)}
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
