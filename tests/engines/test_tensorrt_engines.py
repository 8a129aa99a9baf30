"""`build-engine` with a double of TensorRT on a simulated GPU: types, flags, the timing cache, what a failed build says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.cli.app import main
from edge_ad.deployment import build as maker
from edge_ad.deployment.build import build
from edge_ad.engines import engine_store
from edge_ad.engines.benchmark import benchmark
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import open_pipeline
from edge_ad.engines.tensorrt.build import TimingCache, _nodes_of, free_memory
from edge_ad.errors import BadInput, DeviceFault
from tests.fixtures.fake_gpu import fake_gpu
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

pytestmark = pytest.mark.usefixtures("caches")


def opened(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, backend="tensorrt", graphs={name: bundle.graph(name) for name in bundle.graphs})


def test_a_device_with_too_little_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch, memory=100 << 20), pytest.raises(DeviceFault, match="only 100 MiB of memory are free"):
        build(bundle, "fp16", "tensorrt", threads=1)


@pytest.mark.parametrize("version", ["10.3.0", "10.11.0", "10.16.2", "11.4.1"])
def test_build_prove_store_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """The whole of `edge-ad build-engine` and a benchmark, with the tensorrt module passed in by its name alone."""
    path = make_tiny_bundle(tmp_path / "tiny.edgead")
    with fake_gpu(monkeypatch, version) as gpu:
        monkeypatch.chdir(tmp_path)
        assert main(["build-engine", str(path), "--fp16", "--optimisation-level", "2"]) == 0
        printed = capsys.readouterr().out
        assert "tensorrt fp16" in printed
        assert "accepted" in printed
        folder = Path(f"{path}.engines/tensorrt-fp16")
        assert {file.suffix for file in folder.iterdir()} == {".engine", ".json"}
        held = json.loads((folder / "signature.json").read_text())
        assert (held["backend_version"], held["sm"], held["cuda"]) == (version, "8.7", "12.6")
        bundle = open_bundle(path)
        assert engine_store.current(bundle) == engine_store.Current("tensorrt", "fp16")
        with open_pipeline(bundle) as pipeline:
            assert pipeline.backend.name == "tensorrt"
            pipeline.infer(tiny_image(0))
        times = benchmark(bundle, lambda: open_pipeline(bundle), frames=3)
        assert (times.backend, times.precision) == ("tensorrt", "fp16")
        assert list(times.stages) == ["resize", "replay", "host", "download", "verdict"]
        check_built(gpu, strong=version not in ("10.3.0", "10.11.0"))


def check_built(gpu: Any, strong: bool) -> None:
    names = [network.data for network, _ in gpu.trt.built]
    assert len(names) == 5
    for network, config in gpu.trt.built:
        assert network.flags == (2 if strong else 0)
        assert config.max_aux_streams == 0
        assert config.builder_optimization_level == 2
        assert 0 < config.pools["WORKSPACE"] <= 1 << 29
        fusion = any(value.name == "quantiles" for value in _inputs(network.data))
        # TF32, which is on by default, is off in every graph.
        assert config.flags == ([] if strong or fusion else ["FP16", "PREFER_PRECISION_CONSTRAINTS"])


def _inputs(data: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(data).graph.input


def test_weak_typing_holds_what_is_delicate_in_fp32(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an FP16 cast leaves alone must be held by hand where types are flags."""
    from edge_ad.deployment.derive import compile_typed, typed_graphs

    with fake_gpu(monkeypatch, "10.3.0") as gpu:
        trt: Any = gpu.trt
        graphs = typed_graphs(bundle, "fp16", strong=False)
        compile_typed(trt, graphs)
        held = {
            layer.node.op_type
            for network, _ in trt.built
            for layer in network.layers
            if getattr(layer, "precision", None) == trt.DataType.FLOAT
        }
        free = {
            layer.node.op_type
            for network, _ in trt.built
            for layer in network.layers
            if not hasattr(layer, "precision")
        }
    assert "Conv" in free
    assert "Conv" not in held
    assert held & {"ReduceMean", "Softmax", "ReduceMax", "Sub", "ReduceSum", "Div", "Sqrt"}


@pytest.mark.parametrize(
    ("name", "metadata", "nodes"),
    [
        ("/lavit/Softmax_3", "[ONNX Layer: /lavit/Softmax_3]", {"/lavit/Softmax_3"}),
        ("PWN(a, b)", "[ONNX Layer: /a]\x1f[ONNX Layer: /b]", {"/a", "/b"}),
        ("/lavit/LayerNorm_17", "", {"/lavit/LayerNorm_17", "/lavit/LayerNorm"}),
        ("/lavit/Softmax", None, {"/lavit/Softmax"}),
    ],
)
def test_the_nodes_of_a_layer(name: str, metadata: str | None, nodes: set[str]) -> None:
    assert _nodes_of(SimpleNamespace(name=name, metadata=metadata)) == nodes


def test_the_timing_cache_is_kept_by_version_and_device(bundle: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    with fake_gpu(monkeypatch, "10.3.0"):
        folder = Path(f"{bundle.path}.engines")
        build(bundle, "fp32", "tensorrt", threads=1)
        cache = TimingCache("10.3.0", "Fake GPU-sm8.7")
        assert cache.path.name == "timing-10.3.0-fake-gpu-sm8.7.bin"
        assert cache.read() == b"+" * 5
        cache.write(b"foreign")
        build(bundle, "fp32", "tensorrt", threads=1)
        assert cache.read() == b"+" * 5  # one that does not fit is replaced by an empty one
        cache.path.write_bytes(cache.path.read_bytes()[:-1])
        assert cache.read() == b""
        shutil.rmtree(folder)


def test_a_failed_build_gives_the_reason(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as gpu:
        for words, message in (
            (
                "Could not find any implementation for node /conv",
                "'teacher' in fp16: Could not find any implementation",
            ),
            ("cudaMalloc: out of memory", "too little free memory: close other programs"),
        ):
            gpu.trt.fail["build"] = words
            with pytest.raises(DeviceFault, match=message):
                build(bundle, "fp16", "tensorrt", threads=1)
        assert not Path(f"{bundle.path}.engines").exists()


def test_an_error_is_reported_once_and_by_the_build_that_had_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT tells everything to the first logger that it was given; what it told earlier is another story."""
    with fake_gpu(monkeypatch) as gpu:
        for words, message in (("cudaMalloc: out of memory", "too little free memory"), ("no tactic", "fp16: no tactic")):
            gpu.trt.fail["build"] = words
            with pytest.raises(DeviceFault, match=message):
                build(bundle, "fp16", "tensorrt", threads=1)
        gpu.trt.fail.clear()
        gpu.trt.fail["load"] = "Magic tag does not match"
        with pytest.raises(BadInput, match="Magic tag does not match"):
            opened(bundle)


@pytest.mark.parametrize(("integrated", "accepted"), [(True, True), (False, False)])
def test_memory_of_the_page_cache_counts_as_free_where_it_is_shared(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, integrated: bool, accepted: bool
) -> None:
    """An Orin Nano with 217 MiB that are wholly free, as CUDA counts them, and 5.3 GiB that programs can have."""
    board = json.loads((Path(__file__).parents[1] / "fixtures/boards/orin_nano_jetpack6.json").read_text())
    free_kib = int(re.findall(r"MemFree: *(\d+) kB", board["files"]["proc/meminfo"])[0])
    monkeypatch.setattr(maker, "free_memory", lambda: free_memory(meminfo_of(board, bundle.path.parent)))
    with fake_gpu(monkeypatch, integrated=integrated, free=free_kib << 10) as gpu:
        if accepted:
            build(bundle, "fp32", "tensorrt", threads=1)
            assert {config.pools["WORKSPACE"] for _, config in gpu.trt.built} == {1 << 30}  # type: ignore[attr-defined]
            shutil.rmtree(f"{bundle.path}.engines")
        else:
            with pytest.raises(DeviceFault, match="only 217 MiB of memory are free"):
                build(bundle, "fp32", "tensorrt", threads=1)


def meminfo_of(board: dict[str, Any], folder: Path) -> Path:
    path = folder / "meminfo"
    path.write_text(board["files"]["proc/meminfo"])
    return path
