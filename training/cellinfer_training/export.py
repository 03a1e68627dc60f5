"""From a trained torch network to one ONNX file with its card inside, proven equal to torch."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from cellinfer.cards import ACTIVITY, EMBEDDING, METADATA_KEY, ActivityCard, EmbeddingCard, parse_card
from cellinfer.golden import golden_result
from cellinfer.sessions import open_any, open_session
from numpy.typing import NDArray
from torch import Tensor, nn

from cellinfer_training.graphs import halve

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between torch and onnxruntime (probabilities) that an export may have."""
ROUNDED = 0.02
"""The same, for weights in 16 bits."""


class Deployed(nn.Module):
    """The network as deployed: probabilities (or whatever its decoder takes), not logits."""

    def __init__(self, network: nn.Module, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.activate = activate

    def forward(self, image: Tensor) -> Tensor:
        """Return what the decoder takes."""
        return self.activate(self.network(image))


def export_model(
    network: nn.Module,
    description: Mapping[str, Any],
    path: Path,
    activate: Callable[[Tensor], Tensor] = torch.sigmoid,
    half: bool = False,
) -> float:
    """Write a network as ONNX with its card inside, and the card beside it as YAML.

    Parameters
    ----------
    network
        Takes `(N, C, H, W)` float32 and returns logits `(N, K, H, W)`.
    description
        The card in the BioImage.IO 0.5 layout; the file digest and golden result are added here.
    path
        The `.onnx` file to write; its card goes to the same name with `.yaml`.
    activate
        From logits to what the decoder takes; becomes part of the graph.
    half
        Whether the file keeps weights in 16 bits, see `graphs.halve`.

    Returns
    -------
    float
        Largest difference between torch and onnxruntime on random input, relative to values above 1.

    Raises
    ------
    RuntimeError
        If the difference exceeds `TOLERANCE`, or `ROUNDED` with weights in 16 bits; nothing is left behind then.
    """
    card = parse_card(description, path.stem)
    deployed = Deployed(network, activate).eval()
    side = 4 * card.multiple
    example = torch.zeros(2, len(card.channels), side, 2 * side)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    with quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["image"],
            output_names=["fields"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: batch, 2: card.multiple * height, 3: card.multiple * width},),
            verbose=False,
        )
    assert program is not None
    model = halve(program.model_proto) if half else program.model_proto
    tolerance = ROUNDED if half else TOLERANCE
    return write_model(model, description, path, lambda partial: _parity(deployed, partial), tolerance)


def write_model(
    model: onnx.ModelProto,
    description: Mapping[str, Any],
    path: Path,
    compare: Callable[[Path], float] | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Write a network with its card; golden result, digest and the YAML beside it are made here.

    Parameters
    ----------
    model
        The network; metadata it has are dropped.
    description, path
        See `export_model`.
    compare
        Given the finished file, returns how far it is from the original; None for a file that was compared before.
    tolerance
        The largest such difference that is accepted.

    Returns
    -------
    float
        The difference; 0 where nothing was compared.

    Raises
    ------
    RuntimeError
        If it exceeds the tolerance; nothing is left behind then.
    """
    partial = path.with_suffix(".partial.onnx")
    try:
        _write(model, description, partial)
        difference = 0.0 if compare is None else compare(partial)
        if not difference <= tolerance:
            raise RuntimeError(f"torch and onnxruntime differ by {difference:.2g} (at most {tolerance:.0e} allowed)")
        complete = _with_golden(description, partial)
        _write(model, complete, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _write_card(complete, path)
    return difference


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter says about itself: packages it could also use, its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def register(path: Path, summary: str) -> None:
    """Enter an exported model in the registry of its folder; its task is that of its card."""
    registry = path.with_name("registry.json")
    table = json.loads(registry.read_text(encoding="utf-8")) if registry.exists() else {}
    table[path.stem] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "summary": summary,
    }
    card = open_any(path, device="cpu", threads=1).card
    if isinstance(card, EmbeddingCard | ActivityCard):
        table[path.stem]["task"] = EMBEDDING if isinstance(card, EmbeddingCard) else ACTIVITY
    registry.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def register_variant(path: Path, name: str, precision: str) -> None:
    """Enter the file of a registered model in another precision; it lies in the registry's folder."""
    registry = path.with_name("registry.json")
    table = json.loads(registry.read_text(encoding="utf-8"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    table[name].setdefault("variants", {})[precision] = {"file": path.name, "sha256": digest}
    registry.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _write(model: onnx.ModelProto, description: Mapping[str, Any], path: Path) -> None:
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    del stripped.metadata_props[:]
    for node in stripped.graph.node:  # the exporter notes the author's file paths on every node
        del node.metadata_props[:]
        node.doc_string = ""
    for value in stripped.graph.value_info:
        del value.metadata_props[:]
    entry = stripped.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(description)
    onnx.checker.check_model(stripped)
    path.write_bytes(stripped.SerializeToString())


@torch.no_grad()
def _parity(deployed: nn.Module, path: Path) -> float:
    session = open_session(path, device="cpu")
    multiple, channels = session.card.multiple, len(session.card.channels)
    random = np.random.default_rng(0)
    batches: list[NDArray[np.float32]] = [
        random.random((n, channels, a * multiple, b * multiple), np.float32)
        for n, a, b in ((1, 4, 4), (3, 9, 5), (2, 1, 2))
    ]
    pairs = [(session.run(batch), deployed(torch.from_numpy(batch)).numpy()) for batch in batches]
    return max(float((np.abs(found - true) / np.maximum(1, np.abs(true))).max()) for found, true in pairs)


def _with_golden(description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    complete: dict[str, Any] = json.loads(json.dumps(description))
    session = open_any(path, device="cpu")
    complete["config"]["cellinfer"]["golden"] = golden_result(session)
    complete["timestamp"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return complete


def _write_card(description: Mapping[str, Any], path: Path) -> None:
    complete = dict(description)
    complete["weights"] = {
        "onnx": {
            "source": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "opset_version": OPSET,
        }
    }
    path.with_suffix(".yaml").write_text(yaml.safe_dump(complete, sort_keys=False, width=110), encoding="utf-8")
