"""Parameters and multiply-accumulates of every network, counted by running it once on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.models.build import build_efficientad, build_lavit, build_teacher, build_tokenizer
from edge_ad.presets import Preset


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
        found = {
            "teacher": count(teacher, image),
            "student": count(efficientad.student, image),
            "autoencoder": count(efficientad.autoencoder, image),
            "tokenizer": count(tokenizer, tokens),
            "lavit": count(lavit, tokens, masks),
        }
        if preset.teacher.token_side:
            smaller = torch.zeros(1, 3, preset.teacher.token_side, preset.teacher.token_side)
            found["teacher_tokens"] = count(teacher, smaller)
    return found


def count(module: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """Return {"params": int, "gmac": float} of one call of ``module``."""
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"params": parameters, "gmac": round(counter.get_total_flops() / 2e9, 3)}
