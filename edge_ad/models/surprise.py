"""How much a picture surprises LAViT, in units of how much goods do (ours)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Surprise(nn.Module):
    """Excess and deficit of codes to a distance.

    The L1 distance of histograms takes any two codes for equally different and any surprise for equally grave. Here each
    code stands for the mean features of the cells that have it, so that exchanging two alike codes weighs little, and the
    surprise is measured by its Mahalanobis distance from those of goods, so that what also varies in goods weighs little.
    Products are written element by element: as matrix products they would be quantised, and these distances stay FP32.
    """

    def __init__(self, levels: int, codes: int, channels: int) -> None:
        super().__init__()
        size = levels * channels
        self.register_buffer("features", torch.zeros(levels, codes, channels))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("precision", torch.eye(size))
        self.features: Tensor
        self.centre: Tensor
        self.precision: Tensor

    def describe(self, surprise: Tensor) -> Tensor:
        """Return found minus expected mean features f32 (levels * C,) from found minus predicted shares f32 (levels, codes)."""
        return (surprise.unsqueeze(-1) * self.features).sum(dim=1).flatten()

    def forward(self, surprise: Tensor) -> Tensor:
        """Return the distance f32 (1,) of shares f32 (levels, codes), meaned over masks, from those of goods."""
        away = self.describe(surprise) - self.centre
        turned = (away.unsqueeze(1) * self.precision).sum(dim=0)
        return (turned * away).sum().clamp_min(0.0).sqrt().reshape(1)

    def set_features(self, tokens: Tensor, ids: Tensor) -> None:
        """Learn the mean features of each code from goods: tokens f32 (M, C, n, n) and their codes i64 (M, levels, n * n).

        Features are brought to mean 0 and deviation 1 a channel first; a code that no good has stands for their mean.
        """
        cells = tokens.flatten(2).transpose(1, 2).flatten(0, 1)
        cells = (cells - cells.mean(dim=0)) / cells.std(dim=0).clamp_min(1e-6)
        for level, features in enumerate(self.features):
            codes = ids[:, level].flatten()
            total = torch.zeros(features.shape, dtype=cells.dtype).index_add_(0, codes, cells)
            features.copy_(total / torch.bincount(codes, minlength=len(features)).clamp_min(1)[:, None])

    def set_goods(self, centre: Tensor, precision: Tensor) -> None:
        """Set centre f32 (levels * C,) and inverse covariance f32 (levels * C, levels * C) of what ``describe`` says of goods."""
        self.centre.copy_(centre)
        self.precision.copy_(precision)
