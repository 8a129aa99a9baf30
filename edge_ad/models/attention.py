"""Multi-head attention with separate positions for queries and keys, written so that it exports to plain MatMul and
Softmax.

While training without dropout the fused kernel computes the same, faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention over f32 (B, N, D); queries, keys and values are projected with biases that can be left out for keys.
    """

    def __init__(self, width: int, heads: int, key_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=key_bias)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from (B, N, D) queries to (B, M, D) keys and values."""
        if len(query) == 1 and not self.training:
            return self._attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)).unsqueeze(0)
        q, k, v = (self._split(layer(x)) for layer, x in ((self.query, query), (self.key, key), (self.value, value)))
        if self.training and self.dropout.p == 0.0:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = torch.softmax((q * self.scale) @ k.transpose(-2, -1), dim=-1)
            mixed = self.dropout(weights) @ v
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from (N, D) to (M, D), without a batch: so onnxruntime's products read the heads where they lie."""
        pairs = ((self.query, query), (self.key, key), (self.value, value))
        q, k, v = (layer(x).reshape(len(x), self.heads, -1) for layer, x in pairs)
        weights = torch.softmax((q * self.scale).transpose(0, 1) @ k.permute(1, 2, 0), dim=-1)
        out: Tensor = self.project((weights @ v.transpose(0, 1)).transpose(0, 1).reshape(query.shape))
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, cells, width = x.shape
        return x.reshape(batch, cells, self.heads, width // self.heads).transpose(1, 2)
