"""Two variants of a graph on the same inputs: how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.graph_view import all_names, free_name, replace_nodes
from calibration.session import open_session


def relative_errors(
    reference: bytes, variant: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]], threads: int | None = None
) -> dict[str, float]:
    """Return by output the greatest difference over all ``feeds``, as a share of the greatest magnitude in FP32.

    An output that is not finite gives infinity. Raises ImportError without onnxruntime, ValueError without feeds.
    """
    sessions = [open_session(exact_quantisers(model), threads) for model in (reference, variant)]
    names = [node.name for node in sessions[0].get_outputs()]
    errors, sizes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    seen = False
    for feed in feeds:
        seen = True
        exact, result = (session.run(names, dict(feed)) for session in sessions)
        for name, a, b in zip(names, exact, result, strict=True):
            difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
            worst = float(difference.max()) if difference.size else 0.0
            errors[name] = max(errors[name], worst if np.isfinite(difference).all() else np.inf)
            sizes[name] = max(sizes[name], float(np.abs(np.asarray(a, np.float64)).max()) if a.size else 0.0)
    if not seen:
        raise ValueError("verifying needs at least one set of inputs")
    return {name: errors[name] / max(sizes[name], 1e-12) for name in names}


def exact_quantisers(model: bytes) -> bytes:
    """Return ``model`` with a QuantizeLinear that reads FP16 reading FP32 copies of it and of its scale instead.

    By definition it rounds to the nearest step, and on FP16 onnxruntime before 1.30 cuts off, on a CPU; every FP16
    value is also one of FP32, so the copies change nothing else. Ours.
    """
    loaded = onnx.load_model_from_string(model)
    scales = {tensor.name: tensor for tensor in loaded.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    taken = all_names(loaded.graph)
    nodes: list[NodeProto] = []
    for node in loaded.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in scales:
            copy, scale = (free_name(f"{node.output[0]}/fp32{part}", taken) for part in ("", "/scale"))
            array = numpy_helper.to_array(scales[node.input[1]]).astype(np.float32)
            loaded.graph.initializer.append(numpy_helper.from_array(array, scale))
            nodes.append(helper.make_node("Cast", [node.input[0]], [copy], to=TensorProto.FLOAT))
            node.input[:] = [copy, scale, *node.input[2:]]
        nodes.append(node)
    if len(nodes) == len(loaded.graph.node):
        return model
    replace_nodes(loaded.graph, nodes)
    return bytes(loaded.SerializeToString())
