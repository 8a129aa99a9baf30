"""What graphs compare an image with and a lot changes: remembered cells, the surprise and the logic map of normal images.

Older bundles hold these values as constants inside their graphs. Here they are inputs, which are bound once from a
member of the bundle as the masks are: new values need no new graph, so an engine that was built before serves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle.graphs import GRAPHS
from edge_ad.errors import BadInput
from edge_ad.scoring import Array

_DIMENSIONS = {
    "memory_bank": 3,
    "memory_norms": 3,
    "memory_mean": 4,
    "memory_roots": 3,
    "surprise_centre": 1,
    "surprise_precision": 2,
    "cell_mean": 1,
    "cell_std": 1,
}
_PAIRS = tuple(zip(list(_DIMENSIONS)[::2], list(_DIMENSIONS)[1::2], strict=True))


@dataclass(frozen=True, eq=False)
class References:
    """The values of these inputs, f32; None where the graphs of a bundle have no such input.

    Of a memory ``memory_bank`` [R, M, D], remembered cells times -2, and ``memory_norms`` [R, M, 1], their squared
    lengths, or ``memory_mean`` [1, D, h, w] and ``memory_roots`` [R, D, D] of Gaussians. Of LAViT ``surprise_centre``
    [E] and ``surprise_precision`` [E, E], and ``cell_mean`` and ``cell_std`` [N] of its map. Anything else raises
    BadInput.
    """

    memory_bank: Array | None = None
    memory_norms: Array | None = None
    memory_mean: Array | None = None
    memory_roots: Array | None = None
    surprise_centre: Array | None = None
    surprise_precision: Array | None = None
    cell_mean: Array | None = None
    cell_std: Array | None = None

    def __post_init__(self) -> None:
        arrays = self.arrays()
        for name, array in arrays.items():
            _check_array(name, array)
        for first, second in _PAIRS:
            if (first in arrays) != (second in arrays):
                raise BadInput(f"references hold one of {first!r} and {second!r}, but must hold both or neither")
            if first in arrays:
                _check_pair(first, arrays[first], second, arrays[second])
        if "memory_bank" in arrays and "memory_mean" in arrays:
            raise BadInput("references hold 'memory_bank' and 'memory_mean', but a memory has cells or Gaussians, not both")
        if self.cell_std is not None and (self.cell_std <= 0).any():
            raise BadInput(f"references 'cell_std' must be above 0, but its least value is {self.cell_std.min():g}")

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that there are by name, in the order of the fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, *parts: Mapping[str, NDArray[Any]]) -> References:
        """Build from the named arrays of all ``parts``; an unknown name raises BadInput."""
        arrays = {name: array for part in parts for name, array in part.items()}
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(arrays) - set(names)):
            raise BadInput(f"references hold {unknown[0]!r:.80}, but may hold only {', '.join(names)}")
        return cls(**arrays)


def reference_values(name: str, graph: bytes, references: References) -> dict[str, Array]:
    """Return the references of a graph, be they inputs or, in an older bundle, constants inside it."""
    import onnx
    from onnx import numpy_helper

    given, tensors = references.arrays(), {one.name: one for one in onnx.load_model_from_string(graph).graph.initializer}
    inside = {
        reference: np.array(numpy_helper.to_array(tensors[constant]), np.float32)
        for reference, constant in GRAPHS[name].references
        if constant in tensors
    }
    return inside | {reference: given[reference] for reference, _ in GRAPHS[name].references if reference in given}


def with_values(
    name: str, graph: bytes, references: References, values: Mapping[str, Array]
) -> tuple[bytes, References]:
    """Return a graph and the references of its bundle with other ``values`` of the same shapes.

    The graph stays as it is, byte for byte, where these are its inputs; in an older bundle it holds them itself. BadInput
    where it has neither.
    """
    inputs = {reference: value for reference, value in values.items() if reference in references.arrays()}
    references = replace(references, **inputs)
    inside = {reference: value for reference, value in values.items() if reference not in inputs}
    return _with_constants(name, graph, inside) if inside else graph, references


def _with_constants(name: str, graph: bytes, values: Mapping[str, Array]) -> bytes:
    import onnx
    from onnx import numpy_helper

    model, names = onnx.load_model_from_string(graph), dict(GRAPHS[name].references)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for reference, value in values.items():
        tensor = tensors.get(names[reference])
        if tensor is None:
            raise BadInput(f"the graph {name!r} has no constant {names[reference]}: train the bundle again")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))
    return bytes(model.SerializeToString())


def _check_array(name: str, array: NDArray[Any]) -> None:
    if array.dtype != np.float32:
        raise BadInput(f"references {name!r} is {array.dtype}, but must be float32")
    if array.ndim != _DIMENSIONS[name] or not array.size:
        raise BadInput(f"references {name!r} has shape {list(array.shape)}, but must have {_DIMENSIONS[name]} dimensions above 0")
    if not np.isfinite(array).all():
        raise BadInput(f"references {name!r} holds a value that is not finite; recalibrate or train the bundle again")


def _check_pair(first: str, values: Array, second: str, others: Array) -> None:
    """Raise BadInput where the shape of the ``second`` does not follow from that of the ``first``."""
    wanted = _second_shape(first, values, others)
    if others.shape != wanted:
        shapes = f"shape {list(others.shape)}, but {first!r} of shape {list(values.shape)} needs {list(wanted)}"
        raise BadInput(f"references {second!r} has {shapes}")


def _second_shape(first: str, values: Array, others: Array) -> tuple[int, ...]:
    if first == "memory_bank":
        return (*values.shape[:2], 1)
    if first == "memory_mean":
        return len(others), values.shape[1], values.shape[1]
    return (len(values), len(values)) if first == "surprise_centre" else values.shape
