"""`python -m cellinfer_training`: train, fine-tune and export models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from cellinfer.errors import CellinferError

app = typer.Typer(
    name="cellinfer_training", help="Train the models that cellinfer runs.", no_args_is_help=True, add_completion=False
)

Images = Annotated[
    Path,
    typer.Argument(
        help="Folder with images/ and masks/ of equal names, or masks named <image>_masks beside the images.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints, report and model; continued if there.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps in all.", min=1, show_default="the recipe's")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
See = Annotated[
    str | None,
    typer.Option(
        "--channel", help="What a grey model sees of colour images: red, green, blue or mean.", show_default="mean"
    ),
]
Name = Annotated[str | None, typer.Option(help="Name of the model.", show_default="from the folder")]


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Answer expected errors and Ctrl-C with one line."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    except CellinferError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


@app.command()
@plainly()
def train(
    images: Images,
    out: Out,
    like: Annotated[str, typer.Option(help="Recipe whose network and schedule are used.")] = "nuclei",
    task: Annotated[
        str | None,
        typer.Option(help="distance, star-convex, semantic, three-class or flows.", show_default="the recipe's"),
    ] = None,
    name: Name = None,
    steps: Steps = None,
    device: Device = "cpu",
    channel: See = None,
) -> None:
    """Train a model on your own images and label masks."""
    from cellinfer_training.own import train_own

    _done(train_own(images, out, like, task, name, steps, device, channel))  # type: ignore[arg-type]


@app.command("fine-tune")
@plainly()
def fine_tune(
    model: Annotated[
        str, typer.Argument(help="Name of a bundled model, or an ONNX file made here.", show_default=False)
    ],
    images: Images,
    out: Out,
    name: Name = None,
    steps: Steps = None,
    device: Device = "cpu",
    channel: See = None,
) -> None:
    """Train a finished model on, on ten or so images of your own, and say whether it helped."""
    from cellinfer_training.own import fine_tune

    _done(fine_tune(model, images, out, name, steps, device, channel))  # type: ignore[arg-type]


@app.command()
@plainly()
def recipe(
    name: Annotated[str, typer.Argument(help="nuclei, nuclei-accurate, nuclei-tissue, unet or stardist.")],
    data: Annotated[Path, typer.Argument(help="Folder that holds dsb2018/ and bbbc039/.", show_default=False)],
    out: Out,
    steps: Steps = None,
    device: Device = "cpu",
    release: Annotated[bool, typer.Option(help="Also put the model into cellinfer_models and its registry.")] = False,
) -> None:
    """Train a bundled model anew from public images, score it on held-out families, export it."""
    from cellinfer_training import train as run
    from cellinfer_training.loop import prepare
    from cellinfer_training.recipes import RECIPES, load, shortened, split

    if name not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {name!r}: choose {', '.join(RECIPES)}")
    prepare(out, device)
    made = shortened(RECIPES[name], steps)
    made.describe({})  # refused now rather than after training, if what it starts from is not bundled
    training, held = split(load(data, made), made)
    run.train(made, training, held, out, device)
    path = run.finish(made, held, out)
    _done(path)
    if release:
        typer.echo(f"released as {run.release(path, made.summary)}")


@app.command()
@plainly()
def quantise(
    model: Annotated[
        str, typer.Argument(help="Name of a bundled model, or an ONNX file made here.", show_default=False)
    ],
    data: Annotated[Path, typer.Argument(help="Folder that holds dsb2018/ and bbbc039/.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    like: Annotated[
        str | None, typer.Option(help="Recipe whose images and split are used.", show_default="the model's name")
    ] = None,
    release: Annotated[
        bool, typer.Option(help="Also put it into cellinfer_models, as the int8 variant of the bundled model.")
    ] = False,
) -> None:
    """Make the 8-bit version of a finished model; refused if that costs too much."""
    import cellinfer_models

    from cellinfer_training import quantise as made
    from cellinfer_training.recipes import RECIPES, load, split

    entry = cellinfer_models.registry().get(model)
    path = entry.path if entry is not None else Path(model)
    name = like or path.stem
    if name not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {name!r}: say with --like which of {', '.join(RECIPES)}")
    training, held = split(load(data, RECIPES[name]), RECIPES[name])
    typer.echo(f"model   {made.quantise(path, training, held, out)}")
    if release:
        typer.echo(f"released as {made.release(out, name)}")


@app.command("embed-imagenet")
@plainly()
def embed_imagenet(
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    release: Annotated[bool, typer.Option(help="Also put the model into cellinfer_models and its registry.")] = False,
) -> None:
    """Export the network that has only seen photographs: features of any channel without training."""
    from cellinfer_training.embedding.export import IMAGENET_SUMMARY, export_imagenet
    from cellinfer_training.train import release as put

    typer.echo(f"model   {out}, torch and onnxruntime differ by {export_imagenet(out):.1e}")
    if release:
        typer.echo(f"released as {put(out, IMAGENET_SUMMARY)}")


def _done(path: Path) -> None:
    typer.echo(f"model   {path}\nreport  {path.parent / 'report.md'}, report.png, scores.csv, log.csv")


if __name__ == "__main__":
    app()
