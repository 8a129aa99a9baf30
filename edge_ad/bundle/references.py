"""What graphs compare an image with and a lot changes: remembered cells, the surprise and the logic map of normal images.

Older bundles hold these values as constants inside their graphs. Here they are inputs, which are bound once from a
member of the bundle as the masks are: new values need no new graph, so an engine that was built before serves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle.graphs import FUSION, GRAPHS, ZONE_PREFIX
from edge_ad.errors import BadInput
from edge_ad.scoring import Array

if TYPE_CHECKING:
    from onnx import ModelProto

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
_ZONES = tuple(name for name, _ in GRAPHS[FUSION].references)
_DIMENSIONS |= dict.fromkeys(_ZONES, 4)


@dataclass(frozen=True, eq=False)
class References:
    """The values of these inputs, f32; None where the graphs of a bundle have no such input.

    Of a memory ``memory_bank`` [R, M, D], remembered cells times -2, and ``memory_norms`` [R, M, 1], their squared
    lengths, or ``memory_mean`` [1, D, h, w] and ``memory_roots`` [R, D, D] of Gaussians. Of LAViT ``surprise_centre``
    [E] and ``surprise_precision`` [E, E], and ``cell_mean`` and ``cell_std`` [N] of its map. Of zones ``zone_...``
    [1, 1, h, w] for each map, by how much its cells count; all or none. Anything else raises BadInput.
    """

    memory_bank: Array | None = None
    memory_norms: Array | None = None
    memory_mean: Array | None = None
    memory_roots: Array | None = None
    surprise_centre: Array | None = None
    surprise_precision: Array | None = None
    cell_mean: Array | None = None
    cell_std: Array | None = None
    zone_structure: Array | None = None
    zone_logic: Array | None = None
    zone_local: Array | None = None
    zone_global: Array | None = None
    zone_memory: Array | None = None

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
        _check_zones({name: arrays[name] for name in _ZONES if name in arrays})

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that there are by name, in the order of the fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def cell_factors(self, branch: str) -> Array | None:
        """Return by how much the cells of the map of a branch count, f32 [h * w]; None where all count alike."""
        factors = self.arrays().get(ZONE_PREFIX + branch)
        return None if factors is None else factors.reshape(-1)

    def inspected_cells(self, branch: str) -> NDArray[np.intp] | slice:
        """Return which cells of the map of a branch count, all where there are no zones."""
        factors = self.cell_factors(branch)
        return slice(None) if factors is None else np.flatnonzero(factors)

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

    given = {reference: value for reference, value in references.arrays().items() if reference in dict(GRAPHS[name].references)}
    return given or _take_constants(name, onnx.load_model_from_string(graph))


def with_values(
    name: str, graph: bytes, references: References, values: Mapping[str, Array]
) -> tuple[bytes, References]:
    """Return a graph and the references of its bundle with other ``values`` of the same shapes.

    The graph stays as it is, byte for byte, where these are its inputs. The constants of an older bundle become inputs
    by that, so that the next values need no other graph. BadInput where it has neither.
    """
    if not set(values) <= set(references.arrays()):
        graph, constants = as_inputs(name, graph)
        references = replace(references, **constants)
    if unknown := sorted(set(values) - set(references.arrays())):
        raise BadInput(f"the graph {name!r} has neither an input nor a constant {unknown[0]!r}: train the bundle again")
    return graph, replace(references, **values)


def as_inputs(name: str, graph: bytes) -> tuple[bytes, dict[str, Array]]:
    """Return a graph whose constants that are references are inputs, and their values."""
    import onnx

    model = onnx.load_model_from_string(graph)
    values = _take_constants(name, model)
    return bytes(model.SerializeToString()), values


def _take_constants(name: str, model: ModelProto) -> dict[str, Array]:
    """Make inputs of the constants that are references, and return their values; of a pair both or none."""
    from onnx import helper, numpy_helper

    tensors, constants = {tensor.name: tensor for tensor in model.graph.initializer}, dict(GRAPHS[name].references)
    pairs = [pair for pair in _PAIRS if all(constants.get(reference) in tensors for reference in pair)]
    taken = {reference: tensors[constants[reference]] for pair in pairs for reference in pair}
    values = {reference: np.array(numpy_helper.to_array(tensor), np.float32) for reference, tensor in taken.items()}
    names = {tensor.name: reference for reference, tensor in taken.items()}
    for node in model.graph.node:
        node.input[:] = [names.get(text, text) for text in node.input]
    for reference, tensor in taken.items():
        model.graph.input.append(helper.make_tensor_value_info(reference, tensor.data_type, values[reference].shape))
        model.graph.initializer.remove(tensor)
    return values


def _check_array(name: str, array: NDArray[Any]) -> None:
    if array.dtype != np.float32:
        raise BadInput(f"references {name!r} is {array.dtype}, but must be float32")
    if array.ndim != _DIMENSIONS[name] or not array.size:
        raise BadInput(f"references {name!r} has shape {list(array.shape)}, but must have {_DIMENSIONS[name]} dimensions above 0")
    if not np.isfinite(array).all():
        raise BadInput(f"references {name!r} holds a value that is not finite; recalibrate or train the bundle again")


def _check_zones(arrays: Mapping[str, Array]) -> None:
    """Raise BadInput where some maps have no factors, or factors are below 0 or 0 everywhere."""
    if arrays and len(arrays) < len(_ZONES):
        missing = next(name for name in _ZONES if name not in arrays)
        raise BadInput(f"references hold {min(arrays)!r}, but not {missing!r}: zones have factors for each map; train again")
    for name, array in arrays.items():
        if (array < 0).any() or not array.any():
            raise BadInput(f"references {name!r} must be 0 or more, and above 0 somewhere; train the bundle again")


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
