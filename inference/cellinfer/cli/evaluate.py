"""`cellinfer evaluate`: label images against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from cellinfer.evaluation import Evaluation

_WORST = 10


def evaluate(
    pred_dir: Annotated[Path, typer.Argument(help="Folder of predicted label images.", show_default=False)],
    truth_dir: Annotated[Path, typer.Argument(help="Folder of true label images, paired by stem.", show_default=False)],
    inclusive: Annotated[
        bool, typer.Option("--inclusive", help="Match at IoU >= t instead of > t (the Data Science Bowl's rule).")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count truth without a prediction as an empty prediction.")
    ] = False,
    pattern: Annotated[str, typer.Option(help="Only truth whose file name fits this shell pattern.")] = "*",
    csv: Annotated[
        Optional[Path], typer.Option("--csv", help="Write one row per image.", show_default=False)  # noqa: UP045
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Score label images: mAP_DSB, AP, F1, panoptic quality; per image, mean, and by object size."""
    import json

    from rich.console import Console
    from rich.progress import track

    from cellinfer.cli._shared import announce_compilation
    from cellinfer.evaluation import pair_files, score_files, summarise

    announce_compilation()
    files = pair_files(pred_dir, truth_dir, pattern=pattern, allow_missing=allow_missing)
    scored = track(
        score_files(files, strict=not inclusive),
        total=len(files.pairs),
        description="evaluating",
        console=Console(stderr=True),
    )
    result = summarise(files, scored, strict=not inclusive)
    if csv is not None:
        _write_csv(result, csv)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _print(result)
        if csv is not None:
            typer.echo(f"table: {csv}")


def _write_csv(result: Evaluation, path: Path) -> None:
    import csv

    from cellinfer.files import durable, plain_text

    rows = result.rows()
    with durable(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "image": plain_text(row["image"])} for row in rows)


def _print(result: Evaluation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = {
        "map_dsb": "mAP_DSB",
        "ap50": "AP@0.5",
        "ap75": "AP@0.75",
        "f1_50": "F1@0.5",
        "f1_70": "F1@0.7",
        "panoptic_quality": "PQ",
        "jaccard": "Jaccard",
    }
    console = Console()
    worst = sorted(result.images.items(), key=lambda item: item[1].map_dsb)[:_WORST]
    few = len(result.images) <= _WORST
    title = "images, worst first" if few else f"the {_WORST} worst of {len(result.images)} images"
    table = Table(title=title)
    table.add_column("image", overflow="fold")
    for name in shown.values():
        table.add_column(name, justify="right")
    for name, score in worst:
        table.add_row(escape(name), *(f"{getattr(score, key):.3f}" for key in shown))
    table.add_section()
    table.add_row(f"mean of {len(result.images)}", *(f"{result.mean[key]:.3f}" for key in shown), style="bold")
    console.print(table)
    total = result.total
    console.print(
        f"{total['true_objects']} true objects, {total['predicted_objects']} predicted; missed {total['missed']}, "
        f"spurious {total['spurious']}, split {total['split']}, merged {total['merged']}; "
        f"matched at IoU {'>' if result.strict else '>='} threshold",
        highlight=False,
    )
    for size in result.sizes:
        limit = f"{size.smallest}+" if size.largest is None else f"{size.smallest}-{size.largest}"
        if size.recall is not None:
            console.print(
                f"{size.name} ({limit} px): {size.true_objects} objects, recall {size.recall:.3f} at IoU 0.5",
                highlight=False,
            )
    for reason, names in (
        ("without prediction, counted as empty", result.missing),
        ("without truth, left out", result.ignored),
    ):
        if names:
            console.print(f"{len(names)} {reason}", style="yellow", highlight=False)
