"""Explicit Q/DQ on the graph itself: symmetric, zero points present and 0, per-channel weights, FP32 bias; and close results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from calibration.collect import collect
from calibration.graph_view import GraphView
from calibration.placement import operators
from calibration.quantise import exact_quantisers, quantise, relative_errors
from calibration.ranges import Ranges
from tests.calibration.nets import cnn, feeds, run, vit

MODELS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "cnn": (cnn, 8, "mixed"),
    "vit": (vit, 3, "head"),
    "vit decomposed": (lambda: vit(decomposed=True), 3, "head"),
}
NEVER = {"LayerNormalization", "Softmax", "ReduceMean", "Sqrt", "Div", "Sub", "ArgMin", "Add", "Gelu", "Mul", "Flatten"}


@pytest.fixture(scope="module")
def measured() -> dict[str, Ranges]:
    return {name: collect(make(), feeds(channels, 24), threads=1) for name, (make, channels, _) in MODELS.items()}


def graph_of(data: bytes) -> onnx.GraphProto:
    onnx.checker.check_model(onnx.load_model_from_string(data), full_check=True)
    return onnx.load_model_from_string(data).graph


@pytest.mark.parametrize("typing", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_rules_of_tensorrt(name: str, typing: str, measured: dict[str, Ranges]) -> None:
    make, _, _ = MODELS[name]
    data = quantise(make(), measured[name], "tensorrt", typing=typing)
    graph = graph_of(data)
    held = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        scale, zero = numpy_helper.to_array(held[node.input[1]]), numpy_helper.to_array(held[node.input[2]])
        assert (scale > 0).all()
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == zero.shape
        if node.op_type == "DequantizeLinear":
            assert makers[node.input[0]].op_type == "QuantizeLinear"  # weights too: FP32 + Q + DQ
    weighted = {operator.kind for operator in operators(GraphView(make()))}
    for node in graph.node:
        sources = [makers[item].op_type if item in makers else "" for item in node.input]
        if node.op_type in weighted and "DequantizeLinear" in sources:
            assert sources[:2] == ["DequantizeLinear"] * 2
            assert len(sources) < 3 or sources[2] == ""  # the bias is a plain constant
            axis = 0 if node.op_type == "Conv" else None
            weight = makers[node.input[1]]
            assert axis is None or onnx.helper.get_node_attr_value(weight, "axis") == axis
            assert numpy_helper.to_array(held[weight.input[1]]).ndim == 1
        elif node.op_type in NEVER - ({"Add"} if name == "cnn" else set()):
            assert "DequantizeLinear" not in sources
        quantised = [reader for item in node.output for reader in graph.node if item in reader.input]
        if node.op_type in ("Conv", "Gemm", "MatMul"):  # nothing between an operator and its activation
            after = {reader.op_type for reader in quantised}
            assert "QuantizeLinear" not in after or "Clip" not in after


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dialect", "typing"), [("tensorrt", "fp32"), ("tensorrt", "fp16"), ("cpu", "fp32")])
def test_results_stay_close(name: str, dialect: str, typing: str, measured: dict[str, Ranges]) -> None:
    make, channels, output = MODELS[name]
    data = quantise(make(), measured[name], dialect, typing=typing)
    before, after = (onnx.load_model_from_string(item).graph for item in (make(), data))
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    assert relative_errors(make(), data, feeds(channels, 6, seed=5), threads=1)[output] < 0.1


@pytest.mark.parametrize("axis", [None, 0])
def test_steps_of_half_precision_are_rounded_by_every_runtime(axis: int | None) -> None:
    """onnxruntime before 1.30 gives 0, 0, 1, 2, 0 and 34 here; the definition rounds, halves to even."""
    scale = np.ones((), np.float16) if axis is None else np.ones(1, np.float16)
    operands = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.zeros(scale.shape, np.int8), "z")]
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x/fp32"], axis=0)
    make = onnx.helper.make_tensor_value_info
    ends = [make("x", TensorProto.FLOAT16, [1, 7])], [make("x/fp32", TensorProto.INT8, [1, 7])]
    graph = onnx.helper.make_graph([node], "g", *ends, operands)
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    result = exact_quantisers(data.SerializeToString())
    onnx.checker.check_model(onnx.load_model_from_string(result), full_check=True)
    values = np.array([[0.4, 0.6, 1.5, 2.5, -0.6, 34.98, -82.99]], np.float16)
    assert run(result, {"x": values})[0].tolist() == [[0, 1, 2, 2, -1, 35, -83]]
    assert exact_quantisers(result) == result


def test_the_types_of_the_rest(measured: dict[str, Ranges]) -> None:
    """Strongly typed, the rest is FP16; weakly typed it is FP32; scales are the same numbers in both."""
    scales = {}
    for typing, wanted in (("fp32", TensorProto.FLOAT), ("fp16", TensorProto.FLOAT16)):
        data = quantise(cnn(), measured["cnn"], "tensorrt", typing=typing)
        inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data)).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
        convolved = [node.output[0] for node in inferred.node if node.op_type == "Conv"]
        assert {kinds[output] for output in convolved if output in kinds} == {wanted}
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in inferred.initializer}
        quantisers = [node for node in inferred.node if node.op_type == "QuantizeLinear"]
        scales[typing] = [held[node.input[1]].astype(np.float64).tolist() for node in quantisers]
    assert scales["fp32"] == scales["fp16"]


def test_the_cpu_dialect_is_unsigned_with_signed_weights(measured: dict[str, Ranges]) -> None:
    graph = graph_of(quantise(cnn(), measured["cnn"], "cpu", weight_limit=63))
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert held[node.input[2]].dtype == np.uint8
    kinds = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in held:
            steps = held[node.input[0]]
            kinds.setdefault(str(steps.dtype), []).append(int(np.abs(steps.astype(np.int64)).max()))
    assert set(kinds) == {"int8", "int32"}  # weights and biases
    assert max(kinds["int8"]) == 63
    assert not any(node.op_type in ("Relu", "Clip") for node in graph.node)


def test_the_cpu_dialect_is_fused_by_onnxruntime(measured: dict[str, Ranges], tmp_path: pytest.TempPathFactory) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/fused.onnx"
    options.log_severity_level = 3
    data = quantise(cnn(), measured["cnn"], "cpu")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(f"{tmp_path}/fused.onnx").graph.node]
    assert kinds.count("QLinearConv") == 8
    assert kinds.count("QGemm") == 1
    assert kinds.count("QLinearAdd") == 2
    assert "Conv" not in kinds


def test_bias_correction_removes_the_mean_shift(measured: dict[str, Ranges]) -> None:
    """Coarse weights shift every channel; the corrected bias takes that back: the mean error falls to under half."""
    pictures = feeds(8, 12, seed=9)
    errors = []
    for correct in (False, True):
        data = quantise(cnn(), measured["cnn"], "tensorrt", weight_limit=7, correct_bias=correct)
        pairs = [(run(cnn(), feed, ["mixed"])[0], run(data, feed, ["mixed"])[0]) for feed in pictures]
        errors.append(np.abs(np.mean([b - a for a, b in pairs], axis=(0, 1, 3, 4))).mean())
    assert errors[1] < 0.5 * errors[0]


def test_equalised_channels_before_a_depthwise_convolution() -> None:
    """A channel 50 times smaller than the rest survives 8 bits only when it is raised before the depthwise filter."""
    model = onnx.load_model_from_string(cnn())
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    stem, depth = (next(node for node in model.graph.node if node.name == name) for name in ("n_stem", "n_depth"))
    for name, factor in ((stem.input[1], 0.02), (stem.input[2], 0.02), (depth.input[1], 50.0)):
        values = numpy_helper.to_array(held[name]).copy()
        values[3] *= factor
        held[name].CopyFrom(numpy_helper.from_array(values, name))
    data = model.SerializeToString()
    ranges = collect(data, feeds(8, 16), threads=1)
    keep = [item.key for item in operators(GraphView(data)) if item.key != "n_depth"]
    shown = onnx.load_model_from_string(data)
    shown.graph.output.append(onnx.helper.make_tensor_value_info("depth", TensorProto.FLOAT, None))
    errors = []
    for equalised in (False, True):
        result = onnx.load_model_from_string(quantise(data, ranges, "tensorrt", keep, equalised=equalised))
        result.graph.output.append(onnx.helper.make_tensor_value_info("depth", TensorProto.FLOAT, None))
        feed = feeds(8, 1, seed=3)[0]
        exact, rounded = (run(item.SerializeToString(), feed, ["depth"])[0] for item in (shown, result))
        errors.append(float(np.abs(exact - rounded)[0, 3].max()))
    assert errors[1] < 0.2 * errors[0]


def test_refusals(measured: dict[str, Ranges]) -> None:
    with pytest.raises(ValueError, match="another graph: calibrate again"):
        quantise(cnn(seed=1), measured["cnn"])
    with pytest.raises(ValueError, match="cpu has fp32, tensorrt fp32 and fp16"):
        quantise(cnn(), measured["cnn"], "cpu", typing="fp16")
    old = onnx.load_model_from_string(cnn())
    old.opset_import[0].version = 18
    data = old.SerializeToString()
    with pytest.raises(ValueError, match="opset 18, but fp16 Q/DQ needs 19"):
        quantise(data, collect(data, feeds(8, 2), threads=1), typing="fp16")


def test_the_model_is_not_changed_and_the_result_is_the_same_every_time(measured: dict[str, Ranges]) -> None:
    for dialect in ("tensorrt", "cpu"):
        assert quantise(cnn(), measured["cnn"], dialect) == quantise(cnn(), measured["cnn"], dialect)


def test_ranges_that_are_ten_times_too_small_ruin_it(measured: dict[str, Ranges]) -> None:
    data = quantise(cnn(), measured["cnn"].scaled(0.1), "tensorrt")
    assert relative_errors(cnn(), data, feeds(8, 4, seed=5), threads=1)["mixed"] > 0.3
