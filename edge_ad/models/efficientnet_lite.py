"""EfficientNet-Lite0 trunk with batch normalisation folded into the convolutions.

Tan and Le, EfficientNet (arXiv 1905.11946), in the "Lite" form: ReLU6, no squeeze-and-excitation.
TensorFlow's "same" padding is asymmetric for strided layers, and the published weights expect it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BN_EPS = 1e-3
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0


class Block(NamedTuple):
    """One inverted bottleneck: kernel, stride, expansion ratio and channels."""

    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int


BLOCKS: tuple[Block, ...] = (
    Block(3, 1, 1, 32, 16),
    Block(3, 2, 6, 16, 24),
    Block(3, 1, 6, 24, 24),
    Block(5, 2, 6, 24, 40),
    Block(5, 1, 6, 40, 40),
    Block(3, 2, 6, 40, 80),
    Block(3, 1, 6, 80, 80),
    Block(3, 1, 6, 80, 80),
    Block(5, 1, 6, 80, 112),
    Block(5, 1, 6, 112, 112),
    Block(5, 1, 6, 112, 112),
    Block(5, 2, 6, 112, 192),
    Block(5, 1, 6, 192, 192),
    Block(5, 1, 6, 192, 192),
    Block(5, 1, 6, 192, 192),
    Block(3, 1, 6, 192, 320),
)


class SameConv(nn.Module):
    """Convolution with TensorFlow "same" padding for sides divisible by the stride; (B, C, H, W) -> (B, O, H/s, W/s)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        total = kernel - stride
        self.pad = (total // 2, total - total // 2) if total > 0 else (0, 0)
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups
        )
        self.strided = stride > 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply padding and convolution."""
        if self.strided:
            before, after = self.pad
            x = F.pad(x, (before, after, before, after))
        out: Tensor = self.conv(x)
        return out


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; the identity is added when shape allows it."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden = block.channels_in * block.expand
        self.expand = SameConv(block.channels_in, hidden, 1) if block.expand > 1 else None
        self.depthwise = SameConv(hidden, hidden, block.kernel, block.stride, groups=hidden)
        self.project = SameConv(hidden, block.channels_out, 1)
        self.residual = block.stride == 1 and block.channels_in == block.channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H/stride, W/stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite0(nn.Module):
    """Trunk that returns the outputs of chosen blocks for RGB pixels in [0, 255], f32 (B, 3, H, W), sides multiple of 32."""

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.taps = tuple(blocks)
        self.stem = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList(InvertedBottleneck(BLOCKS[i]) for i in range(max(blocks) + 1))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return one f32 (B, C_i, H/s_i, W/s_i) per tapped block, in the order of the taps."""
        x = F.relu6(self.stem((pixels - PIXEL_MEAN) / PIXEL_SCALE))
        found: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                found[index] = x
        return [found[index] for index in self.taps]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each tapped block."""
        return tuple(BLOCKS[index].channels_out for index in self.taps)

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load the published state dict (keys ``_conv_stem``, ``_blocks.N._expand_conv``, ...), folding its batch norms."""
        _fold(self.stem.conv, state, "_conv_stem", "_bn0")
        for index, block in enumerate(self.blocks):
            assert isinstance(block, InvertedBottleneck)
            prefix = f"_blocks.{index}."
            if block.expand is not None:
                _fold(block.expand.conv, state, prefix + "_expand_conv", prefix + "_bn0")
            _fold(block.depthwise.conv, state, prefix + "_depthwise_conv", prefix + "_bn1")
            _fold(block.project.conv, state, prefix + "_project_conv", prefix + "_bn2")


def _fold(conv: nn.Conv2d, state: Mapping[str, Tensor], weight: str, norm: str) -> None:
    gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BN_EPS)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(state[f"{weight}.weight"] * gain[:, None, None, None])
        conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)
