"""Losses."""

from __future__ import annotations

import torch
from cellinfer.decoders.flows import FACTOR
from torch import Tensor
from torch.nn import functional


def distance_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss of the two fields of the `distance` decoder.

    Parameters
    ----------
    logits
        `(N, 2, H, W)`: foreground, normalised distance.
    target
        `(N, 3, H, W)`: foreground, normalised distance, pixel weight; from `targets.distance_fields`.

    Returns
    -------
    dict of str to Tensor
        Scalars `foreground` (weighted binary cross-entropy), `dice`, `distance` (weighted smooth L1 on the sigmoid)
        and their sum `loss`.
    """
    foreground, distance, weight = target.unbind(1)
    entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], foreground, weight=weight)
    probability = torch.sigmoid(logits[:, 0])
    overlap = (probability * foreground).sum((1, 2))
    dice = 1 - (2 * overlap + 100) / (probability.sum((1, 2)) + foreground.sum((1, 2)) + 100)
    error = functional.smooth_l1_loss(torch.sigmoid(logits[:, 1]), distance, beta=0.1, reduction="none")
    near = weight * (0.3 + foreground)
    parts = {"foreground": entropy, "dice": dice.mean(), "distance": 3.0 * (error * near).mean()}
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


STAR_SCALE = 8.0
"""Pixels of ray per unit of logit, so that logits of a usual nucleus are small numbers."""


def activate_star(logits: Tensor) -> Tensor:
    """Turn logits into what the `star-convex` decoder takes.

    Parameters
    ----------
    logits
        `(N, 1 + rays, h, w)`.

    Returns
    -------
    Tensor
        Same shape: object probability, then distances in input pixels, never negative.
    """
    probability, distances = torch.sigmoid(logits[:, :1]), STAR_SCALE * functional.softplus(logits[:, 1:])
    return torch.cat([probability, distances], dim=1)


def star_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss of the fields of the `star-convex` decoder.

    Parameters
    ----------
    logits
        `(N, 1 + rays, h, w)`: object probability, distances before `activate_star`.
    target
        `(N, 2 + rays, h, w)`: probability, distances in pixels, weight; from `targets.star_fields`.

    Returns
    -------
    dict of str to Tensor
        Scalars `probability` (weighted binary cross-entropy), `distances` (mean error in pixels, where the weight of
        a sample is its object probability, times 0.1), `background` (a push of distances towards 0 where there is no
        object) and their sum `loss`.
    """
    probability, weight = target[:, 0], target[:, -1]
    predicted = activate_star(logits)[:, 1:]
    near = weight * probability
    error = (predicted - target[:, 1:-1]).abs().mean(dim=1)
    parts = {
        "probability": functional.binary_cross_entropy_with_logits(logits[:, 0], probability, weight=weight),
        "distances": 0.1 * (error * near).sum() / (near.sum() + 1.0),
        "background": 1e-3 * (predicted.mean(dim=1) * (probability == 0)).mean(),
    }
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


def semantic_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy of the `semantic` decoder's field, under `loss`.

    Parameters
    ----------
    logits
        `(N, 1, H, W)`: foreground.
    target
        `(N, 2, H, W)`: foreground, weight; from `targets.semantic_fields`.
    """
    foreground, weight = target.unbind(1)
    return {"loss": functional.binary_cross_entropy_with_logits(logits[:, 0], foreground, weight=weight)}


def three_class_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Weighted cross-entropy of the `three-class` decoder's fields, under `loss`.

    Parameters
    ----------
    logits
        `(N, 3, H, W)`: background, interior, boundary, before the softmax.
    target
        `(N, 4, H, W)`: the three classes, weight; from `targets.three_class_fields`.
    """
    entropy = functional.cross_entropy(logits, target[:, :3], reduction="none")
    return {"loss": (entropy * target[:, 3]).mean()}


def flow_loss(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss of the fields of the `flows` decoder, as Cellpose's.

    Parameters
    ----------
    logits
        `(N, 3, H, W)`: flows along rows and columns (5 is one pixel per step), cell probability; deployed as they are.
    target
        `(N, 4, H, W)`: flows of length 1, foreground, weight; from `targets.flow_fields`.

    Returns
    -------
    dict of str to Tensor
        Scalars `flows` (half the weighted mean squared error), `cell` (weighted binary cross-entropy) and their sum
        `loss`.
    """
    foreground, weight = target[:, 2], target[:, 3]
    error = ((logits[:, :2] - FACTOR * target[:, :2]) ** 2).mean(dim=1)
    parts = {
        "flows": 0.5 * (error * weight).mean(),
        "cell": functional.binary_cross_entropy_with_logits(logits[:, 2], foreground, weight=weight),
    }
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}
