"""A frame in one stream: upload, engine after engine, download; recorded as a CUDA graph where that can be done.

A frame recorded once and replayed with one call: CUDA graphs by the driver's own library, which every GPU brings.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.engines.protocol import Engine, Tensor, TensorSpec
from edge_ad.engines.tensorrt.cuda import Device
from edge_ad.engines.tensorrt.tensors import Block, ExchangeTensor
from edge_ad.errors import BadInput, DeviceFault

_log = logging.getLogger(__name__)

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate while this one records
_HANDLE = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, _OUT),
    "cuGraphInstantiateWithFlags": (_OUT, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class GraphDriver:
    """The calls of the CUDA driver that record and replay; handles are numbers. A refusal is a DeviceFault."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {name: getattr(library, name) for name in _CALLS}
        for name, arguments in _CALLS.items():
            self._calls[name].argtypes, self._calls[name].restype = arguments, ctypes.c_int

    def begin(self, stream: int) -> None:
        """Begin to record what this thread puts into a stream."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end(self, stream: int) -> int:
        """End the recording and return it as a graph."""
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        return int(graph.value or 0)

    def instantiate(self, graph: int) -> int:
        """Return an executable of a graph."""
        executable = ctypes.c_void_p()
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        return int(executable.value or 0)

    def launch(self, executable: int, stream: int) -> None:
        """Enqueue an executable."""
        self._call("cuGraphLaunch", executable, stream)

    def destroy(self, graph: int, executable: int = 0) -> None:
        """Free a graph and its executable; that cannot fail in a way that matters to anyone."""
        if executable:
            self._calls["cuGraphExecDestroy"](executable)
        if graph:
            self._calls["cuGraphDestroy"](graph)

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._calls[name](*arguments)
        if code != 0:
            raise DeviceFault(f"the GPU refuses a CUDA graph: {name} answers {code} ({self._words(code)})")

    def _words(self, code: int) -> str:
        words = ctypes.c_char_p()
        self._calls["cuGetErrorString"](code, ctypes.byref(words))
        return (words.value or b"unknown error").decode("utf-8", errors="replace")


class CudaGraph:
    """A recorded sequence of copies and kernels. Addresses and shapes are those of the recording for good."""

    def __init__(self, driver: GraphDriver, graph: int, executable: int, stream: int) -> None:
        self._driver = driver
        self._graph = graph
        self._executable = executable
        self._stream = stream

    def launch(self) -> None:
        """Enqueue everything; DeviceFault when the device refuses."""
        self._driver.launch(self._executable, self._stream)

    def close(self) -> None:
        """Free the recording; calling it again does nothing."""
        self._driver.destroy(self._graph, self._executable)
        self._graph = self._executable = 0


def load_driver() -> GraphDriver | None:
    """Return the calls of the driver; None where its library is not there or older than they are (CUDA 11.4)."""
    try:
        return GraphDriver(ctypes.CDLL("libcuda.so.1"))
    except (OSError, AttributeError):
        return None


def record(driver: GraphDriver, device: Device, enqueue: Callable[[], None]) -> CudaGraph:
    """Record what ``enqueue`` puts into the stream of ``device``, which has run it before; DeviceFault where that
    fails.

    A recording that fails is ended and freed, so that the stream can be used as before.
    """
    stream = device.handle
    driver.begin(stream)
    try:
        enqueue()
    except BaseException:
        _abandon(driver, stream)
        raise
    graph = driver.end(stream)
    try:
        return CudaGraph(driver, graph, driver.instantiate(graph), stream)
    except DeviceFault:
        driver.destroy(graph)
        raise


def _abandon(driver: GraphDriver, stream: int) -> None:
    """End a recording that nobody wants; the driver may have ended it by itself."""
    try:
        driver.destroy(driver.end(stream))
    except DeviceFault:
        return


_SAME = 1e-3  # of the value: what a replay may differ from plain calls


class TrtFrame:
    """Runs TensorRT engines on one stream without allocating or waiting in between.

    ``replayed`` tells whether the frame is one CUDA graph; ``why_not`` says why it is not. Both ways give the same
    results: a recording whose results differ from those of plain calls is not used. Plain calls time every graph with
    events; a replay is timed as a whole.
    """

    def __init__(self, device: Device, engines: Mapping[str, Engine], image: Tensor, results: Sequence[Tensor]) -> None:
        self._device = device
        self._engines: dict[str, Any] = dict(engines)
        self._image = image
        self._results = results
        self._uploads = _blocks([image])
        self._downloads = _blocks(results)
        self._graph: CudaGraph | None = None
        self.why_not: str | None = None
        self._events: list[Any] = []
        try:
            with device.active():
                for _ in range(len(engines) + 3):  # start, upload, engines, download
                    self._events.append(device.event())
                self._record()
        except BaseException:
            self.close()
            raise

    @property
    def replayed(self) -> bool:
        """Whether the frame is one CUDA graph."""
        return self._graph is not None

    def run(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """Run everything on ``image`` u8 [1, H, W, 3]; return milliseconds, with ``host`` for copying and waiting."""
        start = perf_counter()
        with self._device.active():
            self._image.write(image)
            if self._graph is None:
                self._enqueue(self._events)
            else:
                self._events[0].record(self._device.stream)
                self._graph.launch()
                self._events[-1].record(self._device.stream)
            self._device.synchronize()
            stages = self._times()
        stages["host"] = max(0.0, (perf_counter() - start) * 1000.0 - sum(stages.values()))
        return stages

    def close(self) -> None:
        """Free the recording and the events; calling it again does nothing."""
        if self._events:
            self._device.release(self._free)

    def _free(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._events = []

    def _enqueue(self, events: Sequence[Any] = ()) -> None:
        """Put the whole frame into the stream; ``events``, where given, are recorded between its stages."""
        _mark(events, 0, self._device)
        for block in self._uploads:
            block.upload()
        _mark(events, 1, self._device)
        for index, engine in enumerate(self._engines.values(), 2):
            engine.enqueue()
            _mark(events, index, self._device)
        for block in self._downloads:
            block.download()
        _mark(events, -1, self._device)

    def _times(self) -> dict[str, float]:
        if self._graph is not None:
            return {"replay": float(self._events[0].time_till(self._events[-1]))}
        names = ["upload", *self._engines, "download"]
        pairs = zip(names, self._events[:-1], self._events[1:], strict=True)
        return {name: float(before.time_till(after)) for name, before, after in pairs}

    def _record(self) -> None:
        """Run plainly first, as TensorRT asks for, then record; keep the recording only if it gives the same.

        The replay sees another image than the last plain run, so results that were merely left over do not pass.
        """
        shown, other = (_noise(seed, self._image.spec) for seed in (0, 1))
        plain = self._plain(shown)
        self._plain(other)
        driver = load_driver()
        if driver is None:
            self._drop("libcuda.so.1 has no CUDA graphs")
            return
        try:
            self._graph = record(driver, self._device, self._enqueue)
            self._image.write(shown)
            self._graph.launch()
            self._device.synchronize()
        except (DeviceFault, self._device.driver.Error, RuntimeError, TypeError) as error:
            self._drop(f"recording failed: {' '.join(str(error).split())}")
            return
        replayed = [result.read() for result in self._results]
        if not all(
            np.allclose(a, b, rtol=_SAME, atol=_SAME, equal_nan=True) for a, b in zip(plain, replayed, strict=True)
        ):
            self._drop("a replay gave other results than plain calls")

    def _plain(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        self._image.write(image)
        self._enqueue()
        self._device.synchronize()
        return [result.read() for result in self._results]

    def _drop(self, why: str) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph, self.why_not = None, why
        _log.warning("no CUDA graph, engines start one by one: %s", why)


def _noise(seed: int, spec: TensorSpec) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, spec.shape).astype(spec.dtype)


def _blocks(tensors: Sequence[Tensor]) -> list[Block]:
    """Return the blocks that the tensors lie in, each once."""
    results: list[Block] = []
    for tensor in tensors:
        if not isinstance(tensor, ExchangeTensor):
            raise BadInput(f"{tensor.spec.name!r} is memory of another backend; open the pipeline again")
        if tensor.block not in results:
            results.append(tensor.block)
    return results


def _mark(events: Sequence[Any], index: int, device: Device) -> None:
    if events:
        events[index].record(device.stream)
