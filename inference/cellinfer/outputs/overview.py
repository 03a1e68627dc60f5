"""The overview picture: the plate as heat maps, and a contact sheet of cells with their outlines."""

from __future__ import annotations

import textwrap
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

_DPI = 110
_TILES, _COLUMNS = 12, 4
_SIDE = 200
"""Pixels of a field that are shown, along each axis."""
_TILE, _GAP, _CAPTION = 2 * _SIDE, 12, 26
"""Pixels of the picture: of a tile, between two, and for what is written above it."""
_MAP, _MAPS = (615, 410), 560
"""Size of a heat map, and height of all above the tiles."""
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
    picks = np.unique(np.linspace(0, len(fields) - 1, min(_TILES, len(fields))).round().astype(int))
    shown = [fields[pick] for pick in picks]
    rows = -(-len(shown) // _COLUMNS)
    width, height = _COLUMNS * (_TILE + _GAP) + _GAP, _MAPS + rows * (_CAPTION + _TILE) + _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)  # whose methods have no types
    heading = f"{plate.name}   ·   {len(plate.fields)} fields   ·   cellinfer {__version__}"
    _write(figure, width / 2, 24, heading, 15)
    _heat_map(figure, 60, plate, profiles, "Image_Count_Cells", "Cells per well", "viridis")
    telling = most_telling_feature(folder)
    if telling is None:
        _write(figure, 0.75 * width, _MAPS / 2, "Fewer than two wells with cells:\nno feature to compare", 9)
    else:
        feature, share = telling
        title = f"{feature}\nmedian per well; {share:.0%} of its variance lies between wells"
        _heat_map(figure, width / 2 + 60, plate, profiles, feature, title, "cividis")
    channels = f"{settings.nuclei} blue" + (f", {settings.cells} green" if settings.cells else "")
    _write(figure, width / 2, _MAPS - 14, f"{channels}; outlines: nuclei pink, cells yellow", 11)
    _contact_sheet(figure, shown, settings, label_paths)
    path = folder / "overview.png"
    canvas.draw()
    with durable(path) as partial:
        imsave(partial, canvas.buffer_rgba(), format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 2})
    return path


def _write(figure: Figure, x: float, y: float, text: str, size: float) -> None:
    """Write at pixels from the left and from the top."""
    place = figure.transFigure.inverted().transform((x, figure.bbox.height - y))
    figure.text(place[0], place[1], text, ha="center", va="center", fontsize=size)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at pixels from the left and from the top."""
    whole_width, whole_height = figure.bbox.width, figure.bbox.height
    return figure.add_axes(
        (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    )


def _heat_map(
    figure: Figure, left: float, plate: Plate, profiles: pd.DataFrame, column: str, title: str, colours: str
) -> None:
    form = PLATE_FORMATS[plate.wells]
    values = np.full((form.rows, form.columns), np.nan)
    if column in profiles:
        by_well = profiles.groupby("Metadata_Well")[column].mean()
        for well, value in by_well.items():
            row, col = parse_well(str(well))
            values[row - 1, col - 1] = value
    used = np.argwhere(np.isfinite(values))
    axes = _axes(figure, left, 110, *_MAP)
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
        figure.colorbar(shown, cax=_axes(figure, left + _MAP[0] + 14, 160, 15, _MAP[1] - 100))
        if form.columns <= 12:
            middle = np.nanmean(shown.get_clim())
            for row, col in used:
                colour = "white" if values[row, col] < middle else "black"
                axes.text(col, row, f"{values[row, col]:.3g}", ha="center", va="center", fontsize=7, color=colour)


def _contact_sheet(figure: Figure, fields: list[Field], settings: Settings, label_paths: LabelPaths) -> None:
    """Paint the middle of each field, pixel by pixel, so that no outline is lost."""
    for place, field in enumerate(fields):
        row, column = divmod(place, _COLUMNS)
        left, top = _GAP + column * (_TILE + _GAP), _MAPS + row * (_CAPTION + _TILE)
        _write(figure, left + _TILE / 2, top + _CAPTION / 2, f"{field.key.well}  site {field.key.site}", 10)
        try:
            tile = _tile(field, settings, label_paths(field))
        except Exception as error:  # a file changed since it was analysed: a picture must not cost the tables
            why = textwrap.fill(f"cannot be shown: {error}", 44, max_lines=12)
            _write(figure, left + _TILE / 2, top + _CAPTION + _TILE / 2, why, 9)
            continue
        height, width = tile.shape[:2]
        x, y = left + (_TILE - width) // 2, top + _CAPTION + (_TILE - height) // 2
        figure.figimage(tile, x, round(figure.bbox.height) - y - height, origin="upper")


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
