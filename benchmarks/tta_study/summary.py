"""From scores per image to what the study says: gains with intervals, and the paper's findings beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.tta_study.plan import Run
from benchmarks.tta_study.scoring import Score

_RESAMPLES = 10_000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """What views change for one network at one step, over the same images with and without.

    Attributes
    ----------
    run, network, modality, held
        Which run.
    step, epochs
        Optimiser steps, and how often each training image was seen on average.
    views
        Kind of views.
    images, families
        How many were scored.
    single, merged, mean
        Mean mAP_DSB of one view, of merged views, and their difference.
    interval
        Of the mean, by bootstrap over families; None for a single family.
    better, worse
        Shares of images that rise and fall.
    cost
        Time in relation to one view.
    """

    run: str
    network: str
    modality: str
    held: float
    step: int
    epochs: float
    views: str
    images: int
    families: int
    single: float
    merged: float
    mean: float
    interval: Interval | None
    better: float
    worse: float
    cost: float


def summarise(run: Run, training_images: int, scores: Sequence[Score]) -> list[Gain]:
    """Return the gains of one run by step and views; images that lack a score of either side are left out."""
    gains = []
    for step, views in sorted({(s.step, s.views) for s in scores if s.views != "none"}):
        pairs = paired(scores, step, views)
        if not pairs:
            continue
        single = np.array([one.map_dsb for one, _ in pairs])
        merged = np.array([other.map_dsb for _, other in pairs])
        families = [one.family for one, _ in pairs]
        delta = merged - single
        gains.append(
            Gain(
                run.name,
                run.network,
                run.modality,
                run.held,
                step,
                step * run.batch / training_images,
                views,
                len(pairs),
                len(set(families)),
                float(single.mean()),
                float(merged.mean()),
                float(delta.mean()),
                bootstrap(delta, families),
                float((delta > 0).mean()),
                float((delta < 0).mean()),
                sum(other.seconds for _, other in pairs) / max(1e-9, sum(one.seconds for one, _ in pairs)),
            )
        )
    return gains


def paired(scores: Sequence[Score], step: int, views: str) -> list[tuple[Score, Score]]:
    """Return each image's score with one view and with these, by the network that was scored last at this step."""
    here = [s for s in scores if s.step == step]
    newest = here[-1].sha256 if here else ""
    table = {(s.views, s.image): s for s in here if s.sha256 == newest}
    names = sorted(image for kind, image in table if kind == views and ("none", image) in table)
    return [(table["none", name], table[views, name]) for name in names]


def bootstrap(values: NDArray[np.float64], families: Sequence[str], seed: int = 0) -> Interval | None:
    """Return the 95 % interval of a mean over images when families, not images, are drawn.

    Images of one family resemble each other, so drawing images would promise more than was measured.

    Parameters
    ----------
    values
        `(n,)`, one per image.
    families
        Family of each image.
    seed
        Of the resampling.
    """
    _, owner = np.unique(list(families), return_inverse=True)
    count = int(owner.max()) + 1
    if count < 2:
        return None
    sums, sizes = np.bincount(owner, values), np.bincount(owner)
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))


def findings(gains: Sequence[Gain]) -> dict[str, str]:
    """Say what we find where the paper found something; keys as in `plan.PUBLISHED`."""
    return {
        "mask r-cnn": _at_the_end([g for g in gains if g.network == "maskrcnn"]),
        "u-net": _by_training([g for g in gains if g.network == "unet"]),
        "images": _losers(gains),
    }


def last_of_each(gains: Sequence[Gain]) -> list[Gain]:
    """Return the gains at the last step of each run."""
    last = {gain.run: max(g.step for g in gains if g.run == gain.run) for gain in gains}
    return [gain for gain in gains if gain.step == last[gain.run]]


def _at_the_end(gains: Sequence[Gain]) -> str:
    rows = [g for g in last_of_each(gains) if g.views == "flips"]
    return "; ".join(f"{g.modality}, {g.held:.0%} held out: {_signed(g)}" for g in rows) or "not measured"


def _by_training(gains: Sequence[Gain]) -> str:
    said = []
    for name in dict.fromkeys(g.run for g in gains):
        rows = [g for g in gains if g.run == name and g.views == "flips"]
        if rows:
            course = ", ".join(f"{g.mean:+.4f} after {g.epochs:.1f} epochs (mAP {g.single:.2f})" for g in rows)
            said.append(f"{rows[0].modality}, {rows[0].held:.0%} held out: {course}")
    return "; ".join(said) or "not measured"


def _losers(gains: Sequence[Gain]) -> str:
    rows = [g for g in last_of_each(gains) if g.views == "flips"]
    return "; ".join(f"{g.run}: {g.worse:.0%} worse, {g.better:.0%} better" for g in rows) or "not measured"


def _signed(gain: Gain) -> str:
    if gain.interval is None:
        return f"{gain.mean:+.4f}"
    return f"{gain.mean:+.4f} ({gain.interval.low:+.4f} to {gain.interval.high:+.4f})"
