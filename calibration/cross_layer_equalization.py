"""Channels of very different size share one 8-bit scale; weights on both sides can make them alike at no cost.

Between a convolution, its activation and a next convolution every channel may be multiplied by a factor that the next
one divides by (Nagel et al., ICCV 2019; Meller et al., ICML 2019). A depthwise convolution has a scale of its own for
every channel, so nothing is lost there, and without it a channel of small numbers is rounded away. Behind an activation
that also cuts above, a channel is raised only as far as its cut stays above all that was seen, with a margin.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.graph_view import GraphView, attribute
from calibration.placement import starts_at_zero
from calibration.precision_sensitive import asked
from calibration.ranges import Ranges, TensorRange

MARGIN = 2.0  # of the greatest number seen in a channel: anomalies reach beyond what normal images show
LARGEST_FACTOR = 64.0


def equalize_across_layers(view: GraphView, ranges: Ranges, quantised: Collection[int]) -> Ranges:
    """Rescale, in place, channels before the depthwise convolutions among ``quantised``; return the ranges that fit.

    ``quantised`` holds positions of nodes; a graph without any is left as it is.
    """
    tensors = dict(ranges.tensors)
    barred = asked(view)
    for position, node in enumerate(view.graph.node):
        if node.op_type != "Conv" or position in barred or position not in quantised:
            continue
        tensor_range = tensors.get(node.input[0])
        first = _before(view, node.input[0])
        if tensor_range is None or first is None or first in barred or not tensor_range.peak or tensor_range.high <= 0.0:
            continue
        factors = _factors(view, position, tensor_range)
        if factors is None or not _scale_outputs(view, first, factors):
            continue
        _scale_inputs(view, position, factors)
        mean = tuple(float(value) for value in np.asarray(tensor_range.mean) * factors) if tensor_range.mean else ()
        peak = tuple(float(value) for value in np.asarray(tensor_range.peak) * factors)
        tensors[node.input[0]] = replace(tensor_range, mean=mean, peak=peak)
    return replace(ranges, tensors=tensors)


def _before(view: GraphView, name: str) -> int | None:
    """Return the convolution whose output, past activations that start at zero, is read by one node alone."""
    current, passed = name, False
    while (position := view.producer.get(current)) is not None and view.only_reader(current) is not None:
        node = view.node(position)
        if node.op_type == "Conv":
            return position if passed else None
        if node.op_type not in ("Relu", "Clip") or not starts_at_zero(view, position):
            return None
        passed, current = True, node.input[0]
    return None


def _factors(view: GraphView, position: int, tensor_range: TensorRange) -> NDArray[np.float64] | None:
    """Return a factor of 1 or more for each channel, None where the next convolution is not depthwise."""
    node = view.node(position)
    dims = view.weights[node.input[1]].dims if node.input[1] in view.weights else []
    if len(dims) < 3 or dims[1] != 1 or attribute(node, "group", 1) != dims[0] or len(tensor_range.peak) != dims[0]:
        return None
    peak = np.asarray(tensor_range.peak, np.float64) * MARGIN
    factors = np.divide(tensor_range.high, peak, out=np.ones_like(peak), where=peak > 0)
    return np.clip(factors, 1.0, LARGEST_FACTOR)


def _scale_outputs(view: GraphView, position: int, factors: NDArray[np.float64]) -> bool:
    node = view.node(position)
    names = [name for name in node.input[1:] if name]
    if any(name not in view.weights or len(view.readers[name]) != 1 for name in names):
        return False
    for name in names:
        exact = view.array(name)
        if exact.shape[0] != len(factors):
            return False
        _write(view, name, exact * factors.reshape([-1] + [1] * (exact.ndim - 1)))
    return True


def _scale_inputs(view: GraphView, position: int, factors: NDArray[np.float64]) -> None:
    name = view.node(position).input[1]
    exact = view.array(name)
    _write(view, name, exact / factors.reshape([-1] + [1] * (exact.ndim - 1)))


def _write(view: GraphView, name: str, values: NDArray[np.float64]) -> None:
    view.weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
