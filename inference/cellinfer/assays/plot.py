"""The picture of an assay: controls, dose response, ranking of features, plate."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from cellinfer.assays.platemap import WELL
from cellinfer.wells import PLATE_FORMATS, parse_well, plate_size, row_letters

if TYPE_CHECKING:
    from cellinfer.assays.verdict import AssayResult

# Okabe and Ito's palette: told apart with any colour vision
_NEGATIVE, _POSITIVE, _OTHER, _CURVE = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
_TOP = 20
_TITLE_WIDTH = 145  # characters that surely fit above the picture
_MOST_PLATES = 8


def draw_assay(result: AssayResult, path: Path) -> None:
    """Draw an assay's result as PNG.

    Parameters
    ----------
    result
        From `cellinfer.assays.verdict.assay`.
    path
        File to write, whatever its suffix.
    """
    figure = Figure(figsize=(14, 10), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    (controls, dose), (ranking, plate) = figure.subplots(2, 2, width_ratios=(1, 1.15))
    _draw_controls(controls, result)
    _draw_dose(dose, result)
    _draw_ranking(ranking, result)
    _draw_plate(plate, result, figure)
    first, _, rest = result.verdict.partition("). ")
    lines = [line for part in (first + ")." * bool(rest), rest) for line in textwrap.wrap(part, _TITLE_WIDTH)]
    figure.suptitle(_literal("\n".join(lines)), fontsize=12, x=0.01, ha="left")
    figure.savefig(path, dpi=110, format="png")


def _draw_controls(axes: Axes, result: AssayResult) -> None:
    """One strip of wells per plate and control, with mean and three standard deviations."""
    feature, wells = result.headline, result.wells
    rows = result.by_plate[result.by_plate["feature"] == feature].head(_MOST_PLATES)
    names = []
    for place, row in enumerate(rows.to_dict("records")):
        for shift, role, colour in ((-0.2, "negative", _NEGATIVE), (0.2, "positive", _POSITIVE)):
            mine = wells[(wells["plate"] == row["plate"]) & (wells["role"] == role)]
            values = mine[feature].to_numpy(dtype=float)
            values = values[np.isfinite(values)]
            jitter = np.linspace(-0.1, 0.1, len(values)) if len(values) > 1 else np.zeros(len(values))
            mean, sd = row[f"mean_{role}"], row[f"sd_{role}"]
            if math.isfinite(sd):
                axes.fill_between(
                    [place + shift - 0.17, place + shift + 0.17],
                    mean - 3 * sd,
                    mean + 3 * sd,
                    color=colour,
                    alpha=0.18,
                    lw=0,
                )
                axes.plot([place + shift - 0.17, place + shift + 0.17], [mean, mean], color=colour, lw=2)
            axes.scatter(
                place + shift + jitter,
                values,
                s=26,
                color=colour,
                edgecolor="white",
                lw=0.6,
                zorder=3,
                marker="o" if role == "negative" else "^",
                label=f"{role} control" if place == 0 else None,
            )
        names.append(f"{row['plate']}\nZ' = {row['z_prime']:.2f}")
    axes.set_xticks(range(len(names)), [_literal(name) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.legend(frameon=False, loc="best", fontsize=9)
    axes.set_ylabel(_literal(feature), fontsize=9)
    axes.set_title("Control wells: mean (line) ± 3 sd (band)", loc="left", fontsize=11)
    _tidy(axes)


def _draw_dose(axes: Axes, result: AssayResult) -> None:
    """Wells, dose means and the curve of the first dose response; dose zero stands left of the axis break."""
    from cellinfer.assays.verdict import aligned

    axes.set_title("Dose response", loc="left", fontsize=11)
    if not result.dose_responses:
        _say(
            axes, "no doses given (--dose-column)" if result.options["dose_column"] is None else "too few doses to fit"
        )
        return
    response = result.dose_responses[0]
    wells, doses = result.wells, result.wells["dose"].to_numpy(dtype=float)
    values = aligned(wells, response.feature)
    usable = np.isfinite(doses) & np.isfinite(values)
    levels = np.unique(doses[usable & (doses > 0)])
    step = (levels[-1] / levels[0]) ** (1 / max(len(levels) - 1, 1))
    zero = levels[0] / step**1.5  # a place for dose zero on the logarithmic axis
    at = np.where(doses > 0, doses, zero)
    for role, colour, marker in (("", _OTHER, "o"), ("negative", _NEGATIVE, "o"), ("positive", _POSITIVE, "^")):
        mine = usable & (wells["role"] == role).to_numpy()
        if mine.any():
            label = f"{role} control" if role else "well"
            axes.scatter(
                at[mine], values[mine], s=24, color=colour, edgecolor="white", lw=0.5, marker=marker, label=label
            )
    line = np.geomspace(levels[0] / step**0.5, levels[-1] * step**0.5, 300)
    axes.plot(line, response.predict(line), color=_CURVE, lw=2, label="fit" if response.responds else "mean")
    low, high = response.ec50_low, response.ec50_high
    if response.ec50 is not None:
        left, right = low or line[0], high or line[-1]
        axes.axvspan(max(left, line[0]), min(right, line[-1]), color="#009E73", alpha=0.18, lw=0, label="EC50, 95 %")
        if line[0] <= response.ec50 <= line[-1]:
            axes.axvline(response.ec50, color="#009E73", lw=1.2)
    axes.set_xscale("log")
    ticks = levels if len(levels) <= 12 else levels[:: math.ceil(len(levels) / 12)]
    has_zero = bool((doses[usable] == 0).any())
    shown = [*([zero] if has_zero else []), *ticks]
    axes.set_xticks(shown, [*(["0"] if has_zero else []), *(f"{tick:.3g}" for tick in ticks)])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(_literal(f"dose ({result.options['dose_column']}, as in the plate map)"))
    axes.set_ylabel(_literal(response.feature), fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="best")
    sentence = (
        response.sentence().replace(", Hill", ",\nHill") if len(response.sentence()) > 70 else response.sentence()
    )
    axes.set_title(_literal(f"Dose response: {sentence}"), loc="left", fontsize=10)
    _tidy(axes)


def _draw_ranking(axes: Axes, result: AssayResult) -> None:
    """Z' of the best features; bars start at zero, and what is below -1 is cut off and says so."""
    ranked = result.features[result.features["z_prime"].notna()].head(_TOP)
    axes.set_title(f"Z' of the best {len(ranked)} features (dashed: excellent from 0.5)", loc="left", fontsize=11)
    if not len(ranked):
        _say(axes, "Z' is not defined for any feature")
        return
    z = ranked["z_prime"].to_numpy()
    shown = np.maximum(z, -1.0)
    colours = ["#009E73" if value >= 0.5 else "#E69F00" if value >= 0 else _OTHER for value in z]
    places = np.arange(len(z))
    axes.barh(places, shown, color=colours, height=0.75)
    for place, value in enumerate(z.tolist()):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(max(value, 0.0) + 0.012, place, f"{value:.2f}", va="center", fontsize=8, bbox=box)
    labels = axes.set_yticks(places, [_literal(name) for name in ranked["feature"]], fontsize=8)
    for tick, name in zip(labels, ranked["feature"], strict=True):
        if name == result.headline:
            tick.label1.set_fontweight("bold")
    axes.axvline(0.5, color=_CURVE, lw=1, ls="--")
    axes.set_xlim(min(0.0, float(shown.min())), max(1.0, float(shown.max())) + 0.08)
    axes.invert_yaxis()
    axes.set_xlabel("Z'-factor" + (" (bars are cut off at -1)" if z.min() < -1 else ""))
    _tidy(axes)


def _draw_plate(axes: Axes, result: AssayResult, figure: Figure) -> None:
    """Heat map of the headline feature on the first plate; controls are marked."""
    first = result.by_plate["plate"].iloc[0]
    wells = result.wells[result.wells["plate"] == first]
    size = PLATE_FORMATS[plate_size(wells[WELL])]
    grid = np.full((size.rows, size.columns), np.nan)
    for name, value in zip(wells[WELL], wells[result.headline].to_numpy(dtype=float), strict=True):
        row, column = parse_well(name)
        grid[row - 1, column - 1] = value
    colours = mpl.colormaps["viridis"].with_extremes(bad="#EEEEEE")
    image = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, aspect="equal")
    for name, role in zip(wells[WELL], wells["role"], strict=True):
        if role:
            row, column = parse_well(name)
            colour = _NEGATIVE if role == "negative" else _POSITIVE
            axes.add_patch(Rectangle((column - 1.44, row - 1.44), 0.88, 0.88, fill=False, ec="white", lw=3))
            axes.add_patch(Rectangle((column - 1.44, row - 1.44), 0.88, 0.88, fill=False, ec=colour, lw=1.8))
    axes.set_xticks(range(size.columns), [str(column + 1) for column in range(size.columns)], fontsize=8)
    axes.set_yticks(range(size.rows), [row_letters(row + 1) for row in range(size.rows)], fontsize=8)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(size.columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size.rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(_literal(result.headline), fontsize=8)
    axes.set_title(
        _literal(f"Plate {first} (controls: blue negative, orange positive)"),
        loc="left",
        fontsize=10,
    )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=_OTHER, transform=axes.transAxes)
    axes.set_axis_off()


def _literal(text: str) -> str:
    """Keep dollar signs of names from starting a formula."""
    return text.replace("$", r"\$")
