"""`cellinfer inspect`: print what is in a plate's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from cellinfer.inspection import Inspection, WellCount

_MISSING_SHOWN = 20
_UNREADABLE_SHOWN = 5
_LABELS = ("int32", "uint32", "int64", "uint64")


def inspect(
    plate: Annotated[
        str,
        typer.Argument(
            help="Folder with the images of a plate, or its URL such as s3://bucket/plate.", show_default=False
        ),
    ],
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for the file names, with the groups well (or row and col), site, channel, z, "
            "time, plate.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[str, typer.Option(help="Name of the layout; auto finds it.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the layout, wells, channels, pixel types and gaps of a plate; reads names and a few headers only."""
    from cellinfer.inspection import inspect as inspect_plate

    inspection = inspect_plate(plate, pattern=pattern, layout=layout)
    if as_json:
        import json

        typer.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        _print(inspection)


def _print(inspection: Inspection) -> None:
    """Print a page for people. File names may hold anything, so no markup is read from them."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, soft_wrap=True)
    for line in _summary(inspection):
        console.print(line)
    for name, wells in inspection.wells().items():
        console.print()
        console.print(f"Planes per well of {name}", style="bold")
        console.print(plate_map(wells, inspection.plate.wells))
    for line in _problems(inspection):
        console.print(line, style="yellow")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _summary(inspection: Inspection) -> list[str]:
    """Return what the plate is, a line each."""
    plate = inspection.plate
    wells = sum(len(of_plate) for of_plate in inspection.wells().values())
    sites = len({field.key.site for field in plate.fields})
    times = len({field.key.time for field in plate.fields})
    lines = [
        f"Plate       {plate.name}",
        f"Folder      {plate.root}",
        f"Layout      {plate.layout}",
        f"Size        {plate.wells} wells, {wells} with images",
        f"Images      {_many(wells, 'well')} x {_many(sites, 'site')} x {_many(len(plate.channels), 'channel')}"
        + (f" x {_many(times, 'time')}" if times > 1 else "")
        + f": {_many(inspection.n_planes, 'plane')}, {len(plate.missing)} missing",
        f"Pixel size  {f'{plate.pixel_size:g} µm' if plate.pixel_size else 'not in the files'}",
    ]
    lines += [
        f"Channel     {kind.channel}: {kind.width} x {kind.height} {kind.dtype}" + (f" ({kind.images} checked)")
        for kind in inspection.kinds
    ]
    lines.append(f"Checked     headers of {inspection.n_checked} of {inspection.n_planes} planes")
    return [*lines, *(f"Note        {note}" for note in plate.notes)]


def plate_map(wells: dict[str, WellCount], size: int) -> Text:
    """Draw one plate: rows A, B ... by columns 1, 2 ..., in each well its number of planes.

    Green wells are complete, yellow ones lack planes, a dot is a well without images.
    """
    from rich.text import Text

    from cellinfer.wells import PLATE_FORMATS, row_letters, well_name

    rows, columns = PLATE_FORMATS[size]
    width = max(2, *(len(str(count.present)) for count in wells.values())) + 1
    text = Text("   " + "".join(f"{column:>{width}}" for column in range(1, columns + 1)), style="dim")
    for row in range(1, rows + 1):
        text.append(f"\n{row_letters(row):>3}", style="dim")
        for column in range(1, columns + 1):
            count = wells.get(well_name(row, column))
            if count is None:
                text.append("·".rjust(width), style="dim")
            else:
                text.append(str(count.present).rjust(width), style="yellow" if count.missing else "not dim green")
    return text


def _problems(inspection: Inspection) -> list[str]:
    """Return what the user should know before a run, a line each."""
    from cellinfer.plate import NO_PLATE

    plate = inspection.plate
    lines: list[str] = []
    if plate.missing:
        lines += ["", f"{_many(len(plate.missing), 'plane')} missing:"]
        lines += [
            f"  {gap.key.plate} {gap.key.well} site {gap.key.site} time {gap.key.time} channel {gap.channel}"
            + ("" if gap.z is None else f" z {gap.z}")
            for gap in plate.missing[:_MISSING_SHOWN]
        ]
        if len(plate.missing) > _MISSING_SHOWN:
            lines.append(f"  and {len(plate.missing) - _MISSING_SHOWN} more (--json lists all)")
    if inspection.unreadable:
        lines += ["", f"{len(inspection.unreadable)} of the images looked into cannot be read:"]
        lines += [f"  {reason}" for reason in inspection.unreadable[:_UNREADABLE_SHOWN]]
    mixed = {kind.channel for kind in inspection.kinds if kind.images}
    if labels := sorted({kind.channel for kind in inspection.kinds if kind.dtype in _LABELS}):
        lines += [
            "",
            f"Channel {', '.join(labels)} holds whole numbers of 32 bits or more, as label images do: if these are no "
            f"photographs, an empty file {NO_PLATE} in their folder keeps it out of the plate.",
        ]
    if len(inspection.kinds) > len(mixed):
        lines += ["", "Images of one channel differ in size or pixel type (see above)."]
    if plate.ignored:
        lines += ["", f"{_many(len(plate.ignored), 'file')} ignored, for example {plate.ignored[0]}"]
    return lines
