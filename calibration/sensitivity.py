"""What quantising each part of a model costs, and the cheapest set of parts to leave alone under a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.graph_view import GraphView
from calibration.placement import Operator, operators

Part = tuple[str, ...]
SINGLE = 64  # graphs with up to this many weighted operators are looked at node by node


@dataclass(frozen=True)
class Unit:
    """Nodes that are quantised or kept together, and the multiplications they take."""

    graph: str
    nodes: Part
    macs: int

    @property
    def name(self) -> str:
        """How tables call it."""
        more = f" to {self.nodes[-1]}" if len(self.nodes) > 1 else ""
        return f"{self.graph}: {self.nodes[0]}{more}"


@dataclass(frozen=True)
class Cost:
    """``loss`` of quantising a unit alone, in the caller's measure, and how many ``flips`` it made."""

    unit: Unit
    loss: float
    flips: int

    @property
    def merit(self) -> float:
        """Loss that is saved for each multiplication kept; errors of independent units add up by their squares."""
        return self.loss**2 / max(self.unit.macs, 1)


def units(name: str, view: GraphView, maximum: int = SINGLE) -> list[Unit]:
    """Return the weighted operators of a graph in order, one a unit, or at most ``maximum`` units of neighbours."""
    result = operators(view)
    parts = [list(part) for part in np.array_split(np.arange(len(result)), max(1, min(len(result), maximum))) if len(part)]
    return [_unit(name, view, [result[index] for index in part]) for part in parts]


def macs(view: GraphView, operator: Operator) -> int:
    """Return the multiplications of one run of a weighted operator, 0 where a shape is not known."""
    output = view.shape(view.node(operator.position).output[0])
    dims = [int(size) for size in view.weights[operator.weight].dims]
    if output is None:
        return 0
    if operator.kind == "Conv":
        return int(np.prod(output)) * int(np.prod(dims[1:]))
    if operator.kind == "ConvTranspose":
        return int(np.prod(view.shape(operator.data) or (0,))) * int(np.prod(dims[1:]))
    return int(np.prod(output)) * dims[1 - operator.axis] if operator.axis is not None else 0


def rank(costs: Sequence[Cost]) -> list[Cost]:
    """Return the costs with the units that are most worth keeping in floating point first."""
    return sorted(costs, key=lambda cost: (-cost.merit, cost.unit.name))


def shortest_prefix(ranked: Sequence[Unit], passes: Callable[[Sequence[Unit]], bool]) -> list[Unit] | None:
    """Return the shortest beginning of ``ranked`` that ``passes`` when kept in floating point, None if none does.

    Greedy: lengths are tried by doubling and then by halving, so about 2 log2(n) trials are made; a longer beginning is
    taken to lose no more than a shorter one.
    """
    low, high = -1, None
    for length in _doubling(len(ranked)):
        if passes(ranked[:length]):
            high = length
            break
        low = length
    if high is None:
        return None
    while high - low > 1:
        median = (low + high) // 2
        low, high = (low, median) if passes(ranked[:median]) else (median, high)
    return list(ranked[:high])


def _doubling(maximum: int) -> Iterator[int]:
    length = 1
    yield 0
    while length < maximum:
        yield length
        length *= 2
    if maximum:
        yield maximum


def _unit(name: str, view: GraphView, result: Sequence[Operator]) -> Unit:
    return Unit(name, tuple(item.key for item in result), sum(macs(view, item) for item in result))
