"""One pass over images, constant memory: ranges of every tensor that any precision will ask about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from calibration.graph_view import GraphView, all_names, free_name
from calibration.placement import CONVOLUTIONS, watched
from calibration.ranges import PERCENTILE, Histogram, Ranges, TensorRange, graph_hash, saturation
from calibration.session import open_session

Feed = Mapping[str, NDArray[Any]]
SAMPLE = 1 << 17  # values of a tensor that are counted in its histogram for each image; ends and means use them all


class Collector:
    """Runs an FP32 graph image by image and measures it.

    Tensors that may become 8-bit numbers get a histogram; of all other floating-point tensors only the least and the
    greatest value are measured, inside the graph, to guard FP16 against overflow. ``update`` takes the graph's inputs
    and returns its own outputs, so graphs can be measured one behind the other. Raises ValueError for a graph older
    than opset 13 and for values that are not finite; ImportError without onnxruntime.
    """

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self._hash = graph_hash(model)
        view = GraphView(model)
        if view.opset < 13:
            raise ValueError(f"the graph has opset {view.opset}, but 8-bit channels need 13 or newer; export it again")
        weights = set(view.weights)
        self.inputs = [value.name for value in view.graph.input if value.name not in weights]
        self._outputs = [value.name for value in view.graph.output]
        self._kinds = watched(view)
        others = [name for name in _others(view) if name not in self._kinds]
        self._names = [name for name in self._kinds if name not in self._outputs and name not in _inputs(view)]
        augmented, self._guards = _augment(view, self._names, others)
        self._session = open_session(augmented, threads)
        self._histograms = {name: Histogram() for name in self._kinds}
        self._spans = {name: Histogram(2) for name in others}
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._peaks: dict[str, NDArray[np.float64]] = {}
        self.images = 0

    def update(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Measure one run and return the outputs of the graph."""
        wanted = [*self._outputs, *self._names, *(name for pair in self._guards.values() for name in pair)]
        results = {**feed, **dict(zip(wanted, self._session.run(wanted, dict(feed)), strict=True))}
        for name, kind in self._kinds.items():
            self._measure(name, kind, results[name])
        for name, (low, high) in self._guards.items():
            self._spans[name].widen(float(results[low]), float(results[high]))
        self.images += 1
        return {name: results[name] for name in self._outputs}

    def ranges(self, method: str = "mse", percentile: float = PERCENTILE) -> Ranges:
        """Return the ranges by ``method``; ValueError for an unknown one and before the first image."""
        if not self.images:
            raise ValueError("ranges need at least one image, but none was given")
        tensors = {name: self._range(name, method, percentile) for name in self._histograms}
        for name, span in self._spans.items():
            low, high = min(span.minimum, 0.0), max(span.maximum, 0.0)
            tensors[name] = TensorRange(low, high, span.minimum, span.maximum)
        return Ranges(self._hash, method, self.images, dict(sorted(tensors.items())))

    def _range(self, name: str, method: str, percentile: float) -> TensorRange:
        histogram = self._histograms[name]
        end = saturation(histogram, method, percentile)
        mean = tuple(float(value) for value in self._sums.get(name, np.zeros(0)) / self.images)
        low, high = max(min(histogram.minimum, 0.0), -end), min(max(histogram.maximum, 0.0), end)
        peak = tuple(float(value) for value in self._peaks.get(name, ()))
        return TensorRange(low, high, histogram.minimum, histogram.maximum, mean, peak)

    def _measure(self, name: str, kind: str, values: NDArray[Any]) -> None:
        histogram = self._histograms[name]
        histogram.widen(float(values.min()), float(values.max()))
        histogram.update(_sample(values))
        if kind:
            axis = 1 if kind in CONVOLUTIONS else values.ndim - 1
            others = tuple(i for i in range(values.ndim) if i != axis)
            means = values.mean(axis=others, dtype=np.float64)
            peaks = np.maximum(values.max(axis=others), -values.min(axis=others)).astype(np.float64)
            self._sums[name] = self._sums.get(name, np.zeros_like(means)) + means
            self._peaks[name] = np.maximum(self._peaks.get(name, np.zeros_like(peaks)), peaks)


def collect(
    model: bytes, feeds: Iterable[Feed], method: str = "mse", percentile: float = PERCENTILE, *, threads: int | None = None
) -> Ranges:
    """Return the ranges of ``model`` over ``feeds``, one dictionary of inputs an image, each looked at once."""
    collector = Collector(model, threads)
    for feed in feeds:
        collector.update(feed)
    return collector.ranges(method, percentile)


def _inputs(view: GraphView) -> set[str]:
    return {value.name for value in view.graph.input}


def _others(view: GraphView) -> list[str]:
    """Return the computed FP32 tensors in the order of the graph."""
    return [name for node in view.graph.node for name in node.output if name in view.floats]


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """Return at most about SAMPLE values, spread evenly by an odd stride so that every channel is met."""
    flat = values.reshape(-1)
    stride = max(1, -(-flat.size // SAMPLE)) | 1 if flat.size > SAMPLE else 1
    return flat[::stride]


def _augment(view: GraphView, names: list[str], others: list[str]) -> tuple[ModelProto, dict[str, tuple[str, str]]]:
    """Add ``names`` to the outputs, and the least and greatest value of each of ``others``."""
    model = ModelProto.FromString(view.model.SerializeToString())
    graph, taken = model.graph, all_names(view.graph)
    guards: dict[str, tuple[str, str]] = {}
    for name in names:
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for name in others:
        pair = (free_name(f"{name}/least", taken), free_name(f"{name}/greatest", taken))
        for kind, output in zip(("ReduceMin", "ReduceMax"), pair, strict=True):
            graph.node.append(helper.make_node(kind, [name], [output], name=output, keepdims=0))
            graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
        guards[name] = pair
    return model, guards
