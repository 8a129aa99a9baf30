"""Networks from a preset's settings, for images of a size (height, width): without one, of the preset's own square.

Parameters and multiply-accumulates of every network, counted by running it once on the meta device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edge_ad.models.efficientad import AutoEncoder, CompactStudent, EfficientAD, decoder_sizes
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import LaViT
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.models.standardise import Standardise
from edge_ad.models.teachers import LiteTeacher, PdnTeacher
from edge_ad.presets.networks import Size, TileLayout
from edge_ad.presets.presets import Preset
from edge_ad.scoring.memory import BLOCK, Regions

AnyTeacher = LiteTeacher | PdnTeacher


def build_teacher(preset: Preset) -> AnyTeacher:
    """Return the preset's teacher, for images of any size, with unset weights and channel statistics."""
    settings = preset.teacher
    if settings.kind == "efficientnet_lite0":
        return LiteTeacher(settings, preset.image_side)
    return PdnTeacher("small" if settings.kind == "pdn_small" else "medium", settings, preset.image_side)


def build_efficientad(preset: Preset, channels: int, image_size: Size | None = None) -> EfficientAD:
    """Return student and autoencoder for a teacher of ``channels`` channels."""
    settings, size, grid = preset.efficientad, image_size or preset.image_size, preset.feature_grid(image_size)
    sizes = decoder_sizes(size, settings.decoder_sizes or None, preset.image_side)
    autoencoder = AutoEncoder(channels, grid, size, sizes, dropout=settings.dropout)
    standardise = build_standardise(channels, grid) if settings.standardise else None
    return EfficientAD(build_student(preset, 2 * channels), autoencoder, standardise)


def build_standardise(channels: int, grid: Size) -> tuple[Standardise, Standardise]:
    """Return what standardises errors against true features, and errors between two learned networks."""
    return Standardise(channels, grid), Standardise(channels, grid, whiten=False)


def build_student(preset: Preset, channels: int) -> nn.Module:
    """Return the preset's student with ``channels`` outputs."""
    settings = preset.efficientad
    if settings.student == "compact":
        return CompactStudent(channels, settings.student_width)
    return PatchDescriptionNetwork("small" if settings.student == "pdn_small" else "medium", channels)


def build_tokenizer(preset: Preset, channels: int, image_size: Size | None = None) -> HvqTokenizer:
    """Return the tokenizer for tokens of ``channels`` channels."""
    return HvqTokenizer(channels, preset.token_grid(image_size), preset.hvq)


def build_lavit(preset: Preset, channels: int, image_size: Size | None = None) -> LaViT:
    """Return the masked-image transformer for tokens of ``channels`` channels."""
    grid = preset.token_grid(image_size)
    masked = preset.masks.masked_cells(grid)
    return LaViT(channels, grid, preset.hvq.codes, preset.lavit, levels=preset.hvq.layers, masked=masked)


def build_memory(preset: Preset, channels: int, regions: Regions, cells: int | None = None) -> Memory:
    """Return a memory of nothing of use yet, for a teacher of ``channels`` channels; ``cells`` a region, else the preset's.
    """
    return Memory(channels, regions, cells or preset.memory.cells, preset.memory.width)


def build_gaussians(preset: Preset, channels: int, regions: Regions) -> CellGaussians:
    """Return Gaussians of cells that fit nothing yet, for a teacher of ``channels`` channels."""
    return CellGaussians(channels, regions, preset.memory.width)


def memory_regions(preset: Preset, image_size: Size | None = None) -> dict[str, Regions]:
    """Return the regions of the features by each variant of the memory that the preset allows, the default first; none where
    it is off.
    """
    grid, settings = preset.feature_grid(image_size), preset.memory
    variants = {
        "gaussian": Regions.local(grid, BLOCK, 0),
        "global": Regions.whole(grid),
        "local": Regions.local(grid, settings.region, settings.overlap),
    }
    return {name: regions for name, regions in variants.items() if settings.variant in (name, "auto")}


def networks(preset: Preset, image_size: Size | None = None) -> dict[str, dict[str, Any]]:
    """Return {network: {"params": int, "gmac": float}} for one frame; LAViT's GMAC hold all masks of the bank."""
    with torch.device("meta"):
        teacher = build_teacher(preset)
        efficientad = build_efficientad(preset, teacher.channels, image_size)
        tokenizer = build_tokenizer(preset, teacher.token_channels, image_size)
        lavit = build_lavit(preset, teacher.token_channels, image_size)
        image = torch.zeros(1, 3, *(image_size or preset.image_size))
        tokens = torch.zeros(1, teacher.token_channels, *preset.token_grid(image_size))
        masks = torch.zeros(preset.masks.count, tokens[0, 0].numel())
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


def cost_of_tiles(preset: Preset, layout: TileLayout) -> float:
    """Return how many times the multiply-accumulates of a frame without tiles one with them takes, memory apart."""
    frame = sum(network["gmac"] for network in networks(preset, layout.frame).values())
    one = networks(preset, layout.tile)
    return float(1 + layout.count * sum(one[name]["gmac"] for name in ("teacher", "student", "tokenizer")) / frame)


def count(module: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """Return {"params": int, "gmac": float} of one call of ``module``."""
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"params": parameters, "gmac": round(counter.get_total_flops() / 2e9, 3)}
