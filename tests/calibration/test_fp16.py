"""The FP16 cast: which nodes move, that inputs and outputs stay, and that results stay close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.fp16 import METADATA_KEY, to_fp16
from tests.fixtures.tiny_bundle import Reference, tiny_image, tiny_masks
from tests.fixtures.tiny_graphs import tiny_graphs

Types = dict[str, int]
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0, 0.2, (4, 4)).astype(np.float32)
KERNEL = RNG.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, output.split(), name=f"/{output.split()[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto], x: Sequence[int], outputs: dict[str, Sequence[int]], weights: Mapping[str, Any]
) -> onnx.ModelProto:
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [make("x", TensorProto.FLOAT, list(x))],
        [make(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def types(data: bytes) -> Types:
    """Return the element type of every tensor of a model, by name."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data), strict_mode=True)
    graph = inferred.graph
    declared = [*graph.input, *graph.output, *graph.value_info]
    result = {value.name: value.type.tensor_type.elem_type for value in declared}
    return result | {tensor.name: tensor.data_type for tensor in graph.initializer}


def halves(data: bytes) -> set[str]:
    """Return the names of the nodes that compute in FP16, casts aside."""
    kinds = types(data)
    graph = onnx.load_model_from_string(data).graph
    return {item.name for item in graph.node if item.op_type != "Cast" and kinds[item.output[0]] == TensorProto.FLOAT16}


def casts(data: bytes) -> int:
    return sum(item.op_type == "Cast" for item in onnx.load_model_from_string(data).graph.node)


def run(data: bytes, x: NDArray[Any]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def test_a_chain_is_cast_once_at_each_end() -> None:
    nodes = [
        node("Conv", "x k", "a", pads=[1, 1, 1, 1]),
        node("Clip", "a zero six", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "c k", "y", pads=[1, 1, 1, 1]),
    ]
    source = model(nodes, [1, 4, 8, 8], {"y": [1, 4, 4, 4]}, {"k": KERNEL, "zero": np.float32(0), "six": np.float32(6)})
    data = to_fp16(source)
    assert halves(data) == {"/a", "/b", "/c", "/y"}
    assert casts(data) == 2
    result = types(data)
    assert result["x"] == result["y"] == TensorProto.FLOAT
    assert result["k_fp16"] == TensorProto.FLOAT16
    assert "k" not in result
    x = RNG.normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    expected = run(source.SerializeToString(), x)[0]
    np.testing.assert_allclose(run(data, x)[0], expected, atol=5e-3)


def test_the_residual_stream_and_normalisation_stay_fp32() -> None:
    """A transformer block: x + MatMul(LayerNorm(x)), with a softmax; only the products and their biases are FP16."""
    nodes = [
        node("LayerNormalization", "x scale bias", "n", axis=-1),
        node("MatMul", "n w", "h"),
        node("Add", "h bias", "hb"),
        node("Softmax", "hb", "p", axis=-1),
        node("MatMul", "hb w", "o"),
        node("Mul", "o p", "weighed"),
        node("Add", "x weighed", "y"),
    ]
    weights = {"w": WEIGHT, "scale": np.ones(4, np.float32), "bias": np.full(4, 0.1, np.float32)}
    data = to_fp16(model(nodes, [1, 5, 4], {"y": [1, 5, 4]}, weights))
    assert halves(data) == {"/h", "/hb", "/o"}
    result = types(data)
    assert result["bias"] == TensorProto.FLOAT
    assert result["bias_fp16"] == TensorProto.FLOAT16
    assert "scale_fp16" not in result


def test_the_product_of_a_distance_stays_fp32() -> None:
    """|x|^2 - 2xc + |c|^2, arg-min: FP16 would choose other codes where two are almost equally near."""
    nodes = [
        node("MatMul", "x w", "xc"),
        node("Mul", "xc two", "double"),
        node("Sub", "norms double", "d"),
        node("ArgMin", "d", "i", axis=-1, keepdims=0),
        node("Cast", "i", "code", to=TensorProto.FLOAT),
        node("MatMul", "x w", "y"),
    ]
    weights = {"w": WEIGHT, "two": np.float32(2), "norms": np.ones(4, np.float32)}
    data = to_fp16(model(nodes, [3, 4], {"code": [3], "y": [3, 4]}, weights))
    assert halves(data) == {"/y"}


def test_what_chooses_codes_softly_stays_fp32() -> None:
    """Softmax of distances, then a mix of constant codes: neither the distances nor the mix may be rounded."""
    nodes = [
        node("MatMul", "x w", "d"),
        node("Softmax", "d", "s", axis=-1),
        node("Reshape", "s shape", "flat"),
        node("Gemm", "flat book", "mixed"),
        node("MatMul", "x w", "q"),
        node("Softmax", "q", "attention", axis=-1),
        node("MatMul", "attention x", "y"),  # the softmax of attention weighs what is no constant
    ]
    weights = {"w": WEIGHT, "book": WEIGHT, "shape": np.array([4, 4], np.int64)}
    data = to_fp16(model(nodes, [4, 4], {"mixed": [4, 4], "y": [4, 4]}, weights))
    assert halves(data) == {"/q", "/y"}


@pytest.mark.parametrize(
    ("kind", "attributes", "extra"),
    [
        ("Softmax", {}, ""),
        ("ReduceMean", {"keepdims": 1}, ""),
        ("ReduceMax", {"keepdims": 1}, ""),
        ("Sqrt", {}, ""),
        ("Div", {}, " c"),
        ("Pow", {}, " c"),
        ("Sub", {}, " c"),
        ("Exp", {}, ""),
        ("GlobalAveragePool", {}, ""),
    ],
)
def test_delicate_operators_stay_fp32(kind: str, attributes: dict[str, int], extra: str) -> None:
    nodes = [node("Conv", "x k", "a"), node(kind, f"a{extra}", "b", **attributes), node("Relu", "b", "y")]
    shapes = {"ReduceMean": [1, 1, 1, 1], "ReduceMax": [1, 1, 1, 1], "GlobalAveragePool": [1, 4, 1, 1]}
    weights = {"k": KERNEL, "c": np.float32(2)}
    data = to_fp16(model(nodes, [1, 4, 6, 6], {"y": shapes.get(kind, [1, 4, 4, 4])}, weights))
    assert halves(data) == {"/a"}


def test_a_square_leaves_half_precision() -> None:
    nodes = [node("Conv", "x k", "a"), node("Mul", "a a", "y")]
    assert halves(to_fp16(model(nodes, [1, 4, 6, 6], {"y": [1, 4, 4, 4]}, {"k": KERNEL}))) == {"/a"}


def test_resize_keeps_its_scales() -> None:
    nodes = [node("Conv", "x k", "a"), node("Resize", "a - scales", "y", mode="linear")]
    weights = {"k": KERNEL, "scales": np.array([1, 1, 2, 2], np.float32)}
    data = to_fp16(model(nodes, [1, 4, 6, 6], {"y": [1, 4, 8, 8]}, weights))
    assert halves(data) == {"/a", "/y"}
    assert types(data)["scales"] == TensorProto.FLOAT
    x = RNG.normal(0, 1, (1, 4, 6, 6)).astype(np.float32)
    assert run(data, x)[0].shape == (1, 4, 8, 8)


def test_what_can_be_kept() -> None:
    def source() -> onnx.ModelProto:
        nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("Relu", "b", "y")]
        nodes[1].name = "/block/fp32/product"
        return model(nodes, [3, 4], {"y": [3, 4]}, {"w": WEIGHT})

    assert halves(to_fp16(source())) == {"/a"}
    assert halves(to_fp16(source(), keep_fp32_nodes=["/a"])) == set()
    assert halves(to_fp16(source(), keep_fp32_ops=["MatMul"])) == set()
    asking = source()
    helper.set_model_props(asking, {METADATA_KEY: "/other\n/a"})
    assert halves(to_fp16(asking)) == set()


def test_a_weight_beyond_the_range_keeps_its_node() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a large", "y")]
    weights = {"w": WEIGHT, "large": WEIGHT * 1e6}
    assert halves(to_fp16(model(nodes, [3, 4], {"y": [3, 4]}, weights))) == {"/a"}


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = [node("Relu", "x", "a_fp16"), node("MatMul", "a_fp16 w", "a"), node("Sub", "a a_fp16", "y")]
    source = model(nodes, [3, 4], {"y": [3, 4]}, {"w": WEIGHT})
    x = RNG.normal(0, 1, (3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(to_fp16(source), x)[0], np.maximum(x, 0) @ WEIGHT - np.maximum(x, 0), atol=5e-3)


def test_constants_and_an_output_that_is_read_inside() -> None:
    constant = helper.make_node("Constant", [], ["w"], name="/w", value=numpy_helper.from_array(WEIGHT))
    nodes = [constant, node("MatMul", "x w", "y"), node("Relu", "y", "z")]
    data = to_fp16(model(nodes, [3, 4], {"y": [3, 4], "z": [3, 4]}, {}))
    assert halves(data) == {"/y", "/z"}
    x = RNG.normal(0, 1, (3, 4)).astype(np.float32)
    y, z = run(data, x)
    np.testing.assert_allclose(y, x @ WEIGHT, atol=5e-3)
    np.testing.assert_array_equal(z, np.maximum(y, 0))


def test_a_branch_of_control_flow_reads_the_fp32_value() -> None:
    make = helper.make_tensor_value_info
    bodies = [
        helper.make_graph([helper.make_node(kind, ["a"], [kind])], kind, [], [make(kind, TensorProto.FLOAT, [3, 4])])
        for kind in ("Neg", "Identity")
    ]
    choice = helper.make_node("If", ["yes"], ["y"], name="/y", then_branch=bodies[0], else_branch=bodies[1])
    source = model([node("MatMul", "x w", "a"), choice], [3, 4], {"y": [3, 4]}, {"w": WEIGHT, "yes": np.array(True)})
    x = RNG.normal(0, 1, (3, 4)).astype(np.float32)
    np.testing.assert_allclose(run(to_fp16(source), x)[0], -(x @ WEIGHT), atol=5e-3)


def test_the_source_is_not_changed() -> None:
    source = model([node("MatMul", "x w", "y")], [3, 4], {"y": [3, 4]}, {"w": WEIGHT})
    before = source.SerializeToString()
    assert to_fp16(source) == to_fp16(before)
    assert source.SerializeToString() == before


def test_an_invalid_model_is_refused() -> None:
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        to_fp16(model([node("MatMul", "x missing", "y")], [3, 4], {"y": [3, 4]}, {}))


@pytest.mark.parametrize("name", ["teacher", "efficientad", "tokenizer", "lavit"])
def test_bundle_graphs_keep_their_contract_and_results(name: str) -> None:
    graphs = tiny_graphs()
    cast = graphs | {name: to_fp16(graphs[name])}
    before, after = (onnx.load_model_from_string(data[name]).graph for data in (graphs, cast))
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    full, half = (Reference(data, tiny_masks()).tensors(tiny_image(1, blob=True)) for data in (graphs, cast))
    for output in before.output:
        np.testing.assert_allclose(half[output.name], full[output.name], rtol=1e-2, atol=2e-3)
    if name == "tokenizer":
        np.testing.assert_array_equal(half["codes"], full["codes"])
