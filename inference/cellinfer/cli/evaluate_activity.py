"""`cellinfer activity evaluate`: how well hits of assays are predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cellinfer.activity.evaluation import ActivityEvaluation

_WIDE = 100
"""Columns of a terminal that has place for intervals, and for all figures."""
_COMBINATIONS = 8
_ALWAYS = ("AUROC", "AUPRC", "EF1")


def evaluate_activity(
    predictions: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="NAME=TABLE of probabilities (compounds, a column per assay), or a folder of a training run; "
            "repeat the name for other folds, or another name for another modality.",
            show_default=False,
        ),
    ] = None,
    matrix: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Labels: what `cellinfer activity prepare` wrote.", show_default=False),
    ] = None,
    folds: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folds: what `cellinfer activity split` wrote.", show_default="a column Fold, else tables are folds"
        ),
    ] = None,
    assays: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Table of assays with types.", show_default="assays.csv beside the matrix"),
    ] = None,
    assay_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Its column with types.", show_default="by its name"),
    ] = None,
    validation: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="NAME=TABLE of predictions that learning was stopped by, one per table of predictions, for "
            "--by learned.",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="TABLE of figures worked out elsewhere (assay, descriptor, auc), or NAME=TABLE without descriptors.",
            show_default=False,
        ),
    ] = None,
    choose: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="NEW=FOUND: take this modality of --scores, under a new name.", show_default="all"),
    ] = None,
    fuse: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Modalities to fuse late, as CS+MO; all: every combination.", show_default=False),
    ] = None,
    by: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="How: max, mean or learned; may be repeated.", show_default="max"),
    ] = None,
    shrinkage: Annotated[float, typer.Option(help="Of learned weights towards equal ones.")] = 1.0,
    all_compounds: Annotated[
        bool,
        typer.Option("--all-compounds", help="Judge each modality on all it predicts, not on what all predict."),
    ] = False,
    venn: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Modality of the Venn diagram and the oracle; repeat.", show_default="all that are given"),
    ] = None,
    above: Annotated[float, typer.Option(help="AUROC above which the picture counts assays.")] = 0.9,
    over: Annotated[str, typer.Option(help="Statistic over folds that is shown: median or mean.")] = "median",
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Modality to compare the others with.", show_default="every pair"),
    ] = None,
    reported_as: Annotated[
        str, typer.Option(help="What --scores without folds are over folds: median or mean.")
    ] = "median",
    join: Annotated[str, typer.Option(help="Column with names of compounds.")] = "Metadata_Compound",
    draws: Annotated[int, typer.Option(help="Resamples of assays for intervals.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for tables, evaluation.json and evaluation.png.")
    ] = Path("activity-evaluation"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge predictions of hits: AUROC, AUPRC, enrichment, counts of assays, intervals, fusion, Venn diagram."""
    import json

    from cellinfer.activity.evaluation import evaluate
    from cellinfer.cli._shared import progress_by_name

    with progress_by_name("stopped; the evaluation is not whole: run the same command again") as progress:
        result = evaluate(
            _named(predictions, "--predictions"),
            matrix,
            out,
            folds=folds,
            assays=assays,
            validation=_named(validation, "--validation"),
            scores=_named(scores, "--scores", nameless=True) or None,
            choose={new: found[0] for new, found in _named(choose, "--choose", once=True).items()},
            progress=progress,
            fuse=tuple(fuse or ()),
            by=tuple(by or ("max",)),
            shrinkage=shrinkage,
            common=not all_compounds,
            venn=tuple(venn or ()),
            above=above,
            over=over,
            against=against,
            reported_as=reported_as,
            assay_type=assay_type,
            join=join,
            draws=draws,
            seed=seed,
        )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(result, over, above)


def _named(
    pairs: Sequence[str] | None, option: str, *, nameless: bool = False, once: bool = False
) -> dict[str, list[str]]:
    """Read `NAME=VALUE` pairs; without a name, where that may be, under ''."""
    from cellinfer.errors import InputError

    found: dict[str, list[str]] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if nameless and (not equals or Path(pair).exists()):
            name, value = "", pair
        elif not (name and value):
            raise InputError(f"{option} {pair!r} must be NAME=VALUE, for example {option} CS=graph.parquet.")
        if once and name in found:
            raise InputError(f"{option} names {name!r} twice.")
        found.setdefault(name, []).append(value)
    return found


def _print(result: ActivityEvaluation, over: str, above: float) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    _print_summary(console, result, over)
    chosen = (result.venn["over_folds"] == over) & (result.venn["above"] == above) & (result.venn["count"] > 0)
    venn = result.venn[chosen].sort_values("count", ascending=False, kind="stable")
    if len(result.info["venn"]["modalities"]) > 1 and len(venn):
        shown = venn.head(_COMBINATIONS)
        said = ", ".join(f"{name} {count}" for name, count in zip(shown["combination"], shown["count"], strict=True))
        more = f", {len(venn) - len(shown)} more combinations in venn.csv" if len(venn) > len(shown) else ""
        console.print(f"assays with AUROC > {above:g} by exactly: {escape(said)}{more}", soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {escape(note)}", style="yellow", soft_wrap=True)
    for path in result.files:
        console.print(escape(str(path)), soft_wrap=True)


def _print_summary(console: Console, result: ActivityEvaluation, over: str) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    wide = console.width >= _WIDE
    title = f"{over} over folds, mean over assays" + (" (95 %)" if wide else "")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    table.add_column("modality", overflow="fold")
    rows = result.summary[result.summary["over_folds"] == over]
    means = [name for name in dict.fromkeys(rows["metric"]) if wide or name in _ALWAYS]
    limits = [name for name in dict.fromkeys(rows["statistic"]) if name.startswith("above_")]
    for name in ("assays", *means, *(f"> {one.removeprefix('above_')}" for one in limits)):
        table.add_column(name, justify="right", no_wrap=True)
    for modality, part in rows.groupby("modality", sort=False):
        values = part.set_index(["metric", "statistic"])
        cells = [f"{values['n_assays'].iloc[0]:,}"]
        for name in means:
            if (name, "mean") not in values.index:
                cells.append("")
                continue
            row = values.loc[(name, "mean")]
            known = wide and name == "AUROC" and row["low"] == row["low"]
            interval = f" {row['low']:.2f}–{row['high']:.2f}" if known else ""
            cells.append(f"{row['value']:.3f}{interval}" if name.startswith("AU") else f"{row['value']:.1f}")
        cells += [f"{values.loc[('AUROC', one), 'value']:.0f}" for one in limits]
        table.add_row(escape(str(modality)), *cells)
    console.print(table)
