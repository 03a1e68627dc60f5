"""`cellinfer activity`: assay hits from chemical structure, morphology and expression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cellinfer.cli._shared import DeviceOption
from cellinfer.cli.evaluate_activity import evaluate_activity

if TYPE_CHECKING:
    from rich.console import Console

    from cellinfer.activity.dividing import SplitResult
    from cellinfer.activity.prediction import PredictResult
    from cellinfer.activity.prepare import PrepareResult

app = typer.Typer(help="Assay hits predicted from chemical structure, morphology and expression.", no_args_is_help=True)


@app.command()
def prepare(
    table: Annotated[
        Path,
        typer.Argument(
            help="Table (CSV, TSV, Parquet) with SMILES and a column per assay: 1 hit, 0 inactive, empty not tested; "
            "or a list of molecules (.smi, .sdf).",
            show_default=False,
        ),
    ],
    smiles: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column with SMILES.", show_default="by its name"),
    ] = None,
    id_: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", help="Column with names of compounds.", show_default="by its name, else row numbers"),
    ] = None,
    ignore: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Column that is no assay; may be repeated.", show_default=False),
    ] = None,
    blank: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Value that means not tested, besides empty, NA, NaN; may be repeated.", show_default=False),
    ] = None,
    assays: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Table of assays and their types; only assays it names are read.", show_default=False),
    ] = None,
    assay_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Its column with types.", show_default="by its name"),
    ] = None,
    salts: Annotated[str, typer.Option(help="Several fragments: strip (keep the largest), keep or refuse.")] = "strip",
    uncharge: Annotated[bool, typer.Option(help="Balance charges that protons can balance.")] = True,
    largest: Annotated[int, typer.Option(help="Heavy atoms of the largest molecule.")] = 150,
    contradictions: Annotated[
        str, typer.Option(help="Labels that duplicates contradict each other in: blank or majority.")
    ] = "blank",
    overlap: Annotated[float, typer.Option(help="Overlap of hits (IoU) above which assays are redundant.")] = 0.7,
    frequent: Annotated[float, typer.Option(help="Part of assays in which frequent hitters are hits.")] = 0.1,
    skip: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Step to leave out, may be repeated: duplicates, pains, no-hits, redundant, frequent.",
            show_default=False,
        ),
    ] = None,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Do as Moshkov et al. 2023 did, see docs/activity.md.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of what is random in --as-published.")] = 0,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Threads.", min=1, show_default="all cores"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("prepared"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Make a matrix to train on: standard structures, duplicates, PAINS, redundant assays, frequent hitters."""
    import json

    from cellinfer.activity.prepare import prepare as make
    from cellinfer.cli._shared import progress_by_name

    with progress_by_name("stopped; nothing was written") as progress:
        result = make(
            table,
            out,
            progress=progress,
            smiles=smiles,
            identifier=id_,
            ignore=tuple(ignore or ()),
            blank=tuple(blank or ()),
            assays=assays,
            assay_type=assay_type,
            salts=salts,
            uncharge=uncharge,
            largest=largest,
            contradictions=contradictions,
            overlap=overlap,
            frequent=frequent,
            skip=tuple(skip or ()),
            as_published=as_published,
            seed=seed,
            threads=threads,
        )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_prepared(result)


@app.command()
def split(
    prepared: Annotated[
        Path, typer.Argument(help="Folder that `cellinfer activity prepare` wrote.", show_default=False)
    ],
    by: Annotated[str, typer.Option(help="scaffold, kmeans, random or assay-type.")] = "scaffold",
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    features: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Profiles that kmeans clusters compounds by.", show_default="Morgan fingerprints"),
    ] = None,
    join: Annotated[str, typer.Option(help="Column of the profiles with names of compounds.")] = "Metadata_Compound",
    stratify: Annotated[bool, typer.Option(help="Spread hits over random folds evenly.")] = True,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="The folds of Moshkov et al. 2023 (scaffold), see docs/activity.md.")
    ] = False,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Threads.", min=1, show_default="all cores"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder for the results.", show_default="PREPARED/split-BY"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Divide compounds (or types of assays) into folds, and say how much of the test folds training has seen."""
    import json

    from cellinfer.activity.dividing import split as divide
    from cellinfer.cli._shared import announce_compilation, progress_by_name

    announce_compilation()
    folder = out or (prepared if prepared.is_dir() else prepared.parent) / f"split-{by}"
    with progress_by_name("stopped; nothing was written") as progress:
        result = divide(
            prepared,
            folder,
            progress=progress,
            by=by,
            folds=folds,
            seed=seed,
            features=features,
            join=join,
            stratify=stratify,
            as_published=as_published,
            threads=threads,
        )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_split(result)


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [MOLECULES]",
            help="Models (bundled, or .onnx files; several are fused), then the molecules: table with SMILES (CSV, "
            "TSV, Parquet), .smi or .sdf. Without molecules, what has profiles is predicted.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Table to write, .parquet or .csv; a .json beside it says how.")
    ],
    profiles: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Profiles for models that see them: table, or folder of `cellinfer profile`; NAME=TABLE where models "
            "see several kinds. May be repeated.",
            show_default=False,
        ),
    ] = None,
    join: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column of the profiles with names of compounds.", show_default="by its name"),
    ] = None,
    smiles: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column of the molecules with SMILES.", show_default="by its name"),
    ] = None,
    id_: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", help="Column with names of compounds.", show_default="by its name, else row numbers"),
    ] = None,
    fuse: Annotated[str, typer.Option(help="How several models become one: max or mean.")] = "max",
    standardise: Annotated[
        str,
        typer.Option(
            help="Structures: card (as the model's training had them), default (as prepare does) or none (as written)."
        ),
    ] = "card",
    device: DeviceOption = "auto",
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Threads.", min=1, show_default="all cores"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Predict assay hits of compounds: probability, spread, and whether the model knows anything like them."""
    import json

    from cellinfer.activity.prediction import predict as run
    from cellinfer.cli._shared import announce_compilation, progress_by_name

    announce_compilation()
    models, molecules = _models_and_molecules(inputs)
    with progress_by_name("stopped; nothing was written") as progress:
        result = run(
            models,
            out,
            molecules,
            _named(profiles or []),
            progress=progress,
            join=join,
            smiles=smiles,
            identifier=id_,
            fuse=fuse,
            standardise=standardise,
            device=device,
            threads=threads,
        )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print_predicted(result)


app.command("evaluate")(evaluate_activity)


def _models_and_molecules(inputs: list[str]) -> tuple[list[str], Path | None]:
    """Tell models from what is to be predicted: the last one, if it is no model."""
    import cellinfer_models

    last = inputs[-1]
    if last.lower().endswith(".onnx") or last in cellinfer_models.registry():
        return inputs, None
    return inputs[:-1], Path(last)


def _named(profiles: list[str]) -> dict[str, Path]:
    """Read `NAME=TABLE`, or a table alone."""
    from cellinfer.errors import InputError

    found: dict[str, Path] = {}
    for text in profiles:
        name, equals, path = text.partition("=")
        if not (equals and name.isidentifier()):
            name, path = "", text
        if name in found:
            raise InputError("--profiles are given twice for the same: name each kind, as in morphology=TABLE.")
        found[name] = Path(path)
    return found


def _print_predicted(result: PredictResult) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    found = result.info["result"]
    predicted = found["status"].get("ok", 0)
    line = f"{predicted:,} of {found['compounds']:,} compounds predicted in {found['assays']:,} assays"
    if known := found["applicability"]:
        line += f"; {known['inside']:,} inside and {known['outside']:,} outside of what the models know"
    console.print(line, soft_wrap=True)
    _print_notes(console, result.notes, result.files)


def _print_prepared(result: PrepareResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", no_wrap=True)
    for name in ("removed", "compounds", "assays"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("details")
    read = result.info["input"]
    table.add_row("read", "", f"{read['rows']:,}", f"{read['assays']:,}", "")
    for step in result.steps:
        reasons = ", ".join(f"{name} {count:,}" for name, count in step.counts.items() if count)
        table.add_row(step.name, f"{step.removed:,}", f"{step.compounds:,}", f"{step.assays:,}", escape(reasons))
    console.print(table)
    _print_notes(console, result.notes, result.files)


def _print_split(result: SplitResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    folds = result.info["folds"]
    names = [
        name
        for name in ("fold", "type", "compounds", "assays", "readouts", "hits", "scorable_assays", "median")
        if name in folds[0]
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        title = {"median": "nearest training compound", "scorable_assays": "scorable assays"}.get(name, name)
        table.add_column(title, justify="left" if name == "type" else "right")
    for fold in folds:
        table.add_row(*(_cell(fold.get(name)) for name in names))
    console.print(table)
    if overall := result.info.get("nearest_training_similarity"):
        chance = result.info["nearest_training_similarity_at_random"]
        console.print(
            f"similarity to the nearest training compound: median {overall['median']:.2f} "
            f"(random folds {chance['median']:.2f}), at least 0.7 for {overall['share_at_least_0.7']:.1%} of compounds "
            f"(random {chance['share_at_least_0.7']:.1%})",
            soft_wrap=True,
        )
    _print_notes(console, result.notes, result.files)


def _cell(value: object) -> str:
    return (
        ""
        if value is None
        else f"{value:.2f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _print_notes(console: Console, notes: tuple[str, ...], files: tuple[Path, ...]) -> None:
    from rich.markup import escape

    for note in notes:
        console.print(f"note: {escape(note)}", style="yellow", soft_wrap=True)
    for path in files:
        console.print(escape(str(path)), soft_wrap=True)
