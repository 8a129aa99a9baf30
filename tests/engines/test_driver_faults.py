"""Every call of the driver that the product makes can fail: a sentence and exit 3, or the same results without it.

The real pycuda on the fake driver (see tests/fixtures/fake_gpu.py). A call fails once, or the device is lost with it and
all later calls answer the same, as a GPU does after an illegal address.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.cli.app import main
from edge_ad.engines import engine_store
from edge_ad.engines.selection import open_pipeline
from edge_ad.engines.tensorrt import cuda
from edge_ad.engines.tensorrt.backend import TrtBackend
from edge_ad.errors import DeviceFault
from tests.fixtures.fake_gpu import FakeGpu, fake_gpu
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

# Only free things: pycuda tells of a failure on stderr and goes on, and so do we.
CLEANING = {
    "cuMemFree_v2",
    "cuMemFreeHost",
    "cuEventDestroy_v2",
    "cuStreamDestroy_v2",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
}
# A frame that cannot be recorded runs call by call.
CAPTURING = {"cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"}
# Calls of the double alone, as CUDA's runtime inside TensorRT makes them.
OF_THE_DOUBLE = {"cuDevicePrimaryCtxRelease_v2", "cuGetErrorString"}
# Every call of a run, so that a name which is new or gone is seen.
CALLS = sorted(
    CLEANING | CAPTURING | {
        "cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceComputeCapability", "cuDeviceGetAttribute",
        "cuDriverGetVersion", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuStreamCreate",
        "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2", "cuMemsetD8Async", "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2", "cuLaunchHostFunc", "cuStreamSynchronize", "cuEventCreate", "cuEventRecord",
        "cuEventElapsedTime",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and its engines."""
    folder = tmp_path_factory.mktemp("faults")
    bundle = open_bundle(make_tiny_bundle(folder / "tiny.edgead"))
    patch = pytest.MonkeyPatch()
    with patch.context() as patched, fake_gpu(patched):
        store(bundle)
    return folder


def store(bundle: Bundle) -> None:
    backend = TrtBackend()
    engine_store.store(bundle, backend, "fp16", {name: bundle.graph(name) for name in bundle.graphs})
    engine_store.make_current(bundle, "tensorrt", "fp16")


@pytest.fixture
def gpu(station: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    monkeypatch.chdir(station)
    with fake_gpu(monkeypatch) as held:
        yield held


def run() -> list[float]:
    """Open what is current, judge two images, close."""
    with open_pipeline(open_bundle(Path("tiny.edgead"))) as pipeline:
        return [pipeline.infer(tiny_image(seed)).score for seed in range(2)]


@pytest.fixture(scope="module")
def normal(station: Path) -> tuple[dict[str, int], list[float]]:
    """How often each call is made in a run of a new process in which nothing fails, and its scores."""
    patch = pytest.MonkeyPatch()
    with patch.context() as patched, fake_gpu(patched) as gpu:
        patched.chdir(station)
        patched.setattr(cuda, "_CONTEXTS", {})
        scores = run()
        gc.collect()
        return gpu.calls, scores


def test_the_calls_of_a_run(normal: tuple[dict[str, int], list[float]]) -> None:
    assert sorted(normal[0].keys() - OF_THE_DOUBLE) == CALLS


@pytest.mark.parametrize("lost", [False, True], ids=["once", "lost"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_can_fail(
    gpu: FakeGpu,
    normal: tuple[dict[str, int], list[float]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    call: str,
    last: bool,
    lost: bool,
) -> None:
    monkeypatch.setattr(cuda, "_CONTEXTS", {})  # as in a new process
    counts, wanted = normal
    nth = counts[call] if last else 1
    gpu.fail(call, nth, sticky=lost)
    try:
        result, message = run(), ""
    except DeviceFault as fault:
        result, message = None, str(fault)
    gc.collect()
    assert result in (None, wanted)
    assert "\n" not in message
    if not last and call not in CLEANING | CAPTURING:
        assert message, "the first such call cannot fail without a word"
    errors = [line for line in capfd.readouterr().err.splitlines() if line and not is_warning(line)]
    assert all(line.startswith("no CUDA graph") or " WARNING no CUDA graph" in line for line in errors), errors
    if lost:  # nobody can await what was launched before on such a device: it ends by itself
        until(lambda: gpu.faults().keys() != {"pending"}, 60.0)
    assert not gpu.faults(), gpu.faults()
    gpu.no_faults()
    assert run() == wanted  # the process itself goes on where the device does


def test_a_fault_ends_the_command_with_3(gpu: FakeGpu, capfd: pytest.CaptureFixture[str]) -> None:
    gpu.fail("cuStreamSynchronize", 20, sticky=True)
    assert main(["benchmark", "tiny.edgead", "--frames", "3"]) == 3
    errors = [line for line in capfd.readouterr().err.splitlines() if line and not is_warning(line)]
    assert len(errors) == 1
    assert errors[0].startswith("error: the GPU does not work: cuStreamSynchronize failed: an illegal memory access")


def is_warning(line: str) -> bool:
    """Whether pycuda says that it could not free something."""
    return line.startswith(("PyCUDA WARNING", "cu"))
