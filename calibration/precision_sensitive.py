"""What must never lose precision, found by the structure of a graph: distances before a decision, normalised streams.

A decision is an arg-min, or a softmax whose weights then mix constant vectors: a nearest code, chosen hard or softly.
"""

from __future__ import annotations

from collections.abc import Iterable

from calibration.graph_view import GraphView

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = {"Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid"}
_MOVES = {"Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"}
_MORE = {"Tanh", "Add", "AveragePool", "MaxPool", "Mul", "Neg", "Resize", "Transpose", "Unsqueeze", "Where"}
LIGHT = frozenset(_ACTIVATIONS | _MOVES | _MORE)
DECISIONS = frozenset({"ArgMax", "ArgMin", "TopK"})
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What may lie between a distance's matrix product and the decision taken on it.
_BETWEEN = (
    LIGHT | QDQ | {"Sub", "Div", "Pow", "Sqrt", "Abs", "Reciprocal", "Cast", "ReduceSum", "ReduceMean"} | {"Min", "Max"}
)
NORMALISATIONS = frozenset({"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"})
_TRANSPARENT = {"Relu", "Clip", "Identity", "Reshape", "Transpose", "Flatten", "Dropout", "Cast"}
METADATA_KEY = "fp32_nodes"


def distances(view: GraphView) -> set[int]:
    """Return the nodes between each decision and, including it, the nearest heavy operator on every path before it.

    The product that mixes constants by the weights of a soft decision is among them.
    """
    soft = soft_choices(view)
    results = set(soft)
    queue = [i for i, node in enumerate(view.graph.node) if node.op_type in DECISIONS] + list(soft.values())
    while queue:
        for name in view.node(queue.pop()).input:
            before = view.producer.get(name)
            if before is None or before in results:
                continue
            kind = view.node(before).op_type
            if kind in HEAVY or kind in _BETWEEN:
                results.add(before)
            if kind in _BETWEEN:
                queue.append(before)
    return results


def soft_choices(view: GraphView) -> dict[int, int]:
    """Return the products of a softmax with constants, each with the position of its softmax."""
    results: dict[int, int] = {}
    for position, node in enumerate(view.graph.node):
        if node.op_type not in HEAVY or len(node.input) < 2 or node.input[1] not in view.weights:
            continue
        before = view.producer.get(node.input[0])
        while before is not None and view.node(before).op_type in _TRANSPARENT:
            before = view.producer.get(view.node(before).input[0])
        if before is not None and view.node(before).op_type == "Softmax":
            results[position] = before
    return results


def asked(view: GraphView) -> set[int]:
    """Return the nodes that the model itself wants in FP32.

    These have ``/fp32/`` in their name, or are named, one a line, in its metadata under ``fp32_nodes``.
    """
    entries = [entry.value for entry in view.model.metadata_props if entry.key == METADATA_KEY]
    names = {name for value in entries for name in value.splitlines()}
    nodes = enumerate(view.graph.node)
    return {i for i, node in nodes if "/fp32/" in f"/{node.name}/" or node.name in names or view.keys[i] in names}


def positions(view: GraphView, keys: Iterable[str]) -> set[int]:
    """Return the positions of the nodes with these keys; ValueError names a key that the graph does not have."""
    table = {key: position for position, key in enumerate(view.keys)}
    unknown = sorted(set(keys) - set(table))
    if unknown:
        raise ValueError(
            f"the graph has no node {unknown[0]!r}; name nodes as the graph does, or by their first output"
        )
    return {table[key] for key in keys}


def normalised(view: GraphView, name: str) -> bool:
    """Whether a tensor is what a normalisation reads, directly or past operators that change no magnitude.

    Such a tensor is the residual stream of a transformer: a few of its channels are a thousand times as large as the
    rest. A normalisation written out in single operators is known by x - mean(x).
    """
    queue, seen = [name], {name}
    while queue:
        current = queue.pop()
        for position, index in view.readers.get(current, []):
            node = view.node(position)
            if (node.op_type in NORMALISATIONS and index == 0) or _subtracts_mean(view, position, current):
                return True
            if node.op_type in _TRANSPARENT and node.output[0] not in seen:
                seen.add(node.output[0])
                queue.append(node.output[0])
    return False


def _subtracts_mean(view: GraphView, position: int, name: str) -> bool:
    node = view.node(position)
    if node.op_type != "Sub" or node.input[0] != name:
        return False
    producer = view.producer_of(node.input[1])
    return producer is not None and producer.op_type == "ReduceMean" and producer.input[0] == name
