"""Tables, plots and one JSON file of all that a study holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cellinfer.files import durable
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks._peers import machine
from benchmarks.tta_study.images import DIAMETER
from benchmarks.tta_study.plan import PUBLISHED, Run
from benchmarks.tta_study.scoring import Score, read_scores, run_of, runs_in
from benchmarks.tta_study.summary import Gain, findings, last_of_each, paired, summarise
from benchmarks.tta_study.training import read_run

_PACKAGES = ("cellinfer", "numpy", "numba", "onnxruntime", "torch", "opencv-python-headless")
_COLOURS = {"flips": "tab:blue", "d4": "tab:green", "adaptive": "tab:orange"}
_LOSERS = 10


def report(out: Path, folder: Path | None = None) -> Path:
    """Write `tta_study.md`, `tta_study.json`, `tta_study_images.png` and `tta_study_epochs.png`.

    Parameters
    ----------
    out
        Folder of the study.
    folder
        Where to; None takes that of the study.

    Returns
    -------
    Path
        The Markdown file.
    """
    folder = folder or out
    runs = {path: run_of(path) for path in runs_in(out)}
    scores = {path: read_scores(path) for path in runs}
    gains = [
        gain for path, run in runs.items() for gain in summarise(run, len(read_run(path)["training"]), scores[path])
    ]
    content = {
        "study": "test-time augmentation, after Moshkov et al. 2020, Sci Rep 10:5068",
        "diameter": DIAMETER,
        "published": PUBLISHED,
        "found": findings(gains),
        "gains": [asdict(gain) for gain in gains],
        "runs": {run.name: read_run(path) | {"models": _digests(scores[path])} for path, run in runs.items()},
        "scores": {run.name: [asdict(score) for score in scores[path]] for path, run in runs.items()},
        "versions": {package: version(package) for package in _PACKAGES},
        "machine": machine(),
    }
    with durable(folder / "tta_study.json") as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    named = {run.name: scores[path] for path, run in runs.items()}
    _save(_draw_images(named, gains), folder / "tta_study_images.png")
    _save(_draw_epochs(gains), folder / "tta_study_epochs.png")
    path = folder / "tta_study.md"
    with durable(path) as partial:
        partial.write_text(_markdown(list(runs.values()), named, gains, content), encoding="utf-8")
    return path


def _digests(scores: Sequence[Score]) -> dict[str, str]:
    return {str(score.step): score.sha256 for score in scores}


def _markdown(
    runs: Sequence[Run], scores: dict[str, list[Score]], gains: Sequence[Gain], content: dict[str, Any]
) -> str:
    found = content["found"]
    lines = [
        "# Test-time augmentation: the published study and ours",
        "",
        "Losses, learning rates, merging and crops as published (random weights, mirrored and quarter-turned crops; "
        "U-Net: binary cross-entropy, Adam, constant rate 3e-4, views averaged, threshold 0.5; Mask R-CNN: three "
        "stages at 1e-3, 5e-4, 1e-4, objects of the views voted on). Smaller than published: crops of "
        f"{', '.join(map(str, sorted({run.crop for run in runs})))} instead of 512 pixels, first level of "
        f"{', '.join(map(str, sorted({run.width for run in runs})))} channels, fewer steps, our "
        "own small Mask R-CNN instead of a ResNet; gradients are clipped and "
        "forward passes run in bfloat16. Stricter: families of "
        "look-alike images are never divided between training and held-out images. Objects are scaled to "
        f"{DIAMETER:g} pixels by their true median diameter, so that views are all that differs.",
        "",
        "| | the paper | here |",
        "|---|---|---|",
        *(f"| {name} | {said} | {found[name]} |" for name, said in PUBLISHED.items()),
        "",
        "## At the end of training",
        "",
        *_table(last_of_each(gains)),
        "",
        "Intervals: 95 %, bootstrap over families. Cost: time in relation to one view.",
        "",
        "![change of each image](tta_study_images.png)",
        "",
        "## By training",
        "",
        *_table(gains),
        "",
        "![change by epochs](tta_study_epochs.png)",
        "",
        "## Images that lose most",
        "",
        "| run | views | image | one view | merged | change |",
        "|---|---|---|---|---|---|",
        *_worst(scores, gains),
        "",
    ]
    return "\n".join(lines)


def _table(gains: Sequence[Gain]) -> list[str]:
    rows = [
        "| network | images | held out | epochs | views | n | families | one view | merged | change | 95 % | better | "
        "worse | cost |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for g in gains:
        interval = "" if g.interval is None else f"{g.interval.low:+.4f} to {g.interval.high:+.4f}"
        rows.append(
            f"| {g.network} | {g.modality} | {g.held:.0%} | {g.epochs:.1f} | {g.views} | {g.images} | {g.families} | "
            f"{g.single:.4f} | {g.merged:.4f} | {g.mean:+.4f} | {interval} | {g.better:.0%} | {g.worse:.0%} | "
            f"{g.cost:.1f} |"
        )
    return rows


def _worst(scores: dict[str, list[Score]], gains: Sequence[Gain]) -> list[str]:
    pairs = [
        (gain, one, other)
        for gain in last_of_each(gains)
        for one, other in paired(scores[gain.run], gain.step, gain.views)
    ]
    pairs.sort(key=lambda row: row[2].map_dsb - row[1].map_dsb)
    return [
        f"| {gain.run} | {gain.views} | {one.image[:12]} | {one.map_dsb:.3f} | {other.map_dsb:.3f} | "
        f"{other.map_dsb - one.map_dsb:+.3f} |"
        for gain, one, other in pairs[:_LOSERS]
        if other.map_dsb < one.map_dsb
    ]


def _draw_images(scores: dict[str, list[Score]], gains: Sequence[Gain]) -> Figure:
    """One column per run: the change of every image at the last step, and its mean with its interval."""
    last = last_of_each(gains)
    names = list(dict.fromkeys(gain.run for gain in last))
    figure = Figure(figsize=(max(6.0, 1.8 * len(names) + 2), 5), layout="constrained")
    axes = figure.subplots()
    random = np.random.default_rng(0)
    shown: set[str] = set()
    for gain in last:
        kinds = [g.views for g in last if g.run == gain.run]
        place = names.index(gain.run) + 0.26 * (kinds.index(gain.views) - (len(kinds) - 1) / 2)
        delta = np.array([b.map_dsb - a.map_dsb for a, b in paired(scores[gain.run], gain.step, gain.views)])
        colour = _COLOURS.get(gain.views, "tab:gray")
        if len(delta) > 1 and np.ptp(delta) > 0:
            bodies: Any = axes.violinplot(delta, [place], widths=0.25, showextrema=False)["bodies"]
            for body in bodies:
                body.set_color(colour)
                body.set_alpha(0.25)
        axes.plot(place + random.uniform(-0.06, 0.06, len(delta)), delta, ".", color=colour, markersize=4, alpha=0.6)
        errors = None if gain.interval is None else [[gain.mean - gain.interval.low], [gain.interval.high - gain.mean]]
        label = None if gain.views in shown else gain.views
        axes.errorbar(
            place, gain.mean, np.abs(errors) if errors else None, fmt="o", color=colour, capsize=3, label=label
        )
        shown.add(gain.views)
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(range(len(names)), [name.replace("-", "\n") for name in names])
    axes.set(ylabel="change of mAP_DSB", title="Each held-out image at the end of training; mean and 95 % interval")
    axes.grid(axis="y", alpha=0.3)
    if shown:
        axes.legend()
    return figure


def _draw_epochs(gains: Sequence[Gain]) -> Figure:
    """Change and mAP_DSB against epochs: one column per network and modality, one line per split and kind of views."""
    kinds = list(dict.fromkeys((gain.network, gain.modality) for gain in gains)) or [("", "")]
    figure = Figure(figsize=(max(6.0, 4.2 * len(kinds)), 7), layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False)
    styles = dict(zip(sorted({gain.held for gain in gains}), ("-", "--", ":"), strict=False))
    for (top, bottom), (network, modality) in zip(axes.T, kinds, strict=True):
        here = [g for g in gains if (g.network, g.modality) == (network, modality)]
        for held, views in sorted({(g.held, g.views) for g in here}):
            rows = [g for g in here if (g.held, g.views) == (held, views)]
            look = {"linestyle": styles.get(held, "-"), "color": _COLOURS.get(views, "tab:gray"), "marker": "o"}
            epochs = [g.epochs for g in rows]
            top.plot(epochs, [g.mean for g in rows], label=f"{views}, {held:.0%} held out", **look)
            known = [g for g in rows if g.interval is not None]
            if known:
                low, high = zip(*(g.interval for g in known if g.interval is not None), strict=True)
                top.fill_between([g.epochs for g in known], low, high, color=look["color"], alpha=0.08)
            bottom.plot(epochs, [g.merged for g in rows], **look)
            bottom.plot(epochs, [g.single for g in rows], color="0.5", linestyle=look["linestyle"])
        top.axhline(0, color="0.4", linewidth=0.8)
        top.set(title=f"{network}, {modality}", ylabel="change of mAP_DSB")
        bottom.set(xlabel="epochs", ylabel="mAP_DSB (grey: one view)", ylim=(0, 1))
        for place in (top, bottom):
            place.grid(alpha=0.3)
        if here:
            top.legend(fontsize=7)
    return figure


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with durable(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
