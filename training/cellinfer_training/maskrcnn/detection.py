"""The whole of Mask R-CNN in torch, as the exported file computes it: what the export is compared with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from cellinfer.decoders.mask_rcnn import Detections
from numpy.typing import NDArray
from torch import Tensor, nn

from cellinfer_training.maskrcnn.boxes import anchors, clip, decode
from cellinfer_training.maskrcnn.losses import propose
from cellinfer_training.maskrcnn.network import BOX_BINS, BOX_STRIDE, MASK_BINS, MASK_STRIDE, MaskRcnn
from cellinfer_training.maskrcnn.pooling import roi_align

CANDIDATES = 2000
"""Best anchors of an image that compete for becoming proposals."""


class Settings(NamedTuple):
    """Published thresholds: see `cellinfer.decoders.mask_rcnn.find_objects`."""

    confidence: float = 0.5
    overlap: float = 0.35
    proposals: int = 512
    proposal_overlap: float = 0.55


@torch.no_grad()
def detect(network: MaskRcnn, image: Tensor, settings: Settings | None = None) -> Detections:
    """Find the objects of one image.

    Parameters
    ----------
    network
        Evaluating.
    image
        `(1, C, H, W)` float32, normalised; H and W multiples of 16.
    settings
        Thresholds; None takes the published ones.

    Returns
    -------
    Detections
        Boxes in pixels, best first.
    """
    settings = settings or Settings()
    coarse, fine, boxes, scores = search(network, image)
    proposals = boxes[propose(boxes, scores, CANDIDATES, settings.proposals, settings.proposal_overlap)]
    boxes, scores = judge(network, coarse, proposals)
    sure = scores > settings.confidence
    boxes, scores = boxes[sure], scores[sure]
    kept = propose(boxes, scores, len(boxes), settings.proposals, settings.overlap)
    boxes, scores = boxes[kept], scores[kept]
    return Detections(boxes.numpy(), scores.numpy(), draw(network, fine, boxes).numpy())


def search(network: MaskRcnn, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the coarse and fine feature maps of one image, its candidates `(M, 4)` and how likely each is."""
    features = network(image)
    height, width = image.shape[2:]
    boxes = clip(decode(features.numbers[0], anchors(height, width)), height, width)
    return features.coarse, features.fine, boxes, torch.sigmoid(features.objectness[0])


def judge(network: MaskRcnn, coarse: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes that proposals `(R, 4)` become, and their scores."""
    logits, numbers = network.judge(roi_align(coarse, proposals, _first(proposals), BOX_BINS, BOX_STRIDE))
    return decode(numbers, proposals), torch.sigmoid(logits)


def draw(network: MaskRcnn, fine: Tensor, boxes: Tensor) -> Tensor:
    """Return the masks in boxes `(K, 4)`."""
    return torch.sigmoid(network.draw(roi_align(fine, boxes, _first(boxes), MASK_BINS, MASK_STRIDE)))


class Detector(nn.Module):
    """The network with the inputs and outputs of its exported file."""

    def __init__(self, network: MaskRcnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, **settings: NDArray[Any]) -> tuple[Tensor, ...]:
        """Return boxes, scores and masks; settings, see `Settings`, are arrays of one number."""
        given = {name: value.item() for name, value in settings.items()}
        return tuple(torch.from_numpy(part) for part in detect(self.network, image, Settings(**given)))


def _first(boxes: Tensor) -> Tensor:
    return torch.zeros(len(boxes), dtype=torch.int64)
