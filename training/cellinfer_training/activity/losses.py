"""The loss over many assays of which most were not run on most compounds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MOST = 50.0
"""The largest weight that balance gives hits."""


def masked_logistic_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean logistic loss over what was tested.

    Parameters
    ----------
    logits
        `(n, assays)`
    labels
        `(n, assays)` 1, 0, or NaN where not tested; what is not tested has neither a loss nor a gradient.
    weights
        `(assays,)` how much the hits of each assay count; None: as much as inactives.

    Returns
    -------
    Tensor
        0 where nothing was tested.
    """
    known = ~torch.isnan(labels)
    truth = torch.where(known, labels, torch.zeros_like(labels))
    every = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weights)
    return torch.where(known, every, torch.zeros_like(every)).sum() / known.sum().clamp(min=1)


def hit_weights(labels: NDArray[np.int8], most: float = MOST) -> NDArray[np.float32]:
    """Return weights by which the hits of each assay count as much as its inactives.

    Parameters
    ----------
    labels
        `(n, assays)` of the compounds that are learnt from, and of no others: 1, 0, -1.
    most
        The largest weight; the smallest is 1 / most.

    Returns
    -------
    ndarray of shape (assays,), float32
        1 for an assay without hits or inactives.
    """
    hits, inactives = (labels == 1).sum(0), (labels == 0).sum(0)
    weights = np.ones(labels.shape[1])
    np.divide(inactives, hits, out=weights, where=(hits > 0) & (inactives > 0))
    return weights.clip(1 / most, most).astype(np.float32)
