"""The network: a residual feature pyramid, a proposal head on it, and heads for the box and the mask of a proposal."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellinfer_training.maskrcnn.boxes import RATIOS, STRIDES
from cellinfer_training.networks import Residual, convolution

BOX_BINS = 7
MASK_BINS = 14
"""Side of what the mask head is given; its masks have twice that."""
BOX_STRIDE, MASK_STRIDE = 4, 2
"""Image pixels per pixel of the maps from which boxes and masks are cut."""


class Features(NamedTuple):
    """What the network says of whole images; float32.

    Attributes
    ----------
    coarse
        `(N, features, H / 4, W / 4)`: boxes are judged from it.
    fine
        `(N, features / 2, H / 2, W / 2)`: masks are drawn from it.
    objectness
        `(N, M)` logits of the anchors.
    numbers
        `(N, M, 4)`: the object's box described from the anchor, see `boxes.encode`.
    """

    coarse: Tensor
    fine: Tensor
    objectness: Tensor
    numbers: Tensor


class MaskRcnn(nn.Module):
    """Mask R-CNN with one class of objects.

    Parameters
    ----------
    channels
        Input channels.
    width
        Channels at half resolution, doubled at each of the three coarser levels.
    features
        Channels of the pyramid.

    Notes
    -----
    Input `(N, channels, H, W)` float32 with H and W multiples of 16. Pixels are folded 2 x 2 into
    channels first; as in `networks.FieldNet`, the input is seen twice, as it is and as its square root.
    """

    multiple = STRIDES[-1]

    def __init__(self, channels: int = 1, width: int = 16, features: int = 64) -> None:
        super().__init__()
        self.features = features
        widths = [width * 2**level for level in range(4)]
        self.fold = nn.PixelUnshuffle(2)
        self.stem = convolution(8 * channels, width)
        self.stages = nn.ModuleList(nn.Sequential(Residual(w), Residual(w)) for w in widths)
        self.downs = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), convolution(a, b, 1)) for a, b in pairwise(widths))
        self.laterals = nn.ModuleList(convolution(w, features, 1) for w in widths[1:])
        self.smooth = nn.ModuleList(convolution(features, features) for _ in widths[1:])
        self.into_fine = nn.Conv2d(features, features // 2, 1)
        self.fine_lateral = nn.Conv2d(widths[0], features // 2, 1)
        self.fine_smooth = nn.Sequential(nn.ReLU(inplace=True), convolution(features // 2, features // 2))
        self.proposer = convolution(features, features)
        self.objectness = nn.Conv2d(features, len(RATIOS), 1)
        self.numbers = nn.Conv2d(features, 4 * len(RATIOS), 1)
        self.box_head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features * BOX_BINS**2, 4 * features),
            nn.ReLU(inplace=True),
            nn.Linear(4 * features, 4 * features),
            nn.ReLU(inplace=True),
            nn.Linear(4 * features, 5),
        )
        half = features // 2
        self.mask_head = nn.Sequential(
            convolution(half, half),
            convolution(half, half),
            convolution(half, half),
            nn.ConvTranspose2d(half, half, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, 1, 1),
        )
        for last in (self.objectness, self.numbers, self.box_head[-1]):
            nn.init.normal_(last.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.objectness.bias, -3.0)  # type: ignore[arg-type]  # nearly all anchors are background

    def forward(self, image: Tensor) -> Features:
        """Return features and proposals of whole images."""
        x = self.stem(self.fold(torch.cat([image, torch.sqrt(torch.relu(image) + 1e-4)], dim=1)))
        levels = [self.stages[0](x)]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            levels.append(stage(down(levels[-1])))
        pyramid = [lateral(level) for lateral, level in zip(self.laterals, levels[1:], strict=True)]
        for finer, coarser in ((1, 2), (0, 1)):
            pyramid[finer] = pyramid[finer] + _doubled(pyramid[coarser])
        pyramid = [smooth(level) for smooth, level in zip(self.smooth, pyramid, strict=True)]
        fine = self.fine_smooth(self.fine_lateral(levels[0]) + _doubled(self.into_fine(pyramid[0])))
        heads = [self.proposer(level) for level in pyramid]
        objectness = [_by_place(self.objectness(head), 1) for head in heads]
        numbers = [_by_place(self.numbers(head), 4) for head in heads]
        return Features(
            pyramid[0].float(), fine.float(), torch.cat(objectness, 1)[..., 0].float(), torch.cat(numbers, 1).float()
        )

    def judge(self, cut: Tensor) -> tuple[Tensor, Tensor]:
        """Judge proposals.

        Parameters
        ----------
        cut
            `(R, features, 7, 7)` from `Features.coarse`.

        Returns
        -------
        logits : Tensor
            `(R,)`: whether it is an object.
        numbers : Tensor
            `(R, 4)`: the object's box described from the proposal.
        """
        found = self.box_head(cut)
        return found[:, 0].float(), found[:, 1:].float()

    def draw(self, cut: Tensor) -> Tensor:
        """Return mask logits `(R, 28, 28)` of boxes cut from `Features.fine`, `(R, features / 2, 14, 14)`."""
        return self.mask_head(cut)[:, 0].float()  # type: ignore[no-any-return]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _by_place(x: Tensor, count: int) -> Tensor:
    """`(N, A * count, h, w)` to `(N, h * w * A, count)`."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, count)
