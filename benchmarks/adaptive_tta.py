"""What adaptive test-time augmentation gains and costs, against one view and all eight, on validation images.

    python benchmarks/adaptive_tta.py DATA --model nuclei --images 40

`DATA` holds `dsb2018/` and `bbbc039/`. Only images are used whose families were not trained on. Every image is
segmented in turn with one view, adaptively, and with all eight views, end to end from pixels to labels: once with the
diameter estimated, as for a single image, and once with it given, as in a plate run. The gain of a view set is that in
mAP_DSB; the one view it is measured against is the mean over the eight symmetries of the image, because the accident of
how an image lies is larger than what views gain. Adaptive views are likewise scored on all eight turned images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from _peers import machine
from cellinfer.segmentation import Tta, estimate_diameter, segment_image
from cellinfer.segmentation._adaptive import FIRST
from cellinfer.sessions import Session, open_session
from cellinfer_kernels.matching import average_precision, dsb_thresholds, score_thresholds
from cellinfer_kernels.views import D4, augment
from cellinfer_training.data import Sample
from cellinfer_training.recipes import RECIPES, load, split

KINDS: tuple[Tta, ...] = ("none", "adaptive", "d4")


def map_dsb(session: Session, image: Any, truth: Any, diameter: float, tta: Tta) -> float:
    """Score one image in one way."""
    found = segment_image(image, session, diameter=diameter, tta=tta)
    return float(np.mean(average_precision(score_thresholds(truth, found.labels, dsb_thresholds()))))


def scores_of(session: Session, sample: Sample) -> dict[str, float]:
    """Score an image: one view and adaptive views as the mean over its eight symmetries, all eight views once."""
    diameter = estimate_diameter(sample.image, session) or session.card.diameter
    turned = [(augment(sample.image, view), augment(sample.labels, view)) for view in D4]
    found = {
        tta: float(np.mean([map_dsb(session, image, truth, diameter, tta) for image, truth in turned]))
        for tta in ("none", "adaptive")
    }
    return found | {"d4": map_dsb(session, sample.image, sample.labels, diameter, "d4")}


def seconds_of(session: Session, sample: Sample, diameter: float | None) -> dict[str, float]:
    """Time each way once, in turn."""
    found = {}
    for tta in KINDS:
        started = time.perf_counter()
        segment_image(sample.image, session, diameter=diameter, tta=tta)
        found[tta] = time.perf_counter() - started
    return found


def share_asked(session: Session, sample: Sample) -> float:
    """Return the share of objects that more than the first views were asked about."""
    found = segment_image(sample.image, session, tta="adaptive")
    assert found.views is not None
    return float(np.mean(found.views > len(FIRST))) if found.views.size else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "adaptive_tta.json")
    given = parser.parse_args()
    session = open_session(given.model, "cpu", 1)
    recipe = RECIPES.get(session.card.name, RECIPES["nuclei"])
    _, held = split(load(given.data, recipe), recipe)
    order = np.random.default_rng(0).permutation(len(held))[: given.images]
    samples = [held[index] for index in order]
    seconds_of(session, samples[0], None)  # compiles kernels

    scores = [scores_of(session, sample) for sample in samples]
    mean = {tta: float(np.mean([one[tta] for one in scores])) for tta in KINDS}
    gains = {tta: np.array([one[tta] - one["none"] for one in scores]) for tta in KINDS[1:]}
    times: dict[str, dict[str, float]] = {}
    for name in ("estimated", "given"):
        rows = [seconds_of(session, s, None if name == "estimated" else s.diameter) for s in samples]
        times[name] = {tta: float(np.sum([row[tta] for row in rows])) for tta in KINDS}
    result = {
        "model": {"name": session.card.name, "sha256": session.sha256},
        "images": len(samples),
        "map_dsb": mean,
        "gain": {tta: float(gain.mean()) for tta, gain in gains.items()},
        "gain_standard_error": {tta: float(gain.std() / np.sqrt(len(gain))) for tta, gain in gains.items()},
        "share_of_d4_gain": float(gains["adaptive"].mean() / gains["d4"].mean()),
        "objects_asked_about_again": float(np.mean([share_asked(session, sample) for sample in samples])),
        "seconds": times,
        "times_single_view": {
            name: {tta: total[tta] / total["none"] for tta in KINDS[1:]} for name, total in times.items()
        },
        "machine": machine(),
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
