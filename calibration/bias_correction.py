"""Biases that make up for what rounding does to the mean of every channel, measured on images, layer after layer.

Rounding numbers that are small against their scale, such as the many zeros behind a ReLU, shifts the mean of a channel,
and a later layer multiplies the shift. Going through the graph in its order, each convolution's mean output is brought
to that of the FP32 graph while everything before it is already corrected (Nagel et al., ICCV 2019, section 4.2.2).
Noise that passes a ReLU shifts means as well, so corrections fit the plan they were measured with and no other.
What is left in an output that is a vector of features, such as means over regions, is taken back number by number
(ours).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration.cross_layer_equalization import equalize_across_layers
from calibration.graph_view import GraphView, part_of
from calibration.image_input import read_bytes
from calibration.placement import Operator, place
from calibration.quantise import greatest_weight, output_key, quantise_view
from calibration.ranges import Ranges
from calibration.session import open_session

Feed = Mapping[str, NDArray[Any]]
Corrections = dict[str, list[float]]


def corrections(
    model: bytes,
    ranges: Ranges,
    feeds: Sequence[Feed],
    target: str = "tensorrt",
    *,
    keep: Collection[str] = (),
    weight_limit: int | None = None,
    threads: int | None = None,
) -> Corrections:
    """Return, by key of each quantised convolution, what ``quantise`` should add to its bias, a number a channel, and
    by ``output_key`` of each output f32 [N, D] what it should add to that, a number a feature.

    ``keep`` is the plan. ``feeds`` are a few inputs of the graph, 8 to 16. Means for TensorRT are those of exact sums
    (see ``open_session``). Matrix products are left out: LayerNorm takes their shifts back.
    """
    exact = GraphView(model)
    if target == "cpu":
        exact, ranges = read_bytes(exact, ranges, keep)
    placed = place(exact, target, keep).operators
    changed = equalize_across_layers(exact, ranges, {item.position for item in placed})
    chosen = [item for item in placed if item.kind == "Conv"]
    outputs = {item.key: exact.node(item.position).output[0] for item in chosen}
    wanted = _means(ModelProto.FromString(exact.model.SerializeToString()), outputs, feeds, threads)
    levels = _levels(exact, chosen)
    rounded = GraphView(exact.model.SerializeToString())
    limit = greatest_weight(target) if weight_limit is None else weight_limit
    biases = quantise_view(rounded, changed, target, keep, weight_limit=limit)
    variant = {tensor.name: tensor for tensor in rounded.graph.initializer}
    result: Corrections = {}
    for level in levels:
        names = {item.key: biases.outputs[item.key] for item in level if item.key in biases.names}
        means = _means(rounded.model, names, feeds, threads)
        for key, mean in means.items():
            error = wanted[key] - mean
            _add(variant[biases.names[key]], error, biases.steps.get(key))
            result[key] = _short(error)
    vectors = {output_key(name): name for name in _vectors(exact)} if chosen else {}
    wanted, means = (_means(variant.model, vectors, feeds, threads) for variant in (exact, rounded))
    return result | {key: _short(wanted[key] - means[key]) for key in vectors}


def _vectors(view: GraphView) -> list[str]:
    """Return the computed outputs that are vectors of features."""
    outputs = (item for item in view.graph.output if item.name in view.producer)
    return [item.name for item in outputs if len(item.type.tensor_type.shape.dim) == 2]


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _levels(view: GraphView, chosen: Sequence[Operator]) -> list[list[Operator]]:
    """Group operators that do not feed one another, in the order of the graph."""
    depth: dict[str, int] = {}
    groups: dict[int, list[Operator]] = {}
    table = {item.position: item for item in chosen}
    for position, node in enumerate(view.graph.node):
        here = max((depth.get(name, 0) for name in node.input), default=0)
        if position in table:
            groups.setdefault(here, []).append(table[position])
            here += 1
        depth.update(dict.fromkeys(node.output, here))
    return [groups[level] for level in sorted(groups)]


def _means(
    model: ModelProto, outputs: Mapping[str, str], feeds: Sequence[Feed], threads: int | None
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel of tensors [N, C, ...], by key, over ``feeds``; the rest of the graph is cut off.
    """
    if not outputs:
        return {}
    cut = part_of(model, outputs.values())
    tables = {key: f"{name}/channels" for key, name in outputs.items()}
    for key, name in outputs.items():
        shape = f"{name}/flat"
        cut.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), f"{shape}/shape"))
        cut.graph.initializer.append(numpy_helper.from_array(np.array([0, 2], np.int64), f"{shape}/axes"))
        cut.graph.node.append(helper.make_node("Reshape", [name, f"{shape}/shape"], [shape], name=shape))
        reduce = helper.make_node("ReduceMean", [shape, f"{shape}/axes"], [tables[key]], name=tables[key], keepdims=0)
        cut.graph.node.append(reduce)
        cut.graph.output.append(helper.make_tensor_value_info(tables[key], TensorProto.FLOAT, None))
    session = open_session(cut, threads)
    inputs = {item.name for item in session.get_inputs()}
    rows = [session.run(list(tables.values()), {k: v for k, v in feed.items() if k in inputs}) for feed in feeds]
    return {key: np.mean([row[i] for row in rows], axis=0, dtype=np.float64) for i, key in enumerate(tables)}


def _add(tensor: onnx.TensorProto, error: NDArray[np.float64], step: NDArray[np.float64] | None) -> None:
    values = numpy_helper.to_array(tensor)
    if step is None:
        changed = (values.astype(np.float64) + error).astype(values.dtype)
    else:
        changed = np.clip(np.rint(values + error / step), -(2**31) + 1, 2**31 - 1).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
