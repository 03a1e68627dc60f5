"""The picture of an evaluation: profiles by batch and class, retrieval, classes with significance, batch effects."""

from __future__ import annotations

import textwrap
import warnings
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from cellinfer.profiling.evaluation._input import Mask, Profiles
from cellinfer.profiling.retrieval import INSPECTED, RECALLS

if TYPE_CHECKING:
    from cellinfer.profiling.evaluation import ProfileEvaluation

Array = NDArray[np.float64]

# Okabe and Ito's palette: told apart with any colour vision; yellow is too light for points on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "^", "s")
_GREY, _PALE = "#8A8A8A", "#C9C9C9"
_MOST_NAMED = len(_COLOURS) * 2
_MOST_POINTS = 4000
_MOST_BARS = 28
_NAME_WIDTH = 30
_TASKS = {
    "class_by_treatment": "classes, treatments",
    "class_by_well": "classes, wells",
    "class_by_image": "classes, images",
    "replicates_by_well": "replicates, wells",
    "replicates_by_image": "replicates, images",
    "activity_by_well": "activity, wells",
    "activity_by_image": "activity, images",
}
_MEASURES = {
    "batch_by_neighbours": "batch by nearest\nneighbours (accuracy)",
    "batch_by_discriminant": "batch by discriminant\n(accuracy)",
    "batch_map": "same batch\n(normalised mAP)",
    "replicate_map": "replicates across\nbatches (norm. mAP)",
}


def draw_evaluation(result: ProfileEvaluation, path: Path, projection: str = "auto") -> list[str]:
    """Draw an evaluation as PNG.

    Parameters
    ----------
    result
        From `evaluate_profiles`.
    path
        File to write, whatever its suffix.
    projection
        `pca`, `umap` or `auto`.

    Returns
    -------
    list of str
        Which projection was taken, and what was left out of the picture.
    """
    figure = Figure(figsize=(18.5, 11), layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14))
    FigureCanvasAgg(figure)
    (by_batch, by_label, ranking), (precision, enrichment, batches) = figure.subplots(2, 3)
    level = result.prepared.levels.get("well", next(iter(result.prepared.levels.values())))
    level, notes = _sample(level, int(result.options["seed"]))
    metric, seed = str(result.options["metric"]), int(result.options["seed"])
    points, axis_name, said = _project(level.values, projection, metric, seed)
    notes += said
    batch, label = result.options["batch"], result.options["label"] or result.options["treatment"]
    _draw_points(by_batch, points, level, batch, axis_name, "batch")
    _draw_points(by_label, points, level, label, axis_name, "class")
    _draw_ranking(ranking, result)
    _draw_curves(precision, result, "precision")
    _draw_curves(enrichment, result, "recall")
    _draw_batches(batches, result)
    figure.suptitle(_literal("\n".join(textwrap.wrap(_headline(result), 170))), fontsize=12, x=0.01, ha="left")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names in scripts that the font lacks
        figure.savefig(path, dpi=100, format="png")
    return notes


def _headline(result: ProfileEvaluation) -> str:
    rows_found: list[dict[Any, Any]] = result.metrics.to_dict("records")
    found = {(row["task"], row["metric"]): row for row in rows_found}
    parts = []
    for task, metric, text in (
        ("class_by_treatment", "map", "class mAP {value:.3f} (chance {chance:.3f})"),
        ("class_by_treatment", "map_interpolated", "interpolated {value:.3f}"),
        ("class_by_treatment", "folds_of_enrichment", "folds of enrichment {value:.1f}"),
        ("nearest_neighbour_nsc", "accuracy", "nearest neighbour of another compound right: {value:.1%}"),
        ("nearest_neighbour_nscb", "accuracy", "and of another batch: {value:.1%}"),
        ("replicates_by_well", "map", "replicate mAP {value:.3f} (chance {chance:.3f})"),
        ("activity_by_well", "share_significant", "treatments that differ from controls: {value:.1%}"),
        ("replicate_similarity", "share_reproducible", "reproducible: {value:.1%}"),
    ):
        if (task, metric) in found:
            parts.append(text.format_map(found[task, metric]))
    rows = result.provenance["rows"]
    counts = ", ".join(f"{count:,} {name}s" for name, count in rows.items())
    return f"{counts}, {result.provenance['n_features']:,} features. " + "; ".join(parts)


def _sample(level: Profiles, seed: int) -> tuple[Profiles, list[str]]:
    if len(level.table) <= _MOST_POINTS:
        return level, []
    chosen = np.zeros(len(level.table), np.bool_)
    chosen[np.random.default_rng(seed).choice(len(chosen), _MOST_POINTS, replace=False)] = True
    return level.where(chosen), [f"the picture shows {_MOST_POINTS:,} of {len(chosen):,} profiles, chosen at random"]


def _project(values: Array, projection: str, metric: str, seed: int) -> tuple[Array, str, list[str]]:
    """Return points in the plane, the name of the axes, and what was done."""
    if projection != "pca" and len(values) > 3:
        points = _umap(values, metric, seed)
        if points is not None:
            return points, "UMAP", ["projection: UMAP"]
        if projection == "umap":
            return *_pca(values, metric), [
                "projection: PCA, since umap-learn is not installed (pip install 'cellinfer[umap]')"
            ]
    return *_pca(values, metric), ["projection: PCA"]


def _umap(values: Array, metric: str, seed: int) -> Array | None:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, and that a seed means one thread
            from umap import UMAP

            neighbours = min(15, len(values) - 1)
            found = UMAP(n_neighbors=neighbours, metric=metric, random_state=seed, n_jobs=1).fit_transform(values)
    except ImportError:
        return None
    points = np.asarray(found, np.float64)
    return points if np.isfinite(points).all() else None


def _pca(values: Array, metric: str) -> tuple[Array, str]:
    """Principal components of what the metric compares: directions for the cosine, else standardised features."""
    if metric == "cosine":
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    centred = centred[:, spread > 0]
    if metric != "cosine":
        centred /= spread[spread > 0]
    if min(centred.shape) < 2:
        return np.zeros((len(values), 2)), "PC"
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    shares = sizes[:2] ** 2 / (sizes**2).sum()
    return np.asarray(left[:, :2] * sizes[:2]), f"PC|{shares[0]:.0%}|{shares[1]:.0%}"


def _draw_points(axes: Axes, points: Array, level: Profiles, column: str | None, axis_name: str, what: str) -> None:
    """Profiles, coloured by a column; the most frequent values are named."""
    kind, *shares = axis_name.split("|")
    by = what if column is None else _short(column)
    axes.set_title(_literal(f"{level.name.capitalize()} profiles by {by}"), loc="left", fontsize=11)
    axes.set(xticks=[], yticks=[])
    explained = [f" ({share} of variance)" for share in shares] or ["", ""]
    axes.set_xlabel(f"{kind} 1{explained[0]}", fontsize=9)
    axes.set_ylabel(f"{kind} 2{explained[1]}", fontsize=9)
    size = float(np.clip(14000 / max(len(points), 1), 7, 36))
    x, y = _clipped(points[:, 0]), _clipped(points[:, 1])
    if column is None:
        axes.scatter(x, y, s=size, color=_GREY, lw=0)
        return
    names = level.table[column].map(_name, na_action="ignore")
    if what == "class":
        control = level.control
        _draw_unnamed(axes, x, y, names.isna().to_numpy() & ~control, size, "o", "no class")
        _draw_unnamed(axes, x, y, control, size, "x", "control")
        names = names.where(~control)
    counts = Counter(names.dropna())
    if what == "batch" and len(counts) > _MOST_NAMED:
        _draw_many(axes, x, y, names, sorted(counts), size)
        return
    shown = [name for name, _ in counts.most_common(_MOST_NAMED)]
    rest = (names.notna() & ~names.isin(shown)).to_numpy()
    _draw_unnamed(axes, x, y, rest, size, "o", f"{len(counts) - len(shown)} others")
    styles = [(colour, marker) for marker in _MARKERS for colour in _COLOURS]
    for name, (colour, marker) in zip(sorted(shown), styles, strict=False):
        mine = (names == name).to_numpy()
        label = _literal(_short(name))
        axes.scatter(x[mine], y[mine], s=size, color=colour, marker=marker, label=label, edgecolor="white", lw=0.3)
    axes.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.02), handletextpad=0.2)


def _draw_unnamed(axes: Axes, x: Array, y: Array, rows: Mask, size: float, marker: str, label: str) -> None:
    """Draw points that are there for comparison only."""
    if rows.any():
        colour, width = (_GREY, 0.8) if marker == "x" else (_PALE, 0.0)
        axes.scatter(x[rows], y[rows], s=0.6 * size, marker=marker, label=label, color=colour, linewidths=width)


def _draw_many(axes: Axes, x: Array, y: Array, names: pd.Series, ordered: list[str], size: float) -> None:
    """More batches than one can name: shades in order of their names."""
    codes = names.map({name: place for place, name in enumerate(ordered)}).to_numpy(np.float64)
    order = np.random.default_rng(0).permutation(len(codes))  # no batch on top of the others
    shades = axes.scatter(x[order], y[order], c=codes[order], s=size, cmap="cividis", lw=0)
    ends = [_literal(_short(name, 14)) for name in (ordered[0], ordered[-1])]
    bar = axes.figure.colorbar(shades, cax=axes.inset_axes((1.03, 0.15, 0.035, 0.7)))
    bar.set_ticks([0, len(ordered) - 1], labels=ends, fontsize=7.5)
    bar.set_label(f"{len(ordered)} in order of name", fontsize=8)


def _clipped(values: Array) -> Array:
    """Pull outliers to the edge, so that the others can be seen."""
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.25 * (high - low)
    return np.clip(values, low - margin, high + margin)


def _draw_ranking(axes: Axes, result: ProfileEvaluation) -> None:
    """Mean average precision of each class, or of each treatment where there are no classes."""
    found = [
        (rows, plural)
        for table, task, plural in (
            (result.classes, "class_by_treatment", "classes"),
            (result.classes, "class_by_well", "classes"),
            (result.treatments, "replicates_by_well", "treatments"),
        )
        if len(table.columns) and len(rows := table[table["task"] == task])
    ]
    if not found:
        _say(axes, "no class or treatment with enough queries")
        return
    rows, plural = found[0]
    ranked = rows.sort_values("map", ascending=False)
    cut = len(ranked) > _MOST_BARS
    shown = ranked.head(_MOST_BARS).iloc[::-1].reset_index(drop=True)
    colours = ["#0072B2" if one else _PALE for one in shown["significant"]]
    axes.barh(range(len(shown)), shown["map"], color=colours, height=0.72)
    axes.plot(shown["map_by_chance"], range(len(shown)), "|", color="#000000", ms=9, mew=1.4)
    names = [f"{_short(str(row['name']))} ({row['n_queries']})" for row in shown.to_dict("records")]
    axes.set_yticks(range(len(shown)), [_literal(name) for name in names], fontsize=8 if len(shown) > 18 else 9)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean average precision (number of queries in brackets)", fontsize=9)
    significant = int(ranked["significant"].sum())
    best = f"the best {_MOST_BARS} of {len(ranked)}" if cut else f"{len(ranked)}"
    axes.set_title(f"mAP of {best} {plural}, {significant} significant", loc="left", fontsize=11)
    handles = [
        mpl.patches.Patch(color="#0072B2", label="q < 0.05"),
        mpl.patches.Patch(color=_PALE, label="not significant"),
        mpl.lines.Line2D([], [], color="#000000", marker="|", ls="", ms=9, mew=1.4, label="by chance"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8.5, loc="lower right")
    _tidy(axes)


def _draw_curves(axes: Axes, result: ProfileEvaluation, what: str) -> None:
    """Precision by recall, or share of positives found by share of the list."""
    before = result.figures_before.scores if result.figures_before else {}
    for (task, scores), colour in zip(result.figures.scores.items(), cycle(_COLOURS), strict=False):
        x = RECALLS if what == "precision" else INSPECTED
        name = f"{_TASKS.get(task, task)} \n({len(scores):,} queries)"
        for one, style, suffix in ((scores, "-", ""), (before.get(task), "--", ", before")):
            if one is not None:
                y = one.precision_recall if what == "precision" else one.recall_inspected
                axes.plot(x, y, style, color=colour, lw=2 if style == "-" else 1.3, label=name if not suffix else None)
        if what == "precision":
            axes.axhline(float(np.mean(scores.n_positives / scores.n_candidates)), color=colour, lw=0.9, ls=":")
    axes.set_ylim(0, 1.02)
    if what == "precision":
        axes.set_xlim(0, 1)
        axes.set_xlabel("recall", fontsize=9)
        axes.set_ylabel("interpolated precision, mean over queries", fontsize=9)
        axes.set_title("Precision and recall (dotted: positives by chance)", loc="left", fontsize=11)
    else:
        axes.plot(INSPECTED, INSPECTED, ":", color="#000000", lw=1, label="by chance")
        axes.axvline(0.01, color=_GREY, lw=0.9)
        axes.text(0.0095, 1.01, "top 1 %", fontsize=8, color="#555555", va="top", ha="right")
        axes.set_xscale("log")
        axes.set_xlim(INSPECTED[0], 1)
        axes.set_xticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
        axes.set_xlabel("share of the list, most similar first", fontsize=9)
        axes.set_ylabel("share of positives found, mean over queries", fontsize=9)
        axes.set_title("Enrichment", loc="left", fontsize=11)
    if result.figures_before:
        axes.plot([], [], "--", color="#000000", lw=1.3, label="before")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    _tidy(axes)


def _draw_batches(axes: Axes, result: ProfileEvaluation) -> None:
    """Draw what profiles give away of their batch, against chance, and what is left of replicates."""
    axes.set_title("Batch effects", loc="left", fontsize=11, pad=20)  # above the legend
    found = [
        (name, row)
        for name in ("batches_of_treated_wells", "batches_of_control_wells")
        if name in result.figures.batches
        for row in result.figures.batches[name].figures.to_dict("records")
        if row["n_queries"]
    ]
    if not found:
        _say(axes, "not measured: fewer than two batches of wells")
        return
    before = result.figures_before.batches if result.figures_before else {}
    names = []
    for place, (task, row) in enumerate(reversed(found)):
        _draw_batch_row(axes, place, row, _value_before(before.get(task), row["measure"]))
        good = "lower is better" if row["wanted"] == "low" else "higher is better"
        names.append(f"{_MEASURES[row['measure']]}\n{'controls' if 'control' in task else 'treated'}, {good}")
    axes.set_yticks(range(len(found)), names, fontsize=7.5)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.axvline(0, color=_PALE, lw=0.8, zorder=0)
    axes.set_xlim(min(-0.05, axes.get_xlim()[0]), 1.02)
    axes.set_xlabel("accuracy, or normalised mAP (0 chance, 1 perfect)", fontsize=9)
    handles = [mpl.lines.Line2D([], [], color="#0072B2", marker="o", ls="-", label="value, 95 % interval")]
    if before:
        handles.append(mpl.lines.Line2D([], [], color="#D55E00", marker="D", ls="", mfc="none", label="before"))
    handles.append(mpl.lines.Line2D([], [], color=_PALE, lw=8, label="by chance"))
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=3)
    _tidy(axes)


def _value_before(found: Any, measure: str) -> float | None:
    return None if found is None else float(found.value(measure))


def _draw_batch_row(axes: Axes, place: int, row: dict[Any, Any], before: float | None) -> None:
    low, high = row["chance_low"], row["chance_high"]
    if np.isfinite(low):
        axes.barh(place, max(high - low, 0.004), left=low, height=0.6, color=_PALE, lw=0)
    elif np.isfinite(row["chance"]):
        axes.plot([row["chance"]] * 2, [place - 0.3, place + 0.3], color=_GREY, lw=2)
    if np.isfinite(row["low"]):
        axes.plot([row["low"], row["high"]], [place, place], color="#0072B2", lw=1.6)
    axes.plot(row["value"], place, "o", color="#0072B2", ms=7)
    if before is not None and np.isfinite(before):
        axes.plot(before, place, "D", color="#D55E00", ms=7, mfc="none", mew=1.6)


def _name(cell: Any) -> str:
    return "|".join(sorted(cell)) if isinstance(cell, frozenset) else str(cell)


def _short(text: str, width: int = _NAME_WIDTH) -> str:
    text = text.removeprefix("Metadata_").removeprefix("Image_Metadata_")
    return text if len(text) <= width else text[: width - 1] + "…"


def _literal(text: str) -> str:
    """Keep matplotlib from taking dollars for mathematics."""
    return text.replace("$", r"\$")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#555555")
    axes.set_axis_off()


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
