"""How good a model is on images it was not trained on, through the pipeline that users run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cellinfer.segmentation import segment_image
from cellinfer.sessions import Session
from cellinfer_kernels.matching import average_precision, dsb_thresholds, score_thresholds

from cellinfer_training.data import Sample


@dataclass(frozen=True)
class Score:
    """One image: where it comes from, its diameters (pixels), and average precision at 0.50, 0.55 ... 0.95."""

    name: str
    source: str
    group: str
    diameter: float
    estimated: float
    precision: tuple[float, ...]

    @property
    def map_dsb(self) -> float:
        """Mean over the ten thresholds, as in the Data Science Bowl 2018."""
        return float(np.mean(self.precision))


def assess(session: Session, samples: list[Sample], **options: Any) -> list[Score]:
    """Score a model image by image; object size is estimated from each image, as for a user.

    Parameters
    ----------
    session
        The exported model.
    samples
        Images with labels.
    **options
        Passed to `cellinfer.segmentation.segment_image` (`tta`, `diameter`).
    """
    scores = []
    for sample in samples:
        found = segment_image(sample.image, session, **options)
        precision = average_precision(score_thresholds(sample.labels, found.labels, dsb_thresholds()))
        scores.append(
            Score(
                sample.name, sample.source, sample.group, sample.diameter, found.diameter, tuple(map(float, precision))
            )
        )
    return scores


def summarise(scores: list[Score]) -> dict[str, Any]:
    """Return means over images: of everything, and of each source."""
    sources = sorted({score.source for score in scores})
    return {"all": _means(scores)} | {s: _means([score for score in scores if score.source == s]) for s in sources}


def _means(scores: list[Score]) -> dict[str, float]:
    table = np.array([score.precision for score in scores])
    return {
        "images": len(scores),
        "map_dsb": round(float(table.mean()), 4),
        "ap50": round(float(table[:, 0].mean()), 4),
        "ap75": round(float(table[:, 5].mean()), 4),
    }
