"""Tasks: what a network is asked to predict, one per decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cellinfer_training.augment import Targets
from cellinfer_training.loop import Loss
from cellinfer_training.losses import (
    activate_star,
    distance_loss,
    flow_loss,
    semantic_loss,
    star_loss,
    three_class_loss,
)
from cellinfer_training.targets import (
    distance_fields,
    flow_fields,
    semantic_fields,
    star_fields,
    three_class_fields,
)


@dataclass(frozen=True)
class Task:
    """One kind of prediction, from labels to what is deployed.

    Parameters
    ----------
    decoder
        Kind of decoder that turns the output into labels.
    outputs
        Names of the predicted fields.
    targets
        Labels `(H, W)` int32 -> planes `(H / stride, W / stride, K)` float32, the weight of a pixel last.
    loss
        Logits and targets, both with planes second, to parts and their sum under `loss`.
    options
        The decoder's options for a model trained with the recipe's defaults.
    activate
        From logits to what the decoder takes.
    stride
        Input pixels per output pixel.
    scalar
        Whether targets are scalar fields, which may be computed once and warped with the image.
    """

    decoder: str
    outputs: tuple[str, ...]
    targets: Targets
    loss: Loss
    options: Mapping[str, float] = field(default_factory=dict)
    activate: Callable[[Tensor], Tensor] = torch.sigmoid
    stride: int = 1
    scalar: bool = True


TASKS: dict[str, Task] = {
    "distance": Task(
        "distance",
        ("foreground", "distance"),
        distance_fields,
        distance_loss,
        # Chosen on training images: no validation image decided them.
        {"foreground": 0.5, "core": 0.35, "smallest": 0.05, "smallest_core": 0.06},
    ),
    "star-convex": Task(
        "star-convex",
        ("probability", *(f"ray {ray}" for ray in range(32))),
        star_fields,
        star_loss,
        activate=activate_star,
        stride=2,
        scalar=False,
    ),
    "semantic": Task("semantic", ("foreground",), semantic_fields, semantic_loss),
    "three-class": Task(
        "three-class",
        ("background", "interior", "boundary"),
        three_class_fields,
        three_class_loss,
        activate=lambda logits: torch.softmax(logits, dim=1),
        scalar=False,
    ),
    "flows": Task(
        "flows", ("dY", "dX", "cell probability"), flow_fields, flow_loss, activate=lambda logits: logits, scalar=False
    ),
}
