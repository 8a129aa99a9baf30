"""The runtime path of TensorRT over the real pycuda on the fake driver (see tests/fixtures/fake_gpu.py).

Nothing here ran on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.engines.offline import open_workers
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.protocol import TensorSpec
from edge_ad.engines.tensorrt import frame as cuda_graph
from edge_ad.engines.tensorrt import frame as tensorrt_frame
from edge_ad.engines.tensorrt.backend import TrtBackend, TrtEngine
from edge_ad.engines.tensorrt.cuda import Device
from edge_ad.errors import BadInput, DeviceFault
from tests.fixtures.fake_gpu import NOT_CAPTURED, FakeGpu, fake_gpu
from tests.fixtures.tiny_bundle import tiny_image

pytestmark = pytest.mark.usefixtures("caches")


@pytest.fixture(params=["integrated", "discrete"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch, integrated=request.param == "integrated") as held:
        yield held


def graphs_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.graph(name) for name in bundle.graphs}


def opened(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, backend="tensorrt", graphs=graphs_of(bundle))


@pytest.mark.parametrize("replayed", [True, False], ids=["captured", "plain"])
@pytest.mark.parametrize("delay_us", [0, 300], ids=["fast", "slow"])
def test_frames_are_those_of_onnxruntime_to_the_bit(
    bundle: Bundle, gpu: FakeGpu, replayed: bool, delay_us: int
) -> None:
    """With a slow device, whatever is read before it was waited for would be of the frame before."""
    gpu.configure(delay_us=delay_us)
    if not replayed:
        gpu.fail("cuStreamBeginCapture_v2", code=NOT_CAPTURED)
    with opened(bundle) as pipeline, Pipeline(bundle, threads=1) as reference:
        frame: Any = pipeline._frame
        assert frame.replayed is replayed
        for seed in range(4):
            image = tiny_image(seed, blob=seed % 2 == 1)
            result, wanted = pipeline.infer(image), reference.infer(image)
            for name in ("raw", "z", "map"):
                np.testing.assert_array_equal(getattr(result, name), getattr(wanted, name))
            assert result.score == wanted.score
        graphs = set(pipeline.engines)
        assert set(result.stages_ms) == ({"replay"} if replayed else {"upload", *graphs}) | {"host", "download"}


def test_many_images_have_one_pipeline_on_a_gpu_and_are_prepared_by_other_threads(bundle: Bundle, gpu: FakeGpu) -> None:
    threads: set[int] = set()

    def prepare(seed: int) -> NDArray[np.uint8]:
        threads.add(threading.get_ident())
        return tiny_image(seed)

    with open_workers(bundle, "tensorrt", "fp32", jobs=3, graphs=graphs_of(bundle)) as workers:
        scores = list(workers.map(range(8), prepare, lambda pipeline, image: pipeline.infer(image).score))
    with Pipeline(bundle, threads=1) as reference:
        assert scores == [reference.infer(tiny_image(seed)).score for seed in range(8)]
    assert threading.get_ident() not in threads


def test_a_plain_frame_is_one_upload_and_one_download(bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.fail("cuStreamBeginCapture_v2", code=NOT_CAPTURED)
    with opened(bundle) as pipeline:
        ends = sum(len(engine.inputs) + len(engine.outputs) for engine in pipeline.engines.values())
        gpu.forget_calls()
        pipeline.infer(tiny_image(1))
        calls = gpu.calls
        copies = 0 if gpu.integrated else 2
        assert calls["cuMemcpyHtoDAsync_v2"] + calls["cuMemcpyDtoHAsync_v2"] == copies + ends
        assert calls["cuLaunchHostFunc"] == len(pipeline.engines)
        assert calls["cuStreamSynchronize"] == 1
        assert not {"cuMemAlloc_v2", "cuMemHostAlloc", "cuEventCreate", "cuStreamCreate", "cuMemFree_v2"} & set(calls)


def test_a_captured_frame_is_one_launch(bundle: Bundle, gpu: FakeGpu) -> None:
    with opened(bundle) as pipeline:
        gpu.forget_calls()
        pipeline.infer(tiny_image(1))
        assert gpu.calls == {
            "cuCtxPushCurrent_v2": 1,
            "cuEventRecord": 2,
            "cuGraphLaunch": 1,
            "cuStreamSynchronize": 1,
            "cuEventElapsedTime": 1,
            "cuCtxPopCurrent_v2": 1,
        }


def test_engines_are_bound_to_each_other_on_the_device(bundle: Bundle, gpu: FakeGpu) -> None:
    with opened(bundle) as pipeline:
        made: dict[str, int] = {}
        for engine in pipeline.engines.values():
            context: Any = engine._context  # type: ignore[attr-defined]
            for name in engine.inputs:
                assert context.addresses[name] == made.setdefault(name, context.addresses[name])
            made.update({name: context.addresses[name] for name in engine.outputs})
            del context
        assert len(set(made.values())) == len(made)
        assert {address % 256 for address in made.values()} == {0}
        np.testing.assert_array_equal(pipeline.tensor("masks"), bundle.masks)


def test_closing_gives_all_memory_back(bundle: Bundle, gpu: FakeGpu) -> None:
    with opened(bundle):
        assert gpu.report()["live_blocks"] > 0
    assert gpu.report()["live_blocks"] == 0


def test_memory_that_was_given_back_is_not_touched(bundle: Bundle, gpu: FakeGpu) -> None:
    """Also through what was taken out of the pipeline before it was closed; the pinned block would be any memory then."""
    with opened(bundle) as pipeline:
        held = {name: pipeline._tensors[name] for name in ("image", "score", "masks")}
        image = tiny_image(0)[None]
    for use in (
        held["score"].read,
        held["masks"].read,
        lambda: held["image"].write(image),
        lambda: held["masks"].write(bundle.masks),
        lambda: pipeline.tensor("map"),
        lambda: pipeline.infer(image[0]),
    ):
        with pytest.raises(DeviceFault, match="open the pipeline again|open it again"):
            use()
    assert gpu.report()["use_after_free"] == 0


def test_nothing_is_freed_twice(bundle: Bundle, gpu: FakeGpu) -> None:
    device = Device()
    with device.active():
        memory, pinned = device.allocate(100), device.allocate_pinned(100)
        assert (memory.address % 256, pinned.address % 256) == (0, 0)
        for piece in (memory, pinned, memory, pinned):
            device.synchronize()
            piece.free()
    pipeline = opened(bundle)
    for _ in range(2):
        pipeline.close()
        device.close()
    report = gpu.report()
    assert (report["bad_frees"], report["live_blocks"], report["live_streams"]) == (0, 0, 0)


def test_memory_in_use_is_freed_when_the_stream_is_done(bundle: Bundle, gpu: FakeGpu) -> None:
    """What was enqueued and not waited for, as where opening fails half-way on a slow device."""
    gpu.configure(delay_us=2000)
    backend = TrtBackend()
    for _ in range(20):
        backend.allocate(TensorSpec("x", "float32", (64, 64)))
    backend.close()
    assert gpu.report()["use_after_free"] == 0


@pytest.mark.parametrize("size", [1, 255, 256, 257, 12345])
def test_tensors_of_a_block_are_aligned_and_apart(gpu: FakeGpu, size: int) -> None:
    """Writing one to its last byte leaves its neighbours and the guards alone."""
    backend = TrtBackend()
    specs = [TensorSpec(name, "uint8", (size,)) for name in "abc"]
    tensors = backend.exchange(specs)
    assert [tensor.address % 256 for tensor in tensors] == [0, 0, 0]
    for value, tensor in enumerate(tensors, 1):
        tensor.write(np.full(size, value, np.uint8))
    assert [set(tensor.read().tolist()) for tensor in tensors] == [{1}, {2}, {3}]
    backend.close()


def test_fifty_times_opened_and_closed_leaves_nothing(bundle: Bundle, gpu: FakeGpu) -> None:
    for _ in range(50):
        with opened(bundle) as pipeline:
            pipeline.infer(tiny_image(1))
        del pipeline
        report = gpu.report()
        assert {name: count for name, count in report.items() if name.startswith("live_") and count} == {}


def test_frames_in_other_threads(bundle: Bundle, gpu: FakeGpu) -> None:
    """A context belongs to no thread: it is current while a frame runs, and no thread ends with it on its stack."""
    with opened(bundle) as pipeline:
        wanted = pipeline.infer(tiny_image(3)).score
        results: list[float] = []
        for _ in range(3):
            thread = threading.Thread(target=lambda: results.append(pipeline.infer(tiny_image(3)).score))
            thread.start()
            thread.join()
        assert results == [wanted] * 3
        assert gpu.report()["abandoned_contexts"] == 0


def test_two_pipelines_side_by_side(bundle: Bundle, gpu: FakeGpu) -> None:
    """Each has a stream of its own in the one context of the process."""
    with opened(bundle) as first, opened(bundle) as second:
        wanted = [first.infer(tiny_image(seed)).score for seed in range(20)]
        result: dict[str, list[float]] = {}

        def work(name: str, pipeline: Pipeline) -> None:
            result[name] = [pipeline.infer(tiny_image(seed)).score for seed in range(20)]

        threads = [threading.Thread(target=work, args=pair) for pair in (("a", first), ("b", second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert result == {"a": wanted, "b": wanted}
    del first, second, work, threads


CAPTURE_CALLS = ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]


@pytest.mark.parametrize("call", CAPTURE_CALLS)
def test_a_graph_that_cannot_be_recorded_falls_back(
    bundle: Bundle, gpu: FakeGpu, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.fail(call, code=NOT_CAPTURED)
    with opened(bundle) as pipeline, Pipeline(bundle, threads=1) as reference:
        frame: Any = pipeline._frame
        assert not frame.replayed
        assert frame.why_not == (
            f"recording failed: the GPU refuses a CUDA graph: {call} answers 900 "
            "(operation not permitted when stream is capturing)"
        )
        assert caplog.messages == [f"no CUDA graph, engines start one by one: {frame.why_not}"]
        assert pipeline.infer(tiny_image(5)).score == reference.infer(tiny_image(5)).score


@pytest.mark.parametrize("error", [RuntimeError, TypeError, DeviceFault])
def test_an_engine_that_cannot_be_recorded_falls_back(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As TensorRT's binding raises, in the midst of the recording: it is ended, its graph freed, the stream usable."""
    enqueue = TrtEngine.enqueue

    def refusing(engine: TrtEngine) -> None:
        capturing = gpu.calls.get("cuStreamBeginCapture_v2", 0) > gpu.calls.get("cuStreamEndCapture", 0)
        if capturing and engine.name == "fusion":
            raise error("no capture")
        enqueue(engine)

    monkeypatch.setattr(TrtEngine, "enqueue", refusing)
    with opened(bundle) as pipeline, Pipeline(bundle, threads=1) as reference:
        frame: Any = pipeline._frame
        assert frame.why_not == "recording failed: no capture"
        assert pipeline.infer(tiny_image(5)).score == reference.infer(tiny_image(5)).score


def test_a_wait_while_recording_falls_back(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver itself forbids it and ends the recording."""
    enqueue = TrtEngine.enqueue

    def waiting(engine: TrtEngine) -> None:
        enqueue(engine)
        engine._device.synchronize()

    monkeypatch.setattr(TrtEngine, "enqueue", waiting)
    with opened(bundle) as pipeline:
        frame: Any = pipeline._frame
        assert frame.why_not == (
            "recording failed: cuStreamSynchronize failed: operation not permitted when stream is capturing"
        )


def test_a_replay_that_gives_something_else_is_not_used(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording without its last engine leaves the results of the run before."""
    enqueue = TrtEngine.enqueue

    def leaving_out(engine: TrtEngine) -> None:
        capturing = gpu.calls.get("cuStreamBeginCapture_v2", 0) > gpu.calls.get("cuStreamEndCapture", 0)
        if not capturing or engine.name != "fusion":
            enqueue(engine)

    monkeypatch.setattr(TrtEngine, "enqueue", leaving_out)
    with opened(bundle) as pipeline, Pipeline(bundle, threads=1) as reference:
        frame: Any = pipeline._frame
        assert frame.why_not == "a replay gave other results than plain calls"
        assert pipeline.infer(tiny_image(5)).score == reference.infer(tiny_image(5)).score


@pytest.mark.parametrize("missing", ["library", "function"])
def test_a_driver_without_graphs_falls_back(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with monkeypatch.context() as patch:
        if missing == "library":
            patch.setattr(ctypes, "CDLL", refuse)
        else:
            patch.setattr(cuda_graph, "_CALLS", {"cuNoSuchCall": ()})
        assert cuda_graph.load_driver() is None
    monkeypatch.setattr(tensorrt_frame, "load_driver", lambda: None)
    with opened(bundle) as pipeline:
        frame: Any = pipeline._frame
        assert frame.why_not == "libcuda.so.1 has no CUDA graphs"


def refuse(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (
            lambda gpu: gpu.fail("cuInit", code=100),
            DeviceFault,
            "does not start: cuInit failed: no CUDA-capable device",
        ),
        (
            lambda gpu: gpu.trt.fail.update(load="Version tag does not match"),
            BadInput,
            "'teacher': Version tag does not match; build",
        ),
        (
            lambda gpu: gpu.trt.fail.update(load="Cuda Runtime (out of memory)"),
            DeviceFault,
            "too little free memory",
        ),
        (lambda gpu: gpu.trt.fail.update(context="x"), DeviceFault, "make room to run the engine 'teacher'"),
        (lambda gpu: gpu.trt.fail.update(bind="x"), BadInput, "does not take the memory of 'image'"),
        (lambda gpu: gpu.trt.fail.update(enqueue="x"), DeviceFault, "'teacher' failed in TensorRT"),
    ],
)
def test_faults_are_reported_in_one_sentence(
    bundle: Bundle, gpu: FakeGpu, fault: Callable[[FakeGpu], None], kind: type[Exception], message: str
) -> None:
    fault(gpu)
    with pytest.raises(kind, match=message) as caught:
        opened(bundle)
    assert "\n" not in str(caught.value)
    del caught


@pytest.mark.parametrize("integrated", [True, False])
def test_memory_that_ends_anywhere_while_opening(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, integrated: bool
) -> None:
    """Whatever does not fit: a sentence, and nothing stays allocated."""
    with fake_gpu(monkeypatch, integrated=integrated) as gpu:
        with opened(bundle):
            report = gpu.report()
            needed = report["device_bytes"] + (report["pinned_bytes"] if integrated else 0)
        for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            gpu.configure(memory=int(needed * share))
            with pytest.raises(DeviceFault, match="memory") as caught:
                opened(bundle)
            assert "\n" not in str(caught.value)
            del caught
            assert gpu.faults() == {}
        gpu.configure(memory=needed)
        with opened(bundle) as pipeline:
            pipeline.infer(tiny_image(0))
        del pipeline


def test_engines_of_another_backend_are_not_mixed(bundle: Bundle, gpu: FakeGpu) -> None:
    backend = TrtBackend()
    spec = next(iter(Pipeline(bundle, threads=1)._tensors.values())).spec
    with pytest.raises(BadInput, match="memory of another backend"):
        backend.frame({}, backend.allocate(spec), [])
    backend.close()
