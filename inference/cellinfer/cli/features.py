"""`cellinfer features`: what the columns of the tables mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(help="What the columns of the tables mean.", no_args_is_help=True)


@app.command("list")
def list_features(
    features: Annotated[
        str,
        typer.Argument(
            help="Families or presets (all, basic, cell-painting), separated by commas, as in cellinfer run --features."
        ),
    ] = "all",
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown page.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file instead.", show_default=False)] = None,
) -> None:
    """List every column: unit, definition, source, and what it was checked against."""
    from cellinfer.errors import InputError
    from cellinfer.features import feature_page, feature_table
    from cellinfer.measurement import parse_features

    if markdown + json_ + (csv is not None) > 1:
        raise InputError("Choose one of --markdown, --json and --csv.")
    table = feature_table(*parse_features(features))
    if markdown:
        typer.echo(feature_page(table))
    elif json_:
        typer.echo(table.to_json(orient="records", indent=2, force_ascii=False))
    elif csv is not None:
        from cellinfer.files import durable

        with durable(csv) as partial:
            table.to_csv(partial, index=False)
        typer.echo(f"{len(table)} columns described in {csv}")
    else:
        _print(table)


def _print(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.padding import Padding

    console = Console(highlight=False, markup=False)
    for family, rows in table.groupby("family", sort=False):
        console.print(f"{family}: {len(rows)} columns", style="bold underline")
        for (source, oracle), part in rows.groupby(["source", "oracle"], sort=False):
            console.print(f"source: {source}" + (f"; checked against {oracle}" if oracle else ""), style="dim")
            for row in part.itertuples():
                console.print(f"{row.column}  [{row.unit}]", style="bold", soft_wrap=True)
                console.print(Padding(str(row.definition), (0, 0, 0, 4)))
        console.print()
