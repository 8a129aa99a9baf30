"""The features that a teacher learns: every patch of a source network's layers as one short vector.

Distillation of EfficientAD (arXiv 2303.14535, section 3.1) after PatchCore (arXiv 2106.08265, section 3.1): 3 x 3
neighbourhoods of each layer, averaged to 1,024 values a layer and to 384 over the layers. All of this is linear, so here it
is one 3 x 3 convolution with fixed weights a layer; coarser layers are resized after it, which gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.teachers import ChannelNormalise

KERNEL = 3


class PatchFeatures(nn.Module):
    """Map layers f32 (B, C_i, h_i, w_i), the finest first, to f32 (B, channels, h_0, w_0), normalised per channel."""

    def __init__(self, widths: Sequence[int], channels: int = 384, per_layer: int = 1024) -> None:
        super().__init__()
        weights = projections(widths, channels, per_layer)
        self.count = len(weights)
        for number, weight in enumerate(weights):
            self.register_buffer(f"weight_{number}", weight, persistent=False)
        self.normalise = ChannelNormalise(channels)

    def raw(self, layers: Sequence[Tensor]) -> Tensor:
        """Return the features before channel normalisation."""
        parts = [F.conv2d(x, getattr(self, f"weight_{n}"), padding=KERNEL // 2) for n, x in enumerate(layers)]
        size = parts[0].shape[2:]
        out = parts[0]
        for part in parts[1:]:
            out = out + F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        return out

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Describe every patch; mean 0 and deviation 1 over the photographs that ``normalise`` was measured on."""
        out: Tensor = self.normalise(self.raw(layers))
        return out


def projections(widths: Sequence[int], channels: int, per_layer: int) -> list[Tensor]:
    """Return the fixed weight f32 (channels, C_i, 3, 3) of each layer.

    Averaging is applied to unit vectors: entry (c, y, x) of a neighbourhood stands at (3 c + y) 3 + x of its patch vector,
    which is averaged to ``per_layer`` values; the layers' values one after the other are averaged to ``channels``.
    """
    found = []
    for number, width in enumerate(widths):
        entries = width * KERNEL**2
        stacked = torch.zeros(entries, len(widths), per_layer)
        stacked[:, number] = F.adaptive_avg_pool1d(torch.eye(entries), per_layer)
        joint = F.adaptive_avg_pool1d(stacked.flatten(1), channels)
        found.append(joint.T.reshape(channels, width, KERNEL, KERNEL).contiguous())
    return found
