"""`cellinfer models`: list, show and verify."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The models that come with cellinfer.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the bundled models."""
    from rich.console import Console
    from rich.table import Table

    from cellinfer.models import bundled

    table = Table("model", "version", "channels", "decoder", "diameter", "size", "licence", "for", box=None)
    for found in bundled():
        card = found.card
        table.add_row(
            card.name,
            card.version,
            ", ".join(card.channels),
            card.decoder,
            f"{card.diameter:g} px",
            f"{found.size / 1e6:.1f} MB",
            card.license,
            found.summary,
        )
    Console().print(table)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Bundled model, or path of an .onnx file.")],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print a model's card."""
    import json

    import yaml

    from cellinfer.models import card

    description = dict(card(model).description_file)
    if json_:
        typer.echo(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=100))


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Model to verify.", show_default="all bundled ones")] = None,
) -> None:
    """Check files, cards and golden results."""
    import cellinfer_models

    from cellinfer.models import verify as check

    for name in [model] if model else list(cellinfer_models.registry()):
        typer.echo(f"{name}: {check(name)}")
