"""Several views of one image, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cellinfer_kernels.consensus import Consensus, agreement, doubt, merge_instances
from cellinfer_kernels.views import VIEWS, merge_probabilities, restore
from numpy.typing import NDArray

from cellinfer.segmentation._network import Network


@dataclass(frozen=True)
class Agreed:
    """Objects that several views were asked about, and how far they agree; see `cellinfer.segmentation.Segmentation`.

    All but `labels` and `uncertainty`, which are `(H, W)`, have one value per object, in ascending order of label.
    """

    labels: NDArray[np.int32]
    votes: NDArray[np.float64]
    views: NDArray[np.int32]
    mean_iou: NDArray[np.float64]
    entropy: NDArray[np.float64]
    uncertainty: NDArray[np.float32]

    @classmethod
    def of(cls, found: Consensus, uncertainty: NDArray[np.float32]) -> Agreed:
        """Take over what a merge found."""
        return cls(
            found.labels,
            found.votes / found.views,
            np.full(len(found.votes), found.views, np.int32),
            found.mean_iou.astype(np.float64),
            found.entropy.astype(np.float64),
            uncertainty,
        )

    def chosen(self, keep: NDArray[np.bool_], labels: NDArray[np.int32]) -> Agreed:
        """Return some of the objects, with a label image that has only these."""
        votes, views, mean_iou, entropy = self.votes[keep], self.views[keep], self.mean_iou[keep], self.entropy[keep]
        return Agreed(labels, votes, views, mean_iou, entropy, self.uncertainty)

    def followed_by(self, other: Agreed, labels: NDArray[np.int32], uncertainty: NDArray[np.float32]) -> Agreed:
        """Return the objects of both, for a label image in which the other's have the higher labels."""
        return Agreed(
            labels,
            np.concatenate([self.votes, other.votes]),
            np.concatenate([self.views, other.views]),
            np.concatenate([self.mean_iou, other.mean_iou]),
            np.concatenate([self.entropy, other.entropy]),
            uncertainty,
        )

    @classmethod
    def nothing(cls, shape: tuple[int, int]) -> Agreed:
        """No object in an image of this shape, and no doubt about that."""
        none = np.empty(0, np.float64)
        return cls(np.zeros(shape, np.int32), none, none.astype(np.int32), none, none, np.zeros(shape, np.float32))


def by_instances(network: Network, pixels: NDArray[np.float32], views: tuple[str, ...]) -> Agreed:
    """Find the objects in each view and let the views vote on them."""
    stack = np.stack([network.labels(pixels, view) for view in views])
    found = merge_instances(stack)
    return Agreed.of(found, doubt(found.labels, stack))


def by_fields(network: Network, pixels: NDArray[np.float32], views: tuple[str, ...]) -> Agreed:
    """Average the network's output over the views; each view alone says how far it agrees with the objects found."""
    labels, stack = averaged(network, pixels, views)
    return Agreed.of(agreement(labels, stack), doubt(labels, stack))


def averaged(
    network: Network, pixels: NDArray[np.float32], views: tuple[str, ...]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the labels of the mean of the views' fields, and the `(N, H, W)` labels of each view."""
    height, width = pixels.shape[1:]
    fields = [network.fields(pixels, view) for view in views]
    each = [
        restore(network.decode(one, (width, height) if VIEWS[view].transpose else (height, width)), view)
        for one, view in zip(fields, views, strict=True)
    ]
    return network.decode(merge_probabilities(fields, views), (height, width)), np.stack(each)
