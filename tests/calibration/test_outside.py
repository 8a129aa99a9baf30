"""Graphs from outside go through `calibration` alone, and TensorRT for RTX compiles what comes out, in both typings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from calibration.collect import collect
from calibration.fp16 import to_fp16
from calibration.graph_view import GraphView
from calibration.placement import operators
from calibration.quantise import quantise, relative_errors
from edge_ad.engines.tensorrt.build import compile_check
from tests.calibration.nets import Array, Net, cnn, feeds, run, vit

NETS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "cnn": (cnn, 8, "mixed"),
    "vit": (vit, 3, "head"),
    "vit decomposed": (lambda: vit(decomposed=True), 3, "head"),
}


def nameless(data: bytes) -> bytes:
    """Return a model whose nodes have no names, as some exporters leave them."""
    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        node.name = ""
    return bytes(model.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_precision_and_typing_compiles(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    make, channels, _ = NETS[name]
    ranges = collect(make(), feeds(channels, 6), threads=1)
    variants = {
        "fp32": make(),
        "fp16": to_fp16(make(), ranges=ranges),
        "int8 strong": quantise(make(), ranges, typing="fp16"),
        "int8 weak": quantise(make(), ranges, typing="fp32"),
    }
    for data in variants.values():
        assert compile_check(data, "int8") > 10_000


@pytest.mark.parametrize("name", NETS)
def test_nodes_without_names(name: str) -> None:
    make, channels, output = NETS[name]
    data = nameless(make())
    ranges = collect(data, feeds(channels, 8), "percentile", threads=1)
    first = operators(GraphView(data))[0].key
    for dialect in ("tensorrt", "cpu"):
        result = quantise(data, ranges, dialect, keep=[first])
        assert relative_errors(data, result, feeds(channels, 3, seed=4), threads=1)[output] < 0.2


def test_a_quantised_stream_collapses() -> None:
    """What the placement forbids, done by hand: Q/DQ on a transformer's residual Adds and LayerNorm inputs."""
    ranges = collect(vit(), feeds(3, 8), threads=1)
    good = quantise(vit(), ranges)
    model = onnx.load_model_from_string(vit())
    streams = [node.input[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    bad = onnx.load_model_from_string(good)
    for name in streams:
        scale = ranges.tensors[name].magnitude / 127
        insert_pair(bad, name, scale)
    pictures = feeds(3, 4, seed=6)
    exact = np.stack([run(vit(), feed, ["head"])[0] for feed in pictures])
    spread = exact.std(axis=0).mean()  # what differs from image to image
    results = [np.stack([run(data, feed, ["head"])[0] for feed in pictures]) for data in (good, bad.SerializeToString())]
    errors = [float(np.sqrt(((values - exact) ** 2).mean()) / spread) for values in results]
    assert errors[1] > 1.0  # nothing is left of what the images differ in
    assert errors[1] > 1.5 * errors[0]


def insert_pair(model: onnx.ModelProto, name: str, scale: float) -> None:
    """Let every reader of ``name`` read it through Q and DQ."""
    net = Net()
    constants = [net.const(scale), net.const(0, "int8")]
    for node in model.graph.node:
        node.input[:] = [f"{name}/bad" if item == name else item for item in node.input]
    for index, constant in enumerate(net.weights):
        constant.name = f"{name}/bad/{index}"
        model.graph.initializer.append(constant)
    operands = [f"{name}/bad/{index}" for index in range(len(constants))]
    position = next((i + 1 for i, node in enumerate(model.graph.node) if name in node.output), 0)
    quantise_node = onnx.helper.make_node("QuantizeLinear", [name, *operands], [f"{name}/bad/q"])
    model.graph.node.insert(position, quantise_node)
    back = onnx.helper.make_node("DequantizeLinear", [f"{name}/bad/q", *operands], [f"{name}/bad"])
    model.graph.node.insert(position + 1, back)


def test_a_transposed_convolution_keeps_fp32_on_a_cpu_only() -> None:
    net = Net()
    a = net.conv("x", 8, 8, out="a")
    weight, bias = net.const(net.rng.normal(0, 0.2, (8, 4, 2, 2))), net.const(net.rng.normal(0, 0.1, 4))
    net.op("ConvTranspose", a, weight, bias, out="y", strides=[2, 2])
    model = net.model([1, 8, 6, 6], {"y": [1, 4, 12, 12]})
    pictures = [{"x": run_input(number)} for number in range(6)]
    ranges = collect(model, pictures, threads=1)
    for dialect, count in (("tensorrt", 2), ("cpu", 1)):
        data = quantise(model, ranges, dialect)
        graph = onnx.load_model_from_string(data).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        weighted = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
        assert sum(makers.get(node.input[1]) == "DequantizeLinear" for node in weighted) == count
        assert relative_errors(model, data, pictures, threads=1)["y"] < 0.05


def run_input(seed: int) -> Array:
    """Return a random image."""
    return np.random.default_rng(seed).normal(0, 1, (1, 8, 6, 6)).astype(np.float32)


def test_an_attention_product_is_left_alone() -> None:
    assert run(vit(), feeds(3, 1)[0], ["code"])[0].shape == (1, 16)
    kinds = [item.kind for item in operators(GraphView(vit()))]
    assert (kinds.count("MatMul"), kinds.count("Gemm"), kinds.count("Conv")) == (11, 2, 1)
