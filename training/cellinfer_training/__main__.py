"""`python -m cellinfer_training`: train, fine-tune and export models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
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


@app.command()
@plainly()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    mechanisms: Annotated[int, typer.Option(help="Mechanisms of action.")] = 6,
    compounds: Annotated[int, typer.Option(help="Compounds of each mechanism.")] = 4,
    plates: Annotated[int, typer.Option(help="Plates, each with every compound.")] = 6,
    replicates: Annotated[int, typer.Option(help="Wells per compound and plate.")] = 2,
    controls: Annotated[int, typer.Option(help="Untreated wells per plate.")] = 12,
    sites: Annotated[int, typer.Option(help="Fields per well.")] = 1,
    strength: Annotated[float, typer.Option(help="Factor on what compounds do.")] = 1.0,
    plate_strength: Annotated[float, typer.Option(help="Factor on how plates differ.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
) -> None:
    """Write a simulated Cell Painting experiment whose truth is known."""
    from cellinfer_training.simulate import Experiment, write_experiment

    experiment = Experiment(
        mechanisms,
        compounds,
        plates,
        replicates,
        controls,
        sites,
        strength=strength,
        plate_strength=plate_strength,
        seed=seed,
    )
    write_experiment(folder, experiment)
    typer.echo(f"plates  {folder}/{experiment.plate_names[0]} ... (cellinfer run takes one), {plates} in all")
    typer.echo(f"maps    {folder}/{experiment.plate_names[0]}.csv ...\ntruth   {folder}/truth")


@app.command("pack-crops")
@plainly()
def pack_crops(
    runs: Annotated[list[Path], typer.Argument(help="Result folders of cellinfer run.", show_default=False)],
    platemap: Annotated[Path, typer.Option(help="CSV with a well column, and a plate column if plates differ.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the crops.")],
    treatment: Annotated[str, typer.Option(help="Column of the plate map that is the class.")] = "Compound",
    box: Annotated[
        int | None, typer.Option(help="Side of the square around a nucleus, pixels.", show_default="4.5 diameters")
    ] = None,
    side: Annotated[
        int | None, typer.Option(help="Side of the crops, pixels.", show_default="the box, at most 128")
    ] = None,
) -> None:
    """Cut the cells of finished runs out of their plates, for weakly supervised learning."""
    from cellinfer_training.embedding.crops import TREATMENT, pack_run

    packed = pack_run(out, runs, platemap, treatment, box, side)
    typer.echo(
        f"crops   {out}: {len(packed):,} of {packed.index[TREATMENT].nunique()} treatments, "
        f"{len(packed.channels)} channels, box {packed.box} px, side {packed.side} px"
    )


@app.command()
@plainly()
def wsl(
    crops: Annotated[list[Path], typer.Argument(help="Folders that pack-crops made.", show_default=False)],
    out: Out,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "embed-wsl",
    epochs: Annotated[int, typer.Option(help="Epochs; in each, every class counts as the median class.")] = 30,
    leave_out: Annotated[
        str, typer.Option(help="What is left out to be judged on: plates, wells or cells.")
    ] = "plates",
    held: Annotated[
        list[str] | None,
        typer.Option(help="Plate (or plate/well) to leave out; may be repeated.", show_default="a quarter by chance"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Treatment to learn; may be repeated.", show_default="all")
    ] = None,
    network: Annotated[str, typer.Option(help="b0 or lite0.")] = "b0",
    pretrained: Annotated[bool, typer.Option(help="Begin with ImageNet weights.")] = True,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 0.005,
    cooling: Annotated[bool, typer.Option(help="Let the rate fall to 0 along half a cosine.")] = False,
    shared_classes: Annotated[bool, typer.Option(help="One treatment name is one class in all experiments.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    license: Annotated[str, typer.Option(help="Licence of the model.")] = "unstated",
    device: Device = "cpu",
) -> None:
    """Teach a network to tell treatments apart; what it sees by then describes cells (for --embed)."""
    from cellinfer_training.embedding.crops import choose, combine, open_crops
    from cellinfer_training.embedding.report import Claims, finish
    from cellinfer_training.embedding.wsl import Learner, Settings

    sets = {folder.name: open_crops(folder) for folder in crops}
    if len(sets) < len(crops):
        raise typer.BadParameter("folders of crops name the experiments: give them different names")
    data = combine(sets, shared_classes) if len(sets) > 1 else next(iter(sets.values()))
    settings = Settings(
        variant=network,  # type: ignore[arg-type]
        epochs=epochs,
        rate=rate,
        cooling=cooling,
        pretrained=pretrained,
        scheme=leave_out,  # type: ignore[arg-type]
        held=tuple(held or ()),
        seed=seed,
    )
    learner = Learner(choose(data, only) if only else data, settings, out, device)
    learner.run()
    path = finish(learner, name, Claims(license))
    typer.echo(f"model   {path}\nreport  {out / 'report.md'}, report.png, report.json, log.csv")


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


@app.command()
@plainly()
def activity(
    matrix: Annotated[
        Path,
        typer.Argument(
            help="Folder of `cellinfer activity prepare`, or a table with SMILES and assays (1, 0, nothing).",
            show_default=False,
        ),
    ],
    out: Out,
    folds: Annotated[
        Path, typer.Option(help="Folder of `cellinfer activity split`, or a table with Metadata_Compound and Fold.")
    ],
    fold: Annotated[int, typer.Option(help="Fold to judge on; others in turn say when to stop.")] = 0,
    everything: Annotated[bool, typer.Option("--everything", help="Judge on no fold: learn from all of them.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="graph, morgan, or a profile's name; several are put side by side.", show_default="graph"),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option(help="NAME=TABLE of profiles, or the folder of `cellinfer profile`; may be repeated."),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(help="Column of the profiles with names of compounds.", show_default="by name: Metadata_Compound"),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "activity",
    members: Annotated[
        int,
        typer.Option(help="Networks whose mean is taken, each stopped by another fold."),
    ] = 1,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs at most.", show_default="graph 40, morgan 20, else 30")
    ] = None,
    hidden: Annotated[int, typer.Option(help="Width of the network.")] = 300,
    depth: Annotated[int, typer.Option(help="Steps of message passing.")] = 3,
    layers: Annotated[int, typer.Option(help="Hidden layers behind what is seen; 0: logistic regression.")] = 1,
    dropout: Annotated[float, typer.Option(help="Part that is dropped while learning.")] = 0.0,
    rate: Annotated[
        float | None, typer.Option(help="Largest learning rate.", show_default="graph 0.004, else 0.001")
    ] = None,
    decay: Annotated[
        float | None, typer.Option(help="Penalty on squared weights.", show_default="morgan 0.0003, else 0")
    ] = None,
    balance: Annotated[bool, typer.Option(help="Let hits of an assay count as much as its inactives.")] = False,
    trials: Annotated[
        int, typer.Option("--search", help="Trials of a search for sizes and rates, inside the other folds.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    license: Annotated[str, typer.Option(help="Licence of the model.")] = "unstated",
    device: Device = "cpu",
) -> None:
    """Teach networks to predict hits of assays from structures and profiles, and judge them on a fold left out."""
    from cellinfer.activity.prepare import standardisation_of
    from cellinfer.activity.tables import inside

    from cellinfer_training.activity.data import read_data
    from cellinfer_training.activity.learner import usual_settings
    from cellinfer_training.activity.networks import Architecture
    from cellinfer_training.activity.report import train_activity

    tables = {}
    for text in profiles or ():
        what, found, table = text.partition("=")
        if not found:
            raise typer.BadParameter(f"profiles are given as NAME=TABLE, not {text!r}")
        tables[what] = Path(table)
    matrix = inside(matrix, "matrix.parquet")
    data = read_data(matrix, inside(folds, "folds.parquet"), tables, join)
    for note in data.notes:
        typer.echo(f"note: {note}")
    architecture = Architecture(hidden=hidden, depth=depth, layers=layers, dropout=dropout)
    sees = model or ["graph"]
    usual = usual_settings(sees)
    if rate is not None:
        usual = replace(usual, rate=rate, first_rate=rate / 10, last_rate=rate / 10)
    settings = replace(
        usual,
        epochs=usual.epochs if epochs is None else epochs,
        decay=usual.decay if decay is None else decay,
        balance=balance,
        seed=seed,
    )
    path = train_activity(
        data,
        sees,
        None if everything else fold,
        out,
        architecture,
        settings,
        members,
        trials,
        name,
        license,
        device,
        typer.echo,
        standardisation_of(matrix),
    )
    judged = "" if everything else "predictions.parquet, "
    typer.echo(f"model   {path}\nreport  {out / 'report.json'}, scores.csv, {judged}validation.parquet")


def _done(path: Path) -> None:
    typer.echo(f"model   {path}\nreport  {path.parent / 'report.md'}, report.png, scores.csv, log.csv")


if __name__ == "__main__":
    app()
