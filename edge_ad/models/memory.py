"""The distance of every cell to the nearest remembered cell of normal images (PatchCore, Roth et al., CVPR 2022).

What is remembered, and the whitening before it, is chosen in `edge_ad.scoring.memory`; this is its use: one product
with the whitening and one with the remembered cells, ||x||^2 - 2 x m + ||m||^2, the least of which counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.scoring.memory import Array, Regions, constants_of

TILE = 16  # cells


class Memory(nn.Module):
    """Compare features f32 (1, C, h, w) with ``count`` remembered cells for each of the ``regions``.

    The buffers are constants of the graph. ``fp32_bank`` [R, M, D] holds remembered cells times -2 and ``fp32_norms``
    [R, M, 1] their squared lengths, so that a product and a sum give the squared distance but for the cell's own length.
    """

    def __init__(self, channels: int, regions: Regions, count: int, width: int | None = None) -> None:
        super().__init__()
        self.regions = regions
        # One bank for all cells is compared in tiles as well: their products stay in the cache of a processor.
        self.tiles = regions if regions.count > 1 else Regions.local(regions.grid, TILE, 0)
        width = min(width or channels, channels)
        self.register_buffer("fp32_whitening", torch.eye(width, channels)[:, :, None, None].clone())
        self.register_buffer("fp32_offset", torch.zeros(width))
        self.register_buffer("fp32_bank", torch.randn(regions.count, count, width))
        self.register_buffer("fp32_norms", (self.fp32_bank / 2).square().sum(dim=2, keepdim=True))
        self.fp32_whitening: Tensor
        self.fp32_offset: Tensor
        self.fp32_bank: Tensor
        self.fp32_norms: Tensor

    @torch.no_grad()
    def set(self, centre: Array, matrix: Array, banks: Array) -> None:
        """Store a whitening, ``centre`` [C] and ``matrix`` [D, C], and ``banks`` f32 [R, M, D] of whitened cells."""
        bank, norms = constants_of(banks)
        self.fp32_whitening.copy_(torch.from_numpy(matrix)[:, :, None, None])
        self.fp32_offset.copy_(torch.from_numpy(-(matrix @ centre)))
        self.fp32_bank.copy_(torch.from_numpy(bank))
        self.fp32_norms.copy_(torch.from_numpy(norms))

    def forward(self, features: Tensor) -> Tensor:
        """Return the distances f32 (1, 1, h, w)."""
        white = F.conv2d(features, self.fp32_whitening, self.fp32_offset)
        (height, width), (rows, columns), depth = self.tiles.size, self.tiles.counts, white.shape[1]
        tiles = white.reshape(depth, rows, height, columns, width).permute(1, 3, 0, 2, 4)
        cells = tiles.reshape(rows * columns, depth, height * width)
        nearest = (self.fp32_bank @ cells + self.fp32_norms).amin(dim=1)
        distance = (nearest + (cells * cells).sum(dim=1)).clamp_min(0.0).sqrt()
        tiled = distance.reshape(rows, columns, height, width).permute(0, 2, 1, 3)
        return tiled.reshape(1, 1, *self.regions.grid)
