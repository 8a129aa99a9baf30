"""The graphs of a bundle: exported from torch, simplified, and checked against torch on random and on real images.

Pixels arrive as u8 and are cast before they are transposed, since TensorRT transposes no u8.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from calibration.precision_sensitive import METADATA_KEY
from calibration.session import load_session
from edge_ad.bundle.graphs import (
    FUSION,
    GRAPHS,
    IMAGE,
    LAVIT,
    MEMORY,
    TEACHER,
    TILE_MEMORY,
    TILE_TEACHER,
    map_size,
)
from edge_ad.errors import GateRefused
from edge_ad.export.fusion import FusionGraph, zone_factors
from edge_ad.geometry.zones import AppliedZones
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import LaViT
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.models.teachers import pixels_of
from edge_ad.models.tiles import (
    GlobalMapGraph,
    TileNetworks,
    TileStudentGraph,
    TileTeacherGraph,
    TileTokenizerGraph,
    frame_of,
)
from edge_ad.presets.networks import Size, TileLayout
from edge_ad.presets.presets import FusionSettings, Preset
from edge_ad.scoring import BRANCHES, MAPS, Array

OPSET = 20
FP32_PREFIX = "fp32_"  # of buffers whose products stay FP32 in every precision
IR_VERSION = 10
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportedGraph:
    """One FP32 master graph and how far it is from torch: the largest error relative to the output's largest magnitude.

    ``references`` are the values of the inputs that a bundle gives it.
    """

    name: str
    model: bytes
    relative_error: float
    absolute_error: float
    references: Mapping[str, Array] = field(default_factory=dict)


def export_graph(
    name: str,
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    *,
    outputs: Sequence[str],
    others: Sequence[Sequence[Tensor]] = (),
    bound: Mapping[str, Tensor] = MappingProxyType({}),
) -> ExportedGraph:
    """Export ``module`` with static shapes at opset 20, simplify, check on the examples and on ``others``.

    Raises GateRefused when an output differs from torch by more than 1e-3 of its range; integer outputs must be equal
    on all but 1 % of their elements (a nearest code may tie). Buffers that are references become inputs, and so do the
    ``bound`` references, which the module takes after all others.
    """
    examples, others, inputs = [*examples, *bound.values()], [[*case, *bound.values()] for case in others], (*inputs, *bound)
    buffers, declared = dict(module.eval().named_buffers()), GRAPHS[name].references if name in GRAPHS else ()
    learned = {reference: constant for reference, constant in declared if constant in buffers}
    given = tuple(buffers[constant] for constant in learned.values())
    traced = _Bound(module, tuple(learned.values())) if learned else module
    model = _export(traced, (*examples, *given), (*inputs, *learned), outputs)
    model = _simplified(name, model)
    _name_constants(model)
    _ask_for_fp32(model, learned)
    references = {reference: value.numpy().copy() for reference, value in zip(learned, given, strict=True)}
    model.ir_version = IR_VERSION
    payload = model.SerializeToString()
    relative = absolute = 0.0
    for case in (examples, *others):
        step_relative, step_absolute = compare(name, payload, module, case, inputs=inputs, references=references)
        relative, absolute = max(relative, step_relative), max(absolute, step_absolute)
    if not relative <= TOLERANCE:
        raise GateRefused(
            f"the exported graph {name} differs from torch by {relative:.2e} of its range, at most {TOLERANCE} is allowed"
        )
    references |= {reference: value.numpy().copy() for reference, value in bound.items()}
    return ExportedGraph(name, payload, relative, absolute, references)


class _Bound(nn.Module):
    """A module whose buffers of some ``names`` are further inputs."""

    PREFIX = "module."

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> Any:
        """Run the module on the first of the ``inputs`` with the last of them in the place of its buffers."""
        own = len(inputs) - len(self.names)
        return functional_call(self.module, dict(zip(self.names, inputs[own:], strict=True)), inputs[:own])


def _name_constants(model: onnx.ModelProto) -> None:
    """Take the name of the wrapped module off the names of constants."""
    for node in model.graph.node:
        node.input[:] = [name.removeprefix(_Bound.PREFIX) for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.removeprefix(_Bound.PREFIX)


def _ask_for_fp32(model: onnx.ModelProto, learned: Mapping[str, str]) -> None:
    """Name, for the derivation of other precisions, the nodes that read a constant, or an input that is ``learned`` as a
    buffer, called ``fp32_...``.
    """
    wanted = []
    for number, node in enumerate(model.graph.node):
        if any(learned.get(name, name).rpartition(".")[2].startswith(FP32_PREFIX) for name in node.input):
            node.name = node.name or f"fp32_{number}"
            wanted.append(node.name)
    if wanted:
        model.metadata_props.add(key=METADATA_KEY, value="\n".join(wanted))


def compare(
    name: str,
    payload: bytes,
    module: nn.Module,
    case: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    references: Mapping[str, Array] = MappingProxyType({}),
) -> tuple[float, float]:
    """Run torch and onnxruntime on one input; return the largest (relative, absolute) error over float outputs."""
    import onnxruntime

    session = load_session(onnxruntime, payload, onnxruntime.SessionOptions())
    known = {entry.name for entry in session.get_inputs()}
    feed = {key: value.numpy() for key, value in zip(inputs, case, strict=True) if key in known} | dict(references)
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


class TeacherGraph(nn.Module):
    """image u8 -> features, tokens, pooled (each only if asked for)."""

    def __init__(
        self, teacher: nn.Module, outputs: tuple[str, ...] = GRAPHS[TEACHER].outputs, layout: TileLayout | None = None
    ) -> None:
        super().__init__()
        self.teacher, self.outputs, self.layout = teacher, outputs, layout

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the teacher once."""
        out = self.teacher(frame_of(image, self.layout))
        return tuple(getattr(out, name) for name in self.outputs)


class TokenPassGraph(nn.Module):
    """image u8 -> tokens from the same teacher on a smaller image, as the publications have it (224 beside 256 pixels).
    """

    def __init__(self, teacher: nn.Module, side: int) -> None:
        super().__init__()
        self.teacher, self.side = teacher, side

    def forward(self, image: Tensor) -> Tensor:
        """Shrink bilinearly, then run the teacher."""
        pixels = F.interpolate(pixels_of(image), size=(self.side, self.side), mode="bilinear", align_corners=False)
        tokens: Tensor = self.teacher(pixels).tokens
        return tokens


class EfficientADGraph(nn.Module):
    """image u8, features -> map_local, map_global."""

    def __init__(self, model: EfficientAD) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compare student, teacher and autoencoder."""
        maps: tuple[Tensor, Tensor] = self.model(pixels_of(image), features)
        return maps


class MemoryGraph(nn.Module):
    """features -> map_memory [1, 1, h, w]."""

    def __init__(self, model: Memory | CellGaussians) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """Measure how far every cell is from what is known of normal images."""
        distances: Tensor = self.model(features)
        return distances


class TokenizerGraph(nn.Module):
    """tokens -> codes i32 [1, 4, h * w], map_structure [1, 1, h, w] and, of a soft choice, shares [1, 4, h * w, K].

    Without ``mapped`` there is no map_structure, which is then that of tiles.
    """

    def __init__(self, model: HvqTokenizer, *, mapped: bool = True) -> None:
        super().__init__()
        self.model, self.mapped = model, mapped

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Name the cells and say how badly codes redraw them."""
        ids, error, shares = self.model.structure_map(tokens)
        results = (ids.to(torch.int32), error if self.mapped else None, shares)
        return tuple(one for one in results if one is not None)


class LavitGraph(nn.Module):
    """tokens, codes, masks and, of a soft choice, shares -> raw_logic [1], map_logic [1, 1, h, w]."""

    def __init__(self, model: LaViT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, codes: Tensor, masks: Tensor, shares: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare predicted with found histograms behind every mask; the map holds what stands out from normal images.
        """
        ids = codes[0].to(torch.int64)
        raw, cells = self.model.judge(tokens, ids, masks, None if shares is None else shares[0])
        return raw, self.model.stand_out(cells).reshape(1, 1, *self.model.grid)


@dataclass(frozen=True)
class Networks:
    """The trained modules of a bundle; without a memory its branch is left out. With ``tiles`` it remembers their cells."""

    teacher: nn.Module
    efficientad: EfficientAD
    tokenizer: HvqTokenizer
    lavit: LaViT
    memory: Memory | CellGaussians | None = None
    tiles: TileNetworks | None = None


@dataclass(frozen=True)
class _Plan:
    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export_all(
    networks: Networks, preset: Preset, masks: Tensor, pixels: Tensor, *, zones: AppliedZones | None = None
) -> list[ExportedGraph]:
    """Export every graph for masks f32 (R, h * w) and check it on a random image and on ``pixels`` u8 [1, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, tuple(pixels.shape), generator=generator, dtype=torch.uint8)
    cases = [{IMAGE: image, "masks": masks} for image in (pixels, noise)]
    exported = []
    for plan in _plans(networks, preset, (pixels.shape[1], pixels.shape[2])):
        if plan.name == FUSION:
            for case in cases:
                case.update(_statistics(case["pooled"].shape[1], generator))
                case.setdefault("map_memory", torch.zeros(1, 1, *case["features"].shape[2:]))  # a bundle without the graph
        examples = [[case[name] for name in plan.inputs] for case in cases]
        bound = zone_factors(zones, cases[0], preset.fusion.border) if plan.name == FUSION else {}
        graph = export_graph(
            plan.name, plan.module, examples[0], plan.inputs, outputs=plan.outputs, others=examples[1:], bound=bound
        )
        exported.append(graph)
        for case, inputs in zip(cases, examples, strict=True):
            case.update(zip(plan.outputs, _run(plan.module, (*inputs, *bound.values())), strict=True))
    return exported


def export_fusion(
    settings: FusionSettings, image_size: Size, inputs: Mapping[str, NDArray[np.float32]], zones: AppliedZones | None = None
) -> ExportedGraph:
    """Export the fusion alone for images of a (height, width); checked on ``inputs``, all but the statistics, and on noise.
    """
    generator = torch.Generator().manual_seed(0)
    real = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    noise = {name: torch.rand(value.shape, generator=generator) for name, value in real.items()}
    statistics = _statistics(real["pooled"].shape[1], generator)
    fusion, bound, spec = FusionGraph(settings, map_size(image_size)), zone_factors(zones, real, settings.border), GRAPHS[FUSION]
    examples = [[{**case, **statistics}[name] for name in spec.inputs] for case in (real, noise)]
    return export_graph(FUSION, fusion, examples[0], spec.inputs, outputs=spec.outputs, others=examples[1:], bound=bound)


def _plans(networks: Networks, preset: Preset, image_size: Size) -> list[_Plan]:
    soft, tiles = bool(networks.tokenizer.top.temperature), networks.tiles
    modules = _modules(networks, preset, image_size)
    replaced = {tensor for name in modules for tensor in GRAPHS[name].replaces}
    teacher = tuple(name for name in GRAPHS[TEACHER].outputs if name not in replaced)
    modules[TEACHER] = TeacherGraph(networks.teacher, teacher, None if tiles is None else tiles.layout)
    plans = []
    for name, spec in GRAPHS.items():
        if name in modules:
            left_out = {*(() if soft else spec.omittable), *(replaced.difference(spec.replaces))}
            outputs = tuple(tensor for tensor in spec.outputs if tensor not in left_out)
            unread = {"features"} if isinstance(modules[name], GlobalMapGraph) else () if soft else spec.omittable
            inputs = tuple(tensor for tensor in spec.inputs if tensor not in unread)
            plans.append(_Plan(name, modules[name], inputs, outputs))
    return plans


def _modules(networks: Networks, preset: Preset, image_size: Size) -> dict[str, nn.Module]:
    """Return the module of every graph but the teacher's, whose outputs depend on the others."""
    second, tiles = preset.teacher.token_side, networks.tiles
    modules: dict[str, nn.Module] = {
        "efficientad": EfficientADGraph(networks.efficientad),
        "tokenizer": TokenizerGraph(networks.tokenizer, mapped=tiles is None),
        LAVIT: LavitGraph(networks.lavit),
        FUSION: FusionGraph(preset.fusion, map_size(image_size)),
    }
    if second:
        modules["teacher_tokens"] = TokenPassGraph(networks.teacher, second)
    if networks.memory is not None:
        modules[MEMORY if tiles is None else TILE_MEMORY] = MemoryGraph(networks.memory)
    if tiles is None:
        return modules
    return {
        **modules,
        "efficientad": GlobalMapGraph(networks.efficientad, tiles.layout),
        TILE_TEACHER: TileTeacherGraph(tiles),
        "tile_student": TileStudentGraph(tiles),
        "tile_tokenizer": TileTokenizerGraph(tiles),
    }


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = module.eval()(*inputs)
    return (result,) if isinstance(result, Tensor) else result


def _statistics(width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random statistics of the right shapes: the graph is checked for any values."""
    half, count = torch.rand(width, width, generator=generator) / width, len(BRANCHES)
    return {
        "quantiles": torch.tensor([[0.0, 1.0]] * len(MAPS)),
        "centre": torch.rand(width, generator=generator),
        "precision": half @ half.t() + torch.eye(width),
        "mean": torch.rand(count, generator=generator),
        "std": torch.rand(count, generator=generator) + 0.5,
        "weight": torch.full((count,), 1 / count),
    }
