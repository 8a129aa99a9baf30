"""Constants and nodes that are written into a graph, under names that nothing else has."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from calibration.view import all_names, free_name


class Writer:
    """Writes into a graph; what it makes by ``op`` gathers in ``nodes`` until somebody puts it into its place."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph, self._taken = graph, all_names(graph)
        self.nodes: list[NodeProto] = []

    def free(self, name: str) -> str:
        """Return a name like ``name`` that is free, and take it."""
        return free_name(name, self._taken)

    def constant(self, name: str, value: Any) -> str:
        """Write an initializer with an array's values and type, and return its name."""
        free = self.free(name)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), free))
        return free

    def op(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that; the node is called ``name``, or as its output."""
        free = self.free(output)
        self.nodes.append(helper.make_node(kind, inputs, [free], name=name or free, **attributes))
        return free
