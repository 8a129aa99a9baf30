"""A codebook learned by exponential moving averages.

van den Oord et al., VQ-VAE (arXiv 1711.00937), appendix A; values as in HVQ-Trans (methods section 2.3). Seeding the codes from
data and reviving dead ones are ours: with a few hundred goods most normally drawn codes never win.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantised(NamedTuple):
    """Nearest codes with straight-through gradient, their ids, and the commitment loss."""

    values: Tensor
    ids: Tensor
    commitment: Tensor


class VectorQuantiser(nn.Module):
    """Replace each vector of f32 (B, N, D) by its nearest of K codes; ids are i64 (B, N)."""

    def __init__(
        self, codes: int, width: int, decay: float = 0.99, eps: float = 1e-5, seed_from_data: bool = False
    ) -> None:
        super().__init__()
        self.decay, self.eps, self.seed_from_data = decay, eps, seed_from_data
        self.register_buffer("codebook", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))
        self.register_buffer("seeded", torch.tensor(not seed_from_data))
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))
        self.codebook: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.seeded: Tensor
        self.revived: Tensor
        self.sums.copy_(self.codebook)

    def nearest(self, z: Tensor) -> Tensor:
        """Return ids i64 (B, N) by squared distance; |z|^2 is left out, it does not change the order."""
        scores = self.codebook.square().sum(dim=1) - 2.0 * z @ self.codebook.t()
        return scores.argmin(dim=-1)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise in FP32; in training also move the codes."""
        z = z.float()
        if self.training and not bool(self.seeded):
            self._seed(z.detach())
        ids = self.nearest(z.detach())
        codes = F.embedding(ids, self.codebook)
        if self.training:
            self._move(z.detach().flatten(0, 1), ids.flatten())
        commitment = (codes.detach() - z).square().mean()
        return Quantised(z + (codes - z).detach(), ids, commitment)

    def _seed(self, z: Tensor) -> None:
        rows = z.flatten(0, 1)
        chosen = rows[torch.randint(len(rows), (len(self.codebook),))]
        self.codebook.copy_(chosen + 0.01 * torch.randn_like(chosen) * rows.std())
        self.sums.copy_(self.codebook)
        self.counts.fill_(1.0)
        self.seeded.fill_(True)

    def _move(self, rows: Tensor, ids: Tensor) -> None:
        hits = torch.bincount(ids, minlength=len(self.codebook)).float()
        total = torch.zeros_like(self.sums).index_add_(0, ids, rows)
        self.counts.mul_(self.decay).add_(hits, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        mass = self.counts.sum()
        smooth = (self.counts + self.eps) / (mass + len(self.counts) * self.eps) * mass
        self.codebook.copy_(self.sums / smooth[:, None])
        if self.seed_from_data:
            self._revive(rows)

    def _revive(self, rows: Tensor) -> None:
        dead = self.counts < 0.01
        if not bool(dead.any()):
            return
        chosen = rows[torch.randint(len(rows), (int(dead.sum()),))]
        self.codebook[dead] = chosen
        self.sums[dead] = chosen
        self.counts[dead] = 1.0
        self.revived.add_(dead.sum())


def perplexity(ids: Tensor, codes: int) -> float:
    """Return the effective number of codes in use: exp of the entropy of the ids' histogram."""
    share = torch.bincount(ids.flatten(), minlength=codes).double()
    share = share / share.sum()
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum()))


def code_use(ids: Tensor, quantiser: VectorQuantiser) -> dict[str, float | int]:
    """Tell how a codebook is used by ids i64 of any shape: perplexity, codes that occur and never do, codes revived so far."""
    codes = len(quantiser.codebook)
    used = int((torch.bincount(ids.flatten(), minlength=codes) > 0).sum())
    return {
        "perplexity": round(perplexity(ids, codes), 1),
        "used": used,
        "unused": codes - used,
        "revived": int(quantiser.revived),
    }
