"""Networks, each a plain `torch.nn.Module` whose forward pass exports to ONNX as it stands."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class FieldNet(nn.Module):
    """Small residual U-Net that works at half resolution and answers at full resolution.

    Pixels are folded 2 x 2 into channels on the way in (nothing is thrown away) and unfolded on the way out, so the
    costly full-resolution convolutions of a U-Net are absent: about 9,000 multiply-adds per pixel at width 16.
    Skips are added, not concatenated. The input is seen twice, as it is and as its square root, which keeps dim
    objects visible beside bright ones.

    Parameters
    ----------
    outputs
        Scalar fields predicted per pixel, as logits.
    width
        Channels at half resolution; doubled at each of the three coarser levels.
    channels
        Input channels.
    stride
        1 answers at full resolution, 2 at half (one answer for 2 x 2 pixels).

    Notes
    -----
    Input `(N, channels, H, W)` float32 with H and W multiples of 16; output `(N, outputs, H / stride, W / stride)`.
    """

    multiple = 16

    def __init__(self, outputs: int = 2, width: int = 16, channels: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.outputs, self.width = outputs, width
        widths = [width * 2**level for level in range(4)]
        self.fold = nn.PixelUnshuffle(2)
        self.stem = _convolution(8 * channels, width)
        self.encoders = nn.ModuleList(_Residual(w) for w in widths)
        self.downs = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), _pointwise(a, b)) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(_pointwise(b, a) for a, b in pairwise(widths))
        self.decoders = nn.ModuleList(_Residual(w) for w in widths[:-1])
        self.bottom = _Residual(widths[-1])
        unfold = 2 // stride
        self.head = nn.Conv2d(width, unfold**2 * outputs, 3, padding=1)
        self.unfold = nn.PixelShuffle(unfold)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.stem(self.fold(torch.cat([x, torch.sqrt(torch.relu(x) + 1e-4)], dim=1)))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=False):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(self.encoders[-1](x))
        for level in reversed(range(len(skips))):
            x = nn.functional.interpolate(self.ups[level](x), scale_factor=2.0, mode="nearest")
            x = self.decoders[level](x + skips[level])
        return self.unfold(self.head(x))  # type: ignore[no-any-return]


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
