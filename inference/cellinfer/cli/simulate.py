"""`cellinfer simulate`: write a small plate with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    folder: Annotated[Path, typer.Argument(help="Where to write the plate.", show_default=False)],
    wells: Annotated[int, typer.Option(help="1 to 12, or a multiple of 12 up to 96.")] = 24,
    sites: Annotated[int, typer.Option(help="Fields per well.")] = 1,
    size: Annotated[int, typer.Option(help="Height and width of a field in pixels.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
) -> None:
    """Simulate a plate: nuclei and a reporter that moves into them with the dose; with plate map and truth."""
    from rich.console import Console
    from rich.progress import Progress

    from cellinfer.simulate import simulate_plate

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Simulating fields")
        plate = simulate_plate(
            folder,
            wells=wells,
            sites=sites,
            size=(size, size),
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"Simulated {len(plate.treatments)} wells with {plate.cells} cells (EC50 {plate.ec50:g} nM)")
    typer.echo(f"Images     {plate.images}")
    typer.echo(f"Plate map  {plate.layout}")
    typer.echo(f"Truth      {plate.truth}")
