"""`python -m cellinfer_training RECIPE`: train, score and export a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cellinfer_training", help="Train the models that cellinfer runs.", no_args_is_help=True, add_completion=False
)


@app.callback()
def _recipes() -> None:
    """Train the models that cellinfer runs."""


@app.command()
def nuclei(
    data: Annotated[Path, typer.Argument(help="Folder that holds dsb2018/ and bbbc039/.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for checkpoints, report and model; continued if there.")
    ],
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.", min=1)] = 14_000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    release: Annotated[bool, typer.Option(help="Also put the model into cellinfer_models and its registry.")] = False,
) -> None:
    """Train the `nuclei` model, score it on held-out families of images, export it to ONNX."""
    from cellinfer_training import nuclei as recipe

    settings = replace(recipe.RECIPE, schedule=replace(recipe.RECIPE.schedule, steps=steps))
    recipe.train(data, out, settings, device)
    path = recipe.finish(data, out, settings)
    typer.echo(f"model   {path}\nreport  {out / 'report.png'}, {out / 'scores.csv'}, {out / 'log.csv'}")
    if release:
        typer.echo(f"released as {recipe.release(path)}")


app()
