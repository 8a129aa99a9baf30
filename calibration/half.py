"""FP16 cast of an FP32 ONNX graph: the heavy operators in half precision, everything delicate left alone.

Convolutions and matrix products (``HEAVY``) become FP16. Operators in ``LIGHT`` follow when all their float inputs
are FP16 already, so no value is cast to and fro. Everything else stays FP32: normalisations, softmax, reductions,
divisions, powers, arg-min and top-k, differences. The product before an arg-min or top-k stays FP32 too: it is a
distance. Inputs and outputs keep their names and types; casts are written into the graph, so it builds strongly typed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.rounding import nearest, sum_preserving

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = {"Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid"}
_MOVES = {"Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"}
_MORE = {"Tanh", "Add", "AveragePool", "MaxPool", "Mul", "Neg", "Resize", "Transpose", "Unsqueeze", "Where"}
LIGHT = frozenset(_ACTIVATIONS | _MOVES | _MORE)
DECISIONS = frozenset({"ArgMax", "ArgMin", "TopK"})
# What may lie between a distance's matrix product and the decision taken on it.
_BETWEEN = LIGHT | {"Sub", "Div", "Pow", "Sqrt", "Abs", "Reciprocal", "Cast", "ReduceSum", "ReduceMean", "Min", "Max"}
_FLOAT_INPUTS = {"Resize": (0,)}  # the scales of Resize are FP32 by definition
METADATA_KEY = "fp32_nodes"
_SUFFIX = "_fp16"
_LARGEST = float(np.finfo(np.float16).max)


def to_half(
    model: ModelProto | bytes, keep_fp32_ops: Collection[str] = (), keep_fp32_nodes: Collection[str] = ()
) -> bytes:
    """Return the serialised FP16 variant of ``model``.

    ``keep_fp32_ops``: operator types that stay FP32 besides those that always do. ``keep_fp32_nodes``: names of nodes
    that stay FP32. The model can ask for the same: nodes with ``/fp32/`` in their name, and those named (one a line) in
    its metadata under ``fp32_nodes``. A node with a weight beyond the range of FP16 stays FP32. Raises
    ``onnx.checker.ValidationError`` or ``onnx.shape_inference.InferenceError`` for an invalid model.
    """
    source = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    onnx.checker.check_model(source)
    work = onnx.shape_inference.infer_shapes(source, check_type=True, strict_mode=True, data_prop=True)
    _constants_to_initializers(work.graph)
    asked = [name for entry in work.metadata_props if entry.key == METADATA_KEY for name in entry.value.splitlines()]
    half = choose_half(work.graph, frozenset(keep_fp32_ops), frozenset([*keep_fp32_nodes, *asked]))
    _rewrite(work.graph, half)
    del work.graph.value_info[:]
    onnx.checker.check_model(work, full_check=True)
    return bytes(work.SerializeToString())


def choose_half(graph: GraphProto, keep_ops: Collection[str] = (), keep_nodes: Collection[str] = ()) -> set[int]:
    """Return the positions of the nodes of ``graph`` (sorted, types inferred) that can be FP16."""
    floats = _float_tensors(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    barred = _distances(graph) | {i for i, node in enumerate(graph.node) if _kept(node, keep_ops, keep_nodes, weights)}
    chosen: set[int] = set()
    halves: set[str] = set()
    for position, node in enumerate(graph.node):
        inputs = [name for name in _castable(node) if name in floats]
        if position in barred or not inputs or not all(name in floats for name in node.output if name):
            continue
        moving = [name for name in inputs if name not in weights]
        follows = node.op_type in LIGHT and moving and halves.issuperset(moving) and not _square(node)
        if follows or node.op_type in HEAVY:
            chosen.add(position)
            halves.update(node.output)
    return chosen


def _kept(node: NodeProto, ops: Collection[str], names: Collection[str], weights: dict[str, TensorProto]) -> bool:
    if node.op_type in ops or node.name in names or "/fp32/" in f"/{node.name}/" or node.domain not in ("", "ai.onnx"):
        return True
    return any(_too_large(weights[name]) for name in node.input if name in weights)


def _too_large(tensor: TensorProto) -> bool:
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(numpy_helper.to_array(tensor))
    return bool(values.size) and bool(values.max() > _LARGEST)


def _square(node: NodeProto) -> bool:
    """A value times itself leaves the range of FP16 at 256."""
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def _distances(graph: GraphProto) -> set[int]:
    """Return the nodes between each decision and, including it, the nearest heavy operator on every path before it."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    queue = [i for i, node in enumerate(graph.node) if node.op_type in DECISIONS]
    while queue:
        for name in graph.node[queue.pop()].input:
            before = producer.get(name)
            if before is None or before in found:
                continue
            kind = graph.node[before].op_type
            if kind in HEAVY or kind in _BETWEEN:
                found.add(before)
            if kind in _BETWEEN:
                queue.append(before)
    return found


def _castable(node: NodeProto) -> Iterator[str]:
    positions = _FLOAT_INPUTS.get(node.op_type, range(len(node.input)))
    return (node.input[i] for i in positions if node.input[i])


def _float_tensors(graph: GraphProto) -> set[str]:
    declared = [*graph.input, *graph.output, *graph.value_info]
    names = {value.name for value in declared if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _constants_to_initializers(graph: GraphProto) -> None:
    """Turn Constant nodes with a tensor into initializers, which can be cast once and for all."""
    rest = []
    for node in graph.node:
        value = [attribute for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and value:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value[0].t)
            tensor.name = node.output[0]
        else:
            rest.append(node)
    _replace_nodes(graph, rest)


class _Rewriter:
    """Writes the nodes out again, with each tensor cast at most once in each direction."""

    def __init__(self, graph: GraphProto, half: set[int]) -> None:
        self._graph = graph
        self._half = half
        self._floats = _float_tensors(graph)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
        self._taken |= {*self._weights, *(value.name for value in graph.input)}
        self._filters = {node.input[1] for node in graph.node if _depthwise(node, self._weights)}
        self._names: dict[str, str] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        full = self._full_readers()
        for position, node in enumerate(self._graph.node):
            if position not in self._half:
                self.nodes.append(node)
                continue
            castable = set(_castable(node))
            inputs = [self._half_of(name) if name in castable & self._floats else name for name in node.input]
            outputs = list(node.output)
            node.input[:] = inputs
            node.output[:] = [self._fresh(name) if name else name for name in outputs]
            self.nodes.append(node)
            for name in outputs:
                if name in full:
                    self._cast(self._names[name], name, TensorProto.FLOAT)

    def _full_readers(self) -> set[str]:
        """Return the tensors that something in FP32 reads: other nodes, sub-graphs and the outputs of the graph."""
        names = {value.name for value in self._graph.output}
        for position, node in enumerate(self._graph.node):
            if position not in self._half:
                names.update(_reads(node))
            else:
                names.update(set(node.input) - set(_castable(node)))
        return names

    def _half_of(self, name: str) -> str:
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
        name = self._unused(f"{target}/cast")
        self.nodes.append(helper.make_node("Cast", [source], [target], name=name, to=dtype))

    def _fresh(self, name: str) -> str:
        self._names[name] = self._unused(name + _SUFFIX)
        return self._names[name]

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _depthwise(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Return whether a convolution has one filter a channel, [C, 1, h, w]."""
    return node.op_type == "Conv" and node.input[1] in weights and weights[node.input[1]].dims[1] == 1


def _rewrite(graph: GraphProto, half: set[int]) -> None:
    rewriter = _Rewriter(graph, half)
    rewriter.run()
    _replace_nodes(graph, rewriter.nodes)
    used = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those of its sub-graphs included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            yield from (name for inner in graph.node for name in _reads(inner))
            yield from (value.name for value in graph.output)
