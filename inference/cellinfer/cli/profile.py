"""`cellinfer profile`: tables of cells to profiles of wells and treatments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellinfer.profiling.workflow import ProfileResult

_ALIKE = {"standardize": "standardise", "robustize": "robustise", "mad_robustize": "robust-mad"}


def profile(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, or tables of CellProfiler, DeepProfiler or pycytominer.", show_default=False
        ),
    ],
    layout: Annotated[
        Path | None,
        typer.Option(help="Plate map (CSV or TSV), or a folder of maps named after plates.", show_default=False),
    ] = None,
    barcodes: Annotated[
        Path | None,
        typer.Option(help="Table that says which map each plate has (as in JUMP).", show_default=False),
    ] = None,
    compounds: Annotated[Path | None, typer.Option(help="Table with a row per compound.", show_default=False)] = None,
    compound_column: Annotated[
        str | None, typer.Option(help="Column on which --compounds is joined.", show_default=False)
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(help="Negative controls as a query: \"Metadata_Compound == 'DMSO'\".", show_default=False),
    ] = None,
    control_column: Annotated[
        str | None, typer.Option(help="Column of the map that marks controls.", show_default=False)
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Its value in negative control wells.", show_default=False)
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of each plate's controls that correction never sees, such as 0.25, so that treatments can be "
            "compared with them."
        ),
    ] = 0.0,
    treatment: Annotated[
        list[str] | None,
        typer.Option(help="Column that replicates share; repeat for more.", show_default="by name, with doses"),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Column with the batch of a plate.", show_default=False)] = None,
    qc: Annotated[
        Path | None,
        typer.Option(help="Wells that passed or failed: what cellinfer qc wrote, or such a table.", show_default=False),
    ] = None,
    features: Annotated[
        str, typer.Option(help="If tables differ in features: intersection, union or refuse.")
    ] = "intersection",
    tables: Annotated[
        str | None,
        typer.Option(help="Of runs with --embed: measurements, embedding or both.", show_default="measurements"),
    ] = None,
    site: Annotated[str, typer.Option(help="Cells to sites: median or mean.")] = "median",
    well: Annotated[str, typer.Option(help="Sites to wells: mean or median.")] = "mean",
    normalisation: Annotated[str, typer.Option(help="standardise, robustise, robust-mad or none.")] = "standardise",
    reference: Annotated[
        str, typer.Option(help="Normalise against controls or all wells; auto: controls if they are named.")
    ] = "auto",
    scope: Annotated[str, typer.Option(help="Normalise each plate, each batch, or all wells together.")] = "plate",
    spread: Annotated[
        str,
        typer.Option(
            help="Divide by each plate's own spread, or the pooled one of all; auto: pooled if controls are few."
        ),
    ] = "auto",
    clip: Annotated[
        float, typer.Option(help="Normalised values are held within so many spreads of the reference; 0: not at all.")
    ] = 20.0,
    features_of: Annotated[
        str | None,
        typer.Option(
            help="Model that profiles are made for, or an earlier result: keep its features and do what was done "
            "there (NAME=MODEL if it sees several kinds).",
            show_default=False,
        ),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="Feature selection, in order: missing, blocklist, variance, frequency, outliers, noise, correlation; "
            "or none."
        ),
    ] = "missing,blocklist,variance,frequency,correlation",
    correlation: Annotated[float, typer.Option(help="Largest correlation of two features that stay.")] = 0.9,
    sphering: Annotated[str, typer.Option(help="ZCA, ZCA-cor, PCA, PCA-cor or none; needs controls.")] = "ZCA",
    sphering_scope: Annotated[
        str, typer.Option(help="Learn sphering from the controls of all plates, or of each batch.")
    ] = "all",
    regularization: Annotated[
        str,
        typer.Option(
            help="Lambda of sphering relative to the mean eigenvalue, or nested: chosen inside folds by how well "
            "replicates find each other."
        ),
    ] = "0.1",
    harmony: Annotated[
        str, typer.Option(help="Bring plates or batches together after sphering: plate, batch or none.")
    ] = "none",
    consensus: Annotated[str, typer.Option(help="Wells to treatments: mean, median, modz or none.")] = "mean",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results.", show_default="RUN/profile")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write tables as CSV too.")] = False,
    picture: Annotated[bool, typer.Option(help="Draw profile.png.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Make profiles of wells and treatments: aggregate, annotate, normalise, select features, sphere, summarise."""
    import json

    from cellinfer.cli._shared import progress_by_name
    from cellinfer.errors import InputError
    from cellinfer.profiling.workflow import profile as compute

    amount: float | str = regularization
    if regularization != "nested":
        try:
            amount = float(regularization)
        except ValueError:
            raise InputError(f"--regularization is a number or nested, not {regularization!r}.") from None
    operations = [one.strip() for one in select.split(",") if one.strip()]
    with progress_by_name("stopped; nothing that is half was written") as report:
        result = compute(
            list(run),
            out,
            layout=layout,
            barcodes=barcodes,
            compounds=compounds,
            compound_column=compound_column,
            controls=controls,
            control_column=control_column,
            negative=negative,
            hold_out=hold_out,
            treatment=treatment or None,
            batch=batch,
            qc=qc,
            features=features,
            tables=tables,
            site=site,
            well=well,
            normalisation=_ALIKE.get(normalisation, normalisation),
            reference=reference,
            scope=scope,
            spread=spread,
            clip=clip,
            features_of=features_of,
            selection=[] if operations == ["none"] else operations,
            correlation=correlation,
            sphering=sphering,
            sphering_scope=sphering_scope,
            regularization=amount,
            harmony=harmony,
            consensus=consensus,
            csv=csv,
            picture=picture,
            progress=report,
        )
    if as_json:
        typer.echo(json.dumps(result.info, indent=2, ensure_ascii=False))
    else:
        _print(result)


def _print(result: ProfileResult) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table()
    for name in ("step", "scope"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "features", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in result.steps:
        rows, features = (
            f"{before:,}" if before == after else f"{before:,} → {after:,}"
            for before, after in (step.rows, step.features)
        )
        table.add_row(
            escape(_title(step.name, step.parameters)), escape(step.scope), rows, features, f"{step.seconds:.1f}"
        )
    console.print(table)
    same = result.info["nearest_neighbour_of_same_plate"]
    if same is not None:
        whose = "a " + result.info["nearest_neighbour_of"].removesuffix("s")
        console.print(
            f"the nearest neighbour of {whose} is of its own plate in {same['before']:.0%} before, {same['after']:.0%} "
            f"after ({same['chance']:.0%} by chance)"
        )
        if "treated_after" in same:
            console.print(
                f"that of a treated well, among other treatments, in {same['treated_before']:.0%} before, "
                f"{same['treated_after']:.0%} after ({same['treated_chance']:.0%} by chance)"
            )
    for note in result.notes:
        console.print(f"note: {escape(note)}", style="yellow")
    for path in result.files:
        console.print(escape(str(path)), soft_wrap=True)


def _title(name: str, parameters: dict[str, object]) -> str:
    """Return a step's name with what it did."""
    shown = {
        "aggregate": ("site", "well"),
        "normalise": ("method", "against", "spread"),
        "hold out controls": ("share",),
        "select features": ("operations",),
        "sphere": ("method", "regularization"),
        "harmonise": ("brought_together",),
        "consensus": ("operation",),
    }
    values = [parameters.get(one) for one in shown.get(name, ())]
    texts = [
        ", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values if value is not None
    ]
    return f"{name}: {', '.join(texts)}" if texts else name
