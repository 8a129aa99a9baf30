"""A codebook learned by exponential moving averages.

van den Oord et al., VQ-VAE (arXiv 1711.00937), appendix A; values as in HVQ-Trans (methods section 2.3). Seeding the
codes from data and reviving dead ones are ours: with a few hundred normal images most normally drawn codes never win.
So is the soft choice: where two codes are equally near, FP16 or INT8 decide which is taken, and a score that counts
codes jumps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantised(NamedTuple):
    """Chosen codes (in training the nearest, with straight-through gradient), ids of the nearest, the commitment loss.

    ``shares`` f32 (B, N, K) are the weights of a soft choice, or None for the nearest code alone.
    """

    values: Tensor
    ids: Tensor
    commitment: Tensor
    shares: Tensor | None = None


class CodebookUpdate:
    """How a codebook follows what it quantises in training: at once, by the rows of this process."""

    def seed_rows(self, z: Tensor) -> Tensor:
        """Return the vectors f32 (B, N, D) to seed the codes from, given those of this process."""
        return z

    def move(self, layer: VectorQuantiser, rows: Tensor, ids: Tensor) -> None:
        """Move the codes of ``layer`` by rows f32 (M, D) and the codes i64 (M,) that they chose."""
        layer.follow(*layer.tally(rows, ids))
        if bool((dead := layer.dead()).any()):
            layer.revive(dead, rows)


class VectorQuantiser(nn.Module):
    """Replace each vector of f32 (B, N, D) by its nearest of K codes; ids are i64 (B, N).

    ``update`` says how the codes move in training; distributed training sets its own.
    """

    def __init__(
        self, codes: int, width: int, decay: float = 0.99, eps: float = 1e-5, *, seed_from_data: bool = False
    ) -> None:
        super().__init__()
        self.decay, self.eps, self.seed_from_data = decay, eps, seed_from_data
        # Of the soft choice outside training, in squared distance; 0 takes the nearest code alone.
        self.temperature = 0.0
        self.update = CodebookUpdate()
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

    def distances(self, z: Tensor) -> Tensor:
        """Return squared distances f32 (B, N, K) less |z|^2, which changes no order and no difference."""
        return self.codebook.square().sum(dim=1) - 2.0 * z @ self.codebook.t()

    def lead(self, z: Tensor) -> float:
        """Return by how much the nearest code is nearer than the second on average."""
        near, second = self.distances(z.float()).topk(2, dim=-1, largest=False).values.unbind(dim=-1)
        return float((second - near).mean())

    def forward(self, z: Tensor) -> Quantised:
        """Quantise in FP32; in training also move the codes."""
        z = z.float()
        if self.training and not bool(self.seeded):
            self._seed(self.update.seed_rows(z.detach()))
        away = self.distances(z.detach())
        ids = away.argmin(dim=-1)
        codes = F.embedding(ids, self.codebook)
        if self.training:
            self.update.move(self, z.detach().flatten(0, 1), ids.flatten())
        commitment = (codes.detach() - z).square().mean()
        if self.temperature and not self.training:
            shares = torch.softmax(-away / self.temperature, dim=-1)
            return Quantised(shares @ self.codebook, ids, commitment, shares)
        return Quantised(z + (codes - z).detach(), ids, commitment)

    def _seed(self, z: Tensor) -> None:
        rows = z.flatten(0, 1)
        chosen = rows[torch.randint(len(rows), (len(self.codebook),))]
        self.codebook.copy_(chosen + 0.01 * torch.randn_like(chosen) * rows.std())
        self.sums.copy_(self.codebook)
        self.counts.fill_(1.0)
        self.seeded.fill_(True)

    def tally(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return how often each code was chosen, f32 (K,), and the sum of f32 rows (M, D) that chose it, f32 (K, D)."""
        hits = torch.bincount(ids, minlength=len(self.codebook)).float()
        return hits, torch.zeros_like(self.sums).index_add_(0, ids, rows)

    def follow(self, hits: Tensor, total: Tensor) -> None:
        """Move the codes by one batch's ``tally``."""
        self.counts.mul_(self.decay).add_(hits, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        mass = self.counts.sum()
        smooth = (self.counts + self.eps) / (mass + len(self.counts) * self.eps) * mass
        self.codebook.copy_(self.sums / smooth[:, None])

    def dead(self) -> Tensor:
        """Return which codes to revive, bool (K,): those that no batch chose for long, if codes are seeded from data.
        """
        return (self.counts < 0.01) & self.seed_from_data

    def revive(self, dead: Tensor, rows: Tensor) -> None:
        """Put the ``dead`` codes on random rows f32 (M, D) of a batch."""
        chosen = rows[torch.randint(len(rows), (int(dead.sum()),))]
        self.codebook[dead] = chosen
        self.sums[dead] = chosen
        self.counts[dead] = 1.0
        self.revived.add_(dead.sum())


def shares_of(ids: Tensor, codes: int) -> Tensor:
    """Return how often each code occurs in ids i64 of any shape, f64 (codes,) with a sum of 1."""
    return torch.bincount(ids.flatten(), minlength=codes).double() / ids.numel()


def perplexity(shares: Tensor) -> float:
    """Return the effective number of codes in use: exp of the entropy of their ``shares`` (codes,)."""
    shares = shares.double()
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-12))).sum()))


def code_use(ids: Tensor, quantiser: VectorQuantiser) -> dict[str, float | int]:
    """Tell how a codebook is used by ids i64 of any shape: perplexity, codes that occur and never do, codes revived so
    far.
    """
    codes = len(quantiser.codebook)
    used = int((torch.bincount(ids.flatten(), minlength=codes) > 0).sum())
    return {
        "perplexity": round(perplexity(shares_of(ids, codes)), 1),
        "used": used,
        "unused": codes - used,
        "revived": int(quantiser.revived),
    }
