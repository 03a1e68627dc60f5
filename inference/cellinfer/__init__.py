"""cellinfer: deep networks on microscope images, deployed.

The functions here are those that the command line calls. They are imported when first used, so that `import
cellinfer` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellinfer._version import __version__

if TYPE_CHECKING:
    from cellinfer.assays.verdict import assay
    from cellinfer.embedding import embed
    from cellinfer.engine import RunResult, run
    from cellinfer.errors import CellinferError
    from cellinfer.evaluation import evaluate
    from cellinfer.exporting import ExportResult, export
    from cellinfer.features import feature_table
    from cellinfer.illumination import Illumination, compute_illumination
    from cellinfer.inspection import inspect
    from cellinfer.measurement import measure, measure_compartments
    from cellinfer.pipeline import FieldResult, Pipeline, Settings, load
    from cellinfer.plate import Field, FieldKey, ImageRef, Plate
    from cellinfer.readers import read_plate
    from cellinfer.segment_files import segment
    from cellinfer.segmentation import segment_image
    from cellinfer.sessions import open_embedder, open_session
    from cellinfer.simulate import simulate_plate

_HOME = {
    "assay": "assays",
    "CellinferError": "errors",
    "compute_illumination": "illumination",
    "embed": "embedding",
    "evaluate": "evaluation",
    "export": "exporting",
    "ExportResult": "exporting",
    "feature_table": "features",
    "Field": "plate",
    "FieldKey": "plate",
    "FieldResult": "pipeline",
    "ImageRef": "plate",
    "Illumination": "illumination",
    "inspect": "inspection",
    "load": "pipeline",
    "measure": "measurement",
    "measure_compartments": "measurement",
    "open_embedder": "sessions",
    "open_session": "sessions",
    "Pipeline": "pipeline",
    "Plate": "plate",
    "read_plate": "readers",
    "run": "engine",
    "RunResult": "engine",
    "segment": "segment_files",
    "segment_image": "segmentation",
    "Settings": "pipeline",
    "simulate_plate": "simulate",
}

__all__ = [
    "CellinferError",
    "ExportResult",
    "Field",
    "FieldKey",
    "FieldResult",
    "Illumination",
    "ImageRef",
    "Pipeline",
    "Plate",
    "RunResult",
    "Settings",
    "__version__",
    "assay",
    "compute_illumination",
    "embed",
    "evaluate",
    "export",
    "feature_table",
    "inspect",
    "load",
    "measure",
    "measure_compartments",
    "open_embedder",
    "open_session",
    "read_plate",
    "run",
    "segment",
    "segment_image",
    "simulate_plate",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"cellinfer.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cellinfer' has no attribute {name!r}")
