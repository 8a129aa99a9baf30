"""Networks from a preset's settings."""

from __future__ import annotations

from torch import nn

from edge_ad.models.autoencoder import AutoEncoder
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import LaViT
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.models.standardise import Standardise
from edge_ad.models.student import CompactStudent
from edge_ad.models.teachers import LiteTeacher, PdnTeacher
from edge_ad.presets import Preset

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
    return LaViT(channels, grid, preset.hvq.codes, preset.lavit, preset.hvq.layers, masked)
