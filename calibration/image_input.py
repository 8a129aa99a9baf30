"""First convolutions read the bytes of an image: what the graph makes of its numbers goes into weights and biases.

An image u8 [N, H, W, C] is 8-bit numbers already, so quantising it loses nothing. Where a graph casts it, brings it to
[N, C, H, W] and scales every channel, z = a x + b, a convolution of z is one of x with weights a times as large and
another bias. Padding with z = 0 becomes padding with x = -b / a, the mean colour in most models, rounded to a whole
number: at the border, and nowhere else, inputs change by up to half a grey level. Ours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from calibration.column_packing import TO_PLANES, packing, plain_window
from calibration.graph_view import GraphView, Writer, attribute, drop_idle, drop_unused, replace_nodes
from calibration.placement import FEW_CHANNELS, Operator, Placement, place_stems
from calibration.ranges import Ranges, TensorRange

_AFFINE: dict[str, Any] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@dataclass(frozen=True)
class _Stem:
    """A convolution of ``slope`` x image + ``offset``, one of each a channel; ``border`` is what padding stands for."""

    operator: Operator
    image: str
    slope: NDArray[np.float64]
    offset: NDArray[np.float64]
    border: NDArray[np.uint8]
    pads: tuple[int, int, int, int]


def read_bytes(view: GraphView, ranges: Ranges, keep: Collection[str] = ()) -> tuple[GraphView, Ranges]:
    """Return a view whose first convolutions read their image's bytes by a DequantizeLinear, with ranges that fit it.

    Only such convolutions are changed whose columns can be packed (see ``calibration.column_packing``), that are not in
    ``keep`` and whose outputs only other 8-bit operators read. Without one, ``view`` and ``ranges`` themselves are
    returned.
    """
    placement = place_stems(view, keep)
    results = [_stem(view, item) for item in placement.operators]
    stems = [stem for stem in results if stem is not None and _stays_in_bytes(view, placement, ranges, stem.operator)]
    if not stems:
        return view, ranges
    writer = _Writer(view, ranges)
    table = {stem.operator.position: stem for stem in stems}
    nodes: list[NodeProto] = []
    for position, node in enumerate(view.graph.node):
        nodes += writer.write(table[position]) if position in table else []
        nodes.append(node)
    replace_nodes(view.graph, nodes)
    drop_idle(view.graph)
    drop_unused(view.graph)
    del view.graph.value_info[:]
    return GraphView(view.model), replace(ranges, tensors=writer.tensors)


def _stem(view: GraphView, item: Operator) -> _Stem | None:
    """Return what a weighted operator reads, None where it is no convolution of a scaled image that can be packed."""
    node, shape = view.node(item.position), view.shape(item.data)
    given = view.shape(node.output[0])
    if item.kind != "Conv" or not plain_window(node) or shape is None or given is None or shape[1] >= FEW_CHANNELS:
        return None
    top, left, bottom, right = pads = tuple(attribute(node, "pads", [0] * 4))
    sides = view.array(item.weight).shape[3], attribute(node, "strides", [1, 1])[1]
    scaled = _scaled(view, item.data, shape[1])
    if scaled is None or min(pads) < 0 or packing(shape[1], *sides, left + shape[3] + right, given[3]) is None:
        return None
    image, slope, offset = scaled
    border = -offset / slope
    if any(pads) and not ((border >= -0.5) & (border <= 255.5)).all():
        return None
    return _Stem(item, image, slope, offset, _byte(border), (top, left, bottom, right))


def _byte(values: Any) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _scaled(view: GraphView, name: str, channels: int) -> tuple[str, NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the image u8 [N, H, W, C] that a tensor is made of, and slope and offset of each channel."""
    steps: list[tuple[NodeProto, int]] = []
    while name in view.floats:
        node = view.producer_of(name)
        index = None if node is None else _passed(view, node)
        if node is None or index is None:
            return None
        steps.append((node, index))
        name = node.input[index]
    turns = [attribute(node, "perm") for node, _ in steps if node.op_type == "Transpose"]
    if turns != [TO_PLANES] or not steps or steps[-1][0].op_type != "Cast" or not _is_bytes(view, name):
        return None
    low, high = (_through(view, steps, number, channels) for number in (0.0, 1.0))
    if low.shape != (1, channels, 1, 1) or not np.isfinite(low + high).all() or (low == high).any():
        return None
    return name, (high - low).reshape(-1), low.reshape(-1)


def _passed(view: GraphView, node: NodeProto) -> int | None:
    """Return which input a step that scales or moves numbers passes on, None for any other node."""
    if node.op_type in ("Cast", "Transpose"):
        return 0
    if node.op_type not in _AFFINE:
        return None
    passed = [index for index, name in enumerate(node.input) if name not in view.weights]
    return passed[0] if len(passed) == 1 and (node.op_type != "Div" or passed == [0]) else None


def _is_bytes(view: GraphView, name: str) -> bool:
    declared = [*view.graph.input, *view.graph.value_info]
    return any(output.name == name and output.type.tensor_type.elem_type == TensorProto.UINT8 for output in declared)


def _through(view: GraphView, steps: list[tuple[NodeProto, int]], number: float, channels: int) -> NDArray[np.float64]:
    """Return what the steps, the last first, make of a number in every channel."""
    value = np.full((1, 1, 1, channels), number)
    for node, _ in reversed(steps):
        if node.op_type == "Transpose":
            value = value.transpose(TO_PLANES)
        elif node.op_type in _AFFINE:
            operands = [view.array(name).astype(np.float64) if name in view.weights else value for name in node.input]
            value = _AFFINE[node.op_type](*operands)
    return value


def _stays_in_bytes(view: GraphView, placement: Placement, ranges: Ranges, item: Operator) -> bool:
    """Whether only 8-bit operators read a convolution's output, past its activation, and its range is known."""
    name = view.node(item.position).output[0]
    while (reader := view.only_reader(name)) in placement.covered and reader is not None:
        name = view.node(reader).output[0]
    weighted = {operator.position for operator in placement.operators}
    readers = view.readers.get(name, [])
    inside = all(
        position in weighted
        or (view.node(position).op_type == "MaxPool" and view.node(position).output[0] in placement.outputs)
        for position, _ in readers
    )
    known = name in ranges.tensors and name in placement.outputs
    return bool(readers) and inside and known and not {name} & (view.outputs | view.inner)


class _Writer:
    """Writes what stems read; stems that read the same image alike share it."""

    def __init__(self, view: GraphView, ranges: Ranges) -> None:
        self.tensors: dict[str, TensorRange] = dict(ranges.tensors)
        self._view, self._new = view, Writer(view.graph)
        self._inputs: dict[tuple[object, ...], str] = {}

    def write(self, stem: _Stem) -> list[NodeProto]:
        """Let a stem read the bytes of its image, and return the nodes that it needs before it."""
        self._new.nodes = []
        view, item = self._view, stem.operator
        node = view.node(item.position)
        zero = int(_byte(np.mean(stem.border)))
        weight = view.array(item.weight).astype(np.float64)
        shift = (weight * (stem.slope * zero + stem.offset).reshape(-1, 1, 1)).sum(axis=(1, 2, 3))
        bias = shift + (view.array(item.bias) if item.bias else 0.0)
        names = [
            self._new.constant(f"{item.weight}/bytes", (weight * stem.slope.reshape(-1, 1, 1)).astype(np.float32)),
            self._new.constant(f"{item.weight}/bytes/bias", bias.astype(np.float32)),
        ]
        node.input[:] = [self._input(stem, zero), *names]
        retained = [output for output in node.attribute if output.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend([*retained, helper.make_attribute("pads", [0] * 4)])
        return self._new.nodes

    def _input(self, stem: _Stem, zero: int) -> str:
        """Return the image f32 [N, C, H, W] less ``zero``, with its border."""
        key = (stem.image, stem.slope.tobytes(), stem.offset.tobytes(), stem.pads)
        if key not in self._inputs:
            top, left, bottom, right = stem.pads
            output = self._padded(stem.image, stem, 2, left, behind=right)
            output = self._padded(output, stem, 1, top, behind=bottom)
            output = self._new.op("Transpose", [output], f"{output}/planes", perm=TO_PLANES)
            steps = [self._new.constant("one", np.float32(1.0)), self._new.constant("zero", np.uint8(zero))]
            self._inputs[key] = self._new.op("DequantizeLinear", [output, *steps], f"{output}/float")
            self.tensors[self._inputs[key]] = self._range(stem, zero)
        return self._inputs[key]

    def _range(self, stem: _Stem, zero: int) -> TensorRange:
        output = self.tensors.get(stem.operator.data)
        known = output is not None and len(output.mean) == len(stem.slope)
        mean = (np.asarray(output.mean) - stem.offset) / stem.slope - zero if output is not None and known else np.zeros(0)
        low, high = float(-zero), float(255 - zero)
        return TensorRange(low, high, low, high, tuple(map(float, mean)))

    def _padded(self, name: str, stem: _Stem, axis: int, before: int, *, behind: int) -> str:
        """Lay ``border`` before and behind an image along an axis."""
        if not before and not behind:
            return name
        shape = list(self._view.shape(stem.image) or ())
        shape[2] += (stem.pads[1] + stem.pads[3]) * (axis == 1)
        parts = [name]
        for before_it, count in ((True, before), (False, behind)):
            shape[axis] = count
            if count:
                border = self._new.constant("border", np.broadcast_to(stem.border, shape))
                parts = [border, *parts] if before_it else [*parts, border]
        return self._new.op("Concat", parts, f"{stem.image}/bordered", axis=axis)
