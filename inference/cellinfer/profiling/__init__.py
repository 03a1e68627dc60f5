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
    from cellinfer.profiling.harmony import harmonise
    from cellinfer.profiling.normalisation import normalise
    from cellinfer.profiling.regularisation import choose_regularization
    from cellinfer.profiling.replicates import consensus
    from cellinfer.profiling.selection import select_features
    from cellinfer.profiling.sources import open_source
    from cellinfer.profiling.sphering import Sphering, sphere
    from cellinfer.profiling.workflow import ProfileResult, ProfileSettings, profile

__all__ = [
    "ProfileResult",
    "ProfileSettings",
    "Sphering",
    "aggregate",
    "aggregate_files",
    "annotate",
    "choose_regularization",
    "consensus",
    "harmonise",
    "normalise",
    "open_source",
    "profile",
    "select_features",
    "sphere",
]

_MODULES = {
    "ProfileResult": "workflow",
    "ProfileSettings": "workflow",
    "Sphering": "sphering",
    "aggregate": "aggregation",
    "aggregate_files": "aggregation",
    "annotate": "annotation",
    "choose_regularization": "regularisation",
    "consensus": "replicates",
    "harmonise": "harmony",
    "normalise": "normalisation",
    "open_source": "sources",
    "profile": "workflow",
    "select_features": "selection",
    "sphere": "sphering",
}


def __getattr__(name: str) -> Any:
    """Import a step when it is asked for, so that `import cellinfer.profiling` costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
