"""`cellinfer illumination`: how unevenly a plate's fields are lit, to correct them by."""

from __future__ import annotations

from typing import Annotated

import typer

from cellinfer.cli._shared import LayoutOption, PatternOption


def illumination(
    plate: Annotated[
        str, typer.Argument(help="Folder of images, or its URL such as s3://bucket/plate.", show_default=False)
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the functions, or its URL.", show_default=False)],
    channel: Annotated[
        list[str] | None,
        typer.Option(help="NEW=FOUND: rename a channel, repeatable; channels not named are left out."),
    ] = None,
    z: Annotated[str, typer.Option(help="What becomes of a z-stack: max, mean, focus, or a plane's number.")] = "max",
    pattern: PatternOption = None,
    layout: LayoutOption = "auto",
    threads: Annotated[int, typer.Option(help="Threads that read; 0: one for each core, at most 4.", min=0)] = 0,
) -> None:
    """Compute illumination functions of each plate in a folder, for `cellinfer run --illumination OUT`."""
    from cellinfer.cli._shared import announce_compilation, parse_channels, progress_by_name
    from cellinfer.illumination import compute_illumination
    from cellinfer.images import parse_z

    announce_compilation()
    with progress_by_name("stopped; run the same command again") as report:
        found = compute_illumination(
            plate,
            out,
            z=parse_z(z),
            pattern=pattern,
            layout=layout,
            channels=parse_channels(channel),
            threads=threads,
            progress=lambda done, total: report("reading fields", done, total),
        )
    for note in found.notes:
        typer.echo(f"note: {note}")
    for name, (least, most) in found.brightest().items():
        times = f"{least:.2f}" if len(found.plates) == 1 else f"{least:.2f} to {most:.2f}"
        typer.echo(f"{name}: brightest place {times} times as bright as the darkest")
    fields = sum(len(functions.used) for functions in found.plates.values())
    typer.echo(f"{fields} fields of {found.names} -> {out}")
