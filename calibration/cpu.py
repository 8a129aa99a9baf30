"""What 8-bit arithmetic this processor has, as ONNX Runtime uses it."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.session import open_session
from calibration.weights import INT7_LIMIT, INT8_LIMIT

_X86 = ("x86_64", "amd64", "i686")
_ROUNDS_SINCE = (1, 28)
_CHANNELS, _OUTPUTS = 64, 16


@functools.cache
def weight_limit() -> int:
    """Return the greatest 8-bit weight that ONNX Runtime may be given here: 127, or 63 where sums saturate.

    An x86 processor without VNNI adds two products of U8 and S8 in 16 bits, which overflow with weights beyond 63. ARM
    and x86 with VNNI add in 32 bits. The kernels themselves are tried; without ONNX Runtime the flags of the processor
    decide.
    """
    try:
        return INT7_LIMIT if sums_saturate() else INT8_LIMIT
    except ImportError:
        return limit_by_flags()


def sums_saturate() -> bool:
    """Whether ONNX Runtime's 8-bit kernels give wrong sums here for the greatest inputs and weights.

    The product and the convolution are large enough for the kernels of a real graph. ImportError without ONNX Runtime.
    """
    return any(not exact for exact in (_product_is_exact(), _convolution_is_exact()))


def limit_by_flags(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Return the limit by what the processor says of itself; where it cannot be read, the careful answer."""
    kind = (machine or platform.machine()).lower()
    if kind not in _X86:
        return INT8_LIMIT
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return INT7_LIMIT
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return INT8_LIMIT if flags & {"avx512_vnni", "avx_vnni"} else INT7_LIMIT


@functools.cache
def rounds_resized_bytes(version: str | None = None) -> bool:
    """Whether ONNX Runtime (``version``; by default the one installed) rounds what linear Resize makes of 8-bit
    numbers.

    1.23 to 1.26 were seen to cut the decimals, a bias of half a step; 1.28, 1.30 and 1.31 to round. Without ONNX
    Runtime the answer is yes.
    """
    if version is None:
        try:
            import onnxruntime
        except ImportError:
            return True
        version = str(onnxruntime.__version__)
    return tuple(map(int, version.split(".")[:2])) >= _ROUNDS_SINCE


def _product_is_exact() -> bool:
    """Multiply 255 by 127, 64 products a sum: 64 x 255 x 127."""
    weight = np.full((_CHANNELS, _OUTPUTS), INT8_LIMIT, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    model = _model([node], {"w": weight}, [8, _CHANNELS], TensorProto.INT32)
    result = _run(model, np.full((8, _CHANNELS), 255, np.uint8))
    return bool((result == 255 * INT8_LIMIT * _CHANNELS).all())


def _convolution_is_exact() -> bool:
    """Convolve 255 with 127 and a scale that brings the exact sum to 200; a saturated one comes to about half."""
    weight = np.full((_OUTPUTS, _CHANNELS, 1, 1), INT8_LIMIT, np.int8)
    total = 255 * INT8_LIMIT * _CHANNELS
    constants = {
        "w": weight,
        "one": np.float32(1.0),
        "no": np.uint8(0),
        "whole": np.int8(0),
        "step": np.float32(total / 200),
    }
    names = ["x", "one", "no", "w", "one", "whole", "step", "no"]
    node = helper.make_node("QLinearConv", names, ["y"], kernel_shape=[1, 1])
    model = _model([node], constants, [1, _CHANNELS, 8, 8], TensorProto.UINT8)
    result = _run(model, np.full((1, _CHANNELS, 8, 8), 255, np.uint8))
    return bool((result == 200).all())


def _model(nodes: list[NodeProto], constants: Mapping[str, Any], shape: list[int], kind: int) -> ModelProto:
    ends = [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)]
    outs = [helper.make_tensor_value_info("y", kind, None)]
    current = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "probe", ends, outs, current)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _run(model: ModelProto, image: NDArray[np.uint8]) -> NDArray[Any]:
    return np.asarray(open_session(model, 1).run(None, {"x": image})[0])
