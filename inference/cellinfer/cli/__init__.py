"""The command line: parses and prints; all it does has a Python function of the same name.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cellinfer._version import __version__
from cellinfer.cli import (
    activity,
    assay,
    doctor,
    evaluate,
    evaluate_profiles,
    export,
    features,
    illumination,
    inspect,
    models,
    profile,
    qc,
    run,
    segment,
    simulate,
)
from cellinfer.errors import CellinferError

app = typer.Typer(
    name="cellinfer",
    help="Deep networks on microscope images: a plate in; single-cell tables, profiles and an assay verdict out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    inspect.inspect,
    illumination.illumination,
    segment.segment,
    evaluate.evaluate,
    evaluate_profiles.evaluate_profiles,
    assay.assay,
    qc.qc,
    profile.profile,
    export.export,
    simulate.simulate,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(features.app, name="features")
app.add_typer(activity.app, name="activity")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cellinfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Deep networks on microscope images."""


def main() -> None:
    """Run the command line; errors that a user can act on are one sentence, without a traceback."""
    try:
        app()
    except CellinferError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
