"""Score a 2048 x 2048 field with 3,000 nuclei at the ten thresholds of mAP_DSB: cellinfer, StarDist, SciPy.

All contestants get the same two label images and must give the same counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _peers import alternate, report
from cellinfer_kernels.matching import Scores, dsb_thresholds, score_thresholds
from numpy.typing import NDArray
from scipy.sparse import coo_array
from stardist.matching import matching as stardist_matching

SIDE, NUCLEI, ROUNDS = 2048, 3000, 7
OURS = "cellinfer"


def nuclei(rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw discs on a jittered grid, and a segmentation that shifts, resizes, loses and invents some of them."""
    grid = int(np.ceil(np.sqrt(NUCLEI)))
    step = SIDE / grid
    truth, pred = np.zeros((2, SIDE, SIDE), np.int32)
    for label in range(1, NUCLEI + 1):
        row, column = divmod(label - 1, grid)
        centre = (np.array([row, column]) + 0.5) * step + rng.uniform(-3, 3, 2)
        radius = rng.uniform(9, 14)
        _disc(truth, centre, radius, label)
        if rng.random() < 0.97:
            _disc(pred, centre + rng.normal(0, 1.5, 2), radius * rng.uniform(0.85, 1.15), label)
    return truth, pred


def _disc(image: NDArray[np.int32], centre: NDArray[np.float64], radius: float, label: int) -> None:
    """Paint a disc, cut off at the border of the image."""
    top, left = np.maximum((centre - radius).astype(int), 0)
    bottom, right = (centre + radius).astype(int) + 2
    window = image[top:bottom, left:right]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    window[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2] = label


def with_scipy(truth: NDArray[np.int32], pred: NDArray[np.int32]) -> NDArray[np.int64]:
    """Score by the usual recipe: a sparse contingency table."""
    ones = np.ones(truth.size, np.int64)
    table = coo_array((ones, (truth.ravel(), pred.ravel()))).tocsr()
    area_true, area_pred = np.asarray(table.sum(1)), np.asarray(table.sum(0))
    pairs = table.tocoo()
    keep = (pairs.coords[0] > 0) & (pairs.coords[1] > 0)
    shared = pairs.data[keep]
    iou = shared / (area_true[pairs.coords[0][keep]] + area_pred[pairs.coords[1][keep]] - shared)
    return np.array([np.count_nonzero(iou >= threshold) for threshold in dsb_thresholds()])


def check(answers: dict[str, Any]) -> None:
    """Refuse to compare times of different answers."""
    ours: Scores = answers[OURS]
    peer = answers["stardist"]
    assert ours.tp.tolist() == [one.tp for one in peer] == answers["scipy.sparse"].tolist()
    assert ours.fp.tolist() == [one.fp for one in peer]
    assert ours.fn.tolist() == [one.fn for one in peer]
    np.testing.assert_allclose(ours.matched_iou_sum, [one.mean_matched_score * one.tp for one in peer], rtol=1e-4)


def main() -> None:
    truth, pred = nuclei(np.random.default_rng(0))
    thresholds = dsb_thresholds()
    contestants = {
        OURS: lambda: score_thresholds(truth, pred, thresholds, strict=False),
        "scipy.sparse": lambda: with_scipy(truth, pred),
        "stardist": lambda: stardist_matching(truth, pred, thresh=thresholds.tolist()),
    }
    seconds, answers = alternate(contestants, ROUNDS)
    check(answers)
    report(
        "matching",
        f"{SIDE} x {SIDE} pixels, {NUCLEI} nuclei, {len(thresholds)} thresholds",
        OURS,
        seconds,
        ["cellinfer", "numpy", "numba", "scipy", "stardist"],
        true_positives=answers[OURS].tp.tolist(),
    )


if __name__ == "__main__":
    main()
