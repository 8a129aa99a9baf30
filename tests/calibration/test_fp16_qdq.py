"""FP16 on Q/DQ graphs, and the guard against overflow from ranges."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.fp16 import to_fp16
from calibration.quantise import quantise, relative_errors
from tests.calibration.nets import Net, cnn, feeds, vit


def halves(data: bytes) -> set[str]:
    """Return the nodes that give FP16, casts aside."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.output]}
    nodes = [node for node in graph.node if node.op_type != "Cast"]
    return {node.name for node in nodes if kinds.get(node.output[0]) == TensorProto.FLOAT16}


def test_q_and_dq_follow_their_readers() -> None:
    """In FP16 every DQ before a convolution gives FP16; scales and weights are FP16; nothing is cast to and fro."""
    ranges = collect(cnn(), feeds(8, 6), threads=1)
    data = quantise(cnn(), ranges, "tensorrt", typing="fp16")
    model = onnx.load_model_from_string(data)
    held = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    full = [
        node for node in model.graph.node if held.get((node.input[1:2] and node.input[1]) or "") == TensorProto.FLOAT
    ]
    assert [node.op_type for node in full] == ["QuantizeLinear"] * 2  # of the input, and of the pooled vector
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert held[node.input[1]] == TensorProto.FLOAT16
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) <= 5  # in, both outputs, around GlobalAveragePool and before the softmax


def test_a_transformer_keeps_its_stream_in_fp32() -> None:
    ranges = collect(vit(), feeds(3, 6), threads=1)
    data = quantise(vit(), ranges, "tensorrt", typing="fp16")
    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data)).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    assert kinds["stream"] == TensorProto.FLOAT
    for node in graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "ArgMin"):
            assert kinds.get(node.output[0], TensorProto.FLOAT) in (TensorProto.FLOAT, TensorProto.INT64)


def test_tensors_near_the_end_of_the_range_stay_fp32() -> None:
    """Twice the same network, once with a gain that takes one tensor beyond half the range of FP16."""
    for gain, stays in ((1.0, False), (3e4, True)):
        net = Net()
        a = net.op("Conv", "x", net.const(net.rng.normal(0, 0.3, (8, 8, 3, 3)) * gain), out="a", pads=[1] * 4)
        net.op("Conv", a, net.const(net.rng.normal(0, 0.3, (8, 8, 3, 3)) / gain), out="y", pads=[1] * 4)
        model = net.model([1, 8, 6, 6], {"y": [1, 8, 6, 6]})
        pictures = [{"x": np.random.default_rng(i).normal(0, 1, (1, 8, 6, 6)).astype(np.float32)} for i in range(4)]
        ranges = collect(model, pictures, threads=1)
        assert ("n_a" in halves(to_fp16(model, ranges=ranges))) is not stays
        assert "n_a" in halves(to_fp16(model)) or stays
        assert relative_errors(model, to_fp16(model, ranges=ranges), pictures, threads=1)["y"] < 5e-3


def test_the_guard_is_needed_because_a_cpu_does_not_overflow() -> None:
    """ONNX Runtime computes FP16 in FP32 on a CPU: a product of 400,000 looks fine there, so ranges must tell."""
    net = Net()
    net.op("MatMul", "x", net.const(np.full((4, 4), 1000.0)), out="y")
    model = net.model([2, 4], {"y": [2, 4]})
    feed = {"x": np.full((2, 4), 100.0, np.float32)}
    assert (
        "n_y" in halves(to_fp16(model)) or onnx.load_model_from_string(to_fp16(model)).graph.node[-1].op_type == "Cast"
    )
    guarded = to_fp16(model, ranges=collect(model, [feed], threads=1))
    assert [node.op_type for node in onnx.load_model_from_string(guarded).graph.node] == ["MatMul"]
    assert relative_errors(model, guarded, [feed], threads=1)["y"] == 0.0


def test_weights_on_the_grid_are_exact_in_fp16() -> None:
    """Q of a weight in FP16 gives the very steps that Q of it in FP32 gives."""
    ranges = collect(cnn(), feeds(8, 4), threads=1)
    steps = []
    for typing in ("fp32", "fp16"):
        graph = onnx.load_model_from_string(quantise(cnn(), ranges, "tensorrt", typing=typing)).graph
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        results = []
        for node in graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] in held:
                weight, scale = (held[name].astype(np.float64) for name in node.input[:2])
                axis = helper.get_node_attr_value(node, "axis")
                shaped = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
                results.append(np.rint(weight / shaped).astype(int).ravel().tolist())
        steps.append(results)
    assert steps[0] == steps[1]
