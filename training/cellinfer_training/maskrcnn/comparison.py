"""Does an exported file compute what torch does? Compared stage by stage.

Whole results cannot be compared strictly: where two candidates score alike, rounding decides which of them stays, and
with it which of their neighbours. So torch's networks are given what the file had at each stage, and what the file
selected is judged by the rule it had to follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from cellinfer.golden import golden_image
from cellinfer.segmentation import normalise
from cellinfer.sessions import open_session
from numpy.typing import NDArray
from torch import Tensor

from cellinfer_training.maskrcnn.boxes import overlaps
from cellinfer_training.maskrcnn.detection import CANDIDATES, Settings, draw, judge, search
from cellinfer_training.maskrcnn.network import MaskRcnn

TOLERANCE = 1e-3
"""Largest difference that an export may have. Rounding adds up in the heads: masks that differ by 3e-5 were seen."""


class Stages(NamedTuple):
    """What an exported file computes on its way, by the names that its graph gives them."""

    coarse: Tensor
    fine: Tensor
    candidates: Tensor
    objectness: Tensor
    propose_order: Tensor
    propose_rows: Tensor
    judged: Tensor
    certainty: Tensor
    select_rows: Tensor
    boxes: Tensor
    scores: Tensor
    masks: Tensor


def difference(network: MaskRcnn, path: Path) -> float:
    """Return how far a file is from the network it was made of, on the golden and on a random image.

    Parameters
    ----------
    network
        Evaluating, on the CPU.
    path
        The file.

    Returns
    -------
    float
        The largest of: differences between numbers of one stage, relative to them where they exceed 1; intersections
        over union by which a selection kept too much or too little; infinity for a selection in the wrong order.
    """
    card = open_session(path, device="cpu").card
    channels, random = len(card.channels), np.random.default_rng(0)
    golden = normalise(golden_image(), card.percentiles, card.clip)
    images = (
        np.repeat(golden[None, None], channels, axis=1),
        random.random((1, channels, 5 * network.multiple, 9 * network.multiple), np.float32),
    )
    settings = Settings(confidence=0.0)  # every proposal, the unlikely ones too
    session = _open(path)
    return float(
        np.max([_image_difference(network, _stages(session, image, settings), image, settings) for image in images])
    )


def _open(path: Path) -> onnxruntime.InferenceSession:
    """Open a file so that it gives what it computes on its way, too."""
    model = onnx.load(path)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in Stages._fields if name not in known)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _stages(session: onnxruntime.InferenceSession, image: NDArray[np.float32], settings: Settings) -> Stages:
    thresholds = {
        name: np.array([value], np.int64 if isinstance(value, int) else np.float32)
        for name, value in settings._asdict().items()
    }
    found = session.run(list(Stages._fields), {"image": image, **thresholds})
    return Stages(*map(torch.from_numpy, found))


@torch.no_grad()
def _image_difference(network: MaskRcnn, found: Stages, image: NDArray[np.float32], settings: Settings) -> float:
    coarse, fine, candidates, objectness = search(network, torch.from_numpy(image))
    competing = found.objectness.sort(descending=True).values[:CANDIDATES]
    boxes, scores = found.candidates[found.propose_order], found.objectness[found.propose_order]
    if not torch.equal(scores, competing):
        return np.inf
    judged, certainty = judge(network, found.coarse, boxes[found.propose_rows])
    expected = {
        "coarse": coarse,
        "fine": fine,
        "candidates": candidates,
        "objectness": objectness,
        "judged": judged,
        "certainty": certainty,
        "boxes": found.judged[found.select_rows],
        "scores": found.certainty[found.select_rows],
        "masks": draw(network, found.fine, found.boxes),
    }
    differences = [
        *(_apart(getattr(found, name), value) for name, value in expected.items()),
        misfit(boxes, scores, found.propose_rows, settings.proposals, settings.proposal_overlap),
        misfit(
            found.judged,
            found.certainty,
            found.select_rows,
            len(found.certainty),
            settings.overlap,
            settings.confidence,
        ),
    ]
    return float(np.max(differences))  # which, unlike max, is not a number where one of them is not


def misfit(
    boxes: Tensor, scores: Tensor, kept: Tensor, count: int, overlap: float, confidence: float = -np.inf
) -> float:
    """Say how far a selection is from one that non-maximum suppression may make.

    Parameters
    ----------
    boxes, scores
        `(M, 4)` and `(M,)`.
    kept
        `(K,)` indices of what was selected, best first.
    count
        How many were to be selected at most.
    overlap
        Largest intersection over union of two that may both be selected.
    confidence
        Only what scores more than this is selected.

    Returns
    -------
    float
        How far intersections over union are beyond `overlap`, or below it of boxes that were left out for one that
        scores at least as well; infinity if more or less certain ones were selected than asked for, one of them twice,
        or a worse one earlier than a better.
    """
    best = scores[kept]
    if (
        len(kept) > count
        or len(set(kept.tolist())) < len(kept)
        or bool((best.diff() > 0).any() | (best <= confidence).any())
    ):
        return np.inf
    left = scores > confidence
    left[kept] = False
    excess = overlaps(boxes[kept], boxes[kept]).fill_diagonal_(0.0) - overlap
    if len(kept) == count and count:  # full: those that score worse than the last never came up
        left &= scores > best[-1]
    covered = overlaps(boxes[left], boxes[kept]).masked_fill_(best[None] < scores[left, None], 0.0)
    short = overlap - (covered.amax(1) if len(kept) else covered.new_zeros(len(covered)))
    return max(0.0, *(float(part.max()) for part in (excess, short) if part.numel()))


def _apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return np.inf
    return float(((found - expected).abs() / expected.abs().clamp(min=1.0)).max()) if found.numel() else 0.0
