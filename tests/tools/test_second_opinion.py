"""The second opinion without modelopt: a stand-in takes its place, and graphs are compared by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput
from tests.fixtures.calibrated import make_calibrated
from tests.fixtures.tiny_bundle import tiny_image
from tests.fixtures.trained import write_goods
from tests.tools.loading import TOOLS, load_tool

Run = Callable[..., int]

# What modelopt takes, done by us.
STAND_IN = """
from pathlib import Path

import numpy as np
import onnx

from calibration.collect import collect
from calibration.quantise import quantise


def quantize(path, *, quantize_mode, calibration_data, calibration_method, calibration_eps, high_precision_dtype, output_path):
    assert (quantize_mode, calibration_eps, high_precision_dtype) == ("int8", ["cpu"], "fp32")
    print("Collecting tensor data and making histogram ...")
    model = Path(path).read_bytes()
    shapes = {one.name: one.type.tensor_type.shape.dim[0].dim_value for one in onnx.load_model_from_string(model).graph.input}
    counts = {len(calibration_data[name]) // length for name, length in shapes.items()}
    assert counts == {4}
    parts = {name: np.split(array, 4) for name, array in calibration_data.items()}
    feeds = [{name: arrays[turn] for name, arrays in parts.items()} for turn in range(4)]
    method = {"max": "minmax"}.get(calibration_method, calibration_method)
    Path(output_path).write_bytes(quantise(model, collect(model, feeds, method), "tensorrt"))
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    return load_tool("second_opinion")


@pytest.fixture
def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Run:
    def with_words(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["second_opinion.py", *map(str, words)])
        return int(tool.main())

    return with_words


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package `modelopt` of a version on the path; it is gone afterwards."""

    def with_version(version: str, code: str = STAND_IN) -> None:
        told = tmp_path / "site" / f"nvidia_modelopt-{version}.dist-info"
        package = tmp_path / "site" / "modelopt" / "onnx"
        for folder in (told, package):
            folder.mkdir(parents=True)
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: {version}\n")
        (package.parent / "__init__.py").write_text("")
        (package / "__init__.py").write_text("")
        (package / "quantization.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    yield with_version
    for name in [name for name in sys.modules if name.partition(".")[0] == "modelopt"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_calibrated(tmp_path_factory.mktemp("bundle") / "tiny.edgead")


def pair(name: str) -> list[NodeProto]:
    """Q and DQ of a tensor."""
    return [
        helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"], name=f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_dq"], name=f"{name}_dq"),
    ]


def graph(*eight_bit: str, **names: str) -> bytes:
    """Two convolutions and a sum; a reader written as ``conv:x`` reads that tensor in 8 bits. ``names`` of its nodes."""
    ways = {way.partition(":")[0]: way.partition(":")[2] for way in eight_bit}

    def reads(node: str, *inputs: str) -> list[str]:
        return [f"{name}_dq" if name == ways.get(node) else name for name in inputs]

    nodes = [
        helper.make_node("Conv", reads("conv", "x", "w"), ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", reads("unnamed", "r", "w"), ["d"], name=names.get("unnamed", "")),
        helper.make_node("Add", reads("sum", "d", "r"), ["y"], name="sum"),
    ]
    for number, name in reversed([(0, "w"), (0, "x"), (2, "r")]):
        if name in ways.values():
            nodes[number:number] = pair(name)
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
    ]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in "xy")
    body = helper.make_graph(nodes, "g", [given], [made], weights)
    return bytes(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def test_nodes_that_one_or_both_quantise(tool: ModuleType) -> None:
    ours, theirs = graph("conv:x", "unnamed:r"), graph("conv:x", "sum:r", unnamed="Conv_7")
    assert tool.compare_nodes(graph(), ours, theirs) == {
        "both": {"conv": "Conv"},
        "edge-ad alone": {"d": "Conv"},
        "modelopt alone": {"sum": "Add"},
    }
    assert tool.in_8_bits(graph(), graph("conv:w")) == {}  # a weight alone
    assert tool.in_8_bits(graph(), graph("unnamed:r", unnamed="Conv_7")) == {"d": "Conv"}  # found by its output


def test_both_on_a_bundle(
    run: Run, install: Callable[..., None], calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("0.47.1")
    goods = write_goods(tmp_path / "goods")
    assert run(calibrated, goods, "--count", 4, "--timed", 1, "--json", tmp_path / "told.json") == 0
    shown = capsys.readouterr().out
    assert "Collecting" not in shown
    assert "| branch | edge-ad cpu | edge-ad tensorrt | modelopt entropy | modelopt max |" in shown
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert told["goods"] == 4
    assert told["versions"]["nvidia-modelopt"] == "0.47.1"
    assert told["nodes"]["efficientad"]["both"]
    assert "fusion" not in told["nodes"]
    for held in told["nodes"].values():  # the stand-in places as we do
        assert not held["edge-ad alone"]
        assert not held["modelopt alone"]
    local = told["alone"]["efficientad"]["modelopt max"]["branches"]
    assert 0 < local["local"]["rms_z"] < np.inf
    assert local["composition"]["rms_z"] == 0  # does not read that graph


def test_every_graph_is_more_than_the_plan(tool: ModuleType, calibrated: Path) -> None:
    bundle, goods = open_bundle(calibrated), np.stack([tiny_image(number) for number in range(4)])
    assert bundle.quantisation is not None
    bundle.quantisation.plan["graphs"]["teacher"]["keep"] = {"cpu": ["*"], "tensorrt": ["*"]}
    by_plan, all_graphs = (tool.our_recipe(bundle, goods, every) for every in (False, True))
    assert by_plan.plans["teacher"].skips("tensorrt")
    assert not all_graphs.plans["teacher"].skips("tensorrt")


def test_the_tables_by_hand(tool: ModuleType) -> None:
    def held(value: float) -> dict[str, Any]:
        row = {"rms_z": value, "largest_z": 2 * value, "auroc_change": value / 100}
        return {"images": 6, "far_flips": 1, "branches": {"local": row, "logic": {**row, "rms_z": 0.0}, "score": row}}

    variants = {"edge-ad tensorrt": held(0.25), "modelopt max": held(0.5)}
    nodes = {"both": {"a": "Conv", "b": "Conv"}, "edge-ad alone": {}, "modelopt alone": {"c": "Add"}}
    taken = {name: {"upload": 1.0, "net": 2.0, "fusion": 3.0, "frame": 6.0} for name in ("fp32", *variants)}
    lines = tool.told(
        {"nodes": {"net": nodes}, "scores": variants, "alone": {"net": variants}, "ms": taken}
    ).splitlines()
    assert "| net | 2 Conv | none | 1 Add |" in lines
    assert "| local | 0.250, 0.50 | 0.500, 1.00 |" in lines
    assert "| AUROC moves, most of any | 0.0025 | 0.0050 |" in lines
    assert "| net | local 0.250 | local 0.500 |" in lines
    assert lines[-2:] == ["| net | 2.0 | 2.0 | 2.0 |", "| frame | 6.0 | 6.0 | 6.0 |"]


@pytest.mark.skipif(importlib.util.find_spec("modelopt") is not None, reason="modelopt is installed")
def test_without_modelopt(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("part.edgead", "goods") == 2
    assert "not installed: pip install 'nvidia-modelopt[onnx]==0.47.0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "code", "words"),
    [
        ("0.29.0", "", "nvidia-modelopt is 0.29.0, but 0.47.0 or newer is needed"),
        (
            "0.47.0",
            "import onnx_of_another_planet",
            "0.47.0 cannot be imported (No module named 'onnx_of_another_planet')",
        ),
        ("1.0.0", STAND_IN, "part.edgead"),
    ],
)
def test_of_modelopt_and_bundle(
    run: Run,
    install: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    version: str,
    code: str,
    words: str,
) -> None:
    install(version, code)
    assert run("part.edgead", "goods") == 2
    assert words in capsys.readouterr().err


def test_what_modelopt_says_is_told(tool: ModuleType) -> None:
    def quantize(*_: object, **__: object) -> None:
        raise AssertionError("Calibration data\nhas only one tensor.")

    words = "graph 'lavit': AssertionError: Calibration data has only one tensor."
    with pytest.raises(BadInput, match=words):
        tool.by_modelopt(SimpleNamespace(quantize=quantize), "lavit", graph(), {}, "max")


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_counts_are_whole_numbers(run: Run, capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run("part.edgead", "goods", f"--count={value}")
    assert ended.value.code == 2
    assert f"{value!r} must be a whole number of 1 or more" in capsys.readouterr().err
