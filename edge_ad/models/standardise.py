"""Errors of a network in units of how normal images err (ours).

A student, or a tokenizer, does not learn all channels and all places equally well: on a texture it errs most where
normal images vary most, and a sum of squares sees little else. Here errors are whitened over the channels by their
covariance on normal images, so that an error of an unusual kind counts, and divided by how much is usual at the place.
Where two learned networks are compared (autoencoder and student), whitening made anomalies harder to tell: their errors
are only divided.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.presets.networks import Sides, size_of

SHRINKAGE = 0.1  # of the covariance towards equal channels: what normal images never show must not weigh without bound
FLOOR = 1.0  # of what is usual at a place, in units of its mean: a place without errors must not, either


class Standardise(nn.Module):
    """Turn errors f32 (B, C, h, w) into standardised ones; before ``learn`` they stay as they are.

    Without ``whiten`` channels are left alone. The name of the matrix asks every precision to keep its product in FP32
    (``export.onnx_export``): in 8 bits the small errors that it magnifies would be gone.
    """

    def __init__(self, channels: int, grid: Sides, whiten: bool = True) -> None:
        super().__init__()
        self.register_buffer("fp32_whitening", torch.eye(channels)[:, :, None, None].clone() if whiten else None)
        self.register_buffer("place", torch.ones(1, 1, *size_of(grid)))  # [T, 1, h, w] of T tiles
        self.fp32_whitening: Tensor | None
        self.place: Tensor

    def forward(self, errors: Tensor) -> Tensor:
        """Return the errors, whitened where channels are, and divided by the root of what is usual at their place."""
        return self._whitened(errors) * self.place

    @torch.no_grad()
    def learn(self, errors: Tensor, tiles: int = 1) -> None:
        """Learn from errors f32 (N, C, h, w) on normal images, or on the ``tiles`` of each, which have places of their own."""
        if self.fp32_whitening is not None:
            self.fp32_whitening.copy_(_whitening(errors)[:, :, None, None])
        usual = torch.stack([self._whitened(one[None]).square().mean(dim=(0, 1)) for one in errors])
        smooth = torch.stack([_smoothed(usual[tile::tiles].mean(dim=0)) for tile in range(tiles)])
        self.place = (FLOOR + smooth / smooth.mean().clamp_min(1e-12)).rsqrt()[:, None]

    def _whitened(self, errors: Tensor) -> Tensor:
        return errors if self.fp32_whitening is None else F.conv2d(errors, self.fp32_whitening)


def _whitening(errors: Tensor) -> Tensor:
    """Return the inverse root, f64 (C, C), of the shrunk second moments of errors f32 (N, C, h, w)."""
    channels = errors.shape[1]
    moments = torch.zeros(channels, channels, dtype=torch.float64, device=errors.device)
    for one in errors:
        rows = one.flatten(1).double()
        moments += rows @ rows.t() / (len(errors) * rows.shape[1])
    equal = moments.diagonal().mean().clamp_min(1e-12) * torch.eye(channels).to(moments)
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * moments + SHRINKAGE * equal)
    whitening: Tensor = (vectors * values.rsqrt()) @ vectors.t()
    return whitening


def _smoothed(cells: Tensor) -> Tensor:
    """Return f32 (h, w) averaged over neighbours with the weights of a Gaussian of one cell."""
    row = torch.exp(-0.5 * torch.arange(-3.0, 4.0, device=cells.device).square())
    kernel = torch.outer(row, row) / row.sum().square()
    padded = F.pad(cells[None, None], (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, kernel[None, None])[0, 0]
