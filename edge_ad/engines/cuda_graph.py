"""A frame recorded once and replayed with one call, through cuda-bindings where that is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edge_ad.engines.cuda import Device
from edge_ad.errors import DeviceFault


class CudaGraph:
    """A recorded sequence of copies and kernels. Addresses and shapes are those of the recording for good."""

    def __init__(self, runtime: Any, graph: Any, executable: Any, stream: int) -> None:
        self._runtime = runtime
        self._graph = graph
        self._executable = executable
        self._stream = stream

    def launch(self) -> None:
        """Enqueue everything; DeviceFault when the device refuses."""
        _checked(self._runtime, self._runtime.cudaGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Free the recording; calling it again does nothing."""
        if self._graph is not None:
            self._runtime.cudaGraphExecDestroy(self._executable)
            self._runtime.cudaGraphDestroy(self._graph)
            self._graph = None


def load_runtime() -> Any:
    """Return the runtime module of cuda-bindings (its name until version 12 is tried last), None where there is none."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    return None


def record(runtime: Any, device: Device, enqueue: Callable[[], None]) -> CudaGraph:
    """Record what ``enqueue`` puts into the stream of ``device``, which has run it before; DeviceFault where that fails.

    A recording that fails is ended, so that the stream can be used as before.
    """
    stream = device.handle
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _checked(runtime, runtime.cudaStreamBeginCapture(stream, mode))
    try:
        enqueue()
    except BaseException:
        runtime.cudaStreamEndCapture(stream)
        raise
    graph = _checked(runtime, runtime.cudaStreamEndCapture(stream))
    try:
        executable = _checked(runtime, runtime.cudaGraphInstantiateWithFlags(graph, 0))
    except DeviceFault:
        runtime.cudaGraphDestroy(graph)
        raise
    return CudaGraph(runtime, graph, executable, stream)


def _checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """Return what a call of cuda-bindings gave besides its error code, which must be success."""
    error = answer[0]
    if error != runtime.cudaError_t.cudaSuccess:
        raise DeviceFault(f"the GPU refuses a CUDA graph: {getattr(error, 'name', error)}")
    return answer[1] if len(answer) > 1 else None
