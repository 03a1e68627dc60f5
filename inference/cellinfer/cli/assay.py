"""`cellinfer assay`: how well a run's features separate the controls, and their dose response."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from cellinfer.assays.verdict import AssayResult

_TOP = 15


def assay(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    layout: Annotated[Path, typer.Option(help="Plate map (CSV or TSV) with one row per well.", show_default=False)],
    control_column: Annotated[str, typer.Option(help="Column of the map that marks controls.", show_default=False)],
    negative: Annotated[str, typer.Option(help="Its value in negative control wells.", show_default=False)],
    positive: Annotated[str, typer.Option(help="Its value in positive control wells.", show_default=False)],
    dose_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column with doses: fits a dose response.", show_default=False),
    ] = None,
    feature: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Feature that the verdict is about; repeat for more dose responses.", show_default="best Z'"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for the results.", show_default="RUN/assay"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Report Z'-factor and SSMD per feature and fit dose responses, from a run and its plate map."""
    import json

    from cellinfer.assays.verdict import assay as compute

    result = compute(
        run,
        layout,
        control_column=control_column,
        negative=negative,
        positive=positive,
        dose_column=dose_column,
        features=feature,
        out=out,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(result)


def _print(result: AssayResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    ranked = result.features[result.features["z_prime"].notna()]
    table = Table(title=f"the best {min(_TOP, len(ranked))} of {len(ranked)} features by Z'")
    table.add_column("feature", overflow="fold")
    for name in ("Z'", "robust", "SSMD", "neg → pos"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in ranked.head(_TOP).to_dict("records"):
        table.add_row(
            escape(row["feature"]),
            f"{row['z_prime']:.3f}",
            f"{row['robust_z_prime']:.3f}",
            f"{row['ssmd']:.2f}",
            f"{row['mean_negative']:.3g} → {row['mean_positive']:.3g}",
        )
    console.print(table)
    for response in result.dose_responses:
        console.print(f"[bold]{escape(response.feature)}[/bold]: {escape(response.sentence())}")
    console.print(f"\n[bold]{escape(result.verdict)}[/bold]")
    for note in result.notes:
        console.print(f"note: {escape(note)}", style="yellow")
    for path in result.files:
        console.print(escape(str(path)), soft_wrap=True)
