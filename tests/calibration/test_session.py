"""Graphs for TensorRT are computed as they are written, whatever 8-bit kernels this processor has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.collect import collect
from calibration.placement import DIALECTS
from calibration.quantise import quantise
from calibration.ranges import Ranges
from calibration.session import is_symmetric, load_session, open_session
from tests.calibration.nets import Array, cnn, feeds, run, vit


@pytest.fixture(scope="module")
def ranges() -> dict[str, Ranges]:
    return {name: collect(make(), feeds(channels, 8), threads=1) for name, make, channels, _ in NETS}


NETS = [("cnn", cnn, 8, "mixed"), ("vit", vit, 3, "head")]


# A convolution takes the reference evaluator of older versions a minute, in loops of Python.
SLOW_CNN = [pytest.param(*NETS[0], marks=pytest.mark.slow), NETS[1]]


@pytest.mark.parametrize(("name", "make", "channels", "output"), SLOW_CNN)
def test_a_graph_for_tensorrt_gives_what_is_written(
    name: str, make: object, channels: int, output: str, ranges: dict[str, Ranges]
) -> None:
    """The reference evaluator of ONNX computes node by node in FP32.

    Both add the same products in another order, which may lift a number over the edge of a step: one of 255 in the
    range of its tensor. Few do, so nearly all outputs agree to FP32's rounding and the others to steps.
    """
    graph = quantise(make(), ranges[name], "tensorrt")  # type: ignore[operator]
    feed = feeds(channels, 1, seed=3)[0]
    wanted: Array = ReferenceEvaluator(onnx.load_model_from_string(graph)).run([output], feed)[0]
    result = run(graph, feed, [output])[0]
    error = np.abs(result - wanted) / np.abs(wanted).max()
    assert (error < 1e-5).mean() > 0.98
    assert error.max() < 2 / 255


def saturating(kind: int = TensorProto.INT8) -> bytes:
    """Return a Q/DQ product of the greatest values: 64 times 127 x 127, or 255 x 127 for bytes."""
    lowest, scale = (np.int8(0), 1 / 127) if kind == TensorProto.INT8 else (np.uint8(0), 1 / 255)
    weight = np.full((64, 8), 127, np.int8)
    constants = {"s": np.float32(scale), "z": lowest, "w": weight, "t": np.float32(1 / 127), "n": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t", "n"], ["e"]),
        helper.make_node("MatMul", ["d", "e"], ["y"]),
    ]
    make = helper.make_tensor_value_info
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    ends = [make("x", TensorProto.FLOAT, [4, 64])], [make("y", TensorProto.FLOAT, [4, 8])]
    graph = helper.make_graph(nodes, "g", *ends, held)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def test_sums_for_tensorrt_do_not_saturate() -> None:
    """A sum of 64 ones is 64.

    A kernel of bytes that adds pairs in 16 bits reads 1 as 127 + 128, comes to 32 x 32,767, takes 64 x 128 x 127 off
    again, and is left with 8,160 steps of 1 / 127**2: 0.51.
    """
    result = open_session(saturating(), 1).run(None, {"x": np.ones((4, 64), np.float32)})[0]
    np.testing.assert_allclose(result, 64.0, rtol=1e-5)


@pytest.mark.parametrize("typing", ["fp32", "fp16"])
def test_what_is_for_tensorrt_is_known_by_its_signed_activations(typing: str, ranges: dict[str, Ranges]) -> None:
    assert not is_symmetric(cnn())
    for dialect in DIALECTS:
        if dialect == "tensorrt" or typing == "fp32":
            assert is_symmetric(quantise(cnn(), ranges["cnn"], dialect, typing=typing)) == (dialect == "tensorrt")


def test_a_zero_point_in_a_constant_node_counts_too() -> None:
    model = onnx.load_model_from_string(saturating())
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "z")
    node = helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.int8(0), "value"))
    model.graph.initializer.remove(zero)
    model.graph.node.insert(0, node)
    assert is_symmetric(model)
    assert not is_symmetric(saturating(TensorProto.UINT8))


def test_an_addition_is_not_fused_with_the_normalisation_after_it(tmp_path: Path) -> None:
    """onnxruntime would do it wherever a transformer adds; here it adds four times before a normalisation."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    load_session(onnxruntime, vit(), options)
    operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert (operators["SkipLayerNormalization"], operators["LayerNormalization"]) == (0, 5)
