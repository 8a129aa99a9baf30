"""LAViT: predict which codes stand behind a mask, as one histogram a level.

LADMIM, Logical Anomaly Detection with Masked Image Modeling (arXiv 2410.10234), as its released code does it (methods sections
3.3 to 3.6). The order inside the mask is discarded: where a part lies is free, that it is there is not. The logic map is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.attention import Attention
from edge_ad.models.settings import LavitSettings


class PreNormBlock(nn.Module):
    """BEiT block: pre-norm attention without key bias, GELU, LayerScale."""

    def __init__(self, s: LavitSettings) -> None:
        super().__init__()
        hidden = int(s.width * s.mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.attention = Attention(s.width, s.heads, key_bias=False, dropout=s.attention_dropout)
        self.up, self.down = nn.Linear(s.width, hidden), nn.Linear(hidden, s.width)
        self.scale1 = nn.Parameter(torch.full((s.width,), s.layer_scale))
        self.scale2 = nn.Parameter(torch.full((s.width,), s.layer_scale))

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D), or only the given rows of it, which is exact for a last block."""
        context = self.norm1(x)
        query, x = (context, x) if rows is None else (context[:, rows], x[:, rows])
        x = x + self.scale1 * self.attention(query, context, context)
        out: Tensor = x + self.scale2 * self.down(F.gelu(self.up(self.norm2(x))))
        return out


class LaViT(nn.Module):
    """Masked features f32 (B, C, n, n) to log-probabilities of codes; sequence = [CLS, HIST, n * n cells]."""

    def __init__(self, channels: int, grid: int, codes: int, settings: LavitSettings, levels: int = 4) -> None:
        super().__init__()
        s = settings
        self.settings, self.codes, self.levels, self.grid = s, codes, levels, grid
        self.embed = nn.Linear(channels, s.width)
        self.extra = nn.Parameter(torch.zeros(1, 2, s.width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, s.width))
        self.position = nn.Parameter(torch.zeros(1, grid * grid + 2, s.width))
        self.blocks = nn.ModuleList(PreNormBlock(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width)
        self.head = nn.Linear(s.width, levels * codes)
        self._initialise()

    def forward(self, tokens: Tensor, masks: Tensor) -> Tensor:
        """Return probabilities f32 (B, levels, codes) for tokens (B, C, n, n) and masks f32 (B, n * n) of 0 and 1.

        Both may have a batch of 1, which is repeated for the other's.
        """
        cells = self.embed(tokens.flatten(2).transpose(1, 2))
        keep = (1.0 - masks).unsqueeze(-1)
        cells = cells * keep + self.mask_token * (1.0 - keep)
        x = torch.cat([self.extra.expand(cells.shape[0], -1, -1), cells], dim=1) + self.position
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, rows=slice(1, 2))
        logits = self.head(self.norm(x[:, 0])).unflatten(1, (self.levels, self.codes))
        return torch.softmax(logits.float(), dim=-1)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.02, b=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.extra, self.mask_token, self.position):
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)
        for depth, block in enumerate(self.blocks, start=1):
            assert isinstance(block, PreNormBlock)
            with torch.no_grad():
                block.attention.project.weight.div_(math.sqrt(2.0 * depth))
                block.down.weight.div_(math.sqrt(2.0 * depth))


def code_histograms(ids: Tensor, masks: Tensor, codes: int) -> Tensor:
    """Return the share of each code behind each mask, f32 (R, levels, codes), of one image's ids i64 (levels, N)."""
    one_hot = F.one_hot(ids, codes).to(masks.dtype)
    counts = torch.einsum("rn,lnk->rlk", masks, one_hot)
    return counts / masks.sum(dim=1)[:, None, None]


def batch_histograms(ids: Tensor, masks: Tensor, codes: int) -> Tensor:
    """Return the targets f32 (B, levels, codes) of a batch: ids i64 (B, levels, N), one mask f32 (B, N) an image."""
    target = torch.zeros(*ids.shape[:2], codes, device=masks.device)
    weight = (masks / masks.sum(dim=1, keepdim=True))[:, None].expand(-1, ids.shape[1], -1)
    return target.scatter_add_(2, ids, weight)


def lavit_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the L1 distance summed over levels and codes, averaged over the batch (each image at most 8)."""
    return (predicted - target).abs().sum(dim=(1, 2)).mean()


def logic_map(ids: Tensor, masks: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
    """Project surprises back onto cells (ours): f32 (N,) from ids (levels, N), masks (R, N), histograms (R, levels, codes).

    A masked cell carries the excess of its own code over the prediction, shared among the cells of that code, plus an even
    share of the deficit: what should be there and is not can stand anywhere behind the mask.
    """
    one_hot = F.one_hot(ids, predicted.shape[-1]).to(masks.dtype)
    share = F.relu(target - predicted) / target.clamp_min(1e-6)
    excess = torch.einsum("rlk,lnk->rn", share, one_hot) * masks
    deficit = F.relu(predicted - target).sum(dim=(1, 2))[:, None] * masks
    blame = (excess + deficit) / masks.sum(dim=1, keepdim=True)
    return blame.sum(dim=0) / masks.sum(dim=0).clamp_min(1.0) * masks.sum(dim=1).mean()
