"""A small random search for sizes and rates, inside the folds that are learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from cellinfer.errors import InputError
from cellinfer.files import durable

from cellinfer_training.activity.data import ActivityData
from cellinfer_training.activity.learner import Learner, Settings, usual_settings
from cellinfer_training.activity.networks import Architecture

WIDTHS, DEPTHS, LAYERS, DROPOUTS = (100, 300, 600), (2, 3, 4, 5), (1, 2, 3), (0.0, 0.1, 0.2, 0.4)
RATES = (2e-4, 5e-3)
"""Between these the rate is drawn, evenly in its logarithm."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    architecture, settings
        The best ones.
    trials
        A row per trial: what was drawn, and `score`, best first.
    """

    architecture: Architecture
    settings: Settings
    trials: pd.DataFrame


def draw(seed: int, trial: int, settings: Settings, widths: Sequence[int] = WIDTHS) -> tuple[Architecture, Settings]:
    """Draw the sizes and rates of a trial; trial 0 is what is usual."""
    if trial == 0:
        return Architecture(hidden=min(widths, key=lambda width: abs(width - 300))), settings
    random = np.random.default_rng((seed, 31, trial))
    architecture = Architecture(
        hidden=int(random.choice(widths)),
        depth=int(random.choice(DEPTHS)),
        layers=int(random.choice(LAYERS)),
        dropout=float(random.choice(DROPOUTS)),
    )
    rate = float(np.exp(random.uniform(*np.log(RATES))))
    return architecture, replace(settings, rate=rate, first_rate=rate / 10, last_rate=rate / 10)


def search(
    data: ActivityData,
    modalities: Sequence[str],
    fold: int | None,
    folder: Path,
    trials: int = 10,
    inner: int = 1,
    settings: Settings | None = None,
    widths: Sequence[int] = WIDTHS,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> Found:
    """Search for sizes and rates without a look at the fold that is judged on.

    Each trial learns on the folds but two: that which is judged on, which nothing here sees, and one of the others in
    turn, on which it is scored (see `Learner` for the score). A search that was stopped goes on.

    Parameters
    ----------
    data, modalities, device
        See `Learner`.
    fold
        The one that is judged on; None: none is.
    folder
        Where trials are kept, and `search.csv`.
    trials
        How many; the first is what is usual.
    inner
        On how many of the other folds each trial is scored; their mean counts.
    settings
        What is not searched for; its seed is that of the search.
    widths
        To choose from.

    Raises
    ------
    InputError
        If there are too few folds, or no trial.
    """
    usual = settings or usual_settings(modalities)
    usable = data.complete(modalities)
    others = [int(each) for each in np.unique(data.folds[data.folds >= 0]) if each != fold]
    absent = fold is not None and not (data.folds == fold).any()
    if trials < 1 or not 1 <= inner <= len(others) or len(others) < 2 or absent:
        judged = "" if fold is None else f"fold {fold} and "
        raise InputError(
            f"A search needs a trial, {judged}at least two folds, and scores on 1 to {len(others)} of these."
        )
    rows, drawn = [], []
    for trial in range(trials):
        architecture, own = draw(usual.seed, trial, usual, widths)
        scores = []
        for held in others[:inner]:
            training = np.flatnonzero(np.isin(data.folds, others) & (data.folds != held) & usable)
            validation = np.flatnonzero((data.folds == held) & usable)
            place = folder / f"trial-{trial}" / f"fold-{held}"
            learner = Learner(data, modalities, training, validation, place, architecture, own, device)
            learner.run(lambda line: None)
            scores.append(learner.best)
        rows.append({"trial": trial, **asdict(architecture), "rate": own.rate, "score": float(np.mean(scores))})
        drawn.append((architecture, own))
        report(f"trial {trial + 1}/{trials}  score {rows[-1]['score']:.4f}  {architecture}, rate {own.rate:.2g}")
    table = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable", ignore_index=True)
    with durable(folder / "search.csv") as partial:
        table.to_csv(partial, index=False)
    return Found(*drawn[int(table["trial"].iloc[0])], table)
