"""Reading exported graphs: what goes in and out, and what happens to the image first."""

from __future__ import annotations

import onnx

Facts = dict[str, tuple[str, tuple[int, ...]]]


def facts(values: list[onnx.ValueInfoProto]) -> Facts:
    """Return name -> (type, shape); a side that is not a fixed number is 0."""
    result = {}
    for value in values:
        tensor = value.type.tensor_type
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        result[value.name] = kind, tuple(side.dim_value for side in tensor.shape.dim)
    return result


def first_steps(model: onnx.ModelProto, name: str = "image") -> list[str]:
    """Return the operators that follow one another from an input, as long as there is one reader."""
    steps: list[str] = []
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            return steps
        steps.append(readers[0].op_type)
        name = readers[0].output[0]


def readers_of(model: onnx.ModelProto, name: str) -> set[str]:
    """Return the operators that read a tensor."""
    return {node.op_type for node in model.graph.node if name in node.input}


def inner_shapes(model: onnx.ModelProto) -> list[tuple[str, list[object]]]:
    """Return the tensors inside the graph whose shape has a side that is not a fixed number."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = [(value.name, [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim])
              for value in inferred.graph.value_info]  # fmt: skip
    return [(name, shape) for name, shape in shapes if not all(isinstance(side, int) and side > 0 for side in shape)]
