"""The runtime path of TensorRT on a stand-in (see tests/fixtures/standin_gpu.py): our order of calls and error branches.

Nothing here ran on a GPU.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.cli.app import main
from edge_ad.engines import artefacts, maker
from edge_ad.engines.benchmark import benchmark
from edge_ad.engines.build import build
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import open_pipeline
from edge_ad.engines.tensorrt import TrtBackend
from edge_ad.engines.tensorrt_build import _nodes_of, free_memory
from edge_ad.engines.timing_cache import TimingCache
from edge_ad.errors import BadInput, DeviceFault
from tests.fixtures.standin_gpu import CudaError, CudaMemoryError, Gpu, standin
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_tiny_bundle(tmp_path_factory.mktemp("trt") / "tiny.edgead"))


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["integrated", "discrete"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with standin(monkeypatch, integrated=request.param == "integrated") as held:
        yield held


def graphs_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.graph(name) for name in bundle.graphs}


def opened(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, backend="tensorrt", graphs=graphs_of(bundle))


@pytest.mark.parametrize("replayed", [True, False])
def test_the_pipeline_gives_what_onnxruntime_gives(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, replayed: bool
) -> None:
    with standin(monkeypatch, graphs=replayed), opened(bundle) as pipeline, Pipeline(bundle, threads=1) as reference:
        frame: Any = pipeline._frame
        assert frame.replayed is replayed
        assert frame.why_not == (None if replayed else "cuda-bindings is not installed")
        for seed in range(4):
            image = tiny_image(seed, blob=seed % 2 == 1)
            found, wanted = pipeline.infer(image), reference.infer(image)
            np.testing.assert_allclose(found.raw, wanted.raw, rtol=1e-5)
            np.testing.assert_allclose(found.map, wanted.map, rtol=1e-5)
            assert found.score == pytest.approx(wanted.score, rel=1e-5)
        graphs = set(pipeline.engines)
        assert set(found.stages_ms) == ({"replay"} if replayed else {"upload", *graphs}) | {"host", "download"}


def test_a_frame_is_one_upload_and_one_download(bundle: Bundle, gpu: Gpu) -> None:
    with opened(bundle) as pipeline:
        frame: Any = pipeline._frame
        frame.close()  # plain calls, so that each of them is counted
        frame._events = [gpu_event(pipeline) for _ in range(len(pipeline.engines) + 3)]
        gpu.calls.clear()
        pipeline.infer(tiny_image(1))
        copies = 0 if gpu.integrated else 1
        assert (gpu.count("upload"), gpu.count("download")) == (copies, copies)
        assert gpu.count("execute") == len(pipeline.engines)
        assert gpu.count("synchronize") == 1
        assert not {"mem_alloc", "pagelocked_empty", "Event", "Stream", "free"} & set(gpu.calls)


def gpu_event(pipeline: Pipeline) -> Any:
    device = pipeline.backend.device  # type: ignore[attr-defined]
    with device.active():
        return device.event()


def test_a_replayed_frame_is_one_call(bundle: Bundle, gpu: Gpu) -> None:
    with opened(bundle) as pipeline:
        gpu.calls.clear()
        pipeline.infer(tiny_image(1))
        assert [name for name in gpu.calls if name != "record"] == ["launch", "synchronize"]


def test_engines_are_bound_to_each_other_on_the_device(bundle: Bundle, gpu: Gpu) -> None:
    with opened(bundle) as pipeline:
        made: dict[str, int] = {}
        for engine in pipeline.engines.values():
            context: Any = engine._context  # type: ignore[attr-defined]
            for name in engine.inputs:
                assert context.addresses[name] == made.setdefault(name, context.addresses[name])
            made.update({name: context.addresses[name] for name in engine.outputs})
        assert len(set(made.values())) == len(made)
        np.testing.assert_array_equal(pipeline.tensor("masks"), bundle.masks)


def test_closing_gives_all_memory_back(bundle: Bundle, gpu: Gpu) -> None:
    with opened(bundle):
        assert gpu.live
    assert not gpu.live


def test_a_frame_in_another_thread(bundle: Bundle, gpu: Gpu) -> None:
    with opened(bundle) as pipeline:
        found: list[float] = []
        thread = threading.Thread(target=lambda: found.append(pipeline.infer(tiny_image(3)).score))
        thread.start()
        thread.join()
        assert found == [pipeline.infer(tiny_image(3)).score]


@pytest.mark.parametrize("call", ["begin", "end", "instantiate", "launch"])
def test_a_graph_that_cannot_be_recorded_falls_back(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    with standin(monkeypatch) as gpu, Pipeline(bundle, threads=1) as reference:
        gpu.fail[call] = CudaError()
        with opened(bundle) as pipeline:
            frame: Any = pipeline._frame
            assert not frame.replayed
            assert frame.why_not.startswith("recording failed: the GPU refuses a CUDA graph: cudaErrorStream")
            wanted = reference.infer(tiny_image(5)).score
            assert pipeline.infer(tiny_image(5)).score == pytest.approx(wanted, rel=1e-5)


def test_a_replay_that_gives_something_else_is_not_used(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording without its last step leaves the results of the run before."""
    with standin(monkeypatch):
        import sys

        runtime: Any = sys.modules["cuda.bindings.runtime"]
        runtime.cudaGraphInstantiateWithFlags = lambda graph, flags: (runtime.cudaError_t.cudaSuccess, graph[:-2])
        with opened(bundle) as pipeline:
            frame: Any = pipeline._frame
            assert frame.why_not == "a replay gave other results than plain calls"
            assert pipeline.infer(tiny_image(5)).stages_ms["fusion"] == 0.5


@pytest.mark.parametrize(
    ("fault", "error", "kind", "told"),
    [
        (
            "init",
            CudaError("cuInit failed: no CUDA-capable device is detected"),
            DeviceFault,
            "does not start: cuInit failed",
        ),
        ("load", CudaError("Version tag does not match"), BadInput, "'teacher': Version tag does not match; build"),
        ("load", CudaError("Cuda Runtime (out of memory)"), DeviceFault, "too little free memory"),
        ("context", CudaError(), DeviceFault, "make room to run the engine 'teacher'"),
        ("bind", CudaError(), BadInput, "does not take the memory of 'image'"),
        ("enqueue", CudaError(), DeviceFault, "'teacher' failed in TensorRT"),
        ("synchronize", CudaError("an illegal memory access"), DeviceFault, "does not work: an illegal memory access"),
        ("mem_alloc", CudaMemoryError("cuMemAlloc failed"), DeviceFault, "no memory left .*close other programs"),
    ],
)
def test_faults_are_told_in_one_sentence(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fault: str, error: Exception, kind: type[Exception], told: str
) -> None:
    with standin(monkeypatch, graphs=False) as gpu:
        gpu.fail[fault] = error
        with pytest.raises(kind, match=told) as caught:
            opened(bundle)
        assert "\n" not in str(caught.value)
        gpu.fail.clear()
        assert gpu.depth == 0


def test_a_device_with_too_little_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with standin(monkeypatch, memory=1000), pytest.raises(DeviceFault, match="no memory left"):
        opened(bundle)
    with standin(monkeypatch, memory=100 << 20), pytest.raises(DeviceFault, match="only 100 MiB of memory are free"):
        build(bundle, "fp16", "tensorrt", threads=1)


@pytest.mark.parametrize("version", ["10.3.0", "10.11.0", "10.16.2", "11.4.1"])
def test_build_prove_store_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """The whole of `edge-ad build-engine` and a benchmark, with the tensorrt module passed in by its name alone."""
    path = make_tiny_bundle(tmp_path / "tiny.edgead")
    with standin(monkeypatch, version) as gpu:
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
        assert artefacts.current(bundle) == artefacts.Current("tensorrt", "fp16")
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
        assert (
            config.pools == {"WORKSPACE": min(1 << 30, (gpu.memory - gpu.allocated) // 2)}
            or config.pools["WORKSPACE"] > 0
        )
        fusion = any(value.name == "quantiles" for value in _inputs(network.data))
        # TF32, which is on by default, is off in every graph.
        assert config.flags == ([] if strong or fusion else ["FP16", "PREFER_PRECISION_CONSTRAINTS"])


def _inputs(data: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(data).graph.input


def test_weak_typing_holds_what_is_delicate_in_fp32(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an FP16 cast leaves alone must be held by hand where types are flags."""
    from edge_ad.engines.derive import compile_typed, typed_graphs

    with standin(monkeypatch, "10.3.0") as gpu:
        trt: Any = gpu.trt  # type: ignore[attr-defined]
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
    with standin(monkeypatch, "10.3.0"):
        folder = Path(f"{bundle.path}.engines")
        build(bundle, "fp32", "tensorrt", threads=1)
        cache = TimingCache("10.3.0", "Stand-in-sm8.7")
        assert cache.path.name == "timing-10.3.0-stand-in-sm8.7.bin"
        assert cache.read() == b"+" * 5
        cache.write(b"foreign")
        build(bundle, "fp32", "tensorrt", threads=1)
        assert cache.read() == b"+" * 5  # one that does not fit is replaced by an empty one
        cache.path.write_bytes(cache.path.read_bytes()[:-1])
        assert cache.read() == b""
        shutil.rmtree(folder)


def test_a_failed_build_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with standin(monkeypatch) as gpu:
        for words, told in (
            (
                "Could not find any implementation for node /conv",
                "'teacher' in fp16: Could not find any implementation",
            ),
            ("cudaMalloc: out of memory", "too little free memory: close other programs"),
        ):
            gpu.fail["build"] = CudaError(words)
            with pytest.raises(DeviceFault, match=told):
                build(bundle, "fp16", "tensorrt", threads=1)
        assert not Path(f"{bundle.path}.engines").exists()


def test_an_error_is_told_once_and_by_the_build_that_had_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT tells everything to the first logger that it was given; what it told earlier is another story."""
    with standin(monkeypatch) as gpu:
        for words, told in (("cudaMalloc: out of memory", "too little free memory"), ("no tactic", "fp16: no tactic")):
            gpu.fail["build"] = CudaError(words)
            with pytest.raises(DeviceFault, match=told):
                build(bundle, "fp16", "tensorrt", threads=1)
        gpu.fail.clear()
        gpu.fail["load"] = CudaError("Magic tag does not match")
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
    with standin(monkeypatch, integrated=integrated, memory=free_kib << 10) as gpu:
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


def test_engines_of_another_backend_are_not_mixed(bundle: Bundle, gpu: Gpu) -> None:
    backend = TrtBackend()
    spec = next(iter(Pipeline(bundle, threads=1)._tensors.values())).spec
    with pytest.raises(BadInput, match="memory of another backend"):
        backend.frame({}, backend.allocate(spec), [])
    backend.close()
