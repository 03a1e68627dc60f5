"""`cellinfer segment`: images in, label images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cellinfer.cli._shared import DeviceOption, MergeOption, TtaOption


def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label images.", show_default=False)],
    model: Annotated[str, typer.Option(help="Bundled model, or path of an .onnx file with a card.")] = "nuclei",
    device: DeviceOption = "auto",
    diameter: Annotated[
        Optional[float], typer.Option(help="Median object diameter in pixels.", show_default="estimated per image")
    ] = None,
    tta: TtaOption = "none",
    tta_merge: MergeOption = "instances",
) -> None:
    """Find objects in single images; writes OUT/<stem>_labels.tif."""
    from rich.console import Console
    from rich.progress import track

    from cellinfer.cli._shared import announce_compilation
    from cellinfer.segment import image_files, segment_file
    from cellinfer.sessions import open_session

    announce_compilation()
    files = image_files(images)
    session = open_session(model, device)  # type: ignore[arg-type]
    failed: list[str] = []
    total = 0
    errors = Console(stderr=True)
    for path in track(files, description="segmenting", console=errors):
        from cellinfer.errors import ImageError

        try:
            total += segment_file(
                path, out, session, diameter=diameter, tta=tta, merge=tta_merge  # type: ignore[arg-type]
            ).objects
        except ImageError as error:
            failed.append(str(error))
    for reason in failed:
        typer.secho(f"error: {reason}", fg="red", err=True)
    typer.echo(f"{total} objects in {len(files) - len(failed)} images -> {out}  ({session.card.name} on {session.device})")
    raise typer.Exit(3 if failed else 0)
