"""Where 8-bit numbers go, as a table: which inputs of which operators carry Q/DQ, and which outputs never do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from calibration import placement as placement_module
from calibration.cpu import rounds_resized_bytes
from calibration.graph_view import GraphView
from calibration.placement import DIALECTS, Placement, operators, place, watched
from calibration.precision_sensitive import normalised
from tests.calibration.nets import Net, cnn, vit


def tensors(view: GraphView, placement: Placement) -> set[str]:
    """Return the tensors that are read as 8-bit numbers, or made as such."""
    return {view.node(p).input[i] for p, i in placement.inputs} | set(placement.outputs)


def edges(view: GraphView, placement: Placement) -> set[tuple[str, int]]:
    return {(view.keys[position], index) for position, index in placement.inputs}


def test_tensorrt_quantises_what_convolutions_read_and_the_identity_branch() -> None:
    view = GraphView(cnn())
    placement = place(view, "tensorrt")
    weighted = {(item.key, 0) for item in operators(view)}
    assert len(weighted) == 9
    # sum1: d + branch1, and only d is the identity; sum2: both were convolved, and the shortcut is the shorter way.
    assert edges(view, placement) == weighted | {("n_sum1", 0), ("n_sum2", 1)}
    assert placement.outputs == {}
    assert placement.covered == set()


def test_cpu_quantises_what_convolutions_give_past_their_activation() -> None:
    view = GraphView(cnn())
    placement = place(view, "cpu")
    assert {"stem_act", "depth_act", "branch1", "sum1_act", "shortcut", "branch2", "sum2_act", "mixed"} <= set(
        placement.outputs
    )
    assert not {"stem", "depth", "sum1", "sum2"} & set(placement.outputs)
    assert {view.node(i).op_type for i in placement.covered} == {"Clip", "Relu"}
    assert ("n_stem", 0) in edges(view, placement)
    assert ("n_logits", 0) in edges(view, placement)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("decomposed", [False, True])
def test_a_transformer_keeps_its_stream(dialect: str, decomposed: bool) -> None:
    """Only what products with a constant read is 8-bit: no Add, LayerNorm, softmax, attention product or distance."""
    view = GraphView(vit(decomposed=decomposed))
    placement = place(view, dialect)
    quantised = {view.node(position).op_type for position, _ in placement.inputs}
    assert quantised <= {"MatMul", "Gemm", "Conv"}
    products = [view.node(item.position) for item in placement.operators if item.kind == "MatMul"]
    assert all(node.input[1] in view.weights for node in products)
    assert len(products) == 2 * 5 + 1  # query, key, value, up, down of two blocks, and the head
    assert "code_product" not in {name for node in products for name in node.output}
    assert not any(normalised(view, name) for name in tensors(view, placement))


def test_the_identity_branch_of_a_normalised_stream_is_no_residual_of_convolutions() -> None:
    """The same block of convolutions, but its sum is normalised: as in ConvNeXt, nothing on the Add."""
    for normal in (False, True):
        net = Net()
        x = net.op("Relu", net.conv("x", 8, 8, out="a"), out="act")
        total = net.op("Add", x, net.conv(x, 8, 8, out="b"), out="total")
        after = total
        if normal:
            flat = net.op("Transpose", total, perm=[0, 2, 3, 1])
            scale, bias = net.const([1.0] * 8), net.const([0.0] * 8)
            after = net.op("Transpose", net.op("LayerNormalization", flat, scale, bias, axis=-1), perm=[0, 3, 1, 2])
        net.conv(after, 8, 8, out="y")
        view = GraphView(net.model([1, 8, 6, 6], {"y": [1, 8, 6, 6]}))
        assert (("n_total", 0) in edges(view, place(view, "tensorrt"))) is not normal


def test_kept_nodes_are_left_out() -> None:
    view = GraphView(cnn())
    for dialect in DIALECTS:
        placement = place(view, dialect, ["n_stem", "n_logits"])
        assert {"n_stem", "n_logits"}.isdisjoint(item.key for item in placement.operators)
        assert ("n_stem", 0) not in edges(view, placement)
    with pytest.raises(ValueError, match="no node 'n_absent'"):
        place(view, "cpu", ["n_absent"])
    with pytest.raises(ValueError, match="allowed are tensorrt and cpu"):
        place(view, "dsp")


def test_what_the_model_itself_wants_in_fp32() -> None:
    model = onnx.load_model_from_string(cnn())
    model.graph.node[0].name = "/stem/fp32/conv"
    onnx.helper.set_model_props(model, {"fp32_nodes": "n_logits"})
    keys = {item.key for item in operators(GraphView(model))}
    assert {"/stem/fp32/conv", "n_logits"}.isdisjoint(keys)
    assert len(keys) == 7


def test_nodes_without_names_are_called_by_their_output() -> None:
    model = onnx.load_model_from_string(cnn())
    for node in model.graph.node:
        node.name = ""
    assert operators(GraphView(model))[0].key == "stem"


def test_what_is_watched_covers_every_dialect() -> None:
    for model in (cnn(), vit(), vit(decomposed=True)):
        view = GraphView(model)
        for dialect in DIALECTS:
            placement = place(view, dialect)
            needed = {view.node(p).input[i] for p, i in placement.inputs} | set(placement.outputs.values())
            assert needed <= set(watched(view))


@pytest.mark.parametrize(
    ("mode", "rounds", "moved"), [("linear", True, True), ("linear", False, False), ("nearest", False, True)]
)
def test_cpu_resizes_bytes_where_the_runtime_rounds_them(
    mode: str, rounds: bool, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(0)
    small = net.conv("x", 8, 16, out="small")
    large = net.op("Resize", small, "", net.const([1, 1, 2, 2]), mode=mode, out="large")
    view = GraphView(net.model([1, 8, 8, 8], {net.conv(large, 16, 16, out="y"): [1, 16, 16, 16]}))
    monkeypatch.setattr(placement_module, "rounds_resized_bytes", lambda: rounds)
    assert ("large" in place(view, "cpu").outputs) == moved


def test_what_is_reported_of_the_runtime_here_is_true() -> None:
    """Of 0 and 1 linear Resize makes 0, 0.25, 0.75, 1: rounded 0, 0, 1, 1, cut 0, 0, 0, 1."""
    net = Net(0)
    one, zero = net.const(1.0), net.const(0, np.uint8)
    held = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", one, zero), one, zero)
    large = net.op("Resize", held, "", net.const([1, 1, 1, 2]), mode="linear", out="large")
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", large, one, zero), one, zero, out="y")
    session = onnxruntime.InferenceSession(net.model([1, 1, 1, 2], {y: [1, 1, 1, 4]}))
    result = session.run(None, {"x": np.array([0, 1], np.float32).reshape(1, 1, 1, 2)})[0]
    assert rounds_resized_bytes() == (result.reshape(-1).tolist() == [0, 0, 1, 1])
