"""`cellinfer models`: list, show, verify and recommend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellinfer.cli._shared import DeviceOption
from cellinfer.microscopy import CHALLENGES, DIMENSIONS, MODALITIES, OBJECTS, SAMPLES

if TYPE_CHECKING:
    from cellinfer.cards import ActivityCard, EmbeddingCard, ModelCard
    from cellinfer.models import Recommendation

app = typer.Typer(help="The models that come with cellinfer.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the bundled models."""
    from rich.console import Console
    from rich.table import Table

    from cellinfer.models import bundled

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for found in bundled():
        card = found.card
        sizes = [_megabytes(found.size), *(f"{name} {_megabytes(n)}" for name, n in found.variants.items())]
        inputs = f"{', '.join(_takes(card))} in, {_gives(card)}"
        table.add_row(card.name, found.summary)
        table.add_row("", f"[dim]{card.version}, {', '.join(sizes)}, {inputs}, {card.license}[/dim]")
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
    """Check files, cards and golden results, in every precision."""
    import cellinfer_models

    from cellinfer.models import verify as check
    from cellinfer.sessions import precisions

    for name in [model] if model else list(cellinfer_models.registry()):
        for precision in precisions(name):
            typer.echo(f"{name}: {check(name, precision)}")
        if not precisions(name):  # a file of one's own has the precision it has
            typer.echo(f"{name}: {check(name)}")


@app.command()
def recommend(
    modality: Annotated[str | None, typer.Option(help=f"{', '.join(MODALITIES)}.", show_default=False)] = None,
    dim: Annotated[str, typer.Option(help=f"{', '.join(DIMENSIONS)}.")] = "2d",
    challenge: Annotated[
        list[str] | None,
        typer.Option(help=f"What makes the images hard, may be repeated: {', '.join(CHALLENGES)}.", show_default=False),
    ] = None,
    object_: Annotated[str, typer.Option("--object", help=f"What to find: {', '.join(OBJECTS)}.")] = "nuclei",
    sample: Annotated[str | None, typer.Option(help=f"{' or '.join(SAMPLES)}.", show_default=False)] = None,
    image: Annotated[
        Path | None, typer.Option(help="A sample on which the candidates are tried.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="An .onnx file to consider as well, may be repeated.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Draw what each model found, as PNG.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which model to take, why, and why not the others; with an image, try them on it."""
    import json

    from cellinfer.cli._shared import announce_compilation
    from cellinfer.errors import InputError
    from cellinfer.models import draw_trials
    from cellinfer.models import recommend as ask

    if out is not None and image is None:
        raise InputError("--out draws what the models found in a sample: give one with --image.")
    announce_compilation()
    answer = ask(
        modality=modality,
        dimension=dim,
        challenges=challenge or (),
        object=object_,
        sample=sample,
        image=image,
        models=model or (),
        device=device,  # type: ignore[arg-type]
    )
    if json_:
        typer.echo(json.dumps(answer.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(answer)
    if out is not None and image is not None:
        typer.echo(f"picture: {draw_trials(image, answer.trials, out)}", err=json_)


def _takes(card: ModelCard | EmbeddingCard | ActivityCard) -> tuple[str, ...]:
    from cellinfer.cards import ActivityCard

    return card.modalities if isinstance(card, ActivityCard) else card.channels


def _gives(card: ModelCard | EmbeddingCard | ActivityCard) -> str:
    from cellinfer.cards import ActivityCard, EmbeddingCard

    if isinstance(card, ActivityCard):
        return f"hits of {len(card.assays)} assays of {card.compounds:,} compounds"
    if isinstance(card, EmbeddingCard):
        each = " of each channel" if card.each_channel else ""
        return f"crops of {card.box} px, {card.features} features{each} (for --embed)"
    return f"objects of {card.diameter:g} px, {card.decoder} decoder"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _print(answer: Recommendation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if answer.path:
        console.print(escape(" > ".join(answer.path)), style="dim")
    console.print(f"[bold]{escape(answer.model)}[/]" if answer.model else "[bold]No model fits.[/]")
    for reason in answer.why:
        console.print(f"  {escape(reason)}")
    if answer.trials:
        table = Table("model", "agreement", "objects", "diameter", "seconds", box=None, title="tried on the sample")
        for trial in answer.trials:
            if trial.refused is not None:
                table.add_row(escape(trial.model), escape(trial.refused))
                continue
            table.add_row(
                escape(trial.model),
                "nothing found" if trial.agreement is None else f"{trial.agreement:.3f}",
                str(trial.objects),
                f"{trial.diameter:.0f} px",
                f"{trial.seconds:.1f}",
            )
        console.print(table)
        console.print("agreement of eight views of the sample's middle: how sure, not how right", style="dim")
    if answer.why_not:
        console.print("not the others:")
    for name, reason in answer.why_not.items():
        console.print(f"  {escape(name)}: {escape(reason)}")
    for line in answer.advice:
        console.print(f"[yellow]{escape(line)}[/]")
