"""`run.json`: which model, configuration, versions and device made these results, and what it cost."""

from __future__ import annotations

import datetime
import json
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellinfer._version import __version__
from cellinfer.files import durable
from cellinfer.plate import Plate

if TYPE_CHECKING:
    from cellinfer.embedding import Embedder
    from cellinfer.engine import RunResult
    from cellinfer.engine._plan import Plan
    from cellinfer.illumination import Illumination
    from cellinfer.pipeline import Pipeline

_PACKAGES = ("numpy", "numba", "pandas", "pyarrow", "opencv-python-headless", "tifffile", "imagecodecs", "scipy")


def write_run_info(
    folder: Path,
    plate: Plate,
    pipeline: Pipeline,
    result: RunResult,
    stages: dict[str, float],
    plan: Plan,
    scheduler: str | None,
    read_with: dict[str, Any] | None,
    digest: str,
) -> None:
    """Write `run.json` into a result folder.

    `read_with` are the options with which the plate was read from its folder, None if it was given as it is; `digest`
    is that of what the tables are made of.
    """
    session = pipeline.session
    info = {
        "cellinfer": __version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "name": session.card.name,
            "version": session.card.version,
            "sha256": session.sha256,
            "license": session.card.license,
        },
        **({} if pipeline.embedder is None else {"embedding": _embedding(pipeline.embedder)}),
        **({} if (light := pipeline.illumination) is None else {"illumination": _illumination(light)}),
        "device": {"name": session.device},
        "plan": {"dask": scheduler} if scheduler else asdict(plan),
        "precision": asdict(session.choice),
        "configuration": asdict(pipeline.settings) | {"diameter_assumed": result.diameter_assumed},
        "input": {
            "plate": plate.name,
            "folder": str(plate.root),
            "layout": plate.layout,
            "read_with": read_with,
            "channels": list(plate.channels),
            "fields": len(plate.fields),
            "missing_planes": len(plate.missing),
            "pixel_size_um": plate.pixel_size,
        },
        "result": {
            "fields": result.fields,
            "cells": result.cells,
            "reused": result.reused,
            "failed": dict(result.failed),
            "notes": list(result.notes),
            "digest": digest,
        },
        "seconds": {"wall": round(result.seconds, 3), "by_stage_summed_over_fields": stages},
        "versions": {"python": platform.python_version(), **package_versions()},
        "machine": {"system": platform.platform(), "processor": platform.processor() or platform.machine()},
    }
    with durable(folder / "run.json") as partial:
        partial.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _embedding(embedder: Embedder) -> dict[str, Any]:
    card = embedder.session.card
    return {"name": card.name, "version": card.version, "license": card.license, **embedder.configuration}


def _illumination(light: Illumination) -> dict[str, Any]:
    plates = {
        name: {"fields": len(of.used), "left_out": len(of.left_out), "channels": list(of.smooth)}
        for name, of in light.plates.items()
    }
    return {"plates": plates, "sha256": light.digest}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found: dict[str, Any] = {}
    for name in (*_PACKAGES, "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
