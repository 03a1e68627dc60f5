"""The picture of a profiling run: wells by their principal components, before and after."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cellinfer.files import durable
from cellinfer.profiling.columns import PLATE, feature_columns
from cellinfer.profiling.rows import numbers, scaled

Array = npt.NDArray[np.float64]

# Okabe and Ito's palette: told apart with any colour vision
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#222222")
_CONTROL, _TREATED = "#222222", "#E69F00"
_LONGEST = 12


def draw_profiles(
    before: pd.DataFrame,
    after: pd.DataFrame,
    controls: npt.NDArray[np.bool_] | None,
    features: list[str],
    neighbours: dict[str, float] | None,
    whose: str,
    path: Path,
) -> None:
    """Draw wells before and after, coloured by plate and by what they got.

    Parameters
    ----------
    before, after
        Wells as they were aggregated and after the last step, row by row the same wells.
    controls
        (rows,) which are controls, if known.
    features
        Those of `after`.
    neighbours
        How often the nearest neighbour is of the same plate: `before`, `after` and by `chance`; None for one plate.
    whose
        Of which rows that is, such as `controls`.
    path
        PNG file.
    """
    figure = Figure(figsize=(11, 10), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    first = scaled(numbers(before, feature_columns(before)))  # raw features have too many scales for one picture
    last = numbers(after, features)
    last = last[:, np.isfinite(last).all(axis=0)]
    axes = figure.subplots(2, 2)
    for column, (title, values) in enumerate((("before", first), ("after", last))):
        points, parts = _components(values)
        points, outside = _within(points)
        said = f"{title}: {values.shape[1]:,} features" + (f", {outside} wells beyond the frame" if outside else "")
        if neighbours is not None:
            said += (
                f"\nnearest neighbour of {whose} on the same plate: {neighbours[title]:.0%} "
                f"({neighbours['chance']:.0%} by chance)"
            )
        axes[0, column].set_title(said, loc="left", fontsize=10)
        _by_plate(axes[0, column], points, before[PLATE].astype(str))
        _by_role(axes[1, column], points, controls)
        for row in range(2):
            axes[row, column].set_xlabel(f"principal component 1 ({parts[0]:.0%})", fontsize=9)
            axes[row, column].set_ylabel(f"principal component 2 ({parts[1]:.0%})", fontsize=9)
            axes[row, column].spines[["top", "right"]].set_visible(False)
            axes[row, column].tick_params(labelsize=8)
    figure.suptitle(
        f"{len(before):,} wells of {before[PLATE].nunique()} plates, coloured by plate (top) and by what "
        "they got (bottom)",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    with durable(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names of plates in other scripts
        figure.savefig(partial, format="png")


def _components(values: Array) -> tuple[Array, tuple[float, float]]:
    """Return the first two principal components of rows, and their parts of the variance."""
    points = np.zeros((len(values), 2))
    if not values.size:
        return points, (0.0, 0.0)
    centred = values - values.mean(axis=0)
    small = centred @ centred.T if len(values) <= values.shape[1] else centred.T @ centred
    eigenvalues, vectors = np.linalg.eigh(small)
    eigenvalues, vectors = np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]
    number = min(2, len(eigenvalues))
    if len(values) <= values.shape[1]:
        points[:, :number] = vectors[:, :number] * np.sqrt(eigenvalues[:number])
    else:
        points[:, :number] = centred @ vectors[:, :number]
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float(eigenvalues.sum()) or 1.0
    parts = [float(value) / total for value in eigenvalues[:number]] + [0.0, 0.0]
    return points, (parts[0], parts[1])


def _within(points: Array) -> tuple[Array, int]:
    """Move the few points that are far from all others to the frame, and count them."""
    low, middle, high = np.percentile(points, [1, 50, 99], axis=0)
    low, high = low - (middle - low), high + (high - middle)
    beyond = ((points < low) | (points > high)).any(axis=1)
    return np.clip(points, low, high), int(beyond.sum())


def _by_plate(axes: Axes, points: Array, plates: pd.Series) -> None:
    names = sorted(plates.unique())
    if len(names) > len(_PALETTE):
        colours = [mpl.colormaps["turbo"](place) for place in np.linspace(0.03, 0.97, len(names))]
    else:
        colours = [mpl.colors.to_rgba(colour) for colour in _PALETTE]
    chosen = np.array(colours)[[names.index(plate) for plate in plates]]
    order = np.random.default_rng(0).permutation(len(points))  # else the last plate would cover the others
    axes.scatter(points[order, 0], points[order, 1], s=12, c=chosen[order], alpha=0.75, lw=0)
    if len(names) > _LONGEST:
        axes.text(0.98, 0.98, f"{len(names)} plates", ha="right", va="top", fontsize=8, transform=axes.transAxes)
        return
    for name, colour in zip(names, colours, strict=False):
        axes.scatter([], [], s=16, color=[colour], label=name.replace("$", r"\$"))
    axes.legend(fontsize=7, frameon=False, loc="best", ncols=1 + len(names) // 7)


def _by_role(axes: Axes, points: Array, controls: npt.NDArray[np.bool_] | None) -> None:
    if controls is None:
        axes.scatter(points[:, 0], points[:, 1], s=12, color=_TREATED, alpha=0.75, lw=0, label="well")
    else:
        treated = ~controls
        axes.scatter(points[treated, 0], points[treated, 1], s=12, color=_TREATED, alpha=0.75, lw=0, label="treated")
        axes.scatter(
            points[controls, 0], points[controls, 1], s=14, color=_CONTROL, marker="x", lw=0.9, label="control"
        )
    axes.legend(fontsize=8, frameon=False, loc="best")
