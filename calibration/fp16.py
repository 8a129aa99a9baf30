"""FP16 cast of an FP32 ONNX graph, plain or with Q/DQ: the heavy operators in half precision, everything delicate left.

Convolutions and matrix products (``HEAVY``) become FP16. Operators in ``LIGHT`` follow when all their float inputs
are FP16 already, so no value is cast to and fro. Everything else stays FP32: normalisations, softmax, reductions,
divisions, powers, arg-min and top-k, differences. The product before an arg-min or top-k stays FP32 too: it is a
distance. A DequantizeLinear gives FP16 to whoever reads it in FP16, and a QuantizeLinear takes what it is given.
Inputs and outputs keep their names and types; casts are written into the graph, so it builds strongly typed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.graph_view import GraphView, all_names, drop_unused, free_name, reads, replace_nodes
from calibration.precision_sensitive import HEAVY, LIGHT, METADATA_KEY, asked, distances
from calibration.ranges import Ranges
from calibration.weights import nearest, sum_preserving

__all__ = ["HEAVY", "LIGHT", "METADATA_KEY", "choose_fp16", "large_tensors", "to_fp16"]

GUARD = 0.5  # of the range of FP16: a tensor that went beyond it in calibration stays FP32
_FLOAT_INPUTS = {"Resize": (0,)}  # the scales of Resize are FP32 by definition
_SUFFIX = "_fp16"
_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(
    model: ModelProto | bytes,
    keep_fp32_ops: Collection[str] = (),
    keep_fp32_nodes: Collection[str] = (),
    ranges: Ranges | None = None,
) -> bytes:
    """Return the serialised FP16 variant of ``model``.

    ``keep_fp32_ops``: operator types that stay FP32 besides those that always do. ``keep_fp32_nodes``: names of nodes
    that stay FP32. The model can ask for the same: nodes with ``/fp32/`` in their name, and those named (one a line) in
    its metadata under ``fp32_nodes``. A node with a weight beyond the range of FP16 stays FP32, and so does one that
    reads or gives a tensor whose magnitude in ``ranges`` is beyond half of that range. Raises
    ``onnx.checker.ValidationError`` or ``onnx.shape_inference.InferenceError`` for an invalid model.
    """
    view = GraphView(model)
    fp16 = choose_fp16(view, frozenset(keep_fp32_ops), frozenset(keep_fp32_nodes), large_tensors(ranges))
    _Rewriter(view, fp16).run()
    del view.graph.value_info[:]
    onnx.checker.check_model(view.model, full_check=True)
    return bytes(view.model.SerializeToString())


def large_tensors(ranges: Ranges | None) -> set[str]:
    """Return the names of the tensors whose magnitude in ``ranges`` is beyond half the range of FP16."""
    return {name for name, tensor_range in ranges.tensors.items() if tensor_range.magnitude > GUARD * _LARGEST} if ranges else set()


def choose_fp16(
    view: GraphView, keep_ops: Collection[str] = (), keep_nodes: Collection[str] = (), large: Collection[str] = ()
) -> set[int]:
    """Return the positions of the nodes (sorted, types inferred) that can be FP16."""
    nodes = view.graph.node
    barred = distances(view) | asked(view)
    barred |= {i for i, node in enumerate(nodes) if _stays_fp32(view, node, keep_ops, keep_nodes, large=large)}
    chosen: set[int] = set()
    halves: set[str] = set()
    for position, node in enumerate(nodes):
        if position not in barred and _can_be_fp16(view, position, halves, barred):
            chosen.add(position)
            halves.update(name for name in node.output if name in view.floats)
    return chosen


def _can_be_fp16(view: GraphView, position: int, halves: set[str], barred: set[int]) -> bool:
    node = view.node(position)
    if node.op_type == "QuantizeLinear":
        return node.input[0] in halves or (node.input[0] in view.weights and _wanted(view, node.output[0], barred, 2))
    if node.op_type == "DequantizeLinear":
        return node.input[1] in view.weights and _wanted(view, node.output[0], barred, 1)
    inputs = [name for name in _castable(node) if name in view.floats]
    if not inputs or not all(name in view.floats for name in node.output if name):
        return False
    moving = [name for name in inputs if name not in view.weights]
    follows = node.op_type in LIGHT and moving and halves.issuperset(moving) and not _square(node)
    return node.op_type in HEAVY or bool(follows)


def _wanted(view: GraphView, name: str, barred: set[int], steps: int) -> bool:
    """Whether an operator that can be FP16 reads a tensor, directly or through the DequantizeLinear behind it."""
    for position, _ in view.readers.get(name, []):
        node = view.node(position)
        if node.op_type in HEAVY | LIGHT and position not in barred:
            return True
        if steps > 1 and node.op_type == "DequantizeLinear" and _wanted(view, node.output[0], barred, steps - 1):
            return True
    return False


def _stays_fp32(view: GraphView, node: NodeProto, ops: Collection[str], names: Collection[str], *, large: Collection[str]) -> bool:
    if node.op_type in ops or node.name in names or node.domain not in ("", "ai.onnx"):
        return True
    if any(name in large for name in (*node.input, *node.output)):
        return True
    return any(_too_large(view.weights[name]) for name in node.input if name in view.weights)


def _too_large(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(numpy_helper.to_array(tensor))
    return bool(values.size) and bool(values.max() > _LARGEST)


def _square(node: NodeProto) -> bool:
    """A value times itself leaves the range of FP16 at 256."""
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def _castable(node: NodeProto) -> Iterator[str]:
    positions = _FLOAT_INPUTS.get(node.op_type, range(len(node.input)))
    return (node.input[i] for i in positions if node.input[i])


class _Rewriter:
    """Writes the nodes out again, with each tensor cast at most once in each direction."""

    def __init__(self, view: GraphView, fp16: set[int]) -> None:
        self._graph = view.graph
        self._fp16 = fp16
        self._floats = view.floats
        self._weights = dict(view.weights)
        self._taken = all_names(view.graph)
        self._filters = {node.input[1] for node in view.graph.node if _depthwise(node, self._weights)}
        self._names: dict[str, str] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> None:
        full = self._full_readers()
        for position, node in enumerate(self._graph.node):
            if position not in self._fp16:
                self._nodes.append(node)
                continue
            castable = set(_castable(node))
            inputs = [self._fp16_of(name) if name in castable & self._floats else name for name in node.input]
            outputs = list(node.output)
            node.input[:] = inputs
            node.output[:] = [self._fresh(name) if name in self._floats else name for name in outputs]
            self._nodes.append(node)
            for name in outputs:
                if name in full & self._floats:
                    self._cast(self._names[name], name, TensorProto.FLOAT)
        replace_nodes(self._graph, self._nodes)
        drop_unused(self._graph)

    def _full_readers(self) -> set[str]:
        """Return the tensors that something in FP32 reads: other nodes, sub-graphs and the outputs of the graph."""
        names = {value.name for value in self._graph.output}
        for position, node in enumerate(self._graph.node):
            if position not in self._fp16:
                names.update(reads(node))
            else:
                names.update(set(node.input) - set(_castable(node)))
        return names

    def _fp16_of(self, name: str) -> str:
        if name in self._names:
            return self._names[name]
        fresh = self._fresh(name)
        if name in self._weights:
            array = numpy_helper.to_array(self._weights[name])
            rounded = sum_preserving(array.reshape(len(array), -1)) if name in self._filters else nearest(array)
            self._graph.initializer.append(numpy_helper.from_array(rounded.reshape(array.shape), fresh))
        else:
            self._cast(name, fresh, TensorProto.FLOAT16)
        return fresh

    def _cast(self, source: str, target: str, dtype: int) -> None:
        name = free_name(f"{target}/cast", self._taken)
        self._nodes.append(helper.make_node("Cast", [source], [target], name=name, to=dtype))

    def _fresh(self, name: str) -> str:
        self._names[name] = free_name(name + _SUFFIX, self._taken)
        return self._names[name]


def _depthwise(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Return whether a convolution has one filter a channel, [C, 1, h, w]."""
    return node.op_type == "Conv" and node.input[1] in weights and weights[node.input[1]].dims[1] == 1
