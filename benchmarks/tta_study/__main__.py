"""`python -m benchmarks.tta_study`: train, score, report. Each goes on where it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from cellinfer.errors import CellinferError, InputError

from benchmarks.tta_study.plan import MODALITIES, NETWORKS, PLAN, SPLITS, VIEWS, Run, choose

app = typer.Typer(
    name="tta_study", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
Data = Annotated[Path, typer.Argument(help="Folder that holds dsb2018/.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="Folder of the study.", show_default=False)]


@app.command()
def plan() -> None:
    """List the runs of the default plan."""
    for run in PLAN:
        typer.echo(f"{run.name:28} {run.steps} steps of {run.batch} crops, kept at {run.checkpoints}")


@app.command()
def train(
    data: Data,
    out: Out,
    network: Annotated[str | None, typer.Option(help=" or ".join(NETWORKS), show_default=False)] = None,
    modality: Annotated[str | None, typer.Option(help=" or ".join(MODALITIES), show_default=False)] = None,
    split: Annotated[
        float | None, typer.Option(help=f"Share held out: {', '.join(map(str, SPLITS))}.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all.", min=1, show_default="the plan's")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Steps at which networks are kept, as 50,150,300.", show_default="the plan's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Few small steps, to prove the chain.")] = False,
) -> None:
    """Train the default plan, or the runs that fit the options."""
    from benchmarks.tta_study import training

    runs = choose(network, modality, split, quick=quick)
    if not runs:
        raise InputError(f"No run fits: networks {NETWORKS}, modalities {MODALITIES}, splits {SPLITS}.")
    for run in runs:
        wished = choose(network, modality, split, _kept(run, steps, checkpoints), quick)
        training.train(next(r for r in wished if r.name == run.name), data, out, device)


@app.command()
def score(
    data: Data,
    out: Out,
    views: Annotated[str, typer.Option(help="Kinds of views.")] = ",".join(VIEWS),
    images: Annotated[int, typer.Option(help="Most held-out images per run.", min=1)] = 40,
) -> None:
    """Score every kept network on held-out images."""
    from benchmarks.tta_study import scoring

    kinds = tuple(kind for kind in VIEWS if kind in views.split(","))
    unknown = set(views.split(",")) - set(VIEWS)
    if unknown:
        raise InputError(f"Unknown views {', '.join(sorted(unknown))}: choose from {', '.join(VIEWS)}.")
    scoring.score(data, out, kinds, images)


@app.command()
def report(
    out: Out,
    into: Annotated[Path | None, typer.Option(help="Folder for the report.", show_default="that of the study")] = None,
) -> None:
    """Write tables, plots and JSON."""
    from benchmarks.tta_study import report as reporting

    typer.echo(f"report: {reporting.report(out, into)}")


def _kept(run: Run, steps: int | None, checkpoints: str | None) -> tuple[int, ...] | None:
    """Return the steps at which to keep networks; None leaves the plan's."""
    if checkpoints is None and steps is None:
        return None
    try:
        wished = tuple(sorted({int(step) for step in checkpoints.split(",")})) if checkpoints else run.checkpoints
    except ValueError as error:
        raise InputError(f"--checkpoints takes whole numbers parted by commas, not {checkpoints!r}.") from error
    last = steps or wished[-1]
    if wished[0] < 1:
        raise InputError(f"--checkpoints begin at step 1, not {wished[0]}.")
    return (*(step for step in wished if step < last), last)


if __name__ == "__main__":
    try:
        app()
    except CellinferError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
