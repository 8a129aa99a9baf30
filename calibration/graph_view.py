"""An ONNX graph with its links: who makes a tensor, who reads it, what is constant.

Constants and nodes that are written into a graph, under names that nothing else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

InputIndex = tuple[int, int]  # position of a node, index of one of its inputs


class GraphView:
    """A checked copy of a model with inferred types, constants as initializers, and its links.

    ``keys`` names every node: its own name where that is given and unique, else the name of its first output. Raises
    ``onnx.checker.ValidationError`` or ``onnx.shape_inference.InferenceError`` for an invalid model.
    """

    def __init__(self, model: ModelProto | bytes) -> None:
        source = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
        onnx.checker.check_model(source)
        self.model = onnx.shape_inference.infer_shapes(source, check_type=True, strict_mode=True, data_prop=True)
        constants_to_initializers(self.model.graph)
        graph = self.graph = self.model.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.floats = float_tensors(graph)
        self.outputs = {value.name for value in graph.output}
        self.producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        self.readers: dict[str, list[InputIndex]] = {}
        self.inner: set[str] = set()
        for position, node in enumerate(graph.node):
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((position, index))
            self.inner.update(set(reads(node)) - set(node.input))
        self.keys = _keys(graph.node)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=1)

    def node(self, position: int) -> NodeProto:
        """Return the node at a position."""
        result: NodeProto = self.graph.node[position]
        return result

    def producer_of(self, name: str) -> NodeProto | None:
        """Return the node that makes a tensor; None for inputs and initializers."""
        position = self.producer.get(name)
        return None if position is None else self.graph.node[position]

    def array(self, name: str) -> NDArray[Any]:
        """Return the values of an initializer."""
        return np.asarray(numpy_helper.to_array(self.weights[name]))

    def only_reader(self, name: str) -> int | None:
        """Return the position of the one node that reads a tensor; None for several, an output or a sub-graph."""
        result = self.readers.get(name, [])
        if len(result) != 1 or name in self.outputs or name in self.inner:
            return None
        return result[0][0]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the static shape of a tensor, None where a length is not known."""
        if name in self.weights:
            return tuple(self.weights[name].dims)
        return self._shapes().get(name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        if not hasattr(self, "_known"):
            declared = [*self.graph.input, *self.graph.output, *self.graph.value_info]
            self._known = {value.name: _static(value) for value in declared if _is_static(value)}
        return self._known


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, ``default`` where it is absent."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those of its sub-graphs included."""
    yield from (name for name in node.input if name)
    for entry in node.attribute:
        for graph in [entry.g, *entry.graphs]:
            yield from (name for inner in graph.node for name in reads(inner))
            yield from (value.name for value in graph.output)


def float_tensors(graph: GraphProto) -> set[str]:
    """Return the names of all FP32 tensors."""
    declared = [*graph.input, *graph.output, *graph.value_info]
    names = {value.name for value in declared if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def constants_to_initializers(graph: GraphProto) -> None:
    """Turn Constant nodes with a tensor into initializers, which can be converted once and for all."""
    rest = []
    for node in graph.node:
        value = [entry for entry in node.attribute if entry.name == "value"]
        if node.op_type == "Constant" and value:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value[0].t)
            tensor.name = node.output[0]
        else:
            rest.append(node)
    replace_nodes(graph, rest)


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Put ``nodes`` in the place of all nodes."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_idle(graph: GraphProto) -> None:
    """Remove nodes whose outputs nothing reads, and those that fed them alone."""
    while True:
        used = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
        rest = [node for node in graph.node if not used.isdisjoint(node.output)]
        if len(rest) == len(graph.node):
            return
        replace_nodes(graph, rest)


def drop_unused(graph: GraphProto) -> None:
    """Remove initializers that nothing reads."""
    used = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    retained = [TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(retained)


def part_of(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy of the part of a model that computes these tensors, without outputs.

    ONNX Runtime would run every node of a graph, whatever its outputs need.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name in producer:
                waiting.extend(reads(producer[name]))
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(node for node in model.graph.node if needed.intersection(node.output))
    part.graph.input.extend(item for item in model.graph.input if item.name in needed)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    return part


def all_names(graph: GraphProto) -> set[str]:
    """Return every name that is taken: of tensors, nodes and inputs."""
    names = {name for node in graph.node for name in (*reads(node), *node.output, node.name)}
    return names | {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}


def free_name(name: str, taken: set[str]) -> str:
    """Return ``name``, with underscores behind it where it is taken, and take it."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _keys(nodes: Iterable[NodeProto]) -> list[str]:
    listed = list(nodes)
    counts: dict[str, int] = {}
    for node in listed:
        counts[node.name] = counts.get(node.name, 0) + 1
    return [
        node.name if node.name and counts[node.name] == 1 else next((name for name in node.output if name), "")
        for node in listed
    ]


def _is_static(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim)


def _static(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


class Writer:
    """Writes into a graph; what it makes by ``op`` gathers in ``nodes`` until somebody puts it into its place."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph, self._taken = graph, all_names(graph)
        self.nodes: list[NodeProto] = []

    def free(self, name: str) -> str:
        """Return a name like ``name`` that is free, and take it."""
        return free_name(name, self._taken)

    def constant(self, name: str, value: Any) -> str:
        """Write an initializer with an array's values and type, and return its name."""
        free = self.free(name)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), free))
        return free

    def op(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that; the node is called ``name``, or as its output."""
        free = self.free(output)
        self.nodes.append(helper.make_node(kind, inputs, [free], name=name or free, **attributes))
        return free
