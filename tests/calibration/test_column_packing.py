"""Convolutions of few 8-bit channels with their columns packed: the same numbers to the bit, or the graph as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibration.column_packing import Packing, pack_columns, packing
from calibration.cpu import weight_limit
from tests.calibration.nets import Array, Net, run


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "width", "wide", "expected"),
    [
        (3, 4, 2, 258, 128, Packing(4, 2, 2, 65)),  # outputs at columns 0 and 2 reach columns 0 to 5: two groups of 4
        (3, 3, 2, 257, 128, Packing(4, 2, 2, 65)),
        (3, 7, 2, 230, 112, Packing(4, 2, 3, 58)),
        (3, 3, 1, 18, 16, Packing(4, 4, 2, 5)),
        (3, 16, 16, 256, 16, Packing(16, 1, 1, 16)),  # patches: no window overlaps, nothing is wasted
        (1, 3, 2, 17, 8, Packing(4, 2, 2, 5)),
        (4, 3, 2, 17, 8, Packing(2, 1, 2, 9)),
        (4, 3, 1, 18, 16, None),  # channels by the four already
        (8, 3, 2, 17, 8, None),
        (3, 1, 1, 16, 16, None),  # four times the products
        (3, 4, 2, 260, 129, None),  # outputs do not come in pairs
        (3, 16, 16, 270, 16, None),  # columns behind the last window
    ],
)
def test_packing_by_hand(
    channels: int, kernel: int, stride: int, width: int, wide: int, expected: Packing | None
) -> None:
    assert packing(channels, kernel, stride, width, wide) == expected


@dataclass(frozen=True)
class Stem:
    """A Q/DQ convolution of an image u8 [N, H, W, C], and what is odd about it."""

    size: tuple[int, int, int, int] = (1, 9, 18, 3)
    kernel: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    outputs: int = 6
    bias: bool = True
    group: int = 1
    copies: int = 1
    limit: int = weight_limit()
    odd: str = ""


def build(stem: Stem) -> bytes:
    net, rng = Net(), np.random.default_rng(1)
    image = "x" if stem.odd == "planes" else net.op("Transpose", "x", perm=[0, 3, 1, 2])
    scale, zero = net.const(0.5), net.const(120, np.uint8)
    data = net.op("DequantizeLinear", image, scale, zero)
    outputs = {}
    for copy in range(stem.copies):
        shape = (stem.outputs, stem.size[3] // stem.group, *stem.kernel)
        steps, count = rng.integers(-stem.limit, stem.limit + 1, shape), 1 if stem.odd == "one scale" else stem.outputs
        scales = rng.uniform(0.001, 0.002, count).astype(np.float32)
        held = scales if count > 1 else scales[0]
        operands = [net.const(steps, np.int8), net.const(held), net.const(np.zeros_like(held), np.int8)]
        weight = net.op("DequantizeLinear", *operands, axis=0)
        if stem.odd == "float weight":
            weight = net.const(steps * 0.001)
        inputs = [data, weight]
        if stem.bias:
            values = net.const(rng.integers(-9000, 9000, stem.outputs), np.int32)
            step = net.const(np.broadcast_to(scales * np.float32(0.5), stem.outputs))
            inputs.append(net.op("DequantizeLinear", values, step, net.const([0] * stem.outputs, np.int32), axis=0))
        window = {"strides": stem.strides, "pads": stem.pads, "dilations": stem.dilations, "group": stem.group}
        conv = net.op("Conv", *inputs, kernel_shape=stem.kernel, **window)
        given = net.op("QuantizeLinear", conv, net.const(0.2), net.const(99, np.uint8))
        outputs[net.op("DequantizeLinear", given, net.const(0.2), net.const(99, np.uint8), out=f"y{copy}")] = [None] * 4
        if stem.odd == "read twice":
            outputs[net.op("Relu", conv, out="relu")] = [None] * 4
        if stem.odd == "an output":
            outputs[conv] = [None] * 4
    size = stem.size if stem.odd != "planes" else tuple(stem.size[i] for i in (0, 3, 1, 2))
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(
        net.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, size)], declared, net.weights
    )
    held_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(held_model.SerializeToString())


def shapes(model: bytes) -> list[list[int]]:
    """Return the shapes of the weights of all convolutions."""
    graph = onnx.load_model_from_string(model).graph
    made = {node.output[0]: node for node in graph.node}
    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return [dims[made[node.input[1]].input[0]] for node in graph.node if node.op_type == "Conv"]


PACKED = [
    (Stem(), [12, 12, 4, 2]),
    (Stem(bias=False, copies=2), [12, 12, 4, 2]),
    (Stem(size=(2, 9, 17, 3), kernel=(3, 3)), [12, 12, 3, 2]),
    (Stem(size=(1, 9, 22, 3), kernel=(7, 7), pads=(3, 0, 2, 0)), [12, 12, 7, 3]),
    (Stem(size=(1, 6, 18, 3), kernel=(3, 3), strides=(1, 1), dilations=(2, 1)), [24, 12, 3, 2]),
    (Stem(size=(1, 8, 17, 1), kernel=(3, 3)), [12, 4, 3, 2]),
    (Stem(size=(1, 8, 8, 3), kernel=(4, 4), strides=(4, 4)), [6, 12, 4, 1]),
]


@pytest.mark.parametrize(("stem", "weight"), PACKED)
def test_exact_sums_stay_the_same_to_the_bit(stem: Stem, weight: list[int]) -> None:
    """Weights are within what this processor sums exactly, so no order of adding changes anything."""
    model = build(stem)
    packed = pack_columns(model)
    assert shapes(packed) == [weight] * stem.copies
    assert_equal(model, packed, stem)


@pytest.mark.parametrize("stem", [stem for stem, _ in PACKED])
def test_where_sums_saturate_packing_never_changes_a_number(stem: Stem) -> None:
    """Kernels that saturate at 16 bits add other pairs when columns are packed: such a convolution is left as it is."""
    model = build(replace(stem, limit=127))
    assert_equal(model, pack_columns(model), stem)


def assert_equal(model: bytes, packed: bytes, stem: Stem) -> None:
    image: Array = np.random.default_rng(2).integers(0, 256, stem.size, dtype=np.uint8)
    for exact, result in zip(run(model, {"x": image}), run(packed, {"x": image}), strict=True):
        assert exact.std() > 1.0
        assert np.array_equal(exact, result)


def test_convolutions_of_one_picture_share_what_they_read() -> None:
    kinds = [node.op_type for node in onnx.load_model_from_string(pack_columns(build(Stem(copies=2)))).graph.node]
    assert kinds.count("Conv") == 2
    assert kinds.count("Concat") == 1
    assert kinds.count("Reshape") == 1 + 2  # the image, and each output


PLAIN = Stem()


@pytest.mark.parametrize(
    "stem",
    [
        replace(PLAIN, pads=(0, 1, 0, 1)),
        replace(PLAIN, size=(1, 9, 17, 3), kernel=(3, 2), dilations=(1, 2)),
        replace(PLAIN, group=3),
        replace(PLAIN, size=(1, 9, 18, 8)),
        replace(PLAIN, size=(1, 9, 20, 3)),
        *(replace(PLAIN, odd=odd) for odd in ("planes", "one scale", "float weight", "read twice", "an output")),
    ],
    ids=str,
)
def test_others_are_left_alone(stem: Stem) -> None:
    model = build(stem)
    assert pack_columns(model) == model
