"""Small real networks that describe cells, for tests: their features can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cellinfer.cards import METADATA_KEY
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE, FEATURES = 32, 6
_SPACE = [{"type": "space", "id": "y"}, {"type": "space", "id": "x"}]


def describe(channels: tuple[str, ...] = ("any",), **embedding: Any) -> dict[str, Any]:
    """A card that makes sense; `embedding` replaces fields of it."""
    ours: dict[str, Any] = {
        "side": SIDE,
        "range": [-1, 1],
        "box": 40,
        "diameter": None,
        "features": FEATURES,
        "each_channel": True,
        "mask_neighbours": False,
    }
    return {
        "name": "small",
        "version": "1.0.0",
        "description": "A small network that describes cells.",
        "license": "CC0-1.0",
        "inputs": [
            {
                "id": "crops",
                "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(channels)}, *_SPACE],
            }
        ],
        "outputs": [{"id": "features", "axes": [{"type": "batch"}, {"type": "channel"}]}],
        "config": {"cellinfer": {"task": "embedding", "embedding": ours | embedding}},
    }


def weights(channels: int = 1, features: int = FEATURES, seed: int = 3) -> NDArray[np.float32]:
    """Those of the network's one convolution, (features, channels, 5, 5)."""
    return np.random.default_rng(seed).normal(0, 0.3, (features, channels, 5, 5)).astype(np.float32)


def save_embedder(
    path: Path,
    card: dict[str, Any] | None = None,
    *,
    crops: list[int | str] | None = None,
    names: tuple[str, str] = ("crops", "features"),
    kind: int = TensorProto.FLOAT,
    seed: int = 3,
) -> Path:
    """A convolution with stride 4, ReLU, and the mean of each of its maps."""
    card = describe() if card is None else card
    channels = len(card["inputs"][0]["axes"][1]["channel_names"])
    side, features = (card["config"]["cellinfer"]["embedding"][name] for name in ("side", "features"))
    crops = ["n", channels, side, side] if crops is None else crops
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [names[0]], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "weights"], ["maps"], strides=[4, 4]),
            helper.make_node("Relu", ["maps"], ["bent"]),
            helper.make_node("ReduceMean", ["bent", "space"], [names[1]], keepdims=0),
        ],
        "embedder",
        [helper.make_tensor_value_info(names[0], kind, crops)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [crops[0], features])],
        [
            numpy_helper.from_array(weights(channels, features, seed), "weights"),
            numpy_helper.from_array(np.array([2, 3]), "space"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, path)
    return path


def features_of(crops: NDArray[np.float32], seed: int = 3, features: int = FEATURES) -> NDArray[np.float64]:
    """What the network gives for (N, C, S, S), by plain NumPy."""
    kernel = weights(crops.shape[1], features, seed).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(crops.astype(np.float64), (5, 5), axis=(2, 3))[:, :, ::4, ::4]
    return np.maximum(np.einsum("ncyxij,fcij->nfyx", windows, kernel), 0).mean(axis=(2, 3))
