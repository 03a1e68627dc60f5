"""Networks, each a plain `torch.nn.Module` whose forward pass exports to ONNX as it stands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=(side - 1) // 2, bias=False),
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

    The first convolution has stride 2 and sees 6 x 6 pixels, the last answers for 2 x 2 pixels at a time, so the
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
        self.stem = _convolution(2 * channels, width, side=6, stride=2)
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
        x = self.stem(torch.cat([x, torch.sqrt(torch.relu(x) + 1e-4)], dim=1))
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


class UNet(nn.Module):
    """The plain U-Net (Ronneberger et al. 2015): two convolutions per level, concatenated skips, full resolution.

    The baseline of the test-time-augmentation study; costs many times what `FieldNet` does.

    Parameters
    ----------
    outputs, width, channels
        Fields predicted per pixel, as logits; channels at full resolution, doubled at each of four coarser levels;
        input channels.

    Notes
    -----
    Input `(N, channels, H, W)` float32 with H and W multiples of 16; output `(N, outputs, H, W)`.
    """

    multiple = 16

    def __init__(self, outputs: int = 1, width: int = 16, channels: int = 1) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.encoders = nn.ModuleList(_double(a, b) for a, b in pairwise([channels, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.decoders = nn.ModuleList(_double(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        skips = []
        for encoder in self.encoders[:-1]:
            x = encoder(x)
            skips.append(x)
            x = self.pool(x)
        x = self.encoders[-1](x)
        for level in reversed(range(len(skips))):
            x = self.decoders[level](torch.cat([skips[level], self.ups[level](x)], dim=1))
        return self.head(x)  # type: ignore[no-any-return]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs))


def load_weights(network: nn.Module, path: Path) -> list[str]:
    """Copy the weights of an exported network into a torch one of the same layout.

    Exporting folds each batch normalisation into the convolution before it; here it becomes that convolution followed
    by a normalisation that changes nothing but adds the bias. Train on with `Trainer(..., frozen_statistics=True)`.

    Parameters
    ----------
    network
        A network of this module.
    path
        ONNX file written by `cellinfer_training.export`.

    Returns
    -------
    list of str
        Names of parameters that the file lacks or has in another shape, left as they were: the first layer, say, of a
        model for colour that starts from one for grey images.
    """
    stored = {i.name.removeprefix("network."): numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    left: list[str] = []
    with torch.no_grad():
        for name, child in network.named_modules():
            if isinstance(child, nn.Sequential):
                for position, (layer, after) in enumerate(pairwise(child)):
                    if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                        if f"{name}.{position}.weight" not in stored:
                            left.append(f"{name}.{position + 1}")
                            continue
                        none = np.zeros(after.num_features, np.float32)  # the exporter leaves out a bias of zero
                        bias = stored.get(f"{name}.{position}.weight_bias", none)
                        if len(bias) != after.num_features:
                            left.append(f"{name}.{position + 1}")
                            continue
                        after.running_mean.zero_()  # type: ignore[union-attr]
                        after.running_var.fill_(1.0)  # type: ignore[union-attr]
                        after.weight.fill_((1.0 + after.eps) ** 0.5)
                        after.bias.copy_(torch.from_numpy(bias.copy()))
        normalised = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[0] in normalised:
                continue
            value = stored.get(name)
            if value is None or tuple(value.shape) != tuple(parameter.shape):
                left.append(name)
            else:
                parameter.copy_(torch.from_numpy(value.copy()))
    return left
