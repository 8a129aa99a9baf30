"""Networks from a preset's settings.

Parameters and multiply-accumulates of every network, counted by running it once on the meta device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.models.efficientad import AutoEncoder, CompactStudent, EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import LaViT
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.models.standardise import Standardise
from edge_ad.models.teachers import LiteTeacher, PdnTeacher
from edge_ad.presets.presets import Preset

AnyTeacher = LiteTeacher | PdnTeacher


def build_teacher(preset: Preset) -> AnyTeacher:
    """Return the preset's teacher with unset weights and channel statistics."""
    settings = preset.teacher
    if settings.kind == "efficientnet_lite0":
        return LiteTeacher(settings)
    return PdnTeacher("small" if settings.kind == "pdn_small" else "medium", settings)


def build_efficientad(preset: Preset, channels: int) -> EfficientAD:
    """Return student and autoencoder for a teacher of ``channels`` channels."""
    settings = preset.efficientad
    autoencoder = AutoEncoder(
        channels, preset.teacher.grid, preset.image_side, settings.decoder_sizes or None, dropout=settings.dropout
    )
    grid = preset.teacher.grid
    standardise = (Standardise(channels, grid), Standardise(channels, grid, whiten=False))
    return EfficientAD(build_student(preset, 2 * channels), autoencoder, standardise if settings.standardise else None)


def build_student(preset: Preset, channels: int) -> nn.Module:
    """Return the preset's student with ``channels`` outputs."""
    settings = preset.efficientad
    if settings.student == "compact":
        return CompactStudent(channels, settings.student_width)
    return PatchDescriptionNetwork("small" if settings.student == "pdn_small" else "medium", channels)


def build_tokenizer(preset: Preset, channels: int) -> HvqTokenizer:
    """Return the tokenizer for tokens of ``channels`` channels."""
    return HvqTokenizer(channels, preset.teacher.token_grid, preset.hvq)


def build_lavit(preset: Preset, channels: int) -> LaViT:
    """Return the masked-image transformer for tokens of ``channels`` channels."""
    grid = preset.teacher.token_grid
    masked = preset.masks.masked_cells(grid)
    return LaViT(channels, grid, preset.hvq.codes, preset.lavit, levels=preset.hvq.layers, masked=masked)


def networks(preset: Preset) -> dict[str, dict[str, Any]]:
    """Return {network: {"params": int, "gmac": float}} for one frame; LAViT's GMAC hold all masks of the bank."""
    with torch.device("meta"):
        teacher = build_teacher(preset)
        efficientad = build_efficientad(preset, teacher.channels)
        tokenizer = build_tokenizer(preset, teacher.token_channels)
        lavit = build_lavit(preset, teacher.token_channels)
        side, grid = preset.image_side, preset.teacher.token_grid
        image = torch.zeros(1, 3, side, side)
        tokens = torch.zeros(1, teacher.token_channels, grid, grid)
        masks = torch.zeros(preset.masks.count, grid * grid)
        modules = {
            "teacher": count(teacher, image),
            "student": count(efficientad.student, image),
            "autoencoder": count(efficientad.autoencoder, image),
            "tokenizer": count(tokenizer, tokens),
            "lavit": count(lavit, tokens, masks),
        }
        if preset.teacher.token_side:
            smaller = torch.zeros(1, 3, preset.teacher.token_side, preset.teacher.token_side)
            modules["teacher_tokens"] = count(teacher, smaller)
    return modules


def count(module: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """Return {"params": int, "gmac": float} of one call of ``module``."""
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"params": parameters, "gmac": round(counter.get_total_flops() / 2e9, 3)}
