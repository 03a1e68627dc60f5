"""The picture of a split: how similar test compounds are to what training has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cellinfer.files import durable

_SPLIT, _RANDOM = "#0072B2", "#9A9A9A"  # Okabe and Ito's blue, and grey
_COLUMNS = 3


def draw_similarities(
    name: str,
    similarity: NDArray[np.float64],
    folds: NDArray[np.int64],
    at_random: NDArray[np.float64],
    path: Path,
) -> None:
    """Draw the histogram of nearest-neighbour similarities, for all compounds and for each fold.

    Parameters
    ----------
    name
        Of the split.
    similarity
        `(n,)` of each compound's most similar one in other folds; NaN is left out.
    folds
        `(n,)`
    at_random
        `(n,)` the same for folds of random compounds.
    path
        PNG file.
    """
    numbers = range(int(folds.max(initial=0)) + 1)
    rows = -(-(len(numbers) + 1) // _COLUMNS)
    figure = Figure(figsize=(11, 1 + 2.6 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    edges = np.linspace(0, 1, 41)
    for place, panel in enumerate(panels):
        if place > len(numbers):
            panel.set_visible(False)
            continue
        chosen = np.isfinite(similarity) & ((folds == place - 1) | (place == 0))
        title = "all compounds" if place == 0 else f"fold {place - 1}"
        for values, colour, label, style in (
            (at_random[np.isfinite(at_random)], _RANDOM, "random folds", {"histtype": "stepfilled", "alpha": 0.6}),
            (similarity[chosen], _SPLIT, name, {"histtype": "step", "linewidth": 1.6}),
        ):
            if len(values):
                label = f"{label}: median {np.median(values):.2f}"
                weights = np.full(len(values), 100.0 / len(values))
                panel.hist(values, edges, weights=weights, color=colour, label=label, **style)
        panel.set_title(f"{title} ({int(chosen.sum()):,})", fontsize=10, loc="left")
        panel.set_ylabel("% of compounds", fontsize=9)
        panel.tick_params(labelsize=8, labelbottom=True)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.has_data():
            panel.set_ylim(0, 1.3 * panel.get_ylim()[1])  # place for the legend
            panel.legend(fontsize=8, frameon=False, loc="upper left")
    figure.supxlabel("Tanimoto similarity (Morgan, radius 2) to the nearest training compound", fontsize=10)
    with durable(path) as partial:
        figure.savefig(partial, format="png")
