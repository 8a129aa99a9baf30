"""LAViT: predict which codes stand behind a mask, as one histogram a level.

LADMIM, Logical Anomaly Detection with Masked Image Modeling (arXiv 2410.10234), as its released code does it (methods
sections 3.3 to 3.6). The order inside the mask is discarded: where a part lies is free, that it is there is not. The
logic map, and how much an image surprises LAViT in units of normal images, are ours. Block-wise masks: Bao et al., BEiT
(arXiv 2106.08254), algorithm 1, in the exact-count form that LADMIM's code uses.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad.models.attention import Attention
from edge_ad.presets.networks import LavitSettings, MaskSettings, Sides, Size, size_of


class Surprise(nn.Module):
    """Excess and deficit of codes to a distance.

    The L1 distance of histograms takes any two codes for equally different and any surprise for equally grave. Here
    each code stands for the mean features of the cells that have it, so that exchanging two alike codes weighs little,
    and the surprise is measured by its Mahalanobis distance from those of normal images, so that what also varies in
    normal images weighs little. Products are written element by element: as matrix products they would be quantised,
    and these distances stay FP32.
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
        """Return found minus expected mean features f32 (levels * C,) from found minus predicted shares f32 (levels,
        codes).
        """
        return (surprise.unsqueeze(-1) * self.features).sum(dim=1).flatten()

    def forward(self, surprise: Tensor) -> Tensor:
        """Return the distance f32 (1,) of shares f32 (levels, codes), meaned over masks, from those of normal images.
        """
        away = self.describe(surprise) - self.centre
        turned = (away.unsqueeze(1) * self.precision).sum(dim=0)
        return (turned * away).sum().clamp_min(0.0).sqrt().reshape(1)

    def set_features(self, tokens: Tensor, ids: Tensor) -> None:
        """Learn the mean features of each code from normal images: tokens f32 (M, C, h, w) and their codes i64 (M,
        levels, h * w).

        Features are brought to mean 0 and deviation 1 a channel first; a code that no good has stands for their mean.
        """
        cells = tokens.flatten(2).transpose(1, 2).flatten(0, 1)
        cells = (cells - cells.mean(dim=0)) / cells.std(dim=0).clamp_min(1e-6)
        for level, features in enumerate(self.features):
            codes = ids[:, level].flatten()
            total = torch.zeros(features.shape, dtype=cells.dtype).index_add_(0, codes, cells)
            features.copy_(total / torch.bincount(codes, minlength=len(features)).clamp_min(1)[:, None])

    def set_goods(self, centre: Tensor, precision: Tensor) -> None:
        """Set centre f32 (levels * C,) and inverse covariance f32 (levels * C, levels * C) of what ``describe`` says of
        normal images.
        """
        self.centre.copy_(centre)
        self.precision.copy_(precision)


CLEAR = 2.0  # deviations of normal images that a cell of the logic map must exceed to be shown
RARE = 0.02  # the weight that an excess still has in a cell where its code always stands
NEVER = 1e-3  # the share that a missing code has where it never stands
MIN_DEVIATION = 0.2  # of the mean deviation: the least deviation of a cell, since a few dozen normal images measure it


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

    def first(self, rows: Tensor, index: Tensor) -> Tensor:
        """Map rows (U, D), the same for all R sequences but chosen by ``index`` i64 (R, N), to (N, R, D)."""
        (count, size), heads, width = index.shape, self.attention.heads, rows.shape[1]
        split = (part.reshape(len(rows), heads, -1).transpose(0, 1) for part in self._projected(self.norm1(rows)))
        chosen = (part.index_select(1, index.flatten()) for part in split)
        q, k, v = (part.reshape(heads, count, size, -1) for part in chosen)
        mixed = torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
        x = rows.index_select(0, index.t().flatten())
        return self._add(x, mixed.permute(2, 1, 0, 3).reshape(x.shape)).reshape(size, count, width)

    def between(self, x: Tensor) -> Tensor:
        """Map (N, R, D), R sequences side by side, to the same."""
        size, count, width = x.shape
        rows, heads = x.flatten(0, 1), count * self.attention.heads
        q, k, v = (part.reshape(size, heads, -1) for part in self._projected(self.norm1(rows)))
        mixed = torch.softmax(q.transpose(0, 1) @ k.permute(1, 2, 0), dim=-1) @ v.transpose(0, 1)
        return self._add(rows, mixed.transpose(0, 1).reshape(rows.shape)).reshape(size, count, width)

    def last(self, x: Tensor, row: int) -> Tensor:
        """Map (N, R, D) to one row of each sequence, (R, D).

        One query a sequence and head is multiplied by the weights of the keys, instead of all cells, and the mean cell
        by those of the values. A bias of the keys would shift all weights of a query alike, and cancels.
        """
        attention, (_, count, width) = self.attention, x.shape
        key, value = (layer.weight.reshape(attention.heads, -1, width) for layer in (attention.key, attention.value))
        context = self.norm1(x)
        query = self._query(context[row]).reshape(count, attention.heads, -1).transpose(0, 1)
        weights = torch.softmax((query @ key).transpose(0, 1) @ context.permute(1, 2, 0), dim=-1)
        mean = (weights @ context.transpose(0, 1)).transpose(0, 1)
        mixed = (mean @ value.transpose(1, 2)).transpose(0, 1).reshape(count, width)
        return self._add(x[row], mixed + attention.value.bias)

    def _query(self, context: Tensor) -> Tensor:
        layer, scale = self.attention.query, self.attention.scale
        return F.linear(context, layer.weight * scale, layer.bias * scale)

    def _projected(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._query(context), self.attention.key(context), self.attention.value(context)

    def _add(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return the block's result for rows (B, D) and what attention has mixed for them; its factors are constants."""
        layers = ((self.attention.project, self.scale1), (self.down, self.scale2))
        (mix, bias), (down, offset) = ((layer.weight * scale[:, None], layer.bias * scale) for layer, scale in layers)
        x = x + F.linear(mixed, mix, bias)
        return x + F.linear(F.gelu(self.up(self.norm2(x))), down, offset)


class LaViT(nn.Module):
    """Masked features f32 (B, C, h, w) to log-probabilities of codes; sequence = [CLS, HIST, h * w cells].

    With ``settings.drop_masked`` the sequence holds visible cells alone (as in MAE, arXiv 2111.06377) and HIST is told
    where the others lie: a third of the work less with 40 % masked, and better histograms after as many steps (ours).
    ``masked`` is how many cells each mask of the bank hides; the graph needs it as a constant.
    """

    def __init__(
        self, channels: int, grid: Sides, codes: int, settings: LavitSettings, *, levels: int = 4, masked: int = 0
    ) -> None:
        super().__init__()
        s = settings
        self.settings, self.codes, self.levels, self.grid, self.masked = s, codes, levels, size_of(grid), masked
        cells = math.prod(self.grid)
        self.embed = nn.Linear(channels, s.width)
        self.extra = nn.Parameter(torch.zeros(1, 2, s.width))
        if s.drop_masked:
            self.where = nn.Linear(cells, s.width, bias=False)
        else:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, s.width))
        self.position = nn.Parameter(torch.zeros(1, cells + 2, s.width))
        self.register_buffer("cell_mean", torch.zeros(cells))
        self.register_buffer("cell_std", torch.ones(cells))
        self.register_buffer("usual", torch.full((levels, cells, codes), 1.0 / codes))
        self.surprise = Surprise(levels, codes, channels) if s.surprise == "mahalanobis" else None
        self.usual: Tensor
        self.cell_mean: Tensor
        self.cell_std: Tensor
        self.blocks = nn.ModuleList(PreNormBlock(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width)
        self.head = nn.Linear(s.width, levels * codes)
        self._initialise()

    def forward(self, tokens: Tensor, masks: Tensor, masked: int | None = None) -> Tensor:
        """Return probabilities f32 (B, levels, codes) for tokens (B, C, h, w) and masks f32 (B, h * w) of 0 and 1.

        Both may have a batch of 1, which is repeated for the other's. ``masked`` is how many cells each mask hides, if
        not as many as those of the bank; only ``drop_masked`` needs it.
        """
        cells = self.embed(tokens.flatten(2).transpose(1, 2))
        hidden = self.masked if masked is None else masked
        if self.settings.drop_masked and len(tokens) == 1 and len(self.blocks) > 1 and not self.training:
            return self._answer(self._shared(cells[0], masks, hidden))
        if self.settings.drop_masked:
            x = self._visible(cells, masks, hidden)
        else:
            keep = (1.0 - masks).unsqueeze(-1)
            cells = cells * keep + self.mask_token * (1.0 - keep)
            x = torch.cat([self.extra.expand(cells.shape[0], -1, -1), cells], dim=1) + self.position
        for block in self.blocks[:-1]:
            x = block(x)
        return self._answer(self.blocks[-1](x, rows=slice(1, 2))[:, 0])

    def judge(self, tokens: Tensor, ids: Tensor, masks: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the score f32 (1,) and the plain map f32 (N,) of one image through R masks.

        ``tokens`` f32 (1, C, h, w), ``ids`` i64 (levels, N), ``masks`` f32 (R, N) of 0 and 1, ``shares`` f32 (levels,
        N, codes) of a soft choice, which the score then counts in place of ``ids``. The score is the L1 distance of the
        histograms, at most 2 a level, or what ``Surprise`` makes of them.
        """
        predicted, target, excess = self.compare(tokens, ids, masks, shares)
        if self.surprise is None:
            score = excess.abs().sum(dim=(1, 2)).mean().reshape(1)
        else:
            score = self.surprise(excess.mean(dim=0))
        return score, logic_map(ids, masks, predicted, target, usual=self.usual)

    def compare(
        self, tokens: Tensor, ids: Tensor, masks: Tensor, shares: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return histograms f32 (R, levels, codes) of one image, see ``judge``: predicted, of ``ids``, and what is in
        excess.
        """
        target = code_histograms(ids, masks, self.codes)
        predicted = self(tokens, masks)
        return predicted, target, (target if shares is None else share_histograms(shares, masks)) - predicted

    def stand_out(self, cells: Tensor) -> Tensor:
        """Return by how much each cell of a plain map f32 (N,) exceeds what normal images have there, in deviations
        above CLEAR.
        """
        return F.relu((cells - self.cell_mean) / self.cell_std - CLEAR)

    def set_usual(self, ids: Tensor) -> None:
        """Learn how often each code stands in each cell from the codes i64 (normal images, levels, N) of normal images.
        """
        counts = torch.zeros_like(self.usual)
        for one in ids.to(counts.device):
            counts.scatter_add_(2, one[..., None], torch.ones_like(one[..., None], dtype=counts.dtype))
        self.usual.copy_(counts / len(ids))

    def set_cells(self, maps: Tensor) -> None:
        """Learn mean and deviation of every cell from plain maps f32 (normal images, N) of unseen normal images; one
        good gives no deviation.
        """
        std = maps.std(dim=0) if len(maps) > 1 else torch.ones_like(maps[0])
        self.cell_mean.copy_(maps.mean(dim=0))
        self.cell_std.copy_(torch.maximum(std, MIN_DEVIATION * std.mean()).clamp_min(1e-3))

    def _visible(self, cells: Tensor, masks: Tensor, masked: int) -> Tensor:
        """Return [CLS, HIST, visible cells] f32 (B, 2 + h * w - masked, D) from embedded cells (1 or B, h * w, D)."""
        cells = cells + self.position[:, 2:]
        chosen = _seen(masks, masked)
        if cells.shape[0] > 1:  # rows of the flattened batch
            chosen = chosen + torch.arange(cells.shape[0], device=cells.device)[:, None] * cells.shape[1]
        visible = cells.flatten(0, 1)[chosen]
        first, hist = self._extra(masks, masked)
        return torch.cat([first.expand(visible.shape[0], 1, -1), hist[:, None].expand(visible.shape[0], -1, -1), visible], dim=1)

    def _shared(self, cells: Tensor, masks: Tensor, masked: int) -> Tensor:
        """Return the row of HIST f32 (R, D) behind R masks of one image's embedded cells f32 (h * w, D).

        What ``_visible`` and the blocks give but for rounding. Before the first block a cell is the same behind every
        mask, so it is normalised and projected once; of the last block only one row is needed. Sequences lie side by
        side, so that products over cells read them in place.
        """
        first, hist = self._extra(masks, masked)
        rows = torch.cat([first, cells + self.position[0, 2:], hist])
        count = len(masks)
        own = torch.arange(count, device=masks.device)[:, None] + (len(cells) + 1)
        index = torch.cat([torch.zeros_like(own), own, _seen(masks, masked) + 1], dim=1)
        blocks = [block for block in self.blocks if isinstance(block, PreNormBlock)]
        x = blocks[0].first(rows, index)
        for block in blocks[1:-1]:
            x = block.between(x)
        return blocks[-1].last(x, row=1)

    def _extra(self, masks: Tensor, masked: int) -> tuple[Tensor, Tensor]:
        """Return CLS f32 (1, D) and the HIST of each mask f32 (R, D)."""
        extra = (self.extra + self.position[:, :2])[0]
        # 16 brings the mean over so many cells back to the size of one embedding.
        return extra[:1], extra[1:] + self.where(masks) * (16.0 / max(1, masked))

    def _answer(self, hist: Tensor) -> Tensor:
        """Return probabilities f32 (B, levels, codes) from the row of HIST f32 (B, D)."""
        logits = self.head(self.norm(hist)).unflatten(1, (self.levels, self.codes))
        return torch.softmax(logits.float(), dim=-1)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.02, b=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        tokens = () if self.settings.drop_masked else (self.mask_token,)
        for parameter in (self.extra, *tokens, self.position):
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)
        for depth, block in enumerate(self.blocks, start=1):
            assert isinstance(block, PreNormBlock)
            with torch.no_grad():
                block.attention.project.weight.div_(math.sqrt(2.0 * depth))
                block.down.weight.div_(math.sqrt(2.0 * depth))


def _seen(masks: Tensor, masked: int) -> Tensor:
    """Return the cells i64 (R, N - masked) that masks f32 (R, N) of so many ones leave visible."""
    return torch.topk(1.0 - masks, masks.shape[1] - masked, dim=1, sorted=False).indices


def code_histograms(ids: Tensor, masks: Tensor, codes: int) -> Tensor:
    """Return the share of each code behind each mask, f32 (R, levels, codes), of one image's ids i64 (levels, N)."""
    return share_histograms(F.one_hot(ids, codes).to(masks.dtype), masks)


def share_histograms(shares: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each code behind each mask, f32 (R, levels, codes), from each cell's f32 (levels, N, codes).
    """
    return _behind(masks, shares) / masks.sum(dim=1)[:, None, None]


def _behind(masks: Tensor, values: Tensor) -> Tensor:
    """Return the sums f32 (R, levels, K) behind masks f32 (R, N) of values f32 (levels, N, K).

    Written level by level: so onnxruntime multiplies without moving the values first.
    """
    return torch.einsum("lrn,lnk->lrk", masks.expand(len(values), -1, -1), values).transpose(0, 1)


def batch_histograms(ids: Tensor, masks: Tensor, codes: int) -> Tensor:
    """Return the targets f32 (B, levels, codes) of a batch: ids i64 (B, levels, N), one mask f32 (B, N) an image."""
    target = torch.zeros(*ids.shape[:2], codes, device=masks.device)
    weight = (masks / masks.sum(dim=1, keepdim=True))[:, None].expand(-1, ids.shape[1], -1)
    return target.scatter_add_(2, ids, weight)


def lavit_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the L1 distance summed over levels and codes, averaged over the batch (each image at most 8)."""
    return (predicted - target).abs().sum(dim=(1, 2)).mean()


def logic_map(ids: Tensor, masks: Tensor, predicted: Tensor, target: Tensor, *, usual: Tensor | None = None) -> Tensor:
    """Project surprises back onto cells (ours): f32 (N,) from ids (levels, N), masks (R, N), histograms (R, levels,
    codes).

    A code in excess behind a mask is blamed on the cells that show it, most where it is unusual; a code that is missing
    on the cells where it usually stands. ``usual`` f32 (levels, N, codes) is how often normal images have each code in
    each cell; without it all cells share alike. Over the cells of a mask the blame sums to the L1 distance; a cell
    carries the mean over the masks that hide it, times the cells of a mask.
    """
    one_hot = F.one_hot(ids, predicted.shape[-1]).to(masks.dtype)
    prior = torch.full_like(one_hot, 1.0 / one_hot.shape[-1]) if usual is None else usual
    odd, prior = 1.0 + RARE - prior.gather(2, ids[..., None]), prior + NEVER
    shown = _behind(masks, one_hot * odd)
    share = F.relu(target - predicted) / shown.clamp_min(0.5 * RARE)  # a code that is there weighs RARE or more
    excess = (share.gather(2, ids.expand(len(masks), -1, -1)) * odd[..., 0]).sum(dim=1)
    share = F.relu(predicted - target) / _behind(masks, prior)
    deficit = torch.einsum("lrk,lkn->lrn", share.transpose(0, 1), prior.transpose(1, 2).contiguous()).sum(dim=0)
    blame = (excess + deficit) * masks
    return blame.sum(dim=0) / masks.sum(dim=0).clamp_min(1.0) * masks.sum(dim=1).mean()


ASPECT = math.log(1 / 0.3)
CANDIDATES = 128


def block_mask(rng: np.random.Generator, grid: Sides, cells: int, minimum: int) -> NDArray[np.bool_]:
    """Return a bool (h, w) mask with exactly ``cells`` true cells made of blocks of at least ``minimum`` cells.
    """
    mask = np.zeros(size_of(grid), dtype=bool)
    missing = cells
    while missing > 0:
        added = _add_block(rng, mask, missing, minimum)
        if added == 0:
            break
        missing -= added
    return _fix_count(rng, mask, cells)


def mask_bank(seed: int, count: int, grid: Sides, cells: int, *, minimum: int) -> NDArray[np.float32]:
    """Return ``count`` seeded masks as f32 (count, h * w) of 0 and 1, kept in the bundle and used for every
    frame.

    Each is the one of CANDIDATES draws that hides most cells hidden least often so far: what no mask hides, LAViT never
    judges.
    """
    rng = np.random.default_rng(seed)
    masks: list[NDArray[np.bool_]] = []
    hidden = np.zeros(math.prod(size_of(grid)))
    for _ in range(count):
        drawn = [block_mask(rng, grid, cells, minimum).reshape(-1) for _ in range(CANDIDATES)]
        masks.append(min(drawn, key=lambda mask: float(hidden[mask].sum())))
        hidden += masks[-1]
    return np.stack(masks).astype(np.float32)


def bank_of(settings: MaskSettings, grid: Sides, count: int | None = None) -> NDArray[np.float32]:
    """Return the bank that ``settings`` describe on a grid, or only its first ``count`` masks."""
    minimum = share_of(settings.least_share, size_of(grid))
    return mask_bank(settings.seed, count or settings.count, grid, settings.masked_cells(grid), minimum=minimum)


def share_of(share: float, grid: Size) -> int:
    """Return how many cells of a grid (h, w) are a ``share`` of it."""
    return round(share * grid[0] * grid[1])


def _add_block(rng: np.random.Generator, mask: NDArray[np.bool_], missing: int, minimum: int) -> int:
    rows, columns = mask.shape
    for _ in range(10):
        area = rng.uniform(min(minimum, missing), missing)
        # In the aspect ratio of the grid: square blocks of the same area would seldom fit into a narrow one.
        aspect = math.exp(rng.uniform(-ASPECT, ASPECT)) * (rows / columns)
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top, left = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, columns - width + 1))
        block = mask[top : top + height, left : left + width]
        fresh = height * width - int(np.count_nonzero(block))
        if 0 < fresh <= missing:
            block[:] = True
            return fresh
    return 0


def _fix_count(rng: np.random.Generator, mask: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    flat = mask.reshape(-1)
    surplus = int(flat.sum()) - cells
    pool = np.flatnonzero(flat if surplus > 0 else ~flat)
    flat[rng.choice(pool, size=abs(surplus), replace=False)] = surplus < 0
    return mask
