"""The build path, compiled for real with TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from calibration.fp16 import to_fp16
from edge_ad.engines.tensorrt.backend import deserialise, open_runtime
from edge_ad.engines.tensorrt.build import build_engine, compile_check, strongly_typed
from edge_ad.engines.tensorrt.progress import Progress, logger_for
from edge_ad.errors import BadInput, DeviceFault
from tests.fixtures.tiny_graphs import tiny_graphs

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
GRAPHS = tiny_graphs(preset="paper") | {"teacher": tiny_graphs()["teacher"]}


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """What an expected error holds of TensorRT is freed here, not while another test's TensorRT holds its lock."""
    yield
    gc.collect()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_graph_compiles(name: str, precision: str) -> None:
    graph = to_fp16(GRAPHS[name]) if precision == "fp16" and name != "fusion" else GRAPHS[name]
    plan = build_engine(tensorrt_rtx, graph, precision, name)
    assert len(plan) > 10_000
    assert compile_check(graph, precision, name) > 10_000


def test_the_network_is_strongly_typed() -> None:
    """Adding an FP16 to an FP32 tensor is an error with strong typing, where weak typing would cast."""
    make = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="/cast", to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "x"], ["y"], name="/mixed"),
    ]
    values = [make(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    with pytest.raises((BadInput, DeviceFault), match=r"(?i)type"):
        build_engine(tensorrt_rtx, data, "fp32", "mixed")


def test_a_parser_error_names_the_node() -> None:
    make = helper.make_tensor_value_info
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"], name="/stage/nonzero"),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [make("x", TensorProto.FLOAT, [4]), make("y", TensorProto.FLOAT, [1, None])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(BadInput, match=r"cannot read the graph 'teacher': node /stage/nonzero \(NonZero\)") as caught:
        build_engine(tensorrt_rtx, model.SerializeToString(), "fp32", "teacher")
    assert "\n" not in str(caught.value)
    frames = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(caught.tb)}
    assert frames["_build"] == {}  # the error keeps no builder alive


def test_bytes_that_are_no_model() -> None:
    with pytest.raises(BadInput, match="cannot read the graph 'graph'"):
        compile_check(b"no model")


@pytest.mark.parametrize("change", ["opset", "operator"])
def test_a_graph_newer_than_the_parser(change: str) -> None:
    """What it does not know of is told by its node; what it knows it takes, whatever number the graph has."""
    model = onnx.load_model_from_string(GRAPHS["teacher"])
    if change == "opset":
        model.opset_import[0].version = 99
        assert build_engine(tensorrt_rtx, model.SerializeToString(), "fp32", "teacher")
        return
    model.graph.node[2].op_type = "Frobnicate"
    with pytest.raises(BadInput, match=r"node /teacher/Mul_2 \(Frobnicate\).*a newer TensorRT may read it"):
        build_engine(tensorrt_rtx, model.SerializeToString(), "fp32", "teacher")


@pytest.mark.parametrize("plan", ["whole", "cut", "noise", "empty"])
def test_without_a_gpu_no_engine_is_loaded(plan: str) -> None:
    """TensorRT for RTX answers None here, whatever it is given; that must be a sentence."""
    whole = build_engine(tensorrt_rtx, GRAPHS["tokenizer"], "fp32")
    data = {"whole": whole, "cut": whole[:1000], "noise": bytes(range(256)) * 40, "empty": b""}[plan]
    logger = logger_for(tensorrt_rtx)
    runtime = open_runtime(tensorrt_rtx, logger)
    with pytest.raises(BadInput, match="cannot load the engine 'tokenizer': .*; build it again") as caught:
        deserialise(tensorrt_rtx, runtime, logger, "tokenizer", plan=data)
    assert "\n" not in str(caught.value)


def test_progress_reaches_the_end() -> None:
    shares: list[float] = []
    progress = Progress(1.0, lambda text: None)
    progress.begin("tokenizer", 1.0)
    step = progress.phases.step
    progress.phases.step = lambda name, number: (step(name, number), shares.append(progress.share))  # type: ignore[method-assign, assignment, return-value]
    build_engine(tensorrt_rtx, GRAPHS["tokenizer"], "fp32", "tokenizer", progress=progress)
    assert len(shares) > 10
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] > 0.8


def test_a_cancelled_build_gives_nothing() -> None:
    progress = Progress(1.0, lambda text: None)
    progress.begin("tokenizer", 1.0)
    progress.cancelled.set()
    with pytest.raises(DeviceFault, match="(?i)cancel"):
        build_engine(tensorrt_rtx, GRAPHS["tokenizer"], "fp32", "tokenizer", progress=progress)


def module(version: str, name: str = "tensorrt") -> Any:
    return SimpleNamespace(__version__=version, __name__=name)


@pytest.mark.parametrize(
    ("trt", "strong"),
    [
        (module("10.3.0"), False),
        (module("10.11.0.33"), False),
        (module("10.12.0"), True),
        (module("10.16.2.10"), True),
        (module("11.4.1"), True),
        (module("1.7.1.116", "tensorrt_rtx"), True),
    ],
)
def test_typing_by_version(trt: Any, strong: bool) -> None:
    assert strongly_typed(trt) is strong


@pytest.mark.parametrize("version", ["8.5.2", "8.6.2.3", "10.0.1"])
def test_for_versions_below_the_floor_the_advice_is_to_upgrade(version: str) -> None:
    with pytest.raises(BadInput, match=f"TensorRT {version} is too old.*JetPack 6.1"):
        build_engine(module(version), GRAPHS["teacher"], "fp32")
