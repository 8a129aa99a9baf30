"""The distance of every cell to the nearest remembered cell of normal images (PatchCore, Roth et al., CVPR 2022), or
from a Gaussian of its place (PaDiM, Defard et al., arXiv 2011.08785).

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
        cells = _tiled(white, self.tiles)
        nearest = (self.fp32_bank @ cells + self.fp32_norms).amin(dim=1)
        distance = (nearest + (cells * cells).sum(dim=1)).clamp_min(0.0).sqrt()
        return _untiled(distance, self.tiles)


class CellGaussians(nn.Module):
    """Compare features f32 (1, C, h, w) with the mean of every cell, by the covariance of its region.

    ``fp32_mean`` [1, D, h, w] is that of whitened features, ``fp32_roots`` [R, D, D] the roots of the precisions.
    """

    def __init__(self, channels: int, regions: Regions, width: int | None = None) -> None:
        super().__init__()
        self.regions = regions
        width = min(width or channels, channels)
        self.register_buffer("fp32_whitening", torch.eye(width, channels)[:, :, None, None].clone())
        self.register_buffer("fp32_mean", torch.zeros(1, width, *regions.grid))
        self.register_buffer("fp32_roots", torch.eye(width).repeat(regions.count, 1, 1))
        self.fp32_whitening: Tensor
        self.fp32_mean: Tensor
        self.fp32_roots: Tensor

    @torch.no_grad()
    def set(self, centre: Array, matrix: Array, mean: Array, roots: Array) -> None:
        """Store a whitening, ``centre`` [C] and ``matrix`` [D, C], and a Gaussian of whitened cells as ``fit_cells`` gives."""
        self.fp32_whitening.copy_(torch.from_numpy(matrix)[:, :, None, None])
        self.fp32_mean.copy_(torch.from_numpy(mean + matrix @ centre).permute(2, 0, 1)[None])
        self.fp32_roots.copy_(torch.from_numpy(roots))

    def forward(self, features: Tensor) -> Tensor:
        """Return the distances f32 (1, 1, h, w)."""
        away = _tiled(F.conv2d(features, self.fp32_whitening) - self.fp32_mean, self.regions)
        return _untiled((self.fp32_roots @ away).square().sum(dim=1).sqrt(), self.regions)


def _tiled(cells: Tensor, tiles: Regions) -> Tensor:
    """Bring f32 (1, D, h, w) to (R, D, cells of a tile)."""
    (height, width), (rows, columns), depth = tiles.size, tiles.counts, cells.shape[1]
    parts = cells.reshape(depth, rows, height, columns, width).permute(1, 3, 0, 2, 4)
    return parts.reshape(rows * columns, depth, height * width)


def _untiled(values: Tensor, tiles: Regions) -> Tensor:
    """Bring f32 (R, cells of a tile) to a map (1, 1, h, w)."""
    (height, width), (rows, columns) = tiles.size, tiles.counts
    return values.reshape(rows, columns, height, width).permute(0, 2, 1, 3).reshape(1, 1, *tiles.grid)
