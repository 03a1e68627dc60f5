"""`cellinfer evaluate-profiles`: what profiles find, and what they give away of their plate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from cellinfer.profiling.evaluation import ProfileEvaluation

_SHOWN = (
    "map",
    "map_interpolated",
    "folds_of_enrichment",
    "queries_with_hit_in_top",
    "precision_at_1",
    "accuracy",
    "share_significant",
    "share_reproducible",
    "batch_by_neighbours",
    "batch_by_discriminant",
    "batch_map",
    "replicate_map",
)


def evaluate_profiles(
    profiles: Annotated[Path, typer.Argument(help="Table of profiles: Parquet, CSV or CSV.gz.", show_default=False)],
    label: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column with classes, such as Metadata_moa; a|b is of both.", show_default=False),
    ] = None,
    treatment: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Column that replicates share; repeat for more, such as compound and dose.",
            show_default="of profile.json beside the table",
        ),
    ] = None,
    compound: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Column that must differ between treatments: their compound.",
            show_default="the treatment, without doses",
        ),
    ] = None,
    batch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column with plates or batches.", show_default="the plate"),
    ] = None,
    controls: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Query that names negative controls: \"Metadata_Compound == 'DMSO'\".",
            show_default="with the treatment, of profile.json",
        ),
    ] = None,
    where: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Query that names the rows to look at: "Metadata_Time == 3".', show_default="all"),
    ] = None,
    before: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The same profiles before a correction, to be put side by side.", show_default=False),
    ] = None,
    level: Annotated[str, typer.Option(help="What rows are: well, treatment or image.")] = "well",
    controls_are_negatives: Annotated[
        bool, typer.Option("--controls-are-negatives", help="Let controls be found, as negatives of every query.")
    ] = False,
    min_others: Annotated[int, typer.Option(help="A query needs so many others of its class.")] = 1,
    metric: Annotated[str, typer.Option(help="Similarity: cosine, correlation or euclidean.")] = "cosine",
    draws: Annotated[int, typer.Option(help="Of null distributions that are not exact.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    projection: Annotated[str, typer.Option(help="In the picture: pca, umap, or auto (umap if installed).")] = "auto",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for tables, evaluation.json and evaluation.png.")
    ] = Path("evaluation"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge profiles: retrieval of classes and replicates, significance, batch effects; with tables and a picture."""
    import json

    from cellinfer.cli._shared import announce_compilation, progress_by_name

    with progress_by_name("stopped; the evaluation is not whole: run the same command again") as report:
        from cellinfer.profiling.evaluation import evaluate_profiles as evaluate

        announce_compilation()
        result = evaluate(
            profiles,
            label=label,
            treatment=treatment,
            compound=compound,
            batch=batch,
            controls=controls,
            where=where,
            before=before,
            level=level,  # type: ignore[arg-type]  # checked there
            controls_are_negatives=controls_are_negatives,
            min_others=min_others,
            metric=metric,  # type: ignore[arg-type]
            draws=draws,
            seed=seed,
            projection=projection,
            out=out,
            progress=report,
        )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(result)


def _print(result: ProfileEvaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    compared = "before" in result.metrics
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task, metric", no_wrap=True)
    for name in (*["before"] * compared, "value", "95 % interval", "chance", "queries"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = result.metrics[result.metrics["metric"].isin(_SHOWN)]
    last = None
    for row in rows.to_dict("records"):
        if row["task"] != last:
            table.add_section()
            table.add_row(f"[bold]{escape(row['task'])}[/bold]")
            last = row["task"]
        shown = [_number(row[name]) for name in (*["before"] * compared, "value")]
        interval = f"{_number(row['low'])}–{_number(row['high'])}" if row["low"] == row["low"] else ""
        table.add_row(f"  {row['metric']}", *shown, interval, _number(row["chance"]), f"{row['n_queries']:,}")
    console.print(table)
    for task, definition in result.definitions.items():
        console.print(f"[bold]{escape(task)}[/bold]: {escape(definition)}", soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {escape(note)}", style="yellow", soft_wrap=True)
    for path in result.files:
        console.print(escape(str(path)), soft_wrap=True)


def _number(value: float) -> str:
    return "" if value != value else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
