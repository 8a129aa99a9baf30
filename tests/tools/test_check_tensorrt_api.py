"""That edge_ad asks TensorRT and pycuda only for names that they have, in every supported version."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edge_ad.engines.tensorrt.build import WEAK_FLAGS, build_engine
from edge_ad.errors import BadInput
from tests.tools.loading import load_tool

VERSIONS = ["10.3", "10.13", "10.16", "11.4"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("release/check_tensorrt_api")


def test_every_version_has_every_name(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 0
    assert capsys.readouterr().out.endswith(f"names in TensorRT {', '.join(VERSIONS)}\n")


def test_names_are_found_by_class(tool: ModuleType) -> None:
    uses = {(use.owner, use.name) for reader in tool.read(tool.load(), tool.files()) for use in reader.uses}
    assert uses >= {
        ("", "Builder"),
        ("", "__version__"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("MemoryPoolType", "WORKSPACE"),
        ("OnnxParser", "parse"),
        ("ParserError", "desc"),
        ("IProgressMonitor", "step_complete"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_name"),
        ("IExecutionContext", "execute_async_v3"),
        ("ITimingCache", "serialize"),
    }


def test_flags_of_weak_typing_are_there_before_strong_typing(tool: ModuleType) -> None:
    flags = {flag for result in WEAK_FLAGS.values() for flag in result}
    assert flags == {"FP16", "INT8"}
    there = {version: flags & set(table["BuilderFlag"]) for version, table in tool.load().items()}
    assert there["10.3"] == flags
    assert not there["11.4"], "so _type_weakly must not be reached there"


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
    faults = tool.faults({"11.4": table}, tool.files())
    assert any(fault.endswith(f"TensorRT 11.4 has no {owner}.{name}") for fault in faults)


SOURCES = {
    "a name that is there": ("def f(trt, builder): builder.create_network(0)", []),
    "a wrong name of the module": ("def f(trt): trt.Bilder(None)", ["Bilder"]),
    "a wrong name of an object": ("def f(trt, network): network.num_layer", ["INetworkDefinition.num_layer"]),
    "a name of another class": ("def f(trt, network): network.serialize()", ["INetworkDefinition.serialize"]),
    "of what a constructor gives": ("def f(trt): trt.Builder(None).wrong_one()", ["Builder.wrong_one"]),
    "of what a method gives": ("def f(trt, layer): layer.get_output(0).wrong_one", ["ITensor.wrong_one"]),
    "through self": (
        "class E:\n    def __init__(self, trt): self._runtime = trt.Runtime(None)\n    def go(self): self._runtime.wrong_one()",
        ["Runtime.wrong_one"],
    ),
    "an enumerator": ("def f(trt): trt.MemoryPoolType.WORKSPACES", ["MemoryPoolType.WORKSPACES"]),
    "an attribute that cannot be assigned": (
        "def f(trt, builder): builder.num_DLA_cores = 1",
        ["Builder.num_DLA_cores"],
    ),
    "an attribute that can": ("def f(trt, config): config.max_aux_streams = 1", []),
    "asked for first": ("def f(trt): return trt.Nothing if hasattr(trt, 'Nothing') else None", []),
    "a method that TensorRT calls": (
        "def f(trt):\n    class M(trt.IProgressMonitor):\n        def phase_begin(self): self.own = 1\n    return M().own",
        ["IProgressMonitor.phase_begin"],
    ),
    "only for versions that have it": ("def _type_weakly(trt): trt.BuilderFlag.FP16", []),
    "for every version": ("def f(trt): trt.BuilderFlag.FP16", ["BuilderFlag.FP16"]),
    "where nothing is given the module": ("def f(network): network.num_layer", []),
}


@pytest.mark.parametrize(("text", "expected"), SOURCES.values(), ids=SOURCES)
def test_what_a_file_asks_for_is_looked_up(text: str, expected: list[str], tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "probe.py"
    path.write_text(text + "\n")
    tables = {"11.4": tool.load()["11.4"]}
    assert [fault.split(" has no ")[1] for fault in tool.faults(tables, [path])] == expected


def test_a_name_of_tensorrt_on_an_unknown_variable_is_a_fault(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "lost.py"
    path.write_text("def f(thing): thing.execute_async_v3(0)\n")
    assert tool.faults(tool.load(), [path]) == ["lost.py:1: what thing is, RECEIVERS does not say"]


def test_names_of_cuda(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "gpu.py"
    path.write_text("def f(d):\n    d.driver.mem_alloc(1)\n    d.driver.mem_allok(1)\n")
    assert tool.pycuda_names([path]) - tool.load_pycuda() == {"mem_allok"}
    path.write_text(
        'd = require("pycuda.driver")\ndef f(card):\n    card.retain_primary_context()\n    card.retain_it()\n'
    )
    assert tool.pycuda_names([path]) - tool.load_pycuda() == {"retain_it"}


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.2.3", "10.0.1", "10.2.0"])
def test_an_older_tensorrt_is_refused_with_the_way_up(version: str) -> None:
    with pytest.raises(BadInput, match=r"too old: 10\.3 or newer is needed; upgrade a Jetson to JetPack 6\.1 or newer"):
        build_engine(SimpleNamespace(__version__=version, __name__="tensorrt"), b"", "fp16")


@pytest.fixture(scope="module")
def wheels(tool: ModuleType) -> Path:
    named = os.environ.get("EDGE_AD_TENSORRT_WHEELS")
    folder = Path(named) if named else None
    if folder is None or not tool.bindings.have(folder):
        pytest.skip(
            "EDGE_AD_TENSORRT_WHEELS names no folder with the bindings: tools/release/check_tensorrt_api.py --wheels DIR --fetch"
        )
    return folder


@pytest.mark.network
def test_the_kept_table_is_that_of_the_published_bindings(tool: ModuleType, wheels: Path) -> None:
    tables, cuda = tool.bindings.read(wheels), tool.bindings.read_pycuda(wheels)
    assert tool.faults(tables, tool.files()) == []
    assert tool.kept_text(tables, cuda) == tool.TABLE.read_text(encoding="utf-8")


ON_REAL_CLASSES = """
import tensorrt_bindings as trt
trt.__name__ = "tensorrt"
from edge_ad.engines.tensorrt.build import WEAK_FLAGS, build_engine
from edge_ad.engines.tensorrt.progress import logger_for
from edge_ad.engines.tensorrt.progress import Progress, make_monitor
from edge_ad.engines.tensorrt.versions import network_flags, strongly_typed
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
    message = tool.bindings.run(wheels, exact, ON_REAL_CLASSES, tool.ROOT)
    assert message.startswith(f"{version != '10.3'} TensorRT {exact} cannot start its builder")
