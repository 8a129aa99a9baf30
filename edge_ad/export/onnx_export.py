"""torch module -> simplified ONNX master graph, checked against torch."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.loading import load_session
from calibration.precision_sensitive import METADATA_KEY
from edge_ad.errors import GateRefused

OPSET = 20
FP32_PREFIX = "fp32_"  # of buffers whose products stay FP32 in every precision
IR_VERSION = 10
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportedGraph:
    """One FP32 master graph and how far it is from torch: the largest error relative to the output's largest magnitude.
    """

    name: str
    model: bytes
    relative_error: float
    absolute_error: float


def export_graph(
    name: str,
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    others: Sequence[Sequence[Tensor]] = (),
) -> ExportedGraph:
    """Export ``module`` with static shapes at opset 20, simplify, check on the examples and on ``others``.

    Raises GateRefused when an output differs from torch by more than 1e-3 of its range; integer outputs must be equal
    on all but 1 % of their elements (a nearest code may tie).
    """
    module = module.eval()
    model = _export(module, tuple(examples), inputs, outputs)
    model = _simplified(name, model)
    _ask_for_fp32(model)
    model.ir_version = IR_VERSION
    payload = model.SerializeToString()
    relative = absolute = 0.0
    for case in (examples, *others):
        step_relative, step_absolute = compare(name, payload, module, case, inputs)
        relative, absolute = max(relative, step_relative), max(absolute, step_absolute)
    if not relative <= TOLERANCE:
        raise GateRefused(
            f"the exported graph {name} differs from torch by {relative:.2e} of its range, at most {TOLERANCE} is allowed"
        )
    return ExportedGraph(name, payload, relative, absolute)


def _ask_for_fp32(model: onnx.ModelProto) -> None:
    """Name, for the derivation of other precisions, the nodes that read a constant called ``fp32_...``."""
    wanted = []
    for number, node in enumerate(model.graph.node):
        if any(name.rpartition(".")[2].startswith(FP32_PREFIX) for name in node.input):
            node.name = node.name or f"fp32_{number}"
            wanted.append(node.name)
    if wanted:
        model.metadata_props.add(key=METADATA_KEY, value="\n".join(wanted))


def compare(
    name: str, payload: bytes, module: nn.Module, case: Sequence[Tensor], inputs: Sequence[str]
) -> tuple[float, float]:
    """Run torch and onnxruntime on one input; return the largest (relative, absolute) error over float outputs."""
    import onnxruntime

    session = load_session(onnxruntime, payload, onnxruntime.SessionOptions())
    known = {entry.name for entry in session.get_inputs()}
    feed = {key: value.numpy() for key, value in zip(inputs, case, strict=True) if key in known}
    outputs = session.run(None, feed)
    with torch.no_grad():
        expected = module(*case)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    errors = [_error(name, want.numpy(), np.asarray(got)) for want, got in zip(expected, outputs, strict=True)]
    return max(error[0] for error in errors), max(error[1] for error in errors)


def _error(name: str, want: NDArray[np.generic], got: NDArray[np.generic]) -> tuple[float, float]:
    if want.shape != got.shape:
        raise GateRefused(f"the exported graph {name} gives shape {got.shape} where torch gives {want.shape}")
    if np.issubdtype(want.dtype, np.integer):
        share = float(np.mean(want != got))
        if share > 0.01:
            raise GateRefused(f"the exported graph {name} gives other codes than torch in {share:.1%} of the cells")
        return 0.0, 0.0
    difference = float(np.max(np.abs(want.astype(np.float64) - got.astype(np.float64))))
    if not math.isfinite(difference):  # max() over several errors would lose a NaN
        return math.inf, math.inf
    return difference / max(float(np.max(np.abs(want))), 1e-6), difference


def _export(
    module: nn.Module, examples: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
    return model


def _simplified(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified: onnx.ModelProto
    simplified, same = onnxsim.simplify(model)
    if not same:
        raise GateRefused(f"simplifying the graph {name} changed its results; report this with the version of onnxsim")
    onnx.checker.check_model(simplified)
    return simplified
