"""Turn network output for a 2048 x 2048 field with 1,500 nuclei into labels: cellinfer's decoders, StarDist.

The output is that of a perfect network: it is computed from the labels of touching discs. StarDist gets the same
polygons as our star-convex decoder, and runs its own suppression and rendering, without its network. The flow decoder
has no polygons to choose from; its time stands beside theirs because it does the same job. Needs the [train] extra.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from _peers import alternate, report
from cellinfer.decoders import decode
from cellinfer_kernels.matching import score_thresholds
from cellinfer_training.targets import flow_fields, star_fields
from numpy.typing import NDArray

SIDE, NUCLEI, ROUNDS = 2048, 1500, 3
RADII = (9.0, 17.0)
STRIDE, PROBABILITY, OVERLAP = 2, 0.5, 0.4
STAR, FLOWS, PEER = "cellinfer star-convex", "cellinfer flows", "stardist"


def nuclei(rng: np.random.Generator) -> NDArray[np.int32]:
    """Place discs at random, as near as touching, none swallowing another."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    placed = np.empty((0, 3))
    reach = int(RADII[1]) + 2
    while len(placed) < NUCLEI:
        row, column, radius = *rng.uniform(reach, SIDE - reach - 1, 2), rng.uniform(*RADII)
        if (np.hypot(placed[:, 0] - row, placed[:, 1] - column) < 0.95 * (placed[:, 2] + radius)).any():
            continue
        placed = np.vstack([placed, [row, column, radius]])
        top, left = int(row) - reach, int(column) - reach
        window = labels[top : top + 2 * reach, left : left + 2 * reach]
        rows, columns = np.ogrid[top : top + 2 * reach, left : left + 2 * reach]
        window[((rows - row) ** 2 + (columns - column) ** 2 <= radius**2) & (window == 0)] = len(placed)
    return labels


def stardist_decoder(star: NDArray[np.float32]) -> Callable[[], NDArray[np.int32]] | None:
    """Return StarDist's suppression and rendering with one thread, or None, with the reason, if it is not installed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when its library is loaded, that is below
    try:
        from stardist.geometry.geom2d import polygons_to_label
        from stardist.nms import non_maximum_suppression
    except ImportError as error:
        print(f"stardist is left out: {error}")
        return None
    probability = np.ascontiguousarray(star[..., 0])
    distances = np.ascontiguousarray(star[..., 1:-1])

    def run() -> NDArray[np.int32]:
        points, scores, kept = non_maximum_suppression(
            distances, probability, grid=(STRIDE, STRIDE), prob_thresh=PROBABILITY, nms_thresh=OVERLAP
        )
        labels: NDArray[np.int32] = polygons_to_label(kept, points, (SIDE, SIDE), prob=scores)
        return labels

    return run


def planes(fields: NDArray[np.float32]) -> NDArray[np.float32]:
    """Leave out the weight, which comes last, and put planes first as a network does."""
    return np.ascontiguousarray(np.moveaxis(fields[..., :-1], -1, 0))


def main() -> None:
    cv2.setNumThreads(1)
    truth = nuclei(np.random.default_rng(0))
    star = star_fields(truth, stride=STRIDE)
    polygons, flows = planes(star), planes(flow_fields(truth))
    flows = flows * np.array([5, 5, 12], np.float32)[:, None, None] - np.array([0, 0, 6], np.float32)[:, None, None]
    options = {"probability": PROBABILITY, "overlap": OVERLAP}
    contestants: dict[str, Callable[[], Any]] = {
        STAR: lambda: decode("star-convex", polygons, 26.0, options, truth.shape, stride=STRIDE),
        FLOWS: lambda: decode("flows", flows, 26.0, {}),
    }
    if peer := stardist_decoder(star):
        contestants[PEER] = peer
    seconds, answers = alternate(contestants, ROUNDS)
    for who, labels in answers.items():
        scores = score_thresholds(truth, labels, [0.9])
        assert (scores.tp[0], scores.fp[0]) == (NUCLEI, 0), who
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    report(
        "decoders",
        f"{SIDE} x {SIDE} pixels, {NUCLEI} nuclei; polygons at half resolution, flows at full",
        STAR,
        seconds,
        ["cellinfer", "numpy", "numba", *([PEER] if peer else [])],
        candidates=int((polygons[0] > PROBABILITY).sum()),
        stardist_to_flows=round(medians[PEER] / medians[FLOWS], 2) if peer else None,
    )


if __name__ == "__main__":
    main()
