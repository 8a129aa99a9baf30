"""Sessions on the CPU where the whole optimisation chooses a layout that this processor has no kernel for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from calibration.fp16 import to_fp16
from calibration.session import open_session
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.errors import BadInput

SIDE = 8
LEVEL = onnxruntime.GraphOptimizationLevel
SENTENCE = (
    "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for "
    "com.ms.internal.nhwc.AveragePool(19) node with name 'pool'"
)


def kernel() -> Any:
    return np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)


def pooling(op: str = "AveragePool", **attributes: Any) -> bytes:
    """Return a convolution of 1 x 1 and a pooling of 2 x 2 over [1, 4, SIDE, SIDE]."""
    weights = onnx.numpy_helper.from_array(kernel(), "kernel")
    shapes = {"x": [1, 4, SIDE, SIDE], "y": [1, 4, SIDE // 2, SIDE // 2]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["mixed"], name="conv"),
        helper.make_node(op, ["mixed"], ["y"], name="pool", kernel_shape=[2, 2], strides=[2, 2], **attributes),
    ]
    graph = helper.make_graph(nodes, "pooling", values[:1], values[1:], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let onnxruntime fail as it does on 64-bit ARM; returns the levels that sessions were asked for."""
    asked: list[Any] = []
    whole = onnxruntime.InferenceSession

    def session(data: bytes, options: Any, **more: Any) -> Any:
        asked.append(options.graph_optimization_level)
        if options.graph_optimization_level == LEVEL.ORT_ENABLE_ALL:
            raise NoKernel(SENTENCE)
        return whole(data, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def by_calibration(data: bytes, image: Any) -> Any:
    return open_session(data, 1).run(None, {"x": image})[0]


def by_engine(data: bytes, image: Any) -> Any:
    backend = OrtBackend(threads=1)
    engine = backend.load("pooling", data)
    tensors = {spec.name: backend.allocate(spec) for spec in (*engine.inputs.values(), *engine.outputs.values())}
    for name, tensor in tensors.items():
        engine.bind(name, tensor)
    tensors["x"].write(image)
    engine.run()
    return tensors["y"].read()


RUNS = pytest.mark.parametrize("run", [by_calibration, by_engine])


def image() -> Any:
    return np.random.default_rng(1).normal(size=(1, 4, SIDE, SIDE)).astype(np.float32)


@RUNS
def test_a_layout_without_a_kernel_is_left_out(run: Callable[[bytes, Any], Any], without_kernel: list[Any]) -> None:
    result = run(to_fp16(pooling()), image())
    assert without_kernel == [LEVEL.ORT_ENABLE_ALL, LEVEL.ORT_ENABLE_EXTENDED]
    np.testing.assert_allclose(result, by_calibration(pooling(), image()), atol=0.01)


@RUNS
def test_other_graphs_are_optimised_as_a_whole(
    run: Callable[[bytes, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    whole = onnxruntime.InferenceSession

    def session(data: bytes, options: Any, **more: Any) -> Any:
        asked.append(options.graph_optimization_level)
        return whole(data, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    run(pooling(), image())
    assert asked == [LEVEL.ORT_ENABLE_ALL]


def test_a_graph_without_a_kernel_in_any_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(*_: Any, **__: Any) -> Any:
        raise NoKernel(SENTENCE)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(BadInput, match=r"graph 'pooling' cannot be loaded.*AveragePool\(19\)"):
        OrtBackend(threads=1).load("pooling", pooling())


def test_the_error_of_a_missing_kernel_is_the_one_that_is_looked_for() -> None:
    """A real one: Sin of bfloat16 is in the standard and not in onnxruntime."""
    shape = [1, 1, 2, 2]
    values = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(NoKernel, match="NOT_IMPLEMENTED"):
        open_session(made, 1)


@RUNS
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("attributes", [{}, {"ceil_mode": 1}], ids=["floor", "ceil"])
def test_pooling_in_half_precision_is_that_of_single(
    op: str, attributes: dict[str, Any], run: Callable[[bytes, Any], Any]
) -> None:
    """On this processor as it is. Rounding of image, kernel, products and sums, each by 2^-11, four products a sum."""
    single, half = pooling(op, **attributes), to_fp16(pooling(op, **attributes))
    sums = np.einsum("oi,bihw->bohw", np.abs(kernel()[:, :, 0, 0]), np.abs(image()))
    result, expected = run(half, image()), by_calibration(single, image())
    np.testing.assert_allclose(result, expected, atol=8 * 2**-11 * float(sums.max()))
