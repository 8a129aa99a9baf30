"""The cost of a graph by hand, and the roofline that is made of it."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("cost_model")


def graph() -> bytes:
    """Conv 3 -> 8 of 3 x 3 over 16 x 16, then a Gemm-like MatMul and an Einsum over what is left."""
    weights = [
        numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.array([1, 8, 256], np.int64), "flat"),
        numpy_helper.from_array(np.zeros((256, 10), np.float32), "m"),
        numpy_helper.from_array(np.zeros((5, 10), np.float32), "e"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c", "flat"], ["r"]),
        helper.make_node("MatMul", ["r", "m"], ["t"]),
        helper.make_node("Einsum", ["t", "e"], ["y"], equation="bnk,qk->bnq"),
    ]
    ends = [("x", [1, 3, 16, 16]), ("y", [1, 8, 5])]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    body = helper.make_graph(nodes, "g", [given], [made], weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_graph_by_hand(tool: ModuleType) -> None:
    found = tool.cost_of("g", graph())
    assert found.macs == 8 * 16 * 16 * 27 + 8 * 10 * 256 + 8 * 5 * 10
    assert found.weights == 216 + 3 + 2560 + 50
    assert found.ends == 768 + 40
    conv, reshape, matmul, einsum = 768 + 216 + 2048, 2048 + 3 + 2048, 2048 + 2560 + 80, 80 + 50 + 40
    assert found.every == conv + reshape + matmul + einsum


def test_the_roofline_is_the_slower_of_work_and_memory(tool: ModuleType) -> None:
    board = tool.Board("a board", int8_tops=10.0, gbytes=100.0)
    busy = tool.Cost("busy", macs=10**9, weights=10**6, ends=0, every=10**9)
    assert busy.seconds(board, "int8") == pytest.approx((2e9 / 1e13, 1e9 / 1e11))
    assert busy.seconds(board, "fp16") == pytest.approx((2e9 / 5e12, 2e9 / 1e11))
    assert tool.total([busy, busy]).macs == 2 * 10**9
    lines = tool.table([busy])
    assert lines[2] == "| busy | 1.000 | 1.00 | 1.00 | 1000.00 |"
    assert "PREDICTION" in lines[5]
