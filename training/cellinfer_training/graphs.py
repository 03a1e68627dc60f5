"""Rewritings of an exported network: equal graphs that run faster in 8 bit, and files of half the size.

None of those for 8 bit changes what the network computes; `rewrite` proves that on random input. Each is left out where
a network does not have the pattern.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

TOLERANCE = 1e-4
"""Largest difference (probabilities) that a rewriting may make."""
_FULL_KERNEL = 16
"""Fewest output channels for which onnxruntime takes its fast 8-bit convolution; with fewer it is twice as slow."""
_LARGE = 256
"""Fewest numbers of a tensor that `halve` keeps in 16 bits."""
_HALF = ".half"


def rewrite(model: ModelProto) -> ModelProto:
    """Return an equal network that quantises and runs better.

    Parameters
    ----------
    model
        A network from `cellinfer_training.export`: one image in, fields out.

    Raises
    ------
    RuntimeError
        If the result is not equal, which means a mistake here.
    """
    result = widen(model)
    _anchor_layout(result)
    _widen_head(result)
    del result.graph.value_info[:]  # shapes of tensors that are no more
    _drop_unused(result)
    onnx.checker.check_model(result)
    difference = _difference(model, result)
    if difference > TOLERANCE:
        raise RuntimeError(f"the rewritten network differs from the exported one by {difference:.2g}")
    return result


def halve(model: ModelProto) -> ModelProto:
    """Return a network that keeps its large weights in 16 bits and widens them when it is loaded.

    The file has half the size; the engine computes in 32 bits, as before and as fast, with weights rounded to 11 bits.

    Parameters
    ----------
    model
        A network with weights in float32.
    """
    result = ModelProto()
    result.CopyFrom(model)
    casts = []
    for tensor in result.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LARGE:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}{_HALF}"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=tensor.name, to=TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def widen(model: ModelProto) -> ModelProto:
    """Return a network whose weights are plain float32 again, under their own names; `halve` undone but for rounding.

    Parameters
    ----------
    model
        A network from `halve`; any other comes back as it is.
    """
    result = ModelProto()
    result.CopyFrom(model)
    casts = {n.input[0]: n for n in result.graph.node if n.op_type == "Cast" and n.input[0].endswith(_HALF)}
    for tensor in result.graph.initializer:
        if (cast := casts.get(tensor.name)) is not None:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, cast.output[0]))
            result.graph.node.remove(cast)
    return result


def before_first_convolution(model: ModelProto) -> list[str]:
    """Return the names of the nodes that lead to the first convolution, itself included."""
    producers = {name: node for node in model.graph.node for name in node.output}
    names: set[str] = set()
    waiting = [_convolutions(model)[0]]
    while waiting:
        node = waiting.pop()
        names.add(node.name)
        waiting += [producers[name] for name in node.input if name in producers]
    return sorted(names)


def after_last_convolution(model: ModelProto) -> list[str]:
    """Return the names of the nodes that follow the last convolution, itself included."""
    nodes = list(model.graph.node)
    first = nodes.index(_convolutions(model)[-1])
    return [node.name for node in nodes[first:]]


def multiply_adds(model: ModelProto, side: int = 256) -> float:
    """Count the multiply-adds of all convolutions, per input pixel.

    Parameters
    ----------
    model
        One image `(N, C, H, W)` in.
    side
        Height and width of the image on which they are counted; one that the network takes.
    """
    model = widen(model)
    observed = ModelProto()
    observed.CopyFrom(model)
    places = {
        node.output[0]: (node.input[1], node.output[0] if node.op_type == "Conv" else node.input[0])
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    }
    del observed.graph.output[:]
    observed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in {place for _, place in places.values()}
    )
    engine = onnxruntime.InferenceSession(observed.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.zeros((1, _channels(model), side, side), np.float32)
    found = engine.run(None, {engine.get_inputs()[0].name: image})
    areas = {
        value.name: array.shape[2] * array.shape[3] for value, array in zip(engine.get_outputs(), found, strict=True)
    }
    total = sum(int(np.prod(_initializer(model, weight).dims)) * areas[place] for weight, place in places.values())
    return float(total / side**2)


def _anchor_layout(model: ModelProto) -> None:
    """Put a 1 x 1 convolution that changes nothing behind the first layer, which stays in floating point.

    Being quantised, it hands the rest on with channels last, the layout of 8-bit kernels; without it the first pooling
    runs in the other one, which takes ten times as long as this convolution.
    """
    graph = model.graph
    first = _convolutions(model)[0]
    activation = next((n for n in graph.node if n.op_type == "Relu" and n.input[0] == first.output[0]), None)
    if activation is None:
        return
    channels = _initializer(model, first.input[1]).dims[0]
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    graph.initializer.append(numpy_helper.from_array(identity, "anchor.weight"))
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == activation.output[0]:
                node.input[place] = "anchored"
    anchor = helper.make_node(
        "Conv", [activation.output[0], "anchor.weight"], ["anchored"], name="anchor", kernel_shape=[1, 1]
    )
    graph.node.insert(list(graph.node).index(activation) + 1, anchor)


def _widen_head(model: ModelProto) -> None:
    """Give the last convolution idle outputs, up to the number from which the fast kernel is taken."""
    head = _convolutions(model)[-1]
    tensors = [_initializer(model, name) for name in head.input[1:]]
    outputs = tensors[0].dims[0]
    if outputs >= _FULL_KERNEL:
        return
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        idle = np.zeros((_FULL_KERNEL - outputs, *values.shape[1:]), values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.concatenate([values, idle]), tensor.name))
    wanted = head.output[0]
    head.output[0] = "widened"
    bounds = {"widened.first": 0, "widened.stop": outputs, "widened.axis": 1}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.int64), name) for name, value in bounds.items()
    )
    narrow = helper.make_node("Slice", ["widened", *bounds], [wanted], name="narrow")
    model.graph.node.insert(list(model.graph.node).index(head) + 1, narrow)


def _convolutions(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def _initializer(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _drop_unused(model: ModelProto) -> None:
    """Remove nodes and weights that nothing reads any more."""
    graph = model.graph
    results = {value.name for value in graph.output}
    while idle := [n for n in graph.node if not results & set(n.output) and not set(n.output) & set(_read(model))]:
        for node in idle:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in set(_read(model))]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _read(model: ModelProto) -> Iterator[str]:
    return (name for node in model.graph.node for name in node.input)


def _difference(one: ModelProto, other: ModelProto) -> float:
    """Largest difference of two networks' outputs on random input."""
    batch = np.random.default_rng(0).random((2, _channels(one), 64, 96), np.float32)
    return float(np.abs(_run(one, batch) - _run(other, batch)).max())


def _channels(model: ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def _run(model: ModelProto, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = engine.run(None, {engine.get_inputs()[0].name: batch})
    return np.asarray(output, np.float32)
