"""Convolutions of few 8-bit channels read several columns of the image as one, so that ONNX Runtime has a kernel for
them.

Its 8-bit convolution without copies (``ConvSym`` in MLAS) takes channels by the four; for the three of a colour image
it copies every window first, which costs more than the products. In an image [N, H, W, C] neighbouring columns lie side
by side, so [N, H, W / 4, 4 C] is the same memory. A convolution of that image gives all outputs that begin in the same
four columns as so many times more channels, and [N, H, W / 2, 2 C] to [N, H, W, C] is the same memory again. Weights
that a window does not reach are 0: about twice the products, at a fifth of the time. Sums of whole numbers do not
depend on their order, so the numbers stay the same to the bit, unless a kernel saturates on the way: both are run and
compared. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from calibration.graph_view import GraphView, Writer, attribute, drop_idle, drop_unused, part_of, replace_nodes
from calibration.placement import FEW_CHANNELS
from calibration.session import open_session

TO_PLANES, TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]
_ALIGNMENT = 4
_DARKEST = (255, 128, 0, 0)  # the darkest value of each image that the numbers are compared on
_MAX_WASTE = 3  # products with weights and with the zeros between them, to those with weights alone


@dataclass(frozen=True)
class Packing:
    """``pixels`` columns are read as one, ``groups`` of them, ``kernel`` in a window; it gives ``columns`` at a time.
    """

    pixels: int
    columns: int
    kernel: int
    groups: int


def packing(channels: int, kernel: int, stride: int, width: int, wide: int) -> Packing | None:
    """Return how to pack a convolution without padding from ``width`` to ``wide`` columns; None where it does not pay.
    """
    pixels = stride
    while pixels * channels % _ALIGNMENT:
        pixels += stride
    columns = pixels // stride
    reach = -(-((columns - 1) * stride + kernel) // pixels)
    groups = wide // columns + reach - 1
    pays = channels < FEW_CHANNELS and pixels > 1 and reach * pixels <= _MAX_WASTE * kernel
    return Packing(pixels, columns, reach, groups) if pays and not wide % columns and groups * pixels >= width else None


@dataclass(frozen=True)
class _PackedConv:
    """A convolution to pack: its node, what it reads, its Q, the image in bytes, and both shapes [N, C, H, W]."""

    conv: NodeProto
    data: NodeProto
    weight: NodeProto
    bias: NodeProto | None
    quantiser: NodeProto
    image: str
    shape: tuple[int, ...]
    given: tuple[int, ...]
    packing: Packing


def pack_columns(model: bytes) -> bytes:
    """Return ``model`` with the columns packed of all Q/DQ convolutions of few channels that read an image u8 [N, H, W,
    C].

    Such a convolution reads it through Transpose and DequantizeLinear, has constant S8 weights with a scale a channel,
    an S32 bias or none and no padding at the sides, and feeds one QuantizeLinear. Others are left as they are, and so
    is a model whose numbers would not stay the same to the bit in ONNX Runtime on this processor.
    """
    view = GraphView(model)
    writer, nodes, moved = _Writer(view), list[NodeProto](), set[str]()
    for position, node in enumerate(view.graph.node):
        result = _find(view, position)
        if result is not None:
            nodes += writer.write(result)
            moved.update(result.quantiser.output)
        elif moved.isdisjoint(node.output):
            nodes.append(node)
    if not moved:
        return model
    replace_nodes(view.graph, nodes)
    drop_idle(view.graph)
    drop_unused(view.graph)
    del view.graph.value_info[:]
    packed = bytes(view.model.SerializeToString())
    return packed if _same_numbers(model, packed, sorted(moved)) else model


def _same_numbers(model: bytes, packed: bytes, names: Sequence[str]) -> bool:
    """Whether both give the same tensors ``names`` u8 here, for the brightest image and for random ones.

    Without ONNX Runtime nothing runs here, and the answer is yes.
    """
    try:
        plain, changed = (open_session(_cut(output, names), 1) for output in (model, packed))
    except ImportError:
        return True
    images = plain.get_inputs()
    if any(item.type != "tensor(uint8)" or not all(isinstance(n, int) for n in item.shape) for item in images):
        return False
    rng = np.random.default_rng(0)
    for lowest in _DARKEST:
        feed = {item.name: rng.integers(lowest, 256, item.shape, dtype=np.uint8) for item in images}
        pairs = zip(plain.run(names, feed), changed.run(names, feed), strict=True)
        if not all(np.array_equal(exact, result) for exact, result in pairs):
            return False
    return True


def _cut(model: bytes, names: Sequence[str]) -> ModelProto:
    """Return the part of a model that makes the tensors ``names`` u8."""
    part = part_of(ModelProto.FromString(model), names)
    part.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names)
    return part


def _find(view: GraphView, position: int) -> _PackedConv | None:
    conv = view.node(position)
    if conv.op_type != "Conv" or not plain_window(conv):
        return None
    data, weight, *rest = (view.producer_of(name) for name in conv.input if name)
    reader = view.only_reader(conv.output[0])
    if data is None or weight is None or reader is None or None in rest:
        return None
    quantiser, bias = view.node(reader), rest[0] if rest else None
    turn = view.producer_of(data.input[0])
    if turn is None or turn.op_type != "Transpose" or attribute(turn, "perm") != TO_PLANES:
        return None
    kinds = [data.op_type, weight.op_type, bias.op_type if bias else "DequantizeLinear", quantiser.op_type]
    shape, given = view.shape(data.input[0]), view.shape(conv.output[0])
    pads = attribute(conv, "pads", [0] * 4)
    if kinds != ["DequantizeLinear"] * 3 + ["QuantizeLinear"] or shape is None or given is None or pads[1] or pads[3]:
        return None
    if not _steps_fit(view, data, weight, bias, quantiser=quantiser, channels=given[1]):
        return None
    sides = view.array(weight.input[0]).shape[3], attribute(conv, "strides", [1, 1])[1]
    output = packing(shape[1], *sides, shape[3], given[3])
    return None if output is None else _PackedConv(conv, data, weight, bias, quantiser, turn.input[0], shape, given, output)


def plain_window(conv: NodeProto) -> bool:
    """Whether a convolution of images has one group, no dilation across columns, and its padding in numbers."""
    strides, dilations = (attribute(conv, name, [1, 1]) for name in ("strides", "dilations"))
    automatic = attribute(conv, "auto_pad", b"NOTSET") not in (b"NOTSET", b"")
    return len(strides) == 2 and dilations[-1] == 1 and attribute(conv, "group", 1) == 1 and not automatic


def _steps_fit(
    view: GraphView, data: NodeProto, weight: NodeProto, bias: NodeProto | None, *, quantiser: NodeProto, channels: int
) -> bool:
    """Whether tensors have one scale, weights and bias one a channel, all constant and with zero points."""
    if any(len(node.input) < 3 or not set(node.input[1:]) <= view.weights.keys() for node in (data, quantiser)):
        return False
    pair = [weight] if bias is None else [weight, bias]
    if any(len(node.input) < 3 or not set(node.input) <= view.weights.keys() for node in pair):
        return False
    ones = all(view.array(name).size == 1 for node in (data, quantiser) for name in node.input[1:])
    return ones and all(
        view.array(node.input[1]).shape == (channels,) and attribute(node, "axis", 1) == 0 for node in pair
    )


class _Writer:
    """Writes packed convolutions; those that read the same image alike share their input."""

    def __init__(self, view: GraphView) -> None:
        self._view, self._new = view, Writer(view.graph)
        self._inputs: dict[tuple[str, ...], str] = {}

    def write(self, result: _PackedConv) -> list[NodeProto]:
        """Return the nodes in the place of a convolution and of its Q."""
        self._new.nodes = []
        columns, (batch, channels, height, width) = result.packing.columns, result.given
        inputs = [self._input(result), self._operand(result.weight, self._weight(result), columns)]
        if result.bias is not None:
            values = np.tile(self._view.array(result.bias.input[0]), columns)
            inputs.append(self._operand(result.bias, values, columns))
        kernel = self._view.array(result.weight.input[0]).shape[2]
        strides, pads = attribute(result.conv, "strides", [1, 1]), attribute(result.conv, "pads", [0] * 4)
        window = {"kernel_shape": [kernel, result.packing.kernel], "strides": [strides[0], 1], "pads": pads}
        rows = [attribute(result.conv, "dilations", [1, 1])[0], 1]
        output = self._new.op("Conv", inputs, result.conv.output[0], name=result.conv.name, dilations=rows, **window)
        name = result.quantiser.output[0]
        output = self._new.op("QuantizeLinear", [output, *result.quantiser.input[1:]], f"{name}/packed")
        output = self._new.op("Transpose", [output], f"{name}/packed/pixels", perm=TO_PIXELS)
        shape = self._new.constant(f"{name}/shape", np.array([batch, height, width, channels]))
        output = self._new.op("Reshape", [output, shape], f"{name}/pixels")
        self._new.nodes.append(helper.make_node("Transpose", [output], [name], name=f"{name}/planes", perm=TO_PLANES))
        return self._new.nodes

    def _input(self, result: _PackedConv) -> str:
        """Return the image with ``pixels`` columns in one, filled up on the right where nothing is read."""
        batch, channels, height, width = result.shape
        packed, name = result.packing, result.image
        key = (name, *result.data.input[1:], str(packed.pixels), str(packed.groups))
        if key in self._inputs:
            return self._inputs[key]
        missing = packed.groups * packed.pixels - width
        if missing:
            fill = self._new.constant(f"{name}/fill", np.zeros((batch, height, missing, channels), np.uint8))
            name = self._new.op("Concat", [name, fill], f"{name}/filled", axis=2)
        shape = self._new.constant(f"{name}/shape", np.array([batch, height, packed.groups, packed.pixels * channels]))
        output = self._new.op("Reshape", [name, shape], f"{name}/packed")
        output = self._new.op("Transpose", [output], f"{output}/planes", perm=TO_PLANES)
        self._inputs[key] = self._new.op("DequantizeLinear", [output, *result.data.input[1:]], f"{output}/float")
        return self._inputs[key]

    def _weight(self, result: _PackedConv) -> NDArray[Any]:
        """Return weights [columns x O, pixels x C, rows, groups]: those of each column, as far to the right as it
        begins.
        """
        exact, packed = self._view.array(result.weight.input[0]), result.packing
        outputs, channels, rows, kernel = exact.shape
        stride = packed.pixels // packed.columns
        wide = np.zeros((packed.columns, outputs, rows, packed.kernel * packed.pixels, channels), exact.dtype)
        for column in range(packed.columns):
            first = column * stride
            wide[column, :, :, first : first + kernel] = exact.transpose(0, 2, 3, 1)
        table = wide.reshape(packed.columns * outputs, rows, packed.kernel, packed.pixels * channels)
        return np.ascontiguousarray(table.transpose(0, 3, 1, 2))

    def _operand(self, source: NodeProto, values: NDArray[Any], times: int) -> str:
        """Write a constant with its DQ, whose scales and zero points are those of ``source``, ``times`` in a row."""
        name = f"{source.output[0]}/packed"
        inputs = [self._new.constant(f"{name}/q", values)]
        for part, output in zip("sz", source.input[1:], strict=True):
            inputs.append(self._new.constant(f"{name}/{part}", np.tile(self._view.array(output), times)))
        return self._new.op("DequantizeLinear", inputs, name, axis=0)
