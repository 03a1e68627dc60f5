"""Matching of proposals with objects, and the five losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from cellinfer_kernels.detections import nms
from torch import Tensor
from torch.nn import functional

from cellinfer_training.maskrcnn.boxes import anchors, clip, decode, encode, overlaps
from cellinfer_training.maskrcnn.network import BOX_BINS, BOX_STRIDE, MASK_BINS, MASK_STRIDE, Features, MaskRcnn
from cellinfer_training.maskrcnn.pooling import cut_masks, roi_align

ANCHORS = 256
"""Anchors per image that the proposal loss looks at, at most half of them objects."""
PROPOSALS = 64
"""Proposals per image that the heads are trained on, at most a third of them objects."""
CANDIDATES = 400
"""Best anchors per image that compete for becoming proposals while training."""
PROPOSAL_OVERLAP = 0.55
_NEAR, _FAR = 0.5, 0.3
"""An anchor is an object above the first overlap and background below the second."""
_MATCH = 0.5
_SMALLEST = 3.0
"""Least side (pixels) of an object, or of what a crop has left of it, that is learnt."""


class Objects(NamedTuple):
    """Objects of one image: `boxes` `(n, 4)` and `ids` `(n,)`, their numbers in the label image."""

    boxes: Tensor
    ids: Tensor


class _Chosen(NamedTuple):
    """Proposals that are learnt from: image, box, whether it is an object, and that object's box and number."""

    owners: Tensor
    boxes: Tensor
    found: Tensor
    truth: Tensor
    ids: Tensor


def find_boxes(labels: Tensor) -> Objects:
    """Return the boxes of the objects in a label image `(H, W)`."""
    rows, columns = torch.nonzero(labels, as_tuple=True)
    ids, which = torch.unique(labels[rows, columns], return_inverse=True)
    places = torch.stack([rows, columns], 1).float()
    index = which[:, None].expand(-1, 2)
    empty = places.new_zeros(len(ids), 2)
    low = empty.scatter_reduce(0, index, places, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, places, "amax", include_self=False) + 1
    large = (high - low).amin(1) >= _SMALLEST
    return Objects(torch.cat([low, high], 1)[large], ids[large])


def losses(network: MaskRcnn, features: Features, labels: Tensor) -> dict[str, Tensor]:
    """Return the losses of a batch.

    Parameters
    ----------
    network
        Whose heads are trained; while it evaluates, the choice of anchors and proposals is the same in every call.
    features
        What it said of the images.
    labels
        `(N, H, W)`, object numbers.

    Returns
    -------
    dict of str to Tensor
        Scalars `objectness`, `anchor` (box from anchor), `object`, `box` (from proposal), `mask` and their sum `loss`.
    """
    random = None if network.training else torch.Generator(labels.device).manual_seed(0)
    height, width = labels.shape[1:]
    places = anchors(height, width, labels.device)
    objects = [find_boxes(image) for image in labels]
    parts = _proposal_losses(features, places, objects, random)
    with torch.no_grad():
        boxes = clip(decode(features.numbers, places), height, width)
        chosen = _choose(boxes, features.objectness, objects, random)
    parts |= _head_losses(network, features, chosen, labels)
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


def propose(boxes: Tensor, scores: Tensor, candidates: int, count: int, overlap: float) -> Tensor:
    """Return the indices of the best boxes `(M, 4)` that overlap no better one too much.

    Parameters
    ----------
    boxes, scores
        `(M, 4)` and `(M,)`.
    candidates, count
        How many of the best compete; how many are returned at most.
    overlap
        Largest intersection over union of two that are returned.
    """
    best = scores.topk(min(candidates, len(scores))).indices
    kept = nms(boxes[best].cpu().numpy(), scores[best].cpu().numpy(), overlap)[:count]
    return best[torch.from_numpy(kept).to(best.device)]


def _proposal_losses(
    features: Features, places: Tensor, objects: list[Objects], random: torch.Generator | None
) -> dict[str, Tensor]:
    judged, truth, moved, wanted = [], [], [], []
    for logits, numbers, there in zip(features.objectness, features.numbers, objects, strict=True):
        near, match = _match_anchors(places, there.boxes)
        yes = _draw(near == 1, ANCHORS // 2, random)
        no = _draw(near == 0, ANCHORS - len(yes), random)
        judged.append(logits[torch.cat([yes, no])])
        truth.append(torch.cat([torch.ones_like(logits[yes]), torch.zeros_like(logits[no])]))
        moved.append(numbers[yes])
        wanted.append(encode(there.boxes[match[yes]], places[yes]))
    count = sum(map(len, judged))
    return {
        "objectness": functional.binary_cross_entropy_with_logits(torch.cat(judged), torch.cat(truth)),
        "anchor": _distance(torch.cat(moved), torch.cat(wanted)) / count,
    }


def _match_anchors(places: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Say of each anchor whether it is an object (1), background (0) or neither (-1), and the object nearest to it."""
    if not len(boxes):
        nothing = torch.zeros(len(places), dtype=torch.int64, device=places.device)
        return nothing, nothing
    shared = overlaps(places, boxes)
    best, match = shared.max(1)
    near = torch.full_like(match, -1)
    near[best < _FAR] = 0
    near[best >= _NEAR] = 1
    # Every object has an anchor, however badly it fits.
    own = shared.argmax(0)
    near[own], match[own] = 1, torch.arange(len(boxes), device=places.device)
    return near, match


@torch.no_grad()
def _choose(boxes: Tensor, scores: Tensor, objects: list[Objects], random: torch.Generator | None) -> _Chosen:
    """Choose the proposals to learn from; true boxes are among them, or the heads would wait for the proposals."""
    rows = []
    for owner, (these, logits, there) in enumerate(zip(boxes, scores, objects, strict=True)):
        kept = propose(these, logits, CANDIDATES, CANDIDATES // 2, PROPOSAL_OVERLAP)
        candidates = torch.cat([these[kept], there.boxes])
        candidates = candidates[(candidates[:, 2:] - candidates[:, :2]).amin(1) >= 1]
        if len(there.boxes):
            best, match = overlaps(candidates, there.boxes).max(1)
        else:
            best = candidates.new_zeros(len(candidates))
            match = best.long()
        yes = _draw(best >= _MATCH, PROPOSALS // 3, random)
        no = _draw(best < _MATCH, PROPOSALS - len(yes), random)
        which = torch.cat([yes, no])
        found = torch.arange(len(which), device=which.device) < len(yes)
        truth, ids = candidates[which].clone(), torch.zeros(len(which), dtype=there.ids.dtype, device=which.device)
        truth[found], ids[found] = there.boxes[match[yes]], there.ids[match[yes]]
        rows.append(_Chosen(torch.full_like(which, owner), candidates[which], found, truth, ids))
    return _Chosen(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def _head_losses(network: MaskRcnn, features: Features, chosen: _Chosen, labels: Tensor) -> dict[str, Tensor]:
    owners, boxes, found, truth, ids = chosen
    logits, numbers = network.judge(roi_align(features.coarse, boxes, owners, BOX_BINS, BOX_STRIDE))
    parts = {
        "object": functional.binary_cross_entropy_with_logits(logits, found.float()),
        "box": _distance(numbers[found], encode(truth, boxes)[found]) / max(1, len(found)),
        "mask": features.fine.new_zeros(()),
    }
    if found.any():
        owners, boxes, ids = owners[found], boxes[found], ids[found]
        drawn = network.draw(roi_align(features.fine, boxes, owners, MASK_BINS, MASK_STRIDE))
        covered = cut_masks(labels, ids, boxes, owners, 2 * MASK_BINS)
        parts["mask"] = functional.binary_cross_entropy_with_logits(drawn, covered)
    return parts


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return functional.smooth_l1_loss(found, wanted, beta=1.0, reduction="sum")


def _draw(which: Tensor, count: int, random: torch.Generator | None) -> Tensor:
    """Return at most `count` indices at which `which` is true, at random."""
    indices = torch.nonzero(which)[:, 0]
    return indices[torch.randperm(len(indices), generator=random, device=which.device)[:count]]
