"""What 8-bit kernels sum exactly on the processor that runs this."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.cpu import limit_by_flags, sums_saturate, weight_limit
from calibration.session import open_session


@pytest.mark.parametrize("depth", [2, 3, 64, 257])
def test_weights_within_the_limit_are_summed_exactly(depth: int) -> None:
    """The brightest inputs with the greatest weights of either sign, against sums in 64 bits."""
    limit, rng = weight_limit(), np.random.default_rng(depth)
    weight = rng.choice(np.array([-limit, limit], np.int8), (depth, 32))
    weight[:, 0] = limit
    image = rng.choice(np.array([0, 255], np.uint8), (16, depth), p=[0.1, 0.9])
    image[0] = 255
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    make = helper.make_tensor_value_info
    ends = [make("x", TensorProto.UINT8, [16, depth])], [make("y", TensorProto.INT32, [16, 32])]
    graph = helper.make_graph([node], "g", *ends, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    result = open_session(model, 1).run(None, {"x": image})[0]
    np.testing.assert_array_equal(result, image.astype(np.int64) @ weight.astype(np.int64))


def test_a_weight_of_8_bits_is_used_where_its_sums_are_exact() -> None:
    assert weight_limit() == (63 if sums_saturate() else 127)


def test_without_onnxruntime_the_flags_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert weight_limit.__wrapped__() == limit_by_flags()
