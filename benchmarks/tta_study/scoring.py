"""Every kept network on held-out images, with each kind of views; one row per image, so that scoring can go on."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cellinfer.errors import InputError
from cellinfer.evaluation import evaluate_pair
from cellinfer.segmentation import Merge, segment_image
from cellinfer.sessions import Session, open_session
from cellinfer_training.data import Sample

from benchmarks.tta_study.images import load, spread
from benchmarks.tta_study.plan import VIEWS, Run, Views
from benchmarks.tta_study.training import model_path, read_run

_SCORES = "scores.csv"


@dataclass(frozen=True)
class Score:
    """One image by one network with one kind of views."""

    sha256: str
    step: int
    views: str
    image: str
    family: str
    objects: int
    map_dsb: float
    ap50: float
    seconds: float


def runs_in(out: Path) -> list[Path]:
    """Return the folders of a study's runs.

    Raises
    ------
    InputError
        If there is none.
    """
    found = sorted(path.parent for path in out.glob("*/run.json"))
    if not found:
        raise InputError(f"{out} holds no run of the study: train one first.")
    return found


def run_of(folder: Path) -> Run:
    """Return the settings of the run in a folder."""
    settings = read_run(folder)["settings"]
    return Run(**settings | {"checkpoints": tuple(settings["checkpoints"])})


def score(
    data: Path,
    out: Path,
    views: Sequence[Views] = VIEWS,
    images: int = 40,
    say: Callable[[str], None] = print,
) -> None:
    """Score every network of a study that has no score yet.

    The size of the objects is given (the true median diameter), so that views are all that differs between the rows of
    an image.

    Parameters
    ----------
    data, out
        Folder that holds `dsb2018/`; folder of the study.
    views
        Kinds of views.
    images
        Most held-out images per run, from as many families as there are.
    say
        Told about progress.
    """
    loaded: dict[str, dict[str, Sample]] = {}
    for folder in runs_in(out):
        run = run_of(folder)
        if run.modality not in loaded:
            loaded[run.modality] = {sample.name: sample for sample in load(data, run.modality)}
        held = spread([loaded[run.modality][name] for name in read_run(folder)["held"]], images)
        done = {(s.sha256, s.views, s.image) for s in read_scores(folder)}
        for step in run.checkpoints:
            path = model_path(folder, step)
            if not path.exists():
                say(f"{run.name}: step {step} is not trained yet")
                continue
            session = open_session(path)
            say(f"{run.name}: step {step} on {len(held)} images")
            wanted = [(s, kind) for s in held for kind in views if (session.sha256, kind, s.name) not in done]
            for kind in {kind for _, kind in wanted}:  # what is compiled or loaded at first is not an image's time
                _score(run, session, step, kind, wanted[0][0])
            for sample, kind in wanted:
                _append(folder, _score(run, session, step, kind, sample))


def read_scores(folder: Path) -> list[Score]:
    """Return a run's scores; a torn last row is left out."""
    path = folder / _SCORES
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if None not in row.values()]
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str}
    return [Score(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Score)}) for row in rows]


def _score(run: Run, session: Session, step: int, views: Views, sample: Sample) -> Score:
    merge: Merge = run.merge if views in ("flips", "d4") else "instances"  # only objects tell where to look again
    start = time.perf_counter()
    found = segment_image(sample.image, session, diameter=sample.diameter, tta=views, merge=merge)
    seconds = time.perf_counter() - start
    pair = evaluate_pair(sample.labels, found.labels)
    return Score(
        session.sha256,
        step,
        views,
        sample.name,
        sample.group,
        pair.true_objects,
        round(pair.map_dsb, 6),
        round(pair.ap50, 6),
        round(seconds, 4),
    )


def _append(folder: Path, score: Score) -> None:
    path = folder / _SCORES
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", newline="", encoding="utf-8") as table:
        if torn:
            table.write("\n")
        writer = csv.DictWriter(table, [f.name for f in fields(Score)])
        if table.tell() == 0:
            writer.writeheader()
        writer.writerow(asdict(score))
