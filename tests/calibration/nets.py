"""Graphs from outside: a residual CNN with everything that hurts, and a small vision transformer, built by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.session import open_session

SIDE, WIDTH, CELLS, HEADS = 16, 16, 16, 2
Array = NDArray[Any]


class Net:
    """Collects nodes and weights; ``op`` returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return self.const(self.rng.normal(0, scale / np.sqrt(fan), shape))

    def op(self, kind: str, *inputs: str, out: str = "", name: str = "", **attributes: Any) -> str:
        output = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or f"n_{output}", **attributes))
        return output

    def conv(self, x: str, cin: int, cout: int, kernel: int = 3, groups: int = 1, out: str = "", **options: Any) -> str:
        weight = self.normal(cout, cin // groups, kernel, kernel, scale=1.4)
        bias = self.const(self.rng.normal(0, 0.1, cout))
        pad = kernel // 2
        return self.op("Conv", x, weight, bias, out=out, pads=[pad] * 4, group=groups, **options)

    def model(self, x: Sequence[int], outputs: dict[str, Sequence[int]], dtype: int = TensorProto.FLOAT) -> bytes:
        make = helper.make_tensor_value_info
        declared = [make(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "g", [make("x", dtype, list(x))], declared, self.weights)
        held = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(held, full_check=True)
        return bytes(held.SerializeToString())


def cnn(seed: int = 0) -> bytes:
    """Return a CNN: stem, depthwise, two residual blocks (one with a projected shortcut), Resize, Concat, Gemm, Softmax."""
    net = Net(seed)
    zero, six = net.const(0.0), net.const(6.0)
    a = net.op("Clip", net.conv("x", 8, 16, out="stem"), zero, six, out="stem_act")
    d = net.op("Clip", net.conv(a, 16, 16, groups=16, out="depth"), zero, six, out="depth_act")
    b = net.conv(net.op("Relu", net.conv(d, 16, 16), out="block_act"), 16, 16, out="branch1")
    r = net.op("Relu", net.op("Add", d, b, out="sum1"), out="sum1_act")
    down = net.conv(r, 16, 24, kernel=1, out="shortcut")
    e = net.conv(net.op("Relu", net.conv(r, 16, 24)), 24, 24, out="branch2")
    s = net.op("Relu", net.op("Add", e, down, out="sum2"), out="sum2_act")
    pooled = net.op("MaxPool", s, kernel_shape=[2, 2], strides=[2, 2])
    large = net.op("Resize", pooled, "", net.const([1, 1, 2, 2]), mode="linear", out="large")
    joined = net.op("Concat", large, s, axis=1)
    mixed = net.op("Relu", net.conv(joined, 48, 16), out="mixed")
    vector = net.op("Flatten", net.op("GlobalAveragePool", mixed), out="vector")
    weight, bias = net.normal(10, 16), net.const(net.rng.normal(0, 0.1, 10))
    logits = net.op("Gemm", vector, weight, bias, transB=1, out="logits")
    net.op("Softmax", logits, axis=-1, out="p")
    return net.model([1, 8, SIDE, SIDE], {"p": [1, 10], "mixed": [1, 16, SIDE, SIDE]})


def _block(net: Net, x: str, decomposed: bool) -> str:
    n = _norm(net, x, decomposed)
    parts = []
    for part in "qkv":
        y = net.op("Add", net.op("MatMul", n, net.normal(WIDTH, WIDTH)), net.const(np.zeros(WIDTH)))
        y = net.op("Reshape", y, net.const([1, CELLS, HEADS, WIDTH // HEADS], np.int64))
        parts.append(net.op("Transpose", y, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
    scores = net.op("Mul", net.op("MatMul", parts[0], parts[1]), net.const((WIDTH // HEADS) ** -0.5))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), parts[2])
    flat = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.const([CELLS, WIDTH], np.int64))
    out = net.op("Gemm", flat, net.normal(WIDTH, WIDTH), net.const(np.zeros(WIDTH)))
    x = net.op("Add", x, net.op("Reshape", out, net.const([1, CELLS, WIDTH], np.int64)))
    up = net.op("Gelu", net.op("MatMul", _norm(net, x, decomposed), net.normal(WIDTH, 2 * WIDTH)))
    return net.op("Add", x, net.op("MatMul", up, net.normal(2 * WIDTH, WIDTH)))


def _norm(net: Net, x: str, decomposed: bool) -> str:
    scale, bias = net.const(net.rng.uniform(0.5, 1.5, WIDTH)), net.const(net.rng.normal(0, 0.1, WIDTH))
    if not decomposed:
        return net.op("LayerNormalization", x, scale, bias, axis=-1)
    axis = net.const([-1], np.int64)
    centred = net.op("Sub", x, net.op("ReduceMean", x, axis))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axis)
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    return net.op("Add", net.op("Mul", net.op("Div", centred, deviation), scale), bias)


def vit(seed: int = 0, decomposed: bool = False, outlier: float = 200.0) -> bytes:
    """Return a ViT of two blocks over 4 x 4 patches, whose residual stream has one channel ``outlier`` times as large.

    ``decomposed`` writes LayerNorm in single operators. It ends in a nearest-code arg-min, as a tokenizer does.
    """
    net = Net(seed)
    patch = net.op("Conv", "x", net.normal(WIDTH, 3, 4, 4), net.const(np.zeros(WIDTH)), strides=[4, 4])
    tokens = net.op("Transpose", net.op("Reshape", patch, net.const([1, WIDTH, CELLS], np.int64)), perm=[0, 2, 1])
    large = np.zeros((1, CELLS, WIDTH), np.float32)
    large[..., 3] = outlier
    x = net.op("Add", tokens, net.const(net.rng.normal(0, 0.2, (1, CELLS, WIDTH)) + large), out="stream")
    for _ in range(2):
        x = _block(net, x, decomposed)
    final = _norm(net, x, decomposed)
    net.op("MatMul", final, net.normal(WIDTH, 12), out="head")
    book = net.rng.normal(0, 1, (8, WIDTH)).astype(np.float32)
    product = net.op("MatMul", final, net.const(2 * book.T), out="code_product")
    distance = net.op("Sub", net.const((book**2).sum(axis=1)), product)
    code = net.op("ArgMin", distance, axis=-1, keepdims=0)
    net.op("Cast", code, to=TensorProto.FLOAT, out="code")
    return net.model([1, 3, SIDE, SIDE], {"head": [1, CELLS, 12], "code": [1, CELLS]})


def feeds(channels: int, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Return smooth random images f32 [1, channels, 16, 16]."""
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(count):
        coarse = rng.normal(0, 1, (1, channels, 4, 4)).astype(np.float32)
        fine = rng.normal(0, 0.3, (1, channels, SIDE, SIDE)).astype(np.float32)
        results.append({"x": np.kron(coarse, np.ones((1, 1, 4, 4), np.float32)) + fine})
    return results


def run(model: bytes, feed: dict[str, Array], names: Sequence[str] | None = None) -> list[Array]:
    """Run a model once, as its target would, and return its outputs."""
    return list(open_session(model, 1).run(list(names) if names else None, feed))
