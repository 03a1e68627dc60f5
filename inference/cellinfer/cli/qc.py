"""`cellinfer qc`: which wells and fields of a run are not to be trusted, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from cellinfer.profiling.quality import QualityControl

_MOST = 40


def qc(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a finished run, or several; or CellProfiler's Image.csv.", show_default=False),
    ],
    layout: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Plate map (CSV or TSV) with one row per well.", show_default=False),
    ] = None,
    control_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column of the map that marks controls.", show_default=False),
    ] = None,
    negative: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Its value in negative control wells.", show_default=False),
    ] = None,
    positive: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Its value in positive control wells.", show_default=False),
    ] = None,
    controls: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Negative controls as a query, such as 'Metadata_Compound == \"DMSO\"'.", show_default=False),
    ] = None,
    treatment_column: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Column of the map that says what a well got; repeat it (compound, dose). Tells faults from effects.",
            show_default=False,
        ),
    ] = None,
    deviations: Annotated[float, typer.Option(help="Robust standard deviations beyond which a value is out.")] = 4.0,
    strict: Annotated[bool, typer.Option("--strict", help="What is only warned of does not pass either.")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for the results.", show_default="RUN/qc"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Flag wells and fields with reasons: blur, saturation, empty, debris, counts, outliers.

    Leaves with 0 whatever is flagged, with 3 if a plate has too few wells and fields to be compared.
    """
    import json

    from cellinfer.profiling.quality import quality_control

    result = quality_control(
        runs,
        layout=layout,
        control_column=control_column,
        negative=negative,
        positive=positive,
        controls=controls,
        treatment_columns=treatment_column or (),
        deviations=deviations,
        strict=strict,
        out=out,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(result)
    raise typer.Exit(3 if result.unjudged else 0)


def _print(result: QualityControl) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    several = result.wells["Metadata_Plate"].nunique() > 1
    flagged = result.wells[result.wells["Metadata_QC_Severity"] != "ok"]
    flagged = flagged.sort_values("Metadata_QC_Severity", kind="stable")  # fail before warn
    for row in flagged.head(_MOST).to_dict("records"):
        name = f"{row['Metadata_Plate']} {row['Metadata_Well']}" if several else row["Metadata_Well"]
        severity = row["Metadata_QC_Severity"]
        colour = "red" if severity == "fail" else "yellow"
        console.print(f"[{colour}]{severity}[/] [bold]{escape(name)}[/]")
        for reason in row["Metadata_QC_Reasons"].split("; "):
            console.print(f"       {escape(reason)}")
    if len(flagged) > _MOST:
        console.print(f"and {len(flagged) - _MOST} more: see Well.csv")
    fields = int((result.fields["Metadata_QC_Severity"] == "fail").sum())
    console.print(f"{fields} of {len(result.fields)} fields fail")
    for line in result.summary:
        console.print(f"[bold]{escape(line)}[/]")
    for note in result.notes:
        console.print(f"note: {escape(note)}", style="yellow")
    for path in result.files:
        console.print(escape(str(path)))
