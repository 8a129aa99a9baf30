"""Run a graph on the CPU."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto


def open_session(model: ModelProto | bytes, threads: int | None) -> Any:
    """Return an onnxruntime session of a model that prints nothing; ``threads`` None leaves their number to it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
