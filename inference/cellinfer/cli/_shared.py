"""Options and small helpers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[
    str, typer.Option(help="auto (int8 where the model has it and it is faster here), float32 or int8.")
]
TtaOption = Annotated[
    str,
    typer.Option(
        help="Test-time augmentation: none, flips (6 views), d4 (8 views), or adaptive (2 views, and 2 more where they "
        "disagree)."
    ),
]
MergeOption = Annotated[
    str, typer.Option(help="How views are merged: instances (majority vote) or fields (mean of the network's output).")
]
InvertOption = Annotated[
    bool, typer.Option("--invert", help="Objects are dark on a bright ground: turn dark into bright first.")
]
EdgeOption = Annotated[str, typer.Option(help="Cells whose nucleus touches the edge of the field: drop or keep.")]
PatternOption = Annotated[
    str | None,
    typer.Option(
        help="Regular expression for file names, with the groups well (or row and col), site, channel, z, time."
    ),
]
LayoutOption = Annotated[str, typer.Option(help="Plate layout; auto recognises it.")]


def parse_channels(pairs: list[str] | None) -> dict[str, str] | None:
    """Read `NEW=FOUND` pairs.

    Raises
    ------
    InputError
        If a pair has no `=`, or two give one new name.
    """
    from cellinfer.errors import InputError

    if not pairs:
        return None
    channels: dict[str, str] = {}
    for pair in pairs:
        new, equals, found = pair.partition("=")
        if not (new and equals and found):
            raise InputError(f"--channel {pair!r} must be NEW=FOUND, for example --channel DNA=2.")
        if new in channels:
            raise InputError(f"--channel names {new!r} twice.")
        channels[new] = found
    return channels


def announce_compilation() -> None:
    """Say once, on the error stream, that kernels are being compiled: the first run on a machine takes longer."""
    from cellinfer_kernels import on_compile

    said: list[str] = []

    def say(kernel: str) -> None:
        if not said:
            typer.echo("compiling kernels for this machine and kind of image (once, up to a minute) ...", err=True)
        said.append(kernel)

    on_compile(say)


@contextmanager
def progress_by_name(stopped: str, *, stays: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each thing that is reported by name, done and total; answer Ctrl-C with one line.

    There is no bar before there is something to report: errors come without one.

    Parameters
    ----------
    stopped
        That line.
    stays
        Whether bars are still to be seen at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=not stays)
    tasks: dict[str, TaskID] = {}
    try:

        def report(name: str, done: int, total: int) -> None:
            bar.start()
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], total=total, completed=done)

        yield report
    except KeyboardInterrupt:
        typer.echo(stopped, err=True)
        raise typer.Exit(130) from None
    finally:
        if bar.live.is_started:
            bar.stop()
