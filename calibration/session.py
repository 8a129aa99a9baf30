"""Open and run a graph on the CPU; importing this module loads nothing heavy.

A graph for TensorRT is computed as it is written: numbers are rounded to 8 bits where it has Q and DQ, and products are
summed in FP32. ONNX Runtime would fuse them into kernels of 8 bits, whose sums saturate at 16 bits on x86 processors
without VNNI, and would round FP32 biases to whole steps; TensorRT does neither. So what is measured of such a graph is
the same on every processor, but for the rounding of FP32 sums, which now and then lifts a number over the edge of a
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto


# Fusing an addition with the normalisation after it costs time: on 240 x 128 numbers the fused kernel of onnxruntime
# 1.31.1 takes 0.126 ms on one core of a Zen 5, the two that it replaces 0.019.
_SLOWER_FUSED = ("SkipLayerNormFusion",)


def load_session(runtime: Any, data: bytes, options: Any) -> Any:
    """Return a session on the CPU, fully optimised, or without the change of layout where that leads to no kernel.

    On 64-bit ARM onnxruntime (1.23.2 and 1.31.1) moves FP16 pooling to NHWC, where AveragePool has no kernel, and says
    so only then. The level below leaves the layout alone. Asking for it first would slow down every other graph.
    """
    settings = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": list(_SLOWER_FUSED)}
    try:
        return runtime.InferenceSession(data, options, **settings)
    except Exception as error:  # onnxruntime raises plain Exception subclasses of its own
        if type(error).__name__ != "NotImplemented":
            raise
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return runtime.InferenceSession(data, options, **settings)


_AS_WRITTEN = ("session.disable_quant_qdq", "1")


def open_session(model: ModelProto | bytes, threads: int | None) -> Any:
    """Return an onnxruntime session of a model that prints nothing; ``threads`` None leaves their number to it.

    A graph for TensorRT is computed in FP32 as it is written, every other one by the kernels that the runtime has for
    it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if is_symmetric(model):
        compute_in_float(options)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return load_session(onnxruntime, data, options)


def compute_in_float(options: Any) -> None:
    """Let a session with these options compute Q/DQ graphs as they are written, with sums in FP32."""
    options.add_session_config_entry(*_AS_WRITTEN)


def is_symmetric(model: ModelProto | bytes) -> bool:
    """Whether a graph rounds computed tensors to signed 8-bit numbers, as Q/DQ graphs for TensorRT do."""
    import onnx

    graph = (onnx.load_model_from_string(model) if isinstance(model, bytes) else model).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[0] not in constants:
            zero = constants.get(node.input[2])
            if zero is not None and zero.data_type == onnx.TensorProto.INT8:
                return True
    return False
