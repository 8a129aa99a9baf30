"""The onnxruntime backend: named tensors, checked binding, one memory on both sides of a wire."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_ad.engines.onnxruntime import OrtBackend, OrtEngine
from edge_ad.engines.protocol import TensorSpec
from edge_ad.errors import BadInput, DeviceFault
from tests.fixtures.tiny_graphs import tiny_graphs


def model(nodes: list[onnx.NodeProto], shape: list[int | str], output: str = "y") -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


@pytest.fixture
def backend() -> OrtBackend:
    return OrtBackend(threads=1)


@pytest.fixture
def negation(backend: OrtBackend) -> OrtEngine:
    return backend.load("negation", model([helper.make_node("Neg", ["x"], ["y"])], [2, 3]))


def test_reports_inputs_and_outputs(backend: OrtBackend) -> None:
    engine = backend.load("tokenizer", tiny_graphs()["tokenizer"])
    assert dict(engine.inputs) == {"tokens": TensorSpec("tokens", "float32", (1, 8, 4, 4))}
    assert dict(engine.outputs) == {
        "codes": TensorSpec("codes", "int32", (1, 4, 16)),
        "map_structure": TensorSpec("map_structure", "float32", (1, 1, 4, 4)),
    }


def test_results_appear_in_the_bound_memory(backend: OrtBackend, negation: OrtEngine) -> None:
    x, y = (backend.allocate(TensorSpec(name, "float32", (2, 3))) for name in "xy")
    assert (y.read() == 0).all()
    negation.bind("x", x)
    negation.bind("y", y)
    for start in (0, 7):
        value = np.arange(start, start + 6, dtype=np.float32).reshape(2, 3)
        x.write(value)
        negation.run()
        np.testing.assert_array_equal(y.read(), -value)
    # onnxruntime wrote to our memory, not to memory of its own that is copied afterwards
    assert [value.data_ptr() for value in negation.binding.get_outputs()] == [y.address]


def test_what_was_read_does_not_change_later(backend: OrtBackend) -> None:
    tensor = backend.allocate(TensorSpec("x", "float32", (3,)))
    before = tensor.read()
    tensor.write(np.ones(3, np.float32))
    assert (before == 0).all()
    assert (tensor.read() == 1).all()


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("z", TensorSpec("z", "float32", (2, 3)), "no tensor 'z'; it has x, y"),
        ("x", TensorSpec("x", "float32", (3, 2)), r"wants x float32 \[2, 3\], but is given x float32 \[3, 2\]"),
        ("y", TensorSpec("y", "int32", (2, 3)), r"wants y float32 \[2, 3\], but is given y int32 \[2, 3\]"),
    ],
)
def test_binding_is_checked(
    backend: OrtBackend, negation: OrtEngine, name: str, spec: TensorSpec, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        negation.bind(name, backend.allocate(spec))


def test_run_needs_all_tensors_and_an_open_engine(backend: OrtBackend, negation: OrtEngine) -> None:
    negation.bind("x", backend.allocate(negation.inputs["x"]))
    with pytest.raises(DeviceFault, match="unbound tensors: y"):
        negation.run()
    negation.bind("y", backend.allocate(negation.outputs["y"]))
    with negation:
        negation.run()
    with pytest.raises(DeviceFault, match="closed"):
        negation.run()
    negation.close()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (b"not a model", "cannot be loaded"),
        (model([helper.make_node("Frobnicate", ["x"], ["y"])], [1]), "cannot be loaded.*Frobnicate"),
        (model([helper.make_node("Neg", ["x"], ["y"])], ["n"]), "static shapes"),
    ],
)
def test_a_graph_that_cannot_run_is_reported_in_a_sentence(backend: OrtBackend, graph: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        backend.load("broken", graph)
    assert "\n" not in str(caught.value)
    assert "'broken'" in str(caught.value)


def test_a_failing_run_is_a_device_fault(backend: OrtBackend) -> None:
    """A gather beyond the end is only found while running."""
    index = helper.make_tensor("i", TensorProto.INT64, [1], [5])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    shift = helper.make_node("Cast", ["x"], ["c"], to=TensorProto.INT64)
    add = helper.make_node("Add", ["c", "i"], ["j"])
    gather = helper.make_node("Gather", ["x", "j"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    made = helper.make_model(
        helper.make_graph([shift, add, gather], "g", [x], [y], [index]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    engine = backend.load("gather", made.SerializeToString())
    engine.bind("x", backend.allocate(engine.inputs["x"]))
    engine.bind("y", backend.allocate(engine.outputs["y"]))
    with pytest.raises(DeviceFault, match="'gather' failed in onnxruntime"):
        engine.run()


def held() -> int:
    """Return the memory of this process in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_engines_use_one_scratch_memory_in_turn(backend: OrtBackend) -> None:
    """Each graph makes 64 MB on its way to one number; eight that kept theirs would hold 512."""
    size = helper.make_tensor("size", TensorProto.INT64, [2], [4096, 4096])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy")
    nodes = [helper.make_node("Expand", ["x", "size"], ["a"]), helper.make_node("ReduceMax", ["a"], ["y"], keepdims=1)]
    made = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [size]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    engines = [backend.load(f"graph {number}", made.SerializeToString()) for number in range(8)]
    before = held()
    for number, engine in enumerate(engines):
        tensors = {name: backend.allocate(TensorSpec(name, "float32", (1, 1))) for name in "xy"}
        for name, tensor in tensors.items():
            engine.bind(name, tensor)
        tensors["x"].write(np.full((1, 1), number, np.float32))
        engine.run()
        assert tensors["y"].read().item() == number
    assert held() - before < 3 * (64 << 20)


def test_threads(backend: OrtBackend) -> None:
    assert backend.threads == 1
    assert OrtBackend().threads >= 1
    with pytest.raises(BadInput, match="threads is 0"):
        OrtBackend(threads=0)


@pytest.mark.parametrize(
    ("version", "spinning", "duration"), [("1.20.1", "0", None), ("1.26.0", "1", "20"), ("1.31.1", "1", "20")]
)
def test_threads_spin_only_where_a_release_can_end_it(
    backend: OrtBackend, monkeypatch: pytest.MonkeyPatch, version: str, spinning: str, duration: str | None
) -> None:
    monkeypatch.setattr(OrtBackend, "version", version)
    options = backend._options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spinning
    if duration is not None:
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == duration
