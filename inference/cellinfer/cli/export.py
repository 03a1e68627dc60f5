"""`cellinfer export`: the results of a run, for napari, ImageJ, QuPath, scanpy and pycytominer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellinfer.cli._shared import LayoutOption, PatternOption

if TYPE_CHECKING:
    from cellinfer.plate import Plate


def export(
    results: Annotated[str, typer.Argument(help="Folder of a finished run.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            help="Formats, separated by commas: ome-zarr (napari), roi (ImageJ, Fiji), geojson (QuPath), h5ad "
            "(AnnData), cytotable (pycytominer).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder for the files.", show_default="RESULTS/export")
    ] = None,
    ngff: Annotated[str, typer.Option(help="Version of OME-Zarr: 0.5 or 0.4.")] = "0.5",
    measurements: Annotated[
        str, typer.Option(help="What GeoJSON holds of each cell: readouts (sizes, intensities, ratios) or all.")
    ] = "readouts",
    plate: Annotated[
        str | None,
        typer.Option(help="Folder of the images or its URL, for ome-zarr.", show_default="where the run found them"),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="NEW=FOUND: channels renamed as in the run, repeatable.", show_default="by file names"),
    ] = None,
    pattern: PatternOption = None,
    layout: LayoutOption = "auto",
) -> None:
    """Write the results of a run for other programs."""
    from cellinfer.cli._shared import announce_compilation, parse_channels, progress_by_name
    from cellinfer.exporting import export as write

    announce_compilation()
    images: str | Plate | None = plate
    if channel or pattern is not None or layout != "auto":
        from cellinfer.outputs.exports._results import Results
        from cellinfer.readers import read_plate

        folder = plate or Results(Path(results)).info["input"]["folder"]
        images = read_plate(folder, pattern=pattern, layout=layout, channels=parse_channels(channel))
    with progress_by_name("stopped; run the same command again", stays=True) as report:
        result = write(
            results,
            to,
            out,
            plate=images,
            ngff=ngff,  # type: ignore[arg-type]
            measurements=measurements,  # type: ignore[arg-type]
            progress=lambda done, total: report("fields", done, total),
        )
    left_out = f"; {result.left_out} that failed left out" if result.left_out else ""
    typer.echo(f"{result.cells:,} cells in {result.fields} field{'s' * (result.fields != 1)}{left_out}")
    for name, files in result.files.items():
        shown = files[0] if len(files) == 1 else f"{len(files)} files in {result.folder / name}"
        typer.echo(f"{name:<10}{shown}")
