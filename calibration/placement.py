"""Where 8-bit numbers belong in a graph, by structure alone: on the inputs of weighted operators, and hardly elsewhere.

NVIDIA's rules for explicit quantisation: all inputs of weighted operators, not their outputs; of two branches that an
Add joins after a convolution, the one that was not just convolved; nothing between a convolution and its activation;
normalisations, softmax, and the residual stream of a transformer not at all. ONNX Runtime's convolution for CPUs gives
8-bit numbers and no others, so the dialect ``cpu`` puts them on the outputs of convolutions too, past the activation.

Which nodes of a graph stay in floating point, as plain data that a person can edit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto

from calibration import precision_sensitive
from calibration.cpu import rounds_resized_bytes
from calibration.graph_view import GraphView, InputIndex, attribute

DIALECTS = ("tensorrt", "cpu")
CONVOLUTIONS = ("Conv", "ConvTranspose")
FEW_CHANNELS = 8  # fewer are too few for an 8-bit kernel that takes them as they are
_COVERED = ("Relu", "Clip")


@dataclass(frozen=True)
class Operator:
    """A weighted operator: its position, its key, the tensor it reads, its weight and the weight's channel axis.

    ``axis`` None: one scale for the whole weight. ``bias`` is empty without one.
    """

    position: int
    key: str
    kind: str
    data: str
    weight: str
    bias: str
    axis: int | None


@dataclass
class Placement:
    """Which tensors become 8-bit numbers.

    ``inputs``: places that read a quantised copy of their tensor. ``outputs``: tensors that are 8-bit where they are
    made, each with the tensor whose range it takes. ``covered``: activations that saturation replaces.
    """

    operators: list[Operator] = field(default_factory=list)
    inputs: list[InputIndex] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)


def operators(view: GraphView, keep: Collection[str] = ()) -> list[Operator]:
    """Return the weighted operators that may be quantised, in the order of the graph, without those in ``keep``.

    A weight is a constant; attention products have none and are left alone. So are products before an arg-min, nodes
    that the model wants in FP32, and forms that no kernel takes. An unknown key in ``keep`` raises ValueError.
    """
    barred = precision_sensitive.distances(view) | precision_sensitive.asked(view) | precision_sensitive.positions(view, keep)
    result = (_operator(view, position) for position in range(len(view.graph.node)) if position not in barred)
    return [operator for operator in result if operator is not None]


def place(view: GraphView, target: str, keep: Collection[str] = ()) -> Placement:
    """Return the placement of a dialect with the nodes named in ``keep`` left in FP32."""
    if target not in DIALECTS:
        raise ValueError(f"dialect {target!r} is unknown; allowed are {' and '.join(DIALECTS)}")
    chosen = operators(view, keep)
    return _tensorrt(view, chosen) if target == "tensorrt" else _cpu(view, chosen)


def place_stems(view: GraphView, keep: Collection[str] = ()) -> Placement:
    """Return the placement of ``cpu`` as if convolutions of few channels ran in 8 bits there too."""
    return _cpu(view, operators(view, keep), stems=True)


def watched(view: GraphView) -> dict[str, str]:
    """Return the tensors whose distribution any dialect needs, each with the kind of its reader where it is weighted.
    """
    chosen = operators(view)
    results = {operator.data: operator.kind for operator in chosen}
    for placement in (_tensorrt(view, chosen), _cpu(view, chosen, stems=True)):
        names = [view.node(position).input[index] for position, index in placement.inputs]
        for name in [*names, *placement.outputs.values()]:
            results.setdefault(name, "")
    return results


def _tensorrt(view: GraphView, chosen: list[Operator]) -> Placement:
    """Quantise what weighted operators read, and the identity branches of residual Adds between convolutions."""
    placement = Placement(chosen, [(operator.position, 0) for operator in chosen])
    convolutions = {view.node(item.position).output[0] for item in chosen if item.kind == "Conv"}
    depths = _depths(view) if convolutions else {}
    for position, node in enumerate(view.graph.node):
        index = _identity(view, position, convolutions, depths) if node.op_type == "Add" else None
        if index is not None:
            placement.inputs.append((position, index))
    return placement


def _cpu(view: GraphView, chosen: list[Operator], stems: bool = False) -> Placement:
    """Quantise what convolutions give and products read, and keep sums and resizings between them in 8 bits."""
    placement = Placement([item for item in chosen if _runs_on_cpu(view, item, stems)])
    for item in placement.operators:
        if item.kind == "Conv":
            _give(view, placement, view.node(item.position).output[0])
    reading = {item.position for item in placement.operators}
    for node in view.graph.node:
        moving = [name for name in node.input if name in view.floats and name not in view.weights]
        if not moving or not all(name in placement.outputs for name in moving):
            continue
        readers = view.readers.get(node.output[0], [])
        if node.op_type == "Add" and len(set(moving)) == 2:
            _give(view, placement, node.output[0])
        elif _moves_bytes(node) and readers and all(position in reading for position, _ in readers):
            placement.outputs[node.output[0]] = placement.outputs[node.input[0]]
    reading_floats = [item for item in placement.operators if not dequantised(view, item.data)]
    placement.inputs = [(item.position, 0) for item in reading_floats if item.data not in placement.outputs]
    return placement


def _moves_bytes(node: NodeProto) -> bool:
    """Whether a node gives numbers that lie between those it is given, in 8 bits no worse than in FP32."""
    linear = node.op_type == "Resize" and attribute(node, "mode", b"nearest") != b"nearest"
    return node.op_type in ("MaxPool", "Resize") and (not linear or rounds_resized_bytes())


def _give(view: GraphView, placement: Placement, name: str) -> None:
    """Make a tensor 8-bit, after the activations that 8-bit numbers cover by saturating."""
    while (reader := view.only_reader(name)) is not None and view.node(reader).op_type in _COVERED:
        if not starts_at_zero(view, reader):
            break
        placement.covered.add(reader)
        name = view.node(reader).output[0]
    placement.outputs[name] = name


def starts_at_zero(view: GraphView, position: int) -> bool:
    """Whether an activation cuts at 0 below, and above (if at all) at a constant: its range then says it all."""
    node = view.node(position)
    if node.op_type == "Relu":
        return True
    bounds = [name for name in node.input[1:] if name]
    if len(node.input) < 2 or not all(name in view.weights for name in bounds) or not node.input[1]:
        return False
    return float(view.array(node.input[1]).reshape(-1)[0]) == 0.0


def dequantised(view: GraphView, name: str) -> bool:
    """Whether the graph itself has a tensor in bytes with one constant scale and zero point, and only dequantises it.
    """
    producer = view.producer_of(name)
    if producer is None or producer.op_type != "DequantizeLinear" or not set(producer.input[1:]) <= view.weights.keys():
        return False
    steps = [view.array(entry) for entry in producer.input[1:]]
    return len(steps) == 2 and steps[0].size == 1 and steps[1].size == 1 and steps[1].dtype == np.uint8


def _runs_on_cpu(view: GraphView, item: Operator, stems: bool) -> bool:
    """Whether ONNX Runtime has a fast 8-bit kernel: none for ConvTranspose, nor without a constant bias.

    A convolution of very few channels, such as the first one on an image, is faster in FP32, unless ``stems`` or a
    image in bytes says otherwise (see ``calibration.image_input``).
    """
    if item.kind == "ConvTranspose" or (item.bias and item.bias not in view.weights):
        return False
    shape = view.shape(item.data)
    few = item.kind == "Conv" and shape is not None and shape[1] < FEW_CHANNELS
    return not few or stems or dequantised(view, item.data)


def _operator(view: GraphView, position: int) -> Operator | None:
    node = view.node(position)
    if node.op_type not in precision_sensitive.HEAVY or len(node.input) < 2:
        return None
    data, weight = node.input[0], node.input[1]
    if weight not in view.weights or weight not in view.floats or data not in view.floats or data in view.weights:
        return None
    if not _plain_form(view, position) or not np.isfinite(view.array(weight)).all():
        return None
    bias = node.input[2] if len(node.input) > 2 else ""
    return Operator(position, view.keys[position], node.op_type, data, weight, bias, _axis(view, position))


def _plain_form(view: GraphView, position: int) -> bool:
    """Whether kernels exist: products of two matrices without factors, and weights that are not a single row."""
    node = view.node(position)
    dims = view.weights[node.input[1]].dims
    if node.op_type in CONVOLUTIONS:
        return len(dims) >= 3
    plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    return plain and len(dims) == 2 and min(dims) > 1


def _axis(view: GraphView, position: int) -> int | None:
    node = view.node(position)
    if node.op_type == "ConvTranspose":  # scales a channel are fragile in TensorRT where channels are in groups
        return 1 if attribute(node, "group", 1) == 1 else None
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _identity(view: GraphView, position: int, convolutions: set[str], depths: dict[str, int]) -> int | None:
    """Return which input of an Add is the identity branch of a residual block of convolutions, None for other Adds."""
    node = view.node(position)
    names = list(node.input)
    if any(name in view.weights for name in names) or names[0] == names[1]:
        return None
    if not any(name in convolutions and view.only_reader(name) == position for name in names):
        return None
    if any(view.shape(name) != view.shape(node.output[0]) for name in names):
        return None
    if any(precision_sensitive.normalised(view, name) for name in (*names, node.output[0])):
        return None
    free = [
        index for index, name in enumerate(names) if not (name in convolutions and view.only_reader(name) == position)
    ]
    return free[0] if free else min((0, 1), key=lambda index: depths.get(names[index], 0))


def _depths(view: GraphView) -> dict[str, int]:
    """Return the greatest number of heavy operators on a way from an input to each tensor."""
    depths: dict[str, int] = {}
    for node in view.graph.node:
        deepest = max((depths.get(name, 0) for name in node.input), default=0) + (node.op_type in precision_sensitive.HEAVY)
        depths.update(dict.fromkeys(node.output, deepest))
    return depths


ALL = "*"


@dataclass(frozen=True)
class Plan:
    """For one graph and each dialect the keys of the nodes that are not quantised; ``*`` means all of them."""

    graph_sha256: str
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def unquantised(self, target: str, view: GraphView) -> tuple[str, ...]:
        """Return the nodes of ``view`` that stay in floating point."""
        named = self.keep.get(target, ())
        return tuple(item.key for item in operators(view)) if ALL in named else named

    def skips(self, target: str) -> bool:
        """Whether the whole graph stays in floating point."""
        return ALL in self.keep.get(target, ())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"graph_sha256": self.graph_sha256, "keep": {name: list(keys) for name, keys in self.keep.items()}}

    @classmethod
    def from_json(cls, value: object) -> Plan:
        """Build from what ``to_json`` gave, perhaps edited; ValueError with one sentence for anything else."""
        if not isinstance(value, Mapping) or set(value) != {"graph_sha256", "keep"}:
            raise ValueError("a plan must be a JSON object with graph_sha256 and keep")
        sha256, keep = value["graph_sha256"], value["keep"]
        if not isinstance(sha256, str) or not isinstance(keep, Mapping) or not set(keep) <= set(DIALECTS):
            raise ValueError(f"a plan must name the hash of a graph, and keep only for {' and '.join(DIALECTS)}")
        for target, keys in keep.items():
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError(f'keep for {target} must be a list of names of nodes, or ["*"] for all')
        return cls(sha256, {target: tuple(keys) for target, keys in keep.items()})
