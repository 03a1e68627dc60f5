"""`python -m cellinfer_training.maskrcnn DATA --out FOLDER`: train, score and export a Mask R-CNN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cellinfer_training.__main__ import plainly
from cellinfer_training.loop import prepare
from cellinfer_training.maskrcnn.training import FLUORESCENCE, TISSUE, StagedSchedule, divide, train
from cellinfer_training.train import finish
from cellinfer_training.train import release as enter


@plainly()
def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds dsb2018/ and bbbc039/.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for checkpoints, report and model; continued if there.")
    ],
    tissue: Annotated[bool, typer.Option(help="Learn stained tissue in colour instead of fluorescence.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.", min=1)] = FLUORESCENCE.schedule.steps,
    share: Annotated[float, typer.Option(help="Share of the training images to use.", min=0.0, max=1.0)] = 1.0,
    validation: Annotated[
        float, typer.Option(help="Share of images held out.", min=0.01, max=0.9)
    ] = FLUORESCENCE.validation,
    seed: Annotated[int, typer.Option(help="Of the split and all that is random.")] = FLUORESCENCE.seed,
    published: Annotated[
        bool, typer.Option(help="The published staged schedule instead of a cosine; see StagedSchedule.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    release: Annotated[bool, typer.Option(help="Also put the model into cellinfer_models and its registry.")] = False,
) -> None:
    """Train a Mask R-CNN from random weights, score it on held-out families of images, export it to ONNX."""
    recipe = TISSUE if tissue else FLUORESCENCE
    schedule = StagedSchedule(batch=recipe.schedule.batch) if published else recipe.schedule
    recipe = replace(recipe, schedule=replace(schedule, steps=steps), share=share, validation=validation, seed=seed)
    prepare(out, device)
    training, held = divide(data, recipe)
    train(recipe, training, held, out, device)
    path = finish(recipe, held, out)
    typer.echo(f"model   {path}\nreport  {out / 'report.md'}, report.png, scores.csv, log.csv")
    if release:
        typer.echo(f"released as {enter(path, recipe.summary)}")


if __name__ == "__main__":
    typer.run(main)
