"""`cellinfer segment`: images in, label images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellinfer.cli._shared import DeviceOption, InvertOption, MergeOption, PrecisionOption, TtaOption


def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label images.", show_default=False)],
    model: Annotated[str, typer.Option(help="Bundled model, or path of an .onnx file with a card.")] = "nuclei",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    diameter: Annotated[
        float | None, typer.Option(help="Median object diameter in pixels.", show_default="estimated per image")
    ] = None,
    tta: TtaOption = "none",
    tta_merge: MergeOption = "instances",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write where views disagree: OUT/<stem>_uncertainty.tif.")
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(help="What a grey model sees of a colour image: red, green, blue or mean.", show_default=False),
    ] = None,
    invert: InvertOption = False,
) -> None:
    """Find objects in single images; writes OUT/<stem>_labels.tif."""
    from rich.console import Console
    from rich.progress import Progress

    from cellinfer.cli._shared import announce_compilation
    from cellinfer.segment_files import segment as segment_images

    announce_compilation()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("segmenting", total=None)
        result = segment_images(
            images,
            out,
            model=model,
            device=device,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            diameter=diameter,
            tta=tta,  # type: ignore[arg-type]
            merge=tta_merge,  # type: ignore[arg-type]
            channel=channel,  # type: ignore[arg-type]
            invert=invert,
            uncertainty=uncertainty,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for note, count in result.notes.items():
        typer.echo(f"note: {note}" + (f" ({count} of {len(result.images)} images)" if len(result.images) > 1 else ""))
    for reason in result.failed.values():
        typer.secho(f"error: {reason}", fg="red", err=True)
    how = f"{result.model} on {result.device} in {result.precision}"
    typer.echo(f"{result.objects} objects in {len(result.images)} images -> {out}  ({how})")
    raise typer.Exit(3 if result.failed else 0)
