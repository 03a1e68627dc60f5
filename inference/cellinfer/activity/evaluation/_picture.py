"""The picture of an evaluation: areas of all assays, how many are above limits, by which modalities, of which type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from cellinfer.activity.evaluation._figures import NONE, UNTYPED
from cellinfer.activity.metrics import AUROC
from cellinfer.files import durable

# Okabe and Ito's colours without yellow and black; more modalities take those of matplotlib's tab20.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_CIRCLES: dict[int, dict[tuple[int, ...], tuple[float, float]]] = {
    1: {(0,): (0.0, 0.0)},
    2: {(0,): (-1.0, 0.0), (1,): (1.0, 0.0), (0, 1): (0.0, 0.0)},
    3: {
        (0,): (-1.05, 0.6), (1,): (1.05, 0.6), (2,): (0.0, -1.2),
        (0, 1): (0.0, 0.85), (0, 2): (-0.72, -0.4), (1, 2): (0.72, -0.4), (0, 1, 2): (0.0, 0.02),
    },
}  # fmt: skip
"""Where the count of each combination stands, for circles of radius 1 around `_CENTRES`."""
_CENTRES = {
    1: [(0.0, 0.0)],
    2: [(-0.55, 0.0), (0.55, 0.0)],
    3: [(-0.58, 0.35), (0.58, 0.35), (0.0, -0.62)],
}
_BARS = 15
_TYPES = 8
_LEGEND = 8
_LETTERS = 26
"""Of names; longer ones would leave no place for the panels."""


def draw_evaluation(
    by_assay: pd.DataFrame,
    summary: pd.DataFrame,
    by_type: pd.DataFrame,
    venn: pd.DataFrame,
    sets: Sequence[str],
    over: str,
    limit: float,
    path: Path,
) -> None:
    """Draw four panels.

    Parameters
    ----------
    by_assay, summary, by_type, venn
        The tables of the evaluation.
    sets
        Modalities of the Venn diagram.
    over
        Statistic over folds that is shown.
    limit
        AUROC above which the Venn diagram and types count.
    path
        PNG file.
    """
    names = list(dict.fromkeys(by_assay["modality"]))
    colours = _colours(names)
    wide = max(6.0, 0.55 * len(names) + 3)
    figure = Figure(figsize=(6.5 + wide, 9.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    (ranked, counts), (sets_panel, types) = figure.subplots(2, 2, width_ratios=(6.5, wide))
    _ranked(ranked, by_assay, names, over, colours)
    _counts(counts, summary, names, over, colours)
    shown = venn[(venn["over_folds"] == over) & (venn["above"] == limit)]
    if len(sets) <= 3:
        _circles(sets_panel, shown, sets, limit, colours)
    else:
        _combinations(sets_panel, shown, sets, limit, colours)
    _types(types, by_type, names, over, limit, colours)
    for panel in (ranked, counts, types):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    with durable(path) as partial:
        figure.savefig(partial, format="png")


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _colours(names: Sequence[str]) -> dict[str, str]:
    many = [mpl.colors.to_hex(colour) for colour in mpl.colormaps["tab20"].colors]  # type: ignore[attr-defined,unused-ignore]
    chosen = _COLOURS if len(names) <= len(_COLOURS) else many
    return {name: chosen[place % len(chosen)] for place, name in enumerate(names)}


def _ranked(panel: Axes, by_assay: pd.DataFrame, names: Sequence[str], over: str, colours: Mapping[str, str]) -> None:
    """Draw the areas of each modality's assays from the largest on."""
    for name in names:
        values = by_assay.loc[by_assay["modality"] == name, f"{AUROC}_{over}"].dropna().sort_values(ascending=False)
        if len(values):
            label = f"{_short(name)}: {values.mean():.3f}"
            panel.plot(np.arange(1, len(values) + 1), values, color=colours[name], label=label, linewidth=1.5)
    for level in (0.5, 0.7, 0.9):
        panel.axhline(level, color="#C8C8C8", linewidth=0.8, zorder=0)
    panel.set_xlabel("assays, each modality in its own order", fontsize=9)
    panel.set_ylabel(f"AUROC, {over} over folds", fontsize=9)
    panel.set_ylim(-0.02, 1.02)
    title = "mean over assays"
    panel.legend(fontsize=7 if len(names) > 8 else 8, frameon=False, loc="lower left", title=title, title_fontsize=8)
    panel.set_title("AUROC of assays", fontsize=10, loc="left")


def _counts(panel: Axes, summary: pd.DataFrame, names: Sequence[str], over: str, colours: Mapping[str, str]) -> None:
    """Draw how many assays are above each limit, with intervals."""
    chosen = summary[(summary["metric"] == AUROC) & (summary["over_folds"] == over)]
    chosen = chosen[chosen["statistic"].str.startswith("above_")]
    limits = list(dict.fromkeys(chosen["statistic"]))
    width = 0.8 / max(len(names), 1)
    top = 0.0
    for place, name in enumerate(names):
        rows = chosen[chosen["modality"] == name].set_index("statistic").reindex(limits)
        at = np.arange(len(limits)) + (place - (len(names) - 1) / 2) * width
        values = rows["value"].to_numpy(np.float64)
        below, above = values - rows["low"].to_numpy(np.float64), rows["high"].to_numpy(np.float64) - values
        known = np.isfinite(values)
        panel.bar(at[known], values[known], 0.9 * width, color=colours[name], label=_short(name))
        whole = known & np.isfinite(below) & np.isfinite(above)
        errors = np.maximum(np.stack([below, above])[:, whole], 0)
        panel.errorbar(at[whole], values[whole], errors, fmt="none", ecolor="#404040", elinewidth=0.8)
        for x, value, more in zip(at[known], values[known], np.where(whole, above, 0)[known], strict=True):
            panel.annotate(f"{value:.0f}", (x, value + max(more, 0)), (0, 1), textcoords="offset points",
                           ha="center", va="bottom", fontsize=8 if len(names) <= 6 else 6)  # fmt: skip
            top = max(top, value + max(more, 0))
    panel.set_ylim(0, 1.08 * top + 0.5)
    panel.set_xticks(np.arange(len(limits)), [f"> {one.removeprefix('above_')}" for one in limits])
    panel.set_xlabel(f"AUROC, {over} over folds", fontsize=9)
    panel.set_ylabel("assays (bars: 95 % over assays)", fontsize=9)
    panel.set_title("Assays above limits", fontsize=10, loc="left")
    if limits and len(names) <= _LEGEND:  # else it would hide counts; the first panel has the colours
        panel.legend(fontsize=8, frameon=False)


def _circles(panel: Axes, venn: pd.DataFrame, sets: Sequence[str], limit: float, colours: Mapping[str, str]) -> None:
    """Draw a Venn diagram of one to three modalities; circles are of one size, the counts say how many."""
    counts = dict(zip(venn["combination"], venn["count"], strict=True))
    number = len(sets)
    for name, (x, y) in zip(sets, _CENTRES[number], strict=True):
        panel.add_patch(Circle((x, y), 1, facecolor=colours[name], alpha=0.32, edgecolor=colours[name], linewidth=1.5))
        total = int(venn.loc[[name in str(one).split(" & ") for one in venn["combination"]], "count"].sum())
        high = y > -0.3
        panel.text(1.25 * x, y + (1.12 if high else -1.12), f"{_short(name)} ({total})", ha="center", fontsize=10,
                   va="bottom" if high else "top")  # fmt: skip
    for places, (x, y) in _CIRCLES[number].items():
        key = " & ".join(sets[place] for place in places)
        panel.text(x, y, str(counts.get(key, 0)), ha="center", va="center", fontsize=13)
    none = counts.get(NONE, 0)
    above = sum(counts.values()) - none
    panel.set_xlim(-2.3, 2.3)
    panel.set_ylim(-2.0, 1.9)
    panel.set_aspect("equal")
    panel.axis("off")
    panel.set_title(
        f"Assays with AUROC > {limit:g}: {above} by any, {none} by none (not to scale)", fontsize=10, loc="left"
    )


def _combinations(
    panel: Axes, venn: pd.DataFrame, sets: Sequence[str], limit: float, colours: Mapping[str, str]
) -> None:
    """Draw bars of the most frequent combinations of many modalities, and under each which modalities it is of."""
    rows = venn[(venn["n_modalities"] > 0) & (venn["count"] > 0)].sort_values("count", ascending=False, kind="stable")
    top, rest = rows.head(_BARS), int(rows["count"].iloc[_BARS:].sum())
    high = max(int(top["count"].max()) if len(top) else 1, 1)
    step = high / 10
    panel.bar(np.arange(len(top)), top["count"], color="#505050", width=0.6)
    for place, (combination, count) in enumerate(zip(top["combination"], top["count"], strict=True)):
        panel.text(place, count, str(count), ha="center", va="bottom", fontsize=8)
        inside = str(combination).split(" & ")
        for line, name in enumerate(sets):
            colour = colours[name] if name in inside else "#E4E4E4"
            panel.plot(place, -(line + 1) * step, "o", color=colour, markersize=5, clip_on=False)
    panel.set_yticks([-(line + 1) * step for line in range(len(sets))], [_short(name) for name in sets], fontsize=8)
    panel.set_xticks([])
    panel.set_xlim(-0.6, max(len(top), 1) - 0.4)
    panel.set_ylim(-(len(sets) + 0.7) * step, 1.12 * high)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    above = int(rows["count"].sum())
    more = f", {rest} in combinations not shown" if rest else ""
    panel.set_title(f"Assays with AUROC > {limit:g} by exactly these: {above}{more}", fontsize=10, loc="left")


def _types(
    panel: Axes, by_type: pd.DataFrame, names: Sequence[str], over: str, limit: float, colours: Mapping[str, str]
) -> None:
    """Draw how many assays of each type are above the limit, of how many."""
    chosen = by_type[(by_type["metric"] == AUROC) & (by_type["over_folds"] == over)]
    chosen = chosen[chosen["statistic"] == f"above_{limit:g}"]
    every = list(dict.fromkeys(chosen["type"]))
    if every == [UNTYPED]:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "types of assays: --assays TABLE", ha="center", color="#808080", transform=panel.transAxes)
        return
    types = every[:_TYPES]
    more = f" (the {_TYPES} largest of {len(every)})" if len(every) > _TYPES else ""
    panel.set_title(f"Assays with AUROC > {limit:g} by type{more}", fontsize=10, loc="left")
    height = 0.8 / max(len(names), 1)
    for place, name in enumerate(names):
        values = chosen[chosen["modality"] == name].set_index("type")["value"].reindex(types)
        at = np.arange(len(types)) + (place - (len(names) - 1) / 2) * height
        panel.barh(at, values.fillna(0).to_numpy(np.float64), 0.9 * height, color=colours[name])
        for y, value in zip(at, values, strict=True):
            if value == value and (value or len(names) <= _LEGEND):
                panel.annotate(f"{value:.0f}", (value, y), (2, 0), textcoords="offset points", va="center",
                               fontsize=7 if len(names) <= 6 else 5)  # fmt: skip
    panel.set_xlim(0, max(1.0, panel.get_xlim()[1]))
    sizes = chosen.groupby("type", sort=False)["n_assays"].max()
    panel.set_yticks(np.arange(len(types)), [f"{_short(one)} ({sizes[one]})" for one in types])
    panel.invert_yaxis()
    panel.set_xlabel(f"assays, AUROC {over} over folds", fontsize=9)
