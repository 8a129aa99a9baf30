"""A frame recorded once and replayed with one call: CUDA graphs by the driver's own library, which every GPU brings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from edge_ad.engines.cuda import Device
from edge_ad.errors import DeviceFault

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
    """Record what ``enqueue`` puts into the stream of ``device``, which has run it before; DeviceFault where that fails.

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
