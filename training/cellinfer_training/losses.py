"""Losses."""

from __future__ import annotations

import torch
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
