"""Networks, each a plain `torch.nn.Module` whose forward pass exports to ONNX as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from cellinfer_training.graphs import widen


def convolution(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalisation and rectification; the size divides by the stride."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=(side - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return as many channels of the same size."""
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
        self.stem = convolution(2 * channels, width, side=6, stride=2)
        self.encoders = nn.ModuleList(Residual(w) for w in widths)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), convolution(a, b, side=1)) for a, b in pairwise(widths)
        )
        self.ups = nn.ModuleList(convolution(b, a, side=1) for a, b in pairwise(widths))
        self.decoders = nn.ModuleList(Residual(w) for w in widths[:-1])
        self.bottom = Residual(widths[-1])
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
    return nn.Sequential(*convolution(inputs, outputs), *convolution(outputs, outputs))


def load_weights(network: nn.Module, path: Path) -> list[str]:
    """Copy the weights of an exported network into a torch one of the same layout.

    Exporting folds each batch normalisation into the convolution before it; here it becomes that convolution followed
    by a normalisation that changes nothing but adds the bias. Before training on, say `Trainer(...,
    frozen_statistics=True)`, or let `settle_statistics` see some images: otherwise the statistics of the first batch
    replace these, and with them what the weights know.

    The first layer of a model for colour starts from that of one for grey images: each colour has a like share in what
    the grey image had, so a grey image in three equal colours gives the same result.

    Parameters
    ----------
    network
        A network of this module.
    path
        ONNX file written by `cellinfer_training.export`.

    Returns
    -------
    list of str
        Names of parameters that the file lacks or has in another shape, left as they were.
    """
    stored = {
        i.name.removeprefix("network."): numpy_helper.to_array(i) for i in widen(onnx.load(path)).graph.initializer
    }
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
        first = next(name for name, _ in network.named_parameters())
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[0] in normalised:
                continue
            value = stored.get(name)
            if name == first and value is not None:
                value = _spread(value, parameter.shape[1])
            if value is None or tuple(value.shape) != tuple(parameter.shape):
                left.append(name)
            else:
                parameter.copy_(torch.from_numpy(value.copy()))
    return left


def _spread(kernel: NDArray[np.float32], inputs: int) -> NDArray[np.float32]:
    """Repeat each input of a kernel `(K, C, h, w)` over as many neighbours as `inputs` has room for, in like shares."""
    share, odd = divmod(inputs, kernel.shape[1])
    return kernel if odd or share < 2 else np.repeat(kernel, share, axis=1) / np.float32(share)


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Sequence[NDArray[np.float32]]) -> None:
    """Give each batch normalisation the statistics of real images, without changing what the network computes.

    Its scale and shift take up the difference. Training with the statistics of batches then begins where the weights
    left off.

    Parameters
    ----------
    network
        A network whose normalisations have made-up statistics, as after `load_weights`.
    batches
        Images, each `(N, C, H, W)` float32.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def observe(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double()
        count = torch.full((values.shape[1],), values.numel() / values.shape[1], dtype=torch.float64)
        sums[norm] += torch.stack([count, values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])  # type: ignore[index]

    training = network.training
    hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
    network.eval()
    for batch in batches:
        network(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    network.train(training)
    for norm, (count, total, squares) in sums.items():
        assert norm.running_mean is not None and norm.running_var is not None
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean * scale)
