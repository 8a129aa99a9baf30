"""ONNX Runtime on the CPU with I/O binding: the embedded default and the reference that others are compared with.

How many threads to use: the physical cores that this process may run on.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.session import load_session
from edge_ad.engines.protocol import Engine, Tensor, TensorSpec
from edge_ad.errors import BadInput, DeviceFault, require
from edge_ad.utils.board import machine

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """Return the number of physical cores allowed by affinity and by the container's CPU quota, at least 1.

    Logical CPUs that share a core count once; where the topology cannot be read, each logical CPU counts.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(topology, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(quota)))


def _siblings(topology: Path, cpu: int) -> str:
    try:
        return (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(path: Path) -> int:
    """Return the whole number of CPUs that the cgroup grants (rounded up), or a large number without a limit."""
    try:
        limit, period = path.read_text().split()
        return -(-int(limit) // int(period)) if limit != "max" else 1 << 16
    except (OSError, ValueError, ZeroDivisionError):
        return 1 << 16


SPIN_US = 20
BRIEF_SINCE = (1, 26)  # the first release that can limit the time of spinning

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OrtTensor:
    """A tensor whose host array and OrtValue are the same memory: writing the array is the upload."""

    def __init__(self, spec: TensorSpec, runtime: Any) -> None:
        self.spec = spec
        self._array = np.zeros(spec.shape, dtype=spec.dtype)
        self.value = runtime.OrtValue.ortvalue_from_numpy(self._array)

    @property
    def address(self) -> int:
        """The address that ONNX Runtime itself sees."""
        return int(self.value.data_ptr())

    def write(self, value: NDArray[Any]) -> None:
        """Copy ``value`` into the tensor without allocating."""
        np.copyto(self._array, value, casting="no")

    def read(self) -> NDArray[Any]:
        """Return a copy of the tensor."""
        return self._array.copy()


class OrtEngine(Engine):
    """One InferenceSession with its I/O binding."""

    def __init__(self, name: str, session: Any) -> None:
        super().__init__(name, _specs(name, session.get_inputs()), _specs(name, session.get_outputs()))
        self.session = session
        self.binding = session.io_binding()

    def _bind_impl(self, name: str, tensor: Tensor, is_input: bool) -> None:
        if not isinstance(tensor, OrtTensor):
            raise BadInput(f"engine {self.name!r} runs on onnxruntime, but {name!r} is memory of another backend")
        bind = self.binding.bind_ortvalue_input if is_input else self.binding.bind_ortvalue_output
        bind(name, tensor.value)

    def _run_impl(self) -> None:
        try:
            self.session.run_with_iobinding(self.binding)
        except Exception as error:  # onnxruntime raises plain Exception subclasses of its own
            raise DeviceFault(f"graph {self.name!r} failed in onnxruntime: {_first_line(error)}") from error

    def _close_impl(self) -> None:
        self.binding = None
        self.session = None


class OrtFrame:
    """Engine after engine; the host and the engines share memory, so nothing is copied between them."""

    def __init__(self, engines: Mapping[str, Engine], image: Tensor) -> None:
        self._engines = engines
        self._image = image

    def run(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """Run every engine on ``image``; return the milliseconds of upload and each engine."""
        start = perf_counter()
        self._image.write(image)
        last = perf_counter()
        stages = {"upload": (last - start) * 1000.0}
        for name, engine in self._engines.items():
            engine.run()
            now = perf_counter()
            stages[name] = (now - last) * 1000.0
            last = now
        return stages

    def close(self) -> None:
        """Nothing is held."""


class OrtBackend:
    """Makes sessions with an explicit number of threads (default: the physical cores) that rest between frames.

    All sessions of a process take their scratch memory from one arena: graphs run one after the other and need it in
    turn.
    ``shared``: a graph that is loaded again gets the session that it has already, with a binding of its own, so that
    several pipelines run side by side on one set of weights. ``as_written``: Q/DQ graphs are computed in FP32 between Q
    and DQ instead of by 8-bit kernels (see ``measuring_backend``).
    """

    name = "onnxruntime"
    suffix = ".onnx"

    def __init__(self, threads: int | None = None, shared: bool = False, *, as_written: bool = False) -> None:
        if threads is not None and threads < 1:
            raise BadInput(f"threads is {threads}, but must be 1 or more")
        self._runtime = require("onnxruntime", extra="cpu", needed_by="the onnxruntime backend")
        self.threads = threads or physical_cores()
        self.as_written = as_written
        self._sessions: dict[bytes, Any] | None = {} if shared else None

    @property
    def version(self) -> str:
        """The version of the onnxruntime package."""
        return str(self._runtime.__version__)

    def identity(self) -> dict[str, Any]:
        """Return the machine: graphs are derived for its processor."""
        return {"machine": machine()}

    def load(self, name: str, graph: bytes) -> OrtEngine:
        """Open a session on a serialised ONNX model; BadInput when onnxruntime refuses it."""
        if self._sessions is None:
            return OrtEngine(name, self._session(name, graph))
        key = hashlib.sha256(graph).digest()
        if key not in self._sessions:
            self._sessions[key] = self._session(name, graph)
        return OrtEngine(name, self._sessions[key])

    def _session(self, name: str, graph: bytes) -> Any:
        try:
            return load_session(self._runtime, graph, self._options())
        except Exception as error:  # onnxruntime raises plain Exception subclasses of its own
            raise BadInput(
                f"graph {name!r} cannot be loaded by onnxruntime {self.version}: {_first_line(error)}; "
                "upgrade onnxruntime, or make the bundle or the engine again"
            ) from error

    def allocate(self, spec: TensorSpec) -> OrtTensor:
        """Return a zero-filled tensor."""
        return OrtTensor(spec, self._runtime)

    def exchange(self, specs: Sequence[TensorSpec]) -> list[Tensor]:
        """Return zero-filled tensors; the host sees all of them anyway."""
        return [self.allocate(spec) for spec in specs]

    def frame(self, engines: Mapping[str, Engine], image: Tensor, results: Sequence[Tensor]) -> OrtFrame:
        """Return the engines in turn; the results are where the host reads them."""
        return OrtFrame(engines, image)

    def close(self) -> None:
        """Memory goes with tensors and engines."""
        if self._sessions is not None:
            self._sessions.clear()

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.as_written:
            from calibration.session import compute_in_float

            compute_in_float(options)
        # Each graph has its own threads. Waiting by spinning, as is the default, they would take the cores from the next
        # graph and from the camera: measured on 2 cores that others use too, a frame took 2.4 times as long. For a moment
        # they may, where the release knows how to end it: a sixth less on an idle machine, no loss on a busy one.
        brief = tuple(map(int, self.version.split(".")[:2])) >= BRIEF_SINCE
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if brief else "0")
        if brief:
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
        # A session with an arena or a planned block of its own keeps them for good: a quarter of the process, and no faster.
        _open_arena(self._runtime)
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.enable_mem_pattern = False
        return options


@functools.cache
def _open_arena(runtime: Any) -> None:
    """Make the arena that sessions of this process share, once: a second one would replace it for later sessions."""
    kinds = runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, runtime.OrtMemType.DEFAULT
    runtime.create_and_register_allocator(runtime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1]), None)


def _specs(graph: str, nodes: list[Any]) -> dict[str, TensorSpec]:
    return {node.name: _spec(graph, node) for node in nodes}


def _spec(graph: str, node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None or not all(isinstance(size, int) for size in node.shape):
        raise BadInput(
            f"tensor {node.name!r} of graph {graph!r} is {node.type} {node.shape}, "
            f"but only static shapes of {', '.join(sorted(_DTYPES.values()))} are allowed"
        )
    return TensorSpec(node.name, dtype, tuple(node.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
