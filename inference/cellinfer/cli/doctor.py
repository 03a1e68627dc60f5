"""`cellinfer doctor`: say whether this installation is fit to run."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Look at packages, devices, kernels and models; say what is wrong and what to do."""
    from rich.console import Console
    from rich.markup import escape

    from cellinfer.cli._shared import announce_compilation
    from cellinfer.doctor import examine

    announce_compilation()
    console = Console(highlight=False, soft_wrap=True)
    findings = examine()
    for finding in findings:
        mark = "[green]ok [/]" if finding.good else "[bold red]BAD[/]"
        console.print(f"{mark} [bold]{escape(finding.topic)}[/]: {escape(finding.text)}")
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)
