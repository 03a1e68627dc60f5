"""The overview picture: the plate as heat maps, and a contact sheet of cells with their outlines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from cellinfer_kernels.components import boundaries
from cellinfer_kernels.normalise import percentiles, rescale
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from cellinfer._version import __version__
from cellinfer.files import durable
from cellinfer.outputs.tables import most_telling_feature
from cellinfer.pipeline import Settings, read_images
from cellinfer.plate import Field, Plate
from cellinfer.storage import AnyPath, open_file
from cellinfer.wells import PLATE_FORMATS, parse_well, row_letters

_TILES = 12
_SIDE = 256
_NUCLEI, _CELLS = (1.0, 0.35, 0.85), (1.0, 0.85, 0.2)

LabelPaths = Callable[[Field], Mapping[str, AnyPath]]


def draw_overview(
    plate: Plate,
    fields: list[Field],
    folder: Path,
    profiles: pd.DataFrame,
    settings: Settings,
    label_paths: LabelPaths,
) -> Path:
    """Draw `overview.png` into a result folder and return its path.

    Parameters
    ----------
    plate
        The plate.
    fields
        Its fields that have results; pixels of up to twelve are read again for the contact sheet.
    folder
        Result folder, with its tables.
    profiles
        The well table.
    settings
        With channels named.
    label_paths
        Gives the label images of a field.
    """
    figure = Figure(figsize=(15, 13.5), dpi=110, facecolor="white", layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)  # whose methods have no types
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 2.1))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    left, right = top.subplots(1, 2)
    _heat_map(left, plate, profiles, "Image_Count_Cells", "Cells per well", "viridis")
    telling = most_telling_feature(folder)
    if telling is None:
        _nothing(right, "Fewer than two wells with cells:\nno feature to compare")
    else:
        feature, share = telling
        title = f"{feature}\nmedian per well; {share:.0%} of its variance lies between wells"
        _heat_map(right, plate, profiles, feature, title, "cividis")
    _contact_sheet(bottom, fields, settings, label_paths)
    figure.suptitle(f"{plate.name}   ·   {len(plate.fields)} fields   ·   cellinfer {__version__}", fontsize=15)
    path = folder / "overview.png"
    canvas.draw()  # once: `savefig` draws everything twice, to lay it out and to paint it
    with durable(path) as partial:
        imsave(partial, canvas.buffer_rgba(), format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 2})
    return path


def _heat_map(axes: Axes, plate: Plate, profiles: pd.DataFrame, column: str, title: str, colours: str) -> None:
    form = PLATE_FORMATS[plate.wells]
    values = np.full((form.rows, form.columns), np.nan)
    if column in profiles:
        by_well = profiles.groupby("Metadata_Well")[column].mean()
        for well, value in by_well.items():
            row, col = parse_well(str(well))
            values[row - 1, col - 1] = value
    used = np.argwhere(np.isfinite(values))
    axes.set_facecolor("0.93")
    shown = axes.imshow(values, cmap=colours, aspect="equal")
    axes.set_title(title, fontsize=11)
    axes.set_xticks(
        range(form.columns), [str(c + 1) for c in range(form.columns)], fontsize=8 if form.columns <= 24 else 4
    )
    axes.set_yticks(
        range(form.rows), [row_letters(r + 1) for r in range(form.rows)], fontsize=8 if form.rows <= 16 else 4
    )
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    if len(used):
        axes.figure.colorbar(shown, ax=axes, shrink=0.75)
        if form.columns <= 12:
            middle = np.nanmean(shown.get_clim())
            for row, col in used:
                colour = "white" if values[row, col] < middle else "black"
                axes.text(col, row, f"{values[row, col]:.3g}", ha="center", va="center", fontsize=7, color=colour)


def _contact_sheet(figure: Any, fields: list[Field], settings: Settings, label_paths: LabelPaths) -> None:
    picks = np.unique(np.linspace(0, len(fields) - 1, min(_TILES, len(fields))).round().astype(int))
    axes = figure.subplots(3, 4).ravel()
    for place in axes:
        place.set_axis_off()
    for place, index in zip(axes, picks, strict=False):
        f = fields[index]
        try:
            place.imshow(_tile(f, settings, label_paths(f)))
        except Exception as error:  # a file changed since it was analysed: a picture must not cost the tables
            _nothing(place, f"cannot be shown: {error}")
        place.set_title(f"{f.key.well}  site {f.key.site}", fontsize=10)
    channels = f"{settings.nuclei} blue" + (f", {settings.cells} green" if settings.cells else "")
    figure.suptitle(f"{channels}; outlines: nuclei pink, cells yellow", fontsize=11)


def _tile(field: Field, settings: Settings, paths: Mapping[str, AnyPath]) -> NDArray[np.float32]:
    """Return the middle of a field in colour, with outlines drawn at twice the size."""
    images = read_images(field, settings.z)
    assert settings.nuclei is not None
    height, width = images[settings.nuclei].shape
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    window = (slice(top, top + _SIDE), slice(left, left + _SIDE))
    nuclei = _stretched(images[settings.nuclei])[window]
    cells = _stretched(images[settings.cells])[window] if settings.cells in images else np.zeros_like(nuclei)
    colour = np.stack([0.35 * nuclei, 0.85 * cells + 0.35 * nuclei, nuclei], axis=-1)
    colour = np.clip(colour, 0, 1).repeat(2, axis=0).repeat(2, axis=1)
    for name, paint in (("Cells", _CELLS), ("Nuclei", _NUCLEI)):
        with open_file(str(paths[name])) as file:
            labels = tifffile.imread(file)[window].astype(np.int32)
        colour[boundaries(labels.repeat(2, axis=0).repeat(2, axis=1))] = paint
    return np.asarray(colour, dtype=np.float32)


def _stretched(image: NDArray[Any]) -> NDArray[np.float32]:
    """Scale a plane to 0..1 for the eye: percentiles 1 and 99.7, square root."""
    low, high = percentiles(image, (1.0, 99.7))
    return np.sqrt(np.clip(rescale(image, low, high), 0, 1))


def _nothing(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, wrap=True, transform=axes.transAxes)
