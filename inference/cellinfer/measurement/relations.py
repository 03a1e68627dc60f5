"""Which objects lie in which, as CellProfiler's RelateObjects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from cellinfer_kernels.components import areas
from cellinfer_kernels.relations import relate
from numpy.typing import NDArray

from cellinfer.errors import InputError


def relate_objects(
    parents: NDArray[Any], children: NDArray[Any], *, parent: str = "Cells", child: str = "Nuclei"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the parent of every object: the one that covers most of its pixels.

    For label images of different origin; the compartments of a run share their ids and need no search.

    Parameters
    ----------
    parents, children
        (H, W) label images of one shape; ids need not match.
    parent, child
        What the objects are called in the columns.

    Returns
    -------
    parent_table, child_table : pandas.DataFrame
        One row per object with `ObjectNumber`, and `<Parent>_Children_<Child>_Count`; and `<Child>_Parent_<Parent>`,
        the parent's number, 0 without one. All int64. Of parents that cover a child equally the lower number counts.

    Raises
    ------
    InputError
        If the label images differ in shape or are no label images.
    """
    try:
        parent_of_child, children_per_parent = relate(parents, children)
        numbers = [areas(labels)[0].astype(np.int64) for labels in (parents, children)]
    except ValueError as problem:
        raise InputError(f"{parent} and {child}: {problem}") from problem
    return (
        pd.DataFrame({"ObjectNumber": numbers[0], f"{parent}_Children_{child}_Count": children_per_parent}),
        pd.DataFrame({"ObjectNumber": numbers[1], f"{child}_Parent_{parent}": parent_of_child}),
    )
