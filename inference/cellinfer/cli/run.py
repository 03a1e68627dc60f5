"""`cellinfer run`: a plate in, tables, label images, run.json and an overview picture out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cellinfer.cli._shared import (
    DeviceOption,
    EdgeOption,
    InvertOption,
    LayoutOption,
    MergeOption,
    PatternOption,
    PrecisionOption,
    TtaOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellinfer.engine import RunResult, State


def run(
    plate: Annotated[
        str, typer.Argument(help="Folder of images, or its URL such as s3://bucket/plate.", show_default=False)
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Result folder, or its URL.", show_default="PLATE-cellinfer")
    ] = None,
    nuclei: Annotated[str | None, typer.Option(help="Channel that shows nuclei.", show_default="by name")] = None,
    cells: Annotated[
        str | None, typer.Option(help="Channel that shows cytoplasm.", show_default="the only other channel")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(help="NEW=FOUND: rename a channel, repeatable; channels not named are left out."),
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled model, or path of an .onnx file with a card.")] = "nuclei",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    diameter: Annotated[
        float | None, typer.Option(help="Median nucleus diameter in pixels.", show_default="estimated")
    ] = None,
    tta: TtaOption = "none",
    tta_merge: MergeOption = "instances",
    invert: InvertOption = False,
    cell_distance: Annotated[
        float | None,
        typer.Option(
            help="Farthest a cell reaches beyond its nucleus, in pixels.", show_default="1.5 nucleus diameters"
        ),
    ] = None,
    edge: EdgeOption = "drop",
    z: Annotated[
        str, typer.Option(help="What becomes of a z-stack: max, mean, focus (the sharpest plane), or a plane's number.")
    ] = "max",
    features: Annotated[
        str,
        typer.Option(
            help="What to measure: families (AreaShape, Texture ...) or presets (all, basic, cell-painting), separated "
            "by commas; see 'cellinfer features list'."
        ),
    ] = "all",
    full_scale: Annotated[
        float | None,
        typer.Option(
            help="Value of a saturated pixel, for the grey levels of textures: 4095 for a 12-bit camera.",
            show_default="largest of the pixel type",
        ),
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(help="Model that describes each cell (table Embedding): bundled, or path of an .onnx file."),
    ] = None,
    embed_mask: Annotated[
        str | None,
        typer.Option(
            help="What is blotted out of a cell's crop: none, neighbours, or outside (all but the cell).",
            show_default="the model's own",
        ),
    ] = None,
    embed_box: Annotated[
        float | None,
        typer.Option(help="Side of a cell's crop, pixels of the image.", show_default="the model's own"),
    ] = None,
    illumination: Annotated[
        str | None,
        typer.Option(
            help="Divide images by illumination functions: auto computes them, for each plate its own, or the folder "
            "of 'cellinfer illumination'."
        ),
    ] = None,
    pattern: PatternOption = None,
    layout: LayoutOption = "auto",
    workers: Annotated[
        int, typer.Option(help="Processes that analyse fields; 0: by the machine and the plate.", min=0)
    ] = 0,
    threads: Annotated[int, typer.Option(help="Cores to use in all, one field on each; 0: every core.", min=0)] = 0,
    readers: Annotated[int, typer.Option(help="Threads that read, per process; 0: chosen.", min=0)] = 0,
    batch: Annotated[
        int, typer.Option(help="Tiles of several fields per call of the network; 0: 1 on CPU, 8 on GPU.", min=0)
    ] = 0,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory that the whole run may take: 4G, 800M.", show_default="most of what is free"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address or scheduler file of a dask cluster that does the fields.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write the tables as CSV.")] = False,
    exports: Annotated[
        str,
        typer.Option("--export", help="Also write ome-zarr, roi, geojson, h5ad, cytotable; see 'cellinfer export'."),
    ] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every field again.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed fields again.")] = False,
) -> None:
    """Turn a plate of images into single-cell tables; run again, do only what is missing."""
    from cellinfer.cli._shared import announce_compilation, parse_channels
    from cellinfer.engine import reuse_freed_memory
    from cellinfer.engine import run as run_plate
    from cellinfer.images import parse_z
    from cellinfer.measurement import parse_features
    from cellinfer.pipeline import Settings
    from cellinfer.storage import beside, location

    announce_compilation()
    reuse_freed_memory()
    families, options = parse_features(features)
    settings = Settings(
        nuclei=nuclei,
        cells=cells,
        diameter=diameter,
        tta=tta,  # type: ignore[arg-type]
        merge=tta_merge,  # type: ignore[arg-type]
        invert=invert,
        cell_distance=cell_distance,
        edge=edge,  # type: ignore[arg-type]
        z=parse_z(z),
        families=families,
        measurements=replace(options, full_scale=full_scale),
    )
    folder = out or str(beside(location(plate), "-cellinfer"))
    with _stopping_quietly(), _progress() as report:
        result = run_plate(
            plate,
            folder,
            model=model,
            device=device,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            settings=settings,
            embed=embed,
            embed_mask=embed_mask,  # type: ignore[arg-type]
            embed_box=embed_box,
            illumination=illumination,
            pattern=pattern,
            layout=layout,
            channels=parse_channels(channel),
            workers=workers,
            threads=threads,
            readers=readers,
            batch=batch,
            memory=memory,
            scheduler=scheduler,
            csv=csv,
            exports=exports,
            fresh=fresh,
            retry_failed=retry_failed,
            progress=report,
        )
    _summarise(result)
    raise typer.Exit(0 if result.complete else 3)


@contextlib.contextmanager
def _stopping_quietly() -> Iterator[None]:
    """Answer Ctrl-C with one line; what is done stays done."""
    import os
    import sys

    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # after a second Ctrl-C fields are still in work, and an ordinary exit would wait for them


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[State], None]]:
    """Show a bar with fields and cells per second."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("fields", total=None, pace="")
    try:

        def report(state: State) -> None:
            bar.start()  # not before there is something to report: errors come without a bar
            elapsed = max(time.monotonic() - started, 1e-9)
            new = state.done - state.reused
            pace = f"{new / elapsed:.1f} fields/s, {state.cells / elapsed:.0f} cells/s" if new else ""
            pace += f", {state.failed} failed" if state.failed else ""
            bar.update(task, total=state.total, completed=state.done, description=state.message or "fields", pace=pace)

        yield report
    finally:
        bar.stop()


def _summarise(result: RunResult) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    reused = f", {result.reused} of them from before" if result.reused else ""
    console.print(
        f"[bold]{result.cells:,} cells[/] in {result.fields} fields{reused}; {result.seconds:.1f} s on "
        f"{result.device} in {result.precision}; nucleus diameter {result.diameter:.1f} px"
        + (" (assumed: no nucleus was seen to estimate it from)" if result.diameter_assumed else "")
    )
    for note in result.notes:
        console.print(f"note: {escape(note)}")
    if result.failed:
        console.print(
            f"[bold red]{len(result.failed)} field{'s' * (len(result.failed) > 1)} failed[/] (the rest is complete; "
            "mend the files and run the same command again, with --retry-failed to try all that failed):"
        )
        for name, reason in list(result.failed.items())[:10]:
            console.print(f"  {escape(name)}: {escape(reason)}")
        if len(result.failed) > 10:
            console.print(f"  and {len(result.failed) - 10} more: see Image_Reason in Image.parquet")
    more = ", Embedding" if result.embedding else ""
    console.print(f"tables    {escape(str(result.folder / 'Nuclei.parquet'))}, Cells, Cytoplasm, Image, Well{more}")
    console.print(f"labels    {escape(str(result.folder / 'labels'))}")
    console.print(f"overview  {escape(str(result.overview))}")
