"""All graphs of a bundle, exported from trained networks and checked against torch on random and on real pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_ad.export.graphs import (
    EfficientADGraph,
    FusionGraph,
    LavitGraph,
    TeacherGraph,
    TokenizerGraph,
    TokenPassGraph,
)
from edge_ad.export.onnx_export import ExportedGraph, export_graph
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import LaViT
from edge_ad.presets import Preset

FUSION_INPUTS = (
    "map_structure",
    "map_logic",
    "map_local",
    "map_global",
    "raw_logic",
    "pooled",
    "quantiles",
    "centre",
    "precision",
    "mean",
    "std",
    "weight",
)


@dataclass(frozen=True)
class Networks:
    """The four trained modules of a bundle."""

    teacher: nn.Module
    efficientad: EfficientAD
    tokenizer: HvqTokenizer
    lavit: LaViT


@dataclass(frozen=True)
class _Plan:
    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export_all(networks: Networks, preset: Preset, masks: Tensor, picture: Tensor) -> list[ExportedGraph]:
    """Export every graph for masks f32 (R, n * n) and check it on a random picture and on ``picture`` u8 [1, S, S, 3]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, tuple(picture.shape), generator=generator, dtype=torch.uint8)
    cases = [{"image": image, "masks": masks} for image in (picture, noise)]
    exported = []
    for plan in _plans(networks, preset):
        if plan.name == "fusion":
            for case in cases:
                case.update(_statistics(case["pooled"].shape[1], generator))
        examples = [[case[name] for name in plan.inputs] for case in cases]
        exported.append(export_graph(plan.name, plan.module, examples[0], plan.inputs, plan.outputs, examples[1:]))
        for case, inputs in zip(cases, examples, strict=True):
            case.update(zip(plan.outputs, _run(plan.module, inputs), strict=True))
    return exported


def _plans(networks: Networks, preset: Preset) -> list[_Plan]:
    second = preset.teacher.token_side
    soft = ("shares",) if networks.tokenizer.top.temperature else ()
    plans = [
        _Plan(
            "teacher",
            *_teacher(networks.teacher, ("features", "pooled") if second else ("features", "tokens", "pooled")),
        )
    ]
    if second:
        plans.append(_Plan("teacher_tokens", TokenPassGraph(networks.teacher, second), ("image",), ("tokens",)))
    return [
        *plans,
        _Plan(
            "efficientad", EfficientADGraph(networks.efficientad), ("image", "features"), ("map_local", "map_global")
        ),
        _Plan("tokenizer", TokenizerGraph(networks.tokenizer), ("tokens",), ("codes", "map_structure", *soft)),
        _Plan("lavit", LavitGraph(networks.lavit), ("tokens", "codes", "masks", *soft), ("raw_logic", "map_logic")),
        _Plan("fusion", FusionGraph(preset.fusion), FUSION_INPUTS, ("raw", "z", "score", "map")),
    ]


def _teacher(module: nn.Module, outputs: tuple[str, ...]) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...]]:
    return TeacherGraph(module, outputs), ("image",), outputs


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = module.eval()(*inputs)
    return (found,) if isinstance(found, Tensor) else found


def _statistics(width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random statistics of the right shapes: the graph is checked for any values."""
    half = torch.rand(width, width, generator=generator) / width
    return {
        "quantiles": torch.tensor([[0.0, 1.0]] * 3),
        "centre": torch.rand(width, generator=generator),
        "precision": half @ half.t() + torch.eye(width),
        "mean": torch.rand(5, generator=generator),
        "std": torch.rand(5, generator=generator) + 0.5,
        "weight": torch.full((5,), 0.2),
    }
