"""Running TensorRT engines: bound once, from engine to engine on the device; one upload and one download a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_ad.engines.protocol import Engine, Tensor, TensorSpec
from edge_ad.engines.tensorrt.cuda import Device, DeviceMemory, PinnedMemory
from edge_ad.engines.tensorrt.frame import TrtFrame
from edge_ad.engines.tensorrt.progress import MEMORY_ADVICE, device_broke, logger_for, reason
from edge_ad.engines.tensorrt.tensors import DeviceTensor, exchange, spec_bytes
from edge_ad.engines.tensorrt.versions import import_tensorrt
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.utils.board import board, l4t

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class TrtEngine(Engine):
    """One deserialised engine with its execution context. ``enqueue`` returns at once, ``run`` when all is done."""

    def __init__(self, trt: Any, name: str, engine: Any, context: Any, *, device: Device) -> None:
        inputs, outputs = _specs(trt, name, engine)
        super().__init__(name, inputs, outputs)
        self._device = device
        self._engine = engine
        self._context = context

    def enqueue(self) -> None:
        """Put the engine into the stream of the device; DeviceFault when TensorRT refuses."""
        if not self._context.execute_async_v3(self._device.handle):
            raise DeviceFault(
                f"graph {self.name!r} failed in TensorRT; start again, and if it stays so, build the engine again"
            )

    def _bind_impl(self, name: str, tensor: Tensor, is_input: bool) -> None:
        if not self._context.set_tensor_address(name, tensor.address):
            raise BadInput(
                f"TensorRT does not take the memory of {name!r} for the engine {self.name!r}; build it again"
            )

    def _run_impl(self) -> None:
        with self._device.active():
            self.enqueue()
            self._device.synchronize()

    def _close_impl(self) -> None:
        self._device.release(self._drop)

    def _drop(self) -> None:
        self._context = None
        self._engine = None


class TrtBackend:
    """Opens engines that ``build-engine`` made on this device. ``trt`` and ``device`` default to what is installed
    here.
    """

    name = "tensorrt"
    suffix = ".engine"

    def __init__(self, trt: Any = None, device: Device | None = None) -> None:
        self.trt: Any = trt or import_tensorrt()
        self.device = device or Device()
        self._logger = logger_for(self.trt)
        self._runtime: Any = None
        self._memory: list[DeviceMemory | PinnedMemory] = []

    @property
    def version(self) -> str:
        """The version of TensorRT."""
        return str(self.trt.__version__)

    def identity(self) -> dict[str, Any]:
        """Return CUDA, compute capability, name of the GPU, board and release of Jetson Linux."""
        device = self.device
        return {"cuda": device.cuda, "sm": device.sm, "device": device.name, "board": board(), "l4t": l4t()}

    def load(self, name: str, graph: bytes) -> TrtEngine:
        """Deserialise an engine; BadInput where TensorRT gives none, DeviceFault where there is no memory for it."""
        self._logger.errors.clear()
        with self.device.active():
            if self._runtime is None:
                self._runtime = open_runtime(self.trt, self._logger)
            engine = deserialise(self.trt, self._runtime, self._logger, name, plan=graph)
            context = engine.create_execution_context()
            if context is None:
                message = reason(self._logger, "it gave no reason")
                raise DeviceFault(f"TensorRT cannot make room to run the engine {name!r}: {message}")
            return TrtEngine(self.trt, name, engine, context, device=self.device)

    def allocate(self, spec: TensorSpec) -> DeviceTensor:
        """Return a zero-filled tensor in device memory."""
        with self.device.active():
            memory = self.device.allocate(max(1, spec_bytes(spec)))
        self._memory.append(memory)
        return DeviceTensor(spec, memory.address, self.device)

    def exchange(self, specs: Sequence[TensorSpec]) -> list[Tensor]:
        """Return tensors in one pinned block, and in one device block beside it where the GPU has memory of its own."""
        with self.device.active():
            tensors, memory = exchange(self.device, specs)
        self._memory += memory
        return list(tensors)

    def frame(self, engines: Mapping[str, Engine], image: Tensor, results: Sequence[Tensor]) -> TrtFrame:
        """Return a frame that runs all engines in one stream, recorded as a CUDA graph where that is possible."""
        return TrtFrame(self.device, engines, image, results)

    def close(self) -> None:
        """Free all memory, the runtime and the stream; calling it again does nothing."""
        self.device.release(self._free)
        self.device.close()

    def _free(self) -> None:
        while self._memory:
            self._memory.pop().free()
        self._runtime = None


def open_runtime(trt: Any, logger: Any) -> Any:
    """Return a Runtime; DeviceFault where TensorRT gives none."""
    try:
        runtime = trt.Runtime(logger)
    except (TypeError, RuntimeError):
        runtime = None
    if runtime is None:
        raise DeviceFault(f"TensorRT {trt.__version__} cannot start here: {reason(logger, 'it gave no reason')}")
    return runtime


def deserialise(trt: Any, runtime: Any, logger: Any, name: str, *, plan: bytes) -> Any:
    """Return the engine in ``plan``; BadInput with TensorRT's words where it returns None, as it does for all errors.

    Too little memory and a GPU that failed are device faults: the engine itself may be fine.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is not None:
        return engine
    message = reason(logger, "it gave no reason")
    start = f"TensorRT {trt.__version__} cannot load the engine {name!r}"
    if message == MEMORY_ADVICE:
        raise DeviceFault(f"{start}: {message}")
    if device_broke(logger):
        raise DeviceFault(f"{start}: {message}; `sudo dmesg` may tell why")
    raise BadInput(f"{start}: {message}; build it again with `edge-ad build-engine`")


def _specs(trt: Any, name: str, engine: Any) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    for index in range(engine.num_io_tensors):
        key = engine.get_tensor_name(index)
        kind = inputs if engine.get_tensor_mode(key) == trt.TensorIOMode.INPUT else outputs
        kind[key] = _spec(name, key, engine.get_tensor_dtype(key), tuple(engine.get_tensor_shape(key)))
    return inputs, outputs


def _spec(graph: str, key: str, dtype: Any, shape: tuple[int, ...]) -> TensorSpec:
    known = _DTYPES.get(str(dtype.name))
    if known is None or any(size < 0 for size in shape):
        raise BadInput(
            f"tensor {key!r} of the engine {graph!r} is {dtype.name} {list(shape)}, "
            f"but only static shapes of {', '.join(sorted(_DTYPES.values()))} are allowed; build it again"
        )
    return TensorSpec(key, known, tuple(int(size) for size in shape))
