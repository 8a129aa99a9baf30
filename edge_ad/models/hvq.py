"""HVQ-Trans: a transformer that redraws features from vector-quantised tokens only.

Lu et al., Hierarchical Vector Quantized Transformer (NeurIPS 2023, arXiv 2310.14228), in the form of LADMIM's tokenizer
(methods sections 2 and 3.2): width 64, five codebooks, one product, so neither codebooks nor experts are switched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.attention import Attention
from edge_ad.models.standardise import Standardise
from edge_ad.models.vector_quantiser import VectorQuantiser
from edge_ad.presets.networks import HvqSettings, Sides, size_of


class HvqOutput(NamedTuple):
    """Reconstruction f32 (B, N, C), target ids i64 (B, 4, N) in the order [id3, id2, id1, id0], commitment loss.

    ``top_ids`` i64 (B, N) are the codes of the last encoder state, ``finest`` f32 (B, N, 2D) the first state joined
    with them. ``shares`` f32 (B, 4, N, K), in the order of ``ids``, are the weights of a soft choice, None where each
    cell has one code.
    """

    reconstruction: Tensor
    ids: Tensor
    commitment: Tensor
    top_ids: Tensor
    finest: Tensor
    shares: Tensor | None = None


class LearnedPositions(nn.Module):
    """Row and column tables, concatenated column first: f32 (h * w, width)."""

    def __init__(self, grid: Sides, width: int) -> None:
        super().__init__()
        height, across = size_of(grid)
        self.rows = nn.Parameter(torch.rand(height, width // 2))
        self.columns = nn.Parameter(torch.rand(across, width // 2))

    def forward(self) -> Tensor:
        """Return one vector a cell, row-major."""
        columns = self.columns[None].expand(self.rows.shape[0], -1, -1)
        rows = self.rows[:, None].expand(-1, self.columns.shape[0], -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)


class EncoderLayer(nn.Module):
    """Post-norm self-attention layer (DETR style): positions join queries and keys, not values."""

    def __init__(self, width: int, s: HvqSettings) -> None:
        super().__init__()
        self.attention = Attention(width, s.heads, dropout=s.dropout)
        self.up, self.down = nn.Linear(width, s.feed_forward), nn.Linear(s.feed_forward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        placed = x + position
        x = self.norms[0](x + self.dropout(self.attention(placed, placed, x)))
        out: Tensor = self.norms[1](x + self.dropout(self.down(self.dropout(F.relu(self.up(x))))))
        return out


class DecoderLayer(nn.Module):
    """Post-norm layer with self-attention and attention to one level of quantised tokens."""

    def __init__(self, width: int, s: HvqSettings) -> None:
        super().__init__()
        self.own = Attention(width, s.heads, dropout=s.dropout)
        self.cross = Attention(width, s.heads, dropout=s.dropout)
        self.up, self.down = nn.Linear(width, s.feed_forward), nn.Linear(s.feed_forward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D) with memory (B, N, D)."""
        placed = x + position
        x = self.norms[0](x + self.dropout(self.own(placed, placed, x)))
        x = self.norms[1](x + self.dropout(self.cross(x + position, memory + position, memory)))
        out: Tensor = self.norms[2](x + self.dropout(self.down(self.dropout(F.relu(self.up(x))))))
        return out


class HvqTokenizer(nn.Module):
    """Tokenizer over frozen features f32 (B, C, h, w); the codes name what stands in each cell."""

    def __init__(self, channels: int, grid: Sides, settings: HvqSettings) -> None:
        super().__init__()
        s = settings
        self.settings = s
        self.grid = size_of(grid)
        self.embed = nn.Linear(channels, s.width)
        self.position = LearnedPositions(grid, s.width)
        self.encoder = nn.ModuleList(EncoderLayer(s.width, s) for _ in range(s.layers))
        self.top = VectorQuantiser(s.codes, s.width, seed_from_data=s.seed_from_data)
        self.levels = nn.ModuleList(
            VectorQuantiser(s.codes, 2 * s.width, seed_from_data=s.seed_from_data) for _ in range(s.layers)
        )
        self.decoder = nn.ModuleList(DecoderLayer(2 * s.width, s) for _ in range(s.layers))
        self.norm = nn.LayerNorm(2 * s.width)
        self.head = nn.Linear(2 * s.width, channels)
        self.standardise = Standardise(channels, grid) if s.standardise else None

    def forward(self, features: Tensor) -> HvqOutput:
        """Encode, quantise level by level under the top code, decode from codes alone."""
        position = self.position()
        x = self.embed(features.flatten(2).transpose(1, 2))
        states = [x]
        for layer in self.encoder:
            states.append(layer(states[-1], position))
        top, top_ids, commitment, _ = self.top(states.pop())
        quants, ids, shares = [], [], []
        joint = x
        for state, level in zip(reversed(states), reversed(list(self.levels)), strict=True):
            joint = torch.cat([state, top], dim=-1)
            stages = level(joint)
            quants.append(stages.values)
            ids.append(stages.ids)
            shares.append(stages.shares)
            commitment = commitment + stages.commitment
        x = quants[0]
        wide = torch.cat([position, position], dim=-1)
        for memory, layer in zip(quants, self.decoder, strict=True):
            x = layer(x, memory, wide)
        soft = None if shares[0] is None else torch.stack(shares, dim=1)
        return HvqOutput(self.head(self.norm(x)), torch.stack(ids, dim=1), commitment, top_ids, joint, soft)

    @torch.no_grad()
    def soften(self, features: Sequence[Tensor]) -> None:
        """Let near codes share a cell from now on, as ``settings.softness`` says, by batches of normal images f32 (B,
        C, h, w).
        """
        quantisers = [self.top, *self.levels] if self.settings.softness else []
        lead_values: dict[nn.Module, list[float]] = {module: [] for module in quantisers}
        hooks = [module.register_forward_pre_hook(lambda m, z: lead_values[m].append(m.lead(*z))) for module in quantisers]
        for batch in features:
            self(batch)
        for hook in hooks:
            hook.remove()
        for module, result in lead_values.items():
            assert isinstance(module, VectorQuantiser)
            module.temperature = self.settings.softness * sum(result) / len(result)

    def structure_map(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return ids i64 (B, 4, h * w), the error map f32 (B, 1, h, w) and the shares of codes, see ``HvqOutput``.

        The error is the distance of drawn and true features. With ``transport`` in the settings the weighted transport
        cost on the finest codebook is added to each cell.
        """
        out = self.forward(features)
        return out.ids, self.error_map(out, features, self.standardise), out.shares

    def error_map(self, out: HvqOutput, features: Tensor, standardise: nn.Module | None) -> Tensor:
        """Return the error map of ``structure_map``, errors standardised or as they are."""
        errors = out.reconstruction - features.flatten(2).transpose(1, 2)
        if standardise is not None:
            errors = standardise(_on_grid(errors, features)).flatten(2).transpose(1, 2)
        error = errors.square().sum(dim=-1).clamp_min(1e-12).sqrt()
        if self.settings.transport:
            finest = self.levels[0]
            assert isinstance(finest, VectorQuantiser)
            error = error + self.settings.transport * transport_cost(out.finest, finest.codebook)
        return error.reshape(-1, 1, *self.grid)

    @torch.no_grad()
    def learn_errors(self, features: Sequence[Tensor], tiles: int = 1) -> None:
        """Learn how normal images, or the ``tiles`` of each, are drawn wrongly, from batches f32 (B, C, h, w), where errors
        are standardised.
        """
        if self.standardise is not None:
            errors = [self(batch).reconstruction - batch.flatten(2).transpose(1, 2) for batch in features]
            self.standardise.learn(_on_grid(torch.cat(errors), torch.cat(list(features))), tiles)


def transport_cost(states: Tensor, codes: Tensor) -> Tensor:
    """Return how far states f32 (B, N, D) are from what codes f32 (K, D) can stand for, f32 (B, N) in [0, 2].

    The plan is p = softmax(<u, e> / K) over the codes, the cost 1 - cos(u, e), as in HVQ-Trans' code (methods section
    2.6).
    """
    states, codes = states.float(), codes.float()
    plan = torch.softmax(states @ codes.t() / codes.shape[0], dim=-1)
    cosine = _unit(states) @ _unit(codes).t()
    return (plan * (1.0 - cosine)).sum(dim=-1)


def _on_grid(cells: Tensor, like: Tensor) -> Tensor:
    return cells.transpose(1, 2).reshape(like.shape)


def _unit(rows: Tensor) -> Tensor:
    # F.normalize exports to the same, but with a norm that INT8 tools do not know.
    return rows / rows.square().sum(dim=-1, keepdim=True).clamp_min(1e-12).sqrt()


def hvq_loss(features: Tensor, out: HvqOutput) -> Tensor:
    """Return mean squared error plus a quarter of the commitment summed over the five levels."""
    return F.mse_loss(out.reconstruction, features.flatten(2).transpose(1, 2)) + 0.25 * out.commitment
