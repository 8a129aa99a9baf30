"""That edge_ad asks TensorRT and pycuda only for names that they have, in every supported version."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edge_ad.engines.tensorrt_build import build_engine
from edge_ad.errors import BadInput
from tests.tools.loading import load_tool

VERSIONS = ["10.3", "10.13", "10.16", "11.4"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("check_tensorrt_api")


@pytest.fixture(scope="module")
def uses(tool: ModuleType) -> dict[str, set[tuple[str, str]]]:
    return {version: {(use.owner, use.name) for use in found} for version, found in tool.follow(tool.load()).items()}


def test_every_version_has_every_name(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"TensorRT {v}" for v in VERSIONS]


def test_names_are_found_by_class_and_by_version(uses: dict[str, set[tuple[str, str]]]) -> None:
    everywhere = {
        ("", "Builder"),
        ("", "__version__"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("MemoryPoolType", "WORKSPACE"),
        ("OnnxParser", "parse"),
        ("IParserError" if ("IParserError", "desc") in uses["10.3"] else "ParserError", "desc"),
        ("IProgressMonitor", "step_complete"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_name"),
        ("IExecutionContext", "execute_async_v3"),
        ("ITimingCache", "serialize"),
    }
    for version in VERSIONS:
        assert everywhere <= uses[version], version
    # Precision flags belong to weak typing, before 10.12; from 11 on they are gone.
    for name in ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"):
        assert [("BuilderFlag", name) in uses[version] for version in VERSIONS] == [True, False, False, False]


GONE = [
    ("Builder", "create_network"),
    ("IBuilderConfig", "max_aux_streams"),
    ("ILogger", "INTERNAL_ERROR"),
    ("ICudaEngine", "get_tensor_shape"),
    ("IExecutionContext", "set_tensor_address"),
]


@pytest.mark.parametrize(("owner", "name"), GONE)
def test_a_name_that_goes_from_a_version_is_noticed(owner: str, name: str, tool: ModuleType) -> None:
    table = tool.load()["11.4"]
    del table[owner][name]
    faults = tool.missing(tool.follow({"11.4": table}))
    assert any(fault.endswith(f"TensorRT 11.4 has no {owner}.{name}") for fault in faults)


SOURCES = {
    "a name that is there": ("def f(trt): trt.Builder(None).create_network(0)", []),
    "a wrong name of the module": ("def f(trt): trt.Bilder(None)", ["Bilder"]),
    "a wrong name of what a call gives": (
        "def f(trt): trt.Builder(None).create_network(0).num_layer",
        ["INetworkDefinition.num_layer"],
    ),
    "through a variable and a lambda": (
        "def made(make): return make()\n"
        "def f(trt):\n    b = trt.Builder(None)\n    n = made(lambda: b.create_network(0))\n    n.wrong_one",
        ["INetworkDefinition.wrong_one"],
    ),
    "through self": (
        "class E:\n    def __init__(self, trt): self.r = trt.Runtime(None)\n    def go(self): self.r.wrong_one()",
        ["Runtime.wrong_one"],
    ),
    "through another function and a comprehension": (
        "def names(p): return [e.wrong_one() for e in [p.get_error(i) for i in range(2)]]\n"
        "def f(trt): return names(trt.OnnxParser(None, None))",
        ["ParserError.wrong_one"],
    ),
    "an enumerator": ("def f(trt): trt.MemoryPoolType.WORKSPACES", ["MemoryPoolType.WORKSPACES"]),
    "an attribute that cannot be assigned": (
        "def f(trt): trt.Builder(None).num_DLA_cores = 1",
        ["Builder.num_DLA_cores"],
    ),
    "an attribute that can": ("def f(trt): trt.Builder(None).create_builder_config().max_aux_streams = 1", []),
    "asked for first": ("def f(trt): return trt.Nothing if hasattr(trt, 'Nothing') else None", []),
    "with something else in its place": ("def f(trt): getattr(trt, 'Nothing', None)", []),
    "computed": ("FLAGS = ('TF32', 'NOT_A_FLAG')\ndef f(trt, n): getattr(trt.BuilderFlag, n)", []),
    "a method that TensorRT calls": (
        "def f(trt):\n    class M(trt.IProgressMonitor):\n        def phase_begin(self): self.own = 1\n    return M().own",
        ["IProgressMonitor.phase_begin"],
    ),
    "only for versions that have it": (
        "def old(trt): return int(trt.__version__.split('.')[0]) < 11\n"
        "def f(trt):\n    if old(trt): trt.BuilderFlag.FP16",
        [],
    ),
    "after leaving for the others": (
        "def old(trt): return int(trt.__version__.split('.')[0]) < 11\n"
        "def f(trt):\n    if not old(trt):\n        return\n    trt.BuilderFlag.FP16",
        [],
    ),
    "guarded by something else": ("def f(trt, wanted):\n    if wanted: trt.BuilderFlag.FP16", ["BuilderFlag.FP16"]),
}


@pytest.mark.parametrize(("text", "expected"), SOURCES.values(), ids=SOURCES)
def test_sources(
    text: str,
    expected: list[str],
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    name = f"probe_{abs(hash(request.node.name))}"
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(text) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    faults = tool.missing(tool.follow({"11.4": tool.load()["11.4"]}, [path], tmp_path))
    assert [fault.split(" has no ")[1] for fault in faults] == expected


def test_what_was_not_followed_is_told(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "lost.py"
    path.write_text("def f(thing): thing.execute_async_v3(0)\n")
    assert tool.unplaced({}, tool.load(), [path], tmp_path) == ["lost.py:1: thing.execute_async_v3 was not followed"]


def test_names_of_cuda(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "cuda.py"
    path.write_text("def f(d):\n    d.driver.mem_alloc(1)\n    d.driver.mem_allok(1)\n")
    faults = tool.lacking(tool.load_cuda(), [path])
    assert faults == ["pycuda 2026.1 has no mem_allok"]


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.2.3", "10.0.1", "10.2.0"])
def test_an_older_tensorrt_is_refused_with_the_way_up(version: str) -> None:
    with pytest.raises(BadInput, match=r"too old: 10\.3 or newer is needed; upgrade a Jetson to JetPack 6\.1 or newer"):
        build_engine(SimpleNamespace(__version__=version, __name__="tensorrt"), b"", "fp16")


@pytest.fixture(scope="module")
def wheels(tool: ModuleType) -> Path:
    named = os.environ.get("EDGE_AD_TENSORRT_WHEELS")
    folder = Path(named) if named else None
    if folder is None or not tool.bindings.have(folder) or not tool.cuda_names.have(folder):
        pytest.skip(
            "EDGE_AD_TENSORRT_WHEELS names no folder with the bindings: tools/check_tensorrt_api.py --wheels DIR --fetch"
        )
    return folder


@pytest.mark.network
def test_the_kept_table_is_that_of_the_published_bindings(tool: ModuleType, wheels: Path) -> None:
    tables, cuda = tool.bindings.read(wheels), tool.cuda_names.read(wheels)
    uses = tool.follow(tables)
    assert tool.missing(uses) == []
    assert tool.kept_text(tables, cuda, uses) == tool.TABLE.read_text(encoding="utf-8")


ON_REAL_CLASSES = """
import tensorrt_bindings as trt
trt.__name__ = "tensorrt"
from edge_ad.engines.tensorrt_build import build_engine
from edge_ad.engines.tensorrt_log import logger_for
from edge_ad.engines.tensorrt_progress import Progress, make_monitor
from edge_ad.engines.tensorrt_versions import network_flags, strongly_typed
from edge_ad.errors import DeviceFault
logger = logger_for(trt)
logger.log(trt.ILogger.ERROR, "no  good")
monitor = make_monitor(trt, Progress(1.0, print))
monitor.phase_start("a", None, 2)
assert (logger.errors, monitor.step_complete("a", 0)) == (["no good"], True)
flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
assert network_flags(trt) == (1 << flag if strongly_typed(trt) else 0)
try:
    build_engine(trt, b"", "fp16")  # the empty libraries make no builder
except DeviceFault as error:
    print(strongly_typed(trt), error)
"""


@pytest.mark.network
@pytest.mark.parametrize("version", VERSIONS)
def test_what_derives_from_the_published_classes_works(version: str, tool: ModuleType, wheels: Path) -> None:
    exact = tool.bindings.VERSIONS[version]
    told = tool.bindings.run(wheels, exact, ON_REAL_CLASSES, tool.ROOT)
    assert told.startswith(f"{version != '10.3'} TensorRT {exact} cannot start its builder")
