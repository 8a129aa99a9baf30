"""Compile an ONNX graph with TensorRT: one rule for versions 10.3 to 11 and for TensorRT for RTX.

The ``tensorrt`` module is a parameter, so the same code runs against whichever is installed; ``tensorrt_rtx`` compiles
without a GPU. Strong typing (types as written in the graph) where the version has it in full, else weak typing by flag.
Never a calibrator (INT8 is explicit Q/DQ), never DLA.

What a builder measured of its tactics, kept per TensorRT version and device: later builds are faster and alike.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_ad.engines.tensorrt.progress import MEMORY_ADVICE, Progress, logger_for, make_monitor, parser_errors, reason
from edge_ad.engines.tensorrt.versions import (
    check_version,
    is_rtx,
    keeps_timing_cache,
    network_flags,
    reports_progress,
    strongly_typed,
)
from edge_ad.errors import BadInput, DeviceFault, EdgeAdError, require
from edge_ad.utils.files import atomic_write, cache_home, sha256_bytes

_DIGEST = 64


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/edge-ad``, by default ``~/.cache/edge-ad``."""
    return cache_home() / "edge-ad"


class TimingCache:
    """One file: the SHA-256 of the content in hexadecimal, then the content. A damaged file counts as empty."""

    def __init__(self, version: str, device: str, folder: Path | None = None) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"timing-{version}-{device}").strip("-").lower()
        self.path = (folder or cache_folder()) / f"{name}.bin"

    def read(self) -> bytes:
        """Return the content, empty where there is none."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return b""
        content = data[_DIGEST:]
        return content if data[:_DIGEST] == sha256_bytes(content).encode() else b""

    def write(self, content: bytes) -> None:
        """Replace the content; a folder that cannot be written only costs time later."""
        try:
            atomic_write(self.path, sha256_bytes(content).encode() + content)
        except BadInput:
            return


__all__ = ["BuildOptions", "build_engine", "compile_check", "strongly_typed", "workspace"]

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_REPEATED = re.compile(r"_\d+$")  # the parser numbers the layers of a node that needs several
MIB = 1 << 20
WORKSPACE = 1024 * MIB
MIN_FREE = 256 * MIB
WEAK_FLAGS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}


@dataclass(frozen=True)
class BuildOptions:
    """How to build: ``level`` 0 to 5 (TensorRT's default is 3), bytes of free device memory, the timing cache.

    What is None is left to TensorRT, or to this machine's free memory.
    """

    level: int | None = None
    free: int | None = None
    cache: TimingCache | None = None


def build_engine(
    trt: Any,
    onnx_bytes: bytes,
    precision: str,
    name: str = "graph",
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    fp32_nodes: Collection[str] = (),
) -> bytes:
    """Return the serialised engine of an ONNX model with static shapes.

    ``precision`` is fp32, fp16 or int8. With strong typing the graph itself carries the types (an FP16 cast for fp16,
    Q/DQ and an FP16 cast for int8); else give the FP32 graph, for int8 with Q/DQ in FP32, and in ``fp32_nodes`` the
    names of the nodes that must not become FP16. A graph that the parser refuses raises BadInput with the names of the
    nodes; a failed build raises DeviceFault with TensorRT's last error.
    """
    check_version(trt)
    try:
        return _build(trt, onnx_bytes, precision, name, chosen=options or BuildOptions(), progress=progress, fp32_nodes=fp32_nodes)
    except EdgeAdError as error:
        # An error keeps the frames it came through, and with them the builder. Freed later, by a collection of garbage
        # while TensorRT tells our logger something, it would wait for ever for a lock that TensorRT then holds.
        traceback.clear_frames(error.__traceback__)
        raise


def _build(
    trt: Any,
    onnx_bytes: bytes,
    precision: str,
    name: str,
    *,
    chosen: BuildOptions,
    progress: Progress | None,
    fp32_nodes: Collection[str],
) -> bytes:
    limit = workspace(free_memory() if chosen.free is None else chosen.free)
    logger = logger_for(trt)
    builder = _made(lambda: trt.Builder(logger), trt, logger, "start its builder")
    network = _made(lambda: builder.create_network(network_flags(trt)), trt, logger, "make a network")
    parser = _made(lambda: trt.OnnxParser(network, logger), trt, logger, "start its parser")
    if not parser.parse(onnx_bytes):
        raise BadInput(
            f"TensorRT {trt.__version__} cannot read the graph {name!r}: {'; '.join(parser_errors(parser))}; "
            "a newer TensorRT may read it, or train the bundle again with this version of edge-ad"
        )
    config = _made(builder.create_builder_config, trt, logger, "make a configuration")
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    config.max_aux_streams = 0
    # On by default, and with 10 bits of mantissa no more exact than FP16. What stays in FP32 does so for its exactness.
    config.clear_flag(trt.BuilderFlag.TF32)
    if chosen.level is not None:
        config.builder_optimization_level = chosen.level
    if not strongly_typed(trt):
        _type_weakly(trt, network, config, precision, fp32_nodes=fp32_nodes)
    if progress is not None and reports_progress(trt):
        config.progress_monitor = make_monitor(trt, progress)
    cache = chosen.cache if keeps_timing_cache(trt) else None
    if cache is not None:
        _attach(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        message = reason(logger, f"it gave no reason; perhaps {MEMORY_ADVICE}")
        raise DeviceFault(f"TensorRT {trt.__version__} cannot build the graph {name!r} in {precision}: {message}")
    if cache is not None and (filled := config.get_timing_cache()) is not None:
        cache.write(bytes(filled.serialize()))
    return bytes(plan)


def compile_check(onnx_bytes: bytes, precision: str = "fp32", name: str = "graph", trt: Any = None) -> int:
    """Compile a graph, by default with TensorRT for RTX (it needs no GPU), and return the engine's size in bytes."""
    return len(build_engine(trt or rtx(), onnx_bytes, precision, name))


def rtx() -> Any:
    """Return TensorRT for RTX; BadInput where it is not installed."""
    return require("tensorrt_rtx", extra="test", needed_by="a compile check without a GPU")


def workspace(free: int) -> int:
    """Return the bytes that tactics may use: half of what is free, 1 GiB at most; DeviceFault for less than 256 MiB
    free.

    On a Jetson the GPU takes its memory from the same place as everything else.
    """
    if free < MIN_FREE:
        raise DeviceFault(
            f"only {free // MIB} MiB of memory are free, but a build needs {MIN_FREE // MIB} MiB or more: {MEMORY_ADVICE}"
        )
    return min(WORKSPACE, free // 2)


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes of memory that programs can still get; WORKSPACE twice where the system does not tell."""
    try:
        lines = meminfo.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 2 * WORKSPACE


def _made(make: Any, trt: Any, logger: Any, what: str) -> Any:
    """Return what ``make`` gives; None, and the TypeError that constructors give in its place, are device faults."""
    try:
        made = make()
    except (TypeError, RuntimeError) as error:
        raise _cannot(trt, logger, what) from error
    if made is None:
        raise _cannot(trt, logger, what)
    return made


def _cannot(trt: Any, logger: Any, what: str) -> DeviceFault:
    kind = "" if is_rtx(trt) else "; is there an NVIDIA GPU with its driver? `nvidia-smi` tells"
    return DeviceFault(f"TensorRT {trt.__version__} cannot {what}: {reason(logger, 'it gave no reason')}{kind}")


def _attach(config: Any, cache: TimingCache) -> None:
    """Attach the stored timing cache, or an empty one where it does not fit this device."""
    timing_cache = config.create_timing_cache(cache.read())
    if timing_cache is None or not config.set_timing_cache(timing_cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _type_weakly(trt: Any, network: Any, config: Any, precision: str, *, fp32_nodes: Collection[str]) -> None:
    """Allow the lower precisions by flag, and hold the layers of ``fp32_nodes`` in FP32."""
    for flag in WEAK_FLAGS[precision]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if precision == "fp32" or not fp32_nodes:
        return
    config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        floats = [position for position in range(layer.num_outputs) if layer.get_output(position).dtype == trt.DataType.FLOAT]
        if floats and not _nodes_of(layer).isdisjoint(fp32_nodes):
            layer.precision = trt.DataType.FLOAT
            for position in floats:
                layer.set_output_type(position, trt.DataType.FLOAT)


def _nodes_of(layer: Any) -> set[str]:
    """Return the nodes that a layer may come from: the parser writes them into its metadata, else into its name."""
    nodes = set(_NODE.findall(layer.metadata or ""))
    return nodes or {layer.name, _REPEATED.sub("", layer.name)}
