"""Errors of a network in units of how goods err (ours).

A student, or a tokenizer, does not learn all channels and all places equally well: on a texture it errs most where goods vary most,
and a sum of squares sees little else. Here errors are whitened over the channels by their covariance on goods, so that an
error of an unusual kind counts, and divided by how much is usual at the place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHRINKAGE = 0.1  # of the covariance towards equal channels: what goods never show must not weigh without bound
FLOOR = 1.0  # of what is usual at a place, in units of its mean: a place without errors must not, either


class Standardise(nn.Module):
    """Turn errors f32 (B, C, h, w) into standardised ones; before ``learn`` they stay as they are.

    The name of the matrix asks every precision to keep its product in FP32 (``export.onnx_export``): in 8 bits the small
    errors that it magnifies would be gone.
    """

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.register_buffer("fp32_whitening", torch.eye(channels)[:, :, None, None].clone())
        self.register_buffer("place", torch.ones(1, 1, grid, grid))
        self.fp32_whitening: Tensor
        self.place: Tensor

    def forward(self, errors: Tensor) -> Tensor:
        """Return the standardised errors, whose squares are 1 on average where goods err as usual."""
        return F.conv2d(errors, self.fp32_whitening) * self.place

    @torch.no_grad()
    def learn(self, errors: Tensor) -> None:
        """Learn from errors f32 (N, C, h, w) on goods."""
        errors = errors.float().cpu()
        channels = errors.shape[1]
        moments = torch.zeros(channels, channels, dtype=torch.float64)
        for one in errors:
            rows = one.flatten(1).double()
            moments += rows @ rows.t() / (len(errors) * rows.shape[1])
        equal = moments.diagonal().mean().clamp_min(1e-12) * torch.eye(channels, dtype=torch.float64)
        values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * moments + SHRINKAGE * equal)
        whitening = ((vectors * values.rsqrt()) @ vectors.t()).float()[:, :, None, None]
        self.fp32_whitening.copy_(whitening)
        usual = torch.stack([F.conv2d(one[None], whitening).square().mean(dim=(0, 1)) for one in errors])
        smooth = _smoothed(usual.mean(dim=0))
        self.place.copy_((FLOOR + smooth / smooth.mean().clamp_min(1e-12)).rsqrt())


def _smoothed(cells: Tensor) -> Tensor:
    """Return f32 (h, w) averaged over neighbours with the weights of a Gaussian of one cell."""
    row = torch.exp(-0.5 * torch.arange(-3.0, 4.0).square())
    kernel = torch.outer(row, row) / row.sum().square()
    padded = F.pad(cells[None, None], (3, 3, 3, 3), mode="replicate")
    return F.conv2d(padded, kernel[None, None])[0, 0]
