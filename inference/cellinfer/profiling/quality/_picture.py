"""The picture of quality control: plates with flagged wells marked, and the fields that are worst."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cellinfer_kernels.normalise import percentiles, rescale
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cellinfer.images import read_channel
from cellinfer.plate import Field
from cellinfer.profiling.columns import PLATE, SITE, WELL
from cellinfer.profiling.quality._measures import MEASURES
from cellinfer.profiling.quality._tables import TIME, WELL_KEY, QualityTables
from cellinfer.readers import read_plate
from cellinfer.storage import location
from cellinfer.wells import PLATE_FORMATS, parse_well, plate_size, row_letters

if TYPE_CHECKING:
    from cellinfer.profiling.quality import QualityControl

# Okabe and Ito's palette: told apart with any colour vision
_COLOURS = {"ok": "#DCE6EC", "warn": "#E69F00", "fail": "#B2182B"}
_MARKS = {"warn": "!", "fail": "×"}
_CONTROLS = {"negative": "#0072B2", "positive": "#009E73"}
_NONE = "#F4F4F4"
_MAPS = 4
_MOST_PLATES = 4
_SHOWN = 11
_COLUMNS = 6
_SIDE = 512
_WIDTH = 17.0


def draw_quality(result: QualityControl, tables: QualityTables, path: Path) -> tuple[str, ...]:
    """Draw `qc.png`.

    Parameters
    ----------
    result
        What was found.
    tables
        What it was found in: says where the images are.
    path
        File to write, whatever its suffix.

    Returns
    -------
    tuple of str
        What the picture does not show, and why.
    """
    plates = _plates_to_show(result.wells)
    shown, notes = _pictures(result, tables)
    lines = -(-len(shown) // _COLUMNS)
    heights = [*([3.6] * len(plates)), *([4.0 * lines] if shown else [])]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, plate in zip(parts, plates, strict=False):
        _draw_plate(part, plate, result.channels)
    if shown:
        _draw_pictures(parts[-1], shown, lines)
    left_out = result.wells.groupby([PLATE, TIME]).ngroups - len(plates)
    if left_out:
        notes.append(f"the picture shows the {len(plates)} plates with the most flagged wells, {left_out} are left out")
    title = textwrap.wrap("Quality control: " + " · ".join(result.summary[:3]), 150)
    figure.suptitle(_literal("\n".join(title[:3])), fontsize=13, x=0.01, ha="left")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names in scripts that the font lacks
        figure.savefig(path, dpi=100, format="png")
    return tuple(notes)


def _plates_to_show(wells: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the wells of the plates with the most flags, in order of plates."""
    plates = [plate for _, plate in wells.groupby([PLATE, TIME], sort=False)]
    flags = [int((plate["Metadata_QC_Severity"] != "ok").sum()) for plate in plates]
    chosen = np.argsort([-count for count in flags], kind="stable")[:_MOST_PLATES]
    return [plates[index] for index in sorted(chosen.tolist())]


# Heat maps


def _draw_plate(figure: SubFigure, wells: pd.DataFrame, channels: tuple[str, ...]) -> None:
    axes = figure.subplots(1, _MAPS)
    size = plate_size(wells[WELL])
    _draw_verdict(axes[0], wells, size)
    columns = _telling(wells, channels)
    for place, column in zip(axes[1:], columns, strict=False):
        _draw_values(place, wells, size, column)
    for place in axes[1 + len(columns) :]:
        place.set_axis_off()


def _telling(wells: pd.DataFrame, channels: tuple[str, ...]) -> list[str]:
    """Choose the measures to map: cells and focus always, then those that most wells are flagged for."""
    reasons = wells["Metadata_QC_Reasons"].str.cat(sep="; ")
    found: list[tuple[int, int, str]] = []
    for order, measure in enumerate(MEASURES):
        for channel in (*channels, None):
            column = f"Metadata_QC_{measure.name}" + (f"_{channel}" if channel else "")
            if column in wells and wells[column].notna().any():
                flags = reasons.count(measure.text.format(channel) + " ")
                always = measure.name in ("Cells", "Focus", "Background")
                found.append((-flags, order if always else order + len(MEASURES), column))
    cells = [column for *_, column in found if column == "Metadata_QC_Cells"]
    others = [column for *_, column in sorted(found) if column not in cells]
    return [*cells, *others][: _MAPS - 1]


def _draw_verdict(axes: Axes, wells: pd.DataFrame, size: int) -> None:
    severities = list(_COLOURS)
    codes = wells["Metadata_QC_Severity"].map(severities.index)
    grid = _grid(wells, codes, size)
    colours = ListedColormap([*_COLOURS.values()]).with_extremes(bad=_NONE)
    axes.imshow(np.ma.masked_invalid(grid), cmap=colours, vmin=-0.5, vmax=2.5, aspect="equal")
    small = size > 96
    for well, severity in zip(wells[WELL], wells["Metadata_QC_Severity"], strict=True):
        if severity in _MARKS and size <= 384:
            row, column = parse_well(well)
            axes.text(
                column - 1,
                row - 1,
                _MARKS[severity],
                ha="center",
                va="center",
                fontsize=6 if small else 11,
                color="white",
                weight="bold",
            )
    for well, control in zip(wells[WELL], wells["Metadata_QC_Control"], strict=True):
        if control:
            row, column = parse_well(well)
            width = 1.0 if small else 2.0
            axes.add_patch(
                Rectangle((column - 1.42, row - 1.42), 0.84, 0.84, fill=False, ec=_CONTROLS[control], lw=width)
            )
    counts = wells["Metadata_QC_Severity"].value_counts()
    times = f" t{wells[TIME].iloc[0]}" if TIME in wells and wells[TIME].iloc[0] != 1 else ""
    controls = "; frames: controls, negative blue, positive green" if (wells["Metadata_QC_Control"] != "").any() else ""
    title = (
        f"{wells[PLATE].iloc[0]}{times}: {counts.get('fail', 0)} fail (×), {counts.get('warn', 0)} warned (!){controls}"
    )
    _frame(axes, size, title)


def _draw_values(axes: Axes, wells: pd.DataFrame, size: int, column: str) -> None:
    values = wells[column].astype(float)
    grid = _grid(wells, values, size)
    good = values[(wells["Metadata_QC_Severity"] == "ok") & values.notna()]
    low, high = (good.min(), good.max()) if len(good) > 1 and good.min() < good.max() else (values.min(), values.max())
    colours = mpl.colormaps["viridis"].with_extremes(bad=_NONE, under="black", over="#E7298A")
    image = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, vmin=low, vmax=high, aspect="equal")
    for well, severity in zip(wells[WELL], wells["Metadata_QC_Severity"], strict=True):
        if severity != "ok":
            row, column_number = parse_well(well)
            box = Rectangle(
                (column_number - 1.45, row - 1.45),
                0.9,
                0.9,
                fill=False,
                ec=_COLOURS[severity],
                lw=1 if size > 96 else 2,
            )
            axes.add_patch(box)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, extend="both")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    name = column.removeprefix("Metadata_QC_")
    measure = next(one for one in MEASURES if name == one.name or name.startswith(f"{one.name}_"))
    title = measure.text.format(name[len(measure.name) + 1 :])
    _frame(axes, size, title + "\n(black below, pink above the wells without finding)")


def _grid(wells: pd.DataFrame, values: pd.Series, size: int) -> NDArray[np.float64]:
    form = PLATE_FORMATS[size]
    grid = np.full((form.rows, form.columns), np.nan)
    for well, value in zip(wells[WELL], values, strict=True):
        row, column = parse_well(well)
        grid[row - 1, column - 1] = value
    return grid


def _frame(axes: Axes, size: int, title: str) -> None:
    form = PLATE_FORMATS[size]
    step = 1 if form.columns <= 24 else 4
    axes.set_xticks(range(0, form.columns, step), [str(c + 1) for c in range(0, form.columns, step)], fontsize=7)
    axes.set_yticks(range(0, form.rows, step), [row_letters(r + 1) for r in range(0, form.rows, step)], fontsize=7)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(form.columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(form.rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.0 if size <= 384 else 0.3)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_literal("\n".join(textwrap.wrap(title, 62))), loc="left", fontsize=8.5)


# Thumbnails


class _Picture:
    """A field to show: its pixels, what is said of it, and in which colour."""

    def __init__(self, pixels: NDArray[Any], title: str, text: str, severity: str) -> None:
        self.pixels, self.title, self.text, self.severity = pixels, title, text, severity


def _pictures(result: QualityControl, tables: QualityTables) -> tuple[list[_Picture], list[str]]:
    """Read the worst field of each flagged well, worst wells first, after a field that is typical of the plate."""
    rank = {"fail": 0, "warn": 1, "ok": 2}
    fields = result.fields.assign(
        _rank=result.fields["Metadata_QC_Severity"].map(rank),
        _more=-result.fields["Metadata_QC_Reasons"].str.count("; "),
    )
    flagged = result.wells[result.wells["Metadata_QC_Severity"] != "ok"]
    if flagged.empty:
        return [], []
    images, notes = _images(tables)
    if not images:
        return [], notes or ["the picture shows no fields: the images of the run are not known"]
    order = flagged.assign(
        _rank=flagged["Metadata_QC_Severity"].map(rank), _more=-flagged["Metadata_QC_Reasons"].str.count("; ")
    ).sort_values(["_rank", "_more"], kind="stable")
    nuclear = next((run["nuclei"] for run in tables.runs if run.get("nuclei")), None) or result.channels[0]
    typical, scales = _typical(result, images, nuclear)
    shown = [] if typical is None else [typical]
    for well in order.to_dict("records"):
        if len(shown) > _SHOWN:
            notes.append(f"the picture shows fields of {_SHOWN} of {len(flagged)} flagged wells")
            break
        mine = fields[np.logical_and.reduce([fields[key] == well[key] for key in WELL_KEY])]
        worst = mine.sort_values(["_rank", "_more"], kind="stable").iloc[0]
        reasons = str(well["Metadata_QC_Reasons"])
        channel = next((c for c in result.channels if f" {c}" in reasons.split("; ")[0]), nuclear)
        name = f"{well[WELL]} site {worst[SITE]} · {channel}"
        name = name if result.wells[PLATE].nunique() == 1 else f"{well[PLATE]} {name}"
        shown.append(_picture(images.get(_key(worst)), channel, scales, name, reasons, well["Metadata_QC_Severity"]))
    return shown, notes


def _images(tables: QualityTables) -> tuple[dict[tuple[str, str, int, int], tuple[Field, Any]], list[str]]:
    """Find the fields of the runs on the disk again; those that cannot be found are left out, with a note."""
    found: dict[tuple[str, str, int, int], tuple[Field, Any]] = {}
    notes = []
    for run in tables.runs:
        if not run.get("images"):
            continue
        try:
            plate = read_plate(str(location(run["images"])), **(run.get("read_with") or {}))
        except Exception as error:  # whatever happened to the images since: a picture must not cost the tables
            notes.append(f"the picture shows no fields of {run['run']}: its images cannot be found ({error})")
            continue
        for field in plate.fields:
            key = field.key
            found[(key.plate, key.well, key.site, key.time)] = (field, run.get("z") or "max")
    return found, notes


def _key(field: Any) -> tuple[str, str, int, int]:
    return str(field[PLATE]), str(field[WELL]), int(field[SITE]), int(field[TIME])


def _typical(
    result: QualityControl, images: dict[tuple[str, str, int, int], tuple[Field, Any]], nuclear: str
) -> tuple[_Picture | None, dict[str, tuple[float, float]]]:
    """Return a field without finding whose count is in the middle, and the grey values of its channels as a scale."""
    good = result.fields[result.fields["Metadata_QC_Severity"] == "ok"]
    if good.empty:
        return None, {}
    cells = good["Metadata_QC_Cells"] if "Metadata_QC_Cells" in good else pd.Series(0.0, index=good.index)
    field = good.iloc[int((cells - cells.median()).abs().argmin())]
    place = images.get(_key(field))
    if place is None:
        return None, {}
    try:
        planes = {
            channel: read_channel(place[0], channel, z=place[1])
            for channel in result.channels
            if channel in place[0].images
        }
    except Exception:  # shown without a scale then
        return None, {}
    scales = {channel: _range(plane) for channel, plane in planes.items()}
    name = f"{field[WELL]} site {field[SITE]} · {nuclear}"
    text = "a typical field without finding; the others are in its grey values"
    return _picture(place, nuclear, scales, name, text, "ok"), scales


def _range(plane: NDArray[Any]) -> tuple[float, float]:
    low, high = percentiles(plane, (1.0, 99.7))
    return float(low), float(high)


def _picture(
    place: tuple[Field, Any] | None,
    channel: str,
    scales: dict[str, tuple[float, float]],
    title: str,
    text: str,
    severity: str,
) -> _Picture:
    try:
        if place is None:
            raise FileNotFoundError("the field is not among the images")
        plane = read_channel(place[0], channel, z=place[1])
        low, high = scales.get(channel) or _range(plane)
        pixels = np.sqrt(np.clip(rescale(_middle(plane), low, high if high > low else low + 1), 0, 1))
    except Exception as error:  # a file changed since it was analysed, or could never be read
        return _Picture(np.zeros((8, 8)), title, f"cannot be shown: {error}", severity)
    return _Picture(pixels, title, text, severity)


def _middle(plane: NDArray[Any]) -> NDArray[Any]:
    height, width = plane.shape
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    return plane[top : top + _SIDE, left : left + _SIDE]


def _draw_pictures(figure: SubFigure, pictures: list[_Picture], lines: int) -> None:
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for place in axes[len(pictures) :]:
        place.set_axis_off()
    for place, picture in zip(axes, pictures, strict=False):
        place.imshow(picture.pixels, cmap="gray", vmin=0, vmax=1)
        place.set_xticks([])
        place.set_yticks([])
        for spine in place.spines.values():
            spine.set_color(_COLOURS[picture.severity])
            spine.set_linewidth(3)
        place.set_title(_literal(picture.title), fontsize=9.5, weight="bold", loc="left")
        place.set_xlabel(_literal(_shortened(picture.text)), fontsize=7.5, loc="left")


def _shortened(text: str) -> str:
    lines = textwrap.wrap(text, 52)
    return "\n".join(lines if len(lines) <= 5 else [*lines[:4], lines[4][:48] + " ..."])


def _literal(text: str) -> str:
    """Keep dollar signs of names from starting a formula."""
    return text.replace("$", r"\$")
