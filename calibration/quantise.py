"""An FP32 graph and its ranges become an explicit Q/DQ graph, for TensorRT or for ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration import cpu, weights
from calibration.column_packing import pack_columns
from calibration.cross_layer_equalization import equalize_across_layers
from calibration.fp16 import to_fp16
from calibration.graph_view import GraphView, Writer, all_names, attribute, drop_unused, free_name, replace_nodes
from calibration.image_input import read_bytes
from calibration.placement import FEW_CHANNELS, Operator, dequantised, place
from calibration.ranges import Ranges, TensorRange, graph_hash
from calibration.session import open_session
from calibration.weights import for_pictures


def means_as_convolutions(view: GraphView) -> None:
    """Turn a mean over the channels of an image, [N, C, H, W] to [N, 1, H, W], into a 1 x 1 convolution in FP32.

    ONNX Runtime walks such a mean with strides of a whole plane: on 176 x 32 x 32 it took ten times as long as the
    convolution, and a fifth of all time of an 8-bit graph.
    """
    taken, nodes = all_names(view.graph), []
    for position, node in enumerate(view.graph.node):
        channels = _channels(view, position)
        nodes.append(node if channels is None else _convolution(view, node, channels, taken))
    replace_nodes(view.graph, nodes)


def _channels(view: GraphView, position: int) -> int | None:
    """Return the number of channels of a node that is such a mean."""
    node = view.node(position)
    if node.op_type != "ReduceMean" or attribute(node, "keepdims", 1) != 1 or node.input[0] not in view.floats:
        return None
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1] in view.weights:
        axes = view.array(node.input[1]).tolist()
    shape = view.shape(node.input[0])
    return shape[1] if shape is not None and len(shape) == 4 and axes in ([1], [-3]) else None


def _convolution(view: GraphView, node: NodeProto, channels: int, taken: set[str]) -> NodeProto:
    name = free_name(f"{node.output[0]}/mean", taken)
    values = np.full((1, channels, 1, 1), 1.0 / channels, np.float32)
    view.graph.initializer.append(numpy_helper.from_array(values, name))
    return helper.make_node("Conv", [node.input[0], name], list(node.output), name=node.name)


@dataclass(frozen=True)
class Step:
    """A number q stands for ``scale`` x (q - ``zero``)."""

    scale: float
    zero: int


def step_of(view: GraphView, ranges: Ranges, name: str, signed: bool) -> Step:
    """Return the step of a tensor: its own where the graph holds it in bytes, else one that its range asks for.

    ``signed`` is symmetric S8, else U8. Raises ValueError for a tensor without a range.
    """
    if not signed and dequantised(view, name):
        scale, zero = (view.array(tensor).item() for tensor in view.node(view.producer[name]).input[1:3])
        return Step(float(scale), int(zero))
    tensor = ranges.tensors.get(name)
    if tensor is None:
        raise ValueError(f"the ranges lack the tensor {name!r}: calibrate again")
    return _symmetric(tensor) if signed else _asymmetric(tensor)


def _symmetric(tensor_range: TensorRange) -> Step:
    return Step(float(weights.half_scale(np.array(tensor_range.bound / weights.INT8_LIMIT))), 0)


def _asymmetric(tensor_range: TensorRange) -> Step:
    span = max(tensor_range.high - tensor_range.low, 1e-8)
    scale = float(np.float32(span / 255.0))
    return Step(scale, int(np.clip(round(-tensor_range.low / scale), 0, 255)))


TYPINGS = ("fp32", "fp16")
_MIN_OPSET = {"fp32": 13, "fp16": 19}  # 8-bit channels; FP16 scales


def quantise(
    model: bytes,
    ranges: Ranges,
    target: str = "tensorrt",
    keep: Collection[str] = (),
    *,
    typing: str = "fp32",
    weight_limit: int | None = None,
    correct_bias: bool = True,
    equalised: bool = True,
    corrections: Mapping[str, Sequence[float]] | None = None,
) -> bytes:
    """Return the serialised INT8 variant of ``model``; inputs and outputs keep their names and types.

    ``target`` ``tensorrt`` is symmetric S8 throughout (zero points present and 0, weights as floats with Q and DQ, FP32
    bias); ``typing`` ``fp16`` writes the rest in FP16, for strongly typed builds. ``cpu`` is U8 activations with zero
    points and S8 weights, stored as such; it has typing fp32 only. ``keep``: keys of nodes (see ``GraphView.keys``)
    that are not quantised. ``weight_limit``: the greatest weight, by default ``greatest_weight`` of the dialect.
    ``correct_bias`` adds to each bias what rounding the weights takes from the mean output; ``equalised`` first makes
    channels before depthwise convolutions alike; ``corrections`` (see ``calibration.bias_correction``) are added to the
    biases of the nodes and to the outputs they name. Raises ValueError for ranges of another graph, an unknown dialect,
    typing or node, and an opset that is too old.
    """
    if typing not in TYPINGS or (target == "cpu" and typing != "fp32"):
        raise ValueError(
            f"typing {typing!r} is not available in dialect {target!r}; cpu has fp32, tensorrt fp32 and fp16"
        )
    if ranges.graph_sha256 != graph_hash(model):
        raise ValueError("these ranges were measured on another graph: calibrate again")
    view = source = GraphView(model)
    if view.opset < _MIN_OPSET[typing]:
        raise ValueError(f"the graph has opset {view.opset}, but {typing} Q/DQ needs {_MIN_OPSET[typing]} or newer")
    if target == "cpu":
        view, ranges = read_bytes(source, ranges, keep)
    if equalised:
        ranges = equalize_across_layers(view, ranges, {item.position for item in place(view, target, keep).operators})
    limit = greatest_weight(target) if weight_limit is None else weight_limit
    quantise_view(view, ranges, target, keep, weight_limit=limit, correct_bias=correct_bias, corrections=corrections)
    data = bytes(view.model.SerializeToString())
    if view is not source:
        return pack_columns(data)
    return to_fp16(data, ranges=ranges) if typing == "fp16" else data


def greatest_weight(target: str) -> int:
    """Return the greatest weight of a dialect: 127, but 63 in that of a CPU where sums saturate on this one."""
    return cpu.weight_limit() if target == "cpu" else weights.INT8_LIMIT


def output_key(name: str) -> str:
    """Return the key of an output among corrections, apart from those of nodes."""
    return f"output:{name}"


@dataclass
class Biases:
    """Where the biases of quantised operators are, by key: initializers, their steps where whole, and tensors shifted.
    """

    names: dict[str, str] = field(default_factory=dict)
    steps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


def quantise_view(
    view: GraphView,
    ranges: Ranges,
    target: str,
    keep: Collection[str] = (),
    *,
    weight_limit: int = weights.INT8_LIMIT,
    correct_bias: bool = True,
    corrections: Mapping[str, Sequence[float]] | None = None,
) -> Biases:
    """Write Q and DQ into the graph of ``view`` itself, as ``quantise`` does, and tell where its biases are."""
    return _Quantiser(view, ranges, target, weight_limit, correct=correct_bias, corrections=corrections or {}).run(keep)


class _Quantiser:
    """Writes Q and DQ into the graph of a view."""

    def __init__(
        self,
        view: GraphView,
        ranges: Ranges,
        target: str,
        limit: int,
        *,
        correct: bool,
        corrections: Mapping[str, Sequence[float]],
    ) -> None:
        self._view, self._ranges, self._target = view, ranges, target
        self._limit, self._correct, self._corrections = limit, correct, corrections
        self._biases = Biases()
        self._signed = target == "tensorrt"
        self._new = Writer(view.graph)
        self._pairs: dict[str, str] = {}  # tensor -> its dequantised copy
        self._before: dict[int, list[NodeProto]] = {}
        self._after: dict[int, list[NodeProto]] = {}
        self._start: list[NodeProto] = []

    def run(self, keep: Collection[str]) -> Biases:
        placement = place(self._view, self._target, keep)
        for position in sorted(placement.covered):
            self._bypass(position)
        for name, source in placement.outputs.items():
            self._output(name, self._step(source))
        for output in self._view.graph.output:
            self._offset(output.name)  # before inputs: copies for readers come behind it
        for position, index in placement.inputs:
            self._input(position, index)
        for operator in placement.operators:
            self._weight(operator, placement.outputs)
            self._biases.outputs[operator.key] = self._view.node(operator.position).output[0]
        nodes = list(self._start)
        for position, node in enumerate(self._view.graph.node):
            nodes += self._before.get(position, [])
            nodes += [] if position in placement.covered else [node]
            nodes += self._after.get(position, [])
        replace_nodes(self._view.graph, nodes)
        if not self._signed:
            means_as_convolutions(self._view)
        drop_unused(self._view.graph)
        del self._view.graph.value_info[:]
        return self._biases

    def _bypass(self, position: int) -> None:
        """Let the operator before an activation make the activation's output; the Q behind it saturates likewise."""
        node = self._view.node(position)
        producer = self._view.producer[node.input[0]]
        tensor = self._view.node(producer)
        tensor.output[:] = [node.output[0] if name == node.input[0] else name for name in tensor.output]
        self._view.producer[node.output[0]] = producer

    def _output(self, name: str, step: Step) -> None:
        """Quantise a tensor where it is made: the maker's own result gets another name."""
        position = self._view.producer[name]
        node = self._view.node(position)
        raw = self._new.free(f"{name}/raw")
        node.output[:] = [raw if tensor == name else tensor for tensor in node.output]
        self._after.setdefault(position, []).extend(self._pair(raw, name, step))
        self._pairs[name] = name

    def _offset(self, name: str) -> None:
        """Add what was measured for an output to it: its maker's own result gets another name."""
        offset = self._corrections.get(output_key(name))
        position = self._view.producer.get(name)
        if offset is None or position is None:
            return
        raw = self._new.free(f"{name}/raw")
        for node in (self._view.node(position), *self._after.get(position, [])):
            node.output[:] = [raw if tensor == name else tensor for tensor in node.output]
        constant = self._new.constant(f"{name}/offset", np.asarray(offset, np.float32))
        self._after.setdefault(position, []).append(self._node("Add", [raw, constant], name))

    def _input(self, position: int, index: int) -> None:
        """Let one place read a quantised copy; places that read the same tensor share it."""
        node = self._view.node(position)
        name = node.input[index]
        if name not in self._pairs:
            self._pairs[name] = self._new.free(f"{name}/8bit")
            producer = self._view.producer.get(name)
            pair = self._pair(name, self._pairs[name], self._step(name))
            if producer is None:
                self._start.extend(pair)
            else:
                self._after.setdefault(producer, []).extend(pair)
        node.input[index] = self._pairs[name]

    def _pair(self, source: str, target: str, step: Step) -> list[NodeProto]:
        zero = np.int8(step.zero) if self._signed else np.uint8(step.zero)
        operands = [
            self._new.constant(f"{target}/scale", np.float32(step.scale)),
            self._new.constant(f"{target}/zero", zero),
        ]
        quantised = self._new.free(f"{target}/q")
        return [
            self._node("QuantizeLinear", [source, *operands], quantised),
            self._node("DequantizeLinear", [quantised, *operands], target),
        ]

    def _weight(self, operator: Operator, outputs: dict[str, str]) -> None:
        view, node = self._view, self._view.node(operator.position)
        exact = view.array(operator.weight)
        scale = weights.weight_scale(exact, operator.axis, self._limit)
        bias = view.array(operator.bias).astype(np.float64) if operator.bias in view.weights else None
        data = self._step(outputs.get(operator.data, operator.data))
        if self._signed:
            scale = weights.half_scale(scale)
        elif bias is not None and bias.size == scale.size:
            scale = weights.room_for_bias(scale, bias.reshape(-1), data.scale)
        image = not self._signed and dequantised(view, operator.data) and exact.shape[1] < FEW_CHANNELS
        unit = weights.spread(scale, operator.axis, exact.ndim)
        if image and exact.ndim == 4:
            steps = for_pictures(exact / unit, self._limit)
        else:
            steps = weights.rounded(exact, scale, operator.axis, self._limit)
        snapped = steps * unit
        corrected = self._bias(operator, exact - snapped, bias)
        values = self._stored_weight(operator, steps, snapped, scale)
        node.input[1] = values
        if corrected is not None:
            self._write_bias(operator, corrected, data.scale * scale.astype(np.float64))

    def _bias(self, operator: Operator, error: NDArray[Any], bias: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the new bias, None where there is none and none is needed or possible."""
        mean_shift = np.zeros(0)
        if operator.kind == "MatMul" or (operator.bias and bias is None):
            return bias
        if self._correct:
            mean = self._ranges.tensors[operator.data].mean
            mean_shift = weights.mean_error(operator.kind, error, mean, operator.axis)
        measured = np.asarray(self._corrections.get(operator.key, ()), np.float64)
        parts = [part.reshape(-1) for part in (bias, mean_shift, measured) if part is not None and part.size]
        if not parts:
            return None
        wide = max(len(part) for part in parts)
        return np.asarray(np.sum([np.broadcast_to(part, (wide,)) for part in parts], axis=0))

    def _stored_weight(
        self, operator: Operator, steps: NDArray[np.int8], snapped: NDArray[Any], scale: NDArray[np.float32]
    ) -> str:
        """Write the weight: for TensorRT floats on the grid with Q and DQ, for a CPU the steps with DQ alone."""
        single = operator.axis is None
        tensor = scale.reshape(()) if single else scale
        name = operator.weight
        target = self._new.free(f"{name}/8bit")
        operands = [
            self._new.constant(f"{target}/scale", tensor),
            self._new.constant(f"{target}/zero", np.zeros_like(tensor, np.int8)),
        ]
        options = {} if single else {"axis": operator.axis}
        before = self._before.setdefault(operator.position, [])
        if self._signed:
            source = self._new.constant(f"{name}/grid", snapped.astype(np.float32))
            quantised = self._new.free(f"{target}/q")
            before.append(self._node("QuantizeLinear", [source, *operands], quantised, **options))
        else:
            quantised = self._new.constant(f"{target}/q", steps)
        before.append(self._node("DequantizeLinear", [quantised, *operands], target, **options))
        return target

    def _write_bias(self, operator: Operator, bias: NDArray[Any], step: NDArray[np.float64]) -> None:
        node = self._view.node(operator.position)
        flat = bias.reshape(-1)
        if self._signed:
            name = self._new.constant(f"{operator.weight}/bias", flat.astype(np.float32))
        else:
            whole = np.clip(np.rint(flat / step), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            operands = [np.broadcast_to(step, flat.shape).astype(np.float32), np.zeros(flat.shape, np.int32)]
            name = self._new.free(f"{operator.weight}/bias")
            names = [self._new.constant(f"{name}/{part}", value) for part, value in zip("sz", operands, strict=True)]
            steps = self._new.constant(f"{name}/q", whole)
            pair = self._node("DequantizeLinear", [steps, *names], name, axis=0)
            self._before.setdefault(operator.position, []).append(pair)
        self._biases.names[operator.key] = name if self._signed else steps
        if not self._signed:
            self._biases.steps[operator.key] = step
        while len(node.input) < 3:
            node.input.append("")
        node.input[2] = name

    def _step(self, name: str) -> Step:
        return step_of(self._view, self._ranges, name, self._signed)

    def _node(self, kind: str, inputs: list[str], output: str, **options: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=self._new.free(f"{output}/{kind}"), **options)


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
