"""From cells to biology: tables of cells or wells to profiles, corrected for batches, judged and compared.

Every step is a function from data frames to data frames and can be used alone. Rows are cells, sites, wells or
treatments; columns are metadata or features, see `cellinfer.profiling.columns`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellinfer.profiling.aggregation import aggregate, aggregate_files
    from cellinfer.profiling.annotation import annotate
    from cellinfer.profiling.evaluation import ProfileEvaluation, evaluate_profiles
    from cellinfer.profiling.harmony import harmonise
    from cellinfer.profiling.held_out import hold_out
    from cellinfer.profiling.normalisation import normalise
    from cellinfer.profiling.pairs import PairRules
    from cellinfer.profiling.quality import QualityControl, quality_control
    from cellinfer.profiling.regularisation import choose_regularization
    from cellinfer.profiling.replicates import consensus
    from cellinfer.profiling.retrieval import average_precision, mean_average_precision
    from cellinfer.profiling.selection import select_features
    from cellinfer.profiling.sources import open_source
    from cellinfer.profiling.sphering import Sphering, sphere
    from cellinfer.profiling.workflow import ProfileResult, ProfileSettings, profile

__all__ = [
    "PairRules",
    "ProfileEvaluation",
    "ProfileResult",
    "ProfileSettings",
    "QualityControl",
    "Sphering",
    "aggregate",
    "aggregate_files",
    "annotate",
    "average_precision",
    "choose_regularization",
    "consensus",
    "evaluate_profiles",
    "harmonise",
    "hold_out",
    "mean_average_precision",
    "normalise",
    "open_source",
    "profile",
    "quality_control",
    "select_features",
    "sphere",
]

_MODULES = {
    "PairRules": "pairs",
    "ProfileEvaluation": "evaluation",
    "ProfileResult": "workflow",
    "ProfileSettings": "workflow",
    "QualityControl": "quality",
    "Sphering": "sphering",
    "aggregate": "aggregation",
    "aggregate_files": "aggregation",
    "annotate": "annotation",
    "average_precision": "retrieval",
    "choose_regularization": "regularisation",
    "consensus": "replicates",
    "evaluate_profiles": "evaluation",
    "harmonise": "harmony",
    "hold_out": "held_out",
    "mean_average_precision": "retrieval",
    "normalise": "normalisation",
    "open_source": "sources",
    "profile": "workflow",
    "quality_control": "quality",
    "select_features": "selection",
    "sphere": "sphering",
}


def __getattr__(name: str) -> Any:
    """Import a step when it is asked for, so that `import cellinfer.profiling` costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
