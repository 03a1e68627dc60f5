"""One ONNX file for all of Mask R-CNN.

Torch exports what is a network: the trunk up to its proposals, the box head, the mask head. What lies between, where
the number of objects is only known at run time, is written in ONNX's own text form, and the five are joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from cellinfer.cards import parse_card
from cellinfer.decoders.mask_rcnn import OUTPUTS
from onnx import TensorProto, compose, helper, parser
from torch import Tensor, nn

from cellinfer_training.cards import Provenance, lay_out
from cellinfer_training.export import OPSET, quiet, write_model
from cellinfer_training.maskrcnn.boxes import decode
from cellinfer_training.maskrcnn.comparison import TOLERANCE, difference
from cellinfer_training.maskrcnn.detection import CANDIDATES, Settings, search
from cellinfer_training.maskrcnn.network import BOX_BINS, BOX_STRIDE, MASK_BINS, MASK_STRIDE, MaskRcnn

if TYPE_CHECKING:
    from cellinfer_training.maskrcnn.training import MaskRcnnRecipe

_TILE, _HALO = 512, 64
"""A tile as large as the published crops, since the number of proposals is per tile."""

_PROPOSE = f"""
<ir_version: 10, opset_import: ["" : {OPSET}]>
propose (float[1, F, h, w] coarse, float[M, 4] candidates, float[M] objectness,
         int64[1] proposals, float[1] proposal_overlap)
    => (float[R, 4] proposed, float[R, F, {BOX_BINS}, {BOX_BINS}] box_cut)
<int64[1] most = {{{CANDIDATES}}}, int64[1] flat = {{-1}}, int64[1] front = {{0}}, int64[2] fronts = {{0, 1}},
 int64[1] third = {{2}}, int64[4] x_first = {{1, 0, 3, 2}}> {{
    size = Shape (objectness)
    count = Min (size, most)
    best, order = TopK (objectness, count)
    boxes = Gather (candidates, order)
    all_boxes = Unsqueeze (boxes, front)
    all_scores = Unsqueeze (best, fronts)
    kept = NonMaxSuppression (all_boxes, all_scores, proposals, proposal_overlap)
    column = Gather <axis = 1> (kept, third)
    rows = Reshape (column, flat)
    proposed = Gather (boxes, rows)
    turned = Gather <axis = 1> (proposed, x_first)
    many = Shape (rows)
    owners = ConstantOfShape <value = int64[1] {{0}}> (many)
    box_cut = RoiAlign <coordinate_transformation_mode = "half_pixel", mode = "avg", output_height = {BOX_BINS},
        output_width = {BOX_BINS}, sampling_ratio = 2, spatial_scale = {1 / BOX_STRIDE}> (coarse, turned, owners)
}}
"""
_SELECT = f"""
<ir_version: 10, opset_import: ["" : {OPSET}]>
select (float[1, G, h, w] fine, float[R, 4] judged, float[R] certainty,
        float[1] overlap, float[1] confidence)
    => (float[K, 4] boxes, float[K] scores, float[K, G, {MASK_BINS}, {MASK_BINS}] mask_cut)
<int64[1] flat = {{-1}}, int64[1] front = {{0}}, int64[2] fronts = {{0, 1}}, int64[1] third = {{2}},
 int64[4] x_first = {{1, 0, 3, 2}}> {{
    most = Shape (certainty)
    all_boxes = Unsqueeze (judged, front)
    all_scores = Unsqueeze (certainty, fronts)
    kept = NonMaxSuppression (all_boxes, all_scores, most, overlap, confidence)
    column = Gather <axis = 1> (kept, third)
    rows = Reshape (column, flat)
    boxes = Gather (judged, rows)
    scores = Gather (certainty, rows)
    turned = Gather <axis = 1> (boxes, x_first)
    many = Shape (rows)
    owners = ConstantOfShape <value = int64[1] {{0}}> (many)
    mask_cut = RoiAlign <coordinate_transformation_mode = "half_pixel", mode = "avg", output_height = {MASK_BINS},
        output_width = {MASK_BINS}, sampling_ratio = 2, spatial_scale = {1 / MASK_STRIDE}> (fine, turned, owners)
}}
"""


class _Trunk(nn.Module):
    """Image to feature maps and scored candidates."""

    def __init__(self, network: MaskRcnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return search(self.network, image)


class _BoxHead(nn.Module):
    """Proposals to boxes and scores."""

    def __init__(self, network: MaskRcnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, cut: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
        logits, numbers = self.network.judge(cut)
        return decode(numbers, proposed), torch.sigmoid(logits)


class _MaskHead(nn.Module):
    """Boxes to masks."""

    def __init__(self, network: MaskRcnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, cut: Tensor) -> Tensor:
        return torch.sigmoid(self.network.draw(cut))


def export_mask_rcnn(network: MaskRcnn, description: Mapping[str, Any], path: Path) -> float:
    """Write a network as ONNX with its card inside, and the card beside it as YAML.

    Parameters
    ----------
    network
        Trained, or not.
    description
        The card, see `describe_mask_rcnn`.
    path
        The `.onnx` file to write; its card goes to the same name with `.yaml`.

    Returns
    -------
    float
        How far onnxruntime is from torch, see `cellinfer_training.maskrcnn.comparison.difference`.

    Raises
    ------
    RuntimeError
        If that exceeds `cellinfer_training.maskrcnn.comparison.TOLERANCE`; nothing is left behind then.
    """
    card = parse_card(description, path.stem)
    network = network.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return write_model(
        build_graph(network, len(card.channels)), description, path, lambda file: difference(network, file), TOLERANCE
    )


def build_graph(network: MaskRcnn, channels: int) -> onnx.ModelProto:
    """Return the one graph: `image` and thresholds (which have defaults) to `boxes`, `scores`, `masks`."""
    rows, columns = (network.multiple * torch.export.Dim(name) for name in ("rows", "columns"))
    proposals, objects = torch.export.Dim("proposals_kept"), torch.export.Dim("objects")
    half = network.features // 2
    trunk = _exported(
        _Trunk(network),
        {"image": torch.zeros(1, channels, 4 * network.multiple, 8 * network.multiple)},
        ["coarse", "fine", "candidates", "objectness"],
        ({2: rows, 3: columns},),
    )
    box_head = _exported(
        _BoxHead(network),
        {"box_cut": torch.zeros(3, network.features, BOX_BINS, BOX_BINS), "proposed": torch.ones(3, 4)},
        ["judged", "certainty"],
        ({0: proposals}, {0: proposals}),
    )
    mask_head = _exported(
        _MaskHead(network), {"mask_cut": torch.zeros(3, half, MASK_BINS, MASK_BINS)}, ["masks"], ({0: objects},)
    )
    whole = trunk
    for name, part in {
        "propose": parser.parse_model(_PROPOSE),
        "box": box_head,
        "select": parser.parse_model(_SELECT),
        "mask": mask_head,
    }.items():
        whole = _joined(whole, part, name)
    del whole.opset_import[1:]  # the same one, once for each part
    del whole.graph.value_info[:]  # the parts' names of unknown lengths mean different lengths
    _give_defaults(whole, Settings())
    return whole


def describe_mask_rcnn(
    recipe: MaskRcnnRecipe, evaluation: Mapping[str, Any], provenance: Provenance | None = None
) -> dict[str, Any]:
    """Return the card, as `cellinfer_training.cards.describe` does, for a network that gives objects."""
    objects = {"type": "index", "id": "object", "size": {"min": 0}}
    corners = {"type": "channel", "channel_names": ["top", "left", "bottom", "right"]}
    side = [{"type": "space", "id": axis, "size": 2 * MASK_BINS} for axis in "yx"]
    axes = dict(zip(OUTPUTS, ([objects, corners], [objects], [objects, *side]), strict=True))
    outputs = [{"id": name, "axes": axes[name], "data": {"type": "float32"}} for name in OUTPUTS]
    running = {
        "decoder": {"kind": "mask-rcnn", "options": Settings()._asdict()},
        "multiple": MaskRcnn.multiple,
        "tile": _TILE,
        "halo": _HALO,
    }
    return lay_out(recipe, outputs, running, evaluation, provenance)


def _exported(
    part: nn.Module, examples: Mapping[str, Tensor], outputs: list[str], dynamic: tuple[dict[int, Any], ...]
) -> onnx.ModelProto:
    with quiet():
        program = torch.onnx.export(
            part.eval(),
            tuple(examples.values()),
            input_names=list(examples),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _joined(first: onnx.ModelProto, second: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """Connect the second graph's inputs with the first's outputs of equal name."""
    second = compose.add_prefix(second, f"{prefix}_", rename_inputs=False, rename_outputs=False)
    second.ir_version = first.ir_version
    wanted = {value.name for value in second.graph.input}
    shared = [value.name for value in first.graph.output if value.name in wanted]
    return compose.merge_models(first, second, io_map=[(name, name) for name in shared])


def _give_defaults(model: onnx.ModelProto, settings: Settings) -> None:
    """Let every threshold have its published value unless another is given."""
    for name, value in settings._asdict().items():
        kind = TensorProto.INT64 if isinstance(value, int) else TensorProto.FLOAT
        model.graph.initializer.append(helper.make_tensor(name, kind, [1], [value]))
