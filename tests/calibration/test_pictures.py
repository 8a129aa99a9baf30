"""First convolutions that read an image's bytes: as before but for half a grey level at the border, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from calibration.bias_correction import corrections
from calibration.collect import collect
from calibration.graph_view import GraphView
from calibration.image_input import read_bytes
from calibration.quantise import quantise
from calibration.ranges import Ranges
from tests.calibration.nets import Array, Net, run

MEAN, SPREAD = np.array([123.675, 116.28, 103.53]), np.array([58.4, 57.1, 57.4])
WHOLE = np.array([124.0, 116.0, 104.0])
HEIGHT, WIDTH = 10, 16
Normalise = Callable[[Net], str]


def planes(values: Any) -> Array:
    return np.asarray(values).reshape(1, -1, 1, 1)


def cast(net: Net) -> str:
    return net.op("Transpose", net.op("Cast", "x", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])


def usual(net: Net, mean: Array = MEAN) -> str:
    return net.op("Mul", net.op("Sub", cast(net), net.const(planes(mean))), net.const(planes(1 / SPREAD)), out="z")


def exactly(net: Net) -> str:
    return usual(net, WHOLE)


def unit(net: Net) -> str:
    return net.op("Div", cast(net), net.const(255.0), out="z")


def centred(net: Net) -> str:
    return net.op("Div", net.op("Sub", cast(net), net.const(127.5)), net.const(127.5), out="z")


def planes_of_bytes(net: Net) -> str:
    """Cast after the turn of the axes: the bytes are planes already."""
    turned = net.op("Transpose", "x", perm=[0, 3, 1, 2])
    return net.op("Mul", net.op("Cast", turned, to=TensorProto.FLOAT), net.const(1 / 255))


def in_pixels(net: Net) -> str:
    scaled = net.op("Add", net.op("Mul", net.op("Cast", "x", to=1), net.const(1 / SPREAD)), net.const(-MEAN / SPREAD))
    return net.op("Transpose", scaled, perm=[0, 3, 1, 2], out="z")


def negative(net: Net) -> str:
    return net.op("Sub", net.const(planes([1.0, 0.9, 0.8])), net.op("Mul", net.const(1 / 255), cast(net)), out="z")


def build(normalise: Normalise, kernel: int = 4, pads: int = 1, width: int = WIDTH, middle: str = "Relu") -> bytes:
    """Return two branches whose stems read the same image, and a layer behind each."""
    net = Net(3)
    z = normalise(net)
    for branch in "ab":
        weight, bias = net.normal(8, 3, kernel, kernel), net.const(net.rng.normal(0, 0.2, 8))
        held = net.op("Conv", z, weight, bias, strides=[2, 2], pads=[pads] * 4, out=f"stem_{branch}")
        held = net.op("Relu", held, out=f"act_{branch}")
        if middle == "AveragePool":
            held = net.op(middle, held, kernel_shape=[2, 2])
        if middle == "MaxPool":
            held = net.op(middle, held, kernel_shape=[2, 2])
        net.conv(held, 8, 8, out=f"y_{branch}")
    dims: list[Any] = [1, 8, "h", "w"]
    return net.model([1, HEIGHT, width, 3], {"y_a": dims, "y_b": dims}, TensorProto.UINT8)


def pictures(count: int, width: int = WIDTH, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.integers(0, 256, (1, HEIGHT, width, 3), dtype=np.uint8)} for _ in range(count)]


def kinds(model: bytes | onnx.ModelProto) -> list[str]:
    held = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    return [node.op_type for node in held.graph.node]


@pytest.mark.parametrize(
    ("normalise", "kernel", "pads", "whole"),
    [
        (exactly, 4, 1, True),
        (unit, 4, 1, True),
        (usual, 4, 1, False),
        (usual, 2, 0, True),  # no border
        (centred, 4, 1, False),
        (negative, 4, 1, False),
        (in_pixels, 4, 1, False),
        (in_pixels, 3, 1, False),
    ],
)
def test_the_same_but_for_half_a_grey_level_at_the_border(
    normalise: Normalise, kernel: int, pads: int, whole: bool
) -> None:
    model = build(normalise, kernel, pads)
    ranges = collect(model, pictures(2))
    view, changed = read_bytes(GraphView(model), ranges)
    assert {"Cast", "Sub", "Mul", "Div", "Add"}.isdisjoint(kinds(view.model))
    assert kinds(view.model).count("DequantizeLinear") == 1  # both stems read it
    feed = pictures(1, seed=5)[0]
    names = ["act_a", "act_b"]
    before = run(exposed(model, names), feed, names)
    after = run(exposed(view.model.SerializeToString(), names), feed, names)
    limit = half_level(model)
    for exact, result in zip(before, after, strict=True):
        error = np.abs(exact - result)
        assert error[:, :, pads : exact.shape[2] - pads, pads : exact.shape[3] - pads].max() < 1e-4
        assert error.max() < (1e-4 if whole else limit)
        assert whole or error.max() > 1e-4
    new = set(changed.tensors) - set(ranges.tensors)
    assert len(new) == 1
    held = changed.tensors[new.pop()]
    assert held.high - held.low == 255.0
    assert np.allclose(held.mean, np.mean([f["x"] for f in pictures(2)], axis=(0, 1, 2, 3)) + held.low, atol=0.01)


def exposed(model: bytes, names: list[str]) -> bytes:
    held = onnx.load_model_from_string(model)
    held.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in names)
    return bytes(held.SerializeToString())


def half_level(model: bytes) -> float:
    """Return the greatest change of a stem's output for half a grey level in all of its window (slopes below 1 / 57)."""
    tensors = [onnx.numpy_helper.to_array(held) for held in onnx.load_model_from_string(model).graph.initializer]
    return (
        float(max(np.abs(held).sum(axis=(1, 2, 3)).max() for held in tensors if held.ndim == 4 and held.shape[1] == 3))
        / 114
    )


def without(name: str) -> Callable[[Ranges], Ranges]:
    def drop(ranges: Ranges) -> Ranges:
        rest = {key: held for key, held in ranges.tensors.items() if key != name}
        return Ranges(ranges.graph_sha256, ranges.method, ranges.images, rest)

    return drop


def floats(net: Net) -> str:
    return net.op("Transpose", net.op("Cast", net.op("Cast", "x", to=TensorProto.INT32), to=1), perm=[0, 3, 1, 2])


def squared(net: Net) -> str:
    held = cast(net)
    return net.op("Mul", held, held)


def shaded(net: Net) -> str:
    return net.op("Mul", cast(net), net.const(np.full((1, 3, HEIGHT, WIDTH), 0.01)))


def below(net: Net) -> str:
    return net.op("Add", net.op("Mul", cast(net), net.const(0.01)), net.const(1.0))  # 0 stands for -100


def inverse(net: Net) -> str:
    return net.op("Div", net.const(1.0), net.op("Add", cast(net), net.const(1.0)))


def dark(net: Net) -> str:
    return net.op("Mul", cast(net), net.const(planes([0.01, 0.0, 0.01])))


@pytest.mark.parametrize(
    ("model", "keep", "change"),
    [
        (build(usual), ["n_stem_a", "n_stem_b"], None),
        (build(usual, middle="AveragePool"), [], None),
        (build(usual, width=18), [], None),  # 9 outputs a row do not come in pairs
        (build(usual, kernel=1, pads=0), [], None),  # four times the products
        (exposed(build(usual), ["act_a", "act_b"]), [], None),
        (build(usual), [], lambda ranges: without("act_a")(without("act_b")(ranges))),
        *(
            (build(normalise), [], None)
            for normalise in (floats, squared, shaded, below, inverse, dark, planes_of_bytes)
        ),
    ],
)
def test_others_are_left_alone(model: bytes, keep: list[str], change: Callable[[Ranges], Ranges] | None) -> None:
    width = onnx.load_model_from_string(model).graph.input[0].type.tensor_type.shape.dim[2].dim_value
    view, ranges = GraphView(model), collect(model, pictures(1, width))
    ranges = change(ranges) if change else ranges
    result, same = read_bytes(view, ranges, keep)
    assert result is view
    assert same is ranges


@pytest.mark.parametrize("middle", ["Relu", "MaxPool"])
def test_the_cpu_dialect_reads_bytes_and_stays_close(middle: str) -> None:
    model = build(usual, middle=middle)
    seen = pictures(8)
    ranges = collect(model, seen)
    measured = corrections(model, ranges, seen, "cpu")
    assert {"n_stem_a", "n_stem_b"} <= set(measured)
    result = quantise(model, ranges, "cpu", corrections=measured)
    assert {"Cast", "Sub", "Mul", "Relu"}.isdisjoint(kinds(result))
    assert kinds(result).count("QuantizeLinear") == 4 + 2 * (middle == "MaxPool")
    unquantised = quantise(model, ranges, "cpu", keep=["n_stem_a", "n_stem_b"])
    feeds = pictures(8, seed=9)
    exact = [run(model, feed) for feed in feeds]
    bytewise, floating = (
        np.std([[run(held, feed)] for feed in feeds] - np.array(exact)[:, None]) for held in (result, unquantised)
    )
    assert bytewise < 1.3 * floating
    one = quantise(model, ranges, "cpu", keep=["n_stem_a"])
    assert "Cast" in kinds(one)
    assert kinds(one).count("Concat") == 3  # the border twice, columns to fill up


def test_tensorrt_is_left_as_it_is() -> None:
    model = build(usual)
    result = kinds(quantise(model, collect(model, pictures(2)), "tensorrt"))
    assert {"Cast", "Sub", "Mul", "Relu"} <= set(result)
    assert "Concat" not in result
