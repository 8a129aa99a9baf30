"""Compile an ONNX graph with TensorRT: one rule for versions 10.3 to 11 and for TensorRT for RTX.

The ``tensorrt`` module is a parameter, so the same code runs against whichever is installed; ``tensorrt_rtx`` compiles
without a GPU. Strong typing (types as written in the graph) where the version has it in full, else weak typing by flag.
"""

from __future__ import annotations

from typing import Any

from edge_ad.errors import BadInput, DeviceFault, require

WORKSPACE = 1 << 30
STRONG_FROM = (10, 12)
LOWEST = (10, 3)
WEAK_FLAGS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}


def version(trt: Any) -> tuple[int, ...]:
    """Return (major, minor) of the module."""
    return tuple(int(part) for part in str(trt.__version__).split(".")[:2])


def is_rtx(trt: Any) -> bool:
    """Return whether this is TensorRT for RTX, which counts its versions on its own and never had precision flags."""
    return str(trt.__name__).startswith("tensorrt_rtx")


def strongly_typed(trt: Any) -> bool:
    """Whether graphs are compiled in the types written in them; else FP16 and INT8 are flags on FP32 graphs."""
    return is_rtx(trt) or version(trt) >= STRONG_FROM


def build_engine(trt: Any, onnx_bytes: bytes, precision: str, name: str = "graph", workspace: int = WORKSPACE) -> bytes:
    """Return the serialised engine of an ONNX model with static shapes.

    ``precision`` is fp32, fp16 or int8. With strong typing the graph itself carries the types (an FP16 cast for fp16, Q/DQ
    and an FP16 cast for int8); else give the FP32 graph, for int8 with Q/DQ in FP32. ``workspace`` in bytes. A graph that
    the parser refuses raises BadInput with the names of the nodes; a failed build raises DeviceFault with TensorRT's last
    error.
    """
    if not is_rtx(trt) and version(trt) < LOWEST:
        raise BadInput(
            f"TensorRT {trt.__version__} is too old: 10.3 or newer is needed; upgrade a Jetson to JetPack 6.1 or newer"
        )
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_bytes):
        reasons = "; ".join(_parser_errors(parser))
        raise BadInput(f"TensorRT {trt.__version__} cannot read the graph {name!r}: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if not strongly_typed(trt):
        for flag in WEAK_FLAGS[precision]:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = logger.errors[-1] if logger.errors else "it gave no reason; there may be too little free memory"
        raise DeviceFault(f"TensorRT {trt.__version__} cannot build the graph {name!r} in {precision}: {reason}")
    return bytes(plan)


def compile_check(onnx_bytes: bytes, precision: str = "fp32", name: str = "graph", trt: Any = None) -> int:
    """Compile a graph, by default with TensorRT for RTX (it needs no GPU), and return the engine's size in bytes."""
    module = trt or require("tensorrt_rtx", extra="test", needed_by="a compile check without a GPU")
    return len(build_engine(module, onnx_bytes, precision, name))


def _network_flags(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 1 << int(flag) if flag is not None and strongly_typed(trt) else 0


def _parser_errors(parser: Any) -> list[str]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [_describe(error) for error in errors] or ["the parser gave no reason"]


def _describe(error: Any) -> str:
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    where = f"node {name or error.node()} ({operator or 'unknown operator'})"
    return f"{where}: {' '.join(str(error.desc()).split())}"


def _logger(trt: Any) -> Any:
    """Return a logger that keeps error messages for our own sentences instead of printing them."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class comes with the module that is passed in
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()
