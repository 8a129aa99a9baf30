"""Open an ONNX Runtime session at the highest level of optimisation that loads. Imports nothing: the line starts soon.
"""

from __future__ import annotations

from typing import Any


def load_session(runtime: Any, data: bytes, options: Any) -> Any:
    """Return a session on the CPU, fully optimised, or without the change of layout where that leads to no kernel.

    On 64-bit ARM onnxruntime (1.23.2 and 1.31.1) moves FP16 pooling to NHWC, where AveragePool has no kernel, and says
    so only then. The level below leaves the layout alone. Asking for it first would slow down every other graph.
    """
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises plain Exception subclasses of its own
        if type(error).__name__ != "NotImplemented":
            raise
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
